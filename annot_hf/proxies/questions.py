"""Questions as they are sent: an annotator's prompt about a clip, and the clip itself."""

import functools
import hashlib
import io
import json
import zlib
from dataclasses import dataclass
from typing import Any

import soundfile

from annot_hf.data.audio import AudioError, AudioLimits, load_audio
from annot_hf.proxies.backend import Ask, Backend
from annot_hf.proxies.job import IDENTITY, Job
from annot_hf.proxies.prompts import Prompt

RATE = 16_000  # Hz of the audio that is sent


def as_sent(source: Any, max_seconds: float) -> bytes:
    """A clip as the WAV file that is sent: 16 kHz, mono, 16 bit.

    Raises:
        AudioError: It cannot be decoded, or is too long; it is then not sent.
    """
    wave, file = load_audio(source, sampling_rate=RATE, limits=AudioLimits(max_seconds=max_seconds)), io.BytesIO()
    soundfile.write(file, wave, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


@dataclass(frozen=True)
class Question:
    """An annotator's question about the item of a row; without `ask` it cannot be sent, for the `reason` given."""

    row: int
    annotator: int
    prompt: Prompt
    ask: Ask | None = None
    reason: str = ""


class QuestionMaker:
    """Makes the questions of a job; a clip is read once for all its annotators.

    Args:
        job: What is asked.
        backend: Whom to ask.
    """

    def __init__(self, job: Job, backend: Backend) -> None:
        self.job = job
        facts = job.facts(backend.model, backend.revision, backend.max_tokens)
        identity = json.dumps({name: facts[name] for name in IDENTITY}, sort_keys=True)
        self.identity = hashlib.sha256(identity.encode()).hexdigest()
        self.audio = functools.lru_cache(maxsize=8)(self._audio)

    def make(self, row: int, annotator: int) -> Question:
        """What an annotator is asked about the item of a row; its key and seed are the same in every run."""
        prompt, audio = self.job.prompt(row, annotator), self.audio(row)
        if isinstance(audio, str):
            return Question(row, annotator, prompt, reason=audio)
        item, one = str(self.job.corpus.items["item"].iloc[row]), self.job.annotators[annotator]
        name = f"{item}\0{annotator}"
        ask = Ask(
            item=item,
            annotator=annotator,
            system=prompt.system,
            user=prompt.user,
            audio=audio,
            temperature=one.temperature,
            seed=zlib.crc32(f"{self.job.seed}\0{name}".encode()) & 0x7FFFFFFF,
            key=hashlib.sha256(f"{self.identity}\0{name}".encode()).hexdigest()[:32],
        )
        return Question(row, annotator, prompt, ask)

    def _audio(self, row: int) -> bytes | str:
        """A clip, or why there is none."""
        try:
            return as_sent(self.job.corpus.items["audio"].iloc[row], self.job.max_seconds)
        except AudioError as error:
            return str(error)
