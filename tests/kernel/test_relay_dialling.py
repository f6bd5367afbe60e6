"""Each client is brought to the endpoint whose turn it is, or to the next that answers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from endpoints import (
    WEB,
    Endpoint,
    ask,
    closed_port,
    connect,
    echo,
    lead,
    naming,
    receive,
    reset,
    silence,
)

from testbed.errors import TestbedError
from testbed.proxy.model import ServicePortName
from testbed.proxy.userspace.ports import ProxyPorts, Targets

on_both_kernels = pytest.mark.parametrize("kernel", ["host", pytest.param("uml", marks=pytest.mark.guest)])


@pytest.fixture
def ports() -> Iterator[ProxyPorts]:
    ports = ProxyPorts(bind_address="127.0.0.1")
    yield ports
    ports.close()


def test_connections_take_turns_over_the_endpoints(ports: ProxyPorts) -> None:
    address = lead(ports, *(Endpoint(naming(name)) for name in (b"a", b"b", b"c")))
    assert b"".join(ask(address) for _ in range(9)) == b"abcabcabc"


def test_a_refused_dial_goes_to_the_next_endpoint(ports: ProxyPorts) -> None:
    address = lead(ports, closed_port(), Endpoint(naming(b"b")), closed_port())
    assert [ask(address) for _ in range(4)] == [b"b"] * 4


def test_a_client_whose_endpoints_all_refuse_is_closed(ports: ProxyPorts) -> None:
    with connect(lead(ports, closed_port(), closed_port())) as client:
        assert client.recv(1) == b""


@on_both_kernels
def test_an_endpoint_that_stays_silent_is_given_up_after_a_quarter_of_a_second(
    ports: ProxyPorts, kernel: str
) -> None:
    silence("127.0.0.99")
    address = lead(ports, ("127.0.0.99", 80), Endpoint(naming(b"b")))
    started_s = time.monotonic()
    assert ask(address) == b"b"
    assert 0.2 < time.monotonic() - started_s < 5


def test_a_client_waits_for_four_attempts_and_no_longer(ports: ProxyPorts) -> None:
    silence("127.0.0.99")
    with connect(lead(ports, ("127.0.0.99", 80))) as client:
        started_s = time.monotonic()
        assert client.recv(1) == b""
        assert 3.5 < time.monotonic() - started_s < 6


def test_without_endpoints_a_client_is_accepted_and_closed(ports: ProxyPorts) -> None:
    with connect(lead(ports)) as client:
        assert client.recv(1) == b""


def test_an_endpoint_that_dies_takes_its_connections_and_the_next_ones_go_elsewhere(
    ports: ProxyPorts,
) -> None:
    end_of_life = threading.Event()

    def die(connection: socket.socket) -> None:
        connection.sendall(connection.recv(1))
        end_of_life.wait(20)
        reset(connection)

    dying, living = Endpoint(die), Endpoint(naming(b"b"))
    address = lead(ports, dying, living)
    with connect(address) as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        dying.close()
        end_of_life.set()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert [ask(address) for _ in range(3)] == [b"b"] * 3


def test_established_connections_outlive_their_endpoint_and_their_service(ports: ProxyPorts) -> None:
    address = lead(ports, Endpoint(echo))
    with connect(address) as client:
        client.sendall(b"one")
        assert receive(client, 3) == b"one"
        lead(ports, Endpoint(naming(b"new")))
        assert [ask(address) for _ in range(3)] == [b"new"] * 3
        client.sendall(b"two")
        assert receive(client, 3) == b"two"
        ports.close_ports([WEB])
        with pytest.raises(ConnectionRefusedError):
            connect(address)
        client.sendall(b"three")
        assert receive(client, 5) == b"three"


def test_a_client_with_affinity_keeps_its_endpoint_until_that_goes(ports: ProxyPorts) -> None:
    a, b = Endpoint(naming(b"a")), Endpoint(naming(b"b"))
    address = lead(ports, a, b, affinity_s=60)
    assert [ask(address) for _ in range(5)] == [b"a"] * 5
    lead(ports, b, affinity_s=60)
    assert [ask(address) for _ in range(3)] == [b"b"] * 3
    lead(ports, a, b, affinity_s=60)
    assert [ask(address) for _ in range(3)] == [b"b"] * 3


def test_affinity_moves_on_when_the_endpoint_refuses(ports: ProxyPorts) -> None:
    address = lead(ports, closed_port(), Endpoint(naming(b"b")), Endpoint(naming(b"c")), affinity_s=60)
    assert [ask(address) for _ in range(3)] == [b"b"] * 3


def test_proxy_ports_come_from_the_range_that_was_given() -> None:
    ports = ProxyPorts(bind_address="127.0.0.1", port_range=(20100, 20109))
    names = [ServicePortName("default", f"s{number}", "") for number in range(5)]
    ports.set({name: Targets(()) for name in names})
    assert {ports.numbers[name] for name in names} <= set(range(20100, 20110))
    ports.close()


def test_a_range_that_is_used_up_is_an_error_and_open_ports_stay() -> None:
    ports = ProxyPorts(bind_address="127.0.0.1", port_range=(20100, 20100))
    ports.set({WEB: Targets(())})
    with pytest.raises(TestbedError, match="cannot open a proxy port"):
        ports.set({ServicePortName("default", "other", ""): Targets(())})
    assert dict(ports.numbers) == {WEB: 20100}
    connect(("127.0.0.1", 20100)).close()
    ports.close()
