"""Graceful termination, against a table that is a dictionary."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from testbed.proxy.ipvs.diff import Changes
from testbed.proxy.ipvs.drain import Drain
from testbed.proxy.ipvs.model import Balancing, Live, NodeState, RealServer, Status, VirtualServer

TCP = VirtualServer("TCP", "10.96.0.1", 80)
UDP = VirtualServer("UDP", "10.96.0.1", 53)
ONE, TWO = RealServer("10.244.0.1", 80), RealServer("10.244.0.2", 80)
Reals = Iterable[tuple[VirtualServer, Iterable[RealServer]]]


class DictionaryTable:
    """Does what the kernel's table does; tests set the connections."""

    def __init__(self) -> None:
        self.statuses: dict[VirtualServer, dict[RealServer, Status]] = {
            server: {ONE: Status(1, 0, 0), TWO: Status(1, 0, 0)} for server in (TCP, UDP)
        }

    def carry(self, server: VirtualServer, real: RealServer, active: int, inactive: int) -> None:
        weight = self.statuses[server][real].weight
        self.statuses[server][real] = Status(weight, active, inactive)

    def connections(
        self, servers: Collection[VirtualServer]
    ) -> dict[VirtualServer, dict[RealServer, Status]]:
        return {server: dict(self.statuses.get(server, {})) for server in servers}

    def set_weights(self, reals: Reals, weight: int) -> int:
        changed = [(server, real) for server, listed in reals for real in listed]
        for server, real in changed:
            self.statuses[server][real] = self.statuses[server][real]._replace(weight=weight)
        return len(changed)

    def delete_reals(self, reals: Reals) -> int:
        deleted = [(server, real) for server, listed in reals for real in listed]
        for server, real in deleted:
            del self.statuses[server][real]
        return len(deleted)

    def delete_servers(self, servers: Iterable[VirtualServer]) -> int:
        deleted = list(servers)
        for server in deleted:
            del self.statuses[server]
        return len(deleted)


class Scene:
    """A table, what is remembered of it, and the drain between them."""

    def __init__(self) -> None:
        self.table = DictionaryTable()
        self.drain = Drain(self.table)
        self.state = NodeState({server: Live(Balancing("rr"), {ONE: 1, TWO: 1}) for server in (TCP, UDP)})
        self.wanted = {TCP, UDP}

    def retire(self, server: VirtualServer, *reals: RealServer) -> None:
        self._do(Changes(retired=[(server, list(reals))]), [server])

    def drop(self, server: VirtualServer) -> None:
        self.wanted.discard(server)
        self._do(Changes(gone_servers=[server]), [server])

    def look(self) -> None:
        self.drain.finish(list(self.drain.pending), self.wanted, self.state)

    def weights(self, server: VirtualServer) -> dict[RealServer, int] | None:
        """The weights in the table, which what is remembered must equal."""
        held = self.table.statuses.get(server)
        live = self.state.servers.get(server)
        weights = None if held is None else {real: status.weight for real, status in held.items()}
        assert weights == (None if live is None else live.weights)
        return weights

    def _do(self, changes: Changes, servers: list[VirtualServer]) -> None:
        self.drain.begin(changes, self.state)
        self.drain.finish(servers, self.wanted, self.state)


def test_an_idle_endpoint_goes_at_once() -> None:
    scene = Scene()
    scene.retire(TCP, ONE)
    assert scene.weights(TCP) == {TWO: 1}
    assert not scene.drain.pending


def test_a_busy_endpoint_gets_no_new_connections_and_goes_with_the_last_one() -> None:
    scene = Scene()
    scene.table.carry(TCP, ONE, active=1, inactive=0)
    scene.retire(TCP, ONE)
    assert scene.weights(TCP) == {ONE: 0, TWO: 1}
    scene.table.carry(TCP, ONE, active=0, inactive=1)
    scene.look()
    assert scene.weights(TCP) == {ONE: 0, TWO: 1}
    scene.table.carry(TCP, ONE, active=0, inactive=0)
    scene.look()
    assert scene.weights(TCP) == {TWO: 1}
    assert not scene.drain.pending


def test_udp_is_not_waited_for() -> None:
    scene = Scene()
    scene.table.carry(UDP, ONE, active=0, inactive=9)
    scene.retire(UDP, ONE)
    assert scene.weights(UDP) == {TWO: 1}
    scene.drop(UDP)
    assert scene.weights(UDP) is None


def test_a_service_without_established_connections_goes_at_once() -> None:
    scene = Scene()
    scene.table.carry(TCP, ONE, active=0, inactive=9)
    scene.drop(TCP)
    assert scene.weights(TCP) is None
    assert not scene.drain.pending


def test_a_service_with_established_connections_stays_closed_to_new_ones_until_they_end() -> None:
    scene = Scene()
    scene.table.carry(TCP, TWO, active=1, inactive=0)
    scene.drop(TCP)
    assert scene.weights(TCP) == {ONE: 0, TWO: 0}
    assert list(scene.drain.pending) == [TCP]
    scene.table.carry(TCP, TWO, active=0, inactive=1)
    scene.look()
    assert scene.weights(TCP) is None
    assert not scene.drain.pending


def test_what_is_wanted_again_is_not_waited_for_any_more() -> None:
    scene = Scene()
    scene.table.carry(TCP, ONE, active=1, inactive=0)
    scene.drop(TCP)
    scene.wanted.add(TCP)
    scene.table.set_weights([(TCP, [ONE, TWO])], 1)
    scene.state.servers[TCP].weights = {ONE: 1, TWO: 1}
    scene.look()
    assert scene.weights(TCP) == {ONE: 1, TWO: 1}
    assert not scene.drain.pending


def test_a_virtual_server_that_somebody_else_deleted_is_forgotten() -> None:
    scene = Scene()
    scene.table.carry(TCP, ONE, active=1, inactive=0)
    scene.retire(TCP, ONE)
    del scene.table.statuses[TCP], scene.state.servers[TCP]
    scene.look()
    assert not scene.drain.pending
