"""How far raters agree: Krippendorff's alpha in closed form, pairwise agreement, kappas, and more, each with an interval.

Every measure is a function of sums over items, so a resample of items is one matrix product. What a rater matters to them is
known from the sums without each single vote (see `crossed_draws`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import xlogy

from annot_hf.data.encoding import check_choice
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.resampling import Arrays, Interval, Measured, Resamples, crossed_draws, with_interval
from annot_hf.models.measures import ccc_of, ratio

Level = Literal["nominal", "ordinal", "interval", "ratio"]
# Title, unit, better direction, in the order of tables.
AGREEMENTS: dict[str, tuple[str, str, str]] = {
    "alpha": ("Krippendorff's alpha", "-1 to 1", "higher"),
    "pairwise": ("Pairwise agreement", "0 to 1", "higher"),
    "fleiss_kappa": ("Fleiss' kappa", "-1 to 1", "higher"),
    "cohen_kappa": ("Cohen's kappa", "-1 to 1", "higher"),
    "entropy": ("Entropy of an item's votes", "nats", "lower"),
    "information": ("Information of a vote on another", "nats", "higher"),
    "deviation": ("Standard deviation within items", "points", "lower"),
    "rest_ccc": ("CCC of a rater and the rest", "-1 to 1", "higher"),
}
# With fewer effective raters, intervals cover the truth too rarely where raters have tastes of their own.
FEW_RATERS = 30
_UNDEFINED = Interval(None)
Statistics = Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on one question; each measure has a value and a 95 % interval, None where undefined.

    Attributes:
        question: Its name.
        level: Metric of alpha: nominal for categories, interval, ordinal or ratio for scales; "per label" for a multi-select
            question, which has Cohen's kappa only.
        alpha: Krippendorff's alpha, 1 less observed over expected disagreement (Krippendorff 2011): 1 perfect, 0 chance;
            undefined without pairs, or if every vote is the same.
        pairwise: Probability that two raters of an item give the same answer, mean over items, in [0, 1].
        fleiss_kappa: `pairwise` corrected for chance.
        cohen_kappa: Unweighted Cohen's kappa: mean over pairs of named raters, weighted by the items that a pair shares.
            (p_o - p_e) / (1 - p_e) over the items that both answered, with p_e from each rater's own shares of answers (Cohen
            1960). The mean over pairs is our choice, because papers with one number (arXiv 2211.13196, Table 1) do not define
            it. Only a rater's first answer to an item counts, and only equal answers agree, also on a scale. Each label of a
            multi-select question is a yes/no question that every rater of the question answered; the mean is then over the
            labels whose kappa is defined. If pairs share few items, those that always agree are undefined more often and the
            mean is too low; then use Fleiss' kappa or alpha.
        entropy: Entropy (nats) of the votes of an item, mean over items; of a category question. Few votes make it too low.
        information: Mutual information (nats) between two votes of an item; of a category question.
        deviation: Standard deviation within items, in points of the scale.
        rest_ccc: CCC between a vote and the mean of the item's other votes; of a scale.
        rater_pairs: Pairs of named raters who share an item.
        undefined_pairs: Pairs without a kappa, which the mean leaves out: they share only one item, or gave the same answer to
            all shared items.
        items: Items with at least one vote on this question.
        pairable_items: Items with at least two votes; for a multi-select question, items with at least two named raters.
        votes: Votes on this question, unweighted; for a multi-select question, labels.
        annotators: Named raters among them.
        effective_raters: As many raters with as many votes each would have cast as unequal ones, (sum n)^2 / sum n^2 over the
            votes n of named raters (Kish 1965); None without names. Below `FEW_RATERS`, intervals may be too narrow.
        draws: Every defined measure in the data and in the resamples `(1 + B,)`, for differences between questions.
        voted: Rows of the table's items with votes on the question, in order.
    """

    question: str
    level: str
    alpha: Interval
    pairwise: Interval
    fleiss_kappa: Interval
    cohen_kappa: Interval
    entropy: Interval
    information: Interval
    deviation: Interval
    rest_ccc: Interval
    rater_pairs: int
    undefined_pairs: int
    items: int
    pairable_items: int
    votes: int
    annotators: int
    effective_raters: float | None
    draws: Arrays = field(repr=False, compare=False)
    voted: np.ndarray = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {name: value for name, value in vars(self).items() if name not in ("draws", "voted")}
        return plain | {name: getattr(self, name).to_dict() for name in AGREEMENTS}


