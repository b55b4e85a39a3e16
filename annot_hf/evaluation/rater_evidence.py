"""Each rater against the rest: whose votes carry information, with the evidence."""

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import false_discovery_control, t

from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.agreement import Cells, vote_cells
from annot_hf.evaluation.resampling import TAILS
from annot_hf.models.measures import ccc_of, moments, pearson_of, ratio

# Fewer votes on items that others rated too are no evidence.
FEWEST_VOTES = 10
# A rater is flagged if the rate of false alarms among the flagged stays below this.
FALSE_ALARMS = 0.05


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
        sums = np.stack([np.bincount(who, column) for column in moments(value[used], rest).T], axis=1)
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
