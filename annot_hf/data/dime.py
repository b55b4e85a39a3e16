"""DiME-Aug: mix items of rare classes with similar items of their class (arXiv 2601.14620, section 2.3).

A mixture takes an item i, a neighbour j of its class and a share a ~ U(0, 1) of j: audio x_i + a (x_j - x_i) cut to the
shorter, opinion q_i + a (q_j - q_i), and the text of one of the two. This module plans; `MixedClip` mixes what is read.
By default j is one of 2 neighbours: the released code asks for 3 and finds the item among them.

Features define neighbours: 72 numbers per clip and 10 per text, or a table of your own. They are those of the released code,
but that gives zeros for an unreadable clip, and counts capitals after lower-casing.
"""

import functools
import getpass
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from filelock import FileLock

from annot_hf.data.audio import AudioLimits, load_audio
from annot_hf.data.encoding import by_name, check_choice, check_whole
from annot_hf.data.targets import Targets
from annot_hf.models.waves import AudioError

TextRule = Literal["dominant", "first"]
Partners = Literal["any", "same"]
# Why no mixtures were made of a class with no item, one item, or more.
WHY_SKIPPED = (
    "it is no item's most probable label",
    "it is the most probable label of only one item",
    "no two items have the same speaker",
)
# Tolerance for shares and probabilities: .29 of 100 is 29, and equal labels tie.
ROUNDING = 1e-9
# Unit: Hz.
FEATURE_RATE = 16_000
# Shorter clips (samples) are padded with silence.
SHORTEST_CLIP = FEATURE_RATE // 2
# Unit: samples.
WINDOW, HOP = 2048, 512
# How many rows librosa gives of each.
LIBROSA_ROWS = {"MFCC": 13, "chroma": 12, "contrast": 7, "zero crossings": 1, "roll-off": 1, "centroid": 1, "RMS": 1}
CLIP_FEATURES = tuple(
    f"{statistic} of {name} {row}" if rows > 1 else f"{statistic} of {name}"
    for name, rows in LIBROSA_ROWS.items()
    for statistic in ("mean", "deviation")
    for row in range(rows)
)
TEXT_FEATURES = ("characters", "words", "!", "?", ".", ",", "vowels", "consonants", "word length", "capitals")


