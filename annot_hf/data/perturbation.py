"""Changes of pitch and tempo that clips get while a model learns: another one, or none, whenever a clip is read.

The signal processing is audiomentations' (extra `conditions`), its Signalsmith Stretch. Beside librosa's phase vocoder, the
library's other method, it is about as fast (20 ms for 10 s at 16 kHz), leaves noise 93 % of its amplitude or more
(against 65 %) and a click in its place (to 0.7 ms, against 21). The pitch of a voice is right to 2 cents, of a low tone to 21.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from annot_hf.data.conditions import load_library, seed_of, seeded

SEMITONES = 1.0  # a shift of pitch lies within as many, up or down
TEMPO = (0.95, 1.05)  # below 1 is slower
_BLOCK = 0.12  # seconds of the library's analysis window, which would fade in and out at the ends of a clip


@dataclass(frozen=True)
class Perturbation:
    """Pitch shift and tempo perturbation, of which a clip gets at most one each time it is read (arXiv 2601.14620).

    As in the authors' code, one of three is drawn with probability `share`: a shift of pitch within a semitone up or down, a
    tempo of 0.95 to 1.05, or nothing. So 0.3 changes the pitch of one clip in ten, the tempo of one in ten, and leaves eight.
    Sizes are uniform, which is our choice for the pitch, of which only "±1 semitone" is known.

    Args:
        share: Probability, from 0 to 1.
        seed: Another seed draws other changes.

    Raises:
        ValueError: `share` is no probability.
    """

    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:  # which NaN is not
            raise ValueError(
                f"perturb_share is {self.share}; it is a probability from 0 (for never) to 1, such as 0.3."
            )

    def draw(self, item: str, epoch: int) -> tuple[float, float]:
        """What happens to a clip: semitones up, 0 for none, and its tempo, 1 for as it is; the same whenever it is asked.

        Args:
            item: Name of the clip.
            epoch: Number of the epoch, from 0.
        """
        generator = np.random.default_rng(seed_of("perturbation", str(self.seed), str(epoch), item))
        chance, size = generator.random(2)
        if chance < self.share / 3:
            return float(SEMITONES * (2 * size - 1)), 1.0
        if chance < self.share * 2 / 3:
            return 0.0, float(TEMPO[0] + (TEMPO[1] - TEMPO[0]) * size)
        return 0.0, 1.0

    def apply(self, wave: np.ndarray, sampling_rate: int, *, item: str, epoch: int) -> np.ndarray:
        """The clip as it is heard in this epoch; itself if nothing is drawn.

        Args:
            wave: Samples `(time,)`, float32, full scale at 1.
            sampling_rate: Their rate (Hz), which stays.
            item: Name of the clip: with the epoch and the seed it fixes what happens.
            epoch: Number of the epoch, from 0.

        Raises:
            ValueError: The libraries of the extra `conditions` are not installed.
        """
        semitones, tempo = self.draw(item, epoch)
        if semitones:
            return shift_pitch(wave, sampling_rate, semitones)
        return wave if tempo == 1 else change_tempo(wave, sampling_rate, tempo)


def make_perturbation(share: float, seed: int) -> Perturbation | None:
    """The perturbation, or None where `share` is 0.

    Raises:
        ValueError: `share` is no probability, or the libraries of the extra `conditions` are not installed.
    """
    perturbation = Perturbation(share, seed)
    if not share:
        return None
    _library()  # now, and not hours later in a worker
    return perturbation


def shift_pitch(wave: np.ndarray, sampling_rate: int, semitones: float) -> np.ndarray:
    """The clip higher or lower, formants and all, and as long as it was.

    Nothing is clipped: samples are floating point and may exceed full scale. Silence stays silence.

    Args:
        wave: Samples `(time,)`, float32.
        sampling_rate: Their rate (Hz).
        semitones: How much higher, from -24 to 24; below 0 is lower.

    Returns:
        Samples `(time,)`, float32.
    """
    return _altered(_library().PitchShift(semitones, semitones, p=1.0), wave, sampling_rate, 1.0)


def change_tempo(wave: np.ndarray, sampling_rate: int, tempo: float) -> np.ndarray:
    """The clip faster or slower at its own pitch, and shorter or longer by as much.

    Nothing is clipped: samples are floating point and may exceed full scale. Silence stays silence. A clip as long as a model
    hears becomes too long when it is slowed down; who feeds a model cuts it.

    Args:
        wave: Samples `(time,)`, float32.
        sampling_rate: Their rate (Hz).
        tempo: How many times faster, from 0.1 to 10; below 1 is slower.

    Returns:
        Samples `(time / tempo,)`, rounded, at least one, float32.
    """
    transform = _library().TimeStretch(tempo, tempo, leave_length_unchanged=False, p=1.0)
    return _altered(transform, wave, sampling_rate, tempo)


def _altered(transform: Any, wave: np.ndarray, sampling_rate: int, tempo: float) -> np.ndarray:
    """What the transform makes of the clip between two stretches of silence, without these."""
    silence = int(np.ceil(_BLOCK * sampling_rate))
    with seeded(0):  # nothing is drawn here, but the library asks the generators whether to act
        out = transform(np.pad(wave, silence), sampling_rate)
    start = round(silence / tempo)
    return out[start : start + max(1, round(len(wave) / tempo))]


def _library() -> Any:
    return load_library("perturb_share needs")
