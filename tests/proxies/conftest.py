import collections
import threading

import pytest

from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.simulate import SimulatedCorpus, simulate_corpus
from annot_hf.proxies.annotate import annotate
from annot_hf.proxies.job import make_job
from annot_hf.proxies.openai_server import OpenAIServer
from benchmarks.chat_server import Reply, serve


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """An exported corpus of 3 speakers with 4 clips each (a split a speaker), and no transcripts."""
    home = tmp_path_factory.mktemp("corpus")
    root = simulate_corpus(home / "simulated", speakers=3, clips_per_speaker=4, annotators=4, ratings=(3, 3))
    export_corpus(SimulatedCorpus(root), home / "export")
    return read_export(home / "export")


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
    monkeypatch.setattr("annot_hf.proxies.pacing.LONGEST_WAIT", 0.02)

    def run(answer, made=None, out=None, timeout=5.0, model="listener", **options):
        server = Server(answer)
        with serve(server) as url:
            backend = OpenAIServer(model, base_url=url, timeout=timeout)
            report = annotate(made or job(), backend, out or tmp_path / "out", **options)
        return report, server

    return run
