"""The command line: help with examples, errors of one line, and the whole way on a tiny corpus."""

import gc
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from small_runs import bert_folder  # noqa: F401 - a fixture
from typer.testing import CliRunner

from annot_hf import __version__
from annot_hf.cli import app as cli, steps
from annot_hf.data.simulate import simulate_corpus
from annot_hf.training.recipe import describe_recipe, load_recipe, recipe_names

COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
SMALL = [
    "augmentation.copies=0",
    "num_train_epochs=1",
    "conv_channels=[4, 4, 4]",
    "hidden_size=8",
    "pooling_size=4",
    "embedding_size=6",
    "use_cpu=true",
    "disable_tqdm=true",
]


def run(capsys, *words):
    """Exit status, standard output and standard error of a command."""
    try:
        cli.main([str(word) for word in words])
        status = 0
    except SystemExit as end:
        status = end.code or 0
    return status, *capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"annot-hf {command}" in " ".join(result.output.split("Example:")[1].split())


def test_recipes_are_listed_in_a_line_each(capsys):
    status, out, _ = run(capsys, "recipe", "list")
    lines = out.splitlines()
    assert status == 0 and [line.split(":")[0] for line in lines] == recipe_names()
    assert 'uncertainty-m90-filter: Row "M90 Filter" of the table of arXiv 2606.27536.' in lines


def keys_shown(out, indent=""):
    """Type and value of each key listed, each with a meaning below it, in lines of at most 80 columns."""
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [number for number, line in enumerate(lines) if re.match(rf"{indent}[\w.]+: \S", line)]
    assert all(lines[number + 1].startswith(f"{indent}    ") for number in heads)
    return dict(lines[number].strip().split(": ", 1) for number in heads)


def test_help_of_train_lists_every_key_with_type_default_and_meaning(capsys):
    status, out, _ = run(capsys, "train", "--help")
    shown = keys_shown(out, "  ")
    assert status == 0
    for name in recipe_names():
        for key, (found, _) in describe_recipe(name).items():
            assert key in shown and " ".join(found.meaning.split())[:30] in " ".join(out.split()), key
    assert (
        shown["schedule.newbob_factor"] == "float = 0.9"
        and shown["output_dir"] == "str | None = 'runs/{date}-{recipe}'"
    )
    assert "data_seed" not in shown
    headings = [line for line in out.splitlines() if line[:1].isalpha()]
    assert headings[:2] == ["Data, question and model", "target: How targets are made of votes"]
    assert "Options of model seedbert" in headings and headings[-1] == "Options of the library's Trainer"


@pytest.mark.parametrize("name", ["uncertainty-m90-filter", "simulated-annotator", "seedbert-lora", "qwen2-audio"])
def test_every_key_of_a_recipe_is_shown_with_type_value_and_meaning(capsys, name):
    status, out, _ = run(capsys, "recipe", "show", name, "schedule.newbob_factor=5e-1", "schedule.newbob=compose")
    shown = keys_shown(out)
    assert status == 0
    assert set(load_recipe(name).values) <= set(shown)
    assert shown["curriculum.by"] == "batch | corpus | threshold = 'batch'"
    assert shown["head_seed"] == "int | None = None"
    assert shown["schedule.newbob_factor"] == "float = 0.5 (default 0.9)"
    assert shown["metric_for_best_model"].startswith("str | None = ")
    assert ("rater_head" in shown) == (name == "simulated-annotator") == ("conv_channels" in shown)
    assert ("lora_layers" in shown) == (name == "seedbert-lora")
    assert run(capsys, "recipe", "show", "uncertaint")[0] == 2


def test_all_verbs_are_there():
    flow = ["quickstart", "corpus", "agree", "train", "predict", "report", "results", "crossval", "onboard"]
    assert [command for command in COMMANDS if command in flow] == flow
    code = "import sys; from annot_hf.cli import app; app.app(['--help'], standalone_mode=False); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    places = [shown.index(f"│ {command} ") for command in COMMANDS]
    assert places == sorted(places)
    # which only the help of train loads, for its list of keys
    assert "torch" not in shown.split()


