"""How far raters agree: Krippendorff's alpha in closed form, pairwise agreement, Fleiss' kappa.

Alpha = 1 - observed / expected disagreement. Written out over coincidences it takes every pair of values; over sums it
takes one pass: within an item, sum_ij [v_i != v_j] = n^2 - sum_c n_c^2 and
sum_ij (v_i - v_j)^2 = 2 (n sum_i v_i^2 - (sum_i v_i)^2).
The ordinal metric is the interval metric on mid-ranks, because the ranks between two values are what it counts.
Source: Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability".
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from annot_hf.data.votes import VoteTable

Level = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on one question.

    Attributes:
        question: Its name.
        level: Metric of alpha: nominal for categories, interval or ordinal for scales.
        alpha: Krippendorff's alpha: 1 perfect, 0 chance; None when undefined (no pairs, or every vote is the same).
        pairwise: Chance that two raters of one item give the same answer, mean over items, in [0, 1].
        fleiss_kappa: The same corrected for chance; None when undefined.
        items: Items with at least one vote on this question.
        pairable_items: Items with at least two, which alone say anything about agreement.
        votes: Votes on this question (people, not weights).
        annotators: Named raters among them.
    """

    question: str
    level: str
    alpha: float | None
    pairwise: float | None
    fleiss_kappa: float | None
    items: int
    pairable_items: int
    votes: int
    annotators: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def agreement(votes: VoteTable, question: str, *, level: Level | None = None) -> Agreement:
    """Agreement of all raters on one question; each vote counts once, whatever its weight.

    Args:
        votes: The votes.
        question: Name of a question that takes one answer per rater.
        level: Metric of alpha; nominal for a category question and interval for a scale when None.

    Raises:
        ValueError: The question is multi-select, or the level does not fit it.
    """
    asked = votes.question(question)
    if asked.multiple:
        raise ValueError(f"Question {question!r} is multi-select; agreement needs questions with one answer per rater.")
    level = level or ("interval" if asked.is_scale else "nominal")
    if not asked.is_scale and level != "nominal":
        raise ValueError(f"Question {question!r} has unordered labels; level {level!r} needs a scale: use 'nominal'.")
    rows = votes.rows_of(question)
    items, raters = votes.item_codes[rows], votes.annotator_codes[rows]
    if asked.is_scale:
        values, answers = np.unique(votes.ratings[rows], return_inverse=True)
    else:
        values, answers = np.arange(len(asked.labels)), votes.label_codes[rows]
    cells = _cell_counts(items, answers, len(values))
    used, units = np.unique(cells[0], return_inverse=True)
    table = (units, cells[1], cells[2])
    sizes = np.bincount(units, cells[2]) if len(used) else np.zeros(0)
    pairwise, kappa = _pairwise_and_kappa(table, sizes, len(values))
    return Agreement(
        question=question,
        level=level,
        alpha=_or_none(_alpha(table, sizes, values.astype(np.float64), level)),
        pairwise=_or_none(pairwise),
        fleiss_kappa=_or_none(kappa),
        items=len(used),
        pairable_items=int((sizes >= 2).sum()),
        votes=len(items),
        annotators=len(np.unique(raters[raters >= 0])),
    )


def krippendorff_alpha(counts: np.ndarray, *, level: Level = "nominal", values: np.ndarray | None = None) -> float:
    """Krippendorff's alpha of a table of value counts.

    Args:
        counts: How many raters gave each value `(items, values)`, whole numbers; items with fewer than two votes are
            left out, as the definition asks.
        level: "nominal", "ordinal" (columns in ascending order) or "interval".
        values: The numbers that the columns stand for `(values,)`, for interval; 0, 1, 2 ... when None.

    Returns:
        Alpha in (-inf, 1]; NaN where it is undefined: no item with two votes, or one value only.

    Raises:
        ValueError: The table is not one of counts, or the level is unknown.

    Example:
        >>> krippendorff_alpha([[2, 0], [0, 2], [1, 1]])
        0.4444444444444444
    """
    counts = _checked(counts)
    values = np.arange(counts.shape[1], dtype=np.float64) if values is None else np.asarray(values, dtype=np.float64)
    if values.shape != (counts.shape[1],):
        raise ValueError(
            f"There are {counts.shape[1]} columns and values of shape {values.shape}; give one per column."
        )
    units, columns = np.nonzero(counts)
    return _alpha((units, columns, counts[units, columns]), counts.sum(axis=1), values, level)


