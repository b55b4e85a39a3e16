"""annot-hf: votes in, a distribution of human opinion out.

Public names are bound when first used, so that `import annot_hf` costs nothing and never loads torch by itself.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "data.questions": ["Question"],
    "data.votes": ["VoteTable"],
    "data.targets": ["Targets", "make_targets"],
}
_HOME_OF = {name: f"annot_hf.{home}" for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'annot_hf' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
