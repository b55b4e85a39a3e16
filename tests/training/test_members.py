"""Independent members: one run each, kept, shared, resumed, and assembled; and what they attend to."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModel

from annot_hf.data.export import read_export
from annot_hf.evaluation.resampling import Resamples
from annot_hf.evaluation.scoring import measure_entropy_ranks
from annot_hf.experiments.crossval import crossval
from annot_hf.hub.cards import write_model_card
from annot_hf.hub.contents import gather
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.modeling_seedbert import SeedBert
from annot_hf.training import checkpoints as checkpoints_module, train as train_module
from annot_hf.training.checkpoints import FACTS, load_model
from annot_hf.training.inference import predict
from annot_hf.training.inputs import make_processor
from annot_hf.training.recipe import load_recipe, members_folder
from annot_hf.training.train import build_model, member_runs, train, train_members


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
        values |= overrides
        return load_recipe(name, {key: value for key, value in values.items() if value is not ...})

    return make


def train_members_by(run, corpus, stand_in):
    """Train the members with something in place of `train`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "train", stand_in)
        train_members(run, corpus)


BOTH = "model: seedbert\ndistribution: mean_softmax\nsmooth: false\n"


def folders_of(run):
    return sorted(members_folder(run).iterdir())


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
    ranks = [measure_entropy_ranks({"a": p}, q, Resamples(n=0)).draws["a"][0] for p in (predictions.probs, histogram)]
    assert ranks[0] == ranks[1]


def test_init_differs_in_the_fresh_layers_alone_and_all_in_the_order_too(ensemble, sayings):
    corpus = read_export(sayings)
    one, two, _ = member_runs(ensemble(), corpus)
    assert (one.training.seed, two.training.seed) == (0, 0) and one.recipe.head_seed != two.recipe.head_seed
    models = [build_model(run, corpus.targets("train", "severity"), corpus)[0] for run in (one, two)]
    state = [model.state_dict() for model in models]
    same = {name for name in state[0] if torch.equal(state[0][name], state[1][name])}
    assert {name.split(".")[0] for name in same} == {"trunk"} and not any(name.startswith("head") for name in same)
    assert all(name in same for name in state[0] if name.startswith("trunk"))
    one, two, _ = member_runs(ensemble("text-ensemble"), corpus)
    assert one.training.seed != two.training.seed and one.recipe.head_seed is two.recipe.head_seed is None


def test_an_ensemble_of_more_takes_the_members_that_are_there(ensemble, tmp_path, caplog):
    shared = {"ensemble.folder": str(tmp_path / "members")}
    train(ensemble(num_members=2, **shared))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "members").glob("*/model/training.json")}
    train(ensemble(out="more", num_members=3, distribution="mean_softmax", **shared))
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "members").glob("*/model/training.json")}
    assert len(before) == 2 and len(after) == 3 and before.items() <= after.items()
    assert "2 of 3 members are trained already" in caplog.text
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
        train_members_by(run, read_export(run.recipe.corpus), failing)
    assert seeds == [1000, 2000, 3000]
    (second,) = [folder for folder in folders_of(run) if "seed2000" in folder.name]
    assert "out of memory" in (second / "failed.txt").read_text()
    with pytest.raises(ValueError, match="of an earlier run; resume it"):
        train(run)
    trained = []
    original = train_module._train_member
    monkeypatch.setattr(
        train_module, "_train_member", lambda member, *rest: trained.append(member) or original(member, *rest)
    )
    assert train(run, resume=True).model.is_dir()
    assert [member.recipe.head_seed for member in trained] == [2000]
    assert not (second / "failed.txt").exists()


@pytest.fixture
def trained(monkeypatch):
    """Seeds of the members' heads, in the order in which they are trained."""
    seeds, stock = [], train_module._train_held

    def train_held(run, *rest):
        seeds.append(run.recipe.head_seed)
        return stock(run, *rest)

    monkeypatch.setattr(train_module, "_train_held", train_held)
    return seeds


