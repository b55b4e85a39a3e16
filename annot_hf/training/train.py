"""One run from its recipe to its checkpoint and predictions; finished parts are kept, interrupted ones resumed."""

import dataclasses
import hashlib
import json
import logging
import shutil
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator, PartialState
from scipy.optimize import minimize_scalar
from transformers import set_seed

from annot_hf.data.export import ExportedCorpus, read_export, read_export_facts
from annot_hf.data.folds import find_leaks
from annot_hf.data.rater_facts import describe_columns, encode_raters, read_rater_table
from annot_hf.data.targets import Targets
from annot_hf.models.access import find_folder
from annot_hf.models.adapters import add_lora
from annot_hf.models.configuration_annotator import FINE
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.kde import best_width, cell_masses
from annot_hf.models.losses import EPSILON
from annot_hf.models.measures import cross_entropy, kl, mixture
from annot_hf.models.modeling_annotator import AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio
from annot_hf.models.modeling_log_mel import bound_frames
from annot_hf.models.modeling_opinion import OpinionPreTrainedModel
from annot_hf.models.modeling_seedbert import SeedBert, read_member
from annot_hf.models.outputs import AnnotatorOutput, DistributionOutput, SeedBertOutput
from annot_hf.training.checkpoints import (
    FACTS,
    check_model_folder,
    check_start,
    checkpoints_of,
    held,
    newest_checkpoint,
    read_record,
    record_start,
    save_model,
)
from annot_hf.training.collator import OpinionDataset
from annot_hf.training.datasets import SplitReader, make_split_targets, target_options, vote_views
from annot_hf.training.inputs import make_processor
from annot_hf.training.keys import MEASURES, Recipe
from annot_hf.training.recipe import LALM, LOG_MEL, Run, members_folder
from annot_hf.training.trainer import OpinionTrainer, show_epochs, tell

logger = logging.getLogger(__name__)

# in the folder of a member that failed: the traceback
_FAILED = "failed.txt"


@dataclass(frozen=True)
class TrainingResult:
    """A run's best checkpoint, its measures on the validation split (nats but for the distance) and its `training.json`."""

    model: Path
    metrics: dict[str, float]
    facts: dict[str, Any]


def train(run: Run, *, resume: bool = False, corpus: ExportedCorpus | None = None) -> TrainingResult:
    """Train as the recipe says, and keep the best epoch in `output_dir`/model.

    Independent members of a seedbert model are trained one by one (see `train_members`) and assembled.

    Args:
        run: From `load_recipe`.
        resume: Resume from the newest complete checkpoint in `output_dir`, or start afresh if the only one is incomplete;
            the result equals that of an uninterrupted run. Of independent members, train those that are missing or damaged.
        corpus: The corpus that the recipe names, if it is open already, or a view of it under other splits; read from
            disk by default.

    Raises:
        ValueError: The corpus, the recipe or a checkpoint do not fit together, or another process works in `output_dir`.
    """
    if run.pushes:
        raise ValueError(
            "push_to_hub is true, and train writes to this machine alone; call annot_hf.hub.publish.train_and_push."
        )
    # so that a member's folder is read without its own code
    if corpus is None:
        check_corpus_named(run)
    with held(run.training.output_dir):
        return _train(run, resume, corpus)


def check_corpus_named(run: Run) -> None:
    """Raise unless the recipe names an exported corpus that is there; its tables are not read."""
    if not run.recipe.corpus:
        raise ValueError(
            "The recipe names no corpus; give the folder or Hub id of an exported corpus as --corpus, the key corpus."
        )
    read_export_facts(find_folder(run.recipe.corpus, "dataset"))


