import contextlib
import copy
import functools

import audmetric
import numpy as np
import pytest
import scipy.spatial
import scipy.stats
import tiny
import torch
from safetensors.torch import load_file
from tiny_qwen2_audio import CHAT_TEMPLATE, make_tokenizer, tiny_config
from torch.utils.data import SequentialSampler
from transformers import (
    EvalPrediction,
    Qwen2AudioProcessor,
    Trainer,
    TrainingArguments,
    WhisperFeatureExtractor,
    set_seed,
)

from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.models.configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio
from annot_hf.training.collator import BucketSampler, OpinionDataset, VoteCollator
from annot_hf.training.schedules import EntropyCurriculum, Schedule, StagedLearning
from annot_hf.training.trainer import DenseAndSparse, EffectiveBatch, OpinionTrainer, distribution_metrics

RATERS = [f"r{number}" for number in range(8)]
TRAINED = RATERS[:6]
# nothing at random in training
RANDOM = ("mask_time_prob", "mask_feature_prob", "conv_dropout", "gain_jitter", "tilt_jitter", "speed_jitter")
PLAIN = tiny.trunk_config("log-mel").to_diff_dict() | dict.fromkeys(RANDOM, 0.0)
QUIET = {"dropout": 0.0, "pooling_dropout": 0.0, "trunk": tiny.LogMelConfig(**PLAIN)}


def scale_votes(raters, items=12):
    rng = np.random.default_rng(0)
    rows = [
        (f"item{item}", rater, question, int(rng.integers(1, 6)))
        for item in range(items)
        for rater in rng.choice(raters, 3, replace=False)
        for question in ("activation", "valence")
    ]
    item, rater, question, value = zip(*rows, strict=True)
    questions = [Question.scale("activation", 1, 5), Question.scale("valence", 1, 5)]
    return VoteTable.from_columns(questions, item=item, annotator=rater, question=question, value=value)


@pytest.fixture(scope="module")
def dataset():
    """Twelve items of unequal length, each rated by three of six raters; the model knows eight."""
    targets = make_targets(scale_votes(TRAINED), ["activation", "valence"], "kde")
    draw = torch.Generator().manual_seed(0)
    frames = [(10 + 4 * torch.randn(20 + 3 * row, 8, generator=draw)).numpy() for row in range(len(targets))]
    return OpinionDataset(targets, frames, lambda frame: frame, [len(frame) for frame in frames], annotators=RATERS)


def trainer_for(model, dataset, folder, *, task_schedule=None, kind=OpinionTrainer, **arguments):
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    panel = len(model.config.annotators) if hasattr(model.config, "annotators") else None
    return kind(
        task_schedule=task_schedule,
        model=model,
        args=TrainingArguments(**settings | arguments),
        train_dataset=dataset,
        eval_dataset=dataset,
        data_collator=VoteCollator("input_features", panel=panel),
    )


def annotator(**options):
    return tiny.annotator(**QUIET | {"annotators": RATERS, "rating_loss": "mse"} | options)


