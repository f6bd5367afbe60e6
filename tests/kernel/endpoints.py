"""Endpoints for tests of relays: servers in threads, one function for each connection."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from testbed.proxy.iptables.restore import Iptables
from testbed.proxy.model import Family, ServicePortName
from testbed.proxy.userspace.ports import ProxyPorts, Targets

WEB = ServicePortName("default", "web", "")
TIMEOUT_S = 20.0
Conversation = Callable[[socket.socket], None]


class Endpoint:
    """A TCP server that has `talk` speak on each connection in a thread of its own."""

    def __init__(self, talk: Conversation, address: str = "127.0.0.1") -> None:
        self._talk = talk
        self._sock = socket.create_server((address, 0), backlog=1024)
        self.address: tuple[str, int] = self._sock.getsockname()
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._sock.accept()
                connection.settimeout(TIMEOUT_S)
                self.connections.append(connection)
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            self._talk(connection)

    def close(self) -> None:
        """Refuse connections from now on."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def connect(address: tuple[str, int]) -> socket.socket:
    """A client connection whose calls give up after a while."""
    return socket.create_connection(address, timeout=TIMEOUT_S)


def receive_all(sock: socket.socket) -> bytes:
    """Everything up to the end that the peer sends."""
    pieces = []
    while piece := sock.recv(1 << 18):
        pieces.append(piece)
    return b"".join(pieces)


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    held = bytearray()
    while len(held) < size:
        piece = sock.recv(size - len(held))
        assert piece, f"the peer ended after {len(held)} of {size} bytes"
        held += piece
    return bytes(held)


def send_until_full(sock: socket.socket) -> int:
    """Send until nobody takes more, or a GiB; how much was sent."""
    sent = 0
    with suppress(TimeoutError):
        while sent < 1 << 30:
            sent += sock.send(bytes(1 << 16))
    return sent


def reset(sock: socket.socket) -> None:
    """Break a connection off."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def echo(connection: socket.socket) -> None:
    """Send everything back, then end."""
    while data := connection.recv(1 << 18):
        connection.sendall(data)


def naming(name: bytes) -> Conversation:
    """Answer each chunk with a name."""

    def talk(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            connection.sendall(name)

    return talk


def lead(
    ports: ProxyPorts, *endpoints: Endpoint | tuple[str, int], affinity_s: float | None = None
) -> tuple[str, int]:
    """Point the proxy port at these endpoints; its address."""
    addresses = tuple(end.address if isinstance(end, Endpoint) else end for end in endpoints)
    ports.set({WEB: Targets(addresses, affinity_s)})
    return "127.0.0.1", ports.numbers[WEB]


def ask(address: tuple[str, int], question: bytes = b"?") -> bytes:
    with connect(address) as client:
        client.sendall(question)
        return client.recv(1000)


def silence(address: str) -> None:
    """Make an address of this namespace swallow what is sent to it."""
    Iptables(Family.IPV4, "auto").call("filter", "-A", "INPUT", "-d", address, "-j", "DROP")


def closed_port() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()
