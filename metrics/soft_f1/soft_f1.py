"""Soft F1 of predicted distributions, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import soft_f1


class SoftF1(DistributionMetric):
    """Soft F1 of predicted distributions."""

    key = "soft_f1"
    about = """\
Soft F1: of each label 2 sum min(p, q) / sum (p + q) over all items, then the mean over labels (average="macro"), or of all
labels together (average="micro"). 0 to 1 (equal).
"""
    citation = """\
@misc{kurniawan2025training,
  title={Training and Evaluating with Human Label Variation: An Empirical Study},
  author={Kurniawan, Kemal and Mistica, Meladel and Baldwin, Timothy and Lau, Jey Han},
  note={arXiv:2502.01891}, year={2025}
}
"""
    options = """\
    average: "macro" or "micro".
"""

    def measure(self, p: np.ndarray, q: np.ndarray, average: str = "macro") -> tuple:
        """See `about`."""
        if average not in ("macro", "micro"):
            raise ValueError(f"average is {average!r}; use macro or micro.")
        if average == "micro":
            # Every row sums to 1, so that all labels together are one label of twice the items.
            return soft_f1(p.reshape(-1, 1), q.reshape(-1, 1))[0], "F1"
        return soft_f1(p, q).mean(), "F1"
