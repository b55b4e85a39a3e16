import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from annot_hf.evaluation.evaluate import evaluate
from annot_hf.evaluation.resampling import Resamples
from annot_hf.models import measures
from annot_hf.report.report import build_comparison


def noisier(predictions, noise=0.8):
    logits = np.log(predictions.probs + 1e-6) + noise * np.random.default_rng(1).normal(size=predictions.probs.shape)
    probs = np.exp(logits)
    return replace(predictions, probs=probs / probs.sum(1, keepdims=True), meta={"model": "noisier"})


def compare(a, b, targets, names=("A", "B"), **options):
    return evaluate(dict(zip(names, (a, b), strict=True)), targets, against=names[1], **options)


@pytest.fixture(scope="module")
def found(emotion_run):
    votes, targets, predictions, speakers = emotion_run
    return compare(predictions, noisier(predictions), targets, speakers=speakers, votes=votes, n_resamples=200)


def test_each_side_equals_its_own_scores(emotion_run, found):
    votes, targets, predictions, speakers = emotion_run
    options = {"speakers": speakers, "n_resamples": 200}
    for side, run in (("A", predictions), ("B", noisier(predictions))):
        alone = evaluate(run, targets, votes=votes, **options)
        assert set(found) == set(alone)
        for name in found:
            for end in ("value", "low", "high"):
                assert found.at(name, side)[end] == pytest.approx(alone.at(name)[end]), (name, end)


def test_differences_are_paired_by_speaker(emotion_run, found):
    _, targets, predictions, speakers = emotion_run
    other = noisier(predictions)
    difference = measures.jsd(predictions.probs, targets.probs) - measures.jsd(other.probs, targets.probs)
    named = [speakers[item] for item in targets.items]
    draws = Resamples(named, 200).sums({"x": difference})["x"] / 240
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    assert found.difference("jsd", "A", "B") == pytest.approx({"value": difference.mean(), "low": low, "high": high})
    assert found["jsd"]["differences"] == {"A - B": found.difference("jsd", "A", "B")}
    assert found.better("jsd", "A", "B") == "A"
    assert high - low < sum(found.at("jsd", side)["high"] - found.at("jsd", side)["low"] for side in "AB")
    for name, record in found.items():
        difference = found.difference(name, "A", "B")
        apart = difference["low"] is not None and difference["low"] * difference["high"] > 0
        assert bool(found.better(name, "A", "B")) == bool(apart and record["better"])


def test_a_run_equals_itself_and_order_turns_the_sign(emotion_run, found):
    votes, targets, predictions, speakers = emotion_run
    options = {"speakers": speakers, "votes": votes, "n_resamples": 200}
    same = compare(predictions, predictions, targets, **options)
    for name in same:
        assert same.better(name, "A", "B") == "" and same.difference(name, "A", "B")["value"] in (0, None), name
    turned = compare(noisier(predictions), predictions, targets, **options)
    for name in found:
        value = found.difference(name, "A", "B")["value"]
        if value is not None:
            assert turned.difference(name, "A", "B")["value"] == pytest.approx(-value)
        assert turned.better(name, "A", "B") == {"A": "B", "B": "A", "": ""}[found.better(name, "A", "B")]
    told, other = found.equivalence.systems, turned.equivalence.systems
    assert (told["A"], told["B"]) == (other["B"], other["A"])


def test_the_order_of_items_does_not_matter(emotion_run, found):
    votes, targets, predictions, speakers = emotion_run
    other, order = noisier(predictions), np.random.default_rng(0).permutation(240)
    position = np.empty(240, int)
    position[order] = np.arange(240)
    shuffled = replace(
        other, items=other.items[order], probs=other.probs[order], rater_items=position[other.rater_items]
    )
    again = compare(predictions, shuffled, targets, speakers=speakers, votes=votes, n_resamples=200)
    assert again["macro_f1"] == found["macro_f1"] and again["rater_accuracy"] == found["rater_accuracy"]


