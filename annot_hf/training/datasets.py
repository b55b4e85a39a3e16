"""What a run learns from and is measured on: the targets of its splits, their inputs, and both as datasets."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from annot_hf.data.audio import AudioLimits, MixedClip
from annot_hf.data.conditions import put_under
from annot_hf.data.dime import Mixtures
from annot_hf.data.export import ExportedCorpus
from annot_hf.data.synthetic import (
    SYNTHETIC,
    Annotations,
    answers_to,
    check_corpus,
    combine_votes,
    half_of,
    is_synthetic,
    read_annotations,
    shuffle_raters,
)
from annot_hf.data.targets import Targets, disagreement, opinion_columns, scale_means
from annot_hf.data.votes import VoteTable
from annot_hf.models.configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig
from annot_hf.models.heads import masked_mean
from annot_hf.models.modeling_opinion import OpinionPreTrainedModel
from annot_hf.models.trunks import PROMPTED, PROVENANCE, input_name_of
from annot_hf.training.augment import Copies, Perturbation, augmentation_facts, keep_mixtures, plan_augmentation
from annot_hf.training.collator import OpinionDataset, VoteCollator, frames_collator, make_collator
from annot_hf.training.features import FeatureStore, plan_shards, write_shard
from annot_hf.training.inputs import (
    Inputs,
    clip_seconds,
    corpus_inputs,
    item_sources,
    join_inputs,
    read_inputs,
    read_together,
    transcripts,
)
from annot_hf.training.recipe import LALM, Recipe, Run

logger = logging.getLogger(__name__)

# clips in memory at a time while a trunk encodes: 64 of 30 s and 768 units are 150 MB
ENCODED_ITEMS = 64
# letters of a hash, 48 bits: two sets of a million items share one by chance once in 280 times
HASHED = 12


def make_split_targets(run: Run, corpus: ExportedCorpus, views: Mapping[str, ExportedCorpus]) -> dict[str, Targets]:
    """Targets of "train", as the recipe has them, and of "validation", the votes that the split's view has."""
    recipe, bins = run.recipe, run.options.get("bins", 4)
    targets = {
        "train": views["train"].targets("train", recipe.question, bins=bins, **asdict(recipe.target)),
        # whatever the training target, a model is measured against the votes
        "validation": views["validation"].targets("validation", recipe.question, bins=bins),
    }
    if recipe.model == "annotator":
        targets = {split: _with_raters(split_target, split) for split, split_target in targets.items()}
    if recipe.model == LALM:
        # before 16 GB of weights are read
        limits = AudioLimits(max_seconds=recipe.inputs.max_seconds)
        for split_target in targets.values():
            clips = item_sources(corpus, split_target.items, DistributionQwen2AudioConfig())
            clip_seconds(clips, split_target.items, limits)
    return targets


def target_options(run: Run, targets: Targets) -> dict[str, Any]:
    """Options of the model that follow from its training targets."""
    options: dict[str, Any] = {"class_weights": run.recipe.class_weights.of(targets.probs.sum(0))}
    if run.options.get("head") == "bayesian" and run.options.get("kl_weight") is None:
        # the rest of the loss is a mean over items, the divergence is of them all
        options["kl_weight"] = 1 / len(targets)
    return options


