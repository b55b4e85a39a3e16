"""Write a report to files: figures, Markdown, self-contained HTML, strict JSON; names are escaped."""

import base64
import json
import os
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from annot_hf.data.corpus import check_own, replace_file
from annot_hf.data.questions import printable
from annot_hf.report.style import number_key, readable, save_figure
from annot_hf.report.tables import Table, markdown_safe

DPI = 160

# Name -> function that draws the figure, and caption.
Figures = Mapping[str, tuple[Callable[[], Figure], str]]


@dataclass(frozen=True)
class Section:
    """Tables and their figures."""

    tables: Sequence[Table] = ()
    figures: Figures = field(default_factory=dict)


def write_pages(
    folder: str | os.PathLike[str],
    *,
    title: str,
    summary: str,
    sections: Sequence[Section],
    notes: Sequence[str],
    details: Mapping[str, Any],
    data: Mapping[str, Any],
    per_item: pd.DataFrame,
) -> dict[str, Path]:
    """Write report.json, report.md, report.html, items.csv and plots/*.png; those of an earlier report are removed first.

    Args:
        folder: Folder to write; created if necessary.
        title: Heading.
        summary: Paragraph on top.
        sections: Tables and figures, in order.
        notes: How to read the numbers, one or two sentences each.
        details: Facts on the run, for the last table.
        data: Contents of report.json, besides title, summary, details and the list of plots.
        per_item: Contents of items.csv.

    Returns:
        Paths by name: json, markdown, html, csv and every figure.

    Raises:
        ValueError: The folder holds files with these names that are not from an earlier report.
    """
    folder = Path(folder)
    plots = [f"plots/{name}.png" for section in sections for name in section.figures]
    names = [*plots, "report.md", "report.html", "items.csv"]
    check_own(folder, [*names, "report.json"], marker="report.json", keys=("title", "summary", "run", "plots"))
    folder.mkdir(parents=True, exist_ok=True)
    told = {"title": title, "summary": summary, **data, "run": details, "plots": plots}
    for name in names:
        (folder / name).unlink(missing_ok=True)
    # First, since it says whose the others are: a call that was cut off is followed by another.
    write_json(folder / "report.json", told)
    files = {"json": folder / "report.json", "markdown": folder / "report.md", "html": folder / "report.html"}
    drawn, numbered = [], {}
    for section in sections:
        drawn.append([])
        for name, (draw, caption) in section.figures.items():
            files[name] = save_figure(
                lambda draw=draw: readable(draw(), numbered), folder / "plots" / f"{name}.png", dpi=DPI
            )
            drawn[-1].append(_inline(files[name], caption))
    if numbered:
        notes = [*notes, number_key(numbered)]
        warnings.warn(notes[-1], stacklevel=2)
    page = {
        "title": title,
        "summary": summary,
        "sections": [
            {"tables": section.tables, "figures": figures} for section, figures in zip(sections, drawn, strict=True)
        ],
        "notes": notes,
        "details": _texts(details),
    }
    for kind, template in (("markdown", "report.md.j2"), ("html", "report.html.j2")):
        files[kind].write_text(render(template, page), encoding="utf-8")
    files["csv"] = folder / "items.csv"
    per_item.map(csv_safe).to_csv(files["csv"], index=False, float_format="%.6g", lineterminator="\n")
    return files


def write_json(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write strict JSON, in one step."""
    text = json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False)
    replace_file(Path(path), lambda partial: partial.write_text(text + "\n", encoding="utf-8"))


def write_markdown(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: str,
    tables: Sequence[Table],
    notes: Sequence[str],
    details: Mapping[str, Any],
    figure: tuple[str, str] | None = None,
) -> Path:
    """Write tables as one page of Markdown.

    Args:
        path: The file.
        title: Heading.
        summary: Paragraph on top.
        tables: The tables, in order.
        notes: How to read the numbers, one or two sentences each.
        details: Facts for the last table.
        figure: Name of a figure in the same folder, and its caption; it follows the first table.

    Returns:
        The path.
    """
    path = Path(path)
    figures = [] if figure is None else [{"path": figure[0], "alt": figure[1], "caption": figure[1]}]
    page = {
        "title": title,
        "summary": summary,
        "sections": [{"tables": tables[:1], "figures": figures}, {"tables": tables[1:], "figures": []}],
        "notes": notes,
        "details": _texts(details),
    }
    path.write_text(render("report.md.j2", page), encoding="utf-8")
    return path


def _texts(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (key, value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False))
        for key, value in details.items()
    ]


def render(template: str, page: Mapping[str, Any]) -> str:
    """Render a template of the package; in HTML every text is escaped."""
    environment = Environment(
        loader=PackageLoader("annot_hf"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = markdown_safe
    environment.filters["md_row"] = lambda cells: f"| {' | '.join(map(markdown_safe, cells))} |"
    return environment.get_template(template).render(page)


def csv_safe(cell: Any) -> Any:
    """A cell that no spreadsheet reads as a formula: an apostrophe precedes = + - @, tabs and line breaks.

    This includes signs after spaces or invisible characters and full-width forms, which importing programs strip or fold.
    """
    if not isinstance(cell, str):
        return cell
    first = next((sign for sign in cell if unicodedata.category(sign)[0] not in "CZ"), "")
    suspect = unicodedata.normalize("NFKC", first).startswith(("=", "+", "-", "@"))
    return f"'{cell}" if suspect or cell.startswith(("\t", "\r", "\n")) else cell


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


def _inline(path: Path, caption: str) -> dict[str, Any]:
    """A figure for the templates, with its bytes in base64 and its width in CSS pixels from the PNG header."""
    content = path.read_bytes()
    width = int.from_bytes(content[16:20], "big") * 96 // DPI
    encoded = base64.b64encode(content).decode("ascii")
    return {"path": f"plots/{path.name}", "caption": caption, "alt": caption, "base64": encoded, "width": width}
