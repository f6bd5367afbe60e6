"""How objects leave: finalizers, a pod's grace, and what an owner takes with it.

The one place that deletes; controllers and the API come here.
"""

from __future__ import annotations

from collections.abc import Callable

from testbed.cluster.mint import Mint
from testbed.cluster.resources import PODS, RESOURCES, Resource
from testbed.cluster.store import DELETED, Event, Key, Object, Record, Store

Later = Callable[[float, Callable[[], None]], object]
"""Calls a function after so many seconds, once the present work is done."""

_GRACE_LIMIT_S = 10**8  # three years: beyond any experiment, within what a date can say


class Removal:
    """Deletes objects of one store.

    A pod that has a node, and a grace period by its spec or by request, stays on as terminating until its
    kubelet deletes it with no grace or the grace is over. `default_grace_s` is for pods that state none:
    nothing in a lab needs winding down, so it is 0 where Kubernetes has 30.
    """

    def __init__(self, store: Store, mint: Mint, later: Later, default_grace_s: int = 0) -> None:
        self._store = store
        self._mint = mint
        self._later = later
        self._default_grace_s = default_grace_s
        self._dependents: dict[str, dict[tuple[Resource, Key], None]] = {}
        self._ownerless: dict[tuple[Resource, Key], None] = {}
        for resource in RESOURCES:
            store.observe(resource, self._follow(resource))

    def delete(self, resource: Resource, namespace: str, name: str, grace_s: int | None = None) -> Record:
        """Delete an object or begin to; returns its last or present state. Raises ApiError (404)."""
        record = self._store.get(resource, namespace, name)
        obj = record.parsed()
        metadata = obj["metadata"]
        grace_s = self._grace_s(obj, grace_s) if resource is PODS else 0
        if grace_s == 0 and not metadata.get("finalizers"):
            return self._store.delete(resource, namespace, name)
        if "deletionTimestamp" in metadata and grace_s >= metadata.get("deletionGracePeriodSeconds", 0):
            return record
        metadata["deletionTimestamp"] = self._mint.now(grace_s)
        metadata["deletionGracePeriodSeconds"] = grace_s
        if grace_s:
            self._later(grace_s, lambda: self._end_grace(namespace, name, record.uid))
        return self._store.update(resource, obj)

    def _grace_s(self, pod: Object, wanted: int | None) -> int:
        if not pod.get("spec", {}).get("nodeName"):
            return 0
        if wanted is None:
            wanted = pod["spec"].get("terminationGracePeriodSeconds", self._default_grace_s)
        return max(0, min(wanted, _GRACE_LIMIT_S))

    def _end_grace(self, namespace: str, name: str, uid: str) -> None:
        record = self._store.find(PODS, namespace, name)
        if record and record.uid == uid:
            self.delete(PODS, namespace, name, 0)

    def finish(self, resource: Resource, record: Record) -> Record:
        """Remove an object that was only waiting for its last finalizer, if this is so."""
        metadata = record.parsed()["metadata"]
        waiting = "deletionTimestamp" in metadata and not metadata.get("finalizers")
        if waiting and not metadata.get("deletionGracePeriodSeconds"):
            return self._store.delete(resource, record.namespace, record.name)
        return record

    def orphan(self, uid: str) -> None:
        """Let what `uid` owns go on without it."""
        for resource, (namespace, name) in list(self._dependents.get(uid, ())):
            obj = self._store.get(resource, namespace, name).parsed()
            owners = obj["metadata"]["ownerReferences"]
            obj["metadata"]["ownerReferences"] = [owner for owner in owners if owner["uid"] != uid]
            self._store.update(resource, obj)

    def reconcile(self) -> bool:
        """Delete what has lost its last owner; says whether there was anything to do."""
        work, self._ownerless = self._ownerless, {}
        for resource, (namespace, name) in work:
            if self._store.find(resource, namespace, name):
                self.delete(resource, namespace, name)
        return bool(work)

    def _follow(self, resource: Resource) -> Callable[[Event], None]:
        def observe(event: Event) -> None:
            record, previous = event.record, event.previous
            item = (resource, record.key)
            if previous and previous.owners:
                for uid in previous.owners:
                    self._dependents.get(uid, {}).pop(item, None)
            if event.type == DELETED:
                self._ownerless.update(self._dependents.pop(record.uid, {}))
            else:
                for uid in record.owners:
                    self._dependents.setdefault(uid, {})[item] = None

        return observe
