"""DiME-Aug: mix items of rare classes with similar items of their class (arXiv 2601.14620, section 2.3).

A mixture takes an item i, a neighbour j of its class and a share a ~ U(0, 1) of j: audio x_i + a (x_j - x_i) cut to the
shorter, opinion q_i + a (q_j - q_i), and the text of one of the two. This module plans the mixtures and reads no audio;
`MixedClip` mixes the clips when they are read. scikit-learn (extra `augment`) finds the neighbours.

Our choices, where the paper is silent: neighbours exclude the item itself (the released code asks for 3 and finds the item
among them, so 2 remain: our default); the draws of a class depend neither on the other classes nor on the order of the
items; mixtures are numbered (the released code draws random names, which collide).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from annot_hf.data.encoding import by_name, check_choice
from annot_hf.data.targets import Targets

Partners = Literal["any", "same"]
EXTRA = "pip install 'annot-hf[augment]'"


def standardise_columns(features: np.ndarray) -> np.ndarray:
    """Columns of features `(N, D)` at mean 0 and population standard deviation 1, float64; a constant column is 0.

    Raises:
        ValueError: The standard deviation of a column overflows.
    """
    features = features.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = features.mean(0), features.std(0)
    if not np.isfinite(deviation).all():
        column = int(np.argmin(np.isfinite(deviation)))
        raise ValueError(
            f"The standard deviation of feature {column} overflows; scale the feature down, or leave it out."
        )
    # Rounding errors of a constant column must not be scaled up to 1.
    constant = deviation <= 1e-12 * np.abs(mean)
    return np.where(constant, 0.0, (features - mean) / np.where(constant, 1.0, deviation))


def nearest_rows(features: np.ndarray, queries: np.ndarray, neighbours: int) -> np.ndarray:
    """The nearest rows (Euclidean) of each queried row, without the row itself.

    The row is excluded by its number, not as the first one found, because rows with equal features have distance 0 too.

    Args:
        features: `(N, D)`, finite, N at least 2.
        queries: Numbers of the queried rows `(Q,)`.
        neighbours: How many rows to find, at most N - 1.

    Returns:
        Row numbers `(Q, min(neighbours, N - 1))`, nearest first. Distances are computed block by block to bound memory.

    Raises:
        ValueError: scikit-learn is not installed.

    Example:
        >>> nearest_rows(np.array([[0.0], [1.0], [1.0], [5.0]]), np.array([2, 3]), 2).tolist()
        [[1, 0], [1, 2]]
    """
    size = min(neighbours + 1, len(features))
    search = load_neighbours().NearestNeighbors(n_neighbors=size, algorithm="brute", metric="euclidean")
    found = search.fit(features).kneighbors(features[queries], return_distance=False)
    itself = found == np.asarray(queries)[:, None]
    # With many equal rows, the row itself may be missing from those found; then drop the last one.
    itself[~itself.any(1), -1] = True
    return found[~itself].reshape(len(queries), size - 1)


def draw_pairs(
    features: np.ndarray, pools: list[np.ndarray], count: int, neighbours: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw pairs of an item and one of its nearest neighbours, with replacement.

    Args:
        features: Standardised features `(N, D)`.
        pools: Disjoint sets of two or more rows that may be paired with each other.
        count: How many pairs.
        neighbours: A partner is drawn from this many nearest rows of the pool.
        rng: Draws the first row, its neighbour and the share, in this order.

    Returns:
        Rows of the first and of the second, and the share of the second in [0, 1): each `(count,)`.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    able = np.sort(np.concatenate(pools))
    first = able[rng.integers(len(able), size=count)]
    pick, share = rng.random(count), rng.random(count)
    second, pool_of = np.empty(count, np.int64), np.empty(len(features), np.int64)
    for number, pool in enumerate(pools):
        pool_of[pool] = number
    drawn = pool_of[first]
    order = np.argsort(drawn, kind="stable")
    bounds = np.searchsorted(drawn[order], np.arange(len(pools) + 1))
    for number, pool in enumerate(pools):
        mine = order[bounds[number] : bounds[number + 1]]
        if not len(mine):
            continue
        queries, inverse = np.unique(np.searchsorted(pool, first[mine]), return_inverse=True)
        near = nearest_rows(features[pool], queries, neighbours)
        column = (pick[mine] * near.shape[1]).astype(int)
        second[mine] = pool[near[inverse, column]]
    return first, second, share


def pools_of(speakers: np.ndarray, partners: Partners) -> list[np.ndarray]:
    """Which of a class's items may be mixed with each other: row numbers, two or more in each pool.

    Args:
        speakers: Speaker of each item `(N,)`, None if unknown.
        partners: "any" makes one pool; "same" makes one pool per known speaker.
    """
    if partners == "any":
        pools = [np.arange(len(speakers))]
    else:
        # -1 marks an unknown speaker.
        codes, _ = pd.factorize(speakers)
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(codes.max(initial=-1) + 2))
        pools = [order[start:stop] for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]
    return [pool for pool in pools if len(pool) > 1]


def load_neighbours() -> ModuleType:
    """The module `sklearn.neighbors`.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        import sklearn.neighbors
    except ImportError as error:
        raise ValueError(
            f"Finding neighbours needs scikit-learn, and {error.name} is not installed; {EXTRA}."
        ) from error
    return sklearn.neighbors


