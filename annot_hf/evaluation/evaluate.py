"""Evaluate predictions against votes: one system or many, with several runs, folds, acoustic conditions or raters.

All systems and measures share one reference and one set of resamples, so all differences are paired. The value of a system
is the mean over its runs, which differ in their seed or are the repeats of a cross-validation; the standard deviation between
runs is reported too. The folds of a repeat are scored as one prediction of all items, because macro-F1 and correlations are
not means over folds. Their baseline for an item is the mean distribution of the training part of its fold.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from annot_hf.data.conditions import CLEAN, Condition
from annot_hf.data.folds import Fold, count_folds, fold_marginals
from annot_hf.data.predictions import Predictions
from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import FLOOR, Groups, Reference, Speakers, align
from annot_hf.evaluation.calibration import (
    calibration_floor,
    expected_confusion,
    find_residual,
    measure_calibration,
    measure_residual,
)
from annot_hf.evaluation.equivalence import KEEP, Equivalence, rater_equivalence
from annot_hf.evaluation.ranking import (
    SpeakerGroup,
    depths,
    measure_n_best,
    measure_speakers,
    speaker_groups,
    speaker_uar,
)
from annot_hf.evaluation.raters import measure_raters
from annot_hf.evaluation.resampling import Measured
from annot_hf.evaluation.scales import describe_scales, measure_disagreement, measure_scales
from annot_hf.evaluation.scoring import count_classes, describe, measure, measure_entropy_ranks
from annot_hf.evaluation.strata import Stratum, entropy_strata, measure_strata
from annot_hf.models import measures

MODEL, MARGINAL, CONSENSUS = "model", "marginal", "consensus"
PARTS = ("items", "raters", "scales", "categories", "ranks")
# Predictions are comparable if these are equal.
ORIGIN = ("model", "corpus", "split")
OTHER_VOTES = "The systems predict different votes of named raters, so answers of single raters are not compared."
_FOLD_NOTES = (
    "Every item is predicted once per repeat, by a model trained without items of its {unit}; the folds of a repeat are "
    "scored as one. A value is the mean over repeats, ± the standard deviation between them (other folds, other seeds). "
    "Repeats share their items, so this is no standard error.",
    "Intervals do not cover the variation from other training data.",
    "The marginal, where the gap starts, is that of the votes in the training part of an item's fold. It differs only between "
    "folds, so its entropies are not correlated.",
)
# Separates the names of a system and of a run.
_SEPARATOR = "\x1f"

Systems = Predictions | Mapping[str, Predictions | Sequence[Predictions]]


# The class inherits equality from Mapping.
@dataclass(frozen=True, eq=False)
class Evaluation(Mapping[str, dict[str, Any]]):
    """A mapping from measure to `{title, unit, better, systems, differences}`, see `Measured.record`.

    A single system is called "model". Every measure also has the "marginal" and, for answers of single raters, the
    "consensus". Names of the measures: those of `ITEM_MEASURES`; "rater_..."; "ccc_<question>" and so on for scales;
    and for a category question "jsd_thirds_low", "macro_f1_tertiles_high", "accuracy_2_best", "pauar75_1_best",
    "pauar50_3_best_min10", "pauar75_1_best_sex=female", "ece", "ece_top", "ece_of_<label>", "residual_<label>".

    Attributes:
        systems: Names of the systems.
        pairs: Pairs of compared systems.
        parts: Part ("items", "raters", "scales", "categories", "ranks") -> measures by name, with all resamples.
        reference: The votes, marginal and resamples that all systems share.
        probs: Predictions of the first run of the first system `(n, K)`, rows exactly normalised.
        counts: Counts of items evaluated and left out, votes, speakers, ties, runs, rater answers.
        notes: Definitions and caveats in plain words.
        per_item: One row per item: speaker, votes, JSD of each system and of the marginal, entropies, pluralities.
        classes: Per label of a single system: shares of votes and of predicted probability, plurality items, F1.
        strata: For a category question, the items by entropy of their votes.
        groups: Speaker groups of paUAR; empty with fewer than two speakers.
        per_speaker: One row per speaker (index): items, labels (that win at least one item), n-best UAR of a single system.
        floor: ECE by chance of a single system if it were perfectly calibrated.
        confusion: Mean distribution `(K, K)` of a single system's predictions and of the votes over the items that each
            label wins, and their number `(K,)`.
        residual: The residual label, or None.
        equivalence: How many raters each system is worth; None for scales, or if no item has two votes.
        scales: For each further scale question of a single system: `question`, `items`, `covered`.
        disagreement: `kind` and `items` of the disagreement that a single system predicts, or None.
    """

    systems: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    parts: dict[str, dict[str, Measured]] = field(repr=False)
    reference: Reference = field(repr=False)
    probs: np.ndarray = field(repr=False)
    counts: dict[str, Any]
    notes: list[str]
    per_item: pd.DataFrame = field(repr=False)
    classes: list[dict[str, Any]] = field(default_factory=list)
    strata: list[Stratum] = field(default_factory=list)
    groups: list[SpeakerGroup] = field(default_factory=list)
    per_speaker: pd.DataFrame | None = field(default=None, repr=False)
    floor: dict[str, float] = field(default_factory=dict)
    confusion: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    residual: str | None = None
    equivalence: Equivalence | None = None
    scales: list[dict[str, Any]] = field(default_factory=list)
    disagreement: dict[str, Any] | None = None

    @property
    def support(self) -> tuple[str, ...]:
        """The fixed list of K labels or grid cells."""
        return tuple(self.reference.targets.support)

    def measured(self, name: str) -> Measured:
        """A measure with its resamples; raises a KeyError for a name that was not measured."""
        for part in self.parts.values():
            if name in part:
                return part[name]
        raise KeyError(name)

    def __getitem__(self, name: str) -> dict[str, Any]:
        measured = self.measured(name)
        # By definition, the marginal closes none of the gap, so the difference to it is redundant.
        pairs = [pair for pair in self.pairs if not (name.startswith("gap_closed") and MARGINAL in pair)]
        return measured.record(pairs)

    def __iter__(self) -> Iterator[str]:
        for part in self.parts.values():
            yield from part

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def at(self, name: str, system: str = MODEL) -> dict[str, Any] | None:
        """Value and interval of a measure; None if the system lacks it."""
        measured = self.measured(name)
        return measured.at(system) if system in measured.draws else None

    def difference(self, name: str, one: str = MODEL, other: str = MARGINAL) -> dict[str, float | None]:
        """Value and interval of `one` - `other`, paired."""
        return self.measured(name).difference(one, other)

    def better(self, name: str, one: str, other: str) -> str:
        """The better of two systems, by the interval of their difference; "" if the interval includes 0."""
        measured, difference = self.measured(name), self.difference(name, one, other)
        if not measured.better or difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
            return ""
        return one if (difference["low"] > 0) == (measured.better == "higher") else other

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the per-item table; the confusion of a label that wins no item is None."""
        groups = {}
        if self.per_speaker is not None:
            groups = {
                group.key or "all": {"title": group.title, **spread(self.per_speaker[group.rows])}
                for group in self.groups
            }
        return {
            "systems": list(self.systems),
            "measures": {part: {name: self[name] for name in found} for part, found in self.parts.items() if found},
            "counts": self.counts,
            "notes": self.notes,
            "baseline": self.reference.baseline,
            "classes": self.classes,
            "strata": [stratum.to_dict() for stratum in self.strata],
            "speakers": groups,
            "per_speaker": {} if self.per_speaker is None else self.per_speaker.to_dict("index"),
            "calibration_floor": self.floor,
            "confusion": {
                name: [None if np.isnan(row).any() else row.tolist() for row in matrix]
                for name, matrix in self.confusion.items()
            },
            "residual": self.residual,
            "equivalence": None if self.equivalence is None else self.equivalence.to_dict(),
            "scales": self.scales,
            "disagreement": self.disagreement,
        }


