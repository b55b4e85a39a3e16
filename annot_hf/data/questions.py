"""What raters were asked: a closed set of labels, or a numeric scale."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Question:
    """One question put to raters; give either `labels` or both `low` and `high`.

    Args:
        name: Identifier, unique within a vote table.
        labels: Closed label set of a category question, in support order.
        low: Lowest value a rater can give on a scale question.
        high: Highest value a rater can give.
        multiple: A rater may select several labels: one row each, and a null value for "none of them".
        secondary_to: Name of the question whose secondary votes this one holds.
        prompt: The words that raters read.

    Raises:
        ValueError: The definition is empty, contradictory, or repeats a label.

    Example:
        >>> Question.scale("valence", 1, 5).normalise([1, 3, 5]).tolist()
        [-1.0, 0.0, 1.0]
    """

    name: str
    labels: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    multiple: bool = False
    secondary_to: str | None = None
    prompt: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.labels, str):
            raise ValueError(
                f"Question {self.name!r} has labels {self.labels!r}; give a list of labels, not one string."
            )
        object.__setattr__(self, "labels", tuple(self.labels))
        if not self.name or not isinstance(self.name, str):
            raise ValueError(f"A question needs a name; got {self.name!r}. Pass a non-empty string.")
        scaled = self.low is not None or self.high is not None
        if bool(self.labels) == scaled:
            raise ValueError(
                f"Question {self.name!r} must have either labels or a scale; "
                "use Question.category(name, labels) or Question.scale(name, low, high)."
            )
        if scaled:
            # Beyond this limit, high - low and sums overflow.
            limit = np.finfo(np.float64).max / 4
            if self.low is None or self.high is None or not -limit <= self.low < self.high <= limit:
                raise ValueError(
                    f"Question {self.name!r} has scale {self.low} to {self.high}; low must be finite and below high."
                )
            if self.multiple:
                raise ValueError(f"Question {self.name!r} is a scale; only a category question can be multi-select.")
            return
        bad = [label for label in self.labels if not isinstance(label, str) or not label]
        if bad:
            raise ValueError(f"Question {self.name!r} has label {bad[0]!r}; labels are non-empty strings.")
        if len(set(self.labels)) < len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ValueError(f"Question {self.name!r} lists label {twice!r} twice; list each label once.")

    @classmethod
    def category(cls, name: str, labels: Iterable[str], **options: Any) -> "Question":
        """A question answered with one of `labels` (or several, with `multiple=True`)."""
        return cls(name, labels=labels if isinstance(labels, str) else tuple(labels), **options)

    @classmethod
    def scale(cls, name: str, low: float, high: float, **options: Any) -> "Question":
        """A question answered by a number from `low` to `high`."""
        return cls(name, low=float(low), high=float(high), **options)

    @property
    def is_scale(self) -> bool:
        """Whether answers are numbers."""
        return self.low is not None

    @property
    def kind(self) -> str:
        """The kind of answers: "category" or "scale"."""
        return "scale" if self.is_scale else "category"

    def normalise(self, ratings: Any) -> np.ndarray:
        """Map raw ratings to [-1, 1] by 2 (r - low) / (high - low) - 1, with the ends of the scale, not of the data."""
        return 2 * (np.asarray(ratings, dtype=np.float64) - self.low) / (self.high - self.low) - 1

    def denormalise(self, values: Any) -> np.ndarray:
        """Map [-1, 1] back to the raw scale."""
        return (np.asarray(values, dtype=np.float64) + 1) / 2 * (self.high - self.low) + self.low

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping without defaults; `from_dict` reads it back."""
        stated = {field.name: getattr(self, field.name) for field in fields(self)}
        stated["labels"] = list(self.labels) or ()
        return {field.name: stated[field.name] for field in fields(self) if stated[field.name] != field.default}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Question":
        """Read what `to_dict` wrote; an unknown key is an error."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(
                    f"A question has no field {key!r}{nearest(key, known)}; the fields are {', '.join(known)}."
                )
        return cls(**values)


def find_question(questions: Sequence[Question], name: str) -> Question:
    """The question called `name`; raises with the known names."""
    for question in questions:
        if question.name == name:
            return question
    names = [question.name for question in questions]
    raise ValueError(f"There is no question {name!r}{nearest(name, names)}; the questions are {', '.join(names)}.")


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known word closest to `word`, or nothing; look-alikes are pointed out."""
    known = [str(entry) for entry in known]
    match = difflib.get_close_matches(str(word), known, n=1)
    return normal_form_hint([word], known) or (f" (did you mean {match[0]!r}?)" if match else "")


def normal_form_hint(names: Iterable[str], known: Iterable[str]) -> str:
    """A hint on unknown names that are known in another Unicode normal form, which looks the same; or nothing."""
    known = {str(entry) for entry in known}
    forms = {unicodedata.normalize("NFC", entry) for entry in known}
    same = [name for name in map(str, names) if name not in known and unicodedata.normalize("NFC", name) in forms]
    if not same:
        return ""
    return f" ({ascii(same[0])} is known in another Unicode normal form, NFC or NFD; use one form for both)"
