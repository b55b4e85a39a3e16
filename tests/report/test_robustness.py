"""One model under several acoustic conditions against the same votes."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from annot_hf.data.conditions import CONDITION_KINDS
from annot_hf.evaluation.alignment import read_conditions
from annot_hf.evaluation.evaluate import evaluate, measure_conditions
from annot_hf.models.measures import jsd
from annot_hf.report.report import build_report, robustness_section
from annot_hf.report.tables import number, robustness_table

META = {"model": "runs/m", "corpus": "made up", "split": "test"}


def under(predictions, condition, noise=0.0, **meta):
    """The predictions as they might be under a condition."""
    logits = np.log(predictions.probs + 1e-6)
    logits = logits + noise * np.random.default_rng(1).normal(size=logits.shape)
    probs = np.exp(logits) if noise else predictions.probs
    return replace(predictions, probs=probs / probs.sum(1, keepdims=True), meta=META | {"condition": condition} | meta)


def runs(predictions):
    clean = under(predictions, "clean")
    return clean, {
        "P/telephone": under(predictions, "telephone", 0.5),
        "P/noise-0": under(predictions, "noise:0", 2.0),
        "P/noise-20": under(predictions, "noise:20", 0.2),
        "P/clean": clean,
    }


@pytest.fixture(scope="module")
def found(emotion_run):
    _, targets, predictions, speakers = emotion_run
    clean, altered = runs(predictions)
    return measure_conditions(clean, altered, targets, speakers=speakers, n_resamples=200)


def test_every_condition_equals_its_own_scores_and_its_comparison_with_clean(emotion_run, found):
    _, targets, predictions, speakers = emotion_run
    clean, altered = runs(predictions)
    marginal = np.array([0.1, 0.1, 0.1, 0.3, 0.3, 0.1])
    options = {"speakers": speakers, "n_resamples": 200, "marginal": marginal}
    found = measure_conditions(clean, altered, targets, **options)
    assert found.systems == ("clean", "noise:20", "noise:0", "telephone")
    for name, path in (("telephone", "P/telephone"), ("noise:0", "P/noise-0")):
        alone = evaluate(altered[path], targets, **options)
        paired = evaluate({"one": altered[path], "clean": clean}, targets, **options)
        for measure in ("jsd", "gap_closed", "accuracy", "uar"):
            assert found.at(measure, name) == alone.at(measure)
            assert found[measure]["differences"][f"{name} - clean"] == paired.difference(measure, "one", "clean")
            assert found.at(measure, "marginal") == alone.at(measure, "marginal")
    assert (found.counts["n_evaluated"], found.counts["speakers"]) == (240, 12)


def test_how_far_predictions_move_from_the_clean_ones(emotion_run, found):
    clean, altered = runs(emotion_run[2])
    for name, path in (("telephone", "P/telephone"), ("noise:0", "P/noise-0")):
        moved = found.at("moved", name)
        assert moved["value"] == pytest.approx(jsd(altered[path].probs, clean.probs).mean())
        assert moved["low"] < moved["value"] < moved["high"]
    assert found.at("moved", "clean") is None


@pytest.mark.usefixtures("unrendered")
def test_a_sample_of_the_clips_is_shown_beside_the_scores_of_all(emotion_run, tmp_path):
    _, targets, predictions, speakers = emotion_run
    clean, altered = runs(predictions)
    some = predictions.items[::4]
    sampled = {name: altered[f"P/{name}"].select(some[::-1]) for name in ("telephone", "noise-20")}
    items = pd.DataFrame({"item": list(speakers), "speaker": list(speakers.values())})
    built = build_report(clean, targets, tmp_path, title="t", items=items, n_resamples=50, robustness=sampled)
    assert built.evaluation.counts["n_evaluated"] == 240
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    told = data["robustness_sample"]
    assert data["robustness"] is None and told["counts"]["n_evaluated"] == 60
    alone = measure_conditions(clean.select(some), sampled, targets.select(some), speakers=speakers, n_resamples=50)
    table = robustness_table(alone)
    assert [row[0].main for row in table.rows] == ["clean", "noise:20", "telephone"]
    phone = table.rows[2]
    assert phone[1].main == number(told["measures"]["items"]["moved"]["systems"]["telephone"]["value"], 3)
    difference = alone.difference("jsd", "telephone", "clean")
    assert (
        phone[3].text
        == f"{number(difference['value'], 3)} [{number(difference['low'], 3)}, {number(difference['high'], 3)}]"
    )
    assert phone[4].main == number(alone.at("accuracy", "telephone")["value"], 3)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "How robust the predictions are" in text and "60 clips, evenly spaced" in text


def test_worse_predictions_are_found_worse(found):
    differences = found["jsd"]["differences"]
    assert differences["noise:0 - clean"]["low"] > 0 and len(differences) == 3
    values = [found.at("jsd", name)["value"] for name in ("clean", "noise:20", "telephone", "noise:0")]
    assert values == sorted(values)


def test_scales_have_ccc(grid_run):
    _, targets, predictions, speakers, _ = grid_run
    clean, altered = runs(predictions)
    found = measure_conditions(clean, altered, targets, speakers=speakers, n_resamples=50)
    heads = [head.partition("\u00a0")[0] for head in robustness_section(found).tables[0].columns]
    assert heads[-2:] == ["CCC of the expectation, activation", "CCC of the expectation, valence"]
    assert found.difference("ccc_valence", "noise:0", "clean")["high"] < 0


@pytest.mark.parametrize(
    ("altered", "message"),
    [
        ({}, "All predictions are for clean clips; also predict under a condition, such as noise:10."),
        (
            {"P/a": ("noise:1", 0.1, {}), "P/b": ("noise:1", 0.2, {"condition_seed": 1})},
            "P/b and P/a are both under noise:1",
        ),
        ({"P/a": ("clean", 0.1, {})}, "P/a is clean but differs from the first clean predictions"),
        ({"P/a": ("noise:1", 0.1, {"model": "runs/other"})}, "P/a has model '.*runs/other' and the clean .*runs/m'"),
        (
            {"P/a": ("noise:1", 0.1, {"model_sha256": "b"})},
            "P/a is of another model than the clean predictions, which was",
        ),
        ({"P/a": ("noise:1", 0.1, {"split": "train"})}, "P/a has split 'train' and the clean predictions have 'test'"),
        ({"P/a": ("nois:1", 0.1, {})}, "Condition 'nois:1' is not known .did you mean 'noise'"),
    ],
)
def test_what_does_not_belong_together_is_refused(emotion_run, altered, message):
    _, targets, predictions, _ = emotion_run
    others = {name: under(predictions, condition, noise, **meta) for name, (condition, noise, meta) in altered.items()}
    with pytest.raises(ValueError, match=message):
        measure_conditions(under(predictions, "clean", model_sha256="a"), others, targets, n_resamples=0)


def test_other_items_and_an_altered_reference_are_refused(emotion_run):
    _, targets, predictions, _ = emotion_run
    clean, altered = runs(predictions)
    with pytest.raises(ValueError, match="The first predictions are under noise:0; give those for clean clips first"):
        measure_conditions(altered["P/noise-0"], {}, targets)
    empty = {"rater_items": [], "rater_names": [], "rater_values": None, "rater_fallback": None}
    noisy = altered["P/noise-0"]
    fewer = replace(noisy, items=noisy.items[1:], probs=noisy.probs[1:], **empty)
    with pytest.raises(ValueError, match=r"The runs differ in 1 items: 1 only in clean \(such as 'clip000'\)"):
        measure_conditions(clean, {"P/noise-0": fewer}, targets, on_missing="exclude", n_resamples=0)


def test_predictions_without_a_named_condition_are_clean(emotion_run):
    _, targets, predictions, _ = emotion_run
    noisy = replace(under(predictions, "noise:5", 0.5), meta={"condition": "noise:5"})
    found = measure_conditions(replace(predictions, meta={}), {"noisy": noisy}, targets, n_resamples=0)
    assert found.systems == ("clean", "noise:5")
    assert found.at("jsd", "clean")["low"] is None


def test_folders_are_read(emotion_run, tmp_path):
    predictions = emotion_run[2]
    for name in ("noise:10", "telephone"):
        under(predictions, name).save(tmp_path / name.replace(":", "-"))
    (tmp_path / "report").mkdir()
    found = read_conditions(tmp_path)
    assert [run.meta["condition"] for run in found.values()] == ["noise:10", "telephone"]
    assert list(found) == [str(tmp_path / "noise-10"), str(tmp_path / "telephone")]
    assert list(read_conditions(tmp_path / "telephone")) == [str(tmp_path / "telephone")]  # of a single condition
    with pytest.raises(ValueError, match=r"No folder in .*report holds predictions; write them with annot-hf predict"):
        read_conditions(tmp_path / "report")


@pytest.mark.usefixtures("unrendered")
def test_report(emotion_run, tmp_path):
    _, targets, predictions, speakers = emotion_run
    clean, altered = runs(predictions)
    items = pd.DataFrame({"item": list(speakers), "speaker": list(speakers.values())})
    options = {"title": "t", "items": items, "n_resamples": 50}
    build_report(clean, targets, tmp_path / "plain", **options)
    assert json.loads((tmp_path / "plain" / "report.json").read_text())["robustness"] is None
    report = build_report(clean, targets, tmp_path / "all", conditions=altered, **options)
    told = json.loads((tmp_path / "all" / "report.json").read_text())["robustness"]
    assert told["measures"]["items"]["jsd"]["differences"]["noise:0 - clean"]["value"] > 0
    assert report.files["conditions"].is_file()
    text = (tmp_path / "all" / "report.md").read_text(encoding="utf-8")
    part = text.split("## Under acoustic conditions")[1].split("## How to read")[0]
    html = MarkdownIt("commonmark").enable("table").render(part)
    assert html.count("<table>") == 2 and html.count("<img") == 1
    rows = [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("| ")]
    names = ["clean", "noise:20", "noise:0", "telephone", "marginal"]
    assert rows == ["Condition", "---", *names, "Condition", "---", *names[1:-1]]
    page = (tmp_path / "all" / "report.html").read_text(encoding="utf-8")
    assert "Under acoustic conditions" in page and "What each condition changes" in page


def test_rows_show_the_numbers(found):
    scores, differences = robustness_section(found).tables
    assert scores.rows[2][2].main == f"{found.at('jsd', 'noise:0')['value']:.3f}"
    assert differences.rows[1][1].main == f"{found.difference('jsd', 'noise:0', 'clean')['value']:.3f}"
    # How far predictions moved is a difference itself.
    assert scores.columns[2:] == differences.columns[1:]


def test_the_note_explains_every_condition(found):
    note = robustness_section(found).tables[0].note
    assert not [kind for kind in CONDITION_KINDS if kind != "clean" and kind not in note]
