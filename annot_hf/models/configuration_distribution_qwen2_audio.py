"""Configuration of `DistributionQwen2Audio`."""

from typing import Any, Self

from transformers import Qwen2AudioConfig

from .checks import check_counts, check_not_negative
from .configuration_opinion import SupportConfig
from .prompting import PROMPT, check_prompt


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
        check_counts(attention_heads=self.attention_heads, transcript_characters=self.transcript_characters)
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

    @property
    def hidden_size(self) -> int:
        """Width of the language model."""
        return self.lalm_config.text_config.hidden_size

    @property
    def trunk_config(self) -> Self:
        """What decides how items become inputs: this configuration, its prompt included."""
        return self


DistributionQwen2AudioConfig.register_for_auto_class()
