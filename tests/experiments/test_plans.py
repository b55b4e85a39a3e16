import itertools
import json
import shutil

import pytest
import tiny
import yaml

from annot_hf.data.conditions import Condition
from annot_hf.data.export import read_export
from annot_hf.data.synthetic import half_of
from annot_hf.experiments import plans as runs_module
from annot_hf.experiments.plans import planned_runs, read_plan, run_plan
from annot_hf.training import inference

WORDS = [f"{name}={json.dumps(value)}" for name, value in {**tiny.SMALL, "num_train_epochs": 1}.items()]
PLAN = {
    "recipe": "speech-distribution",
    "seeds": [0, 1],
    "systems": {"soft": {"question": "emotion"}, "hard, CE": {"question": "emotion", "target": {"method": "majority"}}},
}


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return read_plan(path)


def test_a_plan_runs_and_goes_on_where_it_was(plan, corpus, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(inference, "ROBUSTNESS", ("noise:20",))
    monkeypatch.setattr(Condition, "apply", lambda self, wave, *_, item: wave / 64)
    found, page = run_plan(plan, corpus, tmp_path / "out", WORDS, n_resamples=20)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Run ")]
    assert shown == [
        f"Run {number} of 4: system {name}, seed {seed}"
        for number, (name, seed) in enumerate(itertools.product(plan.systems, (0, 1)), start=1)
    ]
    assert found.counts["runs"] == {"soft": 2, "hard, CE": 2}
    seeds = found.at("jsd", "soft")["runs"]
    assert seeds[0] != seeds[1]
    text = page.read_text()
    assert "| hard, CE |" in text and 'target.method: "majority"' in text
    assert (
        json.loads((tmp_path / "out" / "results.json").read_text())["evaluation"]["measures"]["items"]["jsd"]
        == found["jsd"]
    )
    robust = json.loads((tmp_path / "out" / "results.json").read_text())["robustness"]
    moved = {name: one["measures"]["items"]["moved"]["systems"]["noise:20"]["value"] for name, one in robust.items()}
    assert set(moved) == {"soft", "hard, CE"} and min(moved.values()) > 0
    part = text.split("## How robust the systems are")[1]
    assert "| System | noise:20 |" in part and f"| soft | {moved['soft']:.3f} JSD − clean:" in part
    html = page.with_suffix(".html").read_text()
    assert "target.method: &#34;majority&#34;</td>" in html and "How robust the systems are" in html
    # of the first run of a system alone
    assert len(list((tmp_path / "out").glob("*/*/predictions-test/robustness"))) == 2
    monkeypatch.setattr(runs_module, "train", lambda *_, **__: pytest.fail("a finished run was trained again"))
    again, _ = run_plan(plan, corpus, tmp_path / "out", WORDS, n_resamples=20)
    assert again == found and "The table of robustness lacks" not in page.read_text() + caplog.text
    shutil.rmtree(tmp_path / "out" / "soft" / "seed0" / "predictions-test" / "robustness")
    run_plan(plan, corpus, tmp_path / "out", WORDS, n_resamples=20)
    said = "The table of robustness lacks soft: there are no predictions of altered clips"
    assert said in page.read_text() and said in caplog.text
    with pytest.raises(ValueError, match="run of another plan"):
        run_plan(plan, corpus, tmp_path / "out", [*WORDS, "learning_rate=1e-4"])
    other, _ = run_plan(plan, corpus, tmp_path / "out", WORDS, split="validation", n_resamples=20)
    assert other.at("jsd", "soft")["value"] != found.at("jsd", "soft")["value"]


def test_new_listeners_judge_all_systems_alike(corpus, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN | {"seeds": [0], "new_listeners": True}))
    plan, exported = read_plan(path), read_export(corpus)
    found, page = run_plan(plan, corpus, tmp_path / "out", WORDS, n_resamples=20)
    second = half_of(exported.votes, "second").select(questions=["emotion"])
    tested = exported.items.loc[exported.items["split"] == "test", "item"]
    assert found.counts["votes"] == len(second.select(items=tested))
    for system in ("soft", "hard--CE"):
        facts = json.loads((tmp_path / "out" / system / "seed0" / "training.json").read_text())
        assert facts["recipe"]["votes.half"] == facts["votes_half"]["half"] == "first"
    assert "New listeners: every system was trained on one random half" in page.read_text()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["new_listeners"] is True
    with pytest.raises(ValueError, match="votes.half is set for every run by the plan itself"):
        run_plan(plan, corpus, tmp_path / "out", ["votes.half=second"])
    path.write_text(yaml.safe_dump(PLAN | {"new_listeners": "yes please"}))
    with pytest.raises(ValueError, match="new_listeners is 'yes please'; it is true or false"):
        read_plan(path)
    path.write_text(yaml.safe_dump(PLAN | {"new_listeners": True, "systems": {"a": {"votes.half": "first"}}}))
    with pytest.raises(ValueError, match="system 'a' sets votes.half, which the plan itself sets"):
        read_plan(path)


