"""Splits for an export that are drawn anew (`split_by`) or read from a file (`split_as`), instead of the corpus's own."""

import os
import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from annot_hf.data.corpus import SPLITS, VoteCorpus
from annot_hf.data.encoding import csv_frame
from annot_hf.data.folds import draw_splits, group_items, thirds_of
from annot_hf.data.votes import VoteTable
from annot_hf.models.measures import entropy

SHARES = (0.7, 0.15, 0.15)
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development", "devel"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
# In the place of an item column: raters are divided too.
RATER = "rater"
# A value with this share of its rows in one split stays there; others are drawn, since the largest split would get them all.
_STAYS = 0.9

# What gives the items of a corpus their splits: corpus, items and votes to items and votes; it notes what it leaves out.
Splitting = Callable[[VoteCorpus, pd.DataFrame, VoteTable], tuple[pd.DataFrame, VoteTable]]


def split_by(*columns: str, shares: Sequence[float] = SHARES, seed: int = 0) -> Splitting:
    """Draw train, validation and test, for `export_corpus`, so that no value of a column is in two of them.

    Whole groups of items with one value of the first column are drawn, so that labels and disagreement are spread alike (see
    `draw_splits`). The values of each further column are divided after that, and items whose own split is not that of their
    value are left out and counted: where every speaker says every sentence, this is about half of them.

    Args:
        columns: Item columns, such as "speaker" or "session". "text" compares words alone, without case and punctuation.
            "rater" stands for the raters: they are divided too, and votes on items of another split than the rater's are left
            out, as are votes that name no rater. Alone, it divides items by conversation, document or speaker, if known.
        shares: Shares of train, validation and test, in all 1.
        seed: Seed of all draws.

    Raises:
        ValueError: No column is named, or the shares are none. The export raises if the items lack a column or a value, if
            there are too few groups, or if nothing is left in a split.
    """
    if not columns:
        raise ValueError("No column is named to split by; name one, such as speaker.")
    if len(shares) != len(SPLITS) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares are {tuple(shares)!r}; give three above 0 that sum to 1, such as {SHARES}.")
    first, *further = [name for name in dict.fromkeys(columns) if name != RATER] or [""]

    def split(corpus: VoteCorpus, items: pd.DataFrame, votes: VoteTable) -> tuple[pd.DataFrame, VoteTable]:
        column, groups = _groups(items, first)
        question = (*corpus.default_questions, votes.questions[0].name)[0]
        try:
            splits, said = draw_item_splits(
                items["item"], votes, question, groups, unit=column, shares=shares, seed=seed
            )
        except ValueError as error:
            raise ValueError(f"{corpus.name}, split by {column}: {error}") from None
        corpus.note(f"splits drawn by {column}, seed {seed}", said, expected=True)
        items = items.assign(split=splits)
        for name in further:
            home = _homes(_groups(items, name)[1], items["split"].to_numpy(), shares, seed)
            reason = f"items whose {name} is of another split, left out"
            items, votes = _keep(corpus, items, votes, home == items["split"], reason, expected=True)
        if RATER in columns:
            votes = _divide_raters(corpus, items, votes, shares, seed)
        left = set(items["split"][items["item"].isin(votes.items)])
        if empty := [name for name in SPLITS if name not in left]:
            raise ValueError(
                f"{corpus.name}: split by {' and '.join(columns)}, no vote is left in {' and '.join(empty)}; name fewer "
                "columns, or give larger shares."
            )
        return items, votes

    return split


def split_as(path: str | os.PathLike) -> Splitting:
    """Read the splits of a CSV file with columns `item` or `speaker`, and `split`, for `export_corpus`.

    Items that the file does not name, by themselves or by their speaker, are left out and counted, and so are its rows on
    others. "dev", "training" and the like are read as validation and train; other names stay.

    Raises:
        ValueError: The file cannot be read, or a row names no split or repeats an item; the row is named. The export raises if
            no item is in the file.
    """
    table = csv_frame(path, ["item", "split"], ["speaker", "split"], further=True)
    key = "item" if "item" in table else "speaker"
    named = table["split"].map(lambda name: SPLIT_NAMES.get(name.strip().casefold(), name.strip()))
    for bad, rule in (
        (~named.str.fullmatch(r"\w+").astype(bool), f"names no split; write {', '.join(SPLITS)}, or another word"),
        (table[key].duplicated(), "is there twice; leave one row"),
    ):
        if bad.any():
            row = table[bad].iloc[0]
            raise ValueError(f"{path}, row {row['row']}: {key} {row[key]!r} with split {row['split']!r} {rule}.")
    split_of = pd.Series(named.to_numpy(), table[key].to_numpy())

    def split(corpus: VoteCorpus, items: pd.DataFrame, votes: VoteTable) -> tuple[pd.DataFrame, VoteTable]:
        names = items[key]
        found = names.map(split_of)
        if found.isna().all():
            raise ValueError(
                f"{path} names the {key} of none of the {len(items)} items of {corpus.name}: it has {split_of.index[0]!r}, "
                f"and the corpus has {names.iloc[0]!r}; write the names of the corpus."
            )
        foreign = split_of.index[~split_of.index.isin(names)]
        corpus.note(f"{key}s of the file of splits that the corpus does not have", list(foreign))
        reason = "items that the file of splits does not name, left out"
        return _keep(corpus, items.assign(split=found), votes, found.notna(), reason)

    return split


