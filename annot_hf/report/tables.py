"""The tables of a report as plain text cells, with notes on how to read them; the templates escape and lay them out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annot_hf.data.agreement import Agreement
from annot_hf.data.corpus import SPLITS
from annot_hf.evaluation.categories import BINS, LEVELS, Stratum, depths
from annot_hf.evaluation.evaluate import CONSENSUS, MARGINAL, MODEL, Evaluation, spread
from annot_hf.evaluation.scoring import FITS

_MARKDOWN = re.compile(r"([\\`*_{}\[\]|#~$!])")

# Measure, heading, decimals: the columns of a results page.
MAIN_COLUMNS = (
    ("gap_closed", "Gap closed (%)", 1),
    ("jsd", "JSD (nats)", 3),
    ("kl", "KLD (nats)", 3),
    ("tvd", "TVD", 3),
    ("accuracy", "Accuracy", 3),
    ("macro_f1", "Macro-F1", 3),
    ("uar", "UAR", 3),
)
ENTROPIES = (
    ("entropy_correlation", "Entropies, r", 2),
    ("entropy_rank_correlation", "Entropies, rank r", 2),
)
BEHIND_COLUMNS = (
    *ENTROPIES,
    ("jsd_thirds_low", "JSD, low entropy", 3),
    ("jsd_thirds_mid", "JSD, middle", 3),
    ("jsd_thirds_high", "JSD, high", 3),
    ("accuracy_2_best", "Accuracy, 2-best", 3),
    ("uar_2_best", "UAR, 2-best", 3),
    ("pauar75_1_best", "paUAR-75 (%)", 1),
    ("pauar50_1_best", "paUAR-50 (%)", 1),
)
TERTILE_COLUMNS = tuple(
    (f"{measure}_tertiles_{name}", f"{title}, {name} tertile", 3)
    for measure, title in (("jsd", "JSD"), ("accuracy", "Accuracy"))
    for name in ("low", "mid", "high")
)
LABEL_COLUMNS = (*(column for column in MAIN_COLUMNS if column[0] in ("accuracy", "macro_f1", "uar")), *ENTROPIES)
DISTRIBUTION_COLUMNS = (
    *(column for column in MAIN_COLUMNS if column[0] in ("jsd", "tvd", "kl")),
    ("cross_entropy", "Cross-entropy (nats)", 3),
    *(column for column in MAIN_COLUMNS if column[0] == "gap_closed"),
)
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
    """Title, column heads, rows of cells (the first is the row's name) and a note below."""

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
    """A number with fixed decimals and a real minus sign; a dash if undefined."""
    return "\u2013" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\u2212")


def measure_cell(found: Evaluation, name: str, system: str = MODEL) -> Cell:
    """Value and interval of a measure of a system; empty if the system lacks it."""
    return value_cell(found.at(name, system), found.measured(name).unit)


def difference_cell(found: Evaluation, name: str, one: str = MODEL, other: str = MARGINAL) -> Cell:
    """Difference of two systems and its interval; empty if they are not compared."""
    record = found[name]
    return value_cell(record["differences"].get(f"{one} - {other}"), record["unit"])


def score_table(found: Evaluation) -> Table:
    """Measures over items: model, marginal, and their difference."""
    rows = [
        (
            head_cell(found[name]),
            measure_cell(found, name),
            measure_cell(found, name, MARGINAL),
            difference_cell(found, name),
        )
        for name in found.parts["items"]
    ]
    note = (
        "\u2193 lower is better, \u2191 higher. In brackets: 95 % intervals. The marginal is "
        f"{found.reference.baseline}."
    )
    return Table(
        "Predicted distributions against the votes", ("Measure", "Model", "Marginal", "Difference"), rows, note
    )


def rater_table(found: Evaluation) -> list[Table]:
    """Measures over single answers of named raters; empty if no vote of a named rater was predicted."""
    if not found.parts["raters"]:
        return []
    rows = [
        (
            head_cell(found[name]),
            *(measure_cell(found, name, system) for system in (MODEL, CONSENSUS, MARGINAL)),
            *(difference_cell(found, name, MODEL, other) for other in (MARGINAL, CONSENSUS)),
        )
        for name in found.parts["raters"]
    ]
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
    columns = (
        "Measure",
        "Rater's prediction",
        "Consensus",
        "Marginal",
        "Difference to marginal",
        "Difference to consensus",
    )
    return [Table("Predicted answers of single raters", columns, rows, note)]


def class_table(scores: Evaluation, grid: bool) -> list[Table]:
    """Shares and F1 per label; empty for a grid, which has heat maps instead."""
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
        f"{ties:,} of {scores.counts['n_evaluated']:,} items, labels tie and the first in the support wins."
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
            Cell(number(one.cohen_kappa, 3), _pair_counts(one)),
            Cell(f"{one.pairable_items:,}", f"of {one.items:,}"),
            Cell(f"{one.votes:,}"),
            Cell(f"{one.annotators:,}"),
        )
        for one in found
    ]
    note = (
        "Over items with at least two votes. Agreement and both kappas count only equal answers, also on scales. Cohen's "
        "kappa is the mean over pairs of named raters, weighted by the items they share, without pairs that share only one "
        "item or always gave the same answer; for a multi-select question, it is the mean over its labels as yes/no questions."
    )
    return [Table("How far the raters agree", columns, rows, note)]


