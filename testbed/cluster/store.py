"""The control plane's memory: objects as encoded bytes, one global version, a bounded history.

Owns the order of things: lists come in order of creation, every write takes the next version, watches
replay from the history and then follow. Must not know HTTP, event loops, or what any kind means.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from testbed.cluster.api import failures
from testbed.cluster.resources import RESOURCES, Resource
from testbed.cluster.selectors import EVERYTHING, Selection

Object = dict[str, Any]
Key = tuple[str, str]  # (namespace, name); the namespace is empty for objects that have none

HISTORY = 16_384
"""Events of one resource that a watch can go back to; between this many and twice as many are kept."""

BACKLOG = 1_000_000
"""Events that a watcher may lag behind before it is cut off and has to list again."""

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"

_NO_FIELDS: Mapping[str, str] = MappingProxyType({})


class Record(NamedTuple):
    """One stored state of an object: its encoding, and the little that selectors and writers ask."""

    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str]
    fields: Mapping[str, str]
    owners: tuple[str, ...]  # uids
    version: int
    created: int  # the version of the creation: the place in lists
    data: bytes

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    def parsed(self) -> Object:
        """Return a copy that the caller may change."""
        return orjson.loads(self.data)  # type: ignore[no-any-return]


class Event(NamedTuple):
    """One write. A deletion's record is the last state under the version of the deletion."""

    type: str
    record: Record
    previous: Record | None

    @property
    def version(self) -> int:
        return self.record.version


class Page(NamedTuple):
    """Part of a list as it stood at `version`; `position` is where the next part starts, if any."""

    records: Sequence[Record]
    version: int
    position: int | None = None
    remaining: int = 0


Observer = Callable[[Event], None]


class Watch:
    """One reader of a resource's events: `take` what has come, after `notify` was called."""

    def __init__(
        self, selection: Selection, notify: Callable[[], None], pending: list[Event], backlog: int
    ) -> None:
        self.selection = selection
        self.overrun = False
        self._notify = notify
        self._backlog = backlog
        self._pending = pending

    def push(self, event: Event) -> None:
        if len(self._pending) >= self._backlog:
            self.overrun = True
            self._pending.clear()
        self._pending.append(event)
        if len(self._pending) == 1:
            self._notify()

    def take(self) -> list[tuple[str, Record]]:
        """Return what happened since the last call, as seen through the selection."""
        events, self._pending = self._pending, []
        if self.selection.everything:
            return [(event.type, event.record) for event in events]
        return [seen for event in events if (seen := _seen(event, self.selection))]


def _seen(event: Event, selection: Selection) -> tuple[str, Record] | None:
    """Return how `event` looks to someone who knows only the selected objects."""
    now = event.type != DELETED and selection.matches(event.record)
    before = event.previous is not None and selection.matches(event.previous)
    if now:
        return (MODIFIED if before else ADDED), event.record
    if event.previous is not None and before:
        gone = event.record if event.type == DELETED else _at_version(event.previous, event.version)
        return DELETED, gone
    return None


def _at_version(record: Record, version: int) -> Record:
    parsed = record.parsed()
    parsed["metadata"]["resourceVersion"] = str(version)
    return record._replace(version=version, data=_encoded(parsed))


def _encoded(obj: Object) -> bytes:
    """Return the encoding in as many bytes as it has: orjson's own result keeps its larger buffer."""
    return bytes(memoryview(orjson.dumps(obj)))


class _Collection:
    """All objects of one resource."""

    def __init__(self, resource: Resource) -> None:
        self.paths = [(path, path.split(".")) for path in resource.fields]
        self.records: dict[Key, Record] = {}
        self.history: list[Event] = []
        self.forgotten = 0  # the newest version that is no longer in the history
        self.watches: list[Watch] = []
        self.observers: list[Observer] = []

    def encode(self, obj: Object, version: int, created: int) -> Record:
        metadata = obj["metadata"]
        metadata["resourceVersion"] = str(version)
        return Record(
            metadata.get("namespace", ""),
            metadata["name"],
            metadata.get("uid", ""),
            metadata.get("labels") or _NO_FIELDS,
            {path: _text_at(obj, parts) for path, parts in self.paths} if self.paths else _NO_FIELDS,
            tuple(owner["uid"] for owner in metadata.get("ownerReferences", ())),
            version,
            created,
            _encoded(obj),
        )

    def publish(self, event: Event, history: int) -> None:
        self.history.append(event)
        if len(self.history) > 2 * history:
            self.forgotten = self.history[-history - 1].version
            del self.history[:-history]
        for watch in self.watches:
            watch.push(event)
        for observer in self.observers:
            observer(event)

    def since(self, version: int) -> list[Event]:
        """Return the events after `version`; raises ApiError (410) when they are forgotten."""
        if version < self.forgotten:
            raise failures.expired(f"too old resource version: {version} ({self.forgotten})")
        return self.history[bisect_right(self.history, version, key=_version) :]

    def at(self, version: int) -> list[Record]:
        """Return the objects in order of creation as they stood at `version`."""
        later = self.since(version)
        if not later:
            return list(self.records.values())
        records = [record for record in self.records.values() if record.version <= version]
        records += [e.previous for e in later if e.previous is not None and e.previous.version <= version]
        return sorted(records, key=lambda record: record.created)


