"""What the bench tells the launcher, and the turn to measure that the launcher gives.

Owns the events on the line: stage, progress, note, lock and unlock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from testbed.errors import ProcessDied


class Wire(Protocol):
    """The job's end of the line to the launcher."""

    def send(self, message: dict[str, Any], /) -> None: ...

    def receive(self, timeout_s: float | None = None) -> dict[str, Any] | None: ...


class Launcher:
    """The launcher as the bench sees it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def stage(self, name: str) -> None:
        self._wire.send({"event": "stage", "name": name, "clock_ns": time.perf_counter_ns()})

    def note(self, text: str) -> None:
        self._wire.send({"event": "note", "text": text})

    def progress(self, cell: str, number: int, total: int, *, left_s: float, done: float) -> None:
        """So many rounds of a cell are over, and the share `done` of all; `left_s` is time of this kernel."""
        event: dict[str, Any] = {"event": "progress", "cell": cell, "round": number, "of": total}
        left = {"left_s": round(left_s, 1)} if math.isfinite(left_s) else {}
        self._wire.send(event | left | {"done": round(done, 4), "clock_ns": time.perf_counter_ns()})

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the machine-wide turn to measure; waits as long as another run has it.

        Raises ProcessDied when the launcher is gone.
        """
        self._wire.send({"event": "lock"})
        if self._wire.receive() is None:
            raise ProcessDied("the launcher", None)
        try:
            yield
        finally:
            self._wire.send({"event": "unlock"})
