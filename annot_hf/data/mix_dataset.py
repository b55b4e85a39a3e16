"""DiME-Aug as a transform of a `datasets.Dataset`: mixed rows follow the original ones."""

import functools
import hashlib
import io
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from datasets import Audio, Dataset, DatasetDict, Features, Value, concatenate_datasets
from scipy.io import wavfile

from annot_hf.data.audio import MixedClip, load_audio
from annot_hf.data.dime import (
    FEATURE_RATE,
    MixtureReport,
    Mixtures,
    TextRule,
    check_apart,
    features_of_clip,
    plan_mixtures,
    text_features,
)

logger = logging.getLogger(__name__)

# Columns that state the origin of a row begin with this; they are null in rows that are not mixed.
MIXED_PREFIX = "mixed_"
ORIGIN_COLUMNS = ("first", "second", "share", "label", "text_from", "first_speaker", "second_speaker", "seed")
PUBLISHED_FEATURES = "published"
_ORIGIN = dict.fromkeys((MIXED_PREFIX + name for name in ORIGIN_COLUMNS), Value("string"))
_ORIGIN |= {MIXED_PREFIX + "share": Value("float64"), MIXED_PREFIX + "seed": Value("int64")}
# An Audio column that needs no codec to be written.
_STORED = {"bytes": Value("binary"), "path": Value("string")}


def mix_dataset(
    data: Dataset | DatasetDict,
    *,
    support: Sequence[str],
    probs: str = "distribution",
    item: str = "item",
    audio: str | None = "audio",
    text: str | None = "text",
    speaker: str | None = "speaker",
    features: str | np.ndarray = PUBLISHED_FEATURES,
    split: str = "train",
    text_rule: TextRule = "dominant",
    sampling_rate: int = FEATURE_RATE,
    processes: int | None = None,
    **options: Any,
) -> tuple[Dataset | DatasetDict, MixtureReport]:
    """Append mixtures of rare classes to the training split (DiME-Aug, arXiv 2601.14620), and report the classes.

    A mixed row has a new name, the mixed distribution, the mixed clip (WAV bytes, floating point) and the text of one of the
    two. Columns that begin with `mixed_` state its origin; all others are null.

    Args:
        data: The training split, or all splits, of which only `split` is mixed. Its speakers must not occur in others.
        support: Names of the K labels, in the order of the distributions.
        probs: Column of the distributions, lists of K numbers.
        item: Column of unique names.
        audio: Column of type `Audio(decode=False)`; like `text` and `speaker`, it may be None or absent.
        text: Column of texts.
        speaker: Column of speakers.
        features: "published" for `clip_features` and `text_features`, a column of lists of numbers, or an array `(N, D)`.
        split: Which split of a `DatasetDict` is the training split.
        text_rule: Whose text a mixture has: the "dominant" item's, or that of the "first".
        sampling_rate: Sampling rate of the mixed clips (Hz).
        processes: Worker processes; None for none.
        **options: The share, neighbours, partners and seed of `plan_mixtures`.
    """
    if not isinstance(data, Dataset | DatasetDict):
        raise ValueError(f"The data are of type {type(data).__name__}; load them as a Dataset, without streaming.")
    splits = data if isinstance(data, DatasetDict) else DatasetDict({split: data})
    if split not in splits:
        raise ValueError(f"There is no split {split!r}; the data have {', '.join(splits)}.")
    _check_speaker_split(splits, split, speaker)
    rows = splits[split]
    columns = _checked_columns(rows, item=item, probs=probs, audio=audio, text=text, speaker=speaker)
    names = rows[item][:]
    plan = plan_mixtures(
        names,
        _distributions(rows[probs][:], names, len(support)),
        _features(rows, features, columns, processes),
        support=support,
        speakers=rows[speaker][:] if "speaker" in columns else None,
        text=text_rule,
        **options,
    )
    mixed = DatasetDict({name: _unmixed(part) for name, part in splits.items()})
    if len(plan):
        mixed[split] = concatenate_datasets([rows, _mixed_rows(rows, plan, columns, sampling_rate, processes)])
    return (mixed if isinstance(data, DatasetDict) else mixed[split]), plan.report


def _check_speaker_split(splits: DatasetDict, split: str, speaker: str | None) -> None:
    """Raise if a speaker of the split occurs in another one, and warn about rows with an unknown speaker."""
    speakers = {
        name: part[speaker][:] if speaker in part.column_names else [None] * len(part) for name, part in splits.items()
    }
    mine = speakers.pop(split)
    others = [one for theirs in speakers.values() for one in theirs]
    check_apart(mine, others)
    unknown, beside = int(pd.isna(mine).sum()), int(pd.isna(others).sum())
    if others and (unknown or beside):
        logger.warning(
            f"{unknown} of {len(mine)} rows of split {split} and {beside} of {len(others)} rows of the others have no speaker "
            f"(speaker={speaker!r}), so mixtures may leak a voice."
        )


def _checked_columns(data: Dataset, **columns: str | None) -> dict[str, str]:
    """The columns that exist, by role; item and distribution must exist."""
    for what in ("item", "probs"):
        if columns[what] not in data.column_names:
            raise ValueError(
                f"There is no column {columns[what]!r}; name the column of the {what}, one of {', '.join(data.column_names)}."
            )
    taken = [name for name in data.column_names if name.startswith(MIXED_PREFIX)]
    if taken:
        raise ValueError(f"The data already have a column {taken[0]!r}; mix them only once, or rename it.")
    found = {what: name for what, name in columns.items() if name in data.column_names}
    if not {"audio", "text"} & set(found):
        raise ValueError("The data have neither audio nor text to mix; name the columns with audio= and text=.")
    if "audio" in found:
        name, kind = found["audio"], data.features[found["audio"]]
        if not isinstance(kind, Audio):
            raise ValueError(
                f"Column {name!r} is of type {kind}, which cannot hold mixed clips; cast_column({name!r}, "
                "Audio(decode=False)) reads paths as audio."
            )
        if kind.decode:
            raise ValueError(
                f"Column {name!r} decodes its audio; call cast_column({name!r}, Audio(decode=False)) first."
            )
    return found


