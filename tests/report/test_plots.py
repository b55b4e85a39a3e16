from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.text import Text

from annot_hf.evaluation.categories import entropy_strata, measure_strata
from annot_hf.evaluation.equivalence import rater_equivalence
from annot_hf.evaluation.evaluate import Evaluation
from annot_hf.evaluation.resampling import Measured, Resamples
from annot_hf.report import figures as plots, pages
from annot_hf.report.figures import plot_conditions
from annot_hf.report.pages import save_figure

RNG = np.random.default_rng(0)


def boxes(figure, axis_name):
    """Pixel boxes of an axis's visible tick labels."""
    pages.FigureCanvasAgg(figure).draw()
    axis = getattr(figure.axes[0], axis_name)
    return [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]


def drawn(call):
    with matplotlib.rc_context(pages.STYLE):
        figure = call()
        pages.FigureCanvasAgg(figure).draw()
        return figure


def dirichlet(n, k):
    return RNG.dirichlet(np.ones(k), n)


def strata_figure(n=60, k=4):
    q, p = dirichlet(n, k), dirichlet(n, k)
    strata = entropy_strata(q, range(k))
    measured = measure_strata({"model": p, "marginal": q}, q, strata, Resamples(n=20, seed=0))
    return plots.plot_strata(replace(evaluation(("model",), measured), strata=strata))


def evaluation(systems, measured):
    """The numbers of an evaluation, without what they are of."""
    return Evaluation(systems, (), {"items": measured}, None, None, {}, [], None)


def test_the_votes_of_a_card_are_drawn_as_they_are():
    shares = np.array([0.2, 0.5, 0.3])
    left, right = drawn(lambda: plots.plot_votes(["a", "$b", "c"], shares, {3: 7, 5: 2})).axes
    assert [bar.get_width() for bar in left.patches] == shares.tolist()
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in right.patches] == [(3, 7), (5, 2)]
    grid = drawn(lambda: plots.plot_votes(list("abcd"), np.full(4, 0.25), {1: 1}, ("x", "y"))).axes[0]
    assert (grid.images[0].get_array() == 0.25).all() and grid.get_xlabel() == "y"


def confusion_figure(k):
    shares, items = dirichlet(k, k), RNG.integers(1, 2000, k)
    items[0], shares[0] = 0, np.nan
    names = [f"label number {index}" for index in range(k)]
    return plots.plot_confusion(names, {"votes": shares, "predicted": shares, "items": items})


def equivalence_figure(votes=6, resamples=20, models=("a", "b")):
    opinion = dirichlet(50, 3)
    counts = RNG.multinomial(votes, opinion)
    systems = {"a": opinion, "b": np.full((50, 3), 1 / 3)}
    told = rater_equivalence(systems, counts, np.full(3, 1 / 3), Resamples(n=resamples))
    return plots.plot_equivalence(told, models)


def differences(names=("A", "B"), **measures):
    """Two runs and measures, each from the difference A - B, its half-width, and which way is better."""
    measured = {}
    for name, (value, half, better) in measures.items():
        draws = np.array([value, value - half, value + half] if half else [value])
        measured[name] = Measured(
            f"Measure {value}", "%", better, dict(zip(names, (draws, np.zeros(len(draws))), strict=True))
        )
    return plots.plot_differences(evaluation(names, measured), list(measured))


def conditions_figure(names, spread=0.02):
    value = {"value": 0.2, "low": spread and 0.2 - spread, "high": spread and 0.2 + spread}
    return plot_conditions(names, dict.fromkeys((*names, "marginal"), value))


