"""iptables mode, by what its syncs write, heal and remove."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from iptablesnode import ALL_WAYS, SETTINGS, VIP, Node, asked
from smallcluster import (
    PODS,
    PORT,
    REFUSED,
    SILENCE,
    SmallCluster,
    question,
    small_cluster,
)

from testbed.errors import CommandFailed
from testbed.net.wait import wait_until
from testbed.proxy.iptables.proxier import cleanup


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
    # One masquerade rule and a choice between two, then two rules per endpoint: no common chain.
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


def test_a_refused_restore_changes_nothing_and_is_followed_by_a_full_sync(
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
