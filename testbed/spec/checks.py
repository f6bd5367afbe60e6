"""What does not go together in a topology whose parts are each right. Pure: a topology in, mistakes out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from testbed.spec.fields import EXTERNAL
from testbed.spec.mistakes import Mistake, Path, nearest, show
from testbed.spec.networks import LOAD_BALANCER_NETWORK, NODE_NETWORK
from testbed.spec.placement import (
    CLIENT,
    PodSpec,
    place,
    selector_of,
    selects,
)

if TYPE_CHECKING:
    from testbed.spec.service import Service
    from testbed.spec.sweep import Sweep
    from testbed.spec.topology import Topology
    from testbed.spec.workload import Deployment

# BR_MAX_PORTS of Linux, net/bridge: 1 << 10, one of them not usable.
BRIDGE_PORTS = 1023
_NAME_LENGTH = 63
_COPY_SUFFIX = len("-00000")
_PODS = frozenset({"nodes", "pods_per_node", "deployments"})


def mistakes_of(topology: Topology) -> Iterator[Mistake]:
    """Every mistake of the whole."""
    pods = place(topology) if _placeable(topology) else ()
    yield from _families(topology)
    yield from _networks(topology, pods)
    yield from _names(topology, pods)
    yield from _nodes(topology)
    yield from _endpoints(topology)
    yield from _bridges(topology, pods)
    yield from _selectors(topology, pods)
    yield from _addresses(topology)
    yield from _node_ports(topology)
    yield from _external(topology)
    yield from _sweep(topology)


_MOST_PODS = 200_000


def _placeable(topology: Topology) -> bool:
    """Whether the pods can be listed at all; what is larger is refused by its numbers alone."""
    replicas = sum(deployment.replicas for deployment in topology.deployments)
    return topology.nodes * (topology.pods_per_node + len(topology.deployments)) + replicas <= _MOST_PODS


def _families(topology: Topology) -> Iterator[Mistake]:
    families = topology.ip_families
    if list(families) not in (["IPv4"], ["IPv4", "IPv6"]):
        text = f"[{', '.join(families)}] is not a combination that the lab has"
        yield Mistake(("ip_families",), text, "[IPv4] or [IPv4, IPv6]")
    for index, service in enumerate(topology.services):
        reads = frozenset({"ip_families"})
        for position, family in enumerate(service.ip_families):
            if family not in families:
                path: Path = ("services", index, "ip_families", position)
                yield Mistake(path, f"the cluster has no {family}", f"add {family} to ip_families", reads)
        if service.ip_family_policy == "RequireDualStack" and len(families) < 2:
            path = ("services", index, "ip_family_policy")
            yield Mistake(path, "the cluster has one IP family", "write ip_families: [IPv4, IPv6]", reads)


def _networks(topology: Topology, pods: Sequence[PodSpec]) -> Iterator[Mistake]:
    cluster, services = topology.cluster_network, topology.service_network
    lab = {"the nodes' network": NODE_NETWORK, "the load balancers' network": LOAD_BALANCER_NETWORK}
    for key, network, others in (
        ("cluster_cidr", cluster, lab),
        ("service_cidr", services, {**lab, "cluster_cidr": cluster}),
    ):
        for other, theirs in others.items():
            if network.overlaps(theirs):
                # Told of the one that the user wrote, where only one of them is.
                swap = other in topology.model_fields_set and key not in topology.model_fields_set
                at, mine, its, of = (other, theirs, key, network) if swap else (key, network, other, theirs)
                text = f"{mine} overlaps {its} {of}"
                yield Mistake((at,), text, "choose another network", frozenset({its}))
    yield from _room_for_pods(topology, pods)
    wanted = len(topology.services) + (max(topology.sweep.services) if topology.sweep else 0)
    room = topology.service_network.num_addresses - 3
    if wanted > room:
        text = f"{topology.service_cidr} has room for {max(room, 0)} Services, {wanted} are wanted"
        yield Mistake(("service_cidr",), text, "take a wider network", frozenset({"services", "sweep"}))


def _room_for_pods(topology: Topology, pods: Sequence[PodSpec]) -> Iterator[Mistake]:
    """Every node needs a network of one size; besides pods, its gateway and two addresses stand in it."""
    most = max(Counter(pod.node for pod in pods).values(), default=topology.pods_per_node + 1)
    network = topology.cluster_network
    wanted = min(24, 32 - (most + 3).bit_length())
    prefix = max(wanted, network.prefixlen)
    if topology.nodes > 2 ** (prefix - network.prefixlen) or most > 2 ** (32 - prefix) - 3:
        text = f"{network} has no room for {topology.nodes} nodes with up to {most} pods"
        widest = wanted - (topology.nodes - 1).bit_length()
        remedy = f"a /{widest} or wider" if widest >= 8 else "fewer nodes or pods"
        yield Mistake(("cluster_cidr",), text, remedy, _PODS)


def _names(topology: Topology, pods: Sequence[PodSpec]) -> Iterator[Mistake]:
    yield from _repeated("services", [("Service", s.namespace, s.name) for s in topology.services])
    yield from _repeated("deployments", [_identity(workload) for workload in topology.deployments])
    yield from _pod_names(topology, pods)


def _identity(workload: Deployment) -> tuple[str, str, str]:
    return workload.kind, workload.namespace, workload.name


def _repeated(key: str, identities: Sequence[tuple[str, str, str]]) -> Iterator[Mistake]:
    seen: set[tuple[str, str, str]] = set()
    for index, identity in enumerate(identities):
        kind, namespace, name = identity
        if identity in seen:
            text = f"{show(name)} is the name of another {kind} of namespace {show(namespace)}"
            yield Mistake((key, index, "name"), text, "rename one, or change its namespace")
        seen.add(identity)


def _pod_names(topology: Topology, pods: Sequence[PodSpec]) -> Iterator[Mistake]:
    """Pods of different owners that would have one name."""
    position = {id(deployment): index for index, deployment in enumerate(topology.deployments)}
    holders: dict[tuple[str, str], PodSpec] = {}
    reported: set[int] = set()
    for pod in pods:
        other = holders.setdefault((pod.namespace, pod.name), pod)
        if other is pod or pod.owner is None or id(pod.owner) in reported:
            continue
        if other.owner is not None and _identity(other.owner) == _identity(pod.owner):
            continue
        reported.add(id(pod.owner))
        text = f"its pod {show(pod.name)} has the name of {_whose(other)}"
        yield Mistake(("deployments", position[id(pod.owner)], "name"), text, "rename it", _PODS)


def _whose(pod: PodSpec) -> str:
    if pod.owner is not None:
        return f"a pod of {pod.owner.kind} {pod.owner.name}"
    return "the lab's own client" if pod.name == CLIENT else "a generic pod"


def _nodes(topology: Topology) -> Iterator[Mistake]:
    names = set(topology.node_names)
    for index, deployment in enumerate(topology.deployments):
        if deployment.node is not None and deployment.node not in names:
            text = f"there is no node {show(deployment.node)}"
            remedy = nearest(deployment.node, topology.node_names)
            yield Mistake(("deployments", index, "node"), text, remedy, frozenset({"nodes"}))


def _endpoints(topology: Topology) -> Iterator[Mistake]:
    for index, service in enumerate(topology.services):
        if service.endpoints is not None:
            yield from _enough(topology, ("services", index, "endpoints"), service.endpoints)


def _enough(topology: Topology, path: Path, endpoints: int) -> Iterator[Mistake]:
    total = topology.nodes * topology.pods_per_node
    if endpoints > total:
        text = f"{endpoints} endpoints are more than the {total} pods there are"
        per_node = -(-endpoints // topology.nodes)
        yield Mistake(path, text, f"at most {total}, or pods_per_node: {per_node}", _PODS - {"deployments"})


def _bridges(topology: Topology, pods: Sequence[PodSpec]) -> Iterator[Mistake]:
    on_node = Counter(pod.node for pod in pods)
    even = -(-sum(deployment.replicas for deployment in topology.deployments) // topology.nodes)
    most = max(on_node.values(), default=topology.pods_per_node + 1 + even)
    if most > BRIDGE_PORTS:
        key = "pods_per_node" if topology.pods_per_node >= most // 2 else "deployments"
        text = f"{most} pods on one node are more than the {BRIDGE_PORTS} that a bridge takes"
        yield Mistake(
            (key,), text, "spread them over more nodes", frozenset({"nodes", "pods_per_node"}) - {key}
        )


def _selectors(topology: Topology, pods: Sequence[PodSpec]) -> Iterator[Mistake]:
    by_label: dict[tuple[str, str], list[PodSpec]] = defaultdict(list)
    for pod in pods:
        for label in pod.labels.items():
            by_label[label].append(pod)
    for index, service in enumerate(topology.services if pods else ()):
        selector = selector_of(service)
        if not selector or service.endpoints == 0:
            continue
        candidates = by_label.get(next(iter(selector.items())), [])
        anywhere = [pod for pod in candidates if selects(selector, pod.labels)]
        chosen = [pod for pod in anywhere if pod.namespace == service.namespace]
        if chosen:
            yield from _target_ports(service, index, chosen)
        elif service.endpoints is None and not _sleeping(topology, service):
            remedy = _selector_remedy(topology, service)
            wanted = ", ".join(f"{key}: {value}" for key, value in selector.items())
            path = ("services", index, "selector")
            yield Mistake(path, f"no pod has the labels {{{wanted}}}", remedy, _PODS)


def _sleeping(topology: Topology, service: Service) -> bool:
    """Whether the selector is of a workload that has no pods for now."""
    return any(
        workload.replicas == 0
        and workload.namespace == service.namespace
        and selects(service.selector or {}, workload.labels)
        for workload in topology.deployments
    )


def _selector_remedy(topology: Topology, service: Service) -> str:
    """The namespace where the labels are, or the label that is nearest to one that no pod has."""
    selector = service.selector or {}
    for workload in topology.deployments:
        if selects(selector, workload.labels):
            return f"{workload.kind} {workload.name} has them, in namespace {show(workload.namespace)}"
    labels = [label for workload in topology.deployments for label in workload.labels.items()]
    present = {f"{key}: {value}" for key, value in labels}
    wanted = [f"{key}: {value}" for key, value in selector.items()]
    return next((nearest(label, sorted(present)) for label in wanted if label not in present), "")


def _target_ports(service: Service, index: int, chosen: Sequence[PodSpec]) -> Iterator[Mistake]:
    for position, port in enumerate(service.ports):
        names = {p.name for pod in chosen for p in pod.ports if p.name and p.protocol == port.protocol}
        if isinstance(port.target, str) and port.target not in names:
            path = ("services", index, "ports", position, "target_port")
            text = f"no pod of this Service has a {port.protocol} port named {show(port.target)}"
            yield Mistake(path, text, nearest(port.target, sorted(names)), frozenset({"deployments"}))


def _addresses(topology: Topology) -> Iterator[Mistake]:
    holders: dict[str, str] = {}
    for index, service in enumerate(topology.services):
        if service.cluster_ip is None or service.headless:
            continue
        path = ("services", index, "cluster_ip")
        address = ip_address(service.cluster_ip)
        if address.version == 4 and address not in topology.service_network:
            text = f"{address} is outside service_cidr {topology.service_cidr}"
            yield Mistake(path, text, "", frozenset({"service_cidr"}))
        elif address.version == 6 and "IPv6" not in topology.ip_families:
            yield Mistake(
                path, "the cluster has no IPv6", "write ip_families: [IPv4, IPv6]", frozenset({"ip_families"})
            )
        if str(address) in holders:
            text = f"{address} is the address of Service {holders[str(address)]} too"
            yield Mistake(path, text, "leave it out, and one is allocated")
        holders.setdefault(str(address), service.name)


def _node_ports(topology: Topology) -> Iterator[Mistake]:
    holders: dict[tuple[int, str], str] = {}
    for index, service in enumerate(topology.services):
        wanted: list[tuple[Path, int, str]] = [
            (("services", index, "ports", position, "node_port"), port.node_port, port.protocol)
            for position, port in enumerate(service.ports)
            if port.node_port is not None
        ]
        if service.health_check_node_port is not None:
            wanted.append(
                (("services", index, "health_check_node_port"), service.health_check_node_port, "TCP")
            )
        for path, number, protocol in wanted:
            if (number, protocol) in holders:
                holder = holders[number, protocol]
                text = f"node port {number}/{protocol} belongs to Service {holder} too"
                yield Mistake(path, text, "leave it out, and one is allocated")
            holders.setdefault((number, protocol), service.name)


def _external(topology: Topology) -> Iterator[Mistake]:
    """Names of external proxies: each once, and each that the sweep wants is there."""
    names: list[str] = []
    for index, external in enumerate(topology.proxy.external):
        if external.name in names:
            path: Path = ("proxy", "external", index, "name")
            yield Mistake(path, f"{show(external.name)} is given twice", "rename one")
        names.append(external.name)
    for index, mode in enumerate(topology.sweep.modes if topology.sweep else ()):
        if mode.startswith(EXTERNAL) and mode not in names:
            remedy = nearest(mode, names) or "describe it under proxy.external"
            path = ("sweep", "modes", index)
            yield Mistake(
                path, f"proxy.external has nothing named {show(mode)}", remedy, frozenset({"proxy"})
            )


def _sweep(topology: Topology) -> Iterator[Mistake]:
    if topology.sweep is None:
        return
    if topology.services:
        found = _sweep_mistakes(topology, topology.sweep, topology.services[0])
    else:
        found = iter([Mistake(("sweep",), "there is no Service to copy", "add one under services")])
    for mistake in found:
        yield replace(mistake, reads=mistake.reads | {"services"})


def _sweep_mistakes(topology: Topology, sweep: Sweep, first: Service) -> Iterator[Mistake]:
    if not first.proxied:
        kind = "headless" if first.headless else first.type
        text = f"the sweep copies the first Service, and no proxy serves one that is {kind}"
        yield Mistake(("services", 0), text, "put a ClusterIP Service first")
    if len(first.name) + _COPY_SUFFIX > _NAME_LENGTH:
        text = f"{show(first.name)} is too long for copies of it"
        remedy = f"at most {_NAME_LENGTH - _COPY_SUFFIX} characters"
        yield Mistake(("services", 0, "name"), text, remedy)
    for index, endpoints in enumerate(sweep.endpoints):
        yield from _sweep_endpoints(topology, first, ("sweep", "endpoints", index), endpoints)
    protocols = {port.protocol for port in first.ports}
    for index, traffic in enumerate(sweep.traffic):
        needed = "UDP" if traffic == "udp" else "TCP"
        if protocols and needed not in protocols:
            text = f"{show(traffic)} needs a {needed} port, services[0] has none"
            remedy = f"add a port with protocol: {needed} to it"
            yield Mistake(("sweep", "traffic", index), text, remedy)


def _sweep_endpoints(topology: Topology, first: Service, path: Path, endpoints: int) -> Iterator[Mistake]:
    if first.endpoints is not None:
        yield from _enough(topology, path, endpoints)
        return
    pods = place(topology) if _placeable(topology) else ()
    there = sum(p.namespace == first.namespace and selects(first.selector or {}, p.labels) for p in pods)
    if endpoints != there:
        text = f"services[0] chooses its {there} pods by selector, their number cannot vary"
        yield Mistake(path, text, "give it `endpoints` instead", _PODS | {"services"})
