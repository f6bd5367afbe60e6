"""Asking from a client pod: when the first answer comes, and who answers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.bench.probe import Target, ask_many, wait_answer
from testbed.errors import ProcessDied, WaitTimeout
from testbed.net import process
from testbed.net.namespace import Namespace
from testbed.net.wait import wait_until

TCP, UDP = Target("127.0.0.1", 8080), Target("127.0.0.1", 8080, "UDP")

RETRANSMISSION_NS = 1_000_000_000
"""After a lost SYN the kernel asks again after this long: a probe that waits for that rounds up to it."""

IN_VAIN = 10
"""So many attempts nobody answers before somebody does."""


@pytest.fixture
def client() -> Iterator[Namespace]:
    with Namespace.create("client") as namespace:
        yield namespace


class Server(threading.Thread):
    """Answers as a backend does; it starts to listen once so many have been refused."""

    def __init__(self, namespace: Namespace, target: Target, refusals: int = 0) -> None:
        super().__init__(daemon=True)
        kind = socket.SOCK_DGRAM if target.protocol == "UDP" else socket.SOCK_STREAM
        self._namespace = namespace
        self._sock = namespace.socket(socket.AF_INET, kind)
        self._target = target
        self._refusals = refusals
        self.listened_ns = 0
        self.start()

    def run(self) -> None:
        refused = "Udp: NoPorts" if self._target.protocol == "UDP" else "Tcp: AttemptFails"
        wait_counted(self._namespace, refused, self._refusals)
        self.listened_ns = time.perf_counter_ns()
        self._sock.bind(self._target.address)
        if self._target.protocol == "UDP":
            while True:
                self._sock.sendto(b"pod-a 1.2.3.4:5\n", self._sock.recvfrom(100)[1])
        self._sock.listen(100)
        kept = []
        while True:
            connection, _ = self._sock.accept()
            if connection.recv(100):
                connection.send(b"pod-a 1.2.3.4:5\n")
            kept.append(connection)


def wait_counted(namespace: Namespace, name: str, number: int) -> None:
    """Wait until the namespace has counted so many of an event: "Tcp: ActiveOpens" in /proc/net/snmp."""
    protocol, _, column = name.partition(" ")

    def counted() -> int:
        text = namespace.run(Path("/proc/thread-self/net/snmp").read_text)
        names, values = (line.split() for line in text.splitlines() if line.startswith(protocol))
        return int(values[names.index(column)])

    wait_until(lambda: counted() >= number, f"{number} of {name}", 10.0)


def alive() -> None:
    """Nothing has died."""


@pytest.mark.parametrize("target", [TCP, UDP])
def test_the_first_answer_is_noticed_within_milliseconds(client: Namespace, target: Target) -> None:
    server = Server(client, target, refusals=IN_VAIN)

    answered_ns = wait_answer(client, target, 10.0, alive)

    assert 0 < answered_ns - server.listened_ns < RETRANSMISSION_NS


def test_packets_lost_before_do_not_round_the_time_up(client: Namespace) -> None:
    Server(client, TCP)
    drop = ["iptables", "-I", "INPUT", "-p", "tcp", "--dport", "8080", "-j", "DROP"]
    process.run(drop, namespace=client)
    opened_ns: list[int] = []

    def open_later() -> None:
        wait_counted(client, "Tcp: ActiveOpens", IN_VAIN)
        process.run([*drop[:1], "-F"], namespace=client)
        opened_ns.append(time.perf_counter_ns())

    opener = threading.Thread(target=open_later)
    opener.start()
    answered_ns = wait_answer(client, TCP, 10.0, alive)
    opener.join()

    assert answered_ns - opened_ns[0] < RETRANSMISSION_NS


def test_silence_is_a_timeout_that_names_the_target(client: Namespace) -> None:
    with pytest.raises(WaitTimeout, match=r"127\.0\.0\.1:8080"):
        wait_answer(client, TCP, 0.2, alive)


def test_waiting_ends_when_a_part_has_died(client: Namespace) -> None:
    def check() -> None:
        raise ProcessDied("proxy of node1", 1)

    with pytest.raises(ProcessDied, match="node1"):
        wait_answer(client, TCP, 60.0, check)


@pytest.mark.parametrize("hold", [True, False])
def test_everybody_who_answered_is_named_in_order(client: Namespace, hold: bool) -> None:
    Server(client, TCP)
    wait_answer(client, TCP, 10.0, alive)

    names, errors = ask_many(client, TCP, 20, hold=hold)

    assert names == ["pod-a"] * 20
    assert errors == {}


def test_who_does_not_answer_is_counted_by_error(client: Namespace) -> None:
    names, errors = ask_many(client, TCP, 3)

    assert names == []
    assert errors == {"ConnectionRefusedError": 3}
