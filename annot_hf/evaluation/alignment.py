"""Predictions and targets, row by row; and what a grid says about each of its questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from annot_hf.data.encoding import by_name
from annot_hf.data.predictions import Predictions, check_unique
from annot_hf.data.questions import Question, normal_form_hint
from annot_hf.data.targets import Targets
from annot_hf.models.measures import check_distributions

Speakers = Mapping[str, str] | Sequence[str] | np.ndarray | None
Groups = Mapping[str, Mapping[str, Any]]

GROUPS = ("sex", "gender")

FLOOR = 1e-8  # least predicted probability under a logarithm; the reports state it


@dataclass(frozen=True)
class Pairing:
    """Predictions and targets row by row.

    Attributes:
        items: Names of the evaluated items `(n,)`, in the targets' order.
        predicted: Rows of the predictions `(n,)`.
        target: Rows of the targets `(n,)`.
        p: Predicted distributions `(n, K)`, rows exactly normalised.
        q: Distributions of the votes `(n, K)`, rows exactly normalised.
        only_predicted: Predicted items without target.
        only_target: Targets without prediction.
    """

    items: np.ndarray
    predicted: np.ndarray
    target: np.ndarray
    p: np.ndarray
    q: np.ndarray
    only_predicted: int
    only_target: int


def align(predictions: Predictions, targets: Targets, *, on_missing: Literal["error", "exclude"] = "error") -> Pairing:
    """Pair predictions with targets by item name, and by label name where both list the same labels.

    Args:
        predictions: What the model says.
        targets: What the votes say.
        on_missing: Raise when either side lacks an item of the other, or leave such items out and count them.

    Raises:
        ValueError: The supports differ, items do not match, a target is not a distribution, or nothing is left.
    """
    if on_missing not in ("error", "exclude"):
        raise ValueError(f"on_missing is {on_missing!r}; it is error or exclude.")
    predictions = predictions.in_order(targets.support)
    check_distributions(targets.probs, "Targets")
    check_unique(targets.items, "Targets' items")
    rows = pd.Index(predictions.items).get_indexer(pd.Index(np.asarray(targets.items, dtype=object)))
    found = rows >= 0
    extra = np.ones(len(predictions), dtype=bool)
    extra[rows[found]] = False
    if on_missing == "error" and (extra.any() or not found.all()):
        raise ValueError(
            f"Items differ: {extra.sum()} predicted without target{examples(predictions.items[extra])}, "
            f"{(~found).sum()} targets without prediction{examples(np.asarray(targets.items)[~found])}"
            f"{normal_form_hint(predictions.items[extra], np.asarray(targets.items)[~found])}; "
            'predict exactly the target items, or pass on_missing="exclude" to score the common ones and count the rest.'
        )
    if not found.any():
        raise ValueError("Predictions and targets have no item in common; check that both use the corpus's item names.")
    p, q = predictions.probs[rows[found]], np.asarray(targets.probs, dtype=np.float64)[found]
    return Pairing(
        items=np.asarray(targets.items, dtype=object)[found],
        predicted=rows[found],
        target=np.flatnonzero(found),
        p=p / p.sum(axis=1, keepdims=True),
        q=q / q.sum(axis=1, keepdims=True),
        only_predicted=int(extra.sum()),
        only_target=int((~found).sum()),
    )


def speakers_of(
    speakers: Mapping[str, str] | Sequence[str] | np.ndarray | None, predictions: Predictions, pairing: Pairing
) -> np.ndarray | None:
    """Speaker of every evaluated item `(n,)`; None, so that items are resampled, when every one of them is null or blank.

    Raises:
        ValueError: Some evaluated items have a speaker and others do not, or the items are not those predicted.
    """
    if speakers is None:
        return None
    if isinstance(speakers, Mapping | pd.Series):
        named = [speakers.get(item) for item in pairing.items]
        known = all(item in speakers for item in pairing.items)
    else:
        if len(speakers) != len(predictions):
            raise ValueError(
                f"There are {len(speakers)} speakers for {len(predictions)} predicted items; give one an item."
            )
        named, known = np.asarray(speakers, dtype=object)[pairing.predicted], True
    missing = pairing.items[[bool(pd.isna(name)) or not str(name).strip() for name in named]]
    if known and len(missing) == len(named):
        return None
    if len(missing):
        raise ValueError(
            f"{len(missing)} evaluated items have no speaker{examples(missing)}; name the speaker of every item, or "
            "of none (speakers=None, or a column without any) to resample items."
        )
    return np.array([str(name) for name in named], dtype=object)


def marginal_of(
    marginal: Sequence[float] | Mapping[str, float] | np.ndarray | None, q: np.ndarray, support: Sequence[str]
) -> tuple[np.ndarray, str]:
    """The marginal distribution `(K,)`, exactly normalised, and what it is; without one, the mean of `q` `(n, K)`."""
    said = "the marginal distribution of the training votes"
    if marginal is None:
        said = "the mean distribution of the evaluated votes themselves (no training marginal was given)"
        marginal = q.mean(axis=0)
    marginal = np.asarray(by_name(marginal, [support], "The marginal"), dtype=np.float64)
    classes = q.shape[1]
    if marginal.shape != (classes,):
        raise ValueError(f"The marginal has shape {marginal.shape} for {classes} labels; give one probability a label.")
    check_distributions(marginal[None], "The marginal")
    return marginal / marginal.sum(), said


def floored(p: np.ndarray) -> np.ndarray:
    """Distributions `(..., K)` with every probability at least about `FLOOR`, for use under a logarithm."""
    raised = np.maximum(p, FLOOR)
    return raised / raised.sum(axis=-1, keepdims=True)


def dimensions(probs: np.ndarray, questions: Sequence[Question]) -> list[np.ndarray]:
    """Marginal distributions `(n, bins)` of a support's scale questions: rows first, then columns, of a square grid."""
    if len(questions) == 1:
        return [probs]
    bins = round(probs.shape[1] ** 0.5)
    if bins * bins != probs.shape[1]:
        raise ValueError(f"A support of {probs.shape[1]} cells over two scales is not square; give bins x bins cells.")
    grid = probs.reshape(-1, bins, bins)
    return [grid.sum(axis=2), grid.sum(axis=1)]


