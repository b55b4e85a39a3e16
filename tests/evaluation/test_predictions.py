import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from annot_hf.data import predictions as predictions_module
from annot_hf.data.predictions import Predictions, pool_predictions
from annot_hf.data.questions import Question
from annot_hf.evaluation.evaluate import evaluate
from annot_hf.report.report import build_report

EMOTIONS = ("anger", "disgust", "fear", "happy", "neutral", "sad")
EMOTION = Question.category("emotion", ("a", "b"))
SCALES = (Question.scale("activation", 1, 5), Question.scale("valence", 1, 5))


def small(**changes):
    fields = {
        "items": ["x", "y"],
        "support": ("a", "b"),
        "probs": [[0.25, 0.75], [1, 0]],
        "questions": (EMOTION,),
        "rater_items": [0, 0, 1],
        "rater_names": ["p", "q", "p"],
        "rater_values": [[0.5, 0.5], [0.1, 0.9], [1, 0]],
        "rater_fallback": [False, True, False],
    }
    return Predictions(**fields | changes)


def assert_same(one, other):
    assert (one.support, one.questions, one.meta) == (other.support, other.questions, other.meta)
    for name in ("items", "probs", "rater_items", "rater_names", "rater_values", "rater_fallback"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).shape == getattr(other, name).shape
    assert (one.consensus is None) == (other.consensus is None)
    if one.consensus is not None:
        np.testing.assert_array_equal(one.consensus, other.consensus)


def test_save_and_load(tmp_path, emotion_run, grid_run):
    for number, predictions in enumerate((small(), emotion_run[2], grid_run[2])):
        assert predictions.save(tmp_path / str(number)) == tmp_path / str(number)
        assert_same(Predictions.load(tmp_path / str(number)), predictions)


def test_save_and_load_without_raters(tmp_path):
    predictions = Predictions(items=["x"], support=("a", "b"), probs=[[0.5, 0.5]], questions=(EMOTION,))
    predictions.save(tmp_path)
    assert_same(Predictions.load(tmp_path), predictions)
    assert predictions.rater_values.shape == (0, 2)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=5, unique=True))
@settings(max_examples=25, deadline=None)
def test_any_item_name_survives(tmp_path_factory, names):
    names = [name.encode("utf-8", "ignore").decode() or str(i) for i, name in enumerate(names)]
    names = [f"{i}{name}" for i, name in enumerate(names)]
    folder = tmp_path_factory.mktemp("predictions")
    probs = np.full((len(names), 2), 0.5)
    Predictions(items=names, support=("a", "b"), probs=probs, questions=(EMOTION,)).save(folder)
    assert Predictions.load(folder).items.tolist() == names


def test_frames_go_by_the_names_of_items_and_labels():
    probs = pd.DataFrame({"b": [0.75, 0], "a": [0.25, 1]}, index=["x", "y"])
    raters = pd.DataFrame({"b": [0.5, 0.9, 0], "a": [0.5, 0.1, 1]}, index=[5, 3, 9])
    assert_same(small(probs=probs, rater_values=raters, consensus=probs), small(consensus=small().probs))
    turned = small(probs=probs[::-1], disagreement=pd.Series([0.2, 0.1], index=["y", "x"]))
    assert_same(turned, small())
    assert turned.disagreement.tolist() == [0.1, 0.2]
    with pytest.raises(ValueError, match="Predictions' probs: there is no column 'b'"):
        small(probs=probs.rename(columns={"b": "c"}))
    grid = {"support": ("l", "h"), "questions": SCALES, "rater_values": [[1, 2], [3, 4], [5, 6]]}
    scales = pd.DataFrame({"valence": [2, 4, 6], "activation": [1, 3, 5]})
    assert_same(small(**grid | {"rater_values": scales}), small(**grid))


