"""Training losses: the measures of `measures.py`, averaged over a batch, in float32."""

from collections.abc import Sequence

import torch

from .measures import ccc, cross_entropy, jsd, kl, soft_f1

# Added to predictions (arXiv 2408.11956), so that the cost of an empty cell is large but finite.
EPSILON = 1e-8
# The CCC of a column is left out where its targets vary less over the batch.
LEAST_VARIANCE = 1e-6
# A predicted log-variance is clipped to +- this (arXiv 2606.27536).
LOG_VARIANCE = 10.0
# Standard deviations beyond which nothing lies.
_FAR = 1e4
LOSSES = ("kl", "cross_entropy", "jsd", "ccc", "soft_f1")
# Losses that compare the items of a batch with each other, and have none per item.
BATCH_LOSSES = ("ccc", "soft_f1")
CLASS_WEIGHTED = ("kl", "cross_entropy")


def distribution_loss(
    probs: torch.Tensor,
    labels: torch.Tensor,
    kind: str,
    *,
    class_weights: Sequence[float] | None = None,
    item_weights: torch.Tensor | None = None,
    jsd_share: float = 0.0,
) -> torch.Tensor:
    """Mean divergence of predicted from target distributions.

    Args:
        probs: Predictions `(B, K)`.
        labels: Targets `(B, K)`, rows sum to 1; one-hot rows make "cross_entropy" the usual hard one.
        kind: "kl" (of the targets from the predictions), "cross_entropy" or "jsd", in nats; or "ccc", 1 - CCC over the
            batch of each label's column, averaged over the columns whose targets vary (arXiv 2503.22711); or "soft_f1",
            1 - the soft F1 of each label over the batch, averaged over labels (arXiv 2502.01891).
        class_weights: Weight of each label `(K,)` for "kl" and "cross_entropy", applied to the label's term before the
            sum over labels (arXiv 2606.27536, section 2.3). A weighted "kl" is no divergence and can be negative.
        item_weights: Weight of each item `(B,)`, of mean 1; not for "ccc" and "soft_f1", which have no loss per item.
        jsd_share: Mixes in the JSD, in [0, 1]: (1 - share) loss + share 4 JSD. Near the target 4 JSD equals the KL
            divergence to second order; far from it, it forgives where the KL divergence does not. Not for these two either.

    Returns:
        Scalar; >= 0 unless `class_weights` are given.

    Raises:
        ValueError: The loss knows no such weights, or the targets are no distributions over the labels.
    """
    _check_shape(labels, probs)
    labels, probs = labels.float(), probs.float()
    if kind in BATCH_LOSSES:
        if item_weights is not None or class_weights is not None or jsd_share:
            raise ValueError(
                f'Loss "{kind}" takes no weights and no jsd_share, as it compares columns; use "kl", "jsd" or "cross_entropy".'
            )
        if kind == "soft_f1":
            return 1 - soft_f1(probs, labels).mean()
        varied = labels.var(0, correction=0) >= LEAST_VARIANCE
        return ((1 - ccc(probs.T, labels.T)) * varied).sum() / varied.sum().clip(1)
    if class_weights is not None:
        if kind not in CLASS_WEIGHTED:
            raise ValueError(f"Loss {kind!r} takes no class weights; use one of {', '.join(CLASS_WEIGHTED)}.")
        weighted = labels * torch.as_tensor(class_weights, dtype=labels.dtype, device=labels.device)
        loss = cross_entropy(weighted, probs + EPSILON)
        if kind == "kl":
            loss = loss - cross_entropy(weighted, labels.clip(torch.finfo(labels.dtype).tiny))
    else:
        loss = {"kl": kl, "cross_entropy": cross_entropy, "jsd": jsd}[kind](labels, probs + EPSILON)
    if jsd_share:
        loss = (1 - jsd_share) * loss + jsd_share * 4 * jsd(labels, probs + EPSILON)
    return (loss if item_weights is None else loss * item_weights).mean()


