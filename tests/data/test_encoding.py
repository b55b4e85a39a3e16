"""Columns to codes and back, files to columns, and what each step refuses."""

import datetime
import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from annot_hf.data import encoding
from annot_hf.data.questions import Question
from annot_hf.data.votes import resolve_values

EMOTION = Question.category("emotion", ["anger", "joy"])
HEARD = Question.category("heard", ["joy", "sad"], multiple=True)
VALENCE = Question.scale("valence", 1, 5)

words_or_none = st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b", "é", "a b"])), max_size=12)


# --- codes and words


@given(words_or_none)
def test_words_survive_the_codes(words):
    codes, vocabulary = encoding.encode_column(pa.array(words, pa.string()), len(words))
    assert codes.dtype == np.int32 and vocabulary.dtype == object
    assert [None if code < 0 else vocabulary[code] for code in codes] == words
    assert list(vocabulary) == list(dict.fromkeys(word for word in words if word is not None))
    assert encoding.dictionary(codes, vocabulary).to_pylist() == words


def test_no_column_is_all_null():
    codes, vocabulary = encoding.encode_column(None, 3)
    assert codes.tolist() == [-1, -1, -1] and not len(vocabulary)


def test_a_dictionary_keeps_its_words_and_their_order():
    column = pa.DictionaryArray.from_arrays(pa.array([1, None, 1], pa.int8()), pa.array(["unused", "b"]))
    codes, vocabulary = encoding.encode_column(column, 3)
    assert codes.tolist() == [1, -1, 1] and vocabulary.tolist() == ["unused", "b"]


@given(words_or_none)
def test_an_empty_word_is_none(words):
    codes, vocabulary = encoding.blank_to_null(*encoding.encode_column(pa.array(words, pa.string()), len(words)))
    assert [None if code < 0 else vocabulary[code] for code in codes] == [word or None for word in words]
    assert "" not in vocabulary


@pytest.mark.parametrize(
    ("codes", "words", "expected"),
    [
        ([2, 0, -1, 2], ["a", "b", "c"], ([1, 0, -1, 1], ["a", "c"])),
        ([0, 1], ["a", "b"], ([0, 1], ["a", "b"])),
        ([-1], ["a"], ([-1], [])),
        ([], ["a"], ([], [])),
    ],
)
def test_compacting_keeps_used_words_only(codes, words, expected):
    found, left = encoding.compact(np.array(codes, dtype=np.int32), np.array(words, dtype=object))
    assert (found.tolist(), left.tolist()) == expected and found.dtype == np.int32


# --- columns from outside


@pytest.mark.parametrize(
    ("column", "name", "kind", "values"),
    [
        (["a", None], "item", pa.string(), ["a", None]),
        ([1, 2], "item", pa.string(), ["1", "2"]),
        ([1, "a", None], "annotator", pa.string(), ["1", "a", None]),
        ([1, 2], "value", pa.int64(), [1, 2]),
        ([True, False], "value", pa.bool_(), [True, False]),
        ([1.5, np.nan], "rating", pa.float64(), [1.5, None]),
        ([None, None], "value", pa.string(), [None, None]),
        (pa.array(["a"], pa.large_string()), "item", pa.string(), ["a"]),
        (pa.array(["a"], pa.string_view()), "value", pa.string(), ["a"]),
        (pd.Series(["a", np.nan], dtype=object), "item", pa.string(), ["a", None]),
        (pa.chunked_array([["a"], ["b"]]), "item", pa.string(), ["a", "b"]),
        (pa.array([7, 7]).dictionary_encode(), "item", pa.string(), ["7", "7"]),
    ],
)
def test_a_column_becomes_flat_text_or_numbers(column, name, kind, values):
    array = encoding.as_arrow(column, name, "votes")
    assert isinstance(array, pa.Array) and array.type == kind and array.to_pylist() == values


def test_chunks_with_dictionaries_of_their_own_become_one():
    chunks = pa.chunked_array([pa.array([word]).dictionary_encode() for word in "ab"])
    array = encoding.as_arrow(chunks, "item", "votes")
    assert encoding.is_text(array.type) and array.to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("column", "name", "words"),
    [
        ([["a"], ["b"]], "item", "votes: column item holds values of type list"),
        (["a", ["b"]], "item", "column item holds values of type list; give text or numbers"),
        ([{"a": 1}], "value", "column value holds values of type struct"),
        ([datetime.date(2020, 1, 1)], "value", "column value holds values of type date32"),
    ],
)
def test_a_column_of_anything_else_is_refused(column, name, words):
    with pytest.raises(ValueError, match=words):
        encoding.as_arrow(column, name, "votes")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pa.string(), True),
        (pa.dictionary(pa.int32(), pa.string()), True),
        (pa.int64(), False),
        (pa.float32(), False),
        (pa.null(), False),
    ],
)
def test_what_text_is(kind, text):
    assert encoding.is_text(kind) is text


