"""Votes of simulated annotators on the items of a corpus, as a folder.

`votes.parquet` has one row per vote, all of source "synthetic", and `replies.parquet` one per item and annotator asked.
`annotations.json` appears last and holds the digest of the votes, so truncated or edited votes are detected.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annot_hf.data.encoding import WEIGHT_RULE, check_choice, repeated_votes, usable_weight
from annot_hf.data.export import EXPORT_FILE as EXPORTED, ExportedCorpus
from annot_hf.data.files import replace_file
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.models.access import read_object

# The source of every vote of a model. Votes of any other source, or of none, are human.
SYNTHETIC = "synthetic"
ANNOTATIONS_KIND = "annot-hf annotations"
ANNOTATIONS_FILE, VOTES_FILE, REPLIES_FILE = "annotations.json", "votes.parquet", "replies.parquet"
_FIX = "write it again with `annot-hf annotate`"
# Random numbers at a time (32 MB).
_DRAWN_AT_ONCE = 1 << 22


Half = Literal["", "first", "second"]


@dataclass(frozen=True)
class VoteOptions:
    """Whose votes a model learns from, as a recipe says it.

    Args:
        annotations: Folder of synthetic votes on the corpus; none when empty.
        kind: "human", "synthetic" or "combined"; when empty "combined" with `annotations` and "human" without. "synthetic"
            uses no human vote, not even for choosing the epoch, which goes by synthetic votes of the validation split; the
            other two are validated by human votes. Tests are against human votes.
        synthetic_weight: Weight of a synthetic vote in "combined", where a human one has 1.
        half: Only the "first" or "second" of two random halves of each item's human votes (see `half_of`), for training and
            for the choice of the epoch, so that the other half is that of new listeners; all votes when empty.
        shuffle_raters: Redraw who gave which vote, for training and for the choice of the epoch: a control in which knowing
            the rater cannot help (see `shuffle_raters`). Predictions ask the heads of the true raters.

    Raises:
        ValueError: The folder holds no annotations, or an option does not fit the others.
    """

    annotations: str = ""
    kind: Literal["", "human", "synthetic", "combined"] = ""
    synthetic_weight: float = 1.0
    half: Half = ""
    shuffle_raters: bool = False

    def __post_init__(self) -> None:
        if not self.annotations:
            for name, is_set in (("kind", self.used != "human"), ("synthetic_weight", self.synthetic_weight != 1)):
                if is_set:
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}, and there are no annotations; set annotations to a folder that "
                        f"annot-hf annotate wrote, or remove {name}."
                    )
        if self.half and self.used == "synthetic":
            raise ValueError(
                f"half is {self.half!r} and kind is synthetic, which uses no human vote; remove half, or choose another kind."
            )
        if not 0 < self.synthetic_weight < math.inf:
            raise ValueError(
                f"synthetic_weight is {self.synthetic_weight}; it is a finite number above 0 (for no synthetic votes, set "
                "kind to human)."
            )
        if self.synthetic_weight != 1 and self.used != "combined":
            raise ValueError(
                f"synthetic_weight is {self.synthetic_weight} and kind is {self.used}, where there is nothing to weigh "
                "against; remove synthetic_weight, or set kind to combined."
            )
        if self.used != "human":
            # a wrong folder shows before anything is trained
            read_annotation_facts(self.annotations)

    @property
    def used(self) -> str:
        """Whose votes are used: "human", "synthetic" or "combined"."""
        return self.kind or ("combined" if self.annotations else "human")


@dataclass(frozen=True, eq=False)
class Annotations:
    """Synthetic votes read back; `facts` are the contents of annotations.json."""

    folder: Path
    votes: VoteTable
    facts: dict[str, Any]


def write_annotations(
    folder: str | os.PathLike[str], votes: VoteTable, replies: pa.Table | pa.RecordBatchReader, facts: Mapping[str, Any]
) -> None:
    """Write synthetic votes, the replies behind them, and facts (JSON), among them `corpus` (its name) and `corpus_digest`."""
    folder = Path(folder)
    _check_votes(votes, "votes")
    check_annotations_folder(folder)
    record = {
        "kind": ANNOTATIONS_KIND,
        **facts,
        "questions": [question.to_dict() for question in votes.questions],
        "counts": _vote_counts(votes),
    }
    folder.mkdir(parents=True, exist_ok=True)
    record["counts"]["replies"] = write_replies(folder, replies)
    record["votes_sha256"] = replace_file(folder / VOTES_FILE, lambda path: pq.write_table(votes.to_arrow(), path))
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(folder / ANNOTATIONS_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def check_annotations_folder(folder: str | os.PathLike[str]) -> None:
    """Raise unless annotations may be written to a folder, which may be new."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the annotations.")
    if (folder / EXPORTED).exists():
        raise ValueError(f"{folder} holds an exported corpus ({EXPORTED}); give the annotations a folder of their own.")
    path = folder / ANNOTATIONS_FILE
    # A damaged file is written again.
    with suppress(OSError, json.JSONDecodeError, UnicodeDecodeError):
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict) or held.get("kind") != ANNOTATIONS_KIND:
            raise ValueError(f"{path} is not of kind {ANNOTATIONS_KIND!r}; move that file away or give a new folder.")


