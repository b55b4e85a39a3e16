"""Highlighted words: which part of a text a rater pointed at, as one row a span.

A span is `text[start:end]` of the item as it is exported, counted in Unicode characters (Python's code points) from 0, so
that anything that reads the items can cut the words out again. Spans may overlap; the same one twice is an error.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa

from annot_hf.data.questions import nearest
from annot_hf.data.votes import VoteTable

COLUMNS = ("item", "annotator", "start", "end")


def spans_table(name: str, spans: pd.DataFrame, items: pd.DataFrame, votes: VoteTable) -> pa.Table:
    """Check highlighted spans and add the words they hold.

    Args:
        name: How messages call the corpus.
        spans: Columns item, annotator, start and end; `words`, where given, must be what the span holds.
        items: Columns item and text.
        votes: The votes; whoever highlights words of an item has voted on it.

    Returns:
        Columns item, annotator, start, end and words, in the order given.

    Raises:
        ValueError: A column is missing; an item is not listed or has no text; the rater did not vote on it; start and
            end are no whole numbers with 0 <= start < end <= length of the text; the words differ; a span is repeated.
    """
    if missing := [column for column in COLUMNS if column not in spans]:
        raise ValueError(f"{name}: spans have no column {missing[0]!r}; they need {', '.join(COLUMNS)}.")
    spans = spans.reset_index(drop=True)
    item, annotator = (spans[column].astype(str) for column in COLUMNS[:2])
    texts = items["text"] if "text" in items else pd.Series([None] * len(items), dtype=object)
    text = item.map(dict(zip(items["item"], texts, strict=True))).astype(object)

    def refuse(bad: pd.Series | np.ndarray, what: Callable[[int], str]) -> None:
        if np.any(bad):
            row = int(np.argmax(bad))
            raise ValueError(f"{name}: span row {row} {what(row)}.")

    refuse(
        ~item.isin(items["item"]),
        lambda row: (
            f"is on item {item[row]!r}{nearest(item[row], items['item'])}, which the corpus does not list; correct it"
        ),
    )
    refuse(text.isna(), lambda row: f"is on item {item[row]!r}, which has no text; leave the span out")
    named = votes.annotator_codes >= 0
    voted = pd.MultiIndex.from_arrays(
        [votes.items[votes.item_codes[named]], votes.annotators[votes.annotator_codes[named]]]
    )
    refuse(
        ~pd.MultiIndex.from_arrays([item, annotator]).isin(voted),
        lambda row: f"is by annotator {annotator[row]!r}, who has no vote on item {item[row]!r}; correct or add it",
    )
    places = [pd.to_numeric(spans[column], errors="coerce") for column in ("start", "end")]
    whole = (places[0] % 1 == 0) & (places[1] % 1 == 0)
    refuse(
        ~(whole & (places[0] >= 0) & (places[0] < places[1]) & (places[1] <= text.str.len())),
        lambda row: (
            f"goes from {spans['start'][row]!r} to {spans['end'][row]!r} in a text of {len(text[row])} characters; give "
            "whole numbers with 0 <= start < end <= length"
        ),
    )
    start, end = (place.astype(np.int64) for place in places)
    words = pd.Series([one[a:b] for one, a, b in zip(text, start, end, strict=True)], dtype=object)
    if "words" in spans:
        refuse(
            spans["words"] != words,
            lambda row: (
                f"has the words {spans['words'][row]!r}, but from {start[row]} to {end[row]} item {item[row]!r} holds "
                f"{words[row]!r}; count Unicode characters from 0"
            ),
        )
    repeated = pd.DataFrame({"item": item, "annotator": annotator, "start": start, "end": end}).duplicated()
    refuse(
        repeated,
        lambda row: f"repeats a span of annotator {annotator[row]!r} on item {item[row]!r}; list each span once",
    )
    text_columns = {"item": item, "annotator": annotator}
    columns = {column: pa.array(values, pa.string()) for column, values in text_columns.items()}
    return pa.table(columns | {"start": pa.array(start), "end": pa.array(end), "words": pa.array(words, pa.string())})
