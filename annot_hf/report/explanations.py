"""A page that shows which words each member of an ensemble attends to (arXiv 2211.13196, section 5)."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from annot_hf.models.measures import tvd
from annot_hf.report.pages import render
from annot_hf.report.tables import number

_WORD = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]+")
# The opacity of the darkest background, so that the word stays readable.
_DARKEST = 0.75


@dataclass(frozen=True, eq=False)
class Explanation:
    """Predictions of the n members of an ensemble for one text, and their attention.

    Attributes:
        item: Name of the item.
        text: Its text.
        offsets: Start and end of each token in the text `(T, 2)`; equal for tokens without text, such as [CLS].
        attention: Weight of each token for each member `(n, T)`; rows sum to 1.
        probs: Each member's distribution over the support `(n, K)`.
        raters: Distribution of the raters' votes `(K,)`; None without votes.
    """

    item: str
    text: str
    offsets: np.ndarray
    attention: np.ndarray
    probs: np.ndarray
    raters: np.ndarray | None = None


def word_weights(
    text: str, offsets: np.ndarray, attention: np.ndarray
) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
    """Token weights, summed over words and punctuation marks.

    Args:
        text: The text.
        offsets: Start and end of each token `(T, 2)`.
        attention: Weights `(n, T)`.

    Returns:
        Start and end of the W words, their weights `(n, W)`, and the weight `(n,)` on tokens that are not words. Together
        they sum to the weights of the tokens.
    """
    spans = [match.span() for match in _WORD.finditer(text)]
    edges = np.array(spans).reshape(-1, 2)
    # A token of a byte-pair encoding may begin with the space before its word.
    last = offsets[:, 1] - 1
    word = np.searchsorted(edges[:, 0], last, side="right") - 1
    real = (offsets[:, 1] > offsets[:, 0]) & (word >= 0)
    real[real] = edges[word[real], 1] > last[real]
    weights = np.zeros((len(attention), len(spans)))
    np.add.at(weights.T, word[real], attention[:, real].T)
    return spans, weights, attention[:, ~real].sum(1)


def attention_spread(explanations: Sequence[Explanation]) -> float:
    """How differently members attend: mean total variation distance of their word weights over items and pairs.

    0 means equal attention, 1 no word in common; NaN with fewer than two members.
    """
    found = []
    for one in explanations:
        _, weights, _ = word_weights(one.text, one.offsets, one.attention)
        total = weights.sum(1, keepdims=True)
        if len(weights) > 1 and (total > 0).all():
            shares = weights / total
            found.append(np.mean([float(tvd(shares[a], shares[b])) for a, b in combinations(range(len(shares)), 2)]))
    return float(np.mean(found)) if found else float("nan")


def write_explanations(
    explanations: Sequence[Explanation], support: Sequence[str], path: str | os.PathLike[str], *, title: str
) -> Path:
    """Write the page.

    Args:
        explanations: One per item.
        support: Names of the K labels.
        path: HTML file to write; it is self-contained.
        title: Its heading.
    """
    members = {len(one.attention) for one in explanations}
    spread = attention_spread(explanations)
    summary = f"{len(explanations):,} texts, {' or '.join(map(str, sorted(members)))} members."
    if np.isfinite(spread):
        summary += (
            f" Between two members, {number(100 * spread, 1)} % of the attention lies on different words (mean total "
            "variation distance of their word weights)."
        )
    notes = [
        "A word's shade is its share of the member's attention, relative to the largest share of the text's words.",
        "Attention: the weight of each input token in the vector that the member's head reads, through the last layer's "
        "attention averaged over its heads. Tokens are summed to words; the weight on other tokens, such as [CLS] and [SEP], "
        "is stated and not shown.",
        "Attention does not explain an answer; read it as a hint.",
    ]
    page = {"title": title, "summary": summary, "notes": notes, "items": [_item(one, support) for one in explanations]}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render("explanations.html.j2", page), encoding="utf-8")
    return path


def _item(one: Explanation, support: Sequence[str]) -> dict[str, Any]:
    """An item for the template."""
    spans, weights, rest = word_weights(one.text, one.offsets, one.attention)
    said = one.probs.argmax(1)
    strongest = weights.max(initial=0) or 1.0
    read = int(one.offsets[:, 1].max(initial=0))
    unread = sum(start >= read for start, _ in spans)
    members = [
        {
            "name": support[said[index]],
            "note": f"member {index}, p {number(one.probs[index, said[index]], 2)}, not on words "
            f"{number(100 * rest[index], 0)} %",
            "pieces": _pieces(one.text[:read], [span for span in spans if span[1] <= read], row, strongest),
        }
        for index, row in enumerate(weights)
    ]
    votes = np.bincount(said, minlength=len(support)) / len(said)
    labels = [
        {
            "name": name,
            "members": number(100 * votes[k], 1),
            "raters": None if one.raters is None else number(100 * one.raters[k], 1),
            "text": number(votes[k], 2) + ("" if one.raters is None else f" · raters {number(one.raters[k], 2)}"),
        }
        for k, name in enumerate(support)
    ]
    return {
        "name": one.item,
        "members": members,
        "labels": labels,
        "rated": one.raters is not None,
        "unread": f"{unread:,} further words exceed the model's limit; it did not read {one.text[read:].strip()!r}."
        if unread
        else "",
    }


def _pieces(
    text: str, spans: Sequence[tuple[int, int]], weights: np.ndarray, strongest: float
) -> list[dict[str, str | None]]:
    """The text split at its words; each word has a shade, the text between has none."""
    pieces: list[dict[str, str | None]] = []
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    for number_of_piece, (start, end) in enumerate(pairwise(edges)):
        if start == end:
            continue
        # Text between two words.
        if number_of_piece % 2 == 0:
            pieces.append({"text": text[start:end], "share": None, "shade": None})
        else:
            weight = weights[number_of_piece // 2]
            shade = f"{_DARKEST * weight / strongest:.3f}"
            pieces.append({"text": text[start:end], "share": f"{100 * weight:.1f} %", "shade": shade})
    return pieces
