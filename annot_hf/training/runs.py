"""One run from its recipe to its predictions: what is there already is kept, what is half done is finished."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from annot_hf.data.corpus import replace_file
from annot_hf.data.export import ExportedCorpus
from annot_hf.evaluation.predictions import Predictions
from annot_hf.training.checkpoints import FACTS, checkpoints_of, held, read_record, write_record
from annot_hf.training.inference import predict
from annot_hf.training.members import trains_members
from annot_hf.training.outputs import check_model_folder
from annot_hf.training.recipe import Run
from annot_hf.training.train import train

logger = logging.getLogger(__name__)

DONE = "done.json"


def predictions_of(run: Run, corpus: ExportedCorpus, split: str = "test", *, keep_model: bool = True) -> Predictions:
    """Predictions of a run on one split: read if they are there, else from its model, which is trained if it is not.

    Its `output_dir` then holds `done.json` (what the run is), `training.json` (what came out of it), `predictions-SPLIT`
    and the model.

    Args:
        run: From `load_recipe`; its `output_dir` belongs to it alone.
        corpus: The corpus it learns from, or a view of it.
        split: The split to predict.
        keep_model: Keep the model once the predictions are written. Without it, another split needs a new training.

    Raises:
        ValueError: The folder holds a run of another recipe, corpus or part of it, another process works in it, or the run
            itself does not fit.
    """
    with held(run.training.output_dir):
        return _predictions_of(run, corpus, split, keep_model)


def _predictions_of(run: Run, corpus: ExportedCorpus, split: str, keep_model: bool) -> Predictions:
    """The same, in a folder that this process holds."""
    folder = Path(run.training.output_dir)
    model, kept, done = folder / "model", folder / f"predictions-{split}", read_record(folder / DONE)
    if done is not None:
        changed = run.changes(done, corpus)
        if changed:
            raise ValueError(
                f"{folder} holds a run of another plan or corpus ({', '.join(changed)} changed); name another folder, or "
                "remove it."
            )
    predictions = None if done is None else _read(kept)
    if predictions is None:
        if done is None or not model.is_dir():
            logger.info("%s", folder)
            train(run, resume=any(folder.glob("checkpoint-*")) or trains_members(run), corpus=corpus)
            replace_file(folder / FACTS, lambda path: shutil.copyfile(model / FACTS, path))
            write_record(folder / DONE, run.record(corpus))
            # the model stays; the optimiser states of many runs would not fit
            for checkpoint in checkpoints_of(folder):
                shutil.rmtree(checkpoint)
        predictions, _ = predict(model, corpus, split=split, features=run.recipe.features)
        predictions.save(kept)
    if not keep_model and model.is_dir():
        check_model_folder(model)
        shutil.rmtree(model)
    return predictions


def check_trunk(system: str, several: Sequence[Predictions]) -> None:
    """Whether all runs of a system had one trunk, which may be replaced while they are trained.

    Raises:
        ValueError: They had not.
    """
    if len({one.meta.get("trunk") for one in several} - {None}) > 1:
        raise ValueError(
            f"The trunk's weights were replaced between runs of {system!r}, and go into no table together; train them again "
            "in another folder."
        )


def _read(folder: Path) -> Predictions | None:
    """Predictions that are there; None if there are none, or they were cut off, which is said."""
    if not folder.is_dir():
        return None
    try:
        return Predictions.load(folder)
    except ValueError as error:
        logger.warning("%s Items are predicted again.", error)
        return None
