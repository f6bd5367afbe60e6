"""The real kubectl works against the lab's API, whichever version is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.cluster.apiclient import ApiClient
from testbed.cluster.controlplane import start_control_plane
from testbed.net.namespace import Namespace

MANIFEST = """
apiVersion: v1
kind: Node
metadata: {name: node1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: x, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-proxy, namespace: kube-system}
data: {config.conf: "mode: iptables"}
"""

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


class Kubectl:
    """kubectl with a home of its own, pointed at the lab."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __call__(self, *arguments: str, given: str = "", editor: str = "") -> str:
        environment = {**os.environ, "HOME": str(self._home), "KUBECONFIG": "", "KUBE_EDITOR": editor}
        argv = ["kubectl", "--server=http://127.0.0.1:8080", *arguments]
        ended = subprocess.run(
            argv, input=given, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiClient]:
    with (
        Namespace.here() as here,
        start_control_plane([here], socket_path=tmp_path / "s", log=tmp_path / "log"),
        ApiClient(tmp_path / "s") as client,
    ):
        yield client


@pytest.fixture
def kubectl(api: ApiClient, tmp_path: Path) -> Kubectl:
    return Kubectl(tmp_path)


def test_manifests_are_applied_again_without_effect_and_deleted(kubectl: Kubectl, api: ApiClient) -> None:
    assert kubectl("apply", "-f", "-", given=MANIFEST).count("created") == 4
    assert kubectl("apply", "-f", "-", given=MANIFEST).count("unchanged") == 4
    changed = kubectl("apply", "-f", "-", given=MANIFEST.replace("port: 80", "port: 81"))
    assert "service/web configured" in changed
    assert api.get("Service", "web")["spec"]["ports"][0]["port"] == 81
    kubectl("delete", "-f", "-", "--wait", given=MANIFEST)
    assert api.list("Service") == api.list("Deployment") == api.list("Pod") == []


def test_tables_look_as_usual(kubectl: Kubectl, api: ApiClient) -> None:
    kubectl("apply", "-f", "-", given=MANIFEST)
    lines = [line.split() for line in kubectl("get", "nodes,svc,endpointslices", "-A").splitlines()]
    assert ["NAME", "STATUS", "ROLES", "AGE", "VERSION"] in lines
    assert ["NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"] in lines
    assert ["NAMESPACE", "NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"] in lines
    assert ["default", "service/web", "ClusterIP", "10.96.0.1", "<none>", "80/TCP"] in [x[:6] for x in lines]


def test_a_config_map_is_edited(kubectl: Kubectl, api: ApiClient) -> None:
    kubectl("apply", "-f", "-", given=MANIFEST)
    kubectl("edit", "cm", "kube-proxy", "-n", "kube-system", editor="sed -i s/iptables/ipvs/")
    assert api.get("ConfigMap", "kube-proxy", "kube-system")["data"] == {"config.conf": "mode: ipvs"}


def test_a_deployment_is_scaled_and_its_pods_deleted_by_label(kubectl: Kubectl, api: ApiClient) -> None:
    kubectl("apply", "-f", "-", given=MANIFEST)
    kubectl("scale", "deployment", "web", "--replicas=4")
    old = {item["metadata"]["name"] for item in api.list("Pod")}
    assert len(old) == 4
    kubectl("delete", "pod", "-l", "app=web")
    new = {item["metadata"]["name"] for item in api.list("Pod")}
    assert len(new) == 4
    assert not old & new