class SplitReader:
    """Reads what a run's model takes of items, and what its trunk makes of them, once, where the recipe caches that."""

    def __init__(self, run: Run, corpus: ExportedCorpus, model: OpinionPreTrainedModel, processor: Any) -> None:
        self.run, self.corpus, self.model, self.processor = run, corpus, model, processor
        wanted, seed = run.recipe.augmentation, run.training.seed
        self.copies = Copies(wanted.copies, seed)
        self.perturbation = Perturbation(wanted.perturb_share, seed) if wanted.perturb_share else None
        self.fed_by = make_collator(model, processor)
        self.cached = run.recipe.inputs.cache != "none" and not run.members
        # of the datasets' rows
        self.collator = frames_collator(self.fed_by) if self.cached else self.fed_by
        # where features are kept, and the longest clip that is accepted (s)
        self.limits = {
            "features": run.recipe.features or Path(run.training.output_dir) / "features",
            "max_seconds": run.recipe.inputs.max_seconds,
        }

    def read(self, items: np.ndarray, version: int = 0) -> Inputs:
        """Inputs of the items, in their order; of the clips themselves, or of a copy of each."""
        held, rows = read_together(self.corpus, items)
        inputs = corpus_inputs(
            self.corpus,
            held,
            self.model.config.trunk_config,
            self.processor,
            chains=self.copies.chains(held, version),
            **self.limits,
        )
        return (self.encode(inputs, held) if self.cached else inputs).select(rows)

    def encode(self, inputs: Inputs, items: Sequence[str]) -> Inputs:
        """What the trunk makes of items, computed once and kept: what the recipe caches, or else the mean of frames."""
        arguments, kind = self.run.training, self.run.recipe.inputs.cache
        return encode_once(
            self.model.to(arguments.device),
            inputs,
            self.fed_by,
            folder=self.limits["features"],
            key=frames_key(self.corpus, items, self.processor),
            kind="pooled" if kind == "none" else kind,
            batch_size=arguments.per_device_eval_batch_size,
            dtype=torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None,
            workers=arguments.dataloader_num_workers,
        )

    def augment(self, targets: Targets, inputs: Inputs, *, resume: bool) -> tuple[Targets, Inputs, dict[str, Any]]:
        """Targets and inputs with the mixtures that the recipe asks for behind the items, then the copies; facts of both."""
        mixtures, facts, items = None, {}, targets.items
        if self.run.recipe.augmentation.kind:
            mixtures = self._plan(targets, inputs, resume=resume)
            targets, facts = mixtures.extend(targets), augmentation_facts(mixtures)
        versions = []
        for version in range(self.copies.count + 1):
            part = self.read(items, version) if version else inputs
            if mixtures is not None and len(mixtures):
                part = join_inputs([part, self._mixed(mixtures, part, version)])
            versions.append(part)
        facts |= self.copies.facts(targets.items) if self.copies.count else {}
        return targets, join_inputs(versions) if self.copies.count else versions[0], facts

    def _plan(self, targets: Targets, inputs: Inputs, *, resume: bool) -> Mixtures:
        """The mixtures that the recipe asks for, kept in the run's folder."""
        run, wanted = self.run, self.run.recipe.augmentation

        def encoded(rows: np.ndarray) -> Inputs:
            chosen = inputs.select(rows)
            return chosen if self.cached else self.encode(chosen, targets.items[rows])

        options = {"encoded": encoded, "seed": run.training.seed, **self.limits}
        mixtures = plan_augmentation(wanted, self.corpus, targets, self.model.config, **options)
        if run.training.process_index == 0:
            lines = "; ".join(mixtures.report.lines())
            logger.warning("%s: %d mixtures of %d training items. %s", wanted.kind, len(mixtures), len(targets), lines)
            keep_mixtures(mixtures, run.training.output_dir, resume=resume)
        return mixtures

    def _mixed(self, mixtures: Mixtures, inputs: Inputs, version: int = 0) -> Inputs:
        """Inputs of mixtures of the items: audio is mixed when it is read, a text is that of one of the two."""
        config = self.model.config.trunk_config
        if input_name_of(config) == "input_ids":
            return inputs.select(mixtures.text_from)
        sources = list(item_sources(self.corpus, mixtures.sources, config))
        pairs = zip(mixtures.first, mixtures.second, mixtures.share, strict=True)
        clips: list[Any] = [MixedClip(sources[first], sources[second], float(share)) for first, second, share in pairs]
        chains = self.copies.chains(mixtures.items, version)
        clips = [put_under(*clip) for clip in zip(clips, mixtures.items, chains, strict=True)]
        if input_name_of(config) == PROMPTED:
            said = transcripts(self.corpus, mixtures.sources)
            clips = [(clip, said[row]) for clip, row in zip(clips, mixtures.text_from, strict=True)]
        # a shard's name changes with its clips and their shares
        key = "\n".join(["dime", self.corpus.digest, *mixtures.items])
        mixed = read_inputs(clips, config, self.processor, names=mixtures.items, key=key, **self.limits)
        return self.encode(mixed, mixtures.items) if self.cached else mixed

    def _check_sound(self) -> None:
        """Perturbed clips and copies need a trunk that hears, and the former one that reads clips anew in every epoch."""
        trunk, wanted = self.model.config.trunk_config, self.run.recipe.augmentation
        for name, value in (("perturb_share", wanted.perturb_share), ("copies", wanted.copies)):
            if value and input_name_of(trunk) == "input_ids":
                raise ValueError(
                    f"augmentation.{name} is {value}, and a {trunk.model_type} trunk reads text, which makes no "
                    f"sound; set augmentation.{name} to 0, or choose an audio trunk."
                )
        if self.perturbation and input_name_of(trunk) == "input_features":
            raise ValueError(
                f"augmentation.perturb_share is {wanted.perturb_share}, and the features of a {trunk.model_type} "
                "trunk are computed once and kept; set augmentation.copies instead."
            )

    def datasets(
        self, views: Mapping[str, ExportedCorpus], targets: Mapping[str, Targets], *, resume: bool
    ) -> tuple[dict[str, OpinionDataset], dict[str, Any]]:
        """Datasets of the splits, and what `training.json` records of them: items, exclusions and votes, and the mixtures.

        They have targets of everything that the model answers, from the votes of their view.
        """
        run, recipe, config = self.run, self.run.recipe, self.model.config
        self._check_sound()
        datasets, about = {}, {"splits": {}}
        for split, split_target in targets.items():
            inputs = self.read(split_target.items)
            about["splits"][split] = _split_facts(split_target, views[split], inputs.truncated)
            if split != "train":
                # longest last, so that evaluation pads little
                order = np.argsort(inputs.lengths, kind="stable")
                split_target, inputs = split_target.select(split_target.items[order]), inputs.select(order)
            elif (recipe.augmentation.kind or self.copies.count) and not run.members:
                split_target, inputs, about["augmentation"] = self.augment(split_target, inputs, resume=resume)
                # the targets of the mixtures are among them now
                for name, value in target_options(run, split_target).items():
                    setattr(config, name, value)
            votes, items = views[split].votes, split_target.items
            options = {"disagreement": _disagreement(votes, getattr(config, "disagreement", None), split_target)}
            if recipe.scales:
                options["scales"] = scale_means(votes, recipe.scales, items)
            if recipe.auxiliary:
                options["auxiliary"] = opinion_columns(votes, recipe.auxiliary, items)[1]
            if split == "train" and not run.members:
                options |= {"perturbation": self.perturbation, "copies": self.copies}
            raters = getattr(config, "annotators", ())
            read = inputs.entries, inputs.read, inputs.lengths
            datasets[split] = OpinionDataset(split_target, *read, annotators=raters, **options)
        return datasets, about


