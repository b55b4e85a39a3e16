import base64
import csv
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.report.pages import csv_safe
from annot_hf.report.report import build_report
from annot_hf.report.tables import markdown_safe, number, spread_table

HOSTILE = (
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "$\\frac{",
    "[x](javascript:1)",
    "@user | `a`",
    "\u202eevil\n# x",
)


def item_table(speakers, **columns):
    return pd.DataFrame({"item": list(speakers), "speaker": list(speakers.values())} | columns)


class Page(HTMLParser):
    """Tags and attributes of a page, and its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.scripts = [], [], []
        self.feed(text)

    def handle_data(self, data):
        if self.lasttag == "script" and data.strip():
            self.scripts.append(data)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]


@pytest.fixture(scope="module")
def grid_report(tmp_path_factory, grid_run):
    votes, targets, predictions, speakers, truth = grid_run
    items = item_table(speakers, split="test")
    folder = tmp_path_factory.mktemp("report")
    notes = {"checkpoint": "none", "epochs": 3}
    return build_report(
        predictions,
        targets,
        folder,
        title="A run",
        items=items,
        marginal=np.full(16, 1 / 16),
        votes=votes,
        truth=truth,
        notes=notes,
        n_resamples=200,
    )


def test_files(grid_report):
    names = {"report.json", "report.md", "report.html", "items.csv", "plots"}
    assert {path.name for path in grid_report.folder.iterdir()} == names
    plots = {path.stem for path in (grid_report.folder / "plots").iterdir()}
    assert plots == {"examples", "mean_grid", "reliability", "entropy", "speakers", "rater_bias"}
    assert all(path.is_file() for path in grid_report.files.values())
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (grid_report.folder / "plots").iterdir())


def test_summary_says_what_was_evaluated(grid_report):
    found = grid_report.evaluation
    jsd, gap, difference = found.at("jsd"), found.at("gap_closed"), found.difference("jsd")
    verdict = json.loads((grid_report.folder / "report.json").read_text(encoding="utf-8"))["verdict"]
    assert verdict.startswith(
        f"The model forecasts people's votes better than the average of all votes does: it closes {gap['value']:.1f} %"
    )
    assert grid_report.summary == (
        f"{verdict} Predictions for 150 items by 10 speakers of the split test were compared with 900 votes by 16 named "
        "raters on the questions “activation” and “valence” (16 grid cells). Left out: nothing. The mean Jensen-Shannon "
        f"divergence from the votes is {jsd['value']:.3f} nats (95 % interval {jsd['low']:.3f} to {jsd['high']:.3f}), or "
        f"{found.at('jsd_bits')['value']:.3f} bits, against {found.at('jsd', 'marginal')['value']:.3f} nats for the marginal "
        f"distribution of the training votes. The difference in divergence, model - marginal, is "
        f"{number(difference['value'], 3)} nats (95 % interval "
        f"{number(difference['low'], 3)} to {number(difference['high'], 3)})."
    )
    for name in ("report.md", "report.html"):
        assert "of the gap to a perfect forecast" in (grid_report.folder / name).read_text(encoding="utf-8")


def test_json_holds_every_number(grid_report):
    data = json.loads((grid_report.folder / "report.json").read_text(encoding="utf-8"))
    found = data["evaluation"]
    assert found["measures"]["items"]["jsd"] == grid_report.evaluation["jsd"]
    assert found["counts"]["n_evaluated"] == found["counts"]["n_expected"] == 150
    assert data["recovered_bias"]["valence"]["correlation"]["value"] > 0.9
    assert [one["question"] for one in data["agreement"]] == ["activation", "valence"]
    assert data["run"] == {"checkpoint": "none", "epochs": 3} and data["target_method"] == "kde"
    assert len(data["plots"]) == 6 and data["excluded"] == {}


def test_html_stands_alone(grid_report):
    text = (grid_report.folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"link", "iframe", "a", "object", "form"} & set(page.tags)
    # the only script that may run is the page's own
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\">" in text and page.tags.count("script") == 1
    assert not re.search("fetch|XMLHttpRequest|import|innerHTML|eval", script)
    assert len(page.links) == 6 and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text and "default-src 'none'" in text
    # six tables of numbers, how to read them, and the run
    assert page.tags.count("details") == page.tags.count("summary") == 8 and text.count('<table class="sortable">') == 6


def test_markdown_tables_are_tables(grid_report):
    text = (grid_report.folder / "report.md").read_text(encoding="utf-8")
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert html.count("<table>") == 8 and html.count("<img") == 6
    for path in re.findall(r"\]\((plots/[^)]+)\)", text):
        assert (grid_report.folder / path).is_file()


def test_same_data_same_bytes(tmp_path, emotion_run):
    votes, targets, predictions, speakers = emotion_run
    for name in ("one", "two"):
        build_report(predictions, targets, tmp_path / name, title="t", items=item_table(speakers), n_resamples=50)
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path


def test_category_report(tmp_path, emotion_run):
    votes, targets, predictions, speakers = emotion_run
    items = item_table(speakers, split=["validation"] * 100 + ["test"] * 140)
    report = build_report(predictions, targets, tmp_path, title="t", items=items, votes=votes, n_resamples=50)
    assert "of the splits test (140) and validation (100) were compared" in report.summary
    text, page = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    assert "## Label by label" in text and "| anger |" in text and "Krippendorff's alpha" in text
    assert {"mean\\_distribution", "rater\\_bias"}.isdisjoint(text.split())
    assert not (tmp_path / "plots" / "rater_bias.png").exists()
    found = report.evaluation
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["evaluation"]
    assert data["measures"]["categories"]["ece"] == found["ece"] and len(data["per_speaker"]) == 12
    worth = report.opening.numbers[1]
    told = found.equivalence.systems["model"]["worth"]["text"]
    assert worth.title == "Worth in raters" and told.startswith(worth.value) and '<p class="value">&gt; 6</p>' in page
    (spread,) = [table for table in spread_table(found)]
    told = data["speaker_spread"]["model"]
    assert [cell.main for cell in spread.rows[0][2:4]] == [
        number(told["gap_closed"][place]["value"], 1) for place in ("best", "median")
    ]
    assert spread.rows[1][4].small == f"({told['jsd']['worst'][0]['speaker']}, 20 items)"
    row = next(line for line in text.splitlines() if line.startswith("| Jensen-Shannon divergence ↓ nats |"))
    assert row.split(" | ")[4].split()[0] == number(found.at("jsd", "ceiling")["value"], 3)
    assert "| Ceiling | Ceiling, split-half |" in text and ">Ceiling</th>" in page and "The ceiling is what" in text
    assert data["measures"]["items"]["gap_closed"]["systems"]["ceiling"]["value"] > 50
    assert "## The best and the worst speakers" in text and "The best and the worst speakers</h3>" in page
    for heading in ("Results by how much the raters disagree", "Speaker by speaker", "Calibration", "How many raters"):
        assert f"## {heading}" in text
    drawn = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert {"strata", "speaker_recall", "confusion", "equivalence", "reliability"} < drawn


@pytest.mark.usefixtures("unrendered")
def test_speakers_are_grouped_by_metadata(tmp_path, emotion_run):
    _, targets, predictions, speakers = emotion_run
    items = item_table(speakers, sex=["f", "m"] * 120, age=[30, 40, 50] * 80)
    plain = build_report(predictions, targets, tmp_path, title="t", items=items, n_resamples=0).evaluation
    assert "pauar50_1_best_sex=f" in plain and "pauar50_1_best_age=30" not in plain
    options = {"title": "t", "items": items, "n_resamples": 0}
    chosen = build_report(predictions, targets, tmp_path, groups=["age"], **options).evaluation
    assert [group.key for group in chosen.groups][3:] == ["age=30", "age=40", "age=50"]
    with pytest.raises(ValueError) as error:
        build_report(predictions, targets, tmp_path, groups=["region"], **options)
    assert str(error.value) == ("The item table has no column 'region' to group speakers by; it has speaker, sex, age.")


def hostile_run():
    question = Question.category("=1+1<b>", HOSTILE)
    items = [f"{name}{i}" for i, name in enumerate(HOSTILE)]
    votes = VoteTable.from_columns(
        question, item=np.repeat(items, 3), value=[HOSTILE[(i + j // 2) % 6] for i in range(6) for j in range(3)]
    )
    targets = make_targets(votes, question.name)
    probs = np.full((6, 6), 0.1) + 0.4 * np.eye(6)
    predictions = Predictions(
        items=items, support=HOSTILE, probs=probs, questions=(question,), meta={"<i>": "<b>x</b>"}
    )
    return votes, targets, predictions, pd.DataFrame({"item": items, "speaker": HOSTILE, "text": HOSTILE})


def test_hostile_names_stay_text(tmp_path):
    votes, targets, predictions, items = hostile_run()
    notes = {"labels": ["joie é | <b>"]}
    title = "<img src=x onerror=1>"
    build_report(predictions, targets, tmp_path, title=title, items=items, votes=votes, notes=notes, n_resamples=20)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    drawn = len(list((tmp_path / "plots").iterdir()))
    assert not {"b", "i", "a"} & set(page.tags) and page.tags.count("img") == drawn == 9
    assert page.tags.count("script") == 1 and page.tags.count("blockquote") == 3
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "joie é | &lt;b&gt;" in html
    assert "\u202e" not in html + (tmp_path / "report.md").read_text(encoding="utf-8")
    rendered = Page(MarkdownIt("commonmark").enable("table").render((tmp_path / "report.md").read_text("utf-8")))
    assert not {"script", "b", "i", "a", "code", "em"} & set(rendered.tags)
    assert rendered.tags.count("img") == drawn and rendered.tags.count("h1") == 1
    with (tmp_path / "items.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert len(rows) == 7
    assert not any(cell[:1] in set("=+@\t\r") for row in rows for cell in row)
    assert rows[1][0] == "'=cmd|' /C calc'!A00"


@pytest.mark.usefixtures("own_fonts")
def test_names_that_figures_number_are_told(tmp_path, emotion_run):
    _, targets, predictions, _ = emotion_run
    labels = ("生气", "b", "c", "d", "高兴", "e")
    turned = {"support": labels, "questions": (Question.category("emotion", labels),)}
    with pytest.warns(UserWarning, match="No installed font") as caught:
        build_report(replace(predictions, **turned), replace(targets, **turned), tmp_path, title="t", n_resamples=0)
    assert len(caught) == 1
    said = "so figures show numbers instead: [1] 生气, [2] 高兴."
    assert said in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert said.replace("[", "\\[").replace("]", "\\]") in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("sign", "=+-@\uff1d\uff0b\uff0d\uff20\ufe63")
@pytest.mark.parametrize("before", ["", " ", "  ", "\n", "\t", "\r\n ", "\u3000", "\xa0", "\u200b", "\ufeff", "\x00"])
def test_formulas_are_prefixed(before, sign):
    assert csv_safe(f"{before}{sign}1") == f"'{before}{sign}1"


@pytest.mark.parametrize("text", ["\tx", "\rx", "\nx"])
def test_tabs_and_line_breaks_are_prefixed(text):
    assert csv_safe(text) == "'" + text


@pytest.mark.parametrize("cell", ["a=1", " a", "", " ", "\u00e9-", -1.5, None])
def test_other_cells_stay_as_they_are(cell):
    assert csv_safe(cell) == cell


def test_markdown_safe():
    assert markdown_safe("a|b_*c*\n<x>&[d](e)") == "a\\|b\\_\\*c\\* &lt;x&gt;&amp;\\[d\\](e)"


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(("items", "speakers"), [(1, 1), (1, None), (2, 1), (2, 2), (3, 1)])
def test_tiny_runs_give_a_report(tmp_path, emotion_run, items, speakers):
    votes, targets, predictions, _ = emotion_run
    few = targets.select(targets.items[:items])
    table = pd.DataFrame({"item": few.items})
    if speakers:
        table["speaker"] = [f"s{i % speakers}" for i in range(items)]
    report = build_report(
        predictions, few, tmp_path, title="t", items=table, votes=votes, n_resamples=20, on_missing="exclude"
    )
    assert f"Predictions for {items} item{'s' if items > 1 else ''}" in report.summary
    assert f"Left out: predicted items without target: {240 - items}." in report.summary
    if speakers == 1:
        assert report.summary.endswith("No intervals: there is only 1 speaker.") and "95 %" not in report.summary
    if speakers is None:
        assert report.summary.endswith("No intervals: there is only 1 item.")
        assert "(speakers not given)" in report.summary


@pytest.mark.usefixtures("unrendered")
def test_tiny_grid(tmp_path, grid_run):
    votes, targets, predictions, _, truth = grid_run
    few = targets.select(targets.items[:1])
    build_report(predictions, few, tmp_path, title="t", truth=truth, votes=votes, on_missing="exclude")
    assert (tmp_path / "plots" / "mean_grid.png").is_file()


@pytest.mark.usefixtures("unrendered")
def test_one_scale_question(tmp_path, grid_run):
    votes = grid_run[0]
    targets = make_targets(votes, "valence", "kde")
    predictions = Predictions(
        items=targets.items, support=targets.support, probs=targets.probs[::-1], questions=targets.questions
    )
    report = build_report(predictions, targets, tmp_path, title="t", n_resamples=20)
    assert "ccc_valence" in report.evaluation and "jsd_valence" not in report.evaluation
    assert (tmp_path / "plots" / "mean_distribution.png").is_file()


@pytest.mark.usefixtures("unrendered")
def test_a_model_no_better_than_the_marginal_is_called_so(tmp_path, emotion_run):
    _, targets, predictions, _ = emotion_run
    base = np.tile(targets.probs.mean(0), (240, 1))
    report = build_report(replace(predictions, probs=base), targets, tmp_path / "a", title="t", n_resamples=20)
    assert report.summary.endswith("the data do not show a difference between the model and the marginal.")
    worse = replace(predictions, probs=np.roll(predictions.probs, 3, axis=1))
    report = build_report(worse, targets, tmp_path / "b", title="t", n_resamples=20)
    assert report.summary.endswith("the model is worse than the marginal.")


@pytest.mark.usefixtures("unrendered")
def test_exclusions_are_reported(tmp_path):
    question = Question.category("emotion", ("a", "b"))
    votes = VoteTable.from_columns(
        question, item=["x", "y", "y"], value=["a", "b", "?"], annotator=["p", "p", "q"], unknown="drop"
    )
    targets = make_targets(votes, "emotion", items=["x", "y", "z"])
    predictions = Predictions(items=["x", "y"], support=("a", "b"), probs=[[0.5, 0.5]] * 2, questions=(question,))
    report = build_report(predictions, targets, tmp_path, title="t", votes=votes)
    assert "Left out: items without votes: 1; votes: values outside the question: 1." in report.summary


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (pd.DataFrame({"clip": ["x"]}), "The item table has columns clip; it needs a column 'item'."),
        (pd.DataFrame({"item": ["x", "x"]}), "The item table lists 'x' twice; give each item one row."),
    ],
)
def test_bad_item_table(tmp_path, emotion_run, items, message):
    with pytest.raises(ValueError) as error:
        build_report(emotion_run[2], emotion_run[1], tmp_path, title="t", items=items)
    assert str(error.value) == message


def test_an_item_table_without_some_speakers(tmp_path, emotion_run):
    _, targets, predictions, speakers = emotion_run
    with pytest.raises(
        ValueError, match=r"239 evaluated items have no speaker \(such as 'clip001', 'clip002', 'clip003'\)"
    ):
        build_report(predictions, targets, tmp_path, title="t", items=item_table(speakers).head(1))


def test_numbers_in_tables():
    assert [number(value, 3) for value in (None, -0.0001, -1.5, 12)] == ["–", "0.000", "−1.500", "12.000"]


@pytest.mark.usefixtures("unrendered")
def test_votes_go_by_label_and_must_be_those_of_the_targets(tmp_path, emotion_run, grid_run):
    votes, targets, predictions, _ = emotion_run
    options = {"title": "t", "n_resamples": 0}
    table = votes.to_pandas()
    turned = VoteTable.from_columns(
        Question.category("emotion", votes.questions[0].labels[::-1]),
        **{name: table[name] for name in ("item", "annotator")},
        value=table["label"],
    )
    told = [
        build_report(predictions, targets, tmp_path, votes=one, **options).evaluation.equivalence
        for one in (votes, turned)
    ]
    assert told[0].to_dict() == told[1].to_dict()
    other = replace(votes, questions=(Question.category("emotion", [*"abcde", "sad"]),))
    with pytest.raises(ValueError, match="has the labels a, b, c, d, e, sad in the votes and anger, disgust"):
        build_report(predictions, targets, tmp_path, votes=other, **options)
    fewer = votes.select(mask=np.arange(len(votes)) > 0)
    with pytest.raises(
        ValueError, match=r"Item 'clip000' has 6 votes on emotion and its target 7; give the votes that"
    ):
        build_report(predictions, targets, tmp_path, votes=fewer, **options)
    votes, targets, predictions, *_ = grid_run
    half = votes.select(items=targets.items[:100])
    with pytest.raises(ValueError, match=r"50 evaluated items have no vote in the votes given \(such as 'clip100', "):
        build_report(predictions, targets, tmp_path, votes=half, **options)


def test_steps_in_two_orders_have_no_deviation(tmp_path, emotion_run):
    votes, targets, predictions, _ = emotion_run
    labels = votes.questions[0].labels[::-1]
    turned = replace(votes, questions=(replace(votes.questions[0], labels=labels),), label_codes=5 - votes.label_codes)
    said = replace(predictions, disagreement=np.zeros(240), disagreement_kind="deviation")
    with pytest.raises(ValueError, match="in the predictions; a deviation needs one order of labels"):
        build_report(said, targets, tmp_path, title="t", votes=turned, n_resamples=0)


@pytest.mark.usefixtures("unrendered")
def test_votes_for_none_of_the_labels_are_counted(tmp_path):
    several = Question.category("tags", ("a", "b"), multiple=True)
    votes = VoteTable.from_columns(several, item=list("xxy"), annotator=list("pqp"), value=["a", None, "b"])
    predictions = Predictions(items=["x", "y"], support=("a", "b"), probs=[[0.5, 0.5]] * 2, questions=(several,))
    report = build_report(predictions, make_targets(votes, "tags"), tmp_path, title="t", votes=votes, n_resamples=0)
    assert "compared with 2 votes" in report.summary and "Left out: votes for none of the labels: 1." in report.summary


@pytest.mark.usefixtures("unrendered")
def test_blank_speakers_are_none_and_missing_splits_are_told(tmp_path, emotion_run):
    _, targets, predictions, speakers = emotion_run
    blank = item_table(dict.fromkeys(speakers, " "), split=["test"] * 100 + [None] * 140)
    report = build_report(predictions, targets, tmp_path, title="t", items=blank, n_resamples=0)
    assert "(speakers not given) of the splits not stated (140) and test (100) were" in report.summary
    some = item_table(speakers | {"clip003": ""})
    with pytest.raises(ValueError, match=r"1 evaluated items have no speaker \(such as 'clip003'\)"):
        build_report(predictions, targets, tmp_path, title="t", items=some)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_missing": "drop"}, "on_missing is 'drop'; use 'error' or 'exclude'."),
        ({"n_resamples": -5}, "n_resamples is -5; give a whole number from 0 up, 0 for no intervals."),
        ({"n_resamples": 5.5}, "n_resamples is 5.5; give a whole number from 0 up, 0 for no intervals."),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, emotion_run, options, message):
    with pytest.raises(ValueError) as error:
        build_report(emotion_run[2], emotion_run[1], tmp_path, title="t", **options)
    assert str(error.value) == message


@pytest.mark.usefixtures("unrendered")
def test_shares_of_an_unknown_number_of_votes_have_a_report_without_agreement(tmp_path):
    mood = Question.category("mood", ["calm", "tense"], shares=True)
    rng, items = np.random.default_rng(0), np.array([f"i{n}" for n in range(20)], dtype=object)
    votes = VoteTable.from_shares(mood, items, rng.dirichlet([1, 1], 20))
    targets = make_targets(votes, "mood")
    predictions = Predictions(items=items, support=mood.labels, probs=rng.dirichlet([1, 1], 20), questions=(mood,))
    for given in (votes, None):
        found = build_report(predictions, targets, tmp_path, title="t", votes=given, n_resamples=0).evaluation
        assert found.equivalence is None and found.counts["votes"] == 0 and set(found.floor.values()) == {None}
    assert "compared with 0 votes" in (tmp_path / "report.md").read_text()
