"""From a recipe to a checkpoint folder that loads with one line."""

import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from annot_hf.data.audio import AudioLimits
from annot_hf.data.export import ExportedCorpus, read_export
from annot_hf.data.perturbation import make_perturbation
from annot_hf.data.questions import Question
from annot_hf.data.targets import Targets, disagreement, scale_means
from annot_hf.evaluation.saliency import opinion_columns
from annot_hf.models.configuration_annotator import AnnotatorConfig
from annot_hf.models.configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.losses import effective_number_weights, inverse_frequency_weights
from annot_hf.models.modeling_annotator import AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio
from annot_hf.models.modeling_opinion import OpinionPreTrainedModel
from annot_hf.models.modeling_seedbert import SeedBert
from annot_hf.models.register import register_models
from annot_hf.models.trunks import PROMPTED, input_name_of
from annot_hf.training.augment import augmentation_facts, keep_mixtures, plan_augmentation, with_mixtures
from annot_hf.training.checkpoints import FACTS, newest_checkpoint
from annot_hf.training.collator import OpinionDataset, VoteCollator
from annot_hf.training.frozen import encode_once
from annot_hf.training.inputs import (
    Inputs,
    clip_seconds,
    corpus_inputs,
    item_sources,
    make_processor,
    read_together,
)
from annot_hf.training.lora import add_lora, check_sharding, save_lora
from annot_hf.training.members import members_folder, train_members, trains_members
from annot_hf.training.recipe import MEASURES, Recipe, Run
from annot_hf.training.recipe_values import LALM, LOG_MEL
from annot_hf.training.trainer import OpinionTrainer
from annot_hf.training.vote_kinds import count_votes, vote_views

logger = logging.getLogger(__name__)

