"""Vote tables: counts against plain Python, laws of select and concat, round trips, and every refusal."""

from collections import Counter

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.export import export_corpus
from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
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


FIVE = Question.category("level", ["1", "2", "3", "4", "5"])


@pytest.mark.parametrize("questions", [(FIVE,), (EMOTION, FIVE), (Question.category("digit", list("0123")), FIVE)])
@pytest.mark.parametrize("column", [[1, 2], [1.0, 2.0], np.array([1, 2]), pd.Series([1, None]), pa.array([1, 2])])
def test_numbers_that_may_be_labels_or_places_are_refused(questions, column):
    with pytest.raises(ValueError, match="1 may be label '1' of question 'level' or the position of its label '2'"):
        VoteTable.from_columns(questions, item=["a", "b"], question="level", value=column)
    named = VoteTable.from_columns(questions, item=["a", "b"], question="level", value=pd.Categorical([1, 5]))
    assert named.counts("level").tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_numbers_for_a_scale_beside_labels_of_digits():
    questions = (Question.scale("sure", 0, 9), FIVE)
    assert VoteTable.from_columns(questions, item=["a"], question="sure", value=[3]).ratings.tolist() == [3]


class Levels(VoteCorpus):
    name, questions, default_questions = "levels", (EMOTION, FIVE), ("level",)

    def read_items(self):
        return pd.DataFrame({"item": ["a", "b"], "text": ["x", "y"], "speaker": ["p", "q"], "split": "train"})

    def read_votes(self):
        said = {"item": ["a", "a", "b", "b"], "question": ["level"] * 3 + ["emotion"], "value": ["1", "4", "5", "sad"]}
        return VoteTable.from_columns(self.questions, **said)


