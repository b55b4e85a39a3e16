"""The command line `annot-hf`.

Each command reads files, calls a public function, writes files and prints one table. Heavy imports wait until a command
runs, so that `--help` is fast.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperCommand

from annot_hf.cli import start, steps
from annot_hf.cli.output import (
    keep_traceback,
    print_error,
    print_key,
    print_line,
    print_path,
    print_rows,
    print_table,
    print_text,
)

# --learning_rate=1e-3 is an override like learning_rate=1e-3.
WORDS = {"ignore_unknown_options": True}
RecipeName = Annotated[str, Argument(help="Recipe file, or the name of one that comes with the package.")]
Overrides = Annotated[list[str] | None, Argument(help="Overrides such as learning_rate=1e-3.")]
Out = Annotated[Path, Option("--out", help="Folder to write.")]
CorpusFolder = Annotated[Path, Option("--corpus", help="Folder of an exported corpus.")]
OneSplit = Annotated[str, Option(help="Which split.")]
Splits = Annotated[list[str] | None, Option(help="Split to use; may be given several times; all by default.")]
Without = Annotated[list[str] | None, Option(help="System of the plan to leave out; may be given several times.")]
SpeakerResamples = Annotated[int, Option(help="Bootstrap resamples of speakers.")]
RobustClips = Annotated[
    int, Option(min=0, help="Clips, evenly spaced over speakers, that are also predicted altered; 0 for none.")
]
MaxSeconds = Annotated[float, Option(help="Longest clip (s).")]

app = typer.Typer(
    name="annot-hf",
    help="Votes in, a distribution of human opinion out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

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


@app.command()
def annotate(
    corpus: Annotated[Path | None, Argument(help="Folder of an exported corpus with audio.")] = None,
    out: Annotated[Path, Option("--out", help="Folder to write; run with the same folder again to resume.")] = ...,
    model: Annotated[str, Option(help="Model to ask: its name on the server, or a Hub id or folder.")] = "",
    backend: Annotated[
        str,
        Option(help="openai (any server with its chat protocol), gemini, or local (transformers on this machine)."),
    ] = "openai",
    base_url: Annotated[str | None, Option(help="Address of the server, such as http://127.0.0.1:8000/v1.")] = None,
    key_env: Annotated[
        str, Option(help="Environment variable that holds the key; default OPENAI_API_KEY or GEMINI_API_KEY.")
    ] = "",
    question: Annotated[str, Option(help="Category question to ask; default: the corpus's default question.")] = "",
    split: Annotated[
        list[str] | None, Option(help="Split whose items are asked about; repeatable; default: all but test.")
    ] = None,
    items: Annotated[int | None, Option(help="Number of items, drawn at random; default: all.")] = None,
    plan: Annotated[
        str,
        Option(
            help="paper (as published; wording and draws are ours) or crossed (instruction and temperature independent)."
        ),
    ] = "paper",
    annotators: Annotated[int, Option(help="Simulated annotators per item; the paper has 6 to 10.")] = 10,
    prompts: Annotated[Path | None, Option(help="Folder of prompt templates; default: the package's own.")] = None,
    parsing: Annotated[str, Option(help="strict, or published: the first label that a reply contains.")] = "strict",
    seed: Annotated[int, Option(help="Seed of the choice of items and of the sampling.")] = 0,
    max_seconds: MaxSeconds = 30.0,
    concurrency: Annotated[int, Option(help="Most questions under way at a time.")] = 16,
    rate: Annotated[float | None, Option(help="Most questions per second.")] = None,
    attempts: Annotated[int, Option(help="Most tries of one question while the server is busy or fails.")] = 8,
    timeout: Annotated[float, Option(help="Longest wait for a whole answer (s).")] = 60.0,
    max_tokens: Annotated[int, Option(help="Most tokens per reply; a model that thinks first needs more.")] = 64,
    omit: Annotated[
        list[str] | None,
        Option(
            help="Leave out what the server does not take: seed, system, max_tokens (sends max_completion_tokens) or "
            "temperature; repeatable; what the server itself reports as unsupported is left out anyway."
        ),
    ] = None,
    batch_size: Annotated[int, Option(help="Questions per batch, for backend local.")] = 8,
    revision: Annotated[str, Option(help="Revision of the model.")] = "",
    answers_as: Annotated[str, Option(help="Another name under which the model answers.")] = "",
    max_cost: Annotated[float | None, Option(help="Most that all answers may cost together (USD).")] = None,
    input_price: Annotated[float | None, Option(help="USD per million tokens read.")] = None,
    output_price: Annotated[float | None, Option(help="USD per million tokens written.")] = None,
    retry_rejected: Annotated[bool, Option(help="Ask again what the server rejected in earlier runs.")] = False,
    dry_run: Annotated[bool, Option(help="Estimate time, tokens and cost; ask nothing.")] = False,
    export: Annotated[
        Path | None, Option(help="Write all attempts in --out to this file, one JSON line each; ask nothing.")
    ] = None,
) -> None:
    """Ask an audio-language model for labels, as several simulated annotators per item; resumes an interrupted run.

    Example: `annot-hf annotate data/cremad --out runs/annotated --base-url http://127.0.0.1:8000/v1 --model qwen2-audio`
    """
    from annot_hf.data.export import read_export
    from annot_hf.proxies import annotate as annotation
    from annot_hf.proxies.backend import Prices
    from annot_hf.proxies.job import make_job
    from annot_hf.proxies.session import OVER
    from annot_hf.proxies.store import export_attempts

    if export is not None:
        export_attempts(out, export)
        print_path(export)
        return
    if corpus is None or not model:
        raise ValueError("The corpus or --model is missing; give both, or --export to write the attempts of a folder.")
    job = make_job(
        read_export(corpus),
        question=question,
        splits=split or (),
        items=items,
        plan=plan,
        annotators=annotators,
        prompts=prompts,
        parsing=parsing,
        seed=seed,
        max_seconds=max_seconds,
    )
    server = {"base_url": base_url, "key_name": key_env, "timeout": timeout, "omit": omit or ()}
    limits = {"batch_size": batch_size, "max_tokens": max_tokens}
    shared = {"concurrency": concurrency, "rate": rate, "prices": Prices(input_price, output_price)}
    shared |= {"answers_as": answers_as, "retry_rejected": retry_rejected}
    if dry_run:
        annotation.check_backend(backend, model, **limits, **server)
        annotation.check_pace(concurrency, rate, attempts, max_cost)
        shared |= {"model": model, "backend": backend, "revision": revision, "max_tokens": max_tokens}
        found = annotation.estimate_run(job, out, **shared)
        print_rows(f"What {model} would be asked on {job.question.name}", found.rows())
        return
    asked = annotation.make_backend(backend, model, revision=revision, **limits, **server)
    report = annotation.annotate(job, asked, out, attempts=attempts, max_cost=max_cost, **shared)
    total = sum(report.counts.values())
    rows = [(name, f"{count:,}", f"{count / total:.1%}") for name, count in report.counts.items() if count]
    rows.append(("questions in all", f"{total:,}", ""))
    cost = (f"{report.spent:.4f} USD", "as far as it is known") if report.cost_known else ("not known", "")
    rows.append(("cost", *cost))
    if report.agreement is not None:
        among = "" if report.human_agreement is None else f"two humans {report.human_agreement:.3f}"
        rows.append(("agreement with a human vote", f"{report.agreement:.3f}", among))
    print_rows(f"Answers on {job.question.name}", rows)
    for note in report.notes:
        print_text(note)
    if not report.complete:
        fix = "a higher --max-cost" if report.stopped.startswith(OVER) else "the same command"
        raise ValueError(
            f"{report.stopped or 'Some questions could not be answered'}. There are {report.counts['label']:,} votes; "
            f"{report.counts['not asked']:,} questions are not asked and "
            f"{report.counts['failed'] + report.counts['wrong-model']:,} failed; {fix} resumes the run."
        )
    if not report.counts["label"]:
        raise ValueError(f"There are 0 votes, since no reply was a label; {out / 'replies.parquet'} has the replies.")
    print_path(out)


app.command(context_settings=WORDS)(start.quickstart)
app.command()(start.corpus)


@app.command()
def agree(
    folder: Annotated[Path, Argument(help="Folder of an exported corpus.")],
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
def saliency(
    model: Annotated[str, Argument(help="Plain trunk (Hub id or folder), or a trained checkpoint folder.")],
    corpus: CorpusFolder,
    out: Out,
    split: OneSplit = "train",
    items: Annotated[int, Option(help="Largest number of items, drawn at random.")] = 30_000,
    question: Annotated[list[str] | None, Option(help="Question; may be given several times.")] = None,
    formula: Annotated[str, Option(help="absolute or penalised; both are our choice.")] = "absolute",
    gamma: Annotated[float | None, Option(help="Weight of the penalty of penalised; 0.1 by default.")] = None,
    batch_size: Annotated[int, Option(help="Items per batch.")] = 16,
    max_seconds: MaxSeconds = 30.0,
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
    )
    path = save_saliency(found, out)
    save_figure(lambda: plot_saliency(found), out / "saliency.png")
    print_table(saliency_table(found))
    print_line(f"trunk_layer={path}")


@app.command()
def saturation(
    annotations: Annotated[Path, Argument(help="Folder of synthetic votes, written by annotate.")],
    corpus: Annotated[Path, Option(help="Folder of the exported corpus that was annotated.")],
    out: Out,
    split: Splits = None,
    question: Annotated[str, Option(help="Category question; optional if there is only one.")] = "",
    votes: Annotated[
        int | None,
        Option(min=1, help="Largest number of votes per item; by default the number that 90 % of the items have."),
    ] = None,
    runs: Annotated[int, Option(min=1, help="How often the votes of an item are drawn.")] = 5,
    resamples: SpeakerResamples = 1000,
    seed: Annotated[int, Option(help="Seed of the draws.")] = 0,
) -> None:
    """Estimate how many synthetic votes per item are enough, how many people they are worth, and where both agree.

    Example: `annot-hf saturation data/cremad-votes --corpus data/cremad --out runs/saturation --split train`
    """
    from annot_hf.data.export import read_export
    from annot_hf.data.synthetic import read_annotations
    from annot_hf.experiments.saturation_study import measure_saturation

    found = measure_saturation(
        read_annotations(annotations),
        read_export(corpus),
        question=question,
        splits=split or (),
        votes=votes,
        resamples=runs,
        n_resamples=resamples,
        seed=seed,
    )
    folder = found.save(out)
    for table in found.tables():
        print_table(table)
    print_path(folder)


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
    resume: Annotated[bool, Option(help="Resume from the newest checkpoint of output_dir.")] = False,
) -> None:
    """Train as a recipe says; the checkpoint is output_dir/model.

    Overrides set keys. All keys follow below, with their defaults; `annot-hf recipe show RECIPE` has the values of a recipe.

    Example: `annot-hf train speech-distribution corpus=data/cremad output_dir=runs/cremad num_train_epochs=5`
    """
    print_path(steps.run_training(recipe, overrides or [], resume=resume))


@app.command()
def onboard(
    model: Annotated[Path, Argument(help="Checkpoint folder of a model with raters.")],
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
) -> None:
    """Give new raters rows of their own in a trained model, from a few votes each on items of the corpus.

    Example: `annot-hf onboard runs/mine/model votes.csv --corpus data/mine --out runs/mine-onboarded`
    """
    from annot_hf.training import onboarding

    limits = {"features": features, "max_seconds": max_seconds}
    found = onboarding.onboard(model, votes, corpus, out, raters=raters, **limits)
    counts = sorted(found.answers.values())
    rows = [("raters onboarded", f"{len(counts):,}", "")]
    rows += [("answers of a rater", f"{counts[0]:,} to {counts[-1]:,}", f"{sum(counts):,} in all")]
    rows += [(reason, f"{count:,}", "left out") for reason, count in found.left_out.items()]
    print_rows("New raters", rows)
    print_path(found.model)


@app.command()
def predict(
    model: Annotated[Path, Argument(help="Checkpoint folder.")],
    clips: Annotated[
        list[str] | None,
        Argument(
            help="Clips or texts: sound files, folders, patterns, text files with a text or a path a line, tables, or "
            "exported corpora."
        ),
    ] = None,
    corpus: Annotated[Path | None, Option("--corpus", help="Exported corpus, to predict one of its splits.")] = None,
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
) -> None:
    """Predict clips or texts, or a split of a corpus: a distribution per item, and each rater's answer if it has raters.

    Example: `annot-hf predict runs/cremad/model new-clips -o predicted.csv`, or, to compare with votes,
    `annot-hf predict runs/cremad/model --corpus data/cremad --out runs/cremad/predictions`
    """
    from annot_hf.data.conditions import CLEAN, Condition

    if (clips is None) == (corpus is None):
        raise ValueError("Give either clips or texts to predict, or --corpus to predict one of its splits and compare.")
    if clips:
        if condition or explain:
            raise ValueError("--condition and --explain are for a split of a corpus; name it as --corpus.")
        steps.predict_given(model, clips, column, out, max_seconds)
        return
    if out is None:
        raise ValueError("--corpus needs a folder to write; name it as --out.")
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
    predictions: Annotated[Path, Argument(help="Folder that predict wrote.")],
    corpus: Annotated[Path, Option(help="Folder of the exported corpus with the predicted items.")],
    out: Out,
    other: Annotated[Path | None, Argument(help="Predictions of a second run, to compare the two.")] = None,
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
        bool, Option(help="Put the audio of three clips into the page; mind the corpus's licence.")
    ] = False,
) -> None:
    """Compare predictions with the votes, or two runs with each other: JSON, Markdown, HTML and plots.

    Example: `annot-hf report runs/cremad/predictions --corpus data/cremad --out runs/cremad/report`
    """
    given = {"conditions": conditions, "truth": truth, "controls": controls, "newcomers": newcomers}
    for name, value in {**given, "listen": listen or None}.items():
        if other is not None and value is not None:
            raise ValueError(f"--{name} needs a single run; leave it or the second predictions out.")
    if newcomers is not None and truth is None:
        raise ValueError("--newcomers are those of a simulation; give its folder as --truth.")
    folders = [predictions] if other is None else [predictions, other]
    print_path(steps.write_report(folders, corpus, out, listen=listen, votes_half=votes_half, **given))


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
    """Train several systems with several seeds and score them in one table; resumes an interrupted run.

    Example: `annot-hf results benchmarks/plans/cremad.yaml --corpus data/cremad --out runs/results`
    """
    from annot_hf.experiments.plans import read_plan, run_plan

    options = {"split": split, "n_resamples": resamples, "robustness": robustness}
    _, page = run_plan(read_plan(plan).without(without or ()), corpus, out, overrides or [], **options)
    print_path(page)


@app.command(context_settings=WORDS)
def crossval(
    recipe: Annotated[str, Argument(help="Recipe (a name or a file), or a plan with several systems.")],
    corpus: CorpusFolder,
    out: Out,
    overrides: Overrides = None,
    folds: Annotated[int, Option(help="Folds per repeat.")] = 5,
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
    seed: Annotated[int | None, Option(help="Seed of folds and runs; the plan's first, or 0, by default.")] = None,
    resamples: Annotated[int, Option(help="Bootstrap resamples of groups.")] = 1000,
    keep_models: Annotated[bool, Option(help="Keep the model of every run.")] = False,
    without: Without = None,
) -> None:
    """Cross-validate one recipe or several systems, repeatedly: a table and a plot; resumes an interrupted run.

    Example: `annot-hf crossval speech-distribution --corpus data/cremad --out runs/crossval --group speaker`
    """
    from annot_hf.experiments.crossval import crossval as run_crossval
    from annot_hf.experiments.plans import plan_of

    found, page = run_crossval(
        plan_of(recipe).without(without or ()),
        corpus,
        out,
        overrides or [],
        folds=folds,
        repeats=repeats,
        group=group,
        splits=split or (),
        items=items,
        test_folds=test_folds,
        validation=validation,
        seed=seed,
        n_resamples=resamples,
        keep_models=keep_models,
    )
    counts, tested = found.counts, f"{repeats} x {test_folds or folds} folds"
    grouped = f"{counts['groups']:,} groups, by {counts['unit']}"
    print_text(f"{counts['n_evaluated']:,} items of {grouped}; {tested}.")
    print_path(page)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    An error in the user's input prints one line and exits with status 2. Any other error prints one line, writes the traceback
    to a file, and exits with status 1.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        app(args=arguments)
    except (FileExistsError, NotADirectoryError) as error:
        print_error(f"{error.filename} is a file where a folder is needed; name another one, or remove it.")
        sys.exit(2)
    except (ValueError, OSError) as error:
        print_error(str(error) or type(error).__name__)
        sys.exit(2)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".removesuffix(".")
        print_error(f"{said}. This error was not expected; {keep_traceback()}.")
        sys.exit(1)
