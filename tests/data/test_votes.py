"""Vote tables: counts against plain Python, laws of select and concat, round trips, and every refusal."""

from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable, align_rows

EMOTION = Question.category("emotion", ["anger", "joy", "sad"])
VALENCE = Question.scale("valence", 1, 5)
ALL = Question.category("all", ["anger", "joy"], multiple=True)

ROWS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["r1", "r2", "r3", None]), st.sampled_from(EMOTION.labels)),
    min_size=1,
    max_size=25,
)


def table(rows, **options):
    item, annotator, value = zip(*rows, strict=True)
    return VoteTable.from_columns(EMOTION, item=item, annotator=annotator, value=value, duplicates="keep", **options)


def mixed(**options):
    return VoteTable.from_columns(
        [EMOTION, VALENCE, ALL],
        item=["a", "a", "b", "b", "b", "b"],
        question=["emotion", "valence", "emotion", "valence", "all", "all"],
        annotator=["r", "r", "r", None, "s", "t"],
        value=["joy", "4", "sad", "1.5", "joy", None],
        **options,
    )


def same(one, other):
    return one.to_arrow().combine_chunks().to_pylist() == other.to_arrow().combine_chunks().to_pylist()


# --- columns


@given(rows=ROWS)
def test_counts_against_a_counter(rows):
    votes = table(rows)
    counts, tally = votes.counts("emotion"), Counter((item, label) for item, _, label in rows)
    assert list(votes.items) == list(dict.fromkeys(item for item, _, _ in rows))
    for i, item in enumerate(votes.items):
        assert counts[i].tolist() == [tally[item, label] for label in EMOTION.labels]
    assert counts.sum() == len(votes) == len(rows)
    aligned = votes.counts("emotion", items=["z", *votes.items[::-1]])
    np.testing.assert_array_equal(aligned, np.vstack([np.zeros(3), counts[::-1]]))


def test_one_table_holds_categories_scales_and_several_labels():
    votes = mixed()
    assert votes.label_codes.tolist() == [1, -1, 2, -1, 1, -1]
    np.testing.assert_array_equal(votes.ratings, [np.nan, 4, np.nan, 1.5, np.nan, np.nan])
    assert votes.annotator_codes.tolist() == [0, 0, 0, -1, 1, 2]
    assert votes.counts("all").tolist() == [[0, 0], [0, 1]]
    assert votes.counts("emotion").tolist() == [[0, 1, 0], [0, 0, 1]]
    assert votes.question("valence") == VALENCE and len(votes) == 6
    assert repr(votes) == "VoteTable(6 votes, 2 items, 3 annotators: emotion, valence, all)"
    assert list(votes.to_pandas().columns)[:4] == ["item", "annotator", "question", "label"]


@pytest.mark.parametrize(
    "column",
    [
        ["joy", "sad", "joy"],
        np.array(["joy", "sad", "joy"]),
        np.array(["joy", "sad", "joy"], dtype=object),
        pd.Series(["joy", "sad", "joy"]),
        pd.Categorical(["joy", "sad", "joy"], categories=["unused", "sad", "joy"]),
        pa.array(["joy", "sad", "joy"], pa.large_string()),
        pa.array(["joy", "sad", "joy"], pa.string_view()),
        pa.chunked_array([["joy"], ["sad", "joy"]]),
        pa.chunked_array([pa.array(["joy"]).dictionary_encode(), pa.array(["sad", "joy"]).dictionary_encode()]),
    ],
    ids=["list", "str", "object", "series", "categorical", "large", "view", "chunks", "dictionary chunks"],
)
def test_any_column_of_text(column):
    votes = VoteTable.from_columns(EMOTION, item=["a", "a", "b"], value=column)
    assert votes.label_codes.tolist() == [1, 2, 1] and votes.label_codes.dtype == np.int32


@pytest.mark.parametrize("column", [[1, 5, 2], [1.0, 5.0, 2.0], ["1", "5.0", " 2"], np.array([1, 5, 2], np.int8)])
def test_any_column_of_numbers(column):
    votes = VoteTable.from_columns(VALENCE, item=[7, 7, 8], value=column)
    assert votes.ratings.tolist() == [1, 5, 2] and list(votes.items) == ["7", "8"]


def test_labels_given_as_numbers():
    digits = Question.category("level", ["0", "1"])
    for column in ([0, 1, 1], [0.0, 1.0, 1.0], pd.Categorical([0, 1, 1])):
        assert VoteTable.from_columns(digits, item=list("abc"), value=column).label_codes.tolist() == [0, 1, 1]


