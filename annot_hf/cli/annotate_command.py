"""The command `annotate`: votes from an audio-language model."""

from pathlib import Path
from typing import Annotated

import typer

from annot_hf.cli.output import print_path, print_rows, print_text


def annotate(
    corpus: Annotated[Path, typer.Argument(help="Folder of an exported corpus, with audio.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; the same one again goes on.")],
    model: Annotated[str, typer.Option(help="Model that is asked: its name on the server, or a Hub id or folder.")],
    backend: Annotated[
        str,
        typer.Option(help="openai (any server that speaks its chat protocol), gemini, or local (transformers, here)."),
    ] = "openai",
    base_url: Annotated[
        str | None, typer.Option(help="Address of the server, such as http://127.0.0.1:8000/v1.")
    ] = None,
    key_env: Annotated[
        str, typer.Option(help="Environment variable with the key; OPENAI_API_KEY or GEMINI_API_KEY by default.")
    ] = "",
    question: Annotated[str, typer.Option(help="Category question; the corpus's default by default.")] = "",
    split: Annotated[
        list[str] | None, typer.Option(help="Whose items; may be given several times; all but test by default.")
    ] = None,
    items: Annotated[int | None, typer.Option(help="How many items, drawn at random; all by default.")] = None,
    plan: Annotated[
        str,
        typer.Option(
            help="paper (as published; words and draws are ours) or crossed (instruction and temperature apart)."
        ),
    ] = "paper",
    annotators: Annotated[int, typer.Option(help="Simulated annotators an item; the paper has 6 to 10.")] = 10,
    prompts: Annotated[
        Path | None, typer.Option(help="Folder of prompt templates; the package's own by default.")
    ] = None,
    parsing: Annotated[
        str, typer.Option(help="strict, or published: the first label that a reply contains.")
    ] = "strict",
    seed: Annotated[int, typer.Option(help="Seed of the choice of items and of the sampling.")] = 0,
    max_seconds: Annotated[float, typer.Option(help="Longest clip (s).")] = 30.0,
    concurrency: Annotated[int, typer.Option(help="Questions under way at a time.")] = 16,
    rate: Annotated[float | None, typer.Option(help="Most questions a second.")] = None,
    attempts: Annotated[int, typer.Option(help="Tries of one question while the server is busy or broken.")] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds until an answer is given up, to its last byte.")] = 60.0,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a reply; more for a model that thinks first.")] = 64,
    omit: Annotated[
        list[str] | None,
        typer.Option(
            help="What the server does not take: seed, system, max_tokens (max_completion_tokens is sent) or temperature; may "
            "be given several times; what it says so itself is left out anyway."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Questions at a time, for backend local.")] = 8,
    revision: Annotated[str, typer.Option(help="Revision of the model.")] = "",
    answers_as: Annotated[str, typer.Option(help="Name under which the model answers, if it is another.")] = "",
    max_cost: Annotated[float | None, typer.Option(help="Most that the answers may cost together (USD).")] = None,
    input_price: Annotated[float | None, typer.Option(help="USD per million tokens read.")] = None,
    output_price: Annotated[float | None, typer.Option(help="USD per million tokens written.")] = None,
    retry_rejected: Annotated[bool, typer.Option(help="Ask again what the server rejected before.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what it would take, and ask nothing.")] = False,
) -> None:
    """Ask an audio-language model for labels, as several simulated annotators an item; goes on where it was cut off.

    Example: `annot-hf annotate data/cremad --out runs/annotated --base-url http://127.0.0.1:8000/v1 --model qwen2-audio`
    """
    from annot_hf.data.export import read_export
    from annot_hf.proxies.annotate import annotate as run_annotation, check_backend, check_pace, make_backend
    from annot_hf.proxies.estimate import estimate
    from annot_hf.proxies.job import make_job
    from annot_hf.proxies.session import OVER
    from annot_hf.proxies.store import Prices

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
    prices = Prices(input_price, output_price)
    if dry_run:
        check_backend(
            backend,
            model,
            base_url=base_url,
            timeout=timeout,
            max_tokens=max_tokens,
            batch_size=batch_size,
            omit=omit or (),
        )
        check_pace(concurrency, rate, attempts, max_cost)
        found = estimate(
            job,
            out,
            model=model,
            backend=backend,
            revision=revision,
            max_tokens=max_tokens,
            answers_as=answers_as,
            concurrency=concurrency,
            rate=rate,
            prices=prices,
            retry_rejected=retry_rejected,
        )
        print_rows(f"What {model} would be asked about {job.question.name}", found.rows())
        return
    asked = make_backend(
        backend,
        model,
        base_url=base_url,
        key_name=key_env,
        timeout=timeout,
        max_tokens=max_tokens,
        revision=revision,
        batch_size=batch_size,
        omit=omit or (),
    )
    report = run_annotation(
        job,
        asked,
        out,
        concurrency=concurrency,
        rate=rate,
        attempts=attempts,
        max_cost=max_cost,
        prices=prices,
        answers_as=answers_as,
        retry_rejected=retry_rejected,
    )
    total = sum(report.counts.values())
    rows = [(name, f"{count:,}", f"{count / total:.1%}") for name, count in report.counts.items() if count]
    rows.append(("questions in all", f"{total:,}", ""))
    rows.append(
        (
            "cost",
            f"{report.spent:.4f} USD" if report.cost_known else "not known",
            "as far as it is known" if report.cost_known else "",
        )
    )
    if report.agreement is not None:
        among = "" if report.human_agreement is None else f"two humans {report.human_agreement:.3f}"
        rows.append(("agreement with a human vote", f"{report.agreement:.3f}", among))
    print_rows(f"Answers on {job.question.name}", rows)
    for note in report.notes:
        print_text(note)
    if not report.complete:
        higher = report.stopped.startswith(OVER)
        going_on = "a higher --max-cost goes on" if higher else "the same command goes on"
        raise ValueError(
            f"{report.stopped or 'Some questions could not be answered'}. There are {report.counts['label']:,} votes; "
            f"{report.counts['not asked']:,} questions are not asked and "
            f"{report.counts['failed'] + report.counts['wrong-model']:,} failed; {going_on}."
        )
    if not report.counts["label"]:
        raise ValueError(
            f"There are 0 votes, since no reply was a label; read {out / 'replies.parquet'} for what was said."
        )
    print_path(out)
