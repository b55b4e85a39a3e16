"""The stock Trainer with what opinion needs: bucketed batches, alternating tasks, measures of distributions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from annot_hf.models.heads import BayesianLinear, RaterHeads
from annot_hf.models.losses import EPSILON
from annot_hf.models.measures import ccc, class_counts, cross_entropy, jsd, kl, macro_f1_of, tvd
from annot_hf.training.collator import GROUP, TEXT_GROUP, BucketSampler
from annot_hf.training.effective_batch import EffectiveBatch
from annot_hf.training.schedules import HEADS, TRUNK, EntropyCurriculum, normalised_entropy


class OpinionTrainer(Trainer):
    """`Trainer` whose train set is an `OpinionDataset`.

    Args:
        task_schedule: "alternate" takes an optimiser step on the raters' answers and then one on the distribution, for
            every batch (arXiv 2408.11956); "joint" adds the losses; "ratings" and "distribution" learn one alone.
            Only annotator models have a schedule; None for others.
        curriculum: Weights of the items in the distribution's loss, by epoch; all the same when None.
        trunk_learning_rate: Learning rate of the trunk; that of the heads when None.
        **kwargs: Arguments of `Trainer`.
    """

    def __init__(
        self,
        *,
        task_schedule: str | None = None,
        curriculum: EntropyCurriculum | None = None,
        trunk_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(compute_metrics=distribution_metrics, **kwargs)
        self.add_callback(EpochOfSampler())
        self.task_schedule, self.curriculum, self.trunk_learning_rate = task_schedule, curriculum, trunk_learning_rate
        self._effective: EffectiveBatch | None = None
        self._entropies = None
        if curriculum is not None:
            self._entropies = normalised_entropy(torch.from_numpy(self.train_dataset.targets.probs))
            if self._entropies.max() - self._entropies.min() < 1e-6:
                raise ValueError(
                    f"All {len(self._entropies)} training targets have the same entropy, which gives a curriculum nothing to "
                    "order them by; choose a target that keeps disagreement, such as soft, or remove curriculum.kind."
                )
        if task_schedule == "alternate" and self.args.gradient_accumulation_steps > 1:
            raise ValueError(
                f"gradient_accumulation_steps is {self.args.gradient_accumulation_steps}; alternating tasks step on every "
                'batch, so set it to 1, or set schedule.tasks to "joint".'
            )

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """The stock one with a generator of its own: persistent workers draw seeds less often than new ones."""
        loader = super()._get_dataloader(*args, **kwargs)
        if self.args.dataloader_persistent_workers:
            loader.base_dataloader.generator = torch.Generator().manual_seed(self.args.seed)
        return loader

    def _run_epoch(self, **kwargs: Any) -> None:
        """The stock epoch; skipped where a resumed run had already ended inside it."""
        self.control.should_training_stop |= self.state.global_step >= self.state.max_steps
        if not self.control.should_training_stop:
            super()._run_epoch(**kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The stock checkpoint; old ones are removed by step, and not by a clock that may have been set back."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(self.args.output_dir, limit, self.state.best_model_checkpoint)

    def _get_train_sampler(self, train_dataset: Any = None) -> BucketSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        core = self.accelerator.unwrap_model(self.model)
        group = TEXT_GROUP if core.main_input_name == "input_ids" else GROUP
        perturbed = dataset.perturbation is not None
        return BucketSampler(
            dataset.lengths, self.args.train_batch_size, seed=self.args.seed, group=group, with_epoch=perturbed
        )

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The stock ones, but for Bayesian layers: they have a prior, and a decayed rho is a larger deviation."""
        bayesian = [name for name, module in model.named_modules() if isinstance(module, BayesianLinear)]
        return [name for name in super().get_decay_parameter_names(model) if name.rpartition(".")[0] not in bayesian]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The stock optimiser, with `SparseAdam` for rater tables that have sparse gradients."""
        if self.optimizer is None:
            modules = (self.model if model is None else model).modules()
            tables = [module.table for module in modules if isinstance(module, RaterHeads) and module.sparse]
            dense = super().create_optimizer(model)
            if self.trunk_learning_rate is not None:
                _split_trunk(dense, self.model if model is None else model, self.trunk_learning_rate)
            if tables:
                args, apart = self.args, {id(table) for table in tables}
                for group in dense.param_groups:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in apart]
                betas = (args.adam_beta1, args.adam_beta2)
                sparse = torch.optim.SparseAdam(tables, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon)
                self.optimizer = DenseAndSparse(dense, sparse)
        return self.optimizer

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One step; under "alternate" the first task's optimiser step happens here, the second's in the usual place."""
        if self.task_schedule != "alternate":
            return super().training_step(model, self._with_extras(inputs), num_items_in_batch)
        inputs = self._with_extras(inputs)
        first = super().training_step(model, {**inputs, "task": "ratings"}, num_items_in_batch)
        if self.args.max_grad_norm:
            self._clip_grad_norm(model)
        self.optimizer.step()
        model.zero_grad()
        return first + super().training_step(model, {**inputs, "task": "distribution"}, num_items_in_batch)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The stock ones; a loss that compares items with each other is prepared for all of the step's items."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        core = self.accelerator.unwrap_model(self.model_wrapped)
        processes = self.accelerator.num_processes
        alone = len(batches) == 1 and processes == 1
        self._effective = None
        if core.loss_spans_batch and not alone and self.task_schedule != "alternate" and batches:
            self._effective = batches
        return batches, count

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], **kwargs: Any) -> Any:
        """The stock loss, or this micro-batch's part of the loss over the effective batch; that of all tasks in validation."""
        if not model.training and self.task_schedule is not None:
            inputs = {**inputs, "task": self._task}
        if self._effective is None or not model.training:
            return super().compute_loss(model, inputs, **kwargs)
        core = self.accelerator.unwrap_model(model)
        if isinstance(self._effective, list):
            # the first of the step
            self._effective = EffectiveBatch(
                model,
                core,
                [self._prepare_inputs(self._with_extras(batch)) for batch in self._effective],
                processes=self.accelerator.num_processes,
                rank=self.accelerator.process_index,
                context=self.compute_loss_context_manager,
            )
        surrogate = self._effective.surrogate(model, core, inputs)
        parts = self.current_gradient_accumulation_steps
        # the stock step divides by the number of parts; their gradients are to be added up, their values averaged
        return surrogate.detach() + parts * (surrogate - surrogate.detach())

    @property
    def _task(self) -> str:
        return "both" if self.task_schedule in ("joint", "alternate") else self.task_schedule

    def _with_extras(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What `training_step` adds to a batch."""
        extras = {} if self.curriculum is None else {"item_weights": self._item_weights(inputs)}
        return {**inputs, **extras} if self.task_schedule is None else {**inputs, **extras, "task": self._task}

    def _item_weights(self, inputs: dict[str, Any]) -> torch.Tensor:
        epoch = int((self.state.epoch or 0) + 1e-6) + 1
        return self.curriculum.weights(inputs["labels"], epoch, self._entropies)

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        return super()._clip_grad_norm(_without_sparse(model))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return super()._get_grad_norm(_without_sparse(model), grad_norm)


class EarlyStopping(TrainerCallback):
    """Stop training after so many validation passes without a new best, as the library's callback does.

    It counts in the log of the run alone, so that a resumed run stops where an uninterrupted one does.

    Args:
        patience: Validation passes.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the passes since the best one, those before an interruption included."""
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        # a pass before the first step chooses no checkpoint
        found = [entry[name] for entry in state.log_history if name in entry and entry["step"]]
        worse = [math.inf if math.isnan(value) else -value if args.greater_is_better else value for value in found]
        if worse and len(worse) - 1 - worse.index(min(worse)) >= self.patience:
            control.should_training_stop = True

    on_evaluate = on_train_begin


class EpochOfSampler(TrainerCallback):
    """Set the sampler's epoch, which the stock loop does not where several processes resume inside an epoch."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the best checkpoint so far in this folder, which may have been moved since."""
        best = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        if best.is_dir():
            state.best_model_checkpoint = str(best)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Set the epoch of the sampler, which may be wrapped to split batches among processes."""
        batches = train_dataloader.batch_sampler
        sampler = getattr(batches, "batch_sampler", batches).sampler
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(int((state.epoch or 0) + 1e-6))


def _split_trunk(optimizer: torch.optim.Optimizer, model: nn.Module, rate: float) -> None:
    """Give the trunk's parameters groups of their own, with their own learning rate."""
    trunk = {id(parameter) for trunk in model.trunks for parameter in trunk.parameters()}
    for group in list(optimizer.param_groups):
        inside = [parameter for parameter in group["params"] if id(parameter) in trunk]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in trunk]
        group["name"] = HEADS
        if inside:
            rest = {name: value for name, value in group.items() if name not in ("params", "name", "lr")}
            optimizer.add_param_group({"params": inside, "name": TRUNK, "lr": rate, **rest})


