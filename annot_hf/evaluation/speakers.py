"""How unevenly systems serve speakers and other subsets of the items: their scores, the best and the worst."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.evaluation.alignment import Groups, Reference
from annot_hf.evaluation.categories import entropy_strata
from annot_hf.evaluation.raters import MARGINAL
from annot_hf.evaluation.resampling import Arrays, with_interval
from annot_hf.evaluation.scoring import ITEM_MEASURES
from annot_hf.models.measures import closed_gap

# The measures that rank speakers.
RANKED = ("gap_closed", "jsd")
# How many of the worst speakers are named.
WORST = 3
# A subset of fewer items says little.
FEWEST_ITEMS = 10


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


def score_subsets(kl: Arrays, reference: Reference, groups: Groups | None = None) -> list[dict[str, Any]]:
    """The gap that each system closes on subsets of at least `FEWEST_ITEMS` items, the marginal's gap on the same items.

    Intervals resample the speakers of a subset, or its items if they have one speaker.

    Args:
        kl: KL divergence of the votes from each system and from the marginal, by name `(n,)`, nats.
        reference: The evaluated items.
        groups: Metadata column -> item -> value.

    Returns:
        For each speaker, group, label (the items whose plurality it is) and tertile of the votes' entropy: `kind` ("speaker",
        "group", "label", "disagreement"), `name`, `items`, and the `gap_closed` (%) of each system with its interval.
    """
    q, support, chosen = reference.q, reference.targets.support, {}
    if reference.speakers is not None:
        chosen |= {("speaker", str(name)): reference.speakers == name for name in dict.fromkeys(reference.speakers)}
    for column, values in (groups or {}).items():
        told = pd.Series([values.get(item) for item in reference.items], dtype=object)
        stated = told.dropna().astype(str)
        chosen |= {("group", f"{column}: {one}"): (told.astype(str) == one).to_numpy() for one in sorted(set(stated))}
    if not reference.targets.questions[0].is_scale:
        chosen |= {("label", str(label)): q.argmax(axis=1) == k for k, label in enumerate(support)}
    strata = [one for one in entropy_strata(q, support) if one.scheme == "tertiles"]
    chosen |= {("disagreement", one.name): one.rows for one in strata}
    found = []
    for (kind, name), rows in chosen.items():
        if FEWEST_ITEMS <= rows.sum() < len(rows):
            drawn = reference.resamples.select(rows)
            drawn = drawn.of_units() if drawn.cluster_count == 1 else drawn
            means = drawn.means({system: values[rows] for system, values in kl.items()})
            base = means.pop(MARGINAL)
            gaps = {system: with_interval(closed_gap(mean, base)).to_dict() for system, mean in means.items()}
            found.append({"kind": kind, "name": name, "items": int(rows.sum()), "gap_closed": gaps})
    return found


def weakest_subset(subsets: Sequence[Mapping[str, Any]], system: str) -> Mapping[str, Any] | None:
    """The subset on which a system certainly closes least: whose interval ends lowest; by value without intervals."""
    for end in ("high", "value"):
        known = [one for one in subsets if one["gap_closed"][system][end] is not None]
        if known:
            return min(known, key=lambda one: one["gap_closed"][system][end])
    return None
