"""Our initial weights are PyTorch's own."""

import pytest
import torch
from torch import nn

from annot_hf.models.heads import init_as_torch

MODULES = {
    "linear": lambda: nn.Linear(7, 5),
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "gru": lambda: nn.GRU(4, 6),
    "norm": lambda: nn.BatchNorm1d(3),
}


@pytest.mark.parametrize("kind", MODULES)
def test_the_distribution_of_every_weight_is_that_of_a_new_module(kind):
    """Zero where it is zero there, and as wide where it is drawn, over many draws."""
    drawn = {}
    for whose in ("torch", "ours"):
        torch.manual_seed(0)
        draws = []
        for _ in range(200):
            module = MODULES[kind]()
            if whose == "ours":
                for part in module.parameters():
                    nn.init.constant_(part, 9.0)
                module.apply(init_as_torch)
            draws.append({name: value.detach().double() for name, value in module.state_dict().items()})
        drawn[whose] = {name: torch.stack([draw[name].double() for draw in draws]) for name in draws[0]}
    for name, expected in drawn["torch"].items():
        found = drawn["ours"][name]
        assert (found == 0).all() == (expected == 0).all(), name
        assert found.abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.05), name
        assert found.std().item() == pytest.approx(expected.std().item(), rel=0.1, abs=1e-12), name
