"""Recipes: the keys of a run in groups, each of which its owner defines, documents and checks; files, overrides, rules."""

import copy
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from annot_hf.data.export import ExportedCorpus
from annot_hf.data.questions import nearest, read_yaml
from annot_hf.data.synthetic import read_annotation_facts
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.configuration_opinion import SupportConfig
from annot_hf.models.configuration_seedbert import SeedBertConfig
from annot_hf.models.losses import BATCH_LOSSES
from annot_hf.models.trunks import WEIGHTED, weights_digest
from annot_hf.training.conflicts import (
    HUB_KEYS,
    check_member,
    conflicts_between,
    measure_of,
    members_of,
    stock_conflicts,
)
from annot_hf.training.keys import (
    CONFIGURATIONS,
    DEFAULTS,
    GREATER,
    GROUPS,
    LALM,
    LOG_MEL,
    UNUSABLE,
    Ensemble,
    Recipe,
    RecipeKey,
    check_secrets,
    coerce,
    flatten,
    keys_of,
    known_keys,
    nearest_key,
    read_words,
)

logger = logging.getLogger(__name__)

RECIPES = Path(__file__).parent.parent / "recipes"
# keys that say where things lie and what is logged, and not what a run is; what the annotations hold is in its record
ELSEWHERE = {
    "votes.annotations",
    "corpus",
    "raters",
    "features",
    "ensemble.folder",
    "output_dir",
    "report_to",
    "run_name",
}
ELSEWHERE |= {"disable_tqdm", "logging_strategy", "logging_steps", "push_to_hub", *HUB_KEYS}
# keys of an ensemble that a member alone does not have
_TOGETHER = ("members", "num_members", "distribution", "head_seed", *(f"ensemble.{name}" for name in keys_of(Ensemble)))
_TOGETHER += ("push_to_hub", *HUB_KEYS)
# between the seeds of two members, so that ensembles of neighbouring seeds share no member
_STRIDE = 1000


@dataclass
class Run:
    """A recipe ready to run: its own keys, the options of the model and of a log-mel trunk, and the stock arguments."""

    recipe: Recipe
    options: dict[str, Any]
    trunk_options: dict[str, Any]
    training: TrainingArguments
    # every key, those of groups as `group.key`, as the file and the overrides gave it, for the record
    values: dict[str, Any]
    # of each independent member of an ensemble; its folder is chosen when it starts
    members: "tuple[Run, ...]" = ()

    def at(self, folder: Path) -> "Run":
        """The same run in another `output_dir`."""
        training = copy.copy(self.training)
        training.output_dir = str(folder)
        return dataclasses.replace(self, training=training, values=self.values | {"output_dir": str(folder)})

    @property
    def pushes(self) -> bool:
        """Whether its model goes to the Hub when it has ended."""
        return self.values.get("push_to_hub", False)

    @property
    def unpushed(self) -> "Run":
        """The same run, whose model stays on this machine."""
        aside = {"push_to_hub", *HUB_KEYS}
        return dataclasses.replace(self, values={key: value for key, value in self.values.items() if key not in aside})

    def record(self, corpus: ExportedCorpus) -> dict[str, Any]:
        """What a run is, as JSON: every key, the corpus, which part of it if not the whole, the trunk's weights."""
        part = {"part": dict(corpus.part)} if corpus.part else {}
        if self.recipe.trunk != LOG_MEL:
            part["trunk"] = weights_digest(self.recipe.trunk, self.options.get("lalm_revision"))
        if self.recipe.votes.used != "human":
            part["annotations"] = read_annotation_facts(self.recipe.votes.annotations)["votes_sha256"]
        if self.recipe.raters:
            part["raters"] = _digest_of(self.recipe.raters)
        if self.recipe.ensemble.recipes:
            part["members"] = self.member_values
        # a layer may be named by a file, which may hold another one later
        layer = {"trunk_layer": self.options["trunk_layer"]} if "trunk_layer" in self.values else {}
        record = {"recipe": self.values | layer, "corpus_digest": corpus.digest} | part
        return json.loads(json.dumps(record, default=str))

    @property
    def member_values(self) -> list[dict[str, Any]]:
        """What the recipe of each member says, but for paths and logging keys."""
        return [{key: value for key, value in one.values.items() if key not in ELSEWHERE} for one in self.members]

    def identity(self, corpus: ExportedCorpus) -> dict[str, Any]:
        """What a run is, except paths and logging keys."""
        record = self.record(corpus)
        return record | {"recipe": {key: value for key, value in record["recipe"].items() if key not in ELSEWHERE}}

    def changes(self, earlier: Mapping[str, Any], corpus: ExportedCorpus, *, aside: Sequence[str] = ()) -> list[str]:
        """Keys that differ from an earlier record, except paths, logging keys and those in `aside`."""
        now = self.record(corpus)
        changed = set(_differing(now["recipe"], earlier["recipe"])) - ELSEWHERE - set(aside)
        return [
            *sorted(changed),
            *_differing(now.get("part", {}), earlier.get("part", {})),
            *["the corpus"] * (earlier["corpus_digest"] != corpus.digest),
            *["the annotations"] * (earlier.get("annotations") != now.get("annotations")),
            *["the recipes of members"] * (earlier.get("members") != now.get("members")),
            *["the table of raters"] * (earlier.get("raters") != now.get("raters")),
            # a digest that could not be taken is no change
            *["the trunk's weights"] * (len({earlier.get("trunk"), now.get("trunk"), None}) > 2),
        ]


