"""A run's folder: its lock, what it may overwrite, the record of what it is, its checkpoints, and the model it saves."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
import transformers
from accelerate import PartialState
from filelock import SoftFileLock, Timeout
from transformers import AutoModel
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

import annot_hf.models
from annot_hf.data.export import ExportedCorpus
from annot_hf.data.files import check_own, is_own_card, replace_file
from annot_hf.models.access import find_folder, read_object
from annot_hf.models.modeling_opinion import SupportModel, read_checkpoint
from annot_hf.models.register import register_models
from annot_hf.training.inputs import make_processor
from annot_hf.training.recipe import Run, members_folder

logger = logging.getLogger(__name__)

# what a run records of itself when it starts; and, as the last file of its model folder, when it has ended
STARTED, FACTS = "started.json", "training.json"
WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, ADAPTER_SAFE_WEIGHTS_NAME)
# a run may be resumed for longer
LENGTH = ("num_train_epochs", "max_steps", "schedule.patience")
# what an ensemble does with its members, and no member depends on
ASSEMBLED = ("num_members", "distribution")

_LOCK = "training.lock"
# seconds to wait for the lock of another process, whose end does not always show at once
_PATIENCE = 1.0
# what the record of a run holds at least
_RECORD = ("recipe", "corpus_digest")
_OVERWRITTEN = (STARTED, "recipe.yaml", "mixtures.parquet", "model", "model.part")
_CODE = sorted(path.name for path in Path(annot_hf.models.__file__).parent.glob("*.py"))
MODEL_FILES = (*_CODE, *WEIGHTS, "model-*-of-*.safetensors", "config.json", "generation_config.json", FACTS)
MODEL_FILES += ("preprocessor_config.json", "processor_config.json", "chat_template.jinja")
MODEL_FILES += ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# the last is of SentencePiece
MODEL_FILES += ("vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "*.model")
# what the model card brings, besides README.md
CARD_FILES = ("plots/*.png", ".eval_results/*.yaml")


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Lock a run's folder, and remove it again if nothing was written; a process may lock it twice."""
    folder = Path(folder).resolve()
    # which locks for all processes of the run
    if not PartialState().is_main_process:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{error.filename} is no folder and takes the place of a run; move it away.") from None
    lock = SoftFileLock(folder / _LOCK, timeout=_PATIENCE, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        words = []
        # the file may be gone by now
        with suppress(OSError):
            words = (folder / _LOCK).read_text(encoding="utf-8", errors="replace").split()
        pid, host = [*words, "unknown", "unknown"][:2]
        raise ValueError(
            f"{folder / _LOCK} says that process {pid} on {host} works in this folder; wait for it, or remove that file "
            "if the process is gone."
        ) from None
    try:
        yield
    finally:
        lock.release()
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def check_start(run: Run, *, resume: bool) -> None:
    """Raise unless a run may start in its folder, or be resumed there, without loss of what is not its own."""
    folder = Path(run.training.output_dir)
    earlier = sorted(members_folder(run).glob("*") if run.members else folder.glob("checkpoint-*"))
    if earlier and not resume and not run.recipe.ensemble.folder:
        raise ValueError(
            f"{folder} holds {earlier[0].name} of an earlier run; resume it (--resume), name another output_dir, or remove it."
        )
    if resume and not earlier and not run.members:
        raise ValueError(f"{folder} holds no checkpoint to resume from; train without --resume first.")
    inexact = [name for name in ("save_only_model", "ignore_data_skip") if resume and getattr(run.training, name)]
    if inexact:
        raise ValueError(
            f"{inexact[0]} is true, with which a run cannot be resumed exactly; train afresh in another output_dir."
        )
    if resume and read_record(folder / STARTED) is None:
        _check_unsaid(folder)
    _check_output(folder)


def _check_unsaid(folder: Path) -> None:
    """Checkpoints are neither resumed nor removed as cut off where no record says whose they are."""
    found, path = checkpoints_of(folder), folder / STARTED
    if path.is_file() and found:
        what = "is of something else than a run" if _json(path) else "is damaged"
        raise ValueError(
            f"{path} {what}, and nothing else records what its checkpoints learn from; restore it, or name another "
            "output_dir."
        )
    for checkpoint in found:
        if any(checkpoint.iterdir()) and not _is_complete(checkpoint, PartialState().num_processes):
            raise ValueError(
                f"{checkpoint} is no complete checkpoint, and nothing says that this package wrote it; name another "
                "output_dir, or move it away."
            )


def record_start(run: Run, corpus: ExportedCorpus, *, resume: bool) -> str | None:
    """Record what a run is when it starts, and refuse to resume another; returns the digest of the trunk's weights."""
    folder, record = Path(run.training.output_dir), run.record(corpus)
    earlier = read_record(folder / STARTED) if resume else None
    if earlier is None:
        if run.training.process_index == 0:
            write_record(folder / STARTED, record)
        return record.get("trunk")
    changed = run.changes(earlier, corpus, aside=ASSEMBLED if run.members else LENGTH)
    longer = [name for name in changed if name in LENGTH] if run.members else []
    if longer:
        raise ValueError(
            f"{folder} was started with another {longer[0]}, and how long a member is trained is part of what it is, so that "
            "none could be resumed; undo the change, or name another output_dir."
        )
    if changed:
        raise ValueError(
            f"{folder} was started with another recipe or corpus: {', '.join(changed)} changed; resume with what it was "
            "started with, or name another output_dir."
        )
    return record.get("trunk")


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write what a run is (`Run.record`) in one step, so that a killed process leaves no half file."""
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_record(path: Path) -> dict[str, Any] | None:
    """What `write_record` wrote; None if there is no such file, or it holds something else, which is logged."""
    found = _json(path)
    if isinstance(found, dict) and set(_RECORD) <= found.keys():
        return found
    if path.is_file():
        logger.warning("%s is %s, and counts as missing.", path, "of something else than a run" if found else "damaged")
    return None


def _json(path: Path) -> Any:
    """What a file holds; None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _check_output(folder: Path) -> None:
    """Raise if a run would overwrite what is not of an earlier run."""
    check_own(folder, _OVERWRITTEN, marker=STARTED, keys=_RECORD)
    check_model_folder(folder / "model")


def check_model_folder(folder: Path) -> None:
    """Raise unless a model may replace a folder: it holds nothing but a model that this package wrote."""
    if not folder.exists():
        return
    inside = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    names = inside if folder.is_dir() else [folder.name]
    allowed = MODEL_FILES + CARD_FILES if isinstance(_json(folder / FACTS), dict) else ()
    allowed += ("README.md",) if is_own_card(folder / "README.md") else ()
    foreign = [name for name in names if not any(fnmatch(name, pattern) for pattern in allowed)]
    if foreign:
        raise ValueError(
            f"{folder} holds {foreign[0]}, which this package did not write and which would be lost; name another folder, "
            "or move it away."
        )


def clear_run(folder: Path) -> None:
    """Remove the checkpoints and members of an earlier run, so that another may start in its folder."""
    _check_output(folder)
    if read_record(folder / STARTED):
        members = [path for path in folder.glob("members/seed*") if read_record(path / STARTED)]
        for path in [*checkpoints_of(folder), *members]:
            shutil.rmtree(path)


def checkpoints_of(folder: str | Path) -> list[Path]:
    """Checkpoints in a run's folder, complete or not, the oldest first."""
    found = [(path.name.removeprefix("checkpoint-"), path) for path in Path(folder).glob("checkpoint-*")]
    return [path for _, path in sorted((int(step), path) for step, path in found if step.isdecimal())]


def newest_checkpoint(folder: str | Path, *, with_best: bool = False) -> Path | None:
    """The newest complete checkpoint, if any, `with_best` only where the best one is there; all processes must call it."""
    state, found, cut = PartialState(), checkpoints_of(folder), []
    while found and not _is_complete(found[-1], state.num_processes):
        cut.append(found.pop())
    # no process may remove what another still looks at
    state.wait_for_everyone()
    # newer ones than the complete one
    for path in cut if state.is_main_process else ():
        logger.warning("%s was cut off while it was written, and is removed.", path)
        shutil.rmtree(path)
    state.wait_for_everyone()
    if not found:
        return None
    best = _state(found[-1])["best_global_step"]
    if with_best and best and not _holds_weights(found[-1].with_name(f"checkpoint-{best}")):
        raise ValueError(
            f"{found[-1]} needs checkpoint-{best}, the best so far, which is gone or damaged; restore it, or remove "
            f"{found[-1].name} too."
        )
    return found[-1]


def _is_complete(checkpoint: Path, processes: int) -> bool:
    """Whether it has all that resuming needs: weights, the optimiser, schedule, generators, and the trainer's state."""
    if _state(checkpoint) is None:
        return False
    generators = list(checkpoint.glob("rng_state*.pth"))
    if generators and len(generators) != processes:
        # it may be complete, and must not be removed
        raise ValueError(
            f"{checkpoint} was written by {len(generators)} processes, and {processes} would resume it; start as many as "
            "before, or remove it if it was cut off."
        )
    # DeepSpeed keeps optimiser and schedule in a folder of its own, which `latest` names; FSDP the optimiser
    stepped = any(checkpoint.glob("optimizer*")) and is_zipfile(checkpoint / transformers.trainer.SCHEDULER_NAME)
    archives = [*generators, *checkpoint.glob(transformers.trainer.OPTIMIZER_NAME)]
    # the table of contents of what `torch.save` writes is at its end
    whole = (stepped or (checkpoint / "latest").is_file()) and generators and all(map(is_zipfile, archives))
    return bool(whole) and _holds_weights(checkpoint)


def _state(checkpoint: Path) -> dict[str, Any] | None:
    """The trainer's state, which is written last; None if it is incomplete."""
    found = _json(checkpoint / transformers.trainer.TRAINER_STATE_NAME)
    return found if isinstance(found, dict) and "best_global_step" in found else None


def _holds_weights(checkpoint: Path) -> bool:
    return any((checkpoint / name).is_file() and (checkpoint / name).stat().st_size for name in WEIGHTS)


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of a checkpoint's training; empty if it has none."""
    if not (folder / FACTS).is_file():
        return {}
    facts = read_object(folder / FACTS)
    if not isinstance(facts.get("recipe", {}), dict):
        raise ValueError(f"{folder / FACTS} does not say how a model was trained; restore or remove it.")
    return facts


def save_model(
    model: Any, processor: Any, facts: dict[str, Any], folder: Path, *, weights: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint to a temporary folder (of a `PeftModel` the adapters alone), then swap it in once it is complete.

    `weights` are those of the model where several processes hold parts of them.
    """
    check_model_folder(folder)
    fresh = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh, state_dict=weights)
    processor.save_pretrained(fresh)
    (fresh / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def load_model(source: str | Path, *, revision: str | None = None) -> tuple[SupportModel, Any, dict[str, Any]]:
    """A checkpoint's model, its processor and the facts of its training (empty if it has none).

    Adapters are put on the base that they name.

    Args:
        source: Checkpoint folder, or a Hub id such as "me/mine".
        revision: Branch, tag or commit of a Hub id.

    Raises:
        ValueError: There is no checkpoint of this package, or it has adapters whose base is not there.
    """
    register_models()
    folder = find_folder(source, "model", revision=revision)
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


def load_lora(source: str | os.PathLike[str], **options: Any) -> Any:
    """What `add_lora` gave and was saved in a folder or on the Hub, to train it further, with options of `from_pretrained`."""
    register_models()
    try:
        return AutoModel.from_pretrained(source, as_peft=True, **options)
    except OSError as error:
        raise ValueError(f"There is neither a folder nor a repository {os.fspath(source)!r} ({error}).") from error


def merge_lora(source: str | os.PathLike[str], out: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """A checkpoint folder of whole weights from a checkpoint of adapters: it needs neither `peft` nor the base.

    Merged weights are rounded to the precision of those the adapters sit on; in bfloat16, predictions move a little.

    Args:
        source: `output_dir`/model of a run with adapters, or a Hub id.
        out: Folder to write, of about the size of the base; it must not be there.
        revision: Branch, tag or commit of a Hub id.

    Raises:
        ValueError: There are no adapters, or not all of them, or `out` is there already.
    """
    folder, out = find_folder(source, "model", revision=revision), Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already; name another folder, or remove it.")
    model = load_lora(folder).merge_and_unload()
    save_model(model, make_processor(model.config.trunk_config, folder), read_facts(folder), out)
    return out
