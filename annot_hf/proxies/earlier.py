"""What a folder already holds: which run it is of, under which names its model answered, and what came of its questions."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from annot_hf.proxies.job import IDENTITY
from annot_hf.proxies.ledger import Ledger
from annot_hf.proxies.log import LOG, Entry, read_entries


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
