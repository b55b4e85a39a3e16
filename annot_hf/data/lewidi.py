"""`LeWiDi`: what the corpora of the shared tasks on learning with disagreements have in common, one JSON file a split.

Items are keyed by a number that starts again in each split. Those of 2023 hold raters and answers as two texts with commas,
those of 2025 an object of answers by rater. Votes are read from the answers, and the file's own soft labels only compared.
"""

import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import pandas as pd

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.encoding import json_entries
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

# The test file of a phase in which its answers were withheld ends in `_test_clear`.
UPSTREAM_SPLITS = {"train": "train", "dev": "validation", "test": "test", "test_clear": "test"}
# Upstream rounds soft labels to two decimals at the coarsest.
ROUNDED = 0.0051
EXPIRED = "DATA_EXPIRED"


class LeWiDi(VoteCorpus):
    """Reader of the corpus of a shared task whose files are in the root or one folder below it.

    Attributes:
        corpora: Questions of each corpus, by its name in the files; every answer is a vote on each of them. The shared
            task scores those that are categories.
    """

    corpora: ClassVar[Mapping[str, tuple[Question, ...]]] = {}

    def __init__(self, root: str | os.PathLike) -> None:
        super().__init__(root)
        form = re.compile(
            rf"({'|'.join(map(re.escape, self.corpora))})_({'|'.join(UPSTREAM_SPLITS)})\.json", re.IGNORECASE
        )
        spelt = {name.lower(): name for name in self.corpora}
        self._files: dict[str, str] = {}
        found: dict[str, dict[str, str]] = {}
        for path in sorted([*self.root.glob("*.json"), *self.root.glob("*/*.json")]):
            if match := form.fullmatch(path.name):
                files = found.setdefault(spelt[match[1].lower()], {})
                files.setdefault(match[2].lower(), path.relative_to(self.root).as_posix())
        if not found:
            self.label_file(*(f"{name}_train.json" for name in self.corpora))
        if len(found) > 1:
            raise ValueError(
                f"{self.root} holds {' and '.join(found)}, whose raters and questions differ; pass the folder of one."
            )
        [(self.corpus, self._files)] = found.items()
        self.name = f"{type(self).name}_{re.sub(r'[^a-z0-9]', '', self.corpus.lower())}"
        self.questions = self.corpora[self.corpus]
        self.default_questions = (self.questions[0].name,)

    def votes_of(self, question: Question, answer: str) -> tuple[str | float | None, ...]:
        """The votes on a question that one answer stands for; none if it is outside the question."""
        raise NotImplementedError(f"{type(self).__name__} must define votes_of.")

    def text_of(self, parts: Mapping[str, str]) -> str:
        """A text of named parts, one a line; truncation removes the last lines."""
        return "\n".join(f"{name}: {said}" for name, said in parts.items())

    def parts_of(self, text: Any) -> Mapping[str, str] | str:
        """The named parts of a text, or the text, where it has none; a ValueError if it is not in upstream's form."""
        return text

    def read_items(self) -> pd.DataFrame:
        """One row per item, called by split and number, in upstream's split; `text_*` and `info_*` are its parts."""
        rows = []
        for path, split, number, entry in self._entries:
            try:
                parts = self.parts_of(entry.get("text"))
            except (ValueError, RecursionError) as error:
                _refuse(path, number, "text", entry["text"], f"must be JSON ({error})")
            about = _flat_facts("info", entry.get("other_info"))
            if isinstance(parts, Mapping) and all(isinstance(said, str) for said in parts.values()):
                about |= _flat_facts("text", parts)
                parts = self.text_of(parts)
            if not isinstance(parts, str):
                _refuse(path, number, "text", entry.get("text"), "must be a text, or texts by name")
            about = {name: said for name, said in about.items() if isinstance(said, str)}
            rows.append(
                {"item": f"{split}-{number}", "text": parts, "split": UPSTREAM_SPLITS[split], "lang": entry.get("lang")}
                | about
            )
        return pd.DataFrame(rows)

    def read_votes(self) -> VoteTable:
        """All answers as votes of named raters, on each question of the corpus."""
        answers = self._answers
        tables, again = [], answers.duplicated(["item", "annotator"])
        self.note("answers of a rater who stands twice at an item, kept", list(answers["item"][again]))
        for question in self.questions:
            votes = [self.votes_of(question, answer) for answer in answers["answer"]]
            given = np.array([len(one) for one in votes])
            outside = answers[given == 0]
            self.note(
                f"answers outside {question.name}, left out",
                list(outside["item"] + ": " + outside["answer"].map(ascii)),
                votes=len(outside),
            )
            rows = answers.loc[answers.index.repeat(given)]
            value = [one for several in votes for one in several]
            if value:
                columns = {"item": rows["item"].to_numpy(), "annotator": rows["annotator"].to_numpy(), "value": value}
                tables.append(VoteTable.from_columns(question, **columns, duplicates="keep", where=self.name))
        if not tables:
            raise ValueError(
                f"{self.name}: no item has answers; put a file with answers beside {', '.join(self._files.values())}."
            )
        if len(tables) > 1:
            self.note("answers that are a vote on several questions", len(answers), expected=True)
        votes = VoteTable.concat(tables)
        self._compare_stated_labels(votes)
        return votes

    @cached_property
    def raters(self) -> pd.DataFrame:
        """Who the raters are: `annotator` and what the metadata file says of them, empty where unknown or expired."""
        path = self.label_file(
            *(f"{Path(file).parent.as_posix()}/{self.corpus}_annotators_meta.json" for file in self._files.values())
        )
        rows = []
        for number, facts in json_entries(path):
            named = f"Ann{number}" if number.isdigit() else number.strip()
            said = {
                name.strip().lower(): "" if value in (None, EXPIRED) else str(value) for name, value in facts.items()
            }
            if any(row["annotator"] == named for row in rows):
                _refuse(path, number, "its number", number, "must be listed once")
            rows.append({"annotator": named} | said)
        return pd.DataFrame(rows).fillna("")

    @cached_property
    def _entries(self) -> list[tuple[Path, str, str, dict[str, Any]]]:
        """File, upstream's split, number and content of each item."""
        answered = [split for split in ("train", "dev", "test") if split in self._files]
        self.note(
            "label files that are not there",
            [f"{self.corpus}_{split}.json" for split in ("train", "dev", "test") if split not in self._files],
        )
        if "test" not in answered and "test_clear" in self._files:
            answered.append("test_clear")
        found = []
        for split in answered:
            path, seen = self.label_file(self._files[split]), set()
            for number, entry in json_entries(path):
                if number in seen:
                    _refuse(path, number, "its number", number, "must be listed once")
                seen.add(number)
                stated = entry.get("split", split)
                if stated != split.removesuffix("_clear"):
                    _refuse(
                        path,
                        number,
                        "split",
                        stated,
                        f"must be {split.removesuffix('_clear')!r}, as in the file's name",
                    )
                found.append((path, split.removesuffix("_clear"), number, entry))
        return found

    @cached_property
    def _answers(self) -> pd.DataFrame:
        """Columns item, annotator and answer, one row per answer."""
        rows, withheld, miscounted, others, twice = [], [], [], [], []
        for path, split, number, entry in self._entries:
            pairs, item = list(_pairs(path, number, entry)), f"{split}-{number}"
            if not any(answer for _, answer in pairs):
                withheld.append(item)
                continue
            if isinstance(entry["annotations"], Mapping):
                named = [name.strip() for name in str(entry.get("annotators", "")).split(",") if name.strip()]
                others += [item] if set(named) != {rater for rater, _ in pairs} else []
                twice += [item] if len(set(named)) < len(named) else []
            told = _plain_label(str(entry.get("number of annotations", len(pairs))))
            miscounted += [f"{item}: {told}, and {len(pairs)} answers"] if told != str(len(pairs)) else []
            for rater, answer in pairs:
                if not rater:
                    _refuse(path, number, "annotators", entry.get("annotators"), "must name each rater")
                rows.append((item, rater, answer))
        self.note("items whose answers are withheld", withheld)
        self.note("items whose number of annotations is not that of their answers, which count", miscounted)
        self.note("items whose annotators are not those who answer, who count", others)
        # As in the published files.
        self.note("items whose annotators name a rater twice, who has one answer", twice, expected=True)
        return pd.DataFrame(rows, columns=["item", "annotator", "answer"], dtype=object)

    def _compare_stated_labels(self, votes: VoteTable) -> None:
        """Note the items whose soft label is not the share of their votes, beyond rounding, or hard label not the largest."""
        differs: dict[str, None] = {}
        others, ties = [], []
        for asked in self.questions:
            if asked.is_scale:
                continue
            counts = dict(zip(votes.items, votes.counts(asked.name), strict=True))
            for _, split, number, entry in self._entries:
                item, stated, hard = f"{split}-{number}", entry.get("soft_label"), entry.get("hard_label")
                if item in counts and isinstance(hard, str) and hard.strip():
                    wins = counts[item] == counts[item].max()
                    first, *further = np.array(self.codes_of(asked))[wins]
                    if (hard := _plain_label(hard)) != first:
                        (ties if hard in further else others).append(item)
                stated = self.shares_of(asked, stated) if isinstance(stated, Mapping) else None
                if item not in counts or not isinstance(stated, Mapping):
                    continue
                named = {_plain_label(label): pd.to_numeric(said, errors="coerce") for label, said in stated.items()}
                told = np.array([named.get(code, 0.0) for code in self.codes_of(asked)], dtype=np.float64)
                # Not "above", because a share that is no number is not the share of the votes.
                if not np.isnan(told).all() and not abs(counts[item] / counts[item].sum() - told).max() <= ROUNDED:
                    differs[item] = None
        self.note("items whose soft_label is not the share of their votes, which count", list(differs))
        self.note("items whose hard_label is not the label of most votes, which counts", others)
        # Upstream breaks ties in another way than scores against the plurality.
        self.note("items with a tie whose hard_label is not its first label, which counts", ties, expected=True)

    def codes_of(self, question: Question) -> tuple[str, ...]:
        """What the labels of a question are called in upstream's soft labels."""
        return question.labels

    def shares_of(self, question: Question, stated: Mapping[str, Any]) -> Any:
        """The shares of the labels of a question in an item's soft label."""
        return stated


