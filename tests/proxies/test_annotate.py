import collections
import contextlib
import errno
import itertools
import json
import re
import shutil
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from annot_hf.cli import app as cli
from annot_hf.data.synthetic import read_annotations
from annot_hf.proxies import job as questions
from annot_hf.proxies.annotate import annotate
from annot_hf.proxies.backend import Answer, Prices
from annot_hf.proxies.servers import OpenAIServer
from annot_hf.proxies.store import IDENTITY, Store, read_store
from benchmarks.chat_server import Reply, serve

PAID = {"prompt_tokens": 100, "completion_tokens": 2, "cost": 1.0}


def first(question, number):
    return question.text.split("\n- ")[1].split("\n")[0]


@pytest.fixture
def broken(tmp_path):
    """Makes a job of which some clips, by their place in it, cannot be read."""
    (tmp_path / "bad.wav").write_bytes(b"RIFF")

    def make(job, *places):
        items = job.corpus.items.copy()
        items["audio"] = items["audio"].astype(object)
        for place in places:
            items.loc[items.index[job.rows[place]], "audio"] = str(tmp_path / "bad.wav")
        return replace(job, corpus=replace(job.corpus, items=items))

    return make


def total(report):
    return sum(report.counts.values())


def test_every_question_gets_a_vote_with_its_provenance(ask, job, corpus, tmp_path):
    labels = corpus.votes.question("emotion").labels
    report, server = ask(lambda question, number: labels[number % len(labels)])
    assert report.complete
    assert report.counts["label"] == total(report) == 8 * 3 == len(server.questions)
    found = read_annotations(tmp_path / "out")
    assert len(found.votes) == 24
    assert list(found.votes.sources) == ["synthetic"]
    assert set(found.votes.annotators) == {"listener#0", "listener#1", "listener#2"}
    assert set(found.votes.items) == set(corpus.items["item"][corpus.items["split"] != "test"])
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert len(replies) == 24
    assert not replies.drop(columns=["reason", "cost"]).isna().any().any()
    assert set(replies["instruction"]) == {
        "audio-only"
    }  # what was said, not what the plan had for items with a transcript
    assert "8 of 8 items have no transcript" in " ".join(report.notes)
    by_key = {question.headers["idempotency-key"]: question for question in server.questions}
    assert len(by_key) == 24
    asked = {(question.body["seed"], question.body["temperature"]) for question in server.questions}
    assert asked == set(zip(replies["seed"], replies["temperature"], strict=True))
    assert all(question.audio.startswith(b"RIFF") for question in server.questions)
    facts = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert facts["statuses"]["label"] == 24
    assert facts["model"] == "listener"


def test_agreement_with_people_is_that_of_the_votes(ask, job, corpus, tmp_path):
    report, _ = ask(first)
    label = corpus.votes.question("emotion").labels[0]
    items = corpus.items["item"][corpus.items["split"] != "test"]
    counts = corpus.votes.counts("emotion", items=items)
    expected = (counts[:, 0] / counts.sum(1)).mean()
    assert report.agreement == pytest.approx(expected)
    assert label == "anger" or expected >= 0
    pairs = [
        np.mean([a == b for i, a in enumerate(votes) for j, b in enumerate(votes) if i != j])
        for votes in (np.repeat(np.arange(counts.shape[1]), row) for row in counts)
    ]
    assert report.human_agreement == pytest.approx(np.mean(pairs))


def test_going_on_asks_nothing_twice_and_more_annotators_and_items_come_on_top(ask, job, tmp_path):
    report, server = ask(first, job(items=3, annotators=2))
    assert len(server.questions) == 6
    report, again = ask(first, job(items=3, annotators=2))
    assert report.asked == len(again.questions) == 0
    assert report.complete
    report, more = ask(first, job(items=5, annotators=3))
    assert report.asked == len(more.questions) == 15 - 6
    assert not set(more.keys) & set(server.keys)
    report, fewer = ask(first, job(items=2, annotators=1))
    assert (fewer.questions, total(report)) == ([], 2)
    assert len(read_annotations(tmp_path / "out").votes) == 15  # what was paid for stays


def test_every_kind_of_reply_is_counted_and_kept(ask, tmp_path):
    said = [
        "anger",
        "I cannot say",
        "boredom",
        Reply(choices=[]),
        Reply("Labels, whatever. Answer with exactly one of these labels, spelled as it is here, and nothing else."),
    ]
    report, server = ask(lambda question, number: said[(number - 1) % 5], concurrency=1)
    assert {name: count for name, count in report.counts.items() if count} == {
        "label": 5,
        "refusal": 5,
        "off-list": 5,
        "empty": 5,
        "echo": 4,
    }
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert replies["status"].value_counts().to_dict() == {
        "label": 5,
        "refusal": 5,
        "off-list": 5,
        "empty": 5,
        "echo": 4,
    }
    assert set(replies["reply"].dropna()) == {reply.text if isinstance(reply, Reply) else reply for reply in said} - {
        None
    }
    report, again = ask(lambda question, number: "joy")
    assert not again.questions  # a reply that is no vote is an answer all the same


