"""Confidence intervals by resampling speakers (or items): sums of resamples are one matrix product (Field & Welsh 2007)."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import ndtri, stdtrit

from annot_hf.models.measures import ccc_of, moments, pearson_of

# Values of items by name, for instance predictions `(n, K)` by system.
Arrays = Mapping[str, np.ndarray]

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
# Draws at a time. Counting is several times faster while the counts stay in the cache.
_CACHED = 1 << 17
# Multiplicities per matrix product. Small products would wait for threads.
_HELD = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A value over all data and the ends of its 95 % percentile interval; None if undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Plain numbers for JSON."""
        return asdict(self)


def with_interval(draws: np.ndarray) -> Interval:
    """Value (entry 0) and percentile interval (the others) of `draws` `(1 + B,)`, as `Resamples` orders them."""
    value = float(draws[0]) if np.isfinite(draws[0]) else None
    if len(draws) < 2 or not np.isfinite(draws).all():
        return Interval(value)
    low, high = np.quantile(draws[1:], TAILS)
    return Interval(value, float(low), float(high))


@dataclass(frozen=True, eq=False)
class Measured:
    """One measure of several systems: `draws` `(1 + B,)` by system, the mean over its runs, and `runs` `(R,)`, each run's."""

    title: str
    unit: str
    better: str
    draws: Arrays
    runs: Arrays = field(default_factory=dict)

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
        """The measure as plain values, with `at` of every system and the `difference` of the `pairs` that both have it."""
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


Measures = dict[str, Measured]


