"""New raters of a trained model: their rows are what another optimiser finds, and the checkpoint is like any other."""

import json

import numpy as np
import pytest
import tiny
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, ndtr
from scipy.stats import norm
from torch import nn
from transformers import AutoModel

from annot_hf.data.export import read_export
from annot_hf.models.losses import answer_costs
from annot_hf.training.checkpoints import load_model, read_facts
from annot_hf.training.inference import predict
from annot_hf.training.onboarding import Answers, add_raters, fit_rows, onboard, rater_tables
from annot_hf.training.train import train

NAMES = ["ann", "bob", "cy", "dee"]
ITEM, RATER = [0, 1, 2, 3, 4, 1, 3, 4], [0, 0, 0, 0, 0, 2, 2, 2]
LEVELS = [5, 4]
MODELS = {
    "learned": {"levels": LEVELS},
    "independent": {"levels": LEVELS, "rater_head": "independent"},
    "published": {"levels": LEVELS, "spread": "published"},
    "low rank": {"levels": LEVELS, "rater_rows": "low_rank", "rater_rank": 4},
    "embedding": {"levels": LEVELS, "rater_rows": "embedding", "rater_rank": 4},
    "facts": {"levels": LEVELS, "rater_facts": [[0.5, 1.0], [-0.5, 0.0], [1.5, 0.0], [-1.5, 1.0]]},
    "category": {"questions": tiny.CATEGORY},
    "voting": {"questions": tiny.CATEGORY, "rater_head": "independent", "aggregate": "votes"},
}


def made(kind):
    """A model whose raters and items differ, the vectors of five items, and eight answers of new raters 0 and 2 of 3."""
    model = tiny.annotator(annotators=NAMES, **{"rater_head": "residual"} | MODELS[kind])
    for table in rater_tables(model):
        nn.init.normal_(table.table, std=0.5)
        for weight in table.parameters() if table.output is not None else ():
            nn.init.normal_(weight, std=0.2)
        if table.expected is not None:
            nn.init.normal_(table.expected.weight, std=0.5)
    if model.ambiguity is not None:
        nn.init.normal_(model.ambiguity.weight, std=0.1)
    draw = torch.Generator().manual_seed(1)
    embedding = torch.randn(5, model.width, generator=draw)
    if model.config.is_scale:
        steps = [torch.randint(count, (8,), generator=draw) / (count - 1) * 2 - 1 for count in LEVELS]
        value = torch.stack(steps, 1).double()
        value[1, 0] = torch.nan
    else:
        value = torch.randint(3, (8, 1), generator=draw).double()
    return model, embedding, Answers(torch.tensor(ITEM), torch.tensor(RATER), value)


FACTS = torch.tensor([[1.0, 1.0], [0.0, 0.0], [-0.5, 1.0]]).double()


def fitted(model, embedding, answers):
    """Rows of three new raters, of whom something is known where the model reads it."""
    return fit_rows(model, embedding, answers, 3, FACTS if model.config.rater_facts else None)