def fails(member, **options):
    raise RuntimeError("out of memory")


def cut_off(file, size=1000):
    file.write_bytes(file.read_bytes()[:size])


def test_damaged_members_are_trained_again(ensemble, sayings, caplog, trained):
    run = ensemble()
    before = predict(train(run).model, sayings)[0].probs
    first, second, third = (folder / "model" for folder in folders_of(run))
    cut_off(first / "model.safetensors")
    cut_off(second / "tokenizer.json")
    kept = (third / "training.json").stat().st_mtime_ns
    trained.clear()
    model = train(run, resume=True).model
    assert f"{first.parent} is damaged and is trained again: {first} holds no readable safetensors" in caplog.text
    assert f"{second.parent} is damaged and is trained again: {second} holds no tokenizer" in caplog.text
    assert "1 of 3 members are trained already" in caplog.text
    assert trained == [1000, 2000]
    assert (third / "training.json").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(predict(model, sayings)[0].probs, before)


def test_a_damaged_member_whose_training_fails_is_not_there(ensemble, monkeypatch):
    run = ensemble(num_members=1)
    train(run)
    (folder,) = folders_of(run)
    cut_off(folder / "model" / "config.json", 50)
    with pytest.raises(ValueError, match="1 of 1 members failed"):
        train_members_by(run, read_export(run.recipe.corpus), fails)
    assert train_module._damage(member_runs(run, read_export(run.recipe.corpus))[0]) is None


@pytest.mark.parametrize("earlier", [True, False])
def test_a_member_killed_while_its_checkpoint_was_written_goes_on(ensemble, sayings, caplog, earlier):
    run = ensemble(num_members=1, max_steps=3)  # an epoch is a step
    before = predict(train(run).model, sayings)[0].probs
    (folder,) = folders_of(run)
    shutil.rmtree(folder / "model")
    (cut,) = [folder / "checkpoint-2"]
    if earlier:
        member = member_runs(run, read_export(sayings))[0]
        train_to(member, 1)
    cut.mkdir()
    (cut / "config.json").write_text("{")
    model = train(run, resume=True).model
    assert f"{cut} was cut off while it was written, and is removed" in caplog.text
    np.testing.assert_array_equal(predict(model, sayings)[0].probs, before)
    assert not list(folder.glob("checkpoint-*"))


