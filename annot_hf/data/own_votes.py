"""Anybody's votes: the format of a table or an export is recognised, and its questions are found."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from annot_hf.data.ballots import ITEM_FACTS, Ballots
from annot_hf.data.corpus import Finding
from annot_hf.data.encoding import check_choice
from annot_hf.data.questions import Question, nearest
from annot_hf.data.records import RecordFile, record_files
from annot_hf.data.spellings import Aliases, propose_aliases
from annot_hf.data.tool_exports import TOOLS, ToolFormat
from annot_hf.data.vote_tables import LAYOUTS, MANY, is_number, read_table

VOTE_FORMATS = (*LAYOUTS, *(tool.name for tool in TOOLS))
# What spreadsheets write for "no value", in any letter case; a label of this name needs an alias to itself.
NO_VALUES = ("na", "n/a", "#n/a", "<na>", "nan", "null")
DECIMAL_COMMA = re.compile(r"[+-]?\d+(?:,\d+)?")


@dataclass(frozen=True)
class Reading:
    """How to read votes, where the user knows better; every entry is found by itself if it is empty.

    Attributes:
        format: One of `VOTE_FORMATS`.
        item: Column or field of the item's name.
        rater: Column of the rater's name, or columns of raters (a wide table), which may be patterns such as `rater_*`.
        value: Columns of answers.
        question: Questions to read, as NAME, NAME=LABEL,LABEL,... or NAME=LOW..HIGH (a scale).
        text: Column of the text.
        speaker: Column of the speaker.
        group: Column of what must stay in one split, such as a conversation; `item` if items may be split freely.
        split: Column of the split.
        aliases: What to read as what.
        language: What is spoken or written, as codes such as en.
    """

    format: str = ""
    item: str = ""
    rater: Sequence[str] = ()
    value: Sequence[str] = ()
    question: Sequence[str] = ()
    text: str = ""
    speaker: str = ""
    group: str = ""
    split: str = ""
    aliases: Aliases = field(default_factory=Aliases)
    language: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.format:
            check_choice("format", self.format, VOTE_FORMATS, "votes")


@dataclass
class OwnVotes:
    """Votes of a file: a frame with item, annotator, question and value, its questions, and what is left out.

    Attributes:
        spoken: How the file was read, for people.
        columns: Which columns of a table were taken for what.
        proposed: Spellings that may be one name.
        spellings: Votes of each spelling, by question; those of raters as "".
        votes_read: How many votes the file has: those of the frame and those that are left out.
    """

    path: Path
    frame: pd.DataFrame
    questions: tuple[Question, ...]
    facts: dict[str, dict[str, str]]
    left_out: dict[str, Finding]
    spoken: str
    proposed: Aliases
    spellings: dict[str, dict[str, int]]
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def votes_read(self) -> int:
        """Votes in the file."""
        return len(self.frame) + sum(found.votes for found in self.left_out.values())


def read_own_votes(path: str | os.PathLike, reading: Reading | None = None) -> OwnVotes:
    """Read votes from a table (CSV, TSV, Excel, parquet, JSON Lines) or from the export of an annotation tool.

    Args:
        path: File, folder or zip.
        reading: What the user says about it.

    Raises:
        ValueError: It is not readable, not recognised, or holds no votes; the message names the file, the row, the rule and
            the option to give.
    """
    path, reading = Path(path), reading or Reading()
    wanted = {name: (getattr(reading, name),) for name in ("item", *ITEM_FACTS) if getattr(reading, name, "")}
    wanted |= {name: tuple(getattr(reading, name)) for name in ("rater", "value") if getattr(reading, name)}
    if reading.group == "item":
        del wanted["group"]
    ballots = Ballots(wanted)
    try:
        kinds = _read_files(path, ballots, reading.format)
        if not ballots.items and not any(found.votes for found in ballots.left_out.values()):
            raise ValueError(
                f"{path} holds no votes{_reasons(ballots)}; check that the export has answers, or name --value."
            )
        for role in ITEM_FACTS:
            if role in wanted and not any(role in facts for facts in ballots.facts.values()):
                raise ValueError(
                    f"{path}: no record has a value in {wanted[role][0]!r}; name another column as --{role}."
                )
        return _finish(path, ballots, reading, kinds)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path}: {error.object[:40]!r} is not valid Unicode ({error.reason}); restore the file that it came from."
        ) from None


def _reasons(ballots: Ballots) -> str:
    """What was found instead of votes, in brackets."""
    said = [f"{reason}: {found.count}" for reason, found in ballots.left_out.items()]
    return f" ({'; '.join(said)})" if said else ""


def _read_files(path: Path, ballots: Ballots, asked: str) -> list[str]:
    """Read all files; returns the titles of the formats. A file of no tool among files of a tool is only noted."""
    files, others = record_files(path)
    seen: list[tuple[RecordFile, ToolFormat | None]] = []
    for file in files:
        first = next(file.rows, None)
        if first is None:
            if len(files) == 1:
                raise ValueError(f"{file.name} has a header and no rows; export the votes again.")
            ballots.leave("files without records", file.name, votes=0)
            continue
        file.rows = itertools.chain([first], file.rows)
        tool = next((tool for tool in TOOLS if (tool.name == asked if asked else tool.fits(first[1]))), None)
        seen.append((file, tool))
    tools = {tool.name: tool for _, tool in seen if tool}
    if len(tools) > 1:
        raise ValueError(
            f"{path} mixes exports of {' and '.join(tools)}; read each of them alone, or name one as --format."
        )
    if len(seen) > 1 and not tools:
        raise ValueError(
            f"{path} holds {len(seen)} tables that are no export of a known tool ({seen[0][0].name}, ...); give one file."
        )
    named = any(file.nested for file, tool in seen if tool)
    titles = set()
    for file, tool in seen:
        if tool is None and tools:
            others.append(file.name)
            continue
        if tool is None:
            titles.add(LAYOUTS[read_table(ballots, file, asked)])
        elif tool.name == "potato" and named and not file.nested:
            # It repeats the answers of the folders of all users, mostly without their names.
            others.append(f"{file.name}, which repeats the users' folders")
            continue
        else:
            _read_tool(ballots, file, tool)
            titles.add(tool.title)
        for reason, count in file.notes.items():
            ballots.leave(reason, file.name, votes=0, count=count)
        if file.encoding == "cp1252":
            ballots.leave("files that are not UTF-8 and are read as Windows-1252", file.name, votes=0)
    for tool in tools.values():
        tool.finish(ballots)
    for name in others:
        ballots.leave("files that are not read", name, votes=0)
    return sorted(titles)


def _read_tool(ballots: Ballots, file: RecordFile, tool: ToolFormat) -> None:
    """Read the records of one file of a tool."""
    for line, record in file.rows:
        where = f"{file.name}: line {line}"
        try:
            tool.read(ballots, file, where, record)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            # A sentence of ours begins with the place.
            if str(error).startswith(file.name):
                raise
            problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{where} is not a record of {tool.title} ({problem}); export again, or name another --format."
            ) from None


class _Votes:
    """The frame while votes are left out of it, each for a reason that is counted."""

    def __init__(self, ballots: Ballots) -> None:
        columns = {
            "item": ballots.items,
            "annotator": ballots.raters,
            "question": ballots.questions,
            "value": ballots.values,
        }
        self.frame, self.leave = pd.DataFrame(columns, dtype=object), ballots.leave

    def drop(self, rows: pd.Series, reason: str, column: str) -> None:
        """Leave rows out; examples are taken from the column."""
        if lost := int(rows.sum()):
            self.leave(reason, map(str, self.frame[column][rows].dropna()), lost, lost)
            self.frame = self.frame[~rows].reset_index(drop=True)

    def rename(self, rows: pd.Series, column: str, aliases: Mapping[str, str | None], what: str) -> None:
        """Apply aliases to rows; every merged name is listed, since nothing is merged unseen."""
        ignored = [spelling for spelling, name in aliases.items() if name is None]
        counts = self.frame[column][rows].value_counts()
        for spelling, name in aliases.items():
            if spelling not in counts:
                self.leave("aliases of names that do not occur", spelling, votes=0, most=None)
            elif name is not None and name != spelling:
                said, number = f"{spelling!r} as {name!r} ({counts[spelling]:,})", int(counts[spelling])
                self.leave(f"{what} read as another, by the aliases", said, votes=0, count=number, most=None)
        changed = {spelling: name for spelling, name in aliases.items() if name is not None}
        if changed:
            values = self.frame[column]
            self.frame[column] = values.mask(rows & values.isin(changed), values.map(changed))
        self.drop(rows & self.frame[column].isin(ignored), f"votes of {what} that the aliases leave out", column)


def _finish(path: Path, ballots: Ballots, reading: Reading, kinds: list[str]) -> OwnVotes:
    """Apply the aliases, find the questions, and say how the file was read."""
    votes, aliases, asked = _Votes(ballots), reading.aliases, _asked(reading.question)
    names = list(votes.frame["question"].unique())
    if len(names) == len(asked) == 1:
        # The file may not say the name of its only question.
        votes.frame["question"] = next(iter(asked))
        ballots.multiple = set(asked) if ballots.multiple else set()
    elif asked:
        for name in asked:
            if name not in names:
                raise ValueError(
                    f"{path}: there is no question {name!r}{nearest(name, names)}; the questions are {', '.join(names[:20])}."
                )
        other = ~votes.frame["question"].isin(list(asked))
        votes.drop(other, "votes on questions that were not asked for", "question")
    votes.rename(pd.Series(True, votes.frame.index), "annotator", aliases.raters, "raters")
    itself = pd.Series(False, votes.frame.index)
    for question, spellings in aliases.labels.items():
        votes.rename(votes.frame["question"] == question, "value", spellings, f"labels of {question}")
        kept = [spelling for spelling, name in spellings.items() if spelling == name]
        itself = itself.reindex(votes.frame.index, fill_value=False)
        itself |= (votes.frame["question"] == question) & votes.frame["value"].isin(kept)
    none = [one for one in votes.frame["value"].dropna().unique() if one.strip().lower() in NO_VALUES]
    votes.drop(votes.frame["value"].isin(none) & ~itself, "answers that say that there is none", "value")
    questions, proposed, spelt = [], Aliases(), {}
    for name in dict.fromkeys([*asked, *votes.frame["question"]]):
        rows = votes.frame["question"] == name
        try:
            found, values, problem = _question_of(
                name, votes.frame["value"][rows], asked.get(name), name in ballots.multiple
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error} Name its scale or labels as --question.") from None
        if found is None:
            votes.drop(rows, problem, "question")
            continue
        votes.frame.loc[rows, "value"] = values
        questions.append(found)
        if found.is_scale:
            numbers = pd.to_numeric(votes.frame["value"][rows], errors="coerce")
            outside = rows & ~numbers.between(found.low, found.high).reindex(rows.index, fill_value=True)
        else:
            outside = rows & votes.frame["value"].notna() & ~votes.frame["value"].isin(found.labels)
            spelt[name] = Counter(values.dropna())
            if proposal := propose_aliases(spelt[name], found.labels if asked.get(name) else ()):
                proposed.labels[name] = proposal
            words = values[values.isin([one for one in spelt[name] if not is_number(one)])]
            if not asked.get(name) and 0 < 2 * len(words) < len(values) and values.nunique() - words.nunique() > 2:
                votes.leave("answers in words among numbers, which are all read as labels", words, 0, len(words))
        votes.drop(outside, "answers that do not fit --question", "value")
    if not questions or not len(votes.frame):
        raise ValueError(
            f"{path}: no votes are left{_reasons(ballots)}; name other questions as --question or --value."
        )
    for reason, found in ballots.left_out.items():
        # Reports and dataset cards are passed on, and where a file lies is nobody's business.
        examples = tuple(one.replace(os.path.join(path.parent, ""), "") for one in found.examples)
        ballots.left_out[reason] = replace(found, examples=examples)
    voted = set(votes.frame["item"])
    facts = {
        item: said
        for item, said in ballots.facts.items()
        if item in voted or not ("start" in said or item in ballots.divided)
    }
    raters = votes.frame.groupby("item")["annotator"].nunique(dropna=False)
    alone = [item for item in raters.index[raters == 1] if "start" in facts[item]]
    if alone:
        ballots.leave("segments that only one rater marked", alone[0], votes=0, count=len(alone))
    spelt[""] = Counter(votes.frame["annotator"].dropna())
    proposed.raters = propose_aliases(spelt[""])
    spoken = _spoken(kinds, votes.frame, questions)
    return OwnVotes(
        path, votes.frame, tuple(questions), facts, ballots.left_out, spoken, proposed, spelt, ballots.columns
    )


def _asked(questions: Sequence[str]) -> dict[str, Question | None]:
    """Questions of the command line by name, with their definition if it is given."""
    found: dict[str, Question | None] = {}
    for text in questions:
        name, given, answers = text.partition("=")
        if not given:
            found[name] = None
            continue
        low, dots, high = answers.partition("..")
        try:
            if dots:
                found[name] = Question.scale(name, float(low), float(high))
            else:
                found[name] = Question.category(name, [label.strip() for label in answers.split(",")])
        except ValueError as error:
            raise ValueError(f"--question {text}: {error} Write NAME, NAME=LABEL,LABEL or NAME=LOW..HIGH.") from None
    return found


def _question_of(
    name: str, values: pd.Series, given: Question | None, multiple: bool
) -> tuple[Question | None, pd.Series, str]:
    """The question that the values answer, the values as it needs them, and else why their votes are left out."""
    said = list(dict.fromkeys(values.dropna()))
    if all(DECIMAL_COMMA.fullmatch(one.strip()) for one in said) and any("," in one for one in said):
        values = values.str.replace(",", ".")
        said = list(dict.fromkeys(values.dropna()))
    if given is not None:
        if not given.is_scale and multiple:
            given = Question.category(name, given.labels, multiple=True)
        return given, values, ""
    numeric = bool(said) and all(is_number(one) for one in said)
    if numeric and not multiple:
        numbers = sorted({float(one) for one in said})
        if len(numbers) > 2:
            return Question.scale(name, numbers[0], numbers[-1]), values, ""
    if len(said) < 2 and not multiple:
        return None, values, "votes on a question that has only one answer"
    if len(said) > MANY and 2 * len(said) > len(values):
        return None, values, "answers in free text"
    labels = sorted(said, key=float) if numeric else sorted(said)
    return Question.category(name, labels, multiple=multiple), values, ""


def _spoken(kinds: list[str], frame: pd.DataFrame, questions: Sequence[Question]) -> str:
    """How the votes were read, in a line."""
    named = frame["annotator"].nunique()
    said = [", ".join(kinds), f"{named} rater{'s' * (named > 1)}" if named else "anonymous votes"]
    for one in questions:
        answers = f"scale {one.low:g} to {one.high:g}" if one.is_scale else f"{len(one.labels)} labels"
        said.append(f"question `{one.name}`, {answers}")
    return ", ".join(said)


def describe_reading(votes: OwnVotes) -> list[tuple[str, str, str]]:
    """Rows to print: what was read and what was left out."""
    rows = [("votes in the file", f"{votes.votes_read:,}", ""), ("votes read", f"{len(votes.frame):,}", "")]
    return [*rows, *(found.row() for found in votes.left_out.values())]
