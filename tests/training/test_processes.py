"""Two processes give what one gives."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from two_processes import train_with_ccc

from annot_hf.training.checkpoints import load_model
from annot_hf.training.recipe import RECIPES, load_recipe
from annot_hf.training.train import check_sharding

TRAIN = Path(__file__).with_name("train_process.py")


class Pair:
    """Two processes that nobody answers and that train together, as `accelerate launch` starts them."""

    def __init__(self, folder, environment):
        self.folder, self.jobs, self.log = folder, itertools.count(), folder / "log"
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        shared = {**os.environ, **environment, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "warning"}
        shared |= {"PYTHONPATH": os.pathsep.join(map(str, (TRAIN.parents[2], TRAIN.parents[1])))}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        options = {"stdin": subprocess.DEVNULL, "stdout": self.log.open("w"), "stderr": subprocess.STDOUT}
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(TRAIN), str(folder)],
                env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                **options,
            )
            for rank in range(2)
        ]

    def do(self, **job):
        """Have a job done; returns what it gave, and all that was said meanwhile."""
        number, before = next(self.jobs), len(self.log.read_text())
        (self.folder / "next").write_text(json.dumps(job))
        (self.folder / "next").rename(self.folder / f"{number}.json")
        done, end = [self.folder / f"{number}.{rank}" for rank in range(2)], time.monotonic() + 300
        while not all(path.exists() and path.stat().st_size for path in done):
            assert time.monotonic() < end and not any(one.poll() for one in self.processes), self.log.read_text()[
                -2000:
            ]
            time.sleep(0.02)
        return json.loads(done[0].read_text()), self.log.read_text()[before:]

    def end(self):
        (self.folder / f"{next(self.jobs)}.json").write_text("{}")
        for process in self.processes:
            try:
                process.wait(10)
            finally:
                process.kill()


def launched(name):
    """Environment that `accelerate launch` makes of a configuration, but for the precision."""
    arguments = launch_command_parser().parse_args(["--config_file", str(RECIPES / "accelerate" / name), "x.py"])
    made = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    changed = {key: value for key, value in made.items() if os.environ.get(key) != value}
    return changed | {"ACCELERATE_MIXED_PRECISION": "no"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Processes that have the whole model each."""
    found = Pair(tmp_path_factory.mktemp("pair"), launched("ddp.yaml"))
    yield found
    found.end()


def test_ccc_over_two_processes_and_their_micro_batches_equals_one_batch(pair):
    whole, (shared, _) = train_with_ccc(12, 1), pair.do(ccc=[3, 2])
    assert (whole["processes"], shared["processes"]) == (1, 2)
    assert shared["losses"] == pytest.approx(whole["losses"], abs=1e-4)
    assert shared["weight"] == pytest.approx(whole["weight"], rel=1e-7)


def test_two_processes_train_each_member_together_and_ask_nothing(pair, sayings, bert_folder, tmp_path):
    values = {"trunk": str(bert_folder), "corpus": str(sayings), "output_dir": str(tmp_path / "run")}
    values |= {"num_members": 2, "max_steps": 2, "use_cpu": True, "disable_tqdm": True}
    _, said = pair.do(values=load_recipe("seedbert", values).values)
    assert "custom code" not in said and "You are using a model of type" not in said
    assert load_model(tmp_path / "run" / "model")[0].config.num_members == 2
    members = list((tmp_path / "run" / "members").iterdir())
    left = {path.name for folder in members for path in folder.iterdir()}
    assert len(members) == 2 and not {
        name for name in left if name.startswith(("checkpoint", "failed", "training.lock"))
    }


def test_two_processes_that_go_on_inside_an_epoch_end_where_they_would_have(pair, over_trunk, wavlm_folder, tmp_path):
    """5 clips, one a process and step: 3 steps an epoch; resumed from step 4, as if all after it had been lost."""
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9, "load_best_model_at_end": False}
    options |= {"eval_strategy": "no", "num_train_epochs": 2, "augmentation.perturb_share": 1.0}
    options |= {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 2}
    run = over_trunk(wavlm_folder, **options)
    pair.do(values=run.values, lost_after=4)
    home = Path(run.training.output_dir)
    straight, again = (load_file(home / name / "model.safetensors") for name in ("straight", "checkpoint-6"))
    assert straight and all(torch.equal(again[name], value) for name, value in straight.items())


@pytest.fixture(scope="module")
def sharded(pair, lalm, corpus, tmp_path_factory):
    """A folder of runs `ddp-RANK` and `fsdp2-RANK`; the same two processes train both ranks of one kind."""
    home = tmp_path_factory.mktemp("sharded")
    others = Pair(tmp_path_factory.mktemp("others"), launched("fsdp2.yaml"))
    for name, processes in {"ddp": pair, "fsdp2": others}.items():
        for rank in (8, 0):
            values = {"trunk": str(lalm), "corpus": str(corpus), "output_dir": str(home / f"{name}-{rank}")}
            values |= {"num_train_epochs": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
            values |= {"learning_rate": 1e-3, "lora_rank": rank, "bf16": False, "augmentation.perturb_share": 0}
            values |= {"report_to": "none", "dataloader_num_workers": 0, "disable_tqdm": True, "question": "emotion"}
            values |= {"use_cpu": name == "ddp"}
            _, said = processes.do(values=load_recipe("qwen2-audio", values).values, dropout=False)
            assert "find_unused_parameters=True" not in said
    others.end()
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
