"""Read audio safely: check the header before decoding, and the samples before use.

A ten-hour FLAC of silence has 1.9 MB and decodes to 2.3 GB, so limits apply to the header. No more is decoded than it states,
and less is an error; `lengths` makes sure that it states what the file holds.
"""

import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from annot_hf.data.conditions import ConditionedClip
from annot_hf.data.lengths import whole
from annot_hf.models.waves import AudioError, at_rate, finite, given_wave, no_clip

# Frames decoded at a time: several channels are mixed down before the next block is read.
FRAMES_PER_BLOCK = 1 << 20
# Instead of a format, of a clip that is no file; its channels are averaged.
ARRAY = "array"
# For these formats, `whole` detects truncated files.
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3")

# libsndfile lands elsewhere than it is told in these, so that what stands before a segment is decoded.
SEEKS_BADLY = ("OGG", "MP3")


@dataclass(frozen=True)
class AudioLimits:
    """What the header of a file may state: duration (s), samples per channel, channels, and sampling rate (Hz)."""

    max_seconds: float = 600.0
    max_frames: int = 60_000_000
    max_channels: int = 8
    min_rate: int = 1_000
    max_rate: int = 768_000

    def __post_init__(self) -> None:
        for entry in fields(self):
            # NaN fails this comparison too.
            if not getattr(self, entry.name) > 0:
                raise ValueError(f"{entry.name} is {getattr(self, entry.name)}; it must be above 0.")


ANY_LENGTH = AudioLimits(max_seconds=np.inf, max_frames=1 << 62)


@dataclass(frozen=True)
class AudioInfo:
    """What a clip holds: samples per channel, sampling rate (Hz), channels, and file format or `ARRAY`."""

    frames: int
    sampling_rate: int
    channels: int
    format: str

    @property
    def seconds(self) -> float:
        """Duration (s)."""
        return self.frames / self.sampling_rate


def audio_info(source: Any, *, limits: AudioLimits | None = None) -> AudioInfo:
    """The header of a source of `load_audio`, checked against the limits; nothing is decoded."""
    if isinstance(source, ConditionedClip):
        info = audio_info(source.source, limits=limits)
        return replace(info, frames=source.condition.frames(info.frames))
    if isinstance(source, MixedClip):
        both = [audio_info(clip, limits=limits) for clip in (source.first, source.second)]
        # The longer one is cut.
        return replace(min(both, key=lambda info: info.seconds), channels=1)
    given = given_wave(source)
    if given is not None:
        return _array_info(*given, limits or AudioLimits())
    with _open(source) as (name, file):
        return _check_header(name, file, limits or AudioLimits(), _times(source))[0]


def load_audio(source: Any, *, sampling_rate: int = 16_000, limits: AudioLimits | None = None) -> np.ndarray:
    """Decode a clip to one channel at the wanted rate; channels are averaged, silence is accepted.

    Args:
        source: Path, bytes, binary file object, a row of a `datasets` Audio column, decoded (`{"array", "sampling_rate"}`)
            or not (`{"bytes", "path"}`), a segment of one that is not (with `"start"` and `"end"` in seconds beside), a pair
            (array, rate), as `given_wave` describes arrays, one of these under an acoustic condition (`ConditionedClip`),
            which acts on the decoded and resampled clip, or two of them mixed (`MixedClip`).
        sampling_rate: Rate to resample to (Hz).
        limits: Limits; by default those of `AudioLimits()`.

    Returns:
        Samples `(time,)`, float32, full scale at 1; floating-point files may exceed it.

    Raises:
        AudioError: The file is missing, empty, truncated, corrupt, over a limit, or holds NaN or infinity; or an array has
            no rate, or another shape.
    """
    if sampling_rate < 1:
        raise ValueError(f"sampling_rate is {sampling_rate}; it must be a positive number of Hz, for instance 16000.")
    limits = limits or AudioLimits()
    if isinstance(source, ConditionedClip):
        wave = load_audio(source.source, sampling_rate=sampling_rate, limits=limits)
        return source.condition.apply(wave, sampling_rate, item=source.item)
    if isinstance(source, MixedClip):
        first, second = (
            load_audio(clip, sampling_rate=sampling_rate, limits=limits) for clip in (source.first, source.second)
        )
        length = min(len(first), len(second))
        return first[:length] + np.float32(source.share) * (second[:length] - first[:length])
    given = given_wave(source)
    if given is not None:
        _array_info(*given, limits)
        return at_rate("The array", *given, sampling_rate)
    with _open(source) as (name, file):
        info, first = _check_header(name, file, limits, _times(source))
        blocks = list(_mono_blocks(name, file, info, first))
    wave = blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *blocks])
    return at_rate(name, finite(name, wave), info.sampling_rate, sampling_rate)


