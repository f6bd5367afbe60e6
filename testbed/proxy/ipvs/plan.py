"""What one Service port, and all of them together, should look like in IPVS, in ipsets and on `kube-ipvs0`.

Owns the translation from Services to virtual servers, addresses and set members: pure, nothing is read or
run. Must not know netlink, tools, or what the kernel holds.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from testbed.proxy.ipvs import sets
from testbed.proxy.ipvs.model import PERSISTENT, Balancing, RealServer, VirtualServer, parse_scheduler
from testbed.proxy.model import Endpoint, EndpointChoice, Family, ServicePort, ServicePortName

log = logging.getLogger(__name__)

_T = TypeVar("_T")

Member = tuple[str, str]
"""Name of an ipset, and one of its members."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the plan of a Service depends on besides the Service.

    `node_port_addresses` are the node's addresses on which NodePorts listen; `own_addresses` all it has;
    `primary` is the one that it is known by, or none.
    """

    family: Family
    scheduler: str
    scheduler_flags: int
    node_port_addresses: tuple[str, ...] = ()
    own_addresses: tuple[str, ...] = ()
    primary: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, family: Family, scheduler: str, node_port_addresses: Sequence[str], own: Sequence[str]
    ) -> NodeFacts:
        """Facts from the text of `--ipvs-scheduler` (`rr`, `sh:sh-port`)."""
        name, flags = parse_scheduler(scheduler)
        return cls(family, name, flags, tuple(node_port_addresses), tuple(own), tuple(own[:1]))


class WantedServer(NamedTuple):
    """A virtual server with the real servers that new connections may reach."""

    server: VirtualServer
    balancing: Balancing
    reals: tuple[RealServer, ...]


class ServicePlan(NamedTuple):
    """All that one Service port wants on this node."""

    servers: tuple[WantedServer, ...]
    addresses: tuple[str, ...]
    members: tuple[Member, ...]


def plan_service(
    port: ServicePort, endpoints: Sequence[Endpoint], choice: EndpointChoice, node: NodeFacts
) -> ServicePlan:
    """Translate one Service port.

    A `Local` policy without local endpoints falls back to all of them for outside traffic: pods of this node
    may use them, while a client from outside gets no answer, since its address is kept and the reply comes
    from elsewhere. No endpoints at all leave a virtual server without real servers, which refuses.
    """
    balancing = _balancing(port, node)
    internal = _reals(choice.internal(port))
    outside = _reals(choice.external(port) or choice.cluster) if port.externally_accessible else ()
    others = dict.fromkeys((*port.external_ips, *port.load_balancer_ips))
    others.pop(port.cluster_ip, None)  # an address that is named twice is one virtual server
    virtual = [(port.cluster_ip, internal), *((address, outside) for address in others)]
    protocol = port.name.protocol
    servers = [
        WantedServer(VirtualServer(protocol, address, port.port), balancing, reals)
        for address, reals in virtual
    ]
    if port.node_port:
        servers += [
            WantedServer(VirtualServer(protocol, address, port.node_port), balancing, outside)
            for address in node.node_port_addresses
        ]
    addresses = tuple(dict.fromkeys(address for address, _ in virtual if address not in node.own_addresses))
    members = tuple(
        (sets.set_name(kind, node.family), member)
        for kind, member in _members(port, endpoints, addresses, node)
    )
    return ServicePlan(tuple(servers), addresses, members)


def _balancing(port: ServicePort, node: NodeFacts) -> Balancing:
    if port.affinity_timeout_s is None:
        return Balancing(node.scheduler, node.scheduler_flags)
    return Balancing(node.scheduler, node.scheduler_flags | PERSISTENT, port.affinity_timeout_s)


def _reals(endpoints: Sequence[Endpoint]) -> tuple[RealServer, ...]:
    return tuple([RealServer(endpoint.address, endpoint.port) for endpoint in endpoints])


def _members(
    port: ServicePort, endpoints: Sequence[Endpoint], addresses: Sequence[str], node: NodeFacts
) -> Iterator[tuple[sets.SetKind, str]]:
    """Members of the sets, in the order of `sets.KINDS`."""
    protocol = port.protocol
    for endpoint in endpoints:
        if endpoint.local:
            address = endpoint.address
            yield sets.LOOP_BACK, f"{address},{protocol}:{endpoint.port},{address}"
    yield sets.CLUSTER_IP, f"{port.cluster_ip},{protocol}:{port.port}"
    external = sets.EXTERNAL_IP_LOCAL if port.external_local else sets.EXTERNAL_IP
    for address in port.external_ips:
        yield external, f"{address},{protocol}:{port.port}"
    for address in port.load_balancer_ips:
        yield from _load_balancer_members(port, address, node)
    if port.node_port:
        yield from _node_port_members(port, node)
    if port.health_check_node_port:
        yield sets.HEALTH_CHECK_NODE_PORT, str(port.health_check_node_port)
    for address in addresses:
        yield sets.IPVS_IPS, address


def _load_balancer_members(
    port: ServicePort, address: str, node: NodeFacts
) -> Iterator[tuple[sets.SetKind, str]]:
    portal = f"{address},{port.protocol}:{port.port}"
    yield sets.LOAD_BALANCER, portal
    if port.external_local:
        yield sets.LOAD_BALANCER_LOCAL, portal
    if not port.source_ranges:
        return
    yield sets.LOAD_BALANCER_FW, portal
    for cidr in port.source_ranges:
        for net in sets.source_nets(cidr):
            yield sets.LOAD_BALANCER_SOURCE_CIDR, f"{portal},{net}"
    if _any_within(node.primary, port.source_ranges):
        # A node that talks to an address of its own carries that address as its source.
        yield sets.LOAD_BALANCER_SOURCE_IP, f"{portal},{address}"


def _node_port_members(port: ServicePort, node: NodeFacts) -> Iterator[tuple[sets.SetKind, str]]:
    every, local = sets.NODE_PORT_SETS[port.name.protocol]
    if every.type == sets.PORT:
        members = [str(port.node_port)]
    else:
        members = [f"{address},{port.protocol}:{port.node_port}" for address in node.node_port_addresses]
    for member in members:
        yield every, member
        if port.external_local:
            yield local, member


def _any_within(addresses: Sequence[str], cidrs: Sequence[str]) -> bool:
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
    return any(ipaddress.ip_address(address) in network for address in addresses for network in networks)


@dataclass(slots=True)
class Touched:
    """What a change of plans may have altered: the only things that a sync has to compare.

    The keys of dictionaries, so that the kernel is given everything in the order of the Services.
    """

    servers: dict[VirtualServer, None] = field(default_factory=dict)
    addresses: dict[str, None] = field(default_factory=dict)
    members: dict[Member, None] = field(default_factory=dict)


class Wanted:
    """The sum of all plans; replacing one costs the same however many others there are.

    Addresses and members may be wanted by several ports and are counted; a virtual server belongs to the
    first port that claims it.
    """

    def __init__(self) -> None:
        self.servers: dict[VirtualServer, WantedServer] = {}
        self.addresses: Counter[str] = Counter()
        self.members: Counter[Member] = Counter()
        self._plans: dict[ServicePortName, ServicePlan] = {}
        self._claims: dict[VirtualServer, list[tuple[ServicePortName, WantedServer]]] = {}

    def __contains__(self, name: ServicePortName) -> bool:
        return name in self._plans

    def names(self) -> Iterator[ServicePortName]:
        """The ports that have a plan."""
        return iter(self._plans)

    def replace(self, name: ServicePortName, plan: ServicePlan | None, touched: Touched) -> None:
        """Put `plan` in the place of what `name` wanted; None wants nothing any more."""
        previous = self._plans.pop(name, None)
        if previous is not None:
            self._withdraw(name, previous, touched)
        if plan is not None:
            self._plans[name] = plan
            self._claim(name, plan, touched)

    def _claim(self, name: ServicePortName, plan: ServicePlan, touched: Touched) -> None:
        for wanted in plan.servers:
            claims = self._claims.setdefault(wanted.server, [])
            claims.append((name, wanted))
            if claims[0][0] == name:
                self.servers[wanted.server] = wanted
            else:
                log.warning(
                    "service %s: %s already belongs to %s; skipped", name, wanted.server, claims[0][0]
                )
            touched.servers[wanted.server] = None
        self.addresses.update(plan.addresses)
        touched.addresses.update(dict.fromkeys(plan.addresses))
        self.members.update(plan.members)
        touched.members.update(dict.fromkeys(plan.members))

    def _withdraw(self, name: ServicePortName, plan: ServicePlan, touched: Touched) -> None:
        for wanted in plan.servers:
            server = wanted.server
            claims = [claim for claim in self._claims.pop(server) if claim[0] != name]
            if claims:
                self._claims[server] = claims
                self.servers[server] = claims[0][1]
            else:
                del self.servers[server]
            touched.servers[server] = None
        _uncount(self.addresses, plan.addresses)
        touched.addresses.update(dict.fromkeys(plan.addresses))
        _uncount(self.members, plan.members)
        touched.members.update(dict.fromkeys(plan.members))


def _uncount(counter: Counter[_T], items: Sequence[_T]) -> None:
    for item in items:
        counter[item] -= 1
        if not counter[item]:
            del counter[item]
