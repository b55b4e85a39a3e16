"""Confidence intervals by resampling whole speakers (or items), as one matrix product.

Nearly every measure is a function of sums over items: losses, moments, counts per class. So a resample needs no pass over the
items: draw speakers with replacement, and the new sums are `multiplicities @ per-speaker sums`. All measures and systems share
the draws, so differences are paired. Items of one speaker are not independent, hence the cluster bootstrap (Field & Welsh
2007) with percentile intervals. If items are resampled and only the cell of a confusion table matters, one multinomial draws
the counts of the cells instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import sparse

from annot_hf.models.measures import f1_of, ratio

LEVEL = 0.95
# Draws at a time. Counting is several times faster while the counts stay in the cache.
_CACHED = 1 << 17
# Multiplicities per matrix product. Small products would wait for threads.
_HELD = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A number and its percentile interval; None if undefined.

    Attributes:
        value: The measure over all data.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Plain numbers for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, eq=False)
class Measured:
    """One measure of several systems on the same resamples, so that differences are paired.

    Attributes:
        title: Its name in a table.
        unit: Its unit or range.
        better: "lower", "higher", or "" if neither is better.
        draws: System -> values `(1 + B,)` in the order of `Resamples`, the mean over several runs.
        runs: System -> the value of each run `(R,)`, for systems with several runs.
    """

    title: str
    unit: str
    better: str
    draws: Mapping[str, np.ndarray]
    runs: Mapping[str, np.ndarray] = field(default_factory=dict)

    def at(self, system: str) -> dict[str, Any]:
        """Value and interval of a system; with several runs, also their values and standard deviation."""
        told: dict[str, Any] = with_interval(self.draws[system]).to_dict()
        if system in self.runs:
            values = self.runs[system]
            told["runs"] = [float(value) if np.isfinite(value) else None for value in values]
            told["deviation"] = float(values.std(ddof=1)) if np.isfinite(values).all() else None
        return told

    def difference(self, one: str, other: str) -> dict[str, float | None]:
        """Value and interval of `one` - `other`."""
        return with_interval(self.draws[one] - self.draws[other]).to_dict()

    def record(self, pairs: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
        """The measure as plain values.

        Args:
            pairs: Pairs of systems to compare; pairs are left out if one system lacks the measure.

        Returns:
            `title`, `unit`, `better`; `systems`: system -> `at`; `differences`: "one - other" -> `difference`.
        """
        return {
            "title": self.title,
            "unit": self.unit,
            "better": self.better,
            "systems": {system: self.at(system) for system in self.draws},
            "differences": {
                f"{one} - {other}": self.difference(one, other)
                for one, other in pairs
                if one in self.draws and other in self.draws
            },
        }


@dataclass(frozen=True, eq=False)
class Resamples:
    """The bootstrap resamples of a set of items, the same for every measure and every system.

    A resample draws as many clusters as there are, with replacement. Every method returns the value of the data first, then
    those of the resamples, `(1 + B, ...)`; with a single cluster it returns only the value of the data.

    Attributes:
        clusters: Cluster of each item, for instance its speaker `(N,)`; None to resample the items.
        n: Number of resamples B.
        seed: Seed of the draws.
    """

    clusters: np.ndarray | None = None
    n: int = 1000
    seed: int = 0

    def select(self, rows: np.ndarray) -> "Resamples":
        """Resamples of some of the items, with new draws."""
        return replace(self, clusters=None if self.clusters is None else np.asarray(self.clusters)[rows])

    def of_units(self) -> "Resamples":
        """As many resamples, with the same seed, of units without clusters, such as speakers or raters."""
        return replace(self, clusters=None)

    @property
    def cluster_count(self) -> int:
        """Number of clusters; 0 if items are resampled."""
        return 0 if self.clusters is None else len(set(self.clusters))

    def sums(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Column sums of the data and of every resample.

        Args:
            columns: Per-item values, each `(N,)` or `(N, M)`.

        Returns:
            For each column, sums `(1 + B,)` or `(1 + B, M)`.

        Raises:
            ValueError: There are no items, or a column or `clusters` has another length.
        """
        arrays = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if self.clusters is not None:
            lengths["clusters"] = len(self.clusters)
        size = next(iter(lengths.values()), 0)
        if not size:
            raise ValueError("There are no items to resample; give at least one.")
        for name, length in lengths.items():
            if length != size:
                raise ValueError(
                    f"Column {name!r} has {length} rows and the first has {size}; give one value per item."
                )
        stacked = np.concatenate([array.reshape(size, -1) for array in arrays.values()], axis=1)
        if self.clusters is not None:
            stacked = sparse.csr_array((np.ones(size), (self._codes(), np.arange(size)))) @ stacked
        total = stacked.sum(axis=0, keepdims=True)
        sums = np.concatenate([total, *(multiplicity @ stacked for multiplicity in self._multiplicities(len(stacked)))])
        out, at = {}, 0
        for name, array in arrays.items():
            width = int(np.prod(array.shape[1:], dtype=int))
            out[name] = sums[:, at : at + width].reshape(len(sums), *array.shape[1:])
            at += width
        return out

    def cells(self, columns: Mapping[str, np.ndarray], cells: np.ndarray) -> dict[str, np.ndarray]:
        """`sums` of columns that are constant within a cell, such as a cell of a confusion table, with far fewer draws.

        Items of a cell are interchangeable, so resampling items is one multinomial over the cells (the same distribution, but
        other draws). Clusters have the same draws as in `sums`.

        Args:
            columns: Per-item values, each `(N,)` or `(N, M)`.
            cells: Cell of each item `(N,)`, any integers.
        """
        size = len(cells)
        if not size:
            raise ValueError("There are no items to resample; give at least one.")
        _, first, code = np.unique(np.asarray(cells), return_index=True, return_inverse=True)
        values = {name: np.asarray(column, dtype=np.float64)[first] for name, column in columns.items()}
        if self.clusters is None:
            counts = np.bincount(code)
            drawn = np.zeros((0, len(first)), dtype=np.int64)
            if size > 1:
                drawn = np.random.default_rng(self.seed).multinomial(size, counts / size, size=self.n)
            held = np.concatenate([counts[None], drawn]).astype(np.float64)
        else:
            cluster = self._codes()
            shape = (int(cluster.max()) + 1, len(first))
            table = np.bincount(cluster * shape[1] + code, minlength=shape[0] * shape[1]).reshape(shape)
            held = self.of_units().sums({"cells": table})["cells"]
        return {
            name: (held @ value.reshape(len(first), -1)).reshape(len(held), *value.shape[1:])
            for name, value in values.items()
        }

    def fit(self, predicted: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
        """Fit of predicted to true numbers `(N,)`: `ccc`, `pearson`, `rmse`, each `(1 + B,)`."""
        sums = self.sums(
            {"pairs": moments(predicted, true), "square": (predicted - true) ** 2, "count": np.ones(len(true))}
        )
        return {
            "ccc": ccc_of(sums["pairs"]),
            "pearson": pearson_of(sums["pairs"]),
            "rmse": np.sqrt(sums["square"] / sums["count"]),
        }

    def spearman(self, columns: Mapping[str, np.ndarray], reference: np.ndarray) -> dict[str, np.ndarray]:
        """Spearman's correlation of each column with the reference, in the data and in every resample.

        This measure is not a function of sums over items, because each resample has its own ranks. A mid-rank is the weight
        of the smaller values plus half that of equal ones, so one sort is enough for all resamples.

        Args:
            columns: Values `(N,)` of each system.
            reference: Values `(N,)`.

        Returns:
            For each column `(1 + B,)` in [-1, 1]; 0 if either side is constant.
        """
        code = np.arange(len(reference)) if self.clusters is None else self._codes()
        orders = {name: np.argsort(column, kind="stable") for name, column in columns.items()}
        blocks: dict[str, list[np.ndarray]] = {name: [] for name in columns}
        for weights in self._item_weights(code):
            theirs = np.empty_like(weights)
            order = np.argsort(reference, kind="stable")
            theirs[:, order] = _ranks(weights[:, order], np.asarray(reference)[order])
            for name, column in columns.items():
                order = orders[name]
                weight, y = weights[:, order], theirs[:, order]
                x = _ranks(weight, np.asarray(column)[order])
                weighted = weight * x
                xx, xy = (np.einsum("bn,bn->b", weighted, other) for other in (x, y))
                yy = np.einsum("bn,bn,bn->b", weight, y, y)
                # Ranks are centred, so their mean is 0.
                nothing = np.zeros(len(weight))
                sums = np.stack([np.ones(len(weight)), nothing, nothing, xx, yy, xy], axis=1)
                blocks[name].append(pearson_of(sums))
        return {name: np.concatenate(parts) for name, parts in blocks.items()}

    def _codes(self) -> np.ndarray:
        """Number of each item's cluster `(N,)`."""
        return np.unique(np.asarray(self.clusters).astype(str), return_inverse=True)[1]

    def _multiplicities(self, count: int) -> Iterator[np.ndarray]:
        """How often each resample draws each of `count` clusters, in blocks `(rows, count)`; nothing for a single cluster."""
        if not isinstance(self.n, int | np.integer) or self.n < 0:
            raise ValueError(f"n_resamples is {self.n!r}; give a whole number from 0 up, 0 for no intervals.")
        generator = np.random.default_rng(self.seed)
        step, block = max(1, _CACHED // count), max(1, _HELD // count)
        for start in range(0, self.n if count > 1 else 0, block):
            multiplicity = np.empty((min(block, self.n - start), count))
            for first in range(0, len(multiplicity), step):
                rows = min(step, len(multiplicity) - first)
                draws = generator.integers(count, size=(rows, count), dtype=np.int32)
                draws += np.arange(0, rows * count, count, dtype=np.int32)[:, None]
                counted = np.bincount(draws.ravel(), minlength=rows * count)
                multiplicity[first : first + rows] = counted.reshape(rows, count)
            yield multiplicity

    def _item_weights(self, code: np.ndarray) -> Iterator[np.ndarray]:
        """Multiplicity of each item as shares `(rows, N)`, first in the data, then in the resamples, in blocks."""
        yield np.full((1, len(code)), 1 / len(code))
        rows = max(1, _HELD // (4 * len(code)))
        for multiplicity in self._multiplicities(int(code.max()) + 1):
            for start in range(0, len(multiplicity), rows):
                weights = multiplicity[start : start + rows][:, code]
                yield weights / weights.sum(axis=1, keepdims=True)


def _ranks(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mid-ranks `(rows, N)`, as shares less 1/2, of ascending `values` `(N,)` under each row of `weights` `(rows, N)`."""
    first = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    if len(first) < len(values):
        weights = np.add.reduceat(weights, first, axis=1)
    ranks = np.cumsum(weights, axis=1) - weights / 2 - 0.5
    return ranks if len(first) == len(values) else np.repeat(ranks, np.diff(np.r_[first, len(values)]), axis=1)


def with_interval(draws: np.ndarray, level: float = LEVEL) -> Interval:
    """Value (entry 0) and percentile interval (the others) of `draws` `(1 + B,)`, as `Resamples` orders them."""
    value = float(draws[0]) if np.isfinite(draws[0]) else None
    if len(draws) < 2 or not np.isfinite(draws).all():
        return Interval(value)
    low, high = np.quantile(draws[1:], [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The summands of CCC and correlation, per item: 1, x, y, x^2, y^2, xy.

    Both are shifted and scaled together, which changes neither coefficient. So a large common offset costs no precision, and
    rounding errors of constants stay below a fixed threshold.

    Args:
        x: Values `(N,)`.
        y: Values `(N,)`.

    Returns:
        `(N, 6)`.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    centre = y.mean()
    x, y = x - centre, y - centre
    scale = np.sqrt((x**2).mean() + (y**2).mean())
    if scale > 1e-12 * abs(centre):
        x, y = x / scale, y / scale
    else:
        x, y = np.zeros_like(x), np.zeros_like(y)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def ccc_of(sums: np.ndarray) -> np.ndarray:
    """Concordance correlation, population form, of summed `moments` `(..., 6)`; 0 when either side is constant."""
    gap, var_x, var_y, covariance = _central(sums)
    return ratio(2 * covariance, var_x + var_y + gap**2, empty=0.0)


def pearson_of(sums: np.ndarray) -> np.ndarray:
    """Pearson correlation of summed `moments` `(..., 6)`; 0 when either side is constant."""
    _, var_x, var_y, covariance = _central(sums)
    return ratio(covariance, np.sqrt(var_x * var_y), empty=0.0)


def slope_of(sums: np.ndarray) -> np.ndarray:
    """Least-squares slope of x on y of summed `moments` `(..., 6)`; 0 when either side is constant."""
    _, _, var_y, covariance = _central(sums)
    return ratio(covariance, var_y, empty=0.0)


def _central(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Difference of means, both variances (rounding set to zero) and the covariance."""
    count, *rest = np.moveaxis(np.asarray(sums), -1, 0)
    x, y, xx, yy, xy = (total / np.maximum(count, 1) for total in rest)
    var_x, var_y = xx - x * x, yy - y * y
    var_x, var_y = np.where(var_x < 1e-13, 0.0, var_x), np.where(var_y < 1e-13, 0.0, var_y)
    return x - y, var_x, var_y, np.where((var_x > 0) & (var_y > 0), xy - x * y, 0.0)


def accuracy_of(counts: np.ndarray) -> np.ndarray:
    """Share of correctly classified items, from summed `class_counts` `(..., 3, K)`."""
    return ratio(counts[..., 0, :].sum(-1), counts[..., 2, :].sum(-1))


def macro_f1_present_of(counts: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur among the true ones, which may be fewer than the fixed list."""
    # Absent labels have an F1 of 0.
    return ratio(f1_of(counts).sum(-1), (counts[..., 2, :] > 0).sum(-1))


def uar_of(counts: np.ndarray) -> np.ndarray:
    """Unweighted average recall over the classes that occur among the true ones."""
    present = counts[..., 2, :] > 0
    recall = ratio(counts[..., 0, :], counts[..., 2, :], empty=0.0)
    return ratio(recall.sum(-1), present.sum(-1))
