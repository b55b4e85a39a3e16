"""Prompts of an audio-language model: how clip, question and transcript become its inputs.

A transcript is data. It is shown as a JSON string of limited length, in which special tokens of the tokenizer, such as
`<|im_end|>`, are escaped: the text stays the same and never becomes a control token.
"""

import json
from collections.abc import Sequence
from string import Formatter
from typing import Any

import numpy as np
from transformers import BatchFeature

# Our choice, because the paper does not print its prompt.
PROMPT = (
    "Several people listened to this recording, and each answered by themselves.\nQuestion: {question}\n"
    "Possible answers: {labels}\nHow did their answers spread?"
)
PLACEHOLDERS = ("question", "labels", "transcript")
LEAST_SECONDS = (
    # Shorter clips are padded with silence, because the library takes a clip of one token for text.
    0.1
)


def check_prompt(prompt: str) -> None:
    """Raise unless a prompt is text with only known placeholders.

    Raises:
        ValueError: It is not.
    """
    try:
        parts = [part for part in Formatter().parse(prompt) if part[1] is not None]
    except (TypeError, ValueError) as error:
        raise ValueError(f"prompt is {prompt!r}, which cannot be read ({error}); write {{{{ for a brace.") from None
    unknown = [name for _, name, *_ in parts if name not in PLACEHOLDERS]
    if unknown:
        raise ValueError(
            f"prompt has the placeholder {{{unknown[0]}}}; use {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}, and "
            "write {{ for a brace."
        )
    formatted = [name for _, name, spec, conversion in parts if spec or conversion]
    if formatted:
        raise ValueError(
            f"prompt formats the placeholder {{{formatted[0]}}}, which could cut a transcript out of its quotes; write it "
            "plain."
        )


def shows_transcript(config: Any) -> bool:
    """Whether the prompt of a `DistributionQwen2AudioConfig` has a place for the transcript."""
    return any(name == "transcript" for _, name, *_ in Formatter().parse(config.prompt))


def as_data(text: str, tokens: Sequence[str]) -> str:
    """`text` as a JSON string that contains none of `tokens`; `json.loads` returns the text."""
    quoted = json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False)
    for token in sorted(filter(None, tokens), key=len, reverse=True):
        quoted = quoted.replace(token, f"\\u{ord(token[0]):04x}{token[1:]}")
    return quoted


def conversation(config: Any, tokens: Sequence[str], transcript: str = "") -> list[dict[str, Any]]:
    """The turns of a chat that asks the question of a `DistributionQwen2AudioConfig` about one clip.

    Args:
        config: The configuration.
        tokens: Spellings of the tokenizer's own tokens.
        transcript: What is said in the clip; empty where it is not known.

    Raises:
        ValueError: The prompt, the system turn, a question or a label spells one of the tokens.
    """
    questions = config.questions
    scales = [question for question in questions if "low" in question]
    spans = [f"{scale['name']} from {scale['low']:g} to {scale['high']:g}" for scale in scales]
    said = {
        "question": " and ".join(question.get("prompt") or question["name"] for question in questions),
        "labels": "; ".join(spans) if spans else ", ".join(config.support),
    }
    for text in (config.prompt.format(**said, transcript=""), config.system or ""):
        for token in tokens:
            if token in text:
                raise ValueError(
                    f"The prompt reads {text!r}, and {token} is a token of its own for this tokenizer; leave it out of "
                    "prompt, system, question and labels."
                )
    shown = as_data(transcript[: config.transcript_characters], tokens)
    content = [{"type": "audio"}, {"type": "text", "text": config.prompt.format(**said, transcript=shown)}]
    system = [] if config.system is None else [{"role": "system", "content": config.system}]
    return [*system, {"role": "user", "content": content}]


def prepare_inputs(
    config: Any,
    processor: Any,
    waves: Sequence[np.ndarray],
    transcripts: Sequence[str | None] | None = None,
    *,
    tensors: str | None = "pt",
) -> BatchFeature:
    """The inputs of `DistributionQwen2Audio` for clips.

    Args:
        config: Its configuration, which holds the prompt.
        processor: The checkpoint's `Qwen2AudioProcessor`.
        waves: Samples of each clip `(time,)`, floating-point with full scale at 1, at the processor's rate, at most as long
            as it takes (30 s).
        transcripts: What is said in each; None where it is not known, which shows as an empty one.
        tensors: "pt", or "np".

    Returns:
        `input_ids` and `attention_mask` `(B, T)`, `input_features` `(B, 128, 3000)`, `feature_attention_mask` `(B, 3000)`.

    Raises:
        ValueError: A clip is not one channel of samples, or too long; the transcripts are not as many; a prompt spells a
            control token.
    """
    extractor, tokens = processor.feature_extractor, list(processor.tokenizer.get_added_vocab())
    if isinstance(transcripts, str):
        raise ValueError(f"transcripts is {transcripts!r}; give a list, one a clip.")
    transcripts = [None] * len(waves) if transcripts is None else list(transcripts)
    if not len(waves):
        raise ValueError("There is no clip; give one at least.")
    odd = [text for text in transcripts if text is not None and not isinstance(text, str)]
    if odd:
        raise ValueError(f"A transcript is {odd[0]!r}; give text, or None where it is not known.")
    if len(transcripts) != len(waves):
        raise ValueError(f"There are {len(transcripts)} transcripts for {len(waves)} clips; give one a clip, or None.")
    clips = []
    for number, wave in enumerate(waves):
        wave = np.asarray(wave)
        if wave.dtype.kind != "f":
            raise ValueError(
                f"Clip {number} has {wave.dtype} samples; give floating-point ones with full scale at 1 (int16 over 32768)."
            )
        wave = wave.astype(np.float32)
        if wave.ndim != 1 or not 0 < len(wave) <= extractor.n_samples:
            raise ValueError(
                f"Clip {number} has shape {wave.shape}; give one channel of 1 to {extractor.n_samples} samples, "
                f"{extractor.n_samples / extractor.sampling_rate:g} s at {extractor.sampling_rate} Hz."
            )
        if not np.isfinite(wave).all():
            raise ValueError(f"Clip {number} holds NaN or infinity; samples must be finite.")
        least = round(LEAST_SECONDS * extractor.sampling_rate)
        clips.append(np.pad(wave, (0, max(least - len(wave), 0))))
    texts = [
        processor.apply_chat_template(
            conversation(config, tokens, transcript or ""), add_generation_prompt=True, tokenize=False
        )
        for transcript in transcripts
    ]
    return processor(
        text=texts, audio=clips, sampling_rate=extractor.sampling_rate, padding=True, return_tensors=tensors
    )
