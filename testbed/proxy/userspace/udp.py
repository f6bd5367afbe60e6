"""The socket behind a UDP portal, and a session for each client.

Owns datagram sockets and when a session ends. Must not know Services, rules or threads.

A client's first datagram picks an endpoint; its session keeps a connected socket to that endpoint until
nothing passes for the idle timeout. Answers leave from the portal's socket and from the address that the
datagram arrived at, so that the client's conntrack entry turns them back into answers of the VIP: the address
that a route would choose is another one where a node talks to a second address of its own.
"""

from __future__ import annotations

import logging
import socket
import struct
from select import EPOLLIN

from testbed.net.eventloop import EventLoop, Timer
from testbed.proxy.userspace.balancer import Address, Rotation

_LOG = logging.getLogger(__name__)

_MAX_BYTES = 65535
_IP_PKTINFO = 8  # <linux/in.h>; its struct in_pktinfo holds an interface, a source and a destination
_PKTINFO = struct.Struct("=i4s4s")
_PKTINFO_SPACE = socket.CMSG_SPACE(_PKTINFO.size)
_TICKS = 4  # a session ends after 1 to 1.25 idle timeouts, and no datagram needs to read the clock


class UdpPort:
    """A proxy port for datagrams. Takes over `sock`, which must be bound and non-blocking."""

    def __init__(
        self, loop: EventLoop, sock: socket.socket, rotation: Rotation, idle_timeout_s: float
    ) -> None:
        self.rotation = rotation
        self._loop = loop
        self._sock = sock
        self._tick_s = idle_timeout_s / _TICKS
        self._sessions: dict[Address, _Session] = {}
        self._timer: Timer | None = None
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        loop.watch(sock.fileno(), self, EPOLLIN)

    @property
    def session_count(self) -> int:
        """How many clients have a session."""
        return len(self._sessions)

    def ready(self, events: int) -> None:
        """Pass one datagram on; when more are waiting, the loop tells again."""
        try:
            data, (arrival,), _, client = self._sock.recvmsg(_MAX_BYTES, _PKTINFO_SPACE)
        except OSError:
            return
        session = self._sessions.get(client) or self._open(client)
        if session is not None:
            session.arrived_at = _PKTINFO.unpack(arrival[2])[1]
            session.send(data)

    def endpoints_changed(self) -> None:
        """End the sessions whose endpoint is no longer in the rotation."""
        kept = frozenset(self.rotation.endpoints)
        for session in [session for session in self._sessions.values() if session.endpoint not in kept]:
            session.close()

    def answer(self, data: bytes, client: Address, source: bytes) -> None:
        """Send an endpoint's datagram to the client, from the packed address `source`."""
        where = (socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO.pack(0, source, bytes(4)))
        try:
            self._sock.sendmsg([data], [where], 0, client)
        except OSError as error:
            _LOG.info("answering %s:%d: %s", *client, error.strerror)

    def forget(self, client: Address) -> None:
        """Drop the session of a client that was closed."""
        self._sessions.pop(client, None)

    def close(self) -> None:
        """Close the port and its sessions."""
        for session in list(self._sessions.values()):
            session.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()

    def _open(self, client: Address) -> _Session | None:
        endpoint = self.rotation.next(client[0])
        if endpoint is None:
            return None
        try:
            session = _Session(self._loop, self, client, endpoint)
        except OSError as error:
            _LOG.info("session with %s:%d: %s", *endpoint, error.strerror)
            return None
        self._sessions[client] = session
        if self._timer is None:
            self._timer = self._loop.after(self._tick_s, self._tick)
        return session

    def _tick(self) -> None:
        for session in list(self._sessions.values()):
            session.quiet_ticks += 1
            if session.quiet_ticks > _TICKS:
                session.close()
        self._timer = self._loop.after(self._tick_s, self._tick) if self._sessions else None


class _Session:
    """The datagrams of one client with one endpoint."""

    __slots__ = ("_client", "_loop", "_port", "_sock", "arrived_at", "endpoint", "quiet_ticks")

    def __init__(self, loop: EventLoop, port: UdpPort, client: Address, endpoint: Address) -> None:
        self.endpoint = endpoint
        self.arrived_at = bytes(4)
        self.quiet_ticks = 0
        self._client = client
        self._loop = loop
        self._port = port
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._sock.connect(endpoint)
            loop.watch(self._sock.fileno(), self, EPOLLIN)
        except OSError:
            self._sock.close()
            raise

    def send(self, data: bytes) -> None:
        """Send a datagram to the endpoint; one that it refuses ends the session."""
        self.quiet_ticks = 0
        try:
            self._sock.send(data)
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def ready(self, events: int) -> None:
        """Pass the endpoint's datagram to the client."""
        try:
            data = self._sock.recv(_MAX_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self.quiet_ticks = 0
        self._port.answer(data, self._client, self.arrived_at)

    def close(self) -> None:
        """End the session; the client's next datagram begins another."""
        self._port.forget(self._client)
        self._loop.close_fd(self._sock.detach())
