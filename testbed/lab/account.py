"""Where the time of a run goes, stage by stage, and how much of it is left.

Owns the launcher's view of a run's events: the machine's own time, which a kernel that counts instructions
cannot see, beside that kernel's clock. Must not know what stages there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MEASURING = "measuring "


@dataclass
class Stage:
    """A stretch of a run: the machine's time it took, and what the kernel's own clock counted meanwhile."""

    name: str
    began_s: float
    began_ns: int | None
    took_s: float = 0.0
    counted_ns: int | None = None


class Account:
    """Hears the events of a run as they arrive."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stages: list[Stage] = []
        self._measured_s = 0.0

    def enter(self, name: str, clock_ns: int | None = None) -> None:
        """A stage begins, and the one before it ends; the same name once more goes on with it."""
        if self._stages and self._stages[-1].name == name:
            return
        self.leave(clock_ns)
        self._stages.append(Stage(name, self._clock(), clock_ns))

    def leave(self, clock_ns: int | None = None) -> None:
        """The stage at hand is over."""
        if not self._stages:
            return
        last = self._stages[-1]
        last.took_s = self._clock() - last.began_s
        if clock_ns is not None and last.began_ns is not None:
            last.counted_ns = clock_ns - last.began_ns

    def hear(self, event: dict[str, Any]) -> None:
        """Account for an event; a progress without an estimate of the time left is given one."""
        match event:
            case {"event": "stage", "name": name, "clock_ns": clock_ns}:
                self.enter(str(name), clock_ns)
            case {"event": "progress", "cell": cell, "clock_ns": clock_ns}:
                self.enter(f"{MEASURING}{cell}", clock_ns)
                event.setdefault("left_s", self._left_s(event["done"]))

    def stages(self) -> list[dict[str, Any]]:
        """What run.json keeps of it."""
        return [
            {"name": one.name, "took_s": round(one.took_s, 2), "counted_ns": one.counted_ns}
            for one in self._stages
        ]

    def _left_s(self, done: float) -> float | None:
        """The measuring still to come, at the pace so far; None before there was any."""
        current = self._stages[-1]
        measured_s = self._clock() - current.began_s
        measured_s += sum(one.took_s for one in self._stages[:-1] if one.name.startswith(MEASURING))
        return measured_s * (1 - done) / done if done else None
