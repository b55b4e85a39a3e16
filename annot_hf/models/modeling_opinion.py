"""What all models share: the loss, the trunk, its pooling and the shared embedding below the heads; and reading them back."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, initialization as init
from transformers.utils import ModelOutput

from .access import read_object, said
from .adapters import LORA_TARGETS, Adaptable, import_peft
from .checks import check_attention
from .configuration_opinion import OpinionConfig, SupportConfig
from .heads import BayesianLinear, LayerSum, MeanPooling, init_as_torch, make_embedding, make_pooling
from .losses import BATCH_LOSSES, distribution_loss
from .measures import mixture
from .trunks import WEIGHTED, build_trunk, call_trunk, input_name_of, load_trunk_weights, read_trunk_config


class SupportModel(Adaptable):
    """Base of all models: a configuration with questions, and the loss of a distribution over their support."""

    supports_gradient_checkpointing = True
    # The losses are means over the batch, so Trainer must divide by the accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: SupportConfig) -> None:
        check_attention(config)
        super().__init__(config)
        if not config.questions:
            raise ValueError('The configuration asks no question; give questions=[{"name": ..., "labels": [...]}].')

    @property
    def loss_spans_batch(self) -> bool:
        """Whether the loss compares the items of a batch with each other, so that its size matters (CCC)."""
        return self.config.loss in BATCH_LOSSES

    def _distribution_loss(self, probs: torch.Tensor, given: Mapping[str, torch.Tensor | None]) -> torch.Tensor:
        """The configuration's loss of `probs` `(B, K)`, a scalar; `given` has `labels` and may have `item_weights`."""
        config, weights = self.config, given.get("item_weights")
        options = {"class_weights": config.class_weights, "item_weights": weights, "jsd_share": config.jsd_share}
        return distribution_loss(probs, given["labels"], config.loss, **options)

    def _smoothed(self, probs: torch.Tensor) -> torch.Tensor:
        """Predicted distributions `(B, K)` with the configuration's share of the marginal, as they are in training mode."""
        share = 0.0 if self.training else self.config.marginal_share
        return mixture(probs, probs.new_tensor(self.config.marginal), share) if share else probs

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_as_torch(module)


