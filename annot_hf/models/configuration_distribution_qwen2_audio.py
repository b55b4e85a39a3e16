"""Configuration of `DistributionQwen2Audio`."""

from collections.abc import Sequence
from typing import Any, Self

from transformers import Qwen2AudioConfig

from .checks import check_counts, check_not_negative
from .configuration_opinion import SupportConfig
from .prompting import PROMPT, check_prompt


class DistributionQwen2AudioConfig(SupportConfig):
    """A distribution of opinion over labels or grid cells from an audio-language model (arXiv 2601.14620).

    Args:
        lalm_config: Configuration of the Qwen2-Audio, or its dictionary; the library's defaults when None, which are not
            the shape of the 7B checkpoint.
        questions: The questions answered; see `SupportConfig`, also for the next four.
        bins: Grid cells per scale question.
        loss: Distribution loss; "jsd" as in the paper.
        class_weights: Weight of each entry of the support in it.
        jsd_share: How much of it is 4 JSD instead.
        entropy_weight: Adds so much of the entropy (nats) of the predictions to the loss. The authors' code has 0.08, which
            pushes towards confident predictions and so away from the raters' disagreement; 0 is ours.
        attention_heads: Heads of the attention over the sequence; the language model's width is a multiple of them.
        prompt: What the model is asked beside the audio; `{question}`, `{labels}` and `{transcript}` stand for the names of
            the questions, their answers, and the item's transcript, if the prompt is to show it.
        system: The system turn; that of the processor's chat template when None.
        transcript_characters: Characters of a transcript that are shown; what comes after them is cut off.
        lora_rank: Rank of the low-rank adapters, which are on the query, key, value and output projections of the language
            model; see `SupportConfig`, also for the next two. The defaults are the paper's.
        lora_alpha: Scale of the adapters.
        lora_dropout: Dropout before them.
        lalm_revision: Commit on the Hub of the Qwen2-Audio that this started from; None of a folder.
        **kwargs: Passed on.

    Raises:
        ValueError: An option is out of range, the prompt has a placeholder that there is not, the width is not a multiple
            of the heads, or the questions do not go together.
    """

    model_type = "annot-distribution-qwen2-audio"
    sub_configs = {"lalm_config": Qwen2AudioConfig}
    keys_to_ignore_at_inference = ["logits"]

    def __init__(
        self,
        lalm_config: dict | Qwen2AudioConfig | None = None,
        questions: Sequence[dict[str, Any]] = (),
        bins: int = 4,
        loss: str = "jsd",
        class_weights: Sequence[float] | None = None,
        jsd_share: float = 0.0,
        entropy_weight: float = 0.0,
        attention_heads: int = 8,
        prompt: str = PROMPT,
        system: str | None = None,
        transcript_characters: int = 1000,
        lora_rank: int = 8,
        lora_alpha: float = 16.0,
        lora_dropout: float = 0.2,
        lalm_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_not_negative(entropy_weight=entropy_weight)
        check_counts(attention_heads=attention_heads, transcript_characters=transcript_characters)
        check_prompt(prompt)
        if not (system is None or isinstance(system, str)):
            raise ValueError(f"system is {system!r}; give text, or None for the processor's own.")
        if not isinstance(lalm_config, Qwen2AudioConfig):
            lalm_config = Qwen2AudioConfig(**(lalm_config or {}))
        self.lalm_config = lalm_config
        if self.hidden_size % attention_heads:
            raise ValueError(
                f"attention_heads is {attention_heads} and the language model {self.hidden_size} wide; give a number of heads "
                "that divides it."
            )
        self.entropy_weight = entropy_weight
        self.attention_heads = attention_heads
        self.prompt = prompt
        self.system = system
        self.transcript_characters = transcript_characters
        self.lalm_revision = lalm_revision
        lora = {"lora_rank": lora_rank, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}
        asked = {"questions": questions, "bins": bins, "loss": loss, "class_weights": class_weights}
        super().__init__(jsd_share=jsd_share, **asked, **lora, **kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the language model."""
        return self.lalm_config.text_config.hidden_size

    @property
    def trunk_config(self) -> Self:
        """What decides how items become inputs: this configuration, its prompt included."""
        return self


DistributionQwen2AudioConfig.register_for_auto_class()
