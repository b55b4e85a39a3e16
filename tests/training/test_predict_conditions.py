"""Predictions under acoustic conditions: what the model hears, what is kept of it, and what is written down."""

import json

import numpy as np
import pytest
import tiny
from typer.testing import CliRunner

from annot_hf.cli import app as cli
from annot_hf.data import conditions
from annot_hf.data.audio import load_audio
from annot_hf.data.conditions import Condition
from annot_hf.data.export import read_export
from annot_hf.data.predictions import Predictions
from annot_hf.models.measures import jsd
from annot_hf.training import inference
from annot_hf.training.inference import predict, predict_robustness, sample_clips
from annot_hf.training.inputs import corpus_inputs, make_processor
from annot_hf.training.train import train


@pytest.fixture
def hushed(monkeypatch):
    """Every condition turns clips down instead, to 1/16 or by seed 1 to 1/256, so that no extra is needed; who was heard."""
    heard = []

    def apply(self, wave, sampling_rate, *, item):
        heard.append((str(self), item))
        return wave * np.float32(2.0 ** (-4 - 4 * self.seed))

    monkeypatch.setattr(Condition, "apply", apply)
    return heard


def folders(home):
    return {path.name for path in home.iterdir()}


def test_conditions_never_share_features(checkpoints, corpus, tmp_path, hushed):
    clean, targets = predict(checkpoints["distribution"], corpus, features=tmp_path)
    kept = folders(tmp_path)
    assert hushed == [] and clean.meta["condition"] == "clean" and "condition_seed" not in clean.meta
    noisy, _ = predict(checkpoints["distribution"], corpus, features=tmp_path, condition="noise:10.0")
    assert hushed == [("noise:10", item) for item in targets.items]
    assert (noisy.meta["condition"], noisy.meta["condition_seed"]) == ("noise:10", 0)
    assert np.abs(noisy.probs - clean.probs).max() > 1e-4
    other, _ = predict(checkpoints["distribution"], corpus, features=tmp_path, condition="noise:10", condition_seed=1)
    assert np.abs(other.probs - noisy.probs).max() > 1e-4 and other.meta["condition_seed"] == 1
    predict(checkpoints["distribution"], corpus, features=tmp_path, condition="noise:9")
    assert len(folders(tmp_path)) == 4 and kept < folders(tmp_path)
    hushed.clear()
    for condition, expected in (("noise:10", noisy), ("clean", clean)):
        again, _ = predict(checkpoints["distribution"], corpus, features=tmp_path, condition=condition)
        np.testing.assert_array_equal(again.probs, expected.probs)
    assert hushed == [] and len(folders(tmp_path)) == 4


def test_a_shard_belongs_to_its_condition(tmp_path, corpus, hushed):
    """Also where a caller's key says nothing of conditions."""
    from annot_hf.data.conditions import put_under
    from annot_hf.training.features import build_features

    extractor = make_processor(tiny.trunk_config("log-mel"), tmp_path)
    items = read_export(corpus).items
    sources, names = list(items["audio"]), list(items["item"])
    clean = build_features(tmp_path, sources, extractor, key="same")
    heard = [put_under(*clip, [Condition("telephone")]) for clip in zip(sources, names, strict=True)]
    noisy = build_features(tmp_path, heard, extractor, key="same")
    assert np.abs(noisy[0] - clean[0]).max() > 1


def test_waveform_trunks_hear_the_condition(corpus, wavlm_folder, tmp_path, hushed):
    exported = read_export(corpus)
    item = exported.items["item"].iloc[0]
    config = tiny.trunk_config("wavlm")
    processor = make_processor(config, wavlm_folder)
    processor.do_normalize = False
    options = {"features": tmp_path, "max_seconds": 30}
    clean = corpus_inputs(exported, [item], config, processor, **options)
    noisy = corpus_inputs(exported, [item], config, processor, chains=[[Condition("noise", 3)]], **options)
    np.testing.assert_array_equal(noisy.read(noisy.entries[0]), clean.read(clean.entries[0]) / 16)
    assert noisy.lengths.tolist() == clean.lengths.tolist()


def test_texts_have_no_acoustic_condition(corpus, bert_folder, tmp_path):
    exported = read_export(corpus)
    exported.items["text"] = "words"
    config = tiny.trunk_config("bert")
    processor = make_processor(config, bert_folder)
    items, options = list(exported.items["item"]), {"features": tmp_path, "max_seconds": 30}
    with pytest.raises(ValueError) as error:
        corpus_inputs(exported, items, config, processor, chains=[[Condition("noise", 3)]] * len(items), **options)
    assert str(error.value) == "Condition 'noise:3' alters audio and a bert trunk reads text; leave it out."
    assert corpus_inputs(
        exported, items, config, processor, chains=[[Condition("clean")]] * len(items), **options
    ).entries


def test_an_unknown_condition_stops_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="'telefone' is not known .did you mean 'telephone'"):
        predict(tmp_path / "nowhere", tmp_path, condition="telefone")


def run(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=True)


