"""Two processes give what one gives; each run is a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")


def run(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run([*command], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(next(line for line in done.stdout.splitlines()[::-1] if line.startswith('{"processes')))


def test_ccc_over_two_processes_and_their_micro_batches_equals_one_batch():
    whole = run(sys.executable, str(SCRIPT), "12", "1")
    shared = run(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(SCRIPT), "3", "2")
    assert (whole["processes"], shared["processes"]) == (1, 2)
    assert shared["losses"] == pytest.approx(whole["losses"], abs=1e-4)
    assert shared["weight"] == pytest.approx(whole["weight"], rel=1e-7)
