"""EMO-SUPERB: label folders in miniature; shares are never votes, and folds keep their splits. All rows are invented."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export
from annot_hf.evaluation.agreement import agreement

EmoSuperb = load_corpus_script(Path(__file__).parents[2] / "dataset_scripts" / "emosuperb")

HEADER = ["FileName", "angry", "sad", "happy", "SpkrID", "Gender", "Split_Set"]
ROWS = [
    ["a.wav", "0.386", "0.01", "0.604", "1001", "Female", "Train"],
    ["b.wav", "0.01", "0.01", "0.98", "1002", "Male", "Development"],
    ["c.wav", "0.333333", "0.333333", "0.333333", "1003", "Male", "Test"],
]


def write(path, rows, header=HEADER):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def folds(root, kind="Primary", rows=ROWS):
    write(root / kind / "labels_consensus_1.csv", rows)
    turned = [[*row[:-1], split] for row, split in zip(rows, ["Test", "Train", "Development"], strict=True)]
    write(root / kind / "labels_consensus_10.csv", turned)


def miniature(root):
    """A corpus of two folds; its questions have no votes."""
    folds(root)
    (root / "Audios").mkdir()
    for name, *_ in ROWS:
        soundfile.write(root / "Audios" / name, np.zeros(1600), 16_000)
    return {"primary": 0}


def test_shares_are_distributions_of_an_unknown_number_of_votes(tmp_path):
    miniature(tmp_path / "upstream")
    report = export_corpus(EmoSuperb(tmp_path / "upstream"), tmp_path / "out")
    assert (report.votes, report.items, report.annotators, report.questions["primary"]["items"]) == (0, 3, 0, 3)
    assert ("question primary", "0", "3 items, shares of an unknown number of votes") in report.rows()
    back = read_export(tmp_path / "out")
    assert back.questions[0].shares and back.questions[0].labels == ("angry", "sad", "happy")
    assert json.loads((tmp_path / "out" / "corpus.json").read_text())["questions"][0]["shares"] is True
    targets = back.targets("train")
    np.testing.assert_allclose(targets.probs, [[0.386, 0.01, 0.604]])
    assert targets.votes_per_item.tolist() == [0] and not len(targets.ratings)
    np.testing.assert_allclose(back.targets("test").probs.sum(axis=1), 1, atol=1e-12)
    assert back.targets("train", method="majority").probs.tolist() == [[0, 0, 1]]
    for method in ("smoothed", "merged"):
        with pytest.raises(ValueError, match="does not fit question 'primary'.*use soft or majority"):
            back.targets("train", method=method)
    with pytest.raises(ValueError, match="'primary' is known as shares .*, which have no agreement"):
        agreement(back.votes, "primary")


def test_every_fold_keeps_its_splits(tmp_path):
    miniature(tmp_path)
    items = EmoSuperb(tmp_path).read_items()
    assert items["split"].tolist() == items["fold_1"].tolist() == ["train", "validation", "test"]
    assert items["fold_10"].tolist() == ["test", "train", "validation"]
    assert items["speaker"].tolist() == ["1001", "1002", "1003"] and items["gender"][0] == "female"


def test_primary_and_secondary_have_their_own_labels(tmp_path):
    folds(tmp_path)
    header = ["FileName", "calm", "tense", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Split_Set"]
    rows = [
        ["a.wav", "0.99", "0.01", "4.5", "2.0", "", "Unknown", "Test"],
        ["d.wav", "0.5", "0.5", "1", "1", "1", "9", "Test"],
    ]
    write(tmp_path / "Secondary" / "labels_consensus_1.csv", rows, header)
    corpus = EmoSuperb(tmp_path)
    assert [question.name for question in corpus.questions] == ["primary", "secondary"]
    votes = corpus.read_votes()
    np.testing.assert_allclose(
        votes.counts("secondary", ["a.wav", "d.wav", "b.wav"]), [[0.99, 0.01], [0.5, 0.5], [0, 0]]
    )
    items = corpus.read_items().set_index("item")
    assert items.loc["d.wav", "split"] == "test" and items.loc["a.wav", "split"] == "train"
    assert items.loc["d.wav", "EmoAct"] == 1 and items.loc["a.wav", "speaker"] == "1001"
    found = corpus.findings["clips that Primary and Secondary put into different splits, Primary used"]
    assert found.examples == ("('a.wav', 1)",)


def test_shares_that_differ_between_folds_are_counted(tmp_path):
    folds(tmp_path)
    write(tmp_path / "Primary" / "labels_consensus_2.csv", [["a.wav", "0.5", "0.4", "0.1", *ROWS[0][4:]], *ROWS[1:]])
    write(tmp_path / "Primary" / "labels_consensus_3.csv", [["new.wav", *ROWS[0][1:]]])
    corpus = EmoSuperb(tmp_path)
    np.testing.assert_allclose(corpus.read_votes().counts("primary", ["a.wav"]), [[0.386, 0.01, 0.604]])
    assert corpus.findings["Primary: clips whose shares differ between folds, the first used"].examples == ("a.wav",)
    corpus.read_items()
    reason = "clips that are not in fold 1, in the split of the first fold that has them"
    assert corpus.findings[reason].examples == ("new.wav",)


def test_folds_with_other_labels_are_refused(tmp_path):
    folds(tmp_path)
    for header in (["FileName", "angry", "sad", "joy", *HEADER[4:]], HEADER[:3] + HEADER[4:]):
        rows = ROWS if len(header) == len(HEADER) else [[row[0], "0.5", "0.5", *row[4:]] for row in ROWS]
        write(tmp_path / "Primary" / "labels_consensus_2.csv", rows, header)
        with pytest.raises(
            ValueError, match="fold 2 of Primary has labels .*, and fold 1 angry, happy, sad; all folds"
        ):
            EmoSuperb(tmp_path)
    # another order is no other label
    turned = [[row[0], *row[3:0:-1], *row[4:]] for row in ROWS]
    write(tmp_path / "Primary" / "labels_consensus_2.csv", turned, [HEADER[0], *HEADER[3:0:-1], *HEADER[4:]])
    corpus = EmoSuperb(tmp_path)
    assert corpus.read_votes().counts("primary", ["a.wav"]).tolist() == [[0.386, 0.01, 0.604]] and not corpus.findings


def test_what_differs_between_folds_is_counted(tmp_path):
    folds(tmp_path)
    other = [["0", *ROWS[0][:4], "1009", "Female", "Test"], ["0", *ROWS[1][:-1], "Test"]]
    write(tmp_path / "Primary" / "labels_consensus_2.csv", other, ["Unnamed: 0", *HEADER])
    write(tmp_path / "Primary" / "labels_consensus_10.csv", [["d.wav", *ROWS[0][1:]], *ROWS[:2]])
    corpus = EmoSuperb(tmp_path)
    assert corpus.questions[0].labels == ("angry", "sad", "happy")
    assert corpus.read_items().set_index("item")["speaker"]["a.wav"] == "1001"
    told = {reason: found.examples for reason, found in corpus.findings.items()}
    assert told["columns without a name, such as an index, not read"] == ("Primary/2: Unnamed: 0",)
    assert told["clips whose speaker differs between files, the first used"] == ("a.wav",)
    assert told["clips that are not in all folds"] == ("c.wav", "d.wav")
    assert told["clips that no fold tests"] == ("d.wav",)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.wav", "C:a.wav", "a\\b.wav", "\u2025/a.wav"])
def test_clips_that_lead_elsewhere_are_refused(name, tmp_path):
    write(tmp_path / "Primary" / "labels_consensus_1.csv", [[name, *ROWS[0][1:]]])
    with pytest.raises(ValueError, match="labels_consensus_1.csv: The path .*must be a plain relative path"):
        EmoSuperb(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["d.wav", "0.5", "nan", "0.5", "1", "Male", "Test"], "row 5 has sad 'nan'; it must be a share from 0 to 1"),
        (["d.wav", "inf", "0", "0.5", "1", "Male", "Test"], "row 5 has angry 'inf'"),
        (["d.wav", "1.2", "-0.1", "-0.1", "1", "Male", "Test"], "row 5 has angry '1.2'"),
        (["d.wav", "0,5", "0.25", "0.25", "1", "Male", "Test"], "row 5 has angry '0,5'"),
        (["d.wav", "0.5", "0.3", "0.1", "1", "Male", "Test"], "row 5 has shares that sum to .*0.9.*; it must be 1"),
        (["d.wav", "0.5", "0.3", "0.2", "1", "Male", "Dev"], "row 5 has Split_Set 'Dev'"),
        (["a.wav", "0.5", "0.3", "0.2", "1", "Male", "Test"], "row 5 has FileName 'a.wav'; it must be listed once"),
        ([" ", "0.5", "0.3", "0.2", "1", "Male", "Test"], "row 5 has FileName ' '; it must name the clip"),
        (["d.wav", "0.5"], "not a readable file .*Expected 7 columns, got 2"),
    ],
)
def test_bad_rows_are_named_with_the_file(row, message, tmp_path):
    write(tmp_path / "Primary" / "labels_consensus_1.csv", [*ROWS, row])
    with pytest.raises(ValueError, match=f"labels_consensus_1.csv: {message}"):
        EmoSuperb(tmp_path)


def test_a_file_without_labels_is_refused(tmp_path):
    write(
        tmp_path / "Primary" / "labels_consensus_1.csv", [["a.wav", "1", "Test"]], ["FileName", "SpkrID", "Split_Set"]
    )
    with pytest.raises(ValueError, match="there must be one for each label"):
        EmoSuperb(tmp_path)
