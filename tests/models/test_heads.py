import pytest
import tiny
import torch
from torch import nn

from annot_hf.models.heads import (
    AttentivePooling,
    MeanPooling,
    RaterHeads,
    TcGruPooling,
    masked_mean,
    pad_pairs,
)

torch.manual_seed(0)
FRAMES = torch.randn(3, 11, 6)
LENGTHS = [11, 4, 1]
MASK = torch.arange(11) < torch.tensor(LENGTHS)[:, None]


def tcgru(**options):
    settings = {
        "kernel": 3,
        "stride": 1,
        "bidirectional": True,
        "attention": True,
        "add": False,
        "dropout": 0.0,
    } | options
    torch.manual_seed(1)
    return TcGruPooling(6, 5, **settings).eval()


def poolings():
    torch.manual_seed(1)
    yield "mean", MeanPooling(6)
    yield "attention", AttentivePooling(6)
    for stride in (1, 2, 3):
        for bidirectional in (True, False):
            for attention in (True, False):
                options = {"stride": stride, "bidirectional": bidirectional, "attention": attention}
                yield f"tcgru {options}", tcgru(**options)
    yield "tcgru of kernel 5", tcgru(kernel=5, stride=2)
    yield "tcgru that adds", tcgru(add=True)


@pytest.mark.parametrize(("name", "pooling"), poolings(), ids=lambda part: part if isinstance(part, str) else "")
def test_pooling_has_its_width_and_ignores_padding(name, pooling):
    rubbish = torch.where(MASK[..., None], FRAMES, 1e3)
    pooled = pooling(rubbish, MASK)
    assert pooled.shape == (3, pooling.output_size)
    for row, length in enumerate(LENGTHS):
        alone = pooling(FRAMES[row : row + 1, :length], MASK[row : row + 1, :length])
        torch.testing.assert_close(pooled[row], alone[0], rtol=1e-5, atol=1e-6)


def test_the_skip_is_added_or_set_beside():
    apart, summed = (tcgru(attention=False, add=add)(FRAMES, MASK) for add in (False, True))
    torch.testing.assert_close(apart[:, :10] + apart[:, 10:], summed)


def test_mean_and_attention_against_plain_statistics():
    torch.testing.assert_close(masked_mean(FRAMES, MASK)[1], FRAMES[1, :4].mean(0))
    pooling = AttentivePooling(6)
    weights = pooling.score(FRAMES[:1])[0, :, 0].softmax(0)
    mean = (weights[:, None] * FRAMES[0]).sum(0)
    deviation = ((weights[:, None] * FRAMES[0] ** 2).sum(0) - mean**2).clip(0).sqrt()
    torch.testing.assert_close(pooling(FRAMES[:1], MASK[:1])[0], torch.cat([mean, deviation]), rtol=1e-4, atol=1e-3)


def test_rater_heads_are_linear_layers_of_their_own():
    heads = RaterHeads(4, 6, 2)
    nn.init.normal_(heads.table)
    x, who = torch.randn(5, 6), torch.tensor([3, 0, 0, 2, 3])
    answers = heads(x, who)
    for row, rater in enumerate(who):
        layer = nn.Linear(6, 2)
        table = heads.table[rater].view(2, 7)
        layer.weight.data, layer.bias.data = table[:, :-1], table[:, -1]
        torch.testing.assert_close(answers[row], layer(x[row]))


def test_low_rank_rows_mix_shared_layers_and_embeddings_enter_a_shared_one():
    x, who = torch.randn(5, 6), torch.tensor([3, 0, 0, 2, 3])
    heads = RaterHeads(4, 6, 2, kind="low_rank", rank=3)
    nn.init.normal_(heads.table)
    nn.init.normal_(heads.basis)
    layers = [nn.functional.linear(x, part[:, :-1], part[:, -1]) for part in heads.basis.view(3, 2, 7)]
    mixed = sum(heads.table[who, number, None] * layer for number, layer in enumerate(layers))
    torch.testing.assert_close(heads(x, who), mixed)
    torch.testing.assert_close(
        heads(x, None), sum(m * layer for m, layer in zip(heads.table.mean(0), layers, strict=True))
    )
    heads = RaterHeads(4, 6, 2, kind="embedding", rank=3)
    nn.init.normal_(heads.table)
    hidden = x @ heads.hidden.weight[:, :6].T + heads.table[who] @ heads.hidden.weight[:, 6:].T + heads.hidden.bias
    expected = nn.functional.gelu(hidden) @ heads.output.weight.T + heads.output.bias
    torch.testing.assert_close(heads(x, who), expected)
    assert heads.table.shape == (4, 3)


