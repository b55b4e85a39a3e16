"""Scores of predicted distributions, further scales and disagreement against the votes, as functions of sums over items."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from annot_hf.data.predictions import Predictions, dimensions, expectation
from annot_hf.data.questions import Question, read_yaml
from annot_hf.data.targets import disagreement, scale_means
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import FLOOR, Reference, floored
from annot_hf.evaluation.resampling import Arrays, Measured, Measures, Resamples
from annot_hf.models import measures

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
    "labels_f1": ("Macro-F1 of labels above 1/K (EMO-SUPERB)", "0 to 1", "higher"),
    "labels_f1_batches": ("Macro-F1 of labels above 1/K, mean over batches of 32 items", "0 to 1", "higher"),
    "ccc": ("CCC of the expectation", "-1 to 1", "higher"),
}
# Measures over items that shared tasks score, beside those above: LeWiDi 2023 and 2025, and EMO-SUPERB.
TASK_MEASURES = {
    "lewidi_cross_entropy": ("Cross-entropy as LeWiDi 2023 scores it", "nats", "lower"),
    "weighted_f1": ("F1 against the plurality, weighted by its labels", "0 to 1", "higher"),
    "manhattan": ("Manhattan distance", "0 to 2", "lower"),
    "wasserstein": ("Wasserstein distance over the labels in order", "steps", "lower"),
}
# The scores of each task; its micro-F1 is the accuracy, as an item has one label. "rater_error" is over answers of raters.
TASKS = {
    "lewidi2023": ("lewidi_cross_entropy", "accuracy", "weighted_f1"),
    "lewidi2025": ("manhattan", "wasserstein", "rater_error"),
    "emosuperb": ("labels_f1", "labels_f1_batches"),
}
# Of LeWiDi 2025, what only labels with an order have, and only those without.
_OF_ORDERED, _OF_UNORDERED = "wasserstein", "manhattan"
_TASK_COLUMNS = {"lewidi_cross_entropy": measures.lewidi_cross_entropy, "wasserstein": measures.emd}
# Items of a batch of "labels_f1_batches", in the order of the targets; the last may have fewer.
BATCH = 32
_MEANS = ("jsd", "cross_entropy", "kl", "tvd", "bhattacharyya")
FITS = {"ccc": ("CCC", "higher"), "pearson": ("Pearson", "higher"), "rmse": ("RMSE", "lower")}
# A normal distribution has 95 % of its mass within this many standard deviations.
NORMAL_95 = 1.96
NOTES = read_yaml(Path(__file__).with_name("notes.yaml").read_text(encoding="utf-8"), "notes.yaml")


def steps_of(support: Sequence[str]) -> np.ndarray | None:
    """The numbers `(K,)` that labels are, as on the ordered scales of LeWiDi 2025; None where one is no number."""
    try:
        steps = np.array([float(label) for label in support])
    except ValueError:
        return None
    return steps if np.isfinite(steps).all() else None


def task_scores(task: str, questions: Sequence[Question]) -> tuple[str, ...]:
    """The scores of `TASKS` on a question: labels in order have one distance between distributions, others another."""
    other = _OF_ORDERED if steps_of(questions[0].labels) is None else _OF_UNORDERED
    return tuple(name for name in TASKS.get(task, ()) if name != other)


def item_columns(
    systems: Arrays, q: np.ndarray, questions: Sequence[Question], task: str = ""
) -> dict[str, np.ndarray]:
    """Per-item values and moments of the votes `(n, K)` and of each system's predictions `(n, K)`, named "system/value".

    With a task, what its scores are means of is among them.
    """
    columns, scores = {"vote_entropy": measures.entropy(q)}, task_scores(task, questions)
    for system, p in systems.items():
        safe = floored(p)
        own = {
            "jsd": measures.jsd(p, q),
            "cross_entropy": measures.cross_entropy(q, safe),
            "kl": measures.kl(q, safe),
            "tvd": measures.tvd(p, q),
            "bhattacharyya": measures.bhattacharyya(p, q),
            "entropies": measures.moments(_entropies(p), _entropies(q)),
            "classes": measures.class_counts(p.argmax(axis=1), q.argmax(axis=1), p.shape[1]),
        }
        own |= {name: of(p, q) for name, of in _TASK_COLUMNS.items() if name in scores}
        if not questions[0].is_scale:
            own["labels"] = measures.label_counts(p, q)
        else:
            pairs = zip(questions, dimensions(p, questions), dimensions(q, questions), strict=True)
            for question, one_p, one_q in pairs:
                own[f"expectation_{question.name}"] = measures.moments(expectation(one_p), expectation(one_q))
                own[f"jsd_{question.name}"] = measures.jsd(one_p, one_q)
                own[f"kl_{question.name}"] = measures.kl(one_q, floored(one_p))
        columns |= {f"{system}/{name}": column for name, column in own.items()}
    return columns


def measure_items(
    names: Sequence[str], columns: Arrays, questions: Sequence[Question], resamples: Resamples, task: str = ""
) -> Measures:
    """All measures over items from `item_columns`, with those of a task; one of the systems is "marginal"."""
    means = resamples.means(columns)
    draws = {system: _statistics(means, system, questions) for system in names}
    for system, found in draws.items():
        if f"{system}/labels" in columns:
            # Resampled items have no order, so there is no interval.
            found["labels_f1_batches"] = _batch_f1(columns[f"{system}/labels"])
    about = ITEM_MEASURES | {
        name: TASK_MEASURES[name] for name in task_scores(task, questions) if name in TASK_MEASURES
    }
    for question in questions:
        for kind in ("ccc", "jsd", "gap_closed"):
            title, unit, better = ITEM_MEASURES[kind]
            about[f"{kind}_{question.name}"] = (f"{title}, {question.name}", unit, better)
    return {
        name: Measured(*about[name], {system: found[name] for system, found in draws.items() if name in found})
        for name in about
        if name in draws[names[0]]
    }


def _statistics(means: Arrays, system: str, questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """Measures `(1 + B,)` of one system from the means of its columns."""
    own = {name.removeprefix(f"{system}/"): mean for name, mean in means.items() if name.startswith(f"{system}/")}
    out = {name: own[name] for name in (*_MEANS, *_TASK_COLUMNS) if name in own} | {"jsd_bits": own["jsd"] / np.log(2)}
    out["entropy_correlation"] = measures.pearson_of(own["entropies"])
    counts = own["classes"]
    out |= {
        "accuracy": measures.accuracy_of(counts),
        "macro_f1": measures.macro_f1_of(counts),
        "uar": measures.uar_of(counts),
        "weighted_f1": measures.weighted_f1_of(counts),
        "manhattan": 2 * own["tvd"],
    }
    if "labels" in own:
        out["labels_f1"] = measures.macro_f1_of(own["labels"])
    out["gap_closed"] = measures.closed_gap(own["kl"], means["marginal/kl"])
    if system != "marginal":
        out["vote_entropy"] = means["vote_entropy"]
    for name in [question.name for question in questions if question.is_scale]:
        out[f"ccc_{name}"] = measures.ccc_of(own[f"expectation_{name}"])
        if len(questions) > 1:
            out[f"jsd_{name}"] = own[f"jsd_{name}"]
            out[f"gap_closed_{name}"] = measures.closed_gap(own[f"kl_{name}"], means[f"marginal/kl_{name}"])
    return out


def _batch_f1(counts: np.ndarray) -> np.ndarray:
    """Mean over batches of the macro-F1 of `label_counts` `(N, 3, K)`, which EMO-SUPERB reports: `(1,)`."""
    sums = np.add.reduceat(counts, np.arange(0, len(counts), BATCH), axis=0)
    return measures.macro_f1_of(sums).mean(keepdims=True)


def measure_entropy_ranks(systems: Arrays, q: np.ndarray, resamples: Resamples) -> Measured:
    """Spearman's correlation of predicted and true entropies; unlike `entropy_correlation`, it assumes no linear relation."""
    draws = resamples.spearman({system: _entropies(p) for system, p in systems.items()}, _entropies(q))
    return Measured("Rank correlation of entropies", "-1 to 1", "higher", draws)


