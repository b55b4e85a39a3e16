"""Who is mixed with whom: against brute force, by hand, and on hostile input."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from scipy.spatial.distance import cdist

from annot_hf.data.dime import check_apart, nearest_rows, plan_mixtures, standardise_columns
from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable

LABELS = ("anger", "joy", "fear", "calm")
SIZES = (60, 9, 2, 40)


def one_hot_ish(sizes, seed=0):
    """Distributions whose argmax is known: `sizes` items of each class, shuffled."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    probs = rng.dirichlet(np.ones(len(sizes)), len(classes)) * 0.4
    probs[np.arange(len(classes)), classes] += 0.6
    return classes, probs


@pytest.fixture
def corpus():
    """Classes, and what `plan_mixtures` takes: 111 items of four classes, five features of different size."""
    classes, probs = one_hot_ish(SIZES)
    features = np.random.default_rng(1).standard_normal((len(classes), 5)) * [1, 10, 0.01, 1e3, 1] + [0, 5, 0, -1e5, 0]
    names = [f"clip {number}" for number in range(len(classes))]
    speakers = [f"s{number % 4}" for number in range(len(classes))]
    return classes, {"items": names, "probs": probs, "features": features, "support": LABELS, "speakers": speakers}


def test_partners_are_the_nearest_others_of_the_class_by_brute_force(corpus):
    classes, given = corpus
    for wanted in (1, 2, 5):
        mixtures = plan_mixtures(**given, share=1.0, neighbours=wanted)
        for code in (1, 2, 3):
            rows = np.flatnonzero(classes == code)
            own = stats.zscore(given["features"][rows], axis=0)
            distances = cdist(own, own)
            np.fill_diagonal(distances, np.inf)
            nearest = {row: set(rows[np.argsort(line)[:wanted]]) for row, line in zip(rows, distances, strict=True)}
            mine = mixtures.label == code
            pairs = set(zip(mixtures.first[mine], mixtures.second[mine], strict=True))
            assert mine.sum() == SIZES[0] - SIZES[code]
            assert all(second in nearest[first] for first, second in pairs)
            if code == 1:  # 51 draws from 9 items: as many partners as asked for are met, and not one less
                assert max(len({b for a, b in pairs if a == first}) for first in rows) == wanted


def test_frames_go_by_the_names_of_items_and_labels(corpus):
    _, given = corpus
    expected = plan_mixtures(**given)
    probs = pd.DataFrame(given["probs"], given["items"], LABELS)[["calm", "joy", "anger", "fear"]]
    features = pd.DataFrame(given["features"], given["items"])[::-1]
    speakers = pd.Series(given["speakers"], given["items"])[::-1]
    found = plan_mixtures(**given | {"probs": probs, "features": features, "speakers": speakers})
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame())
    with pytest.raises(ValueError, match="probs: there is no column 'joy'"):
        plan_mixtures(**given | {"probs": probs.rename(columns={"joy": "Joy"})})


@pytest.mark.parametrize("rows, wide", [(40, 3), (300, 82)])
def test_neighbours_are_those_of_brute_force(rows, wide):
    features = np.random.default_rng(0).standard_normal((rows, wide))
    queries = np.array([0, 7, rows - 1])
    distances = ((features[:, None] - features[None]) ** 2).sum(-1)
    distances[np.arange(rows), np.arange(rows)] = np.inf
    assert (nearest_rows(features, queries, 4) == distances[queries].argsort(1)[:, :4]).all()
    assert nearest_rows(features[:3], np.arange(3), 10).shape == (3, 2)


def test_an_item_is_never_its_own_neighbour_among_equal_ones():
    features = np.zeros((50, 2))
    found = nearest_rows(features, np.arange(50), 3)
    assert (found != np.arange(50)[:, None]).all()
    assert all(len(set(row)) == 3 for row in found.tolist())
    names = [f"i{number}" for number in range(50)]
    probs = np.repeat([[1.0, 0.0], [0.0, 1.0]], [40, 10], axis=0)
    mixtures = plan_mixtures(names, probs, features, support=["a", "b"], share=1.0)
    assert len(mixtures) == 30 and (mixtures.first != mixtures.second).all()


