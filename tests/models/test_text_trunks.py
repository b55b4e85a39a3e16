"""Any text encoder of the library is a trunk, for categories and for the KDE of scales, in both models."""

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModel

from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.models.modeling_annotator import AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.trunks import most_tokens

FAMILIES = (*tiny.TEXT, *tiny.NO_LAYERS)
INPUTS = tiny.inputs("bert", [5, 9, 2])


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_checkpoint_gives_its_own_frames_and_batching_changes_nothing(kind, tmp_path):
    torch.manual_seed(1)
    plain = AutoModel.from_config(tiny.trunk_config(kind)).eval()
    plain.save_pretrained(tmp_path)
    model = DistributionModel.from_trunk(
        str(tmp_path), questions=tiny.CATEGORY, pooling="first", embedding_kind="none", dropout=0.0
    )
    frames, mask = model.frames(**INPUTS)
    expected = plain(**INPUTS).last_hidden_state
    torch.testing.assert_close(frames[mask], expected[mask], rtol=1e-4, atol=1e-5)
    wide, together = tiny.inputs(kind, [5, 9, 2], width=17), model(**INPUTS).probs
    torch.testing.assert_close(model(**wide).probs, together, rtol=1e-4, atol=1e-5)
    for row, length in enumerate([5, 9, 2]):
        alone = model(**{name: value[row : row + 1, :length] for name, value in INPUTS.items()}).probs
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)
    model.train()(**INPUTS, labels=torch.eye(3)).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("kind", tiny.TEXT)
def test_the_limit_of_tokens_is_where_the_trunk_breaks(kind):
    config = tiny.trunk_config(kind, max_position_embeddings=20)
    trunk, most = AutoModel.from_config(config), most_tokens(config)
    assert trunk(**tiny.inputs(kind, [most])).last_hidden_state.shape[1] == most
    with pytest.raises((IndexError, RuntimeError)):
        trunk(**tiny.inputs(kind, [most + 1]))


@pytest.mark.parametrize("kind", tiny.NO_LAYERS)
def test_families_without_a_choice_of_layers_say_so(kind):
    with pytest.raises(ValueError, match=f"trunk_layer is 1, and a trunk of type {kind} has no choice of layers"):
        tiny.distribution(kind, trunk_layer=1)


def ratings():
    """Three texts, each rated by three raters on two scales of five steps (an ordinal scale is no different)."""
    questions = [Question.scale(name, 1, 5) for name in ("valence", "activation")]
    rng, rows = np.random.default_rng(0), []
    for item in ("a", "b", "c"):
        for rater in ("ann", "bob", "cy"):
            rows += [(item, rater, question.name, float(rng.integers(1, 6))) for question in questions]
    item, rater, question, value = zip(*rows, strict=True)
    return questions, VoteTable.from_columns(questions, item=item, annotator=rater, question=question, value=value)


@pytest.mark.parametrize("names", [("valence",), ("valence", "activation")])
@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
def test_both_models_learn_the_kde_of_scales_from_text(kind, names):
    """One batch learnt by heart: both models reach the very distributions of the ratings."""
    questions, votes = ratings()
    targets = make_targets(votes, names, "kde", bins=3)
    labels = torch.from_numpy(targets.probs).float()
    options = {
        "questions": [question.to_dict() for question in questions if question.name in names],
        "bins": 3,
        "pooling": "mean",
        "dropout": 0.0,
        "trunk_config": tiny.trunk_config(kind),
    }
    pairs = {
        "pair_item": torch.from_numpy(targets.ratings.item),
        "pair_annotator": torch.from_numpy(targets.ratings.annotator),
        "ratings": torch.from_numpy(targets.ratings.value).float(),
    }
    raters = {"annotators": list(targets.annotators), "rating_loss": "mse"}
    for build, given, extra in ((tiny.distribution, {}, {}), (tiny.annotator, pairs, raters)):
        model = build(kind, **options, **extra)
        assert isinstance(model, AnnotatorModel if extra else DistributionModel)
        optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
        with torch.no_grad():
            first = model(**INPUTS, **given, labels=labels).probs
        for _ in range(60):
            model(**INPUTS, **given, labels=labels).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        with torch.no_grad():
            last = model(**INPUTS, **given, labels=labels).probs
        assert last.shape == (3, 3 ** len(names))
        torch.testing.assert_close(last.sum(1), torch.ones(3), rtol=0, atol=1e-5)
        distance = [0.5 * (probs - labels).abs().sum(1).mean() for probs in (first, last)]
        assert distance[1] < 0.4 * distance[0]