def _train(run: Run, resume: bool, corpus: ExportedCorpus | None) -> TrainingResult:
    """Train in a folder that this process has locked."""
    recipe, arguments = run.recipe, run.training
    check_start(run, resume=resume)
    corpus = corpus or read_export(recipe.corpus)
    leaks = find_leaks(corpus.items)
    for column, names in leaks.items():
        logger.warning(
            "%s: %d %ss are in several splits, such as %.80s, so that scores may be too good; divide the corpus by %s.",
            corpus.name,
            len(names),
            column,
            names[0],
            column,
        )
    trunk = record_start(run, corpus, resume=resume)
    set_seed(arguments.seed)
    views, about_votes = vote_views(recipe, corpus, arguments.seed)
    targets = make_split_targets(run, corpus, views)
    if run.members:
        folders = train_members(run, corpus)
        model = SeedBert.from_members(folders, distribution=run.options.get("distribution", "votes"))
        processor = make_processor(model.config.trunk_config, folders[0])
    else:
        model, processor = build_model(run, targets["train"], corpus)
    reader = SplitReader(run, corpus, model, processor)
    datasets, about = reader.datasets(views, targets, resume=resume)
    log_mel = model.config.trunk_config.model_type == LogMelConfig.model_type
    if log_mel and "mel_mean" not in run.trunk_options and not run.members:
        standardise(model, datasets["train"])
    if recipe.scales:
        arguments.label_names = ["labels", "scale_targets"]
    trainer = OpinionTrainer(
        task_schedule=recipe.schedule.tasks if recipe.model == "annotator" else None,
        curriculum=recipe.curriculum if recipe.curriculum.kind else None,
        trunk_learning_rate=recipe.schedule.trunk_rate(arguments.learning_rate),
        model=model,
        args=arguments,
        train_dataset=datasets["train"],
        eval_dataset=datasets["validation"],
        data_collator=reader.collator,
        # saved with every checkpoint, so that each loads by itself
        processing_class=processor,
        callbacks=recipe.schedule.callbacks(),
    )
    # the baseline of every report: the distribution of the training votes, whatever the training target
    marginal = views["train"].targets("train", recipe.question, bins=model.config.bins).probs.mean(0)
    show_epochs(trainer, float(kl(datasets["validation"].targets.probs, marginal + EPSILON).mean()))
    if hasattr(model, "get_base_model"):
        check_sharding(trainer.accelerator)
    if not run.members:
        newest = newest_checkpoint(arguments.output_dir, with_best=arguments.load_best_model_at_end) if resume else None
        # callbacks would see the same validation pass twice
        arguments.eval_on_start &= newest is None
        trainer.train(resume_from_checkpoint=newest and str(newest))
    chosen = choose_on_validation(trainer, recipe, marginal)
    metrics = trainer.evaluate()
    metrics = {name: metrics[f"eval_{name}"] for name in MEASURES if f"eval_{name}" in metrics}
    facts = {
        "corpus": corpus.name,
        "corpus_digest": corpus.digest,
        "origin": dict(corpus.origin),
        **({"part": dict(corpus.part)} if corpus.part else {}),
        "target": targets["train"].method,
        "splits": about["splits"],
        **({"leaks": {column: len(names) for column, names in leaks.items()}} if leaks else {}),
        "marginal": marginal.tolist(),
        **chosen,
        "validation": metrics,
        "recipe": run.values,
        **({"members": run.member_values, "trunks": member_trunks(run, folders)} if recipe.ensemble.recipes else {}),
        **about_votes,
        "trunk": trunk,
        **({"augmentation": about["augmentation"]} if "augmentation" in about else {}),
    }
    folder = Path(arguments.output_dir) / "model"
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    # every process takes part in collecting sharded weights
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if trainer.is_world_process_zero():
        save_model(trainer.accelerator.unwrap_model(trainer.model), processor, facts, folder, weights=weights)
        (Path(arguments.output_dir) / "recipe.yaml").write_text(yaml.safe_dump(run.values, sort_keys=False))
    return TrainingResult(folder, metrics, facts)


def member_runs(run: Run, corpus: ExportedCorpus) -> list[Run]:
    """The run of each independent member, in a folder that is named after what it is."""
    runs = []
    for member in run.members:
        digest = hashlib.sha256(json.dumps(member.identity(corpus), sort_keys=True).encode()).hexdigest()[:12]
        seed = member.training.seed if member.recipe.head_seed is None else member.recipe.head_seed
        runs.append(member.at(members_folder(run) / f"seed{seed}-{digest}"))
    return runs


