"""Reports of one or several runs: report.json, report.md, a self-contained report.html, items.csv and plots/*.png."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from annot_hf.data.predictions import Predictions
from annot_hf.data.targets import Targets, targets_like
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.agreement import agreement
from annot_hf.evaluation.alignment import examples, groups_of, items_by_name
from annot_hf.evaluation.evaluate import CONSENSUS, MARGINAL, MODEL, Evaluation, evaluate, measure_conditions
from annot_hf.evaluation.raters import recovered_bias
from annot_hf.report import figures as plots, tables
from annot_hf.report.opening import Opening, open_report
from annot_hf.report.pages import Figures, Section, write_pages
from annot_hf.report.systems import MOST_RUNS, comparison_sections, comparison_summary
from annot_hf.report.tables import say

if TYPE_CHECKING:
    from annot_hf.data.simulate import Truth


@dataclass(frozen=True)
class Report:
    """The result of `build_report` or `build_comparison`.

    Attributes:
        folder: Where the files are.
        title: Its heading.
        summary: The verdict, and what was compared with what.
        opening: The verdict, the three numbers and the items that the page begins with.
        evaluation: All numbers.
        files: Paths of json, markdown, html, csv and of each plot, by name.
    """

    folder: Path
    title: str
    summary: str
    opening: Opening
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
    robustness: Mapping[str, Predictions] | None = None,
    controls: Mapping[str, Predictions] | None = None,
    newcomers: tuple[Mapping[str, Predictions], VoteTable] | None = None,
    listen: bool = False,
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
        truth: Truth of a simulated corpus (`read_truth`), for the biases of raters and the best possible scores.
        notes: Further facts on the run to print at the end.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.
        on_missing: "error" or "exclude"; see `evaluate`.
        groups: Columns of `items` that group speakers; when None, `sex` and `gender` if they exist.
        conditions: Predictions of the same model for the same clips under acoustic conditions; see `read_conditions`.
        robustness: Predictions of a sample of the clips under mild conditions, which `predict_robustness` makes.
        controls: What a model of raters is held against, by name; see `held_against`.
        newcomers: Predictions for raters who joined the trained model, as "model" and as what these are held against, and the
            votes of theirs to score.
        listen: Put the audio of the three clips with the most disagreement into the page; mind the corpus's licence.

    Raises:
        ValueError: The inputs do not match.
    """
    about, options = _about(items, marginal, n_resamples, seed, on_missing)
    if listen and (about is None or "audio" not in about):
        raise ValueError("The items have no audio to listen to; leave listen out.")
    parts = ("items", "raters", "scales", "categories", "ceiling", "subsets")
    found = evaluate(predictions, targets, votes=votes, groups=groups_of(about, groups), parts=parts, **options)
    voted = None if votes is None else _evaluated_votes(votes, found)
    biases = None
    if truth is not None and predictions.is_scale and (~predictions.rater_fallback).any():
        biases = recovered_bias(predictions, truth.raters, votes=voted, resamples=found.reference.resamples)
    compared = {"parts": ("items", "raters"), "against": MODEL, **options}
    helped = evaluate({MODEL: predictions, **controls}, targets, **compared) if controls else None
    joined = None
    if newcomers is not None:
        asked, own = newcomers
        joined = evaluate(asked, targets_like(targets, own), **compared)
    robust = sampled = None
    if conditions is not None:
        robust = measure_conditions(predictions, conditions, targets, **options)
    if robustness:
        some = next(iter(robustness.values())).items
        options["on_missing"] = "exclude"
        sampled = measure_conditions(predictions.select(some), robustness, targets, **options)
    agreed = []
    if voted is not None:
        drawn = found.reference.resamples.select(pd.Index(found.reference.items).get_indexer(voted.items))
        known = [question.name for question in targets.questions if not question.shares]
        agreed = [agreement(voted, name, resamples=drawn) for name in known]
    excluded = _excluded(found, targets, votes)

    opening = open_report(found, helped, {MODEL: predictions}, about, listen=listen)
    opening = replace(opening, verdict=f"{predictions.caution} {opening.verdict}".strip())
    figures = _report_figures(found, biases)
    sections = []
    if helped is not None:
        sections.append(controls_section(helped, found, width=predictions.meta.get("consensus_width")))
    if biases is not None:
        sections.append(Section(tables.bias_table(biases), {"rater_bias": figures.pop("rater_bias")}))
    if joined is not None:
        sections.append(newcomers_section(joined, asked[MODEL].meta.get("onboarding_votes", 0)))
    shown = tables.score_tables(found) + tables.class_table(found) + tables.scale_table(found)
    shown += tables.disagreement_table(found) + tables.agreement_table(agreed) + tables.spread_table(found)
    shown += tables.subsets_table(found)
    sections.append(Section(shown, figures))
    if found.strata:
        sections += breakdown_sections(found, {"reliability": figures.pop("reliability")})
    if sampled is not None:
        sections.append(Section([tables.robustness_table(sampled)]))
    if robust is not None:
        sections.append(robustness_section(robust))
    summary = say("summaries.report", found=found, excluded=excluded, splits=_splits(found, about))
    data = {
        "controls": None if helped is None else helped.to_dict(),
        "newcomers": None if joined is None else joined.to_dict(),
        "robustness": None if robust is None else robust.to_dict(),
        "robustness_sample": None if sampled is None else sampled.to_dict(),
        "excluded": excluded,
        "agreement": [one.to_dict() for one in agreed],
        "recovered_bias": biases,
        "resampling": {"n_resamples": n_resamples, "seed": seed},
    }
    heads = found.counts["rater_votes_own_head"] and found.parts["raters"]
    notes_shown = [*found.notes, *([say("controls.lacking")] if heads and helped is None else [])]
    texts = {"title": title, "opening": opening, "summary": summary, "notes": notes_shown}
    details = {**predictions.meta, **(notes or {})}
    files = write_pages(Path(out), found, sections=sections, data=data, details=details, **texts)
    return Report(Path(out), title, f"{opening.verdict} {summary}", opening, found, files)


