"""Checkpoints of an audio-language model with a head of ours: plain ones, whole ones, and adapters beside them."""

import contextlib
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils.hub import resolve_revision

from .adapter_files import (
    ADAPTERS,
    Adapters,
    check_adapters,
    check_folder,
    check_repository,
    check_settings,
    digest_of,
    find_adapters,
    has_adapters,
    without_report,
)
from .checks import said
from .configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig

HEAD = "distribution_head."
# what adapters learnt with, and what they bring; how files are found on the Hub
SAME = ("questions", "bins", "attention_heads", "prompt", "system", "transcript_characters")
LORA = ("lora_rank", "lora_alpha", "lalm_digest")
HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


class LalmCheckpoints(PreTrainedModel):
    """How a `DistributionQwen2Audio` is read, from a plain checkpoint, a whole one or adapters, and saved.

    Attributes:
        lalm: The audio-language model.
        distribution_head: The head, which is saved whole beside adapters.
        came_from: Commit on the Hub and digest of the weights that `lalm` was read with; None where it was not read.
    """

    came_from: tuple[str | None, str | None] | None = None
    # and not the audio tower's of these names
    lora_targets = r".*language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
    lora_saved = ("distribution_head",)

    @classmethod
    def from_lalm(
        cls,
        source: str | os.PathLike[str],
        *,
        questions: Sequence[dict[str, Any]],
        revision: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> Self:
        """A model over a plain Qwen2-Audio checkpoint, with a fresh head.

        Args:
            source: Hub id or folder, such as "Qwen/Qwen2-Audio-7B-Instruct".
            questions: The questions, as dictionaries.
            revision: Branch, tag or commit on the Hub. The commit that it stands for is kept: adapters are read onto it.
            dtype: Precision of all but the head. Weights that are trained need float32; under adapters, and to predict,
                `torch.bfloat16` halves the memory.
            attn_implementation: "sdpa", "eager" or "flash_attention_2"; the library's choice when None.
            **options: Any option of `DistributionQwen2AudioConfig`.

        Raises:
            ValueError: There is no such checkpoint, it is not a whole Qwen2-Audio, or there is no such option.
        """
        source = os.fspath(source)
        unknown = sorted(set(options) - cls._options())
        if unknown:
            raise ValueError(f"There is no option {unknown[0]!r}; there are {', '.join(sorted(cls._options()))}.")
        revision = resolve_revision(source, revision)
        try:
            lalm_config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        except Exception as error:  # of many kinds: a config.json may say anything
            asked = source if revision is None else f"{source} at {revision}"
            raise ValueError(f"There is no checkpoint {asked!r}; give a Hub id or a checkpoint folder.") from error
        if lalm_config.model_type != "qwen2_audio":
            raise ValueError(
                f"{source} is a {lalm_config.model_type}; give a plain Qwen2-Audio, such as Qwen/Qwen2-Audio-7B-Instruct."
            )
        config = cls.config_class(lalm_config=lalm_config, questions=questions, **options)
        how = {"revision": revision, "dtype": dtype, "attn_implementation": attn_implementation}
        model, _ = cls._over(source, config, how)
        model.config.lalm_revision, model.config.lalm_digest = model.came_from
        return model.eval()

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], *args: Any, adapters: bool = True, **kwargs: Any) -> Any:
        """As the library's, from safetensors only; adapters are read onto the checkpoint that they name.

        Args:
            source: Hub id or folder of this model, or of adapters for it, whose folder is beside or around `config.json`.
            *args: Passed on.
            adapters: Load them; without, the model that they are made for, with a head that is not trained.
            **kwargs: Passed on. Adapters take the weights as the precision of the rest, and stay in single precision.

        Raises:
            ValueError: Adapters have no configuration, are damaged, do not fit the checkpoint that they name, or were
                trained on other weights than it has.
        """
        hub = {name: kwargs[name] for name in HUB if kwargs.get(name) is not None}
        # what `AutoModel` asks of the library, which would read adapters before the head is what it must be
        asked = kwargs.pop("adapter_kwargs", None) or {}
        hub |= {name: asked[name] for name in ("token", "revision") if asked.get(name) is not None}
        where = os.fspath(asked.get("_adapter_model_path") or source)
        found = find_adapters(where, subfolder=kwargs.get("subfolder") or "", **hub)
        if found is None:
            loaded = super().from_pretrained(source, *args, **{"use_safetensors": True, **kwargs})
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            at = {name: hub[name] for name in ("revision", "token", "cache_dir", "local_files_only") if name in hub}
            model._settle(resolve_revision(source, **at))
            return loaded
        kwargs.pop("subfolder", None)
        wants_info, config = kwargs.pop("output_loading_info", False), kwargs.pop("config", None)
        fixed = next((name for name in (*SAME, *LORA) if name in kwargs), None)
        if fixed is not None:
            raise ValueError(f"{fixed} is what the adapters of {where} were trained with; leave it out.")
        beside = cls._config_of(found)
        if not isinstance(config, cls.config_class):
            changed = {name: kwargs.pop(name) for name in cls._options() if name in kwargs}
            config = cls._config_of(found, **changed) if changed else beside
        try:
            model, info = cls._over(found.base, config, kwargs | {"revision": found.revision}, *args, heard=False)
        except ValueError as error:
            raise ValueError(
                f"{where} holds adapters for {found.base} (base_model_name_or_path of its adapter_config.json), and: {error}"
            ) from error
        model._check_adapters(found, beside)
        if adapters:
            model._put_on(found)
            info["missing_keys"] = set()  # the head, which came with them
        return (model, info) if wants_info else model

    @classmethod
    def _options(cls) -> set[str]:
        """Options of the configuration that a caller may set."""
        given = {"self", "kwargs", "lalm_config", "lalm_revision", "lalm_digest"}
        return set(inspect.signature(cls.config_class.__init__).parameters) - given

    @classmethod
    def _config_of(cls, found: Adapters, **changed: Any) -> DistributionQwen2AudioConfig:
        """The configuration beside adapters."""
        try:
            config = cls.config_class.from_pretrained(found.source, subfolder=found.folder, **found.hub, **changed)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise ValueError(
                f"The config.json of {found.source} cannot be read ({said(error)}); restore it."
            ) from error
        if not config.questions:  # it is that of the base, where there is none
            raise ValueError(
                f"{os.path.join(found.source, found.folder)} has adapters and no config.json, which says what they are for; "
                "restore it, or give the folder that has it."
            )
        return config

    @classmethod
    def _over(
        cls, source: str, config: DistributionQwen2AudioConfig, how: dict[str, Any], *args: Any, heard: bool = True
    ) -> tuple[Self, dict[str, Any]]:
        """A model of the weights of a plain checkpoint, all of them, and a fresh head, and what the library found missing.

        Unless it is to be `heard`, nobody is told that the head is.
        """
        how = {"use_safetensors": True, **how, "ignore_mismatched_sizes": True, "output_loading_info": True}
        try:
            with contextlib.nullcontext() if heard else without_report():
                model, info = super().from_pretrained(source, *args, config=config, **how)
        except OSError as error:
            raise ValueError(f"{source} has no weights in safetensors ({error}); give a whole checkpoint.") from error
        odd = [name for name in info["missing_keys"] if not name.startswith(HEAD)]
        odd += [*info["unexpected_keys"], *(name for name, *_ in info["mismatched_keys"] if not name.startswith(HEAD))]
        if odd:
            raise ValueError(
                f"{source} is not a whole Qwen2-Audio: {len(odd)} weights differ, for instance {sorted(odd)[0]}; give a plain "
                "checkpoint."
            )
        model._settle(how["revision"])
        return model, info

    def _settle(self, revision: str | None) -> None:
        """What the library's loading leaves otherwise than a new model has it, and where the weights are from."""
        self.distribution_head.float()  # a fresh one comes in the precision of the rest
        self.lalm.model.audio_tower.embed_positions.requires_grad_(False)  # sinusoids
        self.came_from = getattr(revision, "resolved", revision), digest_of(self.lalm)
        if os.path.isdir(self.name_or_path):
            self.name_or_path = os.path.abspath(self.name_or_path)  # adapters will name it

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As the library's, but weights keep the names that they have here, and not those of older checkpoints.

        `Trainer` reads a checkpoint without translating names, and leaves out, with a warning, what it does not know: it
        would go on from a fresh language model. With adapters loaded, they and the head are written, to a folder of their
        own beside the configuration, as `save_lora` does.

        Raises:
            ValueError: Adapters are to be pushed to the Hub too, the model has some that the library does not know of, the
                weights below them have changed, or the folder holds something of another kind.
        """
        kwargs = {"save_original_format": False, **kwargs}
        if getattr(self, "_hf_peft_config_loaded", False):
            if kwargs.get("push_to_hub"):
                raise ValueError(
                    "push_to_hub is set, and adapters are saved in two steps; call model.push_to_hub instead."
                )
            check_folder(save_directory, "adapters")
            self.check_below()
            super().save_pretrained(Path(save_directory) / ADAPTERS, *args, **kwargs)
            if kwargs.get("is_main_process", True):
                self.save_config(save_directory)
            return
        within = next((name for name, _ in self.named_parameters() if ".base_layer." in name), None)
        if within is not None:
            raise ValueError(
                f"The model has adapters around its weights, or what is left of some ({within}); save what add_lora or "
                "load_lora gave, or merge them first (merge_and_unload)."
            )
        check_folder(save_directory, "whole weights")
        super().save_pretrained(save_directory, *args, **kwargs)

    def save_config(self, folder: str | os.PathLike[str]) -> None:
        """Write the configuration and the code that reads it, for adapters, which are no model without."""
        self.config.architectures = [type(self).__name__]
        custom_object_save(self, os.fspath(folder), config=self.config)
        self.config.save_pretrained(folder)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """As the library's, but not whole weights beside adapters, or these beside those.

        Raises:
            ValueError: The repository holds the other kind.
        """
        kind = "adapters" if getattr(self, "_hf_peft_config_loaded", False) else "whole weights"
        check_repository(repo_id, kind, **{name: kwargs[name] for name in ("token", "revision") if kwargs.get(name)})
        return super().push_to_hub(repo_id, **kwargs)

    def check_below(self) -> None:
        """Whether adapters can be read again: they are those of the configuration, on the weights that they were put on.

        Raises:
            ValueError: They are not.
        """
        (settings,) = (one.to_dict() for one in self.peft_config.values())
        try:
            check_settings(settings, **self._lora(self.config))
        except ValueError as error:
            raise ValueError(
                f"These adapters could not be read again: {error} Save those that add_lora gives."
            ) from None
        if any(getattr(module, "merged", False) for module in self.modules()):
            return  # the weights have them in; taken out again they are what they were
        if self._differs_from(self.config):
            raise ValueError(
                "The weights below the adapters have changed since these were put on, and would not be saved; train the "
                "adapters and the head alone, or save the merged model (merge_and_unload)."
            )

    def load_adapter(self, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the library's, for one set of adapters, which stay in single precision on weights in bfloat16; to predict.

        Raises:
            ValueError: There are adapters on the model already; or these are not those of a model like this one, with other
                questions say, not all of them, not finite, or were trained on other weights; or they are to be trained. The
                model stays as it was.
        """
        if has_adapters(self):
            raise ValueError("This model has adapters already; read another model for others.")
        if kwargs.get("is_trainable"):
            raise ValueError("Trainer could not go on with adapters loaded so; train what load_lora(folder) gives.")
        at = dict(kwargs.pop("adapter_kwargs", None) or {})
        found = None if peft_model_id is None else find_adapters(peft_model_id, subfolder=at.pop("subfolder", ""), **at)
        if found is None:
            return super().load_adapter(peft_model_id, *args, adapter_kwargs=at, **kwargs)
        beside = self._config_of(found)
        self._check_adapters(found, beside)
        info = self._put_on(found, *args, **kwargs)
        for name in LORA:  # so that what is saved says so
            setattr(self.config, name, getattr(beside, name))
        return info

    def _check_adapters(self, found: Adapters, config: DistributionQwen2AudioConfig) -> None:
        """Whether adapters, with the configuration that lies beside them, are for this model and its weights."""
        for name in SAME:
            if getattr(config, name) != getattr(self.config, name):
                raise ValueError(
                    f"The adapters of {found.source} are for a model whose {name} is {getattr(config, name)!r}, here it is "
                    f"{getattr(self.config, name)!r}; read them with from_pretrained."
                )
        if self._differs_from(config):
            raise ValueError(
                f"The adapters of {found.source} were trained on other weights than those of this model, which are now in "
                f"{self.name_or_path}; restore the checkpoint that they name, or train again."
            )
        if any(weight.is_meta for weight in self.lalm.parameters()):
            raise ValueError(
                "Weights of the model are not in memory, where adapters need them; load it without offloading."
            )
        check_adapters(found, self, **self._lora(config))

    def _differs_from(self, config: DistributionQwen2AudioConfig) -> bool:
        """Whether the weights are known to be others than those of a configuration."""
        digest = digest_of(self.lalm)
        return None not in (digest, config.lalm_digest) and digest != config.lalm_digest

    def _lora(self, config: DistributionQwen2AudioConfig) -> dict[str, Any]:
        """What adapters of a configuration are."""
        rank, alpha = config.lora_rank, config.lora_alpha
        return {"rank": rank, "alpha": alpha, "targets": self.lora_targets, "head": self.lora_saved[0]}

    def _put_on(self, found: Adapters, *args: Any, **kwargs: Any) -> Any:
        """Have the library load adapters that fit."""
        plan = dict.fromkeys(("lora_A", "lora_B", "distribution_head"), torch.float32)
        kwargs = {"dtype_plan": plan, **kwargs, "adapter_kwargs": found.hub | {"subfolder": found.subfolder}}
        with without_report():
            info = super().load_adapter(found.source, *args, **kwargs)
        self.distribution_head.requires_grad_(False)  # as the library has it for adapters
        if self.came_from is not None:  # which may be elsewhere than where they were trained
            for settings in self.peft_config.values():
                settings.base_model_name_or_path, settings.revision = self.name_or_path, self.came_from[0]
        return info

    def enable_adapters(self) -> None:
        """As the library's, which leaves the head that came with the adapters switched off."""
        super().enable_adapters()
        self.distribution_head.enable_adapters(True)
