"""Nearest other rows of a feature table, found by scikit-learn (extra `augment`)."""

from types import ModuleType

import numpy as np

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
