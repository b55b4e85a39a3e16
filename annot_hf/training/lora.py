"""Low-rank adapters (LoRA) on an audio-language model: put on, saved, and merged.

`PeftModel` around a `DistributionQwen2Audio`, whose folders say what they are.
"""

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from accelerate import Accelerator
from huggingface_hub import CommitInfo, HfApi
from peft import PeftModel

from annot_hf.models.adapter_files import (
    ADAPTERS,
    check_folder,
    check_repository,
    digest_of,
    find_adapters,
    has_adapters,
)
from annot_hf.models.lalm_checkpoints import HUB
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio


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
        ValueError: Its `lora_rank` is 0, it has adapters already, its weights are no longer those that it was read with, or
            `peft` is not installed.
    """
    config = model.config
    if config.lora_rank < 1:
        raise ValueError(f"lora_rank is {config.lora_rank}, which is no adapter; set it to 1 or more, 8 in the paper.")
    if has_adapters(model):
        raise ValueError("This model has adapters already, which would be lost; go on with them by load_lora(folder).")
    peft = load_library()
    revision, digest = model.came_from or (None, None)
    if digest is not None and digest != digest_of(model.lalm):
        raise ValueError(
            f"The weights are no longer those of {model.name_or_path}, which adapters would name; save the model, and read it "
            "again with from_pretrained before add_lora."
        )
    # the model may be read from a checkpoint of its own, and not from the one that `from_lalm` took
    config.lalm_revision, config.lalm_digest = revision, digest
    base = model.name_or_path if model.came_from else None
    pass

    adapters = peft.LoraConfig(
        revision=revision,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=model.lora_targets,
        modules_to_save=list(model.lora_saved),
    )
    adapted = AdaptedQwen2Audio(model, adapters)
    adapters.base_model_name_or_path = base  # the library takes it from the configuration, also of what was not read
    return adapted


def load_lora(source: str | os.PathLike[str], **options: Any) -> "AdaptedQwen2Audio":
    """What `add_lora` gave and was saved, to train it further.

    Args:
        source: Folder of adapters, or Hub id.
        **options: As `DistributionQwen2Audio.from_pretrained` takes them: `dtype` of the weights below, `revision`, `token`.

    Raises:
        ValueError: There are no adapters, they are damaged, or they do not fit the checkpoint that they name.
    """
    hub = {name: options[name] for name in HUB if options.get(name) is not None}
    try:
        found = find_adapters(source, subfolder=options.get("subfolder") or "", **hub)
    except OSError as error:
        raise ValueError(f"There is neither a folder nor a repository {os.fspath(source)!r} ({error}).") from error
    if found is None:
        raise ValueError(f"{source} has no adapters; give output_dir/model of a run with lora_rank above 0.")
    load_library()
    pass

    base = DistributionQwen2Audio.from_pretrained(source, adapters=False, **options)  # which fetches and checks them
    return AdaptedQwen2Audio.from_pretrained(base, found.path, is_trainable=True)


def check_sharding(accelerator: Accelerator) -> None:
    """Whether adapters can be trained as `accelerate launch` was told to share out the model.

    Raises:
        ValueError: FSDP checkpoints the activations itself, or DeepSpeed shares out weights of two precisions.
    """
    other = "; use ddp.yaml, fsdp2.yaml or deepspeed-zero2.yaml, or train all weights (lora_rank=0)."
    fsdp, deepspeed = getattr(accelerator.state, "fsdp_plugin", None), accelerator.state.deepspeed_plugin
    if fsdp is not None and fsdp.activation_checkpointing:
        raise ValueError(
            "fsdp_activation_checkpointing is true, which draws the dropout of adapters anew in the backward pass and "
            "hides their names from the checkpoint; set it to false and activation_checkpointing to true" + other
        )
    if deepspeed is not None and deepspeed.zero_stage == 3 and accelerator.mixed_precision != "no":
        raise ValueError(
            "DeepSpeed ZeRO 3 takes weights of one precision, and adapters have another than what they sit on" + other
        )


def check_saved(model: "PeftModel", weights: dict[str, Any] | None = None) -> None:
    """Whether a model's adapters can be read again: one set of them, for the weights of a checkpoint that has a name.

    Args:
        model: The model.
        weights: Its weights, if several processes hold parts of them.

    Raises:
        ValueError: They cannot.
    """
    if list(model.peft_config) != ["default"]:
        raise ValueError(
            f"The model has the adapters {', '.join(model.peft_config)}; save one of those that add_lora gives."
        )
    if not model.peft_config["default"].base_model_name_or_path:
        raise ValueError(
            "The weights below the adapters are in no checkpoint that they could name; save the model, and read it again with "
            "from_pretrained before add_lora."
        )
    if weights is None:  # where processes share them out, none has them to look at
        model.get_base_model().check_below()


def save_lora(
    model: "PeftModel",
    folder: str | os.PathLike[str],
    *,
    processor: Any = None,
    weights: dict[str, Any] | None = None,
) -> None:
    """Write adapters and head to a folder of their own, and beside it configuration and code.

    The weights they sit on stay in the checkpoint that they came from. The folder loads with `AutoModel.from_pretrained`,
    also from the Hub; with `PeftModel.from_pretrained(base, folder, subfolder="adapter")`.

    Args:
        model: From `add_lora`.
        folder: Folder to write.
        processor: The processor of its checkpoint, which `load_model` and `annot-hf predict` need beside it.
        weights: All weights of the model, if several processes hold parts of them.

    Raises:
        ValueError: The model has other adapters than those of `add_lora`, its weights are in no checkpoint, or the folder
            holds whole weights, or adapters where `peft` writes them.
    """
    check_saved(model, weights)
    check_folder(folder, "adapters")
    inner = Path(folder) / ADAPTERS
    load_library().PeftModel.save_pretrained(model, inner, state_dict=weights, save_embedding_layers=False)
    (inner / "README.md").unlink(missing_ok=True)  # a form with nothing filled in
    model.get_base_model().save_config(folder)
    if processor is not None:
        processor.save_pretrained(folder)


logger = logging.getLogger(__name__)


class AdaptedQwen2Audio(PeftModel):
    """As `PeftModel`, but folders have the configuration and its code, so that `AutoModel` finds the head.

    `add_lora` makes it. `Trainer` writes its checkpoints through it.
    """

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Adapters at the top of the folder, where `Trainer` and `PeftModel.from_pretrained` look for them.

        This is for folders. On the Hub `AutoModel` would take them for those of a plain Qwen2-Audio and drop the head
        without an error: publish with `push_to_hub`, or what `save_lora` writes.

        Raises:
            ValueError: Adapters of another kind or whole weights lie there, these cannot be read again, or are to be pushed.
        """
        if kwargs.get("push_to_hub"):
            raise ValueError("push_to_hub is set, and adapters lie elsewhere on the Hub; call push_to_hub instead.")
        check_saved(self, kwargs.get("state_dict"))
        check_folder(save_directory, "adapters at the top")
        super().save_pretrained(save_directory, *args, **{"save_embedding_layers": False, **kwargs})
        if kwargs.get("is_main_process", True):
            self.get_base_model().save_config(save_directory)

    def create_or_update_model_card(self, output_dir: str) -> None:
        """None: it would be a form with nothing filled in."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        processor: Any = None,
        commit_message: str = "Upload adapters",
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Upload what `save_lora` writes; `AutoModel.from_pretrained(repo_id)` reads it.

        Args:
            repo_id: Repository of the Hub, created if it is not there.
            processor: The processor of its checkpoint, which goes with it.
            commit_message: Message of the commit.
            private: Whether a new repository is private.
            token: Token of the Hub; that of the login when None.
            revision: Branch.
            create_pr: Open a pull request instead.
        """
        base = self.peft_config["default"].base_model_name_or_path or ""
        if os.path.isdir(base):
            logger.warning(
                "The adapters name the folder %s, which others do not have; merge them, or start from the Hub.", base
            )
        check_repository(repo_id, "adapters", token=token, revision=revision)
        api = HfApi(token=token)
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            save_lora(self, folder, processor=processor)
            return api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
