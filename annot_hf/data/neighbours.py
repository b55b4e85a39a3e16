"""Nearest other rows of a feature table, found by scikit-learn (extra `augment`), and pairs drawn among them."""

from types import ModuleType
from typing import Literal

import numpy as np
import pandas as pd

Partners = Literal["any", "same"]
EXTRA = "pip install 'annot-hf[augment]'"


def standardise(features: np.ndarray) -> np.ndarray:
    """Columns of features `(N, D)` at mean 0 and population standard deviation 1, float64; a constant column is 0.

    Raises:
        ValueError: A column spreads so far that its deviation is no finite number.
    """
    features = features.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = features.mean(0), features.std(0)
    if not np.isfinite(deviation).all():
        column = int(np.argmin(np.isfinite(deviation)))
        raise ValueError(f"Feature {column} has values too far apart for a deviation; scale it down, or leave it out.")
    constant = deviation <= 1e-12 * np.abs(mean)  # what rounding leaves of equal values must not be blown up to 1
    return np.where(constant, 0.0, (features - mean) / np.where(constant, 1.0, deviation))


def nearest_rows(features: np.ndarray, queries: np.ndarray, neighbours: int) -> np.ndarray:
    """The rows that lie nearest to each queried row (Euclidean), the row itself left out by its number.

    By its number and not as the first one found: of rows with equal features any may come first.

    Args:
        features: `(N, D)`, finite, N at least 2.
        queries: Numbers of the rows asked about `(Q,)`.
        neighbours: How many are wanted; N - 1 where there are no more.

    Returns:
        Row numbers `(Q, min(neighbours, N - 1))`, nearest first. Memory beside them is bounded: distances are computed
        and forgotten block by block.

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
    itself[~itself.any(1), -1] = True  # so many equal rows that it is not among those found: the last one makes room
    return found[~itself].reshape(len(queries), size - 1)


def draw_pairs(
    features: np.ndarray, pools: list[np.ndarray], count: int, neighbours: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw pairs of an item and one of its nearest neighbours, with replacement.

    Args:
        features: Standardised features `(N, D)`.
        pools: Rows that may be paired with each other, two or more in each; a row is in one of them at most.
        count: How many pairs.
        neighbours: How many nearest rows of its pool an item's partner is drawn from.
        rng: Draws the first, which of its neighbours, and the share, in this order.

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
        speakers: Speaker of each item `(N,)`, None where not known.
        partners: "any" puts all in one pool; "same" makes one for each known speaker.
    """
    if partners == "any":
        pools = [np.arange(len(speakers))]
    else:
        codes, _ = pd.factorize(speakers)  # -1 where not known
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
            f"Neighbours are found by the package scikit-learn, and {error.name} is not installed; {EXTRA}."
        ) from error
    return sklearn.neighbors
