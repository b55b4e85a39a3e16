import audmetric
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from annot_hf.evaluation.resampling import Measured, Resamples, with_interval
from annot_hf.models import measures
from annot_hf.models.measures import (
    accuracy_of,
    ccc_of,
    class_counts,
    f1_of,
    macro_f1_of,
    macro_f1_present_of,
    moments,
    pearson_of,
    ratio,
    slope_of,
    uar_of,
)

RNG = np.random.default_rng(5)
PAIRS = hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(1, 20)), elements=st.floats(-1, 1, width=32))
CLASSES = hnp.arrays(np.int64, st.tuples(st.just(2), st.integers(1, 30)), elements=st.integers(0, 3))


@given(PAIRS)
@settings(deadline=None)
def test_ccc_of_sums_equals_the_measure(pair):
    found = float(ccc_of(moments(*pair).sum(0)))
    assert -1 - 1e-9 <= found <= 1 + 1e-9
    if min(pair.std(axis=1)) > 1e-4:
        assert found == pytest.approx(float(measures.ccc(*pair)), abs=1e-6)
    if pair[0].std() == 0 or pair[1].std() == 0:
        assert found == 0


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_ccc_and_pearson_against_libraries(offset):
    y = RNG.normal(size=500)
    x = 0.6 * y + 0.5 * RNG.normal(size=500) + 0.2
    sums = moments(x + offset, y + offset).sum(0)
    assert float(ccc_of(sums)) == pytest.approx(audmetric.concordance_cc(y, x), abs=1e-7)
    assert float(pearson_of(sums)) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-7)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0.1] * 9, [0.1] * 9),
        ([0.1] * 9, [0.3] * 9),
        ([0.1] * 3, [0.0, 0.5, 1.0]),
        ([0.0, 1.0], [0.7, 0.7]),
        ([0.4], [0.2]),
    ],
)
def test_ccc_and_pearson_of_constants_are_zero(x, y):
    sums = moments(np.array(x), np.array(y)).sum(0)
    assert ccc_of(sums) == 0 and pearson_of(sums) == 0


def loop_scores(predicted, true, n):
    """Accuracy, per-class F1 and average recall, written out."""
    f1, recalls = [], []
    for label in range(n):
        hits = sum(p == label == t for p, t in zip(predicted, true, strict=True))
        said, real = sum(p == label for p in predicted), sum(t == label for t in true)
        f1.append(2 * hits / (said + real) if said + real else 0.0)
        if real:
            recalls.append(hits / real)
    return np.mean(predicted == true), f1, np.mean(recalls)


@given(CLASSES)
@settings(deadline=None)
def test_class_measures_equal_explicit_loops(codes):
    predicted, true = codes
    sums = class_counts(predicted, true, 4).sum(0)
    accuracy, f1, recall = loop_scores(predicted, true, 4)
    assert float(accuracy_of(sums)) == pytest.approx(accuracy)
    np.testing.assert_allclose(f1_of(sums), f1)
    assert float(macro_f1_of(sums)) == pytest.approx(np.mean(f1))
    assert float(uar_of(sums)) == pytest.approx(recall)


def test_class_measures_equal_audmetric():
    true, predicted = RNG.integers(4, size=300), RNG.integers(4, size=300)
    sums = class_counts(predicted, true, 4).sum(0)
    labels = list(range(4))
    assert float(macro_f1_of(sums)) == pytest.approx(audmetric.unweighted_average_fscore(true, predicted, labels))
    assert float(uar_of(sums)) == pytest.approx(audmetric.unweighted_average_recall(true, predicted, labels))
    assert float(accuracy_of(sums)) == pytest.approx(audmetric.accuracy(true, predicted, labels))


def test_macro_f1_keeps_a_class_that_nobody_predicts():
    sums = class_counts(np.zeros(4, int), np.array([0, 0, 1, 2]), 9).sum(0)
    assert float(macro_f1_of(sums)) == pytest.approx((2 * 2 / 6) / 9)


