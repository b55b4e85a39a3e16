"""Splits that an export draws anew or reads from a file: what is kept apart, what is left out, and how it is counted."""

import numpy as np
import pandas as pd
import pytest
from small_corpus import EMOTION, Small, findings

from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.folds import find_leaks
from annot_hf.data.splitting import answer_and_disagreement, split_as, split_by
from annot_hf.data.votes import VoteTable

SPLITS = {"train", "validation", "test"}


def texts(tmp_path, speakers=12, sentences=10, raters=9):
    """Every speaker says every sentence, in one of two spellings; three of the raters judge each, and one who has no name."""
    root = tmp_path / "root"
    root.mkdir()
    corpus = Small(root)
    items = [(who, what) for who in range(speakers) for what in range(sentences)]
    corpus.items = pd.DataFrame(
        {
            "item": [f"s{who}t{what}" for who, what in items],
            "text": [f"SENTENCE {what}!" if who % 2 else f"Sentence {what}." for who, what in items],
            "speaker": [f"s{who}" for who, _ in items],
            "session": [who // 2 for who, _ in items],
        }
    )
    rng = np.random.default_rng(0)
    rows = [(item, f"r{one}") for item in corpus.items["item"] for one in rng.choice(raters, 3, replace=False)]
    rows += [(item, None) for item in corpus.items["item"]]
    corpus.questions = (EMOTION,)
    corpus.votes = VoteTable.from_columns(
        EMOTION,
        item=[item for item, _ in rows],
        annotator=[rater for _, rater in rows],
        value=rng.choice(["anger", "calm"], len(rows)),
    )
    return corpus


def exported(corpus, tmp_path, splits, **options):
    report = export_corpus(corpus, tmp_path / "out", splits=splits, **options)
    back = read_export(tmp_path / "out")
    # What came in is there, or was left out for a reason.
    assert report.votes + report.votes_left_out == len(corpus.votes)
    assert set(back.items["split"]) == SPLITS and len(back.items) == report.items
    return back, findings(report)


@pytest.mark.parametrize("column", ["speaker", "session"])
def test_groups_of_a_column_are_in_one_split(tmp_path, column):
    corpus = texts(tmp_path)
    back, found = exported(corpus, tmp_path, split_by(column, seed=1), strict=column == "session")
    assert len(back.items) == 120 and not find_leaks(back.items, [column])
    assert found[f"splits drawn by {column}, seed 1"].examples[0].startswith("train: ")
    shares = back.items["split"].value_counts(normalize=True)
    assert 0.6 < shares["train"] < 0.8
    again, _ = exported(corpus, tmp_path, split_by(column, seed=1))
    other, _ = exported(corpus, tmp_path, split_by(column, seed=2))
    assert again.digest == back.digest != other.digest


def test_shares_are_met_and_labels_are_spread_alike(tmp_path):
    corpus = texts(tmp_path, speakers=20)
    back, _ = exported(corpus, tmp_path, split_by("item", shares=(0.5, 0.3, 0.2)))
    assert back.items["split"].value_counts().to_dict() == {"train": 100, "validation": 60, "test": 40}
    centre, spread = answer_and_disagreement(back.votes, "emotion", list(back.items["item"]))
    kinds = pd.crosstab([centre, np.round(spread, 6)], back.items["split"].to_numpy(), normalize="columns")
    assert kinds.sub(kinds["train"], axis=0).abs().max(axis=None) < 0.06


def test_no_sentence_is_in_two_splits_whatever_its_spelling(tmp_path):
    back, found = exported(texts(tmp_path), tmp_path, split_by("text"))
    assert len(back.items) == 120
    assert not find_leaks(back.items.assign(words=back.items["item"].str.split("t").str[1]), ["words"])
    assert found["speakers in several splits"].count == 12


def test_speakers_and_sentences_apart_leave_out_what_crosses(tmp_path):
    corpus = texts(tmp_path)
    # Left out as it was asked for, so that a strict export has it too.
    back, found = exported(corpus, tmp_path, split_by("session", "text"), strict=True)
    items = back.items.assign(words=back.items["item"].str.split("t").str[1])
    assert not find_leaks(items, ["speaker", "words"])
    lost = found["items whose text is of another split, left out"]
    # Ten sentences and twelve speakers: every split has its speakers times its sentences.
    counts = items.groupby("split").agg({"speaker": "nunique", "words": "nunique"})
    assert len(items) == (counts["speaker"] * counts["words"]).sum() == 120 - lost.count
    assert counts["speaker"].sum() == 12 and counts["words"].sum() == 10 and lost.votes == 4 * lost.count


def test_nothing_is_left_out_where_nothing_crosses(tmp_path):
    corpus = texts(tmp_path)
    corpus.items["text"] = "said by " + corpus.items["speaker"]
    back, found = exported(corpus, tmp_path, split_by("speaker", "text"))
    assert len(back.items) == 120 and not any("left out" in reason for reason in found)


def test_raters_vote_in_one_split_alone(tmp_path):
    corpus = texts(tmp_path, raters=20)
    back, found = exported(corpus, tmp_path, split_by("speaker", "rater"))
    split_of = back.items.set_index("item")["split"]
    votes = pd.DataFrame(
        {
            "split": split_of[back.votes.items[back.votes.item_codes]].to_numpy(),
            "rater": back.votes.annotators[back.votes.annotator_codes],
        }
    )
    assert (votes.groupby("rater")["split"].nunique() == 1).all() and set(votes["split"]) == SPLITS
    assert not find_leaks(back.items, ["speaker"])
    apart, unnamed = (
        found[reason]
        for reason in (
            "votes on items of another split than the rater's, left out",
            "votes that name no rater, left out where raters are divided",
        )
    )
    assert unnamed.votes == 120 and apart.votes == 360 - len(votes) and len(votes) > 120
    # The raters alone: items are divided by speaker all the same.
    alone, _ = exported(corpus, tmp_path, split_by("rater"))
    assert not find_leaks(alone.items, ["speaker"])


def test_spans_go_with_the_votes_of_their_rater(tmp_path):
    corpus = texts(tmp_path, raters=20)
    named = corpus.votes.annotator_codes >= 0
    items, raters = corpus.votes.items[corpus.votes.item_codes], corpus.votes.annotators[corpus.votes.annotator_codes]
    spans = pd.DataFrame({"item": items[named], "annotator": raters[named], "start": 0, "end": 8})
    corpus.read_spans = lambda: spans
    back, found = exported(corpus, tmp_path, split_by("speaker", "text", "rater"))
    assert len(back.spans) == len(back.votes) == 360 - found["spans on items or by raters that are left out"].count > 0
    pairs = set(zip(back.spans["item"], back.spans["annotator"], strict=True))
    kept = back.votes
    assert pairs == set(zip(kept.items[kept.item_codes], kept.annotators[kept.annotator_codes], strict=True))


def test_a_file_of_splits(tmp_path):
    corpus = texts(tmp_path)
    corpus.items["split"] = "elsewhere"
    names = list(corpus.items["item"])
    path = tmp_path / "splits.csv"
    rows = [f"{item},{('Training', 'dev', 'test')[n % 3]}" for n, item in enumerate(names[:100])]
    path.write_text("\n".join(["item,split", *rows, "elsewhere,test"]))
    back, found = exported(corpus, tmp_path, split_as(path))
    wanted = {item: ("train", "validation", "test")[n % 3] for n, item in enumerate(names[:100])}
    assert back.items.set_index("item")["split"].to_dict() == wanted
    assert found["items that the file of splits does not name, left out"].votes == 80
    assert found["items of the file of splits that the corpus does not have"].examples == ("elsewhere",)
    assert found["speakers in several splits"].count == 10
    with pytest.raises(ValueError, match=r"small: items of the file of splits .* have: 1, such as elsewhere, with 0"):
        export_corpus(corpus, tmp_path / "out", splits=split_as(path), strict=True)


def test_splits_of_a_file_by_speaker(tmp_path):
    path, corpus = tmp_path / "splits.csv", texts(tmp_path)
    path.write_text("speaker,split\ns0,train\ns1,dev\ns2,test\ns99,test")
    back, found = exported(corpus, tmp_path, split_as(path))
    assert back.items.groupby("speaker")["split"].agg(set).to_dict() == {
        "s0": {"train"},
        "s1": {"validation"},
        "s2": {"test"},
    }
    assert found["items that the file of splits does not name, left out"].count == 90
    assert found["speakers of the file of splits that the corpus does not have"].examples == ("s99",)
    path.write_text("speaker,split\ns0,train\ns0,test")
    with pytest.raises(ValueError, match="row 3: speaker 's0' with split 'test' is there twice"):
        split_as(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item,part\na,train\n", "split"),
        ("item,split\ns0t0,train\ns0t0,test\n", "row 3: item 's0t0' with split 'test' is there twice"),
        ("item,split\ns0t0,\n", "row 2: item 's0t0' with split '' names no split"),
        (
            "item,split\nx,train\n",
            "names the item of none of the 120 items of small: it has 'x', and the corpus has 's0t0'",
        ),
    ],
)
def test_files_of_splits_that_are_refused(tmp_path, text, message):
    corpus = texts(tmp_path)
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        export_corpus(corpus, tmp_path / "out", splits=split_as(tmp_path / "splits.csv"))
    assert not (tmp_path / "out").exists()


