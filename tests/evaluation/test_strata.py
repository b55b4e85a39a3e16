import audmetric
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from annot_hf.evaluation.categories import EDGES, entropy_strata, measure_strata
from annot_hf.evaluation.resampling import Resamples

RNG = np.random.default_rng(8)
OPTIONS = {"n": 50, "seed": 0}


def rows_of(q):
    return {stratum.key: np.flatnonzero(stratum.rows).tolist() for stratum in entropy_strata(q, range(q.shape[1]))}


@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 30), st.just(4)), elements=st.integers(0, 5)))
def test_thirds_equal_an_explicit_loop_and_every_item_is_in_one(counts):
    counts[:, 0] += 1
    q = counts / counts.sum(1, keepdims=True)
    found = rows_of(q)
    names = ("low", "mid", "high")
    expected = {f"thirds_{name}": [] for name in names}
    for row, share in enumerate(q):
        entropy = round(scipy.stats.entropy(share) / np.log(4), 9)
        name = next(
            name
            for name, low, high in zip(names, EDGES, EDGES[1:], strict=False)
            if round(low, 9) <= entropy < round(high, 9) or name == "high"
        )
        expected[f"thirds_{name}"].append(row)
    assert {key: rows for key, rows in found.items() if key.startswith("thirds")} == expected
    for scheme in ("thirds", "tertiles"):
        assert sorted(sum((found[f"{scheme}_{name}"] for name in names), [])) == list(range(len(q)))


def test_an_entropy_on_an_edge_belongs_to_the_upper_stratum():
    q = np.zeros((4, 8))
    q[0, 3] = 1
    q[1, [0, 5]] = 0.5  # ln 2 / ln 8 = 1/3
    q[2, [0, 1, 4, 6]] = 0.25  # 2/3
    q[3] = 1 / 8
    found = rows_of(q)
    assert (found["thirds_low"], found["thirds_mid"], found["thirds_high"]) == ([0], [1], [2, 3])


def test_tertiles_keep_equal_entropies_together():
    q = np.array([[1, 0], [0.5, 0.5], [0.75, 0.25], [0, 1], [0.25, 0.75], [0.6, 0.4]])
    found = rows_of(q)
    assert (found["tertiles_low"], found["tertiles_mid"], found["tertiles_high"]) == ([0, 3], [2, 4], [1, 5])
    strata = entropy_strata(np.eye(2)[[0, 1, 0, 0]], "ab")  # nobody disagrees: all in one
    assert [int(stratum.rows.sum()) for stratum in strata] == [4, 0, 0, 4, 0, 0]
    assert strata[4].low is None and strata[4].absent == ("a", "b")


def test_measures_of_strata_equal_audmetric_and_scipy():
    n, k = 300, 5
    q, p = RNG.multinomial(6, RNG.dirichlet(np.ones(k)), n) / 6, RNG.dirichlet(np.ones(k), n)
    strata = entropy_strata(q, range(k))
    found = measure_strata({"model": p}, q, strata, Resamples(**OPTIONS))
    true, predicted = q.argmax(1), p.argmax(1)
    for stratum in strata:
        rows = stratum.rows
        assert rows.any()
        jsd = [scipy.spatial.distance.jensenshannon(a, b) ** 2 for a, b in zip(p[rows], q[rows], strict=True)]
        each = audmetric.fscore_per_class(true[rows], predicted[rows], list(range(k)), zero_division=0)
        f1 = np.array([each[label] for label in range(k)])
        present = [label for label in range(k) if label in true[rows]]
        value = {name: found[f"{name}_{stratum.key}"].draws["model"][0] for name in ("jsd", "accuracy", "macro_f1")}
        assert value["jsd"] == pytest.approx(np.mean(jsd))
        assert value["accuracy"] == pytest.approx(np.mean(true[rows] == predicted[rows]))
        assert value["macro_f1"] == pytest.approx(np.mean(f1))
        assert found[f"macro_f1_present_{stratum.key}"].draws["model"][0] == pytest.approx(np.mean(f1[present]))
        assert stratum.absent == tuple(label for label in range(k) if label not in present)


def test_all_strata_together_give_the_whole():
    n, k = 200, 4
    q, p = RNG.dirichlet(np.ones(k), n), RNG.dirichlet(np.ones(k), n)
    speakers = RNG.integers(9, size=n)
    strata = entropy_strata(q, range(k))
    found = measure_strata({"model": p}, q, strata, Resamples(speakers, **OPTIONS))
    for scheme in ("thirds", "tertiles"):
        parts = [stratum for stratum in strata if stratum.scheme == scheme and stratum.rows.any()]
        weights = [stratum.rows.mean() for stratum in parts]
        accuracy = [found[f"accuracy_{stratum.key}"].draws["model"][0] for stratum in parts]
        assert np.dot(weights, accuracy) == pytest.approx(np.mean(p.argmax(1) == q.argmax(1)))


def test_resamples_equal_an_explicit_loop():
    n, k = 60, 3
    q, p, speakers = RNG.dirichlet(np.ones(k), n), RNG.dirichlet(np.ones(k), n), RNG.integers(5, size=n)
    strata = entropy_strata(q, range(k))
    found = measure_strata({"model": p}, q, strata, Resamples(speakers, 10, seed=3))
    draws = np.random.default_rng(3).integers(5, size=(10, 5), dtype=np.int32)
    stratum = strata[2]
    for index, draw in enumerate(draws):
        rows = np.concatenate([np.flatnonzero((speakers == code) & stratum.rows) for code in draw])
        expected = np.mean(p[rows].argmax(1) == q[rows].argmax(1))
        assert found[f"accuracy_{stratum.key}"].draws["model"][1 + index] == pytest.approx(expected)


def test_an_empty_stratum_is_not_defined():
    q = np.eye(3)
    found = measure_strata({"model": q}, q, entropy_strata(q, "abc"), Resamples(**OPTIONS))
    assert found["accuracy_thirds_low"].at("model")["value"] == 1
    for name in ("jsd", "accuracy", "macro_f1", "macro_f1_present"):
        assert found[f"{name}_thirds_high"].at("model")["value"] is None
