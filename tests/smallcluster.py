"""A cluster of two nodes, five pods and a client outside, small enough for every test to have its own.

    outside 192.168.0.100 ──┐
    node1   192.168.0.1  ── fabric      pods 10.244.1.0/24: client .2, a .11, b .12
    node2   192.168.0.2  ───┘           pods 10.244.2.0/24: c .11, d .12

IPv6 addresses, where asked for, differ from these in their prefix only. Each pod serves TCP and UDP: `?` is
answered with the pod's name and the peer that it saw. No proxy runs anywhere. How many questions are asked at
once is `asking`'s business.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from asking import REFUSED, SILENCE, Answer, Asker, Outcome, Question, question

from testbed.cluster.backend import Listening, start_backend
from testbed.net.fabric import Fabric, NodeAttachment, PodAttachment, build_fabric
from testbed.net.namespace import Namespace
from testbed.proxy.model import Family

NODES = {"node1": "192.168.0.1", "node2": "192.168.0.2"}
GATEWAY = "10.244.1.1"
OUTSIDE = "192.168.0.100"
PODS = {
    "client": ("node1", "10.244.1.2"),
    "a": ("node1", "10.244.1.11"),
    "b": ("node1", "10.244.1.12"),
    "c": ("node2", "10.244.2.11"),
    "d": ("node2", "10.244.2.12"),
}
PORT, PORT2 = 8080, 8443
CLUSTER_CIDRS = {Family.IPV4: "10.244.0.0/16", Family.IPV6: "fd00:244::/48"}

__all__ = ["REFUSED", "SILENCE", "Answer", "SmallCluster", "question", "small_cluster"]


def address6(address: str) -> str:
    """The IPv6 address that stands beside an IPv4 address of this cluster; 10.96.0.1 beside fd00:96::1."""
    first, second, third, fourth = address.split(".")
    if (first, second) == ("10", "96"):
        return f"fd00:96::{third}:{fourth}" if third != "0" else f"fd00:96::{fourth}"
    return f"fd00:244:0:{third}::{fourth}" if first == "10" else f"fd00:{first}:{second}::{fourth}"


class SmallCluster:
    """The live cluster; names of `NODES`, of `PODS` and `outside` are places to ask from."""

    def __init__(self, fabric: Fabric) -> None:
        self.places: dict[str, Namespace] = {"outside": fabric.outside, **fabric.nodes, **fabric.pods}
        self._asker = Asker(self.places)

    @property
    def node(self) -> Namespace:
        """The node whose proxy is tested."""
        return self.places["node1"]

    def dial(self, source: str, address: str, port: int, timeout_s: float = 2.0) -> socket.socket:
        """An open TCP connection. Raises ConnectionRefusedError or TimeoutError."""
        return self._connected(source, socket.SOCK_STREAM, address, port, timeout_s)

    def udp(self, source: str, address: str, port: int, timeout_s: float = 0.3) -> socket.socket:
        """A connected UDP socket."""
        return self._connected(source, socket.SOCK_DGRAM, address, port, timeout_s)

    def ask(self, source: str, address: str, port: int, timeout_s: float = 2.0) -> Answer:
        """Connect once over TCP and see who answers."""
        with self.dial(source, address, port, timeout_s) as sock:
            return question(sock)

    def outcomes(self, questions: Sequence[Question], mute: Sequence[bool] = ()) -> list[Outcome]:
        """What becomes of many questions asked at once; see `Asker.outcomes`."""
        return self._asker.outcomes(questions, mute)

    def outcome(self, source: str, address: str, port: int, timeout_s: float = 0.7) -> str:
        """The pod that answers, or `refused`, or `silence`."""
        try:
            return self.ask(source, address, port, timeout_s).pod
        except ConnectionRefusedError:
            return REFUSED
        except TimeoutError:
            return SILENCE

    def _connected(self, source: str, kind: int, address: str, port: int, timeout_s: float) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self.places[source].socket(family, kind)
        sock.settimeout(timeout_s)
        try:
            sock.connect((address, port))
        except BaseException as error:
            with sock:
                # A refusal that comes while connect(2) holds the socket is kept aside (tcp_v4_err).
                kept = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if kept and isinstance(error, TimeoutError):
                raise OSError(kept, os.strerror(kept)) from error
            raise
        return sock


@contextlib.contextmanager
def small_cluster(directory: Path, *, ipv6: bool = False) -> Iterator[SmallCluster]:
    """A cluster for the length of the block; `directory` takes its log and control socket."""
    nodes = [_attachment(node, ipv6) for node in NODES]
    more = {"outside_address6": address6(OUTSIDE), "underlay6": "fd00:192:168::/64"} if ipv6 else {}
    with (
        build_fabric(nodes, outside_address=OUTSIDE, underlay="192.168.0.0/24", ipv6=ipv6, **more) as fabric,
        start_backend(
            _listenings(fabric, ipv6), control_path=directory / "backend", log=directory / "backend.log"
        ),
    ):
        yield SmallCluster(fabric)


def _attachment(node: str, ipv6: bool) -> NodeAttachment:
    number = node[-1]
    pods = tuple(
        PodAttachment(pod, address, address6(address) if ipv6 else None)
        for pod, (home, address) in PODS.items()
        if home == node
    )
    gateway = f"10.244.{number}.1"
    more = (address6(NODES[node]), f"fd00:244:0:{number}::/64", address6(gateway)) if ipv6 else ()
    return NodeAttachment(node, NODES[node], f"10.244.{number}.0/24", gateway, pods, *more)


def _listenings(fabric: Fabric, ipv6: bool) -> list[Listening]:
    ports = tuple((port, protocol) for port in (PORT, PORT2) for protocol in ("TCP", "UDP"))
    return [
        Listening(pod, node, fabric.pods[pod].path, served, ports)
        for pod, (node, address) in PODS.items()
        for served in ((address, address6(address)) if ipv6 else (address,))
    ]
