"""One process is the server in every pod, and pods come and go while it runs."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoints import TIMEOUT_S, connect, receive, receive_all, reset, send_until_full
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.cluster.backend import BackendClient, Listening, start_backend
from testbed.errors import ProcessDied, TestbedError
from testbed.net.namespace import Namespace
from testbed.net.process import run
from testbed.net.wait import wait_until

ADDRESS = ("127.0.0.1", 80)
PORTS = ((80, "TCP"), (81, "TCP"), (53, "UDP"))


@pytest.fixture
def pod() -> Iterator[Namespace]:
    with Namespace.create("pod-1") as namespace:
        yield namespace


@pytest.fixture
def control(pod: Namespace, tmp_path: Path) -> Iterator[Path]:
    control = tmp_path / "control"
    with start_backend([listening(pod)], control_path=control, log=tmp_path / "log"):
        yield control


def listening(pod: Namespace, ports: tuple[tuple[int, str], ...] = PORTS) -> Listening:
    return Listening(pod.name, "node1", pod.path, "127.0.0.1", ports)


def dial(pod: Namespace, port: int = 80) -> socket.socket:
    return pod.run(connect, ("127.0.0.1", port))


def test_it_names_the_pod_and_the_peer_as_often_as_asked(pod: Namespace, control: Path) -> None:
    with dial(pod) as client:
        peer = f"127.0.0.1:{client.getsockname()[1]}"
        for _ in range(3):
            client.sendall(b"?\n")
            assert client.recv(100) == f"pod-1 {peer}\n".encode()


def test_it_answers_http_requests_on_one_connection(pod: Namespace, control: Path) -> None:
    connection = http.client.HTTPConnection(*ADDRESS, timeout=TIMEOUT_S)
    connection.sock = dial(pod, 81)
    peer = f"127.0.0.1:{connection.sock.getsockname()[1]}"
    for method, body in (("GET", None), ("POST", b"x" * 200_000), ("GET", None)):
        connection.request(method, "/any/path", body)
        answer = json.loads(connection.getresponse().read())
        assert answer == {
            "pod": "pod-1",
            "node": "node1",
            "address": "127.0.0.1",
            "port": 81,
            "protocol": "TCP",
            "peer": peer,
        }
    connection.close()


def test_it_closes_after_a_request_that_asks_for_it(pod: Namespace, control: Path) -> None:
    with dial(pod) as client:
        client.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert receive_all(client).startswith(b"HTTP/1.1 200 OK\r\n")


@settings(
    max_examples=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=8), st.integers(0, 2**32))
def test_it_echoes_every_byte_in_order(pod: Namespace, control: Path, sizes: list[int], seed: int) -> None:
    noise = random.Random(seed)
    with dial(pod) as client:
        for size in sizes:
            data = b"\x00" + noise.randbytes(size)
            client.sendall(data)
            assert receive(client, len(data)) == data


def test_a_client_that_does_not_read_stops_being_read_and_gets_everything_later(
    pod: Namespace, control: Path
) -> None:
    with dial(pod) as slow:
        slow.settimeout(0.5)
        sent = send_until_full(slow)
        assert 0 < sent < 1 << 28
        with dial(pod) as other:
            other.sendall(b"?\n")
            assert other.recv(100).startswith(b"pod-1 ")
        slow.settimeout(TIMEOUT_S)
        slow.shutdown(socket.SHUT_WR)
        assert len(receive_all(slow)) == sent


def test_it_survives_clients_that_break_off(pod: Namespace, control: Path) -> None:
    for data in (b"", b"?\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * 100_000):
        for _ in range(20):
            client = dial(pod)
            client.sendall(data)
            reset(client)
    with dial(pod) as client:
        client.sendall(b"?\n")
        assert client.recv(100).startswith(b"pod-1 ")


def test_it_answers_and_echoes_datagrams(pod: Namespace, control: Path) -> None:
    with pod.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(("127.0.0.1", 53))
        peer = f"127.0.0.1:{client.getsockname()[1]}"
        for data, answer in ((b"?", f"pod-1 {peer}\n".encode()), (b"query", b"query"), (b"", b"")):
            client.send(data)
            assert client.recv(2000) == answer


def test_one_port_in_many_pods_is_many_servers(control: Path) -> None:
    with BackendClient(control) as backend:
        pods = [Namespace.create(f"many-{number}") for number in range(50)]
        backend.add(*(listening(pod) for pod in pods))
        for pod in pods:
            with dial(pod) as client:
                client.sendall(b"?\n")
                assert client.recv(100).startswith(pod.name.encode() + b" ")
        for pod in pods:
            pod.close()


def test_ipv6_pods_are_served_too(control: Path) -> None:
    with Namespace.create("six", ipv6=True) as pod, BackendClient(control) as backend:
        backend.add(Listening("six", "node1", pod.path, "::1", ((80, "TCP"), (53, "UDP"))))
        with pod.run(socket.create_connection, ("::1", 80), TIMEOUT_S) as client:
            client.sendall(b"?\n")
            assert client.recv(100) == f"six [::1]:{client.getsockname()[1]}\n".encode()


def test_a_removed_pod_refuses_and_its_connections_end(pod: Namespace, control: Path) -> None:
    with BackendClient(control) as backend, dial(pod) as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        backend.remove("pod-1")
        assert backend.pods() == []
        assert client.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            dial(pod)
        backend.add(listening(pod))
        dial(pod).close()


def test_a_removed_pods_namespace_is_let_go(control: Path) -> None:
    pod = Namespace.create("short-lived")
    run(["ip", "link", "add", "probe", "type", "veth", "peer", "name", "eth0", "netns", pod.name])
    with BackendClient(control) as backend:
        backend.add(listening(pod))
        with dial(pod) as client:
            client.sendall(b"?\n")
            client.recv(100)
            backend.remove("short-lived")
    pod.close()
    wait_until(lambda: "probe" not in links(), "the namespace to end, and the link into it", 10)


def links() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def test_what_cannot_be_served_is_said_and_the_rest_is_served(pod: Namespace, control: Path) -> None:
    gone = Listening("ghost", "node1", "/run/netns/ghost", "127.0.0.1", ((80, "TCP"),))
    taken = Listening("rival", "node1", pod.path, "127.0.0.1", ((90, "TCP"), (80, "TCP")))
    strange = Listening("strange", "node1", pod.path, "127.0.0.1", ((91, "SCTP"),))
    good = Listening("good", "node1", pod.path, "127.0.0.1", ((92, "TCP"),))
    with BackendClient(control) as backend:
        with pytest.raises(TestbedError) as refusal:
            backend.add(gone, taken, strange, good)
        ghost, rival, sctp = str(refusal.value).splitlines()
        assert "ghost" in ghost
        assert "/run/netns/ghost: No such file" in ghost
        assert "rival at 127.0.0.1:80/TCP" in rival
        assert "Address already in use" in rival
        assert "'SCTP'" in sctp
        assert backend.pods() == ["pod-1", "good"]
        with pytest.raises(ConnectionRefusedError):
            dial(pod, 90)
        with pytest.raises(TestbedError, match="no pod named nobody"):
            backend.remove("nobody")


def test_an_unreadable_request_is_answered_with_an_error(control: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control))
        client.settimeout(TIMEOUT_S)
        for nonsense in (b"{\n", b"[]\n", b'{"add": [{"pod": "x"}]}\n'):
            client.sendall(nonsense)
            assert "cannot read the request" in json.loads(client.recv(10_000))["errors"][0]


def test_a_start_that_cannot_serve_everything_leaves_nothing_running(pod: Namespace, tmp_path: Path) -> None:
    twice = [listening(pod), listening(pod)]
    before = live_children()
    with pytest.raises(TestbedError, match="Address already in use"):
        start_backend(twice, control_path=tmp_path / "control", log=None)
    assert live_children() == before
    assert not (tmp_path / "control").exists()


def test_a_client_learns_that_the_backend_died(pod: Namespace, tmp_path: Path) -> None:
    child = start_backend([listening(pod)], control_path=tmp_path / "control", log=None)
    with child, BackendClient(tmp_path / "control") as backend:
        child.kill()
        with pytest.raises(ProcessDied, match="backend"):
            backend.add(listening(pod))


def test_thousands_of_idle_connections_are_held(pod: Namespace, control: Path) -> None:
    def connect_many() -> list[socket.socket]:
        return [connect(ADDRESS) for _ in range(5000)]

    clients = pod.run(connect_many)
    for client in clients:
        client.sendall(b"?\n")
    for client in clients:
        assert client.recv(100).startswith(b"pod-1 ")
    for client in clients:
        client.close()


def live_children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
