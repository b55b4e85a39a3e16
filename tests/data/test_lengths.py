"""Audio that is longer, or shorter, than its header says: all of it is read, or none."""

import struct

import numpy as np
import pytest
from test_audio import RATE, encode, raw_wav

from annot_hf.data.audio import audio_info, load_audio
from annot_hf.models.waves import AudioError

FRAME = 576  # samples of a frame of MPEG 2
PIXELS = bytes(np.random.default_rng(7).integers(0, 256, 300_000, dtype=np.uint8))


def speech(seconds=10.0):
    """Silence, then noise: a variable bit rate starts low and goes up."""
    wave = np.zeros(int(RATE * seconds))
    wave[len(wave) // 4 :] = 0.2 * np.random.default_rng(3).standard_normal(len(wave) - len(wave) // 4)
    return wave


def frames_of(mp3):
    """Where the frames of an MPEG 2 file begin, by its bit rates."""
    kbits, at, starts = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160), 0, []
    while at + 4 <= len(mp3):
        starts.append(at)
        at += 72_000 * kbits[mp3[at + 2] >> 4] // RATE + (mp3[at + 2] >> 1 & 1)
    return starts


def id3(body):
    size = len(body) + 10
    head = b"APIC" + struct.pack(">I", len(body)) + b"\0\0"
    return b"ID3\3\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + head + body


MP3 = encode(speech(), kind="MP3")
BARE = MP3[frames_of(MP3)[1] :]
FRAMES = len(frames_of(BARE))
TAG = b"TAG" + bytes(125)
COVER = id3(PIXELS)


def bare(frames):
    """Samples of frames without a statement of what to leave out at the end; the decoder's delay goes in any case."""
    return frames * FRAME - 529


MP3S = {
    "as written": (MP3, 10 * RATE),
    "without its info frame": (BARE, bare(FRAMES)),
    "joined": (MP3 + MP3, bare(2 * FRAMES)),
    "joined without info frames": (BARE + BARE, bare(2 * FRAMES)),
    "joined, info in the second only": (BARE + MP3, bare(2 * FRAMES)),
    "joined with tags": (COVER + MP3 + TAG + COVER + MP3 + TAG, bare(2 * FRAMES)),
    "a large cover": (COVER + BARE, bare(FRAMES)),
    "a large cover and an info frame": (COVER + MP3, 10 * RATE),
    "a tag behind": (BARE + TAG, bare(FRAMES)),
    "zeros behind": (BARE + bytes(5000), bare(FRAMES)),
}


@pytest.mark.parametrize(("data", "length"), MP3S.values(), ids=MP3S)
def test_all_that_an_mp3_holds_is_read(data, length, tmp_path):
    wave = load_audio(data)
    assert len(wave) == length == audio_info(data).frames
    loud = np.abs(wave[RATE * 4 : RATE * 9]).mean()
    assert loud == pytest.approx(0.16, abs=0.02) and np.abs(wave[-RATE * 4 : -RATE]).mean() == pytest.approx(
        0.16, abs=0.02
    )
    (tmp_path / "a.mp3").write_bytes(data)
    np.testing.assert_array_equal(load_audio(tmp_path / "a.mp3"), wave)


def test_an_mp3_needs_no_tag_to_be_recognised():
    for rate in (8_000, 16_000, 44_100, 48_000):
        for channels in (1, 2):
            wave = np.repeat(0.1 * np.sin(np.arange(rate) * 0.1)[:, None], channels, axis=1)
            assert len(load_audio(encode(wave, rate, kind="MP3"))) == pytest.approx(RATE, abs=1)


