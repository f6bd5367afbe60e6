"""EndpointSlices of the Services that have a selector: they follow the pods.

Works on what changed only: indexes lead from a pod to the Services that select it and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import orjson

from testbed.cluster.controllers.selection import EndpointPort, PodView, ServicePods, ServiceView
from testbed.cluster.mint import Mint
from testbed.cluster.resources import ENDPOINTSLICES, Resource
from testbed.cluster.store import DELETED, Event, Key, Object, Record, Store

MANAGER = "endpointslice-controller.k8s.io"
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
HEADLESS = "service.kubernetes.io/headless"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"

SLICE_SIZE = 100
"""Endpoints that one slice holds at most: Kubernetes' --max-endpoints-per-slice."""


@dataclass(slots=True, eq=False)
class _Slice:
    """What was last written of one slice."""

    name: str
    family: str
    ports: tuple[EndpointPort, ...]
    pods: list[PodView]
    content: tuple[object, ...] | None = None


class SliceController:
    """Writes the slices of Services with a selector, and corrects what others do to them."""

    def __init__(self, store: Store, mint: Mint, membership: ServicePods) -> None:
        self._store = store
        self._mint = mint
        self._membership = membership
        self._slices: dict[Key, list[_Slice]] = {}
        self._writing = False
        store.observe(ENDPOINTSLICES, self._observe_slice)

    def _observe_slice(self, event: Event) -> None:
        labels = event.record.labels
        if self._writing or labels.get(MANAGED_BY) != MANAGER:
            return
        service = (event.record.namespace, labels.get(SERVICE_NAME, ""))
        for number, known in enumerate(self._slices.get(service, ())):
            if known.name == event.record.name:
                known.content = None
                if event.type == DELETED:
                    del self._slices[service][number]
                self._membership.touch(service)
                return

    def reconcile(self, key: Key, service: ServiceView | None, trigger: str) -> None:
        """Make the slices of one Service right; `trigger` is when the cause of it happened."""
        if service is None or service.selector is None:
            self._forget(key)
            return
        known = self._slices.setdefault(key, [])
        pods = self._membership.pods_of(service)
        wanted = _by_ports(service, pods)
        kept: list[_Slice] = []
        for (family, ports), members in wanted.items():
            mine = [item for item in known if item.family == family and item.ports == ports]
            kept += _distribute(family, ports, members, mine)
        for item in known:
            if item not in kept:
                self._delete(key, item)
        self._slices[key] = kept
        for item in kept:
            self._write(service, item, trigger)

    def _forget(self, key: Key) -> None:
        """Drop the slices of a Service that has no selector (any more) or is gone."""
        for item in self._slices.pop(key, ()):
            self._delete(key, item)

    def _delete(self, key: Key, item: _Slice) -> None:
        if item.name and self._store.find(ENDPOINTSLICES, key[0], item.name):
            self._writing = True
            self._store.delete(ENDPOINTSLICES, key[0], item.name)
            self._writing = False

    def _write(self, service: ServiceView, item: _Slice, trigger: str) -> None:
        hinted = service.prefers_close and all(pod.zone for pod in item.pods)
        content = (tuple(item.pods), service.labels, service.publish_not_ready, hinted)
        if item.content == content:
            return
        item.content = content
        write: Callable[[Resource, Object], Record] = self._store.create
        if item.name:
            metadata = self._store.get(ENDPOINTSLICES, service.namespace, item.name).parsed()["metadata"]
            metadata["generation"] += 1
            write = self._store.update
        else:
            item.name = f"{service.name}-{self._mint.suffix()}"
            metadata = self._new_metadata(service, item.name)
        metadata["labels"] = _labels(service)
        metadata["annotations"] = {TRIGGER_TIME: trigger}
        endpoints = [
            pod.endpoint(item.family, publish_not_ready=service.publish_not_ready, hinted=hinted)
            for pod in item.pods
        ]
        self._writing = True
        write(
            ENDPOINTSLICES,
            {
                "kind": "EndpointSlice",
                "apiVersion": "discovery.k8s.io/v1",
                "metadata": metadata,
                "addressType": item.family,
                "endpoints": orjson.Fragment(b"[" + b",".join(endpoints) + b"]"),
                "ports": [port.as_object() for port in item.ports],
            },
        )
        self._writing = False

    def _new_metadata(self, service: ServiceView, name: str) -> Object:
        return {
            "name": name,
            "generateName": f"{service.name}-",
            "namespace": service.namespace,
            "uid": self._mint.uid(),
            "generation": 1,
            "creationTimestamp": self._mint.now(),
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": service.name,
                    "uid": service.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        }


def _labels(service: ServiceView) -> dict[str, str]:
    labels = {**service.labels, SERVICE_NAME: service.name, MANAGED_BY: MANAGER}
    if service.headless:
        labels[HEADLESS] = ""
    else:
        labels.pop(HEADLESS, None)
    return labels


_Group = tuple[str, tuple[EndpointPort, ...]]


def _by_ports(service: ServiceView, pods: Iterable[PodView]) -> dict[_Group, list[PodView]]:
    """Group pods by family and by what the target ports come to in them; at least one group a family."""
    groups: dict[_Group, list[PodView]] = {}
    for family in service.families:
        members = [pod for pod in pods if family in pod.addresses]
        fixed = service.fixed_ports
        if fixed is not None or not members:
            groups[family, fixed or ()] = members
            continue
        for pod in members:
            groups.setdefault((family, service.ports_in(pod)), []).append(pod)
    return groups


def _distribute(
    family: str, ports: tuple[EndpointPort, ...], members: Sequence[PodView], known: list[_Slice]
) -> list[_Slice]:
    """Put `members` into slices, moving as few as possible: each stays, newcomers fill the room left."""
    by_key = {pod.key: pod for pod in members}
    kept = []
    for item in known:
        item.pods = [by_key.pop(pod.key) for pod in item.pods if pod.key in by_key]
        if item.pods:
            kept.append(item)
    new = list(by_key.values())
    for item in kept:
        room = SLICE_SIZE - len(item.pods)
        item.pods += new[:room]
        del new[:room]
    spare = [item for item in known if item not in kept]
    while new or not kept:
        item = spare.pop(0) if spare else _Slice("", family, ports, [])
        item.pods = new[:SLICE_SIZE]
        del new[:SLICE_SIZE]
        kept.append(item)
    return kept
