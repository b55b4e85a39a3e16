import matplotlib
import pytest
from made_up import (  # noqa: F401
    emotion_run,
    grid_run,
    unrendered,
)
from matplotlib import font_manager

from annot_hf.report import pages


@pytest.fixture(scope="module", autouse=True)
def coarse_plots():
    """Reports draw their figures small and without arranging them, which is most of their time; test_plots arranges."""

    def save(draw, path, *, dpi):
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(pages.STYLE):
            figure = draw()
            figure.set_layout_engine("none")
            pages.FigureCanvasAgg(figure)
            figure.savefig(path, dpi=40, metadata={"Software": None})
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "save_figure", save)
        yield


@pytest.fixture
def own_fonts(monkeypatch):
    """Matplotlib knows the fonts only that come with it, whatever the machine has."""
    fonts = font_manager.fontManager
    own = [entry for entry in fonts.ttflist if entry.fname.startswith(matplotlib.get_data_path())]
    monkeypatch.setattr(fonts, "ttflist", own)
