import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from annot_hf.data.questions import Question
from annot_hf.data.targets import disagreement
from annot_hf.data.votes import VoteTable

LEVEL = Question.category("level", ["low", "mid", "high"])
SCALES = [Question.scale("valence", 1, 5), Question.scale("activation", 1, 5)]


def levels(answers):
    """A table of items a, b, ... with these label codes."""
    rows = [
        (chr(97 + item), f"r{row}", LEVEL.labels[code])
        for item, codes in enumerate(answers)
        for row, code in enumerate(codes)
    ]
    item, rater, value = zip(*rows, strict=True)
    return VoteTable.from_columns(LEVEL, item=item, annotator=rater, value=value)


@given(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=7), min_size=1, max_size=5))
def test_categories_against_scipy(answers):
    votes = levels(answers)
    items = [chr(97 + item) for item in range(len(answers))]
    entropies = [stats.entropy(np.bincount(codes, minlength=3)) / np.log(3) for codes in answers]
    np.testing.assert_allclose(disagreement(votes, "level", items, "entropy"), entropies, atol=1e-12)
    deviations = [np.std(np.array(codes) - 1.0) for codes in answers]
    np.testing.assert_allclose(disagreement(votes, "level", items, "deviation"), deviations, atol=1e-12)
    variances = [sum(np.var(np.array(codes) == label) for label in range(3)) for codes in answers]
    np.testing.assert_allclose(disagreement(votes, "level", items, "variance"), variances, atol=1e-12)


def test_items_without_two_votes_say_nothing():
    votes = levels([[0, 0], [1], [0, 2]])
    for kind, most in (("entropy", np.log(2) / np.log(3)), ("deviation", 1.0), ("variance", 0.5)):
        found = disagreement(votes, "level", ["c", "b", "nowhere", "a"], kind)
        np.testing.assert_allclose(found, [most, np.nan, np.nan, 0.0], atol=1e-12)


def test_scales_against_numpy_and_two_of_them_are_averaged():
    rng = np.random.default_rng(0)
    values = rng.integers(1, 6, (2, 4, 3)).astype(float)  # scales, items, raters
    rows = [
        (f"i{item}", f"r{rater}", scale.name, str(values[number, item, rater]))
        for number, scale in enumerate(SCALES)
        for item in range(4)
        for rater in range(3)
    ]
    item, rater, question, value = zip(*rows, strict=True)
    votes = VoteTable.from_columns(SCALES, item=item, annotator=rater, question=question, value=value)
    expected = ((values - 3) / 2).std(-1)
    items = [f"i{number}" for number in range(4)]
    np.testing.assert_allclose(disagreement(votes, "activation", items, "deviation"), expected[1], atol=1e-12)
    both = disagreement(votes, ["valence", "activation"], items, "deviation")
    np.testing.assert_allclose(both, expected.mean(0), atol=1e-12)
    assert both.min() >= 0 and both.max() <= 1


def test_anonymous_answers_count_one_by_one():
    votes = VoteTable.from_columns(SCALES[0], item=["a", "a", "a"], value=["1", "5", "3"])
    assert disagreement(votes, "valence", ["a"], "deviation")[0] == pytest.approx(np.std([-1, 1, 0]))


def test_items_rated_on_another_scale_alone_say_nothing():
    item, question = ["a", "a", "b", "b"], ["valence"] * 2 + ["activation"] * 2
    votes = VoteTable.from_columns(
        SCALES, item=item, question=question, annotator=list("rsrs"), value=["1", "5", "2", "4"]
    )
    np.testing.assert_allclose(disagreement(votes, "valence", ["b", "a"], "deviation"), [np.nan, 1.0])
    levels_too = VoteTable.from_columns(
        [LEVEL, SCALES[0]],
        item=item,
        question=["level"] * 2 + ["valence"] * 2,
        annotator=list("rsrs"),
        value=["low", "mid", "2", "4"],
    )
    for kind in ("entropy", "deviation", "variance"):
        assert np.isnan(disagreement(levels_too, "level", ["a", "b"], kind)).tolist() == [False, True]


def test_what_does_not_fit_is_said():
    votes = VoteTable.from_columns(SCALES[0], item=["a", "a"], value=["1", "5"])
    with pytest.raises(ValueError, match="Question 'valence' is a scale, whose disagreement is the deviation"):
        disagreement(votes, "valence", ["a"], "entropy")
    with pytest.raises(ValueError, match="disagreement"):
        disagreement(votes, "valence", ["a"], "variance")
    with pytest.raises(ValueError, match="^targets: disagreement is 'std'"):
        disagreement(votes, "valence", ["a"], "std")
