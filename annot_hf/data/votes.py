"""`VoteTable`: one row per vote (item, rater, question, value), as integer codes, so that histograms are one `bincount`."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from annot_hf.data import encoding
from annot_hf.data.questions import Question, nearest

# The code of a vote on a scale, and of "none of the labels".
NO_LABEL = -1
_UNKNOWN = -2


@dataclass(frozen=True, eq=False)
class VoteTable:
    """Votes of raters on items, immutable; build one with `from_columns`, `from_counts`, `from_csv` or `from_arrow`.

    Attributes:
        questions: What was asked.
        items: Item names `(N,)` in order of first appearance.
        annotators: Rater names `(A,)`.
        sources: Names of the sources of votes `(S,)`.
        item_codes: Index into `items` `(V,)`.
        annotator_codes: Index into `annotators` `(V,)`; -1 is an anonymous vote.
        question_codes: Index into `questions` `(V,)`.
        label_codes: Index into the question's labels `(V,)`; -1 for a scale vote, or for "none of them".
        ratings: Value on the question's own scale `(V,)`; NaN for a category vote.
        weights: Non-negative weight `(V,)`, or None when every vote counts once.
        source_codes: Index into `sources` `(V,)`; -1 is unstated.
        exclusions: Number of rows left out on request, by reason.
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
        known = {question.name: question for question in self.questions}
        if name not in known:
            raise ValueError(
                f"There is no question {name!r}{nearest(name, known)}; the questions are {', '.join(known)}."
            )
        return known[name]

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
            item: Item name of each vote; an empty name counts as null, here and below.
            value: The label, or the number on the scale. Numbers count as labels only if no list of labels has another label
                at that position.
            question: Question name of each vote, or one name for all; optional if there is one question.
            annotator: Rater name of each vote; null if the rater is unknown.
            weight: Non-negative weight of each vote.
            source: Source of each vote, or one name for all.
            duplicates: What to do with a second vote of a rater on the same item and question: raise, keep the first
                (counted in `exclusions`), or keep both.
            unknown: What to do with a label outside the set or a rating outside the scale: raise, or drop and count.
            where: The name of this table in messages, for instance the file name.

        Warns:
            UserWarning: Names of raters differ only in case, spaces or Unicode form; they count as different raters.

        Raises:
            ValueError: A row breaks a rule; the message names the row (counted from 0), the value and the fix.
        """
        columns = dict(item=item, value=value, annotator=annotator, weight=weight, question=question, source=source)
        encoding.check_aligned(columns, where)
        arrays = {
            name: encoding.as_arrow(column, name, where)
            for name, column in columns.items()
            if column is not None and not isinstance(column, str)
        }
        questions = (questions,) if isinstance(questions, Question) else tuple(questions)
        if not questions:
            raise ValueError(f"{where}: there is no question; give the questions that the votes answer.")
        for name in ("item", "value"):
            if name not in arrays:
                raise ValueError(f"{where}: {name} is {columns[name]!r}; give one entry per vote.")
        length = len(arrays["item"])
        for name, array in arrays.items():
            if len(array) != length:
                raise ValueError(
                    f"{where}: column {name} has {len(array)} rows and item has {length}; make them equal."
                )
        if question is None and len(questions) > 1:
            raise ValueError(f"{where}: {len(questions)} questions but no question column; name the question per row.")
        for name, one in (("question", question if question is not None else questions[0].name), ("source", source)):
            if name not in arrays and one is not None:
                arrays[name] = pa.DictionaryArray.from_arrays(pa.array(np.zeros(length, np.int32)), pa.array([one]))
        values = arrays.pop("value")
        arrays["text" if encoding.is_text(values.type) else "numbers"] = values
        table = _build(questions, arrays, duplicates=duplicates, unknown=unknown, where=where)
        if twins := encoding.alike(table.annotators):
            votes = pd.Series(table.annotators[table.annotator_codes[table.annotator_codes >= 0]]).value_counts()
            some = ", ".join(f"{ascii(name)} ({votes[name]})" for name in twins[:6])
            warnings.warn(
                f"{where}: {len(twins)} rater names differ only in case, spaces or Unicode form, such as (votes in brackets) "
                f"{some}; each counts as a separate rater, so spell the names of one rater alike.",
                stacklevel=2,
            )
        return table

    @classmethod
    def from_counts(
        cls, question: Question, items: Sequence[str], counts: Any, *, source: str | None = None
    ) -> "VoteTable":
        """Anonymous votes from a table of counts `(items, labels)`, whole numbers from 0 up, expanded to one row per vote.

        Named rows and columns, as in a data frame, an Arrow table or a mapping, are matched by name, each once; those of an
        array by position. Raises if a name, the shape or a count does not fit.
        """
        flat = encoding.check_vote_counts(question, items, counts).ravel()
        codes = np.repeat(np.arange(flat.size, dtype=np.int64), flat)
        item, label = np.divmod(codes, len(question.labels))
        return cls.from_columns(
            question,
            item=encoding.dictionary(item, items),
            value=encoding.dictionary(label, question.labels),
            source=source,
        )

    @classmethod
    def from_shares(cls, question: Question, items: Sequence[str], shares: Any) -> "VoteTable":
        """Distributions `(items, labels)` of an unknown number of votes, for a question of `shares`; a row per positive share.

        Rows may miss 1 by the rounding of their file, .005, and are divided by their sum. Named rows and columns are matched
        by name. Raises if a name, the shape or a share does not fit.
        """
        shares = encoding.check_vote_shares(question, items, shares)
        item, label = np.nonzero(shares)
        return cls.from_columns(
            question,
            item=encoding.dictionary(item, items),
            value=encoding.dictionary(label, question.labels),
            weight=shares[item, label],
        )

    @classmethod
    def from_csv(cls, path: str | os.PathLike, questions: Sequence[Question], **options: Any) -> "VoteTable":
        """Read a long CSV with columns item, value and optionally annotator, question, weight, source.

        `options` are `duplicates` and `unknown` of `from_columns`. Raises if a column or a row breaks a rule.
        """
        return cls.from_columns(questions, **encoding.read_csv(path), where=os.fspath(path), **options)

    @classmethod
    def from_arrow(cls, table: pa.Table, questions: Sequence[Question]) -> "VoteTable":
        """Read back what `to_arrow` wrote, or a table of an export's "votes"; further columns are ignored.

        Raises if a column is missing, a row breaks a rule, or labels are codes that the schema gives no names.
        """
        for name in ("item", "question", "label", "rating"):
            if name not in table.column_names:
                raise ValueError(f"votes: there is no column {name!r}; give the table that to_arrow wrote.")
        columns = ("item", "annotator", "question", "label", "rating", "weight", "source")
        named, label = encoding.named_codes(table), table.column("label")
        coded = pa.types.is_integer(label.type) or pa.types.is_floating(label.type)
        if coded and "label" not in named and label.null_count < len(label):
            raise ValueError(
                f"votes: column label holds {label.type} without the names of the labels; keep the "
                "schema that `datasets` wrote (ClassLabel), or give labels as text."
            )
        arrays = {
            name: encoding.as_arrow(named.get(name, table.column(name)), name, "votes")
            for name in columns
            if name in table.column_names
        }
        arrays["text"], arrays["numbers"] = arrays.pop("label"), arrays.pop("rating")
        return _build(tuple(questions), arrays, duplicates="keep", unknown="error", where="votes")

    @classmethod
    def concat(cls, tables: Iterable["VoteTable"]) -> "VoteTable":
        """Stack vote tables; questions of the same name must be the same question."""
        tables = list(tables)
        if not tables:
            raise ValueError("There is no vote table to join; give at least one.")
        questions: dict[str, Question] = {}
        for votes in tables:
            for question in votes.questions:
                if questions.setdefault(question.name, question) != question:
                    raise ValueError(
                        f"Question {question.name!r} is defined differently in the tables to join; rename one of them."
                    )
        exclusions = sum((Counter(votes.exclusions) for votes in tables), Counter())
        joined = pa.concat_tables([votes.to_arrow() for votes in tables]).unify_dictionaries()
        return replace(cls.from_arrow(joined, list(questions.values())), exclusions=dict(exclusions))

    def to_arrow(self) -> pa.Table:
        """Columns item, annotator, question, label, rating, weight, source; text is dictionary-encoded."""
        offsets = np.cumsum([0, *(len(question.labels) for question in self.questions)])
        labels = np.array([label for question in self.questions for label in question.labels], dtype=object)
        # Questions may share labels. Code -1 reads the last place.
        position, unique = pd.factorize(labels)
        place = np.where(self.label_codes < 0, -1, self.label_codes + offsets[self.question_codes])
        weights = np.ones(len(self)) if self.weights is None else self.weights
        return pa.table(
            {
                "item": encoding.dictionary(self.item_codes, self.items),
                "annotator": encoding.dictionary(self.annotator_codes, self.annotators),
                "question": encoding.dictionary(self.question_codes, [question.name for question in self.questions]),
                "label": encoding.dictionary(np.append(position, -1)[place], unique),
                "rating": pa.array(self.ratings, from_pandas=True),
                "weight": pa.array(weights),
                "source": encoding.dictionary(self.source_codes, self.sources),
            }
        )

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a data frame, for display."""
        return self.to_arrow().to_pandas()

    def rows_of(self, question: str) -> np.ndarray | slice:
        """The votes on one question: a boolean mask `(V,)`, or a full slice if there is only one question."""
        index = self.questions.index(self.question(question))
        return slice(None) if len(self.questions) == 1 else self.question_codes == index

    def counts(self, question: str, items: Sequence[str] | None = None) -> np.ndarray:
        """Vote histogram `(items, labels)` of a category question: whole numbers, or summed weights.

        Rows are those of `items`, by default all items of the table; an item without votes is a zero row.
        """
        asked = self.question(question)
        if asked.is_scale:
            raise ValueError(f"Question {question!r} is a scale; only category questions have a vote histogram.")
        rows, classes = self.rows_of(question), len(asked.labels)
        if asked.multiple:
            rows = np.arange(len(self))[rows]
            rows = rows[self.label_codes[rows] >= 0]
        cells = self.item_codes[rows].astype(np.int64) * classes + self.label_codes[rows]
        weights = None if self.weights is None else self.weights[rows]
        counts = np.bincount(cells, weights, minlength=len(self.items) * classes).reshape(-1, classes)
        return counts if items is None else align_rows(counts, self.items, items)

    def select(
        self,
        *,
        items: Iterable[str] | None = None,
        questions: Iterable[str] | None = None,
        annotators: Iterable[str] | None = None,
        mask: np.ndarray | None = None,
    ) -> "VoteTable":
        """The votes that meet all given conditions; vocabularies shrink accordingly."""
        rows = [range(len(self))]
        keep = np.ones(len(self), dtype=bool) if mask is None else np.array(encoding.by_name(mask, rows, "mask"))
        if keep.dtype != bool or keep.shape != (len(self),):
            raise ValueError(
                f"mask has type {keep.dtype} and shape {keep.shape}; give one boolean per vote ({len(self)})."
            )
        named = ((items, self.items, self.item_codes), (annotators, self.annotators, self.annotator_codes))
        for wanted, names, codes in named:
            if wanted is not None:
                # Code -1 reads the last place.
                keep &= np.append(pd.Index(names, dtype=object).isin(list(wanted)), False)[codes]
        kept_questions = self.questions
        if questions is not None:
            kept_questions = tuple(self.question(name) for name in questions)
            keep &= np.isin(self.question_codes, [self.questions.index(question) for question in kept_questions])
        position = {question.name: index for index, question in enumerate(kept_questions)}
        recode = np.array([position.get(question.name, -1) for question in self.questions], dtype=np.int16)
        item_codes, used_items = encoding.compact(self.item_codes[keep], self.items)
        annotator_codes, used_annotators = encoding.compact(self.annotator_codes[keep], self.annotators)
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
    """Rows of `rows` (one per name) in the order of `wanted`; unknown names give zeros."""
    index = pd.Index(names, dtype=object).get_indexer(pd.Index(wanted, dtype=object))
    # Index -1 reads the last row.
    return np.concatenate([rows, np.zeros_like(rows, shape=(1, *rows.shape[1:]))])[index]


