import math

import pytest
import tiny
import torch
from torch.nn import functional

from annot_hf.models.losses import EPSILON

LABELS = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]])


@pytest.mark.parametrize("pooling", ["mean", "first", "attention", "tcgru"])
@pytest.mark.parametrize("kind", tiny.TRUNKS)
def test_batching_does_not_change_a_prediction(kind, pooling):
    model, lengths = tiny.distribution(kind, pooling=pooling), tiny.lengths(kind)
    batch = tiny.inputs(kind, lengths, width=max(lengths) + 29)
    together = model(**batch).probs
    torch.testing.assert_close(together.sum(1), torch.ones(3))
    for row, length in enumerate(lengths):
        alone = model(**{name: value[row : row + 1, :length] for name, value in batch.items()}).probs
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-6)


def test_stretched_scales_are_those_of_the_authors_in_the_loss_and_ours_outside():
    """(r - 4) / 2, clipped, in the loss; the mean rating on the scale's own [-1, 1] in what is predicted."""
    options = {"scale_questions": [{"name": name, "low": 1, "high": 7} for name in "vad"], "scale_weight": 1.0}
    plain, stretched = (tiny.distribution(**options, scale_stretch=stretch) for stretch in (1.0, 1.5))
    ratings = torch.tensor([[1.0, 2.0, 2.5], [4.0, 5.0, 6.0], [6.5, 7.0, torch.nan]])
    inputs = tiny.inputs("log-mel", tiny.lengths("log-mel"))
    before, after = (model(**inputs, scale_targets=(ratings - 4) / 3) for model in (plain, stretched))
    torch.testing.assert_close(1.5 * after.scale_mean, before.scale_mean)  # the same weights
    torch.testing.assert_close(after.scale_log_variance, before.scale_log_variance - 2 * math.log(1.5))
    theirs = ((ratings - 4) / 2).clip(-1, 1)
    torch.testing.assert_close(after.loss, plain(**inputs, scale_targets=theirs).loss)
    assert abs(float(after.loss - before.loss)) > 1e-3
    for stretch in (0.9, -1.5, float("nan"), "1.5"):
        with pytest.raises(ValueError, match="scale_stretch is"):
            tiny.distribution(scale_stretch=stretch)


@pytest.mark.parametrize("kind", ["kl", "cross_entropy", "jsd"])
def test_loss_of_the_configuration_is_used(kind):
    model = tiny.distribution(loss=kind)
    output = model(**tiny.inputs("log-mel", [30, 20, 10]), labels=LABELS)
    probs = functional.softmax(output.logits, -1) + EPSILON
    middle, batchmean = ((probs + LABELS) / 2).log(), {"reduction": "batchmean"}
    expected = {
        "kl": functional.kl_div(probs.log(), LABELS, reduction="batchmean"),
        "cross_entropy": functional.cross_entropy(output.logits, LABELS),
        "jsd": 0.5 * functional.kl_div(middle, probs, **batchmean)
        + 0.5 * functional.kl_div(middle, LABELS, **batchmean),
    }[kind]
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-6)
    assert model(**tiny.inputs("log-mel", [30, 20, 10])).loss is None


def test_scales_give_a_grid_of_named_cells():
    model = tiny.distribution(questions=tiny.SCALES, bins=2)
    assert model.config.support[1] == "activation 1/2, valence 2/2"
    assert model(**tiny.inputs("log-mel", [30])).probs.shape == (1, 4)
    assert tiny.distribution().config.support == ("angry", "happy", "sad")


@pytest.mark.parametrize("kind", tiny.TRUNKS)
def test_bfloat16_autocast_keeps_probabilities_and_loss_in_single_precision(kind):
    model = tiny.distribution(kind).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**tiny.inputs(kind, tiny.lengths(kind)), labels=LABELS)
    assert output.probs.dtype == output.loss.dtype == torch.float32
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("kind", ["wavlm", "bert"])
def test_gradient_checkpointing_changes_no_gradient(kind):
    gradients = []
    for checkpointing in (False, True):
        model = tiny.distribution(kind, dropout=0.0, pooling="mean")
        if checkpointing:
            model.gradient_checkpointing_enable()
        for (
            module
        ) in model.modules():  # the trunk's own dropout, but training mode, without which nothing is checkpointed
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.trunk.config.mask_time_prob = 0.0
        model.train()
        for module in model.modules():
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        model(**tiny.inputs(kind, tiny.lengths(kind)), labels=LABELS).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", tiny.TRUNKS)
def test_a_frozen_trunk_neither_learns_nor_changes_its_statistics(kind):
    model = tiny.distribution(kind, freeze_trunk=True)
    model.trunk.requires_grad_(False)
    before = {name: value.clone() for name, value in model.trunk.state_dict().items()}
    model.train()
    assert model.embedding.training and not model.trunk.training
    model(**tiny.inputs(kind, tiny.lengths(kind)), labels=LABELS).loss.backward()
    assert all(parameter.grad is None for parameter in model.trunk.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.trunk.state_dict().items())
    assert tiny.distribution(kind).train().trunk.training


def test_every_weight_learns():
    """A weight without a gradient stops distributed training."""
    for kind in tiny.TRUNKS:
        model = tiny.distribution(kind).train()
        model(**tiny.inputs(kind, tiny.lengths(kind)), labels=LABELS).loss.backward()
        idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        assert idle <= {"trunk.masked_spec_embed"}


def test_first_without_an_embedding_is_a_linear_layer_on_the_cls_token():
    model = tiny.distribution("bert", pooling="first", embedding_kind="none")
    inputs = tiny.inputs("bert", tiny.lengths("bert"))
    first = model.trunk(**inputs).last_hidden_state[:, 0]
    torch.testing.assert_close(model(**inputs).logits, model.head(first))
    assert not list(model.embedding.parameters())


@pytest.mark.parametrize("make", [tiny.distribution, tiny.annotator])
def test_a_share_of_the_marginal_is_in_every_prediction_but_not_while_training(make, tmp_path):
    marginal = torch.tensor([0.7, 0.2, 0.1])
    inputs, questions = tiny.inputs("log-mel", [30, 20, 10]), [{"name": "emotion", "labels": ["angry", "happy", "sad"]}]
    plain = make(questions=questions)
    smoothed = make(questions=questions, marginal=marginal.tolist(), marginal_share=0.25)
    expected = 0.75 * plain(**inputs).probs + 0.25 * marginal
    torch.testing.assert_close(smoothed(**inputs).probs, expected)
    smoothed.save_pretrained(tmp_path)
    torch.testing.assert_close(type(smoothed).from_pretrained(tmp_path)(**inputs).probs, expected)
    found = []
    for model in (plain, smoothed):
        torch.manual_seed(0)
        found.append(model.train()(**inputs).probs)
    torch.testing.assert_close(*found)


def test_a_share_needs_a_marginal():
    for share, marginal in ((1.0, [0.5, 0.3, 0.2]), (-0.1, None), (0.1, None), (0.1, [0.5, 0.5])):
        with pytest.raises(ValueError, match="marginal"):
            tiny.distribution(marginal_share=share, marginal=marginal)
