"""Audio: what decodes, at which rates, what is refused with which words, and clips that are mixed as they are read."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings, strategies as st

from annot_hf.data import audio
from annot_hf.data.audio import AudioLimits, MixedClip, audio_info, audio_windows, load_audio
from annot_hf.data.conditions import Condition, ConditionedClip
from annot_hf.data.files import resolve_inside
from annot_hf.models.waves import AudioError

RATE = 16_000


def tone(rate=RATE, seconds=1.0, frequency=440.0):
    return 0.3 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)


def encode(wave, rate=RATE, kind="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype)
    return file.getvalue()


def raw_wav(rate=RATE, channels=1, data=b"\0\0" * 100):
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + form + b"data" + struct.pack("<I", len(data)) + data
    )


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_tone_keeps_pitch_level_and_length(rate, subtype, channels):
    wave = np.repeat(tone(rate)[:, None], channels, axis=1)
    loaded = load_audio(encode(wave, rate, subtype=subtype))
    assert loaded.dtype == np.float32 and loaded.ndim == 1 and loaded.flags.c_contiguous
    assert abs(len(loaded) - RATE) <= 1
    middle = loaded[2000:14000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.01)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * RATE / len(middle) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("kind, subtype", [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_compressed_formats(kind, subtype):
    loaded = load_audio(encode(tone(), kind=kind, subtype=subtype))
    assert len(loaded) == RATE
    assert np.sqrt(np.mean(loaded**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.02)


def test_sources_agree(tmp_path):
    data = encode(tone())
    (tmp_path / "a.wav").write_bytes(data)
    path = tmp_path / "a.wav"
    first = load_audio(path)
    with open(path, "rb") as handle:
        sources = [str(path), data, bytearray(data), io.BytesIO(data), handle, {"bytes": data, "path": "a.wav"}]
        sources.append({"bytes": None, "path": str(path)})
        for source in sources:
            np.testing.assert_array_equal(load_audio(source), first)
        assert not handle.closed
    assert audio_info(path).seconds == 1.0 and audio_info(path).format == "WAV"


def test_channels_are_averaged():
    wave = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1)
    np.testing.assert_allclose(load_audio(encode(wave, subtype="FLOAT")), 0.125)


def test_silence_is_accepted():
    assert not load_audio(encode(np.zeros(RATE))).any()


def test_a_header_that_promises_hours_is_not_decoded():
    hours = encode(np.zeros(16_000 * 601, dtype=np.int16), kind="FLAC")
    assert len(hours) < 60_000
    with pytest.raises(AudioError, match=r"601\.0 s\); at most 600 s"):
        load_audio(hours)
    assert len(load_audio(hours, limits=AudioLimits(max_seconds=700))) == 16_000 * 601


REFUSED = {
    "empty file": (b"", r"empty \(0 bytes\)"),
    "no samples": (raw_wav(data=b""), "no samples"),
    "garbage": (b"not audio at all " * 50, "cannot be decoded"),
    "zeros": (bytes(5000), "cannot be decoded"),
    "header only": (b"RIFF", "truncated"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
    "zero rate": (raw_wav(rate=0), "sampling rate of 0 Hz"),
    "tiny rate": (raw_wav(rate=10), "sampling rate of 10 Hz"),
    "huge rate": (raw_wav(rate=2_000_000_000), "2000000000 Hz"),
    "no channel": (raw_wav(channels=0), "cannot be decoded"),
    "nine channels": (raw_wav(channels=9, data=bytes(1800)), "9 channels; at most 8"),
    "nan": (encode(np.array([0.1, np.nan, 0.2] * 100), subtype="FLOAT"), "holds nan at frame 1"),
    "infinity": (encode(np.array([0.1, 0.2, np.inf] * 100), subtype="FLOAT"), "holds inf at frame 2"),
    "over-long": (encode(np.zeros(1000 * 601), 1000), "601000 frames"),
    "a format whose length is not checked": (encode(tone(), kind="MAT5"), "is a MAT5 file; accepted are WAV,"),
    "not a path": (3, "none of: path"),
    "null": (None, "none of: path"),
    "null in a row": ({"bytes": None, "path": None}, "A row with bytes, path holds no clip"),
    "row of a table": (
        {"audio": {"path": "a.wav"}},
        "A row with audio holds no clip; give the value of its audio column",
    ),
    "list of numbers": ([0.1] * 9000, r"Audio source \[0\.1, 0\.1, 0\.1, 0\.1, 0\.1, 0\.1, \.\.\.\] is none of: path"),
    "missing": ("/nowhere/a.wav", "/nowhere/a.wav' cannot be opened"),
    "a folder": (os.sep, "cannot be opened"),
    "nul in the name": ("a\0b.wav", "cannot be opened"),
}


@pytest.mark.parametrize("source, message", REFUSED.values(), ids=REFUSED)
def test_refused(source, message):
    with pytest.raises(AudioError, match=message):
        load_audio(source)


def test_samples_without_a_header_are_refused(tmp_path):
    path = tmp_path / "clip.raw"
    path.write_bytes(bytes(3200))
    with pytest.raises(AudioError, match=r"clip\.raw cannot be decoded \(samplerate must be specified\)"):
        load_audio(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind, subtype", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_truncated_files_are_named(tmp_path, kind, subtype, share):
    data = encode(tone(seconds=2), kind=kind, subtype=subtype)
    path = tmp_path / "cut.audio"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(AudioError, match="cut.audio"):
        load_audio(path)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_a_truncated_mp3_is_named(share):
    data = encode(tone(seconds=2), kind="MP3")
    with pytest.raises(AudioError, match="truncated"):
        load_audio(data[: int(len(data) * share)])


def test_wav_that_states_a_streaming_length_is_read():
    data = bytearray(encode(tone(), subtype="PCM_16"))
    data[4:8] = b"\xff" * 4
    assert len(load_audio(bytes(data))) == RATE


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([("WAV", None), ("FLAC", None), ("OGG", "OPUS"), ("MP3", None)]),
    st.lists(st.integers(0, 1 << 20), max_size=8),
)
def test_damaged_bytes_give_samples_or_an_audio_error(form, positions):
    data = bytearray(encode(tone(seconds=0.2), kind=form[0], subtype=form[1]))
    for position in positions:
        data[position % len(data)] ^= 0x5A
    try:
        wave = load_audio(bytes(data))
    except AudioError:
        return
    assert np.isfinite(wave).all() and len(wave) <= 600 * RATE


def test_shorter_than_one_sample():
    with pytest.raises(AudioError, match="shorter than one sample"):
        load_audio(encode(np.zeros(1), 48_000), sampling_rate=1)


def test_sampling_rate_must_be_positive():
    with pytest.raises(ValueError, match="positive number of Hz"):
        load_audio(encode(tone()), sampling_rate=0)


@pytest.mark.parametrize("name", ["a.wav", "AudioWAV/a b.wav", "ä/ö.opus", "a..b.wav", "...wav"])
def test_plain_names_resolve(tmp_path, name):
    assert resolve_inside(tmp_path, name) == (tmp_path / name).resolve()


@pytest.mark.parametrize(
    "name",
    [
        "../a.wav",
        "..",
        "a/../../b.wav",
        "a/../b.wav",
        "/etc/passwd",
        "//server/share",
        "C:/a.wav",
        "C:a.wav",
        "..\\a.wav",
        "a\\b.wav",
        "a\0.wav",
        "a\n.wav",
        "~/a.wav",
        "~root/a.wav",
        "http://host/a.wav",
        "file:///etc/passwd",
        "zip://a.wav::http://host/b.zip",
        "\u2025/a.wav",  # two dot leader
        "\uff0e\uff0e/a.wav",  # full-width dots
        "..\uff0fa.wav",  # full-width solidus
        "",
        "  ",
        ".",
        None,
        7,
    ],
)
def test_hostile_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="plain relative path inside"):
        resolve_inside(tmp_path, name)


def test_links_out_of_the_folder_are_refused(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "a.wav").write_bytes(b"x")
    (root / "link.wav").symlink_to(outside / "a.wav")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    (root / "inner.wav").symlink_to(root / "real.wav")
    for name in ("link.wav", "folder/a.wav"):
        with pytest.raises(ValueError, match="is a link out"):
            resolve_inside(root, name)
    assert resolve_inside(root, "inner.wav") == root.resolve() / "real.wav"
    resolve_inside(root, "loop")  # stays inside; opening it is an AudioError
    with pytest.raises(AudioError, match="cannot be opened"):
        load_audio(root / "loop")
    assert resolve_inside(root, "folder/a.wav", follow_links=True) == (outside / "a.wav").resolve()
    with pytest.raises(ValueError, match="leads to a parent folder"):
        resolve_inside(root, "../outside/a.wav", follow_links=True)
    for dots in ("\u2024\u2024", "\u2025", "\uff0e\uff0e"):
        with pytest.raises(ValueError, match=r"writes '\.\.' in look-alikes \(\\u.*/outside"):
            resolve_inside(root, f"{dots}/outside/a.wav", follow_links=True)
    resolve_inside(root, "well\u2026 then\u2024.wav")


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


@pytest.mark.parametrize("rate", [16_000, 22_050])
@given(
    frames=st.integers(1, 30_000),
    window=st.sampled_from([0.25, 0.3, 1.0]),
    share=st.sampled_from([0.1, 0.5, 0.7, 1.0]),
    block=st.sampled_from([701, 4000, 1 << 20]),
)
def test_windows_are_slices_of_the_clip_and_cover_it(rate, frames, window, share, block):
    wave = np.random.default_rng(frames).uniform(-0.5, 0.5, frames).astype(np.float32)
    data, hop = encode(wave, rate, "WAV", "FLOAT"), window * share
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audio, "FRAMES_PER_BLOCK", block)
        found = list(audio_windows(data, window=window, hop=hop))
    whole = load_audio(data)
    size, step = round(window * RATE), round(hop * RATE)
    for number, (start, part) in enumerate(found):
        assert len(part) == min(size, len(whole)) and start <= number * step
        assert start == number * step or number == len(found) - 1
        np.testing.assert_allclose(part, whole[start : start + len(part)], atol=1e-6)
    assert found[0][0] == 0 and found[-1][0] + len(found[-1][1]) == len(whole)
    starts = np.array([start for start, _ in found])
    assert (np.diff(starts) > 0).all() and (np.diff(starts) <= step).all()


def test_a_long_clip_is_read_as_its_windows_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(audio, "FRAMES_PER_BLOCK", 8_000)
    soundfile.write(tmp_path / "long.wav", np.zeros(RATE * 700), RATE)
    read, stock = [], soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda file, *rest, **more: read.append(1) or stock(file, *rest, **more)
    )
    windows = audio_windows(tmp_path / "long.wav", window=1.0, hop=0.5)
    next(windows)
    assert len(read) == 2
    assert len(list(windows)) == 700 * 2 - 2 and len(read) == 701 * 2 - 1


def test_windows_that_cannot_be_are_one_sentence(tmp_path):
    data = raw_wav(data=b"\0\0" * 50_000)
    for window, hop in ((1.0, 1.5), (1.0, 0.0), (0.0, 0.0), (1.0, -1.0), (1e-9, 1e-9)):
        with pytest.raises(ValueError, match="give a hop above 0 and at most the window"):
            next(audio_windows(data, window=window, hop=hop))
    cut = tmp_path / "cut.wav"
    cut.write_bytes(data[:60_000])
    with pytest.raises(AudioError, match=r"cut\.wav is truncated"):
        list(audio_windows(cut, window=1.0, hop=1.0))
    wave = np.zeros(30_000, np.float32)
    wave[20_001] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, RATE, subtype="FLOAT")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audio, "FRAMES_PER_BLOCK", 8_000)
        with pytest.raises(AudioError, match=r"nan\.wav holds nan at frame 20001"):
            list(audio_windows(tmp_path / "nan.wav", window=1.0, hop=1.0))
