"""IPVS mode, by the traffic it carries."""

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
from ipvsnode import EXTERNAL, LB, SETTINGS, VIP, VIP6, Node
from smallcluster import (
    CLUSTER_CIDRS,
    GATEWAY,
    NODES,
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
from testbed.proxy.iptables.proxier import IptablesProxier
from testbed.proxy.ipvs.cleanup import cleanup
from testbed.proxy.ipvs.model import SCHEDULERS
from testbed.proxy.ipvs.proxier import IpvsProxier
from testbed.proxy.model import Family
from testbed.proxy.proxier import ProxySettings

pytestmark = pytest.mark.guest


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path) as made:
        yield made


@pytest.fixture
def node(cluster: SmallCluster) -> Node:
    """A node that has synced once, with no Services."""
    node = Node(cluster)
    node.full_sync()
    return node


def pods_asked(cluster: SmallCluster, times: int, source: str = "client", port: int = 80) -> Counter[str]:
    return Counter(cluster.ask(source, VIP, port).pod for _ in range(times))


def test_round_robin_is_exact_and_pods_keep_their_address(cluster: SmallCluster, node: Node) -> None:
    node.service("a", "b", "c", "d")
    node.sync()
    answers = Counter(cluster.ask("client", VIP, 80) for _ in range(400))
    assert answers == {Answer(pod, PODS["client"][1]): 100 for pod in "abcd"}


def test_the_node_and_clients_outside_are_masqueraded(cluster: SmallCluster, node: Node) -> None:
    node.service("a", "c")
    node.sync()
    for source in ("node1", "outside"):
        peers = {answer.pod: answer.peer for answer in (cluster.ask(source, VIP, 80) for _ in range(2))}
        assert peers == {"a": GATEWAY, "c": NODES["node1"]}, source


def test_a_pod_reaches_itself_through_its_service(cluster: SmallCluster, node: Node) -> None:
    node.service("a")
    node.sync()
    assert cluster.ask("a", VIP, 80) == Answer("a", GATEWAY)
    node.service("a", "b")
    node.sync()
    peers = {answer.pod: answer.peer for answer in (cluster.ask("a", VIP, 80) for _ in range(2))}
    assert peers == {"a": GATEWAY, "b": PODS["a"][1]}


def test_without_endpoints_every_way_in_is_refused_and_with_one_it_opens(
    cluster: SmallCluster, node: Node
) -> None:
    ways = {(VIP, 80), (LB, 80), (EXTERNAL, 80), (NODES["node1"], 30080)}
    fields: dict[str, Any] = {"node_port": 30080, "load_balancer_ips": (LB,), "external_ips": (EXTERNAL,)}
    node.service(**fields)
    node.sync()
    for source in ("client", "node1", "outside"):
        assert {way: cluster.outcome(source, *way) for way in ways} == dict.fromkeys(ways, REFUSED), source
    node.service("c", **fields)
    node.sync()
    for source in ("client", "node1", "outside"):
        assert {way: cluster.outcome(source, *way) for way in ways} == dict.fromkeys(ways, "c"), source


def test_an_undefined_port_of_a_service_address_is_refused(cluster: SmallCluster, node: Node) -> None:
    node.service("a")
    node.sync()
    for source in ("client", "node1", "outside"):
        assert cluster.outcome(source, VIP, 81) == REFUSED, source


