"""Rater equivalence: how many human raters forecast another rater's vote as well as the model does (arXiv 2106.01254).

A held-out vote is c with probability n_c / n, and the number m of c among k of the other n - 1 votes is hypergeometric, so the
expected loss of the k-rater histogram is a sum over m: nothing is simulated, and anonymous counts are enough.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import hypergeom

from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import floored
from annot_hf.evaluation.resampling import TAILS, Arrays, Interval, Resamples, with_interval
from annot_hf.models import measures

KEEP = 0.8
MOST_RATERS = 50
_ALPHA = (1e-3, 1e4)


@dataclass(frozen=True, eq=False)
class Equivalence:
    """The raters' curve, and where the score of each system meets it, over the `items` with at least K + 1 votes.

    `curve` has the mean loss (nats) of the histogram of each of `raters`, k = 0 ... K, where 0 is the marginal; `systems` has
    `loss` and `worth` (see `worth_record`), `draws` the worth on every resample `(1 + B,)`; `alpha` smooths each histogram.
    """

    raters: np.ndarray
    curve: list[dict[str, float | None]]
    systems: dict[str, dict[str, Any]]
    alpha: float
    items: int
    share: float
    draws: Arrays = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("curve", "systems", "alpha", "items", "share")
        return {"raters": self.raters.tolist()} | {name: getattr(self, name) for name in names}


def rater_equivalence(
    systems: Arrays, counts: np.ndarray, marginal: np.ndarray, resamples: Resamples | None = None, *, keep: float = KEEP
) -> Equivalence | None:
    """How many raters each system `(N, K)`, or mean of runs `(R, N, K)`, is worth, from whole `counts` of votes `(N, K)`.

    A histogram of k votes gives label c (m_c + alpha pi_c) / (k + alpha), with pi the marginal and the alpha that is best for
    the raters. K, 1 to 50, is the largest k such that a share `keep` of the items has K + 1 votes; None without any.
    """
    counts = np.asarray(counts, dtype=np.float64)
    bad = ~((counts >= 0) & (counts == np.floor(counts)))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"Item {row} has count {counts[row, column]:g}; rater equivalence needs whole votes: give unweighted counts."
        )
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep:g}; give a share of the items, above 0 and up to 1.")
    votes = counts.sum(axis=1)
    if votes.max(initial=0) < 2:
        return None
    largest = max((k for k in range(1, MOST_RATERS + 1) if (votes > k).mean() >= keep), default=1)
    rows = votes > largest
    counts, prior = counts[rows], floored(np.asarray(marginal, dtype=np.float64))
    losses, alpha = _rater_losses(counts, prior, largest)
    shares = counts / counts.sum(axis=1, keepdims=True)
    columns = {"raters": losses}
    for name, p in systems.items():
        of_runs = measures.cross_entropy(*np.broadcast_arrays(shares, floored(p[..., rows, :])))
        columns[f"system/{name}"] = of_runs.reshape(-1, len(shares)).mean(axis=0)
    means = (resamples or Resamples()).select(rows).means(columns)
    curve, told, draws = means["raters"], {}, {}
    for name in systems:
        loss = means[f"system/{name}"]
        draws[name] = crossing(curve, loss)
        told[name] = {"loss": with_interval(loss).to_dict(), "worth": worth_record(draws[name], largest)}
    intervals = [with_interval(column).to_dict() for column in curve.T]
    return Equivalence(np.arange(largest + 1), intervals, told, alpha, len(counts), float(rows.mean()), draws)


def vote_counts(targets: Targets, votes: VoteTable | None = None) -> np.ndarray | None:
    """Whole votes per label `(N, K)` behind the targets; None if they are weighted, multi-select or not given."""
    question = targets.questions[0]
    if question.multiple or question.shares:
        return None
    if votes is None:
        counts = targets.probs * np.asarray(targets.votes_per_item)[:, None]
        whole = np.round(counts)
        return whole if targets.method == "soft" and np.allclose(counts, whole, atol=1e-6) else None
    if votes.weights is not None:
        return None
    labels = votes.question(question.name).labels
    if sorted(labels) != sorted(targets.support):
        raise ValueError(
            f"Question {question.name!r} has the labels {', '.join(labels)} in the votes and {', '.join(targets.support)} "
            "in the targets; give the votes that the targets were made from."
        )
    counts = votes.counts(question.name, targets.items)[:, [labels.index(label) for label in targets.support]]
    odd = np.flatnonzero(counts.sum(axis=1) != targets.votes_per_item)
    if len(odd):
        row = odd[0]
        raise ValueError(
            f"Item {targets.items[row]!r} has {counts[row].sum():g} votes on {question.name} and its target "
            f"{targets.votes_per_item[row]:g}; give the votes that the targets were made from."
        )
    return counts


def crossing(curve: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The k `(...)`, interpolated, at which a curve over k = 0 ... K `(..., K + 1)` first falls to `loss` `(...)`.

    0 where the loss is above that of k = 1, infinite where the curve never gets there.
    """
    reached = curve[..., 1:] <= loss[..., None]
    first = reached.argmax(axis=-1)[..., None] + 1
    before, after = (np.take_along_axis(curve, index, axis=-1)[..., 0] for index in (first - 1, first))
    drop = before - after
    step = np.where(drop > 0, (before - loss) / np.where(drop > 0, drop, 1.0), 1.0)
    between = first[..., 0] - 1 + np.clip(step, 0.0, 1.0)
    worse = curve[..., 1] < loss
    return np.where(worse, 0.0, np.where(reached.any(axis=-1), between, np.inf))


