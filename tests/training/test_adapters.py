"""Adapters on every model: what they change, how they are saved, and what is refused at every door."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hub_stub import serve
from safetensors.torch import load_file, save_file
from small_runs import killed_at
from tiny_qwen2_audio import build_tiny_qwen2_audio
from transformers import AutoModel, AutoTokenizer, Trainer, TrainingArguments

import annot_hf
from annot_hf.models.adapters import add_lora
from annot_hf.models.modeling_annotator import AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.modeling_seedbert import SeedBert
from annot_hf.models.trunks import build_trunk
from annot_hf.training.checkpoints import load_lora, load_model, merge_lora
from annot_hf.training.inference import predict
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import train

KINDS = (*tiny.TEXT, *tiny.WAVEFORM, *tiny.NO_LAYERS)
PROMPTED = [{"name": "emotion", "labels": ["angry", "happy", "sad"]}]
LABELS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
PAGE = Path(annot_hf.__file__).parents[1] / "docs" / "adapters.md"


@pytest.fixture
def over(tmp_path):
    """Makes a model over a plain checkpoint of its own."""

    def make(kind, model=DistributionModel, **options):
        folder = tmp_path / kind
        if not folder.exists():
            build_trunk(tiny.trunk_config(kind)).save_pretrained(folder)
        options = {"questions": tiny.CATEGORY, "pooling": "attention"} | tiny.HEADS | options
        return model.from_trunk(str(folder), **options)

    return make


def batch_of(kind):
    return tiny.inputs(kind, tiny.lengths(kind))


def taught(model, batch, steps=3):
    """The model, some steps on."""
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(steps):
        model.train()(**batch, labels=LABELS).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


def probs_of(model, batch):
    with torch.no_grad():
        return model(**batch).probs


@pytest.mark.parametrize("kind", KINDS)
def test_every_adapter_has_a_gradient_and_changes_the_output(kind, over):
    """Also on WavLM, whose attention reads the weights of its projections and never calls them."""
    torch.manual_seed(0)
    adapted, batch = add_lora(over(kind), rank=2), batch_of(kind)
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    adapters = [name for name in trained if "lora_B" in name]
    assert len(adapters) >= 3 and all("trunk." in name for name in adapters)
    assert {name.split(".")[2] for name in trained if "lora_" not in name} == {"pooling", "embedding", "head"}
    adapted.train()(**batch, labels=LABELS).loss.backward()
    assert all(trained[name].grad.any() for name in adapters)
    before = probs_of(adapted.eval(), batch)
    for name in adapters:
        trained[name].data.normal_()
        assert (probs_of(adapted, batch) - before).abs().max() > 1e-6, name
        trained[name].data.zero_()


@pytest.mark.parametrize("kind", ["bert", "wavlm", "deberta-v2", "whisper"])
def test_a_folder_of_adapters_loads_merges_and_is_saved_again(kind, over, tmp_path):
    adapted, batch = taught(add_lora(over(kind), rank=2, alpha=4, dropout=0.1), batch_of(kind)), batch_of(kind)
    expected = probs_of(adapted, batch)
    assert (expected - probs_of(over(kind), batch)).abs().max() > 1e-2
    adapted.save_pretrained(tmp_path / "adapters")
    files = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert {"adapter_model.safetensors", "config.json"} <= files
    # `AutoModel` would read its base from the Hub, without the head
    assert not {"adapter_config.json", "model.safetensors"} & files
    model, info = AutoModel.from_pretrained(tmp_path / "adapters", output_loading_info=True)
    assert type(model) is DistributionModel and not any(info.values()) and not model.training
    assert (model.config.lora_rank, model.config.lora_alpha, model.config.lora_dropout) == (2, 4, 0.1)
    model.save_pretrained(tmp_path / "again")
    again = DistributionModel.from_pretrained(tmp_path / "again")
    merged = load_lora(tmp_path / "again").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    assert not any("lora" in name for name in load_file(tmp_path / "merged" / "model.safetensors"))
    for loaded in (model, again):
        assert torch.equal(probs_of(loaded, batch), expected)
    for loaded in (merged, DistributionModel.from_pretrained(tmp_path / "merged")):
        torch.testing.assert_close(probs_of(loaded, batch), expected, rtol=0, atol=1e-5)
    # whichever is written last into a folder is what it holds
    merged.save_pretrained(tmp_path / "again")
    assert not DistributionModel.from_pretrained(tmp_path / "again").has_adapters
    adapted.save_pretrained(tmp_path / "again")
    assert DistributionModel.from_pretrained(tmp_path / "again").has_adapters


def test_every_head_is_saved_with_the_adapters(over, tmp_path):
    options = {"scale_questions": tiny.SCALES, "auxiliary_questions": [{"name": "seen", "labels": ["a", "b"]}]}
    options |= {"disagreement": "deviation", "trunk_layer": "weighted", "head": "bayesian"}
    annotators = {"questions": tiny.SCALES, "annotators": ["a", "b"], "pooling": "tcgru"}
    batch = batch_of("wavlm")
    models = {
        "beside": over("wavlm", **options),
        "raters": over("wavlm", AnnotatorModel, **annotators),
    }
    for name, model in models.items():
        adapted = add_lora(model, rank=2)
        own = [one for one in adapted.parameters() if one.requires_grad]
        for weight in own:
            weight.data += 0.1 * torch.randn_like(weight)
        adapted.save_pretrained(tmp_path / name)
        loaded = AutoModel.from_pretrained(tmp_path / name)
        found, expected = (one.eval()(**batch) for one in (loaded, adapted))
        for key, value in expected.items():
            assert torch.equal(found[key], value), key


def test_adapters_sit_on_a_trained_checkpoint_too(over, tmp_path):
    batch, whole = batch_of("bert"), over("bert")
    taught(whole, batch).save_pretrained(tmp_path / "own")
    adapted = taught(add_lora(DistributionModel.from_pretrained(tmp_path / "own")), batch)
    adapted.save_pretrained(tmp_path / "further")
    config = json.loads((tmp_path / "further" / "config.json").read_text())
    assert config["adapted_from"]["base"] == str(tmp_path / "own") and config["lora_rank"] == 8
    assert torch.equal(probs_of(AutoModel.from_pretrained(tmp_path / "further"), batch), probs_of(adapted, batch))
    # the trunk is now that of no checkpoint, and adapters would name another
    for moved in (whole, load_lora(tmp_path / "further").merge_and_unload()):
        with pytest.raises(ValueError, match="weights are no longer those of .*; save the model, and read it again"):
            add_lora(moved)
    nameless = add_lora(tiny.distribution("bert"))
    with pytest.raises(ValueError, match="in no checkpoint that they could name"):
        nameless.save_pretrained(tmp_path / "nameless")
    adapted.get_base_model().trunk.embeddings.word_embeddings.weight.data += 0.1
    with pytest.raises(ValueError, match="weights are no longer those of"):
        adapted.save_pretrained(tmp_path / "changed")


def test_training_resumes_from_adapters(over, tmp_path):
    batch, straight = batch_of("bert"), add_lora(over("bert", dropout=0.0), rank=2)
    taught(straight, batch).save_pretrained(tmp_path / "half")
    resumed = load_lora(tmp_path / "half")
    trained = [{name for name, one in model.named_parameters() if one.requires_grad} for model in (straight, resumed)]
    assert trained[0] == trained[1]
    for model in (resumed, straight):
        taught(model, batch)
    torch.testing.assert_close(probs_of(resumed, batch), probs_of(straight, batch), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="has adapters already, which would be lost; train what load_lora"):
        add_lora(resumed.get_base_model())


def test_what_takes_no_adapters_is_said(over, monkeypatch, tmp_path):
    refused = {
        "There are no adapters for a annot-log-mel trunk": (tiny.distribution("log-mel"), {}),
        "freeze_trunk is true": (over("bert", freeze_trunk=True), {}),
        "A SeedBert has adapters of its own": (over("bert", SeedBert, num_members=2, members="shared"), {}),
        "lora_rank is 0; it must be a whole number, 1 or more": (over("bert"), {"rank": 0}),
        "lora_alpha is -1; it must be 0 or more": (over("bert"), {"alpha": -1}),
        "lora_dropout 1; give a scale above 0": (over("bert"), {"dropout": 1}),
    }
    for rule, (model, options) in refused.items():
        with pytest.raises(ValueError, match=rule):
            add_lora(model, **options)
    with pytest.raises(ValueError, match=r"member 0 has adapters, .*merge them first"):
        SeedBert.from_members([add_lora(over("bert")).get_base_model()])
    over("bert").save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="has no adapters; give output_dir/model of a run with lora_rank"):
        load_lora(tmp_path / "whole")
    with pytest.raises(ValueError, match="There is neither a folder nor a repository '.*nowhere'"):
        merge_lora(tmp_path / "nowhere", tmp_path / "out")
    add_lora(over("bert")).save_pretrained(tmp_path / "adapters")
    monkeypatch.setitem(sys.modules, "peft", None)
    for door in (lambda: add_lora(over("bert")), lambda: AutoModel.from_pretrained(tmp_path / "adapters")):
        with pytest.raises(ValueError, match=r"Adapters need the package peft, .*pip install 'annot-hf\[peft\]'"):
            door()


DOORS = {
    "load_model": lambda folder, out: load_model(folder),
    "class": lambda folder, out: DistributionModel.from_pretrained(folder),
    "AutoModel": lambda folder, out: AutoModel.from_pretrained(folder),
    "merge": merge_lora,
}
DAMAGES = {
    "no base": "does not say what the adapters sit on",
    "base of 5": "does not say what the adapters sit on",
    "base gone": "holds adapters for .*gone.*adapted_from in its config.json",
    "base of another family": "holds adapters for .*on other weights than it holds now",
    "base of other weights": "holds adapters for .*on other weights than it holds now",
    "no weights": "adapter_model.safetensors",
    "weights cut": "adapter_model.safetensors of .* cannot be read",
    "not weights": "adapter_model.safetensors of .* cannot be read",
    "no value adapters": "do not fit its config.json: 4 weights, for instance .*value.lora_A",
    "no head": "do not fit its config.json: . weights, for instance head",
    "another rank": "do not fit its config.json",
    "five labels": "do not fit its config.json: . weights, for instance head",
    "not finite": "are not finite",
    "no configuration": "config.json|model.safetensors",
}


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_damaged_is_said_at_every_door(kind, over, tmp_path):
    folder, config = tmp_path / "model", tmp_path / "model" / "config.json"
    taught(add_lora(over("bert"), rank=2), batch_of("bert")).save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    held = load_file(weights)
    base = json.loads(config.read_text())["adapted_from"]
    if kind == "no base":
        changed(config, adapted_from={"version": "x"})
    elif kind == "base of 5":
        changed(config, adapted_from=base | {"base": 5})
    elif kind == "base gone":
        changed(config, adapted_from=base | {"base": str(tmp_path / "gone")})
    elif kind == "base of another family":
        over("hubert")
        changed(config, adapted_from=base | {"base": str(tmp_path / "hubert")})
    elif kind == "base of other weights":
        build_trunk(tiny.trunk_config("bert")).save_pretrained(tmp_path / "bert")
    elif kind == "no weights":
        weights.unlink()
    elif kind == "weights cut":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif kind == "not weights":
        weights.write_bytes(b"not weights")
    elif kind == "another rank":
        changed(config, lora_rank=4)
    elif kind == "five labels":
        labels = ["a", "b", "c", "d", "e"]
        changed(
            config, questions=[{"name": "emotion", "labels": labels}], id2label=dict(enumerate(labels)), label2id=None
        )
    elif kind == "not finite":
        held[next(name for name in held if "lora_A" in name)][0, 0] = float("nan")
        save_file(held, weights)
    elif kind == "no configuration":
        config.unlink()
    else:
        lost = {"no value adapters": "value.lora_", "no head": ".head."}[kind]
        save_file({name: value for name, value in held.items() if lost not in name}, weights)
    for door, opened in DOORS.items():
        with pytest.raises((ValueError, OSError), match=DAMAGES[kind]) as caught:
            opened(folder, tmp_path / "out")
        if kind != "no configuration":
            assert type(caught.value) is ValueError and "\n" not in str(caught.value), (door, caught.value)
    assert not (tmp_path / "out").exists()


ON_THE_HUB = """
import sys
import huggingface_hub, torch
from transformers import AutoModel, AutoTokenizer
from annot_hf import DistributionModel, DistributionQwen2Audio, add_lora
from annot_hf.training.checkpoints import load_lora
from annot_hf.training.inputs import make_processor
step, out = sys.argv[1:]
wave = torch.linspace(-0.5, 0.5, 16_000).sin().numpy()
questions = [{"name": "emotion", "labels": ["angry", "happy", "sad"]}]
batch = {"input_ids": torch.tensor([[2, 5, 6, 3]])}
if step == "publish":
    bases = {"heard": DistributionQwen2Audio.from_lalm("me/lalm", questions=questions)}
    bases["read"] = DistributionModel.from_trunk("me/bert", questions=questions, pooling="mean")
    models = {}
    for name, base in bases.items():
        models[name] = add_lora(base, rank=2)
        torch.manual_seed(1)
        for weight in models[name].parameters():
            if weight.requires_grad:
                weight.data += 0.1 * torch.randn_like(weight)
        models[name].push_to_hub(f"me/{name}")
    make_processor(bases["heard"].config, "me/lalm").push_to_hub("me/heard")
