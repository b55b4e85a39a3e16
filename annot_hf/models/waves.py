"""Clips as arrays, or as sound files where only the checkpoint's own code is there; a wave is `(time,)`, float32."""

import importlib
import io
import os
import reprlib
from collections.abc import Mapping
from numbers import Integral
from types import ModuleType
from typing import Any

import numpy as np

# Channels of an array with two axes: the shorter axis, if it has no more than these.
MOST_CHANNELS = 8
# In messages, a clip that has no path.
_ARRAY = "The array"


class AudioError(ValueError):
    """Audio that cannot be used; the message names the file, the rule and the fix."""


def given_wave(source: Any, sampling_rate: int | None = None) -> tuple[np.ndarray, int] | None:
    """The wave and the rate (Hz) of a clip that is decoded already; None of any other source, such as a path.

    Args:
        source: A pair (array, rate); a mapping with "array" or "raw" and "sampling_rate", as `datasets` decodes a row of an
            Audio column; an `AudioDecoder` of torchcodec; or an array alone. An array is `(time,)`, or has up to 8 channels
            on its other axis, which are averaged; whole numbers are divided by the largest of their type.
        sampling_rate: Rate of an array that comes alone.

    Raises:
        AudioError: The array has no rate, another shape or kind of numbers, no samples, or NaN or infinity.
    """
    values = _array_of(source)
    if values is not None:
        values = values, sampling_rate
    elif isinstance(source, Mapping) and (source.get("array") is not None or source.get("raw") is not None):
        values = source["raw" if source.get("array") is None else "array"], source.get("sampling_rate", sampling_rate)
    elif isinstance(source, tuple) and len(source) == 2:
        values = source
    elif hasattr(source, "get_all_samples"):
        decoded = source.get_all_samples()
        values = decoded.data, decoded.sample_rate
    else:
        return None
    samples, rate = values
    if rate is None:
        raise AudioError(
            f"{_ARRAY} has no sampling rate; give (array, rate), or {{'array': ..., 'sampling_rate': ...}}."
        )
    if not isinstance(rate, Integral) or isinstance(rate, bool) or rate < 1:
        raise AudioError(f"{_ARRAY} has the sampling rate {rate!r}; give a whole number of Hz above 0.")
    samples = np.asarray(samples) if _array_of(samples) is None else _array_of(samples)
    if samples.dtype.kind not in "fi":
        raise AudioError(f"{_ARRAY} holds {samples.dtype}; give floating-point samples, or signed whole numbers.")
    if not samples.size:
        raise AudioError(f"{_ARRAY} is empty (shape {samples.shape}); leave the clip out.")
    full = 1.0 if samples.dtype.kind == "f" else -float(np.iinfo(samples.dtype).min)
    if samples.ndim == 2 and min(samples.shape) <= MOST_CHANNELS < max(samples.shape):
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    elif samples.ndim != 1:
        raise AudioError(
            f"{_ARRAY} has shape {samples.shape}; give (time,), or up to {MOST_CHANNELS} channels on the other axis."
        )
    return finite(_ARRAY, np.ascontiguousarray(samples / full, dtype=np.float32)), int(rate)


def read_wave(source: Any, sampling_rate: int) -> np.ndarray:
    """The wave at this rate (Hz) of a source of `given_wave`, a path, the bytes of a file, or `{"bytes", "path"}`.

    Files are read without limits; the package's `load_audio` also refuses those that are too long or end too early.

    Raises:
        AudioError: The source is none of these, cannot be decoded, or holds no finite samples.
    """
    name, given = _ARRAY, given_wave(source, sampling_rate)
    if given is None:
        if isinstance(source, Mapping):
            source = next((source[name] for name in ("bytes", "path") if source.get(name) is not None), source)
        if not isinstance(source, str | os.PathLike | bytes):
            raise no_clip(source, "path, bytes, {'bytes', 'path'} row, array")
        name = "<bytes>" if isinstance(source, bytes) else os.fspath(source)
        soundfile = _library("soundfile")
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, TypeError) as error:
            raise AudioError(
                f"{name} cannot be decoded ({error}); give a readable wav, flac, ogg or mp3 file."
            ) from error
        given = finite(name, samples.mean(axis=1)), rate
    return at_rate(name, *given, sampling_rate)


