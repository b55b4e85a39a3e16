"""What each member of an ensemble attends to, from a checkpoint and texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedConfig

from annot_hf.data.predictions import Predictions
from annot_hf.data.targets import Targets
from annot_hf.models.configuration_seedbert import SeedBertConfig
from annot_hf.models.measures import entropy
from annot_hf.models.trunks import input_name_of, token_limit
from annot_hf.report.studies import Explanation
from annot_hf.training.checkpoints import load_model


def most_divided(predictions: Predictions, count: int) -> np.ndarray:
    """Names of the items `(count,)` with the highest predicted entropy, in descending order."""
    return predictions.items[np.argsort(-entropy(predictions.probs), kind="stable")[:count]]


def check_explainable(config: PreTrainedConfig, folder: str | Path) -> None:
    """Raise a ValueError unless a checkpoint of this configuration has members with attention on words."""
    if isinstance(config, SeedBertConfig) and input_name_of(config.trunk_config) == "input_ids":
        if config.member_configs:
            raise ValueError(
                f"{folder} has members of different recipes, whose attention is not comparable; explain each of them, or "
                "leave explain out."
            )
        if config.pooling == "tcgru":
            raise ValueError(
                f"{folder} has pooling tcgru, whose GRU does not weight words; explain needs first, mean or attention."
            )
        return
    trunk = getattr(config, "trunk_config", config).model_type
    raise ValueError(
        f"{folder} is of type {config.model_type} over {trunk}; explain shows the words that the members of a seedbert model "
        "over a text trunk attend to; give such a model, or leave explain out."
    )


@torch.inference_mode()
def explain(
    model_folder: str | Path,
    items: Sequence[str],
    texts: Sequence[str],
    targets: Targets | None = None,
    *,
    batch_size: int = 4,
) -> list[Explanation]:
    """Predictions and attention of the members of a `SeedBert` for named texts; `targets` are those of items with votes."""
    model, tokenizer, _ = load_model(model_folder)
    check_explainable(model.config, model_folder)
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer of {model_folder} does not return the offsets of tokens; use a fast tokenizer."
        )
    raters = {}
    if targets is not None:
        order = [targets.support.index(label) for label in model.config.support]
        raters = dict(zip(targets.items, targets.probs[:, order], strict=True))
    options = {"padding": True, "truncation": True, "max_length": token_limit(model.config.trunk_config, tokenizer)}
    found = []
    for start in tqdm(range(0, len(texts), batch_size), desc="explain", unit="batch"):
        part = list(texts[start : start + batch_size])
        batch = tokenizer(part, return_tensors="pt", return_offsets_mapping=True, **options)
        offsets = batch.pop("offset_mapping").numpy()
        real = batch["attention_mask"].bool().numpy()
        output = model(**batch.to(model.device), explain=True)
        attention = output.token_attention.double().cpu().numpy()
        probs = output.member_logits.double().softmax(-1).cpu().numpy()
        for row, text in enumerate(part):
            item, kept = items[start + row], real[row]
            shown = (offsets[row, kept], attention[row][:, kept], probs[row])
            found.append(Explanation(item, text, *shown, raters.get(item)))
    return found