def test_a_selection_keeps_the_answers_of_its_items(grid_run):
    assert_same(small().select(["x", "y"]), small())
    found = small().select(np.array(["y", "x"], dtype=object))
    assert found.items.tolist() == ["y", "x"] and found.probs.tolist() == [[1, 0], [0.25, 0.75]]
    assert found.rater_items.tolist() == [1, 1, 0] and found.rater_names.tolist() == ["p", "q", "p"]
    only = small().select(["y"])
    assert (only.rater_items.tolist(), only.rater_values.tolist(), only.rater_fallback.tolist()) == (
        [0],
        [[1, 0]],
        [False],
    )
    some = grid_run[2].select(grid_run[2].items[3:5])
    np.testing.assert_array_equal(some.consensus, grid_run[2].consensus[3:5])
    with pytest.raises(ValueError, match="Item 'z' is not predicted"):
        small().select(["x", "z"])


def test_what_it_says_about_itself():
    assert repr(small()) == "Predictions(2 items, 3 rater answers, K=2: emotion)"
    assert len(small()) == 2 and not small().is_scale


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probs": [[0.5, 0.4], [1, 0]]}, "Predictions: row 0 does not sum to 1 within 0.004: [0.5, 0.4]."),
        ({"probs": [[0.5, 0.5], [np.nan, 1]]}, "Predictions: row 1 holds a value that is not finite: [nan, 1.0]."),
        ({"probs": [[0.5, 0.5], [1.5, -0.5]]}, "Predictions: row 1 holds a negative probability: [1.5, -0.5]."),
        ({"probs": np.zeros((0, 2))}, "Predictions has shape (0, 2); give a non-empty table (items, labels)."),
        (
            {"probs": [[1, 0]]},
            "Predictions have probs of shape (1, 2) for 2 items and 2 labels; give (2, 2).",
        ),
        ({"items": ["x", "x"]}, "Predictions' items lists 'x' a second time at position 1; give each name once."),
        ({"support": ("a", "a")}, "Predictions' support lists 'a' a second time at position 1; give each name once."),
        ({"consensus": [[0.5], [0.5]]}, "Predictions have consensus of shape (2, 1); give (2, 2)."),
        (
            {"rater_names": ["p"]},
            "Predictions have rater_names of shape (1,) for 3 rater answers; give (3,).",
        ),
        (
            {"rater_values": [[0.5], [0.5], [0.5]]},
            "Predictions have rater_values of shape (3, 1) for 3 rater answers; give (3, 2).",
        ),
        ({"rater_items": [0, 1, 2]}, "Predictions' rater_items run from 0 to 2; they must index the 2 items."),
        (
            {"rater_values": [[0.5, 0.5], [0.5, np.inf], [1, 0]]},
            "Predictions' rater answer 1 is not finite; leave the pair out or repair the model.",
        ),
        (
            {"rater_values": [[0.5, 0.5], [0.5, 0.6], [1, 0]]},
            "Predictions' rater answers: row 1 does not sum to 1 within 0.004: [0.5, 0.6].",
        ),
    ],
)
def test_bad_predictions(changes, message):
    with pytest.raises(ValueError) as error:
        small(**changes)
    assert str(error.value).startswith(message)


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError) as error:
        Predictions.load(tmp_path)
    assert str(error.value) == (
        f"There is no predictions.json in {tmp_path}; give a folder that annot-hf predict wrote."
    )
    small().save(tmp_path)
    about = json.loads((tmp_path / "predictions.json").read_text())
    (tmp_path / "predictions.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(ValueError, match=r"has format 99; this version reads 1: update annot_hf\."):
        Predictions.load(tmp_path)
    about["counts"]["items"] = 3
    (tmp_path / "predictions.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"states 3 items but holds 2; save the predictions again\."):
        Predictions.load(tmp_path)


@pytest.mark.parametrize("name", ["predictions.parquet", "raters.parquet"])
def test_a_mix_of_two_runs_is_said(tmp_path, name):
    small().save(tmp_path / "one")
    small(probs=[[0.5, 0.5], [0, 1]], rater_names=["q", "p", "r"]).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / name, tmp_path / "one" / name)
    with pytest.raises(ValueError, match=f"{name} does not match the digest in predictions.json; save the"):
        Predictions.load(tmp_path / "one")


@pytest.mark.parametrize("call", [1, 2])
def test_predictions_whose_writing_was_cut_off_are_none(tmp_path, monkeypatch, call):
    small().save(tmp_path)
    stock, calls = predictions_module.pq.write_table, []

    def write(*given, **options):
        calls.append(None)
        if len(calls) == call:
            raise KeyboardInterrupt
        return stock(*given, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(predictions_module.pq, "write_table", write)
        small(rater_names=["q", "p", "r"]).save(tmp_path)
    with pytest.raises(ValueError, match="no predictions.json"):
        Predictions.load(tmp_path)
    small().save(tmp_path)
    assert_same(Predictions.load(tmp_path), small())
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.parquet", "raters.parquet", "predictions.json"}


def test_predictions_without_digests_are_read_as_before(tmp_path):
    small().save(tmp_path)
    about = json.loads((tmp_path / "predictions.json").read_text())
    del about["sha256"]
    (tmp_path / "predictions.json").write_text(json.dumps(about))
    assert_same(Predictions.load(tmp_path), small())


def test_arguments_are_not_changed():
    probs = np.array([[0.25, 0.75], [1, 0]])
    replace(small(), probs=probs)
    assert probs.tolist() == [[0.25, 0.75], [1, 0]]


def test_a_deviation_is_not_negative():
    ones = {"scales": SCALES[:1], "scale_means": [[0], [0]]}
    with pytest.raises(ValueError, match="Predictions have a scale deviation of -1; deviations must not"):
        small(**ones, scale_deviations=[[1], [-1]])


@pytest.mark.usefixtures("unrendered")
def test_labels_in_another_order_give_the_same_report(tmp_path, emotion_run):
    votes, targets, predictions, speakers = emotion_run
    order = [3, 0, 5, 1, 4, 2]
    labels = tuple(EMOTIONS[k] for k in order)
    turned = replace(
        predictions,
        support=labels,
        questions=(replace(predictions.questions[0], labels=labels),),
        probs=predictions.probs[:, order],
        consensus=predictions.probs[:, order],
        rater_values=predictions.rater_values[:, order],
    )
    stock = replace(predictions, consensus=predictions.probs)
    told = []
    for number, one in enumerate((stock, turned)):
        options = {"title": "t", "votes": votes, "n_resamples": 20, "conditions": {"noise": noisy(one)}}
        build_report(one, targets, tmp_path / str(number), **options)
        told.append(json.loads((tmp_path / str(number) / "report.json").read_text()))
    assert told[0] == told[1]
    both = evaluate({"stock": stock, "turned": turned}, targets, n_resamples=0)
    assert not any(both.difference(name, "turned", "stock")["value"] for name in both)
    halves = [replace_rows(stock, slice(0, 100)), replace_rows(turned, slice(100, 240))]
    np.testing.assert_array_equal(pool_predictions(halves).probs, stock.probs)


def test_steps_have_an_order(emotion_run):
    _, targets, predictions, _ = emotion_run
    said = replace(predictions, disagreement=np.zeros(240), disagreement_kind="deviation")
    with pytest.raises(ValueError, match="treats the labels as steps in the order anger, disgust"):
        said.in_order(EMOTIONS[::-1])


def noisy(predictions):
    rolled = np.roll(predictions.probs, 1, axis=0)
    return replace(predictions, meta=predictions.meta | {"condition": "noise:10"}, probs=rolled)


def replace_rows(predictions, rows):
    none = {"rater_items": [], "rater_names": [], "rater_values": None, "rater_fallback": None}
    own = {name: getattr(predictions, name)[rows] for name in ("items", "probs", "consensus")}
    return replace(predictions, **none, **own)
