"""Frames computed once and kept: half-precision matrices in safetensors shards, written in parallel, resumable."""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm
from transformers import SequenceFeatureExtractor

from annot_hf.data.audio import AudioLimits, load_audio
from annot_hf.data.conditions import ConditionedClip

logger = logging.getLogger(__name__)

SHARD_ITEMS = 256


class FeatureStore:
    """Frames `(T, D)` of items, read one at a time from memory-mapped shards.

    Args:
        shards: The files that `build_features` wrote, in order.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = [safe_open(shard, framework="numpy") for shard in shards]
        ends = [np.cumsum(shard.get_tensor("lengths")) for shard in self._shards]
        self._ends = [np.concatenate([[0], end]) for end in ends]
        self._frames = [shard.get_slice("frames") for shard in self._shards]
        self.lengths = np.concatenate([np.diff(end) for end in self._ends])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        shard, row = divmod(index, SHARD_ITEMS)
        start, stop = self._ends[shard][row : row + 2]
        return self._frames[shard][int(start) : int(stop)]


def build_features(
    folder: str | os.PathLike[str],
    sources: Sequence[Any],
    extractor: SequenceFeatureExtractor,
    *,
    key: str,
    max_seconds: float = 30.0,
    processes: int | None = None,
) -> FeatureStore:
    """Compute the features of every clip, or go on where an earlier call stopped.

    Args:
        folder: Where features are kept; one sub-folder per key.
        sources: Audio of each clip, as `load_audio` takes it.
        extractor: Feature extractor that gives `input_features`.
        key: Stands for what the clips are and their order (the corpus's digest and the items); with the extractor's
            settings it names the sub-folder. A clip whose file changes is computed again.
        max_seconds: Longest clip that is accepted (s).
        processes: Worker processes; one per core by default.

    Raises:
        AudioError: A clip cannot be read; the message names it.
    """
    settings = json.dumps([key, len(sources), extractor.to_dict()], sort_keys=True, default=str)
    folder = Path(folder) / hashlib.sha256(settings.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    parts = [sources[start : start + SHARD_ITEMS] for start in range(0, len(sources), SHARD_ITEMS)]
    shards = [folder / _shard_name(number, part) for number, part in enumerate(parts)]
    todo = [number for number, shard in enumerate(shards) if not shard.exists()]
    work = functools.partial(_write_shard, extractor, max_seconds)
    targets, parts = [shards[number] for number in todo], [parts[number] for number in todo]
    processes = min(processes or os.cpu_count() or 1, len(targets))
    progress = functools.partial(
        tqdm, total=len(targets), desc="features", unit=f"{SHARD_ITEMS} clips", disable=not targets
    )
    if processes > 1:
        # one thread a process: they fill the cores already, and a forked OpenMP pool can hang
        with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(progress(pool.map(work, targets, parts)))
    else:
        list(progress(map(work, targets, parts)))
    return FeatureStore(shards)


def _stamp(source: Any) -> tuple[Any, ...] | int:
    """What changes when a clip does: size and time of a file, size of embedded bytes, and the acoustic condition."""
    if isinstance(source, ConditionedClip):
        return source.condition, source.item, _stamp(source.source)
    if isinstance(source, str | os.PathLike):
        about = os.stat(source) if os.path.exists(source) else None  # reading it will name the file
        return (about.st_size, about.st_mtime_ns) if about else 0
    return len(source["bytes"] or b"") if isinstance(source, dict) else 0


def log_mel(wave: np.ndarray, extractor: SequenceFeatureExtractor) -> np.ndarray:
    """Log-mel frames `(T, bands)` of a waveform `(samples,)` at the extractor's rate; at least one frame."""
    rate = extractor.sampling_rate
    wave = np.pad(wave, (0, max(0, rate // 20 - len(wave))))  # shorter than one analysis window gives no frame
    return extractor(wave, sampling_rate=rate, return_tensors="np", padding=False)["input_features"][0]


def _write_shard(extractor: SequenceFeatureExtractor, max_seconds: float, target: Path, sources: Sequence[Any]) -> None:
    limits, rate = AudioLimits(max_seconds=max_seconds), extractor.sampling_rate
    frames = []
    for source in sources:
        wave = load_audio(source, sampling_rate=rate, limits=limits)
        frames.append(log_mel(wave, extractor).astype(np.float16))
    lengths = np.array([len(clip) for clip in frames], np.int64)
    partial = target.with_suffix(f".{os.getpid()}.part")
    save_file({"frames": np.concatenate(frames), "lengths": lengths}, partial)
    os.replace(partial, target)


def _shard_name(number: int, sources: Sequence[Any]) -> str:
    """A name that changes with the shard's own clips, so that only their frames are computed again."""
    stamp = hashlib.sha256(repr([_stamp(source) for source in sources]).encode()).hexdigest()[:8]
    return f"features-{number:05d}-{stamp}.safetensors"