def evaluate(
    systems: Systems,
    targets: Targets,
    *,
    votes: VoteTable | None = None,
    speakers: Speakers = None,
    groups: Groups | None = None,
    marginal: Sequence[float] | Mapping[str, float] | np.ndarray | None = None,
    against: str | None = None,
    folds: Sequence[Fold] | None = None,
    unit: str = "speaker",
    parts: Sequence[str] = PARTS,
    residual: str = "other",
    keep: float = KEEP,
    n_resamples: int = 1000,
    seed: int = 0,
    on_missing: Literal["error", "exclude"] = "error",
) -> Evaluation:
    """Evaluate systems against the votes, together with the marginal baseline.

    All means are over items. For grids over two scale questions, CCC compares expectations at cell centres.

    Args:
        systems: Predictions of one system; or system -> predictions, or system -> predictions of its runs, all for the same
            items. With `folds`, one run per repeat, each with all tested items.
        targets: The targets, the reference of all measures.
        votes: The votes behind the targets, for rater equivalence, further scales, and disagreement.
        speakers: Speaker of each item, by name or in the order of the first system's items; resampling is then by speaker.
        groups: Metadata columns for paUAR: column such as "sex" -> item -> value.
        marginal: Distribution of the training votes `(K,)`; without it, the mean of the evaluated votes.
        against: The system that the others are compared with; by default the marginal for a single system, else the first.
        folds: The folds of all repeats of a cross-validation; items that none of them tests are not scored.
        unit: What `speakers` names, such as "conversation"; "item" without groups.
        parts: What to measure, of `PARTS`: distributions over items; answers of single raters; further scales; details of a
            category question (strata, ranks, speakers, calibration); rank correlation of entropies.
        residual: Name of the residual label, case-insensitive; ignored if the support lacks it.
        keep: Smallest share of the items that the curve of rater equivalence may be based on.
        n_resamples: Bootstrap resamples behind each 95 % interval; 0 for none.
        seed: Seed of the resampling.
        on_missing: What to do with items that only one side has: raise, or leave them out and count them.

    Raises:
        ValueError: There is no run, a system is called "marginal", or the inputs do not fit together; see `align`.
    """
    runs = _runs(systems)
    names, whole = tuple(runs), targets
    lone = len(names) == len(runs[names[0]]) == 1
    if against is None:
        against = MARGINAL if lone else names[0]
    if folds is not None:
        tested = np.any([fold.parts == "test" for fold in folds], axis=0)
        targets = targets.select(targets.items[tested])
    keyed = {
        _key(name, index): run.in_order(targets.support)
        for name, several in runs.items()
        for index, run in enumerate(several)
    }
    reference, rows = align(
        keyed, targets, speakers=speakers, marginal=marginal, n_resamples=n_resamples, seed=seed, on_missing=on_missing
    )
    probs = {key: run.probs[rows[key]] for key, run in keyed.items()}
    probs = {key: p / p.sum(axis=1, keepdims=True) for key, p in probs.items()}
    batches = [probs | {MARGINAL: np.tile(reference.marginal, (len(reference.q), 1))}]
    if folds is not None:
        batches = [
            {_key(name, repeat): probs[_key(name, repeat)] for name in names} | {MARGINAL: base[tested]}
            for repeat, base in enumerate(fold_marginals(whole, folds))
        ]
    q, questions, resamples = reference.q, targets.questions, reference.resamples
    found: dict[str, list[dict[str, Measured]]] = {part: [] for part in PARTS}
    columns: dict[str, np.ndarray] = {}
    details: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    notes: list[str] = []
    for batch in batches:
        over_items, more = measure(batch, q, questions, resamples)
        columns |= more
        found["items"].append(over_items)
        if "ranks" in parts:
            ranked = {name: p for name, p in batch.items() if folds is None or name != MARGINAL}
            found["ranks"].append({"entropy_rank_correlation": measure_entropy_ranks(ranked, q, resamples)})
    if "raters" in parts:
        answered, counts, same = _measure_raters(keyed, rows, reference)
        found["raters"].append(answered)
        notes += [] if same else [OTHER_VOTES]
    if "scales" in parts and votes is not None:
        found["scales"].append(measure_scales(keyed, votes, reference.items, resamples))
        if lone:
            found["scales"].append(measure_disagreement(keyed, votes, reference.items, resamples))
            details |= describe_scales(keyed[names[0]], votes, reference.items)
    if "categories" in parts and not questions[0].is_scale:
        details |= _groups(reference, groups, residual)
        found["categories"].append(_measure_categories(batches[0], reference, details))
        stacked = {name: np.stack([probs[_key(name, index)] for index in range(len(runs[name]))]) for name in names}
        details["equivalence"] = _worth(stacked, reference, votes, keep)
        if lone:
            details |= _details(probs[names[0]], reference)
    if lone:
        details["classes"] = count_classes(probs[names[0]], q, targets.support)
    measured = {part: _over_runs(several) for part, several in found.items()}
    if folds is not None:
        # The marginal differs only between folds, so its entropies are not correlated.
        del measured["items"]["entropy_correlation"].draws[MARGINAL]
        counts |= {"unit": unit, "items not tested": int((~tested).sum())}
        grouped = whole.items if speakers is None else np.array([speakers[item] for item in whole.items], dtype=object)
        counts |= {"groups": len(set(grouped[tested])), **count_folds(whole, folds, grouped)}
        notes += [note.format(unit=unit) for note in _FOLD_NOTES]
    pairs = [(name, against) for name in names if name != against]
    beside = [(name, CONSENSUS) for name in names if lone]
    return Evaluation(
        systems=names,
        pairs=(*pairs, *beside),
        parts=measured,
        reference=reference,
        probs=probs[names[0]],
        counts=_evaluation_counts(reference, probs, runs) | counts,
        notes=[*describe(resamples, len(q), targets.method, pairs, "group" if unit == "item" else unit), *notes],
        per_item=_per_item(reference, probs, columns, names),
        **details,
    )