def train_to(run, step):
    """Train a run, and leave its checkpoint as if it had been killed after it."""
    stock = train_module.OpinionTrainer.training_step

    def training_step(self, *given):
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return stock(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module.OpinionTrainer, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            train(run)


def test_what_stands_in_a_members_place_is_that_members_trouble(ensemble):
    run = ensemble(num_members=2)
    corpus, seeds = read_export(run.recipe.corpus), []
    first = members_folder(run) / member_runs(run, corpus)[0].training.output_dir.rpartition("/")[2]
    first.parent.mkdir(parents=True)
    first.write_text("")
    with pytest.raises(ValueError, match=f"1 of 2 members failed.*: {first} is no folder .* move it away; the oth"):
        train_members_by(run, corpus, lambda member, **_: seeds.append(member.recipe.head_seed))
    assert seeds == [2000] and first.is_file()

    def spoiling(member, **options):
        shutil.rmtree(member.training.output_dir)
        open(member.training.output_dir, "w").close()
        raise RuntimeError("out of memory")

    with pytest.raises(ValueError, match="1 of 1 members failed.* with: RuntimeError: out of memory; the others"):
        train_members_by(ensemble(out="other", num_members=1), corpus, spoiling)


def lock_of(folder, pid):
    """What a process that trains a member leaves in its folder when it is killed; the number is that of another one."""
    script = "import os, sys, filelock; lock = filelock.SoftFileLock(sys.argv[1]); lock.acquire(); os._exit(0)"
    subprocess.run([sys.executable, "-c", script, str(folder / "training.lock")], check=True)
    lock = folder / "training.lock"
    _, host, *_ = lock.read_text().split()
    if pid is not None:
        lock.write_text(f"{pid}\n{host}\n")


def test_a_member_that_another_process_trains_is_left_alone(ensemble, monkeypatch, trained):
    monkeypatch.setattr(checkpoints_module, "_PATIENCE", 0.1)
    run = ensemble(num_members=2)
    folders = [one.training.output_dir for one in member_runs(run, read_export(run.recipe.corpus))]
    mine = Path(folders[0])
    (mine / "checkpoint-1").mkdir(parents=True)
    live = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        lock_of(mine, live.pid)
        with pytest.raises(
            ValueError, match=rf"training\.lock says that process {live.pid} on .* works in this folder"
        ) as error:
            train(run, resume=True)
    finally:
        live.communicate(b"\n")
    assert "1 of 2 members failed" in str(error.value) and "failed.txt" not in str(error.value)
    assert (mine / "checkpoint-1").is_dir() and (mine / "training.lock").is_file()
    assert trained == [2000]
    trained.clear()
    train(run, resume=True)  # now that process is gone
    assert trained == [1000] and not (mine / "training.lock").exists()


def test_the_lock_of_a_process_that_is_gone_counts_for_nothing(ensemble, trained):
    run = ensemble(num_members=1)
    folder = Path(member_runs(run, read_export(run.recipe.corpus))[0].training.output_dir)
    folder.mkdir(parents=True)
    lock_of(folder, None)
    train(ensemble(num_members=1, **{"ensemble.folder": str(folder.parent)}))
    assert trained == [1000] and not (folder / "training.lock").exists()


def test_a_member_that_another_process_trained_meanwhile_is_taken(ensemble):
    run = ensemble(num_members=1)
    train(run)
    member = member_runs(run, read_export(run.recipe.corpus))[0]
    assert train_module._train_member(member, None) == ""  # which trains nothing


class Processes(SimpleNamespace):
    """What accelerate says in one of two processes."""

    num_processes = 2

    def wait_for_everyone(self):
        self.waits = getattr(self, "waits", 0) + 1


@pytest.mark.parametrize("main", [True, False])
def test_of_several_processes_the_main_one_writes_and_a_failure_ends_all(ensemble, monkeypatch, main):
    state = Processes(is_main_process=main)
    for module in (train_module, checkpoints_module):
        monkeypatch.setattr(module, "PartialState", lambda: state)
    run = ensemble(num_members=2)
    corpus = read_export(run.recipe.corpus)
    folder = Path(member_runs(run, corpus)[0].training.output_dir)
    folder.mkdir(parents=True)
    found = []

    def saving(member, **options):
        place = Path(member.training.output_dir)
        (place / "checkpoint-1").mkdir(parents=True)
        found.append((place / "training.lock").is_file())

    train_members_by(run, corpus, saving)
    assert found == [main, main] and state.waits == 1 + 2 * 4
    assert (folder / "checkpoint-1").is_dir() is not main
    with pytest.raises(RuntimeError, match="out of memory"):
        train_members_by(run, corpus, fails)
    assert (folder / "failed.txt").exists() is main


def test_what_an_earlier_failure_said_is_replaced(ensemble):
    run = ensemble(num_members=1)
    corpus = read_export(run.recipe.corpus)
    folder = Path(member_runs(run, corpus)[0].training.output_dir)
    folder.mkdir(parents=True)
    (folder / "failed.txt").write_text("ValueError: an earlier one")
    with pytest.raises(
        ValueError, match=r"with: RuntimeError: out of memory \(the traceback is in .*failed.txt\); the oth"
    ):
        train_members_by(run, corpus, fails)
    assert "an earlier one" not in (folder / "failed.txt").read_text()


def test_going_on_with_an_ensemble(ensemble, trained):
    train(ensemble(num_members=2))
    for length in ({"max_steps": 3}, {"max_steps": 2, "num_train_epochs": 9}, {"schedule.patience": 2}):
        name = list(length)[-1]
        with pytest.raises(ValueError, match=f"was started with another {name}, and how long .*; undo the change, or"):
            train(ensemble(num_members=2, **length), resume=True)
    with pytest.raises(ValueError, match="another recipe or corpus: learning_rate changed"):
        train(ensemble(num_members=2, learning_rate=1e-3), resume=True)
    assert trained == [1000, 2000]
    model = train(ensemble(num_members=3, distribution="mean_softmax"), resume=True).model
    assert trained == [1000, 2000, 3000]
    config = load_model(model)[0].config
    assert (config.num_members, config.distribution) == (3, "mean_softmax")
    assert load_model(train(ensemble(num_members=1), resume=True).model)[0].config.num_members == 1


def test_an_assembled_folder_needs_a_processor(ensemble, sayings, bert_folder, tmp_path):
    run = ensemble(num_members=1)
    train(run)
    model = SeedBert.from_members([folder / "model" for folder in folders_of(run)])
    model.save_pretrained(tmp_path / "assembled")
    with pytest.raises(ValueError, match="assembled holds no tokenizer that can be read; save .* an ensemble's member"):
        load_model(tmp_path / "assembled")
    make_processor(model.config.trunk_config, folders_of(run)[0] / "model").save_pretrained(tmp_path / "assembled")
    assert np.isfinite(predict(tmp_path / "assembled", sayings)[0].probs).all()


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
    cached = train(ensemble(out="cached", num_members=2, **{"inputs.cache": "pooled"}, **frozen)).model
    np.testing.assert_array_equal(predict(plain, sayings)[0].probs, predict(cached, sayings)[0].probs)


@pytest.mark.parametrize("members", ["shared", "independent"])
def test_members_learn_what_was_asked_beside(ensemble, members):
    beside = {"auxiliary": "severity", "auxiliary_weight": 0.4}
    run = ensemble(members=members, question=["valence", "activation"], **{"target.method": "kde"}, **beside)
    model = SeedBert.from_pretrained(train(run).model)
    kept = model if members == "shared" else DistributionModel.from_pretrained(folders_of(run)[0] / "model")
    assert [one["name"] for one in kept.config.auxiliary_questions] == ["severity"]
    assert kept.config.auxiliary_weight == 0.4
    # members that were trained one by one are asked no more
    assert bool(model.config.auxiliary_questions) == (members == "shared")


def test_members_of_an_ensemble_have_recipes_of_their_own(ensemble, sayings, tmp_path):
    (tmp_path / "one.yaml").write_text("base: text-bert\npooling: mean\nlearning_rate: 0.5")
    (tmp_path / "two.yaml").write_text(
        "base: seedbert-shared\nnum_members: 2\ndistribution: mean_softmax\ntrunk_layer: 1\nfreeze_trunk: true\n"
        "inputs: {cache: pooled}\npooling: mean"
    )
    (tmp_path / "both.yaml").write_text(BOTH)
    names = [str(tmp_path / name) for name in ("one.yaml", "two.yaml")]
    run = ensemble(tmp_path / "both.yaml", num_members=..., **{"ensemble.recipes": names})
    one, two = run.members
    assert (one.recipe.model, one.options["pooling"], one.training.learning_rate) == ("distribution", "mean", 1e-2)
    assert (two.recipe.model, two.options["num_members"], two.recipe.inputs.cache) == ("seedbert", 2, "pooled")
    assert {member.recipe.trunk for member in run.members} == {run.recipe.trunk}
    model = train(run).model
    alone = [predict(folder / "model", sayings)[0].probs for folder in folders_of(run)]
    np.testing.assert_allclose(predict(model, sayings)[0].probs, sum(alone) / 2, atol=1e-6)
    assert SeedBert.from_pretrained(model).config.num_members == 2


def test_member_recipes_lie_beside_the_file_and_are_part_of_the_run(ensemble, tmp_path, sayings, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "both.yaml").write_text(BOTH + "ensemble: {recipes: [one.yaml, text-bert, one.yaml]}")
    one = tmp_path / "recipes" / "one.yaml"
    one.write_text("base: text-bert\npooling: mean\nhead_seed: 7\nseed: 3\npush_to_hub: true")
    monkeypatch.chdir(tmp_path)
    make = functools.partial(ensemble, "recipes/both.yaml", num_members=..., seed=5)
    run, corpus = make(), read_export(sayings)
    assert [member.options["pooling"] for member in run.members] == ["mean", "first", "mean"]
    assert [member.recipe.head_seed for member in run.members] == [1005, 2005, 3005]
    assert {member.training.seed for member in run.members} == {5} and not any(member.pushes for member in run.members)
    everything = make(**{"ensemble.differ": "all"}).members
    assert [(one.training.seed, one.recipe.head_seed) for one in everything] == [
        (1005, None),
        (2005, None),
        (3005, None),
    ]
    record = run.record(corpus)
    one.write_text("base: text-bert\npooling: attention")
    assert make().changes(record, corpus) == ["the recipes of members"]
    assert not run.changes(record, corpus)


def test_members_have_trunks_of_their_own(ensemble, sayings, bert_folder, tmp_path):
    shutil.copytree(bert_folder, tmp_path / "other")
    other = AutoModel.from_pretrained(tmp_path / "other")
    other.embeddings.word_embeddings.weight.data.mul_(2)
    other.save_pretrained(tmp_path / "other")
    for name, trunk in (("one", bert_folder), ("two", tmp_path / "other")):
        (tmp_path / f"{name}.yaml").write_text(f"base: text-bert\ntrunk: {trunk}")
    (tmp_path / "both.yaml").write_text(BOTH + "ensemble: {recipes: [one.yaml, two.yaml]}")
    model = train(ensemble(tmp_path / "both.yaml", num_members=..., trunk=...)).model
    first, second = SeedBert.from_pretrained(model).trunks
    assert not torch.allclose(first.embeddings.word_embeddings.weight, second.embeddings.word_embeddings.weight)
    # where the recipes lie is nobody's business
    card = write_model_card(model).read_text()
    assert "one.yaml" in card and str(tmp_path) not in card
    assert "over a checkpoint from a folder" in card and "and over a checkpoint from a folder" in card
    assert "log-mel" not in card
    contents = gather(model, "model", tmp_path)
    assert str(tmp_path) not in contents.files[FACTS].read_text()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_members": 2}, "ensemble.recipes is set and num_members is 2, but it names one recipe for each"),
        ({"members": "shared"}, "ensemble.recipes is set and members is shared, but it names"),
        (
            {"ensemble.recipes": ["seedbert"]},
            "seedbert: model is seedbert, members independent and distribution votes; a member is",
        ),
        ({"ensemble.recipes": ["text-davani"]}, "text-davani: model is annotator; a member is"),
        ({"ensemble.recipes": ["text-bort"]}, "no recipe 'text-bort'"),
        (
            {"ensemble.recipes": ["text-multitask"]},
            "text-multitask: disagreement is 'entropy', and a member is a whole model",
        ),
        ({"ensemble.recipes": ["adapted.yaml"]}, "adapted: lora_rank is 4, and a member is a whole model"),
        ({"ensemble.recipes": ["asks.yaml"]}, r"question is \[\] and that of the members \['valence'"),
    ],
)
def test_recipes_that_make_no_members_are_said(ensemble, tmp_path, monkeypatch, values, message):
    (tmp_path / "both.yaml").write_text(BOTH)
    for name, text in (("adapted", "lora_rank: 4"), ("asks", "question: [valence, activation]\ntarget: {method: kde}")):
        (tmp_path / f"{name}.yaml").write_text(f"base: text-bert\n{text}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        ensemble(tmp_path / "both.yaml", **{"num_members": ..., "ensemble.recipes": ["text-bert"]} | values)


@pytest.mark.parametrize("members", ["shared", "independent"])
def test_the_mean_of_members_has_the_share_that_validation_chose(ensemble, sayings, members):
    how = {"members": members, "distribution": "mean_softmax", "num_members": 2}
    smooth, plain = (train(ensemble(out=str(on), smooth=on, **how)) for on in (True, False))
    share, marginal = smooth.facts["marginal_share"], np.array(smooth.facts["marginal"])
    config = SeedBert.from_pretrained(smooth.model).config
    assert "marginal_share" not in plain.facts and config.marginal_share == share >= 0.001
    one, other = (predict(run.model, sayings, split="validation")[0].probs for run in (plain, smooth))
    np.testing.assert_allclose(other, (1 - share) * one + share * marginal, atol=1e-6)


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
        ({"ensemble.differ": "seed"}, "ensemble.differ is 'seed'; use one of init, all"),
        (
            {"schedule.unfreeze_epochs": [1], "schedule.unfreeze_layers": [1]},
            "members is lora, whose trunk is frozen, which schedule.unfreeze_epochs",
        ),
        ({"curriculum.kind": "filter"}, "curriculum.kind is for distribution models, and model is seedbert"),
        ({"head_seed": 0}, "head_seed is 0 and members is independent, but each member has a seed of its own"),
        ({"lora_rank": 8}, "lora_rank is 8 and members is independent, but only members lora have adapters"),
        ({"members": "shared", "lora_alpha": 2}, "lora_alpha is 2.0 and members is shared, but only members lora"),
        ({"members": "lora", "ensemble.differ": "all"}, "ensemble.differ is 'all' and members is lora, but it is for"),
    ],
)
def test_what_does_not_fit_is_said(ensemble, values, message):
    name = "seedbert-lora" if message.startswith("members is lora") else "seedbert"
    with pytest.raises(ValueError, match=message) as error:
        ensemble(name, **values)
    assert "\n" not in str(error.value)


