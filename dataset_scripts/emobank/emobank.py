"""EmoBank: sentences rated for valence, arousal and dominance of the reader and of the writer.

Every rating is a whole number from 1 to 5, by an anonymous rater. It answers a scale question, `reader_valence` and so on,
and a category question with the labels 1 to 5, `reader_valence_class` and so on, because models of categories and of scales
need different questions. Both hold the same ratings, so do not add them up.
"""

from functools import cached_property
from pathlib import Path

import pandas as pd

from annot_hf.data.corpus import VoteCorpus, split_by_group
from annot_hf.data.encoding import csv_frame, refuse_row
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

PERSPECTIVES = ("reader", "writer")
SCALES = {"V": "valence", "A": "arousal", "D": "dominance"}
CLASSES = ("1", "2", "3", "4", "5")
SPLITS = {"train": "train", "dev": "validation", "test": "test"}


class EmoBank(VoteCorpus):
    """Reader of the folder `corpus` of the upstream repository, plain or gzip."""

    name = "emobank"
    version = "1.0.0"
    license = "cc-by-sa-4.0"
    language = "en"
    shareable = "everything"
    homepage = "https://github.com/JULIELab/EmoBank"
    access = "Free under CC BY-SA 4.0, which text and ratings derived from it keep."
    citation = (
        "Buechel, Hahn: EmoBank: Studying the Impact of Annotation Perspective and Representation Format on Dimensional "
        "Emotion Analysis. EACL 2017, volume 2, 578-585. https://aclanthology.org/E17-2092"
    )
    questions = tuple(
        question
        for perspective in PERSPECTIVES
        for scale in SCALES.values()
        for question in (
            Question.scale(f"{perspective}_{scale}", 1, 5),
            Question.category(f"{perspective}_{scale}_class", CLASSES),
        )
    )
    default_questions = ("reader_valence_class",)

    def read_items(self) -> pd.DataFrame:
        """One row per sentence of `raw`, with document and category of `meta` and the split of `emobank`."""
        raw, meta = self._sentences("raw", ["text"]), self._sentences("meta", ["document", "category", "subcategory"])
        meta = meta.reindex(raw.index).apply(lambda column: column.str.strip())
        items = pd.DataFrame({"item": raw.index, "text": raw["text"].to_numpy()})
        for name in meta:
            items[name] = meta[name].where(meta[name] != "").to_numpy()
        adrift = items["document"].isna()
        self.note("sentences without metadata, each a document of its own", list(items["item"][adrift]))
        items["document"] = items["document"].fillna(items["item"])
        released = self._sentences("emobank", ["split"], required=False)
        if released is None:
            self.note("sentences split by document, since there is no emobank.csv", len(items))
            return items.assign(split=split_by_group(items["document"]))
        items["split"] = released["split"].map(SPLITS).reindex(items["item"]).to_numpy()
        # Both are so in the released files.
        self.note("sentences in no released split, in train", list(items["item"][items["split"].isna()]), expected=True)
        items["split"] = items["split"].fillna("train")
        splits = items.groupby("document")["split"].nunique()
        self.note("documents in several splits", list(splits.index[splits > 1]), expected=True)
        return items

    def read_votes(self) -> VoteTable:
        """Each rating as an anonymous vote on a scale, and again on five classes."""
        tables, twice = [], 0
        for perspective in PERSPECTIVES:
            ratings = self._ratings[perspective]
            for column, scale in SCALES.items():
                value = pd.to_numeric(ratings[column], errors="coerce")
                good = value.isin(range(1, 6))
                self.note(
                    f"{perspective}_{scale}: ratings that are no whole number from 1 to 5",
                    [f"{item}: {rating!r}" for item, rating in ratings.loc[~good, ["id", column]].to_numpy()],
                    votes=2 * int((~good).sum()),
                )
                if not good.any():
                    continue
                item, value, question = ratings["id"][good], value[good].astype(int), f"{perspective}_{scale}"
                for name, given in ((question, value), (f"{question}_class", value.astype(str))):
                    asked = next(one for one in self.questions if one.name == name)
                    tables.append(VoteTable.from_columns(asked, item=item, value=given, source=perspective))
                twice += len(item)
        self.note("ratings that are a vote on a scale and a vote on a class", twice, expected=True)
        return VoteTable.concat(tables)

    @cached_property
    def _ratings(self) -> dict[str, pd.DataFrame]:
        """Columns id, V, A and D of each perspective."""
        return {
            perspective: csv_frame(self._path(f"individual_{perspective}_ratings"), ["id", *SCALES])
            for perspective in PERSPECTIVES
        }

    def _sentences(self, name: str, columns: list[str], *, required: bool = True) -> pd.DataFrame | None:
        """The columns of a file with one row per sentence, on the sentence's id."""
        path = self._path(name, required=required)
        if path is None:
            return None
        table = csv_frame(path, ["id", *columns])
        refuse_row(path, table["row"], "id", table["id"], table["id"].duplicated(), "must be listed once")
        if "split" in table:
            rule = f"must be {', '.join(SPLITS)}"
            refuse_row(path, table["row"], "split", table["split"], ~table["split"].isin(list(SPLITS)), rule)
        return table.set_index("id")[columns]

    def _path(self, name: str, *, required: bool = True) -> Path | None:
        """The file of that name, in the repository or in its folder `corpus`."""
        suffixes = ("csv", "csv.gz", "tsv")
        return self.label_file(
            *(f"{folder}{name}.{suffix}" for folder in ("", "corpus/") for suffix in suffixes), required=required
        )
