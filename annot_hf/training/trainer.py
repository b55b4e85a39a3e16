"""The stock Trainer with what opinion needs: bucketed batches, alternating tasks, measures of distributions."""

from typing import Any

import torch
from transformers import EvalPrediction, Trainer

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
        return BucketSampler(dataset.lengths, self.args.per_device_train_batch_size, seed=self.args.seed)

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
            self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        model.zero_grad()
        return first + super().training_step(model, {**inputs, "task": "distribution"}, num_items_in_batch)


def distribution_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """Means over the evaluation set, in nats but for the distance: cross-entropy, JSD and TVD of the predictions."""
    probs, labels = evaluation.predictions, evaluation.label_ids
    probs = probs[0] if isinstance(probs, tuple) else probs
    return {
        "cross_entropy": float(cross_entropy(labels, probs + 1e-8).mean()),
        "jsd": float(jsd(probs, labels).mean()),
        "tvd": float(tvd(probs, labels).mean()),
    }
