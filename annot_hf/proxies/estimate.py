"""What a run of `annotate` will take: questions, audio, tokens, time and money, before anything is asked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from annot_hf.data.audio import audio_info
from annot_hf.data.synthetic import check_folder
from annot_hf.proxies.annotate import check_pace
from annot_hf.proxies.backend import AT_ONCE
from annot_hf.proxies.job import Job, open_ledger
from annot_hf.proxies.store import Prices, take_in

AUDIO_TOKENS = 32  # a second of audio: Gemini's; Qwen2-Audio has 25
CHARACTERS = 4  # a token of English text, about
OUTPUT_TOKENS = 5  # a label
SECONDS = 2.0  # an answer takes, before any was measured
SAMPLE = 200  # questions whose prompts are looked at


@dataclass(frozen=True)
class Estimate:
    """What is still to be asked, and what that takes.

    Attributes:
        questions: Questions still to be asked.
        done: Questions that have come to an end in the folder.
        audio_hours: Audio that is sent (h), each clip once a question.
        input_tokens: Tokens read.
        output_tokens: Tokens written.
        seconds: Time (s), at the concurrency and rate given.
        cost: USD; None where neither prices nor earlier answers tell.
        without_transcript: Items without a transcript, whose annotators all have the instruction for audio alone.
        measured: Whether tokens, time and cost follow from answers that are there already; else from rules of thumb.
    """

    questions: int
    done: int
    audio_hours: float
    input_tokens: float
    output_tokens: float
    seconds: float
    cost: float | None
    without_transcript: int
    measured: bool

    def rows(self) -> list[tuple[str, str, str]]:
        """What, how much, and how it is known."""
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


def estimate(
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
) -> Estimate:
    """What is still to be asked for a job, and what that takes; nothing is asked and nothing written.

    Args:
        job: From `make_job`.
        out: Folder of the run, which may hold answers already: they then tell what an answer takes.
        model: Model that would be asked.
        backend: Kind of the backend (see `make_backend`).
        revision: Its revision.
        max_tokens: Most tokens of a reply.
        answers_as: Another name under which it answers.
        concurrency: Questions under way at a time, as far as the backend takes them.
        rate: Most questions a second.
        prices: What tokens cost.
        retry_rejected: Count what the server rejected before among what is asked.

    Raises:
        ValueError: A number is out of range, or the folder holds another run.
    """
    check_pace(concurrency, rate)
    check_folder(out)
    ledger = open_ledger(job, prices)
    facts = job.facts(model, revision, max_tokens)
    # the revision of a local model is known once it is loaded
    take_in(
        Path(out),
        facts,
        ledger,
        answers_as=answers_as,
        aside=("revision",) if backend == "local" or not revision else (),
    )
    if retry_rejected:
        ledger.reopen_rejected()
    answers = ledger.answers
    open_ = ledger.open(job.rows, len(job.annotators))
    clips = _seconds(job)
    audio = float(clips[open_[:, 0]].sum())
    sample = open_[np.unique(np.linspace(0, len(open_) - 1, min(SAMPLE, len(open_))).astype(int))]
    prompts = [job.prompt(int(row), int(annotator)) for row, annotator in sample]
    text = float(np.mean([len(prompt.system) + len(prompt.user) for prompt in prompts])) if prompts else 0.0
    tokens = audio * AUDIO_TOKENS + len(open_) * text / CHARACTERS, float(len(open_) * OUTPUT_TOKENS)
    if answers and ledger.input_tokens:
        tokens = tuple(len(open_) * total / answers for total in (ledger.input_tokens, ledger.output_tokens))
    cost = (
        None
        if prices is None or prices.input is None
        else ((prices.input * tokens[0] + prices.output * tokens[1]) / 1e6)
    )
    priced = answers - ledger.unpriced
    if priced > 0:
        cost = len(open_) * ledger.spent / priced
    at_once = min(concurrency, AT_ONCE.get(backend, concurrency))
    each = ledger.seconds / answers if answers else SECONDS
    return Estimate(
        questions=len(open_),
        done=len(job.rows) * len(job.annotators) - len(open_),
        audio_hours=audio / 3600,
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        seconds=max(len(open_) * each / at_once, len(open_) / rate if rate else 0.0),
        cost=cost,
        without_transcript=job.without_transcript,
        measured=bool(answers),
    )


def _seconds(job: Job) -> np.ndarray:
    """Length of every clip of the corpus (s); read from the headers where the corpus does not say."""
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
    return (
        f"{days} d {hours} h" if days else f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
    )
