"""A breakdown as sections of a report: the tables, and the figures with their captions."""

from annot_hf.evaluation import breakdown_plots as plots, breakdown_tables as tables
from annot_hf.evaluation.breakdown import Breakdown
from annot_hf.evaluation.pages import Figures, Section


def breakdown_sections(found: Breakdown, reliability: Figures) -> list[Section]:
    """Sections on disagreement, ranks and speakers, calibration and confusion, and the worth in raters.

    Args:
        found: The breakdown.
        reliability: The calibration plot, to stand beside the calibration error.
    """
    strata = {
        "strata": (
            lambda: plots.plot_strata(found.strata, found.measures),
            "Results by how much the raters disagree, with 95 % intervals: entropy of the votes in thirds of its range and "
            "in tertiles of the items.",
        )
    }
    speakers = {}
    ranked = [*tables.n_best_table(found), *tables.speakers_table(found)]
    if found.groups and len(found.support) > 1:
        speakers["speaker_recall"] = (
            lambda: plots.plot_speaker_recall(found.per_speaker),
            "Share of speakers whose own average recall exceeds each level; at .75 and .50 the curves give paUAR.",
        )
    confusion = {
        "confusion": (
            lambda: plots.plot_confusion(found.support, found.confusion),
            "What raters and model say about the items that each label wins: mean distribution of the votes and of the "
            "predictions, each row summing to 1.",
        )
    }
    sections = [
        Section([tables.strata_table(found)], strata),
        Section(ranked, speakers),
        Section([tables.calibration_table(found)], reliability),
        Section(tables.residual_table(found), confusion),
    ]
    if found.equivalence is not None:
        curve = {
            "equivalence": (
                lambda: plots.plot_equivalence(found.equivalence, {"model": "model"}),
                "How many raters the model is worth: error of k raters, and of the model, in forecasting one more rater's "
                "vote on the same items; bands are 95 % intervals.",
            )
        }
        sections.append(Section(tables.equivalence_table(found), curve))
    return sections
