"""What does not fit together in a recipe: rules between its keys, a sentence each."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from annot_hf.data.questions import nearest
from annot_hf.models.configuration_seedbert import SeedBertConfig
from annot_hf.models.trunks import WEIGHTED
from annot_hf.training.augment import OWN_TRUNK
from annot_hf.training.keys import (
    DEFAULTS,
    GREATER,
    LALM,
    LALM_SECONDS,
    LOG_MEL,
    MEASURES,
    STOCK_KEYS,
    UNUSABLE,
    Recipe,
)

# keys that mean nothing without push_to_hub
HUB_KEYS = ("hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy")


def check_member(values: Mapping[str, Any]) -> None:
    """Raise unless the model of a recipe can be a member of an ensemble."""
    kind, stock = values.get("model", Recipe().model), SeedBertConfig()
    members, answer = values.get("members", stock.members), values.get("distribution", stock.distribution)
    if kind != "distribution" and (kind != "seedbert" or members == "independent" or answer == "votes"):
        found = f", members {members} and distribution {answer}" if kind == "seedbert" else ""
        raise ValueError(
            f"model is {kind}{found}; a member is a distribution model, or a seedbert with shared or lora members and "
            "distribution mean_softmax."
        )
    for name in ("scales", "disagreement", *(("lora_rank",) if kind == "distribution" else ())):
        if values.get(name):
            raise ValueError(
                f"{name} is {values[name]!r}, and a member is a whole model that answers the question alone; remove {name}."
            )


def members_of(recipe: Recipe, options: Mapping[str, Any]) -> str | None:
    """Which kind of members a seedbert model has; None for other models."""
    return options.get("members", SeedBertConfig().members) if recipe.model == "seedbert" else None


def measure_of(given: Mapping[str, Any]) -> str:
    """The measure that chooses the epoch."""
    return str(given.get("metric_for_best_model", DEFAULTS["metric_for_best_model"])).removeprefix("eval_")


def stock_conflicts(given: Mapping[str, Any], recipe: Mapping[str, Any]) -> Iterator[str]:
    """What does not work here of the stock options that a recipe sets: a sentence each."""
    measure = measure_of(given)
    if measure not in MEASURES or (measure == "ccc" and not recipe.get("scales")):
        yield (
            f"metric_for_best_model is {measure!r}{nearest(measure, MEASURES)}; use one of {', '.join(MEASURES)} (ccc needs "
            "scales)."
        )
    if given.get("greater_is_better", measure in GREATER) != (measure in GREATER):
        yield (
            f"greater_is_better is {measure not in GREATER} and metric_for_best_model {measure}, so that the worst epoch "
            "would be kept; remove greater_is_better."
        )
    for name, why in UNUSABLE.items():
        if name in given and given[name] != STOCK_KEYS[name].default:
            yield f"{name} is {given[name]!r}, which {why}."
    if given.get("hub_strategy", "end") != "end":
        yield (
            f"hub_strategy is {given['hub_strategy']!r}, and a run pushes its model once, when it has ended; set it to end, "
            "or remove it."
        )
    for name in HUB_KEYS:
        if name in given and not given.get("push_to_hub"):
            yield f"{name} is set, and there is no push_to_hub; set push_to_hub, or remove {name}."


def conflicts_between(recipe: Recipe, options: Mapping[str, Any], training: TrainingArguments) -> Iterator[str]:
    """What does not fit together between groups, the model's options and the stock ones: a sentence each."""
    changed, tasks = recipe.changed(), recipe.schedule.tasks
    for name in ("schedule.newbob", "schedule.patience"):
        if name in changed and training.eval_strategy == "no":
            yield f"{name} needs validation passes, and eval_strategy is no; set it to epoch."
    if recipe.model == LALM:
        yield from _lalm_conflicts(recipe)
    yield from _lora_conflicts(recipe, options, training)
    yield from _training_conflicts(recipe, training)
    yield from _member_conflicts(recipe, options)
    if recipe.votes.used != "human" and recipe.model == "annotator":
        yield (
            f"model is annotator, which learns each rater's own answers, and votes.kind is {recipe.votes.used}; set model to "
            "distribution, or votes.kind to human."
        )
    if recipe.votes.shuffle_raters and recipe.model != "annotator":
        yield f"votes.shuffle_raters is true and model {recipe.model}, which has no raters; remove votes.shuffle_raters."
    if options.get("aggregate") == "votes" and tasks != "ratings":
        yield f"schedule.tasks is {tasks} and aggregate votes, which have no gradient; set schedule.tasks to ratings."
    yield from _cache_conflicts(recipe, options)
    lora = options.get("members") == "lora" and options.get("freeze_trunk") is None
    for name in ("schedule.trunk_learning_rate", "schedule.unfreeze_epochs"):
        if (options.get("freeze_trunk") or lora) and changed.get(name):
            frozen = "members is lora, whose trunk is frozen" if lora else "freeze_trunk is true"
            yield f"{frozen}, which {name} contradicts; remove one of them."
    yield from _augmentation_conflicts(recipe)