def train_members(run: Run, corpus: ExportedCorpus) -> list[Path]:
    """Checkpoint folders of the members, in order; those that are missing or damaged are trained, one after the other.

    A member that fails stops no other, except where several processes of `accelerate launch` train each member together.
    """
    runs, state = member_runs(run, corpus), PartialState()
    damage = [_damage(one) for one in runs]
    for one, what in zip(runs, damage, strict=True):
        if what:
            logger.warning("%s is damaged and is trained again: %s", one.training.output_dir, what)
    missing = [one for one, what in zip(runs, damage, strict=True) if what != ""]
    if len(missing) < len(runs):
        logger.warning("%d of %d members are trained already.", len(runs) - len(missing), len(runs))
    # no process may start a member that another one has not looked for yet
    state.wait_for_everyone()
    errors = []
    for number, one in enumerate(missing, start=1):
        if state.is_main_process:
            tell(f"Member {number} of {len(missing)}: {Path(one.training.output_dir).name}")
        errors.append(_train_member(one, corpus))
    failed = [(Path(one.training.output_dir), error) for one, error in zip(missing, errors, strict=True) if error]
    if failed:
        folder, error = failed[0]
        error = error.removesuffix(".")
        more = f" (the traceback is in {folder / _FAILED})" if (folder / _FAILED).is_file() else ""
        raise ValueError(
            f"{len(failed)} of {len(runs)} members failed, the first ({folder.name}) with: {error}{more}; the others are kept "
            f"in {folder.parent}, and --resume trains what is missing."
        )
    folders = [_model(one) for one in runs]
    kept = Counter(trunk for trunk, weights in member_trunks(run, folders) if weights)
    replaced = [trunk for trunk, times in kept.items() if times > 1]
    if replaced:
        raise ValueError(
            f"The weights of {replaced[0]} were replaced between members, so that they form no ensemble; train them "
            "again in another folder."
        )
    return folders


def member_trunks(run: Run, folders: Sequence[Path]) -> list[tuple[str, str | None]]:
    """Name and version of the trunks that the members in these folders started from, each once."""
    records = [read_record(folder / FACTS) or {} for folder in folders]
    names = [one.recipe.trunk for one in run.members]
    return list(dict.fromkeys((name, record.get("trunk")) for name, record in zip(names, records, strict=True)))


def _model(run: Run) -> Path:
    return Path(run.training.output_dir) / "model"


def _damage(run: Run) -> str | None:
    """What is wrong with a saved member; empty if it is whole, None if there is none."""
    folder = _model(run)
    if not (folder / FACTS).is_file():
        return None
    try:
        _, model = read_member(folder, 0)
        make_processor(model.config.trunk_config, folder)
    except ValueError as error:
        return str(error)
    return ""


def _train_member(run: Run, corpus: ExportedCorpus) -> str:
    """Train a member in a folder that this run holds; what went wrong, or nothing."""
    folder, state = Path(run.training.output_dir), PartialState()
    try:
        with held(folder):
            state.wait_for_everyone()
            # unless another run has trained it since
            if _damage(run) != "":
                return _train_held(run, corpus, state)
    except (OSError, ValueError) as error:
        # the other processes may be in the middle of a step, and wait
        if state.num_processes > 1:
            raise
        return str(error)
    return ""


def _train_held(run: Run, corpus: ExportedCorpus, state: PartialState) -> str:
    """Train a member from its newest checkpoint, if it has one, and keep its model alone; what went wrong, or nothing."""
    folder = Path(run.training.output_dir)
    try:
        resume = bool(checkpoints_of(folder))
        # no process may remove what another still looks at
        state.wait_for_everyone()
        if state.is_main_process:
            (folder / _FAILED).unlink(missing_ok=True)
            check_model_folder(_model(run))
            shutil.rmtree(_model(run), ignore_errors=True)
        train(run, resume=resume, corpus=corpus)
        # until the main process has saved the model
        state.wait_for_everyone()
        # optimiser states of many members would not fit on a disk
        for checkpoint in checkpoints_of(folder) if state.is_main_process else ():
            shutil.rmtree(checkpoint)
        state.wait_for_everyone()
    except Exception as error:
        if state.is_main_process:
            try:
                (folder / _FAILED).write_text(traceback.format_exc(), encoding="utf-8")
            except OSError as fault:
                logger.warning("%s cannot be written: %s", folder / _FAILED, fault)
        if state.num_processes > 1:
            raise
        # whatever it is, it is this member's alone
        return f"{type(error).__name__}: {error}"
    return ""


