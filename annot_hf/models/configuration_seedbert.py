"""Configuration of `SeedBert`."""

import inspect
from typing import Any

from .adapters import LORA_TARGETS
from .configuration_distribution import DistributionConfig
from .configuration_opinion import OpinionConfig
from .trunks import WEIGHTED

MEMBERS = ("independent", "shared", "lora")
DISTRIBUTIONS = ("votes", "mean_softmax")
MEMBER_HEADS = ("linear", "mlp")
# Members share every option of `OpinionConfig`, and the head.
MEMBER_OPTIONS = (*[name for name in inspect.signature(OpinionConfig).parameters if name != "kwargs"], "head")


class SeedBertConfig(OpinionConfig):
    """An ensemble whose members differ by the seed of their fresh layers; the other options are those of `OpinionConfig`.

    The paper's model (arXiv 2211.13196) is `members="independent", pooling="first", embedding_kind="none"`: a BERT and a
    linear layer, n times.

    Args:
        num_members: n. The paper does not say; 5 is its number of human raters.
        members: "independent" for n whole models; "shared" for n heads on one trunk (each a pooling, an embedding and a
            head of its own); "lora" for n heads on one trunk that has n low-rank adapters in its top layers.
        distribution: What `probs` is: the histogram of the members' "votes", as in the paper, or their "mean_softmax".
        head: Kind of each member's head, "linear" or "mlp" (see `DistributionConfig`).
        lora_layers: How many of the trunk's top layers have adapters; the layers below run once for all members.
        lora_rank: Rank of the adapters.
        lora_alpha: Scale of the adapters: their product is multiplied with lora_alpha / lora_rank.
        freeze_trunk: As in `OpinionConfig`; None is True for "lora" and False otherwise. With "lora" it takes the trunk's
            gradients away and nothing else: its dropout works in training, its frames are not rounded.
        **kwargs: Options of `OpinionConfig`.

    Raises:
        ValueError: An option is unknown or out of range, or the trunk's family or layer takes no adapters.
    """

    model_type = "annot-seedbert"
    keys_to_ignore_at_inference = ["histogram", "mean_probs", "member_logits", "votes", "label", "token_attention"]

    def __init__(
        self,
        num_members: int = 5,
        members: str = "independent",
        distribution: str = "votes",
        head: str = "linear",
        lora_layers: int = 2,
        lora_rank: int = 8,
        lora_alpha: float = 16.0,
        freeze_trunk: bool | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value, allowed in (
            ("members", members, MEMBERS),
            ("distribution", distribution, DISTRIBUTIONS),
            ("head", head, MEMBER_HEADS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(allowed)}.")
        for name, value in (("num_members", num_members), ("lora_rank", lora_rank)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        self.num_members = num_members
        self.members = members
        self.distribution = distribution
        self.head = head
        self.lora_layers = lora_layers
        kwargs |= {"lora_rank": lora_rank, "lora_alpha": lora_alpha}
        super().__init__(freeze_trunk=members == "lora" if freeze_trunk is None else freeze_trunk, **kwargs)
        if members == "lora":
            self._check_adapters()

    def member_config(self) -> DistributionConfig:
        """The configuration of one member as a model of its own."""
        options = {name: getattr(self, name) for name in (*MEMBER_OPTIONS, "id2label")}
        return DistributionConfig(**options)

    def to_diff_dict(self) -> dict[str, Any]:
        """What a saved configuration says: what is not the default, and `freeze_trunk`, whose default depends."""
        return {**super().to_diff_dict(), "freeze_trunk": self.freeze_trunk}

    def _check_adapters(self) -> None:
        """Adapters need a known family and that many layers, and nothing may read the layers below them."""
        kind, layer = self.trunk_config.model_type, self.trunk_layer
        if kind not in LORA_TARGETS:
            raise ValueError(
                f"members is 'lora', and there are no adapters for a {kind} trunk; use members='shared' or 'independent', or "
                f"one of {', '.join(LORA_TARGETS)}."
            )
        if layer == WEIGHTED:
            raise ValueError(
                "members is 'lora' and trunk_layer 'weighted', but members share the layers below their adapters; choose one "
                "layer by its number, or members='shared'."
            )
        depth = self.trunk_config.num_hidden_layers if layer is None else layer
        if not 1 <= self.lora_layers <= depth:
            raise ValueError(
                f"lora_layers is {self.lora_layers}; the trunk has {depth} transformer layers in use: give 1 to {depth}."
            )


SeedBertConfig.register_for_auto_class()
