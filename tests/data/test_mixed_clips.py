"""Mixed clips are audio like any other: by hand, and on clips that do not go together."""

import numpy as np
import pytest
import soundfile

from annot_hf.data.audio import AudioLimits, MixedClip, audio_info, load_audio
from annot_hf.data.conditions import Condition, ConditionedClip
from annot_hf.data.lengths import AudioError

RATE = 16_000


@pytest.fixture
def clips(tmp_path):
    """Paths and samples of two clips, of 0.5 and 0.3 s."""
    rng, found = np.random.default_rng(0), []
    for name, size in (("long", 8000), ("short", 4800)):
        wave = (rng.standard_normal(size) * 0.1).astype(np.float32)
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE, subtype="FLOAT")
        found.append((tmp_path / f"{name}.wav", wave))
    return found


@pytest.mark.parametrize("share", [0.0, 0.25, 0.999, 1.0])
@pytest.mark.parametrize("turned", [False, True])
def test_a_mixture_is_both_clips_cut_to_the_shorter(share, turned, clips):
    (a, first), (b, second) = clips[::-1] if turned else clips
    expected = [(1 - share) * x + share * y for x, y in zip(first, second, strict=False)]
    found = load_audio(MixedClip(a, b, share), sampling_rate=RATE)
    assert found.dtype == np.float32 and len(found) == 4800 == len(expected)
    assert found == pytest.approx(expected, abs=1e-7)


def test_clips_of_different_rates_are_mixed_after_resampling(clips, tmp_path):
    (a, _), _ = clips
    soundfile.write(tmp_path / "other.flac", np.sin(np.arange(44_100) / 50) * 0.5, 44_100)
    both = [load_audio(source, sampling_rate=8000) for source in (a, tmp_path / "other.flac")]
    mixed = MixedClip(a, tmp_path / "other.flac", 0.5)
    assert load_audio(mixed, sampling_rate=8000) == pytest.approx((both[0] + both[1][:4000]) / 2, abs=1e-7)
    assert audio_info(mixed).seconds == pytest.approx(0.5)
    assert audio_info(MixedClip(tmp_path / "other.flac", a, 0.5)).seconds == pytest.approx(0.5)


def test_the_header_is_that_of_the_shorter(clips):
    (a, _), (b, _) = clips
    info = audio_info(MixedClip(a, b, 0.5))
    assert (info.frames, info.sampling_rate, info.channels) == (4800, RATE, 1)
    nested = MixedClip(a, MixedClip(a, b, 0.5), 0.5)
    assert audio_info(nested).frames == len(load_audio(nested)) == 4800


def test_both_clips_are_held_against_the_limits(clips, tmp_path):
    (a, _), (b, _) = clips
    limits = AudioLimits(max_seconds=0.4)
    for mixed in (MixedClip(a, b, 0.5), MixedClip(b, a, 0.5)):
        for read in (audio_info, load_audio):
            with pytest.raises(AudioError, match="long.wav has 8000 frames"):
                read(mixed, limits=limits)
    with pytest.raises(AudioError, match="absent.wav"):
        load_audio(MixedClip(a, tmp_path / "absent.wav", 0.0))


def test_a_condition_acts_on_the_mixture(clips):
    (a, _), (b, _) = clips
    clean = ConditionedClip(MixedClip(a, b, 0.3), "x", Condition("clean"))
    assert (load_audio(clean) == load_audio(MixedClip(a, b, 0.3))).all()
    assert audio_info(clean) == audio_info(MixedClip(a, b, 0.3))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="share is"):
        MixedClip("a", "b", share)
