"""Columns of user data: by name, as Arrow arrays, as integer codes with their words, and streamed from text files."""

import contextlib
import csv
import gzip
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from annot_hf.data.questions import Question, nearest, normal_form_hint

SMALLEST_WEIGHT = 1e-100
# How far shares may miss a sum of 1: as many labels as there are, rounded to two decimals.
SHARE_SLACK = 0.005
WEIGHT_RULE = f"weights are finite and not negative: 0, or from {SMALLEST_WEIGHT:g} to {1 / SMALLEST_WEIGHT:g}"
# How many bytes of a text file are in memory at a time.
BLOCK = 1 << 23
# A packed file may unpack to so many times its size, and to so many bytes in any case.
MOST_PACKED, UNPACKED = 100, 1 << 28


def repeated_votes(
    questions: tuple[Question, ...],
    item_codes: np.ndarray,
    annotator_codes: np.ndarray,
    question_codes: np.ndarray,
    label_codes: np.ndarray,
    annotators: int,
) -> np.ndarray:
    """Which rows `(V,)` repeat an earlier vote of the same named rater; anonymous votes never do."""
    multiple = np.array([question.multiple for question in questions])
    labels = 2 + max(len(question.labels) for question in questions)
    key = item_codes.astype(np.int64) * (annotators + 1) + annotator_codes
    key = (key * len(questions) + question_codes) * labels + np.where(multiple[question_codes], label_codes + 1, 0)
    return pd.Series(key).duplicated().to_numpy() & (annotator_codes >= 0)


def check_choice(name: str, value: Any, allowed: Sequence[str], where: str = "") -> None:
    """Raise a ValueError unless `value` is one of `allowed`; `name` is that of the option, and `where` of what has it."""
    if value not in allowed:
        choices, said = " or ".join(map(repr, allowed)), f"{where}: " if where else ""
        raise ValueError(f"{said}{name} is {value!r}{nearest(value, allowed)}; use {choices}.")


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise a ValueError unless it is a whole number from `least` up."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; give a whole number from {least} up.")


def as_frame(values: Any) -> Any:
    """Arrow columns, mappings and lists of dicts as a data frame; anything else unchanged."""
    if isinstance(values, pd.DataFrame | pd.Series):
        return values
    if isinstance(values, Mapping):
        flat = all(np.ndim(value) == 0 and not isinstance(value, Mapping) for value in values.values())
        return pd.Series(values) if flat else pd.DataFrame(values)
    if hasattr(values, "__arrow_c_stream__"):
        return pa.table(values).to_pandas()
    if isinstance(values, list | tuple) and values and isinstance(values[0], Mapping | pd.Series):
        return pd.DataFrame(list(values))
    return values


def by_name(values: Any, axes: Sequence[Sequence[str] | None], what: str) -> Any:
    """Put values with named rows or columns into the order of the names `axes`; an array has no names and stays.

    An axis is None if its names do not matter; if it is a series, rows with its index fit too.
    """
    values = as_frame(values)
    if not isinstance(values, pd.DataFrame | pd.Series):
        return values
    for place, wanted in enumerate(axes[: values.ndim]):
        found = values.axes[place]
        if wanted is None or (isinstance(wanted, pd.Series) and found.equals(wanted.index)):
            continue
        names, order = pd.Index([str(name) for name in found]), pd.Index([str(name) for name in wanted])
        numbered, same = np.array_equal(found, np.arange(len(found))), set(names) == set(order)
        # Row numbers are not names.
        if names.equals(order) or (numbered and not same):
            continue
        axis = ("row", "column")[place] if values.ndim == 2 else "entry"
        twice, missing, extra = names[names.duplicated()], order.difference(names), names.difference(order)
        problem = f"the {axis} numbers are among the names, in another order" if numbered else ""
        if len(twice):
            problem = f"{axis} {twice[0]!r} occurs twice"
        elif len(missing):
            problem = f"there is no {axis} {missing[0]!r}{normal_form_hint(missing[:1], names)}"
        elif len(extra):
            problem = f"{axis} {extra[0]!r} is not expected"
        if problem:
            raise ValueError(
                f"{what}: {problem}; name each {axis} once, as in {', '.join(order[:3])}, or give an array without names."
            )
        values = values.take(names.get_indexer(order), axis=place)
    return values.to_numpy()