def _build(
    questions: tuple[Question, ...], arrays: dict[str, pa.Array], *, duplicates: str, unknown: str, where: str
) -> VoteTable:
    """Encode, check and, on request, drop rows of user data, whose values are the columns "text", "numbers" or both."""
    encoding.check_choice("duplicates", duplicates, ("error", "first", "keep"), where)
    encoding.check_choice("unknown", unknown, ("error", "drop"), where)
    names = [question.name for question in questions]
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: two questions are called {next(n for n in names if names.count(n) > 1)!r}.")
    length, numbers = len(arrays["item"]), arrays.get("numbers")
    if not length:
        raise ValueError(f"{where}: the table has no rows; a vote table needs at least one vote.")
    columns = [arrays.get(name) for name in ("item", "annotator", "source", "question", "text")]
    # Arrow releases the interpreter's lock while it encodes.
    with ThreadPoolExecutor() as pool:
        *named, (text_codes, words) = pool.map(lambda column: encoding.encode_column(column, length), columns)
    (item_codes, items), annotator, source, question = (encoding.blank_to_null(*one) for one in named)
    if (item_codes < 0).any():
        raise ValueError(f"{where}: row {int(np.argmax(item_codes < 0))} has no item; give each vote its item's name.")
    if pa.types.is_dictionary(arrays["item"].type) and len(twice := items[pd.Index(items).duplicated()]):
        raise ValueError(f"{where}: item {twice[0]!r} is listed twice; name each item once.")
    annotator_codes, annotators = encoding.compact(*annotator)
    asked_codes, asked = encoding.compact(*question)
    for code, name in enumerate([*asked, None]):
        if name not in names and (name is not None or (asked_codes < 0).any()):
            row = int(np.argmax(asked_codes == (code if name is not None else -1)))
            raise ValueError(
                f"{where}: row {row} answers question {name!r}{nearest(name, names)}; the questions are {', '.join(names)}."
            )
    question_codes = np.array([names.index(name) for name in asked], dtype=np.int16)[asked_codes]
    weights = encoding.check_weights(arrays.get("weight"), where)
    if "text" not in arrays and not all(question.is_scale for question in questions):
        check_numbers(questions, question_codes, where)
        # Labels such as 0 and 1 may be given as numbers.
        text_codes, words = encoding.encode_column(numbers.cast(pa.string()), length)
    label_codes, ratings, valid = resolve_values(
        questions, question_codes, text_codes, words, numbers, strict=unknown == "error", where=where
    )
    if not valid.any():
        raise ValueError(
            f"{where}: none of {length} values fits its question, so no rows are left; correct the labels or "
            "the scale of the questions."
        )
    exclusions = {} if valid.all() else {"values outside the question": int((~valid).sum())}
    for index, asked_for in enumerate(questions):
        if asked_for.shares:
            encoding.check_share_rows(asked_for, question_codes == index, item_codes, annotator_codes, weights, where)
    if duplicates != "keep":
        repeated = np.zeros(length, dtype=bool)
        # Values that are not answers are dropped, and cannot be duplicates.
        codes = (column[valid] for column in (item_codes, annotator_codes, question_codes, label_codes))
        repeated[valid] = encoding.repeated_votes(questions, *codes, len(annotators))
        if repeated.any() and duplicates == "error":
            row = int(np.argmax(repeated))
            raise ValueError(
                f"{where}: row {row} repeats annotator {annotators[annotator_codes[row]]!r} on item "
                f"{items[item_codes[row]]!r}, question {names[question_codes[row]]!r}; a rater votes once, so remove the "
                'row or pass duplicates="first" or "keep".'
            )
        if repeated.any():
            exclusions["repeated votes of one annotator"] = int(repeated.sum())
            valid &= ~repeated
    table = VoteTable(
        questions=questions,
        items=items,
        annotators=annotators,
        sources=source[1],
        item_codes=item_codes,
        annotator_codes=annotator_codes,
        question_codes=question_codes,
        label_codes=label_codes,
        ratings=ratings,
        weights=weights,
        source_codes=source[0].astype(np.int16),
        exclusions=exclusions,
    )
    return table if valid.all() else table.select(mask=valid)