def _runs(systems: Systems) -> dict[str, list[Predictions]]:
    """The runs of every system."""
    if isinstance(systems, Predictions):
        return {MODEL: [systems]}
    runs = {name: [one] if isinstance(one, Predictions) else list(one) for name, one in systems.items()}
    for name in (MARGINAL, CONSENSUS):
        if name in runs:
            raise ValueError(f"A system is called {name!r}, the name of the baseline; give it another name.")
    empty = [name for name, several in runs.items() if not several]
    if not runs or empty:
        raise ValueError(
            f"System {empty[0]!r} has no run; give at least one." if empty else "There is no system to score."
        )
    return runs


def _key(system: str, run: int) -> str:
    """The key of a run; the first run has the name of the system."""
    return f"{system}{_SEPARATOR}{run}" if run else system


def _over_runs(batches: Sequence[Mapping[str, Measured]]) -> dict[str, Measured]:
    """Measures of systems from the measures of their runs."""
    draws: dict[str, dict[str, list[np.ndarray]]] = {}
    about: dict[str, Measured] = {}
    for batch in batches:
        for name, one in batch.items():
            about[name] = one
            for key, values in one.draws.items():
                draws.setdefault(name, defaultdict(list))[key.partition(_SEPARATOR)[0]].append(values)
    return {
        name: Measured(
            about[name].title,
            about[name].unit,
            about[name].better,
            {
                system: several[0] if len(several) == 1 else np.mean(several, axis=0)
                for system, several in by_system.items()
            },
            {
                system: np.array([one[0] for one in several])
                for system, several in by_system.items()
                if len(several) > 1
            },
        )
        for name, by_system in draws.items()
    }