def negative_log_posterior(model, embedding, answers, rater):
    """Of a rater's place in the known raters' differences from their mean, from the formulas alone; and its rows."""
    tables = [table.table.detach().numpy().astype(float) for table in rater_tables(model)]
    known = np.concatenate(tables, 1)
    values, vectors = np.linalg.eigh(np.cov(known.T))
    basis = (vectors * np.sqrt(values.clip(0)))[:, -3:].T
    item = answers.item[answers.rater == rater]
    value = answers.value[answers.rater == rater].numpy()
    inner = model.towers([embedding] * model.columns).chunk(model.columns, -1)
    consensus = model.consensus(inner).detach().numpy()[item] if len(model.consensus) else 0
    inner = [part.detach().numpy().astype(float)[item] for part in inner]

    def rows(place):
        return np.split(known.mean(0) + place @ basis, np.cumsum([table.shape[1] for table in tables])[:-1])

    def cost(place):
        found, own = rows(place), []
        if model.config.rater_facts:
            parts = [table.expected.weight.detach().numpy() @ FACTS[rater].numpy() for table in rater_tables(model)]
            found = [row + part for row, part in zip(found, parts, strict=True)]
        for x, row, heads in zip(inner, found, model.raters, strict=False):
            shared = {name: weight.detach().numpy() for name, weight in heads.named_parameters()}
            if model.config.rater_rows == "embedding":
                hidden = np.hstack([x, np.tile(row, (len(x), 1))]) @ shared["hidden.weight"].T + shared["hidden.bias"]
                own.append(hidden * ndtr(hidden) @ shared["output.weight"].T + shared["output.bias"])
                continue
            row = row @ shared["basis"] if model.config.rater_rows == "low_rank" else row
            weights = row.reshape(-1, x.shape[1] + 1)
            own.append(x @ weights[:, :-1].T + weights[:, -1])
        own = np.concatenate(own, 1) + (consensus if model.config.rater_head == "residual" else 0)
        if not model.config.is_scale:
            return -log_softmax(own, -1)[np.arange(len(value)), value[:, 0].astype(int)].sum() + place @ place / 2
        spread = np.full_like(own, np.pi / (8 * 3**0.5))
        if model.noise is not None:
            spread = 0.05 + np.logaddexp(0, model.ambiguity(embedding).detach().numpy()[item] + found[-1])
        total = place @ place / 2
        for column, count in enumerate(LEVELS):
            for row in np.flatnonzero(~np.isnan(value[:, column])):
                said, half = value[row, column], 1 / (count - 1)
                low, high = (-np.inf if said == -1 else said - half), (np.inf if said == 1 else said + half)
                low, high = ((end - own[row, column]) / spread[row, column] for end in (low, high))
                total -= np.log(ndtr(high) - ndtr(low))
        return total

    return cost, rows


