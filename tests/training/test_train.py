"""Whole runs, and above all: a run that was killed and resumed ends where an uninterrupted one does."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file
from scipy.special import rel_entr
from small_runs import killed_at, simulated_export

from annot_hf.data.audio import load_audio
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.questions import Question
from annot_hf.data.simulate import EMOTIONS, SimulatedCorpus
from annot_hf.data.targets import make_targets, opinion_columns
from annot_hf.data.votes import VoteTable
from annot_hf.models.modeling_annotator import AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.training import train as train_module
from annot_hf.training.checkpoints import checkpoints_of, load_model, newest_checkpoint
from annot_hf.training.inference import predict, predict_inputs
from annot_hf.training.train import best_share, count_levels, train
from annot_hf.training.trainer import EpochOfSampler, OpinionTrainer

MID_EPOCH = {
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "num_train_epochs": 3,
}
ACCUMULATED = MID_EPOCH | {
    "schedule.tasks": "joint",
    "gradient_accumulation_steps": 2,
    "save_steps": 3,
    "eval_steps": 3,
    "num_train_epochs": 4,
}
RUNS = {
    "alternate, epoch": ("annotator", {"num_train_epochs": 3}, 7),
    "alternate, mid-epoch": ("annotator", MID_EPOCH, 5),
    "sparse raters, mid-epoch": ("annotator", MID_EPOCH | {"sparse_raters": True}, 5),
    "joint, accumulated, mid-epoch": ("annotator", ACCUMULATED, 9),
    "one task, epoch": ("annotator", {"num_train_epochs": 3, "schedule.tasks": "ratings"}, 7),
    "category, mid-epoch": ("annotator", MID_EPOCH | {"question": "emotion"}, 5),
    "distribution, epoch": ("distribution", {"num_train_epochs": 3}, 4),
    "distribution, mid-epoch": ("distribution", MID_EPOCH, 8),
    "curriculum, scales, effective batch": (
        "distribution",
        MID_EPOCH
        | {
            "scales": ["valence", "activation"],
            "curriculum.kind": "filter",
            "gradient_accumulation_steps": 2,
            "schedule.newbob": "compose",
            "schedule.newbob_threshold": 0.5,
            "schedule.trunk_learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "save_steps": 3,
            "eval_steps": 3,
            "num_train_epochs": 4,
        },
        9,
    ),
}


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_resumes_exactly(name, small_run, tmp_path, monkeypatch):
    model, options, step = RUNS[name]
    straight = train(small_run(model, tmp_path / "straight", **options))
    with monkeypatch.context() as patch:
        killed_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train(small_run(model, tmp_path / "killed", **options))
    assert list((tmp_path / "killed").glob("checkpoint-*"))
    torch.manual_seed(12345)  # a new process knows nothing of the old one's generators
    resumed = train(small_run(model, tmp_path / "killed", **options), resume=True)
    expected, found = weights(straight.model), weights(resumed.model)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert resumed.metrics == straight.metrics
    last = [sorted((tmp_path / run).glob("checkpoint-*"))[-1] for run in ("straight", "killed")]
    assert last[0].name == last[1].name
    optimisers = [torch.load(folder / "optimizer.pt")["state"] for folder in last]  # the end, whichever epoch was best
    for key, state in optimisers[0].items():
        for part, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(optimisers[1][key][part]))


def test_a_checkpoint_that_was_cut_off_is_not_gone_on_from(small_run, tmp_path, monkeypatch, caplog):
    options = {"num_train_epochs": 3}
    straight = train(small_run("distribution", tmp_path / "straight", **options))
    with monkeypatch.context() as patch:
        killed_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(small_run("distribution", tmp_path / "killed", **options))
    (first,) = (tmp_path / "killed").glob("checkpoint-*")
    second = shutil.copytree(first, tmp_path / "killed" / "checkpoint-6")
    (second / "trainer_state.json").write_text((first / "trainer_state.json").read_text()[:100])
    steps, stock = [], OpinionTrainer.training_step
    monkeypatch.setattr(
        OpinionTrainer,
        "training_step",
        lambda self, *given: steps.append(self.state.global_step) or stock(self, *given),
    )
    other = shutil.copytree(tmp_path / "killed", tmp_path / "afresh")
    (other / first.name / "model.safetensors").unlink()  # and now none is complete
    for folder, seen in ((tmp_path / "killed", 3), (other, 0)):
        steps.clear()
        resumed = train(small_run("distribution", folder, **options), resume=True)
        assert steps == list(range(seen, 9))
        expected, found = weights(straight.model), weights(resumed.model)
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert f"{second} was cut off while it was written, and is removed" in caplog.text
    assert f"{other / first.name} was cut off" in caplog.text


def test_a_part_of_a_checkpoint_that_is_no_number_is_none(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-best", "other-1"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert newest_checkpoint(tmp_path) is None and (tmp_path / "checkpoint-best").is_dir()


def test_training_changes_the_weights_and_differs_by_seed(small_run, tmp_path):
    found = [weights(train(small_run("distribution", tmp_path / str(seed), seed=seed)).model) for seed in (0, 1)]
    assert not torch.equal(found[0]["head.weight"], found[1]["head.weight"])


def test_what_a_run_leaves_behind(small_run, tmp_path, corpus):
    result = train(small_run("annotator", tmp_path, report_to="tensorboard", logging_strategy="steps", logging_steps=1))
    assert result.model == tmp_path / "model"
    assert list(tmp_path.rglob("events.out.tfevents*"))
    assert set(result.metrics) == {"loss", "cross_entropy", "kl", "jsd", "tvd", "macro_f1"}
    facts = json.loads((result.model / "training.json").read_text())
    assert facts == json.loads(json.dumps(result.facts))
    assert {split: part["items"] for split, part in facts["splits"].items()} == {"train": 5, "validation": 5}
    assert sum(facts["marginal"]) == pytest.approx(1) and facts["recipe"]["corpus"] == str(corpus)
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == facts["recipe"]
    files = {path.suffix for path in result.model.iterdir()}
    assert files == {".json", ".safetensors", ".py"}
    model, processor, again = load_model(result.model)
    assert isinstance(model, AnnotatorModel) and again == facts and processor.num_mel_bins == 80
    assert len(model.config.trunk_config.mel_mean) == 80  # standardised by the training clips
    assert len(model.config.annotators) == 4


class Further(SimulatedCorpus):
    """Every rater hears sadness and boredom besides."""

    questions = (
        *SimulatedCorpus.questions,
        Question.category("further", [*EMOTIONS, "bored"], multiple=True, secondary_to="emotion"),
    )

    def read_votes(self):
        votes = super().read_votes()
        rows = votes.to_pandas()[["item", "annotator"]].drop_duplicates()
        further = [
            VoteTable.from_columns(
                self.questions,
                item=rows["item"],
                annotator=rows["annotator"],
                value=[label] * len(rows),
                question="further",
            )
            for label in ("sad", "bored")
        ]
        return VoteTable.concat([votes, *further])


@pytest.mark.parametrize(
    "options",
    [
        {"target.method": "merged", "target.primary_weight": 0.3},
        {"target.method": "majority", "target.majority_of": "merged", "target.primary_weight": 0.3},
        {
            "target.method": "majority",
            "target.majority_of": "merged",
            "target.primary_weight": 0.3,
            "target.ties": "guarded",
        },
    ],
)
def test_a_recipe_says_what_is_learnt(options, corpus, small_run, tmp_path, monkeypatch):
    export_corpus(Further(corpus.parent / "simulated"), tmp_path / "export")
    learnt, build = [], train_module.build_model
    monkeypatch.setattr(
        train_module, "build_model", lambda run, targets, *rest: learnt.append(targets) or build(run, targets, *rest)
    )
    run = small_run("distribution", tmp_path / "run", corpus=str(tmp_path / "export"), num_train_epochs=1, **options)
    result = train(run)
    votes = read_export(tmp_path / "export").votes
    options = {key.removeprefix("target."): value for key, value in options.items()}
    expected = make_targets(votes, "emotion", items=learnt[0].items, **options)
    assert (learnt[0].probs == expected.probs).all() and result.facts["target"] == expected.method
    assert (expected.probs != make_targets(votes, "emotion", expected.method, items=learnt[0].items).probs).any()
    assert len(expected.excluded) == 1 and result.facts["splits"]["train"]["excluded"] == expected.excluded


def shown_epochs(run, capsys):
    """The lines that a run prints, as columns, and what the library logged."""
    train(run)
    printed = capsys.readouterr().out
    head, *lines = printed.splitlines()
    assert " ".join(head.split()) == "epoch training loss validation JSD gap closed time left"
    assert all(len(line) == len(head) for line in lines)
    *_, state = sorted(Path(run.training.output_dir).glob("checkpoint-*/trainer_state.json"))
    return [line.split() for line in lines], json.loads(state.read_text())["log_history"]


def test_a_run_shows_a_line_an_epoch(small_run, tmp_path, corpus, capsys):
    run = small_run("distribution", tmp_path / "run", save_total_limit=2)
    lines, logged = shown_epochs(run, capsys)
    losses, measured = [one for one in logged if "loss" in one], [one for one in logged if "eval_kl" in one]
    marginal, voted = (read_export(corpus).targets(split, ["emotion"]).probs for split in ("train", "validation"))
    baseline = rel_entr(voted, marginal.mean(0)).sum(1).mean()
    assert len(lines) == len(measured) == 2
    for number, (line, loss, found) in enumerate(zip(lines, losses, measured, strict=True), start=1):
        gap = 100 * (1 - found["eval_kl"] / baseline)
        expected = [str(number), f"{loss['loss']:.4f}", f"{found['eval_jsd']:.4f}", f"{gap:.1f}", "%"]
        assert line[:5] == expected and re.fullmatch(r"\d:\d\d:\d\d", line[5])
    assert lines[-1][5] == "0:00:00"


def test_a_run_without_validation_shows_its_loss(small_run, tmp_path, capsys):
    options = {"eval_strategy": "no", "load_best_model_at_end": False}
    lines, logged = shown_epochs(small_run("annotator", tmp_path / "run", **options), capsys)
    losses = [f"{one['loss']:.4f}" for one in logged if "loss" in one]
    assert [line[1:4] for line in lines] == [[loss, "–", "–"] for loss in losses] and len(lines) == 2


def test_a_run_that_cannot_start_leaves_no_folder(small_run, tmp_path):
    out = tmp_path / "runs" / "mine"
    with pytest.raises(ValueError, match="not_there"):
        train(small_run("distribution", out, corpus=str(tmp_path / "not_there")))
    assert not out.parent.exists()
    out.parent.mkdir()
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        train(small_run("distribution", out), resume=True)
    assert out.parent.is_dir() and not out.exists()


def test_raters_with_most_answers_come_first(checkpoints, corpus):
    model, _, _ = load_model(checkpoints["annotator"])
    exported = read_export(corpus)
    targets = exported.targets("train", ["activation", "valence"])
    answers = {name: 0 for name in model.config.annotators}
    for code in targets.ratings.annotator:
        answers[targets.annotators[code]] += 1
    assert list(answers.values()) == sorted(answers.values(), reverse=True)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_waveform_trunk_learns_unless_it_is_frozen(over_trunk, wavlm_folder, frozen):
    result = train(over_trunk(wavlm_folder, freeze_trunk=frozen, activation_checkpointing=True))
    plain, found = load_file(wavlm_folder / "model.safetensors"), weights(result.model)
    equal = [torch.equal(found[f"trunk.{name}"], value) for name, value in plain.items()]
    assert all(equal) == frozen and (frozen or sum(equal) < len(equal) / 4)
    assert isinstance(load_model(result.model)[0], DistributionModel)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_whisper_learns_and_forecasts_from_files_and_from_the_extractors_thirty_seconds(
    over_trunk, whisper_folder, corpus, frozen
):
    cache = {"inputs.cache": "frames"} if frozen else {"bf16": True}
    result = train(over_trunk(whisper_folder, freeze_trunk=frozen, **cache))
    model, extractor, _ = load_model(result.model)
    sources = read_export(corpus).items["audio"][:2].tolist()
    found = predict_inputs(model, extractor, sources).probs
    waves = [load_audio(source, sampling_rate=16000) for source in sources]
    batch = extractor(waves, sampling_rate=16000, return_tensors="pt")
    assert batch["input_features"].shape[-1] == 3000
    # the clips and their features were kept in half precision
    np.testing.assert_allclose(model(**batch).probs.detach(), found, atol=2e-3)


def test_what_does_not_fit_is_said(small_run, tmp_path):
    for overrides, message in (
        ({"corpus": ""}, "The recipe names no corpus"),
        ({"corpus": str(tmp_path)}, "is not an exported corpus"),
        ({"question": "emotio"}, "emotion"),
        ({"target.method": "kde"}, "Method 'kde' does not fit"),
        ({"target.method": "merged"}, "Questions with secondary_to='emotion': none"),
        ({"target.method": "majority", "target.ties": "other"}, "ties is 'other', which needs a label 'other'"),
        ({"loss": "emd"}, "loss is 'emd'"),
    ):
        with pytest.raises(ValueError, match=message):
            train(small_run("distribution", tmp_path / "run", **overrides))
    with pytest.raises(ValueError, match="gradient_accumulation_steps is 2"):
        train(small_run("annotator", tmp_path / "run", gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        train(small_run("distribution", tmp_path / "fresh"), resume=True)


def test_trunks_that_do_not_fit_are_said(over_trunk, tmp_path, bert_folder, wavlm_folder):
    with pytest.raises(ValueError, match="5 of 5 items of simulated have no text.*and trunk bert reads text"):
        train(over_trunk(bert_folder))
    with pytest.raises(ValueError, match="There is no checkpoint .*nowhere"):
        train(over_trunk(tmp_path / "nowhere"))
    bare = tmp_path / "bare"
    for file in ("config.json", "model.safetensors"):
        bare.mkdir(exist_ok=True)
        (bare / file).write_bytes((wavlm_folder / file).read_bytes())
    with pytest.raises(ValueError, match="bare holds no feature extractor"):
        train(over_trunk(bare))


def test_an_annotator_model_needs_named_raters(small_run, tmp_path, monkeypatch):
    stock = train_module.read_export

    def anonymous(folder):
        exported = stock(folder)
        votes = exported.votes.select(questions=["emotion"])
        table = votes.to_arrow().set_column(1, "annotator", [[None] * len(votes)])
        return replace(exported, votes=type(votes).from_arrow(table, votes.questions))

    monkeypatch.setattr(train_module, "read_export", anonymous)
    with pytest.raises(
        ValueError, match="No item of split 'train' has a vote of a named rater.*set model to distribution"
    ):
        train(small_run("annotator", tmp_path, question="emotion"))


PAPER = {  # the rows of arXiv 2606.27536 that a corpus without secondary votes has
    "hard": {"target.method": "majority", "loss": "cross_entropy"},
    "class-balanced": {"target.method": "majority", "loss": "cross_entropy", "class_weights.kind": "effective"},
    "kl": {"loss": "kl"},
    "weighted kl": {"loss": "kl", "class_weights.kind": "inverse"},
    "jsd": {"loss": "jsd"},
    "ccc": {"loss": "ccc"},
    "soft F1": {"loss": "soft_f1"},
    "filter": {"curriculum.kind": "filter"},
    "reverse weight": {"curriculum.kind": "weight", "curriculum.reverse": True},
    "corpus filter": {"curriculum.kind": "filter", "curriculum.reverse": True, "curriculum.by": "corpus"},
}


@pytest.mark.parametrize("options", PAPER.values(), ids=PAPER)
def test_every_system_trains_and_is_measured_against_the_votes(small_run, corpus, tmp_path, options):
    result = train(small_run("distribution", tmp_path, num_train_epochs=1, head="mlp", jsd_share=0, **options))
    model, _, facts = load_model(result.model)
    reference = read_export(corpus).targets("validation", "emotion")
    floor = -(reference.probs * np.log(reference.probs.clip(1e-12))).sum(1).mean()
    assert result.metrics["cross_entropy"] - result.metrics["kl"] == pytest.approx(floor, abs=1e-4)
    weights = model.config.class_weights
    assert (weights is None) == ("class_weights.kind" not in options)
    assert weights is None or (len(weights) == len(EMOTIONS) and len(set(weights)) > 1)


def test_scales_beside_the_distribution(small_run, corpus, tmp_path):
    overrides = {"scales": ["valence", "activation"], "scale_question_weights": [1.4, 1.0]}
    result = train(
        small_run("distribution", tmp_path, **{"schedule.patience": 1}, metric_for_best_model="ccc", **overrides)
    )
    model, _, _ = load_model(result.model)
    assert [question["name"] for question in model.config.scale_questions] == ["valence", "activation"]
    assert -1 <= result.metrics["ccc"] <= 1
    output = model(input_features=torch.randn(2, 60, 80))
    assert output.scale_mean.shape == output.scale_log_variance.shape == (2, 2)


def test_a_curriculum_needs_targets_that_differ_in_entropy(small_run, tmp_path):
    # one vote a clip
    alone = simulated_export(tmp_path, speakers=3, clips_per_speaker=2, annotators=2, ratings=(1, 1))
    alone = {"corpus": str(alone), "features": ""}
    with pytest.raises(ValueError, match="same entropy"):
        train(small_run("distribution", tmp_path / "out", **{"curriculum.kind": "filter"}, **alone))


def test_auxiliary_questions_teach_the_embedding(small_run, corpus, tmp_path):
    with pytest.raises(ValueError, match="no question 'mood'"):
        train(small_run("distribution", tmp_path / "a", auxiliary="mood"))
    with pytest.raises(ValueError, match="auxiliary is for distribution and seedbert models"):
        small_run("annotator", tmp_path, auxiliary="emotion")
    export_corpus(Further(corpus.parent / "simulated"), tmp_path / "export")
    beside = {"corpus": str(tmp_path / "export"), "auxiliary": "further"}
    result = train(small_run("distribution", tmp_path / "b", jsd_share=0.4, num_train_epochs=1, **beside))
    model, _, _ = load_model(result.model)
    assert model.config.jsd_share == 0.4
    assert [question["name"] for question in model.config.auxiliary_questions] == ["further"]
    output = model(input_features=torch.randn(2, 60, 80))
    torch.testing.assert_close(output.auxiliary_probs.sum(-1), torch.ones(2))


def test_auxiliary_fractions_are_those_of_the_votes():
    question = Question.category("emotion", ["a", "b"])
    votes = VoteTable.from_columns(question, item=["x", "x", "x", "y"], value=["a", "b", "b", "a"])
    _, found = opinion_columns(votes, ["emotion"], ["y", "z", "x"])
    np.testing.assert_allclose(found, [[1, 0], [np.nan, np.nan], [1 / 3, 2 / 3]])


def test_stages_give_the_trunk_a_rate_of_its_own(small_run, tmp_path):
    plain = small_run("distribution", tmp_path)
    assert plain.recipe.schedule.trunk_rate(1e-3) is None
    staged = small_run(
        "distribution",
        tmp_path,
        **{"schedule.unfreeze_epochs": [1], "schedule.unfreeze_layers": [2], "schedule.unfreeze_factors": [0.5]},
    )
    assert staged.recipe.schedule.trunk_rate(1e-3) == 1e-3


def test_another_recipe_or_corpus_is_not_gone_on_with(small_run, tmp_path):
    train(small_run("distribution", tmp_path, num_train_epochs=1))
    other = small_run(
        "distribution", tmp_path, num_train_epochs=1, loss="cross_entropy", **{"target.method": "majority"}
    )
    with pytest.raises(ValueError, match="another recipe or corpus: loss, target.method changed"):
        train(other, resume=True)
    train(small_run("distribution", tmp_path, num_train_epochs=1, logging_steps=3), resume=True)


@pytest.mark.parametrize(
    ("ratings", "levels"),
    [
        ([1, 2, 3, 4, 5], 5),
        ([1, 1, 5, 5], 2),
        ([1, 3, 5], 3),
        ([4, *[2, 3] * 20, 2.5], 5),
        ([1.13, 2.71, 4.9], 33),
        ([*[3] * 97, 2, 4], 5),
    ],
    ids=["all", "ends", "some", "a repeated vote", "any number", "nearly all in the middle"],
)
def test_the_answers_of_a_scale_are_counted(ratings, levels):
    question = Question.scale("valence", 1, 5)
    items = [f"item{number}" for number in range(len(ratings))]
    votes = VoteTable.from_columns(question, item=items, annotator=["ann"] * len(items), value=ratings)
    assert count_levels(make_targets(votes, "valence", "kde")) == [levels]


def test_the_share_of_the_marginal_is_that_of_the_least_cross_entropy():
    rng = np.random.default_rng(0)
    targets, marginal = rng.dirichlet([1, 1, 1], 50), np.array([0.5, 0.3, 0.2])
    sure = np.eye(3)[targets.argmax(1)].clip(1e-8) / (1 + 2e-8)

    def loss(share):
        return -(targets * np.log((1 - share) * sure + share * marginal)).sum(1).mean()

    shares = np.linspace(0.001, 0.5, 5000)
    assert best_share(sure, targets, marginal) == pytest.approx(shares[np.argmin([*map(loss, shares)])], abs=2e-3)
    assert best_share(targets, targets, marginal) == pytest.approx(0.001, abs=2e-4)  # nothing to mend


@pytest.mark.parametrize("model", ["distribution", "annotator"])
def test_a_trained_model_has_the_share_that_validation_chose(small_run, tmp_path, corpus, model):
    smooth, plain = (train(small_run(model, tmp_path / str(on), smooth=on)) for on in (True, False))
    before, after = (load_model(one.model)[0].config for one in (plain, smooth))
    assert before.marginal_share == 0 and before.marginal is None and "marginal_share" not in plain.facts
    assert after.marginal_share == smooth.facts["marginal_share"] >= 0.001
    assert after.marginal == smooth.facts["marginal"]
    # the least share is above 0, whatever validation says
    assert smooth.metrics["cross_entropy"] <= plain.metrics["cross_entropy"] + 1e-3
    one, other = (predict(run.model, corpus, split="validation")[0].probs for run in (plain, smooth))
    share = after.marginal_share
    np.testing.assert_allclose(other, (1 - share) * one + share * np.array(after.marginal), atol=1e-6)


def test_training_on_starts_without_the_share_that_other_weights_were_given(tmp_path):
    model = tiny.distribution(marginal=[0.5, 0.3, 0.2], marginal_share=0.3)
    state = SimpleNamespace(best_global_step=None)
    EpochOfSampler().on_train_begin(SimpleNamespace(output_dir=tmp_path), state, None, model=model)
    assert model.config.marginal_share == 0
