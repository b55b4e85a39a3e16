"""A report of one run: report.json, report.md, a self-contained report.html, items.csv and plots/*.png."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from annot_hf.data.agreement import agreement
from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation import plots
from annot_hf.evaluation.alignment import align, examples, marginal_of
from annot_hf.evaluation.breakdown import Breakdown, Groups, break_down
from annot_hf.evaluation.breakdown_sections import breakdown_sections
from annot_hf.evaluation.disagreement import disagreement_table, score_disagreement
from annot_hf.evaluation.pages import Figures, Section, csv_safe, markdown_safe, write_pages
from annot_hf.evaluation.predictions import Predictions
from annot_hf.evaluation.raters import recovered_bias
from annot_hf.evaluation.robustness import measure_conditions
from annot_hf.evaluation.robustness_section import robustness_section
from annot_hf.evaluation.scales import scale_table, score_scales
from annot_hf.evaluation.scoring import Scores, score
from annot_hf.evaluation.tables import (
    agreement_table,
    bias_table,
    class_table,
    interval,
    rater_table,
    score_table,
)

__all__ = ["Report", "build_report", "csv_safe", "items_by_name", "groups_of", "markdown_safe"]

if TYPE_CHECKING:  # the simulation reads and writes audio, which a report need not import
    from annot_hf.data.simulate import Truth

GROUPS = ("sex", "gender")


@dataclass(frozen=True)
class Report:
    """What `build_report` wrote.

    Attributes:
        folder: Where it lies.
        title: Its heading.
        summary: The paragraph on top, with the headline.
        scores: All numbers.
        files: Paths of json, markdown, html, csv and of each plot, by name.
        breakdown: What lies behind the scores of a category question; None for scales.
    """

    folder: Path
    title: str
    summary: str
    scores: Scores
    files: dict[str, Path]
    breakdown: Breakdown | None = None


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
    """Score predictions against the votes and write everything a reader needs into one folder.

    Args:
        predictions: What the model says.
        targets: What the votes say.
        out: Folder to write; made if need be.
        title: Heading of the report.
        items: Table with a column `item` and, if known, `speaker` (intervals resample speakers, or items when all are
            null) and `split`.
        marginal: Distribution of the training votes `(K,)`, the baseline.
        votes: The votes behind the targets, for a table of the raters' agreement on the evaluated items, and for what
            these votes alone tell of the raters' biases.
        truth: Truth of a simulated corpus (`read_truth`), to see which biases of raters were recovered.
        notes: Further facts on the run to print at the end.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.
        on_missing: "error" or "exclude"; see `score`.
        groups: Columns of `items` by which speakers are told apart; `sex` and `gender`, if there, when None.
        conditions: Predictions of the same model for the same clips under acoustic conditions; see `read_conditions`.

    Raises:
        ValueError: The inputs do not fit together.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    about = None if items is None else items_by_name(items)
    speakers = None if about is None or "speaker" not in about else about["speaker"]
    options = {"marginal": marginal, "n_resamples": n_resamples, "seed": seed, "on_missing": on_missing}
    scores = score(predictions, targets, speakers=speakers, **options)
    behind = None
    if not predictions.is_scale:
        columns = groups_of(about, groups)
        behind = break_down(predictions, targets, speakers=speakers, groups=columns, votes=votes, **options)
    heard = None if votes is None else votes.select(items=scores.per_item["item"])
    if heard is not None and len(heard.items) < len(scores.per_item):
        without = scores.per_item["item"][~scores.per_item["item"].isin(heard.items)].to_numpy()
        raise ValueError(
            f"{len(without)} evaluated items have no vote in the votes given{examples(without)}; give the votes that the "
            "targets were made from."
        )
    found = None
    if truth is not None and predictions.is_scale and (~predictions.rater_fallback).any():
        found = recovered_bias(predictions, truth.raters, votes=heard, n_resamples=n_resamples, seed=seed)
    agreed = []
    if heard is not None:
        agreed = [agreement(heard, question.name) for question in targets.questions]
    beside, disputed = [], None
    if votes is not None:
        spoken = scores.per_item["speaker"]
        told = {
            "speakers": None if spoken.isna().any() else spoken.to_numpy(),
            "n_resamples": n_resamples,
            "seed": seed,
        }
        beside = score_scales(predictions, votes, scores.per_item["item"].to_numpy(), **told)
        disputed = score_disagreement(predictions, votes, scores.per_item["item"].to_numpy(), **told)
    excluded = _excluded(scores, targets, votes)
    summary = f"{predictions.caution} {_summary(scores, targets, about, excluded, behind)}".lstrip()
    tables = [score_table(scores), *rater_table(scores), *class_table(scores, predictions.is_scale)]
    tables += scale_table(beside) + disagreement_table(disputed) + agreement_table(agreed) + bias_table(found)

    figures = _figures(predictions, targets, scores, found, marginal, on_missing)
    sections = [Section(tables, figures)]
    if behind is not None:
        sections += breakdown_sections(behind, {"reliability": figures.pop("reliability")})
    robust = None
    if conditions is not None:
        robust = measure_conditions(predictions, conditions, targets, speakers=speakers, **options)
        sections.append(robustness_section(robust))
    data = {
        "questions": [question.to_dict() for question in targets.questions],
        "support": list(targets.support),
        "target_method": targets.method,
        "scores": scores.to_dict(),
        "breakdown": None if behind is None else behind.to_dict(),
        "robustness": None if robust is None else robust.to_dict(),
        "scales": beside,
        "disagreement": disputed,
        "excluded": excluded,
        "agreement": [one.to_dict() for one in agreed],
        "recovered_bias": found,
        "resampling": {"n_resamples": n_resamples, "seed": seed},
    }
    files = write_pages(
        folder,
        title=title,
        summary=summary,
        sections=sections,
        notes=scores.notes,
        details={**predictions.meta, **(notes or {})},
        data=data,
    )
    files["csv"] = folder / "items.csv"
    scores.per_item.map(csv_safe).to_csv(files["csv"], index=False, float_format="%.6g", lineterminator="\n")
    return Report(folder, title, summary, scores, files, behind)


