"""Train several systems with several seeds, predict one split with all of them, and score them in one table."""

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from annot_hf.data.export import ExportedCorpus, read_export
from annot_hf.data.files import check_own, replace_file
from annot_hf.data.folds import group_items
from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import nearest, read_yaml
from annot_hf.data.synthetic import half_of
from annot_hf.data.targets import Targets
from annot_hf.evaluation.alignment import groups_of, items_by_name, read_robustness
from annot_hf.evaluation.evaluate import Evaluation, evaluate, measure_conditions
from annot_hf.evaluation.scoring import TASKS
from annot_hf.hub.cards import write_model_card
from annot_hf.report.figures import plot_systems
from annot_hf.report.pages import save_figure, write_json, write_tables
from annot_hf.report.systems import robust_systems_table, systems_tables
from annot_hf.report.tables import say
from annot_hf.training.checkpoints import (
    FACTS,
    check_model_folder,
    checkpoints_of,
    held,
    load_model,
    read_record,
    write_record,
)
from annot_hf.training.inference import ROBUST_CLIPS, predict, predict_robustness, save_predictions
from annot_hf.training.keys import read_words
from annot_hf.training.recipe import Run, flatten, load_recipe
from annot_hf.training.train import train
from annot_hf.training.trainer import tell

logger = logging.getLogger(__name__)

# Plans that come with the package.
PLAN_FOLDER = Path(__file__).parent.parent / "plans"
_OURS = {"corpus", "features", "ensemble.folder", "output_dir", "seed"}
# Systems may not have the name of the baseline or of these folders.
TAKEN = {"marginal", "members", "features"}
_KEYS = {"title", "recipe", "seeds", "systems", "new_listeners", "task"}
# In the folder of a run: what it was when its model was done.
DONE = "done.json"
# With `new_listeners`, the key that the plan sets in every recipe.
_HALF = "votes.half"


@dataclass(frozen=True)
class Plan:
    """Systems to compare.

    Attributes:
        title: Heading of the results.
        recipe: The recipe that all systems share.
        seeds: Seeds of the runs of every system; a cross-validation needs none, because it sets the seeds of its runs.
        new_listeners: Train every system on one random half of each item's votes, and score it against the other.
        task: Shared task whose own scores are measured too, of `TASKS`.
        systems: System -> its changes to the recipe, or to a `recipe` of its own; the others are compared with the first.
    """

    title: str
    recipe: str
    seeds: tuple[int, ...]
    systems: Mapping[str, Mapping[str, Any]]
    new_listeners: bool = False
    task: str = ""

    def scored(self, corpus: ExportedCorpus) -> ExportedCorpus:
        """The corpus with the votes that systems are scored against."""
        return replace(corpus, votes=half_of(corpus.votes, "second")) if self.new_listeners else corpus

    def without(self, names: Sequence[str]) -> "Plan":
        """The plan without these systems, for instance without one that needs named raters."""
        for name in names:
            if name not in self.systems:
                raise ValueError(
                    f"The plan has no system {name!r}{nearest(name, self.systems)}; leave out one of its systems."
                )
        kept = {name: changes for name, changes in self.systems.items() if name not in names}
        if not kept:
            raise ValueError("Every system of the plan is left out; keep one.")
        return replace(self, systems=kept)


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan: a YAML mapping with `recipe`, `systems`, and optionally `seeds` and `title`."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no plan {path}; give a YAML file with recipe, seeds and systems.")
    values = read_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict) or not {"recipe", "systems"} <= set(values) <= _KEYS:
        raise ValueError(f"{path} is not a plan; give recipe, seeds and systems, and optionally a title.")
    systems = values["systems"]
    if not isinstance(systems, dict) or not systems or not all(isinstance(v, dict | None) for v in systems.values()):
        raise ValueError(f"{path}: systems is {systems!r}; give each system's name and its changes to the recipe.")
    seeds = values.get("seeds", [])
    whole = isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
    if not whole or len(set(seeds)) < len(seeds) or (not seeds and "seeds" in values):
        raise ValueError(f"{path}: seeds is {seeds!r}; give a list of different whole numbers, such as [0, 1, 2].")
    if not isinstance(values.get("new_listeners", False), bool):
        raise ValueError(f"{path}: new_listeners is {values['new_listeners']!r}; it is true or false.")
    ours = _OURS | ({_HALF} if values.get("new_listeners") else set())
    systems = {str(name): flatten(changes or {}, f"{path}: system {name!r}") for name, changes in systems.items()}
    folders = [_folder_name(name) for name in systems]
    if TAKEN & set(folders) or len(set(folders)) < len(values["systems"]):
        raise ValueError(
            f"{path}: systems are {', '.join(systems)}; their names must differ in letters and digits, and none may be "
            f"{', '.join(sorted(TAKEN))}, which are reserved."
        )
    for name, changes in systems.items():
        if ours & set(changes):
            raise ValueError(
                f"{path}: system {name!r} sets {sorted(ours & set(changes))[0]}, which the plan itself sets."
            )
        recipes = [values["recipe"], *([changes["recipe"]] if "recipe" in changes else [])]
        if not all(isinstance(recipe, str) for recipe in recipes):
            raise ValueError(f"{path}: system {name!r} has recipe {recipes[-1]!r}; give a recipe's name or file.")
        # Relative to the plan, like the base of a recipe.
        if "recipe" in changes and (path.parent / changes["recipe"]).is_file():
            changes["recipe"] = str(path.parent / changes["recipe"])
    title, new, task = str(values.get("title", path.stem)), values.get("new_listeners", False), values.get("task", "")
    if task and task not in TASKS:
        raise ValueError(f"{path}: task is {task!r}; use one of {', '.join(TASKS)}.")
    return Plan(title, values["recipe"], tuple(seeds), systems, new, task)


