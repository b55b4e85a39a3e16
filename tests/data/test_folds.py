import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from annot_hf.data.folds import (
    describe_splits,
    divide_as,
    draw_groups,
    find_leaks,
    group_items,
    make_folds,
    read_folds,
    strata_of,
)
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

GROUP_SIZES = st.lists(st.integers(1, 30), min_size=3, max_size=25)


def groups_of(sizes):
    return np.repeat([f"g{number}" for number in range(len(sizes))], sizes)


@given(GROUP_SIZES, st.integers(2, 6), st.integers(0, 5))
def test_every_item_is_tested_once_a_repeat_and_no_group_is_cut(sizes, folds, seed):
    folds = max(3, min(folds, len(sizes))) if len(sizes) < 4 else min(folds, len(sizes))
    groups = groups_of(sizes)
    divided = list(make_folds(groups, folds=folds, repeats=2, seed=seed))
    assert [(fold.repeat, fold.number) for fold in divided] == [(r, f) for r in range(2) for f in range(folds)]
    for repeat in range(2):
        tested = np.stack([fold.parts == "test" for fold in divided if fold.repeat == repeat])
        assert (tested.sum(0) == 1).all()
        counts, numbers = tested.sum(1), [len(set(groups[row])) for row in tested]
        assert max(counts) - min(counts) <= max(sizes) and max(numbers) - min(numbers) <= 1
    for fold in divided:
        inside = [set(groups[fold.parts == part]) for part in ("train", "validation", "test")]
        assert all(inside) and sum(map(len, inside)) == len(sizes)


def test_repeats_differ_although_every_group_has_a_size_of_its_own():
    """Largest group into the smallest fold would give one and the same division: only its seed would differ."""
    groups = groups_of(range(1, 16))
    divided = make_folds(groups, folds=5, repeats=6)
    tests = {frozenset(groups[fold.parts == "test"]) for fold in divided}
    assert len(tests) > 20


def test_folds_follow_from_the_seed_and_not_from_how_many_repeats_there_are():
    groups = groups_of([4] * 10)
    few, many, other = (
        [fold.parts.tolist() for fold in make_folds(groups, repeats=repeats, seed=seed)]
        for repeats, seed in ((1, 0), (3, 0), (1, 1))
    )
    assert many[:5] == few and other != few
    fold = next(make_folds(groups))
    items = [f"i{number}" for number in range(40)]
    assert fold.digest(items) == fold.digest(items) != next(make_folds(groups, seed=1)).digest(items)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.6])
