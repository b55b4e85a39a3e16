"""Acoustic conditions: their grammar, and what they do to a waveform, measured on the result."""

import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal, stats

from annot_hf.data.audio import audio_info, load_audio
from annot_hf.data.conditions import CONDITION_KINDS, MP3_RATES, Condition, ConditionedClip, impulse_response, put_under

RATE = 16_000
TONE = 1013.7  # Hz: no whole number of samples, so that it meets every step of the quantiser
LINEAR = (
    "noise:10",
    "pink:10",
    "brown:10",
    "reverb:0.5",
    "band:3400",
    "telephone",
    "mp3:16",
    "gain:-12",
    "background:6",
)
ALTERED = (*LINEAR, "clip:6")
KNOWN = (
    "use one such as clean, noise:10, pink:10, brown:10, reverb:0.5, band:3400, telephone, mp3:16, gain:-12, clip:6, "
    "background:6, speed:1.1."
)


@pytest.fixture(scope="module")
def speech():
    """Two seconds of bursts and pauses with energy up to 8 kHz."""
    rng = np.random.default_rng(0)
    bursts = np.repeat(rng.uniform(0, 1, 20) > 0.4, RATE // 10)
    return (0.1 * bursts * rng.normal(size=2 * RATE)).astype(np.float32)


def apply(text, wave, item="clip", rate=RATE, seed=0):
    return Condition.parse(text, seed).apply(wave, rate, item=item)


def power(wave):
    return float(np.mean(np.square(wave, dtype=np.float64)))


def decibels(ratio):
    return 10 * np.log10(ratio)


@pytest.mark.parametrize(
    ("text", "same", "folder"),
    [
        ("clean", "clean", "clean"),
        ("noise:10.0", "noise:10", "noise-10"),
        (" noise:-0", "noise:0", "noise-0"),
        ("noise:-2.5", "noise:-2.5", "noise--2.5"),
        ("reverb:.5", "reverb:0.5", "reverb-0.5"),
        ("reverb:0.1234567", "reverb:0.1234567", "reverb-0.1234567"),
        ("telephone", "telephone", "telephone"),
        ("mp3:16", "mp3:16", "mp3-16"),
        ("gain:-12.0", "gain:-12", "gain--12"),
    ],
)
def test_one_condition_has_one_name(text, same, folder):
    condition = Condition.parse(text)
    assert (str(condition), condition.folder) == (same, folder)
    assert condition == Condition.parse(same) and condition.is_clean == (same == "clean")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nois:10",
            f"Condition 'nois:10' is not known (did you mean 'noise'?); {KNOWN}",
        ),
        (
            "codec:mp3:16",
            f"Condition 'codec:mp3:16' is not known; {KNOWN}",
        ),
        ("noise", "Condition 'noise' needs a number of dB from -20 to 60; write for instance noise:10."),
        ("noise:loud", "Condition 'noise:loud' needs a number of dB from -20 to 60; write for instance noise:10."),
        ("noise:nan", "Condition 'noise:nan' needs a number of dB from -20 to 60; write for instance noise:10."),
        ("noise:inf", "Condition 'noise:inf' needs a number of dB from -20 to 60; write for instance noise:10."),
        ("reverb:0", "Condition 'reverb:0' needs a number of seconds from 0.05 to 10; write for instance reverb:0.5."),
        ("telephone:8", "Condition 'telephone:8' takes no number; write telephone."),
        ("gain", "Condition 'gain' needs a number of dB from -60 to 60; write for instance gain:-12."),
        ("clip:-1", "Condition 'clip:-1' needs a number of dB from 0 to 60; write for instance clip:6."),
        (
            "speed:0",
            "Condition 'speed:0' needs a number of times the speed from 0.5 to 2; write for instance speed:1.1.",
        ),
        ("clean:", "Condition 'clean:' takes no number; write clean."),
    ],
)
def test_what_is_no_condition_is_one_sentence(text, message):
    with pytest.raises(ValueError) as error:
        Condition.parse(text)
    assert str(error.value) == message


def test_mp3_takes_the_rates_of_the_format():
    with pytest.raises(
        ValueError, match=r"Condition 'mp3:17' needs one of 8, 16, .* kbit/s; write for instance mp3:16\."
    ):
        Condition("mp3", 17)
    assert [Condition("mp3", rate).value for rate in MP3_RATES] == list(MP3_RATES)


