"""Which input a trunk takes and how an item's audio or text becomes it."""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from transformers import (
    AutoFeatureExtractor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Speech2TextFeatureExtractor,
)

from annot_hf.data.audio import AudioLimits, audio_info, load_audio
from annot_hf.data.conditions import Condition, put_under
from annot_hf.data.export import ExportedCorpus
from annot_hf.models.configuration_distribution_qwen2_audio import prepare_inputs, shows_transcript
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.trunks import PROMPTED, input_name_of, token_limit, trunk_input
from annot_hf.models.waves import AudioError
from annot_hf.training.features import build_features

logger = logging.getLogger(__name__)

# a second
AUDIO_TOKENS = 25
# makes another waveform of one and its sampling rate
Alter = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class InputOptions:
    """What a model reads of an item.

    Args:
        max_seconds: Longest clip that is accepted (s).
        max_tokens: Most tokens of a text, special ones included, beyond which it is cut short and counted; as many as the
            trunk takes when null.
        cache: With `freeze_trunk`, encode every clip once and train the heads on the result: "frames" of the chosen layer,
            or "pooled", their mean over time, for pooling "mean". Both in half precision.
    """

    max_seconds: float = 30.0
    max_tokens: int | None = None
    cache: Literal["none", "frames", "pooled"] = "none"

    def __post_init__(self) -> None:
        AudioLimits(max_seconds=self.max_seconds)


@dataclass(frozen=True)
class Inputs:
    """Inputs of items: `read` gives one from an entry, and changes a clip that it reads afresh as a second argument says.

    `lengths` are in frames, samples or tokens; `cut` says which texts exceed the limit, None where there are no texts. `stamp`
    identifies what entries that are numbers stand for.
    """

    entries: Sequence[Any]
    read: Callable[..., Any]
    lengths: np.ndarray
    cut: np.ndarray | None = None
    stamp: str = ""

    def __getitem__(self, row: int) -> Any:
        return self.read(self.entries[row])

    @property
    def truncated(self) -> int | None:
        """How many texts were cut; None where there are no texts."""
        return None if self.cut is None else int(self.cut.sum())

    def select(self, rows: Sequence[int] | np.ndarray) -> "Inputs":
        """The inputs of these rows, in that order."""
        cut = None if self.cut is None else self.cut[rows]
        return Inputs([self.entries[row] for row in rows], self.read, self.lengths[rows], cut, self.stamp)


def join_inputs(parts: Sequence[Inputs]) -> Inputs:
    """The inputs of several lists of items, one list after the other."""
    entries = [(part, entry) for part, inputs in enumerate(parts) for entry in inputs.entries]
    cuts, reads = [inputs.cut for inputs in parts], [inputs.read for inputs in parts]
    cut = None if any(cut is None for cut in cuts) else np.concatenate(cuts)
    lengths = np.concatenate([inputs.lengths for inputs in parts])
    return Inputs(
        entries, functools.partial(_read_of, reads), lengths, cut, "\n".join(inputs.stamp for inputs in parts)
    )


def make_processor(
    trunk_config: PreTrainedConfig, source: str | Path, *, max_tokens: int | None = None, revision: str | None = None
) -> Any:
    """The feature extractor or tokenizer of a trunk; both, as one processor, of an audio-language model.

    Saved and loaded without this package it works as in training: it pads on the right, gives a mask and truncates where
    training did. `source` is a Hub id or folder, which the log-mel trunk does not need; no code of its own is run.
    """
    if max_tokens is not None and input_name_of(trunk_config) != "input_ids":
        raise ValueError(
            f"max_tokens is {max_tokens} and a trunk of type {trunk_config.model_type} reads no text; leave max_tokens out."
        )
    if trunk_config.model_type == LogMelConfig.model_type:
        bins = trunk_config.num_mel_bins
        return Speech2TextFeatureExtractor(feature_size=bins, num_mel_bins=bins, do_ceptral_normalize=False)
    kinds = {"input_ids": (AutoTokenizer, "tokenizer"), PROMPTED: (AutoProcessor, "processor")}
    kind, what = kinds.get(input_name_of(trunk_config), (AutoFeatureExtractor, "feature extractor"))
    try:
        processor = kind.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:
        # of many kinds; the tokenizers library raises plain ones
        raise ValueError(
            f"{source} holds no {what} that can be read; save that of the checkpoint the model came from (of an ensemble's "
            "member) there with save_pretrained."
        ) from error
    if max_tokens is not None:
        least, most = processor.num_special_tokens_to_add() + 1, token_limit(trunk_config, processor)
        if not least <= max_tokens <= most:
            raise ValueError(
                f"max_tokens is {max_tokens}; {source} takes {least} to {most} tokens a text, special ones included: give one "
                "of these numbers, or nothing for the most."
            )
    if kind is AutoTokenizer:
        facts = {
            "padding_side": "right",
            "model_input_names": list(dict.fromkeys([*processor.model_input_names, "attention_mask"])),
            "model_max_length": max_tokens or token_limit(trunk_config, processor),
        }
        for name, value in facts.items():
            setattr(processor, name, value)
        # what a tokenizer saves; the attributes of others are forgotten
        processor.init_kwargs |= facts
    elif kind is AutoFeatureExtractor:
        processor.padding_side, processor.return_attention_mask = "right", True
    return processor


