"""The guest's side of the IPVS benchmark: loads Services by the proxier, or the same messages bare.

A command on the line is answered when it is done, so that whoever asks can measure. Every load has a network
namespace of its own, with the estimation timer off.
"""

from __future__ import annotations

import gc
import resource
import socket
from collections.abc import Iterator
from typing import Any

from testbed.kernel import Line
from testbed.net.namespace import Namespace
from testbed.net.netlink import NETLINK_GENERIC, NETLINK_ROUTE, NLM_F_ACK, Message, NetlinkSocket
from testbed.net.rtnetlink import address_add
from testbed.proxy.ipvs import messages
from testbed.proxy.ipvs.device import ServiceDevice
from testbed.proxy.ipvs.model import Balancing, RealServer, VirtualServer
from testbed.proxy.ipvs.proxier import IpvsProxier
from testbed.proxy.ipvs.sysctls import stop_estimation
from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName
from testbed.proxy.proxier import ProxySettings
from testbed.proxy.servicemap import ServiceMap

_SETTINGS = ProxySettings(cluster_cidr="10.244.0.0/16", iptables_variant="legacy")
_BATCH = 100


def main(arguments: dict[str, Any], line: Line) -> int:
    """Job entry: serve `prepare`, `load`, `change` and `end` until the line closes."""
    bench = _Bench()
    line.send({"ready": True})
    while (command := line.receive()) is not None:
        line.send(getattr(bench, command.pop("do"))(**command) or {})
    return 0


class _Bench:
    """One load at a time: prepared, done, changed, ended."""

    def __init__(self) -> None:
        self._services = ServiceMap()
        self._way = ""
        self._turn = 0

    def prepare(self, way: str, services: int, endpoints: int) -> None:
        """Make everything that is not to be measured, after the end of what was loaded before."""
        if self._way:
            self.end()
        self._namespace = Namespace.create("load")
        self._namespace.run(stop_estimation)
        self._way, self._turn = way, 0
        if way != "proxier":
            self._acknowledged = 1 if way == "acknowledged" else _BATCH
            self._namespace.run(self._prepare_bare, services, endpoints)
            return
        self._services = ServiceMap()
        for number in range(services):
            _announce(self._services, number, endpoints)
        self._proxier = self._namespace.run(IpvsProxier, _SETTINGS)

    def load(self) -> dict[str, int]:
        """Load all Services; how many messages and lines that took."""
        if self._way != "proxier":
            for sock, chunk in self._chunks:
                sock.sendall(chunk)
                for _ in range(_BATCH // self._acknowledged):
                    _wait_for_acknowledgement(sock)
            return {"written": len(self._chunks) * _BATCH}
        result = self._namespace.run(self._proxier.sync, self._services, None)
        return {"written": result.rules_written}

    def change(self) -> dict[str, int]:
        """Swap one endpoint of one Service."""
        self._turn += 1
        changed = _announce(self._services, 0, 3, first=self._turn % 2)
        result = self._namespace.run(self._proxier.sync, self._services, changed)
        assert not result.full
        return {"written": result.rules_written}

    def end(self) -> dict[str, int]:
        """Let the namespace go; the memory that this process has needed so far, in KiB."""
        if self._way == "proxier":
            self._namespace.run(self._proxier.close)
        for sock in {sock for sock, _ in self.__dict__.pop("_chunks", [])}:
            sock.close()
        self._namespace.close()
        self._services = ServiceMap()
        self._way = ""
        gc.collect()
        return {"rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}

    def _prepare_bare(self, services: int, endpoints: int) -> None:
        with ServiceDevice(Family.IPV4) as device, NetlinkSocket(NETLINK_GENERIC) as generic:
            device.ensure()
            family = generic.genl_family(messages.FAMILY_NAME)
        ipvs = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        table = [Message(family, 0, payload, "") for payload in _payloads(services, endpoints)]
        index = socket.if_nametoindex("kube-ipvs0")
        addresses = [address_add(index, f"{_vip(number)}/32") for number in range(services)]
        self._chunks = [
            *_packed(ipvs, table, self._acknowledged),
            *_packed(route, addresses, self._acknowledged),
        ]


def _payloads(services: int, endpoints: int) -> Iterator[bytes]:
    """The messages of the proxier, in its order: first the virtual servers, then the real ones."""
    servers = [VirtualServer("TCP", _vip(number), 80) for number in range(services)]
    for server in servers:
        yield messages.server_payload(messages.NEW_SERVICE, server, Balancing("rr"))
    for number, server in enumerate(servers):
        encoder = messages.RealServerEncoder(server)
        for endpoint in _endpoints(number, endpoints):
            yield encoder.new(RealServer(endpoint.address, endpoint.port))


def _packed(
    sock: socket.socket, batch: list[Message], acknowledged: int
) -> Iterator[tuple[socket.socket, bytes]]:
    """Messages in chunks, every `acknowledged`th of which the kernel is asked to acknowledge."""
    for start in range(0, len(batch), _BATCH):
        chunk = enumerate(batch[start : start + _BATCH], 1)
        yield (
            sock,
            b"".join(
                message.pack(number, 0 if number % acknowledged else NLM_F_ACK) for number, message in chunk
            ),
        )


def _wait_for_acknowledgement(sock: socket.socket) -> None:
    answer = sock.recv(1 << 16)
    assert answer[16:20] == bytes(4), (
        f"refused: errno {-int.from_bytes(answer[16:20], 'little', signed=True)}"
    )


def _vip(number: int) -> str:
    return f"10.96.{number >> 8}.{number & 255}"


def _endpoints(number: int, count: int, first: int = 0) -> tuple[Endpoint, ...]:
    """Endpoints on other nodes, which need no set member."""
    places = range(number * 10 + first, number * 10 + first + count)
    return tuple(
        Endpoint(f"10.244.{place >> 8 & 255}.{place & 255}", 8000 + (place >> 16)) for place in places
    )


def _announce(services: ServiceMap, number: int, endpoints: int, first: int = 0) -> set[ServicePortName]:
    key = ("default", f"service{number}")
    name = ServicePortName(*key, "")
    changed = services.set_service(key, [ServicePort(name, _vip(number), 80)])
    return changed | services.set_slice(key, "slice", {name: _endpoints(number, endpoints, first)})
