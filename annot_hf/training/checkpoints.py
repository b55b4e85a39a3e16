"""A run's folder: its lock, the record of what the run is, and its checkpoints, of which the last may be incomplete."""

import json
import logging
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from filelock import SoftFileLock, Timeout
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from annot_hf.data.corpus import replace_file
from annot_hf.models.checks import read_object

# what a run records of itself; the last file that it writes into its model folder
FACTS = "training.json"
WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, ADAPTER_SAFE_WEIGHTS_NAME)

_LOCK = "training.lock"
# seconds to wait for the lock of another process, whose end does not always show at once
_PATIENCE = 1.0

logger = logging.getLogger(__name__)


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Lock a run's folder; the lock of a process that has ended is ignored.

    A process may lock a folder again that it has locked. Of several processes of one run, the main one locks for all.

    Raises:
        ValueError: Another process works in the folder, or a file is in its place.
    """
    folder = Path(folder).resolve()
    if not PartialState().is_main_process:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{error.filename} is no folder and takes the place of a run; move it away.") from None
    lock = SoftFileLock(folder / _LOCK, timeout=_PATIENCE, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        pid, host = [*_lines(folder / _LOCK), "unknown", "unknown"][:2]
        raise ValueError(
            f"{folder / _LOCK} says that process {pid} on {host} works in this folder; wait for it, or remove that file "
            "if the process is gone."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _lines(path: Path) -> list[str]:
    """Words of a file that may be gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return []


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write what a run is (`Run.record`) in one step, so that a killed process leaves no half file."""
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_record(path: Path) -> dict[str, Any] | None:
    """What `write_record` wrote; None if there is no such file, or it cannot be read, which is logged."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"recipe", "corpus_digest"} <= set(found):
        logger.warning("%s is damaged, and counts as missing.", path)
        return None
    return found


def checkpoints_of(folder: str | Path) -> list[Path]:
    """Checkpoints in a run's folder, complete or not, the oldest first."""
    found = [(path.name.removeprefix("checkpoint-"), path) for path in Path(folder).glob("checkpoint-*")]
    return [path for _, path in sorted((int(step), path) for step, path in found if step.isdecimal())]


def newest_checkpoint(folder: str | Path, *, with_best: bool = False) -> Path | None:
    """The newest complete checkpoint in a run's folder, if there is one; newer, incomplete ones are removed.

    With several processes, all must call it: the main one removes, the others wait.

    Args:
        folder: The run's folder.
        with_best: Whether the run ends with its best checkpoint, which must then be there.

    Raises:
        ValueError: Another number of processes wrote it, or the best checkpoint so far is gone.
    """
    state, found, cut = PartialState(), checkpoints_of(folder), []
    while found and not _is_complete(found[-1], state.num_processes):
        cut.append(found.pop())
    # no process may remove what another still looks at
    state.wait_for_everyone()
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


def check_checkpoints(folder: str | Path) -> None:
    """Whether a run may go on in a folder that nothing says to be a run's: what it would remove as cut off may be a user's.

    Raises:
        ValueError: A checkpoint there is not complete, and not empty.
    """
    for path in checkpoints_of(folder):
        if any(path.iterdir()) and not _is_complete(path, PartialState().num_processes):
            raise ValueError(
                f"{path} is no complete checkpoint, and nothing says that this package wrote it; name another output_dir, or "
                "move it away."
            )


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
    stepped = any(checkpoint.glob("optimizer*")) and _is_archive(checkpoint / SCHEDULER_NAME)
    archives = [*generators, *checkpoint.glob(OPTIMIZER_NAME)]
    whole = (stepped or (checkpoint / "latest").is_file()) and generators and all(map(_is_archive, archives))
    return bool(whole) and _holds_weights(checkpoint)


def _state(checkpoint: Path) -> dict[str, Any] | None:
    """The trainer's state, which is written last; None if it is incomplete."""
    try:
        found = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "best_global_step" in found else None


def _holds_weights(checkpoint: Path) -> bool:
    return any((checkpoint / name).is_file() and (checkpoint / name).stat().st_size for name in WEIGHTS)


def _is_archive(path: Path) -> bool:
    """Whether a file of `torch.save` is complete: its table of contents is at its end."""
    return path.is_file() and zipfile.is_zipfile(path)


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of a checkpoint's training; empty if it has none.

    Raises:
        ValueError: They are no JSON object, or have no recipe.
    """
    if not (folder / FACTS).is_file():
        return {}
    facts = read_object(folder / FACTS)
    if not isinstance(facts.get("recipe", {}), dict):
        raise ValueError(f"{folder / FACTS} does not say how a model was trained; restore or remove it.")
    return facts
