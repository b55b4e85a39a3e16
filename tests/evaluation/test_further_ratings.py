"""The value of one more rating against Bayes' rule by matrices, ratings that are hidden, and opinions that are known."""

import itertools

import numpy as np
import pytest
import scipy.stats

from annot_hf.data.questions import Question
from annot_hf.data.simulate import SimulatedCorpus, simulate_corpus
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.further_votes import _prior_freedom, check_rated, fit_opinions, one_more_rating, rank_rated
from annot_hf.evaluation.resampling import Resamples

SCALE = Question.scale("level", -20, 20)


def drawn(items, votes, seed=0):
    """Ratings of items whose variances differ, the items' numbers and their opinions."""
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(items), votes)
    opinion = 1.5 + 1.2 * rng.standard_normal(items)
    variance = scipy.stats.invgamma(4.0, scale=4.5).rvs(items, random_state=rng)
    return item, opinion[item] + np.sqrt(variance[item]) * rng.standard_normal(len(item)), opinion


def table(item, rating):
    names = [f"i{code}" for code in item]
    return VoteTable.from_columns(SCALE, item=names, value=rating)


def test_opinions_and_values_are_those_of_bayes_rule():
    item, rating, _ = drawn(60, [0] + [1, 2, 5] * 19 + [1, 9])
    found = fit_opinions(item, rating, 60)
    for row in (0, 1, 2, 3, 59):
        own = rating[item == row]
        for more in ([], [7.0]):
            told = np.append(own, more)
            given = found.between + found.within[row] * np.eye(len(told))
            gain = np.linalg.solve(given, np.full(len(told), found.between)) if len(told) else np.zeros(0)
            expected = found.mean + gain @ (told - found.mean)
            left = found.between - gain.sum() * found.between
            if more:
                assert found.updated(np.full(60, 7.0))[row] == pytest.approx(expected)
                assert found.value[row] == pytest.approx(found.variance[row] - left)
            else:
                assert (found.expected[row], found.variance[row]) == pytest.approx((expected, left))


def test_variances_are_those_of_an_analysis_of_variance_and_shrunk_as_bayes_rule_shrinks_them():
    item, rating, _ = drawn(4000, 4)
    found, wide = fit_opinions(item, rating, 4000), rating.reshape(4000, 4)
    pooled = wide.var(axis=1, ddof=1).mean()
    assert found.between == pytest.approx(wide.mean(axis=1).var(ddof=1) - pooled / 4)
    assert found.mean == pytest.approx(rating.mean(), abs=0.02)
    # An inverse gamma distribution of shape 4 and scale 4.5, updated by three degrees of freedom.
    told = (4.5 + wide.var(axis=1) * 4 / 2) / (4.0 + 3 / 2 - 1)
    assert np.corrcoef(found.within, told)[0, 1] > 0.999 and np.mean(abs(found.within / told - 1)) < 0.1
    same = fit_opinions(np.repeat(np.arange(3), 2), np.repeat([1.0, 2.0, 4.0], 2), 4)
    assert same.value[:3].max() == 0 and same.value[3] == pytest.approx(same.between)


def test_what_the_pooled_variance_is_worth_by_loops_over_pairs_of_pairs():
    item, rating, _ = drawn(30, [4, 5, 7, 3, 1, 6] * 5)
    rating = np.round(rating * (1 + 3 * (item % 2)))
    same, apart, own = [], [], []
    for name in range(30):
        x = rating[item == name]
        if len(x) < 4:
            continue
        pairs = [((i, j), (x[i] - x[j]) ** 2 / 2) for i, j in itertools.combinations(range(len(x)), 2)]
        own.append(np.mean([half for _, half in pairs]))
        same.append(np.mean([half**2 for _, half in pairs]))
        apart.append(np.mean([a * b for (p, a), (q, b) in itertools.product(pairs, pairs) if not set(p) & set(q)]))
    differ = np.mean(apart) - np.mean(own) ** 2
    expected = (np.mean(same) - np.mean(own) ** 2 - differ) / differ
    assert differ > 0 and _prior_freedom(item, rating, np.bincount(item)) == pytest.approx(expected)
    rng = np.random.default_rng(2)
    alike = np.repeat(np.arange(3000), 6)
    assert _prior_freedom(alike, rng.standard_normal(18_000), np.bincount(alike)) > 20
    assert _prior_freedom(item[:3], rating[:3], np.bincount(item[:3])) == np.inf


