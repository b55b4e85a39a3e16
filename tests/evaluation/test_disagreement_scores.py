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
from annot_hf.evaluation.evaluate import evaluate
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
    targets = make_targets(votes, "mood", items=ITEMS)
    options = {"votes": votes, "n_resamples": 50}
    found = evaluate(predictions, targets, speakers=dict(zip(ITEMS, ITEMS, strict=True)), **options)
    known = np.isfinite(true)
    x, y = told[known], true[known]
    assert found.disagreement == {"kind": "entropy", "items": 19}
    assert found.at("disagreement_ccc")["value"] == pytest.approx(audmetric.concordance_cc(y, x))
    assert found.at("disagreement_pearson")["value"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.at("disagreement_rmse")["value"] == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
    assert (
        found.at("disagreement_ccc")["low"]
        < found.at("disagreement_ccc")["value"]
        < found.at("disagreement_ccc")["high"]
    )
    assert len(disagreement_table(found)[0].rows) == 1
    silent = evaluate(replace(predictions, disagreement=None), targets, **options)
    single = evaluate(predictions, targets.select(["text4"]), on_missing="exclude", **options)
    for none in (silent, single):
        assert none.disagreement is None and "disagreement_ccc" not in none and disagreement_table(none) == []


def test_in_a_report_and_on_disk(run, tmp_path, unrendered):
    predictions, votes, _, told = run
    loaded = Predictions.load(predictions.save(tmp_path / "predictions"))
    np.testing.assert_array_equal(loaded.disagreement, told[::-1])
    assert loaded.disagreement_kind == "entropy"
    items = pd.DataFrame({"item": ITEMS, "speaker": ITEMS})
    targets = make_targets(votes, "mood", items=ITEMS)
    report = build_report(loaded, targets, tmp_path / "report", title="Run", items=items, votes=votes, n_resamples=50)
    data = json.loads(report.files["json"].read_text())
    assert data["evaluation"]["disagreement"]["items"] == 19
    assert "Predicted disagreement" in report.files["markdown"].read_text()


@pytest.mark.parametrize("values", [np.zeros(19), np.full(20, 1.1), np.full(20, np.nan)])
def test_numbers_are_checked(run, values):
    with pytest.raises(ValueError, match="Predictions have disagreement of shape"):
        replace(run[0], disagreement=values)
