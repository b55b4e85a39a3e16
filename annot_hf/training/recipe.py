"""One flat YAML file says everything about a run: data and targets, architecture, optimisation.

Keys and values of a recipe: which there are, and how what YAML or a command line says becomes them.

What the keys of a recipe must be together, checked before a corpus or a trunk is read.
"""

import dataclasses
import inspect
import json
import logging
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from annot_hf.data.audio import AudioLimits
from annot_hf.data.conditions import Perturbation
from annot_hf.data.dime import Partners, TextRule
from annot_hf.data.export import ExportedCorpus
from annot_hf.data.questions import nearest
from annot_hf.data.synthetic import read_annotation_facts
from annot_hf.data.targets import MajorityOf, Ties
from annot_hf.data.yaml_text import SECRET, read_yaml
from annot_hf.models.configuration_annotator import AnnotatorConfig
from annot_hf.models.configuration_distribution import DistributionConfig
from annot_hf.models.configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.configuration_opinion import SupportConfig
from annot_hf.models.configuration_seedbert import SeedBertConfig
from annot_hf.models.trunks import WEIGHTED, weights_digest
from annot_hf.training.schedules import CURRICULA, NEWBOB, EntropyCurriculum, StagedLearning

LOG_MEL = "log-mel"  # the trunk that needs no checkpoint
LALM = "qwen2-audio"  # the model that is an audio-language model
CACHES = ("frames", "pooled")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def parameters_of(config: type) -> dict[str, Any]:
    """Option names and annotations of a configuration class that a recipe may set."""
    outside = (
        "self",
        "kwargs",
        "trunk_config",
        "lalm_config",
        "adapted_from",
        "questions",
        "scale_questions",
        "auxiliary_questions",
        "annotators",
        "class_weights",
    )
    return {
        name: parameter.annotation
        for name, parameter in inspect.signature(config.__init__).parameters.items()
        if name not in outside
    }


def options_of(config: type[SupportConfig]) -> dict[str, Any]:
    """Option names and annotations of a configuration class and of those it extends."""
    classes = [base for base in reversed(config.__mro__) if issubclass(base, SupportConfig)]
    return {name: kind for base in classes for name, kind in parameters_of(base).items()}