def plan_of(source: str | os.PathLike[str]) -> Plan:
    """The plan of a file with `systems`, or a plan with a recipe (a file or a name) as its only system."""
    path = Path(source)
    values = read_yaml(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None
    if isinstance(values, dict) and "systems" in values:
        return read_plan(path)
    # Raises with the reason.
    load_recipe(source)
    return Plan(path.stem, os.fspath(source), (), {path.stem: {}})


def run_plan(
    plan: Plan,
    corpus: str | os.PathLike[str],
    out: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    split: str = "test",
    n_resamples: int = 1000,
    robustness: int = ROBUST_CLIPS,
) -> tuple[Evaluation, Path]:
    """Train, predict and score the systems of a plan; finished runs are kept, so an interrupted plan resumes.

    The first run of a system that hears clips also predicts a sample of `robustness` clips under acoustic conditions.
    `out` gets a folder per run, and results.json, .md, .html and .png. Returns the scores and the path of results.md.
    """
    out, corpus = Path(out), Path(corpus)
    if not plan.seeds:
        raise ValueError(f"The plan {plan.title!r} names no seeds; give a list of whole numbers, such as [0, 1, 2].")
    files = [f"results.{kind}" for kind in ("json", "md", "html", "png")]
    check_own(out, files, marker=files[0], keys=("title", "systems"))
    places = {f"seed{seed}": seed for seed in plan.seeds}
    # A wrong key raises before the first system is trained.
    planned = planned_runs(plan, corpus, out, overrides, places)
    exported = read_export(corpus)
    with held(out):
        runs: dict[str, list[Predictions]] = {name: [] for name in planned}
        total = sum(map(len, planned.values()))
        for name, several in planned.items():
            for run in several:
                number = sum(map(len, runs.values())) + 1
                tell(f"Run {number} of {total}: system {name}, seed {run.training.seed}")
                clips = 0 if runs[name] else robustness
                runs[name].append(predictions_of(run, exported, split, robustness=clips))
                check_trunk(name, runs[name])
        first = next(iter(runs.values()))[0]
        bins = next(iter(planned.values()))[0].options.get("bins", 4)
        scored = plan.scored(exported)
        targets = scored.targets(split, [question.name for question in first.questions], bins=bins)
        about = items_by_name(exported.items)
        people = about["speaker"]
        if plan.task and people.notna().any():
            # A task scores all its items.
            people = pd.Series(group_items(exported.items, about.index, "speaker", apart=True)[1], about.index)
        options = {"speakers": people, "n_resamples": n_resamples}
        options["marginal"] = first.in_order(targets.support).meta.get("marginal")
        missing = "exclude" if plan.new_listeners else "error"
        found = evaluate(
            runs, targets, groups=groups_of(about), votes=scored.votes, on_missing=missing, task=plan.task, **options
        )
        robust = {}
        for name, several in planned.items() if robustness else ():
            altered = read_robustness(Path(several[0].training.output_dir) / f"predictions-{split}")
            if altered:
                clean = runs[name][0].select(next(iter(altered.values())).items)
                robust[name] = measure_conditions(clean, altered, targets, on_missing="exclude", **options)
        lacking = ", ".join(name for name in runs if name not in robust)
        asked = robustness and lacking and "audio" in exported.items
        untested = [say("plan.not_robust", systems=lacking, split=split)] if asked else []
        for note in untested:
            logger.warning("%s", note)
        cautions = dict.fromkeys(run.caution for several in runs.values() for run in several if run.caution)
        page = write_results(
            out / "results.md",
            plan,
            found,
            {"corpus": exported.name, "split": split, "recipe": plan.recipe, "overrides": list(overrides)},
            summary=say("plan.summary", counts=found.counts),
            tables=[*systems_tables(found, plan.task), *robust_systems_table(robust)],
            data={"robustness": {name: one.to_dict() for name, one in robust.items()}},
            notes=[
                *plan_notes(plan, targets),
                *found.notes,
                f"The gap starts from {found.reference.baseline}.",
                *untested,
                *cautions,
            ],
        )
    return found, page


def predictions_of(
    run: Run, corpus: ExportedCorpus, split: str = "test", *, keep_model: bool = True, robustness: int = 0
) -> Predictions:
    """Predictions of a run on one split: read if they are saved, else from its model, which is trained if there is none.

    New predictions have those of so many clips under acoustic conditions beside them; see `predict_robustness`. A model that
    is kept gets its card.
    """
    folder = Path(run.training.output_dir)
    with held(folder):
        model, kept, done = folder / "model", folder / f"predictions-{split}", read_record(folder / DONE)
        if done is not None:
            changed = run.changes(done, corpus)
            if changed:
                raise ValueError(
                    f"{folder} holds a run of another plan or corpus ({', '.join(changed)} changed); name another folder, or "
                    "remove it."
                )
        predictions = None if done is None else _read(kept)
        if predictions is None:
            if done is None or not model.is_dir():
                train(run, resume=any(folder.glob("checkpoint-*")) or bool(run.members), corpus=corpus)
                replace_file(folder / FACTS, lambda path: shutil.copyfile(model / FACTS, path))
                write_record(folder / DONE, run.record(corpus))
                # the model stays; the optimiser states of many runs would not fit
                for checkpoint in checkpoints_of(folder):
                    shutil.rmtree(checkpoint)
            options = {"split": split, "features": run.recipe.features, "loaded": load_model(model)}
            predictions, _ = predict(model, corpus, **options)
            altered = predict_robustness(model, corpus, clips=robustness, **options) if robustness else {}
            save_predictions(predictions, altered, kept)
        if not keep_model and model.is_dir():
            check_model_folder(model)
            shutil.rmtree(model)
        if model.is_dir():
            write_model_card(model)
        return predictions


def check_trunk(system: str, several: Sequence[Predictions]) -> None:
    """Check that all runs of a system had the same trunk, whose folder may be replaced between runs."""
    if len({one.meta.get("trunk") for one in several} - {None}) > 1:
        raise ValueError(
            f"The trunk's weights were replaced between runs of {system!r}, so they cannot share a table; train them again "
            "in another folder."
        )


def _read(folder: Path) -> Predictions | None:
    """Saved predictions; None if there are none, or they are incomplete, which is logged."""
    if not folder.is_dir():
        return None
    try:
        return Predictions.load(folder)
    except ValueError as error:
        logger.warning("%s Items are predicted again.", error)
        return None


def write_results(
    path: Path,
    plan: Plan,
    found: Evaluation,
    facts: Mapping[str, Any],
    *,
    data: Mapping[str, Any] | None = None,
    **page: Any,
) -> Path:
    """Write the scores of a plan, what each system changes, and `data`; returns the path of the Markdown page."""
    facts = {"title": plan.title, **({"new_listeners": True} if plan.new_listeners else {}), **facts}
    write_json(
        path.with_suffix(".json"), facts | {"systems": plan.systems, "evaluation": found.to_dict(), **(data or {})}
    )
    changes = {
        f"system {name}": ", ".join(f"{key}: {json.dumps(value)}" for key, value in changed.items()) or "nothing"
        for name, changed in plan.systems.items()
    }
    figure = save_figure(lambda: plot_systems(found), path.with_suffix(".png")).name, say("captions.systems")
    return write_tables(path, title=plan.title, details=facts | changes, figure=figure, **page)


def plan_notes(plan: Plan, targets: Targets) -> list[str]:
    """What a plan with new listeners was trained on and scored against."""
    if not plan.new_listeners:
        return []
    return [say("plan.new_listeners", lacking=targets.excluded.get("items without votes", 0))]


def planned_runs(
    plan: Plan, corpus: Path, out: Path, overrides: Sequence[str], places: Mapping[str, int]
) -> dict[str, list[Run]]:
    """The runs of every system; `places` are the folder of each run, relative to that of its system, and its seed."""
    for key in flatten(read_words(overrides), "overrides"):
        if key in _OURS or (plan.new_listeners and key == _HALF):
            raise ValueError(f"The override {key} is set for every run by the plan itself; remove it.")
        users = [name for name, changes in plan.systems.items() if key in changes]
        if users:
            raise ValueError(
                f"The override {key} would undo a change of system {users[0]!r}; remove it, or edit the plan."
            )
    planned: dict[str, list[Run]] = {}
    for name, changes in plan.systems.items():
        recipe = changes.get("recipe", plan.recipe)
        words = [f"{key}={json.dumps(value)}" for key, value in changes.items() if key != "recipe"]
        words += [*overrides, f"corpus={corpus}", f"features={out / 'features'}"]
        words += [f"{_HALF}=first"] if plan.new_listeners else []
        for place, seed in places.items():
            folder = out / _folder_name(name) / place
            # Ensembles share equal members, for instance five of ten.
            own = [f"seed={seed}", f"output_dir={folder}", f"ensemble.folder={out / 'members' / place}"]
            run = load_recipe(recipe, [*words, *own])
            if run.pushes:
                raise ValueError(
                    f"push_to_hub is true, and the {len(places)} runs of system {name!r} would push to one repository; remove "
                    "it, and push the one you choose."
                )
            planned.setdefault(name, []).append(run)
    return planned


def _folder_name(system: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in system)
