"""What the backends that ask a server have in common."""

import base64
import email.utils
import importlib
import math
import os
import re
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from annot_hf.data.yaml_text import printable
from annot_hf.proxies.backend import (
    NO_ADDRESS,
    OMITTABLE,
    Answer,
    Ask,
    Busy,
    Rejected,
    Stopped,
    check_address,
)

LARGEST = 10**9  # tokens, or USD, of one answer: more is no report
LONGEST_BODY = 2000  # characters kept of a body that is no answer
LONGEST_SAID = 300  # characters shown of what a server says
LONGEST_RESPONSE = 4 << 20  # bytes of a response, unpacked: many times what a long thought takes
SHORTEST = 8  # characters of a key that is taken for one inside other words too
REJECTING = (400, 413, 415, 422)  # what a server says of a question that it will never take
STOPPING = (401, 402, 403, 404)
# somebody in between gave up waiting, and what stands behind may have answered; 408 is LiteLLM's, 520 and 524 Cloudflare's
GAVE_UP = (408, 502, 504, 520, 524)


# how a server names what it does not take, and how it says so, near to each other
_NAMES = {
    "seed": r"\bseed\b",
    "system": r"\bsystem\b|\broles?\b|\bdeveloper instruction",
    "max_tokens": r"\bmax_tokens\b",
    "temperature": r"\btemperature\b",
}
_NOT = (
    r"n['’]t\b|\b(?:not|no longer|un(?:supported|known|recogni[sz]ed|expected)|cannot|invalid|extra|forbidden|only|must|"
    r"should|instead|deprecated|disabled|remove|omit|reject(?:s|ed)?)\b"
)


def refused_parts(said: str) -> list[str]:
    """What of a question an error of a server says that it does not take, in the order that it says so.

    Example:
        >>> refused_parts("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        ['max_tokens']
        >>> refused_parts("The audio is longer than 30 seconds.")
        []
    """
    found = {}
    for name, words in _NAMES.items():
        hit = re.search(rf"(?P<a>{words}).{{0,80}}?(?:{_NOT})|(?:{_NOT}).{{0,80}}?(?P<b>{words})", said, re.IGNORECASE)
        if hit:
            found[name] = hit.start("a" if hit["a"] else "b")
    return sorted(found, key=found.get)


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
        omit: What is left out of every question (`backend.OMITTABLE`).

    Attributes:
        omitted: What is left out: that, and what the server was found not to take.

    Raises:
        ValueError: The library is not installed, the address is none, or there is no key where one is needed.
    """

    kind: ClassVar[str]
    needed_library: ClassVar[str]
    usual_key: ClassVar[str]
    usual_address: ClassVar[str]  # environment variable that the library takes the address from
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
        omit: Sequence[str] = (),
    ) -> None:
        self.library, self.http = needs(self.needed_library), needs("httpx2")
        needed, base_url = self.needs_key or base_url is None, base_url or os.environ.get(self.usual_address) or None
        check_address(base_url)
        self.key = Key(key_name or self.usual_key, needed=needed, model=model, base_url=base_url)
        self.model, self.revision, self.max_tokens, self.timeout = model, revision, max_tokens, timeout
        self.omitted, self._needed = set(omit), set[str]()
        self._origin: tuple[Any, ...] | None = None
        try:
            self.web = self._web(base_url)
            self.client = self._connect(_without_login(base_url))
        except self.http.InvalidURL:
            raise ValueError(NO_ADDRESS) from None

    def _connect(self, base_url: str | None) -> Any:
        """The library's client, on top of `self.web`."""
        raise NotImplementedError

    def _web(self, base_url: str | None) -> Any:
        """The HTTP client: it asks no server but the first, and takes no more from it than it can hold."""
        most, http = LONGEST_RESPONSE, self.http

        class Bounded(http.AsyncByteStream):
            def __init__(self, stream: Any, packed: bool) -> None:
                self.stream, self.unpack = stream, zlib.decompressobj(47).decompress if packed else None

            async def __aiter__(self) -> AsyncIterator[bytes]:
                size = 0
                async for part in self.stream:
                    part = self.unpack(part, most + 1) if self.unpack else part
                    size += len(part)
                    if size > most:
                        raise Busy(f"the response is longer than {most >> 20} MB", paid=True)
                    yield part

            async def aclose(self) -> None:
                await self.stream.aclose()

        async def stay(request: Any) -> None:
            origin = request.url.scheme, request.url.host, request.url.port
            self._origin = self._origin or origin
            if origin != self._origin:
                other = self.said(f"{request.url.scheme}://{request.url.netloc.decode('ascii')}")
                raise Stopped(
                    f"The server passes questions on to {other}, which is not the one that was named; name that one with "
                    "--base-url if it may have the clips."
                )

        async def bound(response: Any) -> None:
            packing = response.headers.pop("content-encoding", "").strip().lower() or "identity"
            if packing not in ("identity", "gzip", "deflate"):
                raise Busy(f"the response is packed as {self.said(packing)}, which was not asked for", paid=True)
            response.stream = Bounded(response.stream, packing != "identity")

        return http.AsyncClient(
            auth=_login(base_url),
            timeout=self.timeout,
            headers={"accept-encoding": "identity"},
            limits=http.Limits(max_connections=None, max_keepalive_connections=100),
            follow_redirects=True,
            event_hooks={"request": [stay], "response": [bound]},
        )

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """See `Backend.ask`; what the server says that it does not take is left out, once, and for good if that helps."""
        (ask,) = asks
        omit = set(self.omitted)
        while True:
            try:
                answer = self.key.mask_answer(await self._answer(ask, omit))
            except Rejected as error:
                named = [name for name in refused_parts(str(error)) if name in OMITTABLE[self.kind]]
                new = [name for name in named if name not in omit | self._needed]
                if not new:
                    self._needed |= (omit - self.omitted) & set(named)  # it is named still: that was not what is wrong
                    raise
                omit.add(new[0])
            else:
                self.omitted |= omit
                return [replace(answer, omitted=tuple(sorted(omit)))]

    async def _answer(self, ask: Ask, omit: Set[str]) -> Answer:
        """The answer to a question that goes out without what is in `omit`; the key may stand in it."""
        raise NotImplementedError

    def said(self, text: str) -> str:
        """What a server says, as it may be shown: without the key and what a terminal would obey, and not for ever."""
        return printable(self.key.mask(text)[:LONGEST_SAID])

    async def close(self) -> None:
        """See `Backend.close`."""
        await self.web.aclose()


