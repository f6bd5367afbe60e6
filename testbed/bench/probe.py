"""Asking a Service who answers, one connection at a time, from the client pod.

For what is not load: whether traffic flows yet, and how connections are spread. Must not know lanes.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from testbed.errors import WaitTimeout
from testbed.net.namespace import Namespace

ASK = b"?\n"
TRY_S = 0.2
PAUSE_S = 0.002
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
    kind = socket.SOCK_DGRAM if target.protocol == "UDP" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    connection = socket.socket(family, kind)
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
    deadline = time.monotonic() + timeout_s
    while (answered_ns := client.run(_first_answer, target, min(deadline, time.monotonic() + 1.0))) is None:
        check()
        if time.monotonic() >= deadline:
            raise WaitTimeout(f"an answer from {target.host}:{target.port}", timeout_s)
    return answered_ns


def ask_many(
    client: Namespace, target: Target, count: int, *, hold: bool = False
) -> tuple[list[str], dict[str, int]]:
    """The names of those who answered `count` new connections, in order, and the errors by name.

    With `hold` all connections stay open until the last has been answered.
    """
    return client.run(_ask_many, target, count, hold)


def _first_answer(target: Target, deadline: float) -> int | None:
    while time.monotonic() < deadline:
        try:
            ask(target, TRY_S)
        except OSError:
            time.sleep(PAUSE_S)
        else:
            return time.perf_counter_ns()
    return None


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
