"""A report of two runs side by side: report.json, report.md, report.html, items.csv and plots/*.png."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation import comparison_plots as plots
from annot_hf.evaluation.breakdown_plots import plot_equivalence
from annot_hf.evaluation.comparison import Comparison, compare
from annot_hf.evaluation.pages import Figures, Section, csv_safe, write_pages
from annot_hf.evaluation.predictions import Predictions
from annot_hf.evaluation.report import groups_of, items_by_name
from annot_hf.evaluation.tables import Cell, Table, head_cell, interval, number, value_cell

_PARTS = (  # title of a table, and how the names of its measures begin
    ("By how much the raters disagree", ("jsd_t", "accuracy_t", "macro_f1_t")),
    ("Among the most probable labels", ("accuracy_", "uar_")),
    ("Speaker by speaker", ("pauar",)),
    ("Calibration", ("ece", "residual_")),
)


@dataclass(frozen=True)
class ComparisonReport:
    """What `build_comparison` wrote.

    Attributes:
        folder: Where it lies.
        title: Its heading.
        summary: The paragraph on top, with the headline.
        comparison: All numbers.
        files: Paths of json, markdown, html, csv and of each plot, by name.
    """

    folder: Path
    title: str
    summary: str
    comparison: Comparison
    files: dict[str, Path]


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
) -> ComparisonReport:
    """Compare two runs and write everything a reader needs into one folder.

    Args:
        predictions_a: What one run says.
        predictions_b: What the other says about exactly the same items.
        targets: What the votes say.
        out: Folder to write; made if need be.
        title: Heading of the report.
        names: What to call the runs.
        items: Table with a column `item` and, if known, `speaker` (intervals resample speakers, or items when all
            are null) and metadata.
        marginal: Distribution of the training votes `(K,)`, the baseline.
        votes: The votes behind the targets, for rater equivalence.
        notes: Further facts to print at the end.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.
        on_missing: "error" or "exclude"; see `compare`.
        groups: Columns of `items` by which speakers are told apart; `sex` and `gender`, if there, when None.

    Raises:
        ValueError: The runs cover different items, or the inputs do not fit together.
    """
    about = None if items is None else items_by_name(items)
    found = compare(
        predictions_a,
        predictions_b,
        targets,
        names=names,
        speakers=None if about is None or "speaker" not in about else about["speaker"],
        groups=groups_of(about, groups),
        votes=votes,
        marginal=marginal,
        n_resamples=n_resamples,
        seed=seed,
        on_missing=on_missing,
    )
    runs = dict(zip(names, (predictions_a, predictions_b), strict=True))
    details = {f"{name}: {key}": value for name, run in runs.items() for key, value in run.meta.items()}
    cautions = [f"{name}: {run.caution}" for name, run in runs.items() if run.caution]
    summary = " ".join([*cautions, _summary(found, targets)])
    files = write_pages(
        out,
        title=title,
        summary=summary,
        sections=_sections(found),
        notes=found.notes,
        details={**details, **(notes or {})},
        data={
            "questions": [question.to_dict() for question in targets.questions],
            "support": list(targets.support),
            "target_method": targets.method,
            "comparison": found.to_dict(),
            "resampling": {"n_resamples": n_resamples, "seed": seed},
        },
    )
    folder = Path(out)
    files["csv"] = folder / "items.csv"
    found.per_item.map(csv_safe).to_csv(files["csv"], index=False, float_format="%.6g", lineterminator="\n")
    return ComparisonReport(folder, title, summary, found, files)


def _sections(found: Comparison) -> list[Section]:
    a, b = found.names
    over_items = {name: one for name, one in found.measures.items() if name != "jsd_bits"}
    forest = {
        "differences": (
            lambda: plots.plot_differences(over_items, found.names),
            f"Differences between the runs with 95 % intervals, turned so that right is better for {a}.",
        )
    }
    if found.counts["speakers"] > 1:
        means = found.per_item.groupby("speaker")[["jsd_a", "jsd_b"]].mean()
        forest["speaker_pairs"] = (
            lambda: plots.plot_speaker_pairs(means["jsd_a"].to_numpy(), means["jsd_b"].to_numpy(), found.names),
            f"Mean divergence from the votes for each speaker; above the diagonal {a} is better.",
        )
    note = (
        "\u2193 lower is better, \u2191 higher. In brackets: 95 % intervals. Better: the run on whose side the interval of "
        f"the difference {a} \u2212 {b} lies. The marginal is {found.baseline}."
    )
    sections = [Section([_table("Differences over all items", found.measures, found, note)], forest)]
    if found.raters:
        sections.append(Section([_table("Predicted answers of single raters", found.raters, found)]))
    left = {name: one for name, one in found.categories.items() if "_best_min" not in name and "_present_" not in name}
    for title, starts in _PARTS:
        part = {name: one for name, one in left.items() if name.startswith(starts) and one["better"]}
        left = {name: one for name, one in left.items() if name not in part}
        if part:
            sections.append(Section([_table(title, part, found)]))
    if found.equivalence is not None:
        sections.append(Section([_worth_table(found)], _worth_figure(found)))
    return sections


def _table(title: str, records: Mapping[str, Mapping[str, Any]], found: Comparison, note: str = "") -> Table:
    a, b = found.names
    called = {"a": a, "b": b, "": "undecided"}
    rows = [
        (
            head_cell(one),
            *(value_cell(one[system], one["unit"]) for system in ("a", "b", "marginal", "difference")),
            Cell(called[one["verdict"]]),
        )
        for one in records.values()
    ]
    return Table(title, ("Measure", a, b, "Marginal", "Difference", "Better"), rows, note)


def _worth_table(found: Comparison) -> Table:
    told = found.equivalence
    rows = []
    for system, name in zip(("a", "b"), found.names, strict=True):
        worth, *ends = told.systems[system]["worth"]["text"].split(" (95 % interval ")
        rows.append(
            (
                Cell(name),
                value_cell(told.systems[system]["loss"]),
                Cell(worth, f"[{ends[0][:-1].replace(' to ', ', ')}]" if ends else ""),
            )
        )
    note = (
        "Cross-entropy (nats) of a held-out vote, and the number of other raters of the item whose smoothed histogram "
        f"({told.alpha:.2g} pseudo-votes) forecasts it as well, over the {told.items:,} items ({100 * told.share:.0f} %) with "
        f"at least {int(told.raters[-1]) + 1} votes. (Resnick et al. 2021)"
    )
    return Table("How many raters the runs are worth", ("Run", "Cross-entropy \u2193", "Raters \u2191"), rows, note)


def _worth_figure(found: Comparison) -> Figures:
    names = dict(zip(("a", "b"), found.names, strict=True))
    return {
        "equivalence": (
            lambda: plot_equivalence(found.equivalence, names),
            "Error of k raters, and of the runs, in forecasting one more rater's vote on the same items; bands are 95 % "
            "intervals.",
        )
    }


def _summary(found: Comparison, targets: Targets) -> str:
    """What was compared on what, and the headline with its interval."""
    (a, b), counts, jsd = found.names, found.counts, found["jsd"]
    asked = " and ".join(f"\u201c{question.name}\u201d" for question in targets.questions)
    spoken = f"{counts['speakers']:,} speakers" if counts["speakers"] != 1 else "1 speaker"
    spoken = f" by {spoken}" if counts["speakers"] else " (speakers not given)"
    left = counts["predicted_without_target"] + counts["target_without_prediction"]
    text = (
        f"The runs {a} and {b} were compared on {counts['n_evaluated']:,} item{'' if counts['n_evaluated'] == 1 else 's'}"
        f"{spoken}, question {asked}. Left out: {f'{left:,} items on one side only' if left else 'nothing'}. The mean "
        f"Jensen-Shannon divergence from the votes is {number(jsd['a']['value'], 3)} nats for {a} and "
        f"{number(jsd['b']['value'], 3)} nats for {b}; the difference, {a} \u2212 {b}, is "
        f"{interval(jsd['difference'], 3, ' nats')}. "
    )
    if jsd["difference"]["low"] is None:
        return text + next((note for note in found.notes if note.startswith("No intervals")), "")
    better = {"a": f"{a} is better", "b": f"{b} is better", "": "the data do not tell the runs apart"}[jsd["verdict"]]
    verdicts = [one["verdict"] for name, one in found.measures.items() if name != "jsd_bits"]  # JSD in another unit
    return text + (
        f"By this measure {better}. Of {len(verdicts)} measures over all items {a} is better in {verdicts.count('a')}, {b} in "
        f"{verdicts.count('b')}, and {verdicts.count('')} are undecided."
    )
