"""Measures between distributions, once, for NumPy arrays and torch tensors alike; torch is never imported.

Every function takes arrays whose last axis is the support, and returns one number per distribution, in nats unless a `base`
is given. Losses, metrics and reports share these lines. Definitions follow Lin (1991) for the Jensen-Shannon *divergence*
(SciPy's `jensenshannon` is its square root) and Lin (1989) for the concordance correlation coefficient. An empty last axis is
an error.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

# A NumPy array or a torch tensor.
Array = Any

# Numbers per block, so that temporaries of large NumPy inputs stay in the cache.
_BLOCK = 1 << 15
# Bins of probability that calibration errors are counted in.
CALIBRATION_BINS = 10
# Recalls closer than this are equal.
_RECALL_SLACK = 1e-12
# Shares closer than this are equal.
_SHARE_SLACK = 1e-9


def kl(reference: Array, prediction: Array, base: float | None = None) -> Array:
    """Kullback-Leibler divergence KL(reference || prediction) = sum q ln(q / p) of distributions `(..., K)`.

    `(...)` in [0, inf], in nats unless a `base` is given; infinite where p is 0 and q is not.

    Example:
        >>> round(float(kl([0.5, 0.5], [0.75, 0.25])), 6)
        0.143841
    """
    return (cross_entropy(reference, prediction, base) - entropy(reference, base)).clip(0.0, None)


def cross_entropy(reference: Array, prediction: Array, base: float | None = None) -> Array:
    """Cross-entropy -sum q ln p of predictions p under references q `(..., K)`, with 0 ln 0 = 0.

    `(...)` in [0, inf], at least the entropy of the reference; in nats unless a `base` is given.
    """
    xp, reference, prediction = _prepare(reference, prediction)
    certain = (prediction <= 0) & (reference > 0)
    finite = -_sum(reference * xp.log(_at_least(xp, prediction)))
    infinite = certain.any(-1)
    return _in_base(xp.where(infinite, math.inf * xp.ones_like(finite), finite), base)


def on_scale(values: Array, low: float, high: float) -> Array:
    """Answers on [-1, 1] as ratings from `low` to `high`."""
    return (values + 1) / 2 * (high - low) + low


def entropy(p: Array, base: float | None = None, *, normalised: bool = False) -> Array:
    """Shannon entropy -sum p ln p of distributions `(..., K)`: `(...)` in [0, ln K] nats, or to another `base`.

    `normalised` divides by the entropy of the uniform distribution, ln K, for [0, 1]: K sets the scale, and not the number of
    labels that happen to be used.
    """
    xp, p = _prepare(p)
    value = (-_sum(p * xp.log(_at_least(xp, p)))).clip(0.0, None)
    return value / math.log(max(p.shape[-1], 2)) if normalised else _in_base(value, base)


def jsd(p: Array, q: Array, base: float | None = None) -> Array:
    """Jensen-Shannon divergence 1/2 KL(p || m) + 1/2 KL(q || m), m = (p + q) / 2, of distributions `(..., K)`.

    `(...)` in [0, ln 2] nats, or in [0, 1] bits with base 2. A divergence: its square root is the distance.

    Example:
        >>> round(float(jsd([0.6, 0.2, 0.1, 0.1], [1, 0, 0, 0])), 4)
        0.1639
    """
    xp, p, q = _prepare(p, q)
    if xp is np and p.shape == q.shape and p.ndim == 2 and p.size > 4 * _BLOCK:
        rows = max(1, _BLOCK // p.shape[1])
        value = np.concatenate([_jsd(np, p[i : i + rows], q[i : i + rows]) for i in range(0, len(p), rows)])
    else:
        value = _jsd(xp, p, q)
    return _in_base(value.clip(0.0, math.log(2)), base)


def tvd(p: Array, q: Array) -> Array:
    """Total variation distance 1/2 sum |p - q|, in [0, 1]: the most any event's probability differs."""
    xp, p, q = _prepare(p, q)
    return 0.5 * _sum(abs(p - q))


def bhattacharyya(p: Array, q: Array) -> Array:
    """Bhattacharyya coefficient sum sqrt(p q), in [0, 1]; 1 means identical."""
    xp, p, q = _prepare(p, q)
    return _sum(_root(xp, p * q)).clip(0.0, 1.0)


