"""From a recipe to a checkpoint folder that loads with one line."""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import TrainerCallback, set_seed

from annot_hf.data.export import ExportedCorpus, read_export
from annot_hf.data.perturbation import make_perturbation
from annot_hf.data.targets import Targets
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.modeling_seedbert import SeedBert
from annot_hf.models.register import register_models
from annot_hf.models.trunks import input_name_of
from annot_hf.training.augment import augmentation_facts
from annot_hf.training.building import build_model, make_collator, options_from, standardise
from annot_hf.training.checkpoints import (
    FACTS,
    check_checkpoints,
    checkpoints_of,
    held,
    newest_checkpoint,
    read_record,
    write_record,
)
from annot_hf.training.inference import hashed_names
from annot_hf.training.inputs import make_processor
from annot_hf.training.lora import check_sharding, save_lora
from annot_hf.training.members import members_folder, train_members, trains_members
from annot_hf.training.outputs import STARTED, check_model_folder, check_output, open_repository, push_model
from annot_hf.training.recipe import MEASURES, Run
from annot_hf.training.recipe_values import LALM
from annot_hf.training.splits import SplitReader, check_clips, make_dataset, make_split_targets
from annot_hf.training.trainer import EarlyStopping, OpinionTrainer
from annot_hf.training.vote_kinds import count_votes, vote_views