@dataclass(frozen=True)
class ClassMass:
    """The size of a class before and after mixing; `items` are those whose most probable label it is, `alone` lack partners.

    A mass is a sum of probabilities. Of `wanted` = max(0, floor(share N_max) - items) mixtures, `made` are made.
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
    """The plan by class; `tied` counts items with several most probable labels, `across_speakers` mixtures of two voices."""

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
    """Mixtures `(M,)` named `dime-SEED-LABEL-NUMBER`, with distributions `(M, K)` and the number of their class.

    `first` (i), `second` (j) and `text_from` are rows of `sources` `(N,)`; `share`, in [0, 1), is the weight of j.
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

    def __len__(self) -> int:
        return len(self.items)

    def to_frame(self) -> pd.DataFrame:
        """The origin of each mixture by name, one row each."""
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
        """The targets that the mixtures were planned from, followed by those of the mixtures, which have no votes."""
        return replace(
            targets,
            items=np.concatenate([targets.items, self.items]),
            probs=np.concatenate([targets.probs, self.probs]),
            votes_per_item=np.concatenate([targets.votes_per_item, np.zeros(len(self), targets.votes_per_item.dtype)]),
        )


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
    """Fill each class, the items whose most probable label it is (the first of ties), up to floor(share N_max) items.

    Pass items of the training split only, distributions `(N, K)`, and features `(N, D)` or a function from rows `(R,)` to
    features `(R, D)`, which is called once, for the items of rare classes; named rows and columns are matched by name. A
    partner is one of that many nearest `neighbours` by features standardised within the class, of "any" speaker or the
    "same"; its text is taken if its share is .5 or more ("dominant", as in the paper) or never ("first", as in the code).
    """
    names, support = _check_items(items), tuple(map(str, support))
    probs = np.asarray(by_name(probs, (items, support), "probs"), dtype=np.float64)
    features = features if callable(features) else by_name(features, (items,), "features")
    speakers = [None] * len(names) if speakers is None else by_name(speakers, (items,), "speakers")
    check_mixing(share, neighbours, text, partners, seed)
    _check_columns(names, probs, support, speakers, partners)
    speakers = np.array([None if pd.isna(speaker) else str(speaker) for speaker in speakers], dtype=object)
    best = probs >= probs.max(1, keepdims=True) - ROUNDING
    classes = best.argmax(1)
    counts = np.bincount(classes, minlength=len(support))
    wanted = np.maximum(int(np.floor(share * counts.max() + ROUNDING)) - counts, 0)
    # Sorted, so that the draws do not depend on the order of the items.
    ordered = names.argsort(kind="stable")
    members, pools = {}, {}
    for code in np.flatnonzero(wanted):
        rows = ordered[classes[ordered] == code]
        groups = [np.arange(len(rows))]
        if partners == "same":
            # Items of unknown speakers are in no group.
            groups = pd.Series(speakers[rows]).groupby(speakers[rows]).indices.values()
        if found := [group for group in groups if len(group) > 1]:
            members[code], pools[code] = rows, found
    nobody = np.zeros(0, np.int64)
    table = _features_of(features, np.concatenate([nobody, *members.values()]), names)
    drawn = [(nobody, nobody, nobody, np.zeros(0))]
    for code, rows in members.items():
        own, table = standardise_columns(table[: len(rows)]), table[len(rows) :]
        # A generator of its own, so that the draws of a class do not depend on the other classes.
        rng = np.random.default_rng([seed, code])
        first, second, weight = _draw_pairs(own, pools[code], wanted[code], neighbours, rng)
        drawn.append((np.full(len(first), code), rows[first], rows[second], weight))
    label, first, second, weight = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    mixed = probs[first] + weight[:, None] * (probs[second] - probs[first])
    mixed /= mixed.sum(1, keepdims=True)
    made = np.bincount(label, minlength=len(support))
    known = ~pd.isna(speakers[first]) & ~pd.isna(speakers[second])
    report = MixtureReport(
        classes=tuple(
            ClassMass(
                label=name,
                items=int(counts[code]),
                mass=float(probs[:, code].sum()),
                wanted=int(wanted[code]),
                made=int(made[code]),
                mass_added=float(mixed[:, code].sum()),
                alone=int(counts[code]) - sum(map(len, pools.get(code, []))) if wanted[code] else 0,
                skipped=WHY_SKIPPED[min(counts[code], 2)] if wanted[code] and not made[code] else "",
            )
            for code, name in enumerate(support)
        ),
        tied=int((best.sum(1) > 1).sum()),
        without_speaker=int(pd.isna(speakers).sum()),
        across_speakers=int((speakers[first] != speakers[second])[known].sum()),
    )
    return Mixtures(
        items=_mixture_names(names, label, support, seed),
        first=first,
        second=second,
        share=weight,
        label=label,
        text_from=np.where(weight < 0.5, first, second) if text == "dominant" else first,
        probs=mixed,
        sources=names,
        speakers=speakers,
        support=support,
        settings={"share": share, "neighbours": neighbours, "text": text, "partners": partners, "seed": seed},
        report=report,
    )


def standardise_columns(features: np.ndarray) -> np.ndarray:
    """Columns of features `(N, D)` at mean 0 and population standard deviation 1, float64; a constant column is 0."""
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