def test_row_zero_is_the_data_and_rows_are_resamples_of_clusters():
    values = np.arange(12.0)
    clusters = np.repeat(["a", "b", "c"], 4)
    sums = Resamples(clusters, 200, seed=1).sums({"x": values, "n": np.ones(12)})
    assert sums["x"][0] == values.sum() and sums["n"].tolist() == [12] * 201
    totals = np.array([values[clusters == name].sum() for name in "abc"])
    possible = {totals[list(draw)].sum() for draw in np.ndindex(3, 3, 3)}
    assert set(sums["x"][1:]) == possible


def test_resampling_equals_an_explicit_loop_with_the_same_draws():
    values, clusters = RNG.normal(size=(50, 2, 3)), RNG.integers(7, size=50)
    sums = Resamples(clusters, 30, seed=9).sums({"x": values})["x"]
    draws = np.random.default_rng(9).integers(7, size=(30, 7), dtype=np.int32)
    for row, draw in enumerate(draws):
        expected = sum(values[clusters == code].sum(axis=0) for code in draw)
        np.testing.assert_allclose(sums[1 + row], expected)


@pytest.mark.parametrize("clusters", [None, np.repeat(np.arange(7), np.arange(1, 8))])
def test_means_are_sums_over_the_items_of_each_resample(clusters):
    values = RNG.normal(size=(28, 2))
    drawn = Resamples(clusters, 20, seed=6)
    sums = drawn.sums({"x": values, "n": np.ones(28)})
    found = drawn.means({"x": values, "first": values[:, 0]})
    np.testing.assert_allclose(found["x"], sums["x"] / sums["n"][:, None])
    np.testing.assert_allclose(found["first"], found["x"][:, 0])
    with pytest.raises(ValueError, match="There are no items to resample"):
        Resamples().means({"x": []})


def test_standard_error_of_a_mean_equals_theory():
    values = RNG.normal(size=400)
    sums = Resamples(n=4000).sums({"x": values, "n": np.ones(400)})
    means = sums["x"][1:] / sums["n"][1:]
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)
    found = with_interval(sums["x"] / sums["n"])
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.07)


def test_interval_equals_scipy_bootstrap():
    values = RNG.exponential(size=80)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    sums = Resamples(n=5000).sums({"x": values, "n": np.ones(80)})
    ours = with_interval(sums["x"] / sums["n"])
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.03)


def test_clustered_items_give_wider_intervals():
    speakers = np.repeat(np.arange(20), 30)
    values = np.repeat(RNG.normal(size=20), 30) + 0.1 * RNG.normal(size=600)
    widths = []
    for clusters in (None, speakers):
        sums = Resamples(clusters, 2000).sums({"x": values})["x"] / 600
        widths.append(with_interval(sums).high - with_interval(sums).low)
    assert widths[1] > 4 * widths[0]


def test_seeds_and_order_of_clusters():
    values, clusters = RNG.normal(size=40), RNG.integers(5, size=40)
    one = Resamples(clusters, 20, seed=3).sums({"x": values})["x"]
    assert (one == Resamples(clusters, 20, seed=3).sums({"x": values})["x"]).all()
    assert (one != Resamples(clusters, 20, seed=4).sums({"x": values})["x"]).any()
    order = RNG.permutation(40)
    shuffled = Resamples(clusters[order], 20, seed=3).sums({"x": values[order]})["x"]
    np.testing.assert_allclose(shuffled, one)


def test_one_cluster_or_no_resamples_gives_no_interval():
    for clusters, resamples in ((["s"] * 5, 100), (None, 0)):
        sums = Resamples(clusters, resamples).sums({"x": np.arange(5.0)})["x"]
        assert sums.tolist() == [10.0]
        assert with_interval(sums).to_dict() == {"value": 10.0, "low": None, "high": None}


def test_estimate_of_what_is_not_defined():
    assert with_interval(np.array([np.nan, 1.0, 2.0])).value is None
    assert with_interval(np.array([1.0, np.nan, 2.0])).to_dict() == {"value": 1.0, "low": None, "high": None}
    assert ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]), empty=0.0).tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("columns", "clusters", "message"),
    [
        ({"x": []}, None, "There are no items to resample; give at least one."),
        ({"x": [1, 2], "y": [1]}, None, "Column 'y' has 1 rows and the first has 2; give one value per item."),
        ({"x": [1, 2]}, ["a"], "Column 'clusters' has 1 rows and the first has 2; give one value per item."),
    ],
)
def test_bad_columns(columns, clusters, message):
    with pytest.raises(ValueError) as error:
        Resamples(clusters).sums(columns)
    assert str(error.value) == message


