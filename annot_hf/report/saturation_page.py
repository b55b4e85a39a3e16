"""The page of a saturation analysis: how many synthetic votes are enough, their worth, and where they agree with people."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from annot_hf.data.corpus import check_own
from annot_hf.evaluation.saturation import Curve, HeldOut, SaturationFinding
from annot_hf.evaluation.synthetic_agreement import AGREEMENT_MEASURES, ALL, NOTE, PERSON, SYNTHETIC, SyntheticAgreement
from annot_hf.report.pages import plain, write_markdown
from annot_hf.report.style import BLUE, DARK, GRID, ORANGE, save_figure
from annot_hf.report.tables import ARROWS, Cell, Table, number, value_cell

FILES = ("saturation.json", "saturation.md", "saturation.png")


@dataclass(frozen=True, eq=False)
class Saturation:
    """The result of `measure_saturation`.

    Attributes:
        curve: Divergence of synthetic votes from all human votes of an item.
        ideal: Divergence of votes drawn from the human distribution itself.
        finding: The number of votes that the curve suggests.
        ideal_finding: The number of votes that the ideal curve suggests.
        held_out: Synthetic and human votes compared with held-out people; None with too few people.
        agreement: Agreement by ambiguity; None if no item has votes of two people.
        counts: Items behind the curve, and items left out by reason.
        about: Corpus, question, splits, annotations, resamples and seed.
    """

    curve: Curve
    ideal: Curve
    finding: SaturationFinding
    ideal_finding: SaturationFinding
    held_out: HeldOut | None
    agreement: SyntheticAgreement | None
    counts: dict[str, int]
    about: dict[str, Any]

    @property
    def summary(self) -> str:
        """The findings in a few sentences."""
        votes, said = len(self.curve.mean), self.ideal_finding.suggested
        ideal = f"the same rule suggests {said}" if said else "the same rule suggests none"
        parts = [
            self.finding.text,
            f"For votes drawn from the human distribution itself {ideal}: their curve falls from {self.ideal.mean[0]:.4f} to "
            f"{self.ideal.mean[-1]:.4f} nats only because of the number of votes.",
        ]
        if self.held_out is not None:
            parts.append(
                f"Compared with held-out people, {votes} synthetic votes are worth this many other people: "
                f"{self.held_out.worth['text']}."
            )
        else:
            parts.append("Too few items have votes of two or more people, so the divergence among people is not known.")
        return " ".join(parts)

    def tables(self) -> list[Table]:
        """The curves, one row per n, and the agreement by ambiguity."""
        held = self.held_out
        columns = ("Votes", "Synthetic (nats)", "(bits)", "Fit (nats)", "Ideal (nats)")
        columns += ("Held out: synthetic", "Held out: people") if held else ()
        rows = []
        for row, one in enumerate(self.curve.estimates()):
            fitted = None if self.finding.fit is None else float(self.finding.fit.at(row + 1))
            mark = " (suggested)" if self.finding.suggested == row + 1 else ""
            cells = [
                Cell(f"{row + 1}{mark}"),
                value_cell(one.to_dict()),
                Cell(number(one.value / math.log(2), 3)),
                Cell(number(fitted, 3)),
                Cell(number(float(self.ideal.mean[row]), 3)),
            ]
            if held:
                for curve in (held.synthetic, held.human):
                    cells.append(Cell(number(float(curve.mean[row]) if row < len(curve.mean) else None, 3)))
            rows.append(tuple(cells))
        title = f"Divergence of n synthetic votes from people's, {self.counts['items']:,} items"
        return [
            Table(title, columns, rows, self.summary),
            *([synthetic_table(self.agreement)] if self.agreement else []),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        finding, ideal = (
            {"suggested": one.suggested, "text": one.text, "threshold": one.threshold}
            | {
                "fit": None
                if one.fit is None
                else {name: getattr(one.fit, name) for name in ("a", "b", "c", "top", "r2")}
            }
            for one in (self.finding, self.ideal_finding)
        )
        return plain(
            self.about
            | {
                "counts": self.counts,
                "suggested": self.finding.suggested,
                "finding": finding,
                "curve": self.curve.to_dict(),
            }
            | {"ideal": self.ideal.to_dict() | {"finding": ideal}}
            | {
                name: None if part is None else part.to_dict()
                for name, part in (("held_out", self.held_out), ("agreement", self.agreement))
            }
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write saturation.json, saturation.md and saturation.png; returns the folder.

        Raises:
            ValueError: The folder holds files with these names that are not from an earlier call.
        """
        folder = Path(folder)
        check_own(folder, FILES, marker=FILES[0], keys=("counts", "curve", "ideal"))
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / FILES[0]).write_text(text + "\n", encoding="utf-8")
        save_figure(lambda: plot_saturation(self.curve, self.ideal, self.finding, self.held_out), folder / FILES[2])
        write_markdown(
            folder / FILES[1],
            title=f"Synthetic votes on {self.about['corpus']}, {self.about['question']}",
            summary=self.summary,
            tables=self.tables(),
            notes=self._notes(),
            details=self.about | self.counts,
            figure=(FILES[2], "Mean divergence after n votes per item; bands are 95 % intervals."),
        )
        return folder

    def _notes(self) -> list[str]:
        count, about = len(self.curve.mean), self.about
        notes = [
            f"{count} synthetic votes per item at most, which every item of the curve has; n of them are drawn without "
            f"replacement, {about['resamples']} times. The rule is that of arXiv 2601.14620: the first n whose fitted "
            "divergence is within a tenth of the fall from the asymptote.",
            "A histogram of few votes is far from any distribution, so every curve falls: the suggested n shows when "
            "more votes of these annotators stop helping, not that they agree with people. The ideal curve has votes drawn "
            "from the human distribution itself; the distance to it is the annotators' error.",
        ]
        if self.held_out is not None:
            held = self.held_out
            notes.append(
                f"Held out: {len(held.human.mean)} people per item are drawn; all its others ({held.fewest} or more) are "
                f"the reference of both and of the synthetic votes, on {held.items:,} items. The reference is smaller than "
                "all human votes, so these two curves are comparable only with each other."
            )
        unit = "speakers" if about["speakers"] else "items"
        return [*notes, f"Intervals resample {unit}. JSD is the divergence, not its square root; 1 bit is ln 2 nats."]