def write_replies(folder: Path, replies: pa.Table | pa.RecordBatchReader) -> int:
    """Write replies alone, while none of them is a vote; returns the number of rows."""
    batches = replies.to_reader() if isinstance(replies, pa.Table) else replies

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, batches.schema) as writer:
            for batch in batches:
                writer.write_batch(batch)

    replace_file(folder / REPLIES_FILE, write)
    return pq.read_metadata(folder / REPLIES_FILE).num_rows


def read_annotations(folder: str | os.PathLike[str]) -> Annotations:
    """Read what `write_annotations` wrote; an error names the file that is missing, damaged or edited."""
    folder = Path(folder)
    path, votes_path = folder / ANNOTATIONS_FILE, folder / VOTES_FILE
    facts = read_annotation_facts(folder)
    if not votes_path.is_file():
        raise ValueError(f"The annotations {folder} lack {VOTES_FILE}; {_FIX}.")
    data = votes_path.read_bytes()
    if hashlib.sha256(data).hexdigest() != facts.get("votes_sha256"):
        raise ValueError(
            f"{votes_path} is not the file that {ANNOTATIONS_FILE} describes: it was edited, or writing stopped early; {_FIX}."
        )
    try:
        questions = tuple(Question.from_dict(fields) for fields in facts["questions"])
        counted = {name: facts["counts"][name] for name in ("votes", "items", "annotators")}
        missing = {"corpus", "corpus_digest"} - set(facts)
        if missing or not questions:
            raise KeyError(min(missing, default="questions"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); {_FIX}.") from error
    try:
        votes = VoteTable.from_arrow(pq.read_table(pa.BufferReader(data)), questions)
    except (ValueError, pa.ArrowException) as error:
        # `pa.ArrowInvalid` is a ValueError.
        raise ValueError(f"{votes_path} does not fit the questions of {ANNOTATIONS_FILE} ({error}); {_FIX}.") from error
    _check_votes(votes, str(votes_path))
    if counted != _vote_counts(votes):
        raise ValueError(f"{path} counts {counted}, but {VOTES_FILE} holds {_vote_counts(votes)}; {_FIX}.")
    return Annotations(folder, votes, facts)


def read_annotation_facts(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Contents of annotations.json of a folder; the votes are not read."""
    path = Path(folder) / ANNOTATIONS_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no annotations: it has no {ANNOTATIONS_FILE}; write one with `annot-hf annotate`."
        )
    facts = read_object(path, _FIX)
    if facts.get("kind") != ANNOTATIONS_KIND:
        raise ValueError(f"{path} is not of kind {ANNOTATIONS_KIND!r}; give a folder that `annot-hf annotate` wrote.")
    return facts


def check_corpus(annotations: Annotations, corpus: ExportedCorpus) -> None:
    """Raise a ValueError unless the annotations were made for this export, or for the export that it is a view of."""
    facts = annotations.facts
    if facts["corpus_digest"] != corpus.digest:
        raise ValueError(
            f"The annotations {annotations.folder} are of {facts['corpus']} (digest {facts['corpus_digest'][:12]}), but the "
            f"corpus is {corpus.name} (digest {corpus.digest[:12]}); name the export that was annotated, or annotate this one."
        )
    unknown = ~np.isin(annotations.votes.items, corpus.items["item"].to_numpy())
    # A view may lack items.
    if unknown.any() and not corpus.part:
        raise ValueError(
            f"The annotations {annotations.folder} have votes on {int(unknown.sum())} items that {corpus.name} does not list, "
            f"such as {annotations.votes.items[unknown][0]!r}; {_FIX}."
        )


def _vote_counts(votes: VoteTable) -> dict[str, int]:
    return {"votes": len(votes), "items": len(votes.items), "annotators": len(votes.annotators)}


def _check_votes(votes: VoteTable, where: str) -> None:
    """Raise unless there are votes, all are synthetic, and no annotator answers twice."""
    if not len(votes):
        raise ValueError(f"{where}: there is no vote; annotations need at least one reply that could be read.")
    other = ~is_synthetic(votes)
    if other.any():
        row = int(np.argmax(other))
        # Code -1 reads the last place.
        source = np.append(votes.sources, None)[votes.source_codes[row]]
        raise ValueError(
            f"{where}: row {row} (item {votes.items[votes.item_codes[row]]!r}) has source {source!r}; annotations hold only "
            f"votes of source {SYNTHETIC!r}."
        )
    codes = votes.item_codes, votes.annotator_codes, votes.question_codes, votes.label_codes
    repeated = repeated_votes(votes.questions, *codes, len(votes.annotators))
    if repeated.any():
        row = int(np.argmax(repeated))
        raise ValueError(
            f"{where}: row {row} repeats annotator {votes.annotators[votes.annotator_codes[row]]!r} on item "
            f"{votes.items[votes.item_codes[row]]!r}; keep one vote of an annotator on an item and question."
        )


def is_synthetic(votes: VoteTable) -> np.ndarray:
    """Which votes `(V,)` come from a model: those of source "synthetic". All others are human."""
    # Code -1 reads the last place.
    return np.append(votes.sources == SYNTHETIC, False)[votes.source_codes]


def combine_votes(human: VoteTable, synthetic: VoteTable, weight: float = 1.0) -> VoteTable:
    """Human votes, and synthetic ones (of `answers_to`) with a weight w, in one table.

    With n_h human and n_s synthetic votes, an item has (n_h q_h + w n_s q_s) / (n_h + w n_s); arXiv 2601.14620 has w = 1.
    """
    if not usable_weight(weight):
        raise ValueError(
            f"The weight of synthetic votes is {weight!r}; give a finite number from 0 up ({WEIGHT_RULE})."
        )
    # So that none is taken for a rater of the same name.
    names = np.array([f"{SYNTHETIC}:{name}" for name in synthetic.annotators], dtype=object)
    both = VoteTable.concat([human, replace(synthetic, annotators=names)])
    factors = np.where(is_synthetic(both), float(weight), 1.0)
    kept = both.select(mask=factors > 0)
    weights = factors[factors > 0] * (1.0 if kept.weights is None else kept.weights)
    return replace(kept, weights=None if (weights == 1).all() else weights)


def pick_raters(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The `counts` `(n,)` raters with the largest of an item's keys `(n, raters)`: item and rater `(P,)`, item by item.

    Where keys are log(weight) + Gumbel noise, they are drawn by weight without replacement.
    """
    order = np.argsort(-keys, axis=1)
    item, rank = np.nonzero(np.arange(keys.shape[1]) < counts[:, None])
    return item, order[item, rank]


def shuffle_raters(votes: VoteTable, seed: int = 0) -> VoteTable:
    """The same votes under redrawn names: each item has as many named raters as before, none of them twice.

    Raters are drawn by how many items they rated; all votes of a rater on an item move together. Anonymous votes stay.
    """
    named = np.flatnonzero(votes.annotator_codes >= 0)
    raters = len(votes.annotators)
    pairs, place = np.unique(
        votes.item_codes[named].astype(np.int64) * raters + votes.annotator_codes[named], return_inverse=True
    )
    item, rater = np.divmod(pairs, max(raters, 1))
    items, start, counts = np.unique(item, return_index=True, return_counts=True)
    rng, weight = np.random.default_rng(seed), np.bincount(rater, minlength=raters)
    drawn, rows = np.empty(len(pairs), np.int64), max(1, _DRAWN_AT_ONCE // max(raters, 1))
    for first in range(0, len(items), rows):
        part = slice(first, first + rows)
        keys = np.log(np.maximum(weight, 1e-9)) + rng.gumbel(size=(len(items[part]), raters))
        # pairs are ordered by item
        drawn[start[first] : start[first] + counts[part].sum()] = pick_raters(keys, counts[part])[1]
    codes = votes.annotator_codes.copy()
    codes[named] = drawn[place]
    return replace(votes, annotator_codes=codes)


def half_of(votes: VoteTable, half: Half) -> VoteTable:
    """One of two random halves of the votes on each item; the other votes are counted in `exclusions`.

    All votes of a rater on an item, on whatever question, are in one half. Of the raters of an item who answered the same
    questions, or its anonymous votes on a question, the halves have equally many or one more; chance decides which, and which
    half has the only vote of an item. The halves are the same in every call with the same table.
    """
    check_choice("half", half, [name for name in get_args(Half) if name], "votes")
    item, question = votes.item_codes.astype(np.int64), votes.question_codes
    rows, many = np.arange(len(votes)), len(votes.annotators)
    anonymous = len(votes.items) * many + rows
    key = np.where(votes.annotator_codes >= 0, item * many + votes.annotator_codes, anonymous)
    _, first, voter = np.unique(key, return_index=True, return_inverse=True)
    asked = np.zeros(len(first), np.int64)
    np.bitwise_or.at(asked, voter, 1 << (question.astype(np.int64) % 63))
    rng = np.random.default_rng(0)
    order = np.lexsort((rng.random(len(first)), asked, item[first]))
    side = np.empty(len(first), np.int64)
    # Alternating, and by chance from the one or the other.
    side[order] = (np.arange(len(first)) + rng.integers(2, size=len(votes.items))[item[first][order]]) % 2
    kept = votes.select(mask=side[voter] == (half == "second"))
    left = {"not in this half of the item's votes": len(votes) - len(kept)}
    return replace(kept, exclusions=votes.exclusions | left)


def answers_to(votes: VoteTable, questions: tuple[Question, ...], where: str) -> VoteTable:
    """The votes with the questions of another table and its order of labels; `where` is their name in messages."""
    known = {question.name: question for question in questions}
    for question in votes.questions:
        theirs = known.get(question.name)
        if theirs is None:
            raise ValueError(
                f"{where}: question {question.name!r} is not a question of the corpus, which has {', '.join(known)}."
            )
        same = (question.low, question.high, question.multiple) == (theirs.low, theirs.high, theirs.multiple)
        if not same or set(question.labels) != set(theirs.labels):
            raise ValueError(
                f"{where}: question {question.name!r} has the answers {question.answers}, but the corpus asks for "
                f"{theirs.answers}; ask again with the corpus's own question."
            )
    return VoteTable.from_arrow(votes.to_arrow(), questions)
