"""Ask an audio-language model for one label per simulated annotator and item (arXiv 2601.14620), for days if need be.

    OUT/log.jsonl            everything asked and answered, appended record by record: what a run goes on from
    OUT/votes.parquet        the votes; with annotations.json what training and evaluation read
    OUT/replies.parquet      every reply with its provenance, votes or not
    OUT/annotations.json     what was asked of whom, and what came of it

A run that ends in any way, killed ones too, goes on when it is started again: nothing that was answered is asked again.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from annot_hf.data.agreement import pairwise_agreement
from annot_hf.data.annotations import check_folder
from annot_hf.proxies.backend import Backend
from annot_hf.proxies.budget import Budget
from annot_hf.proxies.collect import collect
from annot_hf.proxies.earlier import take_in
from annot_hf.proxies.job import Job, open_ledger
from annot_hf.proxies.ledger import Prices
from annot_hf.proxies.log import LOG, AnswerLog
from annot_hf.proxies.notes import notes_of
from annot_hf.proxies.session import Session, now

ATTEMPTS = 8


@dataclass(frozen=True)
class AnnotationReport:
    """How a run ended.

    Attributes:
        folder: Where everything is.
        counts: Questions of this job by what came of them; they add up to items times annotators.
        asked: Questions that were sent in this session, tries of the same one counted once.
        spent: What all answers in the folder cost (USD), as far as it is known.
        agreement: Mean share of human votes that a synthetic vote agrees with; None without human votes.
        human_agreement: How often two human votes on an item agree; None where no item has two.
        stopped: Why it ended before everything was asked; "" if it did not.
        notes: What else should be known.
        cost_known: Whether the cost of any answer is.
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
        """Whether every question has come to an end."""
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
    """Ask what was not asked yet, and write the votes of all answers so far.

    Args:
        job: From `make_job`.
        backend: Whom to ask.
        out: Folder to write; one run at a time has it.
        concurrency: Most questions under way at a time.
        rate: Most questions a second.
        attempts: Tries of one question that the server is too busy or broken to answer; then the next run asks it.
        max_cost: Most that all answers in the folder may cost together (USD). Nothing is asked, or tried again, whose cost
            could exceed it, by the dearest answer so far; while no cost is known, one question is under way at a time.
        prices: What tokens cost, where the server does not report what an answer cost.
        answers_as: Name under which the model answers, if it is another than the one that is asked for; later runs in the
            folder know it.
        retry_rejected: Ask again what the server rejected before.

    Raises:
        ValueError: A number is out of range, the folder holds another run, or a file in it was changed, before or meanwhile.
    """
    check_pace(concurrency, rate, attempts, max_cost)
    out = Path(out)
    check_folder(out)
    facts = job.facts(backend.model, backend.revision, backend.max_tokens)
    with AnswerLog(out) as log:
        ledger = open_ledger(job, prices)
        accepts = take_in(out, facts, ledger, answers_as=answers_as)
        if retry_rejected:
            ledger.reopen_rejected()
        session = Session(job, backend, log, ledger, Budget(max_cost, ledger), attempts, accepts)
        try:
            log.append({"kind": "run", "at": now(), "answers_as": answers_as} | facts)
        except OSError as error:
            raise ValueError(
                f"The log of {out} cannot be written ({error.strerror}); nothing was asked: free some room and run again."
            ) from None
        asyncio.run(session.run(min(concurrency, backend.max_concurrency or concurrency), rate))
        try:
            log.check()
        except OSError as error:
            raise ValueError(
                f"The run has ended, since {log.path} is not as it was written ({error.strerror}): put it back, append the "
                "lines that were shown as not saved, if any, and run again."
            ) from None
        log.give_up_reserve()
        notes = notes_of(session)
        if log.torn:
            notes.append(
                f"The log ended in {log.torn} bytes of a record that was never finished; they are in log.torn."
            )
        others = sorted(accepts.others)
        if others:
            notes.append(
                f"Answers by {', '.join(map(repr, others))} count as those of {backend.model!r}, as --answers-as said; this "
                "folder knows that for good: if it was a mistake, name another folder."
            )
        human = _human_agreement(job)
        extent = {"agreement": ledger.agreement, "human_agreement": human, "spent": round(ledger.spent, 6)}
        try:
            collect(out, job.question, ledger, facts | extent | {"notes": notes})
        except OSError as error:
            raise ValueError(
                f"The votes of {out} cannot be written ({error.strerror or error}); {LOG} has every answer: free some room "
                "and run again."
            ) from None
    return AnnotationReport(
        out,
        ledger.counts(job.rows, len(job.annotators)),
        session.asked,
        ledger.spent,
        ledger.agreement,
        human,
        session.stopped,
        notes,
        ledger.dearest is not None,
    )


def check_pace(
    concurrency: int, rate: float | None = None, attempts: int = ATTEMPTS, max_cost: float | None = None
) -> None:
    """Whether these numbers, as of `annotate`, are in range.

    Raises:
        ValueError: One is not.
    """
    for name, value in (("concurrency", concurrency), ("attempts", attempts)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give a whole number from 1 up.")
    for name, value in (("rate", rate), ("max_cost", max_cost)):
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"{name} is {value}; give a positive number.")


def _human_agreement(job: Job) -> float | None:
    """How often two human votes on an item that is asked about agree."""
    names = job.corpus.items["item"].iloc[job.rows]
    counts = job.corpus.votes.counts(job.question.name, items=names)
    found = pairwise_agreement(counts) if (counts.sum(1) >= 2).any() else np.nan
    return None if np.isnan(found) else float(found)
