"""The style that all figures share: plain matplotlib objects on the Agg canvas, no global state.

Colours are safe for the colour-blind (Okabe & Ito 2008): votes are dark, the model blue, the marginal orange. Shapes differ
too, for grey prints. Names are drawn as they are: a `$` never starts a formula. Letters that the usual font lacks come from
another font that Matplotlib knows; if there is none, a number replaces the name.
"""

import functools
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FaceFlags
from matplotlib.text import Text

from annot_hf.data.questions import printable

DARK, BLUE, ORANGE, VERMILION, GREEN = "#333333", "#0072B2", "#E69F00", "#D55E00", "#009E73"
FAINT, GRID = "#BBBBBB", "#E6E6E6"
# A code point without a letter: a font that has it draws boxes.
_UNASSIGNED = 0x0378
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
    "text.usetex": False,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
}


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE):
        yield


def save_figure(draw: Callable[[], Figure], path: str | os.PathLike[str], *, dpi: int = 160) -> Path:
    """Draw with the report's style and write a PNG without time stamps, so that equal data give equal files.

    If numbers replace names, a warning lists them; see `readable`.
    """
    path, numbered = Path(path), {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with _style():
        figure = readable(draw(), numbered)
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=dpi, metadata={"Software": None})
    if numbered:
        warnings.warn(number_key(numbered), stacklevel=2)
    return path


def readable(figure: Figure, numbered: dict[str, int]) -> Figure:
    """The figure without letters that would be drawn as boxes.

    Letters that the usual font lacks are drawn in fonts that have them. If Matplotlib knows none, a number in brackets
    replaces the name.

    Args:
        figure: The figure, which is changed.
        numbered: Name -> number; new names are added.
    """
    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    ticks = [label for axis in axes for label in axis.get_ticklabels()]
    texts = [*figure.findobj(Text), *ticks]
    letters = {ord(letter) for text in texts for letter in text.get_text() if not letter.isspace()}
    lacking = letters - _letters(font_manager.findfont(STYLE["font.family"][0]))
    if not lacking:
        return figure
    families, lacking = _families(lacking)
    for text in texts:
        text.set_fontfamily([*STYLE["font.family"], *families])
    if lacking:
        some = f"[^\x00-\x7f]*[{''.join(re.escape(chr(letter)) for letter in sorted(lacking))}][^\x00-\x7f]*"
        names = re.compile(f"{some}(?: +{some})*")

        def name(text: str) -> str:
            return names.sub(lambda found: f"[{numbered.setdefault(found[0], len(numbered) + 1)}]", text)

        for axis in axes:
            told = [label.get_text() for label in axis.get_ticklabels()]
            if any(map(names.search, told)):
                axis.set_ticklabels([name(text) for text in told])
        for text in texts:
            text.set_text(name(text.get_text()))
    return figure


def number_key(numbered: Mapping[str, int]) -> str:
    """The meaning of the numbers of `readable`, as a sentence."""
    told = ", ".join(f"[{number}] {name}" for name, number in numbered.items())
    return f"No installed font has all letters of some names, so figures show numbers instead: {told}."


def _families(lacking: set[int]) -> tuple[list[str], set[int]]:
    """Font families that have these code points, and the code points that no font has."""
    families = []
    upright = [entry for entry in font_manager.fontManager.ttflist if entry.style == entry.stretch == "normal"]
    for entry in sorted(upright, key=lambda one: (one.weight != 400, "Sans" not in one.name, one.name)):
        found = lacking & _letters(font_manager.FontPath(entry.fname, entry.index)) if lacking else set()
        if found and entry.name not in families:
            families.append(entry.name)
            lacking = lacking - found
    return families, lacking


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """Code points of a font file; none if it draws bitmaps, or boxes for unknown letters."""
    try:
        font = font_manager.get_font(path)
        found = frozenset(font.get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
    plain = FaceFlags.SCALABLE in font.face_flags and FaceFlags.COLOR not in font.face_flags
    return found if plain and _UNASSIGNED not in found else frozenset()


def short(name: object, width: int = 24) -> str:
    """A name that fits next to an axis; the middle of a long name becomes an ellipsis."""
    text = printable(str(name))
    return text if len(text) <= width else f"{text[: width - width // 3 - 1]}…{text[-(width // 3) :]}"


def legend(figure: Figure, axis: Axes, columns: int) -> None:
    """A legend above the axes, out of the data's way.

    Matplotlib hides labels that begin with an underscore, so user-given names get a leading space, which is removed here.
    """
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, [textwrap.shorten(name, 48) for name in labels], loc="outside upper center", ncols=columns)
