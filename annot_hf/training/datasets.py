"""What a run learns from and is measured on: the targets of its splits, their inputs, and both as datasets.

Whose votes a run learns from and is validated by: people's, synthetic ones, or both (arXiv 2601.14620).

The paper scores each kind of votes against a test distribution of its own; here the reference of a test is always that of the
people who voted, and a system that is to do without them does so all the way: it learns from synthetic votes, and the epoch
that is kept is the best by synthetic votes. A combined system knows people's votes and is validated by them alone.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from annot_hf.data.audio import AudioLimits
from annot_hf.data.conditions import Perturbation
from annot_hf.data.dime import Mixtures
from annot_hf.data.export import ExportedCorpus
from annot_hf.data.synthetic import (
    SYNTHETIC,
    Annotations,
    answers_to,
    check_corpus,
    combine_votes,
    is_synthetic,
    read_annotations,
)
from annot_hf.data.targets import Targets, disagreement, opinion_columns, scale_means
from annot_hf.data.votes import VoteTable
from annot_hf.models.configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig
from annot_hf.models.modeling_opinion import OpinionPreTrainedModel
from annot_hf.training.augment import keep_mixtures, plan_augmentation, with_mixtures
from annot_hf.training.collator import OpinionDataset, VoteCollator
from annot_hf.training.frozen import encode_once
from annot_hf.training.inputs import Inputs, clip_seconds, corpus_inputs, item_sources, read_together
from annot_hf.training.recipe import Recipe, Run, trains_members

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
        "train": views["train"].targets("train", recipe.question, bins=bins, **asdict(recipe.target)),
        # whatever the training target, a model is measured against the votes
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
        clip_seconds(clips, split_target.items, AudioLimits(max_seconds=run.recipe.inputs.max_seconds))


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
        self.cached = run.recipe.inputs.cache != "none" and not trains_members(run)

    def read(self, items: np.ndarray) -> Inputs:
        """Inputs of the items, in their order."""
        held, rows = read_together(self.corpus, items)
        inputs = corpus_inputs(
            self.corpus,
            held,
            self.model.config.trunk_config,
            self.processor,
            features=self.folder,
            max_seconds=self.run.recipe.inputs.max_seconds,
        )
        return (self.encode(inputs, held) if self.cached else inputs).select(rows)

    def encode(self, inputs: Inputs, items: Sequence[str]) -> Inputs:
        """What the trunk makes of items, computed once and kept: what the recipe caches, or else the mean of frames."""
        arguments, kind = self.run.training, self.run.recipe.inputs.cache
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
        wanted, seed, limit = run.recipe.augmentation, run.training.seed, run.recipe.inputs.max_seconds
        where = {"folder": self.folder, "encoded": encoded, "max_seconds": limit, "seed": seed}
        mixtures = plan_augmentation(wanted, self.corpus, targets, self.model.config, **where)
        if run.training.process_index == 0:
            lines = "; ".join(mixtures.report.lines())
            logger.warning("%s: %d mixtures of %d training items. %s", wanted.kind, len(mixtures), len(targets), lines)
            keep_mixtures(mixtures, run.training.output_dir, resume=resume)
        inputs = with_mixtures(
            mixtures,
            inputs,
            self.corpus,
            config,
            self.processor,
            features=self.folder,
            max_seconds=limit,
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
    """The dataset of a split, with targets of everything that the model answers.

    Args:
        run: From `load_recipe`.
        view: The corpus with the votes of the split.
        model: The model.
        targets: Its targets.
        inputs: Inputs of the same items.
        perturbation: What happens to clips in an epoch.
    """
    recipe = run.recipe
    extra = {"disagreement": _disagreement(view, model, targets)}
    if recipe.scales:
        extra["scales"] = scale_means(view.votes, recipe.scales, targets.items)
    if recipe.auxiliary:
        extra["auxiliary"] = opinion_columns(view.votes, recipe.auxiliary, targets.items)[1]
    return OpinionDataset(
        targets,
        inputs.entries,
        inputs.read,
        inputs.lengths,
        annotators=getattr(model.config, "annotators", ()),
        perturbation=perturbation,
        **extra,
    )


def _encoded_rows(
    inputs: Inputs, items: np.ndarray, encode: Callable[[Inputs, Sequence[str]], Inputs] | None, rows: np.ndarray
) -> Inputs:
    """What the trunk makes of some of the items; their inputs themselves where they are that already."""
    chosen = inputs.select(rows)
    return encode(chosen, items[rows]) if encode else chosen


def _disagreement(corpus: ExportedCorpus, model: OpinionPreTrainedModel, targets: Targets) -> np.ndarray | None:
    """How far raters disagree on each item, whatever the target, if the model learns it."""
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


def vote_views(recipe: Recipe, corpus: ExportedCorpus) -> tuple[dict[str, ExportedCorpus], dict[str, Any]]:
    """The corpus with the votes that training and validation use.

    Args:
        recipe: Names the annotations and the kind of votes.
        corpus: The export, or a view of it under other splits.

    Returns:
        "train" and "validation" -> the corpus with their votes, and what a reader must know of it; nothing to know where
        the votes are those of the export.

    Raises:
        ValueError: The annotations are of another corpus or of other labels, or lack votes that the recipe needs; or the
            export itself holds synthetic votes.
    """
    own = int(is_synthetic(corpus.votes).sum())
    if own:
        raise ValueError(
            f"{corpus.name} itself holds {own} votes of source {SYNTHETIC!r}, and the votes of an export are what systems are "
            "measured against; export people's votes only, and keep the others in a folder of annotations."
        )
    kind = recipe.votes.used
    if kind == "human":
        return dict.fromkeys(("train", "validation"), corpus), {}
    found = read_annotations(recipe.votes.annotations)
    check_corpus(found, corpus)
    synthetic = answers_to(found.votes, corpus.votes.questions, f"annotations {found.folder}")
    _check_needed(recipe, corpus, synthetic, found)
    about = {"votes": kind, "annotations": found.facts["votes_sha256"]}
    if kind == "synthetic":
        return dict.fromkeys(("train", "validation"), replace(corpus, votes=synthetic)), about
    combined = combine_votes(corpus.votes, synthetic, recipe.votes.synthetic_weight)
    about["synthetic_weight"] = recipe.votes.synthetic_weight
    return {"train": replace(corpus, votes=combined), "validation": corpus}, about


def count_votes(votes: VoteTable, targets: Targets) -> dict[str, int]:
    """How many human and synthetic votes on its questions are behind targets."""
    kept = votes.select(items=targets.items, questions=[question.name for question in targets.questions])
    synthetic = is_synthetic(kept)
    return {"human": int((~synthetic).sum()), "synthetic": int(synthetic.sum())}


def _check_needed(recipe: Recipe, corpus: ExportedCorpus, synthetic: VoteTable, found: Annotations) -> None:
    """Check that there are synthetic votes wherever no human ones take their place."""
    asked = tuple(recipe.question) or corpus.default_questions
    if recipe.votes.synthetic_weight != 1 and corpus.votes.question(asked[0]).is_scale:
        raise ValueError(
            f"votes.synthetic_weight is {recipe.votes.synthetic_weight} and question {asked[0]!r} a scale, whose ratings "
            "are drawn and not weighed; set votes.synthetic_weight to 1."
        )
    only = recipe.votes.used == "synthetic"
    splits = ("train", "validation") if only else ("train",)
    for name in (*asked, *((*recipe.scales, *recipe.auxiliary) if only else ())):
        for split in splits:
            if not _voted(corpus, synthetic, name, split).any():
                raise ValueError(
                    f"The annotations {found.folder} have no vote on {name!r} for an item of split {split!r}, and "
                    f"votes.kind is {recipe.votes.used}; annotate that split, or set votes.kind to human."
                )


def _voted(corpus: ExportedCorpus, votes: VoteTable, question: str, split: str) -> np.ndarray:
    """Which items of a split have a vote on the question."""
    items: Sequence[str] = corpus.items.loc[corpus.items["split"] == split, "item"]
    on = np.unique(votes.item_codes[votes.rows_of(question)])
    return pd.Index(items).isin(votes.items[on])
