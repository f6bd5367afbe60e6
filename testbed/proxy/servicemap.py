"""The wanted state of one IP family: Service ports in the order of their creation, with their endpoints.

Owns merging (slices of one Service, ports of one Service) and the rule that a VIP belongs to the first
Service that claims it. Must not know JSON or the kernel. Used by one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from testbed.proxy.model import Endpoint, EndpointChoice, ServicePort, ServicePortName, choose_endpoints

log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]
"""Namespace and name of a Service."""

SliceEndpoints = Mapping[ServicePortName, tuple[Endpoint, ...]]
"""What one EndpointSlice contributes: per port its endpoints, sorted and without duplicates."""


class ServiceMap(Mapping[ServicePortName, ServicePort]):
    """Service ports by name, iterated in the order in which they were announced.

    `zone` is the node's zone, empty when unknown. `conflicts` counts claims to a VIP that another has. The
    setters return the names whose Service port or endpoints changed (never names without a Service), so that
    their union is what the next sync must look at.
    """

    def __init__(self, zone: str = "") -> None:
        self.zone = zone
        self.conflicts = 0
        self._ports: dict[ServicePortName, ServicePort] = {}
        self._names: dict[ServiceKey, tuple[ServicePortName, ...]] = {}
        self._owners: dict[tuple[str, int, str], ServicePortName] = {}
        self._shadowed: dict[ServicePortName, ServicePort] = {}
        self._slices: dict[ServiceKey, dict[str, SliceEndpoints]] = {}
        self._endpoints: dict[ServicePortName, tuple[Endpoint, ...]] = {}
        self._endpoint_count = 0

    def __getitem__(self, name: ServicePortName) -> ServicePort:
        return self._ports[name]

    def __iter__(self) -> Iterator[ServicePortName]:
        return iter(self._ports)

    def __len__(self) -> int:
        return len(self._ports)

    def __contains__(self, name: object) -> bool:
        return name in self._ports

    def ports_of(self, key: ServiceKey) -> list[ServicePort]:
        """The ports of one Service."""
        return [self._ports[name] for name in self._names.get(key, ()) if name in self._ports]

    def endpoints(self, name: ServicePortName) -> tuple[Endpoint, ...]:
        """Every known endpoint of a port, ready or not, without duplicates, sorted by address and port."""
        return self._endpoints.get(name, ())

    @property
    def endpoint_count(self) -> int:
        """How many endpoints there are, over all ports, those without a Service included."""
        return self._endpoint_count

    def choice(self, name: ServicePortName) -> EndpointChoice:
        """Which of them traffic may reach on this node. Raises KeyError for a name without a Service."""
        return choose_endpoints(self._ports[name], self._endpoints.get(name, ()), self.zone)

    def set_service(self, key: ServiceKey, ports: Sequence[ServicePort]) -> set[ServicePortName]:
        """Replace all ports of one Service; an empty sequence removes it."""
        changed: set[ServicePortName] = set()
        wanted = {port.name: port for port in ports}
        for name in self._names.get(key, ()):
            if name not in wanted:
                self._shadowed.pop(name, None)
                if self._drop(name):
                    changed.add(name)
        for port in wanted.values():
            if self._put(port):
                changed.add(port.name)
        if wanted:
            self._names[key] = tuple(wanted)
        else:
            self._names.pop(key, None)
        return changed | self._readmit()

    def set_slice(
        self, key: ServiceKey, slice_name: str, ports: SliceEndpoints | None
    ) -> set[ServicePortName]:
        """Replace what one EndpointSlice contributes to its Service; None removes the slice."""
        slices = self._slices.setdefault(key, {})
        before = slices.pop(slice_name, {})
        if ports is not None:
            slices[slice_name] = ports
        affected = {*before, *(ports or {})}
        if not slices:
            del self._slices[key]
        return {name for name in affected if self._merge(name, slices) and name in self._ports}

    def _put(self, port: ServicePort) -> bool:
        """Admit a port unless its VIP belongs to another; say whether the visible map changed."""
        name = port.name
        vip = (port.cluster_ip, port.port, name.protocol)
        owner = self._owners.get(vip, name)
        if owner != name:
            if self._shadowed.get(name) != port:
                log.warning("service %s: %s:%d/%s already belongs to %s; skipped", name, *vip, owner)
                self.conflicts += 1
            self._shadowed[name] = port
            return self._drop(name)
        self._shadowed.pop(name, None)
        previous = self._ports.get(name)
        if previous == port:
            return False
        if previous is not None:
            self._release(previous)
        self._owners[vip] = name
        self._ports[name] = port
        return True

    def _drop(self, name: ServicePortName) -> bool:
        port = self._ports.pop(name, None)
        if port is None:
            return False
        self._release(port)
        return True

    def _release(self, port: ServicePort) -> None:
        self._owners.pop((port.cluster_ip, port.port, port.name.protocol), None)

    def _readmit(self) -> set[ServicePortName]:
        """Let ports in whose VIP has become free."""
        return {port.name for port in list(self._shadowed.values()) if self._put(port)}

    def _merge(self, name: ServicePortName, slices: Mapping[str, SliceEndpoints]) -> bool:
        """Recompute the endpoints of one port; say whether they changed."""
        parts = [part for ports in slices.values() if (part := ports.get(name))]
        merged = parts[0] if len(parts) == 1 else _union(parts)
        before = self._endpoints.get(name, ())
        if merged == before:
            return False
        self._endpoint_count += len(merged) - len(before)
        if merged:
            self._endpoints[name] = merged
        else:
            del self._endpoints[name]
        return True


def _union(parts: Sequence[tuple[Endpoint, ...]]) -> tuple[Endpoint, ...]:
    """Merge endpoints of several slices.

    While a pod moves between slices it may stand in two: the better statement of an address and port (local,
    ready, serving) wins.
    """
    best: dict[tuple[str, int], Endpoint] = {}
    for endpoint in (endpoint for part in parts for endpoint in part):
        place = (endpoint.address, endpoint.port)
        if place not in best or endpoint[2:] > best[place][2:]:
            best[place] = endpoint
    return tuple(sorted(best.values()))
