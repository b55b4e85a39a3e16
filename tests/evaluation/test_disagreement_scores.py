import json
from dataclasses import replace

import audmetric
import numpy as np
import pandas as pd
import pytest

from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import Question
from annot_hf.data.targets import disagreement, make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.scales import score_disagreement
from annot_hf.report.report import build_report
from annot_hf.report.tables import disagreement_table

MOOD = Question.category("mood", ["low", "mid", "high"])
ITEMS = [f"text{row}" for row in range(20)]


@pytest.fixture(scope="module")
def run():
    """Twenty texts, one of which has a single vote, and predictions around the truth."""
    rng = np.random.default_rng(0)
    rows = [(item, f"r{r}", MOOD.labels[rng.integers(3)]) for item in ITEMS for r in range(1 if item == "text4" else 4)]
    item, rater, value = zip(*rows, strict=True)
    votes = VoteTable.from_columns(MOOD, item=item, annotator=rater, value=value)
    true = disagreement(votes, "mood", ITEMS, "entropy")
    told = (0.6 * np.nan_to_num(true) + 0.4 * rng.random(20)).clip(0, 1)
    predictions = Predictions(
        items=np.array(ITEMS[::-1]),
        support=MOOD.labels,
        probs=np.full((20, 3), 1 / 3),
        questions=(MOOD,),
        disagreement=told[::-1],
        disagreement_kind="entropy",
    )
    return predictions, votes, true, told


def test_against_oracles(run):
    predictions, votes, true, told = run
    found = score_disagreement(predictions, votes, ITEMS, speakers=ITEMS, n_resamples=50)
    known = np.isfinite(true)
    x, y = told[known], true[known]
    assert found["kind"] == "entropy" and found["items"] == 19
    assert found["ccc"]["value"] == pytest.approx(audmetric.concordance_cc(y, x))
    assert found["pearson"]["value"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found["rmse"]["value"] == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
    assert found["ccc"]["low"] < found["ccc"]["value"] < found["ccc"]["high"]
    assert score_disagreement(replace(predictions, disagreement=None), votes, ITEMS) is None
    assert score_disagreement(predictions, votes, ["text4"]) is None
    assert disagreement_table(None) == [] and len(disagreement_table(found)[0].rows) == 1


def test_in_a_report_and_on_disk(run, tmp_path, unrendered):
    predictions, votes, _, told = run
    loaded = Predictions.load(predictions.save(tmp_path / "predictions"))
    np.testing.assert_array_equal(loaded.disagreement, told[::-1])
    assert loaded.disagreement_kind == "entropy"
    items = pd.DataFrame({"item": ITEMS, "speaker": ITEMS})
    targets = make_targets(votes, "mood", items=ITEMS)
    report = build_report(loaded, targets, tmp_path / "report", title="Run", items=items, votes=votes, n_resamples=50)
    data = json.loads(report.files["json"].read_text())
    assert data["disagreement"]["items"] == 19
    assert "Disagreement beside the distribution" in report.files["markdown"].read_text()


@pytest.mark.parametrize("values", [np.zeros(19), np.full(20, 1.1), np.full(20, np.nan)])
def test_numbers_are_checked(run, values):
    with pytest.raises(ValueError, match="Predictions have disagreement of shape"):
        replace(run[0], disagreement=values)
