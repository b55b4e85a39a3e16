"""Whisper's encoder as a trunk: the library's own numbers at its full length, and a clip's own frames at any other."""

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from transformers import (
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.trunks import build_trunk, encode, encode_layers
from annot_hf.models.waves import log_mel
from annot_hf.models.whisper import PEAK, WhisperTrunk, _Windows

# mel frames that the tiny model has positions for
FULL = 48
FAMILIES = (WhisperModel, WhisperForConditionalGeneration, WhisperForAudioClassification)


def trunk(**options):
    torch.manual_seed(0)
    built = build_trunk(tiny.trunk_config("whisper"), **options).eval()
    for module in built.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 2), nn.init.uniform_(module.bias, -1, 1)
    return built


def clip(frames, seed=0):
    return torch.randn(1, 8, frames, generator=torch.Generator().manual_seed(seed))


def levelled(features):
    return features - features.amax((1, 2), keepdim=True) + PEAK


@torch.inference_mode()
def test_at_full_length_its_frames_are_those_of_the_library():
    ours, features = trunk(), levelled(clip(FULL))
    plain = WhisperModel(tiny.trunk_config("whisper")).encoder.eval()
    plain.load_state_dict(ours.state_dict())
    expected = plain(features, output_hidden_states=True)
    torch.testing.assert_close(encode(ours, input_features=features)[0], expected.last_hidden_state)
    states, mask = encode_layers(trunk(layer="weighted"), input_features=features)
    assert mask.all() and len(states) == 3
    # the library gives the last one after its norm
    for state, other in zip(states[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(state, other)


@torch.inference_mode()
@pytest.mark.parametrize("width", [None, 150])
def test_batching_does_not_change_frames(width):
    ours, lengths = trunk(), [*tiny.lengths("whisper"), FULL, FULL + 1, 1, 2]
    batch = tiny.inputs("whisper", lengths, width=width)
    frames, mask = encode(ours, **batch)
    for row, length in enumerate(lengths):
        alone, _ = encode(ours, input_features=batch["input_features"][row : row + 1, :, :length])
        assert int(mask[row].sum()) == alone.shape[1] == -(-length // 2)
        torch.testing.assert_close(frames[row][mask[row]], alone[0], rtol=1e-4, atol=1e-5)
        assert not frames[row][~mask[row]].any()


@torch.inference_mode()
def test_the_level_does_not_matter():
    ours, features = trunk(), clip(40)
    for shift in (-0.6, 0.6):
        torch.testing.assert_close(
            encode(ours, input_features=features + shift)[0], encode(ours, input_features=features)[0]
        )


def test_windows_cover_every_frame_once_with_its_neighbours():
    size, lengths = 24, [7, 24, 25, 40, 41, 101]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    windows = _Windows(mask, size)
    place = torch.arange(max(lengths), dtype=torch.float32).expand(len(lengths), -1)[..., None]
    cut = windows.cut(place)
    assert torch.equal(windows.join(cut)[..., 0], place[..., 0] * mask)
    for row, length in enumerate(lengths):
        own = cut[windows.item == row, :, 0]
        assert len(own) == (1 if length <= size else -(-(length - 8) // 16))
        # where a clip has several windows, each frame is taken from one that has four frames or the clip's end around it
        chosen = windows.column[row, :length]
        assert all(c >= 4 or c == t for t, c in enumerate(chosen.tolist()))
        assert all(size - c > 4 or t + size - c >= length for t, c in enumerate(chosen.tolist()))


@pytest.mark.parametrize("family", FAMILIES)
def test_from_trunk_takes_the_encoder_of_any_checkpoint_and_nothing_else(family, tmp_path):
    torch.manual_seed(3)
    whole = family(tiny.trunk_config("whisper")).half()
    whole.save_pretrained(tmp_path / "plain")
    model = DistributionModel.from_trunk(tmp_path / "plain", questions=tiny.CATEGORY, **tiny.HEADS)
    encoder = next(part for name, part in whole.named_modules() if name.rpartition(".")[2] == "encoder")
    expected = {name: weight.float() for name, weight in encoder.state_dict().items()}
    assert isinstance(model.trunk, WhisperTrunk)
    torch.testing.assert_close(dict(model.trunk.state_dict()), expected, rtol=0, atol=0)
    model.save_pretrained(tmp_path / "model")
    again, batch = DistributionModel.from_pretrained(tmp_path / "model"), tiny.inputs("whisper", [40, 95])
    torch.testing.assert_close(again(**batch).probs, model(**batch).probs)
    size = sum(weight.numel() for weight in model.parameters()) * 4
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < size + 20_000


@torch.inference_mode()
def test_layer_k_is_hidden_state_k_and_the_model_has_no_more_layers(tmp_path):
    WhisperModel(tiny.trunk_config("whisper")).save_pretrained(tmp_path)
    batch = tiny.inputs("whisper", tiny.lengths("whisper"))

    def over(layer):
        return DistributionModel.from_trunk(tmp_path, questions=tiny.CATEGORY, trunk_layer=layer, **tiny.HEADS)

    states, mask = encode_layers(over("weighted").trunk, **batch)
    for layer, state in enumerate(states):
        model = over(layer)
        assert len(model.trunk.layers) == layer
        torch.testing.assert_close(model.frames(**batch)[0][mask], state[mask])


@pytest.mark.parametrize("seconds", [0.001, 0.5, 2.0004])
def test_features_are_the_beginning_of_the_extractors_thirty_seconds(seconds):
    extractor = WhisperFeatureExtractor(feature_size=8)
    wave = np.random.default_rng(0).normal(0, 0.1, round(16000 * seconds)).astype(np.float32)
    padded = extractor(wave, sampling_rate=16000, return_tensors="np", return_attention_mask=True)
    found = log_mel(wave, extractor)
    assert len(found) == padded["attention_mask"].sum()
    np.testing.assert_allclose(found, padded["input_features"][0].T[: len(found)], atol=1e-5)


def test_a_mask_of_fewer_frames_than_there_are_is_refused():
    """Such as that of the encoder's frames, half as many: the end of every clip would not be heard."""
    model, batch = tiny.distribution("whisper").eval(), tiny.inputs("whisper", [40, 20])
    with pytest.raises(ValueError, match="attention_mask has 20 columns for 40 mel frames; give one of the frames"):
        model(**batch | {"attention_mask": batch["attention_mask"][:, ::2]})


@pytest.mark.parametrize(
    ("frames", "mask"), [((2, 8, 40), [[1] * 40, [0] * 40]), ((2, 8, 0), None), ((2, 8, 0), [[], []])]
)
def test_a_clip_without_a_frame_is_one_sentence(frames, mask):
    item = 1 if frames[2] else 0
    mask = None if mask is None else torch.tensor(mask, dtype=torch.long)
    with pytest.raises(ValueError, match=rf"Item {item} of input_features \(2, 8, {frames[2]}\) has no mel frame"):
        tiny.distribution("whisper")(input_features=torch.zeros(frames), attention_mask=mask)
