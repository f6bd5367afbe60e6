"""Where everything in a cluster stands: names and addresses, decided before anything is built.

Pure: a `Topology` in, a `Plan` out, the same one every time. Every lane of a cell follows the same
plan, so lanes have the same addresses and differ in nothing but the proxier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import islice

from testbed.errors import UserError
from testbed.net.fabric import NodeAttachment, PodAttachment
from testbed.spec import PodSpec, Topology, place
from testbed.spec.networks import CLUSTER_NETWORK6, NODE_NETWORK, NODE_NETWORK6, SERVICE_NETWORK6

_POD_PREFIX = 24
_POD_PREFIX6 = 64


@dataclass(frozen=True)
class PodPlan:
    """A pod with its node and addresses; `spec` is what the topology says of it."""

    spec: PodSpec
    address: str
    address6: str | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def attachment(self) -> PodAttachment:
        """The pod in the terms of the fabric builder."""
        return PodAttachment(self.name, self.address, self.address6)


@dataclass(frozen=True)
class NodePlan:
    """A node with its address on the underlay and the network of its pods."""

    name: str
    address: str
    pod_network: IPv4Network
    address6: str | None = None
    pod_network6: IPv6Network | None = None

    @property
    def gateway(self) -> str:
        """The address of the node's bridge: the first of its pod network."""
        return str(self.pod_network[1])

    @property
    def gateway6(self) -> str | None:
        return str(self.pod_network6[1]) if self.pod_network6 else None


@dataclass(frozen=True)
class Plan:
    """A whole cluster on paper."""

    nodes: tuple[NodePlan, ...]
    pods: tuple[PodPlan, ...]
    outside: str
    outside6: str | None
    cluster_cidrs: tuple[str, ...]
    service_cidrs: tuple[str, ...]

    @cached_property
    def node(self) -> Mapping[str, NodePlan]:
        """The nodes by name."""
        return {node.name: node for node in self.nodes}

    @property
    def dual_stack(self) -> bool:
        return self.outside6 is not None

    def attachments(self) -> tuple[NodeAttachment, ...]:
        """The plan in the terms of the fabric builder."""
        pods: dict[str, list[PodAttachment]] = {node.name: [] for node in self.nodes}
        for pod in self.pods:
            pods[pod.spec.node].append(pod.attachment)
        return tuple(
            NodeAttachment(
                name=node.name,
                address=node.address,
                pod_network=str(node.pod_network),
                gateway=node.gateway,
                pods=tuple(pods[node.name]),
                address6=node.address6,
                pod_network6=str(node.pod_network6) if node.pod_network6 else None,
                gateway6=node.gateway6,
            )
            for node in self.nodes
        )


def make_plan(topology: Topology) -> Plan:
    """Give every node and pod of `topology` its address.

    A node gets a /24 of the cluster's network, or what holds its pods where they are more.

    Raises:
        UserError: the cluster's network has no room for that many nodes or pods.
    """
    specs = place(topology)
    cluster = IPv4Network(topology.cluster_cidr)
    dual = "IPv6" in topology.ip_families
    most_pods = max(sum(spec.node == name for spec in specs) for name in {s.node for s in specs})
    prefix = max(min(_POD_PREFIX, 32 - (most_pods + 3).bit_length()), cluster.prefixlen)
    networks = list(islice(cluster.subnets(new_prefix=prefix), topology.nodes))
    if len(networks) < topology.nodes or most_pods > networks[0].num_addresses - 3:
        raise UserError(
            f"cluster_cidr {cluster} has no room for {topology.nodes} nodes with up to {most_pods} pods: "
            "take a wider network"
        )
    networks6 = list(islice(CLUSTER_NETWORK6.subnets(new_prefix=_POD_PREFIX6), topology.nodes))
    nodes = tuple(
        NodePlan(
            name=f"node{index}",
            address=str(NODE_NETWORK[index]),
            pod_network=network,
            address6=str(NODE_NETWORK6[index]) if dual else None,
            pod_network6=network6 if dual else None,
        )
        for index, (network, network6) in enumerate(zip(networks, networks6, strict=True), start=1)
    )
    return Plan(
        nodes=nodes,
        pods=tuple(_addresses(specs, {node.name: node for node in nodes})),
        outside=str(NODE_NETWORK[-2]),
        outside6=str(NODE_NETWORK6[0xFFFE]) if dual else None,
        cluster_cidrs=(str(cluster), str(CLUSTER_NETWORK6)) if dual else (str(cluster),),
        service_cidrs=(
            (str(ip_network(topology.service_cidr)), str(SERVICE_NETWORK6))
            if dual
            else (str(ip_network(topology.service_cidr)),)
        ),
    )


def _addresses(specs: tuple[PodSpec, ...], nodes: Mapping[str, NodePlan]) -> list[PodPlan]:
    """Count each node's pods upwards from the address after its gateway."""
    next_host = dict.fromkeys(nodes, 2)
    pods = []
    for spec in specs:
        node = nodes[spec.node]
        host = next_host[spec.node]
        next_host[spec.node] += 1
        address6 = str(node.pod_network6[host]) if node.pod_network6 else None
        pods.append(PodPlan(spec, str(node.pod_network[host]), address6))
    return pods
