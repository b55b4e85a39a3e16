"""What commands share: arguments and options, and what they print: a table, the path of the result, errors without secrets."""

import os
import re
import shutil
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from typer import Argument, Option

from annot_hf.data.questions import SECRET, printable

if TYPE_CHECKING:
    from annot_hf.report.tables import Table as ReportTable
    from annot_hf.training.keys import RecipeKey

# --learning_rate=1e-3 is an override like learning_rate=1e-3.
WORDS = {"ignore_unknown_options": True}
RecipeName = Annotated[str, Argument(help="Recipe file, or the name of one that comes with the package.")]
Overrides = Annotated[list[str] | None, Argument(help="Overrides such as learning_rate=1e-3.")]
Out = Annotated[Path, Option("--out", help="Folder to write.")]
CorpusFolder = Annotated[Path, Option("--corpus", help="Folder or Hub id of an exported corpus.")]
Revision = Annotated[str | None, Option(help="Branch, tag or commit, for a model that is named by its Hub id.")]
OneSplit = Annotated[str, Option(help="Which split.")]
Splits = Annotated[list[str] | None, Option(help="Split to use; may be given several times; all by default.")]
Without = Annotated[list[str] | None, Option(help="System of the plan to leave out; may be given several times.")]
SpeakerResamples = Annotated[int, Option(help="Bootstrap resamples of speakers.")]
RobustClips = Annotated[
    int, Option(min=0, help="Clips, evenly spaced over speakers, that are also predicted altered; 0 for none.")
]
MaxSeconds = Annotated[float, Option(help="Longest clip (s).")]


# The name of an environment variable that holds a secret.
_SECRET_VARIABLE = re.compile("(?:KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)

# A pipe has no width, and 80 columns would cut names.
console = Console(width=None if sys.stdout.isatty() else 120)


def print_table(table: "ReportTable") -> None:
    """Print a table of a report with its note."""
    columns = (Column(_text(name)) for name in table.columns)
    shown = Table(*columns, title=_text(table.title), title_justify="left")
    shown.columns[0].overflow = "fold"
    for row in table.rows:
        shown.add_row(*(_text(cell.text) for cell in row))
    console.print(shown)
    print_text(table.note)


def print_text(text: str) -> None:
    """A remark beside a table."""
    console.print(_text(text))


def print_line(line: str) -> None:
    """Print a line as it is, without wrapping."""
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def print_key(name: str, key: "RecipeKey", value: Any, indent: str = "") -> None:
    """Print a key of a recipe, its type and value, and its meaning below, wrapped to the terminal or to 80 columns."""
    default = "" if value == key.default else f" (default {key.default!r})"
    width, below = min(shutil.get_terminal_size().columns, 100), indent + "    "
    for text, first in ((f"{name}: {key.kind_name} = {value!r}{default}", indent), (key.meaning, below)):
        options = {"initial_indent": first, "subsequent_indent": below, "break_long_words": False}
        print_line(textwrap.fill(" ".join(text.split()), width, break_on_hyphens=False, **options))


def print_path(path: Path) -> None:
    """Print the path of the result, as the last line."""
    print_line(str(path.resolve()))


def print_rows(title: str, rows: Iterable[tuple[str, ...]], columns: Sequence[str] = ("what", "how many", "")) -> None:
    """Print the table of a command: what, how many, and a remark."""
    table = Table(*columns, title=_text(title), title_justify="left")
    table.columns[1].justify = "right"
    for row in rows:
        table.add_row(*map(_text, row))
    console.print(table)


def print_error(message: str) -> None:
    """Print an error as one line, without terminal control characters."""
    said = " ".join(printable(_without_secrets(message)).split())
    Console(stderr=True).print(Text.assemble(("Error", "bold red"), f": {said}"), soft_wrap=True)


def keep_traceback() -> str:
    """Write the traceback of the current error to a file; returns a phrase with its path."""
    text = _without_secrets(traceback.format_exc())
    try:
        handle, name = tempfile.mkstemp(prefix="annot-hf-", suffix=".log")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        sys.stderr.write(text)
        return f"the traceback is above, because no file could be written ({error})"
    return f"the traceback is in {name}"


def _text(text: str) -> Text:
    """Text as it is, without what could command a terminal: names come from corpora of other people."""
    return Text("\n".join(map(printable, text.split("\n"))))


def _without_secrets(text: str) -> str:
    """A text without keys and tokens, from the environment or in addresses."""
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= 6:
            text = text.replace(value, f"<{name}>")
    return SECRET.sub("<secret>", text)
