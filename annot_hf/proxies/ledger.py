"""What was asked, what came of it, and what it cost: a few bytes a question, rebuilt from the log when a run goes on."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from annot_hf.proxies.plan import MOST

# What may come of a question. Only "label" is a vote. After the first six, it is asked again when the run goes on: a clip
# that could not be read here was never "sent", another model answered, or nobody did.
STATUSES = ("label", "refusal", "off-list", "echo", "empty", "rejected", "not sent", "wrong-model", "failed")
SETTLED = STATUSES[:6]
_OPEN, _ASKED = -1, -2


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
        spent: What answers cost so far (USD), as far as it is known.
        dearest: The dearest answer (USD); None while no cost is known.
        unpriced: Answers whose cost is not known.
        lost: Tries whose answer was cut off, came too late or was unreadable, and may have been paid for.
        repeated: Records of a question that had come to an end before, which count nowhere.
        reasons: How often the server rejected a question, by what it said.
        cut: Items whose transcript was cut `(N,)`.
        cut_off: Questions that were under way when earlier runs were killed.
        answers: Answers that count.
        seconds: What they took (s).
        input_tokens: Tokens read for them, as far as the server reports them.
        output_tokens: Tokens written.
    """

    items: Sequence[str]
    human: np.ndarray
    prices: Prices = field(default_factory=Prices)
    status: np.ndarray = field(init=False)
    label: np.ndarray = field(init=False)
    cut: np.ndarray = field(init=False)
    spent: float = 0.0
    dearest: float | None = None
    unpriced: int = 0
    lost: int = 0
    repeated: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    cut_off: int = 0
    answers: int = 0
    seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    _agreed: float = 0.0
    _compared: int = 0

    def __post_init__(self) -> None:
        self.status = np.full((len(self.items), MOST), _OPEN, np.int8)
        self.label = np.full((len(self.items), MOST), -1, np.int16)
        self.row = {name: row for row, name in enumerate(self.items)}
        self.cut = np.zeros(len(self.items), dtype=bool)
        self._voted = self.human.any(1)

    def replay(self, records: Iterable[Mapping[str, Any]], accepts: Callable[[str], bool]) -> None:
        """Take in the records of a log.

        Args:
            records: From `read_log`.
            accepts: Says of a model's name whether it is the one that is asked; it may know only when the last record is read.

        Raises:
            ValueError: A record is of an item or annotator that there is not.
        """
        # what a wrong model's answer is in the end, a name in a later record tells: it waits, with all that came after it
        waiting: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
        for record in records:
            if record["kind"] == "run":
                continue
            place = self._place(record)
            if place in waiting or record.get("status") == "wrong-model":
                waiting.setdefault(place, []).append(record)
            else:
                self._take_in(place, record, accepts)
        for place, later in waiting.items():
            for record in later:
                self._take_in(place, record, accepts)
        asked = self.status == _ASKED
        self.cut_off = int(self.cut_off + asked.sum())
        self.status[asked] = _OPEN

    def _place(self, record: Mapping[str, Any]) -> tuple[int, int]:
        """Row and annotator that a record of the log is about."""
        row = self.row.get(record["item"])
        if row is None or not 0 <= record["annotator"] < MOST:
            raise ValueError(
                f"The log has a record of item {record['item']!r} and annotator {record['annotator']}, which the corpus "
                "or the plan does not know; name another folder."
            )
        return row, record["annotator"]

    def _take_in(self, place: tuple[int, int], record: Mapping[str, Any], accepts: Callable[[str], bool]) -> None:
        if record["kind"] == "asked":
            self.cut_off += self.status[place] == _ASKED  # by the run before
            self.status[place] = _ASKED
        elif record["kind"] == "lost":
            self.lost += 1
        elif 0 <= self.status[place] < len(SETTLED):
            self.repeated += 1
        else:
            status = record["status"]
            if status == "wrong-model" and accepts(record["model"]):
                status = record["would_be"]
            self.settle(*place, status, record.get("label_index", -1), record)

    def ask(self, row: int, annotator: int) -> None:
        """A question is under way."""
        self.status[row, annotator] = _ASKED

    def settle(self, row: int, annotator: int, status: str, label: int, record: Mapping[str, Any]) -> None:
        """A question has come to an end, for good or for now."""
        self.status[row, annotator] = STATUSES.index(status)
        self.label[row, annotator] = label if status == "label" else -1
        if status == "label" and self._voted[row]:
            self._agreed += float(self.human[row, label])
            self._compared += 1
        self.cut[row] |= record.get("transcript_cut", False)
        self.input_tokens += record.get("input_tokens") or 0
        self.output_tokens += record.get("output_tokens") or 0
        if status == "rejected":
            self.reasons[record.get("reason", "")] += 1
        if record["kind"] == "answer":
            self.answers += 1
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
        self.reasons.clear()

    def open(self, rows: np.ndarray, annotators: int) -> np.ndarray:
        """Questions still to be asked `(Q, 2)`: row and annotator, item by item."""
        settled = np.isin(self.status[rows, :annotators], range(len(SETTLED)))
        places = np.argwhere(~settled)
        return np.stack([rows[places[:, 0]], places[:, 1]], axis=1)

    def counts(self, rows: np.ndarray | None = None, annotators: int = MOST) -> dict[str, int]:
        """Questions by what came of them, and those not asked yet."""
        status = self.status[:, :annotators] if rows is None else self.status[rows, :annotators]
        counts = {name: int((status == code).sum()) for code, name in enumerate(STATUSES)}
        return counts if rows is None else counts | {"not asked": int((status < 0).sum())}

    @property
    def agreement(self) -> float | None:
        """Mean share of an item's human votes that a synthetic vote agrees with; None while there is nothing to compare."""
        return self._agreed / self._compared if self._compared else None
