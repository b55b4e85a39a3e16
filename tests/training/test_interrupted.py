"""Runs that are killed, resumed, moved or started twice; those that are killed are processes of their own."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from killed import run as run_killed
from safetensors.torch import load_file, save_file
from test_train import weights

from annot_hf.cli import steps as cli_steps
from annot_hf.data.export import read_export
from annot_hf.data.predictions import Predictions
from annot_hf.experiments import plans as plans_module
from annot_hf.experiments.crossval import crossval
from annot_hf.experiments.plans import predictions_of
from annot_hf.report.report import build_report
from annot_hf.training import checkpoints as outputs_module, train as runs_module
from annot_hf.training.checkpoints import checkpoints_of
from annot_hf.training.inference import predict
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import train, train_members

STEP, SAVING = "annot_hf.training.trainer:OpinionTrainer.training_step", "annot_hf.training.train:save_model"
STEPS = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}  # 3 steps an epoch
# rates so high that the first validation pass remains the best
STOPS = {"num_train_epochs": 9, "learning_rate": 0.3, "schedule.patience": 3}
RUNS = {
    "epochs": ({"num_train_epochs": 3}, STEP, 5),
    "early stopping": (STOPS, STEP, 8),
    "early stopping, over": (STOPS | STEPS, SAVING, 1),
    "max_steps inside an epoch, over": ({"max_steps": 4, "load_best_model_at_end": False} | STEPS, SAVING, 1),
    "persistent workers": (
        {"num_train_epochs": 3, "dataloader_num_workers": 1, "dataloader_persistent_workers": True},
        STEP,
        8,
    ),
    "a validation pass at the start": (
        {"num_train_epochs": 4, "eval_on_start": True, "schedule.newbob": "compose"},
        STEP,
        8,
    ),
}


# forks processes that have the libraries loaded, which takes longer than what they do
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["annot_hf.cli.app", "annot_hf.training.train"])


def killed(function, calls, *words):
    """Run a command in a process that must be killed at that call."""
    process = FORKS.Process(target=run_killed, args=(function, calls, [*map(str, words)]))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


def killed_run(run, function, calls, folder):
    """Train a run in a process that is killed."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(run.values))
    killed(function, calls, "train", recipe)


def last_weights(folder):
    last = checkpoints_of(folder)[-1]
    return last.name, load_file(last / "model.safetensors")


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_ends_where_it_would_have(name, small_run, tmp_path):
    options, function, calls = RUNS[name]
    options = {
        "save_total_limit": 9,
        "lr_scheduler_type": "constant",
    } | options  # the last checkpoint tells, not the best
    straight = train(small_run("distribution", tmp_path / "straight", **options))
    again = small_run("distribution", tmp_path / "again", **options)
    killed_run(again, function, calls, tmp_path)
    assert (tmp_path / "again" / "training.lock").is_file() and not (tmp_path / "again" / "model").exists()
    resumed = train(again, resume=True)
    assert_equal(weights(resumed.model), weights(straight.model))
    assert resumed.metrics == straight.metrics
    (step, found), (last, expected) = (last_weights(tmp_path / run) for run in ("again", "straight"))
    assert step == last
    assert_equal(found, expected)
    assert int(step.removeprefix("checkpoint-")) < 27  # nine epochs
    assert not (tmp_path / "again" / "training.lock").exists()


def test_more_patience_goes_on_where_less_had_ended(small_run, tmp_path):
    ended = train(small_run("distribution", tmp_path, **STOPS | {"schedule.patience": 1, "save_total_limit": 9}))
    assert checkpoints_of(tmp_path)[-1].name == "checkpoint-6"
    train(
        small_run("distribution", tmp_path, **STOPS | {"schedule.patience": 2, "save_total_limit": 9}),
        resume=True,
    )
    assert checkpoints_of(tmp_path)[-1].name == "checkpoint-9" and ended.model.is_dir()


@pytest.fixture(scope="module")
def straight(small_run, tmp_path_factory):
    """Folder of a run of three epochs with all its checkpoints."""
    home = tmp_path_factory.mktemp("straight")
    train(small_run("distribution", home, num_train_epochs=3, save_total_limit=9))
    return home


