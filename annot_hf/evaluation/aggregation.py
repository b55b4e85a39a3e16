"""Labels from votes by the methods of crowd-kit and cleanlab, and how far each moves them from the majority and the shares."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.encoding import check_choice
from annot_hf.data.predictions import Predictions
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.resampling import Resamples, with_interval
from annot_hf.models.access import needs
from annot_hf.models.measures import jsd

MAJORITY, CROWDLAB = "majority", "CROWDLAB"
# Methods of crowd-kit that weigh raters, and what they are told.
_CROWD_KIT: dict[str, dict[str, Any]] = {
    "Dawid-Skene": {"n_iter": 100},
    "MACE": {"n_restarts": 3, "n_iter": 50},
    "GLAD": {"n_iter": 20, "silent": True},
}
# An iteration of Dawid-Skene takes a second for a million votes, and GLAD's minutes: the former has fewer, the latter none.
_ITERATED_VOTES, _MOST_GLAD = 45_000_000, 20_000
_CLASSES = {"Dawid-Skene": "DawidSkene", "MACE": "MACE", "GLAD": "GLAD"}
METHODS = (MAJORITY, *_CROWD_KIT, CROWDLAB)
# cleanlab takes a dense table of items and raters; a larger one has no place in memory.
_MOST_CELLS = 50_000_000


def aggregate(
    votes: VoteTable, question: str, method: str, *, predictions: Predictions | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the labels `(n, K)` of the items with votes, by one of `METHODS`, and the rows of these items `(n,)`.

    The majority shares ties. All other methods need named raters; anonymous votes are left out, and items without others.
    CROWDLAB also needs a model's out-of-sample `predictions`, takes items that have both, and gives labels alone, as
    probabilities of 1.

    Raises:
        ValueError: The question is no category question of one answer, no rater is named, predictions are missing, or the
            library is not installed; the extra `agree` has it.
    """
    asked, rows = votes.question(question), votes.rows_of(question)
    if asked.is_scale or asked.multiple:
        raise ValueError(f"Question {question!r} is no category question with one answer; aggregation needs one.")
    check_choice("method", method, METHODS)
    if method == MAJORITY:
        counts = replace(votes, weights=None).counts(question)
        voted = np.flatnonzero(counts.sum(axis=1))
        best = (counts == counts.max(axis=1, keepdims=True))[voted]
        return best / best.sum(axis=1, keepdims=True), voted
    columns = {"task": votes.item_codes, "worker": votes.annotator_codes, "label": votes.label_codes}
    table = pd.DataFrame({name: column[rows] for name, column in columns.items()})
    table = table[table["worker"] >= 0].drop_duplicates(["task", "worker"])
    # MACE starts at random in the order of its table, which must not be that of the votes.
    places = {"task": _places(votes.items), "worker": _places(votes.annotators)}
    table = table.iloc[np.lexsort([place[table[name]] for name, place in places.items()])]
    if table["worker"].nunique() < 2:
        raise ValueError(
            f"Question {question!r} has votes of fewer than two named raters; all methods but the majority "
            "need to know who voted."
        )
    if method == CROWDLAB:
        return _crowdlab(votes, table, asked.labels, predictions)
    options = dict(_CROWD_KIT[method])
    if method == "Dawid-Skene":
        options["n_iter"] = max(10, min(options["n_iter"], _ITERATED_VOTES // len(table)))
    if method == "GLAD" and len(table) > _MOST_GLAD:
        raise ValueError(f"GLAD would take hours for {len(table):,} votes; give {_MOST_GLAD:,} or fewer.")
    model = getattr(needs("crowdkit.aggregation", "agree", f"{method} needs"), _CLASSES[method])(**options)
    found = model.fit_predict_proba(table).reindex(columns=range(len(asked.labels)), fill_value=0.0).sort_index()
    probs = found.to_numpy(np.float64)
    return probs / probs.sum(axis=1, keepdims=True), found.index.to_numpy()


def _places(names: np.ndarray) -> np.ndarray:
    """Place of each name in sorted order `(n,)`."""
    return np.argsort(np.argsort(names.astype(str)))


def _crowdlab(
    votes: VoteTable, table: pd.DataFrame, labels: tuple[str, ...], predictions: Predictions | None
) -> tuple[np.ndarray, np.ndarray]:
    if predictions is None:
        raise ValueError(
            "CROWDLAB weighs raters against a model; give predictions that did not learn from these votes."
        )
    if tuple(predictions.support) != tuple(labels):
        raise ValueError(
            f"Predictions have the labels {', '.join(map(str, predictions.support))} and the votes {', '.join(labels)}; "
            "give predictions of this question."
        )
    place = pd.Index(predictions.items).get_indexer(votes.items)
    table = table[place[table["task"]] >= 0]
    if not len(table):
        raise ValueError(
            "Predictions and votes of named raters have no item in common; give predictions on this corpus."
        )
    raters, items = table["worker"].nunique(), table["task"].nunique()
    if raters * items > _MOST_CELLS:
        raise ValueError(
            f"CROWDLAB needs a table of {items:,} items and {raters:,} raters; more than {_MOST_CELLS:,} cells do not fit: "
            "give fewer items."
        )
    wide = table.pivot(index="task", columns="worker", values="label")
    probs = predictions.probs[place[wide.index]]
    options = {"verbose": False, "return_detailed_quality": False, "return_annotator_stats": False}
    found = needs("cleanlab.multiannotator", "agree", "CROWDLAB needs").get_label_quality_multiannotator(
        wide.reset_index(drop=True), probs / probs.sum(axis=1, keepdims=True), **options
    )
    chosen = found["label_quality"]["consensus_label"].to_numpy(np.int64)
    return np.eye(len(labels))[chosen], wide.index.to_numpy()


def measure_moves(
    votes: VoteTable, question: str, found: dict[str, tuple[np.ndarray, np.ndarray]], resamples: Resamples | None = None
) -> dict[str, dict[str, Any]]:
    """How far each method's probabilities are from the majority's label and the shares of the votes, with intervals.

    For each of the methods of `found` (see `aggregate`): its `items`, the share that is `changed` (its most probable label is
    none of the most frequent labels), and the mean `jsd` (nats) from the shares of the votes.
    """
    counts, told = replace(votes, weights=None).counts(question), {}
    for method, (probs, place) in found.items():
        voted = counts[place]
        shares = voted / voted.sum(axis=1, keepdims=True)
        best = np.take_along_axis(voted, probs.argmax(axis=1)[:, None], axis=1)[:, 0]
        columns = {"changed": best < voted.max(axis=1), "jsd": jsd(probs, shares)}
        means = (resamples or Resamples()).select(place).means(columns)
        told[method] = {"items": len(place)} | {name: with_interval(draws).to_dict() for name, draws in means.items()}
    return told
