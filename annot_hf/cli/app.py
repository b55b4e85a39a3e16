"""The command line `annot-hf`.

Each command reads files, calls a public function, writes files and prints one table. Heavy imports wait until a command
runs, so that `--help` is fast.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperCommand

from annot_hf import __version__
from annot_hf.cli import asking, start, steps
from annot_hf.cli.output import (
    WORDS,
    CorpusFolder,
    MaxSeconds,
    OneSplit,
    Out,
    Overrides,
    RecipeName,
    Revision,
    RobustClips,
    SpeakerResamples,
    Splits,
    Without,
    keep_traceback,
    print_error,
    print_key,
    print_line,
    print_path,
    print_rows,
    print_table,
    print_text,
)

app = typer.Typer(
    name="annot-hf",
    help="Votes in, a distribution of human opinion out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print_line(f"annot-hf {__version__}")
        raise typer.Exit


@app.callback()
def begin(
    version: Annotated[
        bool, Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Read the options that stand before a command."""


app.command(context_settings=WORDS)(start.quickstart)
app.command()(start.corpus)


@app.command()
def agree(
    folder: Annotated[Path, Argument(help="Folder or Hub id of an exported corpus.")],
    out: Annotated[
        Path | None, Option("--out", help="Folder to write: a page with plots, JSON, tables of raters and items.")
    ] = None,
    group: Annotated[
        list[str] | None,
        Option(help="Item column by which to compare disagreement; repeatable; default: all with 12 values or fewer."),
    ] = None,
    predictions: Annotated[
        Path | None, Option(help="Folder of predictions that did not learn from these votes, for CROWDLAB.")
    ] = None,
    resamples: SpeakerResamples = 1000,
    seed: Annotated[int, Option(help="Seed of all draws.")] = 0,
) -> None:
    """How far raters agree on each question, with 95 % intervals: alpha, pairwise agreement, kappas, entropy, information.

    With `--out`, a page also has noise ceilings, raters whose votes carry no information, schools of opinion, groups of items,
    what aggregation changes, and which items to ask about next.

    Example: `annot-hf agree data/cremad --out runs/agreement`
    """
    from annot_hf.data.export import read_export
    from annot_hf.data.predictions import Predictions
    from annot_hf.evaluation.agreement_study import study_agreement
    from annot_hf.report.agreement_page import save_study, study_tables

    corpus = read_export(folder)
    model = None if predictions is None else Predictions.load(predictions)
    options = {"groups": group or (), "predictions": model, "n_resamples": resamples, "seed": seed}
    found = study_agreement(corpus.votes, corpus.items, details=out is not None, **options)
    for table in study_tables(found):
        print_table(table)
    if out is not None:
        print_path(
            save_study(found, out, corpus=corpus.name, details={"corpus": folder, "resamples": resamples, "seed": seed})
        )


@app.command()
def splits(folder: Annotated[Path, Argument(help="Folder or Hub id of an exported corpus.")]) -> None:
    """What each split holds, and whether a speaker, session, conversation, document or text is in several, an error.

    Example: `annot-hf splits data/cremad`
    """
    from annot_hf.data.export import read_export
    from annot_hf.data.folds import describe_splits, find_leaks

    corpus = read_export(folder)
    for name, row in describe_splits(corpus.items, corpus.votes).iterrows():
        print_rows(f"Split {name}", [(what, f"{count:,}", "") for what, count in row.items()])
    leaks = [f"{len(names)} {column}s, such as {names[0]!r:.80}" for column, names in find_leaks(corpus.items).items()]
    if leaks:
        raise ValueError(f"{corpus.name} has items in several splits of {' and of '.join(leaks)}; divide it by group.")
    print_line("No speaker, session, conversation, document or text is in several splits.")


app.command()(asking.annotate)
app.command()(asking.saturation)


