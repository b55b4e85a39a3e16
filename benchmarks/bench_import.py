"""`import annot_hf` in a fresh process: less than 0.15 s, and no torch."""

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.timing import Result

GOAL = 0.15
CODE = """
import sys, time
start = time.perf_counter()
import annot_hf
print(time.perf_counter() - start, float("torch" in sys.modules))
"""


def run() -> Iterator[Result]:
    runs = [subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True) for _ in range(5)]
    times, loaded = zip(*(map(float, run.stdout.split()) for run in runs), strict=True)
    yield Result("import annot_hf, without torch", "the goal of 0.15 s", GOAL, min(times), 1.0, max(loaded), 0)
