"""Ranges that configurations check, so that a wrong number is named before a model is built."""


def check_shares(**values: float) -> None:
    """Raise a ValueError that names the first value outside [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it is a share from 0 to 1.")


def check_counts(**values: int) -> None:
    """Raise a ValueError that names the first value below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more.")


def check_not_negative(**values: float) -> None:
    """Raise a ValueError that names the first value below 0 (or NaN)."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; it must be 0 or more.")
