"""Runs that stop or go on: bad days of a server, clips that it does not take, rates."""

import asyncio
import json
import re

import pyarrow.parquet as pq
import pytest
from answers import change, first

from annot_hf.cli import app as cli
from annot_hf.proxies import job as questions
from annot_hf.proxies.annotate import annotate
from annot_hf.proxies.backend import Answer, Ask, Busy
from annot_hf.proxies.servers import OpenAIServer
from benchmarks.chat_server import Reply, serve


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
    assert report.counts["label"] == sum(report.counts.values()) == 24
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


def test_nobody_at_the_address_is_said_at_once(job, tmp_path, clock):
    backend = OpenAIServer("m", base_url="http://me:word@127.0.0.1:9/v1?token=very-secret")
    report = annotate(job(), backend, tmp_path / "out", concurrency=1)
    said = r"No server answers at http://127.0.0.1:9 \(ConnectError: .*\); start it, or correct --base-url"
    assert re.fullmatch(said, report.stopped) and clock() == 0
    assert report.counts == dict.fromkeys(report.counts, 0) | {"failed": 1, "not asked": 23}


def test_the_command_names_the_address_of_a_dead_server(corpus, tmp_path, capsys):
    words = ["annotate", str(corpus.folder), "--out", str(tmp_path / "out"), "--model", "m", "--question", "emotion"]
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words, "--base-url", "http://127.0.0.1:9/v1"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: No server answers at http://127.0.0.1:9 (ConnectError")
    assert error.endswith("the same command resumes the run.") and "There are 0 votes" in error


def test_a_server_that_has_answered_before_is_asked_again():
    ask = Ask("a", 0, "system", "user", audio=b"", temperature=1.0, seed=0, key="k")

    async def before_and_after():
        with serve(lambda question: Reply("anger")) as url:
            backend = OpenAIServer("m", base_url=url)
            (answer,) = await backend.ask([ask])
        with pytest.raises(Busy, match="Connect"):
            await backend.ask([ask])
        await backend.close()
        return answer.reply

    assert asyncio.run(before_and_after()) == "anger"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_question_can_mend_stops_at_once(ask, status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")
    report, server = ask(lambda *_: Reply("bad key sk-secret-key", status=status), concurrency=1)
    assert len(server.questions) == 1
    assert str(status) in report.stopped
    assert report.counts == dict.fromkeys(report.counts, 0) | {"failed": 1, "not asked": 23}


def test_audio_that_the_server_rejects_is_counted_and_not_asked_again(ask, tmp_path):
    report, server = ask(lambda question, number: Reply("bad audio", status=400) if number % 4 == 0 else "anger")
    assert (report.counts["rejected"], report.counts["label"]) == (6, 18)
    assert report.complete
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert set(replies["reason"][replies["status"] == "rejected"]) == {"400: bad audio"}
    _, again = ask(first)
    assert not again.questions


@pytest.mark.parametrize(("good", "concurrency"), [(0, 4), (3, 1)])
def test_a_server_that_rejects_everything_is_not_asked_everything(ask, job, good, concurrency, monkeypatch):
    monkeypatch.setattr("annot_hf.proxies.session.PATIENCE", 4)
    made = job(annotators=10)
    report, server = ask(
        lambda question, number: "anger" if number <= good else Reply("no such parameter", status=400),
        made,
        concurrency=concurrency,
    )
    assert 31 <= len(server.questions) < 31 + concurrency  # the first about a fourth clip, and what was under way
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


def test_a_rate_is_kept(ask, job, clock):
    times = []

    def answer(*_):
        times.append(clock())
        return "anger"

    ask(answer, job(items=4, annotators=3), rate=40.0, concurrency=1)
    assert times[-1] - times[0] == pytest.approx(11 / 40, abs=1e-6)


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


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("I cannot say", "There are 0 votes, since no reply was a label; .*out/replies.parquet has the replies"),
        (
            Reply("no such model.", status=404),
            "There are 0 votes; 23 questions are not asked and 1 failed; the same command resumes the run",
        ),
    ],
)
def test_the_command_says_that_there_is_no_vote(corpus, tmp_path, capsys, answer, message):
    with serve(lambda _: Reply(answer) if isinstance(answer, str) else answer) as url:
        words = ["--out", tmp_path / "out", "--model", "m", "--base-url", url, "--question", "emotion"]
        with pytest.raises(SystemExit, match="2"):
            cli.main(["annotate", *map(str, [corpus.folder, *words, "--annotators", 3, "--concurrency", 1])])
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said)
    assert ".." not in said
