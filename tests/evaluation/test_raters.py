from dataclasses import replace

import audmetric
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from annot_hf.data.predictions import Predictions, dimensions, expectation
from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.evaluate import evaluate
from annot_hf.evaluation.raters import consensus_alone, held_against, rater_bias, recovered_bias
from annot_hf.models.measures import ccc
from annot_hf.report.report import build_report


def answers(targets, predictions):
    """(rater, vote, prediction, consensus) of every vote, by an explicit loop."""
    row = {
        (predictions.items[item], name): k
        for k, (item, name) in enumerate(zip(predictions.rater_items, predictions.rater_names, strict=True))
    }
    ratings, out = targets.ratings, []
    for item, annotator, value in zip(ratings.item, ratings.annotator, ratings.value, strict=True):
        name = targets.annotators[annotator]
        k = row[targets.items[item], name]
        out.append(
            (name, value, predictions.rater_values[k], predictions.rater_items[k], predictions.rater_fallback[k])
        )
    return out


def test_scale_answers_equal_explicit_loops(grid_run):
    _, targets, predictions, speakers = grid_run[:4]
    scores = evaluate(predictions, targets, speakers=speakers, n_resamples=100)
    rows = answers(targets, predictions)
    for d, name in enumerate(("activation", "valence")):
        vote = np.array([row[1][d] for row in rows])
        said = np.array([row[2][d] for row in rows])
        common = np.array([predictions.consensus[row[3], d] for row in rows])
        pooled, error = scores.at(f"rater_ccc_{name}"), scores.at(f"rater_mae_{name}")
        assert pooled["value"] == pytest.approx(audmetric.concordance_cc(vote, said))
        assert scores.at(f"rater_ccc_{name}", "consensus")["value"] == pytest.approx(
            audmetric.concordance_cc(vote, common)
        )
        assert scores.at(f"rater_ccc_{name}", "marginal")["value"] == 0
        assert error["value"] == pytest.approx(2 * np.mean(abs(said - vote)))  # half the width of the 1 to 5 scale
        assert scores[f"rater_mae_{name}"]["unit"] == "points on 1 to 5"
        who = np.array([row[0] for row in rows])
        own = [audmetric.concordance_cc(vote[who == r], said[who == r]) for r in set(who) if (who == r).sum() >= 2]
        assert scores.at(f"rater_mean_ccc_{name}")["value"] == pytest.approx(np.mean(own))
        assert scores.counts[f"raters_with_own_ccc_{name}"] == len(own)
        item = np.array([row[3] for row in rows])
        given, predicted = (np.array([x[item == i].mean() for i in range(len(predictions))]) for x in (vote, said))
        mean = scores.at(f"mean_answer_ccc_{name}")
        assert mean["value"] == pytest.approx(ccc(predicted, given))
        assert scores.at(f"mean_answer_ccc_{name}", "consensus")["value"] == pytest.approx(
            ccc(predictions.consensus[:, d], given)
        )
        for one in (pooled, mean):
            assert one["low"] < one["value"] < one["high"]
    counts = scores.counts
    fallback = sum(row[4] for row in rows)
    assert (counts["rater_votes"], counts["rater_votes_consensus_fallback"]) == (len(rows), fallback)
    assert counts["rater_votes_own_head"] == len(rows) - fallback


