"""iptables mode, by the traffic it carries, with both variants of iptables."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from smallcluster import (
    CLUSTER_CIDRS,
    GATEWAY,
    NODES,
    OUTSIDE,
    PODS,
    PORT,
    REFUSED,
    SILENCE,
    Answer,
    SmallCluster,
    address6,
    endpoint,
    question,
    small_cluster,
)

from testbed.errors import CommandFailed
from testbed.net.measuring import measuring_sysctls
from testbed.net.process import run
from testbed.net.wait import wait_until
from testbed.proxy.changes import Delta
from testbed.proxy.conntrack import remove_stale_flows, udp_frontends
from testbed.proxy.iptables.proxier import IptablesProxier, cleanup
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
        # Rules are consulted only for packets that have a route: real nodes have one to everywhere.
        six = settings.family is Family.IPV6
        router = address6(OUTSIDE) if six else OUTSIDE
        self.sh("ip", "-6" if six else "-4", "route", "replace", "default", "via", router)
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


def asked(cluster: SmallCluster, times: int, source: str = "client", vip: str = VIP) -> Counter[str]:
    return Counter(cluster.ask(source, vip, 80).pod for _ in range(times))


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
    assert all(76 <= count <= 124 for count in answers.values()), answers


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


def test_a_partial_sync_writes_only_what_changed_and_leaves_no_chain_behind(
    cluster: SmallCluster, node: Node
) -> None:
    for number in range(2, 30):
        node.service("a", "b", name=f"other{number}", cluster_ip=f"10.96.0.{number}")
    node.service("a", "b")
    node.sync()
    node.service("b", "c")
    result = node.sync()
    assert not result.full
    # One masquerade rule and a choice between two, then two rules per endpoint: no common chain is among them.
    assert result.rules_last == {"filter": 0, "nat": 7}
    assert f"{PODS['a'][1]}:{PORT}" not in "\n".join(line for line in node.rules() if "/web" in line)
    before = node.rules()
    node.start_proxier()
    node.sync(full=True)
    assert node.rules() == before
    for number in range(2, 30):
        node.delete_service(f"other{number}")
    node.sync()
    assert sum(line.startswith(":KUBE-SEP-") for line in node.rules()) == 2
    assert asked(cluster, 20).keys() == {"b", "c"}


def test_a_new_proxier_removes_what_is_stale_and_interrupts_nothing(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("a", "b")
    node.service("a", name="stale", cluster_ip="10.96.0.2", node_port=30081)
    node.sync()
    with cluster.dial("client", VIP, 80) as sock:
        question(sock)
        node.delete_service("stale")
        node.start_proxier()
        assert asked(cluster, 50).total() == 50
        node.sync(full=True)
        assert asked(cluster, 10).total() == 10
        question(sock)
    assert not [line for line in node.rules() if "stale" in line or "10.96.0.2" in line]


@pytest.mark.parametrize("flush", ["-F", "-X", "one table"])
def test_rules_flushed_from_outside_are_healed_by_the_next_periodic_sync(
    cluster: SmallCluster, node: Node, flush: str
) -> None:
    node.settings = replace(node.settings, sync_period_s=0.01)
    node.start_proxier()
    node.service("a", **ALL_WAYS)
    node.sync(full=True)
    before = node.rules()
    tool = f"iptables-{node.settings.iptables_variant}"
    for table in ("nat",) if flush == "one table" else ("mangle", "nat", "filter"):
        node.sh(tool, "-t", table, "-F")
        if flush == "-X":
            node.sh(tool, "-t", table, "-X")
    assert cluster.outcome("client", VIP, 80) in (SILENCE, REFUSED)
    wait_until(lambda: node.sync().full, "the flush to be noticed", 5)
    assert cluster.outcome("client", VIP, 80) == "a"
    assert node.rules() == before


def test_what_cannot_be_restored_changes_nothing_and_is_followed_by_a_full_sync(
    cluster: SmallCluster, node: Node
) -> None:
    node.service("a")
    node.sync()
    before = node.rules()
    node.service("b", name="broken", cluster_ip="no address")
    with pytest.raises(CommandFailed, match="address"):
        node.sync()
    assert node.rules() == before
    assert asked(cluster, 5) == {"a": 5}
    node.service("b", name="broken", cluster_ip="10.96.0.2")
    assert node.sync().full
    assert asked(cluster, 5, vip="10.96.0.2") == {"b": 5}


def test_comments_name_the_service_so_that_grep_finds_its_rules(cluster: SmallCluster, node: Node) -> None:
    node.service("a", "c")
    node.sync()
    listed = node.sh(f"iptables-{node.settings.iptables_variant}", "-t", "nat", "-L", "-n", "-v")
    for comment in ("cluster IP", f"-> {PODS['a'][1]}:{PORT}"):
        assert f"/* default/web {comment} */" in listed


def test_many_endpoints_lose_their_comments_and_get_them_back(cluster: SmallCluster) -> None:
    node = Node(cluster, replace(SETTINGS, comments_up_to_endpoints=2))
    node.service("a", "b")
    node.sync(full=True)
    with_comments = node.rules()
    node.service("c", name="third", cluster_ip="10.96.0.3")
    assert node.sync().full
    assert not [line for line in node.rules() if "KUBE-SEP" in line and "comment" in line]
    node.delete_service("third")
    assert node.sync().full
    assert node.rules() == with_comments


def test_cleanup_leaves_nothing_of_ours_and_everything_of_others(cluster: SmallCluster, node: Node) -> None:
    tool = f"iptables-{node.settings.iptables_variant}"
    node.sh(tool, "-t", "nat", "-N", "MINE")
    node.sh(tool, "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "1", "-j", "MINE")
    node.service("a", "c", source_ranges=("10.0.0.0/8",), affinity_timeout_s=5, **ALL_WAYS)
    node.service(name="empty", cluster_ip="10.96.0.2")
    node.sync()
    cluster.node.run(cleanup, node.settings)
    rules = "\n".join(node.rules())
    assert "KUBE" not in rules
    assert "-A PREROUTING -p tcp -m tcp --dport 1 -j MINE" in rules
    cluster.node.run(cleanup, node.settings)


def test_changing_the_variant_leaves_the_old_ones_rules_to_cleanup(cluster: SmallCluster) -> None:
    old = Node(cluster, replace(SETTINGS, iptables_variant="nft"))
    old.service("a")
    old.sync(full=True)
    new = Node(cluster, SETTINGS)
    new.service("a")
    new.sync(full=True)
    cluster.node.run(cleanup, new.settings, active="iptables")
    assert "KUBE" not in "\n".join(old.rules())
    assert asked(cluster, 5) == {"a": 5}


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


def test_a_thousand_changes_end_in_the_rules_of_a_fresh_start_and_fail_no_connection(
    cluster: SmallCluster,
) -> None:
    node = Node(cluster)
    node.service("a", "c")
    node.sync(full=True)
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
        for _ in range(1000):
            change_something(node, chance)
            node.sync()
    finally:
        over.set()
        client.join()
    assert failures == []
    incremental = node.rules()
    cluster.node.run(cleanup, node.settings)
    node.start_proxier()
    node.sync(full=True)
    assert node.rules() == incremental


def change_something(node: Node, chance: random.Random) -> None:
    number = chance.randrange(2, 12)
    if chance.random() < 0.2:
        node.delete_service(f"other{number}")
        return
    node.service(
        *chance.sample("abcd", chance.randrange(5)),
        name=f"other{number}",
        protocol=chance.choice(["TCP", "UDP"]),
        cluster_ip=f"10.96.0.{number}",
        node_port=chance.choice([0, 30000 + number]),
        load_balancer_ips=chance.choice([(), (f"203.0.113.{number}",)]),
        source_ranges=chance.choice([(), ("10.0.0.0/8",)]),
        external_local=chance.random() < 0.3,
        internal_local=chance.random() < 0.3,
        affinity_timeout_s=chance.choice([None, 60]),
    )
