"""Where low-rank adapters of a checkpoint lie, and what they sit on.

They have a folder of their own beside the configuration: where `adapter_config.json` lies at the top of a repository of the
Hub, `AutoModel` reads the configuration of the checkpoint that it names instead, and drops the head without an error.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils.peft_utils import find_adapter_config_file

ADAPTERS = "adapter"


@dataclass(frozen=True)
class Adapters:
    """Adapters that a folder or a repository holds.

    Attributes:
        base: Hub id or folder of the checkpoint that they sit on.
        revision: Its commit on the Hub.
        subfolder: Where they lie; "" at the top, where `Trainer` and `PeftModel` write them.
    """

    base: str
    revision: str | None
    subfolder: str


def find_adapters(source: str | os.PathLike[str], **hub: Any) -> Adapters | None:
    """The adapters of a folder, or of a repository of the Hub; None if it has none.

    Args:
        source: Folder or Hub id.
        **hub: How files of the Hub are found: `revision`, `token`, `cache_dir`.

    Raises:
        ValueError: They do not say what they are for.
    """
    for subfolder in (ADAPTERS, ""):
        path = find_adapter_config_file(os.fspath(source), subfolder=subfolder, **hub)
        if path is None:
            continue
        try:
            settings = json.loads(Path(path).read_text(encoding="utf-8"))
            base = settings["base_model_name_or_path"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not say what the adapters are for ({error!r}); restore it.") from None
        if not isinstance(base, str) or not base:
            raise ValueError(f"{path} says that the adapters are for {base!r}; restore it.")
        return Adapters(base, settings.get("revision"), subfolder)
    return None


def digest_of(model: nn.Module, values: int = 16) -> str | None:
    """A digest of the first values of every weight, rounded to bfloat16: the same in whatever precision they are read.

    None where that does not hold: weights in half precision, quantised, or not in memory.
    """
    weights = [weight.detach() for weight in model.parameters()]
    if any(weight.is_meta or weight.dtype not in (torch.float32, torch.bfloat16) for weight in weights):
        return None
    first = torch.cat([weight.flatten()[:values].cpu().bfloat16() for weight in weights])
    return hashlib.sha256(first.view(torch.int16).numpy().tobytes()).hexdigest()[:16]


def check_finite(model: nn.Module, source: Any) -> None:
    """Raise a ValueError that names the first weight of adapters, or of the head beside them, that is not finite."""
    for name, weight in model.named_parameters():
        if (".lora_" in name or ".modules_to_save." in name) and not weight.isfinite().all():
            raise ValueError(f"The adapters of {source} are broken: {name} is not finite; restore them.")


@contextlib.contextmanager
def without_report() -> Iterator[None]:
    """The library's loading, without its table of weights, where the caller checks them itself."""

    def hide(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    loggers = [logging.getLogger(f"transformers.{name}") for name in ("modeling_utils", "integrations.peft")]
    for logger in loggers:
        logger.addFilter(hide)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(hide)
