"""The sentence on top, the controls beside the scores, a new rater, and clips to hear."""

import base64
import json
import re
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest

from annot_hf.evaluation.evaluate import evaluate
from annot_hf.evaluation.raters import held_against, without_raters
from annot_hf.models.measures import entropy
from annot_hf.report import figures as plots, opening, pages
from annot_hf.report.opening import report_verdict, state_of
from annot_hf.report.report import build_report


def heads(predictions, moved):
    """The rater's own answers at the consensus, moved by their bias times `moved`, on scales."""
    consensus = predictions.consensus[predictions.rater_items]
    return replace(predictions, rater_values=consensus + moved * (predictions.rater_values - consensus))


def turned(predictions, by):
    return replace(predictions, probs=np.roll(predictions.probs, by, axis=0))


def verdict_of(run, predictions, controls=None, n_resamples=200):
    """The verdict on predictions for the run's votes, and its rank against controls, by speakers."""
    _, targets, _, speakers, *_ = run
    options = {"speakers": speakers, "n_resamples": n_resamples}
    found = evaluate(predictions, targets, parts=("items", "raters"), **options)
    helped = None
    if controls:
        helped = evaluate(
            {"model": predictions, **controls}, targets, parts=("items", "raters"), against="model", **options
        )
    return report_verdict(found, helped, "clip")


BETTER = "the model forecasts people's votes better than the average of all votes does: it closes "
WORSE = "the model is worse than no model: the average of all votes forecasts people's votes better (gap closed: −"
HELPS = "knowing the rater helps: each rater's own head beats the consensus (CCC +"
HARMS = "each rater's own head predicts their votes worse than the consensus does (CCC −"
OPEN = "each rater's own head is no better than the consensus, as far as these 10 speakers and 16 raters show (CCC "
VAIN = "it is not shown that knowing the rater helps: with shuffled rater ids, the rater heads gain as much over"


@pytest.mark.parametrize(
    ("case", "first", "then"),
    [
        ("good", BETTER, "and " + HELPS),
        ("controlled", BETTER, "and by more than with shuffled rater ids (CCC +0.000, 0.000 to 0.000)."),
        ("turned heads", HARMS, "but " + BETTER),
        ("no heads", OPEN, "but " + BETTER),
        ("shuffled wins as much", VAIN, "but " + BETTER),
        ("turned", WORSE, "but " + HELPS),
        ("both lose", WORSE, "and " + HARMS),
        (
            "consensus wins",
            "the consensus alone forecasts the votes better than the rater heads do (+",
            "but " + BETTER,
        ),
        (
            "direct wins",
            "the same recipe without raters forecasts the votes better than the rater heads do (+",
            "but " + BETTER,
        ),
    ],
)
def test_what_loses_comes_first(grid_run, case, first, then):
    good = grid_run[2]
    flat = heads(good, 0)
    blurred = replace(good, probs=0.3 * good.probs + 0.7 / 16)
    predictions, controls = {
        "good": (good, None),
        "controlled": (good, {"shuffled": flat}),
        "turned heads": (heads(good, -1), None),
        "no heads": (flat, None),
        "shuffled wins as much": (good, {"shuffled": good}),
        "turned": (turned(good, 1), None),
        "both lose": (turned(heads(good, -1), 1), None),
        "consensus wins": (blurred, {"alone": good}),
        "direct wins": (blurred, {"grid": good}),
    }[case]
    told = verdict_of(grid_run, predictions, controls)
    assert told.startswith(first[0].upper() + first[1:]) and f", {then}" in told and told.endswith(".")
    assert "  " not in told and " ," not in told and told.count(". ") == 0


def test_no_better_than_the_marginal_is_said_with_the_speakers(emotion_run):
    _, targets, predictions, _ = emotion_run
    base = targets.probs.mean(0)
    order = np.random.default_rng(0).permutation(240)
    near = replace(predictions, probs=0.99 * base + 0.01 * predictions.probs[order])
    told = verdict_of(emotion_run, near)
    expected = "No better than the average of all votes, as far as these 12 speakers show (gap closed: "
    assert f"the model is n{expected[1:]}" in told.lower() or expected.lower() in told.lower()
    assert told.lower().index("the model is no better") < told.lower().index(
        "percentile" if "percentile" in told else "show"
    )


@pytest.mark.parametrize(("shift", "state"), [(0.03, "wins"), (0.0, "unshown"), (-0.03, "loses")])
def test_an_interval_decides(shift, state):
    assert state_of({"value": shift, "low": shift - 0.02, "high": shift + 0.02}) == state
    assert state_of({"value": shift, "low": None, "high": None}) == "unknown"


def test_without_intervals_nothing_is_claimed(emotion_run):
    labels = replace(emotion_run[2], consensus=emotion_run[2].probs)
    told = verdict_of(emotion_run, labels, n_resamples=0)
    first, _, then = told.partition("; ")
    assert first.startswith("Without intervals, nothing can be concluded: each rater's own head loses 0.")
    assert first.endswith(" nats to the consensus") and then.startswith("the model closes ")
    assert then.endswith(" % of the gap between the average of all votes and a perfect forecast.")
    run = (*emotion_run[:3], dict.fromkeys(emotion_run[3], "me"))
    told = verdict_of(run, emotion_run[2])
    assert told.startswith("With one speaker, nothing can be concluded: each rater's own head loses 0.")
    told = verdict_of(run, turned(emotion_run[2], 1))
    assert told.startswith(
        "With one speaker, nothing can be concluded: the average of all votes forecasts people's votes"
    )
    assert "better than the model (gap closed: −" in told


