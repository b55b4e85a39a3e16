"""Scores of further predictions of a distribution model: scales, such as valence, and disagreement."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.predictions import Predictions
from annot_hf.data.targets import disagreement, scale_means
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.resampling import Measured, Resamples

FITS = {"ccc": ("CCC", "higher"), "pearson": ("Pearson", "higher"), "rmse": ("RMSE", "lower")}
# A normal distribution has 95 % of its mass within this many standard deviations.
NORMAL_95 = 1.96


def describe_scales(predictions: Predictions, votes: VoteTable, items: Sequence[str]) -> dict[str, Any]:
    """Facts behind the measures of scales and of disagreement.

    Args:
        predictions: The predictions of a model.
        votes: The votes.
        items: Evaluated items `(n,)`.

    Returns:
        `scales`: for each further scale question, `question`, the number of rated `items`, and `covered`, the share of items
        whose mean rating lies within 1.96 predicted deviations. `disagreement`: its `kind`, and the number of `items` with two
        votes or more; None without such predictions or items.
    """
    scales = []
    for name in scale_names({"model": predictions}, votes):
        true, mean, deviation, _ = _rated(predictions, votes, items, name)
        covered = float((abs(mean - true) <= NORMAL_95 * deviation).mean())
        scales.append({"question": name, "items": len(true), "covered": covered})
    disputed = None
    if predictions.disagreement is not None:
        voted = np.isfinite(_voted_disagreement(predictions, votes, items))
        if voted.any():
            disputed = {"kind": predictions.disagreement_kind, "items": int(voted.sum())}
    return {"scales": scales, "disagreement": disputed}


def scale_names(systems: Mapping[str, Predictions], votes: VoteTable) -> list[str]:
    """Scale questions of the votes that a system predicts besides its distribution, in the order of the votes."""
    answered = {question.name for one in systems.values() for question in one.scales}
    return [question.name for question in votes.questions if question.is_scale and question.name in answered]


def measure_scales(
    systems: Mapping[str, Predictions],
    votes: VoteTable,
    items: Sequence[str],
    resamples: Resamples | None = None,
) -> dict[str, Measured]:
    """CCC, Pearson's r and RMSE on [-1, 1] of every scale question, all systems on the same resamples of rated items.

    Args:
        systems: System -> predictions; systems without the question are left out.
        votes: The votes.
        items: Evaluated items `(n,)`.
        resamples: Bootstrap resamples of these items; 1,000 of single items when None.

    Returns:
        Measures by name, such as "ccc_valence".
    """
    found = {}
    for name in scale_names(systems, votes):
        draws: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in FITS}
        for system, predictions in systems.items():
            if name not in [question.name for question in predictions.scales]:
                continue
            true, mean, _, rated = _rated(predictions, votes, items, name)
            fit = (resamples or Resamples()).select(rated).fit(mean, true)
            for kind in FITS:
                draws[kind][system] = fit[kind]
        for kind, (title, better) in FITS.items():
            found[f"{kind}_{name}"] = Measured(f"{title}, {name}", "on [-1, 1]", better, draws[kind])
    return found


def _rated(
    predictions: Predictions, votes: VoteTable, items: Sequence[str], name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean rating, predicted mean and deviation of the rated items `(r,)`, and which of the items they are `(n,)`."""
    column = [question.name for question in predictions.scales].index(name)
    rows = pd.Index(predictions.items).get_indexer(pd.Index(items))
    true = scale_means(votes, name, items)[:, 0]
    rated = np.isfinite(true)
    rows = rows[rated]
    return true[rated], predictions.scale_means[rows, column], predictions.scale_deviations[rows, column], rated


def measure_disagreement(
    systems: Mapping[str, Predictions], votes: VoteTable, items: Sequence[str], resamples: Resamples | None = None
) -> dict[str, Measured]:
    """CCC, Pearson's r and RMSE of predicted disagreement against that of the votes, over items with two votes or more.

    Args:
        systems: System -> predictions; systems without predicted disagreement are left out.
        votes: The votes.
        items: Evaluated items `(n,)`.
        resamples: Bootstrap resamples of these items; 1,000 of single items when None.

    Returns:
        "disagreement_ccc", "disagreement_pearson" and "disagreement_rmse"; empty if no system predicts disagreement.
    """
    draws: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in FITS}
    for system, predictions in systems.items():
        if predictions.disagreement is None:
            continue
        true = _voted_disagreement(predictions, votes, items)
        voted = np.isfinite(true)
        if voted.any():
            rows = pd.Index(predictions.items).get_indexer(pd.Index(items))[voted]
            fit = (resamples or Resamples()).select(voted).fit(predictions.disagreement[rows], true[voted])
            for kind in FITS:
                draws[kind][system] = fit[kind]
    return {
        f"disagreement_{kind}": Measured(f"{title} of disagreement", "0 to 1", better, draws[kind])
        for kind, (title, better) in FITS.items()
        if draws[kind]
    }


def _voted_disagreement(predictions: Predictions, votes: VoteTable, items: Sequence[str]) -> np.ndarray:
    """Disagreement of the votes on each item `(n,)`, of the predicted kind; NaN with fewer than two votes."""
    asked = votes.question(predictions.questions[0].name)
    if predictions.disagreement_kind == "deviation" and not asked.is_scale and asked.labels != predictions.support:
        raise ValueError(
            f"Question {asked.name!r} has the steps {', '.join(asked.labels)} in the votes and "
            f"{', '.join(predictions.support)} in the predictions; a deviation needs one order of labels."
        )
    names = [question.name for question in predictions.questions]
    return disagreement(votes, names, items, predictions.disagreement_kind)
