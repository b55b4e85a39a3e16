import base64
import gzip
import json
import re
import tracemalloc
import zlib
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest

from annot_hf.cli import app as cli
from annot_hf.proxies.annotate import annotate
from annot_hf.proxies.servers import OpenAIServer, retry_after
from benchmarks.chat_server import Reply, serve

PAID = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.01}


@pytest.mark.parametrize("status", [408, 502, 504, 520, 524])
def test_a_gateway_that_gave_up_may_have_been_served(ask, exported, status):
    def answer(question, number):
        return Reply("gone", status=status) if number in (2, 3, 4) else Reply("anger", usage=PAID)

    report, server = ask(answer, max_cost=0.105, concurrency=1)
    assert report.counts["label"] + 3 == len(server.questions) == 10
    assert "3 answers that never came" in report.stopped
    assert [one["reason"] for one in exported() if one["lost"]] == [f"{status}: gone"] * 3


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
    monkeypatch.setattr("annot_hf.proxies.servers.SHORTEST_KEY", len(label))
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
    written = [path for path in (tmp_path / "out").iterdir() if path.name != "attempts.lock"]
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
def test_a_key_that_comes_back_as_json_spells_it_is_in_no_file(ask, tmp_path, exported, monkeypatch, spelt):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-AB/CD+12345==")
    body = b'{"oops": "your key is ' + spelt.encode() + b'"}'
    ask(lambda question, number: Reply(body=body) if number == 1 else "anger", concurrency=1)
    (lost,) = (one for one in exported() if one["lost"])
    assert "your key is [key]" in lost["body"]
    assert all(b"12345" not in path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_another_host_gets_no_clip(ask):
    elsewhere = []
    with serve(lambda question: elsewhere.append(question) or Reply("joy")) as other:
        moved = Reply(status=307, headers={"location": f"{other}/chat/completions"})
        report, server = ask(lambda *_: moved, concurrency=1)
    assert (elsewhere, len(server.questions), report.counts["label"]) == ([], 1, 0)
    assert f"redirects to {other.removesuffix('/v1')}, which is not the one that was named" in report.stopped


def test_another_path_of_the_same_host_is_followed(ask):
    def answer(question, number):
        moved = question.path.endswith("completions")
        return Reply(status=308, headers={"location": f"{question.path}/"}) if moved else "anger"

    report, server = ask(answer)
    assert (report.counts["label"], len(server.questions)) == (24, 48)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b" " * (5 << 20)),
        Reply("no " * (2 << 20), status=500),
        Reply(body=gzip.compress(b" " * (1 << 28)), headers={"content-encoding": "gzip"}),
        Reply(body=gzip.compress(b" " * (1 << 28)), headers={"content-encoding": "gzip"}, status=400),
    ],
    ids=["long", "long-error", "packed", "packed-error"],
)
def test_a_response_without_end_is_given_up(ask, job, exported, reply):
    tracemalloc.start()
    ask(lambda *_: reply, job(items=1, annotators=1), attempts=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (lost,) = (one for one in exported() if one["lost"])
    assert lost["reason"] == "the response is longer than 4 MB"
    assert peak < 1 << 26


def test_a_packed_answer_is_an_answer(ask, tmp_path):
    body = b'{"choices": [{"message": {"content": "anger"}}], "model": "listener"}'
    packed = {"gzip": gzip.compress(body, mtime=0), "deflate": zlib.compress(body), "br": body}
    for packing, data in packed.items():
        report, server = ask(
            lambda *_, packing=packing, data=data: Reply(body=data, headers={"content-encoding": packing}),
            out=tmp_path / packing,
            attempts=1,
            concurrency=1,
        )
        assert server.questions[0].headers["accept-encoding"] == "identity"
        assert report.counts["label"] == (0 if packing == "br" else 24)
    assert "the response is packed as br, which was not asked for" in report.stopped


@pytest.mark.parametrize("status", [400, 401, 500])
def test_what_a_terminal_would_obey_is_not_shown(corpus, tmp_path, capsys, status):
    hostile = "no\x1b]0;title\x07 \x1b[31mred\u202e\u0090\n" * 3
    with serve(lambda _: Reply(hostile, status=status)) as url:
        words = [corpus.folder, "--out", tmp_path / "out", "--model", "m", "--base-url", url, "--question", "emotion"]
        with pytest.raises(SystemExit, match="2"):
            cli.main(["annotate", *map(str, [*words, "--attempts", 1, "--items", 4, "--annotators", 30])])
    shown = capsys.readouterr()
    assert "title" in shown.out + shown.err and not re.search("[\x1b\x07\x90\u202e]", shown.out + shown.err)
    reasons = pq.read_table(tmp_path / "out" / "replies.parquet")["reason"].to_pylist()
    assert all(reason.isprintable() for reason in reasons)


@pytest.mark.parametrize("login", ["me:p4ss-w%2Frd", "t0ken-only"])
def test_a_password_in_the_address_is_in_no_file_and_no_message(job, tmp_path, monkeypatch, caplog, capsys, login):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    caplog.set_level("DEBUG")
    name, _, password = map(unquote, login.partition(":"))
    basic = base64.b64encode(f"{name}:{password}".encode()).decode()
    spelt, asked = [login, unquote(login), basic, basic.replace("=", "%3D")], []

    def answer(question):
        assert question.headers["authorization"] == f"Basic {basic}"
        asked.append(question)
        said = spelt[len(asked) % 4]
        return Reply(said, status=400) if len(asked) < 9 else Reply(said, model=said if len(asked) == 20 else None)

    with serve(answer) as url:
        backend = OpenAIServer("listener", base_url=url.replace("://", f"://{login}@"), timeout=60.0)
        report = annotate(job(), backend, tmp_path / "out", attempts=1, concurrency=1)
    assert (len(asked), report.counts["wrong-model"]) == (20, 1)
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir()) + caplog.text.encode()
    shown = report.stopped + " ".join(report.notes) + capsys.readouterr().err
    for secret in (password or name, login.rpartition(":")[2], basic):
        assert secret not in shown and secret.encode() not in written
    assert "[key]" in shown


