"""Correlation of predicted with voted entropies, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import entropy_correlation


class EntropyCorrelation(DistributionMetric):
    """Correlation of predicted with voted entropies."""

    key = "entropy_correlation"
    about = """\
Pearson correlation of the entropies of predicted and voted distributions over items: -1 to 1; 0 for constant entropies.
"""
    citation = """\
@article{uma2021learning,
  title={Learning from Disagreement: A Survey},
  author={Uma, Alexandra and others},
  journal={Journal of Artificial Intelligence Research}, volume={72}, pages={1385--1470}, year={2021}
}
"""
    example = {
        "predictions": [[0.6, 0.2, 0.1, 0.1], [0.9, 0.1, 0, 0]],
        "references": [[0.5, 0.5, 0, 0], [1, 0, 0, 0]],
    }

    def measure(self, p: np.ndarray, q: np.ndarray) -> tuple:
        """See `about`."""
        return entropy_correlation(p, q), "correlation"
