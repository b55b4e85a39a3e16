"""The example of the README runs as it is printed."""

import ast
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_the_example_from_a_csv_to_a_distribution_runs_as_printed(bert_folder, tmp_path, monkeypatch):
    source = next(
        code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "Trainer" in code
    )
    assert source.count('"roberta-base"') == 2
    monkeypatch.chdir(tmp_path)
    votes = ["a,anger,ann", "a,calm,ben", "b,joy,ann", "b,joy,ben", "c,calm,ann", "c,calm,cy"]
    Path("votes.csv").write_text("\n".join(["item,value,annotator", *votes]) + "\n")
    *lines, last = ast.parse(source.replace('"roberta-base"', repr(str(bert_folder)))).body
    names = {"texts": {"a": "so bad !", "b": "very good", "c": "good"}}
    exec(compile(ast.Module(lines, []), "README.md", "exec"), names)
    probs = eval(compile(ast.Expression(last.value), "README.md", "eval"), names)
    assert probs.shape == (1, 3) and probs.sum().item() == pytest.approx(1, abs=1e-5)
    assert names["targets"].probs.tolist() == [[0.5, 0.5, 0], [0, 0, 1], [0, 1, 0]]
    assert (tmp_path / "runs/mine").is_dir()
