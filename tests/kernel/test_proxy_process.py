"""The proxy as a process: fed by the control plane, known by traffic, probes, metrics and its end."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from proxylab import MASTER, NODE, TIMEOUT_S, VIP, Lab, node_object, service, slice_of
from smallcluster import (
    CLUSTER_CIDRS,
    PODS,
    PORT,
    REFUSED,
    SILENCE,
    Answer,
    address6,
    question,
    small_cluster,
)

from testbed.cluster.apiclient import ApiClient
from testbed.cluster.controlplane import start_control_plane
from testbed.errors import CommandFailed
from testbed.net.process import spawn
from testbed.net.wait import wait_until


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with small_cluster(tmp_path) as cluster:
        made = Lab(cluster, tmp_path)
        yield made
        made.close()


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_traffic_follows_the_api(lab: Lab, variant: str) -> None:
    lab.api.load([service(), slice_of("a")])
    lab.start_proxy(f"--iptables-variant={variant}")
    lab.wait_for("a")
    assert lab.cluster.ask("client", VIP, 80) == Answer("a", PODS["client"][1])
    lab.api.replace(slice_of("c"))
    lab.wait_for("c")
    lab.api.replace(slice_of())
    lab.wait_for(REFUSED)
    lab.api.replace(slice_of("b"))
    lab.wait_for("b")
    lab.api.load([service("more", "10.96.0.11"), slice_of("c", of="more")])
    lab.wait_for("c", "10.96.0.11")
    lab.api.delete("Service", "web")
    wait_until(lambda: VIP not in lab.sh(f"iptables-{variant}-save"), "the rules to go", TIMEOUT_S)


def test_probes_mode_and_metrics_answer(lab: Lab) -> None:
    lab.api.load([service(), slice_of("a")])
    lab.start_proxy()
    lab.wait_for("a")
    lab.wait_listening(10249, 10256)
    assert lab.get("/proxyMode") == (200, b"iptables")
    assert lab.get("/healthz", 10256)[0] == lab.get("/livez", 10256)[0] == 200
    assert json.loads(lab.get("/healthz", 10256)[1])["nodeEligible"] is True
    assert lab.metric("sync_full_proxy_rules_duration_seconds_count") == 1
    assert lab.metric("sync_proxy_rules_iptables_total", table="nat") == 5 + 2 + 3
    assert lab.metric("sync_proxy_rules_service_changes_total") >= 1
    lab.api.replace(slice_of("c"))
    lab.wait_for("c")
    wait_until(
        lambda: lab.metric("sync_partial_proxy_rules_duration_seconds_count") == 1,
        "a partial sync",
        TIMEOUT_S,
    )
    assert lab.metric("sync_proxy_rules_iptables_last", table="nat") == 1 + 3
    tainted = node_object()
    tainted["spec"] = {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}
    lab.api.replace(tainted)
    wait_until(lambda: lab.get("/healthz", 10256)[0] == 503, "the node to be ineligible", TIMEOUT_S)
    assert lab.get("/livez", 10256)[0] == 200
    assert lab.metric("proxy_healthz_total", code="503") >= 1


def test_services_of_others_have_no_rules(lab: Lab) -> None:
    other = {"service.kubernetes.io/service-proxy-name": "other"}
    lab.api.load(
        [
            service("headless", "None"),
            service("named", "", type="ExternalName", externalName="example.com"),
            service("other", "10.96.0.12", labels=other),
            slice_of("a", of="other", **other),
            service(),
            slice_of("a"),
        ]
    )
    lab.start_proxy()
    lab.wait_for("a")
    rules = lab.rules()
    assert "default/web" in rules
    assert not [name for name in ("headless", "named", "other") if f"default/{name}" in rules]


def test_udp_clients_follow_their_service(lab: Lab) -> None:
    dns = service("dns", "10.96.0.53", ports=[{"port": 53, "targetPort": PORT, "protocol": "UDP"}])
    lab.api.load([dns, slice_of(of="dns", protocol="UDP"), service(), slice_of("a")])
    lab.start_proxy()
    lab.wait_for("a")
    with lab.cluster.udp("client", "10.96.0.53", 53) as sock:
        with pytest.raises(ConnectionRefusedError):
            question(sock)
        for pod in ("a", "c"):
            lab.api.replace(slice_of(pod, of="dns", protocol="UDP"))

            def answers(pod: str = pod) -> bool:
                try:
                    return question(sock).pod == pod
                except (TimeoutError, ConnectionRefusedError):
                    return False

            wait_until(answers, f"{pod} to answer the same socket", TIMEOUT_S)


def test_a_health_port_tells_of_local_endpoints(lab: Lab) -> None:
    spec: dict[str, Any] = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32000,
    }
    lab.api.load([service(**spec), slice_of("a", "c")])
    lab.start_proxy()
    wait_until(lambda: serves(lab, 32000) == 200, "the health port", TIMEOUT_S)
    assert json.loads(lab.get("/", 32000)[1])["localEndpoints"] == 1
    lab.api.replace(slice_of("c"))
    wait_until(lambda: serves(lab, 32000) == 503, "the health port to tell of none", TIMEOUT_S)


def serves(lab: Lab, port: int) -> int:
    try:
        return lab.get("/", port)[0]
    except ConnectionRefusedError:
        return 0


def test_a_lost_api_costs_nothing_and_its_return_is_noticed(lab: Lab) -> None:
    lab.api.load([service(), slice_of("a"), service("old", "10.96.0.11"), slice_of("b", of="old")])
    lab.start_proxy()
    lab.wait_for("b", "10.96.0.11")
    lab.plane.close()
    assert {lab.cluster.outcome("client", VIP, 80) for _ in range(20)} == {"a"}
    lab.start_api()
    lab.api.load([service(), slice_of("c")])
    lab.wait_for("c")
    wait_until(lambda: "default/old" not in lab.rules(), "what is gone to go", TIMEOUT_S)


def test_rules_outlive_the_proxy_and_its_successor_takes_over(lab: Lab) -> None:
    lab.api.load([service(), slice_of("a"), service("old", "10.96.0.11"), slice_of("b", of="old")])
    first = lab.start_proxy()
    lab.wait_for("b", "10.96.0.11")
    lab.wait_listening(10249)
    with lab.cluster.dial("client", VIP, 80) as sock:
        assert question(sock).pod == "a"
        assert first.terminate() == 0
        assert {lab.cluster.outcome("client", VIP, 80) for _ in range(50)} == {"a"}
        lab.api.delete("Service", "old")
        lab.api.replace(slice_of("c"))
        lab.start_proxy()
        lab.wait_for("c")
        wait_until(lambda: "default/old" not in lab.rules(), "the stale Service to go", TIMEOUT_S)
        assert question(sock).pod == "a"


def test_flushed_rules_come_back_within_the_sync_period(lab: Lab) -> None:
    lab.api.load([service(), slice_of("a")])
    lab.start_proxy("--iptables-sync-period=1s")
    lab.wait_for("a")
    lab.sh("iptables-legacy", "-t", "nat", "-F")
    assert lab.cluster.outcome("client", VIP, 80, 0.2) in (SILENCE, REFUSED)
    lab.wait_for("a")


@pytest.mark.parametrize(("old", "new"), [("userspace", "iptables"), ("iptables", "userspace")])
def test_a_new_mode_takes_over_and_the_old_ones_rules_go(lab: Lab, old: str, new: str) -> None:
    traces = {"iptables": "KUBE-SVC-", "userspace": "KUBE-PORTALS-CONTAINER"}
    lab.api.load([service(), slice_of("a")])
    first = lab.start_proxy(f"--proxy-mode={old}")
    lab.wait_for("a")
    assert traces[old] in lab.rules()
    first.terminate()
    lab.start_proxy(f"--proxy-mode={new}")
    wait_until(lambda: traces[new] in lab.rules(), f"the rules of {new}", TIMEOUT_S)
    wait_until(lambda: traces[old] not in lab.rules(), f"the rules of {old} to go", TIMEOUT_S)
    lab.wait_for("a")


def test_cleanup_removes_the_rules_of_every_mode(lab: Lab) -> None:
    lab.api.load([service(), slice_of("a")])
    for mode in ("userspace", "iptables"):
        proxy = lab.start_proxy(f"--proxy-mode={mode}")
        lab.wait_for("a")
        proxy.close()
    lab.sh(sys.executable, "-m", "testbed.proxy", "--cleanup")
    assert "KUBE" not in lab.rules()
    assert "KUBE" not in lab.sh("iptables-nft-save")


def test_a_configuration_file_and_a_kubeconfig_are_enough(lab: Lab) -> None:
    kubeconfig = lab.directory / "kubeconfig"
    kubeconfig.write_text(
        "current-context: lab\n"
        "contexts: [{name: lab, context: {cluster: lab}}]\n"
        f"clusters: [{{name: lab, cluster: {{server: '{MASTER}'}}}}]\n"
    )
    config = lab.directory / "config.conf"
    config.write_text(
        "kind: KubeProxyConfiguration\nmode: userspace\nhostnameOverride: node1\n"
        f"clientConnection: {{kubeconfig: {kubeconfig}}}\niptables: {{masqueradeAll: true}}\n"
    )
    lab.api.load([service(), slice_of("c")])
    lab.start_proxy(f"--config={config}", "--proxy-mode=iptables", master=False)
    lab.wait_for("c")
    assert lab.cluster.ask("client", VIP, 80) == Answer("c", NODE)


def test_the_proxy_waits_for_an_api_that_starts_later(lab: Lab) -> None:
    lab.plane.close()
    lab.start_proxy()
    wait_until(lambda: "cannot be reached" in lab.log.read_text(), "the proxy to miss the API", TIMEOUT_S)
    lab.start_api()
    lab.api.load([service(), slice_of("a")])
    lab.wait_for("a")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--proxy-mode=nosuch"], "--proxy-mode"),
        (["--iptables-variant=nosuch"], "--iptables-variant"),
        ([], "no API server is named"),
    ],
)
def test_a_mistake_ends_with_status_2_and_one_message(lab: Lab, flags: list[str], words: str) -> None:
    with pytest.raises(CommandFailed) as failure:
        lab.sh(sys.executable, "-m", "testbed.proxy", *flags)
    assert failure.value.status == 2
    assert words in failure.value.stderr
    assert "Traceback" not in failure.value.stderr


def test_a_missing_tool_ends_with_status_2_and_the_package(lab: Lab) -> None:
    empty = lab.directory / "empty"
    empty.mkdir()
    argv = [sys.executable, "-m", "testbed.proxy", f"--master={MASTER}", "--hostname-override=node1"]
    hidden = {empty: Path("/usr/sbin")}
    environment = {"PATH": str(empty)}
    proxy = spawn(argv, name="p", namespace=lab.cluster.node, mounts=hidden, env=environment, log=lab.log)
    with proxy:
        assert proxy.wait(TIMEOUT_S) == 2
    assert "apt-get install iptables" in lab.log.read_text()


def test_interrupting_ends_cleanly(lab: Lab) -> None:
    lab.api.load([service(), slice_of("a")])
    proxy = lab.start_proxy()
    lab.wait_for("a")
    signal.pidfd_send_signal(proxy.pidfd, signal.SIGINT)
    assert proxy.wait(TIMEOUT_S) == 0
    assert "Traceback" not in lab.log.read_text()


def test_both_families_are_served_side_by_side(tmp_path: Path) -> None:
    with small_cluster(tmp_path, ipv6=True) as cluster:
        lab = Lab(cluster, tmp_path)
        vip6 = "fd00:96::10"
        lab.close()
        plane = start_control_plane(
            [cluster.node], socket_path=tmp_path / "dual", service_cidr="10.96.0.0/12,fd00:96::/112"
        )
        with plane, ApiClient(tmp_path / "dual") as api:
            node = node_object()
            node["status"]["addresses"].append({"type": "InternalIP", "address": address6(NODE)})
            six = slice_of("c")
            six["metadata"]["name"] = "web-6"
            six["addressType"] = "IPv6"
            six["endpoints"] = [{"addresses": [address6(PODS["c"][1])]}]
            families: dict[str, Any] = {"clusterIPs": [VIP, vip6], "ipFamilies": ["IPv4", "IPv6"]}
            dual = service(ipFamilyPolicy="RequireDualStack", **families)
            api.load([node, dual, slice_of("a"), six])
            lab.start_proxy(f"--cluster-cidr={','.join(CLUSTER_CIDRS.values())}")
            lab.wait_for("a")
            lab.wait_for("c", vip6)
        lab.close()
