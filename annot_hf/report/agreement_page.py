"""The page of `annot-hf agree`: tables and plots of an `AgreementStudy`."""

import os
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from annot_hf.evaluation.agreement import AGREEMENTS, Agreement
from annot_hf.evaluation.agreement_study import FEWEST_PAIRABLE, AgreementStudy, QuestionStudy
from annot_hf.evaluation.ceiling import CEILING, LEFT_OUT, SPLIT_HALF
from annot_hf.evaluation.rater_evidence import FEWEST_VOTES
from annot_hf.evaluation.scoring import ITEM_MEASURES
from annot_hf.report.figures import (
    BLUE,
    DARK,
    GREEN,
    GRID,
    ORANGE,
    VERMILION,
    canvas,
    draw_interval,
    legend,
    name_rows,
    short,
)
from annot_hf.report.pages import Section, write_study
from annot_hf.report.tables import ARROWS, Cell, Table, agreement_table, counted, number, say, value_cell, worded

# Rows of the lists of raters and of items that the page shows; the tables beside it have all.
_SHOWN = 15
_SERIES = ((BLUE, "o"), (ORANGE, "D"), (GREEN, "s"), (VERMILION, "^"), (DARK, "v"))
# Titles of what `one_more_rating` tells beside measures of agreement and ceilings.
_RATING_ERRORS = {
    "mean_error": ("Error of an item's mean rating, points",),
    "forecast_error": ("Error of the forecast of the next rating, points",),
}
# A line per question, however many: the colours again, with other dashes.
_LINES = tuple((colour, dashes) for dashes, (colour, _) in product(("-", "--", ":", "-."), _SERIES))


def study_tables(found: AgreementStudy) -> list[Table]:
    """The agreement on every question, and differences between questions of the same labels."""
    shown = agreement_table(found.found) + agreement_spread_table(found.found)
    rows = [
        (
            f"{one} \u2212 {other}",
            *(value_cell(told.get(name)) for name in ("alpha", "pairwise", "entropy", "deviation")),
        )
        for (one, other), told in found.differences.items()
    ]
    return [*shown, *([worded("agreement_differences", rows)] if rows else [])]


def agreement_spread_table(found: Sequence[Agreement]) -> list[Table]:
    """How much the votes of an item differ, and what one tells about another; empty if no question has these measures."""
    names = ("entropy", "information", "deviation", "rest_ccc")
    shown = [one for one in found if any(name in one.draws for name in names)]
    rows = [(one.question, *(value_cell(getattr(one, name).to_dict()) for name in names)) for one in shown]
    return [worded("agreement_spread", rows)] if rows else []


def save_study(found: AgreementStudy, out: str | os.PathLike, *, corpus: str, details: Mapping[str, Any]) -> Path:
    """Write agreement.html, .md and .json, plots, raters.csv, and next.csv with all items to ask about next.

    Returns the path of the page. Files of these names that are not from an earlier call raise a ValueError.
    """
    large = [one for one in found.found if one.pairable_items >= FEWEST_PAIRABLE] or found.found
    sections = [Section(study_tables(found), {"agreements": lambda: plot_agreements(large)})]
    tables: dict[str, list[pd.DataFrame]] = {"raters": [], "next": []}
    notes = [say("agreement_page.intervals", units=found.units)]
    for place, (name, one) in enumerate(found.questions.items()):
        sections += _question_sections(name, one, place)
        for kind, table in (("raters", one.raters), ("next", one.ranked)):
            if len(table):
                tables[kind].append(table.assign(question=name))
        if one.not_run:
            reasons = " ".join(dict.fromkeys(one.not_run.values()))
            notes.append(say("agreement_page.not_run", question=name, methods=list(one.not_run), reasons=reasons))
    categories = {name: one for name, one in found.questions.items() if one.entropies is not None}
    if categories:
        figures = {
            "item_entropies": lambda: plot_entropies({name: one.entropies for name, one in categories.items()}),
            "next_votes": lambda: plot_next({name: one.ranked for name, one in categories.items()}),
        }
        sections.insert(1, Section((), figures))
    return write_study(
        Path(out),
        "agreement",
        title=say("agreement_page.title", corpus=corpus),
        summary=say("agreement_page.summary", found=large),
        sections=sections,
        notes=[note for note in notes if note],
        details=details,
        data=found.to_dict(),
        tables={kind: pd.concat(parts) for kind, parts in tables.items() if parts},
    )


