"""Graceful termination: endpoints and Services that are gone keep the connections they have.

A real server that is not wanted any more gets weight 0 and is deleted when its last connection has ended,
lingering states included. A virtual server that is not wanted any more stays while a connection through it is
established. Only TCP is waited for. Owns which virtual servers are being waited for. Must not know Services.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from testbed.proxy.ipvs.diff import Changes
from testbed.proxy.ipvs.model import NodeState, RealServer, Status, VirtualServer

CHECK_AFTER_S = 5.0
"""How long to let pass between looks at the connections. (kube-proxy looks every minute.)"""

Reals = Iterable[tuple[VirtualServer, Iterable[RealServer]]]


class Table(Protocol):
    """What this takes of the kernel's table; see `table.IpvsTable`."""

    def connections(
        self, servers: Collection[VirtualServer]
    ) -> Mapping[VirtualServer, Mapping[RealServer, Status]]: ...
    def set_weights(self, reals: Reals, weight: int) -> int: ...
    def delete_reals(self, reals: Reals) -> int: ...
    def delete_servers(self, servers: Iterable[VirtualServer]) -> int: ...


class Drain:
    """What is being waited for; methods keep the remembered state of the node in step with the kernel."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._pending: dict[VirtualServer, None] = {}

    @property
    def pending(self) -> Collection[VirtualServer]:
        """Virtual servers that are gone, or have real servers that are gone, but still carry connections."""
        return self._pending.keys()

    def begin(self, changes: Changes, state: NodeState) -> int:
        """Stop new connections to what is gone, and delete at once what is not waited for; messages sent."""
        retired = [(server, reals) for server, reals in changes.retired if server.protocol == "TCP"]
        at_once = [(server, reals) for server, reals in changes.retired if server.protocol != "TCP"]
        fresh = [
            (server, [real for real in reals if state.servers[server].weights[real]])
            for server, reals in retired
        ]
        sent = self._table.set_weights(fresh, 0)
        for server, reals in retired:
            state.servers[server].weights.update(dict.fromkeys(reals, 0))
            self._pending[server] = None
        sent += self._delete_reals(at_once, state)
        idle = [server for server in changes.gone_servers if not self._waited_for(server, state)]
        self._pending.update(dict.fromkeys(s for s in changes.gone_servers if self._waited_for(s, state)))
        return sent + self._delete_servers(idle, state)

    def finish(
        self, servers: Iterable[VirtualServer], wanted: Collection[VirtualServer], state: NodeState
    ) -> int:
        """Look at pending virtual servers and delete what has become idle; messages sent.

        `wanted` are the virtual servers that Services want, so that the others go as a whole.
        """
        looked_at = [server for server in servers if server in self._pending]
        if not looked_at:
            return 0
        found = self._table.connections([server for server in looked_at if server in state.servers])
        over: list[VirtualServer] = []
        idle: list[tuple[VirtualServer, list[RealServer]]] = []
        kept: list[tuple[VirtualServer, list[RealServer]]] = []
        for server, statuses in found.items():
            if server in wanted:
                weights = state.servers[server].weights
                leaving = [real for real, weight in weights.items() if weight == 0]
                idle.append((server, [real for real in leaving if _idle(statuses.get(real))]))
            elif any(status.active for status in statuses.values()):
                kept.append((server, [real for real, status in statuses.items() if status.weight]))
            else:
                over.append(server)
        sent = self._table.set_weights(kept, 0)
        for server, reals in kept:
            state.servers[server].weights.update(dict.fromkeys(reals, 0))
        sent += self._delete_reals(idle, state) + self._delete_servers(over, state)
        for server in looked_at:
            self._forget_if_done(server, wanted, state)
        return sent

    def _waited_for(self, server: VirtualServer, state: NodeState) -> bool:
        return server.protocol == "TCP" and bool(state.servers[server].weights)

    def _delete_reals(self, reals: list[tuple[VirtualServer, list[RealServer]]], state: NodeState) -> int:
        sent = self._table.delete_reals(reals)
        for server, deleted in reals:
            for real in deleted:
                del state.servers[server].weights[real]
        return sent

    def _delete_servers(self, servers: list[VirtualServer], state: NodeState) -> int:
        sent = self._table.delete_servers(servers)
        for server in servers:
            del state.servers[server]
            self._pending.pop(server, None)
        return sent

    def _forget_if_done(
        self, server: VirtualServer, wanted: Collection[VirtualServer], state: NodeState
    ) -> None:
        live = state.servers.get(server)
        if live is None or (server in wanted and 0 not in live.weights.values()):
            self._pending.pop(server, None)


def _idle(status: Status | None) -> bool:
    return status is None or status.idle
