"""What a saturation analysis says: how many synthetic votes are enough, what they are worth, where they agree with people."""

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
from annot_hf.evaluation.saturation import Curve, Finding, HeldOut
from annot_hf.evaluation.synthetic import ALL, NOTE, PERSON, SYNTHETIC, TITLES, SyntheticAgreement
from annot_hf.report.figures import GRID, MARGINAL, MODEL, VOTES, save_figure
from annot_hf.report.pages import plain, write_markdown
from annot_hf.report.tables import ARROWS, Cell, Table, number, value_cell

FILES = ("saturation.json", "saturation.md", "saturation.png")


@dataclass(frozen=True, eq=False)
class Saturation:
    """What `measure_saturation` found.

    Attributes:
        curve: Of synthetic votes, from all human votes of an item.
        ideal: Of votes drawn from the human distribution itself.
        finding: What the curve says.
        ideal_finding: What the ideal curve would say.
        held_out: Synthetic and human votes against people held out; None where there are too few people.
        agreement: Agreement by ambiguity; None where no item has two people.
        counts: Items behind the curve, and items left out by reason.
        about: Corpus, question, splits, annotations, resamples and seed.
    """

    curve: Curve
    ideal: Curve
    finding: Finding
    ideal_finding: Finding
    held_out: HeldOut | None
    agreement: SyntheticAgreement | None
    counts: dict[str, int]
    about: dict[str, Any]

    @property
    def summary(self) -> str:
        """The findings in a few sentences."""
        votes, said = len(self.curve.mean), self.ideal_finding.suggested
        ideal = f"the same rule says {said}" if said else "the same rule says none"
        parts = [
            self.finding.text,
            f"Of votes drawn from the human distribution itself {ideal}: their curve falls from {self.ideal.mean[0]:.4f} to "
            f"{self.ideal.mean[-1]:.4f} nats by the number of votes alone.",
        ]
        if self.held_out is not None:
            parts.append(
                f"Against people held out, {votes} synthetic votes are worth this many other people: "
                f"{self.held_out.worth['text']}."
            )
        else:
            parts.append("Too few items have two people or more, so what people reach against each other is not known.")
        return " ".join(parts)

    def tables(self) -> list[Table]:
        """The curves, a row an n, and the agreement by ambiguity."""
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
        """Write saturation.json, saturation.md and saturation.png; gives the folder.

        Raises:
            ValueError: The folder holds files of these names that are not of an earlier call.
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
            figure=(FILES[2], "Mean divergence after n votes an item; bands are 95 % intervals."),
        )
        return folder

    def _notes(self) -> list[str]:
        count, about = len(self.curve.mean), self.about
        notes = [
            f"{count} synthetic votes an item at most, which every item of the curve has; of each, n are drawn without "
            f"replacement, {about['resamples']} times. The rule is that of arXiv 2601.14620: the first n whose fitted "
            "divergence is within a tenth of the fall to where the fit ends.",
            "A histogram of few votes lies far from every distribution, so that a curve falls whoever votes: the suggested n "
            "tells when more votes of these annotators stop to help, not that they agree with people. The ideal curve is of "
            "votes drawn from the human distribution itself; what lies above it is the annotators' own.",
        ]
        if self.held_out is not None:
            held = self.held_out
            notes.append(
                f"Held out: {len(held.human.mean)} people an item are drawn, and all its others ({held.fewest} or more) are "
                f"what both they and synthetic votes are held against, on {held.items:,} items. The reference is smaller than "
                "all human votes, so these two curves compare with each other only."
            )
        unit = "speakers" if about["speakers"] else "items"
        return [*notes, f"Intervals resample {unit}. JSD is the divergence, not its root; 1 bit is ln 2 nats."]


def synthetic_table(found: SyntheticAgreement) -> Table:
    """A row a measure and whose votes it is of, a column a stratum."""
    rows = []
    for name, by_stratum in found.records.items():
        title, unit, better = TITLES[name]
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


def plot_saturation(curve: Curve, ideal: Curve, finding: Finding, held_out: HeldOut | None) -> Figure:
    """Divergence from all human votes with its fit and the ideal curve; beside it that from people held out, if it is there.

    Args:
        curve: Of the synthetic votes.
        ideal: Of votes drawn from the human distribution itself.
        finding: What the curve says.
        held_out: Synthetic and human votes against people held out.
    """
    panels = 1 if held_out is None else 2
    figure = Figure(figsize=(4.6 * panels + 0.6, 3.9), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _line(axes[0], curve, MODEL, "o", "synthetic votes")
    _line(axes[0], ideal, VOTES, "s", "drawn from the human votes")
    count = len(curve.mean)
    if finding.fit is not None:
        n = np.linspace(1, count, 200)
        axes[0].plot(n, finding.fit.at(n), "--", color=MARGINAL, linewidth=1.4, label="exponential fit")
    if finding.suggested is not None:
        axes[0].axvline(
            finding.suggested, color=MARGINAL, linestyle=":", linewidth=1.2, label=f"suggested: {finding.suggested}"
        )
    axes[0].set_title("from the distribution of all human votes")
    if held_out is not None:
        _line(axes[1], held_out.synthetic, MODEL, "o", "synthetic votes")
        _line(axes[1], held_out.human, VOTES, "D", "other people")
        axes[1].set_title(f"from people held out, {held_out.fewest} or more an item")
    for axis in axes:
        axis.set(xlabel="votes an item", ylabel="mean JSD (nats)", ylim=(0, None))
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
        if len(found) == 1:  # a band of one point has no width
            axis.vlines(n, low, high, color=colour, linewidth=1.2)
    axis.plot(n, curve.mean, marker, color=colour, markersize=4, linestyle="-", linewidth=0.8, label=label)