def _lalm_conflicts(recipe: Recipe) -> Iterator[str]:
    """An audio-language model starts from a checkpoint, takes clips of limited length, and has no trunk with heads."""
    if recipe.trunk == LOG_MEL:
        yield f"model is {LALM} and trunk log-mel; set trunk to a plain Qwen2-Audio (Qwen/Qwen2-Audio-7B-Instruct)."
    for name in ("schedule.trunk_learning_rate", "schedule.unfreeze_epochs", "inputs.cache", "inputs.max_tokens"):
        if name in recipe.changed():
            yield f"{name} is for models over a trunk, and model is {LALM}; remove {name}."
    if recipe.augmentation.features == OWN_TRUNK:
        yield f"augmentation.features is trunk, and model {LALM} has none; set it to published, or to a file."
    seconds = recipe.inputs.max_seconds
    if seconds > LALM_SECONDS:
        yield f"inputs.max_seconds is {seconds:g}, and a Qwen2-Audio takes {LALM_SECONDS} s; set it to that or less."


def _lora_conflicts(recipe: Recipe, options: Mapping[str, Any], training: TrainingArguments) -> Iterator[str]:
    """Adapters sit on a pre-trained trunk, whose own weights stay as they are; those of members have rules of their own."""
    if recipe.model == "seedbert":
        return
    for name in ("lora_alpha", "lora_dropout"):
        if name in options and "lora_rank" not in options and recipe.model != LALM:
            yield f"{name} is set, and there is no lora_rank; set lora_rank, or remove {name}."
    if not options.get("lora_rank", 8 if recipe.model == LALM else 0):
        return
    rules = [
        (recipe.trunk == LOG_MEL, "trunk is log-mel; set trunk to a pre-trained one"),
        (options.get("freeze_trunk"), "freeze_trunk is true; remove freeze_trunk"),
        (recipe.schedule.unfreeze_epochs, "schedule.unfreeze_epochs is set; remove schedule.unfreeze_epochs"),
        (
            training.push_to_hub and Path(recipe.trunk).is_dir(),
            "push_to_hub is true, and the base that adapters name is a folder of this machine; set trunk to a Hub id, or "
            "upload what merge_lora writes",
        ),
    ]
    yield from (f"lora_rank is set and {found}, or set lora_rank to 0." for holds, found in rules if holds)


