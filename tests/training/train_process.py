"""One of several processes that train together on a CPU: does one job after the other, as files with them appear in a folder.

Argument: the folder. A job is a JSON object; an empty one ends the process. The environment is that of torchrun, or of a
configuration of Accelerate. To start once for several jobs saves most of the time.
"""

import itertools
import json
import os
import shutil
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from two_processes import train_with_ccc

from annot_hf.training.recipe import make_run
from annot_hf.training.train import train


def on_cpu(state):
    state.device = torch.device("cpu")


def do(values=None, *, dropout=True, lost_after=None, ccc=None):
    """Train a recipe, or with the CCC loss of `two_processes`; returns the measures of the latter.

    Without dropout, what differs is how the model is shared out. `lost_after`: train, lose all after that step, and resume.
    """
    if ccc:
        return train_with_ccc(*ccc)
    run = make_run(values)
    with mock.patch.object(torch.nn.Dropout, "forward", torch.nn.Dropout.forward if dropout else lambda module, x: x):
        train(run)
        if lost_after is not None:
            home = Path(run.training.output_dir)
            if run.training.process_index == 0:
                last = max(home.glob("checkpoint-*"), key=lambda folder: int(folder.name.partition("-")[2]))
                shutil.copytree(last, home / "straight")
                for step in range(lost_after, int(last.name.partition("-")[2])):
                    shutil.rmtree(home / f"checkpoint-{step + 1}")
                shutil.rmtree(home / "model")
            torch.distributed.barrier()
            train(run, resume=True)
    assert torch.distributed.get_world_size() == 2
    return {}


def main(folder):
    parent = os.getppid()
    for number in itertools.count():
        path = folder / f"{number}.json"
        while not path.exists():
            time.sleep(0.02)
            if os.getppid() != parent:
                os._exit(1)
        job = json.loads(path.read_text())
        if not job:
            # gloo's threads abort a process that is still clearing up when the other one has gone
            os._exit(0)
        found = do(**job)
        torch.distributed.barrier()
        sys.stdout.flush()
        (folder / f"{number}.{os.environ['RANK']}").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_FSDP"):
        # several GPUs, with processes on a CPU in their place
        PartialState._prepare_backend = lambda *arguments, **options: ("gloo", DistributedType.MULTI_GPU)
        PartialState.set_device = on_cpu
    main(Path(sys.argv[1]))
