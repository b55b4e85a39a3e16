"""From votes to targets: a distribution per item, and each named rater's own answers."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from annot_hf.data.encoding import WEIGHT_RULE, by_name, check_choice, check_whole, usable_weight
from annot_hf.data.questions import Question, normal_form_hint
from annot_hf.data.votes import VoteTable, align_rows
from annot_hf.models.kde import bins_of, cell_masses, cell_names, draw_answers, draw_observations
from annot_hf.models.measures import entropy

Method = Literal["soft", "majority", "smoothed", "merged", "kde"]
Ties = Literal["share", "draw", "other", "guarded"]
MajorityOf = Literal["primary", "merged"]
Disagreement = Literal["entropy", "deviation", "variance"]

OTHER, NEUTRAL = "other", "neutral"
# "neutral" needs all three to win with ties="guarded".
GUARD_VOTES, GUARD_MASS, GUARD_MARGIN = 2, 0.35, 0.1
# Masses closer than this are equal, because .9 x 2/3 + .1 x 1/3 is not exact in floating point.
_MASS_SLACK = 1e-9


@dataclass(frozen=True)
class TargetOptions:
    """How training targets are made of votes, as a recipe says it.

    Args:
        method: Target method of `make_targets`; "soft" for a category and "kde" for scales when empty.
        smoothing: Pseudo-votes of method "smoothed".
        primary_weight: Share of the primary votes in method "merged", from 0 to 1: .9 is M90 of arXiv 2606.27536.
        ties: How method "majority" breaks ties: "share", "draw", "other" or "guarded" (see `winners`).
        majority_of: What method "majority" looks at: the "primary" votes, or what "merged" makes of them.
    """

    method: str = ""
    smoothing: float = 1.0
    primary_weight: float = 0.9
    ties: Ties = "share"
    majority_of: MajorityOf = "primary"


@dataclass(frozen=True, eq=False)
class Ratings:
    """The answers of named raters, one row per item and rater: `item` `(P,)`, ascending, and `annotator` `(P,)` index these.

    `value` is, for scales, on [-1, 1] `(P, D)`, NaN where one is not rated; for a category question, label codes `(P, 1)`.
    """

    item: np.ndarray
    annotator: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    def of_items(self, rows: np.ndarray, items: int) -> "Ratings":
        """The answers on the items `rows`, of `items` in all, which are renumbered and ordered by their place in `rows`."""
        position = np.full(items, -1)
        position[rows] = np.arange(len(rows))
        item = position[self.item]
        kept = np.flatnonzero(item >= 0)
        kept = kept[np.argsort(item[kept], kind="stable")]
        return Ratings(item[kept], self.annotator[kept], self.value[kept])


@dataclass(frozen=True, eq=False)
class Targets:
    """Target distributions of items, and the answers of named raters.

    Attributes:
        questions: One category question, or one or two scale questions.
        support: Names of the K labels or grid cells.
        items: Item names `(N,)`.
        probs: Target distributions `(N, K)`; each row sums to 1. Grid cells run over the second question fastest.
        votes_per_item: Votes behind each row `(N,)`; 0 where their number is not known.
        ratings: Named raters' own answers.
        annotators: Rater names `(A,)` that `ratings.annotator` indexes.
        method: How `probs` were made.
        excluded: Items or votes left out, by reason.
    """

    questions: tuple[Question, ...]
    support: tuple[str, ...]
    items: np.ndarray
    probs: np.ndarray
    votes_per_item: np.ndarray
    ratings: Ratings
    annotators: tuple[str, ...]
    method: str
    excluded: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, axes in {"probs": (self.items, self.support), "votes_per_item": (self.items,)}.items():
            object.__setattr__(self, name, by_name(getattr(self, name), axes, f"Targets' {name}"))

    def __len__(self) -> int:
        return len(self.items)

    def select(self, items: Iterable[str]) -> "Targets":
        """The targets of `items`, in that order; raises when one is missing."""
        wanted = _unique(items)
        rows = pd.Index(self.items, dtype=object).get_indexer(wanted)
        if (rows < 0).any():
            raise ValueError(
                f"{int((rows < 0).sum())} of {len(wanted)} items have no target, for instance {wanted[rows < 0][0]!r}"
                f"{normal_form_hint(wanted[rows < 0], self.items)}; give them votes or leave them out."
            )
        counts, ratings = self.votes_per_item[rows], self.ratings.of_items(rows, len(self.items))
        return replace(self, items=wanted, probs=self.probs[rows], votes_per_item=counts, ratings=ratings)


def item_seeds(items: Iterable[str], seed: int = 0) -> np.ndarray:
    """A reproducible seed per item name `(N,)`, so that an item's resampling does not depend on other items."""
    return np.array([zlib.crc32(str(item).encode()) + (seed << 32) for item in items], dtype=np.int64)