def agreement(
    votes: VoteTable, question: str, *, level: Level | None = None, resamples: Resamples | None = None
) -> Agreement:
    """Agreement of all raters on one question; each vote counts once, whatever its weight.

    Args:
        votes: The votes.
        question: Name of a question; a multi-select question has Cohen's kappa only.
        level: Metric of alpha; nominal for a category question and interval for a scale when None.
        resamples: Of `votes.items`, or of clusters of them, behind the intervals; 1,000 of items when None. Items with votes
            on the question and named raters are drawn; questions on the same items have the same draws.

    Raises:
        ValueError: The level does not fit the question, or its values.
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
    items, raters = votes.item_codes[rows].astype(np.int64), votes.annotator_codes[rows].astype(np.int64)
    voted = np.unique(items)
    pairs = _RaterPairs.of(votes, question)
    named = pd.DataFrame({"item": items, "rater": raters})[raters >= 0].drop_duplicates()
    sums = _Sums(items, len(votes.items))
    if asked.multiple:
        pairable = int((named["item"].value_counts() >= 2).sum())
    else:
        pairable = int((np.bincount(items) >= 2).sum()) if len(items) else 0
        _add_measures(sums, votes, asked, rows, level)
    pairs.add_to(sums)
    draws = sums.draws(raters, voted, resamples or Resamples()) if len(items) else {}
    values = {name: with_interval(draws[name]) if name in draws else _UNDEFINED for name in AGREEMENTS}
    cast = np.bincount(raters[raters >= 0]).astype(np.float64)
    return Agreement(
        question=question,
        level="per label" if asked.multiple else level,
        **values,
        rater_pairs=pairs.count,
        undefined_pairs=pairs.undefined,
        items=len(voted),
        pairable_items=pairable,
        votes=len(items),
        annotators=named["rater"].nunique(),
        effective_raters=float(cast.sum() ** 2 / (cast**2).sum()) if len(cast) else None,
        draws={name: draws[name] for name, value in values.items() if value.value is not None},
        voted=voted,
    )


def agreement_difference(one: Agreement, other: Agreement, name: str) -> dict[str, float | None] | None:
    """Value and interval of a measure's `one` - `other`, two questions of one table, on the same resamples.

    None where one is undefined, or if they were asked about different items.
    """
    if name not in one.draws or name not in other.draws or not np.array_equal(one.voted, other.voted):
        return None
    return Measured(*AGREEMENTS[name], {"one": one.draws[name], "other": other.draws[name]}).difference("one", "other")


class _Sums:
    """Columns whose sums over items are all that measures need: of each item, and by how much each vote changes them."""

    def __init__(self, item: np.ndarray, n_items: int) -> None:
        self.item, self.n_items = item, n_items
        self.columns: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
        self.measures: dict[str, Statistics] = {}

    def add(self, name: Any, items: np.ndarray, without: np.ndarray) -> None:
        """A column: the value of each item `(N,)`, and that of the item of each vote if the vote were not there `(V,)`."""
        self.columns[name] = items, items[self.item] - without

    def draws(self, rater: np.ndarray, voted: np.ndarray, resamples: Resamples) -> dict[str, np.ndarray]:
        """Every measure in the data and in the resamples of the items `voted` on `(1 + B,)`."""
        if not self.columns:
            return {}
        items, changes = (np.stack(columns, axis=1) for columns in zip(*self.columns.values(), strict=True))

        def statistics(sums: np.ndarray) -> dict[str, np.ndarray]:
            named = dict(zip(self.columns, sums.T, strict=True))
            return {name: measure(named) for name, measure in self.measures.items()}

        place = np.searchsorted(voted, self.item)
        return crossed_draws(resamples.select(voted), items[voted], changes, place, rater, statistics)


def _add_measures(sums: _Sums, votes: VoteTable, asked: Question, rows: np.ndarray | slice, level: str) -> None:
    """Everything but Cohen's kappa, of a question with one answer per vote."""
    if not len(sums.item):
        return
    table, cell = vote_cells(votes, asked.name)
    n, row, values = table.sizes, table.row, table.values
    pairable, left = (n >= 2).astype(np.float64), (n[row] >= 3).astype(np.float64)
    kinds = {"alpha": level} if level == "nominal" else {"alpha": level, "same": "nominal"}
    pairs, chances = {}, {}
    for kind, metric in kinds.items():
        gaps, expected = table.distances(metric)
        pairs[kind], chances[kind] = table.pair_sums(gaps), table.chance(expected)
        sums.add((kind, "observed"), pairs[kind][0], pairs[kind][1][cell])
        by_chance = np.bincount(row, table.times * expected[table.code], minlength=table.n_rows) * pairable
        sums.add((kind, "expected"), by_chance, (left * (by_chance[row] - expected[table.code]))[cell])
    same = list(kinds)[-1]
    sums.add("used", n * pairable, (left * (n[row] - 1))[cell])

    def apart(s: dict[str, np.ndarray], kind: str) -> np.ndarray:
        # Quadratic in how often values occur, so twice the sums of shares less the whole.
        return 2 * ratio(s[kind, "expected"], s["used"]) - chances[kind]

    def alpha(s: dict[str, np.ndarray]) -> np.ndarray:
        observed = ratio(s["alpha", "observed"], s["used"]) * ratio(s["used"] - 1, s["used"])
        return 1 - ratio(observed, apart(s, "alpha"))

    sums.measures["alpha"] = alpha
    differ, without = ratio(pairs[same][0], n, empty=0.0), ratio(pairs[same][1], n[row] - 1, empty=0.0)
    sums.add("agree", pairable * (1 - differ), (left * (1 - without))[cell])
    sums.add("pairable", pairable, left[cell])
    sums.measures["pairwise"] = lambda s: ratio(s["agree"], s["pairable"])

    def fleiss(s: dict[str, np.ndarray]) -> np.ndarray:
        by_chance = 1 - apart(s, same)
        return ratio(ratio(s["agree"], s["pairable"]) - by_chance, 1 - by_chance)

    sums.measures["fleiss_kappa"] = fleiss
    if asked.is_scale:
        sums.measures["deviation"] = lambda s: np.sqrt(ratio(s["variance"], 2 * s["used"]))
        items, without = table.pair_sums(table.gaps(values - values.mean(), "interval"))
        sums.add("variance", items, without[cell])
        _add_rest(sums, votes.ratings[rows])
        return
    logs = np.bincount(row, xlogy(table.times, table.times), minlength=table.n_rows)
    fewer = logs[row] - xlogy(table.times, table.times) + xlogy(table.times - 1, table.times - 1)
    # Of one vote the entropy is 0, of none it is not asked for.
    entropy = np.log(np.maximum(n, 1)) - ratio(logs, n, empty=0.0)
    without = np.log(np.maximum(n[row] - 1, 1)) - ratio(fewer, n[row] - 1, empty=0.0)
    sums.add("entropy", entropy * pairable, (without * left)[cell])
    sums.measures["entropy"] = lambda s: ratio(s["entropy"], s["pairable"])
    items, without = table.pair_sums(table.with_others(table.pointwise_information()))
    sums.add("information", items, without[cell])
    sums.measures["information"] = lambda s: ratio(s["information"], s["used"])


