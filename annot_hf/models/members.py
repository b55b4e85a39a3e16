"""Check that separately trained models can be members of one ensemble."""

import json
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoFeatureExtractor, AutoTokenizer

from .checks import read_object, said
from .configuration_opinion import OpinionConfig
from .configuration_seedbert import MEMBER_OPTIONS
from .modeling_distribution import DistributionModel
from .trunks import PROVENANCE, input_name_of

_RESTORE = "restore this member or train it again"

# A saved tokenizer or feature extractor always has this file.
_PROCESSORS = {
    "input_ids": ("tokenizer", "tokenizer_config.json"),
    "input_values": ("feature extractor", "preprocessor_config.json"),
    "input_features": ("feature extractor", "preprocessor_config.json"),
}


def read_member(source: str | Path | DistributionModel, number: int) -> tuple[str, DistributionModel]:
    """A member's name for messages, and the member.

    Args:
        source: A checkpoint folder of a `DistributionModel`, or the model itself.
        number: Its place among the members.

    Raises:
        ValueError: The folder is not such a checkpoint, it is damaged, its weights do not fit, the model is of another kind,
            or it has adapters.
    """
    if not isinstance(source, str | Path):
        if not isinstance(source, DistributionModel):
            raise ValueError(f"Member {number} is a {type(source).__name__}; give DistributionModels or their folders.")
        name, model = f"member {number}", source
    else:
        name, model = str(source), _from_folder(Path(source))
    if model.has_adapters:
        raise ValueError(f"{name} has adapters, and members are whole models; merge them first (merge_lora).")
    for beside in ("scale_questions", "auxiliary_questions"):
        if getattr(model.config, beside):
            raise ValueError(
                f"{name} answers {beside} beside its distribution, and an ensemble votes on the distribution alone; train its "
                f"members without {beside}."
            )
    return name, model


def check_different(members: Sequence[str | Path | DistributionModel]) -> None:
    """Raise if a member is given twice.

    Raises:
        ValueError: A folder, in any spelling, or a model is given twice.
    """
    seen: dict[Any, str | Path] = {}
    for number, source in enumerate(members):
        folder = isinstance(source, str | Path)
        key, name = (Path(source).resolve(), source) if folder else (id(source), f"member {number}")
        if key in seen:
            raise ValueError(
                f"{name} is the same as {seen[key]}, and a member has one vote; give each folder or model once."
            )
        seen[key] = name


def check_alike(name: str, model: DistributionModel, first_name: str, first: DistributionModel) -> None:
    """Raise unless members differ only in their weights.

    Raises:
        ValueError: Something else differs: questions, support, trunk, pooling, precision, ...
    """
    ours, theirs = _traits_of(first), _traits_of(model)
    different = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
    if different:
        key = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise ValueError(
            f"{name} has {key} {reprlib.repr(theirs.get(key))} and {first_name} {reprlib.repr(ours.get(key))}{more}; members "
            "may differ in their weights only, so train them with the same recipe."
        )


def check_processors(folders: Sequence[str | Path], config: OpinionConfig) -> None:
    """Raise unless members from folders read their input in the same way; folders may lack a processor.

    Args:
        folders: Of the members.
        config: Of any of them, or of their ensemble.

    Raises:
        ValueError: Their tokenizers or feature extractors differ, only some have one, or one cannot be read.
    """
    input_name = input_name_of(config.trunk_config)
    what, file = _PROCESSORS[input_name]
    there = [(Path(folder) / file).is_file() for folder in folders]
    if not any(there):
        return
    if not all(there):
        raise ValueError(
            f"{folders[there.index(False)]} holds no {what} and {folders[there.index(True)]} does; save it with every member."
        )
    read = _tokenizer_facts if input_name == "input_ids" else _extractor_facts

    def facts_of(folder: str | Path) -> dict[str, Any]:
        try:
            return read(folder, config)
        except Exception as error:
            # The tokenizers library raises plain `Exception`.
            raise ValueError(f"{folder} holds a {what} that cannot be read ({said(error)}); {_RESTORE}.") from error

    first = facts_of(folders[0])
    for folder in folders[1:]:
        facts = facts_of(folder)
        different = [key for key in first | facts if first.get(key) != facts.get(key)]
        if different:
            raise ValueError(
                f"{folder} and {folders[0]} have different {what}s: {', '.join(different)} differ; members must read the same "
                f"input, so train them with one {what}."
            )


def _from_folder(folder: Path) -> DistributionModel:
    """The model in a checkpoint folder.

    Raises:
        ValueError: There is none, or not a whole one.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is not a checkpoint folder: it has no config.json; give one of a DistributionModel."
        )
    kind = read_object(path, _RESTORE).get("model_type")
    if kind != DistributionModel.config_class.model_type:
        raise ValueError(f"{folder} holds a model of type {kind!r}; members are checkpoints of DistributionModel.")
    try:
        config = DistributionModel.config_class.from_pretrained(folder)
    except Exception as error:
        # Libraries raise many kinds of errors here.
        raise ValueError(f"{path} cannot be read ({said(error)}); {_RESTORE}.") from error
    # Weights of another shape are reported like other differences.
    try:
        model, info = DistributionModel.from_pretrained(
            folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no readable safetensors ({said(error)}); {_RESTORE}.") from error
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{path} makes no model ({said(error)}); {_RESTORE}.") from error
    odd = sorted([*info["missing_keys"], *info["unexpected_keys"], *(name for name, *_ in info["mismatched_keys"])])
    if odd:
        raise ValueError(
            f"{folder} does not fit its configuration: {len(odd)} weights differ, for instance {odd[0]}; {_RESTORE}."
        )
    return model


def _traits_of(model: DistributionModel) -> dict[str, Any]:
    """Everything but the weights, most important first."""
    config, trunk = model.config, model.config.trunk_config
    options = {name: getattr(config, name) for name in MEMBER_OPTIONS if name != "trunk_config"}
    inside = {f"trunk {name}": value for name, value in trunk.to_dict().items() if name not in PROVENANCE}
    return {
        "questions": options.pop("questions"),
        "support": config.support,
        "trunk": trunk.model_type,
        **options,
        **inside,
        "dtype": model.dtype,
    }


def _tokenizer_facts(folder: str | Path, config: OpinionConfig) -> dict[str, Any]:
    # With the configuration given, the library does not ask whether to run code from the folder.
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    facts = {
        "vocabulary": tokenizer.get_vocab(),
        "special tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "longest input": tokenizer.model_max_length,
    }
    # The last call set its truncation and padding.
    if tokenizer.is_fast:
        whole = json.loads(tokenizer.backend_tokenizer.to_str())
        facts |= {name: whole[name] for name in ("normalizer", "pre_tokenizer", "post_processor", "model")}
    return facts


def _extractor_facts(folder: str | Path, config: OpinionConfig) -> dict[str, Any]:
    return AutoFeatureExtractor.from_pretrained(folder, config=config, trust_remote_code=False).to_dict()
