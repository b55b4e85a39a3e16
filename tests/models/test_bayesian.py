"""The Bayesian head: a posterior that is learnt, draws that repeat, and a divergence that counts once."""

import math
from contextlib import nullcontext

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from annot_hf.models.heads import BayesianLinear
from annot_hf.models.losses import distribution_loss
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.training.trainer import EffectiveBatch

LABELS = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]])
OPTIONS = {"head": "bayesian", "kl_weight": 0.01, "bayesian_samples": 7}
INPUTS = tiny.inputs("bert", tiny.lengths("bert"))


def layer(width=5, outputs=3, **options):
    torch.manual_seed(0)
    found = BayesianLinear(width, outputs, **options)
    torch.nn.init.normal_(found.mu)
    torch.nn.init.normal_(found.rho)
    return found


def test_its_divergence_is_the_mean_log_ratio_of_posterior_and_prior():
    """Closed form against Monte Carlo, and against the formula written out."""
    found = layer(prior_std=0.7)
    mu, std = found.mu.detach().double(), functional.softplus(found.rho.detach().double())
    weights = mu + std * torch.randn(100_000, *mu.shape, dtype=torch.float64)
    log_ratio = -0.5 * ((weights - mu) / std) ** 2 - std.log() + 0.5 * (weights / 0.7) ** 2 + math.log(0.7)
    assert float(found.kl().detach()) == pytest.approx(float(log_ratio.sum((1, 2)).mean()), rel=0.01)
    by_hand = (math.log(0.7) - std.log() + (std**2 + mu**2) / (2 * 0.7**2) - 0.5).sum()
    assert float(found.kl().detach()) == pytest.approx(float(by_hand), rel=1e-5)
    torch.nn.init.zeros_(found.mu)
    torch.nn.init.constant_(found.rho, math.log(math.expm1(0.7)))
    assert float(found.kl().detach()) == pytest.approx(0, abs=1e-4)


def test_a_head_that_peft_keeps_counts_once():
    beside = {"scale_questions": tiny.SCALES, "disagreement": "entropy"}
    found = tiny.distribution("bert", **OPTIONS | beside)
    expected = sum(head.kl() for head in (found.head, found.scale_head, found.disagreement_head))
    saved = ["head", "scale_head", "disagreement_head"]
    adapted = get_peft_model(found, LoraConfig(target_modules=r"trunk\..*query", modules_to_save=saved)).eval()
    torch.testing.assert_close(adapted(**INPUTS).weight_kl, expected[None])


def test_in_evaluation_its_draws_have_the_posterior_moments_and_leave_other_generators_alone():
    found, x = layer(samples=20_000).eval(), torch.randn(4, 5)
    state = torch.get_rng_state()
    answers = found(x)
    assert torch.equal(torch.get_rng_state(), state) and answers.shape == (20_000, 4, 3)
    ones = torch.cat([x, torch.ones(4, 1)], 1)
    torch.testing.assert_close(answers.mean(0), ones @ found.mu.T, rtol=0.05, atol=0.05)
    variance = ones**2 @ (functional.softplus(found.rho) ** 2).T
    torch.testing.assert_close(answers.var(0), variance, rtol=0.05, atol=0.01)
    assert torch.equal(found(x), answers)


def test_in_training_it_draws_once_a_call_for_all_items():
    found, x = layer().train(), torch.randn(1, 5).expand(4, 5)
    first, second = found(x), found(x)
    assert first.shape == (1, 4, 3) and not torch.equal(first, second)
    assert torch.equal(first[0, 0], first[0, 3])
    torch.manual_seed(9)
    noise = torch.randn(1, 3, 6)
    torch.manual_seed(9)
    weight = found.mu + functional.softplus(found.rho) * noise[0]
    torch.testing.assert_close(found(x)[0], functional.linear(x, weight[:, :-1], weight[:, -1]))


def test_a_prediction_is_the_mean_of_the_softmaxes_and_no_matter_of_its_batch():
    model = tiny.distribution("bert", pooling="first", **OPTIONS)
    torch.nn.init.constant_(model.head.rho, 0.0)
    together = model(**INPUTS)
    embedding = model.embed(**INPUTS)
    torch.testing.assert_close(together.probs, model.head(embedding).softmax(-1).mean(0))
    torch.testing.assert_close(together.logits.softmax(-1), together.probs, rtol=1e-5, atol=1e-6)
    for row, length in enumerate(tiny.lengths("bert")):
        alone = model(**{name: value[row : row + 1, :length] for name, value in INPUTS.items()}).probs
        torch.testing.assert_close(alone[0], together.probs[row], rtol=1e-5, atol=1e-6)
    certain = tiny.distribution("bert", pooling="first", **OPTIONS)
    torch.nn.init.constant_(certain.head.rho, -50.0)
    mean = certain.embed(**INPUTS) @ certain.head.mu[:, :-1].T + certain.head.mu[:, -1]
    torch.testing.assert_close(certain(**INPUTS).probs, mean.softmax(-1))


