"""Saliency of layers as a table, a figure and files; `trunk_layer` of a recipe reads saliency.json."""

import csv
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from annot_hf.data.corpus import check_own
from annot_hf.evaluation.saliency import Saliency
from annot_hf.report.pages import csv_safe, plain
from annot_hf.report.style import BLUE, FAINT, GRID, ORANGE, legend, short
from annot_hf.report.tables import Cell, Table, number


def saliency_table(found: Saliency) -> Table:
    """One row per layer, one column per target, and their mean."""
    rows = [
        (
            Cell(f"{layer}{' (chosen)' if layer == found.layer else ''}"),
            *(Cell(number(value if np.isfinite(value) else None, 4)) for value in row),
            Cell(number(mean, 4)),
        )
        for layer, (row, mean) in enumerate(zip(found.scores, found.means, strict=True))
    ]
    what = "mean |r| over units" if found.formula == "absolute" else f"mean of r² − {found.gamma:g} × redundancy"
    note = f"{what}; {found.items:,} items; layer 0 enters the first transformer layer."
    return Table("Saliency of layers", ("layer", *found.targets, "mean"), rows, note)


FILE = "saliency.json"


def save_saliency(found: Saliency, folder: str | os.PathLike[str]) -> Path:
    """Write saliency.json, from which a recipe reads `trunk_layer`, and saliency.csv; returns the path of the former.

    Raises:
        ValueError: The folder holds files with these names that are not from an earlier call.
    """
    folder = Path(folder)
    check_own(folder, (FILE, "saliency.csv", "saliency.png"), marker=FILE, keys=("trunk_layer", "scores"))
    folder.mkdir(parents=True, exist_ok=True)
    record = {name: value for name, value in asdict(found).items() if name != "about"}
    record = {"trunk_layer": found.layer, **found.about, **record, "means": found.means}
    text = json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
    with open(folder / "saliency.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", *map(csv_safe, found.targets), "mean"])
        writer.writerows(
            [layer, *row, mean] for layer, (row, mean) in enumerate(zip(found.scores, found.means, strict=True))
        )
    return folder / FILE


def plot_saliency(saliency: Saliency) -> Figure:
    """Mean over targets per layer above, each target per layer below; the chosen layer is marked in both."""
    layers, targets = saliency.scores.shape
    figure = Figure(figsize=(max(4.6, 1.9 + 0.33 * layers), 2.5 + 0.3 * targets), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.0, 0.3 * targets + 0.2])
    means, chosen = saliency.means, saliency.layer
    upper.plot(means, "o-", color=BLUE, markersize=4, linewidth=1.2)
    upper.plot(chosen, means[chosen], "D", color=ORANGE, markersize=8, label=f"chosen: layer {chosen}")
    what = "|r|" if saliency.formula == "absolute" else "penalised r²"
    upper.set(ylabel=f"mean {what}", title=f"{saliency.items:,} items")
    upper.grid(color=GRID, linewidth=0.7)
    upper.margins(y=0.15)
    image = lower.imshow(np.ma.masked_invalid(saliency.scores.T), aspect="auto", cmap="Blues", interpolation="nearest")
    lower.add_patch(
        Rectangle((chosen - 0.5, -0.5), 1, targets, fill=False, edgecolor=ORANGE, linewidth=2, clip_on=False)
    )
    lower.set_yticks(range(targets), [short(name) for name in saliency.targets])
    lower.tick_params(length=0)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=14))
    same = "; grey: constant" if np.isnan(saliency.scores).any() else ""
    lower.set(xlabel=f"layer (0 enters the first transformer layer){same}", facecolor=FAINT)
    figure.colorbar(image, ax=[upper, lower], label=what, shrink=0.8)
    legend(figure, upper, 1)
    return figure
