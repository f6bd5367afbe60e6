"""EndpointSlices of Endpoints that people write for Services without a selector.

Kubernetes calls it mirroring: proxies read slices only, so hand-made Endpoints must appear there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.cluster.api.checks import family_of
from testbed.cluster.controllers.selection import ServicePods
from testbed.cluster.controllers.slices import HEADLESS, MANAGED_BY, SERVICE_NAME
from testbed.cluster.mint import Mint
from testbed.cluster.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES
from testbed.cluster.store import Event, Key, Object, Record, Store

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"


class MirroringController:
    """Mirrors Endpoints whose Service exists and has no selector."""

    def __init__(self, store: Store, mint: Mint, membership: ServicePods) -> None:
        self._store = store
        self._mint = mint
        self._membership = membership
        self._names: dict[Key, list[str]] = {}
        self._touched: dict[Key, None] = {}
        store.observe(ENDPOINTS, self._observe)
        store.observe(SERVICES, self._observe)

    def _observe(self, event: Event) -> None:
        self._touched[event.record.key] = None

    def reconcile(self) -> bool:
        """Mirror what has changed; says whether anything had."""
        touched, self._touched = self._touched, {}
        for key in touched:
            endpoints = self._store.find(ENDPOINTS, *key)
            if key in self._names or (endpoints and self._is_ours(key, endpoints)):
                self._mirror(key, endpoints if endpoints and self._is_ours(key, endpoints) else None)
        return bool(touched)

    def _is_ours(self, key: Key, endpoints: Record) -> bool:
        service = self._membership.services.get(key)
        return service is not None and service.selector is None and endpoints.labels.get(SKIP) != "true"

    def _mirror(self, key: Key, endpoints: Record | None) -> None:
        namespace, name = key
        names = self._names.pop(key, [])
        contents = _contents(endpoints.parsed()) if endpoints else []
        for spare in names[len(contents) :]:
            if self._store.find(ENDPOINTSLICES, namespace, spare):
                self._store.delete(ENDPOINTSLICES, namespace, spare)
        if endpoints is None:
            return
        names = names[: len(contents)]
        names += [f"{name}-{self._mint.suffix()}" for _ in contents[len(names) :]]
        self._names[key] = names
        for slice_name, content in zip(names, contents, strict=True):
            self._write(endpoints, slice_name, content)

    def _write(self, endpoints: Record, name: str, content: Object) -> None:
        labels = {**endpoints.labels, SERVICE_NAME: endpoints.name, MANAGED_BY: MANAGER}
        service = self._membership.services[endpoints.key]
        if service.headless:
            labels[HEADLESS] = ""
        present = self._store.find(ENDPOINTSLICES, endpoints.namespace, name)
        before = present.parsed() if present else {}
        if before and all(before.get(field) == value for field, value in content.items()):
            return
        metadata: Object = before.get("metadata") or {
            "name": name,
            "namespace": endpoints.namespace,
            "uid": self._mint.uid(),
            "creationTimestamp": self._mint.now(),
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Endpoints", "name": endpoints.name, "uid": endpoints.uid}
            ],
        }
        metadata["labels"] = labels
        metadata["generation"] = metadata.get("generation", 0) + 1
        write = self._store.update if present else self._store.create
        head = {"kind": "EndpointSlice", "apiVersion": ENDPOINTSLICES.api_version, "metadata": metadata}
        write(ENDPOINTSLICES, {**head, **content})


def _contents(endpoints: Mapping[str, Any]) -> list[Object]:
    """Return the slices' own fields: one slice for each subset and family."""
    contents = []
    for subset in endpoints.get("subsets", ()):
        by_family: dict[str, list[Object]] = {}
        for field, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(field, ()):
                by_family.setdefault(family_of(address["ip"]), []).append(_endpoint(address, ready))
        ports = [{"name": "", **port} for port in subset.get("ports", ())]
        contents += [
            {"addressType": family, "endpoints": found, "ports": ports} for family, found in by_family.items()
        ]
    return contents


def _endpoint(address: Mapping[str, Any], ready: bool) -> Object:
    endpoint: Object = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
    for field in ("hostname", "nodeName", "targetRef"):
        if field in address:
            endpoint[field] = address[field]
    return endpoint
