"""Tables of votes: one row a vote, a column a rater, or a column of counts a label; columns are found by their names."""

import fnmatch
import hashlib
import re
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from annot_hf.data.ballots import ANSWERS, ITEM_FACTS, ROLES, Ballots, find_role, pick_column, plain_name, sound_path
from annot_hf.data.records import RecordFile, cell_text

LAYOUTS = {"tidy": "one row a vote", "wide": "wide table", "counts": "counts per label"}
# The name of the question where a table says none.
UNNAMED = "label"
# A column with more distinct answers is no rater's.
MANY = 60
MOST_NUMBERS = 21
# What a column beside those of the raters is called if it sums them up.
SUMMARIES = (
    "gold truth ground_truth consensus majority majority_vote final aggregated reference mean median mode average"
).split()
# More votes in one cell are a mistake, such as an item's number.
MOST_VOTES = 100_000
_RATERS = (
    r"(?:rater|annotator|anno|ann|coder|judge|worker|labell?er|evaluator|listener|participant|user|person|[rapwjc])s?"
)
_RATER_NUMBER = re.compile(_RATERS + r"_?\d+")
_NUMBERED = re.compile(r"(.*?)[ _#.-]*(\d+)")


@dataclass
class Columns:
    """A table in memory: cells as text by column, the line of each row, and by column the rows whose cells are lists."""

    name: str
    cells: dict[str, list[str]] = field(default_factory=dict)
    lines: array = field(default_factory=lambda: array("q"))
    lists: dict[str, dict[int, list[Any]]] = field(default_factory=lambda: defaultdict(dict))

    def where(self, row: int) -> str:
        """A row for messages."""
        return f"{self.name}: row {self.lines[row]}"


def read_columns(file: RecordFile) -> Columns:
    """All rows of a table or of flat JSON records; equal cells share their memory."""
    found, same = Columns(file.name), {}
    cells = found.cells
    for name in file.header or ():
        cells[name] = []
    rows = 0
    for line, record in file.rows:
        if record.keys() != cells.keys():
            for name in record.keys() - cells.keys():
                cells[name] = [""] * rows
        for name, column in cells.items():
            value = record.get(name)
            if type(value) is str:
                text = value
            else:
                text = cell_text(value)
                if isinstance(value, list):
                    found.lists[name][rows] = value
            column.append(same.setdefault(text, text))
        found.lines.append(line)
        rows += 1
    if not rows:
        raise ValueError(f"{file.name} has a header and no rows; export the votes again.")
    return found


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def read_table(ballots: Ballots, file: RecordFile, layout: str) -> str:
    """Read the votes of a table; returns its layout, which is recognised if `layout` is empty.

    Raises:
        ValueError: No column is known as item or answer, or a row breaks a rule; the message names the option to give.
    """
    table = read_columns(file)
    names, wanted = list(table.cells), ballots.wanted
    panel, answers = (_asked_columns(table, wanted.get(name, ())) for name in ("rater", "value"))
    rater = None
    if len(panel) == 1 and layout not in ("wide", "counts"):
        rater, panel = panel[0], []
    elif not panel and layout not in ("wide", "counts"):
        rater = find_role("rater", names, taken=answers)
    claimed = [*panel, *answers, *([rater] if rater else [])]
    roles = {role: _role_column(role, table, wanted, claimed) for role in (*ITEM_FACTS, "item", "question")}
    _check_item(table, roles, rater)
    _drop_remarks(table, roles, wanted)
    roles |= _time_columns(table, roles, claimed)
    taken = {name for name in (*roles.values(), rater) if name}
    rest = [name for name in names if name not in taken]
    counts, total = _count_columns(table, rest)
    if layout == "counts":
        panel = panel or answers or counts
    elif layout == "wide":
        panel = panel or answers or _panel(table, rest) or rest
    elif not answers and not panel:
        if rater is None and layout != "tidy":
            panel = counts if _are_counts(table, counts) else _panel(table, rest)
        answers = _answer_columns(rest, rater) if not panel else []
    kind = layout or ("tidy" if answers else _kind_of_panel(table, panel))
    if kind == "tidy" and not answers:
        raise ValueError(
            f"{table.name}: no column is known as the answer; name it as --value, or the columns of raters as --rater. The "
            f"columns are {', '.join(names[:20])}."
        )
    if kind == "tidy":
        _read_tidy(ballots, table, roles, rater, answers)
    else:
        _read_panel(ballots, table, roles, panel, counts=kind == "counts")
    said = answers if kind == "tidy" else panel
    what = {"tidy": "answers", "wide": "raters", "counts": "labels"}[kind]
    taken_for = {**roles, "rater": rater, what: ", ".join(said[:8]) + ", ..." * (len(said) > 8)}
    ballots.columns |= {role: name for role, name in taken_for.items() if name}
    used = {*taken, *said}
    for name in names:
        if name not in used:
            sum_of = " (the sum of the others)" if name == total and kind == "counts" else ""
            ballots.leave("columns that are not read", name + sum_of, votes=0)
    return kind


