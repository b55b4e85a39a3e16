"""Alter decoded clips `(time,)`: acoustic conditions that training did not see.

A clip's randomness depends on its own name only. Samples are float32 and may exceed full scale (1); silence stays silence.
"""

import hashlib
import io
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr

from annot_hf.data.questions import nearest

CLEAN = "clean"
# Kbit/s of MPEG-2 Layer III (16 to 24 kHz).
MP3_RATES = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
# Units: Hz, Hz, dB per octave.
TELEPHONE_BAND, TELEPHONE_RATE, TELEPHONE_SLOPE = (300, 3400), 8000, 24
# A clip with a lower peak (full scale is 1) has no level to scale the noise to.
SILENCE = 1e-10
# LAME needs this many seconds; shorter clips are padded and cut again.
_SHORTEST = 0.1


class _Kind(NamedTuple):
    """The number after a condition's name: none, one from low to high, or one of `choices`; with `falling`, less is harder."""

    unit: str = ""
    example: str = ""
    low: float = 0.0
    high: float = 0.0
    choices: tuple[int, ...] = ()
    falling: bool = False


CONDITION_KINDS = {
    CLEAN: _Kind(),
    "noise": _Kind("dB", "10", -20, 60, falling=True),
    "reverb": _Kind("seconds", "0.5", 0.05, 10),
    "telephone": _Kind(),
    "mp3": _Kind("kbit/s", "16", choices=MP3_RATES, falling=True),
}


@dataclass(frozen=True)
class Condition:
    """An acoustic condition, written `name` or `name:number`; one that is not among `CONDITION_KINDS` raises.

    - `clean`: no change.
    - `noise:DB`: white Gaussian noise at this signal-to-noise ratio (dB) of mean powers over the whole clip.
    - `reverb:S`: exponentially decaying noise of S seconds (RT60), drawn per clip, at the critical distance (Polack 1988).
    - `telephone`: 8 kHz sampling, 300 to 3400 Hz (Butterworth, 24 dB an octave), G.711 mu-law.
    - `mp3:KBITS`: encoded by LAME at this rate (kbit/s) and decoded again, without the codec's delay.
    """

    name: str
    value: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        # 10 and 10.0 are one condition, and so are 0 and -0.
        object.__setattr__(self, "value", None if self.value is None else float(self.value) + 0.0)
        _check_value(str(self), self.name, self.value)

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}:{np.format_float_positional(self.value, trim='-')}"

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> "Condition":
        """Read `name` or `name:number`; raises if there is no such condition, or it does not take this number."""
        name, colon, number = text.strip().partition(":")
        try:
            value = float(number) if colon else None
        except ValueError:
            value = np.nan
        _check_value(text, name, value)
        return cls(name, value, seed)

    @property
    def is_clean(self) -> bool:
        """Whether the condition changes nothing."""
        return self.name == CLEAN

    @property
    def folder(self) -> str:
        """Its name as a folder, such as "noise-10"."""
        return str(self).replace(":", "-")

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts conditions by kind and, within a kind, from mild to hard."""
        value = self.value or 0.0
        return list(CONDITION_KINDS).index(self.name), -value if CONDITION_KINDS[self.name].falling else value

    def apply(self, wave: np.ndarray, sampling_rate: int, *, item: str) -> np.ndarray:
        """The clip `(time,)` under the condition; its name `item`, the condition and its seed determine all randomness."""
        if self.is_clean:
            return wave
        library = load_audiomentations()
        if not len(wave) or np.abs(wave).max() < SILENCE:
            return wave
        seed = seed_of(str(self), str(self.seed), item)
        padded = np.pad(wave, (0, max(0, int(np.ceil(_SHORTEST * sampling_rate)) - len(wave))))
        with seeded(seed):
            if self.name == "noise":
                return library.AddGaussianSNR(self.value, self.value, p=1.0)(wave, sampling_rate)
            if self.name == "reverb":
                return _reverberate(library, wave, sampling_rate, self.value, np.random.default_rng(seed))
            if self.name == "telephone":
                return _telephone(library, padded, sampling_rate)[: len(wave)]
            return library.Mp3Compression(int(self.value), int(self.value), p=1.0)(padded, sampling_rate)[: len(wave)]


@dataclass(frozen=True)
class ConditionedClip:
    """A clip under a condition; `load_audio` takes it, and its source. The name `item` determines the randomness."""

    source: Any
    item: str
    condition: Condition


def put_under(condition: Condition, sources: Sequence[Any], items: Sequence[str]) -> list[Any]:
    """The clips `sources` (as `load_audio` takes them), called `items`, under the condition; themselves when it is clean."""
    if condition.is_clean:
        return list(sources)
    load_audiomentations()
    return [ConditionedClip(source, item, condition) for source, item in zip(sources, items, strict=True)]


def load_audiomentations(needed: str = "Acoustic conditions need") -> ModuleType:
    """The module `audiomentations`; raises, beginning with `needed`, if it or its MP3 codec is not installed."""
    try:
        import audiomentations
        import fast_mp3_augment  # noqa: F401 - audiomentations imports it late and prints its own advice
    except ImportError as error:
        raise ValueError(
            f"{needed} the package {error.name}, which is not installed; pip install 'annot-hf[conditions]'."
        ) from error
    return audiomentations


def impulse_response(seconds: float, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Direct sound, then as much energy of Gaussian noise that decays by 60 dB in `seconds`: `(1 + seconds * rate,)`."""
    time = np.arange(1, 1 + max(1, round(seconds * sampling_rate))) / sampling_rate
    tail = generator.normal(size=len(time)) * 10 ** (-3 * time / seconds)
    return np.concatenate([[1.0], tail / np.sqrt((tail**2).sum())])


