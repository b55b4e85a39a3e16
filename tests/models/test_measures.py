"""Measures against SciPy, audmetric and torchmetrics, the same in NumPy and torch, and their laws as properties."""

import math

import audmetric
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cosine as cosine_distance, jensenshannon
from scipy.stats import entropy as scipy_entropy, wasserstein_distance
from torchmetrics.functional import concordance_corrcoef, kl_divergence

from annot_hf.models import measures
from annot_hf.models.measures import (
    bhattacharyya,
    ccc,
    check_distributions,
    cosine,
    cross_entropy,
    emd,
    entropy,
    hellinger,
    jsd,
    kl,
    tvd,
)

P, Q = [0.6, 0.2, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0]
PAIRWISE = {"kl": kl, "jsd": jsd, "tvd": tvd, "bhattacharyya": bhattacharyya, "hellinger": hellinger, "emd": emd}
PAIRWISE |= {"cosine": cosine, "cross_entropy": cross_entropy}
SYMMETRIC = {name: PAIRWISE[name] for name in ("jsd", "tvd", "bhattacharyya", "hellinger", "emd", "cosine")}
DISTANCES = {"kl": math.inf, "jsd": math.log(2), "tvd": 1.0, "hellinger": 1.0, "emd": 7.0}
SIMILARITIES = {"bhattacharyya": bhattacharyya, "cosine": cosine}


def by_name(functions):
    return pytest.mark.parametrize("function", functions.values(), ids=list(functions))


@st.composite
def pairs(draw, least=2, dtype=np.float64):
    """Two distributions `(K,)` with zeros, tiny and subnormal entries."""
    size = draw(st.integers(least, 8))
    width = np.dtype(dtype).itemsize * 8
    entries = st.one_of(
        st.just(0.0), st.floats(0, 1, width=width), st.sampled_from([float(np.finfo(dtype).tiny) / 4, 1.0])
    )
    rows = draw(arrays(dtype, (2, size), elements=entries))
    rows[rows.sum(1) < 0.1, 0] = 1
    return rows / rows.sum(1, keepdims=True)


def dirichlet(*shape, seed=0, sparse=True):
    generator = np.random.default_rng(seed)
    rows = generator.dirichlet(np.full(shape[-1], 0.7), shape[:-1])
    if sparse:
        rows[generator.random(rows.shape) < 0.3] = 0
        rows[..., 0] += 1 - rows.sum(-1)
    return rows


# --- anchors and oracles


def test_the_four_numbers_of_one_jensen_shannon_pair():
    assert jsd(P, Q) == pytest.approx(0.1639, abs=5e-5)
    assert jsd(P, Q, base=2) == pytest.approx(0.2365, abs=5e-5)
    assert jsd(P, Q) ** 0.5 == pytest.approx(0.4048, abs=6e-5) == jensenshannon(P, Q)
    assert jsd(P, Q, 2) ** 0.5 == pytest.approx(0.4863, abs=6e-5) == jensenshannon(P, Q, base=2)


def test_disjoint_certainties():
    one, other = [1.0, 0, 0], [0, 0, 1.0]
    assert jsd(one, other) == pytest.approx(math.log(2)) and jsd(one, other, base=2) == pytest.approx(1)
    assert tvd(one, other) == 1 and hellinger(one, other) == pytest.approx(1) and emd(one, other) == 2
    assert bhattacharyya(one, other) == 0 and cosine(one, other) == 0
    assert kl(one, other) == math.inf == cross_entropy(one, other)


def test_against_scipy():
    p, q = dirichlet(200, 7), dirichlet(200, 7, seed=1)
    np.testing.assert_allclose(jsd(p, q), jensenshannon(p, q, axis=1) ** 2, atol=1e-13)
    np.testing.assert_allclose(kl(p, q), scipy_entropy(p, q, axis=1), atol=1e-13)
    np.testing.assert_allclose(entropy(p, base=2), scipy_entropy(p, base=2, axis=1), atol=1e-13)
    np.testing.assert_allclose(tvd(p, q), np.abs(p - q).sum(1) / 2, atol=1e-13)
    np.testing.assert_allclose(hellinger(p, q) ** 2, 1 - bhattacharyya(p, q), atol=1e-13)
    steps = np.arange(7)
    for row in range(50):
        assert cosine(p[row], q[row]) == pytest.approx(1 - cosine_distance(p[row], q[row]), abs=1e-13)
        assert emd(p[row], q[row]) == pytest.approx(wasserstein_distance(steps, steps, p[row], q[row]), abs=1e-12)