def check_aligned(columns: Mapping[str, Any], where: str) -> None:
    """Raise if columns, which are matched by position, are pandas series with different indexes."""
    series = {name: column.index for name, column in columns.items() if isinstance(column, pd.Series)}
    for name, index in series.items():
        first, other = next(iter(series.items()))
        if index.equals(other):
            continue
        # A default index means nothing, unless the other index has the same numbers in another order.
        fresh = any(np.array_equal(one, np.arange(len(one))) for one in (index, other))
        numbers = pd.api.types.is_integer_dtype(index) and pd.api.types.is_integer_dtype(other)
        if not (fresh and numbers) or set(index) == set(other):
            raise ValueError(
                f"{where}: the index of column {name} differs from that of {first}; take both from one frame, or give arrays."
            )


def check_vote_counts(question: Question, items: Sequence[str], counts: Any) -> np.ndarray:
    """Counts `(items, labels)` as int64; raises with the item and label of the first bad count."""
    if question.is_scale:
        raise ValueError(
            f"Question {question.name!r} is a scale; only a category question has counts, so give its ratings to "
            "from_columns."
        )
    rule = "counts are whole numbers from 0 up"
    given, counts = _label_table("Counts", question, items, counts, rule)
    if given.dtype.kind not in "biufO":
        raise ValueError(f"Counts for question {question.name!r} have type {given.dtype}; {rule}.")
    # Above 2**53, floats are no longer exact integers; this also excludes inf.
    bad = ~((counts >= 0) & (counts == np.floor(counts)) & (counts < 2**53))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"Item {list(items)[row]!r} has count {given[row, column]} for label {question.labels[column]!r}; {rule}."
        )
    return counts.astype(np.int64)


def check_vote_shares(question: Question, items: Sequence[str], shares: Any) -> np.ndarray:
    """Shares `(items, labels)` divided by their sums; raises with the item of the first row that is no distribution."""
    rule = "the shares of an item are numbers from 0 up that sum to 1"
    if not question.shares:
        raise ValueError(f"Question {question.name!r} is one of votes; declare it with shares=True, or give counts.")
    _, shares = _label_table("Shares", question, items, shares, rule)
    total = shares.sum(axis=1)
    bad = ~((shares >= 0).all(axis=1) & (abs(total - 1) <= SHARE_SLACK))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"Item {list(items)[row]!r} has shares {shares[row].tolist()}, which sum to {total[row]:g}; {rule}."
        )
    return shares / total[:, None]


def _label_table(
    kind: str, question: Question, items: Sequence[str], values: Any, rule: str
) -> tuple[np.ndarray, np.ndarray]:
    """Values `(items, labels)` in the order of both, as they were given and as float64; raises if they are no such table."""
    what, size = f"{kind} for question {question.name!r}", (len(items), len(question.labels))
    values = by_name(values, (items, question.labels), what)
    try:
        given = np.asarray(values)
        numbers = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} are not a table of numbers ({error}); {rule}.") from None
    if numbers.shape != size:
        raise ValueError(f"{what} have shape {numbers.shape}; they must be (items, labels) = {size}.")
    return given, numbers


def check_share_rows(
    question: Question,
    rows: np.ndarray,
    item_codes: np.ndarray,
    annotator_codes: np.ndarray,
    weights: np.ndarray | None,
    where: str,
) -> None:
    """Raise unless the rows `(V,)` of a question of shares have no rater, and weights that sum to 1 on each item."""
    if not rows.any():
        return
    total = np.bincount(item_codes[rows], None if weights is None else weights[rows])
    if (annotator_codes[rows] >= 0).any() or not np.isin(np.round(total, 6), (0, 1)).all():
        raise ValueError(
            f"{where}: question {question.name!r} is known as shares, which have no rater and sum to 1 on each item; build it "
            "with from_shares."
        )