MODELS = {
    "distribution": DistributionModel,
    "annotator": AnnotatorModel,
    "seedbert": SeedBert,
    LALM: DistributionQwen2Audio,
}
STARTED = "started.json"
LENGTH = ("num_train_epochs", "max_steps", "early_stopping_patience")  # a run may be gone on with for longer
ASSEMBLED = ("num_members", "distribution")  # what an ensemble does with its members, and none of them knows


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves behind.

    Attributes:
        model: Folder of the best checkpoint, with its processor, code and facts.
        metrics: Measures on the validation split, in nats but for the distance.
        facts: What `training.json` in the folder says: corpus, splits, marginal, exclusions.
    """

    model: Path
    metrics: dict[str, float]
    facts: dict[str, Any]


def train(run: Run, *, resume: bool = False, corpus: ExportedCorpus | None = None) -> TrainingResult:
    """Train as the recipe says, and keep the best epoch in `output_dir`/model.

    Independent members of a seedbert model are trained one by one (see `annot_hf.training.members`) and assembled.

    Args:
        run: From `load_recipe`.
        resume: Go on from the newest complete checkpoint in `output_dir`, or afresh if the only one was cut off while it
            was written; the result equals that of an uninterrupted run. Of independent members, train those that are
            missing or damaged.
        corpus: The corpus that the recipe names, if it is open already, or a view of it under other splits; read from
            disk by default.

    Raises:
        ValueError: The corpus, the recipe or a checkpoint do not fit together.
    """
    register_models()  # a member's folder is read without asking whether the code in it may run
    recipe, arguments = run.recipe, run.training
    if not recipe.corpus and corpus is None:
        raise ValueError("The recipe names no corpus; set corpus to the folder of an exported corpus.")
    ensemble = trains_members(run)
    earlier = sorted(members_folder(run).glob("*") if ensemble else Path(arguments.output_dir).glob("checkpoint-*"))
    if earlier and not resume and not recipe.member_folder:
        raise ValueError(
            f"{arguments.output_dir} holds {earlier[0].name} of an earlier run; go on with it (--resume), name another "
            "output_dir, or remove it."
        )
    if resume and not earlier and not ensemble:
        raise ValueError(f"{arguments.output_dir} holds no checkpoint to go on from; train without --resume first.")
    perturbation = make_perturbation(recipe.perturb_share, arguments.seed)
    corpus = corpus or read_export(recipe.corpus)
    _check_started(run, corpus, resume)
    set_seed(arguments.seed)
    bins = run.options.get("bins", 4)
    views, about_votes = vote_views(recipe, corpus)
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
        targets = {split: _with_raters(split_target, split) for split, split_target in targets.items()}
    scales = [corpus.votes.question(name) for name in recipe.scales]
    if scales:
        arguments.label_names = ["labels", "scale_labels"]
    auxiliary = [corpus.votes.question(name) for name in recipe.auxiliary]
    if ensemble:
        folders = train_members(run, corpus, train)
        model = SeedBert.from_members(folders, distribution=run.options.get("distribution", "votes"))
        processor = make_processor(model.config.trunk_config, folders[0])
    else:
        for split_target in targets.values() if recipe.model == LALM else ():  # before 16 GB of it are read
            clips = item_sources(corpus, split_target.items, DistributionQwen2AudioConfig())
            clip_seconds(clips, split_target.items, AudioLimits(max_seconds=recipe.max_seconds))
        model, processor = _build(run, targets["train"], scales, auxiliary)
    if perturbation and input_name_of(model.config.trunk_config) == "input_ids":
        raise ValueError(
            f"perturb_share is {recipe.perturb_share}, and a {model.config.trunk_config.model_type} trunk reads text, which "
            "has no pitch; remove perturb_share, or choose a trunk that hears."
        )
    collator = make_collator(model, processor)
    features = recipe.features or Path(arguments.output_dir) / "features"
    cached = recipe.cache_features != "none" and not ensemble  # its members had theirs
    encode = functools.partial(_encode, run, corpus, model, processor, collator, features)
    datasets, truncated, mixtures = {}, {}, None
    for split, split_target in targets.items():
        items, rows = read_together(corpus, split_target.items)
        inputs = corpus_inputs(
            corpus, items, model.config.trunk_config, processor, features=features, max_seconds=recipe.max_seconds
        )
        if cached:
            inputs = encode(inputs, items)
        inputs = inputs.select(rows)
        truncated[split] = inputs.truncated
        if split == "train" and recipe.augment and not ensemble:
            encoded = functools.partial(_encoded_rows, inputs, split_target.items, None if cached else encode)
            mixtures = plan_augmentation(
                run, corpus, split_target, model.config.trunk_config, folder=features, encoded=encoded
            )
            if arguments.process_index == 0:
                keep_mixtures(mixtures, arguments.output_dir, resume=resume)
            inputs = with_mixtures(
                mixtures,
                inputs,
                corpus,
                model.config.trunk_config,
                processor,
                features=features,
                max_seconds=recipe.max_seconds,
                encode=encode if cached else None,
            )
            split_target = mixtures.extend(split_target)
            for name, value in _from_targets(run, split_target).items():
                setattr(model.config, name, value)
        if split != "train":  # longest last, so that evaluation pads little
            order = np.argsort(inputs.lengths, kind="stable")
            split_target, inputs = split_target.select(split_target.items[order]), inputs.select(order)
        annotators = getattr(model.config, "annotators", ())
        datasets[split] = OpinionDataset(
            split_target,
            inputs.entries,
            inputs.read,
            inputs.lengths,
            annotators=annotators,
            scales=scale_means(views[split].votes, recipe.scales, split_target.items) if scales else None,
            auxiliary=opinion_columns(views[split].votes, recipe.auxiliary, split_target.items)[1]
            if auxiliary
            else None,
            disagreement=_disagreement(views[split], model, split_target),
            perturbation=perturbation if split == "train" else None,
        )
    log_mel = model.config.trunk_config.model_type == LogMelConfig.model_type
    if log_mel and "mel_mean" not in run.trunk_options and not ensemble:
        _standardise(model, datasets["train"])
    if cached:
        collator = replace(collator, input_name="trunk_frames", tokenizer=None)
    trainer = OpinionTrainer(
        task_schedule=recipe.task_schedule if recipe.model == "annotator" else None,
        curriculum=recipe.make_curriculum(),
        trunk_learning_rate=_trunk_rate(run),
        model=model,
        args=arguments,
        train_dataset=datasets["train"],
        eval_dataset=datasets["validation"],
        data_collator=collator,
        callbacks=_callbacks(run),
    )
    if hasattr(model, "get_base_model"):
        check_sharding(trainer.accelerator)
    if not ensemble:
        newest = newest_checkpoint(arguments.output_dir) if resume else None
        trainer.train(resume_from_checkpoint=newest and str(newest))
    metrics = trainer.evaluate()
    metrics = {name: metrics[f"eval_{name}"] for name in MEASURES if f"eval_{name}" in metrics}
    # every report's baseline: the distribution of the training votes, whatever the model was trained towards
    marginal = views["train"].targets("train", recipe.question, bins=model.config.bins).probs.mean(0)
    facts = _facts(run, corpus, targets, truncated, metrics, marginal) | about_votes
    for split, view in views.items():
        facts["splits"][split]["votes"] = count_votes(view.votes, targets[split])
    if mixtures is not None:
        facts["augmentation"] = augmentation_facts(mixtures)
    folder = Path(arguments.output_dir) / "model"
    sharded = (
        trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    )  # then every process takes part in collecting them
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if trainer.is_world_process_zero():
        save_model(trainer.accelerator.unwrap_model(trainer.model), processor, facts, folder, weights=weights)
        (Path(arguments.output_dir) / "recipe.yaml").write_text(yaml.safe_dump(run.values, sort_keys=False))
    return TrainingResult(folder, metrics, facts)


def make_collator(model: OpinionPreTrainedModel, processor: Any) -> VoteCollator:
    """The collator that feeds `model`."""
    config = model.config
    name = input_name_of(config.trunk_config)
    panel = min(len(config.annotators), config.max_panel) if isinstance(config, AnnotatorConfig) else None
    tokenizers = {"input_ids": processor, PROMPTED: getattr(processor, "tokenizer", None)}
    return VoteCollator(name, tokenizers.get(name), panel)


def save_model(
    model: Any, processor: Any, facts: dict[str, Any], folder: Path, *, weights: dict[str, Any] | None = None
) -> None:
    """Write a fresh checkpoint folder: weights as safetensors (adapters alone, if it has any), code, processor and facts.

    Args:
        model: The model, or the `PeftModel` around it.
        processor: Its processor.
        facts: Facts of its training.
        folder: Folder to write.
        weights: Its weights, where several processes hold parts of them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if hasattr(model, "get_base_model"):
        save_lora(model, folder, weights=weights)
    else:
        model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_started(run: Run, corpus: ExportedCorpus, resume: bool) -> None:
    """Leave word of what a run is when it starts; going on with another recipe or corpus is refused."""
    path = Path(run.training.output_dir) / STARTED
    if resume and path.is_file():
        earlier, ensemble = json.loads(path.read_text(encoding="utf-8")), trains_members(run)
        changed = run.changes(earlier, corpus, aside=ASSEMBLED if ensemble else LENGTH)
        longer = [name for name in changed if name in LENGTH] if ensemble else []
        if longer:
            raise ValueError(
                f"{run.training.output_dir} was started with another {longer[0]}, and how long a member is trained is part of "
                "what it is, so that none would be gone on with; take the change back, or name another output_dir."
            )
        if changed:
            raise ValueError(
                f"{run.training.output_dir} was started with another recipe or corpus: {', '.join(changed)} changed; go on "
                "with what it was started with, or name another output_dir."
            )
    elif run.training.process_index == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run.record(corpus), indent=1) + "\n", encoding="utf-8")


