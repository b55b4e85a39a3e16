"""How many synthetic votes an item needs, and how far they agree with people (arXiv 2601.14620).

Votes are added one by one, and each histogram is compared with people's votes. One of few votes is far from any distribution
(the plug-in bias, about (K - 1) / (8 n) nats for K labels), so every curve falls. The suggested n shows when more votes stop
helping; the distance to the ideal curve is the annotators' error.

The agreement of synthetic annotators with people is compared with that among people, by ambiguity. Both have one reference:
the votes of all people but one, whoever cast the vote, so that people are not their own reference.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

from annot_hf.data.encoding import check_whole
from annot_hf.data.synthetic import SYNTHETIC
from annot_hf.data.targets import item_seeds, winners
from annot_hf.evaluation.categories import entropy_strata
from annot_hf.evaluation.equivalence import crossing, worth_record
from annot_hf.evaluation.resampling import Interval, Measured, Resamples, with_interval
from annot_hf.evaluation.scoring import NOTES
from annot_hf.models import measures
from annot_hf.models.measures import jsd, ratio

# By default, N is the largest number of votes that this share of the items has; our choice.
COVERED = 0.9
# A curve is saturated when this share of its fall is left.
WITHIN = 0.1
# Fits with a lower R² are rejected; our choice.
LEAST_R2 = 0.9
# Numbers per block of histograms, so that they stay in the cache.
_HISTOGRAM_BLOCK = 1 << 15
ALL = "all"
PERSON = "person"
AGREEMENT_MEASURES = {
    "accuracy": ("Accuracy", "0 to 1", "higher"),
    "agreement": ("Agreement", "0 to 1", "higher"),
    "kappa": ("Kappa", "-1 to 1", "higher"),
    "among": ("Agreement within a kind", "0 to 1", ""),
    "entropy": ("Entropy over ln K", "0 to 1", ""),
    "jsd": ("JSD of the histograms (nats)", "nats", "lower"),
    "accuracy_plurality": ("Accuracy, all people", "0 to 1", "higher"),
}
NOTE = NOTES["synthetic"]


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean Jensen-Shannon divergence (nats) after n votes, n = 1..N, on the same items at every n.

    `runs` `(R, N)` has each draw of the votes; `draws` `(1 + B, N)` the mean over runs, and that of each of the `Resamples`.
    """

    runs: np.ndarray
    draws: np.ndarray = field(repr=False)

    @property
    def mean(self) -> np.ndarray:
        """The curve `(N,)`."""
        return self.draws[0]

    def estimates(self) -> list[Interval]:
        """Its value and 95 % interval at every n."""
        return [with_interval(column) for column in self.draws.T]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"unit": "nats", "values": [one.to_dict() for one in self.estimates()], "runs": self.runs.tolist()}


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Curves of n people, n = 1..M, and of n synthetic votes, n = 1..N, against the same other people, `fewest` or more.

    `worth` (see `worth_record`) is where the human curve reaches the last value of the synthetic one.
    """

    human: Curve
    synthetic: Curve
    items: int
    fewest: int
    worth: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        curves = {"human": self.human.to_dict(), "synthetic": self.synthetic.to_dict()}
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
    """Divergence of n = 1..N votes, drawn without replacement from whole `counts` `(I, K)`, from distributions `(I, K)`.

    The draws of each of the R `repeats` are nested, and depend on the name of the item, not on the order of items or votes.
    """
    _check_sampling(counts, votes, repeats)
    found = [
        [_divergences(drawn[:, :, :votes], reference[rows, None])]
        for rows, drawn in _blocks(counts, items, votes, repeats, seed, stream=0)
    ]
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
    """Compare M = `people` drawn from whole counts `(I, K)`, and N = `votes` synthetic ones, with the same other people."""
    _check_sampling(human, people + 1, repeats)
    _check_sampling(synthetic, votes, repeats)
    most, found = max(people, votes), []
    drawn = [_blocks(one, items, most, repeats, seed, stream=stream) for one, stream in ((human, 1), (synthetic, 0))]
    for (_, persons), (_, models) in zip(*drawn, strict=True):
        rest = _votes_by_label(persons[:, :, people:], human.shape[1]).sum(2)
        rest /= rest.sum(-1, keepdims=True)
        found.append([_divergences(persons[:, :, :people], rest), _divergences(models[:, :, :votes], rest)])
    human_curve, synthetic_curve = _curves(found, resamples)
    # A curve has no value for 0 votes.
    reached = np.concatenate([human_curve.draws[:, :1], human_curve.draws], axis=1)
    worth = worth_record(crossing(reached, synthetic_curve.draws[:, -1]), people)
    return HeldOut(human_curve, synthetic_curve, len(human), int(human.sum(1).min()) - people, worth)


def measure_ideal(
    reference: np.ndarray,
    items: Sequence[str],
    votes: int,
    resamples: Resamples | None = None,
    *,
    repeats: int = 5,
    seed: int = 0,
) -> Curve:
    """The curve of ideal annotators: N votes per item drawn from its `reference` `(I, K)`; see `measure_curve`."""
    pairs = zip(item_seeds(items, seed), np.asarray(reference, dtype=np.float64), strict=True)
    drawn = np.array([np.random.default_rng([one, 2]).multinomial(votes, q / q.sum()) for one, q in pairs])
    return measure_curve(drawn, reference, items, votes, resamples, repeats=repeats, seed=seed)


def _check_sampling(counts: np.ndarray, votes: int, repeats: int) -> None:
    check_whole("number of votes", votes)
    check_whole("number of resamples", repeats)
    if not len(counts) or counts.sum(1).min() < votes:
        fewest = "there is no item" if not len(counts) else f"an item has {int(counts.sum(1).min())}"
        raise ValueError(f"Each item needs {votes} votes, but {fewest}; leave such items out.")


def _blocks(
    counts: np.ndarray, items: Sequence[str], votes: int, repeats: int, seed: int, *, stream: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of a block of items, and their votes in random orders: label codes `(B, R, V)`, -1 after the last."""
    counts = np.asarray(counts, dtype=np.int64)
    seeds, sizes = item_seeds(items, seed), counts.sum(1)
    step = max(1, _HISTOGRAM_BLOCK // (repeats * max(votes, 1) * counts.shape[1]))
    for start in range(0, len(counts), step):
        rows = slice(start, start + step)
        size = sizes[rows]
        codes = np.full((len(size), size.max()), -1)
        # Sorted by label, so that the order of the votes does not matter.
        labels = np.tile(np.arange(counts.shape[1]), len(size))
        codes[np.arange(size.max()) < size[:, None]] = np.repeat(labels, counts[rows].ravel())
        keys = np.full((len(size), repeats, size.max()), np.inf)
        for row, (item_seed, number) in enumerate(zip(seeds[rows], size, strict=True)):
            keys[row, :, :number] = np.random.default_rng([item_seed, stream]).random((repeats, number))
        order = np.argsort(keys, axis=-1)
        yield rows, np.take_along_axis(np.broadcast_to(codes[:, None], keys.shape), order, axis=-1)


def _votes_by_label(codes: np.ndarray, classes: int) -> np.ndarray:
    """`(..., classes)`; zeros for the code -1."""
    return np.concatenate([np.eye(classes), np.zeros((1, classes))])[codes]


def _divergences(codes: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """JSD of the first n votes from the reference `(B, R or 1, K)`: mean over runs `(B, N)`, and sum over items `(R, N)`."""
    sums = np.cumsum(_votes_by_label(codes, reference.shape[-1]), axis=2)
    sums /= np.arange(1, codes.shape[2] + 1)[:, None]
    divergence = jsd(sums, reference[:, :, None])
    return divergence.mean(axis=1), divergence.sum(axis=0)


def _curves(blocks: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]], resamples: Resamples | None) -> list[Curve]:
    """Means over items with their intervals, from the divergences of blocks of items, for each curve."""
    curves = []
    for parts in zip(*blocks, strict=True):
        per_item = np.concatenate([item for item, _ in parts])
        runs = np.sum([run for _, run in parts], axis=0) / len(per_item)
        curves.append(Curve(runs, (resamples or Resamples()).means({"all": per_item})["all"]))
    return curves


