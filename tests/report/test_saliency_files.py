"""The table, the files and the figure of a saliency."""

import csv
import json

import numpy as np
import pytest

from annot_hf.evaluation.saliency import Saliency
from annot_hf.report.pages import save_figure
from annot_hf.report.studies import plot_saliency, saliency_table, save_saliency
from annot_hf.training.recipe import read_layer


@pytest.fixture
def saliency():
    scores = np.array([[0.1, np.nan, 0.2], [0.3, np.nan, 0.4], [0.2, np.nan, 0.1]])
    return Saliency(
        scores, ("=angry", "never", "joy"), "absolute", None, 1234, {"trunk": "some/wavlm", "split": "train"}
    )


def test_files_hold_the_choice_and_the_numbers(saliency, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "saliency.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"holds saliency\.csv, which this package did not write"):
        save_saliency(saliency, tmp_path / "other")
    save_saliency(saliency, tmp_path / "out")
    path = save_saliency(saliency, tmp_path / "out")
    record = json.loads(path.read_text())
    assert record["trunk_layer"] == 1 and record["trunk"] == "some/wavlm" and record["items"] == 1234
    assert record["scores"][1] == [0.3, None, 0.4] and record["means"] == pytest.approx([0.15, 0.35, 0.15])
    assert read_layer(path) == (1, "some/wavlm")
    rows = list(csv.reader(open(tmp_path / "out" / "saliency.csv")))
    assert rows[0] == ["layer", "'=angry", "never", "joy", "mean"] and rows[2][:2] == ["1", "0.3"]
    table = saliency_table(saliency)
    assert table.columns == ("layer", "=angry", "never", "joy", "mean") and "1,234 items" in table.note
    assert [cell.text for cell in table.rows[1]] == ["1 (chosen)", "0.3000", "\u2013", "0.4000", "0.3500"]


def test_the_figure_shows_every_layer_and_target(saliency, tmp_path):
    figure = plot_saliency(saliency)
    upper, lower = figure.axes[:2]
    assert upper.lines[0].get_ydata().tolist() == pytest.approx(saliency.means.tolist())
    assert [label.get_text() for label in lower.get_yticklabels()] == ["=angry", "never", "joy"]
    assert "layer 1" in figure.legends[0].get_texts()[0].get_text()
    assert save_figure(lambda: plot_saliency(saliency), tmp_path / "saliency.png").stat().st_size > 5000
