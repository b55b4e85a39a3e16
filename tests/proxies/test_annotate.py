import errno
import itertools
import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from annot_hf.cli import app as cli
from annot_hf.data.synthetic import read_annotations
from annot_hf.proxies import job as questions
from annot_hf.proxies.annotate import annotate
from annot_hf.proxies.backend import Answer
from annot_hf.proxies.servers import OpenAIServer
from annot_hf.proxies.store import AnswerLog, Ledger, line_of, read_log
from benchmarks.chat_server import Reply, serve

WORDS = ("anger", "joy", "neutral", "sadness")


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
        ("I cannot say", "There are 0 votes, since no reply was a label; read .*out/replies.parquet for what was said"),
        (Reply(status=404), "There are 0 votes; 23 questions are not asked and 1 failed; the same command goes on"),
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
def test_a_bad_day_of_the_server_costs_no_question(ask, tmp_path, run_out, trouble):
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
    lost = [record["body"] for record in read_log(tmp_path / "out" / "log.jsonl") if record["kind"] == "lost"]
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
    from annot_hf.proxies.store import Prices

    report, server = ask(lambda *_: "anger", max_cost=1.0, concurrency=4)
    assert len(server.questions) == 1
    assert "--input-price" in report.stopped
    report, server = ask(lambda *_: "anger", max_cost=1.15e-3, prices=Prices(1.0, 5.0), concurrency=4)
    assert report.counts["label"] == 10  # prices count for answers that came before them too


def test_prices_make_costs(ask):
    from annot_hf.proxies.store import Prices

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


def test_an_edited_log_is_named_before_anything_is_asked(ask, tmp_path):
    ask(first)
    path = tmp_path / "out" / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[5] = lines[5].replace('"annotator": ', '"annotator": 1')
    path.write_text("".join(lines))
    with pytest.raises(ValueError, match="line 6"):
        ask(first)


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


def test_a_full_disk_ends_the_run_and_keeps_what_was_under_way(ask, tmp_path, monkeypatch):
    real, out, calls = os.write, tmp_path / "out", []

    def write(file, data):
        calls.append(data)
        if len(data) < 1 << 20 and len(calls) > 30 and (out / "log.reserve").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data)

    monkeypatch.setattr("annot_hf.proxies.store.os.write", write)
    report, server = ask(first, concurrency=4)
    assert "is full" in report.stopped
    assert report.counts["label"] == len(server.questions) < 24
    monkeypatch.undo()
    report, more = ask(first)
    assert report.counts["label"] == 24
    assert not set(more.keys) & set(server.keys)


def test_a_log_that_takes_nothing_at_all_says_what_it_did_not_take(ask, tmp_path, monkeypatch, caplog):
    real, calls = os.write, []

    def write(file, data):
        calls.append(data)
        if len(calls) > 8:
            raise OSError(errno.EIO, "Input/output error")
        return real(file, data)

    monkeypatch.setattr("annot_hf.proxies.store.os.write", write)
    report, server = ask(first, concurrency=2)
    assert "cannot be written" in report.stopped
    answers = sum(record["kind"] == "answer" for record in read_log(tmp_path / "out" / "log.jsonl"))
    unsaved = [line for line in caplog.messages if '"kind": "answer"' in line]
    assert answers + len(unsaved) == len(server.questions)
    assert unsaved


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


def test_records_of_earlier_versions_that_look_alike_each_count(ask, job, tmp_path):
    """They had no time or try, so that a question cut off twice has the same line twice."""
    ask(first, job(items=1), tmp_path / "out")
    log = tmp_path / "out" / "log.jsonl"
    asked = {"kind": "asked", "item": json.loads(log.read_text().splitlines()[1])["item"], "annotator": 0}
    line = line_of(asked)
    log.write_text(log.read_text() + line * 3)
    report, server = ask(first, job(items=1), tmp_path / "out")
    assert not server.questions
    assert any(note.startswith("3 questions were under way") for note in report.notes)
    assert not any("word for word" in note for note in report.notes)


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


def test_a_killed_run_goes_on_beside_clips_that_cannot_be_read(ask, job, broken, tmp_path):
    made = broken(job(annotators=20), 1, 3)
    _, server = ask(first, made, concurrency=1)
    path = tmp_path / "out" / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if '"not sent"' in line)
    path.write_text("".join(lines[: last + 10]))  # killed soon after
    answered = sum('"kind": "answer"' in line for line in lines[: last + 10])
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
    with pytest.raises(ValueError, match="no address of a server"):
        OpenAIServer("m", base_url=address)


