import audmetric
import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import jensenshannon

from annot_hf.models.losses import EPSILON, distribution_loss, rating_loss

torch.manual_seed(0)
P = torch.rand(7, 5).softmax(-1)
Q = torch.rand(7, 5).mul(3).softmax(-1)
PREDICTED, RATED = torch.randn(40, 2), torch.randn(40, 2)


def oracle(kind):
    p, q = P.double().numpy() + EPSILON, Q.double().numpy()
    return {
        "kl": scipy.stats.entropy(q, p, axis=1),
        "cross_entropy": scipy.stats.entropy(q, axis=1) + scipy.stats.entropy(q, p, axis=1),
        "jsd": jensenshannon(q, p, axis=1) ** 2,
    }[kind].mean()


@pytest.mark.parametrize("kind", ["kl", "cross_entropy", "jsd"])
def test_distribution_loss_against_scipy(kind):
    assert float(distribution_loss(P, Q, kind)) == pytest.approx(oracle(kind), abs=1e-6)
    assert float(distribution_loss(Q, Q, kind)) == pytest.approx(
        0 if kind != "cross_entropy" else oracle_entropy(), abs=1e-6
    )


def oracle_entropy():
    return scipy.stats.entropy(Q.double().numpy(), axis=1).mean()


@pytest.mark.parametrize("kind", ["kl", "cross_entropy", "jsd"])
def test_an_empty_cell_costs_much_but_not_infinitely_much(kind):
    probs = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = distribution_loss(probs, torch.tensor([[0.0, 1.0]]), kind)
    loss.backward()
    assert 0.5 < float(loss) < 20
    assert probs.grad.isfinite().all()


def test_half_precision_is_computed_in_single():
    for loss in (
        distribution_loss(P.bfloat16(), Q.bfloat16(), "kl"),
        rating_loss(PREDICTED.half(), RATED.half(), "ccc"),
    ):
        assert loss.dtype == torch.float32 and loss.isfinite()


def test_rating_loss_against_oracles():
    pairs = zip(RATED.T.numpy(), PREDICTED.T.numpy(), strict=True)
    expected = sum(1 - audmetric.concordance_cc(truth, prediction) for truth, prediction in pairs)
    assert float(rating_loss(PREDICTED, RATED, "ccc")) == pytest.approx(expected, abs=1e-5)
    assert float(rating_loss(PREDICTED, RATED, "mse")) == pytest.approx(
        float(((PREDICTED - RATED) ** 2).mean()), rel=1e-6
    )
    assert float(rating_loss(RATED, RATED, "ccc")) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["ccc", "mse"])
def test_missing_ratings_count_for_nothing(kind):
    ratings, prediction = RATED.clone(), PREDICTED.clone().requires_grad_()
    ratings[:10, 0] = torch.nan  # one dimension of these raters, both of those
    ratings[10:15] = torch.nan
    loss = rating_loss(prediction, ratings, kind)
    loss.backward()
    assert not prediction.grad[ratings.isnan()].any()
    assert prediction.grad[~ratings.isnan()].all()
    if kind == "ccc":
        kept = [~ratings[:, column].isnan() for column in (0, 1)]
        expected = sum(
            1 - audmetric.concordance_cc(RATED[rows, column].numpy(), PREDICTED[rows, column].numpy())
            for column, rows in enumerate(kept)
        )
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    else:
        squares = (PREDICTED - RATED)[~ratings.isnan()] ** 2
        assert float(loss.detach()) == pytest.approx(float(squares.mean()), rel=1e-6)


@pytest.mark.parametrize("kind", ["ccc", "mse"])
def test_nothing_known_gives_a_finite_loss_without_gradient(kind):
    prediction = PREDICTED.clone().requires_grad_()
    loss = rating_loss(prediction, torch.full_like(RATED, np.nan), kind)
    loss.backward()
    assert loss.isfinite() and not prediction.grad.any()


def test_the_order_of_pairs_does_not_matter():
    order = torch.randperm(40)
    for kind in ("ccc", "mse"):
        torch.testing.assert_close(
            rating_loss(PREDICTED[order], RATED[order], kind), rating_loss(PREDICTED, RATED, kind)
        )
