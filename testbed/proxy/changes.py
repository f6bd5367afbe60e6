"""From watch events to the next sync's delta: collects, coalesces, and applies to a ServiceMap.

Owns what has been told but not yet synced, for one IP family. Reflector threads add, the syncing thread
takes. Must not know HTTP or the kernel.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from testbed.proxy.model import Family, ServicePort, ServicePortName
from testbed.proxy.parse import Object, metadata, service_ports, slice_content, trigger_time
from testbed.proxy.servicemap import ServiceKey, ServiceMap, SliceEndpoints

log = logging.getLogger(__name__)

_SliceKey = tuple[str, str]
"""Namespace and name of an EndpointSlice."""


@dataclass(slots=True)
class Delta:
    """What happened between two syncs.

    `changed` names the ports that differ, deleted ones included; `before` has the previous state of the
    ports of Services that were told of. `triggered_at` are the wall-clock times (seconds) at which the
    changes were caused. Counts are of watch events.
    """

    changed: set[ServicePortName] = field(default_factory=set)
    before: dict[ServicePortName, ServicePort] = field(default_factory=dict)
    triggered_at: list[float] = field(default_factory=list)
    service_events: int = 0
    slice_events: int = 0


class ChangeTracker:
    """Collects events of both kinds for one family, the latest state of each object winning.

    `malformed` counts mistakes found in objects. Methods may be called from any thread; `take` from one only.
    """

    def __init__(self, family: Family, hostname: str, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._family = family
        self._hostname = hostname
        self._started_at = wall_clock()
        self._lock = threading.Lock()
        self._services: dict[ServiceKey, list[ServicePort]] = {}
        self._slices: dict[_SliceKey, tuple[ServiceKey, SliceEndpoints | None]] = {}
        self._moved: list[tuple[ServiceKey, str]] = []
        self._known_services: set[ServiceKey] = set()
        self._known_slices: dict[_SliceKey, ServiceKey] = {}
        self._triggered_at: list[float] = []
        self._service_events = 0
        self._slice_events = 0
        self.malformed = 0

    @property
    def pending(self) -> tuple[int, int]:
        """How many Services and EndpointSlices have changed since the last `take`."""
        return len(self._services), len(self._slices)

    def update_service(self, item: Object) -> None:
        """A Service exists with this content."""
        try:
            key = metadata(item)
        except ValueError as error:
            self._report("a Service", str(error))
            return
        ports = service_ports(item, self._family, lambda problem: self._report(f"Service {key}", problem))
        with self._lock:
            self._service_events += 1
            self._known_services.add(key)
            self._services[key] = ports

    def remove_service(self, key: ServiceKey) -> None:
        """A Service is gone."""
        with self._lock:
            self._service_events += 1
            self._known_services.discard(key)
            self._services[key] = []

    def keep_services(self, names: set[ServiceKey]) -> None:
        """Exactly these Services exist: the others are gone."""
        for key in self._known_services - names:
            self.remove_service(key)

    def update_slice(self, item: Object) -> None:
        """An EndpointSlice exists with this content."""
        try:
            place = metadata(item)
        except ValueError as error:
            self._report("an EndpointSlice", str(error))
            return
        content = slice_content(
            item,
            self._family,
            self._hostname,
            lambda problem: self._report(f"EndpointSlice {place}", problem),
        )
        if content is None:
            self.remove_slice(place)
            return
        triggered = _seconds(trigger_time(item))
        with self._lock:
            self._slice_events += 1
            before = self._known_slices.get(place, content.service)
            if before != content.service:
                self._moved.append((before, place[1]))
            self._known_slices[place] = content.service
            self._slices[place] = (content.service, content.endpoints)
            if triggered >= self._started_at:  # older changes were not ours to programme
                self._triggered_at.append(triggered)

    def remove_slice(self, place: _SliceKey) -> None:
        """An EndpointSlice is gone."""
        with self._lock:
            service = self._known_slices.pop(place, None)
            if service is not None:
                self._slice_events += 1
                self._slices[place] = (service, None)

    def keep_slices(self, names: set[_SliceKey]) -> None:
        """Exactly these EndpointSlices exist: the others are gone."""
        for place in self._known_slices.keys() - names:
            self.remove_slice(place)

    def take(self, services: ServiceMap) -> Delta:
        """Apply everything collected to `services`, in the order in which objects first changed."""
        with self._lock:
            new_services, self._services = self._services, {}
            new_slices, self._slices = self._slices, {}
            moved, self._moved = self._moved, []
            delta = Delta(
                triggered_at=self._triggered_at,
                service_events=self._service_events,
                slice_events=self._slice_events,
            )
            self._triggered_at = []
            self._service_events = self._slice_events = 0
        for key, ports in new_services.items():
            delta.before.update((port.name, port) for port in services.ports_of(key))
            delta.changed |= services.set_service(key, ports)
        for key, slice_name in moved:
            delta.changed |= services.set_slice(key, slice_name, None)
        for (_, slice_name), (key, endpoints) in new_slices.items():
            delta.changed |= services.set_slice(key, slice_name, endpoints)
        return delta

    def _report(self, what: str, problem: str) -> None:
        self.malformed += 1
        log.warning("%s: %s; skipped", what, problem)


def _seconds(timestamp: str) -> float:
    """An RFC 3339 time as seconds since the epoch; 0 if there is none."""
    if not timestamp:
        return 0.0
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return 0.0
