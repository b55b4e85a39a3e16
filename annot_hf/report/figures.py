"""The figures of reports, comparisons and cross-validations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from annot_hf.evaluation.categories import LEVELS
from annot_hf.evaluation.equivalence import Equivalence
from annot_hf.evaluation.evaluate import Evaluation
from annot_hf.report.style import BLUE, DARK, FAINT, GREEN, GRID, ORANGE, VERMILION, legend, short

MAX_BARS = 20
DEPTH_STYLES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."))
SYSTEM_STYLES = ((BLUE, "-"), (VERMILION, "--"))


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
        _bars(axis, shown, {"votes": votes[column], "prediction": predicted[column]}, (DARK, BLUE))
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
        (DARK, BLUE, ORANGE),
    )
    axis.set_yticks(range(len(shown)), [short(support[k], 32) for k in shown])
    axis.invert_yaxis()
    axis.set_xlabel("mean probability over items")
    legend(figure, axis, 3)
    return figure


def plot_reliability(votes: np.ndarray, predicted: np.ndarray, *, bins: int = 10, unit: str = "label") -> Figure:
    """Whether labels get the predicted share of votes, in bins of equal numbers of (item, label) pairs.

    Args:
        votes: Distributions of the votes `(N, K)`.
        predicted: Predicted distributions `(N, K)`.
        bins: Largest number of points.
        unit: The name of an entry of the support.
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
    axis.plot(x, y, "o-", color=BLUE, markersize=5, linewidth=1.2, label=f"mean of {share} of the predictions")
    axis.set(xlabel=f"predicted probability of a {unit}", ylabel=f"share of votes for that {unit}")
    axis.set(xlim=(-0.02 * top, top), ylim=(-0.02 * top, top))
    axis.grid(color=GRID, linewidth=0.7)
    axis.set_aspect("equal")
    legend(figure, axis, 1)
    return figure


