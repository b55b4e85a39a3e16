"""Outputs of the models."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class TrunkOutput(ModelOutput):
    """Frames of a trunk of ours.

    Attributes:
        last_hidden_state: Frames `(B, T, H)`; zero where there is padding.
        frame_mask: True where a frame is real `(B, T)`.
        hidden_states: On request, the hidden states 0 to L of a trunk with transformer layers, each `(B, T, H)`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    frame_mask: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class DistributionOutput(ModelOutput):
    """A distribution of opinion per item.

    Attributes:
        loss: Scalar, present when `labels` were given.
        probs: Distribution over the K entries of the support `(B, K)`; rows sum to 1.
        logits: Scores before the softmax `(B, K)`; of several draws of a Bayesian head, the log of their mean softmax.
        scale_mean: Mean rating expected on each of the D scale questions beside `(B, D)`, on [-1, 1] but not squashed.
        scale_log_variance: Log of the variance around it `(B, D)`.
        auxiliary_probs: Distributions over the labels of the auxiliary questions, side by side `(B, sum of K)`.
        disagreement: How far raters are expected to disagree `(B,)`, in [0, 1].
        weight_kl: KL divergence (nats) of a Bayesian head's weights from their prior `(1,)`.
    """

    loss: torch.FloatTensor | None = None
    probs: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    scale_mean: torch.FloatTensor | None = None
    scale_log_variance: torch.FloatTensor | None = None
    auxiliary_probs: torch.FloatTensor | None = None
    disagreement: torch.FloatTensor | None = None
    weight_kl: torch.FloatTensor | None = None


@dataclass
class AnnotatorOutput(ModelOutput):
    """Each rater's answer, and the distribution of the raters.

    Attributes:
        loss: Scalar, present when ratings or labels of the task were given.
        probs: Distribution of the raters' answers over the support `(B, K)`; rows sum to 1.
        consensus: Answer of the average rater: `(B, D)` on [-1, 1] for scales, probabilities `(B, K)` for a category.
        ratings: Answer of each (item, rater) pair: `(P, D)` on [-1, 1] (not squashed), or probabilities `(P, K)`.
        consensus_logits: Scores of the consensus before the softmax `(B, K)`, for a category.
        rating_logits: Scores of each pair before the softmax `(P, K)`, for a category.
        pair_item: Item of each pair, an index into the batch `(P,)`.
        pair_annotator: Rater of each pair, an index into `config.annotators`, -1 for the consensus fallback `(P,)`.
        spreads: Standard deviation of each pair's votes around its answer `(P, D)` on [-1, 1], for scales whose spread is
            learned.
    """

    loss: torch.FloatTensor | None = None
    probs: torch.FloatTensor | None = None
    consensus: torch.FloatTensor | None = None
    ratings: torch.FloatTensor | None = None
    consensus_logits: torch.FloatTensor | None = None
    rating_logits: torch.FloatTensor | None = None
    pair_item: torch.LongTensor | None = None
    pair_annotator: torch.LongTensor | None = None
    spreads: torch.FloatTensor | None = None


@dataclass
class SeedBertOutput(ModelOutput):
    """Outputs of n members, and the distribution that they form.

    Attributes:
        loss: Scalar, present when `labels` were given: the mean of the members' own losses.
        probs: The distribution of opinion `(B, K)`, rows sum to 1. As the configuration says, the `histogram`, with a
            millionth of `mean_probs` in it so that its largest entry is `label`, or `mean_probs`.
        histogram: Share of the members whose most probable label is k `(B, K)`, in steps of 1 / n (arXiv 2211.13196).
        mean_probs: Mean of the members' softmax `(B, K)`.
        member_logits: Scores of each member before its softmax `(B, n, K)`.
        votes: Label that each member votes for, an index into the support `(B, n)`.
        label: Majority vote `(B,)`; of labels with equally many votes, the one of the largest mean softmax.
        token_attention: With `explain`, how much each member attends to each input position `(B, n, T)`; rows sum to 1,
            padding has 0.
        auxiliary_probs: Each member's distributions over the labels of the auxiliary questions `(B, n, sum of K)`.
    """

    loss: torch.FloatTensor | None = None
    probs: torch.FloatTensor | None = None
    histogram: torch.FloatTensor | None = None
    mean_probs: torch.FloatTensor | None = None
    member_logits: torch.FloatTensor | None = None
    votes: torch.LongTensor | None = None
    label: torch.LongTensor | None = None
    token_attention: torch.FloatTensor | None = None
    auxiliary_probs: torch.FloatTensor | None = None
