"""Noise ceilings: with so few votes an item, how well could any model score? Two estimates, by the measures of reports.

Both rest on the Dirichlet-multinomial that fits the votes of all items best (empirical Bayes), which gives each item's
opinion a posterior. "ceiling": opinions are drawn from it, as many votes as the item has are drawn from each, and the
opinion is scored as a forecast of these votes. "ceiling, split-half": half of an item's real votes, with the prior, forecast
the other half. That scores worse, since half of the votes is no opinion and the other half is few votes; by how much is
known from halves of the drawn votes, and is made good. The two agree if opinions are as the fitted distribution has them.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import digamma, gammaln

from annot_hf.data.questions import Question
from annot_hf.evaluation.resampling import Measures, Resamples
from annot_hf.evaluation.scoring import item_columns, measure_items

CEILING = "ceiling"
SPLIT_HALF = "ceiling, split-half"
# More draws change no digit that is printed; fewer where there are many items, so that it takes seconds.
DRAWS = 20
_CELLS = 1 << 22
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
) -> tuple[Measures, dict[str, float]] | None:
    """The measures of `measure_items` for the systems "ceiling" and "ceiling, split-half", and facts behind them.

    Args:
        counts: Whole votes `(N, K)` of a category question, each item with one or more.
        marginal: The baseline of the gap, `(K,)` or for each item `(N, K)`.
        questions: The question.
        resamples: Behind the intervals, which cover the choice of items and speakers, not that of the prior.
        draws: How often opinions and halves are drawn; fewer are if items x labels x draws exceeds 4 million.
        seed: Seed of the draws.

    Returns:
        The measures, and the number of `draws`, the `prior_votes` and the `items` with two votes, whose halves are taken; None
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
    sums: dict[str, dict[str, np.ndarray]] = {CEILING: {}, "drawn halves": {}, "real halves": {}}

    def add(name: str, forecast: np.ndarray, voted: np.ndarray, rows: np.ndarray | slice = slice(None)) -> None:
        shares = voted / voted.sum(axis=1, keepdims=True)
        columns = item_columns({CEILING: forecast, "marginal": base[rows]}, shares, questions)
        for column, values in columns.items():
            sums[name][column] = sums[name].get(column, 0) + values / draws

    def add_halves(name: str, whole: np.ndarray) -> None:
        first = draw_votes(whole, whole.sum(axis=1) // 2, rng)
        add(name, _shares(first + alpha), whole - first, several)

    for _ in range(draws):
        opinion = _shares(rng.standard_gamma(counts + alpha))
        drawn = rng.multinomial(votes, opinion)
        add(CEILING, opinion, drawn)
        add_halves("drawn halves", drawn[several])
        add_halves("real halves", counts[several])
    found = {}
    for name, columns in sums.items():
        of = resamples if name == CEILING else resamples.select(several)
        found[name] = measure_items([CEILING], columns, questions, of)
    for name, one in found[CEILING].items():
        own, drawn, real = (found[which][name].draws[CEILING] for which in sums)
        one.draws[SPLIT_HALF] = real + (own - drawn)
    ceilings = {name: one for name, one in found[CEILING].items() if name not in _NOT_FORECAST}
    return ceilings, {"draws": draws, "prior_votes": float(alpha.sum()), "items": int(several.sum())}


def draw_votes(counts: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """So many of each item's votes `(N,)` without replacement, from whole counts `(N, K)`: `(N, K)`."""
    drawn, left, rest = np.zeros_like(counts), np.array(sizes), counts.sum(axis=1)
    for label in range(counts.shape[1]):
        rest = rest - counts[:, label]
        drawn[:, label] = rng.hypergeometric(counts[:, label], rest, left)
        left = left - drawn[:, label]
    return drawn


def _shares(masses: np.ndarray) -> np.ndarray:
    return masses / masses.sum(axis=1, keepdims=True)
