"""What lies behind the scores of a category question: disagreement, ranks, speakers, calibration, confusion, raters."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import Pairing, align, marginal_of, speakers_of
from annot_hf.evaluation.calibration import (
    calibration_floor,
    expected_confusion,
    find_residual,
    measure_calibration,
    measure_residual,
)
from annot_hf.evaluation.equivalence import KEEP, Equivalence, rater_equivalence
from annot_hf.evaluation.predictions import Predictions
from annot_hf.evaluation.ranking import (
    SpeakerGroup,
    depths,
    measure_n_best,
    measure_speakers,
    speaker_groups,
    speaker_uar,
)
from annot_hf.evaluation.statistics import Measured, estimate
from annot_hf.evaluation.strata import Stratum, entropy_strata, measure_strata

Speakers = Mapping[str, str] | Sequence[str] | np.ndarray | None
Groups = Mapping[str, Mapping[str, Any]]


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
        measures={name: _record(one) for name, one in measured.items()},
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


def _record(measured: Measured) -> dict[str, Any]:
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
