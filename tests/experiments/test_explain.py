"""What the members of an ensemble attend to."""

import shutil

import numpy as np
from typer.testing import CliRunner

from annot_hf.cli.app import app
from annot_hf.data.export import read_export
from annot_hf.data.predictions import Predictions
from annot_hf.experiments.explain import explain
from annot_hf.training.train import train


def test_the_page_of_explanations(recipe, sayings, tmp_path):
    model = train(recipe("seedbert", num_members=2, learning_rate=1e-2)).model
    words = ["predict", model, "--corpus", sayings, "--out", tmp_path / "out", "--explain", 2]
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0
    page = (tmp_path / "out" / "explanations.html").read_text()
    assert page.count("<section>") == 2 and page.count("member 1, p") == 2 and "raters" in page
    predictions = Predictions.load(tmp_path / "out")
    texts = read_export(sayings).items.set_index("item")["text"]
    for one in explain(model, predictions.items, list(texts[predictions.items])):
        assert one.attention.shape == (2, len(one.offsets))
        np.testing.assert_allclose(one.attention.sum(1), 1, atol=1e-5)
        words_of = [one.text[start:end] for start, end in one.offsets if end > start]
        assert words_of == one.text.split()[:30]


def test_what_cannot_be_explained_says_so(checkpoints, corpus, tmp_path):
    words = ["predict", checkpoints["distribution"], "--corpus", corpus, "--out", tmp_path / "out", "--explain", 2]
    said = str(CliRunner().invoke(app, [str(word) for word in words]).exception)
    assert "is of type annot-distribution over annot-log-mel; explain shows the words" in said
    said = str(CliRunner().invoke(app, [str(word) for word in [*words, "--condition", "telephone"]]).exception)
    assert "--explain shows words" in said
    assert not (tmp_path / "out").exists()
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
