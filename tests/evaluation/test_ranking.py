import audmetric
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from annot_hf.evaluation.categories import measure_n_best, measure_speakers, speaker_groups
from annot_hf.evaluation.resampling import Resamples
from annot_hf.models.measures import plurality_rank, speaker_uar

RNG = np.random.default_rng(9)
OPTIONS = {"n": 40, "seed": 0}


def value(measured, name):
    return measured[name].draws["model"][0]


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(4)), elements=st.sampled_from([0.0, 0.1, 0.2, 0.7])),
    st.data(),
)
def test_rank_equals_sorting_with_ties_in_support_order(p, data):
    true = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(p), max_size=len(p))))
    expected = [
        sorted(range(4), key=lambda k, row=row: (-row[k], k)).index(label) for row, label in zip(p, true, strict=True)
    ]
    assert plurality_rank(p, true).tolist() == expected
    assert ((plurality_rank(p, true) == 0) == (p.argmax(1) == true)).all()


def test_n_best_equals_a_loop_and_audmetric():
    n, k = 400, 6
    p, q = RNG.dirichlet(np.ones(k), n), RNG.dirichlet(np.ones(k), n)
    true = q.argmax(1)
    found = measure_n_best({"model": p}, q, Resamples(**OPTIONS))
    assert value(found, "uar_1_best") == pytest.approx(audmetric.unweighted_average_recall(true, p.argmax(1)))
    for depth in (1, 2, 3):
        best = np.argsort(-p, axis=1)[:, :depth]
        expected = np.mean([label in row for label, row in zip(true, best, strict=True)])
        assert value(found, f"accuracy_{depth}_best") == pytest.approx(expected)
        said = np.where((best == true[:, None]).any(1), true, best[:, 0])  # right wherever the truth is among the best
        assert value(found, f"uar_{depth}_best") == pytest.approx(audmetric.unweighted_average_recall(true, said))


def test_more_labels_never_hurt_and_all_of_them_are_not_told():
    p, q = RNG.dirichlet(np.ones(3), 50), RNG.dirichlet(np.ones(3), 50)
    found = measure_n_best({"model": p}, q, Resamples(**OPTIONS))
    assert set(found) == {"accuracy_1_best", "uar_1_best", "accuracy_2_best", "uar_2_best"}
    assert (found["accuracy_2_best"].draws["model"][0] >= found["accuracy_1_best"].draws["model"][0]).all()
    assert measure_n_best({"model": np.ones((2, 1))}, np.ones((2, 1)), Resamples(**OPTIONS)) == {}


def run(n=200, k=5, s=15):
    p, q = RNG.dirichlet(np.ones(k), n), RNG.dirichlet(np.ones(k), n)
    return p + (q > 0.4) * 1.0, q, np.array([f"s{code}" for code in RNG.integers(s, size=n)], dtype=object)


def test_speaker_uar_and_pauar_equal_an_explicit_loop():
    p, q, speakers = run()
    names, uar = speaker_uar(p, q, speakers, 2)
    assert names.tolist() == sorted(set(speakers))
    expected = []
    for name in names:
        recalls = []
        for label in range(5):
            rows = [row for row in range(len(p)) if speakers[row] == name and q[row].argmax() == label]
            if rows:
                recalls.append(np.mean([label in np.argsort(-p[row])[:2] for row in rows]))
        expected.append(np.mean(recalls))
    np.testing.assert_allclose(uar, expected)
    _, one = speaker_uar(p, q, speakers)
    rows = speakers == names[0]
    theirs = audmetric.unweighted_average_recall(q[rows].argmax(1), p[rows].argmax(1), sorted(set(q[rows].argmax(1))))
    assert one[0] == pytest.approx(theirs)
    groups = speaker_groups(speakers, np.arange(len(p)))
    found = measure_speakers({"model": p}, q, groups, Resamples(speakers, **OPTIONS))
    for level in (75, 50):
        assert value(found, f"pauar{level}_2_best") == pytest.approx(
            100 * np.mean([one > level / 100 for one in expected])
        )
        large = [one for one, name in zip(expected, names, strict=True) if (speakers == name).sum() >= 10]
        assert 0 < len(large) < len(names)
        assert value(found, f"pauar{level}_2_best_min10") == pytest.approx(
            100 * np.mean([one > level / 100 for one in large])
        )


@pytest.mark.parametrize("levels", [(0.5, 1.0), (0.6, 0.9), (0.7, 0.8), (0.75,)])
def test_exactly_three_quarters_does_not_exceed_three_quarters(levels):
    true, right = [], []
    for label, level in enumerate(levels):
        true += [label] * 20
        right += [index < round(20 * level) for index in range(20)]
    q = np.eye(3)[true]
    p = np.eye(3)[np.where(right, true, 2)]
    assert speaker_uar(p, q, ["s"] * len(p))[1][0] == pytest.approx(0.75)
    groups = speaker_groups(["s"] * len(p), np.arange(len(p)))
    found = measure_speakers({"model": p}, q, groups, Resamples(["s"] * len(p), **OPTIONS))
    assert value(found, "pauar75_1_best") == 0 and value(found, "pauar50_1_best") == 100


def test_groups_of_speakers():
    speakers = np.repeat(["a", "b", "c", "d"], [12, 25, 3, 3])
    items = np.array([f"i{row}" for row in range(43)])
    sex = dict(zip(items, ["f"] * 12 + ["m"] * 25 + ["f", "m", "f"] + [None, np.nan, None], strict=True))
    groups = {group.key: group.rows.tolist() for group in speaker_groups(speakers, items, {"sex": sex})}
    assert groups == {
        "": [True] * 4,
        "min10": [True, True, False, False],
        "min20": [False, True, False, False],
        "sex=f": [True, False, False, False],
        "sex=m": [False, True, False, False],
        "sex=not stated": [False, False, False, True],
        "sex=varies": [False, False, True, False],
    }


def test_a_group_resamples_its_own_speakers_and_an_empty_one_is_not_defined():
    p, q, speakers = run(120, 4, 12)
    groups = speaker_groups(speakers, np.arange(120))
    found = measure_speakers({"model": p, "marginal": p}, q, groups, Resamples(speakers, **OPTIONS))
    record = found["pauar50_1_best"].at("model")
    assert record["low"] <= record["value"] <= record["high"]
    assert found["pauar50_1_best"].difference("model", "marginal")["high"] == 0
    groups[0].rows[:] = False
    empty = measure_speakers({"model": p}, q, groups[:1], Resamples(speakers, **OPTIONS))
    assert empty["pauar50_1_best"].at("model")["value"] is None
    groups[0].rows[3] = True
    single = measure_speakers({"model": p}, q, groups[:1], Resamples(speakers, **OPTIONS))["pauar50_1_best"].at("model")
    assert single["value"] in (0, 100) and single["low"] is None
