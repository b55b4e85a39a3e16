"""`VoteTable`: who said what about which item, one row a vote, columns of integer codes.

Strings are dictionary-encoded once on the way in (Arrow does it), so that a histogram of millions of votes is a single
`bincount`. Anonymous votes are rows without an annotator; tabulated counts become such rows, exactly as many.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from annot_hf.data.questions import Question, find_question, nearest

ANONYMOUS = -1
NO_LABEL = -1


@dataclass(frozen=True, eq=False)
class VoteTable:
    """Votes of raters on items, immutable; build one with `from_columns`, `from_counts`, `from_csv` or `from_arrow`.

    Attributes:
        questions: What was asked.
        items: Item names `(N,)` in order of first appearance.
        annotators: Rater names `(A,)`.
        sources: Names of where votes come from `(S,)`.
        item_codes: Index into `items` `(V,)`.
        annotator_codes: Index into `annotators` `(V,)`; -1 is an anonymous vote.
        question_codes: Index into `questions` `(V,)`.
        label_codes: Index into the question's labels `(V,)`; -1 for a scale vote, or for "none of them".
        ratings: Value on the question's own scale `(V,)`; NaN for a category vote.
        weights: Non-negative weight `(V,)`, or None when every vote counts once.
        source_codes: Index into `sources` `(V,)`; -1 is unstated.
        exclusions: Rows left out because the caller asked for it, by reason.
    """

    questions: tuple[Question, ...]
    items: np.ndarray
    annotators: np.ndarray
    sources: np.ndarray
    item_codes: np.ndarray
    annotator_codes: np.ndarray
    question_codes: np.ndarray
    label_codes: np.ndarray
    ratings: np.ndarray
    weights: np.ndarray | None
    source_codes: np.ndarray
    exclusions: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.item_codes)

    def __repr__(self) -> str:
        names = ", ".join(question.name for question in self.questions)
        return f"VoteTable({len(self)} votes, {len(self.items)} items, {len(self.annotators)} annotators: {names})"

    def question(self, name: str) -> Question:
        """The question called `name`."""
        return find_question(self.questions, name)

    @classmethod
    def from_columns(
        cls,
        questions: Question | Sequence[Question],
        *,
        item: Any,
        value: Any,
        question: Any = None,
        annotator: Any = None,
        weight: Any = None,
        source: Any = None,
        duplicates: Literal["error", "first", "keep"] = "error",
        unknown: Literal["error", "drop"] = "error",
        where: str = "votes",
    ) -> "VoteTable":
        """Validate columns of equal length and encode them.

        Args:
            questions: The question, or all questions that may occur.
            item: Item name of each vote.
            value: The label, or the number on the scale.
            question: Question name of each vote, or one name for all; may be left out when there is one question.
            annotator: Rater name of each vote; null where the rater is unknown.
            weight: Non-negative weight of each vote.
            source: Where each vote comes from, or one name for all.
            duplicates: What to do with a second vote of one annotator on the same item and question: raise, keep the
                first (counted in `exclusions`), or keep both.
            unknown: What to do with a label outside the set or a rating outside the scale: raise or drop and count.
            where: How error messages call this table, for instance the file name.

        Raises:
            ValueError: A row breaks a rule; the message names the row (counted from 0), the value and the fix.
        """
        columns = {"item": item, "value": value, "annotator": annotator, "weight": weight}
        columns |= {"question": question, "source": source}
        arrays = {name: _as_arrow(column, name, where) for name, column in columns.items() if _is_column(column)}
        if isinstance(questions, Question):
            questions = (questions,)
        length = len(arrays["item"]) if "item" in arrays else 0
        for name, array in arrays.items():
            if len(array) != length:
                raise ValueError(f"{where}: column {name} has {len(array)} rows and item has {length}; make them equal.")
        if question is None and len(questions) > 1:
            raise ValueError(f"{where}: {len(questions)} questions but no question column; name the question per row.")
        for name, one in (("question", question if question is not None else questions[0].name), ("source", source)):
            if name not in arrays and one is not None:
                arrays[name] = pa.DictionaryArray.from_arrays(pa.array(np.zeros(length, np.int32)), pa.array([one]))
        values = arrays["value"]
        is_text = pa.types.is_string(values.type) or pa.types.is_dictionary(values.type)
        text = values if is_text else None
        numbers = None if is_text else values
        return _build(tuple(questions), arrays, text, numbers, duplicates=duplicates, unknown=unknown, where=where)

    @classmethod
    def from_counts(
        cls, question: Question, items: Sequence[str], counts: Any, *, source: str | None = None
    ) -> "VoteTable":
        """Anonymous votes from a table of counts `(items, labels)`, expanded to one row a vote.

        Raises:
            ValueError: The shape does not fit, or a count is negative or not whole.
        """
        counts = np.asarray(counts)
        if counts.shape != (len(items), len(question.labels)):
            raise ValueError(
                f"Counts for question {question.name!r} have shape {counts.shape}; "
                f"they must be (items, labels) = ({len(items)}, {len(question.labels)})."
            )
        bad = ~((counts >= 0) & (counts == np.floor(counts)))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"Item {items[row]!r} has count {counts[row, column]} for label {question.labels[column]!r}; "
                "counts are whole numbers from 0 up."
            )
        flat = counts.astype(np.int64).ravel()
        codes = np.repeat(np.arange(flat.size, dtype=np.int64), flat)
        names = np.asarray(items, dtype=object)
        item = pa.DictionaryArray.from_arrays(pa.array((codes // counts.shape[1]).astype(np.int32)), pa.array(names))
        label = pa.DictionaryArray.from_arrays(
            pa.array((codes % counts.shape[1]).astype(np.int32)), pa.array(question.labels)
        )
        return cls.from_columns(question, item=item, value=label, source=source)

    @classmethod
    def from_csv(cls, path: str | os.PathLike, questions: Sequence[Question], **options: Any) -> "VoteTable":
        """Read a long CSV with columns item, value and optionally annotator, question, weight, source.

        Args:
            path: The file.
            questions: Questions that the file answers.
            **options: `duplicates` and `unknown` of `from_columns`.

        Raises:
            ValueError: A column is missing or unknown, or a row breaks a rule.
        """
        text = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in ("item", "annotator", "question", "value", "source")},
            strings_can_be_null=True,
            null_values=[""],
        )
        table = pa.csv.read_csv(path, convert_options=text)
        known = ("item", "value", "annotator", "question", "weight", "source")
        for name in table.column_names:
            if name not in known:
                raise ValueError(
                    f"{path}: unknown column {name!r}{nearest(name, known)}; the columns are {', '.join(known)}."
                )
        for name in ("item", "value"):
            if name not in table.column_names:
                raise ValueError(f"{path}: there is no column {name!r}; the file needs at least item and value.")
        columns = {name: table.column(name) for name in table.column_names}
        return cls.from_columns(questions, **columns, where=os.fspath(path), **options)

    @classmethod
    def from_arrow(cls, table: pa.Table, questions: Sequence[Question]) -> "VoteTable":
        """Read back what `to_arrow` (or the export of a corpus) wrote."""
        arrays = {name: _as_arrow(table.column(name), name, "votes") for name in table.column_names}
        text, numbers = arrays.pop("label"), arrays.pop("rating")
        return _build(tuple(questions), arrays, text, numbers, duplicates="keep", unknown="error", where="votes")

    @classmethod
    def concat(cls, tables: Iterable["VoteTable"]) -> "VoteTable":
        """Stack vote tables; questions of the same name must be the same question."""
        tables = list(tables)
        questions: dict[str, Question] = {}
        exclusions: dict[str, int] = {}
        for votes in tables:
            for question in votes.questions:
                if questions.setdefault(question.name, question) != question:
                    raise ValueError(
                        f"Question {question.name!r} is defined in two ways in the tables to join; rename one of them."
                    )
            for reason, rows in votes.exclusions.items():
                exclusions[reason] = exclusions.get(reason, 0) + rows
        joined = pa.concat_tables([votes.to_arrow() for votes in tables]).unify_dictionaries()
        return replace(cls.from_arrow(joined, list(questions.values())), exclusions=exclusions)

    def to_arrow(self) -> pa.Table:
        """Columns item, annotator, question, label, rating, weight, source; text is dictionary-encoded."""
        offsets = np.cumsum([0, *(len(question.labels) for question in self.questions)])
        labels = [label for question in self.questions for label in question.labels]
        label_codes = np.where(self.label_codes < 0, -1, self.label_codes + offsets[self.question_codes])
        unique = list(dict.fromkeys(labels))
        position = np.array([unique.index(label) for label in labels], dtype=np.int32)
        if len(labels):
            label_codes = np.where(label_codes < 0, -1, position[label_codes])
        weights = np.ones(len(self)) if self.weights is None else self.weights
        return pa.table(
            {
                "item": _dictionary(self.item_codes, self.items),
                "annotator": _dictionary(self.annotator_codes, self.annotators),
                "question": _dictionary(self.question_codes, [question.name for question in self.questions]),
                "label": _dictionary(label_codes, unique),
                "rating": pa.array(self.ratings, from_pandas=True),
                "weight": pa.array(weights),
                "source": _dictionary(self.source_codes, self.sources),
            }
        )

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a data frame, for looking at."""
        return self.to_arrow().to_pandas()

    def rows_of(self, question: str) -> np.ndarray | slice:
        """What selects the votes on one question: a boolean mask `(V,)`, or everything when there is one question."""
        index = self.questions.index(self.question(question))
        return slice(None) if len(self.questions) == 1 else self.question_codes == index

    def counts(self, question: str, items: Sequence[str] | None = None) -> np.ndarray:
        """Vote histogram `(items, labels)` of a category question: whole numbers, or summed weights.

        Args:
            question: Name of a category question.
            items: Items to align the rows to; all items of the table by default. An item without votes is a zero row.
        """
        asked = self.question(question)
        if asked.is_scale:
            raise ValueError(f"Question {question!r} is a scale; only category questions have a vote histogram.")
        rows, classes = self.rows_of(question), len(asked.labels)
        labels, codes = self.label_codes[rows], self.item_codes[rows]
        weights = None if self.weights is None else self.weights[rows]
        if asked.multiple:
            chosen = labels >= 0
            labels, codes = labels[chosen], codes[chosen]
            weights = None if weights is None else weights[chosen]
        wide = codes.astype(np.int64) * classes + labels
        counts = np.bincount(wide, weights, minlength=len(self.items) * classes).reshape(-1, classes)
        return counts if items is None else align_rows(counts, self.items, items)

    def select(
        self,
        *,
        items: Iterable[str] | None = None,
        questions: Iterable[str] | None = None,
        annotators: Iterable[str] | None = None,
        mask: np.ndarray | None = None,
    ) -> "VoteTable":
        """The votes that meet every condition given; vocabularies shrink to what is left."""
        keep = np.ones(len(self), dtype=bool) if mask is None else np.asarray(mask, dtype=bool).copy()
        if items is not None:
            keep &= np.isin(self.items, list(items))[self.item_codes]
        kept_questions = self.questions
        if questions is not None:
            kept_questions = tuple(self.question(name) for name in questions)
            keep &= np.isin(self.question_codes, [self.questions.index(question) for question in kept_questions])
        if annotators is not None:
            wanted = np.isin(self.annotators, list(annotators))
            keep &= (self.annotator_codes >= 0) & (wanted[self.annotator_codes] if len(wanted) else False)
        recode = np.array([_index_or(kept_questions, question) for question in self.questions], dtype=np.int16)
        item_codes, used_items = _compact(self.item_codes[keep], self.items)
        annotator_codes, used_annotators = _compact(self.annotator_codes[keep], self.annotators)
        return replace(
            self,
            questions=kept_questions,
            items=used_items,
            annotators=used_annotators,
            item_codes=item_codes,
            annotator_codes=annotator_codes,
            question_codes=recode[self.question_codes[keep]],
            label_codes=self.label_codes[keep],
            ratings=self.ratings[keep],
            weights=None if self.weights is None else self.weights[keep],
            source_codes=self.source_codes[keep],
        )


