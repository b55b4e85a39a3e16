"""Agreement of synthetic annotators with people, against loops over single votes and the package's own Fleiss' kappa."""

import numpy as np
import pytest

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.agreement import agreement
from annot_hf.evaluation.categories import entropy_strata
from annot_hf.evaluation.resampling import Resamples
from annot_hf.evaluation.saturation import measure_agreement
from annot_hf.report.studies import synthetic_table

LABELS = ("anger", "joy", "sad", "calm")


def among(counts):
    """Pairwise agreement and Fleiss' kappa."""
    votes = VoteTable.from_counts(Question.category("q", LABELS), [f"i{row}" for row in range(len(counts))], counts)
    found = agreement(votes, "q", resamples=Resamples(n=0))
    return found.pairwise.value, found.fleiss_kappa.value


QUICK = {"n": 20}


def simulated(items=120, people=5, votes=6, seed=0, same=True):
    rng = np.random.default_rng(seed)
    opinion = rng.dirichlet(np.ones(4) * 0.7, items)
    other = opinion if same else rng.dirichlet(np.ones(4), items)
    return (
        np.array([rng.multinomial(n, q) for n, q in zip(rng.integers(2, people + 1, items), opinion, strict=True)]),
        np.array([rng.multinomial(n, q) for n, q in zip(rng.integers(1, votes + 1, items), other, strict=True)]),
    )


def votes_of(counts):
    return [label for label, count in enumerate(counts) for _ in range(count)]


def chance_of_plurality(vote, others):
    most = max(others.count(label) for label in others)
    tied = [label for label in set(others) if others.count(label) == most]
    return (vote in tied) / len(tied)


def by_loops(human, synthetic):
    """Accuracy and agreement of single votes, an item at a time."""
    found = {name: [] for name in ("accuracy", "accuracy_person", "agreement", "agreement_person", "plurality")}
    for persons, models in zip(map(votes_of, human), map(votes_of, synthetic), strict=True):
        person, model = [], []
        for left_out in range(len(persons)):
            others = persons[:left_out] + persons[left_out + 1 :]
            person.append(chance_of_plurality(persons[left_out], others))
            model += [chance_of_plurality(vote, others) for vote in models]
        found["accuracy_person"].append(np.mean(person))
        found["accuracy"].append(np.mean(model))
        found["agreement"].append(np.mean([a == b for a in persons for b in models]))
        found["agreement_person"].append(
            np.mean([persons[i] == persons[j] for i in range(len(persons)) for j in range(len(persons)) if i != j])
        )
        found["plurality"].append(np.mean([chance_of_plurality(vote, persons) for vote in models]))
    return {name: np.array(values) for name, values in found.items()}


def test_every_measure_against_single_votes_in_every_stratum():
    human, synthetic = simulated(same=False)
    found = measure_agreement(human, synthetic, LABELS, Resamples(**QUICK))
    loops = by_loops(human, synthetic)
    strata = entropy_strata(human / human.sum(1, keepdims=True), LABELS)
    rows = {"all": np.ones(len(human), bool)} | {one.name: one.rows for one in strata if one.scheme == "tertiles"}
    for key, inside in rows.items():
        value = {name: {who: one["value"] for who, one in by[key].items()} for name, by in found.records.items()}
        assert found.strata[key]["items"] == inside.sum()
        for name, measure, who in (
            ("accuracy", "accuracy", "synthetic"),
            ("accuracy_person", "accuracy", "person"),
            ("agreement", "agreement", "synthetic"),
            ("agreement_person", "agreement", "person"),
            ("plurality", "accuracy_plurality", "synthetic"),
        ):
            assert value[measure][who] == pytest.approx(loops[name][inside].mean()), (key, name)
        assert value["agreement"]["person"] == pytest.approx(among(human[inside])[0])
        assert value["kappa"]["person"] == pytest.approx(among(human[inside])[1])
        assert value["among"]["synthetic"] == pytest.approx(among(synthetic[inside])[0])
        pooled = [counts[inside].sum(0) / counts[inside].sum() for counts in (human, synthetic)]
        chance = float(pooled[0] @ pooled[1])
        expected = (loops["agreement"][inside].mean() - chance) / (1 - chance)
        assert value["kappa"]["synthetic"] == pytest.approx(expected)
        assert value["kappa"]["difference"] == pytest.approx(expected - among(human[inside])[1])


def test_annotators_who_vote_as_people_do_agree_as_people_do():
    """The measures are unbiased: nothing but chance is between a person and one drawn from the same opinion."""
    human, synthetic = simulated(items=6000, same=True)
    found = measure_agreement(human, synthetic, LABELS, Resamples(n=200))
    for name in ("accuracy", "agreement", "kappa"):
        difference = found.records[name]["all"]["difference"]
        assert abs(difference["value"]) < 0.01 and difference["low"] < 0.004 and difference["high"] > -0.004
    low, high = (found.records["agreement"][key]["difference"]["value"] for key in ("low", "high"))
    assert low < -0.02 and high > 0.02  # what the note warns of: the tertiles are cut by the votes of these people


def test_intervals_resample_speakers():
    human, synthetic = simulated()
    speakers = [f"s{row % 6}" for row in range(len(human))]
    one = measure_agreement(human, synthetic, LABELS, Resamples(speakers, 200))
    other = measure_agreement(human, synthetic, LABELS, Resamples(n=200))
    one, other = (found.records["jsd"]["all"]["synthetic"] for found in (one, other))
    assert one["value"] == pytest.approx(other["value"]) and one["low"] != pytest.approx(other["low"])


def test_items_with_fewer_than_two_people_are_counted():
    human, synthetic = simulated(items=30)
    human = np.concatenate([human, [[1, 0, 0, 0]] * 4])
    synthetic = np.concatenate([synthetic, [[1, 0, 0, 0]] * 4])
    found = measure_agreement(human, synthetic, LABELS, Resamples(**QUICK))
    assert found.counts == {"items": 30, "items with fewer than 2 people": 4}
    assert "4 items with fewer than 2 people are left out" in synthetic_table(found).note
    with pytest.raises(ValueError, match="None of 4 items has votes of two people"):
        measure_agreement(human[30:], synthetic[30:], LABELS)
    with pytest.raises(ValueError, match="An item has no synthetic vote"):
        measure_agreement(human, np.zeros_like(synthetic), LABELS)


def test_one_answer_throughout_has_no_kappa():
    same = np.array([[3, 0, 0, 0], [4, 0, 0, 0]])
    found = measure_agreement(same, same, LABELS, Resamples(**QUICK))
    assert found.records["kappa"]["all"]["person"]["value"] is None
    assert found.records["accuracy"]["all"]["synthetic"]["value"] == 1
    assert found.records["entropy"]["all"]["person"]["value"] == 0
    shown = synthetic_table(found)
    assert all(len(row) == len(shown.columns) for row in shown.rows)


def test_one_item_and_one_synthetic_vote():
    found = measure_agreement(np.array([[2, 1, 0, 0]]), np.array([[0, 1, 0, 0]]), LABELS)
    assert found.records["among"]["all"]["synthetic"]["value"] is None
    assert found.records["agreement"]["all"]["synthetic"] == {"value": pytest.approx(1 / 3), "low": None, "high": None}
    assert [found.strata[name]["items"] for name in ("all", "low", "mid", "high")] == [1, 1, 0, 0]
