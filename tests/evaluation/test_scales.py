import json
from dataclasses import replace

import audmetric
import numpy as np
import pandas as pd
import pytest

from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.evaluate import evaluate
from annot_hf.report.report import build_report
from annot_hf.report.systems import systems_tables
from annot_hf.report.tables import scale_table

ACTIVATION, VALENCE = Question.scale("activation", 1, 5), Question.scale("valence", 1, 5)
ITEMS = [f"clip{i}" for i in range(30)]
SPEAKERS = [f"s{i % 6}" for i in range(30)]


@pytest.fixture(scope="module")
def run():
    """30 clips with an emotion and two scales, one clip unrated on valence, and predictions around the truth."""
    rng = np.random.default_rng(0)
    emotion = Question.category("emotion", ["angry", "sad"])
    rows = [(item, f"r{r}", "emotion", emotion.labels[rng.integers(2)]) for item in ITEMS for r in range(4)]
    rows += [
        (item, f"r{r}", name, float(rng.integers(1, 6)))
        for item in ITEMS
        for r in range(3)
        for name in ("valence", "activation")
        if (item, name) != ("clip7", "valence")
    ]
    item, rater, question, value = zip(*rows, strict=True)
    votes = VoteTable.from_columns(
        [emotion, VALENCE, ACTIVATION], item=item, annotator=rater, question=question, value=[str(v) for v in value]
    )
    frame = pd.DataFrame(rows, columns=["item", "rater", "question", "value"])
    scales = frame[frame.question != "emotion"].astype({"value": float})
    true = scales.pivot_table("value", "item", "question").reindex(ITEMS)[["valence", "activation"]].to_numpy()
    true = (true - 3) / 2
    means = np.nan_to_num(true) + rng.normal(0, 0.3, true.shape)
    predictions = Predictions(
        items=np.array(ITEMS[::-1]),
        support=emotion.labels,
        probs=np.full((30, 2), 0.5),
        questions=(emotion,),
        scales=(VALENCE, ACTIVATION),
        scale_means=means[::-1],
        scale_deviations=np.full((30, 2), 0.3),
    )
    return predictions, votes, true, means


def test_against_oracles(run):
    predictions, votes, true, means = run
    targets = make_targets(votes, "emotion", items=ITEMS)
    found = evaluate(predictions, targets, speakers=dict(zip(ITEMS, SPEAKERS, strict=True)), votes=votes)
    assert [one["question"] for one in found.scales] == ["valence", "activation"]
    assert [one["items"] for one in found.scales] == [29, 30]
    for column, told in enumerate(found.scales):
        one = {kind: found.at(f"{kind}_{told['question']}") for kind in ("ccc", "pearson", "rmse")}
        y, x = true[:, column], means[:, column]
        rated = np.isfinite(y)
        y, x = y[rated], x[rated]
        assert one["ccc"]["value"] == pytest.approx(audmetric.concordance_cc(y, x))
        assert one["pearson"]["value"] == pytest.approx(np.corrcoef(x, y)[0, 1])
        assert one["rmse"]["value"] == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
        assert told["covered"] == pytest.approx(np.mean(abs(x - y) <= 1.96 * 0.3))
        assert one["ccc"]["low"] < one["ccc"]["value"] < one["ccc"]["high"]
    assert len(scale_table(found)[0].rows) == 2
    assert scale_table(evaluate(predictions, targets, n_resamples=0)) == []


def test_in_a_report_and_on_disk(run, tmp_path, unrendered):
    predictions, votes, _, _ = run
    loaded = Predictions.load(predictions.save(tmp_path / "predictions"))
    assert loaded.scales == predictions.scales
    np.testing.assert_array_equal(loaded.scale_means, predictions.scale_means)
    np.testing.assert_array_equal(loaded.scale_deviations, predictions.scale_deviations)
    items = pd.DataFrame({"item": ITEMS, "speaker": SPEAKERS})
    targets = make_targets(votes, "emotion", items=ITEMS)
    report = build_report(loaded, targets, tmp_path / "report", title="Run", items=items, votes=votes, n_resamples=50)
    data = json.loads(report.files["json"].read_text())
    assert [one["question"] for one in data["evaluation"]["scales"]] == ["valence", "activation"]
    assert "Further scales" in report.files["markdown"].read_text()


@pytest.mark.parametrize("change", [{"scale_means": np.zeros((30, 1))}, {"scale_deviations": np.full((30, 2), np.nan)}])
def test_shapes_and_numbers_are_checked(run, change):
    with pytest.raises(ValueError, match="Predictions have scale_"):
        replace(run[0], **change)


def test_systems_have_their_scales_side_by_side(run):
    predictions, votes, _, _ = run
    targets = make_targets(votes, "emotion", items=ITEMS)
    speakers = dict(zip(ITEMS, SPEAKERS, strict=True))
    flat = replace(predictions, scale_means=predictions.scale_means / 2)
    bare = replace(predictions, scales=(), scale_means=None, scale_deviations=None)
    systems = {"a|b": [predictions, flat], "flat": [flat], "bare": [bare]}
    options = {"speakers": speakers, "votes": votes, "n_resamples": 50}
    found = evaluate(systems, targets, **options)
    alone = [evaluate(one, targets, **options) for one in (predictions, flat)]
    for measure in ("ccc_valence", "ccc_activation"):
        values = [one.at(measure)["value"] for one in alone]
        assert found.at(measure, "a|b")["value"] == pytest.approx(np.mean(values)) and found.at(measure, "bare") is None
        assert found.difference(measure, "flat", "a|b")["value"] == pytest.approx(values[1] - np.mean(values))
        assert found.at(measure, "flat") == alone[1].at(measure)
    table = next(table for table in systems_tables(found) if table.title == "Further scales")
    assert table.columns[1:4] == tuple(
        f"{kind}, valence\u00a0{way}" for kind, way in (("CCC", "↑"), ("Pearson", "↑"), ("RMSE", "↓"))
    )
    assert [cell.main for cell in table.rows[2][:2]] == ["bare", "\u2013"]
