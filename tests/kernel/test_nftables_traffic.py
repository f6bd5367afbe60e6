"""nftables mode, by the traffic it carries."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

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
    question,
    small_cluster,
)

from testbed.net.wait import wait_until
from testbed.proxy.nftables.proxier import NftablesProxier

WAYS = ((VIP, 80), (LB, 80), (EXTERNAL, 80), (NODE, 30080))
SOURCES = ("client", "node1", "outside")


class NftNode(Node):
    """node1 with an nftables proxier."""

    def start_proxier(self) -> None:
        self.proxier = self.cluster.node.run(NftablesProxier, self.settings)  # type: ignore[assignment]

    def table(self) -> list[str]:
        """Every line of the table, in an order that does not depend on how it came about."""
        listed = self.sh("nft", "list", "table", "ip", "kube-proxy").replace(", ", ",\n")
        return sorted(line.strip(" \t,{}") for line in listed.splitlines())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path) as made:
        yield made


@pytest.fixture
def node(cluster: SmallCluster) -> NftNode:
    """A node that has synced once, with no Services."""
    node = NftNode(cluster)
    assert node.sync(full=True).full
    return node


def answered(sock: socket.socket, pod: str) -> bool:
    with contextlib.suppress(TimeoutError, ConnectionRefusedError):
        return question(sock).pod == pod
    return False


def outcomes(cluster: SmallCluster, source: str) -> dict[tuple[str, int], str]:
    return {way: cluster.outcome(source, *way) for way in WAYS}


def test_four_endpoints_share_connections_evenly_and_see_the_pods_address(
    cluster: SmallCluster, node: NftNode
) -> None:
    node.service("a", "b", "c", "d")
    node.sync()
    answers = Counter(cluster.ask("client", VIP, 80) for _ in range(400))
    assert {answer.peer for answer in answers} == {PODS["client"][1]}
    assert {answer.pod for answer in answers} == set("abcd")
    assert all(52 <= count <= 148 for count in answers.values()), answers


def test_the_node_and_clients_outside_are_masqueraded(cluster: SmallCluster, node: NftNode) -> None:
    node.service("a", "c")
    node.sync()
    for source in ("node1", "outside"):
        peers = {answer.pod: answer.peer for answer in (cluster.ask(source, VIP, 80) for _ in range(30))}
        assert peers == {"a": GATEWAY, "c": NODE}, source


def test_a_pod_reaches_itself_through_its_service(cluster: SmallCluster, node: NftNode) -> None:
    node.service("a")
    node.sync()
    assert cluster.ask("a", VIP, 80) == Answer("a", GATEWAY)
    node.service("a", "b")
    node.sync()
    peers = {answer.pod: answer.peer for answer in (cluster.ask("a", VIP, 80) for _ in range(30))}
    assert peers == {"a": GATEWAY, "b": PODS["a"][1]}


def test_without_endpoints_every_way_in_is_refused_and_with_one_it_opens(
    cluster: SmallCluster, node: NftNode
) -> None:
    node.service(**ALL_WAYS)
    node.sync()
    for source in SOURCES:
        assert outcomes(cluster, source) == dict.fromkeys(WAYS, REFUSED), source
    node.service("c", **ALL_WAYS)
    node.sync()
    for source in SOURCES:
        assert outcomes(cluster, source) == dict.fromkeys(WAYS, "c"), source
    node.service(**ALL_WAYS)
    node.sync()
    for source in SOURCES:
        assert outcomes(cluster, source) == dict.fromkeys(WAYS, REFUSED), source


def test_an_undefined_port_of_a_cluster_ip_is_refused(cluster: SmallCluster, node: NftNode) -> None:
    node.service("a")
    node.sync()
    for source in SOURCES:
        assert cluster.outcome(source, VIP, 81) == REFUSED, source


def test_node_ports_listen_on_the_primary_address_only(cluster: SmallCluster, node: NftNode) -> None:
    node.service("c", node_port=30080)
    node.sync()
    for source in SOURCES:
        assert cluster.ask(source, NODE, 30080) == Answer("c", NODE), source
    assert cluster.outcome("client", GATEWAY, 30080) == REFUSED
    assert cluster.outcome("node1", "127.0.0.1", 30080) == REFUSED


def test_local_outside_traffic_keeps_its_source_and_pods_and_node_reach_all(
    cluster: SmallCluster, node: NftNode
) -> None:
    node.service("a", "c", external_local=True, **ALL_WAYS)
    node.sync()
    for way in WAYS[1:]:
        assert {cluster.ask("outside", *way) for _ in range(10)} == {Answer("a", OUTSIDE)}, way
        peer = PODS["client"][1]
        assert {cluster.ask("client", *way) for _ in range(20)} == {Answer("a", peer), Answer("c", peer)}, way
        assert {cluster.ask("node1", *way).pod for _ in range(20)} == {"a", "c"}, way


def test_local_outside_traffic_without_local_endpoints_is_dropped_outside_only(
    cluster: SmallCluster, node: NftNode
) -> None:
    node.service("c", external_local=True, **ALL_WAYS)
    assert node.sync().no_local_endpoints == {"internal": 0, "external": 1}
    for way in WAYS[1:]:
        assert cluster.outcome("outside", *way) == SILENCE, way
        assert cluster.outcome("client", *way) == "c", way
        assert cluster.outcome("node1", *way) == "c", way


def test_local_internal_traffic_stays_on_the_node(cluster: SmallCluster, node: NftNode) -> None:
    node.service("a", "c", internal_local=True, node_port=30080)
    node.sync()
    assert asked(cluster, 20) == {"a": 20}
    assert {cluster.ask("client", NODE, 30080).pod for _ in range(20)} == {"a", "c"}
    assert cluster.ask("outside", VIP, 80) == Answer("a", GATEWAY)
    node.service("c", internal_local=True)
    assert node.sync().no_local_endpoints == {"internal": 1, "external": 0}
    assert cluster.outcome("client", VIP, 80) == SILENCE


def test_source_ranges_fence_the_load_balancer_only(cluster: SmallCluster, node: NftNode) -> None:
    node.service("c", source_ranges=(f"{OUTSIDE}/32", "192.168.0.96/28"), **ALL_WAYS)
    node.sync()
    assert cluster.outcome("outside", LB, 80) == "c"
    assert cluster.outcome("client", LB, 80) == SILENCE
    assert cluster.outcome("node1", LB, 80) == SILENCE
    assert cluster.outcome("client", EXTERNAL, 80) == "c"
    assert cluster.outcome("client", NODE, 30080) == "c"
    node.service("c", source_ranges=("10.244.0.0/16", f"{NODE}/32"), **ALL_WAYS)
    node.sync()
    assert cluster.outcome("outside", LB, 80) == SILENCE
    assert cluster.outcome("client", LB, 80) == "c"
    assert cluster.outcome("node1", LB, 80) == "c"


def test_affinity_keeps_a_client_at_its_endpoint_until_it_idles_or_the_endpoint_goes(
    cluster: SmallCluster, node: NftNode
) -> None:
    affinity: dict[str, Any] = {"affinity_timeout_s": 2}
    node.service("a", "b", "c", "d", **affinity)
    node.sync()
    (first,) = asked(cluster, 60)

    def chosen_anew() -> bool:
        wait_until(lambda: PODS["client"][1] not in "".join(node.table()), "the affinity to end", 10)
        (pod,) = asked(cluster, 5)
        return pod != first

    wait_until(chosen_anew, "another endpoint after the timeout", 60)
    (second,) = asked(cluster, 5)
    node.service(*{"a", "b", "c", "d"} - {second}, **affinity)
    node.sync()
    (third,) = asked(cluster, 20)
    assert third != second


def test_another_affinity_timeout_takes_effect_at_once(cluster: SmallCluster, node: NftNode) -> None:
    node.service("a", "b", affinity_timeout_s=60)
    node.sync()
    node.service("a", affinity_timeout_s=30)
    assert not node.sync().full
    assert asked(cluster, 5) == {"a": 5}
    assert "timeout 30s" in "".join(node.table())
    assert "timeout 1m" not in "".join(node.table())


def test_a_udp_client_follows_its_service_without_waiting_for_timeouts(
    cluster: SmallCluster, node: NftNode
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


def test_an_established_connection_outlives_endpoint_service_and_proxier(
    cluster: SmallCluster, node: NftNode
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


def test_a_new_proxier_removes_what_is_stale_and_interrupts_nothing(
    cluster: SmallCluster, node: NftNode
) -> None:
    node.service("a", "b")
    node.service("a", name="stale", cluster_ip="10.96.0.2", affinity_timeout_s=60, node_port=30081)
    node.sync()
    node.delete_service("stale")
    node.start_proxier()
    with unfailing_client(cluster):
        node.sync(full=True)
    for trace in ("10.96.0.2", "30081", "stale"):
        assert trace not in "".join(node.table()), trace


def test_a_table_flushed_from_outside_is_healed_within_a_sync_period(cluster: SmallCluster) -> None:
    node = NftNode(cluster, replace(SETTINGS, sync_period_s=0.2))
    node.service("a")
    node.sync(full=True)
    for command in (("flush", "ruleset"), ("flush", "chain", "ip", "kube-proxy", "services")):
        node.sh("nft", *command)
        wait_until(lambda: node.sync().full, "a full sync", 5)
        assert asked(cluster, 2) == {"a": 2}


def test_a_table_that_is_not_ours_under_our_name_is_made_anew(cluster: SmallCluster, node: NftNode) -> None:
    node.sh("nft", "flush", "ruleset")
    node.sh("nft", "add", "table", "ip", "kube-proxy")
    node.sh("nft", "add", "set", "ip", "kube-proxy", "cluster-ips", "{ type inet_service; }")
    node.service("a")
    node.sync(full=True)
    assert asked(cluster, 2) == {"a": 2}


def test_many_changes_end_in_the_table_of_a_fresh_start_and_fail_no_connection(
    cluster: SmallCluster, node: NftNode
) -> None:
    node.service("a", "c")
    node.sync()
    chance = random.Random(7)
    with unfailing_client(cluster):
        for step in range(1000):
            number = chance.randrange(2, 12)
            name, protocol = f"other{number}", chance.choice(["TCP", "UDP"])
            if chance.random() < 0.2:
                node.delete_service(name)
            else:
                fields: dict[str, Any] = {
                    "cluster_ip": f"10.96.0.{number}",
                    "node_port": chance.choice([0, 30000 + number]),
                    "affinity_timeout_s": chance.choice([None, 30, 60]),
                    "external_local": chance.random() < 0.3,
                    "internal_local": chance.random() < 0.3,
                    "source_ranges": chance.choice([(), ("10.0.0.0/8",)]),
                    "load_balancer_ips": chance.choice([(), (f"203.0.113.{number}",)]),
                }
                pods = chance.sample("abcd", chance.randrange(5))
                node.service(*pods, name=name, protocol=protocol, **fields)
            if step % 4 == 3:
                assert not node.sync().full
    incremental = node.table()
    node.sh("nft", "delete", "table", "ip", "kube-proxy")
    node.start_proxier()
    node.sync(full=True)
    assert incremental == node.table()


@contextlib.contextmanager
def unfailing_client(cluster: SmallCluster) -> Iterator[None]:
    """A client that connects again and again while the block runs, and never fails."""
    failures: list[OSError] = []
    over = threading.Event()

    def keep_connecting() -> None:
        while not over.is_set():
            try:
                cluster.ask("client", VIP, 80)
            except OSError as error:
                failures.append(error)

    client = threading.Thread(target=keep_connecting)
    client.start()
    try:
        yield
    finally:
        over.set()
        client.join()
    assert failures == []


def test_masquerade_all_hides_pods_too_and_the_mark_can_be_another_bit(cluster: SmallCluster) -> None:
    node = NftNode(cluster, replace(SETTINGS, masquerade_all=True, masquerade_bit=9))
    node.service("a")
    node.sync(full=True)
    assert cluster.ask("client", VIP, 80) == Answer("a", GATEWAY)
    assert "0x00000200" in "".join(node.table())


def test_ipv6_stands_beside_ipv4_and_goes_alone(tmp_path: Path) -> None:
    vip6, node6, client6 = "fd00:96::1", address6(NODE), address6(PODS["client"][1])
    with small_cluster(tmp_path, ipv6=True) as cluster:
        four, six = NftNode(cluster), NftNode(cluster, SETTINGS6)
        four.service("a", "c")
        six.service("a", "c", cluster_ip=vip6, node_port=30080, affinity_timeout_s=60)
        four.sync(full=True)
        six.sync(full=True)
        six.service("a", "c", cluster_ip=vip6, node_port=30080)
        six.sync()
        answers = {cluster.ask("client", vip6, 80) for _ in range(30)}
        assert answers == {Answer("a", client6), Answer("c", client6)}
        for source in ("node1", "outside"):
            assert cluster.ask(source, vip6, 80).peer in (address6(GATEWAY), node6), source
            assert cluster.outcome(source, node6, 30080) in "ac", source
        cluster.node.run(six.proxier.close)
        assert six.sh("nft", "list", "tables").split("\n")[0] == "table ip kube-proxy"
        assert asked(cluster, 20).keys() == {"a", "c"}
        cluster.node.run(four.proxier.close)
        assert four.sh("nft", "list", "ruleset") == ""
