"""Trains the recipe whose keys a JSON file holds; run by one process or, through torchrun, by several.

Arguments: the file, and --resume to resume what is there.

The last line says how many processes took part.
"""

import json
import sys
from pathlib import Path

import torch

from annot_hf.training.recipe import make_run
from annot_hf.training.train import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    run = make_run(json.loads(Path(sys.argv[1]).read_text()))
    train(run, resume=sys.argv[2:] == ["--resume"])
    if run.training.process_index == 0:
        sys.stdout.write(json.dumps({"processes": run.training.world_size}) + "\n")
