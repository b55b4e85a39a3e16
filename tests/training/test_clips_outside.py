"""Clips and texts outside any corpus, in every form; long clips as a timeline; what the command line makes of both."""

import re
import shlex
import shutil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import soundfile
import tiny
import torch
from transformers import AutoTokenizer, Speech2TextFeatureExtractor
from typer.testing import CliRunner

from annot_hf.cli import app as cli
from annot_hf.data.predictions import prediction_frame
from annot_hf.models.waves import AudioError
from annot_hf.training import checkpoints as checkpoints_module, inference
from annot_hf.training.checkpoints import load_model
from annot_hf.training.inference import predict_inputs, predict_timeline

PAGE = Path(__file__).parents[2] / "docs" / "predicting.md"
WAVES = [
    np.random.default_rng(row).uniform(-0.5, 0.5, size).astype(np.float32) for row, size in enumerate((9000, 5000))
]
EXTRACTOR = Speech2TextFeatureExtractor(feature_size=8, num_mel_bins=8, do_ceptral_normalize=False)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    home = tmp_path_factory.mktemp("clips")
    for row, wave in enumerate(WAVES):
        soundfile.write(home / f"{row}.wav", wave, 16_000, subtype="FLOAT")
    return [home / f"{row}.wav" for row in range(2)]


def forms(paths):
    rows = [{"array": wave, "sampling_rate": 16_000} for wave in WAVES]
    table = datasets.Dataset.from_dict({"audio": list(map(str, paths))})
    lists = datasets.Dataset.from_dict({"audio": [row | {"array": row["array"].tolist()} for row in rows]})
    return {
        "bytes": [path.read_bytes() for path in paths],
        "pairs": [(wave, 16_000) for wave in WAVES],
        "rows": rows,
        "undecoded rows": [{"bytes": path.read_bytes(), "path": None} for path in paths],
        "undecoded column": table.cast_column("audio", datasets.Audio(decode=False))["audio"],
        "decoded column": lists["audio"],
        "arrays": WAVES,
        "tensors": [torch.from_numpy(wave) for wave in WAVES],
    }


@pytest.mark.parametrize("kind", ["bytes", "pairs", "rows", "undecoded rows", "undecoded column", "decoded column"])
def test_every_form_of_a_clip_is_predicted(paths, kind):
    model = tiny.distribution()
    expected = predict_inputs(model, EXTRACTOR, paths)
    np.testing.assert_array_equal(predict_inputs(model, EXTRACTOR, forms(paths)[kind]).probs, expected.probs)


@pytest.mark.parametrize("kind", ["arrays", "tensors", "pairs"])
def test_arrays_may_share_a_rate(paths, kind):
    model = tiny.distribution()
    found = predict_inputs(model, EXTRACTOR, forms(paths)[kind], sampling_rate=16_000)
    np.testing.assert_array_equal(found.probs, predict_inputs(model, EXTRACTOR, paths).probs)


def test_a_column_of_texts_is_predicted(bert_folder):
    model, tokenizer = tiny.distribution("bert"), AutoTokenizer.from_pretrained(bert_folder)
    texts = ["so good !", "bad", "good " * 600]
    column = datasets.Dataset.from_dict({"text": texts})["text"]
    found = predict_inputs(model, tokenizer, column)
    np.testing.assert_array_equal(found.probs, predict_inputs(model, tokenizer, texts).probs)
    assert found.meta == {"texts cut short": 1}


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ((WAVES[0], 16_000), r"sources is \(array.*; give a list with at least one"),
        ({"array": WAVES[0], "sampling_rate": 16_000}, "give a list with at least one"),
        ([WAVES[0]], r"Item '0': The array has no sampling rate; give \(array, rate\)"),
        ([(WAVES[0], 16_000), (WAVES[0] * np.nan, 16_000)], "Item '1': The array holds nan at frame 0"),
        ([(WAVES[0][:0], 16_000)], "Item '0': The array is empty"),
        ([(np.zeros((20, 20)), 16_000)], r"Item '0': The array has shape \(20, 20\)"),
        ([(np.zeros(31 * 16_000), 16_000)], r"at most 30 s are accepted.*--max-seconds"),
        (["absent.wav"], r"Item '0': 'absent.wav' cannot be opened"),
    ],
)
def test_what_is_no_clip_is_named(sources, message):
    with pytest.raises(ValueError, match=message) as error:
        predict_inputs(tiny.distribution(), EXTRACTOR, sources)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("build", [tiny.annotator, tiny.distribution])
def test_a_timeline_is_the_predictions_of_its_windows(build, tmp_path, capsys):
    wave = np.concatenate([*WAVES, *WAVES])
    soundfile.write(tmp_path / "long.wav", wave, 16_000, subtype="FLOAT")
    model, options = build(), {"window": 0.5, "hop": 0.25}
    spans, found = predict_timeline(model, EXTRACTOR, tmp_path / "long.wav", batch_size=3, **options)
    starts = [0, 4000, 8000, 12000, 16000, 20000]
    np.testing.assert_allclose(spans, [(start / 16_000, start / 16_000 + 0.5) for start in starts])
    parts = [(wave[start : start + 8000], 16_000) for start in starts]
    expected = predict_inputs(model, EXTRACTOR, parts)
    np.testing.assert_allclose(found.probs, expected.probs, atol=1e-6)
    assert found.items.tolist() == expected.items.tolist()
    np.testing.assert_array_equal(found.rater_items, expected.rater_items)
    np.testing.assert_allclose(found.rater_values, expected.rater_values, atol=1e-6)
    # one bar, and none a batch
    assert "batch" not in capsys.readouterr().err


