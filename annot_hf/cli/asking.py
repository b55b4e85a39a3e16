"""The commands about votes of audio-language models: `annotate` asks for them, `saturation` says how many are enough."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from annot_hf.cli.output import (
    MaxSeconds,
    Out,
    SpeakerResamples,
    Splits,
    print_path,
    print_rows,
    print_table,
    print_text,
)


def annotate(
    corpus: Annotated[Path | None, Argument(help="Folder or Hub id of an exported corpus with audio.")] = None,
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


def saturation(
    annotations: Annotated[Path, Argument(help="Folder of synthetic votes, written by annotate.")],
    corpus: Annotated[Path, Option(help="Folder or Hub id of the exported corpus that was annotated.")],
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