def effective_number_weights(counts: Sequence[float], beta: float = 0.9999) -> list[float]:
    """Class-balanced weights (1 - beta) / (1 - beta^n), of mean 1 (Cui et al. 2019; arXiv 2606.27536, section 2.3).

    Args:
        counts: Training items of each class `(K,)`; a class without any counts as one item.
        beta: In [0, 1): 0 weighs all classes alike, towards 1 they are weighed by inverse frequency.

    Raises:
        ValueError: beta is out of range.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}; it must be at least 0 and below 1, such as 0.9999.")
    counts = torch.as_tensor(counts, dtype=torch.float64).clip(1)
    weights = (1 - beta) / (1 - beta**counts)
    return (weights / weights.mean()).tolist()


def inverse_frequency_weights(counts: Sequence[float], low: float = 0.25, high: float = 5.0) -> list[float]:
    """Weights 1 / n of mean 1, then clipped to [low, high] (arXiv 2606.27536, section 2.3).

    `counts` `(K,)` are training items, or votes, of each class; a class without any counts as one.
    """
    weights = 1 / torch.as_tensor(counts, dtype=torch.float64).clip(1)
    return (weights / weights.mean()).clip(low, high).tolist()


def rating_loss(prediction: torch.Tensor, ratings: torch.Tensor, kind: str) -> torch.Tensor:
    """Loss of raters' answers `prediction` `(P, D)` on [-1, 1] over all (item, rater) pairs (arXiv 2408.11956, task 1).

    "ccc" is the sum over dimensions of 1 - CCC, "mse" the mean squared error. NaN in `ratings` `(P, D)`, where a rater left
    a dimension out, carries no gradient.
    """
    _check_shape(ratings, prediction)
    present = ~ratings.isnan()
    prediction, ratings = prediction.float(), torch.where(present, ratings, 0.0).float()
    # The CCC of no answers is undefined.
    if kind == "mse" or not len(prediction):
        return ((prediction - ratings) ** 2 * present).sum() / present.sum().clip(1)
    return (1 - ccc(prediction.T, ratings.T, mask=present.T)).sum()


def answer_loss(
    location: torch.Tensor, spread: torch.Tensor, ratings: torch.Tensor, levels: Sequence[int]
) -> torch.Tensor:
    """Mean of `answer_costs` over the answers that were given, in float32."""
    _check_shape(ratings, location)
    costs = answer_costs(location.float(), spread.float(), ratings.float(), levels)
    return costs.sum() / (~ratings.isnan()).sum().clip(1)


def answer_costs(
    location: torch.Tensor, spread: torch.Tensor, ratings: torch.Tensor, levels: Sequence[int]
) -> torch.Tensor:
    """Negative log-likelihood (nats) of answers `(P, D)` that are a normal opinion, rounded to a level and cut at the ends.

    An answer is given where the opinion lies within half a step of it, so that its probability is a difference of two normal
    CDFs; beyond the lowest and the highest answer the interval is open. Opinions have mean `location` and standard deviation
    `spread` `(P, D)`; `ratings` `(P, D)` are on [-1, 1], NaN where a rater left a dimension out, which costs 0. `levels` is
    the number of evenly spaced answers of each of the D questions.
    """
    present = ~ratings.isnan()
    ratings = torch.where(present, ratings, 0.0)
    half = 1 / (torch.tensor(levels, device=location.device, dtype=location.dtype) - 1)
    below, above = ((ratings + side * half - location) / spread for side in (-1, 1))
    below = torch.where(ratings > half - 1, below, -_FAR)
    above = torch.where(ratings < 1 - half, above, _FAR)
    # The logarithms of both CDFs are exact only where these are small.
    upper = below > 0
    below, above = torch.where(upper, -above, below), torch.where(upper, -below, above)
    high, low = torch.special.log_ndtr(above), torch.special.log_ndtr(below)
    return (-high - torch.log1p(-torch.exp(low - high))) * present


def scale_loss(
    mean: torch.Tensor,
    log_variance: torch.Tensor,
    targets: torch.Tensor,
    *,
    dimension_weights: Sequence[float] | None = None,
    nll_weight: float = 1.0,
    ccc_weight: float = 0.1,
) -> torch.Tensor:
    """Gaussian negative log-likelihood of scale targets plus a CCC term (arXiv 2606.27536, section 2.3); it can be negative.

    nll_weight mean_b,d w_d 1/2 (exp(-s) (mean - y)^2 + s) + ccc_weight max(0, 1 - sum_d w_d CCC_d / sum_d w_d), where s is the
    log-variance clipped to +- 10, w `(D,)` are the `dimension_weights`, all 1 when None, and the constant ln(2 pi) / 2 is left
    out. `mean`, `log_variance` and the targets y are `(B, D)`, on [-1, 1]; NaN where an item has no target, which then counts
    nowhere. nll_weight 0 leaves the CCC loss of arXiv 2503.22711, and variances unlearnt.
    """
    _check_shape(targets, mean)
    present = ~targets.isnan()
    mean, targets = mean.float(), torch.where(present, targets, 0.0).float()
    log_variance = log_variance.float().clip(-LOG_VARIANCE, LOG_VARIANCE)
    weights = torch.ones(mean.shape[-1]) if dimension_weights is None else torch.as_tensor(dimension_weights)
    weights = weights.to(mean)
    likelihood = 0.5 * ((-log_variance).exp() * (mean - targets) ** 2 + log_variance)
    loss = (likelihood * weights * present).sum() / present.sum().clip(1)
    rated = weights * present.any(0)
    agreement = (rated * ccc(mean.T, targets.T, mask=present.T)).sum() / rated.sum().clip(EPSILON)
    return nll_weight * loss + ccc_weight * (1 - agreement).clip(0)


def auxiliary_softmax(scores: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Distributions over the labels of questions side by side, from their scores `(..., sum of sizes)`."""
    return torch.cat([part.float().softmax(-1) for part in scores.split(list(sizes), -1)], -1)


def auxiliary_loss(probs: torch.Tensor, labels: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Mean over questions of the mean KL divergence (nats) of predictions from distributions, over rows that are not NaN.

    Both are `(B, sum of sizes)`, the questions side by side, and `sizes` says how many labels each has.
    """
    _check_shape(labels, probs)
    losses = []
    for predicted, voted in zip(probs.split(list(sizes), -1), labels.split(list(sizes), -1), strict=True):
        present = ~voted.isnan().any(-1)
        loss = kl(torch.where(present[:, None], voted, 1.0 / voted.shape[-1]).float(), predicted.float() + EPSILON)
        losses.append((loss * present).sum() / present.sum().clip(1))
    return sum(losses) / len(losses)


def _check_shape(targets: torch.Tensor, predictions: torch.Tensor) -> None:
    """Raise if the shapes differ, because targets such as one label per item would broadcast silently."""
    if targets.shape != predictions.shape:
        raise ValueError(
            f"Targets have shape {tuple(targets.shape)} and predictions {tuple(predictions.shape)}; give as many numbers an "
            "item as are predicted."
        )
