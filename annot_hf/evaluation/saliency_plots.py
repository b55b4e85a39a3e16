"""The figure of layer saliency, in the report's style."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from annot_hf.evaluation.plots import FAINT, GRID, MARGINAL, MODEL, legend, short
from annot_hf.evaluation.saliency import Saliency


def plot_saliency(saliency: Saliency) -> Figure:
    """Mean over targets by layer above, each target by layer below; the chosen layer is marked in both."""
    layers, targets = saliency.scores.shape
    figure = Figure(figsize=(max(4.6, 1.9 + 0.33 * layers), 2.5 + 0.3 * targets), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.0, 0.3 * targets + 0.2])
    means, chosen = saliency.means, saliency.layer
    upper.plot(means, "o-", color=MODEL, markersize=4, linewidth=1.2)
    upper.plot(chosen, means[chosen], "D", color=MARGINAL, markersize=8, label=f"chosen: layer {chosen}")
    what = "|r|" if saliency.formula == "absolute" else "penalised r²"
    upper.set(ylabel=f"mean {what}", title=f"{saliency.items:,} items")
    upper.grid(color=GRID, linewidth=0.7)
    upper.margins(y=0.15)
    image = lower.imshow(np.ma.masked_invalid(saliency.scores.T), aspect="auto", cmap="Blues", interpolation="nearest")
    lower.add_patch(
        Rectangle((chosen - 0.5, -0.5), 1, targets, fill=False, edgecolor=MARGINAL, linewidth=2, clip_on=False)
    )
    lower.set_yticks(range(targets), [short(name) for name in saliency.targets])
    lower.tick_params(length=0)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=14))
    same = "; grey: never changes" if np.isnan(saliency.scores).any() else ""
    lower.set(xlabel=f"layer (0 enters the first transformer layer){same}", facecolor=FAINT)
    figure.colorbar(image, ax=[upper, lower], label=what, shrink=0.8)
    legend(figure, upper, 1)
    return figure
