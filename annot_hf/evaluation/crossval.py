"""Scores of a repeated cross-validation: the test parts of a repeat are one prediction of all items.

Macro-F1 and correlations are no means over folds, so they are taken over the pooled items of a repeat, and the fixed list
of labels is kept. A system's value is the mean over the repeats; resamples draw whole groups, the same for every system
and repeat, so differences are paired. The baseline is what an item's fold could know without looking at it: the mean
distribution of its training part.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from annot_hf.data.folds import PARTS, Fold, sizes_of
from annot_hf.data.targets import Targets
from annot_hf.evaluation.alignment import align
from annot_hf.evaluation.pages import markdown_safe
from annot_hf.evaluation.predictions import Predictions
from annot_hf.evaluation.scoring import describe, measure, measure_entropy_ranks
from annot_hf.evaluation.statistics import Measured
from annot_hf.evaluation.systems import (
    ENTROPIES,
    MAIN,
    PAIRED,
    SystemScores,
    differences_markdown,
    list_markdown,
    records_of,
    run_key,
    scores_markdown,
)

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


def crossval_markdown(found: SystemScores) -> str:
    """The tables of a cross-validation, how large its folds are, and what they lack."""
    names = list(found.counts["runs"])
    repeats, unit, folds = found.counts["runs"][names[0]], markdown_safe(found.counts["unit"]), found.counts["folds"]
    grouped = "" if unit == "item" else f" of {found.counts['groups']:,} {unit}s"
    times = "once" if repeats == 1 else f"{repeats} times"
    left_out = found.counts["items not tested"]
    divided = f"divided into {len(folds) // repeats} folds {times}"
    if left_out:
        divided = (
            f"the test parts of {len(folds)} folds; {left_out:,} more items, which other folds would test, are only learned "
            "from"
        )
    head = f"{found.counts['items']:,} items{grouped}, {divided}. In brackets the 95 % interval, if there is one."
    parts = [head, *(scores_markdown(found, columns, [*names, "marginal"]) for columns in (LABELS, DISTRIBUTIONS))]
    if len(names) > 1:
        parts += [
            f"Difference to {markdown_safe(names[0])}, paired:",
            *(differences_markdown(found, columns, names) for columns in (LABELS, DISTRIBUTIONS)),
        ]
    parts.append(_sizes_markdown(folds, unit))
    return "\n\n".join([*parts, list_markdown([*_lacks(found, repeats), *found.notes])]) + "\n"


def _sizes_markdown(folds: Sequence[Mapping[str, Any]], unit: str) -> str:
    """Least and most items and groups of each part over all folds."""
    rows = [
        "| Part of a fold | Items |" + f" {unit.capitalize()}s |" * (unit != "item"),
        "|---|---|" + "---|" * (unit != "item"),
    ]
    for part in PARTS:
        cells = [_range([fold[part][what] for fold in folds]) for what in ("items", "groups")]
        rows.append(f"| {part} | " + " | ".join(cells[: 1 + (unit != "item")]) + " |")
    return "\n".join(rows)


def _lacks(found: SystemScores, repeats: int) -> list[str]:
    """What some training parts lack, in sentences."""
    folds, said = found.counts["folds"], []
    for key, text in (
        ("labels_without_votes", "has no vote"),
        ("labels_that_win_no_item", "is the most frequent of no item"),
    ):
        missing: dict[str, int] = {}
        for fold in folds:
            for label in fold[key]:
                missing[label] = missing.get(label, 0) + 1
        said += [
            f"Label {label} {text} in {count} of {len(folds)} training parts; macro-F1 keeps it."
            for label, count in missing.items()
        ]
    unseen = sum(fold["answers_of_raters_unseen"] for fold in folds)
    if unseen:
        said.append(
            f"{unseen:,} answers to test items (over all repeats) are of raters who answered nothing in the training part of "
            "the fold; as part of the distribution they count like any other."
        )
    for name, one in found.counts["rater answers"].items():
        if one["by consensus"]:
            said.append(
                f"{name}: {one['by consensus']:,} of {one['answers']:,} predicted rater answers are those of the consensus "
                "head, since the rater is not in the training part of the fold."
            )
        elif one["answers"]:
            said.append(f"{name}: all {one['answers']:,} predicted rater answers are those of the rater's own head.")
    if found.counts["partitions"] < repeats:
        said.append(
            f"The {repeats} repeats divide the items in {found.counts['partitions']} different ways only, because there are "
            f"few {found.counts['unit']}s; the others differ in their seeds."
        )
    return said


def _rater_answers(several: Sequence[Predictions]) -> dict[str, int]:
    return {
        "answers": sum(len(one.rater_items) for one in several),
        "by consensus": sum(int(one.rater_fallback.sum()) for one in several),
    }


def _named(labels: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [label for label, one in zip(labels, chosen, strict=False) if one]


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