def test_items_with_few_or_scattered_ratings_come_first():
    item, rating, _ = drawn(40, [9] * 38 + [2, 1])
    rating[item == 0] = np.linspace(-1, 4, 9)
    rating[item == 1] = np.linspace(1, 2, 9)
    ranked = rank_rated(table(item, rating), "level")
    assert list(ranked) == ["item", "votes", "value", "error"] and (ranked["value"].diff().dropna() <= 0).all()
    place = {name: row for row, name in enumerate(ranked["item"])}
    assert set(ranked["item"][:2]) == {"i38", "i39"} and place["i0"] < place["i1"] and (ranked["error"] > 0).all()


def test_hidden_ratings_are_forecast_better_by_as_much_as_was_expected():
    item, rating, _ = drawn(4000, [3, 5, 9, 3] * 1000)
    found = check_rated(table(item, rating), "level", Resamples(n=200))
    assert found["items"] == 4000
    for part in ("all", "top"):
        assert found[part]["gained"]["low"] < found[part]["expected"]["value"] < found[part]["gained"]["high"]
    assert found["top"]["gained"]["low"] > found["all"]["gained"]["high"]
    assert (
        check_rated(table(*drawn(19, 4)[:2]), "level") is None
        and check_rated(table(*drawn(40, 2)[:2]), "level") is None
    )


def test_hidden_ratings_of_the_simulated_corpus(tmp_path, monkeypatch):
    """Steps from 1 to 5, by raters with biases: a rating is worth what was expected, and more where it is ranked first."""
    # Nobody hears the clips.
    monkeypatch.setattr("annot_hf.data.simulate.synthesise", lambda *_: np.zeros(160))
    sizes = {"speakers": 10, "clips_per_speaker": 24, "ratings": (3, 9)}
    votes = SimulatedCorpus(simulate_corpus(tmp_path / "simulated", **sizes)).read_votes()
    found = check_rated(votes, "valence", Resamples(n=200))
    for part in ("all", "top"):
        assert found[part]["gained"]["low"] > 0
        assert found[part]["gained"]["low"] < found[part]["expected"]["value"] < found[part]["gained"]["high"]
    assert found["top"]["gained"]["value"] > 1.5 * found["all"]["gained"]["value"]


def test_one_more_rating_improves_means_as_it_does_for_those_who_have_it():
    item, rating, opinion = drawn(6000, 5)
    more = rating.reshape(6000, 5)
    four = one_more_rating(table(np.repeat(np.arange(6000), 4), more[:, :4].ravel()), "level")
    for name, measure in (
        ("mean_error", lambda means: np.sqrt(np.mean((means - opinion) ** 2))),
        ("best_ccc", lambda means: 2 * np.cov(means, opinion, ddof=0)[0, 1] / (means.var() + opinion.var())),
    ):
        truth = {"now": measure(more[:, :4].mean(axis=1)), "after": measure(more.mean(axis=1))}
        for when, value in truth.items():
            assert four[name][when] == pytest.approx(value, rel=0.02), (name, when)
    assert four["best_ccc"]["after"] > four["best_ccc"]["now"]
    known = fit_opinions(np.repeat(np.arange(6000), 4), more[:, :4].ravel(), 6000)
    error = np.sqrt(np.mean((more[:, 4] - known.expected) ** 2))
    assert four["forecast_error"]["now"] == pytest.approx(error, rel=0.03)
    assert four["forecast_error"]["after"] < four["forecast_error"]["now"]
