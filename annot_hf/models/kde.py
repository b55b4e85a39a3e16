"""From a handful of ratings to the probability of each grid cell, differentiably (Tavernor et al., arXiv 2408.11956).

Two steps. `draw_observations` imitates other groups of raters: it averages random subsets of the ratings and adds
uniform noise as wide as their spread (Zhang, Essl and Mower Provost 2017). `cell_masses` smooths the observations with
a kernel and integrates the density over each cell in closed form; the outer cells are open, so that no mass is lost at
the ends of the scale. `draw_answers` is the first step for answers that are known up to a variance, as a model predicts
them; a draw is then as wide as the answers that it averages. The random numbers come from a seeded bank, so a target and
a prediction that name the same seed share them and their difference carries no sampling noise. NumPy arrays and torch
tensors are served alike.
"""

import functools
import itertools
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from .measures import Array, jsd

try:
    from scipy.special import expit, ndtr
except ImportError:
    # A process that only loads a checkpoint needs torch alone.
    ndtr = None

# Numbers in a bank (8 MB), unless eight variants of it need more.
_BANK_NUMBERS = 1 << 21
# The smallest bandwidth on [-1, 1], so that a unanimous item is a narrow peak with finite gradients.
_FLOOR = 0.02
# Constant widths of a kernel to choose from, on [-1, 1].
_WIDTHS = np.geomspace(0.05, 1.0, 41)
# Slope of each kernel's CDF argument for a standard deviation of 1.
_STEEPNESS = {"gaussian": 1.0, "logistic": math.pi / math.sqrt(3)}


def draw_observations(ratings: Array, mask: Array | None = None, *, n: int = 200, seed: int | Array = 0) -> Array:
    """Resample each item's ratings into `n` observations: o = mean of a random subset + s u.

    Per draw: a subset size m uniform on 1..R, a random subset of m raters (the same for every dimension), and u uniform
    on (-1/2, 1/2) per dimension; s is the item's sample standard deviation (n - 1) of that dimension. Observations are
    clamped to [-1, 1]. Linear in the ratings for a given s, hence differentiable towards every rater.

    Args:
        ratings: Ratings on [-1, 1], `(B, R, D)` with D = 1 or 2 dimensions, or `(B, R)` for one.
        mask: True where a rating exists `(B, R)`; all when None. Each item needs at least one.
        n: Draws per item.
        seed: One integer, or one per item `(B,)`. An item's draws depend only on its own seed, its number of ratings
            and their order; with a single integer the items' seeds are seed, seed + 1, ...

    Returns:
        Observations `(B, n, D)` in [-1, 1], of the kind (array or tensor) of the ratings.

    Raises:
        ValueError: The shapes do not fit, or an item has no rating.
    """
    return _draw(ratings, None, mask, n, seed)[0]


def draw_answers(
    means: Array,
    variances: Array,
    mask: Array | None = None,
    *,
    n: int = 200,
    seed: int | Array = 0,
    most: int = 0,
) -> tuple[Array, Array]:
    """The observations of answers that are known up to independent errors, and the variance of each observation.

    With weights w_r of the raters in a draw (1/m for those of its subset), its variance is sum_r w_r^2 variance_r. The s of
    `draw_observations` is that of the answers themselves: s^2 = sample variance of the means + mean variance.

    Args:
        means: Expected answers on [-1, 1], as the `ratings` of `draw_observations`.
        variances: Variance of each answer, shaped like `means`.
        mask: As in `draw_observations`.
        n: Draws per item.
        seed: As in `draw_observations`.
        most: Largest subset of raters; any if 0. Means of more answers than an item has votes would vary too little.

    Returns:
        Observations `(B, n, D)` in [-1, 1] and their variances `(B, n, D)`, for `cell_masses`.
    """
    return _draw(means, variances, mask, n, seed, most)


def expected_answers(location: Array, spread: Array, levels: Sequence[int]) -> tuple[Array, Array]:
    """Means in [-1, 1] and variances in [0, 1] of normal opinions, rounded to the nearest level and cut at the ends; `(P, D)`.

    Each of the D questions has `levels` answers, evenly spaced from -1 to 1. With S_k the probability of an opinion above the
    k-th of the K - 1 edges between them, the number N of edges that it passes has E N = sum S_k and E N^2 = sum (2k - 1) S_k.
    """
    torch = sys.modules.get("torch")
    tensor = torch is not None and isinstance(location, torch.Tensor)
    xp, cdf = (torch, torch.special.ndtr) if tensor else (np, _numpy_ndtr())
    means, variances = [], []
    for column, count in enumerate(levels):
        edge = np.arange(1, count, dtype=np.float64)
        edge, step = torch.from_numpy(edge).to(location) if tensor else edge, 2 / (count - 1)
        above = cdf((location[:, column, None] - (edge - 0.5) * step + 1) / spread[:, column, None])
        passed = above.sum(-1)
        means.append(passed * step - 1)
        variances.append((((2 * edge - 1) * above).sum(-1) - passed**2).clip(0) * step**2)
    return xp.stack(means, -1), xp.stack(variances, -1)


