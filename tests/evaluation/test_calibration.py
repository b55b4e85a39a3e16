import numpy as np
import pytest
from hypothesis import given, strategies as st

from annot_hf.evaluation.categories import (
    calibration_floor,
    expected_confusion,
    measure_calibration,
    measure_residual,
)
from annot_hf.evaluation.resampling import Resamples

RNG = np.random.default_rng(10)
OPTIONS = {"n": 60, "seed": 0}


def loop_ece(p, q):
    """Weighted mean over ten equal bins of |mean vote share - mean probability|, written out."""
    total = 0.0
    for index in range(10):
        rows = [row for row in range(len(p)) if min(int(round(p[row] * 1e9)) // 10**8, 9) == index]
        if rows:
            total += len(rows) / len(p) * abs(np.mean(q[rows]) - np.mean(p[rows]))
    return total


@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 1000))
def test_ece_equals_an_explicit_loop(n, k, seed):
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(k), n), rng.multinomial(5, np.ones(k) / k, n) / 5
    found = measure_calibration({"model": p}, q, range(k), Resamples(n=0, seed=0))
    each = [loop_ece(p[:, c], q[:, c]) for c in range(k)]
    best = p.argmax(1)
    top = loop_ece(p.max(1), q[np.arange(n), best])
    assert found["ece"].draws["model"][0] == pytest.approx(np.mean(each))
    assert found["ece_top"].draws["model"][0] == pytest.approx(top)
    assert [found[f"ece_of_{c}"].draws["model"][0] for c in range(k)] == pytest.approx(each)


def test_bins_are_left_closed_and_the_last_is_closed():
    p = np.array([[0.3, 0.7], [0.29, 0.71], [1.0, 0.0]])
    q = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = measure_calibration({"model": p}, q, "ab", Resamples(n=0, seed=0))
    assert found["ece_of_a"].draws["model"][0] == pytest.approx(
        (0.7 + 0.29) / 3
    )  # not one bin, where they would cancel


def test_equal_predictions_and_votes_are_calibrated_and_a_shift_is_not():
    q = RNG.dirichlet(np.ones(4), 100)
    found = measure_calibration({"model": q}, q, range(4), Resamples(**OPTIONS))
    assert found["ece"].draws["model"] == pytest.approx(0, abs=1e-12)
    wrong = np.tile([1.0, 0, 0, 0], (100, 1))
    found = measure_calibration({"model": wrong}, np.roll(wrong, 1, axis=1), range(4), Resamples(**OPTIONS))
    assert found["ece"].draws["model"][0] == pytest.approx(0.5) and found["ece_top"].draws["model"][0] == 1


def test_intervals_hold_the_value_and_chance_explains_a_calibrated_model():
    opinion = RNG.dirichlet(np.ones(4), 600)
    votes = np.full(600, 5)
    q = RNG.multinomial(votes, opinion) / 5
    found = measure_calibration({"model": opinion}, q, range(4), Resamples(RNG.integers(30, size=600), **OPTIONS))
    floor = calibration_floor(opinion, votes, range(4))
    for name in ("ece", "ece_top", "ece_of_2"):
        record = found[name].at("model")
        assert record["low"] <= record["value"] <= record["high"]
        assert floor[name] == pytest.approx(record["value"], rel=0.8) and floor[name] > 0
    assert floor == calibration_floor(opinion, votes, range(4))
    assert calibration_floor(opinion, 100 * votes, range(4))["ece"] < 0.3 * floor["ece"]
    unknown = calibration_floor(opinion, 0 * votes, range(4))
    assert unknown.keys() == floor.keys() and set(unknown.values()) == {None}


def test_expected_confusion_equals_an_explicit_loop_and_rows_are_distributions():
    p, q = RNG.dirichlet(np.ones(4), 50), RNG.dirichlet(np.ones(4), 50)
    q[q.argmax(1) == 3] = [1, 0, 0, 0]
    found = expected_confusion(p, q)
    for label in range(3):
        rows = [row for row in range(50) if q[row].argmax() == label]
        np.testing.assert_allclose(found[label], np.mean(p[rows], axis=0))
        assert found[label].sum() == pytest.approx(1)
    assert np.isnan(found[3]).all()
    np.testing.assert_allclose(expected_confusion(np.eye(3), np.eye(3)), np.eye(3))


def test_the_residual_label():
    p, q = RNG.dirichlet(np.ones(3), 40), RNG.multinomial(4, [0.4, 0.3, 0.3], 40) / 4
    found = measure_residual({"model": p}, q, ("a", "b", "other"), 2, Resamples(**OPTIONS))
    shares = [sum(q[i, 2] * p[i, k] for i in range(40)) / sum(q[i, 2] for i in range(40)) for k in range(3)]
    assert [found[f"residual_{name}"].draws["model"][0] for name in ("a", "b", "other")] == pytest.approx(
        [100 * share for share in shares]
    )
    assert sum(one.draws["votes"][0] for one in found.values()) == pytest.approx(100)
    assert [one.better for one in found.values()] == ["", "", "higher"]


def test_a_system_may_have_any_name():
    p, q = RNG.dirichlet(np.ones(3), 40), RNG.multinomial(4, [0.4, 0.3, 0.3], 40) / 4
    found = measure_residual({"weight": p, "model": p}, q, ("a", "b", "other"), 2, Resamples(**OPTIONS))
    for one in found.values():
        np.testing.assert_array_equal(one.draws["weight"], one.draws["model"])