def test_weights_and_sources():
    votes = VoteTable.from_columns(
        EMOTION, item=["a", "a"], value=["joy", "sad"], weight=[0.5, 2], source=["crowd", None]
    )
    assert votes.counts("emotion").tolist() == [[0, 0.5, 2]]
    assert votes.source_codes.tolist() == [0, -1] and list(votes.sources) == ["crowd"]
    assert VoteTable.from_columns(EMOTION, item=["a"], value=["joy"], weight=[1]).weights is None
    assert list(VoteTable.from_columns(EMOTION, item=["a"], value=["joy"], source="lab").sources) == ["lab"]


def test_repeats_and_unknown_values_can_be_dropped_and_are_counted():
    rows = {"item": ["a", "a", "a", "b"], "annotator": ["r", "r", None, "s"], "value": ["joy", "sad", "sad", "rage"]}
    votes = VoteTable.from_columns(EMOTION, **rows, duplicates="first", unknown="drop")
    assert votes.exclusions == {"values outside the question": 1, "repeated votes of one annotator": 1}
    assert votes.counts("emotion").tolist() == [[0, 1, 1]] and list(votes.annotators) == ["r"]
    anonymous = VoteTable.from_columns(EMOTION, item=["a", "a"], value=["joy", "joy"])
    assert len(anonymous) == 2
    several = VoteTable.from_columns(ALL, item=["a", "a"], annotator=["r", "r"], value=["joy", "anger"])
    assert several.counts("all").tolist() == [[1, 1]]


# --- counts, round trips, laws


@given(counts=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=6))
def test_counts_round_trip(counts):
    if not np.sum(counts):
        return
    items = [f"clip {i}" for i in range(len(counts))]
    votes = VoteTable.from_counts(EMOTION, items, counts, source="published")
    np.testing.assert_array_equal(votes.counts("emotion"), counts)
    assert list(votes.items) == items and len(votes) == np.sum(counts) and (votes.annotator_codes < 0).all()
    assert list(votes.sources) == ["published"] and (votes.source_codes == 0).all()


@given(rows=ROWS)
def test_arrow_round_trip(rows):
    votes = table(rows, source="lab")
    back = VoteTable.from_arrow(votes.to_arrow(), [EMOTION])
    assert same(votes, back) and votes.to_arrow().equals(back.to_arrow())


def test_arrow_round_trip_of_mixed_questions():
    votes = mixed(weight=[1, 2, 0.5, 1, 1, 0])
    back = VoteTable.from_arrow(votes.to_arrow().append_column("extra", [list(range(6))]), votes.questions)
    assert votes.to_arrow().equals(back.to_arrow()) and back.questions == votes.questions


@given(rows=ROWS, cut=st.integers(0, 25))
def test_select_then_concat_gives_all_votes_back(rows, cut):
    votes, mask = table(rows), np.arange(len(rows)) < cut
    parts = [votes.select(mask=m) for m in (mask, ~mask) if m.any()]
    joined = VoteTable.concat(parts)
    assert same(joined, votes)
    np.testing.assert_array_equal(joined.counts("emotion"), votes.counts("emotion"))
    assert sum(len(part) for part in parts) == len(votes)


@given(rows=ROWS, items=st.sets(st.sampled_from("abcd")), annotators=st.sets(st.sampled_from(["r1", "r2", "r3"])))
def test_select_by_name(rows, items, annotators):
    chosen = table(rows).select(items=items, annotators=annotators)
    expected = [row for row in rows if row[0] in items and row[1] in annotators]
    assert len(chosen) == len(expected) and set(chosen.items) == {row[0] for row in expected}
    np.testing.assert_array_equal(
        chosen.items[chosen.item_codes].astype(str), np.array([row[0] for row in expected], dtype=str)
    )
    once, twice = table(rows).select(items=items), table(rows).select(items=items).select(items=items)
    assert same(once, twice)


def test_selected_votes_keep_their_weights_and_sources():
    votes = mixed(weight=[1, 2, 0.5, 1, 1, 0], source=["x", None, "y", "x", "x", "y"])
    part = votes.select(mask=np.array([False, True, True, False, False, True]))
    assert part.weights.tolist() == [2, 0.5, 0]
    first, second = (votes.select(mask=part_of, items=["a"]) for part_of in (np.arange(6) < 1, np.arange(6) > 0))
    assert first.weights.tolist() == [1] and second.weights.tolist() == [2]
    assert part.to_pandas()["source"].tolist() == votes.to_pandas()["source"].iloc[[1, 2, 5]].tolist()


def test_select_questions():
    only = mixed().select(questions=["valence"])
    assert only.questions == (VALENCE,) and only.ratings.tolist() == [4, 1.5]
    assert only.question_codes.tolist() == [0, 0]
    turned = mixed().select(questions=["all", "emotion"])
    assert turned.questions == (ALL, EMOTION) and turned.counts("emotion").sum() == 2
    assert len(mixed().select(items=["nowhere"])) == 0


