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
