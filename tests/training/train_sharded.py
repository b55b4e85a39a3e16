"""Trains recipes as `accelerate launch` would on several GPUs, with processes on a CPU in their place. Arguments: the files.

Dropout is off, so that what differs is how the model is shared out. Run through torchrun, with the environment of a
configuration of Accelerate.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from annot_hf.training.recipe import make_run
from annot_hf.training.train import train


def on_cpu(state: PartialState) -> None:
    state.device = torch.device("cpu")


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipes = [json.loads(Path(path).read_text()) for path in sys.argv[1:]]
    if not recipes[0].get("use_cpu"):
        PartialState._prepare_backend = lambda *arguments, **options: ("gloo", DistributedType.MULTI_GPU)
        PartialState.set_device = on_cpu
    torch.nn.Dropout.forward = lambda module, x: x
    for values in recipes:
        train(make_run(values))
    assert torch.distributed.get_world_size() == 2
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads abort a process that is still clearing up when the other one has gone