def vote_cells(votes: VoteTable, question: str) -> tuple["Cells", np.ndarray]:
    """Equal votes of an item together, of a question with one answer per vote, and the cell of every vote on it `(V,)`."""
    asked, rows = votes.question(question), votes.rows_of(question)
    if asked.is_scale:
        values, code = np.unique(votes.ratings[rows], return_inverse=True)
    else:
        values, code = np.arange(len(asked.labels), dtype=np.float64), votes.label_codes[rows]
    cells, cell = np.unique(votes.item_codes[rows].astype(np.int64) * len(values) + code, return_inverse=True)
    row, of = np.divmod(cells, len(values))
    return Cells(row, of, np.bincount(cell).astype(np.float64), len(votes.items), values), cell


def _add_rest(sums: _Sums, value: np.ndarray) -> None:
    """CCC between each vote x and the mean y of the item's others: the sums of `moments`, from n and the sums of x and x^2."""
    centre = value.mean()
    value = value - centre
    scale = np.sqrt((value**2).mean())
    # As in `moments`, a large common offset costs no precision, and rounding errors of constants are none.
    value = value / scale if scale > 1e-12 * abs(centre) else np.zeros_like(value)
    own = [value**power for power in range(3)]
    whole = [np.bincount(sums.item, column, minlength=sums.n_items) for column in own]
    items, without = (
        _moments_of_rest(*totals)
        for totals in (whole, [total[sums.item] - column for total, column in zip(whole, own, strict=True)])
    )
    for index in range(6):
        sums.add(("rest", index), items[index], without[index])
    sums.measures["rest_ccc"] = lambda s: ccc_of(np.stack([s["rest", index] for index in range(6)], axis=-1))