def test_a_node_port_answers_on_every_address_of_the_node_but_loopback(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("c", node_port=30080)
    node.sync()
    for source in ("client", "node1", "outside"):
        assert cluster.ask(source, NODES["node1"], 30080) == Answer("c", NODES["node1"]), source
    assert cluster.outcome("client", GATEWAY, 30080) == "c"
    assert cluster.outcome("node1", "127.0.0.1", 30080) == REFUSED


def test_local_outside_traffic_keeps_its_source(cluster: SmallCluster, node: Node) -> None:
    node.service(
        "a", "c", node_port=30080, load_balancer_ips=(LB,), external_ips=(EXTERNAL,), external_local=True
    )
    node.sync()
    for way in ((NODES["node1"], 30080), (LB, 80), (EXTERNAL, 80)):
        assert {cluster.ask("outside", *way) for _ in range(4)} == {Answer("a", OUTSIDE)}, way
        assert {cluster.ask("client", *way) for _ in range(4)} == {Answer("a", PODS["client"][1])}, way
        assert cluster.outcome("node1", *way) == "a", way
    assert pods_asked(cluster, 4) == {"a": 2, "c": 2}


def test_local_outside_traffic_without_local_endpoints_is_silence_outside_but_serves_pods_and_node(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("c", node_port=30080, load_balancer_ips=(LB,), external_local=True)
    result = node.sync()
    assert result.no_local_endpoints == {"internal": 0, "external": 1}
    for way in ((NODES["node1"], 30080), (LB, 80)):
        assert cluster.outcome("outside", *way) == SILENCE, way
        assert cluster.outcome("client", *way) == "c", way
        assert cluster.outcome("node1", *way) == "c", way


def test_local_internal_traffic_stays_on_the_node(cluster: SmallCluster, node: Node) -> None:
    node.service("a", "c", internal_local=True)
    node.sync()
    assert pods_asked(cluster, 4) == {"a": 4}
    node.service("c", internal_local=True)
    assert node.sync().no_local_endpoints == {"internal": 1, "external": 0}
    assert cluster.outcome("client", VIP, 80) == REFUSED


def test_source_ranges_fence_the_load_balancer_only(cluster: SmallCluster, node: Node) -> None:
    fields: dict[str, Any] = {"node_port": 30080, "load_balancer_ips": (LB,), "external_ips": (EXTERNAL,)}
    node.service("c", source_ranges=(f"{OUTSIDE}/32",), **fields)
    node.sync()
    assert cluster.outcome("outside", LB, 80) == "c"
    assert cluster.outcome("client", LB, 80) == SILENCE
    assert cluster.outcome("client", EXTERNAL, 80) == "c"
    assert cluster.outcome("client", NODES["node1"], 30080) == "c"
    node.service("c", source_ranges=("10.244.0.0/16",), **fields)
    node.sync()
    assert cluster.outcome("outside", LB, 80) == SILENCE
    assert cluster.outcome("client", LB, 80) == "c"


def test_affinity_keeps_a_client_at_its_endpoint_until_it_idles_or_the_endpoint_goes(
    cluster: SmallCluster, node: Node
) -> None:
    # IPVS ends an affinity when its time is over and the connections under it are forgotten: ten seconds
    # after they were reset. Found unfinished ones, it looks again a minute later.
    affinity: dict[str, Any] = {"affinity_timeout_s": 12}
    node.service("a", "b", "c", "d", **affinity)
    node.sync()
    first = {abortive_ask(cluster, "client") for _ in range(60)}
    assert len(first) == 1
    assert abortive_ask(cluster, "b") not in first  # round robin moved on for another client
    template = f"{PODS['client'][1]}:0"
    wait_until(lambda: template not in node.sh("ipvsadm", "-Lnc"), "the affinity to end", 30)
    second = {abortive_ask(cluster, "client") for _ in range(5)}
    assert len(second) == 1
    assert second != first
    node.service(*{"a", "b", "c", "d"} - second, **affinity)
    node.sync()
    third = {abortive_ask(cluster, "client") for _ in range(5)}
    assert len(third) == 1
    assert third != second


def test_tcp_and_udp_of_one_number_are_two_services(cluster: SmallCluster, node: Node) -> None:
    node.service("a")
    node.service("c", name="dns", protocol="UDP")
    node.sync()
    assert pods_asked(cluster, 2) == {"a": 2}
    with cluster.udp("client", VIP, 80) as sock:
        assert question(sock) == Answer("c", PODS["client"][1])


def test_a_udp_client_follows_its_service_without_waiting_for_timeouts(
    cluster: SmallCluster, node: Node
) -> None:
    node.service(protocol="UDP")
    node.sync()
    with cluster.udp("client", VIP, 80) as sock:
        with pytest.raises(ConnectionRefusedError):
            question(sock)
        for pod in ("a", "c", "b"):
            node.service(pod, protocol="UDP")
            node.sync()
            wait_until(lambda expected=pod: answered(sock, expected), f"an answer of {pod}", 5)  # type: ignore[misc]


def answered(sock: socket.socket, pod: str) -> bool:
    with contextlib.suppress(TimeoutError, ConnectionRefusedError):
        return question(sock).pod == pod
    return False


def test_an_established_connection_outlives_endpoint_service_and_proxier(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("a", "b")
    node.sync()
    with cluster.dial("client", VIP, 80) as sock:
        pod = question(sock).pod
        other = "b" if pod == "a" else "a"
        node.service(other)
        assert node.sync().again_after_s is not None
        assert question(sock).pod == pod
        assert pods_asked(cluster, 10) == {other: 10}
        node.proxier = cluster.node.run(IpvsProxier, SETTINGS)
        node.full_sync()
        assert question(sock).pod == pod
        assert pods_asked(cluster, 10) == {other: 10}
        node.delete_service()
        node.sync()
        assert question(sock).pod == pod
        assert cluster.outcome("client", VIP, 80) == REFUSED


def test_a_drained_endpoint_and_a_drained_service_go_when_their_last_connection_does(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("a", "b")
    node.sync()
    with abortive(cluster.dial("client", VIP, 80)) as sock:
        pod = question(sock).pod
        place = f"{PODS[pod][1]}:8080"
        node.service("b" if pod == "a" else "a")
        node.sync()
        assert [line.split()[3] for line in node.table().splitlines() if place in line] == ["0"]
        sock.close()
        wait_until(lambda: place not in synced_table(node), "the endpoint to be deleted", 40)
    with abortive(cluster.dial("client", VIP, 80)) as sock:
        question(sock)
        node.delete_service()
        assert node.sync().again_after_s is not None
        assert VIP in node.table()
        sock.close()
        wait_until(
            lambda: VIP not in synced_table(node),
            "the virtual server to be deleted",
            40,
        )
    assert VIP not in node.sh("ip", "address")
    assert node.sync().again_after_s is None


def test_an_endpoint_that_comes_back_while_it_drains_serves_again(cluster: SmallCluster, node: Node) -> None:
    node.service("a", "b")
    node.sync()
    with cluster.dial("client", VIP, 80) as sock:
        pod = question(sock).pod
        node.service("b" if pod == "a" else "a")
        node.sync()
        node.service("a", "b")
        node.sync()
        assert pods_asked(cluster, 10) == {"a": 5, "b": 5}
        assert question(sock).pod == pod


def synced_table(node: Node) -> str:
    """The table after a sync without changes, which is when drained endpoints are looked at."""
    node.sync()
    return node.table()


def abortive(sock: socket.socket) -> socket.socket:
    """Close by reset, after which IPVS remembers the connection for ten seconds instead of two minutes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return sock


def abortive_ask(cluster: SmallCluster, source: str) -> str:
    """The pod that answers one connection, which then ends by reset."""
    with abortive(cluster.dial(source, VIP, 80)) as sock:
        return question(sock).pod


def test_a_new_proxier_removes_what_is_stale_and_interrupts_nothing(
    cluster: SmallCluster, node: Node
) -> None:
    stale: dict[str, Any] = {"cluster_ip": "10.96.0.2", "node_port": 30081, "load_balancer_ips": (LB,)}
    node.service("a", "b")
    node.service("a", name="stale", **stale)
    node.sync()
    with cluster.dial("client", VIP, 80) as sock:
        question(sock)
        node.delete_service("stale")
        successor = cluster.node.run(IpvsProxier, SETTINGS)
        assert pods_asked(cluster, 10).total() == 10
        node.proxier = successor
        node.full_sync()
        assert pods_asked(cluster, 10).total() == 10
        question(sock)
    for trace in ("10.96.0.2", "30081", LB):
        assert trace not in node.table() + node.sh("ip", "address") + node.sh("ipset", "save"), trace


def test_changes_from_outside_are_healed_by_a_full_sync(cluster: SmallCluster, node: Node) -> None:
    node.service("a", "c")
    node.sync()
    node.sh("ipvsadm", "-d", "-t", f"{VIP}:80", "-r", f"{PODS['a'][1]}:8080")
    node.sh("ipvsadm", "-e", "-t", f"{VIP}:80", "-r", f"{PODS['c'][1]}:8080", "-m", "-w", "7")
    node.sh("ipvsadm", "-E", "-t", f"{VIP}:80", "-s", "lc", "-p", "60")
    node.sh("ip", "address", "del", f"{VIP}/32", "dev", "kube-ipvs0")
    node.sh("ipset", "flush", "KUBE-CLUSTER-IP")
    node.sh("ipset", "add", "KUBE-NODE-PORT-TCP", "31000")
    node.sh("iptables-legacy", "-t", "nat", "-F")
    node.full_sync()
    assert pods_asked(cluster, 4) == {"a": 2, "c": 2}
    assert cluster.ask("node1", VIP, 80).peer in (GATEWAY, NODES["node1"])
    assert "31000" not in node.sh("ipset", "save")


def test_changes_from_outside_are_noticed_within_a_sync_period(cluster: SmallCluster) -> None:
    node = Node(cluster, replace(SETTINGS, sync_period_s=0.5))
    node.service("a")
    node.full_sync()
    node.sh("ipvsadm", "-C")
    wait_until(lambda: node.sync().full, "a full sync", 5)
    assert pods_asked(cluster, 2) == {"a": 2}


def test_iptables_mode_takes_over_and_keeps_what_it_shares(cluster: SmallCluster, node: Node) -> None:
    node.service("a", "c", node_port=30080)
    node.sync()
    successor = cluster.node.run(IptablesProxier, SETTINGS)
    cluster.node.run(successor.sync, node.services, None)
    cluster.node.run(partial(cleanup, SETTINGS, active="iptables"))
    assert node.table().count("TCP") == 0
    assert "match-set" not in node.sh("iptables-legacy-save")
    assert node.sh("ipset", "list", "-n") == ""
    assert set(pods_asked(cluster, 20)) == {"a", "c"}
    assert cluster.outcome("outside", NODES["node1"], 30080) in "ac"


def test_a_partial_sync_that_meets_another_state_becomes_a_full_one(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("a")
    node.sync()
    node.sh("ipvsadm", "-C")
    node.service("a", "b")
    assert node.sync().full
    assert pods_asked(cluster, 4) == {"a": 2, "b": 2}


def test_a_new_scheduler_takes_over_virtual_servers_in_place(cluster: SmallCluster, node: Node) -> None:
    node.service("a", "b", affinity_timeout_s=60)
    node.sync()
    node.proxier = cluster.node.run(IpvsProxier, replace(SETTINGS, scheduler="sh:sh-port"))
    node.full_sync()
    assert f"TCP  {VIP}:80 sh (sh-port) persistent 60" in node.table()


def test_connections_flow_under_every_scheduler(cluster: SmallCluster, node: Node) -> None:
    node.service("a", "b", "c", "d")
    for scheduler in SCHEDULERS:
        node.proxier = cluster.node.run(IpvsProxier, replace(SETTINGS, scheduler=scheduler))
        node.full_sync()
        assert f"{VIP}:80 {scheduler}" in node.table()
        assert pods_asked(cluster, 8).total() == 8, scheduler


def test_cleanup_leaves_nothing_of_ours_and_everything_of_others(cluster: SmallCluster, node: Node) -> None:
    node.sh("ipvsadm", "-A", "-t", "192.0.2.77:80", "-s", "rr")
    node.sh("ipset", "create", "MINE", "hash:ip")
    node.sh("iptables-legacy", "-A", "INPUT", "-m", "set", "--match-set", "MINE", "src", "-j", "DROP")
    fields: dict[str, Any] = {"node_port": 30080, "load_balancer_ips": (LB,), "external_ips": (EXTERNAL,)}
    node.service("a", "c", source_ranges=("10.0.0.0/8",), **fields)
    node.sync()
    cluster.node.run(node.proxier.close)
    assert "192.0.2.77:80" in node.table()
    assert node.table().count("TCP") == 1
    assert node.sh("ipset", "list", "-n").split() == ["MINE"]
    saved = node.sh("iptables-legacy-save")
    assert "KUBE" not in saved
    assert "MINE" in saved
    assert "kube-ipvs0" not in node.sh("ip", "link")


def test_masquerade_all_hides_pods_too(cluster: SmallCluster) -> None:
    node = Node(cluster, replace(SETTINGS, masquerade_all=True))
    node.service("a")
    node.full_sync()
    assert cluster.ask("client", VIP, 80) == Answer("a", GATEWAY)


def test_ipv6_stands_beside_ipv4_and_goes_alone(tmp_path: Path) -> None:
    settings6 = ProxySettings(
        family=Family.IPV6,
        cluster_cidr=CLUSTER_CIDRS[Family.IPV6],
        node_ips=(address6(NODES["node1"]),),
        iptables_variant="legacy",
    )
    vip6, node6 = VIP6, address6(NODES["node1"])
    with small_cluster(tmp_path, ipv6=True) as cluster:
        four, six = Node(cluster), Node(cluster, settings6)
        four.service("a", "c")
        six.service("a", "c", node_port=30080)
        four.full_sync()
        six.full_sync()
        answers = Counter(cluster.ask("client", vip6, 80) for _ in range(10))
        client6 = address6(PODS["client"][1])
        assert answers == {Answer("a", client6): 5, Answer("c", client6): 5}
        for source in ("node1", "outside"):
            assert cluster.ask(source, vip6, 80).peer in (address6(GATEWAY), node6), source
            assert cluster.outcome(source, node6, 30080) in "ac", source
        # Over IPv6 Linux believes a refusal by ICMP only after it has sent its SYN again, a second later.
        assert cluster.outcome("client", vip6, 81, timeout_s=4) == REFUSED
        six.service("a")
        six.sync()
        assert cluster.ask("a", vip6, 80) == Answer("a", address6(GATEWAY))
        cluster.node.run(six.proxier.close)
        assert "fd00" not in six.table()
        assert "KUBE" not in six.sh("ip6tables-legacy-save")
        assert pods_asked(cluster, 4) == {"a": 2, "c": 2}


def test_many_changes_end_in_the_state_of_a_fresh_start_and_fail_no_connection(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("a", "c")
    node.sync()
    chance = random.Random(7)
    failures: list[BaseException] = []
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
        for step in range(120):
            number = chance.randrange(2, 12)
            name, protocol = f"other{number}", chance.choice(["TCP", "UDP"])
            if chance.random() < 0.2:
                node.delete_service(name)
            else:
                pods = chance.sample("abcd", chance.randrange(5))
                node.service(
                    *pods,
                    name=name,
                    protocol=protocol,
                    cluster_ip=f"10.96.0.{number}",
                    node_port=30000 + number,
                )
            if step % 4 == 3:
                node.sync()
    finally:
        over.set()
        client.join()
    assert failures == []
    assert node.full_sync().rules_written == sum(node.sync().rules_total.values())
