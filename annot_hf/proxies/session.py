"""One run over the open questions of a job: many at a time, within a rate and a budget, each answer stored at once."""

import asyncio
import json
import logging
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import tenacity
from tqdm.auto import tqdm

from annot_hf.proxies.backend import Answer, Backend, Busy, Prices, Rejected, Stopped
from annot_hf.proxies.job import Job, PreparedQuestion, QuestionMaker
from annot_hf.proxies.parsing import LONGEST_REPLY, parse_reply
from annot_hf.proxies.store import Row, Store

# seconds (s): between two tries, unless the server asks for more, and of a pause for which the run does not stop
LONGEST_WAIT, LONGEST_PAUSE = 60.0, 3600.0
# clips in a row before the run stops: that are rejected or cannot be read here, and about which all questions fail
PATIENCE, FAILING = 20, 3
# how the reason begins that only a higher cap removes
OVER = "the next question could cost"
# attributes of an answer that are stored as they are
KEPT = ("model", "revision", "cut", "input_tokens", "output_tokens", "cost")

logger = logging.getLogger(__name__)


def waiting(state: tenacity.RetryCallState) -> float:
    """Seconds (s) until the next try: exponential with full jitter, and never less than the server asked for."""
    drawn = tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT)(state)
    error = state.outcome.exception()
    return max(drawn, (error.retry_after or 0.0) if isinstance(error, Busy) else 0.0)


class Budget:
    """A cap (USD), if any, on what all answers in a folder cost together, checked before a question is sent.

    An attempt that is under way, was cut off by a kill, or lost its answer counts as much as the dearest answer so far.
    """

    def __init__(self, most: float | None, store: Store, prices: Prices) -> None:
        self.most, self.prices, totals = most, prices, store.totals()
        self.spent, self.dearest, self.unpriced = totals.spent, totals.dearest, totals.unpriced
        self.lost = self._lost_before = totals.lost + totals.cut_off

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        cost = self.prices.cost(answer.cost, answer.input_tokens, answer.output_tokens)
        if cost is None:
            self.unpriced += 1
        else:
            self.spent, self.dearest = self.spent + cost, max(cost, self.dearest or 0.0)

    def allows(self, questions: int, under_way: int) -> bool:
        """Whether so many more questions, or tries, fit, however those under way end."""
        if self.most is None:
            return True
        if self.unpriced:
            return False
        if self.dearest is None:
            # while no cost is known, one is sent at a time, and none after an answer was lost
            return under_way == 0 and self.lost == self._lost_before
        return self.spent + (under_way + self.lost + questions) * self.dearest <= self.most

    @property
    def reason(self) -> str:
        """Why it allows nothing more."""
        if self.unpriced:
            return "the cost of an answer is not known, and there is a cap; give --input-price and --output-price"
        if self.dearest is None:
            return "an answer was lost before the cost of any was known, and there is a cap; run again to ask one more"
        perhaps = f", and perhaps as much as {self.lost} answers that never came" if self.lost else ""
        return f"{OVER} more than the cap of {self.most:g} USD ({self.spent:.4f} spent{perhaps})"


@dataclass
class _Batch:
    """Questions that are sent together."""

    questions: list[PreparedQuestion] = field(default_factory=list)
    # how many of them the budget counts as under way
    held: int = 0
    tries: int = 0
    # when they were sent last (s), and the numbers of these attempts in the store
    started: float = 0.0
    attempts: list[int] = field(default_factory=list)


