"""The wheel as a user gets it: built from a copy of the package, installed outside the checkout, used from elsewhere."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

TRACKED = ("annot_hf", "dataset_scripts", "setup.py", "pyproject.toml", "README.md", "LICENSE")

# `sys.path` keeps the dependencies of the environment and loses the checkout, which is installed there as editable.
USE = """
import sys
from pathlib import Path
import annot_hf
assert Path(annot_hf.__file__).is_relative_to({site!r}), annot_hf.__file__
import numpy as np
for name in annot_hf.__all__:
    getattr(annot_hf, name)
from annot_hf import Question, VoteTable, make_targets
votes = VoteTable.from_columns(
    [Question.category("emotion", ["anger", "happy", "sad"])],
    item=["a", "a", "a", "b"], question="emotion", value=["anger", "anger", "sad", "happy"],
)
targets = make_targets(votes, "emotion")
assert np.allclose(targets.probs, [[2 / 3, 0, 1 / 3], [0, 1, 0]])
import annot_hf.report.report
from jinja2 import PackageLoader
templates = ["explanations.html.j2", "report.html.j2", "report.md.j2", "style.css.j2", "tables.js.j2", "words.yaml"]
assert [name for name in PackageLoader("annot_hf").list_templates() if "/" not in name] == templates
from annot_hf.proxies.prompts import Prompts
assert Prompts().render(Question.category("mood", ["low"]), "voice", transcript=None, speaker=None).user
ours = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "annot_hf"]
assert all(Path(file).is_relative_to({site!r}) for file in ours), ours
print("used")
"""


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    """The wheel, built from a copy so that nothing is left in the checkout."""
    pytest.importorskip("build", reason="build is not installed; pip install build")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in TRACKED:
        path = repository / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy(path, source / name)
    # decoys: folders of the repository that no wheel may hold
    for folder in ("tests", "metrics/jsd", "spaces", "benchmarks"):
        (source / folder).mkdir(parents=True)
        (source / folder / "__init__.py").touch()
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with the wheel installed in it, and nothing else."""
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, str(wheel)]
    installed = subprocess.run(command, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr[-2000:]
    return target


def run(site, tmp_path, *arguments):
    """Run Python from an empty folder with the installed wheel before everything else."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1", "COLUMNS": "120"}
    return subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_contents(wheel, repository):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = repository / "annot_hf"
    data = (
        "evaluation/*.yaml",
        "plans/*.yaml",
        "recipes/*.yaml",
        "recipes/accelerate/*.yaml",
        "templates/*.j2",
        "templates/*.yaml",
        "templates/annotate/*",
        "templates/export/*",
        "templates/hub/*",
    )
    patterns = ("**/*.py", "*.pyi", "py.typed", *data)
    wanted = {path.relative_to(repository).as_posix() for pattern in patterns for path in package.glob(pattern)}
    assert {"annot_hf/py.typed", "annot_hf/cli/app.py"} < wanted
    assert any(name.endswith(".yaml") for name in wanted) and any(name.endswith(".j2") for name in wanted)
    scripts = {path.relative_to(repository).as_posix() for path in (repository / "dataset_scripts").glob("*/*.*")}
    wanted |= {f"annot_hf/{name}" for name in scripts if "__pycache__" not in name}
    assert {name for name in names if name.startswith("annot_hf/")} == wanted
    assert all(name.startswith(("annot_hf/", "annot_hf-")) for name in names)


def test_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    text = archive.read(metadata).decode()
    assert "Name: annot-hf\n" in text and "Requires-Python: >=3.11\n" in text
    assert re.search(r"^License(-Expression)?: Apache-2\.0$", text, re.MULTILINE)
    assert re.search("^Requires-Dist: torch>=[0-9.]+$", text, re.MULTILINE)
    assert set(re.findall("^Provides-Extra: (.+)$", text, re.MULTILINE)) == {
        "agree",
        "alm",
        "app",
        "audio",
        "peft",
        "dev",
    }
    (entry_points,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
    assert "annot-hf = annot_hf.cli.app:main" in archive.read(entry_points).decode()


def test_the_readme_installs_what_runs_without_torch(wheel, repository):
    """What it leaves out comes with datasets, or is for training."""
    needed = re.search(r"pip install (datasets .*) && pip install --no-deps", (repository / "README.md").read_text())[1]
    by_name = [re.match(r"[\w-]+", line)[0].lower() for line in requires("datasets") if "extra" not in line]
    given = {*needed.split(), *by_name}
    core = re.search(r"core = \[(.*?)\]", (repository / "setup.py").read_text(), re.DOTALL)[1]
    core = set(re.findall(r'"([\w-]+)', core))
    assert set(needed.split()) <= core <= given


def test_the_types_are_declared(wheel):
    """Editors see the lazily bound names through the stub."""
    stub = zipfile.ZipFile(wheel).read("annot_hf/__init__.pyi").decode()
    import annot_hf

    assert all(name in stub for name in annot_hf.__all__)


def test_votes_to_targets_from_the_installed_wheel(site, tmp_path):
    ran = run(site, tmp_path, "-c", USE.format(site=str(site)))
    assert ran.returncode == 0 and ran.stdout.strip() == "used", ran.stderr[-2000:]


def test_corpus_scripts_are_found_by_name_in_the_installed_wheel(site, tmp_path):
    code = "from annot_hf.data.corpus import load_corpus_script, shipped_scripts\n"
    code += "print(shipped_scripts()['cremad'])\nfor name in shipped_scripts(): print(load_corpus_script(name).name)"
    ran = run(site, tmp_path, "-c", code)
    assert ran.returncode == 0, ran.stderr[-2000:]
    place, *names = ran.stdout.split()
    assert Path(place).is_relative_to(site) and {"cremad", "convabuse", "emozionalmente"} <= set(names)


def test_help_from_the_installed_wheel(site, tmp_path):
    ran = run(site, tmp_path, "-m", "annot_hf", "--help")
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert all(command in ran.stdout for command in ("quickstart", "corpus", "agree", "train", "predict", "report"))


def test_recipes_from_the_installed_wheel(site, tmp_path):
    code = "from annot_hf.training.recipe import RECIPES, load_recipe, recipe_names; print(RECIPES)\n"
    code += "for name in recipe_names(): load_recipe(name, ['output_dir=out'])"
    ran = run(site, tmp_path, "-c", code)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert Path(ran.stdout.splitlines()[0]).is_relative_to(site)
