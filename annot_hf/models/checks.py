"""Checks of configuration values, before a model is built from them."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from transformers import PreTrainedConfig
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


def _is_number(value: Any, kind: type = Real) -> bool:
    """Whether it is a number of that kind, and not a boolean."""
    return isinstance(value, kind) and not isinstance(value, bool)
