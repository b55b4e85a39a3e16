"""The tables of a report as plain text cells; the templates escape and lay them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annot_hf.data.agreement import Agreement
from annot_hf.evaluation.scoring import Scores

ARROWS = {"lower": "\u00a0\u2193", "higher": "\u00a0\u2191", "": ""}


@dataclass(frozen=True)
class Cell:
    """One cell: a value and, smaller, its interval or unit."""

    main: str
    small: str = ""

    @property
    def text(self) -> str:
        """Both on one line."""
        return f"{self.main} {self.small}".strip()


@dataclass(frozen=True)
class Table:
    """Title, column heads, rows of cells (the first is the row's name) and a sentence below."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    note: str = ""


def interval(entry: Mapping[str, Any], digits: int, unit: str) -> str:
    """Value with its interval in words, such as "0.118 nats (95 % interval 0.110 to 0.126)"."""
    value = f"{number(entry['value'], digits)}{unit}"
    if entry["low"] is None:
        return value
    return f"{value} (95 % interval {number(entry['low'], digits)} to {number(entry['high'], digits)})"


def number(value: float | None, digits: int) -> str:
    """A number with a fixed count of decimals and a real minus sign; a dash where it is not defined."""
    return "\u2013" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\u2212")


def score_table(scores: Scores) -> Table:
    """Measures over items: model, marginal, and their difference."""
    rows = [
        (
            head_cell(record),
            value_cell(record),
            value_cell(record["marginal"], record["unit"]),
            value_cell(record["difference"], record["unit"]),
        )
        for record in scores.measures.values()
    ]
    note = f"\u2193 lower is better, \u2191 higher. In brackets: 95 % intervals. The marginal is {scores.baseline}."
    return Table(
        "Predicted distributions against the votes", ("Measure", "Model", "Marginal", "Difference"), rows, note
    )


def rater_table(scores: Scores) -> list[Table]:
    """Measures over single answers of named raters; nothing when no vote of a named rater was predicted."""
    if not scores.raters:
        return []
    rows = [
        (
            head_cell(record),
            *(
                value_cell(record[system], record["unit"]) if system else value_cell(record)
                for system in ("", "consensus", "marginal")
            ),
            value_cell(record["difference"], record["unit"]),
            value_cell(record["difference_to_consensus"], record["unit"]),
        )
        for record in scores.raters.values()
    ]
    counts = scores.counts
    note = (
        f"Of {counts['rater_votes']:,} votes by named raters, {counts['rater_votes_own_head']:,} were predicted by the "
        f"rater's own head, {counts['rater_votes_consensus_fallback']:,} by the consensus head because the rater was not "
        f"seen in training ({counts['raters_unseen']:,} raters, whose answers are the consensus in every line), and "
        f"{counts['rater_votes_without_prediction']:,} were not predicted. All systems are scored on "
        "the same votes. Intervals resample speakers (items when speakers are unknown), and raters for means over raters."
    )
    if counts["rater_votes_repeated"]:
        note += (
            f" {counts['rater_votes_repeated']:,} of the votes are further ones of a rater on an item: each is held against "
            "the rater's one answer."
        )
    columns = (
        "Measure",
        "Rater's prediction",
        "Consensus",
        "Marginal",
        "Difference to marginal",
        "Difference to consensus",
    )
    return [Table("Predicted answers of single raters", columns, rows, note)]


def class_table(scores: Scores, grid: bool) -> list[Table]:
    """Shares and F1 per label; a grid's cells are in its heat maps instead."""
    if grid:
        return []
    columns = ("Label", "Votes", "Predicted", "Items won", "Items predicted", "Precision", "Recall", "F1")
    rows = [
        (
            Cell(line["label"]),
            Cell(f"{100 * line['votes']:.1f} %"),
            Cell(f"{100 * line['predicted']:.1f} %"),
            Cell(f"{line['plurality_items']:,}"),
            Cell(f"{line['predicted_items']:,}"),
            *(Cell(number(line[name], 3)) for name in ("precision", "recall", "f1")),
        )
        for line in scores.classes
    ]
    ties = scores.counts["plurality_ties"]
    note = (
        "Votes, predicted: mean share over items. Items won: items whose plurality is the label; in "
        f"{ties:,} of {scores.counts['n_evaluated']:,} items labels tie, and the first in the support wins."
    )
    return [Table("Label by label", columns, rows, note)]


def agreement_table(found: Sequence[Agreement]) -> list[Table]:
    """How far the raters themselves agree on the evaluated items."""
    if not found:
        return []
    columns = ("Question", "Krippendorff's alpha", "Pairwise agreement", "Fleiss' kappa", "Cohen's kappa")
    columns = (*columns, "Items", "Votes", "Raters")
    rows = [
        (
            Cell(one.question),
            Cell(number(one.alpha, 3), one.level),
            Cell(number(one.pairwise, 3)),
            Cell(number(one.fleiss_kappa, 3)),
            Cell(number(one.cohen_kappa, 3), _pairs(one)),
            Cell(f"{one.pairable_items:,}", f"of {one.items:,}"),
            Cell(f"{one.votes:,}"),
            Cell(f"{one.annotators:,}"),
        )
        for one in found
    ]
    note = (
        "Over items with at least two votes. Agreement and both kappas count equal answers only, also on scales. Cohen's "
        "kappa is the mean over pairs of named raters weighted by the items they share, without pairs who share one item "
        "or gave one and the same answer throughout; of a multi-select question, the mean over its labels as yes/no "
        "questions."
    )
    return [Table("How far the raters agree", columns, rows, note)]


def _pairs(one: Agreement) -> str:
    """How many pairs of raters a kappa is from, such as "27 of 28 pairs"."""
    if not one.rater_pairs:
        return ""
    of = f" of {one.rater_pairs:,}" if one.undefined_pairs else ""
    return f"{one.rater_pairs - one.undefined_pairs:,}{of} {'pair' if one.rater_pairs == 1 else 'pairs'}"


def bias_table(found: Mapping[str, Mapping[str, Any]] | None) -> list[Table]:
    """Correlation and slope of true and recovered biases of simulated raters, beside the votes' own."""
    if not found:
        return []
    rows = []
    for question, one in found.items():
        simple = one["baseline"]
        rows.append(
            (
                Cell(question),
                value_cell(one["correlation"]),
                value_cell(one["slope"]),
                Cell(f"{len(one['true']):,}"),
                *(
                    (Cell("\u2013"),) * 2
                    if simple is None
                    else (value_cell(simple[name]) for name in ("correlation", "slope"))
                ),
                Cell("\u2013" if simple is None else f"{simple['raters']:,}"),
            )
        )
    columns = ("Question", "Correlation", "Slope", "Raters", "Votes: correlation", "Votes: slope", "Votes: raters")
    note = (
        "Pearson correlation between the simulated bias and the one that the model found, and slope of the found on the "
        "simulated bias: 1 is its full size, less is shrunk towards 0. \u201cVotes\u201d is the simple baseline without a "
        "model: the mean deviation of a rater's votes from the mean vote on the same evaluated items (of two votes or "
        "more). Intervals resample raters."
    )
    return [Table("Biases of raters recovered", columns, rows, note)]


def head_cell(record: Mapping[str, Any]) -> Cell:
    """Title of a measure with an arrow that says which way is better, and its unit."""
    return Cell(record["title"] + ARROWS[record["better"]], record["unit"])


def value_cell(entry: Mapping[str, Any] | None, unit: str | None = None) -> Cell:
    """A value over its interval: one decimal for per cent, three otherwise."""
    if entry is None:
        return Cell("")
    digits = 1 if (unit or entry.get("unit")) == "%" else 3
    value = number(entry["value"], digits)
    if entry["low"] is None or entry["low"] == entry["high"]:
        return Cell(value)
    return Cell(value, f"[{number(entry['low'], digits)}, {number(entry['high'], digits)}]")
