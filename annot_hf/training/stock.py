"""Stock `TrainingArguments` in a recipe: other defaults, and what cannot work with these models."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from annot_hf.data.questions import nearest
from annot_hf.training.keys import RecipeKey, keys_of

# of a validation pass, and those of which more is better
MEASURES = ("loss", "cross_entropy", "kl", "jsd", "tvd", "macro_f1", "ccc")
GREATER = ("macro_f1", "ccc")
# what suits these models better than the library's own defaults
DEFAULTS = {
    "output_dir": "runs/recipe",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "jsd",
    "logging_strategy": "epoch",
    "remove_unused_columns": False,
    "label_names": ["labels"],
    # without CUDA it does nothing but warn
    "dataloader_pin_memory": torch.cuda.is_available(),
}
STOCK_KEYS: dict[str, RecipeKey] = {
    name: dataclasses.replace(key, default=DEFAULTS.get(name, key.default))
    for name, key in keys_of(TrainingArguments).items()
}
# stock options that would fail here, would be ignored, or would change numbers without a word -> what to do instead
UNUSABLE = {
    "label_smoothing_factor": "takes labels for class numbers; set target.method to smoothed",
    "neftune_noise_alpha": "is for language models that are tuned on instructions; remove it",
    "train_sampling_strategy": "would be ignored, as batches hold items of similar length anyway; remove it",
    "length_column_name": "would be ignored, as batches hold items of similar length anyway; remove it",
    "data_seed": "would be ignored, as seed decides the order of the items too; set seed",
    "remove_unused_columns": "drops what the collator reads; remove it",
    "label_names": "follows from what the model learns; remove it",
    "prediction_loss_only": "leaves validation without its measures; remove it",
    "include_for_metrics": "gathers what no measure uses; remove it",
    "batch_eval_metrics": "averages measures that are of the whole validation split; remove it",
    "eval_do_concat_batches": "leaves the measures nothing to read; remove it",
    "dataloader_drop_last": "leaves the last items out of training and of validation; remove it",
    "dataloader_in_order": "gives batches in another order every time; remove it",
    "auto_find_batch_size": "changes the batch size in the middle of a run; set per_device_train_batch_size",
    "resume_from_checkpoint": "would be ignored; resume with --resume",
    "do_train": "would be ignored, as train always trains; remove it",
    "do_predict": "would be ignored; predict when the run has ended",
    "use_cache": "is for models that generate text; remove it",
    "use_liger_kernel": "replaces layers of language models; remove it",
    "liger_kernel_config": "replaces layers of language models; remove it",
    "hub_always_push": "pushes checkpoints, and a run pushes its model once, when it has ended; remove it",
}


def set_direction(training: dict[str, Any], scales: Any, where: str) -> None:
    """Set which way the measure that chooses the epoch is better, if it is one; CCC needs scales."""
    measure = str(training.get("metric_for_best_model", DEFAULTS["metric_for_best_model"]))
    measure = measure.removeprefix("eval_")
    if measure not in MEASURES or (measure == "ccc" and not scales):
        raise ValueError(
            f"{where}: metric_for_best_model is {measure!r}{nearest(measure, MEASURES)}; use one of {', '.join(MEASURES)} "
            "(ccc needs scales)."
        )
    if training.setdefault("greater_is_better", measure in GREATER) != (measure in GREATER):
        raise ValueError(
            f"{where}: greater_is_better is {measure not in GREATER} and metric_for_best_model {measure}, so that the worst "
            "epoch would be kept; remove greater_is_better."
        )


def check_stock(given: Mapping[str, Any], where: str) -> None:
    """Whether the stock options that a recipe sets work here."""
    for name, why in UNUSABLE.items():
        if name in given and given[name] != STOCK_KEYS[name].default:
            raise ValueError(f"{where}: {name} is {given[name]!r}, which {why}.")
    if given.get("hub_strategy", "end") != "end":
        raise ValueError(
            f"{where}: hub_strategy is {given['hub_strategy']!r}, and a run pushes its model once, when it has ended; set it "
            "to end, or remove it."
        )
    idle = [name for name in ("hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy") if name in given]
    if idle and not given.get("push_to_hub"):
        raise ValueError(
            f"{where}: {idle[0]} is set, and there is no push_to_hub; set push_to_hub, or remove {idle[0]}."
        )


def training_conflicts(training: TrainingArguments, *, log_mel: bool, changes_rates: bool) -> Iterator[str]:
    """The weights that are trained are those that are saved, and something is trained."""
    for name in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(training, name):
            yield (
                f"{name} is true, which turns the weights themselves into half precision, as they would be saved; remove it, "
                f"and set {name.removesuffix('_full_eval')} instead."
            )
    for name in sorted(set(training.report_to) - set(get_available_reporting_integrations())):
        yield (
            f"report_to is {name}, which is not installed or is no integration of transformers; install it, or remove "
            "report_to."
        )
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(training, name) < 1:
            yield f"{name} is {getattr(training, name)}; it is a whole number, 1 or more."
    if training.max_steps == 0 or (training.max_steps < 0 and not training.num_train_epochs > 0):
        name = "num_train_epochs" if training.max_steps else "max_steps"
        yield f"{name} is {getattr(training, name):g}, which trains nothing; set it above 0."
    if training.activation_checkpointing and log_mel:
        yield (
            "activation_checkpointing is true, and a log-mel trunk keeps its activations; remove it, or choose a smaller "
            "batch."
        )
    if training.fp16 and training.device.type == "cpu":
        yield "fp16 is true, and a CPU would compute in float32 instead; remove it, or set bf16."
    if changes_rates and training.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
        yield (
            f"lr_scheduler_type is {training.lr_scheduler_type.value}, whose rates schedule.newbob and "
            "schedule.unfreeze_epochs cannot change; set it to constant."
        )