def test_the_loss_has_the_divergence_once():
    model = tiny.distribution("bert", **OPTIONS)
    output = model(**INPUTS, labels=LABELS)
    expected = distribution_loss(output.probs, LABELS, "kl") + 0.01 * model.head.kl()
    torch.testing.assert_close(output.loss, expected)
    assert output.weight_kl.shape == (1,) and model(**INPUTS).loss is None
    model.train()(**INPUTS, labels=LABELS).loss.backward()
    assert model.head.rho.grad.abs().min() > 0 and model.head.mu.grad.abs().min() > 0


def test_over_several_micro_batches_the_divergence_counts_once():
    """Its gradient, too, reaches the weights: by itself it is that of the divergence, however many parts a step has."""
    options = OPTIONS | {"loss": "ccc", "kl_weight": 2.0}
    model = tiny.distribution("bert", dropout=0.0, pooling_dropout=0.0, **options).train()
    model.trunk.eval()
    batches = [
        INPUTS | {"labels": torch.full((3, 3), 1 / 3)}
    ] * 3  # labels that do not vary have no CCC and no gradient
    step = EffectiveBatch(model, model, batches, context=nullcontext)
    assert float(step.loss) == pytest.approx(2 * float(model.head.kl().detach()), rel=1e-4)
    for batch in batches:
        step.surrogate(batch).backward()
    expected = torch.autograd.grad(2 * model.head.kl(), [model.head.mu, model.head.rho])
    for weight, gradient in zip((model.head.mu, model.head.rho), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-5)


def test_scales_beside_are_the_mixture_of_the_draws():
    options = OPTIONS | {
        "scale_questions": tiny.SCALES,
        "auxiliary_questions": tiny.CATEGORY,
        "disagreement": "entropy",
    }
    model = tiny.distribution("bert", pooling="mean", **options)
    for head in (model.scale_head, model.auxiliary_head, model.disagreement_head):
        torch.nn.init.constant_(head.rho, 0.0)
    output, embedding = model(**INPUTS), model.embed(**INPUTS)
    means, log_variances = model.scale_head(embedding).chunk(2, -1)
    components = torch.distributions.Normal(means.movedim(0, -1), (0.5 * log_variances).exp().movedim(0, -1))
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(7)), components)
    torch.testing.assert_close(output.scale_mean, mixture.mean)
    torch.testing.assert_close(output.scale_log_variance.exp(), mixture.variance)
    torch.testing.assert_close(output.auxiliary_probs, model.auxiliary_head(embedding).softmax(-1).mean(0))
    torch.testing.assert_close(output.disagreement, model.disagreement_head(embedding).sigmoid().mean(0)[:, 0])
    heads = (model.head, model.scale_head, model.auxiliary_head, model.disagreement_head)
    torch.testing.assert_close(output.weight_kl[0], sum(head.kl() for head in heads))


def test_a_grid_of_scales_has_a_bayesian_head_too():
    output = tiny.distribution("bert", questions=tiny.SCALES, bins=3, **OPTIONS)(
        **INPUTS, labels=torch.full((3, 9), 1 / 9)
    )
    torch.testing.assert_close(output.probs.sum(1), torch.ones(3))
    assert output.loss.isfinite()


def test_a_checkpoint_gives_the_same_predictions(tmp_path):
    model = tiny.distribution("bert", **OPTIONS)
    assert model.head.mu.abs().max() <= 1 / math.sqrt(12) and model.head.mu.std() > 0
    assert (functional.softplus(model.head.rho) < 0.05).all()  # all but certain to begin with
    model.save_pretrained(tmp_path)
    assert torch.equal(DistributionModel.from_pretrained(tmp_path)(**INPUTS).probs, model(**INPUTS).probs)


def test_half_precision_changes_little():
    model = tiny.distribution("bert", **OPTIONS)
    expected = model(**INPUTS).probs
    with torch.autocast("cpu", torch.bfloat16):
        output = model.train()(**INPUTS, labels=LABELS)
        output.loss.backward()
        assert output.loss.dtype == output.weight_kl.dtype == torch.float32 and model.head.rho.grad.isfinite().all()
        torch.testing.assert_close(model.eval()(**INPUTS).probs, expected, rtol=0, atol=0.02)
    torch.testing.assert_close(model.bfloat16()(**INPUTS).probs, expected, rtol=0, atol=0.05)


def test_what_does_not_go_together_is_said():
    for options, message in (
        ({"prior_std": 0.0}, "prior_std is 0.0 and bayesian_samples 30; give a deviation above 0"),
        ({"bayesian_samples": 0}, "bayesian_samples 0; give .* at least 1 draw"),
        ({"kl_weight": 0.1}, "kl_weight is 0.1 with head 'linear'"),
        ({"kl_weight": -1.0, "head": "bayesian"}, "kl_weight is -1.0 with head 'bayesian'"),
        ({"head": "bayes"}, "head is 'bayes'; use one of linear, mlp, bayesian"),
        ({"disagreement": "variance"}, "disagreement is 'variance'; use one of entropy, deviation"),
        (
            {"disagreement": "entropy", "questions": tiny.SCALES},
            'disagreement is "entropy" and the questions are scales',
        ),
    ):
        with pytest.raises(ValueError, match=message):
            tiny.distribution("bert", **options)
    model = tiny.distribution("bert", head="bayesian")
    assert model(**INPUTS).probs.isfinite().all()
    with pytest.raises(ValueError, match="kl_weight is None.*set it to 1 / number of training items"):
        model(**INPUTS, labels=LABELS)