def no_clip(source: Any, kinds: str) -> AudioError:
    """The error for a source that is none of the kinds of clips that are read."""
    if isinstance(source, Mapping):
        return AudioError(
            f"A row with {', '.join(map(str, source)) or 'nothing'} holds no clip; give the value of its audio column, such "
            "as row['audio'], with 'bytes' or 'path', or with 'array' and 'sampling_rate'."
        )
    return AudioError(f"Audio source {reprlib.repr(source)} is none of: {kinds}.")


def finite(name: str, wave: np.ndarray, first: int = 0) -> np.ndarray:
    """The wave from frame `first` of a clip on, or an AudioError with the clip's name if a sample is NaN or infinite."""
    fine = np.isfinite(wave)
    if not fine.all():
        at = int(np.argmin(fine))
        raise AudioError(
            f"{name} holds {wave[at]} at frame {first + at}; samples must be finite. Write the file again."
        )
    return wave


def at_rate(name: str, wave: np.ndarray, rate: int, sampling_rate: int) -> np.ndarray:
    """The wave at another rate (Hz), or an AudioError with the name of the clip if less than one sample is left."""
    if rate != sampling_rate:
        wave = _library("soxr").resample(wave, rate, sampling_rate)
    if not len(wave):
        raise AudioError(f"{name} is shorter than one sample at {sampling_rate} Hz. Remove it from the item list.")
    return np.ascontiguousarray(wave, dtype=np.float32)


def log_mel(wave: np.ndarray, extractor: Any) -> np.ndarray:
    """Log-mel frames `(T, bands)` of a waveform `(samples,)` at the extractor's rate; at least one frame."""
    rate = extractor.sampling_rate
    # only Whisper's has it, and transformers need not be loaded to know
    if hasattr(extractor, "n_fft"):
        # the silence that its padding to 30 seconds would put there, as far as a frame of the clip sees it
        padded = np.pad(wave, (0, extractor.n_fft))
        options = {"padding": "do_not_pad", "truncation": False, "return_attention_mask": False}
        found = extractor(padded, sampling_rate=rate, return_tensors="np", **options)["input_features"][0]
        return found.T[: max(1, -(-len(wave) // extractor.hop_length))]
    # shorter than one analysis window gives no frame
    wave = np.pad(wave, (0, max(0, rate // 20 - len(wave))))
    # which it lacks where torchaudio makes its frames
    if hasattr(extractor, "mel_filters") and not (extractor.dither or extractor.do_ceptral_normalize):
        return _filter_bank(wave, extractor)
    return extractor(wave, sampling_rate=rate, return_tensors="np", padding=False)["input_features"][0]


def _filter_bank(wave: np.ndarray, extractor: Any) -> np.ndarray:
    """The frames of a `Speech2TextFeatureExtractor` bit for bit, which it makes one at a time, in four times as long."""
    frames = np.lib.stride_tricks.sliding_window_view(wave * np.float32(2**15), len(extractor.window))[::160]
    spectrum = np.empty((len(frames), len(extractor.mel_filters)), np.complex64)
    # ten seconds in memory at a time
    for first in range(0, len(frames), 1000):
        part = frames[first : first + 1000].astype(np.float64)
        part -= part.mean(1, keepdims=True)
        part[:, 1:] -= 0.97 * part[:, :-1]
        part[:, 0] *= 1 - 0.97
        spectrum[first : first + 1000] = np.fft.rfft(part * extractor.window, 2 * spectrum.shape[1] - 2)
    energies = np.abs(spectrum, dtype=np.float64) ** 2
    bands = np.maximum(np.finfo(np.float32).eps, np.dot(extractor.mel_filters.T, energies.T))
    return np.log(bands).T.astype(np.float32, order="C")


def _array_of(value: Any) -> np.ndarray | None:
    """The array in a NumPy array or tensor, which may be on another device; None of anything else."""
    # NumPy's strings are arrays too
    if not hasattr(value, "__array__") or isinstance(value, str | bytes):
        return None
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _library(name: str) -> ModuleType:
    """A package that only some clips need: `import` would ask for it wherever the checkpoint is loaded."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"This clip needs the package {name}, which is not installed; pip install {name}.") from error
