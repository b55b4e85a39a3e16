"""Trains a tiny model with a CCC loss, in one process or in several."""

import tempfile

import numpy as np
import tiny
import torch
from torch.utils.data import SequentialSampler
from transformers import TrainingArguments

from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.training.collator import OpinionDataset, VoteCollator
from annot_hf.training.trainer import OpinionTrainer


class InOrder(OpinionTrainer):
    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


def dataset():
    rng = np.random.default_rng(3)
    question = Question.category("emotion", ["angry", "happy", "sad"])
    rows = [(f"item{i}", f"r{r}", question.labels[rng.integers(3)]) for i in range(12) for r in range(5)]
    item, rater, value = zip(*rows, strict=True)
    targets = make_targets(VoteTable.from_columns(question, item=item, annotator=rater, value=value), "emotion")
    waves, scales = rng.normal(size=(12, 800)).astype(np.float32), rng.uniform(-1, 1, (12, 2))
    return OpinionDataset(targets, waves, lambda wave: wave, [800] * 12, scales=scales)


def model():
    """Without anything at random, so that the order of processes cannot matter."""
    found = tiny.distribution("wavlm-layer", loss="ccc", scale_questions=tiny.SCALES, dropout=0.0, pooling="mean")
    for module in found.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    for name in ("mask_time_prob", "mask_feature_prob", "layerdrop"):
        setattr(found.trunk.config, name, 0.0)
    found.trunk.masked_spec_embed.requires_grad_(False)
    return found


def train_with_ccc(batch_size, steps):
    """How many processes took part, the loss of each step, and a checksum of the weights."""
    trained = model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            remove_unused_columns=False,
            label_names=["labels", "scale_targets"],
            num_train_epochs=2,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            logging_steps=1,
            ddp_find_unused_parameters=False,
        )
        collator = VoteCollator("input_values")
        trainer = InOrder(model=trained, args=arguments, train_dataset=dataset(), data_collator=collator)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    weight = sum(float(parameter.detach().double().abs().sum()) for parameter in trained.parameters())
    return {"processes": trainer.accelerator.num_processes, "weight": weight, "losses": losses}
