"""Checks of configuration values, before a model is built from them, and of checkpoint folders."""

import json
import math
import reprlib
import textwrap
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def check_shares(**values: float) -> None:
    """Raise a ValueError that names the first value outside [0, 1]."""
    for name, value in values.items():
        if not _is_number(value) or not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}; it is a share from 0 to 1.")


def check_counts(least: int = 1, **values: int) -> None:
    """Raise a ValueError that names the first value that is not a whole number or is below `least`."""
    for name, value in values.items():
        if not _is_number(value, Integral) or value < least:
            raise ValueError(f"{name} is {value!r}; it must be a whole number, {least} or more.")


def check_choices(allowed: Sequence[str], **values: str) -> None:
    """Raise a ValueError that names the first value that is not one of `allowed`."""
    for name, value in values.items():
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; use one of {', '.join(allowed)}.")


def check_not_negative(**values: float) -> None:
    """Raise a ValueError that names the first value below 0, NaN or infinite."""
    for name, value in values.items():
        if not _is_number(value) or not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}; it must be 0 or more.")


def options_of(config: PreTrainedConfig, *names: str) -> dict[str, Any]:
    """Some options of a configuration by name, as the checks above take them."""
    return {name: getattr(config, name) for name in names}


def check_attention(config: PreTrainedConfig) -> None:
    """Raise a ValueError if a configuration, or one inside it, names an attention that is not built in."""
    # The library loads "owner/name" as code from the Hub, and a `config.json` may contain it.
    name, known = config._attn_implementation, ("eager", "paged|eager", *ALL_ATTENTION_FUNCTIONS.valid_keys())
    if name is not None and (name not in known or "/" in name):
        raise ValueError(
            f"attn_implementation is {name!r} for a {config.model_type}, and may be code on the Hub; use a built-in one, such "
            'as "eager" or "sdpa".'
        )
    for part in config.sub_configs:
        if getattr(config, part, None) is not None:
            check_attention(getattr(config, part))


def read_object(path: Path, fix: str = "restore it") -> dict[str, Any]:
    """The object in a JSON file, or a ValueError that says what is there instead, and ends with the fix."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({said(error)}); {fix}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} cannot be read (it holds {reprlib.repr(found)} and no object); {fix}.")
    return found


def read_checkpoint(
    folder: Path, model_class: type[PreTrainedModel] | None = None, *, give: str, fix: str
) -> tuple[PreTrainedModel, list[str]]:
    """The model in a checkpoint folder, whose code is not run, and the names of weights that do not fit its configuration.

    It is of `model_class` (a member of an ensemble), or any that the Auto classes know; errors end with `give` or `fix`.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a checkpoint folder: it has no config.json; give {give}.")
    kind = read_object(path, fix).get("model_type")
    if model_class is not None and kind != model_class.config_class.model_type:
        raise ValueError(f"{folder} holds a model of type {kind!r}; members are checkpoints of {model_class.__name__}.")
    configs, models = (AutoConfig, AutoModel) if model_class is None else (model_class.config_class, model_class)
    try:
        config = configs.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        # Libraries raise many kinds of errors here, because the file may say anything.
        raise ValueError(f"{path} cannot be read ({said(error)}); {fix}.") from error
    try:
        # Weights of another shape are reported like other differences.
        model, info = models.from_pretrained(
            folder, config=config, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no readable safetensors ({said(error)}); {fix}.") from error
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{path} makes no model ({said(error)}); {fix}.") from error
    return model, odd_weights(info)


def odd_weights(info: Mapping[str, Any]) -> list[str]:
    """Names of the weights that differ between a model and its checkpoint, from the library's `output_loading_info`."""
    return sorted([*info["missing_keys"], *info["unexpected_keys"], *(name for name, *_ in info["mismatched_keys"])])


def said(error: Exception) -> str:
    """An error's message on one line, shortened if it is long."""
    return textwrap.shorten(str(error), 300, placeholder=" ...").removesuffix(".") or type(error).__name__


def _is_number(value: Any, kind: type = Real) -> bool:
    """Whether it is a number of that kind, and not a boolean."""
    return isinstance(value, kind) and not isinstance(value, bool)