def test_garbage_is_collected_again_once_a_command_has_loaded():
    with pytest.raises(KeyError), steps.loading():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled() and gc.get_freeze_count()
    gc.unfreeze()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nothing"], "There is no recipe 'nothing'"),
        (
            ["train", "speech-distribution"],
            "The recipe names no corpus; give the folder or Hub id of an exported corpus as --c",
        ),
        (["train", "speech-distribution", "learning_rat=1"], "unknown key 'learning_rat'"),
        (["train", "speech-distribution", "corpus=nowhere"], "nowhere is not an exported corpus"),
        (["predict", "nowhere", "--corpus", "nowhere", "--out", "out"], "nowhere is not a checkpoint folder"),
        (["report", "nowhere", "--corpus", "nowhere", "--out", "out"], "nowhere"),
        (["agree", "nowhere"], "nowhere is not an exported corpus"),
        (["corpus", "nowhere.py", "--root", "nowhere", "--out", "out"], "nowhere"),
        (["quickstart", "--root", "nowhere"], "--corpus and --root go together"),
        (["train", "speech-distribution", "conv_channels=[/b]"], "conv_channels is '/b'"),
        (["train", "speech-distribution", "conv_channels=[a, [/b]]"], "conv_channels is"),
    ],
)
def test_errors_are_one_line_and_status_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, shown, error = run(capsys, *words)
    assert status == 2 and message in error and "Writing" not in shown
    assert error.startswith("Error") and error.count("\n") == 1


