"""Initial weights of our own modules: PyTorch's defaults, through calls that leave loaded weights alone."""

import math

from torch import nn
from transformers import initialization as init


def init_as_torch(module: nn.Module) -> None:
    """Give `module` the weights that PyTorch itself would, skipping parameters already loaded from a checkpoint.

    The library's default, a normal of deviation 0.02 whatever the width, is meant for wide pre-trained transformers and
    starts small networks too close to zero.
    """
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        if module.bias is not None:
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)
    elif isinstance(module, nn.MultiheadAttention):
        init.xavier_uniform_(module.in_proj_weight)
        init.zeros_(module.in_proj_bias)
        init.zeros_(module.out_proj.bias)
    elif isinstance(module, nn.GRU):
        bound = 1 / math.sqrt(module.hidden_size)
        for parameter in module.parameters():
            init.uniform_(parameter, -bound, bound)
    elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d):
        init.ones_(module.weight)
        init.zeros_(module.bias)
        if not isinstance(module, nn.LayerNorm):
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
