"""MSP-IMPROV: pairs of actors in improvised scenes; each rater names an emotion, all they see, and rates four scales.

Upstream writes activation from high to low, and the reader turns it round; see `ACTIVATION_ENDS`.
"""

import os
import re
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.encoding import refuse_row
from annot_hf.data.questions import Question
from annot_hf.data.rater_lines import RATER_FIELDS, rater_blocks, text_matches
from annot_hf.data.votes import VoteTable

LETTERS = {"A": "angry", "S": "sad", "H": "happy", "N": "neutral", "O": "other"}
SECONDARY = ("depressed", "frustrated", "angry", "sad", "disgust", "excited", "fear", "neutral", "surprise", "happy")
SCALES = {"A": "activation", "V": "valence", "D": "dominance", "N": "naturalness"}
# Low and high end together: activation = ACTIVATION_ENDS - what is written.
ACTIVATION_ENDS = 6
SCENARIOS = {"P": "natural interaction", "R": "target read", "S": "other improvised", "T": "target improvised"}
SPLITS = {"05": "validation", "06": "test"}
CLIP = re.compile(
    r"(?:UTD|MSP)-IMPROV-(?P<key>S(?P<sentence>\d{2})(?P<target>[AHSN])-(?P<speaker>(?P<gender>[FM])(?P<session>\d{2}))"
    r"-(?P<scenario>[PRST])-[FM]{1,2}\d{2,3})(?:\.(?i:avi|wav|txt))?",
    re.ASCII,
)
NAMED = "must be a name such as UTD-IMPROV-S01A-F01-S-FM01.avi"
TRANSCRIPTS = ("all_human_transcriptions", "human_transcriptions", "text")


