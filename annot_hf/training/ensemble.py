"""Members of an ensemble that are trained one by one and kept in folders that other ensembles share (arXiv 2211.13196)."""

import hashlib
import json
import logging
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState

from annot_hf.data.export import ExportedCorpus
from annot_hf.models.modeling_seedbert import read_member
from annot_hf.training.checkpoints import FACTS, check_model_folder, checkpoints_of, held, read_record
from annot_hf.training.inputs import make_processor
from annot_hf.training.recipe import Run, members_folder

logger = logging.getLogger(__name__)

# `annot_hf.training.train.train`, which imports this module
Train = Callable[..., object]
_FAILED = "failed.txt"


def member_runs(run: Run, corpus: ExportedCorpus) -> list[Run]:
    """The run of each independent member, in a folder that is named after what it is."""
    runs = []
    for member in run.members:
        digest = hashlib.sha256(json.dumps(member.identity(corpus), sort_keys=True).encode()).hexdigest()[:12]
        seed = member.training.seed if member.recipe.head_seed is None else member.recipe.head_seed
        runs.append(member.at(members_folder(run) / f"seed{seed}-{digest}"))
    return runs


def train_members(run: Run, corpus: ExportedCorpus, train: Train) -> list[Path]:
    """Checkpoint folders of the members, in order; those that are missing or damaged are trained, one after the other.

    A member that fails stops no other, except where several processes of `accelerate launch` train each member together.
    """
    runs, state = member_runs(run, corpus), PartialState()
    damage = [_damage(one) for one in runs]
    for one, what in zip(runs, damage, strict=True):
        if what:
            logger.warning("%s is damaged and is trained again: %s", one.training.output_dir, what)
    missing = [one for one, what in zip(runs, damage, strict=True) if what != ""]
    if len(missing) < len(runs):
        logger.warning("%d of %d members are trained already.", len(runs) - len(missing), len(runs))
    # no process may start a member that another one has not looked for yet
    state.wait_for_everyone()
    errors = [_train_member(one, corpus, train) for one in missing]
    failed = [(Path(one.training.output_dir), error) for one, error in zip(missing, errors, strict=True) if error]
    if failed:
        folder, error = failed[0]
        error = error.removesuffix(".")
        more = f" (the traceback is in {folder / _FAILED})" if (folder / _FAILED).is_file() else ""
        raise ValueError(
            f"{len(failed)} of {len(runs)} members failed, the first ({folder.name}) with: {error}{more}; the others are kept "
            f"in {folder.parent}, and --resume trains what is missing."
        )
    folders = [_model(one) for one in runs]
    if len({(read_record(folder / FACTS) or {}).get("trunk") for folder in folders} - {None}) > 1:
        raise ValueError(
            f"The weights of {run.recipe.trunk} were replaced between members, so that they form no ensemble; train them "
            "again in another folder."
        )
    return folders


def _model(run: Run) -> Path:
    return Path(run.training.output_dir) / "model"


def _damage(run: Run) -> str | None:
    """What is wrong with a saved member; empty if it is whole, None if there is none."""
    folder = _model(run)
    if not (folder / FACTS).is_file():
        return None
    try:
        _, model = read_member(folder, 0)
        make_processor(model.config.trunk_config, folder)
    except ValueError as error:
        return str(error)
    return ""


def _train_member(run: Run, corpus: ExportedCorpus, train: Train) -> str:
    """Train a member in a folder that this run holds; what went wrong, or nothing."""
    folder, state = Path(run.training.output_dir), PartialState()
    logger.info("%s", folder)
    try:
        with held(folder):
            state.wait_for_everyone()
            # unless another run has trained it since
            if _damage(run) != "":
                return _train_held(run, corpus, train, state)
    except (OSError, ValueError) as error:
        # the other processes may be in the middle of a step, and wait
        if state.num_processes > 1:
            raise
        return str(error)
    return ""


def _train_held(run: Run, corpus: ExportedCorpus, train: Train, state: PartialState) -> str:
    """Train a member from its newest checkpoint, if it has one, and keep its model alone; what went wrong, or nothing."""
    folder = Path(run.training.output_dir)
    try:
        resume = bool(checkpoints_of(folder))
        # no process may remove what another still looks at
        state.wait_for_everyone()
        if state.is_main_process:
            (folder / _FAILED).unlink(missing_ok=True)
            check_model_folder(_model(run))
            shutil.rmtree(_model(run), ignore_errors=True)
        train(run, resume=resume, corpus=corpus)
        # until the main process has saved the model
        state.wait_for_everyone()
        # optimiser states of many members would not fit on a disk
        for checkpoint in checkpoints_of(folder) if state.is_main_process else ():
            shutil.rmtree(checkpoint)
        state.wait_for_everyone()
    except Exception as error:
        if state.is_main_process:
            try:
                (folder / _FAILED).write_text(traceback.format_exc(), encoding="utf-8")
            except OSError as fault:
                logger.warning("%s cannot be written: %s", folder / _FAILED, fault)
        if state.num_processes > 1:
            raise
        # whatever it is, it is this member's alone
        return f"{type(error).__name__}: {error}"
    return ""