def test_standardised_columns():
    features = np.random.default_rng(0).standard_normal((20, 4)) * [1, 5, 1, 1] + [0, 1e6, 0.1, 0]
    features[:, 2] = 0.1  # whose mean is not exactly 0.1
    expected = np.zeros((20, 4))
    expected[:, [0, 1, 3]] = stats.zscore(features[:, [0, 1, 3]], axis=0)
    assert np.allclose(standardise_columns(features), expected, atol=1e-8)
    with pytest.raises(ValueError, match="standard deviation of feature 1 overflows"):
        standardise_columns(np.array([[0, 1e308], [0, -1e308], [0, 1e308]]))


def test_distributions_are_mixed_by_hand():
    probs = [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0.2, 0.8, 0], [0, 0.5, 0.5]]
    mixtures = plan_mixtures(list("abcdef"), probs, np.arange(6)[:, None], support=["x", "y", "z"], share=0.75)
    assert len(mixtures) == 1 and mixtures.report.tied == 1  # of 4 three quarters are 3, and y has 2
    (first, second), share = (mixtures.first[0], mixtures.second[0]), mixtures.share[0]
    assert {first, second} == {4, 5}
    expected = [(1 - share) * probs[first][k] + share * probs[second][k] for k in range(3)]
    assert mixtures.probs[0].tolist() == pytest.approx(expected, abs=1e-15)
    assert mixtures.probs.sum(1) == pytest.approx(1, abs=1e-15)
    (row,) = mixtures.to_frame().to_dict("records")
    names = dict(enumerate("abcdef"))
    assert row == {
        "item": "dime-0-y-000000",
        "first": names[first],
        "second": names[second],
        "share": share,
        "label": "y",
        "text_from": names[first] if share < 0.5 else names[second],
        "first_speaker": None,
        "second_speaker": None,
        "seed": 0,
    }


def test_what_goes_in_comes_out_counted(corpus):
    classes, given = corpus
    mixtures = plan_mixtures(**given, share=0.5)
    report = mixtures.report
    entries = {entry.label: entry for entry in report.classes}
    assert [entry.items for entry in report.classes] == list(SIZES)
    assert [entry.wanted for entry in report.classes] == [0, 21, 28, 0] == [entry.made for entry in report.classes]
    assert sum(entry.items for entry in report.classes) == len(classes)
    assert sum(entry.made for entry in report.classes) == len(mixtures)
    assert sum(entry.mass for entry in report.classes) == pytest.approx(len(classes))
    assert sum(entry.mass_added for entry in report.classes) == pytest.approx(len(mixtures))
    assert entries["joy"].mass == pytest.approx(given["probs"][:, 1].sum())
    assert entries["joy"].mass_added == pytest.approx(mixtures.probs[:, 1].sum())
    assert (mixtures.probs.argmax(1) == mixtures.label).all()
    assert report.to_dict()["classes"][1]["made"] == 21 and report.without_speaker == 0
    lines = list(report.lines())
    assert lines[2].startswith("fear: 2 -> 30 items, mass ") and len(lines) == 4
    speakers = np.array(given["speakers"])
    assert report.across_speakers == (speakers[mixtures.first] != speakers[mixtures.second]).sum() > 0


