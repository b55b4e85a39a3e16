"""Keys and values of a recipe: which there are, and how what YAML or a command line says becomes them."""

import inspect
import types
import typing
from collections.abc import Sequence
from typing import Any

from annot_hf.data.yaml_text import read_yaml
from annot_hf.models.configuration_support import SupportConfig

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
        "lalm_digest",
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
