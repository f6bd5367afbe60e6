"""Which pods there are, on which node, with which labels and ports. Pure, and the same every time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from testbed.spec.service import Service
    from testbed.spec.topology import Topology
    from testbed.spec.workload import Deployment

CLIENT = "client"
DEFAULT_NAMESPACE = "default"
NODE_LABEL = "testbed/node"
_ENDPOINTS_LABEL = "testbed/endpoints-"
_YES = "yes"


class PodPort(NamedTuple):
    """A port that a pod listens on; `protocol` is TCP or UDP."""

    number: int
    protocol: str
    name: str | None = None


GENERIC_PORTS = (PodPort(8080, "TCP", "http"), PodPort(8080, "UDP", "udp"))


@dataclass(frozen=True)
class PodSpec:
    """A pod that the topology asks for. `name` is the only one of its kind in the whole cluster.

    `ports` are all that it listens on, those that only Services name included. `owner` is the workload that
    it belongs to, None for the client and for generic pods.
    """

    name: str
    namespace: str
    node: str
    labels: Mapping[str, str]
    ports: tuple[PodPort, ...] = ()
    owner: Deployment | None = None

    @property
    def listens(self) -> tuple[tuple[int, str], ...]:
        """Numbers and protocols, each once."""
        return tuple(dict.fromkeys((port.number, port.protocol) for port in self.ports))


def endpoints_selector(endpoints: int) -> dict[str, str]:
    """The label that the first `endpoints` generic pods carry."""
    return {f"{_ENDPOINTS_LABEL}{endpoints}": _YES}


def selector_of(service: Service) -> dict[str, str] | None:
    """The labels by which a Service finds its pods; None where it looks for none."""
    if service.endpoints is not None:
        return endpoints_selector(service.endpoints)
    return service.selector


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether `labels` has every label of `selector`."""
    return selector.items() <= labels.items()


def place(topology: Topology) -> tuple[PodSpec, ...]:
    """All pods: the client on the first node, the generic pods, then the workloads' pods.

    Generic pods are named `pod-<node>-<i>` and dealt to the nodes one by one: pod-1-1, pod-2-1, pod-1-2...
    A Service that counts its endpoints in another namespace than `default` gets pods of that namespace.
    Workloads' pods go round the nodes too, one after the other over all workloads.
    """
    unplaced = [_client(topology), *_generic_pods(topology), *_workload_pods(topology)]
    wanted = _WantedPorts(topology)
    return tuple(wanted.added_to(pod) for pod in _with_unique_names(unplaced))


def count_selected(topology: Topology, service: Service) -> int:
    """How many pods are endpoints of `service`."""
    if service.endpoints is not None:
        return service.endpoints
    selector = selector_of(service) or {}
    return sum(
        pod.namespace == service.namespace and selects(selector, pod.labels) for pod in place(topology)
    )


def _client(topology: Topology) -> PodSpec:
    return PodSpec(CLIENT, DEFAULT_NAMESPACE, topology.node_names[0], {"app": CLIENT})


def _generic_pods(topology: Topology) -> Iterator[PodSpec]:
    counts = _endpoint_counts(topology)
    total = topology.nodes * topology.pods_per_node
    for namespace, wanted in counts.items():
        here = total if namespace == DEFAULT_NAMESPACE else min(total, max(wanted))
        for index in range(here):
            row, node = divmod(index, topology.nodes)
            labels = {NODE_LABEL: topology.node_names[node]}
            for endpoints in wanted:
                if index < endpoints:
                    labels |= endpoints_selector(endpoints)
            prefix = "" if namespace == DEFAULT_NAMESPACE else f"{namespace}-"
            name = f"{prefix}pod-{node + 1}-{row + 1}"
            yield PodSpec(name, namespace, topology.node_names[node], labels, GENERIC_PORTS)


def _endpoint_counts(topology: Topology) -> dict[str, list[int]]:
    """Every number of endpoints that is asked for, by namespace, ascending."""
    counts: dict[str, set[int]] = {DEFAULT_NAMESPACE: set()}
    for service in topology.services:
        if service.endpoints is not None:
            counts.setdefault(service.namespace, set()).add(service.endpoints)
    if topology.sweep is not None and topology.services and topology.services[0].endpoints is not None:
        counts[topology.services[0].namespace] |= set(topology.sweep.endpoints)
    return {namespace: sorted(wanted) for namespace, wanted in counts.items()}


def _workload_pods(topology: Topology) -> Iterator[PodSpec]:
    turn = count()
    names = topology.node_names
    for workload in topology.deployments:
        ports = tuple(PodPort(port.port, port.protocol, port.name) for port in workload.ports)
        for name, node in _replicas(workload, names, turn):
            labels = dict(workload.labels)
            if workload.kind == "StatefulSet":
                labels["statefulset.kubernetes.io/pod-name"] = name
                labels["apps.kubernetes.io/pod-index"] = name.rpartition("-")[2]
            yield PodSpec(name, workload.namespace, node, labels, ports, workload)


def _replicas(workload: Deployment, nodes: Sequence[str], turn: Iterator[int]) -> Iterator[tuple[str, str]]:
    """Name and node of each pod of a workload."""
    if workload.kind == "DaemonSet":
        yield from ((f"{workload.name}-{node}", node) for node in nodes)
        return
    first = 0 if workload.kind == "StatefulSet" else 1
    for index in range(first, first + workload.replicas):
        name = workload.name if workload.kind == "Pod" else f"{workload.name}-{index}"
        yield name, workload.node or nodes[next(turn) % len(nodes)]


def _with_unique_names(pods: Sequence[PodSpec]) -> Iterator[PodSpec]:
    """Put the namespace before names that an earlier pod of another namespace has."""
    holders: dict[str, str] = {}
    for pod in pods:
        name = pod.name
        while holders.get(name, pod.namespace) != pod.namespace:
            name = f"{pod.namespace}-{name}"
        holders[name] = pod.namespace
        yield pod if name == pod.name else replace(pod, name=name)


@dataclass
class _WantedPorts:
    """The ports that Services expect pods to listen on, found by one label of each selector."""

    topology: Topology
    _by_label: dict[tuple[str, str, str], list[tuple[dict[str, str], list[PodPort]]]] = field(init=False)

    def __post_init__(self) -> None:
        self._by_label = defaultdict(list)
        for service in self.topology.services:
            if selector := selector_of(service):
                self._note(service, selector)
        if self.topology.sweep is not None and self.topology.services:
            for endpoints in self.topology.sweep.endpoints:
                self._note(self.topology.services[0], endpoints_selector(endpoints))

    def _note(self, service: Service, selector: dict[str, str]) -> None:
        key, value = next(iter(selector.items()))
        ports = [
            PodPort(port.target, port.protocol) for port in service.ports if isinstance(port.target, int)
        ]
        self._by_label[service.namespace, key, value].append((selector, ports))

    def added_to(self, pod: PodSpec) -> PodSpec:
        known = {(port.number, port.protocol) for port in pod.ports}
        more: dict[tuple[int, str], PodPort] = {}
        for key, value in pod.labels.items():
            for selector, ports in self._by_label.get((pod.namespace, key, value), ()):
                if selects(selector, pod.labels):
                    more |= {port[:2]: port for port in ports if port[:2] not in known}
        return replace(pod, ports=(*pod.ports, *more.values())) if more else pod
