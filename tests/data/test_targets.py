"""Targets against hand counts, the kernel density they promise, and every refusal."""

import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from annot_hf.data.questions import Question
from annot_hf.data.targets import disagreement, item_seeds, make_targets, pad_ratings, scale_answers
from annot_hf.data.votes import VoteTable
from annot_hf.models.kde import cell_masses, cell_names, draw_observations

EMOTION = Question.category("emotion", ["anger", "joy", "sad"])
AROUSAL, VALENCE = Question.scale("arousal", 1, 5), Question.scale("valence", 1, 5)


def emotions(**options):
    return VoteTable.from_columns(
        EMOTION,
        item=["a", "a", "a", "b", "b", "c"],
        annotator=["r", "s", None, "r", "s", "t"],
        value=["joy", "joy", "sad", "anger", "sad", "joy"],
        **options,
    )


def scales(seed=0, items=5, raters=4):
    generator = np.random.default_rng(seed)
    item, rater = (index.ravel() for index in np.mgrid[:items, :raters])
    columns = {"item": [f"i{i}" for i in item] * 2, "annotator": [f"r{r}" for r in rater] * 2}
    question = ["arousal"] * len(item) + ["valence"] * len(item)
    value = generator.integers(1, 6, 2 * len(item)).astype(float)
    return VoteTable.from_columns([AROUSAL, VALENCE, EMOTION], **columns, question=question, value=value)


# --- categories


def test_pseudo_votes_follow_the_votes_asked_for_or_the_prior():
    counts = np.array([[0, 2, 1], [1, 0, 1]])
    mean = counts.sum(0) / 5
    asked = make_targets(emotions(), "emotion", "smoothed", items=["a", "b"])
    np.testing.assert_allclose(asked.probs, (counts + mean) / (counts.sum(1, keepdims=True) + 1))
    for prior in ({"sad": 1, "anger": 2, "joy": 1}, pd.Series([1, 1, 2], index=["sad", "joy", "anger"])):
        named = make_targets(emotions(), "emotion", "smoothed", items=["a", "b"], prior=prior)
        np.testing.assert_allclose(named.probs, (counts + np.array([2, 1, 1]) / 4) / (counts.sum(1, keepdims=True) + 1))
    with pytest.raises(ValueError, match="prior: there is no entry 'sad'"):
        make_targets(emotions(), "emotion", "smoothed", prior={"anger": 1, "joy": 1, "bored": 1})
    given = make_targets(emotions(), "emotion", "smoothed", items=["a", "b"], prior=[2, 1, 1])
    np.testing.assert_allclose(given.probs, (counts + [0.5, 0.25, 0.25]) / (counts.sum(1, keepdims=True) + 1))


def test_vote_fractions_and_each_rater():
    targets = make_targets(emotions(), "emotion")
    np.testing.assert_allclose(targets.probs, [[0, 2 / 3, 1 / 3], [0.5, 0, 0.5], [0, 1, 0]])
    assert targets.support == EMOTION.labels and targets.votes_per_item.tolist() == [3, 2, 1] and len(targets) == 3
    assert targets.ratings.item.tolist() == [0, 0, 1, 1, 2] and targets.ratings.annotator.tolist() == [0, 1, 0, 1, 2]
    assert targets.ratings.value.tolist() == [[1], [1], [0], [2], [1]] and targets.annotators == ("r", "s", "t")
    assert targets.excluded == {} and targets.method == "soft"


@pytest.mark.parametrize("weight", [1e-100, 1e-13, 1.0, 1e100])
def test_shares_do_not_depend_on_the_size_of_weights(weight):
    votes = emotions(weight=[weight] * 6)
    for name, options in {"soft": {}, "majority": {}, "smoothed": {"smoothing": weight, "prior": [3, 1, 1]}}.items():
        expected = make_targets(emotions(), "emotion", name, **options | ({"smoothing": 1} if options else {})).probs
        np.testing.assert_allclose(make_targets(votes, "emotion", name, **options).probs, expected, rtol=1e-12)
    for kind in ("entropy", "deviation", "variance"):
        found, expected = (disagreement(one, "emotion", ["a", "b"], kind) for one in (votes, emotions()))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    large = make_targets(emotions(), "emotion", "smoothed", prior=[1e308, 1e308, 0]).probs
    np.testing.assert_allclose(large, make_targets(emotions(), "emotion", "smoothed", prior=[1, 1, 0]).probs)


