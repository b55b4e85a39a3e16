"""Configuration of the log-mel trunk."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig


class LogMelConfig(PreTrainedConfig):
    """A convolutional trunk over log-mel frames, small enough to learn on a laptop CPU.

    Args:
        num_mel_bins: Mel bands per frame.
        conv_channels: Output channels of each convolution.
        conv_strides: Time stride of each convolution; their product is how many 10 ms frames one output frame covers.
        conv_kernel: Kernel width of every convolution, odd.
        dropout: Dropout after each convolution.
        mel_mean: Subtracted from the log-mel features: one number, or one per band.
        mel_std: Divides them: one number, or one per band.
        mask_time_prob: Share of frames that SpecAugment hides in training.
        mask_time_length: Length of a hidden span, in frames.
        mask_feature_prob: Share of bands that SpecAugment hides in training.
        mask_feature_length: Height of a hidden span, in bands.
        **kwargs: Passed on.
    """

    model_type = "annot-log-mel"

    def __init__(
        self,
        num_mel_bins: int = 80,
        conv_channels: Sequence[int] = (128, 192, 192),
        conv_strides: Sequence[int] = (1, 2, 2),
        conv_kernel: int = 5,
        dropout: float = 0.1,
        mel_mean: float | Sequence[float] = 13.0,
        mel_std: float | Sequence[float] = 4.0,
        mask_time_prob: float = 0.1,
        mask_time_length: int = 15,
        mask_feature_prob: float = 0.1,
        mask_feature_length: int = 8,
        **kwargs: Any,
    ) -> None:
        if len(conv_channels) != len(conv_strides) or not conv_channels:
            raise ValueError(
                f"conv_channels has {len(conv_channels)} entries and conv_strides {len(conv_strides)}; give one of each a layer."
            )
        if conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel is {conv_kernel}; it must be odd, so that a frame stays at its place.")
        self.num_mel_bins = num_mel_bins
        self.conv_channels = list(conv_channels)
        self.conv_strides = list(conv_strides)
        self.conv_kernel = conv_kernel
        self.dropout = dropout
        self.mel_mean = list(mel_mean) if isinstance(mel_mean, Sequence) else mel_mean
        self.mel_std = list(mel_std) if isinstance(mel_std, Sequence) else mel_std
        self.mask_time_prob = mask_time_prob
        self.mask_time_length = mask_time_length
        self.mask_feature_prob = mask_feature_prob
        self.mask_feature_length = mask_feature_length
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of an output frame."""
        return self.conv_channels[-1]


LogMelConfig.register_for_auto_class()
