"""Repeated cross-validation of a recipe, or of the systems of a plan: every item is predicted by a model not trained on it.

OUT has crossval.md, .html, .json and .png, and a run (predictions-test, training.json, done.json) for each fold in
<system>/repeat<r>/fold<f>.
A fold is a view of the corpus in memory, so all folds share computed features. Finished runs are kept, so an interrupted
cross-validation resumes.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.export import ExportedCorpus, check_splits, read_export
from annot_hf.data.files import check_own
from annot_hf.data.folds import (
    Fold,
    check_division,
    check_folds,
    divide_as,
    draw_groups,
    group_items,
    make_folds,
    read_folds,
    strata_of,
)
from annot_hf.data.predictions import Predictions, pool_predictions
from annot_hf.data.targets import Targets
from annot_hf.evaluation.evaluate import Evaluation, evaluate
from annot_hf.experiments.plans import (
    TAKEN,
    Plan,
    check_trunk,
    plan_notes,
    plan_of,
    planned_runs,
    predictions_of,
    write_results,
)
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.trunks import read_trunk_config
from annot_hf.report.systems import crossval_tables, fold_notes
from annot_hf.report.tables import say
from annot_hf.training.checkpoints import held
from annot_hf.training.inputs import item_sources
from annot_hf.training.recipe import LOG_MEL, Run, members_folder
from annot_hf.training.trainer import tell


def crossval(
    recipe: str | os.PathLike[str] | Plan,
    corpus: str | os.PathLike[str],
    out: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    folds: int | str | os.PathLike[str] | pd.DataFrame = 5,
    repeats: int = 5,
    group: str = "",
    splits: Sequence[str] = (),
    items: int | None = None,
    test_folds: int | None = None,
    validation: float = 0.1,
    stratify: bool = False,
    seed: int | None = None,
    n_resamples: int = 1000,
    keep_models: bool = False,
) -> tuple[Evaluation, Path]:
    """Train, predict and score every fold of every repeat, all systems on the same folds.

    Every item with votes on the question takes part, whatever its released split. In each fold, the model is trained on the
    training part, the validation part selects the epoch if the recipe asks for it, and the test part is predicted.
    The run of fold f in repeat r has the seed `seed` + r * `folds` + f.

    Args:
        recipe: A recipe's name or file, or a plan (its file, or from `read_plan`) for several systems.
        corpus: Folder of an exported corpus.
        out: Folder to write.
        overrides: Words such as "num_train_epochs=3" for every run.
        folds: Folds per repeat, or a CSV file of folds (see `read_folds`) or its table; items that it does not name are left
            out.
        repeats: How often the items are divided. A later call with more repeats keeps the finished ones.
        group: Column of the items whose groups stay in one fold; by default the first that exists of conversation, document
            and speaker, else the item itself. With given folds, an item without a group is one of its own.
        splits: Released splits whose items take part; all by default.
        items: How many of these items to use, in whole groups drawn at random; all by default.
        test_folds: How many folds of a single repeat to test, for a cheaper first look; the items of the others are only
            trained on. A later call may test more. All by default.
        validation: Share of the items outside the test part, in whole groups, that is set aside for validation.
        stratify: Give every fold its share of the items of every label and third of entropy, as far as groups allow.
        seed: Seed of folds and runs; by default the first of the plan's seeds, or 0.
        n_resamples: Bootstrap resamples of groups.
        keep_models: Keep the model of every run, which may need much disk space.

    Returns:
        The scores, and the path of `crossval.md`.

    Raises:
        ValueError: A recipe, the corpus, a number or an earlier run in `out` does not fit, or another process works there.
    """
    file, given = None, None
    if isinstance(folds, pd.DataFrame):
        file, given = "a table of folds", check_folds(folds, "The table of folds")
    elif not isinstance(folds, int):
        file, given = os.fspath(folds), read_folds(folds)
    if given is not None:
        folds = given["fold"].nunique()
        if stratify:
            raise ValueError(f"stratify is for folds that are drawn, and {file} names them; leave one of the two out.")
    check_division(folds, repeats, validation)
    if test_folds is not None and (not 1 <= test_folds <= folds or (test_folds < folds and repeats > 1)):
        raise ValueError(
            f"test_folds is {test_folds} with {folds} folds and {repeats} repeats; give 1 to {folds}, and a single repeat if "
            "not all folds are tested."
        )
    plan = recipe if isinstance(recipe, Plan) else plan_of(recipe)
    taken = TAKEN & set(plan.systems)
    if taken:
        raise ValueError(
            f"A system is called {taken.pop()!r}, a reserved name; give the recipe or system another name."
        )
    out, corpus = Path(out), Path(corpus)
    base = seed if seed is not None else (*plan.seeds, 0)[0]
    if base < 0:
        raise ValueError(f"seed is {base}; give a whole number from 0 up.")
    files = [f"crossval.{kind}" for kind in ("json", "md", "html", "png")]
    check_own(out, files, marker=files[0], keys=("title", "systems"))
    exported = read_export(corpus)
    counts = product(range(repeats), range(folds))
    places = {f"repeat{repeat}/fold{fold}": base + repeat * folds + fold for repeat, fold in counts}
    # A wrong key raises before the first system is trained.
    planned = planned_runs(plan, corpus, out, overrides, places)
    targets = _common_targets(planned, plan.scored(exported), splits)
    if given is not None:
        there = np.isin(targets.items, given["item"])
        if not there.any():
            raise ValueError(f"The file of folds names no item of {exported.name} that has votes; name its items.")
        targets = targets.select(targets.items[there])
        foreign = given["item"][~given["item"].isin(exported.items["item"])].nunique()
        counted = {"items with votes in no fold of the file": int((~there).sum())}
        counted["items of the file that the corpus does not have"] = foreign
        targets.excluded.update({reason: count for reason, count in counted.items() if count})
    unit, groups = group_items(exported.items, targets.items, group, apart=given is not None)
    if items is not None:
        drawn = draw_groups(groups, items, base)
        targets, groups = targets.select(targets.items[drawn]), groups[drawn]
    how = {"repeats": repeats, "validation": validation, "seed": base, "unit": unit}
    if given is None:
        strata = strata_of(targets.probs) if stratify else None
        divided = list(make_folds(groups, folds=folds, strata=strata, **how))
    else:
        divided = divide_as(given, targets.items, groups, **how)
    divided = [fold for fold in divided if test_folds is None or fold.number < test_folds]
    _check_inputs(planned, exported, targets)
    with held(out):
        found = evaluate(
            _predict_all(planned, exported, targets, divided, {"folds": folds, "group": unit}, keep_models),
            targets,
            speakers=None if unit == "item" else dict(zip(targets.items, groups, strict=True)),
            folds=divided,
            unit=unit,
            parts=("items", "categories", "ranks", "ceiling"),
            task=plan.task,
            n_resamples=n_resamples,
        )
        found.counts["excluded"] = targets.excluded
        notes = [
            *plan_notes(plan, targets),
            *fold_notes(found),
            *found.notes,
            say("folds.released", splits=splits, corpus=exported.name),
        ]
        notes += [f"{count:,} {reason} are left out." for reason, count in targets.excluded.items()]
        if given is not None:
            about = exported.items.set_index("item")
            unknown = int(about.loc[list(targets.items), unit].isna().sum()) if unit != "item" else 0
            notes += [f"{unknown:,} items have no {unit}; each counts as one of its own."] * bool(unknown)
        if items is not None:
            notes.append(f"{len(targets):,} items take part, as whole {unit}s drawn at random.")
        facts = {
            "corpus": exported.name,
            "recipe": plan.recipe,
            "overrides": list(overrides),
            "splits": list(splits),
            "group": unit,
            "items": items,
            "test_folds": test_folds,
            "validation": validation,
            "stratify": stratify,
            "folds": file or folds,
            "seed": base,
            "excluded": targets.excluded,
        }
        texts = {"summary": say("folds.summary", counts=found.counts), "notes": notes}
        page = write_results(out / "crossval.md", plan, found, facts, tables=crossval_tables(found, plan.task), **texts)
    return found, page


def _common_targets(planned: Mapping[str, Sequence[Run]], corpus: ExportedCorpus, splits: Sequence[str]) -> Targets:
    """The targets of all items that take part, the reference of all systems."""
    asked = {
        name: (tuple(runs[0].recipe.question) or corpus.default_questions, runs[0].options.get("bins", 4))
        for name, runs in planned.items()
    }
    first, (questions, bins) = next(iter(asked.items()))
    scale = corpus.votes.question(questions[0]).is_scale
    for name, (others, cells) in asked.items():
        if others != questions or (scale and cells != bins):
            raise ValueError(
                f"System {name!r} learns {' and '.join(others)} in {cells} bins and {first!r} {' and '.join(questions)} in "
                f"{bins}; a cross-validation compares all systems with the same votes: give them one question."
            )
    items = corpus.items["item"][corpus.items["split"].isin(check_splits(corpus, splits))]
    whole = corpus.with_splits(dict.fromkeys(items, "all"), {"splits": list(splits)})
    return whole.targets("all", questions, bins=bins)


def _check_inputs(planned: Mapping[str, Sequence[Run]], corpus: ExportedCorpus, targets: Targets) -> None:
    """Raise unless every system has its inputs and raters; otherwise the last system would fail after hours."""
    for name, runs in planned.items():
        if runs[0].recipe.model == "annotator" and not len(targets.ratings):
            raise ValueError(
                f"System {name!r} has a head for every rater, and the votes of {corpus.name} on "
                f"{targets.questions[0].name} name none; leave the system out (--without)."
            )
    parts = [one for runs in planned.values() for one in runs[0].members or runs[:1]]
    for trunk in dict.fromkeys(one.recipe.trunk for one in parts):
        item_sources(corpus, targets.items, LogMelConfig() if trunk == LOG_MEL else read_trunk_config(trunk))


def _predict_all(
    planned: Mapping[str, Sequence[Run]],
    corpus: ExportedCorpus,
    targets: Targets,
    folds: Sequence[Fold],
    part: Mapping[str, Any],
    keep_models: bool,
) -> dict[str, list[Predictions]]:
    """Predictions of all items in each repeat, by system; one repeat is finished before the next begins."""
    parts: dict[str, dict[int, list[Predictions]]] = {name: {} for name in planned}
    total = len(folds) * len(planned)
    for index, fold in enumerate(folds):
        own = {"repeat": fold.repeat, "fold": fold.number, **part, "division": fold.digest(targets.items)}
        parts_of = {item: part for item, part in zip(targets.items, fold.parts, strict=True) if part}
        view = corpus.with_splits(parts_of, own)
        for number, (name, runs) in enumerate(planned.items(), start=index * len(planned) + 1):
            place = f"repeat {fold.repeat}, fold {fold.number}, seed {runs[index].training.seed}"
            tell(f"Run {number} of {total}: system {name}, {place}")
            found = predictions_of(runs[index], view, keep_model=keep_models)
            parts[name].setdefault(fold.repeat, []).append(found)
            check_trunk(name, [one for part in parts[name].values() for one in part])
        for runs in planned.values():
            if runs[index].members and not keep_models:
                shutil.rmtree(members_folder(runs[index]), ignore_errors=True)
    return {name: [pool_predictions(found) for found in repeats.values()] for name, repeats in parts.items()}