def plot_entropy(votes: np.ndarray, predicted: np.ndarray, n_labels: int, correlation: float | None = None) -> Figure:
    """Entropy of the prediction against entropy of the votes, one point per item (hexagons above 2,000 items).

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
        axis.plot(votes, predicted, "o", color=BLUE, markersize=4, alpha=0.5, markeredgewidth=0)
    _diagonal(axis, 0, top, "equal")
    axis.set(xlabel="entropy of the votes (nats)", ylabel="entropy of the prediction (nats)")
    axis.set(xlim=(-0.03 * top, 1.03 * top), ylim=(-0.03 * top, 1.03 * top))
    axis.set_aspect("equal")
    r = "" if correlation is None else f"r = {correlation:.2f}, "
    axis.set_title(f"{r}{len(votes):,} item{'' if len(votes) == 1 else 's'}")
    axis.axhline(top, color=DARK, linestyle=":", linewidth=0.9, label=f"largest possible, ln {n_labels}")
    axis.axvline(top, color=DARK, linestyle=":", linewidth=0.9)
    legend(figure, axis, 2)
    return figure


def plot_speakers(per_speaker: Mapping[str, tuple[float, float, int]], *, most: int = 30) -> Figure:
    """Mean JSD of model and marginal for each speaker, best on top.

    Args:
        per_speaker: Speaker -> (JSD of the model, JSD of the marginal, items), nats.
        most: Largest number of speakers; if there are more, the best and the worst are drawn.
    """
    ranked = sorted(per_speaker.items(), key=lambda entry: entry[1][0])
    shown = ranked if len(ranked) <= most else ranked[: most // 2] + ranked[-(most - most // 2) :]
    figure = Figure(figsize=(6.0, 1.4 + 0.22 * len(shown)), layout="constrained")
    axis = figure.subplots()
    for row, (_, (model, marginal, _)) in enumerate(shown):
        axis.plot([model, marginal], [row, row], "-", color=FAINT, linewidth=1, zorder=1)
    axis.plot([e[1][0] for e in shown], range(len(shown)), "o", color=BLUE, markersize=5, label="model")
    axis.plot([e[1][1] for e in shown], range(len(shown)), "D", color=ORANGE, markersize=4, label="marginal")
    if len(ranked) > most:
        axis.axhline(most // 2 - 0.5, color=DARK, linestyle=":", linewidth=0.9)
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
    """True bias of simulated raters against the bias that the model found, one panel per question of `recovered_bias`."""
    figure = Figure(figsize=(3.6 * len(recovered) + 0.2, 3.7), layout="constrained")
    axes = figure.subplots(1, len(recovered), squeeze=False)[0]
    for axis, (question, found) in zip(axes, recovered.items(), strict=True):
        true, estimated = np.asarray(found["true"]), np.asarray(found["recovered"])
        reach = 1.08 * max(abs(true).max(), abs(estimated).max(), 1e-6)
        _diagonal(axis, -reach, reach, "equal")
        axis.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        axis.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
        axis.plot(true, estimated, "o", color=BLUE, markersize=4.5, alpha=0.7, markeredgewidth=0)
        axis.set(xlabel="true bias (scale points)", ylabel="bias found by the model (scale points)")
        r = found["correlation"]["value"]
        axis.set_title(f"{short(question)}: r = {r:.2f}, {len(true)} raters")
        axis.set_aspect("equal")
        axis.legend(loc="upper left")
    return figure


def _bars(axis: Axes, shown: Sequence[int], series: Mapping[str, np.ndarray], colours: Sequence[str]) -> None:
    """Horizontal bars, one group per label."""
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
    """The up to `MAX_BARS` heaviest entries of the support, in its order."""
    return sorted(np.argsort(-weight, kind="stable")[:MAX_BARS].tolist())


def _diagonal(axis: Axes, low: float, high: float, label: str) -> None:
    axis.plot([low, high], [low, high], "--", color=DARK, linewidth=0.9, label=label, zorder=1)


def plot_strata(found: Evaluation) -> Figure:
    """JSD, accuracy and macro-F1 of model and marginal in every stratum, with 95 % intervals."""
    strata = found.strata
    figure = Figure(figsize=(7.6, 3.3), layout="constrained")
    axes = figure.subplots(1, 3)
    shown = [stratum for stratum in strata if stratum.rows.any()]
    place = {stratum.key: index + (stratum.scheme == "tertiles") * 0.7 for index, stratum in enumerate(strata)}
    for axis, (name, title) in zip(
        axes, (("jsd", "JSD (nats)"), ("accuracy", "accuracy"), ("macro_f1", "macro-F1")), strict=True
    ):
        for system, colour, marker, shift in (("model", BLUE, "o", -0.13), ("marginal", ORANGE, "D", 0.13)):
            told = [found.at(f"{name}_{stratum.key}", system) for stratum in shown]
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
    """Share of speakers whose n-best UAR exceeds each level; at .75 and .50 it is paUAR-75 and paUAR-50.

    Args:
        per_speaker: One row per speaker, columns "uar_1_best" ...
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
        axis.axvline(level / 100, color=DARK, linestyle=":", linewidth=0.9)
        axis.text(level / 100, 104, f".{level}", ha="center", va="bottom", color=DARK, fontsize=8)
    axis.set(xlabel="a speaker's average recall (UAR)", ylabel="speakers above it (%)", xlim=(0, 1.01), ylim=(0, 103))
    axis.grid(color=GRID, linewidth=0.7)
    legend(figure, axis, 3)
    return figure


