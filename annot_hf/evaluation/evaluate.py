"""Two runs on the same items: differences of every measure, with intervals on the same resamples.

One model under several acoustic conditions, against the same votes: what each costs, on the same resamples.

Several systems, each trained with several seeds, in one table: one reference, one set of resamples, seeds averaged.

A resample draws speakers and reads every run of every system on them; a system's value is the mean over its seeds, so an
interval is that of the mean, and the deviation between seeds is told beside it. Differences are paired.

Scores of a repeated cross-validation: the test parts of a repeat are one prediction of all items.

Macro-F1 and correlations are no means over folds, so they are taken over the pooled items of a repeat, and the fixed list
of labels is kept. A system's value is the mean over the repeats; resamples draw whole groups, the same for every system
and repeat, so differences are paired. The baseline is what an item's fold could know without looking at it: the mean
distribution of its training part.

What lies behind the scores of a category question: disagreement, ranks, speakers, calibration, confusion, raters.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from annot_hf.data.conditions import CLEAN, Condition
from annot_hf.data.folds import Fold, sizes_of
from annot_hf.data.predictions import Predictions
from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import Groups, Pairing, Speakers, align, examples, marginal_of, speakers_of
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
from annot_hf.evaluation.raters import rater_measures
from annot_hf.evaluation.resampling import Measured, estimate
from annot_hf.evaluation.scales import measure_scales
from annot_hf.evaluation.scoring import describe, measure, measure_entropy_ranks
from annot_hf.evaluation.strata import Stratum, entropy_strata, measure_strata

_DIFFERENCES = (
    "Differences are {} - {} on the same resamples (paired); a run is called better when the 95 % interval of the "
    "difference leaves out 0. With many measures, some do so by chance: one in twenty of those without a difference. What "
    "another seed would change in training is not in the intervals."
)
_OTHER_VOTES = "The runs answer for different votes of named raters, so answers of single raters are not compared."


@dataclass(frozen=True, eq=False)  # equality is that of mappings
class Comparison(Mapping[str, dict[str, Any]]):
    """A mapping from measure to `{title, unit, better, a, b, marginal, difference, verdict}`.

    `a`, `b`, `marginal` (None where the baseline lacks the measure) and `difference` (a - b, paired) are
    `{value, low, high}`. `verdict` is "a" or "b", whichever is better, or "" when the interval of the difference holds 0,
    there is none, or neither direction is better.

    Attributes:
        names: What the two runs are called.
        measures: Measures over all items, by the names of `Scores`.
        raters: Measures over single answers of named raters; empty unless both runs answer for the same votes.
        categories: Measures of a breakdown, by the names of `Breakdown`; empty for scales.
        equivalence: How many raters each run ("a", "b") is worth; None for scales or without items with two votes.
        counts: Items, votes, speakers.
        notes: Definitions and caveats in plain words.
        baseline: What the marginal is.
        per_item: One row an item: speaker, votes, JSD of both runs.
    """

    names: tuple[str, str]
    measures: dict[str, dict[str, Any]]
    raters: dict[str, dict[str, Any]]
    categories: dict[str, dict[str, Any]]
    equivalence: Equivalence | None
    counts: dict[str, int]
    notes: list[str]
    baseline: str
    per_item: pd.DataFrame = field(repr=False)

    def __getitem__(self, name: str) -> dict[str, Any]:
        for records in (self.measures, self.raters, self.categories):
            if name in records:
                return records[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        for records in (self.measures, self.raters, self.categories):
            yield from records

    def __len__(self) -> int:
        return len(self.measures) + len(self.raters) + len(self.categories)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the per-item table, as plain values for JSON."""
        names = ("names", "measures", "raters", "categories", "counts", "notes", "baseline")
        told = None if self.equivalence is None else self.equivalence.to_dict()
        return {name: getattr(self, name) for name in names} | {"equivalence": told}