@pytest.mark.usefixtures("unrendered")
def test_a_caution_comes_before_the_verdict(tmp_path, grid_run):
    seen = replace(grid_run[2], meta={"seen": {"train": 3}})
    report = build_report(seen, grid_run[1], tmp_path, title="t", n_resamples=0)
    assert (
        report.summary.startswith(f"{seen.caution} Without intervals, nothing ")
        and report.summary.count(seen.caution) == 1
    )


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
    assert "and by more than with shuffled rater ids (CCC +0.000, 0.000 to 0.000)" in told["verdict"]
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


def test_the_page_has_the_order_of_the_story(controlled):
    text = controlled[0].files["html"].read_text(encoding="utf-8")
    parts = [
        'class="verdict"',
        'class="numbers"',
        "<h2>Where people disagree most",
        'class="summary"',
        "<h2>Plots",
        "<h2>Tables",
    ]
    heads = [
        "Does knowing the rater help?",
        "Biases of raters recovered",
        "A new rater",
        "Predicted distributions against",
    ]
    places = [text.index(part) for part in (*parts, *(f"<h3>{head}" for head in heads))]
    assert places == sorted(places) and "<details open" not in text


def test_clips_of_most_disagreement_can_be_heard(controlled):
    report, _, targets, *_ = controlled
    text = report.files["html"].read_text(encoding="utf-8")
    assert text.count("<audio controls") == 3 and "media-src data:" in text
    for row in np.argsort(-entropy(targets.probs).round(9), kind="stable")[:3]:
        assert f"base64,{base64.b64encode(b'RIFF%03d' % row).decode()}" in text
        assert f"<h3>{targets.items[row]}</h3>" in text
    assert "<audio" not in report.files["markdown"].read_text(encoding="utf-8")


@pytest.mark.usefixtures("unrendered")
def test_a_clip_that_cannot_be_heard_says_why(tmp_path, emotion_run, monkeypatch):
    _, targets, predictions, speakers = emotion_run
    first, second, third = targets.items[np.argsort(-entropy(targets.probs).round(9), kind="stable")[:3]]
    (tmp_path / "long.wav").write_bytes(bytes(2_000_000))
    audio = {first: {"bytes": b"abc", "path": "x.mp3"}, second: str(tmp_path / "long.wav"), third: "/gone/x.wav"}
    items = pd.DataFrame({"item": list(speakers), "audio": [audio.get(item) for item in speakers]})
    items = items[items["audio"].notna()]
    options = {"title": "t", "items": items, "n_resamples": 0, "listen": True}
    heard, gone, last = build_report(predictions, targets, tmp_path / "a", **options).opening.examples
    assert heard.audio == {"kind": "audio/mpeg", "base64": "YWJj"} and not heard.unheard
    assert gone.audio["kind"] == "audio/wav" and (last.audio, last.unheard) == (
        None,
        "The clip is not on this machine.",
    )
    monkeypatch.setattr(opening, "LARGEST_CLIP", 1_000_000)
    report = build_report(predictions, targets, tmp_path / "b", **options)
    assert report.opening.examples[1].unheard == "The clip is too large for the page (2 MB)."
    page = report.files["html"].read_text(encoding="utf-8")
    assert "too large for the page" in page and "/gone" not in page and page.count("<audio controls") == 1
    items.loc[items["item"] == third, "audio"] = np.nan
    assert build_report(predictions, targets, tmp_path / "d", **options).opening.examples[2].unheard == "Without audio."
    silent = build_report(predictions, targets, tmp_path / "c", **options | {"listen": False})
    assert "`--listen` adds it" in silent.opening.silent and not silent.opening.examples[0].audio


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
    assert "raters" in report.files
    plain = without_raters(predictions)
    assert "annot-hf controls" not in build_report(plain, targets, tmp_path / "d", title="t", n_resamples=0).summary


@pytest.mark.usefixtures("unrendered")
def test_nothing_to_hear_is_said(tmp_path, grid_run):
    with pytest.raises(ValueError, match="The items have no audio to listen to; leave listen out."):
        build_report(grid_run[2], grid_run[1], tmp_path, title="t", n_resamples=0, listen=True)


def test_a_dot_for_each_rater_on_the_side_of_the_better():
    table = pd.DataFrame({"ccc_x_model": [0.5, 0.7, np.nan, 0.2], "ccc_x_consensus": [0.4, 0.8, np.nan, 0.1]})
    with matplotlib.rc_context(pages.STYLE):
        figure = plots.plot_raters(table, {"ccc_x": "CCC, x"}, "higher")
    diagonal, won, lost = figure.axes[0].lines
    assert won.get_xydata().tolist() == [[0.4, 0.5], [0.1, 0.2]] and lost.get_xydata().tolist() == [[0.8, 0.7]]
    assert figure.axes[0].get_title() == "CCC, x\nown head better for 2 of 3"
    with matplotlib.rc_context(pages.STYLE):
        figure = plots.plot_raters(table, {"ccc_x": "CCC, x"}, "lower")
    assert figure.axes[0].get_title() == "CCC, x\nown head better for 1 of 3"


def test_one_of_a_kind_has_no_plural(tmp_path, emotion_run):
    _, targets, predictions, _ = emotion_run
    one = targets.items[:1]
    part = replace(predictions.select(one), meta={})
    report = build_report(part, targets.select(one), tmp_path, title="t", n_resamples=0)
    page = report.files["markdown"].read_text(encoding="utf-8")
    # "less than 1 raters" is no count
    wrong = re.findall(r"(?<![\d.,])(?<!&lt; )(?<!< )1 (?:item|speaker|rater|vote|answer)s\b", page)
    assert not wrong, wrong