def expectation(probs: np.ndarray) -> np.ndarray:
    """Expected value `(n,)` in [-1, 1] of distributions over equal bins `(n, bins)`, taken at the cell centres."""
    bins = probs.shape[1]
    return probs @ ((2 * np.arange(bins) + 1) / bins - 1)


def examples(names: Sequence[str] | np.ndarray) -> str:
    """Up to three of the names in brackets, for an error message; nothing without names."""
    return f" (such as {', '.join(repr(name) for name in names[:3])})" if len(names) else ""


def items_by_name(items: pd.DataFrame) -> pd.DataFrame:
    """The item table by item name; raises when it has no column `item` or lists an item twice."""
    if "item" not in items:
        raise ValueError(f"The item table has columns {', '.join(map(str, items.columns))}; it needs a column 'item'.")
    if items["item"].duplicated().any():
        twice = items["item"][items["item"].duplicated()].iloc[0]
        raise ValueError(f"The item table lists {twice!r} twice; give each item one row.")
    return items.set_index("item")


def groups_of(about: pd.DataFrame | None, names: Sequence[str] | None = None) -> Groups:
    """The named metadata columns, or `sex` and `gender` if there: column -> item -> value.

    Raises:
        ValueError: A named column is not in the item table.
    """
    have = [] if about is None else list(about.columns)
    for name in names or ():
        if name not in have:
            raise ValueError(
                f"The item table has no column {name!r} to group speakers by; it has {', '.join(map(str, have)) or 'none'}."
            )
    chosen = [name for name in GROUPS if name in have] if names is None else names
    return {name: about[name] for name in chosen}
