"""MSP-Podcast: natural speech from podcasts; each rater names one emotion, any further ones, and rates three scales.

The same rater lines exist as `labels_detailed.csv` in three versions (releases 1.6; 1.7 to 1.12; 2.0), as
`labels_detailed.json` and as `labels.txt`. Each form is parsed into the same text columns, batch by batch. Release 2.0 has 1.4
million lines, so there are no loops over lines: Arrow splits them and encodes each column, and each distinct word is
interpreted once.
"""

import os
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from annot_hf.data.corpus import NO_SPEAKER, VoteCorpus
from annot_hf.data.encoding import (
    compact,
    csv_batches,
    csv_frame,
    dictionary,
    encode_column,
    json_entries,
    line_batches,
    refuse_row,
)
from annot_hf.data.questions import Question
from annot_hf.data.rater_lines import LineColumns, cut_rater_lines, rater_blocks, text_matches
from annot_hf.data.votes import VoteTable

LETTERS = dict(zip("ASHUFDCNO", "angry sad happy surprise fear disgust contempt neutral other".split(), strict=True))
LABELS = tuple(LETTERS.values())
OTHER = LABELS.index("other")
# Labels for further words, after arXiv 2606.27536.
NEAR = dict.fromkeys(("annoyed", "frustrated", "hostile"), "angry")
NEAR |= dict.fromkeys(("depressed", "disappointed", "concerned"), "sad") | dict.fromkeys(("excited", "amused"), "happy")
SCALES = {"activation": "EmoAct", "valence": "EmoVal", "dominance": "EmoDom"}
RATINGS = dict(zip("AVD", SCALES.values(), strict=True))
ANSWERS = ("EmoClass_Major", "EmoClass_Second", *SCALES.values())
CONSENSUS = ("EmoClass", *SCALES.values(), "SpkrID", "Gender", "Split_Set")
SPLITS = {"": None, "train": "train", "development": "validation", "validation": "validation"}
SPLITS |= {name: name for name in ("test", "test1", "test2", "test3")}
SPELLINGS = {"label": "labels", "audio": "audios", "partition.txt": "partitions.txt"}
NAME = r"^[\w-][\w.-]*\.(?i:wav)$"
PAIR = r"^\s*(?P<first>[^;]*?)\s*;\s*(?P<second>[^;]*?)\s*;?\s*$"
BLANK = "(?i)^(nan|n/?a|none|null)?$"
PLAIN = "must be a plain name such as MSP-PODCAST_0001_0008.wav"