def test_large_tables_go_by_blocks_and_give_the_same():
    p, q = dirichlet(20_000, 9), dirichlet(20_000, 9, seed=1)
    np.testing.assert_array_equal(jsd(p, q)[:100], jsd(p[:100], q[:100]))
    np.testing.assert_allclose(jsd(p, q), jensenshannon(p, q, axis=1) ** 2, atol=1e-12)
    assert len(jsd(p, q)) == 20_000


def test_kl_against_torchmetrics_and_its_direction():
    p, q = (torch.tensor(dirichlet(50, 5, seed=seed, sparse=False)) for seed in (0, 1))
    assert kl(p, q).mean() == pytest.approx(kl_divergence(p, q).item(), abs=1e-12)
    assert kl([1.0, 0.0], [0.5, 0.5]) == pytest.approx(math.log(2)) and kl([0.5, 0.5], [1.0, 0.0]) == math.inf


def test_float64_sees_below_float32():
    assert cross_entropy([1.0, 0.0], [1e-200, 1.0]) == pytest.approx(200 * math.log(10))


def test_entropy_scales():
    uniform = np.full(9, 1 / 9)
    assert entropy(uniform) == pytest.approx(math.log(9)) and entropy(uniform, normalised=True) == pytest.approx(1)
    assert entropy([0.5, 0.5] + [0] * 7, normalised=True) == pytest.approx(math.log(2) / math.log(9))
    assert entropy([1.0, 0, 0]) == 0 and entropy([1.0], normalised=True) == 0


@pytest.mark.parametrize("base", [2, 10])
def test_bases_against_scipy(base):
    p, q = dirichlet(50, 5, sparse=False), dirichlet(50, 5, seed=1, sparse=False)
    np.testing.assert_allclose(kl(p, q, base), scipy_entropy(p, q, base, axis=1), atol=1e-13)
    cross = scipy_entropy(p, base=base, axis=1) + scipy_entropy(p, q, base, axis=1)
    np.testing.assert_allclose(cross_entropy(p, q, base), cross, atol=1e-13)
    np.testing.assert_allclose(jsd(p, q, base), jensenshannon(p, q, base, axis=1) ** 2, atol=1e-13)


@pytest.mark.parametrize("size", [2, 3, 9])
def test_normalised_entropy_is_over_the_logarithm_of_the_number_of_labels(size):
    p = dirichlet(50, size)
    np.testing.assert_allclose(entropy(p, normalised=True), scipy_entropy(p, base=size, axis=1), atol=1e-13)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_rounding_makes_no_similarity_above_one(kind):
    p = kind(dirichlet(2000, 6, sparse=False).astype(np.float32))
    for function in (bhattacharyya, cosine):
        assert function(p, p * np.float32(1 + 1e-6)).max() <= 1 and function(p, p).max() <= 1


@by_name(PAIRWISE)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_numpy_and_torch_are_one(function, dtype):
    p, q = (torch.tensor(dirichlet(3, 40, 6, seed=seed)).to(getattr(torch, dtype)) for seed in (0, 1))
    wide = torch.float64 if dtype == "float64" else torch.float32
    ours = function(p, q)
    assert ours.shape == (3, 40) and ours.dtype == wide
    exact = function(p.double().numpy(), q.double().numpy())
    assert exact.dtype == np.float64
    np.testing.assert_allclose(ours.numpy(), exact, atol=1e-12 if wide == torch.float64 else 2e-6)
    if dtype != "bfloat16":
        assert function(p.numpy(), q.numpy()).dtype == (np.float64 if dtype == "float64" else np.float32)


@by_name(PAIRWISE)
def test_inputs_are_never_written(function):
    p, q = dirichlet(5, 4), dirichlet(5, 4, seed=1)
    before = p.copy(), q.copy()
    function(p, q), function(torch.from_numpy(p), torch.from_numpy(q))
    np.testing.assert_array_equal(p, before[0])
    np.testing.assert_array_equal(q, before[1])


@by_name(PAIRWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("p", "q"), [(Q, Q), (P, P), (P, Q), (Q, P), ([0, 0, 0, 1.0], Q), ([0.25] * 4, [1e-44, 0, 0, 1])]
)
def test_gradients_are_finite_at_zeros_and_at_equality(function, dtype, p, q):
    p, q = (torch.tensor(row, dtype=dtype, requires_grad=True) for row in (p, q))
    value = function(p, q)
    if torch.isfinite(value):
        value.backward()
        assert torch.isfinite(p.grad).all() and torch.isfinite(q.grad).all()


@by_name(PAIRWISE)
def test_gradients_are_right_inside_the_simplex(function):
    p, q = (torch.tensor(dirichlet(3, 5, seed=s, sparse=False) + 0.01, requires_grad=True) for s in (0, 1))
    assert torch.autograd.gradcheck(function, (p, q))


