"""Write a report to files: figures in one style, Markdown, self-contained HTML, strict JSON; names are escaped.

Figures are plain matplotlib objects on the Agg canvas, without global state. Names are drawn as they are: a `$` never starts a
formula.
"""

import base64
import functools
import hashlib
import json
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import PackageLoader
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FaceFlags
from matplotlib.text import Text

from annot_hf.data.files import check_own, replace_file
from annot_hf.data.questions import printable
from annot_hf.evaluation.evaluate import Evaluation
from annot_hf.report.opening import Opening
from annot_hf.report.tables import Table, environment, say

DPI = 160
FONT = "DejaVu Sans"
STYLE = {
    "font.family": [FONT],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
    "text.usetex": False,
    "figure.facecolor": "white",
}
# A code point without a letter: a font that has it draws boxes.
_UNASSIGNED = 0x0378

# Name -> function that draws the figure.
Figures = Mapping[str, Callable[[], Figure]]


@dataclass(frozen=True)
class Section:
    """Tables and the figures that belong to them; a figure that is drawn for every question has its number in its name."""

    tables: Sequence[Table] = ()
    figures: Figures = field(default_factory=dict)
    question: str = ""


def write_pages(
    folder: Path, found: Evaluation, *, sections: Sequence[Section], data: Mapping[str, Any], **page: Any
) -> dict[str, Path]:
    """Write report.json (the evaluation, `data` and texts), report.md and .html, items.csv, plots/*.png; returns their paths.

    `page` is as `write_study` takes it; the files of an earlier report are removed first.
    """
    targets, drawn = found.reference.targets, [name for section in sections for name in section.figures]
    record = {
        "questions": [question.to_dict() for question in targets.questions],
        "support": list(targets.support),
        "target_method": targets.method,
        "evaluation": found.to_dict(),
        **data,
    }
    options = {"systems": found.systems, "tables": {"items": found.per_item}, **page}
    html = write_study(folder, "report", sections=sections, data=record, **options)
    files = {"json": html.with_suffix(".json"), "markdown": html.with_suffix(".md"), "html": html}
    return files | {name: folder / "plots" / f"{name}.png" for name in drawn} | {"csv": folder / "items.csv"}


def write_study(
    folder: Path,
    stem: str,
    *,
    title: str,
    summary: str,
    sections: Sequence[Section],
    notes: Sequence[str],
    details: Mapping[str, Any],
    data: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame] = {},
    opening: Opening | None = None,
    systems: Sequence[str] = (),
) -> Path:
    """Write a page to `stem`.html, .md and .json, its `plots`, and further tables as CSV; returns the path of the page.

    `notes` say how to read the numbers, `details` are facts on the run, and `systems` are what captions call them. Files of
    these names that are not from an earlier call raise a ValueError.
    """
    record = folder / f"{stem}.json"
    plots = [f"plots/{name}.png" for section in sections for name in section.figures]
    names = [*plots, f"{stem}.md", f"{stem}.html", *(f"{name}.csv" for name in tables)]
    check_own(folder, [*names, record.name], marker=record.name, keys=("title", "summary", "run", "plots"))
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    head = {"title": title, "summary": summary}
    if opening is not None:
        head = {"title": title, "verdict": opening.verdict, "summary": summary, "opening": opening.to_dict()}
    # First, since it says whose the others are: a call that was cut off is followed by another.
    write_json(record, head | {**data, "run": details, "plots": plots})
    shown, numbered = [], {}
    for section in sections:
        figures = []
        for name, draw in section.figures.items():
            path = save_figure(lambda draw=draw: readable(draw(), numbered), folder / "plots" / f"{name}.png", dpi=DPI)
            caption = say(f"captions.{name.rstrip('_0123456789')}", question=section.question, systems=systems)
            figures.append(shown_figure(path, f"plots/{path.name}", caption))
        shown.append({"tables": section.tables, "figures": figures})
    if numbered:
        notes = [*notes, number_key(numbered)]
        warnings.warn(notes[-1], stacklevel=2)
    page = {"title": title, "opening": opening, "summary": summary, "sections": shown, "notes": notes}
    _write_both(record, details, page)
    for name, table in tables.items():
        # No spreadsheet reads formulas from it.
        cells = table.map(csv_safe)
        cells.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    return record.with_suffix(".html")


def write_tables(
    path: Path,
    *,
    title: str,
    summary: str,
    tables: Sequence[Table],
    notes: Sequence[str],
    details: Mapping[str, Any],
    figure: tuple[str, str] | None = None,
) -> Path:
    """Write tables as Markdown, and as a self-contained HTML page beside it; returns the path of the former.

    `figure`, a PNG file beside them and its caption, follows the first table.
    """
    figures = [] if figure is None else [shown_figure(path.parent / figure[0], *figure)]
    sections = [{"tables": tables[:1], "figures": figures}, {"tables": tables[1:], "figures": []}]
    page = {"title": title, "opening": None, "summary": summary, "sections": sections, "notes": notes}
    _write_both(path, details, page)
    return path