def test_a_key_in_place_of_its_name_is_not_shown():
    with pytest.raises(ValueError, match="The environment has no variable of the name that key_env gives") as caught:
        OpenAIServer("m", key_name="sk-abcd1234efgh")
    assert "abcd" not in str(caught.value)


def test_an_address_from_the_environment_is_one_that_was_named(ask, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:secret@host:port/v1")
    with pytest.raises(ValueError, match="base_url is not the address of a server") as caught:
        OpenAIServer("m")
    assert "secret" not in str(caught.value)


HAS = {
    "seed": lambda body: "seed" in body,
    "system": lambda body: body["messages"][0]["role"] == "system",
    "max_tokens": lambda body: "max_tokens" in body,
    "temperature": lambda body: "temperature" in body,
}


def refuses(said):
    """Answers unless a question has something that it refuses, in the words given."""

    def answer(question, number):
        for name, words in said.items():
            if HAS[name](question.body):
                error = words if isinstance(words, dict) else {"error": {"message": words, "code": 400}}
                return Reply(status=400, body=json.dumps(error).encode())
        return Reply("anger", usage=PAID)

    return answer


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("seed", "seed is not supported"),
        ("seed", "Unrecognized request argument supplied: seed"),
        ("seed", "litellm.UnsupportedParamsError: vertex_ai does not support parameters: ['seed'], for model=m"),
        (
            "seed",
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
        ),
        ("seed", {"error": "unknown field: seed"}),
        ("seed", {"object": "error", "message": "property 'seed' is unsupported", "type": "BadRequestError"}),
        ("temperature", {"error": {"message": "`temperature` may only be set to 1 when thinking is enabled"}}),
        ("seed", {"error": {"message": "Unsupported parameter.", "param": "seed", "code": "unsupported_parameter"}}),
        (
            "max_tokens",
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
        ),
        (
            "temperature",
            "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) is.",
        ),
        ("temperature", "invalid temperature: only 1 is allowed for this model"),
        ("system", "System role not supported"),
        ("system", "Unsupported value: 'messages[0].role' does not support 'system' with this model."),
        ("system", "Conversation roles must alternate user/assistant/user/assistant/..."),
    ],
)
def test_what_a_server_does_not_take_is_left_out_once_it_says_so(ask, tmp_path, name, words):
    report, server = ask(refuses({name: words}), concurrency=1)
    assert (report.counts["label"], len(server.questions)) == (24, 25)
    body = server.questions[-1].body
    sent = {other for other, has in HAS.items() if has(body)}
    assert sent == set(HAS) - {name}
    assert (body.get("max_completion_tokens") == 64) == (name == "max_tokens")
    assert "expert" in json.dumps(body["messages"])  # what the system message says is said all the same
    replies = pq.read_table(tmp_path / "out" / "replies.parquet").to_pandas()
    assert set(replies["omitted"]) == {name}
    for column in ("seed", "temperature"):
        assert replies[column].isna().all() == (column == name)
    assert json.loads((tmp_path / "out" / "annotations.json").read_text())["omitted"] == {name: 24}
    assert any(note.startswith("24 of 24 answers are to questions without a") or name in note for note in report.notes)


