"""Saliency of a real (tiny) trunk's layers over a corpus, and the way from its file into a recipe."""

import json

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModel, Wav2Vec2FeatureExtractor

from annot_hf.cli import app as cli
from annot_hf.data.audio import load_audio
from annot_hf.data.export import read_export
from annot_hf.data.targets import opinion_columns
from annot_hf.experiments.salient_layer import layer_means, measure_saliency
from annot_hf.training.checkpoints import load_model
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import train


@torch.inference_mode()
def test_scores_are_the_correlations_of_each_clip_by_itself(wavlm_folder, corpus):
    """Against the plain model, a clip at a time, all in memory."""
    found = measure_saliency(wavlm_folder, corpus, questions=["emotion", "valence"], batch_size=2)
    plain = AutoModel.from_pretrained(wavlm_folder).eval()
    exported, processor = read_export(corpus), Wav2Vec2FeatureExtractor(do_normalize=True)
    items = exported.items[exported.items["split"] == "train"]
    means = []
    for audio in items["audio"]:
        waves = processor(load_audio(audio), sampling_rate=16_000, return_tensors="pt")["input_values"]
        means.append(torch.stack(plain(waves, output_hidden_states=True).hidden_states).mean(2)[:, 0].numpy())
    names, columns = opinion_columns(exported.votes, ["emotion", "valence"], items["item"])
    units = np.array(means, np.float64)
    assert found.targets == names and found.items == len(items) == 5 and found.scores.shape == (3, len(names))
    for layer in range(3):
        for target in np.flatnonzero(columns.std(0) > 0):
            r = [np.corrcoef(units[:, layer, unit], columns[:, target])[0, 1] for unit in range(16)]
            assert found.scores[layer, target] == pytest.approx(np.abs(r).mean(), abs=1e-3)
    assert np.isnan(found.scores[:, columns.std(0) == 0]).all()
    assert found.about["trunk"] == str(wavlm_folder) and found.about["items_without_votes"] == 0


def test_whispers_layers_do_not_depend_on_the_batches_and_nothing_is_left_behind(
    whisper_folder, corpus, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    some = [measure_saliency(whisper_folder, corpus, questions=["valence"], batch_size=size).scores for size in (2, 5)]
    np.testing.assert_allclose(*some, atol=1e-4)
    assert some[0].shape == (3, 1) and not list(tmp_path.iterdir())


def test_a_subset_is_drawn_and_repeats(wavlm_folder, corpus):
    some = [measure_saliency(wavlm_folder, corpus, items=3, questions=["valence"], seed=seed) for seed in (0, 0, 1)]
    assert [one.items for one in some] == [3, 3, 3]
    assert np.array_equal(some[0].scores, some[1].scores) and not np.array_equal(some[0].scores, some[2].scores)


def test_padding_does_not_change_a_mean():
    trunk, lengths = tiny.distribution("wavlm", trunk_layer="weighted").trunk, [700, 1000, 431]
    together = layer_means(trunk, tiny.inputs("wavlm", lengths))
    batch = {name: value[2:, :431] for name, value in tiny.inputs("wavlm", lengths).items()}
    assert together.shape == (3, 3, 16)
    np.testing.assert_allclose(together[2:], layer_means(trunk, batch), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_said(wavlm_folder, corpus, checkpoints, tmp_path):
    for source, options, message in (
        (tmp_path / "nowhere", {}, "There is no checkpoint .*nowhere"),
        (checkpoints["distribution"], {}, "a trunk of type annot-log-mel has no choice of layers"),
        (wavlm_folder, {"split": "dev"}, "has no split 'dev'; it has"),
        (wavlm_folder, {"formula": "cubic"}, "formula is 'cubic'"),
        (wavlm_folder, {"batch_size": 0}, "batch_size is 0; give a number of items from 1 up"),
        (wavlm_folder, {"gamma": 0.1}, "gamma is 0.1, but formula absolute"),
        (wavlm_folder, {"items": 1}, "items is 1; a correlation needs at least 2"),
        (wavlm_folder, {"questions": ["emotio"]}, "emotion"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_saliency(source, corpus, **options)


def test_from_the_command_line_into_a_recipe(over_trunk, wavlm_folder, corpus, tmp_path, capsys, caplog):
    """A trained checkpoint's trunk is measured; its file chooses the layer of the next run."""
    first = train(over_trunk(wavlm_folder, freeze_trunk=True))
    out = tmp_path / "saliency"
    words = [str(first.model), "--corpus", str(corpus), "--out", str(out), "--items", "4", "--question", "emotion"]
    with pytest.raises(SystemExit) as end:
        cli.main(["saliency", *words, "--formula", "penalised", "--gamma", "0.2"])
    assert not end.value.code
    shown = capsys.readouterr().out
    assert "(chosen)" in shown and f"trunk_layer={out / 'saliency.json'}" in shown.replace("\n", "")
    assert {path.name for path in out.iterdir()} == {"saliency.json", "saliency.csv", "saliency.png"}
    record = json.loads((out / "saliency.json").read_text())
    assert record["formula"] == "penalised" and record["gamma"] == 0.2 and record["items"] == 4
    record |= {"trunk_layer": 1, "trunk": str(wavlm_folder)}
    (out / "saliency.json").write_text(json.dumps(record))
    run = over_trunk(wavlm_folder, trunk_layer=str(out / "saliency.json"), output_dir=str(tmp_path / "second"))
    assert run.options["trunk_layer"] == 1 and "was measured on" not in caplog.text
    model = load_model(train(run).model)[0]
    assert model.config.trunk_layer == 1 and len(model.trunk.encoder.layers) == 1
    load_recipe("speech-distribution", ["trunk=other", f"trunk_layer={out / 'saliency.json'}"])
    assert "was measured on" in caplog.text and "trunk is other" in caplog.text
    with pytest.raises(ValueError, match="trunk_layer is 'nowhere.json', and there is no such saliency file"):
        load_recipe("speech-distribution", ["trunk=other", "trunk_layer=nowhere.json"])
