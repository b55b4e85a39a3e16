"""500 resamples of 2,500 speakers and of a confusion table."""

from collections.abc import Iterator

import numpy as np

from annot_hf.evaluation.resampling import Resamples
from annot_hf.models.measures import class_counts
from benchmarks.timing import Result, best

ITEMS, SPEAKERS, LABELS, RESAMPLES = 46_286, 2_500, 9, 500


def run() -> Iterator[Result]:
    generator = np.random.default_rng(0)
    speakers = generator.integers(SPEAKERS, size=ITEMS)
    columns = {"x": generator.normal(size=ITEMS), "n": np.ones(ITEMS)}
    _, code = np.unique(speakers.astype(str), return_inverse=True)

    def ours() -> np.ndarray:
        return Resamples(speakers, RESAMPLES).sums(columns)["x"][1:]

    def loop() -> np.ndarray:
        drawn = np.random.default_rng(0).integers(SPEAKERS, size=(RESAMPLES, SPEAKERS), dtype=np.int32)
        return np.array([np.bincount(row, minlength=SPEAKERS)[code] @ columns["x"] for row in drawn])

    seconds, baseline = best(ours, loop, rounds=3)
    yield Result("resampled speakers", "a weight an item", baseline, seconds, 1.0, abs(ours() - loop()).max(), 1e-9)

    true, predicted = generator.integers(LABELS, size=(2, ITEMS))
    counts = {"classes": class_counts(predicted, true, LABELS)}
    cells = true * LABELS + predicted
    seconds, baseline = best(
        lambda: Resamples(n=RESAMPLES).cells(counts, cells),
        lambda: Resamples(n=RESAMPLES).sums(counts),
        rounds=3,
    )
    whole = (of["classes"] for of in (Resamples(n=0).cells(counts, cells), Resamples(n=0).sums(counts)))
    difference = float(abs(np.subtract(*whole)).max())
    yield Result("resampled confusion table", "resampled items", baseline, seconds, 5.0, difference, 0)