CALLS = {
    "conditions": lambda: conditions_figure(["clean", *(f"noise:{level}" for level in range(20))]),
    "one condition without interval": lambda: conditions_figure(["clean", "reverb:0.1234567"], None),
    "strata": strata_figure,
    "strata of one item": lambda: strata_figure(1),
    "speaker recall": lambda: plots.plot_speaker_recall(
        pd.DataFrame({f"uar_{n}_best": RNG.random(30) for n in (1, 2, 3)})
    ),
    "speaker recall of two": lambda: plots.plot_speaker_recall(pd.DataFrame({"uar_1_best": [0.0, 1.0]})),
    "confusion": lambda: confusion_figure(6),
    "confusion of two": lambda: confusion_figure(2),
    "confusion of many": lambda: confusion_figure(30),
    "equivalence": equivalence_figure,
    "equivalence of two votes": lambda: equivalence_figure(2, 0, "a"),
    "equivalence of many votes": lambda: equivalence_figure(40),
    "differences": lambda: differences(x=(0.2, 0.1, "higher"), y=(0.3, 0.1, "lower"), z=(0.0, 0.1, "higher")),
    "no differences": lambda: differences(x=(0.0, None, "higher")),
    "speaker pairs": lambda: plots.plot_speaker_pairs(RNG.random(20), RNG.random(20), ("A", "B")),
    "equal speakers": lambda: plots.plot_speaker_pairs(np.full(2, 0.1), np.full(2, 0.1), ("A", "B")),
    "examples": lambda: plots.plot_examples("abc", dirichlet(3, 3), dirichlet(3, 3), ["x", "y", "z"]),
    "grids of examples": lambda: plots.plot_examples(
        [str(k) for k in range(16)], dirichlet(3, 16), dirichlet(3, 16), ["x", "y", "z"], ("activation", "valence")
    ),
    "mean": lambda: plots.plot_mean_distribution("abc", *dirichlet(3, 3)),
    "reliability": lambda: plots.plot_reliability(dirichlet(50, 3), dirichlet(50, 3)),
    "entropy": lambda: plots.plot_entropy(RNG.random(50), RNG.random(50), 3, 0.1),
    "entropy of many": lambda: plots.plot_entropy(RNG.random(3000), RNG.random(3000), 3),
    "speakers": lambda: plots.plot_speakers({f"s{i}": (0.1, 0.2, 3) for i in range(8)}),
    "many speakers": lambda: plots.plot_speakers({f"s{i}": (0.1 * i, 0.2, 3) for i in range(80)}),
    "grids": lambda: plots.plot_grids({"votes": dirichlet(4, 4) / 4, "model": dirichlet(4, 4) / 4}, ("a", "v")),
    "fine grid": lambda: plots.plot_grids({"votes": dirichlet(9, 9) / 9}, ("a", "v")),
    "bias": lambda: plots.plot_rater_bias(
        {"a": {"true": RNG.random(9), "recovered": RNG.random(9), "correlation": {"value": 0.5}}}
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_axes_are_labelled_and_tick_labels_do_not_overlap(name):
    figure = drawn(CALLS[name])
    assert any(axis.get_xlabel() for axis in figure.axes)
    for direction, first, last in (("xaxis", "x0", "x1"), ("yaxis", "y0", "y1")):
        ends = sorted((getattr(box, first), getattr(box, last)) for box in boxes(figure, direction))
        assert all(before[1] <= after[0] + 0.5 for before, after in zip(ends, ends[1:], strict=False)), direction


def test_nothing_reaches_outside_the_figure():
    names = ["a label with a really rather long name indeed"] * 5
    figure = drawn(lambda: plots.plot_mean_distribution(names, *dirichlet(3, 5)))
    assert all(box.x0 >= 0 for box in boxes(figure, "yaxis"))


def test_png_is_the_same_each_time(tmp_path):
    votes = dirichlet(50, 3)
    one, two = (save_figure(lambda: plots.plot_reliability(votes, votes), tmp_path / f"{i}.png") for i in (1, 2))
    assert one.read_bytes() == two.read_bytes() and len(one.read_bytes()) > 5000


def test_global_style_is_left_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    save_figure(CALLS["mean"], tmp_path / "x.png")
    assert dict(matplotlib.rcParams) == before


def test_many_labels_show_the_largest():
    figure = drawn(lambda: plots.plot_mean_distribution([str(k) for k in range(40)], *dirichlet(3, 40)))
    assert len(boxes(figure, "yaxis")) == plots.MAX_BARS


def test_names_are_cut_and_never_formulas(tmp_path):
    assert plots.short("a" * 40, 12) == "aaaaaaa…aaaa"
    assert plots.short("a\nb\u202ec") == "a b c"
    save_figure(lambda: plots.plot_mean_distribution(["$\\frac{", "$$", "_^"], *dirichlet(3, 3)), tmp_path / "x.png")


def test_hardly_any_data(tmp_path):
    one = np.array([[1.0, 0.0]])
    for name, call in {
        "reliability": lambda: plots.plot_reliability(one, one),
        "entropy": lambda: plots.plot_entropy(np.zeros(1), np.zeros(1), 2, 0.0),
        "examples": lambda: plots.plot_examples(("a", "b"), one, one, ["only"]),
        "bias": lambda: plots.plot_rater_bias(
            {"a": {"true": np.zeros(1), "recovered": np.zeros(1), "correlation": {"value": 0.0}}}
        ),
    }.items():
        assert save_figure(call, tmp_path / f"{name}.png").is_file()


def test_paUAR_is_read_off_the_speaker_curve():
    figure = drawn(lambda: plots.plot_speaker_recall(pd.DataFrame({"uar_1_best": [0.2, 0.5, 0.6, 0.9]})))
    x, y = figure.axes[0].lines[0].get_data()
    for level, share in ((0.5, 50), (0.75, 25)):  # one of four lies exactly on .50 and does not exceed it
        assert y[np.searchsorted(x, level, side="right") - 1] == share


def test_differences_turn_towards_the_better_run():
    figure = drawn(lambda: differences(loss=(-0.3, 0.1, "lower"), score=(0.4, 0.1, "higher"), none=(1.0, 0.1, "")))
    points = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert points == pytest.approx([0.003, 0.004])  # per cents as shares


LABELS = ("生气", "高兴", "悲伤", "中立")


@pytest.fixture
def chinese(tmp_path, own_fonts):
    """A font of the letters of `LABELS`, known to Matplotlib."""
    letters = sorted(set("".join(LABELS)))
    names = [".notdef", *(f"g{ord(letter):x}" for letter in letters)]
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(letter): f"g{ord(letter):x}" for letter in letters})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Small CJK", "styleName": "Regular"})
    font.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    font.setupPost()
    font.save(tmp_path / "small.ttf")
    font_manager.fontManager.addfont(str(tmp_path / "small.ttf"))
    return "Small CJK"


