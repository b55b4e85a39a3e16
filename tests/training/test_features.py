import os

import numpy as np
import pytest
import soundfile
from transformers import Speech2TextFeatureExtractor

from annot_hf.data.audio import AudioError, load_audio
from annot_hf.training import features
from annot_hf.training.features import build_features, log_mel

EXTRACTOR = Speech2TextFeatureExtractor(feature_size=8, num_mel_bins=8, do_ceptral_normalize=False)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Seven clips of 0.1 to 0.4 s."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    paths = [folder / f"{number}.wav" for number in range(7)]
    for path in paths:
        soundfile.write(path, 0.1 * rng.standard_normal(rng.integers(1600, 6400)), 16_000)
    return paths


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(features, "SHARD_ITEMS", 3)


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("processes", [1, 2])
def test_frames_are_those_of_each_clip(clips, tmp_path, processes):
    store = build_features(tmp_path, clips, EXTRACTOR, key="clips", processes=processes)
    assert len(store) == 7 and len(written(tmp_path)) == 3
    for index, clip in enumerate(clips):
        expected = log_mel(load_audio(clip), EXTRACTOR)
        assert store.lengths[index] == len(expected)
        np.testing.assert_array_equal(store[index], expected.astype(np.float16))
    again = build_features(tmp_path, clips, EXTRACTOR, key="clips", processes=processes)
    np.testing.assert_array_equal(again[4], store[4])


def test_only_what_is_missing_is_computed_again(clips, tmp_path, monkeypatch):
    broken = [*clips[:4], tmp_path / "gone.wav", *clips[5:]]
    with pytest.raises(AudioError, match=r"gone\.wav"):  # the first shard is there by then
        build_features(tmp_path, broken, EXTRACTOR, key="clips", processes=1)
    first = written(tmp_path)
    assert [name.split("-")[1] for name in first] == ["00000"]
    assert not list(tmp_path.rglob("*.part"))
    read = []
    monkeypatch.setattr(
        features, "load_audio", lambda source, **options: read.append(source) or load_audio(source, **options)
    )
    store = build_features(tmp_path, clips, EXTRACTOR, key="clips", processes=1)
    assert read == clips[3:]
    assert written(tmp_path).items() > first.items()
    build_features(tmp_path, clips, EXTRACTOR, key="clips", processes=1)
    assert len(read) == 4 and len(store) == 7


def test_a_file_of_the_same_size_that_is_written_again_is_computed_again(clips, tmp_path):
    clip = tmp_path / "clip.wav"
    clip.write_bytes(clips[0].read_bytes())
    before = build_features(tmp_path / "kept", [clip], EXTRACTOR, key="clips", processes=1)[0]
    soundfile.write(clip, np.zeros(len(soundfile.read(clip)[0])), 16_000)
    assert clip.stat().st_size == clips[0].stat().st_size
    os.utime(clip, ns=(0, 1))
    after = build_features(tmp_path / "kept", [clip], EXTRACTOR, key="clips", processes=1)[0]
    assert before.shape == after.shape and not np.array_equal(before, after)


def test_a_limit_of_length_holds_for_features_that_are_there(clips, tmp_path):
    build_features(tmp_path, clips, EXTRACTOR, key="clips", processes=1)
    with pytest.raises(AudioError, match="0.1 s|0.1 "):
        build_features(tmp_path, clips, EXTRACTOR, key="clips", max_seconds=0.1, processes=1)


def test_other_clips_settings_or_keys_have_a_folder_of_their_own(clips, tmp_path):
    wide = Speech2TextFeatureExtractor(feature_size=9, num_mel_bins=9, do_ceptral_normalize=False)
    for sources, extractor, key in (
        (clips, EXTRACTOR, "a"),
        (clips, EXTRACTOR, "b"),
        (clips, wide, "a"),
        (clips[:6], wide, "a"),
    ):
        store = build_features(tmp_path, sources, extractor, key=key, processes=1)
        assert len(store) == len(sources) and store[0].shape[1] == extractor.num_mel_bins
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("processes", [1, 2])
def test_a_corrupt_clip_is_named(clips, tmp_path, processes):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(clips[0].read_bytes()[:20])
    with pytest.raises(AudioError, match=r"bad\.wav"):
        build_features(tmp_path, [*clips, bad], EXTRACTOR, key="clips", processes=processes)
    with pytest.raises(AudioError, match="0.1 s|0.1 "):
        build_features(tmp_path, clips, EXTRACTOR, key="short", max_seconds=0.1, processes=processes)


def test_a_clip_shorter_than_a_window_has_a_frame():
    assert log_mel(np.zeros(3, np.float32), EXTRACTOR).shape[0] >= 1
    assert log_mel(np.zeros(1600, np.float32), EXTRACTOR).shape == (8, 8)
