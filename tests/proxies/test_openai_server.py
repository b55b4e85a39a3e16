import pytest

from annot_hf.proxies.log import read_log
from annot_hf.proxies.server import retry_after
from benchmarks.chat_server import Reply

PAID = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.01}


@pytest.mark.parametrize("status", [408, 502, 504, 520, 524])
def test_a_gateway_that_gave_up_may_have_been_served(ask, tmp_path, status):
    def answer(question, number):
        return Reply("gone", status=status) if number in (2, 3, 4) else Reply("anger", usage=PAID)

    report, server = ask(answer, max_cost=0.105, concurrency=1)
    assert report.counts["label"] + 3 == len(server.questions) == 10
    assert "3 answers that never came" in report.stopped
    lost = [record for record in read_log(tmp_path / "out" / "log.jsonl") if record["kind"] == "lost"]
    assert [record["reason"] for record in lost] == [f"{status}: gone"] * 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_did_not_begin_is_not_paid(ask, status):
    report, server = ask(
        lambda question, number: Reply(status=status) if number == 2 else Reply("anger", usage=PAID), concurrency=1
    )
    assert (report.counts["label"], len(server.questions)) == (24, 25)
    assert "may have been paid" not in " ".join(report.notes)


@pytest.mark.parametrize("usage", [b'"none"', b"[1]", b"7", b"true"])
def test_an_answer_with_odd_counts_is_an_answer(ask, usage):
    body = b'{"choices": [{"message": {"content": "anger"}}], "model": "listener", "usage": ' + usage + b"}"
    report, server = ask(lambda *_: Reply(body=body))
    assert report.counts["label"] == len(server.questions) == 24


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "4"}, 4),
        ({"retry-after-ms": "250", "retry-after": "4"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "4"}, 4),
        ({"retry-after-ms": "nan", "retry-after": "Thu, 01 Jan 1970 00:00:30 GMT"}, 20),
        ({"retry-after-ms": "", "retry-after": "inf"}, None),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:02 GMT"}, 0),
        ({"retry-after-ms": "100"}, 0.1),
        ({}, None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers, seconds):
    assert retry_after(headers, now=10.0) == seconds
