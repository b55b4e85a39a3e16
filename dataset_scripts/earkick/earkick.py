"""Earkick: three raters say how strong six emotions are in clips of other corpora, and their sentiment.

An intensity answers a scale question from 0 to 3, `anger` and so on, and a category question with upstream's words,
`anger_class` and so on, because models of categories and of scales need different questions: do not add them up.
"""

import re
from functools import cached_property

import pandas as pd

from annot_hf.data.corpus import NO_SPEAKER, VoteCorpus, split_by_group
from annot_hf.data.encoding import csv_frame, refuse_row
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

EMOTIONS = ("happy", "sad", "anger", "fear", "disgust", "surprise")
LEVELS = {"None": "none", "A little": "a little", "Moderate": "moderate", "Extremely": "extremely"}
MOODS = ("awful", "bad", "meh", "good", "great")
CREMAD = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{2})_([A-Z]{3})_cremad\.\w+", re.ASCII)
ACTED = re.compile(r"(\d{4})_.*_(cremad|ravdess)\.\w+", re.ASCII)


class Earkick(VoteCorpus):
    """Reader of `assessment.csv`, one row per clip and rater."""

    name = "earkick"
    version = "1.0.0"
    license = "mit"
    # The table; the clips belong to other corpora.
    shareable = "votes"
    homepage = "https://github.com/earkick/abaw2023"
    access = (
        "The table is free under MIT. Clips are those of CREMA-D, RAVDESS, CMU-MOSEI and AffWild2, from their owners."
    )
    citation = (
        "Earkick: Analysis of Emotion Annotation Strength Improves Generalization of Speech Emotion Recognition Models. ABAW "
        "workshop at CVPR 2023. https://github.com/earkick/abaw2023"
    )
    questions = (
        *(Question.category(f"{name}_class", LEVELS.values()) for name in EMOTIONS),
        *(Question.scale(name, 0, 3) for name in EMOTIONS),
        Question.scale("sentiment", -3, 3),
        Question.category("mood", MOODS),
        Question.scale("anxiety", 0, 9),
    )
    default_questions = ("happy_class",)

    def read_items(self) -> pd.DataFrame:
        """One row per clip; clips of one actor or video are in one split."""
        items = pd.DataFrame({"item": self._table["audio"].drop_duplicates().to_numpy()})
        folder = (self.root / "audio").is_dir()
        items["audio"] = "audio/" + items["item"] if folder else None
        acted = items["item"].str.extract(f"^{ACTED.pattern}$")
        items["speaker"], items["corpus"] = acted[0], acted[1]
        cremad = items["item"].str.extract(f"^{CREMAD.pattern}$")
        items["cremad_clip"] = cremad[0] + "_" + cremad[3] + "_" + cremad[1] + "_" + cremad[2]
        # Other clips are called by their video and their number in it.
        items["group"] = items["speaker"].fillna(items["item"].str.replace(r"(_\d+)?\.\w+$", "", regex=True))
        # Upstream names the speakers of its clips of other corpora alone.
        self.note(NO_SPEAKER, list(items["item"][items["speaker"].isna()]), expected=True)
        return items.assign(split=split_by_group(items["group"]))

    def read_votes(self) -> VoteTable:
        """Every answer as a vote of a named rater; intensities as a label and again as a number."""
        table = self._table
        answers = {name: table[name] for name in ("sentiment", "anxiety")}
        # "0 - None", "9 - Most".
        answers["anxiety"] = (
            answers["anxiety"].str.extract(r"^(\d+)(?: - \w+)?$", expand=False).fillna(answers["anxiety"])
        )
        answers["mood"] = table["mood"].str.lower()
        for name in EMOTIONS:
            answers[f"{name}_class"] = table[name].map(LEVELS).fillna(table[name])
            answers[name] = table[name].map({word: str(level) for level, word in enumerate(LEVELS)}).fillna(table[name])
        self.note(
            "intensities that are a vote on a class and a vote on a scale", len(EMOTIONS) * len(table), expected=True
        )
        tables = []
        for question in self.questions:
            value = answers[question.name]
            blank = value == ""
            # In the released file, some raters left questions out.
            self.note(f"{question.name}: blank answers", int(blank.sum()), expected=True)
            if question.is_scale:
                number = pd.to_numeric(value, errors="coerce")
                bad = ~blank & ~number.between(question.low, question.high)
                rule = f"must be {question.low:g} to {question.high:g}"
            else:
                number, bad, rule = (
                    value,
                    ~blank & ~value.isin(question.labels),
                    f"must be {', '.join(question.labels)}",
                )
            refuse_row(self._path, table["row"], question.name, value, bad, rule)
            rows = ~blank
            if rows.any():
                columns = {"item": table["audio"][rows], "annotator": table["annotator"][rows], "value": number[rows]}
                tables.append(VoteTable.from_columns(question, **columns, duplicates="first", where=self._path.name))
        return VoteTable.concat(tables)

    @cached_property
    def _path(self) -> str:
        return self.label_file("assessment.csv")

    @cached_property
    def _table(self) -> pd.DataFrame:
        """The answers as text; a clip is called by the last part of its path."""
        columns = ["audio", "annotator", *EMOTIONS, "sentiment", "mood", "anxiety"]
        table = csv_frame(self._path, columns)
        table = table.apply(lambda column: column.str.strip() if column.name != "row" else column)
        table["audio"] = table["audio"].str.rpartition("/")[2]
        for name in ("audio", "annotator"):
            refuse_row(self._path, table["row"], name, table[name], table[name].isin(["", ".", ".."]), "must be a name")
        return table
