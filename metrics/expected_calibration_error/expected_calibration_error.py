"""Calibration of label probabilities against vote shares, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import calibration_gaps


class ExpectedCalibrationError(DistributionMetric):
    """Calibration of label probabilities against vote shares."""

    key = "expected_calibration_error"
    about = """\
Calibration error of label probabilities against vote shares: items fall into 10 equal bins of a label's probability, and
the error is 1/N sum over bins |sum (q - p)|, averaged over labels (of="labels"), or of the most probable label (of="top").
0 to 1.
"""
    citation = """\
@inproceedings{kull2019beyond,
  title={Beyond temperature scaling: Obtaining well-calibrated multi-class probabilities with Dirichlet calibration},
  author={Kull, Meelis and others},
  booktitle={NeurIPS}, year={2019}
}
"""
    options = """\
    of: "labels" for the mean over labels, or "top" for the most probable label.
"""

    def measure(self, p: np.ndarray, q: np.ndarray, of: str = "labels") -> tuple:
        """See `about`."""
        if of not in ("labels", "top"):
            raise ValueError(f"of is {of!r}; use labels or top.")
        errors = abs(calibration_gaps(p, q).mean(axis=0)).sum(axis=-1)
        return errors[-1] if of == "top" else errors[:-1].mean(), "probability"