def hellinger(p: Array, q: Array) -> Array:
    """Hellinger distance sqrt(1/2 sum (sqrt p - sqrt q)^2), in [0, 1]."""
    xp, p, q = _prepare(p, q)
    return _root(xp, 0.5 * _sum((_root(xp, p) - _root(xp, q)) ** 2)).clip(0.0, 1.0)


def emd(p: Array, q: Array) -> Array:
    """Earth mover's distance on an ordered support, sum |P - Q| of the cumulative sums, in [0, K - 1] of its steps."""
    xp, p, q = _prepare(p, q)
    # The last term is 0, and its rounding error would have a gradient.
    return _sum(abs(xp.cumsum(p - q, -1)[..., :-1]))


def cosine(p: Array, q: Array) -> Array:
    """Cosine similarity, in [0, 1] for distributions."""
    xp, p, q = _prepare(p, q)
    return (_sum(p * q) / xp.sqrt(_sum(p * p) * _sum(q * q))).clip(0.0, 1.0)


def ccc(prediction: Array, reference: Array, *, mask: Array | None = None) -> Array:
    """Concordance correlation coefficient 2 cov / (var + var + (mean - mean)^2) of values `(..., n)`, population moments.

    Pairs count where `mask` `(..., n)` is True, all when None. `(...)` in [-1, 1]. A constant input, a single pair or none but
    masked ones gives 0, never NaN.
    """
    xp, prediction, reference = _prepare(prediction, reference)
    # CCC does not change when both move together. Counting from a value of the data keeps float32 exact for values such
    # as 1000 +- 0.001, and makes constants exactly 0.
    pivot, total = reference[..., :1], prediction.shape[-1]
    if mask is not None:
        mask = xp.asarray(mask, device=prediction.device) != 0
        first = (xp.cumsum(mask, -1) == 1) & mask
        pivot, total = xp.where(first, reference, 0.0).sum(-1)[..., None], mask.sum(-1)[..., None].clip(1)
    prediction, reference = prediction - pivot, reference - pivot
    # A masked value may be NaN.
    if mask is not None:
        prediction, reference = xp.where(mask, prediction, 0.0), xp.where(mask, reference, 0.0)
    mean_p, mean_r = prediction.sum(-1)[..., None] / total, reference.sum(-1)[..., None] / total
    prediction, reference = prediction - mean_p, reference - mean_r
    if mask is not None:
        prediction, reference = xp.where(mask, prediction, 0.0), xp.where(mask, reference, 0.0)
    covariance = (prediction * reference).sum(-1)
    spread = (prediction**2).sum(-1) + (reference**2).sum(-1) + (total * (mean_p - mean_r) ** 2)[..., 0]
    return 2 * covariance / xp.where(spread > 0, spread, xp.ones_like(spread))


def soft_f1(p: Array, q: Array) -> Array:
    """Soft F1 of each label, 2 sum_i min(p_i, q_i) / sum_i (p_i + q_i) over items `(N, K)`: `(K,)` in [0, 1].

    Of fuzzy sets (Harju & Mesaros 2023; arXiv 2502.01891); the F1 of labels where all rows are one-hot. 0 for a label without
    votes and predictions.
    """
    xp, p, q = _prepare(p, q)
    total = (p + q).sum(-2)
    return 2 * xp.minimum(p, q).sum(-2) / xp.where(total > 0, total, xp.ones_like(total))


def mixture(p: Array, q: Array, share: float) -> Array:
    """Distributions `(..., K)` that are q to this share, in [0, 1], and p for the rest."""
    return (1 - share) * p + share * q


def same_order(*arrays: Array) -> tuple[Array, ...]:
    """Frames, series and Arrow tables as arrays, matched by position: a ValueError if their names are not equal."""
    arrays = tuple(array.to_pandas() if hasattr(array, "column_names") else array for array in arrays)
    named = [array for array in arrays if hasattr(array, "axes") and hasattr(array, "to_numpy")]
    for array in named[1:]:
        # From the last axis; row numbers are not names.
        for one, other in zip(named[0].axes[::-1], array.axes[::-1], strict=False):
            one, other = list(one), list(other)
            numbered = list(range(len(one))) in (one, other)
            if one != other and not (numbered and set(one) != set(other)):
                odd = next(pair for pair in zip([*one, None], [*other, None], strict=False) if pair[0] != pair[1])
                raise ValueError(
                    f"Names differ, {odd[0]!r} in one where another has {odd[1]!r}; bring rows and labels into one order "
                    "(frame.reindex_like), or give arrays."
                )
    return tuple(array.to_numpy() if any(array is one for one in named) else array for array in arrays)


