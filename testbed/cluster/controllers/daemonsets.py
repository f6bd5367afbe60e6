"""DaemonSets and their pods: one of the present template on every node that it is meant for.

Owns which pods are missing, surplus or outdated, and the counts in the status. Must not know what such a pod
does: running it is the lab's business.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import orjson

from testbed.cluster.controllers.podtemplate import pod_from
from testbed.cluster.controllers.quantities import share
from testbed.cluster.mint import Mint, hash_suffix
from testbed.cluster.removal import Removal
from testbed.cluster.resources import DAEMONSETS, NODES, PODS
from testbed.cluster.store import DELETED, Event, Key, Object, Record, Store

HASH = "controller-revision-hash"


class _DaemonSet:
    """One state of a DaemonSet, as its controller needs it."""

    def __init__(self, record: Record) -> None:
        spec = record.parsed()["spec"]
        self.key = record.key
        self.uid = record.uid
        self.template: Object = spec["template"]
        self.hash = hash_suffix(orjson.dumps(self.template, option=orjson.OPT_SORT_KEYS))
        self.node_selector: Mapping[str, str] = self.template["spec"].get("nodeSelector", {})
        strategy = spec["updateStrategy"]
        self.rolls = strategy["type"] == "RollingUpdate"
        self.max_unavailable = (strategy.get("rollingUpdate") or {}).get("maxUnavailable", 1)


class _Pod:
    """One state of a pod, as its DaemonSet sees it."""

    def __init__(self, record: Record, owner: str) -> None:
        pod = record.parsed()
        self.key = record.key
        self.owner = owner
        self.node: str = pod["spec"].get("nodeName", "")
        self.hash = record.labels.get(HASH, "")
        self.leaving = "deletionTimestamp" in pod["metadata"]
        self.ready = not self.leaving and any(
            item.get("type") == "Ready" and item.get("status") == "True"
            for item in pod["status"].get("conditions", ())
        )


class DaemonSetController:
    """Creates and deletes the pods of DaemonSets, node by node, and keeps count in the status."""

    def __init__(self, store: Store, mint: Mint, removal: Removal) -> None:
        self._store = store
        self._mint = mint
        self._removal = removal
        self._sets: dict[Key, _DaemonSet] = {}
        self._by_uid: dict[str, Key] = {}
        self._nodes: dict[str, Mapping[str, str]] = {}
        self._pods: dict[Key, _Pod] = {}
        self._owned: defaultdict[str, dict[Key, _Pod]] = defaultdict(dict)
        self._touched: dict[Key, None] = {}
        store.observe(DAEMONSETS, self._observe_set)
        store.observe(NODES, self._observe_node)
        store.observe(PODS, self._observe_pod)

    def _observe_set(self, event: Event) -> None:
        key = event.record.key
        if event.type == DELETED:
            self._by_uid.pop(event.record.uid, None)
            self._sets.pop(key, None)
        else:
            self._sets[key] = _DaemonSet(event.record)
            self._by_uid[event.record.uid] = key
            self._touched[key] = None

    def _observe_node(self, event: Event) -> None:
        name, labels = event.record.name, event.record.labels
        if event.type == DELETED:
            self._nodes.pop(name, None)
        elif self._nodes.get(name) == labels:
            return
        else:
            self._nodes[name] = labels
        self._touched.update(dict.fromkeys(self._sets))

    def _observe_pod(self, event: Event) -> None:
        record = event.record
        if old := self._pods.pop(record.key, None):
            self._owned[old.owner].pop(old.key, None)
            self._touch(old.owner)
        owner = next((uid for uid in record.owners if uid in self._by_uid), "")
        if owner and event.type != DELETED:
            self._pods[record.key] = self._owned[owner][record.key] = _Pod(record, owner)
            self._touch(owner)

    def _touch(self, owner: str) -> None:
        if owner in self._by_uid:
            self._touched[self._by_uid[owner]] = None

    def reconcile(self) -> bool:
        """Act on the DaemonSets that something happened to; says whether there were any."""
        touched, self._touched = self._touched, {}
        for key in touched:
            if key in self._sets:
                self._bring_about(self._sets[key])
        return bool(touched)

    def _bring_about(self, daemons: _DaemonSet) -> None:
        """A pod that is on its way out still holds its node: its successor comes once it is gone."""
        wanted = [name for name in self._nodes if self._is_meant(daemons, name)]
        on_node: defaultdict[str, list[_Pod]] = defaultdict(list)
        for pod in list(self._owned[daemons.uid].values()):
            on_node[pod.node].append(pod)
        for name, pods in on_node.items():
            self._delete(pods[1:] if name in wanted else pods)
        for name in wanted:
            if not on_node[name]:
                self._store.create(PODS, self._pod_of(daemons, name))
        if daemons.rolls:
            self._replace_outdated(
                daemons, [on_node[name][0] for name in wanted if on_node[name]], len(wanted)
            )
        self._write_status(daemons, wanted)

    def _is_meant(self, daemons: _DaemonSet, node: str) -> bool:
        labels = self._nodes[node]
        return all(labels.get(key) == value for key, value in daemons.node_selector.items())

    def _replace_outdated(self, daemons: _DaemonSet, pods: list[_Pod], nodes: int) -> None:
        """Take away pods of an earlier template while no more nodes than allowed are without a ready one."""
        most = max(1, share(daemons.max_unavailable, nodes, math.ceil))
        outdated = [pod for pod in pods if pod.hash != daemons.hash and not pod.leaving]
        room = most - (nodes - sum(pod.ready for pod in pods))
        self._delete([*(pod for pod in outdated if not pod.ready)])
        self._delete([pod for pod in outdated if pod.ready][: max(0, room)])

    def _delete(self, pods: Iterable[_Pod]) -> None:
        for pod in pods:
            if not pod.leaving:
                self._removal.delete(PODS, *pod.key)

    def _pod_of(self, daemons: _DaemonSet, node: str) -> Object:
        namespace, name = daemons.key
        pod = pod_from(
            daemons.template,
            namespace=namespace,
            stem=f"{name}-",
            labels={HASH: daemons.hash},
            owner=_reference(daemons),
            store=self._store,
            mint=self._mint,
        )
        pod["spec"]["nodeName"] = node
        return pod

    def _write_status(self, daemons: _DaemonSet, wanted: list[str]) -> None:
        obj = self._store.get(DAEMONSETS, *daemons.key).parsed()
        pods = [pod for pod in self._owned[daemons.uid].values() if pod.node in wanted]
        ready = sum(pod.ready for pod in pods)
        status = {
            "observedGeneration": obj["metadata"].get("generation", 1),
            "desiredNumberScheduled": len(wanted),
            "currentNumberScheduled": len(pods),
            "updatedNumberScheduled": sum(pod.hash == daemons.hash for pod in pods),
            "numberReady": ready,
            "numberAvailable": ready,
            "numberUnavailable": len(wanted) - ready,
            "numberMisscheduled": 0,
        }
        if obj["status"] != status:
            self._store.update(DAEMONSETS, {**obj, "status": status})


def _reference(daemons: _DaemonSet) -> Object:
    return {
        "apiVersion": DAEMONSETS.api_version,
        "kind": "DaemonSet",
        "name": daemons.key[1],
        "uid": daemons.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
