"""DiME-Aug: items of rare classes are mixed with near items of their class (arXiv 2601.14620, section 2.3).

A mixture takes an item i, a neighbour j of its class and a share a ~ U(0, 1) of j: audio x_i + a (x_j - x_i) cut to the
shorter, opinion q_i + a (q_j - q_i), and the text of one of the two. What is planned here is who is mixed with whom;
nothing is read or written. `MixedClip` mixes audio when it is read.

Our choices, where the paper is silent: neighbours are counted without the item itself (the released code asks for 3 and
finds the item among them, so that 2 remain: our default); a class's draws do not depend on the other classes, nor on the
order of the items; names of mixtures are numbered (the released code draws them, and they clash).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from annot_hf.data.encoding import by_name, check_choice
from annot_hf.data.mixtures import ClassMass, MixtureReport, Mixtures
from annot_hf.data.neighbours import Partners, draw_pairs, pools_of, standardise

TextRule = Literal["dominant", "first"]
ROUNDING = 1e-9  # of shares and probabilities, so that .29 of 100 is 29 and equal labels tie


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
    """Plan mixtures of the items of rare classes, until each has `share` of the largest class's number.

    Give the items of the training split only, after splitting. A class is the label with the most probability, the first
    of equals. Features are brought to mean 0 and deviation 1 within the class before neighbours are searched.

    Args:
        items: Names `(N,)`, each once.
        probs: Distributions `(N, K)`, rows sum to 1; what has names of rows or columns goes by them, here and below.
        features: `(N, D)`, or a function that gives those of some rows `(R, D)` from their numbers `(R,)`: it is asked
            once, about the items of rare classes only.
        support: Names of the K labels.
        speakers: Speaker of each item, None where not known; needed for partners "same".
        share: Rho, above 0 and up to 1: classes with fewer than floor(share N_max) items are filled up to it.
        neighbours: How many nearest other items an item's partner is drawn from.
        text: Whose text a mixture has: the "dominant" item's, as in the paper (the neighbour's where its share is .5 or
            more), or always that of the "first", as in what was released.
        partners: Neighbours of "any" speaker among the items given, or of the "same" one.
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
    _check_settings(share, neighbours, text, partners, seed)
    speakers = _check_speakers(names, speakers, partners)
    best = probs >= probs.max(1, keepdims=True) - ROUNDING
    classes = best.argmax(1)
    counts = np.bincount(classes, minlength=len(support))
    wanted = np.maximum(int(np.floor(share * counts.max() + ROUNDING)) - counts, 0)
    # so that the items' order has no say in the draws
    ordered = np.array(sorted(range(len(names)), key=names.__getitem__))
    members = [ordered[classes[ordered] == code] for code in range(len(support))]
    pools = [pools_of(speakers[rows], partners) if need else [] for rows, need in zip(members, wanted, strict=True)]
    asked = np.concatenate([np.zeros(0, np.int64), *(row for pool, row in zip(pools, members, strict=True) if pool)])
    table = _features_of(features, asked, names)
    drawn, start = [], 0
    for code, (rows, groups) in enumerate(zip(members, pools, strict=True)):
        if groups:
            own = standardise(table[start : start + len(rows)])
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
    """Hold the speakers of the training split against those of the other splits.

    Raises:
        ValueError: A speaker is on both sides, so that mixtures would carry a voice across.
    """
    both = sorted(
        {str(name) for name in speakers if not pd.isna(name)} & {str(name) for name in others if not pd.isna(name)}
    )
    if both:
        raise ValueError(
            f"{len(both)} speakers of the training split, for instance {both[0]!r}, are in another split too, and mixtures "
            "must not carry a voice across; split by speaker (crossval: --group speaker), or leave the augmentation out."
        )


