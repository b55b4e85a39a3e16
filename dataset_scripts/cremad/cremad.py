"""CREMA-D: 91 actors, 12 sentences, 6 acted emotions; crowd votes on the voice, the face and both together.

`processedResults/tabulatedVotes.csv` holds vote counts of anonymous raters; the first digit of its row key is the modality.
`finishedResponses.csv` holds the responses of named raters. The counts already include them (except a few that upstream
dropped before counting), so adding both would count raters twice. Therefore the responses have their own questions,
`voice_responses` and so on, with the intensity in `voice_level` and so on.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.encoding import csv_frame
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

EMOTIONS = {"A": "anger", "D": "disgust", "F": "fear", "H": "happy", "N": "neutral", "S": "sad"}
ACTED = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
MODALITIES = {"1": "voice", "2": "face", "3": "audiovisual"}
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
AUDIO_FOLDERS = {"AudioWAV": ".wav", "AudioMP3": ".mp3", "AudioOpus": ".opus"}
CLIP = re.compile(rf"(\d{{4}})_([A-Z]{{3}})_({'|'.join(ACTED)})_({'|'.join(LEVELS)})")


def canonical(name: str) -> str:
    """The regular spelling of a clip name: no folder or extension, upper case, level `X` written `XX`."""
    stem = re.sub(r"\.(wav|mp3|opus|flv)$", "", str(name).strip(), flags=re.IGNORECASE).upper()
    return re.sub(r"_X$", "_XX", stem)


class CremaD(VoteCorpus):
    """Reader of the upstream layout; `AudioWAV` is preferred, then `AudioMP3`, then `AudioOpus`."""

    name = "cremad"
    version = "1.0.0"
    license = "odbl"
    language = "en"
    shareable = "everything"
    homepage = "https://github.com/CheyneyComputerScience/CREMA-D"
    access = (
        "Contents under DbCL 1.0. Clone the upstream repository with Git LFS; derived databases stay under ODbL 1.0, "
        "and the authors ask users to fill in the form in its README."
    )
    citation = (
        "Cao, Cooper, Keutmann, Gur, Nenkova, Verma: CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset. "
        "IEEE Transactions on Affective Computing 5(4), 377-390, 2014. doi:10.1109/TAFFC.2014.2336244"
    )
    questions = (
        *(Question.category(name, EMOTIONS.values()) for name in MODALITIES.values()),
        *(Question.category(f"{name}_responses", EMOTIONS.values()) for name in MODALITIES.values()),
        *(Question.scale(f"{name}_level", 0, 100) for name in MODALITIES.values()),
    )
    default_questions = ("voice",)

    def read_items(self) -> pd.DataFrame:
        """One row per clip of the tables or of the audio folders."""
        clips = sorted({*self._counts["clip"], *self._responses["clip"], *self._audio})
        parts = [CLIP.fullmatch(clip).groups() for clip in clips]
        items = pd.DataFrame(parts, columns=["speaker", "sentence", "acted", "level"])
        items["text"] = items["sentence"].map(SENTENCES)
        items["acted"] = items["acted"].map(ACTED)
        items["level"] = items["level"].map(LEVELS)
        items.insert(0, "item", clips)
        self.note("clips of a sentence that upstream does not list", list(items["item"][items["text"].isna()]))
        items["audio"] = items["item"].map(self._audio)
        actors = pd.DataFrame(columns=["ActorID", "Sex", "Age"], dtype=str)
        if path := self.label_file("VideoDemographics.csv", required=False):
            actors = _read(path, actors.columns).drop_duplicates("ActorID")
        actors = actors.set_index("ActorID").reindex(items["speaker"])
        items["sex"] = actors["Sex"].str.lower().to_numpy()
        items["age"] = pd.to_numeric(actors["Age"], errors="coerce").to_numpy()
        self.note("actors without demographics", sorted(set(actors.index[actors["Age"].isna()])))
        return items

    def read_votes(self) -> VoteTable:
        """Anonymous votes from the counts, and the responses of named raters as separate questions."""
        tables = []
        for modality, rows in self._counts.groupby("modality", sort=False):
            question = next(question for question in self.questions if question.name == modality)
            # Letters, in the order of the labels.
            counts = rows[list(EMOTIONS)].to_numpy()
            tables.append(VoteTable.from_counts(question, rows["clip"], counts, source="tabulatedVotes"))
        for answer, column in (("responses", "emotion"), ("level", "level")):
            if len(self._responses):
                tables.append(
                    VoteTable.from_columns(
                        [question for question in self.questions if question.name.endswith(f"_{answer}")],
                        item=self._responses["clip"],
                        annotator=self._responses["localid"],
                        question=self._responses["modality"] + f"_{answer}",
                        value=self._responses[column],
                        source="finishedResponses",
                        duplicates="first",
                        unknown="drop",
                        where="finishedResponses.csv",
                    )
                )
        return VoteTable.concat(tables)

    def split_of(self, items: pd.DataFrame) -> pd.Series:
        """By actor: 1043-1048 validation, 1049-1060 test, others train, so that any part of the corpus has the same split."""
        actor = items["speaker"].astype(int)
        split = np.select([actor.between(1043, 1048), actor.between(1049, 1060)], ["validation", "test"], "train")
        return pd.Series(split, index=items.index)

    @cached_property
    def _counts(self) -> pd.DataFrame:
        """Columns clip, modality and one count per emotion letter."""
        path = self.label_file("processedResults/tabulatedVotes.csv")
        table = _read(path, [*EMOTIONS, "fileName", "numResponses"])
        table["modality"] = table["key"].str[0].map(MODALITIES)
        if (bad := table["modality"].isna() | ~table["key"].str.fullmatch(r"\d{6}")).any():
            key = table["key"][bad].iloc[0]
            raise ValueError(
                f"{path}: row key {key!r} is not six digits starting with 1 (voice), 2 (face) or 3 (both)."
            )
        for letter in EMOTIONS:
            counts = pd.to_numeric(table[letter], errors="coerce")
            if (bad := ~(counts >= 0) | (counts % 1 != 0)).any():
                row = int(bad.idxmax())
                raise ValueError(
                    f"{path}: row {table['key'][row]} has {table[letter][row]!r} votes for {EMOTIONS[letter]}; counts "
                    "are whole numbers from 0 up."
                )
            table[letter] = counts.astype(int)
        total = table[list(EMOTIONS)].sum(axis=1)
        differs = pd.to_numeric(table["numResponses"], errors="coerce") != total
        self.note("table rows whose numResponses is not the sum of the counts", list(table["key"][differs]))
        table = self._name_clips(table, "fileName", "tabulatedVotes", total)
        repeated = table.sort_values("respelt", kind="stable").duplicated(["clip", "modality"]).reindex(table.index)
        self.note(
            "repeated table rows", list(table["fileName"][repeated]), votes=int(total[repeated[repeated].index].sum())
        )
        return table[~repeated]

    @cached_property
    def _responses(self) -> pd.DataFrame:
        """Columns clip, modality, localid, emotion and level, one row per response; empty without the file."""
        path = self.label_file("finishedResponses.csv", "finishedResponses_subset.csv", required=False)
        if path is None:
            return pd.DataFrame({"clip": []}, dtype=str)
        table = _read(path, ["localid", "queryType", "clipName", "respEmo", "respLevel"])
        table["modality"] = table["queryType"].map(MODALITIES)
        if (bad := table["modality"].isna()).any():
            row = int(bad.idxmax())
            raise ValueError(f"{path}: data row {row} has queryType {table['queryType'][row]!r}; it is 1, 2 or 3.")
        table["emotion"] = table["respEmo"].map(EMOTIONS)
        table["level"] = pd.to_numeric(table["respLevel"], errors="coerce")
        return self._name_clips(table, "clipName", "finishedResponses", pd.Series(2, index=table.index))

    @cached_property
    def _audio(self) -> dict[str, str]:
        """Clip name -> relative path of its audio, from the first folder that has it."""
        found: dict[str, str] = {}
        odd, respelt, aside = [], [], []
        for folder, suffix in AUDIO_FOLDERS.items():
            paths = [path for path in (self.root / folder).glob("*") if path.suffix.lower() == suffix]
            clips: dict[str, str] = {}
            for path in sorted(
                paths,
                key=lambda path: (path.stem != canonical(path.stem), path.name),
                # Exact names first.
            ):
                clip = canonical(path.stem)
                if not CLIP.fullmatch(clip):
                    odd.append(path.name)
                elif clip in clips:
                    aside.append(path.name)
                else:
                    clips[clip] = f"{folder}/{path.name}"
                    respelt += [f"{path.name} for {clip}"] if path.stem != clip else []
            found = clips | found
        self.note("audio files whose name is no clip name, left out", odd)
        self.note("audio files with a misspelt name, matched", respelt)
        self.note("audio files that repeat a clip, left out", aside)
        return found

    def _name_clips(self, table: pd.DataFrame, column: str, what: str, votes: pd.Series) -> pd.DataFrame:
        """Add the column `clip`; rows without a valid clip name are left out and noted with their votes."""
        names = pd.Series({name: canonical(name) for name in table[column].unique()}, dtype=str)
        table["clip"] = table[column].map(names)
        table["respelt"] = table["clip"] != table[column]
        known = table["clip"].str.fullmatch(CLIP.pattern)
        self.note(
            f"{what}: rows whose name is no clip name", list(table[column][~known]), votes=int(votes[~known].sum())
        )
        respelt = table[known & table["respelt"]].drop_duplicates(column)
        self.note(f"{what}: misspelt clip names, matched", list(respelt[column] + " for " + respelt["clip"]))
        return table[known]


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """The named columns of a CSV file as text, and as `key` the first other one, which has no name upstream."""
    table = csv_frame(path, columns, further=True).drop(columns="row")
    table = table.apply(lambda column: column.str.strip())
    return table[list(columns)].assign(key=table.iloc[:, -1 if len(table.columns) == len(columns) else len(columns)])
