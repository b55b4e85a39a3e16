"""Several systems, each trained with several seeds, in one table: one reference, one set of resamples, seeds averaged.

A resample draws speakers and reads every run of every system on them; a system's value is the mean over its seeds, so an
interval is that of the mean, and the deviation between seeds is told beside it. Differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import align, marginal_of, speakers_of
from annot_hf.evaluation.breakdown import Groups, Speakers, make_reference, measure_categories, worth_in_raters
from annot_hf.evaluation.pages import markdown_safe
from annot_hf.evaluation.predictions import Predictions
from annot_hf.evaluation.scales import KINDS, measure_scales
from annot_hf.evaluation.scoring import describe, measure, measure_entropy_ranks
from annot_hf.evaluation.statistics import estimate
from annot_hf.evaluation.tables import number

MAIN = (
    ("gap_closed", "Gap closed (%)", 1),
    ("jsd", "JSD (nats)", 3),
    ("kl", "KLD (nats)", 3),
    ("tvd", "TVD", 3),
    ("accuracy", "Accuracy", 3),
    ("macro_f1", "Macro-F1", 3),
    ("uar", "UAR", 3),
)
ENTROPIES = (
    ("entropy_correlation", "Entropies, r", 2),
    ("entropy_rank_correlation", "Entropies, rank r", 2),
)
BEHIND = (
    *ENTROPIES,
    ("jsd_thirds_low", "JSD, low entropy", 3),
    ("jsd_thirds_mid", "JSD, middle", 3),
    ("jsd_thirds_high", "JSD, high", 3),
    ("accuracy_2_best", "Accuracy, 2-best", 3),
    ("uar_2_best", "UAR, 2-best", 3),
    ("pauar75_1_best", "paUAR-75 (%)", 1),
    ("pauar50_1_best", "paUAR-50 (%)", 1),
)
TERTILES = tuple(
    (f"{measure}_tertiles_{name}", f"{title}, {name} tertile", 3)
    for measure, title in (("jsd", "JSD"), ("accuracy", "Accuracy"))
    for name in ("low", "mid", "high")
)
PAIRED = "Differences are on the same resamples (paired)."
_SEPARATOR = "\x1f"  # between the names of a system and of a run


@dataclass(frozen=True, eq=False)
class SystemScores:
    """What `measure_systems` found.

    Attributes:
        records: Measure -> system -> `value`, `low`, `high` (of the mean over seeds), `runs` (the value of each),
            `deviation` (between runs, None for one) and `difference` to the first system, with its interval.
        worth: System -> how many other raters it is worth by the mean loss of its runs, as `Equivalence.systems` tells
            it; None without whole votes.
        titles: Measure -> title, unit and which way is better.
        counts: Items and speakers evaluated, and runs of each system.
        notes: Definitions and caveats.
    """

    records: dict[str, dict[str, dict[str, Any]]]
    worth: dict[str, dict[str, Any]] | None
    titles: dict[str, dict[str, str]]
    counts: dict[str, Any]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in ("records", "worth", "titles", "counts", "notes")}


def measure_systems(
    runs: Mapping[str, Sequence[Predictions]],
    targets: Targets,
    *,
    speakers: Speakers = None,
    groups: Groups | None = None,
    votes: VoteTable | None = None,
    marginal: Sequence[float] | Mapping[str, float] | np.ndarray | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> SystemScores:
    """Every measure of every system, averaged over its runs, on the same votes and resamples.

    Args:
        runs: System -> predictions of its runs, which differ in their seed; all about exactly the target items. The
            first system is the one that others are compared with.
        targets: What the votes say: the one reference of all.
        speakers: Speaker of each item, by name; resampling is then by speaker.
        groups: Metadata columns for paUAR: column such as "sex" -> item -> value.
        votes: The votes behind the targets, for rater equivalence.
        marginal: Distribution of the training votes `(K,)`, which the gap starts from.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: There is no run, or the items differ.
    """
    if "marginal" in runs:
        raise ValueError("A system is called 'marginal', which is the name of the baseline; give it another.")
    empty = [name for name, several in runs.items() if not several]
    if not runs or empty:
        raise ValueError(
            f"System {empty[0]!r} has no run; give one at least." if empty else "There is no system to score."
        )
    pairings = {
        run_key(name, index): align(run, targets) for name, several in runs.items() for index, run in enumerate(several)
    }
    pairing = next(iter(pairings.values()))
    clusters = speakers_of(speakers, next(iter(runs.values()))[0], pairing)
    base, baseline = marginal_of(marginal, pairing.q, targets.support)
    predicted = {key: one.p for key, one in pairings.items()}
    systems = predicted | {"marginal": np.tile(base, (len(pairing.q), 1))}
    options = {"n_resamples": n_resamples, "seed": seed}
    measured, _ = measure(systems, pairing.q, targets.questions, clusters, **options)
    measured["entropy_rank_correlation"] = measure_entropy_ranks(systems, pairing.q, clusters, **options)
    if votes is not None:
        alone = {run_key(name, index): run for name, several in runs.items() for index, run in enumerate(several)}
        measured |= measure_scales(alone, votes, pairing.items, speakers=clusters, **options)
    worth = None
    if not targets.questions[0].is_scale:
        reference = make_reference(pairing, targets, clusters, groups, votes, base)
        measured |= measure_categories(systems, reference, **options)
        stacked = {name: np.stack([p for key, p in predicted.items() if _system(key) == name]) for name in runs}
        found = worth_in_raters(stacked, reference, **options)
        worth = None if found is None else {name: one["worth"] for name, one in found.systems.items()}
    records = {name: records_of(one.draws, list(runs)) for name, one in measured.items() if name != "vote_entropy"}
    return SystemScores(
        records=records,
        worth=worth,
        titles={
            name: {"title": measured[name].title, "unit": measured[name].unit, "better": measured[name].better}
            for name in records
        },
        counts={
            "items": len(pairing.q),
            "speakers": 0 if clusters is None else len(set(clusters)),
            "runs": {name: len(several) for name, several in runs.items()},
        },
        notes=[
            *describe(clusters, len(pairing.q), n_resamples, targets.method, differences=PAIRED),
            f"The gap starts from {baseline}.",
        ],
    )


def systems_markdown(found: SystemScores) -> str:
    """The tables of a results page: scores, what is behind them, and differences to the first system."""
    names = [name for name in next(iter(found.records.values())) if name != "marginal"]
    seeds = ", ".join(f"{markdown_safe(name)}: {count}" for name, count in found.counts["runs"].items())
    parts = [
        f"{found.counts['items']:,} items, {found.counts['speakers']:,} speakers. Runs with different seeds: {seeds}. Each "
        "value is the mean over a system's runs; in brackets its 95 % interval, if there is one; ± the standard "
        "deviation between runs.",
        scores_markdown(found, MAIN, [*names, "marginal"]),
    ]
    behind = [column for column in BEHIND if column[0] in found.records]
    if behind:
        parts.append(scores_markdown(found, behind, [*names, "marginal"], worth=found.worth))
    tertiles = [column for column in TERTILES if column[0] in found.records]
    if tertiles:
        parts.append(
            "By ambiguity: tertiles of the items by the entropy of their votes, ties kept together.\n\n"
            + scores_markdown(found, tertiles, [*names, "marginal"])
        )
    scales = [name.removeprefix("ccc_") for name in found.records if name.startswith("ccc_")]
    if scales:
        columns = [(f"{kind}_{name}", found.titles[f"{kind}_{name}"]["title"], 3) for name in scales for kind in KINDS]
        parts.append("Scales answered beside, against mean ratings:\n\n" + scores_markdown(found, columns, names))
    if len(names) > 1:
        parts.append(f"Difference to {markdown_safe(names[0])}, paired:\n\n{differences_markdown(found, MAIN, names)}")
    return "\n\n".join([*parts, list_markdown(found.notes)]) + "\n"


def list_markdown(sentences: Sequence[str]) -> str:
    """A list, whatever names the sentences hold."""
    return "\n".join(f"- {markdown_safe(one)}" for one in sentences)


def scores_markdown(
    found: SystemScores,
    columns: Sequence[tuple[str, str, int]],
    names: Sequence[str],
    worth: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """A row a system: values with intervals and deviations of `columns` (measure, heading, decimals), and its worth."""
    arrows = {"lower": " ↓", "higher": " ↑", "": ""}
    heads = [markdown_safe(title) + arrows[found.titles[name]["better"]] for name, title, _ in columns]
    heads += ["Worth in raters ↑"] * bool(worth)
    rows = ["| System | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for system in names:
        cells = [_cell(found.records[name].get(system), digits) for name, _, digits in columns]
        if worth:
            cells.append(worth[system]["text"].replace("95 % interval ", "") if system in worth else "–")
        rows.append(f"| {markdown_safe(system)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def differences_markdown(found: SystemScores, columns: Sequence[tuple[str, str, int]], names: Sequence[str]) -> str:
    """A row for each of `names` but the first: its differences to the first, with their intervals."""
    rows = ["| System | " + " | ".join(title for _, title, _ in columns) + " |", "|---|" + "---|" * len(columns)]
    for name in names[1:]:
        cells = [_cell(found.records[measure][name]["difference"], digits) for measure, _, digits in columns]
        rows.append(f"| {markdown_safe(name)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cell(record: Mapping[str, Any] | None, digits: int) -> str:
    """Value, interval and deviation between runs."""
    if record is None or record["value"] is None:
        return "–"
    text = number(record["value"], digits)
    if record["low"] is not None:
        text += f" ({number(record['low'], digits)} to {number(record['high'], digits)})"
    return text if record.get("deviation") is None else f"{text} ± {number(record['deviation'], digits)}"


def records_of(draws: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Records of one measure: mean over the runs of each system, interval, runs, difference to the first system.

    Args:
        draws: Values `(1 + B,)` by `run_key`, and of "marginal" if that is one and the same for all runs.
        names: The systems; one without draws, which does not have the measure, is left out.
    """
    by_system = {name: several for name in names if len(several := _of(draws, name))}
    means = {name: several.mean(axis=0) for name, several in by_system.items()}
    out = {}
    for name, several in by_system.items():
        out[name] = estimate(means[name]).to_dict() | _between(several[:, 0])
        if names[0] in means:
            out[name]["difference"] = estimate(means[name] - means[names[0]]).to_dict()
    if "marginal" in draws:
        out["marginal"] = estimate(draws["marginal"]).to_dict()
    return out


def run_key(system: str, run: int) -> str:
    """What the run of a system is called among draws."""
    return f"{system}{_SEPARATOR}{run}"


def _system(key: str) -> str:
    """Name of the system that a run belongs to."""
    return key.rpartition(_SEPARATOR)[0]


def _of(draws: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Draws `(runs, 1 + B)` of a system's runs."""
    return np.array([values for key, values in draws.items() if _system(key) == name])


def _between(values: np.ndarray) -> dict[str, Any]:
    """The value of each run, and their standard deviation."""
    finite = np.isfinite(values)
    spread = float(values.std(ddof=1)) if len(values) > 1 and finite.all() else None
    return {
        "runs": [float(value) if known else None for value, known in zip(values, finite, strict=True)],
        "deviation": spread,
    }