def _trunk_rate(run: Run) -> float | None:
    """Learning rate of the trunk; it needs a group of its own where stages change it."""
    rate = run.recipe.trunk_learning_rate
    return run.training.learning_rate if rate is None and run.recipe.unfreeze_epochs else rate


def _callbacks(run: Run) -> list[TrainerCallback]:
    """What watches the validation passes."""
    staging, patience = run.recipe.make_staging(), run.recipe.early_stopping_patience
    stopping = [EarlyStoppingCallback(patience)] if patience else []
    return ([staging] if staging else []) + stopping


def _encode(
    run: Run,
    corpus: ExportedCorpus,
    model: OpinionPreTrainedModel,
    processor: Any,
    collator: VoteCollator,
    folder: str | Path,
    inputs: Inputs,
    items: Sequence[str],
) -> Inputs:
    """What the run's trunk makes of items, computed once and kept: what the recipe caches, or else the mean of frames."""
    arguments, kind = run.training, run.recipe.cache_features
    return encode_once(
        model.to(arguments.device),
        inputs,
        collator,
        folder=folder,
        key=[corpus.digest, *items, str(processor)],
        kind="pooled" if kind == "none" else kind,
        batch_size=arguments.per_device_eval_batch_size,
        dtype=torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None,
        workers=arguments.dataloader_num_workers,
    )


def _encoded_rows(
    inputs: Inputs, items: np.ndarray, encode: Callable[[Inputs, Sequence[str]], Inputs] | None, rows: np.ndarray
) -> Inputs:
    """What the trunk makes of some of the items; their inputs themselves where they are that already."""
    chosen = inputs.select(rows)
    return encode(chosen, items[rows]) if encode else chosen


