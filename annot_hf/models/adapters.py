"""Low-rank adapters (LoRA, Hu et al. 2021): through `peft` on every model over a pre-trained trunk, and those of `SeedBert`.

A checkpoint of adapters has a `config.json` that names the base and its version (`adapted_from`), and adapters and heads in
`adapter_model.safetensors`. There is no `adapter_config.json`: where one lies in a repository of the Hub, `AutoModel` reads
the configuration of the base instead and drops the head without an error.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, initialization as init
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from .access import needs, said
from .checks import check_counts
from .trunks import WAVEFORM_TRUNKS, transformer_layers, weights_digest

PREFIX = "base_model.model."
_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_HOW = ("dtype", "attn_implementation", "device_map")
_BERTS = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
# the linear layers of a transformer layer that get adapters: query and value projections, as in the LoRA paper
LORA_TARGETS = {
    **dict.fromkeys(_BERTS, ("attention.self.query", "attention.self.value")),
    "mpnet": ("attention.attn.q", "attention.attn.v"),
    "distilbert": ("attention.q_lin", "attention.v_lin"),
    # query, key and value are one layer
    "modernbert": ("attn.Wqkv",),
    **dict.fromkeys(WAVEFORM_TRUNKS, ("attention.q_proj", "attention.v_proj")),
    "whisper": ("self_attn.q_proj", "self_attn.v_proj"),
    # its attention reads the weights of all four projections and never calls them: an adapter there would do nothing
    "wavlm": ("feed_forward.intermediate_dense", "feed_forward.output_dense"),
}


def import_peft() -> ModuleType:
    """The module `peft`, or a ValueError where it is not installed."""
    return needs("peft", "peft", "Adapters need")


class Adaptable(PreTrainedModel):
    """A model that can have adapters: put on their base when they are loaded, saved without it.

    A subclass has `lora_targets`, a regular expression of the layers that get adapters, and `over_base`, which makes a model
    of a configuration on the trunk's weights of a base, with fresh heads.
    """

    # folder or Hub id that the trunk's weights were read from, its commit (None of a folder), and a sample of the weights
    came_from: tuple[str, str | None, torch.Tensor | None] | None = None

    @property
    def has_adapters(self) -> bool:
        """Whether there are low-rank adapters on the trunk."""
        return any(".lora_A." in name for name, _ in self.named_parameters())

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, as_peft: bool = False, **kwargs: Any) -> Any:
        """As the library's, from safetensors only (a pickle can run code); adapters are put on the base that they name.

        With `as_peft`, the `PeftModel` around a model with adapters, to train it further. A ValueError if `peft` is missing,
        the base is not the one that adapters name, or they are damaged or do not fit.
        """
        hub = {name: kwargs[name] for name in _HUB if kwargs.get(name) is not None}
        config = kwargs.get("config")
        if not isinstance(config, PreTrainedConfig) and source is not None:
            # options of the configuration may be among the arguments
            apart = (*_HOW, "config", "output_loading_info")
            options = {name: value for name, value in kwargs.items() if name not in apart}
            config = cls.config_class.from_pretrained(config or source, **options)
        if getattr(config, "adapted_from", None) is None:
            if as_peft:
                raise ValueError(f"{source} has no adapters; give output_dir/model of a run with lora_rank above 0.")
            loaded = super().from_pretrained(source, *args, **{"use_safetensors": True, **kwargs})
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            place = source and os.path.join(os.fspath(source), hub.get("subfolder", "")).rstrip("/")
            model.settle(place, hub.get("revision"))
            return loaded
        how = {name: kwargs[name] for name in _HOW if name in kwargs}
        adapted = cls._with_adapters(os.fspath(source), config, hub, how).eval()
        model = adapted if as_peft else adapted.get_base_model()
        # nothing is: that would be an error
        info = {name: set() for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")}
        return (model, info) if kwargs.get("output_loading_info") else model

    @classmethod
    def _with_adapters(cls, source: str, config: PreTrainedConfig, hub: dict[str, Any], how: dict[str, Any]) -> Any:
        """The `PeftModel` of a checkpoint of adapters."""
        peft = import_peft()
        base, version = config.adapted_from["base"], config.adapted_from["version"]
        try:
            if os.path.isdir(base) and weights_digest(base) != version:
                raise ValueError("these were trained on other weights than it holds now; restore it, or train again")
            model = cls.over_base(config, base, None if os.path.isdir(base) else version, **how)
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(
                f"{source} holds adapters for {base} (adapted_from in its config.json), and: {said(error)}."
            ) from error
        model.settle(base, version)
        try:
            held = load_file(cached_file(source, ADAPTER_SAFE_WEIGHTS_NAME, **hub))
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{ADAPTER_SAFE_WEIGHTS_NAME} of {source} cannot be read ({said(error)}); restore it."
            ) from error
        adapted = put_on(model)
        expected = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
        wanted, found = ({(name, w.shape) for name, w in weights.items()} for weights in (expected, held))
        odd, why = {name for name, _ in wanted ^ found}, "do not fit its config.json"
        if not odd:
            odd, why = {name for name in held if not held[name].isfinite().all()}, "are not finite"
        if odd:
            first = min(odd).removeprefix(PREFIX)
            raise ValueError(f"The adapters of {source} {why}: {len(odd)} weights, for instance {first}; restore them.")
        peft.set_peft_model_state_dict(adapted, held)
        return adapted

    def settle(self, source: str | None, revision: str | None = None) -> None:
        """Remember where the trunk's weights were read from; adapters will name it."""
        if source is not None and os.path.isdir(source):
            self.came_from = os.path.abspath(source), None, self._sample()
        elif source is not None:
            self.came_from = source, weights_digest(source, revision), self._sample()

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, state_dict: dict | None = None, **kwargs: Any
    ) -> None:
        """As the library's; of a model with adapters, these and the heads, or a ValueError if no checkpoint has their base."""
        if not self.has_adapters:
            self.config.adapted_from = None
            super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
            return
        if self.config.adapted_from is None:
            raise ValueError(
                "The weights below the adapters are in no checkpoint that they could name; save the model, read it again with "
                "from_pretrained, and use add_lora."
            )
        if state_dict is not None:
            state_dict = {name.removeprefix(PREFIX): weight for name, weight in state_dict.items()}
        # shared out, or with the adapters merged in, they cannot be compared
        elif not any(getattr(module, "merged", False) for module in self.modules()):
            self.check_base()
        weights = import_peft().get_peft_model_state_dict(self, state_dict, save_embedding_layers=False)
        if kwargs.get("push_to_hub"):
            raise ValueError("push_to_hub is set, and adapters are saved in two steps; call model.push_to_hub instead.")
        if kwargs.get("is_main_process", True):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self.config.architectures = [type(self).__name__]
            custom_object_save(self, os.fspath(save_directory), config=self.config)
            self.config.save_pretrained(save_directory)
            # names as `peft` has them, with which Trainer reads them again
            named = {f"{PREFIX}{name.removeprefix(PREFIX)}": weight.contiguous() for name, weight in weights.items()}
            save_file(named, Path(save_directory) / ADAPTER_SAFE_WEIGHTS_NAME, metadata={"format": "pt"})

    def check_base(self) -> None:
        """Raise a ValueError if the trunk has other weights than it was read with, but for its adapters."""
        before, now = self.came_from[2] if self.came_from else None, self._sample()
        if before is not None and now is not None and not torch.equal(before, now):
            raise ValueError(
                f"The trunk's weights are no longer those of {self.came_from[0]}, which adapters name; save the model, and "
                "read it again with from_pretrained before add_lora."
            )

    def _sample(self) -> torch.Tensor | None:
        """64 values of every weight of the trunk in bfloat16; None of those in half precision or not in memory."""
        trunk = getattr(self, self.base_model_prefix, None)
        weights = [] if trunk is None else [w.detach() for n, w in trunk.named_parameters() if ".lora_" not in n]
        kinds = (torch.float32, torch.bfloat16)
        if not weights or any(w.is_meta or w.dtype not in kinds or hasattr(w, "device_mesh") for w in weights):
            return None
        flat = map(torch.flatten, weights)
        return torch.cat([part[:: max(1, len(part) // 64)][:64].cpu().bfloat16() for part in flat])


def put_on(model: Adaptable) -> Any:
    """The `PeftModel` of a model, changed in place, whose fresh adapters and heads alone are trained."""
    config, (base, version, _) = model.config, model.came_from or (None, None, None)
    version = version or (base and weights_digest(base))
    config.adapted_from = {"base": base, "version": version} if version else None
    learning = (name for name, child in model.named_children() if list(child.parameters()))
    settings = import_peft().LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=model.lora_targets,
        # the heads are trained too, and saved whole
        modules_to_save=[name for name in learning if name != model.base_model_prefix],
    )
    adapted = import_peft().PeftModel(model, settings)
    # folders, the checkpoints of `Trainer` among them, and repositories are those of the model inside
    adapted.save_pretrained, adapted.push_to_hub = model.save_pretrained, model.push_to_hub
    return adapted


def add_lora(
    model: Adaptable, rank: int | None = None, alpha: float | None = None, dropout: float | None = None
) -> Any:
    """The model with fresh adapters, a `PeftModel`; they and the heads are trained, nothing else is.

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


class MemberAdapter(nn.Module):
    """Low-rank products (alpha / r) B A of the n members of a `SeedBertConfig` beside one linear layer, which stays."""

    def __init__(self, linear: nn.Linear, config: Any) -> None:
        super().__init__()
        members, rank = config.num_members, config.lora_rank
        self.scale = config.lora_alpha / rank
        self.lora_a = nn.Parameter(torch.empty(members, rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.empty(members, linear.out_features, rank))

    def init_weights(self) -> None:
        """B is zero, so that every member starts as the trunk is, and A is random for each."""
        bound = 1 / math.sqrt(self.lora_a.shape[-1])
        init.uniform_(self.lora_a, -bound, bound)
        init.zeros_(self.lora_b)

    def add(self, module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        """The linear layer's output `(n B, T, out)` for inputs `(n B, T, in)`, member after member, with the products."""
        members = len(self.lora_a)
        low = torch.bmm(args[0].reshape(members, -1, args[0].shape[-1]), self.lora_a.mT)  # (n, B T, r)
        rows = output.reshape(members, -1, output.shape[-1])
        return torch.baddbmm(rows, low, self.lora_b.mT, alpha=self.scale).view(output.shape)


class MemberAdapters(nn.Module):
    """Adapters of n members in the top layers of a trunk, whose lower layers run once for all of them.

    A hook before the first of its top layers repeats the items: from there on, rows come member after member, those of member
    i are i B to (i + 1) B. Hooks on the adapted linear layers add each member's product to its rows. All hooks are methods
    rather than closures, so that a copied model has its own.
    """

    def __init__(self, trunk: PreTrainedModel, config: Any) -> None:
        super().__init__()
        self.members = config.num_members
        self.layers = nn.ModuleList()
        for place, layer in enumerate(transformer_layers(trunk)[-config.lora_layers :]):
            layer.register_forward_pre_hook(self.enter if place == 0 else self.pass_on, with_kwargs=True)
            adapters = nn.ModuleDict()
            for name in LORA_TARGETS[trunk.config.model_type]:
                linear = layer.get_submodule(name)
                adapter = MemberAdapter(linear, config)
                linear.register_forward_hook(adapter.add)
                adapters[name.rpartition(".")[-1]] = adapter
            self.layers.append(adapters)

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        """Repeat what the first of the top layers is given for B items; WavLM's position bias has a row per item and head."""
        items = len(args[0])
        return self._repeated(args, kwargs, lambda rows: rows % items == 0)

    def pass_on(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        """Repeat what a further layer is given for B items; what comes from the layer before has its n B rows already."""
        items = len(args[0]) // self.members
        return self._repeated(args, kwargs, lambda rows: rows == items)

    def _repeated(self, args: tuple, kwargs: dict[str, Any], fits: Callable[[int], bool]) -> tuple[tuple, dict]:
        """The arguments of a layer, with matrices and larger tensors of a fitting number of rows once per member."""

        def repeated(value: Any) -> Any:
            if isinstance(value, torch.Tensor) and value.dim() > 1 and fits(len(value)):
                return value.repeat(self.members, *[1] * (value.dim() - 1))
            return value

        return tuple(map(repeated, args)), {name: repeated(value) for name, value in kwargs.items()}