@dataclass(frozen=True)
class Fit:
    """a - b exp(-c n), fitted to the fall of the curve from `top` (nats); `r2` is the share of explained variance."""

    a: float
    b: float
    c: float
    top: float
    r2: float

    def at(self, n: np.ndarray | float) -> np.ndarray:
        """Fitted divergence (nats) after n votes."""
        return self.top - _fall(np.asarray(n, dtype=np.float64), self.a, self.b, self.c)


@dataclass(frozen=True)
class SaturationFinding:
    """The number of votes that the paper's rule suggests, with its `threshold` (nats), in a sentence too; None without."""

    suggested: int | None
    text: str
    fit: Fit | None = None
    threshold: float | None = None


def find_saturation(curve: np.ndarray) -> SaturationFinding:
    """Fit a curve `(N,)` (nats) and find the first n whose fitted divergence is at most y_inf + .1 (max(y) - y_inf).

    y_inf is the asymptote of the fit, not the smallest y. Our additions: there is none if the fit explains less than .9 of the
    variance, or falls that far only after N.
    """
    y = np.asarray(curve, dtype=np.float64)
    count, top, fit = len(y), float(y.max()), None
    if count < 4:
        there = "is 1 synthetic vote" if count == 1 else f"are {count} synthetic votes"
        why = f"There {there} per item at most, and a curve with three parameters needs at least 4."
    elif top - y.min() < 1e-9:
        alike = f"the synthetic votes on an item are all alike, so one is as good as {count}."
        why = f"The curve is flat at {top:.4f} nats: {alike}"
    elif y[-1] >= y[0]:
        why = f"The curve does not fall: {y[0]:.4f} nats after 1 vote, {y[-1]:.4f} after {count}; more do not help."
    else:
        fit, why = _fit(y), "No exponential could be fitted to the curve; look at it."
    if fit is None:
        return SaturationFinding(None, why)
    limit, threshold = top - fit.a, top - (1 - WITHIN) * fit.a
    below = np.flatnonzero(fit.at(np.arange(1, count + 1)) <= threshold)
    first = None
    if fit.r2 < LEAST_R2:
        text = f"An exponential does not fit the curve (R² = {fit.r2:.2f}); look at it."
    elif not len(below):
        text = (
            f"The curve is not saturated after {count} votes: the fit falls by another {float(fit.at(count)) - limit:.4f} "
            "nats; ask for more."
        )
    else:
        first = int(below[0]) + 1
        text = (
            f"The rule of arXiv 2601.14620 suggests {first} synthetic {'vote' if first == 1 else 'votes'} per item: the "
            f"fitted divergence is then within a tenth of its total fall, from {top:.4f} to {limit:.4f} nats."
        )
    return SaturationFinding(first, text, fit, threshold)


