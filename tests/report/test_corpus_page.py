"""The page of an import: every number against a count of its own, and names that must not act as markup."""

import json

import numpy as np
import pandas as pd
import pytest

from annot_hf.cli import app as cli
from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.report.corpus_page import save_corpus_page

MOOD = Question.category("mood", ["<b>joy</b>", "sad"])
FORCE = Question.scale("force", 1, 7)


class Texts(VoteCorpus):
    """Twelve texts of four speakers; every third rater gives ratings too."""

    name, questions, default_questions = "<i>texts</i>", (MOOD, FORCE), ("mood",)

    def read_items(self):
        self.label_file("about.csv", required=False)
        self.note("rows that nobody knows", ["<script>x</script>"], votes=5)
        self.note("rows that are always there", 3, expected=True)
        split = ["train"] * 6 + ["validation"] * 3 + ["test"] * 3
        speakers = [f"s{n // 3}" for n in range(11)] + ["s0"]
        return pd.DataFrame({"item": self.names, "text": self.names, "speaker": speakers, "split": split})

    names = tuple(f"t{n:02d}" for n in range(12))
    # item, rater, label; the first item has most votes
    rows = tuple((name, f"r{r}", "sad" if r % 2 else MOOD.labels[0]) for name in names for r in range(2))
    rows = (*rows, ("t00", "r2", "sad"), ("t00", None, "sad"))

    def read_votes(self):
        pd.DataFrame(self.rows).to_csv(self.root / "votes.csv", index=False)
        self.label_file("votes.csv")
        ratings = [(name, "r2", str(1 + n % 3)) for n, name in enumerate(self.names)]
        item, annotator, value = zip(*self.rows, *ratings, strict=True)
        asked = ["mood"] * len(self.rows) + ["force"] * len(ratings)
        return VoteTable.from_columns(self.questions, item=item, annotator=annotator, question=asked, value=value)


@pytest.fixture
def exported(tmp_path):
    (tmp_path / "root").mkdir()
    export_corpus(Texts(tmp_path / "root"), tmp_path / "data")
    return read_export(tmp_path / "data")


def test_the_page_says_what_was_read(exported, tmp_path):
    path = save_corpus_page(exported, tmp_path / "page")
    page, told = path.read_text(), json.loads(path.with_suffix(".json").read_text())
    assert path.name == "import.html" and page.count("data:image/png;base64") == len(told["plots"]) == 5
    for name in ("<i>texts", "<b>joy", "<script>x"):
        assert name not in page
    assert "&lt;script&gt;x" in page and "Votes in and out" in page
    assert set(told["label_files"]) == {"votes.csv"} and told["label_files_missing"] == ["about.csv"]
    lines = path.with_suffix(".md").read_text().splitlines()
    for row in (
        "| in the files | 43 |",
        "| rows that nobody knows | \N{MINUS SIGN}5 |",
        "| in the export | 38 |",
        "| mood | 2 labels | 12 | 26 | 3 | 2 / 2 / 4 | 1 / 12 / 12 |",
        "| force | 1 to 7 | 12 | 12 | 1 | 1 / 1 / 1 | 12 / 12 / 12 |",
        "| sad | 14 | 53.8 | 57.1 | 50.0 | 50.0 |",
        "| all | 12 | 2.00 | 0.82 | 1.00 | 2.00 | 3.00 |",
        "| about.csv | no |  |",
        # one speaker is in train and in test, all raters are everywhere, and no text is there twice
        "| train | 6 | 20 | 3 | 3 | 0 | 2 | 1 | 6 | 0 |",
        "| test | 3 | 9 | 3 | 3 | 0 | 2 | 1 | 3 | 0 |",
    ):
        assert row in lines, row
    summary = (
        "12 items and 38 votes of 3 named raters are in the export; 5 votes of the files are left out. 2 findings are"
    )
    assert told["summary"].startswith(summary)
    assert told["splits"]["validation"]["speakers in other splits"] == 0
    assert told["answers"]["mood"]["votes"] == {MOOD.labels[0]: 12, "sad": 14}


def test_the_hash_of_the_splits_is_that_of_the_splits_alone(exported, tmp_path):
    def hashed(name, corpus):
        return json.loads(save_corpus_page(corpus, tmp_path / name).with_suffix(".json").read_text())["split_hash"]

    first = hashed("a", exported)
    parts = exported.items.set_index("item")["split"]
    order = np.random.default_rng(0).permutation(len(parts))
    assert hashed("b", exported.with_splits(parts.iloc[order].to_dict(), {"fold": 0})) == first
    parts.iloc[0] = "test"
    assert hashed("c", exported.with_splits(parts.to_dict(), {"fold": 0})) != first


def test_the_command_writes_it_and_draws_splits(tmp_path, capsys, monkeypatch):
    rows = [f"i{n:02d},s{n % 8},r{r},{'joy' if (n + r) % 3 else 'sad'},t{n}" for n in range(24) for r in range(3)]
    table = tmp_path / "votes.csv"
    table.write_text("\n".join(["item,speaker,rater,label,text", *rows]))
    words = ["corpus", table, "--text", "text", "--out", tmp_path / "data", "--split-by", "speaker", "--strict"]
    options = ["--shares", "0.5", "0.25", "0.25", "--seed", "3", "--report", tmp_path / "page"]
    read = []
    for module in ("data.export", "report.corpus_page"):
        monkeypatch.setattr(f"annot_hf.{module}.read_export", lambda folder: read.append(folder) or read_export(folder))
    with pytest.raises(SystemExit, match="0"):
        cli.main([str(word) for word in [*words, *options]])
    # The card and the page have one reading.
    assert read == [tmp_path / "data"]
    out = capsys.readouterr().out
    assert "splits drawn by speaker, seed 3" in out and str(tmp_path / "page" / "import.html") in out
    assert read_export(tmp_path / "data").items["split"].value_counts().to_dict() == {
        "train": 12,
        "validation": 6,
        "test": 6,
    }
    told = json.loads((tmp_path / "page" / "import.json").read_text())
    assert all(row["speakers in other splits"] == 0 for row in told["splits"].values())
    for more, message in (
        (["--splits", table], "--split-by draws splits, and --splits states them"),
        (["--report", tmp_path / "data" / "page"], "is in the export, which holds nothing else"),
        (["--shares", "0.5", "0.25", "0.5"], "give three above 0 that sum to 1"),
    ):
        with pytest.raises(SystemExit):
            cli.main([str(word) for word in [*words, *more]])
        assert message in capsys.readouterr().err