def manual_loop(model, dataset, tasks, epochs=2, clip=1.0):
    """The schedule of arXiv 2408.11956, written out."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)  # Adam would blow up the rounding of gradients that are 0
    collator = VoteCollator("input_features", panel=len(RATERS))
    model.train()
    for epoch in range(epochs):
        sampler = BucketSampler(dataset.lengths, 4, seed=42)
        sampler.set_epoch(epoch)
        order = list(sampler)
        for start in range(0, len(order), 4):
            batch = collator([dataset[row] for row in order[start : start + 4]])
            for task in tasks:
                model(**batch, task=task).loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimiser.step()
                optimiser.zero_grad()
    return model


def assert_same_weights(found, expected, **tolerance):
    for (name, value), other in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize(
    ("schedule", "tasks"),
    [
        ("alternate", ["ratings", "distribution"]),
        ("joint", ["both"]),
        ("ratings", ["ratings"]),
        ("distribution", ["distribution"]),
    ],
)
def test_schedules_against_a_loop_written_out(schedule, tasks, dataset, tmp_path):
    model = annotator()
    expected = manual_loop(copy.deepcopy(model), dataset, tasks)
    trainer_for(model, dataset, tmp_path, task_schedule=schedule, optim="sgd", learning_rate=0.1).train()
    assert_same_weights(model, expected, rtol=1e-3, atol=1e-5)
    if schedule == "alternate":  # the order of the two steps matters
        with pytest.raises(AssertionError):
            assert_same_weights(manual_loop(annotator(), dataset, tasks[::-1]), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("schedule", ["alternate", "joint", "ratings", "distribution"])
def test_the_validation_loss_is_the_sum_of_the_tasks_that_are_learned(schedule, dataset, tmp_path):
    model = annotator(distribution_weight=0.3)
    found = trainer_for(model, dataset, tmp_path, task_schedule=schedule, per_device_eval_batch_size=12).evaluate()
    batch = VoteCollator("input_features", panel=len(RATERS))([dataset[row] for row in range(len(dataset))])
    tasks = ["ratings", "distribution"] if schedule in ("alternate", "joint") else [schedule]
    expected = sum(float(model(**batch, task=task).loss) for task in tasks)
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("members", ["independent", "shared"])
def test_every_trunk_of_an_ensemble_has_the_trunks_rate(members, dataset, tmp_path):
    model = tiny.seedbert("log-mel", questions=tiny.SCALES, members=members, **QUIET)
    before = {name: value.clone() for name, value in model.named_parameters()}
    kind = functools.partial(OpinionTrainer, trunk_learning_rate=0.0)
    trainer = trainer_for(model, dataset, tmp_path, kind=kind)
    trainer.train()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert not {name for name in moved if "trunk" in name} and {f"members.{n}.head.weight" for n in range(3)} <= moved
    found = trainer.evaluate()
    probs = model.eval()(**VoteCollator("input_features").pad([dataset.read(frame) for frame in dataset.inputs])).probs
    assert found["eval_jsd"] == pytest.approx(jsd_of(probs.detach().numpy(), dataset.targets.probs), rel=1e-3)


def jsd_of(probs, labels):
    return np.mean(scipy.spatial.distance.jensenshannon(probs, labels, axis=1) ** 2)


def test_alternating_tasks_cannot_accumulate(dataset, tmp_path):
    with pytest.raises(ValueError, match="gradient_accumulation_steps is 2; alternating tasks step on every batch"):
        trainer_for(annotator(), dataset, tmp_path, task_schedule="alternate", gradient_accumulation_steps=2)
    trainer_for(annotator(), dataset, tmp_path, task_schedule="joint", gradient_accumulation_steps=2)


class InOrder(OpinionTrainer):
    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


def test_accumulated_batches_equal_a_large_one(dataset, tmp_path):
    """The trap: a model whose forward takes loss arguments gets a gradient that is too large by the number of steps."""
    found = {}
    for batch_size, steps in ((4, 1), (2, 2), (1, 4)):
        model = tiny.distribution(questions=tiny.SCALES, pooling="mean", **QUIET)
        for module in model.modules():  # batch norm is the one thing that may depend on the batch
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = 0.0
        model.config.freeze_trunk = True  # which keeps it in evaluation mode, but still learning
        arguments = {
            "optim": "sgd",
            "learning_rate": 0.5,
            "num_train_epochs": 1,
            "max_grad_norm": 0.0,
            "logging_steps": 1,
        }
        trainer = trainer_for(
            model,
            dataset,
            tmp_path,
            kind=InOrder,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            **arguments,
        )
        trainer.train()
        found[steps] = (model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    for steps in (2, 4):
        assert found[steps][1] == pytest.approx(found[1][1], abs=1e-4)
        assert_same_weights(found[steps][0], found[1][0], rtol=1e-4, atol=1e-5)


def test_the_order_changes_with_the_epoch(dataset, tmp_path):
    read = []

    class Recorded(OpinionDataset):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    recorded = copy.copy(dataset)
    recorded.__class__ = Recorded
    trainer_for(
        annotator(),
        recorded,
        tmp_path,
        task_schedule="joint",
        num_train_epochs=3,
        seed=5,
        per_device_train_batch_size=2,
    ).train()
    epochs = [read[start : start + 12] for start in (0, 12, 24)]
    sampler = BucketSampler(dataset.lengths, 2, seed=5)
    for epoch, order in enumerate(epochs):
        sampler.set_epoch(epoch)
        assert order == list(sampler)
    assert len({tuple(order) for order in epochs}) == 3


def test_metrics_are_the_measures():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), 30), rng.dirichlet(np.ones(5), 30)
    q[0] = np.eye(5)[0]
    expected = {
        "cross_entropy": -(q * np.log(p)).sum(1).mean(),
        "kl": (q * np.log(q.clip(1e-300) / p)).sum(1).mean(),
        "macro_f1": audmetric.unweighted_average_fscore(q.argmax(1), p.argmax(1), labels=list(range(5))),
        "jsd": (scipy.spatial.distance.jensenshannon(p, q, axis=1) ** 2).mean(),
        "tvd": 0.5 * abs(p - q).sum(1).mean(),
    }
    for predictions in (p, (p, rng.random(3))):
        assert distribution_metrics(EvalPrediction(predictions, q)) == pytest.approx(expected, abs=1e-5)
    means, ratings = rng.normal(size=(2, 30, 2))
    ratings[:5, 1] = np.nan
    agreed = [
        audmetric.concordance_cc(ratings[:, 0], means[:, 0]),
        audmetric.concordance_cc(ratings[5:, 1], means[5:, 1]),
    ]
    found = distribution_metrics(EvalPrediction((p, means), (q, ratings)))
    assert found == pytest.approx(expected | {"ccc": np.mean(agreed)}, abs=1e-5)


def test_evaluation_equals_the_measures_of_the_model(dataset, tmp_path):
    model = annotator()
    found = trainer_for(model, dataset, tmp_path, per_device_eval_batch_size=5).evaluate()
    collator = VoteCollator("input_features", panel=len(RATERS))
    with torch.inference_mode():
        batch = collator([dataset[row] for row in range(len(dataset))])
        probs = model.eval()(**batch).probs.numpy()
    expected = distribution_metrics(EvalPrediction(probs, dataset.targets.probs))
    assert {name: found[f"eval_{name}"] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_evaluation_gathers_the_distributions_only(dataset, tmp_path):
    """Pairs vary in number from batch to batch, which several processes could not gather."""
    for model in (annotator(), tiny.distribution(questions=tiny.SCALES, **QUIET)):
        found = trainer_for(model, dataset, tmp_path).predict(dataset).predictions
        assert isinstance(found, np.ndarray) and found.shape == (12, 16)


def test_sparse_tables_learn_as_dense_ones_and_absent_raters_stay_where_they_are(dataset, tmp_path):
    models = {}
    for sparse in (False, True):
        model = models[sparse] = annotator(sparse_raters=sparse)
        before = [heads.table.detach().clone() for heads in model.raters]
        trainer = trainer_for(model, dataset, tmp_path, task_schedule="alternate", max_grad_norm=0.0, weight_decay=0.0)
        trainer.train()
    assert isinstance(trainer.optimizer.optimizer, DenseAndSparse)
    for table, heads in zip(before, models[True].raters, strict=True):
        moved = (heads.table != table).any(1).tolist()
        assert moved == [True] * 6 + [False] * 2
    # a rater who is absent from a batch moves on by momentum in the one and not in the other: close, not equal
    for dense, rows in zip(models[False].raters, models[True].raters, strict=True):
        torch.testing.assert_close(dense.table, rows.table, rtol=0, atol=0.05)
    trainer_for(
        annotator(sparse_raters=True), dataset, tmp_path, task_schedule="joint", lr_scheduler_type="cosine"
    ).train()


def test_dense_and_sparse_are_adam_when_every_row_is_there():
    """Both parts follow Adam, the schedule reaches both, and the state survives a checkpoint."""

    def parts():
        torch.manual_seed(0)
        return torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))

    def optimiser_of(table, weight):
        dense = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.0}], lr=0.1)
        return DenseAndSparse(dense, torch.optim.SparseAdam([table], lr=0.1))

    def steps(table, weight, optimiser, schedule, count, *, sparse):
        for _ in range(count):
            rows = torch.nn.functional.embedding(torch.tensor([0, 1, 2, 3, 1]), table, sparse=sparse)
            ((rows * weight).sum(1) ** 2).sum().backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()

    table, weight = parts()
    optimiser = optimiser_of(table, weight)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.5)
    steps(table, weight, optimiser, schedule, 3, sparse=True)
    saved = copy.deepcopy((optimiser.state_dict(), schedule.state_dict(), table.data, weight.data))
    steps(table, weight, optimiser, schedule, 2, sparse=True)

    other_table, other_weight = parts()
    adam = torch.optim.AdamW([other_weight, other_table], lr=0.1, weight_decay=0.0)
    steps(other_table, other_weight, adam, torch.optim.lr_scheduler.ExponentialLR(adam, 0.5), 5, sparse=False)
    torch.testing.assert_close((table.data, weight.data), (other_table.data, other_weight.data), rtol=1e-4, atol=1e-5)

    again_table, again_weight = (torch.nn.Parameter(value.clone()) for value in saved[2:])
    again = optimiser_of(again_table, again_weight)
    again_schedule = torch.optim.lr_scheduler.ExponentialLR(again, 0.5)
    again.load_state_dict(saved[0])
    again_schedule.load_state_dict(saved[1])
    steps(again_table, again_weight, again, again_schedule, 2, sparse=True)
    assert torch.equal(again_table, table) and torch.equal(again_weight, weight)


def speech_batches(sizes, seed=0):
    """Micro-batches of waveforms with distributions and scale ratings, some of which are missing."""
    draw = torch.Generator().manual_seed(seed)
    batches = []
    for size in sizes:
        ratings = torch.randn(size, 2, generator=draw)
        ratings[0, 1] = torch.nan
        batches.append(
            {
                "input_values": torch.randn(size, 800, generator=draw),
                "attention_mask": torch.ones(size, 800, dtype=torch.long),
                "labels": torch.rand(size, 3, generator=draw).softmax(-1),
                "scale_targets": ratings,
            }
        )
    return batches


def speech_model(**options):
    options = {"loss": "ccc", "scale_questions": tiny.SCALES, "dropout": 0.3, "pooling": "mean"} | options
    return tiny.distribution("wavlm-layer", **options)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_effective_batch_gives_the_gradient_of_all_items_together():
    batches, model = speech_batches([4, 4, 3]), speech_model().train()
    set_seed(5)
    effective = EffectiveBatch(model, model, batches, context=contextlib.nullcontext)
    for batch in batches:
        effective.surrogate(batch).backward()
    after, found = torch.get_rng_state(), gradients(model)
    model.zero_grad()
    set_seed(5)  # the same dropout, all at once in memory
    outputs = [model(input_values=b["input_values"], attention_mask=b["attention_mask"]) for b in batches]
    names = ("probs", "scale_mean", "scale_log_variance")
    joined = {name: torch.cat([output[name] for output in outputs]) for name in names}
    given = {name: torch.cat([batch[name] for batch in batches]) for name in ("labels", "scale_targets")}
    loss = model.loss_of(joined, given)
    loss.backward()
    assert torch.equal(after, torch.get_rng_state())
    torch.testing.assert_close(effective.loss, loss.detach())
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)
    alone = [model.loss_of(o, b) for o, b in zip(outputs, batches, strict=True)]
    assert abs(float(sum(alone)) / 3 - float(loss)) > 1e-3  # the mean over micro-batches is another loss


def test_effective_batch_leaves_running_statistics_to_the_second_pass():
    model, twin = (tiny.distribution("log-mel", loss="ccc", **{"dropout": 0.0}).train() for _ in range(2))
    draw = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_features": torch.randn(3, 40, 8, generator=draw) + 10,
            "labels": torch.rand(3, 3, generator=draw).softmax(-1),
        }
        for _ in range(2)
    ]
    torch.manual_seed(1)
    effective = EffectiveBatch(model, model, batches, context=contextlib.nullcontext)
    for batch in batches:
        effective.surrogate(batch)
    torch.manual_seed(1)
    for batch in batches:
        twin(**batch)
    torch.testing.assert_close(model.trunk.norms[0].running_mean, twin.trunk.norms[0].running_mean)


@pytest.fixture(scope="module")
def labelled():
    """Twelve clips of equal length with category targets."""
    rng = np.random.default_rng(3)
    question = Question.category("emotion", ["angry", "happy", "sad"])
    rows = [(f"item{i}", f"r{r}", question.labels[rng.integers(3)]) for i in range(12) for r in range(5)]
    item, rater, value = zip(*rows, strict=True)
    targets = make_targets(VoteTable.from_columns(question, item=item, annotator=rater, value=value), "emotion")
    waves = rng.normal(size=(12, 800)).astype(np.float32)
    scales = rng.uniform(-1, 1, (12, 2))
    return OpinionDataset(targets, waves, lambda wave: wave, [800] * 12, scales=scales)


def speech_trainer(model, dataset, folder, *, curriculum=None, trunk_learning_rate=None, callbacks=None, **arguments):
    settings = {
        "output_dir": str(folder),
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "label_names": ["labels", "scale_targets"],
        "logging_steps": 1,
        "num_train_epochs": 1,
    }
    return InOrder(
        curriculum=curriculum,
        trunk_learning_rate=trunk_learning_rate,
        model=model,
        args=TrainingArguments(**settings | arguments),
        train_dataset=dataset,
        eval_dataset=dataset,
        callbacks=callbacks,
        data_collator=VoteCollator("input_values"),
    )


QUIET_SPEECH = {"dropout": 0.0, "head": "linear"}


def quiet_speech_model(**options):
    model = speech_model(**QUIET_SPEECH | options)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in (
        "mask_time_prob",
        "mask_feature_prob",
        "hidden_dropout",
        "attention_dropout",
        "feat_proj_dropout",
        "layerdrop",
    ):
        setattr(model.trunk.config, name, 0.0)
    for module in model.trunk.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    return model


def test_ccc_over_accumulated_batches_equals_one_large_batch(labelled, tmp_path):
    found = {}
    for size, steps in ((12, 1), (4, 3), (5, 3)):
        model = quiet_speech_model()
        trainer = speech_trainer(
            model, labelled, tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps
        )
        trainer.train()
        found[size] = model, trainer.state.log_history[0]["loss"]
    for size in (4, 5):
        assert_same_weights(found[size][0], found[12][0], rtol=1e-4, atol=1e-6)
        assert found[size][1] == pytest.approx(found[12][1], abs=1e-4)
    start = quiet_speech_model()
    with pytest.raises(AssertionError):
        assert_same_weights(start, found[12][0], rtol=1e-4, atol=1e-6)


def test_curriculum_against_a_loop_written_out(labelled, tmp_path):
    curriculum = EntropyCurriculum("filter", by="batch", epochs=(1, 2), shares=(0.25, 0.75))
    options = {"loss": "kl", "scale_questions": []}
    model = quiet_speech_model(**options)
    expected = copy.deepcopy(model).train()
    speech_trainer(
        model,
        labelled,
        tmp_path,
        curriculum=curriculum,
        per_device_train_batch_size=4,
        num_train_epochs=2,
        label_names=["labels"],
    ).train()
    optimiser = torch.optim.SGD(expected.parameters(), lr=0.1)
    labels = torch.from_numpy(labelled.targets.probs).float()
    waves = torch.from_numpy(labelled.inputs)
    for kept in (1, 3):
        for start in range(0, 12, 4):
            part = labels[start : start + 4]
            rows = start + torch.special.entr(part).sum(1).argsort(stable=True)[:kept]
            loss = expected(input_values=waves[rows], labels=labels[rows]).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    assert_same_weights(model, expected, rtol=1e-3, atol=1e-6)


def test_trunk_and_heads_have_their_own_rates(labelled, tmp_path):
    model = quiet_speech_model()
    trainer = speech_trainer(model, labelled, tmp_path, trunk_learning_rate=1e-3, weight_decay=0.5)
    groups = trainer.create_optimizer().param_groups
    trunk = {id(parameter) for parameter in model.trunk.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for group in groups:
        inside = {id(parameter) in trunk for parameter in group["params"]}
        assert inside == {group["name"] == "trunk"}
        assert group["lr"] == (1e-3 if group["name"] == "trunk" else 0.1)
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.0, 0.5, 0.5]


def test_staged_trunk_starts_frozen_and_learns_later(labelled, tmp_path):
    moved = {}
    for epochs in (1, 2):
        model = quiet_speech_model()
        before = copy.deepcopy(model.trunk.state_dict())
        staging = StagedLearning(Schedule(unfreeze_epochs=[1], unfreeze_layers=[1]))
        speech_trainer(model, labelled, tmp_path, callbacks=[staging], num_train_epochs=epochs).train()
        moved[epochs] = {
            name for name, value in model.trunk.state_dict().items() if not torch.equal(value, before[name])
        }
    assert not moved[1]
    assert moved[2] and all(name.startswith("encoder.layers.1.") for name in moved[2])


def test_effective_batch_of_raters_on_a_category(dataset):
    """Answers are probabilities outside and scores inside the model; the loss over all items needs the scores."""
    options = {"questions": tiny.CATEGORY, "annotators": RATERS, "loss": "ccc", "dropout": 0.0}
    model = tiny.annotator("wavlm-layer", **options).train()
    draw = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_values": torch.randn(3, 800, generator=draw),
            "pair_item": torch.tensor([0, 0, 1, 2]),
            "pair_annotator": torch.tensor([0, 1, 2, 0]),
            "ratings": torch.randint(3, (4, 1), generator=draw).float(),
            "labels": torch.rand(3, 3, generator=draw).softmax(-1),
            "task": "both",
        }
        for _ in range(2)
    ]
    set_seed(2)
    effective = EffectiveBatch(model, model, batches, context=contextlib.nullcontext)
    set_seed(2)
    outputs = [model(**{k: v for k, v in batch.items() if k not in model.loss_inputs}) for batch in batches]
    joined = {
        name: torch.cat([output[name] for output in outputs]) for name in ("probs", "consensus_logits", "rating_logits")
    }
    joined["pair_item"] = torch.cat([batches[0]["pair_item"], batches[1]["pair_item"] + 3])
    given = {name: torch.cat([batch[name] for batch in batches]) for name in ("ratings", "labels")}
    torch.testing.assert_close(effective.loss, model.loss_of(joined, given | {"task": "both"}).detach())
    torch.testing.assert_close(joined["rating_logits"].softmax(-1), torch.cat([output.ratings for output in outputs]))


def make_lalm(kind):
    config = DistributionQwen2AudioConfig(
        lalm_config=tiny_config(make_tokenizer()), questions=tiny.CATEGORY, attention_heads=2
    )
    return DistributionQwen2Audio(config)


BESIDE = {"scale_questions": tiny.SCALES, "auxiliary_questions": tiny.CATEGORY, "disagreement": "entropy"}
STOCK = {
    "distribution": tiny.distribution,
    "beside": functools.partial(tiny.distribution, **BESIDE),
    "bayesian": functools.partial(tiny.distribution, head="bayesian", kl_weight=0.01),
    "annotator": tiny.annotator,
    "seedbert": tiny.seedbert,
    "lalm": make_lalm,
}


def stock_batch(name, model, kind, size=6):
    if name == "lalm":
        extractor = WhisperFeatureExtractor(feature_size=128)
        processor = Qwen2AudioProcessor(extractor, make_tokenizer(), chat_template=CHAT_TEMPLATE)
        batch = dict(model.prepare(processor, [np.ones(8000, np.float32)] * size))
    else:
        batch = tiny.inputs(kind, [max(tiny.lengths(kind))] * size)
    if name == "beside":
        batch |= {"scale_targets": torch.zeros(size, 2), "auxiliary_targets": torch.full((size, 3), 1 / 3)}
        batch["disagreement_targets"] = torch.full((size,), 0.5)
    return batch | {"labels": torch.rand(size, len(model.config.support)).softmax(-1)}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for kind in ("bert", "log-mel") for name in STOCK if (name, kind) != ("lalm", "bert")],
)
def test_the_librarys_own_trainer_evaluates_and_keeps_the_best(name, kind, tmp_path):
    """Without `label_names`: it takes every argument of `forward` with "label" in its name for one that must be there."""
    model = STOCK[name](kind)
    batch, seen = stock_batch(name, model, kind), []
    rows = [{key: value[row] for key, value in batch.items()} for row in range(6)]
    arguments = TrainingArguments(
        str(tmp_path),
        num_train_epochs=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="seen",
        greater_is_better=False,  # the first epoch is the best
        per_device_eval_batch_size=4,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=lambda found: seen.append(found) or {"seen": float(len(seen))},
    )
    trainer.train()
    best = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    for key, weight in model.state_dict().items():
        torch.testing.assert_close(weight, best[key], rtol=0, atol=0)
    numbers = trainer.evaluate()
    with torch.inference_mode():
        output = model.eval()(**batch)
    *_, found = seen
    np.testing.assert_allclose(found.predictions[0] if name == "beside" else found.predictions, output.probs, atol=1e-5)
    np.testing.assert_allclose(found.label_ids, batch["labels"])
    rounded = 0.3 if name == "beside" else 1e-4  # its CCC sees batches of 4 and 2
    assert numbers["eval_loss"] == pytest.approx(float(output.loss), rel=rounded)
