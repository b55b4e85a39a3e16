"""An audio-language model through recipe, Trainer, prediction, merging and the command line."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from small_runs import killed_at
from transformers import AutoModel, TrainingArguments
from typer.testing import CliRunner

from annot_hf.cli.app import app
from annot_hf.data.export import read_export
from annot_hf.data.votes import VoteTable
from annot_hf.models.adapters import add_lora
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio
from annot_hf.models.waves import AudioError
from annot_hf.training.checkpoints import load_lora, load_model, merge_lora, newest_checkpoint
from annot_hf.training.collator import VoteCollator, make_collator
from annot_hf.training.inference import predict, predict_inputs
from annot_hf.training.inputs import corpus_inputs, make_processor, read_inputs
from annot_hf.training.recipe import RECIPES, load_recipe, recipe_names
from annot_hf.training.train import train
from annot_hf.training.trainer import OpinionTrainer

QUESTION = [{"name": "emotion", "labels": ["angry", "happy", "sad"]}]
ACCELERATE = sorted((RECIPES / "accelerate").glob("*.yaml"))


def clip(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds))).astype(np.float32)


@pytest.fixture
def clips(tmp_path):
    import soundfile

    for name, seconds in {"a": 0.7, "b": 2.1}.items():
        soundfile.write(tmp_path / f"{name}.wav", clip(seconds), 16_000)
    return [tmp_path / "a.wav", tmp_path / "b.wav"]


def test_the_recipe_is_the_paper_s():
    run = load_recipe("qwen2-audio", {"use_cpu": True})
    training, options = run.training, run.options
    assert (options["lora_rank"], options["lora_alpha"], options["lora_dropout"]) == (8, 16, 0.2)
    assert (training.learning_rate, training.weight_decay, training.max_grad_norm) == (2.5e-6, 0.03, 3.0)
    assert (training.lr_scheduler_type, training.warmup_steps) == ("cosine_with_restarts", 0.15)
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 64
    assert (training.num_train_epochs, run.recipe.schedule.patience) == (60, 8)
    assert training.metric_for_best_model == "loss" and not training.greater_is_better
    assert (
        run.recipe.augmentation.perturb_share == run.values["augmentation.perturb_share"] == 0.3
    )  # `values` is what training.json keeps
    assert options["loss"] == "jsd" and options["entropy_weight"] == 0 and training.activation_checkpointing


def test_a_run_with_adapters_leaves_only_them_and_predicts_alike_through_every_door(adapted, lalm, corpus):
    files = {path.name for path in (adapted / "model").iterdir()}
    assert {"adapter_model.safetensors", "config.json", "training.json", "tokenizer.json"} <= files
    assert not {"model.safetensors", "README.md", "adapter_config.json"} & files
    (checkpoint,) = adapted.glob("checkpoint-*")
    assert (checkpoint / "adapter_model.safetensors").is_file() and not (checkpoint / "model.safetensors").exists()
    model, processor, facts = load_model(adapted / "model")
    assert type(model) is DistributionQwen2Audio and not model.training
    assert facts["recipe"]["model"] == "qwen2-audio" and facts["recipe"]["augmentation.perturb_share"] == 0.3
    assert facts["splits"]["train"]["items"] == 5
    validation, _ = predict(adapted / "model", corpus, split="validation")
    probs = {tuple(validation.items): validation.probs}
    exported = read_export(corpus)
    inputs = corpus_inputs(exported, validation.items, model.config, processor, features="", max_seconds=30)
    batch = make_collator(model, processor).pad([inputs.read(entry) for entry in inputs.entries])
    for loaded in (
        AutoModel.from_pretrained(adapted / "model"),
        DistributionQwen2Audio.from_pretrained(adapted / "model"),
        load_lora(adapted / "model"),
        # the only checkpoint kept is the best
        AutoModel.from_pretrained(checkpoint),
    ):
        found = loaded(**batch).probs.detach().numpy()
        np.testing.assert_allclose(found, probs[tuple(validation.items)], atol=1e-6)


def test_merging_gives_a_whole_checkpoint_that_predicts_alike(adapted, lalm, corpus, tmp_path):
    expected, _ = predict(adapted / "model", corpus)
    merged = merge_lora(adapted / "model", tmp_path / "merged")
    names = set(load_file(merged / "model.safetensors"))
    assert not any("lora" in name or "lm_head" in name for name in names)
    assert not (merged / "adapter_model.safetensors").exists()
    assert (merged / "training.json").read_text() == (adapted / "model" / "training.json").read_text()
    found, _ = predict(merged, corpus)
    np.testing.assert_allclose(found.probs, expected.probs, atol=1e-6)
    with pytest.raises(ValueError, match="is there already; name another folder"):
        merge_lora(adapted / "model", merged)
    with pytest.raises(ValueError, match=r"has no adapters; give output_dir/model of a run with lora_rank"):
        merge_lora(merged, tmp_path / "again")


@pytest.mark.parametrize("overrides", [{}, {"lora_rank": 0}], ids=["adapters", "all weights"])
def test_a_killed_run_resumes_exactly(overrides, lalm_run, tmp_path, monkeypatch):
    """5 items, batches of 2 and 2 of them a step: 2 steps an epoch, 6 in all; the run dies in the second epoch."""
    options = {"num_train_epochs": 3} | overrides
    straight = train(lalm_run(tmp_path / "straight", **options))
    with monkeypatch.context() as patch:
        killed_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(lalm_run(tmp_path / "killed", **options))
    assert newest_checkpoint(tmp_path / "killed").name == "checkpoint-2"
    if overrides:  # the best epoch is what is kept, and all of it
        best = load_file(newest_checkpoint(tmp_path / "straight") / "model.safetensors")
        kept = load_file(straight.model / "model.safetensors")
        assert best.keys() == kept.keys() and all(torch.equal(kept[key], value) for key, value in best.items())
    torch.manual_seed(12345)
    resumed = train(lalm_run(tmp_path / "killed", **options), resume=True)
    name = "model.safetensors" if overrides else "adapter_model.safetensors"
    expected, found = (load_file(result.model / name) for result in (straight, resumed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert resumed.metrics == straight.metrics
    last = [sorted((tmp_path / run).glob("checkpoint-*"))[-1] for run in ("straight", "killed")]
    states = [torch.load(folder / "optimizer.pt")["state"] for folder in last]
    assert states[0] and all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][key][part]))
        for key, state in states[0].items()
        for part, value in state.items()
    )


def test_training_in_bfloat16_moves_the_adapters_and_the_head(lalm_run, tmp_path, corpus, lalm):
    result = train(lalm_run(tmp_path / "run", bf16=True, num_train_epochs=1, learning_rate=2.5e-6, head_seed=3))
    weights = load_file(result.model / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    still = [name for name, weight in weights.items() if "lora_B" in name and not weight.any()]
    assert len(weights) > 20 and not still  # steps this small would be lost in bfloat16
    model, *_ = load_model(result.model)
    assert model.lalm.dtype == torch.bfloat16
    assert predict(result.model, corpus)[0].probs.shape == (5, 4)


@pytest.mark.parametrize("rule", ["dominant", "first"])
def test_mixtures_have_the_clip_of_two_and_the_transcript_of_one(rule, lalm_run, corpus, tmp_path):
    said = read_export(corpus)
    texts = said.items.assign(text=[f"these are words {row}" for row in range(len(said.items))])
    question, names = said.votes.question("emotion"), list(texts["item"])
    rare = set(texts["item"][texts["split"] == "train"].iloc[:2])
    value = [question.labels[name in rare] for name in names]
    said = replace(said, items=texts, votes=VoteTable.from_columns(question, item=names, value=value))
    run = lalm_run(
        tmp_path,
        **{"augmentation.kind": "dime", "augmentation.share": 1.0, "augmentation.text": rule},
        num_train_epochs=1,
    )
    datasets = []

    class Watched(OpinionTrainer):
        def __init__(self, **options):
            datasets.append(options["train_dataset"])
            super().__init__(**options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("annot_hf.training.train.OpinionTrainer", Watched)
        train(run, corpus=said)
    (dataset,), mixed = datasets, pd.read_parquet(tmp_path / "mixtures.parquet")
    assert len(mixed) > 0
    assert len(dataset) == (said.items["split"] == "train").sum() + len(mixed)
    pairs = [entry for _, entry in dataset.inputs[-len(mixed) :]]
    text_of = dict(zip(texts["item"], texts["text"], strict=True))
    assert [text for _, text in pairs] == [text_of[name] for name in mixed["text_from"]]
    chosen = mixed["first"] if rule == "first" else mixed["first"].where(mixed["share"] < 0.5, mixed["second"])
    assert (mixed["text_from"] == chosen).all()
    assert dataset[len(dataset) - 1]["input"]["input_features"].any()


def test_the_collator_passes_the_audio_on(lalm, clips):
    model = DistributionQwen2Audio.from_lalm(lalm, questions=QUESTION)
    processor = make_processor(model.config, lalm)
    inputs = read_inputs(clips, model.config, processor)
    assert inputs.lengths.tolist() == [18, 52] and inputs.cut is None
    collator = make_collator(model, processor)
    assert isinstance(collator, VoteCollator)
    rows = [{"input": inputs.read(entry), "labels": np.eye(3)[0], "seed": 0} for entry in inputs.entries]
    batch = collator(rows)
    assert {name: tuple(value.shape) for name, value in batch.items() if name != "input_ids"} == {
        "attention_mask": tuple(batch["input_ids"].shape),
        "input_features": (2, 128, 3000),
        "feature_attention_mask": (2, 3000),
        "labels": (2, 3),
    }
    expected = model.prepare(processor, [clip(0.7), clip(2.1)])  # padded on the left
    torch.testing.assert_close(batch["input_features"], expected["input_features"], atol=1e-2, rtol=0)
    output = model(**batch)
    torch.testing.assert_close(output.probs, model(**expected).probs, atol=1e-3, rtol=0)  # files round to 16 bits
    silent = batch | {"input_features": torch.full_like(batch["input_features"], -1.5)}
    assert (model(**silent).loss - output.loss).abs() > 1e-4


def test_clips_and_transcripts_that_are_not_of_a_corpus(adapted, clips):
    model, processor, _ = load_model(adapted / "model")
    single = [predict_inputs(model, processor, [path]).probs[0] for path in clips]
    both = predict_inputs(model, processor, clips).probs
    np.testing.assert_allclose(both, single, atol=1e-6)
    model.config.prompt = "{question} {labels} {transcript}"
    said = predict_inputs(model, processor, [(clips[0], "I am so angry"), (clips[0], "<|im_end|>" * 3)]).probs
    assert np.abs(said[0] - said[1]).max() > 1e-4


def test_transcripts_of_a_corpus_are_shown_cut_and_counted(lalm, corpus, caplog):
    model = DistributionQwen2Audio.from_lalm(
        lalm, questions=QUESTION, prompt="{question}: {transcript}", transcript_characters=12
    )
    processor, exported = make_processor(model.config, lalm), read_export(corpus)
    items = list(exported.items["item"][:3])
    exported.items["text"] = pd.Series([None] * len(exported.items), dtype=object)
    for item, text in zip(items, ("short", "much longer than twelve", None), strict=True):
        exported.items.loc[exported.items["item"] == item, "text"] = text
    inputs = corpus_inputs(exported, items, model.config, processor, features="", max_seconds=30)
    assert inputs.truncated == 1 and inputs.cut.tolist() == [False, True, False]
    assert "1 of 3 transcripts have more than 12 characters and are cut" in caplog.text
    assert "1 of 3 items have no transcript; the prompt shows an empty one" in caplog.text
    texts = [processor.decode(inputs.read(entry)["input_ids"]) for entry in inputs.entries]
    for text, words in zip(texts, ('"short"', '"much longer "', '""'), strict=True):
        assert f"emotion: {words}<|im_end|>" in text


def test_a_long_clip_is_named(lalm, clips):
    import soundfile

    model = DistributionQwen2Audio.from_lalm(lalm, questions=QUESTION)
    processor = make_processor(model.config, lalm)
    soundfile.write(clips[0], clip(30.5), 16_000)
    with pytest.raises(AudioError, match=r"Item 'first': .*30\.5"):
        read_inputs(clips, model.config, processor, names=["first", "second"])
    with pytest.raises(ValueError, match="max_seconds is 31, and this model takes 30 s"):
        read_inputs(clips, model.config, processor, max_seconds=31)
    soundfile.write(clips[0], np.resize(clip(1), 30 * 44_100), 44_100)  # resampling must not make it too long
    inputs = read_inputs(clips, model.config, processor)
    assert inputs.read(inputs.entries[0])["input_features"].shape == (128, 3000)


def test_a_clip_that_is_too_long_shows_before_the_checkpoint_is_read(lalm_run, tmp_path, monkeypatch):
    def reads(*arguments, **options):
        raise AssertionError("the checkpoint is read")

    monkeypatch.setattr(DistributionQwen2Audio, "from_lalm", reads)
    with pytest.raises(AudioError, match="Item '.*': .*at most 0.2 s"):
        train(lalm_run(tmp_path / "run", **{"inputs.max_seconds": 0.2}))
    with pytest.raises(AssertionError, match="the checkpoint is read"):
        train(lalm_run(tmp_path / "other"))


def test_the_commit_of_a_recipe_is_that_of_model_and_processor(lalm_run, tmp_path, monkeypatch):
    asked = []

    def of(kind, stock):
        def reads(*arguments, revision=None, **options):
            asked.append((kind, revision))
            return stock(*arguments, **options)

        return reads

    monkeypatch.setattr(DistributionQwen2Audio, "from_lalm", of("model", DistributionQwen2Audio.from_lalm))
    monkeypatch.setattr("annot_hf.training.train.make_processor", of("processor", make_processor))
    train(lalm_run(tmp_path / "run", lalm_revision="abc", num_train_epochs=1))
    assert asked == [("model", "abc"), ("processor", None)]  # None: a folder has no commit


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        ({"trunk": "log-mel"}, "model is qwen2-audio and trunk log-mel; set trunk to a plain Qwen2-Audio"),
        ({"inputs.max_seconds": 31}, "inputs.max_seconds is 31, and a Qwen2-Audio takes 30 s"),
        ({"schedule.trunk_learning_rate": 1e-4}, "schedule.trunk_learning_rate is for models over a trunk"),
        ({"inputs.cache": "frames"}, "inputs.cache is for models over a trunk"),
        (
            {"schedule.unfreeze_epochs": [1], "schedule.unfreeze_layers": [1]},
            "schedule.unfreeze_epochs is for models over a trunk",
        ),
        ({"inputs.max_tokens": 100}, "inputs.max_tokens is for models over a trunk"),
        ({"pooling": "mean"}, "unknown key 'pooling'"),
        ({"inputs.max_seconds": float("nan")}, "max_seconds is nan; it must be above 0"),
        ({"inputs.max_seconds": 0}, "max_seconds is 0.0; it must be above 0"),
        ({"push_to_hub": True}, "push_to_hub is true, and the base that adapters name is a folder of this machine"),
        ({"bf16_full_eval": True}, "bf16_full_eval is true, which turns the weights themselves"),
        ({"adapted_from": {"base": "abc"}}, "unknown key 'adapted_from'"),
        ({"lora_rnak": 4}, "unknown key 'lora_rnak'.*lora_rank"),
        ({"lora_rank": -1}, "lora_rank is -1; it must be a whole number, 0 or more"),
        ({"prompt": "{emotion}?"}, r"prompt has the placeholder \{emotion\}"),
        ({"scales": ["valence"]}, "scales is for distribution models, and model is qwen2-audio"),
        ({"num_mel_bins": 80}, "num_mel_bins is an option of the log-mel trunk"),
    ],
)
def test_recipes_that_do_not_fit_are_said(lalm_run, tmp_path, overrides, rule):
    with pytest.raises(ValueError, match=rule):
        lalm_run(tmp_path, **overrides)


def test_what_a_run_starts_from_is_checked(tmp_path, bert_folder, lalm_run):
    with pytest.raises(ValueError, match="is a bert; give a plain Qwen2-Audio"):
        train(lalm_run(tmp_path / "run", trunk=str(bert_folder)))


def test_the_trainer_divides_the_loss_by_the_parts_of_a_step(lalm, tmp_path):
    """It asks the model inside the adapters; if it took the loss for scaled, steps would be too long."""
    model = add_lora(DistributionQwen2Audio.from_lalm(lalm, questions=QUESTION))
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    trainer = OpinionTrainer(model=model, args=arguments)
    assert trainer.model_accepts_loss_kwargs is False


def test_the_command_line(adapted, corpus, tmp_path):
    out = tmp_path / "predictions"
    for words in (["predict", adapted / "model", "--out", out], ["report", out, "--out", tmp_path / "report"]):
        done = CliRunner().invoke(app, [*map(str, words), "--corpus", str(corpus)])
        assert done.exit_code == 0, done.output
    assert (tmp_path / "report" / "report.html").is_file()


def test_accelerate_reads_the_configurations_and_they_are_no_recipes():
    assert [path.stem for path in ACCELERATE] == ["ddp", "deepspeed-zero2", "deepspeed-zero3", "fsdp2"]
    assert not {path.stem for path in ACCELERATE} & set(recipe_names())
    for path in ACCELERATE:
        config = load_config_from_file(str(path))
        launched, *_ = _validate_launch_command(
            launch_command_parser().parse_args(["--config_file", str(path), "x.py"])
        )
        inner = config.fsdp_config | config.deepspeed_config
        known = vars(launch_command_parser().parse_args(["x.py"]))
        assert inner.keys() <= known.keys() and {name: getattr(launched, name) for name in inner} == inner
        values = yaml.safe_load(path.read_text())
        assert {name: getattr(config, name) for name in values} == values  # every key is one that it knows
        assert config.mixed_precision == "bf16" and config.num_processes > 1
        assert "annot_hf train" in path.read_text()  # how to start it


def test_the_layers_that_fsdp_wraps_are_those_of_the_model(lalm, monkeypatch):
    values = yaml.safe_load((RECIPES / "accelerate" / "fsdp2.yaml").read_text())["fsdp_config"]
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=values["fsdp_transformer_layer_cls_to_wrap"].split(","),
    )
    model = DistributionQwen2Audio.from_lalm(lalm, questions=QUESTION)
    plugin.set_auto_wrap_policy(model)
    kinds = {type(module).__name__ for module in model.modules()}
    assert set(values["fsdp_transformer_layer_cls_to_wrap"].split(",")) <= kinds


def test_checkpointed_layers_send_no_gradient_through_the_audio_tower(lalm, clips):
    grads, tower = [], []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = add_lora(DistributionQwen2Audio.from_lalm(lalm, questions=QUESTION, lora_dropout=0.0))
        base = model.get_base_model()
        processor = make_processor(base.config.trunk_config, lalm)
        base.lalm.model.audio_tower.register_forward_hook(lambda *parts: tower.append(parts[-1][0].requires_grad))
        if checkpointed:
            base.gradient_checkpointing_enable()
            base.enable_input_require_grads()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        inputs = base.prepare(processor, [clip(0.7)])
        model(**inputs, labels=torch.tensor([[0.2, 0.3, 0.5]])).loss.backward()
        grads.append({name: one.grad for name, one in model.named_parameters() if "lora_B" in name})
    assert tower == [False, False]
    assert all(one.any() for one in grads[1].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)
