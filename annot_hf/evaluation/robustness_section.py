"""Acoustic conditions as a section of a report: two tables and a plot."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from annot_hf.evaluation.pages import Section
from annot_hf.evaluation.plots import FAINT, GRID, MARGINAL as MARGINAL_COLOUR, MODEL, legend
from annot_hf.evaluation.robustness import MARGINAL, Robustness
from annot_hf.evaluation.tables import ARROWS, Cell, Table, value_cell


def robustness_section(found: Robustness) -> Section:
    """Scores under each condition, their differences to clean, and JSD drawn for every condition."""
    heads = (f"{one['title']}{ARROWS[one['better']]} ({one['unit']})" for one in found.measures.values())
    columns = ("Condition", *heads)
    rows = _rows(found, "values", (*found.conditions, MARGINAL))
    scores = Table("Unseen acoustic conditions", columns, rows, _note(found))
    told = "Condition \u2212 clean on the same resamples (paired)."
    differences = Table("What each condition changes", columns, _rows(found, "differences", found.conditions[1:]), told)
    jsd = found.measures["jsd"]["values"]
    figures = {
        "conditions": (
            lambda: plot_conditions(found.conditions, jsd),
            "Mean divergence from the votes under each acoustic condition, with 95 % intervals; the lines are the model on "
            "clean clips and the marginal.",
        )
    }
    return Section([scores, differences], figures)


def plot_conditions(conditions: Sequence[str], jsd: Mapping[str, Mapping[str, Any]]) -> Figure:
    """JSD of each condition with its interval, beside those of clean clips and of the marginal.

    Args:
        conditions: Names, clean first.
        jsd: `{value, low, high}` (nats) of each of them and of "marginal".
    """
    figure = Figure(figsize=(6.0, 1.3 + 0.32 * len(conditions)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(jsd[conditions[0]]["value"], color=FAINT, linewidth=1, label=conditions[0], zorder=0)
    axis.axvline(
        jsd[MARGINAL]["value"], color=MARGINAL_COLOUR, linestyle="--", linewidth=1.2, label="marginal", zorder=0
    )
    for row, name in enumerate(conditions):
        one = jsd[name]
        if one["low"] is not None:
            axis.hlines(row, one["low"], one["high"], color=MODEL, linewidth=1.5)
        axis.plot(one["value"], row, "o", color=MODEL, markersize=5.5, label=None if row else "model")
    axis.set_yticks(range(len(conditions)), conditions)
    axis.set_ylim(len(conditions) - 0.4, -0.6)
    axis.set_xlim(left=0)
    axis.set_xlabel("mean Jensen-Shannon divergence (nats)")
    axis.grid(axis="x", color=GRID, linewidth=0.7)
    legend(figure, axis, 3)
    return figure


def _rows(found: Robustness, what: str, names: Sequence[str]) -> list[tuple[Cell, ...]]:
    return [
        (Cell(name), *(value_cell(record[what][name], record["unit"]) for record in found.measures.values()))
        for name in names
    ]


def _note(found: Robustness) -> str:
    return (
        "The same clips altered before the model hears them, against the same votes. noise: white Gaussian noise at a "
        "signal-to-noise ratio (dB). reverb: a room that decays by 60 dB in so many seconds, heard at the critical distance. "
        "telephone: 8 kHz, 300 to 3400 Hz, G.711 mu-law. mp3: LAME at so many kbit/s. In brackets: 95 % intervals. The "
        f"marginal is {found.baseline}."
    )
