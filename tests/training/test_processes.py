"""Two processes give what one gives; each run is a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from annot_hf.training.checkpoints import load_model
from annot_hf.training.recipe import RECIPES, load_recipe
from annot_hf.training.train import check_sharding

SHARDED = Path(__file__).with_name("train_sharded.py")
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
    """5 clips, one a process and step: 3 steps an epoch; resumed from step 4, as if all after it had been lost."""
    pytest.importorskip("audiomentations", reason="audiomentations is not installed; install annot-hf[conditions]")
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9, "load_best_model_at_end": False}
    options |= {"eval_strategy": "no", "num_train_epochs": 2, "augmentation.perturb_share": 1.0}
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


def launched(name):
    """Environment that `accelerate launch` makes of a configuration, but for the precision."""
    arguments = launch_command_parser().parse_args(["--config_file", str(RECIPES / "accelerate" / name), "x.py"])
    made = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    changed = {key: value for key, value in made.items() if os.environ.get(key) != value}
    return changed | {"ACCELERATE_MIXED_PRECISION": "no"}


@pytest.fixture(scope="module")
def sharded(lalm, corpus, tmp_path_factory):
    """A folder of runs `ddp-RANK` and `fsdp2-RANK`; the same two processes train both ranks of one kind."""
    home = tmp_path_factory.mktemp("sharded")
    for name in ("ddp", "fsdp2"):
        recipes = []
        for rank in (8, 0):
            out = home / f"{name}-{rank}"
            values = {"trunk": str(lalm), "corpus": str(corpus), "output_dir": str(out), "question": "emotion"}
            values |= {"num_train_epochs": 2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
            values |= {"learning_rate": 1e-3, "lora_rank": rank, "bf16": False, "augmentation.perturb_share": 0}
            values |= {"report_to": "none", "dataloader_num_workers": 0, "disable_tqdm": True, "use_cpu": name == "ddp"}
            recipes.append(out.with_suffix(".json"))
            recipes[-1].write_text(json.dumps(load_recipe("qwen2-audio", values).values))
        with pytest.MonkeyPatch.context() as patch:
            for key, value in launched(f"{name}.yaml").items():
                patch.setenv(key, value)
            torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2")
            said = said_by(*torchrun, str(SHARDED), *map(str, recipes))
        assert "find_unused_parameters=True" not in said
    return home


@pytest.mark.parametrize("rank", [8, 0], ids=["adapters", "all weights"])
def test_sharded_weights_are_trained_as_whole_ones(rank, sharded):
    """FSDP2 against DDP, which the same two processes do with the whole model each."""
    found = {}
    for name in ("ddp", "fsdp2"):
        folder = sharded / f"{name}-{rank}" / "model"
        (path,) = folder.rglob("*model.safetensors")
        found[name] = load_file(path)
        assert load_model(folder)[0].config.lora_rank == rank
    assert len(found["ddp"]) == (32 if rank else 81) and found["ddp"].keys() == found["fsdp2"].keys()
    for name, weight in found["ddp"].items():
        torch.testing.assert_close(found["fsdp2"][name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("state", "rule"),
    [
        ({"fsdp_plugin": SimpleNamespace(activation_checkpointing=True)}, "fsdp_activation_checkpointing is true"),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=3)}, "ZeRO 3 takes weights of one precision"),
    ],
)
def test_ways_of_sharing_out_that_adapters_do_not_take_are_said(state, rule):
    with pytest.raises(ValueError, match=rf"{rule}.*use ddp\.yaml, fsdp2\.yaml or deepspeed-zero2\.yaml"):
        check_sharding(
            SimpleNamespace(state=SimpleNamespace(**{"deepspeed_plugin": None} | state), mixed_precision="bf16")
        )
    check_sharding(SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=None), mixed_precision="bf16"))
