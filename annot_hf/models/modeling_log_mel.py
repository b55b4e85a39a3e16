"""The log-mel trunk: convolutions over mel frames whose output never depends on padding."""

import torch
from torch import nn
from transformers import PreTrainedModel

from .configuration_log_mel import LogMelConfig
from .outputs import TrunkOutput
from .weights import init_as_torch


class LogMelModel(PreTrainedModel):
    """Convolutions with a layer norm over channels after each, padding zeroed at every step.

    Each convolution sees zeros beyond the end of a clip, whether or not longer clips share its batch, so batching does
    not change a prediction.
    """

    config_class = LogMelConfig
    base_model_prefix = "trunk"
    main_input_name = "input_features"

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__(config)
        widths = [config.num_mel_bins, *config.conv_channels]
        self.convs = nn.ModuleList(
            nn.Conv1d(narrow, wide, config.conv_kernel, stride, padding=config.conv_kernel // 2)
            for narrow, wide, stride in zip(widths, widths[1:], config.conv_strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(wide) for wide in widths[1:])
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> TrunkOutput:
        """Encode log-mel frames.

        Args:
            input_features: Log-mel energies `(B, T, num_mel_bins)`.
            attention_mask: 1 where a frame is real `(B, T)`; all real when None.

        Returns:
            Frames `(B, ceil(T / stride), H)` and their mask.
        """
        mask = torch.ones_like(input_features[..., 0]) if attention_mask is None else attention_mask
        mask = mask.bool()
        mean, std = input_features.new_tensor(self.config.mel_mean), input_features.new_tensor(self.config.mel_std)
        frames = (input_features - mean) / std
        if self.training:
            frames = self._spec_augment(frames, mask)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            frames = conv((frames * mask[..., None]).transpose(1, 2)).transpose(1, 2)  # (B, T', H)
            mask = mask[:, :: conv.stride[0]]
            frames = self.dropout(nn.functional.gelu(norm(frames)))
        return TrunkOutput(last_hidden_state=frames * mask[..., None], frame_mask=mask)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_as_torch(module)

    def _spec_augment(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Hide random spans of time and of bands (Park et al. 2019) by their mean, which is 0 here."""
        lengths, config = mask.sum(1), self.config
        time = _random_spans(lengths, frames.shape[1], config.mask_time_prob, config.mask_time_length)
        bands = torch.full_like(lengths, frames.shape[2])
        band = _random_spans(bands, frames.shape[2], config.mask_feature_prob, config.mask_feature_length)
        return frames.masked_fill(time[..., None] | band[:, None], 0.0)


def _random_spans(sizes: torch.Tensor, width: int, share: float, length: int) -> torch.Tensor:
    """Hidden positions `(B, width)`: per row, spans of up to `length` that cover about `share` of its size.

    The number of spans is round(share * size / mean length); short rows get none, so no clip is hidden altogether.
    """
    spans = torch.round(2 * share * sizes / (length + 1)).long()  # a span is 1..length long, (length + 1) / 2 on average
    most = int(spans.max()) if len(spans) else 0
    if not most:
        return torch.zeros(len(sizes), width, dtype=torch.bool, device=sizes.device)
    extent = torch.randint(1, length + 1, (len(sizes), most), device=sizes.device)
    start = torch.rand(len(sizes), most, device=sizes.device) * (sizes[:, None] - extent).clip(0)
    used = torch.arange(most, device=sizes.device) < spans[:, None]
    place = torch.arange(width, device=sizes.device)
    inside = (place >= start[..., None]) & (place < (start + extent)[..., None]) & used[..., None]
    return inside.any(1)


LogMelModel.register_for_auto_class("AutoModel")
