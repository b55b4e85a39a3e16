"""The pages of single studies: enough synthetic votes, salient layers, attention of members (arXiv 2211.13196, section 5)."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from annot_hf.data.files import check_own
from annot_hf.evaluation.saliency import Saliency
from annot_hf.evaluation.saturation import (
    AGREEMENT_MEASURES,
    ALL,
    NOTE,
    PERSON,
    SYNTHETIC,
    Curve,
    HeldOut,
    SaturationFinding,
    SyntheticAgreement,
)
from annot_hf.models.measures import tvd
from annot_hf.report.figures import BLUE, DARK, FAINT, GRID, ORANGE, canvas, legend, short
from annot_hf.report.pages import csv_safe, plain, render, save_figure, write_json, write_tables
from annot_hf.report.tables import ARROWS, Table, counted, number, say, value_cell, worded

_SALIENCY_FILE = "saliency.json"
_SATURATION_FILES = ("saturation.json", "saturation.md", "saturation.png", "saturation.html")
_WORD = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]+")
# The opacity of the darkest background, so that the word stays readable.
_DARKEST = 0.75


@dataclass(frozen=True, eq=False)
class Saturation:
    """The result of `measure_saturation`.

    Attributes:
        curve: Divergence of synthetic votes from all human votes of an item.
        ideal: Divergence of votes drawn from the human distribution itself.
        finding: The number of votes that the curve suggests.
        ideal_finding: The number of votes that the ideal curve suggests.
        held_out: Synthetic and human votes compared with held-out people; None with too few people.
        agreement: Agreement by ambiguity; None if no item has votes of two people.
        counts: Items behind the curve, and items left out by reason.
        about: Corpus, question, splits, annotations, resamples and seed.
    """

    curve: Curve
    ideal: Curve
    finding: SaturationFinding
    ideal_finding: SaturationFinding
    held_out: HeldOut | None
    agreement: SyntheticAgreement | None
    counts: dict[str, int]
    about: dict[str, Any]

    @property
    def summary(self) -> str:
        """The findings in a few sentences."""
        return say("saturation.summary", found=self)

    def tables(self) -> list[Table]:
        """The curves, one row per n, and the agreement by ambiguity."""
        held = [] if self.held_out is None else [self.held_out.synthetic, self.held_out.human]
        columns = ("Votes", "Synthetic (nats)", "(bits)", "Fit (nats)", "Ideal (nats)")
        columns += ("Held out: synthetic", "Held out: people") if held else ()
        rows = []
        for row, one in enumerate(self.curve.estimates()):
            fitted = None if self.finding.fit is None else float(self.finding.fit.at(row + 1))
            mark = " (suggested)" if self.finding.suggested == row + 1 else ""
            values = [one.value / math.log(2), fitted, float(self.ideal.mean[row])]
            values += [float(curve.mean[row]) if row < len(curve.mean) else None for curve in held]
            rows.append((f"{row + 1}{mark}", value_cell(one.to_dict()), *(number(value, 3) for value in values)))
        agreement = [synthetic_table(self.agreement)] if self.agreement else []
        return [worded("saturation", rows, columns=columns, items=self.counts["items"], note=self.summary), *agreement]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return plain(
            {
                **self.about,
                "counts": self.counts,
                "suggested": self.finding.suggested,
                "finding": asdict(self.finding),
                "curve": self.curve.to_dict(),
                "ideal": {**self.ideal.to_dict(), "finding": asdict(self.ideal_finding)},
                "held_out": self.held_out and self.held_out.to_dict(),
                "agreement": self.agreement and self.agreement.to_dict(),
            }
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write saturation.json, .md, .html and .png; returns the folder. Files that are not ours raise a ValueError."""
        folder = Path(folder)
        record, page, picture, _ = _SATURATION_FILES
        check_own(folder, _SATURATION_FILES, marker=record, keys=("counts", "curve", "ideal"))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / record, self.to_dict(), indent=1)
        save_figure(lambda: plot_saturation(self.curve, self.ideal, self.finding, self.held_out), folder / picture)
        values = {"about": self.about, "held": self.held_out, "votes": len(self.curve.mean)}
        notes = (say(f"saturation.{part}", **values) for part in ("votes", "ideal", "held_out", "units"))
        write_tables(
            folder / page,
            title=f"Synthetic votes on {self.about['corpus']}, {self.about['question']}",
            summary=self.summary,
            tables=self.tables(),
            notes=[note for note in notes if note],
            details=self.about | self.counts,
            figure=(picture, "Mean divergence after n votes per item; bands are 95 % intervals."),
        )
        return folder