@pytest.mark.parametrize(
    ("answer", "status", "then_asked"),
    [("I cannot say", "refusal", 0), (Reply(status=500), "failed", 24), (Reply("anger", model="b"), "wrong-model", 24)],
)
def test_replies_are_written_without_any_vote_and_the_next_run_goes_on(ask, tmp_path, answer, status, then_asked):
    report, server = ask(lambda *_: answer, attempts=1, concurrency=1)
    assert report.counts["label"] == 0
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert replies["status"].tolist() == [status] * report.counts[status]
    assert len(replies) == len(server.questions)
    with pytest.raises(ValueError, match="holds no annotations"):
        read_annotations(tmp_path / "out")
    report, more = ask(first)
    assert len(more.questions) == report.counts["label"] == then_asked
    replies = pq.read_table(tmp_path / "out" / "replies.parquet")
    assert replies["status"].to_pylist() == ["label" if then_asked else status] * 24


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("I cannot say", "There are 0 votes, since no reply was a label; .*out/replies.parquet has the replies"),
        (
            Reply(status=404),
            "There are 0 votes; 23 questions are not asked and 1 failed; the same command resumes the run",
        ),
    ],
)
def test_the_command_says_that_there_is_no_vote(corpus, tmp_path, capsys, answer, message):
    with serve(lambda _: Reply(answer) if isinstance(answer, str) else answer) as url:
        words = ["--out", tmp_path / "out", "--model", "m", "--base-url", url, "--question", "emotion"]
        with pytest.raises(SystemExit, match="2"):
            cli.main(["annotate", *map(str, [corpus.folder, *words, "--annotators", 3, "--concurrency", 1])])
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(status=429, headers={"retry-after": "0.05"}),
        Reply(status=429),
        Reply(status=500),
        Reply(status=503, body=b"<html>busy</html>", headers={"content-type": "text/html"}),
        Reply(body=b"<html>hello</html>", headers={"content-type": "text/html"}),
        Reply(body=b'{"choices": [{"message": {"content": "ang'),
        Reply("anger", cut=True),
        Reply(body=b'{"choices": "none"}'),
        Reply(body=b'["list"]'),
        Reply(body=b'{"choices": [{"message": {"content": {"a": 1}}}]}'),
        Reply(body=b""),
        Reply("anger", stall=600.0),
    ],
    ids=[
        "429-after",
        "429",
        "500",
        "503",
        "html",
        "half-json",
        "half-body",
        "no-list",
        "list",
        "object",
        "nothing",
        "stall",
    ],
)
def test_a_bad_day_of_the_server_costs_no_question(ask, exported, run_out, trouble):
    def answer(question, number):
        if number not in (2, 5, 6):
            return "anger"
        if trouble.stall:
            run_out()
        return trouble

    report, server = ask(answer, concurrency=1 if trouble.stall else 16)
    assert report.counts["label"] == total(report) == 24
    assert len(server.questions) == 27
    assert len(server.keys) == 24  # asked again under the same key
    lost = [one["body"] for one in exported() if one["lost"]]
    assert len(lost) == (0 if trouble.status != 200 else 3)  # may have been paid for
    came = None if trouble.cut or trouble.stall or trouble.body is None else trouble.body.decode()
    assert set(lost) <= {came}


def test_retry_after_pauses_everybody(ask, clock):
    times = []

    def answer(question, number):
        times.append(clock())
        return Reply(status=429, headers={"retry-after": "0.6"}) if number == 1 else "anger"

    ask(answer, concurrency=1)
    assert times[0] < 0.6 <= times[1] - times[0]


def test_a_server_that_is_down_stops_the_run_which_then_goes_on(ask):
    report, server = ask(lambda question, number: Reply(status=500), attempts=2, concurrency=2)
    assert not report.complete
    assert re.search(r"all \d questions in a row, about 3 clips, failed", report.stopped)
    assert "500" in report.stopped
    assert report.counts["failed"] + report.counts["not asked"] == 24
    assert len(server.questions) < 24
    report, _ = ask(first)
    assert report.counts["label"] == 24


