"""What a model of raters gains by knowing them: the same recipe without raters, and with rater names that mean nothing."""

import os
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from annot_hf.data.export import read_export
from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import read_yaml
from annot_hf.evaluation.alignment import CONTROLS
from annot_hf.experiments.plans import DONE, predictions_of
from annot_hf.models.configuration_annotator import AnnotatorConfig
from annot_hf.models.configuration_distribution import DistributionConfig
from annot_hf.models.trunks import weights_digest
from annot_hf.training.checkpoints import clear_run, write_record
from annot_hf.training.keys import keys_of
from annot_hf.training.recipe import make_run

# Keys that only a model of raters has.
_OF_RATERS = {*keys_of(AnnotatorConfig), "schedule.tasks", "raters"} - {*keys_of(DistributionConfig)}


def train_controls(
    run: str | os.PathLike[str],
    corpus: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str = "test",
    processes: int = 1,
    afresh: bool = False,
) -> dict[str, Predictions]:
    """Train the controls of a run by its own recipe, and predict a split with them; finished ones are read.

    "grid" learns the distribution directly, without raters; "shuffled" learns from the same votes under redrawn rater names.

    Args:
        run: Output folder of the training of an annotator model; it holds `recipe.yaml`.
        corpus: Folder of the exported corpus.
        out: Folder to write, with a folder for each control; run with the same folder again to resume.
        split: Which split to predict.
        processes: How many controls are trained side by side.
        afresh: Train all again, in the folders of earlier ones.

    Raises:
        ValueError: The run is not that of an annotator model.
    """
    path = Path(run) / "recipe.yaml"
    if not path.is_file():
        raise ValueError(f"{run} holds no recipe.yaml; give the output_dir of a training that has ended.")
    planned = control_recipes(read_yaml(path.read_text(encoding="utf-8"), str(path)), str(path))
    jobs = [
        (values | {"corpus": str(corpus), "output_dir": str(Path(out) / name)}, str(corpus), split)
        for name, values in planned.items()
    ]
    for name in planned if afresh else ():
        clear_run(Path(out) / name)
        (Path(out) / name / DONE).unlink(missing_ok=True)
    if processes > 1:
        # Forked processes would share the threads of torch, and all threads of each would wait for each other.
        threads = max(1, torch.get_num_threads() // processes)
        pool = ProcessPoolExecutor(processes, get_context("spawn"), _start_quietly, (threads,))
        with pool:
            found = list(pool.map(_train_control, jobs))
    else:
        found = [_train_control(job) for job in jobs]
    # so that a report knows whose controls these are
    model = Path(run) / "model"
    write_record(Path(out) / CONTROLS, {"model_sha256": weights_digest(str(model)) if model.is_dir() else None})
    return dict(zip(planned, found, strict=True))


def control_recipes(values: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """The recipe of each control of a recipe of an annotator model."""
    if values.get("model") != "annotator":
        raise ValueError(
            f"{where} trains a {values.get('model', 'distribution')} model, which has no raters; give the run of an annotator "
            "model."
        )
    if values.get("votes.shuffle_raters"):
        raise ValueError(
            f"{where} has votes.shuffle_raters, so it is a control itself; give the run that it belongs to."
        )
    # One run is published, the run itself.
    shared = {key: value for key, value in values.items() if key != "push_to_hub" and not key.startswith("hub_")}
    grid = {key: value for key, value in shared.items() if key not in _OF_RATERS}
    return {"grid": grid | {"model": "distribution"}, "shuffled": shared | {"votes.shuffle_raters": True}}


def _start_quietly(threads: int) -> None:
    """Prepare a process; what two of them show at once, nobody could read."""
    torch.set_num_threads(threads)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends


def _train_control(job: tuple[dict[str, Any], str, str]) -> Predictions:
    values, corpus, split = job
    return predictions_of(make_run(values), read_export(corpus), split)
