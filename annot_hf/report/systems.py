"""Comparisons of systems: two runs in a report, several systems of a plan, and cross-validations."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from annot_hf.data.corpus import SPLITS
from annot_hf.evaluation.evaluate import MARGINAL, Evaluation
from annot_hf.report import figures as plots
from annot_hf.report.pages import Section
from annot_hf.report.tables import (
    ARROWS,
    DASH,
    Cell,
    Table,
    asked,
    counted,
    difference_cell,
    interval,
    measure_cells,
    measure_rows,
    number,
    spoken,
    value_cell,
)

VERDICTS = (
    "A run is called better if the 95 % interval of the difference excludes 0. With many measures, some do so by chance: one "
    "in twenty of those without a difference. The intervals do not cover the variation between training seeds."
)
# Tables of a comparison: title, and the prefixes of the measures.
_PARTS = {
    "By how much the raters disagree": ("jsd_t", "accuracy_t", "macro_f1_t"),
    "Among the most probable labels": ("accuracy_", "uar_"),
    "Speaker by speaker": ("pauar",),
    "Calibration": ("ece", "residual_"),
}
# Of measures over items, JSD in bits is JSD in another unit, and the entropy of the votes does not depend on the run.
_NOT_COUNTED = ("jsd_bits", "vote_entropy")
# Measure -> heading and decimals in the tables of several systems.
_HEADINGS = {
    "gap_closed": ("Gap closed (%)", 1),
    "jsd": ("JSD (nats)", 3),
    "kl": ("KLD (nats)", 3),
    "tvd": ("TVD", 3),
    "cross_entropy": ("Cross-entropy (nats)", 3),
    "accuracy": ("Accuracy", 3),
    "macro_f1": ("Macro-F1", 3),
    "uar": ("UAR", 3),
    "entropy_correlation": ("Entropies, r", 2),
    "entropy_rank_correlation": ("Entropies, rank r", 2),
    "jsd_thirds_low": ("JSD, low entropy", 3),
    "jsd_thirds_mid": ("JSD, middle", 3),
    "jsd_thirds_high": ("JSD, high", 3),
    "accuracy_2_best": ("Accuracy, 2-best", 3),
    "uar_2_best": ("UAR, 2-best", 3),
    "pauar75_1_best": ("paUAR-75 (%)", 1),
    "pauar50_1_best": ("paUAR-50 (%)", 1),
} | {
    f"{measure}_tertiles_{part}": (f"{title}, {part} tertile", 3)
    for measure, title in (("jsd", "JSD"), ("accuracy", "Accuracy"))
    for part in ("low", "mid", "high")
}
_ALL = tuple(_HEADINGS)
_MAIN = ("gap_closed", "jsd", "kl", "tvd", "accuracy", "macro_f1", "uar")
_DETAILS = _ALL[_ALL.index("entropy_correlation") : _ALL.index("jsd_tertiles_low")]
_TERTILES = _ALL[_ALL.index("jsd_tertiles_low") :]
# The two tables of a cross-validation.
_CROSSVAL = {
    "Labels": ("accuracy", "macro_f1", "uar", "entropy_correlation", "entropy_rank_correlation"),
    "Distributions": ("jsd", "kl", "tvd", "cross_entropy", "gap_closed"),
}


def comparison_sections(found: Evaluation) -> list[Section]:
    """Tables and figures of two runs, with their differences."""
    a, b = found.systems
    compared = [name for name in found.parts["items"] if name not in _NOT_COUNTED]
    figures = {
        "differences": (
            lambda: plots.plot_differences(found, compared),
            f"Differences between the runs with 95 % intervals, oriented so that right is better for {a}.",
        )
    }
    if found.counts["speakers"] > 1:
        means = found.per_item.groupby("speaker")[[f"jsd_{a}", f"jsd_{b}"]].mean().to_numpy().T
        figures["speaker_pairs"] = (
            lambda: plots.plot_speaker_pairs(*means, found.systems),
            f"Mean divergence from the votes for each speaker; above the diagonal {a} is better.",
        )
    note = (
        "\u2193 lower is better, \u2191 higher. In brackets: 95 % intervals. Better: the run on whose side the interval of "
        f"the difference {a} \u2212 {b} lies. The marginal is {found.reference.baseline}."
    )
    names = [name for name in found.parts["items"] if name != "vote_entropy"]
    sections = [Section([_comparison_table("Differences over all items", names, found, note)], figures)]
    if found.parts["raters"]:
        table = _comparison_table("Predicted answers of single raters", list(found.parts["raters"]), found)
        sections.append(Section([table]))
    left = [name for name in found.parts["categories"] if "_best_min" not in name and "_present_" not in name]
    for title, starts in _PARTS.items():
        part = [name for name in left if name.startswith(starts) and found.measured(name).better]
        left = [name for name in left if name not in part]
        if part:
            sections.append(Section([_comparison_table(title, part, found)]))
    if found.equivalence is not None:
        caption = (
            "Error of k raters, and of the runs, in forecasting one more rater's vote on the same items; bands are 95 % "
            "intervals."
        )
        sections.append(Section([_worth_table(found)], plots.worth_figure(found, caption)))
    return sections


def _comparison_table(title: str, names: Sequence[str], found: Evaluation, note: str = "") -> Table:
    a, b = found.systems
    rows = measure_rows(found, names, (a, b, MARGINAL), [(a, b)])
    rows = [(*row, Cell(found.better(name, a, b) or "undecided")) for name, row in zip(names, rows, strict=True)]
    return Table(title, ("Measure", a, b, "Marginal", "Difference", "Better"), rows, note)


def _worth_table(found: Evaluation) -> Table:
    told, rows = found.equivalence, []
    for name in found.systems:
        worth, *ends = told.systems[name]["worth"]["text"].split(" (95 % interval ")
        ends = f"[{ends[0][:-1].replace(' to ', ', ')}]" if ends else ""
        rows.append((Cell(name), value_cell(told.systems[name]["loss"]), Cell(worth, ends)))
    note = (
        "Cross-entropy (nats) of a held-out vote, and the number of other raters of the item whose smoothed histogram "
        f"({told.alpha:.2g} pseudo-votes) forecasts it as well, over the {told.items:,} items ({100 * told.share:.0f} %) with "
        f"at least {int(told.raters[-1]) + 1} votes. (Resnick et al. 2021)"
    )
    return Table("How many raters the runs are worth", ("Run", "Cross-entropy \u2193", "Raters \u2191"), rows, note)


def comparison_summary(found: Evaluation) -> str:
    """What was compared, and the main result with its interval."""
    (a, b), counts, difference = found.systems, found.counts, found.difference("jsd", *found.systems)
    left = counts["predicted_without_target"] + counts["target_without_prediction"]
    text = (
        f"The runs {a} and {b} were compared on {counted(counts['n_evaluated'], 'item')}{spoken(found)}, question "
        f"{asked(found)}. Left out: {f'{left:,} items on one side only' if left else 'nothing'}. The mean "
        f"Jensen-Shannon divergence from the votes is {number(found.at('jsd', a)['value'], 3)} nats for {a} and "
        f"{number(found.at('jsd', b)['value'], 3)} nats for {b}; the difference, {a} \u2212 {b}, is "
        f"{interval(difference, 3, ' nats')}. "
    )
    if difference["low"] is None:
        return text + next((note for note in found.notes if note.startswith("No intervals")), "")
    better = found.better("jsd", a, b)
    better = f"{better} is better" if better else "the data do not show a difference between the runs"
    verdicts = [found.better(name, a, b) for name in found.parts["items"] if name not in _NOT_COUNTED]
    return text + (
        f"By this measure {better}. Of {len(verdicts)} measures over all items {a} is better in {verdicts.count(a)}, {b} in "
        f"{verdicts.count(b)}, and {verdicts.count('')} are undecided."
    )


def robustness_section(found: Evaluation) -> Section:
    """Scores under each condition, differences to clean clips, and a plot of the JSD."""
    questions, (clean, *altered) = found.reference.targets.questions, found.systems
    names = [name for name in ("jsd", "gap_closed", "accuracy", "uar") if name in found]
    if questions[0].is_scale:
        names = ["jsd", "gap_closed", *(f"ccc_{question.name}" for question in questions)]
    heads = (f"{one.title}{ARROWS[one.better]} ({one.unit})" for one in map(found.measured, names))
    columns = ("Condition", *heads)
    systems = (*found.systems, MARGINAL)
    scores = [(Cell(system), *measure_cells(found, names, [system])) for system in systems]
    differences = [(Cell(one), *(difference_cell(found, name, one, clean) for name in names)) for one in altered]
    note = (
        "The same clips, altered before the model reads them, against the same votes. noise: white Gaussian noise at a "
        "signal-to-noise ratio (dB). reverb: a room that decays by 60 dB in this time (s), at the critical distance. "
        "telephone: 8 kHz, 300 to 3400 Hz, G.711 mu-law. mp3: LAME at this rate (kbit/s). In brackets: 95 % intervals. The "
        f"marginal is {found.reference.baseline}."
    )
    paired = "Condition \u2212 clean on the same resamples (paired)."
    shown = [
        Table("Unseen acoustic conditions", columns, scores, note),
        Table("What each condition changes", columns, differences, paired),
    ]
    jsd = {system: found.at("jsd", system) for system in systems}
    figures = {
        "conditions": (
            lambda: plots.plot_conditions(found.systems, jsd),
            "Mean divergence from the votes under each acoustic condition, with 95 % intervals; the lines are the model on "
            "clean clips and the marginal.",
        )
    }
    return Section(shown, figures)


def systems_tables(found: Evaluation) -> list[Table]:
    """The tables of a results page: scores, details, and differences to the first system."""
    shown = [_systems_table("Scores", found, _MAIN)]
    details = [name for name in _DETAILS if name in found]
    if details:
        shown.append(_systems_table("Details of the scores", found, details, worth=found.equivalence is not None))
    tertiles = [name for name in _TERTILES if name in found]
    if tertiles:
        note = "Tertiles of the items by the entropy of their votes, ties kept together."
        shown.append(_systems_table("By ambiguity", found, tertiles, note=note))
    if found.parts["scales"]:
        scales = _systems_table("Further scales", found, list(found.parts["scales"]), note="Against mean ratings.")
        # The marginal predicts no mean rating.
        shown.append(replace(scales, rows=scales.rows[:-1]))
    return [*shown, *_differences_table(found, _MAIN)]


def crossval_tables(found: Evaluation) -> list[Table]:
    """The tables of a cross-validation, and the sizes of its folds."""
    shown = [_systems_table(title, found, names) for title, names in _CROSSVAL.items()]
    shown += [table for names in _CROSSVAL.values() for table in _differences_table(found, names)]
    unit, folds = found.counts["unit"], found.counts["folds"]
    counts = ("items",) if unit == "item" else ("items", "groups")
    rows = [(Cell(part), *(Cell(_range([fold[part][what] for fold in folds])) for what in counts)) for part in SPLITS]
    heads = ("Part of a fold", "Items", f"{unit.capitalize()}s")[: 1 + len(counts)]
    return [*shown, Table("Sizes of the folds", heads, rows, "Minimum and maximum over all folds.")]


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _systems_table(
    title: str, found: Evaluation, names: Sequence[str], *, worth: bool = False, note: str = ""
) -> Table:
    """One row per system: values, intervals and deviations of the measures, and its worth in raters."""
    columns = {name: _HEADINGS.get(name) or (found.measured(name).title, 3) for name in names}
    heads = [head + ARROWS[found.measured(name).better] for name, (head, _) in columns.items()]
    rows = []
    for system in (*found.systems, MARGINAL):
        cells = [_run_cell(found.at(name, system), digits) for name, (_, digits) in columns.items()]
        if worth:
            told = found.equivalence.systems.get(system)
            cells.append(Cell(DASH if told is None else told["worth"]["text"].replace("95 % interval ", "")))
        rows.append((Cell(system), *cells))
    return Table(title, ("System", *heads, *(["Worth in raters\u00a0\u2191"] * worth)), rows, note)


def _differences_table(found: Evaluation, names: Sequence[str]) -> list[Table]:
    """One row per system but the first: its differences to the first, with intervals; empty for a single system."""
    first, *others = found.systems
    rows = [
        (Cell(one), *(_run_cell(found.difference(name, one, first), _HEADINGS[name][1]) for name in names))
        for one in others
    ]
    heads = ("System", *(_HEADINGS[name][0] for name in names))
    return [Table(f"Difference to {first}, paired", heads, rows)] if rows else []


def _run_cell(entry: Mapping[str, Any] | None, digits: int) -> Cell:
    """Value, interval and deviation between runs."""
    if entry is None or entry["value"] is None:
        return Cell(DASH)
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
        said += [
            f"Label {label} {text} in {count} of {len(folds)} training parts; macro-F1 keeps it."
            for label, count in Counter(label for fold in folds for label in fold[key]).items()
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
