"""What a run overwrites and what of it leaves: its own, and nothing else."""

import json
import os
import subprocess
import sys
import urllib.request

import pytest
import torch
from hub_stub import serve

from annot_hf.training.checkpoints import checkpoints_of, clear_run, load_model
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import member_runs, train

READER = """
import sys
sys.modules["annot_hf"] = None
import torch
from transformers import AutoFeatureExtractor, AutoModel
model = AutoModel.from_pretrained("me/mine", trust_remote_code=True).eval()
AutoFeatureExtractor.from_pretrained("me/mine")
torch.save(model(torch.linspace(-1, 1, 3200).reshape(2, 20, 80)).probs, sys.argv[1])
"""


# one process in the place of two, each of which would load the libraries
PUSHER = """
import sys
from annot_hf.cli.app import main
*words, public, mine = sys.argv[1:]
try:
    main([*words, public])
except SystemExit as ended:
    assert ended.code == 2
main([*words, mine])
"""


@pytest.fixture
def hub(tmp_path):
    """Repositories of a Hub, its address, and a function that runs Python there."""
    repositories = {"models/me/public": {}}
    with serve(repositories) as address:
        online = {
            "HF_ENDPOINT": address,
            "HF_TOKEN": "hf_" + "x" * 30,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }

        def run(*words):
            environment = os.environ | online | {"HF_HOME": str(tmp_path / "home")}
            command = [sys.executable, *map(str, words)]
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

        yield repositories, address, run


def test_a_run_pushes_its_model_and_nothing_else(hub, small_run, tmp_path):
    repositories, address, run = hub
    values = small_run("distribution", tmp_path / "run").values | {"features": ""}
    (tmp_path / "mine.json").write_text(json.dumps(values))  # JSON is YAML
    words = ["train", tmp_path / "mine.json", "push_to_hub=true", "hub_model_id=me/public", "hub_model_id=me/mine"]
    done = run("-c", PUSHER, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The repository me/public is public" in done.stderr
    files = repositories["models/me/mine"]
    assert set(files) == {path.name for path in (tmp_path / "run" / "model").iterdir()}
    assert {"model.safetensors", "modeling_distribution.py", "config.json", "preprocessor_config.json"} <= set(files)
    with urllib.request.urlopen(f"{address}/api/models/me/mine") as answer:
        assert json.load(answer)["private"]
    told = b"".join(files.values())
    assert str(tmp_path).encode() not in told and b"hf_xxx" not in told
    assert json.loads(files["training.json"])["corpus"] == "simulated"
    read = run("-c", READER, tmp_path / "seen.pt")
    assert read.returncode == 0, read.stderr[-3000:]
    model, _, _ = load_model(tmp_path / "run" / "model")
    expected = model.eval()(torch.linspace(-1, 1, 3200).reshape(2, 20, 80)).probs
    torch.testing.assert_close(torch.load(tmp_path / "seen.pt"), expected, rtol=0, atol=1e-6)


def test_a_hub_that_cannot_be_reached_is_said_before_anything_is_read(small_run, tmp_path):
    run = small_run("distribution", tmp_path / "run", push_to_hub=True, hub_model_id="me/mine", corpus="nowhere")
    with pytest.raises(ValueError, match="me/mine cannot be opened on the Hub .* log in"):
        train(run)


def test_members_push_nothing(sayings, bert_folder, tmp_path):
    from annot_hf.data.export import read_export

    values = {"corpus": str(sayings), "trunk": str(bert_folder), "output_dir": str(tmp_path), "num_members": 2}
    run = load_recipe("seedbert", values | {"push_to_hub": True, "hub_model_id": "me/mine", "hub_private_repo": True})
    alone = load_recipe("seedbert", values)
    corpus = read_export(sayings)
    assert run.pushes and not run.training.push_to_hub
    assert [member.values for member in member_runs(run, corpus)] == [one.values for one in member_runs(alone, corpus)]


@pytest.mark.parametrize(
    "name", ["model/notes.txt", "model/config.json", "model", "model.part/notes.txt", "recipe.yaml", "started.json"]
)
def test_what_a_user_keeps_where_a_run_would_write_stays(name, small_run, tmp_path):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ValueError, match="which this package did not write"):
        train(small_run("distribution", tmp_path / "run"))
    assert path.read_text() == "mine" and len([one for one in (tmp_path / "run").rglob("*") if one.is_file()]) == 1


def test_what_a_user_calls_a_checkpoint_is_not_removed_as_one_that_was_cut_off(small_run, tmp_path):
    path = tmp_path / "run" / "checkpoint-7" / "notes.txt"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ValueError, match="checkpoint-7 is no complete checkpoint, and nothing says that this package"):
        train(small_run("distribution", tmp_path / "run"), resume=True)
    assert [one.name for one in (tmp_path / "run").rglob("*") if one.is_file()] == ["notes.txt"]


def test_an_earlier_model_is_replaced_and_what_lies_with_it_is_not(small_run, tmp_path):
    first = train(small_run("distribution", tmp_path / "run"))
    (tmp_path / "run" / "notes.txt").write_text("mine")
    clear_run(tmp_path / "run")
    assert not checkpoints_of(tmp_path / "run")
    again = train(small_run("distribution", tmp_path / "run", seed=1))
    assert again.model == first.model and again.metrics != first.metrics
    (again.model / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"model holds README\.md, which this package did not write"):
        clear_run(tmp_path / "run")
    assert (again.model / "README.md").read_text() == (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert checkpoints_of(tmp_path / "run")
