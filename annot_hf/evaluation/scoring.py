"""Scores of predicted distributions against the votes, each beside the marginal baseline and with its interval."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import Question
from annot_hf.data.targets import Targets
from annot_hf.evaluation.alignment import (
    FLOOR,
    Pairing,
    align,
    dimensions,
    expectation,
    floored,
    marginal_of,
    speakers_of,
)
from annot_hf.evaluation.raters import rater_scores
from annot_hf.evaluation.resampling import (
    Measured,
    accuracy_of,
    ccc_of,
    moments,
    pearson_of,
    resample_spearman,
    resample_sums,
    uar_of,
)
from annot_hf.models import measures
from annot_hf.models.measures import class_counts, f1_of, macro_f1_of, ratio

MEASURES: dict[str, tuple[str, str, str]] = {  # title, unit, which way is better
    "jsd": ("Jensen-Shannon divergence", "nats", "lower"),
    "jsd_bits": ("Jensen-Shannon divergence", "bits", "lower"),
    "cross_entropy": ("Cross-entropy of the votes", "nats", "lower"),
    "vote_entropy": ("Entropy of the votes (floor of the cross-entropy)", "nats", ""),
    "gap_closed": ("Gap from marginal to floor closed", "%", "higher"),
    "kl": ("KL(votes || prediction)", "nats", "lower"),
    "tvd": ("Total variation distance", "0 to 1", "lower"),
    "bhattacharyya": ("Bhattacharyya coefficient", "0 to 1", "higher"),
    "entropy_correlation": ("Correlation of entropies", "-1 to 1", "higher"),
    "accuracy": ("Accuracy against the plurality", "0 to 1", "higher"),
    "macro_f1": ("Macro-F1 against the plurality", "0 to 1", "higher"),
    "uar": ("Unweighted average recall", "0 to 1", "higher"),
    "ccc": ("CCC of the expectation", "-1 to 1", "higher"),
}
DIFFERENCES = "Differences are model - marginal on the same resamples (paired)."
REFERENCES = {
    "soft": "the fractions of the votes",
    "majority": "the most frequent label of the votes (ties shared), which hides disagreement",
    "smoothed": "the smoothed fractions of the votes",
    "kde": "cell masses of the votes' kernel density estimate",
}
_MEANS = ("jsd", "cross_entropy", "kl", "tvd", "bhattacharyya")


@dataclass(frozen=True, eq=False)  # equality is that of mappings
class Scores(Mapping[str, dict[str, Any]]):
    """A mapping from measure to `{title, unit, better, value, low, high, marginal, difference}`.

    `marginal` is the baseline's `{value, low, high}` and `difference` that of model - marginal, paired; ends of
    intervals are None where nothing can be resampled.

    Attributes:
        measures: Item-level measures.
        raters: Measures over single answers of named raters, in the same form, with `consensus` beside `marginal`.
        classes: Per label: share of votes and of predicted probability, plurality items, precision, recall, F1.
        counts: What was counted: items evaluated and left out, votes, speakers, ties.
        notes: Definitions and caveats in plain words.
        baseline: What the marginal is.
        per_item: One row an item: speaker, votes, JSD of model and marginal, entropies, pluralities.
    """

    measures: dict[str, dict[str, Any]]
    raters: dict[str, dict[str, Any]]
    classes: list[dict[str, Any]]
    counts: dict[str, float]
    notes: list[str]
    baseline: str
    per_item: pd.DataFrame = field(repr=False)

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self.measures[name] if name in self.measures else self.raters[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.measures
        yield from self.raters

    def __len__(self) -> int:
        return len(self.measures) + len(self.raters)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the per-item table, as plain values for JSON."""
        names = ("measures", "raters", "classes", "counts", "notes", "baseline")
        return {name: getattr(self, name) for name in names}