def _draw_pairs(
    features: np.ndarray, pools: list[np.ndarray], count: int, neighbours: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw rows `(count,)`, for each one of its nearest rows in its pool, and the share of the latter."""
    able = np.sort(np.concatenate(pools))
    first = able[rng.integers(len(able), size=count)]
    pick, share = rng.random(count), rng.random(count)
    second = np.empty(count, np.int64)
    for pool in pools:
        mine = np.flatnonzero(np.isin(first, pool))
        if len(mine):
            queries, inverse = np.unique(np.searchsorted(pool, first[mine]), return_inverse=True)
            near = nearest_rows(features[pool], queries, neighbours)
            second[mine] = pool[near[inverse, (pick[mine] * near.shape[1]).astype(int)]]
    return first, second, share


def nearest_rows(features: np.ndarray, queries: np.ndarray, neighbours: int) -> np.ndarray:
    """The nearest rows (Euclidean) of each queried row `(Q, min(neighbours, N - 1))`, nearest first, without itself."""
    size = min(neighbours + 1, len(features))
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=size, algorithm="brute", metric="euclidean")
    found = search.fit(features).kneighbors(features[queries], return_distance=False)
    # By its number, not as the first one found, because rows with equal features have distance 0 too. With many equal rows,
    # the row itself may be missing from those found; then drop the last one.
    itself = found == np.asarray(queries)[:, None]
    itself[~itself.any(1), -1] = True
    return found[~itself].reshape(len(queries), size - 1)


def check_apart(speakers: Sequence[str | None], others: Sequence[str | None]) -> None:
    """Raise if the training split shares a speaker with other splits, because mixtures would leak a voice."""
    mine, theirs = ({str(name) for name in names if not pd.isna(name)} for names in (speakers, others))
    if both := sorted(mine & theirs):
        raise ValueError(
            f"{len(both)} speakers of the training split, for instance {both[0]!r}, are also in another split, so mixtures "
            "would leak their voices; split by speaker (crossval: --group speaker), or leave the augmentation out."
        )


def _features_of(features: Any, rows: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Finite features `(R, D)` of these rows."""
    if callable(features):
        found = np.asarray(features(rows)) if len(rows) else np.zeros((0, 1))
        if found.ndim != 2 or len(found) != len(rows):
            raise ValueError(f"features gave shape {found.shape} for {len(rows)} items; give one row per item, (R, D).")
    else:
        features = np.asarray(features)
        if features.ndim != 2 or len(features) != len(names) or not features.shape[1]:
            raise ValueError(
                f"features has shape {features.shape} for {len(names)} items; give one row per item, (N, D), with D >= 1."
            )
        found = features[rows]
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


def _mixture_names(names: np.ndarray, label: np.ndarray, support: tuple[str, ...], seed: int) -> np.ndarray:
    """Names of the mixtures, numbered within their class, because random ones would collide; none is that of an item."""
    number = np.arange(len(label)) - np.searchsorted(label, label)
    made = [f"dime-{seed}-{support[code]}-{place:06d}" for code, place in zip(label, number, strict=True)]
    taken = pd.Index(names).intersection(pd.Index(made, dtype=object))
    if len(taken):
        raise ValueError(f"Item {taken[0]!r} has the name of a mixture; pass the items before mixing, or another seed.")
    return np.array(made, dtype=object)


def _check_items(items: Sequence[str]) -> np.ndarray:
    names = pd.Index(list(items), dtype=object)
    if not len(names):
        raise ValueError("There are no items to mix; pass those of the training split.")
    odd = [name for name in names if not isinstance(name, str) or not name]
    if odd:
        raise ValueError(f"Item name {odd[0]!r} is not text; name every item.")
    if names.has_duplicates:
        raise ValueError(f"Item {names[names.duplicated()][0]!r} is given twice; give each item once.")
    return names.to_numpy()


def _check_columns(
    names: np.ndarray, probs: np.ndarray, support: tuple[str, ...], speakers: Sequence[str | None], partners: str
) -> None:
    """Raise unless there is a distribution of all labels, and a speaker if need be, of each item."""
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
    if len(speakers) != len(names):
        raise ValueError(
            f"There are {len(speakers)} speakers for {len(names)} items; give one per item, None if unknown."
        )
    if partners == "same" and all(map(pd.isna, speakers)):
        raise ValueError('partners is "same", but no item has a speaker; give speakers, or use partners "any".')


def check_mixing(share: Any, neighbours: Any, text: Any, partners: Any, seed: Any = 0) -> None:
    """Raise a ValueError unless `plan_mixtures` takes these values."""
    check_choice("text", text, get_args(TextRule), "mixtures")
    check_choice("partners", partners, get_args(Partners), "mixtures")
    if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not 0 < share <= 1:
        raise ValueError(f"share is {share!r}; give a share of the largest class, above 0 and up to 1, such as .3.")
    check_whole("neighbours", neighbours)
    check_whole("seed", seed, 0)


def clip_features(wave: np.ndarray) -> np.ndarray:
    """`CLIP_FEATURES` `(72,)`, float32, of samples `(time,)` at 16 kHz, full scale at 1."""
    wave = np.pad(np.asarray(wave, np.float32), (0, max(0, SHORTEST_CLIP - len(wave))))
    return _measure_clip(load_librosa(), wave)


def _measure_clip(library: ModuleType, wave: np.ndarray) -> np.ndarray:
    """What separate calls of librosa's functions give, from one spectrum."""
    feature, frames = library.feature, {"n_fft": WINDOW, "hop_length": HOP}
    spectrum = np.abs(library.stft(wave, **frames))
    mel = feature.melspectrogram(S=spectrum**2, sr=FEATURE_RATE)
    with warnings.catch_warnings():
        # Silence has no pitch.
        warnings.filterwarnings("ignore", "Trying to estimate tuning from empty frequency set")
        chroma = feature.chroma_stft(S=spectrum**2, sr=FEATURE_RATE, **frames)
    measured = [
        feature.mfcc(S=library.power_to_db(mel), n_mfcc=13),
        chroma,
        feature.spectral_contrast(S=spectrum, sr=FEATURE_RATE, n_bands=6),
        feature.zero_crossing_rate(wave, frame_length=WINDOW, hop_length=HOP),
        feature.spectral_rolloff(S=spectrum, sr=FEATURE_RATE),
        feature.spectral_centroid(S=spectrum, sr=FEATURE_RATE),
        feature.rms(y=wave, frame_length=WINDOW, hop_length=HOP),
    ]
    return np.concatenate([part for rows in measured for part in (rows.mean(1), rows.std(1))]).astype(np.float32)


def features_of_clip(source: Any, *, item: str, max_seconds: float = 600.0) -> np.ndarray:
    """`clip_features` of a clip as `load_audio` takes it; an error names the item."""
    try:
        wave = load_audio(source, sampling_rate=FEATURE_RATE, limits=AudioLimits(max_seconds=max_seconds))
    except AudioError as error:
        raise AudioError(f"Item {item!r}: {error}") from error
    return clip_features(wave)


def text_features(text: str | None) -> np.ndarray:
    """`TEXT_FEATURES` `(10,)`, float32: counts, and shares for vowels, consonants and capitals; zeros without a text."""
    text = (text or "").strip()
    if not text:
        return np.zeros(len(TEXT_FEATURES), np.float32)
    capitals, lower, words = sum(map(str.isupper, text)), text.lower(), text.split()
    vowels = sum(character in "aeiou" for character in lower)
    letters = sum(map(str.isalpha, lower))
    counts = [len(text), len(words), *(text.count(mark) for mark in "!?.,")]
    shares = [vowels / len(lower), (letters - vowels) / len(lower)]
    return np.array([*counts, *shares, np.mean([len(word) for word in words]), capitals / len(text)], np.float32)


def read_features(path: str | os.PathLike[str], items: Sequence[str]) -> np.ndarray:
    """Features `(N, D)` of these items from a parquet file with columns item and features (lists of numbers of one length)."""
    try:
        table = pd.read_parquet(path, columns=["item", "features"])
    except (OSError, ValueError, KeyError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"{path} holds no features ({said}); write columns item and features.") from error
    twice, missing = table["item"].duplicated(), ~pd.Index(items).isin(table["item"])
    if twice.any():
        raise ValueError(f"{path} has item {table['item'][twice].iloc[0]!r} twice; keep one row per item.")
    if missing.any():
        raise ValueError(
            f"{path} lacks {int(missing.sum())} of {len(items)} items, for instance {items[int(np.argmax(missing))]!r}; "
            "write the features of all of them."
        )
    found = table.set_index("item")["features"].loc[list(items)]
    lengths = {len(row) if isinstance(row, np.ndarray) else None for row in found}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(f"{path} has features that are no lists of one length; give every item the same number.")
    return np.stack(found.to_list())


@functools.cache
def load_librosa() -> ModuleType:
    """The module `librosa`, its compiled parts ready."""
    # Processes that compile the same parts into numba's cache at the same time crash, so they take turns.
    with FileLock(Path(tempfile.gettempdir(), f"annot-hf-librosa-{getpass.getuser()}.lock")):
        import librosa
        import librosa.feature

        _measure_clip(librosa, np.sin(np.arange(SHORTEST_CLIP, dtype=np.float32)))
    return librosa
