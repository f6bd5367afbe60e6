"""The server behind every endpoint: listeners and connections of many pods in one epoll loop.

Owns the sockets, from the namespace they are made in to the bytes they carry. Must not know the lab, the
control channel or Kubernetes. What is said on a connection is decided in `answers`.

A connection that asks once costs eight system calls: wait, accept, recv, send, register, wait, recv, close.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from select import EPOLLERR, EPOLLIN, EPOLLOUT
from typing import Any

from testbed.cluster.answers import METHODS, QUESTION, HttpAnswers, Identity, join_host_port
from testbed.errors import TestbedError
from testbed.net.eventloop import EventLoop
from testbed.net.namespace import enter
from testbed.net.rawsocket import accept_ipv4, accept_ipv6

_LOG = logging.getLogger(__name__)

_BACKLOG = 4096
_CHUNK_BYTES = 64 * 1024
_MAX_DATAGRAM_BYTES = 65535
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_PAUSE_S = 0.1


@dataclass(frozen=True)
class Listening:
    """What one pod serves: `ports` are pairs of number and `TCP` or `UDP`, at one address of the pod."""

    pod: str
    node: str
    namespace_path: str
    address: str
    ports: tuple[tuple[int, str], ...]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Listening:
        """Rebuild one from `dataclasses.asdict` after JSON; raises KeyError, TypeError or ValueError."""
        ports = tuple((int(number), str(protocol)) for number, protocol in data["ports"])
        return cls(data["pod"], data["node"], data["namespace_path"], data["address"], ports)


class Server:
    """Serves the ports of any number of pods."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._pods: dict[str, list[_TcpListener | _UdpPort]] = {}

    @property
    def pods(self) -> Iterable[str]:
        """The names of the pods that are served."""
        return self._pods.keys()

    def add(self, listening: Listening) -> None:
        """Listen on all ports of `listening`, or on none.

        Raises TestbedError that names the pod, port, namespace and reason.
        """
        with ExitStack() as inside:
            try:
                inside.enter_context(enter(listening.namespace_path))
            except OSError as error:
                raise TestbedError(
                    f"backend cannot serve pod {listening.pod}: "
                    f"cannot enter {listening.namespace_path}: {error.strerror}"
                ) from error
            with ExitStack() as undo:
                opened: list[_TcpListener | _UdpPort] = []
                for port, protocol in listening.ports:
                    opened.append(self._open(listening, port, protocol))
                    undo.callback(opened[-1].close)
                undo.pop_all()
        self._pods.setdefault(listening.pod, []).extend(opened)

    def remove(self, pod: str) -> None:
        """Close the pod's listeners and connections, as the end of its process would.

        Raises TestbedError when the pod is not served.
        """
        if pod not in self._pods:
            raise TestbedError(f"backend serves no pod named {pod}")
        ports = self._pods.pop(pod)
        identities = {id(port.identity) for port in ports}
        for port in ports:
            port.close()
        for handler in self._loop.handlers():
            if isinstance(handler, _Connection) and id(handler.identity) in identities:
                handler.close()

    def _open(self, listening: Listening, port: int, protocol: str) -> _TcpListener | _UdpPort:
        identity = Identity(listening.pod, listening.node, listening.address, port, protocol)
        kinds: dict[str, tuple[int, type[_TcpListener] | type[_UdpPort]]] = {
            "TCP": (socket.SOCK_STREAM, _TcpListener),
            "UDP": (socket.SOCK_DGRAM, _UdpPort),
        }
        if protocol not in kinds:
            raise TestbedError(f"backend of pod {listening.pod} cannot serve protocol {protocol!r}")
        kind, serve = kinds[protocol]
        family = socket.AF_INET6 if ":" in listening.address else socket.AF_INET
        try:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
            try:
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.bind((listening.address, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen(_BACKLOG)
                return serve(self._loop, sock, identity)
            except OSError:
                sock.close()
                raise
        except OSError as error:
            place = join_host_port(listening.address, port)
            raise TestbedError(
                f"backend cannot serve pod {listening.pod} at {place}/{protocol} "
                f"in {listening.namespace_path}: {error.strerror}"
            ) from error


class _TcpListener:
    """A listening socket; the connections it accepts inherit TCP_NODELAY from it."""

    __slots__ = ("_accept", "_fd", "_loop", "_sock", "identity")

    def __init__(self, loop: EventLoop, sock: socket.socket, identity: Identity) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self.identity = identity
        self._accept = accept_ipv6 if sock.family == socket.AF_INET6 else accept_ipv4
        loop.watch(self._fd, self, EPOLLIN)

    def ready(self, events: int) -> None:
        """Accept one connection and try to answer it at once: the first request is often there already."""
        try:
            fd, host, port = self._accept(self._fd)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                self._pause(error)
            return
        connection = _Connection(self._loop, fd, self.identity, join_host_port(host, port).encode())
        connection.begin()

    def _pause(self, error: OSError) -> None:
        """Leave clients in the backlog for a moment instead of spinning on an accept that cannot succeed."""
        _LOG.warning("accept on fd %d: %s; pausing for %g s", self._fd, error.strerror, _ACCEPT_PAUSE_S)
        self._loop.change(self._fd, 0)
        self._loop.after(_ACCEPT_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.change(self._fd, EPOLLIN)

    def close(self) -> None:
        self._loop.unwatch(self._fd)
        self._sock.close()


class _Connection:
    """One client's connection. Reads nothing while an answer waits to be sent."""

    __slots__ = ("_closing", "_fd", "_fresh", "_http", "_loop", "_peer", "_unsent", "_watched", "identity")

    def __init__(self, loop: EventLoop, fd: int, identity: Identity, peer: bytes) -> None:
        self._loop = loop
        self._fd = fd
        self.identity = identity
        self._peer = peer
        self._http: HttpAnswers | None = None
        self._unsent: bytes | memoryview = b""
        self._fresh = True
        self._closing = False
        self._watched = False

    def begin(self) -> None:
        """Serve what is there already, then wait for the rest."""
        try:
            data = _read(self._fd)
        except BlockingIOError:
            self._watch(EPOLLIN)
            return
        except OSError:
            os.close(self._fd)
            return
        self._serve(data)
        if self._fd >= 0 and not self._watched:
            self._watch(EPOLLIN)

    def ready(self, events: int) -> None:
        if events & EPOLLERR:
            self.close()
        elif self._unsent:
            self._send(self._unsent)
            if not self._unsent and self._fd >= 0:
                self._loop.change(self._fd, EPOLLIN)
        elif events & ~EPOLLOUT:
            try:
                data = _read(self._fd)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            self._serve(data)

    def _serve(self, data: bytes) -> None:
        if self._fresh:
            self._fresh = False
            if data.startswith(METHODS):
                self._http = HttpAnswers(self.identity, self._peer)
        if not data:
            self.close()
        elif data == QUESTION:
            self._send(self.identity.line(self._peer))
        elif self._http is None:
            self._send(data)
        else:
            answer = self._http.feed(data)
            self._closing = self._http.closing
            if answer:
                self._send(answer)

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = os.write(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            self._watch(EPOLLOUT)
            return
        self._unsent = b""
        if self._closing:
            self.close()

    def _watch(self, events: int) -> None:
        if self._watched:
            self._loop.change(self._fd, events)
        else:
            self._watched = True
            self._loop.watch(self._fd, self, events)

    def close(self) -> None:
        if self._watched:
            self._loop.close_fd(self._fd)
        else:
            os.close(self._fd)
        self._fd = -1


_CHUNK = memoryview(bytearray(_CHUNK_BYTES))


def _read(fd: int) -> bytes:
    """What a socket holds, through one buffer for all.

    A buffer of that size for each read would come from the heap, whose state would decide what a request
    costs.
    """
    return bytes(_CHUNK[: os.readv(fd, (_CHUNK,))])


class _UdpPort:
    """A datagram socket; answers go out from the address that was asked."""

    __slots__ = ("_fd", "_loop", "_sock", "identity")

    def __init__(self, loop: EventLoop, sock: socket.socket, identity: Identity) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self.identity = identity
        loop.watch(self._fd, self, EPOLLIN)

    def ready(self, events: int) -> None:
        try:
            data, peer = self._sock.recvfrom(_MAX_DATAGRAM_BYTES)
            self._sock.sendto(self.identity.datagram(data, peer), peer)
        except BlockingIOError:
            return
        except OSError as error:
            _LOG.warning("datagram socket on fd %d: %s", self._fd, error.strerror)

    def close(self) -> None:
        self._loop.unwatch(self._fd)
        self._sock.close()
