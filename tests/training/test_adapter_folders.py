"""Folders and repositories of adapters: through every door the same, and what is damaged is refused at each."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import peft
import pytest
import torch
from hub_stub import serve
from safetensors.torch import load_file, save_file
from tiny_qwen2_audio import build_tiny_qwen2_audio
from transformers import AutoModel, Qwen2AudioForConditionalGeneration, Trainer, TrainingArguments

from annot_hf.models.adapter_files import digest_of, find_adapters
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio
from annot_hf.models.register import register_models
from annot_hf.training.inference import predict
from annot_hf.training.inputs import make_processor
from annot_hf.training.lora import add_lora, load_lora, save_lora
from annot_hf.training.outputs import load_model, merge_lora

QUESTION = [{"name": "emotion", "labels": ["angry", "happy", "sad"]}]
DOORS = {
    "load_model": lambda folder, out: load_model(folder),
    "class": lambda folder, out: DistributionQwen2Audio.from_pretrained(folder),
    "AutoModel": lambda folder, out: AutoModel.from_pretrained(folder),
    "merge": merge_lora,
}
DAMAGES = {
    "settings cut": "does not say what the adapters are for",
    "no base": "does not say what the adapters are for",
    "base of null": "says that the adapters are for None",
    "base of 5": "says that the adapters are for 5",
    "base gone": "gone",
    "base of another family": "is not a whole Qwen2-Audio",
    "base of another size": "is not a whole Qwen2-Audio",
    "base of other weights": "were trained on other weights than those of this model",
    "no weights": "adapter_model",
    "weights cut": "do not fit|cannot be read",
    "weights empty": "do not fit|cannot be read",
    "not weights": "do not fit|cannot be read",
    "no v_proj": "weights (differ|too few or too many)",
    "no lora_B of one": "weights (differ|too few or too many), for instance .*lora_B",
    "no head": "(weights differ, for instance|cannot be read) .*head",
    "another rank": "do not fit|cannot be read",
    "five labels": "do not fit|cannot be read",
    "a label's number is lost": "id2label",
    "not finite": "is not finite",
    "no configuration": "config.json",
}
ON_THE_HUB = """
import sys, torch
from transformers import AutoModel
from annot_hf import DistributionQwen2Audio, add_lora, load_lora, register_models
from annot_hf.training.inputs import make_processor
step, out = sys.argv[1:]
register_models()
wave = torch.linspace(-0.5, 0.5, 16_000).sin().numpy()
questions = [{"name": "emotion", "labels": ["angry", "happy", "sad"]}]
if step == "publish":
    model = DistributionQwen2Audio.from_lalm("me/base", questions=questions, lora_rank=2)
    adapted = add_lora(model)
    torch.manual_seed(1)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    adapted.push_to_hub("me/adapters", processor=make_processor(model.config, "me/base"))
    models = [adapted.eval()]
    whole = DistributionQwen2Audio.from_lalm("me/base", questions=questions)
    whole.push_to_hub("me/whole")
    for pushed, name in ((whole, "me/adapters"), (adapted, "me/whole")):
        try:
            pushed.push_to_hub(name)
        except ValueError as error:
            assert "would lie beside them; name another repository" in str(error)
        else:
            raise AssertionError(name)
elif step == "offline":
    models = [load_lora("me/adapters")]
else:
    assert not set(sys.modules) & {"peft.auto"}
    by_hand = DistributionQwen2Audio.from_lalm("me/base", questions=questions, revision=step)
    by_hand.load_adapter("me/adapters")
    models = [AutoModel.from_pretrained("me/adapters"), DistributionQwen2Audio.from_pretrained("me/adapters"), by_hand]
    assert {type(model) for model in models} == {DistributionQwen2Audio}
processor = make_processor(models[0].config, "me/adapters")
with torch.inference_mode():
    probs = [model.eval()(**models[0].prepare(processor, [wave])).probs for model in models]
