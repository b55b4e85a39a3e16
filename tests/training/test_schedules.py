from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers import get_constant_schedule

from annot_hf.training.recipe import load_recipe
from annot_hf.training.schedules import HEADS, TRUNK, Schedule, StagedLearning, encoder_layers, newbob_factor


def newbob_written_out(losses, factor=0.9, threshold=0.0025):
    rate, previous = 1.0, None
    for loss in losses:
        if previous is not None and not previous - loss >= threshold * abs(previous):
            rate *= factor
        previous = loss
    return rate


@pytest.mark.parametrize(
    "losses", [[], [1.0], [1.0, 0.9], [1.0, 0.999], [1.0, 1.2, 1.1], [2.0, 2.0, 2.0, 1.0, 0.9999], [1.0, 0.9975]]
)
def test_newbob(losses):
    assert newbob_factor(losses) == pytest.approx(newbob_written_out(losses))


def test_newbob_s_threshold_is_a_share_of_the_loss_before():
    assert newbob_factor([100.0, 99.9]) == pytest.approx(0.9) and newbob_factor([100.0, 99.0]) == 1
    assert newbob_factor([1.0, 0.75], threshold=0.25) == 1 == newbob_factor([0.0, -1.0])


def test_newbob_with_negative_losses_and_without_numbers():
    assert newbob_factor([-1, -2, -3]) == 1
    assert newbob_factor([-3, -2, -1]) == pytest.approx(0.81)
    assert newbob_factor([-1, -1.001]) == pytest.approx(0.9)  # better by .001, which is less than .0025 of 1
    assert newbob_factor([-1, -1.003]) == 1
    assert newbob_factor([1.0, float("nan"), 0.5]) == pytest.approx(0.81)


def staged(**options):
    return StagedLearning(Schedule(**options))


class Stage:
    """What a Trainer hands to its callbacks, epoch by epoch."""

    def __init__(self, callback, layers=4):
        self.callback = callback
        self.model = tiny.distribution(trunk=tiny.WavLMConfig(**tiny._WAVEFORM | {"num_hidden_layers": layers}))
        trunk, heads = list(self.model.trunk.parameters()), list(self.model.head.parameters())
        groups = [{"params": heads, "lr": 1e-2, "name": HEADS}, {"params": trunk, "lr": 1e-3, "name": TRUNK}]
        self.optimizer = torch.optim.SGD(groups)
        self.scheduler = get_constant_schedule(self.optimizer)
        self.state = SimpleNamespace(epoch=0.0, log_history=[])

    def epoch(self, loss):
        """Rates in the middle of an epoch, and trainable layers; then its validation."""
        kwargs = {"model": self.model, "optimizer": self.optimizer, "lr_scheduler": self.scheduler}
        self.callback.on_epoch_begin(None, self.state, None, **kwargs)
        self.optimizer.step()
        self.scheduler.step()
        rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        layers = [all(p.requires_grad for p in layer.parameters()) for layer in encoder_layers(self.model.trunk)]
        front = any(p.requires_grad for p in self.model.trunk.feature_extractor.parameters())
        self.state.epoch += 1
        self.state.log_history.append({"eval_loss": loss})
        self.callback.on_evaluate(None, self.state, None, **kwargs)
        return rates, layers, front


STAGES = {"unfreeze_epochs": [1, 2, 4], "unfreeze_layers": [1, 2, 9], "unfreeze_factors": [1.0, 0.9, 0.5]}


def test_the_trunk_thaws_from_the_top_and_its_front_end_never():
    stage = Stage(staged(**STAGES))
    seen = [stage.epoch(1.0)[1:] for _ in range(6)]
    assert [sum(layers) for layers, _ in seen] == [0, 1, 2, 2, 4, 4]
    assert seen[2][0] == [False, False, True, True]
    assert not any(front for _, front in seen)
    assert all(parameter.requires_grad for parameter in stage.model.head.parameters())


def test_the_packaged_stages_train_layers_from_the_first_epoch():
    stage = Stage(StagedLearning(load_recipe("uncertainty").recipe.schedule), layers=12)
    seen = [sum(stage.epoch(1.0)[1]) for _ in range(9)]
    assert seen == [2, 4, 4, 8, 8, 8, 8, 12, 12]


@pytest.mark.parametrize(
    "newbob, trunk", [("compose", [1, 1, 0.9, 0.9 * 0.9, 0.5 * 0.9]), ("overwrite", [1, 1, 0.9, 0.9, 0.5 * 0.9])]
)
def test_newbob_with_stages_as_corrected_and_as_published(newbob, trunk):
    stage = Stage(staged(newbob=newbob, **STAGES))
    rates = [stage.epoch(loss)[0] for loss in (1.0, 0.9, 0.9, 0.8, 0.7)]  # the third is no better than the second
    assert [rate[HEADS] for rate in rates] == pytest.approx([1e-2, 1e-2, 1e-2, 0.9e-2, 0.9e-2])
    assert [rate[TRUNK] for rate in rates] == pytest.approx([1e-3 * factor for factor in trunk])


