"""Ask an audio-language model for one label per simulated annotator and item (arXiv 2601.14620), for days if need be.

    OUT/attempts.sqlite      every attempt and its answer; a run resumes from it
    OUT/votes.parquet        the votes; with annotations.json what training and evaluation read
    OUT/replies.parquet      every reply with its provenance, votes or not
    OUT/annotations.json     what was asked, of which model, and how the questions ended

A run that ends in any way, also by a kill, resumes when it is started again: nothing that was answered is asked again. What a
run will take can be estimated before.
"""

import asyncio
import functools
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from annot_hf.data import encoding
from annot_hf.data.audio import audio_info
from annot_hf.data.questions import nearest, printable, read_yaml
from annot_hf.data.synthetic import SYNTHETIC, check_annotations_folder, write_annotations, write_replies
from annot_hf.data.votes import VoteTable
from annot_hf.models.measures import pair_agreement
from annot_hf.proxies.backend import AT_ONCE, BACKENDS, OMITTABLE, Backend, Prices, check_address
from annot_hf.proxies.job import Job
from annot_hf.proxies.prompts import LONGEST, TEMPLATES
from annot_hf.proxies.session import Budget, Session, now
from annot_hf.proxies.store import DATABASE, REPLY_COLUMNS, Store, open_store, read_store

ATTEMPTS = 8
# before any answer is there: tokens per second of audio (as for Gemini; Qwen2-Audio has 25), characters per token of English
# text, tokens of a label, and seconds (s) per answer
TOKENS_PER_SECOND, CHARACTERS, OUTPUT_TOKENS, SECONDS = 32, 4, 5, 2.0
# questions whose prompts are measured
SAMPLE = 200
# replies in memory at a time
_ROWS = 1_000
_NOTES = TEMPLATES / "notes.yaml"
_TYPES = {"TEXT": pa.string(), "REAL": pa.float64(), "INTEGER": pa.int64()}
_REPLIES = pa.schema(
    {"item": pa.string(), "annotator": pa.string()} | {one: _TYPES[REPLY_COLUMNS[one]] for one in REPLY_COLUMNS}
)


@dataclass(frozen=True)
class AnnotationReport:
    """How a run ended.

    Attributes:
        folder: The folder that was written.
        counts: Questions of this job by how they ended; they add up to items times annotators.
        asked: Questions that this run sent, tries of the same one counted once.
        spent: Cost of all answers in the folder (USD), as far as it is known.
        agreement: Mean share of human votes that a synthetic vote agrees with, in [0, 1]; None without human votes.
        human_agreement: How often two human votes on an item agree, in [0, 1]; None where no item has two.
        stopped: Why it ended before everything was asked; "" if it did not.
        notes: What else the user should know.
        cost_known: Whether the cost of any answer is known.
    """

    folder: Path
    counts: dict[str, int]
    asked: int
    spent: float
    agreement: float | None
    human_agreement: float | None
    stopped: str = ""
    notes: list[str] = field(default_factory=list)
    cost_known: bool = False

    @property
    def complete(self) -> bool:
        """Whether no question is left to ask."""
        return not any(self.counts[name] for name in ("wrong-model", "failed", "not asked"))


def annotate(
    job: Job,
    backend: Backend,
    out: str | Path,
    *,
    concurrency: int = 16,
    rate: float | None = None,
    attempts: int = ATTEMPTS,
    max_cost: float | None = None,
    prices: Prices | None = None,
    answers_as: str = "",
    retry_rejected: bool = False,
) -> AnnotationReport:
    """Ask the questions that are still open, and write the votes of all answers so far.

    Args:
        job: From `make_job`.
        backend: Whom to ask.
        out: Folder to write; only one run at a time may write to it.
        concurrency: Most questions under way at a time.
        rate: Most questions a second.
        attempts: Most tries of one question while the server is busy or broken; after that, the next run asks it.
        max_cost: Most that all answers in the folder may cost together (USD). A question is not sent, nor sent again, if the
            cap could then be exceeded, judged by the dearest answer so far. While no cost is known, one question is under way
            at a time.
        prices: What tokens cost, where the server does not report the cost of an answer.
        answers_as: Name under which the model answers, if it is another than the one that is asked for; later runs in the
            folder remember it.
        retry_rejected: Ask again what the server rejected in earlier runs.

    Raises:
        ValueError: A number is out of range, the folder holds another run or cannot be written, or its database was damaged,
            deleted or replaced, before or meanwhile.
    """
    check_pace(concurrency, rate, attempts, max_cost)
    out, prices = Path(out), prices or Prices()
    check_annotations_folder(out)
    facts = job.facts(backend.model, backend.revision, backend.max_tokens)
    options = {"prices": prices, "answers_as": answers_as, "retry_rejected": retry_rejected}
    with open_store(out, facts, job.names, job.rows, at=now(), **options) as store:
        session = Session(job, backend, store, Budget(max_cost, store, prices), attempts)
        asyncio.run(session.run(min(concurrency, backend.max_concurrency or concurrency), rate))
        try:
            store.check()
        except OSError as error:
            raise ValueError(f"The run has ended, since {out / error.args[0]}: put it back and run again.") from None
        store.give_up_reserve()
        try:
            counts, totals, notes = store.counts(), store.totals(), notes_of(session)
            shares, human = job.shares(store.votes()), _human_agreement(job)
            agreement = float(shares.mean()) if len(shares) else None
            extent = {"agreement": agreement, "human_agreement": human, "spent": round(totals.spent, 6)}
            _write_results(store, job, facts | extent | {"notes": notes})
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"The votes of {out} cannot be written ({getattr(error, 'strerror', None) or error}); {DATABASE} has every "
                "answer: free some room and run again."
            ) from None
    ends = session.stopped, notes, totals.dearest is not None
    return AnnotationReport(out, counts, session.asked, totals.spent, agreement, human, *ends)