torch.save((probs, models[0].config.lalm_revision), out)
"""


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def damaged(kind, folder, adapted, bert_folder, tmp_path):
    """A copy of a run's checkpoint with one thing wrong."""
    shutil.copytree(adapted / "model", folder)
    settings, weights = folder / "adapter" / "adapter_config.json", folder / "adapter" / "adapter_model.safetensors"
    held = {name: value.clone() for name, value in load_file(weights).items()}
    if kind.startswith("base"):
        if kind == "base of another size":
            base = build_tiny_qwen2_audio(tmp_path / "base")
            model = Qwen2AudioForConditionalGeneration.from_pretrained(base)
            model.resize_token_embeddings(500)
            model.save_pretrained(base)
        named = {
            "base of null": None,
            "base of 5": 5,
            "base gone": str(tmp_path / "gone"),
            "base of another family": str(bert_folder),
            "base of another size": str(tmp_path / "base"),
        }
        if kind == "base of other weights":
            named[kind] = str(build_tiny_qwen2_audio(tmp_path / "base", seed=1))
        changed(settings, base_model_name_or_path=named[kind])
    elif kind == "settings cut":
        settings.write_text('{"peft_type": "LORA"')
    elif kind == "no base":
        values = json.loads(settings.read_text())
        del values["base_model_name_or_path"]
        settings.write_text(json.dumps(values))
    elif kind == "no weights":
        weights.unlink()
    elif kind in ("weights cut", "weights empty"):
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2 if kind == "weights cut" else 0])
    elif kind == "not weights":
        weights.write_bytes(b"not weights")
    elif kind == "no configuration":
        (folder / "config.json").unlink()
    elif kind == "another rank":
        changed(settings, r=4)
    elif kind == "five labels":
        labels = ["a", "b", "c", "d", "e"]
        questions = [{"name": "emotion", "labels": labels}]
        changed(folder / "config.json", questions=questions, id2label=dict(enumerate(labels)), label2id=None)
    elif kind == "a label's number is lost":
        changed(folder / "config.json", id2label={"0": "angry", "2": "sad"}, label2id=None)
    elif kind == "not finite":
        name = next(name for name in held if "lora_A" in name)
        held[name][0, 0] = float("nan")
        save_file(held, weights)
    else:
        lost = {"no v_proj": "v_proj", "no lora_B of one": "layers.0.self_attn.q_proj.lora_B", "no head": "head"}[kind]
        save_file({name: value for name, value in held.items() if lost not in name}, weights)
    return folder


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_damaged_is_said_at_every_door(kind, adapted, bert_folder, tmp_path):
    register_models()
    folder = damaged(kind, tmp_path / "model", adapted, bert_folder, tmp_path)
    for door, opened in DOORS.items():
        if door == "AutoModel" and kind == "no configuration":
            continue  # the library's own words
        with pytest.raises((ValueError, OSError), match=DAMAGES[kind]) as caught:
            opened(folder, tmp_path / "out")
        if door in ("load_model", "merge"):
            assert type(caught.value) is ValueError and str(folder) in str(caught.value), (door, caught.value)
    assert not (tmp_path / "out").exists()


def taught(model, batch, steps=3):
    """The model, some steps on."""
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(steps):
        model.train()(**batch, labels=torch.tensor([[0.7, 0.2, 0.1]])).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


@pytest.fixture
def plain(lalm):
    """Makes a fresh model over the plain checkpoint."""
    return lambda **options: DistributionQwen2Audio.from_lalm(lalm, questions=QUESTION, lora_dropout=0.0, **options)


@pytest.fixture
def batch(plain, lalm):
    model = plain()
    wave = np.sin(np.linspace(0, 500, 16_000)).astype(np.float32)
    return dict(model.prepare(make_processor(model.config, lalm), [wave]))


def test_nothing_is_saved_beside_something_else(plain, batch, tmp_path):
    """Whichever was read later would be right for somebody."""
    register_models()
    adapted = taught(add_lora(plain()), batch)
    whole = plain()
    writers = {
        "whole": lambda folder: whole.save_pretrained(folder),
        "lora": lambda folder: save_lora(adapted, folder),
        "peft": lambda folder: adapted.save_pretrained(folder),
    }
    for first, writes in writers.items():
        writes(tmp_path / first)
        writes(tmp_path / first)  # the same kind is written over
        expected = AutoModel.from_pretrained(tmp_path / first).eval()(**batch).probs
        for second, also in writers.items():
            if second != first:
                with pytest.raises(ValueError, match="holds .* of a model, and .* would lie beside them; name another"):
                    also(tmp_path / first)
        assert torch.equal(AutoModel.from_pretrained(tmp_path / first).eval()(**batch).probs, expected)
    shutil.copy(tmp_path / "whole" / "model.safetensors", tmp_path / "lora")
    for door in (AutoModel.from_pretrained, load_model, DistributionQwen2Audio.from_pretrained):
        with pytest.raises(ValueError, match=r"has adapters and whole weights \(model\.safetensors\)"):
            door(tmp_path / "lora")