def _role_column(role: str, table: Columns, wanted: Mapping[str, Sequence[str]], claimed: Sequence[str]) -> str | None:
    """The column that plays a role, as the user says or by its name."""
    if asked := wanted.get(role):
        return pick_column(asked[0], table.cells, table.name)
    found = find_role(role, table.cells, taken=claimed)
    # A number for each row names no question.
    return None if role == "question" and found and len(set(table.cells[found])) > MANY else found


def _time_columns(table: Columns, roles: Mapping[str, str | None], claimed: Sequence[str]) -> dict[str, str | None]:
    """The columns of the start and the end of a segment of a clip, if there are both and they hold numbers."""
    names = [find_role(role, table.cells, taken=claimed) for role in ("start", "end")]
    clips = (
        all(names)
        and not roles["text"]
        and all(is_number(one or "0") for name in names for one in set(table.cells[name]))
    )
    return dict(zip(("start", "end"), names, strict=True)) if clips else {}


def _drop_remarks(table: Columns, roles: dict[str, str | None], wanted: Mapping[str, Sequence[str]]) -> None:
    """Give up columns, such as a rater's comment, that say different things of one item, if their name does not insist."""
    items = table.cells[roles["item"]]
    for role in ITEM_FACTS:
        column = roles[role]
        if column is None or role in wanted or plain_name(column) in ROLES[role][:2]:
            continue
        said: dict[str, str] = {}
        if any(said.setdefault(item, one) != one for item, one in zip(items, table.cells[column], strict=True) if one):
            roles[role] = None


def _check_item(table: Columns, roles: dict[str, str | None], rater: str | None) -> None:
    """Make sure that the rows have items; texts without names, or with a number per vote, are named by their digest."""
    item, text = roles["item"], roles["text"]
    per_vote = item and rater and plain_name(item) == "id" and len(set(table.cells[item])) == len(table.lines)
    if text and (item is None or per_vote):
        made = {
            one: f"text-{hashlib.sha256(one.encode(errors='replace')).hexdigest()[:12]}"
            for one in set(table.cells[text])
        }
        table.cells["text digest"] = [made[one] if one else "" for one in table.cells[text]]
        roles["item"] = "text digest"
    elif item is None:
        raise ValueError(
            f"{table.name}: no column is known as the item; name it as --item. There are {', '.join(list(table.cells)[:20])}."
        )


def _asked_columns(table: Columns, asked: Sequence[str]) -> list[str]:
    """The columns that the user named, some perhaps by patterns such as `rater_*`."""
    found, names = [], list(table.cells)
    for one in asked:
        if any(sign in one for sign in "*?["):
            alike = [name for name in names if fnmatch.fnmatchcase(name.casefold(), one.casefold())]
            if not alike:
                raise ValueError(f"{table.name}: no column is called {one}; the columns are {', '.join(names[:20])}.")
            found += alike
        else:
            found.append(pick_column(one, names, table.name))
    return list(dict.fromkeys(found))


