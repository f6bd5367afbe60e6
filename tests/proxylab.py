"""A small cluster with an API and a proxy process on node1, and the objects that tests put into the API."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from smallcluster import (
    CLUSTER_CIDRS,
    NODES,
    PODS,
    PORT,
    SmallCluster,
)

from testbed.cluster.apiclient import ApiClient
from testbed.cluster.controlplane import start_control_plane
from testbed.net.measuring import measuring_sysctls
from testbed.net.process import Child, run, spawn
from testbed.net.wait import wait_until
from testbed.proxy.model import Family

VIP, NODE, MASTER = "10.96.0.10", NODES["node1"], "http://127.0.0.1:8080"
TIMEOUT_S = 60.0


class Lab:
    """A small cluster whose node1 has an API on loopback and, once started, a proxy."""

    def __init__(self, cluster: SmallCluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.log = directory / "proxy.log"
        self._stack = ExitStack()
        self.start_api()
        measuring_sysctls(cluster.node)

    def start_api(self) -> None:
        """Start a control plane that knows node1 and nothing else."""
        (self.directory / "api").unlink(missing_ok=True)
        self.plane = start_control_plane(
            [self.cluster.node], socket_path=self.directory / "api", log=self.directory / "api.log"
        )
        self._stack.enter_context(self.plane)
        self.api = self._stack.enter_context(ApiClient(self.directory / "api"))
        self.api.create(node_object())

    def start_proxy(self, *flags: str, master: bool = True) -> Child:
        """Start a proxy; further flags win over the ones that are always given."""
        usual = (f"--master={MASTER}", "--hostname-override=node1") if master else ()
        cidr = f"--cluster-cidr={CLUSTER_CIDRS[Family.IPV4]}"
        argv = [sys.executable, "-m", "testbed.proxy", *usual, cidr, "--iptables-min-sync-period=0s", *flags]
        proxy = spawn(argv, name="proxy", namespace=self.cluster.node, log=self.log)
        return self._stack.enter_context(proxy)

    def wait_for(self, outcome: str, address: str = VIP, port: int = 80, source: str = "client") -> None:
        def seen() -> bool:
            return self.cluster.outcome(source, address, port, 0.2) == outcome

        wait_until(seen, f"{outcome} from {address}:{port}", TIMEOUT_S)

    def wait_listening(self, *ports: int) -> None:
        """Wait until the proxy answers there: its ports open after its first rules."""

        def answers() -> bool:
            try:
                return all(self.get("/", port) for port in ports)
            except ConnectionRefusedError:
                return False

        wait_until(answers, f"the proxy to listen on {ports}", TIMEOUT_S)

    def get(self, path: str, port: int = 10249) -> tuple[int, bytes]:
        """Ask the proxy over HTTP."""

        def ask() -> tuple[int, bytes]:
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

        return self.cluster.node.run(ask)

    def metric(self, name: str, **labels: str) -> float:
        text = self.get("/metrics")[1].decode()
        return next(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"kubeproxy_{name}" and sample.labels == labels
        )

    def sh(self, *argv: str) -> str:
        return run(list(argv), namespace=self.cluster.node).stdout

    def rules(self) -> str:
        return self.sh("iptables-legacy-save")

    def close(self) -> None:
        self._stack.close()


def node_object(**labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node1", "labels": labels},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE}]},
    }


def service(name: str = "web", vip: str = VIP, **spec: Any) -> dict[str, Any]:
    labels = spec.pop("labels", {})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name, "labels": labels},
        "spec": {"clusterIP": vip, "ports": [{"port": 80, "targetPort": PORT}], **spec},
    }


def slice_of(*pods: str, of: str = "web", protocol: str = "TCP", **labels: str) -> dict[str, Any]:
    endpoints = [{"addresses": [PODS[pod][1]], "nodeName": PODS[pod][0]} for pod in pods]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": f"{of}-1",
            "labels": {"kubernetes.io/service-name": of, **labels},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "", "port": PORT, "protocol": protocol}],
    }
