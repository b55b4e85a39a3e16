"""The trunk, its pooling and the shared embedding, under every head."""

from typing import Any, Self

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

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
        if not config.questions:
            raise ValueError('The configuration asks no question; give questions=[{"name": ..., "labels": [...]}].')
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
                dropout=config.pooling_dropout,
            )
        self.embedding = nn.Sequential(
            nn.LayerNorm(self.pooling.output_size),
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
            ValueError: There is no such checkpoint, its family is not supported, or it lacks the trunk's weights.
        """
        try:
            trunk_config = AutoConfig.from_pretrained(trunk)
            model = cls(cls.config_class(trunk_config=trunk_config, questions=questions, **options))
            # through the library's own class, which also reads checkpoints with a head of their own ("bert.encoder...")
            encoder, info = AutoModel.from_pretrained(trunk, output_loading_info=True)
        except OSError as error:
            raise ValueError(f"There is no checkpoint {str(trunk)!r}; give a Hub id or a checkpoint folder.") from error
        model.trunk.load_state_dict(encoder.state_dict(), strict=False)  # `build_trunk` left the pooler out
        needed = set(model.trunk.state_dict()) - {"masked_spec_embed"}  # a fresh one does: only training uses it
        missing = sorted(needed & set(info["missing_keys"]))
        if missing:
            raise ValueError(
                f"{trunk} lacks {len(missing)} weights of a {trunk_config.model_type}, for instance {missing[0]}; give a "
                "checkpoint of the plain encoder."
            )
        return model.eval()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As the library's, but weights come from safetensors only: a pickle can run code when it is read."""
        return super().from_pretrained(*args, **{"use_safetensors": True, **kwargs})

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for a frozen trunk: its dropout and running statistics stay as they are."""
        super().train(mode)
        if self.config.freeze_trunk:
            self.trunk.eval()
        return self

    def embed(self, **inputs: torch.Tensor | None) -> torch.Tensor:
        """One vector per item `(B, embedding_size)` from the trunk's inputs."""
        frames, mask = encode(self.trunk, **inputs)
        return self.embedding(self.pooling(frames, mask))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_as_torch(module)
