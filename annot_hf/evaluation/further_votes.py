"""How many votes are enough, for people: what one more vote or rating changes, and which items to ask about next.

Opinions on labels have the Dirichlet prior that fits all votes best (`fit_prior`), so the next vote on an item has known odds.
Its value is what it tells about the vote after it (their mutual information, in nats): by so much the forecast of that vote
gets better.

Opinions on scales, the means of endless ratings of an item, are normal around the mean of all items; ratings are normal around
the opinion, with a variance of the item's own, which the fit to all items shrinks. So the error of the best forecast of an
opinion is known, and with it that of the next rating; a rating is worth by how much it lowers both squares.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import xlogy

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.ceiling import CEILING, draw_votes, fit_prior, mean_ceiling, noise_ceiling, to_shares
from annot_hf.evaluation.resampling import Resamples, with_interval
from annot_hf.models.measures import entropy, ratio

# Best possible scores whose change is told.
BEST = ("cross_entropy", "jsd", "tvd", "accuracy", "macro_f1")
# More draws change no digit that is printed.
_DRAWS = 5
# How often two votes of each item are hidden.
_HIDDEN = 10
# The part of the list of items that is held against all items.
_TOP = 0.1


def next_vote_values(counts: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value (nats) of one more vote on each item, and the probability that it changes the plurality, each `(N,)`.

    Args:
        counts: Whole votes `(N, K)`.
        prior: Pseudo-votes `(K,)`, see `fit_prior`.
    """
    known = np.asarray(counts, dtype=np.float64) + prior
    total = known.sum(axis=1)
    odds = known / total[:, None]
    logs = xlogy(known, known)
    # Entropy of the forecast after each possible vote `(N, K)`.
    after = (
        np.log(total + 1)[:, None]
        - (logs.sum(axis=1)[:, None] - logs + xlogy(known + 1, known + 1)) / (total + 1)[:, None]
    )
    before = np.log(total) - logs.sum(axis=1) / total
    # The first of the most frequent labels wins, so a label before it needs one vote less.
    most = counts.max(axis=1, keepdims=True)
    earlier = np.arange(counts.shape[1]) < counts.argmax(axis=1)[:, None]
    changes = (counts + 1 > most) | ((counts + 1 == most) & earlier)
    changes[np.arange(len(counts)), counts.argmax(axis=1)] = False
    return before - (odds * after).sum(axis=1), (odds * changes).sum(axis=1)


def rank_items(votes: VoteTable, question: str) -> pd.DataFrame:
    """Items of a category question by the value of one more vote: item, votes, value (nats), changes (probability)."""
    counts = votes.counts(question).astype(np.int64)
    value, changes = next_vote_values(counts, fit_prior(counts[counts.sum(axis=1) > 0]))
    table = pd.DataFrame({"item": votes.items, "votes": counts.sum(axis=1), "value": value, "changes": changes})
    return table.sort_values("value", ascending=False, kind="stable", ignore_index=True)


def one_more_vote(counts: np.ndarray, question: Question, seed: int = 0) -> dict[str, dict[str, float]]:
    """Each measure `now`, and its expectation `after` one more vote on every item.

    "entropy" (nats) of an item's votes, over the items with two or more, and, named "best_jsd" and so on, the ceilings of
    `BEST`, whose votes are drawn from the forecasts. Entropy rises and best scores improve because fewer votes are further
    from opinion. Alpha, pairwise agreement and Fleiss' kappa stay on average, only their intervals shrink: they are left out.
    """
    counts = counts[counts.sum(axis=1) > 0].astype(np.int64)
    prior, rng = fit_prior(counts), np.random.default_rng(seed)
    known = counts + prior
    odds = known / known.sum(axis=1, keepdims=True)
    several = counts.sum(axis=1) >= 2
    if not several.any():
        return {}
    # Each label may be the next.
    after = sum(odds[:, label] * entropy(to_shares(counts + one)) for label, one in enumerate(np.eye(counts.shape[1])))
    told = {
        "entropy": {"now": float(entropy(to_shares(counts))[several].mean()), "after": float(after[several].mean())}
    }
    best = _best(counts, question)
    drawn = [_best(counts + rng.multinomial(1, odds), question) for _ in range(_DRAWS)] if best else []
    return told | {
        name: {"now": now, "after": float(np.mean([one[name] for one in drawn]))} for name, now in best.items()
    }


def _best(counts: np.ndarray, question: Question) -> dict[str, float]:
    best = noise_ceiling(counts, counts.sum(axis=0) / counts.sum(), [question], Resamples(n=0), draws=_DRAWS, splits=())
    return {} if best is None else {f"best_{name}": float(best[0][name].draws[CEILING][0]) for name in BEST}


def check_ranking(counts: np.ndarray, resamples: Resamples | None = None, *, seed: int = 0) -> dict[str, Any] | None:
    """Are the values true? Two votes of each item with three or more are hidden; one is told, and the other forecast.

    Returns `items`, and for all of them and for the `top` tenth by value the `expected` and `gained` improvement (nats) of the
    forecast of the second vote, with intervals over items; None if fewer than 20 items have three votes.
    """
    counts = counts[counts.sum(axis=1) >= 3].astype(np.int64)
    once = np.ones(len(counts), dtype=np.int64)

    def hide(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        second = draw_votes(counts, once, rng)
        first = draw_votes(counts - second, once, rng)
        left = counts - first - second
        prior = fit_prior(left)
        known = left + prior
        odds = [(one / one.sum(axis=1, keepdims=True))[second > 0] for one in (known, known + first)]
        return next_vote_values(left, prior)[0], np.log(odds[1] / odds[0])

    return check_values(hide, len(counts), resamples, seed)


def check_values(
    hide: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]],
    size: int,
    resamples: Resamples | None,
    seed: int,
) -> dict[str, Any] | None:
    """The check of `check_ranking` over `size` items, whose values and gains `(size,)` `hide` finds for other hidden votes."""
    if size < 20:
        return None
    rng = np.random.default_rng(seed)
    parts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(size))
    for _ in range(_HIDDEN):
        value, gained = hide(rng)
        top = np.zeros(size)
        top[np.argsort(-value, kind="stable")[: max(1, round(_TOP * size))]] = 1
        for name, inside in (("all", np.ones(size)), ("top", top)):
            for what, column in (("items", 1), ("expected", value), ("gained", gained)):
                parts[f"{name} {what}"] = parts[f"{name} {what}"] + inside * column
    sums = (resamples or Resamples()).of_units().sums(parts)
    found: dict[str, Any] = {"items": size}
    for name in ("all", "top"):
        means = {what: sums[f"{name} {what}"] / np.maximum(sums[f"{name} items"], 1) for what in ("expected", "gained")}
        found[name] = {what: with_interval(mean).to_dict() for what, mean in means.items()}
    return found


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
