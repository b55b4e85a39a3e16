"""MuSE: the table of ratings in miniature, its spellings and defects; all rows are invented."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from annot_hf.data.corpus import load_corpus_script

Muse = load_corpus_script(Path(__file__).parents[2] / "dataset_scripts" / "muse")

HEADER = (
    "Sentence_name,Duration,Gender,Type,Ques_Type,Activation_Mean,Activation_SD,Valence_Mean,Valence_SD,Activation_Annotation,"
    "Valence_Annotation,C_Activation_Mean,C_Activation_SD,C_Valence_Mean,C_Valence_SD,C_Activation_Annotation,"
    "C_Valence_Annotation,S_Activation,S_Valence"
).split(",")
NAME = "Emotion data from crowdsourcing (C is when annotators had access to all previous sentences).csv"


def row(name, kind="S", alone=("5;6;5", "3; 4"), context=("7;7", "1;2;9"), own=("8", "2.5")):
    means = ["5", "1"] * 2
    return [name, "3.2", "F", kind, "Q1", *means, *alone, *means, *context, *own]


ROWS = [row("01_Q1_0.wav"), row("01_Q2_1.wav", "NS"), row("05_Q1_0.wav"), row("11_Q1_3.wav")]


def write(root, rows=ROWS, folder="SurveyInformation"):
    (root / folder).mkdir(parents=True, exist_ok=True)
    with open(root / folder / NAME, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])


def speakers():
    """A speaker of each split."""
    import pandas as pd

    from annot_hf.data.corpus import SPLITS, split_by_group

    numbers = pd.Series([f"{n:02}" for n in range(1, 29)])
    splits = split_by_group(numbers)
    return [numbers[splits == split].iloc[0] for split in SPLITS]


def miniature(root):
    """A clean miniature with a speaker in each split; returns votes per question."""
    rows = [row(f"{speaker}_Q1_0.wav") for speaker in speakers()]
    write(root, rows)
    for place, one in zip(("Stressed/Audio/A", "NotStressed/Audio/B 1", "NotStressed/Audio/B 2"), rows, strict=True):
        (root / place).mkdir(parents=True)
        soundfile.write(root / place / one[0], np.zeros(1600), 16_000)
    counts = {"activation": 3, "valence": 2, "activation_in_context": 2, "valence_in_context": 3}
    return {name: 3 * count for name, count in (counts | {"activation_self": 1, "valence_self": 1}).items()}


@pytest.mark.parametrize("folder", ["SurveyInformation", "Survey Information (Questions, Data etc)", "."])
def test_conditions_are_questions_of_their_own_and_raters_have_no_names(folder, tmp_path):
    write(tmp_path, folder=folder)
    votes = Muse(tmp_path).read_votes().to_pandas()
    one = votes[votes["item"] == "01_Q1_0"].groupby("question")
    assert {name: rows["rating"].tolist() for name, rows in one} == {
        "activation": [5, 6, 5],
        "valence": [3, 4],
        "activation_in_context": [7, 7],
        "valence_in_context": [1, 2, 9],
        "activation_self": [8],
        "valence_self": [2.5],
    }
    own = votes["question"].str.endswith("_self")
    assert votes[~own]["annotator"].isna().all() and set(votes[own]["annotator"]) == {"01", "05", "11"}


def test_items(tmp_path):
    write(tmp_path)
    texts = tmp_path / "Combined" / "Utterance Transcripts"
    texts.mkdir(parents=True)
    (texts / "01_Q1_0.txt").write_text("Well.\n")
    for name in ("01_Q1_0.wav", "._01_Q1_0.wav", "99_Q1_0.wav"):
        (tmp_path / name).write_bytes(b"")
    corpus = Muse(tmp_path)
    items = corpus.read_items().set_index("item")
    assert items.loc["01_Q1_0", ["speaker", "gender", "stress", "monologue", "text", "audio"]].tolist() == [
        "01", "female", "stressed", "Q1", "Well.", "01_Q1_0.wav",
    ]  # fmt: skip
    assert (
        items.loc["01_Q2_1", "stress"] == "not stressed"
        and items["split"].groupby(items["speaker"]).nunique().max() == 1
    )
    assert corpus.findings["sentences without transcript"].count == 3
    assert corpus.findings["audio without labels, left out"].examples == ("99_Q1_0",)
    assert Muse.shareable == "nothing"


def test_blank_ratings_are_counted(tmp_path):
    write(tmp_path, [row("01_Q1_0.wav", alone=("5;;NaN", ""), own=("", "3"))])
    corpus = Muse(tmp_path)
    assert len(corpus.read_votes()) == 1 + 5 + 1
    assert (
        corpus.findings["activation: blank ratings"].count == 2 and corpus.findings["valence: blank ratings"].count == 1
    )
    write(tmp_path, [row("01_Q1_0.wav", alone=("", ""), context=("", ""), own=("", ""))])
    with pytest.raises(ValueError, match="has no ratings; restore"):
        Muse(tmp_path).read_votes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (row("02_Q1_0.wav", alone=("5;10", "1")), "row 6 has Activation_Annotation '10'; it must be 1 to 9"),
        (row("02_Q1_0.wav", context=("5", "inf")), "row 6 has C_Valence_Annotation 'inf'"),
        (row("02_Q1_0.wav", own=("x", "1")), "row 6 has S_Activation 'x'"),
        (row("02_Q1_0.wav", "X"), "row 6 has Type 'X'; it must be S or NS"),
        (row("01_Q1_0.wav"), "row 6 has Sentence_name '01_Q1_0.wav'; it must be listed once"),
        (row("../02.wav"), "row 6 has Sentence_name '../02.wav'; it must be a plain name"),
        (row("02..wav"), "row 6 has Sentence_name"),
        (row("02\\x.wav"), "row 6 has Sentence_name"),
        (row("02_Q1_0.wav")[:-1], "not a readable file .*Expected 19 columns, got 18"),
    ],
)
def test_bad_rows_are_named(changed, message, tmp_path):
    write(tmp_path, [*ROWS, changed])
    with pytest.raises(ValueError, match=message):
        Muse(tmp_path).read_votes()
