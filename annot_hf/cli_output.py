"""What commands print: one table, and where to look."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from annot_hf.evaluation.tables import Table as ReportTable

console = Console(width=None if sys.stdout.isatty() else 120)  # a pipe has no width; 80 would cut names


def print_table(table: "ReportTable") -> None:
    """A table of the evaluation with its note."""
    shown = Table(*(Column(Text(name)) for name in table.columns), title=Text(table.title), title_justify="left")
    shown.columns[0].overflow = "fold"
    for row in table.rows:
        shown.add_row(*(Text(cell.text) for cell in row))
    console.print(shown)
    console.print(table.note, highlight=False, markup=False)


def print_path(path: Path) -> None:
    """The last line of a command that writes: where to look, on one line however long."""
    console.print(str(path.resolve()), soft_wrap=True, highlight=False, markup=False)


def print_rows(title: str, rows: Iterable[tuple[str, str, str]]) -> None:
    """What, how many, and a remark: the one table of a command."""
    table = Table("what", "how many", "", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
