"""The lab's kubelet: makes real what the control plane writes down, while an interactive lab runs.

Owns the pods that come and go after the cluster was built, and keeps the hosts files up to date. Must not
know what wants those pods: a Deployment that was scaled looks the same as a pod created by hand.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from testbed.cluster.apiclient import Watch, WatchEvent
from testbed.cluster.cluster import LiveCluster
from testbed.cluster.plan import PodPlan
from testbed.errors import ApiError, TestbedError, UserError
from testbed.spec import PodPort, PodSpec
from testbed.spec.objects import pod_status
from testbed.spec.placement import GENERIC_PORTS

_log = logging.getLogger(__name__)


class Kubelet:
    """Follows the API of a live cluster until its context ends."""

    def __init__(self, cluster: LiveCluster) -> None:
        self._cluster = cluster
        self._watches: list[Watch] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for kind, follow in (
                ("pods", self._follow_pod),
                ("services", self._rename),
                ("namespaces", self._rename),
            ):
                since = self._cluster.api.list(kind).resource_version
                watch = stack.enter_context(self._cluster.api.watch(kind, resource_version=since))
                thread = threading.Thread(target=_each, args=(watch, follow), name=f"kubelet {kind}")
                thread.start()
                stack.callback(thread.join)
                stack.callback(watch.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _rename(self, event: WatchEvent) -> None:
        if event.type != "BOOKMARK":
            self._cluster.refresh_hosts()

    def _follow_pod(self, event: WatchEvent) -> None:
        """Start a pod that was given a node, stop one that is to go."""
        pod = event.object
        if event.type == "BOOKMARK":
            return
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        if event.type == "DELETED":
            self._cluster.stop_pod(name)
        elif "deletionTimestamp" in pod["metadata"]:
            self._cluster.stop_pod(name)
            self._cluster.api.delete("Pod", name, namespace, grace_s=0)
        elif pod["spec"].get("nodeName") and not pod.get("status", {}).get("podIP"):
            self._start(pod)
        self._cluster.refresh_hosts()

    def _start(self, pod: Mapping[str, Any]) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
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


def _each(watch: Watch, follow: Callable[[WatchEvent], None]) -> None:
    """Handle events until the watch is closed; one that cannot be handled is told in the log."""
    for event in watch:
        try:
            follow(event)
        except ApiError as error:
            _log.warning("the object changed meanwhile: %s", error)
        except (TestbedError, OSError):
            _log.exception("could not follow %s", event.object["metadata"].get("name"))
