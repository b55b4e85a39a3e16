"""Predictions as a table: columns by name, scales on their own range, raters where the model has them."""

import numpy as np
import pytest
from scipy.stats import entropy

from annot_hf.data.predictions import Predictions, prediction_frame
from annot_hf.data.questions import Question


def test_a_category_has_a_column_a_label_and_raters_their_likeliest():
    probs = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    table = prediction_frame(
        Predictions(
            items=["a", "b"],
            support=("joy", "sad", "item"),
            probs=probs,
            questions=(Question.category("mood", ["joy", "sad", "item"]),),
            consensus=probs[::-1],
            rater_items=[0, 1, 1],
            rater_names=["ann", "ann", "new"],
            rater_values=[[0.2, 0.8, 0], [1, 0, 0], [1, 0, 0]],
            rater_fallback=[False, False, True],
        )
    )
    labels = ["joy", "sad", "label item"]
    assert list(table) == ["item", *labels, "entropy", *(f"consensus {one}" for one in labels), "rater ann"]
    assert np.array_equal(table[labels], probs) and table["entropy"].to_numpy() == pytest.approx(entropy(probs, axis=1))
    assert list(table["rater ann"]) == ["sad", "joy"] and list(table["consensus joy"]) == [0.1, 0.5]


def test_scales_are_on_their_own_range():
    valence, arousal, power = (Question.scale(name, 1, 5) for name in ("valence", "arousal", "power"))
    # All mass in the cell of the lowest valence and the highest arousal, of 2 x 2 cells with centres at 2 and 4.
    table = prediction_frame(
        Predictions(
            items=["a"],
            support=("1", "2", "3", "4"),
            probs=[[0, 1, 0, 0]],
            questions=(valence, arousal),
            consensus=[[-1, 0]],
            rater_items=[0],
            rater_names=["ann"],
            rater_values=[[0.5, 1]],
            rater_fallback=[False],
            scales=(power,),
            scale_means=[[0]],
            scale_deviations=[[0.5]],
        )
    )
    assert table.iloc[0].to_dict() == {
        "item": "a",
        "valence": 2,
        "arousal": 4,
        "entropy": 0,
        "power": 3,
        "power deviation": 1,
        "consensus valence": 1,
        "consensus arousal": 3,
        "rater ann valence": 4,
        "rater ann arousal": 5,
    }


def test_a_scale_that_is_called_like_a_label_or_a_column_takes_no_place_but_its_own():
    """How angry somebody sounds may be asked beside which emotion it is."""
    table = prediction_frame(
        Predictions(
            items=["a"],
            support=("anger", "joy"),
            probs=[[0.25, 0.75]],
            questions=(Question.category("mood", ["anger", "joy"]),),
            scales=(Question.scale("anger", 0, 10), Question.scale("entropy", 0, 10)),
            scale_means=[[0, 1]],
            scale_deviations=[[0.5, 0.5]],
        )
    ).iloc[0]
    assert table["anger"] == 0.25 and table["scale anger"] == 5 and table["scale anger deviation"] == 2.5
    assert table["entropy"] == pytest.approx(entropy([0.25, 0.75])) and table["scale entropy"] == 10
