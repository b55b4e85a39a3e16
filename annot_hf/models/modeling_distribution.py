"""One distribution of opinion per item, over any trunk."""

from collections.abc import Mapping

import torch

from .configuration_distribution import DistributionConfig
from .heads import make_head
from .losses import auxiliary_loss, distribution_loss, scale_loss
from .modeling_opinion import OpinionPreTrainedModel
from .outputs import DistributionOutput


class DistributionModel(OpinionPreTrainedModel):
    """Softmax over the support, trained towards the distribution of votes; beside it, if asked, scales such as valence.

    Example:
        >>> from annot_hf import DistributionModel
        >>> from annot_hf.models.configuration_distribution import DistributionConfig
        >>> config = DistributionConfig(questions=[{"name": "emotion", "labels": ["angry", "happy"]}])
        >>> model = DistributionModel(config).eval()
        >>> model(input_features=torch.zeros(3, 100, 80)).probs.shape
        torch.Size([3, 2])
    """

    config_class = DistributionConfig
    loss_inputs = ("labels", "scale_labels", "auxiliary_labels", "item_weights")

    def __init__(self, config: DistributionConfig) -> None:
        super().__init__(config)
        self.head = make_head(self.width, len(config.support), config.head)
        if config.scale_questions:
            self.scale_head = make_head(self.width, 2 * len(config.scale_questions), config.head)
        if config.auxiliary_questions:
            self.auxiliary_head = make_head(self.width, sum(self.auxiliary_sizes), config.head)
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
        scale_labels: torch.Tensor | None = None,
        auxiliary_labels: torch.Tensor | None = None,
        item_weights: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> DistributionOutput:
        """Predict, and score against target distributions if there are any.

        Args:
            input_features: Log-mel frames `(B, T, M)`, for the log-mel trunk.
            input_values: Waveforms `(B, samples)` at the trunk's rate, for waveform trunks.
            input_ids: Tokens `(B, T)`, for text trunks.
            attention_mask: 1 where the input is real `(B, T)`.
            token_type_ids: Segments `(B, T)`, for text trunks that use them.
            trunk_frames: Frames that the trunk gave before `(B, T, H)`, instead of its inputs.
            trunk_mask: 1 where they are real `(B, T)`.
            labels: Target distributions `(B, K)`.
            scale_labels: Mean ratings of the scale questions beside `(B, D)` on [-1, 1]; NaN where there are none.
            auxiliary_labels: Distributions of the votes on the auxiliary questions side by side `(B, sum of K)`; NaN where
                nobody voted.
            item_weights: Weight of each item in the distribution's loss `(B,)`, of mean 1.
            return_dict: Only True is supported.

        Returns:
            `DistributionOutput`.
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
        logits = self.head(embedding)
        predicted = {"probs": logits.float().softmax(-1), "logits": logits}
        if self.config.scale_questions:
            predicted["scale_mean"], predicted["scale_log_variance"] = self.scale_head(embedding).float().chunk(2, -1)
        if self.config.auxiliary_questions:
            scores = self.auxiliary_head(embedding).float().split(self.auxiliary_sizes, -1)
            predicted["auxiliary_probs"] = torch.cat([score.softmax(-1) for score in scores], -1)
        given = {
            "labels": labels,
            "scale_labels": scale_labels,
            "auxiliary_labels": auxiliary_labels,
            "item_weights": item_weights,
        }
        return DistributionOutput(loss=self.loss_of(predicted, given), **predicted)

    @property
    def auxiliary_sizes(self) -> list[int]:
        """Number of labels of each auxiliary question."""
        return [len(question["labels"]) for question in self.config.auxiliary_questions]

    @property
    def loss_spans_batch(self) -> bool:
        """Whether the loss compares the items of a batch with each other, so that its size matters (CCC)."""
        config = self.config
        return config.loss == "ccc" or bool(config.scale_questions and config.scale_weight and config.scale_ccc_weight)

    def loss_of(
        self, predicted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor | None]
    ) -> torch.Tensor | None:
        """Loss of what `forward` returned, also of several batches joined; None without targets.

        Args:
            predicted: `probs` and, if the model has scale questions, `scale_mean` and `scale_log_variance`; if it
                has auxiliary questions, `auxiliary_probs`.
            given: `labels`, `scale_labels`, `auxiliary_labels` and `item_weights` as `forward` takes them, as far as there
                are any.
        """
        config, losses = self.config, []
        if given.get("labels") is not None:
            losses.append(
                distribution_loss(
                    predicted["probs"],
                    given["labels"],
                    config.loss,
                    class_weights=config.class_weights,
                    item_weights=given.get("item_weights"),
                    jsd_share=config.jsd_share,
                )
            )
        if given.get("scale_labels") is not None and config.scale_questions:
            loss = scale_loss(
                predicted["scale_mean"],
                predicted["scale_log_variance"],
                given["scale_labels"],
                dimension_weights=config.scale_question_weights,
                nll_weight=config.scale_nll_weight,
                ccc_weight=config.scale_ccc_weight,
            )
            losses.append(config.scale_weight * loss)
        if given.get("auxiliary_labels") is not None and config.auxiliary_questions:
            sizes = self.auxiliary_sizes
            parts = zip(
                predicted["auxiliary_probs"].split(sizes, -1), given["auxiliary_labels"].split(sizes, -1), strict=True
            )
            loss = sum(auxiliary_loss(probs, labels) for probs, labels in parts) / len(sizes)
            losses.append(config.auxiliary_weight * loss)
        return sum(losses) if losses else None


DistributionModel.register_for_auto_class("AutoModel")
