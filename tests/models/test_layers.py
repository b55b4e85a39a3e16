"""The choice of a trunk's layer: a shorter trunk gives the very hidden states of the whole one, and nothing is lost."""

import json
import re

import pytest
import tiny
import torch
from torch import nn
from transformers import AutoModel, LlamaConfig

from annot_hf.models.configuration_distribution import DistributionConfig
from annot_hf.models.heads import LayerSum
from annot_hf.models.modeling_annotator import AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.trunks import LAYERED_TEXT_TRUNKS, WAVEFORM_TRUNKS, build_trunk, encode, encode_layers

FAMILIES = (*tiny.WAVEFORM, *tiny.TEXT)
DEPTH = 2


def plain_trunk(kind, folder, **options):
    """A plain checkpoint whose norms differ from their initial values, so that one too many or too few shows."""
    torch.manual_seed(0)
    plain = AutoModel.from_config(tiny.trunk_config(kind, **options)).eval()
    for module in plain.modules():
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    plain.save_pretrained(folder)
    return plain


def over(folder, **options):
    return DistributionModel.from_trunk(folder, questions=tiny.CATEGORY, **tiny.HEADS | options)


def equal_lengths(kind):
    """Items without padding, which the plain model treats as ours does."""
    return tiny.inputs(kind, [max(tiny.lengths(kind))] * 2)


def test_every_family_is_tried():
    assert set(tiny.TEXT) == set(LAYERED_TEXT_TRUNKS)
    assert {kind.removesuffix("-layer") for kind in tiny.WAVEFORM} == set(WAVEFORM_TRUNKS)


@torch.inference_mode()
@pytest.mark.parametrize("kind", FAMILIES)
def test_layer_k_is_hidden_state_k_of_the_whole_trunk(kind, tmp_path):
    plain, batch = plain_trunk(kind, tmp_path), equal_lengths(kind)
    states = plain(**batch, output_hidden_states=True).hidden_states
    assert len(states) == DEPTH + 1
    for layer, state in enumerate(states):
        model = over(tmp_path, trunk_layer=layer)
        torch.testing.assert_close(model.frames(**batch)[0], state, rtol=1e-5, atol=1e-5)
        assert model.config.trunk_config.num_hidden_layers == DEPTH
    last = plain(**batch).last_hidden_state
    torch.testing.assert_close(over(tmp_path).frames(**batch)[0], last, rtol=1e-4, atol=1e-5)
    several = over(tmp_path, trunk_layer=[0, 1])
    beside = torch.cat(states[:2], -1)
    torch.testing.assert_close(several.frames(**batch)[0], beside, rtol=1e-5, atol=1e-5)
    assert several(trunk_frames=beside).probs.shape == (len(beside), 3)
    assert torch.allclose(last, states[-1]) == (not kind.endswith("-layer"))  # the stable variants end in a norm


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["wavlm", "hubert-layer", "wav2vec2-layer", "roberta"])
def test_padding_or_not_a_short_trunk_equals_the_whole_one_to_the_bit(kind, tmp_path):
    plain_trunk(kind, tmp_path)
    batch = tiny.inputs(kind, tiny.lengths(kind))
    states, expected = encode_layers(over(tmp_path, trunk_layer="weighted").trunk, **batch)
    for layer, state in enumerate(states):
        frames, mask = encode(over(tmp_path, trunk_layer=layer).trunk, **batch)
        assert torch.equal(frames[mask], state[mask]) and torch.equal(mask, expected)


@pytest.mark.parametrize("kind", ["wavlm", "wavlm-layer", "bert"])
def test_a_short_trunk_is_smaller_and_every_weight_of_it_learns(kind, tmp_path):
    plain_trunk(kind, tmp_path)
    for layer in (0, 1, [0, 1], "weighted"):
        model = over(tmp_path, trunk_layer=layer, dropout=0.0, pooling_dropout=0.0).train()
        model(**tiny.inputs(kind, tiny.lengths(kind)), labels=torch.full((3, 3), 1 / 3)).loss.backward()
        idle = [name for name, weight in model.named_parameters() if weight.grad is None]
        assert set(idle) <= {"trunk.masked_spec_embed"}
        whole = build_trunk(tiny.trunk_config(kind)).num_parameters()
        assert layer == "weighted" or model.trunk.num_parameters() < whole


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["wavlm-layer", "bert"])
def test_a_weighting_starts_as_the_mean_of_all_hidden_states(kind, tmp_path):
    plain, batch = plain_trunk(kind, tmp_path), equal_lengths(kind)
    states = plain(**batch, output_hidden_states=True).hidden_states
    model = over(tmp_path, trunk_layer="weighted")
    torch.testing.assert_close(model.frames(**batch)[0], torch.stack(states).mean(0), rtol=1e-4, atol=1e-5)
    model.layer_sum.scores.copy_(torch.tensor([0.0, 2.0, -1.0]))
    expected = torch.einsum("l,lbth->bth", torch.tensor([0.0, 2.0, -1.0]).softmax(0), torch.stack(states))
    torch.testing.assert_close(model.frames(**batch)[0], expected, rtol=1e-4, atol=1e-5)


