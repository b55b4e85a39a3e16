"""Cross-entropy of predictions under the votes, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric, unit_of
from .measures import cross_entropy


class CrossEntropy(DistributionMetric):
    """Cross-entropy of predictions under the votes."""

    key = "cross_entropy"
    about = """\
Cross-entropy -sum q ln p of predictions p under the votes q, averaged over items: from the entropy of the votes to infinity,
in nats, or bits with base=2.
"""
    citation = """\
@inproceedings{peterson2019human,
  title={Human Uncertainty Makes Classification More Robust},
  author={Peterson, Joshua C. and Battleday, Ruairidh M. and Griffiths, Thomas L. and Russakovsky, Olga},
  booktitle={ICCV}, pages={9617--9626}, year={2019}
}
"""
    options = """\
    base: Base of the logarithm: None for nats, 2 for bits.
"""

    def measure(self, p: np.ndarray, q: np.ndarray, base: float | None = None) -> tuple:
        """See `about`."""
        return cross_entropy(q, p, base), unit_of(base)
