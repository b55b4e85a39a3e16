import audmetric
import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import jensenshannon

from annot_hf.models.losses import (
    EPSILON,
    answer_loss,
    auxiliary_loss,
    auxiliary_softmax,
    distribution_loss,
    effective_number_weights,
    inverse_frequency_weights,
    rating_loss,
    scale_loss,
)

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


def test_soft_f1_loss_against_a_loop():
    p, q = P.double().numpy(), Q.double().numpy()
    scores = [2 * np.minimum(p[:, k], q[:, k]).sum() / (p[:, k].sum() + q[:, k].sum()) for k in range(p.shape[1])]
    assert float(distribution_loss(P, Q, "soft_f1")) == pytest.approx(1 - np.mean(scores), abs=1e-6)
    assert float(distribution_loss(Q, Q, "soft_f1")) == pytest.approx(0, abs=1e-6)
    probs = P.clone().requires_grad_()
    distribution_loss(probs, Q, "soft_f1").backward()
    assert probs.grad.isfinite().all() and probs.grad.any()


def test_half_precision_is_computed_in_single():
    for loss in (
        distribution_loss(P.bfloat16(), Q.bfloat16(), "kl"),
        rating_loss(PREDICTED.half(), RATED.half(), "ccc"),
    ):
        assert loss.dtype == torch.float32 and loss.isfinite()


def answer_probability(location, spread, answer, levels):
    """A difference of two normal CDFs, from SciPy."""
    edges = np.concatenate([[-np.inf], (np.arange(1, levels) - 0.5) * 2 / (levels - 1) - 1, [np.inf]])
    place = round((answer + 1) / 2 * (levels - 1))
    return np.diff(scipy.stats.norm(location, spread).cdf(edges[place : place + 2]))[0]


def test_answer_loss_against_scipy():
    location, spread = torch.randn(30, 2), torch.rand(30, 2) + 0.3
    levels = [5, 3]
    answers = torch.stack([torch.randint(count, (30,)) * 2 / (count - 1) - 1 for count in levels], 1)
    answers[3, 1] = answers[7] = np.nan
    found = [
        -np.log(answer_probability(float(location[row, c]), float(spread[row, c]), float(answers[row, c]), levels[c]))
        for row, c in np.argwhere(~answers.isnan().numpy())
    ]
    assert float(answer_loss(location, spread, answers, levels)) == pytest.approx(np.mean(found), rel=1e-4)
    assert len(found) == 57


def test_all_answers_together_are_certain():
    for levels in (2, 5, 33):
        answers = torch.linspace(-1, 1, levels)[:, None]
        for location, spread in ((0.3, 0.2), (-2.0, 0.05), (5.0, 1.0)):
            rows = [
                answer_loss(torch.tensor([[location]]), torch.tensor([[spread]]), row[None], [levels])
                for row in answers
            ]
            assert sum(float((-row).exp()) for row in rows) == pytest.approx(1, abs=1e-5)


def test_an_answer_far_from_the_expected_one_still_teaches():
    for place, answer in ((4.0, -1.0), (-4.0, 1.0), (-4.0, 0.0), (4.0, 0.5)):
        location = torch.tensor([[place]], requires_grad=True)
        spread = torch.tensor([[0.05]], requires_grad=True)
        loss = answer_loss(location, spread, torch.tensor([[answer]]), [5])
        loss.backward()
        assert 100 < float(loss) < 1e4
        assert float(location.grad) * place > 0 > float(spread.grad)
        assert location.grad.isfinite() and spread.grad.isfinite()


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


ONE_HOT = torch.nn.functional.one_hot(torch.arange(7) % 5, 5).float()
WEIGHTS = [0.5, 2.0, 1.0, 0.25, 1.25]


def test_hard_weighted_cross_entropy_is_the_library_s_summed_over_items():
    expected = torch.nn.functional.nll_loss(
        (P + EPSILON).log(), ONE_HOT.argmax(1), torch.tensor(WEIGHTS), reduction="sum"
    )
    found = distribution_loss(P, ONE_HOT, "cross_entropy", class_weights=WEIGHTS)
    assert float(found) == pytest.approx(float(expected) / 7, rel=1e-6)  # not divided by the sum of the weights


def test_weighted_kl_weighs_each_term_before_the_sum():
    q, p = Q.double().numpy(), P.double().numpy() + EPSILON
    expected = np.mean(
        [sum(w * a * np.log(a / b) for w, a, b in zip(WEIGHTS, x, y, strict=True)) for x, y in zip(q, p, strict=True)]
    )
    assert float(distribution_loss(P, Q, "kl", class_weights=WEIGHTS)) == pytest.approx(expected, abs=1e-6)
    assert distribution_loss(P, ONE_HOT, "kl", class_weights=WEIGHTS).isfinite()
    lopsided = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.1, 0.9]])
    assert distribution_loss(*lopsided, "kl", class_weights=[5.0, 0.25]) < 0  # no divergence


