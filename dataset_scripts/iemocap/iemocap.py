"""IEMOCAP: ten actors in five sessions; several raters name what they hear, others rate three scales, actors rate themselves.

The same answers stand in a file per dialogue and rater, and again in the file of the dialogue. The first are read; lines that
only the second has are added. A rater may name several emotions, so `emotion` is multi-select.
"""

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pandas as pd

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.files import read_text
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

CODES = {"ang": "anger", "hap": "happiness", "exc": "excited", "sad": "sadness", "neu": "neutral", "fru": "frustration"}
CODES |= {"fea": "fear", "sur": "surprise", "dis": "disgust", "oth": "other"}
WORDS = {label: label for label in CODES.values()} | {"neutral state": "neutral"}
SCALES = {"val": "valence", "act": "activation", "dom": "dominance"}
SELF = "_self"
SPLITS = {"4": "validation", "5": "test"}
FOLDERS = ("Categorical", "Attribute", "Self-evaluation")
UTTERANCE = re.compile(r"Ses(?P<session>\d{2})[FM]_\w+_(?P<speaker>[FM])\w+", re.ASCII)
RATED = re.compile(
    r"(?P<dialogue>Ses\d{2}[FM]_\w+)_(?P<rater>[efm]\d+)_(?P<kind>cat|atr)\.txt", re.ASCII | re.IGNORECASE
)
TURN = re.compile(r"\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\s+(?P<item>\S+)\s+(?P<code>\w+)\s+\[(?P<means>[^\]]*)\]")
LINE = re.compile(r"(?P<kind>[CA])-(?P<rater>[EFM]\d+):(?P<answer>[^(]*)(?:\(.*)?")
# What becomes of a rater's line.
USED = "used"
AGAIN = "lines of a rater that repeat a turn, the first used"
OTHERWISE = "answers that the file of the dialogue states otherwise, those of the rater's file used"
SAID = re.compile(r"(?P<item>\S+)\s*\[[^\]]*\]\s*:\s*(?P<text>.*)")


