"""Two processes give what one gives; each run is a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from annot_hf.training.inference import load_model
from annot_hf.training.recipe import load_recipe

SCRIPT = Path(__file__).with_name("two_processes.py")
TRAIN = Path(__file__).with_name("train_process.py")


def run(*command):
    return json.loads(next(line for line in said_by(*command).splitlines()[::-1] if line.startswith('{"processes')))


def said_by(*command):
    """What a process that nobody answers says, warnings and all, if it ends well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    environment["TRANSFORMERS_VERBOSITY"] = "warning"
    done = subprocess.run(
        [*command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def test_ccc_over_two_processes_and_their_micro_batches_equals_one_batch():
    whole = run(sys.executable, str(SCRIPT), "12", "1")
    shared = run(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(SCRIPT), "3", "2")
    assert (whole["processes"], shared["processes"]) == (1, 2)
    assert shared["losses"] == pytest.approx(whole["losses"], abs=1e-4)
    assert shared["weight"] == pytest.approx(whole["weight"], rel=1e-7)


def test_two_processes_train_each_member_together_and_ask_nothing(sayings, bert_folder, tmp_path):
    values = {"trunk": str(bert_folder), "corpus": str(sayings), "output_dir": str(tmp_path / "run")}
    values |= {"num_members": 2, "max_steps": 2, "use_cpu": True, "disable_tqdm": True}
    (tmp_path / "values.json").write_text(json.dumps(load_recipe("seedbert", values).values))
    said = said_by(
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(TRAIN), str(tmp_path / "values.json")
    )
    assert '{"processes": 2}' in said
    assert "custom code" not in said and "You are using a model of type" not in said
    assert load_model(tmp_path / "run" / "model")[0].config.num_members == 2
    members = list((tmp_path / "run" / "members").iterdir())
    left = {path.name for folder in members for path in folder.iterdir()}
    assert len(members) == 2 and not {
        name for name in left if name.startswith(("checkpoint", "failed", "training.lock"))
    }
