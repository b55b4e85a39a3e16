"""Scores of the scales that a distribution model answers beside its distribution, such as valence.

Scores of the disagreement that a model predicts beside its distribution.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.predictions import Predictions
from annot_hf.data.targets import disagreement, scale_means
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.resampling import Measured, estimate, resample_fit

KINDS = {"ccc": ("CCC", "higher"), "pearson": ("Pearson", "higher"), "rmse": ("RMSE", "lower")}
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
    one, found = {"model": predictions}, []
    measured = measure_scales(one, votes, items, speakers=speakers, n_resamples=n_resamples, seed=seed)
    for name in scale_names(one, votes):
        true, mean, deviation, _ = _rated(predictions, votes, items, name)
        found.append(
            {
                "question": name,
                "items": len(true),
                **{kind: estimate(measured[f"{kind}_{name}"].draws["model"]).to_dict() for kind in KINDS},
                "covered": float((abs(mean - true) <= COVERED * deviation).mean()),
            }
        )
    return found


def scale_names(systems: Mapping[str, Predictions], votes: VoteTable) -> list[str]:
    """Scale questions of the votes that some of the systems answer beside their distribution, in the order of the votes."""
    answered = {question.name for one in systems.values() for question in one.scales}
    return [question.name for question in votes.questions if question.is_scale and question.name in answered]


def measure_scales(
    systems: Mapping[str, Predictions],
    votes: VoteTable,
    items: Sequence[str],
    *,
    speakers: Sequence[str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Measured]:
    """CCC, Pearson's r and RMSE on [-1, 1] of every scale question, all systems on the same resamples of rated items.

    Args:
        systems: System -> predictions; one without the question is not among its draws.
        votes: The votes.
        items: Evaluated items `(n,)`.
        speakers: Speaker of each of them `(n,)`, whom resamples draw; the items themselves when None.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Measures by name, such as "ccc_valence".
    """
    found = {}
    for name in scale_names(systems, votes):
        draws: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
        for system, predictions in systems.items():
            if name not in [question.name for question in predictions.scales]:
                continue
            true, mean, _, rated = _rated(predictions, votes, items, name)
            clusters = None if speakers is None else np.asarray(speakers)[rated]
            fit = resample_fit(mean, true, clusters, n_resamples=n_resamples, seed=seed)
            for kind in KINDS:
                draws[kind][system] = fit[kind]
        for kind, (title, better) in KINDS.items():
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
