import numpy as np
import pytest
import tiny
import torch

from annot_hf.data.questions import Question
from annot_hf.data.targets import item_seeds, make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.training.collator import BucketSampler, OpinionDataset, VoteCollator

EMOTION = Question.category("emotion", ["angry", "happy", "sad"])
VOTES = VoteTable.from_columns(
    [EMOTION],
    item=["x", "x", "y", "z", "z", "z"],
    question="emotion",
    annotator=["ann", "bob", None, "cy", "ann", "dee"],
    value=["angry", "sad", "happy", "sad", "sad", "angry"],
)


def dataset(inputs, annotators=("bob", "cy", "ann")):
    lengths = [len(value) for value in inputs]
    return OpinionDataset(
        make_targets(VOTES, "emotion"), inputs, lambda value: value, lengths, annotators=annotators, seed=3
    )


def test_a_batch_of_frames_with_its_pairs():
    frames = [np.full((length, 4), length, np.float16) for length in (5, 18, 9)]
    rows = dataset(frames)
    batch = VoteCollator("input_features", panel=2)([rows[2], rows[0]])
    assert batch["input_features"].shape == (2, 12, 4) and batch["input_features"].dtype == torch.float32
    assert batch["attention_mask"].sum(1).tolist() == [9, 5]
    assert torch.equal(batch["input_features"].ne(0).any(2).long(), batch["attention_mask"])
    torch.testing.assert_close(batch["labels"], torch.tensor([[1 / 3, 0, 2 / 3], [0.5, 0, 0.5]]))
    assert batch["pair_item"].tolist() == [0, 0, 0, 1, 1]
    assert batch["pair_annotator"].tolist() == [1, 2, -1, 2, 0]  # dee has no head
    assert batch["ratings"].tolist() == [[2.0], [2.0], [0.0], [0.0], [2.0]]
    assert batch["item_seed"].tolist() == item_seeds(["z", "x"], 3).tolist()


def test_an_item_without_named_raters_is_put_to_the_panel():
    rows = dataset([np.zeros((4, 2))] * 3)
    batch = VoteCollator("input_features", panel=2)([rows[1], rows[0]])
    assert batch["pair_annotator"].tolist() == [0, 1, 2, 0] and batch["pair_item"].tolist() == [0, 0, 1, 1]
    assert batch["ratings"][:2].isnan().all()
    assert VoteCollator("input_features", panel=0)([rows[1]])["pair_annotator"].tolist() == [-1]
    assert "ratings" not in VoteCollator("input_features")([rows[1]])


def test_waves_and_texts(bert_folder):
    from transformers import AutoTokenizer

    rows = dataset([np.ones(30, np.float32), np.ones(50, np.float32), np.ones(1, np.float32)])
    batch = VoteCollator("input_values")([rows[0], rows[2]])
    assert batch["input_values"].shape == (2, 30) and batch["attention_mask"].sum(1).tolist() == [30, 1]
    tokenizer, texts = AutoTokenizer.from_pretrained(bert_folder), ["so good !", "bad", "very bad"]
    rows = OpinionDataset(make_targets(VOTES, "emotion"), texts, tokenizer, [5, 3, 4])
    batch = VoteCollator("input_ids", tokenizer)([rows[index] for index in range(3)])
    for name, value in tokenizer(texts, padding=True, return_tensors="pt").items():  # as the tokenizer itself pads
        assert torch.equal(batch[name], value) and batch[name].dtype == value.dtype


def test_every_index_exactly_once_and_the_same_for_a_seed_and_an_epoch():
    lengths = np.random.default_rng(0).integers(50, 500, 107)
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1, 5):
            sampler = BucketSampler(lengths, 8, seed=seed, group=3)
            sampler.set_epoch(epoch)
            orders[seed, epoch] = list(sampler)
            assert sorted(orders[seed, epoch]) == list(range(107)) and len(sampler) == 107
            assert list(sampler) == orders[seed, epoch]
    assert len({tuple(order) for order in orders.values()}) == 6


def test_batches_hold_similar_lengths_differ_between_epochs_and_the_short_one_comes_last():
    lengths = np.arange(100, 503)
    np.random.default_rng(0).shuffle(lengths)
    sampler = BucketSampler(lengths, 10, group=100)
    order = list(sampler)
    batches = [order[start : start + 10] for start in range(0, 400, 10)]
    assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 60  # about 330 without buckets
    assert len(order[400:]) == 3
    starts = [lengths[batch[0]] for batch in batches]
    assert starts != sorted(starts)  # the batches are shuffled
    sampler.set_epoch(1)
    later = list(sampler)
    together = {frozenset(batch) for batch in batches}
    assert not together & {frozenset(later[start : start + 10]) for start in range(0, 400, 10)}


@pytest.mark.parametrize("batch_size", [16, 32, 48])
def test_padding_is_below_a_twentieth_on_realistic_lengths(batch_size):
    """Lengths like CREMA-D's: 2.5 s on average, a deviation of 0.5 s, from 1.3 to 5 s; frames of 10 ms."""
    lengths = np.random.default_rng(1).normal(254, 51, 6000).clip(130, 500).astype(int)
    sampler = BucketSampler(lengths, batch_size)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert tiny.padding_factor(lengths, list(sampler), batch_size) <= 1.05
    shuffled = np.random.default_rng(2).permutation(6000)
    assert tiny.padding_factor(lengths, shuffled, batch_size) > 1.3
