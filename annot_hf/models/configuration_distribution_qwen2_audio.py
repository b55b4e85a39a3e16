"""Configuration of `DistributionQwen2Audio`, and how clip, question and transcript become its inputs."""

import json
from collections.abc import Sequence
from string import Formatter
from typing import Any, Self

import numpy as np
from transformers import BatchFeature, Qwen2AudioConfig

from .checks import check_counts, check_not_negative, options_of
from .configuration_opinion import SupportConfig
from .opinion_pipeline import pipelines_of

# Our choice, because the paper does not print its prompt.
PROMPT = (
    "Several people listened to this recording, and each answered by themselves.\nQuestion: {question}\n"
    "Possible answers: {labels}\nHow did their answers spread?"
)
PLACEHOLDERS = ("question", "labels", "transcript")


class DistributionQwen2AudioConfig(SupportConfig):
    """A distribution of opinion over labels or grid cells from an audio-language model (arXiv 2601.14620).

    The other options are those of `SupportConfig`.

    Args:
        lalm_config: Configuration of the Qwen2-Audio, or its dictionary; the library's defaults when None, which are not
            the shape of the 7B checkpoint.
        loss: Distribution loss; "jsd" as in the paper.
        entropy_weight: Adds so much of the entropy (nats) of the predictions to the loss. The authors' code has 0.08, which
            pushes towards confident predictions and so away from the raters' disagreement; 0 is ours.
        attention_heads: Heads of the attention over the sequence; the language model's width is a multiple of them.
        prompt: What the model is asked beside the audio; `{question}`, `{labels}` and `{transcript}` stand for the names of
            the questions, their answers, and the item's transcript, if the prompt is to show it.
        system: The system turn; that of the processor's chat template when None.
        transcript_characters: Characters of a transcript that are shown; what comes after them is cut off.
        lora_rank: Rank of the low-rank adapters, which are on the query, key, value and output projections of the language
            model. The defaults are the paper's, as the next one's.
        lora_dropout: Dropout before them.
        lalm_revision: Commit on the Hub of the Qwen2-Audio that this started from; None of a folder.
        **kwargs: Options of `SupportConfig`.

    Raises:
        ValueError: An option is out of range, the prompt has a placeholder that there is not, the width is not a multiple
            of the heads, or the questions do not go together.
    """

    model_type = "annot-distribution-qwen2-audio"
    sub_configs = {"lalm_config": Qwen2AudioConfig}
    keys_to_ignore_at_inference = ["logits"]

    lalm_config: dict | Qwen2AudioConfig | None = None
    loss: str = "jsd"
    entropy_weight: float = 0.0
    attention_heads: int = 8
    prompt: str = PROMPT
    system: str | None = None
    transcript_characters: int = 1000
    lora_rank: int = 8
    lora_dropout: float = 0.2
    lalm_revision: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_not_negative(entropy_weight=self.entropy_weight)
        check_counts(**options_of(self, "attention_heads", "transcript_characters"))
        check_prompt(self.prompt)
        if not (self.system is None or isinstance(self.system, str)):
            raise ValueError(f"system is {self.system!r}; give text, or None for the processor's own.")
        if not isinstance(self.lalm_config, Qwen2AudioConfig):
            self.lalm_config = Qwen2AudioConfig(**(self.lalm_config or {}))
        if self.hidden_size % self.attention_heads:
            raise ValueError(
                f"attention_heads is {self.attention_heads} and the language model {self.hidden_size} wide; give a number of "
                "heads that divides it."
            )
        super().__post_init__(**kwargs)
        # not what a file says: the name of code to run
        self.custom_pipelines = pipelines_of(self.trunk_config)

    @property
    def hidden_size(self) -> int:
        """Width of the language model."""
        return self.lalm_config.text_config.hidden_size

    @property
    def trunk_config(self) -> Self:
        """What decides how items become inputs: this configuration, its prompt included."""
        return self


def check_prompt(prompt: str) -> None:
    """Raise a ValueError unless a prompt is text with only known placeholders, each written plain."""
    try:
        parts = [part for part in Formatter().parse(prompt) if part[1] is not None]
    except (TypeError, ValueError) as error:
        raise ValueError(f"prompt is {prompt!r}, which cannot be read ({error}); write {{{{ for a brace.") from None
    for _, name, spec, conversion in parts:
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            raise ValueError(f"prompt has the placeholder {{{name}}}; use {known}, and write {{{{ for a brace.")
        if spec or conversion:
            raise ValueError(
                f"prompt formats the placeholder {{{name}}}, which could cut a transcript out of its quotes; write it plain."
            )


def shows_transcript(config: DistributionQwen2AudioConfig) -> bool:
    """Whether the prompt has a place for the transcript."""
    return any(name == "transcript" for _, name, *_ in Formatter().parse(config.prompt))


def as_data(text: str, tokens: Sequence[str]) -> str:
    """`text` as a JSON string that contains none of `tokens`, such as `<|im_end|>`; `json.loads` returns the text."""
    quoted = json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False)
    for token in sorted(filter(None, tokens), key=len, reverse=True):
        quoted = quoted.replace(token, f"\\u{ord(token[0]):04x}{token[1:]}")
    return quoted


def conversation(
    config: DistributionQwen2AudioConfig, tokens: Sequence[str], transcript: str = ""
) -> list[dict[str, Any]]:
    """The turns of a chat that asks about one clip; none of `tokens`, the tokenizer's own ones, may be in them."""
    asked = config.questions
    labels = ", ".join(config.support)
    if config.is_scale:
        labels = "; ".join(f"{scale['name']} from {scale['low']:g} to {scale['high']:g}" for scale in asked)
    said = {"question": " and ".join(each.get("prompt") or each["name"] for each in asked), "labels": labels}
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
    config: DistributionQwen2AudioConfig,
    processor: Any,
    waves: Sequence[np.ndarray],
    transcripts: Sequence[str | None] | None = None,
    *,
    tensors: str | None = "pt",
) -> BatchFeature:
    """The inputs of `DistributionQwen2Audio`, in `tensors` ("pt" or "np"), from its `Qwen2AudioProcessor`.

    `waves` are samples of each clip `(time,)`, floating-point with full scale at 1, at the processor's rate, at most 30 s;
    `transcripts` say what is said in each, None where it is not known.
    """
    extractor, tokens = processor.feature_extractor, list(processor.tokenizer.get_added_vocab())
    if isinstance(transcripts, str):
        raise ValueError(f"transcripts is {transcripts!r}; give a list, one a clip.")
    transcripts = [None] * len(waves) if transcripts is None else list(transcripts)
    if not len(waves):
        raise ValueError("There is no clip; give one at least.")
    for text in transcripts:
        if not isinstance(text, str | None):
            raise ValueError(f"A transcript is {text!r}; give text, or None where it is not known.")
    if len(transcripts) != len(waves):
        raise ValueError(f"There are {len(transcripts)} transcripts for {len(waves)} clips; give one a clip, or None.")
    clips = []
    for number, wave in enumerate(map(np.asarray, waves)):
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
        # 0.1 s at least, because the library takes a clip of one token for text.
        least = round(0.1 * extractor.sampling_rate)
        clips.append(np.pad(wave, (0, max(least - len(wave), 0))))
    turns = [conversation(config, tokens, transcript or "") for transcript in transcripts]
    texts = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return processor(
        text=texts, audio=clips, sampling_rate=extractor.sampling_rate, padding=True, return_tensors=tensors
    )


DistributionQwen2AudioConfig.register_for_auto_class()