def usable_weight(weights: Any) -> Any:
    """Which weights are 0, or within the range in which neither sums nor shares over- or underflow."""
    return (weights == 0) | ((weights >= SMALLEST_WEIGHT) & (weights <= 1 / SMALLEST_WEIGHT))


def check_weights(array: pa.Array | None, where: str) -> np.ndarray | None:
    """Checked weights, or None if all are 1."""
    if array is None:
        return None
    if is_text(array.type):
        raise ValueError(f"{where}: column weight is not numeric; give one number per row.")
    weights = array.to_numpy(zero_copy_only=False).astype(np.float64)
    bad = ~usable_weight(weights)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{where}: row {row} has weight {weights[row]}; {WEIGHT_RULE}.")
    return None if (weights == 1).all() else weights


def read_csv(path: str | os.PathLike) -> dict[str, pa.ChunkedArray]:
    """The columns of a long CSV of votes; all but weights stay text, and an empty field is null."""
    known = ("item", "value", "annotator", "question", "weight", "source")
    types = {name: pa.string() for name in known if name != "weight"}
    text = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
    try:
        table = pa.csv.read_csv(path, convert_options=text)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a readable CSV file ({error}); save it as UTF-8 with one header row.") from None
    names = table.column_names
    for name in names:
        if name not in known:
            hint = nearest(name, known)
            raise ValueError(f"{path}: unknown column {name!r}{hint}; the columns are {', '.join(known)}.")
        if names.count(name) > 1:
            raise ValueError(f"{path}: column {name!r} occurs twice; keep one of them.")
    for name in ("item", "value"):
        if name not in names:
            raise ValueError(f"{path}: there is no column {name!r}; the file needs at least item and value.")
    return dict(zip(names, table.columns, strict=True))


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds text, plain or dictionary-encoded."""
    return pa.types.is_string(kind) or pa.types.is_dictionary(kind)


def as_arrow(column: Any, name: str, where: str) -> pa.Array:
    """A flat Arrow array; text comes out as string or as a dictionary of strings, and only values and weights as numbers."""

    def refusal(kind: Any) -> ValueError:
        return ValueError(f"{where}: column {name} holds values of type {kind}; give text or numbers.")

    if not isinstance(column, pa.Array | pa.ChunkedArray):
        try:
            column = pa.array(column, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            # The column mixes numbers and text.
            for value in column:
                if isinstance(value, list | tuple | dict | set | np.ndarray):
                    raise refusal(type(value).__name__) from None
            column = pa.array([None if pd.isna(value) else str(value) for value in column], pa.string())
    if isinstance(column, pa.ChunkedArray):
        column = (column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column).combine_chunks()
    named = pa.types.is_dictionary(column.type)
    if named:
        words = column.dictionary
        # Duplicates must stay, because the caller reports them.
        twice = name != "item" and len(words.unique()) < len(words)
        if twice or words.null_count or not pa.types.is_string(words.type):
            column = column.dictionary_decode()
    kind = column.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    numeric |= pa.types.is_boolean(kind)
    numbers_stay = name in ("value", "weight", "rating")
    # The values of a dictionary are labels, even numbers: its codes are separate.
    if is_text(kind) or (numeric and numbers_stay and not named):
        return column
    textual = pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)
    if textual or numeric or not numbers_stay:
        with contextlib.suppress(pa.ArrowNotImplementedError):
            return column.cast(pa.string())
    raise refusal(kind)


def named_codes(table: pa.Table) -> dict[str, pa.DictionaryArray]:
    """The columns of integer codes that the schema of `datasets` names (`ClassLabel`), as text."""
    described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    found = {}
    for name in table.column_names:
        feature, column = features.get(name), table.column(name)
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and pa.types.is_integer(column.type):
            names = pa.array(feature["names"], pa.string())
            try:
                found[name] = pa.DictionaryArray.from_arrays(column.combine_chunks(), names)
            except IndexError as error:
                raise ValueError(
                    f"votes: column {name} has a code beyond its {len(names)} names ({error}); write the table again."
                ) from None
    return found


def encode_column(array: pa.Array | None, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes `(V,)` (-1 for null) and their words in order of first appearance; without an array, all are null."""
    if array is None:
        return np.full(length, -1, dtype=np.int32), np.array([], dtype=object)
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    indices = encoded.indices.fill_null(-1) if encoded.null_count else encoded.indices
    codes = indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    return codes, encoded.dictionary.to_numpy(zero_copy_only=False).astype(object, copy=False)