def test_nobody_at_the_address(job, tmp_path, monkeypatch):
    monkeypatch.setattr("annot_hf.proxies.session.LONGEST_WAIT", 0.02)
    backend = OpenAIServer("m", base_url="http://127.0.0.1:9/v1")
    report = annotate(job(), backend, tmp_path / "out", attempts=2, concurrency=1)
    assert "Connect" in report.stopped
    assert report.counts["label"] == 0


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_question_can_mend_stops_at_once(ask, status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")
    report, server = ask(lambda *_: Reply("bad key sk-secret-key", status=status), concurrency=1)
    assert len(server.questions) == 1
    assert str(status) in report.stopped
    assert report.counts == dict.fromkeys(report.counts, 0) | {"failed": 1, "not asked": 23}


def test_the_key_is_in_no_file(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")

    def answer(question, number):
        assert question.headers["authorization"] == "Bearer sk-secret-key"
        trouble = (
            Reply("sk-secret-key?", status=400),
            Reply(body=b"sk-secret-key"),
            Reply("sk-secret-key", status=500),
        )
        return trouble[number % 3] if number < 10 else "anger"

    ask(answer)
    for path in (tmp_path / "out").iterdir():
        assert b"sk-secret-key" not in path.read_bytes()


def test_audio_that_the_server_rejects_is_counted_and_not_asked_again(ask, tmp_path):
    report, server = ask(lambda question, number: Reply("bad audio", status=400) if number % 4 == 0 else "anger")
    assert (report.counts["rejected"], report.counts["label"]) == (6, 18)
    assert report.complete
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert set(replies["reason"][replies["status"] == "rejected"]) == {"400: bad audio"}
    _, again = ask(first)
    assert not again.questions


@pytest.mark.parametrize("good", [0, 3])
def test_a_server_that_rejects_everything_is_not_asked_everything(ask, job, good, monkeypatch):
    monkeypatch.setattr("annot_hf.proxies.session.PATIENCE", 4)
    made = job(annotators=10)
    report, server = ask(
        lambda question, number: "anger" if number <= good else Reply("no such parameter", status=400),
        made,
        concurrency=4,
    )
    assert 31 <= len(server.questions) <= 31 + 3  # the first about a fourth clip, and what was under way
    assert "about 4 clips, were rejected" in report.stopped
    assert "no such parameter" in report.stopped
    assert "--retry-rejected" in " ".join(report.notes)
    report, _ = ask(first, made)
    assert report.counts["rejected"] == len(server.questions) - good
    report, again = ask(first, made, retry_rejected=True)
    assert report.counts["label"] == 80
    assert len(again.questions) == len(server.questions) - good
    report, _ = ask(first, made)
    assert "rejected" not in " ".join(report.notes)
    assert "rejected" not in " ".join(json.loads((report.folder / "annotations.json").read_text())["notes"])


def test_clips_that_the_server_does_not_take_keep_no_other_from_being_asked(ask, job):
    bad, made = [], job(annotators=12)

    def answer(question, number):
        if len(bad) < 2 and question.audio not in bad:
            bad.append(question.audio)
        return Reply("bad audio", status=400) if question.audio in bad else "anger"

    report, _ = ask(answer, made, concurrency=1)
    assert (report.stopped, report.counts["rejected"], report.counts["label"]) == ("", 24, 72)


@pytest.mark.parametrize("bad", [1, 2])
def test_clips_that_break_the_server_keep_no_other_from_being_asked(ask, job, bad):
    clips, made = [], job(annotators=10)

    def answer(question, number):
        if question.audio not in clips:
            clips.append(question.audio)
        return Reply(status=500) if question.audio in clips[:bad] else "anger"

    report, _ = ask(answer, made, concurrency=4, attempts=1)
    assert (report.stopped, report.counts["failed"], report.counts["label"]) == ("", bad * 10, 80 - bad * 10)


@pytest.mark.parametrize("name", ["another", "listener-mini", "listener2", "listener-5"])
def test_the_wrong_model_is_no_vote_and_what_it_said_counts_once_it_is_called_right(ask, name, tmp_path):
    report, server = ask(lambda *_: Reply("anger", model=name), concurrency=1)
    assert name in report.stopped
    assert report.counts["wrong-model"] == len(server.questions) == 1
    assert not (tmp_path / "out" / "votes.parquet").exists()
    report, more = ask(lambda *_: Reply("anger", model=name), answers_as=name)
    assert report.counts["label"] == 24
    assert len(more.questions) == 23  # the first was paid for
    assert len(pq.read_table(tmp_path / "out" / "replies.parquet").filter(pc.field("status") == "label")) == 24
    report, again = ask(lambda *_: Reply("anger", model=name))  # the name is remembered
    assert (report.counts["label"], again.questions) == (24, [])


@pytest.mark.parametrize("name", ["listener-2026-11-24", "listener-preview-05-06", "org/listener", "listener@main", ""])
def test_other_spellings_of_the_same_model(ask, name):
    report, _ = ask(lambda *_: Reply("anger", model=name))
    assert report.counts["label"] == 24


def test_a_cap_on_what_is_spent(ask):
    def answer(*_):
        return Reply("anger", usage={"prompt_tokens": 10, "completion_tokens": 1, "cost": 0.01})

    report, server = ask(answer, max_cost=0.105, concurrency=4)
    assert report.spent == pytest.approx(0.1)
    assert len(server.questions) == 10
    assert "cap of 0.105 USD" in report.stopped
    report, more = ask(answer, max_cost=0.125, concurrency=4)
    assert len(more.questions) == 2  # what was spent before counts
    report, _ = ask(answer)
    assert report.spent == pytest.approx(0.24)


def test_a_cap_by_prices_and_none_without_them(ask):
    report, server = ask(lambda *_: "anger", max_cost=1.0, concurrency=4)
    assert len(server.questions) == 1
    assert "--input-price" in report.stopped
    report, server = ask(lambda *_: "anger", max_cost=1.15e-3, prices=Prices(1.0, 5.0), concurrency=4)
    assert report.counts["label"] == 10  # prices count for answers that came before them too


def test_prices_make_costs(ask):
    report, server = ask(lambda *_: "anger", max_cost=1.15e-3, prices=Prices(1.0, 5.0), concurrency=4)
    assert len(server.questions) == 10  # 100 tokens read, 2 written: 1.1e-4 each
    assert report.spent == pytest.approx(1.1e-3)


def test_a_votes_file_that_was_edited_is_made_again_from_the_log(ask, tmp_path):
    ask(first)
    path = tmp_path / "out" / "votes.parquet"
    before = path.read_bytes()
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(ValueError, match="edited"):
        read_annotations(tmp_path / "out")
    ask(first)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("no database"),
        lambda path: path.write_bytes(path.read_bytes()[:-5000]),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + b"x" * 4096 + path.read_bytes()[8192:]),
        lambda path: (path.unlink(), sqlite3.connect(path).execute("CREATE TABLE run (id)")),
    ],
    ids=["text", "cut", "overwritten", "another"],
)
def test_a_damaged_database_is_named_before_anything_is_asked(ask, tmp_path, damage):
    ask(first)
    damage(tmp_path / "out" / "attempts.sqlite")
    with pytest.raises(ValueError, match="out/attempts.sqlite cannot be opened as the database of a run"):
        ask(lambda *_: pytest.fail("nothing is asked"))