def _digest_of(path: str) -> str:
    """SHA-256 of the table of raters."""
    if not Path(path).is_file():
        raise ValueError(f"raters is {path!r}, and there is no such file; give a CSV file with a column annotator.")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Keys whose values are not the same on both sides."""
    return sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def summarise_recipe(name: str) -> str:
    """First sentence of the comment that a packaged recipe begins with."""
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines[: next(i for i, line in enumerate(lines) if line[0] != "#")])
    return re.split(r"(?<! al)[.:](?: |$)", comment)[0] + "."


def load_recipe(
    recipe: str | os.PathLike[str], overrides: Mapping[str, Any] | Sequence[str] = (), *, resume: bool = False
) -> Run:
    """Read a recipe, apply overrides, and check every key and value.

    Args:
        recipe: Path of a YAML file, or the name of a recipe that comes with the package.
        overrides: A mapping, or words such as "learning_rate=1e-3" or "curriculum.kind=filter" (values are read as YAML).
        resume: Without `output_dir`, take the newest dated folder of the recipe instead of a new one.

    A file may name another recipe as `base` and state only what differs.

    Raises:
        ValueError: The file does not exist or is no mapping, a key is unknown (the message offers the nearest), or a value
            does not fit.
    """
    path, values = _read_recipe(recipe)
    overrides = dict(overrides) if isinstance(overrides, Mapping) else read_words(overrides)
    values = _overlay(values, overrides, path.name, "recipe")
    return make_run(values, where=os.fspath(path), overrides=overrides, resume=resume)


def describe_recipe(recipe: str | os.PathLike[str], overrides: Sequence[str] = ()) -> dict[str, tuple[RecipeKey, Any]]:
    """Every key that a recipe may set, those of its model and trunk included, and the value it has there."""
    values = load_recipe(recipe, overrides).values
    homes = known_keys(values)
    shown = {
        name: (key, coerce(name, values[name], key.kind) if name in values else key.default)
        for keys in homes.values()
        for name, key in keys.items()
        if name not in UNUSABLE
    }
    if values.get("ensemble.recipes") and "trunk" not in values:
        # its members have the trunks of their own recipes
        shown = {name: pair for name, pair in shown.items() if name not in homes["trunk_options"]}
        shown["trunk"] = (shown["trunk"][0], None)
    return shown


def _overlay(under: dict[str, Any], over: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Values on top of others; options of the log-mel trunk are dropped with that trunk."""
    # before an error could repeat one
    check_secrets(over, "recipe")
    over = flatten(over, where)
    if over.get("trunk", LOG_MEL) != LOG_MEL:
        aside = [key for key in under if key in keys_of(LogMelConfig)]
        if aside:
            logger.warning("trunk is %s: %s of %s left aside.", over["trunk"], ", ".join(aside), name)
        under = {key: value for key, value in under.items() if key not in aside}
    return under | over


