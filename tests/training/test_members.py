"""Independent members: one run each, kept, shared, resumed, and assembled; and what they leaned on."""

import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from annot_hf.cli import app
from annot_hf.data.export import read_export
from annot_hf.evaluation.predictions import Predictions
from annot_hf.evaluation.scoring import measure_entropy_ranks
from annot_hf.training import members as members_module, train as train_module
from annot_hf.training.crossval import crossval
from annot_hf.training.explaining import explain
from annot_hf.training.inference import load_model, predict
from annot_hf.training.members import member_runs
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import train


@pytest.fixture
def ensemble(sayings, bert_folder, tmp_path):
    """Makes a run of a packaged ensemble recipe over the tiny BERT, two steps a member."""

    def make(name="seedbert", out="run", **overrides):
        values = {
            "trunk": str(bert_folder),
            "corpus": str(sayings),
            "output_dir": str(tmp_path / out),
            "num_members": 3,
            "max_steps": 2,
            "learning_rate": 1e-2,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return load_recipe(name, values | overrides)

    return make


def folders_of(run):
    return sorted((members_module.members_folder(run)).iterdir())


def test_members_are_models_of_their_own_and_answer_as_they_do_alone(ensemble, sayings, tmp_path):
    run = ensemble()
    result = train(run)
    model, _, facts = load_model(result.model)
    assert model.config.num_members == 3 and facts["recipe"]["model"] == "seedbert"
    alone = [predict(folder / "model", sayings)[0] for folder in folders_of(run)]
    votes = np.stack([np.eye(3)[one.probs.argmax(1)] for one in alone]).mean(0)
    together, targets = predict(result.model, sayings)
    np.testing.assert_allclose(together.probs, votes, atol=2e-6)
    assert result.metrics["jsd"] > 0 and len(targets) == 6
    assert len({one.probs.tobytes() for one in alone}) == 3


def test_votes_are_scored_as_votes_alone(ensemble, sayings):
    """Only the order of tied labels comes from the mean softmax; entropies, which rank items, must not."""
    predictions, _ = predict(train(ensemble(num_members=2)).model, sayings)
    histogram = np.round(predictions.probs * 2) / 2
    np.testing.assert_allclose(predictions.probs, histogram, rtol=0, atol=2e-12)
    np.testing.assert_allclose(predictions.disagreement, 1 - (histogram**2).sum(1), atol=1e-9)
    assert predictions.disagreement_kind == "variance"
    q = np.random.default_rng(0).dirichlet(np.ones(3), len(histogram))
    ranks = [
        measure_entropy_ranks({"a": p}, q, n_resamples=0, clusters=None, seed=0).draws["a"][0]
        for p in (predictions.probs, histogram)
    ]
    assert ranks[0] == ranks[1]


def test_init_differs_in_the_fresh_layers_alone_and_all_in_the_order_too(ensemble, sayings):
    corpus = read_export(sayings)
    one, two, _ = member_runs(ensemble(), corpus)
    assert (one.training.seed, two.training.seed) == (0, 0) and one.recipe.head_seed != two.recipe.head_seed
    models = [train_module._build(run, corpus.targets("train", "severity"), [], [])[0] for run in (one, two)]
    state = [model.state_dict() for model in models]
    same = {name for name in state[0] if torch.equal(state[0][name], state[1][name])}
    assert {name.split(".")[0] for name in same} == {"trunk"} and not any(name.startswith("head") for name in same)
    assert all(name in same for name in state[0] if name.startswith("trunk"))
    one, two, _ = member_runs(ensemble("text-ensemble"), corpus)
    assert one.training.seed != two.training.seed and one.recipe.head_seed is two.recipe.head_seed is None


def test_an_ensemble_of_more_takes_the_members_that_are_there(ensemble, tmp_path, caplog):
    shared = {"member_folder": str(tmp_path / "members")}
    train(ensemble(num_members=2, **shared))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "members").glob("*/model/training.json")}
    train(ensemble(out="more", num_members=3, distribution="mean_softmax", **shared))
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "members").glob("*/model/training.json")}
    assert len(before) == 2 and len(after) == 3 and before.items() <= after.items()
    assert "2 of 3 members are there already" in caplog.text
    train(ensemble(out="other", num_members=2, learning_rate=1e-3, **shared))  # another recipe, other members
    assert len(folders_of(ensemble(**shared))) == 5


def test_a_member_that_fails_takes_no_other_with_it_and_is_trained_on_resuming(ensemble, monkeypatch):
    run, seeds = ensemble(), []

    def failing(member, **options):
        seeds.append(member.recipe.head_seed)
        if member.recipe.head_seed == 2000:
            raise RuntimeError("out of memory")
        return train(member, **options)

    with pytest.raises(ValueError, match=r"1 of 3 members failed.*seed2000.*RuntimeError: out of memory.*--resume"):
        members_module.train_members(run, read_export(run.recipe.corpus), failing)
    assert seeds == [1000, 2000, 3000]
    (second,) = [folder for folder in folders_of(run) if "seed2000" in folder.name]
    assert "out of memory" in (second / "failed.txt").read_text()
    with pytest.raises(ValueError, match="of an earlier run; go on with it"):
        train(run)
    trained = []
    original = members_module._here
    monkeypatch.setattr(
        members_module, "_here", lambda member, *rest: trained.append(member) or original(member, *rest)
    )
    assert train(run, resume=True).model.is_dir()
    assert [member.recipe.head_seed for member in trained] == [2000]
    assert not (second / "failed.txt").exists()


