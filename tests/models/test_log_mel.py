import numpy as np
import pytest
import tiny
import torch

from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.modeling_log_mel import LogMelModel, _change_speed, _random_spans, bound_frames


def model(conv_strides=(2, 2), **options):
    torch.manual_seed(0)
    config = LogMelConfig(num_mel_bins=8, conv_channels=(4, 4), conv_strides=conv_strides, hidden_size=6, **options)
    found = LogMelModel(config)
    for module in found.modules():  # statistics as after training, where a zero frame is not mapped to zero
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
            module.bias.data.normal_()
    return found.eval()


@pytest.mark.parametrize("strides", [(2, 2), (1, 1), (2, 1), (3, 2)])
def test_shapes_and_padding(strides):
    trunk, lengths, stride = model(conv_strides=strides), [33, 20, 7, 1], strides[0] * strides[1]
    batch = tiny.inputs("log-mel", lengths, width=48)
    output = trunk(batch["input_features"], batch["attention_mask"])
    assert output.last_hidden_state.shape == (4, -(-48 // stride), 6)
    assert output.frame_mask.sum(1).tolist() == [-(-length // stride) for length in lengths]
    assert not output.last_hidden_state[~output.frame_mask].any()
    for row, length in enumerate(lengths):
        alone = trunk(batch["input_features"][row : row + 1, :length]).last_hidden_state[0]
        torch.testing.assert_close(output.last_hidden_state[row, : len(alone)], alone, rtol=1e-5, atol=1e-6)


def test_standardisation_takes_a_number_or_one_a_band():
    bands = [float(band) for band in range(8)]
    batch = tiny.inputs("log-mel", [30])["input_features"]
    low = {"mel_floor": -100.0}
    shifted = model(mel_mean=[10 + band for band in bands], **low)(batch + torch.tensor(bands)).last_hidden_state
    torch.testing.assert_close(shifted, model(mel_mean=10.0, **low)(batch).last_hidden_state, rtol=1e-4, atol=1e-5)
    silence = torch.full((1, 30, 8), -100.0)  # digital silence is raised to the floor
    floor = model(mel_floor=2.0)(torch.full((1, 30, 8), 2.0)).last_hidden_state
    assert torch.equal(model(mel_floor=2.0)(silence).last_hidden_state, floor)


RANGE = {"mel_range": 12.0, "mel_mean": -6.0}


@pytest.mark.parametrize("nats", [-2.763, 2.763, 12.0])
def test_with_a_range_the_level_changes_nothing(nats):
    batch = tiny.inputs("log-mel", [40, 23])
    trunk, absolute = model(**RANGE), model()
    louder = batch | {"input_features": batch["input_features"] + nats}
    found, expected = trunk(**louder).last_hidden_state, trunk(**batch).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(absolute(**louder).last_hidden_state, absolute(**batch).last_hidden_state, atol=1e-2)


def test_frames_are_relative_to_the_peak_of_their_own_clip():
    batch = tiny.inputs("log-mel", [33, 20, 7, 1], width=48)  # padding is louder than any clip
    frames, mask = batch["input_features"], batch["attention_mask"].bool()
    found = bound_frames(frames, mask, LogMelConfig(num_mel_bins=8, mel_range=6.0))
    for row in range(4):
        clip = frames[row][mask[row]].numpy()
        np.testing.assert_allclose(found[row][mask[row]].numpy(), np.maximum(clip - clip.max(), -6), atol=1e-6)
    assert torch.equal(bound_frames(frames, mask, LogMelConfig(num_mel_bins=8)), frames.clip(0.0))


def test_with_a_range_silence_is_the_floor_and_batching_changes_nothing():
    trunk, lengths = model(**RANGE), [33, 20, 1]
    batch = tiny.inputs("log-mel", lengths, width=48)
    batch["input_features"][1] = -15.9  # digital silence
    output = trunk(**batch)
    assert output.last_hidden_state.isfinite().all()
    for row, length in enumerate(lengths):
        alone = trunk(batch["input_features"][row : row + 1, :length]).last_hidden_state[0]
        torch.testing.assert_close(output.last_hidden_state[row, : len(alone)], alone, rtol=1e-5, atol=1e-6)
    silent = bound_frames(batch["input_features"], batch["attention_mask"].bool(), trunk.config)[1, :20]
    assert torch.equal(silent, torch.full((20, 8), -12.0))
    nothing = trunk(batch["input_features"], torch.zeros(3, 48))
    assert nothing.last_hidden_state.isfinite().all()


def test_a_range_is_above_nothing_and_knows_no_level():
    with pytest.raises(
        ValueError, match="mel_range is 0, which leaves silence; set it above 0, such as 14, or to null"
    ):
        LogMelConfig(mel_range=0)
    with pytest.raises(ValueError, match="mel_range is -1; it must be 0 or more"):
        LogMelConfig(mel_range=-1)
    with pytest.raises(
        ValueError, match=r"gain_jitter is 0\.1, and mel_range 14 takes the level out again; remove gain_"
    ):
        LogMelConfig(mel_range=14, gain_jitter=0.1)


def test_a_configuration_without_the_key_keeps_absolute_levels():
    """As checkpoints have it that are older than the key."""
    told = LogMelConfig(mel_mean=10.0).to_dict()
    del told["mel_range"]
    assert LogMelConfig.from_dict(told).mel_range is None


def test_spans_cover_the_asked_share_and_never_a_whole_row():
    torch.manual_seed(0)
    sizes = torch.tensor([400] * 500 + [10] * 500 + [0])
    hidden = _random_spans(sizes, 400, 0.2, 20)
    assert 0.13 < hidden[:500].float().mean() < 0.21  # spans may overlap
    assert not hidden[500:].any()
    assert not hidden.all(1).any()
    assert not _random_spans(sizes, 400, 0.0, 20).any()


def test_speed_stretches_a_clip_evenly():
    torch.manual_seed(0)
    lengths = [40, 64, 1, 23]
    frames = (torch.arange(64.0)[:, None] + torch.zeros(8)).repeat(4, 1, 1)
    mask = torch.arange(64) < torch.tensor(lengths)[:, None]
    changed, real = _change_speed(torch.where(mask[..., None], frames, 1e3), mask, 0.2)
    for row, length in enumerate(lengths):
        clip = changed[row, real[row], 0]
        assert 0.8 <= len(clip) / length <= 1.23
        assert clip[0] == 0 and clip.max() <= length - 1  # no padding gets in
        steps = clip.diff()[clip[1:] < length - 1]
        torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=0, atol=1e-4)
    changed, real = _change_speed(frames, mask, 0.0)
    torch.testing.assert_close(changed[real], frames[mask])


OFF = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "conv_dropout": 0.0}


@pytest.mark.parametrize("option", ["gain_jitter", "tilt_jitter", "speed_jitter", *OFF])
def test_each_augmentation_can_be_asked_for_alone(option):
    batch = tiny.inputs("log-mel", [60, 50])
    quiet, loud = model(**OFF).train(), model(**OFF | {option: 0.5}).train()
    assert torch.equal(quiet(**batch).last_hidden_state, quiet(**batch).last_hidden_state)
    first, again = (loud(**batch).last_hidden_state for _ in range(2))
    assert first.shape != again.shape or not torch.equal(first, again)


def test_augmentation_acts_in_training_only():
    trunk = model(mask_time_prob=0.5, mask_feature_prob=0.5, gain_jitter=1.0, mask_time_length=4)
    batch = tiny.inputs("log-mel", [60, 3])
    first, again = (trunk(**batch).last_hidden_state for _ in range(2))
    assert torch.equal(first, again)
    trunk.train()
    first, again = (trunk(**batch).last_hidden_state for _ in range(2))
    assert not torch.equal(first, again)


def test_layers_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="conv_channels has 2 entries and conv_strides 1; give one of each per layer"):
        LogMelConfig(conv_channels=(4, 4), conv_strides=(2,))
    with pytest.raises(ValueError, match="conv_channels has 0"):
        LogMelConfig(conv_channels=(), conv_strides=())
