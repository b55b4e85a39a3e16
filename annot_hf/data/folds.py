"""Folds for cross-validation that keep groups of items (conversations, documents, speakers) together."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.corpus import SPLITS
from annot_hf.data.encoding import csv_frame
from annot_hf.data.questions import nearest
from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.models.measures import entropy

# Items are grouped by the first of these columns that they have.
GROUP_COLUMNS = ("conversation", "document", "speaker", "item")

# Columns whose values must not be on both sides of a split; texts where no clips are, since a clip says more than its text.
APART_COLUMNS = ("group", "speaker", "session", "conversation", "document", "text")


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold of one repeat, both counted from 0; `parts` `(N,)` are "train", "validation" or "test" for each item."""

    repeat: int
    number: int
    parts: np.ndarray

    def digest(self, items: Sequence[str]) -> str:
        """SHA-256 of the part of each item."""
        lines = sorted(f"{item}\t{part}" for item, part in zip(items, self.parts, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def group_items(
    about: pd.DataFrame, items: Sequence[str], column: str = "", *, apart: bool = False
) -> tuple[str, np.ndarray]:
    """The column of `about`, by default the first of `GROUP_COLUMNS` with any values, and the group of each item `(N,)`.

    An item that has no group is refused, or, with `apart`, a group of its own.
    """
    rows = about.set_index("item", drop=False).loc[list(items)]
    if not column:
        column = next(name for name in GROUP_COLUMNS if name in rows and rows[name].notna().any())
    if column not in rows:
        raise ValueError(
            f"The items have no column {column!r}{nearest(column, rows.columns)} to group them by; they have "
            f"{', '.join(map(str, rows.columns))}. Groups are of items, never of raters."
        )
    missing = rows["item"][rows[column].isna()]
    if apart and len(missing):
        rows = rows.assign(**{column: rows[column].fillna("item " + rows["item"])})
    elif len(missing):
        raise ValueError(
            f"{len(missing)} of {len(rows)} items have no {column}, for instance {missing.iloc[0]!r}; name it for every item, "
            "or group by another column (by item, if no two items belong together)."
        )
    return column, rows[column].astype(str).to_numpy(dtype=object)


def find_leaks(items: pd.DataFrame, columns: Sequence[str] = APART_COLUMNS) -> dict[str, list[str]]:
    """Speakers, sessions, conversations, equal texts ... that have items in several splits, by the column that names them.

    Args:
        items: One row an item, with a column "split" and any of `columns`; a missing value is no group, nor are texts
            beside a column `file`, of clips.
        columns: Columns to look at; those that `items` lacks are passed over.

    Returns:
        Column -> its values, sorted, that more than one split has; without the columns where there are none.
    """
    found = {}
    for column in [name for name in columns if name in items]:
        values = _apart(items, column)
        # Most of a million texts are there once, and are not copied.
        again = values.notna() & values.duplicated(keep=False)
        several = items["split"][again].groupby(values[again].astype(str).to_numpy()).nunique()
        found[column] = sorted(several.index[several > 1])
    return {column: names for column, names in found.items() if names}


def _apart(items: pd.DataFrame, column: str) -> pd.Series:
    """The values of one of `APART_COLUMNS`, missing where an item has none."""
    values = items[column]
    return values.mask(values.notna()) if column == "text" and "file" in items else values


def describe_splits(items: pd.DataFrame, votes: VoteTable) -> pd.DataFrame:
    """One row per split (index): items, votes, raters, raters without a vote in train, and how many of each group it has.

    Raters and groups are followed by how many of them are in other splits too.
    """
    # The rows of a question of which the shares are known alone are no votes.
    votes = votes.select(questions=[one.name for one in votes.questions if not one.shares])
    split_of = items.set_index("item")["split"].reindex(votes.items).to_numpy()[votes.item_codes]
    raters = pd.Series(votes.annotator_codes).where(votes.annotator_codes >= 0)
    learned = set(raters[split_of == "train"].dropna())
    groups = {column: _apart(items, column) for column in APART_COLUMNS if column in items}

    def counted(what: str, values: pd.Series, splits: pd.Series, name: str) -> dict[str, int]:
        own = set(values[splits == name].dropna())
        return {what: len(own), f"{what} in other splits": len(own & set(values[splits != name]))}

    rows = {}
    for name, part in items.groupby("split"):
        own = set(raters[split_of == name].dropna())
        rows[name] = {"items": len(part), "votes": int((split_of == name).sum())}
        rows[name] |= counted("raters", raters, split_of, name)
        rows[name] |= {"raters without a vote in train": len(own - learned)}
        for column, values in groups.items():
            if values.notna().any():
                rows[name] |= counted(f"{column}s", values, items["split"], name)
    known = [name for name in SPLITS if name in rows]
    return pd.DataFrame.from_dict(rows, orient="index").loc[[*known, *sorted(set(rows) - set(known))]]


def draw_groups(groups: np.ndarray, items: int, seed: int) -> np.ndarray:
    """Whole groups (`groups` `(N,)`) in random order until they have at least `items` items, as a mask `(N,)`."""
    if isinstance(items, bool) or not isinstance(items, int | np.integer) or not 1 <= items <= len(groups):
        raise ValueError(
            f"items is {items!r}; give a whole number from 1 to {len(groups)}, the number of items that take part."
        )
    names, code = np.unique(groups.astype(str), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    reached = np.cumsum(np.bincount(code)[order])
    return np.isin(code, order[: int(np.searchsorted(reached, items)) + 1])


def check_division(folds: int, repeats: int, validation: float) -> None:
    """Raise unless these numbers describe folds; see `make_folds`."""
    for name, value, least in (("folds", folds, 2), ("repeats", repeats, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} is {value!r}; give a whole number from {least} up, such as 5.")
    if not 0 < validation < 1:
        raise ValueError(f"validation is {validation!r}; give a share between 0 and 1, such as 0.1.")


def make_folds(
    groups: Sequence[str] | np.ndarray,
    *,
    folds: int = 5,
    repeats: int = 5,
    validation: float = 0.1,
    seed: int = 0,
    unit: str = "group",
    strata: np.ndarray | None = None,
) -> Iterator[Fold]:
    """All folds of all repeats: each item is tested once per repeat, and each group `(N,)` is in one part of a fold.

    Groups are assigned at random within ranks of size, so the sizes of two folds differ by at most the largest group; with
    `strata` `(N,)`, such as of class and entropy, so that each fold has its share of every stratum (`draw_splits`). Of the
    others, whole groups are set aside until the share `validation` is closest. `unit` names a group in messages.
    """
    check_division(folds, repeats, validation)
    names, code = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    # The largest test part.
    left = len(names) - -(-len(names) // folds)
    if len(names) < folds or left < 2:
        why = "each fold tests at least one" if len(names) < folds else "training and validation need one each"
        raise ValueError(
            f"There are {len(names)} {unit}s for {folds} folds, and {why}; ask for fewer folds, or group by a column with "
            "more values."
        )
    sizes, divided = np.bincount(code), []
    for repeat in range(repeats):
        generator = np.random.default_rng([seed, repeat])
        # The usual greedy assignment would give the same folds in every repeat if group sizes differ.
        shuffled = generator.permutation(len(sizes))
        ranked = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
        fold_of = np.empty(len(sizes), dtype=np.int64)
        for start in range(0, len(ranked), folds):
            rank = ranked[start : start + folds]
            fold_of[rank] = generator.permutation(folds)[: len(rank)]
        if strata is not None:
            fold_of[code] = draw_splits(groups, strata, [1 / folds] * folds, seed=[seed, repeat])
        for number in range(folds):
            part = np.where(fold_of == number, "test", "train").astype(object)
            part[_set_aside(np.flatnonzero(fold_of != number), sizes, validation, generator)] = "validation"
            divided.append(Fold(repeat, number, part[code]))
    return iter(divided)


def _set_aside(groups: np.ndarray, sizes: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Those of the groups, in random order, whose items come closest to the share: at least one group, and not all."""
    order = generator.permutation(groups)
    held = np.cumsum(sizes[order])
    return order[: int(np.argmin(abs(held[:-1] - share * held[-1]))) + 1]


def read_folds(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A CSV file of folds: `item`, `fold`, and `part` ("train", "validation" or "test"), which is empty if the file has none.

    Without parts, an item is tested in its fold and learned from in the others. With parts, an item has one row for each fold
    that it takes part in. `fold` may be any name.

    Raises:
        ValueError: The file cannot be read, an item is twice in a fold, or a part is none; the row is named.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}; give a CSV file with columns item and fold, or a number of folds.")
    return check_folds(csv_frame(path, ["item", "fold"], further=True), path)


def check_folds(table: pd.DataFrame, where: str | os.PathLike[str]) -> pd.DataFrame:
    """The table of `read_folds`, with `part`; `where` names it in errors, with `row`, if it has these."""
    parted = "part" in table
    table = table.assign(part=table["part"] if parted else "")
    tested = table["part"].isin(["", "test"])
    for bad, rule in (
        (table.duplicated(["item", "fold"] if parted else ["item"]), "is there twice; leave one row"),
        (
            tested & table[tested].duplicated("item").reindex(table.index, fill_value=False),
            "is tested in two folds; keep one",
        ),
        (~table["part"].isin(SPLITS if parted else [""]), f"has no part of {', '.join(SPLITS)}; correct it"),
    ):
        if bad.any():
            row = table[bad].iloc[0]
            place = f"{where}, row {row['row']}" if "row" in table else where
            raise ValueError(f"{place}: item {row['item']!r} of fold {row['fold']!r} {rule}.")
    if table["fold"].nunique() < 2:
        raise ValueError(f"{where} names fewer than two folds; name the fold of each item in column fold.")
    return table


def divide_as(
    table: pd.DataFrame,
    items: Sequence[str],
    groups: np.ndarray,
    *,
    repeats: int = 1,
    validation: float = 0.1,
    seed: int = 0,
    unit: str = "group",
) -> list[Fold]:
    """The folds of `read_folds` for these items, all of which the table names, and their groups `(N,)`, in every repeat.

    Without parts, validation groups are set aside as in `make_folds`, for each repeat others; an item that a fold does not
    name takes no part in it.

    Raises:
        ValueError: A group is in several parts of a fold, or a part is empty.
    """
    names, code = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    place, folds, parted = pd.Index(items), [], table["part"].any()
    for repeat in range(repeats):
        generator = np.random.default_rng([seed, repeat])
        for number, (name, rows) in enumerate(table.groupby("fold", sort=False)):
            rows = rows[rows["item"].isin(place)]
            at = place.get_indexer(rows["item"])
            parts = np.full(len(place), "" if parted else "train", dtype=object)
            parts[at] = rows["part"] if parted else "test"
            taken = parts != ""
            several = find_leaks(pd.DataFrame({unit: groups[taken], "split": parts[taken]}), [unit]).get(unit, [])
            if several:
                raise ValueError(
                    f"Fold {name!r} of the file has {len(several)} {unit}s in several parts, such as "
                    f"{several[0]!r}; move each to one part, or group by item if that is meant."
                )
            if not parted:
                learned = code[parts == "train"]
                held = _set_aside(np.unique(learned), np.bincount(learned, minlength=len(names)), validation, generator)
                parts[np.isin(code, held)] = "validation"
            empty = [part for part in SPLITS if not (parts == part).any()]
            if empty:
                raise ValueError(f"Fold {name!r} of the file has no items to {empty[0]} with; name some.")
            folds.append(Fold(repeat, number, parts))
    return folds


def draw_splits(
    groups: np.ndarray,
    strata: np.ndarray,
    shares: Sequence[float],
    *,
    seed: int | Sequence[int] = 0,
    tries: int = 20,
) -> np.ndarray:
    """Divide items into parts of these shares, whole groups at a time, so that each part has its share of every stratum.

    Groups, the largest first, go where the squared distance from the wanted numbers of items grows least; of several
    random orders, the division with the least distance is kept.

    Args:
        groups: Group of each item `(N,)`.
        strata: Stratum of each item `(N,)`, such as its label.
        shares: Share of each part, in all 1.
        seed: Seed of the orders.
        tries: How many orders to try.

    Returns:
        The part of each item `(N,)`, counted from 0; no part is empty.

    Raises:
        ValueError: There are fewer groups than parts.
    """
    names, code = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    if len(names) < len(shares):
        raise ValueError(
            f"{len(names)} groups cannot be divided into {len(shares)} splits; give more, or group by another column."
        )
    kinds, stratum = np.unique(np.asarray(strata, dtype=object).astype(str), return_inverse=True)
    sizes = np.zeros((len(names), len(kinds) + 1))
    np.add.at(sizes, (code, stratum), 1)
    # The last column is the number of items, which counts like all strata together.
    sizes[:, -1] = sizes.sum(axis=1)
    wanted = np.outer(shares, sizes.sum(axis=0))
    best, least = None, np.inf
    generator = np.random.default_rng(seed)
    for _ in range(tries):
        shuffled = generator.permutation(len(names))
        order = shuffled[np.argsort(-sizes[shuffled, -1], kind="stable")]
        place, reached = np.empty(len(names), dtype=np.int64), np.zeros_like(wanted)
        empty = list(range(len(shares)))
        for left, group in zip(range(len(names), 0, -1), order, strict=True):
            # Scaled by the share, so that small parts are not the last to be filled.
            grown = (
                ((reached + sizes[group] - wanted) ** 2 - (reached - wanted) ** 2) / wanted.sum(1, keepdims=True)
            ).sum(1)
            open_to = empty if left <= len(empty) else range(len(shares))
            part = min(open_to, key=grown.__getitem__)
            empty = [one for one in empty if one != part]
            place[group], reached[part] = part, reached[part] + sizes[group]
        distance = float(((reached - wanted) ** 2).sum())
        if distance < least:
            best, least = place, distance
    return best[code]


def strata_of(probs: np.ndarray) -> np.ndarray:
    """The stratum of each item `(N,)`: its most probable label, and which third of the items by entropy, of `(N, K)`."""
    return 3 * probs.argmax(axis=1) + thirds_of(entropy(probs))


def thirds_of(values: np.ndarray) -> np.ndarray:
    """Which third of the known values each is in: 0, 1 or 2; -1 for NaN."""
    known = ~np.isnan(values)
    found = np.full(len(values), -1)
    if known.any():
        found[known] = np.searchsorted(np.quantile(values[known], [1 / 3, 2 / 3]), values[known], side="left")
    return found


def fold_marginals(targets: Targets, folds: Sequence[Fold]) -> list[np.ndarray]:
    """The marginal baseline `(N, K)` of each repeat: for each item, the mean over the training part of its fold."""
    marginals = [np.full_like(targets.probs, np.nan) for _ in range(1 + max(fold.repeat for fold in folds))]
    for fold in folds:
        marginals[fold.repeat][fold.parts == "test"] = targets.probs[fold.parts == "train"].mean(axis=0)
    return marginals


def count_folds(targets: Targets, folds: Sequence[Fold], groups: np.ndarray) -> dict[str, Any]:
    """Facts on the folds for readers of the results: `partitions`, how many repeats divide the items differently; `folds`.

    A fold has the items and groups of its parts, and the labels and raters of the test part that its training part lacks.
    """
    scale, labels = targets.questions[0].is_scale, np.array(targets.support, dtype=object)
    # All labels of a tie win.
    wins = targets.probs >= targets.probs.max(axis=1, keepdims=True) - 1e-12
    divided: dict[int, set[frozenset[str]]] = {}
    told = []
    for fold in folds:
        inside = {part: fold.parts == part for part in SPLITS}
        train, test = inside["train"], inside["test"]
        divided.setdefault(fold.repeat, set()).add(frozenset(groups[test]))
        answers = targets.ratings.annotator
        asked = answers[test[targets.ratings.item]]
        unseen = asked[~np.isin(asked, answers[train[targets.ratings.item]])]
        absent = {
            "labels_without_votes": ~targets.probs[train].any(axis=0),
            "labels_that_win_no_item": ~wins[train].any(axis=0),
        }
        told.append(
            {"repeat": fold.repeat, "fold": fold.number}
            | {part: {"items": int(rows.sum()), "groups": len(set(groups[rows]))} for part, rows in inside.items()}
            | {name: [] if scale else list(labels[chosen]) for name, chosen in absent.items()}
            | {"raters_unseen": len(set(unseen)), "answers_of_raters_unseen": len(unseen)}
        )
    return {"partitions": len({frozenset(parts) for parts in divided.values()}), "folds": told}
