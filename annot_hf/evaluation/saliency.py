"""Which layer of a trunk correlates most with opinion, by our choice of formula: arXiv 2503.22711 does not print its own."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from annot_hf.data.encoding import check_choice

FORMULAS = ("absolute", "penalised")
# The penalty of "penalised" is our choice.
GAMMA = 0.1
# Below this ratio of deviation to mean, single-precision values count as constant.
_FLAT = 1e-7


class CrossMoments:
    """Running means, squares and cross products of units and targets, merged batch by batch (Chan, Golub & LeVeque 1983).

    Memory: `layers * units * (targets + 2)` doubles, and `layers * units ** 2` more with the products `among_units`.
    """

    def __init__(self, *, among_units: bool = False) -> None:
        self.among_units, self.among, self.count = among_units, None, 0
        self.unit_mean = self.target_mean = self.unit_square = self.target_square = self.cross = 0.0

    def update(self, units: np.ndarray, targets: np.ndarray) -> None:
        """Add items: `units` `(n, layers, units)` and `targets` `(n, targets)`."""
        units, targets = np.asarray(units, np.float64), np.asarray(targets, np.float64)
        if not (np.isfinite(units).all() and np.isfinite(targets).all()):
            raise ValueError("Units or targets hold NaN or infinity; leave such items out.")
        n, layers, width = units.shape
        if not n:
            return
        if self.among_units and self.among is None:
            self.among = np.zeros((layers, width, width))
        unit_mean, target_mean = units.mean(0), targets.mean(0)
        unit_step, target_step = unit_mean - self.unit_mean, target_mean - self.target_mean
        weight = n * self.count / (n + self.count)
        units, targets = units - unit_mean, targets - target_mean
        self.unit_square += (units**2).sum(0) + weight * unit_step**2
        self.target_square += (targets**2).sum(0) + weight * target_step**2
        products = units.reshape(n, -1).T @ targets
        self.cross += products.reshape(layers, width, -1) + weight * unit_step[..., None] * target_step
        if self.among is not None:
            # One layer at a time, because a batch of all would double the memory.
            for layer, step in enumerate(unit_step):
                self.among[layer] += units[:, layer].T @ units[:, layer] + weight * np.outer(step, step)
        share = n / (n + self.count)
        self.unit_mean += share * unit_step
        self.target_mean += share * target_step
        self.count += n

    def correlations(self) -> np.ndarray:
        """Pearson correlations `(layers, units, targets)`: 0 for a constant unit, NaN for a constant target."""
        targets = np.where(_flat(self.target_square, self.target_mean, self.count), np.nan, self.target_square)
        return self.cross * self._inverse()[..., None] / np.sqrt(targets)

    def redundancy(self) -> np.ndarray:
        """Mean absolute correlation of each unit with the others of its layer `(layers, units)`."""
        if self.among is None:
            raise ValueError("The products of units were not kept; use CrossMoments(among_units=True).")
        inverse, width = self._inverse(), self.unit_mean.shape[1]
        total = np.stack([np.abs(one) @ scale for one, scale in zip(self.among, inverse, strict=True)]) * inverse
        # The unit itself does not count.
        return (total - (inverse > 0)) / max(width - 1, 1)

    def _inverse(self) -> np.ndarray:
        flat = _flat(self.unit_square, self.unit_mean, self.count)
        return np.where(flat, 0.0, 1 / np.sqrt(np.where(flat, 1.0, self.unit_square)))


@dataclass(frozen=True, eq=False)
class Saliency:
    """Scores of layers `(layers, targets)`, NaN for a constant target; see `layer_scores`."""

    scores: np.ndarray
    targets: tuple[str, ...]
    formula: str
    gamma: float | None
    items: int
    about: dict[str, Any]

    @property
    def means(self) -> np.ndarray:
        """Mean over the targets that are not constant `(layers,)`."""
        return self.scores[:, np.isfinite(self.scores[0])].mean(1)

    @property
    def layer(self) -> int:
        """The layer with the largest mean, the first one of ties."""
        return int(np.argmax(self.means))


def layer_scores(moments: CrossMoments, formula: str = "absolute", gamma: float | None = None) -> np.ndarray:
    """Saliency of each layer for each target, from at least two items: the mean over its units `(layers, targets)`.

    "absolute" is |r| of a unit with a target; "penalised" is r squared minus gamma times its mean |r| with the layer's units.
    """
    gamma = check_formula(formula, gamma)
    if moments.count < 2:
        raise ValueError(f"There are {moments.count} items; a correlation needs at least 2.")
    correlations = moments.correlations()
    if np.isnan(correlations).all():
        raise ValueError(
            f"Every target is constant over the {moments.count} items; choose another question or more items."
        )
    if formula == "absolute":
        return np.abs(correlations).mean(1)
    return (correlations**2).mean(1) - gamma * moments.redundancy().mean(1)[:, None]


def check_formula(formula: str, gamma: float | None) -> float | None:
    """The gamma of a formula; raises if the formula is unknown or takes no gamma."""
    check_choice("formula", formula, FORMULAS)
    if formula == "absolute" and gamma is not None:
        raise ValueError(f"gamma is {gamma}, but formula absolute has no penalty; use penalised, or leave gamma out.")
    return GAMMA if formula == "penalised" and gamma is None else gamma


def _flat(square: np.ndarray, mean: np.ndarray, count: int) -> np.ndarray:
    """Where values are constant up to rounding."""
    return square <= count * (_FLAT * mean) ** 2
