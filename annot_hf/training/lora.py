"""Low-rank adapters (LoRA) on an audio-language model: put on, saved, and merged."""

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME

from annot_hf.models.adapter_files import ADAPTERS, check_finite, find_adapters
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio

if TYPE_CHECKING:
    from peft import PeftModel

    from annot_hf.training.adapted import AdaptedQwen2Audio


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


def add_lora(model: DistributionQwen2Audio) -> "AdaptedQwen2Audio":
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
    from annot_hf.training.adapted import AdaptedQwen2Audio

    adapters = peft.LoraConfig(
        base_model_name_or_path=model.name_or_path or None,
        revision=config.lalm_revision,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=model.lora_targets,
        modules_to_save=list(model.lora_saved),
    )
    return AdaptedQwen2Audio(model, adapters)


def check_sharding(accelerator: Accelerator) -> None:
    """Whether adapters can be trained as `accelerate launch` was told to share out the model.

    Raises:
        ValueError: FSDP checkpoints the activations itself, or DeepSpeed shares out weights of two precisions.
    """
    state, other = (
        accelerator.state,
        "; use ddp.yaml, fsdp2.yaml or deepspeed-zero2.yaml, or train all weights (lora_rank=0).",
    )
    fsdp, deepspeed = getattr(state, "fsdp_plugin", None), state.deepspeed_plugin
    if fsdp is not None and fsdp.activation_checkpointing:
        raise ValueError(
            "fsdp_activation_checkpointing is true, which draws the dropout of adapters anew in the backward pass and "
            "hides their names from the checkpoint; set it to false and activation_checkpointing to true" + other
        )
    if deepspeed is not None and deepspeed.zero_stage == 3 and accelerator.mixed_precision != "no":
        raise ValueError(
            "DeepSpeed ZeRO 3 takes weights of one precision, and adapters have another than what they sit on" + other
        )


def save_lora(model: "PeftModel", folder: str | os.PathLike[str], *, weights: dict[str, Any] | None = None) -> None:
    """Write adapters and head to a folder of their own, and beside it configuration and code.

    The weights they sit on stay in the checkpoint that they came from. The folder loads with `AutoModel.from_pretrained`,
    also from the Hub; with `PeftModel.from_pretrained(base, folder, subfolder="adapter")`.

    Args:
        model: From `add_lora`.
        folder: Folder to write.
        weights: All weights of the model, if several processes hold parts of them.
    """
    inner = Path(folder) / ADAPTERS
    load_library().PeftModel.save_pretrained(model, inner, state_dict=weights, save_embedding_layers=False)
    (inner / "README.md").unlink(missing_ok=True)  # a form with nothing filled in
    model.get_base_model().save_config(folder)


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
    found = find_adapters(folder) if folder.is_dir() else None
    if found is None:
        raise ValueError(f"{folder} has no adapters; give output_dir/model of a run with lora_rank above 0.")
    if out.exists():
        raise ValueError(f"{out} is there already; name another folder, or remove it.")
    peft, inner = load_library(), folder / found.subfolder
    try:
        with safe_open(inner / ADAPTER_SAFE_WEIGHTS_NAME, "pt") as file:
            names = set(file.keys())
        model = peft.PeftModel.from_pretrained(DistributionQwen2Audio.from_pretrained(folder, adapters=False), inner)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"The adapters of {folder} for {found.base} cannot be read ({type(error).__name__}: {error}); restore what is "
            "missing."
        ) from None
    odd = sorted(names ^ set(peft.get_peft_model_state_dict(model, save_embedding_layers=False)))
    if odd:
        raise ValueError(
            f"{folder} has {len(odd)} adapter weights too few or too many, for instance {odd[0]}; restore it."
        )
    check_finite(model, folder)
    model = model.merge_and_unload()
    save_model(model, make_processor(model.config, folder), read_facts(folder), out)
    return out
