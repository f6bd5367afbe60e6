"""Inside the sandbox of the proxy's benchmark: a loaded API, a node, and a proxy process started by exec.

The last Service of all leads to live pods, so that traffic to it proves that everything before it is written.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from smallcluster import CLUSTER_CIDRS, NODES, PODS, PORT, SmallCluster, small_cluster

from testbed.cluster.apiclient import ApiClient
from testbed.cluster.controlplane import start_control_plane
from testbed.net.measuring import measuring_sysctls
from testbed.net.namespace import Namespace
from testbed.net.process import Child, run, spawn
from testbed.proxy.changes import ChangeTracker
from testbed.proxy.iptables.transaction import Book
from testbed.proxy.model import Family, ServicePortName
from testbed.proxy.proxier import ProxySettings
from testbed.proxy.servicemap import ServiceMap

TIMEOUT_S = 120.0
_ATTEMPT_S = 0.02
_SETTINGS = ProxySettings(cluster_cidr=CLUSTER_CIDRS[Family.IPV4], node_ips=(NODES["node1"],))


class Started(NamedTuple):
    """A start of the proxy: until the last Service answered, and the most memory it ever had."""

    to_traffic_s: float
    peak_rss_mb: float


class Bench:
    """One cluster with so many Services in its API, alive between calls."""

    def __init__(self, services: int, endpoints: int) -> None:
        self._stack = ExitStack()
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._log = directory / "proxy.log"
        self._cluster: SmallCluster = self._stack.enter_context(small_cluster(directory))
        self.node = self._cluster.node
        measuring_sysctls(self.node)
        plane = start_control_plane([self.node], socket_path=directory / "s", log=directory / "log")
        self._stack.enter_context(plane)
        self._api = self._stack.enter_context(ApiClient(directory / "s"))
        self._proxy: Child | None = None
        self._last = services - 1
        self._endpoints = endpoints
        self._objects: list[dict[str, Any]] = [node_object()]
        for number in range(services):
            self._objects += [service(number), endpoint_slice(number, self._addresses(number))]
        for start in range(0, len(self._objects), 2000):
            self._api.load(self._objects[start : start + 2000])

    def start(self, mode: str, variant: str) -> Started:
        """Start the proxy in a clean node and wait for traffic through the last Service."""
        flags = {
            "master": "http://127.0.0.1:8080",
            "hostname-override": "node1",
            "cluster-cidr": CLUSTER_CIDRS[Family.IPV4],
            "proxy-mode": mode,
            "iptables-variant": variant,
        }
        argv = [
            sys.executable,
            "-m",
            "testbed.proxy",
            *(f"--{name}={value}" for name, value in flags.items()),
        ]
        started_s = time.monotonic()
        self._proxy = spawn(argv, name="proxy", namespace=self.node, log=self._log)
        self._wait_for("a")
        took_s = time.monotonic() - started_s
        status = Path(f"/proc/{self._proxy.pid}/status").read_text()
        return Started(took_s, int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024)

    def rss_mb(self) -> float:
        """Resident memory of the running proxy."""
        assert self._proxy is not None
        status = Path(f"/proc/{self._proxy.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def change(self) -> float:
        """Give the last Service another endpoint; the seconds until it answers."""
        changed = endpoint_slice(self._last, [PODS["c"][1]])
        started_s = time.monotonic()
        self._api.replace(changed)
        self._wait_for("c")
        return time.monotonic() - started_s

    def stop(self) -> None:
        """End the proxy and remove its rules."""
        assert self._proxy is not None
        self._proxy.close()
        self._api.replace(endpoint_slice(self._last, self._addresses(self._last)))
        run([sys.executable, "-m", "testbed.proxy", "--cleanup"], namespace=self.node, timeout_s=TIMEOUT_S)

    def bare_restore(self, variant: str) -> float:
        """Seconds of the restore tool alone for the rules that a start writes, in a namespace of its own."""
        text = Book(_SETTINGS).draft_full(self._services(), {"nat": "", "filter": ""}).text
        with Namespace.create("bare") as bare:
            return _restore(variant, text, bare)

    def bare_change(self, variant: str) -> float:
        """Seconds of the restore tool alone for the chains of one changed Service, beside all others."""
        services, book = self._services(), Book(_SETTINGS)
        book.commit(book.draft_full(services, {"nat": "", "filter": ""}))
        name = ServicePortName("default", f"svc-{self._last}", "http")
        return _restore(variant, book.draft_partial(services, [name]).text, self.node)

    def close(self) -> None:
        """End everything."""
        if self._proxy is not None:
            self._proxy.close()
        self._stack.close()

    def _services(self) -> ServiceMap:
        tracker, services = ChangeTracker(Family.IPV4, "node1"), ServiceMap()
        for item in self._objects:
            if item["kind"] == "Service":
                tracker.update_service(item)
            elif item["kind"] == "EndpointSlice":
                tracker.update_slice(item)
        tracker.take(services)
        return services

    def _addresses(self, number: int) -> list[str]:
        if number == self._last:
            return [PODS["a"][1]]
        return [f"10.244.{10 + index}.{number % 250}" for index in range(self._endpoints)]

    def _wait_for(self, pod: str) -> None:
        """Connect to the last Service until `pod` answers, without pauses, which would blur the moment."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while self._cluster.outcome("client", vip(self._last), 80, _ATTEMPT_S) != pod:
            assert time.monotonic() < deadline_s, self._log.read_text()


def _restore(variant: str, text: bytes, namespace: Namespace) -> float:
    argv = [f"iptables-{variant}-restore", "--noflush"]
    started_s = time.monotonic()
    run(argv, input=text, namespace=namespace, timeout_s=TIMEOUT_S)
    return time.monotonic() - started_s


def vip(number: int) -> str:
    """The ClusterIP of a Service."""
    return f"10.96.{1 + number // 250}.{1 + number % 250}"


def node_object() -> dict[str, Any]:
    address = {"type": "InternalIP", "address": NODES["node1"]}
    meta = {"name": "node1"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": {"addresses": [address]}}


def service(number: int) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": PORT}]
    meta = {"namespace": "default", "name": f"svc-{number}"}
    spec = {"clusterIP": vip(number), "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def endpoint_slice(number: int, addresses: list[str]) -> dict[str, Any]:
    meta = {
        "namespace": "default",
        "name": f"svc-{number}-slice",
        "labels": {"kubernetes.io/service-name": f"svc-{number}"},
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": "IPv4",
        "endpoints": [{"addresses": [text], "conditions": {"ready": True}} for text in addresses],
        "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
    }


_bench: list[Bench] = []


def call(method: str, *arguments: Any) -> Any:
    """Call a method of the one Bench that is alive; `build` makes it and `close` ends it."""
    if method == "build":
        _bench.append(Bench(*arguments))
        return None
    result = getattr(_bench[-1], method)(*arguments)
    if method == "close":
        _bench.pop()
    return result
