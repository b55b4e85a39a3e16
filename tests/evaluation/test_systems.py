from dataclasses import replace

import numpy as np
import pytest

from annot_hf.evaluation.equivalence import crossing, rater_equivalence
from annot_hf.evaluation.evaluate import evaluate
from annot_hf.evaluation.resampling import Resamples
from annot_hf.report.pages import render
from annot_hf.report.systems import systems_tables


@pytest.fixture(scope="module")
def runs(emotion_run):
    """Two systems with two runs each: flatter and flatter versions of the predictions."""
    _, targets, predictions, speakers = emotion_run
    flat = [replace(predictions, probs=(1 - w) * predictions.probs + w / 6) for w in (0.0, 0.1, 0.3, 0.5)]
    return {"sharp": flat[:2], "flat": flat[2:]}, targets, speakers


def page_of(tables):
    """The tables as Markdown."""
    page = {
        "title": "",
        "opening": None,
        "summary": "",
        "sections": [{"tables": tables, "figures": []}],
        "notes": [],
        "details": [],
    }
    return render("report.md.j2", page)


def test_a_system_is_the_mean_of_its_runs(runs):
    systems, targets, speakers = runs
    found = evaluate(systems, targets, speakers=speakers, n_resamples=200)
    for name, several in systems.items():
        alone = [evaluate(run, targets, speakers=speakers, n_resamples=200) for run in several]
        for measure in ("jsd", "kl", "macro_f1", "gap_closed"):
            record = found.at(measure, name)
            values = [one.at(measure)["value"] for one in alone]
            assert record["runs"] == pytest.approx(values)
            assert record["value"] == pytest.approx(np.mean(values))
            assert record["deviation"] == pytest.approx(np.std(values, ddof=1))
    first, second = (found.at("jsd", name)["value"] for name in systems)
    difference = found.difference("jsd", "flat", "sharp")
    assert difference["value"] == pytest.approx(second - first)
    assert difference["low"] < difference["value"] < difference["high"]
    assert list(found["jsd"]["differences"]) == ["flat - sharp"]
    assert found.counts["runs"] == {"sharp": 2, "flat": 2}


def test_one_run_has_the_interval_of_its_own_report(runs):
    systems, targets, speakers = runs
    run = systems["flat"][0]
    found = evaluate({"one": [run]}, targets, speakers=speakers, n_resamples=200)
    expected = evaluate(run, targets, speakers=speakers, n_resamples=200)
    for measure in ("jsd", "accuracy"):
        record = found.at(measure, "one")
        assert [record[end] for end in ("value", "low", "high")] == [
            expected.at(measure)[end] for end in ("value", "low", "high")
        ]
        assert "deviation" not in record


def test_tables_say_everything(runs):
    systems, targets, speakers = runs
    found = evaluate(systems, targets, speakers=speakers, n_resamples=50)
    tables = systems_tables(found)
    page = page_of(tables)
    for word in (
        "JSD (nats) ↓",
        "| sharp |",
        "| flat |",
        "| marginal |",
        "Difference to sharp",
        "Worth in raters",
        "paUAR-50",
        "JSD, middle",
    ):
        assert word in page
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)


def test_bad_systems(runs):
    systems, targets, speakers = runs
    with pytest.raises(ValueError, match="'none' has no run"):
        evaluate(systems | {"none": []}, targets)
    with pytest.raises(ValueError, match="name of a baseline"):
        evaluate({"marginal": systems["flat"]}, targets)
    with pytest.raises(ValueError, match="no system"):
        evaluate({}, targets)


def test_worth_is_where_the_mean_loss_of_the_runs_meets_the_raters(emotion_run):
    votes, targets, predictions, speakers = emotion_run
    for weights in ((0.6, 0.9), (0.3, 0.8)):
        runs = [replace(predictions, probs=(1 - w) * predictions.probs + w / 6) for w in weights]
        reference = targets.probs * targets.votes_per_item[:, None]
        options = {"marginal": targets.probs.mean(0), "resamples": Resamples(n=0)}
        found = rater_equivalence({"both": np.stack([run.probs for run in runs])}, reference, **options)
        alone = [rater_equivalence({"one": run.probs}, reference, **options) for run in runs]
        loss = np.mean([one.systems["one"]["loss"]["value"] for one in alone])
        assert found.systems["both"]["loss"]["value"] == pytest.approx(loss)
        curve = np.array([point["value"] for point in found.curve])
        worth = evaluate({"both": runs}, targets, votes=votes, speakers=speakers, n_resamples=50).equivalence.systems[
            "both"
        ]["worth"]
        expected = crossing(curve, np.array(loss))
        assert worth["value"] == (pytest.approx(float(expected), abs=0.2) if np.isfinite(expected) else None)
        assert "95 % interval" in worth["text"]


def test_answers_of_single_raters_have_a_table_with_each_consensus(grid_run):
    _, targets, predictions, speakers = grid_run[:4]
    empty = {"rater_items": np.zeros(0, int), "rater_names": [], "rater_values": None, "rater_fallback": None}
    grid = replace(predictions, consensus=None, **empty)
    found = evaluate({"heads": [predictions] * 2, "heads 2": grid}, targets, speakers=speakers, n_resamples=50)
    table = next(table for table in systems_tables(found) if table.title == "Answers of single raters")
    assert [row[0].main for row in table.rows] == ["heads", "heads, consensus", "heads 2", "marginal"]
    heads = [head.rstrip("\u00a0↑") for head in table.columns[1:]]
    assert heads == [
        f"{head}, {name}" for name in ("activation", "valence") for head in ("CCC of their mean", "Raters' own CCC")
    ]
    for row, system in zip(table.rows, ("heads", "heads, consensus", "heads 2", "marginal"), strict=True):
        assert row[2].main == f"{found.at('rater_mean_ccc_activation', system)['value']:.3f}"
    kinds = [f"ccc_{name}" for name in ("activation", "valence")]
    names = ("heads", "heads 2", "heads, consensus", "marginal")
    assert list(found.per_rater) == ["votes", *(f"{kind}_{name}" for kind in kinds for name in names)]
    assert found.at("rater_mean_ccc_valence", "heads, consensus")["deviation"] == pytest.approx(0, abs=1e-12)
