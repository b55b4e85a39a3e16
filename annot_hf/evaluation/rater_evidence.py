"""Each rater against the rest: whose votes carry information, and how many schools of opinion there are."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.cluster.vq import kmeans2
from scipy.sparse.linalg import eigsh
from scipy.special import comb
from scipy.stats import false_discovery_control, t

from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.agreement import Cells, pairs_within, vote_cells
from annot_hf.evaluation.resampling import LEVEL, TAILS, sum_by
from annot_hf.models.measures import ccc_of, moments, pearson_of, ratio

# Fewer votes on items that others rated too are no evidence.
FEWEST_VOTES = 10
# A rater is flagged if the rate of false alarms among the flagged stays below this.
FALSE_ALARMS = 0.05
MOST_SCHOOLS = 5
# Below this mean Rand index of two halves, corrected for chance, schools are no more than noise.
STABLE = 0.3
LABELS, ITEMS = "labels", "items"
_SPLITS, _CONTINUA = 10, 40
# As many numbers of schools are tried, of two kinds and by two measures.
_CERTAIN = 1 - (1 - LEVEL) / (4 * (MOST_SCHOOLS - 1))


def rater_evidence(votes: VoteTable, question: str) -> pd.DataFrame:
    """A row per named rater: what the votes tell about those of the others on the same items; most doubtful first.

    Columns: `rater`; `votes` on items that others rated too; for categories `agreement`, the share of the others' votes that
    are equal, `information` (nats), how much likelier the others' votes become to who reads the rater's as those of any other
    rater, NaN where no two others share an item, and `favourite`, the share of the label that the rater gives most; for scales
    `ccc` with the mean of the others and `information`, Pearson's r with it. `low` and `high` are its 95 % interval over the
    rater's votes.
    `flagged`: that the votes are half as informative as the median rater's, or more, is ruled out (`p`, adjusted for their
    number, is below the false discovery rate of `FALSE_ALARMS`), and the interval includes 0 or lies below. Nobody with
    fewer than `FEWEST_VOTES` votes is flagged, and nothing is removed. Who swaps labels consistently is flagged too.
    """
    asked, rows = votes.question(question), votes.rows_of(question)
    if asked.multiple:
        raise ValueError(f"Question {question!r} is multi-select; the evidence on raters needs one answer per vote.")
    item, rater = votes.item_codes[rows], votes.annotator_codes[rows]
    table, cell = vote_cells(votes, question)
    used = table.pairable[cell] & (rater >= 0)
    raters, who = np.unique(rater[used], return_inverse=True)
    count = np.bincount(who)
    found = pd.DataFrame({"rater": votes.annotators[raters], "votes": count})
    if not len(found):
        return found

    def mean(column: np.ndarray) -> np.ndarray:
        return np.bincount(who, column) / count

    if asked.is_scale:
        value = votes.ratings[rows]
        n, total = np.bincount(item), np.bincount(item, value)
        rest = (total[item] - value)[used] / (n[item][used] - 1)
        sums = sum_by(who, moments(value[used], rest))
        found["ccc"], centre = ccc_of(sums), pearson_of(sums)
        # Fisher's z, which has a variance of 1 / (n - 3).
        score, error = np.arctanh(np.clip(centre, -1 + 1e-9, 1 - 1e-9)), np.sqrt(ratio(1.0, count - 3.0))
        back = np.tanh
    else:
        found["agreement"] = mean((table.times - 1)[cell][used] / (table.sizes[table.row] - 1)[cell][used])
        gained, moved = _information(table, cell[used], who, len(raters))
        score = mean(gained)
        error = np.sqrt(ratio(mean((gained + moved - score[who]) ** 2), count - 1.0))
        centre, back = score, np.asarray
        given = np.bincount(who * table.n_codes + table.code[cell[used]], minlength=len(raters) * table.n_codes)
        found["favourite"] = given.reshape(len(raters), -1).max(axis=1) / count
    enough = (count >= FEWEST_VOTES) & np.isfinite(error) & np.isfinite(centre)
    reach = t.ppf(TAILS[1], np.maximum(count - 1, 1)) * error
    found["information"] = centre
    for end, sign in (("low", -1), ("high", 1)):
        found[end] = np.where(enough, back(score + sign * reach), np.nan)
    found["p"], found["flagged"] = np.nan, False
    if enough.any():
        half = np.median(centre[enough]) / 2
        target = np.arctanh(half) if asked.is_scale else half
        # Votes that all tell the same have no error of their own.
        at = (score[enough] - target) / np.maximum(error[enough], 1e-9)
        found.loc[enough, "p"] = false_discovery_control(t.cdf(at, count[enough] - 1))
        found["flagged"] = enough & (found["p"] < FALSE_ALARMS) & (found["low"] <= 0)
    order = np.lexsort((found["information"], ~found["flagged"]))
    return found.iloc[order].reset_index(drop=True)


def _information(table: Cells, cell: np.ndarray, who: np.ndarray, raters: int) -> tuple[np.ndarray, np.ndarray]:
    """What each vote `(V,)`, of a `cell` and a rater `who`, tells of the item's others (nats), and its part in the error.

    The mean of ln q(y | x) / q(y) over the others' labels y, for the vote's label x. q(y | x) is how the raters but this one
    vote beside an x, with one pseudo-vote as all votes are, and q(y) its mean over the rater's own labels. So the mean over a
    rater's votes is a lower bound of their mutual information with the others' (that of a decoder who takes the rater for one
    of the others; Merhav et al. 1994), 0 for who always gives the same label, and negative for who swaps labels. The second is
    how the mean moves with q(y), whose weights are estimates too.
    """
    k = table.n_codes
    label, row = table.code[cell], table.row[cell]
    others = ratio(table.sizes >= 2, table.sizes - 1, empty=0.0)[row]
    beside = sparse.csr_array((others, (who * k + label, row)), shape=(raters * k, table.n_rows))
    weights = np.bincount(who * k + label, others, minlength=raters * k).reshape(raters, k)
    own = (beside @ table.sparse()).toarray().reshape(raters, k, k) - weights[:, :, None] * np.eye(k)
    # Pairs of which the rater is neither.
    q = np.maximum(table.pairs() - own - own.transpose(0, 2, 1), 0.0)
    alone = q.sum(axis=(1, 2)) < 0.5
    q += table.margin() / table.margin().sum()
    q /= q.sum(axis=2, keepdims=True)
    given = np.bincount(who * k + label, minlength=raters * k).reshape(raters, k)
    given = given / given.sum(axis=1, keepdims=True)
    expected = np.einsum("rx,rxy->ry", given, q)
    logs = np.log(ratio(q, expected[:, None], empty=1.0), where=q > 0, out=np.zeros_like(q))
    logs[alone] = np.nan
    # The shares of the others' labels beside the rater's votes.
    met = own.sum(axis=1) / np.bincount(who, minlength=raters)[:, None]
    moved = 1 - np.einsum("ry,rxy->rx", ratio(met, expected, empty=0.0), q)
    gained = np.empty(len(cell))
    shares = table.sparse()
    for code in range(k):
        at = label == code
        theirs = shares[row[at]].toarray() - np.eye(k)[code]
        gained[at] = (theirs * logs[who[at], code]).sum(axis=1) * others[at]
    return gained, moved[who, label]


def schools_of_opinion(votes: VoteTable, question: str, *, seed: int = 0) -> dict[str, Any] | None:
    """Do raters fall into groups who answer alike? Clusters of raters that the votes on other items have too.

    Raters differ in two ways. In how they use "labels": a rater's profile is the mean difference between the own answers and
    those of the others on the same items, by label, or on a scale that mean and its product with the rest's deviation from the
    middle (a bias and a stretch). In how they see the "items": a rater's profile is the place in the first eigenvectors of the
    matrix of all pairs' agreement beyond chance (the product of what own labels, or ratings, exceed the rater's average by) on
    the items that both answered, less that of all pairs on each item, over the root of the number of these items.

    k-means finds 2 to `MOST_SCHOOLS` clusters of profiles over a half of the items and over the other; the adjusted Rand index
    of both is the stability. Raters along a continuum have stable clusters too, its ends. So the stability, or the share of
    the variance of one half's profiles that the clusters of the other explain, must exceed that of nearly all simulated crowds
    without schools, normally distributed with the same covariances within and between halves. Of schools that see items
    differently, each must agree with itself more than with others on the half that did not find it, unlike those who guess.

    Returns:
        `schools`: the number with the best stability, 1 if none exceeds `STABLE` and crowds without schools; `kind`: "labels"
        or "items", None for one school; `stability` by kind and number: mean, least and greatest over ten splits and what such
        crowds have (`continuum`), the share `explained` and theirs (`continuum_explained`); `raters`; `sizes` of the schools;
        `members`: each rater's school. None with fewer than ten raters who have `2 * FEWEST_VOTES` votes on items that others
        answered.
    """
    asked, rows = votes.question(question), votes.rows_of(question)
    if asked.multiple:
        return None
    item, rater = votes.item_codes[rows], votes.annotator_codes[rows]
    table, cell = vote_cells(votes, question)
    used = table.pairable[cell] & (rater >= 0)
    raters, who = np.unique(rater[used], return_inverse=True)
    enough = np.bincount(who, minlength=len(raters)) >= 2 * FEWEST_VOTES
    if enough.sum() < 10:
        return None
    others = (table.sizes[item][used] - 1)[:, None]
    if asked.is_scale:
        own = asked.normalise(votes.ratings[rows])
        rest = ((np.bincount(item, own)[item] - own)[used])[:, None] / others
        own = own[used][:, None]
        differs = np.concatenate([own - rest, (own - rest) * (rest - rest.mean())], axis=1)
    else:
        own = np.eye(len(asked.labels))[votes.label_codes[rows][used]]
        differs = own - (table.sparse().toarray()[item[used]] - own) / others
    kept = enough[who]
    place, names = (np.cumsum(enough) - 1)[who[kept]], votes.annotators[raters[enough]]
    item, own, differs = item[used][kept], own[kept], differs[kept]
    pairs = _Pairs(item, place, own, len(names))
    rng = np.random.default_rng(seed)

    def by_labels(part: np.ndarray) -> np.ndarray:
        means = _means(place, differs * part[item][:, None], part[item], len(names))
        return means / np.maximum(means.std(axis=0), 1e-12)

    halves = [rng.random(len(votes.items)) < 0.5 for _ in range(_SPLITS)]
    stability: dict[str, dict[int, dict[str, float]]] = {}
    schools, kind, best = 1, None, STABLE
    for name, profiles in ((LABELS, by_labels), (ITEMS, pairs.profiles)):
        points = [(profiles(half), profiles(~half)) for half in halves]
        # Raters without schools whose halves vary, and agree, as these do.
        both = np.concatenate(points[0], axis=1)
        centre, spread = both.mean(axis=0), np.cov(both, rowvar=False)
        smooth = [np.split(rng.multivariate_normal(centre, spread, len(names)), 2, axis=1) for _ in range(_CONTINUA)]
        stability[name] = {}
        for k in range(2, MOST_SCHOOLS + 1):
            # k schools differ in k - 1 directions.
            width = k - 1 if name == ITEMS else None
            halved, crowds = (
                [[(one[:, :width], _clusters(one[:, :width], k, rng)) for one in pair] for pair in some]
                for some in (points, smooth)
            )
            stable, chance = ([adjusted_rand(one, other) for (_, one), (_, other) in some] for some in (halved, crowds))
            told = {"mean": float(np.mean(stable)), "least": min(stable), "greatest": max(stable)}
            told["continuum"] = float(np.quantile(chance, _CERTAIN))
            told["explained"] = float(np.mean([_explained(*pair) for pair in halved]))
            told["continuum_explained"] = float(np.quantile([_explained(*pair) for pair in crowds], _CERTAIN))
            stability[name][k] = told
            apart = told["mean"] > told["continuum"] or told["explained"] > told["continuum_explained"]
            if told["mean"] > best and apart and (name == LABELS or pairs.agree(halved[0][0][1], ~halves[0])):
                schools, kind, best = k, name, told["mean"]
    member = np.zeros(len(names), dtype=np.int64)
    if kind is not None:
        whole = (by_labels if kind == LABELS else pairs.profiles)(np.ones(len(votes.items), dtype=bool))
        member = _clusters(whole[:, : schools - 1 if kind == ITEMS else None], schools, rng)
    return {
        "schools": schools,
        "kind": kind,
        "stability": stability,
        "raters": len(names),
        "sizes": sorted(np.bincount(member).tolist(), reverse=True),
        "members": dict(zip(names, member.tolist(), strict=True)),
    }


class _Pairs:
    """Agreement beyond chance of two raters on an item `(P,)`, less that of all pairs of raters on it."""

    def __init__(self, item: np.ndarray, rater: np.ndarray, own: np.ndarray, raters: int) -> None:
        order = np.argsort(item, kind="stable")
        item, rater, own = item[order], rater[order], own[order]
        own = own - _means(rater, own, np.ones(len(rater)), raters)[rater]
        left, right = pairs_within(item)
        self.item, self.left, self.right, self.raters = item[left], rater[left], rater[right], raters
        agreed = np.einsum("pk,pk->p", own[left], own[right])
        counted = np.bincount(self.item)
        self.agreed = agreed - ratio(np.bincount(self.item, agreed), counted, empty=0.0)[self.item]

    def profiles(self, part: np.ndarray) -> np.ndarray:
        """Places of the raters `(R, MOST_SCHOOLS - 1)`, by the items of this part."""
        sums, shared = self._matrices(part)
        sums.data /= np.sqrt(shared.data)
        # From a fixed start, so that the same votes give the same places.
        start = np.random.default_rng(0).normal(size=self.raters)
        values, vectors = eigsh(sums, k=MOST_SCHOOLS - 1, which="LA", v0=start, tol=1e-6)
        order = np.argsort(-values)
        return vectors[:, order] * np.maximum(values[order], 0.0)

    def agree(self, member: np.ndarray, part: np.ndarray) -> bool:
        """Whether the raters of each school agree more with each other than with any other school, beyond doubt."""
        sums, shared = self._matrices(part)
        schools = np.eye(member.max() + 1)[member]
        mean = ratio(sums @ schools, shared @ schools)
        for school in range(schools.shape[1]):
            within = member == school
            for other in set(range(schools.shape[1])) - {school}:
                gap = mean[within, school] - mean[within, other]
                gap = gap[np.isfinite(gap)]
                error = gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else np.inf
                if gap.mean() <= t.ppf(_CERTAIN, max(len(gap) - 1, 1)) * error:
                    return False
        return True

    def _matrices(self, part: np.ndarray) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Symmetric sums of agreement, and numbers of items, of all pairs of raters."""
        at = part[self.item] & (self.left != self.right)
        rows, columns = np.concatenate([self.left[at], self.right[at]]), np.concatenate([self.right[at], self.left[at]])
        shape = (self.raters, self.raters)
        both = np.tile(self.agreed[at], 2)
        return tuple(sparse.csr_array((data, (rows, columns)), shape) for data in (both, np.ones(len(both))))


