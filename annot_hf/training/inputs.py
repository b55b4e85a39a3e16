"""Which input a trunk takes and how an item's audio or text becomes it."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import (
    AutoFeatureExtractor,
    AutoTokenizer,
    PreTrainedConfig,
    Speech2TextFeatureExtractor,
)

from annot_hf.data.audio import AudioLimits, audio_info, load_audio
from annot_hf.data.conditions import Condition, put_under
from annot_hf.data.export import ExportedCorpus
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.trunks import input_name_of
from annot_hf.training.features import build_features, log_mel


@dataclass(frozen=True)
class Inputs:
    """Inputs of a list of items, read one at a time.

    Attributes:
        entries: What `read` takes, one an item.
        read: Gives the model's input of an entry.
        lengths: Length of each input: frames, samples or characters.
    """

    entries: Sequence[Any]
    read: Callable[[Any], Any]
    lengths: np.ndarray

    def select(self, rows: Sequence[int] | np.ndarray) -> "Inputs":
        """The inputs of these rows, in that order."""
        return Inputs([self.entries[row] for row in rows], self.read, self.lengths[rows])


def make_processor(trunk_config: PreTrainedConfig, source: str | Path) -> Any:
    """The feature extractor or tokenizer of a trunk.

    Args:
        trunk_config: The trunk's configuration.
        source: Hub id or folder that holds it; not needed for the log-mel trunk.

    Raises:
        ValueError: `source` does not hold it.
    """
    if trunk_config.model_type == LogMelConfig.model_type:
        bins = trunk_config.num_mel_bins
        return Speech2TextFeatureExtractor(feature_size=bins, num_mel_bins=bins, do_ceptral_normalize=False)
    kind = AutoTokenizer if input_name_of(trunk_config) == "input_ids" else AutoFeatureExtractor
    try:
        return kind.from_pretrained(source)
    except OSError as error:
        what = "tokenizer" if kind is AutoTokenizer else "feature extractor"
        raise ValueError(f"{source} holds no {what}; save the trunk's own there with save_pretrained.") from error


def item_sources(corpus: ExportedCorpus, items: Sequence[str], trunk_config: PreTrainedConfig) -> pd.Series:
    """Text or audio of the items, by name, whichever the trunk takes.

    Raises:
        ValueError: An item lacks it.
    """
    column = "text" if input_name_of(trunk_config) == "input_ids" else "audio"
    table = corpus.items.set_index("item")
    values = table[column].reindex(items) if column in table else pd.Series([None] * len(items), index=items)
    absent = values.isna()
    if absent.any():
        raise ValueError(
            f"{int(absent.sum())} of {len(items)} items of {corpus.name} have no {column}, for instance "
            f"{values.index[absent][0]!r}, which a {trunk_config.model_type} trunk needs; leave them out of the export or "
            "choose another trunk."
        )
    return values


def read_together(corpus: ExportedCorpus, items: Sequence[str]) -> tuple[Sequence[str], np.ndarray]:
    """The list of items whose inputs are computed and kept as one, and the rows of `items` in it.

    What is computed is kept per list of items. The views of one corpus differ only in their splits, so in a view it is
    the list of all its items: what the first fold of a cross-validation computes serves every other.
    """
    if not corpus.part:
        return items, np.arange(len(items))
    held = corpus.items["item"].to_numpy()
    return held, pd.Index(held).get_indexer(pd.Index(items))


def corpus_inputs(
    corpus: ExportedCorpus,
    items: Sequence[str],
    trunk_config: PreTrainedConfig,
    processor: Any,
    *,
    features: str | Path,
    max_seconds: float,
    condition: Condition | None = None,
) -> Inputs:
    """Inputs of the corpus's items, in the order given; clean unless an acoustic condition is named.

    Raises:
        ValueError: The corpus lacks the text or audio that the trunk takes, or a text is put under an acoustic condition.
        AudioError: A clip cannot be read, or is longer than `max_seconds`.
    """
    sources = list(item_sources(corpus, items, trunk_config))
    key = "\n".join([corpus.digest, *items])  # features are kept per list of items
    if condition is not None and not condition.is_clean:
        if input_name_of(trunk_config) == "input_ids":
            raise ValueError(
                f"Condition {str(condition)!r} alters audio and a {trunk_config.model_type} trunk reads text; leave it out."
            )
        key, sources = f"{condition!r}\n{key}", put_under(condition, sources, items)
    return read_inputs(sources, trunk_config, processor, features=features, key=key, max_seconds=max_seconds)


def read_inputs(
    entries: Sequence[Any],
    trunk_config: PreTrainedConfig,
    processor: Any,
    *,
    features: str | Path | None = None,
    key: str = "",
    max_seconds: float = 30.0,
) -> Inputs:
    """Inputs from texts or audio sources; with a `features` folder, log-mel frames are computed once and kept there."""
    name = input_name_of(trunk_config)
    if name == "input_ids":
        return Inputs(entries, str, np.array([len(text) for text in entries]))
    limits, rate = AudioLimits(max_seconds=max_seconds), processor.sampling_rate
    if name == "input_values":
        seconds = np.array([audio_info(entry, limits=limits).seconds for entry in entries])
        read = functools.partial(_waveform, processor, limits)
        return Inputs(entries, read, np.round(seconds * rate).astype(int))
    if features is None:
        read = functools.partial(_log_mel, processor, limits)
        seconds = np.array([audio_info(entry, limits=limits).seconds for entry in entries])
        return Inputs(entries, read, np.round(seconds * 100).astype(int))
    store = build_features(features, entries, processor, key=key, max_seconds=max_seconds)
    return Inputs(range(len(entries)), store.__getitem__, store.lengths)


def _waveform(processor: Any, limits: AudioLimits, source: Any) -> np.ndarray:
    wave = load_audio(source, sampling_rate=processor.sampling_rate, limits=limits)
    return processor(wave, sampling_rate=processor.sampling_rate, return_tensors="np")["input_values"][0]


def _log_mel(processor: Any, limits: AudioLimits, source: Any) -> np.ndarray:
    return log_mel(load_audio(source, sampling_rate=processor.sampling_rate, limits=limits), processor)