def compare(
    predictions_a: Predictions,
    predictions_b: Predictions,
    targets: Targets,
    *,
    names: tuple[str, str] = ("A", "B"),
    speakers: Speakers = None,
    groups: Groups | None = None,
    votes: VoteTable | None = None,
    marginal: Sequence[float] | Mapping[str, float] | np.ndarray | None = None,
    residual: str = "other",
    keep: float = KEEP,
    n_resamples: int = 1000,
    seed: int = 0,
    on_missing: Literal["error", "exclude"] = "error",
) -> Comparison:
    """Compare two runs with the same votes, measure by measure.

    Args:
        predictions_a: What one run says.
        predictions_b: What the other says about exactly the same items.
        targets: What the votes say: the one reference of both.
        names: What to call the runs.
        speakers: Speaker of each item, by name or in the order of `predictions_a.items`; resampling is then by speaker.
        groups: Metadata columns for paUAR: column such as "sex" -> item -> value.
        votes: The votes behind the targets, for rater equivalence.
        marginal: Distribution of the training votes `(K,)`, the baseline of both.
        residual: Name of the residual label.
        keep: Share of the items that the curve of rater equivalence must rest on.
        n_resamples: Bootstrap resamples behind each 95 % interval; 0 for none.
        seed: Seed of the resampling.
        on_missing: What to do with items that only the runs or only the targets have: raise, or leave them out.

    Raises:
        ValueError: The runs cover different items, or the inputs do not fit together.
    """
    _check_same_items(predictions_a, predictions_b, names)
    pairings = {"a": align(predictions_a, targets, on_missing=on_missing)}
    pairings["b"] = align(predictions_b, targets, on_missing=on_missing)
    pairing = pairings["a"]
    clusters = speakers_of(speakers, predictions_a, pairing)
    base, baseline = marginal_of(marginal, pairing.q, targets.support)
    runs = {name: one.p for name, one in pairings.items()}
    systems = runs | {"marginal": np.tile(base, (len(pairing.q), 1))}
    options = {"n_resamples": n_resamples, "seed": seed}
    measured, columns = measure(systems, pairing.q, targets.questions, clusters, **options)
    measured.pop("vote_entropy")
    raters, same_votes = _rater_differences(
        {"a": predictions_a, "b": predictions_b}, targets, pairings, clusters=clusters, marginal=base, **options
    )
    categories, equivalence = {}, None
    if not predictions_a.is_scale:
        reference = make_reference(pairing, targets, clusters, groups, votes, base, residual)
        categories = measure_categories(systems, reference, **options)
        equivalence = worth_in_raters(runs, reference, keep=keep, **options)
    votes_per_item = np.asarray(targets.votes_per_item)[pairing.target]
    per_item = pd.DataFrame({"item": pairing.items, "speaker": clusters, "votes": votes_per_item})
    per_item["jsd_a"], per_item["jsd_b"] = columns["a/jsd"], columns["b/jsd"]
    return Comparison(
        names=names,
        measures={name: _record(one) for name, one in measured.items()},
        raters={name: _record(one) for name, one in raters.items()},
        categories={name: _record(one) for name, one in categories.items()},
        equivalence=equivalence,
        counts={
            "n_evaluated": len(pairing.q),
            "predicted_without_target": pairing.only_predicted,
            "target_without_prediction": pairing.only_target,
            "speakers": 0 if clusters is None else len(set(clusters)),
        },
        notes=[
            *describe(clusters, len(pairing.q), n_resamples, targets.method, differences=_DIFFERENCES.format(*names)),
            *([] if same_votes else [_OTHER_VOTES]),
        ],
        baseline=baseline,
        per_item=per_item,
    )


def _check_same_items(a: Predictions, b: Predictions, names: tuple[str, str]) -> None:
    only = [one.items[~pd.Index(one.items).isin(other.items)] for one, other in ((a, b), (b, a))]
    if len(only[0]) or len(only[1]):
        parts = [
            f"{len(left)} only in {name}{examples(left)}" for name, left in zip(names, only, strict=True) if len(left)
        ]
        raise ValueError(
            f"The runs differ in {len(only[0]) + len(only[1])} items: {' and '.join(parts)}; predict the same items with both."
        )


def _rater_differences(
    runs: Mapping[str, Predictions], targets: Targets, pairings: Mapping[str, Pairing], **options: Any
) -> tuple[dict[str, Measured], bool]:
    """Measures over answers of named raters, and whether both runs answer for the same votes."""
    found = {name: rater_measures(runs[name], targets, pairings[name], **options) for name in runs}
    (measured, _, votes), (others, _, other_votes) = found["a"], found["b"]
    if not np.array_equal(votes, other_votes):
        return {}, False
    return {
        name: Measured(
            one.title,
            one.unit,
            one.better,
            {"a": one.draws["model"], "b": others[name].draws["model"], "marginal": one.draws["marginal"]},
        )
        for name, one in measured.items()
    }, True