def _question_sections(name: str, one: QuestionStudy, place: int) -> list[Section]:
    shown, values = [], {"question": name, "found": one}
    if one.ceilings:
        kinds = (CEILING, SPLIT_HALF, LEFT_OUT)
        rows = []
        for measure, told in one.ceilings.items():
            title, unit, better = ITEM_MEASURES[measure]
            cells = (value_cell(told[kind], unit) if kind in told else Cell("") for kind in kinds)
            rows.append((Cell(title + ARROWS[better], unit), *cells))
        shown.append(worded("ceilings", rows, **values))
    if one.moves:
        rows = [
            (method, told["items"], value_cell(told["changed"]), value_cell(told["jsd"]))
            for method, told in one.moves.items()
        ]
        shown.append(worded("moves", rows, **values))
    if one.more:
        rows = []
        for measure, told in one.more.items():
            best = measure.startswith("best_")
            known = ITEM_MEASURES if best else AGREEMENTS | _RATING_ERRORS
            title = known[measure.removeprefix("best_")][0]
            change = told["after"] - told["now"]
            cells = (number(told["now"], 3), number(told["after"], 3), number(change, 3))
            rows.append((Cell(title, "best possible" if best else "of the votes"), *cells))
        shown.append(worded("more_votes", rows, **values))
    *_, last = one.ranked
    rows = [
        (str(row["item"]), int(row["votes"]), number(row["value"], 4), number(row[last], 2))
        for _, row in one.ranked.head(_SHOWN).iterrows()
    ]
    shown.append(worded("next_items" if last == "changes" else "next_rated", rows, **values))
    sections = [Section(shown)] if shown else []
    judged = one.raters
    if len(judged):
        judged = judged[(judged["votes"] >= FEWEST_VOTES) & judged["information"].notna()]
    if len(judged):
        agreed = "ccc" if "ccc" in judged else "agreement"
        rows = [
            (
                Cell(str(row["rater"]), "flagged" if row["flagged"] else ""),
                int(row["votes"]),
                number(row[agreed], 3),
                value_cell({"value": row["information"], "low": row["low"], "high": row["high"]}),
                number(100 * row["favourite"], 0) if "favourite" in row else "",
            )
            for _, row in judged.head(_SHOWN).iterrows()
        ]
        table = worded("rater_evidence", rows, judged=len(judged), flagged=int(judged["flagged"].sum()), **values)
        sections.append(Section([table], {f"evidence_{place}": lambda: plot_evidence(judged)}, name))
    if one.groups:
        rows = []
        for column, by in one.groups.items():
            for value, told in by.items():
                spread = told.deviation if told.entropy.value is None else told.entropy
                cells = (value_cell(measure.to_dict()) for measure in (told.alpha, told.pairwise, spread))
                rows.append((Cell(value, column), *cells, told.items))
        table = worded("group_agreement", rows, **values)
        sections.append(Section([table], {f"groups_{place}": lambda: plot_groups(one)}, name))
    return sections


def plot_agreements(found: Sequence[Agreement]) -> Figure:
    """Alpha, pairwise agreement and both kappas of every question, with their intervals."""
    names = ("alpha", "pairwise", "fleiss_kappa", "cohen_kappa")
    figure, axis = canvas(6.4, 1.5 + 0.55 * len(found))
    for shift, (name, (colour, marker)) in enumerate(zip(names, _SERIES, strict=False)):
        label = AGREEMENTS[name][0]
        for row, one in enumerate(found):
            value = getattr(one, name).to_dict()
            if value["value"] is not None:
                at = row + 0.17 * (shift - 1.5)
                draw_interval(axis, at, value, colour, 1.6, marker=marker, markersize=5, label=label)
                label = None
    axis.axvline(0, color=DARK, linewidth=0.8)
    name_rows(axis, [short(one.question) for one in found])
    axis.set_xlim(right=1.02)
    axis.set_xlabel("agreement (1 is perfect; 0 is chance, but for pairwise agreement)")
    legend(figure, axis, 2, grid="x")
    return figure


