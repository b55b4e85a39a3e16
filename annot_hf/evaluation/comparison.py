"""Two runs on the same items: differences of every measure, with intervals on the same resamples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import Pairing, align, examples, marginal_of, speakers_of
from annot_hf.evaluation.breakdown import Groups, Speakers, make_reference, measure_categories, worth_in_raters
from annot_hf.evaluation.equivalence import KEEP, Equivalence
from annot_hf.evaluation.predictions import Predictions
from annot_hf.evaluation.raters import rater_measures
from annot_hf.evaluation.scoring import describe, measure
from annot_hf.evaluation.statistics import Measured, estimate

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
    marginal: Sequence[float] | np.ndarray | None = None,
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
