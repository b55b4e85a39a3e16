"""Prediction from files to distributions, against the forward pass of the bare encoder over the same clips."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig

from annot_hf.models.configuration_distribution import DistributionConfig
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.training.inference import predict_inputs
from benchmarks.timing import Result

CLIPS, BATCH, RATE = 48, 8, 16_000


@torch.inference_mode()
def run() -> Iterator[Result]:
    """Decoding, features, batching, head and result may add a tenth to the encoder's own time, on clips of 1.5 to 3 s."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    questions = [{"name": "emotion", "labels": ["angry", "happy", "sad", "neutral"]}]
    model = DistributionModel(DistributionConfig(trunk_config=WavLMConfig(), questions=questions)).eval()
    processor = Wav2Vec2FeatureExtractor(do_normalize=True)
    generator = np.random.default_rng(0)
    waves = [0.1 * generator.normal(size=int(RATE * s)) for s in generator.uniform(1.5, 3, CLIPS)]
    with tempfile.TemporaryDirectory() as home:
        paths = [Path(home) / f"{number}.wav" for number in range(CLIPS)]
        for path, wave in zip(paths, waves, strict=True):
            soundfile.write(path, wave, RATE, subtype="FLOAT")
        order = np.argsort([len(wave) for wave in waves])[::-1]  # the batches that prediction makes
        batches = []
        for start in range(0, CLIPS, BATCH):
            rows = [waves[row].astype(np.float32) for row in order[start : start + BATCH]]
            batches.append(
                processor(rows, sampling_rate=RATE, padding=True, return_tensors="pt", return_attention_mask=True)
            )
        model.trunk(**batches[-1])
        bare = ours = float("inf")
        for _ in range(2):  # in turns, the best of each
            start = time.perf_counter()
            for batch in batches:
                model.trunk(**batch)
            bare = min(bare, time.perf_counter() - start)
            start = time.perf_counter()
            found = predict_inputs(model, processor, [str(path) for path in paths], batch_size=BATCH)
            ours = min(ours, time.perf_counter() - start)
        direct = np.concatenate([model(**batch).probs.numpy() for batch in batches])
    difference = float(abs(found.probs[order] - direct).max())
    yield Result("predict, WavLM-base shape", "bare encoder forward", bare, ours, 1 / 1.10, difference, 1e-4)