else:
    models = {name: AutoModel.from_pretrained(f"me/{name}") for name in ("heard", "read")}
    assert [type(model).__name__ for model in models.values()] == ["DistributionQwen2Audio", "DistributionModel"]
    assert type(DistributionModel.from_pretrained("me/read")) is DistributionModel
batches = {"read": batch, "heard": models["heard"].prepare(make_processor(models["heard"].config, "me/heard"), [wave])}


def found(models):
    with torch.inference_mode():
        probs = {name: model.eval()(**batches[name]).probs for name, model in models.items()}
    return probs, {name: model.config.adapted_from for name, model in models.items()}


results = [found(models)]
if step == "load":
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    assert huggingface_hub.is_offline_mode()
    results.append(found({name: load_lora(f"me/{name}") for name in ("heard", "read")}))
torch.save(results, out)
"""


def test_published_adapters_load_by_name_and_stay_with_their_base(bert_folder, tmp_path):
    """Also when the repositories of the bases have moved on to other weights."""

    def files(folder):
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}

    build_trunk(tiny.trunk_config("bert")).save_pretrained(tmp_path / "other bert")
    others = {"lalm": build_tiny_qwen2_audio(tmp_path / "other lalm", seed=1), "bert": tmp_path / "other bert"}
    repositories = {
        "models/me/lalm": files(build_tiny_qwen2_audio(tmp_path / "lalm")),
        "models/me/bert": files(bert_folder),
    }
    with serve(repositories) as address:
        online = {"HF_ENDPOINT": address, "HF_TOKEN": "x", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

        def run(step, home):
            environment = os.environ | online | {"HF_HOME": str(tmp_path / home)}
            command = [sys.executable, "-c", ON_THE_HUB, step, str(tmp_path / "seen.pt")]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            return torch.load(tmp_path / "seen.pt")

        ((expected, bases),) = run("publish", "mine")
        for name in ("heard", "read"):
            assert {"config.json", "adapter_model.safetensors"} <= set(repositories[f"models/me/{name}"])
            assert not {"adapter_config.json", "model.safetensors"} & set(repositories[f"models/me/{name}"])
            assert len(bases[name]["version"]) == 40
        for name, folder in others.items():
            repositories[f"models/me/{name}"] = repositories[f"models/me/{name}"] | files(folder)
        found = run("load", "somebody's")
    assert len(found) == 2
    for probs, of in found:
        assert of == bases
        for name in expected:
            torch.testing.assert_close(probs[name], expected[name], rtol=0, atol=1e-6)


def test_the_stock_trainer_resumes_and_keeps_the_best(over, tmp_path):
    """Its checkpoints hold all that `AutoModel` needs."""
    row = {name: value[1] for name, value in batch_of("bert").items()} | {"labels": LABELS[0]}

    def trainer(epochs):
        torch.manual_seed(0)
        arguments = TrainingArguments(
            str(tmp_path / "run"),
            num_train_epochs=epochs,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            save_strategy="epoch",
            eval_strategy="epoch",
            load_best_model_at_end=True,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        return Trainer(model=add_lora(over("bert")), args=arguments, train_dataset=[row] * 4, eval_dataset=[row] * 4)

    trainer(1).train()
    resumed = trainer(2)
    resumed.train(resume_from_checkpoint=True)
    loaded = AutoModel.from_pretrained(resumed.state.best_model_checkpoint)
    batch = {name: value[None] for name, value in row.items() if name != "labels"}
    expected = probs_of(resumed.model.eval(), batch)
    torch.testing.assert_close(probs_of(loaded, batch), expected, rtol=0, atol=1e-6)
    assert (expected - probs_of(over("bert"), batch)).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["text-ldl", "text-davani"])
def test_a_recipe_trains_adapters_on_any_trunk_and_resumes_exactly(name, recipe, sayings, tmp_path, monkeypatch):
    options = {"lora_rank": 2, "lora_alpha": 4, "lora_dropout": 0.1, "max_steps": 4, "save_strategy": "steps"}
    options |= {"save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1e-2}
    straight = train(recipe(name, **options))
    assert not (straight.model / "model.safetensors").exists()
    model, _, facts = load_model(straight.model)
    assert model.has_adapters and facts["recipe"]["lora_rank"] == model.config.lora_rank == 2
    expected, _ = predict(straight.model, sayings)
    merged, _ = predict(merge_lora(straight.model, tmp_path / "merged"), sayings)
    np.testing.assert_allclose(merged.probs, expected.probs, atol=1e-5)
    killed = recipe(name, **options, output_dir=str(tmp_path / "killed"))
    with monkeypatch.context() as patch:
        killed_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(killed)
    resumed = train(recipe(name, **options, output_dir=str(tmp_path / "killed")), resume=True)
    weights = [load_file(result.model / "adapter_model.safetensors") for result in (straight, resumed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items())


def test_a_recipe_trains_adapters_on_speech(over_trunk, wavlm_folder, corpus):
    result = train(
        over_trunk(wavlm_folder, lora_rank=2, learning_rate=1e-2, smooth=False, schedule={"trunk_learning_rate": 5e-2})
    )
    model, _, _ = load_model(result.model)
    moved = [bool(weight.any()) for name, weight in model.named_parameters() if "lora_B" in name]
    assert len(moved) == 4 and all(moved)
    probs = [predict(folder, corpus)[0].probs for folder in (result.model, *result.model.parent.glob("checkpoint-*"))]
    np.testing.assert_allclose(probs[1], probs[0], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "overrides", "rule"),
    [
        ("text-ldl", {"lora_dropout": 0.2}, "lora_dropout is set, and there is no lora_rank"),
        ("text-ldl", {"lora_rank": -1}, "lora_rank is -1; it must be a whole number"),
        (
            "speech-distribution",
            {"lora_rank": 8},
            "lora_rank is set and trunk is log-mel; set trunk to a pre-trained one",
        ),
        ("text-ldl", {"lora_rank": 8, "freeze_trunk": True}, "lora_rank is set and freeze_trunk is true"),
        (
            "text-ldl",
            {"lora_rank": 8, "schedule.unfreeze_epochs": [1], "schedule.unfreeze_layers": [1]},
            "lora_rank is set and schedule.unfreeze_epochs is set; remove schedule.unfreeze_epochs, or set lora_rank to 0",
        ),
        ("seedbert", {"lora_rank": 8}, "lora_rank is 8 and members is independent"),
        ("seedbert-lora", {"lora_dropout": 0.2}, "lora_dropout is 0.2 and members is lora"),
    ],
)
def test_recipes_that_do_not_fit_are_said(name, overrides, rule):
    with pytest.raises(ValueError, match=rule):
        load_recipe(name, overrides)


def test_the_example_of_the_page_runs(bert_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bert_folder, tmp_path / "roberta-base")
    tokenizer = AutoTokenizer.from_pretrained("roberta-base")
    rows = [{**tokenizer("good very good !"), "labels": [0.8, 0.2]}, {**tokenizer("so bad"), "labels": [0.1, 0.9]}]
    example = re.search(r"```python\n(.+?)```", PAGE.read_text(), re.DOTALL)[1]
    names = {"tokenizer": tokenizer, "rows": rows}
    exec(example, names)
    assert names["probs"].shape == (1, 2)
