"""Asking: many questions under way, each answer written down before anything else happens to it."""

import asyncio
import functools
import hashlib
import io
import json
import logging
import re
import signal
import time
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import soundfile
import tenacity
from tqdm.auto import tqdm

from annot_hf.data.audio import AudioError, AudioLimits, load_audio
from annot_hf.proxies.backend import Answer, Ask, Backend, Busy, Rejected, Stopped
from annot_hf.proxies.job import IDENTITY, Job
from annot_hf.proxies.ledger import Ledger, Prices
from annot_hf.proxies.log import AnswerLog, line_of
from annot_hf.proxies.pacing import LONGEST_PAUSE, Pacer, waiting
from annot_hf.proxies.parsing import parse_reply
from annot_hf.proxies.prompts import LONGEST, Prompt

logger = logging.getLogger(__name__)

RATE = 16_000  # Hz of the audio that is sent
LONGEST_REPLY = 10_000  # characters of a reply that are read and kept
PATIENCE = 20  # questions in a row that the server may reject, from the first, before the run stops


def as_sent(source: Any, max_seconds: float) -> bytes:
    """A clip as the WAV file that is sent: 16 kHz, mono, 16 bit.

    Raises:
        AudioError: It cannot be decoded, or is too long; it is then not sent.
    """
    wave, file = load_audio(source, sampling_rate=RATE, limits=AudioLimits(max_seconds=max_seconds)), io.BytesIO()
    soundfile.write(file, wave, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


class Session:
    """One go at the open questions of a job.

    Args:
        job: What is asked.
        backend: Whom to ask.
        log: Where everything is written down at once.
        ledger: State of every question, as far as the log tells.
        prices: What tokens cost.
        max_cost: Most that all answers may cost together (USD).
        attempts: Tries of one question.
        answers_as: Another name under which the model answers.

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
        prices: Prices,
        max_cost: float | None,
        attempts: int,
        answers_as: str,
    ) -> None:
        self.job, self.backend, self.log, self.ledger, self.prices = job, backend, log, ledger, prices
        self.max_cost, self.attempts, self.answers_as = max_cost, attempts, answers_as
        self.stopped, self.asked = "", 0
        self.unsaved: list[Mapping[str, Any]] = []
        self.under_way = self.failed_in_a_row = self.rejected = 0
        self.answered = False
        self.identity = hashlib.sha256(
            json.dumps({name: job.facts(backend)[name] for name in IDENTITY}, sort_keys=True).encode()
        ).hexdigest()
        self.audio = functools.lru_cache(maxsize=8)(self._audio)

    async def run(self, concurrency: int, rate: float | None) -> None:
        """Ask everything that is open, until it is done or something stops it; what is under way then comes home."""
        self.stopping = asyncio.Event()
        self.pacer = Pacer(rate, self._sleep)
        open_ = self.ledger.open(self.job.rows, len(self.job.annotators))
        total = len(self.job.rows) * len(self.job.annotators)
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
            self.progress.close()
            for number in (signal.SIGINT, signal.SIGTERM):
                try:
                    loop.remove_signal_handler(number)
                except (ValueError, RuntimeError, NotImplementedError):
                    break
            await self.backend.close()
        self._save_rest()
        for error in ends:
            if isinstance(error, BaseException):
                raise error

    def stop(self, reason: str) -> None:
        """Ask nothing more; the first reason is the one that is told."""
        self.stopped = self.stopped or reason
        self.stopping.set()

    def accepts(self, model: str) -> bool:
        """Whether an answer by a model of this name is one of the model that was asked.

        It may have its name, that of a dated version or a revision of it, or the last part of its path; a server that does
        not tell is believed.
        """
        asked = self.backend.model
        return (
            model in ("", asked, self.answers_as or asked)
            or re.fullmatch(rf"{re.escape(asked)}((-preview|-exp|-latest)?(-\d[\d-]*)?|@[^/]+)", model) is not None
            or asked.rstrip("/").endswith(f"/{model}")
            or model.rstrip("/").endswith(f"/{asked}")
        )

    def notes(self) -> list[str]:
        """What should be known beside the counts."""
        ledger = self.ledger
        said = {
            f"{int(ledger.cut.sum())} transcripts were cut to the {LONGEST} characters that a prompt takes.": ledger.cut.any(),
            f"{ledger.cut_off} questions were under way when earlier runs were killed; they were asked again under the same "
            "Idempotency-Key, and may have been paid for twice.": ledger.cut_off,
            f"{ledger.unreadable} bodies were no answer; they are in the log, and may have been paid for.": ledger.unreadable,
            f"The cost of {ledger.unpriced} answers is not known: the server does not report it, and no prices were given.": (
                ledger.unpriced and ledger.dearest is not None
            ),
        }
        return [note for note, holds in said.items() if holds]

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
            while not self._affordable():
                if self.stopped or not self.under_way:
                    return
                await self._sleep(0.01)
            batch = next(todo, None)
            if batch is None:
                return
            self.under_way += len(batch)
            try:
                await self._ask(batch, concurrency)
            finally:
                self.under_way -= len(batch)

    def _affordable(self) -> bool:
        """Whether one more question fits under the cap, whatever comes of those under way."""
        if self.max_cost is None:
            return True
        ledger = self.ledger
        if ledger.unpriced:
            self.stop("the cost of an answer is not known, and there is a cap; give --input-price and --output-price")
            return False
        if ledger.dearest is None:
            return self.under_way == 0
        could = ledger.spent + (self.under_way + ledger.unreadable + self.backend.batch_size) * ledger.dearest
        if could <= self.max_cost:
            return True
        if not self.under_way:
            self.stop(
                f"the next question could cost more than the cap of {self.max_cost:g} USD ({ledger.spent:.4f} spent)"
            )
        return False

    async def _ask(self, places: list[tuple[int, int]], concurrency: int) -> None:
        """Ask one batch, try again while the server is busy, and write down what comes of it."""
        asks, prompts = [], []
        for row, annotator in places:
            prompt = self.job.prompt(row, annotator)
            try:
                asks.append(self._make(row, annotator, prompt))
            except AudioError as error:
                self._close(row, annotator, "rejected", str(error), prompt, tried=0)
                continue
            prompts.append((row, annotator, prompt))
        if not asks:
            return
        tries, started = 0, time.monotonic()
        try:
            retrying = tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception(lambda error: isinstance(error, Busy) and not self.stopped),
                stop=tenacity.stop_after_attempt(self.attempts),
                wait=waiting,
                sleep=self._sleep,
                reraise=True,
            )
            async for attempt in retrying:
                with attempt:
                    await self.pacer.turn()
                    if self.stopped and tries == 0:
                        return
                    if self.stopped:
                        raise Busy(f"stopped before try {tries + 1}")
                    if tries == 0:
                        self.asked += len(asks)
                        for row, annotator, _ in prompts:
                            self._append({"kind": "asked", "item": self.ledger.items[row], "annotator": annotator})
                            self.ledger.ask(row, annotator)
                        if self.stopped:  # what cannot be written down is not asked
                            return
                    tries += 1
                    started = time.monotonic()
                    answers = await self._answers(asks)
        except Busy as error:
            for row, annotator, prompt in prompts:
                self._close(row, annotator, "failed", str(error), prompt, tried=tries)
            self.failed_in_a_row += len(asks)
            if self.failed_in_a_row >= max(3, concurrency):
                self.stop(
                    f"the server failed at {self.failed_in_a_row} questions in a row, the last time with: {error}"
                )
            return
        except Rejected as error:
            for row, annotator, prompt in prompts:
                self._close(row, annotator, "rejected", str(error), prompt, tried=tries)
            self.rejected += len(asks)
            if self.rejected >= PATIENCE and not self.answered:
                self.stop(f"the server rejected the first {self.rejected} questions, the last one with: {error}")
            return
        except Stopped as error:
            for row, annotator, prompt in prompts:
                self._close(row, annotator, "failed", str(error), prompt, tried=tries)
            self.stop(str(error))
            return
        self.failed_in_a_row, self.answered = 0, True
        seconds = (time.monotonic() - started) / len(asks)
        for (row, annotator, prompt), ask, answer in zip(prompts, asks, answers, strict=True):
            self._take(row, annotator, prompt, ask, answer, seconds, tries)

    async def _answers(self, asks: list[Ask]) -> list[Answer]:
        """Ask once; a pause that the server wants is everybody's."""
        try:
            return await self.backend.ask(asks)
        except Busy as error:
            if error.body is not None:
                for ask in asks:
                    self._append(
                        {
                            "kind": "unreadable",
                            "at": now(),
                            "item": ask.item,
                            "annotator": ask.annotator,
                            "body": error.body,
                        }
                    )
                    self.ledger.unreadable += 1
            if error.retry_after is not None:
                if error.retry_after > LONGEST_PAUSE:
                    raise Stopped(
                        f"The server asks to wait for {error.retry_after:.0f} seconds ({error}); run again after that."
                    ) from None
                self.pacer.pause(error.retry_after)
            raise

    def _make(self, row: int, annotator: int, prompt: Prompt) -> Ask:
        item, one = self.ledger.items[row], self.job.annotators[annotator]
        name = f"{item}\0{annotator}"
        return Ask(
            item=item,
            annotator=annotator,
            system=prompt.system,
            user=prompt.user,
            audio=self.audio(row),
            temperature=one.temperature,
            seed=zlib.crc32(f"{self.job.seed}\0{name}".encode()) & 0x7FFFFFFF,
            key=hashlib.sha256(f"{self.identity}\0{name}".encode()).hexdigest()[:32],
        )

    def _audio(self, row: int) -> bytes:
        return as_sent(self.job.corpus.items["audio"].iloc[row], self.job.max_seconds)

    def _take(
        self, row: int, annotator: int, prompt: Prompt, ask: Ask, answer: Answer, seconds: float, tries: int
    ) -> None:
        """Write down an answer that was paid for."""
        labels = self.job.question.labels
        reply = None if answer.reply is None else answer.reply[:LONGEST_REPLY]
        status, label = parse_reply(reply, labels, prompt=f"{prompt.system}\n{prompt.user}", parsing=self.job.parsing)
        if answer.refused:
            status, label = "refusal", -1
        record = self._record(row, annotator, prompt, ask) | {
            "kind": "answer",
            "status": status,
            "label": labels[label] if label >= 0 else None,
            "label_index": label,
            "reply": reply,
            "model": answer.model,
            "revision": answer.revision,
            "seconds": round(seconds, 3),
            "tries": tries,
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "cost": self.prices.of(answer),
        }
        if not self.accepts(answer.model):
            record |= {"would_be": status, "status": "wrong-model"}
            self.stop(
                f"model {self.backend.model!r} was asked and {answer.model!r} answered; correct --model, or say --answers-as "
                f"{answer.model!r} if it is the same one"
            )
        self._append(record)
        self.ledger.settle(row, annotator, record["status"], label, record)
        self._show()

    def _close(self, row: int, annotator: int, status: str, reason: str, prompt: Prompt, *, tried: int) -> None:
        """Write down a question that has no answer."""
        record = self._record(row, annotator, prompt, None)
        record |= {"kind": "closed", "status": status, "reason": reason, "tries": tried}
        self._append(record)
        self.ledger.settle(row, annotator, status, -1, record)
        self._show(done=status != "failed")

    def _record(self, row: int, annotator: int, prompt: Prompt, ask: Ask | None) -> dict[str, Any]:
        one = self.job.annotators[annotator]
        return {
            "kind": "",
            "at": now(),
            "item": self.ledger.items[row],
            "annotator": annotator,
            "instruction": one.instruction,
            "temperature": one.temperature,
            "seed": None if ask is None else ask.seed,
            "prompt_sha256": prompt.digest,
            "transcript_cut": prompt.cut,
        }

    def _append(self, record: Mapping[str, Any]) -> None:
        try:
            self.log.append(record)
        except OSError as error:
            self.unsaved.append(record)
            self.stop(f"the log of {self.log.folder} cannot be written ({error.strerror})")
        if self.log.full:
            self.stop(f"the disk of {self.log.folder} is full; free some room and run again: what was answered is kept")

    def _save_rest(self) -> None:
        """Write what the log did not take before; what it still does not take goes to the terminal, as its last place."""
        rest, self.unsaved = self.unsaved, []
        for record in rest:
            self._append(record)
        for record in self.unsaved:
            logger.error("not saved in %s: %s", self.log.path, line_of(record).rstrip())

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
    """The time as the log has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
