"""The log of a run of `annotate`: one line of JSON a record, only ever appended to, so that no paid answer is lost.

A record is written in one call before the next thing happens, and ends with a checksum of itself: a line that was cut off
or changed by hand is found out. A little room on the disk is kept in reserve, so that what is under way when the disk is
full still finds its place.

What was asked, what came of it, and what it cost: a few bytes a question, rebuilt from the log when a run goes on.

What a folder already holds: which run it is of, under which names its model answered, and what came of its questions.

From the log to what others read: a vote table, and every reply with its provenance.
"""

import errno
import json
import os
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from annot_hf.data import encoding
from annot_hf.data.questions import Question
from annot_hf.data.synthetic import SYNTHETIC, write_annotations, write_replies
from annot_hf.data.votes import VoteTable
from annot_hf.proxies.plan import MOST

# what a run is: going on with another one in the same folder is refused
IDENTITY = ("corpus_digest", "question", "plan", "model", "revision", "prompts", "parsing", "seed", "max_tokens")

LOG, LOCK, RESERVE = "log.jsonl", "log.lock", "log.reserve"
RESERVED = 1 << 20  # bytes: many times what the questions under way can answer
SYNC_SECONDS = 1.0  # at most so much can be lost when the machine, not only the process, goes down
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MARK = ', "crc": "'


class AnswerLog:
    """The log of one folder, open for appending by this process alone; use it as a context manager.

    Args:
        folder: The folder; it is made if it is not there.

    Attributes:
        full: Whether the disk was full at the last record, which the reserve then took.
        torn: Bytes at the end that were no whole record and were cut off: a record that was being written when the
            machine went down.

    Raises:
        ValueError: Another run has the folder, or it cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be made ({error.strerror}); name another folder.") from None
        self.path = self.folder / LOG
        self._lock = FileLock(self.folder / LOCK, blocking=False)
        self.full, self.torn, self._synced, self._end = False, 0, 0.0, 0

    def __enter__(self) -> Self:
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(
                f"Another run is writing to {self.folder}; wait for it, or name another folder with --out."
            ) from None
        try:
            self.torn = self._mend()
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            self._end = os.fstat(self._file).st_size
            self._keep_reserve()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        self.give_up_reserve()
        self._lock.release()

    def give_up_reserve(self) -> None:
        """Let others have the room that was kept: nothing more is asked."""
        (self.folder / RESERVE).unlink(missing_ok=True)

    def check(self) -> None:
        """Whether what was written is still there under its name: a deleted file takes records that nobody will read.

        Raises:
            OSError: It is not.
        """
        try:
            there, here = os.stat(self.path), os.fstat(self._file)
        except FileNotFoundError:
            raise OSError(errno.ESTALE, "it was deleted or moved meanwhile") from None
        if not os.path.samestat(there, here) or here.st_size != self._end:
            raise OSError(errno.ESTALE, "it was replaced or changed meanwhile")

    def append(self, record: Mapping[str, Any]) -> int:
        """Write one record; gives the byte that it begins at.

        Raises:
            OSError: The disk is full and the reserve is used up; the log then ends with the record before this one. Or the
                log is no longer there as it was written.
        """
        self.check()
        data, start = line_of(record).encode(), self._end
        try:
            self._write(data)
        except OSError as error:
            os.ftruncate(self._file, start)
            if error.errno not in _FULL or self.full:
                raise
            self.full = True
            self.give_up_reserve()
            try:
                self._write(data)
            except OSError:
                os.ftruncate(self._file, start)
                raise
        if time.monotonic() - self._synced > SYNC_SECONDS or self.full:
            os.fsync(self._file)
            self._synced = time.monotonic()
        self._end = start + len(data)
        return start

    def _write(self, data: bytes) -> None:
        _write_all(self._file, data)

    def _keep_reserve(self) -> None:
        """Real bytes, not a hole; without room for them there is none for answers either."""
        path = self.folder / RESERVE
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                _write_all(file, bytes(RESERVED))
            finally:
                os.close(file)
        except OSError as error:
            os.close(self._file)
            path.unlink(missing_ok=True)
            raise ValueError(
                f"{self.folder} has no room for {RESERVED >> 20} MB ({error.strerror}); free some before anything is asked."
            ) from None

    def _mend(self) -> int:
        """Cut off a last line that was not written to its end; keeps it aside in `log.torn` and gives its bytes."""
        if not self.path.is_file():
            return 0
        with self.path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            start, tail = size, b""
            while start and b"\n" not in tail:
                step = min(start, 1 << 16)
                start -= step
                file.seek(start)
                tail = file.read(step) + tail
            torn = tail[tail.rfind(b"\n") + 1 :]
            if not torn:
                return 0
            try:
                record_of(torn.decode())
            except ValueError:
                with (self.folder / "log.torn").open("ab") as aside:
                    aside.write(torn + b"\n")
                file.truncate(size - len(torn))
                return len(torn)
            file.seek(0, os.SEEK_END)  # whole but for its end of line
            file.write(b"\n")
            return 0


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


class Entry(NamedTuple):
    """A record, the byte of the log that it begins at, and its checksum."""

    offset: int
    seal: int
    record: dict[str, Any]


def read_entries(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """Records of a log, one at a time; blank lines, and a last line without its end, which may be being written, are left out.

    Raises:
        ValueError: A line is no record, or was changed since it was written; the message has its number.
    """
    offset = 0
    with open(path, "rb") as lines:
        for number, data in enumerate(lines, 1):
            if not data.endswith(b"\n"):
                return
            line = data.decode(errors="replace").strip()  # what was put back by hand may have spaces around it
            if line:
                try:
                    yield Entry(offset, seal_of(line), record_of(line))
                except ValueError as error:
                    fix = (
                        "restore the log"
                        if number == 1
                        else "restore it, or take it out to have the question asked again, if it was one"
                    )
                    raise ValueError(f"{os.fspath(path)}, line {number}: {error}; {fix}.") from None
            offset += len(data)


def read_log(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The records of `read_entries` alone."""
    return (entry.record for entry in read_entries(path))


