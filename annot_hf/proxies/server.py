"""What the backends that ask a server have in common."""

import email.utils
import importlib
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar

from annot_hf.proxies.backend import Answer, check_address

LARGEST = 10**9  # tokens, or USD, of one answer: more is no report
LONGEST_BODY = 2000  # characters kept of a body that is no answer
SHORTEST = 8  # characters of a key that is taken for one inside other words too
REJECTING = (400, 413, 415, 422)  # what a server says of a question that it will never take
STOPPING = (401, 402, 403, 404)
# somebody in between gave up waiting, and what stands behind may have answered; 408 is LiteLLM's, 520 and 524 Cloudflare's
GAVE_UP = (408, 502, 504, 520, 524)


class Server:
    """A backend that asks a server through a library, one question at a time.

    The library's own retries are off: waiting is the business of `annotate`, which knows of all questions under way.

    Args:
        model: Name of the model on the server.
        base_url: Address of the server; that of whoever makes the library when None.
        key_name: Environment variable that holds the key; `usual_key` by default.
        timeout: Seconds (s) until an answer is given up, from the question to its last byte.
        max_tokens: Most tokens of a reply.
        revision: Revision of the model, for the record; no server can be asked for one.

    Raises:
        ValueError: The library is not installed, the address is none, or there is no key where one is needed.
    """

    needed_library: ClassVar[str]
    usual_key: ClassVar[str]
    needs_key: ClassVar[bool] = False  # at any address: a server of one's own may do without
    batch_size = 1
    max_concurrency = None

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_name: str = "",
        timeout: float = 60.0,
        max_tokens: int = 64,
        revision: str = "",
    ) -> None:
        self.library, self.http = needs(self.needed_library), needs("httpx2")
        check_address(base_url)
        self.key = Key(key_name or self.usual_key, needed=self.needs_key or base_url is None, model=model)
        self.model, self.revision, self.max_tokens, self.timeout = model, revision, max_tokens, timeout
        self.client = self._connect(base_url)

    def _connect(self, base_url: str | None) -> Any:
        """The library's client."""
        raise NotImplementedError


class Key:
    """A key from the environment, which nothing that is written down may hold.

    A short one, such as the "a" or "none" that servers of one's own are given, is left out where it is a word of its own,
    not inside other words.

    Args:
        name: Environment variable.
        needed: Whether there must be one.
        model: Name of the model, which is written down.

    Raises:
        ValueError: There is none, it holds what no key does, or the model is called so; the message has its name only.
    """

    def __init__(self, name: str, *, needed: bool, model: str = "") -> None:
        self.value = os.environ.get(name, "").strip()
        if needed and not self.value:
            raise ValueError(f"The environment has no {name}; set it to your key.")
        if not (self.value.isascii() and self.value.isprintable() and " " not in self.value):
            raise ValueError(
                f"{name} in the environment has a blank, a control character or one that is not ASCII; set it to the key "
                "alone."
            )
        # as it is, or as JSON may spell it: a backslash before a character, or the character's number
        word = "".join(rf"(?:\\?{re.escape(letter)}|\\u(?i:{ord(letter):04x}))" for letter in self.value)
        self._found = re.compile(word if len(self.value) >= SHORTEST else rf"(?<!\w){word}(?!\w)")
        if self.mask(model) != model:
            raise ValueError(
                f"{name} in the environment stands in the name of the model, which is written down; set it to the key alone, "
                "or to another word for a server that wants none."
            )

    def mask(self, text: str) -> str:
        """The text without the key, which some servers repeat, also as JSON spells it."""
        return self._found.sub("[key]", text) if self.value else text

    def mask_answer(self, answer: Answer) -> Answer:
        """The answer without the key, but for `said`."""
        reply = None if answer.reply is None else self.mask(answer.reply)
        return replace(
            answer,
            reply=reply,
            said=None if reply == answer.reply else answer.reply,
            model=self.mask(answer.model),
            revision=self.mask(answer.revision),
        )


def needs(name: str) -> ModuleType:
    """An optional library.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"This backend needs the package {error.name}, which is not installed; pip install 'annot-hf[alm]'."
        ) from error


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None without a readable one."""
    said = headers.get("retry-after")
    milliseconds, seconds = seconds_of(headers.get("retry-after-ms")), seconds_of(said)
    if milliseconds is not None:
        return milliseconds / 1000
    if seconds is not None:
        return seconds
    try:
        return max(email.utils.parsedate_to_datetime(said).timestamp() - (time.time() if now is None else now), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


def seconds_of(said: Any) -> float | None:
    """A number of seconds (s), 0 or more, from its text; None if it is none."""
    try:
        seconds = float(said)
    except (TypeError, ValueError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def count_of(value: Any) -> int | None:
    """A number of tokens as a server reports it; None if it is none, or one that no answer has."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST else None
