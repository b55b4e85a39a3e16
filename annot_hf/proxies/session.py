"""Asking: many questions under way, each answer written down before anything else happens to it.

When the next question may go out: a rate, and pauses that the server asks for.

A cap on what is spent, held before a question goes out.
"""

import asyncio
import logging
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import tenacity
from tqdm.auto import tqdm

from annot_hf.proxies.backend import Answer, Backend, Busy, Rejected, Stopped
from annot_hf.proxies.job import Job, Question, QuestionMaker
from annot_hf.proxies.parsing import LONGEST_REPLY, parse_reply
from annot_hf.proxies.store import AnswerLog, Ledger, line_of

LONGEST_WAIT = 60.0  # seconds (s) between two tries, unless the server asks for more
LONGEST_PAUSE = 3600.0  # seconds (s); a server that asks for more is not waited for


class Pacer:
    """Turns for all questions of a run.

    Args:
        rate: Most questions a second; None for any number.
        sleep: Waits so many seconds (s), or less when the run ends.
    """

    def __init__(self, rate: float | None, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._gap, self._sleep = 0.0 if rate is None else 1 / rate, sleep
        self._next = 0.0

    async def turn(self, questions: int = 1) -> None:
        """Wait until so many questions may go out together, or the run ends."""
        while (now := time.monotonic()) < self._next:
            before = self._next
            await self._sleep(before - now)
            if time.monotonic() < before:
                return  # the run ends
        self._next = now + self._gap * questions

    def pause(self, seconds: float) -> None:
        """Let no question out for so long."""
        self._next = max(self._next, time.monotonic() + seconds)


def waiting(state: tenacity.RetryCallState) -> float:
    """Seconds until the next try: exponential with full jitter, and never less than the server asked for."""
    drawn = tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT)(state)
    error = state.outcome.exception()
    return max(drawn, (error.retry_after or 0.0) if isinstance(error, Busy) else 0.0)


OVER = "the next question could cost"  # how the reason begins that only a higher cap takes away


@dataclass(frozen=True)
class Budget:
    """Most that all answers may cost together.

    Every question under way, cut off by a kill, or lost on its way back counts as much as the dearest answer so far.

    Attributes:
        most: USD; None for no cap.
        ledger: What was spent.
    """

    most: float | None
    ledger: Ledger
    _lost: int = field(init=False)  # answers before this run

    def __post_init__(self) -> None:
        object.__setattr__(self, "_lost", self.ledger.lost)

    def allows(self, questions: int, under_way: int) -> bool:
        """Whether so many more questions, or tries, fit, whatever comes of those under way.

        While no cost is known, one goes out at a time, and none after an answer was lost.
        """
        if self.most is None:
            return True
        if self.ledger.unpriced:
            return False
        if self.ledger.dearest is None:
            return under_way == 0 and self.ledger.lost == self._lost
        unknown = under_way + self.ledger.lost + self.ledger.cut_off + questions
        return self.ledger.spent + unknown * self.ledger.dearest <= self.most

    @property
    def reason(self) -> str:
        """Why it allows nothing more."""
        if self.ledger.unpriced:
            return "the cost of an answer is not known, and there is a cap; give --input-price and --output-price"
        if self.ledger.dearest is None:
            return "an answer was lost before the cost of any was known, and there is a cap; run again to ask one more"
        unknown = self.ledger.lost + self.ledger.cut_off
        perhaps = f", and perhaps as much as {unknown} answers that never came" if unknown else ""
        return f"{OVER} more than the cap of {self.most:g} USD ({self.ledger.spent:.4f} spent{perhaps})"


logger = logging.getLogger(__name__)

RATE = 16_000  # Hz of the audio that is sent
PATIENCE = 20  # clips in a row that the server may reject, or that cannot be read here, before the run stops
FAILING = 3  # clips in a row about which all questions may fail


@dataclass
class _Batch:
    """Questions that are sent together, how often they were, and when last (s); `held` of them count as under way."""

    questions: list[Question]
    held: int = 0
    tries: int = 0
    started: float = 0.0


