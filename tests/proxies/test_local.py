import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from tiny_qwen2_audio import build_tiny_qwen2_audio

from annot_hf.proxies.annotate import annotate, estimate_run, make_backend
from annot_hf.proxies.backend import Ask
from annot_hf.proxies.job import as_sent
from annot_hf.proxies.local import RowSampler


@pytest.fixture(scope="module")
def lalm(tmp_path_factory):
    return build_tiny_qwen2_audio(tmp_path_factory.mktemp("lalm"))


def asks(corpus, count=5):
    rows = range(count)
    clips = [as_sent(corpus.items["audio"].iloc[row], 30.0) for row in rows]
    return [
        Ask(
            str(row),
            row,
            "You listen.",
            f"How does it sound? {'again ' * row}",
            clips[row],
            0.3 + 0.1 * row,
            7 + row,
            "k",
        )
        for row in rows
    ]


def test_what_is_drawn_does_not_depend_on_the_batch(corpus, lalm):
    backend = make_backend("local", str(lalm), max_tokens=6)
    questions = asks(corpus)
    together = asyncio.run(backend.ask(questions))
    alone = [asyncio.run(backend.ask([question]))[0] for question in questions]
    assert together == alone
    assert len({answer.reply for answer in together}) > 1
    assert all(0 < answer.output_tokens <= 6 for answer in together)
    assert all(answer.cut for answer in together if answer.output_tokens == 6 and "<|im_end|>" not in answer.reply)


def test_the_clip_is_heard(corpus, lalm):
    from dataclasses import replace

    backend = make_backend("local", str(lalm), max_tokens=8)
    question = replace(asks(corpus, 2)[1], temperature=0.1)
    other = replace(question, audio=asks(corpus, 1)[0].audio)
    assert asyncio.run(backend.ask([question])) != asyncio.run(backend.ask([other]))


def test_a_row_is_a_draw_from_the_softmax_at_its_own_temperature():
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0])
    for temperature in (0.5, 1.0):
        drawn = np.zeros(4)
        for seed in range(2000):
            drawn[int(RowSampler([temperature], [seed])(None, scores[None]).argmax())] += 1
        expected = (scores / temperature).softmax(0).double().numpy()
        assert chisquare(drawn, 2000 * expected / expected.sum()).pvalue > 1e-3


def test_a_job_goes_through_and_goes_on(job, lalm, tmp_path):
    backend = make_backend("local", str(lalm), batch_size=4, max_tokens=4)
    report = annotate(job(items=3), backend, tmp_path / "out")
    assert sum(report.counts.values()) == report.asked == 9
    assert report.counts["failed"] == report.counts["not asked"] == 0
    assert annotate(job(items=4), backend, tmp_path / "out").asked == 3


