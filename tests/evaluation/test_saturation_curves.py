"""Curves over votes against plain enumeration of every draw; and that nothing but an item's own votes decides its draws."""

from itertools import combinations
from math import comb, log

import numpy as np
import pytest

from annot_hf.evaluation import saturation as module
from annot_hf.evaluation.resampling import Resamples
from annot_hf.evaluation.saturation import measure_curve, measure_held_out, measure_ideal, votes_that_most_have

COUNTS = np.array([[2, 1, 1], [0, 3, 2], [4, 0, 0]])
REFERENCE = np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [1.0, 0, 0]])
ITEMS = ["a", "b", "c"]
QUICK = {"n": 2}


def jsd(p, q):
    """Lin (1991), a term at a time."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        m = (a + b) / 2
        total += (a * log(a / m) if a else 0) / 2 + (b * log(b / m) if b else 0) / 2
    return total


def votes_of(counts):
    return [label for label, count in enumerate(counts) for _ in range(count)]


def shares(votes, classes=3):
    return [votes.count(label) / len(votes) for label in range(classes)]


def expected(counts, reference, n):
    """Mean over every choice of n votes."""
    found = [jsd(shares(list(chosen)), reference) for chosen in combinations(votes_of(counts), n)]
    return sum(found) / len(found)


def test_the_curve_is_the_expectation_over_all_draws():
    curve = measure_curve(COUNTS, REFERENCE, ITEMS, 4, Resamples(**QUICK), repeats=4000)
    exact = [np.mean([expected(c, q, n) for c, q in zip(COUNTS, REFERENCE, strict=True)]) for n in range(1, 5)]
    np.testing.assert_allclose(curve.mean, exact, atol=0.004)
    np.testing.assert_allclose(curve.runs.mean(0), curve.mean, atol=1e-12)
    assert curve.runs.shape == (4000, 4) and curve.draws.shape == (3, 4)


def test_all_votes_leave_nothing_to_chance():
    curve = measure_curve(COUNTS[:1], REFERENCE[:1], ["a"], 4, Resamples(**QUICK), repeats=50)
    np.testing.assert_allclose(curve.runs[:, -1], 0, atol=1e-12)
    assert curve.runs[:, 0].std() > 0


def test_held_out_curves_are_the_expectation_over_all_draws():
    human, synthetic = np.array([[2, 1, 1], [3, 2, 0]]), np.array([[1, 1, 1], [0, 0, 3]])
    found = measure_held_out(human, synthetic, ["a", "b"], 2, 3, Resamples(**QUICK), repeats=6000)
    exact = {"human": [], "synthetic": []}
    for n in range(1, 4):
        human_sum, model_sum = [], []
        for counts, model in zip(human, synthetic, strict=True):
            votes = votes_of(counts)
            for chosen in combinations(range(len(votes)), 2):
                rest = shares([votes[i] for i in range(len(votes)) if i not in chosen])
                weight = 1 / comb(len(votes), 2)
                if n <= 2:
                    for some in combinations(chosen, n):
                        human_sum.append(weight / comb(2, n) * jsd(shares([votes[i] for i in some]), rest))
                for some in combinations(votes_of(model), n):
                    model_sum.append(weight / comb(3, n) * jsd(shares(list(some)), rest))
        exact["human"].append(sum(human_sum) / 2)
        exact["synthetic"].append(sum(model_sum) / 2)
    np.testing.assert_allclose(found.human.mean, exact["human"][:2], atol=0.005)
    np.testing.assert_allclose(found.synthetic.mean, exact["synthetic"], atol=0.005)
    assert (found.items, found.fewest) == (2, 2)


def test_the_ideal_curve_is_the_bias_of_few_votes():
    items = [str(row) for row in range(4000)]
    curve = measure_ideal(np.tile([0.3, 0.7], (4000, 1)), items, 3, Resamples(**QUICK), repeats=2)
    for n in (1, 2, 3):
        exact = sum(comb(n, m) * 0.3**m * 0.7 ** (n - m) * jsd([m / n, 1 - m / n], [0.3, 0.7]) for m in range(n + 1))
        assert curve.mean[n - 1] == pytest.approx(exact, abs=0.006)
    many = measure_ideal(np.full((4000, 4), 0.25), items, 100, Resamples(**QUICK), repeats=1)
    assert many.mean[-1] == pytest.approx(3 / (8 * 100), rel=0.05)  # (K - 1) / (8 n), as the module says


def test_only_its_own_votes_decide_an_items_draws(monkeypatch):
    rng = np.random.default_rng(0)
    counts = rng.multinomial(12, [0.5, 0.3, 0.2], 40) + rng.multinomial(3, [1 / 3] * 3, 40) * rng.integers(
        0, 2, (40, 1)
    )
    reference, items = rng.dirichlet(np.ones(3), 40), [f"i{row}" for row in range(40)]
    whole = measure_curve(counts, reference, items, 12, Resamples(**QUICK), repeats=3)
    order = rng.permutation(40)
    turned = measure_curve(
        counts[order], reference[order], [items[i] for i in order], 12, Resamples(**QUICK), repeats=3
    )
    np.testing.assert_allclose(turned.runs, whole.runs, atol=1e-12)
    alone = [
        measure_curve(counts[[i]], reference[[i]], [items[i]], 12, Resamples(**QUICK), repeats=3).runs
        for i in range(40)
    ]
    np.testing.assert_allclose(np.mean(alone, axis=0), whole.runs, atol=1e-12)
    shorter = measure_curve(counts, reference, items, 5, Resamples(**QUICK), repeats=3)
    np.testing.assert_allclose(shorter.runs, whole.runs[:, :5], atol=1e-12)
    monkeypatch.setattr(module, "_HISTOGRAM_BLOCK", 1)
    np.testing.assert_allclose(
        measure_curve(counts, reference, items, 12, Resamples(**QUICK), repeats=3).runs, whole.runs
    )
    other = measure_curve(counts, reference, items, 12, Resamples(seed=1, **QUICK), seed=1, repeats=3)
    assert not np.allclose(other.runs[:, 0], whole.runs[:, 0])


def test_draws_of_people_and_annotators_are_not_the_same_draws():
    counts = np.tile([3, 3, 2], (200, 1))
    found = measure_held_out(counts, counts, [str(i) for i in range(200)], 4, 4, Resamples(**QUICK), repeats=1)
    assert found.synthetic.mean[0] != found.human.mean[0]


def test_intervals_resample_speakers():
    rng = np.random.default_rng(1)
    speaker = np.repeat(np.arange(10), 30)
    share = np.clip(0.5 + 0.4 * (speaker % 2 - 0.5), 0, 1)
    counts = np.stack([one := rng.binomial(10, share), 10 - one], axis=1)
    reference, items = np.tile([0.5, 0.5], (300, 1)), [str(i) for i in range(300)]
    widths = {}
    for name, clusters in (("items", None), ("speakers", speaker)):
        found = measure_curve(counts, reference, items, 10, Resamples(clusters)).estimates()[-1]
        assert found.low <= found.value <= found.high
        widths[name] = found.high - found.low
    assert widths["items"] > 0 and widths["speakers"] > 0 and widths["items"] != widths["speakers"]
    one = measure_curve(counts, reference, items, 10, Resamples(np.zeros(300))).estimates()[-1]
    assert one.value is not None and one.low is None  # a single speaker: nothing to resample


def test_what_annotators_are_worth():
    rng = np.random.default_rng(2)
    opinion = rng.dirichlet(np.ones(4) * 0.5, 400)
    human = np.array([rng.multinomial(12, q) for q in opinion])
    items = [str(i) for i in range(400)]

    def worth(synthetic, votes):
        return measure_held_out(human, synthetic, items, 6, votes, Resamples(n=200)).worth

    same = worth(np.array([rng.multinomial(3, q) for q in opinion]), 3)
    assert (
        same["low"] <= 3 <= same["high"] and 2.5 < same["value"] < 3.5
    )  # three who vote as people do are three people
    assert worth(np.array([rng.multinomial(40, q) for q in opinion]), 40)["text"].startswith("> 6")
    opposite = np.eye(4, dtype=int)[opinion.argmin(1)] * 5
    assert worth(opposite, 5)["value"] == 0 and worth(opposite, 5)["text"].startswith("< 1")


def test_the_most_votes_that_most_items_have():
    assert votes_that_most_have(np.array([20] * 9 + [1])) == 20
    assert votes_that_most_have(np.array([20] * 8 + [7, 1])) == 7
    assert votes_that_most_have(np.array([3])) == 3


@pytest.mark.parametrize(
    "votes, options, message",
    [
        (5, {}, "Each item needs 5 votes, but an item has 4"),
        (0, {}, "number of votes is 0"),
        (True, {}, "number of votes is True"),
        (2, {"repeats": 0}, "number of resamples is 0"),
        (2, {"repeats": 1.5}, "number of resamples is 1.5"),
    ],
)
def test_bad_numbers(votes, options, message):
    with pytest.raises(ValueError, match=message):
        measure_curve(COUNTS, REFERENCE, ITEMS, votes, **options)


def test_people_must_be_left_over():
    with pytest.raises(ValueError, match="Each item needs 5 votes, but an item has 4"):
        measure_held_out(COUNTS, COUNTS, ITEMS, 4, 2)
    with pytest.raises(ValueError, match="there is no item"):
        measure_curve(COUNTS[:0], REFERENCE[:0], [], 1)


def test_one_vote_of_one_item():
    curve = measure_curve(np.array([[1, 0]]), np.array([[0.5, 0.5]]), ["a"], 1)
    assert curve.mean.tolist() == [pytest.approx(jsd([1, 0], [0.5, 0.5]))] and len(curve.draws) == 1