@pytest.mark.parametrize("kind", ["kl", "cross_entropy", "jsd"])
def test_item_weights_weigh_items(kind):
    weights = torch.tensor([0.0, 0, 0, 0, 0, 0, 7])
    assert float(distribution_loss(P, Q, kind, item_weights=weights)) == pytest.approx(
        float(distribution_loss(P[-1:], Q[-1:], kind)), rel=1e-6
    )


def test_ccc_over_columns_that_vary():
    q = Q.clone()
    q[:, 2] = 0.2  # a label that has the same share everywhere
    columns = [0, 1, 3, 4]
    expected = np.mean([1 - audmetric.concordance_cc(q[:, e].numpy(), P[:, e].numpy()) for e in columns])
    probs = P.clone().requires_grad_()
    loss = distribution_loss(probs, q, "ccc")
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    assert not probs.grad[:, 2].any() and probs.grad[:, columns].all()
    flat = distribution_loss(P, torch.full_like(P, 0.2), "ccc")
    assert float(flat) == 0


def test_ccc_leaves_out_columns_that_hardly_vary():
    """The threshold is 1e-6 of population variance; two rows that differ by d have (d / 2)^2."""
    for variance, counts in ((0.8e-6, False), (1.2e-6, True)):
        labels = torch.full((2, 4), 0.25)
        labels[0] += 2 * variance**0.5 * torch.tensor([1, -1 / 3, -1 / 3, -1 / 3])  # one column above it at most
        loss = float(distribution_loss(P[:2, :4], labels, "ccc"))
        expected = 1 - audmetric.concordance_cc(labels[:, 0].numpy(), P[:2, 0].numpy())
        assert loss == pytest.approx(expected if counts else 0, abs=1e-4)


def test_class_weights_of_an_impossible_label_and_of_another_type():
    probs, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for kind in ("kl", "cross_entropy"):
        loss = distribution_loss(probs, labels, kind, class_weights=np.array([1.0, 2.0]))
        assert loss.dtype == torch.float32 and float(loss) == pytest.approx(-2 * np.log(1e-8), rel=1e-6)


@pytest.mark.parametrize(
    "kind, options",
    [
        ("ccc", {"item_weights": torch.ones(7)}),
        ("ccc", {"class_weights": WEIGHTS}),
        ("jsd", {"class_weights": WEIGHTS}),
        ("ccc", {"jsd_share": 0.1}),
    ],
)
def test_weights_that_a_loss_does_not_know_are_refused(kind, options):
    with pytest.raises(ValueError, match="takes no"):
        distribution_loss(P, Q, kind, **options)


@pytest.mark.parametrize(
    "loss",
    [
        lambda targets: distribution_loss(P[:5], targets, "kl"),
        lambda targets: auxiliary_loss(P[:5], targets, [5]),
        lambda targets: rating_loss(P[:5], targets, "mse"),
        lambda targets: scale_loss(P[:5], P[:5], targets),
    ],
)
def test_targets_of_another_shape_are_refused(loss):
    """Of five items with five entries, a vector would broadcast."""
    for targets in (torch.arange(5), torch.rand(5), torch.rand(5, 1)):
        with pytest.raises(ValueError, match=r"Targets have shape \(5.*\) and predictions \(5, 5\)"):
            loss(targets)


def test_class_weights_of_the_paper_s_training_counts():
    counts = [50747, 45328, 28919, 24910, 8001, 4278, 3734, 2066, 1207]
    weights = np.array(effective_number_weights(counts, 0.9999))
    raw = np.array([(1 - 0.9999) / (1 - 0.9999**n) for n in counts])
    np.testing.assert_allclose(weights, raw / raw.mean(), rtol=1e-9)
    assert weights[:4].max() / weights[:4].min() < 1.15  # methods: the four large classes end up within about 15 %
    np.testing.assert_allclose(effective_number_weights([5, 500], 0.0), [1, 1])
    inverse = np.array(inverse_frequency_weights(counts))
    np.testing.assert_allclose(inverse, np.clip(1 / np.array(counts) / np.mean(1 / np.array(counts)), 0.25, 5))
    assert (
        np.isfinite(effective_number_weights([0, 10])).all() and np.isfinite(inverse_frequency_weights([0, 10])).all()
    )
    with pytest.raises(ValueError, match="beta is 1"):
        effective_number_weights(counts, 1)