def edited(folder, **changes):
    """Writes changed entries into its config.json; those that are None go."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def without_some_weights(folder):
    path = folder / "model.safetensors"
    save_file(dict(list(load_file(path).items())[3:]), path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "There is no checkpoint '.*' with a readable config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "There is no checkpoint"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "has no config.json with a model_type"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json with a model_type"),
        (lambda folder: edited(folder, model_type=None), "has no config.json with a model_type"),
        (lambda folder: edited(folder, model_type="bert"), "is a bert; backend local takes a Qwen2-Audio"),
        (lambda folder: edited(folder, model_type="unheard-of"), "is a unheard-of; backend local takes a Qwen2-Audio"),
        (lambda folder: edited(folder, text_config="small"), "cannot be loaded as a Qwen2-Audio"),
        (lambda folder: edited(folder, _attn_implementation="me/mine"), "attn_implementation is 'me/mine'"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded as a Qwen2-Audio"),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            "cannot be loaded as a Qwen2-Audio .*no file named model",
        ),
        (lambda folder: os.truncate(folder / "model.safetensors", 99), "cannot be loaded as a Qwen2-Audio"),
        (without_some_weights, "lacks 3 weights of a Qwen2-Audio"),
        (lambda folder: edited(folder, vocab_size=None, text_config={"hidden_size": 64}), "lacks .* weights"),
    ],
)
def test_what_is_no_qwen2_audio(damage, message, lalm, tmp_path):
    folder = shutil.copytree(lalm, tmp_path / "damaged")
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        make_backend("local", str(folder))
    assert "\n" not in str(caught.value)


def test_a_model_of_distributions_gives_no_answers(corpus, lalm, tmp_path, capsys):
    from annot_hf.cli import app as cli
    from annot_hf.models.adapters import add_lora
    from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio

    asked = [{"name": "emotion", "labels": ["anger", "joy"]}]
    DistributionQwen2Audio.from_lalm(lalm, questions=asked).save_pretrained(tmp_path / "whole")
    add_lora(DistributionQwen2Audio.from_lalm(lalm, questions=asked)).save_pretrained(tmp_path / "lora")
    for name in ("whole", "lora"):
        words = [corpus.folder, "--out", tmp_path / "out", "--backend", "local", "--model", tmp_path / name]
        with pytest.raises(SystemExit, match="2"):
            cli.main(["annotate", *map(str, words), "--question", "emotion"])
        error = " ".join(capsys.readouterr().err.split())
        assert "holds a model of distributions" in error and "name a plain Qwen2-Audio" in error
        assert "trust_remote_code" not in error
    assert not (tmp_path / "out").exists()


def test_the_revision_of_a_model_of_the_hub_is_written_down(lalm, tmp_path, monkeypatch):
    commit, home = "0123456789" * 4, tmp_path / "models--someone--lalm"
    shutil.copytree(lalm, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert make_backend("local", "someone/lalm").revision == commit
    assert make_backend("local", "someone/lalm", revision="main").revision == commit  # a branch moves on


def test_other_weights_in_the_same_folder_are_another_revision(job, lalm, exported, tmp_path):
    folder = shutil.copytree(lalm, tmp_path / "lalm")
    first = make_backend("local", str(folder), max_tokens=4)
    assert first.revision == make_backend("local", str(lalm)).revision != ""
    assert annotate(job(items=2), first, tmp_path / "out").asked == 6
    again = make_backend("local", str(folder), max_tokens=4, revision=first.revision)
    assert annotate(job(items=3), again, tmp_path / "out").asked == 3
    answers = exported("label", "off-list", "empty", "echo", "refusal")
    assert {record["revision"] for record in answers} == {first.revision}
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = max(weights)
    save_file(weights | {name: weights[name] + 0.5}, path, metadata={"format": "pt"})
    other = make_backend("local", str(folder), max_tokens=4)
    with pytest.raises(ValueError, match="holds a run of another revision"):
        annotate(job(items=4), other, tmp_path / "out")
    with pytest.raises(
        ValueError, match=f"revision is '{first.revision}' and the files in .* are {other.revision}; put"
    ):
        make_backend("local", str(folder), revision=first.revision)
    for revision in ("", "main"):  # what a model here is, a dry run does not load it to find out
        found = estimate_run(
            job(items=4), tmp_path / "out", model=str(folder), backend="local", revision=revision, max_tokens=4
        )
        assert found.questions == 3


def test_the_library_s_own_server(job, lalm, exported, tmp_path):
    """`transformers serve` takes audio in its chat completions; it answers under the model's name and revision."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--device", "cpu"], stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    try:
        for _ in range(6000):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "serve.log").read_text()
                time.sleep(0.1)
        backend = make_backend("openai", str(lalm), base_url=f"http://127.0.0.1:{port}/v1", max_tokens=4, timeout=600.0)
        report = annotate(job(items=2), backend, tmp_path / "out", concurrency=2)
    finally:
        server.terminate()
        server.wait()
    answers = exported("label", "off-list", "empty", "echo", "refusal")
    assert len(answers) == report.asked == 6, report.stopped
    assert report.counts["wrong-model"] == report.counts["failed"] == 0
    assert {record["model"] for record in answers} == {f"{lalm}@main"}
    assert all(record["input_tokens"] > 50 for record in answers)  # the clip is among them
