"""Augmentation of the training split: mixtures of items (DiME-Aug), clips perturbed as they are read, perturbed copies."""

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from transformers import PreTrainedConfig

from annot_hf.data.conditions import CLEAN, MP3_RATES, Condition, seed_of, seeded
from annot_hf.data.dime import (
    CLIP_FEATURES,
    Mixtures,
    Partners,
    TextRule,
    check_apart,
    check_mixing,
    features_of_clip,
    load_librosa,
    plan_mixtures,
    read_features,
    text_features,
)
from annot_hf.data.export import ExportedCorpus
from annot_hf.data.files import replace_file
from annot_hf.data.targets import Targets
from annot_hf.models.trunks import PROMPTED, WEIGHTED, input_name_of
from annot_hf.training.features import FeatureStore, fill_shards, plan_shards, write_shard
from annot_hf.training.inputs import Inputs, read_together

logger = logging.getLogger(__name__)

# in a run's folder: where each mixture comes from
MIXTURES = "mixtures.parquet"
PUBLISHED, OWN_TRUNK = "published", "trunk"
# The largest shift of the pitch, up or down.
SEMITONES = 1.0
# Below 1 the clip is slower.
TEMPO = (0.95, 1.05)
# Length (s) of the library's analysis window, which would fade the ends of a clip.
_WINDOW_SECONDS = 0.12


@dataclass(frozen=True)
class Perturbation:
    """Random pitch shift (up to a semitone) or tempo change (0.95 to 1.05), uniform (arXiv 2601.14620).

    As in the authors' code, one of three is drawn with probability `share`: a shift, a tempo, or no change.
    """

    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        # NaN fails this comparison too.
        if not 0 <= self.share <= 1:
            raise ValueError(f"perturb_share is {self.share}; give a probability from 0 (never) to 1, such as 0.3.")

    def draw(self, item: str, epoch: int) -> tuple[float, float]:
        """The pitch shift (semitones, 0 for none) and the tempo (1 for none) of a clip, the same for the same arguments."""
        generator = np.random.default_rng(seed_of("perturbation", str(self.seed), str(epoch), item))
        chance, size = generator.random(2)
        if chance < self.share / 3:
            return float(SEMITONES * (2 * size - 1)), 1.0
        if chance < self.share * 2 / 3:
            return 0.0, float(TEMPO[0] + (TEMPO[1] - TEMPO[0]) * size)
        return 0.0, 1.0

    def apply(self, wave: np.ndarray, sampling_rate: int, *, item: str, epoch: int) -> np.ndarray:
        """The clip `(time,)` as it is in this epoch, at the same sampling rate; the same array if it is unchanged."""
        semitones, tempo = self.draw(item, epoch)
        if semitones:
            return shift_pitch(wave, sampling_rate, semitones)
        return wave if tempo == 1 else change_tempo(wave, sampling_rate, tempo)


def shift_pitch(wave: np.ndarray, sampling_rate: int, semitones: float) -> np.ndarray:
    """The clip at a higher (or lower, below 0) pitch, by -24 to 24 semitones, formants included, with its length kept."""
    from audiomentations import PitchShift

    return _altered(PitchShift(semitones, semitones, p=1.0), wave, sampling_rate, 1.0)


def change_tempo(wave: np.ndarray, sampling_rate: int, tempo: float) -> np.ndarray:
    """The clip faster (or slower, below 1), 0.1 to 10 times, at its own pitch: `(time / tempo,)`, rounded, at least one."""
    from audiomentations import TimeStretch

    transform = TimeStretch(tempo, tempo, leave_length_unchanged=False, p=1.0)
    return _altered(transform, wave, sampling_rate, tempo)


