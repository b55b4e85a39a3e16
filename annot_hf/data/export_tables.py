"""What the files of an export hold: Arrow tables with their `datasets` features, and the dataset card."""

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from huggingface_hub import DatasetCardData

from annot_hf.data.corpus import CorpusReport, VoteCorpus
from annot_hf.data.files import CARD_MARK
from annot_hf.data.folds import describe_splits
from annot_hf.data.questions import Question, nearest, read_yaml
from annot_hf.data.votes import VoteTable
from annot_hf.models.measures import entropy

if TYPE_CHECKING:
    from datasets import Features
    from datasets.splits import SplitDict

SPAN_COLUMNS = ("item", "annotator", "start", "end")
SPANS = pa.schema(zip((*SPAN_COLUMNS, "words"), [pa.string()] * 2 + [pa.int64()] * 2 + [pa.string()], strict=True))
CARD = Path(__file__).parents[1] / "templates" / "export" / "dataset_card.yaml"


def all_labels(questions: Sequence[Question]) -> list[str]:
    """All labels in the order of their codes in the tables, as ClassLabel requires."""
    return list(dict.fromkeys(label for question in questions for label in question.labels))


def make_tables(
    corpus: VoteCorpus, items: pd.DataFrame, votes: VoteTable, spans: pa.Table | None, near: str | None
) -> dict[str, pa.Table]:
    """The tables of an export by name, as far as the corpus has them; `near` leads from the export to the corpus."""
    labels, table = all_labels(votes.questions), votes.to_arrow()
    label = table["label"].combine_chunks()
    codes = label.indices.cast(pa.int64()) if labels else label.cast(pa.string())
    table = table.set_column(table.column_names.index("label"), "label", codes)
    tables = {"votes": table, "items": _items_table(corpus, items, near)}
    if labels:
        tables["histograms"] = _histograms_table(votes, labels, tables["items"])
    if spans is not None and len(spans):
        tables["spans"] = spans
    return tables


