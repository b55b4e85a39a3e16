"""Votes of `read_own_votes` as a corpus: clips are looked up in a folder, and splits are checked or drawn."""

import functools
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from annot_hf.data.ballots import ITEM_FACTS, SOUNDS
from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.files import file_sha256, imitates_parent
from annot_hf.data.folds import find_leaks
from annot_hf.data.own_votes import OwnVotes, Reading
from annot_hf.data.splitting import SHARES, SPLIT_NAMES, draw_item_splits
from annot_hf.data.votes import VoteTable


class OwnCorpus(VoteCorpus):
    """Votes of `read_own_votes` with clips in a folder, or with texts, as a corpus to export.

    Args:
        votes: What was read.
        audio: Folder of the clips; None for texts.
        name: Name of the corpus; by default that of the file.
        reading: What the user said about the file.
        seed: Seed of the splits, if the file has none.
        allow_leak: Accept splits of the file in which a speaker or a group is on both sides.

    Raises:
        ValueError: Clips or texts are not known, or two files of the folder may be the clip of one item.
    """

    version = ""
    access = "Read from a table or an export of the user; ask its owner what may be passed on."

    def __init__(
        self,
        votes: OwnVotes,
        audio: str | os.PathLike | None = None,
        *,
        name: str = "",
        reading: Reading | None = None,
        seed: int = 0,
        allow_leak: bool = False,
    ) -> None:
        self.votes, self.reading, self.seed, self.allow_leak = votes, reading or Reading(), seed, allow_leak
        self.name = name or re.sub(r"\W+", "-", votes.path.name.split(".")[0]).strip("-") or "votes"
        self.language = tuple(self.reading.language)
        self.questions = votes.questions
        # The user's first question, or the first category question; one or two scales form a grid.
        labels = [one.name for one in self.questions if not one.is_scale]
        scales = [one.name for one in self.questions if one.is_scale]
        first = self.questions[0].name if self.reading.question or not labels else labels[0]
        self.default_questions = tuple(scales[:2]) if first in scales else (first,)
        self.has_audio = audio is not None
        if not self.has_audio and not any("text" in facts for facts in votes.facts.values()):
            raise ValueError(
                f"{votes.path}: there is no column of texts; pass the clips' folder as --audio, or name the column as --text."
            )
        super().__init__(votes.path.parent if audio is None else audio)
        if votes.path.is_file():
            self.label_files[votes.path.name] = file_sha256(votes.path)
        self.findings |= votes.left_out

    def read_items(self) -> pd.DataFrame:
        """Items in the order of the file, with what is known of them; clips are looked up in the folder by their names."""
        facts = self.votes.facts
        rows = {"item": list(facts)}
        for role in ITEM_FACTS:
            values = [one.get(role) for one in facts.values()]
            if role not in ("audio", "split") and any(values):
                rows[role] = values
        if self.has_audio:
            rows["audio"] = self._clips({item: one.get("audio") or item for item, one in facts.items()})
            if any("start" in one for one in facts.values()):
                rows |= {name: [float(one.get(name, "nan")) for one in facts.values()] for name in ("start", "end")}
        return pd.DataFrame(rows).astype(object)

    def read_votes(self) -> VoteTable:
        """All votes; of repeated votes of one rater, the first."""
        return self._table

    @functools.cached_property
    def _table(self) -> VoteTable:
        frame = self.votes.frame
        with warnings.catch_warnings():
            # On rater names that look alike, which are proposed as aliases.
            warnings.simplefilter("ignore", UserWarning)
            return VoteTable.from_columns(
                self.questions,
                item=frame["item"].astype(object).to_numpy(),
                annotator=frame["annotator"].astype(object).to_numpy(),
                question=frame["question"].astype(object).to_numpy(),
                value=frame["value"].astype(object).to_numpy(),
                duplicates="first",
                where=str(self.votes.path),
            )

    def _clips(self, references: Mapping[str, str]) -> list[str | None]:
        """The path of each clip below the folder, or None; by its path, else by its file name, else without the suffix."""
        paths = [path for path in sorted(self.root.rglob("*")) if path.name.lower().endswith(SOUNDS)]
        files, folders = (
            [path.relative_to(self.root).as_posix() for path in paths if is_kind(path)]
            for is_kind in (Path.is_file, Path.is_dir)
        )
        # The export says that a folder is no clip.
        known = _by_tails(folders) | _by_tails(files)
        found = []
        for item, reference in references.items():
            clean = reference.strip()
            if imitates_parent(clean):
                raise ValueError(
                    f"{self.votes.path}: the clip {reference!r} of item {item!r} writes '..' in look-alikes "
                    f"({ascii(clean)[1:-1]}); write its path below {self.root}."
                )
            keys = [clean, *_tails(clean), re.sub(r"^[0-9a-f]{8}-", "", clean.rsplit("/", 1)[-1])]
            keys += [key.rsplit(".", 1)[0] for key in keys if key.lower().endswith(SOUNDS)]
            matches = next((known[key] for key in keys if key in known), [])
            exact = [name for name in matches if name == clean]
            if len(matches) > 1 and not exact:
                raise ValueError(
                    f"{self.votes.path}: the clip {reference!r} of item {item!r} may be {' or '.join(matches[:2])}; "
                    f"write its path below {self.root}."
                )
            found.append((exact or matches or [None])[0])
        self.note("clips without an item", sorted(set(files) - set(found)))
        return found

    def split_of(self, items: pd.DataFrame) -> np.ndarray:
        """The split of each item: by the file, or drawn."""
        facts = self.votes.facts
        stated = pd.Series([facts[item].get("split") for item in items["item"]], dtype=object)
        column, groups = self._groups(items)
        if not stated.notna().any():
            return self._draw(items, groups, column, np.ones(len(items), dtype=bool))
        named = stated.map(lambda one: SPLIT_NAMES.get(str(one).strip().casefold()), na_action="ignore")
        odd = named.isna().to_numpy()
        if odd.all() and not self.reading.split:
            # A column of this name may hold something else, such as sets of stimuli.
            self.note("split names that are none, so that splits are drawn", sorted(set(stated.dropna())))
            return self._draw(items, groups, column, odd)
        if odd.any():
            row = int(np.argmax(odd))
            raise ValueError(
                f"{self.votes.path}: item {items['item'][row]!r} is in split {stated[row]!r}; name train, validation or test "
                "of every item, or another column as --split."
            )
        if not (named == "train").any() or not (named == "test").any():
            raise ValueError(
                f"{self.votes.path}: the splits are {', '.join(sorted(set(named)))}; at least train and test are needed."
            )
        leaks = find_leaks(pd.DataFrame({column: groups, "split": named.to_numpy()}), [column]).get(column, [])
        if leaks and not self.allow_leak:
            raise ValueError(
                f"{self.votes.path}: {len(leaks)} {column}s are in several splits, such as {leaks[0]!r:.80}; move "
                "each to one split, or pass --allow-leak if that is meant."
            )
        splits = named.to_numpy()
        if not (named == "validation").any():
            train = splits == "train"
            drawn = self._draw(items, groups, column, train, shares=(0.85, 0.15))
            splits = np.where(train, drawn, splits)
        return splits

    def _groups(self, items: pd.DataFrame) -> tuple[str, np.ndarray]:
        """What must not be on both sides of a split, and its name of each item: groups, speakers, equal texts, or clips."""
        asked = self.reading.group
        columns = [] if asked == "item" else ["group", "speaker"]
        for name in columns:
            if name in items and items[name].notna().any():
                missing = items["item"][items[name].isna()]
                if len(missing):
                    raise ValueError(
                        f"{self.votes.path}: {len(missing)} items have no {name}, such as {missing.iloc[0]!r}; name it for "
                        "every item, or pass --group item to split items freely."
                    )
                return name, items[name].to_numpy()
        # Two people may say the same words.
        if "text" in items and not self.has_audio:
            return "text", items["text"].where(items["text"].notna(), items["item"]).to_numpy()
        if self.has_audio and asked != "item":
            return "clip", items["audio"].where(items["audio"].notna(), items["item"]).to_numpy()
        return "item", items["item"].to_numpy()

    def _draw(
        self,
        items: pd.DataFrame,
        groups: np.ndarray,
        column: str,
        rows: np.ndarray,
        shares: Sequence[float] = SHARES,
    ) -> np.ndarray:
        """Splits of the chosen rows, drawn with the seed and noted."""
        drawn = np.full(len(items), None, dtype=object)
        asked, chosen = self.default_questions[0], items["item"][rows]
        try:
            drawn[rows], said = draw_item_splits(
                chosen, self.read_votes(), asked, groups[rows], unit=column, shares=shares, seed=self.seed
            )
        except ValueError as error:
            hint = "" if column == "item" else " Or pass --group item to split items freely."
            raise ValueError(f"{self.votes.path}: {error}{hint}") from None
        self.note(f"splits drawn by {column}, seed {self.seed}", said, expected=True)
        return drawn


def _by_tails(names: Sequence[str]) -> dict[str, list[str]]:
    """The names by each of their tails, with and without suffix."""
    known: dict[str, list[str]] = defaultdict(list)
    for name in names:
        for key in {key for part in _tails(name) for key in (part, part.rsplit(".", 1)[0])}:
            known[key].append(name)
    return known


def _tails(name: str) -> Iterator[str]:
    """A path without its first folder, its first two, and so on, down to the file name."""
    parts = name.split("/")
    for start in range(len(parts)):
        yield "/".join(parts[start:])
