"""Every block of the README and of docs, and every cell of the notebook.

Those of docs/votes.md run as they are printed, in order, on files of the names that they use. Of the other pages, Python runs
over tiny stand-ins for models of the Hub, and of commands, which may take hours, every word is checked, as it is in the pages
of corpora.
"""

import itertools
import json
import re
import shlex
from pathlib import Path

import evaluate
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import typer
from datasets import Audio, Dataset
from small_runs import bert_folder, checkpoints, corpus, features, lalm, small_run, wavlm_folder  # noqa: F401 - fixtures
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer

from annot_hf import AnnotatorModel, DistributionModel, Question
from annot_hf.cli import app as cli
from annot_hf.data.corpus import find_script
from annot_hf.data.simulate import simulate_corpus
from annot_hf.experiments.plans import read_plan
from annot_hf.training.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("dataset_scripts/*/README.md"))]
BLOCKS = {
    path.relative_to(ROOT).as_posix(): re.findall(r"```(\w*)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    for path in PAGES
}
# A page shows how to begin; how well a run does is no matter here.
SMALL = ["num_train_epochs=1", "use_cpu=true", "disable_tqdm=true"]
EMOTION = Question.category("emotion", ["anger", "calm", "joy"])


def has_torchcodec():
    try:
        import torchcodec  # noqa: F401
    # It may be there and not load.
    except Exception:
        return False
    return True


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
    (home / "my-corpus").mkdir()
    votes.to_csv(home / "my-corpus" / "votes.csv", index=False)
    splits = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    items = pd.DataFrame({"item": clips, "audio": [f"../clips/{name}" for name in clips], "split": splits})
    (home / "my-corpus" / "clips").mkdir()
    for name in clips:
        (home / "my-corpus" / "clips" / name).write_bytes((home / "clips" / name).read_bytes())
    items.assign(audio=[f"clips/{name}" for name in clips]).to_csv(home / "my-corpus" / "items.csv", index=False)
    return votes


def commands(block):
    """The commands of ours in a block, as words."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and Path(words[0]).name == "annot-hf":
            yield words[1:]


def run_command(words, encoder):
    words = [f"trunk={encoder}" if word.startswith("trunk=") else word for word in words]
    small = SMALL if words[0] in ("quickstart", "train") else []
    words = [word for word in words if word.split("=")[0] not in [key.split("=")[0] for key in small]]
    # The tiny encoder reads 32 tokens.
    small = [*small, "inputs.max_tokens=16"] if "--text" in words else small
    with pytest.raises(SystemExit) as end:
        cli.main([*words, *small])
    assert not end.value.code, words


def test_the_page_on_votes_runs_as_printed(tmp_path, monkeypatch, bert_folder):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    votes, names = write_files(tmp_path), {}
    for language, block in BLOCKS["docs/votes.md"]:
        if language == "bash":
            for words in commands(block):
                # The corpus is not ours to have here; `test_words_of_commands_are_known` checks the line.
                if "cremad" not in " ".join(words):
                    run_command(words, bert_folder)
        elif "torchcodec" not in block and ("get_all_samples" not in block or has_torchcodec()):
            if "from_csv" in block:
                # The page goes on with a table of one row a vote.
                also = votes[6:].assign(question="also") if "secondary_to" in block else votes[:0]
                pd.concat([votes.assign(question="emotion"), also]).to_csv("votes.csv", index=False)
            if "class Mine" in block:
                Path("mine.py").write_text(block)
            exec(compile(block, "docs/votes.md", "exec"), names)
            if "votes.csv" in block:
                votes.pivot(index="item", columns="annotator", values="value").to_csv("votes.csv")
    assert names["targets"].probs.shape == (12, 3)
    assert names["wave"].shape == (3200,) and names["wave"].dtype == np.float32
    assert {path.name for path in Path("data").iterdir() if path.is_dir()} == {
        "mine",
        "ratings",
        "scripted",
        "embedded",
    }


def test_the_notebook_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, simulate = {}, simulate_corpus
    small = {"speakers": 6, "clips_per_speaker": 3, "annotators": 3, "ratings": (2, 3)}
    monkeypatch.setattr("annot_hf.data.simulate.simulate_corpus", lambda out, **_: simulate(out, **small))
    cells = json.loads((ROOT / "docs" / "first_hour.ipynb").read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and source.startswith("!"):
            for words in commands(source.replace("!", "")):
                run_command(words, "")
        elif cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec(compile(source, "first_hour.ipynb", "exec"), names)
    predicted = names["predicted"]
    assert len(predicted) == 18 and np.allclose(predicted[["anger", "happy", "neutral", "sad"]].sum(axis=1), 1)
    assert (tmp_path / "runs" / "mine" / "report" / "report.html").is_file()


@pytest.mark.parametrize("page", BLOCKS)
def test_words_of_commands_are_known(page, monkeypatch):
    """Commands, options, recipes with every key that is set, plans, systems, corpora."""
    monkeypatch.chdir(ROOT)
    known = typer.main.get_command(cli.app).commands
    for words in itertools.chain.from_iterable(
        commands(block) for language, block in BLOCKS[page] if language == "bash"
    ):
        given = known[words[0]].make_context(words[0], words[1:]).params
        # What a run or `annotate` is to write is not there.
        overrides = [one for one in given.get("overrides") or () if not re.match(r"votes\.|trunk_layer=runs", one)]
        plan = given.get("plan") or (given.get("recipe") if words[0] == "crossval" else None)
        recipe = given.get("recipe")
        if plan and str(plan).endswith(".yaml"):
            plan = read_plan(plan).without(given["without"] or ())
            recipe = plan.recipe
        if recipe:
            load_recipe(recipe, overrides)
        source = given.get("source") or given.get("votes")
        if given.get("root") and source and source.suffix != ".py":
            assert find_script(source), words


def test_python_of_the_other_pages_runs(tmp_path, monkeypatch, bert_folder, wavlm_folder, lalm, checkpoints):  # noqa: F811
    tiny = {
        "roberta-base": bert_folder,
        "microsoft/wavlm-base-plus": wavlm_folder,
        "Qwen/Qwen2-Audio-7B-Instruct": lalm,
        "runs/cremad/model": checkpoints["distribution"],
        "./metrics/": f"{ROOT / 'metrics'}/",
        "speakers=48, held_out=16": "speakers=6, held_out=2",
    }
    monkeypatch.chdir(tmp_path)
    pushed = []
    for home in ("modeling_utils.PreTrainedModel", "processing_utils.ProcessorMixin", "utils.hub.PushToHubMixin"):
        monkeypatch.setattr(f"transformers.{home}.push_to_hub", lambda self, name, **_: pushed.append(name))
    for name in ("hello.wav", "clip.wav"):
        soundfile.write(name, np.zeros(8000), 16_000)
    tokenizer, waves = AutoTokenizer.from_pretrained(bert_folder), [np.zeros(8000, np.float32)] * 2
    scales = [{"name": "activation", "low": 1, "high": 7}]
    for number in range(3):
        member = DistributionModel.from_trunk(str(bert_folder), questions=[EMOTION.to_dict()], pooling="first")
        member.save_pretrained(f"runs/seed{number}/model")
    clips = [{"bytes": Path("hello.wav").read_bytes(), "path": None}] * 12
    votes = {
        "item": [f"i{n}" for n in range(12)],
        "audio": clips,
        "distribution": np.eye(3)[[0] * 8 + [1] * 4].tolist(),
    }
    given = {
        "docs/adapters.md": {
            "torch": torch,
            "tokenizer": tokenizer,
            "rows": [{**tokenizer("so good"), "labels": [0.5, 0.5]}] * 4,
            "processor": AutoProcessor.from_pretrained(lalm),
            "wave": waves[0],
        },
        "docs/metrics.md": {"evaluate": evaluate},
        "docs/raters.md": {},
        "docs/training.md": {
            "AutoFeatureExtractor": AutoFeatureExtractor,
            "model": AnnotatorModel.from_trunk(str(wavlm_folder), questions=scales, annotators=["ann"]),
            "waves": waves,
            "encoder": str(bert_folder),
            "question": EMOTION.to_dict(),
            "tokens": tokenizer(["so good", "bad"], padding=True, return_tensors="pt"),
            "dataset": Dataset.from_dict(votes).cast_column("audio", Audio(16_000, decode=False)),
        },
    }
    for page, blocks in BLOCKS.items():
        names = given.get(page, {})
        for language, block in blocks:
            # These have tests of their own, and those of corpora need them.
            own = ("docs/votes.md", "docs/predicting.md", "docs/publishing.md")
            elsewhere = page in own or (page == "README.md" and "Trainer" in block)
            if language != "python" or elsewhere or page.startswith("dataset_scripts"):
                continue
            for name, stand_in in tiny.items():
                block = block.replace(name, str(stand_in))
            # Here the model is the page's own, and not the checkpoint.
            block = block.replace(
                f'Extractor.from_pretrained("{checkpoints["distribution"]}")',
                f'Extractor.from_pretrained("{wavlm_folder}")',
            )
            if "from_lalm" in block:
                names["question"] = EMOTION
            exec(compile(block, page, "exec"), names)
    assert pushed == ["me/mine", "me/mine"]
