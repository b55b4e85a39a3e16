"""ConvAbuse: a miniature of the full release, its defects, and the real responses where they stand."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from annot_hf.cli.start import open_corpus
from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export
from annot_hf.evaluation.agreement import agreement

SCRIPT = Path(__file__).parents[2] / "dataset_scripts" / "convabuse"
REAL = Path(__file__).parents[3] / "shared" / "data" / "convabuse"
ConvAbuse = load_corpus_script(SCRIPT)

KEY = ["conv_id", "prev_agent", "prev_user", "agent", "user"]
LEVELS = ("1", "0", "-1", "-2", "-3")
FLAGS = [f"type.{x}" for x in "ableism homophobic intellectual racist sexist sex_harassment transphobic".split()]
FLAGS += ["target.generalised", "target.individual", "target.system", "direction.explicit", "direction.implicit"]
COLUMNS = ["example_no", "annotator_id", *KEY, "bot", *(f"is_abuse.{level}" for level in LEVELS), *FLAGS]
ONE = ("159183.0", "Please go on.", "bye bye", "Do you?", "you, are a bot")
TWO = ("95cbaab0", "_", "_", "What city?", "=Sydney")
THREE = ("95cbaab0", "What city?", "Sydney", "And to?", "shut up")
RESPONSES = [
    ("Annotator1", ONE, "1", ()),
    ("Annotator2", ONE, "-2", ("type.sexist", "type.racist", "target.system", "direction.explicit")),
    ("Annotator1", TWO, "1", ()),
    ("Annotator2", TWO, "0", ()),
    ("Annotator3", THREE, "-3", ("target.system", "direction.implicit")),
    ("Annotator2", THREE, "-1", ("type.ableism", "target.individual", "direction.implicit")),
]
VOTES = {"severity_class": 6, "severity": 6, "abusive": 6, "type": 4, "target": 3, "direction": 3}


def table_row(number, rater, key, level, flags):
    marks = [int(level == one) for one in LEVELS] + [int(flag in flags) for flag in FLAGS]
    return [number, rater, *key, "E.L.I.Z.A.", *marks]


def write(root, responses, change=None):
    rows = [table_row(number, *response) for number, response in enumerate(responses, start=1)]
    if change:
        change(rows)
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "ConvAbuseEMNLPfull.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def miniature(root):
    """A complete miniature; returns votes per question."""
    write(root, RESPONSES)
    return VOTES


@pytest.fixture
def root(tmp_path):
    miniature(tmp_path / "convabuse")
    return tmp_path / "convabuse"


def export(root):
    report = export_corpus(ConvAbuse(root), root.parent / "out")
    return report, read_export(root.parent / "out"), {finding.reason: finding for finding in report.findings}


def item_of(back, user):
    return back.items.loc[back.items["user"] == user, "item"].item()


def test_a_turn_with_its_context(root):
    _, back, findings = export(root)
    items = back.items.set_index("user")
    assert items.loc["you, are a bot", "text"] == (
        "user: you, are a bot\nagent: Do you?\nuser: bye bye\nagent: Please go on."
    )
    assert items.loc["=Sydney", "text"] == "user: =Sydney\nagent: What city?"  # nothing was before
    assert items.loc["shut up", "conversation"] == "95cbaab0" and items.loc["shut up", "prev_user"] == "Sydney"
    assert len(items) == 3 and back.items.groupby("conversation")["split"].nunique().max() == 1
    assert set(findings) == {
        "severities that are a vote on a class, on a scale and on abusive",
        "type: no flag on a turn called abusive, a vote for none",
    }


def test_the_turn_alone_may_be_the_text(root, tmp_path):
    corpus = open_corpus(SCRIPT, root, tmp_path / "labels", audio=None, seed=0, allow_leak=False, text="user")
    report = export_corpus(corpus, tmp_path / "out", strict=True)
    items = read_export(tmp_path / "out").items
    assert list(items["text"]) == list(items["user"]) and set(items["text"]) == {ONE[4], TWO[4], THREE[4]}
    assert [one.count for one in report.findings if one.reason == "items whose text is their column user"] == [3]
    corpus.text_column = "turn"
    with pytest.raises(ValueError, match="convabuse: items have no column 'turn'; they have item, .*user"):
        export_corpus(corpus, tmp_path / "out")
    corpus.text_column, corpus.read_spans = "user", lambda: pd.DataFrame()
    with pytest.raises(ValueError, match="spans are of the corpus's own texts"):
        export_corpus(corpus, tmp_path / "out")


def test_severity_is_a_class_and_a_number(root):
    _, back, findings = export(root)
    shut_up = [item_of(back, "shut up")]
    np.testing.assert_array_equal(back.votes.counts("severity_class", items=shut_up), [[0, 0, 1, 0, 1]])
    ratings = back.votes.select(items=shut_up, questions=["severity"]).to_pandas().set_index("annotator")["rating"]
    assert ratings.to_dict() == {"Annotator3": -3, "Annotator2": -1}
    both = [item_of(back, name) for name in ("shut up", "=Sydney")]
    np.testing.assert_array_equal(back.votes.counts("abusive", items=both), [[0, 2], [2, 0]])
    assert findings["severities that are a vote on a class, on a scale and on abusive"].count == 6


def test_only_those_who_saw_abuse_were_asked_which(root):
    _, back, _ = export(root)
    kinds = back.votes.select(questions=["type"]).to_pandas()
    assert sorted(kinds["label"].dropna()) == ["ableism", "racist", "sexist"]
    assert kinds.loc[kinds["label"].isna(), "annotator"].tolist() == ["Annotator3"]
    assert item_of(back, "=Sydney") not in set(kinds["item"])


def test_repeated_responses_are_kept_and_reported(root):
    write(root, [*RESPONSES, ("Annotator1", ONE, "1", ()), ("Annotator1", ONE, "-1", ("type.sexist",))])
    report, back, findings = export(root)
    assert findings["responses of a rater to a turn rated before, kept"].count == 2
    assert findings["of these, with another severity than the first"].count == 1
    counts = back.votes.counts("severity_class", items=[item_of(back, ONE[-1])])
    np.testing.assert_array_equal(counts, [[2, 0, 1, 1, 0]])
    assert report.questions["severity"]["votes"] == 8 and report.votes_left_out == 0
    assert agreement(back.votes, "severity_class").cohen_kappa.value is not None


def test_flags_without_abuse_are_kept_and_reported(root):
    write(root, [*RESPONSES, ("Annotator3", TWO, "1", ("target.system",))])
    report, back, findings = export(root)
    assert findings["target: flags of turns not called abusive, kept"].count == 1
    assert report.questions["target"]["votes"] == 4


def test_responses_without_one_severity_are_left_out_and_counted(root):
    write(root, [*RESPONSES, ("Annotator3", TWO, "none", ())], lambda rows: rows[0].__setitem__(9, 1))
    report, back, findings = export(root)
    found = findings["responses without exactly one severity"]
    assert (found.count, found.votes, found.examples) == (2, 6, ("row 2", "row 8"))
    assert (
        report.questions["severity"]["votes"] == 5 and report.votes + report.votes_left_out == sum(VOTES.values()) + 3
    )


def test_a_turn_without_words_is_reported(root):
    write(root, [*RESPONSES, ("Annotator3", ("_",) * 5, "1", ())])
    _, back, findings = export(root)
    assert findings["turns whose words are upstream's sign '_' for nothing, kept"].count == 1
    assert back.items.loc[back.items["user"] == "_", "text"].item() == "user: _"


def test_the_folder_of_the_repository_and_gzip(root):
    (root / "1_full").mkdir()
    path = root / "ConvAbuseEMNLPfull.csv"
    (root / "1_full" / "ConvAbuseEMNLPfull.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    digest = export(root)[1].digest
    path.unlink()
    assert export(root)[1].digest == digest


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, " ", "row 4 has annotator_id ' '; it must name the rater"),
        (8, "2", "row 4 has is_abuse.1 '2'; it must be 0 or 1"),
        (24, "", "row 4 has direction.implicit ''; it must be 0 or 1"),
        (2, "", "has no group to split by"),
    ],
)
def test_broken_rows_are_named(root, place, value, message):
    write(root, RESPONSES, lambda rows: rows[2].__setitem__(place, value))
    with pytest.raises(ValueError, match=message):
        export(root)


def test_broken_files_are_named(root):
    path = root / "ConvAbuseEMNLPfull.csv"
    path.write_text(path.read_text().replace("type.sexist", "type.sexism"))
    with pytest.raises(ValueError, match="the header is .*it must have the columns annotator_id,conv_id"):
        export(root)
    path.unlink()
    (root / "ConvAbuseEMNLPfull.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="full.csv.gz: not a readable CSV file"):
        export(root)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/convabuse is not here")
def test_real_responses_are_exact(tmp_path):
    report = export_corpus(ConvAbuse(REAL), tmp_path / "out")
    assert (report.items, report.annotators, report.votes_left_out) == (3314, 8, 0)
    assert {name: row["votes"] for name, row in report.questions.items()} == {
        "severity_class": 10_114,
        "severity": 10_114,
        "abusive": 10_114,
        "type": 1_712,
        "target": 1_591,
        "direction": 1_583,
    }
    found = {finding.reason: finding.count for finding in report.findings}
    assert found["responses of a rater to a turn rated before, kept"] == 282
    back = read_export(tmp_path / "out")
    given = pd.read_csv(REAL / "ConvAbuseEMNLPfull.csv.gz", dtype=str, keep_default_na=False)
    marks = given[[f"is_abuse.{level}" for level in LEVELS]].astype(int)
    expected = marks.groupby([given[field] for field in KEY]).sum().reset_index()
    joined = back.items.rename(columns={"conversation": "conv_id"}).merge(expected, on=KEY, validate="one_to_one")
    counts = back.votes.counts("severity_class", items=list(joined["item"]))
    np.testing.assert_array_equal(counts, joined[list(marks)].to_numpy())
    assert back.items.groupby("conversation")["split"].nunique().max() == 1
