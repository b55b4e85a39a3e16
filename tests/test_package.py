"""The package as a whole: what importing it costs and what it offers."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest

import annot_hf

HEAVY = ("torch", "transformers", "datasets", "pandas", "numpy", "pyarrow", "matplotlib", "scipy")
TORCH_FREE = (
    "annot_hf.data",
    "annot_hf.evaluation",
    "annot_hf.report",
    "annot_hf.cli.app",
    "annot_hf.models.measures",
    "annot_hf.models.kde",
)
SHARED_NAMES = {
    "logger": "every module logs under its own name",
    "annotate": "a command has the name of the function that it calls",
    "crossval": "a command has the name of the function that it calls",
    "onboard": "a command has the name of the function that it calls",
    "predict": "a command has the name of the function that it calls",
    "publish": "a command has the name of the function that it calls",
    "train": "a command has the name of the function that it calls",
}
SHARED_FILES = {
    "__init__.py": "every package has one",
}


def modules():
    return [
        found.name
        for found in pkgutil.walk_packages(annot_hf.__path__, "annot_hf.")
        if not found.name.endswith("__main__")
    ]


def loaded_by(statement):
    """Names of the modules in a fresh process after `statement`."""
    code = f"{statement}\nimport sys; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded_by("import annot_hf") & set(HEAVY)
    assert not loaded_by("import annot_hf.cli.app") & set(HEAVY)


def test_data_and_evaluation_never_load_torch():
    names = [name for name in modules() if name.startswith(TORCH_FREE)]
    found = loaded_by("\n".join(f"import {name}" for name in names))
    assert "annot_hf.report.report" in found and not found & {"torch", "transformers"}


def test_what_reads_an_export_does_not_load_datasets():
    found = loaded_by("import annot_hf.data.export, annot_hf.data.given_inputs")
    assert "pyarrow" in found and "datasets" not in found


@pytest.mark.parametrize("name", annot_hf.__all__)
def test_public_names_resolve_and_are_documented(name):
    value = getattr(annot_hf, name)
    assert getattr(annot_hf, name) is value and name in dir(annot_hf)
    assert inspect.getdoc(value)


def test_the_stub_lists_the_same_names_from_the_same_places():
    stub = ast.parse(Path(annot_hf.__file__).with_suffix(".pyi").read_text())
    listed = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    bound = {name: f"{home}.{name}" for name, home in annot_hf._HOME_OF.items()}
    assert listed == bound
    assert sorted(bound) == annot_hf.__all__ and len(bound) <= 33


def test_a_name_that_is_not_there_is_said():
    with pytest.raises(AttributeError, match="module 'annot_hf' has no attribute 'Vote'; it offers .*VoteTable"):
        annot_hf.Vote  # noqa: B018


@pytest.mark.parametrize("name", modules())
def test_every_public_callable_has_a_docstring(name):
    module = importlib.import_module(name)
    assert module.__doc__
    public = [
        value
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == name
    ]
    for value in public:
        if inspect.isfunction(value):
            assert inspect.getdoc(value), value
        elif inspect.isclass(value):
            assert value.__doc__, value
            for key, method in vars(value).items():
                if not key.startswith("_") and (
                    inspect.isfunction(method) or isinstance(method, property | classmethod | staticmethod)
                ):
                    assert inspect.getdoc(getattr(value, key)) or inspect.getdoc(method), f"{value}.{key}"


def test_version_is_that_of_the_metadata():
    assert version("annot-hf") == annot_hf.__version__


def top_level_names(path):
    """Names that a file defines at its top level; imported names are not among them."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))


def test_no_name_is_defined_in_two_modules_and_no_file_name_stands_in_two_wings():
    root, homes, wings = Path(annot_hf.__file__).parent, defaultdict(set), defaultdict(set)
    for path in sorted(root.rglob("*.py")):
        wings[path.name].add(str(path.parent.relative_to(root)))
        for name in top_level_names(path):
            homes[name].add(str(path.relative_to(root)))
    assert len(homes) > 1000
    assert not {name: files for name, files in homes.items() if len(files) > 1 and name not in SHARED_NAMES}
    assert not {name: places for name, places in wings.items() if len(places) > 1 and name not in SHARED_FILES}
