"""An ensemble that recovers disagreement from single labels: members differ by a seed, and vote (arXiv 2211.13196)."""

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoFeatureExtractor, AutoTokenizer, PreTrainedModel

from .access import said
from .adapters import MemberAdapter, MemberAdapters
from .checks import options_of
from .configuration_opinion import OpinionConfig
from .configuration_seedbert import MEMBER_OPTIONS, SeedBertConfig
from .heads import make_embedding, make_head, make_pooling, vote_shares
from .losses import auxiliary_loss, auxiliary_softmax
from .modeling_distribution import DistributionModel
from .modeling_opinion import OpinionPreTrainedModel, read_checkpoint
from .outputs import SeedBertOutput
from .trunks import PROVENANCE, input_name_of

_RESTORE = "restore this member or train it again"


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
    loss_inputs = ("labels", "auxiliary_targets", "item_weights")

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
            self.adapters = MemberAdapters(self.trunk, config)

    @classmethod
    def from_members(cls, members: Sequence[str | Path | DistributionModel], *, distribution: str = "votes") -> Self:
        """One model from separately trained ones; its members answer exactly as they did.

        Auxiliary questions helped to train the members and are not asked of the ensemble. Where `probs` is the mean of the
        members' distributions, it contains the marginal to the mean of their `marginal_share`.

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
        _check_different(members)
        first_name, first = read_member(members[0], 0)
        options = options_of(first.config, *MEMBER_OPTIONS, "id2label") | {"auxiliary_questions": ()}
        config = cls.config_class(num_members=len(members), distribution=distribution, **options)
        model = cls(config).to(device=first.device, dtype=first.dtype)
        shares = [first.config.marginal_share]
        model.members[0].load_state_dict(_weights_of(first))
        for number, source in enumerate(members[1:], 1):
            name, member = read_member(source, number)
            _check_alike(name, member, first_name, first)
            shares.append(member.config.marginal_share)
            model.members[number].load_state_dict(_weights_of(member))
        config.marginal_share = sum(shares) / len(shares)
        _check_processors([source for source in members if isinstance(source, str | Path)], config)
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
        auxiliary_targets: torch.Tensor | None = None,
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
            auxiliary_targets: Distributions of the votes on the auxiliary questions side by side `(B, sum of K)`; NaN where
                nobody voted.
            item_weights: Weight of each item in the loss `(B,)`, of mean 1.
            explain: Also return what each member attends to (`token_attention`): the weights of its pooling, propagated
                through the last layer's attention (averaged over heads) to the positions that this layer reads; those of the
                pooling for a log-mel trunk, which has no attention. Slower: the trunk runs with eager attention.
            return_dict: Only True is supported.

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
        logits, attention, beside = [], [], []
        for member, (frames, mask, looked) in zip(self.members, passes, strict=True):
            embedding = self._embedded(member, frames, mask)
            logits.append(member.head(embedding))
            if config.auxiliary_sizes:
                beside.append(auxiliary_softmax(member.auxiliary_head(embedding), config.auxiliary_sizes))
            if explain:
                attention.append(_input_attention(member.pooling.weights(frames, mask), looked))
        predicted = {"member_logits": torch.stack(logits, 1)}
        if beside:
            predicted["auxiliary_probs"] = torch.stack(beside, 1)
        targets = (labels, auxiliary_targets, item_weights)
        loss = self.loss_of(predicted, dict(zip(self.loss_inputs, targets, strict=True)))
        predicted |= self._counted(predicted["member_logits"])
        return SeedBertOutput(loss=loss, **predicted, token_attention=torch.stack(attention, 1) if explain else None)

    def loss_of(self, predicted: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> torch.Tensor | None:
        """Mean of the members' losses, of what `forward` predicts, also of several batches joined; None without labels."""
        if given.get("labels") is None:
            return None
        config, members = self.config, predicted["member_logits"].float().softmax(-1).unbind(1)
        losses = [self._distribution_loss(probs, given) for probs in members]
        if given.get("auxiliary_targets") is not None and config.auxiliary_sizes:
            targets = given["auxiliary_targets"], config.auxiliary_sizes
            beside = predicted["auxiliary_probs"].unbind(1)
            losses += [config.auxiliary_weight * auxiliary_loss(probs, *targets) for probs in beside]
        return sum(losses) / len(members)

    def _passes(self, read: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Frames, mask and attention of each member in turn; `read` gets them from a model with a trunk."""
        if self.config.members == "independent":
            # One member at a time, so that only one member's frames are in memory.
            yield from map(read, self.members)
            return
        frames, mask, attention = read(self)
        members = len(self.members)
        if self.config.members == "shared":
            yield from [(frames, mask, attention)] * members
            return
        parts = [None] * members if attention is None else attention.chunk(members)
        yield from ((rows, mask, part) for rows, part in zip(frames.chunk(members), parts, strict=True))

    def _counted(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """Votes and derived outputs from the members' scores `(B, n, K)`."""
        probs = logits.float().softmax(-1)
        votes, mean, shares = probs.argmax(-1), self._smoothed(probs.mean(1)), vote_shares(probs)
        return {
            "probs": shares if self.config.distribution == "votes" else mean,
            "histogram": nn.functional.one_hot(votes, probs.shape[-1]).to(mean).mean(1),
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
        if config.auxiliary_sizes:
            self.auxiliary_head = make_head(width, sum(config.auxiliary_sizes), config.head)


def _input_attention(weights: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
    """Share of each input position in a pooled vector `(B, T)`, from the weights of frames `(B, T)` and their attention."""
    if attention is None:
        return weights
    if weights.shape[1] != attention.shape[1]:
        raise ValueError(
            f"The trunk gives {weights.shape[1]} frames for {attention.shape[1]} positions, which explain cannot match; set "
            "add_adapter of its configuration to False."
        )
    return torch.einsum("bt,bts->bs", weights.to(attention), attention)


def read_member(source: str | Path | DistributionModel, number: int) -> tuple[str, DistributionModel]:
    """A member's name for messages, and the member, from a checkpoint folder or the model itself."""
    if isinstance(source, str | Path):
        name = str(source)
        model, odd = read_checkpoint(Path(source), DistributionModel, give="one of a DistributionModel", fix=_RESTORE)
        if odd:
            raise ValueError(
                f"{source} does not fit its configuration: {len(odd)} weights differ, for instance {odd[0]}; {_RESTORE}."
            )
    elif isinstance(source, DistributionModel):
        name, model = f"member {number}", source
    else:
        raise ValueError(f"Member {number} is a {type(source).__name__}; give DistributionModels or their folders.")
    if model.has_adapters:
        raise ValueError(f"{name} has adapters, and members are whole models; merge them first (merge_lora).")
    for beside in ("scale_questions", "disagreement"):
        if getattr(model.config, beside):
            raise ValueError(
                f"{name} answers {beside} beside its distribution, and an ensemble votes on the distribution alone; train its "
                f"members without {beside}."
            )
    return name, model


def _weights_of(member: DistributionModel) -> dict[str, torch.Tensor]:
    """A member's weights without those of its auxiliary head."""
    return {name: value for name, value in member.state_dict().items() if not name.startswith("auxiliary_head.")}


def _check_different(members: Sequence[str | Path | DistributionModel]) -> None:
    """Raise if a folder, in any spelling, or a model is given twice."""
    seen: dict[Any, str | Path] = {}
    for number, source in enumerate(members):
        folder = isinstance(source, str | Path)
        key, name = (Path(source).resolve(), source) if folder else (id(source), f"member {number}")
        if key in seen:
            raise ValueError(
                f"{name} is the same as {seen[key]}, and a member has one vote; give each folder or model once."
            )
        seen[key] = name


def _check_alike(name: str, model: DistributionModel, first_name: str, first: DistributionModel) -> None:
    """Raise unless members differ only in their weights."""
    ours, theirs = _traits_of(first), _traits_of(model)
    different = _keys_that_differ(ours, theirs)
    if different:
        key, *others = different
        more = f" (and {len(others)} more)" if others else ""
        raise ValueError(
            f"{name} has {key} {reprlib.repr(theirs.get(key))} and {first_name} {reprlib.repr(ours.get(key))}{more}; members "
            "may differ in their weights only, so train them with the same recipe."
        )


def _traits_of(model: DistributionModel) -> dict[str, Any]:
    """Everything but the weights, most important first."""
    options = options_of(model.config, *MEMBER_OPTIONS)
    trunk = options.pop("trunk_config")
    inside = {f"trunk {name}": value for name, value in trunk.to_dict().items() if name not in PROVENANCE}
    first = {"questions": options.pop("questions"), "support": model.config.support, "trunk": trunk.model_type}
    return {**first, **options, **inside, "dtype": model.dtype}


def _check_processors(folders: Sequence[str | Path], config: OpinionConfig) -> None:
    """Raise unless members from folders read their input in the same way; all of them may lack a processor."""
    # A saved tokenizer or feature extractor always has this file.
    what, file = "feature extractor", "preprocessor_config.json"
    if input_name_of(config.trunk_config) == "input_ids":
        what, file = "tokenizer", "tokenizer_config.json"
    there = [(Path(folder) / file).is_file() for folder in folders]
    if not any(there):
        return
    if not all(there):
        raise ValueError(
            f"{folders[there.index(False)]} holds no {what} and {folders[there.index(True)]} does; save it with every member."
        )
    first = None
    for folder in folders:
        try:
            facts = _processor_facts(folder, config)
        except Exception as error:
            # The tokenizers library raises plain `Exception`.
            raise ValueError(f"{folder} holds a {what} that cannot be read ({said(error)}); {_RESTORE}.") from error
        first = first or facts
        different = _keys_that_differ(first, facts)
        if different:
            raise ValueError(
                f"{folder} and {folders[0]} have different {what}s: {', '.join(different)} differ; members must read the same "
                f"input, so train them with one {what}."
            )


def _processor_facts(folder: str | Path, config: OpinionConfig) -> dict[str, Any]:
    """What decides how a folder's tokenizer or feature extractor reads its input."""
    # With the configuration given, the library does not ask whether to run code from the folder.
    how = {"config": config, "trust_remote_code": False}
    if input_name_of(config.trunk_config) != "input_ids":
        return AutoFeatureExtractor.from_pretrained(folder, **how).to_dict()
    tokenizer = AutoTokenizer.from_pretrained(folder, **how)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    longest = tokenizer.model_max_length
    facts = {"vocabulary": tokenizer.get_vocab(), "special tokens": special, "longest input": longest}
    if tokenizer.is_fast:
        whole = json.loads(tokenizer.backend_tokenizer.to_str())
        # Not its truncation and padding, which the last call set.
        facts |= {name: whole[name] for name in ("normalizer", "pre_tokenizer", "post_processor", "model")}
    return facts


def _keys_that_differ(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of the entries that differ, or that only one has."""
    return [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]


SeedBert.register_for_auto_class("AutoModel")
