"""Changes of pitch and tempo, measured on the result."""

import math
import random

import librosa
import numpy as np
import pytest
from scipy import stats

from annot_hf.training.augment import Perturbation, change_tempo, shift_pitch

RATE = 16_000
CHANGES = {
    "higher": lambda wave: shift_pitch(wave, RATE, 1.0),
    "lower": lambda wave: shift_pitch(wave, RATE, -1.0),
    "slower": lambda wave: change_tempo(wave, RATE, 0.95),
    "faster": lambda wave: change_tempo(wave, RATE, 1.05),
}


def sine(frequency, seconds=4.0, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def voice(frequency, seconds=4.0):
    """Harmonics up to 7 kHz that fall with their number."""
    time = np.arange(int(seconds * RATE)) / RATE
    harmonics = range(1, int(7000 / frequency))
    return sum(0.1 / k * np.sin(2 * np.pi * frequency * k * time + k * k) for k in harmonics).astype(np.float32)


def noise(samples=4 * RATE):
    return (0.1 * np.random.default_rng(0).normal(size=samples)).astype(np.float32)


def peak(wave):
    size = 1 << 21
    return np.abs(np.fft.rfft(wave * np.hanning(len(wave)), size)).argmax() * RATE / size


def pitch(wave):
    return np.median(librosa.yin(wave, fmin=60, fmax=400, sr=RATE))


def cents(found, expected):
    return 1200 * math.log2(found / expected)


def level(wave):
    return float(np.sqrt(np.square(wave, dtype=np.float64).mean()))


@pytest.mark.parametrize("semitones", [-1.0, -0.5, 0.5, 1.0])
def test_pitch_moves_by_semitones_and_the_length_stays(semitones):
    for frequency, tolerance in ((220, 12), (440, 6), (1500, 2)):  # the method is coarse for a lone low tone
        tone = sine(frequency)
        shifted = shift_pitch(tone, RATE, semitones)
        assert shifted.shape == tone.shape and shifted.dtype == np.float32
        assert abs(cents(peak(shifted), frequency * 2 ** (semitones / 12))) < tolerance
    for frequency in (100, 140, 200, 260):
        spoken = voice(frequency)
        assert abs(cents(pitch(shift_pitch(spoken, RATE, semitones)), pitch(spoken) * 2 ** (semitones / 12))) < 2


@pytest.mark.parametrize("tempo", [0.95, 0.987, 1.02, 1.05])
def test_tempo_changes_the_length_and_the_pitch_stays(tempo):
    for frequency in (110, 220, 1500):
        tone = sine(frequency)
        changed = change_tempo(tone, RATE, tempo)
        assert len(changed) == round(len(tone) / tempo) and changed.dtype == np.float32
        assert abs(cents(peak(changed), frequency)) < 1
    assert abs(cents(pitch(change_tempo(voice(140), RATE, tempo)), pitch(voice(140)))) < 2


@pytest.mark.parametrize("name", CHANGES)
def test_a_click_stays_where_it_is_said(name):
    for at in (RATE // 10, RATE, 2 * RATE - 400):
        click = np.zeros(2 * RATE, np.float32)
        click[at] = 1
        heard = CHANGES[name](click)
        assert abs(np.abs(heard).argmax() - at * len(heard) / len(click)) < 0.001 * RATE


@pytest.mark.parametrize("name", CHANGES)
def test_the_level_stays_also_at_the_ends_and_of_short_clips(name):
    heard, clean = CHANGES[name](noise()), noise()
    assert level(heard) == pytest.approx(level(clean), rel=0.1)
    for end in (slice(0, 800), slice(-800, None)):  # 50 ms, which the library alone fades to 44 %
        assert level(heard[end]) == pytest.approx(level(clean[end]), rel=0.2)
    for samples in (80, 160, 333, 1600):  # from 5 ms
        clip = noise(samples)
        assert level(CHANGES[name](clip)) == pytest.approx(level(clip), rel=0.12)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("samples", [1, 2, 160, 16_001])
def test_any_length_and_silence(name, samples):
    expected = {"slower": round(samples / 0.95), "faster": round(samples / 1.05)}.get(name, samples)
    heard = CHANGES[name](noise(samples))
    assert heard.shape == (expected,) and heard.dtype == np.float32 and np.isfinite(heard).all()
    for value in (0.0, 1e-30, 1e-42):  # the last is no normal number
        silent = CHANGES[name](np.full(samples, value, np.float32))
        assert silent.shape == (expected,) and np.abs(silent).max() <= 2 * value


@pytest.mark.parametrize("name", CHANGES)
def test_loud_clips_are_not_clipped(name):
    soft, loud = CHANGES[name](sine(800)), CHANGES[name](sine(800, amplitude=2.0))
    assert np.abs(loud).max() > 1.9
    assert level(loud - 4 * soft) < 1e-3 * level(loud)


@pytest.mark.parametrize(("share", "each"), [(0.3, 0.1), (1.0, 1 / 3)])
def test_one_of_three_is_drawn(share, each):
    perturbation = Perturbation(share, seed=42)
    drawn = [perturbation.draw(f"item{item}", epoch) for item in range(2000) for epoch in range(10)]
    semitones, tempo = np.array(drawn).T
    assert not ((semitones != 0) & (tempo != 1)).any()
    for count, chance in (
        ((semitones != 0).sum(), each),
        ((tempo != 1).sum(), each),
        (((semitones == 0) & (tempo == 1)).sum(), 1 - 2 * each),
    ):
        low, high = stats.binom.interval(0.999, len(drawn), chance)
        assert low <= count <= high
    for values, low, high in ((semitones[semitones != 0], -1, 1), (tempo[tempo != 1], 0.95, 1.05)):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_what_is_drawn_belongs_to_seed_item_and_epoch():
    perturbation, clip = Perturbation(1.0, seed=1), noise(1600)
    names = [(f"item{item}", epoch) for item in range(4) for epoch in range(4)]
    first = {key: perturbation.draw(*key) for key in names}
    assert {key: Perturbation(1.0, seed=1).draw(*key) for key in names[::-1]} == first
    # another item, epoch or seed: other draws; and not those of another place in the list of names
    assert len({drawn for drawn in first.values() if drawn != (0, 1)}) > 6
    assert [Perturbation(1.0, seed=2).draw(*key) for key in names] != list(first.values())
    assert all(any(first[f"item{n}", 0] != first[f"item{n}", epoch] for epoch in range(1, 4)) for n in range(4))
    for item, epoch in names:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002 - whatever state the program left
        heard = perturbation.apply(clip, RATE, item=item, epoch=epoch)
        state = random.random(), np.random.random()  # noqa: NPY002
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        assert (random.random(), np.random.random()) == state  # noqa: NPY002 - and leaves alone
        semitones, tempo = first[item, epoch]
        if (semitones, tempo) == (0, 1):
            assert heard is clip
            continue
        expected = shift_pitch(clip, RATE, semitones) if semitones else change_tempo(clip, RATE, tempo)
        np.testing.assert_array_equal(heard, expected)


def test_a_smaller_share_changes_no_other_clips():
    """So that runs of different shares can be compared; and 0 never acts."""
    keys = [(f"item{item}", 0) for item in range(300)]
    some, more = ({key for key in keys if Perturbation(share).draw(*key)[0]} for share in (0.2, 0.6))
    assert some and some < more
    assert {Perturbation(0.0).draw(*key) for key in keys} == {(0.0, 1.0)}


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan, math.inf])
def test_a_share_that_is_no_probability(share):
    with pytest.raises(ValueError, match=rf"perturb_share is {share}; give a probability from 0 \(never\) to 1"):
        Perturbation(share)