def test_align_rows():
    rows = np.array([[1, 2], [3, 4]])
    assert align_rows(rows, ["a", "b"], ["b", "x", "b"]).tolist() == [[3, 4], [0, 0], [3, 4]]
    assert align_rows(rows[:0], [], ["x"]).tolist() == [[0, 0]] and align_rows(rows[:0], [], ["x"]).dtype == rows.dtype


def test_joined_tables_add_up_what_each_left_out():
    parts = [
        table([("a", "r", label) for label in labels], unknown="drop") for labels in (["joy", "?"], ["?", "?", "sad"])
    ]
    assert VoteTable.concat([*parts, mixed()]).exclusions == {"values outside the question": 3}


def test_csv(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text('item,annotator,question,value,weight\na,r,emotion,joy,1\na,,valence,4,2\n"b,1",NA,emotion,sad,1\n')
    votes = VoteTable.from_csv(path, [EMOTION, VALENCE])
    assert list(votes.items) == ["a", "b,1"] and list(votes.annotators) == ["r", "NA"]
    assert (
        votes.annotator_codes.tolist() == [0, -1, 1] and votes.ratings[1] == 4 and votes.weights.tolist() == [1, 2, 1]
    )
    back = VoteTable.from_csv(path, [EMOTION, VALENCE], unknown="drop", duplicates="first")
    assert same(votes, back)


# --- refusals


def build(questions=EMOTION, **columns):
    return lambda: VoteTable.from_columns(questions, **({"item": ["a", "b"], "value": ["joy", "sad"]} | columns))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            build(value=["joy", "hapy"]),
            "row 1 has value 'hapy' for question 'emotion'.*one of anger, joy, sad.*unknown=\"drop\"",
        ),
        (build(value=["joy", "angr"]), "did you mean 'anger'"),
        (build(value=["joy", None]), "row 1 has value None"),
        (build(VALENCE, value=[1, 5.5]), "row 1 has value 5.5.*a number from 1 to 5"),
        (build(VALENCE, value=["3", "high"]), "row 1 has value 'high'.*a number from 1 to 5"),
        (build(VALENCE, value=[3, float("nan")]), "row 1 has value None"),
        (build(VALENCE, value=["3", "inf"]), "row 1 has value 'inf'"),
        (
            build([EMOTION, VALENCE], question=["emotion", "valence"], value=["joy", "joy"]),
            "row 1.*for question 'valence'",
        ),
        (build([EMOTION, VALENCE], question=["emotion", "valence"], value=["3", "3"]), "row 0 has value '3'"),
        (build(item=["a", None]), "row 1 has no item"),
        (build(item=[], value=[]), "no rows"),
        (build(item="a"), "item is 'a'; give one entry per vote"),
        (build(value=None), "value is None"),
        (build(value=["joy"]), "value has 1 rows and item has 2"),
        (build(question=["emotion", "emotoin"]), "row 1 answers question 'emotoin' .did you mean 'emotion'"),
        (build(question=["emotion", None]), "row 1 answers question None"),
        (build(question="mood"), "answers question 'mood'"),
        (build(question=pd.Categorical(["mood", "emotion"])), "row 0 answers question 'mood'"),
        (build([EMOTION, VALENCE]), "2 questions but no question column"),
        (build([]), "there is no question"),
        (build([EMOTION, EMOTION], question="emotion"), "two questions are called 'emotion'"),
        (build([VALENCE, EMOTION, EMOTION], question="emotion"), "two questions are called 'emotion'"),
        (
            build(item=["a", "a"], annotator=["r", "r"]),
            "row 1 repeats annotator 'r' on item 'a', question 'emotion'.*\"first\"",
        ),
        (build(weight=[1, float("nan")]), "row 1 has weight nan"),
        (build(weight=[1, None]), "row 1 has weight nan"),
        (build(weight=[-1, 1]), "row 0 has weight -1"),
        (build(weight=[1, float("inf")]), "row 1 has weight inf"),
        (build(weight=["1", "much"]), "weight is not numeric"),
        (build(item=[["a"], ["b"]]), "column item holds values of type list"),
        (build(item=pa.DictionaryArray.from_arrays([0, 1], ["a", "a"])), "item 'a' is listed twice"),
        (lambda: VoteTable.from_counts(EMOTION, ["a"], [[1, 2]]), r"shape \(1, 2\).*= \(1, 3\)"),
        (lambda: VoteTable.from_counts(EMOTION, ["a"], [[1, 2, -1]]), "Item 'a' has count -1 for label 'sad'"),
        (lambda: VoteTable.from_counts(EMOTION, ["a"], [[1, 0.5, 0]]), "count 0.5 for label 'joy'.*whole numbers"),
        (lambda: VoteTable.from_counts(EMOTION, ["a"], [[1, np.nan, 0]]), "count nan"),
        (lambda: VoteTable.from_counts(EMOTION, ["a", "a"], [[1, 0, 0]] * 2), "item 'a' is listed twice"),
        (lambda: VoteTable.from_counts(EMOTION, ["a"], [[0, 0, 0]]), "no rows"),
        (lambda: mixed().counts("valence"), "'valence' is a scale; only category questions have a vote histogram"),
        (lambda: mixed().counts("valance"), "no question 'valance' .did you mean 'valence'"),
        (lambda: mixed().select(questions=["mood"]), "no question 'mood'"),
        (lambda: mixed().select(mask=[True]), "one boolean per vote .6."),
        (lambda: mixed().select(mask=np.arange(6)), "mask has type int64"),
        (lambda: VoteTable.concat([]), "no vote table to join; give at least one."),
        (
            build(duplicates="firstt"),
            "duplicates is 'firstt' .did you mean 'first'.*; use 'error' or 'first' or 'keep'",
        ),
        (build(unknown="ignore"), "unknown is 'ignore'; use 'error' or 'drop'"),
        (build(value=["hapy", "x"], unknown="drop"), "no rows left, since none of 2 values fits its question"),
        (build(value=[["joy"], ["sad"]]), "column value holds values of type list.*; give text or numbers"),
        (build(VALENCE, value=[[1], [2]]), "column value holds values of type list.*; give text or numbers"),
        (build(value=["joy", ["sad"]]), "column value holds values of type list; give text or numbers"),
        (build(weight=[[1], [2]]), "column weight holds values of type list"),
        (build(item=["a", ""]), "row 1 has no item"),
        (lambda: VoteTable.from_counts(EMOTION, ["a"], [[1, np.inf, 0]]), "Item 'a' has count inf for label 'joy'"),
        (lambda: VoteTable.from_counts(EMOTION, ["a"], [["1", "2", "x"]]), "no table of numbers.*whole numbers from 0"),
        (lambda: VoteTable.from_counts(EMOTION, ["a"], [["1", "2", "3"]]), "have type <U1; counts are whole numbers"),
        (lambda: VoteTable.from_counts(EMOTION, ["a", "b"], [[1, 2, 3], [1]]), "no table of numbers"),
        (
            lambda: VoteTable.from_counts(VALENCE, ["a"], [[1]]),
            "'valence' is a scale; only a category question has counts",
        ),
        (lambda: VoteTable.from_arrow(pa.table({"item": ["a"]}), [EMOTION]), "no column 'question'"),
    ],
)
def test_what_is_refused_and_why(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_empty_name_is_no_name():
    votes = VoteTable.from_columns(
        EMOTION, item=["a", "a", "a"], annotator=["", "r", ""], value=["joy", "sad", "joy"], source=["x", "", "x"]
    )
    assert list(votes.annotators) == ["r"] and votes.annotator_codes.tolist() == [-1, 0, -1]
    assert list(votes.sources) == ["x"] and votes.source_codes.tolist() == [0, -1, 0]


def test_two_meanings_of_one_question_do_not_join():
    other = VoteTable.from_columns(Question.category("emotion", ["joy"]), item=["a"], value=["joy"])
    with pytest.raises(ValueError, match="'emotion' is defined in two ways"):
        VoteTable.concat([mixed(), other])
    joined = VoteTable.concat([mixed(), mixed()])
    assert len(joined) == 12 and list(joined.items) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("item,label\na,joy\n", "unknown column 'label'.*the columns are item, value"),
        ("item,valu\na,joy\n", "unknown column 'valu' .did you mean 'value'"),
        ("item\na\n", "no column 'value'"),
        ("value\njoy\n", "no column 'item'"),
        ("item,value,value\na,joy,joy\n", "'value' occurs twice"),
        ("item,value\na,joy\nb\n", "not a readable CSV file.*Expected 2 columns"),
        ("", "not a readable CSV file"),
        ("item,value\n", "no rows"),
        ("item,value\na,joy\nb,rage\n", "votes.csv: row 1 has value 'rage'"),
        ("item,value,weight\na,joy,x\n", "weight is not numeric"),
    ],
)
def test_csv_errors_name_the_file(tmp_path, text, words):
    path = tmp_path / "votes.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        VoteTable.from_csv(path, [EMOTION])
    assert str(path) in str(caught.value)


@pytest.mark.real_data
def test_cremad_counts_survive_the_expansion_to_votes(shared_data):
    frame = pd.read_csv(shared_data / "cremad" / "votes.csv.gz").query("modality == 'voice' and n > 0")
    labels = ["anger", "disgust", "fear", "happy", "neutral", "sad"]
    votes = VoteTable.from_counts(Question.category("emotion", labels), frame["clip"], frame[labels])
    np.testing.assert_array_equal(votes.counts("emotion"), frame[labels])
    assert len(votes) == frame["n"].sum() and list(votes.items) == list(frame["clip"])
