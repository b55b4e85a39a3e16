"""Entropy curricula: which items a distribution's loss hears, and how loudly, as training goes on.

A curriculum turns the entropy of the targets into item weights of mean 1; models know nothing of it. After arXiv
2606.27536, sections 2.4 and 2.5; what the paper leaves open, and is our choice, is named below.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from annot_hf.models.measures import entropy

CURRICULA = ("filter", "weight")
FILTERS = ("batch", "corpus", "threshold")
LEAST_WEIGHT = 0.15  # of an item under "weight", before the weights are divided by their mean
EXPONENT = 2.0  # of "weight" at the start
THRESHOLDS = (0.5, 0.95)  # of normalised entropy, from start to end of the ramp


@dataclass(frozen=True)
class EntropyCurriculum:
    """Item weights by the normalised entropy H of the targets, in [0, 1], and the epoch, counted from 1.

    Args:
        kind: "filter" leaves items out; "weight" weighs them by (1 - H)^a, clipped to [0.15, 1], where a falls from 2 to
            0, which is uniform, over the ramp.
        reverse: Begin with the items that people disagree on: the highest entropies, or H^a.
        by: What "filter" keeps: the share of lowest entropies of each mini-batch ("batch", as the paper's code does) or
            of the whole training set ("corpus", the schedule it states, of which the former is a noisy version), or the
            items with an entropy up to a threshold ("threshold"; in reverse those of at least 1 - threshold).
        epochs: Epochs at which the share changes, ascending.
        shares: Share kept from each of `epochs` on; all items before the first.
        warmup: Epochs without any curriculum before the ramp of "weight" and "threshold" starts.
        ramp: Epochs that the ramp takes, its start and its end included.

    Raises:
        ValueError: An option is unknown or out of range.
    """

    kind: str = "filter"
    reverse: bool = False
    by: str = "batch"
    epochs: Sequence[int] = (1, 2, 4, 8, 12)
    shares: Sequence[float] = (0.5, 0.625, 0.75, 0.875, 1.0)
    warmup: int = 5
    ramp: int = 6

    def __post_init__(self) -> None:
        for name, value, allowed in (("curriculum", self.kind, CURRICULA), ("curriculum_by", self.by, FILTERS)):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(allowed)}.")
        if len(self.epochs) != len(self.shares) or list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError(
                f"curriculum_epochs is {list(self.epochs)} and curriculum_shares {list(self.shares)}; give ascending epochs "
                "and one share for each."
            )
        if not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"curriculum_shares is {list(self.shares)}; each share lies above 0 and up to 1.")
        if self.warmup < 0 or self.ramp < 1:
            raise ValueError(
                f"curriculum_warmup is {self.warmup} and curriculum_ramp {self.ramp}; they count epochs, from 0 and from 1 up."
            )

    def share(self, epoch: int) -> float:
        """Share of items that "filter" keeps in an epoch."""
        return next((s for e, s in zip(self.epochs[::-1], self.shares[::-1], strict=True) if epoch >= e), 1.0)

    def progress(self, epoch: int) -> float:
        """How far the ramp has come in an epoch, from 0 in its first to 1 in its last."""
        return min(max((epoch - 1 - self.warmup) / (self.ramp - 1), 0.0), 1.0) if self.ramp > 1 else 1.0

    def weights(self, labels: torch.Tensor, epoch: int, corpus: torch.Tensor | None = None) -> torch.Tensor:
        """Weights `(B,)` of mean 1 of the items of a mini-batch; all 1 during warm-up and where a filter would leave nothing.

        Args:
            labels: Target distributions `(B, K)`.
            epoch: Which epoch, from 1.
            corpus: Normalised entropies of all training items `(N,)`, needed by "corpus".
        """
        entropies = normalised_entropy(labels)
        ramps = self.kind == "weight" or self.by == "threshold"
        if ramps and epoch <= self.warmup:
            return torch.ones_like(entropies)
        if self.kind == "weight":
            exponent = EXPONENT * (1 - self.progress(epoch))
            weights = (entropies if self.reverse else 1 - entropies).clip(0) ** exponent
            weights = weights.clip(LEAST_WEIGHT, 1.0)
        else:
            weights = self._kept(-entropies if self.reverse else entropies, epoch, corpus).to(entropies.dtype)
        mean = weights.mean()
        return weights / mean if mean > 0 else torch.ones_like(weights)

    def _kept(self, keys: torch.Tensor, epoch: int, corpus: torch.Tensor | None) -> torch.Tensor:
        """Which items stay `(B,)`, the lowest `keys` first."""
        if self.by == "threshold":
            start, end = THRESHOLDS
            threshold = start + (end - start) * self.progress(epoch)
            return keys <= (threshold - 1 if self.reverse else threshold)
        share = self.share(epoch)
        if self.by == "corpus":
            ordered = (-corpus if self.reverse else corpus).to(keys).sort().values
            return keys <= ordered[_kept_count(share, len(ordered)) - 1] + 1e-6  # float32 of the same entropy
        kept = torch.zeros_like(keys, dtype=torch.bool)
        kept[keys.argsort(stable=True)[: _kept_count(share, len(keys))]] = True
        return kept


def normalised_entropy(labels: torch.Tensor) -> torch.Tensor:
    """Entropy of target distributions `(B, K)` over ln K: `(B,)` in [0, 1]."""
    return entropy(labels.float(), normalised=True)


def _kept_count(share: float, size: int) -> int:
    """ceil(share * size), but for the rounding of the product."""
    return max(-int(-(share * size - 1e-9) // 1), 1)