@pytest.fixture
def cut(straight, small_run, tmp_path):
    """A copy of it as if it had been killed in the third epoch, and its run."""
    shutil.copytree(straight, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "model")
    (tmp_path / "cut" / "recipe.yaml").unlink()
    shutil.rmtree(tmp_path / "cut" / "checkpoint-9")
    return small_run("distribution", tmp_path / "cut", num_train_epochs=3, save_total_limit=9), tmp_path / "cut"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_checkpoint_that_lacks_a_file_is_not_gone_on_from(name, empty, cut, straight, caplog):
    run, folder = cut
    (folder / "checkpoint-6" / name).unlink()
    if empty:
        (folder / "checkpoint-6" / name).touch()
    resumed = train(run, resume=True)
    assert f"{folder / 'checkpoint-6'} was cut off" in caplog.text
    assert_equal(weights(resumed.model), weights(straight / "model"))


def test_a_best_checkpoint_that_is_gone_is_said(cut):
    run, folder = cut
    path = folder / "checkpoint-6" / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"best_global_step": 2}))
    with pytest.raises(ValueError, match="needs checkpoint-2, the best so far, which is gone or damaged; restore it"):
        train(run, resume=True)
    assert path.is_file()


def test_another_number_of_processes_does_not_go_on(cut):
    run, folder = cut
    state = folder / "checkpoint-6" / "rng_state.pth"
    for rank in range(2):
        shutil.copy(state, state.with_name(f"rng_state_{rank}.pth"))
    state.unlink()
    with pytest.raises(
        ValueError, match="checkpoint-6 was written by 2 processes, and 1 would resume it; start as many"
    ):
        train(run, resume=True)
    assert (folder / "checkpoint-6").is_dir()


def test_a_run_that_was_moved_keeps_its_best_checkpoint(straight, small_run, tmp_path):
    """And not that of the folder where it was, which may be another run's by now."""
    moved = shutil.copytree(straight, tmp_path / "moved")
    path = moved / "checkpoint-9" / "trainer_state.json"
    state = json.loads(path.read_text())
    elsewhere = shutil.copytree(
        straight / f"checkpoint-{9 if state['best_global_step'] < 9 else 3}", tmp_path / "other"
    )
    path.write_text(json.dumps(state | {"best_model_checkpoint": str(elsewhere)}))
    resumed = train(small_run("distribution", moved, num_train_epochs=3, save_total_limit=9), resume=True)
    assert_equal(weights(resumed.model), weights(straight / "model"))


@pytest.mark.parametrize("option", ["save_only_model", "ignore_data_skip"])
def test_what_cannot_go_on_exactly_is_said(option, small_run, tmp_path):
    options = {"num_train_epochs": 1, option: True}
    train(small_run("distribution", tmp_path, **options))
    with pytest.raises(ValueError, match=f"{option} is true, with which a run cannot be resumed exactly"):
        train(small_run("distribution", tmp_path, **options), resume=True)


def test_a_clock_that_goes_back_costs_no_checkpoint(cut, small_run):
    _, folder = cut
    late = (2**31, 2**31)
    for path in checkpoints_of(folder):
        os.utime(path, late)
    (folder / "started.json").unlink()
    train(small_run("distribution", folder, num_train_epochs=3, save_total_limit=2), resume=True)
    assert checkpoints_of(folder)[-1].name == "checkpoint-9" and len(checkpoints_of(folder)) == 2


