"""Kullback-Leibler divergence of predictions from the votes, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric, unit_of
from .measures import kl


class KullbackLeiblerDivergence(DistributionMetric):
    """Kullback-Leibler divergence of predictions from the votes."""

    key = "kld"
    about = """\
Kullback-Leibler divergence KL(votes || prediction), averaged over items: 0 to infinity, in nats, or bits with base=2.
It is infinite where a label with votes is predicted with probability 0.
"""
    citation = """\
@article{kullback1951information,
  title={On Information and Sufficiency},
  author={Kullback, Solomon and Leibler, Richard A.},
  journal={The Annals of Mathematical Statistics}, volume={22}, number={1}, pages={79--86}, year={1951}
}
"""
    options = """\
    base: Base of the logarithm: None for nats, 2 for bits.
"""

    def measure(self, p: np.ndarray, q: np.ndarray, base: float | None = None) -> tuple:
        """See `about`."""
        return kl(q, p, base), unit_of(base)
