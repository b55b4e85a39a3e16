"""The card of a corpus: its numbers are those of the tables, its snippet runs, and hostile names are text."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from datasets import config, load_dataset
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from annot_hf import Question, VoteCorpus, VoteTable, agreement, export_corpus, read_export
from annot_hf.data.files import CARD_MARK
from annot_hf.evaluation.agreement_study import study_agreement
from annot_hf.report.corpus_page import write_dataset_card

HOSTILE = "a|b <script>alert(1)</script> `x` [y](http://z)\n---\nlicense: mit\n# *"


class Mingled(VoteCorpus):
    """Two speakers are in two splits each, one of a split alone; names are hostile."""

    name = "mingled <b>"
    license = "cc-by-4.0"
    citation = HOSTILE
    access = HOSTILE

    def read_items(self):
        speakers = ["s1", "s1", "s2", "s2", "s3", None]
        splits = ["train", "test", "train", "test", "test", "train"]
        table = pd.DataFrame({"item": list("abcdef"), "text": list("uvwxyz"), "speaker": speakers, "split": splits})
        return table

    def read_votes(self):
        question = Question.category(HOSTILE, ["yes", HOSTILE], prompt=HOSTILE)
        raters = ["r1", "r2", "r3", "r1", "r2", "r1", "r1"]
        return VoteTable.from_columns(
            question, item=list("aaabbcd"), value=["yes", "yes", HOSTILE, "yes", "yes", "yes", "yes"], annotator=raters
        )


@pytest.fixture
def mingled(tmp_path):
    (tmp_path / "root").mkdir()
    corpus = Mingled(tmp_path / "root")
    corpus.questions = corpus.read_votes().questions
    export_corpus(corpus, tmp_path / "export")
    write_dataset_card(tmp_path / "export")
    return tmp_path / "export"


def test_the_numbers_are_those_of_the_tables(mingled):
    exported = read_export(mingled)
    card = (mingled / "README.md").read_text()
    each = exported.votes.to_arrow()["annotator"].to_pandas().value_counts()
    spread = f"{each.min()} / {each.median():g} / {each.max()} votes a rater"
    assert f"| named raters | 3 | {spread} |" in card and spread == "1 / 2 / 4 votes a rater"
    found = agreement(exported.votes, HOSTILE)
    alpha, pairwise = (
        f"{one.value:.3f}" + ("" if one.low is None else f" ({one.low:.3f} to {one.high:.3f})")
        for one in (found.alpha, found.pairwise)
    )
    assert f"| {found.pairable_items} | {alpha} | {pairwise} |" in card
    assert "| train | 3 | 4 | 2 | 2 |" in card and "| test | 3 | 3 | 3 | 2 |" in card
    assert "| items without votes | 2 |" in card and "its owner has not said" in card and "There is no audio" in card
    data = DatasetCard(card).data.to_dict()
    assert data["license"] == "cc-by-4.0" and data["task_categories"] == ["text-classification"]


def test_hostile_names_are_text(mingled):
    body = DatasetCard((mingled / "README.md").read_text()).text
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert "<script" not in page and "<b>" not in page and 'href="http://z"' not in page
    asked = page.split("<h2>Questions</h2>")[1].split("</table>")[0]
    rows = re.findall(r"<tr>.*?</tr>", asked, re.DOTALL)
    assert len(rows) == 2 and all(len(re.findall(r"<t[hd]", row)) == 3 for row in rows)


def test_the_snippet_runs_and_the_card_is_written_again_alike(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = shutil.copytree(corpus, tmp_path / "export")
    plain = (folder / "README.md").read_text()
    assert "`annot-hf agree FOLDER` measures" in plain and write_dataset_card(folder) == folder / "README.md"
    written = (folder / "README.md").read_text()
    (folder / "README.md").unlink()
    assert write_dataset_card(read_export(folder)) and (folder / "README.md").read_text() == written != plain
    snippet = re.search(r"```python\n(.*?)```", written, re.DOTALL)[1].replace("FOLDER", str(folder))
    names = {}
    exec(snippet, names)
    assert sum(map(len, names["votes"].values())) == len(read_export(folder).votes)
    assert load_dataset(str(folder), "items").keys() == names["votes"].keys()


def test_a_card_that_a_person_wrote_is_kept(corpus, tmp_path):
    folder = shutil.copytree(corpus, tmp_path / "export")
    mine = (folder / "README.md").read_text().replace(CARD_MARK, "") + "mine\n"
    (folder / "README.md").write_text(mine)
    write_dataset_card(folder)
    assert (folder / "README.md").read_text() == mine
    with pytest.raises(ValueError, match="is not an exported corpus"):
        write_dataset_card(tmp_path)


def test_the_card_and_the_command_have_one_interval(mingled):
    rows = study_agreement(read_export(mingled).votes, read_export(mingled).items, details=False).found
    alpha = rows[0].alpha
    shown = f"{alpha.value:.3f}" + ("" if alpha.low is None else f" ({alpha.low:.3f} to {alpha.high:.3f})")
    assert f"| {shown} |" in (mingled / "README.md").read_text()


def test_cards_name_extras_that_exist():
    root = Path(__file__).parents[2]
    extras = re.search(r"extras = \{(.*?)\n\}", (root / "setup.py").read_text(), re.DOTALL)[1]
    known = {*re.findall(r'^    "(\w+)":', extras, re.MULTILINE), "dev"}
    pages = [*root.glob("annot_hf/**/*.py"), *root.glob("annot_hf/templates/**/*"), *root.glob("docs/*.md")]
    named = {
        one
        for path in [*pages, root / "README.md"]
        if path.is_file()
        for found in re.findall(r"annot-hf\[([\w,]+)\]", path.read_text(encoding="utf-8"))
        for one in found.split(",")
    }
    assert named and named <= known
