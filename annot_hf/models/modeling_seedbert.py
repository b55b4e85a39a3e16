"""An ensemble that recovers disagreement from single labels: members differ by a seed, and vote (arXiv 2211.13196)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel

from .configuration_seedbert import MEMBER_OPTIONS, SeedBertConfig
from .heads import make_embedding, make_head, make_pooling, vote_shares
from .losses import distribution_loss
from .member_adapters import MemberAdapter, MemberAdapters
from .members import check_alike, check_different, check_processors, read_member
from .modeling_distribution import DistributionModel
from .modeling_opinion import OpinionPreTrainedModel
from .outputs import SeedBertOutput


class SeedBert(OpinionPreTrainedModel):
    """n members vote; the histogram of their votes is the distribution of opinion, the majority the label.

    Members start from one pre-trained trunk and differ by the random numbers that their fresh layers are drawn from, one
    member after the other, from torch's generator: `torch.manual_seed` before `from_trunk` decides them all. A trunk that
    is not pre-trained is drawn likewise, for each independent member anew. Trained together, the members see the same
    batches in the same order; `from_members` assembles models that were trained one by one.

    Example:
        >>> from annot_hf import SeedBert, SeedBertConfig
        >>> questions = [{"name": "emotion", "labels": ["angry", "happy"]}]
        >>> model = SeedBert(SeedBertConfig(questions=questions, members="shared", num_members=4)).eval()
        >>> output = model(input_features=torch.zeros(3, 100, 80))
        >>> output.probs.shape, output.votes.shape, output.label.shape
        (torch.Size([3, 2]), torch.Size([3, 4]), torch.Size([3]))
    """

    config_class = SeedBertConfig
    loss_inputs = ("labels", "item_weights")

    def __init__(self, config: SeedBertConfig) -> None:
        super().__init__(config)
        self.post_init()

    def _build(self) -> None:
        config, members = self.config, range(self.config.num_members)
        if config.members == "independent":
            self.members = nn.ModuleList(DistributionModel(config.member_config()) for _ in members)
            return
        # A skipped layer would not repeat its items for the members.
        self._build_trunk(skip_layers=config.members == "shared")
        self.members = nn.ModuleList(_Member(config) for _ in members)
        if config.members == "lora":
            self.adapters = MemberAdapters(
                self.trunk,
                members=config.num_members,
                layers=config.lora_layers,
                rank=config.lora_rank,
                alpha=config.lora_alpha,
            )

    @classmethod
    def from_members(cls, members: Sequence[str | Path | DistributionModel], *, distribution: str = "votes") -> Self:
        """One model from separately trained ones; its members answer exactly as they did.

        A model has no processor: save that of a member beside it, as in
        `AutoTokenizer.from_pretrained(member).save_pretrained(folder)` (`AutoFeatureExtractor` for audio), for a folder
        that `annot-hf predict` reads.

        Args:
            members: Checkpoint folders of `DistributionModel`, or the models themselves, which are copied.
            distribution: See `SeedBertConfig`.

        Raises:
            ValueError: There is no member, one is given twice, is damaged or no `DistributionModel`, or two differ in more
                than their weights: questions, trunk, any option, or, for folders, the tokenizer or feature extractor.
        """
        members = [members] if isinstance(members, str | Path | DistributionModel) else members
        if not isinstance(members, Iterable):
            raise ValueError(f"members is {members!r}; give a list of checkpoint folders or models.")
        members = list(members)
        if not members:
            raise ValueError("members is empty; give at least one checkpoint folder or model.")
        check_different(members)
        model, first_name, first = None, "", None
        for number, source in enumerate(members):
            name, member = read_member(source, number)
            if model is None:
                first_name, first = name, member
                options = {option: getattr(member.config, option) for option in (*MEMBER_OPTIONS, "id2label")}
                config = cls.config_class(num_members=len(members), distribution=distribution, **options)
                model = cls(config).to(device=member.device, dtype=member.dtype)
            check_alike(name, member, first_name, first)
            model.members[number].load_state_dict(member.state_dict())
        check_processors([source for source in members if isinstance(source, str | Path)], model.config)
        return model.eval()

    @property
    def trunks(self) -> list[PreTrainedModel]:
        """The trunk, or every independent member's own."""
        return [member.trunk for member in self.members] if self.config.members == "independent" else [self.trunk]

    @property
    def lora_targets(self) -> str:
        """None: its adapters are those of its members."""
        raise ValueError("A SeedBert has adapters of its own, one a member; set members to lora.")

    def train(self, mode: bool = True) -> Self:
        """Training mode; a frozen trunk's weights stay as they are, and without adapters in it so does its dropout."""
        super().train(mode)
        if self.config.members == "lora":
            self.trunk.train(mode)
        return self

    def forward(
        self,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        trunk_frames: torch.Tensor | None = None,
        trunk_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        item_weights: torch.Tensor | None = None,
        explain: bool = False,
        return_dict: bool = True,
    ) -> SeedBertOutput:
        """Let the members vote, and compute the loss of each if there are target distributions.

        Args:
            input_features: Log-mel frames `(B, T, M)`, for the log-mel trunk.
            input_values: Waveforms `(B, samples)` at the trunk's rate, for waveform trunks.
            input_ids: Tokens `(B, T)`, for text trunks.
            attention_mask: 1 where the input is real `(B, T)`.
            token_type_ids: Segments `(B, T)`, for text trunks that use them.
            trunk_frames: Precomputed frames of the trunk `(B, T, H)`, instead of its inputs; for shared members.
            trunk_mask: 1 where they are real `(B, T)`.
            labels: Target distributions `(B, K)`.
            item_weights: Weight of each item in the loss `(B,)`, of mean 1.
            explain: Also return what each member attends to (`token_attention`): the weights of its pooling, propagated
                through the last layer's attention (averaged over heads) to the positions that this layer reads. For a log-mel
                trunk, which has no attention, the weights of the pooling. Slower, because the trunk runs with eager
                attention.
            return_dict: Only True is supported.

        Returns:
            `SeedBertOutput`.

        Raises:
            ValueError: Members that are not shared are given frames, or attention is not available: the pooling is "tcgru",
                frames came without inputs, or the trunk does not return its attention.
        """
        config = self.config
        if trunk_frames is not None and config.members != "shared":
            raise ValueError(
                f"trunk_frames were given and members is {config.members!r}, which has no frames in common; give the trunk's "
                "inputs."
            )
        if explain and config.pooling == "tcgru":
            raise ValueError(
                "explain is True and pooling is 'tcgru', whose GRU gives no weight to a position; use a model with pooling "
                "'first', 'mean' or 'attention'."
            )
        if explain and trunk_frames is not None:
            raise ValueError(
                "explain is True and trunk_frames were given, but attention comes from the trunk's inputs."
            )
        inputs = {
            "input_features": input_features,
            "input_values": input_values,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        if explain:
            passes = self._passes(lambda part: part.attended(**inputs))
        else:
            passes = self._passes(lambda part: (*part._frames_or(trunk_frames, trunk_mask, **inputs), None))
        logits, attention = [], []
        for member, (frames, mask, looked) in zip(self.members, passes, strict=True):
            logits.append(member.head(self._embedded(member, frames, mask)))
            if explain:
                attention.append(_input_attention(member.pooling.weights(frames, mask), looked))
        predicted = {"member_logits": torch.stack(logits, 1)}
        given = {"labels": labels, "item_weights": item_weights}
        return SeedBertOutput(
            loss=self.loss_of(predicted, given),
            **self._counted(predicted["member_logits"]),
            **predicted,
            token_attention=torch.stack(attention, 1) if explain else None,
        )

    @property
    def loss_spans_batch(self) -> bool:
        """Whether the loss compares the items of a batch with each other, so that its size matters (CCC)."""
        return self.config.loss == "ccc"

    def loss_of(
        self, predicted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor | None]
    ) -> torch.Tensor | None:
        """Mean of the members' losses, of what `forward` returned, also of several batches joined; None without targets.

        Args:
            predicted: `member_logits`.
            given: `labels` and `item_weights` as `forward` takes them, as far as there are any.
        """
        if given.get("labels") is None:
            return None
        losses = [
            distribution_loss(
                logits.float().softmax(-1),
                given["labels"],
                self.config.loss,
                class_weights=self.config.class_weights,
                item_weights=given.get("item_weights"),
                jsd_share=self.config.jsd_share,
            )
            for logits in predicted["member_logits"].unbind(1)
        ]
        return sum(losses) / len(losses)

    def _passes(self, read: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Frames, mask and attention of each member in turn; `read` gets them from a model with a trunk."""
        if self.config.members == "independent":
            # One member at a time, so that only one member's frames are in memory.
            yield from map(read, self.members)
            return
        frames, mask, attention = read(self)
        if self.config.members == "shared":
            yield from [(frames, mask, attention)] * len(self.members)
            return
        parts = [None] * len(self.members) if attention is None else attention.chunk(len(self.members))
        yield from ((rows, mask, part) for rows, part in zip(frames.chunk(len(self.members)), parts, strict=True))

    def _counted(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """Votes and derived outputs from the members' scores `(B, n, K)`."""
        probs = logits.float().softmax(-1)
        votes, mean = probs.argmax(-1), probs.mean(1)
        histogram = nn.functional.one_hot(votes, probs.shape[-1]).to(mean).mean(1)
        shares = vote_shares(probs)
        return {
            "probs": shares if self.config.distribution == "votes" else mean,
            "histogram": histogram,
            "mean_probs": mean,
            "votes": votes,
            "label": shares.argmax(-1),
        }

    def _rounded(self, values: torch.Tensor) -> torch.Tensor:
        """As for every model, but frames that depend on adapters are never cached."""
        return values if self.config.members == "lora" else super()._rounded(values)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MemberAdapter):
            module.init_weights()


class _Member(nn.Module):
    """The fresh layers of one member over a shared trunk."""

    def __init__(self, config: SeedBertConfig) -> None:
        super().__init__()
        self.pooling = make_pooling(config)
        self.embedding = make_embedding(config, self.pooling.output_size)
        width = self.pooling.output_size if config.embedding_kind == "none" else config.embedding_size
        self.head = make_head(width, len(config.support), config.head)


def _input_attention(weights: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
    """Share of each input position `(B, T)` in a pooled vector.

    Args:
        weights: Of each frame in the pooling `(B, T)`.
        attention: Of each frame to each position `(B, T, T)`; None if frames stand for themselves.

    Raises:
        ValueError: The trunk changed the number of frames after its last layer.
    """
    if attention is None:
        return weights
    if weights.shape[1] != attention.shape[1]:
        raise ValueError(
            f"The trunk gives {weights.shape[1]} frames for {attention.shape[1]} positions, which explain cannot match; set "
            "add_adapter of its configuration to False."
        )
    return torch.einsum("bt,bts->bs", weights.to(attention), attention)


SeedBert.register_for_auto_class("AutoModel")