def _features_of(features: Any, rows: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Finite features `(R, D)` of these rows."""
    if not callable(features):
        features = np.asarray(features)
        if features.ndim != 2 or len(features) != len(names) or not features.shape[1]:
            raise ValueError(
                f"features has shape {features.shape} for {len(names)} items; give one row an item, (N, D), D from 1 up."
            )
        found = features[rows]
    else:
        found = np.asarray(features(rows)) if len(rows) else np.zeros((0, 1))
        if found.ndim != 2 or len(found) != len(rows):
            raise ValueError(f"features gave shape {found.shape} for {len(rows)} items; give one row an item, (R, D).")
    if not (np.issubdtype(found.dtype, np.number) and found.dtype.kind != "c"):
        raise ValueError(f"features are of type {found.dtype}; give real numbers.")
    finite = np.isfinite(found)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"Feature {column} of item {names[rows[row]]!r} is {found[row, column]}; features must be finite, so compute them "
            "again or leave the item out."
        )
    return found


def _names(names: np.ndarray, label: np.ndarray, support: tuple[str, ...], seed: int) -> np.ndarray:
    """Names of the mixtures, numbered within their class; none is that of an item."""
    number = np.arange(len(label)) - np.searchsorted(label, label)
    made = [f"dime-{seed}-{support[code]}-{place:06d}" for code, place in zip(label, number, strict=True)]
    taken = pd.Index(names).intersection(pd.Index(made, dtype=object))
    if len(taken):
        raise ValueError(
            f"Item {taken[0]!r} is named like a mixture; give the items as they were before mixing, or another seed."
        )
    return np.array(made, dtype=object)


def _why_skipped(wanted: int, made: int, items: int) -> str:
    if not wanted or made:
        return ""
    if not items:
        return "no item has this label most"
    return "only one item has this label most" if items == 1 else "no two items have the same speaker"


def _across(first: np.ndarray, second: np.ndarray) -> int:
    known = ~pd.isna(first) & ~pd.isna(second)
    return int((first[known] != second[known]).sum())


def _check_items(items: Sequence[str]) -> np.ndarray:
    names = pd.Index(list(items), dtype=object)
    if not len(names):
        raise ValueError("There are no items to mix; give those of the training split.")
    odd = [name for name in names if not isinstance(name, str) or not name]
    if odd:
        raise ValueError(f"Item name {odd[0]!r} is no text; name every item.")
    if names.has_duplicates:
        raise ValueError(f"Item {names[names.duplicated()][0]!r} is given twice; give each item once.")
    return names.to_numpy().copy()


def _check_probs(names: np.ndarray, probs: np.ndarray, support: tuple[str, ...]) -> None:
    if probs.shape != (len(names), len(support)):
        raise ValueError(
            f"probs has shape {probs.shape} for {len(names)} items and {len(support)} labels; give one row an item and one "
            "column a label."
        )
    if len(set(support)) < len(support):
        raise ValueError(f"Label {next(name for name in support if support.count(name) > 1)!r} is named twice.")
    good = (probs >= 0).all(1) & (np.abs(probs.sum(1) - 1) < 1e-5)  # NaN is no good either
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"The distribution of item {names[row]!r} is {probs[row].tolist()}; it must sum to 1, none below 0."
        )


def _check_settings(share: Any, neighbours: Any, text: Any, partners: Any, seed: Any) -> None:
    check_choice("text", text, get_args(TextRule), "mixtures")
    check_choice("partners", partners, get_args(Partners), "mixtures")
    if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not 0 < share <= 1:
        raise ValueError(f"share is {share!r}; it is a part of the largest class, above 0 and up to 1, such as .3.")
    for name, value, least in (("neighbours", neighbours, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} is {value!r}; it is a whole number from {least} up.")


def _check_speakers(names: np.ndarray, speakers: Sequence[str | None] | None, partners: str) -> np.ndarray:
    if speakers is None:
        speakers = [None] * len(names)
    if len(speakers) != len(names):
        raise ValueError(
            f"There are {len(speakers)} speakers for {len(names)} items; give one each, None where not known."
        )
    found = np.array([None if pd.isna(speaker) else str(speaker) for speaker in speakers], dtype=object)
    if partners == "same" and pd.isna(found).all():
        raise ValueError(
            'partners is "same" and no item has a speaker; give speakers, or take partners of any speaker.'
        )
    return found
