"""The three numbers, the items with the most disagreement, several runs on one page, and its script in a browser."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.evaluate import evaluate
from annot_hf.evaluation.speakers import weakest_subset
from annot_hf.models.measures import entropy
from annot_hf.report import pages
from annot_hf.report.opening import big_numbers, comparison_verdict
from annot_hf.report.pages import write_tables
from annot_hf.report.report import build_comparison, build_report
from annot_hf.report.tables import Cell, Table


@pytest.fixture(scope="module")
def found(emotion_run):
    _, targets, predictions, speakers = emotion_run
    sex = {item: "f" if int(name[-2:]) % 3 else "m" for item, name in speakers.items()}
    return evaluate(predictions, targets, speakers=speakers, groups={"sex": sex}, n_resamples=200)


def kl(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(q > 0, q * np.log(q / p), 0).sum(1)


def test_subsets_have_the_gap_of_their_items(emotion_run, found):
    _, targets, predictions, speakers = emotion_run
    q, base = targets.probs, targets.probs.mean(0)
    named = np.array([speakers[item] for item in targets.items])
    order = np.argsort(entropy(q), kind="stable")
    rows = {
        ("speaker", "speaker03"): named == "speaker03",
        ("group", "sex: m"): np.array([int(name[-2:]) % 3 == 0 for name in named]),
        ("label", "fear"): q.argmax(1) == 2,
    }
    told = {(one["kind"], one["name"]): one for one in found.subsets}
    assert len([key for key in told if key[0] == "speaker"]) == 12
    for key, mask in rows.items():
        expected = 100 * (1 - kl(predictions.probs, q)[mask].mean() / kl(base[None], q)[mask].mean())
        gap = told[key]["gap_closed"]["model"]
        assert gap["value"] == pytest.approx(expected) and gap["low"] < expected < gap["high"]
        assert told[key]["items"] == mask.sum()
    low, high = (told["disagreement", name] for name in ("low", "high"))
    assert low["items"] >= 60 and set(order[:60]) <= set(
        np.flatnonzero(entropy(q) <= np.sort(entropy(q))[low["items"] - 1])
    )
    assert high["gap_closed"]["model"]["value"] != low["gap_closed"]["model"]["value"]
    assert found.to_dict()["subsets"] == found.subsets


def test_the_weakest_subset_is_surely_weak():
    def part(name, **gap):
        return {"name": name, "gap_closed": {"model": {"value": None, "low": None, "high": None} | gap}}

    wide, sure, unknown = (
        part("wide", value=-5, low=-90, high=80),
        part("sure", value=2, low=-1, high=6),
        part("unknown"),
    )
    assert weakest_subset([wide, unknown, sure], "model")["name"] == "sure"
    assert weakest_subset([part("a", value=3), part("b", value=1), unknown], "model")["name"] == "b"
    assert weakest_subset([unknown], "model") is None and weakest_subset([], "model") is None


@pytest.mark.usefixtures("unrendered")
def test_three_numbers_are_those_of_the_evaluation(tmp_path, emotion_run, grid_run):
    votes, targets, predictions, speakers = emotion_run
    items = pd.DataFrame({"item": list(speakers), "speaker": list(speakers.values())})
    options = {"title": "t", "items": items, "n_resamples": 50}
    report = build_report(predictions, targets, tmp_path / "a", votes=votes, **options)
    gap, worth, fails = report.opening.numbers
    found = report.evaluation.at("gap_closed")
    assert (gap.title, gap.value) == ("Gap closed", f"{found['value']:.0f} %") and not gap.bad
    assert gap.interval == f"{found['low']:.1f} to {found['high']:.1f} %"
    assert f"no model reach more than about {report.evaluation.at('gap_closed', 'ceiling')['value']:.0f} %" in gap.about
    assert (worth.value, worth.interval) == ("> 6", "> 6 throughout") and "cannot show more than 6" in worth.about
    weak = weakest_subset(report.evaluation.subsets, "model")["gap_closed"]["model"]
    assert fails.value == f"{weak['value']:.0f} %".replace("-", "−") and fails.bad == (weak["low"] <= 0)
    assert fails.title == ("Where it fails" if fails.bad else "Where it is weakest")
    assert fails.about.startswith("Gap closed on ")
    told = json.loads(report.files["json"].read_text(encoding="utf-8"))["opening"]
    assert [one["value"] for one in told["numbers"]] == [gap.value, worth.value, fails.value]
    worse = replace(predictions, probs=np.roll(predictions.probs, 1, axis=0))
    gap, worth, fails = build_report(worse, targets, tmp_path / "b", votes=votes, **options).opening.numbers
    assert gap.bad and gap.value.startswith("−") and worth.bad and worth.value == "< 1"
    assert fails.bad and fails.title == "Where it fails"
    _, targets, predictions, *_ = grid_run
    report = build_report(predictions, targets, tmp_path / "c", title="t", n_resamples=0)
    ccc = report.opening.numbers[1]
    names = [f"ccc_{name}" for name in ("activation", "valence")]
    values = {name: report.evaluation.at(name)["value"] for name in names}
    assert ccc.value == f"{min(values.values()):.2f}" and ccc.interval == ""
    assert f"{max(values.values()):.2f}." in ccc.about
    assert len(report.opening.examples[0].grids) == 2 and report.opening.axes == ("activation", "valence")


def test_another_number_stands_for_one_that_is_not_known(emotion_run):
    _, targets, predictions, _ = emotion_run
    few = targets.items[:9]
    found = evaluate(predictions.select(few), targets.select(few), n_resamples=0)
    titles = ["Gap closed", "Worth in raters", "Accuracy"]
    assert found.equivalence is not None and [one.title for one in big_numbers(found, "item")] == titles


@pytest.mark.usefixtures("unrendered")
def test_the_most_divided_items_are_shown(tmp_path):
    labels = tuple("abcdefgh")
    question = Question.category("mood", labels)
    said = {"agreed": "aaaa", "split": "aabb", "torn": "abcdefgh", "few": "ab", "some": "aabc"}
    votes = VoteTable.from_columns(
        question, item=[item for item, text in said.items() for _ in text], value=list("".join(said.values()))
    )
    targets = make_targets(votes, "mood")
    probs = np.full((5, 8), 0.05) + np.eye(5, 8) * 0.6
    predictions = Predictions(items=targets.items, support=labels, probs=probs, questions=(question,))
    items = pd.DataFrame({"item": list(said), "text": ["<b>1</b>", "two", "x" * 1000, None, "four"]})
    report = build_report(predictions, targets, tmp_path, title="t", items=items, n_resamples=0)
    shown = report.opening.examples
    # of equal entropies, the one with more votes
    assert [one.item for one in shown] == ["torn", "some", "split"]
    assert shown[0].votes == "8 votes" and shown[0].text == "x" * 400 + " …"
    row = {item: k for k, item in enumerate(targets.items)}["torn"]
    kept = [k for k in range(8) if labels[k] in [one.label for one in shown[0].rows]]
    assert len(kept) == 6 and shown[0].rows[-1].label == "2 others"
    assert [one.shares for one in shown[0].rows[:-1]] == [(0.125, pytest.approx(probs[row, k])) for k in kept]
    assert np.sum([one.shares for one in shown[0].rows], axis=0) == pytest.approx([1, 1])
    text = report.files["markdown"].read_text(encoding="utf-8")
    assert "| split (4 votes) | two | a 50 %; b 50 % | " in text
    assert "four" in report.files["html"].read_text(encoding="utf-8")


def blurred(predictions, share):
    return replace(predictions, probs=(1 - share) * predictions.probs + share / predictions.probs.shape[1])


def verdict_of(emotion_run, runs, n_resamples=200):
    _, targets, _, speakers = emotion_run
    return comparison_verdict(
        evaluate(runs, targets, speakers=speakers, parts=("items",), n_resamples=n_resamples), "text"
    )


def test_the_verdict_on_runs_names_losers_first(emotion_run):
    good = emotion_run[2]
    flat, turned = blurred(good, 0.5), replace(good, probs=np.roll(good.probs, 1, axis=0))
    told = verdict_of(emotion_run, {"flat": flat, "good": good})
    assert told.startswith("“good” is better than “flat” by ") and told.endswith(") of the gap to a perfect forecast.")
    told = verdict_of(emotion_run, {"good": good, "turned": turned, "flat": flat})
    assert told.startswith("“turned” is worse than no model: ") and ", but “good” is better than “turned” by " in told
    assert " and than “flat” by " in told
    told = verdict_of(emotion_run, {"good": good, "same": good})
    assert told == (
        "“good” is no better than “same” (+0.0, 0.0 to 0.0 points of the gap to a perfect forecast), as far as these 12 "
        "speakers show."
    )
    told = verdict_of(emotion_run, {"good": good, "turned": turned, "flat": flat}, 0)
    assert told.startswith(
        "Without intervals, nothing can be concluded: the average of all votes forecasts people's votes "
    )
    assert "better than “turned” (gap closed: −" in told and "; “good” cannot be told apart from “turned” (+" in told
    assert " points of the gap to a perfect forecast) or “flat” (+" in told and told.endswith(").")


@pytest.mark.usefixtures("unrendered")
def test_three_runs_share_a_page(tmp_path, emotion_run):
    votes, targets, predictions, speakers = emotion_run
    runs = {name: blurred(predictions, share) for name, share in (("<i>a</i>", 0.6), ("b", 0.0), ("c", 0.3))}
    items = pd.DataFrame({"item": list(speakers), "speaker": list(speakers.values())})
    report = build_comparison(runs, targets, tmp_path, title="t", items=items, votes=votes, n_resamples=50)
    gap = report.opening.numbers[0]
    assert gap.title == "Gap closed: b" and [name for name, _ in gap.others] == ["<i>a</i>", "c"]
    assert gap.others[1][1].startswith(f"{report.evaluation.at('gap_closed', 'c')['value']:.0f} % (")
    assert report.opening.series == ("votes", "<i>a</i>", "b", "c")
    assert len(report.opening.examples[0].rows[0].shares) == 4
    page, text = (report.files[kind].read_text(encoding="utf-8") for kind in ("html", "markdown"))
    assert "<i>" not in page and {"systems", "equivalence"} <= set(report.files)
    assert "The runs <i>a</i>, b and c were compared on 240 items by 12 speakers" in report.summary
    assert "## Difference to &lt;i&gt;a&lt;/i&gt;, paired" in text and "| System | Accuracy" not in text
    for names in ("a", "abcdefg"):
        with pytest.raises(ValueError, match=f"There are {len(names)} runs; compare 2 to 6 on a page."):
            build_comparison(dict.fromkeys(names, predictions), targets, tmp_path, title="t")


def test_pages_of_systems_open_their_first_table(tmp_path):
    tables = [Table(name, ("System", "Score"), [(Cell("a"), Cell("1"))]) for name in ("First", "Second")]
    path = write_tables(tmp_path / "x.md", title="t", summary="s", tables=tables, notes=["n"], details={})
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    assert page.count("<details open>\n<summary><h3>First") == page.count("<details open>") == 1
    assert "sortable" in page and 'class="numbers"' not in page


@pytest.mark.browser
def test_tables_sort_in_a_browser(tmp_path):
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; pip install playwright"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed; apt-get install chromium")
    rows = [("b", "10.5 %", "1,200"), ("a10", "–", "9"), ("a9", "−3.1 %", "> 7"), ("C", "2.0 %", "")]
    cells = [tuple(Cell(text, "[0, 1]") for text in row) for row in rows]
    wide = [(Cell("x"), *(Cell("123456789", "[123456, 1234567]"),) * 12)]
    heads = ("Name", *(f"{k} wide" for k in range(12)))
    tables = [Table("Scores", ("Name", "Gap", "Items"), cells), Table("Wide", heads, wide)]
    texts = {"title": "t", "summary": "s", "notes": ["n" * 300], "details": {"k": "v" * 300}}
    Figure((9, 1)).savefig(tmp_path / "x.png", dpi=pages.DPI)
    path = write_tables(tmp_path / "x.md", tables=tables, figure=("x.png", "A plot."), **texts)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto(path.with_suffix(".html").as_uri())

        def names(head, key="Enter"):
            page.get_by_role("button", name=head, exact=True).first.press(key)
            body = page.locator("table.sortable").first
            order = body.locator("tbody th").evaluate_all("heads => heads.map(head => head.firstChild.textContent)")
            return order, body.locator("thead th").evaluate_all("heads => heads.map(head => head.ariaSort)")

        assert names("Gap") == (["a9", "C", "b", "a10"], ["none", "ascending", "none"])
        assert names("Gap", "Space") == (["b", "C", "a9", "a10"], ["none", "descending", "none"])
        assert names("Items") == (["a9", "a10", "b", "C"], ["none", "none", "ascending"])
        assert names("Name") == (["a9", "a10", "b", "C"], ["ascending", "none", "none"])
        names("Name")
        assert names("Name") == (["b", "a10", "a9", "C"], ["none"] * 3)
        page.locator("summary").nth(1).press("Enter")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page scrolls sideways on a phone"
        # a wide table scrolls by itself, and so does a wide figure, which says so
        assert page.locator(".scroll").nth(2).evaluate("box => box.scrollWidth > box.clientWidth")
        plot = page.locator("figure.wide")
        assert plot.locator("img").evaluate("one => one.clientWidth") == 704
        assert plot.locator(".scroll").evaluate("box => box.scrollWidth - box.clientWidth + 366") == 704 + 48
        hint = "one => getComputedStyle(one, '::before').content"
        assert "Scroll the plot sideways" in plot.locator("figcaption").evaluate(hint)
        page.set_viewport_size({"width": 1280, "height": 844})
        assert plot.locator("figcaption").evaluate(hint) == "none"
        assert plot.locator(".scroll").evaluate("box => box.scrollWidth == box.clientWidth")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details[open]").count() == 2
        # a script that is not the page's own does not run
        blocked = "const one = document.createElement('script'); one.textContent = 'window.ran = 1'; document.body.append(one)"
        assert page.evaluate(f"() => {{ {blocked}; return window.ran === undefined }}")
        browser.close()
    assert {url.split(":")[0] for url in asked} == {"file"}
    assert not [one for one in errors if "Content Security Policy" not in one]
