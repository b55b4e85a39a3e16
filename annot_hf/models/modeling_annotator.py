"""Every rater's own answer, and the distribution that the raters form together (arXiv 2408.11956)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .configuration_annotator import AnnotatorConfig
from .heads import Each, RaterHeads, pad_pairs, vote_shares
from .kde import cell_masses, draw_answers, draw_observations, expected_answers
from .losses import EPSILON, answer_loss, rating_loss
from .measures import cross_entropy
from .modeling_opinion import OpinionPreTrainedModel
from .outputs import AnnotatorOutput

# The kernel of the published training path, two sigmoids of slope 8 (arXiv 2408.11956).
PUBLISHED_KERNEL = {"kernel": "logistic", "bandwidth": math.pi / (8 * math.sqrt(3))}
# On [-1, 1]: the least standard deviation of a rater's votes, and the softplus argument of that before training.
LEAST_SPREAD, FIRST_SPREAD = 0.05, -1.0


class AnnotatorModel(OpinionPreTrainedModel):
    """A head per rater over a shared embedding, and a consensus for unseen raters.

    Scale questions: each rater's answer is a number on [-1, 1] per question; the distribution is the KDE of the answers
    (see `kde.py`), differentiable towards every head. With `spread` "learned", a rater's vote is a normal opinion around
    that number, rounded and cut at the ends of the scale, as wide as the item is ambiguous and the rater noisy; the KDE is
    that of the votes expected. A category question: each rater's answer is a distribution over
    the labels, and the raters' mean, or the histogram of their votes, is the distribution of opinion.

    The paper joins audio with a BERT vector of the words; this model has one trunk, for audio or text.
    """

    config_class = AnnotatorConfig
    loss_inputs = ("ratings", "labels", "item_weights", "task")

    def __init__(self, config: AnnotatorConfig) -> None:
        super().__init__(config)
        width = self.width
        self.columns, outputs = (len(config.questions), 1) if config.is_scale else (1, len(config.support))
        self.towers = Each(*(_tower(width, config.tower_layers) for _ in range(self.columns)))
        shared = 0 if config.aggregate == "votes" else self.columns
        self.consensus = Each(*(nn.Linear(width, outputs) for _ in range(shared)))
        raters = max(len(config.annotators), 1)
        options = {"facts": len(config.rater_facts[0]) if config.rater_facts else 0, "sparse": config.sparse_raters}
        rows = {"kind": config.rater_rows, "rank": config.rater_rank}
        self.raters = Each(*(RaterHeads(raters, width, outputs, **rows, **options) for _ in range(self.columns)))
        # Of the raters' answers around the model's: each item's ambiguity and each rater's noise.
        self.ambiguity = self.noise = None
        if config.is_scale and config.spread == "learned":
            self.ambiguity = nn.Linear(width, self.columns)
            self.noise = RaterHeads(raters, 0, self.columns, **options)
        self._facts: torch.Tensor | None = None
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        trunk_frames: torch.Tensor | None = None,
        trunk_mask: torch.Tensor | None = None,
        pair_item: torch.Tensor | None = None,
        pair_annotator: torch.Tensor | None = None,
        ratings: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        item_seed: torch.Tensor | None = None,
        item_weights: torch.Tensor | None = None,
        task: str = "both",
        return_dict: bool = True,
    ) -> AnnotatorOutput:
        """Predict the answers of the given raters, or of the panel of all raters, and their distribution.

        Args:
            input_features: Log-mel frames `(B, T, M)`, for the log-mel trunk.
            input_values: Waveforms `(B, samples)` at the trunk's rate, for waveform trunks.
            input_ids: Tokens `(B, T)`, for text trunks.
            attention_mask: 1 where the input is real `(B, T)`.
            token_type_ids: Segments `(B, T)`, for text trunks that use them.
            trunk_frames: Precomputed frames of the trunk `(B, T, H)`, instead of its inputs.
            trunk_mask: 1 where they are real `(B, T)`.
            pair_item: Item of each (item, rater) pair, an ascending index into the batch `(P,)`; every item needs a pair.
            pair_annotator: Rater of each pair, an index into `config.annotators` `(P,)`; -1 is a rater without a head: the
                consensus answers, and the panel of all raters forms the item's distribution.
            ratings: The raters' answers: `(P, D)` on [-1, 1], or label codes `(P, 1)`; NaN where missing.
            labels: Target distributions `(B, K)`.
            item_seed: Seed of each item's resampling `(B,)`; the one of its target removes sampling noise.
            item_weights: Weight of each item in the distribution's loss `(B,)`, of mean 1.
            task: Which loss: "ratings" (task 1 of the paper), "distribution" (task 3) or "both".
            return_dict: Only True is supported.

        Returns:
            `AnnotatorOutput`.

        Raises:
            ValueError: The pairs do not fit the batch, or votes of heads are to be trained towards a distribution.
        """
        if self.training and self.config.aggregate == "votes" and labels is not None and task != "ratings":
            raise ValueError(
                f'task is {task!r} and aggregate "votes", which has no gradient to learn a distribution by; train by task '
                '"ratings" (schedule.tasks: ratings in a recipe), or set aggregate to "mean".'
            )
        embedding = self.embed(
            input_features=input_features,
            input_values=input_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            trunk_frames=trunk_frames,
            trunk_mask=trunk_mask,
        )
        if pair_item is None or pair_annotator is None:
            pair_item, pair_annotator = self._panel(len(embedding), embedding.device)
        else:
            self._check_pairs(pair_item, pair_annotator, len(embedding))
        inner = self.tower_states(embedding)
        consensus, answers = self._answers(inner, pair_item, pair_annotator)
        voter_item, voter, voted = self._taking_part(inner, answers, pair_item, pair_annotator)
        spreads = self._spreads(embedding, pair_item, pair_annotator)
        wide = spreads if voted is answers else self._spreads(embedding, voter_item, voter)
        with torch.autocast(embedding.device.type, enabled=False):
            probs = self._smoothed(self._distribution(voted.float(), wide, voter_item, len(embedding), item_seed))
            predicted = {"probs": probs, "consensus": consensus, "ratings": answers, "pair_item": pair_item}
            predicted |= {} if spreads is None else {"spreads": spreads}
            logits = {} if self.config.is_scale else {"consensus_logits": consensus, "rating_logits": answers}
            predicted |= logits
            given = {"ratings": ratings, "labels": labels, "item_weights": item_weights, "task": task}
            loss = self.loss_of(predicted, given)
        wider = self.config.is_scale and self.config.rater_head == "residual" and self.config.trained
        if wider and not self.training:
            # The consensus head learns the mean vote, and single votes spread wider: all heads do, which is no rater's own.
            shared = self._mean_row(inner)
            consensus = consensus + shared
            answers = torch.where(pair_annotator[:, None] < 0, answers + shared[pair_item], answers)
        if not self.config.is_scale:
            consensus, answers = consensus.float().softmax(-1), answers.float().softmax(-1)
        return AnnotatorOutput(
            loss=loss,
            probs=probs,
            consensus=consensus,
            ratings=answers,
            pair_item=pair_item,
            pair_annotator=pair_annotator,
            spreads=spreads,
            **logits,
        )

    @property
    def loss_spans_batch(self) -> bool:
        """Whether the loss compares the items of a batch with each other, so that its size matters (CCC)."""
        return self.config.loss == "ccc" or (self.config.is_scale and self.config.rating_loss == "ccc")

    def loss_of(self, predicted: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> torch.Tensor | None:
        """Loss of a prediction, also of several batches joined, as far as its targets are given, else None.

        Args:
            predicted: What `forward` returned: `probs`, `pair_item`, and `consensus` and `ratings`, or for a category
                question their logits.
            given: `ratings`, `labels`, `item_weights` and `task` as `forward` takes them.
        """
        probs, task, losses = predicted["probs"], given["task"], []
        if task != "distribution" and given.get("ratings") is not None:
            names = ("consensus", "ratings") if self.config.is_scale else ("consensus_logits", "rating_logits")
            consensus, answers = (predicted[name] for name in names)
            losses.append(self._rating_task(consensus, answers, predicted["pair_item"], given["ratings"], len(probs)))
            if predicted.get("spreads") is not None:
                losses.append(answer_loss(answers, predicted["spreads"], given["ratings"], self.config.levels))
        if task != "ratings" and given.get("labels") is not None:
            losses.append(self.config.distribution_weight * self._distribution_loss(probs, given))
        return sum(losses) if losses else None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.ambiguity:
            init.zeros_(module.weight)
            init.constant_(module.bias, FIRST_SPREAD)
        elif isinstance(module, RaterHeads):
            self._init_rows(module)

    def _init_rows(self, heads: RaterHeads) -> None:
        """Rows that add nothing to the consensus, or those of `raters` separate layers."""
        bound, residual = 1 / math.sqrt(max(heads.width, 1)), self.config.rater_head == "residual"
        if heads.expected is not None:
            init.zeros_(heads.expected.weight)
        if heads.basis is not None:
            init.uniform_(heads.basis, -bound, bound)
        if heads is self.noise or (residual and heads.output is None):
            init.zeros_(heads.table)
        elif heads.kind == "full":
            init.uniform_(heads.table, -bound, bound)
        else:
            init.normal_(heads.table, std=1 / math.sqrt(heads.table.shape[1]))
        if residual and heads.output is not None:
            init.zeros_(heads.output.weight)
            init.zeros_(heads.output.bias)

    def rater_facts(self, like: torch.Tensor) -> torch.Tensor | None:
        """What is known of each rater `(raters, F)`, on the device and of the kind of `like`; None where nothing is."""
        if not self.config.rater_facts:
            return None
        # Not a buffer: the configuration has it, and raters may be added.
        if self._facts is None or len(self._facts) != len(self.config.annotators):
            with torch.inference_mode(False):
                self._facts = torch.tensor(self.config.rater_facts)
        return self._facts.to(like)

    def _check_pairs(self, pair_item: torch.Tensor, pair_annotator: torch.Tensor, items: int) -> None:
        """Raise unless every item has a pair, pairs are ordered by item, and raters have a head."""
        counts = torch.bincount(pair_item, minlength=items)
        if len(counts) > items or not counts.all() or (pair_item.diff() < 0).any():
            raise ValueError(f"pair_item is {pair_item.tolist()}; it must ascend and name each of {items} items.")
        raters = len(self.config.annotators)
        if (pair_annotator >= raters).any():
            raise ValueError(
                f"pair_annotator names rater {int(pair_annotator.max())}; there are {raters}, counted from 0, and -1 asks the "
                "consensus."
            )

    def _panel(self, items: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Every rater (up to `max_panel`) on every item; the consensus head alone when there are no raters."""
        panel = torch.arange(self.config.panel, device=device)
        panel = panel if len(panel) else panel.new_full((1,), -1)
        return torch.arange(items, device=device).repeat_interleave(len(panel)), panel.repeat(items)

    def _answers(
        self, inner: Sequence[torch.Tensor], pair_item: torch.Tensor, pair_annotator: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Consensus `(B, D)` and pair answers `(P, D)`; logits `(., K)` for a category question."""
        votes = self.config.aggregate == "votes"
        consensus = self._mean_row([x.detach() for x in inner]).detach() if votes else self.consensus(inner)
        fallback = consensus[pair_item]
        own = self.raters([x[pair_item] for x in inner], pair_annotator.clip(0), self.rater_facts(inner[0]))
        if self.config.rater_head == "residual":
            own = own + fallback
        return consensus, torch.where(pair_annotator[:, None] >= 0, own, fallback)

    def tower_states(self, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What each tower makes of the embedding `(B, width)`."""
        return self.towers([embedding] * self.columns).chunk(self.columns, -1)

    def _mean_row(self, inner: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the mean row of the trained raters answers `(B, D)`; logits `(B, K)` for a category question."""
        return self.raters(inner, None, self.rater_facts(inner[0]), self.config.trained)

    def _taking_part(
        self,
        inner: Sequence[torch.Tensor],
        answers: torch.Tensor,
        pair_item: torch.Tensor,
        pair_annotator: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Item `(P',)`, rater and answer of each pair that has a part in the distribution.

        These are the given pairs, but the whole panel for an item with a rater without a head, because the consensus does not
        tell how far raters spread. If heads vote, the panel votes on every item.
        """
        items, votes = len(inner[0]), self.config.aggregate == "votes"
        unseen = torch.bincount(pair_item[pair_annotator < 0], minlength=items) > 0
        if not votes and not unseen.any():
            return pair_item, pair_annotator, answers
        panel_item, panel_annotator = self._panel(items, inner[0].device)
        own, added = ~(unseen | votes)[pair_item], (unseen | votes)[panel_item]
        item = torch.cat([pair_item[own], panel_item[added]])
        order = item.argsort(stable=True)
        item, annotator = item[order], torch.cat([pair_annotator[own], panel_annotator[added]])[order]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not votes):
            return item, annotator, self._answers(inner, item, annotator)[1]

    def _spreads(
        self, embedding: torch.Tensor, pair_item: torch.Tensor, pair_annotator: torch.Tensor
    ) -> torch.Tensor | None:
        """Standard deviation of each pair's votes around its answer `(P, D)`, if it is learned: LEAST_SPREAD and more."""
        if self.noise is None:
            return None
        none, facts, trained = embedding.new_zeros(len(pair_item), 0), self.rater_facts(embedding), self.config.trained
        own, stranger = self.noise(none, pair_annotator.clip(0), facts), pair_annotator < 0
        # Only then, as it reads all rows; and without a gradient, which would be one in all of them.
        if stranger.any():
            pool = self.noise(none[:1], None, facts, trained).detach() if trained else 0.0
            own = torch.where(stranger[:, None], pool, own)
        return bounded_spread((self.ambiguity(embedding)[pair_item] + own).float())

    def _distribution(
        self,
        answers: torch.Tensor,
        spreads: torch.Tensor | None,
        pair_item: torch.Tensor,
        items: int,
        item_seed: torch.Tensor | None,
    ) -> torch.Tensor:
        """Distribution over the support `(B, K)`."""
        if self.config.aggregate == "votes":
            return vote_shares(answers.softmax(-1).view(items, -1, answers.shape[-1]))
        values = answers if self.config.is_scale else answers.softmax(-1)
        padded, present = pad_pairs(values, pair_item, items)
        if not self.config.is_scale:
            return padded.sum(1) / present.sum(1, keepdim=True)
        # One seed for all items, so that an item's place in the batch does not matter.
        seed = torch.zeros(items) if item_seed is None else item_seed
        bins, draws = self.config.bins, self.config.draws
        if spreads is not None:
            means, variances = expected_answers(answers, spreads, self.config.levels)
            padded, variances = (pad_pairs(part, pair_item, items)[0] for part in (means, variances))
            most = self.config.votes_per_item
            observations, variances = draw_answers(padded, variances, present, n=draws, seed=seed, most=most)
            return cell_masses(observations, bins=bins, variances=variances).flatten(1)
        observations = draw_observations(padded, present, n=draws, seed=seed)
        kernel = PUBLISHED_KERNEL if self.config.spread == "published" else {}
        return cell_masses(observations, bins=bins, **kernel).flatten(1)

    def _rating_task(
        self, consensus: torch.Tensor, answers: torch.Tensor, pair_item: torch.Tensor, ratings: torch.Tensor, items: int
    ) -> torch.Tensor:
        """Raters' own loss plus that of the consensus head."""
        if self.config.is_scale:
            padded, present = pad_pairs(ratings, pair_item, items)
            given = present[..., None] & ~padded.isnan()
            count = given.sum(1)
            mean = torch.where(given, padded, 0.0).sum(1) / count.clip(1)
            # An item without ratings has no consensus to learn.
            mean = torch.where(count > 0, mean, torch.nan)
            kind = self.config.rating_loss
            return rating_loss(answers, ratings, kind) + self.config.consensus_weight * rating_loss(
                consensus, mean, kind
            )
        # NaN is unknown, -1 is "none of the labels".
        given = ratings[:, 0] >= 0
        codes = torch.where(given, ratings[:, 0], 0).long()
        votes = nn.functional.one_hot(codes, len(self.config.support)).float() * given[:, None]
        counts = pad_pairs(votes, pair_item, items)[0].sum(1)
        voted = counts.sum(-1, keepdim=True)
        own = cross_entropy(votes, answers.float().softmax(-1) + EPSILON).sum() / given.sum().clip(1)
        if self.config.aggregate == "votes":
            return own
        shared = cross_entropy(counts / voted.clip(1), consensus.float().softmax(-1) + EPSILON).sum()
        return own + self.config.consensus_weight * shared / (voted > 0).sum().clip(1)


def bounded_spread(sum_of_parts: torch.Tensor) -> torch.Tensor:
    """Standard deviation of votes, LEAST_SPREAD and more, from an item's ambiguity plus a rater's noise."""
    return LEAST_SPREAD + nn.functional.softplus(sum_of_parts)


def _tower(width: int, layers: int) -> nn.Sequential:
    return nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())))


AnnotatorModel.register_for_auto_class("AutoModel")
