"""One distribution of opinion per item, over any trunk."""

import torch
from torch import nn

from .configuration_distribution import DistributionConfig
from .losses import distribution_loss
from .modeling_opinion import OpinionPreTrainedModel
from .outputs import DistributionOutput


class DistributionModel(OpinionPreTrainedModel):
    """Softmax over the support, trained towards the distribution of votes.

    Example:
        >>> from annot_hf import DistributionModel
        >>> from annot_hf.models.configuration_distribution import DistributionConfig
        >>> config = DistributionConfig(questions=[{"name": "emotion", "labels": ["angry", "happy"]}])
        >>> model = DistributionModel(config).eval()
        >>> model(input_features=torch.zeros(3, 100, 80)).probs.shape
        torch.Size([3, 2])
    """

    config_class = DistributionConfig

    def __init__(self, config: DistributionConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(config.embedding_size, len(config.support))
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
        probs = logits.float().softmax(-1)
        loss = None if labels is None else distribution_loss(probs, labels, self.config.loss)
        return DistributionOutput(loss=loss, probs=probs, logits=logits)


DistributionModel.register_for_auto_class("AutoModel")