@pytest.mark.parametrize(
    ("options", "changed"),
    [({"plan": "crossed"}, "plan"), ({"parsing": "published"}, "parsing"), ({"seed": 1}, "seed")],
)
def test_another_run_in_the_same_folder_is_refused(ask, job, options, changed):
    ask(first)
    with pytest.raises(ValueError, match=f"holds a run of another {changed}"):
        ask(first, job(**options))
    with pytest.raises(ValueError, match="another model"):
        ask(first, model="other")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB, mounted at the folder of the run; gives a function that leaves only so many bytes free."""
    out = tmp_path / "out"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", out], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")

    def fill(leave):
        # The run writes to the disk at the same time, so the file may meet its end early.
        with contextlib.suppress(OSError), (out / "filler").open("wb", buffering=0) as file:
            for _ in range(max(shutil.disk_usage(out).free - leave, 0) // 1024):
                file.write(bytes(1024))

    yield fill
    subprocess.run(["umount", out], check=True)


def test_a_full_disk_ends_the_run_and_keeps_what_was_under_way(ask, job, small_disk, tmp_path):
    def answer(question, number):
        if number == 9:
            small_disk(0)
        return Reply("anger " * 1600, usage=PAID)

    report, server = ask(answer, job(annotators=10), concurrency=4)
    assert "attempts.sqlite cannot be written" in report.stopped and "full" in report.stopped
    assert report.counts["off-list"] == report.spent == len(server.questions) < 80
    assert not any("not be written" in note for note in report.notes)
    (tmp_path / "out" / "filler").unlink()
    report, more = ask(first, job(annotators=10))
    assert report.counts["label"] == len(more.questions) == 80 - len(server.questions)
    assert not set(more.keys) & set(server.keys)
    assert not any("under way" in note for note in report.notes)


def test_a_disk_without_room_is_named_before_anything_is_asked(ask, small_disk):
    small_disk(600_000)
    with pytest.raises(ValueError, match=r"cannot be written \(.*No space left on device\); nothing was asked"):
        ask(lambda *_: pytest.fail("nothing is asked"))
    small_disk(2_500_000)
    assert ask(first)[0].counts["label"] == 24


def failing(monkeypatch, rows, *, new):
    """After so many rows, new attempts, or else the ends of attempts, cannot be written, as on a disk that is full."""
    real, count = Store._write_row, itertools.count()

    def fail(self, number, values):
        if (number is None) == new and next(count) >= rows:
            raise sqlite3.OperationalError("database or disk is full")
        return real(self, number, values)

    monkeypatch.setattr(Store, "_write_row", fail)


def test_only_what_is_stored_is_a_vote_and_the_rest_is_shown_and_counts_as_paid(ask, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        failing(patch, 5, new=False)
        report, server = ask(lambda *_: Reply("anger", usage=PAID), concurrency=4)
    # answers that came together are stored together, or not at all
    asked, stored = len(server.questions), report.counts["label"]
    assert 1 <= stored <= 5 and stored < asked < 24
    assert report.counts == dict.fromkeys(report.counts, 0) | {"label": stored, "not asked": 24 - stored}
    assert report.spent == len(read_annotations(tmp_path / "out").votes) == stored
    assert len(pq.read_table(tmp_path / "out" / "replies.parquet")) == stored
    lost = asked - stored
    assert f"{lost} answers could not be written" in " ".join(report.notes)
    shown = [json.loads(line.removeprefix("not saved: ")) for line in caplog.messages if line.startswith("not saved: ")]
    assert [one["reply"] for one in shown] == ["anger"] * lost
    report, more = ask(lambda *_: Reply("anger", usage=PAID), max_cost=23, concurrency=1)
    assert report.counts["label"] == 23 - lost  # each that is not stored counts as much as the dearest
    assert f"{lost} questions were under way" in " ".join(report.notes)


def test_where_an_attempt_cannot_be_stored_it_is_not_sent(ask, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, 5, new=True)
        report, server = ask(lambda *_: Reply("anger", usage=PAID), concurrency=1)
    assert report.asked == len(server.questions) == report.counts["label"] == 5
    assert "cannot be written (database or disk is full)" in report.stopped
    report, more = ask(lambda *_: Reply("anger", usage=PAID), max_cost=24, concurrency=1)
    assert report.counts["label"] == 24
    assert "under way" not in " ".join(report.notes)


def test_odd_text_in_a_reply_reaches_the_table(ask, tmp_path):
    odd = Reply(body=b'{"choices": [{"message": {"content": "\\ud83d odd \\u0000"}}], "model": ""}')
    long = Reply("x" * 200_000)
    report, _ = ask(lambda question, number: (odd, long, "anger")[number % 3])
    assert (report.counts["off-list"], report.counts["label"]) == (16, 8)
    replies = pq.read_table(tmp_path / "out" / "replies.parquet")["reply"].to_pylist()
    assert set(replies) == {"? odd \0", "x" * 10_000, "anger"}


@pytest.mark.parametrize("cost", [float("nan"), -1.0, True, "0.1", float("inf")])
def test_a_cost_that_is_none(ask, cost):
    report, _ = ask(lambda *_: Reply("anger", usage={"prompt_tokens": -1, "completion_tokens": True, "cost": cost}))
    assert report.spent == 0
    assert report.counts["label"] == 24


@pytest.mark.parametrize("parsing", ["strict", "published"])
def test_what_a_model_thinks_is_no_vote(ask, job, corpus, tmp_path, parsing):
    labels = corpus.votes.question("emotion").labels
    thoughts = f"<think>{labels[0]}? " + "Let me listen again. " * 1000
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": labels[0]}]},
        {"type": "text", "text": labels[1]},
    ]
    parts = Reply(choices=[{"message": {"content": [{"type": "reasoning", "text": labels[0]}, *parts]}}])
    said = [Reply(thoughts, finish="length"), f"{thoughts}</think>- {labels[1]}", parts]
    report, _ = ask(lambda question, number: said[number % 3], job(parsing=parsing))
    assert (report.counts["empty"], report.counts["label"]) == (8, 16)
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert set(replies["label"].dropna()) == {labels[1]}
    kept = set(replies["reply"][replies["status"] == "label"].str[-len(labels[1]) :])
    assert kept == {labels[1]}  # of a long reply the end is kept, where the answer stands


def test_an_unreadable_clip_is_rejected_here_and_never_sent(ask, job, broken):
    report, server = ask(first, broken(job(), 0))
    assert report.counts["not sent"] == 3
    assert len(server.questions) == 21
    assert report.complete
    assert any("3 questions were not sent, since their clips could not be read here" in note for note in report.notes)
    report, server = ask(first)  # the clip is whole again
    assert (report.counts["label"], len(server.questions)) == (24, 3)


@pytest.mark.parametrize(("paid", "most"), [(True, 5), (False, 40)])
def test_what_may_have_been_paid_for_is_not_tried_about_clip_after_clip(ask, job, run_out, paid, most):
    """A server that stalls ends the run after a few questions, one that says 500 after those about three clips."""

    def answer(*_):
        if paid:
            run_out()
        return Reply("anger", stall=600.0) if paid else Reply("no", status=500)

    report, server = ask(answer, job(annotators=10), concurrency=1, attempts=1)
    assert "questions in a row, about" in report.stopped
    assert len(server.questions) <= most and (paid or len(server.questions) > 20)
    assert any("they may have been paid for" in note for note in report.notes) == paid


def test_when_no_clip_can_be_read_it_stops_and_nothing_is_closed(ask, job, broken, monkeypatch):
    monkeypatch.setattr("annot_hf.proxies.session.PATIENCE", 4)
    made = job(annotators=10)
    report, server = ask(first, broken(made, *range(8)), concurrency=1)
    assert not server.questions
    assert report.counts["not sent"] == 31
    assert "all 31 questions in a row, about 4 clips, have clips that could not be read here" in report.stopped
    report, _ = ask(first, made)
    assert report.counts["label"] == 80


@pytest.mark.parametrize("annotators", [10, 20])
def test_clips_that_cannot_be_read_keep_no_other_from_being_asked_and_are_read_once(
    ask, job, broken, annotators, monkeypatch
):
    read = []
    real = questions.as_sent

    def reading(source, max_seconds):
        read.append(source)
        return real(source, max_seconds)

    monkeypatch.setattr("annot_hf.proxies.job.as_sent", reading)
    report, server = ask(first, broken(job(annotators=annotators), 2, 3))
    assert report.stopped == ""
    assert (report.counts["not sent"], report.counts["label"]) == (2 * annotators, 6 * annotators)
    assert len(read) == 8


def test_a_killed_run_resumes_beside_clips_that_cannot_be_read(ask, job, broken, tmp_path, exported):
    made = broken(job(annotators=20), 1, 3)
    ask(first, made, concurrency=1)
    last = max(one["id"] for one in exported("not sent"))
    change(tmp_path / "out", "DELETE FROM attempt WHERE id > ?", last + 5)  # killed soon after
    answered = len(exported("label"))
    report, more = ask(first, made, concurrency=1)
    assert (report.stopped, report.counts["not sent"], report.counts["label"]) == ("", 40, 120)
    assert len(more.questions) == 120 - answered


def test_a_server_that_drips_is_given_up(ask, job, run_out):
    def answer(question, number):
        if number > 1:
            return "anger"
        run_out()
        return Reply("anger", drip=0.5)

    report, server = ask(answer, job(items=2), concurrency=1)
    assert report.counts["label"] == 6
    assert len(server.questions) == 7


@pytest.mark.parametrize(
    "reply",
    [
        Reply("my key is sk-secret-key"),
        Reply("anger", model="sk-secret-key"),
        Reply(body=b"x" * 1995 + b"sk-secret-key"),
        Reply("sk-secret-key", status=400),
        Reply("sk-secret-key", status=500),
    ],
)
def test_a_server_that_repeats_the_key(ask, tmp_path, monkeypatch, capsys, reply):
    monkeypatch.setenv("OPENAI_API_KEY", " sk-secret-key\n")
    report, server = ask(lambda question, number: reply if number < 3 else "anger", attempts=2)
    assert server.questions[0].headers["authorization"] == "Bearer sk-secret-key"
    for path in (tmp_path / "out").iterdir():
        assert b"sk-secret" not in path.read_bytes()
    assert "sk-secret" not in report.stopped + " ".join(report.notes) + capsys.readouterr().err


@pytest.mark.parametrize("key", ["sk secret", "sk-\x07secret", "sk-sécret", "sk\nsecret"])
def test_what_is_no_key(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY in the environment has") as caught:
        OpenAIServer("m", base_url="http://127.0.0.1:9/v1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["notaurl", "ftp://host", "http://", "http://host:port/v1", "127.0.0.1:8000/v1"])
def test_what_is_no_address(address):
    with pytest.raises(ValueError, match="not the address of a server"):
        OpenAIServer("m", base_url=address)


def test_answers_that_were_lost_count_towards_the_cap(ask):
    paid = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.01}

    def answer(question, number):
        return Reply(body=b"<html>") if number in (2, 3, 4) else Reply("anger", usage=paid)

    report, server = ask(answer, max_cost=0.105, concurrency=1)
    assert report.counts["label"] + 3 == len(server.questions) == 10
    assert "3 answers that never came" in report.stopped


def test_a_name_that_is_told_when_the_question_was_asked_again_does_not_undo_the_later_answer(ask, corpus, tmp_path):
    early, late = corpus.votes.question("emotion").labels[:2]
    ask(lambda *_: Reply(early, model="other"), concurrency=1)
    report, _ = ask(lambda *_: late)
    assert report.counts["label"] == 24
    report, again = ask(first, answers_as="other")
    assert (report.counts["label"], again.questions) == (24, [])
    assert read_annotations(tmp_path / "out").votes.counts("emotion").sum(0)[:2].tolist() == [0, 24]
    assert set(pq.read_table(tmp_path / "out" / "replies.parquet")["label"].to_pylist()) == {late}


def test_a_question_that_failed_first_has_one_row(ask, tmp_path):
    ask(lambda question, number: Reply(status=500) if number < 4 else "anger", attempts=1, concurrency=8)
    report, _ = ask(first)
    assert report.counts["label"] == len(pq.read_table(tmp_path / "out" / "replies.parquet")) == 24


def test_a_disk_that_is_full_when_the_votes_are_written(ask, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("annot_hf.proxies.annotate.write_annotations", full)
        with pytest.raises(
            ValueError, match=r"votes of .* cannot be written \(No space left on device\); attempts.sqlite has"
        ):
            ask(first)
    report, server = ask(first)
    assert (report.counts["label"], server.questions) == (24, [])


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"choices": [{"message": {"content": "anger"}}], "usage": {"prompt_tokens": 1e400}}']
)
def test_hostile_bodies(ask, body):
    report, _ = ask(lambda question, number: Reply(body=body) if number == 1 else "anger")
    assert report.counts["label"] == 24


def test_hostile_numbers(ask):
    usage = {"prompt_tokens": 10**30, "completion_tokens": -5, "cost": 1e308}
    report, _ = ask(lambda *_: Reply("anger", usage=usage))
    assert (report.counts["label"], report.spent) == (24, 0)
    report, again = ask(first)
    assert not again.questions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": "valence"}, "is a scale"),
        ({"question": "emotions"}, "did you mean 'emotion'"),
        ({"splits": ["tests"]}, "did you mean 'test'"),
        ({"items": 0}, "from 1 to"),
        ({"items": 99}, "from 1 to"),
        ({"plan": "papers"}, "did you mean"),
        ({"parsing": "lax"}, "strict"),
        ({"max_seconds": 0}, "max_seconds is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_jobs_that_cannot_be(job, options, message):
    with pytest.raises(ValueError, match=message):
        job(**options)


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"attempts": 0}, {"rate": 0}, {"rate": float("nan")}, {"max_cost": -1.0}]
)
def test_numbers_out_of_range(ask, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ask(first, **options)


def test_a_rate_is_kept(ask, job, clock):
    times = []

    def answer(*_):
        times.append(clock())
        return "anger"

    ask(answer, job(items=4, annotators=3), rate=40.0, concurrency=1)
    assert times[-1] - times[0] == pytest.approx(11 / 40, abs=1e-6)


def change(folder, statement, *values):
    """Change the database of a folder by hand."""
    with contextlib.closing(sqlite3.connect(folder / "attempts.sqlite")) as database, database:
        database.execute(statement, values)


def true_agreement(corpus, out):
    """Mean share of an item's human votes that a vote in the folder agrees with, from the files alone."""
    votes, labels = pq.read_table(out / "votes.parquet").to_pandas(), list(corpus.votes.question("emotion").labels)
    shares = corpus.votes.counts("emotion", items=sorted(set(votes["item"])))
    shares = dict(zip(sorted(set(votes["item"])), shares / shares.sum(1, keepdims=True), strict=True))
    return np.mean(
        [shares[item][labels.index(label)] for item, label in zip(votes["item"], votes["label"], strict=True)]
    )


