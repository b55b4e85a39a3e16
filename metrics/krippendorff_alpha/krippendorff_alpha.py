"""Krippendorff's alpha of raters, as an `evaluate` metric over the package `krippendorff`."""

import datasets
import evaluate
import krippendorff
import numpy as np

_DESCRIPTION = """\
Krippendorff's alpha, how far raters agree beyond chance: 1 for perfect agreement, 0 for chance, below 0 for less.
"""

_INPUTS = """\
Args:
    votes: One list per item with the vote of each rater, as a number; None where a rater did not vote.
    level: "nominal", "ordinal", "interval" or "ratio".
"""

_CITATION = """\
@book{krippendorff2018content,
  title={Content Analysis: An Introduction to Its Methodology},
  author={Krippendorff, Klaus},
  publisher={Sage}, edition={4}, year={2018}
}
"""
LEVELS = ("nominal", "ordinal", "interval", "ratio")


class KrippendorffAlpha(evaluate.Metric):
    """Krippendorff's alpha over all items."""

    example = {"votes": [[1, 1, None], [2, 2, 2], [1, 2, None]]}

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"votes": datasets.List(datasets.Value("float64"))}),
        )

    # `evaluate.combine` passes the options of all metrics to each metric.
    def _compute(self, votes: list, level: str = "nominal", **_: object) -> dict:
        if level not in LEVELS:
            raise ValueError(f"level is {level!r}; use one of {', '.join(LEVELS)}.")
        if not votes:
            raise ValueError("votes has no entries; give a non-empty list of items.")
        raters = max(map(len, votes))
        table = np.full((raters, len(votes)), np.nan)
        for item, row in enumerate(votes):
            given = np.array([np.nan if vote is None else vote for vote in row], dtype=np.float64)
            if np.isinf(given).any():
                raise ValueError(f"votes: row {item} holds infinity; give finite numbers, and None for no vote.")
            if level == "ratio" and (given < 0).any():
                raise ValueError(
                    f"votes: row {item} holds a number below 0, where a ratio scale starts; use 'interval'."
                )
            table[: len(row), item] = given
        pairs = (~np.isnan(table)).sum(axis=0) >= 2
        if len(np.unique(table[:, pairs][~np.isnan(table[:, pairs])])) < 2:
            raise ValueError("votes have no two different values in items with two votes; alpha is undefined.")
        return {"krippendorff_alpha": float(krippendorff.alpha(table, level_of_measurement=level)), "unit": "agreement"}
