"""Keys and addresses: what is one, and that no file has them."""

import pytest

from annot_hf.proxies.servers import OpenAIServer
from benchmarks.chat_server import Reply


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
