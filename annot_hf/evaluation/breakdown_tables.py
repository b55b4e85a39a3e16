"""The tables of a breakdown, in the order of the report; each says in its note how to read it."""

from annot_hf.evaluation.breakdown import Breakdown, spread
from annot_hf.evaluation.calibration import BINS
from annot_hf.evaluation.ranking import LEVELS, depths
from annot_hf.evaluation.strata import Stratum
from annot_hf.evaluation.tables import Cell, Table, number, value_cell

_CURVE = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50)


def strata_table(found: Breakdown) -> Table:
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
        cells = [value_cell(found[f"jsd_{stratum.key}"]), value_cell(found[f"jsd_{stratum.key}"]["marginal"])]
        cells += [value_cell(found[f"{name}_{stratum.key}"]) for name in ("accuracy", "macro_f1", "macro_f1_present")]
        rows.append((_stratum_cell(stratum), Cell(f"{int(stratum.rows.sum()):,}"), *cells))
    missing = [
        f"{stratum.name} ({stratum.scheme}) {', '.join(stratum.absent)}"
        for stratum in found.strata
        if stratum.absent and stratum.rows.any()
    ]
    note = (
        f"Entropy of an item's votes over ln {len(found.support)}, the entropy of {len(found.support)} equally frequent "
        "labels. Thirds cut its range, tertiles the items (equal entropies stay together). Macro-F1 averages over all "
        f"{len(found.support)} labels; a label that is the plurality of no item of a group counts 0 there, and is left out "
        "in the last column. "
    )
    note += (
        f"Labels without such an item: {'; '.join(missing)}." if missing else "Every label has such an item in each."
    )
    return Table("Results by how much the raters disagree", columns, rows, note)


def n_best_table(found: Breakdown) -> list[Table]:
    """Accuracy and recall when the n most probable labels count."""
    columns = ("Right if among the", "Accuracy \u2191", "of the marginal", "Average recall \u2191", "of the marginal")
    rows = []
    for n in depths(len(found.support)):
        cells = []
        for name in ("accuracy", "uar"):
            record = found[f"{name}_{n}_best"]
            cells += [value_cell(record), value_cell(record["marginal"])]
        rows.append((Cell("most probable label" if n == 1 else f"{n} most probable"), *cells))
    note = (
        "The reference is the plurality of an item's votes. Average recall (UAR) is over the labels that are the plurality "
        "of some item; ties among predicted probabilities go to the label that comes first in the support."
    )
    return [Table("Among the most probable labels", columns, rows, note)] if rows else []


def speakers_table(found: Breakdown) -> list[Table]:
    """paUAR: how many speakers the model serves well."""
    shown = [(group, spread(found.per_speaker[group.rows])) for group in found.groups if group.rows.any()]
    if not shown or len(found.support) < 2:
        return []
    ns = depths(len(found.support))
    columns = ("Speakers", *(f"paUAR\u2011{level} {n}\u2011best" for level in LEVELS for n in ns))
    rows = []
    for group, told in shown:
        ending = f"_{group.key}" if group.key else ""
        cells = [value_cell(found[f"pauar{level}_{n}_best{ending}"]) for level in LEVELS for n in ns]
        items = told["items"]
        about = f"n = {told['speakers']:,}; {items['median']:g} items ({items['min']:g} to {items['max']:g})"
        rows.append((Cell(_capital(group.title), about), *cells))
    labels = spread(found.per_speaker)["labels"]
    note = (
        "paUAR-75: per cent of speakers whose own average recall exceeds .75, over the labels that are the plurality of an "
        f"item of that speaker (median {labels['median']:g} of {len(found.support)} labels, least {labels['min']:g}, most "
        f"{labels['max']:g}); n-best as above. Below each group: speakers n, and median, least and most items of one. With "
        "few items a speaker, recalls are rough and extreme shares likely."
    )
    return [Table("Speaker by speaker", columns, rows, note)]


def calibration_table(found: Breakdown) -> Table:
    """Expected calibration error."""
    columns = ("Expected calibration error", "Model \u2193", "Marginal", "By chance")
    names = {"ece": "Mean over labels", "ece_top": "Most probable label"}
    names |= {f"ece_of_{label}": str(label) for label in found.support}
    rows = [
        (
            Cell(title),
            value_cell(found[name]),
            value_cell(found[name]["marginal"]),
            Cell(number(found.floor[name], 3)),
        )
        for name, title in names.items()
    ]
    note = (
        f"For a label: items in {BINS} equal bins of its probability; per bin the difference between mean probability and "
        "mean share of votes, absolute, weighted by the items in the bin. Most probable label: the same with one label an "
        "item. By chance: what these predictions would show if they were perfectly calibrated, from votes drawn from them. "
        "Intervals keep the signs of the differences. The marginal is calibrated, yet tells no item from another."
    )
    return Table("Calibration", columns, rows, note)


def residual_table(found: Breakdown) -> list[Table]:
    """Where the probability goes when raters chose the residual label."""
    if found.residual is None or f"residual_{found.residual}" not in found:
        return []
    rows = [
        (
            Cell(str(label)),
            value_cell(found[f"residual_{label}"]),
            value_cell(found[f"residual_{label}"]["votes"], "%"),
            Cell(number(found[f"residual_{label}"]["marginal"]["value"], 1)),  # the same for every item
        )
        for label in found.support
    ]
    columns = ("Label", "Predicted, %", "Votes on the same items, %", "Marginal, %")
    note = (
        f"Mean over votes for \u201c{found.residual}\u201d: what the model predicts for the item, and what all raters of the "
        "item said."
    )
    return [Table(f"Where votes for \u201c{found.residual}\u201d go", columns, rows, note)]


def equivalence_table(found: Breakdown) -> list[Table]:
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
        "spread like the marginal, the number that serves the raters best. All numbers are over the "
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
