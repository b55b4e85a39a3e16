"""The tables of a report as plain text cells, with notes on how to read them; the templates escape and lay them out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annot_hf.data.agreement import Agreement
from annot_hf.evaluation.categories import BINS, LEVELS, Stratum, depths
from annot_hf.evaluation.evaluate import CONSENSUS, MARGINAL, MODEL, Evaluation, spread
from annot_hf.evaluation.scoring import FITS

ARROWS = {"lower": "\u00a0\u2193", "higher": "\u00a0\u2191", "": ""}
DASH = "\u2013"
# Numbers of raters in the table of their curve.
_CURVE = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]|#~$!])")


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
    """Title, column heads, rows of cells (the first is the row's name) and a note below."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    note: str = ""


def markdown_safe(text: object) -> str:
    """Text escaped for Markdown: no markup, no HTML, no line break."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", line)


def number(value: float | None, digits: int) -> str:
    """A number with fixed decimals and a real minus sign; a dash if undefined."""
    return DASH if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\u2212")


def counted(count: float, noun: str) -> str:
    """A count with its noun, such as "1 item" and "1,200 items"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def interval(entry: Mapping[str, Any], digits: int, unit: str) -> str:
    """Value with its interval in words, such as "0.118 nats (95 % interval 0.110 to 0.126)"."""
    value = f"{number(entry['value'], digits)}{unit}"
    if entry["low"] is None:
        return value
    return f"{value} (95 % interval {number(entry['low'], digits)} to {number(entry['high'], digits)})"


def asked(found: Evaluation) -> str:
    """The questions of an evaluation, in quotes."""
    return " and ".join(f"\u201c{question.name}\u201d" for question in found.reference.targets.questions)


def spoken(found: Evaluation) -> str:
    """The number of speakers, such as " by 12 speakers"."""
    speakers = found.counts["speakers"]
    return f" by {counted(speakers, 'speaker')}" if speakers else " (speakers not given)"


def value_cell(entry: Mapping[str, Any] | None, unit: str | None = None) -> Cell:
    """A value and its interval: one decimal for per cent, three otherwise; empty without an entry."""
    if entry is None:
        return Cell("")
    digits = 1 if (unit or entry.get("unit")) == "%" else 3
    value = number(entry["value"], digits)
    if entry["low"] is None or entry["low"] == entry["high"]:
        return Cell(value)
    return Cell(value, f"[{number(entry['low'], digits)}, {number(entry['high'], digits)}]")


def measure_cells(found: Evaluation, names: Sequence[str], systems: Sequence[str] = (MODEL,)) -> list[Cell]:
    """Value and interval of each measure for each system; empty if the system lacks it."""
    return [value_cell(found.at(name, system), found.measured(name).unit) for name in names for system in systems]


def difference_cell(found: Evaluation, name: str, one: str = MODEL, other: str = MARGINAL) -> Cell:
    """Difference of two systems and its interval; empty if they are not compared."""
    record = found[name]
    return value_cell(record["differences"].get(f"{one} - {other}"), record["unit"])


def measure_rows(
    found: Evaluation, names: Sequence[str], systems: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> list[tuple[Cell, ...]]:
    """One row per measure: title, arrow in the better direction and unit; value of each system; difference of each pair."""
    rows = []
    for name in names:
        record = found[name]
        head = Cell(record["title"] + ARROWS[record["better"]], record["unit"])
        differences = (difference_cell(found, name, *pair) for pair in pairs)
        rows.append((head, *measure_cells(found, [name], systems), *differences))
    return rows


def score_table(found: Evaluation) -> Table:
    """Measures over items: model, marginal, and their difference."""
    note = f"\u2193 lower is better, \u2191 higher. In brackets: 95 % intervals. The marginal is {found.reference.baseline}."
    return Table(
        "Predicted distributions against the votes",
        ("Measure", "Model", "Marginal", "Difference"),
        measure_rows(found, list(found.parts["items"]), (MODEL, MARGINAL), [(MODEL, MARGINAL)]),
        note,
    )


def rater_table(found: Evaluation) -> list[Table]:
    """Measures over single answers of named raters; empty if no vote of a named rater was predicted."""
    if not found.parts["raters"]:
        return []
    counts = found.counts
    note = (
        f"Of {counts['rater_votes']:,} votes by named raters, {counts['rater_votes_own_head']:,} were predicted by the "
        f"rater's own head, {counts['rater_votes_consensus_fallback']:,} by the consensus head because the rater was not "
        f"seen in training ({counts['raters_unseen']:,} raters, whose answers are the consensus in every line), and "
        f"{counts['rater_votes_without_prediction']:,} were not predicted. All systems are scored on "
        "the same votes. Intervals resample speakers (items when speakers are unknown), and raters for means over raters."
    )
    if counts["rater_votes_repeated"]:
        note += (
            f" {counts['rater_votes_repeated']:,} of the votes are repeated votes of a rater on an item; each is compared "
            "with the rater's one predicted answer."
        )
    columns = ("Measure", "Rater's prediction", "Consensus", "Marginal")
    columns += ("Difference to marginal", "Difference to consensus")
    pairs = [(MODEL, MARGINAL), (MODEL, CONSENSUS)]
    rows = measure_rows(found, list(found.parts["raters"]), (MODEL, CONSENSUS, MARGINAL), pairs)
    return [Table("Predicted answers of single raters", columns, rows, note)]


def class_table(found: Evaluation) -> list[Table]:
    """Shares and F1 per label; empty for scales, which have heat maps instead."""
    if found.reference.targets.questions[0].is_scale:
        return []
    columns = ("Label", "Votes", "Predicted", "Items won", "Items predicted", "Precision", "Recall", "F1")
    rows = [
        (
            Cell(line["label"]),
            *(Cell(f"{100 * line[name]:.1f} %") for name in ("votes", "predicted")),
            *(Cell(f"{line[name]:,}") for name in ("plurality_items", "predicted_items")),
            *(Cell(number(line[name], 3)) for name in ("precision", "recall", "f1")),
        )
        for line in found.classes
    ]
    note = (
        "Votes, predicted: mean share over items. Items won: items whose plurality is the label; in "
        f"{found.counts['plurality_ties']:,} of {found.counts['n_evaluated']:,} items, labels tie and the first in the "
        "support wins."
    )
    return [Table("Label by label", columns, rows, note)]


def agreement_table(found: Sequence[Agreement]) -> list[Table]:
    """How far the raters themselves agree on the evaluated items."""
    if not found:
        return []
    columns = ("Question", "Krippendorff's alpha", "Pairwise agreement", "Fleiss' kappa", "Cohen's kappa")
    columns += ("Items", "Votes", "Raters")
    rows = []
    for one in found:
        # The pairs of raters behind Cohen's kappa, such as "27 of 28 pairs".
        of = f" of {one.rater_pairs:,}" if one.undefined_pairs else ""
        pairs = f"{one.rater_pairs - one.undefined_pairs:,}{of} {'pair' if one.rater_pairs == 1 else 'pairs'}"
        rows.append(
            (
                Cell(one.question),
                Cell(number(one.alpha, 3), one.level),
                Cell(number(one.pairwise, 3)),
                Cell(number(one.fleiss_kappa, 3)),
                Cell(number(one.cohen_kappa, 3), pairs if one.rater_pairs else ""),
                Cell(f"{one.pairable_items:,}", f"of {one.items:,}"),
                Cell(f"{one.votes:,}"),
                Cell(f"{one.annotators:,}"),
            )
        )
    note = (
        "Over items with at least two votes. Agreement and both kappas count only equal answers, also on scales. Cohen's "
        "kappa is the mean over pairs of named raters, weighted by the items they share, without pairs that share only one "
        "item or always gave the same answer; for a multi-select question, it is the mean over its labels as yes/no questions."
    )
    return [Table("How far the raters agree", columns, rows, note)]


def bias_table(found: Mapping[str, Mapping[str, Any]] | None) -> list[Table]:
    """Correlation and slope of true and recovered biases of simulated raters, from the model and from the votes alone."""
    if not found:
        return []
    rows = []
    for question, one in found.items():
        cells = [value_cell(one["correlation"]), value_cell(one["slope"]), Cell(f"{len(one['true']):,}")]
        simple = one["baseline"]
        if simple is None:
            cells += [Cell(DASH)] * 3
        else:
            cells += [value_cell(simple["correlation"]), value_cell(simple["slope"]), Cell(f"{simple['raters']:,}")]
        rows.append((Cell(question), *cells))
    columns = ("Question", "Correlation", "Slope", "Raters", "Votes: correlation", "Votes: slope", "Votes: raters")
    note = (
        "Pearson correlation between the simulated bias and the bias that the model found, and slope of the found on the "
        "simulated bias: 1 is the full size, less is shrunk towards 0. \u201cVotes\u201d is the simple baseline without a "
        "model: the mean deviation of a rater's votes from the mean vote on the same evaluated items (with two or more "
        "votes). Intervals resample raters."
    )
    return [Table("Biases of raters recovered", columns, rows, note)]


def scale_table(found: Evaluation) -> list[Table]:
    """One row per scale; empty without scales."""
    if not found.scales:
        return []
    rows = [
        (
            Cell(one["question"]),
            *measure_cells(found, [f"{kind}_{one['question']}" for kind in FITS]),
            Cell(f"{number(100 * one['covered'], 1)} %"),
            Cell(f"{one['items']:,}"),
        )
        for one in found.scales
    ]
    columns = ("Scale", "CCC", "Pearson", "RMSE", "Within \u00b11.96 \u03c3", "Items")
    note = (
        "Predicted against mean ratings, on the scale normalised to [\u22121, 1]. Within \u00b11.96 \u03c3: share of items "
        "whose mean rating lies there; 95 % if the predicted deviations are right."
    )
    return [Table("Further scales", columns, rows, note)]


def disagreement_table(found: Evaluation) -> list[Table]:
    """One row; empty without predicted disagreement."""
    told = found.disagreement
    if told is None:
        return []
    cells = measure_cells(found, [f"disagreement_{kind}" for kind in FITS])
    columns = ("Disagreement", "CCC", "Pearson", "RMSE", "Items")
    note = (
        "Predicted against actual disagreement of the raters, over items with two votes or more: the entropy of the votes "
        "over ln K, the standard deviation of the answers on [\u22121, 1], or the variance of the votes summed over labels."
    )
    rows = [(Cell(told["kind"]), *cells, Cell(f"{told['items']:,}"))]
    return [Table("Predicted disagreement", columns, rows, note)]


def strata_table(found: Evaluation) -> Table:
    """Results by entropy of the votes."""
    columns = ("Entropy of the votes", "Items", "JSD\u00a0\u2193", "JSD of the marginal", "Accuracy\u00a0\u2191")
    columns += ("Macro\u2011F1\u00a0\u2191", "Macro\u2011F1, labels present")
    rows = []
    for stratum in found.strata:
        cells = measure_cells(found, [f"jsd_{stratum.key}"], (MODEL, MARGINAL))
        cells += measure_cells(
            found, [f"{name}_{stratum.key}" for name in ("accuracy", "macro_f1", "macro_f1_present")]
        )
        rows.append((_stratum_cell(stratum), Cell(f"{int(stratum.rows.sum()):,}"), *cells))
    missing = [
        f"{stratum.name} ({stratum.scheme}) {', '.join(stratum.absent)}"
        for stratum in found.strata
        if stratum.absent and stratum.rows.any()
    ]
    labels = len(found.support)
    note = (
        f"Entropy of an item's votes over ln {labels}, the entropy of {labels} equally frequent "
        "labels. Thirds cut its range, tertiles the items (equal entropies stay together). Macro-F1 averages over all "
        f"{labels} labels; a label that is the plurality of no item of a group counts as 0 there, and is left out "
        "in the last column. "
    )
    every = "Every label has such an item in each group."
    note += f"Labels without such an item: {'; '.join(missing)}." if missing else every
    return Table("Results by how much the raters disagree", columns, rows, note)


def _stratum_cell(stratum: Stratum) -> Cell:
    if stratum.scheme == "thirds":
        bounds = {"low": "below 1/3", "mid": "1/3 to below 2/3", "high": "2/3 to 1"}[stratum.name]
        return Cell(_capital(stratum.name), bounds)
    bounds = "empty" if stratum.low is None else f"{stratum.low:.2f} to {stratum.high:.2f}"
    return Cell(f"{_capital(stratum.name)} tertile", bounds)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def n_best_table(found: Evaluation) -> list[Table]:
    """Accuracy and recall of the n most probable labels."""
    columns = ("Right if among the", "Accuracy \u2191", "of the marginal", "Average recall \u2191", "of the marginal")
    rows = [
        (
            Cell("most probable label" if n == 1 else f"{n} most probable"),
            *measure_cells(found, [f"accuracy_{n}_best", f"uar_{n}_best"], (MODEL, MARGINAL)),
        )
        for n in depths(len(found.support))
    ]
    note = (
        "The reference is the plurality of an item's votes. Average recall (UAR) is over the labels that are the plurality "
        "of some item; ties among predicted probabilities go to the label that comes first in the support."
    )
    return [Table("Among the most probable labels", columns, rows, note)] if rows else []


def speakers_table(found: Evaluation) -> list[Table]:
    """paUAR: how many speakers the model serves well."""
    shown = [(group, spread(found.per_speaker[group.rows])) for group in found.groups if group.rows.any()]
    if not shown or len(found.support) < 2:
        return []
    cut = [(level, n) for level in LEVELS for n in depths(len(found.support))]
    rows = []
    for group, told in shown:
        ending = f"_{group.key}" if group.key else ""
        items = told["items"]
        about = f"n = {told['speakers']:,}; {items['median']:g} items ({items['min']:g} to {items['max']:g})"
        cells = measure_cells(found, [f"pauar{level}_{n}_best{ending}" for level, n in cut])
        rows.append((Cell(_capital(group.title), about), *cells))
    labels = spread(found.per_speaker)["labels"]
    note = (
        "paUAR-75: per cent of speakers whose own average recall exceeds .75, over the labels that are the plurality of an "
        f"item of that speaker (median {labels['median']:g} of {len(found.support)} labels, minimum {labels['min']:g}, "
        f"maximum {labels['max']:g}); n-best as above. Below each group: speakers n, and median, minimum and maximum of their "
        "items. With few items per speaker, recalls are rough and extreme shares likely."
    )
    columns = ("Speakers", *(f"paUAR\u2011{level} {n}\u2011best" for level, n in cut))
    return [Table("Speaker by speaker", columns, rows, note)]


def calibration_table(found: Evaluation) -> Table:
    """Expected calibration error."""
    columns = ("Expected calibration error", "Model \u2193", "Marginal", "By chance")
    names = {"ece": "Mean over labels", "ece_top": "Most probable label"}
    names |= {f"ece_of_{label}": str(label) for label in found.support}
    rows = [
        (Cell(title), *measure_cells(found, [name], (MODEL, MARGINAL)), Cell(number(found.floor[name], 3)))
        for name, title in names.items()
    ]
    note = (
        f"For a label: items in {BINS} equal bins of its probability; per bin the difference between mean probability and "
        "mean share of votes, absolute, weighted by the items in the bin. Most probable label: the same with one label per "
        "item. By chance: the error of these predictions if they were perfectly calibrated, from votes drawn from them. "
        "Intervals keep the signs of the differences. The marginal is calibrated, but the same for every item."
    )
    return Table("Calibration", columns, rows, note)


def residual_table(found: Evaluation) -> list[Table]:
    """Which labels get the probability when raters chose the residual label."""
    if found.residual is None or f"residual_{found.residual}" not in found:
        return []
    rows = [
        (
            Cell(str(label)),
            *measure_cells(found, [f"residual_{label}"], (MODEL, "votes")),
            # The marginal is the same for every item, so it has no interval.
            Cell(number(found.at(f"residual_{label}", MARGINAL)["value"], 1)),
        )
        for label in found.support
    ]
    columns = ("Label", "Predicted, %", "Votes on the same items, %", "Marginal, %")
    note = (
        f"Mean over votes for \u201c{found.residual}\u201d: the model's prediction for the item, and the votes of all raters "
        "of the item."
    )
    return [Table(f"Where votes for \u201c{found.residual}\u201d go", columns, rows, note)]


def equivalence_table(found: Evaluation) -> list[Table]:
    """The raters' curve and the model's place on it."""
    told = found.equivalence
    if told is None:
        return []
    largest = int(told.raters[-1])
    chosen = sorted({k for k in _CURVE if k <= largest} | {largest})
    rows = [(Cell(counted(k, "rater") if k else "Marginal alone"), value_cell(told.curve[k])) for k in chosen]
    model = told.systems[MODEL]
    rows.append((Cell("Model", f"worth {model['worth']['text']} raters"), value_cell(model["loss"])))
    note = (
        "Cross-entropy (nats) of one held-out vote of an item under the histogram of k other votes of that item, exact over "
        f"all ways to choose them, and under the prediction. Histograms are smoothed by {told.alpha:.2g} pseudo-votes "
        "distributed like the marginal, the number that is best for the raters. All numbers are over the "
        f"{told.items:,} items ({100 * told.share:.0f} %) with at least {largest + 1} votes; \u201c> {largest}\u201d is "
        "better than that many raters. (Resnick et al. 2021)"
    )
    return [Table("How many raters the model is worth", ("Forecast", "Cross-entropy \u2193"), rows, note)]
