"""Emozionalmente: a miniature of the upstream tables, their defects, and the real ones where they stand."""

import csv
import gzip
from pathlib import Path

import pytest

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export

SCRIPT = Path(__file__).parents[2] / "dataset_scripts" / "emozionalmente"
Emozionalmente = load_corpus_script(SCRIPT)

SAMPLES = [
    ["file_name", "sentence", "sentence_language", "actor", "emotion_expressed"],
    ["1.wav", "Tornerà a casa presto", "italian", "ann", "joy"],
    ["2.wav", "Vado in biblioteca", "italian", "bob", "fear"],
]
EVALUATIONS = [
    ["file_name", "evaluator", "audio_quality", "emotion_recognized"],
    ["1.wav", "bob", "good", "joy"],
    ["1.wav", "cem", "bad", "surprise"],
    ["2.wav", "ann", "good", "fear"],
    ["2.wav", "ann", "good", "anger"],
]
USERS = [["username", "gender", "age", "mother_tongue"], ["ann", "female", "30", "italian"], ["bob", "male", "", ""]]


def write(root, **changed):
    tables = {"samples": SAMPLES, "evaluations": EVALUATIONS, "users": USERS} | changed
    root.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with gzip.open(root / f"{name}.csv.gz", "wt", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def miniature(root):
    """A complete miniature; returns votes per question."""
    write(root)
    return {"emotion": 4, "audio_quality": 4}


def test_votes_items_and_raters(tmp_path):
    miniature(tmp_path / "upstream")
    corpus = Emozionalmente(tmp_path / "upstream")
    items = corpus.read_items().set_index("item")
    assert items.loc["2.wav", "text"] == "fear: Vado in biblioteca" and "audio" not in items
    assert items["speaker"].to_dict() == {"1.wav": "ann", "2.wav": "bob"}
    votes = corpus.read_votes().to_pandas()
    said = votes[votes["item"] == "2.wav"].groupby("question")["label"].apply(list).to_dict()
    assert said == {"emotion": ["fear", "anger"], "audio_quality": ["good", "good"]}
    assert corpus.raters.set_index("annotator").loc["bob"].to_dict() == {
        "gender": "male",
        "age": "",
        "mother_tongue": "",
    }
    report = export_corpus(corpus, tmp_path / "export")
    told = {name: count for name, count, *_ in report.rows()}
    assert told["evaluations of a clip by a rater who had rated it before, kept"] == "1"
    (tmp_path / "upstream" / "audio").mkdir()
    assert list(Emozionalmente(tmp_path / "upstream").read_items()["audio"]) == ["audio/1.wav", "audio/2.wav"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samples": [*SAMPLES, ["3.wav", "Si", "italian", "ann", "rage"]]}, "'rage'"),
        ({"evaluations": [*EVALUATIONS, ["2.wav", "", "good", "fear"]]}, "must name the rater"),
        ({"evaluations": [*EVALUATIONS, ["2.wav", "cem", "good", "rage"]]}, "'rage'"),
    ],
)
def test_defects_stop_the_import(tmp_path, changed, message):
    write(tmp_path, **changed)
    with pytest.raises(ValueError, match=message):
        corpus = Emozionalmente(tmp_path)
        corpus.read_items()
        corpus.read_votes()


@pytest.mark.real_data
def test_the_real_corpus(shared_data, tmp_path):
    report = export_corpus(Emozionalmente(shared_data / "emozionalmente"), tmp_path)
    told = {name: count for name, count, *_ in report.rows()}
    assert told["items"] == "5,674" and told["question emotion"] == "28,370"
    assert told["evaluations of a clip by a rater who had rated it before, kept"] == "39"
    votes = read_export(tmp_path).votes
    assert len(votes.annotators) == 822
