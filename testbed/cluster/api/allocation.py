"""What Services are given: cluster addresses, node ports and load-balancer addresses.

Owns the pools and who holds what of them. Must not know the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from contextlib import ExitStack
from ipaddress import ip_network
from typing import Any, NamedTuple

from testbed.cluster.api.checks import Mistakes, family_of, is_address
from testbed.cluster.api.pools import AddressPool, NumberPool, OutOfRange, PoolExhausted, Taken
from testbed.cluster.api.services import (
    Spec,
    cluster_addresses,
    has_node_ports,
    is_headless,
    needs_health_port,
)
from testbed.cluster.resources import SERVICES


class _Holdings(NamedTuple):
    """What one Service holds of the pools."""

    addresses: Set[str] = frozenset()
    ports: Set[int] = frozenset()
    balancer: Set[str] = frozenset()


_NOTHING = _Holdings()


def _holdings(obj: Mapping[str, Any]) -> _Holdings:
    spec = obj["spec"]
    ports = {port["nodePort"] for port in spec.get("ports", ()) if port.get("nodePort")}
    if spec.get("healthCheckNodePort"):
        ports.add(spec["healthCheckNodePort"])
    ingress = obj.get("status", {}).get("loadBalancer", {}).get("ingress", ())
    balancer = {item["ip"] for item in ingress if is_address(item.get("ip", ""))}
    return _Holdings(frozenset(cluster_addresses(spec)), frozenset(ports), frozenset(balancer))


class ServiceAllocator:
    """Gives Services their addresses and ports; explicit ones are honoured, duplicates refused.

    `service_cidr` and `lb_cidr` hold one network, or one per family separated by a comma; the first
    family of `service_cidr` is what Services get unless they ask for another.
    """

    def __init__(self, service_cidr: str, node_ports: tuple[int, int], lb_cidr: str) -> None:
        self._cluster = {pool.family: pool for pool in map(_pool, service_cidr.split(","))}
        self._balancer = {pool.family: pool for pool in map(_pool, lb_cidr.split(","))}
        self._ports = NumberPool(*node_ports)

    def hold(self, objects: Iterable[Any]) -> None:
        """Keep what these objects name explicitly from being given to others first; () ends that."""
        services = [obj for obj in objects if isinstance(obj, dict) and obj.get("kind") == "Service"]
        specs = [spec for obj in services if isinstance(spec := obj.get("spec"), dict)]
        named = {spec.get("clusterIP") for spec in specs} - {None, "", "None"}
        addresses = {address for address in named if isinstance(address, str) and is_address(address)}
        for family, pool in self._cluster.items():
            pool.hold(address for address in addresses if family_of(address) == family)
        listed = [ports for spec in specs if isinstance(ports := spec.get("ports"), list)]
        self._ports.held = {
            port["nodePort"]
            for ports in listed
            for port in ports
            if isinstance(port, dict) and isinstance(port.get("nodePort"), int)
        }

    def allocate(self, new: dict[str, Any], old: Mapping[str, Any] | None) -> None:
        """Complete `new`, which has passed its checks; what `old` had is kept or released.

        Raises ApiError (422) when something is taken or used up; then nothing has changed hands.
        """
        spec: Spec = new["spec"]
        mistakes = Mistakes()
        before = _holdings(old) if old else _NOTHING
        with ExitStack() as undo:
            self._allocate_addresses(spec, before, mistakes, undo)
            self._allocate_ports(spec, before, mistakes, undo)
            self._allocate_balancer(new, before, mistakes, undo)
            mistakes.raise_if_any(SERVICES, new["metadata"]["name"])
            undo.pop_all()
        self._release(before, keep=_holdings(new))

    def release(self, obj: Mapping[str, Any]) -> None:
        """Take back everything that a deleted Service held."""
        self._release(_holdings(obj), keep=_NOTHING)

    def _release(self, held: _Holdings, keep: _Holdings) -> None:
        for address in held.addresses - keep.addresses:
            self._cluster[family_of(address)].release(address)
        for port in held.ports - keep.ports:
            self._ports.release(port)
        for address in held.balancer - keep.balancer:
            if pool := self._balancer.get(family_of(address)):
                pool.release(address)

    def _allocate_addresses(self, spec: Spec, before: _Holdings, mistakes: Mistakes, undo: ExitStack) -> None:
        if spec["type"] == "ExternalName":
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(field, None)
            return
        families = self._families(spec, mistakes)
        if is_headless(spec):
            spec["clusterIPs"] = ["None"]
            return
        addresses = cluster_addresses(spec)[: len(families)]
        for address in addresses:
            if address not in before.addresses:
                self._claim_address(address, mistakes, undo)
        for family in families[len(addresses) :]:
            pool = self._cluster[family]
            try:
                address = pool.claim()
            except PoolExhausted:
                mistakes.invalid("spec.clusterIPs", addresses, f"range {pool.network} is full")
                continue
            undo.callback(pool.release, address)
            addresses.append(address)
        if addresses:
            spec["clusterIP"], spec["clusterIPs"] = addresses[0], addresses

    def _claim_address(self, address: str, mistakes: Mistakes, undo: ExitStack) -> None:
        pool = self._cluster.get(family_of(address))
        why = f"failed to allocate IP {address}: "
        try:
            if pool is None:
                raise OutOfRange
            pool.claim_exactly(address)
            undo.callback(pool.release, address)
        except OutOfRange:
            networks = ", ".join(str(pool.network) for pool in self._cluster.values())
            why += f"the provided IP is not in the valid range. The range of valid IPs is {networks}"
            mistakes.invalid("spec.clusterIPs", [address], why)
        except Taken:
            mistakes.invalid("spec.clusterIPs", [address], why + "provided IP is already allocated")

    def _families(self, spec: Spec, mistakes: Mistakes) -> list[str]:
        named = [family_of(address) for address in cluster_addresses(spec)]
        policy = spec.setdefault("ipFamilyPolicy", "SingleStack" if len(named) < 2 else "RequireDualStack")
        available = list(self._cluster)
        families = list(spec.get("ipFamilies") or named or available[:1])
        if missing := [family for family in families if family not in available]:
            mistakes.invalid("spec.ipFamilies", missing, "not configured on this cluster")
            families = available[:1]
        if policy == "RequireDualStack" and len(available) < 2:
            mistakes.invalid("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack")
        if policy == "SingleStack":
            families = families[:1]
        else:
            families += [family for family in available if family not in families]
        if named != families[: len(named)]:
            mistakes.invalid("spec.clusterIPs", named, f"must be of the families {', '.join(families)}")
        spec["ipFamilies"] = families
        return families

    def _allocate_ports(self, spec: Spec, before: _Holdings, mistakes: Mistakes, undo: ExitStack) -> None:
        mine = set(before.ports)
        for index, port in enumerate(spec.get("ports", ())):
            wanted = port.get("nodePort")
            if wanted:
                self._claim_port(f"spec.ports[{index}].nodePort", wanted, mine, mistakes, undo)
            elif has_node_ports(spec):
                port["nodePort"] = self._any_port(f"spec.ports[{index}].nodePort", mine, mistakes, undo)
        if needs_health_port(spec):
            path, wanted = "spec.healthCheckNodePort", spec.get("healthCheckNodePort")
            if wanted:
                self._claim_port(path, wanted, mine, mistakes, undo)
            else:
                spec["healthCheckNodePort"] = self._any_port(path, mine, mistakes, undo)

    def _claim_port(self, path: str, port: int, mine: set[int], mistakes: Mistakes, undo: ExitStack) -> None:
        if port in mine:  # also: the same number for TCP and UDP of one Service
            return
        try:
            self._ports.claim_exactly(port)
        except OutOfRange:
            why = f"provided port is not in the valid range. The range of valid ports is {self._range}"
            mistakes.invalid(path, port, why)
        except Taken:
            mistakes.invalid(path, port, "provided port is already allocated")
        else:
            mine.add(port)
            undo.callback(self._ports.release, port)

    def _any_port(self, path: str, mine: set[int], mistakes: Mistakes, undo: ExitStack) -> int:
        try:
            port = self._ports.claim()
        except PoolExhausted:
            mistakes.invalid(path, 0, f"range {self._range} is full")
            return 0
        mine.add(port)
        undo.callback(self._ports.release, port)
        return port

    @property
    def _range(self) -> str:
        return f"{self._ports.first}-{self._ports.last}"

    def _allocate_balancer(
        self, obj: dict[str, Any], before: _Holdings, mistakes: Mistakes, undo: ExitStack
    ) -> None:
        spec, status = obj["spec"], obj["status"]
        if spec["type"] != "LoadBalancer":
            status["loadBalancer"] = {}
            return
        if spec.get("loadBalancerClass"):
            return
        if status["loadBalancer"].get("ingress"):
            self._note_balancer(_holdings(obj).balancer - before.balancer, undo)
            return
        ingress: list[dict[str, str]] = []
        for family in spec["ipFamilies"]:
            pool = self._balancer.get(family)
            if pool is None:
                continue
            try:
                address = spec.get("loadBalancerIP") if not ingress else None
                if address:
                    self._note_balancer({address}, undo)
                else:
                    address = pool.claim()
                    undo.callback(pool.release, address)
            except PoolExhausted:
                mistakes.invalid("status.loadBalancer", [], f"range {pool.network} is full")
                continue
            ingress.append({"ip": address, "ipMode": "VIP"})
        status["loadBalancer"] = {"ingress": ingress}

    def _note_balancer(self, addresses: Iterable[str], undo: ExitStack) -> None:
        """Keep explicit addresses from being given to others; sharing one is the user's choice."""
        for address in addresses:
            if pool := self._balancer.get(family_of(address)):
                try:
                    pool.claim_exactly(address)
                    undo.callback(pool.release, address)
                except (OutOfRange, Taken):
                    continue


def _pool(cidr: str) -> AddressPool:
    return AddressPool(ip_network(cidr.strip()))