def build_comparison(
    runs: Mapping[str, Predictions],
    targets: Targets,
    out: str | os.PathLike[str],
    *,
    title: str,
    items: pd.DataFrame | None = None,
    marginal: Sequence[float] | np.ndarray | None = None,
    votes: VoteTable | None = None,
    notes: Mapping[str, Any] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    on_missing: str = "error",
    groups: Sequence[str] | None = None,
    listen: bool = False,
) -> Report:
    """Compare up to six runs on the same items and write the report into one folder.

    Args:
        runs: The predictions by the name of the run.
        targets: Targets of the items.
        out: Folder to write; created if necessary.
        title: Heading of the report.
        items: Table with a column `item` and, if known, `speaker` (intervals resample speakers, or items if all are null)
            and metadata.
        marginal: Distribution of the training votes `(K,)`, the baseline.
        votes: The votes behind the targets, for rater equivalence.
        notes: Further facts to print at the end.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.
        on_missing: "error" or "exclude"; see `evaluate`.
        groups: Columns of `items` that group speakers; when None, `sex` and `gender` if they exist.
        listen: Put the audio of the three clips with the most disagreement into the page; mind the corpus's licence.

    Raises:
        ValueError: The runs cover different items, are too many, or the inputs do not match.
    """
    if not 2 <= len(runs) <= MOST_RUNS:
        raise ValueError(f"There are {len(runs)} runs; compare 2 to {MOST_RUNS} on a page.")
    about, options = _about(items, marginal, n_resamples, seed, on_missing)
    parts = ("items", "raters", "categories", "subsets")
    grouped, names = groups_of(about, groups), list(runs)
    # Of two runs, the differences are those of the first.
    against = names[1] if len(runs) == 2 else names[0]
    found = evaluate(runs, targets, votes=votes, groups=grouped, against=against, parts=parts, **options)

    opening = open_report(found, None, runs, about, listen=listen)
    cautions = [f"{name}: {run.caution}" for name, run in runs.items() if run.caution]
    opening = replace(opening, verdict=" ".join([*cautions, opening.verdict]))
    summary = comparison_summary(found)
    details = {f"{name}: {key}": value for name, run in runs.items() for key, value in run.meta.items()}
    said = [*found.notes, say("comparison.verdicts")]
    texts = {"title": title, "opening": opening, "summary": summary, "notes": said}
    data, details = {"resampling": {"n_resamples": n_resamples, "seed": seed}}, {**details, **(notes or {})}
    files = write_pages(Path(out), found, sections=comparison_sections(found), data=data, details=details, **texts)
    return Report(Path(out), title, f"{opening.verdict} {summary}", opening, found, files)