def test_tries_count_towards_the_cap(ask):
    def answer(question, number):
        return Reply("anger", usage=PAID) if number == 1 else Reply("anger", usage=PAID, cut=True)

    report, server = ask(answer, max_cost=5, concurrency=4)
    assert len(server.questions) == 5  # each of them may have been paid for
    assert "cap of 5 USD" in report.stopped
    report, more = ask(answer, max_cost=5)
    assert not more.questions


def test_tries_that_cost_nothing_do_not_count_towards_the_cap(ask):
    def answer(question, number):
        return Reply(status=429) if number % 3 == 0 else Reply("anger", usage=PAID)

    report, server = ask(answer, max_cost=24, concurrency=4)
    assert (report.counts["label"], report.spent) == (24, 24)


def test_an_answer_that_was_lost_before_any_cost_is_known_ends_a_run_with_a_cap(ask):
    def answer(question, number):
        return Reply("anger", usage=PAID, cut=True) if number == 1 else Reply("anger", usage=PAID)

    report, server = ask(answer, max_cost=10, concurrency=4)
    assert len(server.questions) == 1
    assert "lost before the cost of any was known" in report.stopped
    report, more = ask(lambda *_: Reply("anger", usage=PAID), max_cost=10, concurrency=4)
    assert len(more.questions) == 9  # and the lost one