def items_by_name(items: pd.DataFrame) -> pd.DataFrame:
    """The item table by item name; raises when it has no column `item` or lists an item twice."""
    if "item" not in items:
        raise ValueError(f"The item table has columns {', '.join(map(str, items.columns))}; it needs a column 'item'.")
    if items["item"].duplicated().any():
        twice = items["item"][items["item"].duplicated()].iloc[0]
        raise ValueError(f"The item table lists {twice!r} twice; give each item one row.")
    return items.set_index("item")


def groups_of(about: pd.DataFrame | None, names: Sequence[str] | None = None) -> Groups:
    """The named metadata columns, or `sex` and `gender` if there: column -> item -> value.

    Raises:
        ValueError: A named column is not in the item table.
    """
    have = [] if about is None else list(about.columns)
    for name in names or ():
        if name not in have:
            raise ValueError(
                f"The item table has no column {name!r} to group speakers by; it has {', '.join(map(str, have)) or 'none'}."
            )
    chosen = [name for name in GROUPS if name in have] if names is None else names
    return {name: about[name] for name in chosen}


def _excluded(scores: Scores, targets: Targets, votes: VoteTable | None) -> dict[str, int]:
    """Everything left out, by reason."""
    reasons = dict(targets.excluded)
    reasons["predicted items without target"] = scores.counts["predicted_without_target"]
    reasons["items with votes but no prediction"] = scores.counts["target_without_prediction"]
    reasons["answers to one scale only, which the distribution lacks"] = scores.counts["rater_votes_incomplete"]
    if votes is not None and targets.questions[0].multiple:
        heard = votes.select(items=scores.per_item["item"], questions=[targets.questions[0].name])
        reasons["votes for none of the labels"] = int((heard.label_codes < 0).sum())
    reasons |= {} if votes is None else {f"votes: {reason}": rows for reason, rows in votes.exclusions.items()}
    return {reason: count for reason, count in reasons.items() if count}


