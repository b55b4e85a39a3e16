"""The folder of an export: damage, links and foreign files are refused, and a failed export leaves no trace."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_corpus import EMOTION, ITEMS, VALENCE, vote_rows

from annot_hf.data.audio import load_audio
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.simulate import simulate_corpus
from annot_hf.data.votes import VoteTable


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("corpus.json", "{"),
        ("corpus.json", json.dumps({"kind": "annot-hf corpus export"})),
        ("votes/train.parquet", "not parquet"),
    ],
)
def test_a_damaged_export_names_the_file(name, content, corpus, tmp_path):
    export_corpus(corpus, tmp_path / "out")
    (tmp_path / "out" / name).write_text(content)
    with pytest.raises(ValueError) as error:
        read_export(tmp_path / "out")
    assert str(error.value).startswith(
        f"{tmp_path / 'out' / name} {'cannot be read' if content == '{' else 'is damaged'} ("
    )
    assert str(error.value).endswith("export the corpus again.")


def edit_table(out, config, change):
    path = out / config / "train.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def edit_facts(out, change):
    facts = json.loads((out / "corpus.json").read_text())
    change(facts)
    (out / "corpus.json").write_text(json.dumps(facts))


OTHER = r"(votes|items|spans)/train.parquet is damaged \(corpus.json states another SHA-256\); export the corpus again"
FACTS = r"corpus.json is damaged \(its digest or its counts do not match the tables\); export the corpus again"
EDITS = {
    "a vote less": (lambda out: edit_table(out, "votes", lambda table: table.slice(1)), OTHER),
    "items in another order": (lambda out: edit_table(out, "items", lambda table: table.take([1, 0])), OTHER),
    "half copied": (lambda out: shutil.copy(out.with_name("new") / "votes/train.parquet", out / "votes"), OTHER),
    "facts of another": (lambda out: shutil.copy(out.with_name("new") / "corpus.json", out), OTHER),
    "the digest": (lambda out: edit_facts(out, lambda facts: facts.update(digest="True")), FACTS),
    "the labels of a question": (
        lambda out: edit_facts(out, lambda facts: facts["questions"][0].update(labels=["calm", "anger"])),
        FACTS,
    ),
    "votes of the report": (lambda out: edit_facts(out, lambda facts: facts["report"].update(votes=9)), FACTS),
    "items of the report": (lambda out: edit_facts(out, lambda facts: facts["report"].update(items=9)), FACTS),
    "a split that is gone": (lambda out: edit_facts(out, lambda facts: facts["splits"]["votes"].pop()), FACTS),
    "no digests": (lambda out: edit_facts(out, lambda facts: facts.pop("files")), "is damaged .KeyError: 'files'"),
}


@pytest.mark.parametrize(("edit", "message"), EDITS.values(), ids=EDITS)
def test_an_export_that_was_edited_or_copied_in_part_is_not_read(corpus, tmp_path, edit, message):
    out = tmp_path / "out"
    export_corpus(corpus, out)
    rows = vote_rows()
    rows["value"][0] = "calm"
    corpus.votes = VoteTable.from_columns([EMOTION, VALENCE], **rows)
    export_corpus(corpus, tmp_path / "new")
    edit(out)
    with pytest.raises(ValueError, match=message):
        read_export(out)


def test_labels_are_those_of_the_questions(corpus, tmp_path):
    export_corpus(corpus, tmp_path / "out")
    edit_facts(tmp_path / "out", lambda facts: facts.update(labels=["calm", "anger"]))
    back = read_export(tmp_path / "out").votes
    np.testing.assert_array_equal(back.counts("emotion", items=ITEMS), corpus.votes.counts("emotion", items=ITEMS))


KILLED = """
import os, pathlib, sys
import pyarrow.parquet as pq
from annot_hf.data.export import export_corpus
from annot_hf.data.simulate import SimulatedCorpus

def kill(*_): os.kill(os.getpid(), 9)
if sys.argv[1] == "while it is written":
    pq.write_table = kill
else:  # between the two renames
    rename = pathlib.Path.rename
    pathlib.Path.rename = lambda path, to: rename(path, to) if to.name.endswith(".old") else kill()
