"""node1 of a small cluster with an IPVS proxier, for tests that tell it of Services themselves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from smallcluster import CLUSTER_CIDRS, NODES, SmallCluster, endpoint

from testbed.net.process import run
from testbed.proxy.ipvs.proxier import IpvsProxier
from testbed.proxy.model import Family, ServicePort, ServicePortName
from testbed.proxy.proxier import ProxySettings, SyncResult
from testbed.proxy.servicemap import ServiceMap

VIP6 = "fd00:96::1"
VIP, LB, EXTERNAL = "10.96.0.1", "203.0.113.9", "198.51.100.7"
SETTINGS = ProxySettings(
    cluster_cidr=CLUSTER_CIDRS[Family.IPV4], node_ips=(NODES["node1"],), iptables_variant="legacy"
)


class Node:
    """node1 with an IPVS proxier, and the Services that it is told of."""

    def __init__(self, cluster: SmallCluster, settings: ProxySettings = SETTINGS) -> None:
        self.cluster = cluster
        self.family = settings.family
        self.services = ServiceMap()
        self.proxier = cluster.node.run(IpvsProxier, settings)
        self._changed: set[ServicePortName] = set()

    def service(self, *pods: str, name: str = "web", protocol: str = "TCP", **fields: Any) -> None:
        """Announce or change a Service with those endpoints."""
        identity = ServicePortName("default", name, "", protocol)
        vip = VIP if self.family is Family.IPV4 else VIP6
        port = replace(ServicePort(identity, vip, 80), **fields)
        self._changed |= self.services.set_service(("default", name), [port])
        slices = {identity: tuple(endpoint(pod, self.family) for pod in pods)}
        self._changed |= self.services.set_slice(("default", name), f"{name}-1", slices)

    def delete_service(self, name: str = "web") -> None:
        """Withdraw a Service and its endpoints."""
        self._changed |= self.services.set_service(("default", name), [])
        self._changed |= self.services.set_slice(("default", name), f"{name}-1", None)

    def sync(self) -> SyncResult:
        """A partial sync of what changed since the last one."""
        return self._sync(self._changed)

    def full_sync(self) -> SyncResult:
        """A sync that compares everything with the kernel."""
        return self._sync(None)

    def _sync(self, changed: Collection[ServicePortName] | None) -> SyncResult:
        result = self.cluster.node.run(self.proxier.sync, self.services, changed)
        self._changed = set()
        return result

    def sh(self, *argv: str) -> str:
        """What a command prints on the node."""
        return run(list(argv), namespace=self.cluster.node).stdout

    def table(self) -> str:
        """Virtual and real servers, as ipvsadm lists them."""
        return self.sh("ipvsadm", "-Ln")
