import numpy as np
import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from scipy.stats import norm
from torch import nn
from torch.nn import functional

from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.models.configuration_annotator import AnnotatorConfig
from annot_hf.models.kde import cell_masses, draw_answers, draw_observations
from annot_hf.models.losses import EPSILON, answer_loss, rating_loss
from annot_hf.models.modeling_annotator import AnnotatorModel
from annot_hf.training.collator import OpinionDataset, VoteCollator

ITEM = torch.tensor([0, 0, 1, 2, 2, 2])
RATER = torch.tensor([0, 2, 2, 0, 1, 2])
RATINGS = torch.tensor([[0.5, 0.0], [-0.5, 0.5], [1.0, -1.0], [0.0, 0.5], [0.5, 0.5], [-1.0, 0.0]])
CODES = torch.tensor([[0.0], [1.0], [1.0], [2.0], [0.0], [2.0]])
GRID = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)).softmax(-1)
SEEDS = torch.tensor([7, 8, 9])


def batch(kind="log-mel", **more):
    return (
        tiny.inputs(kind, tiny.lengths(kind)) | {"pair_item": ITEM, "pair_annotator": RATER, "item_seed": SEEDS} | more
    )


@pytest.mark.parametrize(
    "questions", [tiny.SCALES, tiny.SCALES[:1], tiny.CATEGORY], ids=["two scales", "scale", "category"]
)
@pytest.mark.parametrize("kind", tiny.TRUNKS)
def test_batching_does_not_change_a_prediction(kind, questions):
    model, lengths = tiny.annotator(kind, questions=questions), tiny.lengths(kind)
    inputs = tiny.inputs(kind, lengths, width=max(lengths) + 29)
    together = model(**inputs, pair_item=ITEM, pair_annotator=RATER)
    torch.testing.assert_close(together.probs.sum(1), torch.ones(3))
    for row, length in enumerate(lengths):
        alone = model(
            **{name: value[row : row + 1, :length] for name, value in inputs.items()},
            pair_item=torch.zeros_like(ITEM[ITEM == row]),
            pair_annotator=RATER[ITEM == row],
        )
        torch.testing.assert_close(together.probs[row], alone.probs[0], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(together.ratings[ITEM == row], alone.ratings, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.consensus[row], alone.consensus[0], rtol=1e-4, atol=1e-5)


def test_answers_are_each_raters_own_layer_over_the_tower():
    model = tiny.annotator()
    embedding = model.embed(**tiny.inputs("log-mel", tiny.lengths("log-mel")))
    output = model(**batch())
    for pair, (item, rater) in enumerate(zip(ITEM, RATER, strict=True)):
        for column, (tower, heads) in enumerate(zip(model.towers, model.raters, strict=True)):
            row = heads.table[rater]
            expected = functional.linear(tower(embedding[item]), row[None, :-1], row[-1:])
            torch.testing.assert_close(output.ratings[pair, column], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spread", ["none", "published"])
def test_distribution_is_the_kde_of_the_answers(spread):
    output = tiny.annotator(bins=3, draws=50, spread=spread)(**batch())
    kernel = {} if spread == "none" else {"kernel": "logistic", "bandwidth": np.pi / (8 * 3**0.5)}
    for item in range(3):
        answers = output.ratings[ITEM == item].double().detach().numpy()[None]
        observations = draw_observations(answers, n=50, seed=SEEDS[item : item + 1].numpy())
        expected = cell_masses(observations, bins=3, **kernel).reshape(-1)
        np.testing.assert_allclose(output.probs[item].detach().numpy(), expected, atol=1e-5)
    assert output.spreads is None


def scattered(**options):
    """A model whose items and raters differ in their spread."""
    model = tiny.annotator(**options)
    nn.init.normal_(model.ambiguity.weight)
    nn.init.normal_(model.noise.table)
    return model


@pytest.mark.parametrize("questions", [tiny.SCALES, tiny.SCALES[:1]], ids=["two scales", "scale"])
def test_a_learned_spread_gives_each_answer_its_own_width(questions):
    levels = [5, 4][: len(questions)]
    model = scattered(questions=questions, levels=levels, draws=50)
    output = model(**batch())
    embedding = model.embed(**tiny.inputs("log-mel", tiny.lengths("log-mel")))
    spreads = 0.05 + functional.softplus(model.ambiguity(embedding)[ITEM] + model.noise.table[RATER])
    torch.testing.assert_close(output.spreads, spreads, rtol=1e-4, atol=1e-5)
    for item in range(3):
        moments = np.zeros((2, (ITEM == item).sum(), len(questions)))
        for column, count in enumerate(levels):
            answers = np.linspace(-1, 1, count)
            edges = np.concatenate([[-np.inf], (answers[1:] + answers[:-1]) / 2, [np.inf]])
            for row, pair in enumerate(np.flatnonzero(ITEM == item)):
                said = norm(float(output.ratings[pair, column]), float(output.spreads[pair, column]))
                probs = np.diff(said.cdf(edges))
                moments[:, row, column] = probs @ answers, probs @ answers**2 - (probs @ answers) ** 2
        observations, own = draw_answers(*moments[:, None], n=50, seed=SEEDS[item : item + 1].numpy())
        expected = cell_masses(observations, variances=own).reshape(-1)
        np.testing.assert_allclose(output.probs[item].detach().numpy(), expected, atol=1e-5)


def test_the_spread_is_bounded_and_an_unseen_rater_has_the_mean_noise():
    model = scattered()
    model.ambiguity.bias.data[:] = -100
    assert model(**batch()).spreads.detach().numpy() == pytest.approx(0.05)
    model.ambiguity.bias.data[:] = -1
    unseen = model(**batch(pair_annotator=torch.tensor([-1, -1, 2, 0, 1, -1]))).spreads
    torch.testing.assert_close(unseen[0], unseen[1])
    torch.testing.assert_close(unseen[2:5], model(**batch()).spreads[2:5])
    model.noise.table.data[:] = model.noise.table.data.mean(0)
    torch.testing.assert_close(unseen[[0, 1, 5]], model(**batch()).spreads[[0, 1, 5]])


def test_renamed_raters_leave_the_distribution_of_the_panel():
    model, inputs = scattered(), tiny.inputs("log-mel", tiny.lengths("log-mel"))
    panel = model(**inputs, item_seed=SEEDS)
    renamed = model(**batch(pair_annotator=torch.full_like(RATER, -1)))
    torch.testing.assert_close(renamed.probs, panel.probs)
    torch.testing.assert_close(renamed.ratings, panel.consensus[ITEM])


def test_only_scales_have_a_spread_and_options_are_checked():
    model = tiny.annotator(questions=tiny.CATEGORY)
    assert model.noise is None and model(**batch()).spreads is None and model.config.levels == []
    assert tiny.annotator().config.levels == [33, 33]
    for options, message in (
        ({"spread": "fixed"}, "spread is 'fixed'; use one of learned, published, none"),
        ({"levels": [5]}, r"levels is \[5\], and there are 2 scale questions"),
        ({"levels": [5, 1]}, r"levels\[1\] is 1; it must be a whole number, 2 or more"),
        ({"levels": [5.7, 5]}, r"levels\[0\] is 5.7"),
        ({"levels": "57"}, r"levels\[0\] is '5'"),
    ):
        with pytest.raises(ValueError, match=message):
            AnnotatorConfig(questions=tiny.SCALES, **options)


@pytest.mark.parametrize("names", [("activation", "valence"), ("valence",)])
def test_raters_who_answer_as_they_voted_reproduce_the_target(names):
    """Targets and predictions share their draws, their order of raters and their grid."""
    votes = {"zoe": (5, 2), "ann": (2, 4), "bob": (1, 1), "mia": (3, 5)}  # each rater always says the same
    rated = {
        "one": ["zoe", "ann", "bob"],
        "two": ["mia", "ann"],
        "three": ["bob"],
        "four": ["zoe", "mia", "bob", "ann"],
    }
    questions = [Question.scale(name, 1, 5) for name in ("activation", "valence")]
    rows = [
        (item, rater, question.name, votes[rater][column])
        for item, raters in rated.items()
        for rater in raters
        for column, question in enumerate(questions)
    ]
    item, rater, question, value = zip(*rows, strict=True)
    table = VoteTable.from_columns(questions, item=item, annotator=rater, question=question, value=value)
    targets = make_targets(table, names, "kde")
    asked = [question.to_dict() for question in questions if question.name in names]
    model = tiny.annotator(questions=asked, annotators=sorted(votes), spread="none")
    for column, name in enumerate(names):
        place = ("activation", "valence").index(name)
        nn.init.zeros_(model.raters[column].table)
        says = torch.tensor([votes[rater][place] for rater in sorted(votes)])
        model.raters[column].table.data[:, -1] = (says - 3) / 2
    frames = [np.zeros((20, 8), np.float32)] * len(targets)
    dataset = OpinionDataset(targets, frames, lambda frame: frame, [20] * 4, annotators=sorted(votes))
    order = [2, 0, 3, 1]
    collated = VoteCollator("input_features", panel=4)([dataset[row] for row in order])
    output = model(**collated, task="distribution")
    np.testing.assert_allclose(output.probs.detach().numpy(), targets.probs[order], atol=2e-6)
    torch.testing.assert_close(output.ratings, collated["ratings"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", ["ratings", "distribution", "both"])
@pytest.mark.parametrize("questions", [tiny.SCALES, tiny.CATEGORY], ids=["scales", "category"])
def test_raters_who_are_not_there_get_no_gradient(questions, task):
    model = tiny.annotator(questions=questions, annotators=[f"r{number}" for number in range(9)])
    scale = questions is tiny.SCALES
    labels = GRID if scale else torch.eye(3)
    model(**batch(ratings=RATINGS if scale else CODES, labels=labels), task=task).loss.backward()
    for heads in [*model.raters, *([model.noise] if scale else [])]:
        assert heads.table.grad.any(1).nonzero().flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["ccc", "mse"])
def test_a_dimension_that_a_rater_left_out_carries_no_gradient(kind):
    ratings = RATINGS.clone()
    ratings[4, 0] = torch.nan  # the only answer of rater 1, on activation
    model = tiny.annotator(rating_loss=kind, consensus_weight=0.0)
    model(**batch(ratings=ratings), task="ratings").loss.backward()
    assert not model.raters[0].table.grad[1].any()
    assert model.raters[1].table.grad[1].any()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("spread", ["learned", "published", "none"])
def test_ratings_task_against_its_formula(spread):
    model = tiny.annotator(consensus_weight=0.5, spread=spread, levels=[5, 5])
    output = model(**batch(ratings=RATINGS), task="ratings")
    means = torch.stack([RATINGS[ITEM == item].mean(0) for item in range(3)])
    expected = rating_loss(output.ratings, RATINGS, "ccc") + 0.5 * rating_loss(output.consensus, means, "ccc")
    if spread == "learned":
        expected = expected + answer_loss(output.ratings, output.spreads, RATINGS, [5, 5])
    torch.testing.assert_close(output.loss, expected)
    both = model(**batch(ratings=RATINGS, labels=GRID)).loss
    alone = model(**batch(ratings=RATINGS, labels=GRID), task="distribution").loss
    torch.testing.assert_close(both, output.loss + alone)
    assert model(**batch()).loss is None
    assert model(**batch(labels=GRID), task="ratings").loss is None


def test_ratings_loss_does_not_depend_on_the_order_of_raters():
    order = torch.tensor([1, 0, 2, 5, 3, 4])  # within each item
    for questions, ratings in ((tiny.SCALES, RATINGS), (tiny.CATEGORY, CODES)):
        model = tiny.annotator(questions=questions)
        expected = model(**batch(ratings=ratings), task="ratings").loss
        moved = batch(ratings=ratings[order], pair_annotator=RATER[order])
        torch.testing.assert_close(model(**moved, task="ratings").loss, expected)


@pytest.mark.parametrize("questions", [tiny.SCALES, tiny.CATEGORY], ids=["scales", "category"])
def test_unseen_raters_are_answered_for_by_the_consensus(questions):
    model = tiny.annotator(questions=questions)
    unseen = model(**batch(pair_annotator=torch.tensor([0, -1, -1, 0, -1, 2])))
    for pair, known in enumerate([True, False, False, True, False, True]):
        same = torch.allclose(unseen.ratings[pair], unseen.consensus[ITEM[pair]], atol=1e-6)
        assert same != known


@pytest.mark.parametrize("head", ["independent", "residual"])
@pytest.mark.parametrize("questions", [tiny.SCALES, tiny.CATEGORY], ids=["scales", "category"])
def test_the_panel_forms_the_distribution_of_items_with_unseen_raters(questions, head):
    """The consensus of one head, asked several times, would be a peak where raters are spread."""
    model = tiny.annotator(questions=questions, rater_head=head)
    nn.init.normal_(model.raters[0].table)
    unseen = model(**batch(pair_annotator=torch.tensor([-1, -1, 2, 0, -1, 2]))).probs
    inputs = tiny.inputs("log-mel", tiny.lengths("log-mel"))
    torch.testing.assert_close(unseen[[0, 2]], model(**inputs, item_seed=SEEDS).probs[[0, 2]])
    torch.testing.assert_close(unseen[1], model(**batch()).probs[1])
    assert (unseen[0] - model(**batch()).probs[0]).abs().max() > 1e-3


@pytest.mark.parametrize("questions", [tiny.SCALES, tiny.CATEGORY], ids=["scales", "category"])
def test_residual_heads_start_as_the_consensus(questions):
    model = tiny.annotator(questions=questions, rater_head="residual")
    output = model(**batch())
    torch.testing.assert_close(output.ratings, output.consensus[ITEM], rtol=0, atol=0)
    assert not torch.allclose((other := tiny.annotator(questions=questions)(**batch())).ratings, other.consensus[ITEM])
    model.train()
    scale = questions is tiny.SCALES
    model(**batch(ratings=RATINGS if scale else CODES), task="ratings").loss.backward()
    assert all(heads.table.grad.any() for heads in model.raters)  # they can leave it


def test_without_pairs_the_panel_answers():
    inputs = tiny.inputs("log-mel", [40, 30])
    output = tiny.annotator(max_panel=2)(**inputs)
    assert output.pair_item.tolist() == [0, 0, 1, 1] and output.pair_annotator.tolist() == [0, 1, 0, 1]
    output = tiny.annotator(annotators=[])(**inputs)
    assert output.pair_annotator.tolist() == [-1, -1]
    torch.testing.assert_close(output.ratings, output.consensus)
    torch.testing.assert_close(output.probs.sum(1), torch.ones(2))


def test_a_category_question_is_the_mean_of_its_raters():
    model = tiny.annotator(questions=tiny.CATEGORY, consensus_weight=2.0)
    output = model(**batch(ratings=CODES, labels=torch.eye(3)))
    torch.testing.assert_close(output.ratings.sum(1), torch.ones(6))
    fractions = torch.zeros(3, 3)
    for item in range(3):
        torch.testing.assert_close(output.probs[item], output.ratings[ITEM == item].mean(0))
        fractions[item] = functional.one_hot(CODES[ITEM == item, 0].long(), 3).float().mean(0)
    own = functional.nll_loss((output.ratings + EPSILON).log(), CODES[:, 0].long())
    shared = functional.cross_entropy((output.consensus + EPSILON).log(), fractions)
    label = functional.kl_div((output.probs + EPSILON).log(), torch.eye(3), reduction="batchmean")
    torch.testing.assert_close(output.loss, own + 2 * shared + label, rtol=1e-4, atol=1e-5)


def test_unknown_answers_to_a_category_question_count_for_nothing():
    model = tiny.annotator(questions=tiny.CATEGORY)
    codes = CODES.clone()
    codes[2], codes[4] = torch.nan, -1.0  # the only answer about item 1 is unknown; -1 is none of the labels
    loss = model(**batch(ratings=codes), task="ratings").loss
    loss.backward()
    assert not model.raters[0].table.grad[1].any()  # rater 1 gave only that answer
    output = model(**batch())
    known = torch.tensor([0, 1, 3, 5])
    own = functional.nll_loss((output.ratings[known] + EPSILON).log(), codes[known, 0].long())
    fractions = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    shared = functional.cross_entropy((output.consensus[[0, 2]] + EPSILON).log(), fractions)
    torch.testing.assert_close(loss, own + shared, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", tiny.TRUNKS)
@pytest.mark.parametrize("questions", [tiny.SCALES, tiny.CATEGORY], ids=["scales", "category"])
def test_bfloat16_autocast_keeps_kde_and_loss_in_single_precision(kind, questions):
    model = tiny.annotator(kind, questions=questions).train()
    scale = questions is tiny.SCALES
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch(kind, ratings=RATINGS if scale else CODES, labels=GRID if scale else torch.eye(3)))
    assert output.probs.dtype == output.loss.dtype == torch.float32
    assert output.loss.isfinite()
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_sparse_tables_answer_alike_and_have_sparse_gradients():
    outputs = []
    for sparse in (False, True):
        model = tiny.annotator(sparse_raters=sparse)
        outputs.append(model(**batch(ratings=RATINGS, labels=GRID)))
        outputs[-1].loss.backward()
        assert model.raters[0].table.grad.is_sparse == sparse
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss)


ROWS = ("full", "low_rank", "embedding")


@pytest.mark.parametrize("rows", ROWS)
def test_residual_rows_of_any_kind_start_at_the_consensus_and_survive_saving(rows, tmp_path):
    model = tiny.annotator(rater_head="residual", rater_rows=rows, rater_rank=3)
    start = model(**batch())
    torch.testing.assert_close(start.ratings, start.consensus[ITEM])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        model(**batch(ratings=RATINGS)).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    learned = model(**batch())
    assert (learned.ratings - learned.consensus[ITEM]).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    again = AnnotatorModel.from_pretrained(tmp_path)(**batch())
    torch.testing.assert_close(again.ratings, learned.ratings)
    torch.testing.assert_close(again.probs, learned.probs)


@pytest.mark.parametrize("rows", ["full", "low_rank"])
def test_the_consensus_of_residual_heads_on_scales_is_their_mean(rows):
    facts = {"rater_facts": [[0.5, 1.0], [2.0, 0.0], [-1.0, 1.0]]}
    model = tiny.annotator(rater_head="residual", rater_rows=rows, rater_rank=3, **facts)
    for heads in model.raters:
        nn.init.normal_(heads.table, mean=0.5)
        nn.init.normal_(heads.expected.weight)
    inputs = tiny.inputs("log-mel", tiny.lengths("log-mel"))
    panel = model(**inputs)
    own = panel.ratings.view(len(panel.consensus), len(model.config.annotators), -1)
    torch.testing.assert_close(panel.consensus, own.mean(1))
    # raters who joined later do not move it
    model.config.onboarded = 1
    torch.testing.assert_close(model(**inputs).consensus, own[:, :-1].mean(1))


def test_the_consensus_on_labels_is_that_of_its_head():
    """Heads are surer than it is, since they know who votes; the mean of their logits would be too sure."""
    model = tiny.annotator(questions=tiny.CATEGORY, rater_head="residual")
    inputs = tiny.inputs("log-mel", tiny.lengths("log-mel"))
    before = model(**inputs).consensus
    nn.init.normal_(model.raters[0].table, mean=0.5)
    torch.testing.assert_close(model(**inputs).consensus, before)


@pytest.mark.parametrize("rows", ROWS)
def test_a_consensus_of_heads_changes_no_loss(rows):
    model = tiny.annotator(rater_head="residual", rater_rows=rows, rater_rank=3)
    for heads in model.raters:
        nn.init.normal_(heads.table, mean=0.5)
        if rows == "embedding":
            nn.init.normal_(heads.output.weight)
    with torch.no_grad():
        tested = model(**batch(ratings=RATINGS, item_seed=SEEDS))
        # without its dropout
        model.training = True
        learning = model(**batch(ratings=RATINGS, item_seed=SEEDS))
    torch.testing.assert_close(tested.loss, learning.loss)
    assert (tested.consensus - learning.consensus).abs().max() > 1e-2


@pytest.mark.parametrize("rows", ROWS)
def test_independent_rows_of_any_kind_start_apart(rows):
    answers = tiny.annotator(rater_rows=rows)(**batch()).ratings
    assert (answers[0] - answers[1]).abs().min() > 1e-4


@pytest.mark.parametrize("rows", ROWS)
def test_every_weight_learns_in_either_task(rows):
    """A weight without a gradient stops distributed training."""
    for task in ("ratings", "distribution"):
        model = tiny.annotator(rater_rows=rows).train()
        model(**batch(ratings=RATINGS, labels=GRID), task=task).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_pairs_that_do_not_fit_are_one_sentence():
    model, x = tiny.annotator(questions=tiny.CATEGORY), torch.randn(3, 20, 8)
    for item, rater, message in (
        ([0, 2], [0, 1], "name each of 3 items"),
        ([0, 2, 1], [0, 0, 0], "must ascend"),
        ([0, 1, 2, 3], [0, 0, 0, 0], "name each of 3 items"),
        ([0, 1, 2], [0, 1, 3], "names rater 3; there are 3"),
    ):
        with pytest.raises(ValueError, match=message):
            model(input_features=x, pair_item=torch.tensor(item), pair_annotator=torch.tensor(rater))


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (tiny.CATEGORY * 2, "one category, or one or two scales"),
        ([*tiny.SCALES, tiny.SCALES[0]], "one category, or one or two scales"),
        ([{"name": "emotion", "lables": ["a"]}], "needs a name and either labels"),
    ],
)
def test_questions_that_do_not_go_together(questions, message):
    with pytest.raises(ValueError, match=message):
        AnnotatorConfig(questions=questions)
    with pytest.raises(ValueError, match="bins is 0"):
        AnnotatorConfig(questions=tiny.SCALES, bins=0)
    with pytest.raises(ValueError, match="asks no question"):
        AnnotatorModel(AnnotatorConfig(trunk_config=tiny.trunk_config("log-mel")))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("questions", "saved", "options"),
    [
        (tiny.SCALES, ["raters", "consensus", "towers", "ambiguity", "noise"], {"rater_head": "residual"}),
        (tiny.CATEGORY, ["raters", "consensus", "towers"], {}),
        (tiny.CATEGORY, ["raters"], {"aggregate": "votes"}),
    ],
    ids=["scales", "category", "votes"],
)
def test_peft_keeps_raters_beside_adapters(questions, saved, options, sparse, tmp_path):
    def fresh():
        return tiny.annotator("bert", questions=questions, sparse_raters=sparse, **options)

    targets = r"trunk\..*attention\.self\.(query|value)"
    adapted = get_peft_model(fresh(), LoraConfig(r=2, target_modules=targets, modules_to_save=saved)).train()
    rate = torch.optim.SGD([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.5)
    for _ in range(2):  # the adapters' first step leaves half of them where they are
        adapted(**batch("bert", ratings=RATINGS if questions is tiny.SCALES else CODES), task="ratings").loss.backward()
        rate.step()
        rate.zero_grad()
    adapted.save_pretrained(tmp_path / "adapters")
    with torch.inference_mode():
        before, after = fresh()(**batch("bert")), adapted.eval()(**batch("bert"))
        assert (before.ratings - after.ratings).abs().max() > 1e-2
        again = PeftModel.from_pretrained(fresh(), tmp_path / "adapters").eval()
        torch.testing.assert_close(again(**batch("bert")).to_tuple(), after.to_tuple())
        again.merge_and_unload().save_pretrained(tmp_path / "merged")
        merged = AnnotatorModel.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(merged(**batch("bert")).to_tuple(), after.to_tuple(), rtol=1e-3, atol=1e-5)
