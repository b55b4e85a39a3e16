"""Published features against librosa's functions one by one, counts by hand, and tables of one's own."""

import librosa
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from annot_hf.data.dime import (
    CLIP_FEATURES,
    FEATURE_RATE,
    TEXT_FEATURES,
    clip_features,
    features_of_clip,
    read_features,
    text_features,
)
from annot_hf.models.waves import AudioError


@pytest.fixture(scope="module")
def voice():
    time = np.arange(2 * FEATURE_RATE) / FEATURE_RATE
    tone = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 12)) * np.sin(np.pi * time) * 0.1
    return (tone + np.random.default_rng(0).standard_normal(len(time)) * 0.003).astype(np.float32)


def one_by_one(wave):
    """As the released code calls them."""
    feature, out = librosa.feature, []
    for values in (
        feature.mfcc(y=wave, sr=FEATURE_RATE, n_mfcc=13),
        feature.chroma_stft(y=wave, sr=FEATURE_RATE, n_chroma=12),
        feature.spectral_contrast(y=wave, sr=FEATURE_RATE, n_bands=6),
        feature.zero_crossing_rate(y=wave),
        feature.spectral_rolloff(y=wave, sr=FEATURE_RATE),
        feature.spectral_centroid(y=wave, sr=FEATURE_RATE),
        feature.rms(y=wave),
    ):
        out += [values.mean(axis=1), values.std(axis=1)]
    return np.concatenate(out)


def test_the_numbers_are_those_of_librosas_functions(voice):
    found = clip_features(voice)
    assert found.shape == (72,) == (len(CLIP_FEATURES),) and found.dtype == np.float32
    assert len(set(CLIP_FEATURES)) == 72 and found == pytest.approx(one_by_one(voice), rel=1e-3, abs=1e-4)
    by_name = dict(zip(CLIP_FEATURES, found, strict=True))
    assert by_name["mean of RMS"] == pytest.approx(librosa.feature.rms(y=voice).mean(), rel=1e-4)
    assert by_name["deviation of MFCC 12"] == pytest.approx(
        librosa.feature.mfcc(y=voice, sr=FEATURE_RATE)[12].std(), rel=1e-3
    )


def test_short_clips_are_padded_to_half_a_second(voice):
    short = voice[3000:5000]
    assert (clip_features(short) == clip_features(np.pad(short, (0, FEATURE_RATE // 2 - len(short))))).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "wave", [np.zeros(FEATURE_RATE), np.zeros(1), np.ones(FEATURE_RATE), np.full(40, 1e-20), np.full(FEATURE_RATE, 1e3)]
)
def test_odd_clips_have_finite_features(wave):
    assert np.isfinite(clip_features(wave)).all()


def test_counts_of_a_text_by_hand():
    found = dict(zip(TEXT_FEATURES, text_features("  WHY, oh why... Me?! "), strict=True))
    expected = {  # W H Y o h w h y M e: two vowels; y is a consonant
        "characters": 4 + 1 + 2 + 1 + 6 + 1 + 4,
        "words": 4,
        "!": 1,
        "?": 1,
        ".": 3,
        ",": 1,
        "vowels": 2 / 19,
        "consonants": 8 / 19,
        "word length": (4 + 2 + 6 + 4) / 4,
        "capitals": 4 / 19,
    }
    assert found == pytest.approx(expected)


def test_capitals_are_counted_before_the_text_is_lower_cased():
    assert text_features("LOUD")[-1] == 1 and text_features("loud")[-1] == 0
    assert (text_features("LOUD")[:-1] == text_features("loud")[:-1]).all()


@pytest.mark.parametrize("text", ["", " \n\t", None])
def test_no_text_is_zeros(text):
    assert text_features(text).tolist() == [0] * 10


@pytest.mark.parametrize("text", ["…!", "日本語", "\U0001f600", "İ", "a" * 100_000])
def test_odd_texts_have_finite_features(text):
    found = text_features(text)
    assert np.isfinite(found).all() and found.any() and (found[6:8] <= 1).all()


def test_a_clip_that_cannot_be_read_is_named_and_no_row_of_zeros(tmp_path, voice):
    (tmp_path / "bad.wav").write_bytes(b"RIFFnothing")
    for source in (tmp_path / "bad.wav", tmp_path / "absent.wav", {"bytes": b"", "path": None}):
        with pytest.raises(AudioError, match="Item 'clip 7': "):
            features_of_clip(source, item="clip 7")
    soundfile.write(tmp_path / "good.wav", voice, FEATURE_RATE, subtype="FLOAT")
    assert (features_of_clip(tmp_path / "good.wav", item="x") == clip_features(voice)).all()
    with pytest.raises(AudioError, match="Item 'x': .* at most 1 s"):
        features_of_clip(tmp_path / "good.wav", item="x", max_seconds=1)


def test_features_of_ones_own_come_back_by_name(tmp_path):
    features = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    table = pd.DataFrame({"item": ["a", "b/ü", "c"], "features": list(features)})
    table.to_parquet(tmp_path / "own.parquet")
    found = read_features(tmp_path / "own.parquet", ["c", "a"])
    assert (found == features[[2, 0]]).all() and found.dtype == np.float32
    lists = pa.table({"item": ["a", "b"], "features": [[1, 2], [3, 4]], "more": ["x", "y"]})
    pq.write_table(lists, tmp_path / "lists.parquet")
    assert read_features(tmp_path / "lists.parquet", ["b"]).tolist() == [[3, 4]]


TABLES = {
    "ragged": ({"item": ["a", "b"], "features": [[1.0], [2.0, 3.0]]}, "no lists of one length"),
    "ragged with the right sum": ({"item": ["a", "b"], "features": [[], [2.0, 3.0]]}, "no lists of one length"),
    "null": ({"item": ["a", "b"], "features": [[1.0], None]}, "no lists of one length"),
    "flat": ({"item": ["a", "b"], "features": [1.0, 2.0]}, "no lists of one length"),
    "twice": ({"item": ["a", "a"], "features": [[1.0], [2.0]]}, "has item 'a' twice"),
    "missing": ({"item": ["a", "c"], "features": [[1.0], [2.0]]}, "lacks 1 of 2 items, for instance 'b'"),
    "no column": ({"item": ["a", "b"], "vectors": [[1.0], [2.0]]}, "holds no features"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_does_not_fit_is_said(name, tmp_path):
    columns, message = TABLES[name]
    pq.write_table(pa.table(columns), tmp_path / "own.parquet")
    with pytest.raises(ValueError, match=message):
        read_features(tmp_path / "own.parquet", ["a", "b"])


def test_a_file_that_is_none_is_said(tmp_path):
    (tmp_path / "own.parquet").write_text("nothing")
    for name in ("own.parquet", "absent.parquet", "."):
        with pytest.raises(ValueError, match="holds no features"):
            read_features(tmp_path / name, ["a"])
