"""Losses that compare the items of a batch, over all micro-batches of one optimiser step.

CCC over 4 micro-batches of 8 items is not the mean of their 4 CCCs. The step's items are first predicted without
gradients, the loss of all of them together gives the gradient of every prediction, and a second pass takes each
micro-batch's part back to the weights: the memory is that of one micro-batch, the time that of one more forward pass.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn

from annot_hf.models.modeling_opinion import OpinionPreTrainedModel

_OFFSET = "pair_item"  # indexes the items of its micro-batch


class EffectiveBatch:
    """Gradients of one step's predictions, used micro-batch by micro-batch.

    Args:
        model: The model as it is called, perhaps wrapped for several processes.
        core: The model itself.
        batches: Micro-batches of this process, on its device, with targets.
        processes: How many processes take part; their items are compared too.
        rank: Which of them this is.
        context: Context of the forward pass, such as autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        core: OpinionPreTrainedModel,
        batches: Sequence[dict[str, Any]],
        *,
        processes: int = 1,
        rank: int = 0,
        context: Callable[[], Any],
    ) -> None:
        self._states, self._next = [], 0
        predicted = []
        with torch.no_grad(), _frozen_statistics(core):
            for batch in batches:
                self._states.append(_random_state())
                with context():
                    output = model(**_without_targets(core, batch))
                predicted.append({name: value.detach() for name, value in output.items() if name != "loss"})
        given = [
            {name: batch.get(name) for name in core.loss_inputs if batch.get(name) is not None} for batch in batches
        ]
        self.loss, self._gradients = _gradients(core, predicted, given, processes, rank)

    def surrogate(self, model: nn.Module, core: OpinionPreTrainedModel, batch: dict[str, Any]) -> torch.Tensor:
        """A scalar whose gradient is the next micro-batch's part of the step's, and whose value is the step's loss."""
        _restore(self._states[self._next])
        output = model(**_without_targets(core, batch))
        part = sum((output[name].float() * gradient).sum() for name, gradient in self._gradients[self._next].items())
        self._next += 1
        return part - part.detach() + self.loss


def _without_targets(core: OpinionPreTrainedModel, batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in core.loss_inputs}


def _gradients(
    core: OpinionPreTrainedModel,
    predicted: list[dict[str, torch.Tensor]],
    given: list[dict[str, Any]],
    processes: int,
    rank: int,
) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Loss of all items together, and its gradient in each of this process's predictions."""
    leaves = [
        {name: value.float().requires_grad_() if value.is_floating_point() else value for name, value in part.items()}
        for part in predicted
    ]
    parts, targets = leaves, given
    if processes > 1:
        device = next(iter(leaves[0].values())).device
        shared = gather_object([(_moved(predicted, "cpu"), _moved(given, "cpu"))])
        parts, targets = [], []
        for other, (their_parts, their_targets) in enumerate(shared):
            parts += leaves if other == rank else _moved(their_parts, device)
            targets += given if other == rank else _moved(their_targets, device)
    with torch.enable_grad():
        loss = core.loss_of(_join(parts, core), _join(targets, core))
        names = [
            (index, name) for index, part in enumerate(leaves) for name, value in part.items() if value.requires_grad
        ]
        found = torch.autograd.grad(loss, [leaves[index][name] for index, name in names], allow_unused=True)
    gradients: list[dict[str, torch.Tensor]] = [{} for _ in leaves]
    for (index, name), gradient in zip(names, found, strict=True):
        if gradient is not None:
            # wrapped models average the processes' gradients; these are parts of one sum
            gradients[index][name] = gradient * processes
    return loss.detach(), gradients


def _join(parts: Sequence[dict[str, Any]], core: OpinionPreTrainedModel) -> dict[str, Any]:
    """One batch of several."""
    joined: dict[str, Any] = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if not isinstance(first, torch.Tensor):
            joined[name] = first
            continue
        if name == _OFFSET:
            sizes = [len(part["probs"]) for part in parts]
            values = [value + sum(sizes[:index]) for index, value in enumerate(values)]
        joined[name] = torch.cat(values)
    return joined


def _moved(parts: Sequence[dict[str, Any]], device: Any) -> list[dict[str, Any]]:
    return [
        {name: value.detach().to(device) if isinstance(value, torch.Tensor) else value for name, value in part.items()}
        for part in parts
    ]


@contextmanager
def _frozen_statistics(model: nn.Module) -> Any:
    """Keep batch norm's running statistics as they are; the second pass updates them."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _random_state() -> tuple[Any, ...]:
    """State of every generator that a forward pass uses: SpecAugment of the wav2vec 2.0 family uses NumPy's."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), np.random.get_state(), random.getstate(), devices  # noqa: NPY002


def _restore(state: tuple[Any, ...]) -> None:
    host, numbers, plain, devices = state
    torch.set_rng_state(host)
    np.random.set_state(numbers)  # noqa: NPY002
    random.setstate(plain)
    if devices:
        torch.cuda.set_rng_state_all(devices)
