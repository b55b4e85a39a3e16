"""Bring together what is compared: predictions, targets and items row by row, and conditions."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from annot_hf.data.conditions import CLEAN, Condition
from annot_hf.data.encoding import by_name, check_choice
from annot_hf.data.predictions import ROBUSTNESS_FOLDER, Predictions, check_unique
from annot_hf.data.questions import normal_form_hint
from annot_hf.data.targets import Targets
from annot_hf.evaluation.resampling import Resamples
from annot_hf.models.measures import check_distributions

Speakers = Mapping[str, str] | Sequence[str] | np.ndarray | None
Groups = Mapping[str, Mapping[str, Any]]

SPEAKER_COLUMNS = ("sex", "gender")
# Predictions are comparable if these are equal.
ORIGIN = ("model", "corpus", "split")
# The smallest predicted probability under a logarithm; reports state it.
FLOOR = 1e-8
# In a folder of controls: of which model they are.
CONTROLS = "controls.json"


@dataclass(frozen=True, eq=False)
class Reference:
    """The evaluated items, the distributions of their votes `q` `(n, K)`, the `marginal` `(K,)`, and the resamples.

    `rows` and `items` `(n,)` are in the targets' order; `baseline` is the origin of the marginal in words.
    """

    targets: Targets
    rows: np.ndarray
    items: np.ndarray
    q: np.ndarray
    marginal: np.ndarray
    baseline: str
    resamples: Resamples
    only_predicted: int
    only_target: int

    @property
    def speakers(self) -> np.ndarray | None:
        """Speaker of each item `(n,)`, or None."""
        return self.resamples.clusters

    @property
    def votes(self) -> np.ndarray:
        """Votes of each item `(n,)`."""
        return np.asarray(self.targets.votes_per_item)[self.rows]


def align(
    systems: Mapping[str, Predictions],
    targets: Targets,
    *,
    speakers: Speakers = None,
    marginal: Sequence[float] | Mapping[str, float] | np.ndarray | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    on_missing: Literal["error", "exclude"] = "error",
) -> tuple[Reference, dict[str, np.ndarray]]:
    """The reference, and each system's row for every evaluated item `(n,)`, paired by item name; see `evaluate`."""
    check_choice("on_missing", on_missing, ("error", "exclude"))
    check_distributions(targets.probs, "Targets")
    check_unique(targets.items, "Targets' items")
    first, predictions = next(iter(systems.items()))
    names, rows = pd.Index(np.asarray(targets.items, dtype=object)), {}
    for name, one in systems.items():
        one.in_order(targets.support)
        if one is not predictions:
            _check_same_items(predictions, one, (first, name))
        rows[name] = pd.Index(one.items).get_indexer(names)
    found = rows[first] >= 0
    extra = ~pd.Index(predictions.items).isin(names)
    if on_missing == "error" and (extra.any() or not found.all()):
        raise ValueError(
            f"Items differ: {extra.sum()} predicted without target{examples(predictions.items[extra])}, "
            f"{(~found).sum()} targets without prediction{examples(np.asarray(targets.items)[~found])}"
            f"{normal_form_hint(predictions.items[extra], np.asarray(targets.items)[~found])}; "
            'predict exactly the target items, or pass on_missing="exclude" to score the common ones and count the rest.'
        )
    if not found.any():
        raise ValueError("Predictions and targets have no item in common; check that both use the corpus's item names.")
    rows = {name: one[found] for name, one in rows.items()}
    items, q = np.asarray(targets.items, dtype=object)[found], np.asarray(targets.probs, dtype=np.float64)[found]
    q = q / q.sum(axis=1, keepdims=True)
    base, baseline = marginal_of(marginal, q, targets.support)
    resamples = Resamples(speakers_of(speakers, predictions, items, rows[first]), n_resamples, seed)
    left_out = (int(extra.sum()), int((~found).sum()))
    return Reference(targets, np.flatnonzero(found), items, q, base, baseline, resamples, *left_out), rows


def _check_same_items(a: Predictions, b: Predictions, names: tuple[str, str]) -> None:
    only = [one.items[~pd.Index(one.items).isin(other.items)] for one, other in ((a, b), (b, a))]
    parts = [f"{len(left)} only in {name}{examples(left)}" for name, left in zip(names, only, strict=True) if len(left)]
    if parts:
        raise ValueError(
            f"The runs differ in {sum(map(len, only))} items: {' and '.join(parts)}; predict the same items with both."
        )


def speakers_of(
    speakers: Speakers, predictions: Predictions | None, items: np.ndarray, rows: np.ndarray | None
) -> np.ndarray | None:
    """Speaker of every evaluated item `(n,)`; None if all are null or blank, so that items are resampled.

    Those that are not given by name are in the order of the predictions, of which the items are these `rows` `(n,)`.
    """
    if speakers is None:
        return None
    if isinstance(speakers, Mapping | pd.Series):
        named, known = [speakers.get(item) for item in items], all(item in speakers for item in items)
    elif len(speakers) == len(predictions):
        named, known = np.asarray(speakers, dtype=object)[rows], True
    else:
        raise ValueError(
            f"There are {len(speakers)} speakers for {len(predictions)} predicted items; give one per item."
        )
    missing = items[[bool(pd.isna(name)) or not str(name).strip() for name in named]]
    if known and len(missing) == len(named):
        return None
    if len(missing):
        raise ValueError(
            f"{len(missing)} evaluated items have no speaker{examples(missing)}; name the speaker of every item, or "
            "of none (speakers=None, or a column without any) to resample items."
        )
    return np.array([str(name) for name in named], dtype=object)


