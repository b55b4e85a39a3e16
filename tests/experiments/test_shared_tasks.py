"""Public benchmarks on miniatures in the tasks' formats; all rows are invented."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import soundfile

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import read_export
from annot_hf.data.predictions import Predictions
from annot_hf.evaluation.scoring import TASKS
from annot_hf.experiments import shared_tasks
from annot_hf.experiments.plans import PLAN_FOLDER, read_plan
from annot_hf.experiments.shared_tasks import run_benchmark

SPLITS = {"train": 16, "dev": 6, "test": 8}
FAST = ["num_train_epochs=1", "use_cpu=true", "report_to=none", "disable_tqdm=true"]


def lewidi(root):
    """MD-Agreement with a few words; three raters of whom the last sees offence more often."""
    for split, count in SPLITS.items():
        entries = {}
        for number in range(count):
            bad = number % 3 == 0
            answers = [int(bad), int(bad), int(number % 2 == 0)]
            entries[str(number)] = {
                "text": ("bad " if bad else "good ") + "so very"[: 3 + 5 * (number % 2)],
                "annotations": ",".join(map(str, answers)),
                "annotators": "Ann1,Ann2,Ann3",
                "lang": "en",
                "soft_label": {"0": round(1 - np.mean(answers), 4), "1": round(np.mean(answers), 4)},
                "split": split,
                "other_info": {},
            }
        (root / f"MD-Agreement_{split}.json").write_text(json.dumps(entries))


def test_lewidi_by_its_own_split_and_scores(bert_folder, tmp_path):
    (tmp_path / "files").mkdir()
    lewidi(tmp_path / "files")
    out, words = tmp_path / "out", [*FAST, f"trunk={bert_folder}", "inputs.max_tokens=32"]
    found, page = run_benchmark(
        "lewidi2023", tmp_path / "files", out, words, without=["fine-tuned", "LoRA"], n_resamples=20
    )
    assert found.counts["n_evaluated"] == SPLITS["test"] and found.counts["runs"] == dict.fromkeys(found.systems, 3)
    assert found.systems == ("votes", "majority", "raters")
    assert "Scores of lewidi2023" in page.read_text() and "Cross-entropy, LeWiDi 2023" in page.read_text()
    targets = read_export(out / "corpus").targets("test")
    expected = {name: [] for name in TASKS["lewidi2023"]}
    for seed in range(3):
        run = Predictions.load(out / "results" / "votes" / f"seed{seed}" / "predictions-test")
        p, q = run.in_order(targets.support).select(targets.items).probs, targets.probs
        expected["lewidi_cross_entropy"].append(-(q * np.log(p.clip(1e-12, 1 - 1e-12) + 1e-9)).sum(1).mean())
        expected["accuracy"].append(sklearn.metrics.f1_score(q.argmax(1), p.argmax(1), average="micro"))
        expected["weighted_f1"].append(sklearn.metrics.f1_score(q.argmax(1), p.argmax(1), average="weighted"))
    for name, values in expected.items():
        assert found.at(name, "votes")["value"] == pytest.approx(np.mean(values), abs=1e-6)
    again, _ = run_benchmark(
        "lewidi2023", tmp_path / "files", out, words, without=["fine-tuned", "LoRA"], n_resamples=20
    )
    assert again["weighted_f1"] == found["weighted_f1"]


def test_inference_is_a_yes_or_no_for_each_label_and_scores_are_means_over_labels(bert_folder, tmp_path, monkeypatch):
    root, labels = tmp_path / "files", ["entailment", "neutral", "contradiction"]
    root.mkdir()
    generator = np.random.default_rng(0)
    for split, count in SPLITS.items():
        entries = {}
        for number in range(count):
            chosen = {f"Ann{rater}": list(generator.permutation(labels)[: 1 + rater % 2]) for rater in range(3)}
            share = {one: np.mean([one in answer for answer in chosen.values()]) for one in labels}
            entries[str(number)] = {
                "text": {"context": f"so {'very' * (number % 3)}", "statement": "good"},
                "annotations": {rater: ",".join(answer) for rater, answer in chosen.items()},
                "annotators": ",".join(chosen),
                "soft_label": {one: {"0": round(1 - share[one], 4), "1": round(share[one], 4)} for one in labels},
                "split": split,
            }
        (root / f"VariErrNLI_{split}.json").write_text(json.dumps(entries))
    words = [*FAST, f"trunk={bert_folder}", "inputs.max_tokens=32"]
    monkeypatch.setattr(shared_tasks, "read_plan", lambda path: replace(read_plan(path), seeds=(0, 1)))
    options = {"without": ["votes", "majority", "fine-tuned", "LoRA"], "n_resamples": 20}
    found, page = run_benchmark("lewidi2025", root, tmp_path / "out", words, **options)
    assert "mean over 3 questions, entailment, neutral, contradiction" in page.read_text()
    upstream = json.loads((root / "VariErrNLI_test.json").read_text())
    distances, errors = [], []
    for label in labels:
        for seed in range(2):
            run = Predictions.load(tmp_path / f"out/results/{label}/raters/seed{seed}/predictions-test")
            yes = run.probs[:, list(run.support).index("yes")] / run.probs.sum(axis=1)
            own = [upstream[item.removeprefix("test-")]["soft_label"][label]["1"] for item in run.items]
            distances.append(np.mean(2 * abs(yes - own)))
            given = pd.DataFrame({"item": run.items[run.rater_items], "rater": run.rater_names})
            given["wrong"] = [
                (run.support[values.argmax()] == "yes")
                != (label in upstream[item.removeprefix("test-")]["annotations"][rater].split(","))
                for item, rater, values in zip(given["item"], given["rater"], run.rater_values, strict=True)
            ]
            errors.append(given.groupby("item")["wrong"].mean().mean())
    assert found.at("manhattan", "raters")["value"] == pytest.approx(np.mean(distances), abs=1e-4)
    assert found.at("rater_error", "raters")["value"] == pytest.approx(np.mean(errors), abs=1e-9)
    assert (
        len(found.at("rater_error", "raters")["runs"]) == 2 and found.at("rater_error", "marginal")["low"] is not None
    )


def emosuperb(root, folds, unknown=()):
    """Twelve clips of six speakers, of whom some are unknown."""
    labels = ["angry", "sad", "happy"]
    (root / "Audios").mkdir(parents=True)
    (root / "Primary").mkdir()
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(3), 12).clip(0.01)
    shares /= shares.sum(1, keepdims=True)
    for number in range(12):
        soundfile.write(root / "Audios" / f"c{number}.wav", 0.1 * generator.standard_normal(4800), 16_000)
    for fold in range(folds):
        rows = pd.DataFrame(shares.round(4), columns=labels)
        rows.insert(0, "FileName", [f"c{number}.wav" for number in range(12)])
        rows["SpkrID"] = ["Unknown" if number in unknown else f"<script>{number // 2}</script>" for number in range(12)]
        parts = ["Train", "Train", "Development", "Test", "Train", "Train"]
        rows["Split_Set"] = [parts[(number // 2 + fold) % 6] for number in range(12)]
        rows.to_csv(root / "Primary" / f"labels_consensus_{fold + 1}.csv", index=False)


def test_emosuperb_by_its_folds(tmp_path):
    root = tmp_path / "files"
    emosuperb(root, folds=2, unknown=[4, 7])
    words = [*FAST, "augmentation.copies=0"]
    found, page = run_benchmark("emosuperb", root, tmp_path / "out", words, without=["frozen Whisper"], n_resamples=20)
    assert found.counts["n_evaluated"] == 4 and found.counts["unit"] == "speaker"
    assert found.counts["votes"] == 0 and "Scores of emosuperb" in page.read_text()
    shown = page.with_suffix(".html").read_text()
    assert "<script>3" not in shown and "&lt;script&gt;3&lt;/script&gt;" in shown
    # Tables that a spreadsheet may open are those of reports; what the benchmark reads again it keeps in memory.
    assert not list((tmp_path / "out").rglob("*.csv"))
    assert "2 items have no speaker; each counts as one of its own." in page.read_text()
    targets = read_export(tmp_path / "out" / "corpus").targets("test")
    run = Predictions.load(tmp_path / "out" / "results" / "log-mel" / "repeat0" / "fold0" / "predictions-test")
    assert sorted(run.items) == sorted(targets.items) == ["c6.wav", "c7.wav"]


def test_emosuperb_in_one_fold_is_a_split(tmp_path):
    root = tmp_path / "files"
    emosuperb(root, folds=1, unknown=[6])
    # a second question, which the task does not score
    rows = pd.read_csv(root / "Primary" / "labels_consensus_1.csv")
    (root / "Secondary").mkdir()
    rows.to_csv(root / "Secondary" / "labels_consensus_1.csv", index=False)
    words = [*FAST, "augmentation.copies=0"]
    found, page = run_benchmark("emosuperb", root, tmp_path / "out", words, without=["frozen Whisper"], n_resamples=20)
    assert found.counts["n_evaluated"] == 2 and "Scores of emosuperb" in page.read_text()
    assert found.counts["runs"] == {"log-mel": len(read_plan(PLAN_FOLDER / "emosuperb.yaml").seeds)}


def test_a_task_and_its_plan_are_known(tmp_path):
    with pytest.raises(ValueError, match="no benchmark 'lewidi'; use one of lewidi2023, lewidi2025, emosuperb"):
        run_benchmark("lewidi", tmp_path, tmp_path)
    for task in TASKS:
        assert read_plan(PLAN_FOLDER / f"{task}.yaml").task == task and load_corpus_script(task)
    (tmp_path / "plan.yaml").write_text("recipe: text-ldl\ntask: lewidi\nsystems: {a: {}}\n")
    with pytest.raises(ValueError, match="task is 'lewidi'; use one of"):
        read_plan(tmp_path / "plan.yaml")
