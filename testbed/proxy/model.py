"""What a proxier needs to know of Services and Endpoints, as immutable values of one IP family.

Owns the vocabulary (`ServicePortName`, `ServicePort`, `Endpoint`) and the pure rules for choosing which
endpoints traffic may reach. Must not know JSON, the API, threads, or how any mode programs the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Family(StrEnum):
    """An IP family, spelt as in `spec.ipFamilies` and in an EndpointSlice's `addressType`."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"

    @property
    def bits(self) -> int:
        """Length of an address, and so of a host's prefix: 32 or 128."""
        return 32 if self is Family.IPV4 else 128


class ServicePortName(NamedTuple):
    """Identity of one port of one Service; the same number over TCP and UDP are two of them.

    `port` is the port's name and empty for the unnamed port of a single-port Service. `protocol` is `TCP`,
    `UDP` or `SCTP`. As text it is `namespace/name` or `namespace/name:port`, as in rule comments and chain
    hashes.
    """

    namespace: str
    name: str
    port: str
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}:{self.port}" if self.port else f"{self.namespace}/{self.name}"


class Endpoint(NamedTuple):
    """One address and port behind a Service port, with its conditions as the EndpointSlice states them.

    Compares and sorts by address first. `local` means that it lives on the proxy's own node; `zones` are the
    zones of its topology hint, empty without one.
    """

    address: str
    port: int
    local: bool = False
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zones: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`address:port`, with an IPv6 address in brackets."""
        address, port = self.address, self.port
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    @property
    def draining(self) -> bool:
        """Terminating, yet still serving: used when nothing is ready."""
        return self.terminating and self.serving and not self.ready


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of one Service, reduced to what concerns one IP family.

    Every address is canonical text of that family. `node_port` and `health_check_node_port` are 0 when unset.
    `load_balancer_ips` holds only ingress addresses that the node captures (`ipMode: Proxy` is left out).
    `affinity_timeout_s` is None without `sessionAffinity: ClientIP`. `external_local` and `internal_local`
    say that the traffic policy of that name is `Local`.
    """

    name: ServicePortName
    cluster_ip: str
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    affinity_timeout_s: int | None = None
    external_local: bool = False
    internal_local: bool = False
    health_check_node_port: int = 0

    @property
    def protocol(self) -> str:
        """`tcp`, `udp` or `sctp`, as iptables, nft and IPVS tools spell it."""
        return self.name.protocol.lower()

    @property
    def externally_accessible(self) -> bool:
        """Reachable by anything besides its ClusterIP."""
        return bool(self.node_port or self.load_balancer_ips or self.external_ips)

    @property
    def uses_cluster_endpoints(self) -> bool:
        """Some traffic may go to any node; `Local` external traffic of pods and of the node itself counts."""
        return not self.internal_local or self.externally_accessible

    @property
    def uses_local_endpoints(self) -> bool:
        """Some traffic may only go to this node's endpoints."""
        return self.internal_local or (self.external_local and self.externally_accessible)


class EndpointChoice(NamedTuple):
    """Which endpoints of a Service port traffic may reach on this node.

    `cluster` serves traffic under policy `Cluster`, `local` under policy `Local`, `reachable` is their union
    in the order of the endpoints. `anywhere` says that a usable endpoint exists on some node: without one
    traffic is rejected, with one but none in `local` it is dropped.
    """

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    reachable: tuple[Endpoint, ...]
    anywhere: bool

    def internal(self, port: ServicePort) -> tuple[Endpoint, ...]:
        """The endpoints for traffic to the ClusterIP."""
        return self.local if port.internal_local else self.cluster

    def external(self, port: ServicePort) -> tuple[Endpoint, ...]:
        """The endpoints for outside traffic to NodePort, load balancer and external IPs."""
        return self.local if port.external_local else self.cluster


def choose_endpoints(port: ServicePort, endpoints: Sequence[Endpoint], zone: str = "") -> EndpointChoice:
    """Sort `endpoints` into what cluster-wide and what local traffic may reach, as kube-proxy does.

    Ready endpoints are used, narrowed to `zone` (the node's; empty: unknown) when hints allow it; where none
    is ready, draining ones are, whatever their zone. Local traffic falls back to draining ones by itself.
    """
    endpoints = tuple(endpoints)
    cluster: tuple[Endpoint, ...] = ()
    anywhere = False
    if port.uses_cluster_endpoints:
        cluster = _cluster_endpoints(endpoints, zone)
        anywhere = bool(cluster)
    if not port.uses_local_endpoints:
        return EndpointChoice(cluster, (), cluster, anywhere)
    anywhere = anywhere or any(endpoint.ready or endpoint.draining for endpoint in endpoints)
    local = tuple(endpoint for endpoint in endpoints if endpoint.local and endpoint.ready)
    if not local:
        local = tuple(endpoint for endpoint in endpoints if endpoint.local and endpoint.draining)
    wanted = {*cluster, *local}
    reachable = tuple(endpoint for endpoint in endpoints if endpoint in wanted)
    return EndpointChoice(cluster, local, reachable, anywhere)


def _cluster_endpoints(endpoints: tuple[Endpoint, ...], zone: str) -> tuple[Endpoint, ...]:
    ready = endpoints
    if not all(endpoint.ready for endpoint in endpoints):
        ready = tuple(endpoint for endpoint in endpoints if endpoint.ready)
    if not ready:
        return tuple(endpoint for endpoint in endpoints if endpoint.draining)
    if not zone or not all(endpoint.zones for endpoint in ready):
        return ready
    return tuple(endpoint for endpoint in ready if zone in endpoint.zones) or ready
