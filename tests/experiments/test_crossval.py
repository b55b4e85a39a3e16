import base64
import json

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from sayings import LEVELS, Sayings

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.questions import Question
from annot_hf.data.synthetic import half_of
from annot_hf.data.votes import VoteTable
from annot_hf.experiments import plans as runs_module
from annot_hf.experiments.crossval import crossval
from annot_hf.experiments.plans import read_plan, run_plan
from annot_hf.training import train as train_module
from annot_hf.training.inputs import read_together

WORDS = ("good", "bad", "so", "very")


class Chats(VoteCorpus):
    """Six conversations of four texts; ann, bob and cy rate every text and dee the first conversation, alone in "odd"."""

    name = "chats"
    questions = (Question.category("tone", ["good", "bad", "odd"]),)
    default_questions = ("tone",)

    def read_items(self):
        names = [f"t{number:02d}" for number in range(24)]
        table = pd.DataFrame({"item": names, "split": "train"})
        table["text"] = [" ".join(WORDS[(number + step) % 4] for step in range(1 + number % 3)) for number in range(24)]
        table["conversation"] = [f"c{number // 4}" for number in range(24)]
        table["half"] = [None if number == 3 else number % 4 for number in range(24)]
        table.loc[20:, "split"] = "test"
        return table

    def read_votes(self):
        rows = [
            (f"t{number:02d}", rater, "bad" if (number + shift) % 3 else "good")
            for number in range(23)  # the last text has no vote
            for shift, rater in enumerate(("ann", "bob", "cy"))
        ]
        rows += [(f"t{number:02d}", "dee", "odd") for number in range(4)]
        item, annotator, value = zip(*rows, strict=True)
        return VoteTable.from_columns(self.questions, item=item, annotator=annotator, value=value)


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    home = tmp_path_factory.mktemp("chats")
    export_corpus(Chats(home), home / "export")
    return home / "export"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, bert_folder):
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    values = {
        "trunk": str(bert_folder),
        "pooling": "mean",
        "embedding_size": 6,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def plan(tmp_path, recipe):
    systems = {"soft": {}, "raters": {"model": "annotator", "schedule.tasks": "joint"}}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"recipe": str(recipe), "systems": systems}, sort_keys=False))
    return path


@pytest.fixture
def trained(monkeypatch):
    """Every training as (folder, corpus, seed, whether it went on from a checkpoint), in order."""
    seen, true = [], runs_module.train

    def train(run, *, resume, corpus):
        seen.append((run.training.output_dir, corpus, run.training.seed, resume))
        return true(run, resume=resume, corpus=corpus)

    monkeypatch.setattr(runs_module, "train", train)
    return seen


SMALL = {"folds": 2, "repeats": 1, "n_resamples": 20}


def test_all_systems_learn_the_same_folds_which_cut_no_conversation(plan, chats, tmp_path, trained, capsys):
    found, page = crossval(plan, chats, tmp_path / "out", **SMALL)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Run ")]
    assert shown[2:] == [
        "Run 3 of 4: system soft, repeat 0, fold 1, seed 1",
        "Run 4 of 4: system raters, repeat 0, fold 1, seed 1",
    ]
    assert len(trained) == 4 and len({seed for *_, seed, _ in trained}) == 2
    tested = []
    for number in range(2):
        one, other = (
            [place for place in trained if place[0].endswith(f"{name}/repeat0/fold{number}")]
            for name in ("soft", "raters")
        )
        assert one[0][1].items.equals(other[0][1].items) and one[0][2] == other[0][2]
        parts = one[0][1].items.groupby("split")["conversation"].agg(set)
        assert not parts["train"] & parts["test"] and not (parts["train"] | parts["test"]) & parts["validation"]
        tested += list(one[0][1].items.query("split == 'test'")["item"])
    assert sorted(tested) == [f"t{number:02d}" for number in range(23)]  # of all released splits, but with votes
    assert found.counts["n_evaluated"] == 23 and found.counts["unit"] == "conversation" and found.counts["groups"] == 6
    text = page.read_text()
    for said in (
        "1 items without votes are left out",
        "Items of all released splits of chats take part",
        "Label odd has no vote in",
        "raters: 4 of 73 predicted rater answers are those of the consensus, because",
        "## The best and the worst conversations",
        "| ceiling |",
        'model: "annotator"',
        "![Measures of every system, with 95 % intervals.](crossval.png)",
    ):
        assert said in text
    saved = json.loads((tmp_path / "out" / "crossval.json").read_text())
    assert saved["group"] == "conversation" and len(saved["evaluation"]["counts"]["folds"]) == 2
    assert saved["evaluation"]["measures"]["items"]["entropy_correlation"] == found["entropy_correlation"]
    picture = base64.b64encode((tmp_path / "out" / "crossval.png").read_bytes()).decode()
    html = page.with_suffix(".html").read_text()
    assert f"data:image/png;base64,{picture}" in html and "Label odd has no vote in" in html
    assert '<table class="sortable">' in html
    assert not list((tmp_path / "out").rglob("*.safetensors"))  # models of all folds would not fit
    facts = json.loads((tmp_path / "out" / "soft" / "repeat0" / "fold1" / "training.json").read_text())
    assert facts["part"]["fold"] == 1 and facts["part"]["folds"] == 2
    train_part = trained[2][1].targets("train").probs.mean(0)
    assert facts["marginal"] == pytest.approx(train_part.tolist())


