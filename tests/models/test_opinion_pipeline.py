"""`transformers.pipeline` over our checkpoints: with and without the package, it gives what `predict_inputs` gives."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tiny
import torch
import transformers
from transformers import (
    AutoModel,
    BertTokenizerFast,
    Speech2TextFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
    pipeline,
)

from annot_hf.models.measures import entropy
from annot_hf.models.opinion_pipeline import SpeechOpinionPipeline, TextOpinionPipeline
from annot_hf.training import collator
from annot_hf.training.inference import predict_inputs

WAVES = [
    np.random.default_rng(row).uniform(-0.5, 0.5, size).astype(np.float32) for row, size in enumerate((9000, 5000))
]
TEXTS = ["so good !", "bad"]
MEL = {"feature_size": 8, "num_mel_bins": 8, "do_ceptral_normalize": False}
EXTRACTORS = {
    "log-mel": Speech2TextFeatureExtractor(**MEL),
    "whisper": WhisperFeatureExtractor(feature_size=8),
    "wavlm": Wav2Vec2FeatureExtractor(do_normalize=True, padding_side="left"),
}
RATERS = {"questions": tiny.CATEGORY, "annotators": ["ann", "bob"]}
CASES = {
    "log-mel-scales": ("log-mel", lambda: tiny.annotator("log-mel", draws=20)),
    "log-mel-labels": ("log-mel", lambda: tiny.annotator("log-mel", seed=1, **RATERS)),
    "whisper": ("whisper", lambda: tiny.distribution("whisper")),
    "wavlm": ("wavlm", lambda: tiny.distribution("wavlm", marginal=[0.2, 0.5, 0.3], marginal_share=0.1)),
    "bert": ("bert", lambda: tiny.annotator("bert", **RATERS)),
    "members": ("bert", lambda: tiny.seedbert("bert")),
}
READER = """
import json, sys
if sys.argv[1] == "without":
    import importlib.abc
    class Absent(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "annot_hf":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Absent())
    trust = {"trust_remote_code": True}
else:
    import annot_hf
    assert not {"torch", "transformers"} & set(sys.modules)
    trust = {}
import torch
torch.set_num_threads(1)
from transformers import AutoConfig, AutoModel, pipeline
if not trust:
    from annot_hf import AnnotatorConfig, AnnotatorModel
    config = AnnotatorConfig(questions=[{"name": "a", "low": 1, "high": 5}], annotators=["x"])
    assert type(AutoModel.from_config(config)) is AnnotatorModel
    assert type(AutoConfig.for_model("annot-distribution")).__module__ == "annot_hf.models.configuration_distribution"
told = {}
for folder, task, *inputs in json.loads(sys.argv[2]):
    pipe = pipeline(model=folder, **trust)
    named = pipeline(task, model=folder, **trust)
    homes = {type(pipe).__module__, type(pipe.model).__module__, type(named).__module__}
    assert {home.partition(".")[0] for home in homes} == {"transformers_modules" if trust else "annot_hf"}, homes
    found = [pipe(one) for one in inputs]
    assert [named(one) for one in inputs] == found
    raters = pipe(inputs[0], return_raters=True) if getattr(pipe.model.config, "annotators", None) else None
    if trust:
        pipe.model.save_pretrained(f"{folder}/again")
    told[folder] = {"items": found, "batch": pipe(inputs, batch_size=2), "raters": raters}
