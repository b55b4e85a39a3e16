import json
from dataclasses import replace

import audmetric
import numpy as np
import pandas as pd
import pytest
import scipy.spatial.distance
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from annot_hf.data.predictions import Predictions, dimensions, expectation
from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import align
from annot_hf.evaluation.evaluate import evaluate
from annot_hf.evaluation.scoring import ITEM_MEASURES

LABELS = ("a", "b", "c")


def run(counts, probs):
    """Targets and predictions of items i0, i1 ... from vote counts and predicted rows."""
    items = [f"i{row}" for row in range(len(counts))]
    question = Question.category("emotion", LABELS)
    targets = make_targets(VoteTable.from_counts(question, items, counts), "emotion")
    return Predictions(items=items, support=LABELS, probs=probs, questions=(question,)), targets


def test_labels_above_their_equal_share_are_those_of_scikit_learn(emotion_run):
    _, targets, predictions, speakers = emotion_run
    found = evaluate(predictions, targets, speakers=speakers, n_resamples=50, parts=("items",))
    p, q = (x / x.sum(1, keepdims=True) > 1 / 6 + 1e-9 for x in (predictions.probs, targets.probs))

    def f1(rows):
        return sklearn.metrics.f1_score(q[rows], p[rows], average="macro", zero_division=0)

    assert found.at("labels_f1")["value"] == pytest.approx(f1(slice(None)))
    assert found.at("labels_f1")["low"] < found.at("labels_f1")["value"] < found.at("labels_f1")["high"]
    batches = [f1(slice(start, start + 32)) for start in range(0, 240, 32)]
    assert len(batches) == 8 and found.at("labels_f1_batches")["value"] == pytest.approx(np.mean(batches))
    assert found.at("labels_f1_batches")["low"] is None


def test_an_equal_share_is_not_above_it():
    counts = [[1, 1, 1], [2, 1, 0], [1, 5, 0]]
    found = evaluate(*run(counts, [[1 / 3] * 3, [0.5, 0.3, 0.2], [0.2, 0.4, 0.4]]), n_resamples=0, parts=("items",))
    # no label in the first, a right in the second, b right and c wrong in the third
    assert found.at("labels_f1")["value"] == pytest.approx((1 + 1 + 0) / 3)


