"""What a run overwrites and what of it leaves: its own, and nothing else."""

import pytest

from annot_hf.training.checkpoints import checkpoints_of, clear_run
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import member_runs, train


def test_training_alone_pushes_nothing(small_run, tmp_path):
    run = small_run("distribution", tmp_path / "run", push_to_hub=True, hub_model_id="me/mine")
    with pytest.raises(ValueError, match="push_to_hub is true, and train writes to this machine alone; call annot_hf"):
        train(run)
    assert (
        not (tmp_path / "run").exists()
        and run.unpushed.values | {"push_to_hub": True, "hub_model_id": "me/mine"} == run.values
    )


def test_members_push_nothing(sayings, bert_folder, tmp_path):
    from annot_hf.data.export import read_export

    values = {"corpus": str(sayings), "trunk": str(bert_folder), "output_dir": str(tmp_path), "num_members": 2}
    run = load_recipe("seedbert", values | {"push_to_hub": True, "hub_model_id": "me/mine", "hub_private_repo": True})
    alone = load_recipe("seedbert", values)
    corpus = read_export(sayings)
    assert run.pushes and not run.training.push_to_hub
    assert [member.values for member in member_runs(run, corpus)] == [one.values for one in member_runs(alone, corpus)]


@pytest.mark.parametrize(
    "name", ["model/notes.txt", "model/config.json", "model", "model.part/notes.txt", "recipe.yaml", "started.json"]
)
def test_what_a_user_keeps_where_a_run_would_write_stays(name, small_run, tmp_path):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ValueError, match="which this package did not write"):
        train(small_run("distribution", tmp_path / "run"))
    assert path.read_text() == "mine" and len([one for one in (tmp_path / "run").rglob("*") if one.is_file()]) == 1


def test_what_a_user_calls_a_checkpoint_is_not_removed_as_one_that_was_cut_off(small_run, tmp_path):
    path = tmp_path / "run" / "checkpoint-7" / "notes.txt"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ValueError, match="checkpoint-7 is no complete checkpoint, and nothing says that this package"):
        train(small_run("distribution", tmp_path / "run"), resume=True)
    assert [one.name for one in (tmp_path / "run").rglob("*") if one.is_file()] == ["notes.txt"]


def test_an_earlier_model_is_replaced_and_what_lies_with_it_is_not(small_run, tmp_path):
    first = train(small_run("distribution", tmp_path / "run"))
    (tmp_path / "run" / "notes.txt").write_text("mine")
    clear_run(tmp_path / "run")
    assert not checkpoints_of(tmp_path / "run")
    again = train(small_run("distribution", tmp_path / "run", seed=1))
    assert again.model == first.model and again.metrics != first.metrics
    (again.model / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"model holds README\.md, which this package did not write"):
        clear_run(tmp_path / "run")
    assert (again.model / "README.md").read_text() == (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert checkpoints_of(tmp_path / "run")
