"""The kernel's function graph tracer: chosen functions, on for one block, off again.

Owns the files under tracefs. Runs in the guest as root; must not know phases or lanes. Tracing costs
instructions of its own, which `calibrate` measures, so that they can be taken off again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from testbed.net import syscalls

ROOT = Path("/sys/kernel/tracing")
BUFFER_KB = 24 * 1024
_GRAPH = "function_graph"
PROBED = "__x64_sys_getpgid"
"""A system call that does next to nothing, and that one call from Python makes: `os.getpgid(0)`."""

_REPEAT = 400
_OPTIONS = {
    "funcgraph-abstime": "1",
    "funcgraph-proc": "1",
    "funcgraph-tail": "1",
    "funcgraph-overhead": "0",
    "funcgraph-irqs": "1",
    "sleep-time": "0",
}
"""Durations leave out what a task slept: without that a `recv` would count all that others did meanwhile."""


@dataclass(frozen=True)
class Overhead:
    """What tracing one call costs, in instructions: in all, and of that what shows in its own duration."""

    per_call: float
    within: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(value["per_call"], value["within"])


class Tracer:
    """The tracer, set to some functions. `absent` are the names that this kernel does not know."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self.absent: tuple[str, ...] = ()

    def prepare(self, functions: Iterable[str]) -> None:
        """Choose the functions; a pattern may end in `*`. Raises OSError where there is no such tracer."""
        if not (self._root / "current_tracer").exists():
            syscalls.mount("tracefs", str(self._root), "tracefs")
        self._write("tracing_on", "0")
        self._write("current_tracer", "nop")
        self._write("buffer_size_kb", str(BUFFER_KB))
        self._write("set_ftrace_filter", "")
        self.absent = tuple(self._add(functions))
        self._start()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Trace while the block lasts, into an empty buffer."""
        (self._root / "trace").write_text("")
        self._write("tracing_on", "1")
        try:
            yield
        finally:
            self._write("tracing_on", "0")

    def save(self, path: Path) -> None:
        """Write what was traced, as the kernel prints it."""
        with (self._root / "trace").open("rb") as source, path.open("wb") as target:
            while part := source.read(1 << 20):
                target.write(part)

    @contextmanager
    def away(self) -> Iterator[None]:
        """No function is hooked while the block lasts: hooks cost something even if nothing is recorded."""
        self._write("current_tracer", "nop")
        try:
            yield
        finally:
            self._start()

    def close(self) -> None:
        self._write("current_tracer", "nop")
        self._write("set_ftrace_filter", "")

    def _start(self) -> None:
        self._write("current_tracer", _GRAPH)
        for option, value in _OPTIONS.items():
            with suppress(FileNotFoundError):
                self._write(f"options/{option}", value)

    def _add(self, functions: Iterable[str]) -> Iterator[str]:
        """Add functions to the filter; the names that are not there.

        By number, since for every name the kernel spells out all 50,000 that it knows: 100 M instructions.
        """
        numbers = self._numbers()
        for name in functions:
            if name.endswith("*"):
                self._write("set_ftrace_filter", name, append=True)
            elif name in numbers:
                self._write("set_ftrace_filter", str(numbers[name]), append=True)
            else:
                yield name

    def _numbers(self) -> dict[str, int]:
        """All functions that can be traced, by name without the compiler's suffix, counted from 1."""
        text = (self._root / "available_filter_functions").read_text(encoding="ascii")
        bare = (line.partition(" ")[0].partition(".")[0] for line in text.splitlines())
        return {name: number for number, name in enumerate(bare, start=1)}

    def _write(self, name: str, value: str, *, append: bool = False) -> None:
        fd = os.open(self._root / name, os.O_WRONLY | (os.O_APPEND if append else os.O_TRUNC))
        try:
            os.write(fd, value.encode() + b"\n")
        finally:
            os.close(fd)


def calibrate(tracer: Tracer, directory: Path) -> tuple[float, Path]:
    """What tracing adds to a call, from a system call that does nothing else; and the trace that shows it.

    The trace's durations say how much of it falls within the call itself.
    """
    with tracer.away():
        plain = _per_call()
    with tracer.on():
        traced = _per_call()
    path = directory / "trace-calibration.txt"
    tracer.save(path)
    return traced - plain, path


def _per_call() -> float:
    """Instructions of one getpgid(2) from Python."""
    for _ in range(_REPEAT):
        os.getpgid(0)
    started_ns = time.perf_counter_ns()
    for _ in range(_REPEAT):
        os.getpgid(0)
    return (time.perf_counter_ns() - started_ns) / _REPEAT
