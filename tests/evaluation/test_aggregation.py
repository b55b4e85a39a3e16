"""Aggregation by the libraries, on votes whose truth is known."""

import sys

import numpy as np
import pytest

from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.aggregation import CROWDLAB, MAJORITY, METHODS, aggregate, measure_moves
from annot_hf.evaluation.resampling import Resamples
from annot_hf.models.measures import jsd

LABELS = ["a", "b", "c"]
QUESTION = Question.category("q", LABELS)


def crowd(items=150, seed=0):
    """Two careful raters and three who guess, on items with one true label."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, items)
    guess, careful = rng.integers(0, 3, (items, 3)), rng.random((items, 2)) < 0.95
    said = np.concatenate([np.where(careful, truth[:, None], (truth[:, None] + 1) % 3), guess], axis=1)
    names = {
        "item": np.repeat([f"i{row}" for row in range(items)], 5),
        "annotator": [f"r{code}" for code in range(5)] * items,
    }
    return truth, VoteTable.from_columns(QUESTION, value=[LABELS[code] for code in said.ravel()], **names)


def test_the_majority_shares_ties_and_moves_no_label():
    votes = VoteTable.from_counts(QUESTION, ["x", "y", "z"], [[2, 2, 1], [0, 3, 0], [0, 0, 0]])
    probs, rows = aggregate(votes, "q", MAJORITY)
    assert rows.tolist() == [0, 1] and probs.tolist() == [[0.5, 0.5, 0], [0, 1, 0]]
    moved = measure_moves(votes, "q", {MAJORITY: (probs, rows)}, Resamples(n=10))[MAJORITY]
    assert moved["items"] == 2 and moved["changed"]["value"] == 0
    assert moved["jsd"]["value"] == pytest.approx(jsd(probs, np.array([[0.4, 0.4, 0.2], [0, 1, 0]])).mean())


@pytest.mark.parametrize("method", [name for name in METHODS if name not in (MAJORITY, CROWDLAB)])
def test_the_order_of_the_votes_changes_no_label(method):
    pytest.importorskip("crowdkit")
    rng = np.random.default_rng(0)
    opinion = rng.dirichlet(np.ones(3), 60)
    rows = [(f"i{row}", f"r{who}", rng.choice(LABELS, p=opinion[row])) for row in range(60) for who in range(5)]
    found = []
    for order in (np.arange(300), rng.permutation(300)):
        item, annotator, value = zip(*(rows[place] for place in order), strict=True)
        votes = VoteTable.from_columns(QUESTION, item=item, annotator=annotator, value=value)
        probs, place = aggregate(votes, "q", method)
        found.append(probs[np.argsort(votes.items[place])])
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("method", [name for name in METHODS if name not in (MAJORITY, CROWDLAB)])
def test_methods_that_weigh_raters_beat_the_majority(method):
    pytest.importorskip("crowdkit")
    truth, votes = crowd(80)
    found = {name: aggregate(votes, "q", name) for name in (MAJORITY, method)}
    right = {name: (probs.argmax(1) == truth[rows]).mean() for name, (probs, rows) in found.items()}
    assert right[method] > right[MAJORITY] + 0.05
    np.testing.assert_allclose(found[method][0].sum(1), 1)
    moved = measure_moves(votes, "q", found, Resamples(n=20))
    assert moved[method]["changed"]["low"] > 0 == moved[MAJORITY]["changed"]["value"]


def test_crowdlab_weighs_raters_against_a_model():
    pytest.importorskip("cleanlab")
    truth, votes = crowd()
    probs = 0.7 * np.eye(3)[truth] + 0.1
    model = Predictions(items=votes.items, support=tuple(LABELS), probs=probs, questions=(QUESTION,))
    found, rows = aggregate(votes, "q", CROWDLAB, predictions=model)
    assert (found.argmax(1) == truth[rows]).mean() > 0.95 and set(found.ravel()) == {0.0, 1.0}


def test_what_a_method_lacks_is_said(monkeypatch):
    _, votes = crowd(5)
    anonymous = VoteTable.from_counts(QUESTION, ["x"], [[1, 1, 0]])
    with pytest.raises(ValueError, match="fewer than two named raters; all methods but the majority need"):
        aggregate(anonymous, "q", "MACE")
    with pytest.raises(ValueError, match="CROWDLAB weighs raters against a model; give predictions"):
        aggregate(votes, "q", CROWDLAB)
    with pytest.raises(ValueError, match="method is 'mean'; use 'majority' or 'Dawid-Skene'"):
        aggregate(votes, "q", "mean")
    scale = VoteTable.from_columns(Question.scale("v", 1, 5), item=["x"], value=[2])
    with pytest.raises(ValueError, match="Question 'v' is no category question"):
        aggregate(scale, "v", MAJORITY)

    # As if it were not installed.
    monkeypatch.setitem(sys.modules, "crowdkit", None)
    with pytest.raises(ValueError, match=r"GLAD needs the package crowdkit.*pip install 'annot-hf\[agree\]'"):
        aggregate(votes, "q", "GLAD")
