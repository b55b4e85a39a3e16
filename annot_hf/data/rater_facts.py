"""What is known of raters: a table with a row per rater and any columns, as numbers that a model reads."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.encoding import csv_frame

logger = logging.getLogger(__name__)

# raters who must share a word, for it to have a number of its own
SHARING = 2


def read_rater_table(path: str | os.PathLike) -> pd.DataFrame:
    """A CSV file with the column `annotator` and any others, as text by rater; an empty field is the empty string.

    Raises:
        ValueError: There is no such column or none beside it, or a rater has no name or two rows.
    """
    table = csv_frame(path, ["annotator"], further=True)
    # its own column of that name would stand in for the numbers of the rows
    if not pd.api.types.is_integer_dtype(table["row"]):
        raise ValueError(f"{path} has a column row, a name that is taken; rename it.")
    for row, bad, what in (
        (table["row"], table["annotator"] == "", "has no annotator; name the rater or remove the row"),
        (table["row"], table["annotator"].duplicated(), "lists {!r} a second time; give each rater one row"),
    ):
        if bad.any():
            first = int(np.argmax(bad))
            raise ValueError(f"{path}: row {row[first]} {what.format(table['annotator'][first])}.")
    table = table.drop(columns="row").set_index("annotator")
    if not len(table.columns):
        raise ValueError(f"{path} has the column annotator alone; add what is known of the raters.")
    return table


def describe_columns(table: pd.DataFrame, annotators: Sequence[str]) -> list[dict[str, Any]]:
    """How each column of a table of raters becomes numbers, from the raters that a model learns, as JSON.

    A column of numbers is standardised: `name`, `mean` and `std`. Of any other column, each word that two or more raters
    share is one of the `words`. Columns that are the same for all are left out, and named in a warning.

    Raises:
        ValueError: None of the raters is in the table, or nothing in it tells one from another.
    """
    known = table.loc[table.index.isin(annotators)]
    if not len(known):
        raise ValueError(f"None of the {len(annotators)} raters is in the table of raters; correct the names in it.")
    columns: list[dict[str, Any]] = []
    for name in known.columns:
        filled = known[name][known[name] != ""]
        numbers = pd.to_numeric(filled, errors="coerce")
        odd = filled[~np.isfinite(numbers)]
        if 0 < len(odd) < len(filled) / 2:
            raise ValueError(
                f"The table of raters has {odd.iloc[0]!r} as {name} of {odd.index[0]!r} among numbers; correct it, or "
                "leave it empty."
            )
        if len(filled) and not len(odd):
            if numbers.std(ddof=0) > 0:
                columns.append({"name": name, "mean": float(numbers.mean()), "std": float(numbers.std(ddof=0))})
            continue
        counts = filled.value_counts()
        words = sorted(counts.index[(counts >= SHARING) & (counts < len(known))])
        if words:
            columns.append({"name": name, "words": words})
    if not columns:
        raise ValueError(
            f"No column of {', '.join(known.columns)} tells the raters of the table apart, or has a word that two share; "
            "leave the table out."
        )
    idle = [name for name in known.columns if name not in {column["name"] for column in columns}]
    if idle:
        logger.warning("Left out of the table of raters, because they do not tell raters apart: %s.", ", ".join(idle))
    return columns


def encode_raters(
    table: pd.DataFrame, columns: Sequence[dict[str, Any]], annotators: Sequence[str], *, farthest: float = np.inf
) -> np.ndarray:
    """The numbers of these raters `(raters, F)`: standardised numbers, and 1 for the word that a rater has, else 0.

    A missing number counts as the mean, and a missing or unknown word as none; so does all of a rater who is not in the table.
    How many words are unknown is said in a warning.

    Raises:
        ValueError: The table lacks a column, or has a word where numbers are expected, or a number more than `farthest`
            standard deviations from the mean: one of another unit, such as a year of birth among ages.
    """
    rows, parts = table.reindex(annotators).fillna(""), []
    for column in columns:
        name = column["name"]
        if name not in table.columns:
            raise ValueError(
                f"The table of raters has no column {name!r}, which the model reads; add it, empty where it is not known."
            )
        if "words" in column:
            known = np.stack([rows[name] == word for word in column["words"]], 1)
            unknown = rows[name][~known.any(1) & (rows[name] != "").to_numpy()]
            if len(unknown):
                told = (len(unknown), len(rows), name, unknown.iloc[0], ", ".join(column["words"][:6]))
                logger.warning("%d of %d raters have a %s that counts as none, such as %r; known are %s.", *told)
            parts.append(known.astype(float))
            continue
        numbers = pd.to_numeric(rows[name].replace("", str(column["mean"])), errors="coerce")
        if not np.isfinite(numbers).all():
            who = rows.index[int(np.argmin(np.isfinite(numbers)))]
            raise ValueError(
                f"The table of raters has {rows[name][who]!r} as {name} of {who!r}, and the model reads numbers there; "
                "correct it, or leave it empty."
            )
        standard = (numbers.to_numpy(float) - column["mean"]) / column["std"]
        if (abs(standard) > farthest).any():
            who = rows.index[int(np.argmax(abs(standard)))]
            raise ValueError(
                f"The table of raters has {rows[name][who]} as {name} of {who!r}, where the raters of the training have "
                f"{column['mean']:.4g} ± {column['std']:.2g}; give it in the same unit, or leave it empty."
            )
        parts.append(standard[:, None])
    return np.concatenate(parts, 1)
