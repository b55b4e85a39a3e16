import asyncio
import collections
import contextlib
import json
import shutil
import subprocess
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_runs import simulated_export

from annot_hf.cli import app as cli
from annot_hf.data.export import read_export
from annot_hf.proxies.annotate import annotate
from annot_hf.proxies.job import make_job
from annot_hf.proxies.servers import OpenAIServer
from annot_hf.proxies.session import Session
from benchmarks.chat_server import Reply, serve


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """An exported corpus of 3 speakers with 4 clips each (a split a speaker), and no transcripts."""
    home = tmp_path_factory.mktemp("corpus")
    return read_export(simulated_export(home, speakers=3, clips_per_speaker=4, annotators=4, ratings=(3, 3)))


@pytest.fixture
def job(corpus):
    """Makes a job on the emotion question."""

    def make(**options):
        return make_job(corpus, **{"question": "emotion", "annotators": 3} | options)

    return make


class Server:
    """A server that counts what it was asked, by key, and answers by a function of the question and its number."""

    def __init__(self, answer):
        self.answer, self.lock = answer, threading.Lock()
        self.keys, self.questions = collections.Counter(), []

    def __call__(self, question):
        with self.lock:
            self.keys[question.headers.get("idempotency-key")] += 1
            self.questions.append(question)
            number = len(self.questions)
        reply = self.answer(question, number)
        return Reply(reply) if isinstance(reply, str) else reply


@pytest.fixture
def ask(job, tmp_path, monkeypatch):
    """Runs a job against a server that answers by a function; gives the report and the server."""
    monkeypatch.setattr("annot_hf.proxies.session.LONGEST_WAIT", 0.02)

    def run(answer, made=None, out=None, timeout=600.0, model="listener", **options):
        server = Server(answer)
        with serve(server) as url:
            backend = OpenAIServer(model, base_url=url, timeout=timeout)
            report = annotate(made or job(), backend, out or tmp_path / "out", **options)
        return report, server

    return run


@pytest.fixture
def exported(tmp_path):
    """The attempts of a folder, as `--export` writes them; those with one of the statuses, if any is named."""

    def read(*statuses, folder=None):
        file = tmp_path / "attempts.jsonl"
        with pytest.raises(SystemExit, match="0"):
            cli.main(["annotate", "--out", str(folder or tmp_path / "out"), "--export", str(file)])
        found = [json.loads(line) for line in file.read_text().splitlines()]
        return [one for one in found if not statuses or one["status"] in statuses]

    return read


@pytest.fixture
def run_out(monkeypatch):
    """Has the time of the question under way run out, whatever the clock says; for one question at a time."""
    real, latest = asyncio.timeout, []

    def timeout(_):
        latest[:] = [(asyncio.get_running_loop(), real(None))]
        return latest[0][1]

    def now():
        loop, limit = latest[0]
        loop.call_soon_threadsafe(limit.reschedule, loop.time())

    monkeypatch.setattr("annot_hf.proxies.session.asyncio.timeout", timeout)
    return now


@pytest.fixture
def clock(monkeypatch):
    """The seconds that a run has waited: a clock that stands still while it works."""
    waited = [0.0]

    async def sleep(self, seconds):
        waited[0] += seconds + 1e-9
        await asyncio.sleep(0)

    monkeypatch.setattr(Session, "_sleep", sleep)
    monkeypatch.setattr("annot_hf.proxies.session.time", SimpleNamespace(monotonic=lambda: waited[0]))
    return lambda: waited[0]


@pytest.fixture
def broken(tmp_path):
    """Makes a job of which some clips, by their place in it, cannot be read."""
    (tmp_path / "bad.wav").write_bytes(b"RIFF")

    def make(job, *places):
        items = job.corpus.items.copy()
        items["audio"] = items["audio"].astype(object)
        for place in places:
            items.loc[items.index[job.rows[place]], "audio"] = str(tmp_path / "bad.wav")
        return replace(job, corpus=replace(job.corpus, items=items))

    return make


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB, mounted at the folder of the run; gives a function that leaves only so many bytes free."""
    out = tmp_path / "out"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", out], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")

    def fill(leave):
        # The run writes to the disk at the same time, so the file may meet its end early.
        with contextlib.suppress(OSError), (out / "filler").open("wb", buffering=0) as file:
            for _ in range(max(shutil.disk_usage(out).free - leave, 0) // 1024):
                file.write(bytes(1024))

    yield fill
    subprocess.run(["umount", out], check=True)