def _answer_columns(rest: Sequence[str], rater: str | None) -> list[str]:
    """The columns of answers of a tidy table: by name, or the only one that is left."""
    if (named := find_role("value", rest)) is not None:
        return [named]
    places = {name: [ANSWERS.index(word) for word in plain_name(name).split("_") if word in ANSWERS] for name in rest}
    known = sorted((name for name in rest if places[name]), key=lambda name: min(places[name]))
    return known or (list(rest) if rater and len(rest) == 1 else [])


def _panel(table: Columns, rest: Sequence[str]) -> list[str]:
    """The columns of raters or labels of a table without a column of raters: numbered ones, or those that share answers."""
    stems = [match[1] for name in rest if (match := _NUMBERED.fullmatch(name))]
    numbered = [
        name for name in rest if (match := _NUMBERED.fullmatch(name)) and stems.count(match[1]) > 1 and match[1]
    ]
    if numbered:
        return numbered
    rest = [name for name in rest if plain_name(name) not in SUMMARIES]
    said = {name: {one.casefold().strip() for one in set(table.cells[name])} - {""} for name in rest}
    # Measurements are numbers too, but no rater has that many.
    most = {name: MOST_NUMBERS if all(map(is_number, values)) else MANY for name, values in said.items()}
    said = {name: values for name, values in said.items() if 0 < len(values) <= most[name]}
    alike = []
    for name, values in said.items():
        others = set().union(*(more for other, more in said.items() if other != name))
        if 2 * len(values & others) >= len(values):
            alike.append(name)
    # Of numbers, the user says what they are.
    numbers = [name for name, values in said.items() if all(map(is_number, values))]
    return next((names for names in (alike, numbers) if len(names) > 1), [])


def _count_columns(table: Columns, rest: Sequence[str]) -> tuple[list[str], str]:
    """The columns that may hold counts, all of numbers, and the column that is the sum of the others, or ""."""
    counts = {
        name: [float(one or 0) for one in table.cells[name]]
        for name in rest
        if all(one == "" or is_number(one) for one in set(table.cells[name])) and any(table.cells[name])
    }
    sums = [sum(row) for row in zip(*counts.values(), strict=True)]
    totals = [name for name, values in counts.items() if [2 * value for value in values] == sums]
    total = totals[0] if totals and len(counts) > 2 else ""
    return [name for name in counts if name != total], total


def _are_counts(table: Columns, names: Sequence[str]) -> bool:
    """Whether columns hold counts for sure: whole numbers with zeros, of one sum in all rows."""
    cells = [table.cells[name] for name in names]
    if any(_RATER_NUMBER.fullmatch(plain_name(name)) for name in names) or not all(map(_is_count, set().union(*cells))):
        return False
    sums = {sum(map(float, row)) for row in zip(*cells, strict=True)}
    # A sum of 1 may be one vote, or raters who differ on yes and no.
    return len(names) > 1 and len(sums) == 1 and sums != {1} and any("0" in column for column in cells)


def _is_count(text: str) -> bool:
    """Whether a text is a whole number from 0."""
    return is_number(text) and float(text) >= 0 and float(text).is_integer()


def _kind_of_panel(table: Columns, panel: Sequence[str]) -> str:
    """Whether columns are raters or counts; raises if it may be either."""
    if not panel:
        return "tidy"
    cells = [table.cells[name] for name in panel]
    if not all(one == "" or is_number(one) for column in cells for one in set(column)):
        return "wide"
    if any(_RATER_NUMBER.fullmatch(plain_name(name)) for name in panel):
        return "wide"
    if _are_counts(table, panel):
        return "counts"
    raise ValueError(
        f"{table.name}: columns {', '.join(panel[:4])} hold numbers, which may be counts of votes for labels, or ratings; "
        "say which by --format counts or wide and name the columns as --rater, or one a question as --value."
    )


