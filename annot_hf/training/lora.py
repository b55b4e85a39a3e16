"""Low-rank adapters (LoRA) on a model: put on, loaded to train further, and merged."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from transformers import AutoModel

from annot_hf.models.adapters import Adaptable, put_on
from annot_hf.models.checks import check_counts
from annot_hf.models.register import register_models
from annot_hf.training.checkpoints import read_facts, save_model
from annot_hf.training.inputs import make_processor

if TYPE_CHECKING:
    from peft import PeftModel


def add_lora(
    model: Adaptable, rank: int | None = None, alpha: float | None = None, dropout: float | None = None
) -> "PeftModel":
    """The model with fresh adapters; they and the heads are trained, nothing else is.

    Train what this returns, with `Trainer` or in your own loop. `save_pretrained` and `push_to_hub` write the adapters, the
    heads and the configuration, which names the base; `AutoModel.from_pretrained` and `load_model` read them.

    Args:
        model: From `from_trunk`, `from_lalm` or `from_pretrained`; its layers are changed in place.
        rank: Rank r of the adapters; `lora_rank` of the configuration when None, as for the next two, or 8 where that is 0.
        alpha: Scale of the adapters: their product is multiplied with alpha / r.
        dropout: Dropout before the adapters, in [0, 1).

    Raises:
        ValueError: The model has adapters already, a frozen trunk or one without adapters; its weights are no longer those
            that it was read with; an option is out of range; or `peft` is not installed.
    """
    config = model.config
    if model.has_adapters:
        raise ValueError("This model has adapters already, which would be lost; train what load_lora(folder) gives.")
    if getattr(config, "freeze_trunk", False):
        raise ValueError("freeze_trunk is true, and adapters in a frozen trunk learn nothing; set it to false.")
    model.check_base()
    given = {"lora_rank": rank, "lora_alpha": alpha, "lora_dropout": dropout}
    chosen = {name: getattr(config, name) if value is None else value for name, value in given.items()}
    chosen["lora_rank"] = 8 if rank is None and not config.lora_rank else chosen["lora_rank"]
    check_counts(lora_rank=chosen["lora_rank"])
    config.set_lora(**chosen)
    return put_on(model)


def load_lora(source: str | os.PathLike[str], **options: Any) -> "PeftModel":
    """What `add_lora` gave and was saved in a folder or on the Hub, to train it further, with options of `from_pretrained`."""
    register_models()
    try:
        return AutoModel.from_pretrained(source, as_peft=True, **options)
    except OSError as error:
        raise ValueError(f"There is neither a folder nor a repository {os.fspath(source)!r} ({error}).") from error


def merge_lora(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """A checkpoint folder of whole weights from one of adapters: it needs neither `peft` nor the base.

    Merged weights are rounded to the precision of those the adapters sit on; in bfloat16, predictions move a little.

    Args:
        folder: `output_dir`/model of a run with adapters.
        out: Folder to write, of about the size of the base; it must not be there.

    Raises:
        ValueError: `folder` holds no adapters, or not all of them, or `out` is there already.
    """
    folder, out = Path(folder), Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already; name another folder, or remove it.")
    model = load_lora(folder).merge_and_unload()
    save_model(model, make_processor(model.config.trunk_config, folder), read_facts(folder), out)
    return out


def check_sharding(accelerator: Accelerator) -> None:
    """A ValueError if adapters cannot be trained as `accelerate launch` was told to shard the model."""
    other = "; use ddp.yaml, fsdp2.yaml or deepspeed-zero2.yaml, or train all weights (lora_rank=0)."
    fsdp, deepspeed = getattr(accelerator.state, "fsdp_plugin", None), accelerator.state.deepspeed_plugin
    if fsdp is not None and fsdp.activation_checkpointing:
        raise ValueError(
            "fsdp_activation_checkpointing is true, which draws the dropout of adapters anew in the backward pass and "
            "hides their names from the checkpoint; set it to false and activation_checkpointing to true" + other
        )
    if deepspeed is not None and deepspeed.zero_stage == 3 and accelerator.mixed_precision != "no":
        raise ValueError(
            "DeepSpeed ZeRO 3 takes weights of one precision, and adapters have another than their base" + other
        )
