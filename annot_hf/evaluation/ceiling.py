"""Noise ceilings: with so few votes an item, how well could any model score? Two estimates, by the measures of reports.

Both rest on the Dirichlet-multinomial that fits the votes of all items best (empirical Bayes), which gives each item's
opinion a posterior. "ceiling": opinions are drawn from it, as many votes as the item has are drawn from each, and the
opinion is scored as a forecast of these votes. "ceiling, split-half": half of an item's real votes, with the prior, forecast
the other half. That scores worse, since half of the votes is no opinion and the other half is few votes; by how much is
known from halves of the drawn votes, and is made good, on a scale that the measure cannot leave. "ceiling, one left out":
the same, where all votes but one forecast that one. They agree if opinions are as the fitted distribution has them, and
are no bounds if not: of clear items mixed with ambiguous ones, accuracies are too low, and divergences too.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import digamma, expit, gammaln, logit

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.resampling import Measures, Resamples
from annot_hf.evaluation.scoring import item_columns, measure_items
from annot_hf.models.measures import ratio

CEILING = "ceiling"
SPLIT_HALF = "ceiling, split-half"
LEFT_OUT = "ceiling, one left out"
# How many of an item's votes forecast the others.
_FORECASTING = {SPLIT_HALF: lambda votes: votes // 2, LEFT_OUT: lambda votes: votes - 1}
# More draws change no digit that is printed; fewer where there are many items, so that it takes seconds.
DRAWS = 20
_CELLS = 1 << 22
# Nothing is nearer to a bound.
_EDGE = 1e-9
# Bounds of the logarithms of the prior's pseudo-votes.
_LOG_VOTES = 9.0
# The entropy of the votes is no forecast; F1 of batches is no function of the means over draws.
_NOT_FORECAST = ("vote_entropy", "labels_f1_batches")


def fit_prior(counts: np.ndarray) -> np.ndarray:
    """Pseudo-votes `(K,)` of the Dirichlet-multinomial under which whole votes `(N, K)` are likeliest (Minka 2000)."""
    kinds, times = np.unique(np.asarray(counts, dtype=np.float64), axis=0, return_counts=True)
    votes, weight = kinds.sum(axis=1), times / times.sum()

    def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
        alpha = np.exp(logs)
        total = alpha.sum()
        likelihood = gammaln(total) - gammaln(votes + total) + (gammaln(kinds + alpha) - gammaln(alpha)).sum(axis=1)
        slope = (digamma(total) - digamma(votes + total))[:, None] + digamma(kinds + alpha) - digamma(alpha)
        return -float(weight @ likelihood), -alpha * (weight @ slope)

    shares = counts.sum(axis=0) / counts.sum()
    start = np.log(shares * 2 + 1e-3)
    bounds = [(-_LOG_VOTES, _LOG_VOTES)] * len(start)
    return np.exp(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x)


def noise_ceiling(
    counts: np.ndarray,
    marginal: np.ndarray,
    questions: Sequence[Question],
    resamples: Resamples | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    splits: Sequence[str] = (SPLIT_HALF,),
    task: str = "",
) -> tuple[Measures, dict[str, float]] | None:
    """The measures of `measure_items` for the system "ceiling" and for each of the `splits`, and facts behind them.

    Args:
        counts: Whole votes `(N, K)` of a category question, each item with one or more.
        marginal: The baseline of the gap, `(K,)` or for each item `(N, K)`.
        questions: The question.
        resamples: Behind the intervals, which cover the choice of items and speakers, not that of the prior.
        draws: How often opinions and splits are drawn; fewer are if items x labels x draws exceeds 4 million.
        seed: Seed of the draws.
        splits: `SPLIT_HALF`, `LEFT_OUT`, both or none.
        task: Shared task whose own scores are measured too, of `TASKS`.

    Returns:
        The measures, and the number of `draws`, the `prior_votes` and the `items` with two votes, which are split; None
        if no two items have two votes, so that nothing tells disagreement about an item from differences between items.
    """
    counts = np.asarray(counts, dtype=np.int64)
    votes = counts.sum(axis=1)
    several = votes >= 2
    if several.sum() < 2:
        return None
    resamples, rng = resamples or Resamples(), np.random.default_rng(seed)
    alpha, base = fit_prior(counts), np.broadcast_to(marginal, counts.shape)
    draws = max(1, min(draws, _CELLS // counts.size))
    sums: dict[Any, dict[str, np.ndarray]] = defaultdict(dict)

    def add(name: Any, forecast: np.ndarray, voted: np.ndarray, rows: np.ndarray | slice = slice(None)) -> None:
        shares = voted / voted.sum(axis=1, keepdims=True)
        columns = item_columns({CEILING: forecast, "marginal": base[rows]}, shares, questions, task)
        for column, values in columns.items():
            sums[name][column] = sums[name].get(column, 0) + values / draws

    for _ in range(draws):
        opinion = to_shares(rng.standard_gamma(counts + alpha))
        drawn = rng.multinomial(votes, opinion)
        add(CEILING, opinion, drawn)
        for split in splits:
            for which, whole in (("drawn", drawn[several]), ("real", counts[several])):
                first = draw_votes(whole, _FORECASTING[split](whole.sum(axis=1)), rng)
                add((split, which), to_shares(first + alpha), whole - first, several)
    found = {}
    for name, columns in sums.items():
        of = resamples if name == CEILING else resamples.select(several)
        found[name] = measure_items([CEILING], columns, questions, of, task)
    for name, one in found[CEILING].items():
        own = one.draws[CEILING]
        for split in splits:
            drawn, real = (found[split, which][name].draws[CEILING] for which in ("drawn", "real"))
            one.draws[split] = made_good(real, own, drawn, one.unit)
    ceilings = {name: one for name, one in found[CEILING].items() if name not in _NOT_FORECAST}
    return ceilings, {"draws": draws, "prior_votes": float(alpha.sum()), "items": int(several.sum())}


def made_good(real: np.ndarray, own: np.ndarray, drawn: np.ndarray, unit: str) -> np.ndarray:
    """`real` less what `drawn` differs from `own` by, on a scale without bounds: a measure stays in the range of its unit.

    The scale is the logarithm of the odds for measures within bounds, and of the distance to the bound for others.
    """
    if unit in ("0 to 1", "-1 to 1"):
        low = float(unit.split(" ")[0])
        values = [logit(np.clip((one - low) / (1 - low), _EDGE, 1 - _EDGE)) for one in (real, own, drawn)]
        return low + (1 - low) * expit(values[0] + values[1] - values[2])
    # Nats and bits have no upper bound, or none that is near; of the gap no more than 100 % can be closed.
    sign, bound = (-1, 100.0) if unit == "%" else (1, 0.0)
    values = [np.maximum(sign * (one - bound), _EDGE) for one in (real, own, drawn)]
    return bound + sign * values[0] * values[1] / values[2]


def mean_ceiling(votes: VoteTable, question: str, resamples: Resamples | None = None) -> np.ndarray:
    """The CCC `(1 + B,)` with the items' mean votes on a scale that their opinions, the means of endless votes, would have.

    2 c / (c + v), over the items with two votes or more: v is the variance of the means, and c their covariance with those of
    other raters. The mean product of two votes of an item is its average over all splits into halves, and over all ways to
    leave one vote out, corrected for the number of votes; so no draws are needed.
    """
    rows = votes.rows_of(question)
    code, value = votes.item_codes[rows], votes.ratings[rows]
    value = value - value.mean()
    n, first, second = (np.bincount(code, value**power, minlength=len(votes.items)) for power in range(3))
    several = n >= 2
    mean, product = ratio(first, n, empty=0.0), ratio(first**2 - second, n * (n - 1), empty=0.0)
    columns = {"mean": mean, "square": mean**2, "product": product, "items": 1.0}
    sums = (resamples or Resamples()).sums({name: column * several for name, column in columns.items()})
    mean, square, product = (ratio(sums[name], sums["items"]) for name in ("mean", "square", "product"))
    # With few items the covariance may come out below 0, where no forecast helps.
    shared = np.maximum(product - mean**2, 0.0)
    return ratio(2 * shared, shared + square - mean**2, empty=0.0)


def draw_votes(counts: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """So many of each item's votes `(N,)` without replacement, from whole counts `(N, K)`: `(N, K)`."""
    drawn, left, rest = np.zeros_like(counts), np.array(sizes), counts.sum(axis=1)
    for label in range(counts.shape[1]):
        rest = rest - counts[:, label]
        drawn[:, label] = rng.hypergeometric(counts[:, label], rest, left)
        left = left - drawn[:, label]
    return drawn


def to_shares(masses: np.ndarray) -> np.ndarray:
    """Rows `(N, K)` over their sums."""
    return masses / masses.sum(axis=1, keepdims=True)
