"""What every model that predicts a distribution is asked, and the support that follows from it."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from .checks import check_counts
from .kde import cell_names
from .losses import CLASS_WEIGHTED, LOSSES


class SupportConfig(PreTrainedConfig):
    """Questions and loss; `id2label` names the K entries of the support.

    Args:
        questions: The questions answered, as dictionaries with `name` and either `labels` or `low` and `high`: one
            category, or one or two scales.
        bins: Grid cells per scale question.
        loss: Distribution loss: "kl", "cross_entropy", "jsd", or "ccc" (see `losses.distribution_loss`).
        class_weights: Weight of each entry of the support in that loss (K,), for "kl" and "cross_entropy".
        jsd_share: How much of that loss is 4 JSD instead, in [0, 1]; not for "ccc".
        **kwargs: Passed on.

    Raises:
        ValueError: An option is unknown or out of range, the weights are not one a label, or the questions do not go
            together.
    """

    def __init__(
        self,
        questions: Sequence[dict[str, Any]] = (),
        bins: int = 4,
        loss: str = "kl",
        class_weights: Sequence[float] | None = None,
        jsd_share: float = 0.0,
        **kwargs: Any,
    ) -> None:
        check_counts(bins=bins)
        if loss not in LOSSES:
            raise ValueError(f"loss is {loss!r}; use one of {', '.join(LOSSES)}.")
        if class_weights is not None and loss not in CLASS_WEIGHTED:
            raise ValueError(f"loss is {loss!r}, which takes no class_weights; use one of {', '.join(CLASS_WEIGHTED)}.")
        if not 0 <= jsd_share <= 1 or (jsd_share and loss == "ccc"):
            raise ValueError(f"jsd_share is {jsd_share} with loss {loss!r}; it lies in [0, 1]; with 'ccc' set it to 0.")
        self.questions = [dict(question) for question in questions]
        _check_questions(self.questions)
        self.bins = bins
        self.loss = loss
        self.jsd_share = jsd_share
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        if self.questions:
            names = [question["name"] for question in self.questions]
            labels = self.questions[0]["labels"] if not self.is_scale else cell_names(names, bins)
            numbered = kwargs.setdefault("id2label", dict(enumerate(labels)))
            if {int(number): label for number, label in numbered.items()} != dict(enumerate(labels)):
                raise ValueError(
                    f"id2label is {numbered} and the questions' answers are {', '.join(labels)}; number them from 0 in their "
                    "order, or leave it out."
                )
            names = {label: number for number, label in enumerate(labels)}
            if kwargs.get("label2id") not in (None, names):
                raise ValueError(
                    f"label2id is {kwargs['label2id']} and id2label {numbered}; give its inverse, or leave it out."
                )
            kwargs["label2id"] = names
        # without, the library would take away what the configurations inside say of their attention
        kwargs.setdefault("attn_implementation", {})
        super().__init__(**kwargs)
        if self.questions and class_weights is not None and len(class_weights) != len(self.support):
            raise ValueError(
                f"There are {len(class_weights)} class_weights for {len(self.support)} labels; give each one."
            )

    @property
    def is_scale(self) -> bool:
        """Whether the questions are scales, and so the support a grid."""
        return bool(self.questions) and "low" in self.questions[0]

    @property
    def support(self) -> tuple[str, ...]:
        """Names of the K entries of the support."""
        return tuple(self.id2label[index] for index in range(len(self.id2label)))


def _check_questions(questions: Sequence[dict[str, Any]]) -> None:
    """One category, or one or two scales; none at all is what the library makes to tell defaults apart."""
    for question in questions:
        if "name" not in question or ("labels" in question) == ({"low", "high"} <= set(question)):
            raise ValueError(f"Question {question} needs a name and either labels, or low and high.")
        texts = [question["name"], question.get("prompt") or "", *question.get("labels", ())]
        if not all(isinstance(text, str) for text in texts) or isinstance(question.get("labels"), str):
            raise ValueError(
                f"Question {question} has something else than text for its name, prompt or labels; give text."
            )
        labels = question.get("labels")
        if labels is not None and (len(labels) < 2 or len(set(labels)) < len(labels) or not all(labels)):
            raise ValueError(f"Question {question['name']!r} has the labels {labels}; give two or more, each once.")
        if labels is None and not question["low"] < question["high"]:
            raise ValueError(
                f"Question {question['name']!r} goes from {question['low']} to {question['high']}; low is below high."
            )
    scales = sum("low" in question for question in questions)
    if len(questions) > 2 or (len(questions) == 2 and scales < 2):
        names = ", ".join(question["name"] for question in questions)
        raise ValueError(f"questions are {names}; a model answers one category, or one or two scales.")
