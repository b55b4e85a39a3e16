"""What a folder already holds: which run it is of, and under which names its model answered."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annot_hf.proxies.job import IDENTITY
from annot_hf.proxies.log import LOG, read_log

_RUN = '{"kind": "run"'


@dataclass(frozen=True)
class ModelNames:
    """Under which names the model that is asked may answer.

    Attributes:
        asked: Its name.
        others: Further names that the user said are its own.
    """

    asked: str
    others: Sequence[str] = ()

    def __call__(self, model: str) -> bool:
        """Whether an answer by a model of this name is one of the model that was asked.

        It may have its name, that of a dated version or a revision of it, or the last part of its path; a server that does
        not tell is believed.
        """
        return (
            model in ("", self.asked, *self.others)
            or re.fullmatch(rf"{re.escape(self.asked)}((-preview|-exp|-latest)?(-\d{{2,}})*|@[^/]+)", model) is not None
            or self.asked.rstrip("/").endswith(f"/{model}")
            or model.rstrip("/").endswith(f"/{self.asked}")
        )


def check_earlier(out: Path, facts: Mapping[str, Any], *, aside: Sequence[str] = ()) -> None:
    """Refuse to go on with a run of something else.

    Args:
        out: Folder, which may be new.
        facts: What the run is (`Job.facts`).
        aside: Entries of `IDENTITY` that are not known.

    Raises:
        ValueError: The folder holds another run, or its log does not begin with a run.
    """
    path = out / LOG
    first = next(read_log(path), None) if path.is_file() else None
    if first is None:
        return
    if first.get("kind") != "run":
        raise ValueError(
            f"{path} does not begin with the record of a run; restore its first line, or name another folder."
        )
    changed = [name for name in IDENTITY if name not in aside and first.get(name) != facts[name]]
    if changed:
        raise ValueError(
            f"{out} holds a run of another {' and another '.join(changed)}; go on with what it was started with, or name "
            "another folder."
        )


def names_in(out: Path, asked: str, answers_as: str) -> ModelNames:
    """The names of the model: what it is asked by, what the user says now, and what they said in earlier runs."""
    others = {answers_as} - {""}
    if (out / LOG).is_file():
        with (out / LOG).open(encoding="utf-8", errors="replace") as lines:
            others |= {json.loads(line).get("answers_as", "") for line in lines if line.startswith(_RUN)} - {""}
    return ModelNames(asked, tuple(sorted(others)))
