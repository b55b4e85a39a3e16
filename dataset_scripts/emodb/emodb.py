"""EmoDB: ten German actors, ten sentences, seven emotions; how many of 20 or 21 listeners recognised each clip.

Upstream states percentages. Of the listeners who did not choose the intended emotion it is not known what they chose, so the
counts are answers of yes or no, not votes over seven emotions.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.encoding import csv_frame, refuse_row
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

EMOTIONS = {"W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "T": "sadness", "N": "neutral"}
WOMEN = ("08", "09", "13", "14", "16")
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
# A woman and a man each.
SPLITS = {"11": "validation", "14": "validation", "08": "test", "15": "test"}
# Another number of listeners is tried only if this gives no whole counts.
LISTENERS = (20, 21)
CLIP = re.compile(r"(?P<speaker>\d{2})(?P<sentence>[ab]\d{2})(?P<emotion>[WLEAFTN])(?P<version>[a-z]?)", re.ASCII)
UPSTREAM, DERIVED = "erkennung.txt", "listener_votes.csv"


class EmoDb(VoteCorpus):
    """Reader of `erkennung.txt`, or of `listener_votes.csv` with the percentages of it."""

    name = "emodb"
    version = "1.0.0"
    license = "cc0-1.0"
    language = "de"
    shareable = "everything"
    homepage = "http://emodb.bilderbar.info"
    access = "Free to download; CC0 1.0 as audEERING publishes it."
    citation = (
        "Burkhardt, Paeschke, Rolfes, Sendlmeier, Weiss: A Database of German Emotional Speech. Interspeech 2005, 1517-1520. "
        "doi:10.21437/Interspeech.2005-446"
    )
    questions = (
        Question.category("recognised", ("recognised", "not recognised")),
        Question.category("natural", ("natural", "not natural")),
    )
    default_questions = ("natural",)

    def read_items(self) -> pd.DataFrame:
        """One row per rated clip; those that were not released have no audio."""
        items = self._clips[["item"]].copy()
        items["audio"] = "wav/" + items["item"] + ".wav"
        parts = items["item"].str.extract(CLIP.pattern)
        items["speaker"] = parts["speaker"]
        items["gender"] = parts["speaker"].isin(WOMEN).map({True: "female", False: "male"})
        items["sentence"] = parts["sentence"]
        items["text"] = parts["sentence"].map(SENTENCES)
        items["intended"] = parts["emotion"].map(EMOTIONS)
        items["split"] = parts["speaker"].map(SPLITS).fillna("train")
        there = {path.stem for path in (self.root / "wav").glob("*.wav") if path.name[0] != "."}
        self.note("audio without labels, left out", sorted(there - set(items["item"])))
        return items

    def read_votes(self) -> VoteTable:
        """Two counts a clip and question, expanded to anonymous votes."""
        clips = self._clips
        tables = []
        for question in self.questions:
            yes = clips[question.name]
            counts = np.stack([yes, clips["listeners"] - yes], axis=1)
            tables.append(VoteTable.from_counts(question, clips["item"].tolist(), counts))
        return VoteTable.concat(tables)

    @cached_property
    def _clips(self) -> pd.DataFrame:
        """Columns item, listeners, recognised and natural (counts)."""
        path = self.label_file(UPSTREAM, DERIVED)
        if path.name == DERIVED:
            table = csv_frame(path, ["file", "recognised_pct", "natural_pct"])
            table.columns = ["row", "item", *(question.name for question in self.questions)]
        else:
            table = self._upstream(path)
        table["item"] = table["item"].str.strip().str.replace(r"(?i)\.wav$", "", regex=True)
        names = table["item"]
        refuse_row(
            path,
            table["row"],
            "clip",
            names,
            ~names.str.fullmatch(CLIP.pattern, flags=re.ASCII),
            "must be one as 03a01Wa",
        )
        shares = []
        for question in self.questions:
            text = table[question.name].str.strip(" \t\u00a0").str.replace(",", ".", regex=False)
            share = pd.to_numeric(text, errors="coerce")
            refuse_row(
                path, table["row"], question.name, table[question.name], ~share.between(0, 100), "must be 0 to 100 %"
            )
            shares.append(share.to_numpy())
        listeners = self._listeners(path, table, shares)
        counts = {
            question.name: np.round(share * listeners / 100).astype(int)
            for question, share in zip(self.questions, shares, strict=True)
        }
        clips, again = pd.DataFrame({"item": names, "listeners": listeners, **counts}), names.duplicated()
        lost = len(self.questions) * int(listeners[again].sum())
        self.note("clips that are listed again, the first row used", list(names[again]), votes=lost)
        clips = clips[~again].reset_index(drop=True)
        most = LISTENERS[-1]
        self.note(f"clips that {most} listeners heard", int((clips["listeners"] == most).sum()), expected=True)
        return clips

    def _upstream(self, path: Path) -> pd.DataFrame:
        """The file of the release: columns between tabs or blanks, and Latin-1."""
        rows = []
        for number, line in enumerate(
            path.read_bytes().decode("latin-1").lstrip("\u00ef\u00bb\u00bf").splitlines(), start=1
        ):
            cells = re.split(r"\s+", line.strip())
            # The header, and the blank lines around it.
            if cells == [""] or cells[:2] == ["Nr.", "Satz"]:
                continue
            if len(cells) != 4:
                raise ValueError(
                    f"{path}: row {number} has {line!r:.200}; it must read '1 03a01Aa.wav 65,00 35,00', so restore the "
                    "upstream file."
                )
            rows.append((number, *cells[1:]))
        if not rows:
            raise ValueError(f"{path} has no clips; restore the upstream file.")
        return pd.DataFrame(
            rows, columns=["row", "item", *(question.name for question in self.questions)], dtype=object
        )

    def _listeners(self, path: Path, table: pd.DataFrame, shares: Sequence[np.ndarray]) -> np.ndarray:
        """How many listeners heard each clip `(N,)`: the first number for which both percentages are whole counts."""
        found = np.zeros(len(table), dtype=int)
        for number in LISTENERS[::-1]:
            counts = np.stack(shares) * number / 100
            # Percentages have two decimals.
            found = np.where((abs(counts - np.round(counts)) <= 0.0051 * number / 100).all(axis=0), number, found)
        said = table["recognised"] + " and " + table["natural"]
        rule = f"must be percentages of {' or '.join(map(str, LISTENERS))} listeners"
        refuse_row(path, table["row"], "recognised and natural", said, found == 0, rule)
        return found