class Writer:
    """Writes to the store in groups: all that came while one was being written go into the next, with one sync of the disk."""

    def __init__(self, store: Store, thread: Executor) -> None:
        self.store, self._thread = store, thread
        self._waiting: list[tuple[asyncio.Future, list[Row]]] = []
        self._task: asyncio.Task | None = None

    async def write(self, rows: list[Row]) -> list[int]:
        """Write rows, all or none; once they are on the disk, returns their numbers, or raises why they cannot be written."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((done, rows))
        if self._task is None:
            self._task = asyncio.create_task(self._write_groups())
        return await done

    async def _write_groups(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                ends = await loop.run_in_executor(self._thread, self.store.write, [rows for _, rows in group])
            except Exception as error:
                ends = [error] * len(group)
            for (done, _), end in zip(group, ends, strict=True):
                # its worker may be gone, if the process is being ended
                if done.done():
                    continue
                if isinstance(end, Exception):
                    done.set_exception(end)
                else:
                    done.set_result(end)
        self._task = None


class Session:
    """One pass over the open questions of a job, with at most `attempts` tries of each."""

    def __init__(self, job: Job, backend: Backend, store: Store, budget: Budget, attempts: int) -> None:
        self.job, self.backend, self.store, self.budget, self.attempts = job, backend, store, budget, attempts
        # why it ended before everything was asked
        self.stopped = ""
        # questions that were sent (tries of one count once), are under way, and whose answers could not be written
        self.asked = self.under_way = self.unsaved = 0
        # clips since the last answer, by how their questions ended instead, and how many questions about each
        self.in_a_row: dict[str, Counter[int]] = defaultdict(Counter)
        self.maker = QuestionMaker(job, backend)
        shares = job.shares(store.votes())
        self.agreed, self.compared = float(shares.sum()), len(shares)

    async def run(self, concurrency: int, rate: float | None) -> None:
        """Ask everything that is open, until it is done or something stops it; questions under way then run to their end."""
        self.stopping, self.concurrency = asyncio.Event(), concurrency
        # seconds (s) between two questions, and when the next one may be sent
        self.gap, self.next = 0.0 if rate is None else 1 / rate, 0.0
        open_, size = self.store.open(), self.backend.batch_size
        total = len(self.job.rows) * len(self.job.annotators)
        self.clips = len(np.unique(open_[:, 0]))
        loop = asyncio.get_running_loop()
        todo = (open_[start : start + size].tolist() for start in range(0, len(open_), size))
        self.progress = tqdm(total=total, initial=total - len(open_), desc="annotate", unit="answer")
        # a thread of its own, so that writes do not wait for what else runs in threads, such as look-ups of names
        with ExitStack() as undo, self.progress, ThreadPoolExecutor(1) as thread:
            self.writer = Writer(self.store, thread)
            # the first signal lets questions under way run to their end; the second ends the process as ever
            for number in (signal.SIGINT, signal.SIGTERM):
                # not in the main thread: there the caller handles signals
                with suppress(ValueError, RuntimeError, NotImplementedError):
                    loop.add_signal_handler(number, self._interrupt, number)
                    undo.callback(loop.remove_signal_handler, number)
            try:
                ends = await asyncio.gather(*(self._work(todo) for _ in range(concurrency)), return_exceptions=True)
            finally:
                await self.backend.close()
        for error in ends:
            if isinstance(error, BaseException):
                raise error

    def stop(self, reason: str) -> None:
        """Send nothing more; the first reason is the one that is reported."""
        self.stopped = self.stopped or reason.rstrip(".")
        self.stopping.set()

    def _interrupt(self, number: int) -> None:
        self.stop(f"{signal.Signals(number).name} came")
        asyncio.get_running_loop().remove_signal_handler(number)

    async def _work(self, todo: Iterator[list[list[int]]]) -> None:
        """Take questions until there are none, or the run stops."""
        try:
            while not self.stopped and await self._afford(self.backend.batch_size):
                places = next(todo, None)
                if places is None:
                    return
                batch = _Batch()
                self._hold(batch, len(places))
                try:
                    batch.questions = await self._prepare(places)
                    if batch.questions:
                        await self._ask(batch)
                finally:
                    self._hold(batch, 0)
        except BaseException as error:
            # the other workers stop once their own questions have ended
            self.stop(f"{type(error).__name__}: {error}")
            raise

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
        """Count so many questions of a batch as under way; none while it waits for its next try."""
        self.under_way += questions - batch.held
        batch.held = questions

    async def _prepare(self, places: list[list[int]]) -> list[PreparedQuestion]:
        """The questions to send; one whose clip cannot be read ends here."""
        questions = []
        for row, annotator in places:
            question = self.maker.make(row, annotator)
            if question.ask is not None:
                questions.append(question)
                continue
            end = {"status": "not sent", "reason": question.reason, "tries": 0, "at": now()}
            if await self._begin([self._attempt(question) | end]):
                self._show()
            said = "have clips that could not be read here (the next run asks about them last), such as"
            self._count("not sent", [question], PATIENCE, 1, f"{said} {question.reason}")
        return questions

    async def _ask(self, batch: _Batch) -> None:
        """Ask one batch and store its answers, or decide whether to stop as there are none."""
        try:
            answers = await self._try(batch)
        except Stopped as error:
            self.stop(str(error))
        except Rejected as error:
            said = f"were rejected by the server, the last one with: {error} (--retry-rejected asks about them again)"
            self._count("rejected", batch.questions, PATIENCE, self.concurrency, said)
        except Busy as error:
            # an attempt that may have been paid for is not repeated on clip after clip
            clips = 1 if error.paid else min(FAILING, self.clips)
            said = f"failed, the last one with: {error}"
            self._count("failed", batch.questions, clips, max(FAILING, self.concurrency), said)
        else:
            if answers is not None:
                self.in_a_row.clear()
                await self._take(batch, answers)

    async def _try(self, batch: _Batch) -> list[Answer] | None:
        """Send a batch, again while the server is busy; None if the run ended before it was sent at all."""
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
                # the last try may have been paid for
                if batch.tries and await self._afford(questions):
                    self._hold(batch, questions)
                await self._turn(questions)
                attempts = [self._attempt(question) for question in batch.questions]
                # what was stored is sent, even if the run is stopped meanwhile
                batch.attempts = [] if self.stopped else await self._begin(attempts)
                if not batch.attempts and batch.tries:
                    raise Busy(f"stopped before try {batch.tries + 1}")
                if not batch.attempts:
                    return None
                self.asked += 0 if batch.tries else questions
                batch.tries += 1
                batch.started = time.monotonic()
                try:
                    return await self._answers(batch)
                except Busy:
                    self._hold(batch, 0)
                    raise

    async def _answers(self, batch: _Batch) -> list[Answer]:
        """Ask once, and store why there is no answer; a pause that the server asks for holds for all questions."""
        try:
            try:
                # the timeout of the library is one between two bytes
                async with asyncio.timeout(self.backend.timeout):
                    return await self.backend.ask([question.ask for question in batch.questions])
            except TimeoutError:
                raise Busy(f"no whole answer in {self.backend.timeout:g} seconds", paid=True) from None
        except (Busy, Rejected, Stopped) as error:
            end = {"status": "rejected" if isinstance(error, Rejected) else "failed", "reason": str(error)}
            if isinstance(error, Busy) and error.paid:
                end |= {"lost": True, "body": error.body}
                self.budget.lost += len(batch.questions)
            done = await self._finish(batch, [end] * len(batch.questions))
            if done and isinstance(error, Rejected):
                self._show(len(batch.questions))
            pause = (isinstance(error, Busy) and error.retry_after) or 0.0
            if pause > LONGEST_PAUSE:
                raise Stopped(
                    f"The server asks to wait for {pause:.0f} seconds ({error}); run again after that."
                ) from None
            self.next = max(self.next, time.monotonic() + pause)
            raise

    def _count(self, kind: str, questions: list[PreparedQuestion], clips: int, most: int, said: str) -> None:
        """Stop after so many questions in a row, about so many clips, that all ended in the same way."""
        # a clip or two that no server takes, for however many annotators, are no reason to leave out the others
        so_far = self.in_a_row[kind]
        so_far.update(question.row for question in questions)
        if len(so_far) >= clips and so_far.total() >= most:
            self.stop(f"all {so_far.total()} questions in a row, about {len(so_far)} clips, {said}")

    async def _take(self, batch: _Batch, answers: Sequence[Answer]) -> None:
        """Store the answers to a batch."""
        seconds = round((time.monotonic() - batch.started) / len(answers), 3)
        ends = [self._end(*pair) | {"seconds": seconds} for pair in zip(batch.questions, answers, strict=True)]
        if not await self._finish(batch, ends):
            return
        for question, answer, end in zip(batch.questions, answers, ends, strict=True):
            self.budget.add(answer)
            if end["status"] == "label":
                vote = question.row, question.annotator, self.store.labels.index(end["label"])
                shares = self.job.shares(np.array([vote]))
                self.agreed, self.compared = self.agreed + float(shares.sum()), self.compared + len(shares)
            self._show()

    def _end(self, question: PreparedQuestion, answer: Answer) -> dict[str, Any]:
        """How an attempt ended, from its answer."""
        labels, asked = self.store.labels, f"{question.prompt.system}\n{question.prompt.user}"
        said, parsing = answer.said or answer.reply, self.job.parsing
        status, label = parse_reply(said, labels, prompt=asked, parsing=parsing, cut=answer.cut)
        if answer.refused:
            status, label = "refusal", -1
        right = self.store.accepts(answer.model)
        if not right:
            self.stop(
                f"model {self.backend.model!r} was asked and {answer.model!r} answered; run again with the right --model and "
                f"a new --out, or give --answers-as {answer.model!r} if it is the same one (this folder remembers it for good)"
            )
        end = {
            "status": status if right else "wrong-model",
            "parsed": status,
            "label": labels[label] if label >= 0 else None,
            # the answer comes after the thoughts
            "reply": None if answer.reply is None else answer.reply[-LONGEST_REPLY:],
            "omitted": ", ".join(answer.omitted),
        }
        end |= {name: getattr(answer, name) for name in KEPT}
        # the server chose what was left out, and nobody knows how
        return end | {name: None for name in ("seed", "temperature") if name in answer.omitted}

    def _attempt(self, question: PreparedQuestion) -> dict[str, Any]:
        """What is known of an attempt before it is sent."""
        return {
            "item": self.store.items[question.row],
            "annotator": question.annotator,
            "begun": now(),
            "instruction": question.prompt.instruction,
            "temperature": self.job.annotators[question.annotator].temperature,
            "seed": None if question.ask is None else question.ask.seed,
            "prompt_sha256": question.prompt.digest,
            "transcript_cut": question.prompt.cut,
        }

    async def _begin(self, attempts: list[dict[str, Any]]) -> list[int]:
        """Store attempts before they are sent; where that fails, none may be sent and the run stops."""
        try:
            return await self.writer.write([(None, attempt) for attempt in attempts])
        except (OSError, sqlite3.Error) as error:
            self._stop_writing(error)
            return []

    async def _finish(self, batch: _Batch, ends: Sequence[Mapping[str, Any]]) -> bool:
        """Store how the attempts of a batch ended; answers that cannot be stored are logged, and count as lost."""
        rows = [{"at": now(), "tries": batch.tries, **end} for end in ends]
        try:
            await self.writer.write(list(zip(batch.attempts, rows, strict=True)))
        except (OSError, sqlite3.Error) as error:
            self._stop_writing(error)
            self.unsaved += len(rows)
            for question, row in zip(batch.questions, rows, strict=True):
                logger.error("not saved: %s", json.dumps(self._attempt(question) | row))
            return False
        if self.store.full:
            self._stop_writing("the disk is full")
        return True

    def _stop_writing(self, error: object) -> None:
        fix = "mend that, for instance free some room, and run again: what was stored is kept"
        self.stop(f"{self.store.path} cannot be written ({error}); {fix}")

    async def _turn(self, questions: int) -> None:
        """Wait until so many questions may be sent together, or the run ends."""
        while not self.stopped and (wait := self.next - time.monotonic()) > 0:
            await self._sleep(wait)
        self.next = time.monotonic() + self.gap * questions

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of the run."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    def _show(self, done: int = 1) -> None:
        if self.compared:
            self.progress.set_postfix_str(f"agrees with humans {self.agreed / self.compared:.3f}", refresh=False)
        self.progress.update(done)


def now() -> str:
    """The time, as an attempt has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
