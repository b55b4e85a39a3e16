"""One distribution of opinion per clip, from an audio-language model."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from transformers import BatchFeature, Qwen2AudioForConditionalGeneration
from transformers.utils.hub import resolve_revision

from .adapters import Adaptable
from .configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig, prepare_inputs
from .configuration_opinion import SupportConfig
from .heads import SequenceHead
from .losses import EPSILON
from .measures import entropy
from .modeling_opinion import SupportModel, odd_weights
from .outputs import DistributionOutput
from .trunks import read_trunk_config


class DistributionQwen2Audio(SupportModel):
    """Softmax over the support on the hidden states of a Qwen2-Audio, trained on the distribution of votes.

    The model of arXiv 2601.14620 (section 4 and the authors' code). The language model's own output layer is left out: no
    scores over its 156,032 tokens are formed, and no weight is without a gradient. The weights of the head stay in single
    precision whatever the rest is in; steps as small as the paper's vanish in bfloat16.

    Example:
        >>> from annot_hf import DistributionQwen2Audio
        >>> emotion = {"name": "emotion", "labels": ["angry", "happy", "neutral", "sad"]}
        >>> model = DistributionQwen2Audio.from_lalm("Qwen/Qwen2-Audio-7B-Instruct", questions=[emotion])  # doctest: +SKIP
        >>> model(**model.prepare(processor, [wave])).probs.shape  # doctest: +SKIP
        torch.Size([1, 4])
    """

    config_class = DistributionQwen2AudioConfig
    base_model_prefix = "lalm"
    # and not the audio tower's of these names
    lora_targets = r".*language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    loss_inputs = ("labels",)
    _keep_in_fp32_modules_strict = {"distribution_head"}
    _keys_to_ignore_on_load_unexpected = [r"lm_head\.weight$"]
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: DistributionQwen2AudioConfig) -> None:
        super().__init__(config)
        self.lalm = Qwen2AudioForConditionalGeneration(config.lalm_config)
        self.lalm.lm_head = nn.Identity()
        self.distribution_head = SequenceHead(config.hidden_size, len(config.support), config.attention_heads)
        self.post_init()

    @classmethod
    def from_lalm(
        cls,
        source: str | os.PathLike[str],
        *,
        questions: Sequence[dict[str, Any]],
        revision: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> Self:
        """A model over a plain Qwen2-Audio checkpoint, with a fresh head.

        Args:
            source: Hub id or folder, such as "Qwen/Qwen2-Audio-7B-Instruct".
            questions: The questions, as dictionaries.
            revision: Branch, tag or commit on the Hub. The commit that it stands for is kept: adapters are read onto it.
            dtype: Precision of all but the head. Weights that are trained need float32; under adapters, and to predict,
                `torch.bfloat16` halves the memory.
            attn_implementation: "sdpa", "eager" or "flash_attention_2"; the library's choice when None.
            **options: Any option of `DistributionQwen2AudioConfig`.

        Raises:
            ValueError: There is no such checkpoint, it is not a whole Qwen2-Audio, or there is no such option.
        """
        known = {*SupportConfig.__annotations__, *cls.config_class.__annotations__}
        known -= {"adapted_from", "lalm_config", "lalm_revision"}
        unknown = set(options) - known
        if unknown:
            raise ValueError(f"There is no option {min(unknown)!r}; there are {', '.join(sorted(known))}.")
        source = os.fspath(source)
        revision = resolve_revision(source, revision)
        lalm_config = read_trunk_config(source, revision)
        if lalm_config.model_type != "qwen2_audio":
            raise ValueError(
                f"{source} is a {lalm_config.model_type}; give a plain Qwen2-Audio, such as Qwen/Qwen2-Audio-7B-Instruct."
            )
        config = cls.config_class(lalm_config=lalm_config, questions=questions, **options)
        model = cls.over_base(config, source, revision, dtype=dtype, attn_implementation=attn_implementation)
        model.settle(source, revision)
        model.config.lalm_revision = model.came_from[1]
        return model.eval()

    @classmethod
    def over_base(cls, config: DistributionQwen2AudioConfig, base: str, revision: str | None, **how: Any) -> Self:
        """A model of this configuration on the weights of a Qwen2-Audio, plain or of this class, with a fresh head."""
        how |= {"ignore_mismatched_sizes": True, "output_loading_info": True, "use_safetensors": True}
        log = logging.getLogger("transformers.modeling_utils")
        level = log.level
        # its table of weights would say that the head is missing, which is fresh or comes with the adapters
        log.setLevel(logging.ERROR)
        try:
            model, info = super(Adaptable, cls).from_pretrained(base, config=config, revision=revision, **how)
        except OSError as error:
            raise ValueError(f"{base} has no weights in safetensors ({error}); give a whole checkpoint.") from error
        finally:
            log.setLevel(level)
        odd = [name for name in odd_weights(info) if not name.startswith("distribution_head.")]
        if odd:
            raise ValueError(
                f"{base} is not a whole Qwen2-Audio: {len(odd)} weights differ, for instance {odd[0]}; give a plain "
                "checkpoint."
            )
        return model

    def settle(self, source: str | None, revision: str | None = None) -> None:
        """As for every model, and what the library's loading leaves otherwise than a new model has it."""
        # a fresh head comes in the precision of the rest
        self.distribution_head.float()
        # sinusoids
        self.lalm.model.audio_tower.embed_positions.requires_grad_(False)
        super().settle(source, revision)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As every model's, but weights keep the names that they have here, and not those of older checkpoints."""
        # `Trainer` translates no names, and would resume from a fresh language model with a warning.
        super().save_pretrained(save_directory, *args, **{"save_original_format": False, **kwargs})

    def enable_input_require_grads(self) -> None:
        """For checkpointed layers, of the language model only: the library's would send gradients through the audio tower."""
        self.lalm.model.language_model.enable_input_require_grads()

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        self.lalm.model.language_model.disable_input_require_grads()

    def prepare(
        self, processor: Any, waves: Sequence[np.ndarray], transcripts: Sequence[str | None] | None = None
    ) -> BatchFeature:
        """Inputs of `forward` for clips, on the model's device; see `prepare_inputs`."""
        return prepare_inputs(self.config, processor, waves, transcripts).to(self.device)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        feature_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> DistributionOutput:
        """Predict `probs` and `logits`, and compute the `loss` if there are target distributions.

        Args:
            input_ids: Tokens `(B, T)`, with as many audio tokens as each clip needs, as the processor writes them.
            attention_mask: 1 where a token is real `(B, T)`, all of them when None; padding may be on either side.
            input_features: Log-mel frames `(B, 128, 3000)`, one clip an item.
            feature_attention_mask: 1 where they are real `(B, 3000)`.
            labels: Target distributions `(B, K)`.
            return_dict: Only True is supported.

        Raises:
            ValueError: There is no audio, it has another shape, or an item has not as many audio tokens as its clip, or the
                mask hides some.
        """
        clips = {"input_features": input_features, "feature_attention_mask": feature_attention_mask}
        mask = self._check_inputs(input_ids, attention_mask, clips)
        core = self.lalm.model
        states = core(
            input_ids=input_ids,
            attention_mask=mask,
            input_features=input_features.to(core.audio_tower.conv1.weight.dtype),
            feature_attention_mask=feature_attention_mask,
            # The same positions whichever side is padded.
            position_ids=(mask.cumsum(-1) - 1).clip(0),
            use_cache=False,
        ).last_hidden_state
        logits = self.distribution_head(states, mask.bool())
        predicted = {"probs": self._smoothed(logits.float().softmax(-1)), "logits": logits}
        return DistributionOutput(loss=self.loss_of(predicted, {"labels": labels}), **predicted)

    def loss_of(self, predicted: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> torch.Tensor | None:
        """Loss of what `forward` predicts, with the entropy term, also of several batches joined; None without labels."""
        if given.get("labels") is None:
            return None
        loss, weight = self._distribution_loss(predicted["probs"], given), self.config.entropy_weight
        return loss + weight * entropy(predicted["probs"] + EPSILON).mean() if weight else loss

    def _check_inputs(
        self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, clips: dict[str, torch.Tensor | None]
    ) -> torch.Tensor:
        """The mask of tokens, once each item is seen to have a clip and as many visible audio tokens as that needs."""
        for name, value in ({"input_ids": input_ids} | clips).items():
            # The library would answer from the text alone.
            if value is None:
                raise ValueError(
                    f"A Qwen2-Audio takes a clip with each prompt, and {name} is missing; make the inputs with "
                    "model.prepare(processor, waves)."
                )
        items, given = len(input_ids), len(clips["input_features"])
        if given != items:
            raise ValueError(f"There are {items} prompts and {given} clips; give one clip with each prompt.")
        config, tower = self.config.lalm_config, self.lalm.model.audio_tower
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        frames = 2 * config.audio_config.max_source_positions
        shapes = {
            "attention_mask": tuple(input_ids.shape),
            "input_features": (items, config.audio_config.num_mel_bins, frames),
            "feature_attention_mask": (items, frames),
        }
        for name, value in ({"attention_mask": mask} | clips).items():
            if tuple(value.shape) != shapes[name]:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, and this model takes {shapes[name]}; make the inputs with "
                    "model.prepare(processor, waves) and the processor of its checkpoint."
                )
        lengths = clips["feature_attention_mask"].sum(-1).long()
        needed = tower._get_feat_extract_output_lengths(lengths)[1].to(input_ids.device)
        audio_tokens = input_ids == config.audio_token_index
        hidden = (audio_tokens & (mask == 0)).sum(1)
        if hidden.any():
            item = int(hidden.nonzero()[0])
            raise ValueError(
                f"The attention mask of item {item} of the batch hides {int(hidden[item])} of its audio tokens; make the "
                "inputs with model.prepare(processor, waves)."
            )
        there = audio_tokens.sum(1)
        wrong = ((there != needed) | (needed < 2)).nonzero()
        if len(wrong):
            item = int(wrong[0])
            raise ValueError(
                f"Item {item} of the batch has {int(there[item])} audio tokens and its clip needs {int(needed[item])} (2 at "
                "least); make the inputs with model.prepare(processor, waves)."
            )
        return mask


DistributionQwen2Audio.register_for_auto_class("AutoModel")
