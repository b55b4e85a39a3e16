"""Saliency of a trunk's layers over a corpus: encode each item once, and keep only running moments."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from annot_hf.data.export import read_export
from annot_hf.data.targets import opinion_columns
from annot_hf.evaluation.saliency import CrossMoments, Saliency, check_formula, layer_scores
from annot_hf.models.configuration_opinion import OpinionConfig
from annot_hf.models.heads import masked_mean
from annot_hf.models.register import register_models
from annot_hf.models.trunks import (
    WEIGHTED,
    build_trunk,
    check_layer,
    encode_layers,
    input_name_of,
    load_trunk_weights,
    read_trunk_config,
)
from annot_hf.training.collator import VoteCollator
from annot_hf.training.inputs import corpus_inputs, make_processor
from annot_hf.training.outputs import load_model


def measure_saliency(
    source: str | Path,
    corpus_folder: str | Path,
    *,
    split: str = "train",
    items: int = 30_000,
    questions: Sequence[str] = (),
    formula: str = "absolute",
    gamma: float | None = None,
    batch_size: int = 16,
    max_seconds: float = 30.0,
    seed: int = 0,
) -> Saliency:
    """Correlate every unit of every layer, averaged over an item's frames, with the votes.

    Args:
        source: Hub id or folder of a plain trunk, or folder of a trained checkpoint, whose trunk is then measured.
        corpus_folder: Folder of an exported corpus.
        split: The split; choose layers on training data.
        items: Largest number of items, drawn at random; the paper uses 30,000 (arXiv 2503.22711).
        questions: Any number of questions; the corpus's default when empty. A category gives a target per label, a scale
            its mean rating.
        formula: "absolute" or "penalised", see `annot_hf.evaluation.saliency`.
        gamma: Weight of the penalty of "penalised", 0.1 when None; "absolute" has none.
        batch_size: Items per batch.
        max_seconds: Longest accepted clip (s).
        seed: Seed of the draw.

    Raises:
        ValueError: The trunk has no choice of layers, or corpus, split or question do not exist.
    """
    gamma = check_formula(formula, gamma)
    if items < 2:
        raise ValueError(f"items is {items}; a correlation needs at least 2.")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give a number of items from 1 up.")
    trunk, processor = _load_trunk(source)
    corpus = read_export(corpus_folder)
    names = tuple(questions) or corpus.default_questions
    candidates = corpus.items.loc[corpus.items["split"] == split, "item"].to_numpy(dtype=object)
    if not len(candidates):
        have = ", ".join(sorted(corpus.items["split"].unique()))
        raise ValueError(f"{corpus.name} has no split {split!r}; it has {have}.")
    targets, columns = opinion_columns(corpus.votes, names, candidates)
    rated = np.flatnonzero(np.isfinite(columns).all(1))
    rows = rated if len(rated) <= items else np.sort(np.random.default_rng(seed).choice(rated, items, replace=False))
    chosen, columns = candidates[rows], columns[rows]
    inputs = corpus_inputs(corpus, chosen, trunk.config, processor, features="", max_seconds=max_seconds)
    moments = CrossMoments(among_units=formula == "penalised")
    order = np.argsort(-inputs.lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    name = input_name_of(trunk.config)
    collator = VoteCollator(name, processor if name == "input_ids" else None)
    entries = [functools.partial(inputs.read, entry) for entry in inputs.entries]
    loader = DataLoader(
        entries, batch_sampler=batches, collate_fn=lambda reads: collator.pad([read() for read in reads])
    )
    for batch, part in zip(tqdm(loader, desc="saliency", unit="batch"), batches, strict=True):
        moments.update(layer_means(trunk, batch), columns[part])
    about = {
        "trunk": str(source),
        "corpus": corpus.name,
        "split": split,
        "questions": list(names),
        "items_without_votes": len(candidates) - len(rated),
    }
    return Saliency(layer_scores(moments, formula, gamma), targets, formula, gamma, moments.count, about)


@torch.inference_mode()
def layer_means(trunk: PreTrainedModel, batch: dict[str, torch.Tensor]) -> np.ndarray:
    """Mean over the real frames of every hidden state `(items, layers, units)`."""
    states, mask = encode_layers(trunk, **{name: value.to(trunk.device) for name, value in batch.items()})
    return torch.stack([masked_mean(state.float(), mask) for state in states], 1).cpu().numpy()


def _load_trunk(source: str | Path) -> tuple[PreTrainedModel, Any]:
    """A trunk with all its hidden states, and its processor."""
    register_models()
    config = read_trunk_config(source)
    if isinstance(config, OpinionConfig):
        check_layer(config.trunk_config, WEIGHTED)
        if config.trunk_layer == 0:
            raise ValueError(f"{source} has trunk_layer 0 and so no transformer layer; measure the trunk it came from.")
        model, processor, _ = load_model(source)
        return model.trunk, processor
    check_layer(config, WEIGHTED)
    trunk = build_trunk(config, WEIGHTED)
    load_trunk_weights(trunk, source)
    trunk.to("cuda" if torch.cuda.is_available() else "cpu")
    return trunk.eval(), make_processor(config, source)
