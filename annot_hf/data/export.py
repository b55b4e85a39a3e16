"""Write a corpus as parquet that plain `datasets.load_dataset` reads, and read it back.

The folder appears in one step: README.md (dataset card), corpus.json (questions, report, digests) and TABLE/SPLIT.parquet. Its
digest depends on the labels and items only, not on where the audio lies.
"""

import copy
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from annot_hf.data.audio import audio_info, wav_bytes
from annot_hf.data.corpus import NO_SPEAKER, CorpusReport, VoteCorpus, check_items, count_corpus
from annot_hf.data.encoding import alike, check_choice
from annot_hf.data.export_tables import (
    all_labels,
    audio_column,
    dataset_card,
    make_tables,
    spans_left_out,
    spans_table,
    table_features,
)
from annot_hf.data.files import check_name, file_sha256, replace_folder, resolve_inside
from annot_hf.data.folds import find_leaks
from annot_hf.data.questions import Question, nearest, normal_form_hint
from annot_hf.data.splitting import Splitting
from annot_hf.data.targets import Targets, make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.models.access import find_folder, read_object, spoken
from annot_hf.models.waves import AudioError

EXPORT_KIND = "annot-hf corpus export"
EXPORT_FILE = "corpus.json"
# Where the clips lie on this machine, for a copy of the folder without them; never published.
HERE = ".audio_root"
ENTRIES = ("README.md", EXPORT_FILE, HERE, "votes", "items", "histograms", "spans")
MISSING = "missing"
_STATED = ("version", "license", "citation", "homepage", "access")
# Training needs a max_seconds for clips longer than this (s).
LONG = 30
# How far (s) a segment may go beyond the end of its clip, as tools round.
BEYOND = 0.05
# How many rows have their audio in memory at a time.
EMBED_ROWS = 256


@dataclass(frozen=True, eq=False)
class ExportedCorpus:
    """An export read back.

    Attributes:
        items: Data frame with item, audio (path, embedded `{"bytes", "path"}` or null), file, text, speaker, split, seconds
            and metadata, as far as the corpus has them.
        report: `CorpusReport.to_dict()` of the export.
        digest: SHA-256 of questions, votes, items and spans of the whole export.
        origin: Version, license, language, citation, homepage and access of the corpus, as its script states them, and its
            `repository`, as me/mine@COMMIT, if it was read from the Hub.
        spans: What raters highlighted: data frame with item, annotator, start, end (places in the text) and words, or None.
        part: Describes a view, such as a fold of a cross-validation (see `with_splits`); empty for the whole export.
        shareable: What of the corpus may be passed on, as in `VoteCorpus`.
    """

    folder: Path
    name: str
    questions: tuple[Question, ...]
    default_questions: tuple[str, ...]
    items: pd.DataFrame
    votes: VoteTable
    report: dict[str, Any]
    digest: str
    origin: Mapping[str, Any]
    spans: pd.DataFrame | None = None
    part: Mapping[str, Any] = field(default_factory=dict)
    shareable: str = ""

    @property
    def features(self) -> Path:
        """The folder that caches features by default: beside the export, or in the working folder if that is of the Hub."""
        return self.folder.parent / "features" if spoken(self.folder) == str(self.folder) else Path("features")

    def with_splits(self, splits: Mapping[str, str], part: Mapping[str, Any]) -> "ExportedCorpus":
        """A view in memory of the items in `splits` (item -> its split); a run records `part` (JSON), which describes it."""
        if not part:
            raise ValueError("A view of a corpus needs a part that describes it, such as {'fold': 0, 'folds': 5}.")
        unknown = set(splits) - set(self.items["item"])
        if unknown:
            raise ValueError(f"{self.name} has no item {min(unknown)!r}; name items of the export only.")
        items = self.items[self.items["item"].isin(splits.keys())]
        items = items.assign(split=items["item"].map(splits)).reset_index(drop=True)
        return replace(self, items=items, part=dict(part))

    def targets(self, split: str, questions: str | Sequence[str] = (), method: str = "", **options: Any) -> Targets:
        """Targets of the items of one split by `make_targets`, which takes the options.

        By default the questions are the corpus's, and the method is "soft" for a category and "kde" for scales. The
        pseudo-votes of "smoothed" are distributed like the votes of the split "train" if it exists, else of this split.
        """
        check_splits(self, [split])
        items = self.items.loc[self.items["split"] == split, "item"]
        names = ((questions,) if isinstance(questions, str) else tuple(questions)) or self.default_questions
        method = method or ("kde" if self.votes.question(names[0]).is_scale else "soft")
        prior = None
        train = self.items.loc[self.items["split"] == "train", "item"]
        if method == "smoothed" and not self.votes.question(names[0]).is_scale and len(train):
            totals = self.votes.counts(names[0], items=train).sum(0)
            prior = totals if totals.any() else None
        return make_targets(self.votes, names, method, items=items, prior=prior, **options)


