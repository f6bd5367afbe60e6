"""Reading a function graph: each function's own instructions, without what it called.

Pure; owns the tracer's text. Must not know phases.

    83.551204 |   0)  python-123    |               |  __x64_sys_connect() {
    83.551211 |   0)  python-123    |   4.217 us    |    ip_local_out();
    83.551226 |   0)  python-123    | 21.904 us     |  } /* __x64_sys_connect */

By the instruction clock 0.001 us is one instruction. On one CPU the tasks take turns, and each has a stack of
its own. What began before the trace, or did not end in it, is left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from testbed.ledger.tracing import Overhead

_LINE = re.compile(
    r"^\s*(?:(?P<at>\d+\.\d+) \|\s*)?\d+\)\s+.+?-(?P<pid>\d+)\s+\|"
    r"\s*(?:[$@*#!+]\s*)?(?:(?P<us>[\d.]+) us)?\s*\|\s*"
    r"(?:(?P<leaf>[\w.]+)(?: \[\w+\])?\(\);|(?P<enter>[\w.]+)(?: \[\w+\])?\(\) \{|(?P<leave>\}).*)$"
)

_CLOSING = ("__x64_sys_close", "__x64_sys_shutdown")


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


@dataclass(frozen=True)
class Excerpt:
    """The lines of a trace that belong to some requests, and all that was executed meanwhile."""

    lines: Sequence[str]
    requests: int
    window: float


def connections(lines: Iterable[str], client: int) -> Excerpt:
    """From the client's first socket to its last: so many connections less one.

    The tracer is on before the load process has been asked and until it has answered.
    """
    kept = list(lines)
    return _excerpt(kept, list(_begun(kept, client, "__x64_sys_socket")))


def requests(lines: Iterable[str], client: int) -> Excerpt:
    """From the first request after all connections were opened to the last one."""
    kept = list(lines)
    opened = list(_begun(kept, client, "__x64_sys_socket"))
    sent = list(_begun(kept, client, "__x64_sys_sendto"))
    # The first message on a connection asks who answers; after the first close the block is reported.
    after = opened[-1] if opened else len(kept)
    closing = min(
        (place for name in _CLOSING for place in _begun(kept, client, name) if place > after),
        default=len(kept),
    )
    return _excerpt(kept, [place for place in sent if after < place < closing][1:])


def _begun(lines: Sequence[str], pid: int, function: str) -> Iterator[int]:
    """The places where a thread calls a function."""
    for place, line in enumerate(lines):
        found = _LINE.match(line) if function in line else None
        if found and int(found["pid"]) == pid and function in (found["enter"], found["leaf"]):
            yield place


def _excerpt(lines: Sequence[str], starts: Sequence[int]) -> Excerpt:
    """From the first of these lines to just before the last, each of which begins a request."""
    if len(starts) < 2:
        return Excerpt((), 0, 0.0)
    first, last = starts[0], starts[-1]
    began, ended = (_LINE.match(lines[place]) for place in (first, last))
    assert began is not None
    assert ended is not None
    window = (float(ended["at"] or 0) - float(began["at"] or 0)) * 1e9
    return Excerpt(lines[first:last], len(starts) - 1, window)


def durations(lines: Iterable[str], function: str) -> list[float]:
    """How long each call of a function took by the trace, in instructions."""
    return [
        float(found["us"]) * 1000
        for line in lines
        if (found := _LINE.match(line)) is not None and found["leaf"] == function and found["us"]
    ]


def _is_event(line: str) -> bool:
    """Whether a line should have been readable: not a heading, a change of task or a border."""
    return bool(re.match(r"^\s*(?:\d+\.\d+ \|\s*)?\d+\)", line)) and not ("=>" in line or "==" in line)
