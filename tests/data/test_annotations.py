"""Folders of synthetic votes: what goes in comes out, and nothing half written or edited is taken for votes."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annot_hf.data import synthetic as module
from annot_hf.data.questions import Question
from annot_hf.data.synthetic import check_annotations_folder, read_annotations, write_annotations
from annot_hf.data.votes import VoteTable

EMOTION = Question.category("emotion", ["anger", "joy"])
VALENCE = Question.scale("valence", 1, 5)
HEARD = Question.category("heard", ["x", "y"], multiple=True)
FACTS = {"corpus": "mine", "corpus_digest": "abc", "model": {"name": "m", "temperature": 0.7}}
REPLIES = pa.table({"item": ["a", "b"], "reply": ["joy", None]})


def votes_of(value=("joy", "anger", "joy"), questions=EMOTION, source="synthetic", **columns):
    columns = {"item": ["a", "a", "b"], "annotator": ["1", "2", "1"], "value": list(value)} | columns
    return VoteTable.from_columns(questions, source=source, **columns)


MIXED = votes_of(["joy", "2.5", None], [EMOTION, VALENCE, HEARD], question=["emotion", "valence", "heard"])


@pytest.fixture
def folder(tmp_path):
    write_annotations(tmp_path / "votes", votes_of(), REPLIES, FACTS)
    return tmp_path / "votes"


@pytest.mark.parametrize("votes", [votes_of(), votes_of([1, 2, 3], VALENCE), MIXED], ids=["category", "scale", "mixed"])
def test_round_trip(tmp_path, votes):
    write_annotations(tmp_path, votes, REPLIES, FACTS)
    found = read_annotations(tmp_path)
    assert found.votes.questions == votes.questions
    assert found.votes.to_arrow().to_pylist() == votes.to_arrow().to_pylist()
    assert {key: found.facts[key] for key in FACTS} == FACTS
    assert found.facts["counts"] == {"votes": 3, "items": 2, "annotators": 2, "replies": 2}
    assert pq.read_table(tmp_path / "replies.parquet").to_pylist() == REPLIES.to_pylist()


def test_writing_again_replaces_ours_and_leaves_the_rest(folder):
    (folder / "log.jsonl").write_text("{}\n")
    write_annotations(folder, votes_of(["anger", "anger", "anger"]), REPLIES.slice(0, 1), FACTS)
    assert read_annotations(folder).votes.counts("emotion").tolist() == [[2, 0], [1, 0]]
    assert sorted(os.listdir(folder)) == ["annotations.json", "log.jsonl", "replies.parquet", "votes.parquet"]


def test_equal_votes_give_equal_files(folder, tmp_path):
    write_annotations(tmp_path / "again", votes_of(), REPLIES, FACTS)
    for name in ("votes.parquet", "annotations.json"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("broken", ["replies.parquet", "votes.parquet", "annotations.json"])
def test_a_write_that_is_cut_off_leaves_no_half_file(folder, monkeypatch, broken):
    """Killed at any file: what is there is the earlier votes, or says that it is not whole."""
    replace = os.replace

    def cut(source, target):
        if os.path.basename(target) == broken:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        write_annotations(folder, votes_of(["anger"] * 3), REPLIES, FACTS)
    assert sorted(os.listdir(folder)) == ["annotations.json", "replies.parquet", "votes.parquet"]
    if broken == "annotations.json":
        with pytest.raises(ValueError, match=r"votes.parquet is not the file .* writing stopped early; write it again"):
            read_annotations(folder)
    else:
        assert read_annotations(folder).votes.counts("emotion").tolist() == [[1, 1], [0, 1]]


def test_edited_votes_are_noticed(folder):
    table = pq.read_table(folder / "votes.parquet")
    pq.write_table(table.slice(0, 2), folder / "votes.parquet")
    with pytest.raises(ValueError, match=r"votes.parquet is not the file that annotations.json describes: it was ed"):
        read_annotations(folder)


def spoil(folder, **changes):
    path = folder / "annotations.json"
    facts = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in facts.items() if value is not ...}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "annot-hf corpus export"}, "annotations.json is not of kind 'annot-hf annotations'"),
        ({"kind": ...}, "not of kind"),
        ({"questions": ...}, "annotations.json is damaged"),
        ({"questions": []}, "annotations.json is damaged"),
        ({"questions": [{"name": "emotion", "label": ["anger"]}]}, "annotations.json is damaged.*has no field 'label'"),
        ({"questions": [{"name": "emotion", "labels": ["anger", "sad"]}]}, "votes.parquet does not fit the questions"),
        ({"questions": [{"name": "mood", "labels": ["anger", "joy"]}]}, "votes.parquet does not fit the questions"),
        ({"corpus_digest": ...}, "annotations.json is damaged.*corpus_digest"),
        ({"votes_sha256": ...}, "votes.parquet is not the file"),
        ({"counts": {"votes": 4, "items": 2, "annotators": 2}}, r"counts .* but votes\.parquet holds"),
        ({"counts": None}, "annotations.json is damaged"),
    ],
)
def test_facts_that_were_edited(folder, changes, message):
    spoil(folder, **changes)
    with pytest.raises(ValueError, match=message):
        read_annotations(folder)


@pytest.mark.parametrize("text", ["", '{"kind": "annot-hf anno', "[1]", "\xff"])
def test_half_written_facts(folder, text):
    (folder / "annotations.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"annotations.json (cannot be read|is not of kind)"):
        read_annotations(folder)


def test_folders_that_hold_none(tmp_path, folder):
    for place in (tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match="holds no annotations: it has no annotations.json"):
            read_annotations(place)
    (folder / "votes.parquet").unlink()
    with pytest.raises(ValueError, match="lack votes.parquet"):
        read_annotations(folder)


def test_votes_of_people_are_refused(tmp_path):
    for source in (None, "crowd", ["synthetic", "synthetic", None]):
        with pytest.raises(ValueError, match=r"row \d \(item '[ab]'\) has source .*only votes of source 'synthetic'"):
            write_annotations(tmp_path, votes_of(source=source), REPLIES, FACTS)
    assert not os.listdir(tmp_path)


def test_no_votes_and_repeated_ones_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no vote"):
        write_annotations(tmp_path, votes_of().select(mask=np.zeros(3, bool)), REPLIES, FACTS)
    with pytest.raises(ValueError, match="row 2 repeats annotator '1' on item 'a'"):
        twice = votes_of(item=["a"] * 3, annotator=["1", "2", "1"], duplicates="keep")
        write_annotations(tmp_path, twice, REPLIES, FACTS)
    write_annotations(
        tmp_path, votes_of(item=["a"] * 3, annotator=None), REPLIES, FACTS
    )  # nameless ones may be several


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        write_annotations(tmp_path / "file", votes_of(), REPLIES, FACTS)
    (tmp_path / "annotations.json").write_text('{"kind": "mine"}')
    with pytest.raises(ValueError, match="is not of kind"):
        write_annotations(tmp_path, votes_of(), REPLIES, FACTS)


@pytest.mark.parametrize(
    "name, text, message",
    [
        (
            "annotations.json",
            "{}",
            r"annotations.json is not of kind .*; move that file away or give a new folder",
        ),
        ("annotations.json", '{"tool": "other"}', "move that file away"),
        ("corpus.json", "{}", "holds an exported corpus .corpus.json.; give the annotations a folder of their own"),
    ],
)
def test_whether_a_folder_may_be_written_is_told_beforehand(tmp_path, name, text, message):
    check_annotations_folder(tmp_path)
    check_annotations_folder(tmp_path / "new")
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        check_annotations_folder(tmp_path)
    with pytest.raises(ValueError, match=message):
        write_annotations(tmp_path, votes_of(), REPLIES, FACTS)
    assert os.listdir(tmp_path) == [name]
