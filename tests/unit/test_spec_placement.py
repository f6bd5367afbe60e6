"""Pods stand where the topology says, the same way every time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.spec import Deployment, PodPort, Service, Topology, place


def selected(topology: Topology, selector: dict[str, str], namespace: str = "default") -> list[str]:
    return [
        pod.name
        for pod in place(topology)
        if pod.namespace == namespace and selector.items() <= pod.labels.items()
    ]


def test_a_client_and_the_generic_pods_are_dealt_to_the_nodes_one_by_one() -> None:
    pods = place(Topology(nodes=2, pods_per_node=2))
    assert [(pod.name, pod.node) for pod in pods] == [
        ("client", "node1"),
        ("pod-1-1", "node1"),
        ("pod-2-1", "node2"),
        ("pod-1-2", "node1"),
        ("pod-2-2", "node2"),
    ]
    assert pods[0].labels == {"app": "client"}
    assert pods[0].ports == ()


def test_generic_pods_listen_on_8080_and_on_what_their_services_lead_to() -> None:
    ports = [
        {"name": "a", "port": 80},
        {"name": "b", "port": 53, "target_port": 5353, "protocol": "UDP"},
        {"name": "c", "port": 81, "target_port": "http"},
    ]
    topology = Topology(nodes=1, pods_per_node=2, services=[Service(name="web", endpoints=1, ports=ports)])
    _, first, second = place(topology)
    assert first.ports == (
        PodPort(8080, "TCP", "http"),
        PodPort(8080, "UDP", "udp"),
        PodPort(80, "TCP"),
        PodPort(5353, "UDP"),
    )
    assert second.listens == ((8080, "TCP"), (8080, "UDP"))


def test_every_number_of_endpoints_has_its_label_the_sweep_s_too() -> None:
    topology = Topology(
        nodes=2,
        pods_per_node=3,
        services=[Service(name="web", port=80, endpoints=2), Service(name="x", port=81, endpoints=5)],
        sweep={"endpoints": [1, 3]},
    )
    for endpoints in (1, 2, 3, 5):
        names = selected(topology, {f"testbed/endpoints-{endpoints}": "yes"})
        assert names == ["pod-1-1", "pod-2-1", "pod-1-2", "pod-2-2", "pod-1-3", "pod-2-3"][:endpoints]
    third = next(pod for pod in place(topology) if pod.name == "pod-1-2")
    assert (80, "TCP") in third.listens


def test_a_selector_may_choose_the_pods_of_one_node() -> None:
    topology = Topology(
        nodes=2, pods_per_node=2, services=[Service(name="a", port=80, selector={"testbed/node": "node2"})]
    )
    assert selected(topology, {"testbed/node": "node2"}) == ["pod-2-1", "pod-2-2"]


def test_counted_endpoints_in_another_namespace_get_pods_there() -> None:
    topology = Topology(
        nodes=2,
        pods_per_node=2,
        services=[Service(name="web", namespace="shop", port=80, endpoints=3)],
    )
    assert selected(topology, {"testbed/endpoints-3": "yes"}, "shop") == [
        "shop-pod-1-1",
        "shop-pod-2-1",
        "shop-pod-1-2",
    ]
    assert len({pod.name for pod in place(topology)}) == len(place(topology)) == 8


def test_names_of_pods_are_unique_over_all_namespaces() -> None:
    topology = Topology(
        deployments=[
            Deployment(name="web", replicas=2),
            Deployment(name="web", namespace="test", replicas=2),
        ]
    )
    names = [pod.name for pod in place(topology) if pod.owner]
    assert names == ["web-1", "web-2", "test-web-1", "test-web-2"]


def test_workloads_go_round_the_nodes_one_after_the_other() -> None:
    topology = Topology(
        nodes=3,
        pods_per_node=0,
        deployments=[
            Deployment(name="a", replicas=2),
            Deployment(name="b", replicas=2),
            Deployment(name="c", replicas=2, node="node3"),
        ],
    )
    nodes = {pod.name: pod.node for pod in place(topology) if pod.owner}
    assert nodes == {
        "a-1": "node1",
        "a-2": "node2",
        "b-1": "node3",
        "b-2": "node1",
        "c-1": "node3",
        "c-2": "node3",
    }


@settings(deadline=None, max_examples=60)
@given(nodes=st.integers(1, 30), pods_per_node=st.integers(0, 30), data=st.data())
def test_pods_are_spread_evenly_and_endpoints_are_as_many_as_asked(nodes, pods_per_node, data) -> None:
    endpoints = data.draw(st.integers(0, nodes * pods_per_node))
    topology = Topology(
        nodes=nodes,
        pods_per_node=pods_per_node,
        services=[Service(name="web", port=80, endpoints=endpoints)],
    )
    pods = [pod for pod in place(topology) if pod.name != "client"]
    assert Counter(pod.node for pod in pods) == {
        name: pods_per_node for name in topology.node_names if pods_per_node
    }
    chosen = Counter(pod.node for pod in pods if f"testbed/endpoints-{endpoints}" in pod.labels)
    assert chosen.total() == endpoints
    per_node = [chosen[name] for name in topology.node_names]
    assert per_node == sorted(per_node, reverse=True)
    assert max(per_node) - min(per_node) <= 1
    assert place(topology) == place(topology)


@pytest.mark.parametrize(("nodes", "pods"), [(2, 3), (20, 50)])
def test_two_by_three_and_twenty_by_fifty_are_the_same_file(nodes: int, pods: int) -> None:
    assert len(place(Topology(nodes=nodes, pods_per_node=pods))) == nodes * pods + 1
