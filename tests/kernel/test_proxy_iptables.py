"""iptables mode, by the traffic it carries, with both variants of iptables."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from iptablesnode import ALL_WAYS, EXTERNAL, LB, NODE, SETTINGS, SETTINGS6, VIP, Node, asked
from smallcluster import (
    GATEWAY,
    OUTSIDE,
    PODS,
    REFUSED,
    SILENCE,
    Answer,
    SmallCluster,
    address6,
    endpoint,
    question,
    small_cluster,
)

from testbed.net.wait import wait_until


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path) as made:
        yield made


@pytest.fixture(params=["legacy", "nft"])
def node(request: pytest.FixtureRequest, cluster: SmallCluster) -> Node:
    """A node that has synced once, with no Services."""
    node = Node(cluster, replace(SETTINGS, iptables_variant=request.param))
    assert node.sync(full=True).full
    return node


def answered(sock: socket.socket, pod: str) -> bool:
    with contextlib.suppress(TimeoutError, ConnectionRefusedError):
        return question(sock).pod == pod
    return False


def test_four_endpoints_share_connections_evenly_and_see_the_pods_address(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("a", "b", "c", "d")
    node.sync()
    answers = Counter(cluster.ask("client", VIP, 80) for _ in range(400))
    assert {answer.peer for answer in answers} == {PODS["client"][1]}
    assert {answer.pod for answer in answers} == set("abcd")
    assert all(52 <= count <= 148 for count in answers.values()), answers


def test_the_node_and_clients_outside_are_masqueraded(cluster: SmallCluster, node: Node) -> None:
    node.service("a", "c")
    node.sync()
    for source in ("node1", "outside"):
        peers = {answer.pod: answer.peer for answer in (cluster.ask(source, VIP, 80) for _ in range(30))}
        assert peers == {"a": GATEWAY, "c": NODE}, source


def test_a_pod_reaches_itself_through_its_service(cluster: SmallCluster, node: Node) -> None:
    node.service("a")
    node.sync()
    assert cluster.ask("a", VIP, 80) == Answer("a", GATEWAY)
    node.service("a", "b")
    node.sync()
    peers = {answer.pod: answer.peer for answer in (cluster.ask("a", VIP, 80) for _ in range(30))}
    assert peers == {"a": GATEWAY, "b": PODS["a"][1]}


def test_without_endpoints_every_way_in_is_refused_and_with_one_it_opens(
    cluster: SmallCluster, node: Node
) -> None:
    ways = {(VIP, 80), (LB, 80), (EXTERNAL, 80), (NODE, 30080)}
    node.service(**ALL_WAYS)
    node.sync()
    for source in ("client", "outside"):
        assert {way: cluster.outcome(source, *way) for way in ways} == dict.fromkeys(ways, REFUSED), source
    # kube-proxy has no jump from OUTPUT to KUBE-EXTERNAL-SERVICES: what the node sends leaves it unrefused.
    from_node = {way: cluster.outcome("node1", *way) for way in ways}
    assert from_node == {
        (VIP, 80): REFUSED,
        (NODE, 30080): REFUSED,
        (LB, 80): SILENCE,
        (EXTERNAL, 80): SILENCE,
    }
    node.service("c", **ALL_WAYS)
    node.sync()
    for source in ("client", "node1", "outside"):
        assert {way: cluster.outcome(source, *way) for way in ways} == dict.fromkeys(ways, "c"), source
    node.service(**ALL_WAYS)
    node.sync()
    assert {way: cluster.outcome("client", *way) for way in ways} == dict.fromkeys(ways, REFUSED)


def test_a_node_port_answers_on_every_address_of_the_node_loopback_too(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("c", node_port=30080)
    node.sync()
    for source in ("client", "node1", "outside"):
        assert cluster.ask(source, NODE, 30080) == Answer("c", NODE), source
    assert cluster.outcome("client", GATEWAY, 30080) == "c"
    assert cluster.outcome("node1", "127.0.0.1", 30080) == "c"


def test_node_ports_can_be_kept_to_the_primary_address(cluster: SmallCluster) -> None:
    node = Node(cluster, replace(SETTINGS, nodeport_addresses=("primary",)))
    node.service("c", node_port=30080)
    node.sync(full=True)
    assert cluster.outcome("client", NODE, 30080) == "c"
    assert cluster.outcome("client", GATEWAY, 30080) == REFUSED


def test_local_outside_traffic_keeps_its_source_and_pods_and_node_reach_all(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("a", "c", external_local=True, **ALL_WAYS)
    node.sync()
    for way in ((NODE, 30080), (LB, 80), (EXTERNAL, 80)):
        assert {cluster.ask("outside", *way) for _ in range(10)} == {Answer("a", OUTSIDE)}, way
        from_pod = {cluster.ask("client", *way) for _ in range(30)}
        assert from_pod == {Answer("a", PODS["client"][1]), Answer("c", PODS["client"][1])}, way
        from_node = {cluster.ask("node1", *way) for _ in range(30)}
        assert from_node == {Answer("a", GATEWAY), Answer("c", NODE)}, way
    assert set(asked(cluster, 30)) == {"a", "c"}


def test_local_outside_traffic_without_local_endpoints_is_dropped_outside_only(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("c", external_local=True, **ALL_WAYS)
    assert node.sync().no_local_endpoints == {"internal": 0, "external": 1}
    for way in ((NODE, 30080), (LB, 80), (EXTERNAL, 80)):
        assert cluster.outcome("outside", *way) == SILENCE, way
        assert cluster.outcome("client", *way) == "c", way
        assert cluster.outcome("node1", *way) == "c", way


def test_local_internal_traffic_stays_on_the_node_and_node_ports_do_not_care(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("a", "c", internal_local=True, node_port=30080)
    node.sync()
    assert asked(cluster, 20) == {"a": 20}
    assert {cluster.outcome("outside", NODE, 30080) for _ in range(30)} == {"a", "c"}
    node.service("c", internal_local=True, node_port=30080)
    assert node.sync().no_local_endpoints == {"internal": 1, "external": 0}
    assert cluster.outcome("client", VIP, 80) == SILENCE
    assert cluster.outcome("outside", NODE, 30080) == "c"


def test_source_ranges_fence_the_load_balancer_only(cluster: SmallCluster, node: Node) -> None:
    node.service("c", source_ranges=(f"{OUTSIDE}/32",), **ALL_WAYS)
    node.sync()
    assert cluster.outcome("outside", LB, 80) == "c"
    for source in ("client", "node1"):
        assert cluster.outcome(source, LB, 80) == SILENCE, source
    assert cluster.outcome("client", EXTERNAL, 80) == "c"
    assert cluster.outcome("client", NODE, 30080) == "c"
    node.service("c", source_ranges=("10.244.0.0/16", "192.168.0.0/29"), **ALL_WAYS)
    node.sync()
    assert cluster.outcome("outside", LB, 80) == SILENCE
    assert cluster.outcome("client", LB, 80) == "c"
    assert cluster.outcome("node1", LB, 80) == "c"


def test_affinity_keeps_a_client_at_its_endpoint_until_it_idles_or_the_endpoint_goes(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("a", "b", "c", "d", affinity_timeout_s=2)
    node.sync()
    first = asked(cluster, 60)
    assert len(first) == 1
    picks = set(first)

    def picked_another() -> bool:
        threading.Event().wait(2.1)  # affinity is for clients that are heard of: be silent for its timeout
        picks.update(asked(cluster, 1))
        return len(picks) > 1

    wait_until(picked_another, "another endpoint after idling", 60)
    (current,) = asked(cluster, 5)
    node.service(*{"a", "b", "c", "d"} - {current}, affinity_timeout_s=2)
    node.sync()
    after = asked(cluster, 20)
    assert len(after) == 1
    assert current not in after


def test_tcp_and_udp_of_one_number_are_two_services(cluster: SmallCluster, node: Node) -> None:
    node.service("a")
    node.service("c", name="dns", protocol="UDP")
    node.sync()
    assert asked(cluster, 5) == {"a": 5}
    with cluster.udp("client", VIP, 80) as sock:
        assert question(sock) == Answer("c", PODS["client"][1])


def test_a_udp_client_follows_its_service_without_waiting_for_timeouts(
    cluster: SmallCluster, node: Node
) -> None:
    node.service(protocol="UDP", node_port=30053)
    node.sync()
    with cluster.udp("client", VIP, 80) as inside, cluster.udp("outside", NODE, 30053) as outside:
        for sock in (inside, outside):
            with pytest.raises(ConnectionRefusedError):
                question(sock)
        for pod in ("a", "c", "b"):
            node.service(pod, protocol="UDP", node_port=30053)
            node.sync()
            for sock in (inside, outside):
                wait_until(partial(answered, sock, pod), f"an answer of {pod}", 5)
        node.delete_service()
        node.sync()
        assert not answered(inside, "b")


def test_an_established_connection_outlives_endpoint_service_and_proxier(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("a", "b")
    node.sync()
    with cluster.dial("client", VIP, 80) as sock:
        pod = question(sock).pod
        other = "b" if pod == "a" else "a"
        node.service(other)
        node.sync()
        assert question(sock).pod == pod
        assert asked(cluster, 10) == {other: 10}
        node.start_proxier()
        node.sync(full=True)
        assert question(sock).pod == pod
        node.delete_service()
        node.sync()
        assert question(sock).pod == pod


def test_ready_endpoints_are_preferred_and_terminating_ones_are_the_last_resort(
    cluster: SmallCluster, node: Node
) -> None:
    leaving = endpoint("a", ready=False, terminating=True)
    node.service_of([leaving, endpoint("b"), endpoint("c", ready=False)])
    node.sync()
    assert asked(cluster, 20) == {"b": 20}
    node.service_of([leaving, endpoint("c", ready=False, serving=False, terminating=True)])
    node.sync()
    assert asked(cluster, 10) == {"a": 10}


def test_masquerade_all_hides_pods_too(cluster: SmallCluster) -> None:
    node = Node(cluster, replace(SETTINGS, masquerade_all=True))
    node.service("a")
    node.sync(full=True)
    assert cluster.ask("client", VIP, 80) == Answer("a", GATEWAY)


def test_the_mark_can_be_another_bit(cluster: SmallCluster) -> None:
    node = Node(cluster, replace(SETTINGS, masquerade_bit=9))
    node.service("c", node_port=30080)
    node.sync(full=True)
    assert cluster.ask("outside", NODE, 30080) == Answer("c", NODE)
    assert "0x200" in "\n".join(node.rules())


def test_ipv6_stands_beside_ipv4_and_goes_alone(tmp_path: Path) -> None:
    vip6, node6, client6 = address6(VIP), address6(NODE), address6(PODS["client"][1])
    with small_cluster(tmp_path, ipv6=True) as cluster:
        four, six = Node(cluster), Node(cluster, SETTINGS6)
        four.service("a", "c")
        six.service("a", "c", node_port=30080)
        four.sync(full=True)
        six.sync(full=True)
        answers = {cluster.ask("client", vip6, 80) for _ in range(30)}
        assert answers == {Answer("a", client6), Answer("c", client6)}
        for source in ("node1", "outside"):
            assert cluster.ask(source, vip6, 80).peer in (address6(GATEWAY), node6), source
            assert cluster.outcome(source, node6, 30080) in "ac", source
        six.service(node_port=30080)
        six.sync()
        assert cluster.outcome("client", vip6, 80) == REFUSED
        cluster.node.run(six.proxier.close)
        assert "KUBE" not in six.sh("ip6tables-legacy-save")
        assert asked(cluster, 20).keys() == {"a", "c"}
