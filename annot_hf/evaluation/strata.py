"""Results by disagreement of the raters: strata of the normalised entropy of the votes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from annot_hf.evaluation.resampling import Measured, Resamples
from annot_hf.models import measures
from annot_hf.models.measures import accuracy_of, class_counts, macro_f1_of, macro_f1_present_of, ratio

EDGES = (0.0, 1 / 3, 2 / 3, 1.0)
NAMES = ("low", "mid", "high")
STRATUM_MEASURES = {
    "jsd": ("JSD", "nats", "lower"),
    "accuracy": ("Accuracy", "0 to 1", "higher"),
    "macro_f1": ("Macro-F1", "0 to 1", "higher"),
    "macro_f1_present": ("Macro-F1 over labels present", "0 to 1", "higher"),
}
# Entropies of equal votes differ by rounding, and may lie on an edge (two of eight labels give 1/3).
_ENTROPY_SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class Stratum:
    """Items whose votes have similar entropy.

    Attributes:
        scheme: "thirds" of the range of the normalised entropy, or "tertiles" of the items.
        name: "low", "mid" or "high".
        low: Lower edge (normalised entropy) for thirds; the smallest entropy found for tertiles.
        high: Upper edge for thirds, which only the last stratum includes; the largest entropy found for tertiles.
        rows: Which items `(n,)` belong to it.
        absent: Labels that are the plurality of no item of the stratum.
    """

    scheme: str
    name: str
    low: float | None
    high: float | None
    rows: np.ndarray = field(repr=False)
    absent: tuple[str, ...]

    @property
    def key(self) -> str:
        """Suffix of its measures, such as "thirds_low"."""
        return f"{self.scheme}_{self.name}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        named = {name: getattr(self, name) for name in ("scheme", "name", "low", "high")}
        return named | {"items": int(self.rows.sum()), "absent": list(self.absent)}


def entropy_strata(q: np.ndarray, support: Sequence[str]) -> list[Stratum]:
    """Items by the entropy of their votes over ln K: thirds of the range [0, 1], then tertiles of the items.

    Thirds are [0, 1/3), [1/3, 2/3) and [2/3, 1]. Tertiles are three groups of items, as equal as ties allow: items of equal
    entropy stay together, so a tertile may be empty.

    Args:
        q: Distributions of the votes `(n, K)`.
        support: The K labels.
    """
    entropy = measures.entropy(q, normalised=True)
    cuts = np.quantile(entropy, EDGES[1:-1], method="inverted_cdf")
    codes = {
        "thirds": np.searchsorted(np.array(EDGES[1:-1]) - _ENTROPY_SLACK, entropy, side="right"),
        "tertiles": np.searchsorted(cuts + _ENTROPY_SLACK, entropy, side="left"),
    }
    plurality, strata = q.argmax(axis=1), []
    for scheme, code in codes.items():
        for index, name in enumerate(NAMES):
            rows = code == index
            won = np.bincount(plurality[rows], minlength=len(support))
            low, high = EDGES[index], EDGES[index + 1]
            if scheme == "tertiles":
                low = float(entropy[rows].min()) if rows.any() else None
                high = float(entropy[rows].max()) if rows.any() else None
            absent = tuple(label for label, items in zip(support, won, strict=True) if not items)
            strata.append(Stratum(scheme, name, low, high, rows, absent))
    return strata


def measure_strata(
    systems: Mapping[str, np.ndarray],
    q: np.ndarray,
    strata: Sequence[Stratum],
    resamples: Resamples,
) -> dict[str, Measured]:
    """JSD, accuracy and macro-F1 in every stratum, named such as "macro_f1_thirds_low".

    Macro-F1 averages over all K labels, so a label that is absent from the stratum counts as 0; "macro_f1_present" averages
    over the labels that are the plurality of an item there. Resamples draw from all speakers, not from those of a stratum.

    Args:
        systems: Predictions of each system `(n, K)`.
        q: Distributions of the votes `(n, K)`.
        strata: What `entropy_strata` found.
        resamples: Resamples of the items.
    """
    true, classes = q.argmax(axis=1), q.shape[1]
    predicted = {system: p.argmax(axis=1) for system, p in systems.items()}
    member = {stratum.key: stratum.rows.astype(np.float64) for stratum in strata}
    cell = true
    for code in (*predicted.values(), *(stratum.rows for stratum in strata)):
        _, cell = np.unique(cell * classes + code, return_inverse=True)
    counts, losses = {}, dict(member)
    for system, p in systems.items():
        per_item, jsd = class_counts(predicted[system], true, classes), measures.jsd(p, q)
        counts |= {f"{system}/{key}": per_item * rows[:, None, None] for key, rows in member.items()}
        losses |= {f"{system}/{key}": jsd * rows for key, rows in member.items()}
    counts, losses = resamples.cells(counts, cell), resamples.sums(losses)
    out = {}
    for stratum in strata:
        where = f", {stratum.name} entropy ({stratum.scheme})"
        draws: dict[str, dict[str, np.ndarray]] = {name: {} for name in STRATUM_MEASURES}
        for system in systems:
            found = counts[f"{system}/{stratum.key}"]
            empty = found[:, 2].sum(axis=-1) == 0
            draws["jsd"][system] = ratio(losses[f"{system}/{stratum.key}"], losses[stratum.key])
            draws["accuracy"][system] = accuracy_of(found)
            draws["macro_f1"][system] = np.where(empty, np.nan, macro_f1_of(found))
            draws["macro_f1_present"][system] = macro_f1_present_of(found)
        for name, by_system in draws.items():
            title, unit, better = STRATUM_MEASURES[name]
            out[f"{name}_{stratum.key}"] = Measured(title + where, unit, better, by_system)
    return out
