"""Two processes give what one gives; each run is a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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


def test_two_processes_that_go_on_inside_an_epoch_end_where_they_would_have(over_trunk, wavlm_folder, tmp_path):
    """5 clips, one a process and step: 3 steps an epoch; gone on with from step 4, as if all after it had been lost."""
    pytest.importorskip("audiomentations", reason="audiomentations is not installed; install annot-hf[conditions]")
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9, "load_best_model_at_end": False}
    options |= {"eval_strategy": "no", "num_train_epochs": 2, "perturb_share": 1.0}
    options |= {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 2}
    run = over_trunk(wavlm_folder, **options)
    found = {}
    for name, words in {"straight": [], "again": ["--resume"]}.items():
        if words:
            shutil.copytree(tmp_path / "straight", tmp_path / name)
            shutil.rmtree(tmp_path / name / "model")
            for step in (5, 6):
                shutil.rmtree(tmp_path / name / f"checkpoint-{step}")
        (tmp_path / "values.json").write_text(json.dumps(run.values | {"output_dir": str(tmp_path / name)}))
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(TRAIN)]
        said_by(*launch, str(tmp_path / "values.json"), *words)
        found[name] = load_file(tmp_path / name / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(found["again"][name], value) for name, value in found["straight"].items())