def _fall(n: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    return a - b * np.exp(-c * n)


def _fit(y: np.ndarray) -> Fit | None:
    """Least squares; None if it does not converge."""
    n, scale = np.arange(1, len(y) + 1, dtype=np.float64), y.max() - y.min()
    # Of order 1, as the tolerances expect.
    fallen = (y.max() - y) / scale
    bounds = ([0, 0, 1e-4], [100, 1000, 50])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)
            (a, b, c), _ = curve_fit(_fall, n, fallen, p0=(1.0, 1.0, 0.3), bounds=bounds, max_nfev=10_000)
    except (RuntimeError, ValueError, OptimizeWarning):
        return None
    r2 = 1 - float(((fallen - _fall(n, a, b, c)) ** 2).mean() / fallen.var())
    return Fit(float(a * scale), float(b * scale), float(c), float(y.max()), r2)


@dataclass(frozen=True, eq=False)
class SyntheticAgreement:
    """Measure -> stratum ("all", "low", "mid", "high") -> "synthetic", "person", "difference" -> `value`, `low`, `high`.

    Also the `items` and range of entropy of the `strata`, and the `counts` of items used and left out.
    """

    records: dict[str, dict[str, dict[str, Any]]]
    strata: dict[str, dict[str, Any]]
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        titles = {
            name: dict(zip(("title", "unit", "better"), AGREEMENT_MEASURES[name], strict=True)) for name in self.records
        }
        return {"records": self.records, "titles": titles, "strata": self.strata, "counts": self.counts}


