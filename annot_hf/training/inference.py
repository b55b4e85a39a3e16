"""Predictions of a checkpoint: on a split of a corpus, or on any clips or texts."""

import itertools
import logging
import math
import reprlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from annot_hf.data.audio import ANY_LENGTH, audio_info, audio_windows, window_samples
from annot_hf.data.conditions import CLEAN, Condition
from annot_hf.data.export import ExportedCorpus, read_export
from annot_hf.data.predictions import ROBUSTNESS_FOLDER, Predictions, pool_predictions
from annot_hf.data.questions import Question
from annot_hf.data.targets import Ratings, Targets
from annot_hf.models.access import find_folder, spoken
from annot_hf.models.configuration_annotator import AnnotatorConfig
from annot_hf.models.configuration_seedbert import SeedBertConfig
from annot_hf.models.losses import LOG_VARIANCE
from annot_hf.models.modeling_opinion import OpinionPreTrainedModel
from annot_hf.models.trunks import input_name_of, weights_digest
from annot_hf.training.checkpoints import load_model
from annot_hf.training.collator import OpinionDataset, VoteCollator, frames_collator, make_collator
from annot_hf.training.datasets import HASHED, encode_once, frames_key, hashed_names
from annot_hf.training.inputs import InputOptions, corpus_inputs, read_inputs, read_together

logger = logging.getLogger(__name__)

# a model, its processor and the facts of its training
Loaded = tuple[OpinionPreTrainedModel, Any, dict[str, Any]]
# mild everyday conditions that every prediction of clips is tried under, and how many clips are
ROBUSTNESS = ("gain:-12", "gain:12", "clip:6", "band:3400", "noise:20", "background:6")
ROBUST_CLIPS = 240
# weight of the mean answer that models mix into votes: of tied labels, the likelier still comes first
ORDER = 1e-6
# outputs of models that have a row an item
_OF_ITEMS = ("probs", "consensus", "scale_mean", "scale_log_variance", "disagreement")


def predict(
    model: str | Path,
    corpus: str | Path | ExportedCorpus,
    *,
    split: str = "test",
    batch_size: int = 32,
    features: str | Path | None = None,
    max_seconds: float | None = None,
    condition: str = CLEAN,
    condition_seed: int = 0,
    clips: int = 0,
    revision: str | None = None,
    loaded: Loaded | None = None,
) -> tuple[Predictions, Targets]:
    """Predict one split of an exported corpus, and give the targets to compare the predictions with.

    An annotator model answers for the raters who rated each item, once for a rater who voted several times; a rater it was
    not trained on is answered for by the consensus and marked so, and the distribution of their items is that of the
    panel of all its raters. Labels are in the checkpoint's order, which may differ from the corpus's.

    Args:
        model: Checkpoint folder, or a Hub id such as "me/mine".
        corpus: Folder or Hub id of the exported corpus, or the corpus if it is open already.
        split: Which split.
        batch_size: Items per batch.
        features: Folder for computed log-mel features, and for the frames of a frozen trunk if training kept them;
            "features" next to the corpus's folder by default, or here for a corpus of the Hub.
        max_seconds: Longest clip that is accepted (s); by default what training accepted.
        condition: Acoustic condition to put the clips under, such as "noise:10"; see `Condition`.
        condition_seed: Seed of what is random in it.
        clips: So many of the items with votes alone, evenly spaced over the speakers; all, if 0 or there are fewer.
        revision: Branch, tag or commit of a model of the Hub.
        loaded: What `load_model` gave for the folder, if it is loaded already.

    Raises:
        ValueError: The corpus lacks a question of the checkpoint or asks it differently; or there is no such condition.
    """
    acoustic = Condition.parse(condition, condition_seed)
    folder = find_folder(model, "model", revision=revision)
    loaded = load_model(folder) if loaded is None else loaded
    corpus = corpus if isinstance(corpus, ExportedCorpus) else read_export(corpus)
    model, processor, facts = loaded
    max_seconds = accepted_seconds(facts) if max_seconds is None else max_seconds
    config = model.config
    questions = tuple(Question.from_dict(question) for question in config.questions)
    scales = [Question.from_dict(question) for question in getattr(config, "scale_questions", ())]
    there = {question.name for question in corpus.votes.questions}
    check_support((*questions, *(one for one in scales if one.name in there)), corpus)
    targets = corpus.targets(split, [question.name for question in questions], bins=config.bins)
    if clips:
        speakers = corpus.items.set_index("item")["speaker"].reindex(targets.items)
        targets = targets.select(sample_clips(targets.items, speakers, clips))
    held, rows = read_together(corpus, targets.items)
    features = features or corpus.features
    inputs = corpus_inputs(
        corpus,
        held,
        config.trunk_config,
        processor,
        features=features,
        max_seconds=max_seconds,
        chains=[(acoustic,)] * len(held),
    )
    collator, kept = make_collator(model, processor), facts.get("recipe", {}).get("inputs.cache", "none")
    # independent members have a trunk each
    if kept != "none" and config.freeze_trunk and hasattr(model, "trunk"):
        # models over one frozen trunk, as the runs of a plan, share what it makes of the clips
        key = frames_key(corpus, held, processor)
        inputs = encode_once(model, inputs, collator, folder=features, key=key, kind=kept, batch_size=batch_size)
        collator = frames_collator(collator)
    inputs = inputs.select(rows)
    dataset = OpinionDataset(
        targets, inputs.entries, inputs.read, inputs.lengths, annotators=getattr(config, "annotators", ())
    )
    meta = {"model": spoken(folder), "corpus": corpus.name, "split": split, "marginal": facts.get("marginal")}
    meta["model_sha256"] = weights_digest(str(folder))
    meta |= {"marginal_share": config.marginal_share} if config.marginal_share else {}
    meta["corpus_digest"] = corpus.digest
    meta |= {name: facts[name] for name in ("trunk", "consensus_width", "consensus_share") if facts.get(name)}
    seen = _seen(facts, targets.items)
    if seen:
        meta |= {"seen": seen, "seen_in": facts.get("corpus")}
    if inputs.truncated is not None:
        meta["texts cut short"] = inputs.truncated
    meta["condition"] = str(acoustic)
    if not acoustic.is_clean:
        meta["condition_seed"] = acoustic.seed
    found = _run(model, collator, dataset, batch_size, meta)
    if found.caution:
        logger.warning("%s", found.caution)
    return found, targets


