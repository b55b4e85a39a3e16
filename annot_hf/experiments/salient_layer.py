"""Saliency of a trunk's layers over a corpus: encode each item once, and keep only running moments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from annot_hf.data.export import check_splits, read_export
from annot_hf.data.targets import opinion_columns
from annot_hf.evaluation.saliency import CrossMoments, Saliency, check_formula, layer_scores
from annot_hf.models.configuration_opinion import OpinionConfig
from annot_hf.models.heads import masked_mean
from annot_hf.models.trunks import (
    WEIGHTED,
    build_trunk,
    check_layer,
    encode_layers,
    load_trunk_weights,
    read_trunk_config,
)
from annot_hf.training.checkpoints import load_model
from annot_hf.training.collator import trunk_collator
from annot_hf.training.inputs import corpus_inputs, make_processor


def measure_saliency(
    source: str | Path,
    corpus: str | Path,
    *,
    split: str = "train",
    items: int = 30_000,
    questions: Sequence[str] = (),
    formula: str = "absolute",
    gamma: float | None = None,
    batch_size: int = 16,
    max_seconds: float = 30.0,
    seed: int = 0,
    revision: str | None = None,
) -> Saliency:
    """Correlate every unit of every layer, averaged over an item's frames, with the votes; see `annot_hf.evaluation.saliency`.

    `source`, a folder or a Hub id at a `revision`, is a plain trunk or a trained checkpoint, whose trunk is then measured.
    Each category of `questions`, by default the corpus's, gives a target per label, each scale its mean rating. Use training
    data.
    """
    gamma = check_formula(formula, gamma)
    if items < 2:
        raise ValueError(f"items is {items}; a correlation needs at least 2.")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give a number of items from 1 up.")
    trunk, processor = _load_trunk(source, revision)
    corpus = read_export(corpus)
    names = tuple(questions) or corpus.default_questions
    check_splits(corpus, [split])
    candidates = corpus.items.loc[corpus.items["split"] == split, "item"].to_numpy(dtype=object)
    targets, columns = opinion_columns(corpus.votes, names, candidates)
    rated = np.flatnonzero(np.isfinite(columns).all(1))
    rows = rated if len(rated) <= items else np.sort(np.random.default_rng(seed).choice(rated, items, replace=False))
    chosen, columns = candidates[rows], columns[rows]
    inputs = corpus_inputs(corpus, chosen, trunk.config, processor, features=None, max_seconds=max_seconds)
    moments = CrossMoments(among_units=formula == "penalised")
    order = np.argsort(-inputs.lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    collator = trunk_collator(trunk.config, processor)
    for part in tqdm(batches, desc="saliency", unit="batch"):
        batch = collator.pad([inputs.read(inputs.entries[row]) for row in part])
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


def _load_trunk(source: str | Path, revision: str | None) -> tuple[PreTrainedModel, Any]:
    """A trunk with all its hidden states, and its processor."""
    config = read_trunk_config(source, revision)
    if isinstance(config, OpinionConfig):
        check_layer(config.trunk_config, WEIGHTED)
        if config.trunk_layer == 0:
            raise ValueError(f"{source} has trunk_layer 0 and so no transformer layer; measure the trunk it came from.")
        model, processor, _ = load_model(source, revision=revision)
        return model.trunk, processor
    check_layer(config, WEIGHTED)
    trunk = build_trunk(config, WEIGHTED)
    load_trunk_weights(trunk, source, revision)
    trunk.to("cuda" if torch.cuda.is_available() else "cpu")
    return trunk.eval(), make_processor(config, source, revision=revision)