def check_sharding(accelerator: Accelerator) -> None:
    """A ValueError if adapters cannot be trained as `accelerate launch` was told to shard the model."""
    other = "; use ddp.yaml, fsdp2.yaml or deepspeed-zero2.yaml, or train all weights (lora_rank=0)."
    fsdp, deepspeed = getattr(accelerator.state, "fsdp_plugin", None), accelerator.state.deepspeed_plugin
    if fsdp is not None and fsdp.activation_checkpointing:
        raise ValueError(
            "fsdp_activation_checkpointing is true, which draws the dropout of adapters anew in the backward pass and "
            "hides their names from the checkpoint; set it to false and activation_checkpointing to true" + other
        )
    if deepspeed is not None and deepspeed.zero_stage == 3 and accelerator.mixed_precision != "no":
        raise ValueError(
            "DeepSpeed ZeRO 3 takes weights of one precision, and adapters have another than their base" + other
        )


def choose_on_validation(trainer: OpinionTrainer, recipe: Recipe, marginal: np.ndarray) -> dict[str, float]:
    """Choose the share of the marginal in predictions, and put it into the model, and a kernel for consensus answers."""
    config, voted = trainer.model.config, trainer.eval_dataset.targets.probs
    # votes of members or of heads stay as they are
    votes = "votes" in (getattr(config, "distribution", "mean_softmax"), getattr(config, "aggregate", "mean"))
    smooth = recipe.smooth and not votes
    scales = recipe.model == "annotator" and config.is_scale
    if not smooth and not scales:
        return {}
    # members that were trained one by one have shares of their own
    config.marginal_share = 0.0
    outputs = (AnnotatorOutput, DistributionOutput, SeedBertOutput)
    known = {output.name for kind in outputs for output in dataclasses.fields(kind)}
    wanted = ["probs", *(["consensus"] if scales else [])]
    scored, trainer.compute_metrics = trainer.compute_metrics, None
    found = trainer.predict(trainer.eval_dataset, ignore_keys=sorted(known - {*wanted})).predictions
    trainer.compute_metrics = scored
    probs, *consensus = found if isinstance(found, tuple) else (found,)
    facts = {}
    if smooth:
        config.marginal = marginal.tolist()
        facts["marginal_share"] = config.marginal_share = best_share(probs, voted, marginal)
    if scales:
        answers = consensus[0].clip(-1, 1)
        facts["consensus_width"] = width = best_width(answers, voted, bins=config.bins)
        if smooth:
            alone = cell_masses(answers[:, None], bins=config.bins, bandwidth=width).reshape(voted.shape)
            facts["consensus_share"] = best_share(alone, voted, marginal)
    return facts


MODELS = {
    "distribution": DistributionModel,
    "annotator": AnnotatorModel,
    "seedbert": SeedBert,
    LALM: DistributionQwen2Audio,
}


