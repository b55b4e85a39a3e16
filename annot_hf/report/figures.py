"""The figures of reports, comparisons and cross-validations.

Colours are safe for the colour-blind (Okabe & Ito 2008): votes are dark, the model blue, the marginal orange. Shapes differ
too, for grey prints.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from annot_hf.data.questions import printable
from annot_hf.evaluation.categories import LEVELS
from annot_hf.evaluation.equivalence import Equivalence
from annot_hf.evaluation.evaluate import MARGINAL, MODEL, Evaluation
from annot_hf.report.tables import counted

DARK, BLUE, ORANGE, VERMILION, GREEN = "#333333", "#0072B2", "#E69F00", "#D55E00", "#009E73"
FAINT, GRID = "#BBBBBB", "#E6E6E6"
MAX_BARS = 20
_DASHES = (
    (BLUE, "-"),
    (VERMILION, "--"),
    (GREEN, "-."),
    ("#CC79A7", ":"),
    (ORANGE, (0, (5, 1, 1, 1))),
    ("#56B4E9", (0, (1, 1))),
)
PANELS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "entropy_correlation": "correlation of entropies",
    "jsd": "JSD (nats)",
    "tvd": "TVD",
    "kl": "KLD (nats)",
}
_BETTER = {"lower": "   \u2190 better", "higher": "   better \u2192", "": ""}


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of this size (inches) and its axes; an array of axes if there is more than one row or column."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def short(name: object, width: int = 24) -> str:
    """A name that fits next to an axis; the middle of a long name becomes an ellipsis."""
    text = printable(str(name))
    return text if len(text) <= width else f"{text[: width - width // 3 - 1]}…{text[-(width // 3) :]}"


def legend(figure: Figure, axis: Axes, columns: int, *, grid: str = "") -> None:
    """A legend above the axes, out of the data's way; and, for `grid` "x" or "both", grid lines.

    Matplotlib hides labels that begin with an underscore, so user-given names get a leading space, which is removed here.
    """
    if grid:
        axis.grid(axis=grid, color=GRID, linewidth=0.7)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, [textwrap.shorten(name, 48) for name in labels], loc="outside upper center", ncols=columns)


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of a figure, the first at the top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)


def plot_examples(
    support: Sequence[str], votes: np.ndarray, predicted: np.ndarray, titles: Sequence[str], grid: Sequence[str] = ()
) -> Figure:
    """Votes and prediction `(clips, K)` of a few clips, side by side; heat maps with `grid`, the names of two questions."""
    clips = len(votes)
    if len(grid) == 2:
        bins = round(votes.shape[1] ** 0.5)
        figure, axes = canvas(2.1 * clips + 1.3, 4.7, 2, clips, squeeze=False, sharex=True, sharey=True)
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
    options = {"squeeze": False, "sharex": True, "sharey": True}
    figure, axes = canvas(2.15 * clips + 1.4, 1.5 + 0.34 * len(shown), 1, clips, **options)
    for column, axis in enumerate(axes[0]):
        _bars(axis, shown, {"votes": (votes[column], DARK), "prediction": (predicted[column], BLUE)})
        axis.set(title=titles[column], xlabel="probability")
    first = axes[0, 0]
    name_rows(first, [short(support[k]) for k in shown])
    first.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
    legend(figure, first, 2)
    return figure


def plot_mean_distribution(
    support: Sequence[str], votes: np.ndarray, predicted: np.ndarray, marginal: np.ndarray
) -> Figure:
    """Mean distribution `(K,)` of the votes and of the predictions, and the marginal baseline."""
    shown = _largest(votes + predicted)
    figure, axis = canvas(6.0, 1.4 + 0.42 * len(shown))
    _bars(axis, shown, {"votes": (votes, DARK), "mean prediction": (predicted, BLUE), "marginal": (marginal, ORANGE)})
    name_rows(axis, [short(support[k], 32) for k in shown])
    axis.set_xlabel("mean probability over items")
    legend(figure, axis, 3)
    return figure


def plot_votes(
    support: Sequence[str], shares: np.ndarray, sizes: Mapping[int, int], grid: Sequence[str] = ()
) -> Figure:
    """Shares of the answers `(K,)`, as a heat map with `grid`, the names of two questions; and items by their votes."""
    shown = _largest(shares)
    figure, (left, right) = canvas(7.5, 3.0 if grid else max(2.2, 0.9 + 0.3 * len(shown)), 1, 2)
    if len(grid) == 2:
        bins = round(len(shares) ** 0.5)
        _heat(left, shares.reshape(bins, bins), grid, shares.max())
    else:
        _bars(left, shown, {"votes": (shares, DARK)})
        name_rows(left, [short(support[k]) for k in shown])
    left.set_title("share of the votes")
    right.bar(list(sizes), list(sizes.values()), color=DARK)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.grid(axis="y", color=GRID, linewidth=0.7)
    right.set(title="items by their votes", xlabel="votes of an item", ylabel="items")
    return figure


def plot_split_shares(support: Sequence[str], shares: Mapping[str, np.ndarray]) -> Figure:
    """The share of each answer `(K,)` in every split."""
    shown = _largest(sum(shares.values()))
    figure, axis = canvas(6.4, 1.3 + 0.13 * (len(shares) + 1) * len(shown))
    colours = (DARK, *(colour for colour, _ in _DASHES))
    _bars(axis, shown, {f" {short(split)}": (one, colours[at % 7]) for at, (split, one) in enumerate(shares.items())})
    name_rows(axis, [short(support[k], 32) for k in shown])
    axis.set_xlabel("share of the votes in the split")
    legend(figure, axis, 4)
    return figure


def _bars(axis: Axes, shown: Sequence[int], series: Mapping[str, tuple[np.ndarray, str]]) -> None:
    """Horizontal bars, one group per label: name -> values and colour."""
    height = 0.8 / len(series)
    for index, (name, (values, colour)) in enumerate(series.items()):
        offset = (index - (len(series) - 1) / 2) * height
        axis.barh(np.arange(len(shown)) + offset, values[list(shown)], 0.92 * height, color=colour, label=name)
    axis.grid(axis="x", color=GRID, linewidth=0.7)
    axis.tick_params(axis="y", length=0)


def _largest(weight: np.ndarray) -> list[int]:
    """The up to `MAX_BARS` heaviest entries of the support, in its order."""
    return sorted(np.argsort(-weight, kind="stable")[:MAX_BARS].tolist())


def plot_grids(grids: Mapping[str, np.ndarray], questions: Sequence[str]) -> Figure:
    """Mean distributions `(bins, bins)` over two questions, rows the first one, on one colour scale."""
    figure, axes = canvas(2.5 * len(grids) + 0.9, 2.9, 1, len(grids), squeeze=False)
    top = max(grid.max() for grid in grids.values())
    for axis, (title, grid) in zip(axes[0], grids.items(), strict=True):
        image = _heat(axis, grid, questions, top)
        axis.set_title(title)
    figure.colorbar(image, ax=list(axes[0]), shrink=0.8, label="probability")
    return figure


def _heat(axis: Axes, grid: np.ndarray, questions: Sequence[str], top: float) -> Any:
    """A heat map over [-1, 1] x [-1, 1] with the number in each cell; second question to the right, first upwards."""
    bins = len(grid)
    image = axis.imshow(grid, origin="lower", extent=(-1, 1, -1, 1), cmap="Blues", vmin=0, vmax=top)
    if bins <= 6:
        centres = (2 * np.arange(bins) + 1) / bins - 1
        _write_numbers(axis, grid, centres, centres, top)
    axis.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1], xlabel=short(questions[1]), ylabel=short(questions[0]))
    axis.spines[:].set(visible=True, color=FAINT)
    return image


def _write_numbers(axis: Axes, table: np.ndarray, x: Sequence[float], y: Sequence[float], top: float) -> None:
    """The numbers of a heat map, such as ".25", in its cells at `x` and `y`; none below .005."""
    for (row, column), value in np.ndenumerate(table):
        colour = "white" if value > 0.6 * top else "black"
        text = f"{value:.2f}".removeprefix("0") if value >= 0.005 else ""
        axis.text(x[column], y[row], text, ha="center", va="center", color=colour, fontsize=7)


def plot_confusion(support: Sequence[str], confusion: Mapping[str, np.ndarray]) -> Figure:
    """Mean votes and mean prediction over the items that each label wins, as in `Evaluation`; the most frequent labels."""
    items = np.asarray(confusion["items"])
    rows = [k for k in _largest(items) if items[k]]
    columns = range(len(support)) if len(support) <= MAX_BARS else rows
    cell = 0.42 if len(columns) <= 12 else 0.3
    across, down = cell * len(columns), cell * len(rows)
    figure, axes = canvas(max(2 * across + 3.2, 6.2), max(down + 1.7, 2.6), 1, 2, sharey=True)
    shown = {name: np.asarray(confusion[name])[np.ix_(rows, list(columns))] for name in ("votes", "predicted")}
    top = max(float(table.max()) for table in shown.values())
    for axis, (name, title) in zip(axes, (("votes", "votes"), ("predicted", "prediction")), strict=True):
        image = axis.imshow(shown[name], cmap="Blues", vmin=0, vmax=top, aspect="equal")
        axis.set_xticks(range(len(columns)), [short(support[k], 16) for k in columns], rotation=90)
        axis.tick_params(length=0)
        axis.spines[:].set(visible=True, color=FAINT)
        axis.set(title=title, xlabel="mean probability of")
        if len(columns) <= 12:
            _write_numbers(axis, shown[name], range(len(columns)), range(len(rows)), top)
    axes[0].set_yticks(range(len(rows)), [f"{short(support[k], 16)} ({items[k]:,})" for k in rows])
    axes[0].set_ylabel("plurality of the votes (items)")
    figure.colorbar(image, ax=list(axes), shrink=0.8, label="probability")
    return figure


def plot_reliability(votes: np.ndarray, predicted: np.ndarray, *, bins: int = 10, unit: str = "label") -> Figure:
    """Share of votes against predicted probability `(N, K)`, in bins of equal numbers of (item, label) pairs."""
    order = np.argsort(predicted.ravel(), kind="stable")
    groups = [group for group in np.array_split(order, min(bins, len(order))) if len(group)]
    x, y = (np.array([shares.ravel()[group].mean() for group in groups]) for shares in (predicted, votes))
    figure, axis = canvas(4.4, 4.8)
    top = min(1.0, 1.15 * float(max(x.max(), y.max())))
    _diagonal(axis, 0, top, "perfect calibration", margin=0.02)
    share = "each" if len(groups) == 1 else f"each 1/{len(groups)}"
    axis.plot(x, y, "o-", color=BLUE, markersize=5, linewidth=1.2, label=f"mean of {share} of the predictions")
    axis.set(xlabel=f"predicted probability of a {unit}", ylabel=f"share of votes for that {unit}")
    legend(figure, axis, 1, grid="both")
    return figure


def plot_entropy(votes: np.ndarray, predicted: np.ndarray, n_labels: int, correlation: float | None = None) -> Figure:
    """Entropy of the prediction against entropy of the votes `(N,)` in nats, one point per item (hexagons above 2,000)."""
    top = float(np.log(max(n_labels, 2)))
    many = len(votes) > 2000
    figure, axis = canvas(5.4 if many else 4.5, 4.8)
    if many:
        cells = axis.hexbin(votes, predicted, gridsize=35, extent=(0, top, 0, top), cmap="Blues", bins="log", mincnt=1)
        # The default labels are powers of ten set as formulas, which this style draws as plain text.
        figure.colorbar(cells, ax=axis, label="items", shrink=0.7, format=lambda count, _: f"{count:,.0f}")
    else:
        axis.plot(votes, predicted, "o", color=BLUE, markersize=4, alpha=0.5, markeredgewidth=0)
    _diagonal(axis, 0, top, "equal", margin=0.03)
    axis.set(xlabel="entropy of the votes (nats)", ylabel="entropy of the prediction (nats)")
    r = "" if correlation is None else f"r = {correlation:.2f}, "
    axis.set_title(f"{r}{counted(len(votes), 'item')}")
    axis.axhline(top, color=DARK, linestyle=":", linewidth=0.9, label=f"largest possible, ln {n_labels}")
    axis.axvline(top, color=DARK, linestyle=":", linewidth=0.9)
    legend(figure, axis, 2)
    return figure


def plot_rater_bias(recovered: Mapping[str, Mapping[str, Any]]) -> Figure:
    """True bias of simulated raters against the bias that the model found, one panel per question of `recovered_bias`."""
    figure, axes = canvas(3.6 * len(recovered) + 0.2, 3.7, 1, len(recovered), squeeze=False)
    for axis, (question, found) in zip(axes[0], recovered.items(), strict=True):
        true, estimated = np.asarray(found["true"]), np.asarray(found["recovered"])
        reach = 1.08 * max(abs(true).max(), abs(estimated).max(), 1e-6)
        _diagonal(axis, -reach, reach, "equal")
        axis.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        axis.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
        axis.plot(true, estimated, "o", color=BLUE, markersize=4.5, alpha=0.7, markeredgewidth=0)
        axis.set(xlabel="true bias (scale points)", ylabel="bias found by the model (scale points)")
        axis.set_title(f"{short(question)}: r = {found['correlation']['value']:.2f}, {counted(len(true), 'rater')}")
        axis.legend(loc="upper left")
    return figure


def plot_raters(per_rater: pd.DataFrame, measures: Mapping[str, str], better: str) -> Figure:
    """A dot per rater: each measure (its prefix in the table -> title) by the rater's own head and by the consensus."""
    figure, axes = canvas(3.6 * len(measures) + 0.2, 3.9, 1, len(measures), squeeze=False)
    for axis, (prefix, title) in zip(axes[0], measures.items(), strict=True):
        known = per_rater[[f"{prefix}_consensus", f"{prefix}_model"]].dropna().to_numpy()
        x, y = known.T
        won = (y > x) if better == "higher" else (y < x)
        _diagonal(axis, *_around(known), "equal")
        for rows, colour, shape, label in (
            (won, BLUE, "o", "own head better"),
            (~won, ORANGE, "D", "consensus better"),
        ):
            axis.plot(x[rows], y[rows], shape, color=colour, markersize=4.5, alpha=0.8, markeredgewidth=0, label=label)
        axis.set(xlabel="by the consensus", ylabel="by the rater's own head")
        axis.set_title(f"{title}\nown head better for {won.sum():,} of {len(won):,}")
    legend(figure, axes[0, 0], 3)
    return figure


