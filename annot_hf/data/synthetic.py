"""Votes of simulated annotators on the items of a corpus, as a folder.

    FOLDER/annotations.json    questions, the corpus and its digest, what made the votes, counts
    FOLDER/votes.parquet       one row a vote (`VoteTable.to_arrow`), every one of source "synthetic"
    FOLDER/replies.parquet     one row an asked item and annotator: what was said, and how it came about

What asks the annotators may keep files of its own beside them. Each file appears in one step, `annotations.json` last; it
holds the digest of the votes, so that votes which were cut off or edited are noticed.

Where votes come from: people, or models that stand in for them (arXiv 2601.14620).

The paper puts both in one list and counts each vote once, q = (n_h q_h + n_s q_s) / (n_h + n_s) for the n_h people's votes
and the n_s synthetic ones of an item. With a weight w of the synthetic ones, our choice, it is
(n_h q_h + w n_s q_s) / (n_h + w n_s). Both are votes with weights, so that `make_targets` makes any target of them.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annot_hf.data import encoding
from annot_hf.data.corpus import replace_file
from annot_hf.data.encoding import WEIGHT_RULE, usable_weight
from annot_hf.data.export import MARKER as EXPORTED, ExportedCorpus
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

KIND = "annot-hf annotations"
MARKER, VOTES, REPLIES = "annotations.json", "votes.parquet", "replies.parquet"
OURS = ("kind", "questions", "counts", "votes_sha256")  # entries of annotations.json that no fact may have
_FIX = "write it again with `annot-hf annotate`"


@dataclass(frozen=True, eq=False)
class Annotations:
    """Synthetic votes read back.

    Attributes:
        folder: Where they are.
        votes: The votes, every one of source "synthetic".
        facts: What annotations.json says: `corpus` (its name), `corpus_digest`, `counts`, and what made the votes.
    """

    folder: Path
    votes: VoteTable
    facts: dict[str, Any]


def write_annotations(
    folder: str | os.PathLike[str], votes: VoteTable, replies: pa.Table | pa.RecordBatchReader, facts: Mapping[str, Any]
) -> None:
    """Write synthetic votes; what is in the folder of an earlier run is replaced, other files are left alone.

    Args:
        folder: Folder to write.
        votes: At least one vote, every one of source "synthetic"; an annotator answers a question about an item once.
        replies: One row an asked item and annotator; they are kept as they are, a batch in memory at a time.
        facts: For annotations.json, as JSON holds them; `corpus` (its name) and `corpus_digest` must be among them.

    Raises:
        ValueError: The votes break one of these rules, a fact is missing or no JSON, or the folder holds something else.
    """
    folder = Path(folder)
    _check_votes(votes, "votes")
    for name in ("corpus", "corpus_digest"):
        if not isinstance(facts.get(name), str) or not facts[name]:
            raise ValueError(f"The fact {name!r} of annotations is {facts.get(name)!r}; give that of the export.")
    taken = sorted(set(OURS) & set(facts))
    if taken:
        raise ValueError(f"The fact {taken[0]!r} of annotations is written by itself; give it another name.")
    check_folder(folder)
    record = {
        "kind": KIND,
        **facts,
        "questions": [question.to_dict() for question in votes.questions],
        "counts": _counts(votes),
    }
    try:
        json.dumps(record, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The facts of annotations are no JSON ({error}); give plain, finite values.") from None
    folder.mkdir(parents=True, exist_ok=True)
    record["counts"]["replies"] = write_replies(folder, replies)
    record["votes_sha256"] = replace_file(folder / VOTES, lambda path: pq.write_table(votes.to_arrow(), path))
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(folder / MARKER, lambda path: path.write_text(text, encoding="utf-8"))


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Whether annotations may be written to a folder, which may be new.

    Raises:
        ValueError: It is a file or an exported corpus, or its annotations.json is somebody else's.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the annotations.")
    if (folder / EXPORTED).exists():
        raise ValueError(f"{folder} holds an exported corpus ({EXPORTED}); give the annotations a folder of their own.")
    if (folder / MARKER).exists() and _facts_or_false(folder / MARKER, damaged_is_none=True) is False:
        raise ValueError(
            f"{folder / MARKER} is of another kind than {KIND!r}; move that file away or give a new folder."
        )


def write_replies(folder: Path, replies: pa.Table | pa.RecordBatchReader) -> int:
    """Write replies alone, as long as none of them is a vote; gives the number of rows."""
    rows: list[int] = []
    replace_file(folder / REPLIES, lambda path: rows.append(_write_batches(path, replies)))
    return rows[0]


def read_annotations(folder: str | os.PathLike[str]) -> Annotations:
    """Read what `write_annotations` wrote.

    Raises:
        ValueError: The folder holds no annotations, a file of it is missing, damaged or was edited, or its votes do not fit
            its questions; the message names the file.
    """
    folder = Path(folder)
    path, votes_path = folder / MARKER, folder / VOTES
    facts = read_facts(folder)
    if not votes_path.is_file():
        raise ValueError(f"The annotations {folder} lack {VOTES}; {_FIX}.")
    data = votes_path.read_bytes()
    if hashlib.sha256(data).hexdigest() != facts.get("votes_sha256"):
        raise ValueError(
            f"{votes_path} is not the file that {MARKER} was written for: it was edited, or writing was cut off; {_FIX}."
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
    except (ValueError, pa.ArrowException) as error:  # pa.ArrowInvalid is a ValueError
        raise ValueError(f"{votes_path} does not fit the questions of {MARKER} ({error}); {_FIX}.") from error
    _check_votes(votes, str(votes_path))
    if counted != _counts(votes):
        raise ValueError(f"{path} counts {counted} and {VOTES} holds {_counts(votes)}; {_FIX}.")
    return Annotations(folder, votes, facts)


def read_facts(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What annotations.json of a folder says; the votes are not looked at.

    Raises:
        ValueError: There is no such file, it is damaged, or of another kind.
    """
    path = Path(folder) / MARKER
    if not path.is_file():
        raise ValueError(f"{folder} holds no annotations: it has no {MARKER}; write one with `annot-hf annotate`.")
    facts = _facts_or_false(path)
    if facts is False:
        raise ValueError(f"{path} is of another kind than {KIND!r}; give a folder that `annot-hf annotate` wrote.")
    return facts