@pytest.mark.parametrize("by_speaker", [True, False])
def test_intervals_resample_speakers_and_raters_as_explicit_loops(grid_run, by_speaker):
    _, targets, predictions, speakers = grid_run[:4]
    some = targets.select(targets.items[:40])
    scores = evaluate(
        predictions, some, speakers=speakers if by_speaker else None, n_resamples=12, seed=3, on_missing="exclude"
    )
    rows = [row for row in answers(targets, predictions) if row[3] < 40]
    who, vote, said = (np.array([row[k] for row in rows]) for k in (0, 1, 2))
    unit = np.array([speakers[predictions.items[row[3]]] if by_speaker else str(row[3]) for row in rows])
    units, raters = np.unique(unit), [name for name in targets.annotators if name in who]
    draws = [
        np.random.default_rng(seed).integers(n, size=(12, n), dtype=np.int32)
        for seed, n in ((3, len(units)), ([3, 1], len(raters)))
    ]
    pooled, mean = (scores.measured(f"{name}_valence").draws["model"] for name in ("rater_ccc", "rater_mean_ccc"))
    error = scores.measured("rater_mae_valence").draws["model"]
    for draw, (drawn_units, drawn_raters) in enumerate(zip(*draws, strict=True), start=1):
        of_rater = {
            rater: np.concatenate([np.flatnonzero((who == rater) & (unit == units[k])) for k in drawn_units])
            for rater in raters
        }
        drawn = [of_rater[raters[k]] for k in drawn_raters]
        every = np.concatenate(drawn)
        assert pooled[draw] == pytest.approx(ccc(said[every, 1], vote[every, 1]))
        assert error[draw] == pytest.approx(2 * abs(said[every, 1] - vote[every, 1]).mean())
        own = [ccc(said[one, 1], vote[one, 1]) for one in drawn if len(one) >= 2]
        assert mean[draw] == pytest.approx(np.mean(own))


def test_a_system_without_raters_answers_with_its_expectation(grid_run):
    _, targets, predictions, _ = grid_run[:4]
    empty = {"rater_items": np.zeros(0, int), "rater_names": [], "rater_values": None, "rater_fallback": None}
    grid = replace(predictions, consensus=None, **empty)
    scores = evaluate({"heads": predictions, "grid": grid}, targets, n_resamples=20)
    alone = evaluate(replace(predictions, consensus=None), targets, n_resamples=20)
    for name in ("rater_ccc_valence", "rater_mean_ccc_activation", "mean_answer_ccc_valence"):
        np.testing.assert_allclose(scores.measured(name).draws["grid"], alone.measured(name).draws["consensus"])
        lone = evaluate(predictions, targets, n_resamples=20).measured(name).draws["consensus"]
        np.testing.assert_allclose(scores.measured(name).draws["heads, consensus"], lone)
    assert "heads - heads, consensus" in scores["rater_ccc_valence"]["differences"]
    with pytest.raises(ValueError, match="A system is called 'a, consensus', the name of a baseline"):
        evaluate({"a": predictions, "a, consensus": predictions}, targets)


def test_the_consensus_alone_is_one_kernel_of_the_width_chosen_in_training(grid_run):
    _, targets, predictions, _ = grid_run[:4]
    assert consensus_alone(predictions) is None and held_against(predictions) == {}
    chosen = replace(predictions, meta={"consensus_width": 0.3})
    alone = held_against(chosen, {"other": predictions})["alone"]
    edges = np.array([-np.inf, -0.5, 0, 0.5, np.inf])
    for row in (0, 77):
        mass = [np.diff(scipy.stats.norm(at, 0.3).cdf(edges)) for at in predictions.consensus[row]]
        np.testing.assert_allclose(alone.probs[row], np.outer(*mass).ravel(), atol=1e-12)
    np.testing.assert_array_equal(alone.rater_values, predictions.consensus[predictions.rater_items])
    assert list(held_against(chosen, {"other": predictions})) == ["alone", "other"]
    marginal = np.arange(16) / 120
    shared = consensus_alone(replace(chosen, meta=chosen.meta | {"consensus_share": 0.2}), marginal)
    np.testing.assert_allclose(shared.probs, 0.8 * alone.probs + 0.2 * marginal)
    assert held_against(replace(chosen, rater_fallback=np.ones(900, bool)), {"other": predictions}) == {}


