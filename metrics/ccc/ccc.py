"""Concordance correlation coefficient of predicted and rated values, as an `evaluate` metric."""

import datasets
import evaluate
import numpy as np

from .measures import ccc, same_order

_DESCRIPTION = """\
Concordance correlation coefficient (Lin 1989) with population moments: -1 to 1; 0 for a constant input.
"""

_INPUTS = """\
Args:
    predictions: One predicted value per item.
    references: The rated value of each item.
"""

_CITATION = """\
@article{lin1989concordance,
  title={A concordance correlation coefficient to evaluate reproducibility},
  author={Lin, Lawrence I-Kuei},
  journal={Biometrics},
  volume={45}, number={1}, pages={255--268}, year={1989}
}
"""


class ConcordanceCorrelationCoefficient(evaluate.Metric):
    """Concordance correlation coefficient over all items."""

    example = {"predictions": [0.1, 0.4, 0.9], "references": [0.2, 0.3, 1.0]}

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def add_batch(self, *, predictions: object = None, references: object = None, **others: object) -> None:
        """Add items; data frames and series must have the same names in the same order."""
        predictions, references = same_order(predictions, references)
        super().add_batch(predictions=predictions, references=references, **others)

    def _compute(
        self,
        predictions: list,
        references: list,
        # `evaluate.combine` passes the options of all metrics to each metric.
        **_: object,
    ) -> dict:
        for name, values in (("predictions", predictions), ("references", references)):
            bad = np.flatnonzero(~np.isfinite(np.asarray(values, dtype=np.float64)))
            if bad.size:
                raise ValueError(f"{name}: row {bad[0]} is not a finite number; leave the item out.")
        value = ccc(np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64))
        return {"ccc": float(value), "unit": "correlation"}