def test_adapters_name_the_weights_that_they_were_trained_on(plain, batch, tmp_path):
    register_models()
    merged = taught(add_lora(plain()), batch).merge_and_unload()
    for moved in (merged, taught(plain(), batch)):
        with pytest.raises(ValueError, match="weights are no longer those of .*; save the model, and read it again"):
            add_lora(moved)
    merged.save_pretrained(tmp_path / "own")
    own = DistributionQwen2Audio.from_pretrained(tmp_path / "own")
    adapted = taught(add_lora(own), batch)
    save_lora(adapted, tmp_path / "further")
    assert find_adapters(tmp_path / "further").base == str(tmp_path / "own")
    again = AutoModel.from_pretrained(tmp_path / "further").eval()
    torch.testing.assert_close(again(**batch).probs, adapted(**batch).probs, rtol=0, atol=1e-6)
    nameless = add_lora(DistributionQwen2Audio(plain().config))
    for save in (nameless.save_pretrained, lambda folder: save_lora(nameless, folder)):
        with pytest.raises(ValueError, match="in no checkpoint that they could name"):
            save(tmp_path / "nameless")


def test_training_goes_on_from_adapters(plain, batch, tmp_path):
    straight = taught(add_lora(plain()), batch)
    save_lora(straight, tmp_path)
    gone_on = load_lora(tmp_path)
    torch.testing.assert_close(gone_on.eval()(**batch).probs, straight(**batch).probs, rtol=0, atol=1e-6)
    for model in (gone_on, straight):
        taught(model, batch)
    torch.testing.assert_close(gone_on(**batch).probs, straight(**batch).probs, rtol=0, atol=1e-6)
    half = load_lora(tmp_path, dtype=torch.bfloat16)
    assert {one.dtype for one in half.parameters() if one.requires_grad} == {torch.float32}
    assert half.get_base_model().lalm.dtype == torch.bfloat16
    trained = [{name for name, one in model.named_parameters() if one.requires_grad} for model in (straight, gone_on)]
    assert trained[0] == trained[1]
    to_predict = DistributionQwen2Audio.from_pretrained(tmp_path)
    assert not any(one.requires_grad for one in to_predict.parameters())
    for model in (to_predict, straight):
        with pytest.raises(
            ValueError, match=r"has adapters already, which would be lost; go on with them by load_lora"
        ):
            add_lora(model)
    with pytest.raises(ValueError, match="has adapters around its weights"):
        straight.get_base_model().save_pretrained(tmp_path / "inner")


def test_a_refused_adapter_leaves_the_model_as_it_was(adapted, lalm, batch, bert_folder, tmp_path):
    for kind in ("not finite", "no v_proj", "no head", "another rank"):
        folder = damaged(kind, tmp_path / kind, adapted, bert_folder, tmp_path)
        fresh = DistributionQwen2Audio.from_lalm(lalm, **asked_of(adapted))
        before = fresh(**batch).probs
        with pytest.raises(ValueError, match=r"not finite|do not fit"):
            fresh.load_adapter(str(folder))
        assert torch.equal(fresh(**batch).probs, before)
        fresh.load_adapter(str(adapted / "model"))
        with pytest.raises(ValueError, match="has adapters already"):
            fresh.load_adapter(str(adapted / "model"), adapter_name="second")


