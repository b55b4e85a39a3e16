"""Manhattan distance as LeWiDi 2025 computes it, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import tvd


class LeWiDiManhattan(DistributionMetric):
    """Manhattan distance as LeWiDi 2025 computes it."""

    key = "lewidi_manhattan"
    about = """\
Manhattan distance sum |p - q| of the soft tasks of LeWiDi 2025, averaged over items: 0 to 2. For VariErrNLI, give
one row per item and label.
"""
    citation = """\
@inproceedings{leonardelli2025lewidi,
  title={LeWiDi-2025 at NLPerspectives: The Third Edition of the Learning with Disagreements Shared Task},
  author={Leonardelli, Elisa and others},
  booktitle={NLPerspectives}, year={2025}
}
"""

    def measure(self, p: np.ndarray, q: np.ndarray) -> tuple:
        """See `about`."""
        return 2 * tvd(p, q), "distance"
