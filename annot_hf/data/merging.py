"""What raters chose first and what else they heard, as one distribution, and the label that wins (arXiv 2606.27536)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

Ties = Literal["share", "draw", "other", "guarded"]

OTHER, NEUTRAL = "other", "neutral"
GUARD_VOTES, GUARD_MASS, GUARD_MARGIN = 2, 0.35, 0.1  # what "neutral" needs in order to win with ties="guarded"
_SLACK = 1e-9  # masses this close are equal: .9 x 2/3 + .1 x 1/3 is not what it is on paper


def secondary_votes(votes: VoteTable, question: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Secondary votes per item and label, where every rater spends a mass of 1 on an item (arXiv 2606.27536).

    S_c = sum over raters r of 1[c in S_r] / |S_r|, with S_r the labels of `question` that r gave as secondary ones, its
    primary one among them if r listed it. A label outside `question` is no valid secondary label: it is left out before
    the mass is spent, so a rater with no other has none, and neither has one who heard "none of them". With weights, a
    label gets its vote's weight over |S_r|, and votes of weight 0 do not exist.

    Args:
        votes: Votes on `question` and on one question that is `secondary_to` it, whose labels may be more or fewer.
        question: Name of the category question of the primary votes.

    Returns:
        Masses `(N, K)` over the items of the table and the labels of `question`, a zero row where there is none; and by
        reason the number of secondary votes left out of each item `(N,)`.

    Raises:
        ValueError: No question, or more than one, holds secondary votes of `question`; there is no vote on a shared
            label; or a multi-select vote is anonymous, so that it is unknown which labels are one rater's.
    """
    asked = votes.question(question)
    second = _secondary_question(votes, asked)
    rows = np.arange(len(votes))[votes.rows_of(second.name)]
    rows = rows[votes.label_codes[rows] >= 0]
    if votes.weights is not None:
        rows = rows[votes.weights[rows] > 0]
    if second.multiple and (votes.annotator_codes[rows] < 0).any():
        raise ValueError(
            f"Question {second.name!r} has anonymous votes, and which of them are one rater's is not known; name the "
            "raters (any name that is unique within the item will do)."
        )
    classes, items = len(asked.labels), len(votes.items)
    position = {label: code for code, label in enumerate(asked.labels)}
    label = np.array([position.get(name, -1) for name in second.labels])[votes.label_codes[rows]]
    outside = rows[label < 0]
    rows, label = rows[label >= 0], label[label >= 0]
    if not len(rows):
        raise ValueError(
            f"Question {second.name!r} has no vote on a label of {question!r} ({', '.join(asked.labels)}), so there is "
            'nothing to merge; spell the labels alike, or use method "soft".'
        )
    again = pd.Series(_raters(votes, rows) * classes + label).duplicated().to_numpy()
    repeated, rows, label = rows[again], rows[~again], label[~again]
    cells = votes.item_codes[rows].astype(np.int64) * classes + label
    masses = np.bincount(cells, rater_weights(votes, rows), minlength=items * classes).reshape(items, classes)
    left_out = {
        "secondary votes on labels outside the question": outside,
        "secondary votes that repeat a label of the same rater": repeated,
    }
    return masses, {reason: np.bincount(votes.item_codes[part], minlength=items) for reason, part in left_out.items()}


def merge_votes(primary: np.ndarray, secondary: np.ndarray, primary_weight: float) -> np.ndarray:
    """M = alpha P + (1 - alpha) S, P and S being vote fractions (arXiv 2606.27536: alpha .9 is "M90", .8 is "M80").

    Args:
        primary: Primary votes `(N, K)`, at least one an item.
        secondary: Secondary votes `(N, K)`; an item without any keeps its P, whatever its neighbours have.
        primary_weight: Alpha, from 0 to 1.

    Returns:
        Distributions `(N, K)`.
    """
    primary, spent = primary / primary.sum(1, keepdims=True), secondary.sum(1, keepdims=True)
    heard = np.where(spent > 0, secondary / np.where(spent > 0, spent, 1), primary)
    return primary + (1 - primary_weight) * (heard - primary)  # exactly P where nothing was heard, or alpha is 1


