"""Scores of single answers: how well a model predicts each rater's votes and recovers each rater's bias."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from annot_hf.data.predictions import Predictions, dimensions, expectation
from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import FLOOR, Reference
from annot_hf.evaluation.resampling import Arrays, Measured, Measures, Resamples, with_interval
from annot_hf.evaluation.scoring import TASKS, steps_of
from annot_hf.models.kde import bins_of, cell_masses
from annot_hf.models.measures import answer_errors, ccc_of, mixture, moments, pearson_of, ratio, slope_of

if TYPE_CHECKING:
    from annot_hf.data.simulate import Truth

MARGINAL, CONSENSUS = "marginal", "consensus"
# A rater needs this many votes for their own CCC.
MIN_VOTES = 2


def measure_raters(
    systems: Mapping[str, Predictions], reference: Reference, task: str = ""
) -> tuple[Measures, dict[str, int], bool, pd.DataFrame]:
    """Measures over the votes of named raters, counts of the first system, whether all predict the same votes, and raters.

    A vote is compared with the predicted answer of its rater to its item; for raters unseen in training that is the consensus,
    and so it is for every rater in a system that answers for none. Scales have CCC over votes, over items' mean answers (arXiv
    2408.11956) and by rater, and the mean absolute error. Intervals resample clusters and raters, each by themselves; those of
    mean answers, clusters alone. With a task that scores it, "rater_error" is among them (see `_task_error`). The last table
    has a row per rater: the votes, and the rater's own measure by system.
    """
    targets, ratings = reference.targets, reference.targets.ratings
    value, annotators = np.asarray(ratings.value, dtype=np.float64), np.asarray(targets.annotators, dtype=object)
    answered = np.isfinite(value).any(axis=1) if targets.questions[0].is_scale else value[:, 0] >= 0
    # The evaluated item of every rating, or -1.
    item = pd.Index(reference.items).get_indexer(targets.items)[ratings.item]
    votes = np.flatnonzero((item >= 0) & answered)
    pairs = pd.MultiIndex.from_arrays([reference.items[item[votes]], annotators[ratings.annotator[votes]]])
    answering = next((one for one in systems.values() if len(one.rater_items)), None)
    if answering is not None:
        systems = {
            name: one if len(one.rater_items) else without_raters(one, answering) for name, one in systems.items()
        }
    found = {system: _answer_rows(predictions, pairs, reference) for system, predictions in systems.items()}
    first, one = next(iter(systems.items()))
    said = found[first] >= 0
    scored, answers = votes[said], found[first][said]
    at, rater, fallback = item[scored], ratings.annotator[scored], one.rater_fallback[answers]
    counts = {
        "raters_voting": len(np.unique(ratings.annotator[votes])),
        "rater_votes": len(votes),
        "rater_votes_own_head": int((~fallback).sum()),
        "rater_votes_consensus_fallback": int(fallback.sum()),
        "rater_votes_without_prediction": len(votes) - len(scored),
        "rater_votes_incomplete": int(np.isnan(value[votes]).any(axis=1).sum()),
        "rater_votes_repeated": int(pairs.duplicated().sum()),
        "raters_unseen": len(np.unique(rater[fallback])),
    }
    same = all(np.array_equal(theirs >= 0, said) for theirs in found.values())
    if not len(scored):
        return {}, counts, same, pd.DataFrame()
    counts["raters_scored"] = len(np.unique(rater))
    constant = _expectations(reference.marginal[None], targets) if one.is_scale else reference.marginal
    predicted = {system: other.rater_values[found[system][said]] for system, other in systems.items()} if same else {}
    predicted[MARGINAL] = np.broadcast_to(constant, (len(scored), one.rater_width))
    drawn = reference.resamples
    drawn = replace(drawn, clusters=at if drawn.clusters is None else drawn.clusters[at])
    index, count = np.unique(rater, return_counts=True)
    own = {"votes": pd.Series(count, annotators[index])}
    if one.is_scale:
        measured = _scale_measures(reference, scored, at, predicted, drawn, counts, own)
    else:
        label = value[scored, 0].astype(int)
        measured = _category_measures(label, rater, predicted, drawn, own)
        if "rater_error" in TASKS.get(task, ()):
            measured["rater_error"] = _task_error(label, at, predicted, targets.support, drawn)
    return measured if same else {}, counts, same, pd.DataFrame(own, annotators[index])


def without_raters(predictions: Predictions, pairs: Predictions | None = None) -> Predictions:
    """Predictions that answer for every rater with their consensus, to the raters and items of `pairs`, if given."""
    pairs = predictions if pairs is None else pairs
    at = pd.Index(predictions.items).get_indexer(pairs.items)[pairs.rater_items]
    known = at >= 0
    return replace(
        predictions,
        rater_items=at[known],
        rater_names=pairs.rater_names[known],
        rater_values=_consensus(predictions)[at[known]],
        rater_fallback=np.ones(known.sum(), dtype=bool),
    )


def consensus_alone(predictions: Predictions, marginal: Sequence[float] | None = None) -> Predictions | None:
    """What the consensus answers tell without the raters; None without such a head, or if no kernel was chosen in training.

    On scales the distribution is that of the consensus answer under a constant kernel, of the width that suits the validation
    votes best (`meta["consensus_width"]`), with their best share (`meta["consensus_share"]`) of the `marginal` `(K,)`;
    of a category question it is the consensus. Every rater answers with the consensus.
    """
    probs, width = predictions.consensus, predictions.meta.get("consensus_width")
    if probs is None or (predictions.is_scale and width is None):
        return None
    if predictions.is_scale:
        bins = bins_of(predictions.support, predictions.questions)
        probs = cell_masses(probs[:, None], bins=bins, bandwidth=width).reshape(len(probs), -1)
        share = 0.0 if marginal is None else predictions.meta.get("consensus_share", 0.0)
        probs = mixture(probs, np.asarray(marginal), share) if share else probs
    return replace(without_raters(predictions), probs=probs)


def held_against(
    predictions: Predictions,
    controls: Mapping[str, Predictions] | None = None,
    truth: "Truth | None" = None,
    marginal: Sequence[float] | None = None,
) -> dict[str, Predictions]:
    """What to hold a model of raters against: its consensus "alone", the controls given, and the "best" if the truth is known.

    Empty for a model without answers of raters' own.
    """
    if predictions.rater_fallback.all():
        return {}
    alone = consensus_alone(predictions, marginal)
    found = {**({} if alone is None else {"alone": alone}), **(controls or {})}
    return found | ({} if truth is None or not predictions.is_scale else {"best": truth.best(predictions)})


def _answer_rows(predictions: Predictions, pairs: pd.MultiIndex, reference: Reference) -> np.ndarray:
    """Row of the predicted answer to each pair of an item and a rater `(V,)`, or -1."""
    items = predictions.items[predictions.rater_items]
    known = pd.Index(items).isin(reference.items)
    known = np.flatnonzero(known & pd.Index(predictions.rater_names).isin(reference.targets.annotators))
    said = pd.MultiIndex.from_arrays([items[known], predictions.rater_names[known]])
    if not said.is_unique:
        item, rater = said[said.duplicated()][0]
        raise ValueError(f"Predictions answer twice for rater {rater!r} on item {item!r}; give one answer per pair.")
    # The last entry stands for no answer.
    return np.append(known, -1)[said.get_indexer(pairs)]


def _consensus(predictions: Predictions) -> np.ndarray:
    """The consensus prediction of every item; without such a head, the predicted distribution."""
    if predictions.consensus is not None:
        return predictions.consensus
    if not predictions.is_scale:
        return predictions.probs
    return _expectations(predictions.probs / predictions.probs.sum(axis=1, keepdims=True), predictions)


def _expectations(probs: np.ndarray, of: Targets | Predictions) -> np.ndarray:
    """Expected value `(n, D)` on each of the scales."""
    return np.stack([expectation(one) for one in dimensions(probs, of.questions)], axis=1)


def _scale_measures(
    reference: Reference,
    scored: np.ndarray,
    item: np.ndarray,
    systems: Arrays,
    drawn: Resamples,
    counts: dict[str, int],
    own: dict[str, pd.Series],
) -> Measures:
    """Measures of the systems' answers `(P, D)` to the scored votes on items `(P,)`; adds to `counts` and to `own`."""
    targets, ratings = reference.targets, reference.targets.ratings
    value, rater = np.asarray(ratings.value, dtype=np.float64)[scored], ratings.annotator[scored]
    records = {}
    for index, question in enumerate(targets.questions):
        name, rated = question.name, np.flatnonzero(np.isfinite(value[:, index]))
        if not len(rated):
            continue
        vote, said = value[rated, index], {system: values[rated, index] for system, values in systems.items()}
        half = (question.high - question.low) / 2
        pairs = {system: moments(values, vote) for system, values in said.items()}
        errors = {(system, "error"): half * abs(values - vote) for system, values in said.items()}
        part = drawn.select(rated)
        totals, means, each = _over_raters(part, rater[rated], pairs | errors)
        _, first = np.unique(item[rated], return_index=True)
        answers = pd.DataFrame(said).groupby(item[rated]).mean()
        true = pd.Series(vote).groupby(item[rated]).mean()
        of_items = part.select(first).means({system: moments(answers[system], true) for system in systems})
        cccs = {
            ("rater_ccc", "CCC over all votes of named raters"): {system: ccc_of(totals[system]) for system in systems},
            ("mean_answer_ccc", "CCC of the mean of the raters' answers to an item"): {
                system: ccc_of(of_items[system]) for system in systems
            },
        }
        several = np.isfinite(each[MARGINAL])
        counts[f"raters_with_own_ccc_{name}"] = int(several.sum())
        if several.any():
            title = f"Mean of each rater's CCC (at least {MIN_VOTES} votes)"
            cccs["rater_mean_ccc", title] = {system: means[system] for system in systems}
            who = np.asarray(targets.annotators, dtype=object)[np.unique(rater[rated])]
            for system in systems:
                own[f"ccc_{name}_{system}"] = pd.Series(each[system], who)
        for (kind, title), draws in cccs.items():
            records[f"{kind}_{name}"] = Measured(f"{title}, {name}", "-1 to 1", "higher", draws)
        unit = f"points on {question.low:g} to {question.high:g}"
        draws = {system: totals[system, "error"] / totals[system][:, 0] for system in systems}
        records[f"rater_mae_{name}"] = Measured(f"Mean absolute error, {name}", unit, "lower", draws)
    return records


