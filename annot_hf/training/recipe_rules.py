"""What the keys of a recipe must be together, checked before a corpus or a trunk is read."""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.integrations import get_available_reporting_integrations

from annot_hf.data.annotations import read_facts
from annot_hf.data.yaml_text import SECRET
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.configuration_seedbert import SeedBertConfig
from annot_hf.models.configuration_support import SupportConfig
from annot_hf.models.trunks import WEIGHTED
from annot_hf.training.recipe_values import LALM, LOG_MEL

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from annot_hf.training.recipe import Recipe

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
    for name in ("members_differ", "member_jobs"):
        if members != "independent" and getattr(recipe, name) != unset[name]:
            raise ValueError(
                f"{where}: {name} is {getattr(recipe, name)!r} and {kind}, but it is for independent members of a seedbert "
                f"model; remove {name}, or set model to seedbert and members to independent."
            )
    for name in ("lora_layers", "lora_rank", "lora_alpha"):
        if members != "lora" and recipe.model != LALM and name in options:
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


def check_lalm(recipe: "Recipe", options: Mapping[str, Any], training: "TrainingArguments", where: str) -> None:
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
    if training.push_to_hub and options.get("lora_rank", 1):
        raise ValueError(
            f"{where}: push_to_hub is true, and checkpoints with adapters are no folders for the Hub; remove it, and upload "
            "output_dir/model when the run has ended."
        )
    if recipe.max_seconds > LALM_SECONDS:
        raise ValueError(
            f"{where}: max_seconds is {recipe.max_seconds:g}, and a Qwen2-Audio hears {LALM_SECONDS} s; set max_seconds to as "
            "much at most."
        )


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
        read_facts(recipe.annotations)  # a wrong folder shows before anything is trained
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
