import json

import numpy as np
import pytest

from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.equivalence import vote_counts
from annot_hf.evaluation.evaluate import evaluate
from annot_hf.report.report import breakdown_sections
from annot_hf.report.tables import equivalence_table, residual_table, speakers_table, strata_table

LABELS = ("a", "b", "Other")


def run(counts, probs, labels=LABELS):
    items = [f"i{row}" for row in range(len(counts))]
    question = Question.category("emotion", labels)
    votes = VoteTable.from_counts(question, items, counts)
    targets = make_targets(votes, "emotion")
    return Predictions(items=items, support=labels, probs=probs, questions=(question,)), targets, votes


@pytest.fixture(scope="module")
def found(emotion_run):
    votes, targets, predictions, speakers = emotion_run
    sex = {item: "f" if int(name[-2:]) % 3 else "m" for item, name in speakers.items()}
    return evaluate(predictions, targets, speakers=speakers, groups={"sex": sex}, votes=votes, n_resamples=200)


def test_agrees_with_the_scores_on_the_same_resamples(found):
    for name in ("accuracy", "uar"):
        for end in ("value", "low", "high"):
            assert found.at(f"{name}_1_best")[end] == pytest.approx(found.at(name)[end])
            assert found.difference(f"{name}_1_best")[end] == pytest.approx(found.difference(name)[end])
    loss = found.equivalence.systems["model"]["loss"]  # every item has seven votes, so all of them are used
    assert found.equivalence.share == 1 and loss["value"] == pytest.approx(found.at("cross_entropy")["value"])
    assert len(found) == len(list(found)) and "ece" in found


def test_form(emotion_run, found):
    for name, record in found.items():
        assert set(record) == {"title", "unit", "better", "systems", "differences"} and "model" in record["systems"], (
            name
        )
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.to_dict()["speakers"]["sex=m"] == {
        "title": "sex: m",
        "speakers": 4,
        "items": {"min": 20, "median": 20, "max": 20},
        "labels": found.to_dict()["speakers"]["sex=m"]["labels"],
    }
    assert found.residual is None and found.confusion["items"].sum() == 240
    again = evaluate(emotion_run[2], emotion_run[1], speakers=emotion_run[3], votes=emotion_run[0], n_resamples=200)
    shared = [name for name in found if "sex=" not in name]
    assert {name: found[name] for name in shared} == dict(again)


def test_soft_targets_hold_their_counts(emotion_run):
    votes, targets, _, _ = emotion_run
    np.testing.assert_array_equal(vote_counts(targets), vote_counts(targets, votes))
    assert vote_counts(make_targets(votes, "emotion", "smoothed")) is None
    question = Question.category("emotion", LABELS)
    weighted = VoteTable.from_columns(question, item=["x", "x"], value=["a", "b"], weight=[0.5, 1.0])
    targets = make_targets(weighted, "emotion")
    assert vote_counts(targets, weighted) is None and vote_counts(targets) is None
    several = Question.category("emotion", LABELS, multiple=True)
    chosen = VoteTable.from_columns(several, item=["x", "x"], value=["a", "b"], annotator=["p", "q"])
    assert vote_counts(make_targets(chosen, "emotion"), chosen) is None


def test_tables_say_what_they_rest_on(found):
    strata = strata_table(found)
    assert len(strata.rows) == 6 and strata.rows[0][1].main == f"{int(found.strata[0].rows.sum()):,}"
    empty = [stratum for stratum in found.strata if stratum.absent and stratum.rows.any()]
    for stratum in empty:
        assert f"{stratum.name} ({stratum.scheme}) {', '.join(stratum.absent)}" in strata.note
    assert "Every label" in strata.note or empty
    (speakers,) = speakers_table(found)
    assert [row[0].main for row in speakers.rows][-2:] == ["Sex: f", "Sex: m"]
    assert speakers.rows[0][0].small == "n = 12; 20 items (20 to 20)"
    (raters,) = equivalence_table(found)
    assert "the 240 items (100 %) with at least 7 votes" in raters.note
    assert raters.rows[-1][0].small == f"worth {found.equivalence.systems['model']['worth']['text']} raters"


def test_the_residual_label_is_told_when_raters_used_it():
    counts = [[4, 0, 2], [1, 3, 0], [0, 0, 3]]
    probs = [[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.6, 0.1, 0.3]]
    predictions, targets, votes = run(counts, probs)
    found = evaluate(predictions, targets, votes=votes, n_resamples=20)
    assert found.residual == "Other"
    kept = (2 / 6 * 0.2 + 1 * 0.3) / (2 / 6 + 1)
    assert found.at("residual_Other")["value"] == pytest.approx(100 * kept)
    (table,) = residual_table(found)
    assert table.title == "Where votes for “Other” go" and len(table.rows) == 3
    assert found.at("residual_a", "votes")["value"] == pytest.approx(100 * (2 / 6 * 4 / 6) / (4 / 3))
    unused, targets, votes = run([[1, 1, 0]] * 2, [[0.5, 0.4, 0.1]] * 2)
    assert residual_table(evaluate(unused, targets, votes=votes, n_resamples=0)) == []


@pytest.mark.parametrize(
    ("counts", "labels", "speakers"),
    [
        ([[1, 0, 0]], LABELS, None),
        ([[1, 0, 0]], LABELS, ["s"]),
        ([[1, 0, 0], [0, 1, 0]], LABELS, ["s", "s"]),
        ([[1, 0, 0], [0, 1, 0]], LABELS, ["s", "t"]),
        ([[1], [2]], ("only",), ["s", "t"]),
        ([[1, 2], [2, 1]], ("top", "=x"), ["s", "t"]),
    ],
)
def test_hardly_any_data(counts, labels, speakers):
    counts = np.array(counts)
    predictions, targets, votes = run(counts, np.full(counts.shape, 1 / counts.shape[1]), labels)
    found = evaluate(predictions, targets, votes=votes, speakers=speakers, n_resamples=30)
    json.dumps(found.to_dict(), allow_nan=False)
    several = len(set(speakers or ())) > 1
    assert bool(found.groups) == several and any(name.startswith("pauar") for name in found) == (
        several and len(labels) > 1
    )
    assert (found.equivalence is None) == (counts.sum(1).max() < 2)
    sections = breakdown_sections(found, {})
    assert all(
        cell.text is not None for part in sections for table in part.tables for row in table.rows for cell in row
    )


def test_scales_have_no_breakdown(grid_run):
    found = evaluate(grid_run[2], grid_run[1], n_resamples=0)
    assert found.parts["categories"] == {} and found.strata == [] and found.equivalence is None