class Session:
    """One go at the open questions of a job.

    Args:
        job: What is asked.
        backend: Whom to ask.
        log: Where everything is written down at once.
        ledger: State of every question, as far as the log tells.
        budget: What may be spent.
        attempts: Tries of one question.
        accepts: Says of a model's name whether it is the one that is asked.

    Attributes:
        stopped: Why it ended before everything was asked; "" if it did not.
        asked: Questions that were sent, tries of the same one counted once.
    """

    def __init__(
        self,
        job: Job,
        backend: Backend,
        log: AnswerLog,
        ledger: Ledger,
        budget: Budget,
        attempts: int,
        accepts: Callable[[str], bool],
    ) -> None:
        self.job, self.backend, self.log, self.ledger = job, backend, log, ledger
        self.budget, self.attempts, self.accepts = budget, attempts, accepts
        self.stopped, self.asked = "", 0
        self.unsaved: list[Mapping[str, Any]] = []
        self.under_way = 0
        # clips since the last answer, by what came of them instead, and how many questions about each
        self.in_a_row: dict[str, Counter[int]] = defaultdict(Counter)
        self.maker = QuestionMaker(job, backend)

    async def run(self, concurrency: int, rate: float | None) -> None:
        """Ask everything that is open, until it is done or something stops it; what is under way then comes home."""
        self.stopping = asyncio.Event()
        self.pacer = Pacer(rate, self._sleep)
        open_ = self.ledger.open(self.job.rows, len(self.job.annotators))
        total = len(self.job.rows) * len(self.job.annotators)
        self.clips = len(np.unique(open_[:, 0]))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:  # the first signal lets what is under way come home; the second one ends the process as ever
                loop.add_signal_handler(number, self._interrupt, number)
            except (ValueError, RuntimeError, NotImplementedError):
                break  # not the main thread: whoever runs it has the signals
        todo = self._batches(open_)
        self.progress = tqdm(total=total, initial=total - len(open_), desc="annotate", unit="answer")
        try:
            ends = await asyncio.gather(
                *(self._work(todo, concurrency) for _ in range(concurrency)), return_exceptions=True
            )
        finally:
            self._save_rest()  # first of all: it may be ended at any moment now
            self.progress.close()
            for number in (signal.SIGINT, signal.SIGTERM):
                try:
                    loop.remove_signal_handler(number)
                except (ValueError, RuntimeError, NotImplementedError):
                    break
            await self.backend.close()
        for error in ends:
            if isinstance(error, BaseException):
                raise error

    def stop(self, reason: str) -> None:
        """Ask nothing more; the first reason is the one that is told."""
        self.stopped = self.stopped or reason.rstrip(".")
        self.stopping.set()

    def _interrupt(self, number: int) -> None:
        self.stop(f"{signal.Signals(number).name} came")
        asyncio.get_running_loop().remove_signal_handler(number)

    def _batches(self, open_: np.ndarray) -> Iterator[list[tuple[int, int]]]:
        """Questions in the order they are asked, as many at a time as the backend takes."""
        size = self.backend.batch_size
        for start in range(0, len(open_), size):
            yield [(int(row), int(annotator)) for row, annotator in open_[start : start + size]]

    async def _work(self, todo: Iterator[list[tuple[int, int]]], concurrency: int) -> None:
        """Take questions until there are none, or the run stops."""
        try:
            await self._take_turns(todo, concurrency)
        except BaseException as error:
            self.stop(f"{type(error).__name__}: {error}")  # the others let what is under way come home
            raise

    async def _take_turns(self, todo: Iterator[list[tuple[int, int]]], concurrency: int) -> None:
        while not self.stopped:
            if not await self._afford(self.backend.batch_size):
                return
            places = next(todo, None)
            if places is None:
                return
            batch = _Batch([])
            self._hold(batch, len(places))
            try:
                batch.questions = self._questions(places)
                await self._ask(batch, concurrency)
            finally:
                self._hold(batch, 0)

    async def _afford(self, questions: int) -> bool:
        """Wait until the budget has room for so many; False if it never will, or the run stops before."""
        while not self.budget.allows(questions, self.under_way):
            if not self.under_way:
                self.stop(self.budget.reason)
            if self.stopped:
                return False
            await self._sleep(0.01)
        return True

    def _hold(self, batch: _Batch, questions: int) -> None:
        """So many questions of a batch are under way, as the budget counts them: not while it waits for its next try."""
        self.under_way += questions - batch.held
        batch.held = questions

    async def _ask(self, batch: _Batch, concurrency: int) -> None:
        """Ask one batch, and write down what comes of it."""
        if not batch.questions:
            await asyncio.sleep(0)  # what is under way comes home between clips that cannot be read
            return
        try:
            answers = await self._try(batch)
        except (Busy, Rejected, Stopped) as error:
            self._give_up(batch, error, concurrency)
            return
        if answers is None:
            return
        self.in_a_row.clear()
        seconds = (time.monotonic() - batch.started) / len(answers)
        for question, answer in zip(batch.questions, answers, strict=True):
            self._take(question, answer, seconds, batch.tries)

    def _questions(self, places: list[tuple[int, int]]) -> list[Question]:
        """What is sent; a question whose clip cannot be read is closed instead."""
        questions = []
        for row, annotator in places:
            question = self.maker.make(row, annotator)
            if question.ask is not None:
                questions.append(question)
                continue
            self._close(question, "not sent", question.reason, tries=0)
            said = (
                f"have clips that could not be read here (the next run asks about them last), such as {question.reason}"
            )
            self._count("not sent", [question], PATIENCE, 1, said)
        return questions

    async def _try(self, batch: _Batch) -> list[Answer] | None:
        """Send a batch, again and again while the server is busy; None if the run ended before it was sent at all."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, Busy) and not self.stopped),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=waiting,
            sleep=self._sleep,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                questions = len(batch.questions)
                if batch.tries and await self._afford(questions):  # an answer that was lost may have been paid for
                    self._hold(batch, questions)
                await self.pacer.turn(questions)
                if self.stopped and batch.tries:
                    raise Busy(f"stopped before try {batch.tries + 1}")
                if self.stopped or not batch.tries and not self._begin(batch):
                    return None
                batch.tries += 1
                batch.started = time.monotonic()
                try:
                    return await self._answers(batch)
                except Busy:
                    self._hold(batch, 0)
                    raise

    def _begin(self, batch: _Batch) -> bool:
        """Write down that a batch is under way; False if that has no room: it is then not sent, and closed again."""
        begun = []
        for question in batch.questions:
            item = self.ledger.items[question.row]
            record = {"kind": "asked", "at": now(), "item": item, "annotator": question.annotator}
            if self._append(record) is None:
                break
            self.ledger.ask(question.row, question.annotator)
            begun.append(question)
        if not self.stopped:
            self.asked += len(begun)
            return True
        for question in begun:
            self._close(question, "failed", f"not sent, since {self.stopped}", tries=0)
        return False

    def _give_up(self, batch: _Batch, error: Busy | Rejected | Stopped, concurrency: int) -> None:
        """Write down that a batch has no answers; whether the run goes on depends on why."""
        status = "rejected" if isinstance(error, Rejected) else "failed"
        for question in batch.questions:
            self._close(question, status, str(error), tries=batch.tries)
        if isinstance(error, Stopped):
            self.stop(str(error))
        elif isinstance(error, Rejected):
            said = f"were rejected by the server, the last one with: {error} (--retry-rejected asks about them again)"
            self._count(status, batch.questions, PATIENCE, concurrency, said)
        else:
            said = f"failed, the last one with: {error}"
            clips = 1 if error.paid else min(FAILING, self.clips)  # what may have been paid for is not tried on and on
            self._count(status, batch.questions, clips, max(FAILING, concurrency), said)

    def _count(self, kind: str, questions: list[Question], clips: int, most: int, said: str) -> None:
        """Stop when all questions come to nothing in the same way: so many in a row, about so many clips.

        A clip or two that nobody takes, by however many annotators, are no reason to leave out the others.
        """
        so_far = self.in_a_row[kind]
        so_far.update(question.row for question in questions)
        if len(so_far) >= clips and so_far.total() >= most:
            self.stop(f"all {so_far.total()} questions in a row, about {len(so_far)} clips, {said}")

    async def _answers(self, batch: _Batch) -> list[Answer]:
        """Ask once; a pause that the server wants is everybody's."""
        asks = [question.ask for question in batch.questions]
        try:
            try:
                async with asyncio.timeout(self.backend.timeout):  # the library's own is one between two bytes
                    return await self.backend.ask(asks)
            except TimeoutError:
                raise Busy(f"no whole answer in {self.backend.timeout:g} seconds", paid=True) from None
        except Busy as error:
            for ask in asks if error.paid else ():
                lost = {"kind": "lost", "at": now(), "item": ask.item, "annotator": ask.annotator, "tries": batch.tries}
                self._keep(lost | {"reason": str(error), "body": error.body})
            if error.retry_after is not None:
                if error.retry_after > LONGEST_PAUSE:
                    raise Stopped(
                        f"The server asks to wait for {error.retry_after:.0f} seconds ({error}); run again after that."
                    ) from None
                self.pacer.pause(error.retry_after)
            raise

    def _take(self, question: Question, answer: Answer, seconds: float, tries: int) -> None:
        """Write down an answer that was paid for."""
        labels, prompt = self.job.question.labels, question.prompt
        reply = None if answer.reply is None else answer.reply[-LONGEST_REPLY:]  # an answer stands after its thoughts
        status, label = parse_reply(
            answer.said or answer.reply,
            labels,
            prompt=f"{prompt.system}\n{prompt.user}",
            parsing=self.job.parsing,
            cut=answer.cut,
        )
        if answer.refused:
            status, label = "refusal", -1
        record = self._record(question) | {
            "kind": "answer",
            "seed": question.ask.seed,
            "omitted": ", ".join(answer.omitted),
            "status": status,
            "label": labels[label] if label >= 0 else None,
            "label_index": label,
            "reply": reply,
            "model": answer.model,
            "revision": answer.revision,
            "seconds": round(seconds, 3),
            "cut": answer.cut,
            "tries": tries,
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "cost": answer.cost,
        }
        record |= {
            name: None for name in ("seed", "temperature") if name in answer.omitted
        }  # nobody knows which it was
        if not self.accepts(answer.model):
            record |= {"would_be": status, "status": "wrong-model"}
            self.stop(
                f"model {self.backend.model!r} was asked and {answer.model!r} answered; run again with the right --model and "
                f"a new --out, or say --answers-as {answer.model!r} if it is the same one (this folder then knows it for good)"
            )
        self._show(done=self._keep(record))

    def _close(self, question: Question, status: str, reason: str, *, tries: int) -> None:
        """Write down a question that has no answer."""
        record = self._record(question) | {"kind": "closed", "status": status, "reason": reason, "tries": tries}
        self._show(done=self._keep(record) and status != "failed")

    def _record(self, question: Question) -> dict[str, Any]:
        return {
            "kind": "",
            "at": now(),
            "item": self.ledger.items[question.row],
            "annotator": question.annotator,
            "instruction": question.prompt.instruction,
            "temperature": self.job.annotators[question.annotator].temperature,
            "seed": None,
            "prompt_sha256": question.prompt.digest,
            "transcript_cut": question.prompt.cut,
        }

    def _keep(self, record: Mapping[str, Any]) -> bool:
        """Write down what came of a question, and count it if that went well: what is in no log is no vote."""
        offset = self._append(record)
        if offset is None:
            self.unsaved.append(record)
            return False
        self.ledger.take_in(offset, record)
        return True

    def _append(self, record: Mapping[str, Any]) -> int | None:
        """Write a record to the log; where it begins there, None if it does not take it."""
        offset = None
        try:
            offset = self.log.append(record)
        except OSError as error:
            self.stop(f"the log of {self.log.folder} cannot be written ({error.strerror})")
        if self.log.full:
            self.stop(f"the disk of {self.log.folder} is full; free some room and run again: what was answered is kept")
        return offset

    def _save_rest(self) -> None:
        """Write what the log did not take before; what it still does not take goes to the terminal, as its last place."""
        rest, self.unsaved = self.unsaved, []
        for record in rest:
            self._keep(record)
        if self.unsaved:
            logger.error("not saved; append these lines as they are to %s before the next run:", self.log.path)
        for record in self.unsaved:
            logger.error("%s", line_of(record).rstrip())

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of the run."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            pass

    def _show(self, *, done: bool = True) -> None:
        agreement = self.ledger.agreement
        if agreement is not None:
            self.progress.set_postfix_str(f"agrees with humans {agreement:.3f}", refresh=False)
        self.progress.update(int(done))


def now() -> str:
    """The time as the log has it: fine enough that no two tries of a question have the same."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