def test_an_impossible_label_costs_infinitely_but_poisons_no_gradient():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], requires_grad=True)
    value = cross_entropy(torch.tensor([[0.0, 0.5, 0.5], [0.2, 0.3, 0.5]]), p)
    assert value.tolist()[0] == math.inf
    value.sum().backward()
    assert torch.isfinite(p.grad).all()


# --- laws


@by_name({name: PAIRWISE[name] for name in DISTANCES})
@given(pair=pairs())
def test_distances_are_bounded_and_zero_on_equality(function, pair):
    p, q = pair
    assert 0 <= function(p, q) <= DISTANCES[function.__name__] + 1e-12
    assert function(p, p) == pytest.approx(0, abs=1e-12)


@by_name(SIMILARITIES)
@given(pair=pairs())
def test_similarities_are_bounded_and_one_on_equality(function, pair):
    p, q = pair
    assert 0 <= function(p, q) <= 1
    assert function(p, p) == pytest.approx(1, abs=1e-12)


@by_name(SYMMETRIC)
@given(pair=pairs())
def test_symmetry(function, pair):
    assert function(*pair) == pytest.approx(function(*pair[::-1]), abs=1e-12)


@by_name({name: function for name, function in PAIRWISE.items() if name != "emd"})
@given(pair=pairs(), seed=st.integers(0, 99))
def test_the_order_of_labels_does_not_matter(function, pair, seed):
    order = np.random.default_rng(seed).permutation(pair.shape[1])
    assert function(*pair[:, order]) == pytest.approx(function(*pair), abs=1e-12)


@by_name({name: PAIRWISE[name] for name in ("kl", "jsd", "tvd", "hellinger")})
@given(pair=pairs(least=3))
def test_merging_labels_never_tells_more(function, pair):
    merged = np.concatenate([pair[:, :1] + pair[:, 1:2], pair[:, 2:]], axis=1)
    assert function(*merged) <= function(*pair) + 1e-9


@given(pair=pairs())
def test_inequalities_between_measures(pair):
    p, q = pair
    assert hellinger(p, q) ** 2 <= tvd(p, q) + 1e-12 and tvd(p, q) <= math.sqrt(2) * hellinger(p, q) + 1e-12
    assert jsd(p, q) <= tvd(p, q) * math.log(2) + 1e-12
    assert 2 * tvd(p, q) ** 2 <= kl(p, q) + 1e-12
    assert cross_entropy(p, q) >= entropy(p) - 1e-12


@given(pair=pairs(dtype=np.float32))
def test_float32_stays_within_bounds(pair):
    for function in (jsd, hellinger, tvd, bhattacharyya, cosine):
        value = function(*pair)
        assert value.dtype == np.float32 and 0 <= value <= 1.000001
        assert function(*map(torch.from_numpy, pair)).item() == pytest.approx(float(value), abs=1e-6)


# --- concordance


def test_ccc_against_audmetric_and_torchmetrics():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 500))
    x[1] = 0.5 * x[0] + 0.3 * x[1] + 0.2
    assert ccc(x[0], x[1]) == pytest.approx(audmetric.concordance_cc(x[1], x[0]), abs=1e-12)
    # torchmetrics uses sample moments: it agrees to O(1/n)
    assert ccc(*torch.tensor(x)).item() == pytest.approx(concordance_corrcoef(*torch.tensor(x)).item(), abs=1e-2)
    many = generator.normal(size=(2, 4, 30))
    singles = [ccc(many[0, row], many[1, row]) for row in range(4)]
    np.testing.assert_allclose(ccc(many[0], many[1]), singles, atol=1e-14)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_ccc_of_float32_with_a_large_offset(kind):
    generator = np.random.default_rng(0)
    x = (1000 + 1e-3 * generator.normal(size=(2, 100_000))).astype(np.float32)
    x[1] = x[0] + (1e-3 * generator.normal(size=100_000)).astype(np.float32)
    exact = audmetric.concordance_cc(x[1].astype(np.float64), x[0].astype(np.float64))
    assert float(ccc(kind(x[0]), kind(x[1]))) == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_degenerate_ccc_is_zero(kind):
    constant, line = kind([0.1, 0.1, 0.1]), kind([0.1, 0.2, 0.3])
    for pair in ((constant, constant), (constant, line), (line, constant), (line[:1], line[:1])):
        assert float(ccc(*pair)) == pytest.approx(0, abs=1e-12)
    assert float(ccc(constant, constant)) == 0
    assert float(ccc(line, line, mask=kind([False, False, False]))) == 0
    assert float(ccc(line, line)) == pytest.approx(1) and float(ccc(line, -line)) < 0


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_masked_ccc_is_the_ccc_of_what_is_left(kind):
    generator = np.random.default_rng(0)
    p, r = generator.normal(size=(2, 3, 20))
    mask = generator.random((3, 20)) < 0.6
    expected = [ccc(p[row][mask[row]], r[row][mask[row]]) for row in range(3)]
    p[~mask], r[~mask] = np.nan, np.nan
    np.testing.assert_allclose(ccc(kind(p), kind(r), mask=kind(mask)), expected, atol=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_masked_ccc_of_float32_with_large_offsets(kind):
    generator = np.random.default_rng(0)
    r = np.array([[1000.0], [-5000.0]]) + 1e-2 * generator.normal(size=(2, 2000))
    p = r + 1e-2 * generator.normal(size=(2, 2000))
    mask = generator.random((2, 2000)) < 0.5
    mask[:, :3] = False
    p, r = p.astype(np.float32), r.astype(np.float32)
    exact = [audmetric.concordance_cc(*(x[row][mask[row]].astype(np.float64) for x in (r, p))) for row in (0, 1)]
    np.testing.assert_allclose(ccc(kind(p), kind(r), mask=kind(mask)), exact, atol=1e-5)


def test_ccc_gradients():
    p, r = torch.randn(2, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12) < torch.tensor([[12], [7], [3]])
    p.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: ccc(p, r, mask=mask), (p,))
    (gradient,) = torch.autograd.grad(ccc(p, r, mask=mask).sum(), p)
    assert (gradient[~mask] == 0).all()
    flat = torch.full((5,), 0.3, requires_grad=True)
    ccc(flat, torch.full((5,), 0.3)).backward()
    assert torch.isfinite(flat.grad).all()


