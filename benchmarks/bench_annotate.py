"""Asking a server that answers at once, 16 questions under way: answers a second, and memory against their number."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from annot_hf.data.export import export_corpus
from annot_hf.data.simulate import SimulatedCorpus, simulate_corpus
from annot_hf.data.synthetic import read_annotations
from benchmarks.timing import Result

RATE = 200.0  # answers a second that are asked for
FEW, MANY = 20, 100  # annotators an item
SLACK = 6.0  # MB that the process may grow by while five times as many answers come in
# VmHWM is the peak of this process alone; ru_maxrss would start at the peak of the process that started it
CODE = """
import json, re, sys, time
from annot_hf.data.export import read_export
from annot_hf.proxies.annotate import annotate
from annot_hf.proxies.job import make_job
from annot_hf.proxies.servers import OpenAIServer
folder, out, url, annotators = sys.argv[1:]
job = make_job(read_export(folder), question="emotion", annotators=int(annotators))
backend, start = OpenAIServer("stand-in", base_url=url), time.perf_counter()
report = annotate(job, backend, out, concurrency=16)
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1e3
print(json.dumps({"seconds": seconds, "peak": peak, "answers": report.counts["label"], "asked": report.asked}))
"""


def run() -> Iterator[Result]:
    """One row for the rate, one for the memory."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        export_corpus(SimulatedCorpus(simulate_corpus(home / "simulated", clips_per_speaker=4)), home / "export")
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.stand_in"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            url = server.stdout.readline().strip()
            few, many = (_ask(home, url, annotators) for annotators in (FEW, MANY))
        finally:
            server.terminate()
    asked = many["asked"]
    subject = f"annotate, {asked:,} answers, 16 in flight"
    lost = abs(asked - many["answers"]) + abs(asked - many["votes"])
    yield Result(subject, f"{RATE:g} answers a second", asked / RATE, many["seconds"], 1.0, lost, 0)
    more = f"annotate, memory (in MB), {asked / few['asked']:g}x answers"
    yield Result(
        more, f"that of {few['asked']:,} and {SLACK:g} MB", (few["peak"] + SLACK) / 1e3, many["peak"] / 1e3, 1.0, 0, 0
    )


def _ask(home: Path, url: str, annotators: int) -> dict[str, float]:
    out = home / f"out{annotators}"
    command = [sys.executable, "-c", CODE, str(home / "export"), str(out), url, str(annotators)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(found.stdout) | {"votes": len(read_annotations(out).votes)}
