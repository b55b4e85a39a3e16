"""Clips that change in pitch and tempo while a model learns: always by seed, item and epoch, and only in training."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from safetensors.torch import load_file
from small_runs import killed_at
from tiny_qwen2_audio import build_tiny_qwen2_audio
from torch.utils.data import DataLoader
from transformers import TrainerState

from annot_hf.data.export import read_export
from annot_hf.data.votes import VoteTable
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio
from annot_hf.training.augment import Perturbation
from annot_hf.training.checkpoints import newest_checkpoint
from annot_hf.training.collator import BucketSampler
from annot_hf.training.inference import predict
from annot_hf.training.inputs import make_processor, read_inputs
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import train
from annot_hf.training.trainer import EpochOfSampler, OpinionTrainer

ALWAYS = {"augmentation.perturb_share": 1.0, "num_train_epochs": 2}
MID_EPOCH = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}


@pytest.fixture(scope="module")
def lalm(tmp_path_factory):
    return build_tiny_qwen2_audio(tmp_path_factory.mktemp("lalm"))


@pytest.fixture
def asked(monkeypatch):
    """Item and epoch of every clip that may be changed, as they are asked about."""
    found, stock = [], Perturbation.apply

    def apply(self, wave, rate, *, item, epoch):
        found.append((item, epoch))
        return stock(self, wave, rate, item=item, epoch=epoch)

    monkeypatch.setattr(Perturbation, "apply", apply)
    return found


@pytest.fixture
def datasets(monkeypatch):
    """The datasets of every trainer that is made."""
    found, stock = [], OpinionTrainer.__init__

    def init(self, **options):
        found.append((options["train_dataset"], options["eval_dataset"]))
        stock(self, **options)

    monkeypatch.setattr(OpinionTrainer, "__init__", init)
    return found


def weights(result):
    return load_file(result.model / "model.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(other[name], value) for name, value in one.items())


def items_of(corpus, split):
    return sorted(corpus.items["item"][corpus.items["split"] == split])


def test_every_training_clip_is_asked_about_once_an_epoch_and_no_other_ever(
    over_trunk, wavlm_folder, corpus, asked, datasets
):
    result = train(over_trunk(wavlm_folder, **ALWAYS | {"seed": 7}))
    names = items_of(read_export(corpus), "train")
    assert sorted(asked) == [(item, epoch) for item in names for epoch in (0, 1)]
    assert json.loads((result.model / "training.json").read_text())["recipe"]["augmentation.perturb_share"] == 1.0
    asked.clear()
    predict(result.model, corpus, split="train")
    ((dataset, validation),) = datasets
    clean = [dataset[row]["input"] for row in range(len(dataset))]
    assert not asked and dataset.perturbation == Perturbation(1.0, 7) and validation.perturbation is None
    for row, wave in enumerate(clean):
        for epoch in (0, 1):
            _, tempo = dataset.perturbation.draw(dataset.targets.items[row], epoch)
            heard = dataset[row, epoch]["input"]
            assert heard.dtype == np.float32 and len(heard) == round(len(wave) / tempo)
            changed = dataset.perturbation.draw(dataset.targets.items[row], epoch) != (0, 1)
            assert np.array_equal(heard, wave) != changed
        np.testing.assert_array_equal(validation[row, 3]["input"], validation[row]["input"])


def test_workers_change_nothing(over_trunk, wavlm_folder, tmp_path):
    found = {
        name: weights(train(over_trunk(wavlm_folder, **ALWAYS | options, output_dir=str(tmp_path / name))))
        for name, options in {
            "none": {},
            "two": {"dataloader_num_workers": 2},
            "clean": {"augmentation.perturb_share": 0.0},
        }.items()
    }
    assert equal(found["none"], found["two"])
    assert not equal(found["none"], found["clean"])


def test_workers_that_outlive_an_epoch_hear_of_the_next(over_trunk, wavlm_folder, datasets):
    train(over_trunk(wavlm_folder, **ALWAYS))
    ((dataset, _),) = datasets
    sampler = BucketSampler(dataset.lengths, 2, with_epoch=True)
    loader = DataLoader(
        dataset,
        2,
        sampler=sampler,
        num_workers=1,
        persistent_workers=True,
        collate_fn=lambda rows: [r["input"] for r in rows],
    )
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected = [dataset[row, epoch]["input"] for row, _ in sampler]
        heard = [wave for batch in loader for wave in batch]
        assert all(np.array_equal(one, other) for one, other in zip(heard, expected, strict=True))


def test_a_run_killed_inside_an_epoch_resumes_exactly(over_trunk, wavlm_folder, tmp_path, monkeypatch, asked):
    """5 items, batches of 2: 3 steps an epoch; the checkpoint is of step 4, inside the second epoch."""
    options = ALWAYS | MID_EPOCH
    straight = train(over_trunk(wavlm_folder, **options, output_dir=str(tmp_path / "straight")))
    whole = list(asked)
    with monkeypatch.context() as patch:
        killed_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            train(over_trunk(wavlm_folder, **options, output_dir=str(tmp_path / "killed")))
    assert newest_checkpoint(tmp_path / "killed").name == "checkpoint-4"
    torch.manual_seed(12345)
    asked.clear()
    resumed = train(over_trunk(wavlm_folder, **options, output_dir=str(tmp_path / "killed")), resume=True)
    assert asked == whole[7:]  # the second batch of the second epoch comes first
    assert equal(weights(straight), weights(resumed)) and resumed.metrics == straight.metrics
    last = [load_file(newest_checkpoint(tmp_path / run) / "model.safetensors") for run in ("straight", "killed")]
    assert equal(*last)
    with pytest.raises(ValueError, match=r"another recipe or corpus: augmentation.perturb_share changed"):
        train(
            over_trunk(
                wavlm_folder, **options | {"augmentation.perturb_share": 0.5}, output_dir=str(tmp_path / "killed")
            ),
            resume=True,
        )


@pytest.mark.parametrize("processes", [1, 2])
def test_the_sampler_hears_of_the_epoch_where_several_processes_resume_inside_one(processes):
    """The order was that of epoch 0 with two processes: neither accelerate nor the stock loop reached the sampler."""
    PartialState(cpu=True)

    def shares(skipped):
        sampler = BucketSampler([1] * 12, 2, seed=3, with_epoch=True)
        loader = DataLoader(list(range(12)), 2, sampler=sampler)
        loader = prepare_data_loader(loader, num_processes=processes, process_index=0, put_on_device=False)
        EpochOfSampler().on_epoch_begin(None, TrainerState(epoch=1 + skipped / 3), None, train_dataloader=loader)
        return list(skip_first_batches(loader, skipped).batch_sampler if skipped else loader.batch_sampler)

    sampler = BucketSampler([1] * 12, 2, seed=3)
    sampler.set_epoch(1)
    order = list(sampler)
    expected = [[(row, 1) for row in order[start : start + 2]] for start in range(0, 12, 2 * processes)]
    assert shares(0) == expected and shares(1) == expected[1:]


def test_mixtures_are_clips_too_and_are_changed(lalm, corpus, tmp_path, asked, datasets):
    exported = read_export(corpus)
    question, names = exported.votes.question("emotion"), list(exported.items["item"])
    rare = set(items_of(exported, "train")[:2])
    value = [question.labels[name in rare] for name in names]
    exported = replace(exported, votes=VoteTable.from_columns(question, item=names, value=value))
    values = {"trunk": str(lalm), "corpus": str(corpus), "output_dir": str(tmp_path), "question": "emotion"}
    values |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "dataloader_num_workers": 0}
    values |= {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "augmentation.kind": "dime",
        "augmentation.share": 1.0,
    }
    train(load_recipe("qwen2-audio", values | ALWAYS), corpus=exported)
    ((dataset, _),) = datasets
    mixed = [item for item in dataset.targets.items if item not in names]
    assert mixed and sorted(asked) == sorted((item, epoch) for item in dataset.targets.items for epoch in (0, 1))
    kinds = set()
    for row, epoch in itertools.product([0, len(dataset) - 1], range(8)):  # a clip and a mixture
        clean, heard = dataset[row]["input"], dataset[row, epoch]["input"]
        drawn = dataset.perturbation.draw(dataset.targets.items[row], epoch)
        same = np.array_equal(clean["input_features"], heard["input_features"])
        assert same == (drawn == (0, 1))
        frames = [clip["feature_attention_mask"].sum() for clip in (clean, heard)]
        assert abs(frames[1] - frames[0] / drawn[1]) <= 1.5
        kinds.add((row, drawn[0] != 0, drawn[1] != 1))
    assert len(kinds) == 6 and dataset.targets.items[-1] in mixed


def test_a_clip_as_long_as_the_model_hears_is_cut_when_it_is_slower(lalm, tmp_path):
    model = DistributionQwen2Audio.from_lalm(lalm, questions=[{"name": "emotion", "labels": ["angry", "sad"]}])
    processor = make_processor(model.config, lalm)
    longest = (0.1 * np.random.default_rng(0).normal(size=30 * 16_000)).astype(np.float32)
    for name, wave in {"long": longest, "short": longest[:160], "silent": 0 * longest[:16_000]}.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000)
    inputs = read_inputs([tmp_path / f"{name}.wav" for name in ("long", "short", "silent")], model.config, processor)
    perturbation = Perturbation(1.0)
    heard = {
        (row, tempo < 1): inputs.read(
            entry, lambda wave, rate, epoch=epoch: perturbation.apply(wave, rate, item="a", epoch=epoch)
        )
        for row, entry in enumerate(inputs.entries)
        for epoch in range(12)
        for _, tempo in [perturbation.draw("a", epoch)]
        if tempo != 1
    }
    assert set(heard) == {(row, slower) for row in range(3) for slower in (False, True)}
    for (row, slower), found in heard.items():
        frames = found["feature_attention_mask"].sum()
        assert found["input_features"].shape == (128, 3000) and np.isfinite(found["input_features"]).all()
        if row == 0:
            assert frames == 3000 if slower else 2857 <= frames < 3000
        if row == 2:  # as loud in every frame: not at all
            assert np.ptp(found["input_features"]) == 0


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (
            ["augmentation.perturb_share=-0.1"],
            r"augmentation: perturb_share is -0\.1; give a probability from 0 \(never\)",
        ),
        (["augmentation.perturb_share=1.5"], r"augmentation: perturb_share is 1\.5; give a probability"),
        (["augmentation.perturb_share=.nan"], "augmentation: perturb_share is nan; give a probability"),
        (["augmentation.perturb_share=x"], "augmentation.perturb_share is 'x'; it must be a number"),
        (["augmentation.perturb_share=true"], "augmentation.perturb_share is True; it must be a number"),
        (["augmentation.perturb_share=[0.3]"], r"augmentation.perturb_share is \[0\.3\]; it must be a number"),
        (["augmentation.pertub_share=0.3"], "unknown key 'augmentation.pertub_share'.*augmentation.perturb_share"),
    ],
)
def test_shares_that_are_none_are_said(words, rule):
    for recipe in ("qwen2-audio", "speech-distribution"):
        with pytest.raises(ValueError, match=rf"{recipe}\.yaml with your [a-z._]+: {rule}"):
            load_recipe(recipe, words)


def test_inputs_that_are_kept_cannot_change(
    over_trunk, wavlm_folder, whisper_folder, bert_folder, small_run, tmp_path, asked
):
    with pytest.raises(
        ValueError, match="augmentation.perturb_share is 0.3 and trunk is log-mel, so that .* kept; choose a waveform"
    ):
        small_run("distribution", tmp_path, **{"augmentation.perturb_share": 0.3})
    frozen = {"freeze_trunk": True, "augmentation.perturb_share": 0.3}
    with pytest.raises(ValueError, match="inputs.cache is frames, so that .* once and kept; set it to none, or remove"):
        over_trunk(wavlm_folder, **{"inputs.cache": "frames"}, **frozen)
    assert over_trunk(wavlm_folder, **frozen).recipe.augmentation.perturb_share == 0.3  # encoded afresh in every epoch
    with pytest.raises(
        ValueError, match=r"perturb_share is 0\.3, and a bert trunk reads text, .*; set augmentation.perturb_share to 0"
    ):
        train(over_trunk(bert_folder, **{"augmentation.perturb_share": 0.3}))
    with pytest.raises(
        ValueError, match=r"features of a whisper trunk are computed once and kept; set augmentation.copies"
    ):
        train(over_trunk(whisper_folder, **{"augmentation.perturb_share": 0.3}))
    assert not asked