def _items_table(corpus: VoteCorpus, items: pd.DataFrame, near: str | None) -> pa.Table:
    """Items as plain Arrow columns, with `audio` as the struct of the Audio feature."""
    columns = {}
    first = [name for name in ("item", "file", "start", "end", "text", "speaker", "split", "seconds") if name in items]
    for name in [*first, *(name for name in items if name not in first)]:
        try:
            column = pa.array(items[name], from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(
                f"{corpus.name}: column {name!r} mixes types ({error}); use one type per column."
            ) from error
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_nested(column.type):
            raise ValueError(f"{corpus.name}: column {name!r} holds {column.type}; use plain values.")
        if pa.types.is_null(column.type) or pa.types.is_large_string(column.type) or name == "speaker":
            column = column.cast(pa.string())
        columns[str(name)] = column
        if name == "file":
            paths = [None if file is None else f"{near}/{file}" for file in column.to_pylist()]
            columns["audio"] = audio_column([None] * len(paths), paths)
    return pa.table(columns)


def audio_column(data: Sequence[bytes | None], paths: Sequence[str | None]) -> pa.StructArray:
    """Bytes and paths as the struct of the Audio feature; null without a path."""
    fields = [pa.array(data, pa.binary()), pa.array(paths, pa.string())]
    return pa.StructArray.from_arrays(fields, ["bytes", "path"], mask=pa.array([path is None for path in paths]))


def _histograms_table(votes: VoteTable, labels: Sequence[str], items: pa.Table) -> pa.Table:
    """One row per item and category question that has votes, in item order."""
    names = items["item"].to_pylist()
    about = [name for name in ("file", "audio", "start", "end", "text", "speaker") if name in items.column_names]
    parts = []
    for index, question in enumerate(votes.questions):
        if question.is_scale:
            continue
        counts = votes.counts(question.name, items=names)
        rows = np.flatnonzero(counts.sum(axis=1) > 0)
        counts, classes = counts[rows], len(question.labels)
        distribution = counts / counts.sum(axis=1, keepdims=True)
        total = counts.sum(axis=1) * (not question.shares)
        kind = pa.int64() if votes.weights is None else pa.float64()
        offsets = pa.array(np.arange(0, counts.size + 1, classes, dtype=np.int32))
        codes = np.tile([labels.index(label) for label in question.labels], len(rows))
        columns = {
            "item": items["item"].take(rows),
            "question": pa.array([question.name] * len(rows), pa.string()),
            "labels": pa.ListArray.from_arrays(offsets, pa.array(codes)),
            "counts": pa.ListArray.from_arrays(offsets, pa.array(counts.ravel()).cast(kind)),
            "distribution": pa.ListArray.from_arrays(offsets, pa.array(distribution.ravel())),
            "entropy": pa.array(entropy(distribution, normalised=True) if classes > 1 else np.zeros(len(rows))),
            "votes": pa.array(total).cast(kind),
            "order": pa.array(rows * len(votes.questions) + index),
        }
        parts.append(pa.table(columns | {name: items[name].take(rows) for name in about}))
    return pa.concat_tables(parts).sort_by("order").drop_columns("order")


def table_features(config: str, table: pa.Table, labels: Sequence[str], sampling_rate: int) -> "Features":
    """The `datasets` features of a table."""
    from datasets import Audio, ClassLabel, Features, List

    plain = [pa.field(f.name, pa.string()) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    features = Features.from_arrow_schema(pa.schema(plain))
    if "audio" in features:
        features["audio"] = Audio(sampling_rate, decode=False)
    if config == "votes" and labels:
        features["label"] = ClassLabel(names=list(labels))
    if config == "histograms":
        features["labels"] = List(ClassLabel(names=list(labels)))
    return features


def spans_table(name: str, spans: pd.DataFrame, items: pd.DataFrame, votes: VoteTable) -> pa.Table:
    """The spans `text[start:end]` (Unicode code points from 0) with their words, checked; `name` is the corpus in messages.

    Spans may overlap, but not be repeated; `words`, if given, must be right, and raters must have voted on the item.
    """
    if missing := [column for column in SPAN_COLUMNS if column not in spans]:
        raise ValueError(f"{name}: spans have no column {missing[0]!r}; they need {', '.join(SPAN_COLUMNS)}.")
    spans = spans.reset_index(drop=True)
    item, annotator = (spans[column].astype(str) for column in SPAN_COLUMNS[:2])
    texts = items["text"] if "text" in items else pd.Series([None] * len(items), dtype=object)
    text = item.map(dict(zip(items["item"], texts, strict=True))).astype(object)

    def refuse(bad: pd.Series | np.ndarray, what: Callable[[int], str]) -> None:
        if np.any(bad):
            row = int(np.argmax(bad))
            raise ValueError(f"{name}: span row {row} {what(row)}.")

    refuse(
        ~item.isin(items["item"]),
        lambda row: (
            f"is on item {item[row]!r}{nearest(item[row], items['item'])}, which the corpus does not list; correct it"
        ),
    )
    refuse(text.isna(), lambda row: f"is on item {item[row]!r}, which has no text; leave the span out")
    refuse(
        ~pd.MultiIndex.from_arrays([item, annotator]).isin(_named_pairs(votes)),
        lambda row: f"is by annotator {annotator[row]!r}, who has no vote on item {item[row]!r}; correct or add it",
    )
    places = [pd.to_numeric(spans[column], errors="coerce") for column in ("start", "end")]
    whole = (places[0] % 1 == 0) & (places[1] % 1 == 0)
    refuse(
        ~(whole & (places[0] >= 0) & (places[0] < places[1]) & (places[1] <= text.str.len())),
        lambda row: (
            f"goes from {spans['start'][row]!r} to {spans['end'][row]!r} in a text of {len(text[row])} characters; give "
            "whole numbers with 0 <= start < end <= length"
        ),
    )
    start, end = (place.astype(np.int64) for place in places)
    words = pd.Series([one[a:b] for one, a, b in zip(text, start, end, strict=True)], dtype=object)
    if "words" in spans:
        refuse(
            spans["words"] != words,
            lambda row: (
                f"has the words {spans['words'][row]!r}, but from {start[row]} to {end[row]} item {item[row]!r} holds "
                f"{words[row]!r}; count Unicode characters from 0"
            ),
        )
    checked = pd.DataFrame({"item": item, "annotator": annotator, "start": start, "end": end, "words": words})
    refuse(
        checked.duplicated(list(SPAN_COLUMNS)),
        lambda row: f"repeats a span of annotator {annotator[row]!r} on item {item[row]!r}; list each span once",
    )
    return pa.table(dict(checked), SPANS)


def spans_left_out(spans: pd.DataFrame, items: set[str], before: VoteTable, votes: VoteTable) -> np.ndarray:
    """Which spans `(n,)` are on these items, or by raters whose votes `before` on the item are left out."""
    if "item" not in spans or "annotator" not in spans:
        return np.zeros(len(spans), dtype=bool)
    pairs = pd.MultiIndex.from_frame(spans[["item", "annotator"]].astype(str))
    lost = pairs.isin(_named_pairs(before)) & ~pairs.isin(_named_pairs(votes)) if before is not votes else False
    return pairs.get_level_values(0).isin(items) | lost


def _named_pairs(votes: VoteTable) -> pd.MultiIndex:
    """The item and rater of each vote that names its rater."""
    named = votes.annotator_codes >= 0
    return pd.MultiIndex.from_arrays(
        [votes.items[votes.item_codes[named]], votes.annotators[votes.annotator_codes[named]]]
    )


def dataset_card(
    facts: dict[str, Any],
    features: "dict[str, Features]",
    splits: "dict[str, SplitDict]",
    items: pd.DataFrame,
    votes: VoteTable,
    agreed: Sequence[Sequence[str]] = (),
) -> str:
    """The README of an export: YAML for `load_dataset`, then text for people; `facts` are those of `corpus.json`.

    `agreed` has a row per question of how far raters agree: name, items, alpha, pairwise agreement and Cohen's kappa.
    """
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs

    heard = "file" in items
    metadata = DatasetCardData(
        license=facts["license"],
        language=facts.get("language") or None,
        pretty_name=facts["name"],
        task_categories=["audio-classification" if heard else "text-classification"],
        tags=["annot-hf", "human-label-variation"],
    )
    infos, configs = {}, {}
    for config, written in splits.items():
        infos[config] = DatasetInfo(features=features[config], config_name=config, splits=written)
        files = [{"split": split, "path": f"{config}/{split}.parquet"} for split in written]
        # The cache of `datasets` is keyed by this YAML and not by the files. Without the hash, it would hide changed labels
        # in an export with the same number of rows.
        hashes = ", ".join(facts["files"][file["path"]] for file in files)
        configs[config] = {"data_files": files, "description": f"SHA-256 {hashes}"}
    configs["votes"]["default"] = True
    DatasetInfosDict(infos).to_dataset_card_data(metadata)
    MetadataConfigs(configs).to_dataset_card_data(metadata)
    asked = [(one.name, one.answers, one.prompt) for one in map(Question.from_dict, facts["questions"])]
    text = read_yaml(CARD.read_text(encoding="utf-8"), str(CARD))
    where = "inside" if facts["embedded_audio"] else "local" if "audio" in features["items"] else "outside"
    report = CorpusReport.from_dict(facts["report"]).rows()
    each = np.bincount(votes.annotator_codes[votes.annotator_codes >= 0])
    if len(each):
        spread = f"{each.min():,} / {np.median(each):g} / {each.max():,} votes a rater"
        report.append(("named raters", f"{len(each):,}", spread))
    columns = ["items", "votes", "speakers", "speakers in other splits"]
    counts = describe_splits(items, votes).reindex(columns=columns, fill_value=0)
    texts = {key: _card_text(facts[key]) for key in ("license", "access", "citation")}
    origin = text["upstream" if facts["version"] else "own"]
    raters = text["raters"]["salted" if facts.get("salted") else "plain"].format_map(origin)
    values = {
        "metadata": metadata.to_yaml().strip(),
        "mark": CARD_MARK,
        "name": _card_text(f"{facts['name']} {facts['version']}"),
        "source": origin["source"],
        "audio": text["audio"][where if heard else "none"].format_map(origin),
        "configs": ", ".join(f'"{config}"' for config in features),
        "further": "".join(text[config] for config in features if config in text),
        "questions": _card_table("| question | answers | asked |\n|---|---|---|", asked),
        "report": _card_table(
            "| what | number | details |\n|---|---:|---|",
            report,
        ),
        "agreement": text["agreement"]["measured" if agreed else "open"].format(
            rows=_card_table(
                "| question | items | alpha | pairwise | Cohen's kappa |\n|---|---:|---:|---:|---:|", agreed
            )
        ),
        "splits": _card_table(
            "| split | items | votes | speakers | of them in other splits |\n|---|---:|---:|---:|---:|",
            [(split, *(f"{count:,}" for count in counts.loc[split])) for split in facts["report"]["splits"]],
        ),
        "shareable": text["shareable"][facts.get("shareable") or "unsaid"],
        "raters": raters if len(votes.annotators) else "",
        "homepage": facts["homepage"] or "not stated",
    }
    texts |= {key: texts[key] or "Not stated." for key in ("access", "citation")}
    return text["card"].format_map({"digest": facts["digest"]} | texts | values)


def _card_text(text: str) -> str:
    """Text from files on one line of Markdown, where it must not act as markup."""
    line = html.escape(" ".join(str(text).split()), quote=False).replace("`", "'")
    return re.sub(r"([|\[\]*_#])", r"\\\1", line)


def _card_table(head: str, rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; names in its cells come from files and must not act as markup."""
    return "\n".join([head, *(f"| {' | '.join(map(_card_text, row))} |" for row in rows)])
