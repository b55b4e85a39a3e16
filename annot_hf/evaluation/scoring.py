"""Scores of predicted distributions against the votes, with intervals and the marginal baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from annot_hf.data.questions import Question
from annot_hf.evaluation.alignment import FLOOR, dimensions, expectation, floored
from annot_hf.evaluation.resampling import Measured, Resamples
from annot_hf.models import measures
from annot_hf.models.measures import (
    accuracy_of,
    ccc_of,
    class_counts,
    f1_of,
    macro_f1_of,
    moments,
    pearson_of,
    ratio,
    uar_of,
)

# Title, unit, better direction.
ITEM_MEASURES: dict[str, tuple[str, str, str]] = {
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
REFERENCES = {
    "soft": "the fractions of the votes",
    "majority": "the most frequent label of the votes (ties shared), which hides disagreement",
    "smoothed": "the smoothed fractions of the votes",
    "kde": "cell masses of the votes' kernel density estimate",
}
_MEANS = ("jsd", "cross_entropy", "kl", "tvd", "bhattacharyya")


def measure(
    systems: Mapping[str, np.ndarray],
    q: np.ndarray,
    questions: Sequence[Question],
    resamples: Resamples,
) -> tuple[dict[str, Measured], dict[str, np.ndarray]]:
    """All measures over items of all systems on the same resamples, and the per-item columns behind them.

    Args:
        systems: Predictions of each system `(n, K)`; one system is "marginal".
        q: Distributions of the votes `(n, K)`.
        questions: What was asked.
        resamples: Resamples of the items.
    """
    columns = {"count": np.ones(len(q)), "vote_entropy": measures.entropy(q)}
    for system, p in systems.items():
        columns |= {f"{system}/{name}": column for name, column in _item_columns(p, q, questions).items()}
    sums = resamples.sums(columns)
    draws = {system: _statistics(sums, system, questions) for system in systems}
    first = next(iter(systems))
    return {name: _measured(name, draws) for name in _ordered(draws[first], questions)}, columns


def measure_entropy_ranks(
    systems: Mapping[str, np.ndarray],
    q: np.ndarray,
    resamples: Resamples,
) -> Measured:
    """Spearman's correlation of predicted and true entropies, on the resamples of `measure` and with its arguments.

    Unlike `entropy_correlation`, it does not assume a linear relation; it only asks whether the items with more disagreement
    are predicted to have more.
    """
    draws = resamples.spearman({system: _entropies(p) for system, p in systems.items()}, _entropies(q))
    return Measured("Rank correlation of entropies", "-1 to 1", "higher", draws)


def _entropies(p: np.ndarray) -> np.ndarray:
    """Entropy of each row (nats), rounded so that rows that differ only by rounding or by tie-breaking are equal."""
    return measures.entropy(p).round(9)


def _item_columns(p: np.ndarray, q: np.ndarray, questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """Per-item values and moments of a system; their sums give all its measures."""
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
    # Cross-entropy minus the votes' entropy is KL, so the closed gap is 1 - KL(model) / KL(marginal).
    # Without a gap, the marginal explains the votes.
    gap = np.where(sums["marginal/kl"] > 1e-6 * count, sums["marginal/kl"], 0.0)
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
    names = [name for name in ITEM_MEASURES if name in draws]
    return names + [
        f"{m}_{q.name}" for q in questions for m in ("ccc", "jsd", "gap_closed") if f"{m}_{q.name}" in draws
    ]


def _measured(name: str, draws: dict[str, dict[str, np.ndarray]]) -> Measured:
    base = name if name in ITEM_MEASURES else next(m for m in ("ccc", "jsd", "gap_closed") if name.startswith(f"{m}_"))
    title, unit, better = ITEM_MEASURES[base]
    question = name.removeprefix(f"{base}_") if name != base else None
    title = title if question is None else f"{title}, {question}"
    return Measured(title, unit, better, {system: found[name] for system, found in draws.items() if name in found})


def count_classes(p: np.ndarray, q: np.ndarray, support: Sequence[str]) -> list[dict[str, Any]]:
    """A row per label: shares, plurality items, F1; precision and recall are None if no item is predicted or true.

    Args:
        p: Predicted distributions `(n, K)`.
        q: Distributions of the votes `(n, K)`.
        support: The K labels.
    """
    hits, predicted, true = counts = class_counts(p.argmax(axis=1), q.argmax(axis=1), len(support)).sum(axis=0)
    precision, recall, f1 = ratio(hits, predicted), ratio(hits, true), f1_of(counts)
    return [
        {
            "label": label,
            "votes": float(q[:, k].mean()),
            "predicted": float(p[:, k].mean()),
            "plurality_items": int(true[k]),
            "predicted_items": int(predicted[k]),
            "precision": None if np.isnan(precision[k]) else float(precision[k]),
            "recall": None if np.isnan(recall[k]) else float(recall[k]),
            "f1": float(f1[k]),
        }
        for k, label in enumerate(support)
    ]


def describe(
    resamples: Resamples, size: int, method: str, pairs: Sequence[tuple[str, str]] = (), unit: str = "speaker"
) -> list[str]:
    """Definitions and caveats behind the numbers, one or two sentences each.

    Args:
        resamples: Resamples of the items.
        size: Number of items.
        method: How the targets were made.
        pairs: Compared systems.
        unit: The name of a cluster.
    """
    units = "item" if resamples.clusters is None else unit
    count = resamples.cluster_count or size
    if not resamples.n or count < 2:
        why = f"there is only {count} {units}" if resamples.n else "no resampling was asked for"
        interval = f"No intervals: {why}."
    else:
        interval = f"Intervals are 95 % percentile intervals over {resamples.n:,} resamples of {count:,} {units}s."
        if resamples.clusters is None:
            interval += (
                f" Without {unit}s, items count as independent; with several items per {unit}, they are too narrow."
            )
        elif count < 10:
            interval += f" With so few {unit}s, they are rough."
    compared = f" {pairs[0][0]} - {pairs[0][1]}" if len(pairs) == 1 else ""
    floor = "An item has few votes, whose entropy is lower than that of opinion, so no model can reach the floor."
    return [
        f"One reference for every system: {REFERENCES[method]}, each item counting once.",
        *([floor] if method == "soft" else []),
        interval,
        f"Differences are{compared} on the same resamples (paired).",
        "JSD is the divergence, not its square root: 0 to ln 2 = 0.693 nats, or 0 to 1 bit.",
        f"Predicted probabilities are floored at {FLOOR:g} and renormalised for KL and cross-entropy.",
        "Plurality ties go to the label that comes first in the support. Macro-F1 averages over all labels; a label that is "
        "neither the plurality of an item nor predicted counts as 0. Average recall is over pluralities only.",
        "A correlation or CCC with a constant, such as the marginal, counts as 0.",
    ]