def check_splits(corpus: ExportedCorpus, splits: Sequence[str]) -> list[str]:
    """These splits, or all of the corpus if there are none; raises for one that the corpus lacks."""
    have = sorted(corpus.items["split"].unique())
    for name in splits:
        if name not in have:
            raise ValueError(f"{corpus.name} has no split {name!r}{nearest(name, have)}; it has {', '.join(have)}.")
    return list(splits) or have


def export_corpus(
    corpus: VoteCorpus,
    out: str | os.PathLike,
    *,
    embed_audio: bool = False,
    missing_audio: Literal["error", "drop", "keep"] = "error",
    missing_text: Literal["error", "drop", "keep"] = "error",
    allow_unmatched: bool = False,
    follow_links: bool = False,
    splits: Splitting | None = None,
    strict: bool = False,
) -> CorpusReport:
    """Write `votes`, `items` and `histograms` as parquet with a dataset card; an earlier export is replaced.

    Args:
        corpus: What to export.
        out: Folder to write.
        embed_audio: Put the audio bytes into the parquet files; mind the licence before you pass them on. Otherwise the
            files hold paths from `out`. Of a segment (an item with numbers in columns `start` and `end`, in seconds), that
            part alone is embedded, as WAV at the corpus's rate.
        missing_audio: What to do with items whose audio is missing or unreadable: raise, leave them out with their votes
            ("drop"), or keep them with null audio; the report counts them.
        missing_text: The same for items of a corpus without audio whose text is missing or blank.
        allow_unmatched: Leave out votes on items that the corpus does not list; the report counts them. False raises.
        follow_links: Read audio through links that lead out of the corpus folder, such as to another disk. Links of the
            Hub's cache need no option.
        splits: What divides the items instead of the corpus's own splits: `split_by(...)` or `split_as(...)`.
        strict: Raise for the first finding that is not expected, such as a repair, or an item or vote that is left out.

    Returns:
        What was found, missing, unmatched and duplicated.

    Raises:
        ValueError: Items, votes or spans break a rule, audio or text is missing, nothing is left to export, a strict export
            has findings, or `out` exists and is not an export.
    """
    for name, wanted in (("missing_audio", missing_audio), ("missing_text", missing_text)):
        check_choice(name, wanted, ("error", "drop", "keep"), corpus.name)
    out = Path(out).resolve()
    if corpus.root.is_relative_to(out):
        raise ValueError(f"{out} holds the corpus itself ({corpus.root}); export into another folder.")
    items = check_items(corpus, corpus.read_items(), splits=splits is None)
    if "audio" in items:
        kind, wanted, problems = "audio", missing_audio, _find_audio(corpus, items, follow_links)
    else:
        kind, wanted, problems = "text", missing_text, items["text"].isna().map({True: MISSING, False: None})
    votes = corpus.read_votes()
    spans = corpus.read_spans()
    if spans is not None and corpus.text_column != "text":
        raise ValueError(f"{corpus.name}: spans are of the corpus's own texts; export these, without another column.")
    for name in corpus.default_questions:
        votes.question(name)
    # A copy, so that the corpus can be exported again with other options.
    corpus = copy.copy(corpus)
    corpus.findings = dict(corpus.findings)
    for reason, rows in votes.exclusions.items():
        corpus.note(reason, rows, votes=rows)
    votes = _listed_votes(corpus, items, votes, allow_unmatched)
    listed = items["item"]
    good = _usable_items(corpus, items, votes, problems.astype(object), kind, wanted)
    items = items[good].reset_index(drop=True)
    votes = votes.select(mask=pd.Index(votes.items).isin(items["item"])[votes.item_codes])
    if not len(votes):
        raise ValueError(f"{corpus.name}: no vote is on a listed item with {kind}; check item names and {kind}.")
    before = votes
    if splits is not None:
        items, votes = splits(corpus, items, votes)
    if spans is not None:
        left_out = spans_left_out(spans, set(listed) - set(items["item"]), before, votes)
        corpus.note("spans on items or by raters that are left out", int(left_out.sum()))
        spans = spans_table(corpus.name, spans[~left_out], items, votes)
    _note_oddities(corpus, items, votes)
    if strict and (surprises := [one for one in corpus.findings.values() if not one.expected]):
        first = surprises[0]
        raise ValueError(
            f"{corpus.name}: {first.reason}: {first.count:,}{''.join(f', such as {one}' for one in first.examples[:1])}, with "
            f"{first.votes:,} votes left out, and {len(surprises) - 1} other findings; correct the files, or export without "
            "strict, which counts them."
        )
    report = count_corpus(corpus, items, votes, out, 0 if spans is None else len(spans))
    # An export may move together with its clips, and says nothing of this machine.
    near = Path(os.path.relpath(corpus.root, out)).as_posix() if kind == "audio" else None
    facts = {
        "kind": EXPORT_KIND,
        "name": corpus.name,
        **{key: getattr(corpus, key) for key in _STATED},
        "language": list(corpus.language),
        "shareable": corpus.shareable,
        # `shares` only where it is true, so that digests of votes stay what they were.
        "questions": [{k: v for k, v in asdict(one).items() if k != "shares" or v} for one in votes.questions],
        "default_questions": list(corpus.default_questions),
        "labels": all_labels(votes.questions),
        "embedded_audio": embed_audio,
        "label_files": corpus.label_files,
        "label_files_missing": sorted(corpus.missing_files),
        "report": report.to_dict(),
    }
    with replace_folder(out, marker=EXPORT_FILE, kind=EXPORT_KIND, entries=ENTRIES) as folder:
        tables = make_tables(corpus, items, votes, spans, near)
        _write_tables(folder, tables, facts, corpus.sampling_rate, corpus.root)
        seal_export(folder, facts)
        if kind == "audio" and not embed_audio:
            (folder / HERE).write_text(str(corpus.root), encoding="utf-8")
    return report


