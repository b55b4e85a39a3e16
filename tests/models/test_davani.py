"""Votes of the raters' heads (Davani et al. 2022), and the disagreement head (Han et al. 2017)."""

import pytest
import tiny
import torch
from torch.nn import functional

from annot_hf.models.heads import TIE
from annot_hf.models.modeling_annotator import AnnotatorModel

RATERS = [f"r{number}" for number in range(5)]
INPUTS = tiny.inputs("bert", tiny.lengths("bert"))
PAIRS = {"pair_item": torch.tensor([0, 0, 1, 2]), "pair_annotator": torch.tensor([0, 3, 1, -1])}
CODES = torch.tensor([[0.0], [2.0], [1.0], [torch.nan]])
OPTIONS = {
    "questions": tiny.CATEGORY,
    "annotators": RATERS,
    "aggregate": "votes",
    "tower_layers": 0,
    "pooling": "first",
    "embedding_kind": "none",
}


def model(**options):
    found = tiny.annotator("bert", **OPTIONS | options)
    torch.nn.init.normal_(found.raters[0].table)
    return found


def by_hand(found):
    """Logits of every head `(items, raters, labels)`: a linear layer on the first token each."""
    first = found.trunk(**INPUTS).last_hidden_state[:, 0]
    tables = found.raters[0].table.view(len(RATERS), 3, -1)
    return torch.stack([functional.linear(first, table[:, :-1], table[:, -1]) for table in tables], 1)


def test_the_distribution_is_the_histogram_of_the_heads_whoever_was_asked():
    found = model()
    logits = by_hand(found)
    histogram = torch.stack([logits.argmax(-1) == label for label in range(3)], -1).float().mean(1)
    assert ((histogram > 0).sum(1) > 1).any()  # the heads do not all agree
    for pairs in ({}, PAIRS):
        output = found(**INPUTS, **pairs)
        torch.testing.assert_close(output.probs, histogram, rtol=0, atol=2 * TIE)
        torch.testing.assert_close(output.probs.sum(1), torch.ones(3))
    votes = functional.one_hot(logits.argmax(-1), 3).float()
    torch.testing.assert_close(1 - (output.probs**2).sum(-1), votes.var(1, correction=0).sum(-1), rtol=0, atol=1e-5)


def test_votes_in_mixed_precision():
    found = tiny.annotator(**OPTIONS | {"tower_layers": 1, "pooling": "mean"})  # over log-mel: its GELU gives bfloat16
    inputs = tiny.inputs("log-mel", tiny.lengths("log-mel"))
    with torch.autocast("cpu", torch.bfloat16):
        probs = found(**inputs, **PAIRS, ratings=CODES, task="ratings").probs
    torch.testing.assert_close(probs, found(**inputs).probs, rtol=0, atol=0.25)  # one of five heads may tip over


def test_a_tie_goes_to_the_label_that_heads_think_likelier():
    found = model(annotators=RATERS[:2])
    table = found.raters[0].table
    torch.nn.init.zeros_(table)
    bias = table.data.view(2, 3, -1)[..., -1]
    bias[0], bias[1] = torch.tensor([1.0, 0.9, 0.0]), torch.tensor([0.0, 3.0, 0.0])
    probs = found(**INPUTS).probs
    torch.testing.assert_close(probs[0], torch.tensor([0.5, 0.5, 0.0]), rtol=0, atol=2 * TIE)
    assert probs.argmax(1).tolist() == [1, 1, 1]


def test_the_loss_is_masked_cross_entropy_and_nothing_else():
    found = model()
    loss = found.train()(**INPUTS, **PAIRS, ratings=CODES, labels=torch.eye(3), task="ratings").loss
    found.eval()
    expected = found(**INPUTS, **PAIRS, ratings=CODES, task="ratings").loss
    logits = by_hand(found)
    given = torch.stack([logits[0, 0], logits[0, 3], logits[1, 1]])
    torch.testing.assert_close(expected, functional.cross_entropy(given, torch.tensor([0, 2, 1])), rtol=1e-4, atol=1e-5)
    loss.backward()
    assert found.raters[0].table.grad.any(1).tolist() == [True, True, False, True, False]
    assert all(weight.grad is not None for weight in found.parameters())


def test_without_a_consensus_head_the_mean_of_the_heads_answers_for_strangers():
    found = model()
    output = found(**INPUTS, **PAIRS)
    mean = by_hand(found).mean(1).softmax(-1)
    torch.testing.assert_close(output.consensus, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.ratings[3], mean[2], rtol=1e-4, atol=1e-5)
    assert not list(found.consensus.parameters())


def test_votes_round_trip_and_what_they_cannot_do_is_said(tmp_path):
    found = model()
    found.save_pretrained(tmp_path)
    assert torch.equal(AnnotatorModel.from_pretrained(tmp_path)(**INPUTS).probs, found(**INPUTS).probs)
    with pytest.raises(ValueError, match="task is 'both' and aggregate \"votes\", which has no gradient"):
        found.train()(**INPUTS, **PAIRS, ratings=CODES, labels=torch.eye(3))
    for options, message in (
        ({"aggregate": "median"}, "aggregate is 'median'; use one of mean, votes"),
        ({"rater_head": "residual"}, "rater_head is 'residual'; with aggregate \"votes\""),
        ({"questions": tiny.SCALES}, 'aggregate is "votes" and the questions are scales'),
    ):
        with pytest.raises(ValueError, match=message):
            model(**options)


def test_the_disagreement_head_learns_by_squared_error_where_it_is_known():
    labels, known = torch.eye(3), torch.tensor([0.7, torch.nan, 0.2])
    found = tiny.distribution("bert", disagreement="entropy", disagreement_weight=3.0)
    output = found(**INPUTS, labels=labels, disagreement_targets=known)
    embedding = found.embed(**INPUTS)
    torch.testing.assert_close(output.disagreement, found.disagreement_head(embedding)[:, 0].sigmoid())
    error = functional.mse_loss(output.disagreement[[0, 2]], known[[0, 2]])
    torch.testing.assert_close(output.loss, found(**INPUTS, labels=labels).loss + 3 * error)
    output.loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in found.parameters())
    assert found.disagreement_head.weight.grad.any()
    assert tiny.distribution("bert")(**INPUTS).disagreement is None
