"""How unevenly systems serve speakers: each one's scores, the best and the worst, and those worse than the marginal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.evaluation.resampling import Arrays
from annot_hf.evaluation.scoring import ITEM_MEASURES
from annot_hf.models.measures import closed_gap

# The measures that rank speakers.
RANKED = ("gap_closed", "jsd")
# How many of the worst speakers are named.
WORST = 3


def score_speakers(
    batches: Sequence[Arrays], runs: Mapping[str, Sequence[str]], speakers: np.ndarray | None
) -> dict[str, pd.DataFrame]:
    """Each speaker's scores by system: a table with the speakers as index; none with fewer than two speakers.

    Args:
        batches: Of each repeat, the per-item values of `item_columns`.
        runs: Names of each system's runs in these.
        speakers: Speaker of each item `(n,)`, or None.

    Returns:
        Columns `items`, `gap_closed` (%), `jsd` (nats) and `jsd_marginal`, each the mean over runs of the speaker's own score.
        The gap of a speaker whose votes leave the marginal nothing to gain is NaN.
    """
    if speakers is None or len(set(speakers)) < 2:
        return {}
    names, code, items = np.unique(np.asarray(speakers).astype(str), return_inverse=True, return_counts=True)

    def mean(column: np.ndarray) -> np.ndarray:
        return np.bincount(code, column) / items

    found = {}
    for system, keys in runs.items():
        parts = []
        for batch in batches:
            kl, jsd = (mean(batch[f"marginal/{name}"]) for name in ("kl", "jsd"))
            # A repeat has one run of each system.
            for key in (key for key in keys if f"{key}/kl" in batch):
                parts.append((closed_gap(mean(batch[f"{key}/kl"]), kl), mean(batch[f"{key}/jsd"]), jsd))
        columns = dict(zip((*RANKED, "jsd_marginal"), np.mean(parts, axis=0), strict=True))
        found[system] = pd.DataFrame({"items": items, **columns}, index=pd.Index(names, name="speaker"))
    return found


def speaker_spread(scores: pd.DataFrame) -> dict[str, Any]:
    """The best, median and worst speakers of a table of `score_speakers`, by gap closed and by JSD.

    For each of the two `best`, `median` (of two in the middle, the better one) and up to three `worst`, the worst first, each
    with `speaker`, `items` and `value`; `worse` counts the speakers that are further from the votes than the marginal is.
    """
    worse = {"gap_closed": scores["gap_closed"] < 0, "jsd": scores["jsd"] > scores["jsd_marginal"]}
    told: dict[str, Any] = {"speakers": len(scores)}
    for name in RANKED:
        ranked = scores[scores[name].notna()].sort_values(
            name, ascending=ITEM_MEASURES[name][2] == "lower", kind="stable"
        )
        order = [
            {"speaker": str(speaker), "items": int(row["items"]), "value": float(row[name])}
            for speaker, row in ranked.iterrows()
        ]
        told[name] = {
            "worse": int(worse[name].sum()),
            "best": order[0] if order else None,
            "median": order[(len(order) - 1) // 2] if order else None,
            "worst": order[::-1][:WORST],
        }
    return told