def build_model(run: Run, targets: Targets, corpus: ExportedCorpus) -> tuple[OpinionPreTrainedModel, Any]:
    """The untrained model and its processor."""
    recipe = run.recipe
    if recipe.head_seed is not None:
        set_seed(recipe.head_seed)
    model_class = MODELS[recipe.model]
    options = run.options | target_options(run, targets)
    options["questions"] = [question.to_dict() for question in targets.questions]
    for option, names in (("scale_questions", recipe.scales), ("auxiliary_questions", recipe.auxiliary)):
        if names:
            options[option] = [corpus.votes.question(name).to_dict() for name in names]
    if recipe.model == "annotator":
        answers = np.bincount(targets.ratings.annotator, minlength=len(targets.annotators))
        # those with most answers first
        order = np.argsort(-answers, kind="stable")
        options["annotators"] = [targets.annotators[code] for code in order if answers[code]]
        options |= _rater_facts(recipe.raters, options["annotators"])
        options["levels"] = count_levels(targets)
        options["votes_per_item"] = int(np.percentile(np.bincount(targets.ratings.item), 90))
    adapted = recipe.model != "seedbert" and options.get("lora_rank", model_class.config_class().lora_rank) > 0
    if recipe.model == LALM:
        # only weights that stay as they are may be bfloat16
        dtype = torch.bfloat16 if adapted and run.training.bf16 else torch.float32
        revision = options.pop("lalm_revision", None)
        model = DistributionQwen2Audio.from_lalm(recipe.trunk, revision=revision, dtype=dtype, **options)
    elif recipe.trunk == LOG_MEL:
        model = model_class(model_class.config_class(trunk_config=LogMelConfig(**run.trunk_options), **options))
    else:
        model = model_class.from_trunk(recipe.trunk, **options)
    if adapted:
        model = add_lora(model)
    if model.config.support != targets.support:
        raise ValueError(f"The model's support {model.config.support} is not that of the targets {targets.support}.")
    if recipe.head_seed is not None:
        # everything but the fresh weights follows the other seed
        set_seed(run.training.seed)
    revision = getattr(model.config, "lalm_revision", None)
    limit = recipe.inputs.max_tokens
    return model, make_processor(model.config.trunk_config, recipe.trunk, max_tokens=limit, revision=revision)


def _rater_facts(path: str, annotators: Sequence[str]) -> dict[str, Any]:
    """The options of a model that reads a table of raters; none without one."""
    if not path:
        return {}
    table = read_rater_table(path)
    absent = len(set(annotators) - set(table.index))
    if absent:
        logger.warning("%d of %d raters are not in %s, and count as average.", absent, len(annotators), path)
    columns = describe_columns(table, annotators)
    return {"rater_columns": columns, "rater_facts": encode_raters(table, columns, annotators).tolist()}


def count_levels(targets: Targets) -> list[int]:
    """How many evenly spaced answers each scale question offers: the fewest that hold nearly all votes between its ends."""
    found = []
    for column in targets.ratings.value.T if targets.questions[0].is_scale else ():
        inside = column[abs(column) < 1]
        middle = abs(inside) < 1e-6
        places = {count: (inside + 1) / 2 * (count - 1) for count in range(2, FINE)}
        # the mean of a rater's repeated votes may lie between two answers; a scale's middle alone, which nearly all may
        # choose, tells nothing of the other answers
        fit = {count: abs(place - place.round()) < 1e-6 for count, place in places.items()}
        parts = [part for part in (middle, ~middle) if part.any()]
        fits = [count for count, good in fit.items() if all(good[part].mean() >= 0.95 for part in parts)]
        found.append(min(fits, default=FINE))
    return found


def best_share(probs: np.ndarray, targets: np.ndarray, marginal: np.ndarray) -> float:
    """Share of `marginal` `(K,)` in predictions `(n, K)` with the least cross-entropy of targets `(n, K)`, in [.001, .5]."""

    def loss(share: float) -> float:
        return float(cross_entropy(targets, mixture(probs, marginal, share)).mean())

    return float(minimize_scalar(loss, bounds=(0.001, 0.5), method="bounded", options={"xatol": 1e-4}).x)


def standardise(model: OpinionPreTrainedModel, dataset: OpinionDataset, clips: int = 512) -> None:
    """Set the trunk's per-band mean and deviation from evenly spaced training clips, copies included."""
    rows = np.unique(np.linspace(0, len(dataset.inputs) - 1, min(clips, len(dataset.inputs))).astype(int))
    config, found = model.config.trunk_config, []
    for row in rows:
        frames = torch.from_numpy(dataset.read(dataset.inputs[row]).astype(np.float32))
        found.append(bound_frames(frames, torch.ones(len(frames), dtype=torch.bool), config).double().numpy())
    frames = np.concatenate(found)
    mean, std = frames.mean(0).round(4).tolist(), (frames.std(0) + 1e-3).round(4).tolist()
    for config in (model.config.trunk_config, *(trunk.config for trunk in model.trunks)):
        config.mel_mean, config.mel_std = mean, std