def test_conditions_sort_from_mild_to_hard():
    mixed = ["mp3:8", "reverb:1", "noise:0", "telephone", "clean", "noise:20", "mp3:64", "noise:-5", "reverb:0.2"]
    expected = ["clean", "noise:20", "noise:0", "noise:-5", "reverb:0.2", "reverb:1", "telephone", "mp3:64", "mp3:8"]
    assert [str(one) for one in sorted(map(Condition.parse, mixed), key=lambda one: one.rank)] == expected


@pytest.mark.parametrize("asked", [-10, 10, 30])
@pytest.mark.parametrize(("colour", "octave"), [("noise", 0.0), ("pink", 3.01), ("brown", 6.02)])
def test_noise_has_the_ratio_asked_and_its_colour(colour, octave, asked, speech):
    noise = apply(f"{colour}:{asked}", speech).astype(np.float64) - speech
    assert decibels(power(speech) / power(noise)) == pytest.approx(asked, abs=0.01)
    frequency, spectrum = signal.welch(noise, RATE, nperseg=512)
    inside = (frequency > 60) & (frequency < 4000)
    line = np.polyfit(np.log2(frequency[inside]), decibels(spectrum[inside]), 1)
    assert -line[0] == pytest.approx(octave, abs=0.25)
    assert np.std(decibels(spectrum[inside]) - np.polyval(line, np.log2(frequency[inside]))) < 1.2  # about 120 averages
    assert abs(stats.kurtosis(noise)) < 1


@pytest.mark.parametrize("asked", [-12, 12, -0.5])
def test_gain_is_a_factor_and_cuts_nothing(asked, speech):
    heard = apply(f"gain:{asked}", speech * (0.9 / np.abs(speech).max()))
    np.testing.assert_allclose(heard, speech * (0.9 / np.abs(speech).max()) * 10 ** (asked / 20), rtol=1e-6)


@pytest.mark.parametrize("level", [0.01, 1.0, 3.0])
def test_clipping_cuts_a_sine_where_its_level_says(level):
    """A sine so many dB over full scale is at full scale for 1 - 2 asin(1 / factor) / pi of the time, however loud it was."""
    sine = (level * np.sin(2 * np.pi * TONE * np.arange(RATE) / RATE)).astype(np.float32)
    for asked in (0, 6, 20):
        factor = 10 ** (asked / 20)
        heard = apply(f"clip:{asked}", sine)
        assert np.abs(heard).max() == pytest.approx(1, abs=1e-6)
        cut = np.mean(np.abs(heard) > 1 - 1e-6)
        assert cut == pytest.approx(1 - 2 * np.arcsin(1 / factor) / np.pi, abs=0.01)
        inside = np.abs(heard) < 0.99
        np.testing.assert_allclose(heard[inside], factor * sine[inside] / np.abs(sine).max(), rtol=1e-5, atol=1e-6)


def test_a_band_ends_steeply_and_without_delay():
    noise = (0.1 * np.random.default_rng(3).normal(size=4 * RATE)).astype(np.float32)
    heard = apply("band:3400", noise)
    frequency, before = signal.welch(noise, RATE, nperseg=1024)
    gain = decibels(signal.welch(heard, RATE, nperseg=1024)[1] / before)
    assert np.abs(gain[(frequency > 50) & (frequency < 2700)]).max() < 0.5
    assert gain[np.abs(frequency - 3400).argmin()] == pytest.approx(-6, abs=0.8)
    assert gain[(frequency > 4700) & (frequency < 7900)].max() < -40
    assert signal.correlate(heard, noise, "full").argmax() == len(noise) - 1
    np.testing.assert_array_equal(apply("band:8000", noise), noise)  # there is nothing above


