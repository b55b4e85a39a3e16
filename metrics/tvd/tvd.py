"""Total variation distance between predicted and voted distributions, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import tvd


class TotalVariationDistance(DistributionMetric):
    """Total variation distance between predicted and voted distributions."""

    key = "tvd"
    about = """\
Total variation distance 1/2 sum |p - q| between predicted and voted distributions, averaged over items: 0 to 1.
"""
    citation = """\
@book{levin2017markov,
  title={Markov Chains and Mixing Times},
  author={Levin, David A. and Peres, Yuval},
  publisher={American Mathematical Society}, edition={2}, year={2017}
}
"""

    def measure(self, p: np.ndarray, q: np.ndarray) -> tuple:
        """See `about`."""
        return tvd(p, q), "probability"
