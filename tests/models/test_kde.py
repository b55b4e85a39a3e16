"""The kernel density of a few ratings: closed form against quadrature, moments of the draws, gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.integrate import quad
from scipy.stats import logistic, norm

from annot_hf.models.kde import (
    _bank,
    _mix,
    best_width,
    cell_masses,
    draw_answers,
    draw_observations,
    expected_answers,
)
from annot_hf.models.measures import jsd

RATINGS = np.random.default_rng(0).uniform(-1, 1, (6, 8, 2))
MASK = np.arange(8) < np.array([8, 5, 1, 3, 8, 2])[:, None]


def scott(observations):
    n, dimensions = observations.shape
    return np.maximum(observations.std(0, ddof=1) * n ** (-1 / (dimensions + 4)), 0.02)


def reference_masses(observations, bins, low=-1.0, high=1.0, h=None):
    """Cell masses by quadrature: each kernel integrated numerically over each cell, the outer cells open."""
    h = scott(observations) if h is None else np.broadcast_to(h, observations.shape[1:])
    edges = np.linspace(low, high, bins + 1)
    edges[0], edges[-1] = -40, 40
    axes = []
    for values, width in zip(observations.T, h, strict=True):
        masses = np.empty((len(values), bins))
        for row, value in enumerate(values):
            for cell in range(bins):
                a, b = np.clip(edges[cell : cell + 2], value - 12 * width, value + 12 * width)
                masses[row, cell] = quad(norm(value, width).pdf, a, b, points=[value] if a < value < b else None)[0]
        axes.append(masses)
    return axes[0].mean(0) if len(axes) == 1 else np.einsum("ni,nj->ij", *axes) / len(observations)


# --- the masses


@pytest.mark.parametrize("backend", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize(("low", "high"), [(-1, 1), (1, 5)])
def test_the_least_bandwidth_is_a_hundredth_of_the_scale(backend, low, high):
    """Answers that agree, or nearly, are no wider and no narrower a peak than that."""
    half = (high - low) / 2
    near = low + half * (1.5 - 0.02)  # one bandwidth below the edge between the last two of four cells
    for spread in (0.0, 1e-4):
        observations = np.full((1, 50, 1), near) + spread * half * np.linspace(-1, 1, 50)[None, :, None]
        masses = cell_masses(backend(observations), bins=4, low=low, high=high)
        expected = [0.0, 0.0, norm.cdf(1), norm.sf(1)]
        np.testing.assert_allclose(np.asarray(masses)[0], expected, atol=1e-4)


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize(("bins", "h"), [(4, None), (3, 0.1), (1, 0.3)])
def test_masses_are_the_integral_of_the_density(dimensions, bins, h):
    observations = np.random.default_rng(1).uniform(-1, 1, (2, 12, dimensions))
    ours = cell_masses(observations, bins=bins, bandwidth="scott" if h is None else h)
    for row in range(2):
        np.testing.assert_allclose(ours[row], reference_masses(observations[row], bins, h=h), atol=1e-6)


def test_masses_on_a_dense_grid_of_the_plane():
    """The same density summed over a fine grid of points, without any use of the product form."""
    observations = np.random.default_rng(2).uniform(-0.9, 0.9, (1, 20, 2))
    h = scott(observations[0])
    fine = np.linspace(-3, 3, 1201)[:-1] + 0.0025
    density = np.zeros((1200, 1200))
    for a, v in observations[0]:
        density += np.outer(norm(a, h[0]).pdf(fine), norm(v, h[1]).pdf(fine)) / 20
    cell = np.clip(((fine + 1) * 2).astype(int), 0, 3) * (fine > -1)
    onto = (cell[:, None] == np.arange(4)).astype(float)
    np.testing.assert_allclose(cell_masses(observations)[0], onto.T @ density @ onto * 0.005**2, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 50, 2), (5, 50, 1), (5, 50), (1, 1, 2), (0, 50, 2)])
@pytest.mark.parametrize("bins", [1, 2, 4, 7])
def test_shapes_and_total(shape, bins):
    observations = np.random.default_rng(0).uniform(-1, 1, shape)
    for given_, atol in ((observations, 1e-12), (torch.tensor(observations, dtype=torch.float32), 1e-6)):
        masses = cell_masses(given_, bins=bins)
        assert tuple(masses.shape) == (shape[0], bins, bins)[: 3 if len(shape) == 3 and shape[2] == 2 else 2]
        assert type(masses) is type(given_) and bool((masses >= 0).all())
        np.testing.assert_allclose(
            np.asarray(masses).reshape(shape[0], bins**2 if masses.ndim == 3 else bins).sum(1), 1, atol=atol
        )


def test_other_scales_and_bandwidths():
    observations = np.random.default_rng(0).uniform(-1, 1, (3, 40, 2))
    moved = cell_masses(observations * 2 + 3, low=1, high=5)
    np.testing.assert_allclose(moved, cell_masses(observations), atol=1e-12)
    np.testing.assert_allclose(cell_masses(observations, bandwidth=[0.1, 0.3])[:, 0].shape, (3, 4))
    per_axis = cell_masses(observations, bandwidth=np.array([0.1, 0.3]))
    np.testing.assert_allclose(per_axis[0], reference_masses(observations[0], 4, h=[0.1, 0.3]), atol=1e-6)
    own = cell_masses(observations, bandwidth=torch.full((3, 1, 1), 0.2).numpy())
    np.testing.assert_allclose(own, cell_masses(observations, bandwidth=0.2), atol=1e-6)
    learned = torch.tensor(0.2, requires_grad=True, dtype=torch.float64)
    cell_masses(torch.tensor(observations), bandwidth=learned)[:, 0, 0].sum().backward()
    assert learned.grad != 0


def test_an_extreme_rater_keeps_all_weight():
    masses = cell_masses(np.ones((1, 10, 2)))
    assert masses[0, 3, 3] == pytest.approx(1)


def test_unanimous_ratings_are_a_peak_of_the_least_width():
    expected = norm.sf(0.5, 0.49, 0.02)
    assert cell_masses(np.full((1, 10, 1), 0.49))[0, 3] == pytest.approx(expected)
    assert cell_masses(np.full((1, 10, 1), 3.98), low=1, high=5)[0, 3] == pytest.approx(expected)


# --- the draws


def test_the_draws_of_a_seed_never_change():
    """Pinned numbers: a target made elsewhere, or by an earlier version, is the same."""
    ratings = np.array([[[-0.5, 0.2], [0.1, 0.4], [0.3, -0.8]]]).repeat(3, 0)
    drawn = draw_observations(ratings, [[1, 1, 1], [1, 0, 1], [1, 1, 1]], n=2, seed=[0, 2, (1 << 40) + 5])
    expected = [
        [[0.4348102, -0.6143417], [0.3939472, -0.1037168]],
        [[0.415739, -0.9005317], [0.1513552, -0.2535215]],
        [[-0.1382834, -0.0775489], [-0.1295796, -0.3493454]],
    ]
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    for raters, first in ((64, [0.083479, -0.168704, 0.098412]), (2000, [-0.096659, -0.250926, -0.067729])):
        drawn = draw_observations(np.linspace(-0.9, 0.9, raters)[None, :, None], seed=5)
        np.testing.assert_allclose(drawn[0, :3, 0], first, atol=2e-6)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_draws_of_raters_who_agree_are_their_rating(kind):
    ratings = np.array([[[0.3, -0.5]] * 3, [[1.0, 0.25]] * 3])
    for given_ in (ratings, ratings[:, :1]):
        drawn = np.asarray(draw_observations(kind(given_), n=20))
        np.testing.assert_allclose(drawn, ratings[:, :1].repeat(20, 1), atol=1e-6)


def test_seed_0_unless_said_otherwise_and_float64_for_arrays():
    drawn = draw_observations(RATINGS)
    np.testing.assert_array_equal(drawn, draw_observations(RATINGS, seed=0))
    assert drawn.shape == (6, 200, 2)
    masses = cell_masses(drawn.astype(np.float32))
    assert masses.dtype == np.float64
    np.testing.assert_array_equal(masses, cell_masses(drawn.astype(np.float32).astype(np.float64)))


@pytest.mark.parametrize("raters", [2, 3, 8])
def test_moments_of_the_draws(raters):
    """Var[o] = s^2 [(H_R - 1) / R + 1/12] and mean = mean of the ratings, over many seeds."""
    ratings = np.random.default_rng(raters).uniform(-0.4, 0.4, (1, raters, 2)).repeat(600, 0)
    observations = draw_observations(ratings, seed=1)
    spread = ratings[0].var(0, ddof=1)
    expected = spread * ((np.sum(1 / np.arange(1, raters + 1)) - 1) / raters + 1 / 12)
    np.testing.assert_allclose(observations.reshape(-1, 2).var(0), expected, rtol=0.03)
    np.testing.assert_allclose(observations.mean((0, 1)), ratings[0].mean(0), atol=0.02 * spread.max() ** 0.5)


def test_every_draw_is_a_subset_mean_plus_noise():
    ratings = np.array([[[-0.5], [0.1], [0.3]]])
    subsets = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    means = np.array([ratings[0, list(subset), 0].mean() for subset in subsets])
    half = ratings.std(ddof=1) / 2
    observations = draw_observations(ratings)[0, :, 0]
    assert (np.abs(observations[:, None] - means).min(1) <= half + 1e-6).all()
    assert observations.shape == (200,) and np.abs(observations).max() <= 1


def test_raters_are_exchangeable():
    ratings = np.random.default_rng(0).uniform(-1, 1, (1, 5, 2)).repeat(800, 0)
    order = [3, 1, 4, 0, 2]
    first, second = (
        cell_masses(draw_observations(r, seed=s)).mean(0) for r, s in ((ratings, 0), (ratings[:, order], 9999))
    )
    np.testing.assert_allclose(first, second, atol=0.006)


def test_items_do_not_see_their_batch():
    seeds = np.arange(6) * 17 + 3
    whole = draw_observations(RATINGS, MASK, seed=seeds)
    for row in range(6):
        alone = draw_observations(RATINGS[row : row + 1, : MASK[row].sum()], seed=seeds[row : row + 1])
        np.testing.assert_allclose(whole[row], alone[0], atol=1e-12)
    np.testing.assert_allclose(draw_observations(RATINGS, seed=5)[2], draw_observations(RATINGS[2:3], seed=7)[0])


def test_a_mask_may_lie_anywhere():
    """Absent raters before, between or after: the present ones in order decide."""
    scattered, mask = np.full((1, 6, 2), np.nan), np.array([[False, True, False, True, True, False]])
    scattered[mask] = RATINGS[0, :3]
    np.testing.assert_array_equal(draw_observations(scattered, mask), draw_observations(RATINGS[:1, :3]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numpy_and_torch_draw_the_same(dtype):
    ours = draw_observations(torch.tensor(RATINGS, dtype=dtype), torch.tensor(MASK), seed=3)
    assert ours.dtype == dtype
    theirs = draw_observations(RATINGS, MASK, seed=3)
    atol = 1e-6 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(ours.numpy(), theirs, atol=atol)
    np.testing.assert_allclose(cell_masses(ours).numpy(), cell_masses(theirs), atol=1e-5 if atol > 1e-9 else 1e-12)
    np.testing.assert_array_equal(theirs, draw_observations(RATINGS, MASK, seed=3))
    assert not np.array_equal(theirs, draw_observations(RATINGS, MASK, seed=4))


def test_one_dimension_and_half_precision():
    one = draw_observations(RATINGS[..., 0], MASK)
    np.testing.assert_array_equal(one, draw_observations(RATINGS[..., :1], MASK))
    assert one.shape == (6, 200, 1) and cell_masses(one).shape == (6, 4)
    half = draw_observations(torch.tensor(RATINGS).half(), n=50)
    assert half.dtype == torch.float32 and cell_masses(half.half()).dtype == torch.float32


@given(
    raters=st.integers(1, 6),
    values=st.lists(st.floats(-1, 1), min_size=12, max_size=12),
    seed=st.integers(-(2**40), 2**40),
)
def test_any_ratings_give_a_distribution(raters, values, seed):
    ratings = np.array(values).reshape(1, 6, 2)[:, :raters]
    observations = draw_observations(ratings, n=30, seed=seed)
    assert np.isfinite(observations).all() and np.abs(observations).max() <= 1
    assert cell_masses(observations).sum() == pytest.approx(1)


def test_inputs_are_never_written():
    ratings, mask = RATINGS.copy(), MASK.copy()
    ratings[~mask] = np.nan
    before = ratings.copy()
    observations = draw_observations(ratings, mask)
    kept = observations.copy()
    cell_masses(observations), draw_observations(torch.from_numpy(ratings), torch.from_numpy(mask))
    np.testing.assert_array_equal(ratings, before)
    np.testing.assert_array_equal(observations, kept)


# --- answers with a variance


def test_a_draw_is_as_wide_as_the_answers_that_it_averages():
    means, variances = RATINGS[:1, :4] / 4, np.random.default_rng(1).uniform(0.0, 0.02, (1, 4, 2))
    observations, found = draw_answers(means, variances, n=30)
    weights, noise = (part[_mix(np.zeros(1, int))[0] % len(part)].T for part in _bank(4, 30, 2, 4))
    deviation = (means[0].var(0, ddof=1) + variances[0].mean(0)) ** 0.5
    np.testing.assert_allclose(observations[0], weights @ means[0] + deviation * noise, atol=1e-12)
    np.testing.assert_allclose(found[0], [(row[:, None] ** 2 * variances[0]).sum(0) for row in weights], atol=1e-12)


def test_a_draw_averages_no_more_answers_than_it_may():
    means, variances = np.zeros((1, 20, 1)), np.ones((1, 20, 1))
    wide = draw_answers(means, variances, n=400, most=4)[1]
    # 1 / m of m answers of variance 1
    assert set(np.round(1 / wide.ravel(), 4)) == {1, 2, 3, 4}
    np.testing.assert_array_equal(
        draw_answers(means, variances, n=50, most=30)[1], draw_answers(means, variances, n=50)[1]
    )


def test_the_masses_of_answers_with_a_variance_are_those_of_many_panels():
    """The mean over panels whose answers are drawn around their means."""
    rng = np.random.default_rng(0)
    means, variances = RATINGS[:1, :6] / 2, np.full((1, 6, 2), 0.09)
    panels = means + 0.3 * rng.normal(size=(4000, 6, 2))
    expected = cell_masses(draw_observations(panels, seed=np.zeros(len(panels), int))).mean(0)
    observations, own = draw_answers(means, variances)
    error = abs(cell_masses(observations, variances=own)[0] - expected).sum() / 2
    assert error < 0.02 < abs(cell_masses(observations)[0] - expected).sum() / 2


def test_answers_without_variance_are_ratings():
    observations, variances = draw_answers(RATINGS, np.zeros_like(RATINGS), MASK, seed=3)
    np.testing.assert_array_equal(observations, draw_observations(RATINGS, MASK, seed=3))
    assert not variances.any()
    np.testing.assert_allclose(cell_masses(observations, variances=variances), cell_masses(observations))
    tensors = draw_answers(*map(torch.tensor, (RATINGS, np.full_like(RATINGS, 0.1), MASK)), seed=3)
    arrays = draw_answers(RATINGS, np.full_like(RATINGS, 0.1), MASK, seed=3)
    for ours, theirs in zip(tensors, arrays, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)
    absent = np.where(MASK[..., None], RATINGS, np.nan)
    np.testing.assert_array_equal(draw_answers(absent, absent**2, MASK)[1], draw_answers(RATINGS, RATINGS**2, MASK)[1])


@pytest.mark.parametrize("dimensions", [1, 2])
def test_variances_widen_the_kernel_of_their_own_observation(dimensions):
    rng = np.random.default_rng(4)
    observations, variances = rng.uniform(-1, 1, (1, 9, dimensions)), rng.uniform(0, 0.2, (1, 9, dimensions))
    edges, whole = np.array([-np.inf, -0.5, 0.0, 0.5, np.inf]), observations.var(1, ddof=1) + variances.mean(1)
    scotts = whole**0.5 * 9 ** (-1 / (dimensions + 4))
    for bandwidth, width in (("scott", scotts), (0.3, 0.3)):
        sd = (variances + width**2) ** 0.5
        axes = np.diff(norm.cdf((edges - observations[..., None]) / sd[..., None]))[0]
        expected = axes[:, 0].mean(0) if dimensions == 1 else np.einsum("ni,nj->ij", axes[:, 0], axes[:, 1]) / 9
        np.testing.assert_allclose(
            cell_masses(observations, bandwidth=bandwidth, variances=variances)[0], expected, atol=1e-12
        )


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_the_published_kernel_is_a_pair_of_sigmoids_of_slope_8(kind):
    observations, sd = np.random.default_rng(5).uniform(-1, 1, (1, 20, 1)), np.pi / (8 * 3**0.5)
    edges = np.array([-np.inf, -0.5, 0.0, 0.5, np.inf])
    expected = np.diff(logistic.cdf(8 * (edges - observations[0]))).mean(0)
    masses = cell_masses(kind(observations), kernel="logistic", bandwidth=sd)
    np.testing.assert_allclose(np.asarray(masses)[0], expected, atol=1e-12)
    assert sd == pytest.approx(0.2267, abs=1e-4) == logistic(scale=1 / 8).std()
    with pytest.raises(ValueError, match="Unknown kernel 'box'; use one of gaussian, logistic"):
        cell_masses(observations, kernel="box")


# --- the gradients


def test_gradients_reach_the_variances():
    means, mask = torch.tensor(RATINGS[:3] * 0.6), torch.tensor(MASK[:3])
    variances = torch.tensor(np.random.default_rng(0).uniform(0.02, 0.2, means.shape), requires_grad=True)

    def masses(variances):
        observations, own = draw_answers(means, variances, mask, n=20)
        return cell_masses(observations, bandwidth=0.2, variances=own)

    assert torch.autograd.gradcheck(masses, (variances,))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_gradients_match_finite_differences(dimensions):
    ratings = torch.tensor(RATINGS[:3, :, :dimensions] * 0.6, requires_grad=True)
    mask = torch.tensor(MASK[:3])

    def masses(ratings):
        return cell_masses(draw_observations(ratings, mask, n=20), bandwidth=0.2)

    assert torch.autograd.gradcheck(masses, (ratings,))


def test_scott_bandwidth_carries_no_gradient_of_its_own():
    observations = torch.tensor(np.random.default_rng(0).uniform(-1, 1, (2, 30, 2)), requires_grad=True)
    h = torch.tensor(np.stack([scott(rows) for rows in observations.detach().numpy()])[:, None])
    weights = torch.arange(16.0).reshape(4, 4)
    gradients = [
        torch.autograd.grad((cell_masses(observations, bandwidth=b) * weights).sum(), observations)[0]
        for b in ("scott", h)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "ratings",
    [[[-1.0], [1.0]], [[0.5], [0.5]], [[0.0]], [[1.0]], [[-0.5], [-0.5], [-0.5 + 1e-9]], [[1.0], [1.0], [-1.0]]],
    ids=[
        "ends",
        "unanimous on an edge",
        "one rater on an edge",
        "one rater at the end",
        "nearly unanimous",
        "two to one",
    ],
)
def test_gradients_are_finite_where_ratings_are_awkward(ratings, dtype):
    ratings = torch.tensor([ratings], dtype=dtype).repeat(1, 1, 2).requires_grad_()
    masses = cell_masses(draw_observations(ratings))
    (masses * torch.arange(16.0).reshape(4, 4)).sum().backward()
    assert torch.isfinite(masses).all() and torch.isfinite(ratings.grad).all()
    assert masses.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("rubbish", [np.nan, 1e30, np.inf])
def test_masked_raters_have_no_influence_and_no_gradient(rubbish):
    ratings = torch.tensor(np.where(MASK[..., None], RATINGS, rubbish), requires_grad=True)
    mask = torch.tensor(MASK)
    masses = cell_masses(draw_observations(ratings, mask, seed=2))
    np.testing.assert_allclose(masses.detach(), cell_masses(draw_observations(RATINGS, MASK, seed=2)), atol=1e-12)
    (masses * torch.arange(16.0).reshape(4, 4)).sum().backward()
    assert (ratings.grad[~mask] == 0).all() and torch.isfinite(ratings.grad).all()
    assert (ratings.grad[0] != 0).any(1).all()  # every present rater is reached


def test_training_moves_predictions_to_the_target():
    target = cell_masses(draw_observations(torch.tensor(RATINGS)))
    guess = (torch.tensor(RATINGS) * 0.2).requires_grad_()
    optimiser = torch.optim.Adam([guess], lr=0.05)
    losses = []
    for _ in range(60):
        masses = cell_masses(draw_observations(guess))
        losses.append(-(target * masses.clamp_min(1e-8).log()).sum((1, 2)).mean())
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    floor = -(target * target.clamp_min(1e-8).log()).sum((1, 2)).mean()
    assert losses[-1] - floor < 0.2 * (losses[0] - floor)


# --- errors


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: draw_observations(np.zeros(3)), "must be .items, raters, dimensions"),
        (lambda: draw_observations(np.zeros((2, 3)), np.ones((3, 2))), "mask has shape"),
        (lambda: draw_observations(np.zeros((2, 3)), [[1, 1, 1], [0, 0, 0]]), "Item 1 has no rating"),
        (lambda: draw_observations(np.zeros((2, 3)), seed=[1, 2, 3]), "seed has shape"),
        (lambda: cell_masses(np.zeros((2, 5, 3))), "1 or 2"),
        (lambda: cell_masses(np.zeros((2, 0, 2))), "observations have shape"),
        (lambda: cell_masses(np.zeros((2, 5, 2)), bandwidth="silverman"), "Unknown bandwidth 'silverman'"),
        (lambda: cell_masses(np.zeros((2, 5, 2)), bandwidth=0.0), "bandwidth is 0.0; it must be above 0"),
        (lambda: cell_masses(np.zeros((2, 5, 2)), bins=0), "at least 1 bin"),
        (lambda: cell_masses(np.zeros((2, 5, 2)), low=1, high=-1), "low below high"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_float32_gradients_of_a_log_loss_match_float64():
    """Nearly empty cells must not drown in rounding: their logarithm amplifies it by up to 1e8."""
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 6, (64, 7, 2)) / 2 - 1.5
    predicted = torch.tensor((truth + rng.normal(0, 0.5, truth.shape)).clip(-1.2, 1.2))
    labels = torch.tensor(cell_masses(draw_observations(truth, seed=1)))
    gradients = []
    for dtype in (torch.float64, torch.float32):
        x = predicted.to(dtype).clone().requires_grad_()
        probs = cell_masses(draw_observations(x, seed=1))
        (-(labels.to(dtype) * (probs + 1e-8).log()).sum((1, 2)).mean()).backward()
        gradients.append(x.grad.double())
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[0].norm()


@pytest.mark.parametrize("levels", [[2, 5], [33, 7]])
def test_expected_answers_are_those_of_a_rounded_and_cut_normal(levels):
    location, spread = torch.randn(20, 2).double(), torch.rand(20, 2).double() + 0.05
    means, variances = expected_answers(location, spread, levels)
    arrays = expected_answers(location.numpy(), spread.numpy(), levels)
    np.testing.assert_allclose(arrays[0], means, atol=1e-12)
    np.testing.assert_allclose(arrays[1], variances, atol=1e-12)
    for column, count in enumerate(levels):
        answers = np.linspace(-1, 1, count)
        edges = np.concatenate([[-np.inf], (answers[1:] + answers[:-1]) / 2, [np.inf]])
        for row in range(20):
            probs = np.diff(norm(location[row, column], spread[row, column]).cdf(edges))
            mean = probs @ answers
            assert float(means[row, column]) == pytest.approx(mean, abs=1e-9)
            assert float(variances[row, column]) == pytest.approx(probs @ (answers - mean) ** 2, abs=1e-9)


def test_answers_at_the_end_of_a_scale_agree():
    means, variances = expected_answers(torch.tensor([[3.0], [-1.6]]), torch.tensor([[0.3], [0.1]]), [5])
    torch.testing.assert_close(means, torch.tensor([[1.0], [-1.0]]))
    assert (variances < 1e-6).all()


def test_the_best_width_is_that_of_the_votes():
    rng = np.random.default_rng(0)
    answers = rng.uniform(-1, 1, (60, 2))
    for true in (0.1, 0.35):
        votes = answers[:, None] + true * rng.normal(size=(60, 400, 2))
        cells = np.clip(((votes + 1) * 2).astype(int), 0, 3)
        probs = np.stack([np.bincount(4 * one[:, 0] + one[:, 1], minlength=16) / 400 for one in cells])
        found = best_width(answers, probs, bins=4)
        assert found == pytest.approx(true, rel=0.15)
        every = [
            jsd(cell_masses(answers[:, None], bins=4, bandwidth=width).reshape(60, 16), probs).mean()
            for width in np.arange(0.05, 1, 0.05)
        ]
        one = jsd(cell_masses(answers[:, None], bins=4, bandwidth=found).reshape(60, 16), probs).mean()
        assert one <= min(every) + 1e-4
