"""The log-mel trunk: convolutions over mel frames, whose output never depends on padding."""

import torch
from torch import nn
from transformers import PreTrainedModel

from .checks import check_attention
from .configuration_log_mel import LogMelConfig
from .heads import init_as_torch
from .outputs import TrunkOutput


class LogMelModel(PreTrainedModel):
    """3 x 3 convolutions over time and mel bands, then one vector per frame; padding is zeroed after every step.

    Batching therefore does not change a prediction. Batch norm rather than layer norm: it keeps the energy of a frame, which
    carries much of the emotion.
    """

    config_class = LogMelConfig
    base_model_prefix = "trunk"
    main_input_name = "input_features"

    def __init__(self, config: LogMelConfig) -> None:
        check_attention(config)
        super().__init__(config)
        widths = [1, *config.conv_channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, (stride, 2), padding=1, bias=False)
            for narrow, wide, stride in zip(widths, widths[1:], config.conv_strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(wide) for wide in config.conv_channels)
        # Each convolution halves the bands, rounded up.
        bands = -(-config.num_mel_bins // 2 ** len(self.convs))
        self.projection = nn.Linear(widths[-1] * bands, config.hidden_size, bias=False)
        self.frame_norm = nn.BatchNorm1d(config.hidden_size)
        self.channel_dropout = nn.Dropout2d(config.conv_dropout)
        self.dropout = nn.Dropout(config.conv_dropout)
        self.post_init()

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> TrunkOutput:
        """Frames `(B, ceil(T / stride), H)` of log-mel energies `(B, T, num_mel_bins)`, and their mask.

        `attention_mask` `(B, T)` is 1 where a frame is real; all are when None.
        """
        mask = torch.ones_like(input_features[..., 0]).bool() if attention_mask is None else attention_mask.bool()
        mean, std = map(input_features.new_tensor, (self.config.mel_mean, self.config.mel_std))
        frames = (bound_frames(input_features, mask, self.config) - mean) / std
        if self.training:
            frames, mask = self._augment(frames, mask)
        # (B, 1, T, bands).
        maps = (frames * mask[..., None])[:, None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            mask = mask[:, :: conv.stride[0]]
            maps = nn.functional.relu(norm(conv(maps))) * mask[:, None, :, None]
        maps = self.channel_dropout(maps)
        # (B, T', H).
        frames = self.projection(maps.transpose(1, 2).flatten(2))
        normed = torch.zeros_like(frames)
        normed[mask] = self.dropout(nn.functional.relu(self.frame_norm(frames[mask])))
        return TrunkOutput(last_hidden_state=normed, frame_mask=mask)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_as_torch(module)

    def _augment(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Change tempo, level and tilt of each clip, and hide spans of time and of bands (SpecAugment, Park et al. 2019)."""
        config, (items, _, bands) = self.config, frames.shape
        if config.speed_jitter:
            frames, mask = _change_speed(frames, mask, config.speed_jitter)
        line = torch.linspace(-1, 1, bands, device=frames.device)
        level, tilt = torch.randn(2, items, 1, 1, device=frames.device)
        frames = frames + config.gain_jitter * level + config.tilt_jitter * tilt * line
        lengths = mask.sum(1)
        sizes = torch.full_like(lengths, bands)
        time = _random_spans(lengths, frames.shape[1], config.mask_time_prob, config.mask_time_length)
        band = _random_spans(sizes, bands, config.mask_feature_prob, config.mask_feature_length)
        # 0 is the mean of the standardised features.
        return frames.masked_fill(time[..., None] | band[:, None], 0.0), mask


def bound_frames(frames: torch.Tensor, mask: torch.Tensor, config: LogMelConfig) -> torch.Tensor:
    """Log-mel frames `(..., T, bands)` before they are standardised: none is too low, and the level is as `config` has it.

    With `mel_range`, they are nats relative to the peak of the frames that `mask` `(..., T)` calls real, in [-mel_range, 0].
    """
    if config.mel_range is None:
        return frames.clip(config.mel_floor)
    peak = frames.masked_fill(~mask[..., None], -torch.inf).amax((-2, -1), keepdim=True).clip(config.mel_floor)
    return (frames - peak).clip(-config.mel_range)


def _change_speed(frames: torch.Tensor, mask: torch.Tensor, jitter: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames `(B, T', bands)` at a tempo faster by exp(uniform(-jitter, jitter)) per clip, linearly interpolated."""
    lengths = mask.sum(1)
    factor = torch.exp((2 * torch.rand(len(lengths), device=frames.device) - 1) * jitter)
    changed = (lengths / factor).round().long().clip(1)
    # Few distinct lengths, because the CPU sets up convolutions once per length.
    width = -(-int(changed.max()) // 16) * 16
    place = torch.arange(width, device=frames.device)
    source = torch.minimum(place * factor[:, None], (lengths - 1)[:, None].to(factor))
    before = source.long()
    after = torch.minimum(before + 1, (lengths - 1)[:, None])
    rows = torch.arange(len(lengths), device=frames.device)[:, None]
    frames = torch.lerp(frames[rows, before], frames[rows, after], (source - before)[..., None])
    return frames, place < changed[:, None]


def _random_spans(sizes: torch.Tensor, width: int, share: float, length: int) -> torch.Tensor:
    """Hidden positions `(B, width)`: per row, spans of up to `length` that cover about `share` of its size."""
    # A span has 1 to length frames, (length + 1) / 2 on average. Short rows get none, so no clip is hidden altogether.
    spans = torch.round(2 * share * sizes / (length + 1)).long()
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
