"""What the CPU did in a block besides the load: nothing at all, or a timer's interrupt.

Owns the two files that tell it. Read outside of a block's time; must not know what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from time import perf_counter_ns

_SCHEDSTAT = Path("/proc/schedstat")
_INTERRUPTS = Path("/proc/interrupts")
_RUN_TIME = 7
"""The field of a `cpuN` line with the time that tasks have run on it, in ns (Documentation/scheduler)."""


@dataclass(frozen=True)
class CpuReading:
    """Running totals at one moment of a kernel's clock; None where the kernel does not tell."""

    at_ns: int
    busy_ns: int | None
    timer_interrupts: int | None

    def idle_ns(self, before: CpuReading) -> int | None:
        """How long there was nothing to run since `before`.

        A task is counted when it is taken off the CPU: too much or too little by what the reader itself has
        run since it was last put on, some hundred thousand instructions.
        """
        if self.busy_ns is None or before.busy_ns is None:
            return None
        return max(0, (self.at_ns - before.at_ns) - (self.busy_ns - before.busy_ns))

    def interrupts(self, before: CpuReading) -> int | None:
        """How often the timer interrupted since `before`."""
        if self.timer_interrupts is None or before.timer_interrupts is None:
            return None
        return self.timer_interrupts - before.timer_interrupts


def read_cpu() -> CpuReading:
    """Read both files now."""
    return CpuReading(
        at_ns=perf_counter_ns(),
        busy_ns=busy_ns(_text(_SCHEDSTAT)),
        timer_interrupts=timer_interrupts(_text(_INTERRUPTS)),
    )


def busy_ns(schedstat: str) -> int | None:
    """The time that tasks have run, of a kernel with one CPU: with several, one is always idle."""
    lines = [line.split() for line in schedstat.splitlines() if line.startswith("cpu")]
    return int(lines[0][_RUN_TIME]) if len(lines) == 1 and len(lines[0]) > _RUN_TIME else None


def timer_interrupts(interrupts: str) -> int | None:
    """Interrupts of the CPUs' own timers (x86: `LOC`) and of the one they share, over all CPUs."""
    found: int | None = None
    for line in interrupts.splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "LOC" or rest.endswith(" timer"):
            found = (found or 0) + sum(map(int, takewhile(str.isdecimal, rest.split())))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
