"""Every corpus reader on damaged and hostile label files: the same result, or one sentence, and nothing from elsewhere."""

import gzip
import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import soundfile
from test_corpora import NAMES, SCRIPTS, miniature_of

from annot_hf.data import encoding
from annot_hf.data.corpus import VoteCorpus, check_items, load_corpus_script
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

# A clip of each miniature whose name is changed to a hostile one, where label files name clips.
CLIPS = {
    "cremad": "1001_IEO_NEU_XX",
    "earkick": "1032_DIS_LO_IEO_cremad.wav",
    "emodb": "03a01Aa.wav",
    "emosuperb": "a.wav",
    "emozionalmente": "1.wav",
    "iemocap": "Ses01F_impro01_F000",
    "msp_improv": "UTD-IMPROV-S01A-F01-S-FM01.avi",
    "msp_podcast": "MSP-PODCAST_0001_0008.wav",
    "muse": "01_Q1_0.wav",
}
OUTSIDE = "outside.wav"
HOSTILE = {
    "dot-dot": f"../{OUTSIDE}",
    "dot-dot twice": f"../../{OUTSIDE}",
    "dot-dot below": f"x/../../../{OUTSIDE}",
    "absolute": "{root}/" + OUTSIDE,
    "backslash": f"..\\{OUTSIDE}",
    "drive": f"C:{OUTSIDE}",
    "two-dot leader": f"\u2025/{OUTSIDE}",
    "full-width": f"\uff0e\uff0e\uff0f{OUTSIDE}",
    "control": f"..\x0b/{OUTSIDE}",
    "NUL": f"..\x00/{OUTSIDE}",
    "one-dot leaders": f"\u2024\u2024/{OUTSIDE}",
    "home": f"~/{OUTSIDE}",
}


