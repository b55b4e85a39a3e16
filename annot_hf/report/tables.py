"""The tables of a report as plain text cells, and the words of all pages; templates escape and lay them out."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from annot_hf.data.questions import read_yaml
from annot_hf.evaluation.agreement import FEW_RATERS, Agreement
from annot_hf.evaluation.categories import LEVELS, Stratum, depths
from annot_hf.evaluation.ceiling import CEILING, SPLIT_HALF
from annot_hf.evaluation.evaluate import CONSENSUS, MARGINAL, MODEL, Evaluation, spread
from annot_hf.evaluation.scoring import FITS
from annot_hf.evaluation.speakers import FEWEST_ITEMS, RANKED, WORST, speaker_spread
from annot_hf.models.measures import CALIBRATION_BINS

# The noise ceilings, best possible systems.
CEILINGS = (CEILING, SPLIT_HALF)
ARROWS = {"lower": "\u00a0\u2193", "higher": "\u00a0\u2191", "": ""}
DASH = "\u2013"
# Numbers of raters in the table of their curve.
_CURVE = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
_AGREEMENT_COLUMNS = ("alpha", "pairwise", "fleiss_kappa", "cohen_kappa")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]|#~$!])")
_WORDS_FILE = Path(__file__).parent.parent / "templates" / "words.yaml"


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


def _in_words(entry: Mapping[str, Any], digits: int, unit: str) -> str:
    """Value with its interval in words, such as "0.118 nats (95 % interval 0.110 to 0.126)"."""
    value = f"{number(entry['value'], digits)}{unit}"
    if entry["low"] is None:
        return value
    return f"{value} (95 % interval {ends(entry, digits)})"


def ends(entry: Mapping[str, Any], digits: int, unit: str = "") -> str:
    """The interval of a value, such as "0.012 to 0.050"; empty without one."""
    if entry["low"] is None:
        return ""
    return f"{number(entry['low'], digits)} to {number(entry['high'], digits)}{unit}"


def _signed(entry: Mapping[str, Any], digits: int, unit: str = "") -> str:
    """A difference with its interval, such as "+0.031, 0.012 to 0.050"."""
    value = number(entry["value"], digits)
    value = ("" if value[0] == "\u2212" else "+") + value + unit
    return f"{value}, {ends(entry, digits)}" if ends(entry, digits) else value


def environment(**options: Any) -> Environment:
    """Jinja with the filters of our templates; a value that is not given raises."""
    made = Environment(undefined=StrictUndefined, **options)
    made.filters["whole"] = "{:,}".format
    made.filters |= {
        "counted": counted,
        "number": number,
        "interval": _in_words,
        "ends": ends,
        "signed": _signed,
        "md": markdown_safe,
    }
    made.filters["md_row"] = lambda cells: f"| {' | '.join(map(markdown_safe, cells))} |"
    made.globals["say"] = say
    return made


@functools.cache
def words() -> dict[str, dict[str, Any]]:
    """The content of `templates/words.yaml`."""
    return read_yaml(_WORDS_FILE.read_text(encoding="utf-8"), str(_WORDS_FILE))


def say(name: str, /, **values: Any) -> str:
    """A text of `templates/words.yaml`, such as "captions.examples", filled with these values; empty if it has none."""
    return _text_template(name).render(values)


@functools.cache
def _text_template(name: str) -> Template:
    group, part = name.split(".")
    return environment().from_string(words()[group].get(part, ""))


def row_title(system: str, **values: Any) -> str:
    """A system as `templates/words.yaml` calls it; its own name, if there is no other."""
    return say(f"systems.{system}", **values) if system in words()["systems"] else system


def worded(
    name: str, rows: Iterable[Sequence[Cell | str | int]], *, columns: Sequence[str] = (), **values: Any
) -> Table:
    """A table with title, column heads (unless given) and note of `templates/words.yaml`; cells may be texts and counts."""
    title, note = (say(f"{name}.{part}", **values) for part in ("title", "note"))
    return Table(title, tuple(columns or words()[name]["columns"]), [tuple(map(_cell, row)) for row in rows], note)


def _cell(value: Cell | str | int) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell(value if isinstance(value, str) else f"{value:,}")


def value_cell(entry: Mapping[str, Any] | None, unit: str | None = None) -> Cell:
    """A value and its interval: one decimal for per cent, three otherwise; empty without an entry."""
    if entry is None:
        return Cell("")
    digits = 1 if (unit or entry.get("unit")) == "%" else 3
    value = number(entry["value"], digits)
    if entry["low"] is None or entry["low"] == entry["high"]:
        return Cell(value)
    return Cell(value, f"[{number(entry['low'], digits)}, {number(entry['high'], digits)}]")


def worth_texts(worth: Mapping[str, Any]) -> tuple[str, str]:
    """A worth in raters of `worth_record`, and the ends of its interval: such as "7.2" and "5.1 to > 9"."""
    value, _, ends = worth["text"].partition(" (95 % interval ")
    return value, ends.removesuffix(")")


def measure_cells(found: Evaluation, names: Iterable[str], systems: Sequence[str] = (MODEL,)) -> list[Cell]:
    """Value and interval of each measure for each system; empty if the system lacks it."""
    return [value_cell(found.at(name, system), found.measured(name).unit) for name in names for system in systems]


def heading(found: Evaluation, name: str) -> tuple[str, int]:
    """Head of the column of a measure, and its decimals."""
    known = words()["headings"]
    kind = next((kind for kind in known if name.startswith(f"{kind}_")), "")
    head, digits = known.get(name) or known.get(kind) or (found.measured(name).title, 3)
    return (head, digits) if name in known or not kind else (f"{head}, {name.removeprefix(kind)[1:]}", digits)


def gain_cell(found: Evaluation, name: str, one: str, other: str) -> Cell:
    """By how much a measure differs between two systems, paired, and its interval."""
    return value_cell(found.difference(name, one, other), found.measured(name).unit)


def short_title(found: Evaluation, name: str) -> Cell:
    """The short head of a measure and the arrow of its better direction."""
    return Cell(heading(found, name)[0] + ARROWS[found.measured(name).better])


def answer_measures(found: Evaluation) -> list[str]:
    """The main measures of answers of single raters."""
    return [name for name in found.parts["raters"] if not name.startswith(("rater_ccc_", "rater_mae_"))]


def difference_cell(found: Evaluation, name: str, one: str, other: str) -> Cell:
    """Difference of two systems and its interval; empty if they are not compared."""
    record = found[name]
    return value_cell(record["differences"].get(f"{one} - {other}"), record["unit"])


def measure_rows(
    found: Evaluation, names: Iterable[str], systems: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> list[tuple[Cell, ...]]:
    """One row per measure: title, arrow in the better direction and unit; value of each system; difference of each pair."""
    rows = []
    for name in names:
        record = found[name]
        head = Cell(record["title"] + ARROWS[record["better"]], record["unit"])
        differences = (difference_cell(found, name, *pair) for pair in pairs)
        rows.append((head, *measure_cells(found, [name], systems), *differences))
    return rows


def score_tables(found: Evaluation) -> list[Table]:
    """Measures over items, and over single answers of named raters if any was predicted."""
    rows = measure_rows(found, found.parts["items"], (MODEL, MARGINAL), [(MODEL, MARGINAL)])
    columns, best = words()["scores"]["columns"], [name for name in CEILINGS if name in found.measured("jsd").draws]
    if best:
        columns = [*columns, *map(capital, best)]
        rows = [
            (*row, *measure_cells(found, [name], best)) for name, row in zip(found.parts["items"], rows, strict=True)
        ]
    shown = [worded("scores", rows, columns=columns, baseline=found.reference.baseline)]
    if found.parts["raters"]:
        pairs = [(MODEL, MARGINAL), (MODEL, CONSENSUS)]
        rows = measure_rows(found, found.parts["raters"], (MODEL, CONSENSUS, MARGINAL), pairs)
        shown.append(worded("raters", rows, counts=found.counts))
    return shown


def class_table(found: Evaluation) -> list[Table]:
    """Shares and F1 per label; empty for scales, which have heat maps instead."""
    if found.reference.targets.questions[0].is_scale:
        return []
    rows = [
        (
            line["label"],
            *(f"{100 * line[name]:.1f} %" for name in ("votes", "predicted")),
            *(line[name] for name in ("plurality_items", "predicted_items")),
            *(number(line[name], 3) for name in ("precision", "recall", "f1")),
        )
        for line in found.classes
    ]
    return [worded("classes", rows, counts=found.counts)]


def agreement_table(found: Sequence[Agreement]) -> list[Table]:
    """How far the raters themselves agree on the evaluated items."""
    rows = []
    for one in found:
        # The pairs of raters behind Cohen's kappa, such as "27 of 28 pairs".
        of = f" of {one.rater_pairs:,}" if one.undefined_pairs else ""
        pairs = f"{one.rater_pairs - one.undefined_pairs:,}{of} {'pair' if one.rater_pairs == 1 else 'pairs'}"
        abouts = {"alpha": one.level, "cohen_kappa": pairs if one.rater_pairs else ""}
        cells = []
        for name in _AGREEMENT_COLUMNS:
            cell = value_cell(getattr(one, name).to_dict())
            cells.append(Cell(cell.main, f"{cell.small} {abouts.get(name, '')}".strip()))
        # Unequal raters are worth fewer.
        worth = "" if one.effective_raters is None else f"worth {one.effective_raters:,.0f}"
        cells += (
            Cell(f"{one.pairable_items:,}", f"of {one.items:,}"),
            one.votes,
            Cell(f"{one.annotators:,}", worth),
        )
        rows.append((one.question, *cells))
    few = [one.question for one in found if one.effective_raters is not None and one.effective_raters < FEW_RATERS]
    return [worded("agreement", rows, few=few, fewest=FEW_RATERS)] if rows else []


def bias_table(found: Mapping[str, Mapping[str, Any]] | None) -> list[Table]:
    """Correlation and slope of true and recovered biases of simulated raters, from the model and from the votes alone."""
    rows = []
    for question, one in (found or {}).items():
        simple = one["baseline"]
        cells = [value_cell(one["correlation"]), value_cell(one["slope"]), len(one["true"])]
        if simple is None:
            cells += [DASH] * 3
        else:
            cells += [value_cell(simple["correlation"]), value_cell(simple["slope"]), simple["raters"]]
        rows.append((question, *cells))
    return [worded("biases", rows)] if rows else []


def scale_table(found: Evaluation) -> list[Table]:
    """One row per scale; empty without scales."""
    rows = [
        (
            one["question"],
            *measure_cells(found, [f"{kind}_{one['question']}" for kind in FITS]),
            f"{number(100 * one['covered'], 1)} %",
            one["items"],
        )
        for one in found.scales
    ]
    return [worded("scales", rows)] if rows else []


def disagreement_table(found: Evaluation) -> list[Table]:
    """One row; empty without predicted disagreement."""
    told = found.disagreement
    if told is None:
        return []
    cells = measure_cells(found, [f"disagreement_{kind}" for kind in FITS])
    return [worded("disagreement", [(told["kind"], *cells, told["items"])])]


def strata_table(found: Evaluation) -> Table:
    """Results by entropy of the votes."""
    names = ("accuracy", "macro_f1", "macro_f1_present")
    rows = []
    for stratum in found.strata:
        cells = measure_cells(found, [f"jsd_{stratum.key}"], (MODEL, MARGINAL))
        cells += measure_cells(found, [f"{name}_{stratum.key}" for name in names])
        rows.append((_stratum_cell(stratum), int(stratum.rows.sum()), *cells))
    return worded("strata", rows, strata=found.strata, labels=len(found.support))


def _stratum_cell(stratum: Stratum) -> Cell:
    if stratum.scheme == "thirds":
        bounds = {"low": "below 1/3", "mid": "1/3 to below 2/3", "high": "2/3 to 1"}[stratum.name]
        return Cell(capital(stratum.name), bounds)
    bounds = "empty" if stratum.low is None else f"{stratum.low:.2f} to {stratum.high:.2f}"
    return Cell(f"{capital(stratum.name)} tertile", bounds)


def capital(text: str) -> str:
    """The text with a capital letter first."""
    return text[:1].upper() + text[1:]


def n_best_table(found: Evaluation) -> list[Table]:
    """Accuracy and recall of the n most probable labels."""
    rows = [
        (
            "most probable label" if n == 1 else f"{n} most probable",
            *measure_cells(found, [f"accuracy_{n}_best", f"uar_{n}_best"], (MODEL, MARGINAL)),
        )
        for n in depths(len(found.support))
    ]
    return [worded("n_best", rows)] if rows else []


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
        rows.append((Cell(capital(group.title), about), *cells))
    columns = ("Speakers", *(f"paUAR\u2011{level} {n}\u2011best" for level, n in cut))
    every = spread(found.per_speaker)["labels"]
    return [worded("speakers", rows, columns=columns, found=every, labels=len(found.support))]


def spread_table(found: Evaluation, unit: str = "speaker") -> list[Table]:
    """The best, median and worst speakers of every system, by gap closed and by JSD; empty with fewer than two speakers."""
    rows = []
    for system, scores in found.speaker_scores.items():
        told = speaker_spread(scores)
        for name in RANKED:
            one, (head, digits) = told[name], heading(found, name)
            worst = [*one["worst"], *[None] * WORST][:WORST]
            cells = (_speaker_cell(entry, digits) for entry in (one["best"], one["median"], *worst))
            shown = "Model" if system == MODEL else system
            rows.append((Cell(shown, head), Cell(f"{one['worse']:,}", f"of {told['speakers']:,}"), *cells))
    return [worded("spread", rows, unit=unit)] if rows else []


def _speaker_cell(entry: Mapping[str, Any] | None, digits: int) -> Cell:
    if entry is None:
        return Cell(DASH)
    return Cell(number(entry["value"], digits), f"({entry['speaker']}, {counted(entry['items'], 'item')})")


def subsets_table(found: Evaluation) -> list[Table]:
    """The gap that each system closes on each subset of the items; empty without subsets."""
    rows = [
        (
            capital(say(f"subsets.{one['kind']}", name=one["name"], noun="item")),
            one["items"],
            *(value_cell(one["gap_closed"][system], "%") for system in found.systems),
        )
        for one in found.subsets
    ]
    heads = ["Gap closed (%)"] if len(found.systems) == 1 else found.systems
    return [worded("subsets", rows, columns=("Part", "Items", *heads), fewest=FEWEST_ITEMS)] if rows else []


def robustness_table(found: Evaluation) -> Table:
    """How far mild conditions move predictions, and what that costs, from `measure_conditions`."""
    clean, names = (
        found.systems[0],
        ["jsd", *(["accuracy"] if not found.reference.targets.questions[0].is_scale else [])],
    )
    heads = [heading(found, name)[0] + ARROWS[found.measured(name).better] for name in ("moved", *names)]
    heads.insert(2, f"{heading(found, 'jsd')[0]} − clean")
    rows = []
    for one in found.systems:
        moved, jsd, *accuracy = measure_cells(found, ["moved", *names], [one])
        rows.append((one, moved, jsd, difference_cell(found, "jsd", one, clean), *accuracy))
    items = found.counts["n_evaluated"]
    return worded("robustness", rows, columns=("Condition", *heads), items=items)


def calibration_table(found: Evaluation) -> Table:
    """Expected calibration error."""
    names = {"ece": "Mean over labels", "ece_top": "Most probable label"}
    names |= {f"ece_of_{label}": str(label) for label in found.support}
    rows = [
        (title, *measure_cells(found, [name], (MODEL, MARGINAL)), number(found.floor[name], 3))
        for name, title in names.items()
    ]
    return worded("calibration", rows, bins=CALIBRATION_BINS)


def residual_table(found: Evaluation) -> list[Table]:
    """Which labels get the probability when raters chose the residual label."""
    if found.residual is None or f"residual_{found.residual}" not in found:
        return []
    rows = [
        (
            str(label),
            *measure_cells(found, [f"residual_{label}"], (MODEL, "votes")),
            # The marginal is the same for every item, so it has no interval.
            number(found.at(f"residual_{label}", MARGINAL)["value"], 1),
        )
        for label in found.support
    ]
    return [worded("residual", rows, label=found.residual)]


def equivalence_table(found: Evaluation) -> list[Table]:
    """The raters' curve and the model's place on it."""
    told = found.equivalence
    if told is None:
        return []
    largest = int(told.raters[-1])
    chosen = sorted({k for k in _CURVE if k <= largest} | {largest})
    rows = [(counted(k, "rater") if k else "Marginal alone", value_cell(told.curve[k])) for k in chosen]
    model = told.systems[MODEL]
    rows.append((Cell("Model", f"worth {model['worth']['text']} raters"), value_cell(model["loss"])))
    return [worded("equivalence", rows, found=told, largest=largest)]