def predict_robustness(
    model: str | Path,
    corpus: str | Path | ExportedCorpus,
    *,
    clips: int = ROBUST_CLIPS,
    revision: str | None = None,
    loaded: Loaded | None = None,
    **options: Any,
) -> dict[str, Predictions]:
    """Predictions of a sample of a split's clips under each of the conditions `ROBUSTNESS`, by condition.

    The sample is the same for every model. Empty for a model of texts, and if `clips` is 0. Other arguments and errors are
    those of `predict`.
    """
    folder = find_folder(model, "model", revision=revision)
    loaded = load_model(folder) if loaded is None else loaded
    corpus = corpus if isinstance(corpus, ExportedCorpus) else read_export(corpus)
    if not clips or input_name_of(loaded[0].config.trunk_config) == "input_ids":
        return {}
    options |= {"clips": clips, "loaded": loaded}
    return {str(Condition.parse(name)): predict(folder, corpus, condition=name, **options)[0] for name in ROBUSTNESS}


def save_predictions(predictions: Predictions, altered: Mapping[str, Predictions], folder: str | Path) -> None:
    """Save predictions, and those of `predict_robustness` in the folder "robustness" beside them, in place of earlier ones."""
    predictions.save(folder)
    home = Path(folder) / ROBUSTNESS_FOLDER
    for earlier in home.glob("*/predictions.json"):
        shutil.rmtree(earlier.parent)
    if home.is_dir() and not any(home.iterdir()):
        home.rmdir()
    for name, one in altered.items():
        one.save(home / Condition.parse(name).folder)


def sample_clips(items: np.ndarray, speakers: Sequence[Any], clips: int) -> np.ndarray:
    """So many of the items `(N,)`, in their order, evenly spaced over the items of one speaker after the other."""
    order = np.argsort(np.asarray(speakers).astype(str), kind="stable")
    return items[np.sort(order[np.unique(np.linspace(0, len(items) - 1, min(clips, len(items))).astype(int))])]


def accepted_seconds(facts: dict[str, Any]) -> float:
    """The longest clip (s) that the training of a checkpoint accepted, from the facts of it."""
    return float(facts.get("recipe", {}).get("inputs.max_seconds", InputOptions.max_seconds))


def check_support(questions: Sequence[Question], corpus: ExportedCorpus) -> None:
    """A ValueError if a corpus lacks a question of a checkpoint or asks it differently; labels may be in another order."""
    for question in questions:
        asked = corpus.votes.question(question.name)
        # the order of labels is the checkpoint's, also in the predictions: scores go by name
        if (sorted(asked.labels), asked.low, asked.high) != (sorted(question.labels), question.low, question.high):
            raise ValueError(
                f"The checkpoint's question {question.name!r} has {_describe(question)} and the corpus's has "
                f"{_describe(asked)}; name a corpus with the same support, or train on this one."
            )


