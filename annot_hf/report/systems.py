"""Comparisons of systems: runs in a report, the systems of a plan, and cross-validations."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from annot_hf.data.corpus import SPLITS
from annot_hf.evaluation.categories import DEPTHS, LEVELS
from annot_hf.evaluation.evaluate import MARGINAL, Evaluation
from annot_hf.evaluation.scoring import TASKS
from annot_hf.report import figures as plots
from annot_hf.report.pages import Section
from annot_hf.report.tables import (
    ARROWS,
    CEILINGS,
    DASH,
    Cell,
    Table,
    answer_measures,
    heading,
    measure_rows,
    number,
    say,
    spread_table,
    subsets_table,
    value_cell,
    worded,
    worth_texts,
)

# As many have a colour of their own.
MOST_RUNS = 6
# Tables of a comparison: title, and the prefixes of the measures.
_PARTS = {
    "By how much the raters disagree": ("jsd_t", "accuracy_t", "macro_f1_t"),
    "Among the most probable labels": ("accuracy_", "uar_"),
    "Speaker by speaker": ("pauar",),
    "Calibration": ("ece", "residual_"),
}
# Of measures over items, JSD in bits is JSD in another unit, the entropy of the votes does not depend on the run, and F1 over
# batches has no interval.
_NOT_COUNTED = ("jsd_bits", "vote_entropy", "labels_f1_batches")
# The tables of several systems.
_MAIN = ("gap_closed", "jsd", "kl", "tvd", "accuracy", "macro_f1", "uar")
_DETAILS = (
    "labels_f1",
    "labels_f1_batches",
    "entropy_correlation",
    "entropy_rank_correlation",
    "jsd_thirds_low",
    "jsd_thirds_mid",
    "jsd_thirds_high",
)
_DETAILS += ("accuracy_2_best", "uar_2_best", "pauar75_1_best", "pauar50_1_best")
_TERTILES = tuple(f"{name}_tertiles_{part}" for name in ("jsd", "accuracy") for part in ("low", "mid", "high"))
# The tables of a cross-validation.
_CROSSVAL = {
    "Labels": (
        "accuracy",
        "macro_f1",
        "uar",
        "labels_f1",
        "labels_f1_batches",
        "entropy_correlation",
        "entropy_rank_correlation",
    ),
    "Distributions": ("jsd", "kl", "tvd", "cross_entropy", "gap_closed"),
    "Among the most probable labels": tuple(f"{name}_{n}_best" for name in ("accuracy", "uar") for n in DEPTHS[1:]),
    "Speakers served well": tuple(f"pauar{level}_{n}_best" for level in LEVELS for n in DEPTHS),
}
_TABLE_NOTES = {"Among the most probable labels": "n_best.note", "Speakers served well": "folds.served"}


def comparison_sections(found: Evaluation) -> list[Section]:
    """Tables and figures of several runs: of two, every measure with its difference; of more, those of a plan's systems."""
    if len(found.systems) == 2:
        sections = _pair_sections(found)
    else:
        sections = [Section(systems_tables(found), {"systems": lambda: plots.plot_systems(found)})]
    sections.append(Section(subsets_table(found)))
    if found.equivalence is not None:
        worth = {"equivalence": lambda: plots.plot_equivalence(found.equivalence, found.systems)}
        sections.append(Section([_worth_table(found)], worth))
    return sections


def _pair_sections(found: Evaluation) -> list[Section]:
    a, b = found.systems
    compared = [name for name in found.parts["items"] if name not in _NOT_COUNTED]
    figures = {"differences": lambda: plots.plot_differences(found, compared)}
    if found.counts["speakers"] > 1:
        means = found.per_item.groupby("speaker")[[f"jsd_{a}", f"jsd_{b}"]].mean().to_numpy().T
        figures["speaker_pairs"] = lambda: plots.plot_speaker_pairs(*means, found.systems)
    note = say("comparison.note", a=a, b=b, baseline=found.reference.baseline)
    names = [name for name in found.parts["items"] if name != "vote_entropy"]
    sections = [Section([_comparison_table("Differences over all items", names, found, note)], figures)]
    if found.parts["raters"]:
        sections.append(
            Section([_comparison_table("Predicted answers of single raters", found.parts["raters"], found)])
        )
    sections += [Section(table) for table in [spread_table(found)] if table]
    left = [name for name in found.parts["categories"] if "_best_min" not in name and "_present_" not in name]
    for title, starts in _PARTS.items():
        part = [name for name in left if name.startswith(starts) and found.measured(name).better]
        left = [name for name in left if name not in part]
        if part:
            sections.append(Section([_comparison_table(title, part, found)]))
    return sections


def _comparison_table(title: str, names: Iterable[str], found: Evaluation, note: str = "") -> Table:
    a, b = found.systems
    rows = measure_rows(found, names, (a, b, MARGINAL), [(a, b)])
    rows = [(*row, Cell(found.better(name, a, b) or "undecided")) for name, row in zip(names, rows, strict=True)]
    return Table(title, ("Measure", a, b, "Marginal", "Difference", "Better"), rows, note)


def _worth_table(found: Evaluation) -> Table:
    told, rows = found.equivalence, []
    for name in found.systems:
        worth, ends = worth_texts(told.systems[name]["worth"])
        ends = f"[{ends.replace(' to ', ', ')}]" if ends else ""
        rows.append((name, value_cell(told.systems[name]["loss"]), Cell(worth, ends)))
    return worded("worths", rows, found=told)


def comparison_summary(found: Evaluation) -> str:
    """What was compared, and of two runs on how many measures each is better."""
    verdicts = []
    if len(found.systems) == 2:
        verdicts = [found.better(name, *found.systems) for name in found.parts["items"] if name not in _NOT_COUNTED]
    return say("summaries.comparison", found=found, verdicts=verdicts)