class Iemocap(VoteCorpus):
    """Reader of the full release, whose folder holds `Session1` to `Session5`."""

    name = "iemocap"
    version = "1.0.0"
    license = "other"
    language = "en"
    shareable = "nothing"
    homepage = "https://sail.usc.edu/iemocap/"
    access = (
        "Ask the laboratory for IEMOCAP (see the homepage) and sign its release form; neither audio nor labels, and so no "
        "export of them, may be passed on."
    )
    citation = (
        "Busso, Bulut, Lee, Kazemzadeh, Mower, Kim, Chang, Lee, Narayanan: IEMOCAP: Interactive Emotional Dyadic Motion "
        "Capture Database. Language Resources and Evaluation 42(4), 335-359, 2008. doi:10.1007/s10579-008-9076-6"
    )
    questions = tuple(
        question
        for whose in ("", SELF)
        for question in (
            Question.category(f"emotion{whose}", CODES.values(), multiple=True),
            *(Question.scale(f"{name}{whose}", 1, 5) for name in SCALES.values()),
        )
    )
    default_questions = ("emotion",)

    def read_items(self) -> pd.DataFrame:
        """One row per turn that is labelled; the speaker is the actor whose letter begins the last part of its name."""
        turns, rated = self._turns, set(self._answers["item"])
        items = pd.DataFrame({"item": list(dict.fromkeys([*turns, *sorted(rated)]))})
        parts = items["item"].str.extract(UTTERANCE.pattern)
        items["audio"] = [self._audio.get(name) for name in items["item"]]
        # Where no file is found, the name says where it should be.
        where = "Session" + parts["session"].astype(int).astype(str) + "/sentences/wav/"
        where += items["item"].str.rpartition("_")[0] + "/" + items["item"] + ".wav"
        items["audio"] = items["audio"].where(items["audio"].notna(), where)
        self.note("audio without labels, left out", sorted(set(self._audio) - set(items["item"])))
        self.note("turns that are in no file of a dialogue", list(items["item"][~items["item"].isin(list(turns))]))
        items["speaker"] = "Ses" + parts["session"] + parts["speaker"]
        items["gender"] = parts["speaker"].map({"F": "female", "M": "male"})
        items["session"] = parts["session"].astype(int).astype(str)
        items["dialogue"] = items["item"].str.rpartition("_")[0]
        items["split"] = items["session"].map(SPLITS).fillna("train")
        for name in ("consensus", *(f"consensus_{scale}" for scale in SCALES.values())):
            items[name] = [turns.get(item, {}).get(name) for item in items["item"]]
        texts = self._texts
        items["text"] = [texts.get(item) for item in items["item"]]
        self.note("turns without transcript", list(items["item"][items["text"].isna()]))
        return items

    def read_votes(self) -> VoteTable:
        """Emotions and ratings of raters, and of actors of their own turns as questions of their own."""
        answers = self._answers
        who = answers["item"].str.extract(UTTERANCE.pattern)
        actor = answers["rater"].str[0].isin(["F", "M"])
        partner = actor & (answers["rater"].str[0] != who["speaker"])
        lost = answers[partner]
        self.note("answers of an actor about the partner's turns, left out", list(lost["item"]), votes=len(lost))
        named = answers["rater"].where(~actor, "Ses" + who["session"] + who["speaker"])
        whose = pd.Series("", answers.index).where(~actor, SELF)
        answers = answers.assign(annotator=named, question=answers["question"] + whose)[~partner]
        tables = []
        for scaled in (False, True):
            asked = [question for question in self.questions if question.is_scale == scaled]
            rows = answers[answers["question"].isin([question.name for question in asked])]
            if len(rows):
                columns = {name: rows[name] for name in ("item", "annotator", "question")}
                value = rows["value"].astype(float) if scaled else rows["value"]
                tables.append(VoteTable.from_columns(asked, **columns, value=value, where=self.name))
        if not tables:
            raise ValueError(
                f"{self.name}: no file in dialog/EmoEvaluation of {self.root} has a vote; restore the upstream files."
            )
        return VoteTable.concat(tables)

    @cached_property
    def _sessions(self) -> list[str]:
        """Folders of the sessions, relative to the root."""
        inner = [path for path in self.root.iterdir() if path.is_dir() and path.name[0] != "."]
        homes = [self.root, *(path for path in inner if not path.name.lower().startswith("session"))]
        found = [
            path for home in homes for path in sorted(home.iterdir()) if re.fullmatch(r"(?i)session[1-5]", path.name)
        ]
        if not found:
            raise ValueError(
                f"{self.name}: Session1 is not in {self.root}; pass the folder that holds Session1 to Session5. {self.access}"
            )
        there = {path.name.lower() for path in found}
        self.note("sessions that are not there", [f"Session{n}" for n in range(1, 6) if f"session{n}" not in there])
        return [path.relative_to(self.root).as_posix() for path in found]

    def _listed(self, folder: str, suffix: str) -> Iterator[str]:
        """Paths of the files in a folder of each session; names that begin with '.' are copies of macOS."""
        for session in self._sessions:
            place = self.root / session / folder
            if place.is_dir():
                names = sorted(name for name in os.listdir(place) if name.lower().endswith(suffix) and name[0] != ".")
                yield from (f"{session}/{folder}/{name}" for name in names)

    @cached_property
    def _dialogues(self) -> list[tuple[dict[str, str], str, Path, int]]:
        """Header of the turn, line, file and number of each line below a header."""
        found, listed = [], {}
        for name in self._listed("dialog/EmoEvaluation", ".txt"):
            path, turn = self.label_file(name), None
            for number, line in enumerate(read_text(path).splitlines(), start=1):
                line = line.strip()
                if match := TURN.fullmatch(line):
                    turn = match.groupdict()
                    _check_turn(path, number, turn["item"])
                    # The header itself is a line without an answer.
                    listed.setdefault(turn["item"], []).append(number)
                    found.append((turn, "", path, number))
                elif line and not line.startswith("%"):
                    if turn is None or not LINE.fullmatch(line):
                        _refuse(
                            path,
                            number,
                            line,
                            "must be a turn '[1.0 - 2.0] Ses01F_impro01_F000 neu [2.5, 2.5, 2.5]' or an "
                            "answer 'C-E1: Anger; ()' below one",
                        )
                    found.append((turn, line, path, number))
        if not found:
            raise ValueError(
                f"{self.name}: no file in dialog/EmoEvaluation of {self.root} has a turn; restore the upstream files."
            )
        self.note(
            "turns that stand again in the files of dialogues, the first used",
            [t for t, n in listed.items() if len(n) > 1],
        )
        return found

    @cached_property
    def _turns(self) -> dict[str, dict[str, str | float | None]]:
        """Consensus and its means by turn."""
        turns: dict[str, dict[str, str | float | None]] = {}
        odd = []
        for turn, line, path, number in self._dialogues:
            if line or turn["item"] in turns:
                continue
            if turn["code"] not in (*CODES, "xxx"):
                odd.append(turn["item"])
            means = [pd.to_numeric(text.strip(), errors="coerce") for text in turn["means"].split(",")]
            if len(means) != len(SCALES):
                _refuse(path, number, turn["means"], "must be means of valence, activation and dominance")
            about: dict[str, str | float | None] = {"consensus": (CODES | {"xxx": "no agreement"}).get(turn["code"])}
            turns[turn["item"]] = about | dict(
                zip((f"consensus_{name}" for name in SCALES.values()), means, strict=True)
            )
        self.note("turns whose consensus is no known code", odd)
        return turns

    @cached_property
    def _answers(self) -> pd.DataFrame:
        """Columns item, rater (as E1, F1 or M1), question and value, one row per label or rating."""
        rows, lines, added, differs = [], {}, set(), 0
        for item, rater, kind, answer in self._rated_lines():
            key, said = (item, rater, kind), _plain(answer)
            rows.append((*key, answer, AGAIN if key in lines else USED))
            differs += lines.setdefault(key, said) != said
        for turn, line, _, _ in self._dialogues:
            if not (match := LINE.fullmatch(line)):
                continue
            key, said = (turn["item"], match["rater"], match["kind"]), _plain(match["answer"])
            if key not in lines or key in added:
                rows.append((*key, match["answer"], AGAIN if key in added else USED))
                added.add(key)
                differs += lines.setdefault(key, said) != said
            elif lines[key] != said:
                rows.append((*key, match["answer"], OTHERWISE))
        found = self._values(rows)
        kinds = [row[-1] for row in rows]
        used = found[found["kind"] == USED].drop(columns="kind")
        self.note(AGAIN, kinds.count(AGAIN), votes=int((found["kind"] == AGAIN).sum()))
        self.note("of these, lines that say something else", differs)
        self.note("answers that only the file of the dialogue has, used", len(added))
        # What both files say is one vote.
        contrary = found[found["kind"] == OTHERWISE].drop(columns="kind")
        lost = set(contrary.itertuples(index=False, name=None)) - set(used.itertuples(index=False, name=None))
        self.note(OTHERWISE, kinds.count(OTHERWISE), votes=len(lost))
        return used

    def _rated_lines(self) -> Iterator[tuple[str, str, str, str]]:
        """Turn, rater, kind (C or A) and answer of each line of the files per rater."""
        foreign = []
        for folder in FOLDERS:
            for name in self._listed(f"dialog/EmoEvaluation/{folder}", ".txt"):
                match = RATED.fullmatch(name.rpartition("/")[2])
                if not match:
                    foreign.append(name)
                    continue
                path, rater = self.label_file(name), match["rater"].upper()
                kind = {"cat": "C", "atr": "A"}[match["kind"].lower()]
                for number, line in enumerate(read_text(path).splitlines(), start=1):
                    if not line.strip():
                        continue
                    item, colon, answer = line.partition(":")
                    if not colon:
                        _refuse(path, number, line, "must read 'Ses01F_impro01_F000 :Neutral state; ()'")
                    _check_turn(path, number, item.strip())
                    yield item.strip(), rater, kind, answer.partition("(")[0]
        self.note("files in the folders of raters whose name is no rater's, left out", foreign)

    def _values(self, rows: list[tuple[str, str, str, str, str]]) -> pd.DataFrame:
        """The labels and ratings of answers, with the `kind` of the line; what is none is noted."""
        found, words, outside, blank, twice = [], [], [], 0, 0
        for item, rater, kind, answer, line in rows:
            if kind == "C":
                said = [word.strip().lower() for word in re.split(r"[;:]", answer) if word.strip()]
                words += [f"{item}: {word}" for word in said if word not in WORDS]
                known = [WORDS[word] for word in said if word in WORDS]
                labels = dict.fromkeys(known)
                twice += len(known) - len(labels)
                blank += not said
                found += [(item, rater, "emotion", label, line) for label in labels]
                continue
            ratings = dict(re.findall(r"\b(val|act|dom)\b([^;:]*)", answer))
            for short, name in SCALES.items():
                text = ratings.get(short, "").strip()
                value = pd.to_numeric(text, errors="coerce") if text else None
                if value is None or text.lower() == "nan":
                    blank += 1
                elif not 1 <= value <= 5:
                    outside.append(f"{item}: {short} {text}")
                else:
                    found.append((item, rater, name, float(value), line))
        self.note("emotions outside the ten, left out", words, votes=len(words))
        self.note("ratings that are no number from 1 to 5, left out", outside, votes=len(outside))
        self.note("emotions that an answer repeats, left out", twice, votes=twice)
        self.note("blank answers", blank, expected=True)
        return pd.DataFrame(found, columns=["item", "rater", "question", "value", "kind"], dtype=object)

    @cached_property
    def _texts(self) -> dict[str, str]:
        """Transcript by turn."""
        texts: dict[str, str] = {}
        for name in self._listed("dialog/transcriptions", ".txt"):
            for line in (self.root / name).read_text("utf-8-sig", "replace").splitlines():
                if (match := SAID.fullmatch(line.strip())) and match["text"].strip():
                    texts.setdefault(match["item"], match["text"].strip())
        return texts

    @cached_property
    def _audio(self) -> dict[str, str]:
        """Path of the audio by turn."""
        found = {}
        for session in self._sessions:
            for path in sorted((self.root / session / "sentences" / "wav").glob("*/*.wav")):
                if UTTERANCE.fullmatch(path.stem):
                    found[path.stem] = path.relative_to(self.root).as_posix()
        return found


def _plain(answer: str) -> tuple[str, ...]:
    """An answer without punctuation, spelling and order, to compare it."""
    words = (" ".join(word.split()).lower() for word in re.split(r"[;:]", answer) if word.strip())
    return tuple(sorted(WORDS.get(word, word) for word in words))


def _check_turn(path: Path, number: int, item: str) -> None:
    """Raise unless a turn has a name of upstream's form, which is a plain file name."""
    if not UTTERANCE.fullmatch(item):
        _refuse(path, number, item, "must be a turn such as Ses01F_impro01_F000")


def _refuse(path: Path, number: int, value: str, rule: str) -> None:
    """Raise for a line of a file."""
    raise ValueError(f"{path}: line {number} has {value!r:.200}; it {rule}, so restore the upstream file.")
