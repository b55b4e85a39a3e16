"""The untrained model of a recipe, its processor, and the collator that feeds it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from annot_hf.data.questions import Question
from annot_hf.data.targets import Targets
from annot_hf.models.configuration_annotator import AnnotatorConfig
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.losses import effective_number_weights, inverse_frequency_weights
from annot_hf.models.modeling_annotator import AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio
from annot_hf.models.modeling_opinion import OpinionPreTrainedModel
from annot_hf.models.modeling_seedbert import SeedBert
from annot_hf.models.trunks import PROMPTED, input_name_of
from annot_hf.training.collator import OpinionDataset, VoteCollator
from annot_hf.training.inputs import make_processor
from annot_hf.training.lora import add_lora
from annot_hf.training.recipe import Recipe, Run
from annot_hf.training.recipe_values import LALM, LOG_MEL

MODELS = {
    "distribution": DistributionModel,
    "annotator": AnnotatorModel,
    "seedbert": SeedBert,
    LALM: DistributionQwen2Audio,
}


def build_model(
    run: Run, targets: Targets, scales: Sequence[Question], auxiliary: Sequence[Question]
) -> tuple[OpinionPreTrainedModel, Any]:
    """The untrained model and its processor."""
    if run.recipe.head_seed is not None:
        set_seed(run.recipe.head_seed)
    model_class = MODELS[run.recipe.model]
    options = dict(run.options, questions=[question.to_dict() for question in targets.questions])
    options |= options_from(run, targets)
    if scales:
        options["scale_questions"] = [question.to_dict() for question in scales]
    if auxiliary:
        options["auxiliary_questions"] = [question.to_dict() for question in auxiliary]
    if run.recipe.model == "annotator":
        options["annotators"] = _annotators(targets)
    if run.recipe.model == LALM:
        model = _build_lalm(run, options)
    elif run.recipe.trunk == LOG_MEL:
        model = model_class(model_class.config_class(trunk_config=LogMelConfig(**run.trunk_options), **options))
    else:
        model = model_class.from_trunk(run.recipe.trunk, **options)
    if model.config.support != targets.support:
        raise ValueError(f"The model's support {model.config.support} is not that of the targets {targets.support}.")
    if run.recipe.head_seed is not None:  # what comes now, dropout and all, is that of the other seed
        set_seed(run.training.seed)
    revision = getattr(model.config, "lalm_revision", None)
    processor = make_processor(
        model.config.trunk_config, run.recipe.trunk, max_tokens=run.recipe.max_tokens, revision=revision
    )
    return model, processor


def _build_lalm(run: Run, options: dict[str, Any]) -> Any:
    """An audio-language model, with adapters if the recipe has any; only weights that stay as they are may be bfloat16."""
    adapted = options.get("lora_rank", DistributionQwen2Audio.config_class().lora_rank) > 0
    dtype = torch.bfloat16 if adapted and run.training.bf16 else torch.float32
    revision = options.pop("lalm_revision", None)
    model = DistributionQwen2Audio.from_lalm(run.recipe.trunk, revision=revision, dtype=dtype, **options)
    return add_lora(model) if adapted else model


def options_from(run: Run, targets: Targets) -> dict[str, Any]:
    """Options of the model that follow from what it learns from."""
    options: dict[str, Any] = {"class_weights": _class_weights(run.recipe, targets)}
    if run.options.get("head") == "bayesian" and run.options.get("kl_weight") is None:
        # the rest of the loss is a mean over items, the divergence is of them all
        options["kl_weight"] = 1 / len(targets)
    return options


def _class_weights(recipe: Recipe, targets: Targets) -> list[float] | None:
    """Weights of the labels, from how much of the training targets each has."""
    mass = targets.probs.sum(0)
    if recipe.class_weighting == "effective":
        return effective_number_weights(mass, recipe.class_beta)
    return inverse_frequency_weights(mass) if recipe.class_weighting else None


def _annotators(targets: Targets) -> list[str]:
    """Raters of the training split, those with most answers first."""
    answers = np.bincount(targets.ratings.annotator, minlength=len(targets.annotators))
    order = np.argsort(-answers, kind="stable")
    return [targets.annotators[code] for code in order if answers[code]]


def make_collator(model: OpinionPreTrainedModel, processor: Any) -> VoteCollator:
    """The collator that feeds `model`."""
    config = model.config
    name = input_name_of(config.trunk_config)
    panel = min(len(config.annotators), config.max_panel) if isinstance(config, AnnotatorConfig) else None
    tokenizers = {"input_ids": processor, PROMPTED: getattr(processor, "tokenizer", None)}
    return VoteCollator(name, tokenizers.get(name), panel)


def standardise(model: OpinionPreTrainedModel, dataset: OpinionDataset, clips: int = 512) -> None:
    """Set the trunk's per-band mean and deviation from evenly spaced training clips."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(clips, len(dataset))).astype(int))
    frames = np.concatenate([dataset.read(dataset.inputs[row]).astype(np.float64) for row in rows])
    mean, std = frames.mean(0).round(4).tolist(), (frames.std(0) + 1e-3).round(4).tolist()
    for config in (model.config.trunk_config, *(trunk.config for trunk in model.trunks)):
        config.mel_mean, config.mel_std = mean, std
