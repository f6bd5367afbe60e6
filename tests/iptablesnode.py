"""node1 of a small cluster with an iptables proxier, for tests that tell it of Services themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from smallcluster import CLUSTER_CIDRS, NODES, SmallCluster, address6, endpoint

from testbed.net.measuring import measuring_sysctls
from testbed.net.process import run
from testbed.proxy.changes import Delta
from testbed.proxy.conntrack import remove_stale_flows, udp_frontends
from testbed.proxy.iptables.proxier import IptablesProxier
from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName
from testbed.proxy.proxier import ProxySettings, SyncResult
from testbed.proxy.servicemap import ServiceMap

VIP, LB, EXTERNAL = "10.96.0.1", "203.0.113.9", "198.51.100.7"
NODE = NODES["node1"]
ALL_WAYS: dict[str, Any] = {"node_port": 30080, "load_balancer_ips": (LB,), "external_ips": (EXTERNAL,)}
SETTINGS = ProxySettings(cluster_cidr=CLUSTER_CIDRS[Family.IPV4], node_ips=(NODE,), iptables_variant="legacy")
SETTINGS6 = ProxySettings(
    family=Family.IPV6,
    cluster_cidr=CLUSTER_CIDRS[Family.IPV6],
    node_ips=(address6(NODE),),
    iptables_variant="legacy",
)


class Node:
    """node1 with an iptables proxier, and the Services that it is told of."""

    def __init__(self, cluster: SmallCluster, settings: ProxySettings = SETTINGS) -> None:
        self.cluster = cluster
        self.settings = settings
        self.services = ServiceMap()
        measuring_sysctls(cluster.node)  # no limit to the rate of ICMP errors, which tell of refusals
        self.start_proxier()
        self._delta = Delta()

    def start_proxier(self) -> None:
        self.proxier = self.cluster.node.run(IptablesProxier, self.settings)

    def service(self, *pods: str, name: str = "web", protocol: str = "TCP", **fields: Any) -> None:
        """Announce or change a Service with those pods as endpoints."""
        endpoints = [endpoint(pod, self.settings.family) for pod in pods]
        self.service_of(endpoints, name=name, protocol=protocol, **fields)

    def service_of(
        self, endpoints: Collection[Endpoint], *, name: str = "web", protocol: str = "TCP", **fields: Any
    ) -> None:
        identity = ServicePortName("default", name, "", protocol)
        vip = VIP if self.settings.family is Family.IPV4 else address6(VIP)
        port = replace(ServicePort(identity, vip, 80), **fields)
        if identity in self.services:
            self._delta.before[identity] = self.services[identity]
        self._delta.changed |= self.services.set_service(("default", name), [port])
        slices = {identity: tuple(sorted(endpoints))}
        self._delta.changed |= self.services.set_slice(("default", name), f"{name}-1", slices)

    def delete_service(self, name: str = "web") -> None:
        self._delta.before.update((port.name, port) for port in self.services.ports_of(("default", name)))
        self._delta.changed |= self.services.set_service(("default", name), [])
        self._delta.changed |= self.services.set_slice(("default", name), f"{name}-1", None)

    def sync(self, *, full: bool = False) -> SyncResult:
        """A sync of what changed since the last one, with stale UDP flows removed as the proxy does."""
        changed = None if full else self._delta.changed
        result = self.cluster.node.run(self.proxier.sync, self.services, changed)
        frontends = udp_frontends(self._delta, self.services, self.settings.family)
        self.cluster.node.run(remove_stale_flows, frontends, self.settings.family)
        self._delta = Delta()
        return result

    def sh(self, *argv: str) -> str:
        """What a command prints on the node."""
        return run(list(argv), namespace=self.cluster.node).stdout

    def rules(self) -> list[str]:
        """All rules and chains, without counters; rules of different Services in a common chain sorted."""
        saved = self.sh(f"iptables-{self.settings.iptables_variant}-save")
        lines = [line.partition(" [")[0] for line in saved.splitlines()]
        return sorted(line for line in lines if not line.startswith("#"))


def asked(cluster: SmallCluster, times: int, source: str = "client", vip: str = VIP) -> Counter[str]:
    return Counter(cluster.ask(source, vip, 80).pod for _ in range(times))