def check_corpus(annotations: Annotations, corpus: ExportedCorpus) -> None:
    """Raise a ValueError unless the annotations were made for this export, or for the one that it is a view of."""
    facts = annotations.facts
    if facts["corpus_digest"] != corpus.digest:
        raise ValueError(
            f"The annotations {annotations.folder} are of {facts['corpus']} (digest {facts['corpus_digest'][:12]}) and the "
            f"corpus is {corpus.name} (digest {corpus.digest[:12]}); name the export that was annotated, or annotate this one."
        )
    unknown = ~np.isin(annotations.votes.items, corpus.items["item"].to_numpy())
    if unknown.any() and not corpus.part:  # a view may leave items out
        raise ValueError(
            f"The annotations {annotations.folder} have votes on {int(unknown.sum())} items that {corpus.name} does not list, "
            f"such as {annotations.votes.items[unknown][0]!r}; {_FIX}."
        )


def _counts(votes: VoteTable) -> dict[str, int]:
    return {"votes": len(votes), "items": len(votes.items), "annotators": len(votes.annotators)}


def _check_votes(votes: VoteTable, where: str) -> None:
    """There is a vote, all are synthetic, and no annotator answers twice."""
    if not len(votes):
        raise ValueError(f"{where}: there is no vote; annotations need at least one reply that could be read.")
    names = np.append(votes.sources, None)[votes.source_codes]  # -1 reads the last place
    other = names != SYNTHETIC
    if other.any():
        row = int(np.argmax(other))
        raise ValueError(
            f"{where}: row {row} (item {votes.items[votes.item_codes[row]]!r}) has source {names[row]!r}; annotations hold "
            f"votes of source {SYNTHETIC!r} only."
        )
    repeated = encoding.repeated_votes(
        votes.questions,
        votes.item_codes,
        votes.annotator_codes,
        votes.question_codes,
        votes.label_codes,
        len(votes.annotators),
    )
    if repeated.any():
        row = int(np.argmax(repeated))
        raise ValueError(
            f"{where}: row {row} repeats annotator {votes.annotators[votes.annotator_codes[row]]!r} on item "
            f"{votes.items[votes.item_codes[row]]!r}; keep one vote of an annotator on an item and question."
        )