def _write_tables(folder: Path, tables: dict[str, pa.Table], facts: dict[str, Any], rate: int, root: Path) -> None:
    """Write the tables by split; audio at `rate` is read from `root` if it is to be inside."""
    labels, audio = facts["labels"], root if facts["embedded_audio"] else None
    split_of_item = tables["items"].select(["item", "split"]).to_pandas().set_index("item")["split"]
    for config, table in tables.items():
        split = split_of_item[table["item"].to_numpy()].to_numpy()
        schema = table_features(config, table, labels, rate).arrow_schema
        (folder / config).mkdir()
        for name in facts["report"]["splits"]:
            part = table.filter(pa.array(split == name))
            # `datasets` cannot read an empty file; the split is then absent from this table.
            if part.num_rows:
                _write_parquet(part, schema, folder / config / f"{name}.parquet", audio, rate)


def seal_export(folder: Path, facts: dict[str, Any]) -> None:
    """Write what goes with the parquet files of a folder: `corpus.json`, which holds `facts` and digests, and the card."""
    splits: dict[str, list[str]] = {}
    for config in ENTRIES[3:]:
        names = [name for name in facts["report"]["splits"] if (folder / config / f"{name}.parquet").is_file()]
        splits |= {config: names} if names else {}
    files = [f"{config}/{name}.parquet" for config, names in splits.items() for name in names]
    tables = _read_tables(folder, splits, audio=False)
    # Computed from the written files, because reading the export computes it again.
    digest = _tables_digest(facts["questions"], tables)
    facts = facts | {"files": {name: file_sha256(folder / name) for name in files}, "splits": splits, "digest": digest}
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (folder / EXPORT_FILE).write_text(text + "\n", encoding="utf-8")
    write_card(folder, facts, tables)