def blank_to_null(codes: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same codes and words without the empty string; its codes become -1."""
    blank = words == ""
    if not blank.any():
        return codes, words
    # Code -1 reads the last place.
    return compact(np.where(np.append(blank, False)[codes], -1, codes), words)


def alike(names: Sequence[str]) -> list[str]:
    """Groups of names that differ only in case, spaces, invisible characters or Unicode form, one after the other."""
    words = pc.utf8_lower(pc.utf8_normalize(pa.array([str(name) for name in names], pa.string()), "NFKC"))
    words = pc.replace_substring_regex(pc.replace_substring_regex(words, r"\p{Cf}", ""), r"[\p{Z}\p{Cc}]+", " ")
    keys = pd.Series(pc.utf8_trim_whitespace(words).to_pandas())
    return [names[row] for row in keys[keys.duplicated(keep=False)].sort_values(kind="stable").index]


def dictionary(codes: np.ndarray, words: Sequence[str]) -> pa.DictionaryArray:
    """Codes `(V,)` (-1 is null) into `words` as a dictionary column."""
    mask = codes < 0
    indices = pa.array(codes.astype(np.int32), mask=mask if mask.any() else None)
    return pa.DictionaryArray.from_arrays(indices, pa.array([str(word) for word in words], pa.string()))


def compact(codes: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and words without the words that no longer occur; the order is kept."""
    used = np.zeros(len(words) + 1, dtype=bool)
    # Code -1 marks the spare last place.
    used[codes] = True
    if used[:-1].all():
        return codes, words
    position = np.cumsum(used[:-1], dtype=np.int32) - 1
    return np.append(position, np.int32(-1))[codes].astype(np.int32), words[used[:-1]]


def csv_batches(
    path: str | os.PathLike, *headers: Sequence[str], further: bool = False
) -> Iterator[dict[str, pa.Array]]:
    """Stream a CSV file as text columns, one block at a time, with `row`, the row in the file (header: 1).

    It may be compressed (`.gz`) or tab-separated (`.tsv`); `further` reads more than the first of `headers` that it has.
    """
    suffixes = Path(path).suffixes
    separator = "\t" if ".tsv" in suffixes else ","
    try:
        opened = gzip.open if suffixes[-1:] == [".gz"] else open
        with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            found = next(csv.reader(iter(lambda: file.readline(BLOCK), ""), delimiter=separator), [])
    except (csv.Error, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path}: not a readable CSV file ({error}); save it as UTF-8 with one header row.") from None
    names = next((list(header) for header in headers if set(header) <= set(found)), None)
    if names is None:
        wanted = " or ".join(",".join(header) for header in headers)
        raise ValueError(f"{path}: the header is {','.join(found)!r:.200}; it must have the columns {wanted}.")
    names += [name for name in found if name not in names] if further else []
    if twice := [name for name in names if found.count(name) > 1]:
        raise ValueError(f"{path}: column {twice[0]!r} occurs twice; keep one of them.")
    yield from _text_batches(path, names, pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True), first=2)


