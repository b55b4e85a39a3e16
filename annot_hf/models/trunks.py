"""How a trunk is built and called, and where its frames and their mask are.

A trunk is our log-mel model, a raw-waveform encoder of the wav2vec 2.0 family, or a text encoder.
"""

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_log_mel import LogMelConfig
from .modeling_log_mel import LogMelModel

WAVEFORM_TRUNKS = ("wavlm", "hubert", "wav2vec2", "unispeech", "unispeech-sat")


def trunk_config_from(config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    """A trunk's configuration from its serialised form; the log-mel one needs no registration."""
    if config is None:
        return LogMelConfig()
    if isinstance(config, PreTrainedConfig):
        return config
    config = dict(config)
    kind = config.pop("model_type", None)
    return LogMelConfig(**config) if kind == LogMelConfig.model_type else AutoConfig.for_model(kind, **config)


def input_name_of(config: PreTrainedConfig) -> str:
    """Which input the trunk takes: "input_features", "input_values" (a waveform) or "input_ids" (text)."""
    if config.model_type == LogMelConfig.model_type:
        return "input_features"
    return "input_values" if config.model_type in WAVEFORM_TRUNKS else "input_ids"


def build_trunk(config: PreTrainedConfig) -> PreTrainedModel:
    """A trunk with fresh weights.

    Raises:
        ValueError: The family is neither a waveform nor a text encoder.
    """
    if config.model_type == LogMelConfig.model_type:
        return LogMelModel(config)
    family = MODEL_MAPPING.get(type(config), None)  # asked before it is built: it may be too large for this machine
    takes = getattr(family, "main_input_name", None)
    if takes != input_name_of(config) or config.is_encoder_decoder or not hasattr(config, "hidden_size"):
        raise ValueError(
            f"A {config.model_type} trunk is not supported; use a text encoder such as bert, or one of "
            f"{', '.join(WAVEFORM_TRUNKS)}, or the log-mel trunk."
        )
    trunk = AutoModel.from_config(config)
    if getattr(trunk, "pooler", None) is not None:
        trunk.pooler = None  # a text encoder's; nothing here reads it, and a weight without a gradient stops DDP
    if getattr(config, "feat_extract_norm", None) == "group":
        first = trunk.feature_extractor.conv_layers[0]
        first.layer_norm = MaskedGroupNorm(config.conv_dim[0], config.conv_kernel[0], config.conv_stride[0])
    return trunk


def encode(
    trunk: PreTrainedModel,
    *,
    input_features: torch.Tensor | None = None,
    input_values: torch.Tensor | None = None,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames `(B, T, H)` of the trunk's last layer and True where they are real `(B, T)`.

    Raises:
        ValueError: The input that this trunk takes is missing.
    """
    name = input_name_of(trunk.config)
    given = {"input_features": input_features, "input_values": input_values, "input_ids": input_ids}
    if given[name] is None:
        present = [key for key, value in given.items() if value is not None]
        raise ValueError(
            f"A {trunk.config.model_type} trunk takes {name}, got {' and '.join(present) or 'nothing'}; call "
            f"model({name}=..., attention_mask=...)."
        )
    if name == "input_features":
        output = trunk(input_features, attention_mask=attention_mask)
        return output.last_hidden_state, output.frame_mask
    if attention_mask is None:
        attention_mask = torch.ones(given[name].shape[:2], dtype=torch.long, device=given[name].device)
    if name == "input_ids":
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        frames = trunk(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state
        return frames, attention_mask.bool()
    # SpecAugment needs `mask_time_length` frames in the batch, and every clip one frame: silence makes up for them
    lacking = samples_for(trunk.config, trunk.config.mask_time_length) - input_values.shape[1]
    input_values = nn.functional.pad(input_values * attention_mask, (0, max(lacking, 0)))
    samples = attention_mask.sum(1).clip(min=samples_for(trunk.config, 1))
    attention_mask = (torch.arange(input_values.shape[1], device=samples.device) < samples[:, None]).long()
    for module in trunk.modules():
        if isinstance(module, MaskedGroupNorm):
            module.samples = samples
    frames = trunk(input_values, attention_mask=attention_mask).last_hidden_state
    lengths = trunk._get_feat_extract_output_lengths(samples)
    return frames, torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]


def samples_for(config: PreTrainedConfig, frames: int) -> int:
    """Samples that a waveform trunk's convolutions turn into `frames` frames."""
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        frames = (frames - 1) * stride + kernel
    return frames


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm (one group per channel) over the real frames of each clip only.

    The base models of the wav2vec 2.0 family normalise their first convolution over time; over padding too, a clip's
    prediction would depend on the clips it is batched with. Parameters have the names of the layer it replaces.
    `samples` holds the number of real samples of each clip; `encode` sets it before every call.
    """

    samples: torch.Tensor | None = None

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels)
        self.kernel, self.stride = kernel, stride

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalise `(B, C, T)`; frames that reach beyond a clip's end are left out of its mean and variance."""
        if self.samples is None:  # the trunk was called by itself
            return super().forward(hidden_states)
        lengths = (self.samples - self.kernel) // self.stride + 1
        mask = (torch.arange(hidden_states.shape[-1], device=lengths.device) < lengths[:, None])[:, None].float()
        values, count = hidden_states.float(), mask.sum(-1, keepdim=True).clip(1)
        mean = (values * mask).sum(-1, keepdim=True) / count
        variance = ((values - mean) ** 2 * mask).sum(-1, keepdim=True) / count
        normed = (values - mean) * torch.rsqrt(variance + self.eps)
        return (normed * self.weight[:, None] + self.bias[:, None]).to(hidden_states.dtype)
