"""How noisy the machine is, seen from the host while a run goes on.

A guest cannot see the load of the machine around it, so the launcher samples it, with the host's
clock (user-mode Linux and QEMU share it), and rounds are matched by timestamp.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

INTERVAL_S = 0.05
COLUMNS = ("time_ns", "psi_cpu_us", "psi_io_us", "psi_memory_us", "busy_ticks", "steal_ticks", "load1")


def sample() -> tuple[str, ...]:
    """One row in the order of `COLUMNS`; what this kernel does not offer is an empty field.

    Pressure is the running total of `some` stall time in microseconds (Documentation/accounting/psi),
    ticks are those of /proc/stat: busy is everything but idle and iowait.
    """
    busy, steal = _cpu_ticks()
    return (
        str(time.time_ns()),
        *(_pressure_us(resource) for resource in ("cpu", "io", "memory")),
        busy,
        steal,
        f"{os.getloadavg()[0]:.2f}",
    )


def _pressure_us(resource: str) -> str:
    try:
        some = Path(f"/proc/pressure/{resource}").read_text(encoding="ascii").splitlines()[0]
    except (OSError, IndexError):
        return ""
    return some.rpartition("total=")[2]


def _cpu_ticks() -> tuple[str, str]:
    with Path("/proc/stat").open(encoding="ascii") as stat:
        fields = [int(value) for value in stat.readline().split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return str(user + nice + system + irq + softirq), str(steal)


class NoiseRecorder:
    """Appends a row to a CSV file every `INTERVAL_S` until the context ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._record, name="noise", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _record(self) -> None:
        with self._path.open("a", encoding="ascii", buffering=1) as out:
            if out.tell() == 0:
                out.write(",".join(COLUMNS) + "\n")
            while not self._stop.wait(INTERVAL_S):
                out.write(",".join(sample()) + "\n")