def score(
    predictions: Predictions,
    targets: Targets,
    *,
    speakers: Mapping[str, str] | Sequence[str] | np.ndarray | None = None,
    marginal: Sequence[float] | Mapping[str, float] | np.ndarray | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    on_missing: Literal["error", "exclude"] = "error",
) -> Scores:
    """Compare predicted distributions with the votes, and with the marginal baseline.

    Every mean is over items. For grids over two scale questions, CCC takes expectations at cell centres on both sides.

    Args:
        predictions: What the model says.
        targets: What the votes say: the one reference of every number here.
        speakers: Speaker of each item, by name or in the order of `predictions.items`; resampling is then by speaker.
        marginal: Distribution of the training votes `(K,)`. Without it the evaluated votes' own mean stands in.
        n_resamples: Bootstrap resamples behind each 95 % interval; 0 for none.
        seed: Seed of the resampling.
        on_missing: What to do with items that only one side has: raise, or leave them out and count them.

    Raises:
        ValueError: The inputs do not fit together; see `align`.
    """
    pairing = align(predictions, targets, on_missing=on_missing)
    clusters = speakers_of(speakers, predictions, pairing)
    size = len(pairing.q)
    marginal, baseline = marginal_of(marginal, pairing.q, targets.support)
    systems = {"model": pairing.p, "marginal": np.tile(marginal, (size, 1))}
    measured, columns = measure(systems, pairing.q, targets.questions, clusters, n_resamples=n_resamples, seed=seed)
    table = {name: one.record(paired=not name.startswith("gap_closed")) for name, one in measured.items()}

    votes = np.asarray(targets.votes_per_item)[pairing.target]
    counts = {
        "n_expected": size + pairing.only_predicted + pairing.only_target,
        "n_evaluated": size,
        "predicted_without_target": pairing.only_predicted,
        "target_without_prediction": pairing.only_target,
        "votes": float(votes.sum()) if votes.sum() % 1 else int(votes.sum()),
        "speakers": 0 if clusters is None else len(set(clusters)),
        "plurality_ties": int(((pairing.q >= pairing.q.max(axis=1, keepdims=True) - 1e-12).sum(axis=1) > 1).sum()),
        "floored_probabilities": int(((pairing.p < FLOOR) & (pairing.q > 0)).sum()),
    }
    raters, rater_counts = rater_scores(
        predictions, targets, pairing, clusters=clusters, marginal=marginal, n_resamples=n_resamples, seed=seed
    )
    per_item = pd.DataFrame({"item": pairing.items, "speaker": clusters, "votes": votes})
    per_item["jsd"], per_item["jsd_marginal"] = columns["model/jsd"], columns["marginal/jsd"]
    per_item["entropy_votes"], per_item["entropy_predicted"] = columns["vote_entropy"], measures.entropy(pairing.p)
    support = np.array(targets.support, dtype=object)
    per_item["plurality"], per_item["predicted"] = support[pairing.q.argmax(axis=1)], support[pairing.p.argmax(axis=1)]
    return Scores(
        measures=table,
        raters=raters,
        classes=_per_class(pairing, targets.support, columns["model/classes"].sum(axis=0)),
        counts=counts | rater_counts,
        notes=describe(clusters, size, n_resamples, targets.method),
        baseline=baseline,
        per_item=per_item,
    )


def measure(
    systems: Mapping[str, np.ndarray],
    q: np.ndarray,
    questions: Sequence[Question],
    clusters: np.ndarray | None,
    *,
    n_resamples: int,
    seed: int,
) -> tuple[dict[str, Measured], dict[str, np.ndarray]]:
    """Every measure over items, of all systems on the same resamples, and the per-item columns behind them.

    Args:
        systems: What each system predicts `(n, K)`; one of them is "marginal".
        q: Distributions of the votes `(n, K)`.
        questions: What was asked.
        clusters: Speaker of each item `(n,)`, or None.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.
    """
    columns = {"count": np.ones(len(q)), "vote_entropy": measures.entropy(q)}
    for system, p in systems.items():
        columns |= {f"{system}/{name}": column for name, column in _columns(p, q, questions).items()}
    sums = resample_sums(columns, clusters, n_resamples=n_resamples, seed=seed)
    draws = {system: _statistics(sums, system, questions) for system in systems}
    first = next(iter(systems))
    return {name: _measured(name, draws) for name in _ordered(draws[first], questions)}, columns


def measure_entropy_ranks(
    systems: Mapping[str, np.ndarray],
    q: np.ndarray,
    clusters: np.ndarray | None,
    *,
    n_resamples: int,
    seed: int,
) -> Measured:
    """Spearman's correlation of predicted and true entropies, on the resamples of `measure` and with its arguments.

    Where `entropy_correlation` asks for a line between the two entropies, this asks only whether the items that divide
    people more are those that are said to.
    """
    predicted = {system: _entropies(p) for system, p in systems.items()}
    truth = _entropies(q)
    draws = resample_spearman(predicted, truth, clusters, n_resamples=n_resamples, seed=seed)
    return Measured("Rank correlation of entropies", "-1 to 1", "higher", draws)


def _entropies(p: np.ndarray) -> np.ndarray:
    """Entropy of each row (nats); rows that differ by rounding alone, or by what orders tied votes, have the same."""
    return measures.entropy(p).round(9)


