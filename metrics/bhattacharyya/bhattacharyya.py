"""Bhattacharyya coefficient of predicted and voted distributions, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import bhattacharyya


class BhattacharyyaCoefficient(DistributionMetric):
    """Bhattacharyya coefficient of predicted and voted distributions."""

    key = "bhattacharyya"
    about = """\
Bhattacharyya coefficient sum sqrt(p q) of predicted and voted distributions, averaged over items: 0 to 1 (equal).
"""
    citation = """\
@article{bhattacharyya1943measure,
  title={On a measure of divergence between two statistical populations defined by their probability distributions},
  author={Bhattacharyya, Anil},
  journal={Bulletin of the Calcutta Mathematical Society}, volume={35}, pages={99--109}, year={1943}
}
"""

    def measure(self, p: np.ndarray, q: np.ndarray) -> tuple:
        """See `about`."""
        return bhattacharyya(p, q), "probability"
