import re

import pyarrow.parquet as pq
import pytest

from annot_hf import cli
from annot_hf.proxies.log import read_log
from annot_hf.proxies.openai_server import OpenAIServer
from annot_hf.proxies.server import retry_after
from benchmarks.chat_server import Reply, serve

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


@pytest.mark.parametrize("key", ["a", "x", "EMPTY", "none", "anger", "sk-no-key-required"])
def test_a_key_that_is_part_of_replies_costs_no_label(ask, tmp_path, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    report, server = ask(lambda *_: "anger")
    assert report.counts["label"] == 24
    assert server.questions[0].headers["authorization"] == f"Bearer {key}"
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert set(replies["label"]) == {"anger"}


def test_a_long_key_that_is_a_label_costs_no_label(ask, corpus, tmp_path, monkeypatch):
    label = max(corpus.votes.question("emotion").labels, key=len)
    monkeypatch.setattr("annot_hf.proxies.server.SHORTEST", len(label))
    monkeypatch.setenv("OPENAI_API_KEY", label)
    report, _ = ask(lambda *_: f"Answer: {label}.")
    assert report.counts["label"] == 24
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert set(replies["reply"]) == {"Answer: [key]."} and set(replies["label"]) == {label}


@pytest.mark.parametrize(
    "reply",
    [
        Reply("your key is s3cr3t."),
        Reply("anger", model="s3cr3t"),
        Reply(body=b'{"key": "s3cr3t"}'),
        Reply("Incorrect API key: s3cr3t", status=400),
        Reply("Bearer s3cr3t", status=500),
        Reply("s3cr3t", status=504),
    ],
)
def test_a_short_key_that_a_server_repeats_stands_in_no_file(ask, tmp_path, monkeypatch, capsys, reply):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cr3t")
    report, _ = ask(lambda question, number: reply if number < 3 else "anger", attempts=2, concurrency=1)
    written = [path for path in (tmp_path / "out").iterdir() if path.name != "log.lock"]
    assert all(b"s3cr3t" not in path.read_bytes() for path in written)
    assert any(b"[key]" in path.read_bytes() for path in written)
    assert "s3cr3t" not in report.stopped + " ".join(report.notes) + capsys.readouterr().err


@pytest.mark.parametrize("key, model", [("x", "x-large"), ("listener", "org/listener"), ("gpt-audio", "my-gpt-audio2")])
def test_a_key_that_the_model_is_called_by_is_refused(monkeypatch, key, model):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY in the environment stands in the name of the model"):
        OpenAIServer(model, base_url="http://127.0.0.1:9/v1")
    OpenAIServer("xylophone", base_url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize("cost, shown", [(0, "0.0000 USD"), (0.01, "0.1200 USD"), (None, "not known")])
def test_a_cost_of_nothing_is_a_cost(corpus, tmp_path, capsys, cost, shown):
    with serve(lambda _: Reply("anger", usage=PAID | {"cost": cost})) as url:
        words = [corpus.folder, "--out", tmp_path / "out", "--model", "m", "--base-url", url, "--question", "emotion"]
        with pytest.raises(SystemExit, match="0"):
            cli.main(["annotate", *map(str, [*words, "--items", 4, "--annotators", 3])])
    assert re.search(rf"cost\W+{shown}", capsys.readouterr().out)


@pytest.mark.parametrize("spelt", [r"sk-AB/CD+12345==", r"sk-AB\/CD+12345\u003d\u003D", r"\u0073k-AB/CD\u002b12345=="])
def test_a_key_that_comes_back_as_json_spells_it_is_in_no_file(ask, tmp_path, monkeypatch, spelt):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-AB/CD+12345==")
    body = b'{"oops": "your key is ' + spelt.encode() + b'"}'
    ask(lambda question, number: Reply(body=body) if number == 1 else "anger", concurrency=1)
    log = (tmp_path / "out" / "log.jsonl").read_text()
    assert "your key is [key]" in log and "12345" not in log