def resolve_values(
    questions: tuple[Question, ...],
    question_codes: np.ndarray,
    text_codes: np.ndarray,
    words: np.ndarray,
    numbers: pa.Array | None,
    *,
    strict: bool,
    where: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check every value against its own question; gives label codes, ratings and validity, each `(V,)`.

    `text_codes` `(V,)` index the distinct `words`, -1 for null; without `numbers` `(V,)`, scale questions read these too.
    """
    length = len(question_codes)
    label_codes = np.full(length, NO_LABEL, dtype=np.int32)
    ratings = np.full(length, np.nan)
    valid = np.ones(length, dtype=bool)
    for index, question in enumerate(questions):
        rows = slice(None) if len(questions) == 1 else np.flatnonzero(question_codes == index)
        if question.is_scale:
            if numbers is None:
                values = np.append(pd.to_numeric(pd.Series(words), errors="coerce"), np.nan)[text_codes[rows]]
            else:
                values = numbers.to_numpy(zero_copy_only=False)[rows].astype(np.float64)
            good = (values >= question.low) & (values <= question.high)
            ratings[rows] = np.where(good, values, np.nan)
            rule = f"a number from {question.low:g} to {question.high:g}"
        else:
            position = {label: code for code, label in enumerate(question.labels)}
            null = NO_LABEL if question.multiple else _UNKNOWN
            lookup = np.array([*(position.get(word, _UNKNOWN) for word in words), null], dtype=np.int32)
            # Code -1 reads the last entry.
            values = lookup[text_codes[rows]]
            good = values != _UNKNOWN
            label_codes[rows] = np.maximum(values, NO_LABEL)
            rule = "one of " + ", ".join(question.labels)
        valid[rows] = good
        if strict and not good.all():
            row = int(np.arange(length)[rows][np.argmin(good)])
            number = question.is_scale and numbers is not None
            value = numbers[row].as_py() if number else np.append(words, None)[text_codes[row]]
            hint = nearest(value, question.labels) if question.labels and value is not None else ""
            raise ValueError(
                f"{where}: row {row} has value {value!r} for question {question.name!r}{hint}; it must be {rule}. Correct the "
                'value, or pass unknown="drop" to leave such rows out and count them.'
            )
    return label_codes, ratings, valid


def check_numbers(questions: tuple[Question, ...], question_codes: np.ndarray, where: str) -> None:
    """Raise if a number may be a label or a position in a list of labels, of the question or of all questions."""
    together = list(dict.fromkeys(label for question in questions for label in question.labels))
    for question in (questions[code] for code in np.unique(question_codes)):
        for listed in (question.labels, together):
            for place, label in enumerate(listed):
                if label != str(place) and {label, str(place)} <= set(question.labels):
                    raise ValueError(
                        f"{where}: values are numbers, and {place} may be label {str(place)!r} of question "
                        f"{question.name!r} or the position of its label {label!r}; give labels as text."
                    )