def _seen(facts: dict[str, Any], items: Sequence[str]) -> dict[str, int]:
    """How many items have names of each split that a checkpoint was made with, as far as it knows and any have."""
    mine = _hashes(hashed_names(items))
    splits = facts.get("splits", {}).items()
    found = {split: len(_hashes(part.get("names", "")) & mine) for split, part in splits}
    joined = set().union(*(_hashes(one.get("names", "")) for one in facts.get("onboarded", ())))
    found["onboarding"] = len(joined & mine)
    return {split: count for split, count in found.items() if count}


def _hashes(names: str) -> set[str]:
    return {names[at : at + HASHED] for at in range(0, len(names), HASHED)}


def predict_inputs(
    model: OpinionPreTrainedModel,
    processor: Any,
    sources: Sequence[Any],
    *,
    names: Sequence[str] | None = None,
    sampling_rate: int | None = None,
    batch_size: int = 32,
    max_seconds: float = 30,
) -> Predictions:
    """Predict clips or texts outside any corpus; an annotator model answers for its whole panel of raters.

    Args:
        model: From `load_model`, as the next.
        processor: Its feature extractor or tokenizer.
        sources: List or column of a dataset, of texts or of clips: paths, bytes, (array, rate), `{"array", "sampling_rate"}`,
            `{"bytes", "path"}`, and whatever else `load_audio` takes; for an audio-language model, also pairs of a clip and
            its transcript.
        names: Unique names of the items; their numbers by default.
        sampling_rate: Rate (Hz) of clips that are arrays without one.
        batch_size: Items per batch.
        max_seconds: Longest clip that is accepted (s).

    Raises:
        ValueError: There are no sources, or one is not what the model reads; the message names it.
    """
    alone = isinstance(sources, tuple) and len(sources) > 1 and isinstance(sources[1], int)
    if isinstance(sources, str | bytes | Mapping) or alone or not len(sources):
        raise ValueError(f"sources is {reprlib.repr(sources)}; give a list with at least one clip or text.")
    if sampling_rate is not None:
        sources = [(one, sampling_rate) if hasattr(one, "__array__") else one for one in sources]
    inputs = read_inputs(sources, model.config.trunk_config, processor, names=names, max_seconds=max_seconds)
    names = np.array(range(len(sources)) if names is None else names).astype(str).astype(object)
    questions = tuple(Question.from_dict(question) for question in model.config.questions)
    size, width = len(model.config.support), len(questions) if model.config.is_scale else 1
    empty = Ratings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, width)))
    flat = np.full((len(sources), size), 1 / size)
    targets = Targets(questions, model.config.support, names, flat, np.zeros(len(names), int), empty, (), "none")
    dataset = OpinionDataset(targets, inputs.entries, inputs.read, inputs.lengths)
    meta = {} if inputs.truncated is None else {"texts cut short": inputs.truncated}
    return _run(model, make_collator(model, processor), dataset, batch_size, meta)


def predict_timeline(
    model: OpinionPreTrainedModel,
    processor: Any,
    source: Any,
    *,
    window: float = 4.0,
    hop: float | None = None,
    batch_size: int = 32,
) -> tuple[np.ndarray, Predictions]:
    """Predict overlapping windows of a clip of any length, of which one batch is in memory at a time.

    Args:
        model: From `load_model`, as the next; one that hears.
        processor: Its feature extractor.
        source: Path, bytes or whatever else `audio_windows` takes.
        window: Length of a window (s), best about that of the clips the model was trained on.
        hop: From the beginning of one window to that of the next (s), at most `window`; half of it by default.
        batch_size: Windows per batch.

    Returns:
        Start and end of each window (s) `(N, 2)`, and their predictions, whose items are numbered.

    Raises:
        ValueError: The model reads texts, the hop does not fit the window, or the clip cannot be read.
    """
    trunk = model.config.trunk_config
    if input_name_of(trunk) == "input_ids":
        raise ValueError(
            f"A {trunk.model_type} trunk reads text, and a timeline is one of a clip; choose a model that hears."
        )
    rate = getattr(processor, "feature_extractor", processor).sampling_rate
    hop = window / 2 if hop is None else hop
    # the windows check it only when the first is read
    window_samples(window, hop, rate)
    windows = audio_windows(source, sampling_rate=rate, window=window, hop=hop)
    count = 1 + max(0, math.ceil((audio_info(source, limits=ANY_LENGTH).seconds - window) / hop))
    spans, parts = [], []
    with tqdm(total=count, desc="predict", unit="window") as progress:
        while batch := list(itertools.islice(windows, batch_size)):
            names = [str(len(spans) + row) for row in range(len(batch))]
            # a rounded window may be a sample longer
            options = {"names": names, "batch_size": batch_size, "max_seconds": window + 1 / rate}
            parts.append(predict_inputs(model, processor, [(wave, rate) for _, wave in batch], **options))
            spans += [(start / rate, (start + len(wave)) / rate) for start, wave in batch]
            progress.update(len(batch))
    return np.array(spans), pool_predictions(parts)