def _means(code: np.ndarray, columns: np.ndarray, weight: np.ndarray, size: int) -> np.ndarray:
    """Sums of the rows of `columns` `(V, d)` by `code` `(V,)`, over the sums of `weight` `(V,)`: `(size, d)`."""
    return sum_by(code, columns, size) / np.maximum(np.bincount(code, weight, minlength=size), 1)[:, None]


def _explained(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of the variance of points `(n, d)` between clusters `(n,)` of the other points, mean of both directions."""
    shares = []
    for points, member in ((one[0], other[1]), (other[0], one[1])):
        points = points - points.mean(axis=0)
        means = _means(member, points, np.ones(len(member)), member.max() + 1)
        shares.append((means[member] ** 2).sum() / max((points**2).sum(), 1e-12))
    return float(np.mean(shares))


def _clusters(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """The cluster of each point `(n,)`: the best of five k-means."""
    tried = [kmeans2(points, k, minit="++", rng=rng) for _ in range(5)]
    return min(tried, key=lambda one: ((points - one[0][one[1]]) ** 2).sum())[1]


def adjusted_rand(one: np.ndarray, other: np.ndarray) -> float:
    """Rand index of two clusterings `(n,)` corrected for chance, 1 if equal (Hubert & Arabie 1985); 1 for single clusters."""
    table = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(table, (one, other), 1)
    same, rows, columns = (comb(part, 2).sum() for part in (table, table.sum(axis=1), table.sum(axis=0)))
    chance, most = rows * columns / comb(len(one), 2), (rows + columns) / 2
    return float(ratio(np.array(same - chance), np.array(most - chance), empty=1.0))