def _moments_of_rest(n: np.ndarray, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """Sums of 1, x, y, x^2, y^2, xy over n votes x whose others have the mean y; 0 for fewer than two."""
    others = np.maximum(n - 1, 1)
    y_squared = ((n - 2) * first**2 + second) / others**2
    columns = (n, first, first, second, y_squared, (first**2 - second) / others)
    return [np.where(n >= 2, column, 0.0) for column in columns]


class Cells:
    """Value counts without zeros: `times` `(C,)` votes for one of `values` `(K,)`, the `code`, in item `row` of `n_rows`."""

    def __init__(self, row: np.ndarray, code: np.ndarray, times: np.ndarray, n_rows: int, values: np.ndarray) -> None:
        self.row, self.code, self.times, self.n_rows, self.values = row, code, times, n_rows, values
        self.n_codes = len(values)
        self.sizes = np.bincount(row, times, minlength=n_rows)
        self.pairable = self.sizes[row] >= 2

    def gaps(self, values: np.ndarray, level: str) -> np.ndarray:
        """Sum of the distances of a cell's value to all votes of its item `(C,)`."""
        if level == "nominal":
            return self.sizes[self.row] - self.times
        if level == "ratio":
            table = self.sparse()
            gaps = np.empty(len(self.row))
            for code in np.unique(self.code):
                at = self.code == code
                distance = ratio(values - values[code], values + values[code], empty=0.0) ** 2
                gaps[at] = (table @ distance)[self.row[at]]
            return gaps
        # sum_j (x - v_j)^2, of values that are centred, so that squares keep their precision.
        x = values[self.code]
        first, second = (np.bincount(self.row, self.times * x**power, minlength=self.n_rows) for power in (1, 2))
        return self.sizes[self.row] * x**2 - 2 * x * first[self.row] + second[self.row]

    def sparse(self) -> sparse.csr_array:
        """The table of counts."""
        return sparse.csr_array((self.times, (self.row, self.code)), shape=(self.n_rows, self.n_codes))

    def margin(self) -> np.ndarray:
        """Votes for each value in items with two votes or more `(K,)`."""
        return np.bincount(self.code, self.times * self.pairable, minlength=self.n_codes)

    def distances(self, level: str) -> tuple[np.ndarray, np.ndarray]:
        """Sum of the distances of each cell's value to the votes of its item `(C,)`, and mean of those to all votes `(K,)`.

        The ordinal metric counts the ranks between two values, so it is the interval metric on mid-ranks, which are those of
        all votes and stay as they are in resamples.
        """
        check_choice("level", level, get_args(Level))
        margin, values = self.margin(), self.values
        if level == "ratio" and len(values) and values.min() < 0:
            raise ValueError(
                f"Value {values.min():g} has no place on a ratio scale, which starts at 0; use 'interval'."
            )
        total = margin.sum()
        if level == "ordinal":
            order = np.argsort(values)
            ranks = np.empty(len(values))
            ranks[order] = np.cumsum(margin[order]) - margin[order] / 2
            values = ranks
        if level in ("ordinal", "interval") and total:
            values = values - margin @ values / total
        everywhere = Cells(np.zeros(self.n_codes, dtype=np.int64), np.arange(self.n_codes), margin, 1, values)
        # Without a second value there is no disagreement by chance, but rounding errors.
        several = (margin > 0).sum() > 1
        return self.gaps(values, level), everywhere.gaps(values, level) / total if several else np.zeros(self.n_codes)

    def with_others(self, scores: np.ndarray) -> np.ndarray:
        """Sum of symmetric `scores` `(K, K)` of a vote of each cell with the others of its item `(C,)`."""
        return (self.sparse() @ scores)[self.row, self.code] - scores[self.code, self.code]

    def pair_sums(self, with_others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """sum_v q_v / (n - 1) of every item `(N,)`, and of that of a cell with one vote of it less `(C,)`.

        q `(C,)` is a symmetric sum of a vote of the cell over the others of its item; items of fewer than two votes have 0.
        """
        n = self.sizes
        total = np.bincount(self.row, self.times * with_others, minlength=self.n_rows)
        less = np.where(n[self.row] >= 3, total[self.row] - 2 * with_others, 0.0)
        return ratio(total * (n >= 2), n - 1, empty=0.0), ratio(less, n[self.row] - 2, empty=0.0)

    def chance(self, expected: np.ndarray) -> float:
        """Mean distance of any two votes, from that of each value to all `(K,)`."""
        margin = self.margin()
        return float(margin @ expected / max(margin.sum(), 1))

    def pairs(self) -> np.ndarray:
        """How often two values are of two votes of an item `(K, K)`: each vote counts once, beside the mean of the others."""
        table = self.sparse()
        others = sparse.dia_array((ratio(self.sizes >= 2, self.sizes - 1, empty=0.0), 0), shape=(self.n_rows,) * 2)
        weighed = others @ table
        return (table.T @ weighed).toarray() - np.diag(weighed.sum(axis=0))

    def pointwise_information(self) -> np.ndarray:
        """Ln of how many times likelier two values are in one item than by chance `(K, K)`; 0 where they never meet."""
        together = self.pairs()
        share = together / max(together.sum(), 1)
        chance = np.outer(share.sum(axis=1), share.sum(axis=1))
        return np.where(share > 1e-15, np.log(ratio(np.maximum(share, 1e-15), chance, empty=1.0)), 0.0)


@dataclass(frozen=True, eq=False)
class _RaterPairs:
    """Cohen's kappa of all pairs of raters as sums over the items that they share.

    `item` `(P,)` has a row per pair and item, and `vote` `(2, P)` the votes of both, as positions among those on the question.
    `parts` has for every label, or for the question, what each row contributes to the sum of kappas weighted by shared items
    `(P,)`, and to these weights `(P,)`; labels without any kappa are left out.
    """

    item: np.ndarray
    vote: np.ndarray
    parts: list[tuple[np.ndarray, np.ndarray]]
    count: int
    undefined: int

    @classmethod
    def of(cls, votes: VoteTable, question: str) -> "_RaterPairs":
        """All pairs of named raters of an item."""
        asked = votes.question(question)
        codes = (votes.item_codes, votes.annotator_codes, votes.label_codes, votes.ratings)
        item, rater, label, rating = (column[votes.rows_of(question)] for column in codes)
        named, raters = np.flatnonzero(rater >= 0), max(len(votes.annotators), 1)
        key = item[named].astype(np.int64) * raters + rater[named]
        replies, first, given = np.unique(key, return_index=True, return_inverse=True)
        if asked.multiple:
            label = label[named]
            answers = np.zeros((len(asked.labels), len(replies)), dtype=np.int8)
            answers[label[label >= 0], given[label >= 0]] = 1
        elif asked.is_scale:
            answers = np.unique(rating[named[first]], return_inverse=True)[1][None]
        else:
            answers = label[named[first]][None]
        of_item, who = np.divmod(replies, raters)
        left, right = pairs_within(of_item)
        pair, names = pd.factorize(who[left] * raters + who[right])
        shared, parts = np.bincount(pair, minlength=len(names)), []
        defined = np.zeros(len(names), dtype=bool)
        for answer in answers if len(names) else ():
            kappas, shares = _kappas(pair, shared, answer[left], answer[right])
            known = ~np.isnan(kappas)
            defined |= known
            if known.any():
                parts.append((np.where(known[pair], shares, 0.0), known[pair].astype(np.float64)))
        vote = named[first][np.stack([left, right])]
        return cls(of_item[left], vote, parts, len(names), int((~defined).sum()))

    def add_to(self, sums: _Sums) -> None:
        """Cohen's kappa as a measure of these sums: a row counts once for its item, and is lost without either vote."""
        for index, part in enumerate(self.parts):
            for name, rows in zip(("kappas", "shared"), part, strict=True):
                items = np.bincount(self.item, rows, minlength=sums.n_items)
                lost = sum(np.bincount(vote, rows, minlength=len(sums.item)) for vote in self.vote)
                sums.add((name, index), items, items[sums.item] - lost)
        if self.parts:
            sums.measures["cohen_kappa"] = lambda s: np.mean(
                [ratio(s["kappas", index], s["shared", index]) for index in range(len(self.parts))], axis=0
            )


def pairs_within(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of entries of one group, which are in order `(n,)`: positions of the first and the second `(P,)`."""
    # Each with those after it.
    after = np.searchsorted(group, group, side="right") - np.arange(len(group)) - 1
    left = np.repeat(np.arange(len(group)), after)
    return left, left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(after) - after, after)


def _kappas(pair: np.ndarray, shared: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cohen's kappa of every pair of raters `(Q,)`; NaN if a pair shares one item, or always gave one and the same answer.

    `pair` `(P,)` has one entry per item that a pair shares, `left` and `right` are the two answers to it, and `shared` `(Q,)`
    is the number of items of each pair. Also returns the share of each entry in kappa times the items shared `(P,)`, which
    is its derivative by the weight of the item.
    """
    width = int(max(left.max(), right.max())) + 1
    shape, ones = (len(shared), width), np.ones(len(pair))
    tables = [sparse.csr_array((ones, (pair, codes)), shape=shape) for codes in (left, right)]
    # Whole numbers below, so 1 is exact.
    chance = np.asarray((tables[0] * tables[1]).sum(axis=1)) / shared**2
    same = (left == right).astype(np.float64)
    observed = np.bincount(pair, same, minlength=len(shared)) / shared
    defined = (chance < 1) & (shared > 1)
    kappas = np.divide(observed - chance, 1 - chance, out=np.full(len(shared), np.nan), where=defined)
    # How often each rater gave the other's answer.
    other = (
        sum(np.asarray(table[pair, codes]).ravel() for table, codes in ((tables[0], right), (tables[1], left)))
        / shared[pair]
    )
    slope = (same - observed[pair]) - (1 - kappas[pair]) * (other - 2 * chance[pair])
    shares = kappas[pair] + np.divide(slope, 1 - chance[pair], out=np.zeros(len(pair)), where=defined[pair])
    return kappas, shares
