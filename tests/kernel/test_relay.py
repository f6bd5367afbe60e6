"""The relay carries connections unchanged: bytes, ends and breaks, in both directions, and never blocks."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from endpoints import (
    Endpoint,
    ask,
    connect,
    echo,
    lead,
    receive,
    receive_all,
    reset,
    send_until_full,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.cluster.backend import Listening, start_backend
from testbed.net.eventloop import EventLoop
from testbed.net.wait import wait_until
from testbed.proxy.userspace.pipes import PipePool
from testbed.proxy.userspace.ports import ProxyPorts
from testbed.proxy.userspace.relay import relay

RELAXED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
SIZES = st.one_of(st.integers(1, 2000), st.sampled_from([65535, 65536, 65537, 131072, 300_000]))


on_both_kernels = pytest.mark.parametrize("kernel", ["host", pytest.param("uml", marks=pytest.mark.guest)])


@pytest.fixture
def ports() -> Iterator[ProxyPorts]:
    ports = ProxyPorts(bind_address="127.0.0.1")
    yield ports
    ports.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@on_both_kernels
@RELAXED
@given(
    to_server=st.lists(SIZES, max_size=12),
    to_client=st.lists(SIZES, max_size=12),
    client_ends_first=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_byte_arrives_in_order_both_ways_and_each_end_passes(
    ports: ProxyPorts,
    kernel: str,
    to_server: list[int],
    to_client: list[int],
    client_ends_first: bool,
    seed: int,
) -> None:
    noise = random.Random(seed)
    up = [noise.randbytes(size) for size in to_server]
    down = [noise.randbytes(size) for size in to_client]
    received: list[bytes] = []
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        if client_ends_first:
            received.append(receive_all(connection))
        for piece in down:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        if not client_ends_first:
            received.append(receive_all(connection))
        done.set()

    endpoint = Endpoint(serve)
    with connect(lead(ports, endpoint)) as client:
        if not client_ends_first:
            assert receive_all(client) == b"".join(down)
        for piece in up:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        if client_ends_first:
            assert receive_all(client) == b"".join(down)
        assert done.wait(20)
    assert received == [b"".join(up)]
    endpoint.close()


def test_both_directions_carry_bulk_at_the_same_time(ports: ProxyPorts) -> None:
    data = random.Random(1).randbytes(32 << 20)
    endpoint = Endpoint(echo)
    with connect(lead(ports, endpoint)) as client:

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert receive_all(client) == data
        sender.join()


def test_a_request_in_two_small_pieces_is_passed_on_without_delay(ports: ProxyPorts) -> None:
    def serve(connection: socket.socket) -> None:
        while True:
            receive(connection, 2)
            connection.sendall(b"ok")

    with connect(lead(ports, Endpoint(serve))) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started_s = time.monotonic()
        for _ in range(100):
            client.sendall(b"1")
            apart_s = time.monotonic() + 0.001
            while time.monotonic() < apart_s:
                pass
            client.sendall(b"2")
            assert receive(client, 2) == b"ok"
        assert time.monotonic() - started_s < 2  # Nagle against delayed acknowledgements would take 4 s


def test_a_server_that_speaks_first_is_heard(ports: ProxyPorts) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 hello\r\n")
        connection.recv(1)

    with connect(lead(ports, Endpoint(greet))) as client:
        assert receive(client, 11) == b"220 hello\r\n"


def test_a_client_that_ends_before_it_says_anything_is_passed_on(ports: ProxyPorts) -> None:
    def serve(connection: socket.socket) -> None:
        assert connection.recv(1) == b""
        connection.sendall(b"bye")

    with connect(lead(ports, Endpoint(serve))) as client:
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"bye"


def test_urgent_data_does_not_stall_what_follows() -> None:
    loop, pipes = EventLoop(), PipePool()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client, server = connect(listener.getsockname()), connect(listener.getsockname())
        near, far = (listener.accept()[0] for _ in range(2))
    for sock in (near, far):
        sock.setblocking(False)
    client.send(b"abc")
    client.send(b"!", socket.MSG_OOB)
    client.send(b"def")
    relay(loop, pipes, near.detach(), far.detach(), pending=b"", moved=0, watched=False)
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert receive(server, 6) == b"abcdef"
    loop.stop()
    thread.join()
    loop.close()


@on_both_kernels
def test_an_endpoint_that_breaks_off_breaks_the_client_off(ports: ProxyPorts, kernel: str) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        reset(connection)

    with connect(lead(ports, Endpoint(serve))) as client:
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            client.recv(100)


def test_a_client_that_breaks_off_breaks_the_endpoint_off(ports: ProxyPorts) -> None:
    broken = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.sendall(connection.recv(100))
        try:
            connection.recv(100)
        except ConnectionResetError:
            broken.set()

    client = connect(lead(ports, Endpoint(serve)))
    client.sendall(b"hello")
    assert receive(client, 5) == b"hello"
    reset(client)
    assert broken.wait(10)


def test_an_answer_given_before_the_endpoint_stopped_reading_still_arrives(ports: ProxyPorts) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"413 too large")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    with connect(lead(ports, Endpoint(refuse))) as client:
        client.sendall(b"x" * 5_000_000)
        assert receive(client, 13) == b"413 too large"
        assert client.recv(1) == b""


def test_a_reader_that_does_not_read_stops_the_sender_and_nobody_else(ports: ProxyPorts) -> None:
    address = lead(ports, Endpoint(echo))
    with connect(address) as slow:
        slow.settimeout(0.5)
        sent = send_until_full(slow)
        assert sent < 1 << 28
        assert ask(address, b"quick") == b"quick"
        slow.settimeout(20)
        slow.shutdown(socket.SHUT_WR)
        assert len(receive_all(slow)) == sent


def test_thousands_of_idle_connections_cost_nothing_and_still_work(ports: ProxyPorts, tmp_path: Path) -> None:
    listening = Listening("idle-1", "node1", "/proc/self/ns/net", "127.0.0.2", ((80, "TCP"),))
    with start_backend([listening], control_path=tmp_path / "control", log=tmp_path / "log"):
        address = lead(ports, ("127.0.0.2", 80))
        clients = [connect(address) for _ in range(5000)]
        for client in clients:
            client.sendall(b"?\n")
        for client in clients:
            assert client.recv(100).startswith(b"idle-1 127.0.0.1:")
        before_ns = time.clock_gettime_ns(time.CLOCK_PROCESS_CPUTIME_ID)
        started_ns = time.monotonic_ns()
        assert ask(address, b"?\n").startswith(b"idle-1 ")
        wait_until(lambda: time.monotonic_ns() - started_ns > 300_000_000, "an idle moment", 5)
        assert time.clock_gettime_ns(time.CLOCK_PROCESS_CPUTIME_ID) - before_ns < 100_000_000
        for client in random.Random(2).sample(clients, 500):
            client.sendall(b"still there")
            assert receive(client, 11) == b"still there"
        for client in clients:
            client.close()


def test_descriptors_are_given_back_when_connections_end_in_any_way(ports: ProxyPorts) -> None:
    noise = random.Random(3)

    def serve(connection: socket.socket) -> None:
        data = connection.recv(1 << 18)
        if data.startswith(b"reset"):
            reset(connection)
        elif data.startswith(b"end"):
            connection.shutdown(socket.SHUT_WR)
            receive_all(connection)
        else:
            connection.sendall(data)
            echo(connection)

    endpoint = Endpoint(serve)
    address = lead(ports, endpoint)
    ask(address, b"x" * 100)
    before = open_descriptors()
    for _ in range(300):
        client = connect(address)
        client.sendall(noise.choice([b"reset", b"end", b"hello", b"h" * 200_000]))
        if noise.random() < 0.3:
            reset(client)
            continue
        with suppress(OSError):  # it may have been broken off already
            if noise.random() < 0.5:
                client.shutdown(socket.SHUT_WR)
            client.recv(100)
        client.close()
    endpoint.connections.clear()
    kept_pipes = 2 * 4
    wait_until(lambda: open_descriptors() <= before + kept_pipes, "descriptors to be given back", 10)
    assert ask(address, b"alive") == b"alive"
