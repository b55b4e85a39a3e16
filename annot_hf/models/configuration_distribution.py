"""Configuration of `DistributionModel`."""

from collections.abc import Sequence
from typing import Any

from .checks import check_not_negative
from .configuration_opinion import OpinionConfig

HEADS = ("linear", "mlp")


class DistributionConfig(OpinionConfig):
    """A distribution of opinion over labels or grid cells; the other options are those of `OpinionConfig`.

    Args:
        head: "linear", or "mlp" for the heads of arXiv 2606.27536 (section 2.1): linear, layer norm, GELU, dropout 0.2,
            linear.
        scale_questions: Scale questions answered beside, such as valence, as dictionaries with `name`, `low` and
            `high`: for each a mean and a log-variance.
        scale_weight: Weight of their loss beside the distribution's.
        scale_nll_weight: Weight of the Gaussian likelihood in their loss; without it, the variances are not learnt.
        scale_ccc_weight: Weight of the CCC term in their loss.
        scale_question_weights: Weight of each of them in their loss; all 1 when None. The paper has 1.4, 1, 1 for
            valence, activation and dominance.
        auxiliary_questions: Category questions answered beside, as dictionaries with `name` and `labels`: what else was
            asked about the items helps the shared embedding when votes are few.
        auxiliary_weight: Weight of the mean of their KL divergences.
        **kwargs: Options of `OpinionConfig`.

    Raises:
        ValueError: An option is unknown, or a question is of the wrong kind.
    """

    model_type = "annot-distribution"
    keys_to_ignore_at_inference = ["logits", "scale_log_variance", "auxiliary_probs"]

    def __init__(
        self,
        head: str = "linear",
        scale_questions: Sequence[dict[str, Any]] = (),
        scale_weight: float = 0.3,
        scale_nll_weight: float = 1.0,
        scale_ccc_weight: float = 0.1,
        scale_question_weights: Sequence[float] | None = None,
        auxiliary_questions: Sequence[dict[str, Any]] = (),
        auxiliary_weight: float = 0.5,
        **kwargs: Any,
    ) -> None:
        if head not in HEADS:
            raise ValueError(f"head is {head!r}; use one of {', '.join(HEADS)}.")
        for question in scale_questions:
            if not {"name", "low", "high"} <= set(question):
                raise ValueError(f"Scale question {question} needs a name, low and high.")
        for question in auxiliary_questions:
            if not {"name", "labels"} <= set(question):
                raise ValueError(f"Auxiliary question {question} needs a name and labels.")
        if scale_question_weights is not None and len(scale_question_weights) != len(scale_questions):
            raise ValueError(
                f"There are {len(scale_question_weights)} scale_question_weights for {len(scale_questions)} scale questions; "
                "give each one."
            )
        check_not_negative(
            scale_weight=scale_weight,
            scale_nll_weight=scale_nll_weight,
            scale_ccc_weight=scale_ccc_weight,
            auxiliary_weight=auxiliary_weight,
        )
        self.head = head
        self.scale_questions = [dict(question) for question in scale_questions]
        self.scale_weight = scale_weight
        self.scale_nll_weight = scale_nll_weight
        self.scale_ccc_weight = scale_ccc_weight
        self.scale_question_weights = scale_question_weights
        self.auxiliary_questions = [dict(question) for question in auxiliary_questions]
        self.auxiliary_weight = auxiliary_weight
        super().__init__(**kwargs)


DistributionConfig.register_for_auto_class()
