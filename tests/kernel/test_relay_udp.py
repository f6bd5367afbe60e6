"""Datagrams are relayed in sessions, one for each client, that end when idle or when their endpoint goes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from endpoints import TIMEOUT_S

from testbed.net.wait import wait_until
from testbed.proxy.model import ServicePortName
from testbed.proxy.userspace.ports import ProxyPorts, Targets

DNS = ServicePortName("kube-system", "dns", "", "UDP")
IDLE_S = 0.25


class Namer:
    """A UDP server that answers its name and the datagram."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._sock.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                data, peer = self._sock.recvfrom(65535)
                self._sock.sendto(self._name + data, peer)

    def close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


@pytest.fixture
def ports() -> Iterator[ProxyPorts]:
    ports = ProxyPorts(bind_address="127.0.0.1", udp_idle_timeout_s=IDLE_S)
    yield ports
    ports.close()


def lead(ports: ProxyPorts, *endpoints: tuple[str, int]) -> tuple[str, int]:
    ports.set({DNS: Targets(endpoints)})
    return "127.0.0.1", ports.numbers[DNS]


def client_of(address: tuple[str, int]) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(TIMEOUT_S)
    client.connect(address)
    return client


def ask(client: socket.socket, question: bytes = b"") -> bytes:
    client.send(question)
    return client.recv(65535)


def session_sockets() -> int:
    """How many connected UDP sockets this process has."""
    return sum(line.split()[3] == "01" for line in Path("/proc/self/net/udp").read_text().splitlines()[1:])


def test_a_client_keeps_its_endpoint_and_the_next_client_gets_the_next(ports: ProxyPorts) -> None:
    address = lead(ports, Namer(b"a").address, Namer(b"b").address)
    first, second = client_of(address), client_of(address)
    assert [ask(first, b"%d" % number) for number in range(3)] == [b"a0", b"a1", b"a2"]
    assert ask(second) == b"b"
    assert ask(first) == b"a"


def test_a_datagram_of_the_largest_size_passes(ports: ProxyPorts) -> None:
    client = client_of(lead(ports, Namer(b"").address))
    assert ask(client, b"x" * 65507) == b"x" * 65507


def test_many_clients_are_kept_apart(ports: ProxyPorts) -> None:
    address = lead(ports, Namer(b"").address)
    clients = [client_of(address) for _ in range(200)]
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
    assert [client.recv(100) for client in clients] == [b"%d" % number for number in range(200)]


def test_a_session_ends_when_nothing_passes_for_the_idle_timeout(ports: ProxyPorts) -> None:
    address = lead(ports, Namer(b"a").address, Namer(b"b").address)
    client = client_of(address)
    before = session_sockets()
    assert ask(client) == b"a"
    assert session_sockets() == before + 1
    started_s = time.monotonic()
    wait_until(lambda: session_sockets() == before, "the session to end", 5)
    assert IDLE_S * 0.9 < time.monotonic() - started_s < IDLE_S * 3
    assert ask(client) == b"b"


def test_a_session_in_use_does_not_end(ports: ProxyPorts) -> None:
    client = client_of(lead(ports, Namer(b"a").address, Namer(b"b").address))
    started_s = time.monotonic()
    while time.monotonic() - started_s < IDLE_S * 4:
        assert ask(client) == b"a"


def test_clients_follow_at_once_when_endpoints_appear_and_change(ports: ProxyPorts) -> None:
    client = client_of(lead(ports))
    client.send(b"lost")
    a, b = Namer(b"a"), Namer(b"b")
    lead(ports, a.address)
    assert ask(client) == b"a"
    lead(ports, b.address)
    assert ask(client) == b"b"


def test_a_client_goes_on_with_its_endpoint_when_others_change(ports: ProxyPorts) -> None:
    a, b, c = Namer(b"a"), Namer(b"b"), Namer(b"c")
    client = client_of(lead(ports, a.address, b.address))
    assert ask(client) == b"a"
    lead(ports, c.address, a.address)
    assert ask(client) == b"a"


def test_an_endpoint_that_refuses_is_left_for_the_next(ports: ProxyPorts) -> None:
    a, b = Namer(b"a"), Namer(b"b")
    client = client_of(lead(ports, a.address, b.address))
    assert ask(client) == b"a"
    a.close()
    client.settimeout(0.1)
    answers: list[bytes] = []

    def followed() -> bool:
        with suppress(TimeoutError):
            answers.append(ask(client))
        return b"b" in answers

    wait_until(followed, "the client to reach the other endpoint", 5)


def test_closing_the_port_ends_its_sessions(ports: ProxyPorts) -> None:
    before = session_sockets()
    clients = [client_of(lead(ports, Namer(b"a").address)) for _ in range(10)]
    for client in clients:
        ask(client)
    ports.close_ports([DNS])
    wait_until(lambda: session_sockets() == before + len(clients), "the sessions to end", 5)
    with pytest.raises(ConnectionRefusedError):
        ask(clients[0])