@pytest.mark.parametrize("kind", MODELS)
def test_a_new_row_is_the_most_probable_one_under_the_raters_answers(kind):
    model, embedding, answers = made(kind)
    found = fitted(model, embedding, answers)
    for rater in (0, 2):
        cost, rows = negative_log_posterior(model, embedding, answers, rater)
        best = min(
            (minimize(cost, start, options={"gtol": 1e-6}) for start in (np.zeros(3), [1, 0, 0])),
            key=lambda one: one.fun,
        )
        for mine, theirs in zip(found, rows(best.x), strict=True):
            np.testing.assert_allclose(mine[rater], theirs, atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_a_rater_without_answers_gets_the_mean_of_the_known_rows(kind):
    model, embedding, answers = made(kind)
    for table, found in zip(rater_tables(model), fitted(model, embedding, answers), strict=True):
        np.testing.assert_allclose(found[1], table.table.detach().double().mean(0), atol=1e-12)


def test_a_rater_is_fitted_alike_alone_and_among_others():
    model, embedding, answers = made("learned")
    together = fit_rows(model, embedding, answers, 3)
    one = answers.rater == 2
    alone = fit_rows(model, embedding, Answers(answers.item[one], 0 * answers.rater[one], answers.value[one]), 1)
    for many, single in zip(together, alone, strict=True):
        np.testing.assert_allclose(many[2], single[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["learned", "voting", "facts"])
def test_raters_who_joined_later_change_nothing_but_their_own_answers(kind):
    model, embedding, answers = made(kind)
    inputs, before = tiny.inputs("log-mel", [30, 20, 10]), fitted(model, embedding, answers)
    panel = model(**inputs)
    add_raters(model, ["x", "y", "z"], before, FACTS if model.config.rater_facts else None)
    after = model(**inputs)
    torch.testing.assert_close(after.probs, panel.probs)
    torch.testing.assert_close(after.consensus, panel.consensus)
    assert model.config.onboarded == 3 and model.config.panel == len(NAMES)
    for one, other in zip(fitted(model, embedding, answers), before, strict=True):
        torch.testing.assert_close(one, other)


def test_the_cost_of_an_answer_is_exact_in_double_precision():
    location, spread = torch.tensor([[0.31]]).double(), torch.tensor([[0.2]]).double()
    cost = answer_costs(location, spread, torch.tensor([[0.5]]).double(), [5])
    opinion = norm(0.31, 0.2)
    assert float(cost) == pytest.approx(-np.log(opinion.cdf(0.75) - opinion.cdf(0.25)), rel=1e-6)
    assert cost.dtype == torch.float64


def write_votes(path, rows):
    path.write_text("\n".join(["item,annotator,question,value", *rows]) + "\n")
    return path


VOTES = ["s001_c001,new,activation,5", "s001_c001,new,valence,1", "s001_c002,new,activation,4"]
OTHERS = ["s001_c003,late,valence,2", "s001_c003,new,emotion,sad", "s002_c001,silent,emotion,happy"]


def test_a_checkpoint_with_new_raters_is_read_as_any_other(checkpoints, corpus, features, tmp_path):
    votes = write_votes(tmp_path / "votes.csv", [*VOTES, *OTHERS])
    found = onboard(checkpoints["annotator"], votes, corpus, tmp_path / "model", features=features)
    assert (found.answers, found.left_out) == ({"new": 2, "late": 1, "silent": 0}, {"votes on other questions": 2})
    before, _, _ = load_model(checkpoints["annotator"])
    after, _, facts = load_model(found.model)
    assert after.config.annotators == [*before.config.annotators, "new", "late", "silent"]
    assert facts["onboarded"][0]["answers"] == found.answers
    assert isinstance(AutoModel.from_pretrained(found.model), type(after))
    old = dict(before.named_parameters())
    for name, weight in after.named_parameters():
        torch.testing.assert_close(weight[: len(old[name])], old[name])
    rows = after.raters[0].table[-3:]
    torch.testing.assert_close(rows[2], before.raters[0].table.mean(0))
    assert not torch.allclose(rows[0], rows[2])
    predictions, _ = predict(found.model, corpus, split="test", features=features)
    assert not predictions.rater_fallback.any()
    assert not predictions.caution
    seen, _ = predict(found.model, corpus, split="train", features=features)
    assert "3 of 5 items are ones that new raters were onboarded with" in seen.caution
    with pytest.raises(ValueError, match="holds a trained model, which would be lost; name another folder"):
        onboard(checkpoints["annotator"], votes, corpus, checkpoints["distribution"], features=features)
    alone = tmp_path / "alone.csv"
    alone.write_text("item,annotator,value\ns001_c001,new,5\ns001_c001,new,4\n")
    with pytest.raises(ValueError, match="question"):
        onboard(checkpoints["annotator"], alone, corpus, tmp_path / "alone", features=features)
    more = write_votes(tmp_path / "more.csv", ["s001_c001,fourth,valence,3"])
    again = onboard(found.model, more, corpus, tmp_path / "again", features=features)
    assert [list(one["answers"]) for one in read_facts(again.model)["onboarded"]] == [
        ["new", "late", "silent"],
        ["fourth"],
    ]
    assert json.loads((again.model / "config.json").read_text())["annotators"][-1] == "fourth"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*VOTES, "s001_c001,r001,valence,1"], r"votes.csv: row 3 is a vote of 'r001', who has a head"),
        (
            [*VOTES, "s001_c001, R001,valence,1"],
            "has votes of ' R001', and the model knows 'r001'; remove the votes if",
        ),
        ([*VOTES, "s001_c0,new,valence,1"], r"votes.csv: row 3 rates item 's001_c0' \(did you mean .* does not have"),
        ([*VOTES, "s001_c001,,valence,1"], "votes.csv: row 3 has no annotator; name the rater"),
        ([*VOTES, "s001_c001,new,mood,1"], "votes.csv: row 3 answers question 'mood'"),
        ([*VOTES, "s001_c003,new,valence,9"], "votes.csv: row 3 has value '9' for question 'valence'"),
        (OTHERS[1:], "votes.csv has no vote on activation or valence"),
    ],
    ids=["known rater", "known in other letters", "item", "anonymous", "question", "value", "nothing to fit"],
)
def test_votes_that_cannot_be_used_are_named(checkpoints, corpus, tmp_path, rows, message):
    votes = write_votes(tmp_path / "votes.csv", rows)
    with pytest.raises(ValueError, match=message):
        onboard(checkpoints["annotator"], votes, corpus, tmp_path / "model")
    assert not (tmp_path / "model").exists()


