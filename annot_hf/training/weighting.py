"""Weights of the labels in the loss, from how much of the training targets each has."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from annot_hf.models.losses import effective_number_weights, inverse_frequency_weights


@dataclass(frozen=True)
class ClassWeights:
    """Which weights the labels have.

    Args:
        kind: "effective" number of items (Cui et al. 2019; with loss "cross_entropy" and target "majority" the
            class-balanced cross-entropy of arXiv 2606.27536), "inverse" frequency clipped to [0.25, 5] (its weighted KL),
            or none when empty.
        beta: Beta of "effective".
    """

    kind: Literal["", "effective", "inverse"] = ""
    beta: float = 0.9999

    def of(self, mass: np.ndarray) -> list[float] | None:
        """Weights of the labels; None where there are none.

        Args:
            mass: Sum of the training targets `(K,)`.
        """
        if self.kind == "effective":
            return effective_number_weights(mass, self.beta)
        return inverse_frequency_weights(mass) if self.kind else None