def _measure_raters(
    keyed: Mapping[str, Predictions], rows: Mapping[str, np.ndarray], reference: Reference
) -> tuple[dict[str, Measured], dict[str, int], bool]:
    """Measures over answers of named raters, counts of the first run, and whether all runs predict the same votes.

    Only a single run also has the consensus.
    """
    (first, one), *others = keyed.items()
    found, counts, scored = measure_raters(one, rows[first], reference)
    beside = (MARGINAL,) if others else (CONSENSUS, MARGINAL)
    draws = {
        name: {first: each.draws[MODEL]} | {system: each.draws[system] for system in beside}
        for name, each in found.items()
    }
    for key, other in others:
        measured, _, votes = measure_raters(other, rows[key], reference)
        if not np.array_equal(votes, scored):
            return {}, counts, False
        for name, each in measured.items():
            draws[name][key] = each.draws[MODEL]
    return (
        {name: Measured(each.title, each.unit, each.better, draws[name]) for name, each in found.items()},
        counts,
        True,
    )


def _groups(reference: Reference, groups: Groups | None, residual: str) -> dict[str, Any]:
    """The evaluated items of a category question in strata, and their speakers in groups."""
    support, speakers = reference.targets.support, reference.speakers
    index = find_residual(support, residual)
    return {
        "strata": entropy_strata(reference.q, support),
        "groups": speaker_groups(speakers, reference.items, groups) if reference.resamples.cluster_count > 1 else [],
        "residual": None if index is None else support[index],
    }