def draw_item_splits(
    items: Sequence[str],
    votes: VoteTable,
    question: str,
    groups: np.ndarray,
    *,
    unit: str,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
) -> tuple[np.ndarray, list[str]]:
    """The split of each item, whole groups `(N,)` at a time, stratified by answer and disagreement on the question.

    Returns:
        The splits `(N,)`, the first of train, validation and test for which there are shares, and a phrase on each.

    Raises:
        ValueError: There are fewer groups than shares.
    """
    centre, spread = answer_and_disagreement(votes, question, items)
    strata = [f"{one} {third}" for one, third in zip(centre, thirds_of(spread), strict=True)]
    names = SPLITS[: len(shares)]
    splits = np.array(names, dtype=object)[draw_splits(groups, np.array(strata, dtype=object), shares, seed=seed)]
    said, first = [], pd.Series(centre)
    overall = first.value_counts(normalize=True)
    for name in names:
        inside = splits == name
        apart = first[inside].value_counts(normalize=True).reindex(overall.index, fill_value=0) - overall
        known = spread[inside & ~np.isnan(spread)]
        mean = f"{known.mean():.2f}" if len(known) else "unknown"
        said.append(
            f"{name}: {len(set(groups[inside]))} {unit}s, mean disagreement {mean}, "
            f"shares of labels within {abs(apart).max():.2f}"
        )
    return splits, said


def answer_and_disagreement(votes: VoteTable, question: str, items: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent label of each item (its code), or which third of the mean ratings, -1 without votes; and disagreement.

    Disagreement is the entropy of the votes over its maximum, or the standard deviation of ratings; NaN without votes.
    """
    if votes.question(question).is_scale:
        rows = votes.rows_of(question)
        ratings = pd.Series(votes.ratings[rows]).groupby(votes.items[votes.item_codes[rows]])
        centre, spread = ratings.mean().reindex(items).to_numpy(), ratings.std(ddof=0).reindex(items).to_numpy()
        return thirds_of(centre), spread
    counts = votes.counts(question, items=list(items))
    voted = counts.any(axis=1)
    centre, spread = np.where(voted, counts.argmax(axis=1), -1), np.full(len(items), np.nan)
    spread[voted] = 0
    if counts.shape[1] > 1:
        shares = counts[voted] / counts[voted].sum(axis=1, keepdims=True)
        spread[voted] = entropy(shares, normalised=True)
    return centre, spread


def _groups(items: pd.DataFrame, column: str) -> tuple[str, np.ndarray]:
    """The column to group by and the group of each item `(N,)`; texts without case, spaces and punctuation."""
    column, groups = group_items(items, items["item"], column)
    if column == "text":
        groups = np.array([re.sub(r"\W+", " ", one.casefold()).strip() for one in groups], dtype=object)
    return column, groups


def _homes(values: np.ndarray, splits: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """The split of the value of each row: the one that it is in, or, of values in several, one that is drawn."""
    counts = pd.crosstab(values, splits).reindex(columns=SPLITS, fill_value=0)
    home = counts.idxmax(axis=1)
    crossing = counts.index[counts.max(axis=1) < _STAYS * counts.sum(axis=1)]
    if len(crossing) >= len(SPLITS):
        rows = np.isin(values, crossing)
        part = draw_splits(values[rows], splits[rows], shares, seed=seed)
        home[values[rows]] = np.array(SPLITS, dtype=object)[part]
    return home.reindex(values).to_numpy()


def _keep(
    corpus: VoteCorpus, items: pd.DataFrame, votes: VoteTable, kept: pd.Series, reason: str, *, expected: bool = False
) -> tuple[pd.DataFrame, VoteTable]:
    """The items that are kept, and their votes; the others are noted."""
    voted = pd.Index(votes.items).isin(items["item"][kept])[votes.item_codes]
    corpus.note(reason, list(items["item"][~kept]), votes=int((~voted).sum()), expected=expected)
    return items[kept].reset_index(drop=True), votes.select(mask=voted)


def _divide_raters(
    corpus: VoteCorpus, items: pd.DataFrame, votes: VoteTable, shares: Sequence[float], seed: int
) -> VoteTable:
    """The votes of raters on the items of their own split; the others are noted."""
    named = votes.annotator_codes >= 0
    if not named.any():
        raise ValueError(f"{corpus.name}: no vote names its rater, so that raters cannot be divided; split by items.")
    split_of = items.set_index("item")["split"].reindex(votes.items).to_numpy()[votes.item_codes]
    home = np.full(len(votes), None, dtype=object)
    home[named] = _homes(votes.annotator_codes[named], split_of[named], shares, seed)
    apart = named & (home != split_of)
    for reason, rows in (
        ("votes on items of another split than the rater's, left out", apart),
        ("votes that name no rater, left out where raters are divided", ~named),
    ):
        corpus.note(reason, int(rows.sum()), votes=int(rows.sum()), expected=True)
    return votes.select(mask=named & ~apart)
