"""Read audio safely: check the header before decoding, and the samples before use.

A ten-hour FLAC of silence has 1.9 MB and decodes to 2.3 GB, so limits apply to the header. No more is decoded than it states,
and less is an error; `lengths` makes sure that it states what the file holds.
"""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from annot_hf.data.conditions import ConditionedClip
from annot_hf.data.lengths import AudioError, whole

# Frames decoded at a time: several channels are mixed down before the next block is read.
FRAMES_PER_BLOCK = 1 << 20
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


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds: samples per channel, sampling rate (Hz), channels and file format."""

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
    with _open(source) as (name, file):
        return _check_header(name, file, limits or AudioLimits(), _times(source))[0]


def load_audio(source: Any, *, sampling_rate: int = 16_000, limits: AudioLimits | None = None) -> np.ndarray:
    """Decode a clip to one channel at the wanted rate; channels are averaged, silence is accepted.

    Args:
        source: Path, bytes, binary file object, a row of a `datasets` Audio column (`{"bytes", "path"}`), a segment of one
            (with `"start"` and `"end"` in seconds beside), one of these
            under an acoustic condition (`ConditionedClip`), which acts on the decoded and resampled clip, or two of them
            mixed (`MixedClip`).
        sampling_rate: Rate to resample to (Hz).
        limits: Limits; by default those of `AudioLimits()`.

    Returns:
        Samples `(time,)`, float32, full scale at 1; floating-point files may exceed it.

    Raises:
        AudioError: The file is missing, empty, truncated, corrupt, over a limit, or holds NaN or infinity.
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
    with _open(source) as (name, file):
        info, first = _check_header(name, file, limits, _times(source))
        blocks, frames = [], 0
        if info.format in SEEKS_BADLY:
            while first and (passed := len(file.read(min(FRAMES_PER_BLOCK, first)))):
                first -= passed
        else:
            file.seek(first)
        while len(block := file.read(min(FRAMES_PER_BLOCK, info.frames - frames), dtype="float32", always_2d=True)):
            frames += len(block)
            blocks.append(block[:, 0] if info.channels == 1 else block.mean(axis=1))
        # Encoders differ in how they count the last MPEG frame.
        slack = 1152 if info.format == "MP3" else 0
        if frames + slack < info.frames:
            raise AudioError(f"{name} is truncated: {frames} of {info.frames} frames decode. Copy the file again.")
    wave = blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *blocks])
    if not np.isfinite(wave).all():
        at = int(np.argmin(np.isfinite(wave)))
        raise AudioError(f"{name} holds {wave[at]} at frame {at}; samples must be finite. Write the file again.")
    if info.sampling_rate != sampling_rate:
        wave = soxr.resample(wave, info.sampling_rate, sampling_rate)
    if not len(wave):
        raise AudioError(f"{name} is shorter than one sample at {sampling_rate} Hz. Remove it from the item list.")
    return np.ascontiguousarray(wave, dtype=np.float32)


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
        source = source.get("path")
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
    raise AudioError(f"Audio source {source!r} is none of: path, bytes, seekable binary file, {{'bytes', 'path'}} row.")


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
    first = 0
    if times is not None:
        first, last = (round(one * info.sampling_rate) for one in times)
        if not 0 <= first < min(last, info.frames):
            raise AudioError(
                f"{name} lasts {info.seconds:.2f} s and has no segment from {times[0]:.2f} to {times[1]:.2f} s. Correct its "
                "times."
            )
        info = replace(info, frames=min(last, info.frames) - first)
    if info.frames > min(limits.max_frames, limits.max_seconds * info.sampling_rate):
        raise AudioError(
            f"{name} has {info.frames} frames ({info.seconds:.1f} s); at most {limits.max_seconds:g} s and "
            f"{limits.max_frames} frames are accepted. Cut it, or pass other AudioLimits."
        )
    return info, first


@dataclass(frozen=True)
class MixedClip:
    """Two sources of `load_audio`, mixed when they are read: first + share (second - first), cut to the shorter."""

    first: Any
    second: Any
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; give the second clip a weight from 0 to 1.")
