import numpy as np
import pytest

from annot_hf.proxies.job import BANDS, make_plan
from annot_hf.proxies.prompts import INSTRUCTIONS


def test_in_the_published_plan_instruction_and_band_go_together():
    plan = make_plan("paper", 10)
    assert [one.instruction for one in plan] == [*INSTRUCTIONS, *INSTRUCTIONS]
    assert [one.band for one in plan] == [0, 1, 2, 3, 4] * 2
    assert len({(one.instruction, one.band) for one in make_plan("paper", 100)}) == 5  # confounded


def test_in_the_crossed_plan_they_do_not():
    pairs = [(INSTRUCTIONS.index(one.instruction), one.band) for one in make_plan("crossed", 25)]
    assert len(set(pairs)) == 25
    table = np.zeros((5, 5))
    for pair in pairs:
        table[pair] += 1
    assert np.linalg.matrix_rank(table - table.mean()) == 0  # every combination as often: nothing is confounded
    for start in range(0, 25, 5):
        assert sorted(band for _, band in pairs[start : start + 5]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["paper", "crossed"])
def test_a_larger_plan_begins_with_the_smaller_one(name):
    assert make_plan(name, 23)[:7] == make_plan(name, 7)


def test_temperatures_are_in_their_band_but_for_the_jitter():
    for one in make_plan("crossed", 100):
        low, high = BANDS[one.band]
        assert max(low - 0.05, 0.1) <= one.temperature <= min(high + 0.05, 1.0)
    assert len({one.temperature for one in make_plan("crossed", 100)}) > 90


def test_the_temperatures_of_folders_that_were_begun_stay():
    assert [one.temperature for one in make_plan("paper", 4)] == [0.2044, 0.4474, 0.5322, 0.6908]


@pytest.mark.parametrize(
    ("name", "annotators", "message"),
    [
        ("papers", 5, "did you mean 'paper'"),
        ("paper", 0, "from 1 to 100"),
        ("paper", 101, "from 1 to 100"),
        ("paper", True, "from 1 to 100"),
        ("paper", 2.5, "from 1 to 100"),
    ],
)
def test_what_is_no_plan(name, annotators, message):
    with pytest.raises(ValueError, match=message):
        make_plan(name, annotators)
