"""Configuration of the log-mel trunk."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from .checks import check_counts, check_not_negative, check_shares, options_of


class LogMelConfig(PreTrainedConfig):
    """A small convolutional trunk over log-mel frames, which learns on a laptop CPU.

    Args:
        num_mel_bins: Mel bands per frame.
        conv_channels: Output channels of each 3 x 3 convolution; each halves the bands.
        conv_strides: Time stride of each convolution; their product is how many 10 ms frames one output frame covers.
        hidden_size: Width of an output frame.
        mel_floor: Log energies below it are raised to it, so that digital silence is no outlier; with `mel_range`, the least
            that the peak of a clip counts as.
        mel_range: Take each clip's log energies relative to its own peak, the largest over its frames and bands, and raise
            those that lie further below it than so many nats: the level of a recording then changes nothing. Absolute log
            energies when null.
        mel_mean: Subtracted from the log-mel features: one number, or one per band.
        mel_std: Divides them: one number, or one per band.
        mask_time_prob: Share of frames that SpecAugment hides in training.
        mask_time_length: Longest hidden span, in frames.
        mask_feature_prob: Share of bands that SpecAugment hides in training.
        mask_feature_length: Highest hidden span, in bands.
        conv_dropout: Dropout of whole channels after the convolutions, and of single values after the projection.
        speed_jitter: In training, each clip's tempo changes by a factor of up to exp(+-speed_jitter).
        gain_jitter: In training, each clip's standardised features shift by a normal of this deviation, as if the
            microphone were nearer or further; not with `mel_range`, which knows no level.
        tilt_jitter: In training, each clip's spectrum tilts: a line over the bands, from -x to x with x normal of this
            deviation, is added to the standardised features.
        **kwargs: Passed on.

    Raises:
        ValueError: `conv_channels` and `conv_strides` differ in length or are empty, or a number is out of range.
    """

    model_type = "annot-log-mel"

    num_mel_bins: int = 80
    conv_channels: Sequence[int] = (16, 32, 64)
    conv_strides: Sequence[int] = (2, 2, 1)
    hidden_size: int = 256
    mel_floor: float = 0.0
    mel_range: float | None = None
    mel_mean: float | Sequence[float] = 13.0
    mel_std: float | Sequence[float] = 4.0
    mask_time_prob: float = 0.1
    mask_time_length: int = 20
    mask_feature_prob: float = 0.1
    mask_feature_length: int = 8
    conv_dropout: float = 0.1
    speed_jitter: float = 0.0
    gain_jitter: float = 0.0
    tilt_jitter: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        channels, strides = list(self.conv_channels), list(self.conv_strides)
        if len(channels) != len(strides) or not channels:
            raise ValueError(
                f"conv_channels has {len(channels)} entries and conv_strides {len(strides)}; give one of each per layer."
            )
        check_counts(**options_of(self, "num_mel_bins", "hidden_size"))
        for wide, stride in zip(channels, strides, strict=True):
            check_counts(conv_channels=wide, conv_strides=stride)
        check_shares(**options_of(self, "mask_time_prob", "mask_feature_prob", "conv_dropout"))
        check_not_negative(**options_of(self, "mask_time_length", "mask_feature_length"))
        check_not_negative(**options_of(self, "speed_jitter", "gain_jitter", "tilt_jitter"))
        if self.mel_range is not None:
            check_not_negative(mel_range=self.mel_range)
            # A range of nothing leaves nothing to hear.
            if not self.mel_range:
                raise ValueError("mel_range is 0, which leaves silence; set it above 0, such as 14, or to null.")
            if self.gain_jitter:
                raise ValueError(
                    f"gain_jitter is {self.gain_jitter}, and mel_range {self.mel_range} takes the level out again; remove "
                    "gain_jitter."
                )
        self.conv_channels, self.conv_strides = channels, strides
        self.mel_mean = list(self.mel_mean) if isinstance(self.mel_mean, Sequence) else self.mel_mean
        self.mel_std = list(self.mel_std) if isinstance(self.mel_std, Sequence) else self.mel_std
        super().__post_init__(**kwargs)


LogMelConfig.register_for_auto_class()