def test_answers_that_were_lost_count_towards_the_cap(ask):
    paid = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.01}

    def answer(question, number):
        return Reply(body=b"<html>") if number in (2, 3, 4) else Reply("anger", usage=paid)

    report, server = ask(answer, max_cost=0.105, concurrency=1)
    assert report.counts["label"] + 3 == len(server.questions) == 10
    assert "3 answers that never came" in report.stopped


def test_a_repeated_line_of_the_log_counts_once(ask, tmp_path):
    report, _ = ask(first)
    path = tmp_path / "out" / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    answer = next(line for line in lines if '"kind": "answer"' in line)
    path.write_text("".join([*lines, answer]))
    again, _ = ask(first)
    assert again.agreement == report.agreement
    assert "1 records of the log repeat another one word for word" in " ".join(again.notes)
    assert len(pq.read_table(tmp_path / "out" / "replies.parquet")) == 24


def test_the_log_is_read_once_before_anything_is_asked_and_once_for_the_replies(ask, monkeypatch):
    import builtins
    import io

    ask(lambda *_: Reply("anger", model="other"), concurrency=1)
    real, opened = builtins.open, []

    def counting(file, mode="r", *args, **kwargs):
        opened.extend([file] * (str(file).endswith("log.jsonl") and mode == "rb"))
        return real(file, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", counting)
    monkeypatch.setattr(io, "open", counting)
    report, _ = ask(first, answers_as="other")
    assert report.counts["label"] == 24
    assert len(opened) == 2


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
        patch.setattr("annot_hf.proxies.annotate.collect", full)
        with pytest.raises(
            ValueError, match=r"votes of .* cannot be written \(No space left on device\); log.jsonl has"
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


def test_a_log_without_its_first_line(ask, tmp_path):
    ask(first)
    path = tmp_path / "out" / "log.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="does not begin with the record of a run"):
        ask(first)


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


PAID = {"prompt_tokens": 100, "completion_tokens": 2, "cost": 1.0}


def log_lines(folder, kind=""):
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    return [line for line in lines if f'"kind": "{kind}' in line]


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


def test_a_run_that_was_killed_does_not_drop_the_answers_of_a_model_that_is_called_right_later(ask, tmp_path):
    ask(lambda *_: Reply("anger", model="impostor"), concurrency=8)
    wrong = len(log_lines(tmp_path / "out", "answer"))
    with (tmp_path / "out" / "log.jsonl").open("a") as log:  # another run, killed with its questions under way
        for line in log_lines(tmp_path / "out", "answer"):
            record = json.loads(line)
            log.write(line_of({"kind": "asked", "at": "2026-11-24", **{k: record[k] for k in ("item", "annotator")}}))
    report, more = ask(lambda *_: Reply("sad", model="impostor"), answers_as="impostor")
    assert (report.counts["label"], len(more.questions)) == (24, 24 - wrong)
    assert f"{wrong} questions were under way" in " ".join(report.notes)
    assert "this folder knows that for good" in " ".join(report.notes)


def test_a_log_that_is_there_twice_counts_once(ask, corpus, job, tmp_path):
    def answer(question, number):
        trouble = {3: Reply(body=b"<html>"), 5: Reply(status=400), 7: Reply("anger", model="impostor", usage=PAID)}
        return trouble.get(number, Reply(("anger", "sad")[number % 2], usage=PAID))

    ask(answer, concurrency=1)
    report, _ = ask(lambda *_: Reply("sad", usage=PAID))
    out = tmp_path / "out"
    before = json.loads((out / "annotations.json").read_text()), pq.read_table(out / "replies.parquet")
    (out / "log.jsonl").write_bytes((out / "log.jsonl").read_bytes() * 2)
    again, server = ask(answer)
    assert (server.questions, again.spent, again.counts) == ([], report.spent, report.counts)
    assert again.agreement == pytest.approx(true_agreement(corpus, out))
    after = json.loads((out / "annotations.json").read_text())
    assert [note for note in after["notes"] if "word for word" not in note] == before[0]["notes"]
    assert len(after["notes"]) == len(before[0]["notes"]) + 1
    same = set(after) - {"notes", "agreement", "created"}
    assert {name: after[name] for name in same} == {name: before[0][name] for name in same}
    assert pq.read_table(out / "replies.parquet").equals(before[1])


@pytest.mark.parametrize("order", ["reversed", "asked twice"])
def test_the_order_of_the_log_asks_nothing_again(ask, tmp_path, order):
    report, _ = ask(lambda *_: Reply("anger", usage=PAID))
    path = tmp_path / "out" / "log.jsonl"
    head, *lines = log_lines(tmp_path / "out")
    extra = log_lines(tmp_path / "out", "asked") if order == "asked twice" else []
    path.write_text("".join([head, *(lines[::-1] if order == "reversed" else lines), *extra]))
    again, server = ask(first, max_cost=24)
    assert (server.questions, again.counts, again.spent) == ([], report.counts, 24)
    assert "under way" not in " ".join(again.notes)


def test_agreement_is_of_the_answers_that_count_whatever_was_answered_before(ask, corpus, tmp_path):
    early, late = corpus.votes.question("emotion").labels[:2]
    for word in (early, late):
        ask(lambda *_, word=word: Reply(word, model="impostor"), concurrency=8)
    report, _ = ask(lambda *_: Reply(late, model="impostor"), answers_as="impostor")
    assert report.agreement == pytest.approx(true_agreement(corpus, tmp_path / "out"))
    assert report.counts["label"] == 24
    assert "word for word" not in " ".join(report.notes)  # runs within a second write different records


def test_two_different_answers_to_a_question_are_both_paid_for_and_the_first_counts(ask, tmp_path):
    ask(lambda *_: Reply("anger", usage=PAID))
    record = json.loads(log_lines(tmp_path / "out", "answer")[0])
    del record["crc"]
    with (tmp_path / "out" / "log.jsonl").open("a") as log:
        log.write(line_of(record | {"label": "sad", "label_index": 1, "reply": "sad", "at": "later"}))
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


def full_disk(monkeypatch, kind, records):
    """From so many records of a kind on, the log takes none of this kind."""
    real, count = AnswerLog.append, []

    def append(self, record):
        count.extend([1] * (record["kind"] == kind))
        if record["kind"] == kind and len(count) > records:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, record)

    monkeypatch.setattr(AnswerLog, "append", append)


def test_only_what_is_in_the_log_is_a_vote_and_the_rest_can_be_put_back(ask, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        full_disk(patch, "answer", 5)
        report, server = ask(lambda *_: Reply("anger", usage=PAID), concurrency=4)
    asked = len(server.questions)
    assert 5 < asked < 24
    assert report.counts == dict.fromkeys(report.counts, 0) | {"label": 5, "not asked": 19}
    assert report.spent == 5
    assert f"{asked - 5} records could not be written" in " ".join(report.notes)
    assert len(read_annotations(tmp_path / "out").votes) == 5
    assert len(pq.read_table(tmp_path / "out" / "replies.parquet")) == 5
    lines = [line for line in caplog.messages if line.startswith("{")]
    with (tmp_path / "out" / "log.jsonl").open("a") as log:
        log.writelines(line + "\n" for line in lines)
    report, more = ask(lambda *_: Reply("anger", usage=PAID))
    assert (report.counts["label"], report.spent) == (24, 24)
    assert not set(more.keys) & set(server.keys)
    assert "under way" not in " ".join(report.notes)


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log.unlink(),
        lambda log: log.rename(log.with_name("mine.jsonl")),
        lambda log: log.parent.rename(log.parent.with_name("moved")),
        lambda log: (shutil.copy(log, log.with_name("copy")), log.with_name("copy").replace(log)),
        lambda log: log.write_bytes(b""),
        lambda log: log.write_bytes(log.read_bytes() + b"\n"),
    ],
    ids=["deleted", "renamed", "folder", "replaced", "emptied", "edited"],
)
def test_a_log_that_goes_away_ends_the_run_at_once(ask, tmp_path, caplog, change):
    asked = []

    def answer(question, number):
        asked.append(number)
        if number == 5:
            change(tmp_path / "out" / "log.jsonl")
        return Reply("anger", usage=PAID)

    with pytest.raises(ValueError, match=r"out/log.jsonl is not as it was written \(it was .* meanwhile\)"):
        ask(answer, concurrency=2)
    assert len(asked) <= 7  # what was under way, and what was already begun
    assert not (tmp_path / "out" / "votes.parquet").exists()
    assert any('"kind": "answer"' in line for line in caplog.messages)  # paid for, and shown