def _login(base_url: str | None) -> tuple[str, str] | None:
    """Name and password in an address, which no library is told as part of it: what it logs would have them."""
    parts = urlsplit(base_url or "")
    return (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None


def _without_login(base_url: str | None) -> str | None:
    if base_url is None:
        return None
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _secrets_of(base_url: str | None) -> list[str]:
    """What an address may hold that is nobody's business: a password, or a name without one, and what a query gives."""
    parts, login = urlsplit(base_url or ""), _login(base_url)
    secrets = [value for _, value in parse_qsl(parts.query) if len(value) >= SHORTEST]
    if login is not None:
        secrets += [login[1] or login[0], parts.password or parts.username or ""]
        secrets.append(base64.b64encode(":".join(login).encode()).decode())
    return secrets


class Key:
    """A key from the environment, and a password in the address, which nothing that is written down may hold.

    A short one, such as the "a" or "none" that servers of one's own are given, is left out where it is a word of its own,
    not inside other words.

    Args:
        name: Environment variable.
        needed: Whether there must be one.
        model: Name of the model, which is written down.
        base_url: Address of the server.

    Raises:
        ValueError: There is none, it holds what no key does, or the model is called so; the message has its name only.
    """

    def __init__(self, name: str, *, needed: bool, model: str = "", base_url: str | None = None) -> None:
        self.value = os.environ.get(name, "").strip()
        if needed and not self.value:
            # a key that was given in place of its name is not shown
            shown = name if re.fullmatch("[A-Z][A-Z0-9_]*", name) else "variable of the name that key_env gives"
            raise ValueError(f"The environment has no {shown}; set it to your key.")
        if not (self.value.isascii() and self.value.isprintable() and " " not in self.value):
            raise ValueError(
                f"{name} in the environment has a blank, a control character or one that is not ASCII; set it to the key "
                "alone."
            )
        secrets = sorted({self.value, *_secrets_of(base_url)} - {""}, key=len, reverse=True)
        self._found = [re.compile(_spelt(one)) for one in secrets]
        if self.mask(model) != model:
            raise ValueError(
                f"{name} in the environment{' or the password in base_url' if len(secrets) > 1 else ''} stands in the name of "
                "the model, which is written down; set it to the key alone, or to another word for a server that wants none."
            )

    def mask(self, text: str) -> str:
        """The text without the key, which some servers repeat, also as JSON or an address spells it."""
        for found in self._found:
            text = found.sub("[key]", text)
        return text

    def mask_answer(self, answer: Answer) -> Answer:
        """The answer without the key, but for `said`."""
        reply = None if answer.reply is None else self.mask(answer.reply)
        return replace(
            answer,
            reply=reply,
            said=None if reply == answer.reply else answer.reply,
            model=self.mask(answer.model)[:LONGEST_SAID],
            revision=self.mask(answer.revision)[:LONGEST_SAID],
        )


def _spelt(secret: str) -> str:
    """A pattern of a secret as it is, or as JSON or an address may spell it: a backslash before a character, or its number."""
    word = "".join(
        rf"(?:\\?{re.escape(letter)}|\\u(?i:{ord(letter):04x})|%(?i:{ord(letter):02x}))" for letter in secret
    )
    return word if len(secret) >= SHORTEST else rf"(?<!\w){word}(?!\w)"


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