@dataclass(frozen=True)
class ClassMass:
    """The size of a class before and after mixing.

    Attributes:
        label: Name of the label or grid cell.
        items: Items whose most probable label this is.
        mass: Sum of its probability over all items.
        wanted: Mixtures that the class lacks: floor(share N_max) - items, at least 0.
        made: Mixtures made.
        mass_added: Sum of its probability over all mixtures, also those of other classes.
        alone: Items without any partner.
        skipped: Why no mixtures were made although some are wanted; empty otherwise.
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
    """The plan, class by class; `items` sum to the number of items, `made` to that of mixtures.

    Attributes:
        classes: One entry per label, in order.
        tied: Items with several most probable labels; the first in the order of the labels counts.
        without_speaker: Items whose speaker is unknown.
        across_speakers: Mixtures of two known, different speakers.
    """

    classes: tuple[ClassMass, ...]
    tied: int
    without_speaker: int
    across_speakers: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; tuples become lists."""
        return asdict(self) | {"classes": [asdict(entry) for entry in self.classes]}

    def lines(self) -> Iterator[str]:
        """The classes in words, one line each."""
        for entry in self.classes:
            after, mass = entry.items + entry.made, entry.mass + entry.mass_added
            why = f" ({entry.wanted} wanted: {entry.skipped})" if entry.skipped else ""
            yield f"{entry.label}: {entry.items} -> {after} items, mass {entry.mass:.1f} -> {mass:.1f}{why}"


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Mixtures `(M,)` of items, classes in the order of the support; the arrays are read-only.

    Attributes:
        items: Names of the mixtures, `dime-SEED-LABEL-NUMBER`.
        first: Row of item i of each, in the items given.
        second: Row of its neighbour j.
        share: Weight of j, in [0, 1).
        label: Number of the class in the support.
        text_from: Row that the text comes from.
        probs: Distributions `(M, K)`; each row sums to 1.
        sources: Names of the items given `(N,)`.
        speakers: Their speakers `(N,)`, None if unknown.
        support: Names of the K labels.
        settings: The arguments share, neighbours, text, partners and seed.
        report: The plan, class by class.
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
        """The origin of each mixture.

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
        """The targets that the mixtures were planned from, followed by those of the mixtures.

        A mixture has no votes: `votes_per_item` is 0, and it has no rater answers.

        Raises:
            ValueError: The targets belong to other items.
        """
        if len(targets) != len(self.sources) or (targets.items != self.sources).any():
            raise ValueError(
                "The targets belong to other items than the mixtures; plan the mixtures from the items of these targets."
            )
        return replace(
            targets,
            items=np.concatenate([targets.items, self.items]),
            probs=np.concatenate([targets.probs, self.probs]),
            votes_per_item=np.concatenate([targets.votes_per_item, np.zeros(len(self), targets.votes_per_item.dtype)]),
        )


TextRule = Literal["dominant", "first"]
# Tolerance for shares and probabilities: .29 of 100 is 29, and equal labels tie.
ROUNDING = 1e-9


def plan_mixtures(
    items: Sequence[str],
    probs: np.ndarray,
    features: np.ndarray | Callable[[np.ndarray], np.ndarray],
    *,
    support: Sequence[str],
    speakers: Sequence[str | None] | None = None,
    share: float = 0.3,
    neighbours: int = 2,
    text: TextRule = "dominant",
    partners: Partners = "any",
    seed: int = 0,
) -> Mixtures:
    """Plan mixtures of items of rare classes until each class has `share` times the items of the largest class.

    Pass the items of the training split only, after splitting. The class of an item is its most probable label, the first one
    of ties. Features are standardised within the class before neighbours are searched.

    Args:
        items: Unique names `(N,)`.
        probs: Distributions `(N, K)`; rows sum to 1. Named rows and columns are matched by name, here and below.
        features: `(N, D)`, or a function from row numbers `(R,)` to features `(R, D)`, which is called once, for the items
            of rare classes.
        support: Names of the K labels.
        speakers: Speaker of each item, None if unknown; needed for partners "same".
        share: Rho, above 0 and up to 1: classes with fewer than floor(share N_max) items are filled up to that number.
        neighbours: A partner is drawn from this many nearest other items.
        text: The text of a mixture: that of the "dominant" item as in the paper (the neighbour's if its share is .5 or
            more), or always that of the "first", as in the released code.
        partners: Neighbours of "any" speaker, or of the "same" one.
        seed: Seed of all draws, from 0.

    Raises:
        ValueError: Shapes do not fit, a value is out of range, features are not finite, a name is repeated or is that of a
            mixture, or scikit-learn is not installed.
    """
    names, support = _check_items(items), tuple(map(str, support))
    probs = np.asarray(by_name(probs, (items, support), "probs"), dtype=np.float64)
    features = features if callable(features) else by_name(features, (items,), "features")
    speakers = by_name(speakers, (items,), "speakers")
    _check_probs(names, probs, support)
    check_mixing(share, neighbours, text, partners, seed)
    speakers = _check_speakers(names, speakers, partners)
    best = probs >= probs.max(1, keepdims=True) - ROUNDING
    classes = best.argmax(1)
    counts = np.bincount(classes, minlength=len(support))
    wanted = np.maximum(int(np.floor(share * counts.max() + ROUNDING)) - counts, 0)
    # Sorted, so that the draws do not depend on the order of the items.
    ordered = np.array(sorted(range(len(names)), key=names.__getitem__))
    members = [ordered[classes[ordered] == code] for code in range(len(support))]
    pools = [pools_of(speakers[rows], partners) if need else [] for rows, need in zip(members, wanted, strict=True)]
    asked = np.concatenate([np.zeros(0, np.int64), *(row for pool, row in zip(pools, members, strict=True) if pool)])
    table = _features_of(features, asked, names)
    drawn, start = [], 0
    for code, (rows, groups) in enumerate(zip(members, pools, strict=True)):
        if groups:
            own = standardise_columns(table[start : start + len(rows)])
            start += len(rows)
            rng = np.random.default_rng([seed, code])
            first, second, weight = draw_pairs(own, groups, int(wanted[code]), neighbours, rng)
            drawn.append((np.full(len(first), code), rows[first], rows[second], weight))
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    label, first, second, weight = (np.concatenate(parts) for parts in zip(nothing, *drawn, strict=True))
    mixed = probs[first] + weight[:, None] * (probs[second] - probs[first])
    mixed /= mixed.sum(1, keepdims=True)
    alone = [
        len(rows) - sum(map(len, groups)) if need else 0
        for rows, groups, need in zip(members, pools, wanted, strict=True)
    ]
    made = np.bincount(label, minlength=len(support))
    report = MixtureReport(
        classes=tuple(
            ClassMass(
                label=name,
                items=int(counts[code]),
                mass=float(probs[:, code].sum()),
                wanted=int(wanted[code]),
                made=int(made[code]),
                mass_added=float(mixed[:, code].sum()),
                alone=int(alone[code]),
                skipped=_why_skipped(int(wanted[code]), int(made[code]), int(counts[code])),
            )
            for code, name in enumerate(support)
        ),
        tied=int((best.sum(1) > 1).sum()),
        without_speaker=int(pd.isna(speakers).sum()),
        across_speakers=_across(speakers[first], speakers[second]),
    )
    return Mixtures(
        items=_names(names, label, support, seed),
        first=first,
        second=second,
        share=weight,
        label=label,
        text_from=np.where(weight < 0.5, first, second) if text == "dominant" else first.copy(),
        probs=mixed,
        sources=names,
        speakers=speakers,
        support=support,
        settings={"share": share, "neighbours": neighbours, "text": text, "partners": partners, "seed": seed},
        report=report,
    )


def check_apart(speakers: Sequence[str | None], others: Sequence[str | None]) -> None:
    """Raise if the training split shares a speaker with other splits.

    Raises:
        ValueError: A speaker is in both, so mixtures would leak a voice.
    """
    both = sorted(
        {str(name) for name in speakers if not pd.isna(name)} & {str(name) for name in others if not pd.isna(name)}
    )
    if both:
        raise ValueError(
            f"{len(both)} speakers of the training split, for instance {both[0]!r}, are also in another split, so mixtures "
            "would leak their voices; split by speaker (crossval: --group speaker), or leave the augmentation out."
        )


def _features_of(features: Any, rows: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Finite features `(R, D)` of these rows."""
    if not callable(features):
        features = np.asarray(features)
        if features.ndim != 2 or len(features) != len(names) or not features.shape[1]:
            raise ValueError(
                f"features has shape {features.shape} for {len(names)} items; give one row per item, (N, D), with D >= 1."
            )
        found = features[rows]
    else:
        found = np.asarray(features(rows)) if len(rows) else np.zeros((0, 1))
        if found.ndim != 2 or len(found) != len(rows):
            raise ValueError(f"features gave shape {found.shape} for {len(rows)} items; give one row per item, (R, D).")
    if not (np.issubdtype(found.dtype, np.number) and found.dtype.kind != "c"):
        raise ValueError(f"features are of type {found.dtype}; give real numbers.")
    finite = np.isfinite(found)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"Feature {column} of item {names[rows[row]]!r} is {found[row, column]}; features must be finite: compute them "
            "again or leave the item out."
        )
    return found