def csv_frame(path: str | os.PathLike, *columns: Sequence[str], further: bool = False) -> pd.DataFrame:
    """All rows of a CSV file of `csv_batches`, for files that fit into memory; an empty field is the empty string."""
    parts = [pa.table(batch) for batch in csv_batches(path, *columns, further=further)]
    if not sum(map(len, parts)):
        raise ValueError(f"{path} has no rows; restore the upstream file.")
    return pa.concat_tables(parts).to_pandas()


def line_batches(path: str | os.PathLike) -> Iterator[dict[str, pa.Array]]:
    """Stream the lines of a UTF-8 text file as column `line`, and `row`, the number of the line from 1."""
    plain = pa.csv.ParseOptions(delimiter="\x1f", quote_char=False, ignore_empty_lines=False)
    yield from _text_batches(path, ["line"], plain, first=1, header=["line"])


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` for JSON of users: plain JSON silently keeps the last of entries of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r:.100} stands twice in one object")
    return found


def json_entries(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream name and value of each entry of a JSON object of objects; numbers become text.

    A name may come twice, which is for the caller to judge; inside an entry it is refused.
    """
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=unrepeated)

    def sign(place: int, wanted: str) -> tuple[str, int]:
        found = re.compile(rf"\s*([{wanted}])\s*").match(text, place)
        if not found:
            raise ValueError(f"{text[place : place + 40]!r} comes where {' or '.join(wanted)} must")
        return found[1], found.end()

    try:
        text = Path(path).read_text("utf-8-sig")
        follows, place = sign(0, "{")
        if text[place] == "}":
            follows, place = sign(place, "}")
        while follows != "}":
            name, place = decoder.raw_decode(text, place)
            value, place = decoder.raw_decode(text, sign(place, ":")[1])
            if not isinstance(name, str) or not isinstance(value, dict):
                raise ValueError(f"the entry {name!r:.100} is not an object")
            yield name, value
            follows, place = sign(place, ",}")
        if place < len(text):
            raise ValueError(f"there is more behind it, {text[place : place + 40]!r}")
    except (ValueError, IndexError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON object of objects ({error}); restore the upstream file.") from None


def _text_batches(
    path: str | os.PathLike, names: list[str], parse: pa.csv.ParseOptions, *, first: int, header: Sequence[str] = ()
) -> Iterator[dict[str, pa.Array]]:
    """The columns `names` as text, and the row of the file that each came from."""
    text = pa.csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.string()))
    # With one thread errors name the row, and it is as fast here.
    blocks = pa.csv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=header or None)
    packed, unpacked = Path(path).stat().st_size, 0
    try:
        for batch in pa.csv.open_csv(path, read_options=blocks, parse_options=parse, convert_options=text):
            rows = pa.array(np.arange(first, first + len(batch), dtype=np.int32))
            first += len(batch)
            unpacked += batch.nbytes
            check_unpacked(path, unpacked, packed)
            yield {"row": rows} | {name: batch.column(name) for name in names}
    except (pa.ArrowInvalid, OSError) as error:
        # OSError comes from a truncated compressed file. The message may quote a cell that holds line breaks.
        said = " ".join(str(error).split())
        raise ValueError(f"{path}: not a readable file ({said}); restore the upstream file.") from None


def check_unpacked(path: str | os.PathLike, unpacked: int, packed: int) -> None:
    """Raise for a file of `packed` bytes that holds more `unpacked` ones than a table does."""
    if unpacked > UNPACKED + MOST_PACKED * packed:
        raise ValueError(
            f"{path} unpacks to more than {MOST_PACKED} times its size, as no table does; download or export it again."
        )


def refuse_row(path: str | os.PathLike, rows: Any, what: str, values: Any, bad: Any, rule: str) -> None:
    """Raise for the first of `bad`, if there is one; `rows` are the rows in the file, and `rule` reads "must be 1 to 7"."""
    bad = np.asarray(bad)
    if bad.any():
        first = int(np.argmax(bad))
        row, value = np.asarray(rows)[first], np.asarray(values, dtype=object)[first]
        raise ValueError(f"{path}: row {row} has {what} {value!r:.200}; it {rule}, so restore the upstream file.")
