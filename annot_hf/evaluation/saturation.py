"""How many synthetic votes an item needs: divergence from people's votes as votes are added (arXiv 2601.14620).

For n = 1..N, n of an item's synthetic votes are drawn without replacement, and the Jensen-Shannon divergence of their
histogram from the distribution of all its human votes is averaged over items; a - b exp(-c n) is fitted to what the mean
curve has fallen, and the first n whose fitted divergence is within a tenth of the fitted fall is the suggested one.

Mind what such a curve is. A histogram of few votes lies far from any distribution, also from that which its votes are drawn
from (the plug-in bias, about (K - 1) / (8 n) nats for K labels that all occur). So every curve falls, whoever votes, and the
suggested n tells when more votes of these annotators stop to help, not that they agree with people. Two curves beside it
tell what the votes are worth. The ideal one is of votes drawn from the human distribution itself: what lies above it is the
annotators' own. The held-out ones are of n people, and of n synthetic votes, against the same people who are among neither;
that reference is smaller, hence noisier, so that these two are comparable with each other only.

After how many votes a curve is saturated: the exponential and the rule of arXiv 2601.14620, and where they do not hold.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

from annot_hf.data.targets import item_seeds
from annot_hf.evaluation.equivalence import crossing, worth_record
from annot_hf.evaluation.resampling import Estimate, Resamples, estimate
from annot_hf.models.measures import jsd

COVERED = 0.9  # share of the items that have N votes when nobody says what N is; our choice

_BLOCK = 1 << 15  # numbers of histograms at a time: they stay in the cache


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean divergence (nats) after n votes, n = 1..N, on the same items at every n.

    Attributes:
        runs: Mean over items in each resample of the votes `(R, N)`.
        draws: Mean over items and resamples `(1 + B, N)`, as `Resamples` orders them: row 0 is the curve, the others are
            on resamples of speakers or items.
    """

    runs: np.ndarray
    draws: np.ndarray = field(repr=False)

    @property
    def mean(self) -> np.ndarray:
        """The curve `(N,)`."""
        return self.draws[0]

    def estimates(self) -> list[Estimate]:
        """Its value and 95 % interval at every n."""
        return [estimate(column) for column in self.draws.T]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"unit": "nats", "values": [one.to_dict() for one in self.estimates()], "runs": self.runs.tolist()}


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Synthetic and human votes against the same people, who are among neither.

    Attributes:
        human: Curve of n people, n = 1..M.
        synthetic: Curve of n synthetic votes, n = 1..N.
        items: Items that both are measured on.
        fewest: Fewest people in the reference of an item.
        worth: How many people N synthetic votes are worth: where the human curve reaches the last value of the other;
            `value`, `low`, `high`, where 0 is fewer than 1 and None more than M, and `text`.
    """

    human: Curve
    synthetic: Curve
    items: int
    fewest: int
    worth: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        curves = {name: getattr(self, name).to_dict() for name in ("human", "synthetic")}
        return curves | {"items": self.items, "fewest_people_held_out": self.fewest, "worth": self.worth}


def votes_that_most_have(votes: np.ndarray) -> int:
    """The largest n that `COVERED` of the items have, of votes per item `(I,)`."""
    return int(np.sort(votes)[::-1][math.ceil(COVERED * len(votes)) - 1])


def measure_curve(
    counts: np.ndarray,
    reference: np.ndarray,
    items: Sequence[str],
    votes: int,
    resamples: Resamples | None = None,
    *,
    repeats: int = 5,
    seed: int = 0,
) -> Curve:
    """Divergence from fixed distributions of n = 1..N votes drawn without replacement.

    The draws of one resample are nested: n + 1 votes are n votes and another. An item's draws follow from its name, so
    neither the order of items nor that of votes matters.

    Args:
        counts: Votes per item and label `(I, K)`, whole numbers, at least N an item.
        reference: Distributions `(I, K)`.
        items: Names `(I,)`.
        votes: N.
        resamples: Bootstrap resamples of the items, for the interval; 1,000 of single items when None.
        repeats: R; 5 in the paper.
        seed: Seed of the draws.

    Raises:
        ValueError: An item has fewer votes, or a number is below 1.
    """
    _check(counts, votes, repeats)
    found = (
        [_divergences(drawn[:, :, :votes], reference[rows, None])]
        for rows, drawn in _blocks(counts, items, votes, repeats, seed, stream=0)
    )
    return _curves(found, resamples)[0]


def measure_held_out(
    human: np.ndarray,
    synthetic: np.ndarray,
    items: Sequence[str],
    people: int,
    votes: int,
    resamples: Resamples | None = None,
    *,
    repeats: int = 5,
    seed: int = 0,
) -> HeldOut:
    """People against other people, and synthetic votes against the same others.

    In each resample, M people of an item are drawn; all its others are the reference, which does not change with n.

    Args:
        human: People's votes per item and label `(I, K)`, whole numbers, more than M an item.
        synthetic: Synthetic votes `(I, K)`, at least N an item.
        items: Names `(I,)`.
        people: M.
        votes: N.
        resamples: Bootstrap resamples of the items.
        repeats: R.
        seed: Seed of the draws.

    Raises:
        ValueError: An item has fewer votes, or a number is below 1.
    """
    _check(human, people + 1, repeats)
    _check(synthetic, votes, repeats)
    pairs = zip(
        _blocks(human, items, max(people, votes), repeats, seed, stream=1),
        _blocks(synthetic, items, max(people, votes), repeats, seed, stream=0),
        strict=True,
    )

    def against_the_rest(persons: np.ndarray, models: np.ndarray) -> list[np.ndarray]:
        rest = _one_hot(persons[:, :, people:], human.shape[1]).sum(2)
        rest /= rest.sum(-1, keepdims=True)
        return [_divergences(persons[:, :, :people], rest), _divergences(models[:, :, :votes], rest)]

    found = (against_the_rest(persons, models) for (_, persons), (_, models) in pairs)
    human_curve, synthetic_curve = _curves(found, resamples)
    reached = np.concatenate([human_curve.draws[:, :1], human_curve.draws], axis=1)  # no curve has a value for no vote
    worth = worth_record(crossing(reached, synthetic_curve.draws[:, -1]), people)
    return HeldOut(human_curve, synthetic_curve, items=len(human), fewest=int(human.sum(1).min()) - people, worth=worth)


def measure_ideal(
    reference: np.ndarray,
    items: Sequence[str],
    votes: int,
    resamples: Resamples | None = None,
    *,
    repeats: int = 5,
    seed: int = 0,
) -> Curve:
    """The curve of annotators who vote as people do: N votes an item drawn from its `reference` `(I, K)` itself.

    It is above 0 for the number of votes alone (the plug-in bias): what a curve of synthetic votes has beyond it is theirs.
    Other arguments are those of `measure_curve`.
    """
    pairs = zip(item_seeds(items, seed), np.asarray(reference, dtype=np.float64), strict=True)
    drawn = np.array([np.random.default_rng([one, 2]).multinomial(votes, q / q.sum()) for one, q in pairs])
    return measure_curve(drawn, reference, items, votes, resamples, repeats=repeats, seed=seed)


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise a ValueError unless it is a whole number from `least` up."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"The {name} is {value!r}; give a whole number from {least} up.")


def _check(counts: np.ndarray, votes: int, repeats: int) -> None:
    check_whole("number of votes", votes)
    check_whole("number of resamples", repeats)
    if not len(counts) or counts.sum(1).min() < votes:
        fewest = "there is no item" if not len(counts) else f"an item has {int(counts.sum(1).min())}"
        raise ValueError(f"{votes} votes are to be drawn of each item and {fewest}; leave such items out.")


def _blocks(
    counts: np.ndarray, items: Sequence[str], votes: int, repeats: int, seed: int, *, stream: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of a block of items, and their votes in random orders: label codes `(B, R, V)`, -1 after the last."""
    counts = np.asarray(counts, dtype=np.int64)
    seeds, sizes = item_seeds(items, seed), counts.sum(1)
    step = max(1, _BLOCK // (repeats * max(votes, 1) * counts.shape[1]))
    for start in range(0, len(counts), step):
        rows = slice(start, start + step)
        size = sizes[rows]
        codes = np.full((len(size), size.max()), -1)
        codes[np.arange(size.max()) < size[:, None]] = np.repeat(
            np.tile(np.arange(counts.shape[1]), len(size)), counts[rows].ravel()
        )  # by label, so that the order of the votes in their table does not matter
        keys = np.full((len(size), repeats, size.max()), np.inf)
        for row, (item_seed, number) in enumerate(zip(seeds[rows], size, strict=True)):
            keys[row, :, :number] = np.random.default_rng([item_seed, stream]).random((repeats, number))
        order = np.argsort(keys, axis=-1)
        yield rows, np.take_along_axis(np.broadcast_to(codes[:, None], keys.shape), order, axis=-1)


def _one_hot(codes: np.ndarray, classes: int) -> np.ndarray:
    """`(..., classes)`; zeros for the code -1."""
    return np.concatenate([np.eye(classes), np.zeros((1, classes))])[codes]


def _divergences(codes: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """JSD `(B, R, N)` of the first n votes from the reference `(B, R or 1, K)`."""
    sums = np.cumsum(_one_hot(codes, reference.shape[-1]), axis=2)
    sums /= np.arange(1, codes.shape[2] + 1)[:, None]
    return jsd(sums, reference[:, :, None])


def _curves(blocks: Iterable[Sequence[np.ndarray]], resamples: Resamples | None) -> list[Curve]:
    """Means over items with their intervals, from blocks of items with the divergences `(B, R, N)` of each curve."""
    sums = [[(part.mean(1), part.sum(0)) for part in block] for block in blocks]
    curves = []
    for parts in zip(*sums, strict=True):
        per_item = np.concatenate([item for item, _ in parts])
        columns = {"sum": per_item, "items": np.ones(len(per_item))}
        found = (resamples or Resamples()).sums(columns)
        runs = np.sum([run for _, run in parts], axis=0) / len(per_item)
        curves.append(Curve(runs, found["sum"] / found["items"][:, None]))
    return curves


WITHIN = 0.1  # of the fall is left where a curve is saturated
LEAST_R2 = 0.9  # of a fit that is believed; our choice


@dataclass(frozen=True)
class Fit:
    """a - b exp(-c n), fitted to what the curve has fallen from its largest value.

    Attributes:
        a: Fall in the limit (nats).
        b: Scale (nats).
        c: Rate per vote.
        top: Largest value of the curve (nats), which the fall counts from.
        r2: Share of the curve's variance that the fit explains.
    """

    a: float
    b: float
    c: float
    top: float
    r2: float

    def at(self, n: np.ndarray | float) -> np.ndarray:
        """Fitted divergence (nats) after n votes."""
        return self.top - (self.a - self.b * np.exp(-self.c * np.asarray(n, dtype=np.float64)))


@dataclass(frozen=True)
class Finding:
    """What a curve says.

    Attributes:
        suggested: Votes an item by the paper's rule; None where the curve does not tell.
        text: The same as a sentence, or why it does not tell.
        fit: The fitted curve, if there is one.
        threshold: Divergence (nats) that the suggested n comes down to, if there is a fit.
    """

    suggested: int | None
    text: str
    fit: Fit | None = None
    threshold: float | None = None


def find_saturation(curve: np.ndarray) -> Finding:
    """Fit a curve `(N,)` (nats) and say after how many votes it is saturated, or why that cannot be told.

    Of the paper: the form, fitted to max(y) - y, and the rule, the first n whose fitted divergence is at most
    y_inf + .1 (max(y) - y_inf), where y_inf = max(y) - a is the fit's asymptote and not the smallest y seen. Ours: no n is
    suggested where the fit explains less than .9 of the variance, or where it comes down so far only after N.
    """
    y = np.asarray(curve, dtype=np.float64)
    count, top, bottom = len(y), float(y.max()), float(y.min())
    if count < 4:
        return Finding(
            None, f"There {_votes_are(count)} an item at most, and a curve of three parameters needs 4 or more."
        )
    if top - bottom < 1e-9:
        return Finding(
            None,
            f"The curve is flat at {top:.4f} nats: the synthetic votes on an item are all alike, so that one says as much as "
            f"{count}.",
        )
    if y[-1] >= y[0]:
        return Finding(
            None, f"The curve does not fall: {y[0]:.4f} nats after 1 vote, {y[-1]:.4f} after {count}; more do not help."
        )
    fit = _fit(y)
    if fit is None:
        return Finding(None, "No exponential could be fitted to the curve; look at it.")
    limit, threshold = top - fit.a, top - (1 - WITHIN) * fit.a
    if fit.r2 < LEAST_R2:
        return Finding(None, f"An exponential does not fit the curve (R² = {fit.r2:.2f}); look at it.", fit, threshold)
    below = np.flatnonzero(fit.at(np.arange(1, count + 1)) <= threshold)
    if not len(below):
        return Finding(
            None,
            f"The curve is not saturated after {count} votes: the fit falls by another {float(fit.at(count)) - limit:.4f} "
            "nats; ask for more.",
            fit,
            threshold,
        )
    first = int(below[0]) + 1
    return Finding(
        first,
        f"The rule of arXiv 2601.14620 suggests {first} synthetic {'vote' if first == 1 else 'votes'} an item: the fitted "
        f"divergence is then within a tenth of its fall from {top:.4f} to {limit:.4f} nats, where it ends.",
        fit,
        threshold,
    )


def _fit(y: np.ndarray) -> Fit | None:
    """Least squares; None where it does not converge."""
    n, fallen = np.arange(1, len(y) + 1, dtype=np.float64), y.max() - y
    scale = fallen.max()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)
            (a, b, c), _ = curve_fit(
                lambda x, a, b, c: a - b * np.exp(-c * x),
                n,
                fallen / scale,  # of order 1, as the tolerances expect
                p0=(1.0, 1.0, 0.3),
                bounds=([0, 0, 1e-4], [100, 1000, 50]),
                max_nfev=10_000,
            )
    except (RuntimeError, ValueError, OptimizeWarning):
        return None
    rest = fallen / scale - (a - b * np.exp(-c * n))
    r2 = 1 - float((rest**2).sum() / ((fallen / scale - (fallen / scale).mean()) ** 2).sum())
    return Fit(float(a * scale), float(b * scale), float(c), float(y.max()), r2)


def _votes_are(count: int) -> str:
    return f"is {count} synthetic vote" if count == 1 else f"are {count} synthetic votes"
