"""What the commands `train`, `predict` and `report` do; `quickstart` does them one after the other."""

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from annot_hf.cli.output import console, print_line, print_path, print_rows, print_text

if TYPE_CHECKING:
    from annot_hf.data.conditions import Condition
    from annot_hf.data.corpus import VoteCorpus
    from annot_hf.data.export import ExportedCorpus


@contextmanager
def loading() -> Iterator[None]:
    """Import, or load a model, without collecting garbage: there is none, and to search for it takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        # later collections leave out what the libraries keep anyway
        gc.freeze()
        gc.enable()


def walk_through(
    corpus: "VoteCorpus | None", out: Path, recipe: str | None, overrides: Sequence[str], missing_audio: str = "error"
) -> Path:
    """Every step one after the other, for a corpus, or a simulated one for None; returns the folder of the report."""
    from annot_hf.data.export import export_corpus, read_export
    from annot_hf.data.own_corpus import OwnCorpus
    from annot_hf.data.simulate import SimulatedCorpus, simulate_corpus
    from annot_hf.hub.cards import write_model_card
    from annot_hf.training.checkpoints import clear_run
    from annot_hf.training.recipe import load_recipe, recipe_names

    reader, root = corpus, None
    if reader is None:
        console.rule("Simulate a corpus whose truth is known")
        # Eight speakers for the test: with four, the interval of what raters gain may include 0.
        root = simulate_corpus(out / "simulated", speakers=32, held_out=8)
        reader, recipe = SimulatedCorpus(root), recipe or "simulated-annotator"
    console.rule("Export it")
    print_rows(f"Corpus {reader.name}", export_corpus(reader, out / "corpus", missing_audio=missing_audio).rows())
    # A file of votes may have any name.
    named = [] if isinstance(reader, OwnCorpus) else [f"{reader.name}-quick", reader.name]
    made = [name for name in named if name in recipe_names()]
    if recipe is None and made:
        recipe = made[0]
    elif recipe is None:
        recipe = choose_recipe(read_export(out / "corpus"), overrides)
    console.rule(f"Train, recipe {recipe}")
    folders = {"corpus": out / "corpus", "output_dir": out / "run", "features": out / "features"}
    words = [*(f"{key}={folder}" for key, folder in folders.items()), *overrides]
    # A refused recipe leaves an earlier run untouched.
    planned = load_recipe(recipe, words)
    clear_run(out / "run")
    model = run_training(recipe, words, resume=False)
    console.rule("Predict the test split")
    write_predictions(model, out / "corpus", "test", out / "predictions", out / "features")
    given = {}
    if planned.recipe.model == "annotator":
        console.rule("Train controls: without raters, and with shuffled rater ids")
        train_side_by_side(out / "run", out / "corpus", out / "controls", afresh=True)
        given["controls"] = out / "controls"
        if root is not None:
            console.rule("New raters, from ten votes each")
            onboard_newcomers(model, root, out / "corpus", out / "newcomers", out / "features")
            given["newcomers"] = out / "newcomers" / "predictions"
    console.rule("Report")
    given["truth"] = root
    report = write_report([out / "predictions"], out / "corpus", out / "report", **given)
    write_model_card(model, report)
    return report


def choose_recipe(exported: "ExportedCorpus", overrides: Sequence[str]) -> str:
    """The recipe for clips or texts, with raters if every vote has one; raises if texts have no encoder at hand."""
    from huggingface_hub import try_to_load_from_cache

    from annot_hf.training.recipe import load_recipe

    named = exported.votes.select(questions=exported.default_questions)
    known = bool((named.annotator_codes >= 0).all())
    if "audio" in exported.items:
        return "speech-annotator" if known else "speech-distribution"
    recipe = "text-annotator" if known else "text-ldl"
    trunk = load_recipe(recipe, [f"corpus={exported.folder}"]).values["trunk"]
    there = isinstance(try_to_load_from_cache(trunk, "config.json"), str)
    if not there and not any(word.startswith("trunk=") for word in overrides):
        raise ValueError(
            f"Texts need an encoder, and {trunk} of recipe {recipe} is not on this machine; add trunk=NAME, a folder or "
            f"Hub id, which is downloaded, such as trunk={trunk}."
        )
    return recipe


def run_training(recipe: str, words: Iterable[str], *, resume: bool) -> Path:
    """Train a recipe, write the model's card and print the validation results; returns the checkpoint folder."""
    with loading():
        from annot_hf.hub.publish import train_and_push
        from annot_hf.training.recipe import load_recipe
        from annot_hf.training.train import check_corpus_named

    run = load_recipe(recipe, list(words), resume=resume)
    # a run that is refused writes to no folder
    check_corpus_named(run)
    print_line(f"{'Resuming' if resume else 'Writing to'} {run.training.output_dir}")
    result = train_and_push(run, resume=resume)
    rows = [(name, f"{value:.4f}") for name, value in result.metrics.items() if isinstance(value, float)]
    print_rows("Kept epoch, validation", rows, ("measure", "value"))
    return result.model