def _write_both(path: Path, details: Mapping[str, Any], page: Mapping[str, Any]) -> None:
    """Write a page as Markdown and as HTML, named as `path` is but for the suffix."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)
        for key, value in details.items()
    }
    for suffix in (".md", ".html"):
        text = render(f"report{suffix}.j2", {**page, "details": list(texts.items())})
        path.with_suffix(suffix).write_text(text, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, Any], *, indent: int = 2) -> None:
    """Write strict JSON, in one step."""
    text = json.dumps(plain(values), indent=indent, ensure_ascii=False, allow_nan=False)
    replace_file(path, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))


def plain(value: Any) -> Any:
    """Values for strict JSON: NumPy types become Python types, and non-finite numbers become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def render(template: str, page: Mapping[str, Any]) -> str:
    """Render a template of the package; in HTML every text is escaped."""
    made = environment(
        loader=PackageLoader("annot_hf"),
        autoescape=lambda name: name is not None and ".html" in name,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["csp_hash"] = _csp_hash
    return made.get_template(template).render(page)


def _csp_hash(script: str) -> str:
    """The source expression of a content security policy that allows this script alone."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def csv_safe(cell: Any) -> Any:
    """A cell that no spreadsheet reads as a formula: an apostrophe precedes = + - @, tabs and line breaks.

    This includes signs after spaces or invisible characters and full-width forms, which importing programs strip or fold.
    """
    if not isinstance(cell, str):
        return cell
    first = next((sign for sign in cell if unicodedata.category(sign)[0] not in "CZ"), "")
    suspect = unicodedata.normalize("NFKC", first).startswith(("=", "+", "-", "@"))
    return f"'{cell}" if suspect or cell.startswith(("\t", "\r", "\n")) else cell


def shown_figure(path: Path, name: str, caption: str) -> dict[str, Any]:
    """A figure for the templates, by its name from the page, with its bytes in base64 and its width from the PNG header."""
    content = path.read_bytes()
    width = int.from_bytes(content[16:20], "big") * 96 // DPI
    encoded = base64.b64encode(content).decode("ascii")
    return {"path": name, "caption": caption, "alt": caption, "base64": encoded, "width": width}


def save_figure(draw: Callable[[], Figure], path: Path, *, dpi: int = DPI) -> Path:
    """Draw with the report's style and write a PNG without time stamps, so that equal data give equal files.

    If numbers replace names, a warning lists them; see `readable`.
    """
    numbered = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = readable(draw(), numbered)
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=dpi, metadata={"Software": None})
    if numbered:
        warnings.warn(number_key(numbered), stacklevel=2)
    return path


def readable(figure: Figure, numbered: dict[str, int]) -> Figure:
    """The figure, changed so that no letter is drawn as a box.

    Letters that the usual font lacks are drawn in another font that Matplotlib knows. If there is none, a number in brackets
    replaces the name and is added to `numbered` (name -> number).
    """
    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    texts = [*figure.findobj(Text), *(label for axis in axes for label in axis.get_ticklabels())]
    letters = {ord(letter) for text in texts for letter in text.get_text() if not letter.isspace()}
    lacking = letters - _letters(font_manager.findfont(FONT))
    if not lacking:
        return figure
    families, lacking = _families(lacking)
    for text in texts:
        text.set_fontfamily([FONT, *families])
    if lacking:
        some = f"[^\x00-\x7f]*[{''.join(re.escape(chr(letter)) for letter in sorted(lacking))}][^\x00-\x7f]*"
        names = re.compile(f"{some}(?: +{some})*")

        def name(text: str) -> str:
            return names.sub(lambda found: f"[{numbered.setdefault(found[0], len(numbered) + 1)}]", text)

        for axis in axes:
            told = [label.get_text() for label in axis.get_ticklabels()]
            if any(map(names.search, told)):
                axis.set_ticklabels([name(text) for text in told])
        for text in texts:
            text.set_text(name(text.get_text()))
    return figure


def number_key(numbered: Mapping[str, int]) -> str:
    """The meaning of the numbers of `readable`, as a sentence."""
    told = ", ".join(f"[{number}] {name}" for name, number in numbered.items())
    return f"No installed font has all letters of some names, so figures show numbers instead: {told}."


def _families(lacking: set[int]) -> tuple[list[str], set[int]]:
    """Font families that have these code points, and the code points that no font has."""
    families = []
    upright = [entry for entry in font_manager.fontManager.ttflist if entry.style == entry.stretch == "normal"]
    for entry in sorted(upright, key=lambda one: (one.weight != 400, "Sans" not in one.name, one.name)):
        found = lacking & _letters(font_manager.FontPath(entry.fname, entry.index)) if lacking else set()
        if found and entry.name not in families:
            families.append(entry.name)
            lacking = lacking - found
    return families, lacking


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """Code points of a font file; none if it draws bitmaps, or boxes for unknown letters."""
    try:
        font = font_manager.get_font(path)
        found = frozenset(font.get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
    scalable = FaceFlags.SCALABLE in font.face_flags and FaceFlags.COLOR not in font.face_flags
    return found if scalable and _UNASSIGNED not in found else frozenset()
