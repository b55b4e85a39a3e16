"""The commands that begin the flow: `quickstart`, and `corpus`, which exports votes of a file or of a corpus script."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from annot_hf.cli import steps
from annot_hf.cli.output import Out, Overrides, print_path, print_rows, print_text

if TYPE_CHECKING:
    from annot_hf.data.corpus import VoteCorpus

Source = Annotated[
    Path | None,
    Argument(
        help="Table of votes (CSV, TSV, Excel, parquet, JSON Lines), export of an annotation tool (file, folder or zip), or a "
        "Python file that defines a VoteCorpus, which is executed, or its name: cremad."
    ),
]
Root = Annotated[Path | None, Option(help="Folder of the corpus that a corpus script reads.")]


def _reading(
    audio: Annotated[Path | None, Option(help="Folder of the clips.")] = None,
    text: Annotated[str, Option(help="Column of the texts.")] = "",
    format: Annotated[
        str,
        Option(
            help="tidy, wide, counts, label-studio, label-studio-min, potato, prodigy, argilla or doccano; recognised by "
            "default."
        ),
    ] = "",
    item: Annotated[str, Option(help="Column of the item's name.")] = "",
    rater: Annotated[
        list[str] | None,
        Option(help="Column of the rater's name, or the columns of raters of a wide table (rater_*); repeatable."),
    ] = None,
    value: Annotated[list[str] | None, Option(help="Column of answers; repeatable, one question each.")] = None,
    question: Annotated[
        list[str] | None,
        Option(help="Question to read, as NAME, NAME=LABEL,LABEL or NAME=LOW..HIGH; repeatable; the first is trained."),
    ] = None,
    speaker: Annotated[str, Option(help="Column of the speaker.")] = "",
    group: Annotated[str, Option(help="Column of what stays in one split; `item` splits items freely.")] = "",
    split: Annotated[str, Option(help="Column of the split; drawn by default.")] = "",
    aliases: Annotated[Path | None, Option(help="File of spellings, as it was proposed and you edited it.")] = None,
    language: Annotated[
        list[str] | None, Option(help="What is spoken or written, as a code such as en, for the cards; repeatable.")
    ] = None,
    seed: Annotated[int, Option(help="Seed of the splits that are drawn.")] = 0,
    allow_leak: Annotated[
        bool, Option("--allow-leak", help="Accept a split column that has a speaker or group on both sides.")
    ] = False,
    missing_audio: Annotated[
        str, Option(help="Items without readable audio: error, drop (counted) or keep.")
    ] = "error",
) -> None:
    """The options of how votes are read, which `quickstart` and `corpus` share."""


def _reads_votes(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_reading` in place of its `**given`."""
    own, shared = (inspect.signature(one).parameters for one in (command, _reading))
    takes = {**{name: one for name, one in own.items() if name != "given"}, **shared}
    command.__signature__ = inspect.Signature(list(takes.values()))
    command.__annotations__ = {name: one.annotation for name, one in takes.items()}
    return command


def open_corpus(
    source: Path, root: Path | None, beside: Path, *, audio: Path | None, seed: int, allow_leak: bool, **given: Any
) -> "VoteCorpus":
    """The corpus of a script or of a file of votes; prints how a file was read, and writes proposed spellings to `beside`.

    `given` are columns, questions and so on, as `Reading` takes them.
    """
    from annot_hf.data.corpus import find_script, load_corpus_script
    from annot_hf.data.own_corpus import OwnCorpus
    from annot_hf.data.own_votes import Reading, describe_reading, read_own_votes
    from annot_hf.data.spellings import Aliases, read_aliases, write_aliases

    script = find_script(source)
    if script and root is None and source.is_dir() and script.parent.resolve() != source.resolve():
        # a folder of votes that has the name of a packaged script
        script = None
    # a .py file that is not there is said to be none
    if source.suffix == ".py" or script:
        text = given.pop("text", "")
        if stated := [name for name, value in {"audio": audio, **given}.items() if value]:
            raise ValueError(
                f"--{stated[0]} is for files of votes, and {source} is a corpus script, which takes --root."
            )
        if root is None:
            raise ValueError(f"{source} is a corpus script; name the folder that it reads as --root.")
        found = load_corpus_script(source)(root)
        found.text_column = text or found.text_column
        return found
    if root is not None:
        raise ValueError(
            f"--root is for corpus scripts, and {source} is none; name the folder of the clips as --audio."
        )
    aliases = given.pop("aliases")
    several = ("rater", "value", "question", "language")
    known = {name: value or () if name in several else value for name, value in given.items()}
    reading = Reading(**known, aliases=read_aliases(aliases) if aliases else Aliases())
    votes = read_own_votes(source, reading)
    found = OwnCorpus(votes, audio, reading=reading, seed=seed, allow_leak=allow_leak)
    print_text(f"read as: {votes.spoken}")
    if votes.columns:
        print_text(f"columns: {'; '.join(f'{role}: {name}' for role, name in votes.columns.items())}")
    print_rows(f"Votes of {source}", describe_reading(votes))
    proposed = votes.proposed
    if count := sum(map(len, proposed.labels.values())) + len(proposed.raters):
        if beside.exists():
            print_text(f"Spellings that look like another name: {count}. {beside} is there already and is left alone.")
        else:
            write_aliases(beside, proposed, votes.spellings)
            print_text(
                f"Spellings that look like another name: {count}. Edit {beside}, and pass it as --aliases to merge."
            )
    return found


