import asyncio
import gzip
import json

import pyarrow.parquet as pq
import pytest

from annot_hf.proxies.annotate import annotate
from annot_hf.proxies.backend import Ask, Busy
from annot_hf.proxies.servers import Gemini
from benchmarks.chat_server import Reply, serve


def said(text=None, **more):
    """A generateContent response."""
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 90, "candidatesTokenCount": 2, "thoughtsTokenCount": 30, "totalTokenCount": 122}
    body = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-9-pro"} | more
    return Reply(body=json.dumps(body).encode())


def failed(status, message, **more):
    return Reply(status=status, body=json.dumps({"error": {"code": status, "message": message}}).encode(), **more)


@pytest.fixture
def run(job, tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "g-secret")
    monkeypatch.setattr("annot_hf.proxies.session.LONGEST_WAIT", 0.02)

    def make(answer, seen=None, **options):
        questions = []

        def count(question):
            questions.append(question)
            (seen if seen is not None else []).append(question.body)
            return answer(len(questions))

        with serve(count) as url:
            backend = Gemini("gemini-9-pro", base_url=url.removesuffix("/v1"), timeout=60.0)
            return annotate(job(items=4), backend, tmp_path / "out", **options), questions

    return make


def test_questions_and_answers(run, tmp_path):
    report, questions = run(lambda number: said("anger"))
    assert report.counts["label"] == len(questions) == 12
    question = questions[0]
    assert question.path.endswith("/models/gemini-9-pro:generateContent")
    assert question.headers["x-goog-api-key"] == "g-secret"
    assert question.audio.startswith(b"RIFF")
    assert question.body["generationConfig"].keys() >= {"temperature", "seed", "maxOutputTokens"}
    assert "expert" in json.dumps(question.body["systemInstruction"])
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert set(replies["input_tokens"]) == {90}
    assert set(replies["output_tokens"]) == {32}  # thoughts are paid for too
    assert set(replies["model"]) == {"gemini-9-pro"}
    for path in (tmp_path / "out").iterdir():
        assert b"g-secret" not in path.read_bytes()


def test_what_is_blocked_is_a_refusal_and_what_is_empty_is_empty(run):
    blocked = said(candidates=[], promptFeedback={"blockReason": "SAFETY"})
    unsafe = said(candidates=[{"finishReason": "SAFETY", "index": 0}])
    empty = said(candidates=[])
    long = said(candidates=[{"finishReason": "MAX_TOKENS", "index": 0, "content": {"role": "model"}}])
    replies = [blocked, unsafe, empty, long]
    report, _ = run(lambda number: replies[number % 4])
    assert (report.counts["refusal"], report.counts["empty"]) == (6, 6)


@pytest.mark.parametrize(
    "trouble",
    [
        failed(429, "slow down", headers={"retry-after": "0.05"}),
        failed(500, "oh"),
        Reply(body=b"<html>hello</html>", headers={"content-type": "text/html"}),
        Reply(body=b'{"candidates": [{"con'),
        Reply(body=b'{"candidates": 3}'),
        Reply(body=said("anger").body, cut=True),
        Reply(body=said("anger").body, stall=600.0),
    ],
    ids=["429", "500", "html", "half-json", "no-list", "half-body", "stall"],
)
def test_a_bad_day_costs_no_question(run, run_out, trouble):
    def answer(number):
        if number == 2 and trouble.stall:
            run_out()
        return trouble if number == 2 else said("anger")

    report, questions = run(answer, concurrency=1 if trouble.stall else 16)
    assert report.counts["label"] == 12
    assert len(questions) == 13


@pytest.mark.parametrize(
    ("status", "message"), [(403, "no"), (404, "no such model"), (400, "API key not valid. g-secret")]
)
def test_what_no_question_can_mend_stops(run, status, message):
    report, questions = run(lambda number: failed(status, message), concurrency=1)
    assert len(questions) == 1
    assert str(status) in report.stopped
    assert "g-secret" not in report.stopped


def test_rejected_audio_is_counted(run):
    report, _ = run(lambda number: failed(400, "cannot process audio") if number == 1 else said("anger"))
    assert (report.counts["rejected"], report.counts["label"]) == (1, 11)


def test_without_a_key(monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="The environment has no GEMINI_API_KEY"):
        Gemini("gemini-9-pro")


def test_a_gateway_that_gave_up_may_have_been_served(run):
    report, _ = run(lambda number: failed(504, "DEADLINE_EXCEEDED") if number == 2 else said("anger"))
    assert report.counts["label"] == 12
    assert "1 answers were cut off, too late or unreadable; they may have been paid for." in report.notes