def test_members_options_are_for_members(ensemble):
    with pytest.raises(ValueError, match="lora_layers is 2 and members is independent, but only members lora have"):
        ensemble("seedbert-lora", members="independent")
    with pytest.raises(
        ValueError, match="ensemble.differ is 'all' and model is distribution, but it is for independent members"
    ):
        load_recipe("text-bert", {"ensemble.differ": "all"})
    for name in ("seedbert-shared", "seedbert-lora"):  # of which each is one run
        assert ensemble(name, head_seed=3).recipe.head_seed == 3
    assert load_recipe("text-bert", {"ensemble.folder": "anywhere"}).recipe.ensemble.folder  # a plan sets it for all
    assert ensemble("text-ensemble", members="shared", **{"ensemble.differ": "init"}).options["members"] == "shared"


def test_systems_of_a_cross_validation_share_members_and_leave_none(ensemble, sayings, tmp_path, monkeypatch):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "recipe: text-bert\nsystems:\n  one: {}\n  votes: {recipe: seedbert, num_members: 1}\n"
        "  mean: {recipe: seedbert, num_members: 2, distribution: mean_softmax}\n"
    )
    trained = []
    original = train_module._train_member
    monkeypatch.setattr(
        train_module, "_train_member", lambda member, *rest: trained.append(member) or original(member, *rest)
    )
    values = ensemble().values
    words = [f"{key}={values[key]}" for key in ("trunk", "max_steps", "learning_rate", "use_cpu", "disable_tqdm")]
    found, page = crossval(plan, sayings, tmp_path / "out", words, folds=2, repeats=1, group="item", n_resamples=20)
    ceilings = {"ceiling", "ceiling, split-half"}
    assert len(trained) == 2 * 2 and set(found["jsd"]["systems"]) - ceilings == {"one", "votes", "mean", "marginal"}
    assert not list((tmp_path / "out").glob("members/*/*/*"))
    assert 'recipe: "seedbert", num\\_members: 1' in page.read_text()
    runs = [done.read_text() for done in (tmp_path / "out").glob("*/*/*/done.json")]
    assert len(runs) == 6
    crossval(plan, sayings, tmp_path / "out", words, folds=2, repeats=1, group="item", n_resamples=20)
    assert len(trained) == 4