def _summary(
    scores: Scores,
    targets: Targets,
    about: pd.DataFrame | None,
    excluded: Mapping[str, int],
    behind: Breakdown | None,
) -> str:
    """What was evaluated on what, what was left out, and the headline with its interval."""
    counts, names = scores.counts, " and ".join(f"\u201c{question.name}\u201d" for question in targets.questions)
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
        known = about["split"].reindex(scores.per_item["item"])
        found = known.astype(object).where(known.notna(), "not stated").astype(str).value_counts()
        found = found if known.notna().any() else found.iloc[:0]
        each = " and ".join(name if len(found) == 1 else f"{name} ({count:,})" for name, count in found.items())
        splits = f" of the split{'s' if len(found) > 1 else ''} {each}" if len(found) else ""
    left_out = "; ".join(f"{reason}: {count:,}" for reason, count in excluded.items())
    jsd, gap = scores["jsd"], scores["gap_closed"]
    text = (
        f"Predictions for {_many(counts['n_evaluated'], 'item')}{spoken}{splits} were compared with {said} on the question"
        f"{'s' if len(targets.questions) > 1 else ''} {names} ({kind}). Left out: {left_out or 'nothing'}. "
        f"The mean Jensen-Shannon divergence from the votes is {interval(jsd, 3, ' nats')}, or "
        f"{scores['jsd_bits']['value']:.3f} bits, against {jsd['marginal']['value']:.3f} nats for {scores.baseline}. "
    )
    if gap["value"] is not None:
        text += (
            f"The model closes {interval(gap, 1, ' %')} of the gap in cross-entropy between that baseline and the votes' "
            "own entropy"
        )
        unsure = gap["low"] is not None and gap["low"] <= 0 <= gap["high"]
        text += "; the interval includes 0, so the data do not show that it closes any. " if unsure else ". "
    if behind is not None and behind.equivalence is not None:
        worth = behind.equivalence.systems["model"]["worth"]["text"]
        text += f"At forecasting a rater's vote it is worth {worth} other raters of the same item. "
    low, high = jsd["difference"]["low"], jsd["difference"]["high"]
    if low is None:
        return text + next(note for note in scores.notes if note.startswith("No intervals"))
    text += f"The difference in divergence, model - marginal, is {interval(jsd['difference'], 3, ' nats')}"
    if low <= 0 <= high:
        return text + ": the data do not tell the model from the marginal."
    return text + "." if high < 0 else text + ": the model is worse than the marginal."


def _many(count: float, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _figures(
    predictions: Predictions,
    targets: Targets,
    scores: Scores,
    found: dict[str, dict[str, Any]] | None,
    marginal: Sequence[float] | np.ndarray | None,
    on_missing: str,
) -> Figures:
    """Every figure that the data allow: what draws it, and its caption."""
    pairing = align(predictions, targets, on_missing=on_missing)
    p, q, table = pairing.p, pairing.q, scores.per_item
    base = marginal_of(marginal, q, targets.support)[0]
    names = [question.name for question in targets.questions]
    grid = names if len(names) == 2 else ()
    rows, ranks = _examples(table["jsd"].to_numpy())
    titles = [
        f"{rank} JSD: {table['jsd'][row]:.3f} nats\n{plots.short(table['item'][row], 28)}\n"
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
            scores["entropy_correlation"]["value"],
        ),
        "Does the model know where people disagree? Entropy of its prediction against entropy of the votes.",
    )
    if scores.counts["speakers"] > 1:
        means = table.groupby("speaker").agg(
            model=("jsd", "mean"), marginal=("jsd_marginal", "mean"), n=("jsd", "size")
        )
        speakers = {str(name): (row.model, row.marginal, int(row.n)) for name, row in means.iterrows()}
        figures["speakers"] = (
            lambda: plots.plot_speakers(speakers),
            "Mean divergence of model and marginal for each speaker, the best predicted on top.",
        )
    if found is not None:
        figures["rater_bias"] = (
            lambda: plots.plot_rater_bias(found),
            "Bias that the simulation gave each rater, against the mean difference between the model's prediction for "
            "that rater and its consensus prediction.",
        )
    return figures


def _examples(divergence: np.ndarray) -> tuple[list[int], list[str]]:
    """Rows of the lowest, median and highest values, each row once, and what to call them."""
    order = np.argsort(divergence, kind="stable")
    if len(order) < 3:
        return order.tolist(), ["only"] if len(order) == 1 else ["lowest", "highest"]
    return order[[0, (len(order) - 1) // 2, -1]].tolist(), ["lowest", "median", "highest"]
