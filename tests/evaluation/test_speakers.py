"""How unevenly systems serve speakers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from annot_hf.data.folds import make_folds
from annot_hf.data.predictions import Predictions
from annot_hf.evaluation.evaluate import evaluate
from annot_hf.evaluation.speakers import speaker_spread


def test_each_speaker_has_the_scores_of_an_evaluation_of_their_items_alone(emotion_run):
    _, targets, predictions, speakers = emotion_run
    marginal = targets.probs.mean(0)
    found = evaluate(predictions, targets, speakers=speakers, marginal=marginal, n_resamples=0, parts=("items",))
    scores = found.speaker_scores["model"]
    assert list(scores.index) == sorted(set(speakers.values())) and (scores["items"] == 20).all()
    for name in ("speaker03", "speaker11"):
        own = targets.select([item for item in targets.items if speakers[item] == name])
        alone = evaluate(predictions, own, marginal=marginal, n_resamples=0, parts=("items",), on_missing="exclude")
        assert scores["gap_closed"][name] == pytest.approx(alone.at("gap_closed")["value"])
        assert scores["jsd"][name] == pytest.approx(alone.at("jsd")["value"])
        assert scores["jsd_marginal"][name] == pytest.approx(alone.at("jsd", "marginal")["value"])


def test_best_median_worst_and_those_worse_than_the_marginal():
    names = [f"s{number}" for number in range(8)]
    gaps = [10.0, -5.0, 30.0, np.nan, 20.0, -1.0, 40.0, 0.0]
    jsd = [0.2, 0.3, 0.1, 0.25, 0.15, 0.2, 0.05, 0.22]
    table = pd.DataFrame({"items": range(1, 9), "gap_closed": gaps, "jsd": jsd, "jsd_marginal": 0.21}, index=names)
    told = speaker_spread(table)
    gap = told["gap_closed"]
    assert (told["speakers"], gap["worse"], told["jsd"]["worse"]) == (8, 2, 3)
    assert gap["best"] == {"speaker": "s6", "items": 7, "value": 40.0}
    # the fourth of seven
    assert gap["median"]["speaker"] == "s0"
    assert [one["speaker"] for one in gap["worst"]] == ["s1", "s5", "s7"]
    assert [told["jsd"][place]["speaker"] for place in ("best", "median")] == ["s6", "s0"]
    assert [one["speaker"] for one in told["jsd"]["worst"]] == ["s1", "s3", "s7"]


def test_runs_are_averaged_and_items_without_speakers_have_no_table(emotion_run):
    _, targets, predictions, speakers = emotion_run
    other = replace(predictions, probs=np.roll(predictions.probs, 1, axis=0))
    options = {"speakers": speakers, "n_resamples": 0, "parts": ("items",)}
    alone = [evaluate(one, targets, **options).speaker_scores["model"] for one in (predictions, other)]
    both = evaluate({"a": [predictions, other], "b": other}, targets, **options).speaker_scores
    pd.testing.assert_frame_equal(both["a"], (alone[0] + alone[1]) / 2, check_dtype=False)
    pd.testing.assert_frame_equal(both["b"], alone[1])
    assert evaluate(predictions, targets, n_resamples=0, parts=("items",)).speaker_scores == {}


def test_all_speakers_of_all_folds_are_pooled(emotion_run):
    _, targets, predictions, speakers = emotion_run
    groups = np.array([speakers[item] for item in targets.items])
    folds = list(make_folds(groups, folds=3, repeats=2, validation=0.1, seed=0, unit="speaker"))
    plain = Predictions(predictions.items, predictions.support, predictions.probs, predictions.questions)
    found = evaluate({"one": [plain, plain]}, targets, folds=folds, speakers=speakers, n_resamples=0, parts=("items",))
    scores = found.speaker_scores["one"]
    assert len(scores) == 12 and scores["items"].sum() == 240
    # speakers have equally many items, so their mean is that of all
    assert scores["jsd"].mean() == pytest.approx(found.at("jsd", "one")["value"])
    assert scores["jsd_marginal"].mean() == pytest.approx(found.at("jsd", "marginal")["value"])
    assert found.to_dict()["speaker_spread"]["one"]["speakers"] == 12
