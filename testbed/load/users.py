"""The Locust users: what one request of each kind is, and what of it is timed.

Every kind takes at most three readings of the clock a request (start, connected, first byte): inside
user-mode Linux each one is a system call. Closing, recording and Locust's own events stay outside the timed
window. Runs only inside the load process; must not know what the targets are.
"""

from __future__ import annotations

import errno
import json
import random
import socket
import struct
from _socket import socket as BlockingSocket  # noqa: N812 - the C class that gevent leaves alone
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from gevent.queue import Queue
from locust import FastHttpUser, User

from testbed.load.block import SECOND
from testbed.load.recorder import Recorder

ASK = b"?\n"
"""Answered by a backend with its pod's name and the peer it saw."""

PING = b".\n"
"""Anything else is echoed."""

LONGEST_ANSWER = 512

Target = tuple[str, int]
OpenSocket = Callable[[int, int, int], Any]
"""(address family, socket type, timeout in ns) -> a socket whose operations end by that time."""


@dataclass
class Turn:
    """One user's part in a block."""

    targets: Sequence[Target]
    ends_ns: int
    timeout_ns: int
    seed: int
    open_socket: OpenSocket
    recorder: Recorder
    done: Callable[[], None]
    drain: bool = False

    def visits(self) -> Iterator[tuple[int, Target]]:
        """Endlessly all targets, each time around in a new order."""
        order = list(enumerate(self.targets))
        shuffle = random.Random(self.seed).shuffle  # noqa: S311 - an order, not a secret
        while True:
            shuffle(order)
            yield from order

    def open(self, target: Target, kind: int) -> Any:
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        return self.open_socket(family, kind, self.timeout_ns)

    def finish(self, connection: Any) -> None:
        """Let go of a connection whose time has been taken."""
        if self.drain:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(LONGEST_ANSWER):
                pass

    def is_whole(self) -> bool:
        """Whether the block has seen as many answers as it has targets: a slow round must not lack one."""
        return len(self.recorder.taken) >= len(self.targets)

    def failed(self, error: OSError) -> bool:
        """Count a failed request; true when the turn is over."""
        self.recorder.errors[reason(error)] += 1
        return perf_counter_ns() >= self.ends_ns


