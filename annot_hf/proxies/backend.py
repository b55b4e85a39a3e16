"""The interface of a backend: questions with audio in, answers out, or an exception that says why there is none."""

import math
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

NO_ADDRESS = "base_url is not the address of a server; write it as http://host:port/v1."
BACKENDS = ("openai", "gemini", "local")
# parameters that some servers do not support, and that a question can be sent without
OMITTABLE = {"openai": ("seed", "system", "max_tokens", "temperature"), "gemini": ("seed", "system", "temperature")}
# `max_concurrency` of the kinds that have one
AT_ONCE = {"local": 1}


@dataclass(frozen=True)
class Ask:
    """One question of one simulated annotator about one item."""

    item: str
    annotator: int
    system: str
    user: str
    # a WAV file (16 kHz, mono, 16 bit)
    audio: bytes
    temperature: float
    # from 0 to 2^31 - 1
    seed: int
    # the same whenever this question is sent, so that a server can charge it once
    key: str


@dataclass(frozen=True)
class Answer:
    """A reply and where it comes from, as far as the server reports it."""

    # None if the server sent no choice
    reply: str | None
    model: str = ""
    revision: str = ""
    # whether the server marked the reply as refused or filtered
    refused: bool = False
    # whether the reply stopped at the limit of tokens
    cut: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    # USD
    cost: float | None = None
    # the raw text where `reply` has the key masked: labels are read from it, and it is never written
    said: str | None = None
    # parameters that the question was sent without (`OMITTABLE`)
    omitted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prices:
    """What tokens cost (USD per million), where the server does not report the cost of an answer."""

    input: float | None = None
    output: float | None = None

    def __post_init__(self) -> None:
        given = [price for price in (self.input, self.output) if price is not None]
        if len(given) == 1 or any(not 0 <= price < math.inf for price in given):
            raise ValueError(
                f"Prices are {self.input} and {self.output}; give both, USD per million tokens read and written, 0 or more."
            )

    def cost(self, reported: float | None, read: int | None, written: int | None) -> float | None:
        """Cost of an answer (USD): as the server reported it, else by its tokens; None if neither is known."""
        if reported is not None or self.input is None or read is None or written is None:
            return reported
        return (self.input * read + self.output * written) / 1e6


def is_model(model: str, asked: str, others: Container[str]) -> bool:
    """Whether `model` is the one that was asked, a dated version or part of its path, or another name that the user gave."""
    # some servers report no name
    return (
        model in ("", asked)
        or model in others
        or re.fullmatch(rf"{re.escape(asked)}((-preview|-exp|-latest)?(-\d{{2,}})*|@[^/]+)", model) is not None
        or asked.rstrip("/").endswith(f"/{model}")
        or model.rstrip("/").endswith(f"/{asked}")
    )


class Backend(Protocol):
    """A model that answers questions, `batch_size` per call of `ask`; limits that are None do not exist."""

    model: str
    revision: str
    max_tokens: int
    # seconds (s) to wait for a whole answer
    timeout: float | None
    batch_size: int
    # calls of `ask` that may be under way at a time
    max_concurrency: int | None

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """Return one answer per question, or raise `Busy`, `Rejected` or `Stopped`."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class Busy(Exception):  # noqa: N818 - it says what the server is
    """The server is overloaded, broken or slow: ask again, after `retry_after` seconds (s) if that is set.

    `paid`: the attempt may have been charged all the same, as its answer was cut off, late or unreadable (`body`).
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, paid: bool = False, body: str | None = None
    ) -> None:
        super().__init__(reason)
        self.retry_after, self.paid, self.body = retry_after, paid, body


class Rejected(Exception):  # noqa: N818
    """The server does not accept a question, for instance because of its audio; asking again is of no use."""


class Stopped(ValueError):  # noqa: N818
    """No question can be answered, because of a wrong key, address or model, or for lack of credit."""


def check_address(base_url: str | None) -> None:
    """Raise a ValueError unless this is the address of a server, or None; the message leaves it out, as it may hold a key."""
    if base_url is None:
        return
    try:
        parts = urlsplit(base_url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(NO_ADDRESS)