def test_a_damaged_record_beside_checkpoints_is_said(cut):
    run, folder = cut
    for text, what in (
        ("", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        ('{"day": 1}', "of something else than a run"),
    ):
        (folder / "started.json").write_text(text)
        with pytest.raises(
            ValueError, match=rf"started\.json is {what}, and nothing else records what .* restore it, or"
        ):
            train(run, resume=True)
    for path in checkpoints_of(folder):
        shutil.rmtree(path)
    (folder / "checkpoint-1").mkdir()
    (folder / "started.json").unlink()
    train(run, resume=True)


@pytest.fixture
def other_process(monkeypatch):
    """Keeps a folder as another process that works there does, until the test ends."""
    monkeypatch.setattr(outputs_module, "_PATIENCE", 0.1)
    started = []

    def hold(folder):
        script = "import sys, filelock; lock = filelock.SoftFileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
        command = [sys.executable, "-c", script, str(folder / "training.lock")]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        started[-1].stdout.readline()
        return started[-1].pid

    yield hold
    for process in started:
        process.communicate(b"\n")


def test_a_folder_that_another_process_works_in_is_left_alone(small_run, corpus, tmp_path, other_process):
    pid, run = other_process(tmp_path), small_run("distribution", tmp_path, num_train_epochs=1)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(run.values))
    said = rf"training\.lock says that process {pid} on .* works in this folder; wait for it"
    for start in (lambda: train(run), lambda: predictions_of(run, read_export(corpus))):
        with pytest.raises(ValueError, match=said):
            start()
    assert {path.name for path in tmp_path.iterdir()} == {"training.lock", "recipe.yaml"}


def test_predictions_killed_between_their_files_are_none(checkpoints, corpus, features, tmp_path, small_run):
    words = ["predict", checkpoints["annotator"], "--corpus", corpus, "--out", tmp_path, "--features", features]
    killed("annot_hf.data.predictions:replace_file", 3, *words)
    with pytest.raises(ValueError, match=r"no predictions\.json"):
        Predictions.load(tmp_path)


def test_a_report_that_was_cut_off_holds_no_earlier_pages_and_is_made_again(checkpoints, corpus, features, tmp_path):
    predict(checkpoints["distribution"], corpus, features=features)[0].save(tmp_path / "predictions")
    words = ["report", str(tmp_path / "predictions"), "--corpus", str(corpus), "--out", str(tmp_path / "report")]
    pages = {"report.json", "report.md", "report.html", "items.csv", "plots"}
    for _ in range(2):  # into an empty folder, and over a report
        killed("annot_hf.report.pages:save_figure", 2, *words)
        assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.json", "plots"}
        cli_steps.write_report([tmp_path / "predictions"], corpus, tmp_path / "report")
        assert {path.name for path in (tmp_path / "report").iterdir()} == pages


@pytest.mark.parametrize("name", ["done.json", "predictions-test/predictions.json", "predictions-test/raters.parquet"])
def test_an_empty_file_of_a_finished_run_stops_nobody(name, small_run, corpus, tmp_path, caplog):
    run, exported = small_run("distribution", tmp_path, num_train_epochs=1), read_export(corpus)
    for keep in (True, False):
        expected = predictions_of(run, exported, keep_model=keep)
        (tmp_path / name).write_text("")
        found = predictions_of(run, exported, keep_model=keep)
        assert (found.items == expected.items).all() and (found.probs == expected.probs).all()
    assert (tmp_path / name).stat().st_size and name.rpartition("/")[2] in caplog.text


def test_predictions_of_a_run_that_is_not_done_do_not_count(small_run, corpus, tmp_path):
    exported = read_export(corpus)
    first = predictions_of(small_run("distribution", tmp_path, num_train_epochs=1), exported, keep_model=False)
    (tmp_path / "done.json").unlink()
    other = predictions_of(small_run("distribution", tmp_path, num_train_epochs=1, seed=1), exported)
    assert (first.probs != other.probs).any()


def test_a_model_folder_is_whole_or_the_earlier_one(small_run, tmp_path, monkeypatch):
    run = small_run("distribution", tmp_path, num_train_epochs=1)
    before = weights(train(run).model)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def cut_off(*_, **__):
            raise KeyboardInterrupt

        patch.setattr("annot_hf.training.checkpoints.json.dumps", cut_off)
        train(run, resume=True)
    assert_equal(weights(tmp_path / "model"), before)
    train(run, resume=True)
    assert not (tmp_path / "model.part").exists()


@pytest.fixture
def replaceable(bert_folder, tmp_path):
    """A copy of the tiny BERT, and what puts other weights in its place, of the same size and time."""
    folder = shutil.copytree(bert_folder, tmp_path / "trunk")

    def replace():
        path = folder / "model.safetensors"
        about, found = path.stat(), load_file(path)
        save_file({name: value + 0.5 for name, value in found.items()}, path, {"format": "pt"})
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))

    return folder, replace


