"""Jensen-Shannon divergence between predicted and voted distributions, as an `evaluate` metric."""

import datasets
import evaluate
import numpy as np

from .measures import check_distributions, jsd, same_order

_DESCRIPTION = """\
Jensen-Shannon divergence (not its square root) between predicted and voted distributions, averaged over items.
In nats, 0 to 0.693; in bits, 0 to 1, with base=2. The result names its unit.
"""

_INPUTS = """\
Args:
    predictions: One predicted distribution per item, each a list of probabilities that sums to 1.
    references: The distribution of human votes for each item, over the same labels.
    base: Base of the logarithm: None for nats, 2 for bits.
    per_item: Also return the value of every item.
"""

_CITATION = """\
@article{lin1991divergence,
  title={Divergence measures based on the Shannon entropy},
  author={Lin, Jianhua},
  journal={IEEE Transactions on Information Theory},
  volume={37}, number={1}, pages={145--151}, year={1991}
}
"""


class JensenShannonDivergence(evaluate.Metric):
    """Mean Jensen-Shannon divergence over items."""

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
        base: float | None = None,
        per_item: bool = False,
        # `evaluate.combine` passes the options of all metrics to each metric.
        **_: object,
    ) -> dict:
        if base is not None and not (0 < base < np.inf and base != 1):
            raise ValueError(f"base is {base}; use None for nats, 2 for bits, or another positive base.")
        for name, rows in (("predictions", predictions), ("references", references)):
            widths = {len(row) for row in rows}
            if len(widths) > 1:
                raise ValueError(f"{name} have rows of {sorted(widths)} probabilities; give every row the same labels.")
            check_distributions(rows, name)
        p, q = (np.asarray(rows, dtype=np.float64) for rows in (predictions, references))
        # Normalise, because float32 inputs are rounded.
        p, q = (rows / rows.sum(axis=1, keepdims=True) for rows in (p, q))
        values = jsd(p, q, base)
        unit = {None: "nats", 2: "bits"}.get(base, f"base {base}")
        result = {"jsd": float(values.mean()), "unit": unit}
        return result | {"per_item": values.tolist()} if per_item else result
