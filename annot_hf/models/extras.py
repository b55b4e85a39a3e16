"""Packages that few need; an extra of annot-hf installs each."""

import importlib
from types import ModuleType


def needs(package: str, extra: str, what: str) -> ModuleType:
    """Import a package that an extra installs, or raise a ValueError that begins with `what`, such as "Adapters need"."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{what} the package {error.name}, which is not installed; pip install 'annot-hf[{extra}]'."
        ) from error