def check_distributions(p: Array, name: str, tolerance: float = 4e-3) -> None:
    """Raise a ValueError that names the first row of `p` `(N, K)` that is not a distribution.

    A row may sum to 1 +- `tolerance`: rounding each probability to bfloat16 moves the sum by up to 2^-8.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 2 or not p.size:
        raise ValueError(f"{name} has shape {p.shape}; give a non-empty table (items, labels).")
    for bad, rule in (
        (~np.isfinite(p).all(-1), "holds a value that is not finite"),
        ((p < 0).any(-1), "holds a negative probability"),
        (abs(p.sum(-1) - 1) > tolerance, f"does not sum to 1 within {tolerance:g}"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"{name}: row {row} {rule}: {p[row].tolist()}. Normalise the row or leave the item out.")


def _jsd(xp: Any, p: Array, q: Array) -> Array:
    m = _at_least(xp, 0.5 * (p + q))
    return 0.5 * _sum(p * xp.log(_at_least(xp, p) / m) + q * xp.log(_at_least(xp, q) / m))


def _sum(x: Array) -> Array:
    """Sum over the last axis; as a matrix product, since NumPy reduces short rows slowly."""
    return x @ np.ones(x.shape[-1], x.dtype) if isinstance(x, np.ndarray) else x.sum(-1)


def _at_least(xp: Any, x: Array) -> Array:
    """`x` with zeros replaced by the least normal number of its type: 0 ln 0 is 0 and its gradient finite."""
    return xp.clip(x, xp.finfo(x.dtype).tiny, None)


def _root(xp: Any, x: Array) -> Array:
    """Square root whose gradient at 0 is 0 instead of infinite."""
    return xp.sqrt(_at_least(xp, x)) * (x > 0)


def _in_base(nats: Array, base: float | None) -> Array:
    if base is not None and not (0 < base < math.inf and base != 1):
        raise ValueError(f"base is {base}; use None for nats, 2 for bits, or another positive base.")
    return nats if base is None else nats / math.log(base)


def _prepare(*arrays: Array) -> tuple[Any, ...]:
    """The namespace of the arguments and the arguments as floating arrays of at least 32 bits that fit together."""
    arrays = same_order(*arrays)
    torch = sys.modules.get("torch")
    if torch is not None and any(isinstance(array, torch.Tensor) for array in arrays):
        xp = torch
        device = next(array.device for array in arrays if isinstance(array, torch.Tensor))
        arrays = tuple(torch.as_tensor(array, device=device) for array in arrays)
        wide = torch.float64 if any(array.dtype == torch.float64 for array in arrays) else torch.float32
        arrays = tuple(array.to(wide) for array in arrays)
    else:
        xp = np
        arrays = tuple(np.asarray(array) for array in arrays)
        narrow = all(array.dtype in (np.float16, np.float32) for array in arrays)
        arrays = tuple(array.astype(np.float32 if narrow else np.float64, copy=False) for array in arrays)
    if any(array.ndim == 0 for array in arrays):
        raise ValueError("A single number is not a distribution; give arrays whose last axis is the support.")
    sizes = {array.shape[-1] for array in arrays}
    if len(sizes) > 1:
        raise ValueError(f"The last axes have {' and '.join(map(str, sorted(sizes)))} entries; give equal supports.")
    if not all(sizes):
        raise ValueError(
            "The last axis has no entries; there is no measure of nothing: give one label or pair at least."
        )
    return xp, *arrays


def entropy_correlation(p: np.ndarray, q: np.ndarray) -> float:
    """Pearson correlation of the entropies of predictions p and references q `(N, K)` (Uma et al. 2021), in [-1, 1]."""
    return float(pearson_of(moments(entropy(p), entropy(q)).sum(axis=0)))


def lewidi_cross_entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Cross-entropy as the shared task LeWiDi 2023 computes it (Leonardelli et al. 2023): `(N,)` nats, of `(N, K)`.

    -sum q ln(p + 1e-9), with p clipped to [1e-12, 1 - 1e-12] first: a certain error costs 20.7, not infinity.
    """
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    return -(q * np.log(p.clip(1e-12, 1 - 1e-12) + 1e-9)).sum(axis=-1)


