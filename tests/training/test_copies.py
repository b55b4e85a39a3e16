"""Perturbed copies of training clips: what they undergo, which of them an epoch learns from, for every audio trunk."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from small_runs import killed_at, simulated_export

from annot_hf.data.audio import MixedClip, load_audio
from annot_hf.data.conditions import CONDITION_KINDS, Condition
from annot_hf.data.export import read_export
from annot_hf.models.waves import log_mel
from annot_hf.training.augment import Copies
from annot_hf.training.checkpoints import newest_checkpoint
from annot_hf.training.collator import BucketSampler, VoteCollator, make_collator
from annot_hf.training.inference import predict
from annot_hf.training.train import train
from annot_hf.training.trainer import OpinionTrainer

TWO = {"augmentation.copies": 2, "num_train_epochs": 2}
ITEMS = [f"item{number}" for number in range(1500)]


@pytest.fixture
def trainers(monkeypatch):
    """Every trainer that is made."""
    found, stock = [], OpinionTrainer.__init__

    def init(self, **options):
        stock(self, **options)
        found.append(self)

    monkeypatch.setattr(OpinionTrainer, "__init__", init)
    return found


def weights(result):
    return load_file(result.model / "model.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(other[name], value) for name, value in one.items())


def perturbed(wave, chain, item):
    """The wave after every condition of the chain."""
    for condition in chain:
        wave = condition.apply(wave, 16_000, item=item)
    return wave


def test_a_copy_depends_on_the_item_and_its_number_only_so_that_seeds_share_features():
    copies = Copies(3, seed=5)
    chains = [copies.conditions(item, version) for item in ITEMS[:200] for version in (1, 2, 3)]
    assert chains == [Copies(7, seed=5).conditions(item, version) for item in ITEMS[:200] for version in (1, 2, 3)]
    assert len(set(chains)) > 500  # one in nine has at most a codec
    assert Copies(3, seed=6).chains(ITEMS[:200], 1) == copies.chains(ITEMS[:200], 1)
    assert (Copies(3, seed=6).draw(ITEMS, 1) != copies.draw(ITEMS, 1)).mean() > 0.5
    assert copies.conditions("a", 0) == () and all(Condition.parse(str(one)) for chain in chains for one in chain)


def test_a_third_of_the_copies_has_noise_a_third_a_line_and_a_quarter_a_room():
    chains = Copies(2).chains(ITEMS, 1) + Copies(2).chains(ITEMS, 2)
    counts = Counter(one.name for chain in chains for one in chain)
    assert set(counts) == set(CONDITION_KINDS)

    def share(*names):
        return sum(counts[name] for name in names) / len(chains)

    assert share("noise", "pink", "brown") == pytest.approx(1 / 3, abs=0.03)
    assert share("band", "telephone", "mp3") == pytest.approx(1 / 3, abs=0.03)
    assert share("reverb") == pytest.approx(1 / 4, abs=0.03)
    assert all(share(name) == pytest.approx(1 / 9, abs=0.03) for name in ("noise", "pink", "brown", "band", "mp3"))
    ranges = {"speed": (0.9, 1.1), "noise": (5, 30), "band": (2500, 7500), "mp3": (8, 48)}
    for name, (low, high) in ranges.items():
        values = [one.value for chain in chains for one in chain if one.name == name]
        assert low <= min(values) < low + (high - low) / 20 and high - (high - low) / 20 < max(values) <= high
    line = {"band", "telephone", "mp3"}
    assert max(sum(one.name in line for one in chain) for chain in chains) == 1  # a recording has one
    assert Copies(2).facts(ITEMS) == {"copies": 2, "conditions": dict(counts)}


def test_an_epoch_draws_every_version_equally_often_and_anew():
    copies = Copies(3)
    draws = np.stack([copies.draw(ITEMS, epoch) for epoch in range(4)])
    for epoch in draws:
        assert np.bincount(epoch, minlength=4) == pytest.approx([len(ITEMS) / 4] * 4, rel=0.2)
    assert np.mean(draws[0] == draws[1]) == pytest.approx(1 / 4, abs=0.05)
    np.testing.assert_array_equal(copies.draw(ITEMS[7:9], 2), draws[2, 7:9])
    assert not Copies().draw(ITEMS, 3).any()


def test_batches_hold_versions_of_similar_length():
    lengths = np.random.default_rng(0).integers(100, 500, (4, 400))
    sampler = BucketSampler(lambda epoch: lengths[epoch], 10, group=100, with_epoch=True)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        rows, epochs = zip(*sampler, strict=True)
        assert sorted(rows) == list(range(400)) and set(epochs) == {epoch}
        batches = np.reshape(rows, (-1, 10))
        assert np.mean(np.ptp(lengths[epoch][batches], axis=1)) < 60 < np.mean(np.ptp(lengths[2][batches], axis=1))


def test_log_mel_features_of_copies_are_those_of_the_perturbed_clips(small_run, corpus, tmp_path, trainers):
    result = train(small_run("distribution", tmp_path, **TWO, mel_range=12.0, gain_jitter=0.0))
    exported = read_export(corpus)
    clips = exported.items.set_index("item")["audio"]
    (trainer,) = trainers
    dataset, copies = trainer.train_dataset, Copies(2, trainer.args.seed)
    heard = set()
    for epoch in range(4):
        lengths = dataset.lengths_in(epoch)
        for row, item in enumerate(dataset.targets.items):
            version = int(copies.draw([item], epoch)[0])
            wave = perturbed(load_audio(clips[item]), copies.conditions(item, version), item)
            found = dataset[row, epoch]["input"]
            np.testing.assert_allclose(found, log_mel(wave, trainer.processing_class), atol=0.02)  # half precision
            assert lengths[row] == len(found)
            heard.add(version)
    assert heard == {0, 1, 2} and len(dataset) == 5 and len(dataset.inputs) == 15
    for row in range(5):
        np.testing.assert_array_equal(dataset[row]["input"], dataset.read(dataset.inputs[row]))
    facts = json.loads((result.model / "training.json").read_text())
    assert facts["augmentation"] == copies.facts(dataset.targets.items) and facts["splits"]["train"]["items"] == 5
    assert len(trainer.eval_dataset.inputs) == 5 and not trainer.eval_dataset.changes
    trunk = load_file(result.model / "model.safetensors")
    assert trunk and predict(result.model, corpus)[0].probs.shape[0] == 5
    # the standardised frames are those that training sees, copies included
    frames = [dataset.read(entry).astype(np.float64) for entry in dataset.inputs]
    levelled = np.concatenate([np.maximum(one - one.max(), -12) for one in frames])
    config = json.loads((result.model / "config.json").read_text())["trunk_config"]
    np.testing.assert_allclose(config["mel_mean"], levelled.mean(0), atol=1e-3)
    np.testing.assert_allclose(config["mel_std"], levelled.std(0), atol=3e-3)


def test_a_run_killed_inside_an_epoch_resumes_exactly_with_any_number_of_workers(small_run, tmp_path, monkeypatch):
    """5 items, batches of 2: 3 steps an epoch; the checkpoint is of step 4, inside the second epoch."""
    options = TWO | {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    straight = train(small_run("distribution", tmp_path / "straight", **options, dataloader_num_workers=1))
    with monkeypatch.context() as patch:
        killed_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            train(small_run("distribution", tmp_path / "killed", **options))
    assert newest_checkpoint(tmp_path / "killed").name == "checkpoint-4"
    torch.manual_seed(12345)
    resumed = train(small_run("distribution", tmp_path / "killed", **options), resume=True)
    assert equal(weights(straight), weights(resumed)) and resumed.metrics == straight.metrics
    with pytest.raises(ValueError, match=r"another recipe or corpus: augmentation.copies changed"):
        train(small_run("distribution", tmp_path / "killed", **options | {"augmentation.copies": 1}), resume=True)


def test_waveform_trunks_and_what_is_kept_of_a_frozen_one(over_trunk, wavlm_folder, corpus, tmp_path, trainers):
    frozen = {"freeze_trunk": True, "inputs.cache": "frames"}
    for name, options in {"afresh": {}, "kept": frozen}.items():
        train(over_trunk(wavlm_folder, **TWO | options, output_dir=str(tmp_path / name)))
    clips = read_export(corpus).items.set_index("item")["audio"]
    (afresh, kept), collator = trainers, VoteCollator("input_values")
    heard = set()
    for epoch in range(2):
        for row, item in enumerate(afresh.train_dataset.targets.items):
            version = int(afresh.train_dataset.copies.draw([item], epoch)[0])
            wave = perturbed(load_audio(clips[item]), afresh.train_dataset.copies.conditions(item, version), item)
            expected = afresh.processing_class(wave, sampling_rate=16_000, return_tensors="np")["input_values"][0]
            np.testing.assert_array_equal(afresh.train_dataset[row, epoch]["input"], expected)
            with torch.inference_mode():
                frames, mask = kept.model.eval().frames(**collator.pad([expected]))
            found = kept.train_dataset[row, epoch]["input"]
            np.testing.assert_allclose(found, frames[0][mask[0]].numpy(), rtol=2e-3, atol=2e-4)
            heard.add(version > 0)
        lengths = afresh.train_dataset.lengths_in(epoch)
        found = [len(afresh.train_dataset[row, epoch]["input"]) for row in range(5)]
        np.testing.assert_allclose(lengths, found, atol=1)
        np.testing.assert_array_equal(kept.train_dataset.lengths_in(epoch), lengths)
    assert heard == {False, True}


def test_what_is_kept_of_a_frozen_whisper_is_of_the_copies(over_trunk, whisper_folder, corpus, trainers):
    train(over_trunk(whisper_folder, **TWO, freeze_trunk=True, **{"inputs.cache": "frames"}))
    clips = read_export(corpus).items.set_index("item")["audio"]
    (trainer,) = trainers
    dataset, item = trainer.train_dataset, trainer.train_dataset.targets.items[0]
    for version in (1, 2):
        wave = perturbed(load_audio(clips[item]), dataset.copies.conditions(item, version), item)
        features = log_mel(wave, trainer.processing_class).astype(np.float16)
        with torch.inference_mode():
            frames, mask = trainer.model.eval().frames(
                **make_collator(trainer.model, trainer.processing_class).pad([features])
            )
        found = dataset[0, next(epoch for epoch in range(40) if dataset.copies.draw([item], epoch) == version)]["input"]
        np.testing.assert_allclose(found, frames[0][mask[0]].float().numpy(), atol=0.03)  # of half weights


def test_mixtures_have_copies_too(small_run, tmp_path, trainers):
    spoken = simulated_export(tmp_path, speakers=4, clips_per_speaker=8, annotators=5, ratings=(3, 4))
    dime = {"augmentation.kind": "dime", "augmentation.share": 1.0, "num_train_epochs": 1, "augmentation.copies": 1}
    result = train(small_run("distribution", tmp_path / "run", corpus=str(spoken), **dime))
    dataset, facts = trainers[0].train_dataset, result.facts["augmentation"]
    items = result.facts["splits"]["train"]["items"]
    assert facts["mixtures"] and len(dataset) == items + facts["mixtures"] and len(dataset.inputs) == 2 * len(dataset)
    assert facts["copies"] == 1 and sum(facts["conditions"].values()) >= len(dataset)
    row = pd.read_parquet(tmp_path / "run" / "mixtures.parquet").iloc[0]
    clips = read_export(spoken).items.set_index("item")["audio"]
    wave = load_audio(MixedClip(clips[row["first"]], clips[row["second"]], row["share"]))
    wave = perturbed(wave, dataset.copies.conditions(row["item"], 1), row["item"])
    epoch = next(epoch for epoch in range(20) if dataset.copies.draw([row["item"]], epoch)[0])
    found = dataset[items, epoch]["input"]
    assert dataset.targets.items[items] == row["item"]
    np.testing.assert_allclose(found, log_mel(wave, trainers[0].processing_class), atol=0.02)


def test_what_has_no_copies_is_said(small_run, over_trunk, bert_folder, tmp_path):
    with pytest.raises(ValueError, match="augmentation: copies is -1; give a whole number, such as 3, or 0 for none"):
        small_run("distribution", tmp_path, **{"augmentation.copies": -1})
    with pytest.raises(
        ValueError, match="copies is 2, and a bert trunk reads text, which makes no sound; set augm.* to 0"
    ):
        train(over_trunk(bert_folder, **TWO))
