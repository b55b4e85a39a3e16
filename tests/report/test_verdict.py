"""Whether knowing the rater helps: the sentence on top, the controls beside the scores, a new rater, and clips to hear."""

import base64
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from annot_hf.evaluation.evaluate import evaluate
from annot_hf.evaluation.raters import held_against, without_raters
from annot_hf.report import figures as plots, pages
from annot_hf.report.report import build_report
from annot_hf.report.tables import say

UP, NONE, DOWN = ({"value": value, "low": value - 0.02, "high": value + 0.02} for value in (0.03, 0.0, -0.03))
UNKNOWN = {"value": 0.03, "low": None, "high": None}
CLOSED, OPEN, WORSE = ({"value": value, "low": value - 5, "high": value + 5} for value in (64, 2, -20))


@pytest.mark.parametrize(
    ("own", "gap", "shuffled", "parts"),
    [
        (
            UP,
            CLOSED,
            NONE,
            (
                "Knowing who rates helps: each rater's own head predicts their votes better than the consensus does (CCC "
                "+0.030, 95 % interval 0.010 to 0.050), ",
                "the predicted distribution closes 64.0 % (59.0 to 69.0) of the gap from the marginal to the votes",
                ", and with shuffled rater ids the gain is gone (+0.000, −0.020 to 0.020).",
            ),
        ),
        (
            UP,
            CLOSED,
            UP,
            (
                "Knowing who rates helps: ",
                "closes 64.0 %",
                ", but with shuffled rater ids a gain remains (+0.030, 0.010 to 0.050), so that it is not due to the rater.",
            ),
        ),
        (
            NONE,
            OPEN,
            NONE,
            (
                "The data do not show that knowing who rates helps: the interval of the gain of each rater's own head over "
                "the consensus includes 0 (CCC +0.000, 95 % interval −0.020 to 0.020), ",
                "it is not shown that the predicted distribution closes any of the gap from the marginal to the votes (2.0 %, "
                "−3.0 to 7.0)",
                ", and with shuffled rater ids the same gain is +0.000, −0.020 to 0.020.",
            ),
        ),
        (
            DOWN,
            WORSE,
            DOWN,
            (
                "Knowing who rates does harm here: each rater's own head predicts their votes worse than the consensus does "
                "(CCC −0.030, 95 % interval −0.050 to −0.010), ",
                "the predicted distribution is further from the votes than the marginal is (gap closed: −20.0 %, −25.0 to "
                "−15.0)",
                ", and with shuffled rater ids the same gain is −0.030, −0.050 to −0.010.",
            ),
        ),
        (
            UNKNOWN,
            {"value": 64, "low": None, "high": None},
            None,
            (
                "Without intervals it cannot be said whether knowing who rates helps: each rater's own head against the "
                "consensus gives CCC +0.030, ",
                "the predicted distribution closes 64.0 % of the gap from the marginal to the votes.",
            ),
        ),
    ],
)
def test_the_verdict_says_what_the_intervals_say(own, gap, shuffled, parts):
    told = say("summaries.verdict", own=own, gap=gap, shuffled=shuffled, scale=True)
    assert told.startswith(parts[0]) and told.endswith(parts[-1]) and parts[1] in told
    assert "  " not in told and " ," not in told


def test_the_verdict_leaves_out_what_is_not_known():
    told = say(
        "summaries.verdict", own=UP, gap={"value": None, "low": None, "high": None}, shuffled=UNKNOWN, scale=True
    )
    assert told.endswith("0.010 to 0.050), and with shuffled rater ids the same gain is +0.030.")


@pytest.mark.usefixtures("unrendered")
def test_a_caution_comes_before_the_verdict(tmp_path, grid_run):
    seen = replace(grid_run[2], meta={"seen": {"train": 3}})
    report = build_report(seen, grid_run[1], tmp_path, title="t", n_resamples=0)
    assert report.summary.startswith(f"{seen.caution} Without intervals") and report.summary.count(seen.caution) == 1


def test_the_verdict_of_labels_is_in_nats():
    told = say("summaries.verdict", own=UP, gap=CLOSED, shuffled=None, scale=False)
    assert "better than the consensus does (+0.030 nats of cross-entropy, 95 % interval 0.010 to 0.050), " in told


@pytest.fixture(scope="module")
def controlled(tmp_path_factory, grid_run):
    """A report with all controls, new raters and clips, with few resamples."""
    votes, targets, predictions, speakers, truth = grid_run
    home = tmp_path_factory.mktemp("verdict")
    predictions = replace(predictions, meta={"consensus_width": 0.4})
    shuffled = replace(predictions, rater_values=predictions.consensus[predictions.rater_items])
    grid = without_raters(replace(predictions, consensus=None), predictions)
    clips = [home / f"{name}.wav" for name in predictions.items]
    for row, clip in enumerate(clips):
        clip.write_bytes(b"RIFF%03d" % row)
    items = pd.DataFrame(
        {"item": predictions.items, "speaker": list(speakers.values()), "audio": list(map(str, clips))}
    )
    newcomers = replace(predictions, meta={"onboarding_votes": 10})
    report = build_report(
        predictions,
        targets,
        home / "report",
        title="t",
        items=items,
        votes=votes,
        truth=truth,
        controls=held_against(predictions, {"grid": grid, "shuffled": shuffled}),
        newcomers=({"model": newcomers} | held_against(newcomers), votes),
        listen=True,
        n_resamples=50,
    )
    return report, predictions, targets, speakers, {"grid": grid, "shuffled": shuffled}


