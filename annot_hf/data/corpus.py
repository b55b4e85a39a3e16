"""`VoteCorpus`: constants and readers that turn upstream files into votes; docs/votes.md shows one."""

import builtins
import hashlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from annot_hf.data.files import file_sha256
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

SPLITS = ("train", "validation", "test")
# The export adds these columns to the items.
OWN = ("file", "seconds")
# A reason for a finding of the export, and of readers that expect it.
NO_SPEAKER = "items without a speaker"
# of BCP 47: a language of ISO 639, then script and region
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|\d{3}))?")


@dataclass(frozen=True)
class Finding:
    """What was left out, repaired or not matched: how many items, files or rows, and the votes that are left out.

    `expected` findings are those of files as they should be, or of what was asked for; a strict export accepts no others.
    """

    reason: str
    count: int
    votes: int = 0
    examples: tuple[str, ...] = ()
    expected: bool = False

    def row(self) -> tuple[str, str, str]:
        """A row to print: (what, how many, details)."""
        left_out = [f"{self.votes:,} votes left out"] if self.votes else []
        return self.reason, f"{self.count:,}", "; ".join([*left_out, ", ".join(self.examples)])


@dataclass(frozen=True)
class CorpusReport:
    """What an export contains and what it leaves out; the upstream files have `votes + sum(finding.votes)` votes.

    `annotators` counts named raters; `questions` has votes, items, and fewest, median and most votes on an item, all 0 votes
    where only their shares are known; audio in s.
    """

    name: str
    items: int
    votes: int
    annotators: int
    splits: dict[str, int]
    questions: dict[str, dict[str, float]]
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0
    spans: int = 0
    folder: str = field(default="", compare=False)

    @property
    def votes_left_out(self) -> int:
        """Votes in the upstream files that are not in the export."""
        return sum(finding.votes for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping, without the folder."""
        return {key: value for key, value in asdict(self).items() if key != "folder"}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "CorpusReport":
        """What `to_dict` gave, also after a round trip through JSON."""
        findings = (Finding(**one | {"examples": tuple(one["examples"])}) for one in fields["findings"])
        return cls(**fields | {"findings": tuple(findings)})

    def rows(self) -> list[tuple[str, str, str]]:
        """Rows to print: (what, how many, details)."""
        splits = ", ".join(f"{split} {count:,}" for split, count in self.splits.items())
        audio = f"{splits}; {self.seconds / 3600:.2f} h of audio" if self.seconds else splits
        rows = [("items", f"{self.items:,}", audio), ("votes", f"{self.votes:,}", f"{self.annotators:,} named raters")]
        for name, row in self.questions.items():
            spread = f"{row['fewest']:.0f} / {row['median']:g} / {row['most']:.0f} votes an item"
            spread = spread if row["votes"] else "shares of an unknown number of votes"
            rows.append((f"question {name}", f"{row['votes']:,}", f"{row['items']:,} items, {spread}"))
        if self.spans:
            rows.append(("spans", f"{self.spans:,}", "highlighted in the text"))
        return [*rows, *(finding.row() for finding in self.findings)]


class VoteCorpus:
    """A folder of upstream files, read as items and votes; subclass it once per corpus.

    Attributes:
        name: Short name, also of the exported dataset.
        version: Version of the upstream release, or of the reader; empty if there is no release, as of a user's own file.
        license: Licence identifier of the Hub (`odbl`, `cc-by-4.0`, `other`, ...).
        language: What is spoken or written, as codes such as en or pt-BR; one may stand alone. Empty if it is not known.
        citation: How to cite the corpus.
        homepage: Where it is described.
        access: How to obtain it, and what may be passed on.
        shareable: The same for `annot-hf publish`: "everything", "votes" (no clip and no text), "nothing", or "" where its
            owner has to say.
        questions: What raters were asked.
        default_questions: The questions of a recipe that names none.
        sampling_rate: Sampling rate of the Audio column (Hz).
        text_column: The column of the items that is exported as their text, such as one turn without its context.
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "1.0.0"
    license: ClassVar[str] = "other"
    language: str | tuple[str, ...] = ()
    citation: ClassVar[str] = ""
    homepage: ClassVar[str] = ""
    access: ClassVar[str] = ""
    shareable: ClassVar[Literal["everything", "votes", "nothing", ""]] = ""
    questions: ClassVar[tuple[Question, ...]] = ()
    default_questions: ClassVar[tuple[str, ...]] = ()
    sampling_rate: ClassVar[int] = 16_000
    text_column: str = "text"

    def __init__(self, root: str | os.PathLike) -> None:
        if not self.name:
            raise ValueError(f"{type(self).__name__} has no name; set the class attribute `name`.")
        self.language = (self.language,) if isinstance(self.language, str) else tuple(self.language)
        for code in self.language:
            if not _LANGUAGE.fullmatch(code):
                raise ValueError(f"{self.name}: language is {code!r}; give a code of BCP 47, such as en, de or pt-BR.")
        self.root = Path(root).resolve()
        if not self.root.is_dir():
            raise ValueError(f"There is no corpus folder {self.root}; pass the folder that holds {self.name}.")
        self.findings: dict[str, Finding] = {}
        self.label_files: dict[str, str] = {}
        # Those that the corpus may have, and this folder has not.
        self.missing_files: set[str] = set()

    def read_items(self) -> pd.DataFrame:
        """One row per item: `item` (unique), `audio` (path in the root, or null) and/or `text`, `speaker`, metadata.

        Metadata may have any name but `file` and `seconds`, which the export writes.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read_items.")

    def read_votes(self) -> VoteTable:
        """All votes."""
        raise NotImplementedError(f"{type(self).__name__} must define read_votes.")

    def read_spans(self) -> pd.DataFrame | None:
        """What raters highlighted in the text, one row per span, or None; see `annot_hf.data.export_tables`."""
        return None

    def split_of(self, items: pd.DataFrame) -> pd.Series | Sequence[str]:
        """The split of each item, a Series on the index of `items` or a list; by default its column `split`."""
        if "split" not in items:
            raise ValueError(f"{self.name}: items have no column 'split'; read it, or define split_of.")
        return items["split"]

    def note(self, reason: str, what: int | Sequence[str], *, votes: int = 0, expected: bool = False) -> None:
        """Record for the report what a reader leaves out or repairs; zero findings record nothing.

        Args:
            reason: What was found, in a few words; a second note with the same reason replaces the first.
            what: The number of items, files or rows, or their names.
            votes: How many votes are left out for this reason.
            expected: Whether it is no surprise: files as they should be have it, or the user asked for it.
        """
        names = [] if isinstance(what, int) else [str(name) for name in what]
        count = what if isinstance(what, int) else len(names)
        if count or votes:
            self.findings[reason] = Finding(reason, count, votes, tuple(names[:3]), expected)

    def label_file(self, *names: str, required: bool = True) -> Path | None:
        """The first of `names` (relative to the root) that exists, its digest recorded; None if it is not required."""
        for name in names:
            path = self.root / name
            if path.is_file():
                self.label_files[name] = file_sha256(path)
                return path
        if required:
            raise ValueError(f"{self.name}: {' or '.join(names)} is not in {self.root}. {self.access}".strip())
        self.missing_files.add(names[0])
        return None


def check_items(corpus: VoteCorpus, items: pd.DataFrame, *, splits: bool = True) -> pd.DataFrame:
    """A copy of the items with columns, names, splits and texts checked, and always with a column `speaker`.

    Without `splits`, those of the corpus are not asked for.
    """
    if not len(items):
        raise ValueError(f"{corpus.name}: there are no items under {corpus.root}; check that the corpus is complete.")
    if "item" not in items or not {"audio", "text"} & set(items):
        raise ValueError(f"{corpus.name}: items have columns {', '.join(items)}; needed are item, and audio or text.")
    items = items.reset_index(drop=True)
    names = pd.Index(items.columns.map(str))
    for name in (*names[names.duplicated()], *names.intersection(OWN)):
        what = "a column that the export writes itself" if name in OWN else "two columns of one name"
        raise ValueError(
            f"{corpus.name}: items have {what}, {name!r}; give it another name, such as 'upstream_{name}'."
        )
    unnamed = items["item"].isna() | (items["item"].astype(str).str.strip() == "")
    if unnamed.any():
        raise ValueError(f"{corpus.name}: item row {int(unnamed.idxmax())} has no name; name every item.")
    items["item"] = items["item"].astype(str)
    repeated = items["item"].duplicated()
    if repeated.any():
        raise ValueError(
            f"{corpus.name}: item {items['item'][repeated].iloc[0]!r} is listed twice ({int(repeated.sum())} repeats); "
            "list each item once."
        )
    if splits:
        items["split"] = _checked_splits(corpus, items)
    if "speaker" not in items:
        items["speaker"] = None
    if corpus.text_column != "text":
        if corpus.text_column not in items:
            raise ValueError(
                f"{corpus.name}: items have no column {corpus.text_column!r}; they have {', '.join(items)}."
            )
        items["text"] = items[corpus.text_column]
        corpus.note(f"items whose text is their column {corpus.text_column}", len(items), expected=True)
    if "text" in items:
        items["text"] = _checked_texts(corpus, items)
    return items


def count_corpus(corpus: VoteCorpus, items: pd.DataFrame, votes: VoteTable, out: Path, spans: int) -> CorpusReport:
    """Count what is exported."""
    found = items["split"].value_counts()
    names = [name for name in SPLITS if name in found] + sorted(set(found.index) - set(SPLITS))
    questions, shares = {}, 0
    for question in votes.questions:
        per_item = pd.Series(votes.item_codes[votes.rows_of(question.name)]).value_counts()
        if question.shares:
            # Its rows are no votes.
            shares += int(per_item.sum())
            per_item = per_item * 0
        if len(per_item):
            questions[question.name] = {
                "votes": int(per_item.sum()),
                "items": len(per_item),
                "fewest": int(per_item.min()),
                "median": float(per_item.median()),
                "most": int(per_item.max()),
            }
    return CorpusReport(
        name=corpus.name,
        items=len(items),
        votes=len(votes) - shares,
        annotators=len(votes.annotators),
        splits={name: int(found[name]) for name in names},
        questions=questions,
        findings=tuple(corpus.findings.values()),
        seconds=round(float(items["seconds"].sum()), 3) if "seconds" in items else 0.0,
        spans=spans,
        folder=str(out),
    )


def _checked_splits(corpus: VoteCorpus, items: pd.DataFrame) -> np.ndarray:
    """What `split_of` returns, in the order of the items: a Series is matched by index, a list by position."""
    split = corpus.split_of(items)
    count = len(split) if hasattr(split, "__len__") else "no"
    if isinstance(split, list | tuple | np.ndarray) and count == len(items):
        split = pd.Series(list(split), items.index, dtype=object)
    if (
        not isinstance(split, pd.Series)
        or not split.index.symmetric_difference(items.index).empty
        or count != len(items)
    ):
        raise ValueError(
            f"{corpus.name}: split_of returns {type(split).__name__} of {count} splits for {len(items)} items; return one "
            "per item, as a list in their order or a Series with their index."
        )
    split = split.reindex(items.index)
    odd = ~split.astype(str).str.fullmatch(r"\w+").astype(bool) | split.isna()
    if odd.any():
        raise ValueError(
            f"{corpus.name}: item {items['item'][odd].iloc[0]!r} is in split {split[odd].iloc[0]!r}; name a split "
            f"of each item, such as {', '.join(SPLITS)}."
        )
    return split.astype(str).to_numpy()


def _checked_texts(corpus: VoteCorpus, items: pd.DataFrame) -> pd.Series:
    """The texts with None for missing and blank ones."""
    texts = items["text"].astype(object).where(items["text"].notna(), None)
    for item, text in zip(items["item"], texts, strict=True):
        if text is not None and not isinstance(text, str):
            raise ValueError(
                f"{corpus.name}: the text of item {item!r} is {text!r}, of type {type(text).__name__}; give a string, or "
                "None where there is no text."
            )
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{corpus.name}: the text of item {item!r} is not valid Unicode ({error.reason} at character {error.start}); "
                "restore the upstream file."
            ) from None
    blank = texts.map(lambda text: text is not None and not text.strip()).astype(bool)
    # Without audio, the export decides about items without text.
    if "audio" in items:
        corpus.note("items with a blank text, which counts as none", list(items["item"][blank]))
    return texts.where(~blank, None)


def split_by_group(groups: pd.Series, shares: Sequence[float] = (0.8, 0.1, 0.1)) -> pd.Series:
    """Assign whole groups (conversations, documents, threads) to the splits, in the same way on every machine.

    The SHA-256 of a group's name decides, so part of a corpus has the splits of the whole. As groups differ in size, the
    shares of train, validation and test, which sum to 1, are met only on average.
    """
    unnamed = groups.isna() | (groups.astype(str).str.strip() == "")
    if unnamed.any():
        raise ValueError(f"Item row {int(np.argmax(unnamed))} has no group to split by; name the group of each item.")
    starts = np.cumsum(shares[:-1])
    found = {}
    for group in groups.unique():
        place = int.from_bytes(hashlib.sha256(str(group).encode()).digest()[:8]) / 2**64
        found[group] = SPLITS[int(np.searchsorted(starts, place, side="right"))]
    return groups.map(found)


def shipped_scripts() -> dict[str, Path]:
    """The corpus scripts that come with the package, by the corpus's name."""
    package = Path(__file__).parent.parent
    # in a clone, they lie beside the package
    homes = (package / "dataset_scripts", package.parent / "dataset_scripts")
    return {path.stem: path for home in homes for path in sorted(home.glob("*/*.py")) if path.stem == path.parent.name}


def find_script(path: str | os.PathLike) -> Path | None:
    """The corpus script at a path, in a folder of its own name, or of this name among `shipped_scripts`; None without one."""
    script = Path(path)
    if script.is_dir():
        script = script / f"{script.resolve().name}.py"
    if script.suffix == ".py" and script.is_file():
        return script
    return shipped_scripts().get(os.fspath(path))


def load_corpus_script(path: str | os.PathLike) -> type[VoteCorpus]:
    """The one `VoteCorpus` subclass that a Python file defines; see `find_script` for what else may name the file.

    The file is executed: load only scripts that you have read. It may import files from its own folder; scripts with equally
    named files do not interfere.

    Raises:
        ValueError: There is no such file, or it defines no corpus or several.
    """
    script = find_script(path)
    if script is None:
        raise ValueError(
            f"There is no corpus script {os.fspath(path)}; pass a .py file that defines a VoteCorpus subclass, or one of "
            f"{', '.join(shipped_scripts())}."
        )
    place = hashlib.sha256(str(script.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"annot_hf_corpus_{script.stem}_{place}", script)
    module = importlib.util.module_from_spec(spec)
    module.__builtins__ = {**vars(builtins), "__import__": _import_beside(script.resolve())}
    # A dataclass looks up its annotations there.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, VoteCorpus) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        names = ", ".join(value.__name__ for value in found) or "none"
        raise ValueError(f"{script} must define exactly one VoteCorpus subclass; it defines {names}.")
    return found[0]


def _import_beside(script: Path) -> Callable[..., Any]:
    """An `__import__` that looks in the script's folder first, and hides these modules from other scripts and programs."""
    folder, mine = script.parent, {}
    own = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    own -= {script.stem, "annot_hf", *sys.stdlib_module_names}

    def taken() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in own}

    def import_beside(name: str, *args: Any) -> Any:
        if name.partition(".")[0] not in own:
            return builtins.__import__(name, *args)
        others = taken()
        sys.modules.update(mine)
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        try:
            return builtins.__import__(name, *args)
        finally:
            sys.path.remove(str(folder))
            mine.update(taken())
            sys.modules.update(others)

    return import_beside
