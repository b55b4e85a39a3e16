"""What a backend is: it takes questions with audio, and gives replies, or says why there are none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

NO_ADDRESS = "base_url is no address of a server; write it as http://host:port/v1."
KINDS = ("openai", "gemini", "local")
# what servers may not take of a question: each kind can do without it
OMITTABLE = {"openai": ("seed", "system", "max_tokens", "temperature"), "gemini": ("seed", "system", "temperature")}
AT_ONCE = {"local": 1}  # `max_concurrency` of those kinds that have one


@dataclass(frozen=True)
class Ask:
    """One question of one simulated annotator about one item.

    Attributes:
        item: Name of the item.
        annotator: Index of the annotator.
        system: The system message.
        user: The user message.
        audio: The clip as a WAV file, 16 kHz, mono, 16 bit.
        temperature: Sampling temperature.
        seed: Seed of the sampling, 0 to 2^31 - 1; different for every item and annotator.
        key: A name of this question that stays the same when it is asked again, for servers that bill by it.
    """

    item: str
    annotator: int
    system: str
    user: str
    audio: bytes
    temperature: float
    seed: int
    key: str


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        reply: The raw text; None where the server sent no choice.
        model: Which model says it answered; "" where the server does not tell.
        revision: Which revision of it, if the server tells.
        refused: Whether the server marked the reply as refused or filtered.
        cut: Whether the reply ends where it does for want of tokens.
        input_tokens: Tokens read, if the server reports them.
        output_tokens: Tokens written, if the server reports them.
        cost: What the server charged (USD), if it reports that.
        said: The raw text with a key that `reply` leaves out: labels are read off it, and it is written nowhere.
        omitted: What the question went out without (`OMITTABLE`), since the server does not take it.
    """

    reply: str | None
    model: str = ""
    revision: str = ""
    refused: bool = False
    cut: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    said: str | None = None
    omitted: tuple[str, ...] = ()


class Backend(Protocol):
    """Whoever answers.

    Attributes:
        model: Name of the model that is asked.
        revision: Revision that was asked for, or "".
        max_tokens: Most tokens of a reply.
        timeout: Seconds (s) until an answer is given up, from the question to its last byte; None for never.
        batch_size: How many questions `ask` takes at a time.
        max_concurrency: How many calls of `ask` may be under way at a time; None for any number.
    """

    model: str
    revision: str
    max_tokens: int
    timeout: float | None
    batch_size: int
    max_concurrency: int | None

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer a question.

        Raises:
            Busy: Nothing is wrong with the questions; ask again later.
            Rejected: The server does not take a question; asking again is of no use.
            Stopped: No question will be answered, whatever it is.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Busy(Exception):  # noqa: N818 - it says what the server is
    """The server is overloaded, broken or slow: ask again, after `retry_after` seconds if it said so.

    `paid` says that an answer may have been paid for all the same: it was cut off, came too late, or cannot be read;
    `body` is then what there was of it.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, paid: bool = False, body: str | None = None
    ) -> None:
        super().__init__(reason)
        self.retry_after, self.paid, self.body = retry_after, paid, body


class Rejected(Exception):  # noqa: N818
    """The server does not take this question, for instance its audio."""


class Stopped(ValueError):  # noqa: N818
    """No question can be answered: a wrong key, address or model, or no credit; an error for the user."""


def check_address(base_url: str | None) -> None:
    """Whether it is the address of a server, or None.

    Raises:
        ValueError: It is not; the message leaves it out, as it may hold a key.
    """
    if base_url is None:
        return
    try:
        parts = urlsplit(base_url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(NO_ADDRESS)
