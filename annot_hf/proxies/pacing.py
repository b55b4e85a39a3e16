"""When the next question may go out: a rate, and pauses that the server asks for."""

import time
from collections.abc import Awaitable, Callable

import tenacity

from annot_hf.proxies.backend import Busy

LONGEST_WAIT = 60.0  # seconds (s) between two tries, unless the server asks for more
LONGEST_PAUSE = 3600.0  # seconds (s); a server that asks for more is not waited for


class Pacer:
    """Turns for all questions of a run.

    Args:
        rate: Most questions a second; None for any number.
        sleep: Waits so many seconds (s), or less when the run ends.
    """

    def __init__(self, rate: float | None, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._gap, self._sleep = 0.0 if rate is None else 1 / rate, sleep
        self._next = 0.0

    async def turn(self, questions: int = 1) -> None:
        """Wait until so many questions may go out together, or the run ends."""
        while (now := time.monotonic()) < self._next:
            before = self._next
            await self._sleep(before - now)
            if time.monotonic() < before:
                return  # the run ends
        self._next = now + self._gap * questions

    def pause(self, seconds: float) -> None:
        """Let no question out for so long."""
        self._next = max(self._next, time.monotonic() + seconds)


def waiting(state: tenacity.RetryCallState) -> float:
    """Seconds until the next try: exponential with full jitter, and never less than the server asked for."""
    drawn = tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT)(state)
    error = state.outcome.exception()
    return max(drawn, (error.retry_after or 0.0) if isinstance(error, Busy) else 0.0)
