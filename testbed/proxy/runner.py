"""When to sync: never more often than allowed, soon after a change, and at least once per period.

Owns the clock of one proxier, as kube-proxy's BoundedFrequencyRunner does. Must not know what a sync is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST = 2  # kube-proxy's: two syncs may follow each other at once before the minimum interval holds
_RETRY_S = (1.0, 30.0)


class Schedule:
    """Says when the next run is due. Pure: every method is told the time, in seconds of one steady clock.

    `min_interval_s` apart on average, with `BURST` at once after a rest; at most `max_interval_s` apart.
    """

    def __init__(self, min_interval_s: float, max_interval_s: float, now: float, burst: int = BURST) -> None:
        self._min_s = min_interval_s
        self._max_s = max_interval_s
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = now
        self._ran_at = now
        self._wanted_at: float | None = None
        self._failures = 0

    def want(self, now: float, after_s: float = 0.0) -> None:
        """Ask for a run, `after_s` from now at the latest."""
        wanted_at = now + after_s
        self._wanted_at = wanted_at if self._wanted_at is None else min(self._wanted_at, wanted_at)

    def due_in(self, now: float) -> float:
        """Seconds until the next run; 0 when it is due."""
        periodic = self._ran_at + self._max_s
        wanted = periodic if self._wanted_at is None else min(self._wanted_at, periodic)
        return max(0.0, wanted - now, self._token_in(now))

    def start(self, now: float) -> None:
        """A run begins now: what was wanted before is served by it."""
        self._fill(now)
        self._tokens = max(0.0, self._tokens - 1.0)
        self._ran_at = now
        self._wanted_at = None

    def succeeded(self) -> None:
        """The run did its work."""
        self._failures = 0

    def failed(self, now: float) -> None:
        """The run failed: try again soon, then less and less soon."""
        pause_s = min(_RETRY_S[0] * 2.0**self._failures, _RETRY_S[1], self._max_s)
        self._failures += 1
        self.want(now, max(pause_s, self._min_s))

    def _token_in(self, now: float) -> float:
        self._fill(now)
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) * self._min_s

    def _fill(self, now: float) -> None:
        gained = (now - self._filled_at) / self._min_s if self._min_s > 0 else float(self._burst)
        self._tokens = min(float(self._burst), self._tokens + gained)
        self._filled_at = now


class Runner:
    """Calls one function from one thread according to a Schedule.

    `run` returns the seconds after which it wants to be called again though nothing changed, or None; it
    raises SyncFailed to be called again soon.
    """

    def __init__(
        self,
        run: Callable[[], float | None],
        *,
        min_interval_s: float,
        max_interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._clock = clock
        self._schedule = Schedule(min_interval_s, max_interval_s, clock())
        self._changed = threading.Condition()
        self._stopped = False

    def request(self) -> None:
        """Something changed; from any thread."""
        with self._changed:
            self._schedule.want(self._clock())
            self._changed.notify()

    def stop(self) -> None:
        """Let `loop` return after the run that is going on, if any; from any thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def loop(self) -> None:
        """Run when due until stopped; what `run` raises besides SyncFailed comes out."""
        while self._wait_until_due():
            try:
                again_after_s = self._run()
            except SyncFailed:
                with self._changed:
                    self._schedule.failed(self._clock())
                continue
            with self._changed:
                self._schedule.succeeded()
                if again_after_s is not None:
                    self._schedule.want(self._clock(), again_after_s)

    def _wait_until_due(self) -> bool:
        with self._changed:
            while not self._stopped:
                due_in_s = self._schedule.due_in(self._clock())
                if due_in_s <= 0:
                    self._schedule.start(self._clock())
                    return True
                self._changed.wait(due_in_s)
        return False


class SyncFailed(Exception):
    """A run did not do its work and must be repeated; the cause has been logged."""
