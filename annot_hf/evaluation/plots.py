"""Figures of a report: plain matplotlib objects on the Agg canvas, no global state, colours safe for the colour-blind.

Votes are dark, the model blue, the marginal orange (Okabe & Ito 2008), and shapes differ too, for grey prints. Names
are drawn as they are: a `$` never starts a formula, and letters that the usual font lacks come from another one that
Matplotlib knows, or a number stands for the name.
"""

import functools
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FaceFlags
from matplotlib.text import Text

from annot_hf.data.yaml_text import printable

VOTES, MODEL, MARGINAL, FAINT, GRID = "#333333", "#0072B2", "#E69F00", "#BBBBBB", "#E6E6E6"
MAX_BARS = 20
_UNASSIGNED = 0x0378  # a code point without a letter: a font that has it draws boxes
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
    "text.usetex": False,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
}


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE):
        yield


def save_figure(draw: Callable[[], Figure], path: str | os.PathLike[str], *, dpi: int = 160) -> Path:
    """Draw with the report's style and write a PNG without time stamps, so that equal data give equal files.

    Where a number stands for a name, a warning says for which; see `readable`.
    """
    path, numbered = Path(path), {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with _style():
        figure = readable(draw(), numbered)
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=dpi, metadata={"Software": None})
    if numbered:
        warnings.warn(number_key(numbered), stacklevel=2)
    return path


def readable(figure: Figure, numbered: dict[str, int]) -> Figure:
    """The figure without a letter that would be drawn as a box.

    Letters that the usual font lacks are drawn in fonts that have them. Where Matplotlib knows none, a number in brackets
    takes the place of the name.

    Args:
        figure: The figure, which is changed.
        numbered: What each number stands for; new names are added.
    """
    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    ticks = [label for axis in axes for label in axis.get_ticklabels()]
    texts = [*figure.findobj(Text), *ticks]
    letters = {ord(letter) for text in texts for letter in text.get_text() if not letter.isspace()}
    lacking = letters - _letters(font_manager.findfont(STYLE["font.family"][0]))
    if not lacking:
        return figure
    families, lacking = _families(lacking)
    for text in texts:
        text.set_fontfamily([*STYLE["font.family"], *families])
    if lacking:
        some = f"[^\x00-\x7f]*[{''.join(re.escape(chr(letter)) for letter in sorted(lacking))}][^\x00-\x7f]*"
        names = re.compile(f"{some}(?: +{some})*")

        def name(text: str) -> str:
            return names.sub(lambda found: f"[{numbered.setdefault(found[0], len(numbered) + 1)}]", text)

        for axis in axes:
            told = [label.get_text() for label in axis.get_ticklabels()]
            if any(map(names.search, told)):
                axis.set_ticklabels([name(text) for text in told])
        for text in texts:
            text.set_text(name(text.get_text()))
    return figure


def number_key(numbered: Mapping[str, int]) -> str:
    """What the numbers of `readable` stand for, in a sentence."""
    told = ", ".join(f"[{number}] {name}" for name, number in numbered.items())
    return f"No font here has all letters of some names, for which figures have numbers: {told}."


