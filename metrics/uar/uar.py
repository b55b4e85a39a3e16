"""Unweighted average recall of the most probable label, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import speaker_uar


class UnweightedAverageRecall(DistributionMetric):
    """Unweighted average recall of the most probable label."""

    key = "uar"
    about = """\
Mean recall over the labels that win the vote of an item: an item's label is the one with most votes (the first of tied ones),
the predicted label the most probable one. 0 to 1.
"""
    citation = """\
@inproceedings{schuller2009interspeech,
  title={The INTERSPEECH 2009 Emotion Challenge},
  author={Schuller, Bj{\"o}rn and Steidl, Stefan and Batliner, Anton},
  booktitle={Interspeech}, pages={312--315}, year={2009}
}
"""

    def measure(self, p: np.ndarray, q: np.ndarray) -> tuple:
        """See `about`."""
        return speaker_uar(p, q, np.zeros(len(p)))[1][0], "recall"
