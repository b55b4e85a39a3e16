"""How far raters agree: Krippendorff's alpha in closed form, pairwise agreement, Fleiss' and Cohen's kappa."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from annot_hf.data.encoding import as_frame
from annot_hf.data.votes import VoteTable

Level = Literal["nominal", "ordinal", "interval"]
# Value counts (items, values); sparse, since a fine scale has many values.
CountTable = np.ndarray | sparse.csr_array


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on one question.

    Attributes:
        question: Its name.
        level: Metric of alpha: nominal for categories, interval or ordinal for scales; "per label" for a multi-select
            question, which has Cohen's kappa only.
        alpha: Krippendorff's alpha: 1 perfect, 0 chance; None when undefined (no pairs, or every vote is the same).
        pairwise: Probability that two raters of an item give the same answer, mean over items, in [0, 1].
        fleiss_kappa: `pairwise` corrected for chance; None when undefined.
        cohen_kappa: Cohen's kappa, mean over pairs of named raters (see `cohen_kappa`); None when undefined.
        rater_pairs: Pairs of named raters who share an item.
        undefined_pairs: Pairs without a kappa, which the mean leaves out.
        items: Items with at least one vote on this question.
        pairable_items: Items with at least two votes; for a multi-select question, items with at least two named raters.
        votes: Votes on this question, unweighted; for a multi-select question, labels.
        annotators: Named raters among them.
    """

    question: str
    level: str
    alpha: float | None
    pairwise: float | None
    fleiss_kappa: float | None
    cohen_kappa: float | None
    rater_pairs: int
    undefined_pairs: int
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
        question: Name of a question; a multi-select question has Cohen's kappa only.
        level: Metric of alpha; nominal for a category question and interval for a scale when None.

    Raises:
        ValueError: The level does not fit the question.
    """
    asked = votes.question(question)
    if asked.shares:
        raise ValueError(
            f"Question {question!r} is known as shares of an unknown number of votes, which have no agreement; name another."
        )
    if asked.multiple and level is not None:
        raise ValueError(
            f"Question {question!r} is multi-select and has no alpha of level {level!r}; leave the level out."
        )
    level = level or ("interval" if asked.is_scale else "nominal")
    if not asked.is_scale and level != "nominal":
        raise ValueError(f"Question {question!r} has unordered labels; level {level!r} needs a scale: use 'nominal'.")
    rows = votes.rows_of(question)
    items, raters = votes.item_codes[rows], votes.annotator_codes[rows]
    cohen = cohen_kappa(votes, question)
    common = {"question": question, "cohen_kappa": _or_none(cohen.kappa)}
    common |= {"rater_pairs": cohen.pairs, "undefined_pairs": cohen.undefined_pairs}
    common |= {"items": len(np.unique(items)), "votes": len(items), "annotators": len(np.unique(raters[raters >= 0]))}
    if asked.multiple:
        named = pd.DataFrame({"item": items, "rater": raters})[raters >= 0].drop_duplicates()
        pairable = int((named["item"].value_counts() >= 2).sum())
        none = dict.fromkeys(("alpha", "pairwise", "fleiss_kappa"))
        return Agreement(level="per label", pairable_items=pairable, **none, **common)
    if asked.is_scale:
        values, answers = np.unique(votes.ratings[rows], return_inverse=True)
    else:
        values, answers = np.arange(len(asked.labels)), votes.label_codes[rows]
    # Repeats add up to counts.
    shape = (len(votes.items), len(values))
    table = sparse.csr_array((np.ones(len(items)), (items, answers)), shape=shape)
    sizes = np.asarray(table @ np.ones(len(values)))
    pairwise, kappa = _pairwise_and_kappa(table, sizes)
    return Agreement(
        level=level,
        alpha=_or_none(_alpha(table, sizes, values.astype(np.float64), level)),
        pairwise=_or_none(pairwise),
        fleiss_kappa=_or_none(kappa),
        pairable_items=int((sizes >= 2).sum()),
        **common,
    )


@dataclass(frozen=True)
class CohenKappa:
    """Mean kappa over the pairs of raters that share an item, in [-1, 1]; NaN when no pair has one.

    It leaves out `undefined_pairs`, which share only one item, or gave the same answer to all shared items.
    """

    kappa: float
    pairs: int
    undefined_pairs: int


def cohen_kappa(votes: VoteTable, question: str) -> CohenKappa:
    """Unweighted Cohen's kappa: mean over pairs of named raters, weighted by the items that a pair shares.

    (p_o - p_e) / (1 - p_e) over the items that both raters answered, with p_e from each rater's own shares of answers (Cohen
    1960). The mean over pairs is our choice, because papers with one number (arXiv 2211.13196, Table 1) do not define it.

    Only a rater's first answer to an item counts, and only equal answers agree, also on a scale. Each label of a multi-select
    question is a yes/no question that every rater of the question answered; the result is the mean over the labels whose
    kappa is defined. A pair that shares one item has no kappa: it would be 0 or undefined. If pairs share few items, those
    that always agree are undefined more often and the mean is too low; then use Fleiss' kappa or alpha.
    """
    asked, rows = votes.question(question), np.arange(len(votes))[votes.rows_of(question)]
    rows = rows[votes.annotator_codes[rows] >= 0]
    raters = max(len(votes.annotators), 1)
    key = votes.item_codes[rows].astype(np.int64) * raters + votes.annotator_codes[rows]
    replies, first, given = np.unique(key, return_index=True, return_inverse=True)
    if asked.multiple:
        label = votes.label_codes[rows]
        answers = np.zeros((len(asked.labels), len(replies)), dtype=np.int8)
        answers[label[label >= 0], given[label >= 0]] = 1
    elif asked.is_scale:
        answers = np.unique(votes.ratings[rows[first]], return_inverse=True)[1][None]
    else:
        answers = votes.label_codes[rows[first]][None]
    item, rater = np.divmod(replies, raters)
    # All pairs of raters of an item, by the position of their replies.
    reply = pd.DataFrame({"item": item, "at": np.arange(len(item))})
    left, right = reply.merge(reply, on="item").query("at_x < at_y")[["at_x", "at_y"]].to_numpy().T
    names, pair = np.unique(rater[left] * raters + rater[right], return_inverse=True)
    shared = np.bincount(pair, minlength=len(names))
    means, defined = [], np.zeros(len(names), dtype=bool)
    for answer in answers if len(names) else ():
        kappas = _kappas(pair, shared, answer[left], answer[right])
        known = ~np.isnan(kappas)
        defined |= known
        if known.any():
            means.append(np.average(kappas[known], weights=shared[known]))
    return CohenKappa(float(np.mean(means)) if means else float("nan"), len(names), int((~defined).sum()))


def krippendorff_alpha(counts: np.ndarray, *, level: Level = "nominal", values: np.ndarray | None = None) -> float:
    """Krippendorff's alpha of value counts `(items, values)`, in (-inf, 1]; NaN where it is undefined.

    Alpha is undefined without an item with two votes, or with one value only. By definition, items with fewer votes are left
    out. `level` is "nominal", "ordinal" or "interval"; for the last two, `values` `(values,)` are the number of each column,
    by default the column names of a data frame, and 0, 1, 2 ... for an array.
    """
    named = as_frame(counts)
    if values is None and level != "nominal" and isinstance(named, pd.DataFrame):
        values = pd.to_numeric(pd.Series(named.columns), errors="coerce").to_numpy(np.float64)
        if np.isnan(values).any():
            raise ValueError(
                f"Column {named.columns[np.argmax(np.isnan(values))]!r} of the counts is not a number, as level {level!r} "
                "requires; name each column by its value, or give values."
            )
    counts, sizes = _checked_counts(counts)
    values = np.arange(counts.shape[1], dtype=np.float64) if values is None else np.asarray(values, dtype=np.float64)
    if values.shape != (counts.shape[1],):
        raise ValueError(
            f"There are {counts.shape[1]} columns and values of shape {values.shape}; give one per column."
        )
    if level == "ordinal":
        order = np.argsort(values)
        counts, values = counts[:, order], values[order]
    return _alpha(counts, sizes, values, level)


def pairwise_agreement(counts: np.ndarray) -> float:
    """Probability that two raters of an item give the same answer, mean over items with two votes; NaN without any."""
    return _pairwise_and_kappa(*_checked_counts(counts))[0]


def fleiss_kappa(counts: np.ndarray) -> float:
    """Fleiss' kappa of value counts `(items, values)`; items may have any number (two or more) of votes.

    (P - P_e) / (1 - P_e), with P the pairwise agreement and P_e the sum of squared value shares (Fleiss 1971). In (-inf, 1];
    NaN where undefined: no item with two votes, or one value only.
    """
    return _pairwise_and_kappa(*_checked_counts(counts))[1]


def _kappas(pair: np.ndarray, shared: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cohen's kappa of every pair of raters `(Q,)`; NaN if a pair shares one item, or always gave one and the same answer.

    `pair` `(P,)` has one entry per item that a pair shares, `left` and `right` are the two answers to it, and `shared` `(Q,)`
    is the number of items of each pair.
    """
    shape = (len(shared), int(max(left.max(), right.max())) + 1)
    ones = np.ones(len(pair))
    tables = [sparse.csr_array((ones, (pair, codes)), shape=shape) for codes in (left, right)]
    # Whole numbers below, so 1 is exact.
    chance = np.asarray((tables[0] * tables[1]).sum(axis=1)) / shared**2
    observed = np.bincount(pair, left == right, minlength=len(shared)) / shared
    return np.divide(observed - chance, 1 - chance, out=np.full(len(shared), np.nan), where=(chance < 1) & (shared > 1))