@_reads_votes
def quickstart(
    votes: Source = None,
    overrides: Overrides = None,
    out: Annotated[Path, Option("--out", help="Folder to write.")] = Path("quickstart"),
    corpus: Annotated[Path | None, Option(help="Corpus script, as an option.")] = None,
    root: Root = None,
    recipe: Annotated[
        str | None, Option(help="Recipe file or name; by default CORPUS-quick or CORPUS, if there is one.")
    ] = None,
    **given: Any,
) -> None:
    """Run the whole flow: votes, training, predictions on items that training never saw, report.

    Without votes, on a simulated corpus.

    Example: `annot-hf quickstart votes.csv --audio clips --out runs/mine`
    """
    words = list(overrides or [])
    # An override may stand where the votes would.
    if votes is not None and "=" in str(votes) and not votes.exists():
        words, votes = [str(votes), *words], None
    if corpus is not None and votes is not None:
        raise ValueError(f"The corpus is named twice, as {votes} and as {corpus}; name it once.")
    source = votes or corpus
    if source is None:
        if given["audio"] or root:
            raise ValueError(
                "--corpus and --root go together, and so do votes and --audio; give both, or neither to simulate."
            )
        print_path(steps.walk_through(None, out, recipe, words))
        return
    missing_audio = given.pop("missing_audio")
    found = open_corpus(source, root, out / "labels.yaml", **given)
    print_path(steps.walk_through(found, out, recipe, words, missing_audio=missing_audio))


@_reads_votes
def corpus(
    source: Source = ...,
    out: Out = ...,
    root: Root = None,
    embed_audio: Annotated[bool, Option(help="Put the audio into the parquet files; mind the licence.")] = False,
    missing_text: Annotated[
        str, Option(help="Items of a text corpus without text: error, drop (counted) or keep.")
    ] = "error",
    allow_unmatched: Annotated[bool, Option(help="Leave out, and count, votes on unlisted items.")] = False,
    follow_links: Annotated[bool, Option(help="Read audio through links that lead out of the root.")] = False,
    split_by: Annotated[
        list[str] | None,
        Option(
            help="Draw new splits, with no value of this item column in two of them: speaker, session, text, ...; or rater, "
            "which divides the raters too; repeatable."
        ),
    ] = None,
    shares: Annotated[
        tuple[float, float, float], Option(help="Shares of train, validation and test for --split-by.")
    ] = (0.7, 0.15, 0.15),
    splits: Annotated[Path | None, Option(help="CSV file of the splits: item or speaker, and split.")] = None,
    strict: Annotated[bool, Option("--strict", help="Stop at what would be repaired, left out or unmatched.")] = False,
    report: Annotated[Path | None, Option(help="Folder for a page with plots of what was read.")] = None,
    **given: Any,
) -> None:
    """Export votes and clips or texts as parquet that `load_dataset(DIR, "votes" | "items" | "histograms" | "spans")` reads.

    A corpus script is executed as Python: pass only a file that you have read.

    Example: `annot-hf corpus votes.csv --audio clips --out data/mine`, or, of a corpus script,
    `annot-hf corpus cremad --root ../CREMA-D --out data/cremad`
    """
    from annot_hf.data.export import export_corpus, read_export
    from annot_hf.data.splitting import split_as, split_by as draw_by
    from annot_hf.report.corpus_page import save_corpus_page, write_dataset_card

    if stated := [
        name for name, value in {"--splits": splits, "--split": given["split"]}.items() if value and split_by
    ]:
        raise ValueError(f"--split-by draws splits, and {stated[0]} states them; give one.")
    if splits and given["split"]:
        raise ValueError("--splits and --split both state splits; give one.")
    if report and report.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"--report {report} is in the export, which holds nothing else; name a folder beside {out}.")
    splitting = split_as(splits) if splits else None
    if split_by:
        splitting = draw_by(*split_by, shares=shares, seed=given["seed"])
    missing_audio = given.pop("missing_audio")
    beside = out.resolve().parent / f"{out.resolve().name}.labels.yaml"
    found = open_corpus(source, root, beside, **given)
    told = export_corpus(
        found,
        out,
        embed_audio=embed_audio,
        missing_audio=missing_audio,
        missing_text=missing_text,
        allow_unmatched=allow_unmatched,
        follow_links=follow_links,
        splits=splitting,
        strict=strict,
    )
    exported = read_export(out)
    write_dataset_card(exported)
    print_rows(f"Corpus {told.name}", told.rows())
    if report is not None:
        print_path(save_corpus_page(exported, report))
    print_path(out)