def frames_key(corpus: ExportedCorpus, items: Sequence[str], processor: Any) -> list[str]:
    """What identifies the frames of items besides the trunk: corpus, items, and how inputs are read, from whatever folder."""
    # A tokenizer names the folder it was loaded from, and that of a checkpoint reads as the trunk's does.
    return [corpus.digest, *items, re.sub(r"name_or_path='[^']*'", "", str(processor), count=1)]


def encode_once(
    model: OpinionPreTrainedModel,
    inputs: Inputs,
    collator: VoteCollator,
    *,
    folder: str | Path,
    key: Sequence[str],
    kind: str = "frames",
    batch_size: int = 8,
    dtype: torch.dtype | None = None,
    workers: int = 0,
) -> Inputs:
    """The frozen trunk's "frames" `(T, H)` of every item, or their "pooled" mean `(1, H)`, from now or an earlier call.

    They have the lengths of the original inputs, so that batches are the same with a cache or without. Processes compute
    different shards. `key` identifies items, order and reading; `dtype` is that of autocast, or None for the weights'.
    """
    state = PartialState()
    settings = [kind, trunk_digest(model), str(dtype), *key, inputs.stamp]
    # too little memory shows at once
    longest_first = np.argsort(-inputs.lengths, kind="stable")
    shards = plan_shards(folder, settings, inputs.entries, order=longest_first, size=ENCODED_ITEMS)
    # processes compute different shards
    mine = [shard for shard in shards[state.process_index :: state.num_processes] if not shard.path.exists()]
    if mine:
        model.eval()
        parts = [np.split(shard.rows, range(batch_size, len(shard.rows), batch_size)) for shard in mine]
        rows = [batch for part in parts for batch in part]
        batches = iter(DataLoader(inputs, batch_sampler=rows, collate_fn=collator.pad, num_workers=workers))
        quiet = not state.is_main_process
        with tqdm(total=sum(map(len, rows)), desc="encode", unit="clip", disable=quiet) as progress:
            for shard, part in zip(mine, parts, strict=True):
                kept: list[np.ndarray] = []
                for batch in part:
                    kept += _encode(model, next(batches), kind, dtype)
                    progress.update(len(batch))
                if not all(np.isfinite(clip).all() for clip in kept):
                    raise ValueError(
                        f"The trunk's frames exceed {np.finfo(np.float16).max:.0f}, the largest number of half precision; "
                        "set inputs.cache to none, or choose another trunk_layer."
                    )
                write_shard(shard.path, kept)
    state.wait_for_everyone()
    store = FeatureStore(shards)
    # of the original lengths, so that batches are the same with a cache or without
    return replace(inputs, entries=range(len(inputs.entries)), read=store.__getitem__, stamp=store.stamp)