# --- rules of votes


def resolve(questions, asked, values, *, strict=True):
    """`resolve_values` of a column of text or numbers."""
    column = encoding.as_arrow(values, "value", "votes")
    numbers = None if encoding.is_text(column.type) else column
    codes, words = encoding.encode_column(column.cast(pa.string()), len(values))
    asked = np.array(asked, dtype=np.int16)
    return resolve_values(questions, asked, codes, words, numbers, strict=strict, where="votes")


def test_each_value_meets_its_own_question():
    values = ["joy", "2.5", "joy", None, "5"]
    labels, ratings, valid = resolve((EMOTION, VALENCE, HEARD), [0, 1, 2, 2, 1], values)
    assert labels.tolist() == [1, -1, 0, -1, -1] and valid.all()
    np.testing.assert_array_equal(ratings, [np.nan, 2.5, np.nan, np.nan, 5])


@pytest.mark.parametrize("values", [[1, 3.5, 5], ["1", "3.5", "5"]])
def test_ratings_are_numbers_or_their_text(values):
    labels, ratings, valid = resolve((VALENCE,), [0, 0, 0], values)
    assert ratings.tolist() == [1, 3.5, 5] and (labels == -1).all() and valid.all()


def test_bad_values_are_marked_when_not_strict():
    values = ["joy", "jo", None, "0.5", "nan", "3", "tired", None]
    labels, ratings, valid = resolve((EMOTION, VALENCE, HEARD), [0, 0, 0, 1, 1, 1, 2, 2], values, strict=False)
    assert valid.tolist() == [True, False, False, False, False, True, False, True]
    assert labels.tolist() == [1, -1, -1, -1, -1, -1, -1, -1]
    np.testing.assert_array_equal(ratings, [*[np.nan] * 5, 3, np.nan, np.nan])


@pytest.mark.parametrize(
    ("questions", "asked", "values", "words"),
    [
        (
            (EMOTION,),
            [0, 0],
            ["joy", "angr"],
            "row 1 has value 'angr' .* .did you mean 'anger'.*must be one of anger, joy",
        ),
        ((EMOTION,), [0, 0], ["joy", None], "row 1 has value None for question 'emotion'; it must be one of"),
        ((EMOTION, VALENCE), [0, 1], ["joy", "6"], "row 1 has value '6' for question 'valence'; .* number from 1 to 5"),
        ((VALENCE,), [0, 0], [3.0, 0.5], "row 1 has value 0.5 .* a number from 1 to 5"),
        ((VALENCE,), [0], [None], "row 0 has value None"),
        ((HEARD,), [0], ["tired"], "row 0 has value 'tired' for question 'heard'"),
    ],
)
def test_a_bad_value_is_named_with_its_row(questions, asked, values, words):
    with pytest.raises(ValueError, match="votes: " + words):
        resolve(questions, asked, values)


def test_a_rater_repeats_a_question_but_not_a_label_of_several():
    item = np.array([0, 0, 0, 0, 1, 0, 0, 0, 0])
    rater = np.array([0, 0, 1, -1, 0, -1, 0, 0, 0])
    asked = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
    label = np.array([0, 1, 0, 0, 0, 0, 0, 1, 0])
    repeated = encoding.repeated_votes((EMOTION, HEARD), item, rater, asked, label, 2)
    assert np.flatnonzero(repeated).tolist() == [1, 8]
    assert not encoding.repeated_votes((EMOTION, HEARD), item, np.full(9, -1), asked, label, 0).any()


def test_choices():
    encoding.check_choice("unknown", "drop", ("error", "drop"), "votes")
    with pytest.raises(ValueError, match="votes: unknown is 'drops' .did you mean 'drop'..; use 'error' or 'drop'"):
        encoding.check_choice("unknown", "drops", ("error", "drop"), "votes")


@pytest.mark.parametrize("counts", [[[1, 0], [2, 3]], [[1.0, 0.0], [2.0, 3.0]], np.array([[1, 0], [2, 3]], np.uint8)])
def test_counts_are_whole(counts):
    found = encoding.check_vote_counts(EMOTION, ["a", "b"], counts)
    assert found.dtype == np.int64 and found.tolist() == [[1, 0], [2, 3]]