def controls_section(found: Evaluation, alone: Evaluation, *, width: float | None) -> Section:
    """What the rater heads gain over their controls, and rater by rater over the consensus (from `alone`, of the model)."""
    names, others = ["jsd", "tvd", "gap_closed", *tables.answer_measures(found)], found.systems[1:]
    lacking = {"grid", "shuffled"} - set(others)
    told = {"width": width, "best": "best" in others, "lacking": lacking}
    titles = [tables.row_title(system) for system in found.systems]
    rows = [(tables.short_title(found, name), *tables.measure_cells(found, [name], found.systems)) for name in names]
    gains = [
        (tables.short_title(found, name), *(tables.gain_cell(found, name, MODEL, other) for other in others))
        for name in names
    ]
    shown = [tables.worded("controls", rows, columns=("Measure", *titles), **told)]
    shown.append(tables.worded("control_changes", gains, columns=("Rater heads −", *titles[1:])))
    kinds = {"ccc_": "rater_mean_ccc_"} if found.reference.targets.questions[0].is_scale else {"cross": "rater_cross"}
    measures = {
        name.replace(long, short): tables.heading(found, name)[0]
        for name in names
        for short, long in kinds.items()
        if long in name
    }
    figure = {"raters": lambda: plots.plot_raters(alone.per_rater, measures, "higher" if "ccc_" in kinds else "lower")}
    return Section(shown, figure)


def newcomers_section(found: Evaluation, votes: int) -> Section:
    """How well the votes of new raters are predicted: by the consensus, by their own heads, and at best."""
    if not found.parts["raters"]:
        raise ValueError(
            "The predictions for newcomers answer none of the newcomers' votes; predict the test clips with the model that "
            "they were onboarded to."
        )
    names = [name for name in tables.answer_measures(found) if not name.startswith("mean_answer")]
    beside = next(other for one, other in found.pairs if one == MODEL and CONSENSUS in other)
    systems = {beside: tables.row_title(CONSENSUS), MODEL: tables.row_title("onboarded", votes=votes)}
    systems |= {"best": tables.row_title("best")} if "best" in found.systems else {}
    rows = [
        (
            tables.short_title(found, name),
            *tables.measure_cells(found, [name], list(systems)),
            tables.gain_cell(found, name, MODEL, beside),
        )
        for name in names
    ]
    told = {"raters": found.counts["raters_scored"], "votes": votes, "scored": found.counts["rater_votes"]}
    return Section([tables.worded("newcomers", rows, columns=("Measure", *systems.values(), "Gained"), **told)])


def robustness_section(found: Evaluation) -> Section:
    """Scores under each condition, differences to clean clips, and a plot of the JSD."""
    questions, (clean, *altered) = found.reference.targets.questions, found.systems
    names = [name for name in ("moved", "jsd", "gap_closed", "accuracy", "uar") if name in found]
    if questions[0].is_scale:
        names = ["moved", "jsd", "gap_closed", *(f"ccc_{question.name}" for question in questions)]
    heads = [f"{one.title}{tables.ARROWS[one.better]} ({one.unit})" for one in map(found.measured, names)]
    systems = (*found.systems, MARGINAL)
    scores = [(system, *tables.measure_cells(found, names, [system])) for system in systems]
    # How far predictions moved is a difference itself.
    differences = [(one, *(tables.difference_cell(found, name, one, clean) for name in names[1:])) for one in altered]
    shown = [
        tables.worded("conditions", scores, columns=("Condition", *heads), baseline=found.reference.baseline),
        tables.worded("condition_changes", differences, columns=("Condition", *heads[1:])),
    ]
    jsd = {system: found.at("jsd", system) for system in systems}
    return Section(shown, {"conditions": lambda: plots.plot_conditions(found.systems, jsd)})