def test_an_interrupted_one_goes_on_and_another_division_is_refused(recipe, chats, tmp_path, trained, monkeypatch):
    true, calls = runs_module.predict, []

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # within the first training
        patch.setattr(train_module, "save_model", killed)
        crossval(recipe, chats, tmp_path / "out", **SMALL)
    with pytest.raises(ValueError, match="was started with another recipe or corpus: division, folds changed"):
        crossval(recipe, chats, tmp_path / "out", **SMALL | {"folds": 3})
    assert [resume for *_, resume in trained] == [False, True]
    trained.clear()

    def predict(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return true(*arguments, **options)

    monkeypatch.setattr(runs_module, "predict", predict)
    with pytest.raises(KeyboardInterrupt):
        crossval(recipe, chats, tmp_path / "out", **SMALL)
    found, _ = crossval(recipe, chats, tmp_path / "out", **SMALL)
    assert [(folder[-5:], resume) for folder, *_, resume in trained] == [("fold0", True), ("fold1", False)]
    assert list(found.counts["runs"]) == ["tiny"]
    again, _ = crossval(recipe, chats, tmp_path / "out", **SMALL)
    assert again == found and len(trained) == 2
    for options, changed in (
        ({"folds": 3}, "division, folds changed"),
        ({"group": "item"}, "division, group changed"),
        ({"validation": 0.6}, "division changed"),
        ({"splits": ["train"]}, "division changed"),
        ({"seed": 1}, "seed, division changed"),
    ):
        with pytest.raises(ValueError, match=f"another plan or corpus \\({changed}\\)"):
            crossval(recipe, chats, tmp_path / "out", **SMALL | options)
    assert len(trained) == 2


def test_part_of_the_folds_on_part_of_the_items(recipe, chats, tmp_path, trained):
    """A cheaper first look, which can be extended to the whole."""
    found, page = crossval(recipe, chats, tmp_path, repeats=1, folds=3, test_folds=1, items=14, n_resamples=20)
    assert len(trained) == 1
    facts = json.loads((tmp_path / "crossval.json").read_text())
    assert (facts["items"], facts["test_folds"]) == (14, 1)
    counts = found.counts
    assert counts["n_evaluated"] + counts["items not tested"] in (
        15,
        16,
    )  # whole conversations of four, one without a vote
    assert "items take part, as whole conversations drawn at random" in page.read_text()
    found, _ = crossval(recipe, chats, tmp_path, repeats=1, folds=3, items=14, n_resamples=20)
    assert len(trained) == 3  # the first one is kept
    assert found.counts["items not tested"] == 0


def test_folds_of_a_file(recipe, chats, tmp_path, trained):
    path = tmp_path / "folds.csv"
    rows = [f"t{number:02d},f{number // 4 % 3}\n" for number in range(20)]
    path.write_text("".join(["item,fold\n", *rows, "elsewhere,f0\nnowhere,f1\n"]))
    found, page = crossval(recipe, chats, tmp_path / "out", folds=path, repeats=1, n_resamples=20)
    assert len(trained) == 3 and found.counts["n_evaluated"] == 20
    tested = [set(corpus.items.query("split == 'test'")["conversation"]) for _, corpus, *_ in trained]
    assert tested == [{"c0", "c3"}, {"c1", "c4"}, {"c2"}]
    facts = json.loads((tmp_path / "out" / "crossval.json").read_text())
    assert facts["folds"] == str(path)
    unnamed, foreign = "items with votes in no fold of the file", "items of the file that the corpus does not have"
    for counted in (found.counts["excluded"], facts["excluded"], facts["evaluation"]["counts"]["excluded"]):
        assert counted == {"items without votes": 1, unnamed: 3, foreign: 2}
    # Of 24 items and of 22 in the file, none is unaccounted for.
    assert len(read_export(chats).items) == 20 + 1 + 3 and len(rows) + 2 == 20 + 2
    assert f"3 {unnamed} are left out." in page.read_text() and f"2 {foreign} are left out." in page.read_text()


@pytest.mark.parametrize("options", [{"test_folds": 0}, {"test_folds": 4}, {"test_folds": 2, "repeats": 2}])
def test_folds_that_cannot_be_left_out(recipe, chats, tmp_path, trained, options):
    with pytest.raises(ValueError, match="test_folds is"):
        crossval(recipe, chats, tmp_path, **{"repeats": 1, "folds": 3} | options)
    assert not trained


def test_new_listeners_judge_a_cross_validation(recipe, chats, tmp_path, trained):
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump({"recipe": str(recipe), "systems": {"a": {}}, "new_listeners": True})
    )
    found, page = crossval(tmp_path / "plan.yaml", chats, tmp_path / "out", **SMALL)
    exported = read_export(chats)
    assert found.counts["votes"] == len(half_of(exported.votes, "second")) < len(exported.votes)
    facts = json.loads((tmp_path / "out" / "a" / "repeat0" / "fold0" / "training.json").read_text())
    assert facts["votes_half"]["half"] == "first" and "New listeners: every system" in page.read_text()


