"""`Predictions`: a model's distributions over items, and its predicted answers of each rater."""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annot_hf.data.corpus import check_own, replace_file
from annot_hf.data.encoding import by_name
from annot_hf.data.questions import Question
from annot_hf.models.measures import check_distributions

FORMAT = 1
# Predictions can be pooled if these are equal.
ALIKE = ("support", "questions", "scales", "disagreement_kind")


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
        rater_fallback: True where the rater was not seen in training, so the consensus head answered `(P,)`.
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
        asked = [question.name for question in self.questions] if self.is_scale else self.support
        beside = [question.name for question in self.scales]
        for name, axes in {
            "probs": (self.items, self.support),
            "consensus": (self.items, asked),
            "rater_values": (None, asked),
            "scale_means": (self.items, beside),
            "scale_deviations": (self.items, beside),
            "disagreement": (self.items,),
        }.items():
            object.__setattr__(self, name, by_name(getattr(self, name), axes, f"Predictions' {name}"))
        pairs, width = len(self.rater_items), self.rater_width
        values = np.zeros((0, width)) if self.rater_values is None else self.rater_values
        fallback = np.zeros(pairs, bool) if self.rater_fallback is None else self.rater_fallback
        consensus = None if self.consensus is None else np.asarray(self.consensus, dtype=np.float64)
        for name, value in {
            "items": np.asarray(self.items, dtype=object),
            "support": tuple(self.support),
            "probs": np.asarray(self.probs, dtype=np.float64),
            "questions": tuple(self.questions),
            "consensus": consensus,
            "rater_items": np.asarray(self.rater_items, dtype=np.int32),
            "rater_names": np.asarray(self.rater_names, dtype=object),
            "rater_values": np.asarray(values, dtype=np.float64),
            "rater_fallback": np.asarray(fallback, dtype=bool),
            "scales": tuple(self.scales),
            "scale_means": self._beside(self.scale_means),
            "scale_deviations": self._beside(self.scale_deviations),
            "disagreement": None if self.disagreement is None else np.asarray(self.disagreement, dtype=np.float64),
        }.items():
            object.__setattr__(self, name, value)
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
        """The same predictions with the labels of their category question in the order of `support`.

        Raises:
            ValueError: The labels differ, or the cells of a grid do, whose order is fixed.
        """
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
        order = [self.support.index(label) for label in support]
        known = self.meta.get("marginal")
        return replace(
            self,
            support=tuple(support),
            probs=self.probs[:, order],
            questions=(replace(self.questions[0], labels=tuple(support)),),
            consensus=None if self.consensus is None else self.consensus[:, order],
            rater_values=self.rater_values[:, order],
            meta=self.meta if known is None else self.meta | {"marginal": np.asarray(known)[order].tolist()},
        )

    @property
    def caution(self) -> str:
        """A warning about items that the model was trained or selected on; empty if there are none."""
        seen, source = self.meta.get("seen") or {}, self.meta.get("seen_in")
        ways = {"train": "that the model was trained on", "validation": "that its checkpoint was selected on"}
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

    def _beside(self, values: np.ndarray | None) -> np.ndarray:
        """The arrays of the further scale questions; empty without such questions."""
        return np.zeros((len(self.items), 0)) if not self.scales else np.asarray(values, dtype=np.float64)

    def _check(self) -> None:
        check_distributions(self.probs, "Predictions")
        size, width = (len(self.items), len(self.support)), self.rater_width
        if self.probs.shape != size:
            raise ValueError(
                f"Predictions have probs of shape {self.probs.shape} for {size[0]} items and {size[1]} labels; "
                f"give {size}."
            )
        for what, names in (("items", self.items), ("support", np.array(self.support, dtype=object))):
            check_unique(names, f"Predictions' {what}")
        if self.consensus is not None and self.consensus.shape != (size[0], width):
            raise ValueError(f"Predictions have consensus of shape {self.consensus.shape}; give {(size[0], width)}.")
        for name in ("scale_means", "scale_deviations"):
            found, expected = getattr(self, name), (size[0], len(self.scales))
            if found.shape != expected or not np.isfinite(found).all():
                raise ValueError(f"Predictions have {name} of shape {found.shape}; give finite numbers {expected}.")
        if (self.scale_deviations < 0).any():
            raise ValueError(
                f"Predictions have a scale deviation of {self.scale_deviations.min():g}; deviations must not be negative."
            )
        found = self.disagreement
        if found is not None and (found.shape != size[:1] or not ((found >= 0) & (found <= 1)).all()):
            raise ValueError(
                f"Predictions have disagreement of shape {found.shape}; give {size[:1]} numbers in [0, 1]."
            )
        pairs = len(self.rater_items)
        shapes = {"rater_names": (pairs,), "rater_values": (pairs, width), "rater_fallback": (pairs,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"Predictions have {name} of shape {getattr(self, name).shape} for {pairs} rater answers; "
                    f"give {shape}."
                )
        if pairs and not 0 <= self.rater_items.min() <= self.rater_items.max() < size[0]:
            found = f"{self.rater_items.min()} to {self.rater_items.max()}"
            raise ValueError(f"Predictions' rater_items run from {found}; they must index the {size[0]} items.")
        if not np.isfinite(self.rater_values).all():
            row = int(np.argmin(np.isfinite(self.rater_values).all(axis=1)))
            raise ValueError(f"Predictions' rater answer {row} is not finite; leave the pair out or repair the model.")
        if not self.is_scale and pairs:
            check_distributions(self.rater_values, "Predictions' rater answers")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write predictions.parquet, raters.parquet and predictions.json into `folder`; `load` reads them back.

        Each file appears in one step, predictions.json last. It holds the digests of the others, so a mix of two runs is
        detected.
        """
        folder = Path(folder)
        _check_own(folder)
        folder.mkdir(parents=True, exist_ok=True)
        columns = {"item": pa.array(self.items, pa.string()), "probs": _list_column(self.probs)}
        if self.consensus is not None:
            columns["consensus"] = _list_column(self.consensus)
        if self.scales:
            columns |= {name: _list_column(getattr(self, name)) for name in ("scale_means", "scale_deviations")}
        if self.disagreement is not None:
            columns["disagreement"] = pa.array(self.disagreement)
        raters = {
            "item": pa.array(self.rater_items, pa.int32()),
            "annotator": pa.array(self.rater_names, pa.string()).dictionary_encode(),
            "value": _list_column(self.rater_values),
            "fallback": pa.array(self.rater_fallback),
        }
        tables = {"predictions.parquet": pa.table(columns), "raters.parquet": pa.table(raters)}
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
        """Read what `save` wrote.

        Raises:
            ValueError: The folder holds no predictions, or they are damaged, truncated, mixed with those of another run or
                written by a later version; the message names the file.
        """
        folder = Path(folder)
        path = folder / "predictions.json"
        if not path.is_file():
            raise ValueError(f"There is no predictions.json in {folder}; give the folder that Predictions.save wrote.")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); save the predictions again.") from error
        if not isinstance(about, dict):
            raise ValueError(f"{path} is damaged (no JSON object); save the predictions again.")
        if about.get("format") != FORMAT:
            raise ValueError(
                f"{folder} has format {about.get('format')!r}; this version reads {FORMAT}: update annot_hf."
            )
        try:
            return cls._read(folder, about)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged ({type(error).__name__}: {error}); save the predictions again."
            ) from error

    @classmethod
    def _read(cls, folder: Path, about: dict[str, Any]) -> "Predictions":
        """The predictions whose `predictions.json` holds `about`."""
        # The file may state no digests.
        known = about.get("sha256", {})
        items, raters = (
            _checked_table(folder / name, known.get(name)) for name in ("predictions.parquet", "raters.parquet")
        )
        for name, table in (("items", items), ("rater answers", raters)):
            if len(table) != about["counts"][name]:
                raise ValueError(
                    f"{folder} states {about['counts'][name]} {name} but holds {len(table)}; "
                    "save the predictions again."
                )
        return cls(
            items=_strings(items["item"]),
            support=tuple(about["support"]),
            probs=_matrix(items["probs"]),
            questions=tuple(Question.from_dict(question) for question in about["questions"]),
            consensus=_matrix(items["consensus"]) if "consensus" in items.column_names else None,
            rater_items=raters["item"].to_numpy(),
            rater_names=_strings(raters["annotator"]),
            rater_values=_matrix(raters["value"]),
            rater_fallback=raters["fallback"].to_numpy(),
            meta=about["meta"],
            scales=tuple(Question.from_dict(question) for question in about.get("scales", ())),
            disagreement=items["disagreement"].to_numpy() if "disagreement" in items.column_names else None,
            disagreement_kind=about.get("disagreement"),
            **{
                name: _matrix(items[name]) for name in ("scale_means", "scale_deviations") if name in items.column_names
            },
        )


def check_unique(names: np.ndarray, what: str) -> None:
    """Raise a ValueError that names the first entry of `names` which occurs twice."""
    seen: set[str] = set()
    for row, name in enumerate(names):
        if name in seen:
            raise ValueError(f"{what} lists {name!r} a second time at position {row}; give each name once.")
        seen.add(name)


def _check_own(folder: Path) -> None:
    """Raise unless predictions may be written into a folder; an interrupted call leaves no predictions.json."""
    names = ("predictions.json", "predictions.parquet", "raters.parquet")
    try:
        own = {"item", "probs"} <= set(pq.read_schema(folder / names[1]).names)
    except (pa.ArrowInvalid, OSError):
        own = False
    if not own:
        check_own(folder, names, marker=names[0], keys=("format", "support"))


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
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).ravel()), max(matrix.shape[1], 1))


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """`(rows, list size)` of a column of fixed-size lists."""
    size = column.type.list_size
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks] or [np.zeros(0)])
    return flat.reshape(-1, size)


def _strings(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), dtype=object)


def pool_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Pool the predictions of disjoint parts, such as the test parts of a repeat.

    Raises:
        ValueError: There are none, an item is in two parts, or the questions differ.
    """
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
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in (
            "items",
            "probs",
            "rater_names",
            "rater_values",
            "rater_fallback",
            "scale_means",
            "scale_deviations",
        )
    }
    agreed, spread = ([getattr(part, name) for part in parts] for name in ("consensus", "disagreement"))
    return Predictions(
        support=first.support,
        questions=first.questions,
        scales=first.scales,
        consensus=None if any(one is None for one in agreed) else np.concatenate(agreed),
        disagreement=None if any(one is None for one in spread) else np.concatenate(spread),
        disagreement_kind=first.disagreement_kind,
        rater_items=np.concatenate([part.rater_items + start for part, start in zip(parts, starts, strict=True)]),
        **joined,
    )