logger = logging.getLogger(__name__)

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
        ValueError: The corpus, the recipe or a checkpoint do not fit together, or another process works in `output_dir`.
    """
    register_models()  # a member's folder is read without asking whether the code in it may run
    recipe, arguments = run.recipe, run.training
    if not recipe.corpus and corpus is None:
        raise ValueError("The recipe names no corpus; set corpus to the folder of an exported corpus.")
    with held(arguments.output_dir):
        return _train(run, resume, corpus)


def _train(run: Run, resume: bool, corpus: ExportedCorpus | None) -> TrainingResult:
    """The same, in a folder that this process holds."""
    recipe, arguments = run.recipe, run.training
    ensemble = trains_members(run)
    earlier = sorted(members_folder(run).glob("*") if ensemble else Path(arguments.output_dir).glob("checkpoint-*"))
    if earlier and not resume and not recipe.member_folder:
        raise ValueError(
            f"{arguments.output_dir} holds {earlier[0].name} of an earlier run; go on with it (--resume), name another "
            "output_dir, or remove it."
        )
    if resume and not earlier and not ensemble:
        raise ValueError(f"{arguments.output_dir} holds no checkpoint to go on from; train without --resume first.")
    inexact = [name for name in ("save_only_model", "ignore_data_skip") if resume and getattr(arguments, name)]
    if inexact:
        raise ValueError(
            f"{inexact[0]} is true, with which a run cannot go on where it was; train afresh in another output_dir."
        )
    perturbation = make_perturbation(recipe.perturb_share, arguments.seed)
    if resume:
        _check_unsaid(Path(arguments.output_dir))
    check_output(arguments.output_dir)
    repository = open_repository(run) if run.pushes and arguments.process_index == 0 else ""
    corpus = corpus or read_export(recipe.corpus)
    trunk = _check_started(run, corpus, resume)
    set_seed(arguments.seed)
    views, about_votes = vote_views(recipe, corpus)
    targets = make_split_targets(run, views)
    scales = [corpus.votes.question(name) for name in recipe.scales]
    if scales:
        arguments.label_names = ["labels", "scale_targets"]
    auxiliary = [corpus.votes.question(name) for name in recipe.auxiliary]
    if ensemble:
        folders = train_members(run, corpus, train)
        model = SeedBert.from_members(folders, distribution=run.options.get("distribution", "votes"))
        processor = make_processor(model.config.trunk_config, folders[0])
    else:
        if recipe.model == LALM:  # before 16 GB of it are read
            check_clips(run, corpus, targets)
        model, processor = build_model(run, targets["train"], scales, auxiliary)
    if perturbation and input_name_of(model.config.trunk_config) == "input_ids":
        raise ValueError(
            f"perturb_share is {recipe.perturb_share}, and a {model.config.trunk_config.model_type} trunk reads text, which "
            "has no pitch; remove perturb_share, or choose a trunk that hears."
        )
    collator = make_collator(model, processor)
    reader, datasets, truncated, mixtures = SplitReader(run, corpus, model, processor, collator), {}, {}, None
    for split, split_target in targets.items():
        inputs = reader.read(split_target.items)
        truncated[split] = inputs.truncated
        if split == "train" and recipe.augment and not ensemble:
            mixtures, split_target, inputs = reader.augment(split_target, inputs, resume=resume)
            for name, value in options_from(run, split_target).items():
                setattr(model.config, name, value)
        if split != "train":  # longest last, so that evaluation pads little
            order = np.argsort(inputs.lengths, kind="stable")
            split_target, inputs = split_target.select(split_target.items[order]), inputs.select(order)
        changes = perturbation if split == "train" else None
        datasets[split] = make_dataset(run, views[split], model, split_target, inputs, changes)
    log_mel = model.config.trunk_config.model_type == LogMelConfig.model_type
    if log_mel and "mel_mean" not in run.trunk_options and not ensemble:
        standardise(model, datasets["train"])
    if reader.cached:
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
        processing_class=processor,  # of every checkpoint, so that it loads as it is
        callbacks=_callbacks(run),
    )
    if hasattr(model, "get_base_model"):
        check_sharding(trainer.accelerator)
    if not ensemble:
        newest = newest_checkpoint(arguments.output_dir, with_best=arguments.load_best_model_at_end) if resume else None
        arguments.eval_on_start &= newest is None  # what watches the validation passes would see one of them twice
        trainer.train(resume_from_checkpoint=newest and str(newest))
    metrics = trainer.evaluate()
    metrics = {name: metrics[f"eval_{name}"] for name in MEASURES if f"eval_{name}" in metrics}
    # every report's baseline: the distribution of the training votes, whatever the model was trained towards
    marginal = views["train"].targets("train", recipe.question, bins=model.config.bins).probs.mean(0)
    facts = _facts(run, corpus, targets, truncated, metrics, marginal) | about_votes | {"trunk": trunk}
    for split, view in views.items():
        facts["splits"][split]["votes"] = count_votes(view.votes, targets[split])
    if mixtures is not None:
        facts["augmentation"] = augmentation_facts(mixtures)
    folder = Path(arguments.output_dir) / "model"
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    # every process takes part in collecting what they share out
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if trainer.is_world_process_zero():
        save_model(trainer.accelerator.unwrap_model(trainer.model), processor, facts, folder, weights=weights)
        (Path(arguments.output_dir) / "recipe.yaml").write_text(yaml.safe_dump(run.values, sort_keys=False))
        if repository:
            push_model(run, folder, repository)
    return TrainingResult(folder, metrics, facts)


def save_model(
    model: Any, processor: Any, facts: dict[str, Any], folder: Path, *, weights: dict[str, Any] | None = None
) -> None:
    """Write a fresh checkpoint folder: weights as safetensors (adapters alone, if it has any), code, processor and facts.

    It is written aside, and takes the place of an earlier one when it is whole.

    Args:
        model: The model, or the `PeftModel` around it.
        processor: Its processor.
        facts: Facts of its training.
        folder: Folder to write.
        weights: Its weights, where several processes hold parts of them.

    Raises:
        ValueError: The folder holds something else than a model of this package.
    """
    check_model_folder(folder)
    fresh = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    if hasattr(model, "get_base_model"):
        save_lora(model, fresh, processor=processor, weights=weights)
    else:
        model.save_pretrained(fresh, state_dict=weights)
        processor.save_pretrained(fresh)
    (fresh / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _check_unsaid(folder: Path) -> None:
    """Checkpoints are not gone on with, nor removed as cut off, where nothing says whose they are.

    Raises:
        ValueError: What should say so is damaged, or is missing beside a checkpoint that is not complete.
    """
    path = folder / STARTED
    if read_record(path) is not None:
        return
    if path.is_file() and checkpoints_of(folder):
        raise ValueError(
            f"{path} is damaged, and nothing else says what the checkpoints beside it learn from; restore it, or name another "
            "output_dir."
        )
    check_checkpoints(folder)


def _check_started(run: Run, corpus: ExportedCorpus, resume: bool) -> str | None:
    """Leave word of what a run is when it starts; going on with another recipe or corpus is refused.

    Gives the digest of the trunk's weights.
    """
    path, ensemble, record = Path(run.training.output_dir) / STARTED, trains_members(run), run.record(corpus)
    earlier = read_record(path) if resume else None
    if earlier is not None:
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
        write_record(path, record)
    return record.get("trunk")


def _trunk_rate(run: Run) -> float | None:
    """Learning rate of the trunk; it needs a group of its own where stages change it."""
    rate = run.recipe.trunk_learning_rate
    return run.training.learning_rate if rate is None and run.recipe.unfreeze_epochs else rate


def _callbacks(run: Run) -> list[TrainerCallback]:
    """What watches the validation passes."""
    staging, patience = run.recipe.make_staging(), run.recipe.early_stopping_patience
    stopping = [EarlyStopping(patience)] if patience else []
    return ([staging] if staging else []) + stopping


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
                "names": hashed_names(split_target.items),
                "excluded": split_target.excluded,
            }
            | ({} if truncated[split] is None else {"texts cut short": truncated[split]})
            for split, split_target in targets.items()
        },
        "marginal": marginal.tolist(),
        "validation": metrics,
        "recipe": run.values,
    }
