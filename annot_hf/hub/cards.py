"""Cards: what a model says of itself on the Hub, from the facts of its training and from a report, and what a corpus says."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from transformers import AutoConfig, PreTrainedConfig

from annot_hf import __version__
from annot_hf.data.files import CARD_MARK, is_own_card, replace_file
from annot_hf.data.questions import Question, read_yaml
from annot_hf.evaluation.evaluate import MARGINAL, MODEL
from annot_hf.models.access import read_object
from annot_hf.models.register import register_models
from annot_hf.models.trunks import PROMPTED, input_name_of, weights_digest
from annot_hf.report.figures import plot_votes
from annot_hf.report.pages import render, save_figure, shown_figure
from annot_hf.report.tables import ARROWS, Cell, Table, markdown_safe, number, say, value_cell, worded
from annot_hf.training.checkpoints import FACTS, read_facts
from annot_hf.training.keys import LALM, LOG_MEL
from annot_hf.training.recipe import ELSEWHERE

CITATIONS = Path(__file__).parents[1] / "templates" / "hub" / "citations.yaml"
_README, _ENTRIES = "README.md", ".eval_results"
# An id of the Hub, and a licence's.
_REPOSITORY, _LICENSE = re.compile(r"[\w.-]+(/[\w.-]+)?"), re.compile(r"[a-z0-9][a-z0-9.-]*")
# Figures of a report that name no item, speaker or rater.
_FIGURES = ("strata", "reliability", "equivalence")
# Measures that say again what others say, or bound them.
_ASIDE = {"jsd_bits", "vote_entropy", "bhattacharyya", "labels_f1_batches"}
_OF_LABELS = {"accuracy", "macro_f1", "uar"}
# How notes of a report begin that its numbers cannot be read without.
_NEEDED_NOTES = ("Intervals", "No intervals", "JSD is")


def write_model_card(model_folder: str | Path, report: str | Path | None = None) -> Path:
    """Write README.md of a checkpoint folder, with a plot of its votes; with a report, results and .eval_results/CORPUS.yaml.

    A README.md that somebody else wrote, or edited and took the mark from, stays as it is. So does a card with results, if no
    report is given. No path of this machine and no name of an item, a speaker or a rater is in a card.

    Args:
        model_folder: `output_dir`/model of a run.
        report: Folder that `build_report` wrote for predictions of this model.

    Returns:
        The path of README.md.

    Raises:
        ValueError: The folder has no `training.json`, or the report is none, compares runs, or is of another model.
    """
    folder = Path(model_folder)
    path, facts = folder / _README, read_facts(folder)
    if "corpus" not in facts:
        raise ValueError(f"{folder} has no {FACTS} that says what it was trained on; give output_dir/model of a run.")
    found = None if report is None else _read_report(Path(report), folder)
    if path.is_file() and (not is_own_card(path) or (found is None and any((folder / _ENTRIES).glob("*.yaml")))):
        return path
    register_models()
    config = AutoConfig.from_pretrained(folder)
    questions = [Question.from_dict(one) for one in _all_questions(config)]
    title = f"Votes on {' and '.join(one['name'] for one in config.questions)}, by the raters of {facts['corpus']}"
    data = _card_data(config, facts)
    page = _facts_page(config, facts, questions) | {
        "title": title,
        "mark": CARD_MARK,
        "plot": _votes_plot(folder, config, facts),
    }
    # That of a feature extractor (Hz); a model of texts has none.
    extractor = folder / "preprocessor_config.json"
    page["sampling_rate"] = read_object(extractor)["sampling_rate"] if extractor.is_file() else None
    page["report"] = None if found is None else _report_parts(found, Path(report), folder)
    page["citations"] = _citations(config, facts, found)
    if found is not None:
        data.model_name, data.eval_results = title, _eval_results(found, facts, data.pipeline_tag)
        _write_entries(folder / _ENTRIES, found, facts)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{render('hub/model_card.md.j2', page)}")
    replace_file(path, card.save)
    return path


def _all_questions(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """Every question that the model answers."""
    further = (getattr(config, f"{kind}_questions", ()) for kind in ("scale", "auxiliary"))
    return [*config.questions, *(one for several in further for one in several)]


def _read_report(folder: Path, model: Path) -> dict[str, Any]:
    """The report.json of a report of this model."""
    path = folder / "report.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no report.json; give the folder that `annot-hf report` wrote.")
    found = read_object(path)
    if found.get("evaluation", {}).get("systems") != [MODEL]:
        raise ValueError(f"{path} is not the report of one run; give one that `annot-hf report` wrote of one run.")
    if found["run"].get("model_sha256") != weights_digest(str(model)):
        raise ValueError(f"{path} is of another model than {model}; predict with this one and report that.")
    return found


def hub_trunks(facts: Mapping[str, Any]) -> list[str]:
    """Hub ids of the trunks that a model of these facts, or its members, started from: not folders or untrained trunks."""
    return list(dict.fromkeys(name for name, elsewhere in _trunks(facts) if not elsewhere))


def _trunks(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name of each trunk that a model or its members started from, and what it is where it is not on the Hub."""
    own = [(facts["recipe"].get("trunk", LOG_MEL), facts.get("trunk"))]
    for name, version in facts.get("trunks", own):
        # the version of a folder is a SHA-256, that of a repository a commit, or unknown
        if name == LOG_MEL:
            yield name, "a convolutional trunk on log-mel frames, trained from scratch"
        elif (version is not None and len(version) == 64) or not _REPOSITORY.fullmatch(name):
            yield name, f"a checkpoint from a folder (SHA-256 {str(version)[:12]})"
        else:
            yield name, ""


