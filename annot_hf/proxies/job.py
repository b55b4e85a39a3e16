"""What a run asks, about which items and as which simulated annotators; and its questions with prompt and clip."""

import functools
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from annot_hf.data.audio import AudioLimits, wav_bytes
from annot_hf.data.encoding import check_choice, check_whole
from annot_hf.data.export import ExportedCorpus, check_splits
from annot_hf.data.questions import Question
from annot_hf.models.waves import AudioError
from annot_hf.proxies.backend import Ask, Backend
from annot_hf.proxies.parsing import Parsing, check_labels
from annot_hf.proxies.prompts import INSTRUCTIONS, Prompt, Prompts, clean_transcript
from annot_hf.proxies.store import IDENTITY

# of the sampling temperature
BANDS = ((0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 0.93))
JITTER, LOWEST, HIGHEST = 0.05, 0.1, 1.0
PLANS = ("paper", "crossed")
# more would only repeat the 25 combinations of instruction and band
MOST_ANNOTATORS = 100
# Hz of the audio that is sent
SENT_RATE = 16_000


@dataclass(frozen=True)
class SimulatedAnnotator:
    """A stand-in for a human rater, the same for every item, with one of `BANDS` and a temperature in [0.1, 1]."""

    index: int
    instruction: str
    band: int
    temperature: float