def _category_measures(
    label: np.ndarray, rater: np.ndarray, systems: Arrays, resamples: Resamples, own: dict[str, pd.Series]
) -> Measures:
    """Measures of the systems' P(label) `(P, K)` against labels `(P,)` of raters `(P,)`; adds to `own`."""
    columns = {"votes": np.ones(len(label))}
    for name, probs in systems.items():
        # Rows of half precision do not sum to 1 exactly.
        probs = probs / probs.sum(axis=1, keepdims=True)
        columns["right", name] = probs.argmax(axis=1) == label
        columns["loss", name] = -np.log(np.maximum(probs[np.arange(len(label)), label], FLOOR))
        for what, measure in (("right", "accuracy"), ("loss", "cross_entropy")):
            own[f"{measure}_{name}"] = pd.Series(columns[what, name]).groupby(rater).mean().set_axis(own["votes"].index)
    totals, _, _ = _over_raters(resamples, rater, columns)
    right, loss = ({name: totals[what, name] / totals["votes"] for name in systems} for what in ("right", "loss"))
    return {
        "rater_accuracy": Measured("Accuracy of each rater's own label", "0 to 1", "higher", right),
        "rater_cross_entropy": Measured("Cross-entropy of each rater's own label", "nats", "lower", loss),
    }