def _repository(facts: Mapping[str, Any]) -> tuple[str, str | None]:
    """Id and commit of the corpus's repository on the Hub; empty for a corpus that was read from a folder."""
    name, _, commit = facts.get("origin", {}).get("repository", "").partition("@")
    return name, commit or None


def _card_data(config: PreTrainedConfig, facts: Mapping[str, Any]) -> ModelCardData:
    """What the Hub reads of a card."""
    reads_text = input_name_of(config.trunk_config) == "input_ids"
    license = facts.get("origin", {}).get("license")
    known = license is None or _LICENSE.fullmatch(license)
    return ModelCardData(
        library_name="annot-hf",
        language=facts.get("origin", {}).get("language") or None,
        pipeline_tag="text-classification" if reads_text else "audio-classification",
        license=license if known else "other",
        license_name=None if known else re.sub(r"[^a-z0-9.]+", "-", license.lower()).strip("-"),
        base_model=hub_trunks(facts) or None,
        datasets=[repository] if (repository := _repository(facts)[0]) else None,
        tags=["annot-hf", "label-distribution-learning", "human-label-variation", "text" if reads_text else "speech"],
    )


def _facts_page(config: PreTrainedConfig, facts: Mapping[str, Any], questions: Sequence[Question]) -> dict[str, Any]:
    """What the template of a model card shows of configuration and facts."""
    kind, trunks = input_name_of(config.trunk_config), list(_trunks(facts))
    origin = dict.fromkeys(("version", "license", "homepage", "access", "citation"), "") | facts.get("origin", {})
    shares = np.array(facts["marginal"])
    return {
        "version": __version__,
        "corpus": facts["corpus"],
        "digest": facts["corpus_digest"],
        "part": facts.get("part", {}),
        "marginal_share": facts.get("marginal_share", 0),
        "origin": origin,
        "homepage": _linked(origin["homepage"]),
        "reads": {"input_ids": "text", PROMPTED: "prompted"}.get(kind, "audio"),
        "adapted": config.adapted_from is not None,
        "questions": [(one.name, one.answers, one.prompt) for one in questions],
        "raters": len(getattr(config, "annotators", ())),
        "rater_columns": [str(one["name"]) for one in getattr(config, "rater_columns", ())],
        "onboarded": sum(len(one["answers"]) for one in facts.get("onboarded", ())),
        "splits": [_split_row(name, split) for name, split in facts["splits"].items()],
        "synthetic": facts["splits"]["train"]["votes"]["synthetic"],
        "smallest": (config.support[shares.argmin()], shares.min()) if questions[0].labels else None,
        "architecture": (config.architectures or [type(config).__name__])[0],
        "trunks": [elsewhere or name for name, elsewhere in trunks],
        "inherits": [
            "the checkpoint that it started from" if elsewhere else name
            for name, elsewhere in trunks
            if name != LOG_MEL
        ],
        "target": facts["target"],
        "recipe": list(_recipe_rows(facts["recipe"], hub_trunks(facts))),
        "validation": [(name, number(value, 3)) for name, value in facts["validation"].items()],
    }


def _linked(address: str) -> str:
    """An address as a link in Markdown, if it is a plain one."""
    plain = re.fullmatch(r"https?://[\w.~:/?#@!$&'*+,;=%-]+", address, re.ASCII)
    return f"<{address}>" if plain else markdown_safe(address)


