"""MuSE: monologues of stressed and calm students; several raters, who have no names, rate each sentence on two scales.

They rated each sentence twice over: alone, and by other raters with all sentences before it. These are questions of their own,
as are the speaker's own ratings.
"""

import os
import re
from functools import cached_property

import pandas as pd

from annot_hf.data.corpus import VoteCorpus, split_by_group
from annot_hf.data.encoding import csv_frame, refuse_row
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

FILE = "Emotion data from crowdsourcing (C is when annotators had access to all previous sentences).csv"
FOLDERS = ("SurveyInformation", "Survey Information (Questions, Data etc)", "")
SCALES = ("activation", "valence")
# How questions end, and where their answers stand.
COLUMNS = {"": "{}_Annotation", "_in_context": "C_{}_Annotation", "_self": "S_{}"}
STRESS = {"S": "stressed", "NS": "not stressed"}
SENTENCE = re.compile(r"(?P<speaker>\d{2})[\w ().-]*", re.ASCII)
TRANSCRIPTS = "Combined/Utterance Transcripts"


class Muse(VoteCorpus):
    """Reader of the table of crowdsourced ratings."""

    name = "muse"
    version = "1.0.0"
    license = "other"
    language = "en"
    shareable = "nothing"
    homepage = "https://lit.eecs.umich.edu/downloads.html"
    access = (
        "Ask the University of Michigan for MuSE (see the homepage) and sign its agreement; neither audio nor labels, and "
        "so no export of them, may be passed on."
    )
    citation = (
        "Jaiswal, Bara, Luo, Burzo, Mihalcea, Mower Provost: MuSE: a Multimodal Dataset of Stressed Emotion. LREC 2020, "
        "1499-1510. https://aclanthology.org/2020.lrec-1.187"
    )
    questions = tuple(Question.scale(f"{scale}{whose}", 1, 9) for whose in COLUMNS for scale in SCALES)
    default_questions = ("activation",)

    def read_items(self) -> pd.DataFrame:
        """One row per sentence; a speaker, who has a stressed and a calm monologue, is in one split."""
        table = self._table
        items = table[["item"]].copy()
        items["audio"] = items["item"].map(self._files[".wav"])
        self.note("audio without labels, left out", sorted(set(self._files[".wav"]) - set(items["item"])))
        items["speaker"] = items["item"].str[:2]
        items["gender"] = table["Gender"].str.lower().replace({"f": "female", "m": "male"})
        items["stress"] = table["Type"].map(STRESS)
        items["monologue"] = table["Ques_Type"]
        texts = items["item"].map(self._files[".txt"])
        if texts.notna().any():
            read = [
                (self.root / path).read_text("utf-8-sig", "replace") if isinstance(path, str) else "" for path in texts
            ]
            items["text"] = [text.strip() or None for text in read]
            self.note("sentences without transcript", list(items["item"][items["text"].isna()]))
        return items.assign(split=split_by_group(items["speaker"]))

    def read_votes(self) -> VoteTable:
        """Anonymous ratings of both conditions, and the speaker's own under the speaker's name."""
        table, tables = self._table, []
        for whose, column in COLUMNS.items():
            for scale in SCALES:
                name = column.format(scale.capitalize())
                rows = table[["item", "row"]].assign(value=table[name].str.split(";")).explode("value")
                rows["value"] = rows["value"].str.strip()
                blank = rows["value"].str.lower().isin(["", "nan"])
                self.note(f"{scale}{whose}: blank ratings", int(blank.sum()))
                rows = rows[~blank]
                number = pd.to_numeric(rows["value"], errors="coerce")
                refuse_row(self._path, rows["row"], name, rows["value"], ~number.between(1, 9), "must be 1 to 9")
                if len(rows):
                    asked = next(question for question in self.questions if question.name == f"{scale}{whose}")
                    rater = rows["item"].str[:2] if whose == "_self" else None
                    tables.append(
                        VoteTable.from_columns(asked, item=rows["item"], value=number, annotator=rater, where=self.name)
                    )
        if not tables:
            raise ValueError(f"{self._path} has no ratings; restore the upstream file.")
        return VoteTable.concat(tables)

    @cached_property
    def _path(self) -> os.PathLike:
        return self.label_file(*(os.path.join(folder, FILE) for folder in FOLDERS))

    @cached_property
    def _table(self) -> pd.DataFrame:
        """The table as text; a sentence is called by its file without the ending."""
        answers = [column.format(scale.capitalize()) for column in COLUMNS.values() for scale in SCALES]
        table = csv_frame(self._path, ["Sentence_name", "Gender", "Type", "Ques_Type", *answers])
        table = table.apply(lambda column: column.str.strip() if column.name != "row" else column)
        name, kind = table["Sentence_name"], table["Type"]
        rule = "must be a plain name that begins with the speaker's two digits"
        odd = ~name.map(lambda text: bool(SENTENCE.fullmatch(text)) and ".." not in text)
        refuse_row(self._path, table["row"], "Sentence_name", name, odd, rule)
        refuse_row(self._path, table["row"], "Type", kind, ~kind.isin(STRESS), f"must be {' or '.join(STRESS)}")
        table["item"] = name.str.replace(r"(?i)\.wav$", "", regex=True)
        again = table["item"].duplicated()
        refuse_row(self._path, table["row"], "Sentence_name", name, again, "must be listed once")
        return table

    @cached_property
    def _files(self) -> dict[str, dict[str, str]]:
        """Relative path of the audio and the transcript of each sentence, by suffix."""
        found: dict[str, dict[str, str]] = {".wav": {}, ".txt": {}}
        for path in sorted(self.root.rglob("*.[wW][aA][vV]")) + sorted((self.root / TRANSCRIPTS).glob("*.txt")):
            if path.name[0] != ".":
                found[path.suffix.lower()].setdefault(path.stem, path.relative_to(self.root).as_posix())
        return found
