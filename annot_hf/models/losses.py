"""Training losses: the measures of `measures.py`, averaged over a batch, in float32."""

import torch

from .measures import ccc, cross_entropy, jsd, kl

EPSILON = 1e-8  # added to a prediction (arXiv 2408.11956), so that an empty cell costs much but not infinitely much
LOSSES = {"kl": kl, "cross_entropy": cross_entropy, "jsd": jsd}


def distribution_loss(probs: torch.Tensor, labels: torch.Tensor, kind: str) -> torch.Tensor:
    """Mean divergence of predicted from target distributions.

    Args:
        probs: Predictions `(B, K)`.
        labels: Targets `(B, K)`, rows sum to 1.
        kind: "kl" (of the targets from the predictions), "cross_entropy" or "jsd", in nats.

    Returns:
        Scalar >= 0.
    """
    return LOSSES[kind](labels.float(), probs.float() + EPSILON).mean()


def rating_loss(prediction: torch.Tensor, ratings: torch.Tensor, kind: str) -> torch.Tensor:
    """Loss of raters' predicted answers over all (item, rater) pairs of a batch (arXiv 2408.11956, task 1).

    Args:
        prediction: `(P, D)` on [-1, 1].
        ratings: `(P, D)`; NaN where a rater left a dimension out.
        kind: "ccc" for the sum over dimensions of 1 - CCC, "mse" for the mean squared error.

    Returns:
        Scalar >= 0; answers that are not there carry no gradient.
    """
    present = ~ratings.isnan()
    prediction, ratings = prediction.float(), torch.where(present, ratings, 0.0).float()
    if kind == "mse":
        return ((prediction - ratings) ** 2 * present).sum() / present.sum().clip(1)
    return (1 - ccc(prediction.T, ratings.T, mask=present.T)).sum()
