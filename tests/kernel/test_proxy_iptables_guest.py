"""iptables mode inside user-mode Linux, where only the legacy variant works: what it rests on there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from iptablesnode import ALL_WAYS, LB, NODE, SETTINGS, VIP, Node, asked
from proxylab import Lab, service, slice_of
from smallcluster import GATEWAY, OUTSIDE, REFUSED, Answer, SmallCluster, small_cluster

pytestmark = pytest.mark.guest


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path) as made:
        yield made


def test_every_kind_of_rule_carries_traffic(cluster: SmallCluster) -> None:
    node = Node(cluster, SETTINGS)
    node.service("a", "c", external_local=True, **ALL_WAYS)
    node.service("b", "d", name="sticky", cluster_ip="10.96.0.2", affinity_timeout_s=60)
    node.service(name="empty", cluster_ip="10.96.0.3")
    node.sync(full=True)
    assert asked(cluster, 20).keys() == {"a", "c"}
    assert len(asked(cluster, 20, vip="10.96.0.2")) == 1
    assert cluster.outcome("client", "10.96.0.3", 80) == REFUSED
    for way in ((NODE, 30080), (LB, 80)):
        assert cluster.ask("outside", *way) == Answer("a", OUTSIDE), way
    node.service("a")
    assert not node.sync().full
    assert cluster.ask("a", VIP, 80) == Answer("a", GATEWAY)
    cluster.node.run(node.proxier.close)
    assert "KUBE" not in "\n".join(node.rules())


def test_the_process_follows_the_api(cluster: SmallCluster, tmp_path: Path) -> None:
    lab = Lab(cluster, tmp_path)
    try:
        lab.api.load([service(), slice_of("a")])
        lab.start_proxy()
        lab.wait_for("a")
        lab.api.replace(slice_of("c"))
        lab.wait_for("c")
        assert "iptables variant legacy" in lab.log.read_text()
    finally:
        lab.close()