def _pair_counts(one: Agreement) -> str:
    """The number of pairs of raters behind a kappa, such as "27 of 28 pairs"."""
    if not one.rater_pairs:
        return ""
    of = f" of {one.rater_pairs:,}" if one.undefined_pairs else ""
    return f"{one.rater_pairs - one.undefined_pairs:,}{of} {'pair' if one.rater_pairs == 1 else 'pairs'}"


def bias_table(found: Mapping[str, Mapping[str, Any]] | None) -> list[Table]:
    """Correlation and slope of true and recovered biases of simulated raters, from the model and from the votes alone."""
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
        "Pearson correlation between the simulated bias and the bias that the model found, and slope of the found on the "
        "simulated bias: 1 is the full size, less is shrunk towards 0. \u201cVotes\u201d is the simple baseline without a "
        "model: the mean deviation of a rater's votes from the mean vote on the same evaluated items (with two or more "
        "votes). Intervals resample raters."
    )
    return [Table("Biases of raters recovered", columns, rows, note)]


def head_cell(record: Mapping[str, Any]) -> Cell:
    """Title of a measure with an arrow in the better direction, and its unit."""
    return Cell(record["title"] + ARROWS[record["better"]], record["unit"])


def value_cell(entry: Mapping[str, Any] | None, unit: str | None = None) -> Cell:
    """A value and its interval: one decimal for per cent, three otherwise."""
    if entry is None:
        return Cell("")
    digits = 1 if (unit or entry.get("unit")) == "%" else 3
    value = number(entry["value"], digits)
    if entry["low"] is None or entry["low"] == entry["high"]:
        return Cell(value)
    return Cell(value, f"[{number(entry['low'], digits)}, {number(entry['high'], digits)}]")


_CURVE = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50)


def strata_table(found: Evaluation) -> Table:
    """Results by entropy of the votes."""
    columns = (
        "Entropy of the votes",
        "Items",
        "JSD\u00a0\u2193",
        "JSD of the marginal",
        "Accuracy\u00a0\u2191",
        "Macro\u2011F1\u00a0\u2191",
        "Macro\u2011F1, labels present",
    )
    rows = []
    for stratum in found.strata:
        cells = [measure_cell(found, f"jsd_{stratum.key}", system) for system in (MODEL, MARGINAL)]
        cells += [measure_cell(found, f"{name}_{stratum.key}") for name in ("accuracy", "macro_f1", "macro_f1_present")]
        rows.append((_stratum_cell(stratum), Cell(f"{int(stratum.rows.sum()):,}"), *cells))
    missing = [
        f"{stratum.name} ({stratum.scheme}) {', '.join(stratum.absent)}"
        for stratum in found.strata
        if stratum.absent and stratum.rows.any()
    ]
    note = (
        f"Entropy of an item's votes over ln {len(found.support)}, the entropy of {len(found.support)} equally frequent "
        "labels. Thirds cut its range, tertiles the items (equal entropies stay together). Macro-F1 averages over all "
        f"{len(found.support)} labels; a label that is the plurality of no item of a group counts as 0 there, and is left out "
        "in the last column. "
    )
    note += (
        f"Labels without such an item: {'; '.join(missing)}."
        if missing
        else "Every label has such an item in each group."
    )
    return Table("Results by how much the raters disagree", columns, rows, note)


