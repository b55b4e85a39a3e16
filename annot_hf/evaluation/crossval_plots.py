"""The figure of a cross-validation, in the style of `annot_hf.evaluation.plots`."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from annot_hf.evaluation.plots import GRID, MARGINAL, MODEL, VOTES, legend, short
from annot_hf.evaluation.systems import SystemScores

PANELS = (
    ("accuracy", "accuracy"),
    ("macro_f1", "macro-F1"),
    ("entropy_correlation", "correlation of entropies"),
    ("jsd", "JSD (nats)"),
    ("tvd", "TVD"),
    ("kl", "KLD (nats)"),
)
_ARROWS = {"lower": "   \u2190 better", "higher": "   better \u2192", "": ""}


def plot_crossval(found: SystemScores) -> Figure:
    """Six measures, a row a system: mean over repeats with its 95 % interval, each repeat, and the marginal as a line."""
    names = list(found.counts["runs"])
    figure = Figure(figsize=(8.4, 2.4 + 0.5 * len(names)), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True)
    for axis, (measure, title) in zip(axes.flat, PANELS, strict=True):
        _panel(axis, found.records[measure], names)
        axis.set_xlabel(title + _ARROWS[found.titles[measure]["better"]])
    axes[0, 0].set_yticks(range(len(names)), [short(name, 28) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    legend(figure, axes[0, 0], 3)
    return figure


def _panel(axis: Axes, records: dict, names: list[str]) -> None:
    """One measure of all systems."""
    marginal = records.get("marginal")
    if marginal is not None and marginal["value"] is not None:
        axis.axvline(marginal["value"], color=MARGINAL, linestyle="--", linewidth=1.2, label="marginal", zorder=1)
    for row, name in enumerate(names):
        one = records[name]
        first = row == 0
        values = [value for value in one["runs"] if value is not None]
        axis.plot(
            values,
            [row + 0.22] * len(values),
            "|",
            color=VOTES,
            alpha=0.5,
            markersize=6,
            label="each repeat" if first else None,
        )
        if one["low"] is not None:
            axis.hlines(row, one["low"], one["high"], color=MODEL, linewidth=1.6)
        if one["value"] is not None:
            axis.plot(
                one["value"],
                row,
                "o",
                color=MODEL,
                markersize=5,
                label="mean of repeats, 95 % interval" if first else None,
            )
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="x", color=GRID, linewidth=0.7)