def measure_agreement(
    human: np.ndarray, synthetic: np.ndarray, support: Sequence[str], resamples: Resamples | None = None
) -> SyntheticAgreement:
    """Agreement of synthetic annotators, and of people, with people, from whole votes `(I, K)` of items, by ambiguity."""
    human, synthetic = (np.asarray(counts, dtype=np.float64) for counts in (human, synthetic))
    rows = human.sum(1) >= 2
    if (synthetic.sum(1) < 1).any():
        raise ValueError("An item has no synthetic vote; leave such items out.")
    if not rows.any():
        raise ValueError(
            f"None of {len(human)} items has votes of two people, so there is no agreement among people to compare with."
        )
    human, synthetic = human[rows], synthetic[rows]
    q, p = (counts / counts.sum(1, keepdims=True) for counts in (human, synthetic))
    strata = [one for one in entropy_strata(q, support) if one.scheme == "tertiles"]
    # (I, strata), the first of all items.
    member = np.stack([np.ones(len(q)), *(one.rows for one in strata)], axis=1)
    several = synthetic.sum(1) >= 2
    person, model = _left_out(human, p)
    values = {
        ("accuracy", PERSON): person,
        ("accuracy", SYNTHETIC): model,
        ("agreement", PERSON): measures.pair_agreement(human),
        ("agreement", SYNTHETIC): (p * q).sum(1),
        ("among", PERSON): measures.pair_agreement(human),
        ("among", SYNTHETIC): np.where(several, measures.pair_agreement(synthetic), 0),
        ("entropy", PERSON): measures.entropy(q, normalised=True),
        ("entropy", SYNTHETIC): measures.entropy(p, normalised=True),
        ("jsd", SYNTHETIC): measures.jsd(p, q),
        ("accuracy_plurality", SYNTHETIC): (_plurality(human) * p).sum(1),
    }
    columns = {of: column[:, None] * member for of, column in values.items()}
    columns |= {"items": member, "several": several[:, None] * member}
    columns |= {who: votes[:, None] * member[..., None] for who, votes in ((PERSON, human), (SYNTHETIC, synthetic))}
    sums = (resamples or Resamples()).select(rows).sums(columns)
    drawn = {of: ratio(sums[of], sums["several" if of == ("among", SYNTHETIC) else "items"]) for of in values}
    shares = {who: ratio(sums[who], sums[who].sum(-1, keepdims=True)) for who in (PERSON, SYNTHETIC)}
    for who, share in shares.items():
        chance = (share * shares[PERSON]).sum(-1)
        drawn["kappa", who] = ratio(drawn["agreement", who] - chance, np.where(chance < 1 - 1e-12, 1 - chance, 0))
    records: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in AGREEMENT_MEASURES}
    for name, about in AGREEMENT_MEASURES.items():
        for index, stratum in enumerate((ALL, *(one.name for one in strata))):
            draws = {who: drawn[name, who][:, index] for who in (SYNTHETIC, PERSON) if (name, who) in drawn}
            measured = Measured(*about, draws)
            records[name][stratum] = {who: measured.at(who) for who in draws}
            if len(draws) == 2:
                records[name][stratum]["difference"] = measured.difference(SYNTHETIC, PERSON)
    found = {ALL: {"items": len(q), "low": None, "high": None}}
    found |= {one.name: {"items": int(one.rows.sum()), "low": one.low, "high": one.high} for one in strata}
    return SyntheticAgreement(records, found, {"items": len(q), "items with fewer than 2 people": int((~rows).sum())})


def _left_out(human: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability `(I,)` that the vote of the person left out, and a synthetic vote, is the plurality of the other people."""
    person, model = np.zeros(len(human)), np.zeros(len(human))
    share = human / human.sum(1, keepdims=True)
    for label in range(human.shape[1]):
        rest = human.copy()
        # Labels without a vote have weight 0 below.
        rest[:, label] -= 1
        winner = _plurality(rest)
        person += share[:, label] * winner[:, label]
        model += share[:, label] * (winner * p).sum(1)
    return person, model


def _plurality(counts: np.ndarray) -> np.ndarray:
    """The most frequent labels `(I, K)`, which share a mass of 1."""
    # Shared ties need no label names.
    return winners(counts, counts, (), "share")