def systems_tables(found: Evaluation, task: str = "") -> list[Table]:
    """The tables of a results page: those of a shared task, scores, details, and differences to the first system."""
    scored = [name for name in TASKS.get(task, ()) if name in found]
    shown = [_systems_table(f"Scores of {task}", found, scored)] if scored else []
    shown += _differences_table(found, scored) if scored else []
    shown += [_systems_table("Scores", found, _MAIN)]
    details = [name for name in _DETAILS if name in found]
    if details:
        shown.append(_systems_table("Details of the scores", found, details, worth=found.equivalence is not None))
    tertiles = [name for name in _TERTILES if name in found]
    if tertiles:
        note = "Tertiles of the items by the entropy of their votes, ties kept together."
        shown.append(_systems_table("By ambiguity", found, tertiles, note=note))
    answers = answer_measures(found)
    if answers:
        note = "A system that does not know raters, and each consensus, gives every rater of an item the same answer."
        shown.append(_systems_table("Answers of single raters", found, answers, note=note))
    if found.parts["scales"]:
        scales = _systems_table("Further scales", found, list(found.parts["scales"]), note="Against mean ratings.")
        # The marginal predicts no mean rating.
        shown.append(replace(scales, rows=scales.rows[:-1]))
    return [*shown, *spread_table(found), *_differences_table(found, _MAIN)]


def crossval_tables(found: Evaluation, task: str = "") -> list[Table]:
    """The tables of a cross-validation, those of a shared task first, and the sizes of its folds."""
    unit, folds = found.counts["unit"], found.counts["folds"]
    parts = ({f"Scores of {task}": TASKS[task]} if task else {}) | _CROSSVAL
    parts = {title: [name for name in names if name in found] for title, names in parts.items()}
    parts = {title: names for title, names in parts.items() if names}
    notes = {title: say(key) for title, key in _TABLE_NOTES.items()}
    shown = [_systems_table(title, found, names, note=notes.get(title, "")) for title, names in parts.items()]
    for title, names in parts.items():
        shown += [replace(table, title=f"{title}: {table.title}") for table in _differences_table(found, names)]
    shown += spread_table(found, unit)
    counts = ("items",) if unit == "item" else ("items", "groups")
    rows = [(part, *(_range([fold[part][what] for fold in folds]) for what in counts)) for part in SPLITS]
    heads = ("Part of a fold", "Items", f"{unit.capitalize()}s")[: 1 + len(counts)]
    return [*shown, worded("folds", rows, columns=heads)]


def robust_systems_table(robust: Mapping[str, Evaluation]) -> list[Table]:
    """One row per system of `measure_conditions`: how far each condition moves its predictions; empty without any."""
    if not robust:
        return []
    first = next(iter(robust.values()))
    clean, *conditions = first.systems
    rows = []
    for system, found in robust.items():
        cells = []
        for one in conditions:
            cost = _run_cell(found.difference("jsd", one, clean), 3).text
            cells.append(Cell(number(found.at("moved", one)["value"], 3), f"JSD − clean: {cost}"))
        rows.append((system, *cells))
    items = first.counts["n_evaluated"]
    return [worded("robust_systems", rows, columns=("System", *conditions), items=items)]


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _systems_table(
    title: str, found: Evaluation, names: Sequence[str], *, worth: bool = False, note: str = ""
) -> Table:
    """One row per system: values, intervals and deviations of the measures, and its worth in raters."""
    columns = {name: heading(found, name) for name in names}
    heads = [head + ARROWS[found.measured(name).better] for name, (head, _) in columns.items()]
    rows = []
    known, others = found.measured(names[0]).draws, {*found.systems, MARGINAL}
    # The consensus of a system comes after it.
    beside = {one: other for one, other in found.pairs if other in known and other not in others}
    best = [one for one in CEILINGS if any(one in found.measured(name).draws for name in names)]
    for system in (*(row for one in found.systems for row in (one, beside.get(one)) if row), MARGINAL, *best):
        cells = [_run_cell(found.at(name, system), digits) for name, (_, digits) in columns.items()]
        if worth:
            told = found.equivalence.systems.get(system)
            cells.append(Cell(DASH if told is None else told["worth"]["text"].replace("95 % interval ", "")))
        rows.append((Cell(system), *cells))
    return Table(title, ("System", *heads, *(["Worth in raters\u00a0\u2191"] * worth)), rows, note)


def _differences_table(found: Evaluation, names: Sequence[str]) -> list[Table]:
    """One row per system but the first: its differences to the first, with intervals; empty for a single system."""
    first, *others = found.systems
    headings = [heading(found, name) for name in names]
    rows = []
    for one in others:
        entries = (found.difference(name, one, first) for name in names)
        cells = (_run_cell(entry, digits) for entry, (_, digits) in zip(entries, headings, strict=True))
        rows.append((Cell(one), *cells))
    heads = ("System", *(head for head, _ in headings))
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
    counts = found.counts
    folds, said = counts["folds"], []
    for key in ("labels_without_votes", "labels_that_win_no_item"):
        lacking = Counter(label for fold in folds for label in fold[key])
        said += [say(f"folds.{key}", label=label, count=n, folds=len(folds)) for label, n in lacking.items()]
    said.append(say("folds.unseen", count=sum(fold["answers_of_raters_unseen"] for fold in folds)))
    for name, one in counts["rater answers"].items():
        said.append(say("folds.answers", system=name, answers=one["answers"], consensus=one["by consensus"]))
    said.append(say("folds.partitions", counts=counts))
    return [note for note in said if note]