def _columns(p: np.ndarray, q: np.ndarray, questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """Per-item values and moments of one system, whose sums give all its measures."""
    safe = floored(p)
    columns = {
        "jsd": measures.jsd(p, q),
        "cross_entropy": measures.cross_entropy(q, safe),
        "kl": measures.kl(q, safe),
        "tvd": measures.tvd(p, q),
        "bhattacharyya": measures.bhattacharyya(p, q),
        "entropies": moments(_entropies(p), _entropies(q)),
        "classes": class_counts(p.argmax(axis=1), q.argmax(axis=1), p.shape[1]),
    }
    if not questions[0].is_scale:
        return columns
    for index, (one_p, one_q) in enumerate(zip(dimensions(p, questions), dimensions(q, questions), strict=True)):
        columns[f"expectation{index}"] = moments(expectation(one_p), expectation(one_q))
        columns[f"jsd{index}"] = measures.jsd(one_p, one_q)
        columns[f"kl{index}"] = measures.kl(one_q, floored(one_p))
    return columns


def _statistics(sums: dict[str, np.ndarray], system: str, questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """Measures `(1 + B,)` of one system from its sums."""
    count = sums["count"]
    out = {name: sums[f"{system}/{name}"] / count for name in _MEANS}
    out["jsd_bits"] = out["jsd"] / np.log(2)
    out["entropy_correlation"] = pearson_of(sums[f"{system}/entropies"])
    counts = sums[f"{system}/classes"]
    out |= {"accuracy": accuracy_of(counts), "macro_f1": macro_f1_of(counts), "uar": uar_of(counts)}
    # Cross-entropy minus the votes' entropy is KL, so the gap that is closed is 1 - KL(model) / KL(marginal).
    gap = np.where(sums["marginal/kl"] > 1e-6 * count, sums["marginal/kl"], 0.0)  # votes that the marginal explains
    out["gap_closed"] = 100 * (1 - ratio(sums[f"{system}/kl"], gap))
    if system != "marginal":
        out["vote_entropy"] = sums["vote_entropy"] / count
    for index, question in enumerate(questions if questions[0].is_scale else ()):
        out[f"ccc_{question.name}"] = ccc_of(sums[f"{system}/expectation{index}"])
        if len(questions) > 1:
            out[f"jsd_{question.name}"] = sums[f"{system}/jsd{index}"] / count
            closed = 1 - ratio(sums[f"{system}/kl{index}"], sums[f"marginal/kl{index}"])
            out[f"gap_closed_{question.name}"] = 100 * closed
    return out


def _ordered(draws: dict[str, np.ndarray], questions: Sequence[Question]) -> list[str]:
    names = [name for name in MEASURES if name in draws]
    return names + [
        f"{m}_{q.name}" for q in questions for m in ("ccc", "jsd", "gap_closed") if f"{m}_{q.name}" in draws
    ]


def _measured(name: str, draws: dict[str, dict[str, np.ndarray]]) -> Measured:
    base = name if name in MEASURES else next(m for m in ("ccc", "jsd", "gap_closed") if name.startswith(f"{m}_"))
    title, unit, better = MEASURES[base]
    question = name.removeprefix(f"{base}_") if name != base else None
    title = title if question is None else f"{title}, {question}"
    return Measured(title, unit, better, {system: found[name] for system, found in draws.items() if name in found})


def _per_class(pairing: Pairing, support: Sequence[str], counts: np.ndarray) -> list[dict[str, Any]]:
    """A line per label; precision and recall are None where nothing was predicted or true."""
    hits, predicted, true = counts
    precision, recall, f1 = ratio(hits, predicted), ratio(hits, true), f1_of(counts)
    return [
        {
            "label": label,
            "votes": float(pairing.q[:, k].mean()),
            "predicted": float(pairing.p[:, k].mean()),
            "plurality_items": int(true[k]),
            "predicted_items": int(predicted[k]),
            "precision": None if np.isnan(precision[k]) else float(precision[k]),
            "recall": None if np.isnan(recall[k]) else float(recall[k]),
            "f1": float(f1[k]),
        }
        for k, label in enumerate(support)
    ]


def describe(
    clusters: np.ndarray | None,
    size: int,
    n_resamples: int,
    method: str,
    differences: str = DIFFERENCES,
    unit: str = "speaker",
) -> list[str]:
    """Definitions and caveats behind the numbers, a sentence or two each.

    `differences` tells what is compared, and `unit` what a cluster is called.
    """
    units = "item" if clusters is None else unit
    count = size if clusters is None else len(set(clusters))
    if not n_resamples or count < 2:
        why = f"there is only {count} {units}" if n_resamples else "no resampling was asked for"
        interval = f"No intervals: {why}."
    else:
        interval = f"Intervals are 95 % percentile intervals over {n_resamples:,} resamples of {count:,} {units}s."
        if clusters is None:
            interval += (
                f" Without {unit}s, items count as independent; with several items a {unit}, that is too narrow."
            )
        elif count < 10:
            interval += f" With so few {unit}s they are rough."
    floor = "An item has few votes, whose entropy lies below that of opinion: the floor is out of a model's reach."
    return [
        f"One reference for every system: {REFERENCES[method]}, each item counting once.",
        *([floor] if method == "soft" else []),
        interval,
        differences,
        "JSD is the divergence, not its square root: 0 to ln 2 = 0.693 nats, or 0 to 1 bit.",
        f"Predicted probabilities are floored at {FLOOR:g} and renormalised for KL and cross-entropy.",
        "Plurality ties go to the label that comes first in the support. Macro-F1 averages over all labels, and a label "
        "that is neither the plurality of an item nor predicted counts 0; average recall is over pluralities only.",
        "A correlation or CCC with a constant (as of the marginal) counts 0.",
    ]