def test_weights_of_inverse_frequency_are_clipped_at_both_ends():
    # nine classes of 1,000 and one of 1: before clipping .0099 and 9.91
    assert inverse_frequency_weights([1000] * 9 + [1]) == [0.25] * 9 + [5.0]
    assert inverse_frequency_weights([1000] * 9 + [1], low=0, high=20)[-1] == pytest.approx(10 / 1.009)


def scale_oracle(mean, log_variance, targets, weights, ccc_weight):
    terms = [
        w * 0.5 * (np.exp(-s) * (m - y) ** 2 + s)
        for row in zip(mean.tolist(), log_variance.tolist(), targets.tolist(), strict=True)
        for m, s, y, w in zip(*row, weights, strict=True)
        if not np.isnan(y)
    ]
    agreed = [
        audmetric.concordance_cc(targets[rows, d].numpy(), mean[rows, d].numpy())
        for d in range(3)
        for rows in [~targets[:, d].isnan()]
    ]
    return np.mean(terms) + ccc_weight * max(0, 1 - np.dot(weights, agreed) / sum(weights))


def test_scale_loss_against_the_formula_written_out():
    torch.manual_seed(1)
    mean, log_variance, targets = torch.randn(3, 20, 3)
    targets[3:6, 0] = torch.nan
    mean.requires_grad_()
    weights = (1.4, 1.0, 1.0)
    loss = scale_loss(mean, log_variance, targets, dimension_weights=weights, ccc_weight=0.1)
    loss.backward()
    expected = scale_oracle(mean.detach(), log_variance, targets, weights, 0.1)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    assert not mean.grad[3:6, 0].any() and mean.grad.isfinite().all()
    alone = scale_loss(mean, log_variance, targets, dimension_weights=weights, nll_weight=0, ccc_weight=1)
    with_ccc, without = (scale_oracle(mean.detach(), log_variance, targets, weights, share) for share in (1, 0))
    assert float(alone.detach()) == pytest.approx(with_ccc - without, abs=1e-5)
    gaussian = torch.nn.functional.gaussian_nll_loss(mean[:, 1:], targets[:, 1:], log_variance[:, 1:].exp())
    assert float(scale_loss(mean[:, 1:], log_variance[:, 1:], targets[:, 1:], ccc_weight=0).detach()) == pytest.approx(
        float(gaussian.detach()), rel=1e-5
    )


def test_a_scale_that_nobody_rated_has_no_part_in_the_agreement():
    """And one that some rated has its whole part."""
    torch.manual_seed(2)
    mean, targets = torch.randn(2, 30, 3)
    targets[:, 2], targets[:20, 1] = torch.nan, torch.nan
    one = audmetric.concordance_cc(targets[:, 0].numpy(), mean[:, 0].numpy())
    other = audmetric.concordance_cc(targets[20:, 1].numpy(), mean[20:, 1].numpy())
    weights = (1.4, 1.0, 1.0)
    loss = scale_loss(mean, mean, targets, dimension_weights=weights, nll_weight=0.0, ccc_weight=1.0)
    assert float(loss) == pytest.approx(1 - (1.4 * one + other) / 2.4, abs=1e-5)


def test_scale_loss_clips_the_log_variance_and_survives_no_targets():
    mean = torch.zeros(4, 2, requires_grad=True)
    wild = torch.full((4, 2), -1000.0)
    assert scale_loss(mean, wild, torch.ones(4, 2)).isfinite()
    loss = scale_loss(mean, torch.zeros(4, 2), torch.full((4, 2), torch.nan))
    loss.backward()
    assert loss.isfinite() and not mean.grad.any()


def test_a_share_of_jsd_is_mixed_in():
    expected = 0.7 * oracle("kl") + 0.3 * 4 * oracle("jsd")
    assert float(distribution_loss(P, Q, "kl", jsd_share=0.3)) == pytest.approx(expected, abs=1e-6)
    near = (Q + 1e-3 * torch.tensor([1, -1, 0, 0, 0])).double()  # where the two agree to second order
    kl_of, jsd_of = (float(distribution_loss(near, Q, kind)) for kind in ("kl", "jsd"))
    assert 4 * jsd_of == pytest.approx(kl_of, rel=0.1)


