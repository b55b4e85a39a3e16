"""Soft accuracy of predicted distributions, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import tvd


class SoftAccuracy(DistributionMetric):
    """Soft accuracy of predicted distributions."""

    key = "soft_accuracy"
    about = """\
Soft accuracy sum min(p, q) of predicted and voted distributions, averaged over items: 0 to 1 (equal).
"""
    citation = """\
@misc{kurniawan2025training,
  title={Training and Evaluating with Human Label Variation: An Empirical Study},
  author={Kurniawan, Kemal and Mistica, Meladel and Baldwin, Timothy and Lau, Jey Han},
  note={arXiv:2502.01891}, year={2025}
}
"""

    def measure(self, p: np.ndarray, q: np.ndarray) -> tuple:
        """See `about`."""
        return 1 - tvd(p, q), "probability"