def test_controls_stand_beside_the_model(controlled):
    report, predictions, targets, speakers, controls = controlled
    told = json.loads(report.files["json"].read_text(encoding="utf-8"))
    assert report.summary.startswith(told["verdict"])
    assert "and with shuffled rater ids the gain is gone (+0.000, 0.000 to 0.000)." in told["verdict"]
    text = report.files["markdown"].read_text(encoding="utf-8")
    assert "| Measure | Rater heads | Consensus alone | Direct grid | Ids shuffled |" in text
    assert "under a Gaussian kernel of constant width 0.40, chosen" in text and "annot-hf controls" not in text
    systems = {"model": predictions, **held_against(predictions, controls)}
    found = evaluate(systems, targets, speakers=speakers, against="model", n_resamples=50)
    for name, head in (("jsd", "JSD (nats)"), ("rater_mean_ccc_valence", "Raters' own CCC, valence")):
        values = [f"{found.at(name, system)['value']:.3f}" for system in ("model", "alone", "grid", "shuffled")]
        rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith(f"| {head}")]
        assert [cell.split()[0] for cell in rows[0][1:]] == values
        gains = [f"{found.difference(name, 'model', system)['value']:.3f}" for system in ("alone", "grid", "shuffled")]
        assert [cell.split()[0].replace("−", "-") for cell in rows[1][1:]] == gains
    assert {"raters", "rater_bias", "examples"} <= set(report.files)


def test_sections_stand_in_the_order_of_the_story(controlled):
    text = controlled[0].files["html"].read_text(encoding="utf-8")
    heads = ["Does knowing the rater help?", "Biases of raters recovered", "Three clips", "A new rater"]
    places = [text.index(f"<h2>{head}") for head in [*heads, "Predicted distributions against the votes"]]
    assert places == sorted(places)
    assert text.index('class="verdict"') < text.index('class="summary"') < places[0]


def test_three_clips_can_be_heard(controlled):
    report = controlled[0]
    text = report.files["html"].read_text(encoding="utf-8")
    assert text.count("<audio controls") == 3 and "media-src data:" in text
    jsd = report.evaluation.per_item["jsd"].to_numpy()
    for row in np.argsort(jsd, kind="stable")[[0, 74, -1]]:
        assert f"base64,{base64.b64encode(b'RIFF%03d' % row).decode()}" in text
        assert f"JSD: {report.evaluation.per_item['item'][row]}</figcaption>" in text
    assert "<audio" not in report.files["markdown"].read_text(encoding="utf-8")


def test_embedded_audio_is_taken_as_it_is():
    clip = pages.Clip("c", {"bytes": b"abc", "path": "x.mp3"}).inline()
    assert clip == {"caption": "c", "kind": "audio/mpeg", "base64": "YWJj"}


def test_a_new_rater_has_a_section(controlled):
    report, predictions, targets, speakers, _ = controlled
    text = report.files["markdown"].read_text(encoding="utf-8")
    assert "| Measure | Consensus | Own head, 10 votes | Gained |" in text
    assert "16 raters whom training never saw. Each gave 10 votes" in text
    found = evaluate(predictions, targets, speakers=speakers, n_resamples=0)
    values = [found.at("rater_mean_ccc_activation", system)["value"] for system in ("consensus", "model")]
    row = text.partition("## A new rater")[2].partition("| Raters' own CCC, activation")[2].splitlines()[0].split("|")
    assert [cell.split()[0] for cell in row[1:3]] == [f"{value:.3f}" for value in values]


@pytest.mark.usefixtures("unrendered")
def test_without_controls_a_sentence_says_how_to_add_them(tmp_path, grid_run, emotion_run):
    _, targets, predictions, _, _ = grid_run
    report = build_report(predictions, targets, tmp_path / "a", title="t", n_resamples=0)
    text = report.files["markdown"].read_text(encoding="utf-8")
    assert "train these with \\`annot-hf controls RUN" in text and "Does knowing the rater help?" not in text
    known = replace(predictions, meta={"consensus_width": 0.4})
    options = {"title": "t", "n_resamples": 0, "controls": held_against(known)}
    text = build_report(known, targets, tmp_path / "b", **options).files["markdown"].read_text(encoding="utf-8")
    assert "| Measure | Rater heads | Consensus alone |" in text and text.count("annot-hf controls RUN") == 1
    labels = replace(emotion_run[2], consensus=emotion_run[2].probs)
    options["controls"] = held_against(labels)
    report = build_report(labels, emotion_run[1], tmp_path / "c", **options)
    assert "gives −0." in report.summary and "nats of cross-entropy, the predicted" in report.summary
    assert "raters" in report.files
    plain = without_raters(predictions)
    assert "annot-hf controls" not in build_report(plain, targets, tmp_path / "d", title="t", n_resamples=0).summary


@pytest.mark.usefixtures("unrendered")
def test_nothing_to_hear_is_said(tmp_path, grid_run):
    with pytest.raises(ValueError, match="The items have no audio to listen to; leave listen out."):
        build_report(grid_run[2], grid_run[1], tmp_path, title="t", n_resamples=0, listen=True)


def test_a_dot_for_each_rater_on_the_side_of_the_better():
    table = pd.DataFrame({"ccc_x_model": [0.5, 0.7, np.nan, 0.2], "ccc_x_consensus": [0.4, 0.8, np.nan, 0.1]})
    with pages._style():
        figure = plots.plot_raters(table, {"ccc_x": "CCC, x"}, "higher")
    diagonal, won, lost = figure.axes[0].lines
    assert won.get_xydata().tolist() == [[0.4, 0.5], [0.1, 0.2]] and lost.get_xydata().tolist() == [[0.8, 0.7]]
    assert figure.axes[0].get_title() == "CCC, x\nown head better for 2 of 3"
    with pages._style():
        figure = plots.plot_raters(table, {"ccc_x": "CCC, x"}, "lower")
    assert figure.axes[0].get_title() == "CCC, x\nown head better for 1 of 3"
