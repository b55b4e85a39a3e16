"""What of a model and a corpus goes to the Hub, and that nothing else does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from huggingface_hub import RepoCard

from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.simulate import SimulatedCorpus
from annot_hf.hub import publish as publishing
from annot_hf.hub.cards import write_model_card
from annot_hf.hub.contents import address_card, gather
from annot_hf.hub.publish import publish
from annot_hf.training.checkpoints import load_model


def content_of(hub, name):
    return b"\n".join([key.encode() + value for key, value in hub.repositories[name].items()])


def posts(hub, part):
    return [one for one in hub.requests if part in one]


def test_a_model_goes_up_without_names_of_raters_and_places(hub, checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["annotator"], tmp_path / "model")
    (folder / "README.md").write_text("# Mine\n")
    expected = {path.name for path in folder.iterdir() if path.is_file()}
    for name in ("training_args.bin", "optimizer.pt", "notes.txt", "features.bin", "events.log", ".env"):
        (folder / name).write_bytes(b"mine")
    (folder / "clips").mkdir()
    (folder / "clips" / "a.wav").write_bytes(b"mine")
    found = publish(folder, "me/mine")
    files = hub.repositories["models/me/mine"]
    assert {"model.safetensors", "modeling_annotator.py", "training.json", "README.md"} < expected
    assert set(files) - {"plots/votes.png"} == expected and set(found.sizes) == set(files)
    assert set(found.left) >= {"training_args.bin", ".env", "clips/a.wav"} and len(found.left) == 7
    assert found.sizes == {name: len(value) for name, value in files.items()} and "models/me/mine" in hub.private
    model, _, _ = load_model(folder)
    raters = model.config.annotators
    told = content_of(hub, "models/me/mine")
    assert raters and not any(f'"{name}"'.encode() in told for name in raters)
    assert str(tmp_path.parent).encode() not in told
    there, _, facts = load_model("me/mine")
    assert len(set(there.config.annotators)) == len(raters) and facts["corpus"] == "simulated"
    mel = torch.linspace(-1, 1, 3200).reshape(2, 20, 80)
    torch.testing.assert_close(there(mel).probs, model(mel).probs)
    kept = publish(folder, "me/named", keep_raters=True)
    assert load_model("me/named")[0].config.annotators == raters and kept.notes == (
        f"{len(raters)} rater ids, as they are",
    )


def test_what_has_not_changed_is_not_sent_again_and_what_is_gone_is_removed(hub, checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["distribution"], tmp_path / "model")
    (folder / "vocab.txt").write_text("old")
    first = publish(folder, "me/mine")
    hub.repositories["models/me/mine"] |= {".gitattributes": b"", "notes.md": b"somebody's own"}
    hub.requests.clear()
    again = publish(folder, "me/mine")
    assert first.commit and not again.commit and set(again.unchanged) == set(again.sizes)
    assert not posts(hub, "/commit/") and not posts(hub, "/preupload/")
    (folder / "vocab.txt").unlink()
    (folder / "README.md").write_text("# Mine\n")
    third = publish(folder, "me/mine")
    assert set(third.sizes) - set(third.unchanged) == {"README.md"} and third.removed == ("vocab.txt",)
    assert {".gitattributes", "notes.md", "README.md"} < set(hub.repositories["models/me/mine"])
    assert not posts(hub, "PUT ")


def test_a_connection_that_is_cut_publishes_nothing_and_the_same_call_continues(
    hub, checkpoints, tmp_path, monkeypatch
):
    folder = shutil.copytree(checkpoints["distribution"], tmp_path / "model")
    (folder / "plots").mkdir()
    (folder / "plots" / "votes.png").write_bytes(b"png" * 5000)
    monkeypatch.setattr(publishing, "_LARGE", 1)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.cut, hub.after = "PUT /lfs/", 1
    with pytest.raises(
        ValueError, match="1 large files were sent and are kept, and nothing is published: the same"
    ) as caught:
        publish(folder, "me/mine")
    assert "\n" not in str(caught.value) and hub.repositories["models/me/mine"] == {} and len(hub.large) == 1
    hub.cut = ""
    hub.requests.clear()
    publish(folder, "me/mine")
    assert len(posts(hub, "PUT ")) == 1
    assert {"model.safetensors", "plots/votes.png"} < set(hub.repositories["models/me/mine"])
    hub.cut = "/commit/"
    (folder / "README.md").write_text("# Mine\n")
    with pytest.raises(ValueError, match="The connection to the Hub failed .* and nothing is published"):
        publish(folder, "me/mine")
    assert hub.repositories["models/me/mine"]["README.md"] != b"# Mine\n"


REFUSALS = {
    "you/mine": "you/mine belongs to somebody else, as you are logged in as me; publish to me/mine",
    "readers/mine": "readers/mine belongs to somebody else",
    "me/public": "The repository me/public is public; pass --public",
    "me/other": r"holds something else \(weights.bin\); name another",
    "me/locked": r"does not let you write to me/locked \(Forbidden\)",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_repository_that_may_not_be_written_is_refused(name, hub, copied):
    hub.repositories |= {"models/me/public": {}, "models/me/other": {"weights.bin": b"1"}, "models/me/locked": {}}
    hub.private |= {"models/me/other", "models/me/locked"}
    hub.locked.add("models/me/locked")
    before = {key: dict(value) for key, value in hub.repositories.items()}
    with pytest.raises(ValueError, match=REFUSALS[name]) as caught:
        publish(copied["distribution"], name)
    assert "\n" not in str(caught.value) and hub.repositories == before


def test_without_a_token_or_a_connection_it_is_said(hub, copied, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match=r"does not know who publishes me/mine; log in \(hf auth login\)"):
        publish(copied["distribution"], "me/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        publish(copied["distribution"], "me/mine")
    assert publish(copied["distribution"], "me/mine", dry_run=True).sizes["model.safetensors"] > 1000
    assert hub.repositories == {} and not posts(hub, "POST")


def test_secrets_and_strange_folders_stay(hub, checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["distribution"], tmp_path / "run" / "model")
    (folder / "README.md").write_text("my token is hf_" + "a" * 30)
    with pytest.raises(ValueError, match=r"README\.md holds a token or a key; remove it"):
        publish(folder, "me/mine")
    for place, message in ((tmp_path / "run", f"give {folder}"), (tmp_path / "none", "There is no folder")):
        with pytest.raises(ValueError, match=message):
            publish(place, "me/mine")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        publish(folder, "me/mine")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="holds a model of type 'bert'"):
        publish(folder, "me/mine")
    assert hub.repositories == {}


def test_a_model_that_tells_of_single_raters_stays(hub, checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["annotator"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"annotators": list("abcdefghij"), "rater_columns": [{"name": "age", "mean": 30.0, "std": 5.0}]}
    (folder / "config.json").write_text(json.dumps(config | {"rater_facts": [[0.0]] * 6 + [[1.0]] * 4}))
    with pytest.raises(
        ValueError, match="tells age of each rater, and 4 of 10 raters share theirs with fewer than 4 others"
    ):
        publish(folder, "me/mine")
    (folder / "config.json").write_text(json.dumps(config | {"rater_facts": [[0.0]] * 5 + [[1.0]] * 5}))
    assert publish(folder, "me/mine", dry_run=True).notes == ("10 rater ids, salted",)


def test_a_space_takes_its_model_along_and_a_metric_the_name_of_its_module(hub, checkpoints, repository, tmp_path):
    space = shutil.copytree(repository / "spaces" / "annotator_explorer", tmp_path / "space")
    shutil.copytree(checkpoints["annotator"], space / "model")
    (space / "cache").mkdir()
    for name in (".env", "cache/clip.wav", "model/optimizer.pt"):
        (space / name).write_bytes(b"mine")
    found = publish(space, "lab/space")
    assert found.kind == "space" and {".env", "cache/clip.wav", "model/optimizer.pt"} <= set(found.left)
    files = hub.repositories["spaces/lab/space"]
    assert {"app.py", "charts.py", "style.css", "requirements.txt", "model/model.safetensors"} < set(files)
    raters = load_model(checkpoints["annotator"])[0].config.annotators
    there = json.loads(files["model/config.json"])["annotators"]
    assert len(there) == len(raters) and not set(there) & set(raters)
    with pytest.raises(ValueError, match=r"evaluate.load\('me/other'\) would read other.py, and there is none"):
        publish(repository / "metrics" / "jsd", "me/other")
    (space / "README.md").write_text("# No metadata\n")
    with pytest.raises(ValueError, match=r"README\.md does not begin with metadata that name the sdk"):
        publish(space, "lab/space")


def test_adapters_over_a_folder_stay(hub, checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["distribution"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["adapted_from"] = {"base": str(tmp_path), "version": "1"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="a folder of this machine that nobody else has"):
        publish(folder, "me/mine")


@pytest.fixture
def exported(hub, corpus, tmp_path):
    """A copy of an export, with something beside it that is nobody's business."""
    folder = shutil.copytree(corpus, tmp_path / "export")
    (folder / "notes.txt").write_text("mine")
    return folder