def cells_of(n=500, k=4, seed=2):
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(k, size=n), rng.integers(k, size=n)
    return {"classes": class_counts(predicted, true, k)}, true * k + predicted


def test_cells_of_clusters_are_drawn_as_their_items_are():
    columns, cells = cells_of()
    speakers = RNG.integers(11, size=500)
    options = {"n": 50, "seed": 4}
    by_cell = Resamples(speakers, **options).cells(columns, cells)["classes"]
    np.testing.assert_allclose(by_cell, Resamples(speakers, **options).sums(columns)["classes"])


def test_cells_of_items_have_the_law_of_resampled_items():
    columns, cells = cells_of()
    options = {"n": 4000, "seed": 1}
    by_cell, by_item = (
        macro_f1_of(sums["classes"])
        for sums in (Resamples(**options).cells(columns, cells), Resamples(**options).sums(columns))
    )
    assert by_cell[0] == pytest.approx(by_item[0])
    assert scipy.stats.ks_2samp(by_cell[1:], by_item[1:]).pvalue > 1e-3
    drawn = Resamples(**options).cells(columns, cells)["classes"]
    assert (drawn[:, 2].sum(-1) == 500).all() and (drawn == np.round(drawn)).all()


@pytest.mark.parametrize("clusters", [None, ["s"]])
def test_one_item_has_no_interval_by_cells(clusters):
    sums = Resamples(clusters).cells({"x": np.ones((1, 3))}, np.zeros(1, int))["x"]
    assert sums.tolist() == [[1.0, 1.0, 1.0]]


def test_no_cells():
    with pytest.raises(ValueError, match="There are no items to resample; give at least one."):
        Resamples().cells({"x": []}, [])


def test_macro_f1_of_the_labels_present():
    sums = class_counts(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 4).sum(0)
    f1 = f1_of(sums)
    assert float(macro_f1_present_of(sums)) == pytest.approx((f1[0] + f1[1]) / 2)
    assert np.isnan(macro_f1_present_of(np.zeros((3, 4))))


def test_records_of_measures():
    draws = {"model": np.array([3.0, 2, 4]), "marginal": np.array([1.0, 1, 1])}
    pair = ("model", "marginal")
    record = Measured("title", "nats", "lower", draws).record([pair])
    assert [record["systems"][system]["value"] for system in pair] == [3, 1]
    assert record["differences"]["model - marginal"]["value"] == 2
    assert Measured("t", "", "", draws).record()["differences"] == {}
    alone = Measured("t", "", "", {"model": draws["model"]}).record([pair])
    assert list(alone["systems"]) == ["model"] and alone["differences"] == {}
    several = Measured("t", "", "", draws, {"model": np.array([2.0, 4.0])}).at("model")
    assert several["runs"] == [2, 4] and several["deviation"] == pytest.approx(2**0.5)


@pytest.mark.parametrize("clustered", [True, False])
def test_spearman_of_resamples_equals_scipy_on_the_same_draws(clustered):
    rng = np.random.default_rng(5)
    x = rng.normal(size=60)
    columns = {"fine": x, "tied": np.round(x), "constant": np.ones(60)}
    y = np.round(2 * x + rng.normal(size=60))
    clusters = rng.integers(0, 9, 60) if clustered else None
    found = Resamples(clusters, 40, seed=3).spearman(columns, y)
    code = np.arange(60) if clusters is None else np.unique(clusters.astype(str), return_inverse=True)[1]
    # how often each cluster is drawn, read off the resamples of indicators
    counts = Resamples(clusters, 40, seed=3).sums({"is": np.eye(code.max() + 1)[code]})["is"]
    counts = np.round(counts / np.bincount(code)).astype(int)
    for row, drawn in enumerate(counts):
        rows = np.repeat(np.arange(60), drawn[code])
        for name in ("fine", "tied"):
            expected = scipy.stats.spearmanr(columns[name][rows], y[rows]).statistic
            assert found[name][row] == pytest.approx(expected)
    assert (found["constant"] == 0).all()
    assert len(Resamples(np.zeros(60)).spearman(columns, y)["fine"]) == 1


