"""The page of `annot-hf agree`, from votes to files."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.agreement import agreement
from annot_hf.evaluation.agreement_study import study_agreement
from annot_hf.evaluation.resampling import Resamples
from annot_hf.report.agreement_page import (
    plot_entropies,
    plot_evidence,
    plot_groups,
    plot_next,
    save_study,
    study_tables,
)


def table_of(votes, speakers, **columns):
    items = pd.DataFrame({"item": votes.items, "speaker": [speakers[item] for item in votes.items]})
    return items.assign(sex=np.where(np.arange(len(items)) % 2, "female", "male"), **columns)


@pytest.fixture(scope="module")
def study(emotion_run):
    votes, _, _, speakers = emotion_run
    again = replace(votes, questions=(replace(votes.questions[0], name="<b>again</b>"),))
    both = VoteTable.concat([votes, again])
    return both, speakers, study_agreement(both, table_of(both, speakers), n_resamples=60)


def test_a_study_holds_what_its_functions_say(study):
    votes, speakers, found = study
    assert found.units == "speakers" and [one.question for one in found.found] == ["emotion", "<b>again</b>"]
    clusters = np.array([speakers[item] for item in votes.items], dtype=object)
    alone = agreement(votes, "emotion", resamples=Resamples(clusters, 60, 0))
    assert found.found[0].to_dict() == alone.to_dict()
    # The same votes twice differ by nothing, in every resample.
    (differences,) = found.differences.values()
    assert differences["alpha"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    one = found.questions["emotion"]
    assert len(one.raters) == 20 and set(one.groups) == {"sex"} and len(one.ranked) == len(votes.items)
    female = votes.select(items=votes.items[1::2], questions=["emotion"])
    assert one.groups["sex"]["female"].alpha.value == pytest.approx(agreement(female, "emotion").alpha.value)
    assert set(one.ceilings["jsd"]) == {"ceiling", "ceiling, split-half", "ceiling, one left out"}
    assert one.moves["majority"]["changed"]["value"] == 0 and "CROWDLAB" in one.not_run


def test_the_page_shows_every_table_and_escapes_names(study, tmp_path):
    _, _, found = study
    path = save_study(found, tmp_path / "out", corpus="<i>mine</i>", details={"seed": 0})
    page, told = path.read_text(), json.loads(path.with_suffix(".json").read_text())
    assert path.name == "agreement.html" and "<b>again" not in page and "<i>mine" not in page
    assert "&lt;b&gt;again&lt;/b&gt;" in page and page.count("data:image/png;base64") == len(told["plots"]) == 7
    assert "may be too narrow: the votes are worth fewer than 30 raters" in " ".join(page.split())
    one = found.questions["emotion"]
    drawn = (
        plot_entropies({"q": one.entropies}),
        plot_next({"q": one.ranked}),
        plot_groups(one),
        plot_evidence(one.raters),
    )
    # At the size of the page, figures above 600 pixels scroll on a phone, rather than shrink beyond reading.
    assert all(96 * figure.get_size_inches()[0] > 600 for figure in drawn)
    for title in (
        "Noise ceilings",
        "What aggregation changes",
        "One more vote",
        "to ask about next",
        "against the rest",
    ):
        assert f"{title}: emotion" in page or f"{title.replace('to', 'items to', 1)}" in page, title
    assert told["agreement"][0]["alpha"]["low"] < told["agreement"][0]["alpha"]["high"]
    raters = pd.read_csv(tmp_path / "out" / "raters.csv").query("question == 'emotion'")
    assert list(raters["rater"]) == list(found.questions["emotion"].raters["rater"])
    save_study(found, tmp_path / "out", corpus="mine", details={})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "agreement.json").write_text("{}")
    with pytest.raises(ValueError, match=r"agreement\.json"):
        save_study(found, tmp_path / "other", corpus="mine", details={})


def test_shares_without_votes_have_no_agreement():
    asked = Question.category("q", list("ab"), shares=True)
    votes = VoteTable.from_shares(asked, ["x", "y"], [[0.5, 0.5], [0.2, 0.8]])
    with pytest.raises(
        ValueError, match="known as shares of an unknown number of votes, which have no agreement; give"
    ):
        study_agreement(votes, pd.DataFrame({"item": ["x", "y"]}))


def test_no_name_acts_as_markup_or_as_a_formula(tmp_path):
    bad, rng = "<img src=x onerror=alert(1)>", np.random.default_rng(0)
    asked = Question.category(f"{bad}q", [f"{bad}{label}" for label in "ab"])
    item, rater = (part.ravel() for part in np.meshgrid(np.arange(40), np.arange(12)))
    votes = VoteTable.from_columns(
        asked,
        item=[f"=1+{code}{bad}" for code in item],
        annotator=[f"@SUM({code}){bad}" for code in rater],
        value=[asked.labels[code] for code in rng.integers(2, size=len(item))],
    )
    items = pd.DataFrame({"item": votes.items, f"{bad}group": np.resize([f"-{bad}", f"+{bad}"], len(votes.items))})
    found = study_agreement(votes, items, n_resamples=10)
    path = save_study(found, tmp_path, corpus=bad, details={bad: bad})
    page = path.read_text()
    assert "<img src=x" not in page and page.count("&lt;img src=x onerror=alert(1)&gt;") > 40
    for name, column in (("raters", "rater"), ("next", "item")):
        told = pd.read_csv(tmp_path / f"{name}.csv")
        assert len(told) and told[column].str.startswith("'").all()
        assert {cell[1] for cell in told[column]} == {"@" if column == "rater" else "="}


def test_scales_have_a_ceiling_and_raters_and_a_list_of_items(grid_run, tmp_path):
    votes, _, _, speakers, _ = grid_run
    found = study_agreement(votes, table_of(votes, speakers), n_resamples=40, groups=["sex"])
    one = found.questions["valence"]
    assert len(one.ranked) == len(votes.items) and one.entropies is None and one.checked["items"] == len(votes.items)
    assert 0.5 < one.ceilings["ccc"]["ceiling"]["value"] < 1 and "ccc" in one.raters
    page = save_study(found, tmp_path, corpus="grid", details={}).read_text()
    assert "CCC of the expectation" in page and "activation \u2212 valence" in page
    assert "Value, squared points" in page and "Error of the forecast of the next rating" in page
    ranked = pd.read_csv(tmp_path / "next.csv").query("question == 'valence'")
    assert list(ranked["item"]) == list(one.ranked["item"]) and (ranked["error"] > 0).all()


def test_without_details_there_are_tables_alone(emotion_run):
    votes, _, _, speakers = emotion_run
    found = study_agreement(votes, table_of(votes, speakers), details=False, n_resamples=0)
    assert not found.questions and len(study_tables(found)) == 2
    alone = study_agreement(votes, table_of(votes, speakers).drop(columns="speaker"), details=False, n_resamples=0)
    assert alone.units == "items"
    with pytest.raises(ValueError, match="Items have no column 'age'; the columns are item, speaker, sex"):
        study_agreement(votes, table_of(votes, speakers), groups=["age"])
    with pytest.raises(ValueError, match="Item 'clip.*' has votes and no row in the items; add one."):
        study_agreement(votes, table_of(votes, speakers).iloc[1:])


def test_flagged_raters_stand_out():
    judged = pd.DataFrame(
        {
            "information": [0.0, 0.4],
            "low": [-0.1, 0.3],
            "high": [0.1, 0.5],
            "flagged": [True, False],
            "agreement": [0.2, 0.6],
        }
    )
    (axis,) = plot_evidence(judged).axes
    assert axis.get_legend_handles_labels()[1] == ["rater", "flagged"]


def test_every_question_has_a_line_of_its_own_in_steps():
    names = [f"q{place}" for place in range(7)]
    (axis,) = plot_entropies(dict.fromkeys(names, np.array([0.5, 0.0, 0.8, 0.5]))).axes
    assert axis.get_legend_handles_labels()[1] == [f" {name}" for name in names]
    assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == 7
    line = axis.lines[0]
    assert line.get_drawstyle() == "steps-post"
    assert line.get_xydata().tolist() == [[0, 0], [0, 25], [0.5, 50], [0.5, 75], [0.8, 100], [1, 100]]
    (axis,) = plot_next(dict.fromkeys(names, pd.DataFrame({"value": [0.004, 0.001]}))).axes
    assert axis.get_legend_handles_labels()[1] == [f" {name}" for name in names]
    line = axis.lines[6]
    assert line.get_drawstyle() == "steps-pre" and line.get_xydata().tolist() == [[0, 4], [50, 4], [100, 1]]
