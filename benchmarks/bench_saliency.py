"""Saliency of 13 layers of 768 units in a fresh process: peak memory below 1 GB, however many items; parity with NumPy."""

import json
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.timing import Result

GIGABYTES = 1.0
# VmHWM is the peak of this process alone; ru_maxrss would start at the peak of the process that started it
CODE = """
import json, re, sys
import numpy as np
from annot_hf.evaluation.saliency import CrossMoments, layer_scores
items, formula = int(sys.argv[1]), sys.argv[2]
rng, moments, kept = np.random.default_rng(0), CrossMoments(among_units=formula == "penalised"), []
for start in range(0, items, 50):
    targets = rng.random((50, 8), np.float32)
    units = rng.standard_normal((50, 13, 768), np.float32)
    units[:, 6] += targets[:, :1]
    moments.update(units, targets)
    kept.append(np.concatenate([units[:, 6, :4], targets], 1))
scores = layer_scores(moments, formula)
assert scores.mean(1).argmax() == 6
expected = np.corrcoef(np.concatenate(kept).astype(np.float64), rowvar=False)[:4, 4:]
difference = float(np.abs(moments.correlations()[6, :4] - expected).max())
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024 / 1e9
print(json.dumps([peak, difference]))
"""


def run() -> Iterator[Result]:
    for formula, items in (("absolute", 30_000), ("penalised", 3_000)):
        command = [sys.executable, "-c", CODE, str(items), formula]
        peak, difference = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        subject = f"saliency, {formula}, {items // 1000}k items"
        yield Result(subject, "the goal of 1 GB (in MB)", GIGABYTES, peak, 1.0, difference, 1e-9)
