"""Ranges that configurations check, so that a wrong number is named before a model is built."""

import math
from numbers import Integral, Real
from typing import Any


def check_shares(**values: float) -> None:
    """Raise a ValueError that names the first value outside [0, 1]."""
    for name, value in values.items():
        if not _is_number(value) or not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}; it is a share from 0 to 1.")


def check_counts(least: int = 1, **values: int) -> None:
    """Raise a ValueError that names the first value that is no whole number or below `least`."""
    for name, value in values.items():
        if not _is_number(value, Integral) or value < least:
            raise ValueError(f"{name} is {value!r}; it must be a whole number, {least} or more.")


def check_not_negative(**values: float) -> None:
    """Raise a ValueError that names the first value below 0, NaN or infinite."""
    for name, value in values.items():
        if not _is_number(value) or not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}; it must be 0 or more.")


def _is_number(value: Any, kind: type = Real) -> bool:
    """Whether it is a number of that kind, and no truth value."""
    return isinstance(value, kind) and not isinstance(value, bool)
