"""Evaluate predictions against votes: one system or many, with several runs, folds, acoustic conditions or raters.

All share one reference and one set of resamples, so all differences are paired. Runs differ in their seed or are the repeats
of a cross-validation, whose folds are scored as one prediction, because macro-F1 and correlations are not means over folds.
"""

from collections import ChainMap, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from annot_hf.data.folds import Fold, count_folds, fold_marginals
from annot_hf.data.predictions import Predictions
from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation import categories, scoring
from annot_hf.evaluation.alignment import FLOOR, Groups, Reference, Speakers, align, by_condition
from annot_hf.evaluation.categories import SpeakerGroup, Stratum
from annot_hf.evaluation.ceiling import CEILING, SPLIT_HALF, noise_ceiling
from annot_hf.evaluation.equivalence import KEEP, Equivalence, rater_equivalence, vote_counts
from annot_hf.evaluation.raters import CONSENSUS, MARGINAL, measure_raters, without_raters
from annot_hf.evaluation.resampling import Arrays, Measured, Measures, with_interval
from annot_hf.evaluation.speakers import score_speakers, score_subsets, speaker_spread
from annot_hf.models import measures

MODEL = "model"
PARTS = ("items", "raters", "scales", "categories", "ranks", "ceiling", "subsets")
# Separates the names of a system and of a run.
_SEPARATOR = "\x1f"

Systems = Predictions | Mapping[str, Predictions | Sequence[Predictions]]