def coerce(name: str, value: Any, annotation: Any, where: str) -> Any:
    """Numbers that YAML reads as text (1e-3) become numbers; a wrong kind is an error that names the key."""
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    if value is False and name.endswith("_strategy"):
        return "no"  # which YAML reads as false
    kinds = set(typing.get_args(annotation) if union else (annotation,))
    rows = {kind for kind in kinds if typing.get_origin(kind) in (list, Sequence)}
    for kind in rows:  # conv_channels: [16, 32]; question: emotion is short for [emotion]
        (entry,) = typing.get_args(kind)
        if isinstance(value, list) or (isinstance(value, str) and entry is str):
            return [coerce(name, part, entry, where) for part in (value if isinstance(value, list) else [value])]
    mappings = {kind for kind in kinds if dict in (kind, typing.get_origin(kind))}
    if mappings and isinstance(value, dict):
        return value
    if kinds - rows - mappings - set(_KINDS) - {types.NoneType} or (value is None and types.NoneType in kinds):
        return value  # what else there is, TrainingArguments checks
    plain = [kind for kind in _KINDS if kind in kinds]
    for kind in plain:
        try:
            if isinstance(value, bool) or kind is bool:
                fitting = isinstance(value, bool) and kind is bool
                converted = value
            else:
                converted = int(float(value)) if kind is int else kind(value)
                fitting = isinstance(value, str | int | float) and (kind is not int or converted == float(value))
        except (TypeError, ValueError, OverflowError):
            continue
        if fitting:
            return converted
    expected = [_KINDS[kind] for kind in plain] + ["a list"] * bool(rows) + ["a mapping"] * bool(mappings)
    raise ValueError(f"{where}: {name} is {value!r}; it must be {' or '.join(expected)}.")


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` or `--key=value` words as a mapping."""
    values = {}
    for word in words:
        name, sign, value = word.lstrip("-").partition("=")
        if not sign or not name:
            raise ValueError(f"Cannot read the override {word!r}; write key=value, for instance learning_rate=1e-3.")
        if name in values:
            raise ValueError(f"The override {name} is given twice; remove one.")
        # the value stays unsaid: it may be a token
        values[name] = read_yaml(value, f"Cannot read the override {name}; its value")
    return values


LALM_SECONDS = 30  # one window of its audio tower
# stock options that would fail here, would be ignored, or would change numbers without a word -> what to do instead
_UNUSABLE = {
    "label_smoothing_factor": "takes labels for class numbers; set target to smoothed",
    "neftune_noise_alpha": "is for language models that are tuned on instructions; remove it",
    "train_sampling_strategy": "would be ignored, as batches hold items of similar length anyway; remove it",
    "length_column_name": "would be ignored, as batches hold items of similar length anyway; remove it",
    "data_seed": "would be ignored, as seed decides the order of the items too; set seed",
    "remove_unused_columns": "drops what the collator reads; remove it",
    "label_names": "follows from what the model learns; remove it",
    "prediction_loss_only": "leaves validation without its measures; remove it",
    "include_for_metrics": "gathers what no measure looks at; remove it",
    "batch_eval_metrics": "averages measures that are of the whole validation split; remove it",
    "eval_do_concat_batches": "leaves the measures nothing to read; remove it",
    "dataloader_drop_last": "leaves the last items out of training and of validation; remove it",
    "dataloader_in_order": "gives batches in another order every time; remove it",
    "auto_find_batch_size": "goes on with another batch size after some steps; set per_device_train_batch_size",
    "resume_from_checkpoint": "would be ignored; go on by --resume",
    "do_train": "would be ignored, as train always trains; remove it",
    "do_predict": "would be ignored; predict when the run has ended",
    "use_cache": "is for models that generate text; remove it",
    "use_liger_kernel": "replaces layers of language models; remove it",
    "liger_kernel_config": "replaces layers of language models; remove it",
    "hub_always_push": "pushes checkpoints, and a run pushes its model once, when it has ended; remove it",
}
_SECRET_NAME = re.compile(r"(?:token|password|secret|api_?key)$", re.IGNORECASE)


def check_options(
    config: type[SupportConfig],
    recipe: "Recipe",
    options: Mapping[str, Any],
    trunk_options: Mapping[str, Any],
    where: str,
) -> None:
    """Let the configuration check its options before a corpus or a trunk is read; stand-ins for what these will say."""
    options = dict(options, questions=[{"name": "question", "labels": ["a", "b"]}])
    if recipe.trunk != LOG_MEL:
        options.pop(
            "trunk_layer", None
        )  # how many layers there are, and whether they take adapters, the checkpoint knows
        options |= {"members": "shared"} if options.get("members") == "lora" else {}
        options.pop("attention_heads", None)  # how wide it is, likewise
    if recipe.class_weighting:
        options["class_weights"] = [1.0, 1.0]
    if recipe.scales:
        options["scale_questions"] = [{"name": name, "low": 0, "high": 1} for name in recipe.scales]
    try:
        config(**({} if recipe.model == LALM else {"trunk_config": LogMelConfig(**trunk_options)}), **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def check_members(recipe: "Recipe", options: Mapping[str, Any], where: str) -> None:
    """What is said of members is for members of that kind; `member_folder` is not looked at, which a plan sets for all."""
    members = options.get("members", SeedBertConfig().members) if recipe.model == "seedbert" else None
    kind = "model is " + recipe.model if members is None else "members is " + members
    unset = {entry.name: entry.default for entry in dataclasses.fields(recipe)}
    if members != "independent" and recipe.members_differ != unset["members_differ"]:
        raise ValueError(
            f"{where}: members_differ is {recipe.members_differ!r} and {kind}, but it is for independent members of a "
            "seedbert model; remove members_differ, or set model to seedbert and members to independent."
        )
    for name in ("lora_layers", "lora_rank", "lora_alpha", "lora_dropout"):
        if members is not None and (members != "lora" or name == "lora_dropout") and name in options:
            raise ValueError(
                f"{where}: {name} is {options[name]!r} and {kind}, but only members lora have adapters; remove {name} (of "
                "the packaged recipes only seedbert-lora sets any), or set members to lora."
            )
    if members == "independent" and recipe.head_seed is not None:
        raise ValueError(
            f"{where}: head_seed is {recipe.head_seed} and members is independent, but each member has a seed of its own, "
            "which follows from seed; remove head_seed, or set seed."
        )


def check_secrets(values: Mapping[str, Any], where: str) -> None:
    """A recipe is written beside the model, so that nothing secret may stand in it; no message repeats it."""
    for name, value in values.items():
        if _holds_secret(str(name), value):
            raise ValueError(
                f"{where}: {name} holds a secret, and a recipe is written beside the model; remove it, and log in "
                "(hf auth login) or set the environment variable HF_TOKEN."
            )


def _holds_secret(name: str, value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_secret(str(key), part) for key, part in value.items())
    if isinstance(value, list):
        return any(_holds_secret(name, part) for part in value)
    return bool(value and _SECRET_NAME.search(name)) or (isinstance(value, str) and bool(SECRET.search(value)))


def check_stock(given: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
    """Whether the stock options that a recipe gives can do here what they say."""
    for name, why in _UNUSABLE.items():
        if given.get(name, defaults[name]) != defaults[name]:
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


def check_training(recipe: "Recipe", training: "TrainingArguments", where: str) -> None:
    """What the trainer does to a model, and what is saved, are the same."""
    for name in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(training, name):
            raise ValueError(
                f"{where}: {name} is true, which turns the weights themselves into half precision, as they would be saved; "
                f"remove it, and set {name.removesuffix('_full_eval')} instead."
            )
    missing = sorted(set(training.report_to) - set(get_available_reporting_integrations()))
    if missing:
        raise ValueError(
            f"{where}: report_to is {missing[0]}, which is not installed or is no integration of transformers; install it, or "
            "remove report_to."
        )
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(training, name) < 1:
            raise ValueError(f"{where}: {name} is {getattr(training, name)}; it is a whole number, 1 or more.")
    if training.max_steps == 0 or (training.max_steps < 0 and not training.num_train_epochs > 0):
        name = "num_train_epochs" if training.max_steps else "max_steps"
        raise ValueError(f"{where}: {name} is {getattr(training, name):g}, which trains nothing; set it above 0.")
    if training.activation_checkpointing and recipe.trunk == LOG_MEL:
        raise ValueError(
            f"{where}: activation_checkpointing is true, and a log-mel trunk keeps its activations; remove it, or choose a "
            "smaller batch."
        )
    if training.fp16 and training.device.type == "cpu":
        raise ValueError(f"{where}: fp16 is true, and a CPU would compute in float32 instead; remove it, or set bf16.")
    if recipe.make_staging() and training.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
        raise ValueError(
            f"{where}: lr_scheduler_type is {training.lr_scheduler_type.value}, whose rates newbob and unfreeze_epochs cannot "
            "change; set it to constant."
        )


def check_lalm(recipe: "Recipe", where: str) -> None:
    """An audio-language model starts from a checkpoint, hears so long, and is no trunk with heads on it."""
    if recipe.model != LALM:
        return
    if recipe.trunk == LOG_MEL:
        raise ValueError(
            f"{where}: model is {LALM} and trunk log-mel; set trunk to a plain Qwen2-Audio, such as "
            "Qwen/Qwen2-Audio-7B-Instruct."
        )
    unset = {entry.name: entry.default for entry in dataclasses.fields(recipe)}
    idle = ("trunk_learning_rate", "cache_features", "max_tokens")
    found = [name for name in idle if getattr(recipe, name) != unset[name]]
    found += [name for name in ("unfreeze_epochs", "unfreeze_layers", "unfreeze_factors") if getattr(recipe, name)]
    if found:
        raise ValueError(f"{where}: {found[0]} is for models over a trunk, and model is {LALM}; remove {found[0]}.")
    if recipe.augment_features == "trunk":
        raise ValueError(
            f"{where}: augment_features is trunk, and model {LALM} has none that encodes clips; set it to published, or to a "
            "file."
        )
    if recipe.max_seconds > LALM_SECONDS:
        raise ValueError(
            f"{where}: max_seconds is {recipe.max_seconds:g}, and a Qwen2-Audio hears {LALM_SECONDS} s; set max_seconds to as "
            "much at most."
        )


def check_lora(recipe: "Recipe", options: Mapping[str, Any], training: "TrainingArguments", where: str) -> None:
    """Adapters sit on a pre-trained trunk, whose own weights stay as they are."""
    idle = [name for name in ("lora_alpha", "lora_dropout") if name in options and "lora_rank" not in options]
    if recipe.model == "seedbert":
        return
    if idle and recipe.model != LALM:
        raise ValueError(f"{where}: {idle[0]} is set, and there is no lora_rank; set lora_rank, or remove {idle[0]}.")
    rules = {
        "trunk is log-mel": (recipe.trunk == LOG_MEL, "set trunk to a pre-trained one"),
        "freeze_trunk is true": (options.get("freeze_trunk"), "remove freeze_trunk"),
        "unfreeze_epochs is set": (recipe.unfreeze_epochs, "remove unfreeze_epochs"),
        "push_to_hub is true, and the base that adapters name is a folder of this machine": (
            training.push_to_hub and Path(recipe.trunk).is_dir(),
            "set trunk to a Hub id, or upload what merge_lora writes",
        ),
    }
    for found, (holds, fix) in rules.items():
        if holds and options.get("lora_rank", 8 if recipe.model == LALM else 0):
            raise ValueError(f"{where}: lora_rank is set and {found}; {fix}, or set lora_rank to 0.")


def check_frozen(recipe: "Recipe", options: Mapping[str, Any], where: str) -> None:
    """A trunk that stays frozen has no learning rate and no stages."""
    lora = options.get("members") == "lora" and options.get("freeze_trunk") is None
    for name in ("trunk_learning_rate", "unfreeze_epochs"):
        if (options.get("freeze_trunk") or lora) and getattr(recipe, name):
            frozen = "members is lora, whose trunk is frozen" if lora else "freeze_trunk is true"
            raise ValueError(f"{where}: {frozen}, which {name} contradicts; remove one of them.")


def check_votes(recipe: "Recipe", options: Mapping[str, Any], where: str) -> None:
    """Votes of heads have no gradient, so only the raters' answers teach."""
    if options.get("aggregate") == "votes" and recipe.task_schedule != "ratings":
        raise ValueError(
            f"{where}: task_schedule is {recipe.task_schedule} and aggregate votes, which have no gradient; set task_schedule "
            "to ratings."
        )


def check_annotations(recipe: "Recipe", where: str) -> None:
    """Synthetic votes are there where they are asked for, and go with the model."""
    kind = recipe.kind_of_votes
    if not recipe.annotations:
        set_anyway = {"votes": kind != "human", "synthetic_weight": recipe.synthetic_weight != 1}
        for name in (name for name, is_set in set_anyway.items() if is_set):
            raise ValueError(
                f"{where}: {name} is {getattr(recipe, name)!r}, and there are no annotations; set annotations to a folder "
                f"that annot-hf annotate wrote, or remove {name}."
            )
    if not 0 < recipe.synthetic_weight < math.inf:
        raise ValueError(
            f"{where}: synthetic_weight is {recipe.synthetic_weight}; it is a finite number above 0 (for none of their votes, "
            "set votes to human)."
        )
    if recipe.synthetic_weight != 1 and kind != "combined":
        raise ValueError(
            f"{where}: synthetic_weight is {recipe.synthetic_weight} and votes is {kind}, where nothing is weighed against "
            "them; remove synthetic_weight, or set votes to combined."
        )
    if kind == "human":
        return
    if recipe.model == "annotator":
        raise ValueError(
            f"{where}: model is annotator, which learns each person's own answers, and votes is {kind}; set model to "
            "distribution, or votes to human."
        )
    try:
        read_annotation_facts(recipe.annotations)  # a wrong folder shows before anything is trained
    except ValueError as error:
        raise ValueError(f"{where}: annotations: {error}") from None


def check_cache(recipe: "Recipe", options: Mapping[str, Any], where: str) -> None:
    """Whether what is to be kept of the trunk stays the same while the heads learn."""
    if recipe.cache_features == "none":
        return
    rules = {
        f"freeze_trunk is {options.get('freeze_trunk', False)}": (options.get("freeze_trunk"), "freeze_trunk to true"),
        "trunk is log-mel, which starts untrained": (recipe.trunk != LOG_MEL, "trunk to a pre-trained one"),
        "trunk_layer is weighted, which takes all layers": (
            options.get("trunk_layer") != WEIGHTED,
            "trunk_layer to a number",
        ),
        f"pooling is {options.get('pooling', 'tcgru')}, which takes frames": (
            recipe.cache_features == "frames" or options.get("pooling") == "mean",
            "pooling to mean, or cache_features to frames",
        ),
    }
    for found, (holds, fix) in rules.items():
        if not holds:
            raise ValueError(f"{where}: cache_features is {recipe.cache_features} and {found}; set {fix}.")


def check_perturb(recipe: "Recipe", where: str) -> None:
    """Clips that are computed once and kept are the same in every epoch."""
    kept = {
        "trunk is log-mel": (recipe.trunk == LOG_MEL, "choose a waveform trunk"),
        f"cache_features is {recipe.cache_features}": (recipe.cache_features != "none", "set it to none"),
    }
    for found, (holds, fix) in kept.items():
        if recipe.perturb_share and holds:
            raise ValueError(
                f"{where}: perturb_share is {recipe.perturb_share} and {found}, so that what is heard of a clip is computed "
                f"once and kept; {fix}, or remove perturb_share."
            )


def check_augment(recipe: "Recipe") -> None:
    """Whether mixtures can be planned, and whether the model can learn from them."""
    if not recipe.augment:
        return
    if not 0 < recipe.augment_share <= 1:
        raise ValueError(
            f"augment_share is {recipe.augment_share}; it is a part of the largest class, above 0 and up to 1, such as .3."
        )
    if recipe.augment_neighbours < 1:
        raise ValueError(f"augment_neighbours is {recipe.augment_neighbours}; it counts other items, from 1 up.")
    if recipe.model == "annotator":
        raise ValueError(
            f"augment is {recipe.augment} and model annotator, which learns what each rater answered, and nobody rated a "
            "mixture; remove augment, or set model to distribution."
        )
    if recipe.augment_features == "trunk" and recipe.trunk == LOG_MEL:
        raise ValueError(
            "augment_features is trunk and trunk is log-mel, which starts untrained; set augment_features to published."
        )
    if recipe.augment_text == "first" and recipe.trunk == LOG_MEL:
        raise ValueError(
            "augment_text is first and trunk is log-mel, which reads no text; remove augment_text, or choose a text trunk."
        )
    if recipe.augment_features not in ("published", "trunk") and not Path(recipe.augment_features).is_file():
        raise ValueError(
            f"augment_features is {recipe.augment_features!r}, and there is no such file; write one with write_features, or "
            "set it to published or trunk."
        )


logger = logging.getLogger(__name__)

RECIPES = Path(__file__).parent.parent / "recipes"
CONFIGURATIONS = {
    "distribution": DistributionConfig,
    "annotator": AnnotatorConfig,
    "seedbert": SeedBertConfig,
    LALM: DistributionQwen2AudioConfig,
}
MEASURES = ("loss", "cross_entropy", "kl", "jsd", "tvd", "macro_f1", "ccc")  # of a validation pass
ELSEWHERE = {  # keys that say where things lie and what is logged, and not what a run is
    "annotations",  # what they hold is in the record beside
    "corpus",
    "features",
    "member_folder",
    "output_dir",
    "report_to",
    "run_name",
    "disable_tqdm",
    "logging_strategy",
    "logging_steps",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "hub_strategy",
}
GREATER = ("macro_f1", "ccc")  # of which more is better

# What suits these models better than the library's own defaults; a recipe may say otherwise.
_TRAINING_DEFAULTS = {
    "output_dir": "runs/recipe",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "jsd",
    "logging_strategy": "epoch",
    "remove_unused_columns": False,
    "label_names": ["labels"],
    "dataloader_pin_memory": torch.cuda.is_available(),  # elsewhere it does nothing but warn
}
_STOCK = {
    entry.name: entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
    for entry in dataclasses.fields(TrainingArguments)
}


@dataclass
class Recipe:
    """Data, question and targets of a run; the model's options and the optimisation stand beside it.

    Args:
        corpus: Folder of an exported corpus.
        model: "distribution", "annotator", "seedbert" or "qwen2-audio".
        trunk: "log-mel", or the Hub id or folder of a plain WavLM, HuBERT, wav2vec 2.0 or text encoder; for "qwen2-audio",
            of a plain Qwen2-Audio.
        question: The question, or two scale questions, to learn; the corpus's default when empty.
        target: Target method of `make_targets`; "soft" for a category and "kde" for scales when empty.
        smoothing: Pseudo-votes of target "smoothed".
        annotations: Folder of synthetic votes on the corpus (see `annot_hf.data.synthetic`); none when empty.
        votes: Whose votes it learns from: "human", "synthetic" or "combined"; when empty "combined" with `annotations` and
            "human" without. "synthetic" never sees a person's vote, also not for choosing the epoch, which goes by synthetic
            votes of the validation split; the other two are validated by people's votes. Tests are against people's votes.
        synthetic_weight: Weight of a synthetic vote in "combined", where a person's is 1.
        scales: Scale questions that a distribution model answers beside, such as valence; learnt from the mean rating.
        auxiliary: Category questions that it answers beside, such as the same clip seen as well as heard; learnt from the
            fractions of their votes.
        class_weighting: Weights of the labels in the loss, from the training targets: "effective" number of items (Cui et
            al. 2019; with loss "cross_entropy" and target "majority" the class-balanced cross-entropy of arXiv
            2606.27536), "inverse" frequency clipped to [0.25, 5] (its weighted KL), or none when empty.
        class_beta: Beta of "effective".
        curriculum: "filter", "weight" (arXiv 2606.27536), "reverse-filter", "reverse-weight", or none when empty; see
            `EntropyCurriculum`, also for the next five.
        curriculum_by: What "filter" compares an item with: "batch", "corpus" or "threshold".
        curriculum_epochs: Epochs at which the share of items changes, from 1.
        curriculum_shares: Share of items from each of these on.
        curriculum_warmup: Epochs without a curriculum before the ramp of "weight" and "threshold".
        curriculum_ramp: Epochs of the ramp, its start and its end included.
        trunk_learning_rate: Learning rate of the trunk; `learning_rate` for all when null.
        newbob: Learning rates fall when the validation loss stops to, from one validation pass to the next: "compose" or
            "overwrite" (see `StagedLearning`), or not when empty. Choose lr_scheduler_type constant beside it.
        newbob_factor: What they fall by.
        newbob_threshold: Relative improvement below which they fall.
        unfreeze_epochs: Finished epochs after which the top layers of the trunk are unfrozen, frozen before; 0 unfreezes
            them from the start. None when empty.
        unfreeze_layers: How many top layers from each of these on.
        unfreeze_factors: Factor of the trunk's learning rate from each of these on; 1 when empty.
        early_stopping_patience: Validation passes without an improvement of `metric_for_best_model` after which training
            ends; 0 for never.
        primary_weight: Share of the primary votes in target "merged", from 0 to 1: .9 is M90 of arXiv 2606.27536.
        ties: How target "majority" breaks ties: "share", "draw", "other" or "guarded" (`annot_hf.data.targets.winners`).
        majority_of: What target "majority" looks at: the "primary" votes, or what "merged" makes of them.
        task_schedule: How an annotator model learns its two tasks: "alternate" takes an optimiser step for each on every
            batch (arXiv 2408.11956), "joint" adds the losses, "ratings" and "distribution" learn one alone.
        max_seconds: Longest clip that is accepted (s).
        max_tokens: Most tokens of a text, special ones included, beyond which it is cut short and counted; as many as the
            trunk takes when null.
        features: Folder for computed log-mel features and for the frames of a frozen trunk; `output_dir`/features when
            empty.
        cache_features: With `freeze_trunk`, encode every clip once and train the heads from what is kept: "frames" of the
            chosen layer, or "pooled", their mean over time, for pooling "mean". Both in half precision.
        perturb_share: Probability, each time a training clip is read, with which one of three is drawn: pitch shifted by up to
            a semitone, tempo changed by up to 5 %, or nothing (arXiv 2601.14620; see `annot_hf.data.conditions`); 0 for
            never. For models that read clips afresh in every epoch; a clip that becomes longer than a model hears is cut.
            `seed`, the item and the epoch fix what is drawn. Validation and prediction hear the clips as they are.
        augment: "dime" mixes items of rare classes of the training split with near items of their class (DiME-Aug, arXiv
            2601.14620; see `annot_hf.data.dime`), or nothing when empty; `seed` draws the mixtures.
        augment_share: Part of the largest class's number that rarer classes are filled up to.
        augment_neighbours: Nearest other items that a partner is drawn from.
        augment_text: Whose text a mixture has, for text trunks: the "dominant" item's, or that of the "first".
        augment_partners: Neighbours of "any" training speaker, or of the "same" one.
        augment_features: What says who is near: the "published" set (72 numbers of a clip, 10 of its text); "trunk", what
            the pre-trained trunk gives before training, averaged over time; or a parquet file of `write_features`.
        head_seed: Seed that fresh weights are drawn with (the heads, and a log-mel trunk); `seed` when null, which also
            decides the order of the items and the dropout. Independent members of a seedbert model have seeds of their own.
        members_differ: What independent members of a seedbert model differ in: "init", the fresh weights alone
            (arXiv 2211.13196), or "all", the order of the items and the dropout too: a deep ensemble.
        member_folder: Where they are kept; `output_dir`/members when empty. Ensembles that name one folder share members.
    """

    corpus: str = ""
    model: str = "distribution"
    trunk: str = LOG_MEL
    question: list[str] = field(default_factory=list)
    target: str = ""
    smoothing: float = 1.0
    annotations: str = ""
    votes: str = ""
    synthetic_weight: float = 1.0
    scales: list[str] = field(default_factory=list)
    auxiliary: list[str] = field(default_factory=list)
    class_weighting: str = ""
    class_beta: float = 0.9999
    curriculum: str = ""
    curriculum_by: str = "batch"
    curriculum_epochs: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 12])
    curriculum_shares: list[float] = field(default_factory=lambda: [0.5, 0.625, 0.75, 0.875, 1.0])
    curriculum_warmup: int = 5
    curriculum_ramp: int = 6
    trunk_learning_rate: float | None = None
    newbob: str = ""
    newbob_factor: float = 0.9
    newbob_threshold: float = 0.0025
    unfreeze_epochs: list[int] = field(default_factory=list)
    unfreeze_layers: list[int] = field(default_factory=list)
    unfreeze_factors: list[float] = field(default_factory=list)
    early_stopping_patience: int = 0
    primary_weight: float = 0.9
    ties: str = "share"
    majority_of: str = "primary"
    task_schedule: str = "alternate"
    max_seconds: float = 30.0
    max_tokens: int | None = None
    features: str = ""
    cache_features: str = "none"
    perturb_share: float = 0.0
    augment: str = ""
    augment_share: float = 0.3
    augment_neighbours: int = 2
    augment_text: str = "dominant"
    augment_partners: str = "any"
    augment_features: str = "published"
    head_seed: int | None = None
    members_differ: str = "init"
    member_folder: str = ""

    def __post_init__(self) -> None:
        choices = {
            "model": tuple(CONFIGURATIONS),
            "members_differ": ("init", "all"),
            "task_schedule": ("alternate", "joint", "ratings", "distribution"),
            "class_weighting": ("", "effective", "inverse"),
            "curriculum": ("", *CURRICULA, *(f"reverse-{kind}" for kind in CURRICULA)),
            "newbob": ("", *NEWBOB),
            "ties": typing.get_args(Ties),
            "majority_of": typing.get_args(MajorityOf),
            "votes": ("", "human", "synthetic", "combined"),
            "cache_features": ("none", *CACHES),
            "augment": ("", "dime"),
            "augment_text": typing.get_args(TextRule),
            "augment_partners": typing.get_args(Partners),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                known = ", ".join(filter(None, allowed))
                raise ValueError(f"{name} is {getattr(self, name)!r}; use one of {known}.")
        for name in ("question", "scales", "auxiliary"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        if self.model != "distribution":
            for name in ("scales", "auxiliary", "curriculum"):
                if getattr(self, name):
                    raise ValueError(f"{name} is for distribution models, and model is {self.model}; remove {name}.")
        asked = [*self.question, *self.scales, *self.auxiliary]
        twice = [name for name in asked if asked.count(name) > 1]
        if twice:
            raise ValueError(
                f"question, scales and auxiliary name {twice[0]!r} twice; a model answers each question once."
            )
        if self.early_stopping_patience < 0:
            raise ValueError(
                f"early_stopping_patience is {self.early_stopping_patience}; it counts validation passes, and 0 is never."
            )
        for switch in ("curriculum", "newbob", "augment"):
            idle = [key for key, value in _defaults(switch).items() if getattr(self, key) != value]
            if idle and not getattr(self, switch):
                raise ValueError(f"{idle[0]} is set, and there is no {switch}; set {switch}, or remove {idle[0]}.")
        if self.curriculum and self.target == "majority":
            raise ValueError(
                "curriculum goes by the entropy of the targets, and target is majority, which has none; learn from soft, "
                "smoothed or merged votes, or remove the curriculum."
            )
        self.make_curriculum()
        self.make_staging()
        Perturbation(self.perturb_share)  # which checks it, as these do
        AudioLimits(max_seconds=self.max_seconds)
        check_augment(self)

    @property
    def kind_of_votes(self) -> str:
        """Whose votes it learns from: "human", "synthetic" or "combined"."""
        return self.votes or ("combined" if self.annotations else "human")

    def make_curriculum(self) -> EntropyCurriculum | None:
        """The curriculum, if the recipe has one."""
        if not self.curriculum:
            return None
        return EntropyCurriculum(
            kind=self.curriculum.removeprefix("reverse-"),
            reverse=self.curriculum.startswith("reverse-"),
            by=self.curriculum_by,
            epochs=tuple(self.curriculum_epochs),
            shares=tuple(self.curriculum_shares),
            warmup=self.curriculum_warmup,
            ramp=self.curriculum_ramp,
        )

    def make_staging(self) -> StagedLearning | None:
        """NewBob and the stages of unfreezing, if the recipe has any."""
        if not (self.newbob or self.unfreeze_epochs or self.unfreeze_layers or self.unfreeze_factors):
            return None
        return StagedLearning(
            self.newbob or None,
            self.newbob_factor,
            self.newbob_threshold,
            self.unfreeze_epochs,
            self.unfreeze_layers,
            self.unfreeze_factors,
        )


def _defaults(switch: str) -> dict[str, Any]:
    """What the keys `switch`_... of a recipe are when nobody sets them."""
    return {
        entry.name: entry.default_factory() if callable(entry.default_factory) else entry.default
        for entry in dataclasses.fields(Recipe)
        if entry.name.startswith(f"{switch}_")
    }


@dataclass
class Run:
    """A recipe ready to run.

    Attributes:
        recipe: Data, question and targets.
        options: Options of the model's configuration.
        trunk_options: Options of the log-mel trunk.
        training: Stock `TrainingArguments`.
        values: Every key as the file and the overrides gave it, for the record.
    """

    recipe: Recipe
    options: dict[str, Any]
    trunk_options: dict[str, Any]
    training: TrainingArguments
    values: dict[str, Any]

    @property
    def pushes(self) -> bool:
        """Whether its model goes to the Hub when it has ended."""
        return self.values.get("push_to_hub", False)

    def record(self, corpus: ExportedCorpus) -> dict[str, Any]:
        """What a run is, as JSON holds it: every key, the corpus, which part of it if not the whole, the trunk's weights."""
        part = {"part": dict(corpus.part)} if corpus.part else {}
        if self.recipe.trunk != LOG_MEL:
            part["trunk"] = weights_digest(self.recipe.trunk, self.options.get("lalm_revision"))
        if self.recipe.kind_of_votes != "human":
            part["annotations"] = read_annotation_facts(self.recipe.annotations)["votes_sha256"]
        # a layer may be named by a file, which may hold another one later
        layer = {"trunk_layer": self.options["trunk_layer"]} if "trunk_layer" in self.values else {}
        said = {"recipe": self.values | layer, "corpus_digest": corpus.digest} | part
        return json.loads(json.dumps(said, default=str))

    def identity(self, corpus: ExportedCorpus) -> dict[str, Any]:
        """What a run is, apart from where things lie and what is logged."""
        said = self.record(corpus)
        return said | {"recipe": {key: value for key, value in said["recipe"].items() if key not in ELSEWHERE}}

    def changes(self, earlier: Mapping[str, Any], corpus: ExportedCorpus, *, aside: Sequence[str] = ()) -> list[str]:
        """Keys that differ from an earlier record, but for where things lie, what is logged and those `aside`."""
        now = self.record(corpus)
        changed = set(_differing(now["recipe"], earlier["recipe"])) - ELSEWHERE - set(aside)
        return [
            *sorted(changed),
            *_differing(now.get("part", {}), earlier.get("part", {})),
            *["the corpus"] * (earlier["corpus_digest"] != corpus.digest),
            *["the annotations"] * (earlier.get("annotations") != now.get("annotations")),
            # earlier versions did not look
            *["the trunk's weights"] * (len({earlier.get("trunk"), now.get("trunk"), None}) > 2),
        ]


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Keys whose values are not the same on both sides."""
    return sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(recipe: str | os.PathLike[str], overrides: Mapping[str, Any] | Sequence[str] = ()) -> Run:
    """Read a recipe, apply overrides, and check every key and value.

    Args:
        recipe: Path of a YAML file, or the name of a recipe that comes with the package.
        overrides: A mapping, or words such as "learning_rate=1e-3" (values are read as YAML).

    A file may name another recipe as `base` and state only what differs.

    Raises:
        ValueError: The file does not exist or is not a flat mapping, a key is unknown (the message offers the nearest),
            or a value does not fit.
    """
    path, values = _read_recipe(recipe)
    overrides = dict(overrides) if isinstance(overrides, Mapping) else read_words(overrides)
    return make_run(_laid_over(values, overrides, path.name), where=os.fspath(path))


def _laid_over(under: dict[str, Any], over: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Values on top of others; another trunk has no use for what those below say of the log-mel one."""
    check_secrets(over, "recipe")  # before a message could repeat one
    if over.get("trunk", LOG_MEL) != LOG_MEL:
        aside = [key for key in under if key in parameters_of(LogMelConfig)]
        if aside:
            logger.warning("trunk is %s: %s of %s left aside.", over["trunk"], ", ".join(aside), name)
        under = {key: value for key, value in under.items() if key not in aside}
    return under | dict(over)


def _read_recipe(recipe: str | os.PathLike[str], above: tuple[Path, ...] = ()) -> tuple[Path, dict[str, Any]]:
    """Path and values of a recipe on top of those of its `base`, which stands beside it or comes with the package."""
    path = Path(recipe)
    if not path.suffix and not path.exists():
        path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise ValueError(
            f"There is no recipe {os.fspath(recipe)!r}{nearest(str(recipe), recipe_names())}; give a YAML file or one of "
            f"{', '.join(recipe_names())}."
        )
    values = read_yaml(path.read_text(encoding="utf-8"), os.fspath(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; a recipe is a flat mapping of keys to values.")
    base = values.pop("base", None)
    if base is None:
        return path, values
    if path.resolve() in above:
        raise ValueError(f"{path} is its own base; name another recipe.")
    beside = path.parent / str(base)
    below, under = _read_recipe(beside if beside.is_file() else str(base), (*above, path.resolve()))
    return path, _laid_over(under, values, below.name)


def make_run(values: Mapping[str, Any], *, where: str = "recipe") -> Run:
    """Check a flat mapping of keys to values and sort it into its three homes."""
    check_secrets(values, where)
    config = CONFIGURATIONS.get(str(values.get("model")), DistributionConfig)
    homes = {
        # not the types of their fields, which the library's parser changes
        "recipe": typing.get_type_hints(Recipe),
        "training": typing.get_type_hints(TrainingArguments),
        "options": options_of(config),
        "trunk_options": parameters_of(LogMelConfig) if values.get("trunk", LOG_MEL) == LOG_MEL else {},
    }
    known = [name for home in homes.values() for name in home]
    parts: dict[str, dict[str, Any]] = {home: {} for home in homes}
    for name, value in values.items():
        home = next((home for home, names in homes.items() if name in names), None)
        if home is None:
            if name in parameters_of(LogMelConfig):
                raise ValueError(
                    f"{where}: {name} is an option of the log-mel trunk, and trunk is {values['trunk']!r}."
                )
            if name == "base":
                raise ValueError(
                    f"{where}: base stands in a recipe file, not among overrides; name {value!r} as the recipe instead."
                )
            raise ValueError(f"{where}: unknown key {name!r}{nearest(name, known)}; remove or correct it.")
        parts[home][name] = coerce(name, value, homes[home][name], where)
    measure = parts["training"].get("metric_for_best_model", _TRAINING_DEFAULTS["metric_for_best_model"])
    measure = str(measure).removeprefix("eval_")
    if measure not in MEASURES or (measure == "ccc" and not parts["recipe"].get("scales")):
        raise ValueError(
            f"{where}: metric_for_best_model is {measure!r}{nearest(measure, MEASURES)}; use one of {', '.join(MEASURES)} "
            "(ccc needs scales)."
        )
    if parts["training"].setdefault("greater_is_better", measure in GREATER) != (measure in GREATER):
        raise ValueError(
            f"{where}: greater_is_better is {measure not in GREATER} and metric_for_best_model {measure}, so that the worst "
            "epoch would be kept; remove greater_is_better."
        )
    check_stock(parts["training"], _STOCK | _TRAINING_DEFAULTS, where)
    if parts["recipe"].get("model") == LALM:  # 7B in float32 fit no common GPU
        parts["training"].setdefault("bf16", torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    if parts["recipe"].get("curriculum") and parts["options"].get("loss") == "ccc":
        raise ValueError(f"{where}: loss is ccc, which has no loss per item for a curriculum to weigh; use kl or jsd.")
    parser = HfArgumentParser((Recipe, TrainingArguments))
    try:
        recipe, training = parser.parse_dict(parts["recipe"] | _TRAINING_DEFAULTS | parts["training"])
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None
    layer = parts["options"].get("trunk_layer")
    if isinstance(layer, str) and layer != WEIGHTED:  # a file that `annot-hf saliency` wrote
        parts["options"]["trunk_layer"], measured = read_layer(layer)
        if measured != recipe.trunk:
            logger.warning("%s was measured on %s, and trunk is %s.", layer, measured, recipe.trunk)
    if training.eval_strategy == "no" and (recipe.newbob or recipe.early_stopping_patience):
        watching = "newbob" if recipe.newbob else "early_stopping_patience"
        raise ValueError(f"{where}: {watching} watches validation passes, and eval_strategy is no; set it to epoch.")
    check_lalm(recipe, where)
    check_lora(recipe, parts["options"], training, where)
    check_training(recipe, training, where)
    check_members(recipe, parts["options"], where)
    check_options(config, recipe, parts["options"], parts["trunk_options"], where)
    check_annotations(recipe, where)
    check_votes(recipe, parts["options"], where)
    check_cache(recipe, parts["options"], where)
    check_frozen(recipe, parts["options"], where)
    check_perturb(recipe, where)
    training.push_to_hub = False  # the library would push every checkpoint, with what lies beside it
    return Run(recipe, parts["options"], parts["trunk_options"], training, dict(values))


def trains_members(run: Run) -> bool:
    """Whether a run is that of an ensemble whose members are trained one by one."""
    return run.recipe.model == "seedbert" and run.options.get("members", SeedBertConfig().members) == "independent"


def members_folder(run: Run) -> Path:
    """Where an ensemble keeps its members."""
    return Path(run.recipe.member_folder or os.path.join(run.training.output_dir, "members"))


def read_layer(path: str | os.PathLike[str]) -> tuple[int, str]:
    """The layer that a saliency.json chose, and the trunk it was measured on.

    Raises:
        ValueError: There is no such file, or it is something else.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        return int(record["trunk_layer"]), str(record["trunk"])
    except OSError:
        raise ValueError(
            f"trunk_layer is {os.fspath(path)!r}, and there is no such saliency file; give a layer's number, 'weighted', or "
            "the saliency.json that annot-hf saliency wrote."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{os.fspath(path)} names no trunk_layer and trunk; give a saliency.json of annot-hf saliency."
        ) from None
