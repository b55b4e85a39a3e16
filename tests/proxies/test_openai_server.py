import pytest

from annot_hf.proxies.log import read_log
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