def _names(names: np.ndarray, label: np.ndarray, support: tuple[str, ...], seed: int) -> np.ndarray:
    """Names of the mixtures, numbered within their class; none is that of an item."""
    number = np.arange(len(label)) - np.searchsorted(label, label)
    made = [f"dime-{seed}-{support[code]}-{place:06d}" for code, place in zip(label, number, strict=True)]
    taken = pd.Index(names).intersection(pd.Index(made, dtype=object))
    if len(taken):
        raise ValueError(f"Item {taken[0]!r} has the name of a mixture; pass the items before mixing, or another seed.")
    return np.array(made, dtype=object)


def _why_skipped(wanted: int, made: int, items: int) -> str:
    if not wanted or made:
        return ""
    if not items:
        return "it is no item's most probable label"
    return "it is the most probable label of only one item" if items == 1 else "no two items have the same speaker"


def _across(first: np.ndarray, second: np.ndarray) -> int:
    known = ~pd.isna(first) & ~pd.isna(second)
    return int((first[known] != second[known]).sum())


def _check_items(items: Sequence[str]) -> np.ndarray:
    names = pd.Index(list(items), dtype=object)
    if not len(names):
        raise ValueError("There are no items to mix; pass those of the training split.")
    odd = [name for name in names if not isinstance(name, str) or not name]
    if odd:
        raise ValueError(f"Item name {odd[0]!r} is not text; name every item.")
    if names.has_duplicates:
        raise ValueError(f"Item {names[names.duplicated()][0]!r} is given twice; give each item once.")
    return names.to_numpy().copy()


