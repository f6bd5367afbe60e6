"""Reading a function graph: each function's own instructions, without what it called.

Pure; owns the tracer's text. Must not know phases.

    1)  python-123    |               |  __x64_sys_connect() {
    1)  python-123    |   4.217 us    |    ip_local_out();
    1)  python-123    | 21.904 us     |  } /* __x64_sys_connect */

By the instruction clock 0.001 us is one instruction. On one CPU the tasks take turns, and each has a stack of
its own. What began before the trace, or did not end in it, is left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from testbed.ledger.tracing import Overhead

_LINE = re.compile(
    r"^\s*\d+\)\s+(?P<task>.+?)-(?P<pid>\d+)\s+\|"
    r"\s*(?:[$@*#!+]\s*)?(?:(?P<us>[\d.]+) us)?\s*\|\s*"
    r"(?:(?P<leaf>[\w.]+)(?: \[\w+\])?\(\);|(?P<enter>[\w.]+)(?: \[\w+\])?\(\) \{|(?P<leave>\}).*)$"
)

_FIRST, _OVER = "__x64_sys_socket", "__x64_sys_openat"


@dataclass
class Spent:
    """Instructions and calls, by pid and function; `calls` counts every traced call."""

    own: defaultdict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))
    calls: Counter[tuple[int, str]] = field(default_factory=Counter)
    unread: int = 0

    def within(self, pid: int) -> float:
        """All that was spent in listed functions on behalf of one process."""
        return sum(spent for (whose, _), spent in self.own.items() if whose == pid)


@dataclass
class _Frame:
    function: str
    children: float = 0.0


def read_graph(lines: Iterable[str], overhead: Overhead) -> Spent:
    """Sum up a trace, with the tracer's own instructions taken off."""
    spent = Spent()
    stacks: dict[int, list[_Frame]] = {}
    outside = overhead.per_call - overhead.within
    for line in lines:
        if (found := _LINE.match(line)) is None:
            spent.unread += _is_event(line)
            continue
        pid = int(found["pid"])
        stack = stacks.setdefault(pid, [])
        if found["enter"]:
            stack.append(_Frame(found["enter"]))
            continue
        if found["leave"] and not stack:
            continue
        frame = _Frame(found["leaf"]) if found["leaf"] else stack.pop()
        took = round(float(found["us"] or 0) * 1000)
        spent.own[pid, frame.function] += took - overhead.within - frame.children
        spent.calls[pid, frame.function] += 1
        if stack:
            stack[-1].children += took + outside
    return spent


def within_block(lines: Iterable[str], client: int) -> Iterator[str]:
    """The lines of a trace that belong to the block itself.

    The tracer is on before the load process has been asked and until it has answered. Its client opens a
    socket first, and opens files (the kernel's counters) only when the block is over.
    """
    begun = False
    for line in lines:
        if f"-{client} " in line:
            begun = begun or _FIRST in line
            if begun and _OVER in line:
                return
        if begun:
            yield line


def durations(lines: Iterable[str], function: str) -> list[float]:
    """How long each call of a function took by the trace, in instructions."""
    return [
        float(found["us"]) * 1000
        for line in lines
        if (found := _LINE.match(line)) is not None and found["leaf"] == function and found["us"]
    ]


def _is_event(line: str) -> bool:
    """Whether a line should have been readable: not a heading, a change of task or a border."""
    return bool(re.match(r"^\s*\d+\)", line)) and not ("=>" in line or "==" in line)