print(json.dumps(told))
"""


def task_of(kind):
    return "text-classification" if kind == "bert" else "audio-classification"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Every case saved with its processor: name -> (folder, kind, inputs as JSON has them, predictions)."""
    home, found = tmp_path_factory.mktemp("pipelines"), {}
    clips = [home / f"{row}.wav" for row in range(2)]
    for clip, wave in zip(clips, WAVES, strict=True):
        soundfile.write(clip, wave, 16_000, subtype="FLOAT")
    (home / "words.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "so", "!"]))
    tokenizer = BertTokenizerFast(vocab_file=str(home / "words.txt"), model_max_length=32, padding_side="left")
    # of noise drawn by item, a pipeline that knows no names draws the same for every item
    draws = pytest.MonkeyPatch()
    draws.setattr(collator, "item_seeds", lambda items, seed: np.zeros(len(items), np.int64))
    for name, (kind, build) in CASES.items():
        model, processor = build(), EXTRACTORS.get(kind, tokenizer)
        for part in (model, processor):
            part.save_pretrained(home / name)
        inputs = TEXTS if kind == "bert" else list(map(str, clips))
        found[name] = (home / name, kind, inputs, predict_inputs(model, processor, inputs))
    draws.undo()
    return found


def check(results, predictions):
    """Lists of label and score beside the distributions that they show."""
    for row, result in enumerate(results):
        scores = [entry["score"] for entry in result]
        assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1)
        by_label = {entry["label"]: entry["score"] for entry in result}
        assert by_label.keys() == set(predictions.support)
        np.testing.assert_allclose(
            [by_label[label] for label in predictions.support], predictions.probs[row], atol=2e-5
        )
        for entry in result:
            assert entry.keys() == {"label", "score", "entropy"}
            assert entry["entropy"] == pytest.approx(float(entropy(predictions.probs[row])), abs=1e-4)


@pytest.fixture(scope="module")
def told(saved, tmp_path_factory):
    """What pipelines in a fresh process give, with the package and without it."""

    def run(package):
        home = tmp_path_factory.mktemp("fresh")
        environment = {name: value for name, value in os.environ.items() if package == "with" or name != "PYTHONPATH"}
        asked = [(str(folder), task_of(kind), *inputs) for folder, kind, inputs, _ in saved.values()]
        command = [sys.executable, "-c", READER, package, json.dumps(asked)]
        options = {"env": environment | {"HF_HOME": str(home)}, "cwd": home, "capture_output": True, "text": True}
        result = subprocess.run(command, check=False, **options)
        assert result.returncode == 0, result.stderr[-3000:]
        return json.loads(result.stdout.splitlines()[-1])

    return {package: run(package) for package in ("with", "without")}


@pytest.mark.parametrize("package", ["without", "with"])
def test_both_calls_work_with_and_without_the_package(saved, told, package):
    for folder, _, _, predictions in saved.values():
        found = told[package][str(folder)]
        check(found["items"], predictions)
        check(found["batch"], predictions)
        if found["raters"] is None:
            continue
        first = predictions.rater_items == 0
        assert list(found["raters"]["raters"]) == list(predictions.rater_names[first])
        assert found["raters"]["distribution"] == found["items"][0]
        assert found["raters"]["entropy"] == found["items"][0][0]["entropy"]
        questions = predictions.questions
        for answers, values in zip(found["raters"]["raters"].values(), predictions.rater_values[first], strict=True):
            if not predictions.is_scale:
                expected = dict(zip(predictions.support, values, strict=True))
            else:
                expected = {one.name: one.denormalise(value) for one, value in zip(questions, values, strict=True)}
            assert answers == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def speech(saved):
    return pipeline(model=saved["log-mel-labels"][0], device="cpu")


def test_every_form_of_a_clip_is_read(speech, saved):
    folder, _, (path, _), _ = saved["log-mel-labels"]
    data, wave = open(path, "rb").read(), WAVES[0]
    row = {"array": wave, "sampling_rate": 16_000}
    for form in (path, data, wave, torch.from_numpy(wave), (wave, 16_000), row, {"bytes": data, "path": None}):
        assert speech(form) == speech(path)
    assert speech([(wave, 16_000), row]) == speech([path, path])
    assert speech([]) == []
    with pytest.raises(ValueError, match="holds nan at frame 0"):
        speech(np.full(100, np.nan))


def test_options_are_the_library_s_and_checked(speech, saved):
    clip = WAVES[0]
    assert speech(clip, top_k=2) == speech(clip)[:2] and len(speech(clip, top_k=99)) == 3
    assert speech(clip, return_raters=True).keys() == {"distribution", "entropy", "raters"}
    given = pipeline(model=saved["log-mel-labels"][0], return_raters=True, top_k=1)
    assert len(given(clip)["distribution"]) == 1 and set(given(clip)["raters"]) == {"ann", "bob"}
    with pytest.raises(ValueError, match="function_to_apply is no argument of this pipeline; it takes top_k and"):
        speech(clip, function_to_apply="none")
    with pytest.raises(ValueError, match="top_k is 0; give a whole number above 0"):
        speech(clip, top_k=0)
    with pytest.raises(ValueError, match="return_raters is true, and this DistributionModel has no raters"):
        pipeline(model=saved["whisper"][0], return_raters=True)


