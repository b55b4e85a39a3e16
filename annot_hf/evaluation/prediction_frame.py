"""Predictions as a table for people: a row an item, a column a label or scale."""

from collections.abc import Container

import numpy as np
import pandas as pd

from annot_hf.data.predictions import Predictions
from annot_hf.evaluation.alignment import dimensions, expectation
from annot_hf.models.measures import entropy

# Columns that are named after no label or scale.
_NOT_ANSWERS = {"item", "start", "end", "entropy", "disagreement"}


def prediction_frame(predictions: Predictions) -> pd.DataFrame:
    """One row an item: its distribution, the entropy, and what the consensus and each rater would say.

    A category question has a column a label, its share of the votes; a scale a column with the expected answer on its own
    scale. `entropy` is that of the distribution over the labels or cells, in nats. `consensus ...` is the answer that depends
    on no rater; `rater NAME` is the likeliest label, or the answer on the scale. Further scales follow, with their deviation.
    A label or scale whose name another column has comes as `label NAME` or `scale NAME`.
    """
    questions = predictions.questions
    columns = {"item": predictions.items}
    spread = entropy(predictions.probs)
    if predictions.is_scale:
        parts = dimensions(predictions.probs, questions)
        names = [_free_name(one.name, "scale", _NOT_ANSWERS) for one in questions]
        answers = zip(names, questions, parts, strict=True)
        columns |= {name: one.denormalise(expectation(part)) for name, one, part in answers}
    else:
        names = [_free_name(label, "label", _NOT_ANSWERS) for label in predictions.support]
        columns |= dict(zip(names, predictions.probs.T, strict=True))
    columns["entropy"] = spread
    if predictions.disagreement is not None:
        columns["disagreement"] = predictions.disagreement
    for number, one in enumerate(predictions.scales):
        name = _free_name(one.name, "scale", {*columns, *_NOT_ANSWERS})
        columns[name] = one.denormalise(predictions.scale_means[:, number])
        columns[f"{name} deviation"] = predictions.scale_deviations[:, number] * (one.high - one.low) / 2
    if predictions.consensus is not None:
        for number, name in enumerate(names):
            values = predictions.consensus[:, number]
            columns[f"consensus {name}"] = questions[number].denormalise(values) if predictions.is_scale else values
    for rater in dict.fromkeys(predictions.rater_names[~predictions.rater_fallback]):
        rows = predictions.rater_names == rater
        item, values = predictions.rater_items[rows], predictions.rater_values[rows]
        if not predictions.is_scale:
            said = np.full(len(predictions), None, dtype=object)
            said[item] = np.array(predictions.support, dtype=object)[values.argmax(axis=1)]
            columns[f"rater {rater}"] = said
            continue
        for number, one in enumerate(questions):
            said = np.full(len(predictions), np.nan)
            said[item] = one.denormalise(values[:, number])
            columns[f"rater {rater}" + (f" {one.name}" if len(questions) > 1 else "")] = said
    return pd.DataFrame(columns)


def _free_name(name: str, kind: str, taken: Container[str]) -> str:
    """The name of a column for a label or scale: its own, or with its kind before it if that is taken."""
    return f"{kind} {name}" if name in taken else name