@app.command()
def saliency(
    model: Annotated[str, Argument(help="Plain trunk or trained checkpoint: a folder or a Hub id.")],
    corpus: CorpusFolder,
    out: Out,
    split: OneSplit = "train",
    items: Annotated[int, Option(help="Largest number of items, drawn at random.")] = 30_000,
    question: Annotated[list[str] | None, Option(help="Question; may be given several times.")] = None,
    formula: Annotated[str, Option(help="absolute or penalised; both are our choice.")] = "absolute",
    gamma: Annotated[float | None, Option(help="Weight of the penalty of penalised; 0.1 by default.")] = None,
    batch_size: Annotated[int, Option(help="Items per batch.")] = 16,
    max_seconds: MaxSeconds = 30.0,
    revision: Revision = None,
) -> None:
    """Find the layer of a trunk that correlates most with the votes: table, plot, and the file that `trunk_layer` reads.

    Example: `annot-hf saliency microsoft/wavlm-base-plus --corpus data/cremad --out runs/saliency`, and then
    `annot-hf train speech-distribution trunk=microsoft/wavlm-base-plus trunk_layer=runs/saliency/saliency.json ...`
    """
    from annot_hf.experiments.salient_layer import measure_saliency
    from annot_hf.report.pages import save_figure
    from annot_hf.report.studies import plot_saliency, saliency_table, save_saliency

    found = measure_saliency(
        model,
        corpus,
        split=split,
        items=items,
        questions=question or (),
        formula=formula,
        gamma=gamma,
        batch_size=batch_size,
        max_seconds=max_seconds,
        revision=revision,
    )
    path = save_saliency(found, out)
    save_figure(lambda: plot_saliency(found), out / "saliency.png")
    print_table(saliency_table(found))
    print_line(f"trunk_layer={path}")


