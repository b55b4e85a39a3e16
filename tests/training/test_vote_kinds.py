"""Learning from human, synthetic and combined votes: who sees whose votes, what is recorded, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny
import yaml

from annot_hf.cli.steps import write_report
from annot_hf.data.export import read_export
from annot_hf.data.questions import Question
from annot_hf.data.synthetic import half_of, write_annotations
from annot_hf.data.targets import make_targets
from annot_hf.data.votes import VoteTable
from annot_hf.experiments.plans import read_plan, run_plan
from annot_hf.training.datasets import vote_views
from annot_hf.training.inference import predict
from annot_hf.training.recipe import load_recipe
from annot_hf.training.train import member_runs, train


def annotate(folder, corpus, *, name="emotion", questions=None, items=None, seed=0, facts=None):
    """Four synthetic votes an item, at random."""
    exported, rng = read_export(corpus), np.random.default_rng(seed)
    question = questions or exported.votes.question(name)
    names = list(exported.items["item"]) if items is None else list(items)
    votes = VoteTable.from_columns(
        question,
        item=np.repeat(names, 4).tolist(),
        annotator=["0", "1", "2", "3"] * len(names),
        value=[question.labels[code] for code in rng.integers(len(question.labels), size=4 * len(names))],
        source="synthetic",
    )
    about = {"corpus": exported.name, "corpus_digest": exported.digest} | (facts or {})
    write_annotations(folder, votes, pa.table({"item": names}), about)
    return folder


@pytest.fixture(scope="module")
def annotations(corpus, tmp_path_factory):
    return annotate(tmp_path_factory.mktemp("annotations") / "votes", corpus)


@pytest.fixture
def views(small_run, corpus, annotations, tmp_path):
    """Makes the views of the corpus that a run sees."""

    def make(exported=None, **overrides):
        run = small_run("distribution", tmp_path / "run", **{"votes.annotations": str(annotations)} | overrides)
        return vote_views(run.recipe, exported or read_export(corpus))

    return make


def other_people(exported):
    """The same corpus with other answers of people."""
    votes = exported.votes
    labels = np.where(votes.label_codes >= 0, 0, -1).astype(votes.label_codes.dtype)
    return replace(exported, votes=replace(votes, label_codes=labels))


def test_each_kind_of_votes(views, corpus):
    exported = read_export(corpus)
    items = exported.items.loc[exported.items["split"] == "train", "item"]
    human = exported.votes.counts("emotion", items)
    seen = {kind: views(**{"votes.kind": kind})[0] for kind in ("human", "synthetic", "combined", "")}
    counts = {kind: view["train"].votes.counts("emotion", items) for kind, view in seen.items()}
    np.testing.assert_array_equal(counts["human"], human)
    assert (counts["synthetic"].sum(1) == 4).all()
    np.testing.assert_array_equal(counts["combined"], human + counts["synthetic"])
    np.testing.assert_array_equal(counts[""], counts["combined"])
    weighed = views(**{"votes.synthetic_weight": 0.25})[0]["train"].targets("train", "emotion")
    expected = human + 0.25 * counts["synthetic"]
    np.testing.assert_allclose(weighed.probs, expected / expected.sum(1, keepdims=True))


def test_synthetic_never_sees_a_vote_of_a_person(views, corpus):
    exported = read_export(corpus)
    for split in ("train", "validation"):
        mine = views(**{"votes.kind": "synthetic"})[0][split]
        theirs = views(other_people(exported), **{"votes.kind": "synthetic"})[0][split]
        assert mine.votes.to_arrow().equals(theirs.votes.to_arrow())
        combined = views(other_people(exported), **{"votes.kind": "combined"})[0]["validation"].targets(
            "validation", "emotion"
        )
        assert (combined.probs[:, 0] == 1).all()  # validated by people's votes alone


def test_a_synthetic_run_is_the_same_whatever_people_said(small_run, corpus, annotations, tmp_path):
    words = {"votes.annotations": str(annotations), "votes.kind": "synthetic", "num_train_epochs": 1}
    mine = train(small_run("distribution", tmp_path / "a", **words))
    theirs = train(small_run("distribution", tmp_path / "b", **words), corpus=other_people(read_export(corpus)))
    assert mine.metrics == theirs.metrics and mine.facts["marginal"] == theirs.facts["marginal"]
    combined = small_run("distribution", tmp_path / "c", **words | {"votes.kind": "combined"})
    assert train(combined).metrics != mine.metrics


def test_what_is_recorded(small_run, annotations, corpus, tmp_path):
    run = small_run(
        "distribution",
        tmp_path,
        **{"votes.annotations": str(annotations), "votes.synthetic_weight": 0.5},
        num_train_epochs=1,
    )
    facts = json.loads((train(run).model / "training.json").read_text())
    exported = read_export(corpus)
    of = {
        split: int(exported.votes.counts("emotion", exported.items.loc[exported.items["split"] == split, "item"]).sum())
        for split in ("train", "validation")
    }
    assert facts["splits"]["train"]["votes"] == {"human": of["train"], "synthetic": 20}
    assert facts["splits"]["validation"]["votes"] == {"human": of["validation"], "synthetic": 0}
    assert facts["votes"] == "combined" and facts["synthetic_weight"] == 0.5
    assert facts["annotations"] == json.loads((annotations / "annotations.json").read_text())["votes_sha256"]


def test_shuffled_raters_are_learnt_from_and_the_true_ones_asked(small_run, corpus, tmp_path):
    run = small_run("annotator", tmp_path / "run", **{"votes.shuffle_raters": True, "num_train_epochs": 1})
    exported = read_export(corpus)
    seen, facts = vote_views(run.recipe, exported, run.training.seed)
    assert facts == {"votes": "raters shuffled"}
    for split in ("train", "validation"):
        mine, theirs = (one.targets(split, ["activation", "valence"]) for one in (seen[split], exported))
        assert sorted(mine.ratings.value[:, 0]) == sorted(theirs.ratings.value[:, 0])
        assert mine.votes_per_item.tolist() == theirs.votes_per_item.tolist()
    trained = train(run)
    assert trained.facts["votes"] == "raters shuffled" and trained.facts["recipe"]["votes.shuffle_raters"]
    predictions, targets = predict(trained.model, exported)
    asked = set(zip(predictions.items[predictions.rater_items], predictions.rater_names, strict=True))
    ratings = targets.ratings
    assert asked == {
        (targets.items[item], targets.annotators[rater])
        for item, rater in zip(ratings.item, ratings.annotator, strict=True)
    }


def test_half_of_the_votes_is_learnt_from_and_the_other_scored(small_run, corpus, tmp_path):
    run = small_run("distribution", tmp_path / "run", **{"votes.half": "first", "num_train_epochs": 1})
    exported = read_export(corpus)
    views, facts = vote_views(run.recipe, exported)
    first = views["train"]
    assert views["validation"] is first
    learnt = exported.items.loc[exported.items["split"] != "test", "item"]
    whole, kept, rest = (
        votes.counts("emotion", learnt).sum(1)
        for votes in (exported.votes, first.votes, half_of(exported.votes, "second"))
    )
    assert (kept + rest == whole).all() and abs(kept - rest).max() <= 1
    assert facts["votes_half"] == {
        "half": "first",
        "votes": kept.sum(),
        "left_out": rest.sum(),
        "items_without_votes": int((kept == 0).sum()),
        "items_with_one_vote": int((whole == 1).sum()),
    }
    trained = train(run)
    assert trained.facts["votes_half"] == facts["votes_half"] and trained.facts["recipe"]["votes.half"] == "first"
    assert (
        trained.facts["splits"]["train"]["votes"]["human"] < exported.targets("train", "emotion").votes_per_item.sum()
    )
    predictions, targets = predict(trained.model, exported)
    assert len(predictions) == len(targets) == 5
    predictions.save(tmp_path / "predictions")
    report = write_report([tmp_path / "predictions"], corpus, tmp_path / "report", votes_half="second")
    data = json.loads((report / "report.json").read_text())
    scored = replace(exported, votes=half_of(exported.votes, "second")).targets("test", "emotion")
    counts = data["evaluation"]["counts"]
    assert counts["votes"] == scored.votes_per_item.sum() < targets.votes_per_item.sum()
    assert data["title"].endswith("second half of the votes")
    assert counts["n_evaluated"] == len(scored) and counts["predicted_without_target"] == 5 - len(scored)


def test_a_run_is_not_gone_on_with_with_other_synthetic_votes(small_run, corpus, tmp_path):
    folder = annotate(tmp_path / "votes", corpus)
    run = small_run("distribution", tmp_path / "run", **{"votes.annotations": str(folder)})
    exported = read_export(corpus)
    earlier = run.record(exported)
    elsewhere = annotate(tmp_path / "moved", corpus)
    moved = small_run("distribution", tmp_path / "run", **{"votes.annotations": str(elsewhere)})
    assert moved.changes(earlier, exported) == []
    annotate(folder, corpus, seed=1)
    assert run.changes(earlier, exported) == ["the annotations"]
    human = small_run("distribution", tmp_path / "run", **{"votes.annotations": str(folder), "votes.kind": "human"})
    plain = small_run("distribution", tmp_path / "run", **{"votes.kind": "human"})
    assert human.changes(plain.record(exported), exported) == []


@pytest.mark.parametrize(
    "values, message",
    [
        ({"votes.kind": "synthetic"}, "votes: kind is 'synthetic', and there are no annotations; set annotations"),
        ({"votes.synthetic_weight": 0.5}, "votes: synthetic_weight is 0.5, and there are no annotations"),
        ({"votes.half": "third"}, "votes.half is 'third'; use one of first, second"),
        (
            {"votes.annotations": ..., "votes.kind": "synthetic", "votes.half": "first"},
            "half is 'first' and kind is synthetic",
        ),
        ({"votes.kind": "synthetc"}, "votes.kind is 'synthetc'; use one of human, synthetic, combined"),
        ({"votes.annotations": "none"}, "votes: none holds no annotations"),
        (
            {"votes.annotations": ..., "votes.synthetic_weight": 0},
            "synthetic_weight is 0.0; it is a finite number above 0",
        ),
        ({"votes.annotations": ..., "votes.synthetic_weight": float("nan")}, "synthetic_weight is nan"),
        ({"votes.shuffle_raters": True}, "votes.shuffle_raters is true and model distribution, which has no raters"),
        (
            {"votes.annotations": ..., "model": "annotator"},
            "model is annotator, .* and votes.kind is combined; set model to",
        ),
    ],
)
def test_recipes_that_contradict_themselves(annotations, values, message):
    words = {key: str(annotations) if value is ... else value for key, value in values.items()}
    with pytest.raises(ValueError, match=message):
        load_recipe("speech-distribution", words | {"output_dir": "x"})


def test_annotations_of_another_corpus_or_label_set(views, corpus, tmp_path):
    other = annotate(tmp_path / "other", corpus, facts={"corpus": "theirs", "corpus_digest": "0" * 64})
    with pytest.raises(ValueError, match=r"are of theirs \(digest 000000000000\), but the corpus is"):
        views(**{"votes.annotations": str(other)})
    labels = annotate(tmp_path / "labels", corpus, questions=Question.category("emotion", ["a", "b"]))
    with pytest.raises(ValueError, match="question 'emotion' has the answers a, b, but the corpus asks for"):
        views(**{"votes.annotations": str(labels)})
    question = annotate(tmp_path / "question", corpus, questions=Question.category("mood", ["a", "b"]))
    with pytest.raises(ValueError, match="question 'mood' is not a question of the corpus"):
        views(**{"votes.annotations": str(question)})


def test_annotations_of_other_items(views, corpus, tmp_path):
    exported = read_export(corpus)
    of = {split: exported.items.loc[exported.items["split"] == split, "item"] for split in ("train", "test")}
    unknown = annotate(tmp_path / "unknown", corpus, items=["nobody", *of["train"]])
    with pytest.raises(ValueError, match="have votes on 1 items that .* does not list, such as 'nobody'"):
        views(**{"votes.annotations": str(unknown)})
    test = annotate(tmp_path / "test", corpus, items=of["test"])
    with pytest.raises(
        ValueError, match="no vote on 'emotion' for an item of split 'train', and votes.kind is combined"
    ):
        views(**{"votes.annotations": str(test)})
    only = annotate(tmp_path / "train", corpus, items=of["train"])
    views(**{"votes.annotations": str(only)})  # validated by people
    with pytest.raises(
        ValueError, match="for an item of split 'validation', and votes.kind is synthetic; annotate that"
    ):
        views(**{"votes.annotations": str(only), "votes.kind": "synthetic"})


def test_questions_without_synthetic_votes(views):
    with pytest.raises(ValueError, match="no vote on 'valence' for an item of split 'train'"):
        views(**{"votes.kind": "synthetic"}, scales=["valence"])
    seen, _ = views(**{"votes.kind": "combined"}, scales=["valence"])
    assert len(make_targets(seen["train"].votes, "valence", "kde"))
    with pytest.raises(ValueError, match="synthetic_weight is 0.5 and question 'valence' a scale"):
        views(**{"votes.kind": "combined"}, question=["valence"], **{"votes.synthetic_weight": 0.5})


def test_an_export_that_holds_synthetic_votes_itself(views, corpus):
    exported = read_export(corpus)
    votes = VoteTable.from_counts(exported.votes.question("emotion"), ["x"], [[1, 0, 0, 0]], source="synthetic")
    with pytest.raises(ValueError, match="itself holds 1 votes of source 'synthetic'"):
        views(replace(exported, votes=VoteTable.concat([exported.votes, votes])))


def test_views_of_a_cross_validation(views, corpus, annotations):
    exported = read_export(corpus)
    items = list(exported.items["item"])
    fold = exported.with_splits(dict(zip(items[:9], ["train"] * 6 + ["validation"] * 3, strict=True)), {"fold": 0})
    seen, _ = views(
        fold, **{"votes.kind": "synthetic"}
    )  # votes on items outside the view are no error, and no item of it
    assert list(seen["train"].targets("train", "emotion").items) == items[:6]
    assert seen["validation"].targets("validation", "emotion").votes_per_item.tolist() == [4, 4, 4]
    assert seen["train"].part == {"fold": 0}


def test_members_of_an_ensemble_learn_from_the_votes_once(sayings, bert_folder, tmp_path):
    folder = annotate(tmp_path / "votes", sayings, name="severity")
    values = {
        "trunk": str(bert_folder),
        "corpus": str(sayings),
        "output_dir": str(tmp_path / "run"),
        "votes.annotations": str(folder),
        "num_members": 2,
        "max_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    run, exported = load_recipe("seedbert", values), read_export(sayings)
    facts = train(run).facts
    assert facts["splits"]["train"]["votes"] == {"human": 3 * 18, "synthetic": 4 * 18}
    before = [one.training.output_dir for one in member_runs(run, exported)]
    for member in before:
        record = json.loads((Path(member) / "model" / "training.json").read_text())
        assert record["splits"] == facts["splits"] and record["votes"] == "combined"
    annotate(folder, sayings, name="severity", seed=1)
    assert not set(before) & {one.training.output_dir for one in member_runs(run, exported)}
    human = load_recipe("seedbert", values | {"votes.kind": "human"})
    assert not set(before) & {one.training.output_dir for one in member_runs(human, exported)}


@pytest.mark.parametrize("target", ["majority", "smoothed"])
def test_every_target_honours_the_weight(small_run, annotations, corpus, views, target):
    exported = read_export(corpus)
    light = views(**{"votes.synthetic_weight": 1e-9})[0]["train"].targets("train", "emotion", target)
    human = exported.targets("train", "emotion", target)
    np.testing.assert_allclose(light.select(human.items).probs, human.probs, atol=1e-6)


def test_the_plan_scores_three_systems_against_people(repository, corpus, annotations, tmp_path):
    plan = read_plan(repository / "benchmarks" / "plans" / "synthetic.yaml")
    assert list(plan.systems) == ["human", "synthetic", "combined"]
    short = replace(plan, seeds=(0,))
    words = [f"{key}={json.dumps(value)}" for key, value in {**tiny.SMALL, "num_train_epochs": 1}.items()]
    words += ["question=emotion", f"votes.annotations={annotations}"]
    found, page = run_plan(short, corpus, tmp_path / "out", words, n_resamples=20)
    assert found.counts["n_evaluated"] == 5
    for system in plan.systems:
        assert found.at("jsd", system)["value"] is not None and "jsd_tertiles_low" in found
        facts = json.loads((tmp_path / "out" / system / "seed0" / "training.json").read_text())
        used = {name for name, count in facts["splits"]["train"]["votes"].items() if count}
        assert used == {"human": {"human"}, "synthetic": {"synthetic"}, "combined": {"human", "synthetic"}}[system]
    text = page.read_text()
    assert "| combined |" in text and "JSD, low tertile" in text
    dime = yaml.safe_load((repository / "benchmarks" / "plans" / "synthetic_dime.yaml").read_text())
    assert list(dime["systems"])[:3] == list(plan.systems) and len(dime["systems"]) == 6


def test_a_weight_with_nothing_to_weigh_against(small_run, tmp_path):
    with pytest.raises(ValueError, match=r"synthetic_weight is 0.5 and kind is synthetic"):
        small_run(
            "distribution",
            tmp_path,
            **{"votes.annotations": str(tmp_path), "votes.kind": "synthetic", "votes.synthetic_weight": 0.5},
        )