def _facts(ballots: Ballots, table: Columns, roles: Mapping[str, str | None]) -> list[str]:
    """The item of each row, with its facts recorded; a row without an item has none."""
    given = table.cells[roles["item"]]
    items = [one.strip() for one in given]
    spaced = sum(one != one.strip() for one in set(given))
    ballots.leave("item names with spaces around them, which are left out", "", votes=0, count=spaced)
    known = [(role, table.cells[roles[role]]) for role in ITEM_FACTS if roles[role]]
    seen: dict[str, tuple[str, ...]] = {}
    for row, item in enumerate(items):
        if not item:
            continue
        said = tuple(column[row] for _, column in known)
        if seen.get(item) != said:
            seen[item] = said
            facts = {role: one for (role, _), one in zip(known, said, strict=True)}
            if "audio" in facts:
                facts["audio"] = sound_path(facts["audio"])
            ballots.about(table.where(row), item, facts)
    if roles.get("start"):
        times = list(zip(*(table.cells[roles[name]] for name in ("start", "end")), strict=True))
        several = len({*zip(items, times, strict=True)}) > len(set(items))
        for row, (start, end) in enumerate(times):
            if items[row] and (start or end):
                try:
                    items[row] = ballots.segment(items[row], start, end, "" if several else items[row])
                except ValueError as error:
                    raise ValueError(f"{table.where(row)}: {error}, or give the columns other names.") from None
    return items


def _read_tidy(
    ballots: Ballots, table: Columns, roles: Mapping[str, str | None], rater: str | None, answers: Sequence[str]
) -> None:
    """One row a vote, or one row an item and rater with a column a question."""
    items, rows = _facts(ballots, table, roles), range(len(table.lines))
    raters = table.cells[rater] if rater else [""] * len(rows)
    asked = table.cells[roles["question"]] if roles["question"] and len(answers) == 1 else None
    for column in answers:
        known = plain_name(column) in ("value", "vote", "answer", "response", "annotation", "choice", "class")
        name, values, listed = UNNAMED if known else column, table.cells[column], table.lists[column]
        for row in rows:
            value = values[row]
            if not value.strip():
                ballots.leave("rows without an answer", table.where(row), votes=0)
            elif not items[row]:
                ballots.leave("rows without an item", table.where(row))
            elif asked is not None and not asked[row].strip():
                ballots.leave("rows without a question", table.where(row))
            else:
                question = name if asked is None else asked[row]
                given = items[row], raters[row] if raters[row].strip() else None, question
                if row in listed:
                    ballots.answers(*given, listed[row])
                else:
                    ballots.vote(*given, value)
    if rater:
        unnamed = ballots.raters.count(None)
        ballots.leave("votes without a rater, which count as anonymous", "", votes=0, count=unnamed)


def _read_panel(
    ballots: Ballots, table: Columns, roles: Mapping[str, str | None], panel: Sequence[str], *, counts: bool
) -> None:
    """One row an item, and a column a rater, or a column a label with the number of its votes."""
    items = _facts(ballots, table, roles)
    if counts:
        again = len(items) - len(set(items))
        ballots.leave("rows that repeat an item, whose counts are added", table.name, votes=0, count=again)
    for column in panel:
        match = _NUMBERED.fullmatch(column)
        stem = plain_name(match[1]) if match else ""
        # As emotion_1, emotion_2: the column says the question; rater_1 does not.
        question, rater = (
            (match[1].strip(" _-#."), match[2]) if stem and not re.fullmatch(_RATERS, stem) else (UNNAMED, column)
        )
        if counts and not any(value.strip(" 0.") for value in table.cells[column]):
            ballots.leave("labels without a vote, which are not read", column, votes=0)
        for row, value in enumerate(table.cells[column]):
            if not value.strip():
                continue
            number = int(float(value)) if counts and _is_count(value) else 1
            if counts and (not _is_count(value) or number > MOST_VOTES):
                raise ValueError(
                    f"{table.where(row)} has {value!r:.40} in column {column!r}; a count is a whole number from 0 to "
                    f"{MOST_VOTES}, so correct it or name the columns of counts as --value."
                )
            if not items[row]:
                ballots.leave("rows without an item", table.where(row), votes=number, count=int(number > 0))
            elif counts:
                for _ in range(number):
                    ballots.vote(items[row], None, UNNAMED, column)
            else:
                ballots.vote(items[row], rater, question, value)