TABLE = "annotator,age,country\nr001,20,de\nr002,60,de\nr003,40,fr\nr004,,fr\n"


def test_a_rater_of_whom_only_facts_are_known_starts_from_what_similar_raters_answer(
    small_run, corpus, features, tmp_path
):
    (tmp_path / "raters.csv").write_text(TABLE)
    model = train(small_run("annotator", tmp_path / "run", raters=str(tmp_path / "raters.csv"))).model
    before, _, _ = load_model(model)
    rows = dict(zip(before.config.annotators, before.config.rater_facts, strict=True))
    assert rows["r001"] == pytest.approx([-(1.5**0.5), 1, 0]) and rows["r004"] == pytest.approx([0, 0, 1])
    nn.init.normal_(before.raters[0].expected.weight)
    before.save_pretrained(model)
    (tmp_path / "new.csv").write_text(TABLE + "new,60,fr\nother,,\n")
    votes = write_votes(tmp_path / "votes.csv", ["s001_c001,stranger,valence,1"])
    found = onboard(model, votes, corpus, tmp_path / "out", raters=tmp_path / "new.csv", features=features)
    assert found.answers == {"stranger": 1, "new": 0, "other": 0}
    after, _, _ = load_model(found.model)
    assert after.config.rater_facts[-2:] == [pytest.approx([1.5**0.5, 0, 1]), [0, 0, 0]]
    x, mean = torch.randn(1, before.width), before.raters[0].table.mean(0)
    own = mean + before.raters[0].expected(torch.tensor([[1.5**0.5, 0.0, 1.0]]))
    answer = after.raters[0](x, torch.tensor([len(after.config.annotators) - 2]), after.rater_facts(x))
    torch.testing.assert_close(answer, x @ own[:, :-1].T + own[:, -1:])
    with pytest.raises(ValueError, match="The model reads age, country of its raters; give the table"):
        onboard(model, votes, corpus, tmp_path / "without")
    alone = onboard(model, None, corpus, tmp_path / "alone", raters=tmp_path / "new.csv")
    assert alone.answers == {"new": 0, "other": 0}
    assert json.loads((alone.model / "config.json").read_text())["rater_facts"][-1] == [0, 0, 0]


def test_a_table_of_raters_fits_the_model_or_is_refused(checkpoints, corpus, small_run, tmp_path):
    (tmp_path / "raters.csv").write_text(TABLE)
    path = str(tmp_path / "raters.csv")
    with pytest.raises(ValueError, match="raters is for annotator models, and model is distribution"):
        small_run("distribution", tmp_path / "run", raters=path)
    run, exported = small_run("annotator", tmp_path / "run", raters=path), read_export(corpus)
    earlier = run.record(exported)
    (tmp_path / "raters.csv").write_text(TABLE.replace("60", "50"))
    assert run.changes(earlier, exported) == ["the table of raters"]
    with pytest.raises(ValueError, match="raters is 'nowhere.csv', and there is no such file"):
        train(small_run("annotator", tmp_path / "run", raters="nowhere.csv"))
    with pytest.raises(ValueError, match="raters.csv is a table of raters, and the model was trained without one"):
        onboard(checkpoints["annotator"], None, corpus, tmp_path / "out", raters=tmp_path / "raters.csv")
    with pytest.raises(ValueError, match="There is no new rater; give votes"):
        onboard(checkpoints["annotator"], None, corpus, tmp_path / "out")


def test_only_models_that_know_raters_learn_new_ones(checkpoints, corpus, tmp_path):
    votes = write_votes(tmp_path / "votes.csv", VOTES)
    with pytest.raises(ValueError, match="holds a DistributionModel, which has no raters"):
        onboard(checkpoints["distribution"], votes, corpus, tmp_path / "model")
    with pytest.raises(ValueError, match="is the model's own folder"):
        onboard(checkpoints["annotator"], votes, corpus, checkpoints["annotator"])
