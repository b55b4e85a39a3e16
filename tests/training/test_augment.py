"""DiME-Aug in whole runs: what is mixed, who learns from it, and that a killed run ends where another does."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from sayings import Sayings
from small_runs import killed_at, simulated_export

from annot_hf.data.audio import MixedClip, load_audio
from annot_hf.data.dime import CLIP_FEATURES, clip_features, text_features
from annot_hf.data.export import read_export
from annot_hf.data.targets import opinion_columns
from annot_hf.models.losses import inverse_frequency_weights
from annot_hf.models.waves import AudioError, log_mel
from annot_hf.training import augment as augment_module
from annot_hf.training.augment import published_features
from annot_hf.training.checkpoints import load_model
from annot_hf.training.features import _stamp
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import train
from annot_hf.training.trainer import OpinionTrainer

DIME = {"augmentation.kind": "dime", "augmentation.share": 1.0}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """An export of 4 speakers with 8 clips each (one or two a split)."""
    home = tmp_path_factory.mktemp("spoken")
    return simulated_export(home, speakers=4, clips_per_speaker=8, annotators=5, ratings=(3, 4))


@pytest.fixture
def dime_run(small_run, spoken, tmp_path):
    """Makes a small run with mixtures."""

    def make(out="run", **overrides):
        return small_run("distribution", tmp_path / out, **{"corpus": str(spoken)} | DIME | overrides)

    return make


@pytest.fixture
def seen(monkeypatch):
    """What the trainer is given in each run."""
    found, stock = [], OpinionTrainer.__init__

    def init(self, **options):
        found.append(options)
        stock(self, **options)

    monkeypatch.setattr(OpinionTrainer, "__init__", init)
    return found


def weights(folder):
    return load_file(folder / "model.safetensors")


def origin(run):
    return pd.read_parquet(f"{run.training.output_dir}/mixtures.parquet")


def test_a_run_learns_from_mixtures_of_its_training_split(dime_run, spoken, seen):
    run = dime_run(num_train_epochs=1)
    result = train(run)
    corpus = read_export(spoken)
    targets, table = corpus.targets("train", "emotion"), origin(run)
    data, facts = seen[0]["train_dataset"], result.facts["augmentation"]
    assert len(table) == facts["mixtures"] > 0 and len(data) == len(targets) + len(table)
    assert set(table["first"]) | set(table["second"]) <= set(targets.items)
    assert (data.targets.items[len(targets) :] == table["item"]).all()
    held = dict(zip(targets.items, targets.probs, strict=True))
    clips = corpus.items.set_index("item")["audio"]
    _, processor, _ = load_model(result.model)
    for number, row in enumerate(table.itertuples(), start=len(targets)):
        entry = data[number]
        assert entry["labels"] == pytest.approx((1 - row.share) * held[row.first] + row.share * held[row.second])
        wave = [load_audio(clips[name]) for name in (row.first, row.second)]
        length = min(map(len, wave))
        mixed = ((1 - row.share) * wave[0][:length] + row.share * wave[1][:length]).astype(np.float32)
        assert entry["input"] == pytest.approx(log_mel(mixed, processor), abs=0.02)  # half precision
        assert data.lengths[number] == len(entry["input"])
    # what is real stays as it is, and stays the reference
    assert len(seen[0]["eval_dataset"]) == result.facts["splits"]["validation"]["items"]
    assert result.facts["splits"]["train"]["items"] == len(targets)
    assert result.facts["marginal"] == pytest.approx(targets.probs.mean(0))


def test_classes_before_and_after_are_in_the_facts_and_said(dime_run, spoken, caplog):
    run = dime_run(num_train_epochs=1)
    result = train(run)
    facts, targets = result.facts["augmentation"], read_export(spoken).targets("train", "emotion")
    assert facts == json.loads((result.model / "training.json").read_text())["augmentation"]
    assert [entry["label"] for entry in facts["classes"]] == list(targets.support)
    assert sum(entry["items"] for entry in facts["classes"]) == len(targets)
    assert [entry["mass"] for entry in facts["classes"]] == pytest.approx(targets.probs.sum(0))
    assert sum(entry["made"] for entry in facts["classes"]) == facts["mixtures"] == len(origin(run))
    assert facts["seed"] == run.training.seed and facts["share"] == 1.0 and len(facts["sha256"]) == 64
    assert f"dime: {facts['mixtures']} mixtures of {len(targets)} training items. anger: " in caplog.text


@pytest.mark.parametrize("options", [{"num_train_epochs": 3}, {"curriculum.kind": "weight", "num_train_epochs": 3}])
def test_a_killed_run_resumes_exactly(options, dime_run, monkeypatch):
    straight = train(dime_run("straight", **options))
    with monkeypatch.context() as patch:
        killed_at(patch, 15)
        with pytest.raises(KeyboardInterrupt):
            train(dime_run("killed", **options))
    torch.manual_seed(12345)
    resumed = train(dime_run("killed", **options), resume=True)
    expected, found = weights(straight.model), weights(resumed.model)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert resumed.metrics == straight.metrics and resumed.facts["augmentation"] == straight.facts["augmentation"]


def test_another_recipe_is_not_gone_on_with(dime_run):
    train(dime_run(num_train_epochs=1))
    with pytest.raises(ValueError, match="augmentation.share changed"):
        train(dime_run(num_train_epochs=2, **{"augmentation.share": 0.5}), resume=True)


def write_features(path, items, features):
    pd.DataFrame({"item": items, "features": list(features)}).to_parquet(path)


def test_other_features_are_not_gone_on_with(dime_run, spoken, tmp_path):
    items, rng = read_export(spoken).targets("train", "emotion").items, np.random.default_rng(0)
    path = tmp_path / "own.parquet"
    kept = rng.standard_normal((len(items), 3))
    write_features(path, items, kept)
    train(dime_run(**{"augmentation.features": str(path), "augmentation.neighbours": 1}, num_train_epochs=1))
    write_features(path, items, rng.standard_normal((len(items), 3)))
    with pytest.raises(ValueError, match="mixtures.parquet holds other mixtures than are planned now"):
        train(
            dime_run(**{"augmentation.features": str(path), "augmentation.neighbours": 1}, num_train_epochs=2),
            resume=True,
        )
    write_features(path, items, kept)
    train(
        dime_run(**{"augmentation.features": str(path), "augmentation.neighbours": 1}, num_train_epochs=2), resume=True
    )


def test_seeds_draw_other_mixtures(dime_run):
    runs = [dime_run(str(seed), seed=seed, num_train_epochs=1) for seed in (0, 1)]
    for run in runs:
        train(run)
    tables = [origin(run) for run in runs]
    assert len(tables[0]) == len(tables[1]) and not set(tables[0]["share"]) & set(tables[1]["share"])
    assert not set(tables[0]["item"]) & set(tables[1]["item"])


def test_published_features_are_of_clip_and_text_and_kept(spoken, tmp_path, monkeypatch):
    corpus = read_export(spoken)
    items = list(corpus.items["item"][:5])
    rows = np.array([3, 1])
    found = published_features(corpus, items, tmp_path, 30.0, rows)
    clips = corpus.items.set_index("item")["audio"]
    expected = np.stack([clip_features(load_audio(clips[items[row]])) for row in rows])
    assert found.shape == (2, len(CLIP_FEATURES)) and (found == expected).all()
    monkeypatch.setattr(augment_module, "features_of_clip", None)  # they are there
    assert (published_features(corpus, items, tmp_path, 30.0, rows) == expected).all()
    texts = {name: f"Text {name}!" for name in items}
    spoken_and_written = replace(corpus, items=corpus.items.assign(text=corpus.items["item"].map(texts)))
    both = published_features(spoken_and_written, items, tmp_path, 30.0, rows)
    assert (both[:, :72] == expected).all()
    assert (both[:, 72:] == [text_features(texts[items[row]]) for row in rows]).all()


def test_items_without_text_are_counted(spoken, tmp_path, caplog):
    corpus = read_export(spoken)
    items = list(corpus.items["item"][:2])
    corpus = replace(corpus, items=corpus.items.assign(text=[None, *["yes"] * (len(corpus.items) - 1)]))
    found = published_features(corpus, items, tmp_path, 30.0, np.arange(2))
    assert not found[0, 72:].any() and found[1, 72:].any()
    assert "1 of 2 items to mix have no text" in caplog.text
    corpus = replace(corpus, items=corpus.items.assign(audio=[None, *corpus.items["audio"][1:]]))
    with pytest.raises(ValueError, match=f"Item '{items[0]}' has no audio and others"):
        published_features(corpus, items, tmp_path, 30.0, np.arange(2))


def test_a_clip_that_cannot_be_read_is_named(spoken, tmp_path):
    corpus = read_export(spoken)
    items = list(corpus.items["item"][:3])
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    audio = corpus.items["audio"].where(corpus.items["item"] != items[2], str(tmp_path / "bad.wav"))
    corpus = replace(corpus, items=corpus.items.assign(audio=audio))
    with pytest.raises(AudioError, match=f"Item '{items[2]}': "):
        published_features(corpus, items, tmp_path, 30.0, np.arange(3))


def test_a_speaker_in_two_splits_is_refused(dime_run, spoken):
    corpus = read_export(spoken)
    crossed = replace(corpus, items=corpus.items.assign(speaker="ann"))
    with pytest.raises(
        ValueError,
        match="1 speakers of the training split, for instance 'ann', are also in another split, so mixtures would leak",
    ):
        train(dime_run(), corpus=crossed)


def test_features_from_a_file(dime_run, spoken, tmp_path, monkeypatch):
    monkeypatch.setattr(augment_module, "features_of_clip", None)  # not asked for
    items = read_export(spoken).targets("train", "emotion").items
    write_features(tmp_path / "own.parquet", items, np.random.default_rng(0).standard_normal((len(items), 3)))
    own = dime_run(**{"augmentation.features": str(tmp_path / "own.parquet")}, num_train_epochs=1)
    assert train(own).facts["augmentation"]["mixtures"] == len(origin(own)) > 0
    write_features(tmp_path / "few.parquet", items[:1], np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"few.parquet lacks \d+ of \d+ items"):
        train(dime_run("few", **{"augmentation.features": str(tmp_path / "few.parquet")}))


def test_class_weights_are_of_what_is_learnt(dime_run, seen):
    run = dime_run(**{"class_weights.kind": "inverse"}, num_train_epochs=1)
    result = train(run)
    mass = seen[0]["train_dataset"].targets.probs.sum(0)
    classes = result.facts["augmentation"]["classes"]
    assert [entry["mass"] + entry["mass_added"] for entry in classes] == pytest.approx(mass)
    assert load_model(result.model)[0].config.class_weights == pytest.approx(inverse_frequency_weights(mass))


def test_mixtures_teach_the_distribution_alone(dime_run, seen, spoken):
    result = train(dime_run(scales=["valence"], num_train_epochs=1))
    data, real = seen[0]["train_dataset"], result.facts["splits"]["train"]["items"]
    assert np.isnan(data.extra["scale_targets"][real:]).all() and not np.isnan(data.extra["scale_targets"][:real]).any()
    assert np.isfinite(list(result.metrics.values())).all()
    assert all(torch.isfinite(value).all() for value in weights(result.model).values())
    votes = read_export(spoken).votes
    assert np.isnan(opinion_columns(votes, ["emotion"], data.targets.items[real:])[1]).all()


@pytest.mark.parametrize("cache, near", [("none", "published"), ("frames", "published"), ("pooled", "trunk")])
def test_a_frozen_waveform_trunk_hears_mixtures(cache, near, over_trunk, wavlm_folder, spoken, seen):
    options = {
        "freeze_trunk": True,
        "inputs.cache": cache,
        "augmentation.features": near,
        "pooling": "mean",
        "max_steps": 1,
    }
    run = over_trunk(wavlm_folder, **DIME | options | {"corpus": str(spoken), "embedding_kind": "none"})
    result = train(run)
    table, data = origin(run), seen[0]["train_dataset"]
    clips, row = read_export(spoken).items.set_index("item")["audio"], table.iloc[-1]
    model, processor, _ = load_model(result.model)
    wave = load_audio(MixedClip(clips[row["first"]], clips[row["second"]], row["share"]))
    expected = processor(wave, sampling_rate=16_000, return_tensors="pt")["input_values"]
    found = np.asarray(data[len(data) - 1]["input"])
    if cache == "none":
        assert (found == expected[0].numpy()).all()
    else:
        with torch.inference_mode():
            frames = model.frames(input_values=expected, attention_mask=torch.ones_like(expected).long())[0][0].numpy()
        frames = frames.mean(0, keepdims=True) if cache == "pooled" else frames
        assert found == pytest.approx(frames, abs=0.01)
    assert data.lengths[-1] == pytest.approx(expected.shape[1], abs=1)


def test_trunk_features_are_means_of_frames(over_trunk, wavlm_folder, spoken, monkeypatch):
    asked, stock = [], augment_module.plan_mixtures

    def plan(items, probs, features, **options):
        asked.append((items, features(np.array([0, 2]))))
        return stock(items, probs, features, **options)

    monkeypatch.setattr(augment_module, "plan_mixtures", plan)
    options = {"freeze_trunk": True, "augmentation.features": "trunk", "corpus": str(spoken), "max_steps": 1}
    result = train(over_trunk(wavlm_folder, **DIME | options))
    model, processor, _ = load_model(result.model)
    (items, found), clips = asked[0], read_export(spoken).items.set_index("item")["audio"]
    for name, row in zip(items[[0, 2]], found, strict=True):
        values = processor(load_audio(clips[name]), sampling_rate=16_000, return_tensors="pt")["input_values"]
        with torch.inference_mode():
            frames = model.frames(input_values=values, attention_mask=torch.ones_like(values).long())[0][0]
        assert row == pytest.approx(frames.mean(0).numpy(), abs=0.01)


@pytest.fixture
def text_run(sayings, bert_folder, tmp_path):
    """Makes a small run over texts with mixtures."""

    def make(recipe="text-ldl", out="run", **overrides):
        small = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "use_cpu": True, "disable_tqdm": True}
        where = {
            "corpus": str(sayings),
            "output_dir": str(tmp_path / out),
            "trunk": str(bert_folder),
            "report_to": "none",
        }
        return load_recipe(recipe, small | where | DIME | overrides)

    return make


@pytest.mark.parametrize("rule", ["dominant", "first"])
def test_a_text_trunk_reads_one_of_the_two(rule, text_run, seen):
    run = text_run(**{"augmentation.text": rule})
    result = train(run)
    data, table = seen[0]["train_dataset"], origin(run)
    real = {name: data.read(entry) for name, entry in zip(data.targets.items[:18], data.inputs[:18], strict=True)}
    assert len(data) == 18 + len(table) and len(table)
    for number, row in enumerate(table.itertuples(), start=18):
        whose = row.first if rule == "first" or row.share < 0.5 else row.second
        assert row.text_from == whose and data[number]["input"] == real[whose]
    cut = result.facts["splits"]["train"]["texts cut short"]
    assert cut == sum(len(text.split()) > 30 for text in Sayings.texts[:18])  # a mixture is not counted again


def test_texts_of_a_frozen_trunk_are_encoded_once(text_run, seen):
    run = text_run(freeze_trunk=True, **{"inputs.cache": "frames", "augmentation.features": "trunk"}, pooling="mean")
    train(run)
    data, table = seen[0]["train_dataset"], origin(run)
    place = {name: row for row, name in enumerate(data.targets.items)}
    for row in table.itertuples():
        assert (data[place[row.item]]["input"] == data[place[row.text_from]]["input"]).all()


def test_speakers_across_splits_are_counted_where_texts_are_read(text_run, sayings, caplog):
    corpus = read_export(sayings)
    train(text_run(), corpus=replace(corpus, items=corpus.items.assign(speaker="ann")))
    assert "The trunk reads text, and no voice is mixed: 1 speakers of the training split" in caplog.text


def test_a_bayesian_head_counts_mixtures_as_items(text_run, seen):
    result = train(text_run("text-bnn"))
    model = load_model(result.model)[0]
    assert model.config.kl_weight == pytest.approx(1 / len(seen[0]["train_dataset"]))


def test_members_of_an_ensemble_learn_from_the_same_mixtures(text_run, seen):
    run = text_run("seedbert", num_members=2)
    result = train(run)
    assert "augmentation" not in result.facts  # it has no training of its own
    members = sorted((result.model.parent / "members").glob("seed*"))
    facts = [json.loads((folder / "model/training.json").read_text())["augmentation"] for folder in members]
    assert len(members) == 2 and facts[0] == facts[1] and facts[0]["mixtures"] > 0


@pytest.mark.parametrize("members", ["shared", "lora"])
def test_members_on_one_encoder_learn_from_mixtures(members, text_run, seen):
    result = train(text_run(f"seedbert-{members}", num_members=2, **({"lora_layers": 1} if members == "lora" else {})))
    assert len(seen[0]["train_dataset"]) == 18 + result.facts["augmentation"]["mixtures"]


def test_folds_are_mixed_each_by_itself(dime_run, spoken, tmp_path, monkeypatch, seen):
    corpus = read_export(spoken)
    speakers = sorted(corpus.items["speaker"].unique())
    plans = []
    for fold in range(2):
        split = {speakers[fold]: "test", speakers[fold + 1]: "validation"}
        splits = {
            item: split.get(speaker, "train")
            for item, speaker in zip(corpus.items["item"], corpus.items["speaker"], strict=True)
        }
        view = corpus.with_splits(splits, {"fold": fold})
        run = dime_run(f"fold{fold}", num_train_epochs=1, features=str(tmp_path / "shared"))
        train(run, corpus=view)
        used = set(origin(run)["first"]) | set(origin(run)["second"])
        assert {splits[item] for item in used} == {"train"}
        plans.append(origin(run))
        monkeypatch.setattr(augment_module, "features_of_clip", None)  # the second fold finds what the first computed
    assert not plans[0].equals(plans[1])


def test_a_mixture_is_computed_again_when_a_clip_or_a_share_changes(tmp_path):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(100), 16_000)
    a, b = tmp_path / "a.wav", tmp_path / "b.wav"
    stamps = [
        _stamp(MixedClip(a, b, 0.5)),
        _stamp(MixedClip(a, b, 0.25)),
        _stamp(MixedClip(a, tmp_path / "c.wav", 0.5)),
    ]
    assert stamps[0] == _stamp(MixedClip(str(a), str(b), 0.5))
    soundfile.write(b, np.zeros(101), 16_000)
    assert len({repr(stamp) for stamp in [*stamps, _stamp(MixedClip(a, b, 0.5))]}) == 4


BAD = {
    "kind": ({"augmentation.kind": "mixup"}, "augmentation.kind is 'mixup'; use one of dime"),
    "idle": (
        {"augmentation.kind": "", "augmentation.share": 0.5},
        "augmentation.share is set, and there is no augmentation.kind",
    ),
    "share": ({"augmentation.share": 0.0}, "augmentation: share is 0.0"),
    "share 2": ({"augmentation.share": 2}, "augmentation: share is 2"),
    "neighbours": ({"augmentation.neighbours": 0}, "augmentation: neighbours is 0"),
    "text": ({"augmentation.text": "second"}, "augmentation.text is 'second'; use one of dominant, first"),
    "partners": ({"augmentation.partners": "other"}, "augmentation.partners is 'other'; use one of any, same"),
    "untrained": ({"augmentation.features": "trunk"}, "augmentation.features is trunk and trunk is log-mel"),
    "words": ({"augmentation.share": "all"}, "augmentation.share is 'all'; it must be a number"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_recipe_that_cannot_be_is_refused_early(name, dime_run):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        dime_run(**options)


def test_raters_answered_no_mixture(small_run, tmp_path):
    with pytest.raises(
        ValueError, match="augmentation.kind is dime and model annotator, which learns what each rater answered"
    ):
        small_run("annotator", tmp_path, **{"augmentation.kind": "dime"})


def test_what_only_the_trunk_tells_is_refused_before_training(dime_run, over_trunk, wavlm_folder, spoken):
    with pytest.raises(ValueError, match="augmentation.text is first and trunk is log-mel"):
        dime_run(**{"augmentation.text": "first"})
    with pytest.raises(ValueError, match="there is no such file"):
        dime_run(**{"augmentation.features": "nowhere.parquet"})
    with pytest.raises(ValueError, match="augmentation.text is first and a wavlm trunk reads no text"):
        train(over_trunk(wavlm_folder, **DIME, corpus=str(spoken), **{"augmentation.text": "first"}))
    run = over_trunk(
        wavlm_folder, **DIME, corpus=str(spoken), trunk_layer="weighted", **{"augmentation.features": "trunk"}
    )
    with pytest.raises(ValueError, match="trunk_layer weighted"):
        train(run)


def test_a_corpus_with_nothing_to_fill_trains_as_it_is(dime_run, seen, spoken):
    run = dime_run(**{"augmentation.share": 0.01}, num_train_epochs=1)
    result = train(run)
    assert result.facts["augmentation"]["mixtures"] == 0 and origin(run).empty
    assert len(seen[0]["train_dataset"]) == result.facts["splits"]["train"]["items"]
    plain = train(dime_run("plain", **{"augmentation.kind": "", "augmentation.share": 0.3}, num_train_epochs=1))
    expected, found = weights(plain.model), weights(result.model)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert "augmentation" not in plain.facts
