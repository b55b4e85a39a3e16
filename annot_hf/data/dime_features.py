"""The features that define neighbours in DiME-Aug: 72 numbers per clip and 10 per text, or a table of your own.

They are those of the code released with arXiv 2601.14620 (section 2.3), but that gives zeros for an unreadable clip, and
counts capitals after lower-casing.
"""

import functools
import getpass
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from annot_hf.data.audio import AudioLimits, load_audio
from annot_hf.data.dime import EXTRA
from annot_hf.data.encoding import by_name
from annot_hf.data.lengths import AudioError

# Unit: Hz.
FEATURE_RATE = 16_000
# Shorter clips (samples) are padded with silence.
SHORTEST_CLIP = FEATURE_RATE // 2
# Unit: samples.
WINDOW, HOP = 2048, 512
# How many rows librosa gives of each.
LIBROSA_ROWS = {"MFCC": 13, "chroma": 12, "contrast": 7, "zero crossings": 1, "roll-off": 1, "centroid": 1, "RMS": 1}
CLIP_FEATURES = tuple(
    f"{statistic} of {name} {row}" if rows > 1 else f"{statistic} of {name}"
    for name, rows in LIBROSA_ROWS.items()
    for statistic in ("mean", "deviation")
    for row in range(rows)
)
TEXT_FEATURES = ("characters", "words", "!", "?", ".", ",", "vowels", "consonants", "word length", "capitals")


def clip_features(wave: np.ndarray) -> np.ndarray:
    """`CLIP_FEATURES` `(72,)`, float32, of samples `(time,)` at 16 kHz, full scale at 1."""
    wave = np.pad(np.asarray(wave, np.float32), (0, max(0, SHORTEST_CLIP - len(wave))))
    return _measure_clip(load_librosa(), wave)


def _measure_clip(library: ModuleType, wave: np.ndarray) -> np.ndarray:
    """What separate calls of librosa's functions give, from one spectrum."""
    feature, frames = library.feature, {"n_fft": WINDOW, "hop_length": HOP}
    spectrum = np.abs(library.stft(wave, **frames))
    mel = feature.melspectrogram(S=spectrum**2, sr=FEATURE_RATE)
    with warnings.catch_warnings():
        # Silence has no pitch.
        warnings.filterwarnings("ignore", "Trying to estimate tuning from empty frequency set")
        chroma = feature.chroma_stft(S=spectrum**2, sr=FEATURE_RATE, **frames)
    measured = [
        feature.mfcc(S=library.power_to_db(mel), n_mfcc=13),
        chroma,
        feature.spectral_contrast(S=spectrum, sr=FEATURE_RATE, n_bands=6),
        feature.zero_crossing_rate(wave, frame_length=WINDOW, hop_length=HOP),
        feature.spectral_rolloff(S=spectrum, sr=FEATURE_RATE),
        feature.spectral_centroid(S=spectrum, sr=FEATURE_RATE),
        feature.rms(y=wave, frame_length=WINDOW, hop_length=HOP),
    ]
    return np.concatenate([part for rows in measured for part in (rows.mean(1), rows.std(1))]).astype(np.float32)


def features_of_clip(source: Any, *, item: str, max_seconds: float = 600.0) -> np.ndarray:
    """`clip_features` of a clip as `load_audio` takes it; an error names the item."""
    try:
        wave = load_audio(source, sampling_rate=FEATURE_RATE, limits=AudioLimits(max_seconds=max_seconds))
    except AudioError as error:
        raise AudioError(f"Item {item!r}: {error}") from error
    return clip_features(wave)


def text_features(text: str | None) -> np.ndarray:
    """`TEXT_FEATURES` `(10,)`, float32: counts, and shares for vowels, consonants and capitals; zeros without a text."""
    text = (text or "").strip()
    if not text:
        return np.zeros(len(TEXT_FEATURES), np.float32)
    capitals, lower, words = sum(map(str.isupper, text)), text.lower(), text.split()
    vowels = sum(character in "aeiou" for character in lower)
    letters = sum(map(str.isalpha, lower))
    counts = [len(text), len(words), *(text.count(mark) for mark in "!?.,")]
    shares = [vowels / len(lower), (letters - vowels) / len(lower)]
    return np.array([*counts, *shares, np.mean([len(word) for word in words]), capitals / len(text)], np.float32)


def write_features(path: str | os.PathLike[str], items: Sequence[str], features: np.ndarray) -> None:
    """Write your own features `(N, D)` of uniquely named items, as parquet with columns item and features."""
    features = np.asarray(by_name(features, (items,), "features"))
    names = pd.Index(list(items), dtype=object)
    if features.ndim != 2 or len(features) != len(names) or names.has_duplicates:
        raise ValueError(
            f"features has shape {features.shape} for {len(set(names))} items; give one row per item, (N, D)."
        )
    rows = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    pq.write_table(pa.table({"item": pa.array(names, pa.string()), "features": rows}), path)


def read_features(path: str | os.PathLike[str], items: Sequence[str]) -> np.ndarray:
    """Features `(N, D)` of these items from a parquet file with columns item and features (a list of numbers)."""
    path = os.fspath(path)
    try:
        table = pq.read_table(path, columns=["item", "features"])
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise ValueError(
            f"{path} holds no features ({str(error).splitlines()[0]}); write it with write_features."
        ) from error
    index = pd.Index(table["item"].to_pylist(), dtype=object)
    if index.has_duplicates:
        raise ValueError(f"{path} has item {index[index.duplicated()][0]!r} twice; keep one row per item.")
    rows = index.get_indexer(pd.Index(list(items), dtype=object))
    if (rows < 0).any():
        raise ValueError(
            f"{path} lacks {int((rows < 0).sum())} of {len(rows)} items, for instance {items[int(np.argmax(rows < 0))]!r}; "
            "write the features of all of them."
        )
    column = table["features"].combine_chunks().take(pa.array(rows))
    try:
        column = column.cast(pa.large_list(column.type.value_type))
    except (AttributeError, pa.ArrowNotImplementedError):
        raise ValueError(f"{path} has features of type {column.type}; each row must be a list of numbers.") from None
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) > 1 or None in lengths:
        raise ValueError(f"{path} has rows of different lengths; give every item the same number of features.")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), max(lengths, default=0))


@functools.cache
def load_librosa() -> ModuleType:
    """The module `librosa`, its compiled parts ready."""
    try:
        # Processes that compile the same parts into numba's cache at the same time crash, so they take turns.
        with FileLock(Path(tempfile.gettempdir(), f"annot-hf-librosa-{getpass.getuser()}.lock")):
            import librosa
            import librosa.feature

            _measure_clip(librosa, np.sin(np.arange(SHORTEST_CLIP, dtype=np.float32)))
    except ImportError as error:
        raise ValueError(
            f"The published features need the package {error.name}, which is not installed; {EXTRA}."
        ) from error
    return librosa