def write_predictions(
    model: Path,
    corpus: Path,
    split: str,
    out: Path,
    features: Path | None,
    max_seconds: float | None = None,
    condition: "Condition | None" = None,
    explain: int = 0,
    robustness: int = 240,
) -> None:
    """Predict a split under one condition, write it, and print the counts.

    Predictions for clean clips have, in the folder "robustness", those of a sample of so many clips under other conditions.
    """
    with loading():
        from annot_hf.data.export import read_export
        from annot_hf.training.checkpoints import load_model
        from annot_hf.training.inference import predict, predict_robustness, save_predictions

    applied = {} if condition is None else {"condition": str(condition), "condition_seed": condition.seed}
    options = {"split": split, "features": features, "max_seconds": max_seconds, "loaded": load_model(model)}
    exported = read_export(corpus)
    predictions, targets = predict(model, exported, **options, **applied)
    under = {}
    if condition is None or condition.is_clean:
        under = predict_robustness(model, exported, clips=robustness, **options)
    save_predictions(predictions, under, out)
    if explain:
        from annot_hf.experiments.explain import explain as explain_texts, most_divided
        from annot_hf.report.studies import write_explanations

        chosen = most_divided(predictions, explain)
        texts = exported.items.set_index("item")["text"].reindex(chosen)
        found = explain_texts(model, chosen, list(texts), targets)
        title = f"{exported.name}: what members attend to, {len(chosen)} texts with the most disagreement"
        write_explanations(found, predictions.support, out / "explanations.html", title=title)
    rows = [("items predicted", f"{len(predictions):,}", "")]
    rows += [(reason, f"{count:,}", "left out") for reason, count in targets.excluded.items()]
    if len(predictions.rater_items):
        own = int((~predictions.rater_fallback).sum())
        rows.append(("rater answers by own head", f"{own:,}", ""))
        others = len(predictions.rater_items) - own
        rows.append(("rater answers by consensus", f"{others:,}", "rater unseen in training"))
    if under:
        sampled = len(next(iter(under.values())))
        rows.append(("clips also predicted altered", f"{sampled:,}", ", ".join(under)))
    altered = "" if condition is None or condition.is_clean else f", {condition}"
    print_rows(f"Predictions, split {split}{altered}", rows)


# How a table is written, by the suffix of its file.
TABLE_WRITERS = {
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
    ".jsonl": lambda table, path: table.to_json(path, orient="records", lines=True, force_ascii=False),
}


def check_given(out: Path | None, timeline: tuple[float, float] | None) -> None:
    """Raise before a model is loaded if `predict_given` can write no such file, or its windows fit no timeline."""
    from annot_hf.data.audio import window_samples

    if out is not None and out.suffix not in TABLE_WRITERS:
        raise ValueError(
            f"{out} ends in {out.suffix or 'nothing'}; name a file that ends in {', '.join(TABLE_WRITERS)}."
        )
    if timeline:
        window_samples(*timeline)


