"""Perturbed copies of training clips: what each of them undergoes, and which version of a clip an epoch learns from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from annot_hf.data.conditions import CLEAN, MP3_RATES, Condition, load_audiomentations, put_under, seed_of

# In the order of a recording: voice, room, microphone, line, level. Of each row, a copy has one of the conditions with this
# probability, with a number that is uniform between two, one of several, or none.
_CHAIN = (
    (0.5, {"speed": (0.9, 1.1)}),
    (0.25, {"reverb": (0.15, 0.8)}),
    (0.15, {"background": (3.0, 20.0)}),
    (1 / 3, dict.fromkeys(("noise", "pink", "brown"), (5.0, 30.0))),
    (0.1, {"clip": (2.0, 12.0)}),
    (1 / 3, {"band": (2500.0, 7500.0), "telephone": None, "mp3": [rate for rate in MP3_RATES if rate <= 48]}),
    (0.5, {"gain": (-18.0, 6.0)}),
)


@dataclass(frozen=True)
class Copies:
    """`count` perturbed copies of every training clip; a clip has `count` + 1 versions, of which 0 is the clip itself.

    The seed, the item and the number of the version determine everything that a copy undergoes.
    """

    count: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"copies is {self.count}; give a whole number, such as 3, or 0 for none.")

    def conditions(self, item: str, version: int) -> tuple[Condition, ...]:
        """What a version of an item undergoes, one condition after the other; `clean` alone, or nothing, is no change."""
        if not version:
            return ()
        generator = np.random.default_rng(seed_of("copy", str(self.seed), item, str(version)))
        drawn = []
        for probability, kinds in _CHAIN:
            chance, place = generator.random(2)
            name = list(kinds)[generator.integers(len(kinds))]
            numbers, value = kinds[name], None
            if isinstance(numbers, tuple):
                value = round(numbers[0] + (numbers[1] - numbers[0]) * place, 2)
            elif numbers:
                value = numbers[int(place * len(numbers))]
            if chance < probability:
                drawn.append(Condition(name, value, version))
        return tuple(drawn) or (Condition(CLEAN),)

    def chains(self, items: Sequence[str], version: int) -> list[tuple[Condition, ...]]:
        """What a version of every item undergoes."""
        return [self.conditions(item, version) for item in items]

    def put(self, sources: Sequence[Any], items: Sequence[str], version: int) -> list[Any]:
        """A version of the clips `sources` (as `load_audio` takes them), called `items`."""
        chains = self.chains(items, version)
        return [put_under(*clip) for clip in zip(sources, items, chains, strict=True)]

    def draw(self, items: Sequence[str], epoch: int) -> np.ndarray:
        """The version of every item that an epoch learns from, all equally likely: `(N,)`."""
        if not self.count:
            return np.zeros(len(items), int)
        return np.array(
            [seed_of("version", str(self.seed), str(epoch), item) % (self.count + 1) for item in items], int
        )

    def facts(self, items: Sequence[str]) -> dict[str, Any]:
        """How many copies there are of each item, and under how many of all of them each condition is."""
        chains = [chain for version in range(1, self.count + 1) for chain in self.chains(items, version)]
        return {"copies": self.count, "conditions": dict(Counter(one.name for chain in chains for one in chain))}


def make_copies(count: int, seed: int) -> Copies:
    """The copies; raises if their number is none, or a library is missing."""
    copies = Copies(count, seed)
    if count:
        # Fail now, not hours later in a worker.
        load_audiomentations("augmentation.copies needs")
    return copies
