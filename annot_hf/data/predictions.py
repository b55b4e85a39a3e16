"""`Predictions`: a model's distributions over items, its predicted answers of each rater, and both as a table for people."""

import functools
import hashlib
import json
import os
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from annot_hf.data.encoding import by_name
from annot_hf.data.files import check_own, replace_file
from annot_hf.data.questions import Question
from annot_hf.models.access import read_object
from annot_hf.models.measures import check_distributions, entropy

FORMAT = 1
# Predictions can be pooled if these are equal.
ALIKE = ("support", "questions", "scales", "disagreement_kind")
TABLES = ("predictions.parquet", "raters.parquet")
# In a folder of predictions: those of a sample of the clips under acoustic conditions, a folder each.
ROBUSTNESS_FOLDER = "robustness"
SCALE_COLUMNS = ("scale_means", "scale_deviations")
# Columns of a table for people that are named after no label or scale.
_NOT_ANSWERS = {"item", "start", "end", "entropy", "disagreement"}


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted distributions of votes, one row per item, and predicted answers of named raters, one row per pair.

    Rows and columns of data frames are matched by name (items; labels, grid cells or questions), those of arrays by position.
    D is the number of questions; scale values are in [-1, 1], as in `Question.normalise`.

    Attributes:
        items: Unique item names `(N,)`.
        support: Names of the K labels or grid cells.
        probs: Predicted distributions `(N, K)`; rows sum to 1.
        questions: One category question, or the one or two scale questions of the grid.
        consensus: Prediction that does not depend on the rater: `(N, D)` for scales, `(N, K)` for categories.
        rater_items: Index into `items` of each predicted rater answer `(P,)`.
        rater_names: Name of the rater `(P,)`.
        rater_values: The answers: `(P, D)` for scales, P(label) `(P, K)` for a category question.
        rater_fallback: True where the rater was not seen in training, so the consensus answered `(P,)`.
        scales: The D' further scale questions, such as valence in addition to emotion.
        scale_means: Predicted mean ratings `(N, D')`, on [-1, 1] but not clipped.
        scale_deviations: Predicted standard deviations `(N, D')`.
        disagreement: Predicted disagreement `(N,)`, in [0, 1]; None without such a head.
        disagreement_kind: Its kind: "entropy", "deviation" or "variance" (see `annot_hf.data.targets.disagreement`).
        meta: JSON values such as model, checkpoint, seed.

    Raises:
        ValueError: A shape, a name or a distribution breaks a rule.
    """

    items: np.ndarray
    support: tuple[str, ...]
    probs: np.ndarray
    questions: tuple[Question, ...]
    consensus: np.ndarray | None = None
    rater_items: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    rater_names: np.ndarray = field(default_factory=lambda: np.zeros(0, object))
    rater_values: np.ndarray | None = None
    rater_fallback: np.ndarray | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    scales: tuple[Question, ...] = ()
    scale_means: np.ndarray | None = None
    scale_deviations: np.ndarray | None = None
    disagreement: np.ndarray | None = None
    disagreement_kind: str | None = None

    def __post_init__(self) -> None:
        items, support = self.items, self.support
        asked = [question.name for question in self.questions] if self.is_scale else support
        further = [question.name for question in self.scales]
        absent = {"rater_values": np.zeros((0, len(asked))), "rater_fallback": np.zeros(len(self.rater_items))}
        absent |= dict.fromkeys(SCALE_COLUMNS, np.nan)
        for name, (dtype, *axes) in {
            "items": (object,),
            "probs": (np.float64, items, support),
            "consensus": (np.float64, items, asked),
            "rater_items": (np.int32,),
            "rater_names": (object,),
            "rater_values": (np.float64, None, asked),
            "rater_fallback": (bool,),
            "scale_means": (np.float64, items, further),
            "scale_deviations": (np.float64, items, further),
            "disagreement": (np.float64, items),
        }.items():
            value = getattr(self, name)
            value = by_name(value, axes, f"Predictions' {name}") if axes else value
            if name in SCALE_COLUMNS and not further:
                value = np.zeros((len(items), 0))
            value = absent.get(name) if value is None else value
            object.__setattr__(self, name, None if value is None else np.asarray(value, dtype=dtype))
        for name in ("support", "questions", "scales"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check()

    @property
    def is_scale(self) -> bool:
        """Whether the support is a grid over scale questions."""
        return self.questions[0].is_scale

    @property
    def rater_width(self) -> int:
        """Numbers per rater answer: D for scales, K for a category question."""
        return len(self.questions) if self.is_scale else len(self.support)

    def in_order(self, support: Sequence[str]) -> "Predictions":
        """The same predictions with the labels in the order of `support`; raises if labels or cells of a grid differ."""
        if tuple(support) == self.support:
            return self
        if self.is_scale or sorted(support) != sorted(self.support):
            raise ValueError(
                f"Predictions are over ({', '.join(self.support)}) and targets over ({', '.join(support)}); "
                "make both with the same question, labels and bins."
            )
        if self.disagreement_kind == "deviation":
            raise ValueError(
                f"The predicted deviation treats the labels as steps in the order {', '.join(self.support)}, but the targets "
                f"list {', '.join(support)}; give both the same order."
            )
        order, support = [self.support.index(label) for label in support], tuple(support)
        found = {name: getattr(self, name) for name in ("probs", "consensus", "rater_values")}
        turned = {name: None if values is None else values[:, order] for name, values in found.items()}
        known = self.meta.get("marginal")
        meta = self.meta if known is None else self.meta | {"marginal": np.asarray(known)[order].tolist()}
        return replace(
            self, support=support, questions=(replace(self.questions[0], labels=support),), meta=meta, **turned
        )

    def select(self, items: Sequence[str]) -> "Predictions":
        """The predictions for `items`, in that order; raises when one is missing."""
        rows = pd.Index(self.items).get_indexer(pd.Index(items, dtype=object))
        if (rows < 0).any():
            raise ValueError(
                f"Item {items[int(np.argmin(rows))]!r} is not predicted; name predicted items, or predict it too."
            )
        position = np.full(len(self), -1)
        position[rows] = np.arange(len(rows))
        answers = np.flatnonzero(position[self.rater_items] >= 0)
        found = {name: getattr(self, name) for name in ("items", "probs", "consensus", *SCALE_COLUMNS, "disagreement")}
        chosen = {name: None if values is None else values[rows] for name, values in found.items()}
        chosen |= {name: getattr(self, name)[answers] for name in ("rater_names", "rater_values", "rater_fallback")}
        return replace(self, rater_items=position[self.rater_items[answers]], **chosen)

    @property
    def caution(self) -> str:
        """A warning about items that the model was trained or selected on; empty if there are none."""
        seen, source = self.meta.get("seen") or {}, self.meta.get("seen_in")
        ways = {
            "train": "that the model was trained on",
            "validation": "that its checkpoint was selected on",
            "onboarding": "that new raters were onboarded with",
        }
        parts = [
            f"{seen[split]:,} of {len(self):,} items are ones {way}" for split, way in ways.items() if seen.get(split)
        ]
        if not parts:
            return ""
        if source in (None, self.meta.get("corpus")):
            return f"Not a test: {' and '.join(parts)}."
        return f"Perhaps not a test: by their names, {' and '.join(parts)}, in corpus {source!r}."

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        names = ", ".join(question.name for question in self.questions)
        return f"Predictions({len(self)} items, {len(self.rater_items)} rater answers, K={len(self.support)}: {names})"

    def _check(self) -> None:
        check_distributions(self.probs, "Predictions")
        for what in ("items", "support"):
            check_unique(getattr(self, what), f"Predictions' {what}")
        items, labels, pairs, width = len(self.items), len(self.support), len(self.rater_items), self.rater_width
        scales, answers = (items, len(self.scales)), f" for {pairs} rater answers; give"
        for name, shape, given, fits in (
            ("probs", (items, labels), f" for {items} items and {labels} labels; give {(items, labels)}", None),
            ("consensus", (items, width), f"; give {(items, width)}", None),
            ("scale_means", scales, f"; give finite numbers {scales}", np.isfinite),
            ("scale_deviations", scales, f"; give finite numbers {scales}", np.isfinite),
            ("disagreement", (items,), f"; give {(items,)} numbers in [0, 1]", lambda x: (x >= 0) & (x <= 1)),
            ("rater_names", (pairs,), f"{answers} {(pairs,)}", None),
            ("rater_values", (pairs, width), f"{answers} {(pairs, width)}", None),
            ("rater_fallback", (pairs,), f"{answers} {(pairs,)}", None),
        ):
            found = getattr(self, name)
            if found is not None and (found.shape != shape or (fits and not fits(found).all())):
                raise ValueError(f"Predictions have {name} of shape {found.shape}{given}.")
        if (self.scale_deviations < 0).any():
            raise ValueError(
                f"Predictions have a scale deviation of {self.scale_deviations.min():g}; deviations must not be negative."
            )
        if pairs and not 0 <= self.rater_items.min() <= self.rater_items.max() < items:
            found = f"{self.rater_items.min()} to {self.rater_items.max()}"
            raise ValueError(f"Predictions' rater_items run from {found}; they must index the {items} items.")
        if not np.isfinite(self.rater_values).all():
            row = int(np.argmin(np.isfinite(self.rater_values).all(axis=1)))
            raise ValueError(f"Predictions' rater answer {row} is not finite; leave the pair out or repair the model.")
        if not self.is_scale and pairs:
            check_distributions(self.rater_values, "Predictions' rater answers")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write predictions.parquet, raters.parquet and, last, predictions.json with their digests into `folder`."""
        folder = Path(folder)
        try:
            own = {"item", "probs"} <= set(pq.read_schema(folder / TABLES[0]).names)
        except (pa.ArrowInvalid, OSError):
            own = False
        # An interrupted call leaves a table without predictions.json.
        if not own:
            check_own(folder, ("predictions.json", *TABLES), marker="predictions.json", keys=("format", "support"))
        folder.mkdir(parents=True, exist_ok=True)
        columns = {"item": pa.array(self.items, pa.string()), "probs": _list_column(self.probs)}
        for name in ("consensus", *(SCALE_COLUMNS if self.scales else ())):
            if getattr(self, name) is not None:
                columns[name] = _list_column(getattr(self, name))
        if self.disagreement is not None:
            columns["disagreement"] = pa.array(self.disagreement)
        raters = {
            "item": pa.array(self.rater_items, pa.int32()),
            "annotator": pa.array(self.rater_names, pa.string()).dictionary_encode(),
            "value": _list_column(self.rater_values),
            "fallback": pa.array(self.rater_fallback),
        }
        tables = dict(zip(TABLES, (pa.table(columns), pa.table(raters)), strict=True))
        about_path = folder / "predictions.json"
        # Its digests belong to the earlier tables.
        about_path.unlink(missing_ok=True)
        about = {
            "format": FORMAT,
            "support": list(self.support),
            "questions": [question.to_dict() for question in self.questions],
            "scales": [question.to_dict() for question in self.scales],
            "disagreement": self.disagreement_kind,
            "counts": {"items": len(self), "rater answers": len(self.rater_items)},
            "sha256": {
                name: replace_file(folder / name, functools.partial(pq.write_table, table, compression="zstd"))
                for name, table in tables.items()
            },
            "meta": self.meta,
        }
        text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False)
        replace_file(about_path, lambda path: path.write_text(text + "\n", encoding="utf-8"))
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Predictions":
        """Read what `save` wrote; raises, with the file, if it is missing, damaged, of another run or a later version."""
        folder = Path(folder)
        path = folder / "predictions.json"
        if not path.is_file():
            raise ValueError(f"There is no predictions.json in {folder}; give a folder that annot-hf predict wrote.")
        about = read_object(path, "save the predictions again")
        if about.get("format") != FORMAT:
            raise ValueError(
                f"{folder} has format {about.get('format')!r}; this version reads {FORMAT}: update annot_hf."
            )
        try:
            # The file may state no digests.
            known = about.get("sha256", {})
            items, raters = (_checked_table(folder / name, known.get(name)) for name in TABLES)
            for name, table in (("items", items), ("rater answers", raters)):
                stated = about["counts"][name]
                if len(table) != stated:
                    raise ValueError(
                        f"{folder} states {stated} {name} but holds {len(table)}; save the predictions again."
                    )
            optional = {
                name: _matrix(items[name]) for name in ("consensus", *SCALE_COLUMNS) if name in items.column_names
            }
            if "disagreement" in items.column_names:
                optional["disagreement"] = items["disagreement"].to_numpy()
            return cls(
                items=items["item"].to_pylist(),
                support=tuple(about["support"]),
                probs=_matrix(items["probs"]),
                questions=tuple(Question.from_dict(question) for question in about["questions"]),
                rater_items=raters["item"].to_numpy(),
                rater_names=raters["annotator"].to_pylist(),
                rater_values=_matrix(raters["value"]),
                rater_fallback=raters["fallback"].to_numpy(),
                meta=about["meta"],
                scales=tuple(Question.from_dict(question) for question in about.get("scales", ())),
                disagreement_kind=about.get("disagreement"),
                **optional,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged ({type(error).__name__}: {error}); save the predictions again."
            ) from error