def change(root, change_text, suffixes=(".csv", ".txt", ".json", ".tsv", ".annotprocessed")):
    """Pass the bytes of all label files and transcripts through a function."""
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        plain = path.name.removesuffix(".gz")
        if not plain.endswith(suffixes):
            continue
        packed = path.name.endswith(".gz")
        data = change_text(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
        path.write_bytes(gzip.compress(data) if packed else data)


def read(name, root):
    """Items and votes as plain tables, in order."""
    corpus = load_corpus_script(SCRIPTS / name)(root)
    items = check_items(corpus, corpus.read_items())
    votes = corpus.read_votes().to_pandas().astype(object)
    frames = (items.sort_values("item"), votes.sort_values(list(votes)))
    plain = [frame.astype(object).where(frame.notna(), None).replace("\r\n", "\n", regex=True) for frame in frames]
    return [frame.to_numpy().tolist() for frame in plain]


@pytest.fixture(scope="module", params=NAMES)
def clean(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param) / "upstream"
    miniature_of(request.param)(root)
    return request.param, root, read(request.param, root)


def copy(name, folder):
    miniature_of(name)(folder / "upstream")
    return folder / "upstream"


@pytest.mark.parametrize("form", ["LF", "CRLF", "byte order mark"])
def test_line_ends_and_marks_change_nothing(clean, form, tmp_path):
    name, _, expected = clean
    root = copy(name, tmp_path)
    forms = {
        "LF": lambda data: data.replace(b"\r\n", b"\n"),
        "CRLF": lambda data: data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
        "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    }
    change(root, forms[form])
    assert read(name, root) == expected


def test_corpora_of_clips_are_tested_with_hostile_names(clean):
    name, root, _ = clean
    assert name in CLIPS or not list(root.rglob("*.wav"))


DAMAGE = {
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut in the last line": lambda data: data.rstrip()[:-3],
    "empty": lambda data: b"",
    "blank": lambda data: b"\n\n\n",
    "header only": lambda data: data.split(b"\n")[0] + b"\n",
    "UTF-16": lambda data: data.decode("latin-1").encode("utf-16"),
    "a byte of Latin-1": lambda data: data[: len(data) // 2] + b"\xe9" + data[len(data) // 2 :],
    "a zero byte": lambda data: data[: len(data) // 2] + b"\0" + data[len(data) // 2 :],
    "twice": lambda data: data + data,
    "semicolons for commas": lambda data: data.replace(b",", b";"),
    "commas for semicolons": lambda data: data.replace(b";", b","),
    "an open quotation mark": lambda data: data + b'"',
    "other numbers": lambda data: data.replace(b"1", b"99").replace(b"4", b"NaN"),
    "another header": lambda data: b"x" + data,
    "markup": lambda data: b"<html>\n" + data,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", NAMES)
def test_damage_is_one_sentence_or_none(name, damage, tmp_path):
    root = copy(name, tmp_path)
    change(root, DAMAGE[damage])
    try:
        read(name, root)
    except ValueError as error:
        said = str(error)
        assert type(error) is ValueError and said.endswith(".") and "\n" not in said, said
        assert "upstream" in said or name in said, said


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", CLIPS)
def test_names_in_label_files_lead_nowhere(name, hostile, tmp_path):
    root = copy(name, tmp_path)
    for place in (tmp_path, root, root.parent / "Audios"):
        place.mkdir(exist_ok=True)
        soundfile.write(place / OUTSIDE, np.zeros(48_000), 16_000)
    (root / OUTSIDE).unlink()
    (root / "audio").mkdir(exist_ok=True)
    to = HOSTILE[hostile].format(root=tmp_path)
    quoted = json.dumps(to)[1:-1] if "\\" in to or not to.isprintable() else to
    changed = []

    def rename(data):
        changed.append(CLIPS[name].encode() in data)
        json_text = data.lstrip()[:1] == b"{"
        return data.replace(CLIPS[name].encode(), (quoted if json_text else to).encode())

    change(root, rename)
    assert any(changed)
    try:
        corpus = load_corpus_script(SCRIPTS / name)(root)
        export_corpus(corpus, tmp_path / "export", missing_audio="keep", allow_unmatched=True)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    items = read_export(tmp_path / "export").items
    # the sound outside has 3 s, and no clip of a miniature has
    assert not (items.get("seconds", pd.Series(dtype=float)) == 3).any()
    for file in items["file"].dropna():
        assert (root / file).resolve().is_relative_to(root)


# Readers of packed label files, and such a file of each.
PACKED = {
    "convabuse": "ConvAbuseEMNLPfull.csv.gz",
    "emobank": "individual_reader_ratings.csv.gz",
    "emozionalmente": "evaluations.csv.gz",
    "goemotions": "goemotions_1.csv.gz",
}


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_file_that_unpacks_without_end_is_refused(name, tmp_path, monkeypatch):
    root = copy(name, tmp_path)
    plain = next(path for path in root.rglob("*.csv*") if path.name.removesuffix(".gz") == PACKED[name][:-3])
    whole = plain.read_bytes() if plain.suffix == ".csv" else gzip.decompress(plain.read_bytes())
    header, row = (line + b"\n" for line in whole.splitlines()[:2])
    plain.unlink()
    bomb = plain.with_name(PACKED[name])
    bomb.write_bytes(gzip.compress(header + row * (6_000_000 // len(row))))
    # As little as makes the point; in earnest the bound is 256 MB.
    monkeypatch.setattr(encoding, "UNPACKED", 1 << 20)
    with pytest.raises(ValueError, match="unpacks to more than 100 times its size, as no table does; download"):
        read(name, root)
    bomb.write_bytes(gzip.compress(bytes(64 << 20)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="field larger than field limit|the header is"):
        read(name, root)
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()


class Many(VoteCorpus):
    name, version, questions, default_questions = (
        "many",
        "1",
        (Question.category("mood", ("calm", "tense")),),
        ("mood",),
    )
    count = 10_000

    def read_items(self):
        names = [f"clip {n}" for n in range(self.count)]
        return pd.DataFrame({"item": names, "audio": [f"audio/{name}.wav" for name in names], "split": "train"})

    def read_votes(self):
        names = [f"clip {n}" for n in range(self.count)]
        return VoteTable.from_columns(self.questions[0], item=names, value=["calm"] * self.count)


def test_ten_thousand_missing_files_are_one_summary(tmp_path):
    (tmp_path / "root").mkdir()
    with pytest.raises(ValueError) as error:
        export_corpus(Many(tmp_path / "root"), tmp_path / "out")
    assert str(error.value) == (
        "many: 10000 of 10000 items have no readable audio (clip 0: missing; clip 1: missing; clip 2: missing); restore the "
        'files, or export with missing_audio="drop" to leave such items out with their votes, or "keep" to keep them without '
        "audio."
    )


def test_a_clip_that_unpacks_to_hours_is_never_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(Many, "count", 2)
    folder = tmp_path / "root" / "audio"
    folder.mkdir(parents=True)
    soundfile.write(folder / "clip 0.wav", np.zeros(1_000 * 700), 1_000, format="FLAC")
    soundfile.write(folder / "clip 1.wav", np.zeros(1600), 16_000)
    assert (folder / "clip 0.wav").stat().st_size < 10_000
    monkeypatch.setattr("annot_hf.data.audio._mono_blocks", lambda *_: pytest.fail("decoded"))
    report = export_corpus(Many(tmp_path / "root"), tmp_path / "out", missing_audio="drop")
    left_out = {one.reason: one.votes for one in report.findings}["items with unreadable audio"]
    assert report.items == 1 and left_out == 1


def test_a_folder_in_place_of_a_clip_is_told_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(Many, "count", 2)
    (tmp_path / "root" / "audio" / "clip 0.wav").mkdir(parents=True)
    soundfile.write(tmp_path / "root" / "audio" / "clip 1.wav", np.zeros(1600), 16_000)
    with pytest.raises(ValueError, match=r"clip 0: 'audio/clip 0.wav' cannot be opened \(Is a directory\)"):
        export_corpus(Many(tmp_path / "root"), tmp_path / "out")
    report = export_corpus(Many(tmp_path / "root"), tmp_path / "out", missing_audio="drop")
    found = {one.reason: one for one in report.findings}
    assert report.items == 1 and found["items with unreadable audio"].votes == 1 and "items without audio" not in found