def synthetic_table(found: SyntheticAgreement) -> Table:
    """One row per measure and kind of voter, one column per stratum."""
    rows = [("Items", "", *(one["items"] for one in found.strata.values()))]
    for name, by_stratum in found.records.items():
        title, unit, better = AGREEMENT_MEASURES[name]
        for who in (SYNTHETIC, PERSON, "difference"):
            if who in by_stratum[ALL] and not (who == "difference" and better == ""):
                cells = [value_cell(by_stratum[stratum][who], unit) for stratum in found.strata]
                rows.append((title + ARROWS[better] if who == SYNTHETIC else "", who, *cells))
    columns = [
        f"{name} items" if one["low"] is None else f"{name} ({one['low']:.2f} to {one['high']:.2f})"
        for name, one in found.strata.items()
    ]
    few = found.counts["items with fewer than 2 people"]
    return worded("synthetic", rows, columns=("Measure", "of", *columns), definitions=NOTE, few=few)


def plot_saturation(curve: Curve, ideal: Curve, finding: SaturationFinding, held_out: HeldOut | None) -> Figure:
    """Divergence from all human votes with its fit and the ideal curve, and, if given, divergence from held-out people."""
    panels = 1 if held_out is None else 2
    figure, (axes,) = canvas(4.6 * panels + 0.6, 3.9, 1, panels, squeeze=False)
    _line(axes[0], curve, BLUE, "o", "synthetic votes")
    _line(axes[0], ideal, DARK, "s", "drawn from the human votes")
    if finding.fit is not None:
        n = np.linspace(1, len(curve.mean), 200)
        axes[0].plot(n, finding.fit.at(n), "--", color=ORANGE, linewidth=1.4, label="exponential fit")
    if finding.suggested is not None:
        label = f"suggested: {finding.suggested}"
        axes[0].axvline(finding.suggested, color=ORANGE, linestyle=":", linewidth=1.2, label=label)
    axes[0].set_title("from the distribution of all human votes")
    if held_out is not None:
        _line(axes[1], held_out.synthetic, BLUE, "o", "synthetic votes")
        _line(axes[1], held_out.human, DARK, "D", "other people")
        axes[1].set_title(f"from people held out, {held_out.fewest} or more per item")
    for axis in axes:
        axis.set(xlabel="votes per item", ylabel="mean JSD (nats)", ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=11))
        axis.margins(x=0.03)
        axis.grid(color=GRID, linewidth=0.7)
        axis.spines["right"].set_visible(True)
        bits = axis.secondary_yaxis("right", functions=(lambda nats: nats / math.log(2), lambda b: b * math.log(2)))
        bits.set_ylabel("bits")
        axis.legend(loc="upper right")
    return figure


def _line(axis: Axes, curve: Curve, colour: str, marker: str, label: str) -> None:
    """A curve with its interval."""
    found = curve.estimates()
    n = np.arange(1, len(found) + 1)
    if all(one.low is not None for one in found):
        low, high = ([getattr(one, end) for one in found] for end in ("low", "high"))
        axis.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)
        # A band of one point has no width.
        if len(found) == 1:
            axis.vlines(n, low, high, color=colour, linewidth=1.2)
    axis.plot(n, curve.mean, marker, color=colour, markersize=4, linestyle="-", linewidth=0.8, label=label)


def saliency_table(found: Saliency) -> Table:
    """One row per layer, one column per target, and their mean."""
    rows = []
    for layer, (scores, mean) in enumerate(zip(found.scores, found.means, strict=True)):
        cells = (number(value if np.isfinite(value) else None, 4) for value in (*scores, mean))
        rows.append((f"{layer}{' (chosen)' if layer == found.layer else ''}", *cells))
    return worded("saliency", rows, columns=("layer", *found.targets, "mean"), found=found)


def save_saliency(found: Saliency, folder: str | os.PathLike[str]) -> Path:
    """Write saliency.json, from which a recipe reads `trunk_layer`, and saliency.csv; returns the path of the former.

    Files with these names, or a saliency.png, that are not from an earlier call raise a ValueError.
    """
    path = Path(folder) / _SALIENCY_FILE
    names = (_SALIENCY_FILE, "saliency.csv", "saliency.png")
    check_own(folder, names, marker=_SALIENCY_FILE, keys=("trunk_layer", "scores"))
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {name: value for name, value in asdict(found).items() if name != "about"}
    record = {"trunk_layer": found.layer, **found.about, **record, "means": found.means}
    write_json(path, record, indent=1)
    table = pd.DataFrame(np.column_stack([found.scores, found.means]), columns=[*map(csv_safe, found.targets), "mean"])
    table.to_csv(path.with_suffix(".csv"), index_label="layer", na_rep="nan")
    return path