def write_card(
    folder: Path,
    facts: dict[str, Any],
    tables: dict[str, pa.Table] | None = None,
    agreed: Sequence[Sequence[str]] = (),
) -> Path:
    """Write README.md, the card of an export whose `corpus.json` holds `facts`; its tables are read if they are not given.

    `agreed` is what `dataset_card` says of agreement.
    """
    # it takes a quarter of a second to load, and reading an export does without
    from datasets import Features
    from datasets.splits import SplitDict, SplitInfo

    features, written = {}, {}
    for config, names in facts["splits"].items():
        written[config] = SplitDict()
        for name in names:
            found = pq.ParquetFile(folder / config / f"{name}.parquet")
            features[config] = Features.from_arrow_schema(found.schema_arrow)
            groups = (found.metadata.row_group(at) for at in range(found.num_row_groups))
            size = sum(group.total_byte_size for group in groups)
            written[config].add(SplitInfo(name, num_bytes=size, num_examples=found.metadata.num_rows))
    tables = tables or _read_tables(folder, facts["splits"], audio=False)
    votes = _vote_table(tables, tuple(Question.from_dict(fields) for fields in facts["questions"]))
    card = dataset_card(facts, features, written, tables["items"].to_pandas(), votes, agreed)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder / "README.md"


def _vote_table(tables: dict[str, pa.Table], questions: tuple[Question, ...]) -> VoteTable:
    """The votes among the tables of an export, which hold labels as numbers."""
    votes = tables["votes"]
    if labels := all_labels(questions):
        codes = votes["label"].combine_chunks().cast(pa.int32())
        label = pa.DictionaryArray.from_arrays(codes, pa.array(labels, pa.string()))
        votes = votes.set_column(votes.column_names.index("label"), "label", label)
    return VoteTable.from_arrow(votes, questions)


def read_export(
    source: str | os.PathLike, *, root: str | os.PathLike | None = None, revision: str | None = None
) -> ExportedCorpus:
    """Read what `export_corpus` wrote.

    Args:
        source: Folder of the export, or a Hub id such as "me/my-votes".
        root: Folder of audio that is not embedded; by default the one that lies from the export's folder as it did when the
            corpus was exported, or, if there is none, where it lay. A corpus that was published without its clips has none.
        revision: Branch, tag or commit of a Hub id.

    Raises:
        ValueError: There is no such folder or repository, or it is not an export, a file is missing or damaged, or the
            audio is not under one root; the message names the file.
    """
    folder = find_folder(source, "dataset", revision=revision).resolve()
    path, facts = folder / EXPORT_FILE, read_export_facts(folder)
    try:
        return _read_checked(folder, facts, root)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); export the corpus again.") from error


def read_export_facts(folder: Path) -> dict[str, Any]:
    """What `corpus.json` of an export says; a ValueError if the folder is none."""
    path = folder / EXPORT_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} is not an exported corpus: it has no {EXPORT_FILE}; write one with `annot-hf corpus`."
        )
    facts = read_object(path, "export the corpus again")
    if facts.get("kind") != EXPORT_KIND:
        raise ValueError(
            f"{folder} is not an exported corpus: {path} is not of kind {EXPORT_KIND!r}; write one with `annot-hf corpus`."
        )
    return facts


