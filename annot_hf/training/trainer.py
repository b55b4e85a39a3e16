"""The stock Trainer with what opinion needs: batches of like length, alternating tasks, measures, and a line an epoch."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object, send_to_device
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from annot_hf.models.heads import BayesianLinear, RaterHeads
from annot_hf.models.losses import EPSILON
from annot_hf.models.measures import ccc, class_counts, closed_gap, cross_entropy, jsd, kl, macro_f1_of, tvd
from annot_hf.models.modeling_opinion import OpinionPreTrainedModel
from annot_hf.training.collator import GROUP, TEXT_GROUP, BucketSampler
from annot_hf.training.schedules import HEADS, TRUNK, EntropyCurriculum, finished_epochs, normalised_entropy

_EPOCH_COLUMNS = {"epoch": 7, "training loss": 15, "validation JSD": 16, "gap closed": 12, "time left": 16}


class OpinionTrainer(Trainer):
    """`Trainer` whose train set is an `OpinionDataset`.

    `task_schedule` is `Schedule.tasks` for annotator models, None for others; None also stands for items of equal weight and
    for a trunk that learns at the rate of the heads.
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
        return BucketSampler(
            dataset.lengths_in,
            self.args.train_batch_size,
            seed=self.args.seed,
            group=group,
            with_epoch=dataset.changes,
        )

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The stock ones, but for Bayesian layers: they have a prior, and a decayed rho is a larger deviation."""
        bayesian = [name for name, module in model.named_modules() if isinstance(module, BayesianLinear)]
        return [name for name in super().get_decay_parameter_names(model) if name.rpartition(".")[0] not in bayesian]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The stock optimiser, with `SparseAdam` for rater tables that have sparse gradients."""
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        tables = [module.table for module in model.modules() if isinstance(module, RaterHeads) and module.sparse]
        dense = super().create_optimizer(model)
        if self.trunk_learning_rate is not None:
            _split_trunk(dense, model, self.trunk_learning_rate)
        if tables:
            for group in dense.param_groups:
                _take_out(group, tables)
            args = self.args
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
        first = super().training_step(model, self._with_extras(inputs, "ratings"), num_items_in_batch)
        if self.args.max_grad_norm:
            self._clip_grad_norm(model)
        self.optimizer.step()
        model.zero_grad()
        return first + super().training_step(model, self._with_extras(inputs, "distribution"), num_items_in_batch)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The stock ones; a loss that compares items with each other is prepared for all of the step's items."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        core = self.accelerator.unwrap_model(self.model_wrapped)
        several = len(batches) > 1 or self.accelerator.num_processes > 1
        spans = core.loss_spans_batch and several and self.task_schedule != "alternate"
        self._effective = batches if spans and batches else None
        return batches, count

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], **kwargs: Any) -> Any:
        """The stock loss, or this micro-batch's part of the loss over the effective batch; that of all tasks in validation."""
        if not model.training and self.task_schedule is not None:
            inputs = {**inputs, "task": self._task}
        if self._effective is None or not model.training:
            return super().compute_loss(model, inputs, **kwargs)
        if isinstance(self._effective, list):
            # the first of the step
            self._effective = EffectiveBatch(
                model,
                self.accelerator.unwrap_model(model),
                [self._prepare_inputs(self._with_extras(batch)) for batch in self._effective],
                processes=self.accelerator.num_processes,
                rank=self.accelerator.process_index,
                context=self.compute_loss_context_manager,
            )
        surrogate = self._effective.surrogate(inputs)
        parts = self.current_gradient_accumulation_steps
        # the stock step divides by the number of parts; their gradients are to be added up, their values averaged
        return surrogate.detach() + parts * (surrogate - surrogate.detach())

    @property
    def _task(self) -> str:
        return "both" if self.task_schedule in ("joint", "alternate") else self.task_schedule

    def _with_extras(self, inputs: dict[str, Any], task: str | None = None) -> dict[str, Any]:
        """A batch with the weights of its items and the task to learn, that of the schedule by default."""
        extras: dict[str, Any] = {}
        if self.curriculum is not None:
            epoch = finished_epochs(self.state) + 1
            extras["item_weights"] = self.curriculum.weights(inputs["labels"], epoch, self._entropies)
        if self.task_schedule is not None:
            extras["task"] = task or self._task
        return {**inputs, **extras}

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        return super()._clip_grad_norm(_without_sparse(model))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return super()._get_grad_norm(_without_sparse(model), grad_norm)


