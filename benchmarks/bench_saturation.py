"""Saturation curve of 5,000 items, 20 votes, 9 labels, 5 resamples: below 2 s; parity with the expectation over all draws.

The expectation needs no draws: the divergence is a sum over labels, and how often a label is among n votes is hypergeometric.
"""

from collections.abc import Iterator

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import hypergeom

from annot_hf.evaluation.saturation import measure_curve
from benchmarks.timing import Result, best

SECONDS, VOTES, LABELS, RESAMPLES = 2.0, 20, 9, 5


def one_at_a_time(counts: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The plain way: draw n votes of every item anew for every n."""
    rng, curve = np.random.default_rng(0), np.zeros(VOTES)
    votes = [np.repeat(np.arange(LABELS), row) for row in counts]
    for _ in range(RESAMPLES):
        for n in range(1, VOTES + 1):
            drawn = [np.bincount(rng.choice(one, n, replace=False), minlength=LABELS) / n for one in votes]
            curve[n - 1] += (jensenshannon(drawn, reference, axis=1) ** 2).mean() / RESAMPLES
    return curve


def expectation(counts: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean over all draws `(N,)`."""
    curve, q = np.zeros(VOTES), reference[..., None]
    for n in range(1, VOTES + 1):
        m = np.arange(n + 1)
        chance = hypergeom.pmf(m, VOTES, np.arange(VOTES + 1)[:, None], n)[counts]  # (items, labels, n + 1)
        p = m / n
        middle = np.maximum((p + q) / 2, 1e-300)
        terms = p * np.log(np.maximum(p, 1e-300) / middle) + q * np.log(np.maximum(q, 1e-300) / middle)
        curve[n - 1] = (chance * terms).sum((1, 2)).mean() / 2
    return curve


def run() -> Iterator[Result]:
    rng = np.random.default_rng(0)
    reference = rng.dirichlet(np.ones(LABELS), 5000)
    counts = np.array([rng.multinomial(VOTES, q) for q in rng.dirichlet(np.ones(LABELS), 5000)])
    items = [f"item{row}" for row in range(5000)]

    def ours(size: int) -> np.ndarray:
        return measure_curve(counts[:size], reference[:size], items[:size], VOTES, repeats=RESAMPLES).mean

    (seconds,) = best(lambda: ours(5000), rounds=3)
    difference = float(np.abs(ours(5000) - expectation(counts, reference)).max())
    yield Result("saturation, 5k x 20 x 9, 5 times", "the goal of 2 s", SECONDS, seconds, 1.0, difference, 2e-3)
    seconds, baseline = best(lambda: ours(200), lambda: one_at_a_time(counts[:200], reference[:200]), rounds=2)
    difference = float(np.abs(ours(200) - expectation(counts[:200], reference[:200])).max())
    yield Result(
        "saturation, 200 x 20 x 9, 5 times", "a draw at a time, scipy", baseline, seconds, 10.0, difference, 1e-2
    )