def test_more_repeats_keep_those_that_are_there(recipe, chats, tmp_path, trained):
    """Also: one released split alone, and models that are kept."""
    options = {"folds": 2, "splits": ["train"], "n_resamples": 20, "keep_models": True}
    first, _ = crossval(recipe, chats, tmp_path / "out", repeats=1, **options)
    card = tmp_path / "out" / "tiny" / "repeat0" / "fold1" / "model" / "README.md"
    assert first.counts["n_evaluated"] == 20 and "The model saw a part of it: repeat 0, fold 1," in card.read_text()
    second, page = crossval(recipe, chats, tmp_path / "out", repeats=2, **options)
    assert len(trained) == 4 and [seed for *_, seed, _ in trained] == [0, 1, 2, 3]
    assert second.at("jsd", "tiny")["runs"][0] == first.at("jsd", "tiny")["value"]
    assert second.at("jsd", "tiny")["deviation"] > 0
    assert "Items of the released splits train of chats take part" in page.read_text()
    halves = [set(corpus.items.query("split == 'test'")["item"]) for _, corpus, *_ in trained]
    assert halves[0] | halves[1] == halves[2] | halves[3] and halves[0] not in halves[2:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 7}, "There are 6 conversations for 7 folds"),
        ({"folds": 1}, "folds is 1; give a whole number from 2"),
        ({"repeats": 0}, "repeats is 0"),
        ({"seed": -1}, "seed is -1; give a whole number from 0 up"),
        ({"group": "conversatoin"}, r"no column 'conversatoin' \(did you mean 'conversation'"),
        ({"group": "half"}, "1 of 23 items have no half, for instance 't03'"),
        ({"splits": ["tets"]}, r"no split 'tets' \(did you mean 'test'\?\)"),
        ({"overrides": ["seed=1"]}, "The override seed is set"),
        ({"overrides": ["learning_rat=1"]}, "unknown key 'learning_rat'"),
        ({"overrides": ["trunk=log-mel", "pooling=tcgru"]}, "23 of 23 items of chats have no audio"),
        ({"overrides": ["question=tune"]}, "tune"),
    ],
)
def test_what_cannot_be_is_said_before_the_first_training(recipe, chats, tmp_path, trained, options, message):
    with pytest.raises(ValueError, match=message):
        crossval(recipe, chats, tmp_path / "out", **SMALL | options)
    assert not trained


