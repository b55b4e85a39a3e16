"""The keys of a recipe: group, type, default and help text, taken from the classes that own them, and how values are read."""

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedConfig, TrainingArguments

from annot_hf.data.questions import SECRET, nearest, read_yaml
from annot_hf.data.synthetic import VoteOptions
from annot_hf.data.targets import TargetOptions
from annot_hf.models.configuration_annotator import AnnotatorConfig
from annot_hf.models.configuration_distribution import DistributionConfig
from annot_hf.models.configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.configuration_opinion import SupportConfig
from annot_hf.models.configuration_seedbert import SeedBertConfig
from annot_hf.models.losses import effective_number_weights, inverse_frequency_weights
from annot_hf.training.augment import Augmentation
from annot_hf.training.inputs import InputOptions
from annot_hf.training.schedules import EntropyCurriculum, Schedule

# the trunk that needs no checkpoint
LOG_MEL = "log-mel"
# the model that is an audio-language model, and the window of its audio tower (s)
LALM, LALM_SECONDS = "qwen2-audio", 30
CONFIGURATIONS = {
    "distribution": DistributionConfig,
    "annotator": AnnotatorConfig,
    "seedbert": SeedBertConfig,
    LALM: DistributionQwen2AudioConfig,
}
# of a validation pass, and those of which more is better
MEASURES = ("loss", "cross_entropy", "kl", "jsd", "tvd", "macro_f1", "ccc")
GREATER = ("macro_f1", "ccc")
# what suits these models better than the library's own defaults
DEFAULTS = {
    "output_dir": "runs/{date}-{recipe}",
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
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_SECRET_NAME = re.compile(r"(?:token|password|secret|api_?key)$", re.IGNORECASE)
# arguments of the configuration classes that training fills in
_FILLED_IN = {"self", "kwargs", "trunk_config", "lalm_config", "adapted_from", "questions", "scale_questions"}
_FILLED_IN |= {"auxiliary_questions", "annotators", "levels", "class_weights", "marginal", "marginal_share"}
_FILLED_IN |= {"rater_facts", "rater_columns", "onboarded", "votes_per_item"}
# keys that mean nothing unless another one is set
_DEPENDENT = {
    "curriculum.kind": r"curriculum\.",
    "schedule.newbob": r"schedule\.newbob_",
    "augmentation.kind": r"augmentation\.(?!perturb_share|copies)",
}


@dataclass(frozen=True)
class ClassWeights:
    """Weights of the labels in the loss, from how much of the training targets each has.

    Args:
        kind: "effective" number of items (Cui et al. 2019; with loss "cross_entropy" and target "majority" the
            class-balanced cross-entropy of arXiv 2606.27536), "inverse" frequency clipped to [0.25, 5] (its weighted KL),
            or none when empty.
        beta: Beta of "effective".
    """

    kind: Literal["", "effective", "inverse"] = ""
    beta: float = 0.9999

    def of(self, mass: np.ndarray) -> list[float] | None:
        """Weights of the labels, from the sum of the training targets `(K,)`; None where there are none."""
        if self.kind == "effective":
            return effective_number_weights(mass, self.beta)
        return inverse_frequency_weights(mass) if self.kind else None


@dataclass(frozen=True)
class Ensemble:
    """Independent members of a seedbert model.

    Args:
        differ: What they differ in: "init", the fresh weights alone (arXiv 2211.13196), or "all", the order of the items
            and the dropout too: a deep ensemble.
        recipes: A recipe for each member, instead of a seed for each: packaged ones by name, or files. What the ensemble's own
            recipe sets, such as question, trunk or overrides, holds for all of them.
        folder: Where they are kept; `output_dir`/members when empty. Ensembles that name one folder share members.
    """

    differ: Literal["init", "all"] = "init"
    recipes: list[str] = field(default_factory=list)
    folder: str = ""


@dataclass(frozen=True)
class Recipe:
    """Data, question and training of a run; the model's options and the stock `TrainingArguments` are at the top level too.

    Args:
        corpus: Folder of an exported corpus.
        model: Which model: "distribution", "annotator", "seedbert" or "qwen2-audio".
        trunk: "log-mel", or the Hub id or folder of a plain Whisper, WavLM, HuBERT, wav2vec 2.0 or text encoder; for
            "qwen2-audio", of a plain Qwen2-Audio.
        question: The question, or two scale questions, to learn; the corpus's default when empty.
        scales: Scale questions that a distribution model answers too, such as valence; learnt from the mean rating.
        auxiliary: Category questions that a distribution model or the members of an ensemble answer too, such as the same clip
            seen as well as heard; learnt from the fractions of their votes.
        raters: CSV file with a column `annotator` and what else is known of raters, from which an annotator model expects
            part of their answers, those of new raters too. Numbers are standardised, and each word that two raters share is a
            yes or no; what is missing counts as the mean, or as no word, and so does a rater who is not in the file.
        features: Folder for computed log-mel features and for the frames of a frozen trunk; `output_dir`/features when
            empty.
        smooth: Mix the distribution of the training votes into the trained model's predictions, with the share that has the
            least cross-entropy on the validation split, so that no answer given there is impossible. Votes of members
            (seedbert) and of heads stay as they are.
        head_seed: Seed that fresh weights are drawn with (the heads, and a log-mel trunk); `seed` when null, which also
            decides the order of the items and the dropout. Independent members of a seedbert model have seeds of their own.
        target: How targets are made of votes.
        votes: Whose votes it learns from.
        class_weights: Weights of the labels in the loss.
        curriculum: Which items it learns from in which epoch.
        schedule: Tasks, learning rates, unfreezing and early stopping.
        augmentation: Mixtures and perturbed clips.
        inputs: What it reads of an item.
        ensemble: Independent members.
    """

    corpus: str = ""
    model: Literal["distribution", "annotator", "seedbert", "qwen2-audio"] = "distribution"
    trunk: str = LOG_MEL
    question: list[str] = field(default_factory=list)
    scales: list[str] = field(default_factory=list)
    auxiliary: list[str] = field(default_factory=list)
    raters: str = ""
    features: str = ""
    smooth: bool = True
    head_seed: int | None = None
    target: TargetOptions = field(default_factory=TargetOptions)
    votes: VoteOptions = field(default_factory=VoteOptions)
    class_weights: ClassWeights = field(default_factory=ClassWeights)
    curriculum: EntropyCurriculum = field(default_factory=EntropyCurriculum)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    inputs: InputOptions = field(default_factory=InputOptions)
    ensemble: Ensemble = field(default_factory=Ensemble)

    def __post_init__(self) -> None:
        changed = self.changed()
        for name in ("scales", "auxiliary", "curriculum.kind"):
            fit = ("distribution", "seedbert") if name == "auxiliary" else ("distribution",)
            if name in changed and self.model not in fit:
                raise ValueError(f"{name} is for {' and '.join(fit)} models, and model is {self.model}; remove {name}.")
        if self.raters and self.model != "annotator":
            raise ValueError(f"raters is for annotator models, and model is {self.model}; remove raters.")
        asked = [*self.question, *self.scales, *self.auxiliary]
        twice = [name for name in asked if asked.count(name) > 1]
        if twice:
            raise ValueError(
                f"question, scales and auxiliary name {twice[0]!r} twice; a model answers each question once."
            )
        for switch, pattern in _DEPENDENT.items():
            idle = [key for key in changed if re.match(pattern, key) and key != switch]
            if idle and switch not in changed:
                raise ValueError(f"{idle[0]} is set, and there is no {switch}; set {switch}, or remove {idle[0]}.")
        if self.curriculum.kind and self.target.method == "majority":
            raise ValueError(
                "curriculum.kind goes by the entropy of the targets, and target.method is majority, which has none; learn "
                "from soft, smoothed or merged votes, or remove the curriculum."
            )

    def changed(self) -> dict[str, Any]:
        """Keys, groups included, whose values are not the default."""
        found, stock = dataclasses.asdict(self), {name: key.default for name, key in OWN_KEYS.items()}
        return {name: value for name, value in flatten(found, "recipe").items() if value != stock[name]}


@dataclass(frozen=True)
class RecipeKey:
    """A key of a recipe: the type of its value, as annotated, its default, and what the class that owns it documents."""

    kind: Any
    default: Any
    meaning: str

    @property
    def kind_name(self) -> str:
        """The type as text, such as "int | None"; the choices, if there are any."""
        if typing.get_origin(self.kind) is Literal:
            return " | ".join(choice for choice in typing.get_args(self.kind) if choice)
        plain = isinstance(self.kind, type) and not typing.get_args(self.kind)
        return re.sub(r"\b(?:\w+\.)+", "", self.kind.__name__ if plain else str(self.kind))


@functools.cache
def keys_of(owner: type) -> dict[str, RecipeKey]:
    """Keys that a dataclass or a model's configuration class owns; meanings come from `Args:` in its docstring."""
    # a configuration class is a dataclass too, of fields that are no options
    if not issubclass(owner, PreTrainedConfig):
        kinds, meanings = typing.get_type_hints(owner), _meanings(owner)
        return {
            field.name: RecipeKey(
                kinds[field.name],
                field.default if field.default_factory is dataclasses.MISSING else field.default_factory(),
                field.metadata.get("help") or meanings[field.name],
            )
            for field in dataclasses.fields(owner)
            if field.init
        }
    bases = [base for base in reversed(owner.__mro__) if issubclass(base, SupportConfig)]
    keys: dict[str, RecipeKey] = {}
    for base in bases or [owner]:
        parameters = inspect.signature(base.__init__).parameters
        for name, meaning in _meanings(base).items():
            if name not in _FILLED_IN:
                keys[name] = RecipeKey(parameters[name].annotation, parameters[name].default, meaning)
    return keys


def _meanings(owner: type) -> dict[str, str]:
    """Name and text of each entry under `Args:`."""
    lines = inspect.getdoc(owner).partition("Args:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", lines.partition("\n\n")[0], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def coerce(name: str, value: Any, annotation: Any) -> Any:
    """The value of a key as its type, or a ValueError: numbers that YAML reads as text (1e-3) become numbers."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        value = coerce(name, value, str)
        if value not in arguments:
            raise ValueError(f"{name} is {value!r}; use one of {', '.join(filter(None, arguments))}.")
        return value
    if value is False and name.endswith("_strategy"):
        # which is how YAML reads no
        return "no"
    kinds = set(arguments if origin in (types.UnionType, typing.Union) else (annotation,))
    rows = {kind for kind in kinds if typing.get_origin(kind) in (list, Sequence)}
    for kind in rows:
        # question: emotion is short for [emotion]
        (entry,) = typing.get_args(kind)
        if isinstance(value, list) or (isinstance(value, str) and entry is str):
            return [coerce(name, part, entry) for part in (value if isinstance(value, list) else [value])]
    mappings = {kind for kind in kinds if dict in (kind, typing.get_origin(kind))}
    if mappings and isinstance(value, dict):
        return value
    if kinds - rows - mappings - set(_KINDS) - {types.NoneType} or (value is None and types.NoneType in kinds):
        # TrainingArguments checks the other types
        return value
    plain = [kind for kind in _KINDS if kind in kinds]
    if isinstance(value, bool) and bool in kinds:
        return value
    for kind in plain if isinstance(value, str | int | float) and not isinstance(value, bool) else ():
        try:
            converted = int(float(value)) if kind is int else kind(value)
        except (ValueError, OverflowError):
            continue
        if kind is not bool and (kind is not int or converted == float(value)):
            return converted
    expected = [_KINDS[kind] for kind in plain] + ["a list"] * bool(rows) + ["a mapping"] * bool(mappings)
    raise ValueError(f"{name} is {value!r}; it must be {' or '.join(expected)}.")


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` or `--key=value` words as a mapping."""
    values = {}
    for word in words:
        name, sign, value = word.lstrip("-").partition("=")
        if not sign or not name:
            raise ValueError(f"Cannot read the override {word!r}; write key=value, for instance learning_rate=1e-3.")
        if name in values:
            raise ValueError(f"The override {name} is given twice; remove one.")
        # no error may repeat the value, which could be a token
        values[name] = read_yaml(value, f"Cannot read the override {name}; its value")
    return values


def check_secrets(values: Mapping[str, Any], where: str) -> None:
    """Refuse secrets in a recipe, which is saved next to the model; no error repeats them."""
    for name, value in values.items():
        if _holds_secret(str(name), value):
            raise ValueError(
                f"{where}: {name} holds a secret, and a recipe is saved next to the model; remove it, and log in "
                "(hf auth login) or set the environment variable HF_TOKEN."
            )


def _holds_secret(name: str, value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_secret(str(key), part) for key, part in value.items())
    if isinstance(value, list):
        return any(_holds_secret(name, part) for part in value)
    return bool(value and _SECRET_NAME.search(name)) or (isinstance(value, str) and bool(SECRET.search(value)))


GROUPS = {name: key.kind for name, key in keys_of(Recipe).items() if dataclasses.is_dataclass(key.kind)}
# keys of a recipe but for those of the model, its trunk and the stock options
OWN_KEYS = {name: key for name, key in keys_of(Recipe).items() if name not in GROUPS} | {
    f"{group}.{name}": key for group, owner in GROUPS.items() for name, key in keys_of(owner).items()
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


def flatten(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values with the keys of groups as `group.key`, such as curriculum.kind."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in GROUPS and not isinstance(value, Mapping):
            keys = ", ".join(f"{name}.{key}" for key in keys_of(GROUPS[name]))
            raise ValueError(f"{where}: {name} is {value!r}, but it is a group of keys; set {keys}.")
        parts = {f"{name}.{key}": part for key, part in value.items()} if name in GROUPS else {name: value}
        twice = [key for key in parts if key in found]
        if twice:
            raise ValueError(f"{where}: {twice[0]} is given twice; remove one.")
        found |= parts
    return found


def known_keys(values: Mapping[str, Any]) -> dict[str, dict[str, RecipeKey]]:
    """Every key that a recipe with these values may have: its `model` and `trunk` decide which options there are."""
    return {
        "recipe": OWN_KEYS,
        "options": keys_of(CONFIGURATIONS.get(str(values.get("model")), DistributionConfig)),
        "trunk_options": keys_of(LogMelConfig) if values.get("trunk", LOG_MEL) == LOG_MEL else {},
        "training": STOCK_KEYS,
    }


def key_sections() -> dict[str, dict[str, RecipeKey]]:
    """Every key that any recipe may set, by heading; options that models share stand once, and unusable ones not at all."""
    own = keys_of(Recipe)
    sections = {"Data, question and model": {name: key for name, key in own.items() if name not in GROUPS}}
    for group in GROUPS:
        named = {name: key for name, key in OWN_KEYS.items() if name.startswith(f"{group}.")}
        sections[f"{group}: {own[group].meaning.rstrip('.')}"] = named
    takers: dict[tuple[str, RecipeKey], list[str]] = {}
    for model, owner in CONFIGURATIONS.items():
        for option in keys_of(owner).items():
            takers.setdefault(option, []).append(model)
    for (name, key), models in takers.items():
        sections.setdefault(f"Options of model {', '.join(models)}", {})[name] = key
    sections[f"Options of trunk {LOG_MEL}"] = keys_of(LogMelConfig)
    sections["Options of the library's Trainer"] = {n: key for n, key in STOCK_KEYS.items() if n not in UNUSABLE}
    return sections


def nearest_key(name: str, homes: Mapping[str, Mapping[str, RecipeKey]]) -> str:
    """A hint at the key that is meant: one of that name in a group, or else the nearest by its letters."""
    known = [key for keys in homes.values() for key in keys]
    grouped = {key: key.replace(".", "_") for key in known if "." in key}
    plain = str(name).replace(".", "_")
    meant = [key for key, flat in grouped.items() if plain in (flat, key.partition(".")[2])]
    meant = meant or [key for key, flat in grouped.items() if flat.endswith(f"_{plain}")]
    return f" (did you mean {' or '.join(map(repr, meant))}?)" if meant else nearest(name, known)