def _task_error(
    label: np.ndarray, item: np.ndarray, systems: Arrays, support: Sequence[str], resamples: Resamples
) -> Measured:
    """Error of the systems' answers by P(label) `(P, K)` to the labels `(P,)` of raters of the items `(P,)` (LeWiDi 2025).

    A model answers with the best label for this error: the most probable one, or where labels are numbers, whose distance
    counts, the median. Intervals resample clusters.
    """
    steps = steps_of(support)
    values = np.arange(len(support)) if steps is None else steps
    rank = np.argsort(values)
    by_item = np.argsort(item, kind="stable")
    first = np.flatnonzero(np.diff(item[by_item], prepend=-1))

    def of_items(codes: np.ndarray) -> list[np.ndarray]:
        return np.split(values[codes[by_item]], first[1:])

    errors = {}
    for name, probs in systems.items():
        # Rows of half precision do not sum to 1 exactly.
        below = probs[:, rank].cumsum(axis=1) < probs.sum(axis=1, keepdims=True) / 2
        answer = rank[below.sum(axis=1)] if steps is not None else probs.argmax(axis=1)
        errors[name] = answer_errors(of_items(answer), of_items(label), None if steps is None else np.ptp(steps))
    draws = resamples.select(by_item[first]).means(errors)
    return Measured("Error of the answers of raters, mean over items (LeWiDi 2025)", "0 to 1", "lower", draws)


