"""Packages that few need; an extra of annot-hf installs each."""

import importlib
from types import ModuleType


def needs(package: str, extra: str, what: str) -> ModuleType:
    """Import a package that an extra installs; `what`, such as "Adapters need", begins the error if it is not there.

    Raises:
        ValueError: It is not installed; the message names the package and the extra.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{what} the package {error.name}, which is not installed; pip install 'annot-hf[{extra}]'."
        ) from error
