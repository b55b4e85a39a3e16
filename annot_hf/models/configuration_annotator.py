"""Configuration of `AnnotatorModel`."""

from collections.abc import Sequence
from typing import Any

from .checks import check_counts, check_not_negative
from .configuration_opinion import OpinionConfig

AGGREGATES = ("mean", "votes")


class AnnotatorConfig(OpinionConfig):
    """Individual raters and their distribution; the other options are those of `OpinionConfig`.

    Args:
        annotators: Names of the raters that have a head.
        rater_head: "independent", a linear layer per rater (arXiv 2408.11956), or "residual", the consensus plus a
            linear layer per rater that starts at zero: raters with few votes stay close to the consensus.
        aggregate: What the distribution of a category question is made of: "mean" of the answers of the raters asked, or
            "votes" of all raters (up to `max_panel`, whoever was asked): the share of heads whose likeliest label it is.
            Its largest entry is then the majority of the heads (Davani et al. 2022), of tied labels the one that the heads
            think likelier on average, and 1 - sum p^2 the variance of their votes, summed over labels. Votes have no
            gradient: learn by task "ratings". There is no consensus head; the mean of the raters' heads stands in for it.
        tower_layers: Linear and ReLU layers before the heads, one tower per scale question.
        rating_loss: "ccc" or "mse" for scale questions; a category question always uses cross-entropy.
        consensus_weight: Weight of the consensus head's loss beside the raters'.
        distribution_weight: Weight of the distribution's loss.
        draws: Observations resampled per item for the distribution.
        max_panel: Most raters asked when an item comes without raters, or with one who has no head; the first of
            `annotators`.
        sparse_raters: Sparse gradients for the rater table, worth it with thousands of raters.
        **kwargs: Options of `OpinionConfig`.

    Raises:
        ValueError: An option is unknown or out of range, or a rater is named twice.
    """

    model_type = "annot-annotator"
    # Not gathered in evaluation: the number of pairs varies between batches, and processes cannot gather it.
    keys_to_ignore_at_inference = [
        "consensus",
        "ratings",
        "consensus_logits",
        "rating_logits",
        "pair_item",
        "pair_annotator",
    ]

    def __init__(
        self,
        annotators: Sequence[str] = (),
        rater_head: str = "independent",
        aggregate: str = "mean",
        tower_layers: int = 2,
        rating_loss: str = "ccc",
        consensus_weight: float = 1.0,
        distribution_weight: float = 1.0,
        draws: int = 200,
        max_panel: int = 128,
        sparse_raters: bool = False,
        **kwargs: Any,
    ) -> None:
        if rater_head not in ("independent", "residual"):
            raise ValueError(f"rater_head is {rater_head!r}; use 'independent' or 'residual'.")
        if aggregate not in AGGREGATES:
            raise ValueError(f"aggregate is {aggregate!r}; use one of {', '.join(AGGREGATES)}.")
        if aggregate == "votes" and rater_head != "independent":
            raise ValueError(
                f'rater_head is {rater_head!r} and aggregate "votes", which has no consensus; use rater_head "independent".'
            )
        if rating_loss not in ("ccc", "mse"):
            raise ValueError(f"rating_loss is {rating_loss!r}; use 'ccc' or 'mse'.")
        if len(set(annotators)) < len(annotators):
            raise ValueError("annotators names a rater twice; list each rater once.")
        check_counts(draws=draws, max_panel=max_panel)
        check_not_negative(
            tower_layers=tower_layers, consensus_weight=consensus_weight, distribution_weight=distribution_weight
        )
        self.annotators = list(annotators)
        self.rater_head = rater_head
        self.aggregate = aggregate
        self.tower_layers = tower_layers
        self.rating_loss = rating_loss
        self.consensus_weight = consensus_weight
        self.distribution_weight = distribution_weight
        self.draws = draws
        self.max_panel = max_panel
        self.sparse_raters = sparse_raters
        super().__init__(**kwargs)
        if aggregate == "votes" and self.is_scale:
            raise ValueError('aggregate is "votes" and the questions are scales, which have no labels; use "mean".')


AnnotatorConfig.register_for_auto_class()
