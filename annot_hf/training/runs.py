"""One run from its recipe to its predictions: what is there already is kept, what is half done is finished."""

import json
import logging
import shutil
from pathlib import Path

from annot_hf.data.export import ExportedCorpus
from annot_hf.evaluation.predictions import Predictions
from annot_hf.training.checkpoints import FACTS, checkpoints_of
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
        ValueError: The folder holds a run of another recipe, corpus or part of it, or the run itself does not fit.
    """
    folder = Path(run.training.output_dir)
    done, model, kept = folder / DONE, folder / "model", folder / f"predictions-{split}"
    if done.is_file():
        changed = run.changes(json.loads(done.read_text(encoding="utf-8")), corpus)
        if changed:
            raise ValueError(
                f"{folder} holds a run of another plan or corpus ({', '.join(changed)} changed); name another folder, or "
                "remove it."
            )
    if not (kept / "predictions.json").is_file():
        if not (done.is_file() and model.is_dir()):
            logger.info("%s", folder)
            train(run, resume=any(folder.glob("checkpoint-*")) or trains_members(run), corpus=corpus)
            # the model stays; the optimiser states of many runs would not fit
            for checkpoint in checkpoints_of(folder):
                shutil.rmtree(checkpoint)
            shutil.copy(model / FACTS, folder / FACTS)
            done.write_text(json.dumps(run.record(corpus), indent=1) + "\n", encoding="utf-8")
        predictions, _ = predict(model, corpus, split=split, features=run.recipe.features)
        predictions.save(kept)
    if not keep_model and model.is_dir():
        check_model_folder(model)
        shutil.rmtree(model)
    return Predictions.load(kept)
