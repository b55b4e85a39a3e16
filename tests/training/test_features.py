import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from transformers import Speech2TextFeatureExtractor

from annot_hf.data.audio import load_audio
from annot_hf.models.waves import AudioError, log_mel
from annot_hf.training import features
from annot_hf.training.features import (
    FeatureStore,
    Shard,
    build_features,
    fill_shards,
    plan_shards,
    write_shard,
)

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


def test_a_file_of_the_same_size_and_time_in_another_folder_is_computed_again(clips, tmp_path):
    kept = []
    for name, gain in (("clean", 1.0), ("noisy", 0.5)):  # an archive may give all of its files one time
        clip = tmp_path / name / "clip.wav"
        clip.parent.mkdir()
        soundfile.write(clip, gain * soundfile.read(clips[0])[0], 16_000)
        os.utime(clip, ns=(0, 1))
        kept.append(build_features(tmp_path / "kept", [clip], EXTRACTOR, key="clips", processes=1)[0])
    assert kept[0].shape == kept[1].shape and not np.array_equal(*kept)


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


@pytest.mark.parametrize("processes", [1, 2])
def test_the_bar_counts_clips(clips, tmp_path, processes, monkeypatch, capsys):
    monkeypatch.setattr(features, "SHARD_ITEMS", 3)
    build_features(tmp_path, clips, EXTRACTOR, key="clips", processes=processes)
    assert "7/7" in capsys.readouterr().err


def test_a_clip_shorter_than_a_window_has_a_frame():
    assert log_mel(np.zeros(3, np.float32), EXTRACTOR).shape[0] >= 1
    assert log_mel(np.zeros(1600, np.float32), EXTRACTOR).shape == (8, 8)


@pytest.mark.parametrize("samples", [800, 1641, 16_000 * 11])
def test_frames_are_those_of_the_extractor_to_the_last_bit(samples):
    rng = np.random.default_rng(0)
    extractor = Speech2TextFeatureExtractor(do_ceptral_normalize=False)
    for wave in (rng.normal(0, 0.1, samples), np.zeros(samples)):
        wave = wave.astype(np.float32)
        expected = extractor(wave, sampling_rate=16_000, return_tensors="np")["input_features"][0]
        found = log_mel(wave, extractor)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype and found.flags.c_contiguous
    normalizing = Speech2TextFeatureExtractor()
    np.testing.assert_allclose(log_mel(wave + rng.random(samples, np.float32), normalizing).mean(0), 0, atol=1e-3)


def killed(target, sources):
    """Work whose process is ended by the system."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_said(tmp_path):
    shards = plan_shards(tmp_path, ["kind"], ["a", "b"], size=1)
    with pytest.raises(
        ValueError, match="One of 2 processes that compute features was killed, perhaps for lack of memory"
    ):
        fill_shards(shards, killed, ["a", "b"], processes=2)


def test_a_full_disk_is_said_and_leaves_nothing_behind(clips, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, limits[1]))
    try:
        with pytest.raises(ValueError, match="Features cannot be written to .*; make room there"):
            build_features(tmp_path, clips, EXTRACTOR, key="clips", processes=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


ENDLESS = """
import os, sys, time
from pathlib import Path
from annot_hf.training.features import fill_shards, plan_shards

def work(target, sources):
    Path(sys.argv[1], sources[0]).write_text(str(os.getpid()))
    time.sleep(600)

fill_shards(plan_shards(sys.argv[1], [], ["a", "b"], size=1), work, ["a", "b"], processes=2)
"""


def test_workers_end_with_the_process_that_started_them(tmp_path):
    main = subprocess.Popen([sys.executable, "-c", ENDLESS, tmp_path])
    try:
        workers = [waited_for(lambda name=name: int((tmp_path / name).read_text())) for name in ("a", "b")]
    finally:
        main.kill()
        main.wait()
    for worker in workers:
        assert waited_for(lambda worker=worker: ended(worker))


def waited_for(found):
    """What a function gives once it gives something."""
    for _ in range(1200):
        try:
            if value := found():
                return value
        except (OSError, ValueError):
            pass
        time.sleep(0.1)
    return None


def ended(process):
    """Whether there is no such process, or it is only waiting to be asked how it ended."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_transposed_frames_are_kept_as_they_are(tmp_path):
    """What the extractor of Whisper gives is (bands, T), and safetensors writes memory as it lies."""
    frames = [np.arange(12, dtype=np.float16).reshape(4, 3).T, np.arange(8, dtype=np.float16).reshape(4, 2).T]
    shard = Shard(tmp_path / "features-0.safetensors", np.array([1, 0]))
    write_shard(shard.path, frames)
    store = FeatureStore([shard])
    np.testing.assert_array_equal(store[1], frames[0])
    np.testing.assert_array_equal(store[0], frames[1])