def test_a_server_that_takes_none_of_it(ask, tmp_path):
    report, server = ask(refuses({name: f"{name} is not supported" for name in HAS} | {"system": "no system role"}))
    assert report.counts["label"] == 0  # "no" alone is no word for it
    report, server = ask(refuses({name: f"{name} is not supported" for name in HAS}), retry_rejected=True)
    assert report.counts["label"] == 24 and len(server.questions) <= 24 + 4 * 16
    assert set(pq.read_table(tmp_path / "out" / "replies.parquet")["omitted"].to_pylist()) == {
        "max_tokens, seed, system, temperature"
    }


def test_one_error_that_names_two_parts(ask):
    said = "seed and temperature are not supported"
    report, server = ask(refuses({"seed": said, "temperature": said}), concurrency=1)
    assert (report.counts["label"], len(server.questions)) == (24, 26)


@pytest.mark.parametrize(
    "said", ["seed is not supported", "invalid audio; the request was {seed: 1, temperature: 0.5}"]
)
def test_what_a_server_says_of_a_question_that_it_never_takes_is_tried_once_and_changes_no_other(ask, job, said):
    def answer(question, number):
        bad.setdefault(question.audio, len(bad) in (0, 2))  # the first clip, and the third
        return Reply(said, status=400) if bad[question.audio] else "anger"

    bad = {}
    report, server = ask(answer, job(annotators=5), concurrency=1)
    assert (report.counts["rejected"], report.counts["label"]) == (10, 30)
    assert len(server.questions) <= 40 + 2
    labelled = [question.body for question in server.questions if not bad[question.audio]]
    assert len(labelled) == 30 and all(has(body) for body in labelled for has in HAS.values())
    assert not any("questions without" in note for note in report.notes)


def test_other_rejections_are_final(ask):
    long = "'max_tokens' or 'max_completion_tokens' is too large: 64. This model's maximum context length is 32 tokens."
    for said in ("audio is broken", long, "the clip has no speech"):
        report, server = ask(lambda *_, said=said: Reply(said, status=400), retry_rejected=True)
        assert report.counts["rejected"] == len(server.questions) == 24


def test_a_part_is_left_out_from_the_first_by_the_command(corpus, tmp_path, capsys):
    bodies = []
    with serve(lambda question: bodies.append(question.body) or Reply("anger")) as url:
        words = [corpus.folder, "--out", tmp_path / "out", "--model", "m", "--base-url", url, "--question", "emotion"]
        words += ["--items", 4, "--annotators", 3, "--omit", "seed", "--omit", "system"]
        with pytest.raises(SystemExit, match="0"):
            cli.main(["annotate", *map(str, words)])
    assert len(bodies) == 12 and not any(HAS["seed"](body) or HAS["system"](body) for body in bodies)
    assert "12 of 12 answers are to questions without a seed" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("backend", "omit", "said"),
    [
        ("openai", "seeds", "omit is 'seeds' (did you mean 'seed'?), and backend openai can"),
        ("gemini", "max_tokens", "omit is 'max_tokens', and backend gemini can leave out seed, system, temperature"),
        ("local", "seed", "omit is 'seed', and backend local can leave out nothing"),
    ],
)
def test_what_cannot_be_left_out(corpus, tmp_path, capsys, backend, omit, said):
    words = [
        corpus.folder,
        "--out",
        tmp_path / "out",
        "--model",
        "m",
        "--backend",
        backend,
        "--omit",
        omit,
        "--dry-run",
    ]
    words += ["--question", "emotion"]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["annotate", *map(str, words)])
    assert said in " ".join(capsys.readouterr().err.split())
