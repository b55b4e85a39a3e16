"""Configuration of `DistributionModel`."""

from collections.abc import Sequence
from typing import Any

from .checks import check_choices, check_not_negative, options_of
from .configuration_opinion import OpinionConfig


class DistributionConfig(OpinionConfig):
    """A distribution of opinion over labels or grid cells; the other options are those of `OpinionConfig`.

    Args:
        head: "linear", or "mlp" for the heads of arXiv 2606.27536 (section 2.1): linear, layer norm, GELU, dropout 0.2,
            linear; or "bayesian" for linear layers of uncertain weights (Bayes by backprop, Blundell et al. 2015; for
            raters' disagreement Raj Prabhu et al. 2022, without their third loss, the divergence of a normal over the
            raters' answers from one over the draws: the loss here compares with the raters' whole distribution).
        prior_std: Standard deviation of the normal prior of a Bayesian head's weights.
        bayesian_samples: How often a Bayesian head draws its weights for a prediction: the mean of the draws'
            distributions is the distribution. The draws are the same for every item.
        kl_weight: Weight of the KL divergence of a Bayesian head's weights from their prior, in the loss: 1 / number of
            training items makes the loss the evidence lower bound an item; `train` fills that in.
        scale_questions: Scale questions answered beside, such as valence, as dictionaries with `name`, `low` and
            `high`: for each a mean and a log-variance.
        scale_weight: Weight of their loss beside the distribution's.
        scale_nll_weight: Weight of the Gaussian likelihood in their loss; without it, the variances are not learnt.
        scale_ccc_weight: Weight of the CCC term in their loss.
        scale_question_weights: Weight of each of them in their loss; all 1 when None. The paper has 1.4, 1, 1 for
            valence, activation and dominance.
        scale_stretch: What their targets on [-1, 1] are multiplied by in the loss, and then clipped to [-1, 1]; predictions
            are divided by it, and stay on the scale. 1 is ours; 1.5 makes (r - 4) / 3 of seven points the (r - 4) / 2 that
            the authors of arXiv 2606.27536 clip.
        auxiliary_questions: Category questions answered beside, as dictionaries with `name` and `labels`: what else was
            asked about the items helps the shared embedding when votes are few.
        auxiliary_weight: Weight of the mean of their KL divergences.
        disagreement: How far raters disagree on an item, answered beside (multi-task of Han et al. 2017): the normalised
            "entropy" of their votes on a category question, or the "deviation" of their answers (see
            `annot_hf.data.targets.disagreement`); not when None.
        disagreement_weight: Weight of its mean squared error; the paper's is not known to us, 1 is ours.
        **kwargs: Options of `OpinionConfig`.

    Raises:
        ValueError: An option is unknown, or a question is of the wrong kind.
    """

    model_type = "annot-distribution"
    keys_to_ignore_at_inference = ["logits", "scale_log_variance", "auxiliary_probs", "disagreement", "weight_kl"]

    head: str = "linear"
    prior_std: float = 1.0
    bayesian_samples: int = 30
    kl_weight: float | None = None
    scale_questions: Sequence[dict[str, Any]] = ()
    scale_weight: float = 0.3
    scale_nll_weight: float = 1.0
    scale_ccc_weight: float = 0.1
    scale_question_weights: Sequence[float] | None = None
    scale_stretch: float = 1.0
    auxiliary_questions: Sequence[dict[str, Any]] = ()
    auxiliary_weight: float = 0.5
    disagreement: str | None = None
    disagreement_weight: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        check_choices(("linear", "mlp", "bayesian"), head=self.head)
        if self.prior_std <= 0 or self.bayesian_samples < 1:
            raise ValueError(
                f"prior_std is {self.prior_std} and bayesian_samples {self.bayesian_samples}; give a deviation above 0 and at "
                "least 1 draw."
            )
        if self.kl_weight is not None and (self.kl_weight < 0 or self.head != "bayesian"):
            raise ValueError(
                f"kl_weight is {self.kl_weight} with head {self.head!r}; it is 0 or more, and only head bayesian has a prior."
            )
        if self.disagreement is not None:
            check_choices(("entropy", "deviation"), disagreement=self.disagreement)
        self.scale_questions = [dict(question) for question in self.scale_questions]
        self.auxiliary_questions = [dict(question) for question in self.auxiliary_questions]
        for question in self.scale_questions:
            if not {"name", "low", "high"} <= set(question):
                raise ValueError(f"Scale question {question} needs a name, low and high.")
        for question in self.auxiliary_questions:
            if not {"name", "labels"} <= set(question):
                raise ValueError(f"Auxiliary question {question} needs a name and labels.")
        weights, scales = self.scale_question_weights, self.scale_questions
        if weights is not None and len(weights) != len(scales):
            raise ValueError(
                f"There are {len(weights)} scale_question_weights for {len(scales)} scale questions; give each one."
            )
        scale = ("scale_stretch", "scale_weight", "scale_nll_weight", "scale_ccc_weight")
        check_not_negative(**options_of(self, *scale, "auxiliary_weight"))
        if self.scale_stretch < 1:
            raise ValueError(
                f"scale_stretch is {self.scale_stretch}; give 1 for targets as they are, or more, such as 1.5."
            )
        super().__post_init__(**kwargs)
        if self.disagreement == "entropy" and self.is_scale:
            raise ValueError('disagreement is "entropy" and the questions are scales; use "deviation".')


DistributionConfig.register_for_auto_class()
