"""Noise ceilings against oracles that know the opinions behind simulated votes."""

import itertools

import numpy as np
import pytest
import scipy.stats

from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.ceiling import (
    CEILING,
    LEFT_OUT,
    SPLIT_HALF,
    draw_votes,
    fit_prior,
    made_good,
    mean_ceiling,
    noise_ceiling,
)
from annot_hf.evaluation.evaluate import evaluate
from annot_hf.evaluation.resampling import Resamples
from annot_hf.models.measures import ccc, jsd

LABELS = ("a", "b", "c", "d")
QUESTION = Question.category("emotion", LABELS)
ITEMS = tuple(f"i{row}" for row in range(600))


def opinions(kind, rng):
    if kind == "dirichlet":
        return rng.dirichlet([0.2, 0.4, 0.6, 1.2], len(ITEMS))
    # one label for each item and some doubt, which no Dirichlet distribution describes
    logits = 1.5 * rng.normal(size=(len(ITEMS), 4)) + 2 * np.eye(4)[rng.integers(0, 4, len(ITEMS))]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("kind", "votes", "slack"), [("dirichlet", 5, 1.0), ("dirichlet", 12, 1.0), ("peaked", 8, 2.5)]
)
def test_the_ceiling_is_what_the_opinions_themselves_score(kind, votes, slack):
    rng = np.random.default_rng(5)
    opinion = opinions(kind, rng)
    drawn = rng.multinomial(votes, opinion)
    marginal = drawn.sum(0) / drawn.sum()
    oracle = {name: [] for name in ("gap_closed", "jsd", "macro_f1", "labels_f1", "cross_entropy")}
    for _ in range(8):
        targets = make_targets(VoteTable.from_counts(QUESTION, ITEMS, rng.multinomial(votes, opinion)), "emotion")
        best = Predictions(items=ITEMS, support=LABELS, probs=opinion, questions=(QUESTION,))
        found = evaluate(best, targets, marginal=marginal, n_resamples=0, parts=("items",))
        for name, values in oracle.items():
            values.append(found.at(name)["value"])
    ceiling, facts = noise_ceiling(drawn, marginal, (QUESTION,), splits=(SPLIT_HALF, LEFT_OUT))
    assert facts["items"] == 600 and facts["draws"] == 20
    # One vote is so little of an item that its scores vary twice as much.
    for system, wide in ((CEILING, 1), (SPLIT_HALF, 1), (LEFT_OUT, 2)):
        for name, unit in (
            ("gap_closed", 1),
            ("jsd", 0.004),
            ("macro_f1", 0.015),
            ("labels_f1", 0.015),
            ("cross_entropy", 0.03),
        ):
            error = ceiling[name].draws[system][0] - np.mean(oracle[name])
            # the votes at hand and those of the oracle are draws themselves
            assert abs(error) < wide * slack * unit + 2.5 * np.std(oracle[name]), (system, name)


def test_the_scores_of_a_task_have_ceilings_too():
    drawn = np.random.default_rng(0).multinomial(6, [0.4, 0.3, 0.2, 0.1], 50)
    for task, scores in (("lewidi2023", ("lewidi_cross_entropy", "weighted_f1")), ("lewidi2025", ("manhattan",))):
        found, _ = noise_ceiling(drawn, drawn.sum(0) / drawn.sum(), (QUESTION,), Resamples(n=9), draws=2, task=task)
        for name in scores:
            assert np.isfinite(found[name].draws[CEILING]).all() and found[name].draws[SPLIT_HALF].shape == (10,)


def test_of_clear_and_ambiguous_items_the_ceilings_are_off_as_the_page_says():
    rng, labels = np.random.default_rng(0), 5
    share = np.array([1.2, 0.6, 0.3, 0.3, 0.1]) / 2.5
    clear, first = rng.random(1500) < 0.5, np.eye(labels)[rng.choice(labels, 1500, p=share)]
    opinion = np.where(clear[:, None], 0.97 * first + 0.03 * share, 0.5 * first + 0.1)
    counts = rng.multinomial(5, opinion)
    asked, votes = Question.category("q", list("abcde")), counts / 5
    found, _ = noise_ceiling(counts, votes.mean(0), (asked,), Resamples(n=0), draws=3, splits=(SPLIT_HALF, LEFT_OUT))
    true = {"accuracy": (opinion.argmax(1) == votes.argmax(1)).mean(), "jsd": jsd(opinion, votes).mean()}
    for system in (CEILING, SPLIT_HALF, LEFT_OUT):
        assert 0.03 < true["accuracy"] - found["accuracy"].draws[system][0] < 0.1
        assert 0.01 < true["jsd"] - found["jsd"].draws[system][0] < 0.025


def test_half_of_the_votes_alone_forecasts_worse_than_the_ceiling():
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(6, opinions("dirichlet", rng))
    ceiling, _ = noise_ceiling(drawn, drawn.sum(0) / drawn.sum(), (QUESTION,), draws=4)
    half = draw_votes(drawn, np.full(600, 3), rng)
    rest = make_targets(VoteTable.from_counts(QUESTION, ITEMS, drawn - half), "emotion")
    forecast = Predictions(items=ITEMS, support=LABELS, probs=half / 3, questions=(QUESTION,))
    found = evaluate(forecast, rest, n_resamples=0, parts=("items",))
    assert found.at("jsd")["value"] > 2 * ceiling["jsd"].draws[SPLIT_HALF][0]