def n_best_table(found: Evaluation) -> list[Table]:
    """Accuracy and recall of the n most probable labels."""
    columns = ("Right if among the", "Accuracy \u2191", "of the marginal", "Average recall \u2191", "of the marginal")
    rows = []
    for n in depths(len(found.support)):
        cells = []
        for name in ("accuracy", "uar"):
            cells += [measure_cell(found, f"{name}_{n}_best", system) for system in (MODEL, MARGINAL)]
        rows.append((Cell("most probable label" if n == 1 else f"{n} most probable"), *cells))
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
    ns = depths(len(found.support))
    columns = ("Speakers", *(f"paUAR\u2011{level} {n}\u2011best" for level in LEVELS for n in ns))
    rows = []
    for group, told in shown:
        ending = f"_{group.key}" if group.key else ""
        cells = [measure_cell(found, f"pauar{level}_{n}_best{ending}") for level in LEVELS for n in ns]
        items = told["items"]
        about = f"n = {told['speakers']:,}; {items['median']:g} items ({items['min']:g} to {items['max']:g})"
        rows.append((Cell(_capital(group.title), about), *cells))
    labels = spread(found.per_speaker)["labels"]
    note = (
        "paUAR-75: per cent of speakers whose own average recall exceeds .75, over the labels that are the plurality of an "
        f"item of that speaker (median {labels['median']:g} of {len(found.support)} labels, minimum {labels['min']:g}, "
        f"maximum {labels['max']:g}); n-best as above. Below each group: speakers n, and median, minimum and maximum of their "
        "items. With few items per speaker, recalls are rough and extreme shares likely."
    )
    return [Table("Speaker by speaker", columns, rows, note)]