def test_the_consensus_alone_of_a_category_is_the_consensus(emotion_run):
    predictions = emotion_run[2]
    assert consensus_alone(predictions) is None
    head = np.roll(predictions.probs, 1, axis=1)
    alone = consensus_alone(replace(predictions, consensus=head))
    np.testing.assert_array_equal(alone.probs, head)
    np.testing.assert_array_equal(alone.rater_values, head[predictions.rater_items])


def test_the_gain_of_own_heads_is_the_mean_over_scales(grid_run, emotion_run):
    _, targets, predictions, _ = grid_run[:4]
    scores = evaluate(predictions, targets, n_resamples=20)
    each = [scores.difference(f"rater_mean_ccc_{name}", "model", "consensus") for name in ("activation", "valence")]
    gain = scores.rater_gain("model", "consensus")
    assert gain["value"] == pytest.approx(np.mean([one["value"] for one in each]))
    assert gain["low"] < gain["value"] < gain["high"]
    assert scores.rater_gain("model", "nobody") is None
    labels = evaluate(emotion_run[2], emotion_run[1], n_resamples=0)
    saved = -labels.difference("rater_cross_entropy", "model", "consensus")["value"]
    assert labels.rater_gain("model", "consensus")["value"] == pytest.approx(saved)


def test_each_rater_has_a_row(grid_run):
    _, targets, predictions, _ = grid_run[:4]
    scores = evaluate(predictions, targets, n_resamples=0)
    table = scores.per_rater
    assert table["votes"].sum() == 900 and len(table) == 16
    assert table["ccc_valence_model"].mean() == pytest.approx(scores.at("rater_mean_ccc_valence")["value"])
    rows = [row for row in answers(targets, predictions) if row[0] == "rater04"]
    said, vote = (np.array([row[k][0] for row in rows]) for k in (2, 1))
    assert table.loc["rater04", "ccc_activation_model"] == pytest.approx(ccc(said, vote))


def test_category_answers_equal_explicit_loops(emotion_run):
    _, targets, predictions, _ = emotion_run
    scores = evaluate(predictions, targets, n_resamples=50)
    rows = answers(targets, predictions)
    right = np.mean([row[2].argmax() == row[1][0] for row in rows])
    loss = np.mean([-np.log(row[2][int(row[1][0])]) for row in rows])
    common = np.mean([-np.log(predictions.probs[row[3], int(row[1][0])]) for row in rows])
    assert scores.at("rater_accuracy")["value"] == pytest.approx(right)
    assert scores.at("rater_cross_entropy")["value"] == pytest.approx(loss)
    assert scores.at("rater_cross_entropy", "consensus")["value"] == pytest.approx(common)
    assert scores.difference("rater_cross_entropy", "model", "consensus")["value"] == pytest.approx(loss - common)


@pytest.mark.parametrize("labels", [("3", "-1", "0"), ("no", "maybe", "yes")])
def test_the_error_of_raters_is_that_of_lewidi_2025(labels):
    rng, items = np.random.default_rng(0), [f"i{number}" for number in range(12)]
    rows = [(item, f"r{rater}") for item in items for rater in rng.permutation(5)[: rng.integers(1, 5)]]
    told = rng.integers(3, size=len(rows))
    asked = Question.category("level", labels)
    names, raters = zip(*rows, strict=True)
    votes = VoteTable.from_columns(asked, item=names, annotator=raters, value=[labels[code] for code in told])
    targets, probs = make_targets(votes, "level"), rng.dirichlet(np.ones(3), len(rows))
    run = Predictions(
        items=items,
        support=labels,
        probs=rng.dirichlet(np.ones(3), len(items)),
        questions=(asked,),
        rater_items=np.array([items.index(item) for item in names]),
        rater_names=np.array(raters, dtype=object),
        rater_values=probs,
        rater_fallback=np.zeros(len(rows), dtype=bool),
    )
    found = evaluate(run, targets, task="lewidi2025", n_resamples=30)
    errors, of_the_item = {item: [] for item in items}, {item: [] for item in items}
    for (item, _), code, own in zip(rows, told, probs, strict=True):
        for p, kept in ((own, errors), (run.probs[items.index(item)], of_the_item)):
            if labels[0] == "no":
                kept[item].append(float(np.argmax(p) != code))
            else:
                # The answer of least expected distance.
                steps = np.array([3, -1, 0])
                best = min(steps, key=lambda step: p @ abs(steps - step))
                kept[item].append(abs(best - steps[code]) / 4)
    value = found.at("rater_error")
    assert value["value"] == pytest.approx(np.mean([np.mean(one) for one in errors.values()]))
    assert value["low"] < value["value"] < value["high"]
    shared = found.at("rater_error", "consensus")["value"]
    assert shared == pytest.approx(np.mean([np.mean(one) for one in of_the_item.values()]))
    assert "rater_error" not in evaluate(run, targets, n_resamples=0)
    scores = {"manhattan", "wasserstein"} & set(found)
    assert scores == ({"manhattan"} if labels[0] == "no" else {"wasserstein"})


