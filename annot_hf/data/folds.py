"""Folds for cross-validation: whole groups of items (conversations, documents, speakers) go to one fold or another."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.questions import nearest
from annot_hf.data.targets import Targets

GROUPS = ("conversation", "document", "speaker", "item")  # the first of these that items have groups them by default
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold of one repeat.

    Attributes:
        repeat: Number of the repeat, from 0.
        number: Number of the fold in it, from 0.
        parts: "train", "validation" or "test" for each item `(N,)`.
    """

    repeat: int
    number: int
    parts: np.ndarray

    def digest(self, items: Sequence[str]) -> str:
        """SHA-256 of which item is in which part."""
        lines = sorted(f"{item}\t{part}" for item, part in zip(items, self.parts, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def group_items(about: pd.DataFrame, items: Sequence[str], column: str = "") -> tuple[str, np.ndarray]:
    """The column that groups items, and the group of each item `(N,)`.

    Args:
        about: One row an item: column `item` and metadata.
        items: The items that take part.
        column: A column of `about`, or "item" so that each item stands alone; the first of `GROUPS` that any of the items
            has a value of when empty.

    Raises:
        ValueError: There is no such column, or some items have no value in it.
    """
    rows = about.set_index("item", drop=False).loc[list(items)]
    if not column:
        column = next(name for name in GROUPS if name in rows and rows[name].notna().any())
    if column not in rows:
        raise ValueError(
            f"The items have no column {column!r}{nearest(column, rows.columns)} to group them by; they have "
            f"{', '.join(map(str, rows.columns))}. Folds are over items, never over raters."
        )
    missing = rows["item"][rows[column].isna()]
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {len(rows)} items have no {column}, for instance {missing.iloc[0]!r}; name it for every item, "
            "or group by another column (by item, if no two items belong together)."
        )
    return column, rows[column].astype(str).to_numpy(dtype=object)


def draw_groups(groups: np.ndarray, items: int, seed: int) -> np.ndarray:
    """Items `(N,)`, True for those of whole groups in random order until there are `items` of them or more.

    Args:
        groups: Group of each item `(N,)`.
        items: How many items, 1 to N.
        seed: Seed of the order.

    Raises:
        ValueError: There are not so many.
    """
    if isinstance(items, bool) or not isinstance(items, int | np.integer) or not 1 <= items <= len(groups):
        raise ValueError(f"items is {items!r}; {len(groups)} take part: give a whole number from 1 to that.")
    names, code = np.unique(groups.astype(str), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    reached = np.cumsum(np.bincount(code)[order])
    return np.isin(code, order[: int(np.searchsorted(reached, items)) + 1])


def check_division(folds: int, repeats: int, validation: float) -> None:
    """Whether these numbers describe a division into folds; see `make_folds`.

    Raises:
        ValueError: One of them is out of range.
    """
    for name, value, least in (("folds", folds, 2), ("repeats", repeats, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} is {value!r}; it is a whole number from {least} up, such as 5.")
    if not 0 < validation < 1:
        raise ValueError(f"validation is {validation!r}; it is a share between 0 and 1, such as 0.1.")


def make_folds(
    groups: Sequence[str] | np.ndarray,
    *,
    folds: int = 5,
    repeats: int = 5,
    validation: float = 0.1,
    seed: int = 0,
    unit: str = "group",
) -> Iterator[Fold]:
    """Every fold of every repeat: each item is tested once a repeat, and no group is in two parts of a fold.

    Groups are dealt out at random within ranks of size: the `folds` largest go one to each fold, then the next ones.
    So the sizes of two folds differ by no more than the largest group has items, as with the usual greedy assignment
    (largest group into the smallest fold), which however gives the same folds in every repeat where sizes differ. A
    part of the training groups is set aside for validation: groups in random order until the share is nearest.

    Args:
        groups: Group of each item `(N,)`.
        folds: Folds a repeat, 2 or more.
        repeats: How often the items are divided anew, 1 or more.
        validation: Share of the items that are not tested which is set aside, between 0 and 1; one group at least.
        seed: Seed of the first repeat.
        unit: What a group is called in messages.

    Raises:
        ValueError: A number is out of range, or there are too few groups.
    """
    check_division(folds, repeats, validation)
    names, code = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    left = len(names) - -(-len(names) // folds)  # where most are tested
    if len(names) < folds or left < 2:
        why = "each fold tests one at least" if len(names) < folds else "training and validation need one each"
        raise ValueError(
            f"There are {len(names)} {unit}s for {folds} folds, and {why}; ask for fewer folds, or group by a column with "
            "more values."
        )
    return _folds(code, np.bincount(code), folds, repeats, validation, seed)


def _folds(
    code: np.ndarray, sizes: np.ndarray, folds: int, repeats: int, validation: float, seed: int
) -> Iterator[Fold]:
    for repeat in range(repeats):
        generator = np.random.default_rng([seed, repeat])
        fold_of = _deal(sizes, folds, generator)
        for number in range(folds):
            held = _set_aside(np.flatnonzero(fold_of != number), sizes, validation, generator)
            part = np.where(fold_of == number, "test", "train").astype(object)
            part[held] = "validation"
            yield Fold(repeat, number, part[code])


def _deal(sizes: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    """Fold of each group `(G,)`."""
    shuffled = generator.permutation(len(sizes))
    ranked = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    fold_of = np.empty(len(sizes), dtype=np.int64)
    for start in range(0, len(ranked), folds):
        rank = ranked[start : start + folds]
        fold_of[rank] = generator.permutation(folds)[: len(rank)]
    return fold_of


def _set_aside(groups: np.ndarray, sizes: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Some of the groups, in random order until their share of the items is nearest; not none and not all."""
    order = generator.permutation(groups)
    held = np.cumsum(sizes[order])[:-1]
    return order[: int(np.argmin(abs(held - share * sizes[groups].sum()))) + 1]


def sizes_of(fold: Fold, groups: np.ndarray) -> dict[str, Any]:
    """Items and groups of each part of a fold."""
    return {
        part: {"items": int((fold.parts == part).sum()), "groups": len(set(groups[fold.parts == part]))}
        for part in PARTS
    }


def fold_marginals(targets: Targets, folds: Sequence[Fold]) -> list[np.ndarray]:
    """What the marginal baseline predicts `(N, K)` in each repeat: for an item, the mean of its fold's training part."""
    repeats = 1 + max(fold.repeat for fold in folds)
    marginals = [np.full_like(targets.probs, np.nan) for _ in range(repeats)]
    for fold in folds:
        marginals[fold.repeat][fold.parts == "test"] = targets.probs[fold.parts == "train"].mean(axis=0)
    return marginals


def count_folds(targets: Targets, folds: Sequence[Fold], groups: np.ndarray) -> dict[str, Any]:
    """What a reader of a cross-validation must know of its folds.

    Returns:
        `partitions`: how many of the repeats divide the items differently. `folds`: for each fold its repeat and number,
        items and groups of each part, `labels_without_votes` and `labels_that_win_no_item` in the training part (of a
        category question), and the named raters of its test part whom its training part lacks, with their answers.
    """
    labels = () if targets.questions[0].is_scale else targets.support
    wins = targets.probs >= targets.probs.max(axis=1, keepdims=True) - 1e-12  # the winners of a tie all win
    divided: dict[int, set[frozenset[str]]] = {}
    told = []
    for fold in folds:
        train, test = fold.parts == "train", fold.parts == "test"
        divided.setdefault(fold.repeat, set()).add(frozenset(groups[test]))
        seen = np.zeros(len(targets.annotators), dtype=bool)
        seen[targets.ratings.annotator[train[targets.ratings.item]]] = True
        asked = targets.ratings.annotator[test[targets.ratings.item]]
        told.append(
            {"repeat": fold.repeat, "fold": fold.number}
            | sizes_of(fold, groups)
            | {
                "labels_without_votes": _named(labels, ~targets.probs[train].any(axis=0)),
                "labels_that_win_no_item": _named(labels, ~wins[train].any(axis=0)),
                "raters_unseen": int(len(set(asked[~seen[asked]]))),
                "answers_of_raters_unseen": int((~seen[asked]).sum()),
            }
        )
    return {"partitions": len({frozenset(parts) for parts in divided.values()}), "folds": told}


def _named(labels: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [label for label, one in zip(labels, chosen, strict=False) if one]