def _pairs(path: Path, number: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rater and answer, paired by name (2025) or by position (2023)."""
    answers, raters = entry.get("annotations"), entry.get("annotators")
    if isinstance(answers, Mapping):
        for rater, answer in answers.items():
            yield rater.strip(), "" if answer is None else str(answer).strip()
        return
    if not isinstance(answers, str) or not isinstance(raters, str):
        _refuse(path, number, "annotations", answers, "must be answers with ',' between, or answers by rater")
    if not answers.strip():
        return
    given, named = ([word.strip() for word in text.split(",")] for text in (answers, raters))
    if len(given) != len(named):
        _refuse(path, number, "annotations", answers, f"must have one answer for each of {len(named)} annotators")
    yield from zip(named, given, strict=True)


def _flat_facts(name: str, value: Any) -> dict[str, Any]:
    """An object of objects as one of values, whose names are joined by '_'."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {key: one for inner, part in value.items() for key, one in _flat_facts(f"{name}_{inner}", part).items()}


def _plain_label(label: str) -> str:
    """A label without the decimals of a whole number: "1.0" is "1"."""
    return re.sub(r"^(-?\d+)\.0$", r"\1", label.strip())


def _refuse(path: Path, number: str, what: str, value: Any, rule: str) -> NoReturn:
    """Raise for an entry of a file."""
    raise ValueError(f"{path}: item {number!r} has {what} {value!r:.200}; it {rule}, so restore the upstream file.")