def pairwise_agreement(counts: np.ndarray) -> float:
    """Chance that two raters of one item give the same answer, mean over items with two votes; NaN without any."""
    return _of_table(counts)[0]


def fleiss_kappa(counts: np.ndarray) -> float:
    """Fleiss' kappa of value counts `(items, values)`; items may have any number (two or more) of votes.

    (P - P_e) / (1 - P_e), with P the pairwise agreement and P_e the sum of squared value shares (Fleiss 1971).

    Returns:
        Kappa in (-inf, 1]; NaN where undefined: no item with two votes, or one value only.
    """
    return _of_table(counts)[1]


def _of_table(counts: np.ndarray) -> tuple[float, float]:
    counts = _checked(counts)
    units, columns = np.nonzero(counts)
    return _pairwise_and_kappa((units, columns, counts[units, columns]), counts.sum(axis=1), counts.shape[1])


def _alpha(table: tuple[np.ndarray, ...], sizes: np.ndarray, values: np.ndarray, level: str) -> float:
    """Alpha of the non-zero cells `(unit, value index, count)`; `sizes` holds the votes of every unit."""
    if level not in get_args(Level):
        raise ValueError(f"There is no level {level!r}; use one of {', '.join(get_args(Level))}.")
    units, columns, counts = _pairable(table, sizes)
    margin = np.bincount(columns, counts, minlength=len(values))
    total = margin.sum()
    if level == "nominal":
        squares = np.bincount(units, counts**2, minlength=len(sizes))
        within, between = sizes**2 - squares, total**2 - (margin**2).sum()
    else:
        if level == "ordinal":
            values = np.cumsum(margin) - margin / 2
        values = values - (margin @ values / total if total else 0.0)  # near zero, so that squares keep their digits
        first = np.bincount(units, counts * values[columns], minlength=len(sizes))
        second = np.bincount(units, counts * values[columns] ** 2, minlength=len(sizes))
        within, between = 2 * (sizes * second - first**2), 2 * (total * (margin @ values**2) - (margin @ values) ** 2)
    if (margin > 0).sum() < 2:
        return float("nan")
    observed = (within[sizes >= 2] / (sizes[sizes >= 2] - 1)).sum()
    return float(1 - (total - 1) * observed / between)


def _pairwise_and_kappa(table: tuple[np.ndarray, ...], sizes: np.ndarray, n_values: int) -> tuple[float, float]:
    units, columns, counts = _pairable(table, sizes)
    if not len(units):
        return float("nan"), float("nan")
    pairable = sizes >= 2
    squares = np.bincount(units, counts**2, minlength=len(sizes))[pairable]
    sizes = sizes[pairable]
    same = float(((squares - sizes) / (sizes * (sizes - 1))).mean())
    shares = np.bincount(columns, counts, minlength=n_values) / counts.sum()
    chance = float((shares**2).sum())
    return same, (same - chance) / (1 - chance) if (shares > 0).sum() > 1 else float("nan")


def _pairable(table: tuple[np.ndarray, ...], sizes: np.ndarray) -> list[np.ndarray]:
    keep = sizes[table[0]] >= 2
    return [column[keep] for column in table]


def _cell_counts(items: np.ndarray, answers: np.ndarray, n_values: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Non-zero cells of the item-by-value table, which itself would be enormous for a fine scale."""
    key = items.astype(np.int64) * n_values + answers
    size = int(key.max(initial=-1)) + 1
    if size <= 4 * len(key) + 1_000_000:  # small enough to count in place instead of sorting
        dense = np.bincount(key, minlength=size)
        cells = np.flatnonzero(dense)
        counts = dense[cells]
    else:
        cells, counts = np.unique(key, return_counts=True)
    return cells // max(n_values, 1), cells % max(n_values, 1), counts.astype(np.float64)


def _checked(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 2 or not counts.size:
        raise ValueError(f"Counts have shape {counts.shape}; give a non-empty table (items, values).")
    bad = ~(np.isfinite(counts) & (counts >= 0) & (counts == np.round(counts)))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"Count {counts[row, column]:g} in row {row} is not a whole number of raters; give counts >= 0."
        )
    return counts


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