def targets_like(targets: Targets, votes: VoteTable) -> Targets:
    """Targets made of other votes in the same way."""
    names = [question.name for question in targets.questions]
    bins = bins_of(targets.support, names)
    return make_targets(votes, names, targets.method, items=votes.select(questions=names).items, bins=bins)


def make_targets(
    votes: VoteTable,
    questions: str | Sequence[str],
    method: Method = "soft",
    *,
    items: Iterable[str] | None = None,
    smoothing: float = 1.0,
    prior: Sequence[float] | Mapping[str, float] | None = None,
    primary_weight: float = 0.9,
    ties: Ties = "share",
    majority_of: MajorityOf = "primary",
    bins: int = 4,
    seed: int = 0,
) -> Targets:
    """Targets of the items with votes on the question; other items are counted in `excluded`.

    Args:
        votes: The votes.
        questions: Name of one category question, or of one or two scale questions.
        method: For a category question "soft" (vote fractions), "majority" (all mass on the most frequent label, see
            `ties`), "smoothed" (`smoothing` pseudo-votes spread over the labels by `prior`) or "merged" (primary votes with
            weight `primary_weight` and secondary votes with the rest; an item without secondary votes has its vote
            fractions; arXiv 2606.27536, see `merge_votes`). For scale questions "kde": cell masses of a `bins` (by `bins`)
            grid from resampled ratings (arXiv 2408.11956, see `annot_hf.models.kde`).
        items: Items to make targets for, in this order; by default all items with votes.
        smoothing: Pseudo-votes per item of "smoothed".
        prior: Distribution `(K,)` of the pseudo-votes, or label -> share; by default that of the votes on `items`. For
            held-out items, give that of the training votes.
        primary_weight: Weight of the primary votes in "merged", from 0 to 1: .9 is the paper's M90, .8 its M80.
        ties: Tie rule of "majority": tied labels share the mass ("share"), one of them is drawn ("draw"), the label "other"
            wins ("other"), or the label "neutral" wins only by a clear lead ("guarded"); see `winners`.
        majority_of: Which votes "majority" counts: "primary" or "merged".
        bins: Grid cells per scale question, 1 or more.
        seed: Seed of the resampling; the draws of different items are independent.

    Raises:
        ValueError: The method does not fit the question, a name is unknown, or no item has votes.
    """
    names = (questions,) if isinstance(questions, str) else tuple(questions)
    if not names:
        raise ValueError("No question is named; give one category question or one or two scale questions.")
    asked = tuple(votes.question(name) for name in names)
    scale = asked[0].is_scale
    mixed = len({question.is_scale for question in asked}) > 1 or len(set(names)) < len(names)
    if mixed or len(asked) > (2 if scale else 1):
        raise ValueError(f"Questions {', '.join(names)} cannot be combined; give one category or one or two scales.")
    # The other methods weigh votes against each other, and need their number.
    allowed = ("kde",) if scale else ("soft", "majority")
    allowed += () if scale or asked[0].shares else ("smoothed", "merged")
    if method not in allowed:
        raise ValueError(
            f"Method {method!r} does not fit question {names[0]!r}, a {asked[0].kind}; use {' or '.join(allowed)}."
        )
    check_whole("bins", bins)
    check_choice("ties", ties, get_args(Ties), "targets")
    check_choice("majority_of", majority_of, get_args(MajorityOf), "targets")
    if not isinstance(primary_weight, int | float | np.number) or not 0 <= primary_weight <= 1:
        raise ValueError(f"primary_weight is {primary_weight!r}; give a share from 0 to 1, such as .9.")
    wanted = votes.items if items is None else _unique(items)
    if scale and votes.weights is not None:
        raise ValueError(
            "Votes have weights, which the resampling of ratings does not support; drop the weight column."
        )
    answers, n_votes = _answers(votes, names)
    rows = pd.Index(votes.items, dtype=object).get_indexer(wanted)
    voted = (rows >= 0) & (n_votes[rows] > 0)
    if not voted.any():
        hint = normal_form_hint(wanted, votes.items)
        raise ValueError(
            f"None of {len(wanted)} items has a vote on {' and '.join(names)}{hint}; check the item names."
        )
    excluded = {} if voted.all() else {"items without votes": int((~voted).sum())}
    rows, wanted = rows[voted], wanted[voted]
    answers = answers.of_items(rows, len(votes.items))
    named = answers.annotator >= 0
    if scale:
        complete = ~np.isnan(answers.value).any(1)
        probs = grid_probs(answers.item[complete], answers.value[complete], wanted, bins, seed)
        support = cell_names(names, bins)
    else:
        support = asked[0].labels
        counts = votes.counts(names[0])[rows].astype(np.float64)
        if method == "smoothed":
            counts = counts + _pseudo_votes(counts, support, smoothing, prior)
        probs = counts / counts.sum(1, keepdims=True)
        if method == "merged" or (method == "majority" and majority_of == "merged"):
            secondary, left_out = secondary_votes(votes, names[0])
            probs = merge_votes(counts, secondary[rows], primary_weight)
            excluded |= {reason: int(lost[rows].sum()) for reason, lost in left_out.items() if lost[rows].any()}
        if method == "majority":
            probs = winners(probs, counts, support, ties, item_seeds(wanted, seed))
    return Targets(
        questions=asked,
        support=support,
        items=wanted,
        probs=probs,
        votes_per_item=n_votes[rows] * (not asked[0].shares),
        ratings=Ratings(answers.item[named], answers.annotator[named].astype(np.int64), answers.value[named]),
        annotators=tuple(votes.annotators),
        method=method,
        excluded=excluded,
    )