def predict_given(
    model: Path,
    clips: Sequence[str],
    column: str,
    out: Path | None,
    max_seconds: float | None = None,
    timeline: tuple[float, float] | None = None,
) -> None:
    """Predict clips or texts outside any corpus into a file, or print the table as CSV.

    What is given twice is predicted once and has two rows. With a `timeline`, a window and a hop (s), the table has a row a
    window, and its start and end (s).
    """
    with loading():
        import pandas as pd

        from annot_hf.data.files import replace_file
        from annot_hf.data.given_inputs import find_inputs
        from annot_hf.data.predictions import prediction_frame
        from annot_hf.models.trunks import input_name_of
        from annot_hf.training.checkpoints import load_model
        from annot_hf.training.inference import accepted_seconds, predict_inputs, predict_timeline

        loaded, processor, facts = load_model(model)
    texts = input_name_of(loaded.config.trunk_config) == "input_ids"
    names, sources, rows = find_inputs(clips, texts=texts, column=column)
    if timeline:
        tables = []
        for name, source in zip(names, sources, strict=True):
            spans, found = predict_timeline(loaded, processor, source, window=timeline[0], hop=timeline[1])
            tables.append(prediction_frame(found).assign(item=name))
            for place, edge in enumerate(("start", "end"), start=1):
                tables[-1].insert(place, edge, spans[:, place - 1])
        table = pd.concat([tables[row] for row in rows], ignore_index=True)
    else:
        longest = accepted_seconds(facts) if max_seconds is None else max_seconds
        table = prediction_frame(predict_inputs(loaded, processor, sources, names=names, max_seconds=longest)).iloc[
            rows
        ]
    if out is None:
        print_line(table.to_csv(index=False).rstrip())
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, lambda path: TABLE_WRITERS[out.suffix](table, path))
    print_line(f"{len(table):,} {'windows' if timeline else 'items'}")
    print_path(out)


def check_explanation(model: Path, conditions: "Sequence[Condition]") -> None:
    """Raise before anything is predicted if it could not be explained."""
    from transformers import AutoConfig

    from annot_hf.experiments.explain import check_explainable

    if len(conditions) > 1 or not conditions[0].is_clean:
        raise ValueError("--explain shows words, which acoustic conditions do not alter; leave --condition out.")
    # Prediction reports a missing file.
    if (model / "config.json").is_file():
        check_explainable(AutoConfig.from_pretrained(model), model)


def train_side_by_side(run: Path, corpus: Path, out: Path, split: str = "test", *, afresh: bool = False) -> None:
    """Train the two controls of a run, at the same time if there are two cores."""
    from annot_hf.experiments.controls import train_controls

    found = train_controls(run, corpus, out, split=split, processes=min(2, os.cpu_count() or 1), afresh=afresh)
    print_rows("Controls", [(name, f"{len(one):,} items predicted", "") for name, one in found.items()])


def onboard_newcomers(model: Path, root: Path, corpus: Path, out: Path, features: Path) -> None:
    """Give the newcomers of a simulation heads of their own, and predict the clips of the test split for them."""
    from dataclasses import replace

    from annot_hf.data.export import read_export
    from annot_hf.data.simulate import NEWCOMERS_FILE, read_newcomers
    from annot_hf.hub.cards import write_model_card
    from annot_hf.training.inference import predict
    from annot_hf.training.onboarding import onboard

    exported = read_export(corpus)
    joined = onboard(model, root / NEWCOMERS_FILE, exported, out / "model", features=features)
    write_model_card(joined.model)
    asked = replace(exported, votes=read_newcomers(root))
    predictions, _ = predict(joined.model, asked, split="test", features=features)
    each = min(joined.answers.values())
    replace(predictions, meta=predictions.meta | {"onboarding_votes": each}).save(out / "predictions")
    print_rows("New raters", [(name, f"{count:,} votes", "") for name, count in joined.answers.items()])


