"""A clip that is two clips at once, mixed when it is read: nothing is written to disk."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MixedClip:
    """Two clips mixed; `load_audio` takes it like any other source.

    Attributes:
        first: A clip, as `load_audio` takes it.
        second: Another one.
        share: Weight of the second, in [0, 1]; the first has the rest.
    """

    first: Any
    second: Any
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; the second clip's weight lies in 0 to 1.")


def mix_waves(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """First + share (second - first), both cut to the shorter (arXiv 2601.14620, section 2.3).

    Args:
        first: Samples `(time,)` at the same rate as the second's.
        second: Samples `(time,)`.
        share: Weight of the second, in [0, 1].

    Returns:
        Samples `(min(time),)`, float32.

    Example:
        >>> mix_waves(np.array([1.0, 1.0, 1.0]), np.array([0.0, 2.0]), 0.25).tolist()
        [0.75, 1.25]
    """
    length = min(len(first), len(second))
    first, second = np.asarray(first[:length], np.float32), np.asarray(second[:length], np.float32)
    return first + np.float32(share) * (second - first)