def restated(folder, **facts):
    path = folder / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_a_corpus_goes_up_under_other_names_and_is_read_by_its_id(hub, exported, copied):
    before = {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    mine = read_export(exported)
    found = publish(exported, "me/votes")
    assert {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()} == before
    files = hub.repositories["datasets/me/votes"]
    assert (
        found.left == (".audio_root", "notes.txt") and not {*found.left} & {*files} and set(found.sizes) == set(files)
    )
    told = content_of(hub, "datasets/me/votes")
    assert not any(name.encode() in told for name in mine.votes.annotators)
    assert str(exported.parents[1]).encode() not in told and b"a.wav" not in told.replace(b".wav", b"")
    there = read_export("me/votes")
    assert there.folder != mine.folder and list(there.items["item"]) == list(mine.items["item"])
    assert there.items["audio"].isna().all() and "audio_root" not in told.decode("latin-1").replace(
        '"audio_root": null', ""
    )
    for name in ("emotion", "valence"):
        rows = [one.votes.rows_of(name) for one in (mine, there)]
        assert len(rows[0]) == len(rows[1])
    np.testing.assert_array_equal(mine.votes.counts("emotion"), there.votes.counts("emotion"))
    # the names are other ones, and as many, and those of a model of this corpus
    assert len(there.votes.annotators) == len(mine.votes.annotators)
    publish(copied["annotator"], "me/raters")
    assert set(load_model("me/raters")[0].config.annotators) <= set(there.votes.annotators)
    again = publish(exported, "me/votes")
    assert not again.commit
    (exported / "README.md").write_text("---\nlicense: mit\n---\n# My own words\n")
    metadata = files["README.md"].split(b"---")[1]
    publish(exported, "me/votes")
    card = hub.repositories["datasets/me/votes"]["README.md"]
    assert b"# My own words" in card and RepoCard(card.decode()).data.to_dict() == yaml.safe_load(metadata)
    assert read_export(f"me/votes@{found.commit}").digest == there.digest
    with pytest.raises(ValueError, match="no revision 'v9'"):
        read_export("me/votes@v9")
    with pytest.raises(ValueError, match="me/votes@v9 names a revision, and so does 'v8'; leave one out"):
        read_export("me/votes@v9", revision="v8")
    assert list(read_export("me/votes", root=mine.folder.parent / "simulated").items["audio"])[0].endswith(".wav")


@pytest.mark.parametrize("revision", [None, "dev"])
def test_a_card_loads_the_repository_that_it_is_in(revision, checkpoints, corpus, tmp_path):
    named = f'"me/mine", revision="{revision}"' if revision else '"me/mine"'
    model = shutil.copytree(checkpoints["distribution"], tmp_path / "mine")
    write_model_card(model)
    for kind, folder in (("model", model), ("dataset", corpus)):
        scratch = tmp_path / kind
        scratch.mkdir()
        contents = address_card(gather(folder, kind, scratch), "me/mine", revision, scratch)
        card = contents.files["README.md"].read_text(encoding="utf-8")
        assert "FOLDER" not in card and named in card and "FOLDER" in (folder / "README.md").read_text()
        option = " --revision dev" if revision else ""
        assert kind == "dataset" or f"annot-hf predict me/mine{option} clip.wav" in card
        contents.files["README.md"].write_text("# FOLDER by a person")
        assert address_card(contents, "me/mine", revision, scratch) is contents


def test_what_may_not_be_passed_on_stays(hub, exported):
    restated(exported, shareable="nothing", access="Ask the laboratory; nothing may be passed on.")
    with pytest.raises(ValueError, match=r"simulated may not be passed on: Ask the laboratory"):
        publish(exported, "me/votes")
    restated(exported, shareable=None)
    with pytest.raises(ValueError, match="exported by an earlier version; export it again"):
        publish(exported, "me/votes")
    restated(exported, shareable="everything")
    with pytest.raises(ValueError, match=r"has the licence cc0-1\.0 already"):
        publish(exported, "me/votes", license="cc-by-4.0")
    assert hub.repositories == {}


def test_votes_go_up_alone_where_nothing_more_is_allowed(hub, sayings, tmp_path):
    folder = shutil.copytree(sayings, tmp_path / "export")
    mine = read_export(folder)
    restated(folder, shareable="")
    found = publish(folder, "me/votes")
    assert any("votes alone, no clip and no text: name the licence (--license)" in note for note in found.notes)
    table = pq.read_table(download(hub, "items/train.parquet", tmp_path))
    assert "text" not in table.column_names and set(table.column_names) <= {"item", "speaker", "split"}
    assert len(read_export("me/votes").votes) == len(mine.votes)
    publish(folder, "me/texts", license="cc-by-4.0")
    there = read_export("me/texts")
    assert list(there.items["text"]) == list(mine.items["text"])
    assert b"license: cc-by-4.0" in hub.repositories["datasets/me/texts"]["README.md"]


def download(hub, name, folder, repository="datasets/me/votes") -> Path:
    path = folder / "file.parquet"
    path.write_bytes(hub.repositories[repository][name])
    return path


def test_embedded_clips_go_up_only_where_they_may(hub, corpus, tmp_path):
    for shareable, inside in (("everything", True), ("votes", False)):
        reader = SimulatedCorpus(corpus.parent / "simulated")
        reader.shareable = shareable
        export_corpus(reader, tmp_path / shareable, embed_audio=True)
        found = publish(tmp_path / shareable, f"me/{shareable}")
        clips = list(read_export(f"me/{shareable}").items["audio"])
        assert all(one["bytes"] for one in clips) if inside else not any(clips)
        assert ("no clips" in found.notes) != inside
        assert (b"RIFF" in content_of(hub, f"datasets/me/{shareable}")) == inside