def _altered(transform: Any, wave: np.ndarray, sampling_rate: int, tempo: float) -> np.ndarray:
    """Apply the transform to the clip between two stretches of silence, and remove these."""
    # Signalsmith Stretch is as fast as librosa's phase vocoder, and keeps amplitudes (93 % against 65) and times better.
    silence = int(np.ceil(_WINDOW_SECONDS * sampling_rate))
    # The library asks its generators whether to act, although nothing is random here.
    with seeded(0):
        out = transform(np.pad(wave, silence), sampling_rate)
    start = round(silence / tempo)
    return out[start : start + max(1, round(len(wave) / tempo))]


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

    The item and the number of the version determine what a copy undergoes, so that runs of all seeds share their features; the
    seed and the epoch, which version is drawn.
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
        generator = np.random.default_rng(seed_of("copy", item, str(version)))
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


@dataclass(frozen=True)
class Augmentation:
    """How the training split is augmented.

    Args:
        kind: "dime" mixes items of rare classes of the training split with near items of their class (DiME-Aug, arXiv
            2601.14620; see `annot_hf.data.dime`), or nothing when empty; `seed` draws the mixtures.
        share: Part of the largest class's number that rarer classes are filled up to.
        neighbours: Nearest other items that a partner is drawn from.
        text: Whose text a mixture has, for text trunks: the "dominant" item's, or that of the "first".
        partners: Neighbours of "any" training speaker, or of the "same" one.
        features: What decides who is near: the "published" set (72 numbers of a clip, 10 of its text); "trunk", the
            pre-trained trunk's output before training, averaged over time; or a parquet file with the columns `item` and
            `features`, lists of numbers of one length.
        perturb_share: Probability with which a training clip, each time it is read, has its pitch shifted by up to a
            semitone (a third), its tempo changed by up to 5 % (a third) or is left alone (arXiv 2601.14620; see
            `Perturbation`); 0 for never. For models that read clips anew in every epoch; a clip that becomes
            longer than the model's limit is cut. `seed`, the item and the epoch fix the draw. Validation and prediction
            use the clips as they are.
        copies: Perturbed copies of every training clip that are prepared beside it, each under a random chain of acoustic
            conditions: speed, rooms, background, noise, clipping, band limits, codecs, gain (see `Copies`); 0 for none. In
            every epoch a clip is one of its `copies` + 1 versions; `seed`, the item and the epoch decide which. For any
            audio trunk, cached features included.
    """

    kind: Literal["", "dime"] = ""
    share: float = 0.3
    neighbours: int = 2
    text: TextRule = "dominant"
    partners: Partners = "any"
    features: str = PUBLISHED
    perturb_share: float = 0.0
    copies: int = 0

    def __post_init__(self) -> None:
        Perturbation(self.perturb_share)
        Copies(self.copies)
        check_mixing(self.share, self.neighbours, self.text, self.partners)
        if self.features not in (PUBLISHED, OWN_TRUNK) and not Path(self.features).is_file():
            raise ValueError(
                f"features is {self.features!r}, and there is no such file; write one with columns item and features, or set "
                f"it to {PUBLISHED} or {OWN_TRUNK}."
            )


def plan_augmentation(
    options: Augmentation,
    corpus: ExportedCorpus,
    targets: Targets,
    model_config: PreTrainedConfig,
    *,
    features: str | Path,
    encoded: Callable[[np.ndarray], Inputs],
    max_seconds: float,
    seed: int,
) -> Mixtures:
    """Mixtures of the training split; published features are kept in the folder `features`.

    `encoded` gives the trunk's frames, or their mean, for some rows of the targets, where `options.features` is "trunk".
    """
    trunk_config = model_config.trunk_config
    reads_text = input_name_of(trunk_config) == "input_ids"
    if options.text == "first" and input_name_of(trunk_config) not in ("input_ids", PROMPTED):
        raise ValueError(
            f"augmentation.text is first and a {trunk_config.model_type} trunk reads no text; remove augmentation.text, or "
            "choose a text trunk."
        )
    if options.features == OWN_TRUNK and getattr(model_config, "trunk_layer", None) == WEIGHTED:
        raise ValueError(
            "augmentation.features is trunk and trunk_layer weighted, which takes all layers; set trunk_layer to a number."
        )

    def features_of(rows: np.ndarray) -> np.ndarray:
        if options.features == PUBLISHED:
            return published_features(corpus, targets.items, features, max_seconds, rows)
        if options.features == OWN_TRUNK:
            inputs = encoded(rows)
            return np.stack([inputs[row].astype(np.float32).mean(0) for row in range(len(rows))])
        return read_features(options.features, np.asarray(targets.items, dtype=object)[rows])

    speakers = _speakers(corpus, targets.items, reads_text)
    return plan_mixtures(
        targets.items,
        targets.probs,
        features_of,
        support=targets.support,
        speakers=speakers,
        seed=seed,
        **{name: getattr(options, name) for name in ("share", "neighbours", "text", "partners")},
    )


