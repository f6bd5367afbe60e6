"""What is watched, and who is told: Services and EndpointSlices for every family, and the proxy's own Node.

Owns the sinks between reflectors and trackers. Must not know what a sync does.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.proxy.apiclient import (
    NODES_PATH,
    OURS_SELECTOR,
    SERVICES_PATH,
    SLICES_PATH,
    ApiServer,
    Object,
    Reflector,
)
from testbed.proxy.health import ProxyHealth
from testbed.proxy.node import node_facts
from testbed.proxy.sync import FamilySync


def watch(server: ApiServer, hostname: str, families: Sequence[FamilySync], health: ProxyHealth) -> None:
    """Start listening, in threads of their own."""
    Reflector(server, SERVICES_PATH, _ServiceSink(families), selector=OURS_SELECTOR).start()
    Reflector(server, SLICES_PATH, _SliceSink(families), selector=OURS_SELECTOR).start()
    Reflector(server, NODES_PATH, _NodeSink(families, health), name=hostname).start()


class _ServiceSink:
    """Tells every family's tracker of Services."""

    def __init__(self, families: Sequence[FamilySync]) -> None:
        self._families = families

    def update(self, item: Object) -> None:
        for family in self._families:
            family.tracker.update_service(item)

    def remove(self, name: tuple[str, str]) -> None:
        for family in self._families:
            family.tracker.remove_service(name)

    def listed(self, names: set[tuple[str, str]]) -> None:
        for family in self._families:
            family.tracker.keep_services(names)
            family.listed("services")

    def settled(self) -> None:
        for family in self._families:
            family.request()


class _SliceSink:
    """Tells every family's tracker of EndpointSlices."""

    def __init__(self, families: Sequence[FamilySync]) -> None:
        self._families = families

    def update(self, item: Object) -> None:
        for family in self._families:
            family.tracker.update_slice(item)

    def remove(self, name: tuple[str, str]) -> None:
        for family in self._families:
            family.tracker.remove_slice(name)

    def listed(self, names: set[tuple[str, str]]) -> None:
        for family in self._families:
            family.tracker.keep_slices(names)
            family.listed("slices")

    def settled(self) -> None:
        for family in self._families:
            family.request()


class _NodeSink:
    """Follows the node's zone, and whether it is going away. A Node that is not there changes nothing."""

    def __init__(self, families: Sequence[FamilySync], health: ProxyHealth) -> None:
        self._families = families
        self._health = health

    def update(self, item: Object) -> None:
        facts = node_facts(item)
        self._health.node_eligible = facts.eligible
        for family in self._families:
            family.set_zone(facts.zone)

    def remove(self, name: tuple[str, str]) -> None:
        self._health.node_eligible = False

    def listed(self, names: set[tuple[str, str]]) -> None:
        pass

    def settled(self) -> None:
        pass
