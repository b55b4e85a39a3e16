"""NewBob, staged unfreezing and entropy curricula, after arXiv 2606.27536, sections 2.4 and 2.5."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from annot_hf.models.measures import entropy
from annot_hf.models.trunks import transformer_layers

# names of the optimiser's parameter groups
TRUNK, HEADS = "trunk", "heads"
# of a count of epochs
_ROUNDING = 1e-6


def finished_epochs(state: Any) -> int:
    """Epochs that have ended; the state's count of them has rounding errors."""
    return math.floor((state.epoch or 0) + _ROUNDING)


def newbob_factor(losses: Sequence[float], factor: float = 0.9, threshold: float = 0.0025) -> float:
    """`factor` once for each of the losses, in order, that is not lower than the one before by `threshold` of it."""
    pairs = zip(losses, losses[1:], strict=False)
    # a loss may be negative (a likelihood, a weighted KL), and NaN is no improvement
    return factor ** sum(not before - now >= threshold * abs(before) for before, now in pairs)


def encoder_layers(trunk: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers of a trunk, the lowest first; a ValueError if it has none."""
    layers = transformer_layers(trunk)
    if layers is None:
        raise ValueError(
            f"A trunk of type {trunk.config.model_type} has no transformer layers to unfreeze in stages; remove "
            "schedule.unfreeze_epochs."
        )
    return layers


@dataclass(frozen=True)
class Schedule:
    """How training proceeds: tasks, the trunk's learning rate, NewBob, staged unfreezing and early stopping.

    Args:
        tasks: How an annotator model learns its two tasks: "alternate" takes an optimiser step for each on every batch
            (arXiv 2408.11956), "joint" adds the losses, "ratings" and "distribution" learn one alone.
        trunk_learning_rate: Learning rate of the trunk; `learning_rate` for all weights when null.
        newbob: Lower the learning rates when the validation loss stops falling: "compose" multiplies the schedule's rate,
            NewBob's factor and, for the trunk, the stage's factor; "overwrite" is what the code of arXiv 2606.27536 does:
            every validation sets the rate anew from NewBob alone, so that a stage's factor acts for one epoch only. Not
            when empty. Set lr_scheduler_type to constant with it.
        newbob_factor: What NewBob multiplies a rate with.
        newbob_threshold: Relative improvement of the validation loss below which it does.
        unfreeze_epochs: Finished epochs after which a stage begins, ascending; before the first the whole trunk is frozen,
            and 0 starts one at once. Nothing is frozen when empty.
        unfreeze_layers: How many of the top transformer layers each stage trains, all if there are fewer. The rest, front end
            included, stays frozen.
        unfreeze_factors: What each stage multiplies the trunk's learning rate with; 1 when empty.
        patience: Validation passes without an improvement of `metric_for_best_model` after which training stops; 0 for
            never.
    """

    tasks: Literal["alternate", "joint", "ratings", "distribution"] = "alternate"
    trunk_learning_rate: float | None = None
    newbob: Literal["", "compose", "overwrite"] = ""
    newbob_factor: float = 0.9
    newbob_threshold: float = 0.0025
    unfreeze_epochs: list[int] = field(default_factory=list)
    unfreeze_layers: list[int] = field(default_factory=list)
    unfreeze_factors: list[float] = field(default_factory=list)
    patience: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.newbob_factor < 1 or self.newbob_threshold < 0:
            raise ValueError(
                f"newbob_factor is {self.newbob_factor} and newbob_threshold {self.newbob_threshold}; give a factor between 0 "
                "and 1 and a threshold of 0 or more."
            )
        epochs, layers, factors = self.unfreeze_epochs, self.unfreeze_layers, self.unfreeze_factors
        if len(epochs) != len(layers) or len(factors) not in (0, len(epochs)) or epochs != sorted(set(epochs)):
            raise ValueError(
                f"unfreeze_epochs is {epochs}, unfreeze_layers {layers} and unfreeze_factors {factors}; give ascending "
                "epochs, and for each the number of top layers and a factor."
            )
        if any(count < 1 for count in layers):
            raise ValueError(f"unfreeze_layers is {layers}; each stage trains at least one of the top layers.")
        if self.patience < 0:
            raise ValueError(f"patience is {self.patience}; it counts validation passes, and 0 is never.")

    @property
    def changes_rates(self) -> bool:
        """Whether NewBob or stages change the learning rates."""
        return bool(self.newbob or self.unfreeze_epochs)

    def callbacks(self) -> list[TrainerCallback]:
        """What acts on epochs and validation passes."""
        staging = [StagedLearning(self)] if self.changes_rates else []
        return staging + ([EarlyStopping(self.patience)] if self.patience else [])

    def trunk_rate(self, heads: float) -> float | None:
        """Learning rate of the trunk; None where it shares that of the heads, and stages do not change it."""
        return heads if self.trunk_learning_rate is None and self.unfreeze_epochs else self.trunk_learning_rate


class StagedLearning(TrainerCallback):
    """NewBob and stages that unfreeze the trunk; both depend on the log alone, so that a resumed run continues exactly."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.newbob = schedule, schedule.newbob
        factors = schedule.unfreeze_factors or [1.0] * len(schedule.unfreeze_epochs)
        self.stages = list(zip(schedule.unfreeze_epochs, schedule.unfreeze_layers, factors, strict=True))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Unfreeze what the finished epochs allow, and set the rates."""
        finished = finished_epochs(state)
        if self.stages:
            model = getattr(kwargs["model"], "module", kwargs["model"])
            self._unfreeze(model.trunk, finished)
        self._set_rates(state, kwargs, self._stage_factor(finished))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the rates from the new validation loss."""
        if self.newbob:
            # epochs before the one that ends here
            running = max(math.ceil((state.epoch or 0) - _ROUNDING) - 1, 0)
            self._set_rates(state, kwargs, 1.0 if self.newbob == "overwrite" else self._stage_factor(running))

    def _stage_factor(self, finished: int) -> float:
        """Factor of the trunk's rate: of a stage that begins now under "overwrite", of the present one otherwise."""
        if self.newbob == "overwrite":
            return next((factor for epoch, _, factor in self.stages if epoch == finished), 1.0)
        return next((factor for epoch, _, factor in reversed(self.stages) if epoch <= finished), 1.0)

    def _unfreeze(self, trunk: PreTrainedModel, finished: int) -> None:
        top = next((layers for epoch, layers, _ in reversed(self.stages) if epoch <= finished), 0)
        layers = encoder_layers(trunk)
        trunk.requires_grad_(False)
        for layer in layers[max(len(layers) - top, 0) :]:
            layer.requires_grad_(True)

    def _set_rates(self, state: Any, kwargs: dict[str, Any], stage: float) -> None:
        """Base rate of every group: the recipe's, by NewBob's factor and, for the trunk, the stage's."""
        scheduler, optimizer = kwargs.get("lr_scheduler"), kwargs.get("optimizer")
        if scheduler is None or optimizer is None:
            # an evaluation outside of training
            return
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry] if self.newbob else []
        shared = newbob_factor(losses, self.schedule.newbob_factor, self.schedule.newbob_threshold)
        for index, group in enumerate(optimizer.param_groups):
            base = group["initial_lr"] * shared * (stage if group.get("name") == TRUNK else 1.0)
            group["lr"] *= base / scheduler.base_lrs[index] if scheduler.base_lrs[index] else 1.0
            scheduler.base_lrs[index] = base