class OpinionPreTrainedModel(SupportModel):
    """Base of the models over a trunk: `embed` turns inputs into one vector per item."""

    config_class = OpinionConfig
    base_model_prefix = "trunk"
    # The trunk decides.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(self, config: OpinionConfig) -> None:
        super().__init__(config)
        self.main_input_name = input_name_of(config.trunk_config)
        self._build()

    def _build(self) -> None:
        """Build the layers below the heads."""
        self._build_trunk()
        self.pooling = make_pooling(self.config)
        self.embedding = make_embedding(self.config, self.pooling.output_size)
        plain = self.config.embedding_kind == "none"
        self.width = self.pooling.output_size if plain else self.config.embedding_size

    def _build_trunk(self, **options: bool) -> None:
        trunk, layer = self.config.trunk_config, self.config.trunk_layer
        self.trunk = build_trunk(trunk, layer, **options)
        self.layer_sum = LayerSum(trunk.num_hidden_layers + 1) if layer == WEIGHTED else None

    @property
    def trunks(self) -> list[PreTrainedModel]:
        """The trunks of the model: one, or several for an ensemble of whole models."""
        return [self.trunk]

    @classmethod
    def from_trunk(cls, trunk: str, *, questions: list[dict[str, Any]], **options: Any) -> Self:
        """A model over a pre-trained trunk, with fresh heads.

        Args:
            trunk: Hub id or folder of a plain checkpoint, such as "microsoft/wavlm-base-plus".
            questions: The questions, as dictionaries.
            **options: Any option of the configuration class.

        Raises:
            ValueError: There is no such checkpoint, its family is not supported, or it lacks the trunk's weights.
        """
        trunk_config = read_trunk_config(trunk)
        model = cls(cls.config_class(trunk_config=trunk_config, questions=questions, **options))
        first, *others = model.trunks
        load_trunk_weights(first, trunk)
        for other in others:
            other.load_state_dict(first.state_dict())
        model.settle(trunk)
        return model.eval()

    @property
    def lora_targets(self) -> str:
        """Regular expression of the layers of the trunk that get adapters; a ValueError if nobody knows which."""
        kind = self.config.trunk_config.model_type
        known = import_peft().utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING | LORA_TARGETS
        if kind not in known:
            raise ValueError(
                f"There are no adapters for a {kind} trunk; train all its weights (lora_rank=0), or use one of "
                f"{', '.join(LORA_TARGETS)}."
            )
        return rf"trunk\..*\.({'|'.join(map(re.escape, known[kind]))})"

    @classmethod
    def over_base(cls, config: OpinionConfig, base: str, revision: str | None, **how: Any) -> Self:
        """A model of this configuration on the trunk's weights of a base, plain or of this class, with fresh heads."""
        if how.pop("device_map", None) is not None:
            raise ValueError("device_map is given, which adapters do not take; call .to(device) on the loaded model")
        model = cls._from_config(config, **how)
        if PreTrainedConfig.get_config_dict(base, revision=revision)[0].get("model_type") == config.model_type:
            model.trunk.load_state_dict(cls.from_pretrained(base, revision=revision).trunk.state_dict())
        else:
            load_trunk_weights(model.trunk, base, revision)
        return model

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for a frozen trunk: its weights, dropout and running statistics stay as they are."""
        super().train(mode)
        if self.config.freeze_trunk:
            for trunk in self.trunks:
                trunk.requires_grad_(False)
                trunk.eval()
        return self

    def frames(self, **inputs: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames `(B, T, H)` of the chosen layers from the trunk's inputs, and True where they are real `(B, T)`."""
        several = self.config.trunk_layer == WEIGHTED or isinstance(self.config.trunk_layer, list)
        output, mask = call_trunk(self.trunk, **inputs, **({"output_hidden_states": True} if several else {}))
        return self._chosen(output), mask

    def _chosen(self, output: ModelOutput) -> torch.Tensor:
        """The frames of the chosen layers in the trunk's output: the last, several side by side, or the sum of all."""
        layer = self.config.trunk_layer
        if self.layer_sum is not None:
            return self.layer_sum(output.hidden_states)
        if isinstance(layer, list):
            return self._rounded(torch.cat([output.hidden_states[k] for k in layer], -1))
        return self._rounded(output.last_hidden_state)

    def attended(self, **inputs: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The result of `frames`, and the share of each input position in each frame `(B, T, T)`: the heads' mean attention.

        That of the last layer used, or of all, weighted as these are; None without attention, where frames stand for
        themselves.
        """
        if self.main_input_name == "input_features":
            return *self.frames(**inputs), None
        before = self.trunk.config._attn_implementation
        # Faster kernels never form the matrix.
        self.trunk.set_attn_implementation("eager")
        try:
            output, mask = call_trunk(self.trunk, output_hidden_states=True, output_attentions=True, **inputs)
        finally:
            self.trunk.set_attn_implementation(before)
        attentions = [attention.mean(1) for attention in output.attentions or ()]
        if len(attentions) != self.trunk.config.num_hidden_layers:
            raise ValueError(f"A {self.trunk.config.model_type} trunk does not tell its attention; leave explain out.")
        shares = attentions[-1] if attentions else None
        if self.layer_sum is not None:
            identity = torch.eye(mask.shape[1], device=mask.device).expand(len(mask), -1, -1)
            shares = self.layer_sum([identity, *attentions])
        return self._chosen(output), mask, shares

    def embed(
        self,
        trunk_frames: torch.Tensor | None = None,
        trunk_mask: torch.Tensor | None = None,
        **inputs: torch.Tensor | None,
    ) -> torch.Tensor:
        """One vector per item `(B, width)` from the trunk's inputs, or from precomputed frames instead.

        `trunk_frames` are what `frames` gave `(B, T, H)`, or its mean over time `(B, 1, H)`; `trunk_mask` is True where they
        are real `(B, T)`, everywhere when None.
        """
        return self._embedded(self, *self._frames_or(trunk_frames, trunk_mask, **inputs))

    def _frames_or(
        self, trunk_frames: torch.Tensor | None, trunk_mask: torch.Tensor | None, **inputs: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The given frames and their mask, or those of the inputs."""
        if trunk_frames is None:
            return self.frames(**inputs)
        shape, width = tuple(trunk_frames.shape), self.config.frame_size
        if len(shape) != 3 or shape[-1] != width:
            raise ValueError(
                f"trunk_frames has shape {shape}; give frames of this model's trunk, (items, frames, {width})."
            )
        frames = trunk_frames.to(self.dtype)
        return frames, torch.ones_like(frames[..., 0]).bool() if trunk_mask is None else trunk_mask.bool()

    def _embedded(self, part: nn.Module, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One vector per item `(B, width)` through the pooling and embedding of `part`."""
        pooled = part.pooling(frames, mask)
        return part.embedding(self._rounded(pooled) if isinstance(part.pooling, MeanPooling) else pooled)

    def _rounded(self, values: torch.Tensor) -> torch.Tensor:
        """A frozen trunk's frames of one layer, or their mean, in the half precision in which a cache gives them to heads."""
        kept = self.config.freeze_trunk and self.config.trunk_layer != WEIGHTED
        return values.half().to(values.dtype) if kept else values

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LayerSum):
            init.zeros_(module.scores)
        elif isinstance(module, BayesianLinear):
            # The means start like a linear layer, with deviations of softplus(-3), 0.049.
            bound = 1 / math.sqrt(module.mu.shape[1] - 1)
            init.uniform_(module.mu, -bound, bound)
            init.constant_(module.rho, -3.0)


def read_checkpoint(
    folder: Path, kinds: Mapping[str, type[PreTrainedModel]] | None = None, *, give: str, fix: str
) -> tuple[PreTrainedModel, list[str]]:
    """The model in a checkpoint folder, whose code is not run, and the names of weights that do not fit its configuration.

    It is of one of these `kinds`, by type (members of an ensemble), or any that the Auto classes know; errors end with `give`
    or `fix`.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a checkpoint folder: it has no config.json; give {give}.")
    kind = read_object(path, fix).get("model_type")
    if kinds is not None and kind not in kinds:
        known = " or ".join(one.__name__ for one in kinds.values())
        raise ValueError(f"{folder} holds a model of type {kind!r}; members are checkpoints of {known}.")
    configs, models = (AutoConfig, AutoModel) if kinds is None else (kinds[kind].config_class, kinds[kind])
    try:
        config = configs.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        # Libraries raise many kinds of errors here, because the file may say anything.
        raise ValueError(f"{path} cannot be read ({said(error)}); {fix}.") from error
    try:
        # Weights of another shape are reported like other differences.
        model, info = models.from_pretrained(
            folder, config=config, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no readable safetensors ({said(error)}); {fix}.") from error
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{path} makes no model ({said(error)}); {fix}.") from error
    return model, odd_weights(info)


def odd_weights(info: Mapping[str, Any]) -> list[str]:
    """Names of the weights that differ between a model and its checkpoint, from the library's `output_loading_info`."""
    return sorted([*info["missing_keys"], *info["unexpected_keys"], *(name for name, *_ in info["mismatched_keys"])])
