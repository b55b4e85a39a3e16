"""One million pairs of distributions over 9 labels, and the concordance of a million pairs of values."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon
from torchmetrics.functional import concordance_corrcoef

from annot_hf.models.measures import ccc, jsd, tvd
from benchmarks.timing import Result, best


def run() -> Iterator[Result]:
    generator = np.random.default_rng(0)
    p, q = (generator.dirichlet(np.ones(9), 1_000_000).astype(np.float32) for _ in range(2))
    seconds, baseline = best(lambda: jsd(p, q), lambda: jensenshannon(p, q, axis=1), rounds=5)
    difference = float(np.abs(jsd(p, q) - jensenshannon(p, q, axis=1) ** 2).max())
    yield Result("JSD, 1M x 9 float32", "scipy jensenshannon(axis=1)", baseline, seconds, 4.0, difference, 2e-6)

    def plain() -> np.ndarray:
        return 0.5 * np.abs(p - q).sum(1)

    seconds, baseline = best(lambda: tvd(p, q), plain, rounds=5)
    difference = float(np.abs(tvd(p, q) - plain()).max())
    yield Result("TVD, 1M x 9 float32", "np.abs(p - q).sum(1) / 2", baseline, seconds, 1.0, difference, 1e-6)

    x = torch.randn(2, 1_000_000, generator=torch.Generator().manual_seed(0))
    x[1] += x[0]
    seconds, baseline = best(lambda: ccc(x[0], x[1]), lambda: concordance_corrcoef(x[0], x[1]))
    difference = abs(float(ccc(x[0], x[1])) - float(concordance_corrcoef(x[0], x[1])))
    yield Result("CCC, 1M float32", "torchmetrics concordance_corrcoef", baseline, seconds, 1.0, difference, 1e-4)
