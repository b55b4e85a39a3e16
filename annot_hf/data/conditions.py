"""Alter decoded clips `(time,)`: acoustic conditions to test a model under, or to train it under.

A clip's randomness depends on its own name only. Samples are float32 and may exceed full scale (1); silence stays silence.
"""

import hashlib
import io
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

# its parts are loaded when they are used
import scipy
import soundfile
import soxr

from annot_hf.data.questions import nearest

CLEAN = "clean"
# Kbit/s of MPEG-2 Layer III (16 to 24 kHz).
MP3_RATES = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
# Hz.
TELEPHONE_BAND, TELEPHONE_RATE = (300, 3400), 8000
# By how much the power per Hz of noise falls: f^-x. Below 20 Hz nobody hears it, and it is even there.
COLOURS, AUDIBLE = {"noise": 0, "pink": 1, "brown": 2}, 20
# Seconds, and dB below the speech level: what is quieter than the second is background, what is louder than the first is not.
GATE_SECONDS, GATE = 0.05, (20, 30)
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
    **{colour: _Kind("dB", "10", -20, 60, falling=True) for colour in COLOURS},
    "reverb": _Kind("seconds", "0.5", 0.05, 10),
    "band": _Kind("Hz", "3400", 100, 24_000, falling=True),
    "telephone": _Kind(),
    "mp3": _Kind("kbit/s", "16", choices=MP3_RATES, falling=True),
    "gain": _Kind("dB", "-12", -60, 60),
    "clip": _Kind("dB", "6", 0, 60),
    "background": _Kind("dB", "6", 0, 60),
    "speed": _Kind("times the speed", "1.1", 0.5, 2),
}


@dataclass(frozen=True)
class Condition:
    """An acoustic condition, written `name` or `name:number`; one that is not among `CONDITION_KINDS` raises.

    - `clean`: no change.
    - `noise:DB`, `pink:DB`, `brown:DB`: Gaussian noise at this signal-to-noise ratio (dB) of mean powers over the whole clip;
      white, or with a power per Hz that falls by 3 or 6 dB an octave above 20 Hz.
    - `reverb:S`: exponentially decaying noise of S seconds (RT60), drawn per clip, at the critical distance (Polack 1988).
    - `band:HZ`: nothing above HZ (Butterworth, zero phase, 96 dB an octave, -6 dB at HZ).
    - `telephone`: 8 kHz sampling, 300 to 3400 Hz (Butterworth, 24 dB an octave), G.711 mu-law.
    - `mp3:KBITS`: encoded by LAME at this rate (kbit/s) and decoded again, without the codec's delay.
    - `gain:DB`: louder by so much (quieter, below 0); nothing is cut.
    - `clip:DB`: scaled so that its peak is so much above full scale, and then cut at full scale.
    - `background:DB`: what lies 30 dB below the clip's speech level (the 95th percentile of its level in 50 ms) or more is
      lowered by so much, what lies 20 dB below it or less not at all, and in between in proportion.
    - `speed:TIMES`: played so much faster, resampled: tempo and pitch change, and the length.
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
        if self.name == "speed":
            return _play_faster(wave, sampling_rate, self.value)
        peak = np.abs(wave).max() if len(wave) else 0.0
        if peak < SILENCE:
            return wave
        generator = np.random.default_rng(seed_of(str(self), str(self.seed), item))
        padded = np.pad(wave, (0, max(0, int(np.ceil(_SHORTEST * sampling_rate)) - len(wave))))
        factor = 10 ** (self.value / 20) if CONDITION_KINDS[self.name].unit == "dB" else 1.0
        if self.name in COLOURS:
            noise = coloured_noise(len(wave), sampling_rate, COLOURS[self.name], generator)
            out = wave + noise * np.sqrt(_power(wave)) / factor
        elif self.name == "reverb":
            out = scipy.signal.fftconvolve(wave, impulse_response(self.value, sampling_rate, generator))
            out = out[: len(wave)] * np.sqrt(_power(wave) / _power(out[: len(wave)]))
        elif self.name == "band":
            out = padded
            if self.value < sampling_rate / 2:
                out = scipy.signal.sosfiltfilt(
                    scipy.signal.butter(8, self.value, fs=sampling_rate, output="sos"), padded
                )
        elif self.name == "telephone":
            out = _telephone(padded, sampling_rate)
        elif self.name == "mp3":
            from audiomentations import Mp3Compression

            with seeded(0):
                out = Mp3Compression(int(self.value), int(self.value), p=1.0)(padded, sampling_rate)
        elif self.name == "gain":
            out = wave * factor
        elif self.name == "clip":
            out = (wave * (factor / peak)).clip(-1, 1)
        else:
            out = wave * _gate(wave, sampling_rate, self.value)
        return out[: len(wave)].astype(np.float32)

    def frames(self, frames: int) -> int:
        """How many samples a clip of `frames` has under the condition."""
        return max(1, round(frames / self.value)) if self.name == "speed" else frames


@dataclass(frozen=True)
class ConditionedClip:
    """A clip under a condition; `load_audio` takes it, and its source. The name `item` determines the randomness."""

    source: Any
    item: str
    condition: Condition


def put_under(source: Any, item: str, conditions: Sequence[Condition]) -> Any:
    """The clip `source` (as `load_audio` takes it), called `item`, under one condition after the other."""
    for condition in conditions:
        source = source if condition.is_clean else ConditionedClip(source, item, condition)
    return source


def impulse_response(seconds: float, sampling_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Direct sound, then as much energy of Gaussian noise that decays by 60 dB in `seconds`: `(1 + seconds * rate,)`."""
    time = np.arange(1, 1 + max(1, round(seconds * sampling_rate))) / sampling_rate
    tail = generator.normal(size=len(time)) * 10 ** (-3 * time / seconds)
    return np.concatenate([[1.0], tail / np.sqrt((tail**2).sum())])


