"""Deployments and their pods: as many as wanted, of the present template, replaced by degrees.

Pods belong to their Deployment directly: no ReplicaSet stands between. Building what a Pod object
describes is the lab's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from testbed.cluster import selectors
from testbed.cluster.controllers.podtemplate import pod_from
from testbed.cluster.controllers.quantities import share
from testbed.cluster.controllers.scheduling import Scheduler
from testbed.cluster.mint import Mint, hash_suffix
from testbed.cluster.removal import Removal
from testbed.cluster.resources import DEPLOYMENTS, PODS
from testbed.cluster.store import DELETED, Event, Key, Object, Record, Store

HASH = "pod-template-hash"


class _Deployment:
    """One state of a Deployment, as its controller needs it."""

    def __init__(self, record: Record) -> None:
        spec = record.parsed()["spec"]
        self.key = record.key
        self.uid = record.uid
        self.replicas: int = spec["replicas"]
        self.selector = selectors.from_object(spec["selector"])
        self.template: Object = spec["template"]
        self.hash = hash_suffix(orjson.dumps(self.template, option=orjson.OPT_SORT_KEYS))
        self.recreate = spec["strategy"]["type"] == "Recreate"
        rolling = spec["strategy"].get("rollingUpdate") or {}
        self.surge = share(rolling.get("maxSurge", "25%"), self.replicas, math.ceil)
        self.unavailable = share(rolling.get("maxUnavailable", "25%"), self.replicas, math.floor)
        if not self.surge and not self.unavailable:
            self.unavailable = 1


class _Pod:
    """One state of a pod, as its Deployment sees it."""

    def __init__(self, record: Record) -> None:
        pod = record.parsed()
        self.key = record.key
        self.created = record.created
        self.labels = record.labels
        self.owner = record.owners[0] if record.owners else ""
        self.hash = record.labels.get(HASH, "")
        self.ready = any(
            item.get("type") == "Ready" and item.get("status") == "True"
            for item in pod["status"].get("conditions", ())
        )
        self.leaving = "deletionTimestamp" in pod["metadata"]
        self.active = not self.leaving and pod["status"].get("phase") not in ("Succeeded", "Failed")


class DeploymentController:
    """Creates, adopts and deletes pods, and keeps count in the status."""

    def __init__(self, store: Store, mint: Mint, removal: Removal, scheduler: Scheduler) -> None:
        self._store = store
        self._mint = mint
        self._removal = removal
        self._scheduler = scheduler
        self._deployments: dict[Key, _Deployment] = {}
        self._by_uid: dict[str, Key] = {}
        self._pods: dict[Key, _Pod] = {}
        self._owned: dict[str, dict[Key, _Pod]] = {}  # owner's uid, or namespace/ for pods without one
        self._touched: dict[Key, None] = {}
        store.observe(DEPLOYMENTS, self._observe_deployment)
        store.observe(PODS, self._observe_pod)

    def _observe_deployment(self, event: Event) -> None:
        key = event.record.key
        if event.type == DELETED:
            self._by_uid.pop(event.record.uid, None)
            self._deployments.pop(key, None)
        else:
            self._deployments[key] = _Deployment(event.record)
            self._by_uid[event.record.uid] = key
            self._touched[key] = None

    def _observe_pod(self, event: Event) -> None:
        pod = None if event.type == DELETED else _Pod(event.record)
        old = self._pods.pop(event.record.key, None)
        if old:
            self._owned[_home(old)].pop(old.key)
        if pod:
            self._pods[pod.key] = pod
            self._owned.setdefault(_home(pod), {})[pod.key] = pod
        for owner in {item.owner for item in (old, pod) if item}:
            if owner in self._by_uid:
                self._touched[self._by_uid[owner]] = None
        if pod and not pod.owner:
            for key, deployment in self._deployments.items():
                if key[0] == pod.key[0] and selectors.matches_labels(deployment.selector, pod.labels):
                    self._touched[key] = None

    def reconcile(self) -> bool:
        """Act on the Deployments that something happened to; says whether there were any."""
        touched, self._touched = self._touched, {}
        for key in touched:
            if key in self._deployments:
                self._bring_about(self._deployments[key])
        return bool(touched)

    def _bring_about(self, deployment: _Deployment) -> None:
        self._adopt(deployment)
        pods = list(self._owned.get(deployment.uid, {}).values())
        new = [pod for pod in pods if pod.active and pod.hash == deployment.hash]
        old = [pod for pod in pods if pod.active and pod.hash != deployment.hash]
        excess = len(new) - deployment.replicas
        if excess > 0:
            self._delete(_dispensable(new)[:excess])
        elif deployment.recreate:
            self._delete(old)
            if not any(pod.hash != deployment.hash for pod in self._owned.get(deployment.uid, {}).values()):
                self._create(deployment, -excess)
        else:
            room = deployment.replicas + deployment.surge - len(new) - len(old)
            self._create(deployment, max(0, min(-excess, room)))
            spare = sum(pod.ready for pod in (*new, *old)) - (deployment.replicas - deployment.unavailable)
            unready = [pod for pod in old if not pod.ready]
            self._delete([*unready, *_dispensable(pod for pod in old if pod.ready)[: max(0, spare)]])
        self._write_status(deployment)

    def _adopt(self, deployment: _Deployment) -> None:
        """Become the owner of pods that match and have none, as if they had been made from the template."""
        for pod in list(self._owned.get(f"{deployment.key[0]}/", {}).values()):
            if pod.active and selectors.matches_labels(deployment.selector, pod.labels):
                obj = self._store.get(PODS, *pod.key).parsed()
                obj["metadata"].setdefault("labels", {})[HASH] = deployment.hash
                obj["metadata"]["ownerReferences"] = [_reference(deployment)]
                self._store.update(PODS, obj)

    def _create(self, deployment: _Deployment, count: int) -> None:
        for _ in range(count):
            pod = self._pod_of(deployment)
            node = pod["spec"].get("nodeName") or self._scheduler.pick(deployment.uid, pod["spec"])
            self._store.create(PODS, self._scheduler.assigned(pod, node) if node else pod)

    def _pod_of(self, deployment: _Deployment) -> Object:
        namespace, name = deployment.key
        return pod_from(
            deployment.template,
            namespace=namespace,
            stem=f"{name}-{deployment.hash}-",
            labels={HASH: deployment.hash},
            owner=_reference(deployment),
            store=self._store,
            mint=self._mint,
        )

    def _delete(self, pods: Iterable[_Pod]) -> None:
        for pod in pods:
            self._removal.delete(PODS, *pod.key)

    def _write_status(self, deployment: _Deployment) -> None:
        obj = self._store.get(DEPLOYMENTS, *deployment.key).parsed()
        pods = [pod for pod in self._owned.get(deployment.uid, {}).values() if pod.active]
        updated = [pod for pod in pods if pod.hash == deployment.hash]
        ready = sum(pod.ready for pod in pods)
        counts = {
            "replicas": len(pods),
            "updatedReplicas": len(updated),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": max(0, deployment.replicas - ready),
        }
        complete = len(updated) == len(pods) == ready == deployment.replicas
        status = {
            "observedGeneration": obj["metadata"].get("generation", 1),
            **{field: count for field, count in counts.items() if count},
            "conditions": self._conditions(
                obj["status"].get("conditions", ()),
                available=ready >= deployment.replicas - deployment.unavailable,
                complete=complete,
            ),
        }
        if obj["status"] != status:
            self._store.update(DEPLOYMENTS, {**obj, "status": status})

    def _conditions(
        self, before: Iterable[Mapping[str, Any]], *, available: bool, complete: bool
    ) -> list[Object]:
        known = {item.get("type"): item for item in before}
        wanted = (
            (
                "Available",
                str(available),
                "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
            ),
            ("Progressing", "True", "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated"),
        )
        conditions = []
        for kind, status, reason in wanted:
            old = known.get(kind, {})
            if (old.get("status"), old.get("reason")) == (status, reason):
                conditions.append(dict(old))
                continue
            now = self._mint.now()
            since = old.get("lastTransitionTime", now) if old.get("status") == status else now
            times = {"lastUpdateTime": now, "lastTransitionTime": since}
            conditions.append({"type": kind, "status": status, "reason": reason, **times})
        return conditions


def _home(pod: _Pod) -> str:
    return pod.owner or f"{pod.key[0]}/"


def _reference(deployment: _Deployment) -> Object:
    return {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": "Deployment",
        "name": deployment.key[1],
        "uid": deployment.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _dispensable(pods: Iterable[_Pod]) -> list[_Pod]:
    """Put first what is missed least: pods that are not ready, then the newest."""
    return sorted(pods, key=lambda pod: (pod.ready, -pod.created))