def test_a_clip_shorter_than_a_window_is_one_row(paths):
    spans, found = predict_timeline(tiny.distribution(), EXTRACTOR, paths[0])
    np.testing.assert_allclose(spans, [(0, 9000 / 16_000)])
    np.testing.assert_allclose(found.probs, predict_inputs(tiny.distribution(), EXTRACTOR, paths[:1]).probs)


def test_windows_overlap_by_half_by_default(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(16_000 * 2), 16_000)
    spans, _ = predict_timeline(tiny.distribution(), EXTRACTOR, tmp_path / "long.wav", window=1.0)
    assert spans[:, 0].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("window", "hop"), [(1, 0), (1, -1), (1, 2), (np.nan, 1), (1, np.nan), (np.inf, 1), (0, None), (1, 1e-9)]
)
def test_a_wrong_window_or_hop_is_refused_before_anything_is_read(window, hop):
    with pytest.raises(ValueError, match="give a hop above 0 and at most the window"):
        predict_timeline(tiny.distribution(), EXTRACTOR, "absent.wav", window=window, hop=hop)


def test_a_timeline_needs_a_model_that_hears(bert_folder):
    with pytest.raises(ValueError, match="A bert trunk reads text, and a timeline is one of a clip"):
        predict_timeline(tiny.distribution("bert"), AutoTokenizer.from_pretrained(bert_folder), "a.wav")


def invoke(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in ("predict", *words)])


def test_the_command_writes_a_timeline(checkpoints, tmp_path, paths):
    soundfile.write(tmp_path / "long.wav", np.zeros(16_000 * 40), 16_000)
    table = tmp_path / "timeline.csv"
    model = checkpoints["distribution"]
    found = invoke(model, tmp_path / "long.wav", paths[0], "--timeline", "--window", 10, "--hop", 5, "-o", table)
    assert found.exit_code == 0, found.output
    rows = pd.read_csv(table)
    assert list(rows.columns[:3]) == ["item", "start", "end"] and "8 windows" in found.output
    assert rows["item"].tolist() == ["long.wav"] * 7 + ["0.wav"]
    assert rows["start"].tolist() == [*range(0, 31, 5), 0] and rows["end"].tolist()[-1] == 9000 / 16_000
    expected = prediction_frame(predict_inputs(*load_model(model)[:2], [paths[0]]))
    np.testing.assert_allclose(rows.iloc[-1]["entropy"], expected["entropy"][0], atol=1e-6)
    for words, message in (
        ([tmp_path / "long.wav"], "--max-seconds on the command line"),
        (
            [tmp_path / "long.wav", "--timeline", "--max-seconds", 50],
            "--max-seconds is for whole clips, and --timeline takes clips of any length; leave it out.",
        ),
        ([tmp_path / "long.wav", "--timeline", "--window", 1, "--hop", 2], "hop is 2 s and window 1 s"),
        ([tmp_path / "long.wav", "--timeline", "--hop", 0], "hop is 0 s and window 4 s; give a hop above 0"),
        (["--corpus", tmp_path, "--out", tmp_path, "--timeline"], "--timeline is for clips, and not for a split"),
    ):
        error = invoke(model, *words).exception
        assert isinstance(error, AudioError | ValueError) and message in str(error)


def test_a_row_of_a_table_is_a_row_of_the_result(checkpoints, tmp_path, paths):
    listed = [paths[1], paths[0], paths[1], paths[0]]
    pd.DataFrame({"audio": listed, "n": range(4)}).to_csv(tmp_path / "clips.csv", index=False)
    for words, name in (([], "rows.csv"), (["--timeline"], "windows.csv")):
        found = invoke(checkpoints["distribution"], tmp_path / "clips.csv", *words, "-o", tmp_path / name)
        assert found.exit_code == 0 and re.search("4 (items|windows)", found.output), found.output
        table = pd.read_csv(tmp_path / name)
        assert table["item"].tolist() == list(map(str, listed))
        assert table["entropy"][0] == table["entropy"][2] != table["entropy"][1]


def test_a_checkpoint_is_loaded_once_for_predictions_under_all_conditions(checkpoints, corpus, tmp_path, monkeypatch):
    loaded = []
    for module in (checkpoints_module, inference):
        stock = module.load_model
        monkeypatch.setattr(module, "load_model", lambda folder, stock=stock: loaded.append(folder) or stock(folder))
    found = invoke(checkpoints["distribution"], "--corpus", corpus, "--out", tmp_path / "out", "--robustness", 2)
    assert found.exit_code == 0, found.output
    assert len(loaded) == 1 and (tmp_path / "out" / "robustness").is_dir()


def test_the_page_runs_as_it_is_printed(checkpoints, paths, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoints["annotator"], "runs/mine/model")
    shutil.copytree(paths[0].parent, "new-clips")
    shutil.copy(paths[0], "clip.wav")
    soundfile.write("hour.wav", np.tile(WAVES[0], 20), 16_000)
    names = {}
    for language, block in re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), names)
        for line in block.splitlines() if language == "bash" else ():
            assert invoke(*shlex.split(line)[2:]).exit_code == 0, line
    assert len(pd.read_csv("predicted.csv")) == 2 and len(pd.read_csv("timeline.csv")) == len(names["spans"]) == 5
    raters = names["pipe"]("clip.wav", return_raters=True)["raters"]
    assert list(raters) == names["model"].config.annotators and str(raters) in capsys.readouterr().out