def test_what_nobody_foresaw_is_one_line_and_a_file(capsys, monkeypatch, tmp_path):
    """Without keys of the environment, tokens, and words for the terminal."""
    monkeypatch.setenv("SOME_API_KEY", "very-secret")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def broken(folder):
        token = "hf_" + "x" * 30
        raise KeyError(f"very-secret {token} http://me:word@host \x1b[31mred")

    monkeypatch.setattr("annot_hf.data.export.read_export", broken)
    status, _, error = run(capsys, "agree", "folder")
    (kept,) = tmp_path.glob("annot-hf-*.log")
    assert status == 1 and error.startswith("Error: KeyError") and error.count("\n") == 1 and str(kept) in error
    assert "Traceback" in kept.read_text() and "broken" in kept.read_text()
    for text in (error, kept.read_text()):
        assert not any(word in text for word in ("very-secret", "hf_xxx", "me:word", "\x1b"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "mkstemp", lambda **options: (_ for _ in ()).throw(OSError(28, "No space left")))
    status, _, error = run(capsys, "agree", "folder")
    assert status == 1 and "Traceback" in error and "No space left" in error


def test_the_version_is_that_of_the_package(capsys):
    assert run(capsys, "--version")[:2] == (0, f"annot-hf {__version__}\n")


def test_a_package_that_is_missing_is_named(capsys, monkeypatch):
    """As torch is where only what runs without it is installed."""

    def lacking(folder):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("annot_hf.data.export.read_export", lacking)
    status, _, error = run(capsys, "agree", "folder")
    said = "The package torch is not installed; install it, or all that annot-hf needs (pip install annot-hf)."
    assert status == 2 and error == f"Error: {said}\n"


def test_an_error_without_words_has_its_name(capsys, monkeypatch):
    def broken(folder):
        raise ValueError

    monkeypatch.setattr("annot_hf.data.export.read_export", broken)
    assert run(capsys, "agree", "folder")[2] == "Error: ValueError\n"


def test_wrong_usage_is_status_2(capsys):
    status, _, error = run(capsys, "predict", "model")
    assert status == 2 and "--corpus" in error and "Traceback" not in error


def test_an_error_in_a_process_of_its_own_has_no_traceback(tmp_path):
    command = [sys.executable, "-m", "annot_hf", "agree", "a [bold]folder[/bold]"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "a [bold]folder[/bold] is not an exported corpus" in result.stderr


@pytest.fixture(scope="module")
def tiny_simulation():
    """Corpora are simulated tiny."""

    def small(folder, **larger):
        return simulate_corpus(folder, speakers=3, clips_per_speaker=4, annotators=4, ratings=(2, 3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("annot_hf.data.simulate.simulate_corpus", small)
        yield


@pytest.fixture(scope="module")
def walked(tmp_path_factory, tiny_simulation):
    """The quickstart on a tiny simulated corpus."""
    out = tmp_path_factory.mktemp("walk") / "out"
    with pytest.raises(SystemExit) as end:
        cli.main(["quickstart", "--out", str(out), *SMALL])
    assert not end.value.code
    return out


def test_quickstart_goes_the_whole_way(walked):
    parts = {"simulated", "corpus", "features", "run", "predictions", "controls", "newcomers", "report"}
    assert parts <= {path.name for path in walked.iterdir()}
    assert {"report.json", "report.md", "report.html"} <= {path.name for path in (walked / "report").iterdir()}
    assert json.loads((walked / "run" / "model" / "training.json").read_text())["corpus"] == "simulated"
    assert yaml.safe_load((walked / "run" / "recipe.yaml").read_text())["num_train_epochs"] == 1
    models = list(walked.rglob("model"))
    assert len(models) == 4 and all((model / "README.md").is_file() for model in models)
    assert "model-index" in (walked / "run" / "model" / "README.md").read_text()


def test_the_report_of_the_quickstart_says_it_all(walked):
    told = json.loads((walked / "report" / "report.json").read_text())
    assert told["controls"]["systems"] == ["model", "alone", "grid", "shuffled", "best"]
    assert told["newcomers"]["systems"] == ["model", "alone", "best"]
    assert told["newcomers"]["counts"]["rater_votes_consensus_fallback"] == 0
    assert "each rater's own head" in told["verdict"] or "knowing the rater" in told["verdict"]
    page = (walked / "report" / "report.html").read_text()
    assert page.count("<audio controls") == 3 and page.count('src="data:audio/wav;base64,UklGR') == 3
    heads = [
        "Where people disagree most",
        "<h2>Plots",
        "Does knowing the rater help?",
        "<h3>Biases of raters",
        "A new rater",
    ]
    places = [page.index(head) for head in (*heads, "Predicted distributions against the votes")]
    assert places == sorted(places)


def test_controls_of_a_run_are_reported(walked, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    predictions, corpus = walked / "predictions", walked / "corpus"
    told = ("--corpus", corpus, "--out", tmp_path / "out")
    status, _, error = run(capsys, "controls", walked / "run", "--corpus", corpus, "--out", walked / "controls")
    assert status == 0, error
    status, output, error = run(capsys, "report", predictions, *told, "--controls", walked / "controls")
    assert status == 0 and "In numbers" in output and "Gap closed" in output, error
    assert "Ids shuffled" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    status, _, error = run(capsys, "report", predictions, predictions, *told, "--controls", walked / "controls")
    assert status == 2 and "--controls needs a single run" in error
    status, _, error = run(capsys, "report", predictions, predictions, *told)
    assert status == 2 and f"{predictions} is given twice; compare different runs." in error
    status, _, error = run(capsys, "report", predictions, *told, "--newcomers", walked / "newcomers" / "predictions")
    assert status == 2 and "--newcomers are those of a simulation; give its folder as --truth." in error


def test_what_may_not_be_passed_on_stays_out_of_the_page(walked, capsys, tmp_path):
    shutil.copytree(walked / "corpus", tmp_path / "corpus")
    path = tmp_path / "corpus" / "corpus.json"
    facts = json.loads(path.read_text())
    assert facts["shareable"] == "everything"
    path.write_text(json.dumps(facts | {"shareable": "nothing"}))
    words = ["report", walked / "predictions", "--corpus", tmp_path / "corpus", "--out", tmp_path / "out"]
    for option, heard in (([], 0), (["--listen"], 3)):
        status, _, error = run(capsys, *words, *option)
        page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert status == 0 and page.count("<audio controls") == heard, error
        assert ("`--listen` adds it" in page) == (not heard)


def test_runs_are_named_by_what_sets_them_apart(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    paths = [Path(name) for name in ("runs/a/predictions", "runs/b/predictions", "runs/b/c/predictions")]
    assert steps._run_names(paths[:2]) == ["a", "b"]
    assert steps._run_names(paths) == ["a", "b", "b/c"]
    assert steps._run_names([Path("runs/a"), Path("runs/a/b")]) == ["runs/a", "b"]
    assert steps._run_names([Path("x")]) == ["x"] and steps._run_names([Path("x"), Path("x")]) == ["x", "x"]


def test_onboard_counts_the_new_raters_and_their_answers(walked, capsys, tmp_path):
    votes = tmp_path / "votes.csv"
    votes.write_text("item,annotator,question,value\ns001_c001,new,valence,2\ns001_c001,new,emotion,sad\n")
    model, out = walked / "run" / "model", tmp_path / "model"
    status, output, error = run(capsys, "onboard", model, votes, "--corpus", walked / "corpus", "--out", out)
    assert status == 0 and str(out) in output, error
    assert re.search(r"raters onboarded\W+1\W", output) and re.search(r"votes on other questions\W+1\W", output)


def test_quickstart_leaves_what_it_did_not_write(walked, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    out = shutil.copytree(walked, tmp_path / "out")
    before = sorted(path for path in (out / "run").rglob("*"))
    status, _, error = run(capsys, "quickstart", "--out", out, *SMALL, "learning_rat=1")
    assert status == 2 and "unknown key" in error
    assert sorted((out / "run").rglob("*")) == before
    (out / "run" / "started.json").unlink()  # nothing says that it is a run
    status, _, error = run(capsys, "quickstart", "--out", out, *SMALL)
    assert status == 2 and "which this package did not write" in error
    assert set(before) - set((out / "run").rglob("*")) == {out / "run" / "started.json"}
    other = shutil.copytree(walked, tmp_path / "other")
    (other / "run" / "notes.txt").write_text("mine")
    status, _, error = run(capsys, "quickstart", "--out", other, *SMALL)
    assert status == 0 and (other / "run" / "notes.txt").read_text() == "mine", error


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("report", "report.md"),
        ("report", "report.json"),
        ("report", "items.csv"),
        ("report", "plots/reliability.png"),
        ("predict", "predictions.json"),
        ("predict", "predictions.parquet"),
        ("predict", "raters.parquet"),
        ("corpus", "votes.csv"),
        ("crossval", "crossval.md"),
        ("results", "results.json"),
    ],
)
def test_no_command_overwrites_what_it_did_not_write(command, name, walked, capsys, tmp_path, repository):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    corpus, model = walked / "corpus", walked / "run" / "model"
    (tmp_path / "plan.yaml").write_text("recipe: speech-distribution\nseeds: [0]\nsystems: {a: {question: emotion}}\n")
    words = {
        "report": [walked / "predictions", "--corpus", corpus],
        "predict": [model, "--corpus", corpus],
        "corpus": [repository / "annot_hf" / "data" / "simulate.py", "--root", walked / "simulated"],
        "crossval": ["speech-distribution", "--corpus", corpus],
        "results": [tmp_path / "plan.yaml", "--corpus", corpus],
    }[command]
    status, _, error = run(capsys, command, *words, "--out", tmp_path / "out")
    assert status == 2 and ("which this package did not write" in error or "is left alone" in error), error
    assert path.read_text() == "mine" and [one for one in tmp_path.rglob("out/**/*") if one.is_file()] == [path]


def test_predict_and_report_may_be_repeated(walked, capsys, tmp_path):
    for _ in range(2):
        words = [walked / "run" / "model", "--corpus", walked / "corpus", "--out", tmp_path / "predictions"]
        assert run(capsys, "predict", *words)[0] == 0
        words = [tmp_path / "predictions", "--corpus", walked / "corpus", "--out", tmp_path / "report"]
        assert run(capsys, "report", *words)[0] == 0
        (tmp_path / "predictions" / "predictions.json").write_text('{"format": ')  # as a killed process may leave it


def test_a_report_is_on_the_corpus_that_was_predicted(walked, capsys, tmp_path, repository):
    simulate_corpus(tmp_path / "simulated", speakers=6, seed=7)
    script = repository / "annot_hf" / "data" / "simulate.py"
    assert run(capsys, "corpus", script, "--root", tmp_path / "simulated", "--out", tmp_path / "other")[0] == 0
    words = ["report", walked / "predictions", "--out", tmp_path / "report", "--corpus"]
    status, _, error = run(capsys, *words, tmp_path / "other")
    assert status == 2 and "is not that export; name the corpus that was predicted" in error
    status, _, error = run(capsys, *words, walked / "corpus", walked / "predictions")
    assert status == 2 and "is given twice; compare different runs" in error
    (tmp_path / "report").write_text("mine")
    status, _, error = run(capsys, *words, walked / "corpus")
    assert status == 2 and "is a file where a folder is needed" in error


def test_names_in_a_corpus_command_no_terminal(tmp_path, capsys):
    (tmp_path / "odd.py").write_text(
        "import pandas as pd\n"
        "from annot_hf import Question, VoteCorpus, VoteTable\n"
        "ODD = '\\x1b]0;title\\x07'\n"
        "class Odd(VoteCorpus):\n"
        "    name, questions = 'odd' + ODD, (Question.category('mood' + ODD, ['a', 'b']),)\n"
        "    def read_items(self):\n"
        "        return pd.DataFrame({'item': ['x' + ODD, 'y' + ODD], 'text': 'words', 'split': 'train'})\n"
        "    def read_votes(self):\n"
        "        return VoteTable.from_counts(self.questions[0], ['x' + ODD], [[2, 1]])\n"
    )
    for words in (
        ["corpus", tmp_path / "odd.py", "--root", tmp_path, "--out", tmp_path / "out"],
        ["agree", tmp_path / "out"],
    ):
        status, shown, error = run(capsys, *words)
        assert status == 0 and "]0;title" in shown and all(map(str.isprintable, shown.splitlines())), error


def test_agreement_of_several_answers_is_shown(tmp_path, capsys):
    from annot_hf.data.corpus import VoteCorpus
    from annot_hf.data.export import export_corpus
    from annot_hf.data.questions import Question
    from annot_hf.data.votes import VoteTable

    class Tagged(VoteCorpus):
        name = "tagged"

        def read_items(self):
            return pd.DataFrame({"item": ["x", "y"], "text": ["one", "two"], "split": "train"})

        def read_votes(self):
            tags = Question.category("tags", ("a", "b"), multiple=True)
            said = {"item": list("xxyy"), "annotator": ["ann", "ben"] * 2, "value": ["a", "a", "b", "b"]}
            return VoteTable.from_columns(tags, **said)

    export_corpus(Tagged(tmp_path), tmp_path / "out")
    status, shown, _ = run(capsys, "agree", tmp_path / "out")
    row = next(line for line in shown.splitlines() if "tags" in line)
    assert status == 0 and "1.000 1 pair " in row and "per label" in row


def test_each_step_on_its_own(walked, capsys, tmp_path):
    corpus = walked / "corpus"
    status, shown, _ = run(capsys, "agree", corpus)
    assert status == 0 and "activation" in shown
    words = ["speech-distribution", "--corpus", corpus, "--out", tmp_path / "run", "question=emotion", *SMALL]
    status, shown, error = run(capsys, "train", *words)
    assert status == 0, error
    assert "jsd" in shown and str(tmp_path / "run" / "model") in shown
    longer = ["num_train_epochs=2" if word == "num_train_epochs=1" else word for word in words]
    assert run(capsys, "train", *longer, "--resume")[0] == 0
    predictions = tmp_path / "predictions"
    status, shown, error = run(capsys, "predict", tmp_path / "run" / "model", "--corpus", corpus, "--out", predictions)
    assert status == 0 and "items predicted" in shown, error
    words = [predictions, "--corpus", corpus, "--out", tmp_path / "report", "--truth", walked / "simulated"]
    status, shown, error = run(capsys, "report", *words)
    assert status == 0 and (tmp_path / "report" / "report.html").is_file(), error
    status, _, error = run(
        capsys, "predict", tmp_path / "run" / "model", "--corpus", corpus, "--out", predictions, "--split", "dev"
    )
    assert status == 2 and "has no split 'dev'" in error


def test_a_run_without_a_folder_gets_a_dated_one_and_resumes_there(walked, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["speech-distribution", f"corpus={walked / 'corpus'}", "question=emotion", *SMALL]
    status, _, error = run(capsys, "train", *words, "--resume")
    assert status == 2 and "runs holds no run of recipe speech-distribution; name the folder to resume" in error
    monkeypatch.setattr("annot_hf.training.recipe.date", SimpleNamespace(today=lambda: date(2026, 11, 28)))
    folder = "runs/2026-11-28-speech-distribution"
    for made in (folder, f"{folder}-2"):
        status, shown, error = run(capsys, "train", *words)
        assert status == 0 and shown.startswith(f"Writing to {made}\n"), error
        assert shown.endswith(f"{tmp_path / made / 'model'}\n")
    longer = ["num_train_epochs=2" if word == "num_train_epochs=1" else word for word in words]
    status, shown, error = run(capsys, "train", *longer, "--resume")
    assert status == 0 and shown.startswith(f"Resuming {folder}-2\n"), error
    status, _, error = run(capsys, "train", *words, "--corpus", walked / "corpus")
    assert status == 2 and "The override corpus is given twice; remove one." in error


def test_results_and_crossval_print_their_scores_and_name_the_page(walked, capsys, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text("recipe: speech-distribution\nseeds: [3]\nsystems: {soft: {question: emotion}}\n")
    told = ["--corpus", walked / "corpus", "--resamples", "10", "--out", tmp_path / "out"]
    status, shown, error = run(capsys, "results", plan, *told, "--robustness", "0", *SMALL)
    assert status == 0 and "Run 1 of 1: system soft, seed 3" in shown, error
    table = shown[shown.index("Scores") :]
    assert "│ soft" in table and "│ marginal" in table and "JSD (nats)" in table
    assert shown.endswith(f"{tmp_path / 'out' / 'results.html'}\n") and (tmp_path / "out" / "results.html").is_file()
    few = ["--folds", "2", "--repeats", "1", "--test-folds", "1", "--group", "item"]
    status, shown, error = run(capsys, "crossval", plan, *told, *few, *SMALL)
    assert status == 0 and "Run 1 of 1: system soft, repeat 0, fold 0, seed 3" in shown, error
    tables = shown[shown.index("Labels") :]
    assert tables.count("│ soft") == 2 and "Distributions" in tables and "; 1 x 1 folds." in tables
    assert shown.endswith(f"{tmp_path / 'out' / 'crossval.html'}\n") and (tmp_path / "out" / "crossval.html").is_file()


def test_crossval_prints_what_a_file_of_folds_leaves_out(capsys, tmp_path, monkeypatch):
    counts = {
        "n_evaluated": 1200,
        "folds": [{}] * 3,
        "groups": 40,
        "unit": "speaker",
        "excluded": {"items in no fold": 1003},
    }
    found = SimpleNamespace(counts=counts), tmp_path / "crossval.md"
    monkeypatch.setattr("annot_hf.experiments.crossval.crossval", lambda *given, **options: found)
    monkeypatch.setattr("annot_hf.report.systems.crossval_tables", lambda found: [])
    words = ["--corpus", tmp_path, "--out", tmp_path, "--folds", tmp_path / "folds.csv", "--repeats", "1"]
    status, shown, error = run(capsys, "crossval", "text-ldl", *words)
    said = "1,200 items of 40 groups, by speaker; 1 x 3 folds. Left out: 1,003 items in no fold.\n"
    assert status == 0 and shown == f"{said}{tmp_path / 'crossval.html'}\n", error


def test_benchmark_names_the_page_to_open(capsys, tmp_path, monkeypatch):
    found = SimpleNamespace(counts={"n_evaluated": 1200, "runs": {"soft": 2}}), tmp_path / "results.md"
    monkeypatch.setattr("annot_hf.experiments.shared_tasks.run_benchmark", lambda *given, **options: found)
    status, shown, error = run(capsys, "benchmark", "lewidi2023", "--root", tmp_path, "--out", tmp_path)
    assert status == 0 and shown == f"1,200 items; runs: soft 2\n{tmp_path / 'results.html'}\n", error


def wide_table(home, items=40):
    """A wide table of five raters, and short clips of three pitches."""
    said = np.random.default_rng(0).integers(0, 10, (items, 5))
    rows = ["clip,ann,ben,cleo,dora,eli"]
    for number in range(items):
        label = ("anger", "calm", "joy")[number % 3]
        rows.append(f"c{number:02d}," + ",".join(label if one < 7 else "calm" for one in said[number]))
        path = home / "clips" / f"c{number:02d}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * np.sin(np.arange(4800) * (0.1 + 0.1 * (number % 3))), 16_000)
    (home / "votes.csv").write_text("\n".join(rows) + "\n")
    return home / "votes.csv"


def test_a_spreadsheet_and_a_folder_of_clips_give_a_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    words = [wide_table(tmp_path), "--audio", tmp_path / "clips", "--out", tmp_path / "out", "--question", "emotion"]
    status, shown, error = run(capsys, "quickstart", *words, *SMALL)
    assert status == 0, error
    assert "read as: wide table, 5 raters, question `emotion`, 3 labels" in shown
    assert re.search(r"splits drawn by clip, seed 0\W+3\W", shown)
    told = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert told["controls"]["systems"] and told["title"].startswith("votes: emotion")
    assert shown.rstrip().endswith(str(tmp_path / "out" / "report"))


def test_corpus_reads_votes_proposes_spellings_and_merges_them(tmp_path, capsys):
    path = wide_table(tmp_path, items=12)
    path.write_text(path.read_text().replace("joy", "Joy", 2))
    words = ["corpus", path, "--audio", tmp_path / "clips", "--out", tmp_path / "out"]
    status, shown, error = run(capsys, *words)
    assert (
        status == 0
        and "4 labels" in shown
        and "Spellings that look like another name: 1. Edit" in " ".join(shown.split())
    ), error
    aliases = tmp_path / "out.labels.yaml"
    assert '"Joy": "joy"' in aliases.read_text()
    before = aliases.read_text()
    status, shown, _ = run(capsys, *words)
    assert (
        status == 0
        and "is there already and is left alone" in " ".join(shown.split())
        and aliases.read_text() == before
    )
    status, shown, error = run(capsys, *words, "--aliases", aliases)
    assert status == 0 and "3 labels" in shown and "'Joy' as 'joy' (2)" in shown, error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["corpus", "votes.csv", "--root", ".", "--out", "out"], "--root is for corpus scripts, and votes.csv is none"),
        (["corpus", "own.py", "--out", "out"], "own.py is a corpus script; name the folder that it reads as --root"),
        (["corpus", "own.py", "--root", ".", "--audio", ".", "--out", "out"], "--audio is for files of votes"),
        (["corpus", "votes.csv", "--out", "out"], "pass the clips' folder as --audio, or name the column as --text"),
        (["corpus", "votes.csv", "--format", "wied", "--out", "out"], "format is 'wied' (did you mean 'wide'?)"),
        # a folder with the name of a packaged script
        (["corpus", "emodb", "--root", ".", "--out", "out"], "emodb: erkennung.txt or listener_votes.csv is not in"),
        (["corpus", "emodb", "--out", "out"], "emodb holds no file that ends in .csv"),
        (["quickstart", "votes.csv", "--corpus", "own.py"], "The corpus is named twice"),
        (
            ["quickstart", "texts.csv", "--out", "out"],
            "Texts need an encoder, and sentence-transformers/all-mpnet-base-v2 of",
        ),
    ],
)
def test_what_does_not_go_together_is_said(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").touch()
    (tmp_path / "emodb").mkdir()
    (tmp_path / "votes.csv").write_text("clip,rater,label\na,ann,x\na,ben,y\n")
    texts = [f"so {n} it goes,{rater},{label}" for n in range(9) for rater, label in ("as", "bt")]
    (tmp_path / "texts.csv").write_text("\n".join(["text,rater,label", *texts]) + "\n")
    status, _, error = run(capsys, *words)
    assert status == 2 and message in error, error


def test_texts_of_a_table_are_trained_with_an_encoder(tmp_path, capsys, bert_folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    rows = [f"a{n},so {n} good,{label}" for n in range(12) for label in ("x", "y", "xy"[n % 2])]
    (tmp_path / "votes.tsv").write_text("\n".join(["id,Sentence,label", *rows]).replace(",", "\t"))
    words = [f"trunk={bert_folder}", "num_train_epochs=1", "use_cpu=true", "disable_tqdm=true"]
    status, shown, error = run(capsys, "quickstart", tmp_path / "votes.tsv", "--out", tmp_path / "out", *words)
    assert status == 0 and "one row a vote, anonymous votes, question `label`, 2 labels" in shown, error
    assert (tmp_path / "out" / "report" / "report.html").is_file()


def test_clips_outside_any_corpus_are_predicted_into_a_table(walked, capsys, tmp_path):
    model, clips = walked / "run" / "model", walked / "simulated"
    tables = {}
    for suffix, read in (
        (".csv", pd.read_csv),
        (".parquet", pd.read_parquet),
        (".jsonl", lambda path: pd.read_json(path, lines=True)),
    ):
        path = tmp_path / f"predicted{suffix}"
        status, shown, error = run(capsys, "predict", model, clips, "-o", path)
        assert status == 0 and shown.rstrip().endswith(str(path)) and "12 items" in shown, error
        tables[suffix] = read(path)
        assert {"item", "activation", "valence", "entropy", "consensus valence"} <= set(tables[suffix])
        assert len(tables[suffix]) == 12 and np.allclose(
            tables[suffix]["valence"], tables[".csv"]["valence"], atol=1e-6
        )
    status, shown, error = run(capsys, "predict", model, walked / "corpus")
    assert status == 0 and shown.startswith("item,activation,valence,entropy,"), error
    in_order = tables[".csv"].assign(item=tables[".csv"]["item"].map(lambda name: name.rsplit("/")[-1].split(".")[0]))
    # The distribution is drawn by an item's name, and the consensus is not.
    printed = pd.read_csv(io.StringIO(shown)).set_index("item")["consensus valence"]
    assert np.allclose(in_order.set_index("item")["consensus valence"].reindex(printed.index), printed, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Give either clips or texts to predict, or --corpus"),
        (["a.wav", "--corpus", "data"], "Give either clips or texts to predict, or --corpus"),
        (["a.wav", "-o", "out.xls"], "out.xls ends in .xls; name a file that ends in .csv, .parquet, .jsonl"),
        (["a.wav", "--condition", "telephone"], "--condition is for a split of a corpus, which is named as --corpus"),
        (["a.wav", "--explain", "0"], "--explain is for a split of a corpus"),
        (["a.wav", "--split", "test"], "--split is for a split of a corpus"),
        (["a.wav", "--robustness", "240"], "--robustness is for a split of a corpus"),
        (["a.wav", "--features", "f", "--timeline"], "--features is for a split of a corpus"),
        (["a.wav", "--condition-seed", "1"], "--condition-seed is for a split of a corpus"),
        (["a.wav", "--window", "4"], "--window is for a timeline, which --timeline asks for; leave it out."),
        (["--corpus", "data", "--out", "out", "--hop", "1"], "--hop is for a timeline"),
        (["--corpus", "data", "--out", "out", "--column", "c"], "--column is for tables of clips or texts"),
        (["--corpus", "data", "--out", "out.csv"], "--out is out.csv, a table, and --corpus writes a folder"),
        (["a.wav", "--timeline", "--hop", "0"], "hop is 0 s and window 4 s; give a hop above 0"),
        (["a.wav", "--timeline", "--window", "nan"], "hop is nan s and window nan s"),
        (["--corpus", "data"], "--corpus needs a folder to write; name it as --out"),
    ],
)
def test_what_to_predict_must_be_clear(words, message, capsys):
    status, _, error = run(capsys, "predict", "model", *words)
    assert status == 2 and message in error
