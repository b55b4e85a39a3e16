"""Learning rates that follow the validation loss, and a trunk that thaws from the top (arXiv 2606.27536, section 2.5)."""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from annot_hf.models.trunks import transformer_layers

NEWBOB = ("compose", "overwrite")
TRUNK, HEADS = "trunk", "heads"  # names of the optimiser's parameter groups
_ROUNDING = 1e-6  # of a count of epochs


def newbob_factor(losses: Sequence[float], factor: float = 0.9, threshold: float = 0.0025) -> float:
    """What a learning rate is multiplied with after these validation losses, in order.

    Each time a loss is not lower than the one before by at least `threshold` of it, the rate falls by `factor`.
    """
    pairs = zip(losses, losses[1:], strict=False)
    # a loss may be negative (a likelihood, a weighted KL), and NaN is no improvement
    return factor ** sum(not before - now >= threshold * abs(before) for before, now in pairs)


def encoder_layers(trunk: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers of a trunk, the lowest first.

    Raises:
        ValueError: The trunk has none.
    """
    layers = transformer_layers(trunk)
    if layers is None:
        raise ValueError(
            f"A trunk of type {trunk.config.model_type} has no transformer layers to unfreeze in stages; remove "
            "unfreeze_epochs."
        )
    return layers


class StagedLearning(TrainerCallback):
    """NewBob on every parameter group, and stages that unfreeze the top layers of the trunk.

    Both come from the log of the run alone, so that a resumed run goes on exactly.

    Args:
        newbob: None; "compose" multiplies the schedule's rate, NewBob's factor and, for the trunk, the stage's factor;
            "overwrite" is what the paper's code does: every validation sets the rate anew from NewBob alone, so that a
            stage's factor acts for one epoch only.
        factor: What NewBob multiplies a rate with.
        threshold: Relative improvement of the validation loss below which it does.
        epochs: Finished epochs after which a stage begins, ascending; before the first the whole trunk is frozen. Without
            any, nothing is frozen.
        layers: How many of the top transformer layers each stage trains. The rest, front end included, stays frozen.
        factors: What each stage multiplies the trunk's rate with.

    Raises:
        ValueError: An option is unknown, or the stages do not go together.
    """

    def __init__(
        self,
        newbob: str | None = None,
        factor: float = 0.9,
        threshold: float = 0.0025,
        epochs: Sequence[int] = (),
        layers: Sequence[int] = (),
        factors: Sequence[float] = (),
    ) -> None:
        if newbob is not None and newbob not in NEWBOB:
            raise ValueError(f"newbob is {newbob!r}; use one of {', '.join(NEWBOB)}, or leave it out.")
        if not 0 < factor < 1 or threshold < 0:
            raise ValueError(
                f"newbob_factor is {factor} and newbob_threshold {threshold}; rates fall by a factor between 0 and 1, when a "
                "loss improves by less than a share of 0 or more."
            )
        factors = list(factors) or [1.0] * len(epochs)
        if not len(epochs) == len(layers) == len(factors) or list(epochs) != sorted(set(epochs)):
            raise ValueError(
                f"unfreeze_epochs is {list(epochs)}, unfreeze_layers {list(layers)} and unfreeze_factors {factors}; give "
                "ascending epochs, and for each the number of top layers and a factor."
            )
        self.newbob, self.factor, self.threshold = newbob, factor, threshold
        self.stages = list(zip(epochs, layers, factors, strict=True))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Unfreeze what the finished epochs allow, and set the rates."""
        finished = math.floor((state.epoch or 0) + _ROUNDING)
        if self.stages:
            model = getattr(kwargs["model"], "module", kwargs["model"])
            self._unfreeze(model.trunk, finished)
        self._set_rates(state, kwargs, self._stage_factor(finished))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let NewBob see the new loss."""
        if self.newbob:
            running = max(
                math.ceil((state.epoch or 0) - _ROUNDING) - 1, 0
            )  # epochs before the one at whose end this is
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
        if scheduler is None or optimizer is None:  # an evaluation outside of training
            return
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry] if self.newbob else []
        shared = newbob_factor(losses, self.factor, self.threshold)
        for index, group in enumerate(optimizer.param_groups):
            base = group["initial_lr"] * shared * (stage if group.get("name") == TRUNK else 1.0)
            group["lr"] *= base / scheduler.base_lrs[index] if scheduler.base_lrs[index] else 1.0
            scheduler.base_lrs[index] = base
