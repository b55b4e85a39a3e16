"""What a saturation analysis says: how many synthetic votes are enough, what they are worth, where they agree with people."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annot_hf.data.corpus import check_own
from annot_hf.evaluation.saturation import Curve, Finding, HeldOut
from annot_hf.evaluation.synthetic import SyntheticAgreement
from annot_hf.report.figures import plot_saturation, save_figure
from annot_hf.report.pages import plain, render
from annot_hf.report.tables import Cell, Table, number, synthetic_table, value_cell

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
        caption = "Mean divergence after n votes an item; bands are 95 % intervals."
        figure = {"alt": caption, "caption": caption, "path": FILES[2]}
        tables = self.tables()
        page = {
            "title": f"Synthetic votes on {self.about['corpus']}, {self.about['question']}",
            "summary": self.summary,
            "sections": [{"tables": tables[:1], "figures": [figure]}, {"tables": tables[1:], "figures": []}],
            "notes": self._notes(),
            "details": [(name, json.dumps(plain(value))) for name, value in (self.about | self.counts).items()],
        }
        (folder / FILES[1]).write_text(render("report.md.j2", page), encoding="utf-8")
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
