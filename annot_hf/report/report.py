"""Reports of one run, or of two runs: report.json, report.md, a self-contained report.html, items.csv and plots/*.png."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from annot_hf.data.agreement import Agreement, agreement
from annot_hf.data.predictions import Predictions
from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import by_condition, examples, groups_of, items_by_name
from annot_hf.evaluation.evaluate import MARGINAL, MODEL, Evaluation, evaluate
from annot_hf.evaluation.raters import recovered_bias
from annot_hf.report import figures as plots, tables
from annot_hf.report.pages import Figures, Section, write_pages
from annot_hf.report.systems import VERDICTS, comparison_sections, comparison_summary, robustness_section
from annot_hf.report.tables import (
    asked,
    counted,
    interval,
    spoken,
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
    options = _options(about, marginal, n_resamples, seed, on_missing)
    parts = ("items", "raters", "scales", "categories")
    found = evaluate(predictions, targets, votes=votes, groups=groups_of(about, groups), parts=parts, **options)
    voted = None if votes is None else _evaluated_votes(votes, found)
    biases = None
    if truth is not None and predictions.is_scale and (~predictions.rater_fallback).any():
        biases = recovered_bias(predictions, truth.raters, votes=voted, resamples=found.reference.resamples)
    robust = None
    if conditions is not None:
        robust = evaluate(by_condition(predictions, conditions), targets, parts=("items",), **options)
    numbers = _Numbers(
        found=found,
        biases=biases,
        robust=robust,
        agreed=[] if voted is None else [agreement(voted, question.name) for question in targets.questions],
        excluded=_excluded(found, targets, votes),
        splits=_splits(found, about),
        resampling={"n_resamples": n_resamples, "seed": seed},
        details={**predictions.meta, **(notes or {})},
        caution=predictions.caution,
    )
    summary = _report_summary(numbers)
    sections, said = _report_sections(numbers), numbers.found.notes
    return _write_all(numbers.found, out, title, summary, sections, said, numbers.details, numbers.to_dict())


@dataclass(frozen=True, eq=False)
class _Numbers:
    """All numbers and facts of a report on one run; its words, tables and figures are made from these alone."""

    found: Evaluation
    biases: dict[str, dict[str, Any]] | None
    robust: Evaluation | None
    agreed: list[Agreement]
    excluded: dict[str, int]
    splits: str
    resampling: dict[str, int]
    details: dict[str, Any]
    caution: str

    def to_dict(self) -> dict[str, Any]:
        """What report.json holds besides the evaluation."""
        return {
            "robustness": None if self.robust is None else self.robust.to_dict(),
            "excluded": self.excluded,
            "agreement": [one.to_dict() for one in self.agreed],
            "recovered_bias": self.biases,
            "resampling": self.resampling,
        }


def _report_sections(numbers: _Numbers) -> list[Section]:
    found = numbers.found
    figures = _report_figures(found, numbers.biases)
    shown = [tables.score_table(found), *tables.rater_table(found), *tables.class_table(found)]
    shown += tables.scale_table(found) + tables.disagreement_table(found)
    shown += tables.agreement_table(numbers.agreed) + tables.bias_table(numbers.biases)
    sections = [Section(shown, figures)]
    if found.strata:
        sections += breakdown_sections(found, {"reliability": figures.pop("reliability")})
    if numbers.robust is not None:
        sections.append(robustness_section(numbers.robust))
    return sections


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
        groups: Columns of `items` that group speakers; when None, `sex` and `gender` if they exist.

    Raises:
        ValueError: The runs cover different items, or the inputs do not match.
    """
    about = None if items is None else items_by_name(items)
    options = _options(about, marginal, n_resamples, seed, on_missing)
    parts = ("items", "raters", "categories")
    runs = dict(zip(names, (predictions_a, predictions_b), strict=True))
    grouped = groups_of(about, groups)
    found = evaluate(runs, targets, votes=votes, groups=grouped, against=names[1], parts=parts, **options)

    cautions = [f"{name}: {run.caution}" for name, run in runs.items() if run.caution]
    summary = " ".join([*cautions, comparison_summary(found)])
    details = {f"{name}: {key}": value for name, run in runs.items() for key, value in run.meta.items()}
    details |= notes or {}
    numbers = {"resampling": {"n_resamples": n_resamples, "seed": seed}}
    said = [*found.notes, VERDICTS]
    return _write_all(found, out, title, summary, comparison_sections(found), said, details, numbers)


def _options(
    about: pd.DataFrame | None, marginal: Sequence[float] | np.ndarray | None, n: int, seed: int, on_missing: str
) -> dict[str, Any]:
    """What all evaluations of a report share."""
    speakers = None if about is None or "speaker" not in about else about["speaker"]
    return {"speakers": speakers, "marginal": marginal, "n_resamples": n, "seed": seed, "on_missing": on_missing}


def _write_all(
    found: Evaluation,
    out: str | os.PathLike[str],
    title: str,
    summary: str,
    sections: Sequence[Section],
    notes: Sequence[str],
    details: Mapping[str, Any],
    numbers: Mapping[str, Any],
) -> Report:
    """Write everything; `numbers` stand in report.json beside the evaluation."""
    targets = found.reference.targets
    data = {
        "questions": [question.to_dict() for question in targets.questions],
        "support": list(targets.support),
        "target_method": targets.method,
        "evaluation": found.to_dict(),
        **numbers,
    }
    texts = {"title": title, "summary": summary, "notes": notes, "details": details}
    files = write_pages(Path(out), sections=sections, data=data, per_item=found.per_item, **texts)
    return Report(Path(out), title, summary, found, files)


