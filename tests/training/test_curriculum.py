import numpy as np
import pytest
import torch

from annot_hf.training.schedules import EntropyCurriculum, normalised_entropy

LABELS = torch.tensor(  # normalised entropies 0, .46, .92, 1, .81 of ln 4 and so on, all different
    [[1.0, 0, 0, 0], [0.9, 0.1, 0, 0], [0.6, 0.2, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]]
)
H = np.array([-(row[row > 0] * np.log(row[row > 0])).sum() / np.log(4) for row in LABELS.double().numpy()])


def test_entropy_is_over_the_whole_support():
    np.testing.assert_allclose(normalised_entropy(LABELS), H, atol=1e-6)
    two = torch.tensor([[0.5, 0.5], [0.1, 0.9], [1.0, 0.0]])  # in bits: one bit is all that two labels have
    np.testing.assert_allclose(normalised_entropy(two), [1, 0.468996, 0], atol=1e-6)


@pytest.mark.parametrize("epoch, kept", [(1, 3), (2, 4), (4, 4), (7, 4), (8, 5), (12, 5), (40, 5)])
@pytest.mark.parametrize("reverse", [False, True])
def test_filter_keeps_the_ceiling_of_the_share_of_the_batch(epoch, kept, reverse):
    weights = EntropyCurriculum("filter", reverse).weights(LABELS, epoch)
    order = np.argsort(-H if reverse else H)
    expected = np.zeros(5)
    expected[order[:kept]] = 5 / kept
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.parametrize("share, repeats, kept", [(0.55, 4, 11), (0.56, 5, 14), (0.57, 4, 12), (0.01, 1, 1)])
def test_ceiling_is_not_fooled_by_rounding(share, repeats, kept):
    """0.55 * 20 is 11.000000000000002, 0.56 * 25 likewise more than 14; 0.57 * 20 is 11.4."""
    curriculum = EntropyCurriculum("filter", shares=(share,), epochs=(1,))
    assert (curriculum.weights(LABELS.repeat(repeats, 1), 1) > 0).sum() == kept


def test_equal_entropies_keep_the_first_ones():
    weights = EntropyCurriculum("filter").weights(torch.full((4, 2), 0.5), 1)
    assert weights.tolist() == [2, 2, 0, 0]


def test_corpus_filter_keeps_another_number_than_the_batch_filter():
    curriculum = EntropyCurriculum("filter", by="corpus", epochs=(1,), shares=(0.5,))
    easy, hard = torch.linspace(0, 0.2, 11), torch.linspace(0.9, 1, 11)  # the batch has .0, .23, .5, .79 and 1
    assert (curriculum.weights(LABELS, 1, easy) > 0).tolist() == [True, False, False, False, False]
    assert (curriculum.weights(LABELS, 1, hard) > 0).tolist() == [True, True, True, False, True]


def test_all_items_before_the_first_share_and_one_at_the_least():
    curriculum = EntropyCurriculum("filter", epochs=(3, 5), shares=(0.1, 1.0))
    assert [(curriculum.weights(LABELS, epoch) > 0).sum().item() for epoch in range(1, 7)] == [5, 5, 1, 1, 5, 5]
    assert [curriculum.share(epoch) for epoch in (1, 3, 5)] == [1.0, 0.1, 1.0]


@pytest.mark.parametrize("reverse", [False, True])
def test_corpus_filter_compares_with_the_training_set(reverse):
    corpus = torch.linspace(0, 1, 101)
    curriculum = EntropyCurriculum("filter", reverse, by="corpus", epochs=(1,), shares=(0.5,))
    kept = curriculum.weights(LABELS, 1, corpus) > 0
    np.testing.assert_array_equal(kept, H >= 0.5 if reverse else H <= 0.5)
    everything = EntropyCurriculum("filter", by="corpus").weights(LABELS, 12, normalised_entropy(LABELS))
    assert everything.tolist() == [1] * 5


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("options", [{"kind": "weight"}, {"kind": "filter", "by": "threshold"}])
def test_warm_up_knows_no_curriculum(options, reverse):
    curriculum = EntropyCurriculum(reverse=reverse, **options)
    assert all(curriculum.weights(LABELS, epoch).tolist() == [1] * 5 for epoch in range(1, 6))
    assert curriculum.weights(LABELS, 6).tolist() != [1] * 5
    assert EntropyCurriculum(reverse=reverse, **options | {"warmup": 0}).weights(LABELS, 1).tolist() != [1] * 5


@pytest.mark.parametrize("epoch, threshold", [(6, 0.5), (8, 0.68), (11, 0.95), (30, 0.95)])
def test_threshold_rises_after_the_warm_up(epoch, threshold):
    curriculum = EntropyCurriculum("filter", by="threshold")
    np.testing.assert_array_equal(curriculum.weights(LABELS, epoch) > 0, threshold >= H)
    reverse = EntropyCurriculum("filter", True, by="threshold")
    np.testing.assert_array_equal(reverse.weights(LABELS, epoch) > 0, 1 - threshold <= H)


def test_the_last_threshold_lies_between_two_items():
    close = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.31, 0.25, 0.24, 0.2]])  # .92 and .99 of ln 4
    assert EntropyCurriculum("filter", by="threshold").weights(close, 40).tolist() == [2, 0]


def test_a_filter_that_keeps_nothing_keeps_everything():
    flat = torch.full((3, 4), 0.25)
    assert EntropyCurriculum("filter", by="threshold").weights(flat, 6).tolist() == [1, 1, 1]


def test_a_ramp_of_one_epoch_is_at_its_end_at_once():
    assert [EntropyCurriculum(ramp=1).progress(epoch) for epoch in (6, 7)] == [1, 1]


@pytest.mark.parametrize("epoch, exponent", [(6, 2), (7, 1.6), (10, 0.4), (11, 0), (20, 0)])
@pytest.mark.parametrize("reverse", [False, True])
def test_weights_fade_to_uniform(epoch, exponent, reverse):
    raw = np.clip((H if reverse else 1 - H) ** exponent, 0.15, 1)
    weights = EntropyCurriculum("weight", reverse).weights(LABELS, epoch)
    np.testing.assert_allclose(weights, raw / raw.mean(), atol=1e-5)
    assert float(weights.mean()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": (2, 1), "shares": (0.5, 1)}, "ascending epochs"),
        ({"epochs": (1, 2), "shares": (0.5,)}, "one share for each"),
        ({"epochs": (1,), "shares": (0.0,)}, "above 0 and up to 1"),
        ({"epochs": (1,), "shares": (1.5,)}, "above 0 and up to 1"),
        ({"warmup": -1}, "warmup is -1"),
        ({"ramp": 0}, "ramp 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        EntropyCurriculum(**options)


def test_the_shortest_warm_up_and_ramp_are_allowed():
    assert EntropyCurriculum(warmup=0, ramp=1).ramp == 1
