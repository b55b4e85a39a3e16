"""EmoDB: the upstream file in miniature, its spellings and defects, and the real counts where they stand."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export

EmoDb = load_corpus_script(Path(__file__).parents[2] / "dataset_scripts" / "emodb")

ROWS = [
    "1\t03a01Aa.wav\t65,00\xa0\t35,00\xa0",
    "2\t11a05Wb.wav\t95,24\xa0\t80,95\xa0",
    "3\t08b10Tc.wav\t100,00\xa0\t0,00\xa0",
]
HEADER = "Nr.\tSatz\terkannt\tnatuerlich"


def write(root, rows=ROWS, header=HEADER, name="erkennung.txt", encoding="latin-1"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes("\r\n".join([header, *rows, ""]).encode(encoding))


def miniature(root):
    """A clean miniature; returns votes per question."""
    write(root)
    (root / "wav").mkdir()
    for name in ("03a01Aa", "11a05Wb", "08b10Tc"):
        soundfile.write(root / "wav" / f"{name}.wav", np.zeros(1600), 16_000)
    return {"recognised": 61, "natural": 61}


COUNTS = {"recognised": [[13, 7], [20, 1], [20, 0]], "natural": [[7, 13], [17, 4], [0, 20]]}


def counts(root):
    votes = EmoDb(root).read_votes()
    return {question.name: votes.counts(question.name).tolist() for question in votes.questions}


def test_percentages_become_counts_of_20_or_21_listeners(tmp_path):
    miniature(tmp_path)
    (tmp_path / "wav" / "16a01Na.wav").write_bytes(b"")
    corpus = EmoDb(tmp_path)
    assert counts(tmp_path) == COUNTS
    items = corpus.read_items().set_index("item")
    assert items["split"].tolist() == ["train", "validation", "test"] and items["gender"].tolist() == [
        "male",
        "male",
        "female",
    ]
    assert items["intended"].tolist() == ["fear", "anger", "sadness"] and items.loc["08b10Tc", "text"].startswith(
        "Die wird"
    )
    assert corpus.findings["audio without labels, left out"].examples == ("16a01Na",)
    assert corpus.findings["clips that 21 listeners heard"].count == 1


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8-sig", "utf-8"])
@pytest.mark.parametrize(
    "rows", [ROWS, [row.replace("\t", "  ").replace(".wav", "") for row in ROWS], [*ROWS, "", *ROWS[:1]]]
)
def test_spellings_of_the_file(rows, encoding, tmp_path):
    write(tmp_path, [row.replace("\xa0", "") if encoding != "latin-1" else row for row in rows], encoding=encoding)
    assert counts(tmp_path) == COUNTS


def test_votes_of_a_clip_that_is_listed_again_are_left_out_and_counted(tmp_path):
    write(tmp_path, [*ROWS, "4\t03a01Aa.wav\t5,00\t5,00", "5\t08b10Tc.wav\t95,24\t80,95"])
    corpus = EmoDb(tmp_path)
    assert len(corpus.read_votes()) == 122
    again = corpus.findings["clips that are listed again, the first row used"]
    assert (again.count, again.votes, again.examples) == (2, 2 * 20 + 2 * 21, ("03a01Aa", "08b10Tc"))
    assert corpus.findings["clips that 21 listeners heard"].count == 1


def test_the_derived_table(tmp_path):
    rows = ["03a01Aa,0,65,35.00", "11a05Wb,1,95.24,80.95", "08b10Tc,1,100,0"]
    write(tmp_path, rows, "file,audio,recognised_pct,natural_pct", "listener_votes.csv", "utf-8")
    assert counts(tmp_path) == COUNTS


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "4\t03a02Wa.wav\t33,00\t50,00",
            "row 5 has recognised and natural '33,00 and 50,00'; it must be percentages of 20 or 21",
        ),
        ("4\t03a02Wa.wav\t95,24\t95,00", "row 5 has recognised and natural"),
        ("4\t03a02Wa.wav\t105,00\t50,00", "row 5 has recognised '105,00'; it must be 0 to 100 %"),
        ("4\t03a02Wa.wav\tNaN\t50,00", "row 5 has recognised 'NaN'"),
        ("4\t03a02Wa.wav\t50,00", "row 5 has .*it must read '1 03a01Aa.wav 65,00 35,00'"),
        ("4\t03a02Xa.wav\t50,00\t50,00", "row 5 has clip '03a02Xa'; it must be one as 03a01Wa"),
        ("4\t../03a02Wa.wav\t50,00\t50,00", "row 5 has clip '../03a02Wa'"),
    ],
)
def test_bad_rows_are_named(row, message, tmp_path):
    write(tmp_path, [*ROWS, row])
    with pytest.raises(ValueError, match=f"erkennung.txt: {message}"):
        EmoDb(tmp_path).read_votes()


def test_a_file_without_clips_is_refused(tmp_path):
    write(tmp_path, [])
    with pytest.raises(ValueError, match="erkennung.txt has no clips"):
        EmoDb(tmp_path).read_votes()


@pytest.mark.real_data
def test_the_real_corpus(shared_data, tmp_path):
    root = shared_data / "emodb"
    with open(root / "listener_votes.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    report = export_corpus(EmoDb(root), tmp_path / "all", missing_audio="keep")
    assert report.items == len(rows) == 567 and report.votes == 2 * 11_397
    votes = read_export(tmp_path / "all").votes
    for name, column in (("recognised", "n_recognised"), ("natural", "n_natural")):
        expected = [[int(row[column]), int(row["n_listeners"]) - int(row[column])] for row in rows]
        assert votes.counts(name, [row["file"].removesuffix(".wav") for row in rows]).tolist() == expected
    heard = export_corpus(EmoDb(root), tmp_path / "heard", missing_audio="drop")
    assert heard.items == 162 and heard.splits == {"train": 49, "validation": 55, "test": 58}