def _entropies(p: np.ndarray) -> np.ndarray:
    """Entropy of each row (nats), rounded so that rows that differ only by rounding or by tie-breaking are equal."""
    return measures.entropy(p).round(9)


def measure_scales(
    systems: Mapping[str, Predictions], rows: Arrays, votes: VoteTable, reference: Reference
) -> tuple[Measures, list[dict[str, Any]]]:
    """Fit of every further scale question of the votes that a system predicts, such as "ccc_valence", and facts.

    The facts are of the first such system; `covered` is the share of items whose mean lies within 1.96 predicted deviations.
    """
    found, facts = {}, []
    for question in votes.questions:
        name = question.name
        columns = {
            system: column
            for system, one in systems.items()
            for column, scale in enumerate(one.scales)
            if question.is_scale and scale.name == name
        }
        if not columns:
            continue
        mean = scale_means(votes, name, reference.items)[:, 0]
        rated = np.isfinite(mean)
        true = mean[rated]
        means = {system: systems[system].scale_means[rows[system][rated], column] for system, column in columns.items()}
        fits = _measure_fits(true, means, reference.resamples.select(rated), f", {name}", "on [-1, 1]")
        found |= {f"{kind}_{name}": fit for kind, fit in fits.items()}
        first, column = next(iter(columns.items()))
        deviation = systems[first].scale_deviations[rows[first][rated], column]
        covered = float((abs(means[first] - true) <= NORMAL_95 * deviation).mean())
        facts.append({"question": name, "items": len(true), "covered": covered})
    return found, facts


