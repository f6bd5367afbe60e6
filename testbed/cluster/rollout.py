"""kube-proxy in a live cluster, by the procedure that its users know.

Owns how its objects get into the API, and how a mode is changed there: the ConfigMap is edited, the pods are
deleted, and their successors read it. Must not know how pods are run.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus

from testbed.cluster.apiclient import STRATEGIC, Object
from testbed.cluster.cluster import LiveCluster
from testbed.cluster.kubeproxy import (
    EXTERNAL_NOTE,
    NAME,
    NAMESPACE,
    SELECTOR,
    ProxyRun,
    daemon_set,
    kube_proxy_objects,
    mode_of,
    with_mode,
)
from testbed.cluster.podlogs import last_lines, read_log
from testbed.cluster.proxies import ProxyOptions
from testbed.errors import ApiError, ProcessDied
from testbed.net.wait import wait_until

# A proxy that ends is told at once; one that is slow, in an emulated machine beside other work, gets time.
READY_TIMEOUT_S = 600.0
_LOG_LINES = 20


class KubeProxy:
    """The kube-proxy of one cluster; a kubelet must be running there."""

    def __init__(self, cluster: LiveCluster, options: ProxyOptions) -> None:
        self._cluster = cluster
        self._api = cluster.api
        self._options = options

    def install(self) -> None:
        """Create its ConfigMap and DaemonSet; returns without waiting for the pods."""
        self._api.load(kube_proxy_objects(self._run(self._options.mode)))

    def mode(self) -> str:
        """The mode, or the name of the external proxy, that the API asks for. Raises UserError."""
        return self._external() or mode_of(self._api.get("ConfigMap", NAME, NAMESPACE))

    def switch_mode(self, mode: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Take every node to `mode`, and wait until each has a ready proxy again; raises as `wait_ready`."""
        old = frozenset(pod["metadata"]["uid"] for pod in self._pods())
        run = self._run(mode)
        config_map = self._api.get("ConfigMap", NAME, NAMESPACE)
        self._api.patch("ConfigMap", NAME, {"data": with_mode(config_map, run.mode)}, NAMESPACE)
        if mode != self.mode():
            self._change_program(run)
        for pod in self._pods():
            if pod["metadata"]["uid"] in old:
                self._delete(pod["metadata"]["name"])
        self.wait_ready(timeout_s, without=old)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S, without: frozenset[str] = frozenset()) -> None:
        """Wait until every node has a ready pod, those with the uids `without` not counted, and its rules.

        A proxy says that it is well before it has written its first rules, and a connection that is opened in
        between is never translated. What an external proxy measures is not known.

        Raises:
            ProcessDied: a proxy ended instead, with the end of its log.
            WaitTimeout: after `timeout_s`.
        """
        for node in self._cluster.plan.nodes:
            what = f"kube-proxy of {node.name} to be ready"
            wait_until(lambda name=node.name: self._is_ready(name, without), what, timeout_s)  # type: ignore[misc]
        if self._external() is None:
            for node in self._cluster.plan.nodes:
                what = f"the first rules of kube-proxy of {node.name}"
                wait_until(partial(self._has_synced, node.name), what, timeout_s)

    def _delete(self, pod: str) -> None:
        try:
            self._api.delete("Pod", pod, NAMESPACE)
        except ApiError as error:
            if error.code != HTTPStatus.NOT_FOUND:  # a DaemonSet that changed deletes its pods, too
                raise

    def _external(self) -> str | None:
        """The name of the external proxy that the API asks for, if it does."""
        template = self._api.get("DaemonSet", NAME, NAMESPACE)["spec"]["template"]
        name: str | None = template["metadata"].get("annotations", {}).get(EXTERNAL_NOTE)
        return name

    def _has_synced(self, node: str) -> bool:
        self._cluster.check_alive()
        try:
            metrics = self._cluster.proxy_metrics(node)
        except OSError:
            return False
        return metrics.get("kubeproxy_sync_proxy_rules_last_timestamp_seconds", 0) > 0

    def _is_ready(self, node: str, without: frozenset[str]) -> bool:
        self._cluster.check_alive()
        for pod in self._pods():
            if pod["spec"]["nodeName"] == node and pod["metadata"]["uid"] not in without:
                self._check(pod)
                conditions = pod["status"].get("conditions", ())
                return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
        return False

    def _check(self, pod: Object) -> None:
        for container in pod["status"].get("containerStatuses", ()):
            if waiting := container["state"].get("waiting"):
                name = pod["metadata"]["name"]
                log = last_lines(read_log(self._cluster.pod_log(NAMESPACE, name)), _LOG_LINES)
                evidence = f"{waiting.get('message', '')}\n{log.decode(errors='replace')}"
                raise ProcessDied(f"kube-proxy of {pod['spec']['nodeName']}", None, evidence)

    def _change_program(self, run: ProxyRun) -> None:
        template = daemon_set(run)["spec"]["template"]
        (container,) = template["spec"]["containers"]
        changed = {field: container[field] for field in ("name", "image", "command")}
        note = template["metadata"].get("annotations") or {EXTERNAL_NOTE: None}
        patch = {
            "spec": {
                "template": {"metadata": {"annotations": note}, "spec": {"containers": [changed]}},
            }
        }
        self._api.patch("DaemonSet", NAME, patch, NAMESPACE, form=STRATEGIC)

    def _pods(self) -> list[Object]:
        return self._api.list("Pod", NAMESPACE, labels=SELECTOR)

    def _run(self, mode: str) -> ProxyRun:
        external = self._cluster.topology.external(mode)
        return ProxyRun(
            mode=external.mode if external else mode,
            cluster_cidrs=self._cluster.plan.cluster_cidrs,
            scheduler=self._options.scheduler,
            arguments=(f"--iptables-variant={self._cluster.iptables.variant}", *self._options.arguments),
            external=external,
        )
