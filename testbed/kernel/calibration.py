"""What a few fixed loops and copies cost by the clock of the kernel this process runs in.

A part of an instrument's identity: under the clock that counts instructions the same emulator, kernel, Python
and libc give the same figures everywhere, and a figure that moved names the part that did. By the wall clock
it is just the speed of the machine. Owns the loops; they must never change, or older figures mean nothing.
"""

from __future__ import annotations

import gc
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from testbed.kernel.line import Line
from testbed.kernel.probe import find_features

JOB = "testbed.kernel.calibration:main"
_REPEATS = 9
_PIPE_BYTES = 1 << 16


def main(arguments: dict[str, Any], line: Line) -> int:
    """Job entry: send the vector, and after it what `testbed.kernel.probe` finds out."""
    line.send({"vector": dict(measure())})
    line.send(find_features(arguments["elsewhere"]))
    return 0


def measure() -> Mapping[str, float]:
    """Return nanoseconds, so instructions under that clock, of one operation of each kind; takes 30 ms."""
    vector = {}
    with _without_garbage_collection():
        vector["integer loop"] = _cost(_add, 2000)
        vector["division loop"] = _cost(_divide, 2000)
        vector["getppid"] = _cost(_get_parents, 500)
        with _pipe() as (reader, writer):
            vector["64 KiB through a pipe"] = _cost(lambda count: _copy(reader, writer, count), 20)
        one, other = socket.socketpair()
        with one, other:
            vector["ping over a socket pair"] = _cost(lambda count: _ping(one, other, count), 200)
    return vector


def _cost(work: Callable[[int], object], count: int) -> float:
    """The median cost of one of `count` operations, after a first time that does not count."""
    work(count)
    costs = []
    for _ in range(_REPEATS):
        began_ns = time.perf_counter_ns()
        work(count)
        costs.append((time.perf_counter_ns() - began_ns) / count)
    return round(statistics.median(costs), 1)


def _add(count: int) -> int:
    total = 0
    for number in range(count):
        total += number
    return total


def _divide(count: int) -> int:
    rest = 0
    for number in range(1, count + 1):
        rest += 1_000_003 // number
    return rest


def _get_parents(count: int) -> None:
    for _ in range(count):
        os.getppid()


def _copy(reader: int, writer: int, count: int) -> None:
    data = bytes(_PIPE_BYTES)
    for _ in range(count):
        os.write(writer, data)
        os.read(reader, _PIPE_BYTES)


def _ping(one: socket.socket, other: socket.socket, count: int) -> None:
    for _ in range(count):
        one.send(b"?")
        other.recv(1)
        other.send(b"!")
        one.recv(1)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)
