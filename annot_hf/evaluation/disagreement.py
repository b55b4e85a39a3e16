"""Scores of the disagreement that a model predicts beside its distribution."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from annot_hf.data.targets import disagreement
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.predictions import Predictions
from annot_hf.evaluation.statistics import estimate, resample_fit
from annot_hf.evaluation.tables import Cell, Table, value_cell


def score_disagreement(
    predictions: Predictions,
    votes: VoteTable,
    items: Sequence[str],
    *,
    speakers: Sequence[str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Compare predicted disagreement with that of the votes.

    Args:
        predictions: With `disagreement`, or there is nothing to compare.
        votes: The votes.
        items: Evaluated items `(n,)`.
        speakers: Speaker of each of them `(n,)`, whom intervals resample; the items themselves when None.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        `kind`, `items` (those with two votes or more), and `ccc`, `pearson` and `rmse` with their intervals; None without
        such predictions or items.
    """
    if predictions.disagreement is None:
        return None
    asked = votes.question(predictions.questions[0].name)
    if predictions.disagreement_kind == "deviation" and not asked.is_scale and asked.labels != predictions.support:
        raise ValueError(
            f"Question {asked.name!r} has the steps {', '.join(asked.labels)} in the votes and "
            f"{', '.join(predictions.support)} in the predictions; a deviation needs one order of labels."
        )
    row = {name: index for index, name in enumerate(predictions.items)}
    names = [question.name for question in predictions.questions]
    true = disagreement(votes, names, items, predictions.disagreement_kind)
    voted = np.isfinite(true)
    if not voted.any():
        return None
    true, predicted = true[voted], predictions.disagreement[[row[item] for item in items]][voted]
    clusters = None if speakers is None else np.asarray(speakers)[voted]
    fit = resample_fit(predicted, true, clusters, n_resamples=n_resamples, seed=seed)
    scores = {name: estimate(draws).to_dict() for name, draws in fit.items()}
    return {"kind": predictions.disagreement_kind, "items": int(voted.sum()), **scores}


def disagreement_table(found: Mapping[str, Any] | None) -> list[Table]:
    """One line; nothing without predictions of disagreement."""
    if found is None:
        return []
    cells = (value_cell(found[name]) for name in ("ccc", "pearson", "rmse"))
    note = (
        "Predicted against actual disagreement of the raters, over items with two votes or more: the entropy of the votes "
        "over ln K, the standard deviation of the answers on [\u22121, 1], or the variance of the votes summed over labels."
    )
    return [
        Table(
            "Disagreement beside the distribution",
            ("Disagreement", "CCC", "Pearson", "RMSE", "Items"),
            [(Cell(found["kind"]), *cells, Cell(f"{found['items']:,}"))],
            note,
        )
    ]