def _families(lacking: set[int]) -> tuple[list[str], set[int]]:
    """Font families that have these code points, and what no font has."""
    families = []
    upright = [entry for entry in font_manager.fontManager.ttflist if entry.style == entry.stretch == "normal"]
    for entry in sorted(upright, key=lambda one: (one.weight != 400, "Sans" not in one.name, one.name)):
        found = lacking & _letters(font_manager.FontPath(entry.fname, entry.index)) if lacking else set()
        if found and entry.name not in families:
            families.append(entry.name)
            lacking = lacking - found
    return families, lacking


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """Code points of a font file; none of one that draws bitmaps, or boxes for anything."""
    try:
        font = font_manager.get_font(path)
        found = frozenset(font.get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
    plain = FaceFlags.SCALABLE in font.face_flags and FaceFlags.COLOR not in font.face_flags
    return found if plain and _UNASSIGNED not in found else frozenset()


def short(name: object, width: int = 24) -> str:
    """A name that fits beside an axis: the middle of a long one becomes an ellipsis."""
    text = printable(str(name))
    return text if len(text) <= width else f"{text[: width - width // 3 - 1]}…{text[-(width // 3) :]}"


def plot_examples(
    support: Sequence[str], votes: np.ndarray, predicted: np.ndarray, titles: Sequence[str], grid: Sequence[str] = ()
) -> Figure:
    """Votes and prediction of a few clips, side by side.

    Args:
        support: Names of the labels or cells `(K,)`.
        votes: Distributions of the votes `(clips, K)`.
        predicted: Predicted distributions `(clips, K)`.
        titles: A line per clip.
        grid: Names of the two questions when the support is a grid, for heat maps instead of bars.
    """
    clips = len(votes)
    if len(grid) == 2:
        bins = round(votes.shape[1] ** 0.5)
        figure = Figure(figsize=(2.1 * clips + 1.3, 4.7), layout="constrained")
        axes = figure.subplots(2, clips, squeeze=False, sharex=True, sharey=True)
        top = max(votes.max(), predicted.max())
        for column in range(clips):
            for row, (what, probs) in enumerate((("Votes", votes), ("Prediction", predicted))):
                image = _heat(axes[row, column], probs[column].reshape(bins, bins), grid, top)
                axes[row, column].set_ylabel("" if column else f"{what}\n\n{axes[row, column].get_ylabel()}")
            axes[0, column].set_title(titles[column])
            axes[0, column].set_xlabel("")
        figure.colorbar(image, ax=axes, shrink=0.6, label="probability")
        return figure
    shown = _largest(votes.mean(0) + predicted.mean(0))
    figure = Figure(figsize=(2.15 * clips + 1.4, 1.5 + 0.34 * len(shown)), layout="constrained")
    axes = figure.subplots(1, clips, sharey=True, sharex=True, squeeze=False)[0]
    for column, axis in enumerate(axes):
        _bars(axis, shown, {"votes": votes[column], "prediction": predicted[column]}, (VOTES, MODEL))
        axis.set_title(titles[column])
        axis.set_xlabel("probability")
    axes[0].set_yticks(range(len(shown)), [short(support[k]) for k in shown])
    axes[0].invert_yaxis()
    axes[0].set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
    legend(figure, axes[0], 2)
    return figure


def plot_mean_distribution(
    support: Sequence[str], votes: np.ndarray, predicted: np.ndarray, marginal: np.ndarray
) -> Figure:
    """Mean distribution `(K,)` of the votes and of the predictions, and the marginal baseline."""
    shown = _largest(votes + predicted)
    figure = Figure(figsize=(6.0, 1.4 + 0.42 * len(shown)), layout="constrained")
    axis = figure.subplots()
    _bars(
        axis,
        shown,
        {"votes": votes, "mean prediction": predicted, "marginal": marginal},
        (VOTES, MODEL, MARGINAL),
    )
    axis.set_yticks(range(len(shown)), [short(support[k], 32) for k in shown])
    axis.invert_yaxis()
    axis.set_xlabel("mean probability over items")
    legend(figure, axis, 3)
    return figure


def plot_reliability(votes: np.ndarray, predicted: np.ndarray, *, bins: int = 10, unit: str = "label") -> Figure:
    """Whether labels get the share of votes that was predicted: bins of equal numbers of (item, label) pairs.

    Args:
        votes: Distributions of the votes `(N, K)`.
        predicted: Predicted distributions `(N, K)`.
        bins: Most points to draw.
        unit: What an entry of the support is called.
    """
    order = np.argsort(predicted.ravel(), kind="stable")
    groups = [group for group in np.array_split(order, min(bins, len(order))) if len(group)]
    x = np.array([predicted.ravel()[group].mean() for group in groups])
    y = np.array([votes.ravel()[group].mean() for group in groups])
    figure = Figure(figsize=(4.4, 4.8), layout="constrained")
    axis = figure.subplots()
    top = min(1.0, 1.15 * float(max(x.max(), y.max())))
    _diagonal(axis, 0, top, "perfect calibration")
    share = "each" if len(groups) == 1 else f"each 1/{len(groups)}"
    axis.plot(x, y, "o-", color=MODEL, markersize=5, linewidth=1.2, label=f"mean of {share} of the predictions")
    axis.set(xlabel=f"predicted probability of a {unit}", ylabel=f"share of votes for that {unit}")
    axis.set(xlim=(-0.02 * top, top), ylim=(-0.02 * top, top))
    axis.grid(color=GRID, linewidth=0.7)
    axis.set_aspect("equal")
    legend(figure, axis, 1)
    return figure


def plot_entropy(votes: np.ndarray, predicted: np.ndarray, n_labels: int, correlation: float | None = None) -> Figure:
    """Entropy of the prediction against entropy of the votes, an item a point (hexagons above 2,000 items).

    Args:
        votes: Entropies in nats `(N,)`.
        predicted: Entropies in nats `(N,)`.
        n_labels: K, which sets the largest possible entropy ln K.
        correlation: Pearson correlation to print.
    """
    top = float(np.log(max(n_labels, 2)))
    many = len(votes) > 2000
    figure = Figure(figsize=(5.4 if many else 4.5, 4.8), layout="constrained")
    axis = figure.subplots()
    if many:
        cells = axis.hexbin(votes, predicted, gridsize=35, extent=(0, top, 0, top), cmap="Blues", bins="log", mincnt=1)
        # The default labels are powers of ten set as formulas, which this style draws as plain text.
        figure.colorbar(cells, ax=axis, label="items", shrink=0.7, format=lambda count, _: f"{count:,.0f}")
    else:
        axis.plot(votes, predicted, "o", color=MODEL, markersize=4, alpha=0.5, markeredgewidth=0)
    _diagonal(axis, 0, top, "equal")
    axis.set(xlabel="entropy of the votes (nats)", ylabel="entropy of the prediction (nats)")
    axis.set(xlim=(-0.03 * top, 1.03 * top), ylim=(-0.03 * top, 1.03 * top))
    axis.set_aspect("equal")
    r = "" if correlation is None else f"r = {correlation:.2f}, "
    axis.set_title(f"{r}{len(votes):,} item{'' if len(votes) == 1 else 's'}")
    axis.axhline(top, color=VOTES, linestyle=":", linewidth=0.9, label=f"largest possible, ln {n_labels}")
    axis.axvline(top, color=VOTES, linestyle=":", linewidth=0.9)
    legend(figure, axis, 2)
    return figure


def plot_speakers(per_speaker: Mapping[str, tuple[float, float, int]], *, most: int = 30) -> Figure:
    """Mean JSD of model and marginal for each speaker, best on top: who is served worse.

    Args:
        per_speaker: Speaker -> (JSD of the model, JSD of the marginal, items), nats.
        most: Speakers to draw; of more, the best and the worst halves.
    """
    ranked = sorted(per_speaker.items(), key=lambda entry: entry[1][0])
    shown = ranked if len(ranked) <= most else ranked[: most // 2] + ranked[-(most - most // 2) :]
    figure = Figure(figsize=(6.0, 1.4 + 0.22 * len(shown)), layout="constrained")
    axis = figure.subplots()
    for row, (_, (model, marginal, _)) in enumerate(shown):
        axis.plot([model, marginal], [row, row], "-", color=FAINT, linewidth=1, zorder=1)
    axis.plot([e[1][0] for e in shown], range(len(shown)), "o", color=MODEL, markersize=5, label="model")
    axis.plot([e[1][1] for e in shown], range(len(shown)), "D", color=MARGINAL, markersize=4, label="marginal")
    if len(ranked) > most:
        axis.axhline(most // 2 - 0.5, color=VOTES, linestyle=":", linewidth=0.9)
        axis.set_title(f"the {most // 2} best and {most - most // 2} worst predicted of {len(ranked):,} speakers")
    axis.set_yticks(range(len(shown)), [f"{short(name)} ({count})" for name, (_, _, count) in shown])
    axis.tick_params(axis="y", labelsize=8)
    axis.set_ylim(len(shown) - 0.3, -0.7)
    axis.set(xlabel="mean Jensen-Shannon divergence (nats)", ylabel="speaker (items)")
    axis.set_xlim(left=0)
    legend(figure, axis, 2)
    return figure


def plot_grids(grids: Mapping[str, np.ndarray], questions: Sequence[str]) -> Figure:
    """Mean distributions `(bins, bins)` over two questions, rows the first one, on one colour scale."""
    figure = Figure(figsize=(2.5 * len(grids) + 0.9, 2.9), layout="constrained")
    axes = figure.subplots(1, len(grids), squeeze=False)[0]
    top = max(grid.max() for grid in grids.values())
    for axis, (title, grid) in zip(axes, grids.items(), strict=True):
        image = _heat(axis, grid, questions, top)
        axis.set_title(title)
    figure.colorbar(image, ax=list(axes), shrink=0.8, label="probability")
    return figure


def plot_rater_bias(recovered: Mapping[str, Mapping[str, Any]]) -> Figure:
    """True bias of simulated raters against the bias the model found, a panel a question, as `recovered_bias` says."""
    figure = Figure(figsize=(3.6 * len(recovered) + 0.2, 3.7), layout="constrained")
    axes = figure.subplots(1, len(recovered), squeeze=False)[0]
    for axis, (question, found) in zip(axes, recovered.items(), strict=True):
        true, estimated = np.asarray(found["true"]), np.asarray(found["recovered"])
        reach = 1.08 * max(abs(true).max(), abs(estimated).max(), 1e-6)
        _diagonal(axis, -reach, reach, "equal")
        axis.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        axis.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
        axis.plot(true, estimated, "o", color=MODEL, markersize=4.5, alpha=0.7, markeredgewidth=0)
        axis.set(xlabel="true bias (scale points)", ylabel="bias found by the model (scale points)")
        r = found["correlation"]["value"]
        axis.set_title(f"{short(question)}: r = {r:.2f}, {len(true)} raters")
        axis.set_aspect("equal")
        axis.legend(loc="upper left")
    return figure


def _bars(axis: Axes, shown: Sequence[int], series: Mapping[str, np.ndarray], colours: Sequence[str]) -> None:
    """Horizontal bars, one group a label."""
    height = 0.8 / len(series)
    for index, ((name, values), colour) in enumerate(zip(series.items(), colours, strict=True)):
        offset = (index - (len(series) - 1) / 2) * height
        axis.barh(np.arange(len(shown)) + offset, values[list(shown)], 0.92 * height, color=colour, label=name)
    axis.grid(axis="x", color=GRID, linewidth=0.7)
    axis.tick_params(axis="y", length=0)


def _heat(axis: Axes, grid: np.ndarray, questions: Sequence[str], top: float) -> Any:
    """A heat map over [-1, 1] x [-1, 1] with the number in each cell; second question to the right, first upwards."""
    bins = len(grid)
    image = axis.imshow(grid, origin="lower", extent=(-1, 1, -1, 1), cmap="Blues", vmin=0, vmax=top)
    centres = (2 * np.arange(bins) + 1) / bins - 1
    for row in range(bins if bins <= 6 else 0):
        for column in range(bins):
            value = grid[row, column]
            colour = "white" if value > 0.6 * top else "black"
            text = f"{value:.2f}".removeprefix("0") if value >= 0.005 else ""
            axis.text(centres[column], centres[row], text, ha="center", va="center", color=colour, fontsize=7)
    axis.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1], xlabel=short(questions[1]), ylabel=short(questions[0]))
    axis.spines[:].set(visible=True, color=FAINT)
    return image


def _largest(weight: np.ndarray) -> list[int]:
    """Up to `MAX_BARS` entries of the support, in its order, the heaviest ones."""
    return sorted(np.argsort(-weight, kind="stable")[:MAX_BARS].tolist())


def _diagonal(axis: Axes, low: float, high: float, label: str) -> None:
    axis.plot([low, high], [low, high], "--", color=VOTES, linewidth=0.9, label=label, zorder=1)


def legend(figure: Figure, axis: Axes, columns: int) -> None:
    """A legend above the axes, out of the data's way.

    Matplotlib leaves out what begins with an underscore, so a name of the user's has a space before it, which is cut here.
    """
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, [textwrap.shorten(name, 48) for name in labels], loc="outside upper center", ncols=columns)
