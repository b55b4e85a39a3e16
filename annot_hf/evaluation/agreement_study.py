"""All that the votes of a corpus tell about agreement: measures, ceilings, raters, groups, aggregation, and further votes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.predictions import Predictions
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.aggregation import METHODS, aggregate, measure_moves
from annot_hf.evaluation.agreement import AGREEMENTS, Agreement, agreement, agreement_difference
from annot_hf.evaluation.ceiling import CEILING, LEFT_OUT, SPLIT_HALF, mean_ceiling, noise_ceiling
from annot_hf.evaluation.further_votes import (
    BEST,
    check_ranking,
    check_rated,
    one_more_rating,
    one_more_vote,
    rank_items,
    rank_rated,
)
from annot_hf.evaluation.rater_evidence import rater_evidence, schools_of_opinion
from annot_hf.evaluation.resampling import Resamples, with_interval
from annot_hf.models.measures import entropy

# Fewer items with two votes tell nothing beyond their agreement.
FEWEST_PAIRABLE = 20
# Item columns with so many values or fewer group the items, unless columns are named.
MOST_GROUPS = 12


@dataclass(frozen=True, eq=False)
class QuestionStudy:
    """What is known on one question.

    Attributes:
        found: Its agreement.
        entropies: Of a category question, the entropy of every item with two votes over ln K `(n,)`.
        ceilings: Measure -> "ceiling", "ceiling, split-half", "ceiling, one left out" -> value and interval.
        more: See `one_more_vote` and, for scales, `one_more_rating`.
        ranked: See `rank_items` and `rank_rated`.
        checked: See `check_ranking` and `check_rated`.
        raters: See `rater_evidence`.
        schools: See `schools_of_opinion`.
        moves: See `measure_moves`; of the methods that ran.
        not_run: Why other methods did not.
        groups: Column -> value -> agreement of its items.
    """

    found: Agreement
    entropies: np.ndarray | None
    ceilings: dict[str, dict[str, dict[str, float | None]]]
    more: dict[str, dict[str, float | None]]
    ranked: pd.DataFrame
    checked: dict[str, Any] | None
    raters: pd.DataFrame
    schools: dict[str, Any] | None
    moves: dict[str, dict[str, Any]]
    not_run: dict[str, str]
    groups: dict[str, dict[str, Agreement]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; items and raters are in tables of their own."""
        names = ("ceilings", "more", "checked", "schools", "moves", "not_run")
        groups = {
            column: {value: one.to_dict() for value, one in values.items()} for column, values in self.groups.items()
        }
        return {name: getattr(self, name) for name in names} | {"groups": groups}


@dataclass(frozen=True, eq=False)
class AgreementStudy:
    """The agreement on every question, differences of questions with the same labels, and what is known on each in detail."""

    found: list[Agreement]
    differences: dict[tuple[str, str], dict[str, dict[str, float | None]]]
    questions: dict[str, QuestionStudy] = field(default_factory=dict)
    units: str = "items"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "resampled": self.units,
            "agreement": [one.to_dict() for one in self.found],
            "differences": {f"{one} - {other}": told for (one, other), told in self.differences.items()},
            "questions": {name: one.to_dict() for name, one in self.questions.items()},
        }


def about_items(
    votes: VoteTable, items: pd.DataFrame, n_resamples: int = 1000, seed: int = 0
) -> tuple[pd.DataFrame, Resamples]:
    """The rows of `items` in the order of `votes.items`, and resamples of them: of their speakers if all are known.

    Raises:
        ValueError: An item has votes and no row.
    """
    about = items.set_index(items["item"].astype(str)).reindex(votes.items.astype(str))
    if about["item"].isna().any():
        raise ValueError(
            f"Item {votes.items[about['item'].isna().argmax()]!r} has votes and no row in the items; add one."
        )
    speakers = about["speaker"] if "speaker" in about and about["speaker"].notna().all() else None
    clusters = None if speakers is None or speakers.nunique() < 2 else speakers.to_numpy(dtype=object)
    return about, Resamples(clusters, n_resamples, seed)


