"""Scores of the scales that a distribution model answers beside its distribution, such as valence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from annot_hf.data.targets import scale_means
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.predictions import Predictions
from annot_hf.evaluation.statistics import ccc_of, estimate, moments, pearson_of, resample_sums
from annot_hf.evaluation.tables import Cell, Table, number, value_cell

COVERED = 1.96  # deviations on either side that hold 95 % of a normal distribution


def score_scales(
    predictions: Predictions,
    votes: VoteTable,
    items: Sequence[str],
    *,
    speakers: Sequence[str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compare predicted with mean ratings, one entry a scale question that the votes have.

    Args:
        predictions: With `scales`.
        votes: The votes.
        items: Evaluated items `(n,)`.
        speakers: Speaker of each of them `(n,)`, whom intervals resample; the items themselves when None.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Dictionaries with `question`, `items` (rated ones), `ccc` and `pearson` with their intervals, `rmse` on [-1, 1]
        with its interval, and `covered`: the share of items whose mean rating lies within 1.96 predicted deviations.
    """
    row = {name: index for index, name in enumerate(predictions.items)}
    rows = np.array([row[item] for item in items])
    asked = {question.name for question in votes.questions if question.is_scale}
    found = []
    for column, question in enumerate(predictions.scales):
        if question.name not in asked:
            continue
        true = scale_means(votes, question.name, items)[:, 0]
        rated = np.isfinite(true)
        true, mean = true[rated], predictions.scale_means[rows[rated], column]
        deviation = predictions.scale_deviations[rows[rated], column]
        clusters = None if speakers is None else np.asarray(speakers)[rated]
        columns = {"pairs": moments(mean, true), "square": (mean - true) ** 2, "count": np.ones(len(true))}
        sums = resample_sums(columns, clusters, n_resamples=n_resamples, seed=seed)
        found.append(
            {
                "question": question.name,
                "items": int(rated.sum()),
                "ccc": estimate(ccc_of(sums["pairs"])).to_dict(),
                "pearson": estimate(pearson_of(sums["pairs"])).to_dict(),
                "rmse": estimate(np.sqrt(sums["square"] / sums["count"])).to_dict(),
                "covered": float((abs(mean - true) <= COVERED * deviation).mean()),
            }
        )
    return found


def scale_table(found: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One line a scale; nothing without any."""
    if not found:
        return []
    rows = [
        (
            Cell(one["question"]),
            *(value_cell(one[name]) for name in ("ccc", "pearson", "rmse")),
            Cell(f"{number(100 * one['covered'], 1)} %"),
            Cell(f"{one['items']:,}"),
        )
        for one in found
    ]
    note = (
        "Predicted against mean ratings, on the scale normalised to [\u22121, 1]. Within \u00b11.96 \u03c3: share of items "
        "whose mean rating lies there; 95 % if the predicted deviations are right."
    )
    return [
        Table(
            "Scales beside the distribution",
            ("Scale", "CCC", "Pearson", "RMSE", "Within \u00b11.96 \u03c3", "Items"),
            rows,
            note,
        )
    ]