def test_spearman_of_many_items_goes_by_blocks():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 2000)).round(1)
    found = Resamples(n=1100, seed=2).spearman({"x": x}, y)["x"]
    draws = np.random.default_rng(2).integers(2000, size=(1100, 2000), dtype=np.int32)
    assert found[0] == pytest.approx(scipy.stats.spearmanr(x, y).statistic) and len(found) == 1101
    for row in (0, 523, 524, 1047, 1048, 1099):
        assert found[1 + row] == pytest.approx(scipy.stats.spearmanr(x[draws[row]], y[draws[row]]).statistic)


@pytest.mark.parametrize("clusters", [None, np.repeat(np.arange(6), 5)])
def test_fit_of_numbers_equals_the_measures_of_each_resample(clusters):
    rng = np.random.default_rng(1)
    true = rng.normal(size=30)
    predicted = 0.5 * true + rng.normal(size=30)
    found = Resamples(clusters, 20, seed=8).fit(predicted, true)
    count = 30 if clusters is None else 6
    draws = np.random.default_rng(8).integers(count, size=(20, count), dtype=np.int32)
    for row, draw in enumerate([np.arange(count), *draws]):
        rows = draw if clusters is None else np.concatenate([np.flatnonzero(clusters == code) for code in draw])
        assert found["ccc"][row] == pytest.approx(audmetric.concordance_cc(true[rows], predicted[rows]))
        assert found["pearson"][row] == pytest.approx(scipy.stats.pearsonr(true[rows], predicted[rows]).statistic)
        assert found["rmse"][row] == pytest.approx(((predicted - true)[rows] ** 2).mean() ** 0.5)
    assert set(found) == {"ccc", "pearson", "rmse"} and all(len(draws) == 21 for draws in found.values())


def test_slope_equals_the_regression_of_x_on_y():
    y = RNG.normal(size=50)
    x = 0.3 * y + RNG.normal(size=50)
    assert float(slope_of(moments(x, y).sum(0))) == pytest.approx(scipy.stats.linregress(y, x).slope)
    assert slope_of(moments(x, np.ones(50)).sum(0)) == 0 == slope_of(moments(np.ones(50), y).sum(0))


def test_what_is_constant_in_a_resample_alone_correlates_with_nothing():
    x, y = RNG.normal(size=40), np.repeat([1 / 3, 0.7], 20)
    for one, other in ((x, y), (y, x)):
        for part in (slice(20), slice(20, 40)):
            sums = moments(one, other)[part].sum(0)
            assert ccc_of(sums) == pearson_of(sums) == slope_of(sums) == 0


def test_a_thousand_resamples_and_seed_0_unless_said_otherwise():
    x, cells = RNG.normal(size=20), np.arange(20) % 4
    for name, given_ in (
        ("sums", ({"x": x},)),
        ("cells", ({"x": cells.astype(float)}, cells)),
        ("fit", (x, x**2)),
        ("spearman", ({"x": x}, x**2)),
    ):
        found, stated = getattr(Resamples(), name)(*given_), getattr(Resamples(n=1000, seed=0), name)(*given_)
        assert all(len(found[name]) == 1001 for name in found)
        for name in found:
            np.testing.assert_array_equal(found[name], stated[name])