def plot_confusion(support: Sequence[str], confusion: Mapping[str, np.ndarray]) -> Figure:
    """Mean votes and mean prediction over the items that each label wins, rows of the most frequent labels.

    Args:
        support: The K labels.
        confusion: "votes" and "predicted" `(K, K)` and "items" `(K,)`, as in `Evaluation`.
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


def plot_equivalence(told: Equivalence, names: Sequence[str]) -> Figure:
    """The loss of k raters against k, and each system's loss as a line that crosses it.

    Args:
        told: The result of `rater_equivalence`.
        names: The systems to show.
    """
    figure = Figure(figsize=(5.6, 4.1), layout="constrained")
    axis = figure.subplots()
    k, largest = told.raters, int(told.raters[-1])
    curve = np.array([entry["value"] for entry in told.curve])
    if told.curve[0]["low"] is not None:
        low, high = (np.array([entry[end] for entry in told.curve]) for end in ("low", "high"))
        axis.fill_between(k, low, high, color=DARK, alpha=0.12, linewidth=0)
    marker = "o" if largest <= 20 else ""
    axis.plot(k, curve, color=DARK, marker=marker, markersize=4, linewidth=1.3, label="k raters")
    axis.plot(0, curve[0], "D", color=ORANGE, markersize=6, label="marginal (no rater)", zorder=4)
    for name, (colour, dashes) in zip(names, SYSTEM_STYLES, strict=False):
        loss, worth = told.systems[name]["loss"], told.systems[name]["worth"]
        axis.axhline(
            loss["value"], color=colour, linestyle=dashes, linewidth=1.4, label=f" {short(name)}: {_worth_range(worth)}"
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
    """Values, and intervals if there are any."""
    y = np.array([np.nan if entry["value"] is None else entry["value"] for entry in told])
    for at, entry in zip(x, told, strict=True):
        if entry["low"] is not None:
            axis.vlines(at, entry["low"], entry["high"], color=colour, linewidth=1.3)
    axis.plot(x, y, marker, color=colour, markersize=5, label=label)


def _worth_range(worth: Mapping[str, Any]) -> str:
    return f"worth {worth['text'].split(' (')[0]} raters"


def plot_differences(found: Evaluation, measures: Sequence[str]) -> Figure:
    """Differences of two systems with intervals, oriented so that right is better for the first.

    Per cents are drawn as shares. Measures without a better direction are left out.

    Args:
        found: Two systems.
        measures: Names of measures.
    """
    a, b = found.systems
    shown = [(found[name], found.difference(name, a, b), found.better(name, a, b)) for name in measures]
    shown = [row for row in shown if row[0]["better"] and row[1]["value"] is not None]
    figure = Figure(figsize=(7.0, 1.5 + 0.3 * len(shown)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=FAINT, linewidth=1, zorder=0)
    sides = {a: (BLUE, "o"), b: (VERMILION, "s"), "": (DARK, "D")}
    labels = {a: f" {short(a)} better", b: f" {short(b)} better", "": "undecided"}
    for row, (one, difference, better) in enumerate(shown):
        sign = (1 if one["better"] == "higher" else -1) / (100 if one["unit"] == "%" else 1)
        colour, marker = sides[better]
        if difference["low"] is not None:
            axis.hlines(row, *(sign * difference[end] for end in ("low", "high")), color=colour, linewidth=1.5)
        axis.plot(sign * difference["value"], row, marker, color=colour, markersize=5.5, label=labels.pop(better, None))
    axis.set_yticks(range(len(shown)), [f"{short(one['title'], 44)} ({_unit(one['unit'])})" for one, *_ in shown])
    axis.set_ylim(len(shown) - 0.4, -0.6)
    reach = 1.08 * max(abs(end) for end in axis.dataLim.intervalx) or 1.0
    axis.set_xlim(-reach, reach)
    axis.set_xlabel(f"\u2190 {short(b)} better    difference    {short(a)} better \u2192")
    axis.grid(axis="x", color=GRID, linewidth=0.7)
    legend(figure, axis, 3)
    return figure


def plot_speaker_pairs(a: np.ndarray, b: np.ndarray, names: tuple[str, str]) -> Figure:
    """Mean JSD of both runs for each speaker, one point per speaker.

    Args:
        a: Mean JSD of the first run `(S,)`, nats.
        b: Mean JSD of the second run `(S,)`, nats.
        names: Names of the runs.
    """
    figure = Figure(figsize=(4.4, 4.6), layout="constrained")
    axis = figure.subplots()
    both = np.concatenate([a, b])
    margin = 0.08 * (both.max() - both.min()) + 1e-3
    low, high = both.min() - margin, both.max() + margin
    axis.plot([low, high], [low, high], "--", color=DARK, linewidth=0.9, label="equal", zorder=1)
    axis.plot(a, b, "o", color=BLUE, markersize=5, alpha=0.7, markeredgewidth=0, label="speaker")
    axis.set(xlabel=f"JSD of {short(names[0])} (nats)", ylabel=f"JSD of {short(names[1])} (nats)")
    axis.set(xlim=(low, high), ylim=(low, high))
    axis.set_title(f"{short(names[0])} better for {int((a < b).sum()):,} of {len(a):,} speakers")
    axis.set_aspect("equal")
    axis.grid(color=GRID, linewidth=0.7)
    legend(figure, axis, 2)
    return figure


def _unit(unit: str) -> str:
    return "share" if unit == "%" else unit


PANELS = (
    ("accuracy", "accuracy"),
    ("macro_f1", "macro-F1"),
    ("entropy_correlation", "correlation of entropies"),
    ("jsd", "JSD (nats)"),
    ("tvd", "TVD"),
    ("kl", "KLD (nats)"),
)
_ARROWS = {"lower": "   \u2190 better", "higher": "   better \u2192", "": ""}


def plot_crossval(found: Evaluation) -> Figure:
    """Six measures, one row per system: mean over repeats with its 95 % interval, each repeat, and the marginal as a line."""
    names = found.systems
    figure = Figure(figsize=(8.4, 2.4 + 0.5 * len(names)), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True)
    for axis, (measure, title) in zip(axes.flat, PANELS, strict=True):
        _panel(axis, found, measure)
        axis.set_xlabel(title + _ARROWS[found.measured(measure).better])
    axes[0, 0].set_yticks(range(len(names)), [short(name, 28) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    legend(figure, axes[0, 0], 3)
    return figure


def _panel(axis: Axes, found: Evaluation, measure: str) -> None:
    """One measure of all systems."""
    marginal = found.at(measure, "marginal")
    if marginal is not None and marginal["value"] is not None:
        axis.axvline(marginal["value"], color=ORANGE, linestyle="--", linewidth=1.2, label="marginal", zorder=1)
    for row, name in enumerate(found.systems):
        one = found.at(measure, name)
        first = row == 0
        values = [value for value in one.get("runs", [one["value"]]) if value is not None]
        axis.plot(
            values,
            [row + 0.22] * len(values),
            "|",
            color=DARK,
            alpha=0.5,
            markersize=6,
            label="each repeat" if first else None,
        )
        if one["low"] is not None:
            axis.hlines(row, one["low"], one["high"], color=BLUE, linewidth=1.6)
        if one["value"] is not None:
            axis.plot(
                one["value"],
                row,
                "o",
                color=BLUE,
                markersize=5,
                label="mean of repeats, 95 % interval" if first else None,
            )
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="x", color=GRID, linewidth=0.7)


def plot_conditions(conditions: Sequence[str], jsd: Mapping[str, Mapping[str, Any]]) -> Figure:
    """JSD of each condition with its interval, and lines for clean clips and the marginal.

    Args:
        conditions: Names, clean first.
        jsd: `{value, low, high}` (nats) of each of them and of "marginal".
    """
    figure = Figure(figsize=(6.0, 1.3 + 0.32 * len(conditions)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(jsd[conditions[0]]["value"], color=FAINT, linewidth=1, label=conditions[0], zorder=0)
    axis.axvline(jsd["marginal"]["value"], color=ORANGE, linestyle="--", linewidth=1.2, label="marginal", zorder=0)
    for row, name in enumerate(conditions):
        one = jsd[name]
        if one["low"] is not None:
            axis.hlines(row, one["low"], one["high"], color=BLUE, linewidth=1.5)
        axis.plot(one["value"], row, "o", color=BLUE, markersize=5.5, label=None if row else "model")
    axis.set_yticks(range(len(conditions)), conditions)
    axis.set_ylim(len(conditions) - 0.4, -0.6)
    axis.set_xlim(left=0)
    axis.set_xlabel("mean Jensen-Shannon divergence (nats)")
    axis.grid(axis="x", color=GRID, linewidth=0.7)
    legend(figure, axis, 3)
    return figure