def calibration_table(found: Evaluation) -> Table:
    """Expected calibration error."""
    columns = ("Expected calibration error", "Model \u2193", "Marginal", "By chance")
    names = {"ece": "Mean over labels", "ece_top": "Most probable label"}
    names |= {f"ece_of_{label}": str(label) for label in found.support}
    rows = [
        (
            Cell(title),
            measure_cell(found, name),
            measure_cell(found, name, MARGINAL),
            Cell(number(found.floor[name], 3)),
        )
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
            measure_cell(found, f"residual_{label}"),
            measure_cell(found, f"residual_{label}", "votes"),
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
    rows = [
        (Cell("Marginal alone" if k == 0 else f"{k} rater{'s' if k > 1 else ''}"), value_cell(told.curve[k]))
        for k in chosen
    ]
    model = told.systems["model"]
    rows.append((Cell("Model", f"worth {model['worth']['text']} raters"), value_cell(model["loss"])))
    note = (
        "Cross-entropy (nats) of one held-out vote of an item under the histogram of k other votes of that item, exact over "
        f"all ways to choose them, and under the prediction. Histograms are smoothed by {told.alpha:.2g} pseudo-votes "
        "distributed like the marginal, the number that is best for the raters. All numbers are over the "
        f"{told.items:,} items ({100 * told.share:.0f} %) with at least {largest + 1} votes; \u201c> {largest}\u201d is "
        "better than that many raters. (Resnick et al. 2021)"
    )
    return [Table("How many raters the model is worth", ("Forecast", "Cross-entropy \u2193"), rows, note)]


def _stratum_cell(stratum: Stratum) -> Cell:
    if stratum.scheme == "thirds":
        bounds = {"low": "below 1/3", "mid": "1/3 to below 2/3", "high": "2/3 to 1"}[stratum.name]
        return Cell(_capital(stratum.name), bounds)
    bounds = "empty" if stratum.low is None else f"{stratum.low:.2f} to {stratum.high:.2f}"
    return Cell(f"{_capital(stratum.name)} tertile", bounds)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def systems_tables(found: Evaluation) -> list[Table]:
    """The tables of a results page: scores, details, and differences to the first system."""
    names = [*found.systems, MARGINAL]
    tables = [_systems_table("Scores", found, MAIN_COLUMNS, names)]
    behind = [column for column in BEHIND_COLUMNS if column[0] in found]
    if behind:
        tables.append(_systems_table("Details of the scores", found, behind, names, worth=True))
    tertiles = [column for column in TERTILE_COLUMNS if column[0] in found]
    if tertiles:
        note = "Tertiles of the items by the entropy of their votes, ties kept together."
        tables.append(_systems_table("By ambiguity", found, tertiles, names, note=note))
    scales = [(name, found.measured(name).title, 3) for name in found.parts["scales"]]
    if scales:
        note = "Against mean ratings."
        tables.append(_systems_table("Further scales", found, scales, found.systems, note=note))
    return [*tables, *_differences_table(found, MAIN_COLUMNS)]


def crossval_tables(found: Evaluation) -> list[Table]:
    """The tables of a cross-validation, and the sizes of its folds."""
    names = [*found.systems, MARGINAL]
    tables = [
        _systems_table(title, found, columns, names)
        for title, columns in (("Labels", LABEL_COLUMNS), ("Distributions", DISTRIBUTION_COLUMNS))
    ]
    tables += [
        table for columns in (LABEL_COLUMNS, DISTRIBUTION_COLUMNS) for table in _differences_table(found, columns)
    ]
    unit, folds = found.counts["unit"], found.counts["folds"]
    counted = ("items",) if unit == "item" else ("items", "groups")
    rows = [(Cell(part), *(Cell(_range([fold[part][what] for fold in folds])) for what in counted)) for part in SPLITS]
    heads = ("Part of a fold", "Items", f"{unit.capitalize()}s")[: 1 + len(counted)]
    return [*tables, Table("Sizes of the folds", heads, rows, "Minimum and maximum over all folds.")]


def _systems_table(
    title: str,
    found: Evaluation,
    columns: Sequence[tuple[str, str, int]],
    names: Sequence[str],
    *,
    worth: bool = False,
    note: str = "",
) -> Table:
    """One row per system: values, intervals and deviations of `columns` (measure, heading, decimals), and its worth."""
    heads = [head + ARROWS[found.measured(name).better] for name, head, _ in columns]
    worth = worth and found.equivalence is not None
    rows = []
    for system in names:
        cells = [_run_cell(found.at(name, system), digits) for name, _, digits in columns]
        if worth:
            told = found.equivalence.systems.get(system)
            cells.append(Cell("\u2013" if told is None else told["worth"]["text"].replace("95 % interval ", "")))
        rows.append((Cell(system), *cells))
    return Table(title, ("System", *heads, *(["Worth in raters\u00a0\u2191"] * worth)), rows, note)


def _differences_table(found: Evaluation, columns: Sequence[tuple[str, str, int]]) -> list[Table]:
    """One row per system but the first: its differences to the first, with intervals."""
    first, *others = found.systems
    if not others:
        return []
    rows = [
        (Cell(name), *(_run_cell(found.difference(measure, name, first), digits) for measure, _, digits in columns))
        for name in others
    ]
    return [Table(f"Difference to {first}, paired", ("System", *(head for _, head, _ in columns)), rows)]


def _run_cell(entry: Mapping[str, Any] | None, digits: int) -> Cell:
    """Value, interval and deviation between runs."""
    if entry is None or entry["value"] is None:
        return Cell("\u2013")
    parts = []
    if entry["low"] is not None:
        parts.append(f"({number(entry['low'], digits)} to {number(entry['high'], digits)})")
    if entry.get("deviation") is not None:
        parts.append(f"\u00b1 {number(entry['deviation'], digits)}")
    return Cell(number(entry["value"], digits), " ".join(parts))


def fold_notes(found: Evaluation) -> list[str]:
    """Notes on labels and raters that the training parts of a cross-validation lack."""
    folds, repeats, said = found.counts["folds"], found.counts["runs"][found.systems[0]], []
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
            f"{unseen:,} answers to test items (over all repeats) are by raters without answers in the training part of "
            "the fold; they count in the distribution like any other."
        )
    for name, one in found.counts["rater answers"].items():
        if one["by consensus"]:
            said.append(
                f"{name}: {one['by consensus']:,} of {one['answers']:,} predicted rater answers are those of the consensus "
                "head, because the rater is not in the training part of the fold."
            )
        elif one["answers"]:
            said.append(f"{name}: all {one['answers']:,} predicted rater answers are those of the rater's own head.")
    if found.counts["partitions"] < repeats:
        said.append(
            f"The {repeats} repeats divide the items in only {found.counts['partitions']} different ways, because there are "
            f"few {found.counts['unit']}s; the other repeats differ in their seeds."
        )
    return said


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def scale_table(found: Evaluation) -> list[Table]:
    """One row per scale; empty without scales."""
    if not found.scales:
        return []
    rows = [
        (
            Cell(one["question"]),
            *(measure_cell(found, f"{kind}_{one['question']}") for kind in FITS),
            Cell(f"{number(100 * one['covered'], 1)} %"),
            Cell(f"{one['items']:,}"),
        )
        for one in found.scales
    ]
    note = (
        "Predicted against mean ratings, on the scale normalised to [\u22121, 1]. Within \u00b11.96 \u03c3: share of items "
        "whose mean rating lies there; 95 % if the predicted deviations are right."
    )
    return [
        Table(
            "Further scales",
            ("Scale", "CCC", "Pearson", "RMSE", "Within \u00b11.96 \u03c3", "Items"),
            rows,
            note,
        )
    ]


def disagreement_table(found: Evaluation) -> list[Table]:
    """One row; empty without predicted disagreement."""
    told = found.disagreement
    if told is None:
        return []
    cells = (measure_cell(found, f"disagreement_{kind}") for kind in FITS)
    note = (
        "Predicted against actual disagreement of the raters, over items with two votes or more: the entropy of the votes "
        "over ln K, the standard deviation of the answers on [\u22121, 1], or the variance of the votes summed over labels."
    )
    return [
        Table(
            "Predicted disagreement",
            ("Disagreement", "CCC", "Pearson", "RMSE", "Items"),
            [(Cell(told["kind"]), *cells, Cell(f"{told['items']:,}"))],
            note,
        )
    ]


def markdown_safe(text: object) -> str:
    """Text escaped for Markdown: no markup, no HTML, no line break."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", line)
