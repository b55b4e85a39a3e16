"""A prediction as HTML, SVG and tables: each function takes the `Predictions` of one clip and returns text.

Matplotlib pictures would be unreadable on a phone and bright in the dark theme. Names come from a checkpoint and are escaped.
"""

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd

from annot_hf.data.predictions import Predictions
from annot_hf.data.questions import Question
from annot_hf.report.figures import short
from annot_hf.report.tables import markdown_safe


def draw_grid(predictions: Predictions) -> str:
    """The distribution over two scales as a heat map, raters as dots; first question upwards, second to the right."""
    vertical, horizontal = predictions.questions
    probs = predictions.probs[0]
    bins, size, left, top = round(len(probs) ** 0.5), 400, 64, 8
    side = size / bins
    parts = []
    for row, values in enumerate(probs.reshape(bins, bins)):
        for column, value in enumerate(values):
            x, y = left + column * side, top + size - (row + 1) * side
            # Never fully opaque, so that the text stays readable on every cell in both themes.
            box = f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}"'
            parts.append(f'{box} fill-opacity="{0.85 * value / probs.max():.3f}"/>')
            if bins <= 6 and value >= 0.005:
                parts.append(f'<text x="{x + 7:.1f}" y="{y + 19:.1f}">{percent(value)}</text>')
    for tick in np.linspace(-1, 1, bins + 1):
        at = (tick + 1) / 2 * size
        x_name, y_name = f"{float(horizontal.denormalise(tick)):.3g}", f"{float(vertical.denormalise(tick)):.3g}"
        parts.append(f'<text x="{left + at:.1f}" y="{top + size + 20}" text-anchor="middle">{x_name}</text>')
        parts.append(f'<text x="{left - 10}" y="{top + size - at + 5:.1f}" text-anchor="end">{y_name}</text>')
    middle = top + size / 2
    parts.append(
        f'<text x="{left + size / 2}" y="{top + size + 46}" text-anchor="middle">{escape(units(horizontal))}</text>'
    )
    turn = f'transform="rotate(-90 18 {middle})"'
    parts.append(f'<text x="18" y="{middle}" text-anchor="middle" {turn}>{escape(units(vertical))}</text>')

    for name, value in zip(predictions.rater_names, predictions.rater_values, strict=True):
        y, x = top + size - place(value[0]) * size / 100, left + place(value[1]) * size / 100
        parts.append(f'<circle class="rater" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(name)}</title></circle>')
    legend = ""
    if predictions.consensus is not None:
        up, right = predictions.consensus[0]
        y, x = top + size - place(up) * size / 100, left + place(right) * size / 100
        parts.append(
            f'<path class="agreed" d="M{x:.1f} {y - 10:.1f}l10 10l-10 10l-10 -10z"><title>consensus</title></path>'
        )
        legend = (
            '<span class="key"><svg viewBox="0 0 18 14"><circle class="rater" cx="9" cy="7" r="5"/></svg> a rater</span> '
            '<span class="key"><svg viewBox="0 0 18 14"><path class="agreed" d="M9 1l6 6l-6 6l-6 -6z"/></svg> consensus</span>'
        )
    names = f"{escape(horizontal.name)}-{escape(vertical.name)} grid"
    return (
        f'<div class="chart"><h3>{names[0].upper()}{names[1:]}</h3><p>Share of opinions in each cell. {legend}</p>'
        f'<svg viewBox="0 0 {left + size + 16} {top + size + 56}" role="img" aria-label="{names}">{"".join(parts)}</svg></div>'
    )


def draw_bars(predictions: Predictions) -> str:
    """The distribution over labels, or over the steps of one scale, as bars."""
    question = predictions.questions[0]
    title = units(question) if question.is_scale else question.name
    return bars(
        title,
        "Share of votes for each answer; the whole width is 100 %.",
        support_names(predictions),
        predictions.probs[0],
    )


def bars(title: str, note: str, names: Sequence[str], shares: Sequence[float]) -> str:
    """Named shares (0 to 1) as horizontal bars."""
    rows = "".join(
        f'<span>{escape(name)}</span><div class="track"><div class="bar" style="width:{100 * share:.1f}%"></div></div>'
        f'<span class="number">{percent(share)}</span>'
        for name, share in zip(names, shares, strict=True)
    )
    return f'<div class="chart"><h3>{escape(title)}</h3><p>{note}</p><div class="bars">{rows}</div></div>'