def _measure_categories(
    systems: Mapping[str, np.ndarray], reference: Reference, details: Mapping[str, Any]
) -> dict[str, Measured]:
    """Detailed measures of a category question."""
    q, support, resamples = reference.q, tuple(reference.targets.support), reference.resamples
    measured = measure_strata(systems, q, details["strata"], resamples)
    measured |= measure_n_best(systems, q, resamples)
    if details["groups"]:
        measured |= measure_speakers(systems, q, details["groups"], resamples)
    measured |= measure_calibration(systems, q, support, resamples)
    if details["residual"] is not None:
        index = support.index(details["residual"])
        if q[:, index].any():
            measured |= measure_residual(systems, q, support, index, resamples)
    return measured


def vote_counts(targets: Targets, votes: VoteTable | None = None) -> np.ndarray | None:
    """Whole votes per label `(N, K)` behind the targets; None if they are weighted, multi-select or not given.

    Raises:
        ValueError: The votes are not those that the targets were made from.
    """
    question = targets.questions[0]
    if question.multiple:
        return None
    if votes is not None:
        if votes.weights is not None:
            return None
        labels = votes.question(question.name).labels
        if sorted(labels) != sorted(targets.support):
            raise ValueError(
                f"Question {question.name!r} has the labels {', '.join(labels)} in the votes and {', '.join(targets.support)} "
                "in the targets; give the votes that the targets were made from."
            )
        counts = votes.counts(question.name, targets.items)[:, [labels.index(label) for label in targets.support]]
        odd = counts.sum(axis=1) != targets.votes_per_item
        if odd.any():
            row = int(np.argmax(odd))
            raise ValueError(
                f"Item {targets.items[row]!r} has {counts[row].sum():g} votes on {question.name} and its target "
                f"{targets.votes_per_item[row]:g}; give the votes that the targets were made from."
            )
        return counts
    counts = targets.probs * np.asarray(targets.votes_per_item)[:, None]
    whole = np.round(counts)
    return whole if targets.method == "soft" and np.allclose(counts, whole, atol=1e-6) else None


def _worth(
    systems: Mapping[str, np.ndarray], reference: Reference, votes: VoteTable | None, keep: float
) -> Equivalence | None:
    counts = vote_counts(reference.targets, votes)
    if counts is None:
        return None
    return rater_equivalence(systems, counts[reference.rows], reference.marginal, reference.resamples, keep=keep)


def _details(p: np.ndarray, reference: Reference) -> dict[str, Any]:
    """Details of a single system on a category question."""
    targets, q = reference.targets, reference.q
    votes = np.asarray(targets.votes_per_item)[reference.rows]
    return {
        "per_speaker": _per_speaker(p, reference),
        "floor": calibration_floor(p, votes, targets.support, seed=reference.resamples.seed),
        "confusion": {
            "predicted": expected_confusion(p, q),
            "votes": expected_confusion(q, q),
            "items": np.bincount(q.argmax(axis=1), minlength=q.shape[1]),
        },
    }