def _read_recipe(recipe: str | os.PathLike[str], above: tuple[Path, ...] = ()) -> tuple[Path, dict[str, Any]]:
    """Path and values of a recipe on top of those of its `base`, a file in the same folder or a packaged recipe."""
    path = Path(recipe)
    if not path.suffix and not path.is_file():
        path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise ValueError(
            f"There is no recipe {os.fspath(recipe)!r}{nearest(str(recipe), recipe_names())}; give a YAML file or one of "
            f"{', '.join(recipe_names())}."
        )
    values = read_yaml(path.read_text(encoding="utf-8"), os.fspath(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; a recipe is a mapping of keys to values.")
    base = values.pop("base", None)
    values = _overlay({}, values, "", os.fspath(path))
    if isinstance(values.get("ensemble.recipes"), list):
        # files beside this one, wherever the run is started
        named = values["ensemble.recipes"]
        beside = [path.parent / str(name) for name in named]
        values["ensemble.recipes"] = [
            str(file) if file.is_file() else name for file, name in zip(beside, named, strict=True)
        ]
    if base is None:
        return path, values
    if path.resolve() in above:
        raise ValueError(f"{path} is its own base; name another recipe.")
    sibling = path.parent / str(base)
    below, under = _read_recipe(sibling if sibling.is_file() else str(base), (*above, path.resolve()))
    return path, _overlay(under, values, below.name, os.fspath(path))


def dated_folder(recipe: str, *, resume: bool = False) -> Path:
    """A new folder `runs/DATE-RECIPE`, with -2, -3, ... if it is there; to resume, the newest that is there."""
    fresh = Path(DEFAULTS["output_dir"].format(date=date.today(), recipe=recipe))
    pattern = re.compile(rf"(\d{{4}}-\d\d-\d\d)-{re.escape(recipe)}(?:-(\d+))?")
    named = [(path, pattern.fullmatch(path.name)) for path in fresh.parent.glob("*/")]
    found = {(name[1], int(name[2] or 1)): path for path, name in named if name}
    if resume and not found:
        raise ValueError(
            f"{fresh.parent} holds no run of recipe {recipe}; name the folder to resume as output_dir (--out)."
        )
    if resume:
        return found[max(found)]
    today = [number for day, number in found if day == str(date.today())]
    # processes that train together must not see each other's folder as that of an earlier run
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    return fresh.with_name(f"{fresh.name}-{max(today) + 1}") if today and alone else fresh


def make_run(
    values: Mapping[str, Any], *, where: str = "recipe", overrides: Collection[str] = (), resume: bool = False
) -> Run:
    """Check a mapping of keys to values and build what takes them; errors name `where` they are from, and the `overrides`."""
    check_secrets(values, where)
    values = flatten(values, where)
    folder = "" if values.get("output_dir") else str(dated_folder(Path(where).stem, resume=resume))
    try:
        return _checked_run(values, folder)
    except (ImportError, OSError, TypeError, ValueError) as error:
        given = f" with your {', '.join(overrides)}" if overrides else ""
        raise ValueError(f"{where}{given}: {error}") from None


def _checked_run(values: dict[str, Any], folder: str) -> Run:
    """The run of these values, and those of its members; what makes them says what is wrong with them."""
    parts = _sort_values(values)
    options, trunk_options, given = parts["options"], parts["trunk_options"], parts["training"]
    given["output_dir"] = given.get("output_dir") or folder
    for conflict in stock_conflicts(given, parts["recipe"]):
        raise ValueError(conflict)
    given.setdefault("greater_is_better", measure_of(given) in GREATER)
    if parts["recipe"].get("model") == LALM:
        # 7B in float32 fit no common GPU
        given.setdefault("bf16", torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    # the library takes bfloat16 on a CPU only if it is told that there is nothing else
    given.setdefault("use_cpu", not torch.accelerator.is_available())
    if parts["recipe"].get("curriculum.kind") and options.get("loss") in BATCH_LOSSES:
        raise ValueError(
            f"loss is {options['loss']}, which has no loss per item for a curriculum to weigh; use kl or jsd."
        )
    recipe = _build_recipe(parts["recipe"])
    training = TrainingArguments(**DEFAULTS | given)
    layer = options.get("trunk_layer")
    if isinstance(layer, str) and layer != WEIGHTED:
        # a file that `annot-hf saliency` wrote
        options["trunk_layer"], measured = read_layer(layer)
        if measured != recipe.trunk:
            logger.warning("%s was measured on %s, and trunk is %s.", layer, measured, recipe.trunk)
    for conflict in conflicts_between(recipe, options, training):
        raise ValueError(conflict)
    _check_options(recipe, options, trunk_options)
    # the library would push every checkpoint, with everything around it
    training.push_to_hub = False
    run = Run(recipe, options, trunk_options, training, values)
    if members_of(recipe, options) == "independent":
        run.members = tuple(_member_runs(run, folder))
        for conflict in _unlike_members(run) if recipe.ensemble.recipes else ():
            raise ValueError(conflict)
    return run


def _sort_values(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values as their types, by what takes them."""
    homes = known_keys(values)
    parts: dict[str, dict[str, Any]] = {home: {} for home in homes}
    for name, value in values.items():
        home = next((home for home, keys in homes.items() if name in keys), None)
        if home is None and name in keys_of(LogMelConfig):
            raise ValueError(f"{name} is an option of the log-mel trunk, and trunk is {values['trunk']!r}.")
        if home is None and name == "base":
            raise ValueError(
                f"base belongs in a recipe file, not among overrides; name {value!r} as the recipe instead."
            )
        if home is None:
            raise ValueError(f"unknown key {name!r}{nearest_key(name, homes)}; remove or correct it.")
        parts[home][name] = coerce(name, value, homes[home][name].kind)
    return parts


def _build_recipe(values: Mapping[str, Any]) -> Recipe:
    """The recipe of checked types; each group checks its own values."""
    parts: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    for group, owner in GROUPS.items():
        prefix = f"{group}."
        mine = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        try:
            parts[group] = owner(**mine)
        except ValueError as error:
            raise ValueError(f"{group}: {error}") from None
    return Recipe(**parts)


def _check_options(recipe: Recipe, options: Mapping[str, Any], trunk_options: Mapping[str, Any]) -> None:
    """Let the configuration check its options before a corpus or a trunk is read, with stand-ins for what these decide."""
    config: type[SupportConfig] = CONFIGURATIONS[recipe.model]
    options = dict(options, questions=[{"name": "question", "labels": ["a", "b"]}])
    if recipe.trunk != LOG_MEL:
        # the checkpoint decides how many layers there are, how wide they are, and whether they take adapters
        options.pop("trunk_layer", None)
        options |= {"members": "shared"} if options.get("members") == "lora" else {}
        options.pop("attention_heads", None)
    if recipe.class_weights.kind:
        options["class_weights"] = [1.0, 1.0]
    if recipe.scales:
        options["scale_questions"] = [{"name": name, "low": 0, "high": 1} for name in recipe.scales]
    config(**({} if recipe.model == LALM else {"trunk_config": LogMelConfig(**trunk_options)}), **options)


def _member_runs(run: Run, folder: str) -> Iterator[Run]:
    """The run of each independent member, with a seed of its own: by a recipe it is given, or the ensemble's for one model."""
    shared = {key: value for key, value in run.values.items() if key not in (*_TOGETHER, "model")}
    shared["features"] = run.recipe.features or os.path.join(run.training.output_dir, "features")
    differing = "head_seed" if run.recipe.ensemble.differ == "init" else "seed"
    seeds = itertools.count(run.training.seed + _STRIDE, _STRIDE)
    if not run.recipe.ensemble.recipes:
        count = run.options.get("num_members", SeedBertConfig().num_members)
        for seed in itertools.islice(seeds, count):
            yield _checked_run(shared | {"model": "distribution", differing: seed}, folder)
    for name, seed in zip(run.recipe.ensemble.recipes, seeds, strict=False):
        path, values = _read_recipe(name)
        aside = ("seed", "head_seed", "push_to_hub", *HUB_KEYS)
        values = {key: value for key, value in values.items() if key not in aside}
        values = _overlay(values, shared, path.name, "recipe") | {"seed": run.training.seed} | {differing: seed}
        try:
            check_member(values)
            yield _checked_run(values, folder)
        except ValueError as error:
            raise ValueError(f"ensemble.recipes, {path.stem}: {error}") from None


def _unlike_members(run: Run) -> Iterator[str]:
    """What members of different recipes, and the ensemble, should have in common and have not: a sentence each."""
    read = {
        "question": lambda one: one.recipe.question,
        "bins": lambda one: one.options.get("bins", SeedBertConfig().bins),
        "inputs.max_seconds": lambda one: one.recipe.inputs.max_seconds,
    }
    for name, value in read.items():
        found = [value(one) for one in (run, *run.members)]
        if any(one != found[0] for one in found):
            yield (
                f"{name} is {found[0]!r} and that of the members {', '.join(map(repr, found[1:]))}; set {name} in the "
                "ensemble's own recipe, for all of them."
            )
    trunks = [one.recipe.trunk for one in run.members]
    if len({trunk == LOG_MEL for trunk in trunks}) > 1:
        yield f"The members have the trunks {', '.join(trunks)}, and only some are log-mel; use trunks of one input."


def members_folder(run: Run) -> Path:
    """Where an ensemble keeps its members."""
    return Path(run.recipe.ensemble.folder or os.path.join(run.training.output_dir, "members")).expanduser()


def read_layer(path: str | os.PathLike[str]) -> tuple[int, str]:
    """The layer that a saliency.json chose, and the trunk it was measured on."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        return int(record["trunk_layer"]), str(record["trunk"])
    except OSError:
        raise ValueError(
            f"trunk_layer is {os.fspath(path)!r}, and there is no such saliency file; give a layer's number, 'weighted', or "
            "the saliency.json that annot-hf saliency wrote."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{os.fspath(path)} names no trunk_layer and trunk; give a saliency.json of annot-hf saliency."
        ) from None