@torch.inference_mode()
def _run(
    model: OpinionPreTrainedModel,
    collator: VoteCollator,
    dataset: OpinionDataset,
    batch_size: int,
    meta: dict[str, Any],
) -> Predictions:
    """Batches of similar length, results in the order of the items."""
    config = model.config
    # longest first: too little memory shows at once
    order = np.argsort(dataset.lengths, kind="stable")[::-1]
    loader = DataLoader(dataset, batch_size, sampler=order.tolist(), collate_fn=collator)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _OF_ITEMS}
    asked = []
    shown = tqdm(loader, desc="predict", unit="batch", disable=len(loader) == 1)
    for start, batch in zip(range(0, len(order), batch_size), shown, strict=True):
        rows = order[start : start + batch_size]
        given = {name: value.to(model.device) for name, value in batch.items() if name not in ("labels", "ratings")}
        output = model(**given)
        for name in _OF_ITEMS:
            if output.get(name) is not None:
                parts[name].append(output[name].double().cpu().numpy())
        if isinstance(config, AnnotatorConfig):
            names = np.concatenate([_raters_asked(config, dataset, row) for row in rows])
            item, codes = rows[output.pair_item.cpu().numpy()], output.pair_annotator.cpu().numpy()
            asked.append((item, names, codes, output.ratings.double().cpu().numpy()))
    back = np.argsort(order)
    found = {name: np.concatenate(values)[back] for name, values in parts.items() if values}
    probs, disagreement, kind = found["probs"], found.get("disagreement"), getattr(config, "disagreement", None)
    voters = _voters(model)
    if voters:
        # the part that orders tied labels stays far below what is scored
        votes = np.round(probs * voters) / voters
        probs = votes + ORDER * (probs - votes)
        kind, disagreement = "variance", 1 - (votes**2).sum(1)
    scales = {}
    if "scale_mean" in found:
        bound = found["scale_log_variance"].clip(-LOG_VARIANCE, LOG_VARIANCE)
        scales = {"scale_means": found["scale_mean"], "scale_deviations": np.exp(0.5 * bound)}
    # heads are not bounded; an answer beyond the end of a scale is its end
    ends = (-1, 1) if config.is_scale else (0, 1)
    answers = {}
    if asked:
        answers["consensus"] = found["consensus"].clip(*ends)
        item, names, codes, values = (np.concatenate(part) for part in zip(*asked, strict=True))
        # one answer a rater and item, however often the rater voted: each of the votes is compared with it
        rows = (~pd.DataFrame({"item": item, "name": names}).duplicated()).to_numpy().nonzero()[0]
        rows = rows[np.argsort(item[rows], kind="stable")]
        answers |= {
            "rater_items": item[rows],
            "rater_names": names[rows],
            "rater_values": values[rows].clip(*ends),
            "rater_fallback": codes[rows] < 0,
        }
    return Predictions(
        items=dataset.targets.items,
        support=config.support,
        probs=probs / probs.sum(1, keepdims=True),
        questions=tuple(Question.from_dict(question) for question in config.questions),
        meta=meta,
        scales=tuple(Question.from_dict(question) for question in getattr(config, "scale_questions", ())),
        disagreement=disagreement,
        disagreement_kind=kind,
        **scales,
        **answers,
    )


def _voters(model: OpinionPreTrainedModel) -> int:
    """How many votes a model's distribution is counted from; 0 where it is not one of votes."""
    config = model.config
    if isinstance(config, SeedBertConfig):
        return config.num_members if config.distribution == "votes" else 0
    if isinstance(config, AnnotatorConfig) and config.aggregate == "votes":
        return config.panel
    return 0


def _raters_asked(config: AnnotatorConfig, dataset: OpinionDataset, row: int) -> np.ndarray:
    """Names of the raters asked about an item, as the collator orders them: those who rated it, else the panel."""
    codes = dataset.targets.ratings.annotator[dataset.bounds[row] : dataset.bounds[row + 1]]
    names = [dataset.targets.annotators[code] for code in codes] or config.annotators[: config.panel]
    return np.array(names or ["consensus"], dtype=object)


def _describe(question: Question) -> str:
    return (
        f"scale {question.low:g} to {question.high:g}" if question.is_scale else f"labels {', '.join(question.labels)}"
    )
