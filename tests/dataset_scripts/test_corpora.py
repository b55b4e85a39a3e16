"""One contract for every folder under dataset_scripts, over a miniature corpus of the true format.

A folder `dataset_scripts/NAME` needs `NAME.py`, `README.md` and a test module `test_NAME.py` here with a function
`miniature(root)` that writes a small clean corpus and returns the number of votes per question.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, load_dataset

from annot_hf.data.audio import load_audio
from annot_hf.data.corpus import VoteCorpus, load_corpus_script
from annot_hf.data.export import export_corpus, read_export

SCRIPTS = Path(__file__).parents[2] / "dataset_scripts"
NAMES = sorted(path.name for path in SCRIPTS.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))


def miniature_of(name):
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        return importlib.import_module(f"test_{name}").miniature
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    votes = miniature_of(request.param)(folder / "upstream")
    corpus = load_corpus_script(SCRIPTS / request.param)
    report = export_corpus(corpus(folder / "upstream"), folder / "export")
    return request.param, corpus, folder, votes, report


def test_there_are_corpora():
    assert NAMES


def test_constants(case):
    name, corpus, folder, *_ = case
    assert issubclass(corpus, VoteCorpus) and corpus.name == name
    for constant in (corpus.version, corpus.license, corpus.citation, corpus.homepage, corpus.access):
        assert constant.strip()
    # the files may say which corpus of several it is
    found = corpus(folder / "upstream")
    names = [question.name for question in found.questions]
    assert found.name.startswith(name)
    assert found.default_questions and set(found.default_questions) <= set(names)
    assert len(set(names)) == len(names)


def test_readme_names_what_a_user_must_know(case):
    text = (SCRIPTS / case[0] / "README.md").read_text(encoding="utf-8").lower()
    for word in ("access", "licence", "citation", "split", f"annot-hf corpus dataset_scripts/{case[0]} --root "):
        assert word in text
    assert " --out " in text


def test_counts_in_are_counts_out(case):
    _, _, folder, votes, report = case
    assert {name: row["votes"] for name, row in report.questions.items()} == votes
    assert report.votes == sum(votes.values()) and report.votes_left_out == 0
    back = read_export(folder / "export")
    for question in back.questions:
        rows = len(back.votes.ratings[back.votes.rows_of(question.name)])
        assert rows == votes[question.name] or (question.shares and votes[question.name] == 0)


def test_read_back_is_what_the_readers_read(case):
    _, corpus, folder, *_ = case
    read, back = corpus(folder / "upstream").read_votes(), read_export(folder / "export")
    columns = ["item", "annotator", "question", "label", "rating", "weight", "source"]
    frames = [votes.to_pandas().astype(object).sort_values(columns[:5])[columns] for votes in (read, back.votes)]
    np.testing.assert_array_equal(frames[0].fillna("").to_numpy(), frames[1].fillna("").to_numpy())
    assert set(back.questions) == set(read.questions)


def test_load_dataset_reads_every_configuration(case, tmp_path):
    _, _, folder, votes, report = case
    load = {
        config: load_dataset(str(folder / "export"), config, cache_dir=str(tmp_path)) for config in ("votes", "items")
    }
    for rows in load.values():
        assert list(rows) == list(report.splits)
    shares = {question.name for question in read_export(folder / "export").questions if question.shares}
    assert sum(name not in shares for rows in load["votes"].values() for name in rows["question"]) == report.votes
    assert {split: len(rows) for split, rows in load["items"].items()} == report.splits
    features = load["votes"]["train"].features
    assert list(features) == ["item", "annotator", "question", "label", "rating", "weight", "source"]
    categories = [question for question in read_export(folder / "export").questions if not question.is_scale]
    if not categories:
        return
    assert isinstance(features["label"], ClassLabel)
    histograms = load_dataset(str(folder / "export"), "histograms", cache_dir=str(tmp_path))
    for question in categories:
        for split, rows in histograms.items():
            counted = sum(row["votes"] for row in rows if row["question"] == question.name)
            cast = load["votes"][split].filter(lambda row, name=question.name: row["question"] == name)
            assert counted == (0 if question.shares else len(cast)) or question.multiple


def test_speakers_stay_in_one_split(case):
    items = read_export(case[2] / "export").items
    known = items[items["speaker"].notna()]
    assert (known.groupby("speaker")["split"].nunique() == 1).all()  # none at all where texts name no speaker


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["emozionalmente", "convabuse"])
def test_strict_accepts_an_intact_copy(name, shared_data):
    corpus = load_corpus_script(SCRIPTS / name)(shared_data / name)
    corpus.read_items()
    corpus.read_votes()
    assert corpus.findings and all(found.expected for found in corpus.findings.values())


def test_audio_decodes(case):
    items = read_export(case[2] / "export").items
    for audio in items.get("audio", []):
        assert len(load_audio(audio)) > 0


def test_a_second_export_has_the_same_digest(case):
    _, corpus, folder, *_ = case
    digest = read_export(folder / "export").digest
    export_corpus(corpus(folder / "upstream"), folder / "export")
    assert read_export(folder / "export").digest == digest


def test_a_missing_or_empty_folder_is_named(case, tmp_path):
    corpus = case[1]
    with pytest.raises(ValueError, match="no corpus folder"):
        corpus(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not in"):
        export_corpus(corpus(tmp_path), tmp_path / "out" / "export")