def make_plan(name: str, annotators: int) -> tuple[SimulatedAnnotator, ...]:
    """The simulated annotators of a plan (arXiv 2601.14620, section 3, has 6 for IEMOCAP and 10 for MSP-Podcast).

    - "paper": annotator i has instruction i mod 5 and temperature band i mod 5, as published; their effects are confounded.
    - "crossed" (ours): instruction i mod 5 and band (i + i div 5) mod 5, a Latin square: every 5 in a row have all
      instructions and all bands once, every 25 each combination once.

    As published, the temperature is uniform in the band, plus a jitter of +- 0.05, clipped to [0.1, 1], with the index as the
    seed. The authors' numbers begin with 0.231, 0.405, 0.540 and 0.831 (by NumPy's older generator), ours with 0.2044, 0.4474,
    0.5322 and 0.6908.

    Example:
        >>> [(one.instruction, one.band) for one in make_plan("crossed", 7)][4:]
        [('what-and-how', 4), ('both', 1), ('voice', 2)]
    """
    check_choice("plan", name, PLANS)
    if isinstance(annotators, bool) or not isinstance(annotators, int) or not 1 <= annotators <= MOST_ANNOTATORS:
        raise ValueError(f"annotators is {annotators!r}; give a whole number from 1 to {MOST_ANNOTATORS}, such as 10.")
    plan = []
    for index in range(annotators):
        band = (index + (index // 5 if name == "crossed" else 0)) % len(BANDS)
        generator = np.random.default_rng(index)
        drawn = generator.uniform(*BANDS[band]) + generator.uniform(-JITTER, JITTER)
        temperature = round(float(np.clip(drawn, LOWEST, HIGHEST)), 4)
        plan.append(SimulatedAnnotator(index, INSTRUCTIONS[index % len(INSTRUCTIONS)], band, temperature))
    return tuple(plan)


@dataclass(frozen=True)
class Job:
    """What a run asks: a category question, about `rows` of the corpus's items in this order, as these annotators."""

    corpus: ExportedCorpus
    question: Question
    rows: np.ndarray
    plan: str
    annotators: tuple[SimulatedAnnotator, ...]
    prompts: Prompts
    parsing: Parsing = "strict"
    # of the choice of items and of the sampling
    seed: int = 0
    # of a clip (s)
    max_seconds: float = 30.0

    def facts(self, model: str, revision: str, max_tokens: int) -> dict[str, Any]:
        """What identifies the run, as JSON values; no address and no key."""
        return {
            "corpus": self.corpus.name,
            "corpus_digest": self.corpus.digest,
            "question": self.question.to_dict(),
            "plan": self.plan,
            "model": model,
            "revision": revision,
            "prompts": self.prompts.digest,
            "parsing": self.parsing,
            "seed": self.seed,
            "max_tokens": max_tokens,
            "annotators": [asdict(one) for one in self.annotators],
        }

    @property
    def names(self) -> list[str]:
        """Names of all items of the corpus `(N,)`."""
        return self.corpus.items["item"].tolist()

    @functools.cached_property
    def human(self) -> np.ndarray:
        """Fractions of the human votes on all items of the corpus `(N, K)`; a zero row where nobody voted."""
        counts = self.corpus.votes.counts(self.question.name, items=self.names).astype(np.float64)
        return counts / counts.sum(1, keepdims=True).clip(1e-12)

    def shares(self, votes: np.ndarray) -> np.ndarray:
        """For each vote `(V, 3)` of `Store.votes`, the share of human votes that agree; items without any are left out."""
        return self.human[votes[:, 0], votes[:, 2]][self.human[votes[:, 0]].any(1)]

    @property
    def without_transcript(self) -> int:
        """Number of items of the job without a transcript: all their annotators have the audio-only instruction."""
        if "text" not in self.corpus.items:
            return len(self.rows)
        return sum(not clean_transcript(text)[0] for text in self.corpus.items["text"].iloc[self.rows])

    def prompt(self, row: int, annotator: int) -> Prompt:
        """The prompt for an annotator about the item of a row."""
        item, instruction = self.corpus.items.iloc[row], self.annotators[annotator].instruction
        said = {"transcript": item.get("text"), "speaker": item.get("speaker")}
        return self.prompts.render(self.question, instruction, **said)


def make_job(
    corpus: ExportedCorpus,
    *,
    question: str = "",
    splits: Sequence[str] = (),
    items: int | None = None,
    plan: str = "paper",
    annotators: int = 10,
    prompts: str | Path | None = None,
    parsing: Parsing = "strict",
    seed: int = 0,
    max_seconds: float = 30.0,
) -> Job:
    """Make a job: by default, the corpus's default question about all items except those of the split "test".

    Items are drawn by the seed; a larger number of items or annotators includes those of a smaller one.
    """
    name = question or corpus.default_questions[0]
    asked = corpus.votes.question(name)
    if asked.is_scale or asked.multiple:
        kind = "a scale" if asked.is_scale else "multi-select"
        raise ValueError(f"Question {name!r} is {kind}, and an annotator gives one label; name another question.")
    check_labels(asked)
    check_choice("parsing", parsing, get_args(Parsing))
    if not 0 < max_seconds < np.inf:
        raise ValueError(f"max_seconds is {max_seconds}; give a positive number of seconds.")
    check_whole("seed", seed, 0)
    have = check_splits(corpus, splits)
    wanted = list(splits) or [split for split in have if split != "test"] or have
    rows = np.flatnonzero(corpus.items["split"].isin(wanted))
    if items is not None:
        if not 1 <= items <= len(rows):
            raise ValueError(
                f"items is {items}; splits {', '.join(wanted)} have {len(rows)}: give a number from 1 to that."
            )
        rows = np.random.default_rng(seed).permutation(rows)[:items]
    silent = corpus.items.reindex(columns=["audio"]).iloc[rows].isna().to_numpy()[:, 0]
    if silent.any():
        raise ValueError(
            f"{int(silent.sum())} of {len(rows)} items of {corpus.name} have no audio, for instance "
            f"{corpus.items['item'].iloc[rows[silent][0]]!r}; leave them out of the export."
        )
    return Job(
        corpus, asked, rows, plan, make_plan(plan, annotators), Prompts(prompts), parsing, seed, float(max_seconds)
    )


def as_sent(source: Any, max_seconds: float) -> bytes:
    """A clip as the WAV file to send (16 kHz, mono, 16 bit); an AudioError if it cannot be decoded or is too long."""
    return wav_bytes(source, sampling_rate=SENT_RATE, limits=AudioLimits(max_seconds=max_seconds))


@dataclass(frozen=True)
class PreparedQuestion:
    """A question of an annotator about the item of a row; if it cannot be sent, `ask` is None and `reason` says why."""

    row: int
    annotator: int
    prompt: Prompt
    ask: Ask | None = None
    reason: str = ""


class QuestionMaker:
    """Prepares the questions of a job; a clip is read once for all its annotators."""

    def __init__(self, job: Job, backend: Backend) -> None:
        self.job = job
        facts = job.facts(backend.model, backend.revision, backend.max_tokens)
        identity = json.dumps({name: facts[name] for name in IDENTITY}, sort_keys=True)
        self.identity = hashlib.sha256(identity.encode()).hexdigest()
        self.audio = functools.lru_cache(maxsize=8)(self._audio)

    def make(self, row: int, annotator: int) -> PreparedQuestion:
        """The question of an annotator about the item of a row; its key and seed are the same in every run."""
        prompt, audio = self.job.prompt(row, annotator), self.audio(row)
        if isinstance(audio, str):
            return PreparedQuestion(row, annotator, prompt, reason=audio)
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
        return PreparedQuestion(row, annotator, prompt, ask)

    def _audio(self, row: int) -> bytes | str:
        """The clip of a row, or why it cannot be read."""
        try:
            return as_sent(self.job.corpus.items["audio"].iloc[row], self.job.max_seconds)
        except AudioError as error:
            return str(error)
