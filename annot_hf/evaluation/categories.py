"""Details of a category question, of predictions `(n, K)` by system and the votes' distributions `q` `(n, K)`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.evaluation.alignment import Groups, Reference
from annot_hf.evaluation.resampling import Arrays, Measured, Measures, Resamples
from annot_hf.models import measures
from annot_hf.models.measures import (
    accuracy_of,
    calibration_gaps,
    class_counts,
    macro_f1_of,
    macro_f1_present_of,
    plurality_rank,
    ratio,
    recall_above,
    speaker_uar,
    uar_of,
)

EDGES = (0.0, 1 / 3, 2 / 3, 1.0)
NAMES = ("low", "mid", "high")
STRATUM_MEASURES = {
    "jsd": ("JSD", "nats", "lower"),
    "accuracy": ("Accuracy", "0 to 1", "higher"),
    "macro_f1": ("Macro-F1", "0 to 1", "higher"),
    "macro_f1_present": ("Macro-F1 over labels present", "0 to 1", "higher"),
}
# Entropies of equal votes differ by rounding, and may lie on an edge (two of eight labels give 1/3).
_ENTROPY_SLACK = 1e-9
DEPTHS = (1, 2, 3)
LEVELS = (75, 50)
FEWEST = (10, 20)


def measure_categories(
    systems: Arrays, reference: Reference, groups: Groups | None, residual: str, unit: str = "speaker"
) -> tuple[Measures, dict[str, Any]]:
    """Detailed measures of a category question, and the strata, groups of speakers and residual label behind them.

    Those of speakers are left out where the `unit` is another, such as a conversation.
    """
    q, support, resamples = reference.q, tuple(reference.targets.support), reference.resamples
    strata, named = entropy_strata(q, support), [str(label).strip().lower() for label in support]
    index = named.index(residual.lower()) if residual.lower() in named else None
    speakers: list[SpeakerGroup] = []
    measured = measure_strata(systems, q, strata, resamples) | measure_n_best(systems, q, resamples)
    if resamples.cluster_count > 1 and unit == "speaker":
        speakers = speaker_groups(reference.speakers, reference.items, groups)
        measured |= measure_speakers(systems, q, speakers, resamples)
    measured |= measure_calibration(systems, q, support, resamples)
    if index is not None and q[:, index].any():
        measured |= measure_residual(systems, q, support, index, resamples)
    return measured, {"strata": strata, "groups": speakers, "residual": None if index is None else support[index]}


def describe_predictions(p: np.ndarray, reference: Reference) -> dict[str, Any]:
    """Details of a single system on a category question."""
    q = reference.q
    return {
        "per_speaker": describe_speakers(p, q, reference.speakers),
        "floor": calibration_floor(p, reference.votes, reference.targets.support, seed=reference.resamples.seed),
        "confusion": {
            "predicted": expected_confusion(p, q),
            "votes": expected_confusion(q, q),
            "items": np.bincount(q.argmax(axis=1), minlength=q.shape[1]),
        },
    }


@dataclass(frozen=True, eq=False)
class Stratum:
    """Items whose votes have similar entropy, see `entropy_strata`: `rows` `(n,)`, and the `absent` labels that win none."""

    scheme: str
    name: str
    low: float | None
    high: float | None
    rows: np.ndarray = field(repr=False)
    absent: tuple[str, ...]

    @property
    def key(self) -> str:
        """Suffix of its measures, such as "thirds_low"."""
        return f"{self.scheme}_{self.name}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        named = {name: getattr(self, name) for name in ("scheme", "name", "low", "high")}
        return named | {"items": int(self.rows.sum()), "absent": list(self.absent)}


def entropy_strata(q: np.ndarray, support: Sequence[str]) -> list[Stratum]:
    """Items by the entropy of their votes `q` `(n, K)` over ln K: thirds of the range [0, 1], then tertiles of the items.

    Equal entropies stay in one tertile, so one may be empty; its `low` and `high` are the smallest and the largest entropy.
    """
    entropy = measures.entropy(q, normalised=True)
    cuts = np.quantile(entropy, EDGES[1:-1], method="inverted_cdf")
    codes = {
        "thirds": np.searchsorted(np.array(EDGES[1:-1]) - _ENTROPY_SLACK, entropy, side="right"),
        "tertiles": np.searchsorted(cuts + _ENTROPY_SLACK, entropy, side="left"),
    }
    plurality, strata = q.argmax(axis=1), []
    for scheme, code in codes.items():
        for index, name in enumerate(NAMES):
            rows = code == index
            won = np.bincount(plurality[rows], minlength=len(support))
            low, high = EDGES[index], EDGES[index + 1]
            if scheme == "tertiles":
                low = float(entropy[rows].min()) if rows.any() else None
                high = float(entropy[rows].max()) if rows.any() else None
            absent = tuple(label for label, items in zip(support, won, strict=True) if not items)
            strata.append(Stratum(scheme, name, low, high, rows, absent))
    return strata


def measure_strata(systems: Arrays, q: np.ndarray, strata: Sequence[Stratum], resamples: Resamples) -> Measures:
    """JSD, accuracy and macro-F1, over all labels or those present, in every stratum, such as "macro_f1_thirds_low"."""
    cell = true = q.argmax(axis=1)
    predicted = {system: p.argmax(axis=1) for system, p in systems.items()}
    for code in (*predicted.values(), *(stratum.rows for stratum in strata)):
        _, cell = np.unique(cell * q.shape[1] + code, return_inverse=True)
    # (n, strata); no system is called None.
    member = np.stack([stratum.rows for stratum in strata], axis=1).astype(np.float64)
    counts, losses = {}, {None: member}
    for system, p in systems.items():
        counts[system] = class_counts(predicted[system], true, q.shape[1])[:, None] * member[..., None, None]
        losses[system] = measures.jsd(p, q)[:, None] * member
    counts, losses = resamples.cells(counts, cell), resamples.sums(losses)
    draws: dict[str, dict[str, np.ndarray]] = {name: {} for name in STRATUM_MEASURES}
    for system, found in counts.items():
        draws["jsd"][system] = ratio(losses[system], losses[None])
        draws["accuracy"][system] = accuracy_of(found)
        empty = found[..., 2, :].sum(axis=-1) == 0
        draws["macro_f1"][system] = np.where(empty, np.nan, macro_f1_of(found))
        draws["macro_f1_present"][system] = macro_f1_present_of(found)
    out = {}
    for index, stratum in enumerate(strata):
        where = f", {stratum.name} entropy ({stratum.scheme})"
        for name, (title, unit, better) in STRATUM_MEASURES.items():
            own = {system: found[:, index] for system, found in draws[name].items()}
            out[f"{name}_{stratum.key}"] = Measured(title + where, unit, better, own)
    return out


@dataclass(frozen=True, eq=False)
class SpeakerGroup:
    """A group of speakers for paUAR: suffix of its measures ("", "min10", "sex=female"), and which of the sorted speakers."""

    key: str
    title: str
    rows: np.ndarray = field(repr=False)


def depths(classes: int) -> tuple[int, ...]:
    """The meaningful n of the n-best measures: those below the number of labels."""
    return tuple(n for n in DEPTHS if n < classes)


def measure_n_best(systems: Arrays, q: np.ndarray, resamples: Resamples) -> Measures:
    """n-best accuracy and n-best unweighted average recall, n = 1, 2, 3, named such as "uar_2_best" (arXiv 2503.22711)."""
    cell = true = q.argmax(axis=1)
    hits = {}
    for system, p in systems.items():
        rank = np.minimum(plurality_rank(p, true), max(DEPTHS))
        _, cell = np.unique(cell * (max(DEPTHS) + 1) + rank, return_inverse=True)
        for n in depths(q.shape[1]):
            # The plurality counts as predicted if it is among the n best.
            hits[system, n] = class_counts(np.where(rank < n, true, -1), true, q.shape[1])
    sums = resamples.cells(hits, cell)
    out = {}
    for n in depths(q.shape[1]):
        for name, title, of in (("accuracy", "Accuracy", accuracy_of), ("uar", "Average recall (UAR)", uar_of)):
            draws = {system: of(sums[system, n]) for system in systems}
            out[f"{name}_{n}_best"] = Measured(f"{title}, {n}-best", "0 to 1", "higher", draws)
    return out


def speaker_groups(speakers: np.ndarray, items: np.ndarray, columns: Groups | None = None) -> list[SpeakerGroup]:
    """All speakers, those with at least 10 and 20 items, and those with one value of a column ("varies" if items differ)."""
    _, code, count = np.unique(np.asarray(speakers).astype(str), return_inverse=True, return_counts=True)
    groups = [SpeakerGroup("", "all speakers", count >= 1)]
    groups += [SpeakerGroup(f"min{least}", f"speakers with at least {least} items", count >= least) for least in FEWEST]
    for column, values in (columns or {}).items():
        told = pd.Series([values.get(item) for item in items], dtype=object)
        told = told.where(told.notna(), "not stated").astype(str).groupby(code)
        value = told.first().where(told.nunique() == 1, "varies").to_numpy()
        groups += [SpeakerGroup(f"{column}={one}", f"{column}: {one}", value == one) for one in sorted(set(value))]
    return groups


def measure_speakers(systems: Arrays, q: np.ndarray, groups: Sequence[SpeakerGroup], resamples: Resamples) -> Measures:
    """paUAR: share (%) of speakers whose own UAR is above .75 or .50, such as "pauar75_2_best_min10" (arXiv 2503.22711)."""
    above = {}
    for system, p in systems.items():
        for n in depths(q.shape[1]):
            uar = speaker_uar(p, q, resamples.clusters, n)[1]
            above |= {(system, n, level): recall_above(uar, level) for level in LEVELS}
    out = {}
    for group in groups:
        columns = {key: flag[group.rows] for key, flag in above.items()}
        # A group may have no speaker.
        shares = resamples.of_units().means(columns) if group.rows.any() and columns else {}
        for level in LEVELS:
            for n in depths(q.shape[1]):
                draws = {system: 100 * shares.get((system, n, level), np.full(1, np.nan)) for system in systems}
                title = f"paUAR-{level}, {n}-best, {group.title}"
                name = f"pauar{level}_{n}_best" + (f"_{group.key}" if group.key else "")
                out[name] = Measured(title, "%", "higher", draws)
    return out


def describe_speakers(p: np.ndarray, q: np.ndarray, speakers: np.ndarray | None) -> pd.DataFrame:
    """One row per speaker (index): items, labels (that win at least one item) and n-best UAR."""
    if speakers is None:
        return pd.DataFrame(columns=["items", "labels"])
    won = pd.DataFrame({"speaker": speakers, "won": q.argmax(axis=1)}).groupby("speaker")["won"]
    table = pd.DataFrame({"items": won.size(), "labels": won.nunique()}).sort_index()
    for n in depths(q.shape[1]):
        names, uar = speaker_uar(p, q, speakers, n)
        table[f"uar_{n}_best"] = pd.Series(uar, index=names)
    return table


def measure_calibration(systems: Arrays, q: np.ndarray, support: Sequence[str], resamples: Resamples) -> Measures:
    """Calibration error of label probabilities p against vote shares q: of each label, their mean, and of the best label.

    Items fall into 10 equal bins of p_c: ECE_c = 1/N sum over bins |sum (q_c - p_c)| (class-wise ECE, Kull et al. 2019);
    "ece_top" uses only the most probable label of each item (Guo et al. 2017).
    """
    means = resamples.means({system: calibration_gaps(p, q) for system, p in systems.items()})
    # Resamples keep the sign of a bin's gap in the data; otherwise noise would add to the absolute values.
    found = {
        system: _named(np.maximum((gaps * np.sign(gaps[:1])).sum(axis=-1), 0.0), support)
        for system, gaps in means.items()
    }
    titles = {"ece": "mean over labels", "ece_top": "most probable label"}
    titles |= {f"ece_of_{label}": str(label) for label in support}
    out = {}
    for name, title in titles.items():
        draws = {system: errors[name] for system, errors in found.items()}
        out[name] = Measured(f"Calibration error, {title}", "0 to 1", "lower", draws)
    return out


def calibration_floor(
    p: np.ndarray, votes: np.ndarray, support: Sequence[str], seed: int = 0
) -> dict[str, float | None]:
    """ECE by chance of a perfectly calibrated model: mean over 20 sets of `votes` `(N,)` drawn from its predictions.

    None where the number of votes is not known, which is 0.
    """
    if not np.any(votes):
        return dict.fromkeys(_named(np.zeros(len(support) + 1), support))
    generator = np.random.default_rng(seed)
    votes = np.maximum(np.asarray(votes, dtype=np.int64), 1)
    drawn = (generator.multinomial(votes, p) / votes[:, None] for _ in range(20))
    errors = [abs(calibration_gaps(p, q).mean(axis=0)).sum(axis=-1) for q in drawn]
    return {name: float(error) for name, error in _named(np.mean(errors, axis=0), support).items()}


def _named(errors: np.ndarray, support: Sequence[str]) -> dict[str, np.ndarray]:
    """The measures, from errors of each label and of the most probable one `(..., K + 1)`."""
    labels = errors[..., :-1]
    each = {f"ece_of_{label}": labels[..., k] for k, label in enumerate(support)}
    return {"ece": labels.mean(axis=-1), "ece_top": errors[..., -1], **each}


def expected_confusion(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Mean of `p` over the items whose plurality (of `q`) is each label `(K, K)`; NaN rows for labels that never win."""
    won = np.eye(q.shape[1])[q.argmax(axis=1)]
    return ratio(won.T @ p, won.sum(axis=0)[:, None])


def measure_residual(
    systems: Arrays, q: np.ndarray, support: Sequence[str], index: int, resamples: Resamples
) -> Measures:
    """Mean prediction over the votes for the residual label, sum_i q_i,other p_i / sum_i q_i,other; "votes" has q for p."""
    weight = q[:, index, None]
    weighted = {system: p * weight for system, p in {**systems, "votes": q}.items()}
    # No system is called None.
    sums = resamples.sums({**weighted, None: weight})
    total = sums.pop(None)
    share = {system: 100 * ratio(drawn, total) for system, drawn in sums.items()}
    out = {}
    for k, label in enumerate(support):
        title, better = f"Probability of {label} for votes for {support[index]}", "higher" if k == index else ""
        out[f"residual_{label}"] = Measured(
            title, "%", better, {system: drawn[:, k] for system, drawn in share.items()}
        )
    return out
