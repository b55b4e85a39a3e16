"""How far synthetic annotators agree with people, by how much people agree with each other.

Every measure of the annotators stands beside that of a person on the same items and with the same reference: a vote is held
against the votes of the other people, one person left out, whoever cast it, so that people gain nothing from being their own
reference. Ambiguity is that of `annot_hf.evaluation.strata`: tertiles of the entropy of people's votes over ln K.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from annot_hf.data.targets import winners
from annot_hf.evaluation.resampling import Measured, Resamples, estimate
from annot_hf.evaluation.strata import NAMES, entropy_strata
from annot_hf.models import measures
from annot_hf.models.measures import ratio

ALL = "all"
SYNTHETIC, PERSON = "synthetic", "person"
TITLES = {
    "accuracy": ("Accuracy", "0 to 1", "higher"),
    "agreement": ("Agreement", "0 to 1", "higher"),
    "kappa": ("Kappa", "-1 to 1", "higher"),
    "among": ("Agreement among a kind", "0 to 1", ""),
    "entropy": ("Entropy over ln K", "0 to 1", ""),
    "jsd": ("JSD of the histograms (nats)", "nats", "lower"),
    "accuracy_plurality": ("Accuracy, all people", "0 to 1", "higher"),
}
NOTE = (
    "Accuracy: chance that a vote is the plurality of an item's people but one, of that one and of a synthetic vote (tied "
    "labels share it); against all people: the same without leaving one out. Agreement: chance that the vote is that of "
    "another person. Kappa: (P - P_e) / (1 - P_e) of it, P_e by the shares of labels in the column; of people, Fleiss'. Among "
    "a kind: two different annotators, or two people. Low, mid, high: tertiles of the items by the entropy of people's votes, "
    "whose range is in brackets, ties kept together. Mind that the tertiles are cut by the very votes of these people, who "
    "agree the more in low and the less in high for that alone: a difference to them is fair over all items only. Entropies "
    "of few votes are too low. In square brackets: 95 % intervals."
)


@dataclass(frozen=True, eq=False)
class SyntheticAgreement:
    """What `measure_agreement` found.

    Attributes:
        records: Measure -> stratum ("all", "low", "mid", "high") -> "synthetic", "person" and "difference", each with
            `value`, `low`, `high`; a measure that only one of them has lacks the others.
        strata: Stratum -> `items`, and `low` and `high`, the least and largest entropy found.
        counts: Items that take part and those that do not.
    """

    records: dict[str, dict[str, dict[str, Any]]]
    strata: dict[str, dict[str, Any]]
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        titles = {name: dict(zip(("title", "unit", "better"), TITLES[name], strict=True)) for name in self.records}
        return {"records": self.records, "titles": titles, "strata": self.strata, "counts": self.counts}


def measure_agreement(
    human: np.ndarray,
    synthetic: np.ndarray,
    support: Sequence[str],
    resamples: Resamples | None = None,
) -> SyntheticAgreement:
    """Agreement of synthetic annotators with people, beside that of people with each other, by ambiguity.

    Args:
        human: People's votes per item and label `(I, K)`, whole numbers; items with fewer than two are counted and left out.
        synthetic: Synthetic votes `(I, K)`, whole numbers, at least one an item.
        support: The K labels.
        resamples: Bootstrap resamples of the items; 1,000 of single items when None.

    Raises:
        ValueError: An item has no synthetic vote, or no item has votes of two people.
    """
    human, synthetic = (np.asarray(counts, dtype=np.float64) for counts in (human, synthetic))
    rows = human.sum(1) >= 2
    if (synthetic.sum(1) < 1).any():
        raise ValueError("An item has no synthetic vote; leave such items out.")
    if not rows.any():
        raise ValueError(
            f"None of {len(human)} items has votes of two people, so there is no agreement among people to compare with."
        )
    human, synthetic = human[rows], synthetic[rows]
    q, p = (counts / counts.sum(1, keepdims=True) for counts in (human, synthetic))
    strata = [one for one in entropy_strata(q, support) if one.scheme == "tertiles"]
    member = {ALL: np.ones(len(q))} | {one.name: one.rows.astype(np.float64) for one in strata}
    several = synthetic.sum(1) >= 2
    person, model = _left_out(human, p)
    columns = {
        f"accuracy/{PERSON}": person,
        f"accuracy/{SYNTHETIC}": model,
        f"agreement/{PERSON}": _pairs(human),
        f"agreement/{SYNTHETIC}": (p * q).sum(1),
        f"among/{SYNTHETIC}": np.where(several, _pairs(synthetic), 0),
        f"entropy/{PERSON}": measures.entropy(q, normalised=True),
        f"entropy/{SYNTHETIC}": measures.entropy(p, normalised=True),
        f"jsd/{SYNTHETIC}": measures.jsd(p, q),
        f"accuracy_plurality/{SYNTHETIC}": (_plurality(human) * p).sum(1),
        "items": np.ones(len(q)),
        "several": several,
        f"votes/{PERSON}": human,
        f"votes/{SYNTHETIC}": synthetic,
    }
    summed = {
        f"{name}/{key}": column * (inside if column.ndim == 1 else inside[:, None])
        for name, column in columns.items()
        for key, inside in member.items()
    }
    sums = (resamples or Resamples()).select(rows).sums(summed)
    records: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in TITLES}
    for key in member:
        drawn = {
            name: ratio(sums[f"{name}/{key}"], sums[f"items/{key}"]) for name in columns if columns[name].ndim == 1
        }
        drawn[f"among/{SYNTHETIC}"] = ratio(sums[f"among/{SYNTHETIC}/{key}"], sums[f"several/{key}"])
        drawn[f"among/{PERSON}"] = drawn[f"agreement/{PERSON}"]
        shares = {who: _shares(sums[f"votes/{who}/{key}"]) for who in (PERSON, SYNTHETIC)}
        for who, share in shares.items():
            chance = (share * shares[PERSON]).sum(-1)
            same = drawn[f"agreement/{who}"]
            drawn[f"kappa/{who}"] = ratio(same - chance, np.where(chance < 1 - 1e-12, 1 - chance, 0))
        for name, (title, unit, better) in TITLES.items():
            draws = {who: drawn[f"{name}/{who}"] for who in (SYNTHETIC, PERSON) if f"{name}/{who}" in drawn}
            records[name][key] = _record(Measured(title, unit, better, draws))
    found = {ALL: {"items": len(q), "low": None, "high": None}}
    found |= {one.name: {"items": int(one.rows.sum()), "low": one.low, "high": one.high} for one in strata}
    counts = {"items": len(q), "items with fewer than 2 people": int((~rows).sum())}
    return SyntheticAgreement(records, {name: found[name] for name in (ALL, *NAMES)}, counts)


def _record(measured: Measured) -> dict[str, Any]:
    """Value and interval of each rater, and the difference of the two."""
    record: dict[str, Any] = {who: estimate(measured.draws[who]).to_dict() for who in measured.draws}
    if len(record) == 2:
        record["difference"] = measured.difference(SYNTHETIC, PERSON)
    return record


def _left_out(human: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chance `(I,)` that a vote is the plurality of all people but one: of the one left out, and of a synthetic vote.

    Args:
        human: People's votes `(I, K)`, two or more an item.
        p: Distributions of the synthetic votes `(I, K)`.
    """
    person, model = np.zeros(len(human)), np.zeros(len(human))
    share = human / human.sum(1, keepdims=True)
    for label in range(human.shape[1]):
        rest = human.copy()
        rest[:, label] -= 1  # where nobody said so, the weight is 0
        winner = _plurality(rest)
        person += share[:, label] * winner[:, label]
        model += share[:, label] * (winner * p).sum(1)
    return person, model


def _plurality(counts: np.ndarray) -> np.ndarray:
    """The most frequent labels `(I, K)`, which share a mass of 1."""
    return winners(counts, counts, (), "share")  # shared ties need no name


def _pairs(counts: np.ndarray) -> np.ndarray:
    """Chance `(I,)` that two different votes are the same."""
    n = counts.sum(1)
    return ratio((counts**2).sum(1) - n, n * (n - 1))


def _shares(votes: np.ndarray) -> np.ndarray:
    return ratio(votes, votes.sum(-1, keepdims=True))
