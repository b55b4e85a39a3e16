"""EMO-SUPERB: distributions of emotions for one of its corpora, and its folds.

Upstream published no votes but their shares, in which a label without votes holds .01 and the rest is scaled down. How many
people voted cannot be read back, so the two questions are known as shares only.
"""

import os
import re
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.encoding import SHARE_SLACK, csv_frame, refuse_row
from annot_hf.data.files import check_name
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

KINDS = ("Primary", "Secondary")
FILE = re.compile(r"labels_consensus_(\d+)\.csv")
UNNAMED = re.compile(r"\s*|Unnamed: \d+")
ATTRIBUTES = ("EmoAct", "EmoVal", "EmoDom")
ABOUT = ("FileName", *ATTRIBUTES, "SpkrID", "Gender", "Split_Set")
SPLITS = {"train": "train", "development": "validation", "test": "test"}


class EmoSuperb(VoteCorpus):
    """Reader of the folder of one corpus: `Primary`, `Secondary` or both, and `Audios`."""

    name = "emosuperb"
    version = "1.0.0"
    license = "other"
    shareable = "nothing"
    homepage = "https://github.com/EMOsuperb/EMO-SUPERB-submission"
    access = (
        "Label folders are in the repository of EMO-SUPERB; obtain the clips from the owners of each corpus, whose terms hold "
        "for labels made of their votes."
    )
    citation = (
        "Wu, Chou, Chang, Goncalves, Du, Jang, Lee, Lee: EMO-SUPERB: An In-depth Look at Speech Emotion Recognition. "
        "arXiv:2402.13018, 2024."
    )

    def __init__(self, root: str | os.PathLike) -> None:
        super().__init__(root)
        self._folds: dict[str, dict[int, pd.DataFrame]] = {}
        self._unnamed: list[str] = []
        for kind in KINDS:
            numbers = sorted(
                int(match[1]) for path in (self.root / kind).glob("*.csv") if (match := FILE.fullmatch(path.name))
            )
            folds = {number: _read(self.label_file(f"{kind}/labels_consensus_{number}.csv")) for number in numbers}
            for number, table in folds.items():
                wanted, found = (set(_labels(folds[one])) for one in (numbers[0], number))
                if wanted != found:
                    raise ValueError(
                        f"{self.root}: fold {number} of {kind} has labels {', '.join(sorted(found))}, and fold {numbers[0]} "
                        f"{', '.join(sorted(wanted))}; all folds have the same labels, so restore the upstream files."
                    )
                self._unnamed += [f"{kind}/{number}: {name}" for name in table.attrs["unnamed"]]
            if folds:
                self._folds[kind] = folds
        if not self._folds:
            self.label_file(*(f"{kind}/labels_consensus_1.csv" for kind in KINDS))
        tables = {kind: next(iter(folds.values())) for kind, folds in self._folds.items()}
        self.questions = tuple(
            Question.category(kind.lower(), _labels(table), shares=True) for kind, table in tables.items()
        )
        self.default_questions = (self.questions[0].name,)

    def read_items(self) -> pd.DataFrame:
        """One row per clip: its split in each fold as `fold_1`, ..., and in the first as `split`; attributes are means."""
        rows = self._rows
        items = rows.drop_duplicates("FileName").set_index("FileName")
        found = pd.DataFrame({"item": items.index, "audio": "Audios/" + items.index})
        found["speaker"] = items["SpkrID"].where(~items["SpkrID"].str.lower().isin(["", "unknown"])).to_numpy()
        if "Gender" in items:
            found["gender"] = items["Gender"].str.lower().to_numpy()
        for name in (name for name in ATTRIBUTES if name in items):
            found[name] = pd.to_numeric(items[name], errors="coerce").to_numpy()
        found["split"] = None
        self.note("columns without a name, such as an index, not read", self._unnamed)
        speakers = rows.groupby("FileName", sort=False)["SpkrID"].nunique()
        self.note("clips whose speaker differs between files, the first used", list(speakers.index[speakers > 1]))
        clips = rows.groupby("FileName", sort=False)
        folds = rows["fold"].nunique()
        incomplete = clips["fold"].nunique() < folds
        self.note("clips that are not in all folds", list(incomplete.index[incomplete]))
        tested = clips["split"].agg(lambda splits: "test" in set(splits))
        self.note("clips that no fold tests", list(tested.index[~tested]) if folds > 1 else 0)
        again = rows.groupby(["FileName", "fold"])["split"].nunique()
        self.note(
            "clips that Primary and Secondary put into different splits, Primary used", list(again.index[again > 1])
        )
        for number, part in rows.groupby("fold"):
            split = part.drop_duplicates("FileName").set_index("FileName")["split"].reindex(items.index).to_numpy()
            found[f"fold_{number}"] = split
            found["split"] = found["split"].where(found["split"].notna(), split)
        first = rows["fold"].min()
        self.note(
            f"clips that are not in fold {first}, in the split of the first fold that has them",
            list(found["item"][found[f"fold_{first}"].isna()]),
        )
        return found

    def read_votes(self) -> VoteTable:
        """The distributions, one per clip and question; folds repeat them."""
        tables = []
        for question, (kind, folds) in zip(self.questions, self._folds.items(), strict=True):
            rows = pd.concat(folds.values(), ignore_index=True)
            labels = list(question.labels)
            clips = rows.drop_duplicates("FileName")
            first = clips.set_index("FileName")[labels].loc[rows["FileName"]].to_numpy()
            differs = (abs(rows[labels].to_numpy() - first) > SHARE_SLACK).any(axis=1)
            self.note(
                f"{kind}: clips whose shares differ between folds, the first used",
                sorted(set(rows["FileName"][differs])),
            )
            tables.append(VoteTable.from_shares(question, clips["FileName"].tolist(), clips[labels].to_numpy()))
        return VoteTable.concat(tables)

    @cached_property
    def _rows(self) -> pd.DataFrame:
        """The rows of all files, with the number of the fold."""
        return pd.concat(
            [table.assign(fold=number) for folds in self._folds.values() for number, table in folds.items()],
            ignore_index=True,
        )