export_corpus(SimulatedCorpus(sys.argv[2]), sys.argv[3])
"""


@pytest.mark.parametrize("when", ["while it is written", "before it is in place"])
def test_a_killed_export_leaves_the_earlier_one_and_is_cleared_by_the_next(when, corpus, tmp_path):
    root, out = simulate_corpus(tmp_path / "simulated", speakers=3, clips_per_speaker=2), tmp_path / "out"
    export_corpus(corpus, out)
    (tmp_path / ".out.abcdefgh").mkdir()  # of somebody else
    before = read_export(out).digest
    ended = subprocess.run([sys.executable, "-c", KILLED, when, str(root), str(out)], capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".out.")]) > 1
    votes, corpus.votes = corpus.votes, corpus.votes.select(items=[])
    with pytest.raises(ValueError, match="no vote is on a listed item"):
        export_corpus(corpus, out)
    corpus.votes = votes
    with pytest.raises(OSError, match="disk full"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pq, "write_table", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        export_corpus(corpus, out)
    assert read_export(out).digest == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.abcdefgh", "out", "root", "simulated"]


def test_two_exports_into_one_folder_at_a_time_are_refused(corpus, tmp_path, monkeypatch):
    write, out = pq.write_table, tmp_path / "out"

    def again(*args):
        monkeypatch.setattr(pq, "write_table", write)
        with pytest.raises(ValueError, match="Another process is writing .*out; wait for it"):
            export_corpus(corpus, out)
        write(*args)

    monkeypatch.setattr(pq, "write_table", again)
    export_corpus(corpus, out)
    assert read_export(out).report["votes"] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "root"] and not (out / ".lock").exists()


def hub_cache(corpus, repository):
    """The corpus as the cache of the Hub keeps it: names are links to blobs."""
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in corpus.root.iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.name.encode()).hexdigest()
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.mark.parametrize("embed_audio", [True, False])
def test_a_corpus_in_the_cache_of_the_hub_is_exported(embed_audio, corpus, tmp_path):
    snapshot = hub_cache(corpus, tmp_path / "datasets--me--talk")
    corpus.root = snapshot
    assert export_corpus(corpus, tmp_path / "out", embed_audio=embed_audio).items == 4
    back = read_export(tmp_path / "out").items
    assert back["file"].tolist() == [f"{item}.wav" for item in ITEMS]
    assert all(len(load_audio(source)) == 1600 for source in back["audio"])


def test_links_elsewhere_are_followed_on_request(corpus, tmp_path):
    other = hub_cache(corpus, tmp_path / "datasets--me--other")
    shutil.move(tmp_path / "root" / "b.wav", tmp_path / "b.wav")
    (corpus.root / "b.wav").symlink_to(other / "b.wav")  # into the blobs of another repository
    with pytest.raises(ValueError, match=r"'b.wav' is a link out of .*blobs.*; if that is meant, .*--follow-links"):
        export_corpus(corpus, tmp_path / "out")
    export_corpus(corpus, tmp_path / "out", follow_links=True)
    assert read_export(tmp_path / "out").items["audio"][1] == str(corpus.root / "b.wav")


def foreign(out, paths):
    """An export of somebody else, whose digests are in order."""

    def change(table):
        place = table.column_names.index("audio")
        audio = pa.array([{"bytes": None, "path": path} for path in paths], table["audio"].type)
        return table.set_column(place, "audio", audio)

    edit_table(out, "items", change)
    content = hashlib.sha256((out / "items/train.parquet").read_bytes()).hexdigest()
    edit_facts(out, lambda facts: facts["files"].update({"items/train.parquet": content}))


@pytest.mark.parametrize("embed_audio", [True, False])
@pytest.mark.parametrize(
    "paths", [["/home/me/secret.wav", "ROOT/b.wav"], ["/home/me/a.wav", "ROOT/b.wav"], ["a.wav", "b.wav"]]
)
def test_an_export_names_audio_under_one_root_only(paths, embed_audio, corpus, tmp_path):
    out = tmp_path / "out"
    export_corpus(corpus, out, embed_audio=embed_audio)
    foreign(out, [path.replace("ROOT", str(corpus.root)) for path in paths])
    with pytest.raises(
        ValueError, match="all audio of an export must be under one root: export the corpus again, or pass its"
    ):
        read_export(out)
    (tmp_path / "moved").mkdir()
    read = read_export(out, root=tmp_path / "moved").items["audio"].tolist()
    assert read[:2] == [str(tmp_path / "moved" / name) for name in ("a.wav", "b.wav")]


def test_files_of_an_export_are_plain_names(corpus, tmp_path, monkeypatch):
    shutil.copy(corpus.root / "a.wav", tmp_path / "secret.wav")
    corpus.items.loc[0, "audio"] = "../secret.wav"
    monkeypatch.setattr("annot_hf.data.export.resolve_inside", lambda root, name, **_: root / name)
    export_corpus(corpus, tmp_path / "out")
    for root in (None, corpus.root):
        with pytest.raises(ValueError, match="'../secret.wav' leads to a parent folder"):
            read_export(tmp_path / "out", root=root)


def test_a_failed_export_keeps_the_earlier_one(corpus, tmp_path, monkeypatch):
    export_corpus(corpus, tmp_path / "out")
    before = (tmp_path / "out" / "corpus.json").read_bytes()
    monkeypatch.setattr(pq, "write_table", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export_corpus(corpus, tmp_path / "out")
    assert (tmp_path / "out" / "corpus.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "root"]


def test_folders_that_are_no_export_are_left_alone(corpus, tmp_path):
    other = tmp_path / "thesis"
    other.mkdir()
    export_corpus(corpus, other)  # an empty folder is fine
    (other / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="it holds notes.txt. and is left alone"):
        export_corpus(corpus, other)
    (other / "corpus.json").write_text('{"kind": "something else"}')
    (other / "notes.txt").unlink()
    with pytest.raises(ValueError, match="not an earlier annot-hf corpus export"):
        export_corpus(corpus, other)
    (other / "corpus.json").unlink()
    with pytest.raises(ValueError, match="it has no corpus.json"):
        export_corpus(corpus, other)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        export_corpus(corpus, tmp_path / "file")
    for folder in (corpus.root, tmp_path):
        with pytest.raises(ValueError, match="holds the corpus itself"):
            export_corpus(corpus, folder)


def test_a_damaged_export_is_named(corpus, tmp_path):
    with pytest.raises(ValueError, match="is not an exported corpus"):
        read_export(tmp_path)
    export_corpus(corpus, tmp_path / "out")
    (tmp_path / "out" / "votes" / "test.parquet").unlink()
    with pytest.raises(ValueError, match="lacks votes/test.parquet; export the corpus again"):
        read_export(tmp_path / "out")
    (tmp_path / "out" / "corpus.json").write_text("[]")
    with pytest.raises(ValueError, match=r"it holds \[\] and no object"):
        read_export(tmp_path / "out")