@dataclass(frozen=True, eq=False)
class Resamples:
    """The B = `n` bootstrap resamples of a set of items, or of their `clusters` `(N,)`, such as speakers, with replacement.

    Every method returns the value of the data first `(1 + B, ...)`; with a single cluster it returns only that.
    """

    clusters: np.ndarray | None = None
    n: int = 1000
    seed: int | Sequence[int] = 0

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

    def sums(self, columns: Arrays) -> dict[str, np.ndarray]:
        """Sums of per-item values, each column `(N, ...)`, in the data and in every resample `(1 + B, ...)`."""
        arrays = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
        size = len(next(iter(arrays.values()), ()))
        _check_any(size)
        clusters = {} if self.clusters is None else {"clusters": self.clusters}
        for name, column in (arrays | clusters).items():
            if len(column) != size:
                raise ValueError(
                    f"Column {name!r} has {len(column)} rows and the first has {size}; give one value per item."
                )
        stacked = np.concatenate([array.reshape(size, -1) for array in arrays.values()], axis=1)
        if self.clusters is not None:
            stacked = sparse.csr_array((np.ones(size), (self._codes(), np.arange(size)))) @ stacked
        total = stacked.sum(axis=0, keepdims=True)
        sums = np.concatenate([total, *(multiplicity @ stacked for multiplicity in self._multiplicities(len(stacked)))])
        return _taken_apart(sums, arrays)

    def means(self, columns: Arrays) -> dict[str, np.ndarray]:
        """Means over items of columns `(N, ...)`, in the data and in every resample `(1 + B, ...)`."""
        size = len(next(iter(columns.values())))
        # No column is called None.
        sums = self.sums({**columns, None: np.ones(size)})
        count = sums.pop(None)
        return {name: (total.T / count).T for name, total in sums.items()}

    def by_unit(self, columns: Arrays, units: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Sums of columns `(N, ...)` within each of the U `units` `(N,)`, such as raters, which are resampled too.

        Yields, for the data and then for blocks of b resamples, how often each unit is drawn `(b, U)` and the sums over the
        drawn clusters `(b, U, ...)`, each unit counted once. Units are drawn independently of clusters (Owen 2007).
        """
        names, code = np.unique(units, return_inverse=True)
        size, count = len(code), len(names)
        _check_any(size)
        arrays = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
        cluster = np.arange(size) if self.clusters is None else self._codes()
        stacked = np.concatenate([array.reshape(size, -1) for array in arrays.values()], axis=1)
        width = stacked.shape[1]
        cells = (code[:, None] * width + np.arange(width)).ravel()
        held = sparse.csr_array(
            (stacked.ravel(), (np.repeat(cluster, width), cells)), (cluster.max() + 1, count * width)
        )
        turned = held.T.tocsr()

        def block(drawn: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            return drawn, _taken_apart((turned @ weights.T).T.reshape(len(weights), count, width), arrays)

        yield block(np.ones((1, count)), np.ones((1, held.shape[0])))
        others = replace(self, clusters=None, seed=[self.seed, 1])
        rows = zip(
            *(
                itertools.chain.from_iterable(one)
                for one in (others._multiplicities(count), self._multiplicities(held.shape[0]))
            ),
            strict=False,
        )
        while some := list(itertools.islice(rows, max(1, _HELD // (count * width + held.shape[0])))):
            yield block(*map(np.stack, zip(*some, strict=True)))

    def cells(self, columns: Arrays, cells: np.ndarray) -> dict[str, np.ndarray]:
        """`sums` of columns that are constant within each of the `cells` `(N,)`, such as a cell of a confusion table."""
        size = len(cells)
        _check_any(size)
        _, first, code = np.unique(np.asarray(cells), return_index=True, return_inverse=True)
        if self.clusters is None:
            # Items of a cell are interchangeable, so one multinomial over cells has the same distribution.
            counts = np.bincount(code)
            drawn = np.zeros((0, len(first)), dtype=np.int64)
            if size > 1:
                drawn = np.random.default_rng(self.seed).multinomial(size, counts / size, size=self.n)
            held = np.concatenate([counts[None], drawn]).astype(np.float64)
        else:
            table = np.zeros((self._codes().max() + 1, len(first)))
            np.add.at(table, (self._codes(), code), 1)
            held = self.of_units().sums({"cells": table})["cells"]
        values = {name: np.asarray(column, dtype=np.float64)[first] for name, column in columns.items()}
        return {name: np.tensordot(held, value, axes=1) for name, value in values.items()}

    def fit(self, predicted: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
        """Fit of predicted to true numbers `(N,)`: `ccc`, `pearson`, `rmse`, each `(1 + B,)`."""
        means = self.means({"pairs": moments(predicted, true), "square": (predicted - true) ** 2})
        return {"ccc": ccc_of(means["pairs"]), "pearson": pearson_of(means["pairs"]), "rmse": np.sqrt(means["square"])}

    def spearman(self, columns: Arrays, reference: np.ndarray) -> dict[str, np.ndarray]:
        """Spearman's correlation of each column `(N,)` with the reference `(N,)`, `(1 + B,)`; 0 if either is constant."""
        # Each resample has its own ranks, so sums do not do. A mid-rank is the weight of the smaller values plus half that of
        # equal ones, so one sort is enough for all resamples.
        code = np.arange(len(reference)) if self.clusters is None else self._codes()
        orders = {name: np.argsort(column, kind="stable") for name, column in columns.items()}
        true_order = np.argsort(reference, kind="stable")
        blocks: dict[str, list[np.ndarray]] = {name: [] for name in columns}
        for weights in self._item_weights(code):
            theirs = np.empty_like(weights)
            theirs[:, true_order] = _ranks(weights[:, true_order], np.asarray(reference)[true_order])
            for name, order in orders.items():
                weight, y = weights[:, order], theirs[:, order]
                x = _ranks(weight, np.asarray(columns[name])[order])
                xx, xy = (np.einsum("bn,bn->b", weight * x, other) for other in (x, y))
                yy = np.einsum("bn,bn,bn->b", weight, y, y)
                # Ranks are centred, so their mean is 0.
                nothing = np.zeros(len(weight))
                blocks[name].append(pearson_of(np.stack([nothing + 1, nothing, nothing, xx, yy, xy], axis=1)))
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


def _taken_apart(sums: np.ndarray, arrays: Arrays) -> dict[str, np.ndarray]:
    """Sums `(..., d)` over arrays `(N, ...)` that stood side by side, by the name of each."""
    widths = [math.prod(array.shape[1:]) for array in arrays.values()]
    parts = np.split(sums, np.cumsum(widths)[:-1], axis=-1)
    return {
        name: part.reshape(*sums.shape[:-1], *array.shape[1:])
        for (name, array), part in zip(arrays.items(), parts, strict=True)
    }


def crossed_draws(
    resamples: Resamples,
    items: np.ndarray,
    changes: np.ndarray,
    item: np.ndarray,
    rater: np.ndarray,
    statistics: Callable[[np.ndarray], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Statistics of sums over items, in the data and when items and raters are drawn anew: each `(1 + B,)`.

    Items (or clusters) are drawn with all their votes, which covers everything that differs between items and between votes.
    Raters are drawn by themselves. What a rater is worth to the sums is what they lose without the rater's votes, as in a
    jackknife that deletes raters. (Derivatives by the weight of a vote would miss a part: of few votes on an item, one that
    counts twice is compared with a mean that it is in.) The variance between raters contains that between votes, which the
    items have covered; it is taken off, as in two-way cluster-robust variances (Cameron, Gelbach & Miller 2011), by scaling
    the raters' deviations. Drawing both freely (Owen 2007) would count single votes three times.

    Args:
        resamples: Behind the draws; raters have draws of their own.
        items: Summands `(N, d)` of every item.
        changes: What the sums lose without each vote `(V, d)`.
        item: Item of every vote `(V,)`.
        rater: Rater of every vote `(V,)`; -1 is unknown, and adds nothing to the variance between raters.
        statistics: Sums `(B, d)` -> values `(B,)` by name.
    """
    drawn = resamples.sums({"sums": items})["sums"]
    found = statistics(drawn)
    named = rater >= 0
    if not named.all():
        item, rater, changes = item[named], rater[named], changes[named]
    raters, who = np.unique(rater, return_inverse=True)
    if len(raters) < 2 or len(drawn) < 2:
        return found
    # An item with a vote less differs in any case, for instance in its entropy.
    changes = changes - changes.mean(axis=0)
    own = sum_by(who, changes)
    sums = replace(resamples, clusters=None, seed=[resamples.seed, 1]).sums({"raters": own})["raters"]
    moved = statistics(drawn[:1] + sums - sums[:1])
    slopes = _slopes(statistics, drawn[0], np.sqrt((items**2).sum(axis=0)))
    cluster = item if resamples.clusters is None else resamples._codes()[item]
    cell = np.unique(cluster.astype(np.int64) * len(raters) + who, return_inverse=True)[1]
    for name, slope in slopes.items():
        between = float(((own @ slope) ** 2).sum())
        within = float((np.bincount(cell, changes @ slope) ** 2).sum())
        # Without one of R raters, the others weigh more: by the jackknife, (R - 1) / R of the squares.
        kept = (between - within) * (len(raters) - 1) / len(raters)
        if kept > 0:
            # Few raters tell little of the variance between raters: Student's distribution is wider than the normal one.
            wider = stdtrit(len(raters) - 1, TAILS[1]) / ndtri(TAILS[1])
            found[name] = found[name] + wider * np.sqrt(kept / between) * (moved[name] - moved[name][0])
    return found


def sum_by(code: np.ndarray, columns: np.ndarray, size: int = 0) -> np.ndarray:
    """Sums of the rows of `columns` `(V, d)` by `code` `(V,)`: `(size, d)`, or as many as there are codes."""
    return np.stack([np.bincount(code, column, minlength=size) for column in columns.T], axis=1)


def _slopes(
    statistics: Callable[[np.ndarray], dict[str, np.ndarray]], at: np.ndarray, scale: np.ndarray
) -> dict[str, np.ndarray]:
    """Gradients `(d,)` of the statistics at the sums `(d,)`, by central differences of a thousandth of `scale` `(d,)`."""
    step = 1e-3 * np.where(scale > 0, scale, 1.0)
    ends = [statistics(at + sign * np.diag(step)) for sign in (1, -1)]
    return {name: np.where(scale > 0, (ends[0][name] - ends[1][name]) / (2 * step), 0.0) for name in ends[0]}


def _check_any(size: int) -> None:
    if not size:
        raise ValueError("There are no items to resample; give at least one.")


def _ranks(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mid-ranks `(rows, N)`, as shares less 1/2, of ascending `values` `(N,)` under each row of `weights` `(rows, N)`."""
    first = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    if len(first) < len(values):
        weights = np.add.reduceat(weights, first, axis=1)
    ranks = np.cumsum(weights, axis=1) - weights / 2 - 0.5
    return ranks if len(first) == len(values) else np.repeat(ranks, np.diff(np.r_[first, len(values)]), axis=1)