def _labels(table: pd.DataFrame) -> list[str]:
    """The columns of a file that are labels."""
    return [name for name in table if name not in (*ABOUT, "split")]


def _read(path: Path) -> pd.DataFrame:
    """One fold: labels as numbers, and `split` in our names."""
    table = csv_frame(path, ["FileName", "SpkrID", "Split_Set"], further=True)
    # pandas writes its index without a name, and reads that as one.
    unnamed = [name for name in table if UNNAMED.fullmatch(name)]
    table = table.drop(columns=unnamed)
    row, labels = table.pop("row"), [name for name in table if name not in ABOUT]
    if len(labels) < 2:
        raise ValueError(
            f"{path}: the columns beside {', '.join(ABOUT)} are {labels}; there must be one for each label."
        )
    names = table["FileName"]
    refuse_row(path, row, "FileName", names, names.str.strip() == "", "must name the clip")
    for name in names:
        try:
            check_name(name, path.parents[1] / "Audios")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    refuse_row(path, row, "FileName", names, names.duplicated(), "must be listed once")
    for name in labels:
        share = pd.to_numeric(table[name], errors="coerce")
        refuse_row(path, row, name, table[name], ~share.between(0, 1), "must be a share from 0 to 1")
        table[name] = share
    total = table[labels].sum(axis=1)
    refuse_row(path, row, "shares that sum to", total, ~np.isclose(total, 1, atol=SHARE_SLACK), "must be 1")
    split = table["Split_Set"].str.strip().str.lower()
    refuse_row(path, row, "Split_Set", table["Split_Set"], ~split.isin(SPLITS), "must be Train, Development or Test")
    table = table.assign(split=split.map(SPLITS))
    table.attrs["unnamed"] = unnamed
    return table