@pytest.fixture
def text_values(replaceable):
    return {
        "trunk": str(replaceable[0]),
        "max_steps": 2,
        "embedding_size": 6,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }


def test_a_trunk_that_is_replaced_makes_another_run(replaceable, text_values, sayings, tmp_path):
    run = load_recipe("text-bert", text_values | {"corpus": str(sayings), "output_dir": str(tmp_path / "run")})
    digest = train(run).facts["trunk"]
    assert json.loads((tmp_path / "run" / "started.json").read_text())["trunk"] == digest
    train(run, resume=True)
    replaceable[1]()
    with pytest.raises(
        ValueError, match="another recipe or corpus: the trunk's weights changed; resume with what it was"
    ):
        train(run, resume=True)


def test_a_trunk_that_is_replaced_between_folds_gives_no_table(
    replaceable, text_values, sayings, tmp_path, monkeypatch
):
    stock = plans_module.train
    with monkeypatch.context() as patch:
        patch.setattr(plans_module, "train", lambda *given, **options: (stock(*given, **options), replaceable[1]()))
        words = [f"{name}={json.dumps(value)}" for name, value in text_values.items()]
        options = {"folds": 2, "repeats": 1, "n_resamples": 20}
        with pytest.raises(
            ValueError, match="The trunk's weights were replaced between runs of 'text-bert', so they cannot share"
        ):
            crossval("text-bert", sayings, tmp_path / "out", words, **options)
    assert not (tmp_path / "out" / "crossval.json").exists()
    with pytest.raises(ValueError, match="a run of another plan or corpus .the trunk's weights changed.; name another"):
        crossval("text-bert", sayings, tmp_path / "out", words, **options)


def test_a_trunk_that_is_replaced_between_members_makes_no_ensemble(
    replaceable, text_values, sayings, tmp_path, monkeypatch
):
    values = text_values | {"corpus": str(sayings), "output_dir": str(tmp_path / "run"), "num_members": 2}
    del values["embedding_size"]
    run = load_recipe("seedbert", values)

    stock = runs_module.train
    monkeypatch.setattr(runs_module, "train", lambda *given, **options: (stock(*given, **options), replaceable[1]()))
    with pytest.raises(
        ValueError, match=f"The weights of {replaceable[0]} were replaced between members, so that they form no"
    ):
        train_members(run, read_export(sayings))


def test_scores_on_what_a_model_was_made_with_say_so(checkpoints, corpus, features, tmp_path, caplog):
    exported = read_export(corpus)
    swapped = {"train": "test", "test": "train", "validation": "validation"}
    view = exported.with_splits(
        {item: swapped[split] for item, split in exported.items[["item", "split"]].to_numpy()}, {"x": 1}
    )
    said = {}
    for name, where, split in (
        ("apart", exported, "test"),
        ("swapped", view, "test"),
        ("chosen by", exported, "validation"),
        ("renamed", replace(view, name="fork"), "test"),
    ):
        predictions, targets = predict(checkpoints["distribution"], where, split=split, features=features)
        found = predictions.save(tmp_path / name)
        report = build_report(Predictions.load(found), targets, tmp_path / "report", title="", n_resamples=20)
        said[name] = report.summary
        record = json.loads((tmp_path / "report" / "report.json").read_text())
        assert f"{record['verdict']} {record['summary']}" == report.summary
    assert said["apart"].startswith("The model is") and "Predictions for 5 items" in said["apart"]
    assert said["swapped"].startswith("Not a test: 5 of 5 items are ones that the model was trained on. The model is")
    assert said["chosen by"].startswith("Not a test: 5 of 5 items are ones that its checkpoint was selected on. The m")
    renamed = "Perhaps not a test: by their names, 5 of 5 items are ones that the model was trained on, in corpus 'simulated'."
    assert said["renamed"].startswith(renamed)
    assert "Not a test: 5 of 5 items are ones that the model was trained on." in caplog.text
    names = json.loads((checkpoints["distribution"] / "training.json").read_text())["splits"]["train"]["names"]
    assert len(names) == 5 * 12
