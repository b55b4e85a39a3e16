"""Read the files of an export record by record: CSV, TSV, Excel, parquet, JSON and JSON Lines, in a folder, a zip or alone.

JSON is parsed as it is read, so that a list of a few hundred megabytes is never in memory as a whole.
"""

import codecs
import csv
import gzip
import io
import json
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from annot_hf.data.encoding import check_unpacked, unrepeated

TEXT_TABLES, JSON_FILES = (".csv", ".tsv", ".txt"), (".json", ".jsonl", ".ndjson")
READABLE = (*TEXT_TABLES, ".xlsx", ".parquet", *JSON_FILES)
SEPARATORS = ",;\t|"
# What reading a damaged file raises: cut off, or with other bytes than its checksum says.
BROKEN = (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
# How many bytes are read at a time.
CHUNK = 1 << 20
# By the first bytes of a file; the longest first, because that of UTF-32 begins as that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass
class RecordFile:
    """One file of an export, read once.

    Attributes:
        name: Path for messages; below the folder or zip that was given, if there is one.
        owner: Whose answers it holds, if only its place says so: its folder, or else its own name without the suffix.
        nested: Whether it lies in a folder below the one that was given.
        rows: Numbers (of the line, or of the row of a sheet) and records; the keys of a table's records are its header.
        header: Column names of a table, in order; None for JSON.
        notes: What was repaired while reading: counts by reason, filled while `rows` is consumed.
        encoding: Encoding of a text file.
    """

    name: str
    owner: str
    nested: bool
    rows: Iterator[tuple[int, dict[str, Any]]]
    header: list[str] | None = None
    notes: Counter = field(default_factory=Counter)
    encoding: str = "utf-8"


def record_files(path: Path) -> tuple[list[RecordFile], list[str]]:
    """The files to read at `path`, which is a file, a folder or a zip, and the names of those that no reader knows.

    Raises:
        ValueError: There is nothing to read there, or the file is not what its name says.
    """
    if not path.exists():
        raise ValueError(f"There is no file or folder {path}; name the table or export that holds the votes.")
    suffix = _suffix(path.name)
    if path.is_file() and suffix != ".zip":
        if suffix not in READABLE:
            raise ValueError(
                f"{path} ends in {suffix or 'nothing'}; give a file that ends in {', '.join(READABLE)}, or a zip."
            )
        return [_open_file(path.name, str(path), "", False, lambda: path.open("rb"), path.stat().st_size)], []
    if path.is_dir():
        inside = {found.relative_to(path).as_posix(): found for found in sorted(path.rglob("*")) if found.is_file()}
        openers = {name: lambda found=found: found.open("rb") for name, found in inside.items()}
        sizes = {name: found.stat().st_size for name, found in inside.items()}
    else:
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is not a zip file ({error}); export it again.") from None
        inside = {one.filename: one for one in archive.infolist() if not one.is_dir()}
        if any(one.flag_bits & 1 for one in inside.values()):
            raise ValueError(f"{path} is protected by a password; unpack it and give the folder.")
        # No more is read of a file than is stated here.
        check_unpacked(path, sum(one.file_size for one in inside.values()), path.stat().st_size)
        openers = {name: lambda one=one: archive.open(one) for name, one in inside.items()}
        sizes = {name: one.file_size for name, one in inside.items()}
    shown = [name for name in openers if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    # Tools write notes as .txt, such as potato the order of the items.
    wanted = [name for name in shown if _suffix(name) in READABLE and not name.lower().endswith(".txt")]
    if not wanted:
        raise ValueError(f"{path} holds no file that ends in {', '.join(READABLE)}; give the folder of the export.")
    files = []
    for name in wanted:
        *above, last = name.split("/")
        owner = above[-1] if above else re.sub(r"(?i)\.gz$", "", last)[: -len(_suffix(last))]
        files.append(_open_file(last, f"{path}/{name}", owner, bool(above), openers[name], sizes[name]))
    return files, [name for name in shown if name not in wanted]


def _suffix(name: str) -> str:
    """The suffix that says what a file is, in lower case."""
    return Path(name.lower().removesuffix(".gz")).suffix


def _open_file(last: str, name: str, owner: str, nested: bool, opener: Any, size: int) -> RecordFile:
    """The file called `name` in messages, of so many bytes."""
    found = RecordFile(name, owner, nested, iter(()))
    suffix = _suffix(last)
    try:
        stream = opener()
        if last.lower().endswith(".gz"):
            stream = gzip.GzipFile(fileobj=stream)
        if suffix == ".parquet":
            _open_parquet(found, stream)
        elif suffix == ".xlsx":
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as sheets:
                    check_unpacked(name, sum(one.file_size for one in sheets.infolist()), size)
            stream.seek(0)
            _open_excel(found, stream)
        else:
            found.encoding = _encoding(name, stream, size)
            text = io.TextIOWrapper(stream, encoding=found.encoding, newline="")
            if suffix in JSON_FILES:
                found.rows = _json_rows(name, text)
            else:
                _open_table(found, text, tabs=suffix == ".tsv")
    except BROKEN as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{name} cannot be read ({said}); export it again.") from None
    return found


def _encoding(name: str, stream: BinaryIO, size: int) -> str:
    """UTF-8, UTF-16 or UTF-32 by their marks; what is not UTF-8 is Windows-1252, which spreadsheets write."""
    head = stream.read(4)
    marked = [encoding for mark, encoding in MARKS if head.startswith(mark)][:1]
    tried = {one: codecs.getincrementaldecoder(one)() for one in marked or ("utf-8", "cp1252")}
    line, unpacked = 1, 0
    stream.seek(0)
    while tried:
        chunk = stream.read(CHUNK)
        unpacked += len(chunk)
        check_unpacked(name, unpacked, size)
        if b"\0" in chunk and not marked:
            where = line + chunk[: chunk.index(b"\0")].count(b"\n")
            raise ValueError(f"{name}: line {where} has a zero byte; save the file as UTF-8 text.")
        for encoding in list(tried):
            try:
                tried[encoding].decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                where = line + error.object[: error.start].count(b"\n")
                del tried[encoding]
        line += chunk.count(b"\n")
        if not chunk:
            break
    if not tried:
        what = marked[0].removesuffix("-sig").upper() + ", as its mark says" if marked else "UTF-8 or Windows-1252"
        raise ValueError(f"{name}: line {where} is not {what}; save the file as UTF-8.")
    stream.seek(0)
    return next(iter(tried))


def _header(name: str, cells: list[str]) -> list[str]:
    """Column names; one without a name is called by its number."""
    names = [cell.strip() or f"column {place}" for place, cell in enumerate(cells, start=1)]
    if twice := [one for one in names if names.count(one) > 1]:
        raise ValueError(f"{name}: two columns are called {twice[0]!r}; give each column its own name.")
    return names


def _open_table(found: RecordFile, text: io.TextIOBase, *, tabs: bool) -> None:
    """A separated table; the separator is the one that gives the header the most columns."""
    first = text.readline()
    while first and not first.strip():
        first = text.readline()
    if not first:
        raise ValueError(f"{found.name} is empty; export it again.")
    widths = {separator: len(next(csv.reader([first], delimiter=separator), [])) for separator in SEPARATORS}
    separator = "\t" if tabs and widths["\t"] > 1 else max(widths, key=widths.get)
    if widths[separator] < 2:
        raise ValueError(
            f"{found.name}: the first row has one column, {first.strip()!r:.80}; it must name the columns, separated by "
            "commas, semicolons or tabs."
        )

    def lines() -> Iterator[str]:
        yield first
        yield from text

    reader = csv.reader(lines(), delimiter=separator, strict=True)

    def cells() -> Iterator[tuple[int, list[str]]]:
        line = 1
        try:
            for row in reader:
                yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            what = (
                "a quotation mark is not closed" if "end of data" in str(error) or "limit" in str(error) else str(error)
            )
            raise ValueError(
                f"{found.name}: the row from line {line} is not readable ({what}); correct its quotes."
            ) from None
        except BROKEN as error:
            raise ValueError(f"{found.name} breaks off after line {line} ({error}); copy or export it again.") from None

    rows = cells()
    found.header = _header(found.name, next(rows)[1])
    found.rows = _filled(found, rows)


def _filled(found: RecordFile, rows: Iterator[tuple[int, list[Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of rows of cells: short rows are filled, blank ones skipped, and longer ones refused."""
    names, width = found.header, len(found.header)
    for line, cells in rows:
        if not any(cells):
            continue
        if len(cells) != width:
            if any(cells[width:]):
                raise ValueError(
                    f"{found.name}: line {line} has {len(cells)} cells and the header {width}; quote cells with separators."
                )
            found.notes["rows shorter than the header, which count as blank at the end"] += len(cells) < width
            cells = [*cells, *[""] * (width - len(cells))][:width]
        yield line, dict(zip(names, cells, strict=True))


def _open_excel(found: RecordFile, stream: BinaryIO) -> None:
    """The first sheet of an Excel file that has any cell; further ones are noted."""
    from openpyxl import load_workbook

    filled = []
    try:
        for sheet in load_workbook(stream, read_only=True, data_only=True).worksheets:
            rows = enumerate(sheet.iter_rows(values_only=True), start=1)
            cells = [(number, list(row)) for number, row in rows if any(cell is not None for cell in row)]
            if cells:
                filled.append(cells)
    # Of many kinds: the file is a zip of XML.
    except Exception as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{found.name} is not a readable Excel file ({said}); save it as .xlsx or CSV.") from None
    if not filled:
        raise ValueError(f"{found.name} is empty; export it again.")
    (_, head), *rows = filled[0]
    while head[-1] is None:
        head.pop()
    found.header = _header(found.name, [cell_text(cell) for cell in head])
    further = sum(len(cells) - 1 for cells in filled[1:])
    found.notes["rows of further sheets, which are not read"] += further
    found.rows = _filled(found, iter(rows))


def _open_parquet(found: RecordFile, stream: BinaryIO) -> None:
    """A parquet file, some thousand rows at a time."""
    try:
        table = pq.ParquetFile(stream)
        found.header = _header(found.name, table.schema_arrow.names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{found.name} is not a readable parquet file ({said}); export it again.") from None

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        try:
            for batch in table.iter_batches(batch_size=8192):
                for record in batch.rename_columns(found.header).to_pylist():
                    number += 1
                    yield number, record
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            said = " ".join(str(error).split())
            raise ValueError(f"{found.name} is damaged after row {number} ({said}); export it again.") from None

    found.rows = rows()


def _json_rows(name: str, text: io.TextIOBase) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a JSON list, or of JSON objects one after the other, each with the line on which it begins."""
    for line, value in _json_values(name, text):
        if not isinstance(value, dict):
            raise ValueError(
                f"{name}: line {line} holds {value!r:.60}, which is no record; export the votes as JSON objects."
            )
        yield line, value


def _json_values(name: str, text: io.TextIOBase) -> Iterator[tuple[int, Any]]:
    """The values of a list or a sequence of JSON values; no more than one value and a chunk are in memory."""
    decoder, buffer, line = json.JSONDecoder(object_pairs_hook=unrepeated), "", 1
    listed, place, ended, count, between = None, 0, False, 0, " \t\r\n"

    def refuse(what: str, at: int) -> ValueError:
        where = line + buffer.count("\n", place, at)
        return ValueError(f"{name}: line {where} is not JSON ({what}); export it again.")

    while True:
        while place < len(buffer) and buffer[place] in between:
            line += buffer[place] == "\n"
            place += 1
        if place < len(buffer) and listed is None:
            listed = buffer[place] == "["
            if listed:
                place, between = place + 1, " \t\r\n,"
                continue
        if listed and place < len(buffer) and buffer[place] == "]":
            rest = buffer[place + 1 :] + text.read()
            if rest.strip():
                raise refuse(f"there is more after the list, {rest.strip()[:20]!r}", place)
            return
        if place < len(buffer):
            try:
                value, after = decoder.raw_decode(buffer, place)
            except json.JSONDecodeError as error:
                # A value that the buffer cuts off fails at its end, or is a string that does not end in it.
                cut = error.pos >= len(buffer) - 12 or error.msg.startswith("Unterminated string")
                if ended or not cut:
                    raise refuse(error.msg, error.pos) from None
            except ValueError as error:
                raise refuse(str(error), place) from None
            except RecursionError:
                raise refuse("it is nested too deeply", place) from None
            else:
                # A number that ends where the buffer does may go on.
                if after < len(buffer) or ended or isinstance(value, dict | list | str):
                    count += 1
                    yield line, value
                    line += buffer.count("\n", place, after)
                    place = after
                    continue
        if ended:
            if listed:
                raise refuse("the list breaks off", len(buffer))
            if not count:
                raise ValueError(f"{name} is empty; export it again.")
            return
        try:
            # Longer and longer reads, so that a long value is not parsed over and over.
            more = text.read(max(CHUNK, len(buffer) - place))
        except BROKEN as error:
            raise ValueError(f"{name} breaks off after line {line} ({error}); copy or export it again.") from None
        ended = not more
        buffer, place = buffer[place:] + more, 0


def cell_text(value: Any) -> str:
    """A cell of a sheet, a parquet file or JSON as the text that a CSV would hold; lists and mappings as JSON."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    # A row of an Audio column of `datasets`.
    if isinstance(value, dict) and isinstance(value.get("path"), str) and "bytes" in value:
        return value["path"]
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