def test_the_weights_of_layers_learn_and_are_kept(tmp_path):
    plain_trunk("wavlm", tmp_path / "plain", layerdrop=0.9)  # a layer that is skipped would have no hidden state
    model = over(tmp_path / "plain", trunk_layer="weighted", freeze_trunk=False).train()
    batch = tiny.inputs("wavlm", [700, 1000, 431])
    optimiser = torch.optim.SGD(model.layer_sum.parameters(), lr=10.0)
    for _ in range(3):
        model(**batch, labels=torch.tensor([[1.0, 0, 0]] * 3)).loss.backward()
        optimiser.step()
    assert model.layer_sum.scores.abs().min() > 1e-6
    model.save_pretrained(tmp_path / "saved")
    loaded = DistributionModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.layer_sum.scores, model.layer_sum.scores)
    assert over(tmp_path / "plain", trunk_layer="weighted").layer_sum.scores.tolist() == [0, 0, 0]


def test_a_weighting_learns_alike_with_checkpointed_activations(tmp_path):
    plain_trunk("wavlm", tmp_path, mask_time_prob=0.0)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = over(tmp_path, trunk_layer="weighted", dropout=0.0, pooling_dropout=0.0)
        if checkpointing:
            model.gradient_checkpointing_enable()
        for module in model.trunk.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.train()
        for module in model.trunk.modules():
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        model(**equal_lengths("wavlm"), labels=torch.tensor([[1.0, 0, 0]] * 2)).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and "layer_sum.scores" in gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 1, [0, 1], "weighted"])
@pytest.mark.parametrize("kind", ["wavlm-layer", "bert"])
def test_a_saved_model_says_how_deep_the_trunk_was(kind, layer, tmp_path):
    plain_trunk(kind, tmp_path / "plain")
    options = {"questions": tiny.SCALES, "annotators": ["a", "b"]} | tiny.HEADS
    model = AnnotatorModel.from_trunk(tmp_path / "plain", trunk_layer=layer, **options)
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["trunk_layer"] == layer and config["trunk_config"]["num_hidden_layers"] == DEPTH
    loaded, info = AnnotatorModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.trunk_layer == layer
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_only_weights_that_are_needed_can_be_missing(tmp_path):
    plain = plain_trunk("bert", tmp_path)
    weights = {name: value for name, value in plain.state_dict().items() if "layer.1." not in name}
    plain.save_pretrained(tmp_path, state_dict=weights)
    assert over(tmp_path, trunk_layer=1).config.trunk_layer == 1
    with pytest.raises(ValueError, match=r"lacks \d+ weights of a bert, for instance encoder\.layer\.1"):
        over(tmp_path, trunk_layer=2)


@pytest.mark.parametrize("layer", [-1, 3, True, 1.0, "last", "1", [], [1, 0], [1, 1], [1, 3], [True]])
def test_a_layer_that_is_not_there_is_said(layer):
    with pytest.raises(
        ValueError, match=rf"trunk_layer is {re.escape(repr(layer))}; this wavlm trunk has hidden states"
    ):
        DistributionConfig(trunk_config=tiny.trunk_config("wavlm"), questions=tiny.CATEGORY, trunk_layer=layer)


@pytest.mark.parametrize("layer", [0, "weighted"])
@pytest.mark.parametrize("config", [tiny.trunk_config("log-mel"), LlamaConfig(vocab_size=20, **tiny.TRANSFORMER)])
def test_trunks_without_a_choice_say_so(config, layer):
    with pytest.raises(
        ValueError, match=rf"a trunk of type {config.model_type} has no choice of layers; leave trunk_layer out"
    ):
        DistributionConfig(trunk_config=config, questions=tiny.CATEGORY, trunk_layer=layer)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["wav2vec2", "data2vec-audio"])
def test_an_adapter_after_the_last_layer_is_left_out(kind, tmp_path):
    """It shortens the frames, and its convolutions would hear padding."""
    plain, batch = plain_trunk(kind, tmp_path, add_adapter=True), equal_lengths(kind)
    states = plain(**batch, output_hidden_states=True).hidden_states
    assert plain(**batch).last_hidden_state.shape[1] < states[-1].shape[1]
    for layer, state in ((None, states[-1]), (1, states[1])):
        frames, mask = over(tmp_path, trunk_layer=layer).frames(**batch)
        assert mask.all() and frames.shape[:2] == mask.shape
        torch.testing.assert_close(frames, state, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_data2vec_checkpoint_may_have_keys_of_wav2vec2(tmp_path):
    plain = plain_trunk("data2vec-audio", tmp_path, feat_extract_norm="group", do_stable_layer_norm=True)
    batch = equal_lengths("data2vec-audio")
    states = plain(**batch, output_hidden_states=True).hidden_states
    torch.testing.assert_close(over(tmp_path, trunk_layer=1).frames(**batch)[0], states[1], rtol=1e-4, atol=1e-5)


def test_layer_sum_is_a_weighted_mean():
    layers = LayerSum(3)
    states = [torch.full((1, 2, 4), float(value)) for value in (1, 2, 6)]
    torch.testing.assert_close(layers(states), torch.full((1, 2, 4), 3.0))


def test_batch_norm_brings_units_to_one_scale_and_takes_a_last_batch_of_one(tmp_path):
    plain_trunk("bert", tmp_path)
    model = over(tmp_path, trunk_layer=[0, 2], pooling="mean", embedding_kind="batch_normed", dropout=0.0).train()
    (norm, *_), width = model.embedding, model.pooling.output_size
    pooled = torch.randn(64, width) * torch.logspace(-2, 2, width) + 5
    torch.testing.assert_close(norm(pooled).std(0, correction=0), torch.ones(width), rtol=0.1, atol=0)
    model(
        **{name: value[:1] for name, value in equal_lengths("bert").items()}, labels=torch.tensor([[1.0, 0, 0]])
    ).loss.backward()
    expected = (pooled[0] - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(norm(pooled[:1])[0], expected)
