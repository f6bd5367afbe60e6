"""v1 Endpoints: one object a Service, made from the first time that somebody asks for Endpoints.

Whoever reads EndpointSlices, as proxies do, does not pay for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.cluster.controllers.selection import EndpointPort, PodView, ServicePods, ServiceView
from testbed.cluster.mint import Mint
from testbed.cluster.resources import ENDPOINTS
from testbed.cluster.store import Event, Key, Object, Store

CAPACITY = 1000
"""Addresses that one Endpoints object holds at most: Kubernetes' maxCapacity."""

OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
MANAGED_BY = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"


class EndpointsController:
    """Writes the Endpoints of Services with a selector, once `activate` was called."""

    def __init__(self, store: Store, mint: Mint, membership: ServicePods) -> None:
        self._store = store
        self._mint = mint
        self._membership = membership
        self._written: dict[Key, Object] = {}
        self._active = False
        self._writing = False
        store.observe(ENDPOINTS, self._observe)

    def activate(self) -> None:
        """Begin to keep Endpoints; calling it again changes nothing."""
        if not self._active:
            self._active = True
            for key in self._membership.services:
                self._membership.touch(key)

    def _observe(self, event: Event) -> None:
        key = event.record.key
        if not self._writing and key in self._written:
            del self._written[key]
            self._membership.touch(key)

    def reconcile(self, key: Key, service: ServiceView | None, trigger: str) -> None:
        """Make the Endpoints of one Service right."""
        if not self._active:
            return
        self._writing = True
        present = self._store.find(ENDPOINTS, *key)
        if service is None or service.selector is None:
            if self._written.pop(key, None) and present:
                self._store.delete(ENDPOINTS, *key)
        else:
            self._write(service, trigger)
        self._writing = False

    def _write(self, service: ServiceView, trigger: str) -> None:
        key = (service.namespace, service.name)
        subsets, truncated = _subsets(service, self._membership.pods_of(service))
        content: Object = {"subsets": subsets, "labels": {**service.labels, MANAGED_BY: MANAGER}}
        if service.headless:
            content["labels"]["service.kubernetes.io/headless"] = ""
        if self._written.get(key) == content:
            return
        self._written[key] = content
        present = self._store.find(ENDPOINTS, *key)
        if present:
            metadata = present.parsed()["metadata"]
        else:
            metadata = {
                "name": service.name,
                "namespace": service.namespace,
                "uid": self._mint.uid(),
                "creationTimestamp": self._mint.now(),
            }
        metadata["labels"] = content["labels"]
        metadata["annotations"] = {TRIGGER_TIME: trigger}
        if truncated:
            metadata["annotations"][OVER_CAPACITY] = "truncated"
        write = self._store.update if present else self._store.create
        write(ENDPOINTS, {"kind": "Endpoints", "apiVersion": "v1", "metadata": metadata, "subsets": subsets})


def _subsets(service: ServiceView, pods: Sequence[PodView]) -> tuple[list[Object], bool]:
    """Return the subsets, one for each set of ports, and whether some addresses found no room."""
    family = service.families[0]
    members = [pod for pod in pods if family in pod.addresses]
    if not service.publish_not_ready:
        members = [pod for pod in members if not pod.terminating]
    groups: dict[tuple[EndpointPort, ...], Object] = {}
    for pod in members[:CAPACITY]:
        ports = service.ports_in(pod)
        group = groups.setdefault(ports, {})
        ready = pod.ready or service.publish_not_ready
        address: Object = {"ip": pod.addresses[family], "targetRef": pod.reference}
        if pod.node:
            address["nodeName"] = pod.node
        group.setdefault("addresses" if ready else "notReadyAddresses", []).append(address)
    for ports, group in groups.items():
        group["ports"] = [port.as_object() for port in ports]
    return list(groups.values()), len(members) > CAPACITY