class MspImprov(VoteCorpus):
    """Reader of `Evalution.txt`, whose name upstream misspells."""

    name = "msp_improv"
    version = "1.0.0"
    license = "other"
    language = "en"
    shareable = "nothing"
    homepage = "https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Improv.html"
    access = (
        "Ask the laboratory for MSP-IMPROV (see the homepage) and sign its licence agreement; neither audio nor labels, and "
        "so no export of them, may be passed on."
    )
    citation = (
        "Busso, Parthasarathy, Burmania, AbdelWahab, Sadoughi, Mower Provost: MSP-IMPROV: An Acted Corpus of Dyadic "
        "Interactions to Study Emotion Perception. IEEE Transactions on Affective Computing 8(1), 67-80, 2017. "
        "doi:10.1109/TAFFC.2016.2515617"
    )
    questions = (
        Question.category("emotion", LETTERS.values()),
        Question.category("emotion_secondary", SECONDARY, multiple=True, secondary_to="emotion"),
        *(Question.scale(name, 1, 5) for name in SCALES.values()),
    )
    default_questions = ("emotion",)

    def read_items(self) -> pd.DataFrame:
        """One row per clip of the label file, called by its audio file."""
        clips, _ = self._blocks
        again = clips["item"].duplicated()
        self.note("clips whose block stands again, the first consensus used", sorted(set(clips["item"][again])))
        clips = clips[~again].reset_index(drop=True)
        items = clips[["item"]].copy()
        items["audio"] = items["item"].map(self._files[".wav"])
        labelled = set(items["item"])
        self.note("audio without labels, left out", sorted(set(self._files[".wav"]) - labelled))
        for name in ("speaker", "gender", "session", "sentence"):
            items[name] = clips[name]
        items["gender"] = items["gender"].map({"F": "female", "M": "male"})
        items["target"] = clips["target"].map(LETTERS)
        items["scenario"] = clips["scenario"].map(SCENARIOS)
        items["split"] = items["session"].map(SPLITS).fillna("train")
        items["consensus"] = clips["EmoClass"].map(LETTERS | {"X": "no agreement"})
        self.note("clips whose consensus class is no known letter", list(items["item"][items["consensus"].isna()]))
        for name in SCALES.values():
            items[f"consensus_{name}"] = turned(name, pd.to_numeric(clips[name], errors="coerce"))
        if texts := self._files[".txt"]:
            paths = items["item"].map(texts)
            read = [
                (self.root / path).read_text("utf-8-sig", "replace") if isinstance(path, str) else "" for path in paths
            ]
            items["text"] = [text.strip() or None for text in read]
            self.note("clips without transcript", list(items["item"][items["text"].isna()]))
        return items

    def read_votes(self) -> VoteTable:
        """All rater lines as votes: the emotion, what else they see, and the scales."""
        _, lines = self._blocks
        again = lines.duplicated(["item", "WorkerID"])
        tables, lost = [], 0
        for question in self.questions:
            rows = {"emotion": self._primary, "emotion_secondary": self._secondary}.get(question.name, self._rating)(
                question.name, lines
            )
            repeats = again.loc[rows.index].to_numpy()
            rows, lost = rows[~repeats], lost + int(repeats.sum())
            if len(rows):
                columns = {"item": rows["item"], "annotator": rows["WorkerID"], "value": rows["value"]}
                tables.append(VoteTable.from_columns(question, **columns, where=self.name))
        plain = lines.duplicated(["item", "WorkerID", *RATER_FIELDS[1:], *SCALES.values()])
        self.note("rater lines that repeat a clip and rater, left out", int(again.sum()), votes=lost)
        self.note("of these, lines that say something else", int((again & ~plain).sum()))
        return VoteTable.concat(tables)

    def _primary(self, name: str, lines: pd.DataFrame) -> pd.DataFrame:
        """One label a line."""
        words = lines["EmoClass_Major"].str.lower()
        free_text = words.str.match(r"other\b.+")
        self.note("primary labels Other with free text", int(free_text.sum()), expected=True)
        value = words.where(~free_text, "other")
        odd = ~value.isin(LETTERS.values())
        self.note(
            "primary labels outside the five, left out", sorted(set(lines["EmoClass_Major"][odd])), votes=int(odd.sum())
        )
        return lines[["item", "WorkerID"]].assign(value=value)[~odd]

    def _secondary(self, name: str, lines: pd.DataFrame) -> pd.DataFrame:
        """Each label of a line once; a line without any is a vote for none."""
        words = lines["EmoClass_Second"].str.lower().str.split(r"[,;/+&|]", regex=True)
        rows = lines[["item", "WorkerID"]].assign(line=np.arange(len(lines)), value=words).explode("value")
        rows["value"] = rows["value"].str.strip()
        blank, known = rows["value"] == "", rows["value"].isin(SECONDARY)
        other = ~blank & ~known
        self.note(
            "secondary words outside the ten, left out", sorted(set(rows["value"][other])), votes=int(other.sum())
        )
        again = rows.duplicated(["line", "value"]) & known
        self.note("secondary labels that a line repeats, left out", int(again.sum()), votes=int(again.sum()))
        # A rater of whom only other words are known has not chosen none.
        empty = ~(known | other).groupby(rows["line"]).transform("any") & ~rows.duplicated("line")
        rows.loc[empty, "value"] = None
        return rows[(known & ~again) | empty]

    def _rating(self, name: str, lines: pd.DataFrame) -> pd.DataFrame:
        """Ratings from 1 to 5."""
        texts = lines[name]
        value = pd.to_numeric(texts, errors="coerce")
        blank = texts.str.lower().isin(["", "nan"])
        bad = ~blank & ~value.between(1, 5)
        refuse_row(self._path, lines["row"], name, texts, bad, "must be 1 to 5 or NaN")
        # In the published file, many of dominance and naturalness.
        self.note(f"blank or NaN ratings of {name}", int(blank.sum()), expected=True)
        return lines[["item", "WorkerID"]].assign(value=turned(name, value))[~blank]

    @cached_property
    def _path(self) -> os.PathLike:
        return self.label_file("Evalution.txt", "Evaluation.txt", "evalution.txt", "evaluation.txt")

    @cached_property
    def _blocks(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Lines about clips, with the parts of their names, and rater lines; both have `item` and `row`."""
        parts: tuple[list[pa.Table], list[pa.Table]] = ([], [])
        for both in rater_blocks(self._path, SCALES):
            for found, batch in zip(parts, both, strict=True):
                found.append(
                    pa.table(
                        {
                            name: pc.utf8_trim_whitespace(pc.cast(column, pa.string()).fill_null(""))
                            if name != "row"
                            else column
                            for name, column in batch.items()
                        }
                    )
                )
        clips, lines = (pa.concat_tables(found).to_pandas() for found in parts)
        if not len(lines):
            raise ValueError(f"{self._path} has no rater lines; restore the upstream file.")
        for table in (clips, lines):
            names = table["FileName"]
            refuse_row(
                self._path, table["row"], "FileName", names, ~names.map(lambda name: bool(CLIP.fullmatch(name))), NAMED
            )
            table["item"] = names.map(audio_name)
        rater = lines["WorkerID"]
        refuse_row(
            self._path, lines["row"], "WorkerID", rater, ~text_matches(rater, r"^[\w-]+$"), "must name the rater"
        )
        about = pd.DataFrame([CLIP.fullmatch(name).groupdict() for name in clips["FileName"]])
        return pd.concat([clips, about], axis=1), lines

    @cached_property
    def _files(self) -> dict[str, dict[str, str]]:
        """Relative path of the audio and of the transcript of each clip, by suffix and item."""
        found: dict[str, dict[str, str]] = {".wav": {}, ".txt": {}}
        again = []
        for folder, inner, names in os.walk(self.root):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            place = os.path.relpath(folder, self.root)
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                suffix = suffix.lower()
                text = suffix != ".txt" or place.split(os.sep)[0].lower() in TRANSCRIPTS
                if suffix in found and text and CLIP.fullmatch(name):
                    path = name if place == "." else f"{place}/{name}".replace(os.sep, "/")
                    again += [path] if audio_name(name) in found[suffix] else []
                    found[suffix].setdefault(audio_name(name), path)
        self.note("files that stand again in another folder, left out", again)
        return found


def audio_name(name: str) -> str:
    """The name of a clip's audio file.

    Example:
        >>> audio_name("UTD-IMPROV-S01A-F01-S-FM01.avi")
        'MSP-IMPROV-S01A-F01-S-FM01.wav'
    """
    return f"MSP-IMPROV-{CLIP.fullmatch(name)['key']}.wav"


def turned(name: str, ratings: pd.Series) -> pd.Series:
    """Ratings from low to high, as which all scales but activation are written."""
    return ACTIVATION_ENDS - ratings if name == "activation" else ratings
