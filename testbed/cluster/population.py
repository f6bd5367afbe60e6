"""The Kubernetes objects that a topology's cluster starts with. Pure."""

from __future__ import annotations

from typing import Any

from testbed.cluster.plan import Plan, PodPlan
from testbed.spec import Topology
from testbed.spec.objects import (
    deployment_objects,
    namespace_objects,
    node_object,
    pod_object,
    service_objects,
)


def population(topology: Topology, plan: Plan, *, services: bool = True) -> list[dict[str, Any]]:
    """Namespaces, nodes, workloads, running pods and Services, in an order that can be loaded at once.

    A sweep leaves the Services out: it adds copies of the first as its cells ask for them.
    """
    return [
        *namespace_objects(topology),
        *_nodes(plan),
        *deployment_objects(topology),
        *(planned_pod(plan, pod) for pod in plan.pods),
        *(service_objects(topology) if services else ()),
    ]


def planned_pod(plan: Plan, pod: PodPlan) -> dict[str, Any]:
    """The running Pod at its planned addresses."""
    node = plan.node[pod.spec.node]
    return pod_object(pod.spec, _both(pod.address, pod.address6), _both(node.address, node.address6))


def _nodes(plan: Plan) -> list[dict[str, Any]]:
    return [
        node_object(
            node.name,
            _both(node.address, node.address6),
            _both(str(node.pod_network), str(node.pod_network6) if node.pod_network6 else None),
        )
        for node in plan.nodes
    ]


def _both(address: str, address6: str | None) -> list[str]:
    return [address, address6] if address6 else [address]
