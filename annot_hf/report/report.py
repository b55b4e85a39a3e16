"""Reports of one run, or of two runs: report.json, report.md, a self-contained report.html, items.csv and plots/*.png."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from annot_hf.data.agreement import agreement
from annot_hf.data.predictions import Predictions
from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import by_condition, examples, groups_of, items_by_name
from annot_hf.evaluation.evaluate import MARGINAL, Evaluation, evaluate
from annot_hf.evaluation.raters import recovered_bias
from annot_hf.report import figures as plots, tables
from annot_hf.report.pages import Figures, Section, write_pages
from annot_hf.report.style import short
from annot_hf.report.tables import (
    ARROWS,
    Cell,
    Table,
    agreement_table,
    bias_table,
    class_table,
    difference_cell,
    disagreement_table,
    head_cell,
    interval,
    measure_cell,
    number,
    rater_table,
    scale_table,
    score_table,
    value_cell,
)

if TYPE_CHECKING:
    from annot_hf.data.simulate import Truth


@dataclass(frozen=True)
class Report:
    """The result of `build_report` or `build_comparison`.

    Attributes:
        folder: Where the files are.
        title: Its heading.
        summary: The paragraph on top, with the main result.
        evaluation: All numbers.
        files: Paths of json, markdown, html, csv and of each plot, by name.
    """

    folder: Path
    title: str
    summary: str
    evaluation: Evaluation
    files: dict[str, Path]


def build_report(
    predictions: Predictions,
    targets: Targets,
    out: str | os.PathLike[str],
    *,
    title: str,
    items: pd.DataFrame | None = None,
    marginal: Sequence[float] | np.ndarray | None = None,
    votes: VoteTable | None = None,
    truth: "Truth | None" = None,
    notes: Mapping[str, Any] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    on_missing: str = "error",
    groups: Sequence[str] | None = None,
    conditions: Mapping[str, Predictions] | None = None,
) -> Report:
    """Score predictions against the votes and write the report into one folder.

    Args:
        predictions: Predictions of the model.
        targets: Targets of the items.
        out: Folder to write; created if necessary.
        title: Heading of the report.
        items: Table with a column `item` and, if known, `speaker` (intervals resample speakers, or items if all are
            null) and `split`.
        marginal: Distribution of the training votes `(K,)`, the baseline.
        votes: The votes behind the targets, for the agreement of the raters on the evaluated items and their biases without a
            model.
        truth: Truth of a simulated corpus (`read_truth`), to compare recovered with true biases of raters.
        notes: Further facts on the run to print at the end.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.
        on_missing: "error" or "exclude"; see `evaluate`.
        groups: Columns of `items` that group speakers; when None, `sex` and `gender` if they exist.
        conditions: Predictions of the same model for the same clips under acoustic conditions; see `read_conditions`.

    Raises:
        ValueError: The inputs do not match.
    """
    about = None if items is None else items_by_name(items)
    options = {
        "speakers": None if about is None or "speaker" not in about else about["speaker"],
        "marginal": marginal,
        "n_resamples": n_resamples,
        "seed": seed,
        "on_missing": on_missing,
    }
    parts = ("items", "raters", "scales", "categories")
    found = evaluate(predictions, targets, votes=votes, groups=groups_of(about, groups), parts=parts, **options)
    voted = None if votes is None else votes.select(items=found.reference.items)
    if voted is not None and len(voted.items) < len(found.reference.items):
        without = found.reference.items[~np.isin(found.reference.items, voted.items)]
        raise ValueError(
            f"{len(without)} evaluated items have no vote in the votes given{examples(without)}; give the votes that the "
            "targets were made from."
        )
    biases = None
    if truth is not None and predictions.is_scale and (~predictions.rater_fallback).any():
        biases = recovered_bias(predictions, truth.raters, votes=voted, resamples=found.reference.resamples)
    agreed = [] if voted is None else [agreement(voted, question.name) for question in targets.questions]
    robust = None
    if conditions is not None:
        robust = evaluate(by_condition(predictions, conditions), targets, parts=("items",), **options)

    excluded = _excluded(found, targets, votes)
    summary = f"{predictions.caution} {_report_summary(found, about, excluded)}".lstrip()
    figures = _figures(found, predictions, biases)
    shown = [score_table(found), *rater_table(found), *class_table(found, predictions.is_scale)]
    shown += scale_table(found) + disagreement_table(found) + agreement_table(agreed) + bias_table(biases)
    sections = [Section(shown, figures)]
    if found.strata:
        sections += breakdown_sections(found, {"reliability": figures.pop("reliability")})
    if robust is not None:
        sections.append(robustness_section(robust))
    folder = Path(out)
    files = write_pages(
        folder,
        title=title,
        summary=summary,
        sections=sections,
        notes=found.notes,
        details={**predictions.meta, **(notes or {})},
        data={
            "questions": [question.to_dict() for question in targets.questions],
            "support": list(targets.support),
            "target_method": targets.method,
            "evaluation": found.to_dict(),
            "robustness": None if robust is None else robust.to_dict(),
            "excluded": excluded,
            "agreement": [one.to_dict() for one in agreed],
            "recovered_bias": biases,
            "resampling": {"n_resamples": n_resamples, "seed": seed},
        },
        per_item=found.per_item,
    )
    return Report(folder, title, summary, found, files)


def _excluded(found: Evaluation, targets: Targets, votes: VoteTable | None) -> dict[str, int]:
    """Everything left out, by reason."""
    reasons = dict(targets.excluded)
    reasons["predicted items without target"] = found.counts["predicted_without_target"]
    reasons["items with votes but no prediction"] = found.counts["target_without_prediction"]
    reasons["answers to one scale only, which the distribution lacks"] = found.counts["rater_votes_incomplete"]
    if votes is not None and targets.questions[0].multiple:
        voted = votes.select(items=found.reference.items, questions=[targets.questions[0].name])
        reasons["votes for none of the labels"] = int((voted.label_codes < 0).sum())
    reasons |= {} if votes is None else {f"votes: {reason}": rows for reason, rows in votes.exclusions.items()}
    return {reason: count for reason, count in reasons.items() if count}


def _report_summary(found: Evaluation, about: pd.DataFrame | None, excluded: Mapping[str, int]) -> str:
    """What was evaluated, what was left out, and the main result with its interval."""
    targets, counts = found.reference.targets, found.counts
    names = " and ".join(f"\u201c{question.name}\u201d" for question in targets.questions)
    kind = f"{len(targets.support)} {'grid cells' if targets.questions[0].is_scale else 'labels'}"
    said = _many(counts["votes"], "vote")
    if counts["raters_voting"]:
        named = counts["rater_votes"] - counts["rater_votes_incomplete"]
        some = "" if named == counts["votes"] else f", {named:,} of them"
        said += f"{some} by {_many(counts['raters_voting'], 'named rater')}"
    else:
        said += " without rater names"
    spoken = f" by {_many(counts['speakers'], 'speaker')}" if counts["speakers"] else " (speakers not given)"
    splits = ""
    if about is not None and "split" in about:
        known = about["split"].reindex(found.reference.items)
        split = known.astype(object).where(known.notna(), "not stated").astype(str).value_counts()
        split = split if known.notna().any() else split.iloc[:0]
        each = " and ".join(name if len(split) == 1 else f"{name} ({count:,})" for name, count in split.items())
        splits = f" of the split{'s' if len(split) > 1 else ''} {each}" if len(split) else ""
    left_out = "; ".join(f"{reason}: {count:,}" for reason, count in excluded.items())
    jsd, gap, difference = found.at("jsd"), found.at("gap_closed"), found.difference("jsd")
    text = (
        f"Predictions for {_many(counts['n_evaluated'], 'item')}{spoken}{splits} were compared with {said} on the question"
        f"{'s' if len(targets.questions) > 1 else ''} {names} ({kind}). Left out: {left_out or 'nothing'}. "
        f"The mean Jensen-Shannon divergence from the votes is {interval(jsd, 3, ' nats')}, or "
        f"{found.at('jsd_bits')['value']:.3f} bits, against {found.at('jsd', MARGINAL)['value']:.3f} nats for "
        f"{found.reference.baseline}. "
    )
    if gap["value"] is not None:
        text += (
            f"The model closes {interval(gap, 1, ' %')} of the gap in cross-entropy between that baseline and the votes' "
            "own entropy"
        )
        unsure = gap["low"] is not None and gap["low"] <= 0 <= gap["high"]
        text += "; the interval includes 0, so the data do not show that it closes any. " if unsure else ". "
    if found.equivalence is not None:
        worth = found.equivalence.systems["model"]["worth"]["text"]
        text += f"At forecasting a rater's vote it is worth {worth} other raters of the same item. "
    low, high = difference["low"], difference["high"]
    if low is None:
        return text + next(note for note in found.notes if note.startswith("No intervals"))
    text += f"The difference in divergence, model - marginal, is {interval(difference, 3, ' nats')}"
    if low <= 0 <= high:
        return text + ": the data do not show a difference between the model and the marginal."
    return text + "." if high < 0 else text + ": the model is worse than the marginal."


def _many(count: float, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _figures(found: Evaluation, predictions: Predictions, biases: dict[str, dict[str, Any]] | None) -> Figures:
    """All figures that the data allow: functions that draw them, and captions."""
    targets, q, table = found.reference.targets, found.reference.q, found.per_item
    p, base = found.probs, found.reference.marginal
    names = [question.name for question in targets.questions]
    grid = names if len(names) == 2 else ()
    rows, ranks = _examples(table["jsd"].to_numpy())
    titles = [
        f"{rank} JSD: {table['jsd'][row]:.3f} nats\n{short(table['item'][row], 28)}\n"
        f"{_many(table['votes'][row], 'vote')}"
        for row, rank in zip(rows, ranks, strict=True)
    ]
    figures = {
        "examples": (
            lambda: plots.plot_examples(targets.support, q[rows], p[rows], titles, grid),
            "Votes and prediction for the items with the lowest, median and highest divergence.",
        )
    }
    if grid:
        bins = round(len(base) ** 0.5)
        means = {"votes": q.mean(0), "mean prediction": p.mean(0), "marginal": base}
        shaped = {name: mean.reshape(bins, bins) for name, mean in means.items()}
        figures["mean_grid"] = (
            lambda: plots.plot_grids(shaped, names),
            "Mean distribution over all evaluated items, and the marginal baseline, on one colour scale.",
        )
    else:
        figures["mean_distribution"] = (
            lambda: plots.plot_mean_distribution(targets.support, q.mean(0), p.mean(0), base),
            "Mean distribution of the votes and of the predictions over all evaluated items, and the marginal baseline.",
        )
    figures["reliability"] = (
        lambda: plots.plot_reliability(q, p, unit="cell" if predictions.is_scale else "label"),
        "Calibration: points on the diagonal mean that labels get the share of votes that the model predicts for them.",
    )
    figures["entropy"] = (
        lambda: plots.plot_entropy(
            table["entropy_votes"].to_numpy(),
            table["entropy_predicted"].to_numpy(),
            q.shape[1],
            found.at("entropy_correlation")["value"],
        ),
        "Does the model know where people disagree? Entropy of its prediction against entropy of the votes.",
    )
    if found.counts["speakers"] > 1:
        means = table.groupby("speaker").agg(
            model=("jsd", "mean"), marginal=("jsd_marginal", "mean"), n=("jsd", "size")
        )
        speakers = {str(name): (row.model, row.marginal, int(row.n)) for name, row in means.iterrows()}
        figures["speakers"] = (
            lambda: plots.plot_speakers(speakers),
            "Mean divergence of model and marginal for each speaker, the best predicted on top.",
        )
    if biases is not None:
        figures["rater_bias"] = (
            lambda: plots.plot_rater_bias(biases),
            "Bias that the simulation gave each rater, against the mean difference between the model's prediction for "
            "that rater and its consensus prediction.",
        )
    return figures


def _examples(divergence: np.ndarray) -> tuple[list[int], list[str]]:
    """Rows of the lowest, median and highest values, each row once, and their names."""
    order = np.argsort(divergence, kind="stable")
    if len(order) < 3:
        return order.tolist(), ["only"] if len(order) == 1 else ["lowest", "highest"]
    return order[[0, (len(order) - 1) // 2, -1]].tolist(), ["lowest", "median", "highest"]


def breakdown_sections(found: Evaluation, reliability: Figures) -> list[Section]:
    """Sections on disagreement, ranks and speakers, calibration and confusion, and the worth in raters.

    Args:
        found: Evaluation of a single system on a category question.
        reliability: The calibration plot, for the section on the calibration error.
    """
    strata = {
        "strata": (
            lambda: plots.plot_strata(found),
            "Results by how much the raters disagree, with 95 % intervals: entropy of the votes in thirds of its range and "
            "in tertiles of the items.",
        )
    }
    speakers = {}
    ranked = [*tables.n_best_table(found), *tables.speakers_table(found)]
    if found.groups and len(found.support) > 1:
        speakers["speaker_recall"] = (
            lambda: plots.plot_speaker_recall(found.per_speaker),
            "Share of speakers whose own average recall exceeds each level; at .75 and .50 the curves give paUAR.",
        )
    confusion = {
        "confusion": (
            lambda: plots.plot_confusion(found.support, found.confusion),
            "Raters and model on the items that each label wins: mean distribution of the votes and of the predictions; each "
            "row sums to 1.",
        )
    }
    sections = [
        Section([tables.strata_table(found)], strata),
        Section(ranked, speakers),
        Section([tables.calibration_table(found)], reliability),
        Section(tables.residual_table(found), confusion),
    ]
    if found.equivalence is not None:
        curve = {
            "equivalence": (
                lambda: plots.plot_equivalence(found.equivalence, found.systems),
                "How many raters the model is worth: error of k raters, and of the model, in forecasting one more rater's "
                "vote on the same items; bands are 95 % intervals.",
            )
        }
        sections.append(Section(tables.equivalence_table(found), curve))
    return sections


def robustness_section(found: Evaluation) -> Section:
    """Scores under each condition, differences to clean clips, and a plot of the JSD."""
    scales = [f"ccc_{question.name}" for question in found.reference.targets.questions]
    names = [name for name in ("jsd", "gap_closed", "accuracy", "uar") if name in found]
    if found.reference.targets.questions[0].is_scale:
        names = ["jsd", "gap_closed", *scales]
    heads = (f"{one.title}{ARROWS[one.better]} ({one.unit})" for one in map(found.measured, names))
    columns = ("Condition", *heads)
    rows = [
        (Cell(system), *(measure_cell(found, name, system) for name in names)) for system in (*found.systems, MARGINAL)
    ]
    scores = Table("Unseen acoustic conditions", columns, rows, _note(found))
    clean, *altered = found.systems
    rows = [(Cell(system), *(difference_cell(found, name, system, clean) for name in names)) for system in altered]
    told = "Condition \u2212 clean on the same resamples (paired)."
    differences = Table("What each condition changes", columns, rows, told)
    jsd = {system: found.at("jsd", system) for system in (*found.systems, MARGINAL)}
    figures = {
        "conditions": (
            lambda: plots.plot_conditions(found.systems, jsd),
            "Mean divergence from the votes under each acoustic condition, with 95 % intervals; the lines are the model on "
            "clean clips and the marginal.",
        )
    }
    return Section([scores, differences], figures)


def _note(found: Evaluation) -> str:
    return (
        "The same clips, altered before the model reads them, against the same votes. noise: white Gaussian noise at a "
        "signal-to-noise ratio (dB). reverb: a room that decays by 60 dB in this time (s), at the critical distance. "
        "telephone: 8 kHz, 300 to 3400 Hz, G.711 mu-law. mp3: LAME at this rate (kbit/s). In brackets: 95 % intervals. The "
        f"marginal is {found.reference.baseline}."
    )


_VERDICTS = (
    "A run is called better if the 95 % interval of the difference excludes 0. With many measures, some do so by chance: one "
    "in twenty of those without a difference. The intervals do not cover the variation between training seeds."
)
# Title of a table, and the prefixes of its measures.
_PARTS = (
    ("By how much the raters disagree", ("jsd_t", "accuracy_t", "macro_f1_t")),
    ("Among the most probable labels", ("accuracy_", "uar_")),
    ("Speaker by speaker", ("pauar",)),
    ("Calibration", ("ece", "residual_")),
)


def build_comparison(
    predictions_a: Predictions,
    predictions_b: Predictions,
    targets: Targets,
    out: str | os.PathLike[str],
    *,
    title: str,
    names: tuple[str, str] = ("A", "B"),
    items: pd.DataFrame | None = None,
    marginal: Sequence[float] | np.ndarray | None = None,
    votes: VoteTable | None = None,
    notes: Mapping[str, Any] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    on_missing: str = "error",
    groups: Sequence[str] | None = None,
) -> Report:
    """Compare two runs and write the report into one folder.

    Args:
        predictions_a: Predictions of one run.
        predictions_b: Predictions of the other run for the same items.
        targets: Targets of the items.
        out: Folder to write; created if necessary.
        title: Heading of the report.
        names: Names of the runs.
        items: Table with a column `item` and, if known, `speaker` (intervals resample speakers, or items if all are null)
            and metadata.
        marginal: Distribution of the training votes `(K,)`, the baseline.
        votes: The votes behind the targets, for rater equivalence.
        notes: Further facts to print at the end.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.
        on_missing: "error" or "exclude"; see `evaluate`.
        groups: Columns of `items` by which speakers are told apart; `sex` and `gender`, if there, when None.

    Raises:
        ValueError: The runs cover different items, or the inputs do not match.
    """
    about = None if items is None else items_by_name(items)
    a, b = names
    found = evaluate(
        {a: predictions_a, b: predictions_b},
        targets,
        speakers=None if about is None or "speaker" not in about else about["speaker"],
        groups=groups_of(about, groups),
        votes=votes,
        marginal=marginal,
        against=b,
        parts=("items", "raters", "categories"),
        n_resamples=n_resamples,
        seed=seed,
        on_missing=on_missing,
    )
    runs = dict(zip(names, (predictions_a, predictions_b), strict=True))
    details = {f"{name}: {key}": value for name, run in runs.items() for key, value in run.meta.items()}
    cautions = [f"{name}: {run.caution}" for name, run in runs.items() if run.caution]
    summary, folder = " ".join([*cautions, _comparison_summary(found)]), Path(out)
    files = write_pages(
        folder,
        title=title,
        summary=summary,
        sections=_sections(found),
        notes=[*found.notes, _VERDICTS],
        details={**details, **(notes or {})},
        data={
            "questions": [question.to_dict() for question in targets.questions],
            "support": list(targets.support),
            "target_method": targets.method,
            "evaluation": found.to_dict(),
            "resampling": {"n_resamples": n_resamples, "seed": seed},
        },
        per_item=found.per_item,
    )
    return Report(folder, title, summary, found, files)


def _sections(found: Evaluation) -> list[Section]:
    a, b = found.systems
    over_items = [name for name in found.parts["items"] if name not in ("jsd_bits", "vote_entropy")]
    forest = {
        "differences": (
            lambda: plots.plot_differences(found, over_items),
            f"Differences between the runs with 95 % intervals, oriented so that right is better for {a}.",
        )
    }
    if found.counts["speakers"] > 1:
        means = found.per_item.groupby("speaker")[[f"jsd_{a}", f"jsd_{b}"]].mean()
        forest["speaker_pairs"] = (
            lambda: plots.plot_speaker_pairs(means[f"jsd_{a}"].to_numpy(), means[f"jsd_{b}"].to_numpy(), found.systems),
            f"Mean divergence from the votes for each speaker; above the diagonal {a} is better.",
        )
    note = (
        "\u2193 lower is better, \u2191 higher. In brackets: 95 % intervals. Better: the run on whose side the interval of "
        f"the difference {a} \u2212 {b} lies. The marginal is {found.reference.baseline}."
    )
    names = [name for name in found.parts["items"] if name != "vote_entropy"]
    sections = [Section([_comparison_table("Differences over all items", names, found, note)], forest)]
    if found.parts["raters"]:
        sections.append(
            Section([_comparison_table("Predicted answers of single raters", found.parts["raters"], found)])
        )
    left = [name for name in found.parts["categories"] if "_best_min" not in name and "_present_" not in name]
    for title, starts in _PARTS:
        part = [name for name in left if name.startswith(starts) and found.measured(name).better]
        left = [name for name in left if name not in part]
        if part:
            sections.append(Section([_comparison_table(title, part, found)]))
    if found.equivalence is not None:
        sections.append(Section([_worth_table(found)], _worth_figure(found)))
    return sections


def _comparison_table(title: str, names: Iterable[str], found: Evaluation, note: str = "") -> Table:
    a, b = found.systems
    rows = [
        (
            head_cell(found[name]),
            *(measure_cell(found, name, system) for system in (a, b, MARGINAL)),
            value_cell(found.difference(name, a, b), found.measured(name).unit),
            Cell(found.better(name, a, b) or "undecided"),
        )
        for name in names
    ]
    return Table(title, ("Measure", a, b, "Marginal", "Difference", "Better"), rows, note)


def _worth_table(found: Evaluation) -> Table:
    told = found.equivalence
    rows = []
    for name in found.systems:
        worth, *ends = told.systems[name]["worth"]["text"].split(" (95 % interval ")
        rows.append(
            (
                Cell(name),
                value_cell(told.systems[name]["loss"]),
                Cell(worth, f"[{ends[0][:-1].replace(' to ', ', ')}]" if ends else ""),
            )
        )
    note = (
        "Cross-entropy (nats) of a held-out vote, and the number of other raters of the item whose smoothed histogram "
        f"({told.alpha:.2g} pseudo-votes) forecasts it as well, over the {told.items:,} items ({100 * told.share:.0f} %) with "
        f"at least {int(told.raters[-1]) + 1} votes. (Resnick et al. 2021)"
    )
    return Table("How many raters the runs are worth", ("Run", "Cross-entropy \u2193", "Raters \u2191"), rows, note)


def _worth_figure(found: Evaluation) -> Figures:
    return {
        "equivalence": (
            lambda: plots.plot_equivalence(found.equivalence, found.systems),
            "Error of k raters, and of the runs, in forecasting one more rater's vote on the same items; bands are 95 % "
            "intervals.",
        )
    }


def _comparison_summary(found: Evaluation) -> str:
    """What was compared, and the main result with its interval."""
    (a, b), counts, difference = found.systems, found.counts, found.difference("jsd", *found.systems)
    asked = " and ".join(f"\u201c{question.name}\u201d" for question in found.reference.targets.questions)
    spoken = f"{counts['speakers']:,} speakers" if counts["speakers"] != 1 else "1 speaker"
    spoken = f" by {spoken}" if counts["speakers"] else " (speakers not given)"
    left = counts["predicted_without_target"] + counts["target_without_prediction"]
    text = (
        f"The runs {a} and {b} were compared on {counts['n_evaluated']:,} item{'' if counts['n_evaluated'] == 1 else 's'}"
        f"{spoken}, question {asked}. Left out: {f'{left:,} items on one side only' if left else 'nothing'}. The mean "
        f"Jensen-Shannon divergence from the votes is {number(found.at('jsd', a)['value'], 3)} nats for {a} and "
        f"{number(found.at('jsd', b)['value'], 3)} nats for {b}; the difference, {a} \u2212 {b}, is "
        f"{interval(difference, 3, ' nats')}. "
    )
    if difference["low"] is None:
        return text + next((note for note in found.notes if note.startswith("No intervals")), "")
    better = found.better("jsd", a, b)
    better = f"{better} is better" if better else "the data do not show a difference between the runs"
    # JSD in bits is JSD in another unit, and the entropy of the votes does not depend on the run.
    verdicts = [found.better(name, a, b) for name in found.parts["items"] if name not in ("jsd_bits", "vote_entropy")]
    return text + (
        f"By this measure {better}. Of {len(verdicts)} measures over all items {a} is better in {verdicts.count(a)}, {b} in "
        f"{verdicts.count(b)}, and {verdicts.count('')} are undecided."
    )