def write_report(
    folders: Sequence[Path],
    corpus: Path,
    out: Path,
    *,
    listen: bool | None = None,
    votes_half: str = "",
    **given: Path | None,
) -> Path:
    """Write the report of one run, or the comparison of several, and print its opening; returns its folder.

    `given` are folders for one run: of the simulation (`truth`), of predictions under acoustic `conditions`, of `controls` and
    of predictions for `newcomers` of the simulation. `listen` puts the audio of three clips into the page, by default if the
    corpus says that it may be passed on; texts that may not be stay out. `votes_half` scores against one half of the votes.
    """
    from dataclasses import replace

    from annot_hf.data.export import read_export
    from annot_hf.data.predictions import Predictions
    from annot_hf.data.simulate import read_newcomers, read_truth
    from annot_hf.data.synthetic import half_of
    from annot_hf.evaluation.alignment import read_conditions, read_controls, read_robustness
    from annot_hf.evaluation.evaluate import MODEL
    from annot_hf.evaluation.raters import held_against
    from annot_hf.models.kde import bins_of
    from annot_hf.report.report import build_comparison, build_report
    from annot_hf.report.tables import say

    runs, exported = [Predictions.load(folder) for folder in folders], read_export(corpus)
    for folder, run in zip(folders, runs, strict=True):
        if run.meta.get("corpus_digest", exported.digest) != exported.digest:
            raise ValueError(
                f"{folder} predicts corpus {run.meta.get('corpus')!r} as it was exported elsewhere, and {corpus} is not that "
                "export; name the corpus that was predicted, or predict this one."
            )
    names = [question.name for question in runs[0].questions]
    split, bins = runs[0].meta.get("split", "test"), bins_of(runs[0].support, names)
    if votes_half:
        exported = replace(exported, votes=half_of(exported.votes, votes_half))
    targets = exported.targets(split, names, bins=bins)
    runs = [run.in_order(targets.support) for run in runs]
    marginals = [run.meta.pop("marginal", None) for run in runs]
    title = f"{exported.name}: {' and '.join(names)}, split {split}"
    options = {"title": title, "items": exported.items, "marginal": marginals[0], "votes": exported.votes}
    options["listen"] = listen
    if listen is None:
        options["listen"] = "audio" in exported.items and exported.shareable == "everything"
    if exported.shareable in ("votes", "nothing"):
        options["items"] = exported.items.drop(columns="text", errors="ignore")
    if votes_half:
        options |= {"title": f"{title}, {votes_half} half of the votes", "on_missing": "exclude"}
    if len(runs) > 1:
        names = _run_names(folders)
        if len(set(names)) < len(names):
            raise ValueError(f"{folders[0]} is given twice; compare different runs.")
        built = build_comparison(dict(zip(names, runs, strict=True)), targets, out, **options)
    else:
        given = {name: folder for name, folder in given.items() if folder is not None}
        truth = read_truth(given["truth"]) if "truth" in given else None
        if "conditions" in given:
            options["conditions"] = read_conditions(given["conditions"])
        options["robustness"] = read_robustness(folders[0])
        controls = read_controls(given["controls"], runs[0]) if "controls" in given else {}
        options["controls"] = held_against(runs[0], controls, truth, marginals[0])
        if "newcomers" in given:
            joined = Predictions.load(given["newcomers"]).in_order(targets.support)
            options["newcomers"] = ({MODEL: joined} | held_against(joined, truth=truth), read_newcomers(given["truth"]))
        built = build_report(*runs, targets, out, truth=truth, **options)
    print_text(built.summary)
    print_rows(say("numbers.title"), [(one.title, one.value, one.interval) for one in built.opening.numbers])
    return built.folder


def _run_names(folders: Sequence[Path]) -> list[str]:
    """What sets the paths of several runs apart: "a" and "b" for runs/a/predictions and runs/b/predictions."""
    parts = [folder.resolve().parts for folder in folders]
    for end in (0, -1):
        while len({one[end] if one else None for one in parts}) == 1 and parts[0]:
            parts = [one[1:] if end == 0 else one[:-1] for one in parts]
    return [str(Path(*one)) if one else str(folder) for one, folder in zip(parts, folders, strict=True)]
