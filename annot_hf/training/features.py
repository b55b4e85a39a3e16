"""Cached frames: half-precision matrices in safetensors shards, written in parallel, resumable."""

import functools
import hashlib
import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm
from transformers import SequenceFeatureExtractor

from annot_hf.data.audio import AudioLimits, MixedClip, load_audio
from annot_hf.data.conditions import ConditionedClip
from annot_hf.models.waves import log_mel

logger = logging.getLogger(__name__)

SHARD_ITEMS = 256


@dataclass(frozen=True, eq=False)
class Shard:
    """A file that holds the frames of some of the items, `rows`, in their order; it appears in one step."""

    path: Path
    rows: np.ndarray


class FeatureStore:
    """Frames `(T, D)` of items, read one at a time from memory-mapped shards, all of them written.

    `stamp` names the shards, and with them the content of the items and all that their frames depend on.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        names = [f"{shard.path.parent.name}/{shard.path.name}" for shard in shards]
        self.stamp = hashlib.sha256("\n".join(names).encode()).hexdigest()
        files = [safe_open(shard.path, framework="numpy") for shard in shards]
        lengths = [file.get_tensor("lengths") for file in files]
        items = np.concatenate([shard.rows for shard in shards])
        stops = np.concatenate([np.cumsum(part) for part in lengths])
        self._frames = [file.get_slice("frames") for file in files]
        self.lengths, self._stops, self._files = (np.empty(len(items), np.int64) for _ in range(3))
        self.lengths[items], self._stops[items] = np.concatenate(lengths), stops
        self._files[items] = np.repeat(np.arange(len(files)), [len(part) for part in lengths])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        stop = int(self._stops[index])
        return self._frames[self._files[index]][stop - int(self.lengths[index]) : stop]


def plan_shards(
    folder: str | os.PathLike[str],
    settings: Sequence[Any],
    sources: Sequence[Any],
    *,
    order: np.ndarray | None = None,
    size: int | None = None,
) -> list[Shard]:
    """Which file of `folder` holds which items, taken in `order`; at most `size` (`SHARD_ITEMS` by default) are in one.

    The settings, for JSON, are all that the features depend on besides the items, whose content is in a shard's name.
    """
    about = json.dumps([*settings, len(sources)], sort_keys=True, default=str)
    folder = Path(folder) / hashlib.sha256(about.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"Features cannot be kept in {folder.parent} ({error.strerror}); name a folder that can be written, with "
            "--features or features=..."
        ) from error
    order, size = np.arange(len(sources)) if order is None else order, size or SHARD_ITEMS
    shards = []
    for number, start in enumerate(range(0, len(order), size)):
        rows = order[start : start + size]
        stamp = hashlib.sha256(repr([_stamp(sources[row]) for row in rows]).encode()).hexdigest()[:8]
        shards.append(Shard(folder / f"features-{number:05d}-{stamp}.safetensors", rows))
    return shards


def write_shard(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Write the frames `(T, D)` of a shard's items in one step, so that a killed process leaves no half file."""
    lengths = np.array([len(clip) for clip in frames], np.int64)
    partial = path.with_suffix(f".{os.getpid()}.part")
    try:
        # safetensors would write the memory of transposed arrays as it lies
        save_file({"frames": np.ascontiguousarray(np.concatenate(frames)), "lengths": lengths}, partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise ValueError(
            f"Features cannot be written to {path.parent} ({error}); make room there, or name another folder for features."
        ) from error


def build_features(
    folder: str | os.PathLike[str],
    sources: Sequence[Any],
    extractor: SequenceFeatureExtractor,
    *,
    key: str,
    max_seconds: float = 30.0,
    processes: int | None = None,
) -> FeatureStore:
    """Compute the log-mel frames of the clips that `key` identifies, in order; an interrupted call is resumed."""
    # with another limit they are computed again, and a clip that is too long is refused
    shards = plan_shards(folder, [key, extractor.to_dict(), max_seconds], sources)
    fill_shards(shards, functools.partial(_write_shard, extractor, max_seconds), sources, processes=processes)
    return FeatureStore(shards)


def fill_shards(
    shards: Sequence[Shard],
    work: Callable[[Path, Sequence[Any]], None],
    sources: Sequence[Any],
    *,
    processes: int | None = None,
    desc: str = "features",
) -> None:
    """Write the missing shards, with one process per core by default; `work` writes one from its path and sources."""
    todo = [shard for shard in shards if not shard.path.exists()]
    targets, parts = [shard.path for shard in todo], [[sources[row] for row in shard.rows] for shard in todo]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = min(processes or cores or 1, len(targets))
    progress = tqdm(total=sum(map(len, parts)), desc=desc, unit="clip", disable=not targets)
    if processes > 1:
        # one thread a process: they fill the cores already, and a forked OpenMP pool can hang
        try:
            with progress, ProcessPoolExecutor(processes, initializer=_start_worker) as pool:
                for part, _ in zip(parts, pool.map(work, targets, parts), strict=True):
                    progress.update(len(part))
        except BrokenProcessPool:
            raise ValueError(
                f"One of {processes} processes that compute {desc} was killed, perhaps for lack of memory; start again with "
                "fewer cores (taskset -c 0 ...), and finished features are kept."
            ) from None
    else:
        with progress:
            for path, part in zip(targets, parts, strict=True):
                work(path, part)
                progress.update(len(part))


def _start_worker() -> None:
    """Use one thread, and exit when the process that started this one is gone, even if it was killed."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _stamp(source: Any) -> Any:
    """What identifies an item's content: size and times of a file, a digest of embedded bytes or of a text, the condition."""
    if isinstance(source, ConditionedClip):
        return source.condition, source.item, _stamp(source.source)
    if isinstance(source, MixedClip):
        return source.share, _stamp(source.first), _stamp(source.second)
    if isinstance(source, dict) and "start" in source:
        return source["start"], source["end"], _stamp({name: source.get(name) for name in ("bytes", "path")})
    if isinstance(source, dict) and source.get("bytes") is None:
        source = source.get("path")
    held = source["bytes"] if isinstance(source, dict) else source
    if isinstance(held, bytes):
        return hashlib.sha256(held).hexdigest()
    if isinstance(held, str | os.PathLike) and os.path.exists(held):
        about = os.stat(held)
        # the last cannot be set, as archives set the other
        return about.st_size, about.st_mtime_ns, about.st_ctime_ns
    # a text, or a file that reading will name
    return hashlib.sha256(str(held).encode()).hexdigest()


def _write_shard(extractor: SequenceFeatureExtractor, max_seconds: float, target: Path, sources: Sequence[Any]) -> None:
    limits, rate = AudioLimits(max_seconds=max_seconds), extractor.sampling_rate
    frames = []
    for source in sources:
        wave = load_audio(source, sampling_rate=rate, limits=limits)
        frames.append(log_mel(wave, extractor).astype(np.float16))
    write_shard(target, frames)
