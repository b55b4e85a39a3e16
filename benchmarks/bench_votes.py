"""1.5 million string votes on 268,000 items and 9 labels: from strings, and from codes, to the (N, K) histogram."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from benchmarks.timing import Result, best

VOTES, ITEMS, LABELS = 1_500_000, 268_000, [f"emotion_{code}" for code in range(9)]
QUESTION = Question.category("emotion", LABELS)


def run() -> Iterator[Result]:
    for order in ("sorted", "shuffled"):  # a file lists the votes of an item together, or does not
        generator = np.random.default_rng(0)
        item_codes = generator.integers(0, ITEMS, VOTES)
        item_codes = np.sort(item_codes) if order == "sorted" else item_codes
        label_codes = generator.integers(0, len(LABELS), VOTES)
        item = pa.array([f"MSP-PODCAST_{code:06d}.wav" for code in range(ITEMS)]).take(pa.array(item_codes))
        label = pa.array(LABELS).take(pa.array(label_codes))
        yield from from_strings(order, item, label)

    votes = VoteTable.from_columns(QUESTION, item=item, value=label)
    codes, classes = votes.item_codes, len(LABELS)

    def bare() -> np.ndarray:
        return np.bincount(codes.astype(np.int64) * classes + votes.label_codes, minlength=len(votes.items) * classes)

    seconds, baseline = best(lambda: votes.counts("emotion"), bare)
    difference = float(np.abs(votes.counts("emotion").ravel() - bare()).max())
    yield Result("codes -> histogram", "np.bincount of item * K + label", baseline, seconds, 1 / 1.5, difference, 0)


def from_strings(order: str, item: pa.Array, label: pa.Array) -> Iterator[Result]:
    frame = pl.DataFrame({"item": pl.from_arrow(item), "label": pl.from_arrow(label)})

    def ours() -> np.ndarray:
        return VoteTable.from_columns(QUESTION, item=item, value=label).counts("emotion")

    def grouped() -> pl.DataFrame:
        return frame.group_by("item", "label").len()

    def pivoted() -> pl.DataFrame:
        return grouped().pivot("label", index="item", values="len").fill_null(0)

    votes = VoteTable.from_columns(QUESTION, item=item, value=label)
    table = pivoted()
    row_of = {name: row for row, name in enumerate(votes.items)}
    theirs = np.zeros((len(votes.items), len(LABELS)))
    theirs[[row_of[name] for name in table["item"]]] = table.select(LABELS).to_numpy()
    difference = float(np.abs(votes.counts("emotion") - theirs).max())
    seconds, long, wide = best(ours, grouped, pivoted)
    yield Result(f"{order} strings -> histogram", "polars group_by (long)", long, seconds, 1.0, difference, 0)
    yield Result(f"{order} strings -> histogram", "polars group_by + pivot (N, K)", wide, seconds, 1.0, difference, 0)