def _write_batches(path: Path, rows: pa.Table | pa.RecordBatchReader) -> int:
    """Write a table batch by batch; gives the number of its rows."""
    count = 0
    with pq.ParquetWriter(path, rows.schema) as writer:
        for batch in rows.to_reader() if isinstance(rows, pa.Table) else rows:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _facts_or_false(path: Path, *, damaged_is_none: bool = False) -> Any:
    """The entries of annotations.json; False if it is of another kind, None if that cannot be told."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if damaged_is_none:
            return None
        raise ValueError(f"{path} is damaged ({error}); {_FIX}.") from error
    return facts if isinstance(facts, dict) and facts.get("kind") == KIND else False


SYNTHETIC = "synthetic"  # the source of every vote of a model; a vote of any other source, or of none, is a person's


def is_synthetic(votes: VoteTable) -> np.ndarray:
    """Which votes `(V,)` are of a model: those of source "synthetic". Every other source, or none, is people."""
    return np.append(votes.sources == SYNTHETIC, False)[votes.source_codes]  # -1 reads the last place


def weigh_sources(votes: VoteTable, *, human: float = 1.0, synthetic: float = 1.0) -> VoteTable:
    """The votes with each one's weight times that of where it comes from.

    Args:
        votes: Votes of people, of models, or of both.
        human: Weight of people's votes; 0 removes them, raters and all.
        synthetic: Weight of votes of source "synthetic"; 0 removes them.

    Raises:
        ValueError: A weight is negative, or beyond what sums can hold, or no vote is left.

    Example:
        >>> mood = Question.category("mood", ["low", "high"])
        >>> source = [None, "synthetic", "synthetic"]
        >>> said = VoteTable.from_columns(mood, item=["a"] * 3, value=["low", "high", "high"], source=source)
        >>> weigh_sources(said, synthetic=0.5).counts("mood").tolist()
        [[1.0, 1.0]]
    """
    for name, weight in (("human", human), ("synthetic", synthetic)):
        if isinstance(weight, bool) or not isinstance(weight, int | float | np.number) or not usable_weight(weight):
            raise ValueError(
                f"The weight of {name} votes is {weight!r}; give a finite number from 0 up ({WEIGHT_RULE})."
            )
    factors = np.where(is_synthetic(votes), float(synthetic), float(human))
    if not factors.any():
        raise ValueError(
            f"No vote is left of {len(votes)}, with a weight of {human} for people's votes and of {synthetic} for "
            "synthetic ones; give votes that are there a weight above 0."
        )
    kept = votes.select(mask=factors > 0)
    weights = factors[factors > 0] * (1.0 if kept.weights is None else kept.weights)
    return replace(kept, weights=None if (weights == 1).all() else weights)


def combine_votes(human: VoteTable, synthetic: VoteTable, weight: float = 1.0) -> VoteTable:
    """People's votes and synthetic ones in one table, the latter of a weight.

    Args:
        human: Votes of people; its questions are those of the result.
        synthetic: Votes of source "synthetic" on some of these questions. Their annotators are called "synthetic:NAME" in
            the result, so that none is taken for the person of the same name.
        weight: Weight of a synthetic vote, where a person's is 1 (or what its own weight says); 0 leaves people's only.

    Raises:
        ValueError: A question differs, or a vote of the first table is synthetic or one of the second is a person's.
    """
    for votes, wanted, name in ((human, False, "human"), (synthetic, True, "synthetic")):
        if (is_synthetic(votes) != wanted).any():
            raise ValueError(
                f"{name} votes hold votes of another source; only source {SYNTHETIC!r} marks synthetic ones."
            )
    asked = answers_to(synthetic, human.questions, "synthetic votes")
    renamed = replace(asked, annotators=np.array([f"{SYNTHETIC}:{name}" for name in asked.annotators], dtype=object))
    return weigh_sources(VoteTable.concat([human, renamed]), synthetic=weight)


def answers_to(votes: VoteTable, questions: tuple[Question, ...], where: str) -> VoteTable:
    """The votes as answers to the same questions of another table, whose order of labels they take.

    Args:
        votes: The votes.
        questions: All questions of the other table; those of `votes` must be among them.
        where: How error messages call the votes.

    Raises:
        ValueError: A question is not among them, or has other labels or another scale there.
    """
    known = {question.name: question for question in questions}
    for question in votes.questions:
        theirs = known.get(question.name)
        if theirs is None:
            raise ValueError(f"{where}: question {question.name!r} is not asked there; it asks {', '.join(known)}.")
        if _meaning(question) != _meaning(theirs):
            raise ValueError(
                f"{where}: question {question.name!r} has {_answers(question)} and the corpus asks for {_answers(theirs)}; "
                "ask again with the corpus's own question."
            )
    return VoteTable.from_arrow(votes.to_arrow(), questions)


def _meaning(question: Question) -> tuple:
    return frozenset(question.labels), question.low, question.high, question.multiple


def _answers(question: Question) -> str:
    """What a question takes, in words."""
    if question.is_scale:
        return f"a scale from {question.low:g} to {question.high:g}"
    return f"{'several of ' if question.multiple else ''}the labels {', '.join(question.labels)}"
