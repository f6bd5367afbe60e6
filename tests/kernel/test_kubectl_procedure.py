"""The documented way to change the mode, word by word with the real kubectl, on live nodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from testbed import Deployment, Service, Topology
from testbed.cluster.cluster import DIRECT, LiveCluster
from testbed.cluster.kubelet import Kubelet
from testbed.cluster.proxies import ProxyOptions
from testbed.cluster.rollout import KubeProxy
from testbed.net.wait import wait_until

TOPOLOGY = Topology(
    nodes=2,
    pods_per_node=0,
    deployments=[Deployment(name="web", replicas=2, ports=[8080])],
    services=[Service(name="web", ports=[{"port": 80, "target_port": 8080}], selector={"app": "web"})],
)
EXTRA = """
apiVersion: v1
kind: Service
metadata: {name: extra}
spec: {selector: {app: web}, ports: [{port: 81, targetPort: 8080}]}
"""
# What shows on a node that a mode has been there.
TRACES = {
    "userspace": "iptables-save -t nat | grep KUBE-PORTALS-CONTAINER",
    "iptables": "iptables-save -t nat | grep KUBE-SVC-",
    "ipvs": "ip link show kube-ipvs0",
    "nftables": "nft list tables | grep kube-proxy",
}
TIMEOUT_S = 60.0

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


class Prompt:
    """A shell on the first node, as a user has it."""

    def __init__(self, cluster: LiveCluster) -> None:
        self.cluster = cluster

    def try_it(self, line: str, on: str = "node1") -> tuple[int, str]:
        with self.cluster.popen(on, ["sh", "-c", line]) as program:
            out, err = program.communicate(timeout=TIMEOUT_S)
        return program.returncode, (out + err).decode()

    def __call__(self, line: str, on: str = "node1") -> str:
        status, text = self.try_it(line, on)
        assert status == 0, text
        return text

    def shows(self, line: str) -> bool:
        return self.try_it(line)[0] == 0

    def wait(self, line: str) -> None:
        wait_until(lambda: self.shows(line), line, TIMEOUT_S)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kubectl keeps what it learnt of the API there, or asks anew each time."""
    monkeypatch.setenv("HOME", str(tmp_path))


@contextmanager
def lab_in(mode: str, directory: Path) -> Iterator[Prompt]:
    options = ProxyOptions.of(TOPOLOGY, mode=mode)
    with LiveCluster(TOPOLOGY, replace(options, mode=DIRECT), log_dir=directory) as cluster, Kubelet(cluster):
        proxy = KubeProxy(cluster, options)
        proxy.install()
        proxy.wait_ready()
        yield Prompt(cluster)


@pytest.mark.parametrize(
    "modes",
    [
        ("userspace", "iptables", "nftables"),
        pytest.param(("iptables", "ipvs"), marks=pytest.mark.guest),
    ],
    ids=" to ".join,
)
def test_the_mode_is_changed_by_editing_the_config_map_and_deleting_the_pods(
    modes: tuple[str, ...], tmp_path: Path
) -> None:
    manifest = tmp_path / "extra.yaml"
    manifest.write_text(EXTRA)
    with lab_in(modes[0], tmp_path) as sh:
        assert "service/web" in sh("kubectl get nodes,svc,endpointslices -A")
        assert sh(f"kubectl apply -f {manifest}") == "service/extra created\n"
        for old, new in pairwise(modes):
            assert sh.shows(TRACES[old])
            assert not sh.shows(TRACES[new])
            change_mode(sh, new)
            sh.wait(f"{TRACES[new]} && ! {{ {TRACES[old]}; }}")
            answers = sh("for i in $(seq 20); do curl -sS http://extra:81; done", "client").splitlines()
            assert {json.loads(answer)["pod"] for answer in answers} == {"web-1", "web-2"}
        assert sh(f"kubectl delete -f {manifest}") == 'service "extra" deleted\n'
        assert sh("kubectl get svc -o name", "client") == "service/web\n"


def change_mode(sh: Prompt, mode: str) -> None:
    """The procedure as it is documented."""
    edit = rf'KUBE_EDITOR="sed -i s/mode:.*/mode:\ {mode}/" kubectl edit cm kube-proxy -n kube-system'
    assert "configmap/kube-proxy edited" in sh(edit)
    assert sh("kubectl delete pod -n kube-system -l k8s-app=kube-proxy").count("deleted") == 2
    sh.wait(f"curl -sS http://127.0.0.1:10249/proxyMode | grep -x {mode}")


def test_a_deployment_is_scaled_and_its_new_pods_are_served(tmp_path: Path) -> None:
    with lab_in("iptables", tmp_path) as sh:
        sh("kubectl scale deployment web --replicas=4")
        sh("kubectl rollout status deployment web --timeout=60s")
        endpoints = "kubectl get endpointslices -o jsonpath='{.items[*].endpoints[*].addresses[0]}'"
        assert len(sh(endpoints).split()) == 4
        sh.wait("iptables-save -t nat | grep -c 'web -> ' | grep -x 4")
        seen = {json.loads(sh("curl -sS http://web", "client"))["address"] for _ in range(80)}
        assert seen == set(sh(endpoints).split())


def test_a_mode_that_does_not_exist_shows_as_a_crash_loop_and_can_be_mended(tmp_path: Path) -> None:
    with lab_in("iptables", tmp_path) as sh:
        edit = 'KUBE_EDITOR="sed -i s/mode:.*/mode:{}/" kubectl edit cm kube-proxy -n kube-system'
        sh(edit.format(r"\ iptabels"))
        sh("kubectl delete pod -n kube-system -l k8s-app=kube-proxy")
        sh.wait("kubectl get pods -n kube-system | grep CrashLoopBackOff")
        log = sh("kubectl logs -n kube-system ds/kube-proxy --tail=5")
        assert "--proxy-mode: 'iptabels' is not one of iptables, ipvs, nftables, userspace" in log
        assert sh("curl -sS http://web", "client"), "rules stay"
        sh(edit.format(r"\ iptables"))
        sh("kubectl delete pod -n kube-system -l k8s-app=kube-proxy")
        sh("kubectl rollout status ds/kube-proxy -n kube-system --timeout=60s")
        sh("kubectl rollout restart ds/kube-proxy -n kube-system")
        sh("kubectl rollout status ds/kube-proxy -n kube-system --timeout=60s")
