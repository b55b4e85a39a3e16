"""Error of the answers predicted for raters, as LeWiDi 2025 computes it, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import answer_errors


class LeWiDiRaterError(DistributionMetric):
    """Error of the answers predicted for raters, as LeWiDi 2025 computes it."""

    key = "lewidi_rater_error"
    about = """\
Error of the answers predicted for each rater, of the perspectivist tasks of LeWiDi 2025: the share of wrong answers, or with
scale_range the distance divided by the range of the scale; averaged over the raters of an item, then over items. 0 to 1.
"""
    citation = """\
@inproceedings{leonardelli2025lewidi,
  title={LeWiDi-2025 at NLPerspectives: The Third Edition of the Learning with Disagreements Shared Task},
  author={Leonardelli, Elisa and others},
  booktitle={NLPerspectives}, year={2025}
}
"""
    options = """\
    scale_range: Highest minus lowest step of a scale (CSC 5, Paraphrase 10); None for labels (MP, VariErrNLI).
"""
    predictions_are = "The answers predicted for the raters of each item, a list of numbers per item."
    references_are = "The raters' own answers, in the same order."
    example = {"predictions": [[1, 0, 1, 1]], "references": [[1, 0, 0, 1]]}

    def check(self, rows: list, name: str) -> list:
        """Answers as arrays; a ValueError unless every item has one, and all are finite."""
        rows = [np.asarray(row, dtype=np.float64) for row in rows]
        if not rows:
            raise ValueError(f"{name} has no entries; give a non-empty list of items.")
        for number, row in enumerate(rows):
            if not row.size or not np.isfinite(row).all():
                raise ValueError(f"{name}: row {number} is {row.tolist()}; give a finite answer of at least one rater.")
        return rows

    def measure(self, p: np.ndarray, q: np.ndarray, scale_range: float | None = None) -> tuple:
        """See `about`."""
        if scale_range is not None and not scale_range > 0:
            raise ValueError(
                f"scale_range is {scale_range}; give the highest minus the lowest step, such as 5 for 1 to 6."
            )
        for number, (one, other) in enumerate(zip(p, q, strict=True)):
            if len(one) != len(other):
                raise ValueError(
                    f"Row {number} has {len(one)} predictions and {len(other)} references; give one per rater."
                )
            if scale_range is not None and np.ptp([*one, *other]) > scale_range:
                raise ValueError(
                    f"Row {number} has answers {np.ptp([*one, *other]):g} apart, more than scale_range {scale_range:g}; give "
                    "answers on the scale, and its highest minus its lowest step."
                )
        return answer_errors(p, q, scale_range), "share of answers" if scale_range is None else "share of the range"