def _record(measured: Measured) -> dict[str, Any]:
    """One line of the comparison."""
    record: dict[str, Any] = {"title": measured.title, "unit": measured.unit, "better": measured.better}
    for system in ("a", "b", "marginal"):
        record[system] = estimate(measured.draws[system]).to_dict() if system in measured.draws else None
    difference = measured.difference("a", "b")
    verdict = ""
    if measured.better and difference["low"] is not None and (difference["low"] > 0 or difference["high"] < 0):
        verdict = "a" if (difference["low"] > 0) == (measured.better == "higher") else "b"
    return record | {"difference": difference, "verdict": verdict}


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


MAIN = (
    ("gap_closed", "Gap closed (%)", 1),
    ("jsd", "JSD (nats)", 3),
    ("kl", "KLD (nats)", 3),
    ("tvd", "TVD", 3),
    ("accuracy", "Accuracy", 3),
    ("macro_f1", "Macro-F1", 3),
    ("uar", "UAR", 3),
)
ENTROPIES = (
    ("entropy_correlation", "Entropies, r", 2),
    ("entropy_rank_correlation", "Entropies, rank r", 2),
)
BEHIND = (
    *ENTROPIES,
    ("jsd_thirds_low", "JSD, low entropy", 3),
    ("jsd_thirds_mid", "JSD, middle", 3),
    ("jsd_thirds_high", "JSD, high", 3),
    ("accuracy_2_best", "Accuracy, 2-best", 3),
    ("uar_2_best", "UAR, 2-best", 3),
    ("pauar75_1_best", "paUAR-75 (%)", 1),
    ("pauar50_1_best", "paUAR-50 (%)", 1),
)
TERTILES = tuple(
    (f"{measure}_tertiles_{name}", f"{title}, {name} tertile", 3)
    for measure, title in (("jsd", "JSD"), ("accuracy", "Accuracy"))
    for name in ("low", "mid", "high")
)
PAIRED = "Differences are on the same resamples (paired)."
_SEPARATOR = "\x1f"  # between the names of a system and of a run


@dataclass(frozen=True, eq=False)
class SystemScores:
    """What `measure_systems` found.

    Attributes:
        records: Measure -> system -> `value`, `low`, `high` (of the mean over seeds), `runs` (the value of each),
            `deviation` (between runs, None for one) and `difference` to the first system, with its interval.
        worth: System -> how many other raters it is worth by the mean loss of its runs, as `Equivalence.systems` tells
            it; None without whole votes.
        titles: Measure -> title, unit and which way is better.
        counts: Items and speakers evaluated, and runs of each system.
        notes: Definitions and caveats.
    """

    records: dict[str, dict[str, dict[str, Any]]]
    worth: dict[str, dict[str, Any]] | None
    titles: dict[str, dict[str, str]]
    counts: dict[str, Any]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in ("records", "worth", "titles", "counts", "notes")}