def _over_raters(resamples: Resamples, rater: np.ndarray, columns: Arrays) -> tuple[Arrays, Arrays, Arrays]:
    """Sums over votes `(P, ...)` in the data and in every resample of clusters and raters `(1 + B, ...)`.

    For `moments` `(P, 6)` also the mean over raters of their own CCC `(1 + B,)`, of those with `MIN_VOTES` votes in the
    resample, and the CCC of every rater `(U,)` in the data; NaN with fewer votes.
    """
    totals, means, own = defaultdict(list), defaultdict(list), {}
    for times, sums in resamples.by_unit(columns, rater):
        for name, one in sums.items():
            totals[name].append(np.einsum("nu,nu...->n...", times, one))
            if one.ndim == 3:
                enough, ccc = one[..., 0] >= MIN_VOTES, ccc_of(one)
                means[name].append(ratio((times * enough * ccc).sum(axis=1), (times * enough).sum(axis=1)))
                own.setdefault(name, np.where(enough, ccc, np.nan)[0])
    joined = ({name: np.concatenate(parts) for name, parts in one.items()} for one in (totals, means))
    return *joined, own


def rater_bias(predictions: Predictions) -> pd.DataFrame:
    """Mean difference between each rater's (index) predicted answers and the consensus for the same items, on the scale."""
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
    """Mean difference between each named rater's votes and the mean of the items with several votes, on the scale."""
    rows = votes.rows_of(question)
    table = pd.DataFrame({"item": votes.item_codes[rows], "rater": votes.annotator_codes[rows]})
    table["rating"] = votes.ratings[rows]
    per_item = table.groupby("item")["rating"]
    table["deviation"] = table["rating"] - per_item.transform("mean")
    table = table[(table["rater"] >= 0) & (per_item.transform("size") > 1)]
    found = table.groupby("rater")["deviation"].mean()
    return found.set_axis(votes.annotators[found.index])


def recovered_bias(
    predictions: Predictions, raters: pd.DataFrame, votes: VoteTable | None = None, resamples: Resamples | None = None
) -> dict[str, dict[str, Any]]:
    """Compare `rater_bias` with the bias that a simulation gave each rater (`Truth.raters`, on [-1, 1]), resampling raters.

    Per question: `correlation` and `slope` (of recovered on true bias), `raters`, and `true` and `recovered` `(A,)` on its
    scale; `baseline` has the same for `vote_bias` over the raters who voted, if any.
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
        true = raters.loc[known, column].astype(np.float64) * (question.high - question.low) / 2
        recovered = found.loc[known, question.name]
        out[question.name] = _agreement(recovered, true, resamples) | {
            "raters": known,
            "true": true.to_numpy(),
            "recovered": recovered.to_numpy(),
            "baseline": None,
        }
        simple = None if votes is None else vote_bias(votes, question.name).reindex(known).dropna()
        if simple is not None and len(simple):
            baseline = _agreement(simple, true[simple.index], resamples) | {"raters": len(simple)}
            out[question.name]["baseline"] = baseline
    return out


def _agreement(found: pd.Series, true: pd.Series, resamples: Resamples | None) -> dict[str, dict[str, Any]]:
    """Correlation of found and true biases `(A,)`, and slope of found on true, resampling raters."""
    pairs = (resamples or Resamples()).of_units().sums({"pairs": moments(found, true)})["pairs"]
    return {
        "correlation": with_interval(pearson_of(pairs)).to_dict(),
        "slope": with_interval(slope_of(pairs)).to_dict(),
    }