def test_a_corpus_without_text_and_systems_that_do_not_go_together(recipe, corpus, tmp_path, trained):
    with pytest.raises(ValueError, match="15 of 15 items of simulated have no text"):
        crossval(recipe, corpus, tmp_path / "out", ["question=emotion"], **SMALL | {"folds": 3})
    path = tmp_path / "plan.yaml"
    systems = {"one": {"question": "emotion"}, "other": {"question": "valence"}}
    path.write_text(yaml.safe_dump({"recipe": "speech-distribution", "systems": systems}, sort_keys=False))
    with pytest.raises(ValueError, match="System 'other' learns valence in 4 bins and 'one' emotion"):
        crossval(path, corpus, tmp_path / "out", **SMALL)
    with pytest.raises(ValueError, match="There is no recipe 'speech-distributio' .did you mean 'speech-distribution'"):
        crossval("speech-distributio", corpus, tmp_path / "out", **SMALL)
    path.with_name("marginal.yaml").write_text(recipe.read_text())
    with pytest.raises(ValueError, match="called 'marginal', a reserved name"):
        crossval(path.with_name("marginal.yaml"), corpus, tmp_path / "out", **SMALL)
    assert not trained


def test_a_plan_without_seeds_is_for_cross_validation_only(plan, chats, tmp_path):
    with pytest.raises(ValueError, match="names no seeds"):
        run_plan(read_plan(plan), chats, tmp_path / "out")


def test_a_view_shares_what_is_computed_and_leaves_the_corpus_alone(chats):
    whole = read_export(chats)
    names = whole.items["item"].to_numpy()
    view = whole.with_splits({name: "test" if row % 2 else "train" for row, name in enumerate(names[:10])}, {"fold": 0})
    assert whole.items["split"].tolist() == ["train"] * 20 + ["test"] * 4 and not whole.part
    assert view.targets("test").items.tolist() == names[1:10:2].tolist() and view.digest == whole.digest
    held, rows = read_together(view, names[[7, 3]])
    assert held.tolist() == names[:10].tolist() and rows.tolist() == [7, 3]
    held, rows = read_together(whole, names[[7, 3]])
    assert held.tolist() == names[[7, 3]].tolist() and np.array_equal(rows, [0, 1])
    with pytest.raises(ValueError, match="no item 'none'"):
        whole.with_splits({"none": "train"}, {"fold": 0})
    with pytest.raises(ValueError, match="needs a part that describes it"):
        whole.with_splits({names[0]: "train"}, {})


def test_features_are_computed_once_for_all_folds(corpus, tmp_path):
    values = {**tiny.SMALL, "question": "emotion", "num_train_epochs": 1}
    words = [f"{name}={json.dumps(value)}" for name, value in values.items()]
    found, _ = crossval("speech-distribution", corpus, tmp_path / "out", words, **SMALL | {"folds": 3})
    assert found.counts["unit"] == "speaker" and found.counts["n_evaluated"] == 15
    assert len(list((tmp_path / "out" / "features").rglob("*.safetensors"))) == 1


def test_heads_of_raters_need_names_before_anything_is_trained(bert_folder, tmp_path):
    class Anonymous(Sayings):
        def read_votes(self):
            named = super().read_votes().select(questions=["severity"])
            counts = named.counts("severity", named.items)
            return VoteTable.from_counts(LEVELS, named.items, counts)

    (tmp_path / "root").mkdir()
    export_corpus(Anonymous(tmp_path / "root"), tmp_path / "export")
    plan = tmp_path / "plan.yaml"
    plan.write_text("recipe: text-bert\nsystems: {BERT: {}, Davani: {recipe: text-davani}}")
    words = [f"trunk={bert_folder}", "max_steps=1"]
    with pytest.raises(ValueError, match="System 'Davani' has a head for every rater.*severity name none.*--without"):
        crossval(plan, tmp_path / "export", tmp_path / "out", words, **SMALL)
    assert not list((tmp_path / "out").glob("*/*/*/model"))


def test_folds_of_a_file_are_not_stratified_and_must_be_there(recipe, chats, tmp_path, trained):
    path = tmp_path / "folds.csv"
    path.write_text('"item","fold","part"\nt00,a,train\n')
    with pytest.raises(ValueError, match="There is no file .*no.csv; give a CSV file with columns item and fold"):
        crossval(recipe, chats, tmp_path / "out", folds=tmp_path / "no.csv")
    with pytest.raises(ValueError, match="names fewer than two folds"):
        crossval(recipe, chats, tmp_path / "out", folds=path)
    path.write_text("item,fold\nt00,a\nt04,b\n")
    with pytest.raises(ValueError, match="stratify is for folds that are drawn"):
        crossval(recipe, chats, tmp_path / "out", folds=path, stratify=True)
    assert not trained