def draw_raters(predictions: Predictions) -> str:
    """Every rater's rating on each scale and how far it lies from the consensus, or every rater's likeliest label."""
    if not predictions.is_scale:
        best = [(name, int(value.argmax()), value.max()) for name, value in rater_rows(predictions)]
        names = [f"{short(name, 20)}: {predictions.support[label]}" for name, label, _ in best]
        note = "The answer that the rater would most likely give, and its probability."
        return bars("Each rater", note, names, [share for *_, share in best])
    agreed = np.clip(predictions.consensus[0], -1, 1)
    rows = [("consensus", agreed, "diamond"), *((name, value, "circle") for name, value in rater_rows(predictions))]
    panels = []
    for column, question in enumerate(predictions.questions):
        ticks = "".join(f"<span>{tick:.3g}</span>" for tick in np.linspace(question.low, question.high, 5))
        cells = [f'<b>rater</b><div class="ticks">{ticks}</div><span></span>']
        middle = place(agreed[column])
        for name, values, mark in rows:
            at = place(values[column])
            cells.append(
                f'<span class="name" title="{escape(name)}">{escape(name)}</span><div class="lane">'
                f'<i class="line" style="left:{middle:.1f}%"></i>'
                f'<i class="step" style="left:{min(at, middle):.1f}%;width:{abs(at - middle):.1f}%"></i>'
                f'<i class="{mark}" style="left:{at:.1f}%"></i></div>'
                f'<span class="number">{float(question.denormalise(values[column])):.1f}</span>'
            )
        title = f"<h3>Each rater: {escape(units(question))}</h3>"
        panels.append(f'<div>{title}<div class="raters">{"".join(cells)}</div></div>')
    return f'<div class="chart panels">{"".join(panels)}</div>'


def summarise(predictions: Predictions) -> str:
    """The result in a sentence of Markdown."""
    if predictions.is_scale and predictions.consensus is not None:
        rated = np.array([value for _, value in rater_rows(predictions)])
        parts = []
        for column, question in enumerate(predictions.questions):
            agreed = float(question.denormalise(np.clip(predictions.consensus[0, column], -1, 1)))
            low, high = (float(question.denormalise(edge(rated[:, column]))) for edge in (np.min, np.max))
            parts.append(f"**{markdown_safe(question.name)} {agreed:.1f}** (raters {low:.1f} to {high:.1f})")
        return f"Consensus: {', '.join(parts)}."
    best = int(predictions.probs[0].argmax())
    return f"Most votes: **{markdown_safe(support_names(predictions)[best])}**, {percent(predictions.probs[0, best])} of them."


def tabulate(predictions: Predictions) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The numbers behind the charts: the distribution, and the answer of each rater (scale points, or probabilities)."""
    columns = {"answer": support_names(predictions), "probability": predictions.probs[0].round(4)}
    names = [name for name, _ in rater_rows(predictions)]
    values = np.array([value for _, value in rater_rows(predictions)]).reshape(len(names), predictions.rater_width)
    if predictions.is_scale:
        raters = {units(q): q.denormalise(values[:, d]).round(2) for d, q in enumerate(predictions.questions)}
    else:
        raters = {label: values[:, k].round(4) for k, label in enumerate(predictions.support)}
    return pd.DataFrame(columns), pd.DataFrame({"rater": names, **raters})


def rater_rows(predictions: Predictions) -> list[tuple[str, np.ndarray]]:
    """Raters in the order of their names; ratings are clipped to their scale."""
    pairs = zip(predictions.rater_names, predictions.rater_values, strict=True)
    return sorted(((str(name), np.clip(value, -1, 1)) for name, value in pairs), key=lambda pair: pair[0])


def support_names(predictions: Predictions) -> list[str]:
    """Labels; for scales the ranges of a cell in scale points, such as "activation 1 to 2, valence 4 to 5"."""
    if not predictions.is_scale:
        return list(predictions.support)
    bins = round(len(predictions.support) ** (1 / len(predictions.questions)))
    names = [""]
    for question in predictions.questions:
        edges = [f"{edge:.3g}" for edge in question.denormalise(np.linspace(-1, 1, bins + 1))]
        steps = [f"{question.name} {low} to {high}" for low, high in zip(edges, edges[1:], strict=False)]
        names = [f"{name}, {step}".lstrip(", ") for name in names for step in steps]
    return names


def units(question: Question) -> str:
    """A scale's name with its ends."""
    return f"{short(question.name)} ({question.low:g} to {question.high:g})"


def place(value: float) -> float:
    """Where a value on [-1, 1] lies on its axis (%); beyond the ends counts as the end."""
    return float(50 * (np.clip(value, -1, 1) + 1))


def percent(value: float) -> str:
    """A share as text."""
    return "<1 %" if 0 < value < 0.005 else f"{100 * value:.0f} %"


def escape(name: object) -> str:
    """A name from a checkpoint, safe inside HTML and short enough to draw."""
    return html.escape(short(name, 40))