def test_members_in_processes_of_their_own_equal_those_trained_here(ensemble, sayings):
    here, apart = train(ensemble()).model, train(ensemble(out="apart", member_jobs=2)).model
    np.testing.assert_array_equal(predict(here, sayings)[0].probs, predict(apart, sayings)[0].probs)
    one, two = (load_model(folder)[0].state_dict() for folder in (here, apart))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_log_mel_members_have_trunks_of_their_own(small_run, corpus, tmp_path):
    values = small_run("distribution", tmp_path / "speech").values
    run = load_recipe("speech-distribution", values | {"model": "seedbert", "num_members": 2, "max_steps": 2})
    model = train(run).model
    first, second = load_model(model)[0].members
    assert not torch.equal(*(next(member.trunk.parameters()) for member in (first, second)))
    assert np.isfinite(predict(model, corpus)[0].probs).all()


def test_frozen_members_learn_from_one_cache(ensemble, sayings):
    frozen = {"freeze_trunk": True, "pooling": "mean"}
    plain = train(ensemble(num_members=2, **frozen)).model
    cached = train(ensemble(out="cached", num_members=2, cache_features="pooled", **frozen)).model
    np.testing.assert_array_equal(predict(plain, sayings)[0].probs, predict(cached, sayings)[0].probs)


@pytest.mark.parametrize("name", ["seedbert-shared", "seedbert-lora"])
def test_members_on_one_trunk_are_one_run(ensemble, sayings, name):
    result = train(ensemble(name, lora_layers=1) if "lora" in name else ensemble(name))
    predictions, _ = predict(result.model, sayings)
    np.testing.assert_allclose(predictions.probs.sum(1), 1)
    assert json.loads((result.model / "config.json").read_text())["num_members"] == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_members": 0}, "num_members is 0; it must be"),
        ({"members_differ": "seed"}, "members_differ is 'seed'; use one of init, all"),
        ({"member_jobs": -1}, "member_jobs is -1"),
        (
            {"unfreeze_epochs": [1], "unfreeze_layers": [1]},
            "members is lora, whose trunk is frozen, which unfreeze_epochs",
        ),
        ({"curriculum": "filter"}, "curriculum is for distribution models, and model is seedbert"),
    ],
)
def test_what_does_not_fit_is_said(ensemble, values, message):
    name = "seedbert-lora" if "lora" in message else "seedbert"
    with pytest.raises(ValueError, match=message):
        ensemble(name, **values)


def test_the_page_of_explanations(ensemble, sayings, tmp_path):
    model = train(ensemble(num_members=2)).model
    words = ["predict", model, "--corpus", sayings, "--out", tmp_path / "out", "--explain", 2]
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0
    page = (tmp_path / "out" / "explanations.html").read_text()
    assert page.count("<section>") == 2 and page.count("member 1, p") == 2 and "raters" in page
    predictions = Predictions.load(tmp_path / "out")
    texts = read_export(sayings).items.set_index("item")["text"]
    for one in explain(model, predictions.items, list(texts[predictions.items])):
        assert one.attention.shape == (2, len(one.offsets))
        np.testing.assert_allclose(one.attention.sum(1), 1, atol=1e-5)
        words_of = [one.text[start:end] for start, end in one.offsets if end > start]
        assert words_of == one.text.split()[:30]


def test_what_cannot_be_explained_says_so(checkpoints, corpus, tmp_path):
    words = ["predict", checkpoints["distribution"], "--corpus", corpus, "--out", tmp_path / "out", "--explain", 2]
    said = str(CliRunner().invoke(app, [str(word) for word in words]).exception)
    assert "is of type annot-distribution over annot-log-mel; explain shows the words" in said
    said = str(CliRunner().invoke(app, [str(word) for word in [*words, "--condition", "telephone"]]).exception)
    assert "--explain shows words" in said
    assert not (tmp_path / "out").exists()
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_systems_of_a_cross_validation_share_members_and_leave_none(ensemble, sayings, tmp_path, monkeypatch):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "recipe: text-bert\nsystems:\n  one: {}\n  votes: {recipe: seedbert, num_members: 1}\n"
        "  mean: {recipe: seedbert, num_members: 2, distribution: mean_softmax}\n"
    )
    trained = []
    original = members_module._here
    monkeypatch.setattr(
        members_module, "_here", lambda member, *rest: trained.append(member) or original(member, *rest)
    )
    values = ensemble().values
    words = [f"{key}={values[key]}" for key in ("trunk", "max_steps", "learning_rate", "use_cpu", "disable_tqdm")]
    found, page = crossval(plan, sayings, tmp_path / "out", words, folds=2, repeats=1, group="item", n_resamples=20)
    assert len(trained) == 2 * 2 and set(found.records["jsd"]) == {"one", "votes", "mean", "marginal"}
    assert not list((tmp_path / "out").glob("members/*/*/*"))
    assert '- votes: `recipe: "seedbert"`, `num_members: 1`' in page.read_text()
    runs = [done.read_text() for done in (tmp_path / "out").glob("*/*/*/done.json")]
    assert len(runs) == 6
    crossval(plan, sayings, tmp_path / "out", words, folds=2, repeats=1, group="item", n_resamples=20)
    assert len(trained) == 4