def winners(
    masses: np.ndarray, counts: np.ndarray, support: Sequence[str], ties: Ties, seeds: np.ndarray | None = None
) -> np.ndarray:
    """All mass on the label that has most, by one of four rules (the last two are published: arXiv 2606.27536).

    Args:
        masses: Distributions `(N, K)`. Masses that differ by 1e-9 or less are equal.
        counts: Primary votes behind them `(N, K)`, or their summed weights, which only "guarded" looks at.
        support: Names of the K labels.
        ties: "share": tied labels share the mass equally. "draw": one of them, drawn for each item, has it all, so that
            every item has a single label. "other": an item without a single winner goes to the label
            "other". "guarded": label "neutral" wins with 2 or more primary votes, a mass of .35 or more and a lead of .10
            or more over every other label, and else the best other label does, of tied ones the last by alphabet. Where
            no other label has any mass, "neutral" keeps what it has: the published rule does not say.
        seeds: Seed of each item `(N,)` for "draw", such as `item_seeds` gives.

    Returns:
        Distributions `(N, K)`: one-hot, but for shared ties.

    Raises:
        ValueError: The support lacks the label that the rule needs.

    Example:
        >>> winners(np.array([[0.4, 0.4, 0.2]]), np.array([[2, 2, 1]]), ["angry", "sad", "other"], "other").tolist()
        [[0.0, 0.0, 1.0]]
    """
    tied = masses >= masses.max(1, keepdims=True) - _SLACK
    if ties == "share":
        return tied / tied.sum(1, keepdims=True)
    if ties == "draw":
        winner = masses.argmax(1)
        for row in np.flatnonzero(tied.sum(1) > 1):
            winner[row] = np.random.default_rng(seeds[row]).choice(np.flatnonzero(tied[row]))
        return np.eye(len(support))[winner]
    special = _place({"other": OTHER, "guarded": NEUTRAL}[ties], support, ties)
    if ties == "other":
        winner = np.where(tied.sum(1) > 1, special, masses.argmax(1))
    else:
        rest = masses.copy()
        rest[:, special] = 0
        best = rest.max(1)
        rank = np.argsort(np.argsort(support))
        winner = np.where(rest >= best[:, None] - _SLACK, rank, -1).argmax(1)
        enough = masses[:, special] >= np.maximum(GUARD_MASS, best + GUARD_MARGIN) - _SLACK
        winner[(enough & (counts[:, special] >= GUARD_VOTES - _SLACK)) | (best <= _SLACK)] = special
    return np.eye(len(support))[winner]


def rater_weights(votes: VoteTable, rows: np.ndarray) -> np.ndarray:
    """Weights with which each rater counts once an item, though several of `rows` (vote numbers `(V,)`) may be theirs.

    Each is the vote's own weight over the number of that rater's votes on the item among `rows`; an anonymous vote is a
    rater of its own.
    """
    rater = pd.factorize(_raters(votes, rows))[0]
    return (1.0 if votes.weights is None else votes.weights[rows]) / np.bincount(rater)[rater]


def _raters(votes: VoteTable, rows: np.ndarray) -> np.ndarray:
    """A number for each item and rater `(V,)`; anonymous votes have one each."""
    many, item = len(votes.annotators), votes.item_codes[rows].astype(np.int64)
    annotator = votes.annotator_codes[rows]
    return np.where(annotator >= 0, item * many + annotator, len(votes.items) * many + rows)


def _secondary_question(votes: VoteTable, asked: Question) -> Question:
    """The question that holds the secondary votes of `asked`."""
    found = [question for question in votes.questions if question.secondary_to == asked.name]
    if len(found) != 1 or found[0].is_scale:
        names = ", ".join(f"{question.name} ({question.kind})" for question in found) or "none"
        raise ValueError(
            f"Questions with secondary_to={asked.name!r}: {names}; merging needs one category question, so declare it as "
            f"Question.category(name, labels, multiple=True, secondary_to={asked.name!r}) or merge nothing."
        )
    return found[0]


def _place(label: str, support: Sequence[str], ties: str) -> int:
    """Where `label` is in the support."""
    if label not in support:
        raise ValueError(f"ties is {ties!r}, which needs a label {label!r}; the labels are {', '.join(support)}.")
    return list(support).index(label)