def test_splits_that_cannot_be_drawn(tmp_path):
    corpus = texts(tmp_path, speakers=2)
    for options, message in (
        ((), "No column is named"),
        (("room",), "no column 'room'"),
        (("speaker",), "small, split by speaker: 2 groups cannot be divided into 3 splits"),
    ):
        with pytest.raises(ValueError, match=message):
            export_corpus(corpus, tmp_path / "out", splits=split_by(*options))
    with pytest.raises(ValueError, match=r"shares are \(0\.7, 0\.2\); give three above 0 that sum to 1"):
        split_by("speaker", shares=(0.7, 0.2))
    with pytest.raises(ValueError, match=r"shares are .* sum to 1"):
        split_by("speaker", shares=(0.7, 0.2, 0.2))
    corpus.votes = corpus.votes.select(mask=corpus.votes.annotator_codes < 0)
    with pytest.raises(ValueError, match="no vote names its rater, so that raters cannot be divided"):
        export_corpus(corpus, tmp_path / "out", splits=split_by("item", "rater"))


def test_a_strict_export_names_the_first_surprise(tmp_path):
    corpus = texts(tmp_path)
    corpus.note("what every release has", 3, expected=True)
    export_corpus(corpus, tmp_path / "out", splits=split_by("session"), strict=True)
    corpus.note("rows without an item", ["<b>", "c"], votes=2)
    with pytest.raises(
        ValueError, match="rows without an item: 2, such as <b>, with 2 votes left out, and 0 other findings"
    ):
        export_corpus(corpus, tmp_path / "new", splits=split_by("session"), strict=True)
    assert not (tmp_path / "new").exists()
    assert export_corpus(corpus, tmp_path / "new", splits=split_by("session")).votes_left_out == 2
