"""Write a corpus as parquet that plain `datasets.load_dataset` reads, and read it back.

    FOLDER/README.md                     dataset card: features, splits, report, licence, citation
    FOLDER/corpus.json                   questions, report, digests
    FOLDER/votes/<split>.parquet         one row a vote
    FOLDER/items/<split>.parquet         one row an item: audio, text, speaker, metadata
    FOLDER/histograms/<split>.parquet    one row an item and category question: counts, distribution, entropy

The folder appears in one step, and its digest depends on the labels and items only, not on where the audio lies.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from datasets import Audio, ClassLabel, Features, List

from annot_hf.data.audio import AudioError, audio_info, resolve_inside
from annot_hf.data.card import dataset_card
from annot_hf.data.corpus import SPLITS, CorpusReport, VoteCorpus, check_items, replace_folder
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.models.measures import entropy

KIND = "annot-hf corpus export"
MARKER = "corpus.json"
ENTRIES = ("README.md", MARKER, "votes", "items", "histograms")
EMBED_ROWS = 256  # rows whose audio is in memory at a time


@dataclass(frozen=True, eq=False)
class ExportedCorpus:
    """An export read back.

    Attributes:
        folder: Where it is.
        name: The corpus.
        questions: What raters were asked.
        default_questions: What a recipe learns when it names no question.
        items: Data frame with columns item, audio (path, embedded `{"bytes", "path"}` or null), file, text, speaker,
            split, seconds and metadata, as far as the corpus has them.
        votes: All votes.
        report: `CorpusReport.to_dict()` of the export.
        digest: SHA-256 of questions, votes and items.
    """

    folder: Path
    name: str
    questions: tuple[Question, ...]
    default_questions: tuple[str, ...]
    items: pd.DataFrame
    votes: VoteTable
    report: dict[str, Any]
    digest: str


def export_corpus(
    corpus: VoteCorpus,
    out: str | os.PathLike,
    *,
    embed_audio: bool = False,
    require_audio: bool = True,
    allow_unmatched: bool = False,
) -> CorpusReport:
    """Write `votes`, `items` and `histograms` as parquet with a dataset card; an earlier export is replaced.

    Args:
        corpus: What to export.
        out: Folder to write.
        embed_audio: Put the audio bytes into the parquet files. Mind the licence: whoever has the files has the audio.
            Otherwise they hold paths on this machine.
        require_audio: Leave out items whose audio is missing or unreadable, with their votes; the report counts them.
            False keeps them, with null audio.
        allow_unmatched: Leave out votes on items that the corpus does not list; the report counts them. False raises.

    Returns:
        What was found, missing, unmatched and duplicated.

    Raises:
        ValueError: Items or votes break a rule, nothing is left to export, or `out` is not an earlier export.
    """
    out = Path(out).resolve()
    if corpus.root.is_relative_to(out):
        raise ValueError(f"{out} holds the corpus itself ({corpus.root}); export into another folder.")
    items = check_items(corpus, corpus.read_items())
    problems = _find_audio(corpus, items)
    votes = corpus.read_votes()
    for reason, rows in votes.exclusions.items():
        corpus.note(reason, rows, votes=rows)
    for name in corpus.default_questions:
        votes.question(name)
    items, votes = _match(corpus, items, votes, problems if require_audio else None, allow_unmatched)
    report = _report(corpus, items, votes, out)
    labels = list(dict.fromkeys(label for question in votes.questions for label in question.labels))
    tables = {"votes": _votes_table(votes, labels), "items": _items_table(corpus, items)}
    if labels:
        tables["histograms"] = _histograms_table(votes, labels, tables["items"])
    features = {config: _features(config, table, labels, corpus.sampling_rate) for config, table in tables.items()}
    split_of_item = dict(zip(items["item"], items["split"], strict=True))
    questions = [asdict(question) for question in votes.questions]
    facts = {
        "kind": KIND,
        "name": corpus.name,
        **{key: getattr(corpus, key) for key in ("version", "license", "citation", "homepage", "access")},
        "questions": questions,
        "default_questions": list(corpus.default_questions),
        "labels": labels,
        "splits": list(report.splits),
        "embedded_audio": embed_audio,
        "digest": _digest(questions, tables),
        "label_files": corpus.label_files,
        "report": report.to_dict(),
    }
    with replace_folder(out, marker=MARKER, kind=KIND, entries=ENTRIES) as folder:
        sizes: dict[str, dict[str, tuple[int, int]]] = {}
        for config, table in tables.items():
            split = pd.Series(table["item"].to_pandas()).map(split_of_item).to_numpy()
            sizes[config] = {}
            (folder / config).mkdir()
            for name in report.splits:
                part = table.filter(pa.array(split == name))
                root = corpus.root if embed_audio else None
                _write(part, features[config].arrow_schema, folder / config / f"{name}.parquet", root)
                sizes[config][name] = (part.num_rows, part.nbytes)
        text = json.dumps(facts, indent=1, ensure_ascii=False)
        (folder / MARKER).write_text(text + "\n", encoding="utf-8")
        (folder / "README.md").write_text(dataset_card(corpus, report, facts, features, sizes), encoding="utf-8")
    return report


def read_export(folder: str | os.PathLike) -> ExportedCorpus:
    """Read what `export_corpus` wrote.

    Raises:
        ValueError: The folder is not an export, or a file of it is missing.
    """
    folder = Path(folder).resolve()
    try:
        facts = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if facts["kind"] != KIND:
            raise KeyError(KIND)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is not an exported corpus; write one with `annot-hf corpus`.") from error
    tables = {}
    for config in ("votes", "items"):
        paths = [folder / config / f"{split}.parquet" for split in facts["splits"]]
        gone = [path for path in paths if not path.is_file()]
        if gone:
            raise ValueError(f"The export {folder} lacks {gone[0].relative_to(folder)}; export the corpus again.")
        tables[config] = pa.concat_tables([pq.read_table(path) for path in paths])
    votes = tables["votes"]
    if facts["labels"]:
        codes = votes["label"].combine_chunks().cast(pa.int32())
        label = pa.DictionaryArray.from_arrays(codes, pa.array(facts["labels"], pa.string()))
        votes = votes.set_column(votes.column_names.index("label"), "label", label)
    questions = tuple(Question.from_dict(fields) for fields in facts["questions"])
    items = tables["items"].to_pandas()
    if "audio" in items and not facts["embedded_audio"]:
        items["audio"] = [None if audio is None else audio["path"] for audio in items["audio"]]
    return ExportedCorpus(
        folder=folder,
        name=facts["name"],
        questions=questions,
        default_questions=tuple(facts["default_questions"]),
        items=items,
        votes=VoteTable.from_arrow(votes, questions),
        report=facts["report"],
        digest=facts["digest"],
    )


def _find_audio(corpus: VoteCorpus, items: pd.DataFrame) -> pd.Series | None:
    """Replace column `audio` by `file` (relative path or null) and `seconds`; returns what is wrong per item."""
    if "audio" not in items:
        return None
    files, seconds, problems = [], [], []
    for audio in items.pop("audio"):
        file = duration = None
        problem = "missing"
        if isinstance(audio, str | os.PathLike):
            inside = os.path.relpath(audio, corpus.root) if os.path.isabs(audio) else os.fspath(audio)
            path = resolve_inside(corpus.root, inside)
            if path.is_file():
                try:
                    duration = audio_info(path).seconds
                    file, problem = Path(inside).as_posix(), None
                except AudioError as error:
                    problem = str(error).replace(os.path.join(corpus.root, ""), "")
        files.append(file)
        seconds.append(duration)
        problems.append(problem)
    items["file"] = pd.Series(files, dtype=object)
    items["seconds"] = pd.Series(seconds, dtype=float)
    return pd.Series(problems, dtype=object)


def _match(
    corpus: VoteCorpus, items: pd.DataFrame, votes: VoteTable, problems: pd.Series | None, allow_unmatched: bool
) -> tuple[pd.DataFrame, VoteTable]:
    """Items and votes that belong together; what does not is noted, or raised."""
    listed = np.isin(votes.items, items["item"])
    if not listed.all():
        unlisted = votes.items[~listed]
        rows = int((~listed)[votes.item_codes].sum())
        if not allow_unmatched:
            raise ValueError(
                f"{corpus.name}: {rows} votes are on {len(unlisted)} items that the corpus does not list "
                f"({', '.join(unlisted[:3])}); correct the names, or allow unmatched votes to leave them out."
            )
        corpus.note("items with votes that the corpus does not list", list(unlisted), votes=rows)
    keep = np.ones(len(items), dtype=bool)
    if problems is not None:
        per_item = pd.Series(np.bincount(votes.item_codes, minlength=len(votes.items)), index=votes.items)
        for missing, reason in ((True, "items without audio"), (False, "items with unreadable audio")):
            rows = problems.notna().to_numpy() & ((problems == "missing").to_numpy() == missing)
            names = items["item"][rows]
            corpus.note(reason, list(names if missing else problems[rows]), votes=int(per_item.reindex(names).sum()))
        keep = problems.isna().to_numpy()
        if not keep.any():
            first = problems.iloc[0] if (problems != "missing").any() else f"no audio file under {corpus.root}"
            raise ValueError(f"{corpus.name}: no item has readable audio ({first}); export without require_audio.")
    items = items[keep].reset_index(drop=True)
    votes = votes.select(items=items["item"])
    if not len(votes):
        raise ValueError(f"{corpus.name}: no vote is on a listed item with audio; check item names and audio files.")
    corpus.note("items without votes", list(items["item"][~items["item"].isin(votes.items)]))
    if "file" in items:
        corpus.note(
            "items that share an audio file", list(items["item"][items["file"].duplicated() & items["file"].notna()])
        )
    splits = items[items["speaker"].notna()].groupby("speaker")["split"].nunique()
    corpus.note("speakers in several splits", list(splits.index[splits > 1]))
    return items, votes


def _report(corpus: VoteCorpus, items: pd.DataFrame, votes: VoteTable, out: Path) -> CorpusReport:
    """Count what is exported."""
    found = items["split"].value_counts()
    names = [name for name in SPLITS if name in found] + sorted(set(found.index) - set(SPLITS))
    questions = {}
    for question in votes.questions:
        per_item = np.bincount(votes.item_codes[votes.rows_of(question.name)], minlength=len(votes.items))
        per_item = per_item[per_item > 0]
        if len(per_item):
            spread = {"fewest": per_item.min(), "median": np.median(per_item), "most": per_item.max()}
            counts = {"votes": per_item.sum(), "items": len(per_item)} | spread
            questions[question.name] = {
                key: float(value) if key == "median" else int(value) for key, value in counts.items()
            }
    return CorpusReport(
        name=corpus.name,
        items=len(items),
        votes=len(votes),
        annotators=len(votes.annotators),
        splits={name: int(found[name]) for name in names},
        questions=questions,
        findings=tuple(corpus.findings.values()),
        seconds=round(float(items["seconds"].sum()), 3) if "seconds" in items else 0.0,
        folder=str(out),
    )


def _items_table(corpus: VoteCorpus, items: pd.DataFrame) -> pa.Table:
    """Items as plain Arrow columns, `audio` as the struct that the Audio feature wants."""
    columns = {}
    first = [name for name in ("item", "file", "text", "speaker", "split", "seconds") if name in items]
    for name in [*first, *(name for name in items if name not in first)]:
        try:
            column = pa.array(items[name], from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"{corpus.name}: column {name!r} mixes types ({error}); use one type a column.") from error
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_nested(column.type):
            raise ValueError(f"{corpus.name}: column {name!r} holds {column.type}; use plain values.")
        if pa.types.is_null(column.type) or pa.types.is_large_string(column.type) or name == "speaker":
            column = column.cast(pa.string())
        columns[str(name)] = column
        if name == "file":
            paths = [None if file is None else os.path.join(corpus.root, file) for file in column.to_pylist()]
            columns["audio"] = _audio([None] * len(paths), paths)
    return pa.table(columns)


def _audio(data: Sequence[bytes | None], paths: Sequence[str | None]) -> pa.StructArray:
    fields = [pa.array(data, pa.binary()), pa.array(paths, pa.string())]
    return pa.StructArray.from_arrays(fields, ["bytes", "path"], mask=pa.array([path is None for path in paths]))


def _votes_table(votes: VoteTable, labels: Sequence[str]) -> pa.Table:
    """Votes with the label as its index into all labels, as ClassLabel wants it."""
    table = votes.to_arrow()
    place = table.column_names.index("label")
    label = table["label"].combine_chunks()
    return table.set_column(place, "label", label.indices.cast(pa.int64()) if labels else label.cast(pa.string()))


def _histograms_table(votes: VoteTable, labels: Sequence[str], items: pa.Table) -> pa.Table:
    """One row an item and category question that has votes, in item order."""
    names = items["item"].to_pylist()
    parts = []
    for index, question in enumerate(votes.questions):
        if question.is_scale:
            continue
        counts = votes.counts(question.name, items=names)
        total = counts.sum(axis=1)
        rows = np.flatnonzero(total > 0)
        counts, total, classes = counts[rows], total[rows], len(question.labels)
        distribution = counts / total[:, None]
        kind = pa.int64() if votes.weights is None else pa.float64()
        offsets = pa.array(np.arange(0, counts.size + 1, classes, dtype=np.int32))
        part = items.select(
            [name for name in ("item", "file", "audio", "text", "speaker") if name in items.column_names]
        )
        part = part.take(rows)
        codes = np.tile([labels.index(label) for label in question.labels], len(rows))
        ours = {
            "question": pa.array([question.name] * len(rows), pa.string()),
            "labels": pa.ListArray.from_arrays(offsets, pa.array(codes)),
            "counts": pa.ListArray.from_arrays(offsets, pa.array(counts.ravel()).cast(kind)),
            "distribution": pa.ListArray.from_arrays(offsets, pa.array(distribution.ravel())),
            "entropy": pa.array(entropy(distribution, normalised=True) if classes > 1 else np.zeros(len(rows))),
            "votes": pa.array(total).cast(kind),
            "order": pa.array(rows * len(votes.questions) + index),
        }
        for position, (name, column) in enumerate(ours.items(), start=1):
            part = part.add_column(position, name, column)
        parts.append(part)
    return pa.concat_tables(parts).sort_by("order").drop_columns("order")


def _features(config: str, table: pa.Table, labels: Sequence[str], sampling_rate: int) -> Features:
    """The `datasets` features of a table."""
    plain = [pa.field(f.name, pa.string()) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    features = Features.from_arrow_schema(pa.schema(plain))
    if "audio" in features:
        features["audio"] = Audio(sampling_rate, decode=False)
    if config == "votes" and labels:
        features["label"] = ClassLabel(names=list(labels))
    if config == "histograms":
        features["labels"] = List(ClassLabel(names=list(labels)))
    return features


def _write(table: pa.Table, schema: pa.Schema, path: Path, root: Path | None) -> None:
    """Write parquet; with `root`, audio bytes are read from there, `EMBED_ROWS` rows at a time."""
    if root is None or "audio" not in table.column_names:
        pq.write_table(table.cast(schema), path)
        return
    place = table.column_names.index("audio")
    # histograms repeat an item's audio once per question: as a dictionary page, the bytes are stored once
    with pq.ParquetWriter(path, schema, dictionary_pagesize_limit=1 << 30) as writer:
        for start in range(0, max(table.num_rows, 1), EMBED_ROWS):
            part = table.slice(start, EMBED_ROWS)
            files = part["file"].to_pylist()
            data = {file: (root / file).read_bytes() for file in set(files) - {None}}
            audio = _audio([data.get(file) for file in files], files)
            writer.write_table(part.set_column(place, "audio", audio).cast(schema), row_group_size=EMBED_ROWS)


def _digest(questions: Sequence[dict[str, Any]], tables: dict[str, pa.Table]) -> str:
    """SHA-256 of questions, votes and items, audio paths aside; the same on every machine."""
    digest = hashlib.sha256(json.dumps(questions, sort_keys=True).encode())
    for table in (tables["votes"], tables["items"]):
        text = pa.BufferOutputStream()
        pa.csv.write_csv(table.drop_columns([name for name in ("audio",) if name in table.column_names]), text)
        digest.update(text.getvalue())
    return digest.hexdigest()