def line_of(record: Mapping[str, Any]) -> str:
    """A record as a line with its checksum."""
    body = json.dumps(record, ensure_ascii=True)
    return body[:-1] + _seal(body) + "\n"


def record_of(line: str) -> dict[str, Any]:
    """The record of a line without its end.

    Raises:
        ValueError: It is none, or its checksum is of another one.
    """
    body = line.rpartition(_MARK)[0] + "}"
    if line != body[:-1] + _seal(body):
        raise ValueError("the record was cut off or changed by hand (its checksum does not fit)")
    return json.loads(body)


def seal_of(line: str) -> int:
    """The checksum that a line ends with; 0 if it is no record."""
    try:
        return int(line[-10:-2], 16)
    except ValueError:
        return 0


def _seal(body: str) -> str:
    """What ends a record instead of its brace: the checksum as its last entry."""
    return f'{_MARK}{zlib.crc32(body.encode()):08x}"' + "}"


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


@dataclass
class ModelNames:
    """Under which names the model that is asked may answer.

    Attributes:
        asked: Its name.
        others: Further names that the user said are its own.
    """

    asked: str
    others: set[str] = field(default_factory=set)

    def __call__(self, model: str) -> bool:
        """Whether an answer by a model of this name is one of the model that was asked.

        It may have its name, that of a dated version or a revision of it, or the last part of its path; a server that does
        not tell is believed.
        """
        return (
            model in ("", self.asked, *self.others)
            or re.fullmatch(rf"{re.escape(self.asked)}((-preview|-exp|-latest)?(-\d{{2,}})*|@[^/]+)", model) is not None
            or self.asked.rstrip("/").endswith(f"/{model}")
            or model.rstrip("/").endswith(f"/{self.asked}")
        )