@given(st.integers(2, 99), st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_each_class_gets_what_it_lacks(percent, large, small):
    probs = np.repeat([[1.0, 0.0], [0.0, 1.0]], [large, small], axis=0)
    names = [str(number) for number in range(large + small)]
    mixtures = plan_mixtures(names, probs, np.zeros((len(names), 1)), support=["a", "b"], share=percent / 100)
    goal = math.floor(Fraction(percent, 100) * max(large, small))
    for entry, held in zip(mixtures.report.classes, (large, small), strict=True):
        assert entry.wanted == max(0, goal - held)
        assert entry.made == (entry.wanted if held > 1 else 0)
        assert bool(entry.skipped) == (entry.wanted > 0 and held < 2)


def test_a_share_of_a_number_is_not_rounded_away():
    probs = np.repeat([[1.0, 0.0], [0.0, 1.0]], [100, 2], axis=0)  # .29 * 100 is 28.999999999999996
    plan = plan_mixtures([str(n) for n in range(102)], probs, np.zeros((102, 1)), support=["a", "b"], share=0.29)
    assert len(plan) == 27


def test_classes_draw_independently():
    probs = np.repeat(np.eye(3), [50, 2, 2], axis=0)
    plan = plan_mixtures([str(n) for n in range(54)], probs, np.zeros((54, 1)), support=list("abc"), share=1.0)
    assert len(set(plan.share)) == 96


def test_the_text_is_that_of_the_dominant_or_of_the_first(corpus):
    _, given = corpus
    dominant, first = (plan_mixtures(**given, share=1.0, text=rule) for rule in ("dominant", "first"))
    assert (first.text_from == first.first).all()
    assert (dominant.text_from == np.where(dominant.share < 0.5, dominant.first, dominant.second)).all()
    assert (dominant.text_from == dominant.second).any() and (dominant.text_from == dominant.first).any()
    assert (dominant.first == first.first).all() and (dominant.share == first.share).all()


def test_shares_and_firsts_are_uniform():
    probs = np.repeat([[1.0, 0.0], [0.0, 1.0]], [4000, 20], axis=0)
    names = [f"{number:04d}" for number in range(4020)]
    features = np.random.default_rng(0).standard_normal((4020, 3))
    mixtures = plan_mixtures(names, probs, features, support=["a", "b"], share=1.0)
    assert stats.kstest(mixtures.share, "uniform").pvalue > 0.01
    assert stats.chisquare(np.bincount(mixtures.first - 4000)).pvalue > 0.01
    near = nearest_rows(standardise_columns(features[4000:]), np.arange(20), 2) + 4000
    nearest_taken = (near[mixtures.first - 4000, 0] == mixtures.second).sum()
    assert stats.binomtest(int(nearest_taken), len(mixtures), 0.5).pvalue > 0.01


def table(mixtures):
    return mixtures.to_frame().sort_values("item", ignore_index=True)


def test_a_plan_depends_on_seed_and_items_and_not_on_their_order(corpus):
    classes, given = corpus
    expected = plan_mixtures(**given, share=0.5, seed=3)
    again = plan_mixtures(**given, share=0.5, seed=3)
    assert table(again).equals(table(expected)) and (again.probs == expected.probs).all()
    order = np.random.default_rng(5).permutation(len(classes))
    turned = {
        "items": [given["items"][row] for row in order],
        "probs": given["probs"][order],
        "features": given["features"][order],
        "support": LABELS,
        "speakers": [given["speakers"][row] for row in order],
    }
    assert table(plan_mixtures(**turned, share=0.5, seed=3)).equals(table(expected))
    other = plan_mixtures(**given, share=0.5, seed=4)
    assert not set(other.items) & set(expected.items) and (other.share != expected.share).all()


def test_only_rare_classes_are_asked_about_and_do_not_touch_each_other(corpus):
    classes, given = corpus
    asked = []

    def features(rows):
        asked.extend(rows)
        return given["features"][rows]

    expected = plan_mixtures(**given, share=0.5)
    assert table(plan_mixtures(**given | {"features": features}, share=0.5)).equals(table(expected))
    assert sorted(asked) == np.flatnonzero((classes == 1) | (classes == 2)).tolist()
    changed = given["features"].copy()
    changed[classes == 2] += np.random.default_rng(9).standard_normal(((classes == 2).sum(), 5)) * 1e3
    changed[classes == 0] = np.nan  # of a class that nobody mixes
    other = plan_mixtures(**given | {"features": changed}, share=0.5)
    joy = table(expected)["label"] == "joy"
    assert table(other)[joy].equals(table(expected)[joy])


def test_partners_of_the_same_speaker(corpus):
    classes, given = corpus
    speakers = np.array(given["speakers"], dtype=object)
    joy, fear = np.flatnonzero(classes == 1), np.flatnonzero(classes == 2)
    speakers[joy] = ["x", "x", "x", "y", "y", "z", None, None, "x"]
    speakers[fear] = ["x", "y"]
    mixtures = plan_mixtures(**given | {"speakers": speakers}, share=0.5, partners="same")
    assert len(mixtures) == 21 and (speakers[mixtures.first] == speakers[mixtures.second]).all()
    assert not (mixtures.first == mixtures.second).any()
    entries = {entry.label: entry for entry in mixtures.report.classes}
    assert entries["joy"].alone == 3 and entries["fear"].alone == 2
    assert (entries["fear"].made, entries["fear"].skipped) == (0, "no two items have the same speaker")
    assert mixtures.report.across_speakers == 0 and mixtures.report.without_speaker == 2
    x = joy[[0, 1, 2, 8]]  # neighbours within a speaker, features standardised within the class
    own = stats.zscore(given["features"][joy], axis=0)[[0, 1, 2, 8]]
    distances = cdist(own, own) + np.diag([np.inf] * 4)
    for first, second in zip(mixtures.first, mixtures.second, strict=True):
        if first in x:
            place = x.tolist().index(first)
            assert second in x[distances[place].argsort()[:2]]


def test_classes_that_cannot_be_filled_are_said():
    probs = np.repeat(np.eye(3)[:2], [10, 1], axis=0)
    names = [str(number) for number in range(11)]
    mixtures = plan_mixtures(names, probs, np.zeros((11, 2)), support=["a", "b", "c"], share=0.5)
    assert len(mixtures) == 0 and mixtures.probs.shape == (0, 3) and mixtures.to_frame().empty
    reasons = [entry.skipped for entry in mixtures.report.classes]
    assert reasons == ["", "it is the most probable label of only one item", "it is no item's most probable label"]
    assert [entry.alone for entry in mixtures.report.classes] == [0, 1, 0]
    assert list(mixtures.report.lines())[1] == (
        "b: 1 -> 1 items, mass 1.0 -> 1.0 (4 wanted: it is the most probable label of only one item)"
    )
    alone = plan_mixtures(["a"], [[1.0]], np.zeros((1, 1)), support=["only"])
    assert len(alone) == 0 and [entry.wanted for entry in alone.report.classes] == [0]


def test_names_are_new_whatever_the_labels_and_items_are_called():
    labels = ["a", "a-000001", "a b/ü\n", "-"]
    probs = np.repeat(np.eye(5), [30, 2, 2, 2, 2], axis=0)
    names = [f"..//{number} \t'\"é" for number in range(38)]
    mixtures = [
        plan_mixtures(names, probs, np.zeros((38, 1)), support=["", *labels], share=1.0, seed=n) for n in (1, 11)
    ]
    made = list(itertools.chain(*(plan.items for plan in mixtures)))
    assert len(made) == 2 * 4 * 28 == len(set(made)) and not set(made) & set(names)
    taken = [*names[:-1], mixtures[0].items[5]]
    with pytest.raises(ValueError, match="has the name of a mixture"):
        plan_mixtures(taken, probs, np.zeros((38, 1)), support=["", *labels], share=1.0, seed=1)


def test_the_first_of_tied_labels_is_the_class():
    probs = [[0.5, 0.5, 0.0]] * 6 + [[0.0, 0.4, 0.6]] * 2 + [[0.1, 0.2 + 0.25, 0.45 - 1e-12]]
    mixtures = plan_mixtures(list("abcdefghi"), probs, np.zeros((9, 1)), support=["x", "y", "z"], share=0.5)
    assert [entry.items for entry in mixtures.report.classes] == [6, 1, 2] and mixtures.report.tied == 7
    assert len(mixtures) == 1 and mixtures.label.tolist() == [2]


def test_mixtures_have_targets_and_no_votes(corpus):
    _, given = corpus
    emotion = Question.category("emotion", LABELS)
    counts = np.round(given["probs"] * 1000).astype(int)
    targets = make_targets(VoteTable.from_counts(emotion, given["items"], counts), "emotion")
    mixtures = plan_mixtures(targets.items, targets.probs, given["features"], support=targets.support, share=0.5)
    longer = mixtures.extend(targets)
    assert len(longer) == len(longer.probs) == len(longer.votes_per_item) == 111 + 49
    assert (longer.items[111:] == mixtures.items).all() and (longer.probs[111:] == mixtures.probs).all()
    assert (longer.votes_per_item[111:] == 0).all() and (longer.probs[:111] == targets.probs).all()
    assert len(longer.select(mixtures.items)) == 49 and len(longer.ratings) == len(targets.ratings)


def test_speakers_do_not_cross():
    check_apart(["a", None, "b"], ["c", None, float("nan")])
    with pytest.raises(
        ValueError,
        match="2 speakers of the training split, for instance 'a', are also in another split, so mixtures would leak",
    ):
        check_apart(["b", "a", "z"], ["a", "b", "c"])


BAD = {
    "share 0": ({"share": 0}, "share is 0; give a share"),
    "share above 1": ({"share": 1.5}, "share is 1.5"),
    "share NaN": ({"share": float("nan")}, "share is nan"),
    "share text": ({"share": "half"}, "share is 'half'"),
    "share bool": ({"share": True}, "share is True"),
    "no neighbours": ({"neighbours": 0}, "neighbours is 0; give a whole number from 1 up"),
    "half a neighbour": ({"neighbours": 1.5}, "neighbours is 1.5"),
    "negative seed": ({"seed": -1}, "seed is -1"),
    "text rule": ({"text": "second"}, "text is 'second'"),
    "partners": ({"partners": "others"}, "partners is 'others'"),
    "no speakers": ({"speakers": None, "partners": "same"}, "no item has a speaker"),
    "few speakers": ({"speakers": ["a"]}, "There are 1 speakers for 111 items"),
    "no items": ({"items": []}, "There are no items to mix"),
    "few features": ({"features": np.zeros((3, 2))}, r"features has shape \(3, 2\) for 111 items"),
    "flat features": ({"features": np.zeros(111)}, r"features has shape \(111,\)"),
    "words": ({"features": np.full((111, 2), "a")}, "features are of type"),
    "complex": ({"features": np.zeros((111, 2), complex)}, "features are of type complex"),
    "function": ({"features": lambda rows: np.zeros((1, 2))}, r"features gave shape \(1, 2\) for 11 items"),
    "few labels": ({"support": ["a", "b"]}, r"probs has shape \(111, 4\) for 111 items and 2 labels"),
    "label twice": ({"support": ["a", "b", "b", "c"]}, "Label 'b' is named twice"),
    "nameless": ({"items": [None] + [f"i{n}" for n in range(110)]}, "Item name None is not text"),
    "twice": ({"items": ["x", "x"] + [f"i{n}" for n in range(109)]}, "Item 'x' is given twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_mixed_is_one_sentence(name, corpus):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        plan_mixtures(**corpus[1] | {"share": 0.5} | options)
    assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_are_named(value, corpus):
    classes, given = corpus
    row = np.flatnonzero(classes == 1)[3]
    given["features"][row, 2] = value
    with pytest.raises(ValueError, match=f"Feature 2 of item 'clip {row}' is {value}"):
        plan_mixtures(**given, share=0.5)


@pytest.mark.parametrize("row", [[0.5, 0.6, 0, 0], [1.5, -0.5, 0, 0], [np.nan, 1, 0, 0], [0, 0, 0, 0]])
def test_a_distribution_that_is_none_is_named(row, corpus):
    _, given = corpus
    given["probs"][7] = row
    with pytest.raises(ValueError, match="The distribution of item 'clip 7' is"):
        plan_mixtures(**given)