def item_sources(corpus: ExportedCorpus, items: Sequence[str], trunk_config: PreTrainedConfig) -> pd.Series:
    """Text or audio of the items, by name, whichever the trunk takes."""
    column = "text" if input_name_of(trunk_config) == "input_ids" else "audio"
    values = _item_column(corpus, column, items)
    absent = values.index[values.isna()]
    if len(absent):
        raise ValueError(
            f"{len(absent)} of {len(items)} items of {corpus.name} have no {column}, for instance "
            f"{absent[0]!r}, and trunk {trunk_config.model_type} reads {column}; leave them out of the export or "
            "choose another trunk."
        )
    return values


def read_together(corpus: ExportedCorpus, items: Sequence[str]) -> tuple[Sequence[str], np.ndarray]:
    """The items whose inputs are cached together, and the rows of `items` in it: all, where several folds share a corpus."""
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
    features: str | Path | None,
    max_seconds: float,
    chains: Sequence[Sequence[Condition]] = (),
) -> Inputs:
    """Inputs of the corpus's items, in the order given; clips go through the conditions of their chain, if there are any."""
    sources = list(item_sources(corpus, items, trunk_config))
    # features are cached per list of items
    key = "\n".join([corpus.digest, *items])
    altering = [condition for chain in chains for condition in chain if not condition.is_clean]
    if altering:
        if input_name_of(trunk_config) == "input_ids":
            raise ValueError(
                f"Condition {str(altering[0])!r} alters audio and a {trunk_config.model_type} trunk reads text; leave it out."
            )
        key = f"{list(chains)!r}\n{key}"
        sources = [put_under(*clip) for clip in zip(sources, items, chains, strict=True)]
    if input_name_of(trunk_config) == PROMPTED:
        sources = list(zip(sources, transcripts(corpus, items), strict=True))
    return read_inputs(
        sources, trunk_config, processor, names=items, features=features, key=key, max_seconds=max_seconds
    )


def transcripts(corpus: ExportedCorpus, items: Sequence[str]) -> list[str | None]:
    """Transcripts of the items' clips; None where the corpus has none."""
    said = _item_column(corpus, "text", items)
    return list(said.where(said.notna(), None))


def _item_column(corpus: ExportedCorpus, name: str, items: Sequence[str]) -> pd.Series:
    """A column of the items' table, by the items' names; all missing if there is none."""
    table = corpus.items.set_index("item")
    return table[name].reindex(items) if name in table else pd.Series([None] * len(items), index=items)


def read_inputs(
    entries: Sequence[Any],
    trunk_config: PreTrainedConfig,
    processor: Any,
    *,
    names: Sequence[str] | None = None,
    features: str | Path | None = None,
    key: str = "",
    max_seconds: float = 30.0,
) -> Inputs:
    """Inputs from texts or audio sources; for an audio-language model, a source may be a pair of a clip and its transcript.

    Log-mel frames are kept in a `features` folder, if there is one. Errors have an item's name of `names`, or its number.
    """
    kind, names = input_name_of(trunk_config), range(len(entries)) if names is None else names
    if kind == "input_ids":
        return _tokens(entries, trunk_config, processor, names)
    if kind == PROMPTED:
        return _prompted(entries, trunk_config, processor, names, max_seconds)
    if kind == "input_features" and features is not None:
        store = build_features(features, entries, processor, key=key, max_seconds=max_seconds)
        return Inputs(range(len(entries)), store.__getitem__, store.lengths, stamp=store.stamp)
    limits = AudioLimits(max_seconds=max_seconds)
    # samples, or frames of 10 ms
    rate = processor.sampling_rate if kind == "input_values" else 100
    lengths = np.round(clip_seconds(entries, names, limits) * rate).astype(int)
    return Inputs(entries, functools.partial(_clip_input, trunk_config, processor, limits), lengths)