def test_class_weights_of_absent_and_of_rare_classes():
    np.testing.assert_allclose(inverse_frequency_weights([0, 3]), [1.5, 0.5], rtol=1e-12)
    np.testing.assert_allclose(inverse_frequency_weights([1] + [1000] * 8), [5] + [0.25] * 8, rtol=1e-12)
    raw = 9 / (1 + 8 / 15)
    np.testing.assert_allclose(
        inverse_frequency_weights([1] + [15] * 8, low=0.1, high=10), [raw] + [raw / 15] * 8, rtol=1e-12
    )
    one, ten = 1 / (1 - 0.99), 1 / (1 - 0.99**10)
    np.testing.assert_allclose(
        effective_number_weights([0, 10], 0.99), np.array([one, ten]) * 2 / (one + ten), rtol=1e-12
    )


def test_one_answer_is_a_mean_of_one():
    one = torch.tensor([[0.5, torch.nan]]), torch.tensor([[0.25, torch.nan]])
    assert float(rating_loss(torch.zeros(1, 2), one[0], "mse")) == pytest.approx(0.25)
    assert float(scale_loss(torch.zeros(1, 2), torch.zeros(1, 2), one[0], ccc_weight=0)) == pytest.approx(0.125)
    labels = torch.stack([Q[0], torch.full((5,), torch.nan)])
    assert float(auxiliary_loss(P[:2], labels, [5])) == pytest.approx(
        float(distribution_loss(P[:1], Q[:1], "kl")), rel=1e-6
    )
    empty = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert float(auxiliary_loss(*empty, [2])) == pytest.approx(-np.log(EPSILON), rel=1e-6)


def test_scale_loss_of_good_predictions_and_its_defaults():
    torch.manual_seed(2)
    targets, log_variance, noise = torch.randn(3, 20, 3)
    mean = targets + 0.3 * noise
    ones = (1.0, 1.0, 1.0)
    assert float(scale_loss(mean, log_variance, targets)) == pytest.approx(
        scale_oracle(mean, log_variance, targets, ones, 0.1), abs=1e-5
    )
    weighted = scale_loss(mean, log_variance, targets, dimension_weights=np.array([2.0, 1.0, 0.5]))
    assert weighted.dtype == torch.float32
    assert float(weighted) == pytest.approx(scale_oracle(mean, log_variance, targets, (2, 1, 0.5), 0.1), abs=1e-5)


def test_a_scale_that_nobody_rated_counts_nowhere():
    torch.manual_seed(3)
    mean, log_variance, targets = torch.randn(3, 20, 3)
    targets[:, 2] = torch.nan
    all_three = scale_loss(mean, log_variance, targets, dimension_weights=(1.4, 1.0, 3.0), ccc_weight=0.5)
    two = scale_loss(mean[:, :2], log_variance[:, :2], targets[:, :2], dimension_weights=(1.4, 1.0), ccc_weight=0.5)
    assert float(all_three) == pytest.approx(float(two), rel=1e-6)


@pytest.mark.parametrize("log_variance, s", [(1000.0, 10), (-1000.0, -10), (9.0, 9)])
def test_log_variances_are_clipped_at_both_ends(log_variance, s):
    loss = scale_loss(torch.zeros(2, 1), torch.full((2, 1), log_variance), torch.full((2, 1), 0.5), ccc_weight=0)
    assert float(loss) == pytest.approx(0.5 * (np.exp(-s) * 0.25 + s), rel=1e-6)


def test_auxiliary_loss_leaves_out_items_without_votes():
    labels, probs = Q.clone(), P.clone().requires_grad_()
    labels[2] = torch.nan
    loss = auxiliary_loss(probs, labels, [5])
    loss.backward()
    kept = [0, 1, 3, 4, 5, 6]
    assert float(loss.detach()) == pytest.approx(float(distribution_loss(P[kept], Q[kept], "kl")), abs=1e-6)
    assert not probs.grad[2].any() and probs.grad[kept].any()
    assert float(auxiliary_loss(P, torch.full_like(P, torch.nan), [5])) == 0


def test_auxiliary_questions_side_by_side_count_alike():
    scores, labels = torch.randn(3, 5), torch.cat([Q[:3, :2] / Q[:3, :2].sum(-1, keepdim=True), torch.eye(3)], -1)
    labels[1, :2] = torch.nan
    probs = auxiliary_softmax(scores, [2, 3])
    first, second = scores[:, :2].softmax(-1), scores[:, 2:].softmax(-1)
    torch.testing.assert_close(probs, torch.cat([first, second], -1))
    kept = [0, 2]
    seen = torch.nn.functional.kl_div(first[kept].log(), labels[kept, :2], reduction="batchmean")
    heard = -second.diag().log().mean()
    assert float(auxiliary_loss(probs, labels, [2, 3])) == pytest.approx(float(seen + heard) / 2, abs=1e-6)