# The class inherits equality from Mapping.
@dataclass(frozen=True, eq=False)
class Evaluation(Mapping[str, dict[str, Any]]):
    """A mapping from measure to `{title, unit, better, systems, differences}`, see `Measured.record`.

    A single system is called "model". Every measure also has the "marginal" and, for answers of single raters, the
    "consensus"; that of several systems is called "NAME, consensus". Measures over items of a category question also have
    estimates of what opinion would score: "ceiling", "ceiling, split-half" (see `noise_ceiling`). Names of measures: those of
    `ITEM_MEASURES`; "rater_..."; "ccc_<question>" and so on for scales; and for a category question "jsd_thirds_low",
    "macro_f1_tertiles_high", "accuracy_2_best", "pauar75_1_best", "pauar50_3_best_min10", "pauar75_1_best_sex=female", "ece",
    "ece_top", "ece_of_<label>", "residual_<label>".

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
        per_rater: One row per named rater (index): votes, and the rater's own measure by system (its first run), such as
            "ccc_valence_model", "accuracy_consensus".
        per_speaker: One row per speaker (index): items, labels (that win at least one item), n-best UAR of a single system.
        speaker_scores: Of each system, items, gap closed, JSD and the marginal's JSD of every speaker; empty with fewer than
            two. See `score_speakers`.
        subsets: The gap that each system closes on speakers, groups, labels and by disagreement. See `score_subsets`.
        floor: ECE by chance of a single system if it were perfectly calibrated.
        confusion: Mean distribution `(K, K)` of a single system's predictions and of the votes over the items that each
            label wins, and their number `(K,)`.
        residual: The residual label, or None.
        equivalence: How many raters each system is worth; None for scales, with folds, or if no item has two votes.
        scales: For each further scale question of a single system: `question`, `items`, `covered`.
        disagreement: `kind` and `items` of the disagreement that a single system predicts, or None.
    """

    systems: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    parts: dict[str, Measures] = field(repr=False)
    reference: Reference = field(repr=False)
    probs: np.ndarray = field(repr=False)
    counts: dict[str, Any]
    notes: list[str]
    per_item: pd.DataFrame = field(repr=False)
    classes: list[dict[str, Any]] = field(default_factory=list)
    strata: list[Stratum] = field(default_factory=list)
    groups: list[SpeakerGroup] = field(default_factory=list)
    per_rater: pd.DataFrame | None = field(default=None, repr=False)
    per_speaker: pd.DataFrame | None = field(default=None, repr=False)
    speaker_scores: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    subsets: list[dict[str, Any]] = field(default_factory=list, repr=False)
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
        return ChainMap(*self.parts.values())[name]

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

    def rater_gain(self, one: str, other: str, beyond: tuple[str, str] | None = None) -> dict[str, float | None] | None:
        """By how much `one` answers for raters better than `other`, paired; None if one of them was not asked for raters.

        The mean over raters of their own CCC, averaged over the scales; for a category the cross-entropy saved (nats). With a
        second pair, by how much this gain is `beyond` that of the pair.
        """
        names = [name for name in self.parts["raters"] if name.startswith("rater_mean_ccc_")]
        names = names or [name for name in self.parts["raters"] if name == "rater_cross_entropy"]
        if not names or not {one, other, *(beyond or ())} <= set(self.measured(names[0]).draws):
            return None
        mean = {
            system: np.mean([self.measured(name).draws[system] for name in names], axis=0)
            for system in (one, other, *(beyond or ()))
        }
        gain = mean[one] - mean[other] - (mean[beyond[0]] - mean[beyond[1]] if beyond else 0)
        return with_interval(gain if self.measured(names[0]).better == "higher" else -gain).to_dict()

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
            "per_rater": {} if self.per_rater is None else self.per_rater.to_dict("index"),
            "per_speaker": {} if self.per_speaker is None else self.per_speaker.to_dict("index"),
            "speaker_scores": {
                system: table.astype(object).where(table.notna(), None).to_dict("index")
                for system, table in self.speaker_scores.items()
            },
            "speaker_spread": {system: speaker_spread(table) for system, table in self.speaker_scores.items()},
            "subsets": self.subsets,
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
    task: str = "",
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
            category question (strata, ranks, speakers, calibration); rank correlation of entropies; noise ceilings, which
            need whole votes as the reference; subsets of the items, without `folds`.
        residual: Name of the residual label, case-insensitive; ignored if the support lacks it.
        task: Shared task whose own scores are measured too, of `TASKS`.
        keep: Smallest share of the items that the curve of rater equivalence may be based on.
        n_resamples: Bootstrap resamples behind each 95 % interval; 0 for none.
        seed: Seed of the resampling.
        on_missing: What to do with items that only one side has: raise, or leave them out and count them.

    Raises:
        ValueError: There is no run, a system is called "marginal", a target is not a distribution, or supports,
            items, speakers or votes do not fit together.
    """
    runs = _runs(systems)
    names = tuple(runs)
    lone = len(names) == len(runs[names[0]]) == 1
    if against is None:
        against = MARGINAL if lone else names[0]

    # Align: rows of the evaluated items in the targets and in every run.
    keyed = {
        _key(name, index): run.in_order(targets.support)
        for name, several in runs.items()
        for index, run in enumerate(several)
    }
    scored = targets
    if folds is not None:
        tested = np.any([fold.parts == "test" for fold in folds], axis=0)
        scored = targets.select(targets.items[tested])
    reference, rows = align(
        keyed, scored, speakers=speakers, marginal=marginal, n_resamples=n_resamples, seed=seed, on_missing=on_missing
    )
    q, questions, resamples = reference.q, targets.questions, reference.resamples
    probs = {key: run.probs[rows[key]] for key, run in keyed.items()}
    probs = {key: p / p.sum(axis=1, keepdims=True) for key, p in probs.items()}
    batches = [probs | {MARGINAL: np.tile(reference.marginal, (len(q), 1))}]
    if folds is not None:
        batches = [
            {_key(name, repeat): probs[_key(name, repeat)] for name in names} | {MARGINAL: base[tested]}
            for repeat, base in enumerate(fold_marginals(targets, folds))
        ]

    # Measure every item.
    columns = [scoring.item_columns(batch, q, questions, task) for batch in batches]

    # Resample: all measures and systems share the resamples.
    found: dict[str, list[Measures]] = {part: [] for part in PARTS}
    counts, details, notes = _count(reference, probs, runs), {}, []
    for batch, of_items in zip(batches, columns, strict=True):
        found["items"].append(scoring.measure_items(list(batch), of_items, questions, resamples, task))
        if "ranks" in parts:
            ranked = {name: p for name, p in batch.items() if folds is None or name != MARGINAL}
            found["ranks"].append({"entropy_rank_correlation": scoring.measure_entropy_ranks(ranked, q, resamples)})
    if "raters" in parts:
        beside = {_beside(key, lone): without_raters(run) for key, run in keyed.items() if lone or _has_heads(run)}
        answered, voted, same, own = measure_raters(keyed | beside, reference, task)
        details["per_rater"] = own[[column for column in own if _SEPARATOR not in column]]
        found["raters"].append(answered)
        counts |= voted
        notes += [scoring.NOTES["raters"]] if answered else [] if same else [scoring.NOTES["other_votes"]]
    if "scales" in parts and votes is not None:
        measured, facts = scoring.measure_scales(keyed, rows, votes, reference)
        found["scales"].append(measured)
        if lone:
            only = names[0]
            measured, disputed = scoring.measure_disagreement(only, keyed[only], rows[only], votes, reference)
            found["scales"].append(measured)
            details |= {"scales": facts, "disagreement": disputed}
    category = not questions[0].is_scale
    whole = vote_counts(scored, votes) if category and {"categories", "ceiling"} & set(parts) else None
    if "categories" in parts and category:
        for batch in batches:
            measured, facts = categories.measure_categories(batch, reference, groups, residual, unit)
            found["categories"].append(measured)
            details |= facts
        if whole is not None and folds is None:
            stacked = {name: np.stack([probs[_key(name, run)] for run in range(len(runs[name]))]) for name in names}
            details["equivalence"] = rater_equivalence(
                stacked, whole[reference.rows], reference.marginal, resamples, keep=keep
            )
        if lone:
            details |= categories.describe_predictions(probs[names[0]], reference)
    keys = {name: [_key(name, run) for run in range(len(several))] for name, several in runs.items()}
    details["speaker_scores"] = score_speakers(columns, keys, reference.speakers)
    if "subsets" in parts and folds is None:
        kl = {name: np.mean([columns[0][f"{key}/kl"] for key in several], axis=0) for name, several in keys.items()}
        details["subsets"] = score_subsets(kl | {MARGINAL: columns[0]["marginal/kl"]}, reference, groups)
    if lone:
        details["classes"] = scoring.count_classes(probs[names[0]], q, targets.support)

    # Make the records.
    measured = {part: _over_runs(several) for part, several in found.items()}
    ceilings = None
    if "ceiling" in parts and whole is not None and targets.method == "soft":
        ceilings = noise_ceiling(
            whole[reference.rows], batches[0][MARGINAL], questions, resamples, seed=seed, task=task
        )
    if ceilings is not None:
        best, counts["ceiling"] = ceilings
        for name, one in best.items():
            measured["items"][name].draws.update(one.draws)
        notes.insert(0, scoring.NOTES["ceiling"].format(**counts["ceiling"]))
    if folds is not None:
        # The marginal differs only between folds, so its entropies are not correlated.
        del measured["items"]["entropy_correlation"].draws[MARGINAL]
        grouped = targets.items if speakers is None else [speakers[item] for item in targets.items]
        grouped = np.asarray(grouped, dtype=object)
        counts |= {"unit": unit, "items not tested": int((~tested).sum()), "groups": len(set(grouped[tested]))}
        counts |= count_folds(targets, folds, grouped)
        notes += [note.format(unit=unit) for note in scoring.NOTES["folds"]]
    pairs = [(name, against) for name in names if name != against]
    beside = [(name, _beside(name, lone)) for name in names]
    about = scoring.describe(resamples, len(q), targets.method, pairs, "group" if unit == "item" else unit)
    return Evaluation(
        systems=names,
        pairs=(*pairs, *beside),
        parts=measured,
        reference=reference,
        probs=probs[names[0]],
        counts=counts,
        notes=about + notes,
        per_item=_per_item(reference, probs, ChainMap(*columns), names),
        **details,
    )


def measure_conditions(
    predictions: Predictions, altered: Mapping[str, Predictions], targets: Targets, **options: Any
) -> Evaluation:
    """Evaluate predictions for clean clips, and those of the same clips under acoustic conditions, by path.

    Beside the measures over items there is "moved": the mean JSD of the predictions under a condition from the clean ones.
    `options` are those of `evaluate`; the errors are those of `by_condition`, too.
    """
    systems = by_condition(predictions, altered)
    found = evaluate(systems, targets, parts=("items",), **options)
    clean, *others = (one.select(found.reference.items).in_order(found.support).probs for one in systems.values())
    moved = {name: measures.jsd(probs, clean) for name, probs in zip(found.systems[1:], others, strict=True)}
    draws = found.reference.resamples.means(moved)
    found.parts["items"]["moved"] = Measured("Moved from the clean prediction (JSD)", "nats", "lower", draws)
    return found


def mean_evaluation(found: Sequence[Evaluation]) -> Evaluation:
    """The mean over several questions of what was measured of all: of the same systems, on the same items and resamples.

    It has the measures over items and the answers of single raters; counts and notes are those of the first.

    Raises:
        ValueError: The systems or the items differ.
    """
    first = found[0]
    for one in found[1:]:
        if one.systems != first.systems or not np.array_equal(one.reference.items, first.reference.items):
            raise ValueError("The questions have other systems or other items; average those of one run of a plan.")

    def mean(measured: Sequence[Measured]) -> Measured:
        one, *others = measured
        draws, runs = (
            {
                system: np.mean([getattr(each, kind)[system] for each in measured], axis=0)
                for system in getattr(one, kind)
            }
            for kind in ("draws", "runs")
        )
        return replace(one, draws=draws, runs=runs)

    parts = {
        part: {
            name: mean([each.parts[part][name] for each in found])
            for name in first.parts[part]
            if all(name in each.parts[part] for each in found)
        }
        for part in ("items", "raters")
    }
    kept = ("systems", "pairs", "reference", "probs", "counts", "notes", "per_item")
    return Evaluation(parts=dict.fromkeys(PARTS, {}) | parts, **{name: getattr(first, name) for name in kept})


def _runs(systems: Systems) -> dict[str, list[Predictions]]:
    """The runs of every system."""
    if isinstance(systems, Predictions):
        return {MODEL: [systems]}
    runs = {name: [one] if isinstance(one, Predictions) else list(one) for name, one in systems.items()}
    for name in (MARGINAL, CONSENSUS, CEILING, SPLIT_HALF, *(_beside(name, False) for name in runs)):
        if name in runs:
            what = "bound" if name in (CEILING, SPLIT_HALF) else "baseline"
            raise ValueError(f"A system is called {name!r}, the name of a {what}; give it another name.")
    empty = [name for name, several in runs.items() if not several]
    if not runs or empty:
        raise ValueError(
            f"System {empty[0]!r} has no run; give at least one." if empty else "There is no system to score."
        )
    return runs


def _key(system: str, run: int) -> str:
    """The key of a run; the first run has the name of the system."""
    return f"{system}{_SEPARATOR}{run}" if run else system


def _has_heads(run: Predictions) -> bool:
    """Whether a run has answers of single raters and, beside them, of a consensus head."""
    return len(run.rater_items) > 0 and run.consensus is not None


def _beside(key: str, lone: bool) -> str:
    """The key of the consensus of a run; that of a single run is called "consensus" alone."""
    name, separator, run = key.partition(_SEPARATOR)
    return CONSENSUS if lone else f"{name}, {CONSENSUS}{separator}{run}"


def _over_runs(batches: Sequence[Mapping[str, Measured]]) -> Measures:
    """Measures of systems from the measures of their runs."""
    found: Measures = {}
    draws: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for batch in batches:
        for name, one in batch.items():
            found[name] = one
            for key, values in one.draws.items():
                draws[name][key.partition(_SEPARATOR)[0]].append(values)
    for name, systems in draws.items():
        mean = {system: np.mean(several, axis=0) for system, several in systems.items()}
        runs = {system: np.array([one[0] for one in each]) for system, each in systems.items() if len(each) > 1}
        found[name] = replace(found[name], draws=mean, runs=runs)
    return found


def spread(speakers: pd.DataFrame) -> dict[str, Any]:
    """Number of speakers, and minimum, median and maximum of their items and labels."""
    told: dict[str, Any] = {"speakers": len(speakers)}
    for name in ("items", "labels"):
        column = speakers[name]
        told[name] = {end: float(getattr(column, end)()) if len(column) else None for end in ("min", "median", "max")}
    return told


def _count(reference: Reference, probs: Arrays, runs: Mapping[str, Sequence[Predictions]]) -> dict[str, Any]:
    q, size, votes = reference.q, len(reference.q), reference.votes.sum()
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


def _per_item(reference: Reference, probs: Arrays, columns: Arrays, names: Sequence[str]) -> pd.DataFrame:
    q, support = reference.q, np.array(reference.targets.support, dtype=object)
    table = pd.DataFrame({"item": reference.items, "speaker": reference.speakers, "votes": reference.votes})
    if tuple(names) != (MODEL,):
        for name in names:
            own = [columns[f"{key}/jsd"] for key in probs if key.partition(_SEPARATOR)[0] == name]
            table[f"jsd_{name}"] = np.mean(own, axis=0)
        return table
    p = probs[MODEL]
    table["jsd"], table["jsd_marginal"] = columns["model/jsd"], columns["marginal/jsd"]
    table["entropy_votes"], table["entropy_predicted"] = columns["vote_entropy"], measures.entropy(p)
    table["plurality"], table["predicted"] = support[q.argmax(axis=1)], support[p.argmax(axis=1)]
    return table