def _evaluated_votes(votes: VoteTable, found: Evaluation) -> VoteTable:
    """The votes on the evaluated items."""
    items = found.reference.items
    voted = votes.select(items=items)
    without = items[~np.isin(items, voted.items)]
    if len(without):
        raise ValueError(
            f"{len(without)} evaluated items have no vote in the votes given{examples(without)}; give the votes that the "
            "targets were made from."
        )
    return voted


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


def _report_summary(numbers: _Numbers) -> str:
    """What was evaluated, what was left out, and the main result with its interval, after a caution if there is one."""
    found = numbers.found
    targets, counts = found.reference.targets, found.counts
    kind = f"{len(targets.support)} {'grid cells' if targets.questions[0].is_scale else 'labels'}"
    said = counted(counts["votes"], "vote")
    if counts["raters_voting"]:
        named = counts["rater_votes"] - counts["rater_votes_incomplete"]
        some = "" if named == counts["votes"] else f", {named:,} of them"
        said += f"{some} by {counted(counts['raters_voting'], 'named rater')}"
    else:
        said += " without rater names"
    left_out = "; ".join(f"{reason}: {count:,}" for reason, count in numbers.excluded.items())
    jsd, gap, difference = found.at("jsd"), found.at("gap_closed"), found.difference("jsd")
    questions = "questions" if len(targets.questions) > 1 else "question"
    text = f"{numbers.caution} " if numbers.caution else ""
    text += (
        f"Predictions for {counted(counts['n_evaluated'], 'item')}{spoken(found)}{numbers.splits} were compared with "
        f"{said} on the {questions} {asked(found)} ({kind}). Left out: {left_out or 'nothing'}. "
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
        worth = found.equivalence.systems[MODEL]["worth"]["text"]
        text += f"At forecasting a rater's vote it is worth {worth} other raters of the same item. "
    low, high = difference["low"], difference["high"]
    if low is None:
        return text + next(note for note in found.notes if note.startswith("No intervals"))
    text += f"The difference in divergence, model - marginal, is {interval(difference, 3, ' nats')}"
    if low <= 0 <= high:
        return text + ": the data do not show a difference between the model and the marginal."
    return text + "." if high < 0 else text + ": the model is worse than the marginal."


def _splits(found: Evaluation, about: pd.DataFrame | None) -> str:
    """The splits of the evaluated items, such as " of the split test"; empty if they are not stated."""
    known = None if about is None or "split" not in about else about["split"].reindex(found.reference.items)
    if known is None or known.isna().all():
        return ""
    counts = known.astype(object).where(known.notna(), "not stated").astype(str).value_counts()
    each = " and ".join(name if len(counts) == 1 else f"{name} ({count:,})" for name, count in counts.items())
    return f" of the split{'s' if len(counts) > 1 else ''} {each}"


def _report_figures(found: Evaluation, biases: dict[str, dict[str, Any]] | None) -> dict[str, Any]:
    """The `Figures` that the data allow."""
    targets, q, p, table = found.reference.targets, found.reference.q, found.probs, found.per_item
    base, is_scale = found.reference.marginal, targets.questions[0].is_scale
    names = [question.name for question in targets.questions]
    grid = names if len(names) == 2 else ()
    rows, ranks = _examples(table["jsd"].to_numpy())
    titles = [
        f"{rank} JSD: {table['jsd'][row]:.3f} nats\n{plots.short(table['item'][row], 28)}\n"
        f"{counted(table['votes'][row], 'vote')}"
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
        shown = {"votes": q.mean(0), "mean prediction": p.mean(0), "marginal": base}
        figures["mean_grid"] = (
            lambda: plots.plot_grids({name: mean.reshape(bins, bins) for name, mean in shown.items()}, names),
            "Mean distribution over all evaluated items, and the marginal baseline, on one colour scale.",
        )
    else:
        figures["mean_distribution"] = (
            lambda: plots.plot_mean_distribution(targets.support, q.mean(0), p.mean(0), base),
            "Mean distribution of the votes and of the predictions over all evaluated items, and the marginal baseline.",
        )
    figures["reliability"] = (
        lambda: plots.plot_reliability(q, p, unit="cell" if is_scale else "label"),
        "Calibration: points on the diagonal mean that labels get the share of votes that the model predicts for them.",
    )
    entropies = [table[name].to_numpy() for name in ("entropy_votes", "entropy_predicted")]
    figures["entropy"] = (
        lambda: plots.plot_entropy(*entropies, q.shape[1], found.at("entropy_correlation")["value"]),
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
    """Sections of a category question: disagreement, ranks and speakers, calibration (with that figure), worth in raters."""
    strata = {
        "strata": (
            lambda: plots.plot_strata(found),
            "Results by how much the raters disagree, with 95 % intervals: entropy of the votes in thirds of its range and "
            "in tertiles of the items.",
        )
    }
    speakers = {}
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
        Section([*tables.n_best_table(found), *tables.speakers_table(found)], speakers),
        Section([tables.calibration_table(found)], reliability),
        Section(tables.residual_table(found), confusion),
    ]
    if found.equivalence is not None:
        caption = (
            "How many raters the model is worth: error of k raters, and of the model, in forecasting one more rater's "
            "vote on the same items; bands are 95 % intervals."
        )
        sections.append(Section(tables.equivalence_table(found), plots.worth_figure(found, caption)))
    return sections
