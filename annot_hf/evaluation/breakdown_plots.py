"""Figures of a breakdown, in the style of `annot_hf.evaluation.plots`; shapes and dashes differ as well as colours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from annot_hf.evaluation.equivalence import Equivalence
from annot_hf.evaluation.plots import FAINT, GRID, MARGINAL, MAX_BARS, MODEL, VOTES, legend, short
from annot_hf.evaluation.ranking import LEVELS
from annot_hf.evaluation.strata import Stratum

DEPTH_STYLES = ((MODEL, "-"), ("#D55E00", "--"), ("#009E73", "-."))
SYSTEM_STYLES = ((MODEL, "-"), ("#D55E00", "--"))


def plot_strata(strata: Sequence[Stratum], measures: Mapping[str, Mapping[str, Any]]) -> Figure:
    """JSD, accuracy and macro-F1 of model and marginal in every stratum, with 95 % intervals.

    Args:
        strata: The strata, thirds first.
        measures: Records named such as "jsd_thirds_low".
    """
    figure = Figure(figsize=(7.6, 3.3), layout="constrained")
    axes = figure.subplots(1, 3)
    shown = [stratum for stratum in strata if stratum.rows.any()]
    place = {stratum.key: index + (stratum.scheme == "tertiles") * 0.7 for index, stratum in enumerate(strata)}
    for axis, (name, title) in zip(
        axes, (("jsd", "JSD (nats)"), ("accuracy", "accuracy"), ("macro_f1", "macro-F1")), strict=True
    ):
        for system, colour, marker, shift in (("model", MODEL, "o", -0.13), ("marginal", MARGINAL, "D", 0.13)):
            told = [measures[f"{name}_{stratum.key}"] for stratum in shown]
            told = [entry if system == "model" else entry["marginal"] for entry in told]
            x = [place[stratum.key] + shift for stratum in shown]
            _dots(axis, x, told, colour, marker, system)
        axis.set_xticks(list(place.values()), [stratum.name for stratum in strata])
        axis.set_xlabel("thirds of range   tertiles of items")
        axis.set_title(title)
        axis.set_ylim(bottom=0)
        axis.set_xlim(-0.5, max(place.values()) + 0.5)
        axis.grid(axis="y", color=GRID, linewidth=0.7)
    legend(figure, axes[0], 2)
    return figure


def plot_speaker_recall(per_speaker: pd.DataFrame) -> Figure:
    """Share of speakers whose n-best UAR exceeds any level: paUAR-75 and paUAR-50 are read off at .75 and .50.

    Args:
        per_speaker: One row a speaker, columns "uar_1_best" ...
    """
    figure = Figure(figsize=(5.6, 3.9), layout="constrained")
    axis = figure.subplots()
    for n, (colour, dashes) in enumerate(DEPTH_STYLES, start=1):
        if f"uar_{n}_best" not in per_speaker:
            continue
        recall = np.sort(per_speaker[f"uar_{n}_best"].to_numpy())
        above = 100 * (1 - np.arange(len(recall) + 1) / len(recall))
        x = np.concatenate([[0], recall, [1]])
        axis.step(x, np.append(above, above[-1]), where="post", color=colour, linestyle=dashes, label=f"{n}-best")
    for level in LEVELS:
        axis.axvline(level / 100, color=VOTES, linestyle=":", linewidth=0.9)
        axis.text(level / 100, 104, f".{level}", ha="center", va="bottom", color=VOTES, fontsize=8)
    axis.set(xlabel="a speaker's average recall (UAR)", ylabel="speakers above it (%)", xlim=(0, 1.01), ylim=(0, 103))
    axis.grid(color=GRID, linewidth=0.7)
    legend(figure, axis, 3)
    return figure


def plot_confusion(support: Sequence[str], confusion: Mapping[str, np.ndarray]) -> Figure:
    """Mean votes and mean prediction over the items that each label wins, rows of the most frequent labels.

    Args:
        support: The K labels.
        confusion: "votes" and "predicted" `(K, K)` and "items" `(K,)`, as in `Breakdown`.
    """
    items = np.asarray(confusion["items"])
    rows = sorted(np.argsort(-items, kind="stable")[:MAX_BARS].tolist())
    rows = [k for k in rows if items[k]]
    columns = range(len(support)) if len(support) <= MAX_BARS else rows
    cell = 0.42 if len(columns) <= 12 else 0.3
    across, down = cell * len(columns), cell * len(rows)
    figure = Figure(figsize=(max(2 * across + 3.2, 6.2), max(down + 1.7, 2.6)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    shown = {name: np.asarray(confusion[name])[np.ix_(rows, list(columns))] for name in ("votes", "predicted")}
    top = max(float(table.max()) for table in shown.values())
    for axis, (name, title) in zip(axes, (("votes", "votes"), ("predicted", "prediction")), strict=True):
        image = axis.imshow(shown[name], cmap="Blues", vmin=0, vmax=top, aspect="equal")
        axis.set_xticks(range(len(columns)), [short(support[k], 16) for k in columns], rotation=90)
        axis.tick_params(length=0)
        axis.spines[:].set(visible=True, color=FAINT)
        axis.set(title=title, xlabel="mean probability of")
        for (row, column), value in np.ndenumerate(shown[name] if len(columns) <= 12 else np.zeros((0, 0))):
            colour = "white" if value > 0.6 * top else "black"
            text = f"{value:.2f}".removeprefix("0") if value >= 0.005 else ""
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    axes[0].set_yticks(range(len(rows)), [f"{short(support[k], 16)} ({items[k]:,})" for k in rows])
    axes[0].set_ylabel("plurality of the votes (items)")
    figure.colorbar(image, ax=list(axes), shrink=0.8, label="probability")
    return figure


def plot_equivalence(told: Equivalence, names: Mapping[str, str]) -> Figure:
    """The loss of k raters against k, and each system's loss as a line that crosses it.

    Args:
        told: What `rater_equivalence` found.
        names: System -> how the legend calls it.
    """
    figure = Figure(figsize=(5.6, 4.1), layout="constrained")
    axis = figure.subplots()
    k, largest = told.raters, int(told.raters[-1])
    curve = np.array([entry["value"] for entry in told.curve])
    if told.curve[0]["low"] is not None:
        low, high = (np.array([entry[end] for entry in told.curve]) for end in ("low", "high"))
        axis.fill_between(k, low, high, color=VOTES, alpha=0.12, linewidth=0)
    marker = "o" if largest <= 20 else ""
    axis.plot(k, curve, color=VOTES, marker=marker, markersize=4, linewidth=1.3, label="k raters")
    axis.plot(0, curve[0], "D", color=MARGINAL, markersize=6, label="marginal (no rater)", zorder=4)
    for (system, name), (colour, dashes) in zip(names.items(), SYSTEM_STYLES, strict=False):
        loss, worth = told.systems[system]["loss"], told.systems[system]["worth"]
        axis.axhline(
            loss["value"], color=colour, linestyle=dashes, linewidth=1.4, label=f" {short(name)}: {_short(worth)}"
        )
        if loss["low"] is not None:
            axis.axhspan(loss["low"], loss["high"], color=colour, alpha=0.13, linewidth=0)
        if worth["value"]:
            axis.plot(worth["value"], loss["value"], "s", color=colour, markersize=6, zorder=5)
            axis.vlines(worth["value"], 0, loss["value"], color=colour, linestyle=":", linewidth=0.9)
    losses = [*told.curve, *(told.systems[system]["loss"] for system in names)]
    found = np.array([entry[end] for entry in losses for end in ("value", "low", "high") if entry[end] is not None])
    margin = 0.05 * (found.max() - found.min()) + 1e-3
    axis.set_ylim(found.min() - margin, found.max() + margin)
    axis.set_xlim(-0.03 * largest - 0.1, 1.03 * largest + 0.1)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="other raters of the item, k", ylabel="cross-entropy of a held-out vote (nats)")
    axis.grid(color=GRID, linewidth=0.7)
    legend(figure, axis, 2)
    return figure


def _dots(
    axis: Axes, x: Sequence[float], told: Sequence[Mapping[str, Any]], colour: str, marker: str, label: str
) -> None:
    """Values with their intervals, where there are any."""
    y = np.array([np.nan if entry["value"] is None else entry["value"] for entry in told])
    for at, entry in zip(x, told, strict=True):
        if entry["low"] is not None:
            axis.vlines(at, entry["low"], entry["high"], color=colour, linewidth=1.3)
    axis.plot(x, y, marker, color=colour, markersize=5, label=label)


def _short(worth: Mapping[str, Any]) -> str:
    return f"worth {worth['text'].split(' (')[0]} raters"
