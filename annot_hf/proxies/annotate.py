"""Ask an audio-language model for one label per simulated annotator and item (arXiv 2601.14620), for days if need be.

    OUT/log.jsonl            everything asked and answered, appended record by record: what a run goes on from
    OUT/votes.parquet        the votes; with annotations.json what training and evaluation read
    OUT/replies.parquet      every reply with its provenance, votes or not
    OUT/annotations.json     what was asked of whom, and what came of it

A run that ends in any way, killed ones too, goes on when it is started again: nothing that was answered is asked again.

What should be known of a run beside its counts.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from annot_hf.data.agreement import pairwise_agreement
from annot_hf.data.questions import nearest
from annot_hf.data.synthetic import check_folder
from annot_hf.data.yaml_text import printable
from annot_hf.proxies.backend import KINDS, OMITTABLE, Backend, check_address
from annot_hf.proxies.job import Job, open_ledger
from annot_hf.proxies.prompts import LONGEST
from annot_hf.proxies.session import Budget, Session, now
from annot_hf.proxies.store import LOG, AnswerLog, Ledger, Prices, collect, take_in

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


_WITHOUT = {
    "seed": "a seed: asked again, it may be answered otherwise",
    "system": "a system message: its words stood before the question",
    "max_tokens": "max_tokens: max_completion_tokens was sent",
    "temperature": "a temperature: all annotators had that of the server, and only their instructions differ",
}


def notes_of(session: Session) -> list[str]:
    """What should be known beside the counts."""
    ledger, alone = session.ledger, session.job.without_transcript
    unsent = ledger.counts(session.job.rows, len(session.job.annotators))["not sent"]
    said = {
        f"{unsent} questions were not sent, since their clips could not be read here; replies.parquet says why, and the next "
        "run tries again.": unsent,
        f"{int(ledger.cut.sum())} transcripts were cut to the {LONGEST} characters that a prompt takes.": ledger.cut.any(),
        f"{ledger.cut_off} questions were under way when earlier runs were killed, and may have been paid for; those that "
        "are still open are asked again under the same Idempotency-Key.": ledger.cut_off,
        f"{ledger.lost} answers were cut off, too late or unreadable; they may have been paid for.": ledger.lost,
        f"{ledger.repeated} records of the log repeat another one word for word; they count nowhere.": ledger.repeated,
        f"{ledger.spare} answers are to questions that had one before; they were paid for, and the first counts.": (
            ledger.spare
        ),
        f"{len(session.unsaved)} records could not be written to {session.log.path} and count nowhere; each is a line on the "
        "terminal: append them to that file as they are before the next run, or what they answer is asked and paid for "
        "again.": session.unsaved,
        _rejections(ledger): ledger.reasons,
        f"{alone} of {len(session.job.rows)} items have no transcript: all their annotators have the instruction for audio "
        "alone, and only the temperature differs.": alone,
        f"The cost of {ledger.unpriced} answers is not known: the server does not report it, and no prices were given.": (
            ledger.unpriced and ledger.dearest is not None
        ),
    }
    omitted = [
        f"{count} of {ledger.answers} answers are to questions without {_WITHOUT[name]}; the server does not take it, or "
        "--omit said so."
        for name, count in sorted(ledger.omitted.items())
    ]
    return [*(note for note, holds in said.items() if holds), *omitted]


def _rejections(ledger: Ledger) -> str:
    """What the server said most often of what it rejected."""
    if not ledger.reasons:
        return ""
    (reason, count), total = ledger.reasons.most_common(1)[0], ledger.reasons.total()
    said = printable(reason)  # earlier versions wrote it down as it came
    return f"{total} questions were rejected by the server, {count} of them with: {said} (--retry-rejected asks them again)."


def make_backend(
    kind: str,
    model: str,
    *,
    base_url: str | None = None,
    key_name: str = "",
    timeout: float = 60.0,
    max_tokens: int = 64,
    revision: str = "",
    batch_size: int = 8,
    omit: Sequence[str] = (),
) -> Backend:
    """A backend by name.

    Args:
        kind: "openai" (any server that speaks its chat protocol), "gemini", or "local" (a transformers model here).
        model: Name of the model; for "local" a Hub id or a folder.
        base_url: Address of the server; not for "local".
        key_name: Environment variable that holds the key; the usual one of the backend by default.
        timeout: Seconds (s) until an answer is given up.
        max_tokens: Most tokens of a reply.
        revision: Revision of the model.
        batch_size: Questions at a time, for "local".
        omit: What is left out of every question (`OMITTABLE`); what a server says that it does not take is left out anyway.

    Raises:
        ValueError: There is no such backend, its library is missing, the environment has no key, or a number is out of range.
    """
    check_backend(
        kind, model, base_url=base_url, timeout=timeout, max_tokens=max_tokens, batch_size=batch_size, omit=omit
    )
    if kind == "local":
        from annot_hf.proxies.local import LocalModel

        return LocalModel(model, batch_size=batch_size, max_tokens=max_tokens, revision=revision)
    from annot_hf.proxies.servers import Gemini, OpenAIServer

    server = Gemini if kind == "gemini" else OpenAIServer
    return server(
        model,
        base_url=base_url,
        key_name=key_name,
        timeout=timeout,
        max_tokens=max_tokens,
        revision=revision,
        omit=omit,
    )


def check_backend(
    kind: str,
    model: str,
    *,
    base_url: str | None,
    timeout: float,
    max_tokens: int,
    batch_size: int,
    omit: Sequence[str] = (),
) -> None:
    """Whether there is such a backend, before any library, key or server is looked for; see `make_backend`.

    Raises:
        ValueError: There is none, or a value is out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"backend is {kind!r}{nearest(kind, KINDS)}; use one of {', '.join(KINDS)}.")
    if not model.strip():
        raise ValueError("model is empty; give the name of the model that is asked.")
    for name, value in (("timeout", timeout), ("max_tokens", max_tokens), ("batch_size", batch_size)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; give a positive number.")
    if kind == "local" and base_url is not None:
        raise ValueError("base_url is set and backend is local, which has no address; leave one of them out.")
    may = OMITTABLE.get(kind, ())
    for name in omit:
        if name not in may:
            raise ValueError(
                f"omit is {name!r}{nearest(name, may)}, and backend {kind} can leave out {', '.join(may) or 'nothing'}."
            )
    check_address(base_url)