def _distributions(rows: list[Any], names: list[str], width: int) -> np.ndarray:
    """Distributions `(N, K)` of lists of K numbers."""
    bad = [name for name, row in zip(names, rows, strict=True) if row is None or len(row) != width]
    if bad:
        raise ValueError(
            f"The distribution of item {bad[0]!r} is not a list of {width} numbers, one per label of the support."
        )
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def _features(data: Dataset, features: Any, columns: dict[str, str], processes: int | None) -> Any:
    """The features for `plan_mixtures`: an array, or a function of row numbers."""
    if not isinstance(features, str):
        return features
    if features == PUBLISHED_FEATURES:
        return functools.partial(_published, data, columns, processes)
    if features not in data.column_names:
        raise ValueError(
            f"There is no column {features!r} of features; name one, give an array, or use {PUBLISHED_FEATURES!r}."
        )
    return functools.partial(_column, data, features)


def _column(data: Dataset, name: str, rows: np.ndarray) -> np.ndarray:
    """Rows of a column of lists of numbers `(R, D)`."""
    values = data.select(rows)[name][:]
    lengths = {len(value) if isinstance(value, list) else -1 for value in values}
    if len(lengths) > 1 or -1 in lengths:
        raise ValueError(f"Column {name!r} must have a list of numbers in each row, all of one length.")
    return np.array(values)


def _published(data: Dataset, columns: dict[str, str], processes: int | None, rows: np.ndarray) -> np.ndarray:
    """The published features of rows `(R, D)`."""
    part = data.select(rows).select_columns([columns[name] for name in ("item", "audio", "text") if name in columns])
    blank = sum(not (words or "").strip() for words in part[columns["text"]]) if "text" in columns else 0
    if blank:
        logger.warning("%d of %d items to mix have no text; it counts as empty.", blank, len(part))
    given = {"columns": columns, "stamp": _audio_stamp(part, columns["audio"]) if "audio" in columns else ""}
    names = part.column_names
    found = part.map(_measure_row, remove_columns=names, num_proc=processes, fn_kwargs=given, desc="features")
    return np.array(found["features"][:])


def _measure_row(row: dict[str, Any], columns: dict[str, str], stamp: str) -> dict[str, np.ndarray]:
    parts = []
    if "audio" in columns:
        parts.append(features_of_clip(row[columns["audio"]], item=row[columns["item"]]))
    if "text" in columns:
        parts.append(text_features(row[columns["text"]]))
    return {"features": np.concatenate(parts)}


def _mixed_rows(
    data: Dataset, plan: Mixtures, columns: dict[str, str], sampling_rate: int, processes: int | None
) -> Dataset:
    """The rows of the mixtures alone; clips are rendered a few at a time and stored like `data`: on disk, or in memory."""
    origin = plan.to_frame()
    own = {columns["item"]: plan.items.tolist(), columns["probs"]: plan.probs.tolist()}
    if "text" in columns:
        own[columns["text"]] = data.select(plan.text_from)[columns["text"]][:]
    kinds = {name: kind for name, kind in data.features.items() if name in own}
    own |= {MIXED_PREFIX + name: origin[name].tolist() for name in ORIGIN_COLUMNS}
    mixed = Dataset.from_dict(own, features=Features(kinds | _ORIGIN))
    if "audio" not in columns:
        return mixed
    name = columns["audio"]
    clips = data.select_columns([name])
    first = clips.select(plan.first)
    stamp = _audio_stamp(first, name) + _audio_stamp(clips.select(plan.second), name)
    given = {"clips": clips, "name": name, "plan": plan, "sampling_rate": sampling_rate, "stamp": stamp}
    kind = Features({name: _STORED})
    waves = first.map(_render, with_indices=True, features=kind, num_proc=processes, fn_kwargs=given, desc="mix")
    return concatenate_datasets([mixed, waves.cast_column(name, data.features[name])], axis=1)


def _render(
    row: dict[str, Any], index: int, clips: Dataset, name: str, plan: Mixtures, sampling_rate: int, stamp: str
) -> dict[str, Any]:
    mixed = MixedClip(row[name], clips[int(plan.second[index])][name], float(plan.share[index]))
    coded = io.BytesIO()
    # libsndfile would write the time into a floating-point file.
    wavfile.write(coded, sampling_rate, load_audio(mixed, sampling_rate=sampling_rate))
    return {name: {"bytes": coded.getvalue(), "path": f"{plan.items[index]}.wav"}}


def _unmixed(data: Dataset) -> Dataset:
    """Unmixed rows with the same columns, so that all splits have one schema."""
    nothing = {name: [None] * len(data) for name in _ORIGIN}
    return concatenate_datasets([data, Dataset.from_dict(nothing, features=Features(_ORIGIN))], axis=1)


def _audio_stamp(data: Dataset, name: str) -> str:
    """A digest that changes with the audio files: `map` caches by its arguments and does not look at files."""
    paths = [
        clip["path"] for clip in data[name] if clip and clip["bytes"] is None and os.path.exists(clip["path"] or "")
    ]
    stats = [(path, os.stat(path)) for path in paths]
    about = [(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats]
    return hashlib.sha256(repr(about).encode()).hexdigest()
