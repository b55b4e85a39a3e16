"""A WavLM-base-shaped trunk: the time of its first layers, and of an epoch from the cache of a frozen one."""

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig

from annot_hf.models.configuration_distribution import DistributionConfig
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.trunks import build_trunk, encode, encode_layers
from annot_hf.training.collator import VoteCollator
from annot_hf.training.datasets import encode_once
from annot_hf.training.inputs import Inputs, read_inputs
from annot_hf.training.recipe import load_recipe
from benchmarks.timing import Result, best

DEPTH, LAYERS = 12, (3, 6, 9)
CLIPS, SECONDS, BATCH = 16, 2.0, 8
# What is kept, the model, and how many epochs of its heads must fit into the encoding: 50, which is 2 %. A TC-GRU whose
# convolution has stride 1 takes twice the steps: its arithmetic alone, forward and backward, is some 4 % of this trunk's.
TCGRU = {name: value for name, value in load_recipe("salient-layer").options.items() if name.startswith("pooling")}
HEADS = {
    "mean of frames": ("frames", {"pooling": "mean"}, 50.0),
    "TC-GRU": ("frames", TCGRU, 50.0),
    "TC-GRU, stride 1": ("frames", TCGRU | {"pooling_stride": 1}, 20.0),
    "mean, pooled": ("pooled", {"pooling": "mean"}, 50.0),
}


def run() -> Iterator[Result]:
    torch.set_num_threads(2)
    yield from early_exit()
    yield from cached_epochs()


@torch.inference_mode()
def early_exit() -> Iterator[Result]:
    """Time of k layers against the front end's plus k twelfths of the rest of the whole trunk."""
    config, whole = WavLMConfig(), build_trunk(WavLMConfig(), "weighted").eval()
    waves = torch.randn(1, int(16_000 * SECONDS))
    states, _ = encode_layers(whole, input_values=waves)
    calls: dict[int, Callable[[], object]] = {}
    differences = {}
    for layer in (0, *LAYERS, DEPTH):
        trunk = build_trunk(config, layer).eval()
        trunk.load_state_dict(whole.state_dict(), strict=False)
        frames, _ = encode(trunk, input_values=waves)
        differences[layer] = float((frames - states[layer]).abs().max())
        calls[layer] = lambda trunk=trunk: encode(trunk, input_values=waves)
    seconds = dict(zip(calls, best(*calls.values(), rounds=4), strict=True))
    for layer in LAYERS:
        share = seconds[0] + (seconds[DEPTH] - seconds[0]) * layer / DEPTH
        yield Result(
            f"trunk, {layer} of {DEPTH} layers",
            "front end + share of layers",
            share,
            seconds[layer],
            0.95,
            differences[layer],
            1e-5,
        )


def cached_epochs() -> Iterator[Result]:
    """A training epoch of the heads from the cache against the encoding of the same clips; parity of the predictions."""
    with tempfile.TemporaryDirectory() as folder:
        rng, paths = np.random.default_rng(0), [Path(folder) / f"{number}.wav" for number in range(CLIPS)]
        for path in paths:
            soundfile.write(path, 0.1 * rng.standard_normal(int(16_000 * SECONDS * rng.uniform(0.8, 1.2))), 16_000)
        encoding: dict[str, float] = {}
        for name, (kind, options, goal) in HEADS.items():
            questions = [{"name": "emotion", "labels": ["angry", "happy", "sad"]}]
            torch.manual_seed(0)
            config = DistributionConfig(
                trunk_config=WavLMConfig(), questions=questions, freeze_trunk=True, embedding_size=256, **options
            )
            model = DistributionModel(config).eval()
            model.trunk.requires_grad_(False)
            inputs = read_inputs(paths, config.trunk_config, Wav2Vec2FeatureExtractor(do_normalize=False))
            collator, start = VoteCollator("input_values"), time.perf_counter()
            kept = encode_once(
                model, inputs, collator, folder=Path(folder) / "cache", key=["clips"], kind=kind, batch_size=BATCH
            )
            encoding.setdefault(kind, time.perf_counter() - start)  # the second head finds the frames there
            cached = VoteCollator("trunk_frames")
            with torch.inference_mode():
                first = [
                    collator.pad([inputs.read(path) for path in paths[:2]]),
                    cached.pad([kept.read(row) for row in (0, 1)]),
                ]
                difference = float((model(**first[0]).probs - model(**first[1]).probs).abs().max())
            weights = [weight for weight in model.train().parameters() if weight.requires_grad]
            epoch = functools.partial(_epoch, model, kept, torch.optim.AdamW(weights))
            (seconds,) = best(epoch, rounds=3)
            yield Result(
                f"epoch from cache, {name}", "encoding the clips", encoding[kind], seconds, goal, difference, 1e-4
            )


def _epoch(model: DistributionModel, kept: Inputs, optimiser: torch.optim.Optimizer) -> None:
    """Every clip once through the heads, forward and backward."""
    for start in range(0, CLIPS, BATCH):
        batch = VoteCollator("trunk_frames").pad([kept.read(row) for row in range(start, start + BATCH)])
        model(**batch, labels=torch.full((BATCH, 3), 1 / 3)).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
