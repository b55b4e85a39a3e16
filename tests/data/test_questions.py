import numpy as np
import pytest
from hypothesis import given, strategies as st

from annot_hf.data.questions import Question, nearest
from annot_hf.data.votes import VoteTable

EMOTION = Question.category("emotion", ["anger", "joy"], prompt="What do you hear?")


def test_kinds():
    scale = Question.scale("valence", 1, 5)
    assert (scale.kind, scale.is_scale, EMOTION.kind, EMOTION.is_scale) == ("scale", True, "category", False)
    assert EMOTION.labels == ("anger", "joy")
    with pytest.raises(AttributeError):
        scale.low = 2


@given(low=st.floats(-100, 100), width=st.floats(0.1, 100))
def test_normalise_maps_the_scale_to_minus_one_to_one(low, width):
    question = Question.scale("q", low, low + width)
    ratings = np.linspace(question.low, question.high, 5)
    np.testing.assert_allclose(question.normalise(ratings), [-1, -0.5, 0, 0.5, 1], atol=1e-9)
    np.testing.assert_allclose(question.denormalise(question.normalise(ratings)), ratings, atol=1e-9)


@pytest.mark.parametrize(
    "question",
    [
        EMOTION,
        Question.scale("valence", 0, 1),
        Question.scale("valence", -3, 0),
        Question.category("all", ["a", "b"], multiple=True, secondary_to="emotion"),
        Question.category("mood", ["calm", "tense"], shares=True),
    ],
)
def test_dictionaries_round_trip(question):
    import json

    assert Question.from_dict(json.loads(json.dumps(question.to_dict()))) == question


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Question(""), "needs a name"),
        (lambda: Question("q"), "either labels or a scale"),
        (lambda: Question("q", labels=("a",), low=1, high=2), "either labels or a scale"),
        (lambda: Question("q", low=1), "low must be finite and below high"),
        (lambda: Question.scale("q", 5, 1), "scale 5.0 to 1.0"),
        (lambda: Question.scale("q", 1, float("inf")), "finite"),
        (lambda: Question.scale("q", -1e308, 1e308), "finite"),  # the difference is not
        (lambda: Question.scale("q", float("nan"), 1), "finite"),
        (lambda: Question.scale("q", 1, 5, multiple=True), "only a category question can be multi-select"),
        (lambda: Question.category("q", ["a"], multiple=True, shares=True), "known as shares, which only a category"),
        (lambda: Question.scale("q", 1, 5, shares=True), "known as shares, which only a category"),
        (lambda: Question.category("q", ["a", ""]), "non-empty strings"),
        (lambda: Question.category("q", ["a", 3]), "has label 3"),
        (lambda: Question.category("q", ["a", "b", "a"]), "lists label 'a' twice"),
        (lambda: Question.category("q", "yes"), "a list of labels, not one string"),
        (lambda: Question.from_dict({"name": "q", "lables": ["a"]}), "no field 'lables' .did you mean 'labels'"),
    ],
)
def test_impossible_questions(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_finding_a_question_names_the_nearest():
    votes = VoteTable.from_columns(EMOTION, item=["x"], value=[EMOTION.labels[0]])
    assert votes.question("emotion") is EMOTION
    with pytest.raises(ValueError, match="no question 'emotoin' .did you mean 'emotion'.*the questions are emotion"):
        votes.question("emotoin")
    assert nearest("zzz", ["anger"]) == ""