def _read_checked(folder: Path, facts: dict[str, Any], root: str | os.PathLike | None) -> ExportedCorpus:
    """The export whose `corpus.json` holds `facts`."""
    for name, digest in facts["files"].items():
        if not (folder / name).is_file():
            raise ValueError(f"The export {folder} lacks {name}; export the corpus again.")
        if file_sha256(folder / name) != digest:
            raise ValueError(
                f"{folder / name} is damaged ({EXPORT_FILE} states another SHA-256); export the corpus again."
            )
    tables = _read_tables(folder, facts["splits"])
    stated = facts["digest"], facts["report"]["items"], facts["report"]["votes"]
    shares = pa.array([fields["name"] for fields in facts["questions"] if fields.get("shares")], pa.string())
    votes = len(tables["votes"]) - pc.sum(pc.is_in(tables["votes"]["question"], shares), min_count=0).as_py()
    if stated != (_tables_digest(facts["questions"], tables), len(tables["items"]), votes):
        raise ValueError(
            f"{folder / EXPORT_FILE} is damaged (its digest or its counts do not match the tables); export the corpus again."
        )
    questions = tuple(Question.from_dict(fields) for fields in facts["questions"])
    repository = {} if spoken(folder) == str(folder) else {"repository": spoken(folder)}
    items = tables["items"].to_pandas()
    if "file" in items:
        # An export that was published without its clips has no column audio.
        items["audio"] = _audio(folder, items, root)
    return ExportedCorpus(
        folder=folder,
        name=facts["name"],
        questions=questions,
        default_questions=tuple(facts["default_questions"]),
        items=items,
        votes=_vote_table(tables, questions),
        report=facts["report"],
        digest=facts["digest"],
        # exports of earlier versions do not state a language, nor what is shareable
        origin={key: facts[key] for key in _STATED} | {"language": facts.get("language", [])} | repository,
        spans=tables["spans"].to_pandas() if "spans" in tables else None,
        shareable=facts.get("shareable", ""),
    )


def _read_tables(folder: Path, splits: dict[str, list[str]], *, audio: bool = True) -> dict[str, pa.Table]:
    """The tables of an export, with all splits of each."""
    tables = {}
    for config in [name for name in ("votes", "items", "spans") if name in splits]:
        paths = [folder / config / f"{split}.parquet" for split in splits[config]]
        try:
            names = [name for name in pq.read_schema(paths[0]).names if audio or name != "audio"]
            tables[config] = pa.concat_tables([pq.read_table(path, columns=names) for path in paths])
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{folder / config} is damaged ({error}); export the corpus again.") from error
    return tables


def item_audio(folder: str | os.PathLike, row: Mapping[str, Any]) -> Any:
    """What `load_audio` takes of a row of "items" or "histograms" of the export in `folder`: its clip or segment."""
    audio, start = row["audio"], row.get("start")
    # What is embedded is cut already.
    if audio is None or audio["bytes"] is not None:
        return audio
    # Earlier exports hold absolute paths, which stay as they are.
    path = os.path.normpath(os.path.join(Path(folder).resolve(), audio["path"]))
    if start is None or np.isnan(start):
        return path
    return {"bytes": None, "path": path, "start": float(start), "end": float(row["end"])}


def _audio(folder: Path, items: pd.DataFrame, root: str | os.PathLike | None) -> list[Any]:
    """The audio of each item; a path must be the file name under the one root, so that no other file is read."""
    sources, base = [], None
    for row in items.to_dict("records"):
        file, audio = row["file"], row.get("audio")
        apart = audio is None or audio["bytes"] is None
        if apart and isinstance(file, str):
            check_name(file, folder)
        if apart and root is not None and isinstance(file, str):
            audio = {"bytes": None, "path": os.path.join(os.path.abspath(root), file)}
        elif apart and audio is not None:
            base = audio["path"].removesuffix(file) if base is None else base
            if audio["path"] != base + file or not base.endswith(("/", os.sep)):
                raise ValueError(
                    f"The export {folder} has audio {audio['path']!r} for file {file!r} of item {row['item']!r}; all audio of "
                    "an export must be under one root: export the corpus again, or pass its root."
                )
            if not os.path.isdir(folder / base) and (folder / HERE).is_file():
                held = (folder / HERE).read_text(encoding="utf-8")
                audio = {"bytes": None, "path": os.path.join(os.path.abspath(held), file)}
        sources.append(item_audio(folder, row | {"audio": audio}))
    return sources