def _tokens(
    texts: Sequence[Any], trunk_config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, names: Sequence[Any]
) -> Inputs:
    """Tokens of every text."""
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str):
            found, model = type(text).__name__, trunk_config.model_type
            raise ValueError(f"Item {str(name)!r} is a {found}, and a {model} trunk reads text; give a string.")
    limit = token_limit(trunk_config, tokenizer)
    rows = tokenizer(list(texts), truncation=True, max_length=limit, return_attention_mask=False)
    lengths = np.array([len(tokens) for tokens in rows["input_ids"]])
    special = tokenizer.num_special_tokens_to_add()
    for name, text, length in zip(names, texts, lengths, strict=True):
        if not text.strip() or length <= special:
            raise ValueError(f"Item {str(name)!r} has an empty text ({text!r}); give it words or leave the item out.")
    full = np.flatnonzero(lengths == limit)
    whole = tokenizer([texts[int(row)] for row in full], verbose=False)["input_ids"] if len(full) else []
    cut = np.zeros(len(texts), dtype=bool)
    cut[full] = [len(tokens) > limit for tokens in whole]
    if cut.any():
        logger.warning("%d of %d texts have more than %d tokens and are cut.", cut.sum(), len(texts), limit)
    kept = [name for name in ("input_ids", "token_type_ids") if name in rows]
    tokens = {text: {name: rows[name][row] for name in kept} for row, text in enumerate(texts)}
    return Inputs(texts, tokens.__getitem__, lengths, cut)


def _read_of(reads: Sequence[Callable[..., Any]], entry: tuple[int, Any], *alter: Alter) -> Any:
    part, inner = entry
    return reads[part](inner, *alter)


def clip_seconds(sources: Sequence[Any], names: Sequence[Any], limits: AudioLimits) -> np.ndarray:
    """Length of every clip (s); an error has the name of the clip."""
    seconds = np.zeros(len(sources))
    for row, (name, source) in enumerate(zip(names, sources, strict=True)):
        try:
            seconds[row] = audio_info(source, limits=limits).seconds
        except AudioError as error:
            raise AudioError(f"Item {str(name)!r}: {error}") from error
    return seconds


def _prompted(
    entries: Sequence[Any], config: PreTrainedConfig, processor: Any, names: Sequence[Any], max_seconds: float
) -> Inputs:
    """Clips with the question that the configuration asks about each."""
    extractor = processor.feature_extractor
    longest = extractor.n_samples / extractor.sampling_rate
    if max_seconds > longest:
        raise ValueError(f"max_seconds is {max_seconds:g}, and this model takes {longest:g} s; set it to that or less.")
    limits = AudioLimits(max_seconds=max_seconds)
    # a pair (array, rate) is a clip alone
    paired = [isinstance(entry, tuple) and isinstance(entry[1], str | None) for entry in entries]
    pairs = [entry if pair else (entry, None) for entry, pair in zip(entries, paired, strict=True)]
    seconds = clip_seconds([source for source, _ in pairs], names, limits)
    lengths, cut = np.round(seconds * AUDIO_TOKENS).astype(int), None
    if shows_transcript(config):
        said, limit = np.array([len(text or "") for _, text in pairs]), config.transcript_characters
        cut = said > limit
        # about as many tokens; only batches of similar length depend on it
        lengths += said.clip(max=limit) // 4
        if cut.any():
            logger.warning("%d of %d transcripts have more than %d characters and are cut.", cut.sum(), len(cut), limit)
        if not said.all():
            logger.warning(
                "%d of %d items have no transcript; the prompt shows an empty one.", (said == 0).sum(), len(cut)
            )
    return Inputs(pairs, functools.partial(_prompted_clip, config, processor, limits), lengths, cut)


def _prompted_clip(
    config: PreTrainedConfig, processor: Any, limits: AudioLimits, pair: tuple[Any, str | None], *alter: Alter
) -> dict[str, np.ndarray]:
    source, transcript = pair
    extractor = processor.feature_extractor
    # within `limits`; but resampling or a slower tempo may make a clip longer
    wave = _load_wave(source, extractor.sampling_rate, limits, *alter)[: extractor.n_samples]
    inputs = prepare_inputs(config, processor, [wave], [transcript], tensors="np")
    return {name: inputs[name][0] for name in ("input_ids", "input_features", "feature_attention_mask")}


def _clip_input(
    config: PreTrainedConfig, processor: Any, limits: AudioLimits, source: Any, *alter: Alter
) -> np.ndarray:
    return trunk_input(config, processor, _load_wave(source, processor.sampling_rate, limits, *alter))


def _load_wave(source: Any, rate: int, limits: AudioLimits, alter: Alter | None = None) -> np.ndarray:
    wave = load_audio(source, sampling_rate=rate, limits=limits)
    return wave if alter is None else alter(wave, rate)