def study_agreement(
    votes: VoteTable,
    items: pd.DataFrame,
    *,
    details: bool = True,
    groups: Sequence[str] = (),
    predictions: Predictions | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> AgreementStudy:
    """Measure the agreement on every question; with `details`, all else on questions with `FEWEST_PAIRABLE` items or more.

    Args:
        votes: The votes.
        items: A row per item, with the columns `item` and, if known, `speaker`, which intervals then resample.
        details: Whether to go into raters, ceilings, aggregation, groups and further votes.
        groups: Columns of `items` by which to compare disagreement; all but the speaker of 2 to `MOST_GROUPS` values
            when empty.
        predictions: Out-of-sample predictions of a model, for CROWDLAB.
        n_resamples: Resamples behind the intervals.
        seed: Seed of all draws.

    Raises:
        ValueError: A column is not there, or an item has no row.
    """
    about, resamples = about_items(votes, items, n_resamples, seed)
    missing = [name for name in groups if name not in about]
    if missing:
        raise ValueError(f"Items have no column {missing[0]!r}; the columns are {', '.join(items.columns)}.")
    # Shares of an unknown number of votes have no agreement.
    asked = [question.name for question in votes.questions if not question.shares]
    if not asked:
        raise ValueError(
            "All questions are known as shares of an unknown number of votes, which have no agreement; give votes."
        )
    found = [agreement(votes, name, resamples=resamples) for name in asked]
    large = [one for one in found if one.pairable_items >= FEWEST_PAIRABLE]
    differences = {}
    for one, other in combinations(large, 2):
        asked = [votes.question(each.question) for each in (one, other)]
        if len({(each.labels, each.low, each.high, each.multiple) for each in asked}) == 1:
            told = {name: agreement_difference(one, other, name) for name in AGREEMENTS}
            differences[one.question, other.question] = {
                name: value for name, value in told.items() if value is not None
            }
    studied = {}
    for one in large if details else ():
        if not votes.question(one.question).multiple:
            columns = groups or _grouping(about)
            studied[one.question] = _study(votes, one, about, columns, predictions, resamples)
    return AgreementStudy(found, differences, studied, "items" if resamples.clusters is None else "speakers")


def _grouping(about: pd.DataFrame) -> list[str]:
    values = about.drop(columns=["item", "audio", "text", "file", "speaker"], errors="ignore").nunique()
    return [name for name, count in values.items() if 2 <= count <= MOST_GROUPS]


def _study(
    votes: VoteTable,
    found: Agreement,
    about: pd.DataFrame,
    columns: Sequence[str],
    predictions: Predictions | None,
    resamples: Resamples,
) -> QuestionStudy:
    name, asked = found.question, votes.question(found.question)
    own = replace(votes, weights=None).select(questions=[name])
    place = pd.Index(votes.items).get_indexer(own.items)
    drawn, seed = resamples.select(place), resamples.seed
    raters, schools = rater_evidence(own, name), schools_of_opinion(own, name, seed=seed)
    groups = {}
    for column in columns:
        value = about[column].iloc[place].to_numpy(dtype=object)
        groups[column] = {
            str(one): _of_group(own, name, np.flatnonzero(value == one), drawn)
            for one in pd.unique(pd.Series(value).dropna())
        }
    common = {"found": found, "raters": raters, "schools": schools, "groups": groups}
    if asked.is_scale:
        ceiling = with_interval(mean_ceiling(own, name, drawn)).to_dict()
        return QuestionStudy(
            entropies=None,
            ceilings={"ccc": {CEILING: ceiling}},
            more=one_more_rating(own, name),
            ranked=rank_rated(own, name),
            checked=check_rated(own, name, resamples, seed=seed),
            moves={},
            not_run={},
            **common,
        )
    counts = own.counts(name).astype(np.int64)
    best = noise_ceiling(
        counts, counts.sum(axis=0) / counts.sum(), [asked], drawn, seed=seed, splits=(SPLIT_HALF, LEFT_OUT)
    )
    ceilings = {} if best is None else {one: {of: best[0][one].at(of) for of in best[0][one].draws} for one in BEST}
    several = counts[counts.sum(axis=1) >= 2]
    shares = several / several.sum(axis=1, keepdims=True)
    labelled, not_run = {}, {}
    for method in METHODS:
        try:
            labelled[method] = aggregate(own, name, method, predictions=predictions)
        except ValueError as error:
            not_run[method] = str(error)
    return QuestionStudy(
        entropies=entropy(shares, normalised=True),
        ceilings=ceilings,
        more=one_more_vote(counts, asked, seed),
        ranked=rank_items(own, name),
        checked=check_ranking(counts, resamples, seed=seed),
        moves=measure_moves(own, name, labelled, drawn),
        not_run=not_run,
        **common,
    )


def _of_group(votes: VoteTable, name: str, rows: np.ndarray, resamples: Resamples) -> Agreement:
    """Agreement on the items in these rows; their order in the selected table is that of their first votes."""
    own = votes.select(items=votes.items[rows])
    return agreement(own, name, resamples=resamples.select(pd.Index(votes.items).get_indexer(own.items)))
