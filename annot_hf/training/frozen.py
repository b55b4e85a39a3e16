"""A frozen trunk encodes every item once; the heads then learn from its cached output.

Frames `(T, H)` of the chosen layer, or their mean over time `(1, H)`, in half precision, in safetensors shards named by
everything they depend on: the trunk's weights and configuration, the layer, the clips. Shards appear in one step, so a
killed run resumes with the next one; processes of a distributed run compute different shards and wait for each other.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from annot_hf.models.heads import masked_mean
from annot_hf.models.modeling_opinion import OpinionPreTrainedModel
from annot_hf.models.trunks import PROVENANCE
from annot_hf.training.collator import VoteCollator
from annot_hf.training.features import FeatureStore, Shard, plan_shards, write_shard
from annot_hf.training.inputs import Inputs

# clips in memory at a time: 64 of 30 s and 768 units are 150 MB
SHARD_ITEMS = 64


def encode_once(
    model: OpinionPreTrainedModel,
    inputs: Inputs,
    collator: VoteCollator,
    *,
    folder: str | Path,
    key: Sequence[str],
    kind: str = "frames",
    batch_size: int = 8,
    dtype: torch.dtype | None = None,
    workers: int = 0,
) -> Inputs:
    """Output of the frozen trunk for every item, computed now or by an earlier call.

    Args:
        model: The model, on the device to compute on; its trunk must not change afterwards.
        inputs: The trunk's inputs.
        collator: Pads them.
        folder: Where frames are kept.
        key: Identifies the items, their order and how they are read; a clip whose file changes is encoded again.
        kind: "frames", or "pooled" for their mean over time.
        batch_size: Items per batch, at most; items of similar length share one.
        dtype: Precision of the trunk's arithmetic under autocast, or None for that of its weights.
        workers: Processes that read audio ahead.

    Returns:
        Inputs for "trunk_frames", with the lengths of the original ones, so that batches are the same with a cache or
        without.

    Raises:
        AudioError: A clip cannot be read.
        ValueError: Frames are too large for half precision.
    """
    state = PartialState()
    settings = [kind, trunk_digest(model), str(dtype), *key]
    # too little memory shows at once
    longest_first = np.argsort(-inputs.lengths, kind="stable")
    shards = plan_shards(folder, settings, inputs.entries, order=longest_first, size=SHARD_ITEMS)
    mine = [shard for shard in shards[state.process_index :: state.num_processes] if not shard.path.exists()]
    if mine:
        _write(mine, model.eval(), inputs, collator, kind, batch_size, dtype, workers, quiet=not state.is_main_process)
    state.wait_for_everyone()
    return replace(inputs, entries=range(len(inputs.entries)), read=FeatureStore(shards).__getitem__)


def trunk_digest(model: OpinionPreTrainedModel) -> str:
    """SHA-256 of everything the frames depend on: the trunk's weights and configuration, and the layer."""
    config = {name: value for name, value in model.trunk.config.to_dict().items() if name not in PROVENANCE}
    digest = hashlib.sha256(json.dumps([config, model.config.trunk_layer], sort_keys=True, default=str).encode())
    for name, weight in sorted(model.trunk.state_dict().items()):
        if name != "masked_spec_embed":
            # only training a trunk uses it, and many checkpoints have a random one
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _write(
    shards: Sequence[Shard],
    model: OpinionPreTrainedModel,
    inputs: Inputs,
    collator: VoteCollator,
    kind: str,
    batch_size: int,
    dtype: torch.dtype | None,
    workers: int,
    *,
    quiet: bool,
) -> None:
    """Encode the items of these shards, one shard after the other; no batch holds items of two."""
    parts = [[shard.rows[at : at + batch_size] for at in range(0, len(shard.rows), batch_size)] for shard in shards]
    rows = [batch for part in parts for batch in part]
    batches = iter(DataLoader(_Entries(inputs), batch_sampler=rows, collate_fn=collator.pad, num_workers=workers))
    with tqdm(total=sum(map(len, rows)), desc="encode", unit="clip", disable=quiet) as progress:
        for shard, part in zip(shards, parts, strict=True):
            kept: list[np.ndarray] = []
            for batch in part:
                kept += _encode(model, next(batches), kind, dtype)
                progress.update(len(batch))
            if not all(np.isfinite(clip).all() for clip in kept):
                raise ValueError(
                    f"The trunk's frames exceed {np.finfo(np.float16).max:.0f}, the largest number of half precision; set "
                    "inputs.cache to none, or choose another trunk_layer."
                )
            write_shard(shard.path, kept)


@torch.inference_mode()
def _encode(
    model: OpinionPreTrainedModel, batch: dict[str, torch.Tensor], kind: str, dtype: torch.dtype | None
) -> list[np.ndarray]:
    """Frames `(T, H)` or their mean `(1, H)` of each item, half precision."""
    batch = {name: value.to(model.device) for name, value in batch.items()}
    with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
        frames, mask = model.frames(**batch)
        if kind == "pooled":
            frames, mask = masked_mean(frames, mask)[:, None], mask[:, :1]
    frames, lengths = frames.half().cpu().numpy(), mask.sum(1).tolist()
    return [clip[:length].copy() for clip, length in zip(frames, lengths, strict=True)]


class _Entries(Dataset):
    """The inputs one at a time, for a loader."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def __getitem__(self, row: int) -> Any:
        return self.inputs.read(self.inputs.entries[row])
