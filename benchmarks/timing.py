"""How a ratio is measured: both sides in this process on the same arrays, warmed up, taken in turns, the best of each."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One row of the table: seconds of both sides, the ratio that must hold, and how far the answers differ."""

    name: str
    baseline: str
    baseline_seconds: float
    seconds: float
    goal: float
    difference: float
    tolerance: float

    @property
    def ratio(self) -> float:
        """How many times faster than the baseline."""
        return self.baseline_seconds / self.seconds

    @property
    def passed(self) -> bool:
        """Whether the ratio and the parity hold."""
        return self.ratio >= self.goal and self.difference <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAILS"
        times = f"{self.baseline_seconds * 1e3:10.3f} {self.seconds * 1e3:10.3f} {self.ratio:9.2f} {self.goal:6.2f}"
        return f"{self.name:34} {self.baseline:34} {times} {self.difference:10.1e}  {verdict}"


HEADER = f"{'subject':34} {'baseline':34} {'base ms':>10} {'ours ms':>10} {'ratio':>9} {'goal':>6} {'parity':>10}"


def best(*calls: Callable[[], object], rounds: int = 7) -> list[float]:
    """The least seconds of each call over `rounds` turns, so that a busy moment hits all alike."""
    for call in calls:
        call()
    seconds = [float("inf")] * len(calls)
    gc.disable()
    try:
        for _ in range(rounds):
            for index, call in enumerate(calls):
                start = time.perf_counter()
                call()
                seconds[index] = min(seconds[index], time.perf_counter() - start)
    finally:
        gc.enable()
    return seconds
