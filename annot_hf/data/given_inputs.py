"""Clips or texts as they are named on a command line: files, folders, patterns, lists, columns of tables, exported corpora."""

import glob
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from annot_hf.data.ballots import SOUNDS, find_role, pick_column
from annot_hf.data.export import EXPORT_FILE, read_export
from annot_hf.data.files import read_text
from annot_hf.data.records import READABLE, cell_text, record_files

logger = logging.getLogger(__name__)


def find_inputs(given: Sequence[str], *, texts: bool, column: str = "") -> tuple[list[str], list[Any], list[int]]:
    """Names and sources of everything that is given; what is given twice has one of each, and as many rows as it was given.

    A clip is named by its path below the folder that was given, or by its file name: models draw noise by item, so a name
    must not depend on where a folder lies.

    Args:
        given: Sound files, folders of sound files, patterns such as `clips/*.wav`, text files with a text or a path a line,
            tables (CSV, TSV, Excel, parquet, JSON Lines), or folders of exported corpora.
        texts: Whether texts are wanted, and not clips.
        column: Column of the texts or paths in tables; found by its name by default.

    Returns:
        Unique names, their sources, and of every clip, text or row of a table that was given, in order, which of these it
        is. A warning counts the rows of a table or corpus that hold nothing.

    Raises:
        ValueError: Nothing is there, or it holds what is not wanted; or there is a column and no table.
    """
    found: dict[str, Any] = {}
    rows, tables = [], 0
    for word in given:
        if not word.strip():
            raise ValueError(f"A path is {word!r}; name a file, folder or pattern, or . for the folder you are in.")
        paths = [Path(word)]
        if not paths[0].exists():
            paths = [Path(one) for one in sorted(glob.glob(word, recursive=True))]
        if not paths:
            raise ValueError(f"There is no file, folder or pattern {word!r} with any file; correct the path.")
        tables += sum(_is_table(path) for path in paths)
        for path in paths:
            for name, source in _inputs_of(path, texts, column):
                # Two folders may have files of one name, and two tables rows of one name.
                if isinstance(source, Path) and found.get(name, source) != source:
                    name = str(source)
                while found.get(name, source) != source:
                    name = f"{path}:{name}"
                found[name] = source
                rows.append(name)
    if column and not tables:
        raise ValueError(f"--column is {column!r}, and {' '.join(given)} is no table; leave it out, or name a table.")
    if not found:
        what = "text" if texts else f"file that ends in {', '.join(SOUNDS)}"
        raise ValueError(f"{' '.join(map(str, given))} holds no {what}; name files, folders or tables that do.")
    places = {name: place for place, name in enumerate(found)}
    return list(found), list(found.values()), [places[name] for name in rows]


def _is_table(path: Path) -> bool:
    named = path.suffix.lower() in READABLE or path.name.lower().endswith(".gz")
    return named and path.suffix.lower() != ".txt" and not path.is_dir()


def _rows_with(what: str, path: Path, rows: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The rows of a table that hold something; a warning counts the others."""
    kept = [(name, value) for name, value in rows if value not in (None, "")]
    if len(kept) < len(rows):
        logger.warning("%s: %d of %d rows have no %s and are left out.", path, len(rows) - len(kept), len(rows), what)
    return kept


def _inputs_of(path: Path, texts: bool, column: str) -> list[tuple[str, Any]]:
    """Names and sources of one path."""
    wanted, other = ("text", "audio") if texts else ("audio", "text")
    if (path / EXPORT_FILE).is_file():
        items = read_export(path).items
        if wanted not in items:
            raise ValueError(
                f"{path} is a corpus of {other} and the model reads {wanted}; name another corpus or model."
            )
        return _rows_with(wanted, path, list(zip(items["item"], items[wanted], strict=True)))
    if path.is_dir():
        files = [one for one in sorted(path.rglob("*")) if one.suffix.lower() in SOUNDS and one.is_file()]
        return [] if texts else [(one.relative_to(path).as_posix(), one) for one in files]
    if path.suffix.lower() in SOUNDS:
        if texts:
            raise ValueError(f"{path} is a clip and the model reads texts; name a text file or a table of texts.")
        return [(path.name, path)]
    if path.suffix.lower() == ".txt":
        lines = read_text(path).splitlines()
        rows = [(f"{path}:{number}", line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    elif _is_table(path):
        rows = _column_of(path, wanted, column)
    else:
        raise ValueError(
            f"{path} is none of: sound file ({', '.join(SOUNDS)}), folder, table, exported corpus; convert it."
        )
    return rows if texts else [(one, path.parent / one) for _, one in rows]


def _column_of(path: Path, wanted: str, column: str) -> list[tuple[str, str]]:
    """The values of a table's column, named by the line, or by the item where that is unique."""
    ((file,), _) = record_files(path)
    records = list(file.rows)
    names = file.header or list(dict.fromkeys(name for _, record in records for name in record))
    chosen = pick_column(column, names, str(path)) if column else find_role(wanted, names)
    if chosen is None and wanted == "audio":
        chosen = find_role("item", names)
    if chosen is None:
        raise ValueError(
            f"{path}: no column is known as the {wanted}; name it as --column. There are {', '.join(names[:20])}."
        )
    values = [(line, cell_text(record.get(chosen)).strip()) for line, record in records]
    item = find_role("item", names, taken=[chosen])
    said = [cell_text(record.get(item)) for _, record in records] if item else []
    named = len(set(said)) == len(said) > 0 and all(said)
    names = said if named else [f"{path}:{line}" for line, _ in values]
    return _rows_with(wanted, path, [(name, value) for name, (_, value) in zip(names, values, strict=True)])