def test_every_number_of_a_small_example():
    counts, probs = [[3, 1, 0], [0, 0, 4], [2, 2, 0]], [[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]]
    marginal = np.array([0.5, 0.25, 0.25])
    predictions, targets = run(counts, probs)
    scores = evaluate(predictions, targets, marginal=marginal, n_resamples=0)
    q, p = np.array(counts) / 4, np.array(probs)
    entropy = [scipy.stats.entropy(row) for row in q]

    def losses(system):
        rows = list(zip(q, np.broadcast_to(system, q.shape), strict=True))
        return {
            "jsd": np.mean([scipy.spatial.distance.jensenshannon(a, b) ** 2 for a, b in rows]),
            "jsd_bits": np.mean([scipy.spatial.distance.jensenshannon(a, b, base=2) ** 2 for a, b in rows]),
            "kl": np.mean([scipy.stats.entropy(a, b) for a, b in rows]),
            "cross_entropy": np.mean([-sum(x * np.log(y) for x, y in zip(a, b, strict=True)) for a, b in rows]),
            "tvd": np.mean([abs(a - b).sum() / 2 for a, b in rows]),
            "bhattacharyya": np.mean([np.sqrt(a * b).sum() for a, b in rows]),
        }

    model, base = losses(p), losses(marginal)
    for name, value in model.items():
        assert scores.at(name)["value"] == pytest.approx(value, abs=1e-6), name
        assert scores.at(name, "marginal")["value"] == pytest.approx(base[name], abs=1e-6), name
        assert scores.difference(name)["value"] == pytest.approx(value - base[name], abs=1e-6), name
    assert scores.at("vote_entropy")["value"] == pytest.approx(np.mean(entropy))
    gap = (base["cross_entropy"] - model["cross_entropy"]) / (base["cross_entropy"] - np.mean(entropy))
    assert scores.at("gap_closed")["value"] == pytest.approx(100 * gap, abs=1e-4)
    assert scores.at("gap_closed", "marginal")["value"] == pytest.approx(0)
    predicted_entropy = [scipy.stats.entropy(row) for row in p]
    r = scipy.stats.pearsonr(predicted_entropy, entropy).statistic
    assert scores.at("entropy_correlation")["value"] == pytest.approx(r)
    # pluralities a, c, a (a tie, first label wins) against a, c, b
    assert scores.counts["plurality_ties"] == 1
    assert scores.at("accuracy")["value"] == pytest.approx(2 / 3)
    assert scores.at("macro_f1")["value"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert scores.at("uar")["value"] == pytest.approx((1 / 2 + 1) / 2)
    assert scores.at("macro_f1", "marginal")["value"] == pytest.approx((2 * 2 / 5) / 3)
    assert scores.at("jsd")["low"] is None and scores.notes[2] == "No intervals: no resampling was asked for."


def test_no_gap_where_the_marginal_explains_the_votes():
    predictions, targets = run([[1, 0, 0]] * 3, [[0.8, 0.1, 0.1]] * 3)
    assert evaluate(predictions, targets, n_resamples=0).at("gap_closed")["value"] is None


def test_units_and_form(emotion_run):
    _, targets, predictions, speakers = emotion_run
    scores = evaluate(predictions, targets, speakers=speakers, marginal=np.full(6, 1 / 6), n_resamples=200)
    assert list(scores.parts["items"]) == [name for name in ITEM_MEASURES if name != "ccc"]
    for name in scores.parts["items"]:
        assert set(scores[name]) == {"title", "unit", "better", "systems", "differences"}
        model = scores.at(name)
        if name == "labels_f1_batches":
            continue
        assert model["low"] <= model["value"] <= model["high"] or name in ("macro_f1", "uar")
    assert scores["jsd"]["differences"] == {"model - marginal": scores.difference("jsd")}
    assert scores["gap_closed"]["differences"] == {}
    assert (scores["jsd"]["unit"], scores["jsd_bits"]["unit"], scores["gap_closed"]["unit"]) == ("nats", "bits", "%")
    assert scores.at("jsd_bits")["value"] == pytest.approx(scores.at("jsd")["value"] / np.log(2))
    assert scores.difference("jsd")["high"] < 0
    assert scores.reference.baseline == "the marginal distribution of the training votes"
    json.dumps(scores.to_dict(), allow_nan=False)
    assert scores == evaluate(predictions, targets, speakers=speakers, marginal=np.full(6, 1 / 6), n_resamples=200)


def test_differences_are_paired(emotion_run):
    _, targets, predictions, speakers = emotion_run
    same = evaluate(replace(predictions, probs=np.tile(targets.probs.mean(0), (240, 1))), targets, speakers=speakers)
    for name in ("jsd", "kl", "accuracy", "macro_f1"):
        difference = same.difference(name)
        assert [difference[end] for end in ("value", "low", "high")] == pytest.approx([0, 0, 0], abs=1e-12)
    assert same.at("gap_closed")["value"] == pytest.approx(0, abs=1e-9)
    perfect = evaluate(replace(predictions, probs=targets.probs), targets, speakers=speakers)
    assert perfect.at("gap_closed")["value"] == pytest.approx(100, abs=1e-3)
    assert perfect.at("jsd")["value"] == pytest.approx(0, abs=1e-12)


@given(
    hnp.arrays(np.int64, (6, 3), elements=st.integers(0, 4)),
    hnp.arrays(np.float64, (6, 3), elements=st.floats(0.01, 1)),
    st.permutations(range(6)),
)
@settings(max_examples=40, deadline=None)
def test_bounds_and_order_of_items(counts, weights, order):
    counts[:, 0] += 1
    probs = weights / weights.sum(1, keepdims=True)
    predictions, targets = run(counts, probs)
    scores = evaluate(predictions, targets, n_resamples=0)
    assert 0 <= scores.at("jsd")["value"] <= np.log(2) and 0 <= scores.at("tvd")["value"] <= 1
    assert scores.at("cross_entropy")["value"] >= scores.at("vote_entropy")["value"] - 1e-6
    assert -1 <= scores.at("entropy_correlation")["value"] <= 1
    shuffled = replace(predictions, items=predictions.items[order], probs=predictions.probs[order])
    again = evaluate(shuffled, targets, n_resamples=0)
    assert all(again.at(name)["value"] == pytest.approx(scores.at(name)["value"], nan_ok=True) for name in scores)


def test_predicted_zeros_are_floored_and_counted():
    predictions, targets = run([[1, 1, 0]], [[1, 0, 0]])
    scores = evaluate(predictions, targets)
    assert scores.at("kl")["value"] == pytest.approx(0.5 * np.log(0.5) + 0.5 * np.log(0.5 / 1e-8), abs=1e-6)
    assert scores.counts["floored_probabilities"] == 1
    assert any("1e-08" in note for note in scores.notes)


def test_grid_measures(grid_run):
    _, targets, predictions, speakers = grid_run[:4]
    scores = evaluate(predictions, targets, speakers=speakers)
    centres = np.array([-0.75, -0.25, 0.25, 0.75])
    for axis, name in ((2, "activation"), (1, "valence")):
        one_p, one_q = (probs.reshape(-1, 4, 4).sum(axis) for probs in (predictions.probs, targets.probs))
        expected = audmetric.concordance_cc(one_q @ centres, one_p @ centres)
        assert scores.at(f"ccc_{name}")["value"] == pytest.approx(expected)
        assert scores.at(f"ccc_{name}", "marginal")["value"] == 0
        jsd = np.mean([scipy.spatial.distance.jensenshannon(a, b) ** 2 for a, b in zip(one_p, one_q, strict=True)])
        assert scores.at(f"jsd_{name}")["value"] == pytest.approx(jsd)
        assert 0 < scores.at(f"gap_closed_{name}")["low"] < scores.at(f"gap_closed_{name}")["high"] < 100
    assert scores["ccc_activation"]["title"] == "CCC of the expectation, activation"


def test_dimensions_and_expectation():
    questions = (Question.scale("activation", 1, 5), Question.scale("valence", 1, 5))
    probs = np.zeros((1, 16))
    probs[0, 1 * 4 + 3] = 1  # activation bin 1, valence bin 3: the second question varies fastest
    rows, columns = dimensions(probs, questions)
    assert (rows.argmax(), columns.argmax()) == (1, 3)
    assert (expectation(rows)[0], expectation(columns)[0]) == (-0.25, 0.75)
    assert expectation(np.full((1, 5), 0.2))[0] == pytest.approx(0)
    with pytest.raises(ValueError, match="A support of 15 cells over two scales is not square"):
        dimensions(probs[:, :15], questions)


def test_one_item_and_one_speaker():
    predictions, targets = run([[2, 1, 0]], [[0.5, 0.3, 0.2]])
    scores = evaluate(predictions, targets)
    assert "No intervals: there is only 1 item." in scores.notes and scores.at("jsd")["low"] is None
    predictions, targets = run([[2, 1, 0], [0, 1, 1]], [[0.5, 0.3, 0.2]] * 2)
    scores = evaluate(predictions, targets, speakers=["s", "s"])
    assert "No intervals: there is only 1 speaker." in scores.notes and scores.at("jsd")["high"] is None
    json.dumps(scores.to_dict(), allow_nan=False)


def test_notes_say_what_was_resampled(emotion_run):
    _, targets, predictions, speakers = emotion_run
    by_speaker = evaluate(predictions, targets, speakers=speakers, n_resamples=50).notes
    by_item = evaluate(predictions, targets, n_resamples=50)
    assert "Intervals are 95 % percentile intervals over 50 resamples of 12 speakers." in by_speaker
    assert any("resamples of 240 items. Without speakers, items count as independent" in note for note in by_item.notes)
    assert by_item.reference.baseline.startswith("the mean distribution of the evaluated votes themselves")


def test_what_only_one_side_has_is_counted():
    predictions, targets = run([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.eye(3))
    fewer = replace(predictions, items=np.array(["i0", "i1", "new"], dtype=object))
    scores = evaluate(fewer, targets, on_missing="exclude")
    counts = scores.counts
    assert counts["n_expected"] == 4 and counts["n_evaluated"] == 2
    assert (counts["predicted_without_target"], counts["target_without_prediction"]) == (1, 1)
    assert scores.per_item["item"].tolist() == ["i0", "i1"] and counts["votes"] == 2
    with pytest.raises(ValueError) as error:
        evaluate(fewer, targets)
    assert str(error.value) == (
        "Items differ: 1 predicted without target (such as 'new'), 1 targets without prediction (such as 'i2'); predict "
        'exactly the target items, or pass on_missing="exclude" to score the common ones and count the rest.'
    )
    none = replace(predictions, items=np.array(["u", "v", "w"], dtype=object))
    with pytest.raises(ValueError) as error:
        evaluate(none, targets, on_missing="exclude")
    assert str(error.value) == (
        "Predictions and targets have no item in common; check that both use the corpus's item names."
    )


def test_speakers_in_every_form(emotion_run):
    _, targets, predictions, speakers = emotion_run
    listed = [speakers[item] for item in predictions.items]
    forms = [speakers, pd.Series(speakers), listed, np.array(listed)]
    found = [evaluate(predictions, targets, speakers=form, n_resamples=20).at("jsd")["low"] for form in forms]
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"speakers": {"i0": "s", "i2": None}},
            "2 evaluated items have no speaker (such as 'i1', 'i2'); name the speaker of every item, or of none "
            "(speakers=None, or a column without any) to resample items.",
        ),
        ({"speakers": ["s"]}, "There are 1 speakers for 3 predicted items; give one per item."),
        ({"marginal": [0.5, 0.5]}, "The marginal has shape (2,) for 3 labels; give one probability per label."),
        (
            {"marginal": [0.5, 0.5, 0.5]},
            "The marginal: row 0 does not sum to 1 within 0.004: [0.5, 0.5, 0.5]. Normalise the row or leave the item out.",
        ),
    ],
)
def test_bad_options(options, message):
    predictions, targets = run([[1, 0, 0]] * 3, np.eye(3))
    with pytest.raises(ValueError) as error:
        evaluate(predictions, targets, **options)
    assert str(error.value) == message


def test_bad_sides():
    predictions, targets = run([[1, 0, 0]] * 3, np.eye(3))
    with pytest.raises(ValueError) as error:
        align({"model": predictions}, replace(targets, support=("a", "c", "d")))
    assert str(error.value) == (
        "Predictions are over (a, b, c) and targets over (a, c, d); make both with the same question, labels and bins."
    )
    with pytest.raises(ValueError, match="Targets: row 1 does not sum to 1"):
        align({"model": predictions}, replace(targets, probs=np.eye(3) * [[1], [2], [1]]))
    with pytest.raises(ValueError, match="Targets' items lists 'i0' a second time at position 1"):
        align({"model": predictions}, replace(targets, items=np.array(["i0", "i0", "i2"], dtype=object)))


def test_inputs_stay_as_they_are(emotion_run):
    _, targets, predictions, _ = emotion_run
    before = predictions.probs.copy(), targets.probs.copy()
    evaluate(predictions, targets, n_resamples=10)
    assert (predictions.probs == before[0]).all() and (targets.probs == before[1]).all()
