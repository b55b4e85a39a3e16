"""Controls of a model of raters: their recipes, their predictions, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from annot_hf.data.export import read_export
from annot_hf.evaluation.alignment import read_controls
from annot_hf.experiments.controls import control_recipes, train_controls
from annot_hf.models.kde import cell_masses
from annot_hf.models.measures import jsd
from annot_hf.training.inference import predict
from annot_hf.training.train import train


@pytest.fixture(scope="module")
def trained(small_run, corpus, tmp_path_factory):
    """A run of an annotator model, and its controls."""
    home = tmp_path_factory.mktemp("controls")
    run = small_run("annotator", home / "run", num_train_epochs=1)
    train(run)
    return home, train_controls(home / "run", corpus, home / "out")


def test_controls_are_the_same_recipe_but_for_one_thing(trained):
    home, found = trained
    mine = yaml.safe_load((home / "run" / "recipe.yaml").read_text())
    grid, shuffled = (json.loads((home / "out" / name / "training.json").read_text()) for name in ("grid", "shuffled"))
    changed = {key for key in mine | shuffled["recipe"] if mine.get(key) != shuffled["recipe"].get(key)}
    assert changed - {"corpus", "output_dir"} == {"votes.shuffle_raters"} and shuffled["votes"] == "raters shuffled"
    changed = {key for key in mine | grid["recipe"] if mine.get(key) != grid["recipe"].get(key)}
    assert changed - {"corpus", "output_dir"} == {
        "model",
        "rater_head",
        "rating_loss",
        "distribution_weight",
        "schedule.tasks",
    }
    assert list(found) == ["grid", "shuffled"]
    assert not len(found["grid"].rater_items) and len(found["shuffled"].rater_items)


def test_finished_controls_are_read(trained, corpus, monkeypatch):
    home, found = trained
    monkeypatch.setattr("annot_hf.training.train.train", None)
    again = train_controls(home / "run", corpus, home / "out")
    for name, one in found.items():
        np.testing.assert_array_equal(again[name].probs, one.probs)
    mine, _ = predict(home / "run" / "model", corpus)
    read = read_controls(home / "out", mine)
    assert list(read) == ["grid", "shuffled"] and read["grid"].items.tolist() == found["grid"].items.tolist()
    with pytest.raises(ValueError, match=f"No folder in {home / 'run'} holds predictions of a control on split 'test'"):
        read_controls(home / "run", mine)
    other = replace(mine, meta=mine.meta | {"model_sha256": "another"})
    with pytest.raises(ValueError, match="are those of another training than that of the predictions"):
        read_controls(home / "out", other)
    mine.meta["corpus_digest"] = "another"
    with pytest.raises(ValueError, match="The control grid in .* predicts another corpus than the predictions"):
        read_controls(home / "out", mine)


def test_the_kernel_of_the_consensus_is_chosen_on_validation(trained, corpus):
    home, _ = trained
    facts = json.loads((home / "run" / "model" / "training.json").read_text())
    found, targets = predict(home / "run" / "model", read_export(corpus), split="validation")
    assert found.meta["consensus_width"] == facts["consensus_width"]
    width = facts["consensus_width"]
    assert 0.05 <= width <= 1
    scores = {
        one: jsd(
            cell_masses(found.consensus[:, None], bins=4, bandwidth=one).reshape(len(found), -1), targets.probs
        ).mean()
        for one in (width, width * 0.9, width * 1.1)
    }
    assert min(scores, key=scores.get) == width


def test_what_only_raters_have_is_not_in_the_grid():
    values = {"model": "annotator", "raters": "raters.csv", "learning_rate": 0.1}
    assert control_recipes(values, "r")["grid"] == {"model": "distribution", "learning_rate": 0.1}
    with pytest.raises(ValueError, match="so it is a control itself; give the run that it belongs to"):
        control_recipes(values | {"votes.shuffle_raters": True}, "r")


def test_only_a_model_of_raters_has_controls(tmp_path, corpus):
    with pytest.raises(ValueError, match="holds no recipe.yaml; give the output_dir of a training that has ended"):
        train_controls(tmp_path, corpus, tmp_path / "out")
    with pytest.raises(ValueError, match="r.yaml trains a distribution model, which has no raters; give the run of an"):
        control_recipes({"trunk": "log-mel"}, "r.yaml")
    assert "push_to_hub" not in control_recipes({"model": "annotator", "push_to_hub": True}, "r.yaml")["shuffled"]