def worth_text(value: float, largest: int) -> str:
    """A number of raters in words: "< 1", "> K" or one decimal."""
    return "< 1" if value < 1 else f"> {largest}" if np.isinf(value) else f"{value:.1f}"


def worth_record(draws: np.ndarray, largest: int) -> dict[str, Any]:
    """`value`, `low`, `high`, `text` of raters `(1 + B,)` from `crossing`: 0 below 1, None above K or undefined."""
    ends, text = [draws[0]], worth_text(draws[0], largest)
    if len(draws) > 1:
        low, high = np.quantile(draws[1:], TAILS, method="inverted_cdf")
        ends += [low, high]
        text += f" (95 % interval {worth_text(low, largest)} to {worth_text(high, largest)})"
    finite = [float(end) if np.isfinite(end) else None for end in ends]
    return Interval(*finite).to_dict() | {"text": text}


def _rater_losses(counts: np.ndarray, prior: np.ndarray, largest: int) -> tuple[np.ndarray, float]:
    """Expected loss of k-rater histograms for every item `(N, K + 1)`, and the best alpha."""
    item, label = np.nonzero(counts)
    own, total = counts[item, label], counts.sum(axis=1)[item]
    kinds, kind = np.unique(np.stack([total, own], axis=1), axis=0, return_inverse=True)
    # Probability of m = 0 ... k equal votes among k of the n - 1 other votes: K -> (kinds, k + 1).
    others, equal = kinds[:, :1] - 1, kinds[:, 1:] - 1
    chance = [hypergeom.pmf(np.arange(k + 1), others, equal, k) for k in range(largest + 1)]
    weight = np.zeros((len(kinds), len(prior)))
    np.add.at(weight, (kind.ravel(), label), own / total)
    # K -> (k + 1, labels).
    totals = [table.T @ weight for table in chance]

    def loss(m: np.ndarray, k: int, alpha: float) -> np.ndarray:
        return np.log(k + alpha) - np.log(m[:, None] + alpha * prior)

    def mean_loss(log_alpha: float) -> float:
        alpha = float(np.exp(log_alpha))
        return sum(float((totals[k] * loss(np.arange(k + 1), k, alpha)).sum()) for k in range(1, largest + 1))

    alpha = float(np.exp(minimize_scalar(mean_loss, bounds=np.log(_ALPHA), method="bounded").x))
    out = np.empty((len(counts), largest + 1))
    for k, table in enumerate(chance):
        # (kinds, labels).
        expected = table @ loss(np.arange(k + 1), k, alpha)
        out[:, k] = np.bincount(item, (own / total) * expected[kind.ravel(), label], minlength=len(counts))
    return out, alpha