def _about(
    items: pd.DataFrame | None, marginal: Sequence[float] | np.ndarray | None, n: int, seed: int, on_missing: str
) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """The items by name, and what all evaluations of a report share."""
    about = None if items is None else items_by_name(items)
    speakers = None if about is None or "speaker" not in about else about["speaker"]
    shared = {"speakers": speakers, "marginal": marginal, "n_resamples": n, "seed": seed, "on_missing": on_missing}
    return about, shared


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


def _splits(found: Evaluation, about: pd.DataFrame | None) -> dict[str, int]:
    """The evaluated items by split; empty if no split is stated."""
    known = None if about is None or "split" not in about else about["split"].reindex(found.reference.items)
    if known is None or known.isna().all():
        return {}
    return known.astype(object).where(known.notna(), "not stated").astype(str).value_counts().to_dict()


def _report_figures(found: Evaluation, biases: dict[str, dict[str, Any]] | None) -> dict[str, Callable[[], Figure]]:
    """The `Figures` that the data allow."""
    targets, q, p, table = found.reference.targets, found.reference.q, found.probs, found.per_item
    base, is_scale = found.reference.marginal, targets.questions[0].is_scale
    names = [question.name for question in targets.questions]
    grid = names if len(names) == 2 else ()
    rows, ranks = _examples(table["jsd"].to_numpy())
    titles = [
        f"{rank} JSD: {table['jsd'][row]:.3f} nats\n{plots.short(table['item'][row], 28)}\n"
        f"{tables.counted(table['votes'][row], 'vote')}"
        for row, rank in zip(rows, ranks, strict=True)
    ]
    figures = {"examples": lambda: plots.plot_examples(targets.support, q[rows], p[rows], titles, grid)}
    if grid:
        bins = round(len(base) ** 0.5)
        grids = {"votes": q.mean(0), "mean prediction": p.mean(0), "marginal": base}
        grids = {name: mean.reshape(bins, bins) for name, mean in grids.items()}
        figures["mean_grid"] = lambda: plots.plot_grids(grids, names)
    else:
        figures["mean_distribution"] = lambda: plots.plot_mean_distribution(targets.support, q.mean(0), p.mean(0), base)
    figures["reliability"] = lambda: plots.plot_reliability(q, p, unit="cell" if is_scale else "label")
    entropies = [table[name].to_numpy() for name in ("entropy_votes", "entropy_predicted")]
    correlation = found.at("entropy_correlation")["value"]
    figures["entropy"] = lambda: plots.plot_entropy(*entropies, q.shape[1], correlation)
    if found.counts["speakers"] > 1:
        means = {"model": ("jsd", "mean"), "marginal": ("jsd_marginal", "mean"), "n": ("jsd", "size")}
        means = table.groupby("speaker").agg(**means).itertuples()
        speakers = {str(row.Index): (row.model, row.marginal, row.n) for row in means}
        figures["speakers"] = lambda: plots.plot_speakers(speakers)
    if biases is not None:
        figures["rater_bias"] = lambda: plots.plot_rater_bias(biases)
    return figures


def _examples(divergence: np.ndarray) -> tuple[list[int], list[str]]:
    """Rows of the lowest, median and highest values, each row once, and their names."""
    order = np.argsort(divergence, kind="stable")
    if len(order) < 3:
        return order.tolist(), ["only"] if len(order) == 1 else ["lowest", "highest"]
    return order[[0, (len(order) - 1) // 2, -1]].tolist(), ["lowest", "median", "highest"]


def breakdown_sections(found: Evaluation, reliability: Figures) -> list[Section]:
    """Sections of a category question: disagreement, ranks and speakers, calibration (with that figure), worth in raters."""
    speakers = {}
    if found.groups and len(found.support) > 1:
        speakers["speaker_recall"] = lambda: plots.plot_speaker_recall(found.per_speaker)
    confusion = {"confusion": lambda: plots.plot_confusion(found.support, found.confusion)}
    sections = [
        Section([tables.strata_table(found)], {"strata": lambda: plots.plot_strata(found)}),
        Section([*tables.n_best_table(found), *tables.speakers_table(found)], speakers),
        Section([tables.calibration_table(found)], reliability),
        Section(tables.residual_table(found), confusion),
    ]
    if found.equivalence is not None:
        worth = {"equivalence": lambda: plots.plot_equivalence(found.equivalence, found.systems)}
        sections.append(Section(tables.equivalence_table(found), worth))
    return sections
