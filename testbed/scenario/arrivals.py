"""Connections that arrive at a constant rate, whatever becomes of the earlier ones, from one client.

Owns the open loop: a connection's latency counts from the moment at which it was to begin, so that an outage
shows in all that came during it. Some connections are kept open and asked again and again. Must not know why
the network changes meanwhile.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from testbed.kernel.line import Line

ASK = b"?\n"
RETRANSMIT_NS = 1_000_000_000
"""TCP sends a lost SYN again after a second: what takes longer than that has met with silence."""

CLOSED = "closed"
TIMEOUT = "timeout"
_NAMES = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ETIMEDOUT: TIMEOUT,
}
_LONGEST_ANSWER = 512
_ASK_AGAIN_S = 0.1


class Arrival(NamedTuple):
    """One connection: when it was to begin, how long its answer took, and what it failed of, if it did.

    `at_ns` is by the monotonic clock; `latency_ns` counts from it, of a failed one until it failed, and
    includes `late_ns`, by which the client began late because it got no CPU.
    """

    at_ns: int
    latency_ns: int
    failure: str = ""
    late_ns: int = 0

    @property
    def lost(self) -> bool:
        """Whether it failed, or was answered only after its SYN was sent again."""
        return bool(self.failure) or self.latency_ns - self.late_ns > RETRANSMIT_NS


@dataclass(frozen=True)
class Load:
    """`rate_hz` connections a second to a TCP address, and `kept` ones that stay open.

    `usual` answers, and `usual_s` seconds, are what it takes to know how the traffic is when all is well.
    """

    host: str
    port: int
    rate_hz: float
    kept: int
    timeout_s: float
    usual: int = 100
    usual_s: float = 1.5


@dataclass
class Record:
    """All that was seen; `broken` holds what each kept connection that ended failed of, and when."""

    arrivals: list[Arrival] = field(default_factory=list)
    broken: list[Arrival] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {"arrivals": self.arrivals, "broken": self.broken}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        return cls([Arrival(*row) for row in data["arrivals"]], [Arrival(*row) for row in data["broken"]])


def serve(line: Line, load: Load) -> int:
    """A process's life: begin when told, say when enough was answered, go on until told to finish.

    Sends {"event": "warm"} once `load.usual` answers came over `load.usual_s` at least, and its record last.
    """
    if line.receive() is None:
        return 0
    loop = _Loop(load, line)
    line.send({"event": "record", **loop.run().as_json()})
    return 0


class _Loop:
    def __init__(self, load: Load, line: Line) -> None:
        self._load = load
        self._line = line
        self._epoll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._kept: dict[int, _Connection] = {}
        self._record = Record()
        self._interval_ns = round(1e9 / load.rate_hz)
        self._timeout_ns = round(load.timeout_s * 1e9)
        self._finishing = False
        self._warm = False

    def run(self) -> Record:
        for _ in range(self._load.kept):
            self._start(time.perf_counter_ns(), self._kept)
        begun_ns = due_ns = time.perf_counter_ns()
        while not self._finishing or self._open:
            now_ns = time.perf_counter_ns()
            while not self._finishing and due_ns <= now_ns:
                self._start(due_ns, self._open)
                due_ns += self._interval_ns
            self._expire(now_ns)
            self._ask_again(now_ns)
            self._tell_when_warm(now_ns - begun_ns)
            self._wait(max(0, min(due_ns - now_ns, self._interval_ns)) / 1e9)
        for connection in list(self._kept.values()):
            self._forget(connection, self._kept)
        return self._record

    def _tell_when_warm(self, since_ns: int) -> None:
        answered = len(self._record.arrivals)
        if not self._warm and answered >= self._load.usual and since_ns >= self._load.usual_s * 1e9:
            self._warm = True
            self._line.send({"event": "warm"})

    def _wait(self, timeout_s: float) -> None:
        """select(2) counts microseconds, epoll milliseconds: arrivals would all be late."""
        watched = [self._epoll.fileno(), *([] if self._finishing else [self._line.fileno()])]
        ready, _, _ = select.select(watched, [], [], timeout_s)
        if self._epoll.fileno() in ready:
            for fd, event in self._epoll.poll(0):
                self._advance(fd, event)
        if self._line.fileno() in ready:
            self._finishing = True  # told to, or nobody is there to tell

    def _start(self, at_ns: int, among: dict[int, _Connection]) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        connection = _Connection(sock, at_ns, time.perf_counter_ns() - at_ns)
        code = sock.connect_ex((self._load.host, self._load.port))
        among[sock.fileno()] = connection
        self._epoll.register(sock.fileno(), select.EPOLLOUT)
        if code not in (0, errno.EINPROGRESS):
            self._fail(connection, among, _name_of(code))

    def _advance(self, fd: int, event: int) -> None:
        """Take a connection a step further: ask once it is connected, then take the answer."""
        among = self._open if fd in self._open else self._kept
        connection = among.get(fd)
        if connection is None:
            return
        try:
            if code := connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._fail(connection, among, _name_of(code))
            elif event & select.EPOLLOUT:
                connection.sock.send(ASK)
                self._epoll.modify(fd, select.EPOLLIN)
            elif connection.sock.recv(_LONGEST_ANSWER):
                self._answered(connection, among)
            else:
                self._fail(connection, among, CLOSED)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(connection, among, _name_of(error.errno))

    def _answered(self, connection: _Connection, among: dict[int, _Connection]) -> None:
        now_ns = time.perf_counter_ns()
        if among is self._kept:
            connection.rests_until_ns = now_ns + round(_ASK_AGAIN_S * 1e9)
            return
        self._record.arrivals.append(
            Arrival(connection.at_ns, now_ns - connection.at_ns, "", connection.late_ns)
        )
        self._forget(connection, among)

    def _ask_again(self, now_ns: int) -> None:
        for connection in list(self._kept.values()):
            if 0 < connection.rests_until_ns <= now_ns:
                connection.at_ns, connection.rests_until_ns = now_ns, 0
                try:
                    connection.sock.send(ASK)
                except OSError as error:
                    self._fail(connection, self._kept, _name_of(error.errno))

    def _expire(self, now_ns: int) -> None:
        """Connections stand in the order of their beginning, so the first that has time ends the search."""
        for connection in list(self._open.values()):
            if now_ns - connection.at_ns < self._timeout_ns:
                break
            self._fail(connection, self._open, TIMEOUT)
        for connection in list(self._kept.values()):
            if not connection.rests_until_ns and now_ns - connection.at_ns >= self._timeout_ns:
                self._fail(connection, self._kept, TIMEOUT)

    def _fail(self, connection: _Connection, among: dict[int, _Connection], why: str) -> None:
        took_ns = time.perf_counter_ns() - connection.at_ns
        failed = Arrival(connection.at_ns, took_ns, why, connection.late_ns)
        (self._record.broken if among is self._kept else self._record.arrivals).append(failed)
        self._forget(connection, among)

    def _forget(self, connection: _Connection, among: dict[int, _Connection]) -> None:
        among.pop(connection.sock.fileno())
        connection.sock.close()  # which also ends its being watched


class _Connection:
    """A connection under way; one that is kept rests between an answer and the next question."""

    __slots__ = ("at_ns", "late_ns", "rests_until_ns", "sock")

    def __init__(self, sock: socket.socket, at_ns: int, late_ns: int) -> None:
        self.sock = sock
        self.at_ns = at_ns
        self.late_ns = late_ns
        self.rests_until_ns = 0


def _name_of(code: int | None) -> str:
    return _NAMES.get(code or 0) or errno.errorcode.get(code or 0, str(code))