@pytest.mark.parametrize(
    "candidate",
    [
        {"content": {"parts": [{"text": "anger"}]}, "finishReason": 1},
        {"content": {"parts": [{"text": "anger"}]}, "finishReason": ["STOP"]},
        {"content": {"parts": 3}, "finishReason": "STOP"},
        {"content": [], "finishReason": "STOP"},
    ],
)
def test_a_body_that_the_client_chokes_on_is_a_lost_answer(run, candidate):
    report, questions = run(lambda number: said(candidates=[candidate]) if number == 5 else said("anger"))
    assert (report.counts["label"], len(questions)) == (12, 13)
    assert "1 answers were cut off, too late or unreadable; they may have been paid for." in report.notes


def test_counts_that_no_answer_has(run, tmp_path):
    usage = {"promptTokenCount": 10**30, "candidatesTokenCount": -5, "thoughtsTokenCount": 3}
    report, _ = run(lambda number: said("anger", usageMetadata=usage))
    assert report.counts["label"] == 12
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert replies["input_tokens"].isna().all() and set(replies["output_tokens"]) == {3}


def busy(delay, **more):
    details = [{"@type": "type.googleapis.com/google.rpc.Help"}, None, delay]
    return Reply(
        status=429, body=json.dumps({"error": {"code": 429, "message": "q", "details": details}}).encode(), **more
    )


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (busy({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}), 34),
        (busy({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.5s"}), 0.5),
        (
            busy(
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}, headers={"retry-after": "2"}
            ),
            2,
        ),
        (busy({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": {"seconds": 3}}), None),
        (busy({"@type": "type.googleapis.com/google.rpc.RetryInfo"}), None),
        (busy(7), None),
        (failed(429, "q"), None),
        (Reply(status=429, body=b'{"error": "q"}'), None),
        (Reply(status=429, body=b"[3]"), None),
    ],
)
def test_how_long_gemini_asks_to_wait(monkeypatch, reply, seconds):
    monkeypatch.setenv("GEMINI_API_KEY", "g-secret")
    with serve(lambda _: reply) as url:
        backend = Gemini("gemini-9-pro", base_url=url.removesuffix("/v1"), timeout=60.0)
        with pytest.raises(Busy) as caught:
            asyncio.run(backend.ask([Ask("i", 0, "s", "u", b"RIFF", 0.5, 1, "k")]))
    assert caught.value.retry_after == seconds


def test_what_is_wrong_with_a_key_is_read_before_the_key_is_left_out(run, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    report, questions = run(lambda number: failed(400, "API key not valid"), concurrency=1)
    assert len(questions) == 1 and "400" in report.stopped


def test_another_host_gets_no_clip(run):
    elsewhere = []
    with serve(lambda question: elsewhere.append(question) or said("joy")) as other:
        moved = Reply(status=307, headers={"location": f"{other}/models/gemini-9-pro:generateContent"})
        report, questions = run(lambda number: moved, concurrency=1)
    assert (elsewhere, len(questions), report.counts["label"]) == ([], 1, 0)
    assert "which is not the one that was named" in report.stopped


def test_a_response_without_end_is_given_up(run):
    packed = Reply(body=gzip.compress(b" " * (1 << 26)), headers={"content-encoding": "gzip"})
    report, questions = run(lambda number: packed if number == 2 else said("anger"), concurrency=1)
    assert (report.counts["label"], len(questions)) == (12, 13)
    assert "1 answers were cut off, too late or unreadable; they may have been paid for." in report.notes


def test_what_a_terminal_would_obey_is_not_shown(run):
    report, _ = run(lambda number: failed(403, "\x1b[31mno\x07 g-secret"), concurrency=1)
    assert " [31mno  [key]" in report.stopped


def test_what_a_model_does_not_take_is_left_out_once_it_says_so(run, tmp_path):
    def answer(number):
        body = bodies[-1]
        if "systemInstruction" in body:
            return failed(400, "Developer instruction is not enabled for models/gemini-9-pro")
        return failed(400, "seed is not supported") if "seed" in body["generationConfig"] else said("anger")

    report, questions = run(answer, concurrency=1, seen=(bodies := []))
    assert (report.counts["label"], len(questions)) == (12, 14)
    assert "expert" in json.dumps(bodies[-1]["contents"])
    assert set(pq.read_table(tmp_path / "out" / "replies.parquet")["omitted"].to_pylist()) == {"seed, system"}
