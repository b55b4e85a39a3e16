"""The stock Trainer with what opinion needs: bucketed batches, alternating tasks, measures of distributions."""

from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction, Trainer

from annot_hf.models.heads import RaterHeads
from annot_hf.models.measures import cross_entropy, jsd, tvd
from annot_hf.training.collator import BucketSampler


class OpinionTrainer(Trainer):
    """`Trainer` whose train set is an `OpinionDataset`.

    Args:
        task_schedule: "alternate" takes an optimiser step on the raters' answers and then one on the distribution, for
            every batch (arXiv 2408.11956); "joint" adds the losses; "ratings" and "distribution" learn one alone.
            Only annotator models have a schedule; None for others.
        **kwargs: Arguments of `Trainer`.
    """

    def __init__(self, *, task_schedule: str | None = None, **kwargs: Any) -> None:
        super().__init__(compute_metrics=distribution_metrics, **kwargs)
        self.task_schedule = task_schedule
        if task_schedule == "alternate" and self.args.gradient_accumulation_steps > 1:
            raise ValueError(
                f"gradient_accumulation_steps is {self.args.gradient_accumulation_steps}; alternating tasks step on every "
                'batch, so set it to 1, or set task_schedule to "joint".'
            )

    def _get_train_sampler(self, train_dataset: Any = None) -> BucketSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return BucketSampler(dataset.lengths, self.args.train_batch_size, seed=self.args.seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The stock optimiser, with `SparseAdam` beside it for rater tables that have sparse gradients."""
        if self.optimizer is None:
            modules = (self.model if model is None else model).modules()
            tables = [module.table for module in modules if isinstance(module, RaterHeads) and module.sparse]
            dense = super().create_optimizer(model)
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
        if self.task_schedule is None:
            return super().training_step(model, inputs, num_items_in_batch)
        if self.task_schedule != "alternate":
            task = "both" if self.task_schedule == "joint" else self.task_schedule
            return super().training_step(model, {**inputs, "task": task}, num_items_in_batch)
        first = super().training_step(model, {**inputs, "task": "ratings"}, num_items_in_batch)
        if self.args.max_grad_norm:
            self._clip_grad_norm(model)
        self.optimizer.step()
        model.zero_grad()
        return first + super().training_step(model, {**inputs, "task": "distribution"}, num_items_in_batch)

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        return super()._clip_grad_norm(_without_sparse(model))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return super()._get_grad_norm(_without_sparse(model), grad_norm)


class DenseAndSparse(torch.optim.Optimizer):
    """Two optimisers behind one: one list of parameter groups for the schedule, one state for the checkpoint.

    A step of `SparseAdam` reads and writes only the rows of raters who are in the batch; it knows no weight decay.

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
    """Means over the evaluation set, in nats but for the distance: cross-entropy, JSD and TVD of the predictions."""
    probs, labels = evaluation.predictions, evaluation.label_ids
    probs = probs[0] if isinstance(probs, tuple) else probs
    return {
        "cross_entropy": float(cross_entropy(labels, probs + 1e-8).mean()),
        "jsd": float(jsd(probs, labels).mean()),
        "tvd": float(tvd(probs, labels).mean()),
    }