def _write_results(store: Store, job: Job, facts: Mapping[str, Any]) -> None:
    """Write votes, replies and annotations.json of all attempts in a folder; the replies alone while there is no vote."""
    folder, votes = store.path.parent, store.votes()
    blocks = map(functools.partial(_reply_batch, store.model), store.replies(_ROWS))
    replies = pa.RecordBatchReader.from_batches(_REPLIES, blocks)
    if not len(votes):
        write_replies(folder, replies)
        return
    (items, item), (used, annotator) = (np.unique(column, return_inverse=True) for column in votes.T[:2])
    table = VoteTable.from_columns(
        job.question,
        item=encoding.dictionary(item, [store.items[row] for row in items]),
        value=encoding.dictionary(votes[:, 2], job.question.labels),
        annotator=encoding.dictionary(annotator, [f"{store.model}#{one}" for one in used]),
        source=SYNTHETIC,
        where="replies",
    )
    totals = store.totals()
    counts = {"statuses": store.statuses(), "omitted": store.omitted()}
    tokens = {"input_tokens": totals.input_tokens, "output_tokens": totals.output_tokens}
    write_annotations(folder, table, replies, {**facts, **counts, **tokens})


def _reply_batch(model: str, rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
    """Some rows of replies.parquet; simulated annotators are named after the model and their number."""
    table = dict(zip(_REPLIES.names, zip(*rows, strict=True), strict=True))
    table["annotator"] = [f"{model}#{one}" for one in table["annotator"]]
    table["model"] = [name or model for name in table["model"]]
    return pa.RecordBatch.from_pydict(table, _REPLIES)


def check_pace(
    concurrency: int, rate: float | None = None, attempts: int = ATTEMPTS, max_cost: float | None = None
) -> None:
    """Raise a ValueError unless these arguments of `annotate` are in range."""
    encoding.check_whole("concurrency", concurrency)
    encoding.check_whole("attempts", attempts)
    _check_positive(rate=rate, max_cost=max_cost)


def _check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"{name} is {value}; give a positive number.")


def _human_agreement(job: Job) -> float | None:
    """How often two human votes on an item of the job agree."""
    counts = job.corpus.votes.counts(job.question.name, items=job.corpus.items["item"].iloc[job.rows])
    several = counts.sum(1) >= 2
    return float(pair_agreement(counts[several]).mean()) if several.any() else None


def notes_of(session: Session) -> list[str]:
    """What the user should know beside the counts: the notes of `notes.yaml` whose value is not 0 or empty."""
    store, totals, rejected = session.store, session.store.totals(), session.store.rejections()
    reason, most = rejected[0] if rejected else ("", 0)
    values = totals._asdict() | {
        "unsent": store.counts()["not sent"],
        "longest": LONGEST,
        "unsaved": session.unsaved,
        "path": store.path,
        "rejected": sum(count for _, count in rejected),
        "most": most,
        "reason": printable(reason),
        "without_transcript": session.job.without_transcript,
        "items": len(session.job.rows),
        # while no cost is known at all, the report says so
        "unpriced": 0 if totals.dearest is None else totals.unpriced,
        "others": ", ".join(map(repr, sorted(store.others))),
        "model": store.model,
    }
    text = read_yaml(_NOTES.read_text(encoding="utf-8"), str(_NOTES))
    notes = [note.format(**values) for name, note in text["notes"].items() if values[name]]
    return notes + [text["omitted"][name].format(count=n, **values) for name, n in sorted(store.omitted().items())]


def make_backend(
    kind: str, model: str, *, batch_size: int = 8, max_tokens: int = 64, revision: str = "", **server: Any
) -> Backend:
    """Make a backend: "openai" (any server with its chat protocol), "gemini", or "local" (a transformers model here).

    `batch_size` is for "local"; further arguments are those of `Server`.
    """
    check_backend(kind, model, batch_size=batch_size, max_tokens=max_tokens, **server)
    if kind == "local":
        from annot_hf.proxies.local import LocalModel

        return LocalModel(model, batch_size=batch_size, max_tokens=max_tokens, revision=revision)
    from annot_hf.proxies.servers import Gemini, OpenAIServer

    return {"gemini": Gemini, "openai": OpenAIServer}[kind](model, max_tokens=max_tokens, revision=revision, **server)