def test_the_validation_part_is_the_share_that_was_asked_for(share):
    groups = groups_of([3] * 100)
    for fold in make_folds(groups, repeats=1, validation=share):
        held, train = ((fold.parts == part).sum() for part in ("validation", "train"))
        assert held / (held + train) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([2, 2, 2], {"folds": 5}, "There are 3 conversations for 5 folds"),
        ([2, 2], {"folds": 2}, "training and validation need one each"),
        ([2, 2, 2], {"folds": 2}, "There are 3 conversations for 2 folds, and training and validation need one each"),
        ([2] * 9, {"folds": 1}, "folds is 1; give a whole number from 2"),
        ([2] * 9, {"folds": True}, "folds is True"),
        ([2] * 9, {"repeats": 0}, "repeats is 0; give a whole number from 1"),
        ([2] * 9, {"validation": 0.0}, r"validation is 0\.0; give a share between 0 and 1"),
    ],
)
def test_divisions_that_cannot_be(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        make_folds(groups_of(sizes), unit="conversation", **options)


ABOUT = pd.DataFrame(
    {"item": ["a", "b", "c"], "speaker": [None] * 3, "conversation": [1, 1, 2], "room": ["x", None, "y"]}
)


def test_the_column_that_groups_items():
    assert group_items(ABOUT, ["c", "a"])[0] == "conversation"
    assert group_items(ABOUT, ["c", "a"])[1].tolist() == ["2", "1"]
    assert group_items(ABOUT.drop(columns="conversation"), ["a", "b"])[0] == "item"  # no speaker is named
    named = ABOUT.assign(speaker=["s", "t", "t"]).drop(columns="conversation")
    assert group_items(named, ["a", "b"])[0] == "speaker"
    assert group_items(named.assign(document="d"), ["a", "b"])[0] == "document"
    assert group_items(ABOUT, ["a", "b"], "item")[1].tolist() == ["a", "b"]
    assert group_items(ABOUT, ["a", "c"], "room")[1].tolist() == ["x", "y"]  # an item that takes no part needs none
    with pytest.raises(ValueError, match=r"no column 'conversatin' \(did you mean 'conversation'\?\)"):
        group_items(ABOUT, ["a"], "conversatin")
    with pytest.raises(ValueError, match="never of raters"):
        group_items(ABOUT, ["a"], "annotator")
    with pytest.raises(ValueError, match="1 of 3 items have no room, for instance 'b'"):
        group_items(ABOUT, ["a", "b", "c"], "room")


@given(GROUP_SIZES, st.integers(0, 5), st.data())
def test_drawn_groups_are_whole_and_no_more_than_needed(sizes, seed, data):
    groups = groups_of(sizes)
    items = data.draw(st.integers(1, len(groups)))
    drawn = draw_groups(groups, items, seed)
    kept, left = set(groups[drawn]), set(groups[~drawn])
    assert not kept & left
    assert items <= drawn.sum() < items + max(sizes)
    more = draw_groups(groups, min(items + 1, len(groups)), seed)
    assert not (drawn & ~more).any()  # more items include these


@pytest.mark.parametrize("items", [0, 7, True, 2.5])
def test_items_that_cannot_be_drawn(items):
    with pytest.raises(ValueError, match=f"items is {items}; give a whole number from 1 to 6"):
        draw_groups(groups_of([2, 2, 2]), items, 0)


def test_stratified_folds_keep_groups_and_shares():
    generator = np.random.default_rng(0)
    groups = groups_of(generator.integers(2, 6, 60))
    probs = np.eye(3)[generator.choice(3, len(groups), p=[0.7, 0.2, 0.1])] * 0.8 + 0.2 / 3
    probs[::2] = probs[::2] * 0.5 + 0.5 / 3
    strata = strata_of(probs)
    rare = strata // 3 == 2
    spreads = {}
    for name, one in (("stratified", strata), ("free", None)):
        folds = list(make_folds(groups, folds=5, repeats=2, strata=one))
        for fold in folds:
            inside = [set(groups[fold.parts == part]) for part in ("train", "validation", "test")]
            assert sum(map(len, inside)) == len(set(groups))
        spreads[name] = np.std([rare[fold.parts == "test"].mean() for fold in folds])
    assert spreads["stratified"] < 0.5 * spreads["free"]
    assert [f.parts.tolist() for f in make_folds(groups, strata=strata)] == [
        f.parts.tolist() for f in make_folds(groups, strata=strata)
    ]


def test_strata_are_labels_and_thirds_of_entropy():
    probs = np.array([[1, 0], [0.9, 0.1], [0.6, 0.4], [0, 1], [0.1, 0.9], [0.5, 0.5]])
    assert strata_of(probs).tolist() == [0, 1, 2, 3, 4, 2]


ITEMS = ["a", "b", "c", "d", "e", "f"]
GROUPS = np.array(["1", "1", "2", "3", "4", "4"], dtype=object)


def written(tmp_path, *lines):
    path = tmp_path / "folds.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_folds_of_a_file(tmp_path):
    rows = [f"{item},{fold}" for item, fold in zip(ITEMS, ["x", "x", "y", "y", "z", "z"], strict=True)]
    table = read_folds(written(tmp_path, "\ufeffitem,fold", *rows, "elsewhere,x"))
    folds = divide_as(table, ITEMS, GROUPS, repeats=2, validation=0.3)
    assert [(fold.repeat, fold.number) for fold in folds] == [(r, n) for r in (0, 1) for n in range(3)]
    for fold, tested in zip(folds, 2 * ["ab", "cd", "ef"], strict=True):
        assert "".join(np.array(ITEMS)[fold.parts == "test"]) == tested
        parts = [set(GROUPS[fold.parts == part]) for part in ("train", "validation", "test")]
        assert all(parts) and sum(map(len, parts)) == 4


def test_parts_of_a_file_are_kept(tmp_path):
    lines = [
        "0,a,train",
        "0,b,train",
        "0,c,validation",
        "0,d,test",
        "1,a,test",
        "1,b,test",
        "1,c,train",
        "1,d,validation",
    ]
    table = read_folds(written(tmp_path, "fold,item,part", *lines))
    first, second = divide_as(table, ITEMS, GROUPS)
    assert first.parts.tolist() == ["train", "train", "validation", "test", "", ""]
    assert second.parts.tolist() == ["test", "test", "train", "validation", "", ""]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["item,fold", "a,x", "a,y"], "row 3: item 'a' of fold 'y' is there twice"),
        (["item,fold", "a,x", "b,x"], "fewer than two folds"),
        (
            ["item,fold,part", "a,x,dev", "b,y,test"],
            "row 2: item 'a' of fold 'x' has no part of train, validation, test",
        ),
        (["item,fold,part", "a,x,test", "a,y,test"], "row 3: item 'a' of fold 'y' is tested in two folds"),
        (["item,folds", "a,x"], "fold"),
        (
            ["item,fold", "a,x", "b,y", "c,x", "d,y"],
            "Fold 'x' of the file has 1 speakers in several parts, such as '1'",
        ),
        (
            ["item,fold,part", "a,x,test", "b,x,test", "c,x,train", "d,y,test"],
            "Fold 'x' of the file has no items to valid",
        ),
    ],
)
def test_files_of_folds_that_cannot_be(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        divide_as(read_folds(written(tmp_path, *lines)), ITEMS, GROUPS, unit="speaker")


def test_leaks_are_found_and_splits_described():
    items = pd.DataFrame(
        {
            "item": ["a", "b", "c", "d"],
            "split": ["train", "train", "test", "test"],
            "speaker": ["s1", "s2", "s2", None],
            "session": [1, 1, 2, 2],
        }
    )
    assert find_leaks(items) == {"speaker": ["s2"]}
    assert find_leaks(items.assign(session=1)) == {"speaker": ["s2"], "session": ["1"]}
    assert find_leaks(items, ["session"]) == {}
    asked = Question.category("mood", ["x", "y"])
    votes = VoteTable.from_columns(
        asked, item=["a", "b", "c", "c"], annotator=["p", "q", "q", "r"], value=["x", "y", "x", "y"]
    )
    found = describe_splits(items, votes)
    assert found.loc["train"].to_dict() == {
        "items": 2,
        "votes": 2,
        "raters": 2,
        "raters in other splits": 1,
        "raters without a vote in train": 0,
        "speakers": 2,
        "speakers in other splits": 1,
        "sessions": 1,
        "sessions in other splits": 0,
    }
    assert found.loc["test"].tolist() == [2, 2, 2, 1, 1, 1, 1, 1, 0]


def test_equal_texts_are_leaks_in_a_corpus_of_texts():
    items = pd.DataFrame(
        {
            "item": list("abcde"),
            "split": ["train", "test", "test", "train", "test"],
            "text": ["so?", "so?", "no", "no", None],
        }
    )
    assert find_leaks(items) == {"text": ["no", "so?"]}
    assert find_leaks(items.assign(split=["train", "train", "test", "test", "test"])) == {}
    # Many actors say one sentence, and a model hears them.
    assert find_leaks(items.assign(file=None)) == {}
    asked = Question.category("mood", ["x", "y"])
    votes = VoteTable.from_columns(asked, item=["a", "b"], annotator=["p", "q"], value=["x", "y"])
    assert describe_splits(items, votes)[["texts", "texts in other splits"]].to_numpy().tolist() == [[2, 2], [2, 2]]


def test_leaks_are_found_among_many_texts_in_bounded_memory():
    places = np.arange(100_000)
    texts = pd.Series([f"sentence {place} " * 20 for place in places[1:]])
    items = pd.DataFrame({"text": [texts[8], *texts], "split": np.where(places % 2, "train", "test")})
    tracemalloc.start()
    assert find_leaks(items, ["text"]) == {"text": [texts[8]]}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The texts have 30 MB.
    assert peak < 16e6


def test_shares_of_an_unknown_number_are_no_votes_of_a_split():
    items = pd.DataFrame({"item": ["a", "b"], "split": ["train", "test"]})
    asked = Question.category("mood", ["x", "y"], shares=True)
    votes = VoteTable.from_shares(asked, ["a", "b"], np.array([[0.3, 0.7], [1, 0]]))
    assert describe_splits(items, votes)[["items", "votes", "raters"]].to_numpy().tolist() == [[1, 0, 0], [1, 0, 0]]