def test_a_disk_that_is_full_before_the_run_begins(ask, monkeypatch):
    with monkeypatch.context() as patch:
        full_disk(patch, "run", 0)
        with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\); nothing was asked"):
            ask(first)
    report, _ = ask(first)
    assert report.counts["label"] == 24


@pytest.mark.parametrize("takes", ["the reserve", "nothing"])
def test_a_disk_that_is_full_before_a_question_goes_out(ask, tmp_path, monkeypatch, takes):
    with monkeypatch.context() as patch:
        if takes == "nothing":
            full_disk(patch, "asked", 5)
        else:
            real, count = AnswerLog._write, []

            def write(self, data):
                count.extend([1] * (b'"kind": "asked"' in data))
                if len(count) == 6 and not self.full:
                    raise OSError(errno.ENOSPC, "No space left on device")
                real(self, data)

            patch.setattr(AnswerLog, "_write", write)
        report, server = ask(lambda *_: Reply("anger", usage=PAID), concurrency=1)
    assert report.asked == len(server.questions) == report.counts["label"] == 5
    assert report.counts["failed"] == (takes == "the reserve")
    report, more = ask(lambda *_: Reply("anger", usage=PAID), max_cost=24, concurrency=1)
    assert report.counts["label"] == 24
    assert "under way" not in " ".join(report.notes)


