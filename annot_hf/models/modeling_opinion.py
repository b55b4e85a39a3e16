"""The trunk, its pooling and the shared embedding, under every head."""

from typing import Any, Self

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from .configuration_opinion import OpinionConfig
from .heads import AttentivePooling, MeanPooling, TcGruPooling
from .trunks import build_trunk, encode, input_name_of
from .weights import init_as_torch


class OpinionPreTrainedModel(PreTrainedModel):
    """Base of the models: `embed` turns inputs into one vector per item."""

    config_class = OpinionConfig
    base_model_prefix = "trunk"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the losses are means over the batch; Trainer must divide by accumulation steps

    def __init__(self, config: OpinionConfig) -> None:
        super().__init__(config)
        self.trunk = build_trunk(config.trunk_config)
        self.main_input_name = input_name_of(config.trunk_config)
        width = config.trunk_config.hidden_size
        if config.pooling == "mean":
            self.pooling = MeanPooling(width)
        elif config.pooling == "attention":
            self.pooling = AttentivePooling(width)
        else:
            self.pooling = TcGruPooling(
                width,
                config.pooling_size,
                kernel=config.pooling_kernel,
                stride=config.pooling_stride,
                bidirectional=config.pooling_bidirectional,
                attention=config.pooling_attention,
                dropout=config.dropout,
            )
        self.embedding = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(self.pooling.output_size, config.embedding_size),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )

    @classmethod
    def from_trunk(cls, trunk: str, *, questions: list[dict[str, Any]], **options: Any) -> Self:
        """A model over a pre-trained trunk, with fresh heads.

        Args:
            trunk: Hub id or folder of a plain checkpoint, such as "microsoft/wavlm-base-plus".
            questions: The questions, as dictionaries.
            **options: Any option of the configuration class.

        Raises:
            ValueError: The checkpoint does not hold the trunk's weights.
        """
        config = cls.config_class(trunk_config=AutoConfig.from_pretrained(trunk), questions=questions, **options)
        model, info = cls.from_pretrained(trunk, config=config, output_loading_info=True)
        missing = [name for name in info["missing_keys"] if name.startswith("trunk.")]
        if missing:
            raise ValueError(
                f"{trunk} lacks {len(missing)} weights of a {config.trunk_config.model_type}, for instance {missing[0]}; "
                "give a checkpoint of the plain encoder."
            )
        return model

    def embed(self, **inputs: torch.Tensor | None) -> torch.Tensor:
        """One vector per item `(B, embedding_size)` from the trunk's inputs."""
        frames, mask = encode(self.trunk, **inputs)
        return self.embedding(self.pooling(frames, mask))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_as_torch(module)