def coloured_noise(samples: int, sampling_rate: int, exponent: float, generator: np.random.Generator) -> np.ndarray:
    """Gaussian noise `(samples,)` of mean power 1, whose power per Hz falls as f^-exponent above 20 Hz and is even below."""
    spectrum = np.fft.rfft(generator.normal(size=samples))
    frequency = np.fft.rfftfreq(samples, 1 / sampling_rate)
    noise = np.fft.irfft(spectrum * np.maximum(frequency, AUDIBLE) ** (-exponent / 2), samples)
    return noise / np.sqrt(_power(noise))


def _power(wave: np.ndarray) -> float:
    return float(np.square(wave, dtype=np.float64).mean())


def _telephone(wave: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Narrow-band mu-law speech at the old rate; clips over full scale are scaled down for the codec and up again."""
    # A band-pass of order 4 falls by 24 dB an octave on each side.
    band = scipy.signal.butter(4, TELEPHONE_BAND, "bandpass", fs=TELEPHONE_RATE, output="sos")
    narrow = scipy.signal.sosfilt(band, soxr.resample(wave, sampling_rate, TELEPHONE_RATE))
    peak = max(1.0, float(np.abs(narrow).max()))
    coded = io.BytesIO()
    soundfile.write(coded, narrow / peak, TELEPHONE_RATE, format="WAV", subtype="ULAW")
    coded.seek(0)
    decoded = soxr.resample(soundfile.read(coded, dtype="float32")[0] * np.float32(peak), TELEPHONE_RATE, sampling_rate)
    # Resampling may round a sample away.
    return np.pad(decoded, (0, max(0, len(wave) - len(decoded))))


def _gate(wave: np.ndarray, sampling_rate: int, decibels: float) -> np.ndarray:
    """What to multiply each sample with, so that the background is lower by so many dB: `(time,)`."""
    size = max(1, round(GATE_SECONDS * sampling_rate))
    power = scipy.ndimage.uniform_filter1d(np.square(wave, dtype=np.float64), size, mode="nearest")
    speech = max(np.percentile(power, 95), SILENCE**2)
    below = -10 * np.log10(np.maximum(power / speech, SILENCE))
    return 10 ** (-decibels / 20 * np.interp(below, GATE, (0, 1)))


def _play_faster(wave: np.ndarray, sampling_rate: int, times: float) -> np.ndarray:
    """The clip at `times` its speed, `(time / times,)`, rounded, at least one sample."""
    length = max(1, round(len(wave) / times))
    out = soxr.resample(wave, sampling_rate * times, sampling_rate)
    return np.pad(out, (0, max(0, length - len(out))))[:length]


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
