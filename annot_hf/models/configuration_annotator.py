"""Configuration of `AnnotatorModel`."""

from collections.abc import Sequence
from typing import Any

from .checks import check_choices, check_counts, check_not_negative, options_of
from .configuration_opinion import OpinionConfig
from .heads import RATER_ROWS

AGGREGATES = ("mean", "votes")
SPREADS = ("learned", "published", "none")
# Levels of a scale question whose answers were not counted.
FINE = 33


class AnnotatorConfig(OpinionConfig):
    """Individual raters and their distribution; the other options are those of `OpinionConfig`.

    Args:
        annotators: Names of the raters that have a head.
        rater_facts: What is known of each of `annotators`, F numbers a rater `(raters, F)`, from a table of raters: part of a
            rater's row is a linear map of these, which all raters share. Training fills it in, as the next.
        rater_columns: How the columns of that table became these numbers (see `annot_hf.data.rater_facts`).
        rater_head: "independent", a layer per rater (arXiv 2408.11956), or "residual", the consensus plus a
            linear layer per rater that starts at zero: raters with few votes stay close to the consensus. On scales, single
            votes spread wider than the mean vote, which the consensus head learns, and so do all these layers. That is no
            rater's own: the consensus that is predicted is the consensus head plus the layer of the raters' mean row.
        rater_rows: What a rater has: "full", the weights of that layer; "low_rank", coefficients of `rater_rank` layers that
            all raters share; or "embedding", a vector of `rater_rank` numbers that enters a hidden layer, which all share.
            Few numbers a rater suit many raters with few votes each.
        rater_rank: How many numbers each rater has for each scale question (or the labels), if `rater_rows` is not "full".
        aggregate: What the distribution of a category question is made of: "mean" of the answers of the raters asked, or
            "votes" of all raters (up to `max_panel`, whoever was asked): the share of heads whose likeliest label it is.
            Its largest entry is then the majority of the heads (Davani et al. 2022), of tied labels the one that the heads
            think likelier on average, and 1 - sum p^2 the variance of their votes, summed over labels. Votes have no
            gradient: learn by task "ratings". There is no consensus head; the mean of the raters' heads stands in for it.
        tower_layers: Linear and ReLU layers before the heads, one tower per scale question.
        rating_loss: "ccc" or "mse" for scale questions; a category question always uses cross-entropy.
        consensus_weight: Weight of the consensus head's loss beside the raters'.
        distribution_weight: Weight of the distribution's loss.
        spread: How far votes on scale questions scatter around the raters' answers: "learned", by a standard deviation
            predicted from the item's embedding and the rater's own noise, trained by the likelihood of the votes and by the
            distribution's loss; "published", by a logistic kernel of standard deviation 0.227 on [-1, 1] for all (with
            which arXiv 2408.11956 trains); or "none", not at all.
        levels: How many answers each scale question offers, evenly spaced from its low to its high end, for "learned";
            training counts them. 33, nearly any number, where empty.
        votes_per_item: The most of a panel's answers that an observation averages, for "learned": as many raters as nine in
            ten items of training had, which training counts; any number where 0.
        draws: Observations resampled per item for the distribution.
        onboarded: How many of `annotators`, the last ones, joined after training: they have no part in the panel, and tell
            nothing of how raters differ.
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
        "spreads",
    ]

    annotators: Sequence[str] = ()
    rater_facts: Sequence[Sequence[float]] = ()
    rater_columns: Sequence[dict[str, Any]] = ()
    rater_head: str = "independent"
    rater_rows: str = "full"
    rater_rank: int = 8
    aggregate: str = "mean"
    tower_layers: int = 2
    rating_loss: str = "ccc"
    consensus_weight: float = 1.0
    distribution_weight: float = 1.0
    spread: str = "learned"
    levels: Sequence[int] = ()
    votes_per_item: int = 0
    draws: int = 200
    onboarded: int = 0
    max_panel: int = 128
    sparse_raters: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        check_choices(("independent", "residual"), rater_head=self.rater_head)
        check_choices(RATER_ROWS, rater_rows=self.rater_rows)
        check_choices(AGGREGATES, aggregate=self.aggregate)
        if self.aggregate == "votes" and self.rater_head != "independent":
            raise ValueError(f'rater_head is {self.rater_head!r}; with aggregate "votes" it must be "independent".')
        check_choices(SPREADS, spread=self.spread)
        check_choices(("ccc", "mse"), rating_loss=self.rating_loss)
        self.annotators = list(self.annotators)
        if len(set(self.annotators)) < len(self.annotators):
            raise ValueError("annotators names a rater twice; list each rater once.")
        self.rater_facts, self.rater_columns = [list(row) for row in self.rater_facts], list(self.rater_columns)
        widths = {len(row) for row in self.rater_facts}
        if self.rater_facts and (len(self.rater_facts) != len(self.annotators) or len(widths) > 1 or not widths.pop()):
            raise ValueError(
                f"rater_facts has {len(self.rater_facts)} rows, and there are {len(self.annotators)} annotators; give each a "
                "row of as many numbers."
            )
        check_counts(**options_of(self, "draws", "max_panel", "rater_rank"))
        check_counts(0, onboarded=self.onboarded, votes_per_item=self.votes_per_item)
        if self.onboarded and self.onboarded >= len(self.annotators):
            raise ValueError(
                f"onboarded is {self.onboarded} of {len(self.annotators)} annotators; some must be trained."
            )
        check_not_negative(**options_of(self, "tower_layers", "consensus_weight", "distribution_weight"))
        super().__post_init__(**kwargs)
        scales = len(self.questions) if self.is_scale else 0
        self.levels = list(self.levels or [FINE] * scales)
        if len(self.levels) != scales:
            raise ValueError(
                f"levels is {self.levels}, and there are {scales} scale questions; give one number for each."
            )
        check_counts(2, **{f"levels[{place}]": count for place, count in enumerate(self.levels)})
        if self.aggregate == "votes" and self.is_scale:
            raise ValueError('aggregate is "votes" and the questions are scales, which have no labels; use "mean".')

    @property
    def trained(self) -> int:
        """How many raters, the first of `annotators`, the model was trained with."""
        return len(self.annotators) - self.onboarded

    @property
    def panel(self) -> int:
        """How many raters, the first of `annotators`, are asked when an item comes without raters of its own."""
        return min(self.trained, self.max_panel)


AnnotatorConfig.register_for_auto_class()