class DenseAndSparse(torch.optim.Optimizer):
    """Two optimisers behind one: one list of parameter groups for the schedule, one state for the checkpoint.

    A step of `SparseAdam` reads and writes only the rows of raters in the batch; it has no weight decay.

    Args:
        dense: Optimiser of the parameters with ordinary gradients.
        sparse: Optimiser of those with sparse gradients.
    """

    def __init__(self, dense: torch.optim.Optimizer, sparse: torch.optim.SparseAdam) -> None:
        self.parts = {dense: len(dense.param_groups), sparse: len(sparse.param_groups)}
        super().__init__([*dense.param_groups, *sparse.param_groups], {})

    def step(self, closure: None = None) -> None:
        """One step of each."""
        groups = list(self.param_groups)
        for part, count in self.parts.items():
            part.param_groups, groups = groups[:count], groups[count:]
            part.state = self.state
            part.step()


def _without_sparse(model: nn.Module) -> nn.ParameterList:
    """Parameters whose gradients have a norm to clip; the size of a sparse one means nothing to `SparseAdam`."""
    grads = ((parameter, parameter.grad) for parameter in model.parameters())
    return nn.ParameterList(parameter for parameter, grad in grads if grad is None or not grad.is_sparse)


def distribution_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """What a validation pass reports, one reference for every loss: the validation set's target distributions.

    Means over items of cross-entropy, KL and JSD (nats) and of TVD, macro-F1 against the plurality over all labels, and
    with further scale questions, the mean of their CCCs.
    """
    probs, labels = evaluation.predictions, evaluation.label_ids
    probs, *scales = probs if isinstance(probs, tuple) else (probs,)
    labels, *ratings = labels if isinstance(labels, tuple) else (labels,)
    counts = class_counts(probs.argmax(-1), labels.argmax(-1), labels.shape[-1]).sum(0)
    found = {
        "cross_entropy": float(cross_entropy(labels, probs + EPSILON).mean()),
        "kl": float(kl(labels, probs + EPSILON).mean()),
        "jsd": float(jsd(probs, labels).mean()),
        "tvd": float(tvd(probs, labels).mean()),
        "macro_f1": float(macro_f1_of(counts)),
    }
    if scales and ratings:
        found["ccc"] = float(ccc(scales[0].T, ratings[0].T, mask=~np.isnan(ratings[0].T)).mean())
    return found
