"""Runs with push_to_hub, the command, and models and corpora that are named by their ids."""

import json

import pytest
import torch
import yaml

from annot_hf.cli.app import main
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.simulate import SimulatedCorpus
from annot_hf.hub.publish import publish, train_and_push
from annot_hf.models.access import find_folder, spoken
from annot_hf.models.trunks import read_trunk_config
from annot_hf.training.checkpoints import load_model
from annot_hf.training.inference import predict


def test_a_run_publishes_its_model_and_nothing_else(hub, small_run, tmp_path):
    asked = {"push_to_hub": True, "hub_model_id": "mine", "features": str(tmp_path / "features")}
    trained = train_and_push(small_run("distribution", tmp_path / "run", num_train_epochs=1, **asked))
    files = hub.repositories["models/me/mine"]
    inside = {path.relative_to(trained.model).as_posix() for path in trained.model.rglob("*") if path.is_file()}
    assert set(files) == inside and {"README.md", "plots/votes.png"} < inside and "models/me/mine" in hub.private
    assert str(tmp_path).encode() not in b"".join(files.values())
    recipe = json.loads(files["training.json"])["recipe"]
    assert recipe["question"] == "emotion" and not {"corpus", "output_dir", "hub_model_id"} & recipe.keys()
    assert "push_to_hub" not in yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())


def test_a_run_that_may_not_be_pushed_does_not_start(hub, small_run, tmp_path, monkeypatch):
    hub.repositories["models/me/public"] = {}
    run = small_run("distribution", tmp_path / "run", push_to_hub=True, hub_model_id="me/public", corpus="nowhere")
    with pytest.raises(ValueError, match="The repository me/public is public"):
        train_and_push(run)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="me/public cannot be reached, as HF_HUB_OFFLINE is set"):
        train_and_push(run)
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_go_up_stays_and_the_error_says_how_to_publish_it(hub, small_run, tmp_path):
    hub.cut = "/commit/"
    run = small_run("distribution", tmp_path / "run", num_train_epochs=1, push_to_hub=True, hub_model_id="me/mine")
    with pytest.raises(
        ValueError, match=r"is trained and not published: .* Publish it with annot-hf publish .*model me/mine"
    ):
        train_and_push(run)
    assert load_model(tmp_path / "run" / "model") and hub.repositories["models/me/mine"] == {}


def test_ids_stand_for_folders(hub, copied, corpus, tmp_path, monkeypatch, capsys):
    """At a revision, in the command and in Python; the cache serves them offline."""
    monkeypatch.chdir(tmp_path)
    first = publish(copied["distribution"], "me/mine")
    hub.repositories["models/me/mine"] |= {"config.json": b"{}"}
    publish(corpus, "me/votes")
    mine, _ = predict(copied["distribution"], corpus, features=tmp_path / "features")
    there, _ = predict("me/mine", read_export("me/votes", root=corpus.parent / "simulated"), revision=first.commit)
    torch.testing.assert_close(torch.tensor(there.probs), torch.tensor(mine.probs))
    assert there.meta["model"] == f"me/mine@{first.commit}" and (tmp_path / "features").is_dir()
    clips = sorted((corpus.parent / "simulated").rglob("*.wav"))[:2]
    main_ok("predict", "me/mine", clips[0], clips[1], "--revision", first.commit, "-o", "found.csv")
    assert len((tmp_path / "found.csv").read_text().splitlines()) == 3
    with pytest.raises(
        ValueError, match=r"config\.json has no key model_type|holds a model|cannot be read|makes no model"
    ):
        load_model("me/mine")
    main_ok("agree", "me/votes")
    assert "emotion" in capsys.readouterr().out
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_model("me/mine", revision=first.commit)[2]["corpus"] == "simulated"
    assert len(read_export("me/votes").votes) == len(read_export(corpus).votes)


def test_a_corpus_of_the_hub_is_trained_on(hub, corpus, small_run, tmp_path):
    export_corpus(SimulatedCorpus(corpus.parent / "simulated"), tmp_path / "export", embed_audio=True)
    commit = publish(tmp_path / "export", "me/votes").commit
    trained = train_and_push(
        small_run("distribution", tmp_path / "run", corpus=f"me/votes@{commit}", num_train_epochs=1)
    )
    assert trained.facts["origin"]["repository"] == f"me/votes@{commit}"
    assert b"me/votes" in (trained.model / "README.md").read_bytes() and "models/me/run" not in hub.repositories


def main_ok(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0


def test_the_command_says_what_goes_up(hub, copied, capsys):
    main_ok("publish", copied["annotator"], "me/mine", "--dry-run")
    told = capsys.readouterr().out
    assert "model me/mine would go up" in told and "model.safetensors" in told and "rater ids, salted" in told
    assert hub.repositories == {}
    main_ok("publish", copied["annotator"], "me/mine", "--public")
    told = capsys.readouterr().out
    assert "model me/mine is published" in told and f"{hub.address}/me/mine" in told and not hub.private
    with pytest.raises(SystemExit) as ended:
        main(["publish", str(copied["annotator"]), "me/mine"])
    assert ended.value.code == 2 and "is public; pass --public" in capsys.readouterr().err


def test_why_the_hub_gives_nothing_is_said_in_one_sentence(hub, checkpoints, monkeypatch):
    hub.repositories |= {"models/me/gated": {"config.json": b"{}"}, "models/me/mine": {"config.json": b"{}"}}
    hub.gated.add("models/me/gated")

    def said(name, **options):
        with pytest.raises(ValueError) as caught:
            load_model(name, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert said("me/none").startswith(
        "There is neither a folder nor a repository 'me/none'; correct the name, or log in"
    )
    assert (
        said("me/mine", revision="v2")
        == "'me/mine' has no revision 'v2' on the Hub; give a branch, tag or commit of it."
    )
    assert said("me/gated") == "'me/gated' is gated; ask for access on its page of the Hub, and log in (hf auth login)."
    assert said(checkpoints["annotator"], revision="v2").endswith("is no repository of the Hub; leave it out.")
    hub.cut = "me/mine"
    assert "the Hub cannot be reached" in said("me/mine")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = (
        "There is no folder 'me/none', it is not in the cache, and HF_HUB_OFFLINE is set; give a checkpoint folder"
    )
    assert said("me/none").startswith(offline)
    with pytest.raises(ValueError, match="'openai/whisper-base', it is not in the cache, and HF_HUB_OFFLINE is set"):
        read_trunk_config("openai/whisper-base")


def test_a_folder_comes_before_a_repository(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "mine").mkdir(parents=True)
    folder = find_folder("me/mine", "model")
    assert str(folder) == spoken(folder) == "me/mine" and not hub.requests
    # neither a path of one part nor one of three is an id
    assert [str(find_folder(name, "dataset")) for name in ("nowhere", "a/b/c", "./b")] == ["nowhere", "a/b/c", "b"]
    assert not hub.requests
