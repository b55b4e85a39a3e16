"""Members of an ensemble that are trained one by one, kept, and assembled (arXiv 2211.13196).

A member is a run of its own, in a folder named after what it is: an ensemble of ten takes the first five from one of five,
an interrupted one goes on, and a member that fails takes no other with it.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from annot_hf.data.export import ExportedCorpus
from annot_hf.models.configuration_seedbert import SeedBertConfig
from annot_hf.training.recipe import Run, make_run

logger = logging.getLogger(__name__)

Train = Callable[..., object]  # `annot_hf.training.train.train`
COMPLETE = "training.json"  # the last file that a run writes into its model folder
_FAILED = "failed.txt"
# keys of an ensemble that a member alone does not have
_TOGETHER = ("members", "num_members", "members_differ", "member_folder", "member_jobs", "distribution", "head_seed")
_STARTING = threading.Lock()  # the environment is the whole process's
_STRIDE = 1000  # between the seeds of two members, so that ensembles of neighbouring seeds share none


def trains_members(run: Run) -> bool:
    """Whether a run is that of an ensemble whose members are trained one by one."""
    return run.recipe.model == "seedbert" and run.options.get("members", SeedBertConfig().members) == "independent"


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


def members_folder(run: Run) -> Path:
    """Where an ensemble keeps its members."""
    return Path(run.recipe.member_folder or os.path.join(run.training.output_dir, "members"))


def train_members(run: Run, corpus: ExportedCorpus, train: Train) -> list[Path]:
    """Train the members that are not there yet, several at a time where there are devices.

    Args:
        run: Of an ensemble whose members are independent.
        corpus: What they learn from.
        train: `annot_hf.training.train.train`.

    Returns:
        Checkpoint folders of all members, in order.

    Raises:
        ValueError: Members failed; the others are trained and kept.
    """
    runs = member_runs(run, corpus)
    missing = [one for one in runs if not (_model(one) / COMPLETE).is_file()]
    if len(missing) < len(runs):
        logger.warning("%d of %d members are there already.", len(runs) - len(missing), len(runs))
    jobs = run.recipe.member_jobs or max(torch.cuda.device_count(), 1)
    if jobs > 1 and len(missing) > 1:
        places = queue.Queue()
        for place in range(jobs):
            places.put(place)
        with ThreadPoolExecutor(jobs) as pool:
            errors = list(pool.map(lambda one: _apart(one, corpus, train, places, jobs), missing))
    else:
        errors = [_here(one, corpus, train) for one in missing]
    failed = [(one, error) for one, error in zip(missing, errors, strict=True) if error]
    if failed:
        folder = Path(failed[0][0].training.output_dir)
        raise ValueError(
            f"{len(failed)} of {len(runs)} members failed, the first ({folder.name}) with: {failed[0][1]} (all of it is in "
            f"{folder / _FAILED}); the others are kept in {folder.parent}, and --resume trains what is missing."
        )
    return [_model(one) for one in runs]


def _model(run: Run) -> Path:
    return Path(run.training.output_dir) / "model"


def _here(run: Run, corpus: ExportedCorpus, train: Train) -> str:
    """Train a member; what went wrong, or nothing."""
    folder = Path(run.training.output_dir)
    logger.info("%s", folder)
    (folder / _FAILED).unlink(missing_ok=True)
    try:
        train(run, resume=any(folder.glob("checkpoint-*")), corpus=corpus)
    except Exception as error:  # whatever it is, it is this member's alone
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FAILED).write_text(traceback.format_exc(), encoding="utf-8")
        return f"{type(error).__name__}: {error}"
    for checkpoint in folder.glob("checkpoint-*"):  # the model stays; optimiser states of many members would not fit
        shutil.rmtree(checkpoint)
    return ""


def _apart(run: Run, corpus: ExportedCorpus, train: Train, places: "queue.Queue[int]", jobs: int) -> str:
    """Train a member in a process of its own, on a device of its own if there are any; what went wrong, or nothing."""
    place = places.get()
    try:
        process = multiprocessing.get_context("spawn").Process(target=_worker, args=(run.values, corpus, train, jobs))
        with _STARTING, _only_device(place):
            process.start()
        process.join()
    finally:
        places.put(place)
    if (_model(run) / COMPLETE).is_file():
        return ""
    said = Path(run.training.output_dir) / _FAILED
    if said.is_file():
        return said.read_text(encoding="utf-8").strip().splitlines()[-1]
    return f"its process ended with status {process.exitcode}"


def _worker(values: dict[str, Any], corpus: ExportedCorpus, train: Train, jobs: int) -> None:
    """What runs in a member's process."""
    torch.set_num_threads(max(torch.get_num_threads() // jobs, 1))
    _here(make_run(values), corpus, train)


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
