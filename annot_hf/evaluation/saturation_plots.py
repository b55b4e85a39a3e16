"""The figure of a saturation analysis, in the report's style."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from annot_hf.evaluation.plots import GRID, MARGINAL, MODEL, VOTES
from annot_hf.evaluation.saturation_curves import Curve, HeldOut
from annot_hf.evaluation.saturation_fit import Finding


def plot_saturation(curve: Curve, ideal: Curve, finding: Finding, held_out: HeldOut | None) -> Figure:
    """Divergence from all human votes with its fit and the ideal curve; beside it that from people held out, if it is there.

    Args:
        curve: Of the synthetic votes.
        ideal: Of votes drawn from the human distribution itself.
        finding: What the curve says.
        held_out: Synthetic and human votes against people held out.
    """
    panels = 1 if held_out is None else 2
    figure = Figure(figsize=(4.6 * panels + 0.6, 3.9), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _line(axes[0], curve, MODEL, "o", "synthetic votes")
    _line(axes[0], ideal, VOTES, "s", "drawn from the human votes")
    count = len(curve.mean)
    if finding.fit is not None:
        n = np.linspace(1, count, 200)
        axes[0].plot(n, finding.fit.at(n), "--", color=MARGINAL, linewidth=1.4, label="exponential fit")
    if finding.suggested is not None:
        axes[0].axvline(
            finding.suggested, color=MARGINAL, linestyle=":", linewidth=1.2, label=f"suggested: {finding.suggested}"
        )
    axes[0].set_title("from the distribution of all human votes")
    if held_out is not None:
        _line(axes[1], held_out.synthetic, MODEL, "o", "synthetic votes")
        _line(axes[1], held_out.human, VOTES, "D", "other people")
        axes[1].set_title(f"from people held out, {held_out.fewest} or more an item")
    for axis in axes:
        axis.set(xlabel="votes an item", ylabel="mean JSD (nats)", ylim=(0, None))
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
        if len(found) == 1:  # a band of one point has no width
            axis.vlines(n, low, high, color=colour, linewidth=1.2)
    axis.plot(n, curve.mean, marker, color=colour, markersize=4, linestyle="-", linewidth=0.8, label=label)