def best_width(answers: np.ndarray, probs: np.ndarray, *, bins: int) -> float:
    """The constant kernel width in [0.05, 1] under which single answers `(N, D)` are nearest to the cell masses `(N, K)`.

    The baseline of a model of raters: what the consensus answer alone tells of the distribution. Nearest by mean JSD.
    """
    masses = (cell_masses(answers[:, None], bins=bins, bandwidth=width).reshape(probs.shape) for width in _WIDTHS)
    return float(_WIDTHS[np.argmin([jsd(one, probs).mean() for one in masses])])


def _draw(
    ratings: Array, variances: Array | None, mask: Array | None, n: int, seed: int | Array, most: int = 0
) -> tuple[Array, Array | None]:
    """Observations and, with variances of the ratings, their variances."""
    torch, tensor, ratings = _as_floats(ratings)
    if ratings.ndim != 3:
        raise ValueError(f"ratings have shape {tuple(ratings.shape)}; they must be (items, raters, dimensions).")
    items, raters, dimensions = ratings.shape
    present = np.ones((items, raters), bool) if mask is None else _to_numpy(mask).astype(bool)
    if present.shape != (items, raters):
        raise ValueError(f"mask has shape {present.shape}; it must be (items, raters) = {(items, raters)}.")
    counts = present.sum(1)
    if not counts.all():
        raise ValueError(f"Item {int(np.argmin(counts))} has no rating; leave items without ratings out.")
    seeds = _to_numpy(seed).astype(np.int64)
    seeds = seeds + np.arange(items) if seeds.ndim == 0 else seeds
    if seeds.shape != (items,):
        raise ValueError(f"seed has shape {seeds.shape}; give one integer or one per item ({items}).")

    # Draws come last, as the products below are quickest with a long last axis.
    weights = np.empty((items, raters, n), np.float32)
    noise = np.empty((items, dimensions, n), np.float32)
    for count in np.unique(counts):
        subsets, uniform = _bank(int(count), n, dimensions, min(most, int(count)) or int(count))
        rows = np.flatnonzero(counts == count)
        chosen = _mix(seeds[rows]) % len(subsets)
        noise[rows] = uniform[chosen]
        if count == raters:
            weights[rows] = subsets[chosen]
        else:
            # The bank's raters are an item's present ones, in order.
            position = np.where(present[rows], present[rows].cumsum(1) - 1, count)
            padded = np.concatenate([subsets, np.zeros_like(subsets[:, :1])], 1)
            weights[rows] = np.take_along_axis(padded[chosen], position[:, :, None].repeat(n, 2), 1)
    if tensor:
        weights, noise = (torch.from_numpy(part).to(ratings) for part in (weights, noise))
        present = torch.from_numpy(present).to(ratings.device)
        counts = torch.from_numpy(counts).to(ratings)
        where, zero = torch.where, ratings.new_zeros(())
    else:
        where, zero = np.where, 0.0
    # An absent rating may be NaN, and 0 * NaN is NaN.
    ratings = where(present[..., None], ratings, zero)
    mean = ratings.sum(1, keepdims=True) / counts[:, None, None]
    squares = (where(present[..., None], ratings - mean, zero) ** 2).sum(1) / (counts - 1).clip(1)[:, None]
    if variances is not None:
        variances = where(present[..., None], variances.reshape(ratings.shape), zero)
        squares = squares + variances.sum(1) / counts[:, None]
    # The square root has no gradient at 0.
    spread = where(squares > 1e-12, squares, zero + 1.0) ** 0.5 * (squares > 1e-12)
    observations = (ratings.swapaxes(1, 2) @ weights + spread[:, :, None] * noise).clip(-1.0, 1.0).swapaxes(1, 2)
    return observations, None if variances is None else (variances.swapaxes(1, 2) @ weights**2).swapaxes(1, 2)


