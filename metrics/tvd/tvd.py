"""Total variation distance between predicted and voted distributions, as an `evaluate` metric."""

import datasets
import evaluate
import numpy as np

from .measures import check_distributions, same_order, tvd

_DESCRIPTION = """\
Total variation distance 1/2 sum |p - q| between predicted and voted distributions, averaged over items: 0 to 1.
"""

_INPUTS = """\
Args:
    predictions: One predicted distribution per item, each a list of probabilities that sums to 1.
    references: The distribution of human votes for each item, over the same labels.
    per_item: Also return the value of every item.
"""

_CITATION = """\
@book{levin2017markov,
  title={Markov Chains and Mixing Times},
  author={Levin, David A. and Peres, Yuval},
  publisher={American Mathematical Society},
  edition={2}, year={2017}
}
"""


class TotalVariationDistance(evaluate.Metric):
    """Mean total variation distance over items."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("float64")),
                }
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
        per_item: bool = False,
        # `evaluate.combine` passes the options of all metrics to each metric.
        **_: object,
    ) -> dict:
        for name, rows in (("predictions", predictions), ("references", references)):
            widths = {len(row) for row in rows}
            if len(widths) > 1:
                raise ValueError(f"{name} have rows of {sorted(widths)} probabilities; give every row the same labels.")
            check_distributions(rows, name)
        p, q = (np.asarray(rows, dtype=np.float64) for rows in (predictions, references))
        # Normalise, because float32 inputs are rounded.
        p, q = (rows / rows.sum(axis=1, keepdims=True) for rows in (p, q))
        values = tvd(p, q)
        result = {"tvd": float(values.mean()), "unit": "probability"}
        return result | {"per_item": values.tolist()} if per_item else result