class BlockUser(User):  # type: ignore[misc]
    """A Locust user that takes part in one block after another, waiting at its gate in between."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.gate: Queue = Queue()

    def take_part(self) -> None:
        turn: Turn = self.gate.get()
        try:
            self.play(turn)
        except Exception as error:
            turn.recorder.errors[f"{type(error).__name__}: {error}"] += 1
            raise
        finally:
            turn.done()

    tasks = [take_part]  # noqa: RUF012 - Locust's way to say it

    @abstractmethod
    def play(self, turn: Turn) -> None:
        """Make requests until the turn ends; every kind of user has its own way."""


class NewConnectionUser(BlockUser):
    """A TCP connection for every request: connect, ask, first byte of the answer, close."""

    abstract = False

    def play(self, turn: Turn) -> None:
        record = turn.recorder.taken.append
        for index, target in turn.visits():
            connection = turn.open(target, socket.SOCK_STREAM)
            try:
                start = perf_counter_ns()
                connection.connect(target)
                connected = perf_counter_ns()
                connection.send(ASK)
                answer = connection.recv(LONGEST_ANSWER)
                first_byte = perf_counter_ns()
                _refuse_empty(answer)
                turn.finish(connection)
            except OSError as error:
                if turn.failed(error):
                    return
                continue
            finally:
                connection.close()
            record((index, start, connected, first_byte, answer))
            if first_byte >= turn.ends_ns and turn.is_whole():
                return


class KeepaliveUser(BlockUser):
    """One open TCP connection a target, kept over the block; a request is one message and its echo.

    Opening the connections is part of the block but of no sample.
    """

    abstract = False

    def play(self, turn: Turn) -> None:
        record = turn.recorder.taken.append
        connections: dict[int, tuple[Any, bytes]] = {}
        try:
            for index, target in turn.visits():
                try:
                    if index not in connections:
                        connections[index] = self._connect(turn, target)
                    connection, name = connections[index]
                    start = perf_counter_ns()
                    connection.send(PING)
                    answer = connection.recv(LONGEST_ANSWER)
                    first_byte = perf_counter_ns()
                    _refuse_empty(answer)
                except OSError as error:
                    if index in connections:
                        connections.pop(index)[0].close()
                    if turn.failed(error):
                        return
                    continue
                record((index, start, start, first_byte, name))
                if first_byte >= turn.ends_ns and turn.is_whole():
                    return
        finally:
            for connection, _ in connections.values():
                connection.close()

    @staticmethod
    def _connect(turn: Turn, target: Target) -> tuple[Any, bytes]:
        connection = turn.open(target, socket.SOCK_STREAM)
        try:
            connection.connect(target)
            connection.send(ASK)
            name = connection.recv(LONGEST_ANSWER)
            _refuse_empty(name)
        except OSError:
            connection.close()
            raise
        return connection, name


class UdpUser(BlockUser):
    """A new UDP flow for every request: a datagram from a new port, and its answer."""

    abstract = False

    def play(self, turn: Turn) -> None:
        record = turn.recorder.taken.append
        for index, target in turn.visits():
            flow = turn.open(target, socket.SOCK_DGRAM)
            try:
                start = perf_counter_ns()
                flow.connect(target)
                connected = perf_counter_ns()
                flow.send(ASK)
                answer = flow.recv(LONGEST_ANSWER)
                first_byte = perf_counter_ns()
            except OSError as error:
                if turn.failed(error):
                    return
                continue
            finally:
                flow.close()
            record((index, start, connected, first_byte, answer))
            if first_byte >= turn.ends_ns and turn.is_whole():
                return


class HttpUser(BlockUser, FastHttpUser):  # type: ignore[misc]
    """The application's view: Locust's FastHttpUser, a connection a request, timed to the whole response.

    The client is several times dearer than the dataplane under test; Locust reports its requests itself.
    """

    abstract = False
    host = "http://target.invalid"
    connection_timeout = 2.0
    network_timeout = 2.0

    def play(self, turn: Turn) -> None:
        record = turn.recorder.taken.append
        for index, (host, port) in turn.visits():
            url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
            start = perf_counter_ns()
            response = self.client.get(url, headers={"Connection": "close"})
            whole = perf_counter_ns()
            if response.status_code == 200:
                record((index, start, start, whole, json.loads(response.content)["pod"].encode()))
            else:
                error = getattr(response, "error", None)
                named = reason(error) if isinstance(error, OSError) else f"HTTP {response.status_code}"
                turn.recorder.errors[named] += 1
            if whole >= turn.ends_ns and turn.is_whole():
                return


CLASSES: dict[str, type[BlockUser]] = {
    "new-connection": NewConnectionUser,
    "keepalive": KeepaliveUser,
    "udp": UdpUser,
    "http": HttpUser,
}


def open_blocking(family: int, kind: int, timeout_ns: int) -> BlockingSocket:
    """A socket that blocks the process and leaves the timeout to the kernel: the fewest system calls."""
    opened = BlockingSocket(family, kind)
    limit = struct.pack("@ll", timeout_ns // SECOND, timeout_ns % SECOND // 1000)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    return opened


def open_cooperative(family: int, kind: int, timeout_ns: int) -> socket.socket:
    """A gevent socket: many users of one process take turns."""
    opened = socket.socket(family, kind)
    opened.settimeout(timeout_ns / SECOND)
    return opened


def reason(error: OSError) -> str:
    """A short, stable name for what went wrong: `timeout`, `closed` or the errno's name."""
    if isinstance(error, _Closed):
        return "closed"
    # A socket with SO_SNDTIMEO ends an overdue connect with EINPROGRESS and an overdue recv with EAGAIN.
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return "timeout"
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


class _Closed(OSError):
    """The peer closed the connection without an answer."""


def _refuse_empty(answer: bytes) -> None:
    if not answer:
        raise _Closed