def _find_audio(corpus: VoteCorpus, items: pd.DataFrame, follow_links: bool) -> pd.Series:
    """Replace column `audio` by `file` (relative path or null) and `seconds`; returns the problem of each item, or None."""
    rows, there = [], []
    for audio, times in zip(items.pop("audio"), _segments(corpus, items), strict=True):
        file, duration, problem = None, None, MISSING
        if isinstance(audio, str | os.PathLike):
            inside = os.path.relpath(audio, corpus.root) if os.path.isabs(audio) else os.fspath(audio)
            path = resolve_inside(corpus.root, inside, follow_links=follow_links)
            if path.is_file() or path.is_dir():
                try:
                    source = path if times is None else dict(zip(("path", "start", "end"), (path, *times), strict=True))
                    duration = audio_info(source).seconds
                    if times and times[1] - times[0] > duration + BEYOND:
                        raise AudioError(f"{path} ends before {times[1]:.2f} s, where a segment does")
                    file, problem = Path(inside).as_posix(), None
                except AudioError as error:
                    problem = str(error).replace(os.path.join(corpus.root, ""), "")
            elif not inside.isascii():
                there = there or [found.relative_to(corpus.root).as_posix() for found in corpus.root.rglob("*")]
                problem += normal_form_hint([Path(inside).as_posix()], there)
        rows.append((file, duration, problem))
    found = pd.DataFrame(rows, columns=["file", "seconds", "problem"], dtype=object)
    items["file"], items["seconds"] = found["file"], found["seconds"].astype(float)
    return found["problem"]