class _TrainCommand(TyperCommand):
    """`train`, whose help ends with every key; to list them takes torch, which no other help loads."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        from annot_hf.training.keys import key_sections

        for title, keys in key_sections().items():
            print_line(f"\n{title}")
            for name, key in keys.items():
                print_key(name, key, key.default, indent="  ")


@app.command(cls=_TrainCommand, context_settings=WORDS)
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    corpus: Annotated[str, Option("--corpus", help="Folder or Hub id of an exported corpus; the key `corpus`.")] = "",
    out: Annotated[
        str, Option("--out", help="Folder to write, such as runs/2026-11-28-cremad by default; the key `output_dir`.")
    ] = "",
    resume: Annotated[
        bool, Option(help="Resume from the newest checkpoint, by default in the newest folder of the recipe.")
    ] = False,
) -> None:
    """Train as a recipe says; the folder that is written has the checkpoint in `model`.

    Overrides set keys. All keys follow below, with their defaults; `annot-hf recipe show RECIPE` has the values of a recipe.

    Example: `annot-hf train speech-distribution --corpus data/cremad --out runs/cremad num_train_epochs=5`
    """
    words = [f"{key}={json.dumps(value)}" for key, value in {"corpus": corpus, "output_dir": out}.items() if value]
    print_path(steps.run_training(recipe, [*words, *(overrides or [])], resume=resume))


# Which options of `predict` fit which of its modes, and what is said where one does not.
FITTING = {
    **dict.fromkeys(
        ("split", "features", "condition", "condition_seed", "robustness", "explain"),
        (("corpus",), "a split of a corpus, which is named as --corpus"),
    ),
    "column": (("clips", "timeline"), "tables of clips or texts, and not for a split of a corpus"),
    "max_seconds": (("corpus", "clips"), "whole clips, and --timeline takes clips of any length"),
    "timeline": (("timeline",), "clips, and not for a split of a corpus"),
    **dict.fromkeys(("window", "hop"), (("timeline",), "a timeline, which --timeline asks for")),
}


@app.command()
def predict(
    ctx: typer.Context,
    model: Annotated[Path, Argument(help="Checkpoint folder or Hub id.")],
    clips: Annotated[
        list[str] | None,
        Argument(
            help="Clips or texts: sound files, folders, patterns, text files with a text or a path a line, tables, or "
            "exported corpora."
        ),
    ] = None,
    corpus: Annotated[
        Path | None, Option("--corpus", help="Exported corpus, a folder or a Hub id, to predict one of its splits.")
    ] = None,
    out: Annotated[
        Path | None,
        Option(
            "--out",
            "-o",
            help="Folder to write for --corpus; else a .csv, .parquet or .jsonl file, or nothing.",
        ),
    ] = None,
    split: OneSplit = "test",
    column: Annotated[str, Option(help="Column of the texts or paths in tables; found by its name by default.")] = "",
    features: Annotated[
        Path | None, Option(help="Folder that caches features; by default 'features' next to --out.")
    ] = None,
    max_seconds: Annotated[float | None, Option(help="Longest clip (s); as in training by default.")] = None,
    timeline: Annotated[
        bool, Option("--timeline", help="Predict overlapping windows of clips of any length, a row each.")
    ] = False,
    window: Annotated[float, Option(help="Length of a window of the timeline (s).")] = 4.0,
    hop: Annotated[
        float | None, Option(help="From one window of the timeline to the next (s); half a window by default.")
    ] = None,
    condition: Annotated[
        list[str] | None,
        Option(
            help="Acoustic condition to apply to the clips, such as clean, noise:20, band:3400, gain:-12 or mp3:16. "
            "Repeat the option for several conditions; each gets a folder under --out, such as OUT/noise-10."
        ),
    ] = None,
    condition_seed: Annotated[int, Option(help="Seed of the conditions.")] = 0,
    robustness: RobustClips = 240,
    explain: Annotated[
        int, Option(min=0, help="Texts with the most disagreement for which to show what each member attends to.")
    ] = 0,
    revision: Revision = None,
) -> None:
    """Predict clips or texts, or a split of a corpus: a distribution per item, and each rater's answer if it has raters.

    Example: `annot-hf predict runs/cremad/model new-clips -o predicted.csv`, or, for an hour of speech,
    `annot-hf predict runs/cremad/model hour.wav --timeline -o timeline.csv`, or, to compare with votes,
    `annot-hf predict runs/cremad/model --corpus data/cremad --out runs/cremad/predictions`
    """
    from annot_hf.data.conditions import CLEAN, Condition
    from annot_hf.models.access import find_folder

    if (clips is None) == (corpus is None):
        raise ValueError("Give either clips or texts to predict, or --corpus to predict one of its splits and compare.")
    mode = "corpus" if corpus else "timeline" if timeline else "clips"
    for name, (modes, said) in FITTING.items():
        if mode not in modes and ctx.get_parameter_source(name).name == "COMMANDLINE":
            raise ValueError(f"--{name.replace('_', '-')} is for {said}; leave it out.")
    if corpus and out is None:
        raise ValueError("--corpus needs a folder to write; name it as --out.")
    if corpus and out.suffix in steps.TABLE_WRITERS:
        raise ValueError(f"--out is {out}, a table, and --corpus writes a folder; name a folder.")
    spans = (window, window / 2 if hop is None else hop) if timeline else None
    if clips:
        steps.check_given(out, spans)
    model = find_folder(model, "model", revision=revision)
    if clips:
        steps.predict_given(model, clips, column, out, max_seconds, spans)
        return
    asked = [Condition.parse(text, condition_seed) for text in condition or [CLEAN]]
    for one in asked:
        if asked.count(one) > 1:
            raise ValueError(f"Condition {str(one)!r} is given twice; give each condition once.")
    if explain:
        steps.check_explanation(model, asked)
    # The corpus's own folder may be read-only.
    features = features or out.resolve().parent / "features"
    for one in asked:
        where = out / one.folder if len(asked) > 1 else out
        steps.write_predictions(model, corpus, split, where, features, max_seconds, one, explain, robustness)
    print_path(out)


@app.command()
def controls(
    run: Annotated[Path, Argument(help="Output folder of the training of an annotator model.")],
    corpus: CorpusFolder,
    out: Out,
    split: OneSplit = "test",
) -> None:
    """Train what a model of raters is held against, by its own recipe: without raters, and with shuffled rater ids.

    Example: `annot-hf controls runs/raters --corpus data/mine --out runs/controls`, and then
    `annot-hf report runs/raters/predictions --corpus data/mine --controls runs/controls --out runs/raters/report`
    """
    steps.train_side_by_side(run, corpus, out, split)
    print_path(out)


@app.command()
def report(
    predictions: Annotated[list[Path], Argument(help="Folders that predict wrote; several are compared.")],
    corpus: CorpusFolder,
    out: Out,
    truth: Annotated[Path | None, Option(help="Folder of the simulation, if the corpus is simulated.")] = None,
    conditions: Annotated[
        Path | None, Option(help="Folder with predictions of the same model under acoustic conditions.")
    ] = None,
    controls: Annotated[
        Path | None, Option(help="Folder that controls wrote, to show what knowing the rater gains.")
    ] = None,
    newcomers: Annotated[
        Path | None, Option(help="Folder with predictions for the newcomers of the simulation; needs --truth.")
    ] = None,
    votes_half: Annotated[
        str, Option(help="Score against the first or second half of each item's votes; see votes.half.")
    ] = "",
    listen: Annotated[
        bool | None,
        Option(
            help="Put the audio of three clips into the page; by default, if the corpus says that it may be passed on."
        ),
    ] = None,
) -> None:
    """Compare predictions with the votes, or several runs with each other: JSON, Markdown, HTML and plots.

    Example: `annot-hf report runs/cremad/predictions --corpus data/cremad --out runs/cremad/report`
    """
    given = {"conditions": conditions, "truth": truth, "controls": controls, "newcomers": newcomers}
    for name, value in given.items():
        if len(predictions) > 1 and value is not None:
            raise ValueError(f"--{name} needs a single run; leave it or the other predictions out.")
    if newcomers is not None and truth is None:
        raise ValueError("--newcomers are those of a simulation; give its folder as --truth.")
    print_path(steps.write_report(predictions, corpus, out, listen=listen, votes_half=votes_half, **given))


@app.command()
def publish(
    folder: Annotated[Path, Argument(help="Checkpoint folder, exported corpus, or folder of a Space or a metric.")],
    repository: Annotated[str, Argument(help="Id of the repository, such as me/mine.")],
    kind: Annotated[
        str, Option(help="model, dataset, space or metric; found by what is in the folder by default.")
    ] = "",
    private: Annotated[
        bool, Option("--private/--public", help="Whether a repository that is created can be read by you alone.")
    ] = True,
    dry_run: Annotated[bool, Option(help="Say what would go up; ask the Hub nothing.")] = False,
    report: Annotated[Path | None, Option(help="Report of the model, whose results go into its card.")] = None,
    keep_raters: Annotated[bool, Option(help="Leave rater ids as they are, instead of salting them.")] = False,
    license: Annotated[
        str, Option(help="Licence under which you pass on clips and texts of your own corpus; else votes alone go up.")
    ] = "",
) -> None:
    """Put a model, a corpus, a Space or a metric on the Hub: what is on a list of what may leave, and nothing else.

    Example: `annot-hf publish runs/cremad/model me/cremad --report runs/cremad/report`
    """
    from annot_hf.hub.publish import publish as publish_folder

    options = {"kind": kind, "private": private, "dry_run": dry_run, "keep_raters": keep_raters, "license": license}
    found = publish_folder(folder, repository, report=report, **options)
    verb = "would go up" if dry_run else "is published" if found.commit else "is up to date"
    print_rows(f"{found.kind} {repository} {verb}", found.rows())
    for note in found.notes:
        print_text(note)
    if found.url:
        print_line(found.url)


@app.command(context_settings=WORDS)
def results(
    plan: Annotated[Path, Argument(help="YAML file with recipe, seeds and systems.")],
    corpus: CorpusFolder,
    out: Out,
    overrides: Overrides = None,
    split: Annotated[str, Option(help="Split to score.")] = "test",
    resamples: SpeakerResamples = 1000,
    robustness: RobustClips = 240,
    without: Without = None,
) -> None:
    """Train several systems with several seeds: a table and a page with all scores; resumes an interrupted run.

    Example: `annot-hf results benchmarks/plans/cremad.yaml --corpus data/cremad --out runs/results`
    """
    from annot_hf.experiments.plans import read_plan, run_plan
    from annot_hf.report.systems import systems_tables

    options = {"split": split, "n_resamples": resamples, "robustness": robustness}
    found, page = run_plan(read_plan(plan).without(without or ()), corpus, out, overrides or [], **options)
    print_table(systems_tables(found)[0])
    print_path(page.with_suffix(".html"))


@app.command(context_settings=WORDS)
def benchmark(
    task: Annotated[str, Argument(help="lewidi2023, lewidi2025 or emosuperb.")],
    root: Annotated[Path, Option("--root", help="Folder of one corpus of the task, as it is published.")],
    out: Out,
    overrides: Overrides = None,
    without: Without = None,
    resamples: SpeakerResamples = 1000,
) -> None:
    """Run a public benchmark on one of its corpora: by its own split or folds, with its own scores beside ours; resumes.

    Example: `annot-hf benchmark lewidi2023 --root lewidi/ConvAbuse --out runs/convabuse`
    """
    from annot_hf.experiments.shared_tasks import run_benchmark

    found, page = run_benchmark(task, root, out, overrides or [], without=without or (), n_resamples=resamples)
    counts = found.counts
    print_text(f"{counts['n_evaluated']:,} items; runs: {', '.join(f'{k} {v}' for k, v in counts['runs'].items())}")
    print_path(page.with_suffix(".html"))


@app.command(context_settings=WORDS)
def crossval(
    recipe: Annotated[str, Argument(help="Recipe (a name or a file), or a plan with several systems.")],
    corpus: CorpusFolder,
    out: Out,
    overrides: Overrides = None,
    folds: Annotated[
        str, Option(help="Folds per repeat, or a CSV file with columns item, fold and, if you like, part.")
    ] = "5",
    repeats: Annotated[int, Option(help="How often the items are divided.")] = 5,
    group: Annotated[
        str, Option(help="Column whose groups stay in one fold; by default conversation, document, speaker or item.")
    ] = "",
    split: Splits = None,
    items: Annotated[
        int | None, Option(help="How many items to use, in whole groups drawn at random; all by default.")
    ] = None,
    test_folds: Annotated[
        int | None, Option(help="How many folds of a single repeat to test, for a first look; all by default.")
    ] = None,
    validation: Annotated[
        float, Option(help="Share of the items outside the test part that is set aside for validation.")
    ] = 0.1,
    stratify: Annotated[
        bool, Option(help="Give every fold its share of every label and third of disagreement.")
    ] = False,
    seed: Annotated[int | None, Option(help="Seed of folds and runs; the plan's first, or 0, by default.")] = None,
    resamples: Annotated[int, Option(help="Bootstrap resamples of groups.")] = 1000,
    keep_models: Annotated[bool, Option(help="Keep the model of every run.")] = False,
    without: Without = None,
) -> None:
    """Cross-validate one recipe or several systems, repeatedly: tables and a page; resumes an interrupted run.

    Example: `annot-hf crossval speech-distribution --corpus data/cremad --out runs/crossval --group speaker`
    """
    from annot_hf.experiments.crossval import crossval as run_crossval
    from annot_hf.experiments.plans import plan_of
    from annot_hf.report.systems import crossval_tables

    found, page = run_crossval(
        plan_of(recipe).without(without or ()),
        corpus,
        out,
        overrides or [],
        folds=int(folds) if folds.isdecimal() else folds,
        repeats=repeats,
        group=group,
        splits=split or (),
        items=items,
        test_folds=test_folds,
        validation=validation,
        stratify=stratify,
        seed=seed,
        n_resamples=resamples,
        keep_models=keep_models,
    )
    counts = found.counts
    tested = f"{repeats} x {len(counts['folds']) // repeats} folds"
    grouped = f"{counts['groups']:,} groups, by {counts['unit']}"
    for table in crossval_tables(found)[:2]:
        print_table(table)
    left_out = "".join(f" Left out: {count:,} {reason}." for reason, count in counts["excluded"].items())
    print_text(f"{counts['n_evaluated']:,} items of {grouped}; {tested}.{left_out}")
    print_path(page.with_suffix(".html"))


@app.command()
def onboard(
    model: Annotated[Path, Argument(help="Checkpoint folder or Hub id of a model with raters.")],
    votes: Annotated[
        Path | None, Argument(help="CSV file of votes of new raters: item, annotator, question, value.")
    ] = None,
    corpus: CorpusFolder = ...,
    out: Out = ...,
    raters: Annotated[
        Path | None,
        Option(help="CSV table of raters, for a model trained with one; raters new to the model need no votes."),
    ] = None,
    features: Annotated[
        Path | None, Option(help="Folder that caches features; by default 'features' next to --out.")
    ] = None,
    max_seconds: Annotated[float | None, Option(help="Longest clip (s); as in training by default.")] = None,
    revision: Revision = None,
) -> None:
    """Give new raters rows of their own in a trained model, from a few votes each on items of the corpus.

    Example: `annot-hf onboard runs/mine/model votes.csv --corpus data/mine --out runs/mine-onboarded`
    """
    from annot_hf.hub.cards import write_model_card
    from annot_hf.training import onboarding

    limits = {"features": features, "max_seconds": max_seconds, "revision": revision}
    found = onboarding.onboard(model, votes, corpus, out, raters=raters, **limits)
    write_model_card(found.model)
    counts = sorted(found.answers.values())
    rows = [("raters onboarded", f"{len(counts):,}", "")]
    rows += [("answers of a rater", f"{counts[0]:,} to {counts[-1]:,}", f"{sum(counts):,} in all")]
    rows += [(reason, f"{count:,}", "left out") for reason, count in found.left_out.items()]
    print_rows("New raters", rows)
    print_path(found.model)


recipes = typer.Typer(help="The recipes that come with the package, and every key of one.", no_args_is_help=True)
app.add_typer(recipes, name="recipe")


@recipes.command("list")
def list_recipes() -> None:
    """The recipes that come with the package, one line each."""
    from annot_hf.training.recipe import recipe_names, summarise_recipe

    for name in recipe_names():
        print_line(f"{name}: {summarise_recipe(name)}")


@recipes.command("show", context_settings=WORDS)
def show_recipe(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Every key that the recipe may set: its type, its value there or else its default, and its meaning.

    Example: `annot-hf recipe show speech-distribution trunk=microsoft/wavlm-base-plus`
    """
    from annot_hf.training.recipe import describe_recipe

    for name, (key, value) in describe_recipe(recipe, overrides or []).items():
        print_key(name, key, value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    An error in the user's input prints one line and exits with status 2. Any other error prints one line, writes the traceback
    to a file, and exits with status 1.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if not sys.stderr.isatty():
        # the bars of libraries are no lines of a log file
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app(args=arguments)
    except (FileExistsError, NotADirectoryError) as error:
        print_error(f"{error.filename} is a file where a folder is needed; name another one, or remove it.")
        sys.exit(2)
    except ModuleNotFoundError as error:
        print_error(
            f"The package {error.name} is not installed; install it, or all that annot-hf needs (pip install annot-hf)."
        )
        sys.exit(2)
    except (ValueError, OSError) as error:
        print_error(str(error) or type(error).__name__)
        sys.exit(2)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".removesuffix(".")
        print_error(f"{said}. This error was not expected; {keep_traceback()}.")
        sys.exit(1)
