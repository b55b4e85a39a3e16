"""As `next_votes`, for scales: what one more rating changes, and which items to ask about next.

Opinions, the means of endless ratings of an item, are normal around the mean of all items; ratings are normal around the
opinion, with a variance of the item's own, which the fit to all items shrinks. So the error of the best forecast of an opinion
is known, and with it that of the next rating; a rating is worth by how much it lowers both squares.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.ceiling import mean_ceiling
from annot_hf.evaluation.next_votes import check_values
from annot_hf.evaluation.resampling import Resamples
from annot_hf.models.measures import ratio


@dataclass(frozen=True)
class Opinions:
    """What ratings tell about the opinion of each item: its expectation and variance, and the variance of ratings `(N,)`.

    `mean` and `between` are those of the opinions of all items.
    """

    mean: float
    between: float
    expected: np.ndarray
    variance: np.ndarray
    within: np.ndarray

    @property
    def value(self) -> np.ndarray:
        """By how much one more rating lowers the variance of each opinion, and the squared error of the next rating `(N,)`."""
        return ratio(self.variance**2, self.variance + self.within, empty=0.0)

    def updated(self, rating: np.ndarray) -> np.ndarray:
        """The expectations after one more rating of each item `(N,)`."""
        return self.expected + ratio(self.variance, self.variance + self.within, empty=0.0) * (rating - self.expected)


def fit_opinions(item: np.ndarray, rating: np.ndarray, items: int) -> Opinions:
    """Fit ratings `(V,)` of items `(V,)`, numbered from 0 to `items` - 1, some of which have two or more.

    The variances between and within items are those of a one-way random-effects model (Searle, Casella & McCulloch 1992); an
    item's own variance is shrunk to that within all items, by as much as variances prove to differ (see `_prior_freedom`).
    """
    n, total = (np.bincount(item, weights, minlength=items) for weights in (None, rating))
    own = ratio(total, n, empty=0.0)
    squares = np.bincount(item, (rating - own[item]) ** 2, minlength=items)
    rated = n > 0
    free = np.where(rated, n - 1.0, 0.0)
    pooled = squares.sum() / free.sum()
    grand, groups = rating.mean(), rated.sum()
    effective = (len(rating) - (n**2).sum() / len(rating)) / max(groups - 1, 1)
    between = max(((n * (own - grand) ** 2).sum() / max(groups - 1, 1) - pooled) / effective, 0.0)
    prior = _prior_freedom(item, rating, n)
    within = np.full(items, pooled) if np.isinf(prior) else (prior * pooled + squares) / (prior + free)
    weight = ratio(1.0, between + within / np.maximum(n, 1), empty=1.0) * rated
    mean = float((weight * own).sum() / weight.sum())
    variance = np.where(rated, ratio(between * within, within + n * between, empty=0.0), between)
    expected = mean + ratio(n * between, within + n * between, empty=1.0) * (own - mean) * rated
    return Opinions(mean, between, expected, variance, within)


def _prior_freedom(item: np.ndarray, rating: np.ndarray, n: np.ndarray) -> float:
    """How many degrees of freedom the pooled variance is worth beside an item's own squares; infinite if items do not differ.

    The best linear estimate (Buehlmann & Straub 1970). Half the squared difference of two ratings has the item's variance as
    its mean, so two such numbers without a common rating covary by the variance of the variances: no distribution is assumed.
    """
    kept = n[item] >= 4
    if not kept.any():
        return np.inf
    item, rating = np.unique(item[kept], return_inverse=True)[1], rating[kept]
    rating = rating - (np.bincount(item, rating) / np.bincount(item))[item]
    n, _, second, _, fourth = (np.bincount(item, rating**power) for power in range(5))
    # Sums over pairs: of one item (the mean is 0), of those of each rating, and of the squares.
    pairs, each = n * second / 2, (n[item] * rating**2 + second[item]) / 2
    squared = (n * fourth + 3 * second**2) / 4
    apart = pairs**2 - np.bincount(item, each**2) + squared
    count = n * (n - 1) / 2
    mean = (pairs / count).mean()
    differ = (apart / (count * (n - 2) * (n - 3) / 2)).mean() - mean**2
    return float(((squared / count).mean() - mean**2 - differ) / differ) if differ > 0 else np.inf


def rank_rated(votes: VoteTable, question: str) -> pd.DataFrame:
    """Items of a scale question by the value of one more rating.

    Columns: item, votes, value (squared points), error (points: the standard error of the item's opinion as it is known now).
    """
    rows = votes.rows_of(question)
    item, rating = votes.item_codes[rows], votes.ratings[rows]
    known = fit_opinions(item, rating, len(votes.items))
    table = pd.DataFrame({"item": votes.items, "votes": np.bincount(item, minlength=len(votes.items))})
    table = table.assign(value=known.value, error=np.sqrt(known.variance))
    return table.sort_values("value", ascending=False, kind="stable", ignore_index=True)


def one_more_rating(votes: VoteTable, question: str) -> dict[str, dict[str, float | None]]:
    """Each measure `now`, and its expectation `after` one more rating of every item with one or more.

    "mean_error": root mean square difference (points) of an item's mean rating from its opinion. "forecast_error": that of the
    best forecast of the next rating from it. "best_ccc": the ceiling of the CCC with mean ratings, of items with two or more.
    Alpha and the deviation within items do not change on average, only their intervals.
    """
    rows = votes.rows_of(question)
    item, rating = votes.item_codes[rows], votes.ratings[rows]
    known = fit_opinions(item, rating, len(votes.items))
    n = np.bincount(item, minlength=len(votes.items))
    rated, several = n > 0, n >= 2
    n, within = np.maximum(n, 1), known.within
    told = {"mean_error": [float(np.sqrt((within / k)[rated].mean())) for k in (n, n + 1)]}
    left = known.variance - known.value
    told["forecast_error"] = [float(np.sqrt((one + within)[rated].mean())) for one in (known.variance, left)]
    ceiling = float(mean_ceiling(votes, question, Resamples(n=0))[0])
    means = (np.bincount(item, rating, minlength=len(votes.items)) / n)[several]
    spread = means.var()
    # The ceiling is 2 c / (c + v) of the variance v of the means, which falls; the covariance c of two halves stays.
    shared = ceiling * spread / (2 - ceiling)
    fallen = spread - (within / n - within / (n + 1))[several].mean()
    told["best_ccc"] = [ceiling, float(ratio(2 * shared, shared + max(fallen, shared), empty=0.0))]
    return {name: {"now": now, "after": after} for name, (now, after) in told.items()}


def check_rated(
    votes: VoteTable, question: str, resamples: Resamples | None = None, *, seed: int = 0
) -> dict[str, Any] | None:
    """As `check_ranking`, in squared points: two ratings of each item with three or more are hidden, and one is told."""
    rows = votes.rows_of(question)
    item, rating = votes.item_codes[rows], votes.ratings[rows]
    several = np.bincount(item, minlength=len(votes.items)) >= 3
    kept = several[item]
    item, rating = (np.cumsum(several) - 1)[item[kept]], rating[kept]
    size = int(several.sum())

    def hide(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        order = np.lexsort((rng.random(len(item)), item))
        last = np.searchsorted(item[order], np.arange(size), side="right") - 1
        hidden = np.concatenate([order[last], order[last - 1]])
        left = np.setdiff1d(order, hidden)
        known = fit_opinions(item[left], rating[left], size)
        second, first = rating[hidden].reshape(2, -1)
        return known.value, (second - known.expected) ** 2 - (second - known.updated(first)) ** 2

    return check_values(hide, size, resamples, seed)