def align_rows(rows: np.ndarray, names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Rows of `rows` (one per name) in the order of `wanted`; a name that is not there gives zeros."""
    index = pd.Index(np.asarray(names, dtype=object)).get_indexer(np.asarray(wanted, dtype=object))
    if not len(names):
        return np.zeros((len(wanted), *rows.shape[1:]), dtype=rows.dtype)
    aligned = rows[index]
    aligned[index < 0] = 0
    return aligned


def _build(
    questions: tuple[Question, ...],
    arrays: dict[str, pa.Array],
    text: pa.Array | None,
    numbers: pa.Array | None,
    *,
    duplicates: str,
    unknown: str,
    where: str,
) -> VoteTable:
    """Encode, check and, where asked, drop rows; the one place where a VoteTable is made from outside values."""
    names = [question.name for question in questions]
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: two questions are called {next(n for n in names if names.count(n) > 1)!r}.")
    length = len(arrays.get("item", ()))
    if not length:
        raise ValueError(f"{where}: the table has no rows; a vote table needs at least one vote.")
    item_codes, items = _encode(arrays["item"])
    if (item_codes < 0).any():
        raise ValueError(f"{where}: row {int(np.argmax(item_codes < 0))} has no item; give each vote its item's name.")
    annotator_codes, annotators = _encode(arrays.get("annotator"), length)
    source_codes, sources = _encode(arrays.get("source"), length)
    asked_codes, asked = _encode(arrays["question"])
    for code, name in enumerate([*asked, None]):
        if name not in names and (name is not None or (asked_codes < 0).any()):
            row = int(np.argmax(asked_codes == (code if name is not None else -1)))
            raise ValueError(
                f"{where}: row {row} answers question {name!r}{nearest(name, names)}; the questions are {', '.join(names)}."
            )
    question_codes = np.array([names.index(name) for name in asked], dtype=np.int16)[asked_codes]
    weights = _weights(arrays.get("weight"), where)
    label_codes, ratings, valid = _resolve(questions, question_codes, text, numbers, unknown == "error", where)
    exclusions = {}
    keep = np.ones(length, dtype=bool)
    if not valid.all():
        exclusions["values outside the question"] = int((~valid).sum())
        keep &= valid
    if duplicates != "keep":
        repeated = _repeats(questions, item_codes, annotator_codes, question_codes, label_codes, len(annotators))
        repeated &= keep
        if repeated.any() and duplicates == "error":
            row = int(np.argmax(repeated))
            raise ValueError(
                f"{where}: row {row} repeats annotator {annotators[annotator_codes[row]]!r} on item "
                f"{items[item_codes[row]]!r}, question {names[question_codes[row]]!r}; a rater votes once, so remove the "
                'row or pass duplicates="first" or "keep".'
            )
        if repeated.any():
            exclusions["repeated votes of one annotator"] = int(repeated.sum())
            keep &= ~repeated
    table = VoteTable(
        questions=questions,
        items=items,
        annotators=annotators,
        sources=sources,
        item_codes=item_codes,
        annotator_codes=annotator_codes,
        question_codes=question_codes,
        label_codes=label_codes,
        ratings=ratings,
        weights=weights,
        source_codes=source_codes.astype(np.int16),
        exclusions=exclusions,
    )
    return table if keep.all() else table.select(mask=keep)


def _resolve(
    questions: tuple[Question, ...],
    question_codes: np.ndarray,
    text: pa.Array | None,
    numbers: pa.Array | None,
    strict: bool,
    where: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label codes, ratings and validity `(V,)` of every row, checked against its own question."""
    length = len(question_codes)
    label_codes = np.full(length, NO_LABEL, dtype=np.int32)
    ratings = np.full(length, np.nan)
    valid = np.ones(length, dtype=bool)
    if text is None and numbers is not None and any(not question.is_scale for question in questions):
        if pa.types.is_integer(numbers.type):
            text = numbers.cast(pa.string())  # labels such as "0" and "1", given as whole numbers
        elif numbers.null_count < length:
            text = pc.cast(numbers, pa.string())
    text_codes, words = _encode(text, length) if text is not None else (None, np.array([], dtype=object))
    for index, question in enumerate(questions):
        rows = slice(None) if len(questions) == 1 else np.flatnonzero(question_codes == index)
        if question.is_scale and numbers is not None:
            values = numbers.to_numpy(zero_copy_only=False).astype(np.float64)[rows]
        elif question.is_scale:
            values = np.append(pd.to_numeric(pd.Series(words), errors="coerce"), np.nan)[text_codes[rows]]
        if question.is_scale:
            good = (values >= question.low) & (values <= question.high)
            ratings[rows] = np.where(good, values, np.nan)
            rule = f"a number from {question.low:g} to {question.high:g}"
        else:
            position = {label: code for code, label in enumerate(question.labels)}
            lookup = np.array([position.get(word, -2) for word in words] + [NO_LABEL if question.multiple else -2])
            values = lookup[text_codes[rows]] if text_codes is not None else np.full(length, -2)[rows]
            good = values != -2
            label_codes[rows] = np.where(good, values, NO_LABEL)
            rule = "one of " + ", ".join(question.labels)
        if good.all():
            continue
        valid[rows] = good
        if strict:
            row = int(np.arange(length)[rows][np.argmin(good)])
            column = text if text is not None and not (question.is_scale and numbers is not None) else numbers
            value = column[row].as_py()
            hint = nearest(value, question.labels) if question.labels and value is not None else ""
            raise ValueError(
                f"{where}: row {row} has value {value!r} for question {question.name!r}{hint}; it must be {rule}. Correct the "
                'value, or pass unknown="drop" to leave such rows out and count them.'
            )
    return label_codes, ratings, valid


def _repeats(
    questions: tuple[Question, ...],
    item_codes: np.ndarray,
    annotator_codes: np.ndarray,
    question_codes: np.ndarray,
    label_codes: np.ndarray,
    annotators: int,
) -> np.ndarray:
    """Rows `(V,)` that repeat an earlier vote of the same named annotator; anonymous votes never do."""
    if not annotators:
        return np.zeros(len(item_codes), dtype=bool)
    multiple = np.array([question.multiple for question in questions])
    labels = 2 + max((len(question.labels) for question in questions), default=0)
    key = item_codes.astype(np.int64) * (annotators + 1) + annotator_codes
    key = (key * len(questions) + question_codes) * labels + np.where(multiple[question_codes], label_codes + 1, 0)
    return pd.Series(key).duplicated().to_numpy() & (annotator_codes >= 0)


def _weights(array: pa.Array | None, where: str) -> np.ndarray | None:
    """Checked weights, or None when all are one."""
    if array is None:
        return None
    weights = array.to_numpy(zero_copy_only=False).astype(np.float64)
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{where}: row {row} has weight {weights[row]}; weights are finite and not negative.")
    return None if (weights == 1).all() else weights


def _is_column(column: Any) -> bool:
    return column is not None and not isinstance(column, str)


def _as_arrow(column: Any, name: str, where: str) -> pa.Array:
    """A flat Arrow array, text as string or dictionary."""
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().combine_chunks() if pa.types.is_dictionary(column.type) else column
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not isinstance(column, pa.Array):
        try:
            column = pa.array(column, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            if name == "weight":
                raise ValueError(f"{where}: column weight is not numeric; give one number a row.") from None
            column = pa.array([None if pd.isna(value) else str(value) for value in column], pa.string())
    if pa.types.is_large_string(column.type) or pa.types.is_null(column.type):
        column = column.cast(pa.string())
    if name not in ("value", "weight", "rating") and not (
        pa.types.is_string(column.type) or pa.types.is_dictionary(column.type)
    ):
        column = column.cast(pa.string())
    return column


def _encode(array: pa.Array | None, length: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes `(V,)` (null is -1) and the words they stand for, in order of first appearance."""
    if array is None:
        return np.full(length, -1, dtype=np.int32), np.array([], dtype=object)
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    words = encoded.dictionary.to_numpy(zero_copy_only=False).astype(object)
    indices = encoded.indices.fill_null(-1) if encoded.null_count else encoded.indices
    return indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False), words


def _dictionary(codes: np.ndarray, words: Sequence[str]) -> pa.DictionaryArray:
    mask = codes < 0
    indices = pa.array(codes.astype(np.int32), mask=mask if mask.any() else None)
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(words), pa.string()))


def _compact(codes: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes into only those words that still occur, order kept."""
    used = np.zeros(len(words) + 1, dtype=bool)
    used[codes] = True  # -1 marks the spare last place
    position = np.cumsum(used[:-1], dtype=np.int32) - 1
    return np.append(position, np.int32(-1))[codes].astype(np.int32), words[used[:-1]]


def _index_or(questions: tuple[Question, ...], question: Question) -> int:
    return questions.index(question) if question in questions else -1