def _diagonal(axis: Axes, low: float, high: float, label: str, margin: float = 0.0) -> None:
    """A square panel from `low` to `high`, and so much of that further, with a line where both are equal."""
    axis.plot([low, high], [low, high], "--", color=DARK, linewidth=0.9, label=label, zorder=1)
    further = margin * (high - low)
    axis.set(xlim=(low - further, high + further), ylim=(low - further, high + further), aspect="equal")


def _around(values: np.ndarray) -> tuple[float, float]:
    """The ends of a panel that has all values inside."""
    margin = 0.08 * (values.max() - values.min()) + 1e-3
    return values.min() - margin, values.max() + margin


def plot_speakers(per_speaker: Mapping[str, tuple[float, float, int]], *, most: int = 30) -> Figure:
    """Speakers from best to worst, the middle left out above `most`: JSD (nats) of model and of marginal, and items."""
    ranked = sorted(per_speaker.items(), key=lambda entry: entry[1][0])
    shown = ranked if len(ranked) <= most else ranked[: most // 2] + ranked[-(most - most // 2) :]
    figure, axis = canvas(6.0, 1.4 + 0.22 * len(shown))
    model, marginal, items = zip(*(values for _, values in shown), strict=True)
    rows = range(len(shown))
    for row in rows:
        axis.plot([model[row], marginal[row]], [row, row], "-", color=FAINT, linewidth=1, zorder=1)
    axis.plot(model, rows, "o", color=BLUE, markersize=5, label="model")
    axis.plot(marginal, rows, "D", color=ORANGE, markersize=4, label="marginal")
    if len(ranked) > most:
        axis.axhline(most // 2 - 0.5, color=DARK, linestyle=":", linewidth=0.9)
        axis.set_title(f"the {most // 2} best and {most - most // 2} worst predicted of {len(ranked):,} speakers")
    axis.set_yticks(rows, [f"{short(name)} ({count})" for (name, _), count in zip(shown, items, strict=True)])
    axis.tick_params(axis="y", labelsize=8)
    axis.set(xlabel="mean Jensen-Shannon divergence (nats)", ylabel="speaker (items)", ylim=(len(shown) - 0.3, -0.7))
    axis.set_xlim(left=0)
    legend(figure, axis, 2)
    return figure


def plot_speaker_pairs(a: np.ndarray, b: np.ndarray, names: Sequence[str]) -> Figure:
    """Mean JSD `(S,)` in nats of two named runs for each speaker, one point per speaker."""
    figure, axis = canvas(4.4, 4.6)
    _diagonal(axis, *_around(np.concatenate([a, b])), "equal")
    axis.plot(a, b, "o", color=BLUE, markersize=5, alpha=0.7, markeredgewidth=0, label="speaker")
    axis.set(xlabel=f"JSD of {short(names[0])} (nats)", ylabel=f"JSD of {short(names[1])} (nats)")
    axis.set_title(f"{short(names[0])} better for {int((a < b).sum()):,} of {counted(len(a), 'speaker')}")
    legend(figure, axis, 2, grid="both")
    return figure


def plot_speaker_recall(per_speaker: pd.DataFrame) -> Figure:
    """Share of speakers whose n-best UAR (columns "uar_1_best" ...) exceeds each level; at .75 and .50 it is paUAR."""
    figure, axis = canvas(5.6, 3.9)
    for n, (colour, dashes) in enumerate(_DASHES[:3], start=1):
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
    legend(figure, axis, 3, grid="both")
    return figure


def plot_strata(found: Evaluation) -> Figure:
    """JSD, accuracy and macro-F1 of model and marginal in every stratum, with 95 % intervals."""
    figure, axes = canvas(7.6, 3.3, 1, 3)
    place = {one.key: index + (one.scheme == "tertiles") * 0.7 for index, one in enumerate(found.strata)}
    shown = [one.key for one in found.strata if one.rows.any()]
    measures = {"jsd": "JSD (nats)", "accuracy": "accuracy", "macro_f1": "macro-F1"}
    for axis, (name, title) in zip(axes, measures.items(), strict=True):
        for system, colour, marker, shift in ((MODEL, BLUE, "o", -0.13), (MARGINAL, ORANGE, "D", 0.13)):
            entries, x = [found.at(f"{name}_{key}", system) for key in shown], [place[key] + shift for key in shown]
            for at, entry in zip(x, entries, strict=True):
                if entry["low"] is not None:
                    axis.vlines(at, entry["low"], entry["high"], color=colour, linewidth=1.3)
            y = [np.nan if entry["value"] is None else entry["value"] for entry in entries]
            axis.plot(x, y, marker, color=colour, markersize=5, label=system)
        axis.set_xticks(list(place.values()), [stratum.name for stratum in found.strata])
        axis.set(xlabel="thirds of range   tertiles of items", title=title, xlim=(-0.5, max(place.values()) + 0.5))
        axis.set_ylim(bottom=0)
        axis.grid(axis="y", color=GRID, linewidth=0.7)
    legend(figure, axes[0], 2)
    return figure


def plot_equivalence(told: Equivalence, names: Sequence[str]) -> Figure:
    """The loss of k raters against k, and the loss of each named system as a line that crosses it."""
    figure, axis = canvas(5.6, 4.1)
    k, largest = told.raters, int(told.raters[-1])
    curve = np.array([entry["value"] for entry in told.curve])
    if told.curve[0]["low"] is not None:
        low, high = (np.array([entry[end] for entry in told.curve]) for end in ("low", "high"))
        axis.fill_between(k, low, high, color=DARK, alpha=0.12, linewidth=0)
    marker = "o" if largest <= 20 else ""
    axis.plot(k, curve, color=DARK, marker=marker, markersize=4, linewidth=1.3, label="k raters")
    axis.plot(0, curve[0], "D", color=ORANGE, markersize=6, label="marginal (no rater)", zorder=4)
    for name, (colour, dashes) in zip(names, _DASHES, strict=False):
        loss, worth = told.systems[name]["loss"], told.systems[name]["worth"]
        label = f" {short(name)}: worth {worth['text'].split(' (')[0]} raters"
        axis.axhline(loss["value"], color=colour, linestyle=dashes, linewidth=1.4, label=label)
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
    legend(figure, axis, 2, grid="both")
    return figure


def plot_differences(found: Evaluation, measures: Sequence[str]) -> Figure:
    """Differences of two systems, right better for the first, per cents as shares; without measures that have no better."""
    a, b = found.systems
    shown = [(found[name], found.difference(name, a, b), found.better(name, a, b)) for name in measures]
    shown = [row for row in shown if row[0]["better"] and row[1]["value"] is not None]
    figure, axis = canvas(7.0, 1.5 + 0.3 * len(shown))
    axis.axvline(0, color=FAINT, linewidth=1, zorder=0)
    sides = {a: (BLUE, "o"), b: (VERMILION, "s"), "": (DARK, "D")}
    labels = {a: f" {short(a)} better", b: f" {short(b)} better", "": "undecided"}
    for row, (one, difference, better) in enumerate(shown):
        sign = (1 if one["better"] == "higher" else -1) / (100 if one["unit"] == "%" else 1)
        colour, marker = sides[better]
        turned = {end: value if value is None else sign * value for end, value in difference.items()}
        draw_interval(axis, row, turned, colour, 1.5, marker=marker, markersize=5.5, label=labels.pop(better, None))
    units = ("share" if one["unit"] == "%" else one["unit"] for one, *_ in shown)
    names = [f"{short(one['title'], 44)} ({unit})" for (one, *_), unit in zip(shown, units, strict=True)]
    name_rows(axis, names)
    reach = 1.08 * max(abs(end) for end in axis.dataLim.intervalx) or 1.0
    axis.set_xlim(-reach, reach)
    axis.set_xlabel(f"\u2190 {short(b)} better    difference    {short(a)} better \u2192")
    legend(figure, axis, 3, grid="x")
    return figure


def draw_interval(
    axis: Axes, row: float, entry: Mapping[str, Any], colour: str, width: float, **point: str | float | None
) -> None:
    """A value as a point, and its interval, if there is one, as a horizontal line."""
    if entry["low"] is not None:
        axis.hlines(row, entry["low"], entry["high"], color=colour, linewidth=width)
    if entry["value"] is not None:
        axis.plot(entry["value"], row, color=colour, linestyle="none", **point)


def plot_systems(found: Evaluation) -> Figure:
    """Six measures, one row per system: mean over runs with its 95 % interval, each run, and the marginal as a line."""
    names = found.systems
    figure, axes = canvas(8.4, 2.4 + 0.5 * len(names), 2, 3, sharey=True)
    for axis, (measure, title) in zip(axes.flat, PANELS.items(), strict=True):
        marginal = found.at(measure, MARGINAL)
        if marginal is not None and marginal["value"] is not None:
            axis.axvline(marginal["value"], color=ORANGE, linestyle="--", linewidth=1.2, label="marginal", zorder=1)
        several = bool(found.measured(measure).runs)
        labels = ("each run", "mean of the runs, 95 % interval") if several else (None, "95 % interval")
        for row, name in enumerate(names):
            one = found.at(measure, name)
            values = [value for value in one.get("runs", ()) if value is not None]
            every = {"color": DARK, "alpha": 0.5, "markersize": 6, "label": labels[0]}
            axis.plot(values, [row + 0.22] * len(values), "|", **every)
            draw_interval(axis, row, one, BLUE, 1.6, marker="o", markersize=5, label=labels[1])
            # One entry in the legend stands for all rows.
            labels = (None, None)
        axis.tick_params(axis="y", length=0)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", color=GRID, linewidth=0.7)
        axis.set_xlabel(title + _BETTER[found.measured(measure).better])
    name_rows(axes[0, 0], [short(name, 28) for name in names])
    legend(figure, axes[0, 0], 3)
    return figure


def plot_conditions(conditions: Sequence[str], jsd: Mapping[str, Mapping[str, Any]]) -> Figure:
    """JSD (nats) of each condition with its interval; clean clips, the first one, and the marginal are lines too."""
    figure, axis = canvas(6.0, 1.3 + 0.32 * len(conditions))
    axis.axvline(jsd[conditions[0]]["value"], color=FAINT, linewidth=1, label=conditions[0], zorder=0)
    axis.axvline(jsd[MARGINAL]["value"], color=ORANGE, linestyle="--", linewidth=1.2, label="marginal", zorder=0)
    for row, name in enumerate(conditions):
        draw_interval(axis, row, jsd[name], BLUE, 1.5, marker="o", markersize=5.5, label=None if row else "model")
    name_rows(axis, conditions)
    axis.set_xlim(left=0)
    axis.set_xlabel("mean Jensen-Shannon divergence (nats)")
    legend(figure, axis, 3, grid="x")
    return figure
