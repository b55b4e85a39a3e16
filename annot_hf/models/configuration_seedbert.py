"""Configuration of `SeedBert`."""

import reprlib
from collections.abc import Sequence
from typing import Any

from .adapters import LORA_TARGETS
from .checks import check_choices, options_of
from .configuration_distribution import DistributionConfig
from .configuration_opinion import OpinionConfig
from .trunks import WEIGHTED

# Members share these.
MEMBER_OPTIONS = (
    "questions",
    "bins",
    *OpinionConfig.__annotations__,
    "loss",
    "class_weights",
    "jsd_share",
    "marginal",
    "head",
    "auxiliary_questions",
    "auxiliary_weight",
)


class SeedBertConfig(OpinionConfig):
    """An ensemble whose members differ by the seed of their fresh layers; the other options are those of `OpinionConfig`.

    The paper's model (arXiv 2211.13196) is `members="independent", pooling="first", embedding_kind="none"`: a BERT and a
    linear layer, n times.

    Args:
        num_members: n. The paper does not say; 5 is its number of human raters.
        members: "independent" for n whole models; "shared" for n heads on one trunk (each a pooling, an embedding and a
            head of its own); "lora" for n heads on one trunk that has n low-rank adapters in its top layers.
        member_configs: Configurations of independent members that differ in more than their weights, as dictionaries with
            their `model_type`: of a distribution model each, or of a seedbert whose `probs` are a mean. None when all are
            alike. The other options are then those of the first.
        distribution: What `probs` is: the histogram of the members' "votes", as in the paper, or their "mean_softmax".
        head: Kind of each member's head, "linear" or "mlp" (see `DistributionConfig`).
        auxiliary_questions: Category questions that each member answers beside (see `DistributionConfig`).
        auxiliary_weight: Weight of the mean of their KL divergences.
        lora_layers: How many of the trunk's top layers have adapters; the layers below run once for all members.
        lora_rank: Rank of the adapters.
        freeze_trunk: As in `OpinionConfig`; None is True for "lora" and False otherwise. With "lora" it takes the trunk's
            gradients away and nothing else: its dropout works in training, its frames are not rounded.
        **kwargs: Options of `OpinionConfig`.

    Raises:
        ValueError: An option is unknown or out of range, or the trunk's family or layer takes no adapters.
    """

    model_type = "annot-seedbert"
    keys_to_ignore_at_inference = ["histogram", "mean_probs", "member_logits", "votes", "label"]
    keys_to_ignore_at_inference += ["auxiliary_probs", "token_attention"]

    num_members: int = 5
    members: str = "independent"
    member_configs: Sequence[dict[str, Any]] = ()
    distribution: str = "votes"
    head: str = "linear"
    auxiliary_questions: Sequence[dict[str, Any]] = ()
    auxiliary_weight: float = 0.5
    lora_layers: int = 2
    lora_rank: int = 8
    freeze_trunk: bool | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_choices(("independent", "shared", "lora"), members=self.members)
        check_choices(("votes", "mean_softmax"), distribution=self.distribution)
        check_choices(("linear", "mlp"), head=self.head)
        for name in ("num_members", "lora_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        self.member_configs = list(self.member_configs or ())
        for config in self.member_configs:
            if not isinstance(config, dict) or "model_type" not in config or "trunk_config" not in config:
                raise ValueError(
                    f"member_configs holds {reprlib.repr(config)}; it has a configuration, with model_type and trunk_config, "
                    "for each member."
                )
            if list(config.get("questions", ())) != list(self.questions) or config.get("bins", self.bins) != self.bins:
                raise ValueError(
                    f"A member of member_configs answers {reprlib.repr(config.get('questions'))} and the ensemble "
                    f"{reprlib.repr(self.questions)}; members answer its questions, with the labels in the same order."
                )
        if self.member_configs and (self.members != "independent" or self.num_members != len(self.member_configs)):
            raise ValueError(
                f"There are {len(self.member_configs)} member_configs, members is {self.members!r} and num_members "
                f"{self.num_members}; give one configuration for each independent member, or none."
            )
        if self.freeze_trunk is None:
            self.freeze_trunk = self.members == "lora"
        super().__post_init__(**kwargs)
        # which checks them
        self.auxiliary_questions = self.member_config().auxiliary_questions
        if self.members != "lora":
            return
        kind, layer = self.trunk_config.model_type, self.trunk_layer
        if kind not in LORA_TARGETS:
            raise ValueError(
                f"members is 'lora', and there are no adapters for a {kind} trunk; use members='shared' or 'independent', or "
                f"one of {', '.join(LORA_TARGETS)}."
            )
        if layer == WEIGHTED or isinstance(layer, list):
            raise ValueError(
                f"members is 'lora' and trunk_layer {layer!r}, but members share the layers below their adapters; choose one "
                "layer by its number, or members='shared'."
            )
        depth = self.trunk_config.num_hidden_layers if layer is None else layer
        if not 1 <= self.lora_layers <= depth:
            raise ValueError(
                f"lora_layers is {self.lora_layers}; the trunk has {depth} transformer layers in use: give 1 to {depth}."
            )

    def member_config(self) -> DistributionConfig:
        """The configuration of one member as a model of its own."""
        return DistributionConfig(**options_of(self, *MEMBER_OPTIONS, "id2label"))


SeedBertConfig.register_for_auto_class()
