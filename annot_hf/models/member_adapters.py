"""Low-rank adapters (LoRA) of several members over one trunk, whose lower layers run once for all of them.

The trunk keeps its own forward, parameters and names. Before the first of its top layers, a hook repeats the items once per
member; in these layers, hooks add each member's low-rank product to what the adapted linear layers give its rows.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, initialization as init

from .adapters import LORA_TARGETS
from .trunks import transformer_layers


class MemberAdapter(nn.Module):
    """Low-rank products (alpha / r) B A of n members beside one linear layer (Hu et al. 2021).

    Args:
        linear: The layer that is adapted; it stays as it is.
        members: n.
        rank: r.
        alpha: Scale of the products, before they are divided by r.
    """

    def __init__(self, linear: nn.Linear, *, members: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(members, rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.empty(members, linear.out_features, rank))

    def init_weights(self) -> None:
        """As in the paper: B is zero, so that every member starts as the trunk is, and A is random for each."""
        bound = 1 / math.sqrt(self.lora_a.shape[-1])
        init.uniform_(self.lora_a, -bound, bound)
        init.zeros_(self.lora_b)

    def add(self, module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        """The linear layer's output `(n B, T, out)` for inputs `(n B, T, in)`, member after member, with the products."""
        members = len(self.lora_a)
        low = torch.bmm(args[0].reshape(members, -1, args[0].shape[-1]), self.lora_a.mT)  # (n, B T, r)
        rows = output.reshape(members, -1, output.shape[-1])
        return torch.baddbmm(rows, low, self.lora_b.mT, alpha=self.scale).view(output.shape)


class MemberAdapters(nn.Module):
    """Adapters of n members in the top layers of a trunk; from there on, the trunk has n rows for every item.

    Rows come member after member: those of member i are i B to (i + 1) B. Methods of this module, rather than closures, are
    the trunk's hooks, so that a copied model has its own.

    Args:
        trunk: A trunk whose family is in `LORA_TARGETS`; it gets hooks.
        members: n.
        layers: How many of its top layers have adapters.
        rank: Rank of the adapters.
        alpha: Scale of the adapters.
    """

    def __init__(self, trunk: PreTrainedModel, *, members: int, layers: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.members = members
        self.layers = nn.ModuleList()
        for place, layer in enumerate(transformer_layers(trunk)[-layers:]):
            layer.register_forward_pre_hook(self.enter if place == 0 else self.pass_on, with_kwargs=True)
            adapters = nn.ModuleDict()
            for name in LORA_TARGETS[trunk.config.model_type]:
                linear = layer.get_submodule(name)
                adapter = MemberAdapter(linear, members=members, rank=rank, alpha=alpha)
                linear.register_forward_hook(adapter.add)
                adapters[name.rpartition(".")[-1]] = adapter
            self.layers.append(adapters)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        """Repeat everything that the first of the top layers is given for B items: states, masks, position biases."""
        items = len(args[0])

        def repeated(value: Any) -> Any:  # WavLM's position bias has a row per item and head
            return self._repeated(value) if _rows(value) and _rows(value) % items == 0 else value

        return tuple(map(repeated, args)), {name: repeated(value) for name, value in kwargs.items()}

    def pass_on(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        """Repeat what a further layer is given for B items; what comes from the layer before has its n B rows already."""
        items = len(args[0]) // self.members

        def repeated(value: Any) -> Any:
            return self._repeated(value) if _rows(value) == items else value

        return (args[0], *map(repeated, args[1:])), {name: repeated(value) for name, value in kwargs.items()}

    def _repeated(self, value: torch.Tensor) -> torch.Tensor:
        return value.repeat(self.members, *[1] * (value.dim() - 1))


def _rows(value: Any) -> int:
    """Length of a tensor's first dimension; 0 for a vector and for anything else."""
    return len(value) if isinstance(value, torch.Tensor) and value.dim() > 1 else 0
