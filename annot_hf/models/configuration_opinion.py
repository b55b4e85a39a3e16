"""Base configurations of all models: questions and their support, trunk and pooling."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .checks import check_choices, check_counts, check_not_negative, check_shares, options_of
from .heads import EMBEDDINGS, POOLINGS
from .kde import cell_names
from .losses import BATCH_LOSSES, CLASS_WEIGHTED, LOSSES
from .opinion_pipeline import pipelines_of
from .trunks import check_layer, trunk_config_from


class SupportConfig(PreTrainedConfig):
    """Questions and loss; `id2label` names the K entries of the support.

    Args:
        questions: The questions answered, as dictionaries with `name` and either `labels` or `low` and `high`: one
            category, or one or two scales.
        bins: Grid cells per scale question.
        loss: Distribution loss: "kl", "cross_entropy", "jsd", "ccc" or "soft_f1" (see `losses.distribution_loss`).
        class_weights: Weight of each entry of the support in that loss (K,), for "kl" and "cross_entropy".
        jsd_share: How much of that loss is 4 JSD instead, in [0, 1]; not for "ccc" and "soft_f1".
        marginal: Distribution of the training votes (K,), if `marginal_share` is above 0; training fills it in.
        marginal_share: How much of each predicted distribution is `marginal`, in [0, 1), so that no answer of these
            votes is impossible; training chooses it on the validation split. Applies outside training mode.
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

    questions: Sequence[dict[str, Any]] = ()
    bins: int = 4
    loss: str = "kl"
    class_weights: Sequence[float] | None = None
    jsd_share: float = 0.0
    marginal: Sequence[float] | None = None
    marginal_share: float = 0.0
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    adapted_from: dict[str, str | None] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_counts(bins=self.bins)
        self.set_lora(self.lora_rank, self.lora_alpha, self.lora_dropout)
        base = self.adapted_from
        known = isinstance(base, dict) and {name: type(value) for name, value in base.items()}
        if base is not None and known != {"base": str, "version": str}:
            raise ValueError(f"adapted_from is {base!r} and does not say what the adapters sit on; restore it.")
        loss, class_weights, jsd_share = self.loss, self.class_weights, self.jsd_share
        check_choices(LOSSES, loss=loss)
        if class_weights is not None and loss not in CLASS_WEIGHTED:
            raise ValueError(f"loss is {loss!r}, which takes no class_weights; use one of {', '.join(CLASS_WEIGHTED)}.")
        if not 0 <= jsd_share <= 1 or (jsd_share and loss in BATCH_LOSSES):
            raise ValueError(
                f"jsd_share is {jsd_share} with loss {loss!r}; it lies in [0, 1], and is 0 with {' and '.join(BATCH_LOSSES)}."
            )
        self.questions = [dict(question) for question in self.questions]
        _check_questions(self.questions)
        if self.questions:
            self._number_support()
        if not 0 <= self.marginal_share < 1:
            raise ValueError(f"marginal_share is {self.marginal_share}; it lies in [0, 1).")
        if self.marginal_share and (self.marginal is None or len(self.marginal) != len(self.id2label)):
            raise ValueError(f"marginal is {self.marginal}; with a marginal_share, give the probability of each label.")
        # Otherwise the library would drop the attention settings of inner configurations.
        kwargs.setdefault("attn_implementation", {})
        super().__post_init__(**kwargs)
        if class_weights is not None:
            self.class_weights = [float(weight) for weight in class_weights]
            labels = len(self.support) if self.questions else len(class_weights)
            if len(class_weights) != labels:
                raise ValueError(f"There are {len(class_weights)} class_weights for {labels} labels; give each one.")

    def _number_support(self) -> None:
        """Fill in `id2label` and `label2id`; a ValueError if they are given otherwise than the questions ask."""
        names = [question["name"] for question in self.questions]
        labels = cell_names(names, self.bins) if self.is_scale else self.questions[0]["labels"]
        numbered = dict(enumerate(labels)) if self.id2label is None else self.id2label
        if {int(number): label for number, label in numbered.items()} != dict(enumerate(labels)):
            raise ValueError(
                f"id2label is {numbered} and the questions' answers are {', '.join(labels)}; number them from 0 in their "
                "order, or leave it out."
            )
        numbers = {label: number for number, label in enumerate(labels)}
        if self.label2id not in (None, numbers):
            raise ValueError(f"label2id is {self.label2id} and id2label {numbered}; give its inverse, or leave it out.")
        self.id2label, self.label2id = numbered, numbers

    def set_lora(self, lora_rank: int, lora_alpha: float, lora_dropout: float) -> None:
        """Choose rank, scale and dropout of adapters; a ValueError if one is out of range."""
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
        labels = question.get("labels")
        texts = [question["name"], question.get("prompt") or "", *question.get("labels", ())]
        if not all(isinstance(text, str) for text in texts) or isinstance(labels, str):
            raise ValueError(
                f"Question {question} has something else than text for its name, prompt or labels; give text."
            )
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
    """Base configuration over a trunk; the other options are those of `SupportConfig`.

    Args:
        trunk_config: Configuration of the trunk, or its dictionary; the log-mel trunk when None.
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
        embedding_kind: "normed" for layer norm, dropout, linear, GELU, dropout; "batch_normed" for the same with batch norm,
            which brings units of very different size to one; "plain" for linear, ReLU, dropout (arXiv 2606.27536); "none"
            for dropout alone, the heads on what the pooling gives.
        dropout: Dropout before and after the shared embedding.
        freeze_trunk: Train the heads only: the trunk stays in evaluation mode, its frames are rounded to half precision
            (as a cache of them is), and its weights take no gradients.
        trunk_layer: Which hidden state of the trunk is read, of 0 to L: 0 enters the first transformer layer, k leaves the
            k-th, and the model then has only the first k (`trunk_config` keeps saying how many there were). "weighted" is
            a softmax-weighted sum of all L + 1, learned from equal weights. A list of numbers, in rising order, puts these
            states side by side. None is the trunk's own output, which is hidden state L but for the stable-layer-norm
            variants of wav2vec 2.0: these have one more norm after it.
        **kwargs: Options of `SupportConfig`.

    Raises:
        ValueError: An option is unknown or out of range, the kernel even, or the trunk has no such layer.
    """

    sub_configs = {"trunk_config": AutoConfig}

    trunk_config: dict | PreTrainedConfig | None = None
    pooling: str = "tcgru"
    pooling_size: int = 128
    pooling_kernel: int = 3
    pooling_stride: int = 1
    pooling_dropout: float = 0.1
    pooling_bidirectional: bool = True
    pooling_attention: bool = True
    pooling_skip: str = "concat"
    embedding_size: int = 128
    embedding_kind: str = "normed"
    dropout: float = 0.3
    freeze_trunk: bool = False
    trunk_layer: int | str | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_choices(POOLINGS, pooling=self.pooling)
        check_choices(("concat", "add"), pooling_skip=self.pooling_skip)
        check_choices(EMBEDDINGS, embedding_kind=self.embedding_kind)
        check_shares(**options_of(self, "pooling_dropout", "dropout"))
        check_counts(**options_of(self, "pooling_size", "pooling_kernel", "pooling_stride", "embedding_size"))
        if self.pooling_kernel % 2 == 0:
            raise ValueError(
                f"pooling_kernel is {self.pooling_kernel}; it must be odd, so that frames stay in the middle."
            )
        self.trunk_config = trunk_config_from(self.trunk_config)
        check_layer(self.trunk_config, self.trunk_layer)
        super().__post_init__(**kwargs)
        # not what a file says: the name of code to run
        self.custom_pipelines = pipelines_of(self.trunk_config)

    @property
    def auxiliary_sizes(self) -> list[int]:
        """Number of labels of each auxiliary question."""
        return [len(question["labels"]) for question in getattr(self, "auxiliary_questions", ())]

    @property
    def frame_size(self) -> int:
        """Width of a frame: that of the trunk, once for each layer that is read beside others."""
        return self.trunk_config.hidden_size * (len(self.trunk_layer) if isinstance(self.trunk_layer, list) else 1)
