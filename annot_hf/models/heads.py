"""Layers above a trunk: a weighting of its layers, pooling over time, and heads for distributions and raters."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import initialization as init

from .measures import mixture


def init_as_torch(module: nn.Module) -> None:
    """Initialise `module` like PyTorch, skipping parameters already loaded from a checkpoint.

    The library's default, a normal of deviation 0.02 whatever the width, is meant for wide pre-trained transformers and
    starts small networks too close to zero.
    """
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        if module.bias is not None:
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)
    elif isinstance(module, nn.MultiheadAttention):
        init.xavier_uniform_(module.in_proj_weight)
        init.zeros_(module.in_proj_bias)
        init.zeros_(module.out_proj.bias)
    elif isinstance(module, nn.GRU):
        bound = 1 / math.sqrt(module.hidden_size)
        for parameter in module.parameters():
            init.uniform_(parameter, -bound, bound)
    elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d):
        init.ones_(module.weight)
        init.zeros_(module.bias)
        if not isinstance(module, nn.LayerNorm):
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)


POOLINGS = ("mean", "first", "attention", "tcgru")
# The weight of the mean answer in the votes, so that no two labels tie.
TIE = 1e-6
EMBEDDINGS = ("normed", "plain", "none")
RATER_ROWS = ("full", "low_rank", "embedding")


class LayerSum(nn.Module):
    """Softmax-weighted sum of a trunk's hidden states, learned from equal weights (as in SUPERB, Yang et al. 2021)."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(states))

    def forward(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Sum `states`, each `(B, T, H)`, one after the other, to avoid copying them all."""
        weights = self.scores.softmax(0)
        return sum(weight * state for weight, state in zip(weights, states, strict=True))


class MeanPooling(nn.Module):
    """Mean over the real frames, `(B, T, H)` to `(B, H)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.output_size = width

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool `frames` `(B, T, H)` where `mask` `(B, T)` is True."""
        return masked_mean(frames, mask)

    def weights(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Weight of each frame in the result `(B, T)`; rows sum to 1, padding has none."""
        real = mask.to(frames.dtype)
        return real / real.sum(1, keepdim=True).clip(1)


class FirstPooling(nn.Module):
    """The first frame, `(B, T, H)` to `(B, H)`: the [CLS] token of a BERT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.output_size = width

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The first of `frames` `(B, T, H)`; the collator pads on the right, so it is always real."""
        return frames[:, 0]

    def weights(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Weight of each frame in the result `(B, T)`: 1 for the first, 0 for the others."""
        weights = torch.zeros_like(frames[..., 0])
        weights[:, 0] = 1
        return weights


class AttentivePooling(nn.Module):
    """Attentive statistics (Okabe et al. 2018): weighted mean and deviation, `(B, T, H)` to `(B, 2 H)`."""

    def __init__(self, width: int, attention_size: int = 64) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, attention_size), nn.Tanh(), nn.Linear(attention_size, 1))
        self.output_size = 2 * width

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool `frames` `(B, T, H)` where `mask` `(B, T)` is True."""
        # (B, T, 1).
        weights = self.weights(frames, mask)[..., None]
        mean = (weights * frames).sum(1)
        variance = (weights * (frames - mean[:, None]) ** 2).sum(1)
        return torch.cat([mean, (variance + 1e-6).sqrt()], -1)

    def weights(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Weight of each frame in the mean `(B, T)`; rows sum to 1, padding has none."""
        # autocast may give scores of another precision than the frames
        scores = self.score(frames)[..., 0]
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)


class TcGruPooling(nn.Module):
    """Temporal convolution and two GRU layers (arXiv 2606.27536 and 2503.22711), then statistics over time.

    The result holds the last layer's final state, the masked mean of the convolution and, with `attention`, attentive
    statistics over the GRU's outputs, side by side; with `add`, the first two are summed (the skip of 2606.27536). The
    papers leave the stride at 1; 2 halves the steps of the GRU, which are most of the time on a CPU.
    """

    def __init__(
        self,
        width: int,
        size: int,
        *,
        kernel: int,
        stride: int,
        bidirectional: bool,
        attention: bool,
        add: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        wide = size * (1 + bidirectional)
        self.conv = nn.Conv1d(width, wide, kernel, stride, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(wide, size, 2, batch_first=True, bidirectional=bidirectional, dropout=dropout)
        self.attention = AttentivePooling(wide) if attention else None
        self.add = add
        self.output_size = wide * (2 - add + 2 * attention)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool `frames` `(B, T, H)` where `mask` `(B, T)` is True; padding has no influence."""
        frames = (frames * mask[..., None]).transpose(1, 2)
        mask = mask[:, :: self.conv.stride[0]]
        # (B, T', wide).
        convolved = self.dropout(nn.functional.relu(self.conv(frames).transpose(1, 2)))
        packed = pack_padded_sequence(convolved, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        output, state = self.gru(packed)
        final = torch.cat([state[-2], state[-1]], -1) if self.gru.bidirectional else state[-1]
        skip = masked_mean(convolved, mask)
        parts = [final + skip] if self.add else [final, skip]
        if self.attention is not None:
            output, _ = pad_packed_sequence(output, batch_first=True, total_length=mask.shape[1])
            parts.append(self.attention(output, mask))
        return torch.cat(parts, -1)


def make_pooling(config: Any) -> nn.Module:
    """The pooling that an `OpinionConfig` asks for; its `output_size` is the width of what it gives."""
    width = config.trunk_config.hidden_size
    plain = {"mean": MeanPooling, "first": FirstPooling, "attention": AttentivePooling}
    if config.pooling in plain:
        return plain[config.pooling](width)
    return TcGruPooling(
        width,
        config.pooling_size,
        kernel=config.pooling_kernel,
        stride=config.pooling_stride,
        bidirectional=config.pooling_bidirectional,
        attention=config.pooling_attention,
        add=config.pooling_skip == "add",
        dropout=config.pooling_dropout,
    )


def make_embedding(config: Any, width: int) -> nn.Module:
    """The layers from a pooled vector `(B, width)` to the shared embedding `(B, embedding_size)`, or the identity."""
    if config.embedding_kind == "none":
        return nn.Dropout(config.dropout)
    linear = nn.Linear(width, config.embedding_size)
    if config.embedding_kind == "plain":
        return nn.Sequential(linear, nn.ReLU(), nn.Dropout(config.dropout))
    return nn.Sequential(nn.LayerNorm(width), nn.Dropout(config.dropout), linear, nn.GELU(), nn.Dropout(config.dropout))


class BayesianLinear(nn.Module):
    """A linear layer whose weights are normally distributed, each by itself (Bayes by backprop, Blundell et al. 2015).

    The posterior of a weight is N(mu, softplus(rho)^2), its prior N(0, prior_std^2). In training, a call draws the weights
    once, from torch's generator. In evaluation, it draws them `samples` times from its own generator with a fixed seed: the
    same weights for every item and call, so a prediction is reproducible and does not depend on its batch.
    """

    def __init__(self, width: int, outputs: int, *, prior_std: float = 1.0, samples: int = 30) -> None:
        super().__init__()
        self.prior_std, self.samples = prior_std, samples
        # The last column is the bias.
        self.mu = nn.Parameter(torch.zeros(outputs, width + 1))
        self.rho = nn.Parameter(torch.zeros(outputs, width + 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Answers `(S, B, outputs)` of S drawn layers to `x` `(B, width)`: 1 in training, `samples` in evaluation."""
        generator = None if self.training else torch.Generator().manual_seed(0)
        shape = (1 if self.training else self.samples, *self.mu.shape)
        # The same random numbers on every device.
        device = self.mu.device if self.training else "cpu"
        noise = torch.randn(shape, generator=generator, device=device).to(self.mu)
        drawn = self.mu + nn.functional.softplus(self.rho) * noise
        return torch.einsum("sow,bw->sbo", drawn[..., :-1], x) + drawn[:, None, :, -1]

    def kl(self) -> torch.Tensor:
        """KL divergence (nats) of the posterior from the prior, summed over the weights: a scalar >= 0, in float32."""
        mu, std = self.mu.float(), nn.functional.softplus(self.rho.float())
        prior = Normal(torch.zeros_like(mu), torch.full_like(std, self.prior_std), validate_args=False)
        return kl_divergence(Normal(mu, std, validate_args=False), prior).sum()


def make_head(width: int, outputs: int, kind: str, *, prior_std: float = 1.0, samples: int = 30) -> nn.Module:
    """A head over `(B, width)`: "linear"; "mlp" as in arXiv 2606.27536 (section 2.1); or "bayesian", a `BayesianLinear`.

    The first two give `(B, outputs)`, the last one `(S, B, outputs)`; `prior_std` and `samples` are its own.
    """
    if kind == "linear":
        return nn.Linear(width, outputs)
    if kind == "bayesian":
        return BayesianLinear(width, outputs, prior_std=prior_std, samples=samples)
    return nn.Sequential(
        nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(0.2), nn.Linear(width, outputs)
    )


class SequenceHead(nn.Module):
    """Answers from the hidden states of a language model (arXiv 2601.14620, the authors' code).

    Self-attention over the sequence, of which the first position is kept; a residual block; two linear layers. Padding is
    masked, unlike in the authors' code. Only the query of the first position is computed, because only that position is read:
    the result is the same at 1/T of the cost. In a causal model that query is the same for every clip; the keys and values
    that it attends to are the clip's. `heads` divides the width of the states.
    """

    def __init__(self, width: int, outputs: int, heads: int = 8) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.residual = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Dropout(0.15), nn.GELU())
        self.classifier = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width // 2),
            nn.Dropout(0.1),
            nn.GELU(),
            nn.LayerNorm(width // 2),
            nn.Linear(width // 2, outputs),
        )

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Answers `(B, outputs)` from `states` `(B, T, d)` where `mask` `(B, T)` is True; padding may be on either side."""
        states = states.to(self.attention.in_proj_weight.dtype)
        # (B, 1, d).
        first = states[torch.arange(len(states), device=states.device), mask.int().argmax(1)][:, None]
        attended, _ = self.attention(first, states, states, key_padding_mask=~mask, need_weights=False)
        attended = attended[:, 0]
        return self.classifier(attended + self.residual(attended))


class Each(nn.Sequential):
    """Parallel layers, one per question. `peft` can save them (`modules_to_save`), unlike a `ModuleList`."""

    def forward(self, inputs: Sequence[torch.Tensor], *more: Any) -> torch.Tensor:
        """The outputs `(., outputs)` of each layer for its own of `inputs` and the shared arguments, concatenated."""
        return torch.cat([layer(x, *more) for layer, x in zip(self, inputs, strict=True)], -1)


class RaterHeads(nn.Module):
    """A layer per rater, evaluated only for the (item, rater) pairs that exist (arXiv 2408.11956).

    All that raters have of their own is one table, a row a rater. A row of kind "full" is a linear layer, as published,
    `outputs * (width + 1)` numbers; of "low_rank", the coefficients of `rank` linear layers that all raters share; of
    "embedding", a vector of `rank` numbers that enters a hidden layer, which all share, beside the item's. A step reads, and
    with `sparse` also updates, only the rows of the raters in the batch, so its cost does not grow with the other raters.

    With `facts`, that many numbers are known of each rater, and a row adds a linear map of these, which all share.
    """

    def __init__(
        self,
        raters: int,
        width: int,
        outputs: int,
        *,
        kind: str = "full",
        rank: int = 0,
        facts: int = 0,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.outputs, self.kind, self.sparse = width, outputs, kind, sparse
        layer = outputs * (width + 1)
        self.table = nn.Parameter(torch.zeros(raters, layer if kind == "full" else rank))
        self.basis = nn.Parameter(torch.zeros(rank, layer)) if kind == "low_rank" else None
        self.hidden = nn.Linear(width + rank, width) if kind == "embedding" else None
        self.output = nn.Linear(width, outputs) if kind == "embedding" else None
        self.expected = nn.Linear(facts, self.table.shape[1], bias=False) if facts else None

    def forward(
        self,
        x: torch.Tensor,
        annotator: torch.Tensor | None,
        facts: torch.Tensor | None = None,
        first: int | None = None,
    ) -> torch.Tensor:
        """Answers `(P, outputs)` of raters `annotator` `(P,)`, or of the mean row of the `first`, to `x` `(P, width)`.

        `facts` are of all raters.
        """
        if annotator is None:
            shared = self.shared_part(None if facts is None else facts[:first].mean(0))
            rows = (self.table[:first].mean(0) + shared).expand(len(x), -1)
        else:
            rows = nn.functional.embedding(annotator, self.table, sparse=self.sparse)
            rows = rows + self.shared_part(None if facts is None else facts[annotator])
        return self.answer(x, rows)

    def shared_part(self, facts: torch.Tensor | None) -> torch.Tensor:
        """What raters of whom these `facts` `(., F)` are known have in common in their rows; nothing where none are."""
        return self.table.new_zeros(()) if self.expected is None else self.expected(facts)

    def answer(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Answers `(P, outputs)` of raters with these rows `(P, columns of the table)` to `x` `(P, width)`."""
        if self.hidden is not None:
            return self.output(nn.functional.gelu(self.hidden(torch.cat([x, rows], -1))))
        rows = (rows if self.basis is None else rows @ self.basis).reshape(-1, self.outputs, self.width + 1)
        return torch.einsum("pow,pw->po", rows[..., :-1], x) + rows[..., -1]


def vote_shares(probs: torch.Tensor) -> torch.Tensor:
    """Share of n voters with each label as their most probable one `(B, K)`, from their distributions `(B, n, K)`.

    A millionth of their mean distribution is mixed in, so that the more probable one of tied labels comes first.
    """
    votes = nn.functional.one_hot(probs.argmax(-1), probs.shape[-1]).to(probs)
    return mixture(votes.mean(1), probs.mean(1), TIE)


def masked_mean(frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `frames` `(B, T, H)` over True of `mask` `(B, T)`: `(B, H)`."""
    weights = mask[..., None].to(frames.dtype)
    return (frames * weights).sum(1) / weights.sum(1).clip(1)


def pad_pairs(values: torch.Tensor, item: torch.Tensor, items: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows `(P, D)` ordered by `item` into `(items, R, D)` and the mask `(items, R)` of those that exist."""
    counts = torch.bincount(item, minlength=items)
    start = counts.cumsum(0) - counts
    place = torch.arange(len(item), device=item.device) - start[item]
    width = int(counts.max()) if len(item) else 0
    padded = values.new_zeros(items, width, values.shape[-1]).index_put((item, place), values)
    return padded, torch.arange(width, device=item.device) < counts[:, None]