REFUSED = {
    "cut": (BARE[:-100], "truncated"),
    "cut at the first of two": (BARE[:-100] + BARE, "damaged at byte"),
    "another rate": (BARE + encode(speech(), 24_000, kind="MP3"), "another sampling rate or number of channels"),
    "stereo after mono": (BARE + encode(np.stack([speech()] * 2, 1), kind="MP3"), "another sampling rate or number"),
    "bytes after the last frame": (BARE + PIXELS, "after its last frame"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_an_mp3_that_cannot_be_read_to_its_end_is_refused(data, message):
    for read in (load_audio, audio_info):
        with pytest.raises(AudioError, match=message):
            read(data)


def chunked(kind, subtype="PCM_16"):
    return encode(0.1 * np.sin(np.arange(RATE) * 0.1), kind=kind, subtype=subtype)


def patched(data, *changes):
    data = bytearray(data)
    for at, value in changes:
        data[at : at + len(value)] = value
    return bytes(data)


def size_of(data, samples=b"data"):
    return data.index(samples) + 4


WAV, AIFF, CAF, W64, RF64, AU = (chunked(kind) for kind in ("WAV", "AIFF", "CAF", "W64", "RF64", "AU"))
HUGE = b"\xff" * 4
LIST = b"LIST" + struct.pack("<I", 2000) + b"INFO" + b"x" * 1996
WHOLE = {
    "a RIFF size that is too large": patched(WAV, (4, struct.pack("<I", len(WAV) + 36))),
    "a RIFF size of 0": patched(WAV, (4, bytes(4))),
    "a data size of 0": patched(WAV, (4, bytes(4)), (40, bytes(4))),
    "a data size of 0 under a large RIFF size": patched(WAV, (4, HUGE), (40, bytes(4))),
    "a data size of 0 under the RIFF size of no samples": patched(WAV, (4, struct.pack("<I", 36)), (40, bytes(4))),
    "the largest data size": patched(WAV, (4, HUGE), (40, HUGE)),
    "the data size of sox": patched(WAV, (4, struct.pack("<I", 0x7FFFF024)), (40, struct.pack("<I", 0x7FFFF000))),
    "a list after the samples": WAV + LIST,
    "a cut list after the samples": WAV + LIST[:90],
    "zeros after the samples": WAV + bytes(5000),
    "an AIFF stream": patched(AIFF, (4, bytes(4)), (size_of(AIFF, b"SSND"), bytes(4))),
    "a CAF stream": patched(CAF, (size_of(CAF), b"\xff" * 8)),
    "a W64 stream": patched(W64, (W64.index(b"data") + 16, b"\xff" * 7 + b"\x7f")),
    "an RF64 stream": patched(RF64, (20, bytes(24))),
    "an AU stream": patched(AU, (8, HUGE)),
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_files_whose_samples_are_whole_are_read(data):
    assert len(load_audio(data)) == RATE == audio_info(data).frames


def test_the_padding_of_an_odd_number_of_bytes_may_be_missing():
    odd = encode(np.zeros(RATE + 1), subtype="PCM_U8")[: 44 + RATE + 1]
    for data in (odd, odd + b"\0", odd + LIST, odd + b"\0" + LIST):
        assert len(load_audio(data)) == RATE + 1


SPOILT = {
    "cut": lambda data: data[:-800],
    "cut by two bytes": lambda data: data[:-2],
    "more samples than stated": lambda data: data + data[-4000:],
    "joined": lambda data: data + data,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "AIFF", "CAF", "W64", "RF64", "AU", "NIST", "FLAC", "OGG"])
def test_files_that_hold_less_or_more_than_they_state_are_refused(kind, spoil):
    if spoil is SPOILT["more samples than stated"] and kind == "FLAC":
        pytest.skip("behind its last frame nothing is of the recording")
    data = spoil(chunked(kind, "VORBIS" if kind == "OGG" else "PCM_16"))
    with pytest.raises(AudioError, match="truncated|decoded|after its stated end|another recording"):
        load_audio(data)


def flac_states(data, total):
    return patched(data, (21, bytes([data[21] & 0xF0 | total >> 32])), (22, struct.pack(">I", total & 0xFFFFFFFF)))


def test_a_flac_that_states_no_length_or_too_little_is_read_whole():
    data = encode(speech(3.3), kind="FLAC")
    for total in (0, 1000):
        np.testing.assert_array_equal(load_audio(flac_states(data, total)), load_audio(data))
        assert audio_info(flac_states(data, total)).seconds == 3.3
        for share in (0.01, 0.3, 0.7, 0.999):
            with pytest.raises(AudioError, match="truncated|decoded"):
                wave = load_audio(flac_states(data, total)[: int(len(data) * share)])
                assert len(wave) % 4096  # a stream that ends with a frame cannot be told from a whole one
    with pytest.raises(AudioError, match="truncated"):
        audio_info(flac_states(data, 100_000))


def test_what_looks_like_a_frame_behind_a_flac_is_none():
    data = encode(speech(3.3), kind="FLAC")
    start, last = 4, 0  # of the metadata, behind which the first frame is
    while not last:
        last = data[start] & 0x80
        start += 4 + int.from_bytes(data[start + 1 : start + 4])
    for code in range(16):
        looks = patched(data[start : start + 16], (2, bytes([code << 4 | data[start + 2] & 15])), (4, b"\x77"))
        np.testing.assert_array_equal(load_audio(data + looks), load_audio(data))


def test_a_wav_without_samples_is_still_empty():
    with pytest.raises(AudioError, match="no samples"):
        load_audio(raw_wav(data=b"") + b"LIST\x1a\0\0\0INFO" + bytes(22))
