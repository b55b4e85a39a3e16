"""Members of an ensemble that are trained one by one, kept, and assembled (arXiv 2211.13196).

A member is a run of its own, in a folder named after what it is: an ensemble of ten takes the first five from one of five,
an interrupted one goes on, a damaged one is trained again, and a member that fails takes no other with it.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import queue
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from annot_hf.data.export import ExportedCorpus
from annot_hf.models.configuration_seedbert import SeedBertConfig
from annot_hf.models.members import read_member
from annot_hf.training.checkpoints import FACTS, checkpoints_of, held, read_record
from annot_hf.training.features import end_with_parent
from annot_hf.training.inputs import make_processor
from annot_hf.training.outputs import check_model_folder
from annot_hf.training.recipe import Run, make_run, members_folder

logger = logging.getLogger(__name__)

Train = Callable[..., object]  # `annot_hf.training.train.train`
_FAILED = "failed.txt"
# keys of an ensemble that a member alone does not have
_TOGETHER = ("members", "num_members", "members_differ", "member_folder", "member_jobs", "distribution", "head_seed")
_TOGETHER += ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy")
_STARTING = threading.Lock()  # the environment is the whole process's
_STRIDE = 1000  # between the seeds of two members, so that ensembles of neighbouring seeds share none


def member_runs(run: Run, corpus: ExportedCorpus) -> list[Run]:
    """The run of each member: the ensemble's own recipe for one model, with seeds of its own.

    Args:
        run: Of an ensemble whose members are independent.
        corpus: What it learns from.
    """
    recipe = run.recipe
    shared = {key: value for key, value in run.values.items() if key not in _TOGETHER} | {"model": "distribution"}
    shared["features"] = recipe.features or os.path.join(run.training.output_dir, "features")
    runs = []
    for number in range(run.options.get("num_members", SeedBertConfig().num_members)):
        seed = run.training.seed + _STRIDE * (number + 1)
        own = shared | ({"head_seed": seed} if recipe.members_differ == "init" else {"seed": seed})
        digest = hashlib.sha256(json.dumps(make_run(own).identity(corpus), sort_keys=True).encode()).hexdigest()[:12]
        runs.append(make_run(own | {"output_dir": str(members_folder(run) / f"seed{seed}-{digest}")}))
    return runs


def train_members(run: Run, corpus: ExportedCorpus, train: Train) -> list[Path]:
    """Train the members that are not there yet, or are damaged, several at a time where there are devices.

    Several processes, as `accelerate launch` starts them, train one member together after the other; there a failure ends
    them all.

    Args:
        run: Of an ensemble whose members are independent.
        corpus: What they learn from.
        train: `annot_hf.training.train.train`.

    Returns:
        Checkpoint folders of all members, in order.

    Raises:
        ValueError: Members failed, or another process trains them; the others are trained and kept. Or several processes
            are to train several members at a time.
    """
    runs, state = member_runs(run, corpus), PartialState()
    jobs = run.recipe.member_jobs or (max(torch.cuda.device_count(), 1) if state.num_processes == 1 else 1)
    if jobs > 1 and state.num_processes > 1:
        raise ValueError(
            f"member_jobs is {jobs} and {state.num_processes} processes train each member together; set member_jobs to 1, or "
            "start one process."
        )
    damage = [_damage(one) for one in runs]
    for one, what in zip(runs, damage, strict=True):
        if what:
            logger.warning("%s is damaged and is trained again: %s", one.training.output_dir, what)
    missing = [one for one, what in zip(runs, damage, strict=True) if what != ""]
    if len(missing) < len(runs):
        logger.warning("%d of %d members are there already.", len(runs) - len(missing), len(runs))
    state.wait_for_everyone()  # all have looked
    if jobs > 1 and len(missing) > 1:
        places = queue.Queue()
        for place in range(jobs):
            places.put(place)
        with ThreadPoolExecutor(jobs) as pool:
            errors = list(pool.map(lambda one: _apart(one, corpus, train, places, jobs), missing))
    else:
        errors = [_here(one, corpus, train) for one in missing]
    failed = [(Path(one.training.output_dir), error) for one, error in zip(missing, errors, strict=True) if error]
    if failed:
        folder, error = failed[0]
        error = error.removesuffix(".")
        more = f" (all of it is in {folder / _FAILED})" if (folder / _FAILED).is_file() else ""
        raise ValueError(
            f"{len(failed)} of {len(runs)} members failed, the first ({folder.name}) with: {error}{more}; the others are kept "
            f"in {folder.parent}, and --resume trains what is missing."
        )
    folders = [_model(one) for one in runs]
    if len({(read_record(folder / FACTS) or {}).get("trunk") for folder in folders} - {None}) > 1:
        raise ValueError(
            f"The weights of {run.recipe.trunk} were replaced between members, which make no ensemble; train them again in "
            "another folder."
        )
    return folders


def _model(run: Run) -> Path:
    return Path(run.training.output_dir) / "model"


def _damage(run: Run) -> str | None:
    """What is wrong with a member that is there; nothing if it is whole, None if there is none."""
    folder = _model(run)
    if not (folder / FACTS).is_file():
        return None
    try:
        _, model = read_member(folder, 0)
        make_processor(model.config.trunk_config, folder)
    except ValueError as error:
        return str(error)
    return ""


def _here(run: Run, corpus: ExportedCorpus, train: Train) -> str:
    """Train a member; what went wrong, or nothing."""
    folder, state = Path(run.training.output_dir), PartialState()
    logger.info("%s", folder)
    try:
        # of several processes that train it together the main one holds it for all
        with held(folder) if state.is_main_process else nullcontext():
            state.wait_for_everyone()
            return _train_here(run, corpus, train, state)
    except (OSError, ValueError) as error:
        if state.num_processes > 1:
            raise
        return str(error)


def _train_here(run: Run, corpus: ExportedCorpus, train: Train, state: PartialState) -> str:
    """Train a member that this run holds; what went wrong, or nothing."""
    folder = Path(run.training.output_dir)
    if _damage(run) == "":  # another run has trained it meanwhile
        return ""
    resume = bool(checkpoints_of(folder))
    state.wait_for_everyone()  # all have looked
    try:
        if state.is_main_process:
            (folder / _FAILED).unlink(missing_ok=True)
            check_model_folder(_model(run))
            shutil.rmtree(_model(run), ignore_errors=True)  # damaged, or cut off
        train(run, resume=resume, corpus=corpus)
        state.wait_for_everyone()  # the main process has saved it
        # the model stays; optimiser states of many members would not fit
        for checkpoint in checkpoints_of(folder) if state.is_main_process else ():
            shutil.rmtree(checkpoint)
        state.wait_for_everyone()
    except Exception as error:  # whatever it is, it is this member's alone
        if state.is_main_process:
            _leave_word(folder)
        if state.num_processes > 1:  # the others may be in the middle of a step, and wait
            raise
        return f"{type(error).__name__}: {error}"
    return ""


def _leave_word(folder: Path) -> None:
    """Write down the error that is being handled, if there is room for it."""
    try:
        (folder / _FAILED).write_text(traceback.format_exc(), encoding="utf-8")
    except OSError as error:
        logger.warning("%s cannot be written: %s", folder / _FAILED, error)


def _apart(run: Run, corpus: ExportedCorpus, train: Train, places: "queue.Queue[int]", jobs: int) -> str:
    """Train a member in a process of its own, on a device of its own if there are any; what went wrong, or nothing."""
    with suppress(OSError):  # a process that dies at once does not get to removing what an earlier one said
        (Path(run.training.output_dir) / _FAILED).unlink()
    place, context = places.get(), multiprocessing.get_context("spawn")
    listening, speaking = context.Pipe(duplex=False)
    try:
        process = context.Process(target=_worker, args=(run.values, corpus, train, jobs, speaking))
        with _STARTING, _only_device(place):
            process.start()
        speaking.close()  # the process has its own, and when that closes there is nothing more to hear
        try:
            error = listening.recv()
        except EOFError:
            error = None
        process.join()
    finally:
        listening.close()
        places.put(place)
    return f"its process ended with status {process.exitcode}" if error is None else error


def _worker(values: dict[str, Any], corpus: ExportedCorpus, train: Train, jobs: int, speaking: Connection) -> None:
    """What runs in a member's process."""
    end_with_parent()
    torch.set_num_threads(max(torch.get_num_threads() // jobs, 1))
    speaking.send(_here(make_run(values), corpus, train))


@contextmanager
def _only_device(place: int) -> Iterator[None]:
    """Let a process that starts here see one CUDA device only: with several, the library would use them all."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = before.split(",") if before else [str(number) for number in range(torch.cuda.device_count())]
    if seen:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[place % len(seen)]
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