def trunk_digest(model: OpinionPreTrainedModel) -> str:
    """SHA-256 of everything the frames depend on: the trunk's weights and configuration, and the layer."""
    config = {name: value for name, value in model.trunk.config.to_dict().items() if name not in PROVENANCE}
    digest = hashlib.sha256(json.dumps([config, model.config.trunk_layer], sort_keys=True, default=str).encode())
    for name, weight in sorted(model.trunk.state_dict().items()):
        if name != "masked_spec_embed":
            # only training a trunk uses it, and many checkpoints have a random one
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.inference_mode()
def _encode(
    model: OpinionPreTrainedModel, batch: dict[str, torch.Tensor], kind: str, dtype: torch.dtype | None
) -> list[np.ndarray]:
    """Frames `(T, H)` or their mean `(1, H)` of each item, half precision."""
    batch = {name: value.to(model.device) for name, value in batch.items()}
    with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
        frames, mask = model.frames(**batch)
        if kind == "pooled":
            frames, mask = masked_mean(frames, mask)[:, None], mask[:, :1]
    frames, lengths = frames.half().cpu().numpy(), mask.sum(1).tolist()
    return [clip[:length].copy() for clip, length in zip(frames, lengths, strict=True)]


def _disagreement(votes: VoteTable, kind: str | None, targets: Targets) -> np.ndarray | None:
    """How far raters disagree on each item, whatever the target, if the model learns it."""
    if kind is None:
        return None
    names = [question.name for question in targets.questions]
    found = disagreement(votes, names, targets.items, kind)
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


def vote_views(
    recipe: Recipe, corpus: ExportedCorpus, seed: int = 0
) -> tuple[dict[str, ExportedCorpus], dict[str, Any]]:
    """The corpus with the votes that "train" and "validation" use, and what a reader must know of them, if anything.

    Unlike in arXiv 2601.14620, tests always refer to people's votes; synthetic votes alone also choose the epoch that is kept.
    """
    own = int(is_synthetic(corpus.votes).sum())
    if own:
        raise ValueError(
            f"{corpus.name} itself holds {own} votes of source {SYNTHETIC!r}, and the votes of an export are what systems are "
            "measured against; export people's votes only, and keep the others in a folder of annotations."
        )
    if recipe.votes.half:
        corpus, about_half = _halved(recipe, corpus)
        views, about = vote_views(replace(recipe, votes=replace(recipe.votes, half="")), corpus, seed)
        return views, about | {"votes_half": about_half}
    kind = recipe.votes.used
    if recipe.votes.shuffle_raters:
        learnt = corpus.items.loc[corpus.items["split"].isin(["train", "validation"]), "item"]
        shuffled = replace(corpus, votes=shuffle_raters(corpus.votes.select(items=learnt), seed))
        return dict.fromkeys(("train", "validation"), shuffled), {"votes": "raters shuffled"}
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


def _halved(recipe: Recipe, corpus: ExportedCorpus) -> tuple[ExportedCorpus, dict[str, Any]]:
    """The corpus with half of the votes, and how many are in it and not, of training and validation on the question."""
    asked = tuple(recipe.question) or corpus.default_questions
    learnt = corpus.items.loc[corpus.items["split"].isin(["train", "validation"]), "item"]
    half = replace(corpus, votes=half_of(corpus.votes, recipe.votes.half))
    whole, kept = (one.votes.select(items=learnt, questions=asked[:1]) for one in (corpus, half))
    single = int((np.bincount(whole.item_codes) == 1).sum())
    facts = {"half": recipe.votes.half, "votes": len(kept), "left_out": len(whole) - len(kept)}
    return half, facts | {"items_without_votes": len(whole.items) - len(kept.items), "items_with_one_vote": single}


def _split_facts(targets: Targets, view: ExportedCorpus, truncated: int | None) -> dict[str, Any]:
    """What `training.json` records of a split: items, exclusions, texts cut short and votes."""
    names = [question.name for question in targets.questions]
    synthetic = is_synthetic(view.votes.select(items=targets.items, questions=names))
    sizes, items = np.unique(np.rint(targets.votes_per_item).astype(int), return_counts=True)
    return {
        "items": len(targets),
        "sha256": hashlib.sha256("\n".join(sorted(targets.items)).encode()).hexdigest(),
        "names": hashed_names(targets.items),
        "excluded": targets.excluded,
        **({} if truncated is None else {"texts cut short": truncated}),
        "votes": {"human": int((~synthetic).sum()), "synthetic": int(synthetic.sum())},
        "items by votes": dict(zip(map(str, sizes.tolist()), items.tolist(), strict=True)),
        "raters": len(np.unique(targets.ratings.annotator)),
    }


def hashed_names(items: Sequence[str]) -> str:
    """Names of items as one string of hashes, `HASHED` letters each, sorted: they identify items without naming them."""
    return "".join(sorted(hashlib.sha256(name.encode()).hexdigest()[:HASHED] for name in items))


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
        voted = synthetic.items[np.unique(synthetic.item_codes[synthetic.rows_of(name)])]
        for split in splits:
            items = corpus.items.loc[corpus.items["split"] == split, "item"]
            if not items.isin(voted).any():
                raise ValueError(
                    f"The annotations {found.folder} have no vote on {name!r} for an item of split {split!r}, and "
                    f"votes.kind is {recipe.votes.used}; annotate that split, or set votes.kind to human."
                )