def _member_conflicts(recipe: Recipe, options: Mapping[str, Any]) -> Iterator[str]:
    """Keys of members are for members of that kind; not `ensemble.folder`, which a plan sets for all."""
    members = members_of(recipe, options)
    kind = "model is " + recipe.model if members is None else "members is " + members
    if members != "independent" and "ensemble.differ" in recipe.changed():
        yield (
            f"ensemble.differ is {recipe.ensemble.differ!r} and {kind}, but it is for independent members of a seedbert "
            "model; remove ensemble.differ, or set model to seedbert and members to independent."
        )
    if recipe.ensemble.recipes and (members != "independent" or "num_members" in options):
        found = f"num_members is {options['num_members']}" if members == "independent" else kind
        yield (
            f"ensemble.recipes is set and {found}, but it names one recipe for each independent member of a seedbert model; "
            "remove one of them."
        )
    for name in ("lora_layers", "lora_rank", "lora_alpha", "lora_dropout"):
        if members is not None and (members != "lora" or name == "lora_dropout") and name in options:
            yield (
                f"{name} is {options[name]!r} and {kind}, but only members lora have adapters; remove {name} (of the packaged "
                "recipes only seedbert-lora sets any), or set members to lora."
            )
    if members == "independent" and recipe.head_seed is not None:
        yield (
            f"head_seed is {recipe.head_seed} and members is independent, but each member has a seed of its own, which "
            "follows from seed; remove head_seed, or set seed."
        )


def _cache_conflicts(recipe: Recipe, options: Mapping[str, Any]) -> Iterator[str]:
    """Only what stays the same while the heads learn can be cached."""
    cache, pooling = recipe.inputs.cache, options.get("pooling", "tcgru")
    if cache == "none":
        return
    pooled, weighted = cache == "pooled" and pooling != "mean", options.get("trunk_layer") == WEIGHTED
    rules = [
        (not options.get("freeze_trunk"), "freeze_trunk is False; set freeze_trunk to true"),
        (recipe.trunk == LOG_MEL, "trunk is log-mel, which starts untrained; set trunk to a pre-trained one"),
        (weighted, "trunk_layer is weighted, which takes all layers; set trunk_layer to a number"),
        (pooled, f"pooling is {pooling}, which takes frames; set pooling to mean, or inputs.cache to frames"),
    ]
    yield from (f"inputs.cache is {cache} and {found}." for holds, found in rules if holds)


def _augmentation_conflicts(recipe: Recipe) -> Iterator[str]:
    """Mixtures need a model that learns from them; perturbed clips, one that reads clips anew in every epoch."""
    wanted, log_mel, cache = recipe.augmentation, recipe.trunk == LOG_MEL, recipe.inputs.cache
    if wanted.kind and recipe.model == "annotator":
        yield (
            f"augmentation.kind is {wanted.kind} and model annotator, which learns what each rater answered, and nobody rated "
            "a mixture; remove augmentation.kind, or set model to distribution."
        )
    if wanted.features == OWN_TRUNK and log_mel:
        yield "augmentation.features is trunk and trunk is log-mel, which starts untrained; set it to published."
    if wanted.text == "first" and log_mel:
        yield "augmentation.text is first and trunk is log-mel, which reads no text; remove it, or choose a text trunk."
    if wanted.perturb_share and (log_mel or cache != "none"):
        found, fix = f"inputs.cache is {cache}", "set it to none"
        if log_mel:
            found, fix = "trunk is log-mel", "choose a waveform trunk"
        yield (
            f"augmentation.perturb_share is {wanted.perturb_share} and {found}, so that a clip is computed once and kept; "
            f"{fix}, or remove augmentation.perturb_share."
        )


def _training_conflicts(recipe: Recipe, training: TrainingArguments) -> Iterator[str]:
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
    if training.activation_checkpointing and recipe.trunk == LOG_MEL:
        yield (
            "activation_checkpointing is true, and a log-mel trunk keeps its activations; remove it, or choose a smaller "
            "batch."
        )
    if training.fp16 and training.device.type == "cpu":
        yield "fp16 is true, and a CPU would compute in float32 instead; remove it, or set bf16."
    if recipe.schedule.changes_rates and training.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
        yield (
            f"lr_scheduler_type is {training.lr_scheduler_type.value}, whose rates schedule.newbob and "
            "schedule.unfreeze_epochs cannot change; set it to constant."
        )
