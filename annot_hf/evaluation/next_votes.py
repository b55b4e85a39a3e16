"""How many votes are enough, for people: what one more vote changes, and which items to ask about next.

Opinions have the Dirichlet prior that fits all votes best (`fit_prior`), so the next vote on an item has known odds. Its value
is what it tells about the vote after it (their mutual information, in nats): by so much the forecast of that vote gets better.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import xlogy

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.ceiling import CEILING, draw_votes, fit_prior, noise_ceiling, to_shares
from annot_hf.evaluation.resampling import Resamples, with_interval
from annot_hf.models.measures import entropy

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
