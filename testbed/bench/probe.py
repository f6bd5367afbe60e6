"""Asking a Service who answers, one connection at a time, from the client pod.

For what is not load: whether traffic flows yet, and how connections are spread. Must not know lanes.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from testbed.errors import WaitTimeout
from testbed.net.namespace import Namespace

ASK = b"?\n"
CHECK_S = 1.0
SHORTEST_PAUSE_S = 0.002
PAUSE_SHARE = 0.02
MOST_UNDER_WAY = 64
LONGEST_ANSWER = 512


@dataclass(frozen=True)
class Target:
    """An address, a port and a protocol ("TCP" or "UDP")."""

    host: str
    port: int
    protocol: str = "TCP"

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port


def ask(target: Target, timeout_s: float, held: ExitStack | None = None) -> str:
    """The name of the pod that answers a new connection; kept open by `held`, else closed.

    Raises OSError when nobody answers within `timeout_s`.
    """
    connection = _socket_for(target)
    with ExitStack() as own:
        (held or own).enter_context(connection)
        connection.settimeout(timeout_s)
        connection.connect(target.address)
        connection.send(ASK)
        answer = connection.recv(LONGEST_ANSWER)
    if not answer:
        raise ConnectionResetError("closed without an answer")
    return answer.partition(b" ")[0].decode(errors="replace")


def wait_answer(client: Namespace, target: Target, timeout_s: float, check: Callable[[], None]) -> int:
    """Ask until somebody answers; when that was, in ns of the monotonic clock.

    `check` is called about every second and may raise to give up early. Raises WaitTimeout.
    """
    since = time.monotonic()
    deadline = since + timeout_s
    while (now := time.monotonic()) < deadline:
        answered_ns = client.run(_first_answer, target, since, min(deadline, now + CHECK_S))
        if answered_ns is not None:
            return answered_ns
        check()
    raise WaitTimeout(f"an answer from {target.host}:{target.port}", timeout_s)


def ask_many(
    client: Namespace, target: Target, count: int, *, hold: bool = False
) -> tuple[list[str], dict[str, int]]:
    """The names of those who answered `count` new connections, in order, and the errors by name.

    With `hold` all connections stay open until the last has been answered.
    """
    return client.run(_ask_many, target, count, hold)


def _first_answer(target: Target, since: float, deadline: float) -> int | None:
    """Start one attempt after another without waiting for the earlier ones: the first answer of any counts.

    A packet that met no rule is lost, and TCP repeats it after a second, so waiting for each attempt would
    round the time up to its timeout. The pause grows with the time waited: what is told is accurate to 2 %,
    and the attempts cost the proxy little.
    """
    with _Attempts(target) as attempts:
        while (now := time.monotonic()) < deadline:
            attempts.start_one()
            pause_s = max(SHORTEST_PAUSE_S, (now - since) * PAUSE_SHARE)
            if (answered_ns := attempts.wait(min(pause_s, deadline - now))) is not None:
                return answered_ns
    return None


class _Attempts:
    """Connections under way to one target, none of them waited for alone."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._poll = select.poll()
        self._under_way: dict[int, socket.socket] = {}

    def start_one(self) -> None:
        if len(self._under_way) >= MOST_UNDER_WAY:
            self._end(next(iter(self._under_way)))
        attempt = _socket_for(self._target)
        attempt.setblocking(False)
        if attempt.connect_ex(self._target.address) not in (0, errno.EINPROGRESS):
            attempt.close()
            return
        self._under_way[attempt.fileno()] = attempt
        self._poll.register(attempt, select.POLLOUT)

    def wait(self, timeout_s: float) -> int | None:
        """When the first answer came, or None if none did within the time."""
        ends = time.monotonic() + timeout_s
        while (left_s := ends - time.monotonic()) > 0:
            for fd, event in self._poll.poll(max(1, round(left_s * 1000))):
                if self._is_answered(fd, event):
                    return time.perf_counter_ns()
        return None

    def _is_answered(self, fd: int, event: int) -> bool:
        """Take an attempt a step further: ask once it is connected, then listen. One that fails is over."""
        attempt = self._under_way[fd]
        try:
            if event == select.POLLOUT:
                attempt.send(ASK)
                self._poll.modify(attempt, select.POLLIN)
                return False
            if attempt.recv(LONGEST_ANSWER):
                return True
        except OSError:
            pass
        self._end(fd)
        return False

    def _end(self, fd: int) -> None:
        attempt = self._under_way.pop(fd)
        self._poll.unregister(attempt)
        attempt.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in list(self._under_way):
            self._end(fd)


def _ask_many(target: Target, count: int, hold: bool) -> tuple[list[str], dict[str, int]]:
    names: list[str] = []
    errors: dict[str, int] = {}
    with ExitStack() as held:
        for _ in range(count):
            try:
                names.append(ask(target, 2.0, held if hold else None))
            except OSError as error:
                named = type(error).__name__
                errors[named] = errors.get(named, 0) + 1
    return names, errors


def _socket_for(target: Target) -> socket.socket:
    kind = socket.SOCK_DGRAM if target.protocol == "UDP" else socket.SOCK_STREAM
    return socket.socket(socket.AF_INET6 if ":" in target.host else socket.AF_INET, kind)
