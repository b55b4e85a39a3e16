"""Base configurations of all models: questions and their support, trunk and pooling."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .checks import check_counts, check_not_negative, check_shares
from .heads import EMBEDDINGS, POOLINGS
from .kde import cell_names
from .losses import CLASS_WEIGHTED, LOSSES
from .trunks import check_layer, trunk_config_from


class SupportConfig(PreTrainedConfig):
    """Questions and loss; `id2label` names the K entries of the support.

    Args:
        questions: The questions answered, as dictionaries with `name` and either `labels` or `low` and `high`: one
            category, or one or two scales.
        bins: Grid cells per scale question.
        loss: Distribution loss: "kl", "cross_entropy", "jsd", or "ccc" (see `losses.distribution_loss`).
        class_weights: Weight of each entry of the support in that loss (K,), for "kl" and "cross_entropy".
        jsd_share: How much of that loss is 4 JSD instead, in [0, 1]; not for "ccc".
        lora_rank: Rank of the low-rank adapters that training puts on the trunk; 0 trains all weights.
        lora_alpha: Scale of the adapters, before it is divided by their rank.
        lora_dropout: Dropout before the adapters, in [0, 1).
        adapted_from: `base` (folder or Hub id) and `version` (digest or commit) of the checkpoint that saved adapters sit
            on; None of whole weights. Saving writes it.
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
        lora_rank: int = 0,
        lora_alpha: float = 16.0,
        lora_dropout: float = 0.0,
        adapted_from: dict[str, str | None] | None = None,
        **kwargs: Any,
    ) -> None:
        check_counts(bins=bins)
        self.set_lora(lora_rank, lora_alpha, lora_dropout)
        known = isinstance(adapted_from, dict) and {name: type(value) for name, value in adapted_from.items()}
        if adapted_from is not None and known != {"base": str, "version": str}:
            raise ValueError(f"adapted_from is {adapted_from!r} and does not say what the adapters sit on; restore it.")
        self.adapted_from = adapted_from
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
        # Otherwise the library would drop the attention settings of inner configurations.
        kwargs.setdefault("attn_implementation", {})
        super().__init__(**kwargs)
        if self.questions and class_weights is not None and len(class_weights) != len(self.support):
            raise ValueError(
                f"There are {len(class_weights)} class_weights for {len(self.support)} labels; give each one."
            )

    def set_lora(self, lora_rank: int, lora_alpha: float, lora_dropout: float) -> None:
        """Choose rank, scale and dropout of adapters.

        Raises:
            ValueError: One is out of range.
        """
        check_counts(0, lora_rank=lora_rank)
        check_not_negative(lora_alpha=lora_alpha, lora_dropout=lora_dropout)
        if lora_alpha == 0 or lora_dropout >= 1:
            raise ValueError(
                f"lora_alpha is {lora_alpha} and lora_dropout {lora_dropout}; give a scale above 0 and a dropout below 1."
            )
        self.lora_rank, self.lora_alpha, self.lora_dropout = lora_rank, lora_alpha, lora_dropout

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


class OpinionConfig(SupportConfig):
    """Base configuration over a trunk; `id2label` names the K entries of the support.

    Args:
        trunk_config: Configuration of the trunk, or its dictionary; the log-mel trunk when None.
        questions: The questions answered, as dictionaries with `name` and either `labels` or `low` and `high`: one
            category, or one or two scales.
        bins: Grid cells per scale question.
        pooling: "mean", "first" (the [CLS] token of a BERT), "attention" (attentive statistics) or "tcgru".
        pooling_size: Width of the TC-GRU.
        pooling_kernel: Kernel of its convolution, odd.
        pooling_stride: Stride of its convolution; 2 halves the steps of the GRU.
        pooling_dropout: Dropout after its convolution and between its GRU layers.
        pooling_bidirectional: Run the GRU both ways.
        pooling_attention: Add attentive statistics over the GRU's outputs.
        pooling_skip: How the GRU's state and the mean of its convolution meet: side by side ("concat"), or summed ("add",
            as in arXiv 2606.27536).
        embedding_size: Width of the shared embedding.
        embedding_kind: "normed" for layer norm, dropout, linear, GELU, dropout; "plain" for linear, ReLU, dropout (arXiv
            2606.27536); "none" for dropout alone, the heads on what the pooling gives.
        dropout: Dropout before and after the shared embedding.
        freeze_trunk: Train the heads only: the trunk stays in evaluation mode, its frames are rounded to half precision
            (as a cache of them is), and its weights take no gradients.
        loss: Distribution loss: "kl", "cross_entropy", "jsd", or "ccc" (see `losses.distribution_loss`).
        class_weights: Weight of each entry of the support in that loss (K,), for "kl" and "cross_entropy".
        jsd_share: How much of that loss is 4 JSD instead, in [0, 1]; not for "ccc".
        trunk_layer: Which hidden state of the trunk is read, of 0 to L: 0 enters the first transformer layer, k leaves the
            k-th, and the model then has only the first k (`trunk_config` keeps saying how many there were). "weighted" is
            a softmax-weighted sum of all L + 1, learned from equal weights. None is the trunk's own output, which is
            hidden state L but for the stable-layer-norm variants of wav2vec 2.0: these have one more norm after it.
        **kwargs: Passed on.

    Raises:
        ValueError: An option is unknown or out of range, the kernel even, the trunk has no such layer, the weights are not
            one a label, or the questions do not go together.
    """

    sub_configs = {"trunk_config": AutoConfig}

    def __init__(
        self,
        trunk_config: dict | PreTrainedConfig | None = None,
        questions: Sequence[dict[str, Any]] = (),
        bins: int = 4,
        pooling: str = "tcgru",
        pooling_size: int = 128,
        pooling_kernel: int = 3,
        pooling_stride: int = 1,
        pooling_dropout: float = 0.1,
        pooling_bidirectional: bool = True,
        pooling_attention: bool = True,
        pooling_skip: str = "concat",
        embedding_size: int = 128,
        embedding_kind: str = "normed",
        dropout: float = 0.3,
        freeze_trunk: bool = False,
        loss: str = "kl",
        class_weights: Sequence[float] | None = None,
        jsd_share: float = 0.0,
        trunk_layer: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; use one of {', '.join(POOLINGS)}.")
        for name, value, allowed in (
            ("pooling_skip", pooling_skip, ("concat", "add")),
            ("embedding_kind", embedding_kind, EMBEDDINGS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(allowed)}.")
        check_shares(pooling_dropout=pooling_dropout, dropout=dropout)
        check_counts(
            pooling_size=pooling_size,
            pooling_kernel=pooling_kernel,
            pooling_stride=pooling_stride,
            embedding_size=embedding_size,
        )
        if pooling_kernel % 2 == 0:
            raise ValueError(f"pooling_kernel is {pooling_kernel}; it must be odd, so that frames stay in the middle.")
        self.trunk_config = trunk_config_from(trunk_config)
        check_layer(self.trunk_config, trunk_layer)
        self.trunk_layer = trunk_layer
        self.pooling = pooling
        self.pooling_size = pooling_size
        self.pooling_kernel = pooling_kernel
        self.pooling_stride = pooling_stride
        self.pooling_dropout = pooling_dropout
        self.pooling_bidirectional = pooling_bidirectional
        self.pooling_attention = pooling_attention
        self.pooling_skip = pooling_skip
        self.embedding_size = embedding_size
        self.embedding_kind = embedding_kind
        self.dropout = dropout
        self.freeze_trunk = freeze_trunk
        super().__init__(
            questions=questions, bins=bins, loss=loss, class_weights=class_weights, jsd_share=jsd_share, **kwargs
        )
