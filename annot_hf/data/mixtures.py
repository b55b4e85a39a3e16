"""Mixtures of items as a table that says where each comes from, and what they make of the classes."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.targets import Targets


@dataclass(frozen=True)
class ClassMass:
    """How much of a class there was, and is.

    Attributes:
        label: Name of the label or grid cell.
        items: Items whose most probable label it is.
        mass: Sum of its probability over all items.
        wanted: Mixtures that it lacks: floor(share N_max) - items, where that is above 0.
        made: Mixtures made.
        mass_added: Sum of its probability over all mixtures, those of other classes too.
        alone: Items that no other item could be mixed with.
        skipped: Why mixtures are wanted and none is made; empty otherwise.
    """

    label: str
    items: int
    mass: float
    wanted: int
    made: int
    mass_added: float
    alone: int
    skipped: str


@dataclass(frozen=True)
class MixtureReport:
    """What was planned, class by class; `items` and `made` add up to the items given and the mixtures.

    Attributes:
        classes: One entry a label, in order.
        tied: Items whose most probable label is shared; the first of them in the order of the labels counts.
        without_speaker: Items whose speaker is not known.
        across_speakers: Mixtures of two speakers, as far as both are known.
    """

    classes: tuple[ClassMass, ...]
    tied: int
    without_speaker: int
    across_speakers: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self) | {"classes": [asdict(entry) for entry in self.classes]}

    def lines(self) -> Iterator[str]:
        """The classes in words, one line each."""
        for entry in self.classes:
            after, mass = entry.items + entry.made, entry.mass + entry.mass_added
            why = f" ({entry.wanted} wanted: {entry.skipped})" if entry.skipped else ""
            yield f"{entry.label}: {entry.items} -> {after} items, mass {entry.mass:.1f} -> {mass:.1f}{why}"


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Mixtures `(M,)` of items, classes in the order of the support; the arrays cannot be written to.

    Attributes:
        items: Names of the mixtures, `dime-SEED-LABEL-NUMBER`.
        first: Row of item i of each, in the items given.
        second: Row of its neighbour j.
        share: Weight of j, in [0, 1).
        label: Number of the class in the support.
        text_from: Row whose text the mixture has.
        probs: Distributions `(M, K)`; each row sums to 1.
        sources: Names of the items given `(N,)`.
        speakers: Their speakers `(N,)`, None where not known.
        support: Names of the K labels.
        settings: share, neighbours, text, partners and seed, as they were given.
        report: What was planned.
    """

    items: np.ndarray
    first: np.ndarray
    second: np.ndarray
    share: np.ndarray
    label: np.ndarray
    text_from: np.ndarray
    probs: np.ndarray
    sources: np.ndarray
    speakers: np.ndarray
    support: tuple[str, ...]
    settings: dict[str, Any]
    report: MixtureReport

    def __post_init__(self) -> None:
        for name in ("items", "first", "second", "share", "label", "text_from", "probs", "sources", "speakers"):
            getattr(self, name).flags.writeable = False

    def __len__(self) -> int:
        return len(self.items)

    def to_frame(self) -> pd.DataFrame:
        """Where each mixture comes from.

        Returns:
            Columns item, first, second (names), share (of the second), label, text_from (name), first_speaker,
            second_speaker, seed.
        """
        columns = {
            "item": self.items,
            "first": self.sources[self.first],
            "second": self.sources[self.second],
            "share": self.share,
            "label": np.array(self.support, dtype=object)[self.label],
            "text_from": self.sources[self.text_from],
            "first_speaker": self.speakers[self.first],
            "second_speaker": self.speakers[self.second],
            "seed": np.full(len(self), self.settings["seed"]),
        }
        return pd.DataFrame(columns)

    def extend(self, targets: Targets) -> Targets:
        """The targets that the mixtures were planned from, and theirs after them.

        A mixture has no votes: `votes_per_item` is 0, and no rater answered it.

        Raises:
            ValueError: The targets are those of other items.
        """
        if len(targets) != len(self.sources) or (targets.items != self.sources).any():
            raise ValueError(
                "The mixtures were planned from other items than these targets have; plan them from these."
            )
        return replace(
            targets,
            items=np.concatenate([targets.items, self.items]),
            probs=np.concatenate([targets.probs, self.probs]),
            votes_per_item=np.concatenate([targets.votes_per_item, np.zeros(len(self), targets.votes_per_item.dtype)]),
        )