def test_command_line_writes_a_folder_a_condition(checkpoints, corpus, features, tmp_path, hushed):
    model, out = checkpoints["distribution"], tmp_path / "out"
    words = ["predict", model, "--corpus", corpus, "--features", features, "--out"]
    result = run(*words, out, "--condition", "clean", "--condition", "noise:10", "--condition", "telephone")
    assert result.exit_code == 0 and "split test, noise:10" in result.output, result.output
    assert folders(out) == {"clean", "noise-10", "telephone"}
    assert Predictions.load(out / "noise-10").meta["condition"] == "noise:10"
    assert run(*words, tmp_path / "one", "--condition", "mp3:8", "--condition-seed", 3).exit_code == 0
    meta = Predictions.load(tmp_path / "one").meta
    assert (meta["condition"], meta["condition_seed"]) == ("mp3:8", 3)
    result = run(*words, out, "--condition", "noise:10", "--condition", "noise:10.0")
    assert str(result.exception) == "Condition 'noise:10' is given twice; give each condition once."


def test_a_sample_is_predicted_altered_and_reported(checkpoints, corpus, features, tmp_path, hushed, monkeypatch):
    monkeypatch.setattr(inference, "ROBUSTNESS", ("noise:20", "telephone"))
    model, out = checkpoints["distribution"], tmp_path / "out"
    words = ["predict", model, "--corpus", corpus, "--features", features, "--out", out]
    result = run(*words, "--robustness", 3)
    assert result.exit_code == 0 and "clips also predicted altered" in result.output, result.output
    clean, kept = Predictions.load(out), out / "robustness"
    assert len(clean) == 5 and clean.meta["condition"] == "clean" and folders(kept) == {"noise-20", "telephone"}
    phone = Predictions.load(kept / "telephone")
    assert phone.items.tolist() == clean.items[[0, 2, 4]].tolist() and phone.meta["condition"] == "telephone"
    whole, _ = predict(model, corpus, features=features, condition="telephone")
    np.testing.assert_allclose(phone.probs, whole.select(phone.items).probs, atol=1e-6)
    result = run("report", out, "--corpus", corpus, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.exception
    told = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))["robustness_sample"]
    assert told["systems"] == ["clean", "noise:20", "telephone"] and told["counts"]["n_evaluated"] == 3
    assert told["measures"]["items"]["moved"]["systems"]["telephone"]["value"] > 0
    (kept / "mine").mkdir()
    assert run(*words, "--robustness", 0).exit_code == 0 and folders(kept) == {"mine"}
    assert run("report", out, "--corpus", corpus, "--out", tmp_path / "report").exit_code == 0
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "How robust" not in text and "altered" not in text


def test_a_sample_is_evenly_spaced_over_speakers():
    items = np.array([f"i{row}" for row in range(12)], dtype=object)
    speakers = ["b", "a", "b", "c"] * 3
    chosen = sample_clips(items, speakers, 6)
    assert sorted(speakers[int(item[1:])] for item in chosen) == ["a", "a", "b", "b", "b", "c"]
    assert chosen.tolist() == sorted(chosen, key=lambda item: int(item[1:]))
    assert sample_clips(items, speakers, 240).tolist() == items.tolist()
    assert sample_clips(items, [None] * 12, 3).tolist() == ["i0", "i5", "i11"]


def test_texts_have_no_acoustic_conditions(recipe, sayings):
    assert predict_robustness(train(recipe("text-ldl")).model, sayings) == {}


def test_from_clips_to_the_report(checkpoints, corpus, features, tmp_path):
    """The whole way with the library itself."""
    model, out, asked = (
        checkpoints["distribution"],
        tmp_path / "out",
        ("clean", "noise:0", "reverb:1", "telephone", "mp3:8"),
    )
    options = [word for name in asked for word in ("--condition", name)]
    result = run("predict", model, "--corpus", corpus, "--features", features, "--out", out, *options)
    assert result.exit_code == 0, result.exception
    result = run("report", out / "clean", "--corpus", corpus, "--out", tmp_path / "report", "--conditions", out)
    assert result.exit_code == 0, result.exception
    told = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))["robustness"]
    assert told["systems"] == list(asked)
    changes = [one["value"] for one in told["measures"]["items"]["jsd"]["differences"].values()]
    assert len(changes) == 4 and all(change != 0 for change in changes)
    again = Predictions.load(out / "noise-0")
    exported = read_export(corpus)
    clip = exported.items.set_index("item")["audio"][again.items[0]]
    noisy = load_audio(conditions.ConditionedClip(clip, again.items[0], Condition("noise", 0)))
    assert np.isfinite(noisy).all() and not np.array_equal(noisy, load_audio(clip))
    alone, _ = predict(model, corpus, features=tmp_path / "fresh", condition="noise:0", batch_size=1)
    np.testing.assert_allclose(alone.probs, again.probs, atol=1e-5)


def test_two_runs_and_conditions_do_not_go_together(tmp_path):
    words = ["report", tmp_path, tmp_path, "--corpus", tmp_path, "--out", tmp_path, "--conditions", tmp_path]
    assert "--conditions needs a single run" in str(run(*words).exception)
    words[-2] = "--truth"
    assert "--truth needs a single run" in str(run(*words).exception)


def test_with_a_range_below_the_peak_a_model_minds_no_volume_knob(checkpoints, small_run, corpus, features, tmp_path):
    levelled = small_run("distribution", tmp_path, mel_range=12.0, gain_jitter=0.0, learning_rate=1e-2)
    moved = []
    for model in (train(levelled).model, checkpoints["distribution"]):
        clean, soft, loud = (
            predict(model, corpus, features=features, condition=asked)[0].probs
            for asked in ("clean", "gain:-12", "gain:12")
        )
        moved.append(max(jsd(clean, soft).max(), jsd(clean, loud).max()))
    assert moved[0] < 1e-6 and moved[1] > 100 * moved[0]
