"""What answers cost, and caps on it."""

import pytest
from answers import PAID, first

from annot_hf.proxies.backend import Prices
from benchmarks.chat_server import Reply


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


@pytest.mark.parametrize("cost", [float("nan"), -1.0, True, "0.1", float("inf")])
def test_a_cost_that_is_none(ask, cost):
    report, _ = ask(lambda *_: Reply("anger", usage={"prompt_tokens": -1, "completion_tokens": True, "cost": cost}))
    assert report.spent == 0
    assert report.counts["label"] == 24


def test_answers_that_were_lost_count_towards_the_cap(ask):
    paid = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.01}

    def answer(question, number):
        return Reply(body=b"<html>") if number in (2, 3, 4) else Reply("anger", usage=paid)

    report, server = ask(answer, max_cost=0.105, concurrency=1)
    assert report.counts["label"] + 3 == len(server.questions) == 10
    assert "3 answers that never came" in report.stopped


def test_hostile_numbers(ask):
    usage = {"prompt_tokens": 10**30, "completion_tokens": -5, "cost": 1e308}
    report, _ = ask(lambda *_: Reply("anger", usage=usage))
    assert (report.counts["label"], report.spent) == (24, 0)
    report, again = ask(first)
    assert not again.questions


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