class EarlyStopping(TrainerCallback):
    """The library's early stopping, but it counts in the log alone, so that a resumed run stops where it should."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the passes since the best one, those before an interruption included."""
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        # a pass before the first step chooses no checkpoint
        found = [entry[name] for entry in state.log_history if name in entry and entry["step"]]
        worse = [math.inf if math.isnan(value) else -value if args.greater_is_better else value for value in found]
        if worse and len(worse) - 1 - worse.index(min(worse)) >= self.patience:
            control.should_training_stop = True

    on_evaluate = on_train_begin


# of an item under "weight", before the weights are divided by their mean
LEAST_WEIGHT = 0.15
# of "weight" at the start
EXPONENT = 2.0
# of normalised entropy, from start to end of the ramp
THRESHOLDS = (0.5, 0.95)


@dataclass(frozen=True)
class EntropyCurriculum:
    """Item weights by the normalised entropy H of the targets, in [0, 1], and the epoch, counted from 1.

    Args:
        kind: "filter" leaves items out; "weight" weighs them by (1 - H)^a, clipped to [0.15, 1], where a falls from 2 to
            0, which is uniform, over the ramp (arXiv 2606.27536). No curriculum when empty.
        reverse: Begin with the items that raters disagree on: the highest entropies, or H^a.
        by: What "filter" keeps: the share of lowest entropies of each mini-batch ("batch", as the paper's code does) or
            of the whole training set ("corpus", the schedule it states, of which the former is a noisy version), or the
            items with an entropy up to a threshold ("threshold"; in reverse those of at least 1 - threshold).
        epochs: Epochs at which the share changes, ascending, from 1.
        shares: Share kept from each of `epochs` on; all items before the first.
        warmup: Epochs without any curriculum before the ramp of "weight" and "threshold" starts.
        ramp: Epochs that the ramp takes, its start and its end included.
    """

    kind: Literal["", "filter", "weight"] = ""
    reverse: bool = False
    by: Literal["batch", "corpus", "threshold"] = "batch"
    epochs: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 12])
    shares: list[float] = field(default_factory=lambda: [0.5, 0.625, 0.75, 0.875, 1.0])
    warmup: int = 5
    ramp: int = 6

    def __post_init__(self) -> None:
        if len(self.epochs) != len(self.shares) or list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError(
                f"epochs is {list(self.epochs)} and shares {list(self.shares)}; give ascending epochs and one share for each."
            )
        if not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares is {list(self.shares)}; each share lies above 0 and up to 1.")
        if self.warmup < 0 or self.ramp < 1:
            raise ValueError(f"warmup is {self.warmup} and ramp {self.ramp}; they count epochs, from 0 and from 1 up.")

    def share(self, epoch: int) -> float:
        """Share of items that "filter" keeps in an epoch."""
        return next((s for e, s in zip(self.epochs[::-1], self.shares[::-1], strict=True) if epoch >= e), 1.0)

    def progress(self, epoch: int) -> float:
        """How far the ramp has come in an epoch, from 0 in its first to 1 in its last."""
        return min(max((epoch - 1 - self.warmup) / (self.ramp - 1), 0.0), 1.0) if self.ramp > 1 else 1.0

    def weights(self, labels: torch.Tensor, epoch: int, corpus: torch.Tensor | None = None) -> torch.Tensor:
        """Weights `(B,)` of mean 1 of the items of a mini-batch; all 1 during warm-up and where a filter would leave nothing.

        `labels` are target distributions `(B, K)`, `epoch` counts from 1, and `corpus` holds the normalised entropies of all
        training items `(N,)`, which "corpus" needs.
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
            # float32 of the same entropy
            return keys <= ordered[_kept_count(share, len(ordered)) - 1] + 1e-6
        kept = torch.zeros_like(keys, dtype=torch.bool)
        kept[keys.argsort(stable=True)[: _kept_count(share, len(keys))]] = True
        return kept


def normalised_entropy(labels: torch.Tensor) -> torch.Tensor:
    """Entropy of target distributions `(B, K)` over ln K: `(B,)` in [0, 1]."""
    return entropy(labels.float(), normalised=True)


def _kept_count(share: float, size: int) -> int:
    """ceil(share * size), but for the rounding of the product."""
    return max(-int(-(share * size - 1e-9) // 1), 1)
