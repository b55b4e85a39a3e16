"""One distribution of opinion per item, over any trunk."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .configuration_distribution import DistributionConfig
from .heads import make_head
from .losses import EPSILON, LOG_VARIANCE, auxiliary_loss, auxiliary_softmax, rating_loss, scale_loss
from .modeling_opinion import OpinionPreTrainedModel
from .outputs import DistributionOutput


class DistributionModel(OpinionPreTrainedModel):
    """Softmax over the support, trained on the distribution of votes, with optional further scales such as valence.

    A Bayesian head predicts with several draws of its weights: the distribution is the mean of their softmaxes, a scale's
    mean and variance are those of the mixture of their normal distributions.

    Example:
        >>> from annot_hf import DistributionModel
        >>> from annot_hf.models.configuration_distribution import DistributionConfig
        >>> config = DistributionConfig(questions=[{"name": "emotion", "labels": ["angry", "happy"]}])
        >>> model = DistributionModel(config).eval()
        >>> model(input_features=torch.zeros(3, 100, 80)).probs.shape
        torch.Size([3, 2])
    """

    config_class = DistributionConfig
    loss_inputs = ("labels", "scale_targets", "auxiliary_targets", "disagreement_targets", "item_weights")

    def __init__(self, config: DistributionConfig) -> None:
        super().__init__(config)
        self.head = self._make_head(len(config.support))
        if config.scale_questions:
            self.scale_head = self._make_head(2 * len(config.scale_questions))
        if config.auxiliary_questions:
            self.auxiliary_head = self._make_head(sum(config.auxiliary_sizes))
        if config.disagreement:
            self.disagreement_head = self._make_head(1)
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        trunk_frames: torch.Tensor | None = None,
        trunk_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        scale_targets: torch.Tensor | None = None,
        auxiliary_targets: torch.Tensor | None = None,
        disagreement_targets: torch.Tensor | None = None,
        item_weights: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> DistributionOutput:
        """Predict, and compute the loss if there are target distributions.

        Args:
            input_features: Log-mel frames `(B, T, M)`, for the log-mel trunk.
            input_values: Waveforms `(B, samples)` at the trunk's rate, for waveform trunks.
            input_ids: Tokens `(B, T)`, for text trunks.
            attention_mask: 1 where the input is real `(B, T)`.
            token_type_ids: Segments `(B, T)`, for text trunks that use them.
            trunk_frames: Precomputed frames of the trunk `(B, T, H)`, instead of its inputs.
            trunk_mask: 1 where they are real `(B, T)`.
            labels: Target distributions `(B, K)`.
            scale_targets: Mean ratings of the scale questions beside `(B, D)` on [-1, 1]; NaN where there are none.
            auxiliary_targets: Distributions of the votes on the auxiliary questions side by side `(B, sum of K)`; NaN where
                nobody voted.
            disagreement_targets: How far raters disagree `(B,)`, in [0, 1]; NaN where fewer than two voted.
            item_weights: Weight of each item in the distribution's loss `(B,)`, of mean 1.
            return_dict: Only True is supported.
        """
        embedding = self.embed(
            input_features=input_features,
            input_values=input_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            trunk_frames=trunk_frames,
            trunk_mask=trunk_mask,
        )
        # (S, B, K) with S draws of a Bayesian head; S is 1 for other heads.
        logits = _draws(self.head, embedding)
        probs = self._smoothed(logits.float().softmax(-1).mean(0))
        predicted = {"probs": probs, "logits": logits[0] if len(logits) == 1 else (probs + EPSILON).log()}
        if self.config.scale_questions:
            mean, log_variance = _mixture(*_draws(self.scale_head, embedding).float().chunk(2, -1))
            stretch = self.config.scale_stretch
            predicted |= {"scale_mean": mean / stretch, "scale_log_variance": log_variance - 2 * math.log(stretch)}
        if self.config.auxiliary_questions:
            scores = _draws(self.auxiliary_head, embedding)
            predicted["auxiliary_probs"] = auxiliary_softmax(scores, self.config.auxiliary_sizes).mean(0)
        if self.config.disagreement:
            predicted["disagreement"] = _draws(self.disagreement_head, embedding).float().sigmoid().mean(0)[:, 0]
        if self.config.head == "bayesian":
            heads = (layer for name, layer in self.named_children() if name.endswith("head"))
            # One row, as for other predictions: the loss may see several batches.
            predicted["weight_kl"] = sum(head.kl() for head in heads)[None]
        targets = (labels, scale_targets, auxiliary_targets, disagreement_targets, item_weights)
        loss = self.loss_of(predicted, dict(zip(self.loss_inputs, targets, strict=True)))
        return DistributionOutput(loss=loss, **predicted)

    @property
    def loss_spans_batch(self) -> bool:
        """Whether the loss compares the items of a batch with each other, so that its size matters (CCC)."""
        beside = self.config.scale_questions and self.config.scale_weight and self.config.scale_ccc_weight
        return super().loss_spans_batch or bool(beside)

    def loss_of(self, predicted: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> torch.Tensor | None:
        """Loss of what `forward` predicts, also of several batches joined; None without targets (`loss_inputs`)."""
        config, losses = self.config, []
        if given.get("labels") is not None:
            losses.append(self._distribution_loss(predicted["probs"], given))
        if given.get("scale_targets") is not None and config.scale_questions:
            loss = scale_loss(
                config.scale_stretch * predicted["scale_mean"],
                predicted["scale_log_variance"] + 2 * math.log(config.scale_stretch),
                (config.scale_stretch * given["scale_targets"]).clip(-1, 1),
                dimension_weights=config.scale_question_weights,
                nll_weight=config.scale_nll_weight,
                ccc_weight=config.scale_ccc_weight,
            )
            losses.append(config.scale_weight * loss)
        if given.get("auxiliary_targets") is not None and config.auxiliary_questions:
            loss = auxiliary_loss(predicted["auxiliary_probs"], given["auxiliary_targets"], config.auxiliary_sizes)
            losses.append(config.auxiliary_weight * loss)
        if given.get("disagreement_targets") is not None and config.disagreement:
            loss = rating_loss(predicted["disagreement"][:, None], given["disagreement_targets"][:, None], "mse")
            losses.append(config.disagreement_weight * loss)
        if losses and "weight_kl" in predicted:
            if config.kl_weight is None:
                raise ValueError(
                    "kl_weight is None, which leaves the loss of a Bayesian head open; set it to 1 / number of training items."
                )
            losses.append(config.kl_weight * predicted["weight_kl"].mean())
        return sum(losses) if losses else None

    def _make_head(self, outputs: int) -> nn.Module:
        config = self.config
        return make_head(self.width, outputs, config.head, prior_std=config.prior_std, samples=config.bayesian_samples)


def _draws(head: nn.Module, embedding: torch.Tensor) -> torch.Tensor:
    """A head's answers `(S, B, outputs)`: one, unless it is Bayesian."""
    answers = head(embedding)
    return answers if answers.dim() == 3 else answers[None]


def _mixture(means: torch.Tensor, log_variances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and log-variance `(B, D)` of the equal mixture of S normal distributions, each `(S, B, D)`."""
    if len(means) == 1:
        return means[0], log_variances[0]
    variances = log_variances.clip(-LOG_VARIANCE, LOG_VARIANCE).exp()
    return means.mean(0), (variances.mean(0) + means.var(0, correction=0)).log()


DistributionModel.register_for_auto_class("AutoModel")
