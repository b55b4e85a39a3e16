"""Configuration of `DistributionModel`."""

from typing import Any

from .configuration_opinion import OpinionConfig


class DistributionConfig(OpinionConfig):
    """A distribution of opinion over labels or grid cells; all options are those of `OpinionConfig`."""

    model_type = "annot-distribution"
    keys_to_ignore_at_inference = ["logits"]

    def __init__(
        self, **kwargs: Any
    ) -> None:  # without its own, the library would generate one that ignores the base's
        super().__init__(**kwargs)


DistributionConfig.register_for_auto_class()