@pytest.mark.parametrize(
    ("question", "counts", "words"),
    [
        (VALENCE, [[1, 2]], "Question 'valence' is a scale; only a category question has counts"),
        (EMOTION, [[1, 2, 3]], r"shape \(1, 3\); they must be \(items, labels\) = \(1, 2\)"),
        (EMOTION, [[1, -2]], "Item 'a' has count -2 for label 'joy'; counts are whole numbers from 0 up"),
        (EMOTION, [[0.5, 1]], "Item 'a' has count 0.5 for label 'anger'"),
        (EMOTION, [[np.nan, 1]], "Item 'a' has count nan"),
        (EMOTION, [[1, np.inf]], "Item 'a' has count inf for label 'joy'"),
        (EMOTION, [["1", "2"]], "'emotion' have type <U1"),
        (EMOTION, [["x", "y"]], "not a table of numbers"),
        (EMOTION, [[1], [2, 3]], "not a table of numbers"),
    ],
)
def test_other_counts_are_refused(question, counts, words):
    with pytest.raises(ValueError, match=words):
        encoding.check_vote_counts(question, ["a"], counts)


def test_weights_of_one_are_none():
    assert encoding.check_weights(None, "votes") is None
    assert encoding.check_weights(pa.array([1, 1]), "votes") is None
    weights = encoding.check_weights(pa.array([0, 2]), "votes")
    assert weights.dtype == np.float64 and weights.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, -0.5], "votes: row 1 has weight -0.5; weights are finite and not negative"),
        ([np.inf, 1], "row 0 has weight inf"),
        ([1.0, None], "row 1 has weight nan"),
        (["1"], "votes: column weight is not numeric"),
    ],
)
def test_other_weights_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        encoding.check_weights(pa.array(weights), "votes")


# --- files


@pytest.fixture
def write(tmp_path):
    """Writes a file and gives its path."""

    def make(content, name="file.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def test_csv_votes_stay_text_and_weights_are_numbers(write):
    columns = encoding.read_csv(write("item,value,weight,annotator\n007,1,2,\nb,,0.5,r\n"))
    assert {name: column.to_pylist() for name, column in columns.items()} == {
        "item": ["007", "b"],
        "value": ["1", None],
        "weight": [2, 0.5],
        "annotator": [None, "r"],
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("item,valu\na,b\n", "unknown column 'valu' .did you mean 'value'"),
        ("item,value,item\na,b,c\n", "column 'item' occurs twice"),
        ("item,annotator\na,b\n", "there is no column 'value'; the file needs at least item and value"),
        ("item,value\na\n", "not a readable CSV file"),
        ("", "not a readable CSV file"),
    ],
)
def test_other_csv_votes_are_refused(write, content, words):
    path = write(content)
    with pytest.raises(ValueError, match=words) as error:
        encoding.read_csv(path)
    assert str(error.value).startswith(str(path))


def rows_of(batches):
    """Batches as rows of (row, *columns)."""
    return [tuple(row.values()) for batch in batches for row in pa.table(batch).to_pylist()]


@pytest.mark.parametrize("block", [64, 1 << 23])
def test_csv_streams_as_text_with_row_numbers(write, monkeypatch, block):
    monkeypatch.setattr(encoding, "BLOCK", block)
    path = write("\ufeffb,a,c\n" + "".join(f'{n},"x,{n}",z\n' for n in range(40)))
    assert rows_of(encoding.csv_batches(path, ("missing",), ("a", "b"))) == [
        (n + 2, f"x,{n}", f"{n}") for n in range(40)
    ]
    assert rows_of(encoding.csv_batches(path, ("b",), ("a", "b")))[0] == (2, "0")  # the first header that it has


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,c\n1,2\n", "the header is 'a,c'; it must have the columns a,b or d"),
        ("", "the header is ''"),
        ("a,b\n1,2\n1\n", "not a readable file"),
        ("a,b\n1,2,3\n", "not a readable file"),
        (b"a,b\n\xff\xfe,2\n", "not a readable file"),
    ],
)
def test_csv_that_does_not_fit_is_refused(write, content, words):
    path = write(content)
    with pytest.raises(ValueError, match=words) as error:
        list(encoding.csv_batches(path, ("a", "b"), ("d",)))
    assert str(error.value).startswith(str(path))


def test_lines_stream_whole_and_numbered(write, monkeypatch):
    monkeypatch.setattr(encoding, "BLOCK", 32)
    lines = ['say "no', "", "a,b;c", "  kept  ", "é" * 5, "last"]
    assert rows_of(encoding.line_batches(write("\n".join(lines)))) == [*enumerate(lines, start=1)]
    with pytest.raises(ValueError, match="not a readable file"):
        list(encoding.line_batches(write(b"fine\n\xff\xfe\n")))