def _reverberate(
    library: ModuleType, wave: np.ndarray, sampling_rate: int, seconds: float, generator: np.random.Generator
) -> np.ndarray:
    """The clip in a room, with its mean power kept; audiomentations reads responses from files only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "response.wav"
        soundfile.write(path, impulse_response(seconds, sampling_rate, generator), sampling_rate, subtype="FLOAT")
        out = library.ApplyImpulseResponse(str(path), p=1.0)(wave, sampling_rate)
    gain = np.sqrt(np.square(wave, dtype=np.float64).mean() / np.square(out, dtype=np.float64).mean())
    return (out * gain).astype(np.float32)


def _telephone(library: ModuleType, wave: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Narrow-band mu-law speech at the old rate; clips over full scale are scaled down for the codec and up again."""
    low, high = TELEPHONE_BAND
    centre, width = (low + high) / 2, (high - low) / ((low + high) / 2)
    band = library.BandPassFilter(centre, centre, width, width, TELEPHONE_SLOPE, TELEPHONE_SLOPE, p=1.0)
    narrow = band(soxr.resample(wave, sampling_rate, TELEPHONE_RATE), TELEPHONE_RATE)
    peak = max(1.0, float(np.abs(narrow).max()))
    coded = io.BytesIO()
    soundfile.write(coded, narrow / peak, TELEPHONE_RATE, format="WAV", subtype="ULAW")
    coded.seek(0)
    decoded = soxr.resample(soundfile.read(coded, dtype="float32")[0] * np.float32(peak), TELEPHONE_RATE, sampling_rate)
    # Resampling may round a sample away.
    return np.pad(decoded, (0, max(0, len(wave) - len(decoded))))[: len(wave)]


def _check_value(text: str, name: str, value: float | None) -> None:
    """Raise unless the condition written `text` exists and takes the number."""
    if name not in CONDITION_KINDS:
        known = ", ".join(f"{name}:{kind.example}" if kind.unit else name for name, kind in CONDITION_KINDS.items())
        raise ValueError(f"Condition {text!r} is not known{nearest(name, CONDITION_KINDS)}; use one such as {known}.")
    kind = CONDITION_KINDS[name]
    if not kind.unit and value is not None:
        raise ValueError(f"Condition {text!r} takes no number; write {name}.")
    # NaN is not accepted.
    fits = value in kind.choices if kind.choices else value is not None and kind.low <= value <= kind.high
    if kind.unit and not fits:
        rule = f"a number of {kind.unit} from {kind.low:g} to {kind.high:g}"
        if kind.choices:
            rule = f"one of {', '.join(map(str, kind.choices))} {kind.unit}"
        raise ValueError(f"Condition {text!r} needs {rule}; write for instance {name}:{kind.example}.")


def seed_of(*names: str) -> int:
    """A number below 2^32 that depends only on these names and their order."""
    return int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest()[:4], "big")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, from which audiomentations draws, and restore their state afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the library's, not ours
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
