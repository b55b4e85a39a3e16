"""What is published is read by the real clients in a fresh process that has no annot_hf."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from annot_hf.cli import steps
from annot_hf.cli.app import main
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.simulate import SimulatedCorpus
from annot_hf.hub.publish import publish
from annot_hf.models.adapters import add_lora
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.training.checkpoints import load_model

STRANGER = r"""
import contextlib, io, json, re, sys
sys.modules["annot_hf"] = None
import evaluate, torch
from datasets import load_dataset
from huggingface_hub import hf_hub_download
from transformers import AutoFeatureExtractor, AutoModel, AutoTokenizer

first, mel, out = sys.argv[1:]
found = {}
trusted = {"trust_remote_code": True}
mel = torch.load(mel)
for name, options in (("then", {"revision": first}), ("now", {})):
    found[name] = AutoModel.from_pretrained("me/mine", **trusted, **options).eval()(mel).probs.tolist()
found["rate"] = AutoFeatureExtractor.from_pretrained("me/mine").sampling_rate
adapted = AutoModel.from_pretrained("me/adapted", **trusted).eval()
found["adapters"] = sum("lora_" in name for name, _ in adapted.named_parameters())
batch = AutoTokenizer.from_pretrained("me/adapted")(["so good !"], return_tensors="pt")
found["adapted"] = adapted(**batch).probs.tolist()
plain = load_dataset("me/votes", "votes", split="train")
streamed = load_dataset("me/votes", "votes", split="train", streaming=True)
found["votes"] = [len(plain), plain[0], next(iter(streamed)), sum(1 for _ in streamed)]
found["items"] = [len(row["audio"]["bytes"]) for row in load_dataset("me/votes", "items", split="test", streaming=True)]
found["jsd"] = evaluate.load("me/jsd").compute(predictions=[[0.5, 0.5]], references=[[1.0, 0.0]])
for place in ({"repo_id": "me/mine"}, {"repo_id": "me/votes", "repo_type": "dataset"}):
    card = open(hf_hub_download(filename="README.md", **place)).read()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1])
    found[f"card of {place['repo_id']}"] = said.getvalue()
found["votes by the card"] = {split: len(rows) for split, rows in votes.items()}
json.dump(found, open(out, "w"))
assert sys.modules["annot_hf"] is None
"""


def test_strangers_read_what_was_published(hub, checkpoints, corpus, bert_folder, repository, tmp_path):
    folder = shutil.copytree(checkpoints["distribution"], tmp_path / "model")
    soundfile.write(tmp_path / "clip.wav", np.sin(np.arange(16_000) / 20), 16_000)
    first = publish(folder, "me/mine")
    then = load_model(folder)[0]
    weights = {name: weight + 0.1 for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert publish(folder, "me/mine").commit != first.commit
    export_corpus(SimulatedCorpus(corpus.parent / "simulated"), tmp_path / "export", embed_audio=True)
    publish(tmp_path / "export", "me/votes")
    assert publish(repository / "metrics" / "jsd", "me/jsd").kind == "metric"
    hub.repositories["models/me/bert"] = {path.name: path.read_bytes() for path in bert_folder.iterdir()}
    asked = [{"name": "tone", "labels": ["a", "b"]}]
    adapted = add_lora(DistributionModel.from_trunk("me/bert", questions=asked, pooling="mean"), rank=2)
    adapted.save_pretrained(tmp_path / "adapted")
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    tokenizer.save_pretrained(tmp_path / "adapted")
    publish(tmp_path / "adapted", "me/adapted")
    mel = torch.linspace(-1, 1, 3200).reshape(2, 20, 80)
    torch.save(mel, tmp_path / "mel.pt")
    online = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_EVALUATE_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    words = [sys.executable, "-c", STRANGER, first.commit, tmp_path / "mel.pt", tmp_path / "found.json"]
    environment = os.environ | online | {"HF_HOME": str(tmp_path / "stranger")}
    done = subprocess.run(
        list(map(str, words)), env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    torch.testing.assert_close(torch.tensor(found["then"]), then(mel).probs)
    torch.testing.assert_close(torch.tensor(found["now"]), load_model(folder)[0](mel).probs)
    assert found["rate"] == 16_000 and found["adapters"] > 0
    batch = tokenizer(["so good !"], return_tensors="pt")
    torch.testing.assert_close(torch.tensor(found["adapted"]), adapted.eval()(**batch).probs)
    there = read_export("me/votes")
    items = there.items.set_index("item")
    train = [name for name in there.votes.items[there.votes.item_codes] if items["split"][name] == "train"]
    count, plain, streamed, counted = found["votes"]
    assert count == counted == len(train) and plain == streamed and plain["annotator"].startswith("rater-")
    assert len(found["items"]) == (items["split"] == "test").sum() and min(found["items"]) > 44
    shares = yaml.safe_load(found["card of me/mine"])
    assert list(shares) == list(load_model(folder)[0].config.support) and sum(shares.values()) == pytest.approx(
        1, abs=0.01
    )
    assert found["votes by the card"]["train"] == count and "FOLDER" not in str(hub.repositories)
    assert abs(found["jsd"]["jsd"] - 0.2157616) < 1e-6
    assert any(".parquet bytes=" in one for one in hub.requests), "streaming reads parts of a file"


def test_the_page_on_publishing_runs_as_printed(hub, checkpoints, corpus, repository, tmp_path, monkeypatch, capsys):
    """But for the last block, which needs other processes: see above."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoints["distribution"], "runs/cremad/model")
    shutil.copytree(corpus, "data/cremad")
    (tmp_path / "metrics").symlink_to(repository / "metrics")
    write_report_of("runs/cremad", "data/cremad")
    page = (repository / "docs" / "publishing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|bash)\n(.*?)```", page, re.DOTALL)
    names = {}
    for language, block in blocks[:-1]:
        for line in block.splitlines() if language == "bash" else ():
            with pytest.raises(SystemExit) as ended:
                main(shlex.split(line, comments=True)[1:])
            assert ended.value.code == 0, line
        if language == "python":
            exec(block, names)
    assert names["facts"]["corpus"] == names["corpus"].name == "simulated"
    assert {"models/me/cremad", "datasets/me/cremad-votes", "spaces/me/jsd"} == set(hub.repositories)
    assert any(name.startswith(".eval_results/") for name in hub.repositories["models/me/cremad"])
    assert hub.private == {"models/me/cremad", "datasets/me/cremad-votes"}


def write_report_of(run, corpus):
    model, predictions = Path(run) / "model", Path(run) / "predictions"
    steps.write_predictions(model, corpus, "test", predictions, Path("features"), robustness=0)
    steps.write_report([predictions], corpus, Path(run) / "report")
