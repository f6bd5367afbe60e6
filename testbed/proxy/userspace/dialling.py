"""The listener behind a TCP portal, and how a client is brought to an endpoint.

Owns accepting, dialling and dialling again. Must not know Services, rules or threads. Once both sockets are
connected the connection belongs to `relay`.

A client is accepted first and its endpoint dialled afterwards, as in the original. In the common case
everything happens in one go, without waiting: accept, socket, connect, and then what the client has already
sent is read and written to the endpoint, which succeeds when the handshake is over.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from os import read, write
from select import EPOLLERR, EPOLLHUP, EPOLLIN

from testbed.net.eventloop import EventLoop, Timer
from testbed.net.rawsocket import accept, accept_ipv4, dial
from testbed.proxy.userspace.balancer import Address, Rotation
from testbed.proxy.userspace.pipes import PipePool
from testbed.proxy.userspace.relay import COPY_BYTES, READING_AND_WRITING, relay

_LOG = logging.getLogger(__name__)

DIAL_TIMEOUTS_S = (0.25, 0.5, 1.0, 2.0)
"""How long each attempt may take before the next endpoint is tried (endpointDialTimeouts in kube-proxy).

A refused attempt is followed by the next at once; after the last the client's connection is closed.
"""

BACKLOG = 4096

_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_PAUSE_S = 0.1


class TcpPort:
    """A listening proxy port. Takes over `sock`, which must be listening and non-blocking."""

    __slots__ = ("_fd", "_sock", "loop", "pipes", "rotation")

    def __init__(self, loop: EventLoop, pipes: PipePool, sock: socket.socket, rotation: Rotation) -> None:
        self.loop = loop
        self.pipes = pipes
        self.rotation = rotation
        self._sock = sock
        self._fd = sock.fileno()
        loop.watch(self._fd, self, EPOLLIN)

    def ready(self, events: int) -> None:
        """Accept one client; when more are waiting, the loop tells again."""
        client_address = ""
        try:
            if self.rotation.affinity_timeout_s is None:
                client = accept(self._fd)
            else:
                client, client_address, _ = accept_ipv4(self._fd)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _NO_RESOURCES:
                self._pause(error)
            return
        endpoint = self.rotation.next(client_address)
        if endpoint is None:
            os.close(client)
            return
        try:
            server = dial(endpoint)
        except OSError as error:
            Dial(self, client, client_address).fail(endpoint, str(error.strerror))
            return
        self._connect(client, client_address, endpoint, server)

    def _connect(self, client: int, client_address: str, endpoint: Address, server: int) -> None:
        """Pass on what the client has sent; where that does not settle it, wait for the handshake."""
        try:
            data = read(client, COPY_BYTES)
        except BlockingIOError:
            data = b""
        except OSError:
            os.close(client)
            os.close(server)
            return
        if not data:
            Dial(self, client, client_address).wait(endpoint, server)
            return
        try:
            sent = write(server, data)
        except BlockingIOError:
            Dial(self, client, client_address, data).wait(endpoint, server)
        except OSError as error:
            os.close(server)
            Dial(self, client, client_address, data).fail(endpoint, str(error.strerror))
        else:
            relay(self.loop, self.pipes, client, server, pending=data[sent:], moved=sent, watched=False)

    def close(self) -> None:
        """Stop listening; connections go on."""
        self.loop.unwatch(self._fd)
        self._sock.close()

    def _pause(self, error: OSError) -> None:
        """Leave clients in the backlog for a moment instead of spinning on an accept that cannot succeed."""
        _LOG.warning("accept: %s; pausing for %g s", error.strerror, _ACCEPT_PAUSE_S)
        self.loop.change(self._fd, 0)
        self.loop.after(_ACCEPT_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self.loop.change(self._fd, EPOLLIN)


class Dial:
    """A client whose endpoint has not answered yet."""

    __slots__ = ("_attempt", "_client", "_client_address", "_data", "_endpoint", "_port", "_server", "_timer")

    def __init__(self, port: TcpPort, client: int, client_address: str, data: bytes = b"") -> None:
        self._port = port
        self._client = client
        self._client_address = client_address
        self._data = data
        self._attempt = 0
        self._server = -1
        self._endpoint: Address | None = None
        self._timer: Timer | None = None

    def wait(self, endpoint: Address, server: int) -> None:
        """Wait until `server`, dialled for this attempt, is connected, refused or too late."""
        self._endpoint = endpoint
        self._server = server
        loop = self._port.loop
        loop.watch(server, self, READING_AND_WRITING)
        self._timer = loop.after(DIAL_TIMEOUTS_S[self._attempt], self._too_late)

    def fail(self, endpoint: Address, reason: str) -> None:
        """Note that this attempt failed, and make the next."""
        _LOG.info("dialling %s:%d: %s", *endpoint, reason)
        while True:
            self._attempt += 1
            next_endpoint = None
            if self._attempt < len(DIAL_TIMEOUTS_S):
                next_endpoint = self._port.rotation.next(self._client_address, anew=True)
            if next_endpoint is None:
                os.close(self._client)
                return
            try:
                server = dial(next_endpoint)
            except OSError as error:
                _LOG.info("dialling %s:%d: %s", *next_endpoint, error.strerror)
                continue
            self.wait(next_endpoint, server)
            return

    def ready(self, events: int) -> None:
        """The handshake is over: connected, or refused."""
        if events & (EPOLLERR | EPOLLHUP):
            self._abandon("refused")
            return
        self._stop_timer()
        port = self._port
        server = relay(
            port.loop, port.pipes, self._client, self._server, pending=self._data, moved=0, watched=True
        )
        server.ready(events)

    def close(self) -> None:
        """Give up on the client."""
        self._stop_timer()
        self._port.loop.close_fd(self._server)
        os.close(self._client)

    def _too_late(self) -> None:
        self._abandon("no answer")

    def _abandon(self, reason: str) -> None:
        self._stop_timer()
        self._port.loop.close_fd(self._server)
        if self._endpoint is not None:
            self.fail(self._endpoint, reason)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
