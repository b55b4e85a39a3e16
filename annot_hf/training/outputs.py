"""What a run may overwrite, and what of it may leave: nothing that it did not write itself."""

import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitOperationAdd, HfApi
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME

import annot_hf.models
from annot_hf.data.corpus import check_own
from annot_hf.models.checks import read_checkpoint
from annot_hf.models.modeling_opinion import SupportModel
from annot_hf.models.register import register_models
from annot_hf.training.checkpoints import FACTS, checkpoints_of, read_facts
from annot_hf.training.inputs import make_processor
from annot_hf.training.recipe import ELSEWHERE, Run

STARTED = "started.json"
_RECORD = ("recipe", "corpus_digest")  # of what a run is
_OVERWRITTEN = (STARTED, "recipe.yaml", "mixtures.parquet", "model", "model.part")
_CODE = sorted(path.name for path in Path(annot_hf.models.__file__).parent.glob("*.py"))
_MODEL_FILES = (
    *_CODE,
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    ADAPTER_SAFE_WEIGHTS_NAME,
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "bpe.codes",
    "*.model",  # of SentencePiece
    FACTS,
)


def check_output(folder: str | Path) -> None:
    """Whether a run may write to a folder: what it would overwrite is of an earlier run, or is not there.

    Raises:
        ValueError: It is somebody else's.
    """
    folder = Path(folder)
    check_own(folder, _OVERWRITTEN, marker=STARTED, keys=_RECORD)
    check_model_folder(folder / "model")


def check_model_folder(folder: Path) -> None:
    """Whether a model may take the place of a folder: it holds nothing but one that this package wrote.

    Raises:
        ValueError: It holds something else.
    """
    if not folder.exists():
        return
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [folder.name]
    allowed = _MODEL_FILES if isinstance(_json(folder / FACTS), dict) else ()
    foreign = [name for name in names if not any(fnmatch(name, pattern) for pattern in allowed)]
    if foreign:
        raise ValueError(
            f"{folder} holds {foreign[0]}, which this package did not write and which would be lost; name another folder, "
            "or move it away."
        )


def clear_run(folder: Path) -> None:
    """Remove the checkpoints and members of an earlier run, so that another may start in its folder.

    Raises:
        ValueError: The folder holds something that the next run would overwrite, and that is not of a run.
    """
    check_output(folder)
    if _is_run(folder):
        members = [path for path in folder.glob("members/seed*") if _is_run(path)]
        for path in [*checkpoints_of(folder), *members]:
            shutil.rmtree(path)


def _is_run(folder: Path) -> bool:
    """Whether a run of this package started there."""
    said = _json(folder / STARTED)
    return isinstance(said, dict) and set(_RECORD) <= said.keys()


def _json(path: Path) -> Any:
    """What a file holds; None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def open_repository(run: Run) -> str:
    """The repository of the Hub that a run's model goes to, private unless the recipe says otherwise.

    Raises:
        ValueError: There is no access to it, or it is public and the recipe does not say that it may be.
    """
    asked, api = run.training, HfApi()
    name, private = asked.hub_model_id or Path(asked.output_dir).absolute().name, asked.hub_private_repo is not False
    try:
        name = name if "/" in name else f"{api.whoami()['name']}/{name}"
        if private and api.repo_exists(name) and not api.repo_info(name).private:
            raise ValueError(
                f"The repository {name} is public; set hub_private_repo to false if its model may be, or name another."
            )
        api.create_repo(name, private=private, exist_ok=True)
        return name
    except ValueError:
        raise
    except Exception as error:  # of many kinds
        raise ValueError(
            f"push_to_hub is true, and {name} cannot be opened on the Hub ({type(error).__name__}); log in (hf auth login), "
            "or correct hub_model_id."
        ) from error


def push_model(run: Run, folder: Path, repository: str) -> None:
    """Upload a model folder, and nothing else of the run: weights, configuration, processor, code and facts.

    Raises:
        ValueError: The upload failed; the folder is kept.
    """
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    told = {key: value for key, value in facts["recipe"].items() if key not in ELSEWHERE}
    # where things lie on this machine is nobody's business
    told = {key: Path(value).name if _is_place(value) else value for key, value in told.items()}
    text = json.dumps(facts | {"recipe": told}, indent=1, ensure_ascii=False) + "\n"
    files = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in _MODEL_FILES)
    }
    files[FACTS] = text.encode()
    try:
        HfApi().create_commit(
            repository,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=f"Model of {facts['corpus']}",
            revision=run.training.hub_revision,
        )
    except Exception as error:  # of many kinds
        raise ValueError(
            f"{folder} is trained, and could not be uploaded to {repository} ({type(error).__name__}); upload it with "
            f"hf upload {repository} {folder}."
        ) from error


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and os.path.isabs(value)


def save_model(
    model: Any, processor: Any, facts: dict[str, Any], folder: Path, *, weights: dict[str, Any] | None = None
) -> None:
    """Write a fresh checkpoint folder: weights as safetensors (adapters alone, if it has any), code, processor and facts.

    It is written aside, and takes the place of an earlier one when it is whole.

    Args:
        model: The model, or the `PeftModel` around it.
        processor: Its processor.
        facts: Facts of its training.
        folder: Folder to write.
        weights: Its weights, where several processes hold parts of them.

    Raises:
        ValueError: The folder holds something else than a model of this package.
    """
    check_model_folder(folder)
    fresh = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh, state_dict=weights)
    processor.save_pretrained(fresh)
    (fresh / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def load_model(folder: str | Path) -> tuple[SupportModel, Any, dict[str, Any]]:
    """A checkpoint folder's model, its processor and the facts of its training (empty if it has none).

    Adapters are put on the base that they name.

    Raises:
        ValueError: The folder holds no checkpoint of this package, or adapters whose base is not there.
    """
    register_models()
    folder = Path(folder)
    model, odd = read_checkpoint(folder, give="output_dir/model of a run", fix="restore the checkpoint")
    if not isinstance(model, SupportModel):
        raise ValueError(f"{folder} holds a {type(model).__name__}; give a checkpoint trained with annot-hf.")
    if odd:
        raise ValueError(
            f"{folder} does not fit this version of annot-hf: {len(odd)} weights differ, for instance {odd[0]}; train again, "
            "or load it with the code it carries (AutoModel.from_pretrained with trust_remote_code=True)."
        )
    facts = read_facts(folder)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval(), make_processor(model.config.trunk_config, folder), facts
