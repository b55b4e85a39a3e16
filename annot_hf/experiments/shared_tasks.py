"""Public benchmarks, one command each: read the files, train, and score as the task does, beside our own measures."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.files import check_own
from annot_hf.evaluation.evaluate import Evaluation, mean_evaluation
from annot_hf.evaluation.scoring import TASKS
from annot_hf.experiments.crossval import crossval
from annot_hf.experiments.plans import PLAN_FOLDER, read_plan, run_plan, write_results
from annot_hf.report.systems import systems_tables
from annot_hf.report.tables import say
from annot_hf.training.keys import flatten, read_words


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

    Systems learn from the task's training split, choose on its validation split and are scored on its test split, with every
    seed of the plan. A corpus that comes in folds (columns `fold_1`, `fold_2`, ... of its items) is cross-validated by them;
    one fold is a split as any other. Where a task asks several questions with labels, as VariErrNLI does (a yes or no for
    each), every system learns each of them, and scores are means over the questions. `out` gets the exported corpus and the
    results; a later call resumes.

    Args:
        task: One of `TASKS`.
        root: Folder of the corpus, as the task publishes it.
        out: Folder to write.
        overrides: Words such as "trunk=..." for every run; with a `question`, that one alone.
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
    exported, results = read_export(out / "corpus"), out / "results"
    items = exported.items
    folds = [column for column in items if column.startswith("fold_")]
    asked = [question.name for question in exported.questions if not question.is_scale]
    alone = len(asked) < 2 or "question" in flatten(read_words(overrides), "overrides")
    if len(folds) == 1 or (not folds and alone):
        return run_plan(plan, out / "corpus", results, overrides, n_resamples=n_resamples)
    if not folds:
        files = [f"results.{kind}" for kind in ("json", "md", "html", "png")]
        check_own(results, files, marker=files[0], keys=("title", "systems"))
        each = {}
        for name in asked:
            words = [*overrides, f"question={json.dumps([name])}"]
            each[name], _ = run_plan(plan, out / "corpus", results / name, words, n_resamples=n_resamples)
        found = mean_evaluation(list(each.values()))
        page = write_results(
            results / "results.md",
            plan,
            found,
            {"corpus": exported.name, "questions": asked, "recipe": plan.recipe, "overrides": list(overrides)},
            summary=say("plan.summary", counts=found.counts),
            tables=systems_tables(found, task),
            notes=[say("plan.questions", questions=asked), *found.notes],
        )
        return found, page
    repeats = len(plan.seeds)
    return crossval(
        plan,
        out / "corpus",
        results,
        overrides,
        folds=items.melt("item", folds, var_name="fold", value_name="part").dropna(),
        repeats=repeats,
        n_resamples=n_resamples,
    )
