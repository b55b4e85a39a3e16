"""Calibration: whether labels get the predicted share of votes, and which labels get the probability instead."""

from collections.abc import Mapping, Sequence

import numpy as np

from annot_hf.evaluation.resampling import Measured, Resamples
from annot_hf.models.measures import ratio

BINS = 10


def measure_calibration(
    systems: Mapping[str, np.ndarray],
    q: np.ndarray,
    support: Sequence[str],
    resamples: Resamples,
) -> dict[str, Measured]:
    """Expected calibration error of label probabilities p against vote shares q.

    For label c, items fall into 10 equal bins of p_c, [0, .1), ... [.9, 1]:
    ECE_c = sum over bins of (items in the bin / all items) * |mean q_c - mean p_c| = 1/N sum_b |sum_b (q_c - p_c)|.
    "ece" is the mean of ECE_c over labels (class-wise ECE, Kull et al. 2019, with vote shares as outcomes), "ece_of_<label>"
    is ECE_c, and "ece_top" uses only the most probable label of each item (Guo et al. 2017). Resamples keep the sign of a
    bin's gap in the data; otherwise resampling noise would add to the absolute values, and intervals could miss the value.

    Args:
        systems: Predictions of each system `(N, K)`.
        q: Distributions of the votes `(N, K)`.
        support: The K labels.
        resamples: Resamples of the items.
    """
    columns = {"count": np.ones(len(q))}
    for system, p in systems.items():
        columns |= {f"{system}/labels": _gaps(p, q), f"{system}/top": _gaps(*_top(p, q))}
    sums = resamples.sums(columns)
    found = {}
    for key in ((system, what) for system in systems for what in ("labels", "top")):
        gaps = sums["/".join(key)]
        signed = (gaps * np.sign(gaps[:1])).sum(axis=-1)
        found[key] = np.maximum(signed / sums["count"][:, None], 0.0)
    draws = {"ece": {system: found[system, "labels"].mean(axis=1) for system in systems}}
    draws["ece_top"] = {system: found[system, "top"][:, 0] for system in systems}
    titles = {"ece": "mean over labels", "ece_top": "most probable label"}
    for k, label in enumerate(support):
        draws[f"ece_of_{label}"] = {system: found[system, "labels"][:, k] for system in systems}
        titles[f"ece_of_{label}"] = str(label)
    return {
        name: Measured(f"Calibration error, {titles[name]}", "0 to 1", "lower", by_system)
        for name, by_system in draws.items()
    }


def calibration_floor(
    p: np.ndarray, votes: np.ndarray, support: Sequence[str], *, repeats: int = 20, seed: int = 0
) -> dict[str, float]:
    """ECE by chance of a perfectly calibrated model, from votes drawn from its own predictions.

    Args:
        p: Predicted distributions `(N, K)`.
        votes: Votes of each item `(N,)`.
        support: The K labels.
        repeats: Simulated sets of votes to average over.
        seed: Seed of the simulation.

    Returns:
        Means, named as in `measure_calibration`.
    """
    generator, found = np.random.default_rng(seed), []
    votes = np.maximum(np.asarray(votes, dtype=np.int64), 1)
    for _ in range(repeats):
        q = generator.multinomial(votes, p) / votes[:, None]
        labels, top = (abs(_gaps(*pair).sum(axis=0)).sum(axis=-1) / len(p) for pair in ((p, q), _top(p, q)))
        found.append([labels.mean(), top[0], *labels])
    names = ["ece", "ece_top", *(f"ece_of_{label}" for label in support)]
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def expected_confusion(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Mean of `p` over the items whose plurality (of `q`) is each label `(K, K)`; NaN rows for labels that never win.

    Args:
        p: Distributions to average `(N, K)`: predictions, or the votes themselves.
        q: Distributions of the votes `(N, K)`.
    """
    won = np.eye(q.shape[1])[q.argmax(axis=1)]
    return ratio(won.T @ p, won.sum(axis=0)[:, None])


def find_residual(support: Sequence[str], residual: str = "other") -> int | None:
    """Index of the residual label, such as "other"; None if there is none."""
    named = [str(label).strip().lower() for label in support]
    return named.index(residual.lower()) if residual.lower() in named else None


def measure_residual(
    systems: Mapping[str, np.ndarray],
    q: np.ndarray,
    support: Sequence[str],
    index: int,
    resamples: Resamples,
) -> dict[str, Measured]:
    """Mean prediction over the votes for the residual label: sum_i q_i,other p_i / sum_i q_i,other, for every label.

    The measures are named "residual_<label>". The system "votes" has the votes in place of p.

    Args:
        systems: Predictions of each system `(n, K)`.
        q: Distributions of the votes `(n, K)`.
        support: The K labels.
        index: Index of the residual label.
        resamples: Resamples of the items.
    """
    weight = q[:, index]
    columns = {"weight": weight} | {system: p * weight[:, None] for system, p in {**systems, "votes": q}.items()}
    sums = resamples.sums(columns)
    share = {system: ratio(sums[system], sums["weight"][:, None]) for system in columns if system != "weight"}
    return {
        f"residual_{label}": Measured(
            f"Probability of {label} for votes for {support[index]}",
            "%",
            "higher" if k == index else "",
            {system: 100 * drawn[:, k] for system, drawn in share.items()},
        )
        for k, label in enumerate(support)
    }


def _top(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability and vote share `(N, 1)` of the most probable label."""
    best = p.argmax(axis=1)[:, None]
    return np.take_along_axis(p, best, axis=1), np.take_along_axis(q, best, axis=1)


def _gaps(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Vote share minus probability of every item and label in the bin of p, 0 in the other bins `(N, K, bins)`."""
    # In floating point, 1 - .9 is slightly below .1.
    code = np.minimum((p * BINS + 1e-9).astype(np.int64), BINS - 1)
    out = np.zeros((*p.shape, BINS))
    np.put_along_axis(out, code[..., None], (q - p)[..., None], axis=-1)
    return out
