"""Cross-entropy as LeWiDi 2023 computes it, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import lewidi_cross_entropy


class LeWiDiCrossEntropy(DistributionMetric):
    """Cross-entropy as LeWiDi 2023 computes it."""

    key = "lewidi_cross_entropy"
    about = """\
Soft cross-entropy of the shared task LeWiDi 2023 (SemEval-2023 task 11): -sum q ln(p + 1e-9) with p clipped to
[1e-12, 1 - 1e-12], averaged over items; 0 to 20.7 nats. Rows are taken as they are.
"""
    citation = """\
@inproceedings{leonardelli2023semeval,
  title={SemEval-2023 Task 11: Learning with Disagreements (LeWiDi)},
  author={Leonardelli, Elisa and others},
  booktitle={SemEval}, pages={2304--2318}, year={2023}
}
"""

    def check(self, rows: list, name: str) -> np.ndarray:
        """Rows as they are, once they are distributions: the task does not normalise rounded soft labels."""
        super().check(rows, name)
        return np.asarray(rows, dtype=np.float64)

    def measure(self, p: np.ndarray, q: np.ndarray) -> tuple:
        """See `about`."""
        return lewidi_cross_entropy(p, q), "nats"
