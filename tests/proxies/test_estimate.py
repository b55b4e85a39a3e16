import re

import pytest

from annot_hf.cli import app as cli
from annot_hf.proxies.annotate import estimate_run
from annot_hf.proxies.backend import Prices
from benchmarks.chat_server import Reply


def test_before_anything_is_asked_it_is_a_rule_of_thumb(job, corpus, tmp_path):
    made = job(annotators=5)
    found = estimate_run(made, tmp_path / "out", model="listener", concurrency=4, prices=Prices(2.0, 10.0))
    assert (found.questions, found.done, found.measured) == (8 * 5, 0, False)
    seconds = corpus.items["seconds"][corpus.items["split"] != "test"].sum()
    assert found.audio_hours == pytest.approx(seconds * 5 / 3600)
    prompt = made.prompt(int(made.rows[0]), 0)
    text = (len(prompt.system) + len(prompt.user)) / 4
    assert found.input_tokens == pytest.approx(seconds * 5 * 32 + 40 * text)
    assert found.cost == pytest.approx((2 * found.input_tokens + 10 * found.output_tokens) / 1e6)
    assert found.seconds == 40 * 2.0 / 4
    assert not (tmp_path / "out").exists()


def test_a_rate_may_be_what_limits(job, tmp_path):
    assert estimate_run(job(annotators=5), tmp_path, model="m", concurrency=100, rate=0.5).seconds == 80


def test_answers_that_are_there_tell_what_others_take(ask, job, tmp_path):
    ask(lambda *_: Reply("anger", usage={"prompt_tokens": 70, "completion_tokens": 3, "cost": 0.02}), job(items=2))
    found = estimate_run(job(), tmp_path / "out", model="listener", prices=Prices(1e6, 1e6))
    assert (found.questions, found.done, found.measured) == (18, 6, True)
    assert (found.input_tokens, found.output_tokens) == (18 * 70, 18 * 3)
    assert found.cost == pytest.approx(18 * 0.02)  # what the server charged, not the prices
    assert "0.36 USD" in str(found.rows())


def test_nothing_is_left_to_ask(ask, job, tmp_path):
    ask(lambda *_: "anger")
    found = estimate_run(job(), tmp_path / "out", model="listener")
    assert (found.questions, found.seconds, found.audio_hours) == (0, 0, 0)


@pytest.mark.parametrize("prices", [(1.0, None), (None, 1.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_prices_that_cannot_be(prices):
    with pytest.raises(ValueError, match="give both"):
        Prices(*prices)


def test_it_refuses_what_the_run_would_refuse(ask, job, tmp_path):
    ask(lambda *_: "anger")
    with pytest.raises(ValueError, match="holds a run of another model"):
        estimate_run(job(), tmp_path / "out", model="other")
    for options in ({"concurrency": 0}, {"rate": -5.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            estimate_run(job(), tmp_path / "out", model="listener", **options)
    assert "one instruction for all" in str(estimate_run(job(), tmp_path / "out", model="listener").rows())


@pytest.mark.parametrize("text", ['{"tool": "other"}', "{}"])
def test_a_folder_that_cannot_be_written_is_told_before_the_first_question(ask, job, tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "annotations.json").write_text(text)
    asked = []
    for go in (
        lambda: estimate_run(job(), tmp_path / "out", model="listener"),
        lambda: ask(lambda *_: asked.append(1) or "anger"),
    ):
        with pytest.raises(ValueError, match="is not of kind .*; move that file away or give a new folder"):
            go()
    assert not asked and [path.name for path in (tmp_path / "out").iterdir()] == ["annotations.json"]
    (tmp_path / "out" / "annotations.json").unlink()
    assert ask(lambda *_: "anger")[0].counts["label"] == 24


def test_the_export_is_no_folder_for_its_annotations(ask, job, corpus):
    before = sorted(corpus.folder.iterdir())
    with pytest.raises(ValueError, match="holds an exported corpus"):
        ask(lambda *_: "anger", out=corpus.folder)
    with pytest.raises(ValueError, match="holds an exported corpus"):
        estimate_run(job(), corpus.folder, model="listener")
    assert sorted(corpus.folder.iterdir()) == before


def test_a_model_here_answers_one_batch_at_a_time_whatever_the_concurrency(job, tmp_path, corpus, capsys):
    found = estimate_run(job(annotators=5), tmp_path / "out", model="m", backend="local", concurrency=16)
    assert found.seconds == 40 * 2.0
    words = [corpus.folder, "--out", tmp_path / "out", "--model", "m", "--question", "emotion", "--annotators", 5]
    for more, time in (([], "0 min 5 s"), (["--backend", "local"], "1 min 20 s")):
        with pytest.raises(SystemExit, match="0"):
            cli.main(["annotate", *map(str, words), *more, "--dry-run"])
        assert time in capsys.readouterr().out


def test_what_was_rejected_is_asked_again_only_where_it_is_asked_for(ask, job, corpus, tmp_path, capsys):
    ask(lambda *_: Reply("bad", status=400), job(items=4))
    counts = []
    for again in (False, True):
        found = estimate_run(job(items=4), tmp_path / "out", model="listener", retry_rejected=again)
        counts.append((found.questions, found.done))
    assert counts == [(0, 12), (12, 0)]
    words = [corpus.folder, "--out", tmp_path / "out", "--model", "listener", "--question", "emotion", "--items", 4]
    with pytest.raises(SystemExit, match="0"):
        cli.main(["annotate", *map(str, words), "--annotators", "3", "--retry-rejected", "--dry-run"])
    assert re.search(r"questions to ask\W+12 ", capsys.readouterr().out)


def test_a_look_at_a_folder_changes_nothing_in_it(ask, job, exported, tmp_path):
    ask(lambda *_: "anger")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    estimate_run(job(), tmp_path / "out", model="listener")
    assert len(exported()) == 24
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