def test_a_reply_is_that_of_the_answer_that_counts(ask, tmp_path):
    ask(lambda *_: Reply("anger", model="impostor", usage=PAID), concurrency=8)
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert set(replies["status"]) == {"wrong-model"}
    assert replies["label"].isna().all()
    ask(lambda *_: Reply("ANGER", model="listener"))
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert len(replies) == 24
    assert set(zip(replies["status"], replies["label"], replies["reply"], replies["model"], strict=True)) == {
        ("label", "anger", "ANGER", "listener")
    }
    assert replies["cost"].isna().all()


def test_of_a_question_that_failed_twice_the_last_failure_is_shown(ask, job, tmp_path):
    for status in (500, 503):
        ask(lambda *_, status=status: Reply(status=status), job(items=1, annotators=2), attempts=1)
    replies = pq.read_table(tmp_path / "out" / "replies.parquet")
    assert [reason[:3] for reason in replies["reason"].to_pylist()] == ["503", "503"]


def test_a_run_that_was_killed_does_not_drop_the_answers_of_a_model_that_is_called_right_later(ask, tmp_path, exported):
    ask(lambda *_: Reply("anger", model="impostor"), concurrency=8)
    wrong = len(exported("wrong-model"))
    again = "SELECT 'later', '', facts FROM run"  # another run, killed with the same questions under way
    change(tmp_path / "out", f"INSERT INTO run (at, answers_as, facts) {again}")
    change(
        tmp_path / "out",
        "INSERT INTO attempt (item, annotator, attempt, run, begun) SELECT item, annotator, 2, 2, 'later' FROM attempt",
    )
    report, more = ask(lambda *_: Reply("sad", model="impostor"), answers_as="impostor")
    assert (report.counts["label"], len(more.questions)) == (24, 24 - wrong)
    assert f"{wrong} questions were under way" in " ".join(report.notes)
    assert "this folder remembers that for good" in " ".join(report.notes)


