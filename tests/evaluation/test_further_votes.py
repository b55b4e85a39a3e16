"""The value of one more vote against brute force, and against votes that are hidden."""

import numpy as np
import pytest
import scipy.stats

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.ceiling import fit_prior
from annot_hf.evaluation.further_votes import BEST, check_ranking, next_vote_values, one_more_vote, rank_items
from annot_hf.evaluation.resampling import Resamples

LABELS = list("abcd")
EMOTION = Question.category("emotion", LABELS)


def drawn(items=400, votes=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.multinomial(votes, rng.dirichlet([0.3, 0.5, 0.5, 1.0], items))


def test_the_value_is_the_information_of_a_vote_on_the_next_by_enumeration():
    prior, counts = np.array([0.3, 0.7, 1.1]), np.array([[2, 0, 1], [0, 0, 0], [1, 1, 1], [0, 3, 3]])
    value, changes = next_vote_values(counts, prior)
    for row, votes in enumerate(counts):
        now = (votes + prior) / (votes + prior).sum()
        together = np.stack(
            [now[c] * (votes + prior + np.eye(3)[c]) / (votes.sum() + prior.sum() + 1) for c in range(3)]
        )
        expected = 2 * scipy.stats.entropy(now) - scipy.stats.entropy(together.ravel())
        assert value[row] == pytest.approx(expected)
        moved = [now[c] for c in range(3) if (votes + np.eye(3)[c]).argmax() != votes.argmax()]
        assert changes[row] == pytest.approx(sum(moved))


def test_items_with_few_or_split_votes_come_first():
    counts = np.array([[9, 0, 0, 0], [5, 4, 0, 0], [1, 0, 0, 0], *drawn(200)])
    names = [f"i{row}" for row in range(len(counts))]
    table = rank_items(VoteTable.from_counts(EMOTION, names, counts), "emotion")
    place = {item: row for row, item in enumerate(table["item"])}
    assert place["i2"] == 0 and place["i1"] < place["i0"]
    assert (table["value"].diff().dropna() <= 0).all() and len(table) == len(counts)


def test_hidden_votes_are_forecast_better_by_as_much_as_was_expected():
    found = check_ranking(np.concatenate([drawn(600, 3), drawn(5400, 9, seed=1)]), Resamples(n=200))
    assert found["items"] == 6000
    for part in ("all", "top"):
        expected, gained = found[part]["expected"], found[part]["gained"]
        assert gained["low"] < expected["value"] < gained["high"]
    assert found["top"]["gained"]["low"] > found["all"]["gained"]["high"]
    assert check_ranking(drawn(19)) is None and check_ranking(drawn(40, 2)) is None


def test_one_more_vote_raises_entropy_and_says_nothing_of_agreement():
    counts = np.concatenate([drawn(800, 4), np.eye(4, dtype=int)])
    found = one_more_vote(counts, EMOTION)
    assert set(found) == {"entropy", *(f"best_{name}" for name in BEST)}
    change = {name: one["after"] - one["now"] for name, one in found.items()}
    assert change["best_jsd"] < -0.005 and change["best_accuracy"] > 0
    # every next label by its odds, over the items with two votes
    prior, whole = fit_prior(counts), counts[:800]
    odds = (whole + prior) / (whole + prior).sum(1, keepdims=True)
    then = [[scipy.stats.entropy(row + one) for one in np.eye(4)] for row in whole]
    assert found["entropy"]["after"] == pytest.approx((odds * then).sum(1).mean())
    # what those who have one vote more find
    rng = np.random.default_rng(3)
    opinion = rng.dirichlet([0.3, 0.5, 0.5, 1.0], 4000)
    entropies = [np.mean([scipy.stats.entropy(row) for row in rng.multinomial(votes, opinion)]) for votes in (4, 5)]
    assert change["entropy"] == pytest.approx(entropies[1] - entropies[0], abs=0.02)
    assert one_more_vote(np.eye(4, dtype=int), EMOTION) == {}
