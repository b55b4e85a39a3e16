"""From items and targets to batches: the only place where raw rows become tensors."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedConfig

from annot_hf.data.targets import Targets, item_seeds
from annot_hf.models.configuration_annotator import AnnotatorConfig
from annot_hf.models.modeling_opinion import OpinionPreTrainedModel
from annot_hf.models.trunks import PROMPTED, WHISPER, input_name_of
from annot_hf.training.augment import Copies, Perturbation

_NO_COPIES = Copies()
FRAME_MULTIPLE = 4
# batches that are sorted by length together
GROUP = 50
# texts vary more in length than clips: 1.04 of padding on ConvAbuse in batches of 16, and 1.07 with 50
TEXT_GROUP = 100
# targets in addition to the distribution
EXTRA_TARGETS = ("scale_targets", "auxiliary_targets", "disagreement_targets")


class OpinionDataset(Dataset):
    """Rows `{"input", "labels", "annotators", "ratings", "seed"}` of items, with `EXTRA_TARGETS` where they are given.

    `read` turns an entry of `inputs`, as `Inputs` has them, into the model's input. Raters beyond `annotators` get index -1.
    `scales` are means `(N, D)` on [-1, 1], `auxiliary` distributions `(N, sum of K)`, `disagreement` is `(N,)`. Indexing by
    number gives the clean clip, by number and epoch the perturbed one. With copies, `inputs` and their lengths are those of
    all clips, then those of the first copy of all, and so on.
    """

    def __init__(
        self,
        targets: Targets,
        inputs: Sequence[Any],
        read: Callable[[Any], Any],
        lengths: Sequence[int],
        *,
        annotators: Sequence[str] = (),
        seed: int = 0,
        scales: np.ndarray | None = None,
        auxiliary: np.ndarray | None = None,
        disagreement: np.ndarray | None = None,
        perturbation: Perturbation | None = None,
        copies: Copies = _NO_COPIES,
    ) -> None:
        given = dict(zip(EXTRA_TARGETS, (scales, auxiliary, disagreement), strict=True))
        self.extra = {name: values for name, values in given.items() if values is not None}
        self.targets, self.inputs, self.read = targets, inputs, read
        self.perturbation, self.copies = perturbation, copies
        # of each version (versions, N), and of the clips themselves
        self.version_lengths = np.reshape(lengths, (copies.count + 1, len(targets)))
        self.lengths = self.version_lengths[0]
        index = {name: code for code, name in enumerate(annotators)}
        codes = np.array([index.get(name, -1) for name in targets.annotators], dtype=np.int64)
        self.annotators = codes[targets.ratings.annotator] if len(codes) else np.zeros(0, np.int64)
        self.bounds = np.searchsorted(targets.ratings.item, np.arange(len(targets) + 1))
        self.seeds = item_seeds(targets.items, seed)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def changes(self) -> bool:
        """Whether clips differ from epoch to epoch, so that they are asked for by number and epoch."""
        return self.perturbation is not None or self.copies.count > 0

    def lengths_in(self, epoch: int) -> np.ndarray:
        """Lengths of the versions that an epoch learns from `(N,)`, before any perturbation."""
        return self.version_lengths[self.copies.draw(self.targets.items, epoch), np.arange(len(self))]

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        index, epoch = index if isinstance(index, tuple) else (index, None)
        rows = slice(self.bounds[index], self.bounds[index + 1])
        alter, version, item = [], 0, self.targets.items[index]
        if epoch is not None:
            version = int(self.copies.draw([item], epoch)[0])
            if self.perturbation is not None:
                alter = [functools.partial(self.perturbation.apply, item=item, epoch=epoch)]
        row = {
            "input": self.read(self.inputs[version * len(self) + index], *alter),
            "labels": self.targets.probs[index],
            "annotators": self.annotators[rows],
            "ratings": self.targets.ratings.value[rows],
            "seed": self.seeds[index],
        }
        return row | {name: values[index] for name, values in self.extra.items()}


@dataclass
class VoteCollator:
    """Pads inputs and joins the (item, rater) pairs of a batch.

    Args:
        input_name: "input_features", "input_values", "input_ids", "prompted_audio" for clips with a question about each
            (see `prepare_inputs` of Qwen2-Audio), or "trunk_frames" for cached output of a trunk.
        tokenizer: Tokenizer of a text trunk or audio-language model, for the number of its padding token: texts come as
            tokens (see `annot_hf.training.inputs.read_inputs`).
        panel: For annotator models, how many raters to ask about an item that no named rater rated; None for models
            without raters.
        bands_first: Give mel frames as `(B, bands, T)`, as Whisper takes them, and not as `(B, T, bands)`.
    """

    input_name: str
    tokenizer: Any = None
    panel: int | None = None
    bands_first: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Batch with the trunk's input, its mask, `labels` `(B, K)` and, for annotator models, the pairs."""
        batch = self.pad([row["input"] for row in rows])
        batch["labels"] = torch.from_numpy(np.stack([row["labels"] for row in rows])).float()
        for name in EXTRA_TARGETS:
            if name in rows[0]:
                batch[name] = torch.from_numpy(np.stack([row[name] for row in rows])).float()
        if self.panel is None:
            return batch
        pairs = [self._pairs(row) for row in rows]
        counts = torch.tensor([len(annotators) for annotators, _ in pairs])
        batch["pair_item"] = torch.arange(len(rows)).repeat_interleave(counts)
        batch["pair_annotator"] = torch.from_numpy(np.concatenate([annotators for annotators, _ in pairs]))
        batch["ratings"] = torch.from_numpy(np.concatenate([ratings for _, ratings in pairs])).float()
        batch["item_seed"] = torch.tensor([int(row["seed"]) for row in rows])
        return batch

    def pad(self, inputs: list[Any]) -> dict[str, torch.Tensor]:
        """The padded inputs of these items and their mask."""
        if self.input_name == "input_ids":
            fill = {"input_ids": self.tokenizer.pad_token_id or 0, "token_type_ids": self.tokenizer.pad_token_type_id}
            columns = {name: [torch.tensor(tokens[name]) for tokens in inputs] for name in fill if name in inputs[0]}
            batch = {
                name: pad_sequence(rows, batch_first=True, padding_value=fill[name]) for name, rows in columns.items()
            }
            return batch | {"attention_mask": _mask(columns["input_ids"])}
        if self.input_name == PROMPTED:
            tokens = [torch.tensor(row["input_ids"]) for row in inputs]
            padded = pad_sequence(tokens, batch_first=True, padding_value=self.tokenizer.pad_token_id or 0)
            clips = {
                name: torch.from_numpy(np.stack([row[name] for row in inputs]))
                for name in ("input_features", "feature_attention_mask")
            }
            return {"input_ids": padded, "attention_mask": _mask(tokens), **clips}
        tensors = [torch.from_numpy(np.asarray(value, dtype=np.float32)) for value in inputs]
        # (B, T, D) or (B, samples)
        padded = pad_sequence(tensors, batch_first=True)
        if self.input_name == "input_features":
            # few distinct lengths: the CPU's convolutions are set up once for each
            padded = torch.nn.functional.pad(padded, (0, 0, 0, -padded.shape[1] % FRAME_MULTIPLE))
        mask = _mask(tensors, padded.shape[1])
        if self.bands_first and self.input_name == "input_features":
            padded = padded.transpose(1, 2)
        return {self.input_name: padded, "trunk_mask" if self.input_name == "trunk_frames" else "attention_mask": mask}

    def _pairs(self, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """An item's raters and their answers; the panel, with unknown answers, if no named rater rated it."""
        if len(row["annotators"]):
            return row["annotators"], row["ratings"]
        panel = np.arange(self.panel) if self.panel else np.array([-1])
        return panel, np.full((len(panel), row["ratings"].shape[1]), np.nan)


def _mask(rows: Sequence[torch.Tensor], width: int = 0) -> torch.Tensor:
    """1 where padded rows are real `(B, width)`; as wide as the longest at least."""
    lengths = torch.tensor([len(row) for row in rows])
    return (torch.arange(max(width, int(lengths.max()))) < lengths[:, None]).long()


class BucketSampler(Sampler[int | tuple[int, int]]):
    """Shuffled indices whose consecutive batches hold inputs of similar length, the same for a seed and an epoch.

    Items are sorted within random groups of `group` batches: larger ones mean less padding and less shuffling. `with_epoch`
    gives pairs of index and epoch, for workers that outlive an epoch. `lengths` may be a function of the epoch.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Callable[[int], Sequence[int]],
        batch_size: int,
        *,
        seed: int = 0,
        group: int = GROUP,
        with_epoch: bool = False,
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.group = lengths, batch_size, seed, group
        self.size = len(self._lengths_in(0))
        self.with_epoch, self.epoch = with_epoch, 0

    def __len__(self) -> int:
        return self.size

    def _lengths_in(self, epoch: int) -> np.ndarray:
        return np.asarray(self.lengths(epoch) if callable(self.lengths) else self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int | tuple[int, int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order, lengths = generator.permutation(self.size), self._lengths_in(self.epoch)
        # four groups at least: one group would hold the same batches in every epoch
        span = self.batch_size * max(min(self.group, len(order) // (4 * self.batch_size)), 1)
        groups = [order[start : start + span] for start in range(0, len(order), span)]
        order = np.concatenate([group[np.argsort(lengths[group], kind="stable")] for group in groups])
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        whole, rest = batches[: len(order) // self.batch_size], batches[len(order) // self.batch_size :]
        # a short last batch stays last, so that the others keep their bounds
        generator.shuffle(whole)
        order = np.concatenate(whole + rest).tolist()
        return zip(order, itertools.repeat(self.epoch)) if self.with_epoch else iter(order)


def make_collator(model: OpinionPreTrainedModel, processor: Any) -> VoteCollator:
    """The collator that feeds `model`."""
    config = model.config
    panel = config.panel if isinstance(config, AnnotatorConfig) else None
    return trunk_collator(config.trunk_config, processor, panel)


def frames_collator(collator: VoteCollator) -> VoteCollator:
    """The collator of what a trunk made of the inputs of another one."""
    return replace(collator, input_name="trunk_frames", tokenizer=None)


def trunk_collator(config: PreTrainedConfig, processor: Any, panel: int | None = None) -> VoteCollator:
    """The collator that feeds a trunk of this configuration."""
    name = input_name_of(config)
    tokenizers = {"input_ids": processor, PROMPTED: getattr(processor, "tokenizer", None)}
    return VoteCollator(name, tokenizers.get(name), panel, config.model_type == WHISPER)
