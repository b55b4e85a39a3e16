"""Whether the plurality is among the n most probable labels, over all items and per speaker (paUAR)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.evaluation.resampling import Measured, Resamples
from annot_hf.models.measures import accuracy_of, class_counts, uar_of

DEPTHS = (1, 2, 3)
LEVELS = (75, 50)
FEWEST = (1, 10, 20)
# In floating point, a mean recall of exactly .75 may exceed .75.
_RECALL_SLACK = 1e-12


@dataclass(frozen=True, eq=False)
class SpeakerGroup:
    """A group of speakers for paUAR.

    Attributes:
        key: Suffix of its measures: "", "min10", "sex=female".
        title: Its name in a table.
        rows: Which of the sorted speakers `(S,)` belong to it.
    """

    key: str
    title: str
    rows: np.ndarray = field(repr=False)


def plurality_rank(p: np.ndarray, true: np.ndarray) -> np.ndarray:
    """How many labels precede the true one `(n,)` by predicted probability; ties in support order.

    Args:
        p: Predicted distributions `(n, K)`.
        true: Codes of the true labels `(n,)`.
    """
    own = p[np.arange(len(p)), true][:, None]
    earlier = np.arange(p.shape[1]) < true[:, None]
    return ((p > own) | ((p == own) & earlier)).sum(axis=1)


def depths(classes: int) -> tuple[int, ...]:
    """The meaningful n of the n-best measures: those below the number of labels."""
    return tuple(n for n in DEPTHS if n < classes)


def measure_n_best(
    systems: Mapping[str, np.ndarray],
    q: np.ndarray,
    resamples: Resamples,
) -> dict[str, Measured]:
    """n-best accuracy and n-best unweighted average recall, n = 1, 2, 3, named such as "uar_2_best".

    An item is right if the plurality of its votes is among the n most probable labels. (arXiv 2503.22711)

    Args:
        systems: Predictions of each system `(n, K)`.
        q: Distributions of the votes `(n, K)`.
        resamples: Resamples of the items.
    """
    true, columns = q.argmax(axis=1), {}
    cell = true
    for system, p in systems.items():
        rank = np.minimum(plurality_rank(p, true), max(DEPTHS))
        _, cell = np.unique(cell * (max(DEPTHS) + 1) + rank, return_inverse=True)
        columns |= {f"{system}/{n}": _hits(rank, true, n, q.shape[1]) for n in depths(q.shape[1])}
    sums = resamples.cells(columns, cell)
    out = {}
    for n in depths(q.shape[1]):
        for name, title, of in (("accuracy", "Accuracy", accuracy_of), ("uar", "Average recall (UAR)", uar_of)):
            draws = {system: of(sums[f"{system}/{n}"]) for system in systems}
            out[f"{name}_{n}_best"] = Measured(f"{title}, {n}-best", "0 to 1", "higher", draws)
    return out


def speaker_uar(p: np.ndarray, q: np.ndarray, speakers: np.ndarray, n: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The n-best UAR of every speaker, over the labels that are the plurality of an item of that speaker.

    Args:
        p: Predicted distributions `(N, K)`.
        q: Distributions of the votes `(N, K)`.
        speakers: Speaker of each item `(N,)`.
        n: How many of the most probable labels count.

    Returns:
        The speakers `(S,)`, sorted, and their UAR `(S,)` in [0, 1].
    """
    true = q.argmax(axis=1)
    names, code = np.unique(np.asarray(speakers).astype(str), return_inverse=True)
    cell, classes = code * q.shape[1] + true, len(names) * q.shape[1]
    hits = np.bincount(cell, weights=plurality_rank(p, true) < n, minlength=classes).reshape(len(names), -1)
    items = np.bincount(cell, minlength=classes).reshape(len(names), -1)
    return names, uar_of(np.stack([hits, items, items], axis=1))


def speaker_groups(
    speakers: np.ndarray, items: np.ndarray, columns: Mapping[str, Mapping[str, Any]] | None = None
) -> list[SpeakerGroup]:
    """All speakers, speakers with at least 10 and 20 items, and speakers with the same value of a metadata column.

    Args:
        speakers: Speaker of each item `(n,)`.
        items: Names of the items `(n,)`.
        columns: Column such as "sex" -> item -> value. A speaker whose items differ in it is listed as "varies".
    """
    _, code, count = np.unique(np.asarray(speakers).astype(str), return_inverse=True, return_counts=True)
    groups = [SpeakerGroup("", "all speakers", count >= 1)]
    groups += [
        SpeakerGroup(f"min{least}", f"speakers with at least {least} items", count >= least) for least in FEWEST[1:]
    ]
    for column, values in (columns or {}).items():
        told = pd.Series([_told(values.get(item)) for item in items]).groupby(code)
        value = told.first().where(told.nunique() == 1, "varies").to_numpy()
        groups += [SpeakerGroup(f"{column}={one}", f"{column}: {one}", value == one) for one in sorted(set(value))]
    return groups


def measure_speakers(
    systems: Mapping[str, np.ndarray],
    q: np.ndarray,
    groups: Sequence[SpeakerGroup],
    resamples: Resamples,
) -> dict[str, Measured]:
    """paUAR: share (%) of speakers whose own UAR exceeds .75 or .50, named such as "pauar75_2_best_min10".

    The UAR must be strictly above the level; for 1-, 2- and 3-best. Intervals resample the speakers of the group
    (arXiv 2503.22711).

    Args:
        systems: Predictions of each system `(n, K)`.
        q: Distributions of the votes `(n, K)`.
        groups: What `speaker_groups` found.
        resamples: Resamples of the items, whose clusters are the speakers.
    """
    above = {}
    for system, p in systems.items():
        for n in depths(q.shape[1]):
            uar = speaker_uar(p, q, resamples.clusters, n)[1]
            above |= {(level, n, system): uar > level / 100 + _RECALL_SLACK for level in LEVELS}
    out = {}
    for group in groups:
        columns = {"/".join(map(str, key)): flag[group.rows] for key, flag in above.items()}
        count = int(group.rows.sum())
        sums = resamples.of_units().sums(columns) if count and columns else {}
        for level in LEVELS:
            for n in depths(q.shape[1]):
                draws = {
                    system: 100 * sums[f"{level}/{n}/{system}"] / count if count else np.full(1, np.nan)
                    for system in systems
                }
                title = f"paUAR-{level}, {n}-best, {group.title}"
                name = f"pauar{level}_{n}_best" + (f"_{group.key}" if group.key else "")
                out[name] = Measured(title, "%", "higher", draws)
    return out


def _hits(rank: np.ndarray, true: np.ndarray, n: int, classes: int) -> np.ndarray:
    """`class_counts` `(N, 3, K)` in which the plurality counts as predicted if it is among the n best."""
    return class_counts(np.where(rank < n, true, -1), true, classes)


def _told(value: Any) -> str:
    return "not stated" if value is None or pd.isna(value) else str(value)