@pytest.mark.parametrize("values", [["a", "b", "c"], np.array(["a", "b", "c"]), pa.array(["a", "b", "c"])])
def test_the_first_bad_row_is_named(values):
    encoding.refuse_row("file", [2, 3, 4], "label", values, [False] * 3, "must be a")
    with pytest.raises(ValueError, match="^file: row 3 has label 'b'; it must be a, so restore the upstream file.$"):
        encoding.refuse_row("file", pa.array([2, 3, 4]), "label", values, [False, True, True], "must be a")


@pytest.mark.parametrize("name", ["votes.csv", "votes.csv.gz", "votes.tsv"])
def test_a_csv_frame_is_text_with_rows(name, tmp_path):
    text = 'a,b,c\n1,"x, ""y""\nz",NA\n,2.0,\n'
    if name.endswith("tsv"):
        text = 'a\tb\tc\n1\t"x, ""y""\nz"\tNA\n\t2.0\t\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    frame = encoding.csv_frame(path, ["c", "b"])
    assert frame.to_dict("list") == {"row": [2, 3], "c": ["NA", ""], "b": ['x, "y"\nz', "2.0"]}
    assert encoding.csv_frame(path, ["c"], further=True)["a"].tolist() == ["1", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the header is ''; it must have the columns a,b"),
        (b"a,c\n1,2\n", "the header is 'a,c'; it must have the columns a,b"),
        (b"a,b\n", "has no rows; restore the upstream file"),
        (b"a,b\n1\n", "not a readable file .*Expected 2 columns, got 1"),
        (b"a,b\n1,\xe9\n", "not a readable file .*UTF8"),
        (b"a,b,a\n1,2,3\n", "column 'a' occurs twice; keep one of them"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_csv_frames_that_cannot_be_read_are_named(zipped, content, message, tmp_path):
    path = tmp_path / ("votes.csv.gz" if zipped else "votes.csv")
    path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    with pytest.raises(ValueError, match=f"{path.name}:? .*{message}"):
        encoding.csv_frame(path, ["a", "b"])


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", gzip.compress(b"a,b\n" + b"1,2\n" * 9, mtime=0)[:-9]])
def test_damaged_gzip_files_are_named(content, tmp_path):
    path = tmp_path / "votes.csv.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="votes.csv.gz: not a readable"):
        encoding.csv_frame(path, ["a", "b"])


# --- JSON objects


def test_json_streams_entries_with_numbers_as_text(tmp_path):
    path = tmp_path / "file.json"
    entries = {"a": {"x": 1.50, "y": [1, None]}, "b": {}, "c": {"x": float("nan")}}
    path.write_text("\ufeff" + json.dumps(entries, indent=1), encoding="utf-8")
    found = list(encoding.json_entries(path))
    assert found == [("a", {"x": "1.5", "y": ["1", None]}), ("b", {}), ("c", {"x": "NaN"})]
    path.write_text('{"a": {}, "a": {"x": 1}}\n', encoding="utf-8")
    assert list(encoding.json_entries(path)) == [("a", {}), ("a", {"x": "1"})]
    path.write_text(" { } ", encoding="utf-8")
    assert list(encoding.json_entries(path)) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1}', "the entry 'a' is not an object"),
        ('{"a": {}, "b": [1]}', "the entry 'b' is not an object"),
        ('{"a": {}}\n{"b": {}}', "there is more behind it, '{\"b\": {}}'"),
        ('{"a": {}}xxxx', "there is more behind it, 'xxxx'"),
        ('{}{"b": {}}', "there is more behind it"),
        ('x{"a": {}}', "'x{\"a\": {}}' comes where { must"),
        ('{"a": {},}', "not a JSON object of objects"),
        ('{"a" {}}', "comes where : must"),
        ('{"a": {}, , "b": {}}', "not a JSON object of objects"),
        ('{"a": {} "b": {}}', "comes where , or } must"),
        ('{"a": {"x": 1, "y": 2, "x": 3}}', "'x' stands twice in one object"),
        ('{"a": {"x": {"y": 2, "y": 2}}}', "'y' stands twice in one object"),
        ("[1]", "not a JSON object of objects"),
        ('{"a": {"x": 1}', "not a JSON object of objects"),
        ('{"a": {"x" 1}}', "not a JSON object of objects"),
        ("", "not a JSON object of objects"),
        (b'{"\xff": {}}', "not a JSON object of objects"),
    ],
)
def test_json_of_another_form_is_refused(tmp_path, content, words):
    path = tmp_path / "file.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=words) as error:
        list(encoding.json_entries(path))
    assert str(error.value).startswith(str(path))
