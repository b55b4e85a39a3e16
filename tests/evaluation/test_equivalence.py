from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from annot_hf.evaluation.equivalence import _rater_losses, crossing, rater_equivalence, worth_text
from annot_hf.evaluation.resampling import Resamples

RNG = np.random.default_rng(12)
PRIOR = np.array([0.4, 0.3, 0.2, 0.1])


def enumerated_loss(counts, k, alpha, prior):
    """Every held-out vote with every choice of k of the others, vote by vote."""
    votes = [label for label, count in enumerate(counts) for _ in range(int(count))]
    losses = []
    for held_out, label in enumerate(votes):
        for chosen in combinations([vote for other, vote in enumerate(votes) if other != held_out], k):
            losses.append(-np.log((chosen.count(label) + alpha * prior[label]) / (k + alpha)))
    return np.mean(losses)


@given(hnp.arrays(np.int64, (4, 4), elements=st.integers(0, 2)))
@settings(max_examples=20)
def test_expectation_equals_brute_force(counts):
    counts[:, 0] += 1
    counts[:, 1] += 1
    largest = int(counts.sum(1).min()) - 1
    losses, alpha = _rater_losses(counts.astype(float), PRIOR, largest)
    for row, item in enumerate(counts):
        for k in range(largest + 1):
            assert losses[row, k] == pytest.approx(enumerated_loss(item, k, alpha, PRIOR))


def test_alpha_is_the_best_on_a_grid():
    counts = RNG.multinomial(8, PRIOR, 50).astype(float)
    losses, alpha = _rater_losses(counts, PRIOR, 5)
    for factor in (0.3, 0.7, 1.0, 1.4, 3.0):
        other = factor * alpha
        theirs = [
            (counts / 8 * (np.log(k + other) - expected_log(counts, k, other))).sum(1).mean() for k in range(1, 6)
        ]
        assert np.mean(theirs) >= losses[:, 1:].mean() - 1e-9
        assert factor != 1 or theirs == pytest.approx(losses[:, 1:].mean(0))


def expected_log(counts, k, alpha):
    """Expected logarithm of the smoothed count of each held-out label, by SciPy's hypergeometric."""
    out = np.zeros_like(counts)
    for (item, label), own in np.ndenumerate(counts):
        if own:
            m = np.arange(k + 1)
            chance = scipy.stats.hypergeom.pmf(m, counts[item].sum() - 1, own - 1, k)
            out[item, label] = (chance * np.log(m + alpha * PRIOR[label])).sum()
    return out


def opinions(n, strength=2.0):
    return RNG.dirichlet(strength * PRIOR, n)


def draw(opinion, votes):
    return RNG.multinomial(votes, opinion).astype(float)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_a_model_that_is_k_other_raters_is_worth_k(k):
    opinion = opinions(6000)
    model = (draw(opinion, k) + 2 * PRIOR) / (k + 2)
    found = rater_equivalence({"model": model}, draw(opinion, 11), PRIOR, Resamples(n=200))
    assert found.alpha == pytest.approx(2, rel=0.1) and found.raters[-1] == 10
    worth = found.systems["model"]["worth"]
    assert worth["value"] == pytest.approx(k, rel=0.12)
    assert (worth["low"] or 0) <= k * 1.05 and (worth["high"] or 99) >= k * 0.95


def test_a_model_that_knows_the_opinion_is_worth_more_than_all_raters_and_a_bad_one_less_than_one():
    opinion = opinions(800)
    counts = draw(opinion, 9)
    systems = {"truth": opinion, "uniform": np.full((800, 4), 0.25), "marginal": np.tile(PRIOR, (800, 1))}
    found = rater_equivalence(systems, counts, PRIOR, Resamples(n=100))
    assert found.systems["truth"]["worth"] == {
        "value": None,
        "low": None,
        "high": None,
        "text": "> 8 (95 % interval > 8 to > 8)",
    }
    assert found.systems["uniform"]["worth"]["text"] == "< 1 (95 % interval < 1 to < 1)"
    assert found.systems["marginal"]["loss"]["value"] == pytest.approx(found.curve[0]["value"])
    losses = [entry["value"] for entry in found.curve]
    assert all(after < before for before, after in zip(losses, losses[1:], strict=False))
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in found.curve)


def test_the_curve_needs_its_share_of_the_items(monkeypatch):
    opinion = opinions(100)
    counts = np.concatenate([draw(opinion[:70], 10), draw(opinion[70:], 4)])
    systems = {"model": opinion}
    assert rater_equivalence(systems, counts, PRIOR, Resamples(n=0), keep=0.5).raters[-1] == 9
    strict = rater_equivalence(systems, counts, PRIOR, Resamples(n=0), keep=0.9)
    assert (strict.raters[-1], strict.items, strict.share) == (3, 100, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr("annot_hf.evaluation.equivalence.MOST_RATERS", 5)
        assert rater_equivalence(systems, counts, PRIOR, Resamples(n=0), keep=0.5).raters[-1] == 5
    few = counts.copy()
    few[:60] = np.eye(4)[0]  # most items have one vote: still told, on the others
    told = rater_equivalence(systems, few, PRIOR, Resamples(n=0))
    assert (told.raters[-1], told.items, told.share) == (1, 40, 0.4)
    assert told.systems["model"]["worth"]["low"] is None


def test_single_votes_and_single_items():
    assert rater_equivalence({"model": np.full((3, 4), 0.25)}, np.eye(4)[:3], PRIOR) is None
    one = rater_equivalence({"model": np.array([[0.4, 0.4, 0.1, 0.1]])}, [[2, 1, 0, 0]], PRIOR)
    assert one.items == 1 and one.curve[0]["low"] is None
    agreed = rater_equivalence({"model": np.array([[1.0]])}, [[3]], np.ones(1))
    assert agreed.systems["model"]["loss"]["value"] == pytest.approx(0)


def test_a_label_that_the_marginal_lacks_is_floored():
    found = rater_equivalence({"model": np.full((2, 2), 0.5)}, [[2, 2], [0, 4]], [1.0, 0.0], Resamples(n=0))
    assert np.isfinite([entry["value"] for entry in found.curve]).all()


@pytest.mark.parametrize(
    ("counts", "keep", "message"),
    [
        ([[1.5, 1]], 0.8, "Item 0 has count 1.5; rater equivalence needs whole votes: give unweighted counts."),
        ([[1, -1]], 0.8, "Item 0 has count -1; rater equivalence needs whole votes: give unweighted counts."),
        ([[1, 1]], 0, "keep is 0; give a share of the items, above 0 and up to 1."),
    ],
)
def test_bad_input(counts, keep, message):
    with pytest.raises(ValueError) as error:
        rater_equivalence({"model": np.full((1, 2), 0.5)}, counts, [0.5, 0.5], keep=keep)
    assert str(error.value) == message


def test_crossing_interpolates_and_is_censored_on_both_sides():
    curve = np.array([1.6, 1.4, 1.3, 1.25])
    cases = {1.5: 0, 1.4: 1, 1.35: 1.5, 1.3: 2, 1.26: 2.8, 1.25: 3, 1.2: np.inf}
    for loss, expected in cases.items():
        assert crossing(curve, np.array(loss)) == pytest.approx(expected)
    both = crossing(np.stack([curve, curve - 1]), np.array([1.35, 0.35]))
    assert both == pytest.approx([1.5, 1.5])
    assert crossing(np.array([1.5, 1.5, 1.5]), np.array(1.5)) == 1  # raters who know nothing
    assert [worth_text(value, 7) for value in (0.0, 3.14159, np.inf)] == ["< 1", "3.1", "> 7"]