class EffectiveBatch:
    """A loss that compares the items of a batch, over all micro-batches of one optimiser step.

    CCC over 4 micro-batches of 8 items is not the mean of their 4 CCCs. The step's items are first predicted without
    gradients, their common loss gives the gradient of every prediction, and a second pass takes each micro-batch's part back
    to the weights. `model` may be wrapped for several processes, `core` is the model itself, `context` for instance autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        core: OpinionPreTrainedModel,
        batches: Sequence[dict[str, Any]],
        *,
        processes: int = 1,
        rank: int = 0,
        context: Callable[[], Any],
    ) -> None:
        self.model, self.core = model, core
        self._states, self._next = [], 0
        predicted, given = [], []
        with torch.no_grad(), _frozen_statistics(core):
            for batch in batches:
                self._states.append(_random_state())
                with context():
                    output = self._predict(batch)
                predicted.append({name: value.detach() for name, value in output.items() if name != "loss"})
                given.append({name: batch[name] for name in core.loss_inputs if batch.get(name) is not None})
        self.loss, self._gradients = self._loss_of_all(predicted, given, processes, rank)

    def surrogate(self, batch: dict[str, Any]) -> torch.Tensor:
        """A scalar whose gradient is the next micro-batch's part of the step's, and whose value is the step's loss."""
        _restore(self._states[self._next])
        output = self._predict(batch)
        part = sum((output[name].float() * gradient).sum() for name, gradient in self._gradients[self._next].items())
        self._next += 1
        return part - part.detach() + self.loss

    def _predict(self, batch: dict[str, Any]) -> Any:
        return self.model(**{name: value for name, value in batch.items() if name not in self.core.loss_inputs})

    def _loss_of_all(
        self, predicted: list[dict[str, Any]], given: list[dict[str, Any]], processes: int, rank: int
    ) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
        """Loss of all items together, and its gradient in each of this process's predictions."""
        leaves = [
            {
                name: part[name].float().requires_grad_() if part[name].is_floating_point() else part[name]
                for name in part
            }
            for part in predicted
        ]
        parts, targets = leaves, given
        if processes > 1:
            device = next(iter(leaves[0].values())).device
            shared = gather_object([send_to_device((predicted, given), "cpu")])
            parts, targets = [], []
            for other, (their_parts, their_targets) in enumerate(shared):
                parts += leaves if other == rank else send_to_device(their_parts, device)
                targets += given if other == rank else send_to_device(their_targets, device)
        with torch.enable_grad():
            loss = self.core.loss_of(_join(parts), _join(targets))
            loss.backward(inputs=[value for part in leaves for value in part.values() if value.requires_grad])
        # wrapped models average the processes' gradients; these are parts of one sum
        gradients = [
            {name: value.grad * processes for name, value in part.items() if value.grad is not None} for part in leaves
        ]
        return loss.detach(), gradients


