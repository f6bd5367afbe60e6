"""The lab's kubelet: makes real what the control plane writes down, while an interactive lab runs.

Owns the pods that come and go after the cluster was built, those of kube-proxy included, and keeps the hosts
files up to date. Must not know what wants those pods: a Deployment that was scaled looks the same as a pod
created by hand.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from testbed.cluster.cluster import LiveCluster
from testbed.cluster.following import Follower
from testbed.cluster.plan import PodPlan
from testbed.cluster.proxypods import ProxyPods, is_proxy_pod
from testbed.errors import UserError
from testbed.spec import PodPort, PodSpec
from testbed.spec.objects import pod_status
from testbed.spec.placement import GENERIC_PORTS

Object = dict[str, Any]


class Kubelet:
    """Follows the API of a live cluster until its context ends."""

    def __init__(self, cluster: LiveCluster) -> None:
        self._cluster = cluster
        self._proxies = ProxyPods(cluster)
        self._naming = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._proxies)
            for kind, changed, gone in (
                ("pods", self._pod_changed, self._pod_gone),
                ("services", _nothing, _nothing),
                ("namespaces", _nothing, _nothing),
            ):
                stack.enter_context(Follower(self._cluster.api, kind, changed, gone, self._rename))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _rename(self) -> None:
        with self._naming:
            self._cluster.refresh_hosts()

    def _pod_changed(self, pod: Object) -> None:
        """Start a pod that was given a node, stop one that is to go."""
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        if is_proxy_pod(pod):
            self._proxies.changed(pod)
        elif "deletionTimestamp" in pod["metadata"]:
            self._cluster.stop_pod(name)
            self._cluster.api.delete("Pod", name, namespace, grace_s=0)
        elif pod["spec"].get("nodeName") and not pod.get("status", {}).get("podIP"):
            self._start(pod)

    def _pod_gone(self, pod: Object) -> None:
        if is_proxy_pod(pod):
            self._proxies.gone(pod)
        else:
            self._cluster.stop_pod(pod["metadata"]["name"])

    def _start(self, pod: Mapping[str, Any]) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        if name in self._cluster.pods:
            return  # listed anew before its address was written
        try:
            planned = self._plan(pod)
            self._cluster.run_pod(planned)
        except UserError as error:
            status = {"phase": "Failed", "reason": "CreatePodError", "message": str(error)}
        else:
            node = self._cluster.plan.node[planned.spec.node]
            addresses = [address for address in (planned.address, planned.address6) if address]
            status = pod_status(pod["spec"]["containers"], addresses, [node.address])
        self._cluster.api.patch("Pod", name, {"status": status}, namespace, subresource="status")

    def _plan(self, pod: Mapping[str, Any]) -> PodPlan:
        """Give a pod of the API the next free address of its node."""
        metadata, spec = pod["metadata"], pod["spec"]
        node = self._cluster.plan.node[spec["nodeName"]]
        used = {planned.address for planned in self._cluster.pods.values()} | {node.gateway}
        host = next(
            (index for index, address in enumerate(node.pod_network.hosts(), 1) if str(address) not in used),
            None,
        )
        if host is None:
            raise UserError(f"no address is left in {node.pod_network} of {node.name}")
        ports = tuple(container_ports(spec["containers"])) or GENERIC_PORTS
        return PodPlan(
            PodSpec(metadata["name"], metadata["namespace"], node.name, metadata.get("labels", {}), ports),
            str(node.pod_network[host]),
            str(node.pod_network6[host]) if node.pod_network6 else None,
        )


def container_ports(containers: Iterable[Mapping[str, Any]]) -> Iterable[PodPort]:
    """The ports that a pod's containers name."""
    for container in containers:
        for port in container.get("ports", ()):
            yield PodPort(port["containerPort"], port.get("protocol", "TCP"), port.get("name"))


def _nothing(obj: Object) -> None:
    """Only names depend on it, and those are written anew once all has been told."""