def answer_errors(given: Sequence[np.ndarray], own: Sequence[np.ndarray], span: float | None = None) -> np.ndarray:
    """Error of raters' predicted answers, averaged over the raters of each item `(N,)`, in [0, 1] (LeWiDi 2025).

    `given` and `own` have the answers of an item's raters, in one order: the share that differ, or with the `span` of a scale
    (highest minus lowest step) the absolute distance divided by it.
    """
    if span is None:
        return np.array([np.mean(one != other) for one, other in zip(given, own, strict=True)])
    return np.array([abs(one - other).mean() for one, other in zip(given, own, strict=True)]) / span


def class_counts(predicted: np.ndarray, true: np.ndarray, n_classes: int) -> np.ndarray:
    """Hits, predictions and true cases per item and class `(N, 3, K)`: all that F1, recall and accuracy need."""
    hits = _one_hot(np.where(predicted == true, true, -1), n_classes)
    return np.stack([hits, _one_hot(predicted, n_classes), _one_hot(true, n_classes)], axis=1)


def label_counts(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Hits, predictions and true cases per item and label `(N, 3, K)` where an item may have several labels.

    A label is predicted, or true, if its share of `p`, or of the votes `q` `(N, K)`, is above 1/K, strictly, as in the code of
    EMO-SUPERB (arXiv 2402.13018). Shares that exceed 1/K by 1e-9 or less are equal to it: 2 of 12 votes are no sign of one of
    6 labels, however they are rounded.
    """
    given, voted = (x > 1 / x.shape[1] + _SHARE_SLACK for x in (p, q))
    return np.stack([given & voted, given, voted], axis=1).astype(np.float64)


def macro_f1_of(counts: np.ndarray) -> np.ndarray:
    """Mean F1 over the fixed list of K classes, also in resamples where a class vanishes."""
    return f1_of(counts).mean(axis=-1)


def weighted_f1_of(counts: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes, each weighted by its true cases, as scikit-learn's average "weighted"."""
    true = counts[..., 2, :]
    return ratio((f1_of(counts) * true).sum(axis=-1), true.sum(axis=-1))


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 of every class `(..., K)`; 0 for a class that is neither true nor predicted (zero_division=0)."""
    return ratio(2 * counts[..., 0, :], counts[..., 1, :] + counts[..., 2, :], empty=0.0)


def ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """Elementwise quotient; `empty` where the denominator is zero."""
    zero = denominator == 0
    return np.where(zero, empty, numerator / np.where(zero, 1.0, denominator))


def closed_gap(kl: np.ndarray, marginal: np.ndarray) -> np.ndarray:
    """Share (%) of the gap in cross-entropy from the marginal to the votes that a system closes, from mean KL divergences.

    Cross-entropy minus the entropy of the votes is KL, so it is 1 - KL(model) / KL(marginal); NaN without a gap, where the
    marginal explains the votes.
    """
    return 100 * (1 - ratio(kl, np.where(marginal > 1e-6, marginal, 0.0)))


def pair_agreement(counts: np.ndarray) -> np.ndarray:
    """Probability `(N,)` that two votes of an item are equal, from counts `(N, K)`; NaN for fewer than two votes."""
    n = counts.sum(axis=1)
    return ratio((counts**2).sum(axis=1) - n, n * (n - 1))


def moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The summands of CCC and correlation of `x` and `y` `(N,)`, per item: 1, x, y, x^2, y^2, xy `(N, 6)`.

    Both are shifted and scaled together, which changes neither coefficient. So a large common offset costs no precision, and
    rounding errors of constants stay below a fixed threshold.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    centre = y.mean()
    x, y = x - centre, y - centre
    scale = np.sqrt((x**2).mean() + (y**2).mean())
    if scale > 1e-12 * abs(centre):
        x, y = x / scale, y / scale
    else:
        x, y = np.zeros_like(x), np.zeros_like(y)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def ccc_of(sums: np.ndarray) -> np.ndarray:
    """Concordance correlation, population form, of summed `moments` `(..., 6)`; 0 when either side is constant."""
    gap, var_x, var_y, covariance = _central_moments(sums)
    return ratio(2 * covariance, var_x + var_y + gap**2, empty=0.0)


def pearson_of(sums: np.ndarray) -> np.ndarray:
    """Pearson correlation of summed `moments` `(..., 6)`; 0 when either side is constant."""
    _, var_x, var_y, covariance = _central_moments(sums)
    return ratio(covariance, np.sqrt(var_x * var_y), empty=0.0)


def slope_of(sums: np.ndarray) -> np.ndarray:
    """Least-squares slope of x on y of summed `moments` `(..., 6)`; 0 when either side is constant."""
    _, _, var_y, covariance = _central_moments(sums)
    return ratio(covariance, var_y, empty=0.0)


def _central_moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Difference of means, both variances (rounding set to zero) and the covariance."""
    count, *rest = np.moveaxis(np.asarray(sums), -1, 0)
    x, y, xx, yy, xy = (total / np.maximum(count, 1) for total in rest)
    var_x, var_y = xx - x * x, yy - y * y
    var_x, var_y = np.where(var_x < 1e-13, 0.0, var_x), np.where(var_y < 1e-13, 0.0, var_y)
    return x - y, var_x, var_y, np.where((var_x > 0) & (var_y > 0), xy - x * y, 0.0)


def accuracy_of(counts: np.ndarray) -> np.ndarray:
    """Share of correctly classified items, from summed `class_counts` `(..., 3, K)`."""
    return ratio(counts[..., 0, :].sum(-1), counts[..., 2, :].sum(-1))


def macro_f1_present_of(counts: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur among the true ones, which may be fewer than the fixed list."""
    # Absent labels have an F1 of 0.
    return ratio(f1_of(counts).sum(-1), (counts[..., 2, :] > 0).sum(-1))


def uar_of(counts: np.ndarray) -> np.ndarray:
    """Unweighted average recall over the classes that occur among the true ones."""
    present = counts[..., 2, :] > 0
    recall = ratio(counts[..., 0, :], counts[..., 2, :], empty=0.0)
    return ratio(recall.sum(-1), present.sum(-1))


def plurality_rank(p: np.ndarray, true: np.ndarray) -> np.ndarray:
    """How many labels precede the true one `(n,)` by predicted probability `p` `(n, K)`; ties in support order."""
    own = p[np.arange(len(p)), true][:, None]
    earlier = np.arange(p.shape[1]) < true[:, None]
    return ((p > own) | ((p == own) & earlier)).sum(axis=1)


def speaker_uar(p: np.ndarray, q: np.ndarray, speakers: np.ndarray, n: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The speakers `(S,)`, sorted, and their n-best UAR `(S,)`, over the labels that win an item of that speaker."""
    true = q.argmax(axis=1)
    names, code = np.unique(np.asarray(speakers).astype(str), return_inverse=True)
    cell, classes = code * q.shape[1] + true, len(names) * q.shape[1]
    hits = np.bincount(cell, weights=plurality_rank(p, true) < n, minlength=classes).reshape(len(names), -1)
    items = np.bincount(cell, minlength=classes).reshape(len(names), -1)
    return names, uar_of(np.stack([hits, items, items], axis=1))


def recall_above(recall: np.ndarray, level: float) -> np.ndarray:
    """Which recalls in [0, 1] exceed a level (%), strictly; a mean of .75 that rounding lifts does not exceed 75 %."""
    return recall > level / 100 + _RECALL_SLACK


def calibration_gaps(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Vote share minus probability in the bin of p, 0 in the others `(N, K + 1, bins)`; the last is the best label."""
    best = p.argmax(axis=1)[:, None]
    p, q = (np.concatenate([x, np.take_along_axis(x, best, axis=1)], axis=1) for x in (p, q))
    # In floating point, 1 - .9 is slightly below .1.
    code = np.minimum((p * CALIBRATION_BINS + 1e-9).astype(np.int64), CALIBRATION_BINS - 1)
    out = np.zeros((*p.shape, CALIBRATION_BINS))
    np.put_along_axis(out, code[..., None], (q - p)[..., None], axis=-1)
    return out


def _one_hot(codes: np.ndarray, n_classes: int) -> np.ndarray:
    return (np.asarray(codes)[:, None] == np.arange(n_classes)).astype(np.float64)
