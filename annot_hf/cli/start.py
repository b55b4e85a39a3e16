"""The commands that begin the flow: `quickstart`, and `corpus`, which exports votes of a file or of a corpus script."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from annot_hf.cli import steps
from annot_hf.cli.output import print_path, print_rows, print_text

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
AudioFolder = Annotated[Path | None, Option(help="Folder of the clips.")]
TextColumn = Annotated[str, Option("--text", help="Column of the texts.")]
FormatName = Annotated[
    str,
    Option(
        "--format",
        help="tidy, wide, counts, label-studio, label-studio-min, potato, prodigy, argilla or doccano; recognised by default.",
    ),
]
ItemColumn = Annotated[str, Option("--item", help="Column of the item's name.")]
RaterColumns = Annotated[
    list[str] | None,
    Option(
        "--rater", help="Column of the rater's name, or the columns of raters of a wide table (rater_*); repeatable."
    ),
]
ValueColumns = Annotated[list[str] | None, Option("--value", help="Column of answers; repeatable, one question each.")]
QuestionNames = Annotated[
    list[str] | None,
    Option(
        "--question",
        help="Question to read, as NAME, NAME=LABEL,LABEL or NAME=LOW..HIGH; repeatable; the first is trained.",
    ),
]
SpeakerColumn = Annotated[str, Option("--speaker", help="Column of the speaker.")]
GroupColumn = Annotated[str, Option("--group", help="Column of what stays in one split; `item` splits items freely.")]
SplitColumn = Annotated[str, Option("--split", help="Column of the split; drawn by default.")]
AliasFile = Annotated[Path | None, Option("--aliases", help="File of spellings, as it was proposed and you edited it.")]
SplitSeed = Annotated[int, Option("--seed", help="Seed of the splits that are drawn.")]
AllowLeak = Annotated[
    bool, Option("--allow-leak", help="Accept a split column that has a speaker or group on both sides.")
]
MissingAudio = Annotated[str, Option(help="Items without readable audio: error, drop (counted) or keep.")]


def open_corpus(
    source: Path, root: Path | None, audio: Path | None, beside: Path, seed: int, allow_leak: bool, **given: Any
) -> "VoteCorpus":
    """The corpus of a script or of a file of votes; prints how a file was read, and writes proposed spellings to `beside`."""
    from annot_hf.data.corpus import find_script, load_corpus_script
    from annot_hf.data.own_corpus import OwnCorpus
    from annot_hf.data.own_votes import Reading, describe_reading, read_own_votes
    from annot_hf.data.spellings import Aliases, read_aliases, write_aliases

    # a .py file that is not there is said to be none
    if source.suffix == ".py" or find_script(source):
        if stated := [name for name, value in {"audio": audio, **given}.items() if value]:
            raise ValueError(
                f"--{stated[0]} is for files of votes, and {source} is a corpus script, which takes --root."
            )
        if root is None:
            raise ValueError(f"{source} is a corpus script; name the folder that it reads as --root.")
        return load_corpus_script(source)(root)
    if root is not None:
        raise ValueError(
            f"--root is for corpus scripts, and {source} is none; name the folder of the clips as --audio."
        )
    aliases = given.pop("aliases")
    known = {name: value or () if name in ("rater", "value", "question") else value for name, value in given.items()}
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


def quickstart(
    votes: Source = None,
    overrides: Annotated[list[str] | None, Argument(help="Overrides such as learning_rate=1e-3.")] = None,
    audio: AudioFolder = None,
    out: Annotated[Path, Option("--out", help="Folder to write.")] = Path("quickstart"),
    text: TextColumn = "",
    format: FormatName = "",
    item: ItemColumn = "",
    rater: RaterColumns = None,
    value: ValueColumns = None,
    question: QuestionNames = None,
    speaker: SpeakerColumn = "",
    group: GroupColumn = "",
    split: SplitColumn = "",
    aliases: AliasFile = None,
    seed: SplitSeed = 0,
    allow_leak: AllowLeak = False,
    missing_audio: MissingAudio = "error",
    corpus: Annotated[Path | None, Option(help="Corpus script, as an option.")] = None,
    root: Root = None,
    recipe: Annotated[
        str | None, Option(help="Recipe file or name; by default CORPUS-quick or CORPUS, if there is one.")
    ] = None,
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
        if audio or root:
            raise ValueError(
                "--corpus and --root go together, and so do votes and --audio; give both, or neither to simulate."
            )
        print_path(steps.walk_through(None, out, recipe, words))
        return
    given = dict(text=text, format=format, item=item, rater=rater, value=value, question=question, speaker=speaker)
    given |= dict(group=group, split=split, aliases=aliases)
    found = open_corpus(source, root, audio, out / "labels.yaml", seed, allow_leak, **given)
    print_path(steps.walk_through(found, out, recipe, words, missing_audio=missing_audio))


def corpus(
    source: Source = ...,
    root: Root = None,
    audio: AudioFolder = None,
    out: Annotated[Path, Option("--out", help="Folder to write.")] = ...,
    text: TextColumn = "",
    format: FormatName = "",
    item: ItemColumn = "",
    rater: RaterColumns = None,
    value: ValueColumns = None,
    question: QuestionNames = None,
    speaker: SpeakerColumn = "",
    group: GroupColumn = "",
    split: SplitColumn = "",
    aliases: AliasFile = None,
    seed: SplitSeed = 0,
    allow_leak: AllowLeak = False,
    embed_audio: Annotated[bool, Option(help="Put the audio into the parquet files; mind the licence.")] = False,
    missing_audio: MissingAudio = "error",
    missing_text: Annotated[
        str, Option(help="Items of a text corpus without text: error, drop (counted) or keep.")
    ] = "error",
    allow_unmatched: Annotated[bool, Option(help="Leave out, and count, votes on unlisted items.")] = False,
    follow_links: Annotated[bool, Option(help="Read audio through links that lead out of the root.")] = False,
) -> None:
    """Export votes and clips or texts as parquet that `load_dataset(DIR, "votes" | "items" | "histograms" | "spans")` reads.

    A corpus script is executed as Python: pass only a file that you have read.

    Example: `annot-hf corpus votes.csv --audio clips --out data/mine`, or, of a corpus script,
    `annot-hf corpus cremad --root ../CREMA-D --out data/cremad`
    """
    from annot_hf.data.export import export_corpus

    given = dict(text=text, format=format, item=item, rater=rater, value=value, question=question, speaker=speaker)
    given |= dict(group=group, split=split, aliases=aliases)
    beside = out.resolve().parent / f"{out.resolve().name}.labels.yaml"
    found = open_corpus(source, root, audio, beside, seed, allow_leak, **given)
    report = export_corpus(
        found,
        out,
        embed_audio=embed_audio,
        missing_audio=missing_audio,
        missing_text=missing_text,
        allow_unmatched=allow_unmatched,
        follow_links=follow_links,
    )
    print_rows(f"Corpus {report.name}", report.rows())
    print_path(out)
