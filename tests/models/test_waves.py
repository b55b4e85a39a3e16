"""Clips that are arrays, and sound files read by the code that a checkpoint carries."""

import builtins
import importlib
import io

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, strategies as st

from annot_hf.data.audio import AudioLimits, audio_info, load_audio
from annot_hf.models.waves import AudioError, given_wave, read_wave

WAVE = np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32)


class Decoder:
    """What `datasets` gives for a row of an Audio column: an `AudioDecoder` of torchcodec, as far as it is used."""

    def get_all_samples(self):
        samples = type("AudioSamples", (), {})()
        samples.data, samples.sample_rate = torch.from_numpy(WAVE)[None], 16_000
        return samples


STEREO = np.stack([WAVE + 0.25, WAVE - 0.25])
FORMS = {
    "pair": (WAVE, 16_000),
    "numpy rate": (WAVE, np.int64(16_000)),
    "list": (WAVE.tolist(), 16_000),
    "row": {"array": WAVE, "sampling_rate": 16_000, "path": None},
    "raw": {"raw": WAVE, "sampling_rate": 16_000},
    "tensor": (torch.from_numpy(WAVE).requires_grad_(), 16_000),
    "channels first": (STEREO, 16_000),
    "channels last": (STEREO.T, 16_000),
    "decoder": Decoder(),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_array_is_a_clip(form):
    for read in (load_audio, lambda source: read_wave(source, 16_000)):
        np.testing.assert_allclose(read(FORMS[form]), WAVE, atol=1e-7)
    info = audio_info(FORMS[form])
    assert (info.frames, info.sampling_rate, info.seconds, info.format) == (4000, 16_000, 0.25, "array")


@given(st.sampled_from([np.int8, np.int16, np.int32]), st.integers(1, 60))
def test_whole_numbers_are_what_a_sound_file_of_them_holds(kind, length):
    ends = np.iinfo(kind)
    values = np.random.default_rng(length).integers(ends.min, ends.max, length, dtype=kind, endpoint=True)
    wave, rate = given_wave((values, 8000))
    assert rate == 8000 and np.abs(wave).max() <= 1
    if kind is not np.int8:
        file = io.BytesIO()
        soundfile.write(file, values, 8000, format="WAV", subtype="PCM_16" if kind is np.int16 else "PCM_32")
        np.testing.assert_array_equal(wave, load_audio(file.getvalue(), sampling_rate=8000))


def test_an_array_is_resampled_as_a_file_is():
    file = io.BytesIO()
    soundfile.write(file, WAVE, 22_050, format="WAV", subtype="FLOAT")
    for source in ((WAVE, 22_050), {"bytes": file.getvalue(), "path": "a.wav"}):
        for found in (load_audio(source), read_wave(source, 16_000)):
            np.testing.assert_array_equal(found, soxr.resample(WAVE, 22_050, 16_000))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (WAVE, r"has no sampling rate; give \(array, rate\)"),
        ({"array": WAVE}, "has no sampling rate"),
        ((WAVE, 0), "has the sampling rate 0; give a whole number of Hz above 0"),
        ((WAVE, 16e3), r"has the sampling rate 16000\.0"),
        ((WAVE[:0], 16_000), r"is empty \(shape \(0,\)\); leave the clip out"),
        ((np.zeros((2, 3, 4)), 16_000), r"has shape \(2, 3, 4\); give \(time,\), or up to 8 channels"),
        ((np.zeros((100, 90)), 16_000), r"has shape \(100, 90\)"),
        ((np.zeros((2, 3)), 16_000), r"has shape \(2, 3\)"),
        ((np.float32(1), 16_000), r"has shape \(\)"),
        ((np.array([0, np.nan, 0]), 16_000), "holds nan at frame 1; samples must be finite"),
        ((np.array([0, -np.inf]), 16_000), "holds -inf at frame 1"),
        ((np.zeros(9, np.uint8), 16_000), "holds uint8; give floating-point samples, or signed whole numbers"),
        ((np.array(["a"] * 9), 16_000), "holds <U1"),
        ((np.zeros(9, complex), 16_000), "holds complex128"),
    ],
)
def test_an_array_that_is_no_clip_is_one_sentence(source, message):
    for read in (load_audio, audio_info):
        with pytest.raises(AudioError, match=message) as error:
            read(source)
        assert "\n" not in str(error.value)


def test_the_limits_hold_for_arrays_too():
    for read in (load_audio, audio_info):
        with pytest.raises(AudioError, match=r"has 4000 frames \(0\.2 s\); at most 0\.1 s .* --max-seconds"):
            read((WAVE, 16_000), limits=AudioLimits(max_seconds=0.1))
        with pytest.raises(AudioError, match=r"4000 frames; at most 100 are accepted.*AudioLimits\(max_frames="):
            read((WAVE, 16_000), limits=AudioLimits(max_frames=100))


def test_names_are_no_arrays(tmp_path):
    soundfile.write(tmp_path / "a.wav", WAVE, 16_000, subtype="FLOAT")
    (name,) = np.array([str(tmp_path / "a.wav")])
    np.testing.assert_array_equal(load_audio(name), WAVE)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.wav", r"absent\.wav cannot be decoded .*; give a readable wav, flac, ogg or mp3 file"),
        (b"no sound", "<bytes> cannot be decoded"),
        ({"bytes": None, "path": None}, "A row with bytes, path holds no clip; give the value of its audio column"),
        ({"audio": {"path": "a.wav"}, "label": 1}, r"A row with audio, label holds no clip; .*such as row\['audio'\]"),
        ([0.1] * 9000, r"Audio source \[0\.1, 0\.1, 0\.1, 0\.1, 0\.1, 0\.1, \.\.\.\] is none of: path"),
        (7, "Audio source 7 is none of: path, bytes"),
    ],
)
def test_what_the_carried_code_cannot_read_is_one_sentence(source, message):
    with pytest.raises(AudioError, match=message) as error:
        read_wave(source, 16_000)
    assert "\n" not in str(error.value)


def test_what_is_not_installed_is_named_and_arrays_do_without(monkeypatch):
    stock = importlib.import_module

    def absent(name, *rest):
        if name in ("soundfile", "soxr"):
            raise builtins.ImportError(name)
        return stock(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    np.testing.assert_array_equal(read_wave(WAVE, 16_000), WAVE)
    for source, name in (("a.wav", "soundfile"), ((WAVE, 8000), "soxr")):
        with pytest.raises(ValueError, match=f"needs the package {name}, which is not installed; pip install {name}"):
            read_wave(source, 16_000)