def words(figure):
    """Every text that is drawn."""
    return {text.get_text() for text in figure.findobj(Text) if text.get_text()}


@pytest.mark.filterwarnings("error")
def test_letters_come_from_a_font_that_has_them(chinese, tmp_path):
    numbered = {}
    figure = drawn(lambda: pages.readable(plots.plot_mean_distribution(LABELS, *dirichlet(3, 4)), numbered))
    assert set(LABELS) < words(figure) and not numbered
    label = next(text for text in figure.findobj(Text) if text.get_text() == LABELS[0])
    assert label.get_fontfamily() == ["DejaVu Sans", chinese]
    save_figure(lambda: plots.plot_mean_distribution(LABELS, *dirichlet(3, 4)), tmp_path / "x.png")


@pytest.mark.usefixtures("own_fonts")
@pytest.mark.filterwarnings("error:Glyph")
def test_names_that_no_font_can_draw_are_numbered(tmp_path):
    names = ("生气", "joy 高 兴!", "שמח", "سعيد", "$_a")
    with pytest.warns(UserWarning) as caught:
        save_figure(lambda: plots.plot_mean_distribution(names, *dirichlet(3, 5)), tmp_path / "x.png")
    assert [str(one.message) for one in caught] == [
        "No installed font has all letters of some names, so figures show numbers instead: [1] 生气, [2] 高 兴."
    ]
    numbered = {"悲伤": 1}
    shares = {"votes": dirichlet(5, 5), "predicted": dirichlet(5, 5), "items": np.arange(1, 6)}
    calls = (
        lambda: plots.plot_confusion(names, shares),
        lambda: plots.plot_examples(names, dirichlet(2, 5), dirichlet(2, 5), ["lowest\n生气.wav", "b"]),
        lambda: plots.plot_speakers({name: (0.1, 0.2, 3) for name in names}),
        lambda: differences(("生气", "b"), x=(0.2, 0.1, "higher")),
        lambda: equivalence_figure(),
    )
    for call in calls:
        figure = drawn(lambda call=call: pages.readable(call(), numbered))
        assert not {letter for text in words(figure) for letter in text} & set("生气高兴")
    assert numbered == {"悲伤": 1, "生气": 2, "高 兴": 3}
    shown = words(drawn(lambda: pages.readable(calls[1](), numbered)))
    assert {"[2]", "joy [3]!", "שמח", "سعيد", "$_a", "lowest\n[2].wav"} <= shown


def test_a_name_may_begin_with_an_underscore():
    figure = drawn(lambda: differences(("_run", "b"), x=(0.2, 0.1, "higher")))
    assert "_run better" in words(figure)
    told = rater_equivalence({"_a": dirichlet(9, 3)}, RNG.multinomial(4, np.full((9, 3), 1 / 3)), np.full(3, 1 / 3))
    assert any(text.startswith("_a: worth") for text in words(drawn(lambda: plots.plot_equivalence(told, ["_a"]))))
