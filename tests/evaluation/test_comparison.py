import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from annot_hf.evaluation.evaluate import break_down, compare
from annot_hf.evaluation.resampling import resample_sums
from annot_hf.evaluation.scoring import score
from annot_hf.models import measures
from annot_hf.report.report import build_comparison


def noisier(predictions, noise=0.8):
    logits = np.log(predictions.probs + 1e-6) + noise * np.random.default_rng(1).normal(size=predictions.probs.shape)
    probs = np.exp(logits)
    return replace(predictions, probs=probs / probs.sum(1, keepdims=True), meta={"model": "noisier"})


@pytest.fixture(scope="module")
def found(emotion_run):
    votes, targets, predictions, speakers = emotion_run
    return compare(predictions, noisier(predictions), targets, speakers=speakers, votes=votes, n_resamples=200)


def test_each_side_equals_its_own_scores(emotion_run, found):
    votes, targets, predictions, speakers = emotion_run
    options = {"speakers": speakers, "n_resamples": 200}
    for side, run in (("a", predictions), ("b", noisier(predictions))):
        alone = dict(score(run, targets, **options)) | dict(break_down(run, targets, votes=votes, **options))
        assert set(found) == set(alone) - {"vote_entropy"}
        for name, record in found.items():
            for end in ("value", "low", "high"):
                assert record[side][end] == pytest.approx(alone[name][end]), (name, end)


def test_differences_are_paired_by_speaker(emotion_run, found):
    _, targets, predictions, speakers = emotion_run
    other = noisier(predictions)
    difference = measures.jsd(predictions.probs, targets.probs) - measures.jsd(other.probs, targets.probs)
    named = [speakers[item] for item in targets.items]
    draws = resample_sums({"x": difference}, named, n_resamples=200, seed=0)["x"] / 240
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    assert found["jsd"]["difference"] == pytest.approx({"value": difference.mean(), "low": low, "high": high})
    assert found["jsd"]["verdict"] == "a"
    own = found["jsd"]["a"]["high"] - found["jsd"]["a"]["low"] + found["jsd"]["b"]["high"] - found["jsd"]["b"]["low"]
    assert high - low < own
    for record in found.values():
        apart = (
            record["difference"]["low"] is not None and record["difference"]["low"] * record["difference"]["high"] > 0
        )
        assert bool(record["verdict"]) == bool(apart and record["better"])


def test_a_run_equals_itself_and_order_turns_the_sign(emotion_run, found):
    votes, targets, predictions, speakers = emotion_run
    options = {"speakers": speakers, "votes": votes, "n_resamples": 200}
    for name, record in compare(predictions, predictions, targets, **options).items():
        assert record["verdict"] == "" and record["difference"]["value"] in (0, None), name
    turned = compare(noisier(predictions), predictions, targets, **options)
    for name, record in found.items():
        if record["difference"]["value"] is not None:
            assert turned[name]["difference"]["value"] == pytest.approx(-record["difference"]["value"])
        assert turned[name]["verdict"] == {"a": "b", "b": "a", "": ""}[record["verdict"]]
    told, other = found.equivalence.systems, turned.equivalence.systems
    assert (told["a"], told["b"]) == (other["b"], other["a"])


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
    assert found.raters == {} and found.notes[-1].startswith("The runs answer for different votes of named raters")
    with pytest.raises(KeyError):
        found["rater_accuracy"]


def test_report(tmp_path, emotion_run):
    votes, targets, predictions, speakers = emotion_run
    items = pd.DataFrame({"item": list(speakers), "speaker": list(speakers.values()), "sex": ["f", "m"] * 120})
    report = build_comparison(
        predictions,
        noisier(predictions),
        targets,
        tmp_path,
        title="<b>Two</b> runs",
        names=("clean", "$noisy|"),
        items=items,
        votes=votes,
        notes={"seed": 0},
        n_resamples=100,
    )
    assert "on 240 items by 12 speakers, question “emotion”. Left out: nothing." in report.summary
    assert "By this measure clean is better. Of 10 measures" in report.summary
    plots = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert plots == {"differences", "speaker_pairs", "equivalence"}
    assert all(path.is_file() for path in report.files.values())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page and "&lt;b&gt;Two" in page and page.count("<img") == 3
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert html.count("<table>") == 8 and html.count("<img") == 3  # seven of measures, one of the run
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["comparison"]["names"] == ["clean", "$noisy|"] and data["run"]["$noisy|: model"] == "noisier"
    assert data["comparison"]["measures"]["jsd"]["difference"] == report.comparison["jsd"]["difference"]
    assert "pauar75_1_best_sex=f" in data["comparison"]["categories"]
    assert (tmp_path / "items.csv").read_text(encoding="utf-8").startswith("item,speaker,votes,jsd_a,jsd_b\n")


@pytest.mark.usefixtures("unrendered")
def test_grids_and_single_items(tmp_path, grid_run):
    votes, targets, predictions, _, _ = grid_run
    report = build_comparison(
        predictions, noisier(predictions), targets, tmp_path / "a", title="t", votes=votes, n_resamples=50
    )
    assert report.comparison.categories == {} and report.comparison.equivalence is None
    assert "ccc_valence" in report.comparison.measures and "rater_ccc_valence" in report.comparison.raters
    assert report.comparison["ccc_valence"]["verdict"] == "a"
    one = targets.select(targets.items[:1])
    report = build_comparison(predictions, predictions, one, tmp_path / "b", title="t", on_missing="exclude")
    assert "on 1 item (speakers not given)" in report.summary and report.summary.endswith("there is only 1 item.")
