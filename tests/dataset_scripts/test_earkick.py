"""Earkick: the table in miniature, its defects, and the real one where it stands."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export

Earkick = load_corpus_script(Path(__file__).parents[2] / "dataset_scripts" / "earkick")

HEADER = [
    "audio",
    "age",
    "id",
    "sad",
    "happy",
    "disgust",
    "fear",
    "annotator",
    "mood",
    "surprise",
    "sentiment",
    "notes",
]
HEADER += ["anger", "anxiety"]
ONE, TWO, THREE = "1032_DIS_LO_IEO_cremad.wav", "1111_HAP_MD_KID_02_ravdess.wav", "8404_8.wav"
NOTE = 'loud, "odd"; half'
ROWS = [
    [f"/data/upload/2/{ONE}", "20s", "1", "None", "Extremely", "None", "A little", "1", "Great", "None", "+2", NOTE,
     "Moderate", "0 - None"],
    [ONE, "30s", "1", "A little", "None", "None", "None", "2", "Meh", "None", "-3", "", "None", "9 - Most"],
    [TWO, "", "2", "None", "None", "None", "None", "1", "Bad", "None", "0", "", "None", "4"],
    [THREE, "", "3", "None", "None", "None", "None", "3", "Awful", "Moderate", "+1", "", "None", "5"],
]  # fmt: skip


def write(root, rows=ROWS):
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "assessment.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])


def miniature(root):
    """A clean miniature with clips; returns votes per question."""
    numbered = [[THREE.replace("8404", str(8400 + n)), *ROWS[3][1:]] for n in range(9)]
    write(root, [*ROWS, *numbered[:4], *numbered[5:]])
    (root / "audio").mkdir()
    for name in {row[0].rpartition("/")[2] for row in [*ROWS, *numbered]}:
        soundfile.write(root / "audio" / name, np.zeros(1600), 16_000)
    return {question.name: 12 for question in Earkick.questions}


def test_answers_are_votes_of_named_raters(tmp_path):
    write(tmp_path)
    votes = Earkick(tmp_path).read_votes().to_pandas()
    first = votes[(votes["item"] == ONE) & (votes["annotator"] == "1")].set_index("question")
    labels, ratings = first["label"].dropna().to_dict(), first["rating"].dropna().to_dict()
    assert labels == {
        "happy_class": "extremely",
        "sad_class": "none",
        "anger_class": "moderate",
        "fear_class": "a little",
        "disgust_class": "none",
        "surprise_class": "none",
        "mood": "great",
    }
    assert ratings == dict(happy=3, sad=0, anger=2, fear=1, disgust=0, surprise=0, sentiment=2, anxiety=0)
    assert votes[(votes["item"] == ONE) & (votes["question"] == "anxiety")]["rating"].tolist() == [0, 9]


def test_clips_know_their_corpus_and_stay_with_their_actor_or_video(tmp_path):
    write(tmp_path, [*ROWS, ["8404_11.wav", *ROWS[3][1:]]])
    items = Earkick(tmp_path).read_items().set_index("item")
    assert items.loc[ONE, ["speaker", "corpus", "cremad_clip"]].tolist() == ["1032", "cremad", "1032_IEO_DIS_LO"]
    assert items.loc[TWO, ["speaker", "corpus"]].tolist() == ["1111", "ravdess"] and items.loc[TWO, "group"] == "1111"
    assert items.loc[[THREE, "8404_11.wav"], "group"].tolist() == ["8404", "8404"] and items["audio"].isna().all()
    report = export_corpus(Earkick(tmp_path), tmp_path / "out", missing_audio="keep")
    assert report.items == 4 and report.annotators == 3


def test_blank_and_repeated_answers_are_counted(tmp_path):
    blank = list(ROWS[3])
    blank[0], blank[10], blank[13] = "x_1.wav", "", ""
    write(tmp_path, [*ROWS, blank, [*ROWS[1][:3], "Extremely", *ROWS[1][4:]]])
    report = export_corpus(Earkick(tmp_path), tmp_path / "out", missing_audio="keep")
    told = {one.reason: one for one in report.findings}
    assert told["sentiment: blank answers"].count == told["anxiety: blank answers"].count == 1
    assert told["repeated votes of one annotator"].votes == 15
    votes = read_export(tmp_path / "out").votes
    assert votes.counts("sad_class", [ONE]).tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (3, "Very", "row 3 has sad_class 'Very'; it must be none, a little, moderate, extremely"),
        (8, "Fine", "row 3 has mood 'fine'"),
        (10, "+4", r"row 3 has sentiment '\+4'; it must be -3 to 3"),
        (10, "inf", "row 3 has sentiment 'inf'"),
        (13, "0 - 9 - None", "row 3 has anxiety '0 - 9 - None'; it must be 0 to 9"),
        (7, " ", "row 3 has annotator ''; it must be a name"),
        (0, "a/..", "row 3 has audio '..'; it must be a name"),
        (0, "", "row 3 has audio ''"),
    ],
)
def test_bad_rows_are_named(place, value, message, tmp_path):
    rows = [list(row) for row in ROWS]
    rows[1][place] = value
    write(tmp_path, rows)
    with pytest.raises(ValueError, match=f"assessment.csv: {message}"):
        Earkick(tmp_path).read_votes()


@pytest.mark.real_data
def test_the_real_table(shared_data, tmp_path):
    root = shared_data / "earkick"
    report = export_corpus(Earkick(root), tmp_path / "out", missing_audio="keep")
    with open(root / "assessment.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert report.items == 320 and report.annotators == 3 and report.votes == 15 * len(rows) == 14_400
    items = read_export(tmp_path / "out").items.set_index("item")
    assert items["cremad_clip"].dropna().to_dict() == {
        row["audio"]: row["cremad_clip"] for row in rows if row["cremad_clip"]
    }
    votes = read_export(tmp_path / "out").votes
    unanimous = sum(
        len({row["sentiment"] for row in rows if row["audio"] == name}) == 1 for name in {row["audio"] for row in rows}
    )
    table = votes.select(questions=["sentiment"]).to_pandas().groupby("item", observed=True)["rating"]
    assert int((table.nunique() == 1).sum()) == unanimous


def test_blank_answers_and_absent_audio_that_is_asked_for_are_expected(tmp_path):
    blank = [*ROWS[0][:10], "", *ROWS[0][11:]]
    write(tmp_path / "root", [*ROWS[1:], blank])
    report = export_corpus(Earkick(tmp_path / "root"), tmp_path / "out", strict=True, missing_audio="keep")
    assert {one.reason for one in report.findings} >= {"sentiment: blank answers", "items without audio"}
