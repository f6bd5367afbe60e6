"""The proxy process in IPVS and nftables mode: fed by an API, switched to and fro, cleaned up after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from proxylab import TIMEOUT_S, VIP, Lab, service, slice_of
from smallcluster import NODES, REFUSED, small_cluster

from testbed.net.wait import wait_until

NEW = pytest.param("nftables"), pytest.param("ipvs", marks=pytest.mark.guest)
NODE_PORT = {"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with small_cluster(tmp_path) as cluster:
        lab = Lab(cluster, tmp_path)
        try:
            yield lab
        finally:
            lab.close()


def traces(lab: Lab, mode: str) -> bool:
    """Whether a mode left something on the node."""
    if mode == "nftables":
        return "table ip kube-proxy" in lab.sh("nft", "list", "tables")
    if mode == "ipvs":
        return "kube-ipvs0" in lab.sh("ip", "link") or "KUBE" in lab.sh("ipset", "list", "-n")
    return {"iptables": "KUBE-SVC-", "userspace": "KUBE-PORTALS"}[mode] in lab.rules()


@pytest.mark.parametrize("mode", NEW)
def test_traffic_follows_the_api(lab: Lab, mode: str) -> None:
    lab.api.load([service(**NODE_PORT), slice_of("a")])
    lab.start_proxy(f"--proxy-mode={mode}", "--iptables-variant=auto")
    lab.wait_for("a")
    lab.wait_for("a", NODES["node1"], 30080, "outside")
    lab.wait_listening(10249)
    assert lab.get("/proxyMode") == (200, mode.encode())
    lab.api.replace(slice_of("c"))
    lab.wait_for("c")
    lab.api.replace(slice_of())
    lab.wait_for(REFUSED)
    counted = "sync_proxy_rules_duration_seconds_count"
    wait_until(lambda: lab.metric(counted) >= 3, "three syncs to be counted", TIMEOUT_S)


@pytest.mark.parametrize("old", ["iptables", "userspace"])
@pytest.mark.parametrize("new", NEW)
def test_modes_take_over_from_each_other_and_leave_nothing(lab: Lab, old: str, new: str) -> None:
    lab.api.load([service(), slice_of("a")])
    for mode, other in ((old, new), (new, old), (old, new)):
        proxy = lab.start_proxy(f"--proxy-mode={mode}")
        lab.wait_for("a")
        wait_until(lambda gone=other: not traces(lab, gone), f"{other} mode to be gone", TIMEOUT_S)  # type: ignore[misc]
        assert lab.cluster.outcome("client", VIP, 80) == "a"
        assert traces(lab, mode)
        proxy.terminate()


@pytest.mark.parametrize("mode", NEW)
def test_rules_stay_when_the_proxy_ends_and_go_on_cleanup(lab: Lab, mode: str) -> None:
    lab.api.load([service(), slice_of("a")])
    proxy = lab.start_proxy(f"--proxy-mode={mode}")
    lab.wait_for("a")
    proxy.terminate()
    assert lab.cluster.outcome("client", VIP, 80) == "a"
    assert lab.start_proxy("--cleanup").wait(TIMEOUT_S) == 0
    assert not traces(lab, mode)


@pytest.mark.guest
def test_a_scheduler_that_the_kernel_lacks_ends_the_proxy_with_the_remedy(lab: Lab) -> None:
    proxy = lab.start_proxy("--proxy-mode=ipvs", "--ipvs-scheduler=lcc")
    assert proxy.wait(TIMEOUT_S) == 2
    assert "choose one that it has (dh, fo, lblc" in lab.log.read_text()
