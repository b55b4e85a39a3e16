"""n-best unweighted average recall, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import speaker_uar


class NBestUnweightedAverageRecall(DistributionMetric):
    """n-best unweighted average recall."""

    key = "nbest_uar"
    about = """\
Unweighted average recall where an item counts as recalled if the label with most votes is among the n most probable ones.
0 to 1.
"""
    citation = """\
@misc{mitra2025,
  author={Mitra and Romana and Tran and Azemi},
  note={arXiv:2503.22711}, year={2025}
}
"""
    options = """\
    n: How many of the most probable labels count, 2 by default.
"""

    def measure(self, p: np.ndarray, q: np.ndarray, n: int = 2) -> tuple:
        """See `about`."""
        if not 1 <= n < p.shape[1]:
            raise ValueError(f"n is {n}, and there are {p.shape[1]} labels; give 1 or more, and fewer than the labels.")
        return speaker_uar(p, q, np.zeros(len(p)), n)[1][0], "recall"