def test_adapters_go_only_on_weights_that_are_as_they_were(plain, batch, tmp_path):
    save_lora(taught(add_lora(plain()), batch), tmp_path / "one")
    merged = load_lora(tmp_path / "one").merge_and_unload()
    moved = plain()
    with torch.no_grad():
        moved.lalm.model.multi_modal_projector.linear.weight += 0.1
    for model in (merged, moved):
        with pytest.raises(ValueError, match="trained on other weights than those of this model"):
            model.load_adapter(str(tmp_path / "one"))
    adapted = add_lora(plain())
    projector = adapted.get_base_model().lalm.model.multi_modal_projector.linear.weight
    with torch.no_grad():
        projector += 0.1
    for save in (adapted.save_pretrained, lambda folder: save_lora(adapted, folder)):
        with pytest.raises(ValueError, match="weights below the adapters have changed since these were put on"):
            save(tmp_path / "changed")
    with torch.no_grad():
        projector -= 0.1
    adapted.merge_adapter()
    save_lora(adapted, tmp_path / "merged in place")
    loaded = DistributionQwen2Audio.from_pretrained(tmp_path / "merged in place").eval()
    torch.testing.assert_close(loaded(**batch).probs, adapted.eval()(**batch).probs, rtol=0, atol=1e-5)


def test_adapters_that_could_not_be_read_again_are_not_saved(plain, tmp_path):
    model = plain()
    model.add_adapter(peft.LoraConfig(r=4, target_modules=["q_proj"]))
    other = peft.get_peft_model(plain(), peft.LoraConfig(r=4, target_modules=["q_proj"]))
    for save in (model.save_pretrained, lambda folder: save_lora(other, folder)):
        with pytest.raises(ValueError, match="could not be read again: r is 4, where the configuration has 8"):
            save(tmp_path / "other")
    assert not (tmp_path / "other" / "config.json").exists()


def test_no_way_round_the_checks(adapted, lalm, batch, tmp_path):
    (question,) = asked_of(adapted)["questions"]
    fresh = DistributionQwen2Audio.from_lalm(lalm, questions=[question])
    for source, at in (("model/adapter", {}), ("model", {"subfolder": "adapter"})):
        with pytest.raises(ValueError, match="has adapters and no config.json.* or give the folder that has it"):
            fresh.load_adapter(str(adapted / source), adapter_kwargs=at)
    with pytest.raises(ValueError, match="train what load_lora"):
        fresh.load_adapter(str(adapted / "model"), is_trainable=True)
    for options in ({"questions": [question | {"labels": ["x", "y"]}]}, {"prompt": "{labels}?"}, {"lora_alpha": 32}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is what the adapters of .* were trained with"):
            DistributionQwen2Audio.from_pretrained(adapted / "model", **options)
    both = shutil.copytree(adapted / "model", tmp_path / "both")
    for path in (both / "adapter").iterdir():
        shutil.copy(path, both)
    with pytest.raises(ValueError, match="has adapters and others at the top"):
        load_model(both)


def test_a_base_that_moved_and_one_with_another_head(plain, batch, lalm, tmp_path):
    shutil.copytree(lalm, tmp_path / "base")
    ask = {"questions": QUESTION, "lora_dropout": 0.0}
    model = taught(add_lora(DistributionQwen2Audio.from_lalm(tmp_path / "base", **ask)), batch)
    save_lora(model, tmp_path / "all" / "one")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"holds adapters for .*base \(base_model_name_or_path of its adapter_config"):
        DistributionQwen2Audio.from_pretrained(tmp_path / "all" / "one")
    onto = DistributionQwen2Audio.from_lalm(tmp_path / "moved", **ask)
    onto.load_adapter(str(tmp_path / "all" / "one"))
    onto.save_pretrained(tmp_path / "all" / "two")
    assert find_adapters(tmp_path / "all" / "two").base == str(tmp_path / "moved")
    for loaded in (
        DistributionQwen2Audio.from_pretrained(tmp_path / "all" / "two"),
        load_lora(tmp_path / "all", subfolder="two"),
    ):
        torch.testing.assert_close(loaded.eval()(**batch).probs, model(**batch).probs, rtol=0, atol=1e-6)
    plain().save_pretrained(tmp_path / "whole")
    asked = [{"name": "emotion", "labels": ["a", "b", "c", "d"]}]
    config = DistributionQwen2Audio.from_lalm(lalm, questions=asked).config
    other = DistributionQwen2Audio.from_pretrained(tmp_path / "whole", config=config, ignore_mismatched_sizes=True)
    save_lora(add_lora(other), tmp_path / "four")
    assert DistributionQwen2Audio.from_pretrained(tmp_path / "four").eval()(**batch).probs.shape == (1, 4)


