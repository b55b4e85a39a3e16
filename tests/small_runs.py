"""Small corpora, trunks and runs: fixtures of the tests of training and experiments."""

import inspect
import shutil

import pytest
import tiny
import yaml
from sayings import Sayings
from tiny_qwen2_audio import build_tiny_qwen2_audio
from transformers import BertTokenizerFast, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor, WhisperModel

from annot_hf.data.export import export_corpus
from annot_hf.data.simulate import SimulatedCorpus, simulate_corpus
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.trunks import build_trunk
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import train
from annot_hf.training.trainer import OpinionTrainer

# Dropout and every augmentation but copies are on, so that a resumed run must restore every generator.
SMALL = tiny.SMALL | {
    "mask_time_prob": 0.4,
    "mel_range": None,
    "gain_jitter": 0.1,
    "tilt_jitter": 0.1,
    "speed_jitter": 0.1,
    "num_train_epochs": 2,
    "weight_decay": 0.01,
}
RECIPES = {"annotator": "simulated-annotator", "distribution": "speech-distribution"}


def simulated_export(home, **sizes):
    """The folder of an export of a simulated corpus of these sizes; the clips lie beside it."""
    export_corpus(SimulatedCorpus(simulate_corpus(home / "simulated", **sizes)), home / "export")
    return home / "export"


def killed_at(monkeypatch, step):
    """Training stops like a killed process, in the middle of the `step`-th batch (5 items and batches of 2: 3 an epoch)."""
    seen, stock = [], OpinionTrainer.training_step

    def training_step(self, *arguments):
        seen.append(None)
        if len(seen) == step:
            raise KeyboardInterrupt
        return stock(self, *arguments)

    monkeypatch.setattr(OpinionTrainer, "training_step", training_step)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """An exported corpus: 3 speakers with 5 clips each (a split a speaker), 4 raters, 2 or 3 of whom rate a clip."""
    home = tmp_path_factory.mktemp("corpus")
    return simulated_export(home, speakers=3, clips_per_speaker=5, annotators=4, ratings=(2, 3))


@pytest.fixture(scope="session")
def features(tmp_path_factory):
    """A folder for features that runs share."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="session")
def small_run(corpus, features):
    """Makes a small run: model, output folder, overrides."""

    def make(model, out, **overrides):
        question = "emotion" if model == "distribution" else ["activation", "valence"]
        values = (
            SMALL
            | {"question": question, "corpus": str(corpus), "output_dir": str(out), "features": str(features)}
            | overrides
        )
        return load_recipe(RECIPES[model], values)

    return make


@pytest.fixture(scope="session")
def checkpoints(small_run, tmp_path_factory):
    """Folders of a trained annotator and distribution model."""
    home = tmp_path_factory.mktemp("runs")
    return {model: train(small_run(model, home / model)).model for model in RECIPES}


@pytest.fixture
def copied(checkpoints, tmp_path):
    """Copies of the trained checkpoints, to be spoilt."""
    return {model: shutil.copytree(folder, tmp_path / model) for model, folder in checkpoints.items()}


@pytest.fixture(scope="session")
def wavlm_folder(tmp_path_factory):
    """A plain tiny WavLM with its feature extractor, as on the Hub."""
    folder = tmp_path_factory.mktemp("wavlm")
    # 50 frames a second, as a real one: attention over more would take most of the time of the tests
    config = tiny.trunk_config("wavlm", conv_kernel=(10, 8, 8), conv_stride=(5, 8, 8))
    build_trunk(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory):
    """A plain tiny Whisper, decoder included, with its feature extractor, as on the Hub."""
    folder = tmp_path_factory.mktemp("whisper")
    WhisperModel(tiny.trunk_config("whisper")).half().save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A plain tiny BERT with its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    build_trunk(tiny.trunk_config("bert")).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "so", "very", "!"]
    (folder / "words.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "words.txt"), model_max_length=32).save_pretrained(folder)
    return folder


@pytest.fixture
def over_trunk(small_run, tmp_path):
    """Makes a small run over a plain checkpoint instead of the log-mel trunk."""

    def make(trunk, **overrides):
        values = small_run("distribution", tmp_path / "run").values
        aside = {"trunk", *inspect.signature(LogMelConfig).parameters}
        values = {name: value for name, value in values.items() if name not in aside}
        recipe = tmp_path / "other.yaml"
        recipe.write_text(yaml.safe_dump(values))
        return load_recipe(recipe, {"trunk": str(trunk), "num_train_epochs": 1} | overrides)

    return make


@pytest.fixture(scope="session")
def sayings(tmp_path_factory):
    """The corpus, exported."""
    home = tmp_path_factory.mktemp("sayings")
    (home / "root").mkdir()
    export_corpus(Sayings(home / "root"), home / "export")
    return home / "export"


@pytest.fixture(scope="session")
def lalm(tmp_path_factory):
    return build_tiny_qwen2_audio(tmp_path_factory.mktemp("lalm"))


@pytest.fixture(scope="session")
def lalm_run(lalm, corpus):
    """Makes a small run of the packaged recipe."""

    def make(out, **overrides):
        small = {
            "trunk": str(lalm),
            "corpus": str(corpus),
            "output_dir": str(out),
            "question": "emotion",
            "num_train_epochs": 2,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2,
            "dataloader_num_workers": 0,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
        }
        return load_recipe("qwen2-audio", small | overrides)

    return make


@pytest.fixture(scope="session")
def adapted(lalm_run, tmp_path_factory):
    """The folder of a run with adapters."""
    folder = tmp_path_factory.mktemp("adapted")
    train(lalm_run(folder))
    return folder


@pytest.fixture
def recipe(sayings, bert_folder, tmp_path):
    """Makes a run of a packaged text recipe over the tiny BERT, two steps long."""

    def make(name, **overrides):
        values = {
            "trunk": str(bert_folder),
            "corpus": str(sayings),
            "output_dir": str(tmp_path / name),
            "max_steps": 2,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return load_recipe(name, values | overrides)

    return make
