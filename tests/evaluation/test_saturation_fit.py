"""What a curve is said to show: exact exponentials, and every shape of which no number may be made."""

import re

import numpy as np
import pytest

from annot_hf.evaluation.saturation_fit import find_saturation

N = np.arange(1, 21)


@pytest.mark.parametrize("c, first", [(0.25, 10), (0.5, 6), (1.0, 4), (3.0, 2)])
def test_an_exponential_is_found_again(c, first):
    curve = 0.3 + 0.2 * np.exp(-c * N)
    found = find_saturation(curve)
    top, bottom = curve[0], curve[-1]
    assert found.threshold == pytest.approx(bottom + 0.1 * (top - bottom))
    assert found.suggested == first == int(np.flatnonzero(curve <= found.threshold)[0]) + 1
    assert found.fit.c == pytest.approx(c, rel=1e-3) and found.fit.r2 == pytest.approx(1)
    np.testing.assert_allclose(found.fit.at(N), curve, atol=1e-6)
    assert f"suggests {first} synthetic votes an item" in found.text


def test_the_rule_of_the_paper_as_printed():
    """IEMOCAP: a drop of .0600 has a threshold of .3684 bits (methods of arXiv 2601.14620); the rate is ours, for its 6."""
    span = np.exp(-0.5 * N)
    bits = 0.3624 + 0.06 * (span - span[-1]) / (span[0] - span[-1])
    found = find_saturation(bits * np.log(2))
    assert found.threshold / np.log(2) == pytest.approx(0.3684) and found.suggested == 6


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_the_scale_of_a_curve_changes_nothing(scale):
    curve = 0.3 + 0.2 * np.exp(-0.25 * N) + 0.003 * np.cos(7 * N)
    assert find_saturation(scale * curve).suggested == find_saturation(curve).suggested == 10


@pytest.mark.parametrize(
    "curve, text",
    [
        (0.5 - 0.01 * N, "not saturated after 20 votes"),
        (0.3 + 0.2 * np.exp(-0.03 * N), "not saturated after 20 votes.*the paper's rule would say 1[5-9]"),
        (np.full(20, 0.2), "flat at 0.2000 nats: the synthetic votes on an item are all alike"),
        (0.2 + 0.01 * N, "does not fall: 0.2100 nats after 1 vote, 0.4000 after 20"),
        (0.2 + 0.01 * np.abs(N - 10), "does not fall|does not fit"),
        (np.array([0.4]), "There is 1 synthetic vote an item at most"),
        (np.array([0.4, 0.3, 0.25]), "There are 3 synthetic votes an item at most"),
        (np.where(N % 2, 0.4, 0.2) - 0.001 * N, "An exponential does not fit the curve"),
    ],
)
def test_shapes_that_tell_no_number(curve, text):
    found = find_saturation(curve)
    assert found.suggested is None

    assert re.search(text, found.text), found.text


def test_a_fit_that_does_not_converge_is_said(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr("annot_hf.evaluation.saturation_fit.curve_fit", fails)
    found = find_saturation(0.3 + 0.2 * np.exp(-0.25 * N))
    assert found.suggested is None and found.fit is None and "No exponential could be fitted" in found.text