class MspPodcast(VoteCorpus):
    """Reader of releases 1.6 to 2.0."""

    name = "msp_podcast"
    version = "1.0.0"
    license = "other"
    language = "en"
    shareable = "nothing"
    homepage = "https://lab-msp.com/MSP/MSP-Podcast.html"
    access = (
        "Ask the laboratory for MSP-Podcast (see the homepage) and sign its licence agreement; neither audio nor labels, "
        "and so no export of them, may be passed on."
    )
    citation = (
        "Lotfian, Busso: Building Naturalistic Emotionally Balanced Speech Corpus by Retrieving Emotional Speech From "
        "Existing Podcast Recordings. IEEE Transactions on Affective Computing 10(4), 471-483, 2019. "
        "doi:10.1109/TAFFC.2017.2736999"
    )
    questions = (
        Question.category("emotion", LETTERS.values()),
        Question.category("emotion_secondary", LABELS, multiple=True, secondary_to="emotion"),
        *(Question.scale(name, 1, 7) for name in SCALES),
    )
    default_questions = ("emotion",)

    def __init__(self, root: str | os.PathLike) -> None:
        super().__init__(root)
        if release := re.search(r"(?<![\d.])1\.[0-5](?!\d)", self.root.name):
            raise ValueError(
                f"{self.root} is release {release[0]}, and releases 1.0 to 1.5 hold other label files; obtain a later one."
            )

    def read_items(self) -> pd.DataFrame:
        """One row per turn of the consensus labels, of the partition, or of the audio folder (unlabelled test turns)."""
        audio = self._files("audios", ".wav")
        names = list(dict.fromkeys([*self._consensus.index, *self._partition.index, *sorted(audio)]))
        items = pd.DataFrame({"item": pd.Series(names, dtype=object)})
        labels = self._consensus.reindex(names).reset_index(drop=True)
        speakers, genders = self._speakers
        listed = items["item"].map(self._partition)
        differs = labels["split"].notna() & listed.notna() & (labels["split"] != listed)
        self.note("turns in another split of the partition file, Split_Set used", list(items["item"][differs]))
        withheld = items["item"].str.contains("_test3_", case=False).map({True: "test3", False: None})
        items["split"] = labels["split"].fillna(listed).fillna(withheld)
        stated = labels["SpkrID"].where(labels["SpkrID"].str.fullmatch(r"\d+", na=False))
        items["speaker"] = stated.fillna(items["item"].map(speakers))
        # Every release calls some speakers Unknown, and unlabelled test turns name none.
        known = items["speaker"].notna() | labels["SpkrID"].isna() | (labels["SpkrID"].str.lower() == "unknown")
        self.note(NO_SPEAKER, list(items["item"][items["speaker"].isna()]), expected=bool(known.all()))
        stated = labels["Gender"].str.lower().where(labels["Gender"].str.fullmatch("male|female", case=False, na=False))
        items["gender"] = stated.fillna(items["speaker"].map(genders))
        items["consensus"] = labels["EmoClass"].map(LETTERS | {"X": "no agreement"})
        for name, column in SCALES.items():
            items[f"consensus_{name}"] = labels[column].astype(float)
        items["audio"] = [audio.get(name) for name in names]
        self.note("audio without labels", list(items["item"][labels["EmoClass"].isna() & items["audio"].notna()]))
        if texts := self._files("transcripts", ".txt"):
            paths = [texts.get(f"{os.path.splitext(name)[0]}.txt") for name in names]
            read = [(self.root / path).read_text("utf-8-sig", "replace") if path else "" for path in paths]
            items["text"] = [text.strip() or None for text in read]
            self.note("turns without transcript", list(items["item"][items["text"].isna()]))
        adrift = items["split"].isna()
        self.note("turns in no split, left out", list(items["item"][adrift]))
        return items[~adrift].reset_index(drop=True)

    def read_votes(self) -> VoteTable:
        """All rater lines as votes: first all of `emotion`, then of `emotion_secondary`, then scale by scale."""
        path = self._label("labels_detailed.csv", "labels_detailed.json", "labels.txt")
        rows, coded = _coded_lines(path)
        (items, files), (raters, workers) = coded.pop("FileName"), coded.pop("WorkerID")
        refuse_row(path, rows, "FileName", files[items], ~text_matches(files, NAME)[items], PLAIN)
        refuse_row(path, rows, "WorkerID", workers[raters], (workers == "")[raters], "must name the rater")
        parts = [self._primary(*coded["EmoClass_Major"]), self._secondary(*coded["EmoClass_Second"])]
        for name, column in SCALES.items():
            parts.append(self._ratings(path, rows, name, *coded[column]))
        keys = items.astype(np.int64) * len(workers) + raters
        repeated = self._repeated(keys, coded)
        # A later line may answer what the first one does not.
        kept = [
            line == pd.Series(line).groupby(keys[line]).transform("first").to_numpy() if repeated.any() else line >= 0
            for line, _ in parts
        ]
        lost = sum(int((~keep).sum()) for keep in kept)
        reason = "rater lines that repeat a file and rater, used where the first has no answer"
        self.note(reason, int(repeated.sum()), votes=lost)
        parts = [(line[keep], values[keep]) for keep, (line, values) in zip(kept, parts, strict=True)]
        line = np.concatenate([line.astype(np.int32) for line, _ in parts])
        asked = np.repeat(np.arange(len(parts), dtype=np.int32), [len(line) for line, _ in parts])
        label, rating = np.full(len(line), -1, np.int32), np.full(len(line), np.nan)
        for index, question in enumerate(self.questions):
            (rating if question.is_scale else label)[asked == index] = parts[index][1]
        columns = {
            "item": dictionary(*compact(items[line], files)),
            "annotator": dictionary(*compact(raters[line], workers)),
            "question": dictionary(asked, [question.name for question in self.questions]),
            "label": dictionary(label, LABELS),
            "rating": pa.array(rating, from_pandas=True),
        }
        return VoteTable.from_arrow(pa.table(columns), self.questions)

    def _primary(self, codes: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lines with a primary label, and the code of each."""
        labels, free_text = _label_codes(pa.array(words, pa.string()))
        self.note("primary labels Other with free text", int(free_text[codes].sum()), expected=True)
        odd = (labels < 0)[codes]
        self.note("primary labels outside the nine, left out", list(words[np.unique(codes[odd])]), votes=int(odd.sum()))
        return np.flatnonzero(~odd), labels[codes[~odd]]

    def _secondary(self, codes: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lines and label codes of the secondary votes, each label once per line; -1 if a rater chose nothing."""
        lists = pc.split_pattern_regex(pa.array(words, pa.string()), r"[,;/+&]|(?i:\band\b)")
        texts, owner = pc.utf8_trim_whitespace(lists.flatten()), pc.list_parent_indices(lists).to_numpy()
        labels, free_text = _label_codes(texts)
        # "other" if the primary label is Other; see `_coded_lines`.
        first = np.diff(owner, prepend=-1) > 0
        others = np.cumsum(labels == OTHER)
        # The number of earlier ones in the same line.
        others -= (others - (labels == OTHER))[first][owner]
        near = _near_codes(texts)
        labels, free_text = np.where(near >= 0, near, labels), free_text & (near < 0)
        # Free text follows Other.
        odd = (labels < 0) & (others == 0) & ~text_matches(texts, "^$")
        chosen = (labels >= 0) & ~first
        again = np.zeros(len(texts), dtype=bool)
        again[chosen] = pd.Series((owner * len(LABELS) + labels)[chosen]).duplicated()
        chosen &= ~again
        told, lost, repeats = (np.bincount(owner, part, len(words))[codes] for part in (chosen & free_text, odd, again))
        self.note("secondary labels Other with free text", int(np.count_nonzero(told)), expected=True)
        names = texts.filter(pa.array(odd)).unique().to_pylist()
        self.note("secondary words like none of the nine labels, left out", names, votes=int(lost.sum()))
        self.note("secondary words for a label that the rater gave before, one vote", int(repeats.sum()))
        silent = np.setdiff1d(np.arange(len(words)), owner[chosen | odd])
        owner, labels = np.append(owner[chosen], silent), np.append(labels[chosen], np.full(len(silent), -1))
        labels, sizes = labels[np.argsort(owner, kind="stable")], np.bincount(owner, minlength=len(words))
        starts, sizes = (np.cumsum(sizes) - sizes)[codes], sizes[codes]
        place = np.arange(sizes.sum()) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
        return np.repeat(np.arange(len(codes)), sizes), labels[place]

    def _ratings(
        self, path: Path, rows: np.ndarray, name: str, codes: np.ndarray, words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lines with a rating, and the ratings, from 1 to 7."""
        values = pd.to_numeric(pd.Series(words, dtype=object), errors="coerce").to_numpy(np.float64)
        blank = text_matches(words, BLANK)
        bad, blank = ~(blank | (values >= 1) & (values <= 7))[codes], blank[codes]
        refuse_row(path, rows, SCALES[name], words[codes], bad, "must be 1 to 7 or blank")
        # Raters left some out in every release.
        self.note(f"blank or NaN ratings of {name}", int(blank.sum()), expected=True)
        return np.flatnonzero(~blank), values[codes[~blank]]

    def _repeated(self, keys: np.ndarray, answers: dict[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Which lines repeat an earlier line of the same file and rater."""
        repeated = pd.Series(keys).duplicated().to_numpy()
        if repeated.any():
            line = np.flatnonzero(np.isin(keys, keys[repeated]))
            first = pd.Series(line).groupby(keys[line]).transform("first").to_numpy()
            differs = np.any([codes[line] != codes[first] for codes, _ in answers.values()], axis=0)
            self.note("of these, lines that say something else", int(differs.sum()))
        return repeated

    @cached_property
    def _consensus(self) -> pd.DataFrame:
        """The consensus label, attributes, speaker, gender and split of each labelled turn."""
        names = [f"labels_con{letter}ensus.{suffix}" for suffix in ("csv", "json") for letter in "sc"]
        path = self._label(*names, required="partitions.txt" not in self._entries)
        if path is None:
            return pd.DataFrame(columns=[*CONSENSUS[:-1], "split"], dtype=object)
        if path.suffix.lower() == ".csv":
            table = csv_frame(path, ("FileName", *CONSENSUS)).astype(object)
        else:
            # A turn may stand there twice.
            entries = list(json_entries(path))
            if not entries:
                raise ValueError(f"{path} has no rows; restore the upstream file.")
            turns, values = zip(*entries, strict=True)
            found = _fields(path, pa.array(turns), values, CONSENSUS, 1)
            table = pa.table(found).to_pandas().astype(object)
        for column in ("FileName", *CONSENSUS):
            table[column] = table[column].str.strip()
        odd = ~table["EmoClass"].isin([*LETTERS, "X"])
        self.note("turns whose consensus class is no known letter", list(table["FileName"][odd]))
        for column in SCALES.values():
            words, table[column] = table[column], pd.to_numeric(table[column], errors="coerce")
            odd = words.notna() & ~table[column].between(1, 7) & ~text_matches(words, BLANK)
            told = f"{path.name}, row " + table["row"][odd].astype(str) + ": " + words[odd]
            self.note(f"consensus {column} that is no number from 1 to 7, left out", list(told))
            table[column] = table[column].mask(odd)
        return self._by_name(path, table.rename(columns={"Split_Set": "split"}), "FileName")

    @cached_property
    def _partition(self) -> pd.Series:
        """The split of each turn in the partition file."""
        path = self._label("partitions.txt", required=False)
        if path is None:
            return pd.Series(dtype=object)
        return self._by_name(path, _pairs(path).rename(columns={"first": "split"}), "second")["split"]

    @cached_property
    def _speakers(self) -> tuple[dict[str, str], dict[str, str]]:
        """Speaker of each turn, and gender of each speaker, as far as `Speaker_ids.txt` knows them."""
        path = self._label("speaker_ids.txt", required=False)
        if path is None:
            return {}, {}
        pairs = _pairs(path)
        pairs = pairs[pairs["second"].str.lower() != "unknown"]
        speaker = pairs["first"].str.extract(r"(?i)^speaker_(\d+)$", expand=False)
        turns, genders = pairs[speaker.isna()], pairs["second"][speaker.notna()].str.lower()
        people = dict(zip(speaker.dropna(), genders, strict=True))
        return dict(zip(turns["first"], turns["second"], strict=True)), people

    def _by_name(self, path: Path, table: pd.DataFrame, column: str) -> pd.DataFrame:
        """The table by file name, each once, with `split` in our names (null where none is stated)."""
        names, split = table[column], table["split"].fillna("").str.lower()
        refuse_row(path, table["row"], "FileName", names, ~text_matches(names, NAME), PLAIN)
        rule = "must be Train, Development, Validation or Test1 to Test3"
        refuse_row(path, table["row"], "split", table["split"], ~split.isin(SPLITS), rule)
        self.note(f"{path.name}: turns listed again, the first row used", list(names[names.duplicated()]))
        return table.assign(split=split.map(SPLITS).astype(object)).drop_duplicates(column).set_index(column)

    @cached_property
    def _entries(self) -> dict[str, str]:
        """Paths of the files in the root and its label folder, by name in lower case and one spelling."""
        found = {}
        for name in sorted(os.listdir(self.root)):
            key = SPELLINGS.get(name.lower(), name.lower())
            found[key] = name
            if key == "labels" and (self.root / name).is_dir():
                found |= {entry.lower(): f"{name}/{entry}" for entry in sorted(os.listdir(self.root / name))}
        return found

    def _label(self, *names: str, required: bool = True) -> Path | None:
        """The first of these label files that is there."""
        there = [self._entries[name] for name in names if name in self._entries]
        if not there and required:
            raise ValueError(
                f"{self.name}: {' or '.join(names)} is not in {self.root} or its folder Labels; pass the folder of a release "
                f"from 1.6 on (1.0 to 1.5 hold other label files). {self.access}"
            )
        return self.label_file(there[0]) if there else None

    def _files(self, folder: str, suffix: str) -> dict[str, str]:
        """Name to relative path of the files in a folder of the root."""
        folder = self._entries.get(folder, folder)
        names = os.listdir(self.root / folder) if (self.root / folder).is_dir() else []
        return {name: f"{folder}/{name}" for name in names if name.lower().endswith(suffix) and name[0] != "."}


def _coded_lines(path: Path) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The row of each rater line, and per column the code of each line and the words that codes stand for."""
    read = {".csv": _detailed_csv, ".json": _detailed_json, ".txt": _detailed_text}[path.suffix.lower()]
    names = ("FileName", "WorkerID", *ANSWERS)
    coded = []
    for batch in read(path):
        batch = {name: pc.utf8_trim_whitespace(batch[name].fill_null("")) for name in names} | {"row": batch["row"]}
        other = pc.match_substring_regex(batch["EmoClass_Major"], r"^(?i:other)\b")
        # This marks free text of the primary label that runs over.
        prefix = pc.if_else(other, "other,", ",")
        batch["EmoClass_Second"] = pc.binary_join_element_wise(prefix, batch["EmoClass_Second"], "")
        coded.append(pa.record_batch({name: batch[name].dictionary_encode() for name in names} | {"row": batch["row"]}))
    table = pa.Table.from_batches(coded).unify_dictionaries().combine_chunks() if coded else ()
    if not len(table):
        raise ValueError(f"{path} has no rater lines; restore the upstream file.")
    return table["row"].to_numpy(), {name: encode_column(table[name].chunk(0), len(table)) for name in names}


def _detailed_csv(path: Path) -> Iterator[LineColumns]:
    """`labels_detailed.csv`: one column per answer (1.6 and 2.0), or all answers in `EmoDetail` (1.7 to 1.12)."""
    headers = [("FileName", "EmoDetail"), *(("FileName", rater, *ANSWERS) for rater in ("WorkerID", "Workers"))]
    for batch in csv_batches(path, *headers):
        if "Workers" in batch:
            batch["WorkerID"] = batch.pop("Workers")
        yield cut_rater_lines(path, batch, "EmoDetail", RATINGS) if "EmoDetail" in batch else batch


def _detailed_text(path: Path) -> Iterator[LineColumns]:
    """`labels.txt`: one line per turn, followed by its rater lines."""
    for _, lines in rater_blocks(path, RATINGS):
        yield lines


def _detailed_json(path: Path) -> Iterator[LineColumns]:
    """`labels_detailed.json`: turn -> rater -> answers; 20,000 turns per batch."""
    entries, row = json_entries(path), 1
    while chunk := list(islice(entries, 20_000)):
        raters = [lines for _, lines in chunk]
        owner = np.repeat(np.arange(len(chunk)), [len(lines) for lines in raters])
        turns = pa.array([name for name, _ in chunk], pa.string()).take(pa.array(owner))
        answers = list(chain.from_iterable(lines.values() for lines in raters))
        workers = pa.array(chain.from_iterable(raters), pa.string())
        yield _fields(path, turns, answers, ANSWERS, row) | {"WorkerID": workers}
        row += len(answers)


def _fields(path: Path, turns: pa.Array, values: list[Any], names: tuple[str, ...], row: int) -> LineColumns:
    """The entries `names` of JSON objects as columns; `row` is the number of the first object."""
    try:
        objects = pa.array(values, pa.struct([(name, pa.string()) for name in names]))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{path}: not the JSON of MSP-Podcast ({error}); restore the upstream file.") from None
    rows = pa.array(np.arange(row, row + len(values), dtype=np.int32))
    refuse_row(path, rows, f"no {names[0]} for", turns, objects.field(names[0]).is_null(), "must have it")
    return {"row": rows, "FileName": turns} | {name: objects.field(name) for name in names}


def _pairs(path: Path) -> pd.DataFrame:
    """Columns row, first and second of the lines `first; second`."""
    table = pa.concat_tables([pa.table(batch) for batch in line_batches(path)])
    table = table.filter(pc.match_substring_regex(table["line"], r"\S")).combine_chunks()
    pairs = pc.extract_regex(table["line"], PAIR).combine_chunks()
    refuse_row(path, table["row"], "line", table["line"], pairs.is_null(), "must be two fields with ';' between")
    pairs = pa.table({"row": table["row"], "first": pairs.field("first"), "second": pairs.field("second")})
    return pairs.to_pandas().astype(object)


def _label_codes(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Index into `LABELS` of each text, -1 for none, and whether it is Other with free text."""
    lower = pc.utf8_lower(texts)
    other = pc.match_substring_regex(lower, r"^other\b")
    codes = pc.index_in(pc.if_else(other, "other", lower), pa.array(LABELS)).fill_null(-1)
    return np.asarray(codes, np.int64), np.asarray(pc.and_(other, pc.not_equal(lower, "other")))


def _near_codes(texts: pa.Array) -> np.ndarray:
    """Index into `LABELS` of each secondary word, -1 for none; for "Other-sad" the part after "Other" counts."""
    words = pc.replace_substring_regex(pc.utf8_lower(texts), r"^other\b\W*|\W+$", "")
    codes = [*range(len(LABELS)), *(LABELS.index(label) for label in NEAR.values()), -1]
    return np.array(codes)[pc.index_in(words, pa.array([*LABELS, *NEAR])).fill_null(-1)]
