"""An ensemble that recovers disagreement from single labels: members differ by a seed, and vote (arXiv 2211.13196)."""

import json
import reprlib
from collections import defaultdict
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
from .losses import EPSILON, auxiliary_loss, auxiliary_softmax
from .modeling_distribution import DistributionModel
from .modeling_opinion import OpinionPreTrainedModel, read_checkpoint
from .outputs import DistributionOutput, SeedBertOutput
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
            alike = (DistributionModel(config.member_config()) for _ in members)
            self.members = nn.ModuleList(map(_made_of, config.member_configs) if config.member_configs else alike)
            return
        # A skipped layer would not repeat its items for the members.
        self._build_trunk(skip_layers=config.members == "shared")
        self.members = nn.ModuleList(_Member(config) for _ in members)
        if config.members == "lora":
            self.adapters = MemberAdapters(self.trunk, config)

    @classmethod
    def from_members(cls, members: "Sequence[str | Path | Member]", *, distribution: str = "votes") -> Self:
        """One model from separately trained ones; the scores of its members are exactly those that they had.

        They may be of different recipes: another trunk, layer, pooling or head, or an ensemble on one trunk, which counts as
        one member that answers with its mean. What they have in common are the question and the input.

        Auxiliary questions helped to train the members and are not asked of the ensemble. Where `probs` is the mean of the
        members' distributions, it contains the marginal to the mean of their `marginal_share`.

        A model has no processor: save that of a member beside it, as in
        `AutoTokenizer.from_pretrained(member).save_pretrained(folder)` (`AutoFeatureExtractor` for audio), for a folder
        that `annot-hf predict` reads.

        Args:
            members: Checkpoint folders of `DistributionModel`, or of a `SeedBert` with shared or lora members and a mean for
                its distribution; or the models themselves, which are copied.
            distribution: See `SeedBertConfig`.

        Raises:
            ValueError: There is no member, one is given twice, is damaged or of another kind, or two differ in their
                questions, the kind of their input or their precision, or, for folders, in the tokenizer or feature extractor.
        """
        members = [members] if isinstance(members, str | Path | Member) else members
        if not isinstance(members, Iterable):
            raise ValueError(f"members is {members!r}; give a list of checkpoint folders or models.")
        members = list(members)
        if not members:
            raise ValueError("members is empty; give at least one checkpoint folder or model.")
        _check_different(members)
        first_name, first = read_member(members[0], 0)
        own, shares, copies = [], [], []
        for number, source in enumerate(members):
            name, member = (first_name, first) if number == 0 else read_member(source, number)
            _check_alike(name, member, first_name, first)
            shares.append((member.config.marginal_share, member.config.marginal))
            own.append(_config_of(member))
            copies.append(_made_of(own[-1]).to(device=first.device, dtype=first.dtype))
            copies[-1].load_state_dict(_weights_of(member))
        options = options_of(first.config, *MEMBER_OPTIONS, "id2label") | {"auxiliary_questions": ()}
        # alike in all but their weights need no configuration each
        mixed = isinstance(first, SeedBert) or any(one != own[0] for one in own)
        options |= {"freeze_trunk": False, "head": "linear"} if mixed else {}
        options["distribution"] = distribution
        # with one member, as the others would be built only to be replaced
        model = cls(cls.config_class(num_members=1, member_configs=own[:1] if mixed else (), **options))
        model.to(device=first.device, dtype=first.dtype).members = nn.ModuleList(copies)
        config = cls.config_class(num_members=len(members), member_configs=own if mixed else (), **options)
        model.config = config
        total = sum(share for share, _ in shares)
        config.marginal_share = total / len(shares)
        if total:
            parts = [[share * mass for mass in marginal] for share, marginal in shares if share]
            config.marginal = [sum(masses) / total for masses in zip(*parts, strict=True)]
        _check_processors([source for source in members if isinstance(source, str | Path)], config)
        return model.eval()

    @property
    def trunks(self) -> list[PreTrainedModel]:
        """The trunk, or every independent member's own."""
        if self.config.members != "independent":
            return [self.trunk]
        return [trunk for member in self.members for trunk in member.trunks]

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
        if explain and config.member_configs:
            raise ValueError(
                "explain is True and the members are of different kinds, whose attention is not comparable; explain each of "
                "them."
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
        if config.member_configs:
            predicted = {"member_logits": torch.stack([_scores_of(member(**inputs)) for member in self.members], 1)}
        elif explain:
            predicted = self._read(self._passes(lambda part: part.attended(**inputs)))
        else:
            predicted = self._read(self._passes(lambda part: part._frames_or(trunk_frames, trunk_mask, **inputs)))
        targets = (labels, auxiliary_targets, item_weights)
        loss = self.loss_of(predicted, dict(zip(self.loss_inputs, targets, strict=True)))
        return SeedBertOutput(loss=loss, **predicted, **self._counted(predicted["member_logits"]))

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

    def _passes(self, read: Any) -> Iterator[tuple[torch.Tensor, ...]]:
        """Frames, mask and attention, if `read` finds it, of each member in turn; it gets them from a model with a trunk."""
        if self.config.members == "independent":
            # One member at a time, so that only one member's frames are in memory.
            yield from map(read, self.members)
            return
        frames, mask, *attention = read(self)
        members = len(self.members)
        if self.config.members == "shared":
            yield from [(frames, mask, *attention)] * members
            return
        parts = [[part] * members if part is None else part.chunk(members) for part in attention]
        yield from zip(frames.chunk(members), [mask] * members, *parts, strict=True)

    def _read(self, passes: Iterable[tuple[torch.Tensor, ...]]) -> dict[str, torch.Tensor]:
        """Scores of each member and what it answers beside, from what `_passes` gives; with attention, that to inputs too."""
        found, sizes = defaultdict(list), self.config.auxiliary_sizes
        for member, (frames, mask, *attention) in zip(self.members, passes, strict=True):
            embedding = self._embedded(member, frames, mask)
            found["member_logits"].append(member.head(embedding))
            if sizes:
                found["auxiliary_probs"].append(auxiliary_softmax(member.auxiliary_head(embedding), sizes))
            if attention:
                weights = member.pooling.weights(frames, mask)
                found["token_attention"].append(_input_attention(weights, *attention))
        return {name: torch.stack(parts, 1) for name, parts in found.items()}

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
    return torch.einsum("bt,bts->bs", weights.to(attention), attention)


# What may be a member, by its type.
Member = DistributionModel | SeedBert
_MEMBER_KINDS: dict[str, type[Member]] = {kind.config_class.model_type: kind for kind in (DistributionModel, SeedBert)}
# Of a member's configuration, what it answers beside, where it comes from, and what the ensemble has instead.
_NOT_KEPT = (
    "auxiliary_questions",
    "marginal",
    "marginal_share",
    "custom_pipelines",
    "auto_map",
    "architectures",
    "transformers_version",
    "dtype",
)


def _config_of(member: Member) -> dict[str, Any]:
    """A member's configuration, as `member_configs` keeps it."""
    options = {name: value for name, value in member.config.to_diff_dict().items() if name not in _NOT_KEPT}
    trunk = options["trunk_config"] | {"model_type": member.config.trunk_config.model_type}
    return options | {
        "model_type": member.config.model_type,
        "trunk_config": {name: value for name, value in trunk.items() if name not in (*PROVENANCE, *_NOT_KEPT)},
    }


def _made_of(config: Mapping[str, Any]) -> Member:
    """A member of a configuration that `_config_of` gave, its weights not yet those that it had."""
    kind = config.get("model_type")
    if kind not in tuple(_MEMBER_KINDS):
        raise ValueError(f"A member has the model_type {kind!r}; members are {' or '.join(_MEMBER_KINDS)}.")
    model_class = _MEMBER_KINDS[kind]
    options = model_class.config_class.from_dict(dict(config))
    _check_mean("A member", options)
    return model_class(options)


def _check_mean(name: str, config: OpinionConfig) -> None:
    """Raise if a member is an ensemble that does not answer with a mean over one trunk."""
    if isinstance(config, SeedBertConfig) and (config.members == "independent" or config.distribution == "votes"):
        raise ValueError(
            f"{name} is an ensemble whose members are {config.members} and whose distribution is {config.distribution}; one "
            "that is a member has shared or lora members and a mean_softmax. Give its members one by one."
        )


def _scores_of(output: DistributionOutput | SeedBertOutput) -> torch.Tensor:
    """A member's scores `(B, K)`; of an ensemble, the log of its mean distribution."""
    return output.logits if isinstance(output, DistributionOutput) else (output.mean_probs + EPSILON).log()


def read_member(source: str | Path | Member, number: int) -> tuple[str, Member]:
    """A member's name for messages, and the member, from a checkpoint folder or the model itself."""
    if isinstance(source, str | Path):
        name = str(source)
        model, odd = read_checkpoint(Path(source), _MEMBER_KINDS, give="one of a DistributionModel", fix=_RESTORE)
        if odd:
            raise ValueError(
                f"{source} does not fit its configuration: {len(odd)} weights differ, for instance {odd[0]}; {_RESTORE}."
            )
    elif isinstance(source, Member):
        name, model = f"member {number}", source
    else:
        raise ValueError(f"Member {number} is a {type(source).__name__}; give DistributionModels or their folders.")
    _check_mean(name, model.config)
    if model.has_adapters:
        raise ValueError(f"{name} has adapters, and members are whole models; merge them first (merge_lora).")
    for beside in ("scale_questions", "disagreement"):
        if getattr(model.config, beside, None):
            raise ValueError(
                f"{name} answers {beside} beside its distribution, and an ensemble votes on the distribution alone; train its "
                f"members without {beside}."
            )
    return name, model


def _weights_of(member: Member) -> dict[str, torch.Tensor]:
    """A member's weights without those of its auxiliary heads."""
    return {name: value for name, value in member.state_dict().items() if "auxiliary_head" not in name.split(".")}


def _check_different(members: Sequence[str | Path | Member]) -> None:
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


def _check_alike(name: str, model: Member, first_name: str, first: Member) -> None:
    """Raise unless members answer the same question about the same input."""
    ours, theirs = _traits_of(first), _traits_of(model)
    different = _keys_that_differ(ours, theirs)
    if different:
        key, *others = different
        more = f" (and {len(others)} more)" if others else ""
        raise ValueError(
            f"{name} has {key} {reprlib.repr(theirs.get(key))} and {first_name} {reprlib.repr(ours.get(key))}{more}; the "
            "members of an ensemble answer one question about one kind of input."
        )


def _traits_of(model: Member) -> dict[str, Any]:
    """What members have in common, most important first."""
    config, trunk = model.config, model.config.trunk_config
    traits = {"questions": config.questions, "bins": config.bins, "support": config.support}
    traits["input"] = input_name_of(trunk)
    if traits["input"] == "input_features":
        # of log-mel and of Whisper they are not the same
        traits["trunk"] = trunk.model_type
    traits |= {f"trunk {name}": getattr(trunk, name, None) for name in ("num_mel_bins", "vocab_size")}
    return traits | {"dtype": model.dtype}


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
