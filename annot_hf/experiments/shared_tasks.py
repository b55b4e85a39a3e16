"""Public benchmarks, one command each: read the files, train, and score as the task does, beside our own measures."""

import os
from collections.abc import Sequence
from pathlib import Path

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export
from annot_hf.evaluation.evaluate import Evaluation
from annot_hf.evaluation.scoring import TASKS
from annot_hf.experiments.crossval import crossval
from annot_hf.experiments.plans import PLAN_FOLDER, read_plan, run_plan


def run_benchmark(
    task: str,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    without: Sequence[str] = (),
    n_resamples: int = 1000,
) -> tuple[Evaluation, Path]:
    """Run the plan of a shared task on one of its corpora.

    Systems learn from the task's training split, choose on its validation split and are scored on its test split, with
    every seed of the plan. A corpus that comes in folds (columns `fold_1`, `fold_2`, ... of its items) is cross-validated by
    them. `out` gets the exported corpus and the results; a later call resumes.

    Args:
        task: One of `TASKS`.
        root: Folder of the corpus, as the task publishes it.
        out: Folder to write.
        overrides: Words such as "trunk=..." for every run.
        without: Systems of the plan to leave out.
        n_resamples: Bootstrap resamples behind each interval.

    Returns:
        The scores, and the path of their page.

    Raises:
        ValueError: There is no such task, or the files, the plan or the overrides do not fit.
    """
    if task not in TASKS:
        raise ValueError(f"There is no benchmark {task!r}; use one of {', '.join(TASKS)}.")
    out = Path(out)
    plan = read_plan(PLAN_FOLDER / f"{task}.yaml").without(without)
    # A text that has no words is no item of any system.
    export_corpus(load_corpus_script(task)(root), out / "corpus", missing_audio="drop", missing_text="drop")
    items = read_export(out / "corpus").items
    folds = [column for column in items if column.startswith("fold_")]
    if not folds:
        return run_plan(plan, out / "corpus", out / "results", overrides, n_resamples=n_resamples)
    table = items.melt("item", folds, var_name="fold", value_name="part").dropna()
    table.to_csv(out / "folds.csv", index=False)
    repeats = len(plan.seeds)
    return crossval(
        plan,
        out / "corpus",
        out / "results",
        overrides,
        folds=out / "folds.csv",
        repeats=repeats,
        n_resamples=n_resamples,
    )