def asked_of(adapted):
    """What the model of a run was asked, as `from_lalm` takes it."""
    config = json.loads((adapted / "model" / "config.json").read_text())
    return {"questions": config["questions"]}


def test_adapters_of_a_model_that_was_asked_otherwise_are_refused(adapted, lalm, tmp_path):
    (question,) = asked_of(adapted)["questions"]
    others = {
        "questions": {"questions": [question | {"labels": question["labels"][::-1]}]},
        "prompt": {"questions": [question], "prompt": "And? {labels}"},
        "attention_heads": {"questions": [question], "attention_heads": 4},
    }
    for name, options in others.items():
        model = DistributionQwen2Audio.from_lalm(lalm, **options)
        with pytest.raises(ValueError, match=f"are for a model whose {name} is"):
            model.load_adapter(str(adapted / "model"))
    other = build_tiny_qwen2_audio(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="trained on other weights"):
        DistributionQwen2Audio.from_lalm(other, questions=[question]).load_adapter(str(adapted / "model"))


def test_options_and_folders_within_folders(adapted, batch, tmp_path):
    shutil.copytree(adapted / "model", tmp_path / "all" / "one")
    expected = DistributionQwen2Audio.from_pretrained(adapted / "model").eval()(**batch).probs
    model = DistributionQwen2Audio.from_pretrained(tmp_path / "all", subfolder="one", entropy_weight=0.5)
    assert model.config.entropy_weight == 0.5 and torch.equal(model.eval()(**batch).probs, expected)
    with pytest.raises(ValueError, match=r"lora_alpha is 16\.0, where the configuration has 32"):
        changed(tmp_path / "all" / "one" / "config.json", lora_alpha=32)
        DistributionQwen2Audio.from_pretrained(tmp_path / "all", subfolder="one")


def test_a_run_s_checkpoint_predicts(adapted, corpus):
    (checkpoint,) = adapted.glob("checkpoint-*")
    expected = predict(adapted / "model", corpus)[0].probs
    np.testing.assert_allclose(predict(checkpoint, corpus)[0].probs, expected, atol=1e-6)


