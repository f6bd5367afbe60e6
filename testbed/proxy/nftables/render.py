"""What one Service port needs in the table: chains with their rules, affinity sets, elements of the maps.

Pure. Owns where REJECT, DROP, masquerading and affinity belong. Must not know other Services, nor what the
kernel holds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from testbed.proxy.model import Endpoint, EndpointChoice, ServicePort
from testbed.proxy.nftables import base
from testbed.proxy.nftables.names import endpoint_name, port_name, port_path
from testbed.proxy.proxier import ProxySettings

Rules = tuple[str, ...]
CHAIN_NAME = re.compile(r"(service|local|external|firewall|endpoint)-[A-Z2-7]{8}-")
SET_NAME = re.compile(r"affinity-[A-Z2-7]{8}-")
"""What the names of a Service port's chains and sets begin with, unlike those of the table itself."""


class Element(NamedTuple):
    """Identity of one element: the set or map, and its key as nft writes it."""

    container: str
    key: str


@dataclass(slots=True)
class Piece:
    """One Service port's part of the table; `elements` map to a verdict, or to nothing in a plain set."""

    chains: dict[str, Rules] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    elements: dict[Element, str] = field(default_factory=dict)


def render_port(port: ServicePort, choice: EndpointChoice, settings: ProxySettings) -> Piece:
    """Render one Service port for one node."""
    return _Renderer(port, choice, settings).piece()


class _Renderer:
    def __init__(self, port: ServicePort, choice: EndpointChoice, settings: ProxySettings) -> None:
        self._port = port
        self._choice = choice
        self._settings = settings
        self._ip = base.ip(settings.family)
        self._path = port_path(port)
        name = port_name(self._path)
        self._cluster, self._local = f"service-{name}", f"local-{name}"
        self._external, self._firewall = f"external-{name}", f"firewall-{name}"
        self._piece = Piece()

    def piece(self) -> Piece:
        port, piece = self._port, self._piece
        piece.elements[Element(base.CLUSTER_IPS, port.cluster_ip)] = ""
        self._internal_traffic()
        if port.externally_accessible:
            self._outside_traffic()
        if port.load_balancer_ips and port.source_ranges:
            self._source_ranges()
        self._endpoint_chains()
        return piece

    def _internal_traffic(self) -> None:
        port, choice = self._port, self._choice
        place = self._place(port.cluster_ip)
        if choice.internal(port):
            chain = self._local if port.internal_local else self._cluster
            self._piece.elements[Element(base.SERVICE_IPS, place)] = f"goto {chain}"
        else:
            self._piece.elements[Element(base.NO_ENDPOINT_SERVICES, place)] = self._refusal()

    def _outside_traffic(self) -> None:
        """What comes for a NodePort, an external IP or a load balancer's.

        Under policy `Local` pods and the node itself may use every endpoint, so that what is for nobody here
        is dropped only after they had their turn.
        """
        port, choice, elements = self._port, self._choice, self._piece.elements
        places = [self._place(address) for address in (*port.external_ips, *port.load_balancer_ips)]
        node_port = f"{port.protocol} . {port.node_port}"
        if choice.cluster or choice.external(port):
            self._piece.chains[self._external] = tuple(self._external_rules())
            for place in places:
                elements[Element(base.SERVICE_IPS, place)] = f"goto {self._external}"
            if port.node_port:
                elements[Element(base.SERVICE_NODEPORTS, node_port)] = f"goto {self._external}"
        if not choice.external(port):
            for place in places:
                elements[Element(base.NO_ENDPOINT_SERVICES, place)] = self._refusal()
            if port.node_port:
                elements[Element(base.NO_ENDPOINT_NODEPORTS, node_port)] = self._refusal()

    def _external_rules(self) -> Iterator[str]:
        port, choice, settings = self._port, self._choice, self._settings
        if not port.external_local:
            yield f"jump {base.MARK}"
            yield f"goto {self._cluster}"
            return
        if choice.cluster:
            if settings.cluster_cidr:
                yield f"{self._ip} saddr {settings.cluster_cidr} goto {self._cluster}"
            yield f"fib saddr type local jump {base.MARK}"
            yield f"fib saddr type local goto {self._cluster}"
        if choice.local:
            yield f"goto {self._local}"

    def _source_ranges(self) -> None:
        networks = [ipaddress.ip_network(cidr, strict=False) for cidr in self._port.source_ranges]
        if any(network.prefixlen == 0 for network in networks):
            return
        collapsed = [str(network) for network in _collapsed(networks)]
        self._piece.chains[self._firewall] = (f"{self._ip} saddr != {{ {', '.join(collapsed)} }} drop",)
        for address in self._port.load_balancer_ips:
            element = Element(base.FIREWALL_IPS, self._place(address))
            self._piece.elements[element] = f"goto {self._firewall}"

    def _endpoint_chains(self) -> None:
        """The chains that pick an endpoint, one for each policy that is in use, and those of endpoints."""
        port, choice, chains = self._port, self._choice, self._piece.chains
        if choice.cluster:
            chains[self._cluster] = tuple(self._picking(choice.cluster, masquerading=not port.internal_local))
        if choice.local:
            chains[self._local] = tuple(self._picking(choice.local, masquerading=port.internal_local))
        for endpoint in choice.reachable:
            name = endpoint_name(self._path, endpoint)
            chains[f"endpoint-{name}"] = tuple(self._endpoint_rules(endpoint, name))
            if port.affinity_timeout_s is not None:
                address = "ipv4_addr" if self._ip == "ip" else "ipv6_addr"
                self._piece.sets[f"affinity-{name}"] = (
                    f"type {address} ; flags dynamic,timeout ; timeout {port.affinity_timeout_s}s"
                )

    def _picking(self, endpoints: Sequence[Endpoint], masquerading: bool) -> Iterator[str]:
        """Masquerade traffic to the ClusterIP where due, honour affinity, then choose at random."""
        port, settings = self._port, self._settings
        to_cluster_ip = f"{self._ip} daddr {port.cluster_ip} {port.protocol} dport {port.port}"
        if masquerading and settings.masquerade_all:
            yield f"{to_cluster_ip} jump {base.MARK}"
        elif masquerading and settings.cluster_cidr:
            yield f"{to_cluster_ip} {self._ip} saddr != {settings.cluster_cidr} jump {base.MARK}"
        names = [endpoint_name(self._path, endpoint) for endpoint in endpoints]
        if port.affinity_timeout_s is not None:
            for name in names:
                yield f"{self._ip} saddr @affinity-{name} goto endpoint-{name}"
        picks = ", ".join(f"{number} : goto endpoint-{name}" for number, name in enumerate(names))
        yield f"numgen random mod {len(names)} vmap {{ {picks} }}"

    def _endpoint_rules(self, endpoint: Endpoint, name: str) -> Iterator[str]:
        yield f"{self._ip} saddr {endpoint.address} jump {base.MARK}"
        if self._port.affinity_timeout_s is not None:
            yield f"update @affinity-{name} {{ {self._ip} saddr }}"
        yield f"meta l4proto {self._port.protocol} dnat to {endpoint.key}"

    def _place(self, address: str) -> str:
        return f"{address} . {self._port.protocol} . {self._port.port}"

    def _refusal(self) -> str:
        """REJECT without an endpoint anywhere; silence when the policy keeps traffic from those there are."""
        return base.DROP if self._choice.anywhere else base.REJECT


def _collapsed(
    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network],
) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Without overlaps, which nft refuses in a set."""
    four = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]