def test_agreement_is_of_the_answers_that_count_whatever_was_answered_before(ask, corpus, tmp_path):
    early, late = corpus.votes.question("emotion").labels[:2]
    for word in (early, late):
        ask(lambda *_, word=word: Reply(word, model="impostor"), concurrency=8)
    report, _ = ask(lambda *_: Reply(late, model="impostor"), answers_as="impostor")
    assert report.agreement == pytest.approx(true_agreement(corpus, tmp_path / "out"))
    assert report.counts["label"] == 24


def test_two_different_answers_to_a_question_are_both_paid_for_and_the_first_counts(ask, tmp_path, exported):
    ask(lambda *_: Reply("anger", usage=PAID))
    (one,) = exported("label")[:1]
    place = one["item"], one["annotator"]
    change(
        tmp_path / "out",
        "INSERT INTO attempt (item, annotator, attempt, run, begun, at, status, parsed, label, reply, model, cost) "
        "VALUES (?, ?, 2, 1, 'later', 'later', 'label', 'label', 'sad', 'sad', 'listener', 1.0)",
        *place,
    )
    report, server = ask(first)
    assert (report.counts["label"], report.spent, server.questions) == (24, 25, [])
    assert set(pq.read_table(tmp_path / "out" / "replies.parquet")["label"].to_pylist()) == {"anger"}
    assert "1 answers are to questions that had one before" in " ".join(report.notes)


def test_questions_that_the_server_takes_in_the_end_are_not_said_to_be_rejected(ask, tmp_path):
    ask(lambda *_: Reply("bad", status=400))
    report, _ = ask(first, retry_rejected=True)
    assert report.counts["label"] == 24
    report, server = ask(first)
    assert server.questions == []
    assert "rejected" not in " ".join(report.notes)


def test_questions_are_rejected_as_the_server_said_last(ask, tmp_path):
    for word in ("one", "two"):
        report, server = ask(lambda *_, word=word: Reply(word, status=400), retry_rejected=True)
        assert len(server.questions) == 24
        assert f"24 of them with: 400: {word}" in " ".join(report.notes)
    replies = pq.read_table(tmp_path / "out" / "replies.parquet")
    assert set(replies["reason"].to_pylist()) == {"400: two"}


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("mine.sqlite")),
        lambda path: path.parent.rename(path.parent.with_name("moved")),
        lambda path: (shutil.copy(path, path.with_name("copy")), path.with_name("copy").replace(path)),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_name(f"{path.name}-wal").unlink(),
    ],
    ids=["deleted", "renamed", "folder", "replaced", "emptied", "wal"],
)
def test_a_database_that_goes_away_ends_the_run_at_once(ask, tmp_path, caplog, change):
    asked = []

    def answer(question, number):
        asked.append(number)
        if number == 5:
            change(tmp_path / "out" / "attempts.sqlite")
        return Reply("anger", usage=PAID)

    with pytest.raises(ValueError, match=r"out/attempts.sqlite(-wal)? was .* meanwhile: put it back and run again"):
        ask(answer, concurrency=2)
    assert len(asked) <= 7  # what was under way, and what was already begun
    assert not (tmp_path / "out" / "votes.parquet").exists()
    assert any('"status": "label"' in line for line in caplog.messages)  # paid for, and shown