def cell_masses(
    observations: Array,
    *,
    bins: int = 4,
    bandwidth: str | float | Array = "scott",
    kernel: str = "gaussian",
    variances: Array | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> Array:
    """Kernel mass of each grid cell, exact: P_ij = 1/n sum_n F_ni G_nj with F, G differences of the kernel's CDF.

    Args:
        observations: `(B, n, D)` with D = 1 or 2, or `(B, n)` for one dimension.
        bins: Cells per dimension, equally wide between `low` and `high`; the outer ones are open.
        bandwidth: Kernel standard deviation: "scott" is the item's sample standard deviation times n^(-1/(D+4)) per
            dimension, not below 0.02 (of the half range) and without a gradient of its own; a positive number; or an
            array that broadcasts to `(B, n, D)`.
        kernel: "gaussian" or "logistic", the published one; `bandwidth` is the standard deviation of either.
        variances: Variance of each observation around its place `(B, n, D)`, as `draw_answers` gives it; it is added to
            the kernel's, and to the variance that "scott" starts from.
        low: Lower end of the grid.
        high: Upper end of the grid.

    Returns:
        Cell probabilities `(B, bins, bins)` (rows: first dimension) for D = 2, `(B, bins)` for D = 1; each sums to 1.

    Raises:
        ValueError: Unknown kernel, unknown or non-positive bandwidth, an impossible grid, no draws, or D is not 1 or 2.
    """
    torch, tensor, observations = _as_floats(observations)
    if observations.ndim != 3 or observations.shape[-1] not in (1, 2) or not observations.shape[1]:
        raise ValueError(f"observations have shape {tuple(observations.shape)}; they must be (items, draws, 1 or 2).")
    if kernel not in _STEEPNESS:
        raise ValueError(f"Unknown kernel {kernel!r}; use one of {', '.join(_STEEPNESS)}.")
    if bins < 1 or not low < high:
        raise ValueError(f"The grid has {bins} bins from {low} to {high}; it needs at least 1 bin and low below high.")
    items, draws, dimensions = observations.shape
    # (B, D, n).
    observations = observations.swapaxes(1, 2)
    observations = observations.contiguous() if tensor else np.ascontiguousarray(observations)
    if isinstance(bandwidth, str):
        if bandwidth != "scott":
            raise ValueError(f"Unknown bandwidth {bandwidth!r}; use 'scott', a positive number or an array.")
        fixed = observations.detach() if tensor else observations
        variance = ((fixed - fixed.mean(-1)[..., None]) ** 2).sum(-1)[:, None] / max(draws - 1, 1)
        if variances is not None:
            variance = variance + (variances.detach() if tensor else variances).mean(1)[:, None]
        bandwidth = (variance**0.5 * draws ** (-1 / (dimensions + 4))).clip(_FLOOR * (high - low) / 2, None)
    elif isinstance(bandwidth, int | float) and not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}; it must be above 0.")
    edges = np.linspace(low, high, bins + 1)[1:-1, None]
    if tensor:
        xp = torch
        edges, bandwidth = (torch.as_tensor(part).to(observations) for part in (edges, bandwidth))
    else:
        xp, bandwidth, normal = np, np.asarray(bandwidth), _numpy_ndtr()
    if variances is not None:
        bandwidth = (bandwidth**2 + variances) ** 0.5
    # Per draw, or one for all draws.
    wide = bandwidth.shape[1] if bandwidth.ndim == 3 else 1
    scale = xp.broadcast_to(_STEEPNESS[kernel] / bandwidth, (items, wide, dimensions)).swapaxes(1, 2)
    if tensor:
        return _differentiable_cells(torch).apply(observations, scale.contiguous(), edges, kernel)
    return _cells(_masses(np, normal if kernel == "gaussian" else expit, observations, scale, edges)[1])


def _cells(mass: Array) -> Array:
    """Mean over draws of each draw's mass in each cell, from that in each bin `(B, D, bins, n)`."""
    return mass[:, 0].mean(-1) if mass.shape[1] == 1 else mass[:, 0] @ mass[:, 1].swapaxes(1, 2) / mass.shape[-1]


