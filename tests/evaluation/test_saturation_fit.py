"""What a curve is said to show: exact exponentials, and every shape of which no number may be made."""

import re

import numpy as np
import pytest

from annot_hf.evaluation.saturation import find_saturation

N = np.arange(1, 21)


@pytest.mark.parametrize("c, first", [(0.15, 17), (0.25, 11), (0.5, 6), (1.0, 4), (3.0, 2)])
def test_an_exponential_is_found_again(c, first):
    curve = 0.3 + 0.2 * np.exp(-c * N)
    found = find_saturation(curve)
    assert found.threshold == pytest.approx(0.3 + 0.1 * (curve[0] - 0.3), abs=1e-6)
    assert found.suggested == first == int(np.flatnonzero(curve <= found.threshold)[0]) + 1
    assert found.fit.c == pytest.approx(c, rel=1e-3) and found.fit.r2 == pytest.approx(1)
    np.testing.assert_allclose(found.fit.at(N), curve, atol=1e-6)
    assert f"suggests {first} synthetic votes per item" in found.text


@pytest.mark.parametrize("drop, threshold, rate, first", [(0.06, 0.3684, 0.5, 6), (0.0294, 0.3578, 0.27, 10)])
def test_the_rule_of_the_paper_as_printed(drop, threshold, rate, first):
    """IEMOCAP and MSP-Podcast: drop, threshold (bits) and n of arXiv 2601.14620; the rates are ours, for its n."""
    bits = threshold + drop * (np.exp(-rate * (N - 1)) - 0.1)
    found = find_saturation(bits * np.log(2))
    assert found.threshold / np.log(2) == pytest.approx(threshold) and found.suggested == first
    assert found.fit.a / np.log(2) == pytest.approx(drop)


def test_the_threshold_goes_by_the_end_of_the_fit_and_not_by_the_smallest_value():
    curve = 0.3 + 0.2 * np.exp(-0.3 * (N - 1))
    curve[-1] -= 0.02  # one value that is low by chance
    found = find_saturation(curve)
    assert found.threshold == pytest.approx(0.32, abs=4e-3) and found.suggested == 9
    assert found.threshold > curve.min() + 0.1 * (curve.max() - curve.min()) + 0.01


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_the_scale_of_a_curve_changes_nothing(scale):
    curve = 0.3 + 0.2 * np.exp(-0.25 * N) + 0.003 * np.cos(7 * N)
    assert find_saturation(scale * curve).suggested == find_saturation(curve).suggested == 10


@pytest.mark.parametrize(
    "curve, text",
    [
        (0.5 - 0.01 * N, "not saturated after 20 votes"),
        (0.3 + 0.2 * np.exp(-0.03 * N), "not saturated after 20 votes: the fit falls by another 0.10[0-9]* nats"),
        (0.3 + 0.2 * np.exp(-0.1 * N), "not saturated after 20 votes: the fit falls by another 0.02[0-9]* nats"),
        (np.full(20, 0.2), "flat at 0.2000 nats: the synthetic votes on an item are all alike"),
        (0.2 + 0.01 * N, "does not fall: 0.2100 nats after 1 vote, 0.4000 after 20"),
        (0.2 + 0.01 * np.abs(N - 10), "does not fall|does not fit"),
        (np.array([0.4]), "There is 1 synthetic vote per item at most"),
        (np.array([0.4, 0.3, 0.25]), "There are 3 synthetic votes per item at most"),
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

    monkeypatch.setattr("annot_hf.evaluation.saturation.curve_fit", fails)
    found = find_saturation(0.3 + 0.2 * np.exp(-0.25 * N))
    assert found.suggested is None and found.fit is None and "No exponential could be fitted" in found.text