def marginal_of(
    marginal: Sequence[float] | Mapping[str, float] | np.ndarray | None, q: np.ndarray, support: Sequence[str]
) -> tuple[np.ndarray, str]:
    """The marginal distribution `(K,)`, exactly normalised, and its origin; without one, the mean of `q` `(n, K)`."""
    said = "the marginal distribution of the training votes"
    if marginal is None:
        said = "the mean distribution of the evaluated votes themselves (no training marginal was given)"
        marginal = q.mean(axis=0)
    marginal = np.asarray(by_name(marginal, [support], "The marginal"), dtype=np.float64)
    if marginal.shape != q.shape[1:]:
        raise ValueError(
            f"The marginal has shape {marginal.shape} for {q.shape[1]} labels; give one probability per label."
        )
    check_distributions(marginal[None], "The marginal")
    return marginal / marginal.sum(), said


def floored(p: np.ndarray) -> np.ndarray:
    """Distributions `(..., K)` with every probability at least about `FLOOR`, for use under a logarithm."""
    raised = np.maximum(p, FLOOR)
    return raised / raised.sum(axis=-1, keepdims=True)


def examples(names: Sequence[str] | np.ndarray) -> str:
    """Up to three of the names in brackets for an error message; empty without names."""
    return f" (such as {', '.join(repr(name) for name in names[:3])})" if len(names) else ""


def items_by_name(items: pd.DataFrame) -> pd.DataFrame:
    """The item table by item name; raises when it has no column `item` or lists an item twice."""
    if "item" not in items:
        raise ValueError(f"The item table has columns {', '.join(map(str, items.columns))}; it needs a column 'item'.")
    twice = items["item"][items["item"].duplicated()]
    if len(twice):
        raise ValueError(f"The item table lists {twice.iloc[0]!r} twice; give each item one row.")
    return items.set_index("item")


def groups_of(about: pd.DataFrame | None, names: Sequence[str] | None = None) -> Groups:
    """The named metadata columns, by default those of `sex` and `gender` that exist: column -> item -> value."""
    have = [] if about is None else list(about.columns)
    for name in names or ():
        if name not in have:
            raise ValueError(
                f"The item table has no column {name!r} to group speakers by; it has {', '.join(map(str, have)) or 'none'}."
            )
    chosen = [name for name in SPEAKER_COLUMNS if name in have] if names is None else names
    return {name: about[name] for name in chosen}


def read_conditions(folder: str | os.PathLike[str]) -> dict[str, Predictions]:
    """Predictions that `annot-hf predict` wrote, by path: in the folders of `folder`, or in `folder` itself."""
    # The folder may hold the predictions of one condition.
    alone = Path(folder) / "predictions.json"
    files = [alone] if alone.is_file() else sorted(Path(folder).glob("*/predictions.json"))
    if not files:
        raise ValueError(
            f"No folder in {folder} holds predictions; write them with annot-hf predict --condition noise:10 --condition "
            f"telephone --out {folder}."
        )
    return {str(file.parent): Predictions.load(file.parent) for file in files}


def read_robustness(folder: str | os.PathLike[str]) -> dict[str, Predictions]:
    """The predictions of a sample under acoustic conditions that lie beside predictions, by path; empty without any."""
    files = sorted((Path(folder) / ROBUSTNESS_FOLDER).glob("*/predictions.json"))
    return {str(file.parent): Predictions.load(file.parent) for file in files}


def read_controls(folder: str | os.PathLike[str], predictions: Predictions) -> dict[str, Predictions]:
    """Predictions of the controls that `annot-hf controls` trained, by name, of the split of some predictions."""
    split = predictions.meta.get("split", "test")
    files = sorted(Path(folder).glob(f"*/predictions-{split}/predictions.json"))
    if not files:
        raise ValueError(
            f"No folder in {folder} holds predictions of a control on split {split!r}; write them with annot-hf controls RUN "
            f"--corpus C --out {folder} --split {split}."
        )
    of = Path(folder) / CONTROLS
    trained = json.loads(of.read_text(encoding="utf-8"))["model_sha256"] if of.is_file() else None
    if trained is not None and predictions.meta.get("model_sha256", trained) != trained:
        raise ValueError(
            f"The controls in {folder} are those of another training than that of the predictions; train them again by the "
            "run that was predicted."
        )
    found = {file.parents[1].name: Predictions.load(file.parent) for file in files}
    for name, one in found.items():
        if one.meta.get("corpus_digest") != predictions.meta.get("corpus_digest"):
            raise ValueError(
                f"The control {name} in {folder} predicts another corpus than the predictions; train the controls on the same "
                "export."
            )
    return found


def by_condition(predictions: Predictions, altered: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Predictions by condition, "clean" first, then by kind and from mild to hard."""
    if not _condition(predictions).is_clean:
        raise ValueError(
            f"The first predictions are under {_condition(predictions)}; give those for clean clips first."
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
            # Devices round differently.
            if not same or not np.allclose(probs, predictions.probs, atol=1e-5):
                raise ValueError(f"{name} is clean but differs from the first clean predictions; keep one of them.")
        elif condition in found:
            raise ValueError(f"{name} and {names[condition]} are both under {condition}; keep one of them.")
        else:
            found[condition], names[condition] = run, name
    if len(found) < 2:
        raise ValueError("All predictions are for clean clips; also predict under a condition, such as noise:10.")
    return {str(condition): found[condition] for condition in sorted(found, key=lambda one: one.rank)}


def _condition(predictions: Predictions) -> Condition:
    return Condition.parse(str(predictions.meta.get("condition", CLEAN)))


def _origin(predictions: Predictions) -> list[str | None]:
    """The entries of `ORIGIN`, with the model's folder as an absolute path."""
    said = [predictions.meta.get(what) for what in ORIGIN]
    return [said[0] and os.path.abspath(said[0]), *said[1:]]
