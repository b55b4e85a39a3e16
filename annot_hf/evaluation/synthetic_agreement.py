"""Agreement of synthetic annotators with people, compared with the agreement among people, by ambiguity.

Both have one reference: the votes of all people but one, whoever cast the vote, so that people are not their own reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from annot_hf.data.synthetic import SYNTHETIC
from annot_hf.data.targets import winners
from annot_hf.evaluation.categories import entropy_strata
from annot_hf.evaluation.resampling import Measured, Resamples
from annot_hf.evaluation.scoring import NOTES
from annot_hf.models import measures
from annot_hf.models.measures import ratio

ALL = "all"
PERSON = "person"
AGREEMENT_MEASURES = {
    "accuracy": ("Accuracy", "0 to 1", "higher"),
    "agreement": ("Agreement", "0 to 1", "higher"),
    "kappa": ("Kappa", "-1 to 1", "higher"),
    "among": ("Agreement within a kind", "0 to 1", ""),
    "entropy": ("Entropy over ln K", "0 to 1", ""),
    "jsd": ("JSD of the histograms (nats)", "nats", "lower"),
    "accuracy_plurality": ("Accuracy, all people", "0 to 1", "higher"),
}
NOTE = NOTES["synthetic"]


@dataclass(frozen=True, eq=False)
class SyntheticAgreement:
    """Measure -> stratum ("all", "low", "mid", "high") -> "synthetic", "person", "difference" -> `value`, `low`, `high`.

    Also the `items` and range of entropy of the `strata`, and the `counts` of items used and left out.
    """

    records: dict[str, dict[str, dict[str, Any]]]
    strata: dict[str, dict[str, Any]]
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        titles = {
            name: dict(zip(("title", "unit", "better"), AGREEMENT_MEASURES[name], strict=True)) for name in self.records
        }
        return {"records": self.records, "titles": titles, "strata": self.strata, "counts": self.counts}


def measure_agreement(
    human: np.ndarray, synthetic: np.ndarray, support: Sequence[str], resamples: Resamples | None = None
) -> SyntheticAgreement:
    """Agreement of synthetic annotators, and of people, with people, from whole votes `(I, K)` of items, by ambiguity."""
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
    # (I, strata), the first of all items.
    member = np.stack([np.ones(len(q)), *(one.rows for one in strata)], axis=1)
    several = synthetic.sum(1) >= 2
    person, model = _left_out(human, p)
    values = {
        ("accuracy", PERSON): person,
        ("accuracy", SYNTHETIC): model,
        ("agreement", PERSON): measures.pair_agreement(human),
        ("agreement", SYNTHETIC): (p * q).sum(1),
        ("among", PERSON): measures.pair_agreement(human),
        ("among", SYNTHETIC): np.where(several, measures.pair_agreement(synthetic), 0),
        ("entropy", PERSON): measures.entropy(q, normalised=True),
        ("entropy", SYNTHETIC): measures.entropy(p, normalised=True),
        ("jsd", SYNTHETIC): measures.jsd(p, q),
        ("accuracy_plurality", SYNTHETIC): (_plurality(human) * p).sum(1),
    }
    columns = {of: column[:, None] * member for of, column in values.items()}
    columns |= {"items": member, "several": several[:, None] * member}
    columns |= {who: votes[:, None] * member[..., None] for who, votes in ((PERSON, human), (SYNTHETIC, synthetic))}
    sums = (resamples or Resamples()).select(rows).sums(columns)
    drawn = {of: ratio(sums[of], sums["several" if of == ("among", SYNTHETIC) else "items"]) for of in values}
    shares = {who: ratio(sums[who], sums[who].sum(-1, keepdims=True)) for who in (PERSON, SYNTHETIC)}
    for who, share in shares.items():
        chance = (share * shares[PERSON]).sum(-1)
        drawn["kappa", who] = ratio(drawn["agreement", who] - chance, np.where(chance < 1 - 1e-12, 1 - chance, 0))
    records: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in AGREEMENT_MEASURES}
    for name, about in AGREEMENT_MEASURES.items():
        for index, stratum in enumerate((ALL, *(one.name for one in strata))):
            draws = {who: drawn[name, who][:, index] for who in (SYNTHETIC, PERSON) if (name, who) in drawn}
            measured = Measured(*about, draws)
            records[name][stratum] = {who: measured.at(who) for who in draws}
            if len(draws) == 2:
                records[name][stratum]["difference"] = measured.difference(SYNTHETIC, PERSON)
    found = {ALL: {"items": len(q), "low": None, "high": None}}
    found |= {one.name: {"items": int(one.rows.sum()), "low": one.low, "high": one.high} for one in strata}
    return SyntheticAgreement(records, found, {"items": len(q), "items with fewer than 2 people": int((~rows).sum())})


def _left_out(human: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability `(I,)` that the vote of the person left out, and a synthetic vote, is the plurality of the other people."""
    person, model = np.zeros(len(human)), np.zeros(len(human))
    share = human / human.sum(1, keepdims=True)
    for label in range(human.shape[1]):
        rest = human.copy()
        # Labels without a vote have weight 0 below.
        rest[:, label] -= 1
        winner = _plurality(rest)
        person += share[:, label] * winner[:, label]
        model += share[:, label] * (winner * p).sum(1)
    return person, model


def _plurality(counts: np.ndarray) -> np.ndarray:
    """The most frequent labels `(I, K)`, which share a mass of 1."""
    # Shared ties need no label names.
    return winners(counts, counts, (), "share")