def test_each_vote_of_a_rater_is_held_against_the_one_answer():
    question = Question.category("emotion", ("a", "b"))
    votes = VoteTable.from_columns(
        question, item=list("xxxy"), value=list("aaba"), annotator=list("pppq"), duplicates="keep"
    )
    predictions = Predictions(
        items=["x", "y"],
        support=("a", "b"),
        probs=[[0.5, 0.5]] * 2,
        questions=(question,),
        rater_items=[0, 1],
        rater_names=["p", "q"],
        rater_values=[[0.8, 0.2], [0.4, 0.6]],
        rater_fallback=[False, True],
    )
    scores = evaluate(predictions, make_targets(votes, "emotion"), n_resamples=0)
    assert scores.at("rater_accuracy")["value"] == 2 / 4
    assert scores.at("rater_cross_entropy")["value"] == pytest.approx(-np.log([0.8, 0.8, 0.2, 0.4]).mean())
    counts = scores.counts
    assert (counts["rater_votes"], counts["rater_votes_repeated"], counts["raters_unseen"]) == (4, 2, 1)
    assert (counts["rater_votes_own_head"], counts["rater_votes_consensus_fallback"]) == (3, 1)


def test_votes_without_prediction_are_counted(grid_run):
    _, targets, predictions, _ = grid_run[:4]
    keep = np.arange(len(predictions.rater_items)) % 3 > 0
    fields = ("rater_items", "rater_names", "rater_values", "rater_fallback")
    fewer = replace(predictions, **{name: getattr(predictions, name)[keep] for name in fields})
    counts = evaluate(fewer, targets, n_resamples=0).counts
    routes = ("rater_votes_own_head", "rater_votes_consensus_fallback", "rater_votes_without_prediction")
    assert counts["rater_votes"] == sum(counts[route] for route in routes) == 900
    assert counts["rater_votes_without_prediction"] == 300


def test_no_rater_answers_no_rater_measures(emotion_run):
    _, targets, predictions, _ = emotion_run
    empty = {"rater_items": np.zeros(0, int), "rater_names": [], "rater_values": None, "rater_fallback": None}
    scores = evaluate(replace(predictions, **empty), targets, n_resamples=0)
    assert scores.parts["raters"] == {} and scores.counts["rater_votes_without_prediction"] == 1680


def test_only_common_items_count(grid_run):
    _, targets, predictions, _ = grid_run[:4]
    subset = targets.select(targets.items[:40])
    counts = evaluate(predictions, subset, on_missing="exclude", n_resamples=0).counts
    assert (counts["rater_votes"], counts["n_evaluated"], counts["predicted_without_target"]) == (240, 40, 110)


def test_a_missing_dimension_is_left_out_of_that_dimension_only(grid_run):
    _, targets, predictions, _ = grid_run[:4]
    value = targets.ratings.value.copy()
    value[:300, 1] = np.nan
    holes = replace(targets, ratings=replace(targets.ratings, value=value))
    scores, full = evaluate(predictions, holes, n_resamples=0), evaluate(predictions, targets, n_resamples=0)
    assert scores.at("rater_ccc_activation")["value"] == full.at("rater_ccc_activation")["value"]
    assert scores.at("rater_ccc_valence")["value"] != full.at("rater_ccc_valence")["value"]