def secondary_votes(votes: VoteTable, question: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Secondary votes `(N, K)`, S_c = sum over raters r of 1[c in S_r] / |S_r|, and those left out per item `(N,)`, by reason.

    S_r are the labels of r within `question` (arXiv 2606.27536); with weights, a label gets that of its vote over |S_r|.
    """
    asked = votes.question(question)
    found = [one for one in votes.questions if one.secondary_to == question]
    if len(found) != 1 or found[0].is_scale:
        names = ", ".join(f"{one.name} ({one.kind})" for one in found) or "none"
        raise ValueError(
            f"Questions with secondary_to={question!r}: {names}; merging needs one category question, so declare it as "
            f"Question.category(name, labels, multiple=True, secondary_to={question!r}) or merge nothing."
        )
    second, rows = found[0], _counting_rows(votes, found[0].name)
    rows = rows[votes.label_codes[rows] >= 0]
    if second.multiple and (votes.annotator_codes[rows] < 0).any():
        raise ValueError(
            f"Question {second.name!r} has anonymous votes, so the labels of one rater are not known; name the "
            "raters (any name that is unique within the item is enough)."
        )
    classes, items = len(asked.labels), len(votes.items)
    position = {label: code for code, label in enumerate(asked.labels)}
    label = np.array([position.get(name, -1) for name in second.labels])[votes.label_codes[rows]]
    outside = rows[label < 0]
    rows, label = rows[label >= 0], label[label >= 0]
    if not len(rows):
        raise ValueError(
            f"Question {second.name!r} has no vote on a label of {question!r} ({', '.join(asked.labels)}), so there is "
            'nothing to merge; spell the labels alike, or use method "soft".'
        )
    again = pd.Series(_raters(votes, rows) * classes + label).duplicated().to_numpy()
    repeated, rows, label = rows[again], rows[~again], label[~again]
    cells = votes.item_codes[rows].astype(np.int64) * classes + label
    masses = np.bincount(cells, rater_weights(votes, rows), minlength=items * classes).reshape(items, classes)
    left_out = {
        "secondary votes on labels outside the question": outside,
        "secondary votes that repeat a label of the same rater": repeated,
    }
    return masses, {reason: np.bincount(votes.item_codes[part], minlength=items) for reason, part in left_out.items()}


def merge_votes(primary: np.ndarray, secondary: np.ndarray, primary_weight: float) -> np.ndarray:
    """M = alpha P + (1 - alpha) S `(N, K)` of vote fractions (arXiv 2606.27536); an item without secondary votes keeps P."""
    primary, spent = primary / primary.sum(1, keepdims=True), secondary.sum(1, keepdims=True)
    shares = np.where(spent > 0, secondary / np.where(spent > 0, spent, 1), primary)
    # Exactly `primary` where there is no secondary vote, or alpha is 1.
    return primary + (1 - primary_weight) * (shares - primary)


def winners(
    masses: np.ndarray, counts: np.ndarray, support: Sequence[str], ties: Ties, seeds: np.ndarray | None = None
) -> np.ndarray:
    """Put all mass on the label with the largest mass `(N, K)`; masses that differ by 1e-9 or less are tied.

    "share" shares the mass among tied labels; "draw" draws one by the item's seed `(N,)`; "other" gives it to "other".
    "guarded": "neutral" wins only with 2 primary votes (`counts` `(N, K)`), a mass of .35 and a lead of .10 over every other
    label, else the best other label, the alphabetically last one of ties (the last two are from arXiv 2606.27536).
    """
    tied = masses >= masses.max(1, keepdims=True) - _MASS_SLACK
    if ties == "share":
        return tied / tied.sum(1, keepdims=True)
    winner, undecided = masses.argmax(1), tied.sum(1) > 1
    if ties == "draw":
        for row in np.flatnonzero(undecided):
            winner[row] = np.random.default_rng(seeds[row]).choice(np.flatnonzero(tied[row]))
        return np.eye(len(support))[winner]
    label = {"other": OTHER, "guarded": NEUTRAL}[ties]
    if label not in support:
        raise ValueError(f"ties is {ties!r}, which needs a label {label!r}; the labels are {', '.join(support)}.")
    special = list(support).index(label)
    if ties == "other":
        winner[undecided] = special
    else:
        rest = masses.copy()
        rest[:, special] = 0
        best = rest.max(1)
        rank = np.argsort(np.argsort(support))
        winner = np.where(rest >= best[:, None] - _MASS_SLACK, rank, -1).argmax(1)
        # The published rule does not cover items where no other label has any mass.
        enough = masses[:, special] >= np.maximum(GUARD_MASS, best + GUARD_MARGIN) - _MASS_SLACK
        winner[(enough & (counts[:, special] >= GUARD_VOTES - _MASS_SLACK)) | (best <= _MASS_SLACK)] = special
    return np.eye(len(support))[winner]


def _counting_rows(votes: VoteTable, question: str) -> np.ndarray:
    """Numbers `(V,)` of the votes on a question whose weight is not 0."""
    rows = np.arange(len(votes))[votes.rows_of(question)]
    return rows if votes.weights is None else rows[votes.weights[rows] > 0]


def rater_weights(votes: VoteTable, rows: np.ndarray) -> np.ndarray:
    """Weights `(V,)` of the votes `rows`, divided by the rater's votes on the item among them: each rater counts once."""
    rater = pd.factorize(_raters(votes, rows))[0]
    return (1.0 if votes.weights is None else votes.weights[rows]) / np.bincount(rater)[rater]


def _raters(votes: VoteTable, rows: np.ndarray) -> np.ndarray:
    """A number for each item and rater `(V,)`; each anonymous vote has its own."""
    many, item = len(votes.annotators), votes.item_codes[rows].astype(np.int64)
    annotator = votes.annotator_codes[rows]
    return np.where(annotator >= 0, item * many + annotator, len(votes.items) * many + rows)


def _answers(votes: VoteTable, names: Sequence[str]) -> tuple[Ratings, np.ndarray]:
    """All answers (-1: anonymous, or "none of the labels") to a category or to scales; complete ones per item `(N,)`."""
    if votes.question(names[0]).is_scale:
        answers = scale_answers(votes, names)
        complete = ~np.isnan(answers.value).any(1)
    else:
        rows = _counting_rows(votes, names[0])
        answers = Ratings(votes.item_codes[rows], votes.annotator_codes[rows], votes.label_codes[rows][:, None])
        complete = answers.value[:, 0] >= 0
    return answers, np.bincount(answers.item[complete], minlength=len(votes.items))


def scale_answers(votes: VoteTable, questions: Sequence[str]) -> Ratings:
    """All answers to one or two scale questions on [-1, 1], joined per item and rater; repeated answers are averaged."""
    parts = []
    for name in questions:
        rows = votes.rows_of(name)
        item, rater = votes.item_codes[rows], votes.annotator_codes[rows]
        value = votes.question(name).normalise(votes.ratings[rows])
        if (rater < 0).any() and len(questions) == 1:
            return Ratings(item, rater, value[:, None])
        if (rater < 0).any():
            raise ValueError(
                f"Question {name!r} has anonymous votes, which cannot be paired across questions; name the raters "
                "(any name that is unique within the item is enough) or use one question."
            )
        key = item.astype(np.int64) * len(votes.annotators) + rater
        parts.append(pd.Series(value, index=key).groupby(level=0).mean())
    joined = pd.concat(parts, axis=1).sort_index()
    key = joined.index.to_numpy()
    return Ratings(key // len(votes.annotators), key % len(votes.annotators), joined.to_numpy())


def scale_means(votes: VoteTable, questions: str | Sequence[str], items: Sequence[str]) -> np.ndarray:
    """Point targets `(N, D)` on [-1, 1]: weighted mean of raters' mean ratings of `items`; NaN for items without ratings."""
    names = (questions,) if isinstance(questions, str) else tuple(questions)
    means = np.full((len(items), len(names)), np.nan)
    for column, name in enumerate(names):
        asked = votes.question(name)
        if not asked.is_scale:
            raise ValueError(f"Question {name!r} is a category and has no mean; name only scale questions.")
        rows = np.arange(len(votes))[votes.rows_of(name)]
        item, weight = votes.item_codes[rows], rater_weights(votes, rows)
        total = np.bincount(item, weight, minlength=len(votes.items))
        marked = np.bincount(item, weight * asked.normalise(votes.ratings[rows]), minlength=len(votes.items))
        marked, total = align_rows(np.stack([marked, total], axis=1), votes.items, items).T
        if not total.any():
            raise ValueError(f"None of {len(items)} items has a rating on {name}; check the item names.")
        np.divide(marked, total, out=means[:, column], where=total > 0)
    return means


def disagreement(
    votes: VoteTable, questions: str | Sequence[str], items: Sequence[str], kind: Disagreement
) -> np.ndarray:
    """How far the raters of each item disagree: `(N,)` in [0, 1], NaN for items with fewer than two votes.

    "entropy" is over ln K. "deviation" is the population one on [-1, 1], averaged over two scales, with labels as equal steps.
    "variance" is 1 - sum of squared vote fractions (for two labels, twice that of Davani et al. 2022).
    """
    check_choice("disagreement", kind, get_args(Disagreement), "targets")
    names = (questions,) if isinstance(questions, str) else tuple(questions)
    columns = []
    for name in names:
        asked = votes.question(name)
        if asked.is_scale and (kind != "deviation" or votes.weights is not None):
            raise ValueError(
                f"Question {name!r} is a scale, whose disagreement is the deviation of unweighted answers; set "
                "disagreement to deviation, and drop the weight column if there is one."
            )
        answers, voters = _answers(votes, [name])
        if asked.is_scale:
            mean = np.bincount(answers.item, answers.value[:, 0], len(votes.items)) / voters.clip(1)
            squares = (answers.value[:, 0] - mean[answers.item]) ** 2
            value = (np.bincount(answers.item, squares, len(votes.items)) / voters.clip(1)) ** 0.5
        else:
            counts = votes.counts(name).astype(np.float64)
            total = counts.sum(1, keepdims=True)
            fractions = counts / np.where(total > 0, total, 1)
            steps = np.linspace(-1, 1, len(asked.labels))
            spread = (fractions * (steps - fractions @ steps[:, None]) ** 2).sum(1) ** 0.5
            variance = 1 - (fractions**2).sum(1)
            value = {"entropy": entropy(fractions, normalised=True), "deviation": spread, "variance": variance}[kind]
        columns.append(np.where(voters >= 2, value, np.nan))
    # Index -1, of an item without votes, reads the last place.
    rows = pd.Index(votes.items, dtype=object).get_indexer(pd.Index(items, dtype=object))
    return np.append(np.mean(columns, axis=0), np.nan)[rows]


def pad_ratings(item: np.ndarray, value: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows `(P, D)` grouped by item into `(items, R, D)` with a mask `(items, R)`; absent raters are 0."""
    order = np.argsort(item, kind="stable")
    item, value = item[order], value[order]
    counts = np.bincount(item, minlength=items)
    place = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded = np.zeros((items, counts.max(initial=0), value.shape[1]), dtype=value.dtype)
    padded[item, place] = value
    return padded, np.arange(padded.shape[1]) < counts[:, None]


def _unique(items: Iterable[str]) -> np.ndarray:
    """Item names `(N,)`; raises if one is repeated."""
    wanted = pd.Index(list(items), dtype=object)
    if wanted.has_duplicates:
        raise ValueError(f"Item {wanted[wanted.duplicated()][0]!r} is asked for twice; name each item once.")
    return wanted.to_numpy()


def _pseudo_votes(counts: np.ndarray, support: Sequence[str], smoothing: float, prior: Any) -> np.ndarray:
    """`smoothing` pseudo-votes `(K,)`, distributed like the prior or, without one, like the votes."""
    if not (smoothing > 0 and usable_weight(smoothing)):
        raise ValueError(f"smoothing is {smoothing}; give a positive, finite number of pseudo-votes; {WEIGHT_RULE}.")
    weights = counts.sum(0) if prior is None else np.asarray(by_name(prior, [support], "prior"), dtype=np.float64)
    if weights.shape != (len(support),) or not ((weights >= 0) & np.isfinite(weights)).all() or not weights.any():
        raise ValueError(
            f"prior is {prior}; give one finite number from 0 up for each of the {len(support)} labels, not all 0."
        )
    # Their sum could overflow.
    weights = weights / weights.max()
    return smoothing * (weights / weights.sum())


def grid_probs(
    item: np.ndarray,
    value: np.ndarray,
    items: np.ndarray,
    bins: int,
    seed: int = 0,
    variance: np.ndarray | None = None,
) -> np.ndarray:
    """KDE cell masses `(N, bins ** D)` of values `(P, D)` in the order of items `(P,)`, known exactly or up to a variance."""
    seeds, blocks = item_seeds(items, seed), []
    for start in range(0, len(items), 2048):
        stop = min(start + 2048, len(items))
        first, last = np.searchsorted(item, (start, stop))
        padded, mask = pad_ratings(item[first:last] - start, value[first:last], stop - start)
        if variance is None:
            drawn, spread = draw_observations(padded, mask, seed=seeds[start:stop]), None
        else:
            wide, _ = pad_ratings(item[first:last] - start, variance[first:last], stop - start)
            drawn, spread = draw_answers(padded, wide, mask, seed=seeds[start:stop])
        blocks.append(cell_masses(drawn, bins=bins, variances=spread))
    return np.concatenate(blocks).reshape(len(items), -1)


def opinion_columns(
    votes: VoteTable, questions: Sequence[str], items: Sequence[str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and columns `(items, columns)`: vote shares of labels, mean ratings of scales on [-1, 1]; NaN without votes."""
    names: list[str] = []
    columns = []
    for name in questions:
        question = votes.question(name)
        if question.is_scale:
            names.append(name)
            columns.append(scale_means(votes, name, items))
        else:
            values = votes.counts(name, items).astype(np.float64)
            total = values.sum(1, keepdims=True)
            names += question.labels if len(questions) == 1 else [f"{name}: {label}" for label in question.labels]
            columns.append(np.divide(values, total, out=np.full(values.shape, np.nan), where=total > 0))
    return tuple(names), np.concatenate(columns, 1)
