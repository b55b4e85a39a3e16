"""Running moments against NumPy's own correlations."""

import numpy as np
import pytest

from annot_hf.data.questions import Question
from annot_hf.data.targets import opinion_columns
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.saliency import CrossMoments, Saliency, layer_scores
from annot_hf.training.recipe import read_layer

LAYERS, UNITS, TARGETS = 3, 5, 2
EMOTION = Question.category("emotion", ["angry", "calm", "joy"])
VALENCE = Question.scale("valence", 1, 7)


def values(items=200, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    targets = rng.random((items, TARGETS))
    units = rng.standard_normal((items, LAYERS, UNITS)) + rng.random((LAYERS, UNITS, 1, TARGETS)).dot(targets.T)[
        ..., 0, :
    ].transpose(2, 0, 1)
    return units + offset, targets


def moments_of(units, targets, cuts=(1, 2, 40, 41, 190), **options):
    moments = CrossMoments(**options)
    for part in np.split(np.arange(len(units)), cuts):
        moments.update(units[part], targets[part])
    return moments


@pytest.mark.parametrize("offset", [0.0, 1e6])  # large means must cost no digits
@pytest.mark.parametrize("cuts", [(), (1, 2, 40, 40, 190), range(1, 200)])
def test_correlations_are_those_of_numpy_however_the_items_come(cuts, offset):
    units, targets = values(offset=offset)
    moments = moments_of(units, targets, cuts, among_units=True)
    found, redundancy = moments.correlations(), moments.redundancy()
    for layer in range(LAYERS):
        both = np.corrcoef(np.concatenate([units[:, layer], targets], 1), rowvar=False)
        np.testing.assert_allclose(found[layer], both[:UNITS, UNITS:], atol=1e-8)
        among = np.abs(both[:UNITS, :UNITS])
        np.testing.assert_allclose(redundancy[layer], (among.sum(1) - 1) / (UNITS - 1), atol=1e-8)
    assert moments.count == 200


def test_scores_are_the_two_formulas_by_hand():
    units, targets = values()
    moments = moments_of(units, targets, among_units=True)
    r = np.array([[np.corrcoef(units[:, 1, i], targets[:, e])[0, 1] for e in range(TARGETS)] for i in range(UNITS)])
    np.testing.assert_allclose(layer_scores(moments)[1], np.abs(r).mean(0), atol=1e-12)
    among = np.abs(np.corrcoef(units[:, 1], rowvar=False))
    np.fill_diagonal(among, 0)
    expected = np.mean(r**2 - 0.3 * among.sum(1, keepdims=True) / (UNITS - 1), axis=0)
    np.testing.assert_allclose(layer_scores(moments, "penalised", 0.3)[1], expected, atol=1e-12)


def test_the_layer_that_carries_the_target_is_chosen():
    units, targets = values(seed=1)
    units[:, 1, :3] = 3 * targets[:, :1] + 0.1 * units[:, 1, :3]
    saliency = Saliency(layer_scores(moments_of(units, targets)), ("a", "b"), "absolute", None, 200, {"trunk": "t"})
    assert saliency.layer == 1 and np.argmax(saliency.means) == 1
    np.testing.assert_allclose(saliency.means, saliency.scores.mean(1))


def test_what_never_changes_has_no_say():
    units, targets = values()
    units[:, 0, 2] = np.float32(0.1)
    targets[:, 1] = 0.1
    moments = moments_of(units, targets, among_units=True)
    found = moments.correlations()
    assert np.isnan(found[..., 1]).all() and np.isfinite(found[..., 0]).all()
    assert found[0, 2, 0] == 0 and moments.redundancy()[0, 2] == 0
    scores = layer_scores(moments)
    saliency = Saliency(scores, ("a", "b"), "absolute", None, 200, {})
    np.testing.assert_allclose(saliency.means, scores[:, 0])
    targets[:] = 1
    with pytest.raises(ValueError, match="Every target is constant over the 200 items"):
        layer_scores(moments_of(units, targets))


def test_memory_does_not_grow_with_the_items():
    moments = CrossMoments()
    sizes = []
    for seed in range(3):
        moments.update(*values(seed=seed))
        sizes.append(sum(value.nbytes for value in vars(moments).values() if isinstance(value, np.ndarray)))
    assert sizes[0] == sizes[2] == 8 * (LAYERS * UNITS * (TARGETS + 2) + 2 * TARGETS)


def test_what_is_wrong_is_said():
    units, targets = values(items=1)
    moments = CrossMoments()
    with pytest.raises(ValueError, match="There are 0 items; a correlation needs at least 2"):
        layer_scores(moments)
    moments.update(units, targets)
    with pytest.raises(ValueError, match="There are 1 items"):
        layer_scores(moments)
    with pytest.raises(ValueError, match="formula is 'squared'; use 'absolute' or 'penalised'"):
        layer_scores(moments, "squared")
    with pytest.raises(ValueError, match=r"gamma is 0\.3, but formula absolute has no penalty"):
        layer_scores(moments, "absolute", 0.3)
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        moments.update(units * np.nan, targets)
    with pytest.raises(ValueError, match=r"use CrossMoments\(among_units=True\)"):
        moments_of(*values()).redundancy()


def test_columns_are_shares_of_votes_and_mean_ratings():
    votes = VoteTable.concat(
        [
            VoteTable.from_counts(EMOTION, ["a", "b"], [[3, 0, 1], [0, 2, 0]]),
            VoteTable.from_columns([VALENCE], item=["b", "b", "c"], value=[2, 5, 7], annotator=["x", "y", "x"]),
        ]
    )
    names, columns = opinion_columns(votes, ["emotion"], ["b", "a", "c", "nobody"])
    assert names == ("angry", "calm", "joy")
    np.testing.assert_allclose(columns, [[0, 1, 0], [0.75, 0, 0.25], [np.nan] * 3, [np.nan] * 3])
    names, columns = opinion_columns(votes, ["valence", "emotion"], ["b", "c"])
    assert names == ("valence", "emotion: angry", "emotion: calm", "emotion: joy")
    np.testing.assert_allclose(columns, [[-1 / 6, 0, 1, 0], [1, *[np.nan] * 3]])


def test_a_file_that_is_no_saliency_is_said(tmp_path):
    with pytest.raises(
        ValueError, match=r"trunk_layer is 'last', and there is no such saliency file; give a layer's number"
    ):
        read_layer("last")
    for text in ("{}", "no json", "[1]", '{"trunk_layer": "x", "trunk": "y"}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=r"other\.json names no trunk_layer and trunk; give a saliency\.json"):
            read_layer(tmp_path / "other.json")