def test_codes_of_an_export_are_read_by_the_names_of_its_schema(tmp_path):
    export_corpus(Levels(tmp_path), tmp_path / "out")
    dataset = datasets.load_dataset(str(tmp_path / "out"), "votes", split="train", cache_dir=str(tmp_path / "cache"))
    table = pq.read_table(tmp_path / "out" / "votes" / "train.parquet")
    for one in (table, table.slice(0, 4), dataset.data, dataset.data.table, dataset.with_format("arrow")[:]):
        votes = VoteTable.from_arrow(one, Levels.questions)
        assert votes.counts("level").tolist() == [[1, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
        assert votes.counts("emotion", ["b"]).tolist() == [[0, 0, 1]]
    with pytest.raises(
        ValueError,
        match=r"column label holds int64 without the names of the labels; keep the schema that `datasets` wrote",
    ):
        VoteTable.from_arrow(table.replace_schema_metadata(), Levels.questions)
    far = pa.array([0, 1, 2, 8])
    with pytest.raises(ValueError, match="column label has a code beyond its 8 names"):
        VoteTable.from_arrow(table.set_column(table.column_names.index("label"), "label", far), Levels.questions)


def test_every_coded_column_has_its_names():
    names = {"item": ["x", "y"], "annotator": ["ann", "ben"], "question": ["emotion"], "label": ["joy", "sad"]}
    features = {name: datasets.ClassLabel(names=one) for name, one in names.items()} | {
        "rating": datasets.Value("float64")
    }
    columns = {"item": [0, 1], "annotator": [1, None], "question": [0, 0], "label": [0, 1], "rating": [None, None]}
    votes = VoteTable.from_arrow(pa.table(columns, datasets.Features(features).arrow_schema), [EMOTION])
    assert list(votes.items) == ["x", "y"] and list(votes.annotators) == ["ben"]
    assert votes.counts("emotion").tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_dictionary_that_lists_a_name_twice_or_a_null():
    raters = pa.DictionaryArray.from_arrays([0, 1, 2], pa.array(["r", "r", None]))
    said = {"item": ["a", "b", "b"], "value": pa.DictionaryArray.from_arrays([0, 1, 1], ["joy", "joy"])}
    votes = VoteTable.from_columns(EMOTION, annotator=raters, **said)
    assert list(votes.annotators) == ["r"] and votes.annotator_codes.tolist() == [0, 0, -1]
    with pytest.raises(ValueError, match="row 1 has no item"):
        VoteTable.from_columns(
            EMOTION, item=pa.DictionaryArray.from_arrays([0, 1], pa.array(["a", None])), value=["joy", "joy"]
        )


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


@pytest.mark.parametrize("duplicates", ["error", "first", "keep"])
@pytest.mark.parametrize("values", [["??", "joy"], ["joy", "??"], ["??", "joy", "??"], ["??", "??"]])
def test_a_dropped_value_repeats_nothing_and_makes_no_vote_a_repeat(values, duplicates):
    rows = {"item": ["a"] * len(values) + ["b"], "annotator": ["r"] * (len(values) + 1), "value": [*values, "sad"]}
    votes = VoteTable.from_columns(EMOTION, **rows, duplicates=duplicates, unknown="drop")
    assert votes.exclusions == {"values outside the question": values.count("??")}
    assert votes.counts("emotion", ["a", "b"]).tolist() == [[0, values.count("joy"), 0], [0, 0, 1]]
    assert len(votes) + sum(votes.exclusions.values()) == len(values) + 1


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


SAID = pd.DataFrame({"item": list("aaaabbb"), "label": ["joy", "joy", "joy", "anger", "sad", "sad", "anger"]})
TRUTH = {"a": [1, 3, 0], "b": [1, 0, 2]}
CROSS = pd.crosstab(SAID["item"], SAID["label"])[["sad", "joy", "anger"]]


@pytest.mark.parametrize(
    "counts",
    [
        CROSS,
        CROSS.iloc[::-1],
        CROSS.astype("Int64"),
        CROSS.rename(columns=str).to_dict("series"),
        list(CROSS.to_dict("index").values()),
        [row for _, row in CROSS.iterrows()],
        pa.table(CROSS.reset_index(drop=True)),
        pa.record_batch(CROSS.reset_index(drop=True)),
        CROSS.to_dict("list"),
    ],
    ids=["frame", "rows turned", "nullable", "series", "dicts", "rows", "arrow", "batch", "lists"],
)
def test_counts_go_by_the_names_they_have(counts):
    votes = VoteTable.from_counts(EMOTION, ["a", "b"], counts)
    assert dict(zip(votes.items, votes.counts("emotion").tolist(), strict=True)) == TRUTH


def test_counts_of_a_frame_in_another_order_of_items():
    votes = VoteTable.from_counts(EMOTION, ["b", "a"], CROSS)
    assert list(votes.items) == ["b", "a"] and votes.counts("emotion").tolist() == [TRUTH["b"], TRUTH["a"]]
    frame = CROSS.reset_index().set_index(pd.Index([7, 3]))
    votes = VoteTable.from_counts(EMOTION, frame["item"], frame[list(EMOTION.labels)])
    assert votes.counts("emotion", ["a", "b"]).tolist() == [TRUTH["a"], TRUTH["b"]]


@pytest.mark.parametrize(
    ("items", "counts", "words"),
    [
        (["a", "b"], CROSS.drop(columns="sad"), "question 'emotion': there is no column 'sad'; name each column once"),
        (["a", "b"], CROSS.rename(columns={"sad": "Sad"}), "there is no column 'sad'"),
        (["a", "b"], CROSS.assign(other=0), "column 'other' is not expected"),
        (["a", "b"], CROSS[["sad", "sad", "joy", "anger"]], "column 'sad' occurs twice"),
        (["a"], CROSS, "row 'b' is not expected"),
        (["a", "b", "c"], CROSS, "there is no row 'c'"),
        (["x", "y"], CROSS, "there is no row 'x'"),
        (["x", "y"], CROSS.set_index(pd.Index([4, 5])), "there is no row 'x'"),
        (["1", "0"], CROSS.reset_index(drop=True), "the row numbers are among the names, in another order"),
    ],
)
def test_counts_whose_names_do_not_fit_are_refused(items, counts, words):
    with pytest.raises(ValueError, match=words):
        VoteTable.from_counts(EMOTION, items, counts)


def test_series_of_two_orders_are_refused_as_columns_and_as_a_mask():
    for value in (SAID["label"].sort_values(), SAID["label"].set_axis(SAID["item"])):
        with pytest.raises(ValueError, match="column value differs from that of item; take both from one"):
            VoteTable.from_columns(EMOTION, item=SAID["item"], value=value)
    part = SAID.iloc[[0, 4]]
    votes = VoteTable.from_columns(EMOTION, item=part["item"], value=part["label"].reset_index(drop=True))
    assert votes.counts("emotion").tolist() == [[0, 1, 0], [0, 0, 1]]
    frame = votes.to_pandas()
    assert list(votes.select(mask=(frame["item"] == "b")[::-1]).items) == ["b"]


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
        (build(weight=[1, 1e308]), "row 1 has weight 1e.308; weights are finite .*: 0, or from 1e-100 to 1e.100"),
        (build(weight=[5e-324, 1]), "row 0 has weight 5e-324"),
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
        (build(value=["hapy", "x"], unknown="drop"), "none of 2 values fits its question, so no rows are left"),
        (build(value=[["joy"], ["sad"]]), "column value holds values of type list.*; give text or numbers"),
        (build(VALENCE, value=[[1], [2]]), "column value holds values of type list.*; give text or numbers"),
        (build(value=["joy", ["sad"]]), "column value holds values of type list; give text or numbers"),
        (build(weight=[[1], [2]]), "column weight holds values of type list"),
        (build(item=["a", ""]), "row 1 has no item"),
        (lambda: VoteTable.from_counts(EMOTION, ["a"], [[1, np.inf, 0]]), "Item 'a' has count inf for label 'joy'"),
        (
            lambda: VoteTable.from_counts(EMOTION, ["a"], [["1", "2", "x"]]),
            "not a table of numbers.*whole numbers from 0",
        ),
        (lambda: VoteTable.from_counts(EMOTION, ["a"], [["1", "2", "3"]]), "have type <U1; counts are whole numbers"),
        (lambda: VoteTable.from_counts(EMOTION, ["a", "b"], [[1, 2, 3], [1]]), "not a table of numbers"),
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


@pytest.mark.parametrize(
    "names",
    [
        ["ann", "ann ", "ANN"],
        ["ann lee", "ann  lee", "ann\u00a0lee"],
        ["zo\u00eb", "zoe\u0308"],
        ["ann", "a\u200bnn"],
        ["ann", "\uff41nn"],
    ],
)
def test_raters_whose_names_look_alike_are_named_with_their_votes_and_stay_apart(names, tmp_path):
    many = range(1, len(names) + 1)
    rater = [name for name, times in zip(names, many, strict=True) for _ in range(times)]
    rows = {"item": [f"i{row}" for row in range(len(rater))] + ["x"], "annotator": [*rater, "ben"]}
    rows["value"] = ["joy"] * len(rows["item"])
    pd.DataFrame(rows).to_csv(tmp_path / "votes.csv", index=False)
    for read in (
        lambda: VoteTable.from_columns(EMOTION, **rows),
        lambda: VoteTable.from_csv(tmp_path / "votes.csv", EMOTION),
    ):
        with pytest.warns(
            UserWarning, match=f"{len(names)} rater names differ only in case, spaces or Unicode form"
        ) as said:
            votes = read()
        assert list(votes.annotators) == [*names, "ben"]
        assert all(f"{ascii(name)} ({times})" in str(said[0].message) for name, times in zip(names, many, strict=True))


def test_names_that_only_look_the_same_say_so():
    known = Question.category("colour", ["col\u00e8re", "joie"])
    hint = r"'col.*re' is known in another Unicode normal form, NFC or NFD"
    with pytest.raises(ValueError, match=hint):
        VoteTable.from_columns(known, item=["a"], value=["cole\u0300re"])
    votes = VoteTable.from_columns(known, item=["col\u00e8re"], value=["joie"])
    for call in (
        lambda: VoteTable.from_counts(known, ["a"], pd.DataFrame({"cole\u0300re": [1], "joie": [2]})),
        lambda: make_targets(votes, "colour", items=["cole\u0300re"]),
        lambda: make_targets(votes, "colour").select(["cole\u0300re"]),
    ):
        with pytest.raises(ValueError, match=hint):
            call()


def test_two_meanings_of_one_question_do_not_join():
    other = VoteTable.from_columns(Question.category("emotion", ["joy"]), item=["a"], value=["joy"])
    with pytest.raises(ValueError, match="'emotion' is defined differently"):
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


# --- shares


SHARES = Question.category("mood", ["calm", "tense"], shares=True)


def test_shares_become_weights_that_sum_to_one():
    table = VoteTable.from_shares(SHARES, ["a", "b"], [[0.25, 0.753], [0, 1]])
    np.testing.assert_allclose(table.counts("mood"), [[0.25 / 1.003, 0.753 / 1.003], [0, 1]])
    assert len(table) == 3 and (table.annotator_codes == -1).all()
    again = VoteTable.from_arrow(table.to_arrow(), [SHARES])
    np.testing.assert_array_equal(again.counts("mood"), table.counts("mood"))
    votes = VoteTable.from_columns(Question.category("emotion", ["x"]), item=["a"], annotator=["r"], value=["x"])
    joined = VoteTable.concat([votes, table])
    np.testing.assert_array_equal(joined.counts("mood", ["a", "b"]), table.counts("mood"))
    one = VoteTable.from_shares(SHARES, ["a"], pd.DataFrame({"tense": [1.0], "calm": [0.0]}, index=["a"]))
    assert one.counts("mood").tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([[0.5, 0.4]], "Item 'a' has shares .*, which sum to 0.9; the shares of an item are numbers from 0 up"),
        ([[1.5, -0.5]], "Item 'a' has shares"),
        ([[np.nan, 1]], "Item 'a' has shares"),
        ([[np.inf, 0]], "Item 'a' has shares"),
        ([[1.0]], r"have shape \(1, 1\); they must be \(items, labels\) = \(1, 2\)"),
        ([["x", "y"]], "are not a table of numbers"),
    ],
)
def test_what_is_no_distribution_is_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        VoteTable.from_shares(SHARES, ["a"], shares)


def test_shares_and_votes_are_not_confused():
    plain = Question.category("mood", ["calm", "tense"])
    with pytest.raises(ValueError, match="'mood' is one of votes; declare it with shares=True"):
        VoteTable.from_shares(plain, ["a"], [[0.5, 0.5]])
    for columns in (
        dict(item=["a", "a"], value=["calm", "tense"]),
        dict(item=["a"], value=["calm"], annotator=["r"]),
        dict(item=["a", "a"], value=["calm", "tense"], weight=[0.5, 0.4]),
    ):
        with pytest.raises(ValueError, match="'mood' is known as shares, which have no rater and sum to 1"):
            VoteTable.from_columns(SHARES, **columns)