def test_targets_of_one_s_own_go_by_the_names_of_a_frame():
    made = make_targets(emotions(), "emotion")
    frame = pd.DataFrame(made.probs, made.items, made.support).iloc[::-1, ::-1]
    np.testing.assert_array_equal(replace(made, probs=frame).probs, made.probs)
    counted = pd.Series(range(len(made)), made.items)
    np.testing.assert_array_equal(replace(made, votes_per_item=counted[::-1]).votes_per_item, counted)
    with pytest.raises(ValueError, match="Targets' probs: there is no row 'a'"):
        replace(made, probs=frame.drop(index="a"))


def test_majority_shares_ties_and_smoothing_adds_the_marginal():
    votes = emotions()
    np.testing.assert_allclose(make_targets(votes, "emotion", "majority").probs, [[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
    marginal = np.array([1, 3, 2]) / 6
    smoothed = make_targets(votes, "emotion", "smoothed", smoothing=2.0).probs
    np.testing.assert_allclose(
        smoothed, (votes.counts("emotion") + 2 * marginal) / (votes.counts("emotion").sum(1) + 2)[:, None]
    )


def test_weights_move_the_target_but_not_the_number_of_votes():
    targets = make_targets(emotions(weight=[1, 1, 2, 1, 0.5, 0]), "emotion")
    np.testing.assert_allclose(targets.probs, [[0, 0.5, 0.5], [2 / 3, 0, 1 / 3]])
    assert targets.votes_per_item.tolist() == [3, 2] and targets.votes_per_item.dtype.kind == "i"
    assert targets.excluded == {"items without votes": 1}


def test_chosen_items_come_in_the_order_asked_and_missing_ones_are_counted():
    targets = make_targets(emotions(), "emotion", items=["c", "nowhere", "a"])
    assert list(targets.items) == ["c", "a"] and targets.excluded == {"items without votes": 1}
    np.testing.assert_allclose(targets.probs, [[0, 1, 0], [0, 2 / 3, 1 / 3]])
    assert targets.ratings.item.tolist() == [0, 1, 1]


def test_several_labels_per_rater():
    question = Question.category("all", ["x", "y"], multiple=True)
    votes = VoteTable.from_columns(question, item=["a", "a", "b"], annotator=["r", "r", "r"], value=["x", "y", None])
    targets = make_targets(votes, "all")
    assert targets.probs.tolist() == [[0.5, 0.5]] and targets.excluded == {"items without votes": 1}


@given(
    counts=st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any), min_size=1, max_size=6),
    method=st.sampled_from(["soft", "majority", "smoothed"]),
)
def test_rows_are_distributions(counts, method):
    votes = VoteTable.from_counts(EMOTION, [str(i) for i in range(len(counts))], counts)
    probs = make_targets(votes, "emotion", method).probs
    np.testing.assert_allclose(probs.sum(1), 1)
    assert (probs >= 0).all()


# --- scales


def test_grid_targets_are_the_kernel_density_of_each_item():
    votes = scales()
    targets = make_targets(votes, ["arousal", "valence"], "kde", seed=3)
    assert targets.probs.shape == (5, 16) and targets.support == cell_names(["arousal", "valence"], 4)
    assert targets.support[1] == "arousal 1/4, valence 2/4" and targets.votes_per_item.tolist() == [4] * 5
    ratings = targets.ratings.value.reshape(5, 4, 2)
    expected = cell_masses(draw_observations(ratings, seed=item_seeds(targets.items, 3)))
    np.testing.assert_allclose(targets.probs, expected.reshape(5, 16), atol=1e-12)
    raw = votes.ratings.reshape(2, 5, 4).transpose(1, 2, 0)
    np.testing.assert_allclose(ratings, (raw - 3) / 2)


def test_an_items_target_does_not_depend_on_the_others():
    whole = make_targets(scales(), ["arousal", "valence"], "kde")
    part = make_targets(scales(), ["arousal", "valence"], "kde", items=["i3", "i1"])
    np.testing.assert_allclose(part.probs, whole.probs[[3, 1]], atol=1e-12)
    again = whole.select(["i3", "i1"])
    np.testing.assert_allclose(again.probs, part.probs, atol=1e-12)
    np.testing.assert_array_equal(again.ratings.value, part.ratings.value)
    np.testing.assert_array_equal(again.ratings.item, part.ratings.item)


def test_one_scale_may_be_anonymous_and_two_may_not():
    votes = VoteTable.from_columns(
        [AROUSAL, VALENCE],
        item=["a", "a", "a", "b"],
        question=["arousal", "arousal", "valence", "arousal"],
        value=[1, 5, 3, 2],
    )
    targets = make_targets(votes, "arousal", "kde", bins=3)
    assert targets.probs.shape == (2, 3) and targets.votes_per_item.tolist() == [2, 1] and len(targets.ratings) == 0
    with pytest.raises(ValueError, match="anonymous votes, which cannot be paired"):
        make_targets(votes, ["arousal", "valence"], "kde")


def test_half_answers_and_repeated_answers():
    votes = VoteTable.from_columns(
        [AROUSAL, VALENCE],
        item=["a", "a", "a", "b", "a"],
        annotator=["r", "r", "s", "s", "r"],
        question=["arousal", "valence", "arousal", "valence", "arousal"],
        value=[1, 5, 3, 2, 2],
        duplicates="keep",
    )
    pairs = scale_answers(votes, ["arousal", "valence"])
    np.testing.assert_array_equal(pairs.value, [[-0.75, 1], [0, np.nan], [np.nan, -0.5]])
    assert scale_answers(votes, ["arousal"]).value.tolist() == [[-0.75], [0]]
    targets = make_targets(votes, ["arousal", "valence"], "kde")
    assert list(targets.items) == ["a"] and targets.votes_per_item.tolist() == [1]
    assert targets.excluded == {"items without votes": 1}


def test_selected_targets_equal_those_made_for_these_items():
    for table, questions, method in ((emotions(), "emotion", "soft"), (scales(), ["arousal", "valence"], "kde")):
        whole = make_targets(table, questions, method)
        names = [whole.items[2], whole.items[0]]
        part, made = whole.select(names), make_targets(table, questions, method, items=names)
        np.testing.assert_array_equal(part.items, names)
        np.testing.assert_allclose(part.probs, made.probs)
        for name in ("item", "annotator", "value"):
            np.testing.assert_array_equal(getattr(part.ratings, name), getattr(made.ratings, name))
        np.testing.assert_array_equal(part.votes_per_item, made.votes_per_item)
        assert (part.annotators, part.support, part.questions) == (made.annotators, made.support, made.questions)


def test_items_with_few_ratings_are_not_padded_into_their_density():
    answers = {"a": [1.0], "b": [5.0, 4.0, 1.0], "c": [2.0, 2.0]}
    rows = [(item, f"r{rater}", value) for item, values in answers.items() for rater, value in enumerate(values)]
    item, annotator, value = zip(*rows, strict=True)
    targets = make_targets(
        VoteTable.from_columns(VALENCE, item=item, annotator=annotator, value=value), "valence", "kde", bins=5, seed=4
    )
    for row, name in enumerate("abc"):
        ratings = (np.array([answers[name]]) - 3) / 2
        expected = cell_masses(draw_observations(ratings, seed=item_seeds([name], 4)), bins=5)
        np.testing.assert_allclose(targets.probs[row], expected[0], atol=1e-12)


def test_more_items_than_one_block_of_densities():
    value = np.random.default_rng(0).integers(1, 6, 2100).astype(float)
    votes = VoteTable.from_columns(VALENCE, item=np.arange(2100), annotator=["r"] * 2100, value=value)
    probs = make_targets(votes, "valence", "kde", bins=2).probs
    few = [str(item) for item in (0, 2047, 2048, 2099)]
    np.testing.assert_allclose(
        probs[[0, 2047, 2048, 2099]], make_targets(votes, "valence", "kde", items=few, bins=2).probs
    )


def test_seeds_of_items_are_their_checksum_above_the_run_s_seed():
    assert item_seeds(["clip", 7], 3).tolist() == [zlib.crc32(b"clip") + 3 * 2**32, zlib.crc32(b"7") + 3 * 2**32]


def test_one_cell_holds_everything():
    assert make_targets(scales(), "valence", "kde", bins=1).probs.tolist() == [[1.0]] * 5


def test_padding():
    padded, mask = pad_ratings(np.array([2, 0, 2]), np.array([[1.0], [2.0], [3.0]]), 3)
    assert padded[..., 0].tolist() == [[2, 0], [0, 0], [1, 3]]
    assert mask.tolist() == [[True, False], [False, False], [True, True]]
    later, mask = pad_ratings(np.array([0]), np.ones((1, 2), np.float32), 3)
    assert later.shape == (3, 1, 2) and later.dtype == np.float32 and mask.tolist() == [[True], [False], [False]]
    assert [pad_ratings(np.zeros(0, int), np.zeros((0, 2)), items)[0].shape for items in (2, 0)] == [
        (2, 0, 2),
        (0, 0, 2),
    ]
    item = np.random.default_rng(0).integers(0, 3, 3000)
    padded, mask = pad_ratings(item, np.arange(3000.0)[:, None], 3)
    for row in range(3):
        np.testing.assert_array_equal(padded[row, mask[row], 0], np.flatnonzero(item == row))


# --- refusals


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_targets(emotions(), "emotoin"), "no question 'emotoin' .did you mean 'emotion'"),
        (lambda: make_targets(emotions(), []), "No question is named"),
        (
            lambda: make_targets(emotions(), "emotion", "kde"),
            "'kde' does not fit question 'emotion', a category; use soft",
        ),
        (lambda: make_targets(scales(), "valence"), "'soft' does not fit question 'valence', a scale; use kde"),
        (lambda: make_targets(scales(), ["valence", "emotion"], "kde"), "cannot be combined"),
        (lambda: make_targets(scales(), ["valence", "valence"], "kde"), "cannot be combined"),
        (lambda: make_targets(emotions(), "emotion", "majority", ties="drawn"), "^targets: ties is 'drawn'"),
        (lambda: make_targets(emotions(), "emotion", "majority", majority_of="all"), "^targets: majority_of is 'all'"),
        (
            lambda: make_targets(
                VoteTable.from_columns(
                    [EMOTION, Question.category("mood", ["joy"])],
                    item=["a", "a"],
                    question=["emotion", "mood"],
                    value=["joy"] * 2,
                ),
                ["emotion", "mood"],
            ),
            "cannot be combined",
        ),
        (lambda: make_targets(emotions(), "emotion", items=["nowhere"]), "None of 1 items has a vote on emotion"),
        (lambda: make_targets(scales(), "emotion"), "None of 5 items has a vote"),
        (lambda: make_targets(emotions(), "emotion", items=["a", "a"]), "Item 'a' is asked for twice"),
        (lambda: make_targets(emotions(), "emotion", "smoothed", smoothing=0), "smoothing is 0"),
        (lambda: make_targets(emotions(), "emotion", "smoothed", smoothing=np.inf), "smoothing is inf"),
        (lambda: make_targets(emotions(), "emotion", "smoothed", smoothing=1e308), "smoothing is 1e.308"),
        (
            lambda: make_targets(emotions(), "emotion", "smoothed", prior=[1, 0]),
            "one finite number from 0 up for each of",
        ),
        (lambda: make_targets(emotions(), "emotion", "smoothed", prior=[0, 0, 0]), "not all 0"),
        (lambda: make_targets(emotions(), "emotion", "smoothed", prior=[1, 0, np.nan]), "prior is .*finite"),
        (lambda: make_targets(scales(), "valence", "kde", bins=2.5), r"bins is 2\.5; give a whole number"),
        (lambda: make_targets(scales(), "valence", "kde", bins=0), "bins is 0; give a whole number"),
        (
            lambda: make_targets(emotions(), "emotion").select(["a", "z"]),
            "1 of 2 items have no target, for instance 'z'",
        ),
        (lambda: make_targets(emotions(), "emotion").select(["a", "a"]), "Item 'a' is asked for twice"),
    ],
)
def test_what_is_refused_and_why(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_weights_do_not_resample():
    votes = VoteTable.from_columns(VALENCE, item=["a"], annotator=["r"], value=[3], weight=[2])
    with pytest.raises(ValueError, match="weights, which the resampling"):
        make_targets(votes, "valence", "kde")
