"""GoEmotions, the raw release: comments on Reddit, each labelled by some of 82 raters with any of 27 emotions or neutral.

A rater could also mark a comment as very unclear; such a response has no labels. It is not a vote for "no emotion", but it
must not be lost: whether a response was clear is a separate question, `clarity`, which every response answers.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from annot_hf.data.corpus import VoteCorpus, split_by_group
from annot_hf.data.encoding import csv_frame, refuse_row
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

EMOTIONS = tuple(
    "admiration amusement anger annoyance approval caring confusion curiosity desire disappointment disapproval disgust "
    "embarrassment excitement fear gratitude grief joy love nervousness optimism pride realization relief remorse "
    "sadness surprise neutral".split()
)
FILES = tuple(f"goemotions_{number}.csv" for number in (1, 2, 3))
FOLDERS = ("", "data/full_dataset/", "full_dataset/")
ABOUT = ("subreddit", "link_id", "parent_id", "created_utc")
FLAGS = {"true": True, "false": False}


class GoEmotions(VoteCorpus):
    """Reader of `goemotions_1.csv` to `goemotions_3.csv`, one row per response, plain or gzip."""

    name = "goemotions"
    version = "1.0.0"
    license = "apache-2.0"
    language = "en"
    shareable = "everything"
    homepage = "https://github.com/google-research/google-research/tree/master/goemotions"
    access = (
        "Free under Apache-2.0: https://storage.googleapis.com/gresearch/goemotions/data/full_dataset/goemotions_1.csv, and "
        "_2.csv, _3.csv. The files name the authors of comments; the export does not."
    )
    citation = (
        "Demszky, Movshovitz-Attias, Ko, Cowen, Nemade, Ravi: GoEmotions: A Dataset of Fine-Grained Emotions. ACL 2020, "
        "4040-4054. https://aclanthology.org/2020.acl-main.372"
    )
    questions = (
        Question.category("emotion", EMOTIONS, multiple=True),
        Question.category("clarity", ("clear", "very unclear")),
    )
    default_questions = ("emotion",)

    def read_items(self) -> pd.DataFrame:
        """One row per comment; a thread (`link_id`) is in one split."""
        table = self._responses
        comments = table.drop_duplicates("id").reset_index(drop=True)
        kinds = table.drop_duplicates(["id", "text"])["id"]
        self.note("comments that come with several texts, the first used", list(kinds[kinds.duplicated()].unique()))
        items = comments[["id", "text", *ABOUT]].rename(columns={"id": "item", "link_id": "thread"})
        items["created_utc"] = pd.to_numeric(items["created_utc"], errors="coerce")
        adrift = items["thread"] == ""
        self.note("comments without a thread, each a thread of its own", list(items["item"][adrift]))
        items["thread"] = items["thread"].where(~adrift, items["item"])
        return items.assign(split=split_by_group(items["thread"]))

    def read_votes(self) -> VoteTable:
        """One vote per label that a rater chose, and one vote per response on whether the comment is clear."""
        table = self._responses
        chosen = table[list(EMOTIONS)].to_numpy() == "1"
        unclear, several = table["unclear"].to_numpy(), chosen.sum(axis=1)
        self.note(
            "responses marked very unclear, with no label: votes on clarity only",
            int((unclear & ~several.astype(bool)).sum()),
        )
        self.note("responses marked very unclear, with labels, kept", int((unclear & (several > 0)).sum()))
        none = ~unclear & (several == 0)
        self.note("clear responses without a label, a vote for none", int(none.sum()))
        row, label = np.nonzero(np.column_stack([chosen, none]))
        by_question = {
            "emotion": (table.iloc[row], np.array([*EMOTIONS, None], dtype=object)[label]),
            "clarity": (table, np.where(unclear, "very unclear", "clear").astype(object)),
        }
        return VoteTable.concat(
            VoteTable.from_columns(
                next(one for one in self.questions if one.name == name),
                item=rows["id"],
                annotator=rows["rater_id"],
                value=value,
                source=rows["file"],
                duplicates="first",
                where="goemotions",
            )
            for name, (rows, value) in by_question.items()
            if len(rows)
        )

    @cached_property
    def _responses(self) -> pd.DataFrame:
        """All files as text, with `unclear` as a boolean and the file's name."""
        paths = {
            file: self.label_file(
                *(f"{folder}{file}{zipped}" for folder in FOLDERS for zipped in ("", ".gz")), required=False
            )
            for file in FILES
        }
        if not any(paths.values()):
            self.label_file(*FILES)
        self.note("label files that are not there", [file for file, path in paths.items() if path is None])
        return pd.concat([_read(path).assign(file=file) for file, path in paths.items() if path], ignore_index=True)


def _read(path: Path) -> pd.DataFrame:
    """One file, checked."""
    table = csv_frame(path, ["text", "id", *ABOUT, "rater_id", "example_very_unclear", *EMOTIONS])
    for name in ("id", "rater_id"):
        refuse_row(path, table["row"], name, table[name], table[name].str.strip() == "", "must be a name")
    for name in EMOTIONS:
        refuse_row(path, table["row"], name, table[name], ~table[name].isin(["0", "1"]), "must be 0 or 1")
    table["unclear"] = table["example_very_unclear"].str.lower().map(FLAGS)
    refuse_row(
        path,
        table["row"],
        "example_very_unclear",
        table["example_very_unclear"],
        table["unclear"].isna(),
        "must be True or False",
    )
    return table.astype({"unclear": bool})
