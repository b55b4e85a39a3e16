"""The command of the benchmarks; what they measure is not run here."""

import re
from pathlib import Path

import pytest

from benchmarks import __main__ as command

RUN = [
    path
    for path in Path(command.__file__).parent.glob("bench_*.py")
    if re.search(r"^def run\(", path.read_text(), re.M)
]


def test_help_lists_every_benchmark_with_a_line(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out.split("benchmarks:\n")[1]
    found = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert set(found) == {path.stem.removeprefix("bench_") for path in RUN} == set(command.SUBJECTS)
    assert found["saturation"].startswith("Saturation curve of 5,000 items")


def test_an_unknown_benchmark_is_told_before_any_runs(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["votes", "vote"])
    assert end.value.code == 2
    out, error = capsys.readouterr()
    assert not out and "there is no benchmark 'vote'" in error
    assert all(f"  {name} " in error for name in command.SUBJECTS)