def plot_entropies(entropies: Mapping[str, np.ndarray]) -> Figure:
    """Share of items by the entropy of their votes over ln K, a line per question."""
    figure, axis = canvas(6.4, 3.6)
    for (name, values), (colour, dashes) in zip(entropies.items(), cycle(_LINES), strict=False):
        share = np.arange(len(values) + 1) / len(values) * 100
        x, y = [0, *np.sort(values), 1], [*share, 100]
        axis.step(x, y, where="post", color=colour, linestyle=dashes, label=f" {short(name)}")
    axis.set(xlabel="entropy of an item's votes over ln K (0: all agree)", ylabel="items up to this (%)", xlim=(0, 1))
    axis.set_ylim(0, 101)
    legend(figure, axis, 3, grid="both")
    return figure


def plot_next(ranked: Mapping[str, pd.DataFrame]) -> Figure:
    """Value of one more vote on the items, most valuable first, a line per question."""
    figure, axis = canvas(6.4, 3.6)
    for (name, table), (colour, dashes) in zip(ranked.items(), cycle(_LINES), strict=False):
        share = np.arange(len(table) + 1) / len(table) * 100
        value = 1000 * table["value"].to_numpy()
        axis.step(share, [*value[:1], *value], where="pre", color=colour, linestyle=dashes, label=f" {short(name)}")
    axis.set(xlabel="items, most valuable first (%)", ylabel="value of one more vote (1/1000 nats)", xlim=(0, 100))
    axis.set_ylim(bottom=0)
    legend(figure, axis, 3, grid="both")
    return figure


def plot_evidence(judged: pd.DataFrame) -> Figure:
    """Information of every rater with enough votes and its interval, in order; flagged raters stand out."""
    order = judged.sort_values("information", kind="stable")
    figure, axis = canvas(6.4, 3.6)
    place, flagged = np.arange(len(order)), order["flagged"].to_numpy(dtype=bool)
    for rows, colour, marker, label in ((~flagged, BLUE, "o", "rater"), (flagged, VERMILION, "D", "flagged")):
        if rows.any():
            axis.vlines(place[rows], order["low"][rows], order["high"][rows], color=colour, linewidth=0.8, alpha=0.5)
            axis.plot(place[rows], order["information"][rows], marker, color=colour, markersize=3.5, label=label)
    axis.axhline(0, color=DARK, linewidth=0.8)
    scale = "correlation with the rest" if "ccc" in judged else "information on others' votes (nats)"
    axis.set(xlabel=f"{counted(len(order), 'rater')}, least informative first", ylabel=scale)
    legend(figure, axis, 2, grid="y")
    return figure


def plot_groups(one: QuestionStudy) -> Figure:
    """Alpha in every group of items, with intervals."""
    rows = [(f"{column}: {value}", told) for column, by in one.groups.items() for value, told in by.items()]
    rows = [row for row in rows if row[1].alpha.value is not None]
    figure, axis = canvas(6.4, 1.2 + 0.24 * len(rows))
    whole = one.found.alpha.value
    axis.axvline(whole, color=ORANGE, linestyle="--", linewidth=1.2, label="all items", zorder=0)
    for row, (_, told) in enumerate(rows):
        draw_interval(
            axis, row, told.alpha.to_dict(), BLUE, 1.5, marker="o", markersize=5, label=None if row else "group"
        )
    name_rows(axis, [short(name, 32) for name, _ in rows])
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlabel("Krippendorff's alpha")
    axis.grid(axis="x", color=GRID, linewidth=0.7)
    legend(figure, axis, 2)
    return figure