def _check_probs(names: np.ndarray, probs: np.ndarray, support: tuple[str, ...]) -> None:
    if probs.shape != (len(names), len(support)):
        raise ValueError(
            f"probs has shape {probs.shape} for {len(names)} items and {len(support)} labels; give one row per item and one "
            "column per label."
        )
    if len(set(support)) < len(support):
        raise ValueError(f"Label {next(name for name in support if support.count(name) > 1)!r} is named twice.")
    # NaN fails this comparison too.
    good = (probs >= 0).all(1) & (np.abs(probs.sum(1) - 1) < 1e-5)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"The distribution of item {names[row]!r} is {probs[row].tolist()}; it must sum to 1 without negative entries."
        )


def check_mixing(share: Any, neighbours: Any, text: Any, partners: Any, seed: Any = 0) -> None:
    """Raise a ValueError unless `plan_mixtures` takes these values."""
    check_choice("text", text, get_args(TextRule), "mixtures")
    check_choice("partners", partners, get_args(Partners), "mixtures")
    if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not 0 < share <= 1:
        raise ValueError(f"share is {share!r}; give a share of the largest class, above 0 and up to 1, such as .3.")
    for name, value, least in (("neighbours", neighbours, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} is {value!r}; give a whole number from {least} up.")


def _check_speakers(names: np.ndarray, speakers: Sequence[str | None] | None, partners: str) -> np.ndarray:
    if speakers is None:
        speakers = [None] * len(names)
    if len(speakers) != len(names):
        raise ValueError(
            f"There are {len(speakers)} speakers for {len(names)} items; give one per item, None if unknown."
        )
    found = np.array([None if pd.isna(speaker) else str(speaker) for speaker in speakers], dtype=object)
    if partners == "same" and pd.isna(found).all():
        raise ValueError('partners is "same", but no item has a speaker; give speakers, or use partners "any".')
    return found
