"""Which node a pod runs on: the one with the fewest of its kind, the nodes taking turns.

Owns the counts of pods on nodes. Must not know why pods exist.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from testbed.cluster.mint import Mint
from testbed.cluster.resources import NODES, PODS
from testbed.cluster.store import ADDED, DELETED, Event, Key, Object, Record, Store


class _Node:
    """What scheduling asks of a node."""

    def __init__(self, record: Record) -> None:
        node = record.parsed()
        self.labels = record.labels
        self.open = not node.get("spec", {}).get("unschedulable", False)
        room = str(node.get("status", {}).get("allocatable", {}).get("pods", ""))
        self.room = int(room) if room.isascii() and room.isdigit() else None


class Scheduler:
    """Assigns pods to nodes, in the order in which the nodes came."""

    def __init__(self, store: Store, mint: Mint) -> None:
        self._store = store
        self._mint = mint
        self._nodes: dict[str, _Node] = {}
        self._waiting: dict[Key, None] = {}
        self._to_try: dict[Key, None] = {}
        self._places: dict[Key, tuple[str, str]] = {}  # pod -> (node, owner)
        self._on_node: Counter[str] = Counter()
        self._of_owner: defaultdict[str, Counter[str]] = defaultdict(Counter)
        store.observe(NODES, self._observe_node)
        store.observe(PODS, self._observe_pod)

    def pick(self, owner: str, spec: Mapping[str, Any]) -> str | None:
        """Return the node for another pod of `owner` (a uid), or None when none will have it."""
        wanted = spec.get("nodeSelector", {})
        kind = self._of_owner[owner] if owner in self._of_owner else Counter[str]()
        fitting = [
            name
            for name, node in self._nodes.items()
            if node.open
            and (node.room is None or self._on_node[name] < node.room)
            and all(node.labels.get(key) == value for key, value in wanted.items())
        ]
        return min(fitting, key=lambda name: (kind[name], self._on_node[name]), default=None)

    def reconcile(self) -> bool:
        """Give the pods without a node one, where there is one; says whether there was anything to do."""
        to_try, self._to_try = self._to_try, {}
        for key in to_try:
            if key not in self._waiting:
                continue
            record = self._store.get(PODS, *key)
            pod = record.parsed()
            node = self.pick(record.owners[0] if record.owners else "", pod["spec"])
            if node:
                self._store.update(PODS, self.assigned(pod, node))
        return bool(to_try)

    def assigned(self, pod: Object, node: str) -> Object:
        """Return `pod` as it looks with a node."""
        pod["spec"]["nodeName"] = node
        conditions = pod["status"].setdefault("conditions", [])
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": self._mint.now()})
        return pod

    def _observe_node(self, event: Event) -> None:
        if event.type == DELETED:
            self._nodes.pop(event.record.name, None)
        else:
            self._nodes[event.record.name] = _Node(event.record)
            self._to_try.update(self._waiting)

    def _observe_pod(self, event: Event) -> None:
        record = event.record
        node = record.fields["spec.nodeName"] if event.type != DELETED else ""
        owner = record.owners[0] if record.owners else ""
        before = self._places.pop(record.key, None)
        if before:
            self._count(*before, -1)
            if not node:
                self._to_try.update(self._waiting)
        if node:
            self._places[record.key] = (node, owner)
            self._count(node, owner, 1)
        self._waiting.pop(record.key, None)
        if not node and event.type != DELETED:
            self._waiting[record.key] = None
            if event.type == ADDED:
                self._to_try[record.key] = None

    def _count(self, node: str, owner: str, change: int) -> None:
        self._on_node[node] += change
        if owner:
            self._of_owner[owner][node] += change
            if not +self._of_owner[owner]:
                del self._of_owner[owner]