def test_texts_are_checked_and_cut(saved):
    pipe = pipeline(model=saved["bert"][0], device="cpu")
    assert pipe("good " * 500) == pipe("good " * 30)
    for text in ("", "  ", None, ["good"]):
        with pytest.raises(ValueError, match="give a string with at least one word"):
            pipe.preprocess(text)


def test_a_loaded_model_makes_a_pipeline(saved):
    folder, _, inputs, predictions = saved["wavlm"]
    model = AutoModel.from_pretrained(folder)
    extractor = EXTRACTORS["wavlm"]
    check(SpeechOpinionPipeline(model=model, feature_extractor=extractor)(inputs), predictions)
    check(pipeline("audio-classification", model=model, feature_extractor=extractor)(inputs), predictions)


def test_half_precision_gives_distributions(saved):
    folder, _, (path, _), predictions = saved["log-mel-labels"]
    found = pipeline(model=folder, dtype=torch.bfloat16)(path)
    assert sum(entry["score"] for entry in found) == pytest.approx(1)
    assert found[0]["score"] == pytest.approx(predictions.probs[0].max(), abs=0.05)


def test_the_configuration_says_which_pipeline_whatever_a_file_said(saved):
    for folder, kind, _, _ in saved.values():
        path = folder / "config.json"
        known = json.loads(path.read_text())["custom_pipelines"]
        impl = "TextOpinionPipeline" if kind == "bert" else "SpeechOpinionPipeline"
        kinds = {"pt": ["AutoModel"], "type": "text" if kind == "bert" else "audio"}
        assert known == {task_of(kind): {"impl": f"opinion_pipeline.{impl}", **kinds}}
        assert {"opinion_pipeline.py", "waves.py"} <= {file.name for file in folder.iterdir()}
    config = json.loads(path.read_text()) | {"custom_pipelines": {"text-classification": {"impl": "evil.Pipeline"}}}
    path.write_text(json.dumps(config))
    assert isinstance(pipeline(model=str(folder)), TextOpinionPipeline)
    path.write_text(json.dumps(config | {"custom_pipelines": known}))


def test_a_second_save_of_remote_code_carries_the_pipeline(saved, told):
    for folder, *_ in saved.values():
        names = {file.name for file in folder.glob("*.py")}
        assert {file.name for file in (folder / "again").glob("*.py")} == names


def test_models_of_others_are_left_to_the_library(tmp_path):
    tiny_bert = transformers.BertForSequenceClassification(tiny.trunk_config("bert"))
    (tmp_path / "words.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood")
    tiny_bert.save_pretrained(tmp_path)
    BertTokenizerFast(vocab_file=str(tmp_path / "words.txt")).save_pretrained(tmp_path)
    pipe = pipeline("text-classification", model=str(tmp_path))
    assert type(pipe).__name__ == "TextClassificationPipeline"
    assert type(pipe).__module__ == "transformers.pipelines.text_classification"
    with pytest.raises((OSError, ValueError), match="absent"):
        pipeline("text-classification", model=str(tmp_path / "absent"))


LATE = """
import sys
from transformers import AutoConfig, AutoModel, pipeline
stock = AutoConfig.__dict__["from_pretrained"].__func__
import annot_hf
from transformers import pipeline as ours
assert not any(name.startswith("annot_hf.models.modeling") for name in sys.modules)
assert AutoConfig.from_pretrained(sys.argv[1]).model_type == "annot-annotator"
assert AutoConfig.__dict__["from_pretrained"].__func__ is stock
assert type(AutoModel.from_pretrained(sys.argv[1])).__module__ == "annot_hf.models.modeling_annotator"
assert ours is not pipeline and type(ours(model=sys.argv[1])).__module__ == "annot_hf.models.opinion_pipeline"
"""


def test_the_order_of_imports_does_not_matter(saved):
    command = [sys.executable, "-c", LATE, str(saved["log-mel-scales"][0])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