def measure_disagreement(
    system: str, predictions: Predictions, rows: np.ndarray, votes: VoteTable, reference: Reference
) -> tuple[Measures, dict[str, Any] | None]:
    """Fit of predicted disagreement to that of the votes, such as "disagreement_ccc", its kind and the number of `items`."""
    if predictions.disagreement is None:
        return {}, None
    kind, asked = predictions.disagreement_kind, votes.question(predictions.questions[0].name)
    if kind == "deviation" and not asked.is_scale and asked.labels != predictions.support:
        raise ValueError(
            f"Question {asked.name!r} has the steps {', '.join(asked.labels)} in the votes and "
            f"{', '.join(predictions.support)} in the predictions; a deviation needs one order of labels."
        )
    true = disagreement(votes, [question.name for question in predictions.questions], reference.items, kind)
    voted = np.isfinite(true)
    if not voted.any():
        return {}, None
    said = {system: predictions.disagreement[rows[voted]]}
    fits = _measure_fits(true[voted], said, reference.resamples.select(voted), " of disagreement", "0 to 1")
    return {f"disagreement_{fit}": one for fit, one in fits.items()}, {"kind": kind, "items": int(voted.sum())}


def _measure_fits(true: np.ndarray, systems: Arrays, resamples: Resamples, of_what: str, unit: str) -> Measures:
    """CCC, Pearson's r and RMSE of each system's numbers `(r,)` against the true ones `(r,)`, on the same resamples."""
    fits = {system: resamples.fit(predicted, true) for system, predicted in systems.items()}
    return {
        kind: Measured(title + of_what, unit, better, {system: fit[kind] for system, fit in fits.items()})
        for kind, (title, better) in FITS.items()
    }


def count_classes(p: np.ndarray, q: np.ndarray, support: Sequence[str]) -> list[dict[str, Any]]:
    """A row per label of `p` and `q` `(n, K)`; precision and recall are None if no item is predicted or true."""
    hits, predicted, true = counts = measures.class_counts(p.argmax(axis=1), q.argmax(axis=1), len(support)).sum(axis=0)
    precision, recall, f1 = measures.ratio(hits, predicted), measures.ratio(hits, true), measures.f1_of(counts)
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


def describe(resamples: Resamples, size: int, method: str, pairs: Sequence[tuple[str, str]], unit: str) -> list[str]:
    """Definitions and caveats behind the numbers of `size` items, one or two sentences each; `unit` names a cluster."""
    units, count = "item" if resamples.clusters is None else unit, resamples.cluster_count or size
    said = NOTES["intervals"]
    if not resamples.n or count < 2:
        why = f"there is only {count} {units}" if resamples.n else "no resampling was asked for"
        interval = said["none"].format(why=why)
    else:
        interval = said["drawn"].format(resamples=resamples.n, count=count, units=units)
        if resamples.clusters is None or count < 10:
            caveat = said["items" if resamples.clusters is None else "few"]
            interval = caveat.format(drawn=interval, unit=unit)
    compared = f" {pairs[0][0]} - {pairs[0][1]}" if len(pairs) == 1 else ""
    reference = NOTES["reference"].format(reference=NOTES["references"][method])
    measured = [note.format(compared=compared, floor=FLOOR) for note in NOTES["measures"]]
    return [reference, *([NOTES["soft"]] if method == "soft" else []), interval, *measured]