def test_resampled_cells_are_one_multinomial():
    cells = np.array([7, 2, 2, 9, 7, 2])
    values = np.array([1.5, 2.0, 2.0, -1.0, 1.5, 2.0])
    found = Resamples(n=30, seed=3).cells({"x": values, "pair": np.stack([values, cells], 1)}, cells)
    drawn = np.random.default_rng(3).multinomial(6, [3 / 6, 2 / 6, 1 / 6], size=30)
    np.testing.assert_allclose(found["x"], [values.sum(), *(drawn @ [2.0, 1.5, -1.0])])
    np.testing.assert_allclose(found["pair"][:, 1], [cells.sum(), *(drawn @ [2, 7, 9])])
    assert len(Resamples(n=5).cells({"x": np.ones(2)}, [0, 0])["x"]) == 6
    assert len(Resamples(["s", "t", "t"], 5).sums({"x": np.ones(3)})["x"]) == 6


def test_cells_that_the_last_cluster_lacks():
    columns, options = {"x": np.array([1.0, 2.0, 1.0])}, {"clusters": ["a", "a", "b"], "n": 20}
    by_cell = Resamples(**options).cells(columns, np.array([0, 1, 0]))["x"]
    np.testing.assert_array_equal(by_cell, Resamples(**options).sums(columns)["x"])


def test_float32_is_summed_in_float64():
    x, y = (1000 + RNG.normal(size=(2, 300))).astype(np.float32)
    exact = audmetric.concordance_cc(y.astype(np.float64), x.astype(np.float64))
    assert float(ccc_of(moments(x, y).sum(0))) == pytest.approx(exact, abs=1e-10)


def test_interval_is_the_quantiles_of_the_resamples_alone():
    draws = np.array([100.0, *RNG.normal(size=500)])
    found = with_interval(draws)
    assert found.value == 100
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws[1:], [0.025, 0.975])))
    assert with_interval(np.array([1.0, 2.0])).to_dict() == {"value": 1.0, "low": 2.0, "high": 2.0}
    assert with_interval(np.array([np.inf, 1.0])).to_dict() == {"value": None, "low": None, "high": None}
    assert np.isnan(ratio(np.ones(1), np.zeros(1)))


def test_records_hold_every_field():
    draws = {"model": np.array([3.0, 2, 4]), "marginal": np.array([1.0, 1, 1])}
    record = Measured("title", "nats", "lower", draws).record([("model", "marginal")])
    assert (record["title"], record["unit"], record["better"]) == ("title", "nats", "lower")
    assert list(record) == ["title", "unit", "better", "systems", "differences"]
    assert record["systems"]["marginal"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    low, high = np.quantile([1.0, 3.0], [0.025, 0.975])
    difference = record["differences"]["model - marginal"]
    assert difference == {"value": 2.0, "low": pytest.approx(low), "high": pytest.approx(high)}


def test_measures_of_many_resamples_go_row_by_row():
    true, predicted = RNG.integers(4, size=(2, 40)), RNG.integers(4, size=(2, 40))
    counts = np.stack([class_counts(predicted[row], true[row], 5).sum(0) for row in range(2)])
    for measure in (accuracy_of, f1_of, macro_f1_of, macro_f1_present_of, uar_of):
        np.testing.assert_array_equal(measure(counts), [measure(counts[0]), measure(counts[1])])


def test_moments_of_small_spreads_on_large_offsets():
    """What counts as constant: differences below the rounding of the offset, not small numbers as such."""
    y = RNG.normal(size=200)
    x = y + RNG.normal(size=200)
    for scale in (1e-9, 1.0, 1e9):
        sums = moments(scale * x, scale * y).sum(0)
        assert float(ccc_of(sums)) == pytest.approx(audmetric.concordance_cc(y, x), abs=1e-9)
    thirds = np.full(7, 1e6 / 3)
    assert pearson_of(moments(thirds, thirds * (1 + 1e-15)).sum(0)) == 0
    assert ccc_of(np.zeros(6)) == 0 == pearson_of(np.zeros(6))


def test_many_clusters_are_drawn_in_blocks_and_give_the_same():
    values = RNG.normal(size=3000)
    sums = Resamples(n=1500, seed=6).sums({"wide": np.stack([values, -values], 1), "x": values})
    draws = np.random.default_rng(6).integers(3000, size=(1500, 3000), dtype=np.int32)
    np.testing.assert_allclose(sums["x"][1:], values[draws].sum(1))
    np.testing.assert_allclose(sums["wide"], np.stack([sums["x"], -sums["x"]], 1))