def check_backend(
    kind: str,
    model: str,
    *,
    base_url: str | None = None,
    timeout: float = 60.0,
    max_tokens: int = 64,
    batch_size: int = 8,
    omit: Sequence[str] = (),
    key_name: str = "",
) -> None:
    """Check the arguments of `make_backend`, except the key, before any library, key or server is looked for."""
    encoding.check_choice("backend", kind, BACKENDS)
    if not model.strip():
        raise ValueError("model is empty; give the name of the model to ask.")
    _check_positive(timeout=timeout, max_tokens=max_tokens, batch_size=batch_size)
    if kind == "local" and base_url is not None:
        raise ValueError("base_url is set, and backend local has no address; leave one of them out.")
    may = OMITTABLE.get(kind, ())
    for name in omit:
        if name not in may:
            raise ValueError(
                f"omit is {name!r}{nearest(name, may)}, and backend {kind} can leave out {', '.join(may) or 'nothing'}."
            )
    check_address(base_url)


@dataclass(frozen=True)
class RunEstimate:
    """What is left to ask, and what it takes."""

    questions: int
    done: int
    # each clip counts once per question (h)
    audio_hours: float
    input_tokens: float
    output_tokens: float
    # at the concurrency and rate given (s)
    seconds: float
    # USD; None without prices or earlier answers to tell it from
    cost: float | None
    without_transcript: int
    # whether tokens, time and cost are extrapolated from earlier answers; otherwise they are rules of thumb
    measured: bool

    def rows(self) -> list[tuple[str, str, str]]:
        """Quantity, value, and how it is known."""
        how = "from the answers so far" if self.measured else "by rule of thumb"
        cost = "not known" if self.cost is None else f"{self.cost:,.2f} USD"
        return [
            ("questions to ask", f"{self.questions:,}", ""),
            ("questions done", f"{self.done:,}", ""),
            ("items without transcript", f"{self.without_transcript:,}", "one instruction for all annotators"),
            ("audio to send", f"{self.audio_hours:,.2f} h", ""),
            ("tokens to read", f"{self.input_tokens:,.0f}", how),
            ("tokens to write", f"{self.output_tokens:,.0f}", how),
            ("time", _duration(self.seconds), how),
            ("cost", cost, how if self.cost is not None else "give --input-price and --output-price"),
        ]


def estimate_run(
    job: Job,
    out: str | Path,
    *,
    model: str,
    backend: str = "openai",
    revision: str = "",
    max_tokens: int = 64,
    answers_as: str = "",
    concurrency: int = 16,
    rate: float | None = None,
    prices: Prices | None = None,
    retry_rejected: bool = False,
) -> RunEstimate:
    """Estimate what is left to ask for a job, and what it takes; nothing is asked, and no result is written.

    Answers in the folder `out` are extrapolated. For the other arguments see `annotate` and `make_backend`.
    """
    check_pace(concurrency, rate)
    check_annotations_folder(out)
    # The revision of a local model is only known once it is loaded.
    ignored = ("revision",) if backend == "local" or not revision else ()
    facts = job.facts(model, revision, max_tokens)
    options = {"prices": prices, "answers_as": answers_as, "retry_rejected": retry_rejected, "ignored": ignored}
    with read_store(Path(out), facts, job.names, job.rows, **options) as store:
        open_, totals = store.open(), store.totals()
    questions, answers = len(open_), totals.answers
    audio = float(_clip_seconds(job)[open_[:, 0]].sum())
    sample = open_[np.unique(np.linspace(0, questions - 1, min(SAMPLE, questions)).astype(int))]
    prompts = [job.prompt(int(row), int(annotator)) for row, annotator in sample]
    text = float(np.mean([len(prompt.system) + len(prompt.user) for prompt in prompts])) if prompts else 0.0
    tokens = audio * TOKENS_PER_SECOND + questions * text / CHARACTERS, float(questions * OUTPUT_TOKENS)
    if answers and totals.input_tokens:
        tokens = tuple(questions * total / answers for total in (totals.input_tokens, totals.output_tokens))
    if answers > totals.unpriced:
        cost = questions * totals.spent / (answers - totals.unpriced)
    else:
        cost = (prices or Prices()).cost(None, *tokens)
    at_once = min(concurrency, AT_ONCE.get(backend, concurrency))
    each = totals.seconds / answers if answers else SECONDS
    return RunEstimate(
        questions=questions,
        done=len(job.rows) * len(job.annotators) - questions,
        audio_hours=audio / 3600,
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        seconds=max(questions * each / at_once, questions / rate if rate else 0.0),
        cost=cost,
        without_transcript=job.without_transcript,
        measured=bool(answers),
    )


def _clip_seconds(job: Job) -> np.ndarray:
    """Duration of every clip of the corpus (s); read from the headers if the corpus does not have it."""
    items = job.corpus.items
    if "seconds" in items:
        return items["seconds"].fillna(0).to_numpy(dtype=float)
    clips = np.zeros(len(items))
    for row in job.rows:
        clips[row] = audio_info(items["audio"].iloc[row]).seconds
    return clips


def _duration(seconds: float) -> str:
    days, rest = divmod(round(seconds), 86_400)
    hours, rest = divmod(rest, 3_600)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
