"""Every block of docs/votes.md, and every cell of the notebook, runs as it is printed, in order."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from small_runs import bert_folder  # noqa: F401 - a fixture

from annot_hf.cli import app as cli
from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.simulate import simulate_corpus

PAGE = Path(__file__).parents[1] / "docs" / "votes.md"
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
# A page shows how to begin; how well a run does is no matter here.
SMALL = ["num_train_epochs=1", "use_cpu=true", "disable_tqdm=true"]


def write_files(home):
    clips = [f"c{number:02d}.wav" for number in range(12)]
    (home / "clips").mkdir()
    for number, name in enumerate(clips):
        soundfile.write(home / "clips" / name, 0.1 * np.sin(np.arange(3200) * (0.1 + 0.1 * (number % 3))), 16_000)
    labels = ["anger", "calm", "joy"]
    rows = [
        (clip, rater, labels[(n + (rater == "ben" and n % 2)) % 3])
        for n, clip in enumerate(clips)
        for rater in ("ann", "ben")
    ]
    votes = pd.DataFrame(rows, columns=["item", "annotator", "value"])
    # A spelling to propose.
    wide = votes.assign(value=votes["value"].where(votes.index > 4, votes["value"].str.title()))
    wide.pivot(index="item", columns="annotator", values="value").to_csv(home / "votes.csv")
    numbers = votes.assign(valence=[n % 7 + 1 for n in range(24)], arousal=[n % 5 + 1 for n in range(24)]).drop(
        columns="value"
    )
    numbers.to_excel(home / "ratings.xlsx", index=False)
    texts = votes.assign(comment="so " + votes["item"].str[:3] + " good")
    texts.drop(columns="item").to_csv(home / "texts.csv", index=False)
    return votes


def run_command(line, encoder):
    words = [word for word in shlex.split(line, comments=True) if word]
    words = [f"trunk={encoder}" if word.startswith("trunk=") else word for word in words]
    small = SMALL if words[1] in ("quickstart", "train") else []
    words = [word for word in words if word.split("=")[0] not in [key.split("=")[0] for key in small]]
    # The tiny encoder reads 32 tokens.
    small = [*small, "inputs.max_tokens=16"] if "--text" in words else small
    with pytest.raises(SystemExit) as end:
        cli.main([*words[1:], *small])
    assert not end.value.code, line


def test_the_page_on_votes_runs_as_printed(tmp_path, monkeypatch, bert_folder):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    votes, names = write_files(tmp_path), {}
    for language, block in BLOCKS:
        if language == "bash" and "cremad --root" not in block:
            for line in block.splitlines():
                run_command(line, bert_folder)
        elif language == "python":
            if "from_csv" in block:
                # The page goes on with a table of one row a vote.
                also = votes[6:].assign(question="also") if "secondary_to" in block else votes[:0]
                pd.concat([votes.assign(question="emotion"), also]).to_csv("votes.csv", index=False)
            exec(compile(block, PAGE.name, "exec"), names)
    assert names["targets"].probs.shape == (12, 3)
    Path("mine.py").write_text(next(block for _, block in BLOCKS if "class Mine" in block))
    assert load_corpus_script("mine.py").name == "mine"
    sound = names["load_audio"](names["item"]["audio"])
    assert sound.shape == (3200,) and sound.dtype == np.float32


def test_the_notebook_runs_as_printed(tmp_path, monkeypatch, repository):
    monkeypatch.chdir(tmp_path)
    names, simulate = {}, simulate_corpus
    small = {"speakers": 6, "clips_per_speaker": 3, "annotators": 3, "ratings": (2, 3)}
    monkeypatch.setattr("annot_hf.data.simulate.simulate_corpus", lambda out, **_: simulate(out, **small))
    cells = json.loads((repository / "docs" / "first_hour.ipynb").read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and source.startswith("!"):
            for line in source.splitlines():
                run_command(line.removeprefix("!"), "")
        elif cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec(compile(source, "first_hour.ipynb", "exec"), names)
    predicted = names["predicted"]
    assert len(predicted) == 18 and np.allclose(predicted[["anger", "happy", "neutral", "sad"]].sum(axis=1), 1)
    assert (tmp_path / "runs" / "mine" / "report" / "report.html").is_file()