@pytest.mark.parametrize("newbob", ["", "compose", "overwrite"])
def test_rates_of_every_step_and_after_every_evaluation(newbob):
    """Two evaluations an epoch under a falling schedule; the log's epochs are rounded."""
    factors = [1, 0.8, 0.3]
    callback = staged(
        newbob=newbob,
        newbob_factor=0.5,
        newbob_threshold=0.1,
        unfreeze_epochs=[1, 2],
        unfreeze_layers=[1, 2],
        unfreeze_factors=factors[1:],
    )
    stage = Stage(callback)
    stage.scheduler = torch.optim.lr_scheduler.LambdaLR(stage.optimizer, lambda step: 0.9**step)
    kwargs = {"model": stage.model, "optimizer": stage.optimizer, "lr_scheduler": stage.scheduler}
    losses = iter([1.0, 0.95, 0.5, 0.47, 0.2, 0.1])  # the second and the fourth improve by less than a tenth
    shared = iter([1, 0.5, 0.5, 0.25, 0.25, 0.25])
    share, steps = 1, 0

    def check(trunk):
        expected = [1e-2 * share * 0.9**steps, 1e-3 * share * trunk * 0.9**steps]
        assert [group["lr"] for group in stage.optimizer.param_groups] == pytest.approx(expected)

    for epoch, factor in enumerate(factors):
        stage.state.epoch = epoch - 1e-9 if epoch else None
        callback.on_epoch_begin(None, stage.state, None, **kwargs)
        check(factor)
        for part in (0.5, 1):
            stage.optimizer.step()
            stage.scheduler.step()
            steps += 1
            check(factor)
            stage.state.epoch = epoch + part + 1e-9
            stage.state.log_history += [{"loss": 9.0}, {"eval_loss": next(losses)}]
            callback.on_evaluate(None, stage.state, None, **kwargs)
            share = next(shared) if newbob else 1
            factor = 1 if newbob == "overwrite" else factor
            check(factor)


def test_an_evaluation_before_and_outside_of_training_changes_nothing():
    stage = Stage(staged(newbob="compose", unfreeze_epochs=[1], unfreeze_layers=[1], unfreeze_factors=[0.5]))
    stage.callback.on_evaluate(None, SimpleNamespace(epoch=None, log_history=[]), None, model=stage.model)
    kwargs = {"model": stage.model, "optimizer": stage.optimizer}
    stage.callback.on_evaluate(None, stage.state, None, **kwargs)
    stage.callback.on_evaluate(None, stage.state, None, **kwargs, lr_scheduler=stage.scheduler)
    assert [group["lr"] for group in stage.optimizer.param_groups] == [1e-2, 1e-3]


def test_a_wrapped_model_thaws_and_rates_of_zero_stay():
    stage = Stage(staged(unfreeze_epochs=[0], unfreeze_layers=[2]))
    stage.optimizer.param_groups[1].update(initial_lr=0.0, lr=0.0)
    stage.scheduler.base_lrs[1] = 0.0
    kwargs = {"model": SimpleNamespace(module=stage.model), "optimizer": stage.optimizer}
    stage.callback.on_epoch_begin(None, stage.state, None, **kwargs, lr_scheduler=stage.scheduler)
    layers = [layer.parameters() for layer in encoder_layers(stage.model.trunk)]
    assert [all(p.requires_grad for p in layer) for layer in layers] == [False, False, True, True]
    assert [group["lr"] for group in stage.optimizer.param_groups] == [1e-2, 0.0]


def test_stages_without_factors_keep_the_rate():
    stage = Stage(staged(unfreeze_epochs=[0, 1], unfreeze_layers=[1, 2]))
    assert [stage.epoch(1.0)[0][TRUNK] for _ in range(3)] == [1e-3] * 3


def test_going_on_from_a_log_gives_the_same_rates():
    whole = Stage(staged(newbob="compose", **STAGES))
    losses = [1.0, 1.0, 0.9, 0.9, 0.9]
    expected = [whole.epoch(loss) for loss in losses]
    resumed = Stage(staged(newbob="compose", **STAGES))
    resumed.state.epoch, resumed.state.log_history = 3.0, [{"eval_loss": loss} for loss in losses[:3]]
    assert [resumed.epoch(loss) for loss in losses[3:]] == expected[3:]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"unfreeze_epochs": [1, 2], "unfreeze_layers": [2]}, "for each the number of top layers"),
        ({"unfreeze_epochs": [1], "unfreeze_layers": [-1]}, "each stage trains at least one of the top layers"),
        ({"unfreeze_epochs": [2, 1], "unfreeze_layers": [2, 4]}, "ascending epochs"),
        ({"newbob": "compose", "newbob_factor": 0}, "newbob_factor is 0 and"),
        ({"newbob": "compose", "newbob_factor": 1}, "newbob_factor is 1 and"),
        ({"newbob": "compose", "newbob_factor": 1.5}, "a factor between 0 and 1"),
        ({"newbob": "compose", "newbob_threshold": -0.1}, "newbob_threshold -0.1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        staged(**options)


def test_a_threshold_of_zero_is_allowed():
    assert staged(newbob="compose", newbob_threshold=0.0).schedule.newbob_threshold == 0


def test_a_trunk_without_layers_cannot_thaw():
    with pytest.raises(ValueError, match="no transformer layers"):
        encoder_layers(tiny.distribution("log-mel").trunk)