def check_unique(names: np.ndarray, what: str) -> None:
    """Raise a ValueError that names the first entry of `names` which occurs twice."""
    seen: set[str] = set()
    for row, name in enumerate(names):
        if name in seen:
            raise ValueError(f"{what} lists {name!r} a second time at position {row}; give each name once.")
        seen.add(name)


def _checked_table(path: Path, digest: str | None) -> pa.Table:
    try:
        data = path.read_bytes()
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); save the predictions again.") from error
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{path} does not match the digest in predictions.json; save the predictions again.")
    return table


def _list_column(matrix: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """`(rows, list size)` of a column of fixed-size lists."""
    return pc.list_flatten(column).to_numpy().reshape(-1, column.type.list_size)


def pool_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Pool the predictions of disjoint parts, such as the test parts of a repeat, on the same questions."""
    if not parts:
        raise ValueError("There are no predictions to pool; give at least one part.")
    first = parts[0]
    alike = sorted(first.support)
    parts = [part.in_order(first.support) if sorted(part.support) == alike else part for part in parts]
    for part in parts[1:]:
        if any(getattr(part, name) != getattr(first, name) for name in ALIKE):
            raise ValueError(
                f"Predictions over ({', '.join(part.support)}) and ({', '.join(first.support)}) "
                "cannot be pooled; give predictions of one question."
            )
    joined = {}
    for name in (name for name, value in vars(first).items() if isinstance(value, np.ndarray)):
        values = [getattr(part, name) for part in parts]
        joined[name] = None if any(value is None for value in values) else np.concatenate(values)
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    joined["rater_items"] += np.repeat(starts, [len(part.rater_items) for part in parts])
    return replace(first, meta={}, **joined)


def dimensions(probs: np.ndarray, questions: Sequence[Question]) -> list[np.ndarray]:
    """Marginal distributions `(n, bins)` of a support's scale questions: rows first, then columns, of a square grid."""
    if len(questions) == 1:
        return [probs]
    bins = round(probs.shape[1] ** 0.5)
    if bins * bins != probs.shape[1]:
        raise ValueError(f"A support of {probs.shape[1]} cells over two scales is not square; give bins x bins cells.")
    grid = probs.reshape(-1, bins, bins)
    return [grid.sum(axis=2), grid.sum(axis=1)]


def expectation(probs: np.ndarray) -> np.ndarray:
    """Expected value `(n,)` in [-1, 1] of distributions over equal bins `(n, bins)`, taken at the cell centres."""
    bins = probs.shape[1]
    return probs @ ((2 * np.arange(bins) + 1) / bins - 1)


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