def test_without_the_library_that_is_said(adapted, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'annot-hf\[peft\]'"):
        load_model(adapted / "model")


def test_a_model_with_adapters_that_is_saved_again_is_the_same(adapted, corpus, tmp_path):
    model, processor, _ = load_model(adapted / "model")
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    expected = predict(adapted / "model", corpus, split="test")[0].probs
    np.testing.assert_allclose(predict(tmp_path / "again", corpus, split="test")[0].probs, expected, atol=1e-6)
    merged = merge_lora(tmp_path / "again", tmp_path / "merged")
    np.testing.assert_allclose(predict(merged, corpus, split="test")[0].probs, expected, atol=1e-5)
    (tmp_path / "again" / "config.json").unlink()
    with pytest.raises(ValueError, match="has adapters and no config.json"):
        DistributionQwen2Audio.from_pretrained(tmp_path / "again")


def test_published_adapters_load_by_name_and_stay_with_their_base(tmp_path):
    """Also when the repository of the base has moved on to other weights."""
    first = {path.name: path.read_bytes() for path in build_tiny_qwen2_audio(tmp_path / "first").iterdir()}
    other = {path.name: path.read_bytes() for path in build_tiny_qwen2_audio(tmp_path / "other", seed=1).iterdir()}
    repositories = {"models/me/base": first}
    with serve(repositories) as address:
        online = {"HF_ENDPOINT": address, "HF_TOKEN": "x", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        online["TRANSFORMERS_VERBOSITY"] = "warning"

        def run(step, home):
            environment = os.environ | online | {"HF_HOME": str(tmp_path / home)}
            command = [sys.executable, "-c", ON_THE_HUB, step, str(tmp_path / "seen.pt")]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            return *torch.load(tmp_path / "seen.pt"), done.stderr

        (expected,), commit, _ = run("publish", "mine")
        files = set(repositories["models/me/adapters"])
        assert {"config.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= files
        assert not {"adapter_config.json", "README.md", "model.safetensors"} & files
        assert json.loads(repositories["models/me/adapters"]["adapter/adapter_config.json"])["revision"] == commit
        repositories["models/me/base"] = other
        found, of, said = run(commit, "somebody's")
        online["HF_HUB_OFFLINE"] = "1"
        found += run("offline", "somebody's")[0]
    assert of == commit and len(commit) == 40
    for probs in found:
        torch.testing.assert_close(probs, expected, rtol=0, atol=1e-6)
    assert said.count("LOAD REPORT") == 1  # of `from_lalm`, whose head is fresh, and not of the adapters' models


def test_the_stock_trainer_resumes_and_keeps_the_best(lalm, tmp_path):
    """Its checkpoints hold all that `AutoModel` needs."""
    wave = np.sin(np.linspace(0, 500, 16_000)).astype(np.float32)
    base = DistributionQwen2Audio.from_lalm(lalm, questions=QUESTION, lora_dropout=0.0)
    row = {name: value[0] for name, value in base.prepare(make_processor(base.config, lalm), [wave]).items()}
    rows = [row | {"labels": torch.tensor([0.6, 0.3, 0.1])}] * 4

    def trainer(epochs):
        torch.manual_seed(0)
        model = add_lora(DistributionQwen2Audio.from_lalm(lalm, questions=QUESTION, lora_dropout=0.0))
        arguments = TrainingArguments(
            str(tmp_path),
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
        return Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)

    trainer(1).train()
    went_on = trainer(2)
    went_on.train(resume_from_checkpoint=True)
    register_models()
    loaded = AutoModel.from_pretrained(went_on.state.best_model_checkpoint).eval()
    batch = {name: value[None] for name, value in row.items()}
    expected = went_on.model.eval()(**batch).probs
    torch.testing.assert_close(loaded(**batch).probs, expected, rtol=0, atol=1e-6)
    start = base(**batch).probs
    assert (expected - start).abs().max() > 1e-2


def test_the_digest_is_that_of_the_weights_in_either_precision(lalm):
    models = [
        DistributionQwen2Audio.from_lalm(lalm, questions=QUESTION, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    first, second = (digest_of(model.lalm) for model in models)
    assert first == second == models[0].config.lalm_digest
    with torch.no_grad():
        models[0].lalm.model.language_model.layers[1].self_attn.o_proj.weight[5] += 0.5
    assert digest_of(models[0].lalm) != first
    assert digest_of(models[1].lalm.half()) is None and digest_of(models[1].lalm.to("meta")) is None


def test_what_loading_says_and_saving_refuses(adapted, tmp_path):
    folder, read = adapted / "model", DistributionQwen2Audio.from_pretrained
    model, info = read(folder, output_loading_info=True)
    assert not any(info.values())
    _, info = read(folder, adapters=False, output_loading_info=True)
    assert info["missing_keys"] and all(name.startswith("distribution_head") for name in info["missing_keys"])
    with pytest.raises(ValueError, match=r"push_to_hub is set.*call model\.push_to_hub"):
        model.save_pretrained(tmp_path / "again", push_to_hub=True)
    with pytest.raises(ValueError, match="There is neither a folder nor a repository '.*nowhere'"):
        merge_lora(tmp_path / "nowhere", tmp_path / "out")


def test_adapters_are_found_where_they_lie(adapted, lalm, tmp_path):
    assert find_adapters(lalm) is None and find_adapters(tmp_path) is None
    found = find_adapters(adapted / "model")
    assert (found.base, found.revision, found.subfolder) == (str(lalm), None, "adapter")
    (checkpoint,) = adapted.glob("checkpoint-*")
    assert find_adapters(checkpoint).subfolder == ""


def test_an_adapted_model_of_peft_itself_is_saved_alike(adapted, lalm, tmp_path):
    base = DistributionQwen2Audio.from_pretrained(adapted / "model", adapters=False)
    model = peft.PeftModel.from_pretrained(base, adapted / "model", subfolder="adapter")
    save_lora(model, tmp_path)
    held = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (tmp_path, adapted / "model")]
    assert held[0].keys() == held[1].keys() and all(
        torch.equal(held[1][name], value) for name, value in held[0].items()
    )