def _alpha(table: CountTable, sizes: np.ndarray, values: np.ndarray, level: str) -> float:
    """Alpha of value counts `(items, values)`; `sizes` holds the votes of every item (Krippendorff 2011).

    1 - observed / expected disagreement. Sums replace the loop over pairs of values: within an item,
    sum_ij [v_i != v_j] = n^2 - sum_c n_c^2 and sum_ij (v_i - v_j)^2 = 2 (n sum_i v_i^2 - (sum_i v_i)^2).
    The ordinal metric counts the ranks between two values, so it is the interval metric on mid-ranks.
    """
    if level not in get_args(Level):
        raise ValueError(f"There is no level {level!r}; use one of {', '.join(get_args(Level))}.")
    pairable = sizes >= 2
    margin = pairable.astype(np.float64) @ table
    total = margin.sum()
    if (margin > 0).sum() < 2:
        return float("nan")
    if level == "nominal":
        within = sizes**2 - (table * table) @ np.ones(len(values))
        between = total**2 - margin @ margin
    else:
        if level == "ordinal":
            values = np.cumsum(margin) - margin / 2
        # Centred, so that squares keep their precision.
        values = values - margin @ values / total
        within = 2 * (sizes * (table @ values**2) - (table @ values) ** 2)
        between = 2 * total * (margin @ values**2)
    observed = (within[pairable] / (sizes[pairable] - 1)).sum()
    return float(1 - (total - 1) * observed / between)


def _pairwise_and_kappa(table: CountTable, sizes: np.ndarray) -> tuple[float, float]:
    pairable = sizes >= 2
    if not pairable.any():
        return float("nan"), float("nan")
    same = ((table * table) @ np.ones(table.shape[1]) - sizes)[pairable] / (sizes * (sizes - 1))[pairable]
    shares = pairable.astype(np.float64) @ table
    shares = shares / shares.sum()
    observed, chance = float(same.mean()), float(shares @ shares)
    return observed, (observed - chance) / (1 - chance) if (shares > 0).sum() > 1 else float("nan")


def _checked_counts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value counts `(items, values)`, and the votes of every item."""
    counts = np.asarray(as_frame(counts), dtype=np.float64)
    if counts.ndim != 2 or not counts.size:
        raise ValueError(f"Counts have shape {counts.shape}; give a non-empty table (items, values).")
    bad = np.argwhere(~(np.isfinite(counts) & (counts >= 0) & (counts == np.round(counts))))
    if len(bad):
        count, row = counts[tuple(bad[0])], bad[0][0]
        raise ValueError(f"Count {count:g} in row {row} is not a whole number of raters; give counts >= 0.")
    return counts, counts.sum(axis=1)


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