def test_a_database_that_is_put_back_has_every_answer_that_was_stored(ask, tmp_path):
    path = tmp_path / "out" / "attempts.sqlite"

    def answer(question, number):
        if number == 5:
            path.rename(tmp_path / "mine.sqlite")
        return Reply("anger", usage=PAID)

    with pytest.raises(ValueError, match="put it back"):
        ask(answer, concurrency=1)
    (tmp_path / "mine.sqlite").rename(path)
    report, server = ask(first)
    assert (report.counts["label"], len(server.questions)) == (24, 20)


class Batches:
    """A backend that takes several questions at a time, and knows when it was asked."""

    model, revision, max_tokens, timeout, batch_size, max_concurrency = "batches", "", 8, None, 4, 1

    def __init__(self, clock):
        self.times, self.clock = [], clock

    async def ask(self, asks):
        self.times.append(self.clock())
        return [Answer("anger") for _ in asks]

    async def close(self):
        pass


def test_a_rate_is_of_questions_and_not_of_batches(job, tmp_path, clock):
    backend = Batches(clock)
    annotate(job(items=4, annotators=3), backend, tmp_path / "out", rate=40.0)
    assert len(backend.times) == 3
    assert backend.times[-1] - backend.times[0] == pytest.approx(8 / 40, abs=1e-6)


def test_a_message_ends_in_one_full_stop(corpus, tmp_path, capsys):
    with serve(lambda _: Reply("no such model.", status=404)) as url:
        words = ["--out", tmp_path / "out", "--model", "m", "--base-url", url, "--question", "emotion"]
        with pytest.raises(SystemExit, match="2"):
            cli.main(["annotate", *map(str, [corpus.folder, *words, "--annotators", 3, "--concurrency", 1])])
    said = " ".join(capsys.readouterr().err.split())
    assert "There are 0 votes" in said
    assert ".." not in said


ENDS = st.one_of(
    st.fixed_dictionaries(
        {
            "place": st.tuples(st.integers(0, 1), st.integers(0, 1)),
            "parsed": st.sampled_from(["label", "refusal"]),
            "right": st.booleans(),
            "label": st.integers(0, 2),
            "cost": st.sampled_from([0.5, 2.0, None]),
        }
    ),
    st.fixed_dictionaries(
        {
            "place": st.tuples(st.integers(0, 1), st.integers(0, 1)),
            "status": st.sampled_from(["rejected", "failed", "not sent", None]),
        }
    ),
)


@given(st.lists(ENDS, max_size=12), st.booleans())
def test_what_counts_of_all_attempts_at_a_question(ends, accepted):
    facts = dict.fromkeys(IDENTITY) | {"model": "m", "question": {"labels": ["x", "y", "z"]}, "annotators": [{}, {}]}
    options = {"answers_as": "other" if accepted else ""}
    with read_store(Path("nowhere"), facts, ["a", "b"], np.array([1, 0]), **options) as store:
        for end in ends:
            row, annotator = end["place"]
            attempt = {"item": "ab"[row], "annotator": annotator, "begun": "now", "status": end.get("status")}
            if "parsed" in end:
                attempt |= {"status": end["parsed"] if end["right"] else "wrong-model", "parsed": end["parsed"]}
                attempt |= {"model": "m" if end["right"] else "other", "cost": end["cost"]}
                attempt |= {"label": "xyz"[end["label"]] if end["parsed"] == "label" else None}
            store.write([[(None, attempt)]])
        votes, counts, totals, open_ = store.votes(), store.counts(), store.totals(), store.open()
    # by hand: the first answer of the right model, else the first that was accepted later, else the last attempt
    chosen = {}
    for place in itertools.product(range(2), range(2)):
        mine = [end for end in ends if end["place"] == place and end.get("status", "") is not None]
        right = [end for end in mine if end.get("right")]
        later = [end for end in mine if accepted and end.get("right") is False]
        end = (right + later or mine[-1:] or [{}])[0]
        wrong = end.get("right") is False and not accepted
        chosen[place] = "wrong-model" if wrong else end.get("parsed", end.get("status", "not asked")), end
    expected = [[*place, end["label"]] for place, (status, end) in chosen.items() if status == "label"]
    assert votes.tolist() == expected
    assert {name: count for name, count in counts.items() if count} == collections.Counter(
        status for status, _ in chosen.values()
    )
    waits = {"not asked": 0, "wrong-model": 0, "failed": 1, "not sent": 2}
    left = [(waits[status], 1 - row, annotator) for (row, annotator), (status, _) in chosen.items() if status in waits]
    assert open_.tolist() == [[1 - row, annotator] for _, row, annotator in sorted(left)]
    costs = [end["cost"] for end in ends if "parsed" in end]
    known = [cost for cost in costs if cost is not None]
    assert (totals.answers, totals.unpriced, totals.spent) == (len(costs), len(costs) - len(known), sum(known))
    assert totals.dearest == max(known, default=None)
