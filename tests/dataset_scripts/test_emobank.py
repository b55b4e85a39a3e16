"""EmoBank: a miniature of the upstream layout, its defects, and the real ratings where they stand."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from annot_hf.data.corpus import load_corpus_script, split_by_group
from annot_hf.data.export import export_corpus, read_export

SCRIPT = Path(__file__).parents[2] / "dataset_scripts" / "emobank"
REAL = Path(__file__).parents[3] / "shared" / "data" / "emobank"
EmoBank = load_corpus_script(SCRIPT)

SENTENCES = [  # id, document, category, subcategory, split, text
    ("letter_1_20", "letter", "letters", "solicitation", "train", 'He said: "Stay, please"'),
    ("letter_21_40", "letter", "letters", "solicitation", "dev", "Oh no."),
    ("story_1_9", "story", "fiction", " ", "test", "NA"),
    ("story_10_30", "story", "fiction", " ", "train", "They lived."),
    ("SemEval_1", "SemEval", "SemEval", "", None, "Markets fall"),
]
RATINGS = {"reader": [(3, 3, 3), (5, 1, 3), (4, 2, 3)], "writer": [(1, 5, 2), (2, 4, 3)]}
SCALES = ("valence", "arousal", "dominance")


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(rows)


def write_ratings(root, perspective, rows):
    write(root / f"individual_{perspective}_ratings.csv", [("id", "V", "A", "D"), *rows])


def miniature(root):
    """A complete miniature; returns votes per question."""
    write(root / "raw.csv", [("id", "text"), *((row[0], row[5]) for row in SENTENCES)])
    write(root / "meta.csv", [("id", "document", "category", "subcategory"), *(row[:4] for row in SENTENCES)])
    released = [(row[0], row[4], "3.0", "3.1", "2.9", row[5]) for row in SENTENCES if row[4]]
    write(root / "emobank.csv", [("id", "split", "V", "A", "D", "text"), *released])
    for perspective, ratings in RATINGS.items():
        write_ratings(root, perspective, [(row[0], *rating) for row in SENTENCES for rating in ratings])
    return {
        f"{perspective}_{scale}{kind}": len(SENTENCES) * len(ratings)
        for perspective, ratings in RATINGS.items()
        for scale in SCALES
        for kind in ("", "_class")
    }


@pytest.fixture
def root(tmp_path):
    miniature(tmp_path / "EmoBank")
    return tmp_path / "EmoBank"


def export(root):
    report = export_corpus(EmoBank(root), root.parent / "out")
    return report, read_export(root.parent / "out"), {finding.reason: finding for finding in report.findings}


def test_sentences_documents_and_released_splits(root):
    report, back, findings = export(root)
    items = back.items.set_index("item")
    assert items.loc["letter_1_20", "text"] == 'He said: "Stay, please"' and items.loc["story_1_9", "text"] == "NA"
    assert set(items["document"]) == {
        "letter",
        "story",
        "SemEval",
    }
    assert items["subcategory"].isna().sum() == 3
    expected = {row[0]: {"dev": "validation", None: "train"}.get(row[4], row[4]) for row in SENTENCES}
    assert items["split"].to_dict() == expected
    assert findings["sentences in no released split, in train"].examples == ("SemEval_1",)
    assert findings["documents in several splits"].count == 2
    assert report.annotators == 0
    # The released files are so.
    export_corpus(EmoBank(root), root.parent / "strict", strict=True)


def test_a_rating_is_a_number_and_a_class_and_that_is_reported(root):
    report, back, findings = export(root)
    votes = back.votes
    for perspective, ratings in RATINGS.items():
        for place, scale in enumerate(SCALES):
            name = f"{perspective}_{scale}"
            of_item = votes.item_codes[votes.rows_of(name)] == list(votes.items).index("story_1_9")
            assert sorted(votes.ratings[votes.rows_of(name)][of_item]) == sorted(row[place] for row in ratings)
            counts = np.bincount([row[place] for row in ratings], minlength=6)[1:]
            np.testing.assert_array_equal(votes.counts(f"{name}_class", items=["story_1_9"]), [counts])
    assert findings["ratings that are a vote on a scale and a vote on a class"].count == 5 * 5 * 3 == report.votes / 2


def test_ratings_off_the_scale_are_left_out_and_counted(root):
    rows = [("letter_1_20", 0, 3, 3), ("letter_1_20", 3.5, 3, ""), ("letter_1_20", 3, 3.0, "x"), ("SemEval_1", 6, 3, 3)]
    write_ratings(root, "reader", rows)
    report, back, findings = export(root)
    valence = findings["reader_valence: ratings that are no whole number from 1 to 5"]
    assert (valence.count, valence.votes) == (3, 6) and valence.examples[1] == "letter_1_20: '3.5'"
    assert findings["reader_dominance: ratings that are no whole number from 1 to 5"].votes == 4
    assert back.votes.counts("reader_valence_class").sum() == 1
    assert report.votes + report.votes_left_out == 2 * 3 * (len(rows) + 2 * len(SENTENCES))


def test_without_the_released_split_documents_stay_together(root):
    (root / "emobank.csv").unlink()
    _, back, findings = export(root)
    items = back.items
    assert (items["split"] == split_by_group(items["document"])).all()
    assert findings["sentences split by document, since there is no emobank.csv"].count == 5


def test_the_folder_of_the_repository_gzip_and_tabs(root):
    (root / "corpus").mkdir()
    for name in ("raw", "emobank", "individual_reader_ratings"):
        (root / "corpus" / f"{name}.csv.gz").write_bytes(gzip.compress((root / f"{name}.csv").read_bytes()))
        (root / f"{name}.csv").unlink()
    write(root / "meta.tsv", list(csv.reader(open(root / "meta.csv", newline=""))))
    (root / "meta.csv").unlink()
    report, back, _ = export(root)
    assert report.votes == 150 and set(back.items["document"]) == {"letter", "story", "SemEval"}


def test_sentences_without_metadata(root):
    write(root / "meta.csv", [("id", "document", "category", "subcategory"), *(row[:4] for row in SENTENCES[1:])])
    _, back, findings = export(root)
    assert findings["sentences without metadata, each a document of its own"].examples == ("letter_1_20",)
    assert back.items.set_index("item").loc["letter_1_20", "document"] == "letter_1_20"


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("raw", [("id", "words"), ("a", "b")], "the header is 'id,words'; it must have the columns id,text"),
        ("raw", [("id", "text"), ("a", "b"), ("a", "c")], "row 3 has id 'a'; it must be listed once"),
        ("raw", [("id", "text")], "has no rows"),
        ("raw", [("id", "text"), ("a", "b", "c")], "not a readable file .*Expected 2 columns, got 3"),
        ("emobank", [("id", "split"), ("SemEval_1", "dve")], "row 2 has split 'dve'; it must be train, dev, test"),
        ("individual_writer_ratings", [("id", "V", "A"), ("a", 1, 2)], "it must have the columns id,V,A,D"),
        ("individual_writer_ratings", [("id", "V", "A", "D"), ("x", 1, 2, 3)], r"does not list \(x\)"),
    ],
)
def test_broken_files_are_named(root, file, rows, message):
    write(root / f"{file}.csv", rows)
    with pytest.raises(ValueError, match=message):
        export(root)


@pytest.mark.parametrize("file", ["raw", "meta", "individual_reader_ratings", "individual_writer_ratings"])
def test_missing_files_are_named(root, file):
    (root / f"{file}.csv").unlink()
    with pytest.raises(ValueError, match=f"{file}.csv.* is not in"):
        export(root)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/emobank is not here")
def test_real_ratings_are_exact(tmp_path):
    report = export_corpus(EmoBank(REAL), tmp_path / "out")
    assert report.items == 9548 and report.splits == {"train": 8062 + 486, "validation": 1000}
    votes = {name: row["votes"] for name, row in report.questions.items()}
    assert set(votes.values()) == {48_022, 48_082} and sum(votes.values()) == report.votes == 2 * 3 * 96_104
    assert report.votes_left_out == 0
    back = read_export(tmp_path / "out")
    for perspective in RATINGS:
        given = pd.read_csv(REAL / f"individual_{perspective}_ratings.csv.gz", keep_default_na=False)
        expected = pd.crosstab(given["id"], given["D"])
        found = back.votes.counts(f"{perspective}_dominance_class", items=list(expected.index))
        np.testing.assert_array_equal(found, expected.to_numpy())
