"""Raters without information, and schools of opinion, that are planted among simulated raters."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.rater_evidence import adjusted_rand, rater_evidence, schools_of_opinion

LABELS = list("abcd")


def crowd(kind, taste, guessing=(), constant=(), votes=30, items=300, seed=0):
    """Raters with logits or biases `taste`; some guess, some always say the same."""
    rng = np.random.default_rng(seed)
    raters = len(taste)
    item = np.concatenate([rng.choice(items, votes, replace=False) for _ in range(raters)])
    rater = np.repeat(np.arange(raters), votes)
    names = {"item": [f"i{code}" for code in item], "annotator": [f"r{code:02d}" for code in rater]}
    if kind == "scale":
        value = np.clip(
            np.round(4 + 1.2 * rng.normal(size=items)[item] + taste[rater] + rng.normal(size=len(item))), 1, 7
        )
        value = np.where(np.isin(rater, guessing), rng.integers(1, 8, len(item)), value)
        return VoteTable.from_columns(Question.scale("q", 1, 7), value=value, **names)
    logits = 2 * rng.normal(size=(items, 4))[item] + taste[rater] + rng.gumbel(size=(len(item), 4))
    value = np.where(np.isin(rater, guessing), rng.integers(0, 4, len(item)), logits.argmax(axis=1))
    value = np.where(np.isin(rater, constant), 2, value)
    return VoteTable.from_columns(Question.category("q", LABELS), value=[LABELS[code] for code in value], **names)


@pytest.mark.parametrize("kind", ["category", "scale"])
def test_raters_who_guess_are_flagged_with_the_evidence_and_nobody_else(kind):
    taste = np.zeros((40, 4)) if kind == "category" else np.zeros(40)
    votes = crowd(kind, taste, guessing=(3, 17), constant=(8,), votes=150, seed=1)
    found = rater_evidence(votes, "q").set_index("rater")
    flagged = set(found.index[found["flagged"]])
    assert flagged == {"r03", "r17"} | ({"r08"} if kind == "category" else set())
    assert list(found.index[: len(flagged)]) == list(found.index[found["flagged"]])
    for name in flagged:
        assert found.loc[name, "low"] <= 0 and found.loc[name, "p"] < 0.05
    assert (found["low"] <= found["information"]).all() and (found["information"] <= found["high"]).all()
    assert len(found) == 40 and (found["votes"] <= 150).all()
    if kind == "category":
        assert found.loc["r08", "favourite"] == 1.0


def test_agreement_and_information_of_a_rater_by_hand():
    said = {"x": "aab", "y": "abb", "z": "a"}
    rows = [(item, f"r{place}", value) for item, values in said.items() for place, value in enumerate(values)]
    item, annotator, value = zip(*rows, strict=True)
    votes = VoteTable.from_columns(Question.category("q", ["a", "b"]), item=item, annotator=annotator, value=value)
    found = rater_evidence(votes, "q").set_index("rater")
    # r0 says a twice: x has a and b, y has b and b; z has nobody else.
    assert found.loc["r0", "votes"] == 2 and found.loc["r0", "agreement"] == pytest.approx((0.5 + 0) / 2)
    assert found.loc["r0", "information"] == pytest.approx(information_of(0, [(0, 0, 1), (0, 1, 1)], 2))
    # too few votes to judge anybody
    assert found["low"].isna().all() and not found["flagged"].any()


def information_of(rater, items, labels):
    """Of one of the raters who all rated these items, by loops over pairs of votes."""
    every = np.bincount(np.ravel(items), minlength=labels) / np.size(items)
    given, beside = np.zeros(labels), np.tile(every, (labels, 1))
    for said in items:
        given[said[rater]] += 1 / len(items)
        for one, other in itertools.permutations(range(len(said)), 2):
            if rater not in (one, other):
                beside[said[one], said[other]] += 1 / (len(said) - 1)
    beside /= beside.sum(axis=1, keepdims=True)
    logs = []
    for said in items:
        theirs = np.delete(said, rater)
        logs.append(np.mean([np.log(beside[said[rater], one] / (given @ beside)[one]) for one in theirs]))
    return np.mean(logs)


def panel(seed, spammer):
    """Five raters of 100 items; the first ignores them or swaps labels, the others have one opinion each item."""
    rng = np.random.default_rng(seed)
    opinion = rng.dirichlet(np.array([2, 1, 1, 0.5]) * 0.6, 100)
    said = np.stack([rng.choice(4, 5, p=one) for one in opinion])
    said[:, 0] = {"constant": 3, "common": 0, "random": rng.integers(0, 4, 100), "swapped": 3 - said[:, 0]}[spammer]
    return said


@pytest.mark.parametrize("spammer", ["constant", "common", "random", "swapped"])
def test_in_a_panel_of_five_the_rater_without_information_is_flagged_alone(spammer):
    for seed in range(4):
        said = panel(seed, spammer)
        votes = VoteTable.from_columns(
            Question.category("q", LABELS),
            item=np.repeat([f"i{row}" for row in range(100)], 5),
            annotator=[f"r{rater}" for rater in range(5)] * 100,
            value=[LABELS[code] for code in said.ravel()],
        )
        found = rater_evidence(votes, "q").set_index("rater")
        for rater in range(5):
            assert found.loc[f"r{rater}", "information"] == pytest.approx(information_of(rater, said, 4))
        if spammer in ("constant", "common"):
            assert found.loc["r0", ["low", "information", "high"]].tolist() == pytest.approx([0, 0, 0], abs=1e-12)
        assert list(found.index[found["flagged"]]) == ["r0"]


def test_two_raters_have_nobody_to_read_their_labels_by():
    names = np.repeat([f"i{row}" for row in range(20)], 2)
    votes = VoteTable.from_columns(
        Question.category("q", LABELS), item=names, annotator=["r", "s"] * 20, value=["a", "b", "c", "c"] * 10
    )
    found = rater_evidence(votes, "q")
    assert found["information"].isna().all() and not found["flagged"].any() and (found["agreement"] == 0.5).all()


@pytest.mark.parametrize("kind", ["category", "scale"])
def test_two_schools_are_found_and_one_crowd_is_one(kind):
    school = np.arange(40) % 2
    taste = 1.8 * (np.eye(4)[[0, 3]][school]) if kind == "category" else 3.0 * (school - 0.5)
    found = schools_of_opinion(crowd(kind, taste, votes=60), "q")
    assert found["schools"] == 2 and found["sizes"] == [20, 20] and found["raters"] == 40 and found["kind"] == "labels"
    member = np.array([found["members"][f"r{code:02d}"] for code in range(40)])
    assert abs(np.corrcoef(member, school)[0, 1]) == pytest.approx(1)
    same = schools_of_opinion(crowd(kind, 0 * taste, votes=60), "q")
    assert same["schools"] == 1 and same["sizes"] == [40]
    assert schools_of_opinion(crowd(kind, taste[:9], votes=60), "q") is None


def camps(kind, camp, items=300, votes=4, seed=0):
    """Raters whose camps have independent opinions of each item; camp -1 guesses."""
    rng = np.random.default_rng(seed)
    item, rater = np.repeat(np.arange(items), votes), np.tile(np.arange(votes), items)
    rater = np.stack([rng.permutation(len(camp))[:votes] for _ in range(items)])[item, rater]
    names = {"item": [f"i{code}" for code in item], "annotator": [f"r{code:02d}" for code in rater]}
    guess = camp[rater] == -1
    if kind == "scale":
        value = 4 + 1.5 * rng.normal(size=(items, 3))[item, camp[rater]] + 0.7 * rng.normal(size=len(item))
        value = np.where(guess, rng.integers(1, 8, len(item)), np.clip(np.round(value), 1, 7))
        return VoteTable.from_columns(Question.scale("q", 1, 7), value=value, **names)
    opinion = rng.dirichlet(np.full(4, 0.3), (items, 3))[item, camp[rater]]
    opinion[guess] = 0.25
    value = [LABELS[rng.choice(4, p=one)] for one in opinion]
    return VoteTable.from_columns(Question.category("q", LABELS), value=value, **names)


@pytest.mark.parametrize(("kind", "votes"), [("category", 4), ("scale", 8)])
def test_camps_who_disagree_about_items_are_schools(kind, votes):
    camp = np.arange(40) % 2
    found = schools_of_opinion(camps(kind, camp, votes=votes), "q")
    assert found["schools"] == 2 and found["kind"] == "items" and found["sizes"] == [20, 20]
    member = np.array([found["members"][f"r{code:02d}"] for code in range(40)])
    assert adjusted_rand_score(member, camp) == 1
    assert max(one["mean"] for one in found["stability"]["labels"].values()) < 0.2


def test_three_camps_are_three_schools_and_those_who_guess_are_none():
    found = schools_of_opinion(camps("category", np.arange(40) % 3, votes=10), "q")
    assert found["schools"] == 3 and found["sizes"] == [14, 13, 13]
    guessing = schools_of_opinion(camps("category", np.where(np.arange(40) < 6, -1, 0), votes=10), "q")
    # They are a stable cluster, but do not agree with each other.
    assert guessing["schools"] == 1 and guessing["stability"]["items"][2]["mean"] > 0.5


def test_a_continuum_of_tastes_is_one_school():
    taste = np.random.default_rng(2).normal(size=40)
    assert schools_of_opinion(crowd("scale", taste, votes=60), "q")["schools"] == 1


def test_adjusted_rand_is_that_of_sklearn():
    rng = np.random.default_rng(1)
    for _ in range(20):
        one, other = rng.integers(0, 3, (2, 15))
        assert adjusted_rand(one, other) == pytest.approx(adjusted_rand_score(one, other))
    assert adjusted_rand(np.zeros(4, dtype=int), np.zeros(4, dtype=int)) == 1.0
