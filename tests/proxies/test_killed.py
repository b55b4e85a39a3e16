"""Runs that end in the middle, in processes of their own."""

import collections
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from annot_hf.data.synthetic import read_annotations
from benchmarks.chat_server import Reply, serve


class SlowServer:
    """Answers after a moment, and knows whose answers it sent."""

    def __init__(self, seconds=0.01):
        self.sent, self.lock, self.seconds = collections.Counter(), threading.Lock(), seconds

    def __call__(self, question):
        with self.lock:
            self.sent[question.headers["idempotency-key"]] += 1
        return Reply("anger", stall=self.seconds)


def start(corpus, out, url, *words):
    command = [
        sys.executable,
        "-m",
        "annot_hf",
        "annotate",
        str(corpus.folder),
        "--out",
        str(out),
        "--model",
        "listener",
    ]
    command += ["--question", "emotion", "--base-url", url, "--annotators", "20", "--concurrency", "4", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(out, attempts, which="status = 'label'"):
    """Until the database has so many attempts, answered with a label or as said."""
    for _ in range(60_000):
        try:
            with contextlib.closing(sqlite3.connect(f"file:{out / 'attempts.sqlite'}?mode=ro", uri=True)) as database:
                if database.execute(f"SELECT count(*) FROM attempt WHERE {which}").fetchone()[0] >= attempts:
                    return
        except sqlite3.OperationalError:
            pass
        time.sleep(0.005)
    raise AssertionError(f"the database never had {attempts} attempts with {which}")


def test_killed_twice_it_asks_again_only_what_was_under_way(corpus, tmp_path, exported):
    server, out = SlowServer(), tmp_path / "out"
    with serve(server) as url:
        for answers in (20, 70):
            process = start(corpus, out, url)
            wait_for(out, answers)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert len(exported("label")) >= answers
        finished = start(corpus, out, url)
        shown, errors = finished.communicate(timeout=600)
    assert finished.returncode == 0, errors
    found = re.search(r"(\d+) questions were under way when earlier runs were killed", " ".join(shown.split()))
    under_way = 0 if found is None else int(found[1])
    assert len(server.sent) == 8 * 20
    again = sum(count - 1 for count in server.sent.values())
    assert again <= under_way <= 2 * 4  # two kills, at most four under way at each
    answered = collections.Counter((one["item"], one["annotator"]) for one in exported("label"))
    assert set(answered.values()) == {1}
    assert len(read_annotations(out).votes) == 160


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_is_under_way_come_home(corpus, tmp_path, number):
    server, out = SlowServer(), tmp_path / "out"
    with serve(server) as url:
        process = start(corpus, out, url)
        wait_for(out, 20)
        process.send_signal(number)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 2
        assert number.name in errors
        assert "the same command resumes the run" in " ".join(errors.split())
        before = sum(server.sent.values())
        assert len(read_annotations(out).votes) == before < 160
        finished = start(corpus, out, url)
        finished.communicate(timeout=600)
    assert sum(server.sent.values()) == 160


def test_two_runs_on_one_folder_refuse_each_other(corpus, tmp_path):
    server, out = SlowServer(seconds=600.0), tmp_path / "out"
    with serve(server) as url:
        first = start(corpus, out, url)
        wait_for(out, 4, "status IS NULL")
        second = start(corpus, out, url)
        _, errors = second.communicate(timeout=600)
        assert first.poll() is None
        first.kill()
        first.communicate(timeout=600)
    assert second.returncode == 2
    assert "Another run is writing to" in errors
    assert set(server.sent.values()) <= {1}


def test_the_extra_is_named_when_a_library_is_missing(corpus, tmp_path):
    code = (
        "import sys; sys.modules['openai'] = None; sys.modules['google.genai'] = None\n"
        "from annot_hf.cli.app import main; main(sys.argv[1:])"
    )
    for backend in ("openai", "gemini"):
        words = ["annotate", str(corpus.folder), "--out", str(tmp_path / "o"), "--model", "m", "--question", "emotion"]
        command = [sys.executable, "-c", code, *words, "--backend", backend, "--base-url", "http://127.0.0.1:9/v1"]
        found = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"GEMINI_API_KEY": "k"})
        assert found.returncode == 2
        assert "annot-hf[alm]" in found.stderr
