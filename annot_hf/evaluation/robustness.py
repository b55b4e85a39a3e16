"""One model under several acoustic conditions, against the same votes: what each costs, on the same resamples."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from annot_hf.data.conditions import CLEAN, Condition
from annot_hf.data.targets import Targets
from annot_hf.evaluation.alignment import align, marginal_of, speakers_of
from annot_hf.evaluation.predictions import Predictions
from annot_hf.evaluation.scoring import measure
from annot_hf.evaluation.statistics import estimate

MARGINAL = "marginal"
ORIGIN = ("model", "corpus", "split")  # what predictions to be compared have in common


@dataclass(frozen=True)
class Robustness:
    """What acoustic conditions cost.

    Attributes:
        conditions: Their names, "clean" first, then by kind and from mild to hard.
        measures: Measure (JSD, gap closed, and accuracy and UAR, or CCC per scale) -> `{title, unit, better, values,
            differences}`. `values` has `{value, low, high}` for each condition and "marginal"; `differences` has those of
            condition - clean (paired) for each condition but "clean".
        counts: Items and speakers.
        baseline: What the marginal is.
    """

    conditions: tuple[str, ...]
    measures: dict[str, dict[str, Any]]
    counts: dict[str, int]
    baseline: str

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values for JSON."""
        return {name: getattr(self, name) for name in ("conditions", "measures", "counts", "baseline")}


def read_conditions(folder: str | os.PathLike[str]) -> dict[str, Predictions]:
    """Predictions that `annot-hf predict` wrote, by path: in the folders of `folder`, or in `folder` itself.

    Raises:
        ValueError: There are none.
    """
    alone = Path(folder) / "predictions.json"  # of a single condition
    found = (
        [alone.parent] if alone.is_file() else sorted(path.parent for path in Path(folder).glob("*/predictions.json"))
    )
    if not found:
        raise ValueError(
            f"No folder in {folder} holds predictions; write them with annot-hf predict --condition noise:10 --condition "
            f"telephone --out {folder}."
        )
    return {str(path): Predictions.load(path) for path in found}


def measure_conditions(
    predictions: Predictions,
    altered: Mapping[str, Predictions],
    targets: Targets,
    *,
    speakers: Mapping[str, str] | Sequence[str] | np.ndarray | None = None,
    marginal: Sequence[float] | Mapping[str, float] | np.ndarray | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    on_missing: Literal["error", "exclude"] = "error",
) -> Robustness:
    """Score one model's predictions for clean clips and for the same clips under acoustic conditions.

    Every condition meets the same target distributions and the same marginal.

    Args:
        predictions: What the model says about the clean clips.
        altered: What it says about the same clips under conditions, as `meta["condition"]` names them; the keys name them
            in errors. Clean predictions among them must be those given first.
        targets: What the votes say.
        speakers: Speaker of each item, by name or in the order of `predictions.items`; resampling is then by speaker.
        marginal: Distribution of the training votes `(K,)`, the baseline.
        n_resamples: Bootstrap resamples behind each 95 % interval; 0 for none.
        seed: Seed of the resampling.
        on_missing: "error" or "exclude"; see `align`.

    Raises:
        ValueError: The predictions are not one model's on one split, a condition occurs twice or none is altered, or the
            inputs do not fit together.
    """
    runs = _by_condition(predictions, altered)
    pairings = {name: align(run, targets, on_missing=on_missing) for name, run in runs.items()}
    pairing = pairings[CLEAN]
    for name, other in pairings.items():
        if not np.array_equal(other.items, pairing.items):
            raise ValueError(f"Condition {name} and clean cover different items; predict the same items under both.")
    clusters = speakers_of(speakers, predictions, pairing)
    base, baseline = marginal_of(marginal, pairing.q, targets.support)
    systems = {name: other.p for name, other in pairings.items()}
    systems[MARGINAL] = np.tile(base, (len(pairing.q), 1))
    measured, _ = measure(systems, pairing.q, targets.questions, clusters, n_resamples=n_resamples, seed=seed)
    scales = [f"ccc_{question.name}" for question in targets.questions]
    told = ["jsd", "gap_closed", *(scales if predictions.is_scale else ["accuracy", "uar"])]
    records = {}
    for name in told:
        one = measured[name]
        values = {system: estimate(draws).to_dict() for system, draws in one.draws.items()}
        differences = {other: one.difference(other, CLEAN) for other in runs if other != CLEAN}
        records[name] = {"title": one.title, "unit": one.unit, "better": one.better}
        records[name] |= {"values": values, "differences": differences}
    counts = {"items": len(pairing.q), "speakers": 0 if clusters is None else len(set(clusters))}
    return Robustness(tuple(runs), records, counts, baseline)


def _by_condition(predictions: Predictions, altered: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Predictions by condition, in the order of `Robustness.conditions`."""
    if not _condition(predictions).is_clean:
        raise ValueError(
            f"The predictions to compare with are under {_condition(predictions)}; give those for clean clips first."
        )
    found, names = {Condition(CLEAN): predictions}, {}
    for name, run in altered.items():
        condition = _condition(run)
        for what, here, there in zip(ORIGIN, _origin(predictions), _origin(run), strict=True):
            if here != there:
                raise ValueError(
                    f"{name} has {what} {there!r} and the clean predictions have {here!r}; give predictions of one model on "
                    "one split."
                )
        if len({one.meta.get("model_sha256") for one in (predictions, run)} - {None}) > 1:
            raise ValueError(
                f"{name} is of another model than the clean predictions, which was in that folder at another time; predict "
                "under all conditions again."
            )
        if condition.is_clean:
            same = np.array_equal(run.items, predictions.items)
            probs = run.in_order(predictions.support).probs
            if not same or not np.allclose(probs, predictions.probs, atol=1e-5):  # devices round differently
                raise ValueError(
                    f"{name} is clean and differs from the clean predictions given first; keep one of them."
                )
        elif condition in found:
            raise ValueError(f"{name} and {names[condition]} are both under {condition}; keep one of them.")
        else:
            found[condition], names[condition] = run, name
    if len(found) < 2:
        raise ValueError("All predictions are for clean clips; predict under a condition too, such as noise:10.")
    return {str(condition): found[condition] for condition in sorted(found, key=lambda one: one.rank)}


def _condition(predictions: Predictions) -> Condition:
    return Condition.parse(str(predictions.meta.get("condition", CLEAN)))


def _origin(predictions: Predictions) -> list[str | None]:
    """What `ORIGIN` names, the model's folder as an absolute path."""
    said = [predictions.meta.get(what) for what in ORIGIN]
    return [said[0] and os.path.abspath(said[0]), *said[1:]]
