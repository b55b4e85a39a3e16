"""Figures of two runs side by side, in the style of `annot_hf.evaluation.plots`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from annot_hf.evaluation.plots import FAINT, GRID, MODEL, VOTES, legend, short

OTHER = "#D55E00"
_SIDES = {"a": (MODEL, "o"), "b": (OTHER, "s"), "": (VOTES, "D")}


def plot_differences(records: Mapping[str, Mapping[str, Any]], names: tuple[str, str]) -> Figure:
    """Differences of all measures with intervals, turned so that right is better for the first run.

    Per cents are drawn as shares. Measures without a better direction are left out.

    Args:
        records: Records of a `Comparison`.
        names: What the runs are called.
    """
    shown = [one for one in records.values() if one["better"] and one["difference"]["value"] is not None]
    figure = Figure(figsize=(7.0, 1.5 + 0.3 * len(shown)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=FAINT, linewidth=1, zorder=0)
    labels = {"a": f" {short(names[0])} better", "b": f" {short(names[1])} better", "": "undecided"}
    for row, one in enumerate(shown):
        sign = (1 if one["better"] == "higher" else -1) / (100 if one["unit"] == "%" else 1)
        colour, marker = _SIDES[one["verdict"]]
        if one["difference"]["low"] is not None:
            axis.hlines(row, *(sign * one["difference"][end] for end in ("low", "high")), color=colour, linewidth=1.5)
        label = labels.pop(one["verdict"], None)
        axis.plot(sign * one["difference"]["value"], row, marker, color=colour, markersize=5.5, label=label)
    axis.set_yticks(range(len(shown)), [f"{short(one['title'], 44)} ({_unit(one['unit'])})" for one in shown])
    axis.set_ylim(len(shown) - 0.4, -0.6)
    reach = 1.08 * max(abs(end) for end in axis.dataLim.intervalx) or 1.0
    axis.set_xlim(-reach, reach)
    axis.set_xlabel(f"\u2190 {short(names[1])} better    difference    {short(names[0])} better \u2192")
    axis.grid(axis="x", color=GRID, linewidth=0.7)
    legend(figure, axis, 3)
    return figure


def plot_speaker_pairs(a: np.ndarray, b: np.ndarray, names: tuple[str, str]) -> Figure:
    """Mean JSD of both runs for each speaker, a speaker a point.

    Args:
        a: Mean JSD of the first run `(S,)`, nats.
        b: Of the second `(S,)`.
        names: What the runs are called.
    """
    figure = Figure(figsize=(4.4, 4.6), layout="constrained")
    axis = figure.subplots()
    both = np.concatenate([a, b])
    margin = 0.08 * (both.max() - both.min()) + 1e-3
    low, high = both.min() - margin, both.max() + margin
    axis.plot([low, high], [low, high], "--", color=VOTES, linewidth=0.9, label="equal", zorder=1)
    axis.plot(a, b, "o", color=MODEL, markersize=5, alpha=0.7, markeredgewidth=0, label="speaker")
    axis.set(xlabel=f"JSD of {short(names[0])} (nats)", ylabel=f"JSD of {short(names[1])} (nats)")
    axis.set(xlim=(low, high), ylim=(low, high))
    axis.set_title(f"{short(names[0])} better for {int((a < b).sum()):,} of {len(a):,} speakers")
    axis.set_aspect("equal")
    axis.grid(color=GRID, linewidth=0.7)
    legend(figure, axis, 2)
    return figure


def _unit(unit: str) -> str:
    return "share" if unit == "%" else unit
