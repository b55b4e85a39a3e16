"""Checkpoints that a run left behind, of which the last may have been cut off while it was written."""

import json
import logging
import shutil
from pathlib import Path

from accelerate import PartialState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

FACTS = "training.json"  # what a run says of itself; the last file that it writes into its model folder
WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, ADAPTER_SAFE_WEIGHTS_NAME)

logger = logging.getLogger(__name__)


def checkpoints_of(folder: str | Path) -> list[Path]:
    """Checkpoints in a run's folder, complete or not, the oldest first."""
    found = [(path.name.removeprefix("checkpoint-"), path) for path in Path(folder).glob("checkpoint-*")]
    return [path for _, path in sorted((int(step), path) for step, path in found if step.isdecimal())]


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete checkpoint in a run's folder, if there is one; those that are not complete are removed.

    With several processes, all must call it: the main one removes, the others wait.
    """
    found = checkpoints_of(folder)
    complete = [path for path in found if _is_complete(path)]
    state = PartialState()
    state.wait_for_everyone()  # all have looked
    for path in found if state.is_main_process else ():
        if path not in complete:
            logger.warning("%s was cut off while it was written, and is removed.", path)
            shutil.rmtree(path)
    state.wait_for_everyone()
    return complete[-1] if complete else None


def _is_complete(checkpoint: Path) -> bool:
    """Whether it has weights and the trainer's state, which is written last."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return any((checkpoint / name).is_file() for name in WEIGHTS)