def _per_speaker(p: np.ndarray, reference: Reference) -> pd.DataFrame:
    speakers, q = reference.speakers, reference.q
    if speakers is None:
        return pd.DataFrame(columns=["items", "labels"])
    found = pd.DataFrame({"speaker": speakers, "won": q.argmax(axis=1)}).groupby("speaker")["won"]
    table = pd.DataFrame({"items": found.size(), "labels": found.nunique()}).sort_index()
    for n in depths(q.shape[1]):
        names, uar = speaker_uar(p, q, speakers, n)
        table[f"uar_{n}_best"] = pd.Series(uar, index=names)
    return table


def spread(speakers: pd.DataFrame) -> dict[str, Any]:
    """Number of speakers, and minimum, median and maximum of their items and labels."""
    told: dict[str, Any] = {"speakers": len(speakers)}
    for name in ("items", "labels"):
        column = speakers[name]
        told[name] = {end: float(getattr(column, end)()) if len(column) else None for end in ("min", "median", "max")}
    return told


def _evaluation_counts(
    reference: Reference, probs: Mapping[str, np.ndarray], runs: Mapping[str, Sequence[Predictions]]
) -> dict[str, Any]:
    q, size = reference.q, len(reference.q)
    votes = np.asarray(reference.targets.votes_per_item)[reference.rows].sum()
    first = next(iter(probs.values()))
    return {
        "n_expected": size + reference.only_predicted + reference.only_target,
        "n_evaluated": size,
        "predicted_without_target": reference.only_predicted,
        "target_without_prediction": reference.only_target,
        "votes": float(votes) if votes % 1 else int(votes),
        "speakers": reference.resamples.cluster_count,
        "plurality_ties": int(((q >= q.max(axis=1, keepdims=True) - 1e-12).sum(axis=1) > 1).sum()),
        "floored_probabilities": int(((first < FLOOR) & (q > 0)).sum()),
        "runs": {name: len(several) for name, several in runs.items()},
        "rater answers": {
            name: {
                "answers": sum(len(one.rater_items) for one in several),
                "by consensus": sum(int(one.rater_fallback.sum()) for one in several),
            }
            for name, several in runs.items()
        },
    }


def _per_item(
    reference: Reference, probs: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray], names: Sequence[str]
) -> pd.DataFrame:
    targets, q = reference.targets, reference.q
    votes = np.asarray(targets.votes_per_item)[reference.rows]
    table = pd.DataFrame({"item": reference.items, "speaker": reference.speakers, "votes": votes})
    if tuple(names) != (MODEL,):
        for name in names:
            own = [columns[f"{key}/jsd"] for key in probs if key.partition(_SEPARATOR)[0] == name]
            table[f"jsd_{name}"] = np.mean(own, axis=0)
        return table
    p, support = probs[MODEL], np.array(targets.support, dtype=object)
    table["jsd"], table["jsd_marginal"] = columns["model/jsd"], columns["marginal/jsd"]
    table["entropy_votes"], table["entropy_predicted"] = columns["vote_entropy"], measures.entropy(p)
    table["plurality"], table["predicted"] = support[q.argmax(axis=1)], support[p.argmax(axis=1)]
    return table


def read_conditions(folder: str | os.PathLike[str]) -> dict[str, Predictions]:
    """Predictions that `annot-hf predict` wrote, by path: in the folders of `folder`, or in `folder` itself.

    Raises:
        ValueError: There are none.
    """
    # The folder may hold the predictions of one condition.
    alone = Path(folder) / "predictions.json"
    found = (
        [alone.parent] if alone.is_file() else sorted(path.parent for path in Path(folder).glob("*/predictions.json"))
    )
    if not found:
        raise ValueError(
            f"No folder in {folder} holds predictions; write them with annot-hf predict --condition noise:10 --condition "
            f"telephone --out {folder}."
        )
    return {str(path): Predictions.load(path) for path in found}


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