def _version(event: Event) -> int:
    return event.record.version


def _text_at(obj: Object, parts: Iterable[str]) -> str:
    value: Any = obj
    for part in parts:
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value)


class Store:
    """Every object of a cluster. Callers hand objects over: what they pass in, they no longer change."""

    def __init__(self, *, history: int = HISTORY) -> None:
        self.version = 0
        self._history = history
        self._collections = {resource: _Collection(resource) for resource in RESOURCES}

    def observe(self, resource: Resource, observer: Observer) -> None:
        """Call `observer` inside every later write to `resource`; it must not write itself."""
        self._collections[resource].observers.append(observer)

    def create(self, resource: Resource, obj: Object) -> Record:
        """Add an object. Raises ApiError (409) when one of its name exists."""
        collection = self._collections[resource]
        metadata = obj["metadata"]
        if (metadata.get("namespace", ""), metadata["name"]) in collection.records:
            raise failures.already_exists(resource, metadata["name"])
        self.version += 1
        record = collection.encode(obj, self.version, self.version)
        collection.records[record.key] = record
        collection.publish(Event(ADDED, record, None), self._history)
        return record

    def update(self, resource: Resource, obj: Object, *, expected: int | None = None) -> Record:
        """Replace an object. Raises ApiError: 404, or 409 when its version is not the `expected` one."""
        collection = self._collections[resource]
        metadata = obj["metadata"]
        previous = self.get(resource, metadata.get("namespace", ""), metadata["name"])
        if expected is not None and expected != previous.version:
            raise failures.conflict(resource, previous.name)
        self.version += 1
        record = collection.encode(obj, self.version, previous.created)
        collection.records[record.key] = record
        collection.publish(Event(MODIFIED, record, previous), self._history)
        return record

    def delete(self, resource: Resource, namespace: str, name: str) -> Record:
        """Remove an object and return its last state. Raises ApiError (404)."""
        collection = self._collections[resource]
        previous = self.get(resource, namespace, name)
        self.version += 1
        record = _at_version(previous, self.version)
        del collection.records[record.key]
        collection.publish(Event(DELETED, record, previous), self._history)
        return record

    def get(self, resource: Resource, namespace: str, name: str) -> Record:
        """Return an object's present state. Raises ApiError (404)."""
        record = self._collections[resource].records.get((namespace, name))
        if record is None:
            raise failures.not_found(resource, name)
        return record

    def find(self, resource: Resource, namespace: str, name: str) -> Record | None:
        """Return an object's present state, or None."""
        return self._collections[resource].records.get((namespace, name))

    def list(
        self,
        resource: Resource,
        selection: Selection = EVERYTHING,
        *,
        version: int | None = None,
        position: int = 0,
        limit: int = 0,
    ) -> Page:
        """Return the selected objects in order of creation, as they stand or stood at `version`.

        At most `limit` (0: all) of those created at or after `position`. Raises ApiError (410) when the
        store no longer knows how things stood.
        """
        collection = self._collections[resource]
        if version is None:
            version = self.version
        if version > self.version:
            raise failures.expired(f"too large resource version: {version}, current: {self.version}")
        records = collection.at(version)
        if position or not selection.everything:
            matches = selection.matches
            records = [r for r in records if r.created >= position and matches(r)]
        if limit and len(records) > limit:
            return Page(records[:limit], version, records[limit].created, len(records) - limit)
        return Page(records, version)

    def watch(
        self,
        resource: Resource,
        selection: Selection = EVERYTHING,
        *,
        since: int | None = None,
        notify: Callable[[], None],
        backlog: int = BACKLOG,
    ) -> Watch:
        """Follow the events after version `since`, or (None) the present objects and what comes.

        Raises ApiError (410) for a version whose events are forgotten, or that was never given out.
        """
        collection = self._collections[resource]
        if since is None:
            pending = [Event(ADDED, record, None) for record in collection.records.values()]
        elif since > self.version:
            raise failures.expired(f"too large resource version: {since}, current: {self.version}")
        else:
            pending = collection.since(since)
        watch = Watch(selection, notify, pending, backlog)
        collection.watches.append(watch)
        return watch

    def unwatch(self, resource: Resource, watch: Watch) -> None:
        """Forget a watch."""
        self._collections[resource].watches.remove(watch)