@pytest.mark.usefixtures("unrendered")
def test_answers_to_one_scale_only_are_counted(tmp_path, grid_run):
    votes, _, predictions, *_ = grid_run
    first = votes.items[0]
    keep = ~(
        (votes.item_codes == 0) & (votes.question_codes == 1) & (votes.annotator_codes == votes.annotator_codes[0])
    )
    fewer = votes.select(mask=keep)
    assert len(fewer) == len(votes) - 1
    targets = make_targets(fewer, ("activation", "valence"), "kde", items=[first])
    report = build_report(predictions, targets, tmp_path, title="t", votes=fewer, n_resamples=0, on_missing="exclude")
    assert report.evaluation.counts["rater_votes"] == 6 and report.evaluation.counts["rater_votes_incomplete"] == 1
    assert "compared with 5 votes by 6 named raters" in report.summary
    assert "answers to one scale only, which the distribution lacks: 1." in report.summary


def test_a_pair_answered_twice_is_refused(emotion_run):
    _, targets, predictions, _ = emotion_run
    names = predictions.rater_names.copy()
    names[1] = names[0]
    with pytest.raises(ValueError) as error:
        evaluate(replace(predictions, rater_names=names), targets)
    assert str(error.value) == (
        f"Predictions answer twice for rater {names[0]!r} on item 'clip000'; give one answer per pair."
    )


def test_bias_equals_an_explicit_loop(grid_run):
    predictions, truth = grid_run[2], grid_run[4]
    table = rater_bias(predictions)
    assert "rater15" not in table.index  # answered by the consensus head, so it has no bias of its own
    rows = [k for k, name in enumerate(predictions.rater_names) if name == "rater03"]
    mine = [2 * (predictions.rater_values[k] - predictions.consensus[predictions.rater_items[k]]) for k in rows]
    np.testing.assert_allclose(table.loc["rater03", ["activation", "valence"]].astype(float), np.mean(mine, axis=0))
    assert table.loc["rater03", "items"] == len(rows)
    found = recovered_bias(predictions, truth.raters)["valence"]
    true = 2 * truth.raters.loc[found["raters"], "bias_valence"]
    np.testing.assert_allclose(found["true"], true)
    r = scipy.stats.pearsonr(true, table.loc[found["raters"], "valence"]).statistic
    assert found["correlation"]["value"] == pytest.approx(r) and r > 0.9
    assert found["correlation"]["low"] <= r <= found["correlation"]["high"]


def test_without_a_consensus_head_the_expectation_stands_in(grid_run):
    predictions = grid_run[2]
    without = replace(predictions, consensus=None)
    expected = np.stack([expectation(one) for one in dimensions(predictions.probs, predictions.questions)], axis=1)
    with_it = replace(predictions, consensus=expected)
    np.testing.assert_allclose(rater_bias(without), rater_bias(with_it))


def test_bias_needs_scales_and_known_raters(emotion_run, grid_run):
    with pytest.raises(ValueError, match="Rater bias needs scale questions; the predictions are over labels."):
        rater_bias(emotion_run[2])
    unknown = pd.DataFrame({"bias_activation": [0.0], "bias_valence": [0.0]}, index=["nobody"])
    with pytest.raises(ValueError) as error:
        recovered_bias(grid_run[2], unknown)
    assert str(error.value) == (
        "None of the raters in the truth has a predicted answer; check that the rater names agree."
    )
    with pytest.raises(ValueError) as error:
        recovered_bias(grid_run[2], grid_run[4].raters[["bias_activation"]])
    assert str(error.value) == "The truth has columns bias_activation; it needs 'bias_valence'."
