"""What was asked, what came of it, and what it cost: a few bytes a question, rebuilt from the log when a run goes on."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from annot_hf.proxies.plan import MOST

# What may come of a question. Only "label" is a vote. After the first six, it is asked again when the run goes on: a clip
# that could not be read here was never "sent", another model answered, or nobody did.
STATUSES = ("label", "refusal", "off-list", "echo", "empty", "rejected", "not sent", "wrong-model", "failed")
ANSWERED, SETTLED = STATUSES[:5], STATUSES[:6]
_OPEN, _ASKED = -1, -2
_NO_ANSWER, _LATER, _AT_ONCE = 1, 2, 3  # of an answer: whether its model was known to be the right one


@dataclass(frozen=True)
class Prices:
    """What tokens cost (USD per million), where the server does not report what an answer cost.

    Raises:
        ValueError: A price is negative, or one is given without the other.
    """

    input: float | None = None
    output: float | None = None

    def __post_init__(self) -> None:
        given = [price for price in (self.input, self.output) if price is not None]
        if len(given) == 1 or any(not 0 <= price < np.inf for price in given):
            raise ValueError(
                f"Prices are {self.input} and {self.output}; give both, USD per million tokens read and written, 0 or more."
            )

    def of(self, answer: Mapping[str, Any]) -> float | None:
        """What an answer in the log cost (USD): as the server reported, else by its tokens, else unknown."""
        read, written = answer.get("input_tokens"), answer.get("output_tokens")
        if answer.get("cost") is not None or self.input is None or read is None or written is None:
            return answer.get("cost")
        return (self.input * read + self.output * written) / 1e6


@dataclass
class Ledger:
    """State of every question, and sums.

    Args:
        items: Names of all items of the corpus `(N,)`.
        human: Fractions of the human votes `(N, K)`; a zero row where nobody voted.
        prices: What tokens cost, for answers whose cost the server did not report.

    Attributes:
        status: Index into `STATUSES` `(N, A)`; -1 where a question is open, -2 where it is under way.
        label: Index of the label `(N, A)`; -1 where there is none.
        by: Where in the log the record begins that says so `(N, A)`; 0 where there is none.
        spent: What answers cost so far (USD), as far as it is known.
        dearest: The dearest answer (USD); None while no cost is known.
        unpriced: Answers whose cost is not known.
        lost: Tries whose answer was cut off, came too late or was unreadable, and may have been paid for.
        repeated: Records that were there before, word for word, which count nowhere.
        spare: Answers to questions that had one, which were paid for and are no votes.
        cut: Items whose transcript was cut `(N,)`.
        omitted: Answers to questions that went out without something that the server does not take, by its name.
        cut_off: How often a question was under way when an earlier run was killed.
        answers: Answers that were paid for.
        seconds: What they took (s).
        input_tokens: Tokens read for them, as far as the server reports them.
        output_tokens: Tokens written.
    """

    items: Sequence[str]
    human: np.ndarray
    prices: Prices = field(default_factory=Prices)
    status: np.ndarray = field(init=False)
    label: np.ndarray = field(init=False)
    by: np.ndarray = field(init=False)
    cut: np.ndarray = field(init=False)
    omitted: Counter[str] = field(default_factory=Counter)
    spent: float = 0.0
    dearest: float | None = None
    unpriced: int = 0
    lost: int = 0
    repeated: int = 0
    spare: int = 0
    cut_off: int = 0
    answers: int = 0
    seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    _agreed: float = 0.0
    _compared: int = 0

    def __post_init__(self) -> None:
        shape = len(self.items), MOST
        self.status = np.full(shape, _OPEN, np.int8)
        self.label = np.full(shape, -1, np.int16)
        # by columns: annotators that nobody asked take no memory
        self.by, self._rank = np.zeros(shape, np.int64, order="F"), np.zeros(shape, np.int8, order="F")
        self.row = {name: row for row, name in enumerate(self.items)}
        self.cut = np.zeros(len(self.items), dtype=bool)
        self._voted = self.human.any(1)
        self._rejected: dict[tuple[int, int], str] = {}

    def place(self, record: Mapping[str, Any]) -> tuple[int, int]:
        """Row and annotator that a record of the log is about.

        Raises:
            ValueError: There is no such item or annotator.
        """
        row = self.row.get(record["item"])
        if row is None or not 0 <= record["annotator"] < MOST:
            raise ValueError(
                f"The log has a record of item {record['item']!r} and annotator {record['annotator']}, which the corpus "
                "or the plan does not know; name another folder."
            )
        return row, record["annotator"]

    def ask(self, row: int, annotator: int) -> None:
        """A question is under way."""
        self.status[row, annotator] = _ASKED

    def take_in(self, offset: int, record: Mapping[str, Any], *, accepted: bool = False) -> None:
        """Take in a record of the log: what it cost, and whether it says what came of its question in the end.

        That is the only place where this is decided, whatever the order of the records. The first answer of the right model
        comes before the first of a model that was found to be the right one later, and both before whatever else there is,
        of which the last counts.

        Args:
            offset: Where in the log it begins.
            record: A lost answer, an answer, or a question that was closed without one.
            accepted: Whether the model of a "wrong-model" answer is the one that was asked after all.

        Raises:
            ValueError: The record is of an item, annotator or label that there is not.
            KeyError, TypeError, IndexError: It is none that `annotate` writes.
        """
        place = self.place(record)
        if record["kind"] == "lost":
            self.lost += 1
            return
        status, rank = record["status"], _NO_ANSWER
        if status == "wrong-model" and accepted:
            status, rank = record["would_be"], _LATER
        elif status in ANSWERED:
            rank = _AT_ONCE
        if record["kind"] not in ("answer", "closed") or status not in STATUSES:
            raise KeyError(f"{record['kind']}, {status}")
        label = self._label(record) if status == "label" else -1
        self._add(place, record)
        before = self._rank[place]
        self.spare += bool(before > _NO_ANSWER and rank > _NO_ANSWER)
        later = offset > self.by[place]
        if rank < before or (rank == before and later != (rank == _NO_ANSWER)):
            return
        self._count(place, -1)
        self._rank[place], self.by[place] = rank, offset
        self.status[place], self.label[place] = STATUSES.index(status), label
        self._rejected.pop(place, None)
        if status == "rejected":
            self._rejected[place] = sys.intern(record.get("reason", ""))
        self._count(place, 1)

    def _label(self, record: Mapping[str, Any]) -> int:
        label = record["label_index"]
        if not isinstance(label, int) or not 0 <= label < self.human.shape[1]:
            raise ValueError(
                f"The log has an answer with label {label} about item {record['item']!r}, and the question has "
                f"{self.human.shape[1]} labels; restore the log, or take that line out."
            )
        return label

    def _count(self, place: tuple[int, int], sign: int) -> None:
        """Add a vote to the agreement with people, or take it back."""
        if self.label[place] >= 0 and self._voted[place[0]]:
            self._agreed += sign * float(self.human[place[0], self.label[place]])
            self._compared += sign

    def _add(self, place: tuple[int, int], record: Mapping[str, Any]) -> None:
        """Add what a record says to the sums."""
        self.cut[place[0]] |= record.get("transcript_cut", False)
        self.input_tokens += record.get("input_tokens") or 0
        self.output_tokens += record.get("output_tokens") or 0
        if record["kind"] == "answer":
            self.answers += 1
            self.omitted.update(filter(None, str(record.get("omitted") or "").split(", ")))
            self.seconds += record["seconds"]
            cost = self.prices.of(record)
            if cost is None:
                self.unpriced += 1
            else:
                self.spent += cost
                self.dearest = max(cost, self.dearest or 0.0)

    def reopen_rejected(self) -> None:
        """Have the questions asked again that the server rejected."""
        self.status[self.status == STATUSES.index("rejected")] = _OPEN
        self._rejected.clear()

    def open(self, rows: np.ndarray, annotators: int) -> np.ndarray:
        """Questions still to be asked `(Q, 2)`: row and annotator, item by item.

        Those that failed, and those whose clip could not be read, come last: they keep no other from being asked.
        """
        status = self.status[rows, :annotators]
        settled = np.isin(status, range(len(SETTLED)))
        places = np.argwhere(~settled)
        again = status[places[:, 0], places[:, 1]]
        last = (again == STATUSES.index("failed")) + 2 * (again == STATUSES.index("not sent"))
        places = places[np.argsort(last, kind="stable")]
        return np.stack([rows[places[:, 0]], places[:, 1]], axis=1)

    def counts(self, rows: np.ndarray | None = None, annotators: int = MOST) -> dict[str, int]:
        """Questions by what came of them, and those not asked yet."""
        status = self.status[:, :annotators] if rows is None else self.status[rows, :annotators]
        counts = {name: int((status == code).sum()) for code, name in enumerate(STATUSES)}
        return counts if rows is None else counts | {"not asked": int((status < 0).sum())}

    @property
    def reasons(self) -> Counter[str]:
        """How many questions the server rejected in the end, by what it said."""
        return Counter(self._rejected.values())

    @property
    def agreement(self) -> float | None:
        """Mean share of an item's human votes that a synthetic vote agrees with; None while there is nothing to compare."""
        return self._agreed / self._compared if self._compared else None
