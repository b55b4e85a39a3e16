"""Names that may be one name in several spellings: what to merge is proposed in a file, and only the user merges."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from annot_hf.data.encoding import alike
from annot_hf.data.files import read_text
from annot_hf.data.questions import read_yaml

# A misspelling is rare, and what it means is frequent: at most this share of its votes.
RARE = 0.1
# Comparing every pair of more names than this takes too long.
MOST_NAMES = 2000


@dataclass
class Aliases:
    """What the user decided: spelling -> name, by question, and for raters; a name of None leaves votes out."""

    labels: dict[str, dict[str, str | None]] = field(default_factory=dict)
    raters: dict[str, str | None] = field(default_factory=dict)


def edits(first: str, second: str, most: int) -> int:
    """How many letters are to be added, left out, replaced or swapped with the next; `most` + 1 if it is more."""
    if abs(len(first) - len(second)) > most:
        return most + 1
    before, row = [], list(range(len(second) + 1))
    for i, letter in enumerate(first, start=1):
        above, row, before = row, [i, *[0] * len(second)], before
        for j, other in enumerate(second, start=1):
            row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == second[j - 2] and first[i - 2] == other:
                row[j] = min(row[j], before[j - 2] + 1)
        before = above
    return min(row[-1], most + 1)


def propose_aliases(votes: Mapping[str, int], known: Sequence[str] = ()) -> dict[str, str]:
    """Spelling -> name, for names that differ only in case, spaces, Unicode form or as 1 and 1.0, and for rare misspellings.

    Args:
        votes: How many votes each spelling has; the spelling with the most is proposed as the name.
        known: The only names to propose, if there are any; a misspelling of them need not be rare.
    """
    if known:
        # As if they had all votes.
        most = 1 + sum(votes.values()) / RARE
        found = propose_aliases({**votes, **dict.fromkeys(known, most)})
        return {spelling: name for spelling, name in found.items() if spelling not in known and name in known}
    found: dict[str, str] = {}
    names = list(votes)
    keys = {name: re.sub(r"\s+", "", name).casefold() for name in names}
    group: list[str] = []
    # Twins follow each other, so a new group begins where the next is not a twin of the first.
    for name in [*alike(names), None]:
        if group and (name is None or not alike([group[0], name])):
            best = max(group, key=votes.get)
            found |= {one: best for one in group if one != best}
            group = []
        if name is not None:
            group.append(name)
    numbers: dict[float, str] = {}
    for name in sorted(names, key=votes.get, reverse=True):
        if re.fullmatch(r"[+-]?\d+(\.\d+)?", name, re.ASCII) and numbers.setdefault(float(name), name) != name:
            found[name] = numbers[float(name)]
    left = [name for name in names if name not in found]
    if len(left) > MOST_NAMES:
        return found
    for name in left:
        allowed = 2 if len(keys[name]) >= 8 else 1
        if len(keys[name]) < 4 or any(map(str.isdigit, name)):
            continue
        near = [
            other
            for other in left
            if votes[name] <= RARE * votes[other]
            and edits(keys[name], keys[other], allowed) <= allowed
            and other not in found
        ]
        if near:
            found[name] = max(near, key=votes.get)
    return found


def write_aliases(path: Path, proposed: Aliases, votes: Mapping[str, Mapping[str, int]]) -> None:
    """Write proposals as YAML, with the votes of each spelling; `votes` has them by question, and those of raters as ""."""
    lines = [
        "# Spellings that look like one name. Nothing is merged yet: keep the lines that are right, delete the others, and",
        "# pass the file as --aliases. A name of null leaves the votes out.",
    ]

    def entries(names: Mapping[str, str], counts: Mapping[str, int], indent: str) -> None:
        for spelling, name in names.items():
            said = f"# {counts[spelling]:,} votes as {counts.get(name, 0):,}"
            lines.append(f"{indent}{_quoted(spelling)}: {_quoted(name)}  {said}")

    if proposed.labels:
        lines.append("labels:")
        for question, names in proposed.labels.items():
            lines.append(f"  {_quoted(question)}:")
            entries(names, votes[question], "    ")
    if proposed.raters:
        lines.append("raters:")
        entries(proposed.raters, votes[""], "  ")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _quoted(text: str) -> str:
    """A text in YAML, on one line."""
    return yaml.dump(text, default_style='"', allow_unicode=True, width=math.inf).strip()


def read_aliases(path: Path) -> Aliases:
    """Read the file that the user edited.

    Raises:
        ValueError: It is not of the form that `write_aliases` writes.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}; pass the file of spellings that was written, with your changes.")
    given = read_yaml(read_text(path), str(path)) or {}
    form = 'write `labels:`, below it each question, and below it lines as "spelling": "name"; and `raters:` likewise'
    if not isinstance(given, dict) or not set(given) <= {"labels", "raters"}:
        raise ValueError(f"{path} holds {', '.join(map(str, given)) if isinstance(given, dict) else given!r}; {form}.")
    labels, raters = given.get("labels") or {}, given.get("raters") or {}
    if not isinstance(labels, dict) or not isinstance(raters, dict):
        raise ValueError(f"{path}: labels and raters are mappings; {form}.")
    for names in (*labels.values(), raters):
        if not isinstance(names, dict):
            raise ValueError(f"{path} has {names!r:.60} where spellings are expected; {form}.")
        for spelling, name in names.items():
            if not isinstance(spelling, str) or not (name is None or isinstance(name, str)):
                raise ValueError(f"{path}: {spelling!r}: {name!r} is not text; put both in quotation marks.")
            if name and names.get(name, name) != name:
                raise ValueError(
                    f"{path}: {spelling!r} becomes {name!r}, which becomes {names[name]!r}; give the last name."
                )
    return Aliases(labels, raters)