def test_facts_add_a_shared_linear_map_to_every_row():
    heads, x, facts = RaterHeads(4, 6, 2, facts=3), torch.randn(5, 6), torch.randn(4, 3)
    nn.init.normal_(heads.table)
    who, rows = torch.tensor([3, 0, 0, 2, 3]), heads.table + facts @ heads.expected.weight.T
    torch.testing.assert_close(heads(x, who, facts), heads.answer(x, rows[who]))
    torch.testing.assert_close(heads(x, None, facts), heads.answer(x, rows.mean(0).expand(5, -1)))


def error_of_unseen_raters(x, votes, facts):
    """Squared error of raters who were not trained on, where rows may follow facts."""
    torch.manual_seed(0)
    unseen, raters = 12, len(votes)
    heads = RaterHeads(raters - unseen, 4, 1, facts=0 if facts is None else 1)
    optimiser = torch.optim.AdamW(heads.parameters(), lr=0.02, weight_decay=0.3)
    rater = torch.arange(raters - unseen).repeat_interleave(len(x))
    known = None if facts is None else facts[:-unseen]
    for _ in range(150):
        answers = heads(x.repeat(raters - unseen, 1), rater, known).view(raters - unseen, -1)
        (answers - votes[:-unseen]).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    rows = heads.table.mean(0) + heads.shared_part(None if facts is None else facts[-unseen:])
    rows = rows.expand(unseen, -1).repeat_interleave(len(x), 0)
    return float((heads.answer(x.repeat(unseen, 1), rows).view(unseen, -1) - votes[-unseen:]).square().mean().detach())


def test_facts_tell_of_unseen_raters_where_these_matter_and_do_no_harm_where_not():
    torch.manual_seed(1)
    x, facts, own = torch.randn(30, 4), torch.randn(60, 1), 0.3 * torch.randn(60, 1)
    noise = 0.5 * torch.randn(60, 30)
    without = {kind: error_of_unseen_raters(x, own + kind * facts + noise, None) for kind in (0, 1)}
    informed = {kind: error_of_unseen_raters(x, own + kind * facts + noise, facts) for kind in (0, 1)}
    # their noise and their own deviation stay
    assert informed[1] < 0.6 * without[1]
    assert informed[0] < 1.1 * without[0]


def test_absent_raters_have_no_gradient():
    heads = RaterHeads(1000, 6, 2)
    heads(torch.randn(3, 6), torch.tensor([5, 7, 5])).sum().backward()
    assert heads.table.grad.any(1).nonzero().flatten().tolist() == [5, 7]


def test_pairs_are_padded_in_their_order():
    values = torch.arange(10.0).view(5, 2)
    padded, mask = pad_pairs(values, torch.tensor([0, 0, 2, 2, 2]), 4)
    assert mask.tolist() == [[True, True, False], [False] * 3, [True] * 3, [False] * 3]
    assert torch.equal(padded[mask], values)
    assert not padded[~mask].any()
    padded, mask = pad_pairs(values[:0], torch.zeros(0, dtype=torch.long), 2)
    assert padded.shape == (2, 0, 2) and mask.shape == (2, 0)


def test_an_even_kernel_or_an_unknown_option_is_refused():
    for options, message in (
        ({"pooling_kernel": 4}, "pooling_kernel is 4; it must be odd"),
        ({"pooling": "max"}, "pooling is 'max'; use one of mean"),
        ({"loss": "emd"}, "loss is 'emd'; use one of kl"),
        ({"rater_head": "own"}, "rater_head is 'own'; use one of independent"),
        ({"rating_loss": "mae"}, "rating_loss is 'mae'; use one of ccc"),
        ({"annotators": ["a", "a"]}, "names a rater twice"),
        ({"rater_rows": "own"}, "rater_rows is 'own'; use one of full, low_rank, embedding"),
        ({"rater_rank": 0}, "rater_rank is 0; it must be a whole number, 1 or more"),
        ({"rater_facts": [[1.0]]}, "rater_facts has 1 rows, and there are 3 annotators"),
        ({"rater_facts": [[1.0], [], [2.0]]}, "give each a row of as many numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny.annotator(**options)


def test_attention_has_no_padding_in_the_half_precision_of_autocast():
    pooling = AttentivePooling(6)
    with torch.autocast("cpu", torch.bfloat16):
        weights = pooling.weights(FRAMES, MASK)
    assert not weights[~MASK].any() and weights.isfinite().all()