def _segments(corpus: VoteCorpus, items: pd.DataFrame) -> list[tuple[float, float] | None]:
    """Start and end (s) of each item that is a segment of its clip."""
    if not {"start", "end"} <= set(items):
        return [None] * len(items)
    times = items[["start", "end"]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    odd = np.isnan(times).any(axis=1) & items[["start", "end"]].notna().any(axis=1).to_numpy()
    if odd.any():
        row = int(np.argmax(odd))
        raise ValueError(
            f"{corpus.name}: item {items['item'][row]!r} goes from {items['start'][row]!r} to {items['end'][row]!r}; columns "
            "start and end hold seconds of the clip, both or none: correct them, or give them other names."
        )
    items[["start", "end"]] = times
    return [None if np.isnan(start) else (start, end) for start, end in times]


def _listed_votes(corpus: VoteCorpus, items: pd.DataFrame, votes: VoteTable, allow: bool) -> VoteTable:
    """The votes on listed items; other votes are noted if `allow` is true, and raise otherwise."""
    listed = pd.Index(votes.items).isin(items["item"])
    if listed.all():
        return votes
    unlisted = votes.items[~listed]
    keep = listed[votes.item_codes]
    if not allow:
        such = ", ".join(unlisted[:3])
        raise ValueError(
            f"{corpus.name}: {int((~keep).sum())} votes are on {len(unlisted)} items that the corpus does not list ({such})"
            f"{normal_form_hint(unlisted, items['item'])}; correct the names, or allow unmatched votes to leave them out."
        )
    corpus.note("items with votes that the corpus does not list", list(unlisted), votes=int((~keep).sum()))
    return votes.select(mask=keep)


def _usable_items(
    corpus: VoteCorpus, items: pd.DataFrame, votes: VoteTable, problems: pd.Series, kind: str, wanted: str
) -> np.ndarray:
    """Which items `(N,)` have readable audio (or text, by `kind`), or all to "keep" them; others are noted in any case."""
    good = problems.isna().to_numpy()
    missing = (problems == MISSING).to_numpy()
    readable = "readable audio" if kind == "audio" else "text"
    if wanted == "error" and not good.all():
        pairs = list(zip(items["item"][~good], problems[~good], strict=True))[:3]
        raise ValueError(
            f"{corpus.name}: {int((~good).sum())} of {len(items)} items have no {readable} "
            f"({'; '.join(f'{item}: {problem}'.rstrip('.') for item, problem in pairs)}); restore the files, or export with "
            f'missing_{kind}="drop" to leave such items out with their votes, or "keep" to keep them without {kind}.'
        )
    per_item = pd.Series(np.bincount(votes.item_codes, minlength=len(votes.items)), index=votes.items)
    for rows, reason, examples in (
        (missing, f"items without {kind}", items["item"]),
        (~good & ~missing, f"items with unreadable {kind}", problems),
    ):
        lost = int(per_item.reindex(items["item"][rows]).sum()) if wanted == "drop" else 0
        # Whoever asks to drop or keep such items expects them, but no damaged file.
        corpus.note(reason, list(examples[rows]), votes=lost, expected=rows is missing)
    if wanted == "keep":
        return np.ones_like(good)
    if not good.any():
        unreadable = problems[~missing]
        nothing = f"no audio file under {corpus.root}" if kind == "audio" else f"no text in {len(items)} items"
        first = unreadable.iloc[0] if len(unreadable) else nothing
        raise ValueError(f"{corpus.name}: no item has {readable} ({first}); export with missing_{kind}='keep'.")
    return good


def _note_oddities(corpus: VoteCorpus, items: pd.DataFrame, votes: VoteTable) -> None:
    """Note what is kept but looks odd."""

    def note(reason: str, what: list[str], *, expected: bool) -> None:
        """Note it; a reader that knows the corpus, and noted it before, says whether it is expected."""
        told = corpus.findings.get(reason)
        corpus.note(reason, what, expected=told.expected if told else expected)

    names = items["item"]
    people = items["speaker"].dropna().unique()
    for what, listed in (("raters", votes.annotators), ("speakers", people), ("items", names.to_numpy())):
        corpus.note(f"{what} whose names differ only in case, spaces or Unicode form", alike(listed))
    corpus.note("items without votes", list(names[~names.isin(votes.items)]))
    if "file" in items:
        parts = [name for name in ("file", "start", "end") if name in items]
        shared = items.duplicated(parts) & items["file"].notna()
        corpus.note("items that share an audio file", list(names[shared]), expected=True)
        long = list(names[items["seconds"] > LONG])
        corpus.note(f"clips longer than {LONG} s, which need max_seconds in training", long, expected=True)
    # A written text may have no speaker.
    known = items["speaker"].notna()
    if "file" in items or known.any():
        note(NO_SPEAKER, list(names[~known]), expected=not known.any())
    for column, several in find_leaks(items).items():
        if column == "text":
            # Short sentences recur in any corpus, and a report that is passed on names items, not texts.
            corpus.note("items with a text of several splits", list(names[items["text"].isin(several)]), expected=True)
        else:
            note(f"{column}s in several splits", several, expected=False)


def _embedded(path: Path, start: float | None, end: float | None, rate: int) -> bytes:
    """The bytes to embed: the file, or its segment."""
    if start is None:
        return path.read_bytes()
    return wav_bytes({"path": path, "start": start, "end": end}, sampling_rate=rate)


def _write_parquet(table: pa.Table, schema: pa.Schema, path: Path, root: Path | None, rate: int) -> None:
    """Write parquet; with `root`, audio bytes are read from there, `EMBED_ROWS` rows at a time."""
    if root is None or "audio" not in table.column_names:
        pq.write_table(table.cast(schema), path)
        return
    place = table.column_names.index("audio")
    # Histograms repeat an item's audio for every question; as a dictionary page, the bytes are stored once.
    with pq.ParquetWriter(path, schema, dictionary_pagesize_limit=1 << 30) as writer:
        for start in range(0, table.num_rows, EMBED_ROWS):
            part = table.slice(start, EMBED_ROWS)
            files, times = part["file"].to_pylist(), [(None, None)] * part.num_rows
            if "start" in part.column_names:
                times = list(zip(part["start"].to_pylist(), part["end"].to_pylist(), strict=True))
            clips = list(zip(files, times, strict=True))
            data = {clip: _embedded(root / clip[0], *clip[1], rate) for clip in set(clips) if clip[0] is not None}
            # A segment is embedded as WAV.
            names = [file if start is None else f"{Path(file).with_suffix('.wav')}" for file, (start, _) in clips]
            audio = audio_column([data.get(clip) for clip in clips], names)
            writer.write_table(part.set_column(place, "audio", audio).cast(schema), row_group_size=EMBED_ROWS)


def _tables_digest(questions: Sequence[dict[str, Any]], tables: dict[str, pa.Table]) -> str:
    """SHA-256 of questions, votes, items and spans without audio; the same on every machine."""
    digest = hashlib.sha256(json.dumps(questions, sort_keys=True).encode())
    for table in (tables[name] for name in ("votes", "items", "spans") if name in tables):
        text = pa.BufferOutputStream()
        pa.csv.write_csv(table.drop_columns([name for name in ("audio",) if name in table.column_names]), text)
        digest.update(text.getvalue())
    return digest.hexdigest()
