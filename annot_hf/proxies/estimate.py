"""What a run of `annotate` takes: questions, audio, tokens, time and cost, before anything is asked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from annot_hf.data.audio import audio_info
from annot_hf.data.synthetic import check_annotations_folder
from annot_hf.proxies.annotate import check_pace
from annot_hf.proxies.backend import AT_ONCE, Prices
from annot_hf.proxies.job import Job
from annot_hf.proxies.store import read_store

# tokens per second of audio, as for Gemini; Qwen2-Audio has 25
TOKENS_PER_SECOND = 32
# characters per token of English text, about
CHARACTERS = 4
# tokens of a label
OUTPUT_TOKENS = 5
# seconds (s) per answer, before any was measured
SECONDS = 2.0
# questions whose prompts are measured
SAMPLE = 200


@dataclass(frozen=True)
class RunEstimate:
    """What is left to ask, and what it takes: (s), (h) and (USD)."""

    questions: int
    done: int
    # each clip counts once per question
    audio_hours: float
    input_tokens: float
    output_tokens: float
    # at the concurrency and rate given
    seconds: float
    # None without prices or earlier answers to tell it from
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
    answers = totals.answers
    clips = _seconds(job)
    audio = float(clips[open_[:, 0]].sum())
    sample = open_[np.unique(np.linspace(0, len(open_) - 1, min(SAMPLE, len(open_))).astype(int))]
    prompts = [job.prompt(int(row), int(annotator)) for row, annotator in sample]
    text = float(np.mean([len(prompt.system) + len(prompt.user) for prompt in prompts])) if prompts else 0.0
    tokens = audio * TOKENS_PER_SECOND + len(open_) * text / CHARACTERS, float(len(open_) * OUTPUT_TOKENS)
    if answers and totals.input_tokens:
        tokens = tuple(len(open_) * total / answers for total in (totals.input_tokens, totals.output_tokens))
    if answers > totals.unpriced:
        cost = len(open_) * totals.spent / (answers - totals.unpriced)
    else:
        cost = (prices or Prices()).cost(None, *tokens)
    at_once = min(concurrency, AT_ONCE.get(backend, concurrency))
    each = totals.seconds / answers if answers else SECONDS
    return RunEstimate(
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