def _from_targets(run: Run, targets: Targets) -> dict[str, Any]:
    """Options of the model that follow from what it learns from."""
    options: dict[str, Any] = {"class_weights": _class_weights(run.recipe, targets)}
    if run.options.get("head") == "bayesian" and run.options.get("kl_weight") is None:
        # the rest of the loss is a mean over items, the divergence is of them all
        options["kl_weight"] = 1 / len(targets)
    return options


def _class_weights(recipe: Recipe, targets: Targets) -> list[float] | None:
    """Weights of the labels, from how much of the training targets each has."""
    mass = targets.probs.sum(0)
    if recipe.class_weighting == "effective":
        return effective_number_weights(mass, recipe.class_beta)
    return inverse_frequency_weights(mass) if recipe.class_weighting else None


def _build(
    run: Run, targets: Targets, scales: Sequence[Question], auxiliary: Sequence[Question]
) -> tuple[OpinionPreTrainedModel, Any]:
    """The untrained model and its processor."""
    if run.recipe.head_seed is not None:
        set_seed(run.recipe.head_seed)
    model_class = MODELS[run.recipe.model]
    options = dict(run.options, questions=[question.to_dict() for question in targets.questions])
    options |= _from_targets(run, targets)
    if scales:
        options["scale_questions"] = [question.to_dict() for question in scales]
    if auxiliary:
        options["auxiliary_questions"] = [question.to_dict() for question in auxiliary]
    if run.recipe.model == "annotator":
        options["annotators"] = _annotators(targets)
    if run.recipe.model == LALM:
        model = _build_lalm(run, options)
    elif run.recipe.trunk == LOG_MEL:
        model = model_class(model_class.config_class(trunk_config=LogMelConfig(**run.trunk_options), **options))
    else:
        model = model_class.from_trunk(run.recipe.trunk, **options)
    if model.config.support != targets.support:
        raise ValueError(f"The model's support {model.config.support} is not that of the targets {targets.support}.")
    if run.recipe.head_seed is not None:  # what comes now, dropout and all, is that of the other seed
        set_seed(run.training.seed)
    revision = getattr(model.config, "lalm_revision", None)
    processor = make_processor(
        model.config.trunk_config, run.recipe.trunk, max_tokens=run.recipe.max_tokens, revision=revision
    )
    return model, processor


def _build_lalm(run: Run, options: dict[str, Any]) -> Any:
    """An audio-language model, with adapters if the recipe has any; only weights that stay as they are may be bfloat16."""
    adapted = options.get("lora_rank", DistributionQwen2Audio.config_class().lora_rank) > 0
    dtype = torch.bfloat16 if adapted and run.training.bf16 else torch.float32
    revision = options.pop("lalm_revision", None)
    model = DistributionQwen2Audio.from_lalm(run.recipe.trunk, revision=revision, dtype=dtype, **options)
    return add_lora(model) if adapted else model


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


def _annotators(targets: Targets) -> list[str]:
    """Raters of the training split, those with most answers first."""
    answers = np.bincount(targets.ratings.annotator, minlength=len(targets.annotators))
    order = np.argsort(-answers, kind="stable")
    return [targets.annotators[code] for code in order if answers[code]]


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


def _standardise(model: OpinionPreTrainedModel, dataset: OpinionDataset, clips: int = 512) -> None:
    """Set the trunk's per-band mean and deviation from evenly spaced training clips."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(clips, len(dataset))).astype(int))
    frames = np.concatenate([dataset.read(dataset.inputs[row]).astype(np.float64) for row in rows])
    mean, std = frames.mean(0).round(4).tolist(), (frames.std(0) + 1e-3).round(4).tolist()
    for config in (model.config.trunk_config, *(trunk.config for trunk in model.trunks)):
        config.mel_mean, config.mel_std = mean, std


def _facts(
    run: Run,
    corpus: ExportedCorpus,
    targets: dict[str, Targets],
    truncated: dict[str, int | None],
    metrics: dict[str, float],
    marginal: np.ndarray,
) -> dict[str, Any]:
    """What a reader of the checkpoint must know: data, splits, marginal, exclusions, texts cut short."""
    return {
        "corpus": corpus.name,
        "corpus_digest": corpus.digest,
        **({"part": dict(corpus.part)} if corpus.part else {}),
        "target": targets["train"].method,
        "splits": {
            split: {
                "items": len(split_target),
                "sha256": hashlib.sha256("\n".join(sorted(split_target.items)).encode()).hexdigest(),
                "excluded": split_target.excluded,
            }
            | ({} if truncated[split] is None else {"texts cut short": truncated[split]})
            for split, split_target in targets.items()
        },
        "marginal": marginal.tolist(),
        "validation": metrics,
        "recipe": run.values,
    }
