"""What the `evaluate` modules share: features, checks and the form of the result; linked into every folder."""

import abc
import inspect

import datasets
import evaluate
import numpy as np

from .measures import check_distributions, same_order


class DistributionMetric(evaluate.Metric, metaclass=abc.ABCMeta):
    """A measure between predicted and voted distributions; a subclass describes and computes it.

    `key` names the value in the result, `beside` the features of inputs next to the two distributions, `options` documents
    options of `measure`, and `example` is the first table of the Space.
    """

    key = about = citation = ""
    options = ""
    beside: dict = {}
    example = {"predictions": [[0.6, 0.2, 0.1, 0.1]], "references": [[1.0, 0.0, 0.0, 0.0]]}
    row = datasets.List(datasets.Value("float64"))
    predictions_are = "One predicted distribution per item, each a list of probabilities that sums to 1."
    references_are = "The distribution of human votes for each item, over the same labels."

    @abc.abstractmethod
    def measure(self, p: np.ndarray, q: np.ndarray) -> tuple:
        """The value of every item `(N,)`, or of all `()`, and its unit, for predictions and references `(N, K)`."""

    def check(self, rows: list, name: str) -> np.ndarray:
        """Rows as an array; a ValueError unless they are distributions. Float32 inputs are rounded, so they are normalised."""
        widths = {len(row) for row in rows}
        if len(widths) > 1:
            raise ValueError(f"{name} have rows of {sorted(widths)} probabilities; give every row the same labels.")
        check_distributions(rows, name)
        rows = np.asarray(rows, dtype=np.float64)
        return rows / rows.sum(axis=1, keepdims=True)

    def add_batch(self, *, predictions: object = None, references: object = None, **others: object) -> None:
        """Add items; data frames and series must have the same names in the same order."""
        predictions, references = same_order(predictions, references)
        super().add_batch(predictions=predictions, references=references, **others)

    def _info(self) -> evaluate.MetricInfo:
        inputs = (
            f"Args:\n    predictions: {self.predictions_are}\n    references: {self.references_are}\n{self.options}"
        )
        features = {"predictions": self.row, "references": self.row, **self.beside}
        return evaluate.MetricInfo(
            description=self.about,
            citation=self.citation,
            inputs_description=f"{inputs}    per_item: Also return the value of every item, if items have one.\n",
            features=datasets.Features(features),
        )

    def _compute(self, predictions: list, references: list, per_item: bool = False, **given: object) -> dict:
        p, q = self.check(predictions, "predictions"), self.check(references, "references")
        # Answers of raters are lists.
        widths = {rows.shape[1] for rows in (p, q) if isinstance(rows, np.ndarray)}
        if len(widths) > 1 or widths == {1}:
            told = " and ".join(map(str, sorted(widths)))
            raise ValueError(f"Rows have {told} entries; give the same labels to both, two or more.")
        # `evaluate.combine` passes the options of all metrics to each metric.
        known = inspect.signature(self.measure).parameters
        values, unit = self.measure(p, q, **{name: value for name, value in given.items() if name in known})
        result = {self.key: float(np.mean(values)), "unit": unit}
        return result | {"per_item": np.asarray(values).tolist()} if per_item and np.ndim(values) else result


def unit_of(base: float | None) -> str:
    """The unit of an entropy or divergence to this base."""
    return {None: "nats", 2: "bits"}.get(base, f"base {base}")
