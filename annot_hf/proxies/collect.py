"""From the log to what others read: a vote table, and every reply with its provenance."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from annot_hf.data import encoding
from annot_hf.data.annotations import write_annotations, write_replies
from annot_hf.data.questions import Question
from annot_hf.data.sources import SYNTHETIC
from annot_hf.data.votes import VoteTable
from annot_hf.proxies.ledger import STATUSES, Ledger
from annot_hf.proxies.log import LOG, read_entries

REPLIES = pa.schema(
    {
        "item": pa.string(),
        "annotator": pa.string(),
        "status": pa.string(),
        "label": pa.string(),
        "reply": pa.string(),
        "reason": pa.string(),
        "model": pa.string(),
        "revision": pa.string(),
        "instruction": pa.string(),
        "temperature": pa.float64(),
        "seed": pa.int64(),
        "omitted": pa.string(),
        "prompt_sha256": pa.string(),
        "at": pa.string(),
        "seconds": pa.float64(),
        "tries": pa.int64(),
        "input_tokens": pa.int64(),
        "output_tokens": pa.int64(),
        "cost": pa.float64(),
    }
)
_ROWS = 2_000  # replies in memory at a time


def collect(folder: Path, question: Question, ledger: Ledger, facts: Mapping[str, Any]) -> VoteTable | None:
    """Write votes, replies and facts of a folder from its log; the replies alone, and None, while there is no vote.

    Args:
        folder: Folder of the log.
        question: What was asked.
        ledger: State of every question.
        facts: For annotations.json.
    """
    replies = pa.RecordBatchReader.from_batches(REPLIES, _replies(folder / LOG, facts["model"], ledger))
    if not (ledger.status == STATUSES.index("label")).any():
        write_replies(folder, replies)
        return None
    votes = votes_of(question, ledger, facts["model"])
    tokens = {"input_tokens": ledger.input_tokens, "output_tokens": ledger.output_tokens}
    write_annotations(
        folder, votes, replies, dict(facts) | {"statuses": ledger.counts(), "omitted": dict(ledger.omitted), **tokens}
    )
    return votes


def votes_of(question: Question, ledger: Ledger, model: str) -> VoteTable:
    """One vote for each question that was answered by a label; annotators are named after the model and their number."""
    rows, annotators = np.nonzero(ledger.status == STATUSES.index("label"))
    items, place = np.unique(rows, return_inverse=True)
    used = np.unique(annotators)
    return VoteTable.from_columns(
        question,
        item=encoding.dictionary(place, [ledger.items[row] for row in items]),
        value=encoding.dictionary(ledger.label[rows, annotators], question.labels),
        annotator=encoding.dictionary(np.searchsorted(used, annotators), [annotator_name(model, one) for one in used]),
        source=SYNTHETIC,
        where="replies",
    )


def annotator_name(model: str, index: int) -> str:
    """Name of a simulated annotator in a vote table."""
    return f"{model}#{index}"


def _replies(path: Path, model: str, ledger: Ledger) -> Iterator[pa.RecordBatch]:
    """What came of each question in the end, in the order of the log, a block at a time."""
    rows: list[dict[str, Any]] = []
    for offset, _, record in read_entries(path):
        if record["kind"] not in ("answer", "closed"):
            continue
        place = ledger.row[record["item"]], record["annotator"]
        if ledger.by[place] != offset or ledger.status[place] < 0:
            continue  # something else came of it, or it is asked again
        status = STATUSES[ledger.status[place]]
        record = record | {"status": status, "label": record["label"] if status == "label" else None}
        row = {name: _text(record.get(name)) for name in REPLIES.names}
        row |= {"annotator": annotator_name(model, record["annotator"]), "model": row["model"] or model}
        rows.append(row)
        if len(rows) == _ROWS:
            yield pa.RecordBatch.from_pylist(rows, REPLIES)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, REPLIES)


def _text(value: Any) -> Any:
    """A value whose text, if it is one, is Unicode: half of a surrogate pair, which JSON can hold and Arrow cannot, is `?`."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