def window_samples(window: float, hop: float, sampling_rate: int = 16_000) -> tuple[int, int]:
    """Samples of a window and of a hop (both in s), or a ValueError if they fit no timeline; see `audio_windows`."""
    # NaN fails the comparison too
    if not 0 < hop <= window < math.inf or round(hop * sampling_rate) < 1:
        raise ValueError(
            f"hop is {hop:g} s and window {window:g} s; give a hop above 0 and at most the window, both finite."
        )
    return round(window * sampling_rate), round(hop * sampling_rate)


def audio_windows(
    source: Any, *, sampling_rate: int = 16_000, window: float, hop: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Overlapping windows of a clip that may be hours long, of which a minute is decoded at a time.

    A window begins every `hop` seconds. The last one ends with the clip, and is shorter than the others only if the whole
    clip is.

    Args:
        source: As `load_audio` takes it, but for altered and mixed clips; no limit of length applies.
        sampling_rate: Rate to resample to (Hz).
        window: Length of a window (s).
        hop: From the beginning of one to that of the next (s), above 0 and at most `window`.

    Yields:
        The first sample of a window, counted at `sampling_rate`, and its samples `(time,)`, float32.

    Raises:
        ValueError: The hop does not fit the window; or, as an AudioError, what `load_audio` raises.
    """
    size, step = window_samples(window, hop, sampling_rate)
    # samples from `begin` on; the next window is at `at`
    held, begin, at = np.zeros(0, np.float32), 0, 0
    for block in _resampled(source, sampling_rate):
        held = np.concatenate([held, block])
        while at + size <= begin + len(held):
            yield at, held[at - begin : at - begin + size]
            at += step
        # the last window begins after the one before
        held, begin = held[max(at - step - begin, 0) :], max(at - step, begin)
    end = begin + len(held)
    if at == 0 or end > at - step + size:
        start = max(end - size, 0)
        yield start, at_rate("The clip", held[start - begin :], sampling_rate, sampling_rate)


def _resampled(source: Any, sampling_rate: int) -> Iterator[np.ndarray]:
    """Blocks of a clip at a rate."""
    if given_wave(source) is not None:
        yield load_audio(source, sampling_rate=sampling_rate, limits=ANY_LENGTH)
        return
    with _open(source) as (name, file):
        (info, first), frames = _check_header(name, file, ANY_LENGTH, _times(source)), 0
        stream = soxr.ResampleStream(info.sampling_rate, sampling_rate, 1)
        for block in _mono_blocks(name, file, info, first):
            block = finite(name, block, frames)
            frames += len(block)
            yield block if info.sampling_rate == sampling_rate else stream.resample_chunk(block)
        if info.sampling_rate != sampling_rate:
            yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _mono_blocks(name: str, file: soundfile.SoundFile, info: AudioInfo, first: int) -> Iterator[np.ndarray]:
    """Blocks of an open file from frame `first` on, in one channel; raises at the end if it holds fewer frames than `info`."""
    frames = 0
    if info.format in SEEKS_BADLY:
        while first and (passed := len(file.read(min(FRAMES_PER_BLOCK, first)))):
            first -= passed
    else:
        file.seek(first)
    while len(block := file.read(min(FRAMES_PER_BLOCK, info.frames - frames), dtype="float32", always_2d=True)):
        frames += len(block)
        yield block[:, 0] if info.channels == 1 else block.mean(axis=1)
    # Encoders differ in how they count the last MPEG frame.
    slack = 1152 if info.format == "MP3" else 0
    if frames + slack < info.frames:
        raise AudioError(f"{name} is truncated: {frames} of {info.frames} frames decode. Copy the file again.")


def wav_bytes(source: Any, *, sampling_rate: int = 16_000, limits: AudioLimits | None = None) -> bytes:
    """A source of `load_audio` as a WAV file of one channel and 16 bits."""
    file, wave = io.BytesIO(), load_audio(source, sampling_rate=sampling_rate, limits=limits)
    soundfile.write(file, wave, sampling_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


@contextmanager
def _open(source: Any) -> Iterator[tuple[str, soundfile.SoundFile]]:
    """The display name and the opened sound file; libsndfile's errors become `AudioError` with that name."""
    name, handle = _handle(source)
    try:
        head = handle.read(64)
        size = handle.seek(0, io.SEEK_END)
        handle.seek(0)
        if not size:
            raise AudioError(f"{name} is empty (0 bytes). Copy the file again.")
        if head.startswith(b"version https://git-lfs"):
            raise AudioError(f"{name} is a Git LFS pointer, not the audio. Run `git lfs pull` in its repository.")
        if head[:4] == b"RIFF" and b"fmt " in head and head[head.index(b"fmt ") + 12 :][:4] == bytes(4):
            raise AudioError(f"{name} has a sampling rate of 0 Hz. Write the file again with its true rate.")
        try:
            with soundfile.SoundFile(whole(name, handle)) as file:
                yield name, file
        except (soundfile.SoundFileError, TypeError) as error:  # the latter of a file called .raw
            reason = str(error).rsplit(":", 1)[-1].strip().rstrip(".") or "unknown format"
            raise AudioError(
                f"{name} cannot be decoded ({reason}). Replace it by a readable wav, flac, ogg, opus or mp3 file."
            ) from error
    finally:
        if handle is not source:
            handle.close()


def _handle(source: Any) -> tuple[str, BinaryIO]:
    """The name of the source in messages, and a seekable binary handle on it."""
    # A row of an Audio column of `datasets`.
    if isinstance(source, Mapping):
        if source.get("bytes") is not None:
            return str(source.get("path") or "<bytes>"), io.BytesIO(source["bytes"])
        source = source if source.get("path") is None else source["path"]
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>", io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        try:
            return os.fspath(source), open(source, "rb")  # noqa: SIM115 - closed by _open
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise AudioError(f"{os.fspath(source)!r} cannot be opened ({reason}). Check the path.") from error
    if isinstance(source, io.IOBase) and source.seekable():
        return str(getattr(source, "name", "<file object>")), source
    raise no_clip(source, "path, bytes, seekable binary file, {'bytes', 'path'} row, (array, rate)")


def _times(source: Any) -> tuple[float, float] | None:
    """Start and end (s) of a source that is a segment."""
    given = isinstance(source, Mapping) and source.get("start") is not None
    return (source["start"], source["end"]) if given else None


def _check_header(
    name: str, file: soundfile.SoundFile, limits: AudioLimits, times: tuple[float, float] | None
) -> tuple[AudioInfo, int]:
    """The facts of the header, of a segment those of its frames, if they are within the limits; and the first frame."""
    info = AudioInfo(file.frames, file.samplerate, file.channels, file.format)
    if info.format not in FORMATS:
        raise AudioError(
            f"{name} is a {info.format} file; accepted are {', '.join(FORMATS)}. Write it as one of these."
        )
    first = 0
    if times is not None and info.frames:
        first, last = (round(one * info.sampling_rate) for one in times)
        if not 0 <= first < min(last, info.frames):
            raise AudioError(
                f"{name} lasts {info.seconds:.2f} s and has no segment from {times[0]:.2f} to {times[1]:.2f} s. Correct its "
                "times."
            )
        info = replace(info, frames=min(last, info.frames) - first)
    return _check_limits(name, info, limits), first


def _array_info(wave: np.ndarray, sampling_rate: int, limits: AudioLimits) -> AudioInfo:
    return _check_limits("The array", AudioInfo(len(wave), sampling_rate, 1, ARRAY), limits)


def _check_limits(name: str, info: AudioInfo, limits: AudioLimits) -> AudioInfo:
    """The facts, if they are within the limits."""
    if not limits.min_rate <= info.sampling_rate <= limits.max_rate:
        raise AudioError(
            f"{name} has a sampling rate of {info.sampling_rate} Hz; accepted are {limits.min_rate} to "
            f"{limits.max_rate} Hz. Write the file again with its true rate, or pass other AudioLimits."
        )
    if not 1 <= info.channels <= limits.max_channels:
        raise AudioError(
            f"{name} has {info.channels} channels; at most {limits.max_channels} are accepted. Mix it down, or pass "
            "AudioLimits(max_channels=...)."
        )
    if info.frames < 1:
        raise AudioError(f"{name} is empty (no samples). Remove it from the item list, or copy the file again.")
    if info.frames > limits.max_seconds * info.sampling_rate:
        raise AudioError(
            f"{name} has {info.frames} frames ({info.seconds:.1f} s); at most {limits.max_seconds:g} s are accepted. Cut "
            "it, or accept longer clips in `predict`: max_seconds, --max-seconds on the command line."
        )
    if info.frames > limits.max_frames:
        raise AudioError(
            f"{name} has {info.frames} frames; at most {limits.max_frames} are accepted. Cut it, or pass "
            "AudioLimits(max_frames=...)."
        )
    return info


@dataclass(frozen=True)
class MixedClip:
    """Two sources of `load_audio`, mixed when they are read: first + share (second - first), cut to the shorter."""

    first: Any
    second: Any
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; give the second clip a weight from 0 to 1.")