@given(x=arrays(np.float64, (2, 10), elements=st.floats(-1e3, 1e3)))
def test_ccc_is_bounded_symmetric_and_blind_to_a_common_shift(x):
    value = ccc(x[0], x[1])
    assert -1 - 1e-9 <= value <= 1 + 1e-9
    assert value == pytest.approx(ccc(x[1], x[0]), abs=1e-9)
    if np.ptp(x) > 1e-3:
        assert ccc(x[0] + 7, x[1] + 7) == pytest.approx(value, abs=1e-6)


# --- errors


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="2 and 3 entries; give equal supports"):
        jsd([0.5, 0.5], [0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="A single number is not a distribution"):
        tvd(0.5, 0.5)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@by_name(PAIRWISE | {"ccc": ccc, "entropy": lambda p, _: entropy(p)})
def test_nothing_has_no_measure(function, kind):
    for nothing in ([], np.zeros((3, 0))):
        with pytest.raises(ValueError, match="The last axis has no entries"):
            function(kind(nothing), kind(nothing))


@by_name(PAIRWISE | {"ccc": ccc})
def test_names_of_two_frames_must_be_the_same(function):
    p = pd.DataFrame([[0.6, 0.4], [0.1, 0.9], [0.3, 0.7]], index=list("xyz"), columns=["a", "b"])
    q = p.set_axis(list("xyz")) * 0.5 + 0.25
    expected = function(p.to_numpy(), q.to_numpy())
    for other in (q, q.reset_index(drop=True), q.to_numpy()):
        np.testing.assert_array_equal(function(p, other), expected)
    np.testing.assert_array_equal(function(p.loc["x"], q.loc["x"]), expected[0])
    np.testing.assert_array_equal(function(pa.table(p.reset_index(drop=True)), q), expected)
    for other in (q[["b", "a"]], q[::-1], q.rename(columns={"b": "c"}), pa.table(q[["b", "a"]].reset_index(drop=True))):
        with pytest.raises(ValueError, match="Names differ, '.' in one where another has '.'; bring"):
            function(p, other)
    with pytest.raises(ValueError, match="Names differ, 'a' in one where another has 'b'"):
        function(p.loc["x"], q.loc["x", ["b", "a"]])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([0.5, 0.5], r"shape \(2,\)"),
        (np.zeros((0, 3)), "non-empty"),
        ([[0.5, 0.5], [np.nan, 1]], "row 1 holds a value that is not finite"),
        ([[0.5, 0.5], [np.inf, 1]], "row 1 holds a value that is not finite"),
        ([[1.5, -0.5]], "row 0 holds a negative"),
        ([[0.5, 0.5], [1.5, -0.5]], "row 1 holds a negative"),
        ([[0.5, 0.5], [0.5, 0.6]], "row 1 does not sum to 1"),
        ([[0.0, 0.0]], "does not sum to 1"),
    ],
)
def test_check_distributions_names_the_row(rows, words):
    with pytest.raises(ValueError, match=words):
        check_distributions(rows, "predictions")
    check_distributions([[0.5, 0.5]], "predictions")


def test_examples_in_the_docstrings():
    import doctest

    assert doctest.testmod(measures).failed == 0
