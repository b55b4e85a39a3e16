"""Emozionalmente: Italian sentences acted with one of seven emotions, each clip rated by five of 829 listeners.

Listeners and actors come from the same platform, and many people are both. Their names are hashes.
"""

from functools import cached_property

import pandas as pd

from annot_hf.data.corpus import VoteCorpus, split_by_group
from annot_hf.data.encoding import csv_frame, refuse_row
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutrality", "sadness", "surprise")
QUALITIES = ("good", "bad")
# The three tables are at the top of the upstream archive or in `metadata`, as they are or compressed.
FOLDERS = ("", "metadata/")


class Emozionalmente(VoteCorpus):
    """Reader of `evaluations.csv`, `samples.csv` and, for who the raters are, `users.csv`, plain or gzip."""

    name = "emozionalmente"
    version = "1.0.0"
    license = "cc-by-4.0"
    language = "it"
    shareable = "everything"
    homepage = "https://zenodo.org/records/6569824"
    access = "Free under CC BY 4.0."
    citation = "Catania: Emozionalmente: a crowd-sourced Italian speech emotional corpus. 2022. https://zenodo.org/records/6569824"
    questions = (Question.category("emotion", EMOTIONS), Question.category("audio_quality", QUALITIES))
    default_questions = ("emotion",)

    def read_items(self) -> pd.DataFrame:
        """One row per clip; an actor is in one split.

        `text` is what the actor was asked to express and to say. A model that reads it knows the intention, which listeners
        had to guess: it is for studies of listeners, where there is no audio.
        """
        table = self._table("samples.csv", ("file_name", "sentence", "actor", "emotion_expressed"))
        path, items = table.attrs["path"], table.rename(columns={"file_name": "item", "actor": "speaker"})
        odd = ~items["emotion_expressed"].isin(EMOTIONS)
        refuse_row(
            path, table["row"], "emotion_expressed", items["emotion_expressed"], odd, f"must be one of {EMOTIONS}"
        )
        items.insert(1, "text", items["emotion_expressed"] + ": " + items["sentence"])
        if (self.root / "audio").is_dir():
            items.insert(1, "audio", "audio/" + items["item"])
        return items.drop(columns="row").assign(split=split_by_group(items["speaker"]))

    def read_votes(self) -> VoteTable:
        """Two votes per evaluation: the emotion recognised, and whether the recording is good."""
        table = self._table("evaluations.csv", ("file_name", "evaluator", "audio_quality", "emotion_recognized"))
        unnamed = table["evaluator"] == ""
        refuse_row(table.attrs["path"], table["row"], "evaluator", table["evaluator"], unnamed, "must name the rater")
        again = table.duplicated(["file_name", "evaluator"])
        self.note("evaluations of a clip by a rater who had rated it before, kept", int(again.sum()), expected=True)
        self.note("evaluations that are a vote on the emotion and a vote on the quality", len(table), expected=True)
        columns = {"emotion": "emotion_recognized", "audio_quality": "audio_quality"}
        return VoteTable.concat(
            [
                VoteTable.from_columns(
                    question,
                    item=table["file_name"],
                    annotator=table["evaluator"],
                    value=table[columns[question.name]],
                    duplicates="keep",
                    where=table.attrs["path"],
                )
                for question in self.questions
            ]
        )

    @cached_property
    def raters(self) -> pd.DataFrame:
        """Who the raters are: `annotator`, `gender`, `age` (years) and `mother_tongue`, empty where unknown."""
        table = self._table("users.csv", ("username", "gender", "age", "mother_tongue"))
        return table.rename(columns={"username": "annotator"}).drop(columns="row")

    def _table(self, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
        path = self.label_file(*(f"{folder}{name}{zipped}" for folder in FOLDERS for zipped in ("", ".gz")))
        table = csv_frame(path, columns, further=True)
        table.attrs["path"] = str(path)
        return table