def test_the_prior_has_the_largest_likelihood():
    rng = np.random.default_rng(1)
    truth = np.array([0.3, 0.8, 1.5])
    counts = rng.multinomial(8, rng.dirichlet(truth, 3000))
    counts[:500] = rng.multinomial(3, rng.dirichlet(truth, 500))
    found = fit_prior(counts)
    assert found == pytest.approx(truth, rel=0.1)

    def likelihood(alpha):
        return scipy.stats.dirichlet_multinomial.logpmf(counts, alpha, counts.sum(1)).sum()

    for step in 0.02 * np.concatenate([np.eye(3), -np.eye(3)]):
        assert likelihood(found * np.exp(step)) < likelihood(found)


def test_halves_are_drawn_without_replacement():
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 4, (2000, 3))
    sizes = counts.sum(1) // 2
    drawn = draw_votes(counts, sizes, rng)
    assert (drawn <= counts).all() and (drawn >= 0).all() and (drawn.sum(1) == sizes).all()
    same = draw_votes(np.tile([1, 2, 3], (4000, 1)), np.full(4000, 3), rng)
    assert same.mean(0) == pytest.approx([0.5, 1.0, 1.5], abs=0.05)
    # as multivariate hypergeometric draws vary
    assert same[:, 2].var() == pytest.approx(3 * 0.5 * 0.5 * 3 / 5, rel=0.1)


def test_single_votes_have_no_ceiling_and_unanimous_ones_a_perfect_one():
    assert noise_ceiling(np.eye(4, dtype=int)[[0, 1, 2, 3, 0]], np.full(4, 0.25), (QUESTION,)) is None
    counts = np.repeat(5 * np.eye(4, dtype=int), 5, axis=0)
    counts = np.concatenate([counts, np.eye(4, dtype=int)])
    ceiling, facts = noise_ceiling(counts, np.full(4, 0.25), (QUESTION,), draws=3)
    assert facts["items"] == 20
    for system in (CEILING, SPLIT_HALF):
        assert ceiling["gap_closed"].draws[system][0] > 99 and ceiling["macro_f1"].draws[system][0] > 0.99


def test_an_evaluation_holds_the_ceilings_beside_its_systems(emotion_run):
    votes, targets, predictions, speakers = emotion_run
    found = evaluate(predictions, targets, votes=votes, speakers=speakers, n_resamples=100)
    told = found["gap_closed"]["systems"]
    assert list(told) == ["model", "marginal", CEILING, SPLIT_HALF]
    for system in (CEILING, SPLIT_HALF):
        assert told["model"]["value"] < told[system]["low"] < told[system]["value"] < told[system]["high"] < 100
    assert CEILING not in found["vote_entropy"]["systems"] and found.counts["ceiling"]["items"] == 240
    with pytest.raises(ValueError, match="A system is called 'ceiling'"):
        evaluate({CEILING: predictions}, targets)
    weighted = evaluate(predictions, make_targets(votes, "emotion", "smoothed"), n_resamples=0)
    assert CEILING not in weighted["jsd"]["systems"]


def test_split_ceilings_stay_in_range_with_a_handful_of_items():
    ranges = {"nats": (0, np.inf), "bits": (0, np.inf), "0 to 1": (0, 1), "-1 to 1": (-1, 1), "%": (-np.inf, 100)}
    rng = np.random.default_rng(8)
    for _ in range(10):
        counts = rng.multinomial(rng.integers(1, 5, 4), np.full(3, 1 / 3))
        found = noise_ceiling(
            counts, np.full(3, 1 / 3), (Question.category("q", list("abc")),), Resamples(n=50), draws=2
        )
        for one in () if found is None else found[0].values():
            low, high = ranges[one.unit]
            drawn = one.draws[SPLIT_HALF]
            assert np.all(np.isnan(drawn) | ((low <= drawn) & (drawn <= high))), one.title


def test_what_splits_cost_is_made_good_where_it_is_nothing_or_small():
    for unit, value in (("nats", 0.2), ("0 to 1", 0.7), ("-1 to 1", -0.3), ("%", 60.0)):
        real, own, drawn = (np.array([value + step]) for step in (0.01, 0.02, 0.02))
        assert made_good(real, own, drawn, unit) == pytest.approx(real)
        assert made_good(real, own, drawn - 0.01, unit) == pytest.approx(real + 0.01, abs=1e-3)


def test_the_ceiling_of_means_is_what_the_means_of_endless_votes_have():
    rng = np.random.default_rng(9)
    mean, items, votes = rng.uniform(1.5, 4.5, 800), 800, 5

    def draw():
        return np.clip(np.round(mean[:, None] + rng.normal(size=(items, votes))), 1, 5)

    said = draw()
    names = np.repeat(np.arange(items).astype(str), votes)
    table = VoteTable.from_columns(Question.scale("valence", 1, 5), item=names, value=said.ravel())
    endless = np.mean([draw().mean(1) for _ in range(200)], axis=0)
    best = np.mean([ccc(endless, draw().mean(1)) for _ in range(20)])
    found = mean_ceiling(table, "valence", Resamples(n=100))
    assert found[0] == pytest.approx(best, abs=0.02) and abs(found[1:] - found[0]).max() < 0.08
    # the mean over all pairs of votes, one in each half or one left out
    pairs = [np.cov(said[:, a], said[:, b], ddof=0)[0, 1] for a, b in itertools.combinations(range(votes), 2)]
    variance = said.mean(1).var()
    assert found[0] == pytest.approx(2 * np.mean(pairs) / (np.mean(pairs) + variance), abs=2e-3)
    chance = VoteTable.from_columns(Question.scale("valence", 1, 5), item=["x", "x", "y", "y"], value=[1, 5, 2, 4])
    assert (mean_ceiling(chance, "valence", Resamples(n=20)) == 0).all()
