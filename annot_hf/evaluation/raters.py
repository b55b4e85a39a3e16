"""Scores of single answers: how well the model predicts each rater's votes and recovers each rater's bias."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from annot_hf.data.predictions import Predictions
from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import FLOOR, Reference, dimensions, expectation
from annot_hf.evaluation.resampling import Measured, Resamples, with_interval
from annot_hf.models.measures import ccc_of, moments, pearson_of, slope_of

# A rater needs this many votes for their own CCC.
MIN_VOTES = 2


def measure_raters(
    predictions: Predictions, rows: np.ndarray, reference: Reference
) -> tuple[dict[str, Measured], dict[str, int], np.ndarray]:
    """Measures over the votes of named raters for which the model predicts an answer, and counts of these votes.

    Every vote counts. If a rater chose several labels of an item, or voted several times, each vote is compared with the one
    predicted answer (targets hold a rater's mean where repeated ratings of a scale can be identified). For a rater unseen in
    training, the consensus is the predicted answer.

    For scales, per question: CCC over all votes; CCC over items of the raters' mean answer, predicted and actual
    (arXiv 2408.11956); the mean CCC of raters with at least two votes (its interval resamples raters); and the mean absolute
    error in units of the scale. For a category question: accuracy and cross-entropy of the rater's own label. The systems are
    the rater's prediction ("model"), the "consensus" and the "marginal", on the same votes.

    Args:
        predictions: The predictions of the model.
        rows: Their row for each evaluated item `(n,)`.
        reference: The reference with the targets.

    Returns:
        The measures, empty without any such vote; the counts; and which of `targets.ratings` were scored.
    """
    targets = reference.targets
    ratings = targets.ratings
    evaluated = np.full(len(targets.items), -1)
    evaluated[reference.rows] = np.arange(len(reference.rows))
    item = evaluated[ratings.item]
    value = np.asarray(ratings.value, dtype=np.float64)
    answered = np.isfinite(value).any(axis=1) if targets.questions[0].is_scale else value[:, 0] >= 0
    votes = np.flatnonzero((item >= 0) & answered)
    keys, answer_rows = _answer_rows(predictions, targets, rows)
    pairs = item[votes] * len(targets.annotators) + ratings.annotator[votes]
    answers = keys.get_indexer(pairs)
    scored, answer_rows = votes[answers >= 0], answer_rows[answers[answers >= 0]]
    fallback = predictions.rater_fallback[answer_rows]
    counts = {
        "raters_voting": len(np.unique(ratings.annotator[votes])),
        "rater_votes": len(votes),
        "rater_votes_own_head": int((~fallback).sum()),
        "rater_votes_consensus_fallback": int(fallback.sum()),
        "rater_votes_without_prediction": len(votes) - len(scored),
        "rater_votes_incomplete": int(np.isnan(value[votes]).any(axis=1).sum()),
        "rater_votes_repeated": len(votes) - len(np.unique(pairs)),
        "raters_unseen": len(np.unique(ratings.annotator[scored[fallback]])),
    }
    if not len(scored):
        return {}, counts, scored
    rater = ratings.annotator[scored]
    counts["raters_scored"] = len(np.unique(rater))
    drawn = reference.resamples
    drawn = replace(drawn, clusters=item[scored] if drawn.clusters is None else drawn.clusters[item[scored]])
    systems = _systems(predictions, reference, rows[item[scored]], answer_rows)
    if targets.questions[0].is_scale:
        return _scale_measures(targets, value[scored], systems, rater, item[scored], drawn, counts), counts, scored
    return _category_measures(value[scored, 0].astype(int), systems, drawn), counts, scored


def rater_bias(predictions: Predictions) -> pd.DataFrame:
    """Mean difference between each rater's predicted answers and the consensus prediction for the same items.

    Covers raters with their own head, on scale questions. Without a consensus head, the expectation of the predicted
    distribution is used.

    Returns:
        One row per rater (index), one column per question in units of its scale, and the number of `items` predicted.
    """
    if not predictions.is_scale:
        raise ValueError("Rater bias needs scale questions; the predictions are over labels.")
    own = ~predictions.rater_fallback
    halves = np.array([(question.high - question.low) / 2 for question in predictions.questions])
    difference = predictions.rater_values[own] - _consensus(predictions)[predictions.rater_items[own]]
    names = [question.name for question in predictions.questions]
    table = pd.DataFrame(difference * halves, columns=names).groupby(predictions.rater_names[own]).mean()
    table["items"] = pd.Series(predictions.rater_names[own]).value_counts()
    return table


def vote_bias(votes: VoteTable, question: str) -> pd.Series:
    """Mean difference between each named rater's votes and the mean vote on the same items, without a model.

    Items with a single vote are left out, and so are raters with only such items.

    Returns:
        One value per rater (index), in units of the question's scale.
    """
    rows = votes.rows_of(question)
    table = pd.DataFrame({"item": votes.item_codes[rows], "rater": votes.annotator_codes[rows]})
    table["rating"] = votes.ratings[rows]
    per_item = table.groupby("item")["rating"]
    table["deviation"] = table["rating"] - per_item.transform("mean")
    table = table[(table["rater"] >= 0) & (per_item.transform("size") > 1)]
    found = table.groupby("rater")["deviation"].mean()
    return found.set_axis(votes.annotators[found.index])


def recovered_bias(
    predictions: Predictions,
    raters: pd.DataFrame,
    *,
    votes: VoteTable | None = None,
    resamples: Resamples | None = None,
) -> dict[str, dict[str, Any]]:
    """Compare `rater_bias` with the bias that a simulation gave each rater.

    Args:
        predictions: Answers predicted for simulated raters.
        raters: `Truth.raters` of the simulation: one row per rater (index) with columns `bias_<question>`, on [-1, 1].
        votes: Votes for the simple baseline, `vote_bias`.
        resamples: Resamples behind the interval, here of raters; 1,000 when None.

    Returns:
        Per question: `correlation` (Pearson) and `slope` (of recovered on true bias), both with interval, and `raters`,
        `true`, `recovered` `(A,)`, in units of the question's scale. `baseline` has the same for `vote_bias`, over the
        raters who voted; it is None without votes.

    Raises:
        ValueError: The table has no bias for a question, or none of its raters was predicted.
    """
    found = rater_bias(predictions)
    known = [name for name in found.index if name in raters.index]
    if not known:
        raise ValueError("None of the raters in the truth has a predicted answer; check that the rater names agree.")
    out = {}
    for question in predictions.questions:
        column = f"bias_{question.name}"
        if column not in raters:
            raise ValueError(f"The truth has columns {', '.join(raters.columns)}; it needs {column!r}.")
        true = raters.loc[known, column].to_numpy(dtype=np.float64) * (question.high - question.low) / 2
        recovered = found.loc[known, question.name].to_numpy()
        baseline = None
        if votes is not None:
            simple = vote_bias(votes, question.name).reindex(known).to_numpy()
            voted = np.isfinite(simple)
            if voted.any():
                baseline = _agreement(simple[voted], true[voted], resamples) | {"raters": int(voted.sum())}
        out[question.name] = _agreement(recovered, true, resamples) | {
            "raters": known,
            "true": true,
            "recovered": recovered,
            "baseline": baseline,
        }
    return out


def _agreement(found: np.ndarray, true: np.ndarray, resamples: Resamples | None) -> dict[str, dict[str, Any]]:
    """Correlation of found and true biases `(A,)`, and slope of found on true, resampling raters."""
    pairs = (resamples or Resamples()).of_units().sums({"pairs": moments(found, true)})["pairs"]
    return {
        "correlation": with_interval(pearson_of(pairs)).to_dict(),
        "slope": with_interval(slope_of(pairs)).to_dict(),
    }


def _answer_rows(predictions: Predictions, targets: Targets, evaluated: np.ndarray) -> tuple[pd.Index, np.ndarray]:
    """Keys item * A + annotator of the predicted answers that may match a vote, and their rows."""
    position = np.full(len(predictions), -1)
    position[evaluated] = np.arange(len(evaluated))
    names = pd.Index(np.asarray(targets.annotators, dtype=object))
    item, rater = position[predictions.rater_items], names.get_indexer(pd.Index(predictions.rater_names))
    rows = np.flatnonzero((item >= 0) & (rater >= 0))
    keys = pd.Index(item[rows] * len(names) + rater[rows])
    if not keys.is_unique:
        row = rows[np.argmax(keys.duplicated())]
        raise ValueError(
            f"Predictions answer twice for rater {predictions.rater_names[row]!r} on item "
            f"{predictions.items[predictions.rater_items[row]]!r}; give one answer per pair."
        )
    return keys, rows


def _systems(
    predictions: Predictions, reference: Reference, items: np.ndarray, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Predictions of each system for the scored votes: `(P, D)` values or `(P, K)` probabilities."""
    constant = reference.marginal[None]
    if predictions.is_scale:
        constant = np.stack([expectation(one) for one in dimensions(constant, reference.targets.questions)], axis=1)
    consensus = _consensus(predictions)[items]
    found = {
        "model": predictions.rater_values[rows],
        "consensus": consensus,
        "marginal": np.broadcast_to(constant, consensus.shape),
    }
    if predictions.is_scale:
        return found
    # Rows of half precision do not sum to 1 exactly.
    return {name: probs / probs.sum(axis=1, keepdims=True) for name, probs in found.items()}


def _consensus(predictions: Predictions) -> np.ndarray:
    """The consensus prediction of every item; without such a head, the predicted distribution."""
    if predictions.consensus is not None:
        return predictions.consensus
    if not predictions.is_scale:
        return predictions.probs
    probs = predictions.probs / predictions.probs.sum(axis=1, keepdims=True)
    return np.stack([expectation(one) for one in dimensions(probs, predictions.questions)], axis=1)


def _scale_measures(
    targets: Targets,
    value: np.ndarray,
    systems: dict[str, np.ndarray],
    rater: np.ndarray,
    item: np.ndarray,
    resamples: Resamples,
    counts: dict[str, int],
) -> dict[str, Measured]:
    records = {}
    for index, question in enumerate(targets.questions):
        rated = np.isfinite(value[:, index])
        if not rated.any():
            continue
        vote, half = value[rated, index], (question.high - question.low) / 2
        pairs = {name: moments(said[rated, index], vote) for name, said in systems.items()}
        errors = {name: half * abs(said[rated, index] - vote) for name, said in systems.items()}
        columns = {f"{name}/pairs": column for name, column in pairs.items()} | {"count": np.ones(len(vote))}
        columns |= {f"{name}/error": column for name, column in errors.items()}
        sums = resamples.select(rated).sums(columns)
        pooled = {name: ccc_of(sums[f"{name}/pairs"]) for name in systems}
        error = {name: sums[f"{name}/error"] / sums["count"] for name in systems}
        records[f"rater_ccc_{question.name}"] = Measured(
            f"CCC over all votes of named raters, {question.name}", "-1 to 1", "higher", pooled
        )
        _, first, of = np.unique(item[rated], return_index=True, return_inverse=True)
        share = sparse.csr_array((1 / np.bincount(of)[of], (of, np.arange(len(of)))))
        means = {name: moments(share @ said[rated, index], share @ vote) for name, said in systems.items()}
        sums = resamples.select(np.flatnonzero(rated)[first]).sums(means)
        records[f"mean_answer_ccc_{question.name}"] = Measured(
            f"CCC of the mean of the raters' answers to an item, {question.name}",
            "-1 to 1",
            "higher",
            {name: ccc_of(sums[name]) for name in systems},
        )
        _, codes = np.unique(rater[rated], return_inverse=True)
        several = np.bincount(codes) >= MIN_VOTES
        counts[f"raters_with_own_ccc_{question.name}"] = int(several.sum())
        if several.any():
            by_rater = sparse.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))))
            own = {name: ccc_of(by_rater @ column)[several] for name, column in pairs.items()}
            sums = resamples.of_units().sums(own | {"count": np.ones(int(several.sum()))})
            records[f"rater_mean_ccc_{question.name}"] = Measured(
                f"Mean of each rater's CCC (at least {MIN_VOTES} votes), {question.name}",
                "-1 to 1",
                "higher",
                {name: sums[name] / sums["count"] for name in systems},
            )
        unit = f"points on {question.low:g} to {question.high:g}"
        records[f"rater_mae_{question.name}"] = Measured(f"Mean absolute error, {question.name}", unit, "lower", error)
    return records


def _category_measures(label: np.ndarray, systems: dict[str, np.ndarray], resamples: Resamples) -> dict[str, Measured]:
    columns = {"count": np.ones(len(label))}
    for name, probs in systems.items():
        columns[f"{name}/right"] = (probs.argmax(axis=1) == label).astype(np.float64)
        columns[f"{name}/loss"] = -np.log(np.maximum(probs[np.arange(len(label)), label], FLOOR))
    sums = resamples.sums(columns)
    right, loss = ({name: sums[f"{name}/{what}"] / sums["count"] for name in systems} for what in ("right", "loss"))
    return {
        "rater_accuracy": Measured("Accuracy of each rater's own label", "0 to 1", "higher", right),
        "rater_cross_entropy": Measured("Cross-entropy of each rater's own label", "nats", "lower", loss),
    }
