"""Keys of a recipe: name, type, default and meaning as the classes that own them state them, and how a value is read."""

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedConfig

from annot_hf.data.yaml_text import SECRET, read_yaml
from annot_hf.models.configuration_opinion import SupportConfig

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_SECRET_NAME = re.compile(r"(?:token|password|secret|api_?key)$", re.IGNORECASE)
# arguments of the configuration classes that training fills in
_FILLED_IN = {"self", "kwargs", "trunk_config", "lalm_config", "adapted_from", "questions", "scale_questions"}
_FILLED_IN |= {"auxiliary_questions", "annotators", "levels", "class_weights"}


@dataclass(frozen=True)
class RecipeKey:
    """A key of a recipe.

    Attributes:
        kind: Type of its value, as annotated.
        default: Its value where a recipe does not set it.
        meaning: What the class that owns it documents.
    """

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
                kinds[field.name], default_of(field), field.metadata.get("help") or meanings[field.name]
            )
            for field in dataclasses.fields(owner)
            if field.init
        }
    bases = [base for base in reversed(owner.__mro__) if issubclass(base, SupportConfig)]
    keys: dict[str, RecipeKey] = {}
    for base in bases or [owner]:
        meanings = _meanings(base)
        for name, parameter in inspect.signature(base.__init__).parameters.items():
            if name not in _FILLED_IN:
                keys[name] = RecipeKey(parameter.annotation, parameter.default, meanings[name])
    return keys


def default_of(field: dataclasses.Field) -> Any:
    """Default value of a dataclass field."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _meanings(owner: type) -> dict[str, str]:
    """Name and text of each entry under `Args:`."""
    lines = inspect.getdoc(owner).partition("Args:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", lines.partition("\n\n")[0], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def coerce(name: str, value: Any, annotation: Any, where: str) -> Any:
    """The value of a key as its type: numbers that YAML reads as text (1e-3) become numbers.

    Raises:
        ValueError: The value is of another type, or none of the choices.
    """
    choices = typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()
    if choices:
        value = coerce(name, value, str, where)
        if value not in choices:
            raise ValueError(f"{where}: {name} is {value!r}; use one of {', '.join(filter(None, choices))}.")
        return value
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    if value is False and name.endswith("_strategy"):
        # which is how YAML reads no
        return "no"
    kinds = set(typing.get_args(annotation) if union else (annotation,))
    rows = {kind for kind in kinds if typing.get_origin(kind) in (list, Sequence)}
    for kind in rows:
        # question: emotion is short for [emotion]
        (entry,) = typing.get_args(kind)
        if isinstance(value, list) or (isinstance(value, str) and entry is str):
            return [coerce(name, part, entry, where) for part in (value if isinstance(value, list) else [value])]
    mappings = {kind for kind in kinds if dict in (kind, typing.get_origin(kind))}
    if mappings and isinstance(value, dict):
        return value
    if kinds - rows - mappings - set(_KINDS) - {types.NoneType} or (value is None and types.NoneType in kinds):
        # TrainingArguments checks the other types
        return value
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
