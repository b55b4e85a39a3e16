"""Low-rank adapters (LoRA) on an audio-language model: put on, saved, and merged."""

import json
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from annot_hf.models.modeling_distribution_qwen2_audio import ADAPTER, DistributionQwen2Audio

if TYPE_CHECKING:
    from peft import PeftModel


def load_library() -> ModuleType:
    """The module `peft`.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError(
            f"Adapters need the package {error.name}, which is not installed; pip install 'annot-hf[peft]'."
        ) from error
    return peft


def add_lora(model: DistributionQwen2Audio) -> "PeftModel":
    """The model with the adapters that its configuration asks for; they and the head are trained, nothing else is.

    Adapters are on the query, key, value and output projections of the language model (arXiv 2601.14620), and not on the
    audio tower's, which have the same names.

    Args:
        model: From `DistributionQwen2Audio.from_lalm`; its layers are changed in place.

    Raises:
        ValueError: Its `lora_rank` is 0, or `peft` is not installed.
    """
    config = model.config
    if config.lora_rank < 1:
        raise ValueError(f"lora_rank is {config.lora_rank}, which is no adapter; set it to 1 or more, 8 in the paper.")
    peft = load_library()
    adapters = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=model.lora_targets,
        modules_to_save=list(model.lora_saved),
    )
    return peft.get_peft_model(model, adapters)


def has_lora(folder: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint folder holds adapters instead of whole weights."""
    return (Path(folder) / ADAPTER).is_file()


def base_of(folder: str | os.PathLike[str]) -> str:
    """Hub id or folder of the checkpoint that the adapters of a folder sit on."""
    path = Path(folder) / ADAPTER
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say what the adapters are for ({error}); restore the checkpoint.") from None


def save_lora(model: "PeftModel", folder: str | os.PathLike[str], *, weights: dict[str, Any] | None = None) -> None:
    """Write adapters and head, configuration and code; the weights they sit on stay in the checkpoint they came from.

    Args:
        model: From `add_lora`.
        folder: Folder to write.
        weights: All weights of the model, if several processes hold parts of them.
    """
    base: PreTrainedModel = model.get_base_model()
    model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
    (Path(folder) / "README.md").unlink(missing_ok=True)  # a form with nothing filled in
    base.config.architectures = [type(base).__name__]
    custom_object_save(base, os.fspath(folder), config=base.config)
    base.config.save_pretrained(folder)


def merge_lora(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """A checkpoint folder of whole weights from one of adapters, for publishing: it needs neither `peft` nor the base.

    Merged weights are rounded to the precision of those the adapters sit on; in bfloat16, predictions move a little.

    Args:
        folder: `output_dir`/model of a run with adapters.
        out: Folder to write, of about the size of the base checkpoint.

    Returns:
        `out`.

    Raises:
        ValueError: `folder` holds no adapters, or not all of them, or `out` is there already.
    """
    from annot_hf.training.inference import read_facts
    from annot_hf.training.inputs import make_processor
    from annot_hf.training.train import save_model

    folder, out = Path(folder), Path(out)
    if not has_lora(folder):
        raise ValueError(f"{folder} has no {ADAPTER}; give output_dir/model of a run with lora_rank above 0.")
    if out.exists():
        raise ValueError(f"{out} is there already; name another folder, or remove it.")
    peft, source = load_library(), base_of(folder)
    try:
        base = DistributionQwen2Audio.from_pretrained(folder, adapters=False)
        model = peft.PeftModel.from_pretrained(base, folder)
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            found = set(file.keys())
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(
            f"The adapters of {folder} for {source} cannot be read ({type(error).__name__}: {error}); restore what is missing."
        ) from None
    odd = sorted(found ^ set(peft.get_peft_model_state_dict(model, save_embedding_layers=False)))
    if odd:
        raise ValueError(
            f"{folder} has {len(odd)} adapter weights too few or too many, for instance {odd[0]}; restore it."
        )
    model = model.merge_and_unload()
    save_model(model, make_processor(model.config, folder), read_facts(folder), out)
    return out