def _join(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch of several."""
    joined: dict[str, Any] = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if not isinstance(first, torch.Tensor):
            joined[name] = first
            continue
        # indexes the items of its micro-batch
        if name == "pair_item":
            sizes = [len(part["probs"]) for part in parts]
            values = [value + sum(sizes[:index]) for index, value in enumerate(values)]
        joined[name] = torch.cat(values)
    return joined


@contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Keep batch norm's running statistics as they are; the second pass updates them."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _random_state() -> tuple[Any, ...]:
    """State of every generator that a forward pass uses: SpecAugment of the wav2vec 2.0 family uses NumPy's."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), np.random.get_state(), random.getstate(), devices  # noqa: NPY002


def _restore(state: tuple[Any, ...]) -> None:
    host, numbers, plain, devices = state
    torch.set_rng_state(host)
    np.random.set_state(numbers)  # noqa: NPY002
    random.setstate(plain)
    if devices:
        torch.cuda.set_rng_state_all(devices)


class EpochOfSampler(TrainerCallback):
    """Start afresh: the sampler's epoch, which the stock loop does not set after resuming, and the model's own choices."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the best checkpoint so far in this folder, which may have been moved since."""
        best = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        if best.is_dir():
            state.best_model_checkpoint = str(best)
        # a share that was chosen for other weights
        kwargs["model"].config.marginal_share = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Set the epoch of the sampler, which may be wrapped to split batches among processes."""
        batches = train_dataloader.batch_sampler
        sampler = getattr(batches, "batch_sampler", batches).sampler
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(finished_epochs(state))


def _split_trunk(optimizer: torch.optim.Optimizer, model: nn.Module, rate: float) -> None:
    """Give the trunk's parameters groups of their own, with their own learning rate."""
    weights = [parameter for trunk in model.trunks for parameter in trunk.parameters()]
    for group in list(optimizer.param_groups):
        inside = _take_out(group, weights)
        group["name"] = HEADS
        if inside:
            rest = {name: value for name, value in group.items() if name not in ("params", "name", "lr")}
            optimizer.add_param_group({"params": inside, "name": TRUNK, "lr": rate, **rest})


def _take_out(group: dict[str, Any], parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Remove these parameters from a parameter group; those that were in it."""
    chosen = {id(parameter) for parameter in parameters}
    inside = [parameter for parameter in group["params"] if id(parameter) in chosen]
    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
    return inside


class DenseAndSparse(torch.optim.Optimizer):
    """Two optimisers behind one: one list of parameter groups for the schedule, one state for the checkpoint."""

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
    """`MEASURES` of a validation pass: means over items (nats but for TVD), macro-F1 over labels, mean CCC of scales."""
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


def tell(line: str) -> None:
    """Print a line, above the bars that are shown, if there are any."""
    tqdm.write(line)


def show_epochs(trainer: Trainer, marginal_kl: float) -> None:
    """Have a trainer show an `EpochTable`; `marginal_kl` (nats) is that of the validation targets from the marginal."""
    for stock in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(stock)
    trainer.add_callback(EpochTable(marginal_kl))


class EpochTable(TrainerCallback):
    """A line for each validation pass, or each logged loss without any, and in a terminal a bar of the steps."""

    def __init__(self, marginal_kl: float) -> None:
        self.marginal_kl, self.bar, self.loss = marginal_kl, None, None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print the head of the table."""
        if not state.is_world_process_zero:
            return
        self.begun, self.first, self.loss = time.monotonic(), state.global_step, None
        # one for every checkpoint that is saved would stand between the lines
        self.bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        tell("".join(name.rjust(width) for name, width in _EPOCH_COLUMNS.items()))
        # none where no terminal is
        quiet = args.disable_tqdm or None
        self.bar = tqdm(total=state.max_steps, initial=self.first, unit="step", leave=False, disable=quiet)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Keep the training loss; without validation passes it is a line."""
        self.loss = (logs or {}).get("loss", self.loss)
        if args.eval_strategy == "no" and "loss" in (logs or {}):
            self._show(state, {})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Print a line; not after training, when the best epoch is measured once more."""
        self._show(state, metrics or {})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            if self.bars:
                logging.enable_progress_bar()
        self.bar = None

    def _show(self, state: Any, metrics: Mapping[str, float]) -> None:
        if self.bar is None:
            return
        done = state.global_step - self.first
        left = (time.monotonic() - self.begun) / done * (state.max_steps - state.global_step) if done else None
        gap = float(closed_gap(metrics["eval_kl"], self.marginal_kl)) if "eval_kl" in metrics else float("nan")
        cells = (
            f"{state.epoch or 0:.3g}",
            "–" if self.loss is None else f"{self.loss:.4f}",
            f"{metrics['eval_jsd']:.4f}" if "eval_jsd" in metrics else "–",
            "–" if gap != gap else f"{round(gap, 1) + 0:.1f} %",
            "–" if left is None else str(timedelta(seconds=round(left))),
        )
        tell("".join(cell.rjust(width) for cell, width in zip(cells, _EPOCH_COLUMNS.values(), strict=True)))