def synthetic_table(found: SyntheticAgreement) -> Table:
    """One row per measure and kind of voter, one column per stratum."""
    rows = []
    for name, by_stratum in found.records.items():
        title, unit, better = AGREEMENT_MEASURES[name]
        for who in (SYNTHETIC, PERSON, "difference"):
            if who in by_stratum[ALL] and not (who == "difference" and better == ""):
                cells = [value_cell(by_stratum[stratum][who], unit) for stratum in found.strata]
                rows.append((Cell(title + ARROWS[better] if who == SYNTHETIC else ""), Cell(who), *cells))
    columns = [f"{name} {_entropy_range(one)}" for name, one in found.strata.items()]
    few = found.counts["items with fewer than 2 people"]
    note = f"{NOTE} {few:,} items with fewer than 2 people are left out." if few else NOTE
    sizes = [Cell(f"{one['items']:,}") for one in found.strata.values()]
    return Table(
        "Synthetic annotators and people",
        ("Measure", "of", *columns),
        [(Cell("Items"), Cell(""), *sizes), *rows],
        note,
    )


def _entropy_range(stratum: dict[str, Any]) -> str:
    low, high = stratum["low"], stratum["high"]
    return "items" if low is None else f"({low:.2f} to {high:.2f})"


def plot_saturation(curve: Curve, ideal: Curve, finding: SaturationFinding, held_out: HeldOut | None) -> Figure:
    """Divergence from all human votes with its fit and the ideal curve, and, if given, divergence from held-out people.

    Args:
        curve: Curve of the synthetic votes.
        ideal: Curve of votes drawn from the human distribution itself.
        finding: The number of votes that the curve suggests.
        held_out: Synthetic and human votes compared with held-out people.
    """
    panels = 1 if held_out is None else 2
    figure = Figure(figsize=(4.6 * panels + 0.6, 3.9), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _line(axes[0], curve, BLUE, "o", "synthetic votes")
    _line(axes[0], ideal, DARK, "s", "drawn from the human votes")
    count = len(curve.mean)
    if finding.fit is not None:
        n = np.linspace(1, count, 200)
        axes[0].plot(n, finding.fit.at(n), "--", color=ORANGE, linewidth=1.4, label="exponential fit")
    if finding.suggested is not None:
        axes[0].axvline(
            finding.suggested, color=ORANGE, linestyle=":", linewidth=1.2, label=f"suggested: {finding.suggested}"
        )
    axes[0].set_title("from the distribution of all human votes")
    if held_out is not None:
        _line(axes[1], held_out.synthetic, BLUE, "o", "synthetic votes")
        _line(axes[1], held_out.human, DARK, "D", "other people")
        axes[1].set_title(f"from people held out, {held_out.fewest} or more per item")
    for axis in axes:
        axis.set(xlabel="votes per item", ylabel="mean JSD (nats)", ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=11))
        axis.margins(x=0.03)
        axis.grid(color=GRID, linewidth=0.7)
        axis.spines["right"].set_visible(True)
        bits = axis.secondary_yaxis("right", functions=(lambda nats: nats / math.log(2), lambda b: b * math.log(2)))
        bits.set_ylabel("bits")
        axis.legend(loc="upper right")
    return figure


def _line(axis: Axes, curve: Curve, colour: str, marker: str, label: str) -> None:
    """A curve with its interval."""
    found = curve.estimates()
    n = np.arange(1, len(found) + 1)
    if all(one.low is not None for one in found):
        low, high = ([getattr(one, end) for one in found] for end in ("low", "high"))
        axis.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)
        # A band of one point has no width.
        if len(found) == 1:
            axis.vlines(n, low, high, color=colour, linewidth=1.2)
    axis.plot(n, curve.mean, marker, color=colour, markersize=4, linestyle="-", linewidth=0.8, label=label)