def test_different_items_are_refused(emotion_run):
    _, targets, predictions, _ = emotion_run
    kept = np.arange(240) != 5
    empty = {"rater_items": [], "rater_names": [], "rater_values": None, "rater_fallback": None}
    fewer = replace(predictions, items=predictions.items[kept], probs=predictions.probs[kept], **empty)
    renamed = replace(fewer, items=np.array(["new", *fewer.items[1:]], dtype=object))
    with pytest.raises(ValueError) as error:
        compare(predictions, fewer, targets)
    assert str(error.value) == (
        "The runs differ in 1 items: 1 only in A (such as 'clip005'); predict the same items with both."
    )
    with pytest.raises(ValueError) as error:
        compare(renamed, predictions, targets, names=("old", "new"), on_missing="exclude")
    assert str(error.value) == (
        "The runs differ in 3 items: 1 only in old (such as 'new') and 2 only in new (such as 'clip000', 'clip005'); "
        "predict the same items with both."
    )
    common = compare(fewer, fewer, targets, on_missing="exclude", n_resamples=0)
    assert common.counts["n_evaluated"] == 239 and common.counts["target_without_prediction"] == 1


def test_runs_that_answer_for_other_raters_are_compared_without_them(emotion_run):
    _, targets, predictions, _ = emotion_run
    fewer = replace(
        predictions,
        rater_items=predictions.rater_items[1:],
        rater_names=predictions.rater_names[1:],
        rater_values=predictions.rater_values[1:],
        rater_fallback=predictions.rater_fallback[1:],
    )
    found = compare(predictions, fewer, targets, n_resamples=0)
    assert found.parts["raters"] == {}
    assert found.notes[-1].startswith("The systems predict different votes of named raters")
    with pytest.raises(KeyError):
        found["rater_accuracy"]


def test_report(tmp_path, emotion_run):
    votes, targets, predictions, speakers = emotion_run
    items = pd.DataFrame({"item": list(speakers), "speaker": list(speakers.values()), "sex": ["f", "m"] * 120})
    report = build_comparison(
        {"clean": predictions, "$noisy|": noisier(predictions)},
        targets,
        tmp_path,
        title="<b>Two</b> runs",
        items=items,
        votes=votes,
        notes={"seed": 0},
        n_resamples=100,
    )
    assert "on 240 items by 12 speakers, question “emotion”. Left out: nothing." in report.summary
    assert "By this measure clean is better. Of 11 measures" in report.summary
    plots = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert plots == {"differences", "speaker_pairs", "equivalence"}
    assert all(path.is_file() for path in report.files.values())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page and "&lt;b&gt;Two" in page and page.count("<img") == 3
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    html = MarkdownIt("commonmark").enable("table").render(text)
    # the examples, seven tables of measures, one of speakers, one of subsets, one of the run
    assert html.count("<table>") == 11 and html.count("<img") == 3
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["evaluation"]["systems"] == ["clean", "$noisy|"] and data["run"]["$noisy|: model"] == "noisier"
    assert data["evaluation"]["measures"]["items"]["jsd"] == report.evaluation["jsd"]
    assert "pauar75_1_best_sex=f" in data["evaluation"]["measures"]["categories"]
    assert (tmp_path / "items.csv").read_text(encoding="utf-8").startswith("item,speaker,votes,jsd_clean,jsd_$noisy|\n")


@pytest.mark.usefixtures("unrendered")
def test_grids_and_single_items(tmp_path, grid_run):
    votes, targets, predictions, _, _ = grid_run
    report = build_comparison(
        {"A": predictions, "B": noisier(predictions)}, targets, tmp_path / "a", title="t", votes=votes, n_resamples=50
    )
    found = report.evaluation
    assert found.parts["categories"] == {} and found.equivalence is None
    assert "ccc_valence" in found.parts["items"] and "rater_ccc_valence" in found.parts["raters"]
    assert found.better("ccc_valence", "A", "B") == "A"
    one = targets.select(targets.items[:1])
    report = build_comparison(
        {"A": predictions, "B": predictions}, one, tmp_path / "b", title="t", on_missing="exclude"
    )
    assert "on 1 item (speakers not given)" in report.summary and report.summary.endswith("there is only 1 item.")
