"""Plot how much of the gap heads on each layer of a trunk close over the speed of the encoder up to that layer.

`python -m benchmarks.plot_cost OUT.png base=base/results.json tiny=tiny/results.json log-mel=report.json` reads what `annot-hf
results` and `annot-hf report` wrote: the systems "layer 1" and so on of a Whisper trunk, and the first system of log-mel.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from annot_hf.report.figures import BLUE, DARK, GREEN, canvas, legend
from annot_hf.report.pages import save_figure
from benchmarks import bench_whisper

LOOKS = {"log-mel": (DARK, "s"), "tiny": (GREEN, "o"), "base": (BLUE, "D")}


def points_of(trunk: str, file: Path, speeds: Mapping[str, float]) -> dict[str, tuple[float, dict[str, Any]]]:
    """For each layer that has a system, its speed (seconds of audio a second) and the gap closed, with its interval."""
    measures = json.loads(file.read_text(encoding="utf-8"))["evaluation"]["measures"]
    gaps = next(found["gap_closed"]["systems"] for found in measures.values() if "gap_closed" in found)
    if trunk not in bench_whisper.SIZES:
        return {"": (speeds[trunk], next(iter(gaps.values())))}
    depth = bench_whisper.SIZES[trunk][0]
    layers = [str(layer) for layer in range(1, depth + 1) if f"layer {layer}" in gaps]
    return {layer: (speeds[f"{trunk}, {layer} of {depth} layers"], gaps[f"layer {layer}"]) for layer in layers}


def plot_cost(points: Mapping[str, Mapping[str, tuple[float, dict[str, Any]]]]) -> Figure:
    """A line per trunk through its layers, with 95 % intervals."""
    figure, axis = canvas(6.4, 4.2)
    for trunk, layers in points.items():
        colour, marker = LOOKS[trunk]
        x, entries = zip(*layers.values(), strict=True)
        y, low, high = ([entry[key] for entry in entries] for key in ("value", "low", "high"))
        ends = [[a - b for a, b in zip(y, low, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
        look = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.2, "elinewidth": 0.8}
        axis.errorbar(x, y, ends, label=f"{trunk}, by layer" if len(layers) > 1 else trunk, **look)
        for layer, place in zip(layers, zip(x, y, strict=True), strict=True):
            axis.annotate(layer, place, (5, 5), textcoords="offset points", color=colour)
    axis.set_xscale("log")
    axis.set_xticks([100, 200, 500, 1000, 2000])
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.set_xlabel("seconds of audio that a second encodes   better \u2192")
    axis.set_ylabel("gap closed (%)   better \u2192")
    legend(figure, axis, 3, grid="both")
    return figure


def main(arguments: Sequence[str]) -> None:
    out, *given = arguments or [""]
    if not given or any(one.split("=")[0] not in LOOKS for one in given):
        sys.exit(
            f"Give a PNG to write, and a JSON file for each of some trunks of {', '.join(LOOKS)}, as base=results.json."
        )
    speeds = {result.name: result.ratio for result in bench_whisper.run()}
    files = dict(one.split("=", 1) for one in given)
    points = {trunk: points_of(trunk, Path(file), speeds) for trunk, file in files.items()}
    for trunk, layers in points.items():
        print(
            trunk, ", ".join(f"{layer} {speed:,.0f} s/s {gap['value']:.1f} %" for layer, (speed, gap) in layers.items())
        )
    save_figure(lambda: plot_cost(points), Path(out))


if __name__ == "__main__":
    main(sys.argv[1:])