def test_the_plan_of_new_listeners_can_be_run(repository, tmp_path):
    plan = read_plan(repository / "benchmarks" / "plans" / "new_listeners.yaml")
    planned = planned_runs(plan, tmp_path / "corpus", tmp_path, [], {"seed0": 0})
    assert plan.new_listeners and len(planned) == 11
    for name, (run,) in planned.items():
        assert run.recipe.votes.half == "first" and run.recipe.question == ["voice"], name
        assert (run.recipe.target.method == "majority") == name.startswith("hard")


@pytest.mark.parametrize(
    "word, message",
    [
        ("target.method=soft", "would undo a change of system 'hard, CE'"),
        ("target={method: soft}", "would undo a change of system 'hard, CE'"),
        ("seed=3", "set for every run by the plan"),
        ("output_dir=x", "set for every run by the plan"),
        ("learning_rat=1", "unknown key 'learning_rat'"),
    ],
)
def test_overrides_that_do_not_go_with_a_plan(plan, corpus, tmp_path, monkeypatch, word, message):
    monkeypatch.setattr(runs_module, "train", lambda *_, **__: pytest.fail("trained before the plan was checked"))
    with pytest.raises(ValueError, match=message):
        run_plan(plan, corpus, tmp_path / "out", [word])


@pytest.mark.parametrize(
    "text, message",
    [
        ("seeds: [0]", "is not a plan; give recipe, seeds and systems"),
        ("recipe: a\nseeds: [0, 0]\nsystems: {a: {}}", "list of different whole numbers"),
        ("recipe: a\nseeds: 3\nsystems: {a: {}}", "list of different whole numbers"),
        ("recipe: a\nseeds: [0]\nsystems: [a]", "give each system's name"),
        ("recipe: a\nseeds: [0]\nsystems: {a: {}}\nmore: 1", "is not a plan"),
        ("recipe: [", "is not YAML"),
        (
            "recipe: x\nsystems:\n  a: {seed: 1}\n  b:\n  a: {dropout: 0.1}",
            "the key 'a' is given in line 3 and again in line 5",
        ),
        ("recipe: a\nseeds: [0]\nsystems: {marginal: {}}", "none may be features, marginal, members"),
        ("recipe: a\nseeds: [0]\nsystems: {members: {}}", "none may be features, marginal, members"),
        ("recipe: a\nseeds: [0]\nsystems: {b: {recipe: [a]}}", r"system 'b' has recipe \['a'\]; give a recipe's name"),
        ("recipe:\nseeds: [0]\nsystems: {b: {}}", "system 'b' has recipe None"),
        ("recipe: a\nseeds: [0]\nsystems: {'a, b': {}, 'a; b': {}}", "must differ in letters and digits"),
        ("recipe: a\nseeds: [0]\nsystems: {1: {}, '1': {}}", "must differ in letters and digits"),
        ("recipe: a\nseeds: [0]\nsystems: {a: {seed: 1}}", "which the plan itself sets"),
    ],
)
def test_bad_plans(tmp_path, text, message):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_plan(path)
    with pytest.raises(ValueError, match="There is no plan"):
        read_plan(tmp_path / "none.yaml")


def test_systems_may_be_left_out(plan):
    assert list(plan.without(["soft"]).systems) == ["hard, CE"]
    with pytest.raises(ValueError, match="no system 'sof'.*did you mean 'soft'"):
        plan.without(["sof"])
    with pytest.raises(ValueError, match="Every system of the plan is left out"):
        plan.without(["soft", "hard, CE"])


def test_a_recipe_beside_the_plan_is_found_from_anywhere(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: speech-distribution\n")
    path = tmp_path / "plan.yaml"
    path.write_text("recipe: speech-distribution\nsystems: {a: {recipe: mine.yaml}, b: {recipe: text-bert}}")
    systems = read_plan(path).systems
    assert systems["a"]["recipe"] == str(tmp_path / "mine.yaml") and systems["b"]["recipe"] == "text-bert"