def take_in(
    out: Path, facts: Mapping[str, Any], ledger: Ledger, *, answers_as: str = "", aside: Sequence[str] = ()
) -> ModelNames:
    """Take in, in one reading, what the log of a folder has; a run of something else is refused before that.

    Args:
        out: Folder, which may be new.
        facts: What the run is (`Job.facts`).
        ledger: Takes in what came of the questions.
        answers_as: Another name of the model that the user gives now.
        aside: Entries of `IDENTITY` that are not known.

    Returns:
        The names of the model: what it is asked by, what the user says now, and what they said in earlier runs.

    Raises:
        ValueError: The folder holds another run, its log does not begin with a run, or a record of it was changed or is of
            an item that there is not.
    """
    names = ModelNames(facts["model"], {answers_as} - {""})
    if (out / LOG).is_file():
        _replay(ledger, _checked(out, facts, aside, names), names)
    return names


def _checked(out: Path, facts: Mapping[str, Any], aside: Sequence[str], names: ModelNames) -> Iterator[Entry]:
    """The records of a log once the first is known to be of the same run; `names` gathers what they call the model."""
    for number, entry in enumerate(read_entries(out / LOG)):
        if number == 0:
            _check_first(out, entry.record, facts, aside)
        if entry.record.get("kind") == "run":
            names.others |= {entry.record.get("answers_as", "")} - {""}
        yield entry


def _check_first(out: Path, first: Mapping[str, Any], facts: Mapping[str, Any], aside: Sequence[str]) -> None:
    if first.get("kind") != "run":
        raise ValueError(
            f"{out / LOG} does not begin with the record of a run; restore its first line, or name another folder."
        )
    changed = [name for name in IDENTITY if name not in aside and first.get(name) != facts[name]]
    if changed:
        raise ValueError(
            f"{out} holds a run of another {' and another '.join(changed)}; go on with what it was started with, or name "
            "another folder."
        )


def _replay(ledger: Ledger, entries: Iterable[Entry], accepts: Callable[[str], bool]) -> None:
    """Take in what a log has; a record that is there twice counts once.

    Raises:
        ValueError: A record is of an item, annotator or label that there is not, or none that `annotate` writes.
    """
    shape = ledger.status.shape
    seen, unended = _Seen(shape), np.zeros(shape, np.int16, order="F")
    wrong: list[Entry] = []  # whether a wrong model was the right one, a name in a later record tells
    for entry in entries:
        record = entry.record
        if record.get("kind") == "run":
            continue
        with _named(entry):
            place = ledger.place(record)
            if _tells(record) and not seen.first(place, entry.seal):
                ledger.repeated += 1
            elif record["kind"] == "asked":
                unended[place] += 1
            else:
                unended[place] -= record.get("status") not in (None, "not sent")
                if record.get("status") == "wrong-model":
                    wrong.append(entry)
                else:
                    ledger.take_in(entry.offset, record)
    for entry in wrong:
        with _named(entry):
            ledger.take_in(entry.offset, entry.record, accepted=accepts(entry.record["model"]))
    ledger.cut_off = int(unended.clip(0).sum())


def _tells(record: Mapping[str, Any]) -> bool:
    """Whether a record differs from that of another try; those of earlier versions do not, and each of them counts."""
    return {"asked": "at", "lost": "tries"}.get(record.get("kind"), "kind") in record


@contextmanager
def _named(entry: Entry) -> Iterator[None]:
    """Say where a record is that `annotate` never wrote."""
    try:
        yield
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"The record at byte {entry.offset} of the log is none of annotate ({type(error).__name__}: {error}); restore the "
            "log, or take that line out."
        ) from None


