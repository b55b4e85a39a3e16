"""Where low-rank adapters of a checkpoint lie, what they sit on, and whether they fit.

They have a folder of their own beside the configuration: where `adapter_config.json` lies at the top of a repository of the
Hub, `AutoModel` reads the configuration of the checkpoint that it names instead, and drops the head without an error.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
)
from transformers.utils.hub import cached_file, has_file
from transformers.utils.peft_utils import find_adapter_config_file

ADAPTERS = "adapter"
KINDS = {  # what a folder can hold of a model, and the files that tell
    "whole weights": (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME),
    "adapters": (f"{ADAPTERS}/{ADAPTER_CONFIG_NAME}",),
    "adapters at the top": (ADAPTER_CONFIG_NAME,),
}
PREFIX = "base_model.model."  # of every name in a file of adapters
PLAIN = {  # what the numbers of a file mean
    "use_rslora": False,
    "use_dora": False,
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
}


@dataclass(frozen=True)
class Adapters:
    """Adapters that a folder or a repository holds.

    Attributes:
        source: The folder, or the Hub id.
        base: Hub id or folder of the checkpoint that they sit on.
        revision: Its commit on the Hub.
        folder: Folder of `source` that has the configuration; "" at its top.
        subfolder: Where the adapters lie; the same where `Trainer` and `PeftModel` write them.
        path: Where the files are on this machine.
        settings: What `adapter_config.json` says.
        hub: How files of the Hub are found.
    """

    source: str
    base: str
    revision: str | None
    folder: str
    subfolder: str
    path: Path
    settings: Mapping[str, Any]
    hub: Mapping[str, Any] = field(default_factory=dict)


def find_adapters(source: str | os.PathLike[str], *, subfolder: str = "", **hub: Any) -> Adapters | None:
    """The adapters of a folder, or of a repository of the Hub; None if it has none.

    Args:
        source: Folder or Hub id.
        subfolder: Folder in it.
        **hub: How files of the Hub are found: `revision`, `token`, `cache_dir`.

    Raises:
        ValueError: They do not say what they are for, or lie beside whole weights, so that nobody knows which are meant.
    """
    source = os.fspath(source)
    for inner in (os.path.join(subfolder, ADAPTERS), subfolder):
        path = find_adapter_config_file(source, subfolder=inner, **hub)
        if path is None:
            continue
        try:
            settings = json.loads(Path(path).read_text(encoding="utf-8"))
            base = settings["base_model_name_or_path"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not say what the adapters are for ({error!r}); restore it.") from None
        if not isinstance(base, str) or not base:
            raise ValueError(f"{path} says that the adapters are for {base!r}; restore it.")
        asked = {name: value for name, value in hub.items() if name != "force_download"}
        others = {"whole weights": SAFE_WEIGHTS_NAME, "whole weights in parts": SAFE_WEIGHTS_INDEX_NAME}
        if inner != subfolder:
            others["others at the top"] = ADAPTER_CONFIG_NAME
        for what, name in others.items():
            if has_file(source, os.path.join(subfolder, name), **asked):
                raise ValueError(
                    f"{source} has adapters and {what} ({name}), and nobody knows which are meant; remove either."
                )
        return Adapters(source, base, settings.get("revision"), subfolder, inner, Path(path).parent, settings, hub)
    return None


def check_settings(settings: Mapping[str, Any], *, rank: int, alpha: float, targets: str, head: str) -> None:
    """Whether settings of adapters are those that a configuration asks for.

    Raises:
        ValueError: They are not.
    """
    asked = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": targets, "modules_to_save": [head]}
    for name, value in (asked | PLAIN).items():
        if (settings.get(name) or None) != (value or None):
            raise ValueError(f"{name} is {settings.get(name)!r}, where the configuration has {value!r}.")


def check_adapters(found: Adapters, model: nn.Module, *, rank: int, alpha: float, targets: str, head: str) -> None:
    """Whether adapters are those that a model of this configuration would have, all of them and finite.

    Looked at before a model is touched; what a library puts on in part is hard to take off.

    Args:
        found: The adapters.
        model: The model, without adapters.
        rank: Their rank.
        alpha: Their scale.
        targets: Regular expression of the layers that have them.
        head: Name of the module that is kept whole beside them.

    Raises:
        ValueError: They are not.
    """
    try:
        check_settings(found.settings, rank=rank, alpha=alpha, targets=targets, head=head)
    except ValueError as error:
        raise ValueError(
            f"The adapters of {found.source} do not fit the model: {error} Restore config.json or adapter_config.json."
        ) from None
    shapes = {f"{PREFIX}{name}": value.shape for name, value in model.state_dict().items() if name.startswith(head)}
    for name, layer in model.named_modules():
        if re.fullmatch(targets, name):
            shapes[f"{PREFIX}{name}.lora_A.weight"] = torch.Size([rank, layer.in_features])
            shapes[f"{PREFIX}{name}.lora_B.weight"] = torch.Size([layer.out_features, rank])
    try:
        path = cached_file(found.source, ADAPTER_SAFE_WEIGHTS_NAME, subfolder=found.subfolder, **found.hub)
        with safe_open(path, "pt") as file:
            there = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
            odd = sorted(name for name in {*shapes, *there} if shapes.get(name) != there.get(name))
            if odd:
                raise ValueError(
                    f"The adapters of {found.source} do not fit the model: {len(odd)} weights differ, for instance "
                    f"{odd[0].removeprefix(PREFIX)}; restore them."
                )
            broken = [name for name in sorted(there) if not file.get_tensor(name).isfinite().all()]
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{ADAPTER_SAFE_WEIGHTS_NAME} of {found.source} cannot be read ({error}); restore it."
        ) from error
    if broken:
        raise ValueError(
            f"The adapters of {found.source} are broken: {broken[0].removeprefix(PREFIX)} is not finite; restore them."
        )


def digest_of(model: nn.Module, values: int = 64) -> str | None:
    """A digest of values spread over every weight, rounded to bfloat16: the same in whichever precision they are read.

    Adapters on the weights are left out. None where that does not hold: weights in half precision, quantised, not in memory,
    or shared out among processes.
    """
    weights = [weight.detach() for name, weight in model.named_parameters() if ".lora_" not in name]
    if any(
        weight.is_meta or weight.dtype not in (torch.float32, torch.bfloat16) or hasattr(weight, "device_mesh")
        for weight in weights
    ):
        return None
    weights = [weight.flatten() for weight in weights]
    parts = [weight[:: max(1, len(weight) // values)][:values].cpu().bfloat16() for weight in weights]
    return hashlib.sha256(torch.cat(parts).view(torch.int16).numpy().tobytes()).hexdigest()[:16]


def has_adapters(model: nn.Module) -> bool:
    """Whether there are low-rank adapters on a model."""
    return any(".lora_" in name for name, _ in model.named_parameters())


def check_repository(repo_id: str, kind: str, **hub: Any) -> None:
    """As `check_folder`, for a repository of the Hub that is pushed to; one that is not there yet is fine.

    Raises:
        ValueError: It holds something of another kind.
    """
    for other in ("whole weights", "adapters"):
        for name in KINDS[other] if other != kind else ():
            with contextlib.suppress(OSError):  # no such repository
                if has_file(repo_id, name, **hub):
                    raise ValueError(
                        f"{repo_id} holds {other} of a model, and {kind} would lie beside them; name another repository, or "
                        f"remove them there first (hf repo-files delete {repo_id} ...)."
                    )


def check_folder(folder: str | os.PathLike[str], kind: str) -> None:
    """Whether nothing of another kind lies where a model is to be saved; nobody could say later which is meant.

    Args:
        folder: Folder to write.
        kind: What is written, of `KINDS`.

    Raises:
        ValueError: Something does.
    """
    for other, names in KINDS.items():
        if other != kind and any((Path(folder) / name).is_file() for name in names):
            raise ValueError(
                f"{folder} holds {other} of a model, and {kind} would lie beside them; name another folder."
            )


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
