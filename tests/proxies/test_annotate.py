"""Votes, replies and their provenance, from one run or several in a folder."""

import json

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from answers import PAID, change, first

from annot_hf.data.synthetic import read_annotations
from benchmarks.chat_server import Reply


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
    expected = {"label": 5, "refusal": 5, "off-list": 5, "empty": 5, "echo": 4}
    assert {name: count for name, count in report.counts.items() if count} == expected
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert replies["status"].value_counts().to_dict() == expected
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


def test_odd_text_in_a_reply_reaches_the_table(ask, tmp_path):
    odd = Reply(body=b'{"choices": [{"message": {"content": "\\ud83d odd \\u0000"}}], "model": ""}')
    long = Reply("x" * 200_000)
    report, _ = ask(lambda question, number: (odd, long, "anger")[number % 3])
    assert (report.counts["off-list"], report.counts["label"]) == (16, 8)
    replies = pq.read_table(tmp_path / "out" / "replies.parquet")["reply"].to_pylist()
    assert set(replies) == {"? odd \0", "x" * 10_000, "anger"}


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


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"choices": [{"message": {"content": "anger"}}], "usage": {"prompt_tokens": 1e400}}']
)
def test_hostile_bodies(ask, body):
    report, _ = ask(lambda question, number: Reply(body=body) if number == 1 else "anger")
    assert report.counts["label"] == 24


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


def true_agreement(corpus, out):
    """Mean share of an item's human votes that a vote in the folder agrees with, from the files alone."""
    votes, labels = pq.read_table(out / "votes.parquet").to_pandas(), list(corpus.votes.question("emotion").labels)
    shares = corpus.votes.counts("emotion", items=sorted(set(votes["item"])))
    shares = dict(zip(sorted(set(votes["item"])), shares / shares.sum(1, keepdims=True), strict=True))
    return np.mean(
        [shares[item][labels.index(label)] for item, label in zip(votes["item"], votes["label"], strict=True)]
    )


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