def keep_mixtures(mixtures: Mixtures, folder: str | Path, *, resume: bool) -> None:
    """Save the table of the mixtures in a run's folder; a resumed run must have the same."""
    path = Path(folder) / MIXTURES
    if resume and path.is_file() and _digest(pd.read_parquet(path)) != _digest(mixtures.to_frame()):
        raise ValueError(
            f"{path} holds other mixtures than are planned now: features or clips changed since the run was started; restore "
            "them, or name another output_dir."
        )
    replace_file(path, lambda partial: mixtures.to_frame().to_parquet(partial, index=False))


def augmentation_facts(mixtures: Mixtures) -> dict[str, Any]:
    """What a checkpoint records of the mixtures it learnt from: settings, classes before and after, digest of the table."""
    digest = _digest(mixtures.to_frame())
    return {**mixtures.settings, "mixtures": len(mixtures), "sha256": digest, **mixtures.report.to_dict()}


def _digest(table: pd.DataFrame) -> str:
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()


def published_features(
    corpus: ExportedCorpus, items: Sequence[str], folder: str | Path, max_seconds: float, rows: np.ndarray
) -> np.ndarray:
    """Published features of some items `(R, D)`: 72 of the clip, kept in `folder`, 10 of the text, as the corpus has them."""
    asked, table = np.asarray(items, dtype=object)[rows], corpus.items.set_index("item")
    parts = []
    if "audio" in table and table["audio"].notna().any():
        # views of one corpus share what is computed; a whole corpus needs its rare classes only
        held, places = read_together(corpus, asked)
        clips = table["audio"].reindex(held)
        if clips.isna().any():
            raise ValueError(
                f"Item {clips.index[clips.isna()][0]!r} has no audio and others of {corpus.name} have; leave such items out "
                "of the export, or set augmentation.features to a file."
            )
        load_librosa()
        shards = plan_shards(folder, ["published features", CLIP_FEATURES, corpus.digest, *held], list(clips))
        work = functools.partial(_write_clips, max_seconds)
        fill_shards(shards, work, list(clips.items()), desc="neighbour features")
        store = FeatureStore(shards)
        parts.append(np.concatenate([store[row] for row in range(len(store))])[places])
    if "text" in table and table["text"].notna().any():
        texts = table["text"].reindex(asked)
        absent = texts.isna()
        if absent.any():
            logger.warning("%d of %d items to mix have no text: theirs counts as empty.", absent.sum(), len(texts))
        parts.append(
            np.stack([text_features(None if gone else text) for text, gone in zip(texts, absent, strict=True)])
        )
    return np.concatenate(parts, 1)


def _write_clips(max_seconds: float, target: Path, clips: Sequence[tuple[str, Any]]) -> None:
    # a dependency of scikit-learn
    from threadpoolctl import threadpool_limits

    # the processes fill the cores already
    with threadpool_limits(1):
        rows = [features_of_clip(clip, item=name, max_seconds=max_seconds)[None] for name, clip in clips]
    write_shard(target, rows)


def _speakers(corpus: ExportedCorpus, items: Sequence[str], reads_text: bool) -> np.ndarray:
    """Speaker of each item; checks that none is in another split."""
    table = corpus.items.set_index("item")
    mine = table["speaker"].reindex(items).to_numpy(dtype=object)
    try:
        check_apart(mine, table.loc[table["split"] != "train", "speaker"])
    except ValueError as error:
        if not reads_text:
            raise
        logger.warning("The trunk reads text, and no voice is mixed: %s", error)
    return mine
