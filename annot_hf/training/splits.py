"""What a run learns from and is measured on: the targets of its splits, their inputs, and both as datasets."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from annot_hf.data.audio import AudioLimits
from annot_hf.data.export import ExportedCorpus
from annot_hf.data.mixtures import Mixtures
from annot_hf.data.perturbation import Perturbation
from annot_hf.data.targets import Targets, disagreement, scale_means
from annot_hf.evaluation.saliency import opinion_columns
from annot_hf.models.configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig
from annot_hf.models.modeling_opinion import OpinionPreTrainedModel
from annot_hf.training.augment import keep_mixtures, plan_augmentation, with_mixtures
from annot_hf.training.collator import OpinionDataset, VoteCollator
from annot_hf.training.frozen import encode_once
from annot_hf.training.inputs import Inputs, clip_seconds, corpus_inputs, item_sources, read_together
from annot_hf.training.members import trains_members
from annot_hf.training.recipe import Run

logger = logging.getLogger(__name__)


def make_split_targets(run: Run, views: Mapping[str, ExportedCorpus]) -> dict[str, Targets]:
    """Targets of the splits "train" and "validation" as the recipe has them; validation is against the votes themselves.

    Args:
        run: From `load_recipe`.
        views: The corpus with the votes that each split is to see.

    Raises:
        ValueError: The model learns from each rater, and no item of a split has a vote of a named one.
    """
    recipe, bins = run.recipe, run.options.get("bins", 4)
    targets = {
        "train": views["train"].targets(
            "train",
            recipe.question,
            recipe.target,
            bins=bins,
            smoothing=recipe.smoothing,
            primary_weight=recipe.primary_weight,
            ties=recipe.ties,
            majority_of=recipe.majority_of,
        ),
        # whatever a model learns from, it is measured against the votes
        "validation": views["validation"].targets("validation", recipe.question, bins=bins),
    }
    if recipe.model == "annotator":
        return {split: _with_raters(split_target, split) for split, split_target in targets.items()}
    return targets


def check_clips(run: Run, corpus: ExportedCorpus, targets: Mapping[str, Targets]) -> None:
    """Whether an audio-language model takes the clips of all splits.

    Raises:
        ValueError: An item has none.
        AudioError: One cannot be read or is too long.
    """
    for split_target in targets.values():
        clips = item_sources(corpus, split_target.items, DistributionQwen2AudioConfig())
        clip_seconds(clips, split_target.items, AudioLimits(max_seconds=run.recipe.max_seconds))


class SplitReader:
    """Reads what a run's model takes of items, and what its trunk makes of them, once, where the recipe caches that.

    Args:
        run: From `load_recipe`.
        corpus: The corpus.
        model: The model.
        processor: Its processor.
        collator: What feeds it.
    """

    def __init__(
        self, run: Run, corpus: ExportedCorpus, model: OpinionPreTrainedModel, processor: Any, collator: VoteCollator
    ) -> None:
        self.run, self.corpus, self.model, self.processor, self.collator = run, corpus, model, processor, collator
        self.folder = run.recipe.features or Path(run.training.output_dir) / "features"
        self.cached = run.recipe.cache_features != "none" and not trains_members(run)  # members had theirs

    def read(self, items: np.ndarray) -> Inputs:
        """Inputs of the items, in their order."""
        held, rows = read_together(self.corpus, items)
        inputs = corpus_inputs(
            self.corpus,
            held,
            self.model.config.trunk_config,
            self.processor,
            features=self.folder,
            max_seconds=self.run.recipe.max_seconds,
        )
        return (self.encode(inputs, held) if self.cached else inputs).select(rows)

    def encode(self, inputs: Inputs, items: Sequence[str]) -> Inputs:
        """What the trunk makes of items, computed once and kept: what the recipe caches, or else the mean of frames."""
        arguments, kind = self.run.training, self.run.recipe.cache_features
        return encode_once(
            self.model.to(arguments.device),
            inputs,
            self.collator,
            folder=self.folder,
            key=[self.corpus.digest, *items, str(self.processor)],
            kind="pooled" if kind == "none" else kind,
            batch_size=arguments.per_device_eval_batch_size,
            dtype=torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None,
            workers=arguments.dataloader_num_workers,
        )

    def augment(self, targets: Targets, inputs: Inputs, *, resume: bool) -> tuple[Mixtures, Targets, Inputs]:
        """The mixtures that the recipe asks for, and targets and inputs with them behind the items."""
        run, config = self.run, self.model.config.trunk_config
        encoded = functools.partial(_encoded_rows, inputs, targets.items, None if self.cached else self.encode)
        mixtures = plan_augmentation(run, self.corpus, targets, config, folder=self.folder, encoded=encoded)
        if run.training.process_index == 0:
            keep_mixtures(mixtures, run.training.output_dir, resume=resume)
        inputs = with_mixtures(
            mixtures,
            inputs,
            self.corpus,
            config,
            self.processor,
            features=self.folder,
            max_seconds=run.recipe.max_seconds,
            encode=self.encode if self.cached else None,
        )
        return mixtures, mixtures.extend(targets), inputs


def make_dataset(
    run: Run,
    view: ExportedCorpus,
    model: OpinionPreTrainedModel,
    targets: Targets,
    inputs: Inputs,
    perturbation: Perturbation | None = None,
) -> OpinionDataset:
    """The dataset of a split, with all that the model answers beside.

    Args:
        run: From `load_recipe`.
        view: The corpus with the votes of the split.
        model: The model.
        targets: Its targets.
        inputs: Inputs of the same items.
        perturbation: What happens to clips in an epoch.
    """
    recipe = run.recipe
    beside = {"disagreement": _disagreement(view, model, targets)}
    if recipe.scales:
        beside["scales"] = scale_means(view.votes, recipe.scales, targets.items)
    if recipe.auxiliary:
        beside["auxiliary"] = opinion_columns(view.votes, recipe.auxiliary, targets.items)[1]
    return OpinionDataset(
        targets,
        inputs.entries,
        inputs.read,
        inputs.lengths,
        annotators=getattr(model.config, "annotators", ()),
        perturbation=perturbation,
        **beside,
    )


def _encoded_rows(
    inputs: Inputs, items: np.ndarray, encode: Callable[[Inputs, Sequence[str]], Inputs] | None, rows: np.ndarray
) -> Inputs:
    """What the trunk makes of some of the items; their inputs themselves where they are that already."""
    chosen = inputs.select(rows)
    return encode(chosen, items[rows]) if encode else chosen


def _disagreement(corpus: ExportedCorpus, model: OpinionPreTrainedModel, targets: Targets) -> np.ndarray | None:
    """How far raters disagree on each item, whatever the target makes of their votes, if the model is to learn it."""
    kind = getattr(model.config, "disagreement", None)
    if kind is None:
        return None
    names = [question.name for question in targets.questions]
    found = disagreement(corpus.votes, names, targets.items, kind)
    if np.isnan(found).all():
        raise ValueError(
            f"disagreement is {kind!r}, and none of {len(found)} items has two votes on {' and '.join(names)}; remove it."
        )
    return found


def _with_raters(targets: Targets, split: str) -> Targets:
    """The targets of items that a named rater rated; an annotator model has nothing to learn from the others."""
    rated = np.bincount(targets.ratings.item, minlength=len(targets)) > 0
    if not rated.any():
        raise ValueError(
            f"No item of split {split!r} has a vote of a named rater on {targets.questions[0].name}; "
            "set model to distribution."
        )
    if not rated.all():
        logger.warning("%d of %d %s items have no named rater and are left out.", (~rated).sum(), len(rated), split)
        targets.excluded["items without a named rater"] = int((~rated).sum())
    return targets.select(targets.items[rated])