def test_the_background_is_lowered_and_the_voice_is_not():
    """Half a second of a tone, as loud as speech, and half a second of noise that lies 40, 25 or 10 dB below it."""
    time = np.arange(RATE) / RATE
    voice = np.where(time < 0.5, np.sin(2 * np.pi * TONE * time), 0)
    noise = np.random.default_rng(0).normal(size=RATE) * (time >= 0.5)
    middles = slice(RATE // 10, 4 * RATE // 10), slice(6 * RATE // 10, 9 * RATE // 10)
    for below, share in ((40, 1.0), (25, 0.5), (10, 0.0)):
        clip = (0.3 * (voice + noise * np.sqrt(0.5) * 10 ** (-below / 20))).astype(np.float32)
        heard = apply("background:8", clip)
        np.testing.assert_array_equal(heard[middles[0]], clip[middles[0]])
        changed = decibels(power(heard[middles[1]]) / power(clip[middles[1]]))
        assert changed == pytest.approx(-8 * share, abs=0.3)
    np.testing.assert_allclose(apply("background:8", 0.01 * clip), 0.01 * heard, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("times", [0.9, 1.1, 2])
def test_speed_changes_pitch_and_length(times, file, speech):
    tone = np.sin(2 * np.pi * TONE * np.arange(2 * RATE) / RATE).astype(np.float32)
    heard = apply(f"speed:{times}", tone)
    assert len(heard) == round(2 * RATE / times)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert spectrum.argmax() * RATE / len(heard) == pytest.approx(TONE * times, abs=1)
    clip = put_under(file, "a", [Condition("speed", times), Condition("gain", -6)])
    assert audio_info(clip).frames == len(load_audio(clip))
    for samples in (1, 2, 333):
        short = apply(f"speed:{times}", speech[:samples])
        assert len(short) == max(1, round(samples / times)) and np.isfinite(short).all()


def decay(response, rate):
    """RT60 (s) by Schroeder's backward integration, from a line through -5 to -35 dB of the decay."""
    energy = np.cumsum(np.square(response, dtype=np.float64)[::-1])[::-1]
    level = decibels(energy / energy[0])
    inside = (level <= -5) & (level >= -35)
    slope = np.polyfit(np.flatnonzero(inside) / rate, level[inside], 1)[0]
    return -60 / slope


@pytest.mark.parametrize("asked", [0.2, 0.5, 1.5])
def test_reverberation_decays_as_asked(asked):
    clap = np.zeros(2 * RATE, np.float32)
    clap[0] = 0.5
    heard = apply(f"reverb:{asked}", clap)
    assert decay(heard, RATE) == pytest.approx(asked, rel=0.1)
    assert np.abs(heard).argmax() == 0  # the direct sound comes on time
    assert decibels(power(heard[1:]) * (len(heard) - 1) / float(heard[0]) ** 2) == pytest.approx(0, abs=0.01)


def test_reverberation_is_a_convolution_that_keeps_the_power(speech):
    heard = apply("reverb:0.4", speech)
    assert power(heard) == pytest.approx(power(speech), rel=1e-4)
    late = np.zeros_like(speech)
    late[1600:] = speech[:-1600]
    shifted = apply("reverb:0.4", late)
    scale = shifted[1600:] @ heard[:-1600] / (heard[:-1600] @ heard[:-1600])
    np.testing.assert_allclose(shifted[1600:], scale * heard[:-1600], atol=1e-4)
    assert not np.abs(shifted[:1600]).max() > 1e-5  # nothing is heard before it is said


def test_impulse_response_has_as_much_direct_as_later_energy():
    response = impulse_response(0.3, RATE, np.random.default_rng(1))
    assert len(response) == 1 + 0.3 * RATE and response[0] == 1
    assert (response[1:] ** 2).sum() == pytest.approx(1)


def test_telephone_passes_its_band_only(speech):
    noise = (0.1 * np.random.default_rng(3).normal(size=4 * RATE)).astype(np.float32)
    frequency, before = signal.welch(noise, RATE, nperseg=1024)
    after = signal.welch(apply("telephone", noise), RATE, nperseg=1024)[1]
    gain = decibels(after / before)

    def level(low, high):
        return gain[(frequency >= low) & (frequency <= high)].mean()

    assert abs(level(500, 3000)) < 0.3
    assert level(60, 100) < -30 and level(4300, 8000) < -35
    assert level(290, 310) == pytest.approx(-3, abs=0.6) and level(3390, 3410) == pytest.approx(-3, abs=0.8)


def test_telephone_has_the_distortion_of_mu_law():
    """A loud tone and one 20 dB softer keep about the same ratio to the error: companding, not linear steps."""
    time = np.arange(RATE) / RATE
    ratios = []
    for amplitude in (0.5, 0.05):
        tone = amplitude * np.sin(2 * np.pi * TONE * time).astype(np.float32)
        middle = slice(RATE // 4, -RATE // 4)
        heard = apply("telephone", tone).astype(np.float64)[middle]
        waves = np.stack([np.sin(2 * np.pi * TONE * time), np.cos(2 * np.pi * TONE * time)])[:, middle]
        fitted = np.linalg.lstsq(waves.T, heard, rcond=None)[0] @ waves
        ratios.append(decibels(power(fitted) / power(heard - fitted)))
    assert all(32 < ratio < 46 for ratio in ratios)
    assert abs(ratios[0] - ratios[1]) < 6


def test_mp3_keeps_length_and_timing_and_loses_more_at_lower_rates(speech):
    errors = []
    for rate in (64, 32, 16, 8):
        heard = apply(f"mp3:{rate}", speech)
        assert heard.shape == speech.shape
        lag = signal.correlate(heard, speech, "full").argmax() - (len(speech) - 1)
        assert abs(lag) <= 1
        errors.append(power(heard.astype(np.float64) - speech) / power(speech))
    assert errors == sorted(errors) and errors[0] < 0.3 < errors[-1]


@pytest.mark.parametrize("text", ALTERED)
@pytest.mark.parametrize("samples", [1, 2, 333, 1600, 16_001])
def test_length_stays_and_nothing_is_infinite(text, samples, speech):
    heard = apply(text, 0.01 + speech[:samples])
    assert heard.shape == (samples,) and heard.dtype == np.float32 and np.isfinite(heard).all()
    silence = np.zeros(samples, np.float32)
    np.testing.assert_array_equal(apply(text, silence), silence)
    faint = np.full(samples, 1e-30, np.float32)
    np.testing.assert_array_equal(apply(text, faint), faint)


@pytest.mark.parametrize("text", LINEAR)
def test_loud_clips_are_not_clipped(text):
    """Twice full scale comes out as loud, and as undistorted, as half full scale does."""
    tone = np.sin(2 * np.pi * 800 * np.arange(RATE) / RATE).astype(np.float32)
    soft, loud = apply(text, 0.5 * tone), apply(text, 2 * tone)
    assert np.abs(loud).max() > (0.45 if text == "gain:-12" else 1.5)
    assert power(loud - 4 * soft) < 0.005 * power(loud)


@pytest.mark.parametrize("text", ALTERED)
def test_randomness_belongs_to_the_item(text, speech):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - whatever state the program left
    first = apply(text, speech, "one")
    state = random.random(), np.random.random()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert (random.random(), np.random.random()) == state  # noqa: NPY002 - and that the condition leaves alone
    apply(text, speech, "two")
    np.testing.assert_array_equal(apply(text, speech, "one"), first)
    drawn = text.startswith(("noise", "pink", "brown", "reverb"))
    for other in (apply(text, speech, "two"), apply(text, speech, "one", seed=1)):
        assert np.array_equal(other, first) != drawn
    assert np.array_equal(first, speech) == (text == "background:6")  # nothing is quieter than silence


def test_noise_of_another_level_is_other_noise(speech):
    """Or the errors under two levels would be those of one draw."""
    one, other = (apply(text, speech) - speech for text in ("noise:10", "noise:20"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


@pytest.fixture
def file(tmp_path, speech) -> Path:
    soundfile.write(tmp_path / "clip.wav", np.stack([speech, speech], 1), RATE, subtype="FLOAT")
    return tmp_path / "clip.wav"


def test_a_clip_under_a_condition_is_audio_like_any_other(file, speech):
    clip = put_under(file, "a", [Condition("noise", 5)])
    assert clip == ConditionedClip(file, "a", Condition("noise", 5))
    np.testing.assert_array_equal(load_audio(clip), apply("noise:5", speech, "a"))
    assert audio_info(clip) == audio_info(file)
    clip = put_under({"bytes": file.read_bytes(), "path": None}, "a", [Condition("telephone"), Condition("noise", 5)])
    np.testing.assert_array_equal(load_audio(clip), apply("noise:5", apply("telephone", speech), "a"))
    assert len(load_audio(clip, sampling_rate=8000)) == RATE


def test_every_kind_is_documented():
    assert all(f"`{name}" in Condition.__doc__ for name in CONDITION_KINDS)