@pytest.mark.parametrize(
    "change",
    [
        {"label_index": 99},
        {"label_index": "x"},
        {"status": "good"},
        {"annotator": "x"},
        {"seconds": "x"},
        {"kind": "x"},
    ],
)
def test_a_record_that_annotate_never_wrote(ask, tmp_path, change):
    ask(first)
    record = json.loads(log_lines(tmp_path / "out", "answer")[0]) | change
    del record["crc"]
    with (tmp_path / "out" / "log.jsonl").open("a") as log:
        log.write(line_of(record))
    with pytest.raises(ValueError, match=r"take that line out|name another folder"):
        ask(first)


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
    st.builds(
        lambda place, status, label, cost: (
            {"kind": "answer", "item": "ab"[place[0]], "annotator": place[1], "status": status, "label_index": label}
            | {"would_be": "label", "model": "m", "seconds": 1.0, "cost": cost}
        ),
        st.tuples(st.integers(0, 1), st.integers(0, 1)),
        st.sampled_from(["label", "refusal", "wrong-model"]),
        st.integers(0, 2),
        st.sampled_from([0.5, 2.0, None]),
    ),
    st.builds(
        lambda place, status: {"kind": "closed", "item": "ab"[place[0]], "annotator": place[1], "status": status},
        st.tuples(st.integers(0, 1), st.integers(0, 1)),
        st.sampled_from(["rejected", "failed", "not sent"]),
    ),
)


@given(st.lists(ENDS, max_size=12), st.booleans(), st.randoms(use_true_random=False))
def test_what_came_of_a_question_is_the_same_in_whatever_order_it_is_learnt(records, accepted, random):
    def learn(order):
        ledger = Ledger(["a", "b"], np.array([[0.5, 0.25, 0.25], [0, 0, 1.0]]))
        for offset, record in order:
            ledger.take_in(offset, record, accepted=accepted)
        return ledger

    numbered = list(enumerate(records, 1))
    mixed = list(numbered)
    random.shuffle(mixed)
    one, other = learn(numbered), learn(mixed)
    for name in ("status", "label", "by"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert (one.spent, one.dearest, one.unpriced, one.reasons) == (
        other.spent,
        other.dearest,
        other.unpriced,
        other.reasons,
    )
    assert one.agreement == pytest.approx(other.agreement)
    # by hand: the first answer of the right model, else the first that was accepted later, else the last of the others
    votes = []
    for item, annotator in itertools.product("ab", range(2)):
        mine = [(n, r) for n, r in numbered if (r["item"], r["annotator"]) == (item, annotator)]
        right = [(n, r) for n, r in mine if r["status"] in ("label", "refusal")]
        later = [(n, r) for n, r in mine if r["status"] == "wrong-model" and accepted]
        chosen = (right + later or mine[-1:] or [(0, {})])[0]
        assert one.by[one.row[item], annotator] == chosen[0]
        if chosen in later or chosen[1].get("status") == "label":
            votes.append(one.human[one.row[item], chosen[1]["label_index"]])
    assert one.agreement == (pytest.approx(np.mean(votes)) if votes else None)
