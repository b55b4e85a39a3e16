"""Prediction from files to distributions, against the parts it is made of; and how soon its command is at work."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import Speech2TextFeatureExtractor, Wav2Vec2FeatureExtractor, WavLMConfig

from annot_hf.models.configuration_distribution import DistributionConfig
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.training.checkpoints import save_model
from annot_hf.training.inference import predict_inputs
from benchmarks.timing import Result

BATCH, RATE = 8, 16_000
QUESTIONS = [{"name": "emotion", "labels": ["angry", "happy", "sad", "neutral"]}]
# of 64 clips, so that there are two batches and a bar of progress
STARTED, GOAL = b"predict:", 4.0


@torch.inference_mode()
def run() -> Iterator[Result]:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as home:
        yield _encoder(Path(home), generator)
        yield _log_mel(Path(home), generator)
        yield _start(Path(home))


def _encoder(home: Path, generator: np.random.Generator) -> Result:
    """Decoding, features, batching, head and result may add a tenth to the encoder's own time, on 48 clips of 1.5 to 3 s."""
    model = DistributionModel(DistributionConfig(trunk_config=WavLMConfig(), questions=QUESTIONS)).eval()
    processor = Wav2Vec2FeatureExtractor(do_normalize=True)
    waves = [0.1 * generator.normal(size=int(RATE * s)) for s in generator.uniform(1.5, 3, 48)]
    paths = _write(home, waves)
    order = np.argsort([len(wave) for wave in waves])[::-1]  # the batches that prediction makes
    options = {"sampling_rate": RATE, "padding": True, "return_tensors": "pt", "return_attention_mask": True}
    batches = []
    for start in range(0, len(waves), BATCH):
        batches.append(processor([waves[row].astype(np.float32) for row in order[start : start + BATCH]], **options))

    def bare() -> None:
        for batch in batches:
            model.trunk(**batch)

    times, found = _in_turns(bare, lambda: predict_inputs(model, processor, paths, batch_size=BATCH))
    direct = np.concatenate([model(**batch).probs.numpy() for batch in batches])
    difference = float(abs(found.probs[order] - direct).max())
    return Result("predict, WavLM-base shape", "bare encoder forward", *times, 1 / 1.10, difference, 1e-4)


def _log_mel(home: Path, generator: np.random.Generator) -> Result:
    """1,000 clips of 2 s in at most 1.1 times what decoding, the library's extractor and the forward pass take in a loop."""
    model = DistributionModel(DistributionConfig(questions=QUESTIONS)).eval()
    processor = Speech2TextFeatureExtractor(do_ceptral_normalize=False)
    paths = _write(home, 0.1 * generator.normal(size=(1000, 2 * RATE)))
    save_model(model, processor, {}, home / "model")

    def bare() -> np.ndarray:
        probs = []
        for start in range(0, len(paths), 32):
            waves = [soundfile.read(path, dtype="float32")[0] for path in paths[start : start + 32]]
            probs.append(model(**processor(waves, sampling_rate=RATE, return_tensors="pt")).probs.numpy())
        return np.concatenate(probs)

    times, found = _in_turns(bare, lambda: predict_inputs(model, processor, paths))
    return Result(
        "predict, log-mel, 1,000 clips",
        "decoding, extractor, forward",
        *times,
        1 / 1.10,
        float(abs(found.probs - bare()).max()),
        1e-6,
    )


def _start(home: Path) -> Result:
    """The command `predict` is at its first batch 4 s after it is typed."""
    command = [sys.executable, "-m", "annot_hf", "predict", home / "model", *sorted(home.glob("*.wav"))[:64]]
    seconds = []
    for _ in range(3):
        start, said = time.perf_counter(), b""
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while STARTED not in said and (byte := process.stderr.read(1)):
                said += byte
            seconds.append(time.perf_counter() - start)
            process.stderr.read()
        if process.returncode or STARTED not in said:
            raise RuntimeError(f"predict ended with status {process.returncode}: {said.decode()}")
    return Result("predict, start to first batch", "the goal of 4 s", GOAL, min(seconds), 1.0, 0, 0)


def _write(home: Path, waves: Any) -> list[str]:
    paths = [str(home / f"{number:04}.wav") for number in range(len(waves))]
    for path, wave in zip(paths, waves, strict=True):
        soundfile.write(path, wave, RATE, subtype="FLOAT")
    return paths


def _in_turns(bare: Callable[[], Any], ours: Callable[[], Any]) -> tuple[list[float], Any]:
    """The best of two turns of each in seconds, after a warm-up, and what ours gives."""
    times = [float("inf")] * 2
    bare()
    for _ in range(2):
        for side, call in enumerate((bare, ours)):
            start = time.perf_counter()
            found = call()
            times[side] = min(times[side], time.perf_counter() - start)
    return times, found