def measure_systems(
    runs: Mapping[str, Sequence[Predictions]],
    targets: Targets,
    *,
    speakers: Speakers = None,
    groups: Groups | None = None,
    votes: VoteTable | None = None,
    marginal: Sequence[float] | Mapping[str, float] | np.ndarray | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> SystemScores:
    """Every measure of every system, averaged over its runs, on the same votes and resamples.

    Args:
        runs: System -> predictions of its runs, which differ in their seed; all about exactly the target items. The
            first system is the one that others are compared with.
        targets: What the votes say: the one reference of all.
        speakers: Speaker of each item, by name; resampling is then by speaker.
        groups: Metadata columns for paUAR: column such as "sex" -> item -> value.
        votes: The votes behind the targets, for rater equivalence.
        marginal: Distribution of the training votes `(K,)`, which the gap starts from.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: There is no run, or the items differ.
    """
    if "marginal" in runs:
        raise ValueError("A system is called 'marginal', which is the name of the baseline; give it another.")
    empty = [name for name, several in runs.items() if not several]
    if not runs or empty:
        raise ValueError(
            f"System {empty[0]!r} has no run; give one at least." if empty else "There is no system to score."
        )
    pairings = {
        run_key(name, index): align(run, targets) for name, several in runs.items() for index, run in enumerate(several)
    }
    pairing = next(iter(pairings.values()))
    clusters = speakers_of(speakers, next(iter(runs.values()))[0], pairing)
    base, baseline = marginal_of(marginal, pairing.q, targets.support)
    predicted = {key: one.p for key, one in pairings.items()}
    systems = predicted | {"marginal": np.tile(base, (len(pairing.q), 1))}
    options = {"n_resamples": n_resamples, "seed": seed}
    measured, _ = measure(systems, pairing.q, targets.questions, clusters, **options)
    measured["entropy_rank_correlation"] = measure_entropy_ranks(systems, pairing.q, clusters, **options)
    if votes is not None:
        alone = {run_key(name, index): run for name, several in runs.items() for index, run in enumerate(several)}
        measured |= measure_scales(alone, votes, pairing.items, speakers=clusters, **options)
    worth = None
    if not targets.questions[0].is_scale:
        reference = make_reference(pairing, targets, clusters, groups, votes, base)
        measured |= measure_categories(systems, reference, **options)
        stacked = {name: np.stack([p for key, p in predicted.items() if _system(key) == name]) for name in runs}
        found = worth_in_raters(stacked, reference, **options)
        worth = None if found is None else {name: one["worth"] for name, one in found.systems.items()}
    records = {name: records_of(one.draws, list(runs)) for name, one in measured.items() if name != "vote_entropy"}
    return SystemScores(
        records=records,
        worth=worth,
        titles={
            name: {"title": measured[name].title, "unit": measured[name].unit, "better": measured[name].better}
            for name in records
        },
        counts={
            "items": len(pairing.q),
            "speakers": 0 if clusters is None else len(set(clusters)),
            "runs": {name: len(several) for name, several in runs.items()},
        },
        notes=[
            *describe(clusters, len(pairing.q), n_resamples, targets.method, differences=PAIRED),
            f"The gap starts from {baseline}.",
        ],
    )


def records_of(draws: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Records of one measure: mean over the runs of each system, interval, runs, difference to the first system.

    Args:
        draws: Values `(1 + B,)` by `run_key`, and of "marginal" if that is one and the same for all runs.
        names: The systems; one without draws, which does not have the measure, is left out.
    """
    by_system = {name: several for name in names if len(several := _of(draws, name))}
    means = {name: several.mean(axis=0) for name, several in by_system.items()}
    out = {}
    for name, several in by_system.items():
        out[name] = estimate(means[name]).to_dict() | _between(several[:, 0])
        if names[0] in means:
            out[name]["difference"] = estimate(means[name] - means[names[0]]).to_dict()
    if "marginal" in draws:
        out["marginal"] = estimate(draws["marginal"]).to_dict()
    return out


def run_key(system: str, run: int) -> str:
    """What the run of a system is called among draws."""
    return f"{system}{_SEPARATOR}{run}"


def _system(key: str) -> str:
    """Name of the system that a run belongs to."""
    return key.rpartition(_SEPARATOR)[0]


def _of(draws: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Draws `(runs, 1 + B)` of a system's runs."""
    return np.array([values for key, values in draws.items() if _system(key) == name])


def _between(values: np.ndarray) -> dict[str, Any]:
    """The value of each run, and their standard deviation."""
    finite = np.isfinite(values)
    spread = float(values.std(ddof=1)) if len(values) > 1 and finite.all() else None
    return {
        "runs": [float(value) if known else None for value, known in zip(values, finite, strict=True)],
        "deviation": spread,
    }


LABELS = (*(column for column in MAIN if column[0] in ("accuracy", "macro_f1", "uar")), *ENTROPIES)
DISTRIBUTIONS = (
    *(column for column in MAIN if column[0] in ("jsd", "tvd", "kl")),
    ("cross_entropy", "Cross-entropy (nats)", 3),
    *(column for column in MAIN if column[0] == "gap_closed"),
)
ALIKE = ("support", "questions", "scales", "disagreement_kind")  # what predictions to be pooled have in common


def pool_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of disjoint parts, such as the test parts of a repeat, as one.

    Raises:
        ValueError: There are none, an item is in two, or they do not answer the same question.
    """
    if not parts:
        raise ValueError("There are no predictions to pool; give those of one part at least.")
    first = parts[0]
    alike = sorted(first.support)
    parts = [part.in_order(first.support) if sorted(part.support) == alike else part for part in parts]
    for part in parts[1:]:
        if any(getattr(part, name) != getattr(first, name) for name in ALIKE):
            raise ValueError(
                f"Predictions over ({', '.join(part.support)}) and ({', '.join(first.support)}) do not go together."
            )
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in (
            "items",
            "probs",
            "rater_names",
            "rater_values",
            "rater_fallback",
            "scale_means",
            "scale_deviations",
        )
    }
    agreed, spread = ([getattr(part, name) for part in parts] for name in ("consensus", "disagreement"))
    return Predictions(
        support=first.support,
        questions=first.questions,
        scales=first.scales,
        consensus=None if any(one is None for one in agreed) else np.concatenate(agreed),
        disagreement=None if any(one is None for one in spread) else np.concatenate(spread),
        disagreement_kind=first.disagreement_kind,
        rater_items=np.concatenate([part.rater_items + start for part, start in zip(parts, starts, strict=True)]),
        **joined,
    )


def fold_marginals(targets: Targets, folds: Sequence[Fold]) -> list[np.ndarray]:
    """What the marginal baseline predicts `(N, K)` in each repeat: for an item, the mean of its fold's training part."""
    repeats = 1 + max(fold.repeat for fold in folds)
    marginals = [np.full_like(targets.probs, np.nan) for _ in range(repeats)]
    for fold in folds:
        marginals[fold.repeat][fold.parts == "test"] = targets.probs[fold.parts == "train"].mean(axis=0)
    return marginals


def measure_repeats(
    runs: Mapping[str, Sequence[Predictions]],
    targets: Targets,
    folds: Sequence[Fold],
    groups: np.ndarray,
    *,
    unit: str,
    n_resamples: int = 1000,
    seed: int = 0,
) -> SystemScores:
    """Every measure of every system, averaged over the repeats.

    Args:
        runs: System -> predictions of all tested items, one of each repeat. The first system is what others are compared with.
        targets: What the votes say of all items.
        folds: The folds of all repeats; of one repeat, some may be missing: what is not tested is then not scored.
        groups: Group of each item `(N,)`, in the targets' order: resampling is by group.
        unit: What a group is, such as "conversation"; "item" if each item stands alone.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Records as of `measure_systems`, with a run a repeat. The marginal has no correlation of entropies: it differs
        between folds only.

    Raises:
        ValueError: A system is called "marginal", or its predictions are not of exactly the target items.
    """
    if "marginal" in runs:
        raise ValueError("A system is called 'marginal', which is the name of the baseline; give it another.")
    tested = np.any([fold.parts == "test" for fold in folds], axis=0)
    scored, clusters = targets.select(targets.items[tested]), None if unit == "item" else groups[tested]
    options = {"n_resamples": n_resamples, "seed": seed}
    draws: dict[str, dict[str, np.ndarray]] = {}
    about: dict[str, Measured] = {}
    for repeat, marginal in enumerate(fold_marginals(targets, folds)):
        pairings = {name: align(several[repeat], scored) for name, several in runs.items()}
        q = next(iter(pairings.values())).q
        systems = {name: one.p for name, one in pairings.items()} | {"marginal": marginal[tested]}
        measured, _ = measure(systems, q, targets.questions, clusters, **options)
        measured["entropy_rank_correlation"] = measure_entropy_ranks(systems, q, clusters, **options)
        about = {name: one for name, one in measured.items() if name != "vote_entropy"}
        for name, one in about.items():
            for system, values in one.draws.items():
                draws.setdefault(name, {})[run_key(system, repeat)] = values
    records = {name: records_of(found, [*runs, "marginal"]) for name, found in draws.items()}
    for name, *_ in ENTROPIES:
        del records[name]["marginal"]
    return SystemScores(
        records=records,
        worth=None,
        titles={name: {"title": one.title, "unit": one.unit, "better": one.better} for name, one in about.items()},
        counts={"items": len(scored), "groups": len(set(groups[tested])), "unit": unit}
        | {"items not tested": int((~tested).sum())}
        | {"runs": {name: len(several) for name, several in runs.items()}}
        | {"rater answers": {name: _rater_answers(several) for name, several in runs.items()}}
        | count_folds(targets, folds, groups),
        notes=[
            "Every item is predicted once a repeat, by a model that learned from no item of its "
            f"{unit}; the folds of a repeat are scored as one. A value is the mean over repeats, ± the standard deviation "
            "between them (other folds, other seeds). Repeats share their items, so this is no standard error.",
            *describe(clusters, len(scored), n_resamples, targets.method, PAIRED, "group" if unit == "item" else unit),
            "Intervals do not hold what other training data would change.",
            "The marginal is that of the votes in the training part of an item's fold, where the gap starts from. It "
            "differs between folds only, so its entropies are not correlated with anything.",
        ],
    )


def count_folds(targets: Targets, folds: Sequence[Fold], groups: np.ndarray) -> dict[str, Any]:
    """What a reader of a cross-validation must know of its folds.

    Returns:
        `partitions`: how many of the repeats divide the items differently. `folds`: for each fold its repeat and number,
        items and groups of each part, `labels_without_votes` and `labels_that_win_no_item` in the training part (of a
        category question), and the named raters of its test part whom its training part lacks, with their answers.
    """
    labels = () if targets.questions[0].is_scale else targets.support
    wins = targets.probs >= targets.probs.max(axis=1, keepdims=True) - 1e-12  # the winners of a tie all win
    divided: dict[int, set[frozenset[str]]] = {}
    told = []
    for fold in folds:
        train, test = fold.parts == "train", fold.parts == "test"
        divided.setdefault(fold.repeat, set()).add(frozenset(groups[test]))
        seen = np.zeros(len(targets.annotators), dtype=bool)
        seen[targets.ratings.annotator[train[targets.ratings.item]]] = True
        asked = targets.ratings.annotator[test[targets.ratings.item]]
        told.append(
            {"repeat": fold.repeat, "fold": fold.number}
            | sizes_of(fold, groups)
            | {
                "labels_without_votes": _named(labels, ~targets.probs[train].any(axis=0)),
                "labels_that_win_no_item": _named(labels, ~wins[train].any(axis=0)),
                "raters_unseen": int(len(set(asked[~seen[asked]]))),
                "answers_of_raters_unseen": int((~seen[asked]).sum()),
            }
        )
    return {"partitions": len({frozenset(parts) for parts in divided.values()}), "folds": told}


def _rater_answers(several: Sequence[Predictions]) -> dict[str, int]:
    return {
        "answers": sum(len(one.rater_items) for one in several),
        "by consensus": sum(int(one.rater_fallback.sum()) for one in several),
    }


def _named(labels: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [label for label, one in zip(labels, chosen, strict=False) if one]


@dataclass(frozen=True, eq=False)
class Breakdown(Mapping[str, dict[str, Any]]):
    """A mapping from measure to `{title, unit, better, value, low, high, marginal, difference}`, as `Scores` is.

    Names: "jsd_thirds_low", "macro_f1_tertiles_high", "accuracy_2_best", "uar_2_best", "pauar75_1_best",
    "pauar50_3_best_min10", "pauar75_1_best_sex=female", "ece", "ece_top", "ece_of_<label>", "residual_<label>".

    Attributes:
        measures: The records.
        support: The fixed list of K labels.
        strata: Items by entropy of their votes.
        groups: Speaker groups of paUAR; empty when there are fewer than two speakers.
        per_speaker: One row a speaker (index): items, labels (that win at least one item) and n-best UAR.
        floor: ECE that a perfectly calibrated model would show by chance.
        confusion: Mean distribution `(K, K)` of the predictions and of the votes over the items that each label wins,
            and how many these are `(K,)`.
        residual: The residual label, or None.
        equivalence: How many raters the model is worth, or None when no item has two votes.
    """

    measures: dict[str, dict[str, Any]]
    support: tuple[str, ...]
    strata: list[Stratum]
    groups: list[SpeakerGroup]
    per_speaker: pd.DataFrame = field(repr=False)
    floor: dict[str, float]
    confusion: dict[str, np.ndarray] = field(repr=False)
    residual: str | None
    equivalence: Equivalence | None

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self.measures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.measures)

    def __len__(self) -> int:
        return len(self.measures)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the confusion of a label that wins no item is None."""
        groups = {
            group.key or "all": {"title": group.title, **spread(self.per_speaker[group.rows])} for group in self.groups
        }
        return {
            "measures": self.measures,
            "strata": [stratum.to_dict() for stratum in self.strata],
            "speakers": groups,
            "per_speaker": self.per_speaker.to_dict("index"),
            "calibration_floor": self.floor,
            "confusion": {
                name: [None if np.isnan(row).any() else row.tolist() for row in matrix]
                for name, matrix in self.confusion.items()
            },
            "residual": self.residual,
            "equivalence": None if self.equivalence is None else self.equivalence.to_dict(),
        }


@dataclass(frozen=True, eq=False)
class Reference:
    """What every system is held against: the votes, and how they are grouped.

    Attributes:
        q: Distributions of the votes `(n, K)`.
        support: The K labels.
        clusters: Speaker of each item `(n,)`, or None.
        strata: Items by entropy of their votes.
        groups: Speaker groups of paUAR.
        counts: Whole votes per label `(n, K)`, or None when there are none.
        marginal: Distribution of the training votes `(K,)`.
        residual: Index of the residual label, or None.
    """

    q: np.ndarray
    support: tuple[str, ...]
    clusters: np.ndarray | None
    strata: list[Stratum]
    groups: list[SpeakerGroup]
    counts: np.ndarray | None
    marginal: np.ndarray
    residual: int | None


def break_down(
    predictions: Predictions,
    targets: Targets,
    *,
    speakers: Speakers = None,
    groups: Groups | None = None,
    votes: VoteTable | None = None,
    marginal: Sequence[float] | Mapping[str, float] | np.ndarray | None = None,
    residual: str = "other",
    keep: float = KEEP,
    n_resamples: int = 1000,
    seed: int = 0,
    on_missing: Literal["error", "exclude"] = "error",
) -> Breakdown:
    """Look behind the scores of a category question, against the same votes, labels and resamples as `score`.

    Args:
        predictions: What the model says.
        targets: What the votes say: the one reference of every number here.
        speakers: Speaker of each item, by name or in the order of `predictions.items`.
        groups: Metadata columns for paUAR: column such as "sex" -> item -> value.
        votes: The votes behind the targets, for rater equivalence; soft targets hold their counts themselves.
        marginal: Distribution of the training votes `(K,)`. Without it the evaluated votes' own mean stands in.
        residual: Name of the residual label, in any case of letters; nothing is told of it when the support lacks it.
        keep: Share of the items that the curve of rater equivalence must rest on.
        n_resamples: Bootstrap resamples behind each 95 % interval; 0 for none.
        seed: Seed of the resampling.
        on_missing: What to do with items that only one side has: raise, or leave them out.

    Raises:
        ValueError: The question is a scale, or the inputs do not fit together.
    """
    check_category(predictions)
    pairing = align(predictions, targets, on_missing=on_missing)
    clusters = speakers_of(speakers, predictions, pairing)
    reference = make_reference(pairing, targets, clusters, groups, votes, marginal, residual)
    systems = {"model": pairing.p, "marginal": np.tile(reference.marginal, (len(pairing.q), 1))}
    options = {"n_resamples": n_resamples, "seed": seed}
    measured = measure_categories(systems, reference, **options)
    return Breakdown(
        measures={name: _part_record(one) for name, one in measured.items()},
        support=tuple(targets.support),
        strata=reference.strata,
        groups=reference.groups,
        per_speaker=_per_speaker(pairing, clusters),
        floor=calibration_floor(
            pairing.p, np.asarray(targets.votes_per_item)[pairing.target], targets.support, seed=seed
        ),
        confusion={
            "predicted": expected_confusion(pairing.p, pairing.q),
            "votes": expected_confusion(pairing.q, pairing.q),
            "items": np.bincount(pairing.q.argmax(axis=1), minlength=pairing.q.shape[1]),
        },
        residual=None if reference.residual is None else targets.support[reference.residual],
        equivalence=worth_in_raters({"model": pairing.p}, reference, keep=keep, **options),
    )


def check_category(predictions: Predictions) -> None:
    """Raise a ValueError for scale questions, whose grid cells have no ranks, plurality or residual."""
    if predictions.is_scale:
        names = " and ".join(repr(question.name) for question in predictions.questions)
        raise ValueError(f"Question {names} is a scale; a breakdown needs a category question: use score.")


def make_reference(
    pairing: Pairing,
    targets: Targets,
    clusters: np.ndarray | None,
    groups: Groups | None = None,
    votes: VoteTable | None = None,
    marginal: Sequence[float] | Mapping[str, float] | np.ndarray | None = None,
    residual: str = "other",
) -> Reference:
    """The votes on the evaluated items, cut into strata and speaker groups."""
    several = clusters is not None and len(set(clusters)) > 1
    counts = vote_counts(targets, votes)
    return Reference(
        q=pairing.q,
        support=tuple(targets.support),
        clusters=clusters,
        strata=entropy_strata(pairing.q, targets.support),
        groups=speaker_groups(clusters, pairing.items, groups) if several else [],
        counts=None if counts is None else counts[pairing.target],
        marginal=marginal_of(marginal, pairing.q, targets.support)[0],
        residual=find_residual(targets.support, residual),
    )


def vote_counts(targets: Targets, votes: VoteTable | None = None) -> np.ndarray | None:
    """Whole votes per label `(N, K)` behind the targets; None when they are weighted, multi-select or not kept.

    Raises:
        ValueError: The votes are others than those that the targets were made from.
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


def measure_categories(
    systems: Mapping[str, np.ndarray], reference: Reference, *, n_resamples: int, seed: int
) -> dict[str, Measured]:
    """Every measure of a breakdown, of all systems `(n, K)` on the same resamples."""
    q, clusters, options = reference.q, reference.clusters, {"n_resamples": n_resamples, "seed": seed}
    measured = measure_strata(systems, q, reference.strata, clusters, **options)
    measured |= measure_n_best(systems, q, clusters, **options)
    if reference.groups:
        measured |= measure_speakers(systems, q, clusters, reference.groups, **options)
    measured |= measure_calibration(systems, q, reference.support, clusters, **options)
    if reference.residual is not None and q[:, reference.residual].any():
        measured |= measure_residual(systems, q, reference.support, reference.residual, clusters, **options)
    return measured


def worth_in_raters(
    systems: Mapping[str, np.ndarray], reference: Reference, *, keep: float = KEEP, n_resamples: int, seed: int
) -> Equivalence | None:
    """`rater_equivalence` of the systems, or None without whole votes."""
    if reference.counts is None:
        return None
    return rater_equivalence(
        systems,
        reference.counts,
        reference.marginal,
        reference.clusters,
        keep=keep,
        n_resamples=n_resamples,
        seed=seed,
    )


def spread(speakers: pd.DataFrame) -> dict[str, Any]:
    """Number of speakers, and least, median and most items and labels of one."""
    told: dict[str, Any] = {"speakers": len(speakers)}
    for name in ("items", "labels"):
        column = speakers[name]
        told[name] = {end: float(getattr(column, end)()) if len(column) else None for end in ("min", "median", "max")}
    return told


def _part_record(measured: Measured) -> dict[str, Any]:
    """The line of a score table, with what the votes themselves say where that is told."""
    votes = {"votes": estimate(measured.draws["votes"]).to_dict()} if "votes" in measured.draws else {}
    return measured.record() | votes


def _per_speaker(pairing: Pairing, clusters: np.ndarray | None) -> pd.DataFrame:
    if clusters is None:
        return pd.DataFrame(columns=["items", "labels"])
    found = pd.DataFrame({"speaker": clusters, "won": pairing.q.argmax(axis=1)}).groupby("speaker")["won"]
    table = pd.DataFrame({"items": found.size(), "labels": found.nunique()}).sort_index()
    for n in depths(pairing.q.shape[1]):
        names, uar = speaker_uar(pairing.p, pairing.q, clusters, n)
        table[f"uar_{n}_best"] = pd.Series(uar, index=names)
    return table