class _Seen:
    """Which records there were: 4 bytes a question for its first two, more only for those with more."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._seals = np.zeros((2, *shape[::-1]), np.uint32)
        self._others: set[tuple[int, int, int]] = set()

    def first(self, place: tuple[int, int], seal: int) -> bool:
        """Whether a record of this question and checksum comes for the first time."""
        for seals in self._seals:
            known = seals[place[::-1]]
            if known == seal:
                return False
            if not known:
                seals[place[::-1]] = seal
                return True
        other = (*place, seal)
        if other in self._others:
            return False
        self._others.add(other)
        return True


REPLIES = pa.schema(
    {
        "item": pa.string(),
        "annotator": pa.string(),
        "status": pa.string(),
        "label": pa.string(),
        "reply": pa.string(),
        "reason": pa.string(),
        "model": pa.string(),
        "revision": pa.string(),
        "instruction": pa.string(),
        "temperature": pa.float64(),
        "seed": pa.int64(),
        "omitted": pa.string(),
        "prompt_sha256": pa.string(),
        "at": pa.string(),
        "seconds": pa.float64(),
        "tries": pa.int64(),
        "input_tokens": pa.int64(),
        "output_tokens": pa.int64(),
        "cost": pa.float64(),
    }
)
_ROWS = 2_000  # replies in memory at a time


def collect(folder: Path, question: Question, ledger: Ledger, facts: Mapping[str, Any]) -> VoteTable | None:
    """Write votes, replies and facts of a folder from its log; the replies alone, and None, while there is no vote.

    Args:
        folder: Folder of the log.
        question: What was asked.
        ledger: State of every question.
        facts: For annotations.json.
    """
    replies = pa.RecordBatchReader.from_batches(REPLIES, _replies(folder / LOG, facts["model"], ledger))
    if not (ledger.status == STATUSES.index("label")).any():
        write_replies(folder, replies)
        return None
    votes = votes_of(question, ledger, facts["model"])
    tokens = {"input_tokens": ledger.input_tokens, "output_tokens": ledger.output_tokens}
    write_annotations(
        folder, votes, replies, dict(facts) | {"statuses": ledger.counts(), "omitted": dict(ledger.omitted), **tokens}
    )
    return votes


def votes_of(question: Question, ledger: Ledger, model: str) -> VoteTable:
    """One vote for each question that was answered by a label; annotators are named after the model and their number."""
    rows, annotators = np.nonzero(ledger.status == STATUSES.index("label"))
    items, place = np.unique(rows, return_inverse=True)
    used = np.unique(annotators)
    return VoteTable.from_columns(
        question,
        item=encoding.dictionary(place, [ledger.items[row] for row in items]),
        value=encoding.dictionary(ledger.label[rows, annotators], question.labels),
        annotator=encoding.dictionary(np.searchsorted(used, annotators), [annotator_name(model, one) for one in used]),
        source=SYNTHETIC,
        where="replies",
    )


def annotator_name(model: str, index: int) -> str:
    """Name of a simulated annotator in a vote table."""
    return f"{model}#{index}"


def _replies(path: Path, model: str, ledger: Ledger) -> Iterator[pa.RecordBatch]:
    """What came of each question in the end, in the order of the log, a block at a time."""
    rows: list[dict[str, Any]] = []
    for offset, _, record in read_entries(path):
        if record["kind"] not in ("answer", "closed"):
            continue
        place = ledger.row[record["item"]], record["annotator"]
        if ledger.by[place] != offset or ledger.status[place] < 0:
            continue  # something else came of it, or it is asked again
        status = STATUSES[ledger.status[place]]
        record = record | {"status": status, "label": record["label"] if status == "label" else None}
        row = {name: _text(record.get(name)) for name in REPLIES.names}
        row |= {"annotator": annotator_name(model, record["annotator"]), "model": row["model"] or model}
        rows.append(row)
        if len(rows) == _ROWS:
            yield pa.RecordBatch.from_pylist(rows, REPLIES)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, REPLIES)


def _text(value: Any) -> Any:
    """A value whose text, if it is one, is Unicode: half of a surrogate pair, which JSON can hold and Arrow cannot, is `?`."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
