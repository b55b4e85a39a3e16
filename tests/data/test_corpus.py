"""Corpora: their splits, notes and label files, and the scripts that define them."""

import importlib
import json
import pickle
import shutil
import sys

import pandas as pd
import pytest

from annot_hf.data.corpus import VoteCorpus, load_corpus_script, split_by_group
from annot_hf.data.export import export_corpus


def test_groups_stay_in_one_split_that_their_name_decides():
    groups = pd.Series([f"talk {n % 4000}" for n in range(8000)], index=range(5, 8005))
    split = split_by_group(groups)
    assert split.groupby(groups).nunique().max() == 1 and (split.index == groups.index).all()
    shares = split.value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.02)
    part = groups[::7].sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(split_by_group(part), split[part.index], check_names=False)
    assert set(split_by_group(groups, (0, 0, 1))) == {"test"}
    for nothing in (None, " "):
        with pytest.raises(ValueError, match="Item row 1 has no group to split by; name the group of each item"):
            split_by_group(pd.Series(["a", nothing]))


def test_notes(corpus):
    corpus.note("nothing", [])
    corpus.note("nothing", 0)
    corpus.note("rows", ["x", "y", "z", "w"], votes=7)
    assert list(corpus.findings) == ["rows"]
    assert corpus.findings["rows"].examples == ("x", "y", "z") and corpus.findings["rows"].count == 4


def test_unfinished_corpora(tmp_path):
    with pytest.raises(ValueError, match="VoteCorpus has no name"):
        VoteCorpus(tmp_path)
    named = type("Named", (VoteCorpus,), {"name": "named"})
    with pytest.raises(ValueError, match="no corpus folder"):
        named(tmp_path / "gone")
    for reader in ("read_items", "read_votes"):
        with pytest.raises(NotImplementedError, match=reader):
            getattr(named(tmp_path), reader)()


def test_label_files_are_recorded(corpus, tmp_path):
    (corpus.root / "labels.csv").write_text("x")
    assert corpus.label_file("gone.csv", "labels.csv") == corpus.root / "labels.csv"
    assert corpus.label_file("gone.csv", required=False) is None
    export_corpus(corpus, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert facts["label_files"] == {"labels.csv": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    with pytest.raises(ValueError, match="gone.csv or lost.csv is not in"):
        corpus.label_file("gone.csv", "lost.csv")


def test_corpus_scripts(tmp_path):
    base = "from annot_hf.data.corpus import VoteCorpus\n"
    (tmp_path / "one.py").write_text(base + "class One(VoteCorpus):\n    name = 'one'\n")
    assert load_corpus_script(tmp_path / "one.py").name == "one"
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "one.py", tmp_path / "folder" / "folder.py")
    assert load_corpus_script(tmp_path / "folder").name == "one"
    (tmp_path / "none.py").write_text(base)
    with pytest.raises(ValueError, match="exactly one VoteCorpus subclass; it defines none"):
        load_corpus_script(tmp_path / "none.py")
    (tmp_path / "two.py").write_text(base + "class A(VoteCorpus): pass\nclass B(VoteCorpus): pass\n")
    with pytest.raises(ValueError, match="it defines A, B"):
        load_corpus_script(tmp_path / "two.py")
    for missing in ("gone.py", "one.txt", "."):
        with pytest.raises(ValueError, match="no corpus script"):
            load_corpus_script(tmp_path / missing)


POSTPONED = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import ClassVar
from annot_hf import Question, VoteCorpus
from labels import LABELS, base

@dataclass(frozen=True)
class Row:
    shown: ClassVar[int] = 0
    clip: str = field(default="x")

class Talk(VoteCorpus):
    name, row, base = "talk", Row(), base
    questions = (Question.category("tone", LABELS),)

    def read_items(self):
        import inner.deep
        import labels
        assert labels.LABELS is LABELS
        return inner.deep.base
"""


def test_a_corpus_script_imports_the_files_beside_it_and_no_others_of_their_names(tmp_path, monkeypatch):
    (tmp_path / "labels.py").write_text("LABELS = 'of the program'")
    monkeypatch.syspath_prepend(tmp_path)
    program = importlib.import_module("labels")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "talk.py").write_text(POSTPONED)
        (tmp_path / folder / "labels.py").write_text(f"from inner.deep import base\nLABELS = ['low', '{folder}']")
        (tmp_path / folder / "inner").mkdir()
        (tmp_path / folder / "inner" / "__init__.py").write_text("")
        (tmp_path / folder / "inner" / "deep.py").write_text(f"base = '{folder}'")
        (tmp_path / folder / "numpy").mkdir()  # a folder of data
    before, path = set(sys.modules), list(sys.path)
    one, two, again = (load_corpus_script(tmp_path / folder / "talk.py") for folder in ("one", "two", "one"))
    assert [talk.questions[0].labels for talk in (one, two, again)] == [("low", "one"), ("low", "two"), ("low", "one")]
    assert [talk.base for talk in (one, two, again)] == ["one", "two", "one"]
    assert one.row.clip == "x" and one.__module__ != two.__module__
    assert pickle.loads(pickle.dumps(two)) is two
    assert [talk(tmp_path).read_items() for talk in (one, two, again)] == ["one", "two", "one"]
    assert sys.modules["labels"] is program and sys.path == path
    assert all(name.startswith("annot_hf_corpus_talk_") for name in set(sys.modules) - before)


def test_a_corpus_script_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "broken.py").write_text("import helper\n1 / 0")
    (tmp_path / "helper.py").write_text("")
    before, path = set(sys.modules), list(sys.path)
    with pytest.raises(ZeroDivisionError):
        load_corpus_script(tmp_path / "broken.py")
    assert set(sys.modules) == before and sys.path == path


def test_a_corpus_that_comes_with_the_package_is_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_corpus_script("cremad").name == "cremad"
    # a folder of that name without a script, such as an export, hides it from no one
    (tmp_path / "cremad").mkdir()
    assert load_corpus_script("cremad").name == "cremad"