def _masses(xp: Any, cdf: Any, observations: Array, scale: Array, edges: Array) -> tuple[Array, Array]:
    """Arguments of the kernel's CDF at the edges `(B, D, bins - 1, n)`, and each draw's mass in each bin `(B, D, bins, n)`."""
    place = edges * scale[:, :, None] - (observations * scale)[:, :, None]
    below = cdf(place)
    items, dimensions, inner, draws = below.shape
    mass = xp.empty((items, dimensions, inner + 1, draws), dtype=below.dtype)
    # Differenced before the sum over draws: the masses of empty cells stay exact to float32, and so do the gradients of
    # their logarithms, which a difference of sums would drown in rounding.
    mass[:, :, :-1], mass[:, :, -1] = below, 1
    mass[:, :, 1:] -= below
    return place, mass


@functools.lru_cache(maxsize=1)
def _differentiable_cells(torch: Any) -> Any:
    """`_cells` of `_masses` with a gradient written by hand, in place: autograd's keeps and copies every step."""
    cdf = {"gaussian": torch.special.ndtr, "logistic": torch.sigmoid}

    class Cells(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, observations: Any, scale: Any, edges: Any, kernel: str) -> Any:
            place, mass = _masses(torch, cdf[kernel], observations, scale, edges)
            ctx.save_for_backward(place, mass, scale)
            ctx.kernel = kernel
            return _cells(mass)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
            place, mass, scale = ctx.saved_tensors
            gradient = gradient / mass.shape[-1]
            if mass.shape[1] == 1:
                of_mass = gradient[:, None, :, None].expand_as(mass)
            else:
                of_mass = torch.stack([gradient @ mass[:, 1], gradient.mT @ mass[:, 0]], 1)
            if ctx.kernel == "gaussian":
                density = (place * place).mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
            else:
                density = torch.sigmoid(place)
                density = density * (1 - density)
            slope = density.mul_(of_mass[:, :, :-1] - of_mass[:, :, 1:])
            of_observations = -slope.sum(2) * scale
            of_scale = slope.mul_(place).sum(2) / scale
            one = scale.shape[-1] < place.shape[-1]
            return of_observations, of_scale.sum(-1, keepdim=True) if one else of_scale, None, None

    return Cells


def bins_of(support: Sequence[Any], dimensions: Sequence[Any]) -> int:
    """How many bins each dimension has in a grid with these cells."""
    return round(len(support) ** (1 / len(dimensions)))


def cell_names(dimensions: Sequence[str], bins: int) -> tuple[str, ...]:
    """Names of the grid cells in the order of `cell_masses`, such as "activation 1/4, valence 3/4"."""
    axes = [[f"{dimension} {cell + 1}/{bins}" for cell in range(bins)] for dimension in dimensions]
    return tuple(", ".join(cells) for cells in itertools.product(*axes))


@functools.lru_cache(maxsize=32)
def _bank(raters: int, n: int, dimensions: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of up to `most` raters `(variants, raters, n)`, noise `(variants, dimensions, n)`; the same in every process."""
    variants = max(8, min(256, _BANK_NUMBERS // (n * raters)))
    generator = np.random.default_rng([raters, n, dimensions])
    keys = generator.random((variants, n, raters), dtype=np.float32)
    sizes = generator.integers(1, most + 1, (variants, n, 1))
    # The ranks of random keys: the first m are a random subset.
    chosen = keys.argsort(-1).argsort(-1) < sizes
    noise = generator.random((variants, n, dimensions), dtype=np.float32) - np.float32(0.5)
    subsets = (chosen / sizes).astype(np.float32)
    return np.ascontiguousarray(subsets.swapaxes(1, 2)), np.ascontiguousarray(noise.swapaxes(1, 2))


def _mix(seeds: np.ndarray) -> np.ndarray:
    """Scramble seeds (the SplitMix64 finaliser), so that neighbouring ones pick unrelated draws."""
    z = seeds.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).astype(np.uint64)


def _as_floats(values: Array) -> tuple[Any, bool, Array]:
    """The module torch, if it is loaded, whether values are a tensor, and the values `(..., D)`, D = 1 of two axes."""
    torch = sys.modules.get("torch")
    tensor = torch is not None and isinstance(values, torch.Tensor)
    if not tensor:
        values = np.asarray(values, dtype=np.float64)
    elif values.dtype not in (torch.float32, torch.float64):
        # Half precision loses the tails of the CDF.
        values = values.float()
    return torch, tensor, values[..., None] if values.ndim == 2 else values


def _numpy_ndtr() -> Any:
    """The normal CDF of NumPy arrays."""
    if ndtr is None:
        raise ImportError("Cell masses of NumPy arrays need SciPy; install scipy or pass torch tensors.")
    return ndtr


def _to_numpy(values: Any) -> np.ndarray:
    """An array on the CPU, without a gradient."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
