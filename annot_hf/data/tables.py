"""The Arrow tables of an export and their `datasets` features."""

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Audio, ClassLabel, Features, List

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.votes import VoteTable
from annot_hf.models.measures import entropy


def items_table(corpus: VoteCorpus, items: pd.DataFrame) -> pa.Table:
    """Items as plain Arrow columns, `audio` as the struct that the Audio feature wants."""
    columns = {}
    first = [name for name in ("item", "file", "text", "speaker", "split", "seconds") if name in items]
    for name in [*first, *(name for name in items if name not in first)]:
        try:
            column = pa.array(items[name], from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"{corpus.name}: column {name!r} mixes types ({error}); use one type a column.") from error
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_nested(column.type):
            raise ValueError(f"{corpus.name}: column {name!r} holds {column.type}; use plain values.")
        if pa.types.is_null(column.type) or pa.types.is_large_string(column.type) or name == "speaker":
            column = column.cast(pa.string())
        columns[str(name)] = column
        if name == "file":
            paths = [None if file is None else os.path.join(corpus.root, file) for file in column.to_pylist()]
            columns["audio"] = audio_column([None] * len(paths), paths)
    return pa.table(columns)


def audio_column(data: Sequence[bytes | None], paths: Sequence[str | None]) -> pa.StructArray:
    """Bytes and paths as the struct that the Audio feature wants; null where there is no path."""
    fields = [pa.array(data, pa.binary()), pa.array(paths, pa.string())]
    return pa.StructArray.from_arrays(fields, ["bytes", "path"], mask=pa.array([path is None for path in paths]))


def votes_table(votes: VoteTable, labels: Sequence[str]) -> pa.Table:
    """Votes with the label as its index into all labels, as ClassLabel wants it."""
    table = votes.to_arrow()
    place = table.column_names.index("label")
    label = table["label"].combine_chunks()
    return table.set_column(place, "label", label.indices.cast(pa.int64()) if labels else label.cast(pa.string()))


def histograms_table(votes: VoteTable, labels: Sequence[str], items: pa.Table) -> pa.Table:
    """One row an item and category question that has votes, in item order."""
    names = items["item"].to_pylist()
    parts = []
    for index, question in enumerate(votes.questions):
        if question.is_scale:
            continue
        counts = votes.counts(question.name, items=names)
        total = counts.sum(axis=1)
        rows = np.flatnonzero(total > 0)
        counts, total, classes = counts[rows], total[rows], len(question.labels)
        distribution = counts / total[:, None]
        kind = pa.int64() if votes.weights is None else pa.float64()
        offsets = pa.array(np.arange(0, counts.size + 1, classes, dtype=np.int32))
        part = items.select(
            [name for name in ("item", "file", "audio", "text", "speaker") if name in items.column_names]
        )
        part = part.take(rows)
        codes = np.tile([labels.index(label) for label in question.labels], len(rows))
        ours = {
            "question": pa.array([question.name] * len(rows), pa.string()),
            "labels": pa.ListArray.from_arrays(offsets, pa.array(codes)),
            "counts": pa.ListArray.from_arrays(offsets, pa.array(counts.ravel()).cast(kind)),
            "distribution": pa.ListArray.from_arrays(offsets, pa.array(distribution.ravel())),
            "entropy": pa.array(entropy(distribution, normalised=True) if classes > 1 else np.zeros(len(rows))),
            "votes": pa.array(total).cast(kind),
            "order": pa.array(rows * len(votes.questions) + index),
        }
        for position, (name, column) in enumerate(ours.items(), start=1):
            part = part.add_column(position, name, column)
        parts.append(part)
    return pa.concat_tables(parts).sort_by("order").drop_columns("order")


def table_features(config: str, table: pa.Table, labels: Sequence[str], sampling_rate: int) -> Features:
    """The `datasets` features of a table."""
    plain = [pa.field(f.name, pa.string()) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    features = Features.from_arrow_schema(pa.schema(plain))
    if "audio" in features:
        features["audio"] = Audio(sampling_rate, decode=False)
    if config == "votes" and labels:
        features["label"] = ClassLabel(names=list(labels))
    if config == "histograms":
        features["labels"] = List(ClassLabel(names=list(labels)))
    return features