def plot_saliency(saliency: Saliency) -> Figure:
    """Mean over targets per layer above, each target per layer below; the chosen layer is marked in both."""
    layers, targets = saliency.scores.shape
    ratios = [2.0, 0.3 * targets + 0.2]
    width, height = max(4.6, 1.9 + 0.33 * layers), 2.5 + 0.3 * targets
    figure, (upper, lower) = canvas(width, height, 2, 1, sharex=True, height_ratios=ratios)
    means, chosen = saliency.means, saliency.layer
    upper.plot(means, "o-", color=BLUE, markersize=4, linewidth=1.2)
    upper.plot(chosen, means[chosen], "D", color=ORANGE, markersize=8, label=f"chosen: layer {chosen}")
    what = "|r|" if saliency.formula == "absolute" else "penalised r²"
    upper.set(ylabel=f"mean {what}", title=f"{counted(saliency.items, 'item')}")
    upper.grid(color=GRID, linewidth=0.7)
    upper.margins(y=0.15)
    image = lower.imshow(np.ma.masked_invalid(saliency.scores.T), aspect="auto", cmap="Blues", interpolation="nearest")
    frame = {"fill": False, "edgecolor": ORANGE, "linewidth": 2, "clip_on": False}
    lower.add_patch(Rectangle((chosen - 0.5, -0.5), 1, targets, **frame))
    lower.set_yticks(range(targets), [short(name) for name in saliency.targets])
    lower.tick_params(length=0)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=14))
    same = "; grey: constant" if np.isnan(saliency.scores).any() else ""
    lower.set(xlabel=f"layer (0 enters the first transformer layer){same}", facecolor=FAINT)
    figure.colorbar(image, ax=[upper, lower], label=what, shrink=0.8)
    legend(figure, upper, 1)
    return figure


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
    """Weights `(n, T)` of tokens at `offsets` `(T, 2)`, summed over words and punctuation marks.

    Returns start and end of the W words, their weights `(n, W)`, and the weight `(n,)` on tokens that are not words. Together
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
            found.append(np.mean([float(tvd(a, b)) for a, b in combinations(weights / total, 2)]))
    return float(np.mean(found)) if found else float("nan")


def write_explanations(
    explanations: Sequence[Explanation], support: Sequence[str], path: str | os.PathLike[str], *, title: str
) -> Path:
    """Write a self-contained HTML page of these explanations over the K labels of the support; returns its path."""
    spread = attention_spread(explanations)
    page = {
        "title": title,
        "sizes": sorted({len(one.attention) for one in explanations}),
        "spread": 100 * spread if np.isfinite(spread) else None,
        "items": [_item(one, support) for one in explanations],
    }
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
    shown, unread = [span for span in spans if span[1] <= read], sum(start >= read for start, _ in spans)
    members = [
        {
            "name": support[label],
            "probability": one.probs[index, label],
            "elsewhere": 100 * rest[index],
            "pieces": _pieces(one.text[:read], shown, weights[index], strongest),
        }
        for index, label in enumerate(said)
    ]
    votes = np.bincount(said, minlength=len(support)) / len(said)
    raters = [None] * len(support) if one.raters is None else one.raters
    labels = [{"name": name, "members": votes[k], "raters": raters[k]} for k, name in enumerate(support)]
    left = repr(one.text[read:].strip())
    return {"name": one.item, "members": members, "labels": labels, "unread": unread, "left": left}


def _pieces(
    text: str, spans: Sequence[tuple[int, int]], weights: np.ndarray, strongest: float
) -> list[dict[str, str | None]]:
    """The text split at its words; each word has a shade, the text between has none."""
    pieces: list[dict[str, str | None]] = []
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    for place, (start, end) in enumerate(pairwise(edges)):
        # Every other piece is a word.
        share = shade = None
        if place % 2:
            weight = weights[place // 2]
            share, shade = f"{100 * weight:.1f} %", f"{_DARKEST * weight / strongest:.3f}"
        if start < end:
            pieces.append({"text": text[start:end], "share": share, "shade": shade})
    return pieces