def _split_row(name: str, split: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = {int(votes): items for votes, items in split.get("items by votes", {}).items()}
    each = np.repeat(list(sizes), list(sizes.values()))
    spread = f"{each.min()}, {np.median(each):g}, {each.max()}" if len(each) else "not recorded"
    left_out = "; ".join(f"{reason}: {count:,}" for reason, count in split["excluded"].items()) or "nothing"
    votes = f"{sum(split['votes'].values()):,}"
    return name, f"{split['items']:,}", votes, spread, f"{split['raters']:,}" if "raters" in split else "", left_out


def _recipe_rows(recipe: Mapping[str, Any], known: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Keys of a recipe and their values; of what lies on the machine that trained, the last part of the path at most."""
    for key, value in recipe.items():
        if key in ELSEWHERE or (key == "trunk" and value not in (LOG_MEL, *known)):
            continue
        if key != "trunk":
            value = _last_part(value)
        yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _last_part(value: Any) -> Any:
    """A value, or those of a list, without the folders of a path."""
    if isinstance(value, list):
        return [_last_part(one) for one in value]
    return re.split(r"[\\/]", value)[-1] if isinstance(value, str) else value


def _citations(config: PreTrainedConfig, facts: Mapping[str, Any], found: Mapping[str, Any] | None) -> list[str]:
    """The methods that the model and its evaluation make use of, and its trunk."""
    recipe, texts = facts["recipe"], read_yaml(CITATIONS.read_text(encoding="utf-8"), str(CITATIONS))
    rated, voted = recipe.get("model") == "annotator", getattr(config, "aggregate", "mean") == "votes"
    secondary = facts["target"] == "merged" or any(key.startswith("curriculum.") for key in recipe)
    uses = {
        "rater_heads": rated and not voted,
        "rater_votes": rated and voted,
        "uncertainty": secondary or recipe.get("class_weights.kind"),
        "label_variance": recipe.get("loss") == "ccc" or "trunk_layer" in recipe,
        "synthetic": recipe.get("augmentation.kind") or recipe.get("votes.annotations") or recipe.get("model") == LALM,
        "seedbert": getattr(config, "distribution", "") == "votes",
        "lora": config.adapted_from is not None or recipe.get("lora_rank"),
        config.trunk_config.model_type: True,
        "equivalence": found is not None and found["evaluation"]["equivalence"] is not None,
    }
    return [texts[name].strip() for name, used in uses.items() if used and name in texts]


def _votes_plot(folder: Path, config: PreTrainedConfig, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Draw the votes of the training split; None for facts that do not tell how many votes items have."""
    sizes = {int(votes): items for votes, items in facts["splits"]["train"].get("items by votes", {}).items()}
    if not sizes:
        return None
    names = [question["name"] for question in config.questions]
    shares = np.array(facts["marginal"])
    draw = partial(plot_votes, config.support, shares, sizes, names if len(names) == 2 else ())
    name = "plots/votes.png"
    return shown_figure(save_figure(draw, folder / name), name, say("captions.votes"))


def _report_parts(found: Mapping[str, Any], report: Path, folder: Path) -> dict[str, Any]:
    """What a card shows of a report; its figures are copied to the model's folder."""
    figures = []
    for name in [name for name in _FIGURES if f"plots/{name}.png" in found["plots"]]:
        path = folder / "plots" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(report / "plots" / path.name, path)
        figures.append(shown_figure(path, f"plots/{name}.png", say(f"captions.{name}", systems=[MODEL])))
    notes = [note for note in found["evaluation"]["notes"] if note.startswith(_NEEDED_NOTES)]
    return {**found, "tables": list(_score_tables(found["evaluation"])), "figures": figures, "notes": notes}


def _shown_measures(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The measures over all items and over raters' own answers that a card shows."""
    parts = [evaluation["measures"].get(part, {}) for part in ("items", "raters")]
    # Only questions with labels are broken down by them; the most probable cell of a grid says little.
    aside = _ASIDE if "categories" in evaluation["measures"] else _ASIDE | _OF_LABELS
    return {name: one for part in parts for name, one in part.items() if name not in aside}


def _score_tables(evaluation: Mapping[str, Any]) -> Iterator[Table]:
    """Scores with intervals; then by disagreement, by groups and speakers, calibration, and the worth in raters."""
    further = evaluation["measures"].get("categories", {})
    shown, spread = _shown_measures(evaluation), evaluation["speaker_spread"].get(MODEL)
    floor, worth = evaluation["calibration_floor"], evaluation["equivalence"]
    thirds = [one for one in evaluation["strata"] if one["scheme"] == "thirds"]
    rows = [(_titled(one) + ARROWS[one["better"]], *_cells_of(one, MODEL, MARGINAL)) for one in shown.values()]
    yield worded("card_scores", rows)
    if thirds:
        rows = []
        for one in thirds:
            jsd, accuracy = (further[f"{name}_thirds_{one['name']}"] for name in ("jsd", "accuracy"))
            rows.append((one["name"], one["items"], *_cells_of(jsd, MODEL, MARGINAL), *_cells_of(accuracy, MODEL)))
        yield worded("card_strata", rows)
    if evaluation["speakers"]:
        rows = []
        # Without those that count speakers of many items again.
        for key, group in [one for one in evaluation["speakers"].items() if not one[0].startswith("min")]:
            names = [f"pauar{level}_1_best{'' if key == 'all' else f'_{key}'}" for level in (75, 50)]
            rows.append((group["title"], group["speakers"], *(_cells_of(further[name], MODEL)[0] for name in names)))
        yield worded("card_groups", rows)
    if spread:
        rows = []
        for name in [name for name in ("gap_closed", "jsd") if spread.get(name)]:
            told, unit = spread[name], shown[name]["unit"]
            chosen = [told["best"], told["median"], told["worst"][0]]
            values = [number(one["value"], 1 if unit == "%" else 3) for one in chosen]
            rows.append((_titled(shown[name]), *values, f"{told['worse']:,} of {spread['speakers']:,}"))
        yield worded("card_spread", rows)
    if floor:
        told = {"ece": "Mean over labels", "ece_top": "Most probable label"}
        rows = [
            (title, *_cells_of(further[name], MODEL, MARGINAL), number(floor[name], 3)) for name, title in told.items()
        ]
        yield worded("card_calibration", rows)
    if worth is not None:
        yield worded("card_equivalence", [("Model", worth["systems"][MODEL]["worth"]["text"])])


def _cells_of(measure: Mapping[str, Any], *systems: str) -> list[Cell]:
    """Value and interval of a measure for each system; empty if the system lacks it."""
    return [value_cell(measure["systems"].get(system), measure["unit"]) for system in systems]


def _titled(one: Mapping[str, Any]) -> str:
    return f"{one['title']} ({one['unit']})"


def _eval_results(found: Mapping[str, Any], facts: Mapping[str, Any], task: str) -> list[EvalResult]:
    """The results for the model-index."""
    repository, commit = _repository(facts)
    about = {
        "task_type": task,
        "dataset_type": repository or _slug(facts["corpus"]),
        "dataset_name": facts["corpus"],
        "dataset_revision": commit,
        "dataset_split": found["run"].get("split"),
    }
    return [
        EvalResult(**about, metric_type=name, metric_name=_titled(one), metric_value=round(value, 6))
        for name, one in _shown_measures(found["evaluation"]).items()
        if (value := one["systems"][MODEL]["value"]) is not None
    ]


def _write_entries(folder: Path, found: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """The results as the Hub's files of results want them, in place of earlier ones."""
    for earlier in folder.glob("*.yaml"):
        earlier.unlink()
    folder.mkdir(exist_ok=True)
    better = {"": "", "lower": ", lower is better", "higher": ", higher is better"}
    asked, split = "_".join(question["name"] for question in found["questions"]), found["run"].get("split")
    repository, commit = _repository(facts)
    entries = []
    for name, one in _shown_measures(found["evaluation"]).items():
        entry = one["systems"][MODEL]
        spread = "" if entry["low"] is None else f"; 95 % interval {entry['low']:.4g} to {entry['high']:.4g}"
        notes = f"{_titled(one)}{better[one['better']]}{spread}; split {split}, annot-hf {__version__}"
        if entry["value"] is not None:
            task = _slug(f"{asked}_{name}")
            where = {"dataset_id": repository or _slug(facts["corpus"]), "dataset_revision": commit, "task_id": task}
            entries.append(EvalResultEntry(**where, value=round(entry["value"], 6), notes=notes))
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    replace_file(folder / f"{_slug(facts['corpus'])}.yaml", lambda fresh: fresh.write_text(text, encoding="utf-8"))


def _slug(name: str) -> str:
    """A name as part of a file name or an id."""
    return re.sub(r"[^a-z0-9._=-]+", "-", name.lower()).strip("-.") or "corpus"
