"""The difference between what all Services want and what a node holds, as lists of things to do.

Pure. Owns which parts of the node's state are the proxy's to change. Must not know how changes are applied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from testbed.proxy.ipvs import sets
from testbed.proxy.ipvs.model import Balancing, NodeState, RealServer, VirtualServer
from testbed.proxy.ipvs.plan import Touched, Wanted
from testbed.proxy.model import Family


@dataclass(slots=True)
class Changes:
    """What to do, in the order in which doing it interrupts nobody: first what is new, last what is gone.

    `retired` real servers and `gone_servers` may still carry connections; `revived` ones are there with a
    wrong weight or forwarding method.
    """

    new_servers: list[tuple[VirtualServer, Balancing]] = field(default_factory=list)
    changed_servers: list[tuple[VirtualServer, Balancing]] = field(default_factory=list)
    new_reals: list[tuple[VirtualServer, list[RealServer]]] = field(default_factory=list)
    revived: list[tuple[VirtualServer, list[RealServer]]] = field(default_factory=list)
    new_addresses: list[str] = field(default_factory=list)
    new_members: dict[str, list[str]] = field(default_factory=dict)
    retired: list[tuple[VirtualServer, list[RealServer]]] = field(default_factory=list)
    gone_servers: list[VirtualServer] = field(default_factory=list)
    gone_addresses: list[str] = field(default_factory=list)
    gone_members: dict[str, list[str]] = field(default_factory=dict)


def compare(wanted: Wanted, state: NodeState, touched: Touched) -> Changes:
    """Everything among `touched` that differs."""
    changes = Changes()
    for server in touched.servers:
        _compare_server(server, wanted, state, changes)
    for address in touched.addresses:
        if address in wanted.addresses:
            if address not in state.addresses:
                changes.new_addresses.append(address)
        elif address in state.addresses:
            changes.gone_addresses.append(address)
    for member in touched.members:
        name, value = member
        present = value in state.sets.get(name, ())
        if member in wanted.members:
            if not present:
                changes.new_members.setdefault(name, []).append(value)
        elif present:
            changes.gone_members.setdefault(name, []).append(value)
    return changes


def _compare_server(server: VirtualServer, wanted: Wanted, state: NodeState, changes: Changes) -> None:
    goal = wanted.servers.get(server)
    live = state.servers.get(server)
    if goal is None:
        if live is not None:
            changes.gone_servers.append(server)
        return
    if live is None:
        changes.new_servers.append((server, goal.balancing))
        if goal.reals:
            changes.new_reals.append((server, list(goal.reals)))
        return
    if live.balancing != goal.balancing:
        changes.changed_servers.append((server, goal.balancing))
    weights = live.weights
    if missing := [real for real in goal.reals if real not in weights]:
        changes.new_reals.append((server, missing))
    if revived := [real for real in goal.reals if weights.get(real, 1) != 1]:
        changes.revived.append((server, revived))
    if len(weights) + len(missing) > len(goal.reals):
        kept = set(goal.reals)
        changes.retired.append((server, [real for real in weights if real not in kept]))


def everything(
    wanted: Wanted, state: NodeState, own: Iterable[VirtualServer], set_names: Iterable[str]
) -> Touched:
    """All that is wanted or there, for a sync that trusts nothing; `own` are the virtual servers we made."""
    members = dict.fromkeys(wanted.members)
    for name in set_names:
        members.update(((name, value), None) for value in state.sets.get(name, ()))
    return Touched(
        servers=dict.fromkeys((*wanted.servers, *own)),
        addresses=dict.fromkeys((*wanted.addresses, *state.addresses)),
        members=members,
    )


def own_servers(
    state: NodeState, own_addresses: Iterable[str], node_ports: Iterable[tuple[str, int]]
) -> set[VirtualServer]:
    """The virtual servers that a proxy made: on an address of `kube-ipvs0`, or at a NodePort of the node.

    `node_ports` are protocol and number of the ports that the node port sets hold or are to hold.
    """
    here = frozenset(own_addresses)
    ports = frozenset(node_ports)
    return {
        server
        for server in state.servers
        if server.address in state.addresses
        or (server.address in here and (server.protocol, server.port) in ports)
    }


def node_ports_of(state: NodeState, family: Family) -> list[tuple[str, int]]:
    """Protocol and number of the NodePorts that the node's sets hold."""
    return [
        (protocol, int(member.rpartition(":")[2]))
        for protocol, (kind, _) in sets.NODE_PORT_SETS.items()
        for member in state.sets.get(sets.set_name(kind, family), ())
    ]
