"""What raters were asked, and the texts around it; the command line needs these before anything heavy is loaded."""

import difflib
import re
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import numpy as np

# A token of the Hub, a key of a server, user:password in an address.
SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-(?:[A-Za-z0-9]{20,}|(?:proj|ant|svcacct|or)-[\w-]{20,})|(?<=://)[^/@\s]+(?=@)"
)


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
        shares: The votes are not known, only their shares: the rows of an item are its labels, weighted by shares that sum
            to 1, of an unknown number of votes.

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
    shares: bool = False

    def __post_init__(self) -> None:
        what = f"Question {self.name!r}"
        if isinstance(self.labels, str):
            raise ValueError(f"{what} has labels {self.labels!r}; give a list of labels, not one string.")
        object.__setattr__(self, "labels", tuple(self.labels))
        if not self.name or not isinstance(self.name, str):
            raise ValueError(f"A question needs a name; got {self.name!r}. Pass a non-empty string.")
        scaled = self.low is not None or self.high is not None
        if bool(self.labels) == scaled:
            raise ValueError(
                f"{what} must have either labels or a scale; use Question.category(name, labels) or "
                "Question.scale(name, low, high)."
            )
        if scaled:
            # Beyond this limit, high - low and sums overflow.
            limit = sys.float_info.max / 4
            if self.low is None or self.high is None or not -limit <= self.low < self.high <= limit:
                raise ValueError(f"{what} has scale {self.low} to {self.high}; low must be finite and below high.")
            if self.multiple:
                raise ValueError(f"{what} is a scale; only a category question can be multi-select.")
        if self.shares and (scaled or self.multiple):
            raise ValueError(f"{what} is known as shares, which only a category question with one answer can be.")
        for label in self.labels:
            if not isinstance(label, str) or not label:
                raise ValueError(f"{what} has label {label!r}; labels are non-empty strings.")
        twice = [label for label in self.labels if self.labels.count(label) > 1]
        if twice:
            raise ValueError(f"{what} lists label {twice[0]!r} twice; list each label once.")

    @classmethod
    def category(cls, name: str, labels: Iterable[str], **options: Any) -> "Question":
        """A question answered with one of `labels` (or several, with `multiple=True`)."""
        return cls(name, labels=labels, **options)

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

    @property
    def answers(self) -> str:
        """The possible answers in words, such as "1 to 5", "yes, no" or "several of yes, no"."""
        if self.is_scale:
            return f"{self.low:g} to {self.high:g}"
        return ("several of " if self.multiple else "") + ", ".join(self.labels)

    def normalise(self, ratings: Any) -> "np.ndarray":
        """Map raw ratings to [-1, 1] by 2 (r - low) / (high - low) - 1, with the ends of the scale, not of the data."""
        import numpy as np

        return 2 * (np.asarray(ratings, dtype=np.float64) - self.low) / (self.high - self.low) - 1

    def denormalise(self, values: Any) -> "np.ndarray":
        """Map [-1, 1] back to the raw scale."""
        import numpy as np

        from annot_hf.models.measures import on_scale

        return on_scale(np.asarray(values, dtype=np.float64), self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping without defaults; `from_dict` reads it back."""
        stated = vars(self) | {"labels": list(self.labels) or ()}
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


def printable(text: str) -> str:
    """Text with a space for each control character, such as those that reverse the reading direction."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


class _Loader(yaml.SafeLoader):
    """The safe loader; it would silently keep the last of equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[tuple[str, Any], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                said, line = (key.tag, key.value), key.start_mark.line + 1
                if said in lines:
                    where = f"given in line {lines[said]} and again in line {line}"
                    raise yaml.YAMLError(f"the key {key.value!r} is {where}; remove one")
                lines[said] = line
        return super().construct_mapping(node, deep)


def _check_finite(value: Any, above: frozenset[int], done: set[int]) -> None:
    """Raise a RecursionError if a list or mapping holds itself, as YAML's aliases allow; `done` ones do not."""
    if id(value) in above:
        raise RecursionError
    if isinstance(value, dict | list) and id(value) not in done:
        for part in value.values() if isinstance(value, dict) else value:
            _check_finite(part, above | {id(value)}, done)
        done.add(id(value))


def read_yaml(text: str, name: str) -> Any:
    """Parse a YAML text, called `name` in errors; raises if it repeats a key or is nested too deeply."""
    try:
        found = yaml.load(text, _Loader)
        _check_finite(found, frozenset(), set())
        return found
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ValueError(f"{name} is not YAML: {error.problem or error.context}{line}.") from None
    except RecursionError:
        raise ValueError(
            f"{name} is nested too deeply to be read, or holds itself; write it with fewer levels."
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{name} is not YAML: {str(error).splitlines()[0]}.") from None
