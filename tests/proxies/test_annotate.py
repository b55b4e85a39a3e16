import errno
import json
import os
import re

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from annot_hf import cli
from annot_hf.data.annotations import read_annotations
from annot_hf.proxies.annotate import annotate
from annot_hf.proxies.log import read_log
from annot_hf.proxies.openai_server import OpenAIServer
from benchmarks.chat_server import Reply, serve

WORDS = ("anger", "joy", "neutral", "sadness")


def first(question, number):
    return question.text.split("\n- ")[1].split("\n")[0]


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
        Reply("anger", stall=1.0),
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
def test_a_bad_day_of_the_server_costs_no_question(ask, tmp_path, trouble):
    def answer(question, number):
        return trouble if number in (2, 5, 6) else "anger"

    report, server = ask(answer, timeout=0.3 if trouble.stall else 5.0)
    assert report.counts["label"] == total(report) == 24
    assert len(server.questions) == 27
    assert len(server.keys) == 24  # asked again under the same key
    lost = [record["body"] for record in read_log(tmp_path / "out" / "log.jsonl") if record["kind"] == "lost"]
    assert len(lost) == (0 if trouble.status != 200 else 3)  # may have been paid for
    came = None if trouble.cut or trouble.stall or trouble.body is None else trouble.body.decode()
    assert set(lost) <= {came}


def test_retry_after_pauses_everybody(ask, tmp_path):
    times = []

    def answer(question, number):
        import time

        times.append(time.monotonic())
        return Reply(status=429, headers={"retry-after": "0.6"}) if number == 1 else "anger"

    ask(answer, concurrency=1)
    assert times[1] - times[0] >= 0.6


def test_a_server_that_is_down_stops_the_run_which_then_goes_on(ask):
    report, server = ask(lambda question, number: Reply(status=500), attempts=2, concurrency=2)
    assert not report.complete
    assert "questions failed" in report.stopped
    assert "500" in report.stopped
    assert report.counts["failed"] + report.counts["not asked"] == 24
    assert len(server.questions) < 24
    report, _ = ask(first)
    assert report.counts["label"] == 24


def test_nobody_at_the_address(job, tmp_path, monkeypatch):
    monkeypatch.setattr("annot_hf.proxies.pacing.LONGEST_WAIT", 0.02)
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
def test_a_server_that_rejects_everything_is_not_asked_everything(ask, job, good):
    made = job(annotators=10)
    report, server = ask(
        lambda question, number: "anger" if number <= good else Reply("no such parameter", status=400),
        made,
        concurrency=4,
    )
    assert good + 20 <= len(server.questions) <= good + 23
    assert "no such parameter" in report.stopped
    assert "--retry-rejected" in " ".join(report.notes)
    report, _ = ask(first, made)
    assert report.counts["rejected"] == len(server.questions) - good
    report, again = ask(first, made, retry_rejected=True)
    assert report.counts["label"] == 80
    assert len(again.questions) == len(server.questions) - good


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
    from annot_hf.proxies.ledger import Prices

    report, server = ask(lambda *_: "anger", max_cost=1.0, concurrency=4)
    assert len(server.questions) == 1
    assert "--input-price" in report.stopped
    report, server = ask(lambda *_: "anger", max_cost=1.15e-3, prices=Prices(1.0, 5.0), concurrency=4)
    assert report.counts["label"] == 10  # prices count for answers that came before them too


def test_prices_make_costs(ask):
    from annot_hf.proxies.ledger import Prices

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

    monkeypatch.setattr("annot_hf.proxies.log.os.write", write)
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

    monkeypatch.setattr("annot_hf.proxies.log.os.write", write)
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


def test_an_unreadable_clip_is_rejected_here_and_never_sent(ask, corpus, job, tmp_path):
    from dataclasses import replace

    items = corpus.items.copy()
    items["audio"] = items["audio"].astype(object)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    items.loc[0, "audio"] = str(tmp_path / "bad.wav")
    made = job()
    report, server = ask(first, replace(made, corpus=replace(corpus, items=items)))
    assert items["split"][0] != "test"
    assert report.counts["not sent"] == 3
    assert len(server.questions) == 21
    assert report.complete
    report, server = ask(first)  # the clip is whole again
    assert (report.counts["label"], len(server.questions)) == (24, 3)


def test_when_no_clip_can_be_read_it_stops_and_nothing_is_closed(ask, corpus, job):
    from dataclasses import replace

    items = corpus.items.copy()
    items["audio"] = "/nowhere.wav"
    made = job(annotators=10)
    report, server = ask(first, replace(made, corpus=replace(corpus, items=items)), concurrency=1)
    assert not server.questions
    assert report.counts["not sent"] == 20
    assert "clips could not be read here" in report.stopped
    report, _ = ask(first, made)
    assert report.counts["label"] == 80


def test_a_server_that_drips_is_given_up(ask, job):
    report, server = ask(
        lambda question, number: Reply("anger", drip=0.05) if number == 1 else "anger", job(items=2), timeout=0.5
    )
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
    assert "1 records of the log repeat" in " ".join(again.notes)
    assert len(pq.read_table(tmp_path / "out" / "replies.parquet")) == 24


def test_the_log_is_read_once_before_anything_is_asked_and_once_for_the_replies(ask, monkeypatch):
    import builtins
    import io

    ask(lambda *_: Reply("anger", model="other"), concurrency=1)
    real, opened = builtins.open, []

    def counting(file, mode="r", *args, **kwargs):
        opened.extend([file] * (str(file).endswith("log.jsonl") and mode == "r"))
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


def test_a_rate_is_kept(ask, job):
    import time

    times = []

    def answer(*_):
        times.append(time.monotonic())
        return "anger"

    ask(answer, job(items=4, annotators=3), rate=40.0)
    assert times[-1] - times[0] >= 11 / 40 - 0.03
