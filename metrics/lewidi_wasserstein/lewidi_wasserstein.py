"""Wasserstein distance as LeWiDi 2025 computes it, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import emd


class LeWiDiWasserstein(DistributionMetric):
    """Wasserstein distance as LeWiDi 2025 computes it."""

    key = "lewidi_wasserstein"
    about = """\
Wasserstein distance between distributions over the steps of a scale, of the soft tasks of LeWiDi 2025, averaged over items:
0 to K - 1 steps.
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
        return emd(p, q), "steps"
